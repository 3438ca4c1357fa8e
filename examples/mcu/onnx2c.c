/* onnx2c: the demo's student as onnx2c writes it from an ONNX file, for sizes.sh, which compiles both. */
#include "board.h"

void entry(const float x[1][1][28][28], float logits[1][10]);

static float x[1][1][28][28], logits[1][10];

int main(void)
{
    uint32_t instructions;
    board_paint_stack();
    board_start_counting();
    entry(x, logits);
    instructions = board_instructions();
    board_print_number("# instructions: ", instructions);
    board_print_number("# stack: ", board_stack_used());
    board_print_number("# heap: ", board_heap_used());
    return 0;
}
