/* board.h - what student.c and pictures.c ask of the machine they run on: a place to print, and what was used */
#ifndef BOARD_H
#define BOARD_H

#include <stdint.h>
#include <string.h>

#ifdef __AVR__ /* where constants are in program memory, not in memory */
#include <avr/pgmspace.h>
#define BOARD_CONST PROGMEM
#define board_fetch memcpy_P
#else
#define BOARD_CONST
#define board_fetch memcpy
#endif

#ifdef DESK
#include <stdio.h>
#define board_print(text) ((void)fputs(text, stdout))
#define board_paint_stack() ((void)0)
#define board_start_counting() ((void)0)
#define board_stack_used() 0u
#define board_heap_used() 0u
#define board_instructions() 0u
#else
void board_print(const char *text);
void board_paint_stack(void);      /* what is below the caller, for board_stack_used */
uint32_t board_stack_used(void);   /* bytes, at most, since the start */
void board_start_counting(void);   /* instructions, on an AVR cycles: see board.c and avr.c */
uint32_t board_instructions(void); /* since then; fewer than half a billion */
uint32_t board_heap_used(void);    /* bytes that malloc has taken, at most */
#endif

static inline void board_print_number(const char *name, uint32_t value)
{
    char digits[12];
    int at = 11;
    digits[at] = 0;
    do digits[--at] = (char)('0' + value % 10);
    while (value /= 10);
    board_print(name);
    board_print(digits + at);
    board_print("\n");
}

#endif
