/* Training and distillation: against PyTorch, against themselves in other ways, and what is refused. */
#include "support.h"
#include "golden/training.h"
#include <float.h>

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

/* ---- a set to train on ------------------------------------------------------------------------------------- */

enum { COUNT = 60, SIDE = 6, CHANNELS = 3, CLASSES = 4, FLOATS = CHANNELS * SIDE * SIDE };

static const char convolutional[] =
    "3x6x6: conv 5 3 pad=1, batchnorm, relu, maxpool 2, dropout 0.2, dense 7, tanh, dense 4";
static const char winograd[] =
    "3x6x6: conv 16 3 pad=1, relu, residual(conv 17 3 pad=1, relu, conv 16 3 pad=1), gap, dense 4";
static const char small[] = "3x6x6: dense 6, tanh, dense 4";
static const char large[] =
    "3x6x6: conv 6 3 pad=1, batchnorm, relu, maxpool 2, dense 9, relu, dropout 0.5, dense 4";

typedef struct samples {
    uint8_t pixels[COUNT][CHANNELS][SIDE][SIDE];
    int32_t labels[COUNT];
    kd_data data;
} samples;

/* Each class is bright in a quarter of its own, under noise. */
static void make_samples(samples *s, uint64_t seed)
{
    int i, c, y, x;
    for (i = 0; i < COUNT; ++i) {
        const int label = s->labels[i] = kd__rng_index(seed, (uint64_t)i, CLASSES);
        for (c = 0; c < CHANNELS; ++c) {
            for (y = 0; y < SIDE; ++y) {
                for (x = 0; x < SIDE; ++x) {
                    const int inside = y / 3 == label / 2 && x / 3 == label % 2;
                    const uint64_t number = (uint64_t)(((i * CHANNELS + c) * SIDE + y) * SIDE + x);
                    s->pixels[i][c][y][x] = (uint8_t)(inside * 60 + kd__rng_index(seed + 1, number, 190));
                }
            }
        }
    }
    s->data = kd_data_u8(&s->pixels[0][0][0][0], s->labels, COUNT, CHANNELS, SIDE, SIDE, CLASSES);
}

static kd_train_desc options(void)
{
    kd_train_desc desc = kd_train_defaults();
    desc.epochs = 3;
    desc.batch = 16;
    desc.lr = 0.01f;
    return desc;
}

static kd_augment all_changes(void)
{
    kd_augment a;
    a.shift = 1, a.flip = 1, a.rotate = 10, a.brightness = 0.2f, a.contrast = 0.2f, a.saturation = 0.2f;
    a.cutout = 2, a.mixup = 0.4f;
    return a;
}

/* The hash of a fresh model after training. */
static uint64_t trained(kd_ctx *ctx, const char *spec, const kd_data *data, const kd_train_desc *desc)
{
    kd_model *m = create_in(ctx, spec, 11);
    uint64_t hash;
    assert_ok(ctx, kd_train(m, data, desc));
    hash = kd_model_hash(m);
    kd_model_destroy(m);
    return hash;
}

static kd_model *trained_teacher(const kd_data *data)
{
    kd_train_desc desc = options();
    kd_model *teacher = create(large, 3);
    desc.epochs = 6;
    assert_ok(kd, kd_train(teacher, data, &desc));
    return teacher;
}

/* ---- the same bits --------------------------------------------------------------------------------------- */

/* Any number of threads, every instruction set with fused multiply-adds, every optimizer; everything random on. */
static void test_same_bits(void **state)
{
    static const int threads[] = {1, 2, 3, 4, 7};
    samples s;
    kd_isa isa;
    int optimizer;
    size_t i;
    (void)state;
    make_samples(&s, 5);
    for (optimizer = 0; optimizer < KD_OPTIMIZER_COUNT; ++optimizer) {
        uint64_t fused = 0;
        kd_train_desc desc = options();
        desc.optimizer = (kd_optimizer)optimizer;
        desc.augment = all_changes();
        desc.weight_decay = 0.01f, desc.clip_norm = 1, desc.max_norm = 2;
        desc.decay_norms_and_biases = 0, desc.ema = 0.9f;
        FOR_EACH_ISA(isa)
        {
            uint64_t wanted = 0;
            for (i = 0; i < sizeof threads / sizeof *threads; ++i) {
                kd_ctx *ctx = test_open(isa, threads[i]);
                kd_model *teacher = create_in(ctx, large, 2);
                uint64_t hash;
                desc.teacher = teacher;
                hash = trained(ctx, optimizer ? convolutional : winograd, &s.data, &desc);
                if (i == 0) wanted = hash;
                assert_true(hash == wanted);
                kd_model_destroy(teacher);
                kd_close(ctx);
            }
            if (isa == KD_ISA_SCALAR) continue;
            if (fused) assert_true(wanted == fused);
            fused = wanted;
        }
    }
}

/* Convolutions of few channels, whose pixels may share vectors in pairs, and those of pixels that do not. */
static void test_pixels_in_pairs(void **state)
{
    static const char *const specs[] = {
        "1x8x8: conv 8 3 pad=1, relu, conv 5 3 pad=1, relu, conv 3 3, dense 4",
        "4x8x2: conv 8 3 pad=1 groups=2, relu, conv 6 3x2 stride=2x1 pad=1x1 groups=2, relu, dense 4",
        "2x4x8: conv 7 5 stride=2 pad=2, relu, conv 9 2, relu, conv 1 1x2, relu, dense 4",
        "1x8x8: conv 2 4 stride=2 pad=1, relu, residual(conv 2 3 pad=1), conv 4 1, relu, dense 4"};
    samples s;
    kd_isa isa;
    int i;
    (void)state;
    make_samples(&s, 5);
    FOR_EACH_ISA(isa)
    {
        for (i = 0; i < KD__COUNT(specs); ++i) {
            int c = 0, h = 0, w = 0;
            kd_train_desc desc = options();
            kd_ctx *ctx = test_open(isa, 1), *plain = test_open(isa, 1);
            kd__kernels alone = *plain->k;
            kd_data data = s.data;
            assert_int_equal(sscanf(specs[i], "%dx%dx%d", &c, &h, &w), 3);
            data.channels = c, data.height = h, data.width = w;
            alone.pairs = 0;
            plain->k = &alone;
            assert_true(trained(ctx, specs[i], &data, &desc) == trained(plain, specs[i], &data, &desc));
            kd_close(plain);
            kd_close(ctx);
        }
    }
}

typedef struct backwards {
    int calls, most;
} backwards;

/* The worst order: from the last to the first, workers changing all the time. */
static void run_backwards(void *user, int count, kd_task_fn task, void *arg)
{
    backwards *b = (backwards *)user;
    int i;
    ++b->calls;
    b->most = KD__MAX(b->most, count);
    for (i = count - 1; i >= 0; --i) task(arg, i, i % 3);
}

static void test_any_order_of_tasks(void **state)
{
    samples s;
    kd_ctx_desc desc = kd_ctx_defaults();
    kd_train_desc train = options();
    backwards b = {0, 0};
    kd_ctx *ctx;
    (void)state;
    make_samples(&s, 5);
    train.augment = all_changes();
    train.batch = 60;
    desc.threads = 3;
    desc.parallel_for = run_backwards;
    desc.parallel_user = &b;
    assert_int_equal(kd_open(&desc, &ctx), KD_OK);
    assert_true(trained(ctx, convolutional, &s.data, &train) == trained(kd, convolutional, &s.data, &train));
    assert_true(b.calls > 0 && b.most > 1);
    kd_close(ctx);
}

static void test_seed_decides(void **state)
{
    samples s;
    kd_train_desc desc = options();
    uint64_t first;
    (void)state;
    make_samples(&s, 5);
    first = trained(kd, small, &s.data, &desc);
    assert_true(first == trained(kd, small, &s.data, &desc));
    desc.seed = 2; /* order alone: small has neither dropout nor augmentation */
    assert_true(first != trained(kd, small, &s.data, &desc));
    desc.shuffle = 0;
    first = trained(kd, small, &s.data, &desc);
    desc.seed = 3;
    assert_true(first == trained(kd, small, &s.data, &desc));
    first = trained(kd, convolutional, &s.data, &desc);
    desc.seed = 4; /* dropout */
    assert_true(first != trained(kd, convolutional, &s.data, &desc));
}

/* ---- where soft targets come from ------------------------------------------------------------------------ */

static int teach(void *user, const float *x, const int32_t *numbers, int n, float *logits)
{
    (void)numbers;
    return kd_predict((const kd_model *)user, x, n, logits) != KD_OK;
}

static int refuse_to_teach(void *user, const float *x, const int32_t *numbers, int n, float *logits)
{
    (void)user, (void)x, (void)numbers, (void)n, (void)logits;
    return 1;
}

/* A model, a callback, a cache, saved logits: the same student to the last bit; and the teacher stays as it was. */
static void test_sources_agree(void **state)
{
    samples s;
    kd_train_desc desc = options();
    kd_model *teacher;
    const kd_model *twice[2];
    const float weights[2] = {1, 3};
    kd_cache *cache;
    float *logits = (float *)malloc(sizeof(float) * COUNT * CLASSES);
    uint64_t live, alone, before;
    (void)state;
    make_samples(&s, 5);
    s.data.mean[0] = 0.3f, s.data.std[1] = 0.4f;
    teacher = trained_teacher(&s.data);
    before = kd_model_hash(teacher);
    alone = trained(kd, small, &s.data, &desc);
    desc.teacher = teacher;
    live = trained(kd, small, &s.data, &desc);
    assert_true(live != alone);
    assert_true(kd_model_hash(teacher) == before);
    desc.teacher = NULL;

    desc.teacher_fn = teach, desc.teacher_user = teacher;
    assert_true(trained(kd, small, &s.data, &desc) == live);
    desc.teacher_fn = NULL;

    assert_ok(kd, kd_cache_create(teacher, &s.data, NULL, 99, 1, &cache));
    desc.cache = cache;
    assert_true(trained(kd, small, &s.data, &desc) == live);
    desc.cache = NULL;

    memcpy(logits, kd_cache_logits(cache, 0), sizeof(float) * COUNT * CLASSES);
    s.data.teacher_logits = logits;
    assert_true(trained(kd, small, &s.data, &desc) == live);
    logits[7] += 0.01f;
    assert_true(trained(kd, small, &s.data, &desc) != live);
    s.data.teacher_logits = NULL;

    twice[0] = twice[1] = teacher; /* their average is the teacher, but for rounding */
    desc.teachers = twice, desc.teacher_count = 2, desc.teacher_weights = weights;
    {
        kd_model *a = create(small, 11), *b = create(small, 11);
        float x[FLOATS] = {0.5f}, ya[CLASSES], yb[CLASSES];
        int i;
        assert_ok(kd, kd_train(a, &s.data, &desc));
        desc.teachers = NULL, desc.teacher_count = 0, desc.teacher_weights = NULL, desc.teacher = teacher;
        assert_ok(kd, kd_train(b, &s.data, &desc));
        assert_ok(kd, kd_predict(a, x, 1, ya));
        assert_ok(kd, kd_predict(b, x, 1, yb));
        for (i = 0; i < CLASSES; ++i) assert_near(ya[i], yb[i], 1e-4);
        kd_model_destroy(a);
        kd_model_destroy(b);
    }
    free(logits);
    kd_cache_destroy(cache);
    kd_model_destroy(teacher);
}

/* Several teachers: what the student is told is kd_average_teachers of them. */
static void test_teachers_are_averaged(void **state)
{
    samples s;
    kd_train_desc desc = options();
    kd_model *one, *two = create(large, 77);
    const kd_model *both[2];
    const float weights[2] = {1, 3};
    kd_cache *first, *second;
    const float *each[2];
    float logits[COUNT * CLASSES];
    uint64_t averaged;
    (void)state;
    make_samples(&s, 5);
    one = trained_teacher(&s.data);
    both[0] = one, both[1] = two;
    desc.teachers = both, desc.teacher_count = 2, desc.teacher_weights = weights;
    averaged = trained(kd, small, &s.data, &desc);
    assert_ok(kd, kd_cache_create(one, &s.data, NULL, 1, 1, &first));
    assert_ok(kd, kd_cache_create(two, &s.data, NULL, 1, 1, &second));
    each[0] = kd_cache_logits(first, 0), each[1] = kd_cache_logits(second, 0);
    assert_ok(kd, kd_average_teachers(kd, each, weights, 2, COUNT, CLASSES, desc.loss.temperature, logits));
    desc.teachers = NULL, desc.teacher_count = 0, desc.teacher_weights = NULL;
    s.data.teacher_logits = logits;
    assert_true(trained(kd, small, &s.data, &desc) == averaged);
    kd_cache_destroy(first);
    kd_cache_destroy(second);
    kd_model_destroy(one);
    kd_model_destroy(two);
}

