/* libkdbench.so - training, prediction and losses of kd.h behind plain functions, for peers/compare.py */
#define KD_IMPLEMENTATION
#include "../kd.h"

typedef struct bench {
    kd_ctx *kd;
    kd_model *model, *teacher;
    kd_workspace *workspace;
    kd_feature_loss feature; /* of bench_train; weight 0: none */
    char layers[64];
    double loss; /* of the last epoch */
} bench;

static int remember_loss(void *user, const kd_epoch_info *info)
{
    ((bench *)user)->loss = info->loss;
    return 0;
}

void bench_close(bench *b)
{
    kd_workspace_destroy(b->workspace);
    kd_model_destroy(b->model);
    kd_model_destroy(b->teacher);
    kd_close(b->kd);
    free(b);
}

/* spec NULL: for losses only; teacher NULL: none; capacity: of bench_predict, in images; isa: a kd_isa_name.
   Returns NULL on failure. */
bench *bench_open(const char *spec, const char *teacher, int capacity, int threads, const char *isa)
{
    bench *b = (bench *)calloc(1, sizeof *b);
    kd_ctx_desc desc = kd_ctx_defaults();
    kd_result result;
    if (!b) return NULL;
    desc.threads = threads;
    for (desc.isa = KD_ISA_AUTO; desc.isa < KD_ISA_COUNT && strcmp(kd_isa_name(desc.isa), isa) != 0;)
        desc.isa = (kd_isa)(desc.isa + 1); /* one that is not there is refused by kd_open */
    result = kd_open(&desc, &b->kd);
    if (result == KD_OK && spec) result = kd_model_create(b->kd, spec, 1, &b->model);
    if (result == KD_OK && teacher) result = kd_model_create(b->kd, teacher, 2, &b->teacher);
    if (result == KD_OK && spec) result = kd_workspace_create(b->model, capacity, &b->workspace);
    if (result == KD_OK) return b;
    if (b->kd) bench_close(b);
    return NULL;
}

const char *bench_error(const bench *b) { return kd_error(b->kd); }
const char *bench_isa(const bench *b) { return kd_isa_name(kd_ctx_isa(b->kd)); }
int bench_tensors(const bench *b, int of_teacher) { return kd_model_tensors(of_teacher ? b->teacher : b->model); }

/* Tensors are taken in their order, which is that of PyTorch's parameters(). */
int bench_set_tensor(bench *b, int of_teacher, int index, const float *values, int64_t count)
{
    kd_model *m = of_teacher ? b->teacher : b->model;
    kd_tensor_info info;
    const kd_result result = kd_model_tensor_info(m, index, &info);
    return result == KD_OK ? kd_model_set_tensor(m, info.name, values, count) : result;
}

/* A loss on features for bench_train, by its word, with weight 1; layers: tags that both models have. */
int bench_feature(bench *b, const char *word, const char *layers)
{
    int kind = 0;
    while (kind < KD_FEATURE_COUNT && strcmp(kd_feature_name((kd_feature_kind)kind), word) != 0) ++kind;
    b->feature = kd_feature_loss_defaults((kd_feature_kind)kind);
    snprintf(b->layers, sizeof b->layers, "%s", layers);
    b->feature.student = b->feature.teacher = b->layers;
    b->feature.weight = 1;
    b->feature.warmup = 0;
    return kind < KD_FEATURE_COUNT ? KD_OK : KD_ERR_ARGUMENT;
}

/* kd_train with its defaults; the mean loss of the last epoch goes to *loss. */
int bench_train(bench *b, const float *x, const int32_t *labels, int images, int classes, int epochs, double *loss)
{
    kd_train_desc desc = kd_train_defaults();
    int channels, height, width;
    kd_data data;
    kd_result result;
    kd_model_input(b->model, &channels, &height, &width);
    data = kd_data_f32(x, labels, images, channels, height, width, classes);
    desc.epochs = epochs;
    desc.teacher = b->teacher;
    desc.features = b->feature.weight > 0 ? &b->feature : NULL;
    desc.feature_count = b->feature.weight > 0;
    desc.on_epoch = remember_loss;
    desc.user = b;
    result = kd_train(b->model, &data, &desc);
    *loss = b->loss;
    return result;
}

int bench_predict(bench *b, const float *x, int images, float *logits)
{
    return kd_workspace_predict(b->workspace, x, images, logits);
}

int bench_hinton(bench *b, const float *student, const float *teacher, const int32_t *labels, int rows, int cols,
                 float *grad, double *value)
{
    const kd_loss_desc desc = kd_loss_defaults(KD_LOSS_HINTON);
    return kd_loss(b->kd, &desc, student, teacher, labels, rows, cols, grad, value);
}

int bench_softmax(bench *b, const float *logits, int rows, int cols, float temperature, float *probs)
{
    return kd_softmax(b->kd, logits, rows, cols, temperature, probs);
}
