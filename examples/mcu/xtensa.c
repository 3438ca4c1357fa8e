/* xtensa.c - student.c on an Xtensa without windows of registers, as QEMU's machine "sim" has it: where it starts,
   what it prints, and its end; and the arithmetic that Debian's libgcc lacks. */
#include <stdio.h>
#include <stdlib.h>

#define SOFT(name) __##name
#include "soft.h"

enum { EXIT = 1, WRITE = 4 }; /* of the simulator that the machine is called after */

static int board_call(int number, int a, const void *b, int c)
{
    register int a2 __asm__("a2") = number;
    register int a3 __asm__("a3") = a;
    register const void *a4 __asm__("a4") = b;
    register int a5 __asm__("a5") = c;
    __asm__ volatile("simcall" : "+r"(a2), "+r"(a3) : "r"(a4), "r"(a5) : "memory");
    return a2;
}

static int board_put(char c, FILE *file)
{
    (void)file;
    (void)board_call(WRITE, 1, &c, 1);
    return (unsigned char)c;
}

static FILE board_out = FDEV_SETUP_STREAM(board_put, NULL, NULL, _FDEV_SETUP_WRITE);
FILE *const stdout = &board_out;

void _exit(int status)
{
    for (;;) (void)board_call(EXIT, status, NULL, 0);
}

/* The machine starts with the first byte of flash; the stack is there before anything else. */
__asm__(".section .board_reset,\"ax\"\n"
        "    j board_start\n"
        ".section .text.board_start,\"ax\"\n"
        ".literal_position\n"
        ".global board_start\n"
        "board_start:\n"
        "    movi a1, __stack\n"
        "    movi a0, 0\n"
        "    movi a2, _start\n"
        "    jx a2\n"
        ".previous\n");
