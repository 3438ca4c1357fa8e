/* avr: board.c for an AVR (ATmega2560, ATmega1284P) as simavr emulates it: its first serial line as a console, and
   a count of cycles, of which an instruction takes one to five. */
#include "board.h"

#include <avr/interrupt.h>
#include <avr/io.h>
#include <avr/sleep.h>

extern char __heap_start[]; /* the linker's: behind all variables */

int main(void);

void board_print(const char *text)
{
    UCSR0B = 1 << TXEN0;
    for (; *text; ++text) {
        while (!(UCSR0A & 1 << UDRE0)) continue;
        UDR0 = (uint8_t)*text;
    }
}

/* Behind main: simavr ends when a processor sleeps that nothing can wake. */
__attribute__((destructor)) static void leave(void)
{
    cli();
    sleep_enable();
    sleep_cpu();
}

/* ---- what was used --------------------------------------------------------------------------------------- */

enum { PAINT = 0x5a };

void board_paint_stack(void)
{
    char *const end = (char *)SP - 8;
    char *at;
    for (at = __heap_start; at < end; ++at) *at = PAINT;
}

uint32_t board_stack_used(void)
{
    const char *at = __heap_start;
    while (at <= (const char *)RAMEND && *at == PAINT) ++at;
    return (uint32_t)((const char *)RAMEND + 1 - at);
}

uint32_t board_heap_used(void) { return 0; }

/* A timer that counts every 64th cycle, and how often it has begun again. */
static volatile uint16_t rounds;

ISR(TIMER1_OVF_vect) { ++rounds; }

void board_start_counting(void)
{
    rounds = 0;
    TCCR1B = 0;
    TCNT1 = 0;
    TIMSK1 = 1 << TOIE1;
    TCCR1B = 1 << CS11 | 1 << CS10;
    sei();
}

uint32_t board_instructions(void)
{
    const uint16_t now = TCNT1;
    return ((uint32_t)rounds << 16 | now) * 64;
}
