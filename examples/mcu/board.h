/* board.h - what student.c asks of the machine it runs on: a place to print */
#ifndef BOARD_H
#define BOARD_H

#ifdef DESK
#include <stdio.h>
static void board_print(const char *text) { fputs(text, stdout); }
#else
void board_print(const char *text);
#endif

#endif