/* A cache that teachers are blended into gives what the mean of their logits gives. */
static void test_blended_caches(void **state)
{
    static const char *const differ[] = {"their augmentation", "their seed", "their number of views", "their data"};
    samples s;
    kd_train_desc desc = options();
    kd_model *one, *two = create(large, 77);
    kd_cache *cache, *second, *others[4];
    float logits[COUNT * CLASSES];
    uint64_t kept;
    int i;
    (void)state;
    make_samples(&s, 5);
    one = trained_teacher(&s.data);
    assert_ok(kd, kd_cache_create(one, &s.data, NULL, 1, 1, &cache));
    assert_ok(kd, kd_cache_create(two, &s.data, NULL, 1, 1, &second));
    for (i = 0; i < COUNT * CLASSES; ++i)
        logits[i] = 0.75f * kd_cache_logits(cache, 0)[i] + 0.25f * kd_cache_logits(second, 0)[i];
    desc.cache = cache;
    kept = trained(kd, small, &s.data, &desc);
    assert_ok(kd, kd_cache_blend(cache, second, 0.25f));
    assert_memory_equal(kd_cache_logits(cache, 0), logits, sizeof logits);
    assert_true(trained(kd, small, &s.data, &desc) != kept);
    kept = trained(kd, small, &s.data, &desc);
    desc.cache = NULL;
    s.data.teacher_logits = logits;
    assert_true(trained(kd, small, &s.data, &desc) == kept);
    s.data.teacher_logits = NULL;
    assert_ok(kd, kd_cache_blend(cache, cache, 0.5f)); /* itself */
    assert_memory_equal(kd_cache_logits(cache, 0), logits, sizeof logits);
    kd_cache_destroy(cache);
    kd_cache_destroy(second);

    desc.augment = all_changes();
    assert_ok(kd, kd_cache_create(one, &s.data, &desc.augment, 21, 2, &cache));
    assert_ok(kd, kd_cache_create(two, &s.data, &desc.augment, 21, 2, &second));
    assert_ok(kd, kd_cache_blend(cache, second, 1)); /* of both views */
    assert_memory_equal(kd_cache_logits(cache, 0), kd_cache_logits(second, 0), 2 * sizeof logits);
    assert_ok(kd, kd_cache_create(two, &s.data, &desc.augment, 22, 2, &others[1]));
    assert_ok(kd, kd_cache_create(two, &s.data, &desc.augment, 21, 3, &others[2]));
    desc.augment.shift = 0;
    assert_ok(kd, kd_cache_create(two, &s.data, &desc.augment, 21, 2, &others[0]));
    desc.augment = all_changes();
    s.pixels[0][0][0][0] ^= 1;
    assert_ok(kd, kd_cache_create(two, &s.data, &desc.augment, 21, 2, &others[3]));
    for (i = 0; i < 4; ++i) {
        assert_fails(kd, kd_cache_blend(cache, others[i], 0.5f), KD_ERR_DATA, differ[i]);
        kd_cache_destroy(others[i]);
    }
    assert_fails(kd, kd_cache_blend(cache, second, -0.5f), KD_ERR_ARGUMENT, "share must be 0 to 1, got -0.5");
    assert_fails(kd, kd_cache_blend(cache, second, NAN), KD_ERR_ARGUMENT, "share must be 0 to 1");
    assert_fails(kd, kd_cache_blend(cache, NULL, 0.5f), KD_ERR_ARGUMENT, "other must not be NULL");
    assert_int_equal(kd_cache_blend(NULL, second, 0.5f), KD_ERR_ARGUMENT);
    assert_memory_equal(kd_cache_logits(cache, 0), kd_cache_logits(second, 0), 2 * sizeof logits);
    kd_cache_destroy(cache);
    kd_cache_destroy(second);
    kd_model_destroy(one);
    kd_model_destroy(two);
}

/* With augmentation, teacher and student see the same view: a cache that was made from the same seed says so. */
static void test_views_are_shared(void **state)
{
    samples s;
    kd_train_desc desc = options();
    kd_model *teacher;
    kd_cache *cache;
    uint64_t live;
    (void)state;
    make_samples(&s, 5);
    teacher = trained_teacher(&s.data);
    desc.augment = all_changes();
    desc.seed = 21;
    desc.teacher = teacher;
    live = trained(kd, small, &s.data, &desc);
    desc.teacher = NULL;
    assert_ok(kd, kd_cache_create(teacher, &s.data, &desc.augment, 21, desc.epochs, &cache));
    desc.cache = cache;
    assert_true(trained(kd, small, &s.data, &desc) == live);
    kd_cache_destroy(cache);
    assert_ok(kd, kd_cache_create(teacher, &s.data, &desc.augment, 22, desc.epochs, &cache));
    desc.cache = cache;
    assert_true(trained(kd, small, &s.data, &desc) != live);
    kd_cache_destroy(cache);
    kd_model_destroy(teacher);
}

static void test_cache_of_other_images(void **state)
{
    samples s, other;
    kd_train_desc desc = options();
    kd_model *teacher, *m = create(small, 1);
    const uint64_t before = kd_model_hash(m);
    kd_cache *cache;
    (void)state;
    make_samples(&s, 5);
    other = s;
    other.data.pixels = other.pixels;
    other.data.labels = other.labels;
    other.pixels[COUNT - 1][2][5][5] ^= 1;
    teacher = trained_teacher(&s.data);
    assert_ok(kd, kd_cache_create(teacher, &s.data, NULL, 1, 1, &cache));
    desc.cache = cache;
    assert_fails(kd, kd_train(m, &other.data, &desc), KD_ERR_DATA, "other images");
    s.data.mean[0] = 0.1f;
    assert_fails(kd, kd_train(m, &s.data, &desc), KD_ERR_DATA, "other images");
    s.data.mean[0] = 0;
    desc.augment.flip = 1;
    assert_fails(kd, kd_train(m, &s.data, &desc), KD_ERR_DATA, "augment");
    assert_true(kd_model_hash(m) == before);
    desc.augment.flip = 0;
    other.pixels[COUNT - 1][2][5][5] ^= 1; /* equal images elsewhere in memory are the same images */
    other.labels[0] = (other.labels[0] + 1) % CLASSES;
    assert_ok(kd, kd_train(m, &other.data, &desc));
    kd_cache_destroy(cache);
    kd_model_destroy(teacher);
    kd_model_destroy(m);
}

/* KL needs no labels, and has no use for them; Hinton's loss takes rows without. */
static void test_without_labels(void **state)
{
    samples s;
    kd_train_desc desc = options();
    kd_model *teacher;
    uint64_t with;
    int i;
    (void)state;
    make_samples(&s, 5);
    teacher = trained_teacher(&s.data);
    desc.teacher = teacher;
    desc.loss = kd_loss_defaults(KD_LOSS_KL);
    with = trained(kd, small, &s.data, &desc);
    s.data.labels = NULL;
    assert_true(trained(kd, small, &s.data, &desc) == with);
    desc.loss = kd_loss_defaults(KD_LOSS_AUTO);
    assert_true(trained(kd, small, &s.data, &desc) == with);
    s.data.labels = s.labels;
    desc.loss = kd_loss_defaults(KD_LOSS_HINTON);
    desc.loss.alpha = 1;
    with = trained(kd, small, &s.data, &desc);
    for (i = 0; i < COUNT; i += 2) s.labels[i] = KD_UNLABELLED;
    assert_true(trained(kd, small, &s.data, &desc) == with);
    kd_model_destroy(teacher);
}

/* Distillation by any loss brings the student nearer to the teacher than its labels alone do. */
static void test_student_follows(void **state)
{
    static const kd_loss_kind kinds[] = {KD_LOSS_HINTON, KD_LOSS_KL, KD_LOSS_MSE, KD_LOSS_BCE};
    samples s;
    kd_train_desc desc = options();
    kd_evaluate_desc evaluate = kd_evaluate_defaults();
    kd_metrics metrics;
    kd_model *teacher, *m;
    double alone;
    size_t i;
    (void)state;
    make_samples(&s, 5);
    evaluate.teacher = teacher = trained_teacher(&s.data);
    desc.epochs = 30;
    m = create(small, 1);
    assert_ok(kd, kd_train(m, &s.data, &desc));
    assert_ok(kd, kd_evaluate_with(m, &s.data, &evaluate, &metrics));
    alone = metrics.kl;
    assert_true(metrics.accuracy > 0.95);
    kd_model_destroy(m);
    desc.teacher = teacher;
    for (i = 0; i < sizeof kinds / sizeof *kinds; ++i) {
        desc.loss = kd_loss_defaults(kinds[i]);
        desc.loss.temperature = 2;
        m = create(small, 1);
        assert_ok(kd, kd_train(m, &s.data, &desc));
        assert_ok(kd, kd_evaluate_with(m, &s.data, &evaluate, &metrics));
        if (!(metrics.kl < 0.5 * alone)) fail_msg("%s: KL %g, alone %g", kd_loss_name(kinds[i]), metrics.kl, alone);
        kd_model_destroy(m);
    }
    kd_model_destroy(teacher);
}

/* ---- data ------------------------------------------------------------------------------------------------ */

static int stream(void *user, const int32_t *numbers, int n, float *x, int32_t *labels)
{
    const samples *s = (const samples *)user;
    int i, j;
    for (i = 0; i < n; ++i) {
        const uint8_t *from = &s->pixels[numbers[i]][0][0][0];
        for (j = 0; j < FLOATS; ++j) x[i * FLOATS + j] = (float)from[j] / 255;
        labels[i] = s->labels[numbers[i]];
    }
    return 0;
}

typedef struct mixed {
    samples s;
    int asked, number;
    int32_t bad;
} mixed;

typedef struct counted {
    samples s;
    int largest;
} counted;

static int broken_stream(void *user, const int32_t *numbers, int n, float *x, int32_t *labels)
{
    (void)stream(user, numbers, n, x, labels);
    return 1;
}

static int nan_stream(void *user, const int32_t *numbers, int n, float *x, int32_t *labels)
{
    (void)stream(user, numbers, n, x, labels);
    x[3] = (float)NAN;
    return 0;
}

static int unlabelled_stream(void *user, const int32_t *numbers, int n, float *x, int32_t *labels)
{
    int i;
    (void)stream(user, numbers, n, x, labels);
    for (i = 0; i < n; ++i) labels[i] = KD_UNLABELLED;
    return 0;
}

/* Mixup asks for every batch twice: for its own samples and for those that are blended into them. */
static int bad_partners_stream(void *user, const int32_t *numbers, int n, float *x, int32_t *labels)
{
    mixed *m = (mixed *)user;
    (void)stream(&m->s, numbers, n, x, labels);
    if (++m->asked == 4) labels[2] = m->bad, m->number = numbers[2];
    return 0;
}

static int no_accuracy(void *user, const kd_epoch_info *info)
{
    assert_true(info->accuracy == -1);
    ++*(int *)user;
    return 0;
}

/* Labels of samples that mixup blends in are looked at, too; where none are asked for, none are counted. */
static void test_mixup_of_streams(void **state)
{
    mixed s;
    kd_train_desc desc = options();
    kd_data data;
    kd_model *m = create(small, 1), *teacher = create(large, 2);
    char wanted[100];
    int epochs = 0;
    (void)state;
    memset(&s, 0, sizeof s);
    make_samples(&s.s, 5);
    data = kd_data_stream(bad_partners_stream, &s, COUNT, CHANNELS, SIDE, SIDE, CLASSES);
    desc.augment.mixup = 0.4f;
    s.bad = CLASSES;
    assert_true(kd_train(m, &data, &desc) == KD_ERR_DATA);
    (void)snprintf(wanted, sizeof wanted, "label 4 of sample %d is outside 0 to 3", s.number);
    assert_non_null(strstr(kd_error(kd), wanted));
    assert_int_equal(s.asked, 4);
    s.asked = 0, s.bad = KD_UNLABELLED;
    desc.teacher = teacher;
    assert_true(kd_train(m, &data, &desc) == KD_ERR_DATA);
    assert_int_equal(s.asked, 4);
    (void)snprintf(wanted, sizeof wanted, "mixup blends labels, but sample %d has none; use loss kl", s.number);
    assert_non_null(strstr(kd_error(kd), wanted));

    data = kd_data_stream(unlabelled_stream, &s.s, COUNT, CHANNELS, SIDE, SIDE, CLASSES);
    desc.loss = kd_loss_defaults(KD_LOSS_KL);
    desc.on_epoch = no_accuracy, desc.user = &epochs;
    assert_ok(kd, kd_train(m, &data, &desc));
    assert_int_equal(epochs, desc.epochs);
    kd_model_destroy(m);
    kd_model_destroy(teacher);
}

static int modulo_batch(void *user, const int32_t *numbers, int n, float *x, int32_t *labels)
{
    counted *c = (counted *)user;
    int i;
    c->largest = KD__MAX(c->largest, n);
    for (i = 0; i < n; ++i) {
        const int32_t number = numbers[i] % COUNT;
        (void)stream(&c->s, &number, 1, x + i * FLOATS, labels + i);
    }
    return 0;
}

