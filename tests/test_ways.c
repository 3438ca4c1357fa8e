/* Ways to train: adversarial inputs, DOT, peers that teach each other, and those that are made of single calls. Each
   must notice a teacher that is ignored, that has changed places with the student, or that sees other images. */
#include "support.h"
#include "reference.h"
#include "golden/ways.h"

/* Every test gets a context whose memory is counted, and must have returned all of it at the end. */
static test_memory memory;
static kd_ctx *kd;
static char last_line[300];

static void keep_last_line(void *user, const char *line)
{
    (void)user;
    snprintf(last_line, sizeof last_line, "%s", line);
}

static int open_context(void **state)
{
    kd_ctx_desc desc = test_memory_desc(&memory);
    (void)state;
    desc.log = keep_last_line;
    return kd_open(&desc, &kd);
}

static int close_context(void **state)
{
    (void)state;
    test_memory_close(kd, &memory);
    return 0;
}

static kd_model *create_in(kd_ctx *ctx, const char *spec, uint64_t seed)
{
    kd_model *m;
    if (kd_model_create(ctx, spec, seed, &m) != KD_OK) fail_msg("%s: %s", spec, kd_error(ctx));
    return m;
}

static kd_model *create(const char *spec, uint64_t seed) { return create_in(kd, spec, seed); }

/* ---- against PyTorch ------------------------------------------------------------------------------------- */

/* All tensors, one after the other. */
static void set_weights(kd_model *m, const float *values)
{
    kd_tensor_info info;
    int i;
    for (i = 0; i < kd_model_tensors(m); ++i) {
        assert_ok(m->kd, kd_model_tensor_info(m, i, &info));
        assert_ok(m->kd, kd_model_set_tensor(m, info.name, values, info.count));
        values += info.count;
    }
}

enum { MAX_LOSSES = 2 };

/* A recipe and the losses it is made of. */
typedef struct recipe {
    kd_train_desc desc;
    kd_loss_desc losses[MAX_LOSSES];
    float weights[MAX_LOSSES];
} recipe;

static void add_loss(recipe *r, kd_loss_kind kind, float temperature, kd_inputs inputs, float weight)
{
    kd_loss_desc *loss = &r->losses[r->desc.loss_count];
    *loss = kd_loss_defaults(kind);
    loss->temperature = temperature;
    loss->inputs = inputs;
    r->weights[r->desc.loss_count++] = weight;
    r->desc.losses = r->losses;
    r->desc.loss_weights = r->weights;
}

/* Goldblum et al. 2020 */
static void set_ard(recipe *r)
{
    add_loss(r, KD_LOSS_CE, 1, KD_INPUTS_CLEAN, 0.3f);
    add_loss(r, KD_LOSS_KL, 3, KD_INPUTS_ADVERSARIAL, 0.7f);
}

/* Zi et al. 2021 */
static void set_rslad(recipe *r)
{
    add_loss(r, KD_LOSS_KL, 1, KD_INPUTS_CLEAN, 1 / 6.0f);
    add_loss(r, KD_LOSS_KL, 1, KD_INPUTS_ADVERSARIAL, 5 / 6.0f);
    r->desc.attack.loss = kd_loss_defaults(KD_LOSS_KL);
    r->desc.attack.loss.temperature = 1;
}

static void set_fgsm(recipe *r)
{
    add_loss(r, KD_LOSS_CE, 1, KD_INPUTS_ADVERSARIAL, 1);
    r->desc.attack.kind = KD_ATTACK_FGSM;
    r->desc.teacher = NULL;
}

static void set_binary(recipe *r)
{
    add_loss(r, KD_LOSS_BCE, 2, KD_INPUTS_ADVERSARIAL, 1);
    r->losses[0].alpha = 0.6f;
}

static void set_dot(recipe *r)
{
    r->desc.dot_delta = 0.15f;
    r->desc.loss = kd_loss_defaults(KD_LOSS_HINTON);
    r->desc.loss.temperature = 3;
    r->desc.loss.alpha = 0.7f;
}

static void set_dot_gathered(recipe *r)
{
    set_dot(r);
    r->desc.accumulate = 2;
}

static void set_dot_ard(recipe *r)
{
    set_ard(r);
    r->desc.dot_delta = 0.15f;
}

typedef struct way {
    const char *name;
    void (*set)(recipe *r);
    const double *end, *losses;
} way;

