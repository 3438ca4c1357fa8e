/* sizes: the student of the demo in the four forms in which it can go to a microcontroller, for sizes.sh: as an
   array for kd.h and as C source, each in float and in int8. Its weights are first ones: sizes do not depend on
   them. Usage: sizes FOLDER */
#define KD_IMPLEMENTATION
#include "../../kd.h"

#include <stdio.h>
#include <stdlib.h>

static const char *folder;

static const char *path_of(const char *name)
{
    static char path[1024];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

/* A saved model as model.h has it. */
static int write_array(const kd_model *m, kd_dtype dtype, const char *name)
{
    FILE *file = NULL;
    unsigned char *bytes = NULL;
    size_t size = 0, i;
    int failed = kd_model_save_memory(m, dtype, NULL, 0, &size) != KD_OK;
    if (!failed) bytes = (unsigned char *)malloc(size);
    failed = failed || !bytes || kd_model_save_memory(m, dtype, bytes, size, NULL) != KD_OK;
    if (!failed) file = fopen(path_of(name), "w");
    if (file) {
        fprintf(file, "static const unsigned char model[%lu] = {", (unsigned long)size);
        for (i = 0; i < size; ++i) fprintf(file, "%s%d", i == 0 ? "" : i % 20 ? "," : ",\n", bytes[i]);
        fprintf(file, "};\n");
        failed = fclose(file) != 0;
    }
    free(bytes);
    return failed || !file;
}

int main(int argc, char **argv)
{
    static const char line[] =
        "1x28x28: conv 8 3 pad=1, batchnorm, relu, maxpool 2, conv 16 3 pad=1, batchnorm, relu, "
        "maxpool 2, conv 32 3 pad=1, batchnorm, relu, maxpool 2, dense 10";
    enum { IMAGES = 32, PIXELS = 28 * 28 };
    static uint8_t pixels[IMAGES * PIXELS];
    kd_ctx *kd = NULL;
    kd_model *m = NULL, *small = NULL;
    kd_data images;
    uint32_t state = 1;
    int i, failed;
    if (argc != 2) return 2;
    folder = argv[1];
    for (i = 0; i < IMAGES * PIXELS; ++i) pixels[i] = (uint8_t)((state = state * 1664525u + 1013904223u) >> 24);
    images = kd_data_u8(pixels, NULL, IMAGES, 1, 28, 28, 10);
    failed = kd_open(NULL, &kd) || kd_model_create(kd, line, 1, &m) || kd_model_quantize(m, &images, NULL, &small);
    failed = failed || write_array(m, KD_DTYPE_F16, "float.h") || write_array(small, KD_DTYPE_F32, "int8.h") ||
             kd_model_save_c(m, path_of("float.c"), NULL) || kd_model_save_c(small, path_of("int8.c"), NULL) ||
             kd_model_save_onnx(m, path_of("float.onnx"), NULL) ||
             kd_model_save_onnx(small, path_of("int8.onnx"), NULL);
    if (failed) fprintf(stderr, "sizes: %s: %s\n", folder, kd ? kd_error(kd) : "no context");
    kd_model_destroy(small);
    kd_model_destroy(m);
    kd_close(kd);
    return failed;
}
