/* Training and distillation: against PyTorch, against themselves in other ways, and what is refused. */
#include "support.h"
#include "golden/training.h"

/* Every test gets a context whose memory is counted, and must have returned all of it at the end. */
static test_memory memory;
static kd_ctx *kd;

static int open_context(void **state)
{
    const kd_ctx_desc desc = test_memory_desc(&memory);
    (void)state;
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

typedef struct golden_run {
    const golden_case *c;
    int batch, update;
} golden_run;

static int golden_step(void *user, const kd_step_info *info)
{
    golden_run *run = (golden_run *)user;
    const golden_case *c = run->c;
    const int last = info->step == info->steps - 1;
    assert_near(info->loss, c->losses[run->batch], 1e-5);
    assert_near(info->lr, c->rates[run->update], 1e-8);
    ++run->batch;
    if (!last && (info->step + 1) % c->accumulate) return 0;
    if (c->norms) assert_near(info->gradient_norm, c->norms[run->update], 1e-5);
    if (!c->norms) assert_true(info->gradient_norm == 0);
    ++run->update;
    return 0;
}

static void check_golden(kd_ctx *ctx, const golden_case *c)
{
    kd_model *teacher = create_in(ctx, "6: dense 9, tanh, dense 3", 1);
    kd_model *m =
        create_in(ctx,
                  c->distil ? "6: dense 7, relu, dense 5, tanh, dense 3"
                            : "2x6x6: conv 4 3 pad=1 bias=0, batchnorm, relu, maxpool 2, conv 5 3 stride=2 "
                              "pad=1 bias=0, batchnorm, relu, conv 4 1, tanh, gap, dense 3",
                  1);
    kd_data data = c->distil ? kd_data_f32(golden_features, golden_labels, GOLDEN_COUNT, 6, 1, 1, 3)
                             : kd_data_u8(golden_pixels, golden_labels, GOLDEN_COUNT, 2, 6, 6, 3);
    kd_train_desc desc = kd_train_defaults();
    const double *wanted = c->end;
    golden_run run = {NULL, 0, 0};
    int updates, i;
    set_weights(teacher, golden_teacher);
    set_weights(m, c->distil ? golden_mlp : golden_cnn);
    if (!c->distil) {
        memcpy(data.mean, golden_mean, sizeof golden_mean);
        memcpy(data.std, golden_std, sizeof golden_std);
    }
    run.c = c;
    desc.epochs = GOLDEN_EPOCHS;
    desc.batch = GOLDEN_BATCH;
    desc.shuffle = 0;
    desc.optimizer = c->optimizer;
    desc.lr = c->lr;
    desc.momentum = c->momentum;
    desc.nesterov = c->nesterov;
    desc.beta1 = c->beta1;
    desc.beta2 = c->beta2;
    desc.epsilon = c->epsilon;
    desc.weight_decay = c->weight_decay;
    desc.max_norm = c->max_norm;
    desc.clip_norm = c->clip_norm;
    desc.accumulate = c->accumulate;
    desc.schedule = c->schedule;
    desc.warmup = c->warmup;
    desc.schedule_step = c->schedule_step;
    desc.schedule_gamma = c->schedule_gamma;
    desc.lr_end = c->lr_end;
    desc.teacher = c->distil ? teacher : NULL;
    desc.loss.temperature = 3;
    desc.loss.alpha = 0.7f;
    desc.loss.label_smoothing = c->label_smoothing;
    desc.on_step = golden_step;
    desc.user = &run;
    if (kd_train(m, &data, &desc) != KD_OK) fail_msg("%s: %s", c->name, kd_error(ctx));
    updates = (3 + c->accumulate - 1) / c->accumulate;
    assert_int_equal(run.batch, 3 * GOLDEN_EPOCHS);
    assert_int_equal(run.update, updates * GOLDEN_EPOCHS);
    for (i = 0; i < run.update; ++i) assert_near(kd_learning_rate(&desc, i, updates), c->rates[i], 1e-8);
    for (i = 0; i < kd_model_tensors(m); ++i) {
        kd_tensor_info info;
        float values[256];
        int64_t j;
        assert_ok(ctx, kd_model_tensor_info(m, i, &info));
        assert_ok(ctx, kd_model_get_tensor(m, info.name, values, info.count));
        for (j = 0; j < info.count; ++j, ++wanted) {
            if (fabs((double)values[j] - *wanted) > 1e-5 * (1 + fabs(*wanted)))
                fail_msg("%s on %s: %s[%d] is %.8g, PyTorch has %.8g", c->name, kd_isa_name(ctx->isa), info.name,
                         (int)j, (double)values[j], *wanted);
        }
    }
    kd_model_destroy(m);
    kd_model_destroy(teacher);
}

static void test_like_pytorch(void **state)
{
    kd_isa isa;
    size_t i;
    (void)state;
    FOR_EACH_ISA(isa)
    {
        kd_ctx *ctx = test_open(isa, 2);
        for (i = 0; i < sizeof golden_cases / sizeof *golden_cases; ++i) check_golden(ctx, &golden_cases[i]);
        kd_close(ctx);
    }
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, open_context, close_context)
    const struct CMUnitTest tests[] = {
        TEST(test_like_pytorch),
    };
    const int failed = cmocka_run_group_tests_name("training", tests, NULL, NULL);
    printf("training: %d runs skipped for instruction sets that this machine lacks\n", test_isas_skipped);
    return failed;
}
