/* Numbers that users of such libraries meet at the edges: what cancels, what sinks into subnormals, batches of one,
   options that are not quite what was meant. Each test stands for a kind of fault; tests/reports.md lists them. */
#include "support.h"
#include <float.h>
#include <time.h>

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

static kd_model *create(const char *spec, uint64_t seed)
{
    kd_model *m;
    if (kd_model_create(kd, spec, seed, &m) != KD_OK) fail_msg("%s: %s", spec, kd_error(kd));
    return m;
}

static int is_subnormal(float x) { return x != 0 && fabsf(x) < FLT_MIN; }

static int subnormals(const float *x, size_t count)
{
    int found = 0;
    size_t i;
    for (i = 0; i < count; ++i) found += is_subnormal(x[i]);
    return found;
}

/* ---- values of losses ------------------------------------------------------------------------------------ */

/* From what is positive alone: p_t (e^d - 1 - d), d = log p_s - log p_t. */
static double reference_kl(const float *s, const float *t, int cols, double temperature)
{
    double largest_s = -1e300, largest_t = -1e300, sum_s = 0, sum_t = 0, kl = 0, shift = 0;
    int c;
    for (c = 0; c < cols; ++c) {
        largest_s = KD__MAX(largest_s, (double)s[c]);
        largest_t = KD__MAX(largest_t, (double)t[c]);
    }
    for (c = 0; c < cols; ++c) sum_t += exp(((double)t[c] - largest_t) / temperature);
    for (c = 0; c < cols; ++c)
        shift +=
            exp(((double)t[c] - largest_t) / temperature) / sum_t * ((double)s[c] - (double)t[c]) / temperature;
    for (c = 0; c < cols; ++c) {
        const double p = exp(((double)t[c] - largest_t) / temperature) / sum_t;
        const double w = ((double)s[c] - (double)t[c]) / temperature - shift;
        sum_s += fabs(w) < 600 ? p * (expm1(w) - w) : 0;
        kl = KD__MAX(kl, fabs(w));
    }
    if (kl < 1) { /* expm1(w) - w cancels, too */
        for (sum_s = 0, c = 0; c < cols; ++c) {
            const double w = ((double)s[c] - (double)t[c]) / temperature - shift;
            double term = w * w / 2, sum = 0;
            int k;
            for (k = 3; k < 30; ++k) sum += term, term *= w / k;
            sum_s += exp(((double)t[c] - largest_t) / temperature) / sum_t * sum;
        }
    }
    if (kl < 300) return temperature * temperature * log1p(sum_s);
    for (sum_s = 0, c = 0; c < cols; ++c) sum_s += exp(((double)s[c] - largest_s) / temperature);
    for (kl = 0, c = 0; c < cols; ++c) {
        const double log_p = ((double)t[c] - largest_t) / temperature - log(sum_t);
        kl += exp(log_p) * (log_p - ((double)s[c] - largest_s) / temperature + log(sum_s));
    }
    return temperature * temperature * kl;
}

static double reference_ce(const float *s, int cols, int label)
{
    double rest = 0;
    int c, best = 0;
    for (c = 1; c < cols; ++c) best = s[c] > s[best] ? c : best;
    for (c = 0; c < cols; ++c) rest += c == best ? 0 : exp((double)s[c] - (double)s[best]);
    return log1p(rest) - ((double)s[label] - (double)s[best]);
}

static double reference_bce(const float *s, int cols, int label)
{
    double sum = 0;
    int c;
    for (c = 0; c < cols; ++c) {
        const int hot = cols == 1 ? label : c == label;
        sum += log1p(exp(-fabs((double)s[c]))) + (hot == (s[c] > 0) ? 0 : fabs((double)s[c]));
    }
    return sum;
}

/* Of two classes, whose logits are x and 0. */
static double reference_bce_kl(const float *s, const float *t, int cols, double temperature)
{
    double sum = 0;
    int c;
    for (c = 0; c < cols; ++c) {
        const float student[2] = {s[c], 0}, teacher[2] = {t[c], 0};
        sum += reference_kl(student, teacher, 2, temperature);
    }
    return sum;
}

static void check_value(kd_loss_desc desc, const float *s, const float *t, int32_t label, int cols, double wanted)
{
    kd_isa isa;
    FOR_EACH_ISA(isa)
    {
        kd_ctx *ctx = test_open(isa, 1);
        double value;
        assert_ok(ctx, kd_loss(ctx, &desc, s, t, &label, 1, cols, NULL, &value));
        if (!(value >= 0 && fabs(value - wanted) <= 6e-6 * wanted + 1e-28))
            fail_msg("%s on %s, %d columns, T = %g: %.9g, expected %.9g", kd_loss_name(desc.kind), kd_isa_name(isa),
                     cols, (double)desc.temperature, value, wanted);
        kd_close(ctx);
    }
}

/* Student and teacher apart by anything from a rounding to a world, shifted against each other, at any temperature:
   values are right in all their digits, and never negative. */
