/* student: a distilled model in the flash of a microcontroller, where its weights stay (with COPY they go to RAM,
   to be read faster). Plans all memory, and prints the bits of the logits for a few images. The same file runs on a
   desk machine, to the same bits: see README.md. */
#define KD_NO_TRAIN
#define KD_NO_STDIO
#define KD_NO_THREADS
#define KD_NO_SIMD
#define KD_IMPLEMENTATION
#include "../../kd.h"

#include "board.h"
#include "model.h" /* static const unsigned char model[]: what model.c has written */

enum { IMAGES = 4, MOST_CLASSES = 16 };

#ifdef COPY
#define load kd_model_load_memory
#else
#define load kd_model_load_in_place
#endif

static uint8_t *picture;
static float logits[MOST_CLASSES];

/* Stands for a camera: the same pattern everywhere. */
static void take_picture(int number, int pixels)
{
    uint32_t state = 12345u + (uint32_t)number;
    int i;
    for (i = 0; i < pixels; ++i) {
        state = state * 1664525u + 1013904223u;
        picture[i] = (uint8_t)(state >> 24);
    }
}

static void print_hex(uint32_t bits)
{
    char text[10];
    int i;
    for (i = 0; i < 8; ++i) text[i] = "0123456789abcdef"[bits >> (28 - 4 * i) & 15];
    text[8] = ' ', text[9] = 0;
    board_print(text);
}

static int run(kd_ctx *kd)
{
    kd_model *student = NULL;
    kd_workspace *workspace = NULL;
    uint32_t instructions = 0;
    int channels, height, width, classes, i, j, failed;
    failed = load(kd, model, sizeof model, &student) || kd_workspace_create(student, 1, &workspace);
    if (!failed) {
        kd_model_input(student, &channels, &height, &width);
        classes = kd_model_outputs(student);
        picture = (uint8_t *)malloc((size_t)(channels * height * width));
        failed = !picture || classes > MOST_CLASSES;
    }
    for (i = 0; i < IMAGES && !failed; ++i) { /* from here on, nothing is allocated */
        take_picture(i, channels * height * width);
        board_start_counting();
        failed = kd_workspace_predict_u8(workspace, picture, 1, logits) != KD_OK;
        instructions = board_instructions();
        for (j = 0; j < classes; ++j) {
            uint32_t bits;
            memcpy(&bits, &logits[j], sizeof bits);
            print_hex(bits);
        }
        board_print("\n");
    }
    board_print_number("# instructions: ", instructions); /* of the last image */
    free(picture);
    kd_workspace_destroy(workspace);
    kd_model_destroy(student);
    return failed;
}

int main(void)
{
    kd_ctx_desc desc = kd_ctx_defaults();
    kd_ctx *kd = NULL;
    int failed;
    board_paint_stack();
    desc.scratch = 4096; /* there is no cache to fill */
    failed = kd_open(&desc, &kd) != KD_OK;
    if (!failed) failed = run(kd);
    if (failed) {
        board_print(kd ? kd_error(kd) : "no context");
        board_print("\n");
    }
    kd_close(kd);
    board_print_number("# stack: ", board_stack_used());
    board_print_number("# heap: ", board_heap_used());
    return failed;
}