/* A batch is as large as was asked for. */
static void test_batches_of_evaluation(void **state)
{
    enum { MANY = 700 };
    counted c;
    kd_model *m = create(small, 1);
    kd_evaluate_desc desc = kd_evaluate_defaults();
    kd_metrics metrics, same;
    kd_data data;
    (void)state;
    memset(&c, 0, sizeof c);
    make_samples(&c.s, 5);
    data = kd_data_stream(modulo_batch, &c, MANY, CHANNELS, SIDE, SIDE, CLASSES);
    assert_ok(kd, kd_evaluate_with(m, &data, &desc, &metrics));
    assert_int_equal(c.largest, 256);
    c.largest = 0, desc.batch = 600;
    assert_ok(kd, kd_evaluate_with(m, &data, &desc, &same));
    assert_int_equal(c.largest, 600);
    assert_true(same.accuracy == metrics.accuracy && same.count == MANY);
    assert_near(same.nll, metrics.nll, 1e-9);
    kd_model_destroy(m);
}

static void test_forms_of_data(void **state)
{
    samples s;
    float *x = (float *)malloc(sizeof(float) * COUNT * FLOATS), soft[COUNT * CLASSES] = {0};
    int32_t numbers[COUNT], labels[COUNT];
    kd_train_desc desc = options();
    kd_data floats, streamed, other;
    kd_model *m = create(small, 1);
    uint64_t wanted, before = kd_model_hash(m);
    int i;
    (void)state;
    make_samples(&s, 5);
    for (i = 0; i < COUNT; ++i) numbers[i] = i, soft[i * CLASSES + s.labels[i]] = 1;
    (void)stream(&s, numbers, COUNT, x, labels);
    floats = kd_data_f32(x, s.labels, COUNT, CHANNELS, SIDE, SIDE, CLASSES);
    streamed = kd_data_stream(stream, &s, COUNT, CHANNELS, SIDE, SIDE, CLASSES);
    desc.augment = all_changes();
    wanted = trained(kd, small, &s.data, &desc);
    assert_true(trained(kd, small, &floats, &desc) == wanted);
    assert_true(trained(kd, small, &streamed, &desc) == wanted);
    s.data.soft_labels = soft; /* mixup blends them like labels */
    assert_true(trained(kd, small, &s.data, &desc) == wanted);
    streamed.soft_labels = soft; /* and what a stream says, or does not, is then not looked at */
    streamed.batch = unlabelled_stream;
    assert_true(trained(kd, small, &streamed, &desc) == wanted);

    streamed.batch = broken_stream;
    assert_fails(kd, kd_train(m, &streamed, &desc), KD_ERR_DATA,
                 "the batch callback failed for 16 samples, the first");
    other = streamed, other.user = NULL; /* whatever they hold, by shape and count */
    assert_true(kd_data_hash(&streamed) == kd_data_hash(&other));
    --other.count;
    assert_true(kd_data_hash(&streamed) != kd_data_hash(&other));
    streamed.batch = nan_stream;
    assert_fails(kd, kd_train(m, &streamed, &desc), KD_ERR_NOT_FINITE, "the batch callback");
    assert_true(kd_model_hash(m) == before);
    kd_model_destroy(m);
    free(x);
}

typedef struct watched {
    int32_t order[8 * COUNT];
    float x[8][COUNT][FLOATS]; /* by epoch and sample */
    int count, batches;
} watched;

static int watch(void *user, const float *x, const int32_t *numbers, int n, float *logits)
{
    watched *w = (watched *)user;
    int i;
    for (i = 0; i < n; ++i) {
        memcpy(w->x[w->count / COUNT][numbers[i]], x + i * FLOATS, FLOATS * sizeof *x);
        w->order[w->count++] = numbers[i];
    }
    for (i = 0; i < n * CLASSES; ++i) logits[i] = (float)i;
    ++w->batches;
    return 0;
}

static watched *watch_training(samples *s, const kd_augment *augment, int batch, uint64_t seed)
{
    watched *w = (watched *)calloc(1, sizeof *w);
    kd_train_desc desc = options();
    desc.teacher_fn = watch, desc.teacher_user = w;
    desc.epochs = 8, desc.batch = batch, desc.seed = seed, desc.augment = *augment;
    (void)trained(kd, small, &s->data, &desc);
    assert_int_equal(w->count, 8 * COUNT);
    return w;
}

/* Every epoch has every sample once, in an order of its own. */
static void test_epochs(void **state)
{
    samples s;
    kd_augment none = {0};
    watched *w;
    int epoch, i;
    (void)state;
    make_samples(&s, 5);
    w = watch_training(&s, &none, 16, 1);
    assert_int_equal(w->batches, 8 * 4);
    for (epoch = 0; epoch < 8; ++epoch) {
        int seen[COUNT] = {0};
        for (i = 0; i < COUNT; ++i) ++seen[w->order[epoch * COUNT + i]];
        for (i = 0; i < COUNT; ++i) assert_int_equal(seen[i], 1);
        if (epoch) assert_memory_not_equal(w->order, w->order + epoch * COUNT, COUNT * sizeof *w->order);
    }
    free(w);
}

/* A view depends on the seed, the epoch and the sample: not on the batch it came in. */
static void test_views_are_functions(void **state)
{
    samples s;
    const kd_augment a = all_changes();
    watched *one, *other;
    (void)state;
    make_samples(&s, 5);
    one = watch_training(&s, &a, 16, 1);
    other = watch_training(&s, &a, 7, 1);
    assert_memory_equal(one->x, other->x, sizeof one->x);
    assert_memory_not_equal(one->x[0], one->x[1], sizeof *one->x);
    free(other);
    other = watch_training(&s, &a, 16, 2);
    assert_memory_not_equal(one->x, other->x, sizeof one->x);
    free(other);
    free(one);
}

/* What one kind of change does: `seen` is how often each of the possible results was found. */
static void check_change(const char *name, const kd_augment *a, int (*result)(const float *was, const float *is),
                         int results)
{
    samples s;
    kd_augment none = {0};
    watched *was, *is;
    int seen[16] = {0}, epoch, i;
    make_samples(&s, 5);
    s.data.mean[0] = 0.2f, s.data.std[2] = 0.5f;
    was = watch_training(&s, &none, 16, 1);
    is = watch_training(&s, a, 16, 1);
    for (epoch = 0; epoch < 8; ++epoch) {
        for (i = 0; i < COUNT; ++i) {
            const int r = result(was->x[epoch][i], is->x[epoch][i]);
            if (r < 0 || r >= results) fail_msg("%s: sample %d of epoch %d is something else", name, i, epoch);
            ++seen[r];
        }
    }
    for (i = 0; i < results; ++i) { /* 480 views, about as many of each */
        if (seen[i] < 480 / results / 2 || seen[i] > 480 * 2 / results)
            fail_msg("%s: result %d was found %d times in 480", name, i, seen[i]);
    }
    free(was);
    free(is);
}

/* is[c][y][x] == was[c][y - dy][x - dx], mirrored if asked; black, normalised, from outside */
static int placed(const float *was, const float *is, int dy, int dx, int mirror)
{
    static const float black[CHANNELS] = {-0.2f, 0, 0};
    int c, y, x;
    for (c = 0; c < CHANNELS; ++c) {
        for (y = 0; y < SIDE; ++y) {
            for (x = 0; x < SIDE; ++x) {
                const int fy = y - dy, fx = (mirror ? SIDE - 1 - x : x) - dx;
                const int inside = fy >= 0 && fy < SIDE && fx >= 0 && fx < SIDE;
                const float wanted = inside ? was[(c * SIDE + fy) * SIDE + fx] : black[c];
                if (fabsf(is[(c * SIDE + y) * SIDE + x] - wanted) > 1e-6f) return 0;
            }
        }
    }
    return 1;
}

static int shift_of(const float *was, const float *is)
{
    int dy, dx;
    for (dy = -1; dy <= 1; ++dy) {
        for (dx = -1; dx <= 1; ++dx) {
            if (placed(was, is, dy, dx, 0)) return (dy + 1) * 3 + dx + 1;
        }
    }
    return -1;
}

static int mirror_of(const float *was, const float *is)
{
    return placed(was, is, 0, 0, 0) ? 0 : placed(was, is, 0, 0, 1) ? 1 : -1;
}

/* The square may stick out: its rows and columns that are inside are 0, all else is as it was. */
static int cutout_of(const float *was, const float *is)
{
    int c, y, x, top = SIDE, low = -1, left = SIDE, right = -1;
    for (y = 0; y < SIDE; ++y) {
        for (x = 0; x < SIDE; ++x) {
            if (is[y * SIDE + x] == was[y * SIDE + x]) continue;
            top = KD__MIN(top, y), low = KD__MAX(low, y), left = KD__MIN(left, x), right = KD__MAX(right, x);
        }
    }
    if (low - top >= 3 || right - left >= 3 || low < 0) return -1;
    for (c = 0; c < CHANNELS; ++c) {
        for (y = top; y <= low; ++y) {
            for (x = left; x <= right; ++x)
                if (is[(c * SIDE + y) * SIDE + x] != 0) return -1;
        }
    }
    return top < 3;
}

static int brightness_of(const float *was, const float *is)
{
    float factor = 0;
    int i;
    for (i = SIDE * SIDE; i < 2 * SIDE * SIDE; ++i) { /* channel 1 is not normalised */
        if (was[i] > 0.1f && factor == 0) factor = is[i] / was[i];
    }
    if (factor < 0.7f - 1e-5f || factor > 1.3f + 1e-5f) return -1;
    for (i = SIDE * SIDE; i < 2 * SIDE * SIDE; ++i) {
        if (fabsf(is[i] - KD__MIN(1, was[i] * factor)) > 1e-5f) return -1;
    }
    return factor > 1;
}

static void test_changes(void **state)
{
    kd_augment shift = {0}, flip = {0}, cutout = {0}, brightness = {0};
    (void)state;
    shift.shift = 1, flip.flip = 1, cutout.cutout = 3, brightness.brightness = 0.3f;
    check_change("shift", &shift, shift_of, 9);
    check_change("flip", &flip, mirror_of, 2);
    check_change("cutout", &cutout, cutout_of, 2);
    check_change("brightness", &brightness, brightness_of, 2);
}

/* Between pixels a slope is read exactly: of one that rises along rows and columns, turned about its middle, then
   shifted, then mirrored, every number is known that comes from four pixels of the image. */
static void test_turn(void **state)
{
    enum { HEIGHT = 9, WIDTH = 12 };
    float from[2 * HEIGHT * WIDTH], to[2 * HEIGHT * WIDTH];
    kd_augment a = {0};
    double least = 1, most = -1;
    uint64_t key;
    int i, x, y, known = 0, mirrored = 0;
    (void)state;
    a.rotate = 30, a.shift = 2, a.flip = 1;
    for (i = 0; i < 2 * HEIGHT * WIDTH; ++i)
        from[i] = (float)(i % WIDTH) * 0.03f + (float)(i / WIDTH % HEIGHT) * 0.05f + (float)(i / (HEIGHT * WIDTH));
    for (key = 1; key <= 100; ++key) {
        const double angle = kd__rng_range(key, 3, -30, 30) / 180 * acos(-1.0);
        const int dy = kd__rng_index(key, 0, 5) - 2, dx = kd__rng_index(key, 1, 5) - 2;
        const int mirror = (int)(kd__rng_bits(key, 2) & 1u);
        kd__augment_place(&a, key, 2, HEIGHT, WIDTH, from, to);
        least = KD__MIN(least, angle), most = KD__MAX(most, angle), mirrored += mirror;
        for (i = 0; i < 2 * HEIGHT * WIDTH; ++i) {
            double row, column;
            y = i / WIDTH % HEIGHT - dy, x = (mirror ? WIDTH - 1 - i % WIDTH : i % WIDTH) - dx;
            row = 4 + cos(angle) * (y - 4) - sin(angle) * (x - 5.5);
            column = 5.5 + sin(angle) * (y - 4) + cos(angle) * (x - 5.5);
            if (row > -1 && row < HEIGHT && column > -1 && column < WIDTH) {
                if (row < 0 || row > HEIGHT - 1 || column < 0 || column > WIDTH - 1) continue; /* fades to black */
                assert_near(to[i], 0.03 * column + 0.05 * row + i / (HEIGHT * WIDTH), 1e-5);
                ++known;
            } else {
                assert_true(to[i] == 0);
            }
        }
    }
    assert_true(least < -0.4 && most > 0.4 && mirrored > 30 && mirrored < 70 && known > 10000);
}

