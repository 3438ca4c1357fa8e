/* All that a build with KD_NO_TRAIN can do, against an implementation in another file; compiled as C and as C++. */
#include "../../kd.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static int passed(kd_result result) { return result == KD_OK; }

/* Through memory to another model, which says the same. */
static int the_same_from_memory(kd_ctx *kd, const kd_model *m, const float *x, const float *logits)
{
    float again[2];
    kd_model *back = NULL;
    size_t size = 0;
    void *bytes = NULL;
    int ok = passed(kd_model_save_memory(m, KD_DTYPE_F32, NULL, 0, &size)) && (bytes = malloc(size)) != NULL &&
             passed(kd_model_save_memory(m, KD_DTYPE_F32, bytes, size, NULL)) &&
             passed(kd_model_load_memory(kd, bytes, size, &back)) && kd_model_hash(back) == kd_model_hash(m) &&
             passed(kd_predict(back, x, 1, again)) && fabsf(again[0] - logits[0]) <= 0;
    kd_model_destroy(back);
    free(bytes);
    return ok;
}

int main(void)
{
    static const char line[] =
        "1x8x8: conv 16 3 pad=1, batchnorm, relu, residual(conv 16 3 pad=1, gelu), depthwise 3, maxpool 2, dense 2";
    static float x[16 * 64];
    static int32_t labels[16];
    float logits[2];
    kd_ctx *kd = NULL;
    kd_model *m = NULL;
    kd_data data;
    kd_metrics metrics;
    kd_attack_desc attack;
    kd_evaluate_desc desc = kd_evaluate_defaults();
    int i, ok;
    for (i = 0; i < 16 * 64; ++i) x[i] = (float)(i % 7) / 7;
    for (i = 0; i < 16; ++i) labels[i] = i % 2;
    data = kd_data_f32(x, labels, 16, 1, 8, 8, 2);
    ok = passed(kd_open(NULL, &kd)) && passed(kd_model_create(kd, line, 1, &m)) &&
         kd_model_describe(m, NULL, 0) > 100 && passed(kd_predict(m, x, 1, logits)) &&
         the_same_from_memory(kd, m, x, logits) && passed(kd_evaluate(m, &data, &metrics)) && metrics.count == 16;
    memset(&attack, 0, sizeof attack);
    desc.attack = &attack; /* which goes by gradients */
    ok = ok && kd_evaluate_with(m, &data, &desc, &metrics) == KD_ERR_UNSUPPORTED;
    kd_model_destroy(m);
    kd_close(kd);
    return ok ? 0 : 1;
}
