/* mutual.c - a large network is split into smaller ones, which learn in turn from the targets and from each other's
   outputs until they agree:   cc -O2 examples/mutual.c -lm && ./a.out [PARTS]
   Deep mutual learning (Zhang et al. 2018) on a regression, with squared errors. */
#define KD_IMPLEMENTATION
#include "../kd.h"

enum { INPUTS = 4, TRAIN = 1000, TEST = 2000, WIDTH = 128, MOST = 8, EPOCHS = 300 };
static const double bound = 1e-4; /* on the mean squared difference between two parts' outputs */

static float x[TRAIN + TEST][INPUTS], y[TRAIN + TEST]; /* your own data go here */

static float draw(void) { return 2 * (float)rand() / (float)RAND_MAX - 1; }

static void make_data(void) /* noise on the targets to learn from, none on those to judge by */
{
    for (int i = 0; i < TRAIN + TEST; ++i) {
        for (int j = 0; j < INPUTS; ++j) x[i][j] = draw();
        y[i] = x[i][0] * x[i][1] + 0.5f * x[i][2] * x[i][2] - 0.3f * x[i][3] + (i < TRAIN ? 0.3f * draw() : 0);
    }
}

static kd_data regression(int first, int count)
{
    kd_data data = kd_data_f32(x[first], NULL, count, INPUTS, 1, 1, 0);
    data.targets = y + first;
    return data;
}

typedef struct group {
    kd_model *parts[MOST];
    int count;
} group;

/* The mean squared difference over the training set, of the two parts that are farthest apart; infinite if that
   cannot be found out. */
static double difference(const group *g)
{
    static float outputs[MOST][TRAIN];
    double most = 0;
    for (int i = 0; i < g->count; ++i) {
        if (kd_predict(g->parts[i], x[0], TRAIN, outputs[i]) != KD_OK) return INFINITY;
        for (int j = 0; j < i; ++j) {
            double sum = 0;
            for (int n = 0; n < TRAIN; ++n) sum += pow((double)(outputs[i][n] - outputs[j][n]), 2);
            most = sum / TRAIN > most ? sum / TRAIN : most;
        }
    }
    return most;
}

/* After each part's epoch: once all have had theirs, training ends if they agree. */
static int agree(void *user, const kd_epoch_info *info)
{
    const group *g = (const group *)user;
    if (info->model != g->parts[g->count - 1]) return 0;
    const double apart = difference(g);
    if (info->epoch % 20 == 0 || apart < bound)
        printf("epoch %3d   mean squared difference %.2e\n", info->epoch + 1, apart);
    return apart < bound;
}

static void report(const char *name, const kd_model *m)
{
    const kd_data data = regression(TRAIN, TEST);
    kd_metrics metrics = {0};
    if (kd_evaluate(m, &data, &metrics) == KD_OK)
        printf("%-16s %6lld parameters   squared error on unseen data %.5f\n", name,
               (long long)kd_model_parameters(m), metrics.mse);
}

static kd_model *network(kd_ctx *kd, int width, uint64_t seed)
{
    char spec[100];
    kd_model *m = NULL;
    snprintf(spec, sizeof spec, "%d: dense %d, relu, dense %d, relu, dense 1", (int)INPUTS, width, width);
    if (kd_model_create(kd, spec, seed, &m) != KD_OK) {
        printf("%s\n", kd_error(kd));
        exit(1);
    }
    return m;
}

int main(int argc, char **argv)
{
    group together = {{0}, argc > 1 ? atoi(argv[1]) : 2};
    const float weights[] = {1, 10.0f * (float)(together.count - 1)}; /* of the targets, and of the other parts */
    kd_loss_desc losses[2];
    kd_train_desc desc = kd_train_defaults();
    kd_ctx *kd;
    make_data();
    if (together.count < 2 || together.count > MOST) {
        printf("the number of parts must be 2 to %d\n", (int)MOST);
        return 2;
    }
    if (kd_open(NULL, &kd) != KD_OK) return 1;
    const kd_data data = regression(0, TRAIN);
    kd_model *large = network(kd, WIDTH, 1), *alone = network(kd, WIDTH / together.count, 2);
    for (int i = 0; i < together.count; ++i)
        together.parts[i] = network(kd, WIDTH / together.count, 2 + (uint64_t)i);
    desc.epochs = EPOCHS;
    desc.batch = 50;
    desc.lr = 0.003f;
    desc.schedule = KD_COSINE;
    if (kd_train(large, &data, &desc) != KD_OK || kd_train(alone, &data, &desc) != KD_OK) {
        printf("%s\n", kd_error(kd));
        return 1;
    }
    losses[0] = losses[1] = kd_loss_defaults(KD_LOSS_MSE);
    losses[0].to_targets = 1;
    desc.losses = losses;
    desc.loss_weights = weights;
    desc.loss_count = 2;
    desc.on_epoch = agree;
    desc.user = &together;
    if (kd_train_mutual(together.parts, together.count, &data, &desc) < KD_OK) {
        printf("%s\n", kd_error(kd));
        return 1;
    }
    report("one large", large);
    report("one small alone", alone);
    for (int i = 0; i < together.count; ++i) report("one of the parts", together.parts[i]);
    if (difference(&together) < bound) return 0;
    printf("after %d epochs the parts do not agree yet\n", (int)EPOCHS);
    return 1;
}