/* Contrast and saturation keep the mean, of the image and of each pixel. */
static void test_changes_of_colour(void **state)
{
    samples s;
    kd_augment none = {0}, contrast = {0}, saturation = {0};
    watched *was, *low, *pale;
    int i, p, c, changed = 0;
    (void)state;
    make_samples(&s, 5);
    contrast.contrast = 0.3f, saturation.saturation = 0.3f;
    was = watch_training(&s, &none, 16, 1);
    low = watch_training(&s, &contrast, 16, 1);
    pale = watch_training(&s, &saturation, 16, 1);
    for (i = 0; i < COUNT; ++i) {
        const float *x = was->x[0][i], *y = low->x[0][i], *z = pale->x[0][i];
        double before = 0, after = 0, spread = 0, spread_after = 0;
        for (p = 0; p < SIDE * SIDE; ++p) {
            double g[3] = {0};
            for (c = 0; c < 3; ++c) {
                static const double share[3] = {0.299, 0.587, 0.114};
                const int at = c * SIDE * SIDE + p;
                g[0] += share[c] * (double)x[at], g[1] += share[c] * (double)y[at],
                    g[2] += share[c] * (double)z[at];
                changed += x[at] != z[at];
            }
            before += g[0] / (SIDE * SIDE), after += g[1] / (SIDE * SIDE);
            spread += g[0] * g[0], spread_after += g[1] * g[1];
            if (z[p] > 0 && z[p] < 1 && z[p + 36] > 0 && z[p + 36] < 1 && z[p + 72] > 0 && z[p + 72] < 1)
                assert_near(g[2], g[0], 1e-5);
        }
        assert_near(after, before, 0.02); /* some are clamped */
        assert_true(fabs(spread_after - spread) > 1e-9);
    }
    assert_true(changed > COUNT * FLOATS * 8 / 10);
    free(was);
    free(low);
    free(pale);
}

/* Mixup: x = share * one + (1 - share) * other, shares by Beta(a, a). */
static void test_mixup(void **state)
{
    samples s;
    kd_augment none = {0}, mixup = {0};
    watched *was, *is;
    double sum = 0, squares = 0;
    int epoch, i, j, k, found = 0;
    (void)state;
    make_samples(&s, 5);
    mixup.mixup = 0.4f;
    was = watch_training(&s, &none, 16, 1);
    is = watch_training(&s, &mixup, 16, 1);
    for (epoch = 0; epoch < 8; ++epoch) {
        for (i = 0; i < COUNT; ++i) {
            const float *x = is->x[epoch][i], *a = was->x[0][i];
            for (j = 0; j < COUNT; ++j) {
                const float *b = was->x[0][j];
                double dot = 0, length = 0, share, error = 0;
                for (k = 0; k < FLOATS; ++k) {
                    dot += (double)(x[k] - b[k]) * (double)(a[k] - b[k]);
                    length += (double)(a[k] - b[k]) * (double)(a[k] - b[k]);
                }
                share = length > 0 ? dot / length : 1;
                for (k = 0; k < FLOATS; ++k)
                    error += fabs((double)x[k] - share * (double)a[k] - (1 - share) * (double)b[k]);
                if (error > 1e-3) continue;
                if (j != i || length == 0) sum += share, squares += share * share, ++found;
                break;
            }
            assert_true(j < COUNT);
        }
    }
    sum /= found, squares /= found;
    assert_true(found > 440);
    assert_true(fabs(sum - 0.5) < 0.08);                        /* Beta(0.4, 0.4): mean 1/2 */
    assert_true(fabs(squares - sum * sum - 0.25 / 1.8) < 0.03); /* variance 1/(4 (2a + 1)) */
    free(was);
    free(is);
}

/* ---- steps ----------------------------------------------------------------------------------------------- */

/* A warmup of less than a step is one step, at the full rate; SGD without momentum keeps no velocity. */
static void test_nothing_to_keep(void **state)
{
    samples s;
    kd_train_desc desc = options();
    kd_model *m = create(small, 11);
    kd_trainer *t;
    int with;
    (void)state;
    desc.warmup = 0.1f;
    assert_near(kd_learning_rate(&desc, 0, 3), desc.lr, 1e-12);
    assert_near(kd_learning_rate(&desc, 1, 3), desc.lr, 1e-12);
    desc.schedule = KD_EXPONENTIAL;
    assert_near(kd_learning_rate(&desc, 0, 0), desc.lr, 1e-12);
    desc.schedule = KD_LINEAR, desc.lr_end = 0, desc.warmup = (float)desc.epochs; /* nothing left to fall in */
    assert_near(kd_learning_rate(&desc, 3 * desc.epochs, 3), desc.lr, 1e-12);
    desc.lr_end = options().lr_end, desc.warmup = 0.1f;
    desc.schedule = KD_CONSTANT;
    make_samples(&s, 5);
    desc.optimizer = KD_SGD;
    for (with = 0; with < 2; ++with) {
        desc.momentum = with ? 0.9f : 0;
        assert_ok(kd, kd_trainer_open(m, &s.data, &desc, &t));
        assert_int_equal(t->optim.first != NULL, with);
        kd_trainer_close(t);
    }
    kd_model_destroy(m);
}

/* More weights than one task updates: the same as all in one go, for every optimizer, and SGD with two momenta. */
static void test_updates_in_pieces(void **state)
{
    int variant, step;
    (void)state;
    for (variant = 0; variant <= KD_OPTIMIZER_COUNT; ++variant) {
        const int dot = variant == KD_OPTIMIZER_COUNT;
        kd_model *m = create("300: dense 120", 1);
        const size_t count = m->weight_count;
        float *w = test_floats(1, count, 0), *first = test_floats(1, count, 0), *second = test_floats(1, count, 0);
        float *grads = test_floats(2, count, 1), *soft = test_floats(3, count, 1);
        kd_train_desc desc = options();
        kd__optim o;
        assert_true(kd__pieces((ptrdiff_t)count) > 2);
        desc.optimizer = dot ? KD_SGD : (kd_optimizer)variant;
        desc.dot_delta = dot ? 0.05f : 0;
        desc.weight_decay = 0.01f;
        memcpy(w, m->weights, count * sizeof *w);
        assert_ok(kd, kd__optim_open(&o, m, &desc));
        for (step = 0; step < 3; ++step) {
            assert_int_equal(kd__optim_step(&o, grads, dot ? soft : NULL, 0.01, 1), 1);
            kd->k->update(&o.update, (ptrdiff_t)count, w, grads, first, second);
            if (dot) {
                kd__update u = o.update;
                u.momentum = desc.momentum + desc.dot_delta;
                u.decay = 0;
                kd->k->update(&u, (ptrdiff_t)count, w, soft, second, NULL);
            }
        }
        assert_memory_equal(w, m->weights, count * sizeof *w);
        m->weights[count - 1] = 1e16f; /* which any piece may find */
        assert_int_equal(kd__optim_step(&o, grads, dot ? soft : NULL, 0.01, 1), 0);
        m->weights[count - 1] = 0, m->weights[0] = 1e16f;
        assert_int_equal(kd__optim_step(&o, grads, dot ? soft : NULL, 0.01, 1), 0);
        kd__optim_close(&o);
        kd_model_destroy(m);
        free(w), free(first), free(second), free(grads), free(soft);
    }
}

/* Batches whose gradients are gathered make the update of one large batch. */
static void test_accumulation(void **state)
{
    samples s;
    kd_train_desc desc = options();
    kd_model *whole = create(small, 1), *parts = create(small, 1);
    float x[FLOATS] = {0.3f}, a[CLASSES], b[CLASSES];
    int i;
    (void)state;
    make_samples(&s, 5);
    desc.optimizer = KD_SGD, desc.epochs = 4;
    desc.batch = 60;
    assert_ok(kd, kd_train(whole, &s.data, &desc));
    desc.batch = 15, desc.accumulate = 4;
    assert_ok(kd, kd_train(parts, &s.data, &desc));
    assert_ok(kd, kd_predict(whole, x, 1, a));
    assert_ok(kd, kd_predict(parts, x, 1, b));
    for (i = 0; i < CLASSES; ++i) assert_near(a[i], b[i], 1e-5);
    kd_model_destroy(whole);
    kd_model_destroy(parts);
}

static void test_max_norm(void **state)
{
    samples s;
    kd_train_desc desc = options();
    kd_model *m = create(small, 1);
    float w[6 * FLOATS], bias[6];
    double largest = 0;
    int unit, i;
    (void)state;
    make_samples(&s, 5);
    desc.max_norm = 0.5f, desc.lr = 0.1f;
    for (i = 0; i < 6; ++i) bias[i] = 3;
    assert_ok(kd, kd_model_set_tensor(m, "1.bias", bias, 6));
    assert_ok(kd, kd_train(m, &s.data, &desc));
    assert_ok(kd, kd_model_get_tensor(m, "1.bias", bias, 6)); /* is not a weight into a unit */
    for (i = 0; i < 6; ++i) assert_true(bias[i] > 0.6f);
    assert_ok(kd, kd_model_get_tensor(m, "1.weight", w, 6 * FLOATS));
    for (unit = 0; unit < 6; ++unit) {
        double sum = 0;
        for (i = 0; i < FLOATS; ++i) sum += (double)w[unit * FLOATS + i] * (double)w[unit * FLOATS + i];
        largest = KD__MAX(largest, sqrt(sum));
    }
    assert_true(largest <= 0.5 + 1e-6 && largest > 0.499);
    kd_model_destroy(m);
}

typedef struct stopper {
    int steps, epochs, at_step, at_epoch, requests, grown;
} stopper;

static int count_steps(void *user, const kd_step_info *info)
{
    stopper *s = (stopper *)user;
    assert_int_equal(info->step, s->steps % info->steps);
    assert_int_equal(info->epoch, s->steps / info->steps);
    if (s->steps > 0) s->grown += memory.requests != s->requests;
    s->requests = memory.requests;
    return ++s->steps == s->at_step;
}

static int count_epochs(void *user, const kd_epoch_info *info)
{
    stopper *s = (stopper *)user;
    assert_int_equal(info->epoch, s->epochs);
    assert_true(info->images == (int64_t)(s->epochs + 1) * COUNT);
    assert_true(info->loss > 0 && info->accuracy >= 0 && info->accuracy <= 1);
    return ++s->epochs == s->at_epoch;
}

/* One output has two classes, in training as in evaluation. */
static void test_single_output(void **state)
{
    samples s;
    kd_train_desc desc = options();
    kd_metrics metrics;
    kd_model *m = create("3x6x6: dense 1", 11);
    int i;
    (void)state;
    make_samples(&s, 5);
    for (i = 0; i < COUNT; ++i) s.labels[i] &= 1;
    desc.loss = kd_loss_defaults(KD_LOSS_BCE);
    s.data.classes = 1;
    for (i = 0; s.labels[i] == 0; ++i) {}
    assert_fails(kd, kd_train(m, &s.data, &desc), KD_ERR_DATA,
                 "is outside 0 to 0; classes are 2 where one output tells 0 from 1");
    assert_fails(kd, kd_evaluate(m, &s.data, &metrics), KD_ERR_DATA, "is outside 0 to 0");
    s.data.classes = 2;
    assert_ok(kd, kd_train(m, &s.data, &desc));
    assert_ok(kd, kd_evaluate(m, &s.data, &metrics));
    s.data.type = KD_PIXELS_IDS_U8;
    assert_fails(kd, kd_train(m, &s.data, &desc), KD_ERR_DATA, "reads pixels, but the data are ids of tokens");
    s.data.type = (kd_pixels)4;
    assert_fails(kd, kd_train(m, &s.data, &desc), KD_ERR_DATA, "KD_PIXELS_U8, KD_PIXELS_F32 or that of ids, got 4");
    s.data.type = (kd_pixels)-1;
    assert_fails(kd, kd_evaluate(m, &s.data, &metrics), KD_ERR_DATA,
                 "KD_PIXELS_U8, KD_PIXELS_F32 or that of ids, got ");
    kd_model_destroy(m);
}

/* A callback that goes on by itself is told not to, and changes nothing. */
static int step_again(void *user, const kd_step_info *info)
{
    kd_step_info own;
    (void)info;
    assert_fails(kd, kd_trainer_step(*(kd_trainer **)user, &own), KD_ERR_ARGUMENT,
                 "called from a callback of its own");
    return 0;
}

static void test_step_in_callback(void **state)
{
    samples s;
    kd_train_desc desc = options();
    kd_model *m = create(small, 11);
    kd_trainer *t = NULL;
    uint64_t usual;
    (void)state;
    make_samples(&s, 5);
    usual = trained(kd, small, &s.data, &desc);
    desc.on_step = step_again, desc.user = &t;
    assert_ok(kd, kd_trainer_open(m, &s.data, &desc, &t));
    while (!kd_trainer_done(t)) assert_ok(kd, kd_trainer_step(t, NULL));
    kd_trainer_close(t);
    assert_true(kd_model_hash(m) == usual);
    kd_model_destroy(m);
}