static void test_values(void **state)
{
    static const int sizes[] = {1, 2, 3, 10, 16, 17, 100, 1000};
    static const float apart[] = {0, 1e-6f, 1e-4f, 1e-2f, 1, 10}, temperatures[] = {1, 4, 40, 1000},
                       shifts[] = {0, 5, -300}, scales[] = {1, 20};
    static float s[1000], t[1000];
    uint64_t random = 5;
    int size, a, b, c, d, i;
    (void)state;
    for (size = 0; size < 8; ++size) {
        for (i = 0; i < 6 * 4 * 3 * 2; ++i) {
            const int cols = sizes[size];
            kd_loss_desc kl = kd_loss_defaults(KD_LOSS_KL), ce = kd_loss_defaults(KD_LOSS_CE);
            kd_loss_desc hinton = kd_loss_defaults(KD_LOSS_HINTON), bce = kd_loss_defaults(KD_LOSS_BCE);
            int32_t label;
            double soft, hard;
            a = i % 6, b = i / 6 % 4, c = i / 24 % 3, d = i / 72;
            if (cols > 100 && i % 7) continue;
            for (label = 0; label < cols; ++label) {
                t[label] = scales[d] * test_random(&random);
                s[label] = t[label] + shifts[c] + apart[a] * test_random(&random);
            }
            label = cols == 1 ? i & 1 : i % cols;
            kl.temperature = hinton.temperature = bce.temperature = temperatures[b];
            hinton.alpha = 0.5f;
            soft = reference_kl(s, t, cols, (double)temperatures[b]), hard = reference_ce(s, cols, label);
            if (cols > 1) {
                check_value(kl, s, t, label, cols, soft);
                check_value(ce, s, NULL, label, cols, hard);
                check_value(hinton, s, t, label, cols, 0.5 * soft + 0.5 * hard);
            }
            if (shifts[c] < -100) continue; /* the sum would be one term's alone */
            bce.alpha = 1;
            check_value(bce, s, t, label, cols, reference_bce_kl(s, t, cols, (double)temperatures[b]));
            check_value(bce, s, NULL, label, cols, reference_bce(s, cols, label));
        }
    }
}

/* What evaluation says of two that nearly agree. */
static void test_divergence_of_evaluation(void **state)
{
    enum { COUNT = 40, COLS = 5 };
    float *x = test_floats(3, COUNT * 4, 1), logits[COUNT * COLS];
    int outputs, i;
    (void)state;
    for (outputs = 1; outputs <= COLS; outputs += COLS - 1) {
        kd_model *m = create(outputs == 1 ? "4: dense 1" : "4: dense 5", 3);
        kd_data data = kd_data_f32(x, NULL, COUNT, 4, 1, 1, outputs == 1 ? 2 : outputs);
        float near[COUNT * COLS];
        kd_metrics found;
        double wanted = 0;
        assert_ok(kd, kd_predict(m, x, COUNT, logits));
        for (i = 0; i < COUNT * outputs; ++i) near[i] = logits[i] * (1 + 1e-5f * (float)(i % 7)) + 2;
        for (i = 0; i < COUNT; ++i) {
            if (outputs == 1) near[i] -= 2;
            wanted += (outputs == 1 ? reference_bce_kl(logits + i, near + i, 1, 1)
                                    : reference_kl(logits + i * outputs, near + i * outputs, outputs, 1)) /
                      COUNT;
        }
        data.teacher_logits = near;
        assert_ok(kd, kd_evaluate(m, &data, &found));
        assert_true(wanted > 0 && fabs(found.kl - wanted) < 1e-5 * wanted);
        kd_model_destroy(m);
    }
    free(x);
}

/* No two finite floats are too far apart for a temperature that brings them together. */
static void test_softmax_of_wide_rows(void **state)
{
    kd_isa isa;
    int cols, c;
    (void)state;
    FOR_EACH_ISA(isa)
    {
        kd_ctx *ctx = test_open(isa, 1);
        for (cols = 2; cols <= 40; cols += 19) {
            float x[40], p[40], log_p[40];
            double sum = 0;
            for (c = 0; c < cols; ++c) x[c] = c % 2 ? -3e38f : 3e38f;
            for (c = 0; c < cols; ++c) sum += exp(((double)x[c] - 3e38) / 1e38);
            assert_ok(ctx, kd_softmax(ctx, x, 1, cols, 1e38f, p));
            assert_ok(ctx, kd_log_softmax(ctx, x, 1, cols, 1e38f, log_p));
            for (c = 0; c < cols; ++c) {
                assert_near(p[c], exp(((double)x[c] - 3e38) / 1e38) / sum, 1e-6);
                assert_near(log_p[c], ((double)x[c] - 3e38) / 1e38 - log(sum), 1e-6);
            }
            assert_ok(ctx, kd_log_softmax(ctx, x, 1, cols, 4, log_p));
            assert_near(log_p[1] / 1e38f, -1.5, 1e-6);
            assert_ok(ctx, kd_softmax(ctx, x, 1, cols, 1, p));
            assert_true(p[1] == 0 && p[0] > 0);
        }
        kd_close(ctx);
    }
}

