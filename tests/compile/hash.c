/* Trains a convolutional student from a teacher with everything random on, saves it over an older file, and prints
   what the weights and the file's bytes hash to. Usage: hash ISA FILE. Every machine must print the same; see
   tests/emulated.sh. */
#define KD_IMPLEMENTATION
#include "../../kd.h"

#include <stdlib.h>

enum { COUNT = 44, SIDE = 13, PIXELS = 3 * SIDE * SIDE };

static int complain(kd_ctx *kd, const char *what)
{
    printf("%s: %s\n", what, kd ? kd_error(kd) : "no context");
    return 1;
}

/* Saved twice, so that a file is replaced, and loaded. */
static int through_file(kd_ctx *kd, const kd_model *m, const char *path)
{
    kd_model *again = NULL;
    uint64_t hash = 0;
    FILE *f;
    int byte, failed;
    failed = kd_model_save(m, path) || kd_model_save(m, path) || kd_model_load(kd, path, &again) ||
             kd_model_hash(m) != kd_model_hash(again);
    kd_model_destroy(again);
    f = fopen(path, "rb");
    while (f && (byte = fgetc(f)) != EOF) hash = kd__mix(hash ^ (uint64_t)byte);
    if (f) fclose(f);
    if (!failed) printf("file    %016llx\n", (unsigned long long)hash);
    return failed || !f;
}

/* A student of a few losses on logits and of losses on features that learn a part of their own. */
static int train_on_features(kd_ctx *kd, const kd_data *data)
{
    static const char large[] =
        "3x13x13: a: conv 6 3, relu, maxpool 2, b: conv 5 3, relu, c: dense 9, relu, dense 5";
    static const char small[] = "3x13x13: a: conv 4 3 stride=2, relu, b: conv 3 3, relu, c: dense 7, relu, dense 5";
    static const struct {
        kd_feature_kind kind;
        const char *layers;
    } features[] = {{KD_FEATURE_HINT, "b"},
                    {KD_FEATURE_RKD, "c"},
                    {KD_FEATURE_VID, "b"},
                    {KD_FEATURE_REVIEW, "a, b, c"},
                    {KD_FEATURE_CRD, "c"}};
    enum { FEATURES = sizeof features / sizeof *features };
    kd_feature_loss list[FEATURES];
    kd_loss_desc losses[2];
    kd_model *teachers[2] = {NULL, NULL}, *student = NULL;
    kd_train_desc desc = kd_train_defaults();
    int i, failed;
    desc.epochs = 2, desc.batch = 20;
    losses[0] = kd_loss_defaults(KD_LOSS_DKD);
    losses[0].temperature_end = 1, losses[0].alpha_end = 0.5f;
    losses[1] = kd_loss_defaults(KD_LOSS_DIST);
    desc.losses = losses, desc.loss_count = 2;
    for (i = 0; i < FEATURES; ++i) {
        list[i] = kd_feature_loss_defaults(features[i].kind);
        list[i].student = list[i].teacher = features[i].layers;
    }
    desc.features = list, desc.feature_count = FEATURES;
    failed = kd_model_create(kd, large, 3, &teachers[0]) || kd_model_create(kd, large, 4, &teachers[1]) ||
             kd_model_create(kd, small, 5, &student);
    desc.teacher = teachers[0];
    failed = failed || kd_train(student, data, &desc);
    if (!failed) printf("features %016llx\n", (unsigned long long)kd_model_hash(student));
    desc.features = NULL, desc.feature_count = 0;
    desc.teacher = NULL, desc.teachers = (const kd_model *const *)teachers, desc.teacher_count = 2;
    desc.teacher_average = KD_AVERAGE_LOGITS;
    failed = failed || kd_train(student, data, &desc);
    if (!failed) printf("averaged %016llx\n", (unsigned long long)kd_model_hash(student));
    kd_model_destroy(teachers[0]);
    kd_model_destroy(teachers[1]);
    kd_model_destroy(student);
    return failed;
}

static int train(kd_ctx *kd, const kd_data *data, const char *path)
{
    static const char large[] = "3x13x13: conv 24 3 pad=1, batchnorm, relu, maxpool 2, residual(conv 24 3 pad=1, "
                                "batchnorm, silu, depthwise 3 pad=1), gelu, conv 33 3 stride=2, hardswish, gap, "
                                "dropout 0.3, dense 5";
    static const char small[] = "3x13x13: conv 7 5 stride=2 pad=2, batchnorm, leakyrelu, conv 8 1, sigmoid, "
                                "avgpool 2, dense 19, tanh, dropout 0.2, dense 5";
    kd_model *teacher = NULL, *student = NULL;
    kd_train_desc desc = kd_train_defaults();
    int optimizer, failed;
    desc.epochs = 2, desc.batch = 20, desc.validation = 0.1f;
    desc.augment.shift = 1, desc.augment.flip = 1, desc.augment.rotate = 15, desc.augment.brightness = 0.2f;
    desc.augment.contrast = 0.2f, desc.augment.saturation = 0.2f, desc.augment.cutout = 3,
    desc.augment.mixup = 0.3f;
    desc.clip_norm = 5, desc.max_norm = 3, desc.weight_decay = 0.001f, desc.schedule = KD_COSINE,
    desc.warmup = 0.5f;
    failed = kd_model_create(kd, large, 1, &teacher) || kd_train(teacher, data, &desc);
    printf("teacher %016llx\n", failed ? 0ull : (unsigned long long)kd_model_hash(teacher));
    desc.teacher = teacher;
    for (optimizer = 0; optimizer < KD_OPTIMIZER_COUNT && !failed; ++optimizer) {
        kd_metrics metrics;
        desc.optimizer = (kd_optimizer)optimizer;
        failed = kd_model_create(kd, small, 2, &student) || kd_train(student, data, &desc) ||
                 kd_evaluate(student, data, &metrics);
        if (!failed)
            printf("%-7s %016llx %.17g %.17g\n", kd_optimizer_name(desc.optimizer),
                   (unsigned long long)kd_model_hash(student), metrics.nll, metrics.ece);
        if (!failed && path) failed = through_file(kd, student, path);
        kd_model_destroy(student);
        student = NULL;
    }
    kd_model_destroy(teacher);
    return failed;
}

int main(int argc, char **argv)
{
    static uint8_t pixels[COUNT * PIXELS];
    static int32_t labels[COUNT];
    kd_ctx_desc desc = kd_ctx_defaults();
    kd_ctx *kd = NULL;
    kd_data data;
    uint32_t state = 12345;
    int i, failed;
    for (i = 0; i < COUNT; ++i) labels[i] = i * 7 % 5;
    for (i = 0; i < COUNT * PIXELS; ++i) {
        state = state * 1664525u + 1013904223u;
        pixels[i] = (uint8_t)((state >> 24) / 2 + (unsigned)(labels[i / PIXELS] * 20));
    }
    for (i = 0; i < KD_ISA_COUNT && argc > 1; ++i) {
        if (strcmp(argv[1], kd_isa_name((kd_isa)i)) == 0) desc.isa = (kd_isa)i;
    }
    desc.threads = 3;
    if (kd_open(&desc, &kd) != KD_OK) return complain(kd, argc > 1 ? argv[1] : "auto");
    data = kd_data_u8(pixels, labels, COUNT, 3, SIDE, SIDE, 5);
    data.mean[0] = 0.4f, data.std[1] = 0.3f;
    failed = train(kd, &data, argc > 2 ? argv[2] : NULL) || train_on_features(kd, &data);
    if (failed) (void)complain(kd, "training");
    kd_close(kd);
    return failed;
}