static int check_loss(void *user, const kd_step_info *info)
{
    const double **next = (const double **)user;
    assert_near(info->loss, *(*next)++, 2e-6);
    return 0;
}

static void check_way(kd_ctx *ctx, const way *w)
{
    const int binary = w->set == set_binary;
    kd_model *teacher = create_in(ctx, binary ? "2x4x4: dense 1" : "2x4x4: dense 3", 1);
    kd_model *m = create_in(ctx,
                            binary ? "2x4x4: conv 4 3 pad=1 bias=0, batchnorm, tanh, maxpool 2, conv 3 2, silu, dense 1"
                                   : "2x4x4: conv 4 3 pad=1 bias=0, batchnorm, tanh, maxpool 2, conv 3 2, silu, dense 3",
                            1);
    kd_data data = kd_data_u8(golden_pixels, binary ? golden_binary_labels : golden_labels, GOLDEN_COUNT, 2, 4, 4,
                              binary ? 2 : 3);
    const double *next = w->losses, *wanted = w->end;
    recipe r;
    int i;
    int64_t j;
    data.mean[0] = 0.4f, data.mean[1] = 0.6f, data.std[0] = 0.25f, data.std[1] = 0.3f;
    set_weights(teacher, binary ? golden_binary_teacher : golden_teacher);
    set_weights(m, binary ? golden_binary_student : golden_student);
    memset(&r, 0, sizeof r);
    r.desc = kd_train_defaults();
    r.desc.teacher = teacher;
    r.desc.epochs = GOLDEN_EPOCHS, r.desc.batch = GOLDEN_BATCH, r.desc.shuffle = 0;
    r.desc.optimizer = KD_SGD, r.desc.lr = 0.05f, r.desc.momentum = 0.8f, r.desc.weight_decay = 0.02f;
    r.desc.attack.epsilon = 0.06f, r.desc.attack.step = 0.025f, r.desc.attack.steps = 3;
    r.desc.attack.random_start = 0;
    r.desc.on_step = check_loss;
    r.desc.user = &next;
    w->set(&r);
    if (kd_train(m, &data, &r.desc) != KD_OK) fail_msg("%s: %s", w->name, kd_error(ctx));
    assert_true(next == w->losses + 2 * GOLDEN_EPOCHS);
    for (i = 0; i < kd_model_tensors(m); ++i) {
        kd_tensor_info info;
        float values[128];
        assert_ok(ctx, kd_model_tensor_info(m, i, &info));
        assert_ok(ctx, kd_model_get_tensor(m, info.name, values, info.count));
        for (j = 0; j < info.count; ++j, ++wanted) {
            if (fabs((double)values[j] - *wanted) > 1e-5 * (1 + fabs(*wanted)))
                fail_msg("%s on %s: %s[%d] is %.8g, PyTorch has %.8g", w->name, kd_isa_name(ctx->isa), info.name,
                         (int)j, (double)values[j], *wanted);
        }
    }
    kd_model_destroy(m);
    kd_model_destroy(teacher);
}

static void test_like_pytorch(void **state)
{
    static const way ways[] = {
        {"ard", set_ard, golden_ard_end, golden_ard_losses},
        {"rslad", set_rslad, golden_rslad_end, golden_rslad_losses},
        {"fgsm", set_fgsm, golden_fgsm_end, golden_fgsm_losses},
        {"binary", set_binary, golden_binary_end, golden_binary_losses},
        {"dot", set_dot, golden_dot_end, golden_dot_losses},
        {"dot, gathered", set_dot_gathered, golden_dot_gathered_end, golden_dot_gathered_losses},
        {"dot with ard", set_dot_ard, golden_dot_ard_end, golden_dot_ard_losses},
    };
    kd_isa isa;
    int i;
    (void)state;
    FOR_EACH_ISA(isa)
    {
        kd_ctx *ctx = test_open(isa, 2);
        for (i = 0; i < KD__COUNT(ways); ++i) check_way(ctx, &ways[i]);
        kd_close(ctx);
    }
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, open_context, close_context)
    const struct CMUnitTest tests[] = {
        TEST(test_like_pytorch),
    };
#undef TEST
    const int failed = cmocka_run_group_tests_name("ways", tests, NULL, NULL);
    printf("ways: %d runs skipped for instruction sets that this machine lacks\n", test_isas_skipped);
    return failed;
}