/* A column whose probabilities are tiny has the correlation that it has when they are not. */
static void test_dist_of_improbable_columns(void **state)
{
    enum { ROWS = 8, COLS = 4 };
    static const float shifts[] = {-250, -400, -640};
    float *s = test_floats(1, ROWS * COLS, 2), *t = test_floats(2, ROWS * COLS, 2), grads[3][ROWS * COLS];
    double values[3];
    kd_loss_desc desc = kd_loss_defaults(KD_LOSS_DIST);
    int i, k;
    (void)state;
    desc.temperature = 1, desc.hard_weight = 0, desc.beta = 0;
    for (k = 0; k < 3; ++k) {
        float far_s[ROWS * COLS], far_t[ROWS * COLS];
        for (i = 0; i < ROWS * COLS; ++i) {
            far_s[i] = (float)(int)(64 * s[i]) / 64 + (i % COLS == 1 ? shifts[k] : 0); /* exact sums */
            far_t[i] = (float)(int)(64 * t[i]) / 64 + (i % COLS == 1 ? shifts[k] : 0);
        }
        assert_ok(kd, kd_loss(kd, &desc, far_s, far_t, NULL, ROWS, COLS, grads[k], &values[k]));
    }
    for (k = 1; k < 3; ++k) {
        assert_near(values[k], values[0], 1e-12);
        for (i = 0; i < ROWS * COLS; ++i) assert_near(grads[k][i], grads[0][i], 1e-6);
    }
    assert_true(grads[0][1] != 0);
    free(s), free(t);
}

/* ---- subnormals ------------------------------------------------------------------------------------------ */

/* One update after the other without any gradient: everything ends at 0, or stays where it is normal. */
static void check_updates(const kd__kernels *k, kd__update u)
{
    enum { COUNT = 67, STEPS = 3000 };
    float w[COUNT], m[COUNT], v[COUNT], g[COUNT], scale = 1;
    int i, step;
    for (i = 0; i < COUNT; ++i, scale *= 0.27f) {
        w[i] = i % 3 ? scale : -scale;
        m[i] = i % 2 ? scale : -scale;
        v[i] = scale;
        g[i] = 0;
    }
    for (step = 0; step < STEPS; ++step) {
        k->update(&u, COUNT, w, g, m, v);
        if (subnormals(w, COUNT) || subnormals(m, COUNT) || (u.optimizer != KD_SGD && subnormals(v, COUNT)))
            fail_msg("%s, optimizer %d: a subnormal after step %d", kd_isa_name(k->isa), u.optimizer, step);
    }
    for (i = 0; i < COUNT; ++i) assert_true(m[i] == 0);
    for (i = 0; i < COUNT && u.optimizer != KD_SGD; ++i) assert_true(v[i] == 0);
}

static void test_updates_end(void **state)
{
    kd_isa isa;
    int optimizer, decay;
    (void)state;
    FOR_EACH_ISA(isa)
    {
        for (optimizer = 0; optimizer < KD_OPTIMIZER_COUNT; ++optimizer) {
            for (decay = 0; decay < 2; ++decay) {
                kd__update u;
                memset(&u, 0, sizeof u);
                u.optimizer = optimizer, u.nesterov = decay;
                u.lr = 0.01f, u.momentum = 0.9f, u.decay = decay ? 0.5f : 0;
                u.beta1 = 0.9f, u.beta2 = 0.95f, u.epsilon = 1e-8f;
                u.correction1 = u.correction2 = u.grad_scale = 1;
                if (optimizer == KD_ADAM && decay)
                    continue; /* its weights wander about 0, as a gradient's sign does */
                check_updates(kd__kernels_for(isa), u);
            }
        }
    }
}

/* A teacher that says what the student says from the second epoch on. */
typedef struct follower {
    const kd_model *m;
    int calls, wild;
} follower;

static int follow(void *user, const float *x, const int32_t *samples, int n, float *logits)
{
    follower *f = (follower *)user;
    int i;
    (void)samples;
    if (kd_predict(f->m, x, n, logits) != KD_OK) return 1;
    for (i = 0; f->calls < f->wild && i < n; ++i) logits[i * 3] += 1;
    ++f->calls;
    return 0;
}

