/* classify.c - what does a saved student see in an image?

       cc -O2 -o classify examples/classify.c -lm                (needs stb: apt-get install libstb-dev)
       ./classify out/student.safetensors examples/data/samples/Bag.png ...                                       */
#define KD_IMPLEMENTATION
#include "../kd.h"
#include "images.h"

enum { SHOWN = 3 };

/* Why a picture cannot be brought to the size of the model, NULL if it can. For a model that is not square it is
   not cut but stretched, first to the right width. */
static const char *misfit(int w, int h, int width, int height)
{
    images set;
    if (w == width && h == height) return NULL;
    if (width != height)
        return (double)width * (h > height ? h : height) > IMAGES_MAX_PIXELS ? "is too long to be resized" : NULL;
    memset(&set, 0, sizeof set);
    set.width = set.height = width;
    return images_misfit(w, h, &set);
}

/* The image as the model was trained on it: (channels, height, width). NULL and *why if it cannot be read. */
static uint8_t *load_image(const char *path, int channels, int height, int width, const char **why)
{
    images_picture p;
    size_t size, area = (size_t)height * (size_t)width, i;
    uint8_t *bytes = images_read(path, &size, why), *fitted, *planes;
    int c;
    memset(&p, 0, sizeof p);
    if (!bytes) return NULL;
    c = images_decode(bytes, size, channels, &p, why);
    free(bytes);
    if (!c) return NULL;
    *why = misfit(p.w, p.h, width, height);
    if (*why) {
        free(p.pixels);
        return NULL;
    }
    *why = "does not fit in memory";
    if (p.w == width && p.h == height) {
        fitted = p.pixels;
    } else if (width == height) {
        fitted = images_fit(&p, width);
    } else {
        fitted = images_resize(p.pixels, p.w, p.h, p.channels, width, height);
        free(p.pixels);
    }
    planes = fitted ? (uint8_t *)images_memory(area, (size_t)channels) : NULL;
    for (i = 0; planes && i < area; ++i) {
        for (c = 0; c < channels; ++c) planes[(size_t)c * area + i] = fitted[i * (size_t)channels + (size_t)c];
    }
    free(fitted);
    return planes;
}

static void print_class(const kd_model *m, int index, float probability)
{
    const char *name = kd_model_class(m, index);
    char number[32];
    snprintf(number, sizeof number, "class %d", index);
    printf("  %5.1f %%  %s\n", 100 * (double)probability, name ? name : number);
}

/* The likeliest classes of one image. Returns 0 if there was a problem. */
static int classify(kd_ctx *kd, const kd_model *m, const char *path, float *scores)
{
    int c, h, w, i, k, side;
    const int classes = kd_model_outputs(m);
    const char *why = NULL;
    uint8_t *pixels;
    kd_result result;
    kd_model_input(m, &c, &h, &w);
    if (h == 1 && w == 1 && c > 3) { /* a multilayer perceptron: a square, in grey or colour */
        const int planes = c % 3 == 0 && sqrt(c / 3) == floor(sqrt(c / 3)) ? 3 : 1;
        side = (int)sqrt(c / planes);
        if (side * side * planes == c) c = planes, h = w = side;
    }
    if (c != 1 && c != 3) {
        fprintf(stderr, "classify: the model takes %dx%dx%d, which is no image\n", c, h, w);
        return 0;
    }
    pixels = load_image(path, c, h, w, &why);
    if (!pixels) {
        fprintf(stderr, "classify: %s %s\n", path, why);
        return 0;
    }
    result = kd_predict_u8(m, pixels, 1, scores);
    free(pixels);
    if (result == KD_OK) result = kd_softmax(kd, scores, 1, classes, 1, scores);
    if (result != KD_OK) {
        fprintf(stderr, "classify: %s: %s\n", path, kd_error(kd));
        return 0;
    }
    printf("%s\n", path);
    for (k = 0; k < SHOWN && k < classes; ++k) {
        int best = 0;
        for (i = 1; i < classes; ++i) {
            if (scores[i] > scores[best]) best = i;
        }
        print_class(m, best, scores[best]);
        scores[best] = -1;
    }
    return 1;
}

int main(int argc, char **argv)
{
    kd_ctx *kd;
    kd_model *m = NULL;
    float *scores;
    int i, failed = 0;
    if (argc < 3) {
        fputs(
            "usage: classify MODEL.safetensors IMAGE...\n"
            "Prints the likeliest classes of each image (JPEG, PNG, BMP, PNM), as a model saved by kd.h sees it.\n",
            stderr);
        return EXIT_FAILURE;
    }
    if (kd_open(NULL, &kd) != KD_OK) {
        fputs("classify: there is not enough memory\n", stderr);
        return EXIT_FAILURE;
    }
    if (kd_model_load(kd, argv[1], &m) != KD_OK) {
        fprintf(stderr, "classify: %s\n", kd_error(kd));
        kd_close(kd);
        return EXIT_FAILURE;
    }
    scores = (float *)images_memory((size_t)kd_model_outputs(m), sizeof *scores);
    for (i = 2; i < argc && scores; ++i) failed |= !classify(kd, m, argv[i], scores);
    if (!scores) fputs("classify: there is not enough memory\n", stderr);
    failed |= !scores;
    free(scores);
    kd_model_destroy(m);
    kd_close(kd);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