/* Stopping after n steps leaves the weights of n steps; no step asks for memory. */
static void test_stopping(void **state)
{
    samples s;
    kd_train_desc desc = options();
    stopper stop = {0};
    kd_model *teacher, *m;
    uint64_t one_epoch;
    (void)state;
    make_samples(&s, 5);
    teacher = trained_teacher(&s.data);
    desc.augment = all_changes();
    desc.teacher = teacher;
    desc.accumulate = 2, desc.clip_norm = 1;
    desc.on_step = count_steps, desc.on_epoch = count_epochs, desc.user = &stop;
    m = create(convolutional, 11);
    assert_int_equal(kd_train(m, &s.data, &desc), KD_OK);
    assert_int_equal(stop.steps, 12);
    assert_int_equal(stop.epochs, 3);
    assert_int_equal(stop.grown, 0);
    kd_model_destroy(m);

    desc.epochs = 1;
    memset(&stop, 0, sizeof stop);
    one_epoch = trained(kd, convolutional, &s.data, &desc);
    desc.epochs = 3;
    memset(&stop, 0, sizeof stop);
    stop.at_epoch = 1;
    m = create(convolutional, 11);
    assert_int_equal(kd_train(m, &s.data, &desc), KD_STOPPED);
    assert_true(kd_model_hash(m) == one_epoch);
    kd_model_destroy(m);
    memset(&stop, 0, sizeof stop);
    stop.at_step = 4;
    m = create(convolutional, 11);
    assert_int_equal(kd_train(m, &s.data, &desc), KD_STOPPED);
    assert_int_equal(stop.epochs, 0);
    assert_true(kd_model_hash(m) == one_epoch);
    kd_model_destroy(m);
    kd_model_destroy(teacher);
}

/* ---- validation ------------------------------------------------------------------------------------------ */

typedef struct history {
    double score[64];
    uint64_t hash[64];
    int best, epochs, held;
} history;

static int note(void *user, const kd_epoch_info *info)
{
    history *h = (history *)user;
    assert_true(info->has_validation);
    h->score[h->epochs] = info->validation.accuracy - 1e-9 * info->validation.nll / (1 + info->validation.nll);
    h->hash[h->epochs] = kd_model_hash(info->model);
    h->held = info->validation.count;
    if (info->is_best) h->best = h->epochs;
    ++h->epochs;
    return 0;
}

static void test_validation(void **state)
{
    samples s, other;
    kd_train_desc desc = options();
    history h = {{0}, {0}, 0, 0, 0};
    kd_model *m = create(small, 1);
    int i;
    (void)state;
    make_samples(&s, 5);
    make_samples(&other, 6);
    desc.epochs = 20, desc.lr = 0.05f, desc.validation_data = &other.data, desc.keep = KD_KEEP_BEST;
    desc.on_epoch = note, desc.user = &h;
    assert_ok(kd, kd_train(m, &s.data, &desc));
    assert_int_equal(h.epochs, 20);
    assert_int_equal(h.held, COUNT);
    for (i = 0; i < 20; ++i) assert_true(h.score[i] <= h.score[h.best]);
    assert_true(kd_model_hash(m) == h.hash[h.best]);
    kd_model_destroy(m);

    /* patience: ends that many epochs after the best */
    memset(&h, 0, sizeof h);
    m = create(small, 1);
    desc.epochs = 60, desc.patience = 3, desc.keep = KD_KEEP_LAST;
    assert_ok(kd, kd_train(m, &s.data, &desc));
    assert_true(h.epochs < 60);
    assert_int_equal(h.epochs - 1 - h.best, 3);
    assert_true(kd_model_hash(m) == h.hash[h.epochs - 1]);
    kd_model_destroy(m);
}

/* ---- moving averages ------------------------------------------------------------------------------------- */

enum { MOST_TENSORS = 16, MOST_NUMBERS = 700 };

/* The average by its definition, from the weights after each step. */
typedef struct averaging {
    kd_model *m;
    double average[MOST_TENSORS][MOST_NUMBERS];
    double decay;
    int accumulate, batches, updates, epochs;
    kd_metrics validation; /* of the last epoch */
} averaging;

static void check_averages(const averaging *a, const kd_model *m)
{
    float values[MOST_NUMBERS];
    kd_tensor_info info;
    int i, j;
    for (i = 0; i < kd_model_tensors(m); ++i) {
        assert_ok(kd, kd_model_tensor_info(m, i, &info));
        assert_ok(kd, kd_model_get_tensor(m, info.name, values, info.count));
        for (j = 0; j < (int)info.count; ++j) {
            const double wanted = a->average[i][j];
            if (fabs((double)values[j] - wanted) > 2e-6 * (1 + fabs(wanted)))
                fail_msg("epoch %d, %s[%d] is %.9g, expected %.9g", a->epochs, info.name, j, (double)values[j],
                         wanted);
        }
    }
}

static void follow(averaging *a, double share)
{
    float values[MOST_NUMBERS];
    kd_tensor_info info;
    int i, j;
    assert_true(kd_model_tensors(a->m) <= MOST_TENSORS);
    for (i = 0; i < kd_model_tensors(a->m); ++i) {
        assert_ok(kd, kd_model_tensor_info(a->m, i, &info));
        assert_true(info.count <= MOST_NUMBERS);
        assert_ok(kd, kd_model_get_tensor(a->m, info.name, values, info.count));
        for (j = 0; j < (int)info.count; ++j) a->average[i][j] += share * ((double)values[j] - a->average[i][j]);
    }
}

static int follow_step(void *user, const kd_step_info *info)
{
    averaging *a = (averaging *)user;
    double decay;
    if (++a->batches % a->accumulate != 0 && info->step != info->steps - 1) return 0;
    if (info->step == info->steps - 1) a->batches = 0;
    ++a->updates;
    decay = (1.0 + a->updates) / (10.0 + a->updates);
    follow(a, 1 - (decay < a->decay ? decay : a->decay));
    return 0;
}

static int follow_epoch(void *user, const kd_epoch_info *info)
{
    averaging *a = (averaging *)user;
    check_averages(a, info->model);
    a->validation = info->validation;
    ++a->epochs;
    return 0;
}

static void test_moving_average(void **state)
{
    static const char *const lines[] = {"3x6x6: conv 5 3 pad=1, batchnorm, relu, maxpool 2, dense 4", small};
    samples s, other;
    averaging *a = (averaging *)malloc(sizeof *a);
    int accumulate, line;
    (void)state;
    make_samples(&s, 5);
    make_samples(&other, 6);
    for (line = 0; line < 2; ++line) {
        for (accumulate = 1; accumulate <= 3; ++accumulate) {
            kd_train_desc desc = options();
            kd_model *raw = create(lines[line], 11);
            kd_metrics metrics;
            uint64_t hash;
            memset(a, 0, sizeof *a);
            a->m = create(lines[line], 11);
            a->decay = 0.75, a->accumulate = accumulate; /* reached by the 26th update */
            follow(a, 1);
            desc.epochs = 9, desc.ema = 0.75f, desc.accumulate = accumulate, desc.validation_data = &other.data;
            desc.on_step = follow_step, desc.on_epoch = follow_epoch, desc.user = a;
            assert_ok(kd, kd_train(a->m, &s.data, &desc));
            assert_int_equal(a->epochs, 9);
            assert_int_equal(a->updates, 9 * ((4 + accumulate - 1) / accumulate));
            check_averages(a, a->m);
            assert_ok(kd, kd_evaluate(a->m, &other.data, &metrics)); /* what validation has seen */
            assert_true(metrics.accuracy == a->validation.accuracy && metrics.nll == a->validation.nll);
            hash = kd_model_hash(a->m);
            desc.on_step = NULL, desc.on_epoch = NULL, desc.ema = 0;
            assert_ok(kd, kd_train(raw, &s.data, &desc));
            assert_true(kd_model_hash(raw) != hash);
            kd_model_destroy(raw);
            kd_model_destroy(a->m);
        }
    }
    free(a);
}

/* The best of the averages, not the average of the best; and a failure leaves what was in training. */
static void test_best_average(void **state)
{
    samples s, other;
    kd_train_desc desc = options();
    history h = {{0}, {0}, 0, 0, 0};
    kd_model *m = create(small, 1);
    (void)state;
    make_samples(&s, 5);
    make_samples(&other, 6);
    desc.epochs = 30, desc.lr = 0.1f, desc.validation_data = &other.data, desc.keep = KD_KEEP_BEST;
    desc.ema = 0.7f, desc.on_epoch = note, desc.user = &h;
    assert_ok(kd, kd_train(m, &s.data, &desc));
    assert_true(h.best < 29); /* or this would say nothing */
    assert_true(kd_model_hash(m) == h.hash[h.best]);
    kd_model_destroy(m);
    desc = options();
    desc.ema = 0.9f, desc.epochs = 0;
    m = create(small, 1);
    {
        const uint64_t before = kd_model_hash(m);
        assert_ok(kd, kd_train(m, &s.data, &desc));
        assert_true(kd_model_hash(m) == before);
    }
    kd_model_destroy(m);
}

/* ---- what does not decay --------------------------------------------------------------------------------- */

/* After one update: vectors as without weight decay, all else as with it. */
static void test_decay_of_some(void **state)
{
    static const char *const lines[] = {
        "3x6x6: conv 5 3 pad=1 groups=1, batchnorm, relu, depthwise 3, gap, dense 70, tanh, dense 4",
        "3x6x6: dense 90, relu, dense 60, tanh, dense 4", "3x6x6: dense 6, softtree 3 4"};
    samples s;
    kd_isa isa;
    int optimizer, line, i, j;
    (void)state;
    make_samples(&s, 5);
    FOR_EACH_ISA(isa)
    {
        kd_ctx *ctx = test_open(isa, 2);
        for (optimizer = 0; optimizer < 3 * KD_OPTIMIZER_COUNT; ++optimizer) {
            kd_model *m[3];
            line = optimizer / KD_OPTIMIZER_COUNT;
            for (i = 0; i < 3; ++i) { /* none decays, some, all */
                kd_train_desc desc = options();
                desc.optimizer = (kd_optimizer)(optimizer % KD_OPTIMIZER_COUNT);
                desc.epochs = 1, desc.batch = COUNT, desc.weight_decay = i ? 0.5f : 0;
                desc.decay_norms_and_biases = i != 1;
                m[i] = create_in(ctx, lines[line], 11);
                for (j = 0; j < m[i]->param_count; ++j) { /* what starts at 0 would not decay */
                    const kd__param *p = &m[i]->params[j];
                    if (p->rank == 1) kd__param_stored(m[i], p)[0] += 1;
                }
                assert_ok(ctx, kd_train(m[i], &s.data, &desc));
            }
            for (j = 0; j < m[0]->param_count; ++j) {
                const kd__param *p = &m[0]->params[j];
                const size_t bytes = p->size * sizeof(float);
                const float *some = m[1]->weights + p->offset;
                if (!p->trained) continue;
                assert_memory_equal(some, m[p->rank == 1 ? 0 : 2]->weights + p->offset, bytes);
                if (optimizer % KD_OPTIMIZER_COUNT != KD_ADAM && /* whose first step is lr, whatever the gradient */
                    memcmp(some, m[p->rank == 1 ? 2 : 0]->weights + p->offset, bytes) == 0)
                    fail_msg("%s, %s: weight decay changes nothing", lines[line], p->name);
            }
            for (i = 0; i < 3; ++i) kd_model_destroy(m[i]);
        }
        kd_close(ctx);
    }
}

/* ---- what is held out ---------------------------------------------------------------------------------------- */

static int outside_validation(void *user, const float *x, const int32_t *numbers, int n, float *logits)
{
    int *seen = (int *)user, i;
    (void)x;
    for (i = 0; i < n; ++i) ++seen[numbers[i]];
    memset(logits, 0, sizeof(float) * (size_t)n * CLASSES);
    return 0;
}

/* Accuracy comes first, however sure the model is of what it gets wrong. */
static void test_accuracy_first(void **state)
{
    enum { EPOCHS_SEEN = 2 };
    const int32_t labels[4] = {0, 1, 0, 1};
    const float x[EPOCHS_SEEN][4] = {{1, -1, -1, 1}, {4e9f, -4e9f, -4e9f, -4e9f}}; /* one wrong of four, but how */
    kd_data data = kd_data_f32(x[0], labels, 4, 1, 1, 1, 2);
    kd_train_desc desc = options();
    kd_model *m = create("1: dense 2 bias=0", 1);
    const float weight[2] = {1, -1};
    history h = {{0}, {0}, 0, 0, 0};
    kd_trainer *t;
    kd_epoch_info info;
    (void)state;
    assert_ok(kd, kd_model_set_tensor(m, "0.weight", weight, 2));
    desc.validation_data = &data, desc.keep = KD_KEEP_BEST;
    desc.on_epoch = note, desc.user = &h;
    assert_ok(kd, kd_trainer_open(m, &data, &desc, &t));
    memset(&info, 0, sizeof info);
    assert_ok(kd, kd__trainer_validate(t, &info));
    assert_near(info.validation.accuracy, 0.5, 1e-12);
    assert_true(info.is_best);
    memcpy((float *)(uintptr_t)data.pixels, x[1], sizeof x[1]);
    assert_ok(kd, kd__trainer_validate(t, &info));
    assert_near(info.validation.accuracy, 0.75, 1e-12);
    assert_true(info.validation.nll > 1e6);
    assert_true(info.is_best);
    kd_trainer_close(t);
    kd_model_destroy(m);
}