/* A training whose gradient ends: nothing that it keeps between two steps is subnormal, whatever the optimizer. */
static void test_state_ends(void **state)
{
    enum { COUNT = 8, EPOCHS = 700 };
    static const struct {
        kd_optimizer optimizer;
        float decay, dot_delta, max_norm;
        int accumulate;
    } cases[] = {{KD_SGD, 0, 0, 0, 1},     {KD_SGD, 0.5f, 0, 0, 2},   {KD_SGD, 0, 0.05f, 0, 1},
                 {KD_ADAM, 0, 0, 0.5f, 1}, {KD_ADAMW, 0.9f, 0, 0, 2}, {KD_ADAM, 1e-4f, 0, 0, 1}};
    float *x = test_floats(4, COUNT * 6, 1);
    size_t i;
    int j;
    (void)state;
    for (i = 0; i < sizeof cases / sizeof *cases; ++i) {
        kd_model *m = create("6: dense 9, relu, dense 3", 3);
        kd_data data = kd_data_f32(x, NULL, COUNT, 6, 1, 1, 3);
        kd_train_desc desc = kd_train_defaults();
        follower f = {NULL, 0, 8};
        kd__kept kept[KD__MAX_KEPT];
        kd_trainer *t;
        f.m = m;
        desc.epochs = EPOCHS, desc.batch = 4, desc.lr = 0.05f, desc.beta2 = 0.9f;
        desc.optimizer = cases[i].optimizer, desc.weight_decay = cases[i].decay,
        desc.dot_delta = cases[i].dot_delta;
        desc.max_norm = cases[i].max_norm, desc.accumulate = cases[i].accumulate;
        desc.teacher_fn = follow, desc.teacher_user = &f;
        desc.loss = kd_loss_defaults(KD_LOSS_KL);
        assert_ok(kd, kd_trainer_open(m, &data, &desc, &t));
        while (!kd_trainer_done(t)) {
            assert_ok(kd, kd_trainer_step(t, NULL));
            for (j = kd__trainer_kept(t, kept) - 1; j >= 0; --j) {
                if (subnormals(kept[j].values, kept[j].count))
                    fail_msg("case %d: %s holds a subnormal after %lld steps", (int)i, kept[j].name,
                             (long long)t->at.step);
            }
        }
        if (cases[i].decay == 0) assert_true(t->optim.first[0] == 0);
        kd_trainer_close(t);
        kd_model_destroy(m);
    }
    free(x);
}

/* Running statistics of channels that see nothing but zeros. */
static void test_statistics_end(void **state)
{
    kd_model *m = create("4: dense 3, batchnorm, dense 2", 1);
    float *x = test_floats(4, 8 * 4, 1), zeros[12] = {0}, means[3] = {1, -1, 1e-20f}, variances[3] = {1, 2, 3};
    const int32_t labels[8] = {0, 1, 0, 1, 1, 0, 0, 1};
    kd_data data = kd_data_f32(x, labels, 8, 4, 1, 1, 2);
    kd_train_desc desc = kd_train_defaults();
    (void)state;
    assert_ok(kd, kd_model_set_tensor(m, "0.weight", zeros, 12));
    assert_ok(kd, kd_model_set_tensor(m, "1.running_mean", means, 3));
    assert_ok(kd, kd_model_set_tensor(m, "1.running_var", variances, 3));
    desc.epochs = 1000, desc.batch = 8, desc.lr = 0;
    assert_ok(kd, kd_train(m, &data, &desc));
    assert_ok(kd, kd_model_get_tensor(m, "1.running_mean", means, 3));
    assert_ok(kd, kd_model_get_tensor(m, "1.running_var", variances, 3));
    assert_true(means[0] == 0 && means[1] == 0 && means[2] == 0 && variances[0] == 0 && variances[2] == 0);
    kd_model_destroy(m);
    free(x);
}

/* Activations, their gradients, probabilities and the gradients of losses: normal, or 0. */
static void test_results_end(void **state)
{
    enum { COUNT = 8192 };
    static const int kinds[] = {KD__GELU, KD__SILU, KD__SIGMOID, KD__TANH, KD__GELU_TANH};
    static float x[COUNT], y[COUNT], dy[COUNT], dx[COUNT];
    kd_isa isa;
    int i, j, cols;
    (void)state;
    FOR_EACH_ISA(isa)
    {
        kd_ctx *ctx = test_open(isa, 1);
        for (i = 0; i < COUNT; ++i) x[i] = (float)(i - COUNT / 2) / 34, dy[i] = i % 3 ? 1e-3f : 1e-20f;
        for (j = 0; j < KD__COUNT(kinds); ++j) {
            ctx->k->act(kinds[j], 0, COUNT, x, y);
            assert_int_equal(subnormals(y, COUNT), 0);
            ctx->k->act_grad(kinds[j], 0, COUNT, kd__act_from_output(kinds[j]) ? y : x, dy, dx, 0);
            assert_int_equal(subnormals(dx, COUNT), 0);
        }
        for (cols = 8; cols <= 128; cols *= 16) {
            int32_t labels[COUNT / 8] = {0};
            const int rows = COUNT / cols;
            kd_loss_desc hinton = kd_loss_defaults(KD_LOSS_HINTON), bce = kd_loss_defaults(KD_LOSS_BCE);
            double value;
            for (i = 0; i < COUNT; ++i) x[i] = i % cols ? -70 - (float)i * 40 / COUNT : 0, dy[i] = x[i] * 1.01f;
            assert_ok(ctx, kd_softmax(ctx, x, rows, cols, 1, y));
            assert_int_equal(subnormals(y, COUNT), 0);
            hinton.temperature = 1, hinton.alpha = 0.5f;
            assert_ok(ctx, kd_loss(ctx, &hinton, x, dy, labels, rows, cols, dx, &value));
            assert_int_equal(subnormals(dx, COUNT), 0);
            assert_ok(ctx, kd_loss(ctx, &bce, x, dy, labels, rows, cols, dx, &value));
            assert_int_equal(subnormals(dx, COUNT), 0);
        }
        kd_close(ctx);
    }
}

