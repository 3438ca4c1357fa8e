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

int main(void)
{
    uint32_t instructions = 0, right = 0;
    int i, j;
    board_paint_stack();
    for (i = 0; i < PICTURES; ++i) {
        static uint8_t picture[STUDENT_HEIGHT * STUDENT_WIDTH * STUDENT_CHANNELS];
        float logits[STUDENT_CLASSES];
        int best = 0;
        board_fetch(picture, pictures[i], sizeof picture);
        board_start_counting();
        student_logits(picture, logits);
        instructions += board_instructions() / PICTURES;
        for (j = 0; j < STUDENT_CLASSES; ++j) {
            print_hex(logits[j]);
            if (logits[j] > logits[best]) best = j;
        }
        board_print("\n");
        right += best == i / PICTURES_EACH;
    }
    board_print_number("# pictures: ", PICTURES);
    board_print_number("# right: ", right);
    board_print_number("# instructions: ", instructions);
    board_print_number("# multiply-adds: ", STUDENT_MACS);
    board_print_number("# stack: ", board_stack_used());
    board_print_number("# heap: ", board_heap_used());
    return 0;
}