/* What is held out must have something to judge by where something depends on it: before the first step, and of a
   stream in its first epoch. */
static void test_nothing_to_judge_by(void **state)
{
    samples s;
    int32_t labels[COUNT];
    float logits[COUNT * CLASSES] = {0};
    kd_train_desc desc = options();
    kd_model *m = create(small, 1), *teacher = create(large, 2);
    const kd_model *teachers[2];
    kd_data streamed;
    kd_trainer *t;
    uint64_t before = kd_model_hash(m);
    int i, held;
    (void)state;
    make_samples(&s, 5);
    desc.validation = 0.25f, desc.keep = KD_KEEP_BEST;
    desc.teachers = teachers, desc.teacher_count = 2, teachers[0] = teachers[1] = teacher;
    desc.loss = kd_loss_defaults(KD_LOSS_KL);
    assert_ok(kd, kd_trainer_open(m, &s.data, &desc, &t));
    for (i = 0; i < COUNT; ++i) labels[i] = s.labels[i];
    for (i = t->train_count; i < COUNT; ++i) labels[t->order[i]] = KD_UNLABELLED;
    held = t->order[COUNT - 1];
    kd_trainer_close(t);
    s.data.labels = labels;
    assert_fails(kd, kd_train(m, &s.data, &desc), KD_ERR_ARGUMENT, "need validation data with labels, targets or");
    desc.keep = KD_KEEP_LAST, desc.patience = 2;
    assert_fails(kd, kd_train(m, &s.data, &desc), KD_ERR_ARGUMENT, "need validation data with labels, targets or");
    assert_true(kd_model_hash(m) == before);
    labels[held] = s.labels[held]; /* one will do */
    assert_ok(kd, kd_train(m, &s.data, &desc));
    streamed = kd_data_stream(unlabelled_stream, &s, COUNT, CHANNELS, SIDE, SIDE, CLASSES);
    assert_fails(kd, kd_train(m, &streamed, &desc), KD_ERR_DATA, "no sample of the validation data has a label");
    desc.patience = 0;
    assert_ok(kd, kd_train(m, &streamed, &desc));
    desc.patience = 2, desc.teachers = NULL, desc.teacher_count = 0;
    streamed.teacher_logits = logits;
    assert_ok(kd, kd_train(m, &streamed, &desc));
    kd_model_destroy(m);
    kd_model_destroy(teacher);
}

/* The held-out share is never trained on, and depends on the seed alone. */
static void test_split(void **state)
{
    samples s;
    kd_train_desc desc = options();
    history h = {{0}, {0}, 0, 0, 0};
    int seen[3][COUNT] = {{0}}, run, i, held = 0;
    (void)state;
    make_samples(&s, 5);
    desc.validation = 0.25f;
    desc.teacher_fn = outside_validation;
    desc.on_epoch = note, desc.user = &h;
    for (run = 0; run < 3; ++run) {
        desc.teacher_user = seen[run];
        desc.seed = run == 2 ? 8 : 7;
        desc.batch = run == 1 ? 5 : 16;
        memset(&h, 0, sizeof h);
        (void)trained(kd, small, &s.data, &desc);
        assert_int_equal(h.held, COUNT / 4);
    }
    for (i = 0; i < COUNT; ++i) {
        assert_true(seen[0][i] == 0 || seen[0][i] == desc.epochs);
        held += seen[0][i] == 0;
    }
    assert_int_equal(held, COUNT / 4);
    assert_memory_equal(seen[0], seen[1], sizeof seen[0]);
    assert_memory_not_equal(seen[0], seen[2], sizeof seen[0]);
    s.data.count = 10, desc.teacher_fn = NULL;
    for (i = 1; i <= 9; ++i) { /* of ten samples, as many tenths */
        desc.validation = (float)i / 10;
        memset(&h, 0, sizeof h);
        (void)trained(kd, small, &s.data, &desc);
        assert_int_equal(h.held, i);
    }
}

/* Without shuffle, samples come in their order, though some are held out. */
static void test_order_of_the_rest(void **state)
{
    samples s;
    kd_train_desc desc = options();
    kd_model *m = create(small, 1);
    int folds, i;
    (void)state;
    make_samples(&s, 5);
    desc.shuffle = 0;
    for (folds = 0; folds < 2; ++folds) {
        kd_trainer *t;
        desc.validation = folds ? 0 : 0.25f;
        assert_ok(kd, kd__trainer_new(m, &s.data, &desc, 0, folds ? 3 : 0, &t));
        assert_true(t->train_count < COUNT);
        for (i = 1; i < t->train_count; ++i) assert_true(t->order[i] > t->order[i - 1]);
        kd_trainer_close(t);
    }
    kd_model_destroy(m);
}

/* Other pixels in the held-out images, and nothing of what is learned changes, though mixup blends images. */
static void test_mixup_of_held_out(void **state)
{
    samples s;
    kd_train_desc desc = options();
    int seen[COUNT] = {0}, i;
    kd_model *teacher = create(large, 2);
    kd_cache *cache;
    kd_model *m;
    uint64_t hash;
    (void)state;
    make_samples(&s, 5);
    desc.validation = 0.25f, desc.augment.mixup = 0.4f;
    desc.teacher_fn = outside_validation, desc.teacher_user = seen;
    hash = trained(kd, small, &s.data, &desc);
    for (i = 0; i < COUNT; ++i) {
        if (!seen[i]) memset(s.pixels[i], i, sizeof s.pixels[i]);
    }
    assert_true(trained(kd, small, &s.data, &desc) == hash);
    desc.teacher_fn = NULL;
    assert_ok(kd, kd_cache_create(teacher, &s.data, &desc.augment, 1, 2, &cache));
    desc.cache = cache;
    m = create(small, 1);
    assert_fails(kd, kd_train(m, &s.data, &desc), KD_ERR_ARGUMENT, "held-out ones blended in; use validation_data");
    kd_model_destroy(m);
    kd_model_destroy(teacher);
    kd_cache_destroy(cache);
}

/* ---- what is refused ------------------------------------------------------------------------------------- */

static void test_numbers_out_of_range(void **state)
{
    static const struct {
        const char *name;
        size_t offset;
        int is_int;
        double low, high; /* both refused */
    } numbers[] = {
#define NUMBER(name, is_int, low, high) {#name, offsetof(kd_train_desc, name), is_int, low, high}
        NUMBER(epochs, 1, -1, -5),         NUMBER(batch, 1, 0, 65537),     NUMBER(accumulate, 1, 0, -1),
        NUMBER(lr, 0, -0.1, HUGE_VAL),     NUMBER(momentum, 0, -0.1, 1.5), NUMBER(beta1, 0, -0.1, 1),
        NUMBER(beta2, 0, -0.1, 1),         NUMBER(epsilon, 0, -1, 0),      NUMBER(weight_decay, 0, -1, 1e9),
        NUMBER(max_norm, 0, -1, HUGE_VAL), NUMBER(clip_norm, 0, -1, NAN),  NUMBER(warmup, 0, -1, NAN),
        NUMBER(validation, 0, -0.1, 0.95), NUMBER(patience, 1, -1, -2),    NUMBER(schedule_gamma, 0, -1, NAN),
        NUMBER(schedule_step, 0, -1, NAN), NUMBER(ema, 0, -0.1, 1),        NUMBER(decay_norms_and_biases, 1, -1, 2),
#undef NUMBER
    };
    samples s;
    kd_model *m = create(small, 1);
    const uint64_t before = kd_model_hash(m);
    size_t i;
    int side;
    (void)state;
    make_samples(&s, 5);
    for (i = 0; i < sizeof numbers / sizeof *numbers; ++i) {
        for (side = 0; side < 2; ++side) {
            kd_train_desc desc = options();
            const double value = side ? numbers[i].high : numbers[i].low;
            char *at = (char *)&desc + numbers[i].offset;
            const int whole = numbers[i].is_int ? (int)value : 0;
            const float number = (float)value;
            desc.schedule = KD_STEP;
            memcpy(at, numbers[i].is_int ? (const void *)&whole : (const void *)&number, 4);
            assert_fails(kd, kd_train(m, &s.data, &desc), KD_ERR_ARGUMENT, numbers[i].name);
        }
    }
    assert_true(kd_model_hash(m) == before);
    kd_model_destroy(m);
}

#define REFUSED(result, text, change)                                                                              \
    do {                                                                                                           \
        kd_train_desc d = options();                                                                               \
        kd_data data = s.data;                                                                                     \
        change;                                                                                                    \
        assert_fails(kd, kd_train(m, &data, &d), result, text);                                                    \
        assert_true(kd_model_hash(m) == before);                                                                   \
    } while (0)

static void test_refused(void **state)
{
    samples s;
    kd_model *m = create(small, 1), *teacher = create(large, 1), *wide = create("3x6x6: dense 5", 1),
             *image = create("3x6x6: conv 4 3", 1), *grey = create("1x6x6: dense 4", 1);
    const kd_model *list[2];
    const uint64_t before = kd_model_hash(m);
    const float weights[2] = {1, 0};
    float soft[COUNT * CLASSES] = {0}, logits[COUNT * CLASSES] = {0}, bad[COUNT * CLASSES] = {0};
    int32_t labels[COUNT];
    float *x = test_floats(1, COUNT * FLOATS, 1);
    kd_train_desc raw;
    (void)state;
    memset(&raw, 0, sizeof raw);
    make_samples(&s, 5);
    memcpy(labels, s.labels, sizeof labels);
    labels[17] = CLASSES;
    bad[9] = (float)NAN;
    x[5 * FLOATS + 7] = (float)NAN;
    list[0] = teacher, list[1] = NULL;

    assert_int_equal(kd_train(NULL, &s.data, &raw), KD_ERR_ARGUMENT);
    assert_fails(kd, kd_train(m, &s.data, &raw), KD_ERR_DEFAULTS, "kd_train_defaults");
    REFUSED(KD_ERR_DEFAULTS, "kd_data_u8", data.cookie = 0);
    REFUSED(KD_ERR_DEFAULTS, "kd_loss_defaults", d.loss.cookie = 0);
    REFUSED(KD_ERR_DATA, "no samples", data.count = 0);
    REFUSED(KD_ERR_DATA, "no pixels", data.pixels = NULL);
    REFUSED(KD_ERR_SHAPE, "the model reads 3x6x6, but the images are 3x5x6", data.height = 5);
    REFUSED(KD_ERR_DATA, "label", data.labels = labels);
    REFUSED(KD_ERR_NOT_FINITE, "a NaN in the data, sample 5, number 7",
            data = kd_data_f32(x, s.labels, COUNT, CHANNELS, SIDE, SIDE, CLASSES));
    REFUSED(KD_ERR_SHAPE, "the model has 4 outputs, but the data have 6 classes", data.classes = 6);
    REFUSED(KD_ERR_ARGUMENT, "label", data.labels = NULL);
    REFUSED(KD_ERR_ARGUMENT, "std", data.std[1] = 0);
    REFUSED(KD_ERR_ARGUMENT, "one source of soft targets", (d.teacher = teacher, data.teacher_logits = logits));
    REFUSED(KD_ERR_ARGUMENT, "belong together", d.teacher_count = 2);
    REFUSED(KD_ERR_ARGUMENT, "belong together", (d.teachers = list, d.teacher_count = 0));
    REFUSED(KD_ERR_ARGUMENT, "teacher 1 is NULL", (d.teachers = list, d.teacher_count = 2));
    REFUSED(KD_ERR_ARGUMENT, "its own teacher", d.teacher = m);
    REFUSED(KD_ERR_ARGUMENT, "needs a teacher", d.loss = kd_loss_defaults(KD_LOSS_KL));
    REFUSED(KD_ERR_ARGUMENT, "temperature", (d.teacher = teacher, d.loss.temperature = 0));
    REFUSED(KD_ERR_ARGUMENT, "alpha", (d.teacher = teacher, d.loss.alpha = 1.5f));
    REFUSED(KD_ERR_SHAPE, "output", d.teacher = wide);
    REFUSED(KD_ERR_SHAPE, "the teacher reads 1x6x6", d.teacher = grey);
    REFUSED(KD_ERR_DATA, "as they are", (data.teacher_logits = logits, d.augment.flip = 1));
    REFUSED(KD_ERR_NOT_FINITE, "teacher_logits has a NaN in row 2, column 1", data.teacher_logits = bad);
    REFUSED(KD_ERR_NOT_FINITE, "soft_labels has a NaN", data.soft_labels = bad);
    REFUSED(KD_ERR_ARGUMENT, "kd_data.soft_labels", d.loss.soft_labels = soft);
    REFUSED(KD_ERR_ARGUMENT, "not both", (d.validation = 0.1f, d.validation_data = &s.data));
    REFUSED(KD_ERR_ARGUMENT, "need validation", d.keep = KD_KEEP_BEST);
    REFUSED(KD_ERR_ARGUMENT, "need validation", d.patience = 1);
    REFUSED(KD_ERR_ARGUMENT, "shift", d.augment.shift = -1);
    REFUSED(KD_ERR_ARGUMENT, "cutout to twice that, got 0 and 13", d.augment.cutout = 2 * SIDE + 1);
    REFUSED(KD_ERR_ARGUMENT, "flip must be 0 or 1, got -1", d.augment.flip = -1);
    REFUSED(KD_ERR_ARGUMENT, "flip must be 0 or 1, got 2", d.augment.flip = 2);
    REFUSED(KD_ERR_DATA, "classes must be 0 or more, got -1", data.classes = -1);
    REFUSED(KD_ERR_ARGUMENT, "rotate", d.augment.rotate = (float)NAN);
    REFUSED(KD_ERR_ARGUMENT, "brightness", d.augment.brightness = 2);
    REFUSED(KD_ERR_ARGUMENT, "mixup", d.augment.mixup = -1);
    REFUSED(KD_ERR_DATA, "teacher_fn failed", d.teacher_fn = refuse_to_teach);
    raw = options();
    s.data.classes = 64;
    assert_fails(kd, kd_train(image, &s.data, &raw), KD_ERR_SHAPE, "end it with gap or dense");
    s.data.classes = CLASSES;

    list[1] = teacher;
    REFUSED(KD_ERR_ARGUMENT, "the weight of teacher 1 must be above 0",
            (d.teachers = list, d.teacher_count = 2, d.teacher_weights = weights));
    kd_model_destroy(m);
    kd_model_destroy(teacher);
    kd_model_destroy(wide);
    kd_model_destroy(image);
    kd_model_destroy(grey);
    free(x);
}