/* ---- batches of one sample ------------------------------------------------------------------------------- */

static int note_sizes(void *user, const kd_step_info *info)
{
    int64_t *seen = (int64_t *)user; /* images, smallest and largest batch, steps */
    const int64_t n = info->images - seen[0];
    seen[0] = info->images;
    seen[1] = KD__MIN(seen[1], n), seen[2] = KD__MAX(seen[2], n);
    seen[3] = info->steps;
    return 0;
}

/* Where batchnorm sees one value a channel, what would be left alone joins the batch before, and what has been
   learned of the variance is the truth. Elsewhere batches are what they were. */
static void test_last_of_one(void **state)
{
    enum { COUNT = 33 };
    static const struct {
        const char *spec;
        int h, accumulate, steps, smallest, largest;
    } cases[] = {{"8: batchnorm, dense 2", 1, 1, 2, 16, 17},
                 {"8: dense 5, batchnorm, relu, dense 2", 1, 3, 2, 16, 17},
                 {"8x1x1: batchnorm, conv 3 1, batchnorm, gap, dense 2", 1, 1, 2, 16, 17},
                 {"2x2x2: conv 3 1, batchnorm, gap, dense 2", 2, 1, 3, 1, 16},
                 {"8: dense 5, relu, dense 2", 1, 1, 3, 1, 16}};
    float *x = test_floats(8, COUNT * 8, 1);
    int32_t labels[COUNT];
    size_t i;
    int j;
    (void)state;
    for (j = 0; j < COUNT; ++j) labels[j] = j & 1;
    for (i = 0; i < sizeof cases / sizeof *cases; ++i) {
        const int h = cases[i].h;
        kd_model *m = create(cases[i].spec, 1);
        kd_data data = kd_data_f32(x, labels, COUNT, 8 / h / h, h, h, 2);
        kd_train_desc desc = kd_train_defaults();
        int64_t seen[4] = {0, 1000, 0, 0};
        desc.epochs = 60, desc.batch = 16, desc.lr = 0, desc.accumulate = cases[i].accumulate;
        desc.on_step = note_sizes, desc.user = seen;
        assert_ok(kd, kd_train(m, &data, &desc));
        assert_int_equal(seen[0], 60 * COUNT);
        assert_int_equal(seen[1], cases[i].smallest);
        assert_int_equal(seen[2], cases[i].largest);
        assert_int_equal(seen[3], cases[i].steps);
        if (i == 0) {
            float variances[8];
            assert_ok(kd, kd_model_get_tensor(m, "0.running_var", variances, 8));
            for (j = 0; j < 8; ++j) {
                double mean = 0, squares = 0;
                int k;
                for (k = 0; k < COUNT; ++k) mean += (double)x[k * 8 + j] / COUNT;
                for (k = 0; k < COUNT; ++k)
                    squares += ((double)x[k * 8 + j] - mean) * ((double)x[k * 8 + j] - mean) / (COUNT - 1);
                assert_true(fabs((double)variances[j] / squares - 1) < 0.1);
            }
        }
        kd_model_destroy(m);
    }
    free(x);
}

/* The same in folds, among models that teach each other, with blended images and in a training that is resumed. */
static void test_last_of_one_elsewhere(void **state)
{
    enum { COUNT = 34 }; /* of which 17 remain in each of two folds */
    static const char spec[] = "8: dense 5, batchnorm, relu, dense 2";
    float *x = test_floats(8, COUNT * 8, 1);
    int32_t labels[COUNT];
    kd_model *pair[2], *m = create(spec, 1), *other;
    kd_data data;
    kd_train_desc desc = kd_train_defaults();
    kd_cross_validation found;
    kd_diagnose_desc diagnose = kd_diagnose_defaults();
    kd_diagnosis diagnosis, whole;
    int64_t seen[4] = {0, 1000, 0, 0};
    kd_trainer *t;
    int j;
    (void)state;
    for (j = 0; j < COUNT; ++j) labels[j] = j & 1;
    data = kd_data_f32(x, labels, COUNT, 8, 1, 1, 2);
    desc.epochs = 3, desc.batch = 16, desc.augment.mixup = 0.4f;
    desc.on_step = note_sizes, desc.user = seen;
    assert_ok(kd, kd_cross_validate(m, &data, &desc, 2, NULL, &found));
    assert_int_equal(seen[2], 17);
    assert_int_equal(seen[3], 1);

    data.count = 33;
    pair[0] = create("8: dense 4, relu, dense 2", 2), pair[1] = create(spec, 3);
    desc.augment.mixup = 0, desc.on_step = NULL;
    assert_ok(kd, kd_train_mutual(pair, 2, &data, &desc));
    assert_int_equal(pair[0]->batches_seen, 6); /* as many as the other */
    assert_int_equal(pair[1]->batches_seen, 6);

    assert_ok(kd, kd_model_clone(m, &other));
    assert_ok(kd, kd_train(m, &data, &desc));
    assert_ok(kd, kd_trainer_open(other, &data, &desc, &t));
    for (j = 0; j < 3; ++j) assert_ok(kd, kd_trainer_step(t, NULL)); /* into the second epoch */
    assert_int_equal(t->at.images, 33 + 16);
    assert_ok(kd, kd_trainer_save(t, "build-numbers.checkpoint"));
    kd_trainer_close(t);
    kd_model_destroy(other);
    other = create(spec, 1);
    assert_ok(kd, kd_trainer_open(other, &data, &desc, &t));
    assert_ok(kd, kd_trainer_load(t, "build-numbers.checkpoint"));
    (void)remove("build-numbers.checkpoint");
    while (!kd_trainer_done(t)) assert_ok(kd, kd_trainer_step(t, NULL));
    kd_trainer_close(t);
    assert_true(kd_model_hash(other) == kd_model_hash(m));

    diagnose.teacher = pair[0], diagnose.batch = 32;
    assert_ok(kd, kd_diagnose(m, &data, &diagnose, &diagnosis));
    diagnose.batch = 33;
    assert_ok(kd, kd_diagnose(m, &data, &diagnose, &whole));
    assert_true(diagnosis.hard_norm == whole.hard_norm && diagnosis.soft_norm == whole.soft_norm);
    diagnose.batch = 1;
    assert_fails(kd, kd_diagnose(m, &data, &diagnose, &whole), KD_ERR_ARGUMENT, "one value a channel");
    for (j = 0; j < 2; ++j) kd_model_destroy(pair[j]);
    kd_model_destroy(m);
    kd_model_destroy(other);
    free(x);
}

