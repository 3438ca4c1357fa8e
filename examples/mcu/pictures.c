/* pictures: a student that is C source (kd_model_save_c) sees a few images. Prints the bits of its logits, the same
   everywhere, and on a board what it took: see README.md. */
#include "board.h"

#define STUDENT_DECLARATIONS
#include "net.c"

#include "pictures.h" /* what pack.c has written */

static void print_hex(float x)
{
    union {
        float x;
        uint32_t bits;
    } value;
    char text[10];
    int i;
    value.x = x;
    for (i = 0; i < 8; ++i) text[i] = "0123456789abcdef"[value.bits >> (28 - 4 * i) & 15];
    text[8] = ' ', text[9] = 0;
    board_print(text);
}

static void print_number(const char *name, uint32_t value)
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

int main(void)
{
    uint32_t instructions = 0, right = 0;
    int i, j;
    board_paint_stack();
    for (i = 0; i < PICTURES; ++i) {
        float logits[STUDENT_CLASSES];
        int best = 0;
        board_start_counting();
        student_logits(pictures[i], logits);
        instructions += board_instructions() / PICTURES;
        for (j = 0; j < STUDENT_CLASSES; ++j) {
            print_hex(logits[j]);
            if (logits[j] > logits[best]) best = j;
        }
        board_print("\n");
        right += best == i / PICTURES_EACH;
    }
    print_number("# pictures: ", PICTURES);
    print_number("# right: ", right);
    print_number("# instructions: ", instructions);
    print_number("# multiply-adds: ", STUDENT_MACS);
    print_number("# stack: ", board_stack_used());
    return 0;
}