/* What goes together only in some ways. */
static void test_combinations_refused(void **state)
{
    samples s;
    kd_metrics metrics;
    kd_model *m = create(small, 1), *teacher = create(large, 1), *one = create("3x6x6: dense 1", 1),
             *wide = create("3x6x6: dense 5", 1), *grey = create("1x6x6: dense 4", 1);
    const uint64_t before = kd_model_hash(m);
    float targets[COUNT * CLASSES] = {0}, bad[COUNT * CLASSES] = {0};
    int32_t some[COUNT], none[COUNT], out_of_range[COUNT] = {77};
    kd_data held;
    kd_cache *cache = NULL;
    kd_train_desc blended = options();
    int i;
    (void)state;
    make_samples(&s, 5);
    for (i = 0; i < COUNT; ++i) some[i] = i == 7 ? KD_UNLABELLED : s.labels[i], none[i] = KD_UNLABELLED;
    bad[9] = (float)INFINITY;
    held = s.data;
    assert_fails(kd, kd_cache_create(teacher, &s.data, NULL, 1, 0, &cache), KD_ERR_ARGUMENT,
                 "views must be 1 to 65536, got 0");
    assert_fails(kd, kd_cache_create(teacher, &s.data, NULL, 1, 2, &cache), KD_ERR_ARGUMENT,
                 "without augmentation every view is the same, so views must be 1, got 2");
    s.data.classes = 5;
    assert_ok(kd, kd_cache_create(wide, &s.data, NULL, 1, 1, &cache));
    s.data.classes = CLASSES;
    REFUSED(KD_ERR_SHAPE, "the cached teacher has 5 outputs, the student 4", d.cache = cache);
    kd_cache_destroy(cache);
    REFUSED(KD_ERR_ARGUMENT, "mixup blends labels and what a teacher sees, but not targets",
            (data.labels = NULL, data.targets = targets, d.augment.mixup = 0.2f,
             d.loss = kd_loss_defaults(KD_LOSS_MSE)));
    REFUSED(KD_ERR_ARGUMENT, "targets are no teacher whose knowledge could be adjusted",
            (data.targets = targets, d.loss = kd_loss_defaults(KD_LOSS_MSE), d.loss.adjust = KD_ADJUST_SHIFT));
    REFUSED(KD_ERR_NOT_FINITE, "targets has an infinity in row 2, column 1",
            (data.labels = NULL, data.targets = bad));
    REFUSED(KD_ERR_DATA, "mixup blends labels, but sample 7 has none; use loss kl",
            (data.labels = some, d.augment.mixup = 0.2f, d.teacher = teacher));
    REFUSED(KD_ERR_DATA, "of sample 0 of the validation data is outside 0 to 3",
            (held.labels = out_of_range, d.validation_data = &held));
    held = s.data;
    held.labels = none;
    REFUSED(KD_ERR_ARGUMENT, "keeping the best weights and patience need validation data with labels",
            (d.validation_data = &held, d.keep = KD_KEEP_BEST));
    REFUSED(KD_ERR_ARGUMENT, "keeping the best weights and patience need validation data with labels",
            (d.validation_data = &held, d.patience = 2));
    held = s.data;
    held.mean[1] = 0.5f;
    REFUSED(KD_ERR_DATA, "mean 0 and std 1 in channel 1, but the validation data with 0.5 and 1",
            d.validation_data = &held);
    held = s.data;
    held.targets = bad;
    REFUSED(KD_ERR_NOT_FINITE, "targets has an infinity in row 2, column 1", d.validation_data = &held);
    held = s.data;
    held.teacher_logits = bad;
    REFUSED(KD_ERR_NOT_FINITE, "teacher_logits has an infinity in row 2, column 1", d.validation_data = &held);
    REFUSED(KD_ERR_NOT_FINITE, "teacher_logits has an infinity", (data.teacher_logits = bad, d.validation = 0.3f));
    assert_fails(kd, kd_evaluate(m, &held, &metrics), KD_ERR_NOT_FINITE, "teacher_logits has an infinity in row 2");
    REFUSED(KD_ERR_ARGUMENT, "loss_weights weigh several losses; give losses", d.loss_weights = bad);
    REFUSED(KD_ERR_ARGUMENT, "reduction must be 0 to 1, got 7",
            (d.teacher = teacher, d.loss.reduction = (kd_reduction)7));
    held = s.data;
    held.channels = 1;
    REFUSED(KD_ERR_SHAPE, "the model reads 3x6x6, but the images are 1x6x6", d.validation_data = &held);
    REFUSED(KD_ERR_SHAPE, "the teacher reads 1x6x6", (d.validation_data = &s.data, d.teacher = grey));
    REFUSED(KD_ERR_DATA, "validation leaves no sample to train on", (data.count = 1, d.validation = 0.5f));
    blended.loss = kd_loss_defaults(KD_LOSS_BCE);
    blended.augment.mixup = 0.3f;
    s.data.classes = 2;
    for (i = 0; i < COUNT; ++i) s.labels[i] %= 2;
    assert_fails(kd, kd_train(one, &s.data, &blended), KD_ERR_SHAPE,
                 "soft labels and mixup need an output for each class");
    kd_model_destroy(m);
    kd_model_destroy(teacher);
    kd_model_destroy(one);
    kd_model_destroy(wide);
    kd_model_destroy(grey);
}

static int add_accuracy(void *user, const kd_epoch_info *info)
{
    *(double *)user += info->accuracy;
    return 0;
}

/* Soft labels that are sure of one class train to what the labels do, and others to something else. */
static void test_soft_labels(void **state)
{
    samples s;
    kd_train_desc desc = options();
    float soft[COUNT * CLASSES] = {0};
    double by_label = 0, by_soft_label = 0;
    uint64_t hard, sure, unsure;
    int i;
    (void)state;
    make_samples(&s, 5);
    for (i = 0; i < COUNT; ++i) soft[i * CLASSES + s.labels[i]] = 1;
    desc.on_epoch = add_accuracy, desc.user = &by_label;
    hard = trained(kd, small, &s.data, &desc);
    s.data.labels = NULL, s.data.soft_labels = soft;
    desc.user = &by_soft_label;
    sure = trained(kd, small, &s.data, &desc);
    assert_true(by_label > 0 && by_soft_label == by_label);
    for (i = 0; i < COUNT * CLASSES; ++i) soft[i] = 0.9f * soft[i] + 0.025f;
    unsure = trained(kd, small, &s.data, &desc);
    assert_true(hard == sure);
    assert_true(hard != unsure);
    s.data.labels = s.labels, s.data.soft_labels = NULL, desc.loss.label_smoothing = 0.1f;
    desc.loss.kind = KD_LOSS_CE;
    assert_true(trained(kd, small, &s.data, &desc) != hard);
}

/* A row without a label learns from its target alone, as it would from a teacher's logits. */
static void test_targets_without_labels(void **state)
{
    samples s;
    kd_train_desc desc = options();
    float *targets = test_floats(8, COUNT * CLASSES, 1);
    uint64_t by_target;
    int i;
    (void)state;
    make_samples(&s, 5);
    for (i = 0; i < COUNT; i += 3) s.labels[i] = KD_UNLABELLED;
    desc.loss = kd_loss_defaults(KD_LOSS_MSE);
    desc.loss.hard_weight = 1;
    s.data.targets = targets;
    by_target = trained(kd, small, &s.data, &desc);
    s.data.targets = NULL, s.data.teacher_logits = targets;
    assert_true(trained(kd, small, &s.data, &desc) == by_target);
    s.data.teacher_logits = NULL, s.data.targets = targets;
    desc.loss.hard_weight = 0;
    assert_true(trained(kd, small, &s.data, &desc) != by_target);
    free(targets);
}

/* Two momenta where the hard term is nothing: what remains is the soft term's. */
static void test_two_momenta_of_one_term(void **state)
{
    samples s;
    kd_train_desc desc = options();
    float *logits = test_floats(8, COUNT * CLASSES, 1);
    kd_model *apart = create(small, 1), *plain = create(small, 1);
    float a[COUNT * CLASSES], b[COUNT * CLASSES], x[COUNT * FLOATS];
    int32_t numbers[COUNT], labels[COUNT];
    int i;
    (void)state;
    make_samples(&s, 5);
    for (i = 0; i < COUNT; ++i) numbers[i] = i;
    (void)stream(&s, numbers, COUNT, x, labels);
    s.data.teacher_logits = logits;
    desc.loss = kd_loss_defaults(KD_LOSS_MSE);
    desc.optimizer = KD_SGD, desc.lr = 0.003f, desc.momentum = 0.75f, desc.dot_delta = 0.125f;
    assert_ok(kd, kd_train(apart, &s.data, &desc));
    desc.momentum = 0.875f, desc.dot_delta = 0;
    assert_ok(kd, kd_train(plain, &s.data, &desc));
    assert_ok(kd, kd_predict(apart, x, COUNT, a));
    assert_ok(kd, kd_predict(plain, x, COUNT, b));
    for (i = 0; i < COUNT * CLASSES; ++i) assert_near(a[i], b[i], 1e-5);
    kd_model_destroy(apart), kd_model_destroy(plain);
    free(logits);
}

/* ttm and wttm soften teachers in their own way: several are averaged as they are, whatever the temperature. */
static void test_ttm_of_several(void **state)
{
    samples s;
    const kd_model *teachers[2];
    kd_model *first = create(large, 2), *second = create(large, 3);
    int i;
    (void)state;
    make_samples(&s, 5);
    teachers[0] = first, teachers[1] = second;
    for (i = 0; i < 3; ++i) {
        kd_train_desc desc = options();
        uint64_t once;
        desc.teachers = teachers, desc.teacher_count = 2;
        desc.loss = kd_loss_defaults(i == 0 ? KD_LOSS_TTM : i == 1 ? KD_LOSS_WTTM : KD_LOSS_KL);
        desc.loss.temperature = 1;
        once = trained(kd, small, &s.data, &desc);
        desc.loss.temperature = 8;
        assert_true((trained(kd, small, &s.data, &desc) == once) == (i < 2));
    }
    kd_model_destroy(first), kd_model_destroy(second);
}

typedef struct tally {
    double loss;
    int64_t images;
    int epochs;
} tally;

static int add_step(void *user, const kd_step_info *info)
{
    tally *t = (tally *)user;
    t->loss += info->loss * (double)(info->images - t->images);
    t->images = info->images;
    return 0;
}

static int expect_mean(void *user, const kd_epoch_info *info)
{
    tally *t = (tally *)user;
    assert_near(info->loss, t->loss / COUNT, 1e-9);
    t->loss = 0;
    ++t->epochs;
    return 0;
}

/* The loss of an epoch is the mean of its samples', also where the last batch is smaller. */
static void test_loss_of_an_epoch(void **state)
{
    kd_train_desc desc = options();
    samples s;
    tally t = {0, 0, 0};
    (void)state;
    make_samples(&s, 5);
    desc.on_step = add_step, desc.on_epoch = expect_mean, desc.user = &t;
    (void)trained(kd, small, &s.data, &desc);
    assert_int_equal(t.epochs, desc.epochs);
    assert_true(t.images == (int64_t)COUNT * desc.epochs);
}

