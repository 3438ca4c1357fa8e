/* cmsis_nn: the layers of fashion.safetensors as calls of CMSIS-NN, for beside.sh. Weights are other ones, of the
   same number: the table is of sizes and instructions. */
#include "board.h"
#include "arm_nnfunctions.h"

#include "weights.h" /* what beside.sh has written */

enum { LARGEST = 8 * 28 * 28, NEXT = 8 * 14 * 14, BUFFER = 288 };

static int8_t largest[LARGEST], next[NEXT]; /* what is between layers, in turns */
static int16_t buffer[BUFFER / 2];          /* what arm_convolve_wrapper_s8_get_buffer_size asks for */
static const cmsis_nn_context context = {buffer, BUFFER};
static int failed;

static void conv(const int8_t *x, int side, int channels, int outputs, const weights *w, int8_t *y)
{
    const cmsis_nn_conv_params p = {128, -128, {1, 1}, {1, 1}, {1, 1}, {-128, 127}};
    const cmsis_nn_per_channel_quant_params factors = {(int32_t *)w->multiplier, (int32_t *)w->shift};
    const cmsis_nn_dims in = {1, side, side, channels}, filter = {outputs, 3, 3, channels},
                        bias = {1, 1, 1, outputs}, out = {1, side, side, outputs};
    failed |= arm_convolve_wrapper_s8_get_buffer_size(&p, &in, &filter, &out) > BUFFER;
    failed |= arm_convolve_wrapper_s8(&context, &p, &factors, &in, x, &filter, w->weights, &bias, w->bias, &out,
                                      y) != ARM_CMSIS_NN_SUCCESS;
}

static void pool(const int8_t *x, int side, int channels, int8_t *y)
{
    const cmsis_nn_pool_params p = {{2, 2}, {0, 0}, {-128, 127}};
    const cmsis_nn_dims in = {1, side, side, channels}, filter = {1, 2, 2, 1},
                        out = {1, side / 2, side / 2, channels};
    failed |= arm_max_pool_s8(&context, &p, &in, x, &filter, &out, y) != ARM_CMSIS_NN_SUCCESS;
}

static void dense(const int8_t *x, int inputs, int outputs, const weights *w, int8_t *y)
{
    const cmsis_nn_fc_params p = {128, 0, -128, {-128, 127}};
    const cmsis_nn_per_channel_quant_params factors = {(int32_t *)w->multiplier, (int32_t *)w->shift};
    const cmsis_nn_dims in = {1, 1, 1, inputs}, filter = {inputs, 1, 1, outputs}, bias = {1, 1, 1, outputs},
                        out = {1, 1, 1, outputs};
    failed |= arm_fully_connected_per_channel_s8(&context, &p, &factors, &in, x, &filter, w->weights, &bias,
                                                 w->bias, &out, y) != ARM_CMSIS_NN_SUCCESS;
}

int main(void)
{
    static uint8_t picture[28 * 28];
    uint32_t instructions;
    int i;
    for (i = 0; i < 28 * 28; ++i) picture[i] = (uint8_t)(i * 7);
    board_paint_stack();
    board_start_counting();
    for (i = 0; i < 28 * 28; ++i) next[i] = (int8_t)(picture[i] - 128);
    conv(next, 28, 1, 8, &layers[0], largest), pool(largest, 28, 8, next);
    conv(next, 14, 8, 16, &layers[1], largest), pool(largest, 14, 16, next);
    dense(next, 784, 32, &layers[2], largest), dense(largest, 32, 10, &layers[3], next);
    instructions = board_instructions();
    if (failed) return 1;
    board_print_number("# instructions: ", instructions);
    board_print_number("# stack: ", board_stack_used());
    board_print_number("# heap: ", board_heap_used());
    return 0;
}
