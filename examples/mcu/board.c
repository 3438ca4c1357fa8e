/* board: an Arm Cortex-M4 as QEMU emulates it (mps2-an386): vectors, memory, and a debugger's console
   (semihosting). On a real board its vendor's startup code stands here instead. */
#include "board.h"

#include <stddef.h>
#include <stdint.h>
#include <string.h>

extern uint32_t board_data_in_flash[], board_data[], board_data_end[], board_bss[], board_bss_end[];
extern char board_heap[], board_heap_end[], board_stack_end[];

int main(void);
void board_reset(void);
void *_sbrk(ptrdiff_t bytes); /* where newlib's malloc finds memory */

/* A word to the debugger. */
static void debugger(uint32_t operation, const void *argument)
{
    register uint32_t r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
}

void board_print(const char *text) { debugger(4, text); }

static void leave(int failed)
{
    uint32_t reason[2];
    reason[0] = 0x20026; /* the program ended by itself */
    reason[1] = (uint32_t)failed;
    for (;;) debugger(0x20, reason);
}

void *_sbrk(ptrdiff_t bytes)
{
    static char *end = board_heap;
    char *start = end;
    if (bytes > board_heap_end - end) return (void *)-1;
    end += bytes;
    return start;
}

void board_reset(void)
{
    *(volatile uint32_t *)0xe000ed88 |= 0xfu << 20; /* the FPU is there to be used */
    memcpy(board_data, board_data_in_flash, (size_t)((char *)board_data_end - (char *)board_data));
    memset(board_bss, 0, (size_t)((char *)board_bss_end - (char *)board_bss));
    leave(main());
}

static void board_fault(void)
{
    board_print("fault\n");
    leave(1);
}

/* What the processor reads first: its stack, then where to go. */
__attribute__((section(".vectors"), used)) static const struct {
    void *stack;
    void (*to[15])(void);
} vectors = {board_stack_end, {board_reset, board_fault, board_fault, board_fault, board_fault, board_fault}};