/* What grey is, of one, two and three channels. */
static void test_grey(void **state)
{
    const float x[6] = {0.25f, 0.5f, 0.75f, 1, 0, 0.125f}; /* of two pixels each */
    (void)state;
    assert_near(kd__grey(x, 1, 2, 1), 0.5, 1e-7);
    assert_near(kd__grey(x, 2, 2, 1), 0.75, 1e-7);
    assert_near(kd__grey(x, 3, 2, 1), 0.299 * 0.5 + 0.587 * 1 + 0.114 * 0.125, 1e-7);
}

/* Weights after a training with everything random in it, without and with fused multiply-adds: today's are
   yesterday's, on this machine and on others. A change on purpose belongs into CHANGELOG.md. */
static void test_pinned(void **state)
{
    static const uint64_t wanted[2] = {0x73d2552e1f0ef7ddu, 0xc23fa5139633d523u};
    kd_train_desc desc = options();
    samples s;
    kd_isa isa;
    (void)state;
    make_samples(&s, 5);
    desc.augment = all_changes();
    desc.attack.steps = 2;
    desc.loss = kd_loss_defaults(KD_LOSS_CE);
    desc.loss.inputs = KD_INPUTS_ADVERSARIAL;
    FOR_EACH_ISA(isa)
    {
        kd_ctx *ctx = test_open(isa, 1);
        const uint64_t hash = trained(ctx, large, &s.data, &desc);
        if (FLT_EVAL_METHOD == 0 && hash != wanted[isa != KD_ISA_SCALAR])
            fail_msg("on %s the weights' hash is 0x%016llx", kd_isa_name(isa), (unsigned long long)hash);
        kd_close(ctx);
    }
}

/* Figures by class are those of the first 256; those of the others join the totals only. */
static void test_many_classes(void **state)
{
    enum { MANY = KD_METRICS_CLASSES + 3 };
    static float x[MANY * MANY];
    int32_t labels[MANY];
    kd_model *m;
    kd_data data;
    kd_metrics *metrics = (kd_metrics *)malloc(sizeof *metrics);
    int i;
    (void)state;
    m = create("259: dense 259 bias=0", 1);
    for (i = 0; i < MANY; ++i) x[i * MANY + i] = 1, labels[i] = i;
    assert_ok(kd, kd_model_set_tensor(m, "0.weight", x, MANY * MANY)); /* each sample is its own class */
    labels[KD_METRICS_CLASSES] = 0;
    data = kd_data_f32(x, labels, MANY, 1, 1, MANY, MANY);
    assert_ok(kd, kd_evaluate(m, &data, metrics));
    assert_near(metrics->accuracy, (MANY - 1.0) / MANY, 1e-12);
    assert_int_equal(metrics->classes, KD_METRICS_CLASSES);
    assert_int_equal(metrics->class_count[0], 2);
    assert_near(metrics->class_accuracy[0], 0.5, 1e-12);
    for (i = 1; i < KD_METRICS_CLASSES; ++i)
        assert_true(metrics->class_count[i] == 1 && metrics->class_accuracy[i] == 1);
    labels[KD_METRICS_CLASSES] = KD_METRICS_CLASSES; /* nothing is written behind the last of them */
    assert_ok(kd, kd_evaluate(m, &data, metrics));
    assert_true(metrics->accuracy == 1 && metrics->class_count[0] == 1 && metrics->class_accuracy[0] == 1);
    assert_true(metrics->class_accuracy[KD_METRICS_CLASSES - 1] == 1);
    kd_model_destroy(m);
    free(metrics);
}

/* Also where no class gets much: of 20, all alike, the first is chosen with a twentieth of confidence. */
static void test_ece_of_many(void **state)
{
    const float x[3] = {1, 2, 3};
    const int32_t labels[3] = {0, 0, 7};
    kd_data data = kd_data_f32(x, labels, 3, 1, 1, 1, 20);
    kd_model *m = create("1: dense 20", 1);
    float zeros[20] = {0};
    kd_metrics metrics;
    (void)state;
    assert_ok(kd, kd_model_set_tensor(m, "0.weight", zeros, 20));
    assert_ok(kd, kd_evaluate(m, &data, &metrics));
    assert_near(metrics.ece, 2.0 / 3 - 0.05, 1e-6);
    kd_model_destroy(m);
}

/* Of two samples both orders come up, and of three all six, each in its share of the epochs. */
static void test_shuffled(void **state)
{
    enum { EPOCHS = 3000 };
    int pairs = 0, orders[27] = {0}, i;
    (void)state;
    for (i = 0; i < EPOCHS; ++i) {
        int32_t two[2] = {0, 1}, three[3] = {0, 1, 2};
        kd__shuffle(two, 2, kd__rng_key(7, KD__RNG_SHUFFLE, (uint64_t)i, 0));
        kd__shuffle(three, 3, kd__rng_key(8, KD__RNG_SHUFFLE, (uint64_t)i, 0));
        pairs += two[0];
        ++orders[9 * three[0] + 3 * three[1] + three[2]];
    }
    assert_true(abs(pairs - EPOCHS / 2) < 150);
    assert_true(abs(orders[9 * 0 + 3 * 1 + 2] - EPOCHS / 6) < 100 &&
                abs(orders[9 * 0 + 3 * 2 + 1] - EPOCHS / 6) < 100);
    assert_true(abs(orders[9 * 1 + 3 * 0 + 2] - EPOCHS / 6) < 100 &&
                abs(orders[9 * 1 + 3 * 2 + 0] - EPOCHS / 6) < 100);
    assert_true(abs(orders[9 * 2 + 3 * 0 + 1] - EPOCHS / 6) < 100 &&
                abs(orders[9 * 2 + 3 * 1 + 0] - EPOCHS / 6) < 100);
}

/* Regression: a student learns targets, and its loss falls. */
static void test_targets(void **state)
{
    samples s;
    kd_train_desc desc = options();
    kd_model *teacher = create(large, 3), *m = create(small, 1);
    float *targets = (float *)malloc(COUNT * CLASSES * sizeof *targets);
    kd_metrics before, after;
    (void)state;
    make_samples(&s, 5);
    {
        kd_evaluate_desc evaluate = kd_evaluate_defaults();
        kd_metrics unused;
        evaluate.logits = targets;
        assert_ok(kd, kd_evaluate_with(teacher, &s.data, &evaluate, &unused));
    }
    s.data.labels = NULL, s.data.targets = targets;
    assert_ok(kd, kd_evaluate(m, &s.data, &before));
    desc.epochs = 20;
    assert_ok(kd, kd_train(m, &s.data, &desc));
    assert_ok(kd, kd_evaluate(m, &s.data, &after));
    assert_true(after.mse < 0.5 * before.mse);
    kd_model_destroy(m);
    kd_model_destroy(teacher);
    free(targets);
}

/* Numbers whose squares leave the range of a float: the running variance would, and is named. */
static void test_statistics_overflow(void **state)
{
    float *x = test_floats(1, COUNT * FLOATS, 1e25f);
    int32_t labels[COUNT] = {0};
    kd_train_desc desc = options();
    kd_data data = kd_data_f32(x, labels, COUNT, 3, 6, 6, CLASSES);
    kd_model *m = create("3x6x6: batchnorm, dense 4", 1);
    const uint64_t before = kd_model_hash(m);
    int i;
    (void)state;
    for (i = 0; i < COUNT; ++i) labels[i] = i % CLASSES;
    assert_fails(kd, kd_train(m, &data, &desc), KD_ERR_NOT_FINITE,
                 "0.running_var would not be finite after step 0; the weights are those before it");
    assert_true(kd_model_hash(m) == before);
    kd_model_destroy(m);
    free(x);
}

/* Training that runs away is stopped in the step where numbers do, with weights that can still be used. */
static void test_divergence(void **state)
{
    samples s;
    kd_train_desc desc = options();
    kd_model *m = create(small, 1);
    float x[FLOATS] = {0.5f}, y[CLASSES];
    int i;
    (void)state;
    make_samples(&s, 5);
    desc.optimizer = KD_SGD, desc.lr = 1e6f, desc.epochs = 50;
    m = (kd_model_destroy(m), create("3x6x6: dense 6, dense 4", 1));
    assert_fails(kd, kd_train(m, &s.data, &desc), KD_ERR_NOT_FINITE, "at step");
    for (i = 0; i < kd_model_tensors(m); ++i) {
        kd_tensor_info info;
        float w[6 * FLOATS];
        assert_ok(kd, kd_model_tensor_info(m, i, &info));
        assert_ok(kd, kd_model_get_tensor(m, info.name, w, info.count));
        assert_true(kd->k->all_finite((ptrdiff_t)info.count, w));
    }
    assert_ok(kd, kd_predict(m, x, 1, y));
    kd_model_destroy(m);
}

/* A NaN in a weight is found in the first step, and what it spoils is not written back. */
static void test_nan_in_weights(void **state)
{
    samples s;
    kd_train_desc desc = options();
    kd_model *m = create(large, 1);
    float bias[CLASSES] = {0, (float)NAN, 0, 0};
    kd_tensor_info info;
    uint64_t before;
    (void)state;
    make_samples(&s, 5);
    assert_ok(kd, kd_model_tensor_info(m, kd_model_tensors(m) - 1, &info));
    memcpy(m->weights + m->params[m->param_count - 1].offset, bias, sizeof bias);
    before = kd_model_hash(m);
    assert_fails(kd, kd_train(m, &s.data, &desc), KD_ERR_NOT_FINITE, "the student's output");
    assert_true(kd_model_hash(m) == before);
    kd_model_destroy(m);
}

/* Each allocation of a training is refused in turn: the model stays as it was, nothing is lost. */
static void test_refused_memory(void **state)
{
    samples s;
    kd_train_desc desc = options();
    kd_model *teacher, *other = create(large, 9), *m = create(convolutional, 1);
    const kd_model *both[2];
    const uint64_t before = kd_model_hash(m);
    kd_result result = KD_ERR_MEMORY;
    int refused;
    (void)state;
    make_samples(&s, 5);
    teacher = trained_teacher(&s.data);
    both[0] = teacher, both[1] = other;
    desc.teachers = both, desc.teacher_count = 2;
    desc.validation = 0.2f, desc.keep = KD_KEEP_BEST, desc.accumulate = 2, desc.augment = all_changes();
    for (refused = 1; result == KD_ERR_MEMORY; ++refused) {
        memory.refuse_at = refused;
        result = kd_train(m, &s.data, &desc);
        if (result == KD_ERR_MEMORY) {
            assert_true(kd_model_hash(m) == before);
            assert_true(*kd_error(kd) != 0);
        }
    }
    memory.refuse_at = 0;
    assert_int_equal(result, KD_OK);
    assert_true(refused > 25);
    kd_model_destroy(m);
    kd_model_destroy(teacher);
    kd_model_destroy(other);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, open_context, close_context)
    const struct CMUnitTest tests[] = {
        TEST(test_like_pytorch),
        TEST(test_same_bits),
        TEST(test_pixels_in_pairs),
        TEST(test_any_order_of_tasks),
        TEST(test_seed_decides),
        TEST(test_sources_agree),
        TEST(test_teachers_are_averaged),
        TEST(test_blended_caches),
        TEST(test_views_are_shared),
        TEST(test_cache_of_other_images),
        TEST(test_without_labels),
        TEST(test_student_follows),
        TEST(test_forms_of_data),
        TEST(test_batches_of_evaluation),
        TEST(test_mixup_of_streams),
        TEST(test_epochs),
        TEST(test_views_are_functions),
        TEST(test_changes),
        TEST(test_turn),
        TEST(test_changes_of_colour),
        TEST(test_mixup),
        TEST(test_nothing_to_keep),
        TEST(test_updates_in_pieces),
        TEST(test_accumulation),
        TEST(test_max_norm),
        TEST(test_moving_average),
        TEST(test_best_average),
        TEST(test_decay_of_some),
        TEST(test_single_output),
        TEST(test_step_in_callback),
        TEST(test_stopping),
        TEST(test_validation),
        TEST(test_accuracy_first),
        TEST(test_nothing_to_judge_by),
        TEST(test_split),
        TEST(test_order_of_the_rest),
        TEST(test_mixup_of_held_out),
        TEST(test_numbers_out_of_range),
        TEST(test_refused),
        TEST(test_divergence),
        TEST(test_nan_in_weights),
        TEST(test_combinations_refused),
        TEST(test_soft_labels),
        TEST(test_targets_without_labels),
        TEST(test_two_momenta_of_one_term),
        TEST(test_ttm_of_several),
        TEST(test_shuffled),
        TEST(test_many_classes),
        TEST(test_ece_of_many),
        TEST(test_pinned),
        TEST(test_loss_of_an_epoch),
        TEST(test_grey),
        TEST(test_targets),
        TEST(test_statistics_overflow),
        TEST(test_refused_memory),
    };
    const int failed = cmocka_run_group_tests_name("training", tests, NULL, NULL);
    test_print_skips("training");
    return failed;
}