static void test_batch_of_one(void **state)
{
    static const char wanted[] =
        "batch normalisation \"1\" sees one value a channel, whose variance is 0, in a batch of one sample; ";
    kd_model *m = create("8: dense 5, batchnorm, relu, dense 2", 1);
    const uint64_t before = kd_model_hash(m);
    float *x = test_floats(8, 64, 1);
    const int32_t labels[8] = {0, 1, 0, 1, 1, 0, 0, 1};
    kd_data data = kd_data_f32(x, labels, 8, 8, 1, 1, 2);
    kd_train_desc desc = kd_train_defaults();
    (void)state;
    desc.batch = 1;
    assert_fails(kd, kd_train(m, &data, &desc), KD_ERR_ARGUMENT, wanted);
    assert_fails(kd, kd_train(m, &data, &desc), KD_ERR_ARGUMENT, "batch must be 2 or more");
    desc.batch = 16, data.count = 1;
    assert_fails(kd, kd_train(m, &data, &desc), KD_ERR_DATA, "there must be 2 samples to train on");
    assert_true(kd_model_hash(m) == before);
    kd_model_destroy(m);
    m = create("2x2x2: conv 3 1, batchnorm, gap, dense 2", 1); /* sees four */
    data = kd_data_f32(x, labels, 8, 2, 2, 2, 2);
    desc.batch = 1, desc.epochs = 1;
    assert_ok(kd, kd_train(m, &data, &desc));
    kd_model_destroy(m);
    free(x);
}

/* ---- options and data that are not quite what was meant -------------------------------------------------- */

/* The rate falls in the step in which a tenth, a third, a fifth of an epoch is over, and not one later. */
static void test_steps_of_a_schedule(void **state)
{
    static const struct {
        float every, warmup;
        int64_t steps, falls;
    } cases[] = {{0.1f, 0, 100, 10},   {0.2f, 0, 100, 20},  {0.3f, 0, 100, 30},   {0.7f, 0, 1000, 700},
                 {0.01f, 0, 100, 1},   {2.3f, 0, 10, 23},   {0.001f, 0, 5000, 5}, {1, 0, 7, 7},
                 {1e9f, 0.1f, 100, 0}, {1e9f, 0.7f, 10, 0}, {1e9f, 1.1f, 100, 0}};
    kd_train_desc desc = kd_train_defaults();
    size_t i;
    int64_t step;
    (void)state;
    desc.schedule = KD_STEP, desc.schedule_gamma = 0.5f, desc.lr = 1, desc.epochs = 1000;
    for (i = 0; i < sizeof cases / sizeof *cases; ++i) {
        const int64_t warm = (int64_t)((double)cases[i].warmup * (double)cases[i].steps + 0.5);
        desc.schedule_step = cases[i].every, desc.warmup = cases[i].warmup;
        for (step = 0; step < 20 * cases[i].falls; ++step)
            assert_true(kd_learning_rate(&desc, step, cases[i].steps) == ldexp(1, -(int)(step / cases[i].falls)));
        for (step = 0; step < warm; ++step)
            assert_near(kd_learning_rate(&desc, step, cases[i].steps), (double)(step + 1) / (double)warm, 1e-12);
    }
}

