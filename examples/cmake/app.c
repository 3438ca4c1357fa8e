/* app.c - a program whose implementation of kd.h is a library: see CMakeLists.txt beside it. In C and in C++. */
#include "kd.h"

#include <stdio.h>

int main(void)
{
    static const float x[4] = {1, 2, 3, 4};
    float logits[2];
    kd_ctx *kd;
    kd_model *m = NULL;
    kd_result result = kd_open(NULL, &kd);
    if (result == KD_OK) result = kd_model_create(kd, "4: dense 8, relu, dense 2", 1, &m);
    if (result == KD_OK) result = kd_predict(m, x, 1, logits);
    if (result == KD_OK)
        printf("kd.h %s on %s: %g %g\n", kd_version(), kd_isa_name(kd_ctx_isa(kd)), (double)logits[0],
               (double)logits[1]);
    else
        fprintf(stderr, "%s\n", kd ? kd_error(kd) : kd_result_name(result));
    kd_model_destroy(m);
    kd_close(kd);
    return result == KD_OK ? 0 : 1;
}
