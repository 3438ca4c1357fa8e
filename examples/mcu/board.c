/* board: an Arm Cortex-M as QEMU emulates it (microbit, mps2-an385, -an386, -an500): vectors, memory, a debugger's
   console (semihosting), and a count of instructions. On a real board its vendor's startup code stands here. */
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

static char *heap_end = board_heap;

void *_sbrk(ptrdiff_t bytes)
{
    char *start = heap_end;
    if (bytes > board_heap_end - heap_end) return (void *)-1;
    heap_end += bytes;
    return start;
}

void board_reset(void)
{
#ifdef __ARM_FP
    *(volatile uint32_t *)0xe000ed88 |= 0xfu << 20; /* the FPU is there to be used */
#endif
    memcpy(board_data, board_data_in_flash, (size_t)((char *)board_data_end - (char *)board_data));
    memset(board_bss, 0, (size_t)((char *)board_bss_end - (char *)board_bss));
    leave(main());
}

/* ---- what was used --------------------------------------------------------------------------------------- */

enum { PAINT = 0x5a };

void board_paint_stack(void)
{
    char *volatile end = (char *)__builtin_frame_address(0) - 64, *at;
    for (at = board_heap; at < end; ++at) *at = PAINT;
}

uint32_t board_stack_used(void)
{
    const char *at = heap_end;
    while (at < board_stack_end && *at == PAINT) ++at;
    return (uint32_t)(board_stack_end - at);
}

uint32_t board_heap_used(void) { return (uint32_t)(heap_end - board_heap); }

/* The timer that every Cortex-M has. With -icount shift=0 it runs by instructions: how many to a tick, a loop tells
   whose length is known. */
static volatile uint32_t *const timer = (volatile uint32_t *)0xe000e010; /* control, reload, value */

static uint32_t ticks_since(uint32_t start) { return (start - timer[2]) & 0xffffffu; }

static uint32_t started, loop_ticks;
enum { LOOP = 100000 }; /* of two instructions */

void board_start_counting(void)
{
    uint32_t n = LOOP;
    timer[1] = 0xffffff;
    timer[0] = 5;
    if (!loop_ticks) {
        started = timer[2];
        __asm__ volatile(".syntax unified\n1: subs %0, #1\n bne 1b" : "+l"(n) : : "cc");
        loop_ticks = ticks_since(started);
    }
    started = timer[2];
}

uint32_t board_instructions(void) { return (uint32_t)((uint64_t)ticks_since(started) * (2 * LOOP) / loop_ticks); }

/* ---- the start ------------------------------------------------------------------------------------------- */

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
