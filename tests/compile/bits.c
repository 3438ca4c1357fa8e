/* Prints what a training and its losses come to, bit by bit: the same whatever the compiler and its flags. */
#define KD_IMPLEMENTATION
#include "../../kd.h"

static void expect(kd_ctx *kd, kd_result result)
{
    if (result == KD_OK) return;
    printf("%s\n", kd ? kd_error(kd) : "no context");
    exit(1);
}

int main(void)
{
    enum { COUNT = 50, SIZE = 2 * 6 * 6, COLS = 21 };
    static float x[COUNT * SIZE], logits[COUNT * COLS], teacher[COUNT * COLS], grad[COUNT * COLS];
    static int32_t labels[COUNT];
    kd_train_desc desc = kd_train_defaults();
    kd_data data = kd_data_f32(x, labels, COUNT, 2, 6, 6, 3);
    kd_model *m, *large;
    kd_ctx *kd;
    uint64_t hash = 0;
    int i, kind;
    expect(NULL, kd_open(NULL, &kd));
    for (i = 0; i < COUNT * SIZE; ++i) x[i] = (float)kd__rng_range(1, (uint64_t)i, -1, 1);
    for (i = 0; i < COUNT * COLS; ++i) logits[i] = 5 * x[i], teacher[i] = 7 * x[COUNT * SIZE - 1 - i];
    for (i = 0; i < COUNT; ++i) labels[i] = i % 3;
    expect(kd,
           kd_model_create(kd, "2x6x6: conv 4 3 pad=1, batchnorm, silu, maxpool 2, dense 9, gelu, dense 3", 1, &m));
    expect(kd, kd_model_create(kd, "2x6x6: conv 6 3 pad=1, relu, gap, dense 8, tanh, dense 3", 2, &large));
    desc.batch = 7, desc.epochs = 3, desc.teacher = large, desc.weight_decay = 1e-3f;
    desc.augment.rotate = 20, desc.augment.contrast = 0.3f, desc.clip_norm = 1, desc.schedule = KD_COSINE;
    expect(kd, kd_train(m, &data, &desc));
    printf("%016llx\n", (unsigned long long)kd_model_hash(m));
    for (kind = KD_LOSS_CE; kind < KD_LOSS_COUNT; ++kind) {
        kd_loss_desc loss = kd_loss_defaults((kd_loss_kind)kind);
        const int taught = kd__loss_look_up(loss.kind)->teacher == KD__YES;
        double value;
        expect(kd, kd_loss(kd, &loss, logits, taught ? teacher : NULL, labels, COUNT, COLS, grad, &value));
        for (i = 0; i < COUNT * COLS; ++i) hash = kd__mix(hash ^ kd__float_bits(grad[i]));
        hash = kd__mix(hash ^ kd__float_bits((float)value));
    }
    expect(kd, kd_softmax(kd, logits, COUNT, COLS, 3, grad));
    for (i = 0; i < COUNT * COLS; ++i) hash = kd__mix(hash ^ kd__float_bits(grad[i]));
    printf("%016llx\n", (unsigned long long)hash);
    kd_model_destroy(m);
    kd_model_destroy(large);
    kd_close(kd);
    return 0;
}
