/* csource_avr: one model as C source on an AVR, and on a desk machine (-DDESK): the bits of its logits for an image
   and for floats. Compile with -DMODEL_C='"m00.c"' -Dmodel=m00 -DMODEL=M00, and on an AVR with avr.c of
   examples/mcu; see csource.sh. */
#include "../examples/mcu/board.h"

#include MODEL_C

#define JOIN(a, b) a##b
#define NAME(a, b) JOIN(a, b)

enum {
    CLASSES = NAME(MODEL, _CLASSES),
    COUNT = NAME(MODEL, _CHANNELS) * NAME(MODEL, _HEIGHT) * NAME(MODEL, _WIDTH)
};

static void print_logits(const float *logits)
{
    int i, digit;
    for (i = 0; i < CLASSES; ++i) {
        char text[10];
        uint32_t bits;
        memcpy(&bits, logits + i, sizeof bits);
        for (digit = 0; digit < 8; ++digit) text[digit] = "0123456789abcdef"[bits >> (28 - 4 * digit) & 15];
        text[8] = i % 8 == 7 ? '\n' : ' ', text[9] = 0; /* simavr breaks lines of more than 255 letters */
        board_print(text);
    }
    board_print("\n");
}

int main(void)
{
    static uint8_t pixels[COUNT];
    static float x[COUNT];
    float logits[CLASSES];
    int i;
    for (i = 0; i < COUNT; ++i) {
        pixels[i] = (uint8_t)((unsigned)i * 37u + (unsigned)i / 7u);
        x[i] = ((float)pixels[i] - 128.0f) * 0.015625f;
    }
    NAME(model, _logits)(pixels, logits);
    print_logits(logits);
    NAME(model, _logits_of_floats)(x, logits);
    print_logits(logits);
    return 0;
}