/* Nobody is blended with himself, and all others have their turn. */
static void test_partners(void **state)
{
    enum { COUNT = 5, DRAWS = 4000 };
    static const int32_t pool[3] = {4, 0, 2};
    kd__feed f;
    kd_data data;
    int drawn[2][COUNT] = {{0}}, pooled, i;
    (void)state;
    memset(&f, 0, sizeof f);
    memset(&data, 0, sizeof data);
    f.data = &data, data.count = COUNT;
    for (pooled = 0; pooled < 2; ++pooled) {
        f.pool = pooled ? pool : NULL, f.pool_count = 3;
        for (i = 0; i < DRAWS; ++i)
            ++drawn[pooled][kd__feed_partner(&f, 2, kd__rng_key(1, KD__RNG_MIXUP, 0, (uint64_t)i))];
    }
    for (i = 0; i < COUNT; ++i) {
        const int here = i == 4 || i == 0;
        if (i == 2) assert_int_equal(drawn[0][i] + drawn[1][i], 0);
        if (i != 2) assert_true(abs(drawn[0][i] - DRAWS / 4) < 150);
        if (i != 2) assert_true(here ? abs(drawn[1][i] - DRAWS / 2) < 150 : drawn[1][i] == 0);
    }
    data.count = 1;
    f.pool = NULL;
    assert_int_equal(kd__feed_partner(&f, 0, 7), 0);
}

static void test_soft_labels_are_probabilities(void **state)
{
    float *x = test_floats(8, 12, 1), soft[] = {0.5f, 0.5f, 0, 1, 0, 0, 0, 0, 0, 0.2f, 0.3f, 0.5f};
    const float logits[12] = {1, 2, 3};
    kd_model *m = create("3: dense 3", 1);
    kd_data data = kd_data_f32(x, NULL, 4, 3, 1, 1, 3);
    kd_train_desc desc = kd_train_defaults();
    kd_loss_desc ce = kd_loss_defaults(KD_LOSS_CE), bce = kd_loss_defaults(KD_LOSS_BCE);
    double value;
    (void)state;
    data.soft_labels = ce.soft_labels = bce.soft_labels = soft;
    desc.epochs = 1;
    assert_ok(kd, kd_loss(kd, &ce, logits, NULL, NULL, 4, 3, NULL, &value));
    assert_ok(kd, kd_train(m, &data, &desc));
    soft[11] = 0.6f;
    assert_fails(kd, kd_loss(kd, &ce, logits, NULL, NULL, 4, 3, NULL, &value), KD_ERR_DATA,
                 "soft_labels of a row must sum to 1 (or be all 0: no label), but row 3 sums to 1.1");
    assert_fails(kd, kd_train(m, &data, &desc), KD_ERR_DATA, "row 3 sums to 1.1");
    assert_ok(kd, kd_loss(kd, &bce, logits, NULL, NULL, 4, 3, NULL, &value)); /* classes by themselves */
    desc.loss = kd_loss_defaults(KD_LOSS_BCE);
    assert_ok(kd, kd_train(m, &data, &desc));
    soft[9] = -0.1f;
    assert_fails(kd, kd_loss(kd, &bce, logits, NULL, NULL, 4, 3, NULL, &value), KD_ERR_DATA,
                 "soft_labels are probabilities from 0 to 1, but row 3, column 0 has -0.1");
    assert_fails(kd, kd_train(m, &data, &desc), KD_ERR_DATA, "row 3, column 0 has -0.1");
    soft[9] = (float)NAN;
    assert_fails(kd, kd_loss(kd, &ce, logits, NULL, NULL, 4, 3, NULL, &value), KD_ERR_NOT_FINITE, "soft_labels");
    kd_model_destroy(m);
    free(x);
}

