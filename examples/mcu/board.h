/* board.h - what student.c and pictures.c ask of the machine they run on: a place to print, and what was used */
#ifndef BOARD_H
#define BOARD_H

#include <stdint.h>

#ifdef DESK
#include <stdio.h>
#define board_print(text) ((void)fputs(text, stdout))
#define board_paint_stack() ((void)0)
#define board_start_counting() ((void)0)
#define board_stack_used() 0
#define board_instructions() 0u
#else
void board_print(const char *text);
void board_paint_stack(void);      /* what is below the caller, for board_stack_used */
uint32_t board_stack_used(void);   /* bytes, at most, since the start */
void board_start_counting(void);   /* instructions, see board.c */
uint32_t board_instructions(void); /* since then; fewer than half a billion */
#endif

#endif
