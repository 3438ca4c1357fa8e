/* model: writes the bytes of a saved model as a C array. Usage: model [student.safetensors] >model.h
   Without a file, a small student with first weights, to try the rest with. */
#define KD_NO_TRAIN
#define KD_IMPLEMENTATION
#include "../../kd.h"

#include <stdio.h>

int main(int argc, char **argv)
{
    static const char line[] =
        "1x16x16: conv 8 3 pad=1, batchnorm, relu, maxpool 2, conv 16 3 pad=1, relu, maxpool 2, dense 24, relu, "
        "dense 10";
    kd_ctx *kd = NULL;
    kd_model *m = NULL;
    unsigned char *bytes = NULL;
    size_t size = 0, i;
    int failed = kd_open(NULL, &kd) ||
                 (argc > 1 ? kd_model_load(kd, argv[1], &m) : kd_model_create(kd, line, 1, &m)) ||
                 kd_model_save_memory(m, KD_DTYPE_F16, NULL, 0, &size);
    if (!failed) {
        bytes = (unsigned char *)malloc(size);
        failed = !bytes || kd_model_save_memory(m, KD_DTYPE_F16, bytes, size, NULL);
    }
    if (failed) fprintf(stderr, "%s\n", kd ? kd_error(kd) : "no context");
    if (!failed) printf("static const unsigned char model[%lu] = {", (unsigned long)size);
    for (i = 0; i < size && !failed; ++i) printf("%s%d", i == 0 ? "" : i % 20 ? "," : ",\n", bytes[i]);
    if (!failed) printf("};\n");
    free(bytes);
    kd_model_destroy(m);
    kd_close(kd);
    return failed;
}