/* A loss left open is the same of a single output wherever there is one. */
static void test_open_loss_of_one_output(void **state)
{
    enum { COUNT = 12 };
    float *x = test_floats(8, COUNT * 3, 1), *targets = test_floats(9, COUNT, 1), attacked[2][COUNT * 3];
    int32_t labels[COUNT];
    kd_model *m[4], *teacher = create("3: dense 1", 9);
    kd_data data;
    int i, with_teacher;
    (void)state;
    for (i = 0; i < COUNT; ++i) labels[i] = i & 1;
    data = kd_data_f32(x, labels, COUNT, 3, 1, 1, 2);
    for (with_teacher = 0; with_teacher < 2; ++with_teacher) {
        kd_train_desc desc = kd_train_defaults();
        desc.epochs = 2;
        desc.teacher = with_teacher ? teacher : NULL;
        m[0] = create("3: dense 1", 1), m[1] = create("3: dense 1", 1);
        assert_ok(kd, kd_train(m[0], &data, &desc));
        desc.loss.kind = KD_LOSS_BCE;
        assert_ok(kd, kd_train(m[1], &data, &desc));
        assert_true(kd_model_hash(m[0]) == kd_model_hash(m[1]));
        data.targets = targets, desc.loss.kind = KD_LOSS_AUTO;
        m[2] = create("3: dense 1", 1), m[3] = create("3: dense 1", 1);
        assert_ok(kd, kd_train(m[2], &data, &desc));
        desc.loss.kind = KD_LOSS_MSE;
        assert_ok(kd, kd_train(m[3], &data, &desc));
        assert_true(kd_model_hash(m[2]) == kd_model_hash(m[3]));
        data.targets = NULL;
        for (i = 1; i < 4; ++i) kd_model_destroy(m[i]);
        if (!with_teacher) kd_model_destroy(m[0]);
    }
    {
        kd_attack_desc attack = kd_attack_defaults(KD_ATTACK_FGSM);
        kd_diagnose_desc diagnose = kd_diagnose_defaults();
        kd_diagnosis open, named;
        attack.low = -9, attack.high = 9;
        assert_ok(kd, kd_attack(m[0], NULL, x, labels, COUNT, &attack, attacked[0]));
        attack.loss = kd_loss_defaults(KD_LOSS_BCE), attack.loss.alpha = 0;
        assert_ok(kd, kd_attack(m[0], NULL, x, labels, COUNT, &attack, attacked[1]));
        assert_memory_equal(attacked[0], attacked[1], sizeof attacked[0]);
        diagnose.teacher = teacher;
        assert_ok(kd, kd_diagnose(m[0], &data, &diagnose, &open));
        diagnose.loss = kd_loss_defaults(KD_LOSS_BCE);
        assert_ok(kd, kd_diagnose(m[0], &data, &diagnose, &named));
        assert_true(open.hard_norm == named.hard_norm && open.soft_norm == named.soft_norm);
        assert_true(open.soft_weight == named.soft_weight && open.hard_weight == named.hard_weight);
    }
    kd_model_destroy(m[0]);
    kd_model_destroy(teacher);
    free(x), free(targets);
}

/* Every kind has its own row, wherever that stands. */
static void test_tables(void **state)
{
    int i;
    (void)state;
    for (i = 0; i < KD_LOSS_COUNT; ++i) assert_int_equal(kd__loss_look_up((kd_loss_kind)i)->kind, i);
    assert_int_equal(kd__loss_look_up((kd_loss_kind)999)->kind, KD_LOSS_AUTO);
    for (i = 0; i < KD_FEATURE_COUNT; ++i) assert_int_equal(kd__feature_look_up((kd_feature_kind)i)->kind, i);
    assert_string_equal(kd__layer_types[KD__TYPE_DENSE].word, "dense");
    assert_string_equal(kd__layer_types[KD__TYPE_CONV].word, "conv");
    assert_string_equal(kd__layer_types[KD__TYPE_DEPTHWISE].word, "depthwise");
}

/* A line is read in a time that grows with its length, wherever the length is. */
static void test_long_lines(void **state)
{
    static const char *const parts[] = {"3: dense 2,",
                                        " ",
                                        "dense 4",
                                        NULL,
                                        "3: dense",
                                        " ",
                                        " 2",
                                        NULL,
                                        "3:",
                                        " ",
                                        "dense 2",
                                        NULL,
                                        "3: dense 2",
                                        "\n",
                                        "",
                                        NULL,
                                        "3: dense 2, relu(",
                                        "a",
                                        ")",
                                        NULL,
                                        "3: dense ",
                                        "1",
                                        "",
                                        NULL,
                                        "3: dense 2.",
                                        "0",
                                        "",
                                        NULL,
                                        "3: a",
                                        ".a",
                                        ": dense 2",
                                        NULL};
    enum { LONG = 1 << 20 };
    size_t i;
    (void)state;
    for (i = 0; i < sizeof parts / sizeof *parts; i += 4) {
        const clock_t start = clock();
        const size_t step = strlen(parts[i + 1]);
        char *line = (char *)malloc(LONG * step + 64), *at = line;
        kd_model *m = NULL;
        int j;
        at += sprintf(at, "%s", parts[i]);
        for (j = 0; j < LONG; ++j, at += step) memcpy(at, parts[i + 1], step);
        memcpy(at, parts[i + 2], strlen(parts[i + 2]) + 1);
        (void)kd_model_create(kd, line, 1, &m); /* or is refused as fast */
        if (m && kd__is_space(*parts[i + 1])) assert_true(strlen(kd_model_spec(m)) < 64);
        kd_model_destroy(m);
        free(line);
        assert_true((double)(clock() - start) / CLOCKS_PER_SEC < 5);
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, open_context, close_context)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_values),
        TEST(test_divergence_of_evaluation),
        TEST(test_softmax_of_wide_rows),
        TEST(test_dist_of_improbable_columns),
        TEST(test_updates_end),
        TEST(test_state_ends),
        TEST(test_statistics_end),
        TEST(test_results_end),
        TEST(test_last_of_one),
        TEST(test_last_of_one_elsewhere),
        TEST(test_batch_of_one),
        TEST(test_steps_of_a_schedule),
        TEST(test_partners),
        TEST(test_soft_labels_are_probabilities),
        TEST(test_open_loss_of_one_output),
        TEST(test_tables),
        TEST(test_long_lines),
    };
    const int failed = cmocka_run_group_tests_name("numbers", tests, NULL, NULL);
    test_print_skips("numbers");
    return failed;
}
