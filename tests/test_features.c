/* Losses on features and relations: against PyTorch, as derivatives through a whole network, and in training. */
#include "support.h"
#include "reference.h"
#include "golden/features.h"

/* ---- losses with learned parts, in double ---------------------------------------------------------------- */

/* These are written down from their formulas, without a gradient, as far from kd.h's layers as can be: images are
   (n, c, h, w), and `learned` is at the next tensor in PyTorch's order. */

static const double *take_learned(const double **learned, size_t count)
{
    const double *at = *learned;
    *learned += count;
    return at;
}

/* A convolution that keeps the size. */
static double *plain_conv(const double *x, int n, int in, int out, int h, int w, int side, int bias,
                          const double **learned)
{
    const double *weight = take_learned(learned, (size_t)(out * in * side * side));
    const double *start = bias ? take_learned(learned, (size_t)out) : NULL;
    double *y = (double *)calloc((size_t)(n * out * h * w), sizeof *y);
    int i, o, c, row, col, a, b;
    for (i = 0; i < n * out * h * w; ++i) {
        col = i % w, row = i / w % h, o = i / (w * h) % out;
        y[i] = start ? start[o] : 0;
        for (c = 0; c < in; ++c) {
            for (a = row - side / 2; a <= row + side / 2; ++a) {
                for (b = col - side / 2; b <= col + side / 2; ++b) {
                    const int tap = (a - row + side / 2) * side + b - col + side / 2;
                    if (a < 0 || a >= h || b < 0 || b >= w) continue;
                    y[i] += weight[(o * in + c) * side * side + tap] *
                            x[((i / (out * h * w) * in + c) * h + a) * w + b];
                }
            }
        }
    }
    return y;
}

static void plain_norm(double *x, int n, int channels, int pixels, const double **learned)
{
    const double *weight = take_learned(learned, (size_t)channels), *bias = take_learned(learned, (size_t)channels);
    int c, i;
    for (c = 0; c < channels; ++c) {
        double mean = 0, variance = 0;
        for (i = 0; i < n * pixels; ++i)
            mean += x[(i / pixels * channels + c) * pixels + i % pixels] / (n * pixels);
        for (i = 0; i < n * pixels; ++i)
            variance += pow(x[(i / pixels * channels + c) * pixels + i % pixels] - mean, 2) / (n * pixels);
        for (i = 0; i < n * pixels; ++i) {
            double *at = &x[(i / pixels * channels + c) * pixels + i % pixels];
            *at = (*at - mean) / sqrt(variance + 1e-5) * weight[c] + bias[c];
        }
    }
}

static double *plain_nearest(const double *x, int planes, int h, int w, int to_h, int to_w)
{
    double *y = (double *)calloc((size_t)(planes * to_h * to_w), sizeof *y);
    int i;
    for (i = 0; i < planes * to_h * to_w; ++i)
        y[i] = x[(i / (to_h * to_w) * h + i / to_w % to_h * h / to_h) * w + i % to_w * w / to_w];
    return y;
}

static double plain_squares(const double *x, const double *y, int count)
{
    double sum = 0;
    int i;
    for (i = 0; i < count; ++i) sum += (x[i] - y[i]) * (x[i] - y[i]) / count;
    return sum;
}

static double plain_regression(const kd__feature *f, int layer, const double **learned)
{
    const kd__tap *s = f->tap[KD__STUDENT][layer], *t = f->tap[KD__TEACHER][layer];
    double *y = plain_conv(s->map, f->n, s->c, t->c, t->h, t->w, 1, 1, learned);
    const double value = plain_squares(y, t->map, f->n * (int)kd__tap_count(t));
    free(y);
    return value;
}

static double plain_vid(const kd__feature *f, const double **learned)
{
    const kd__tap *s = f->tap[KD__STUDENT][0], *t = f->tap[KD__TEACHER][0];
    const int pixels = (int)kd__tap_pixels(t), count = f->n * t->c * pixels;
    double *y[3], value = 0;
    const double *a;
    int i, l;
    for (l = 0; l < 3; ++l) {
        y[l] = plain_conv(l ? y[l - 1] : s->map, f->n, l ? t->c : s->c, t->c, t->h, t->w, 1, 0, learned);
        for (i = 0; i < count && l < 2; ++i) y[l][i] = y[l][i] > 0 ? y[l][i] : 0;
    }
    a = take_learned(learned, (size_t)t->c);
    for (i = 0; i < count; ++i) {
        const double v = log(1 + exp(a[i / pixels % t->c])) + 1e-5;
        value += (pow(y[2][i] - t->map[i], 2) / v + log(v)) / 2 / count;
    }
    for (l = 0; l < 3; ++l) free(y[l]);
    return value;
}

static void pool_by_hand(const double *from, int h, int w, const kd__tap *tap, int n);

/* The hierarchical context loss. */
static double plain_hcl(const double *x, const kd__tap *t, int n)
{
    double value = plain_squares(x, t->map, n * (int)kd__tap_count(t)), share = 1, total = 1;
    int cells;
    for (cells = 4; cells >= 1; cells /= 2) {
        kd__tap a = *t, b;
        if (cells >= t->h) continue;
        a.h = a.w = cells;
        b = a;
        a.map = (double *)calloc((size_t)(n * t->c * cells * cells), sizeof *a.map);
        b.map = (double *)calloc((size_t)(n * t->c * cells * cells), sizeof *b.map);
        pool_by_hand(x, t->h, t->w, &a, n), pool_by_hand(t->map, t->h, t->w, &b, n);
        share /= 2, total += share;
        value += share * plain_squares(a.map, b.map, n * t->c * cells * cells);
        free(a.map), free(b.map);
    }
    return value / total;
}

static double plain_review(const kd__feature *f, const double **learned)
{
    const int last = f->layers - 1, n = f->n, width = KD__MIN(512, f->tap[KD__STUDENT][last]->c);
    const double *starts[3];
    double *above = NULL, value = 0;
    int l, i, c;
    for (l = 0; l <= last; ++l) {
        const int s = f->tap[KD__STUDENT][l]->c, t = f->tap[KD__TEACHER][l]->c;
        starts[l] = take_learned(
            learned, (size_t)(width * s + 2 * width + (l < last ? 4 * width + 2 : 0) + 9 * width * t + 2 * t));
    }
    for (l = last; l >= 0; --l) {
        const kd__tap *s = f->tap[KD__STUDENT][l], *t = f->tap[KD__TEACHER][l], *u = f->tap[KD__TEACHER][l + 1];
        const int pixels = (int)kd__tap_pixels(s);
        const double *at = starts[l];
        double *x = plain_conv(s->map, n, s->c, width, s->h, s->w, 1, 0, &at), *out;
        plain_norm(x, n, width, pixels, &at);
        if (above) {
            double *y = plain_nearest(above, n * width, u->h, u->w, s->h, s->w), *gates;
            double *both = (double *)calloc((size_t)(2 * n * width * pixels), sizeof *both);
            for (i = 0; i < n; ++i) {
                memcpy(both + 2 * i * width * pixels, x + i * width * pixels, (size_t)(width * pixels) * sizeof *x);
                memcpy(both + (2 * i + 1) * width * pixels, y + i * width * pixels,
                       (size_t)(width * pixels) * sizeof *x);
            }
            gates = plain_conv(both, n, 2 * width, 2, s->h, s->w, 1, 1, &at);
            for (i = 0; i < n * pixels; ++i) {
                const double *g = gates + i / pixels * 2 * pixels + i % pixels;
                for (c = 0; c < width; ++c) {
                    const int place = (i / pixels * width + c) * pixels + i % pixels;
                    x[place] = x[place] / (1 + exp(-g[0])) + y[place] / (1 + exp(-g[pixels]));
                }
            }
            free(y), free(gates), free(both), free(above);
        }
        above = plain_nearest(x, n * width, s->h, s->w, t->h, t->w);
        out = plain_conv(above, n, width, t->c, t->h, t->w, 3, 0, &at);
        plain_norm(out, n, t->c, (int)kd__tap_pixels(t), &at);
        value += plain_hcl(out, t, n);
        free(x), free(out);
    }
    free(above);
    return value;
}

static double plain_crd(const kd__feature *f, const double **learned)
{
    const int n = f->n, width = f->desc.width;
    double *e[2], value = 0;
    int side, i, j, k;
    for (side = 0; side < 2; ++side) {
        e[side] =
            plain_conv(f->tap[side][0]->map, n, (int)kd__tap_count(f->tap[side][0]), width, 1, 1, 1, 1, learned);
        for (i = 0; i < n; ++i) {
            double square = 0;
            for (k = 0; k < width; ++k) square += pow(e[side][i * width + k], 2);
            for (k = 0; k < width && square > 0; ++k) e[side][i * width + k] /= sqrt(square);
        }
    }
    for (side = 0; side < 2; ++side) {
        for (i = 0; i < n; ++i) {
            double sum = 0, own = 0;
            for (j = 0; j < n; ++j) {
                double dot = 0;
                for (k = 0; k < width; ++k) dot += e[side][i * width + k] * e[!side][j * width + k];
                dot /= (double)f->desc.temperature;
                sum += exp(dot);
                if (i == j) own = dot;
            }
            value += (log(sum) - own) / n;
        }
    }
    free(e[0]), free(e[1]);
    return value;
}

/* Of a loss whose taps have maps; reads what it has learned from *learned on. */
static double plain_value(const kd__feature *f, const double **learned)
{
    double value = 0;
    const double *start = *learned;
    int l;
    if (f->desc.kind == KD_FEATURE_VID) return plain_vid(f, learned);
    if (f->desc.kind == KD_FEATURE_REVIEW) return plain_review(f, learned);
    if (f->desc.kind == KD_FEATURE_CRD) return plain_crd(f, learned);
    for (l = 0; l < f->layers; ++l) {
        *learned = start; /* one projection for all layers */
        value += plain_regression(f, l, learned);
    }
    return value;
}

/* ---- against PyTorch ------------------------------------------------------------------------------------- */

/* The starts of the lists, as features of the given shapes. */
static void golden_taps(kd__tap *taps, const int (*shapes)[3], int n, int layers, const float *numbers)
{
    int which;
    size_t i, at = 0;
    for (which = 0; which < layers; ++which) {
        kd__tap *t = &taps[which];
        size_t count;
        t->c = shapes[which][0], t->h = shapes[which][1], t->w = shapes[which][2];
        count = (size_t)n * kd__tap_count(t);
        t->map = (double *)calloc(count, sizeof *t->map);
        t->grad = (double *)calloc(count, sizeof *t->grad);
        for (i = 0; i < count; ++i) t->map[i] = (double)numbers[at++];
    }
}

/* Where the i-th number of (n, c, h, w) is in (n, h, w, c). */
static size_t inner_place(const kd__tap *t, size_t i)
{
    const size_t pixels = kd__tap_pixels(t), channels = (size_t)t->c;
    const size_t sample = i / (channels * pixels), channel = i / pixels % channels, pixel = i % pixels;
    return (sample * pixels + pixel) * channels + channel;
}

/* The features as losses with learned parts read them. */
static void golden_floats(kd__tap *t, int n)
{
    const size_t count = (size_t)n * kd__tap_count(t);
    size_t i;
    t->x = (float *)calloc(count + KD__SLACK, sizeof *t->x);
    for (i = 0; i < count; ++i) t->x[inner_place(t, i)] = (float)t->map[i];
}

/* How near losses with learned parts come to PyTorch in double: a rounding of a float is 6e-8, and sums have few
   terms here. Deviations below 1 in batch normalisation, and a temperature of 0.07, make errors larger by as much.
   */
static double golden_tolerance(kd_feature_kind kind)
{
    return kind == KD_FEATURE_CRD ? 2e-7 / 0.07 : kind == KD_FEATURE_REVIEW ? 1e-6 : 2e-7;
}

static void check_golden(kd_ctx *kd, const golden_feature *g)
{
    kd__feature f;
    kd__tap taps[2][3];
    float *params, *param_grads, *plain_grads;
    double learned[400], tolerance = golden_tolerance(g->kind);
    const double *at_learned = learned;
    size_t count, i, at = 0;
    int side, which;
    memset(&f, 0, sizeof f);
    memset(taps, 0, sizeof taps);
    f.kd = kd;
    f.desc = kd_feature_loss_defaults(g->kind);
    f.info = kd__feature_look_up(g->kind);
    f.n = g->n;
    f.desc.width = 3;
    f.layers = g->layers;
    golden_taps(taps[KD__STUDENT], g->student, g->n, g->layers, golden_students);
    golden_taps(taps[KD__TEACHER], g->teacher, g->n, g->layers, golden_teachers);
    for (side = 0; side < 2; ++side) {
        for (which = 0; which < 3; ++which) f.tap[side][which] = &taps[side][which];
    }
    count = kd__tap_count(&taps[KD__STUDENT][0]);
    for (i = count * (size_t)(g->n - 1); i < count * (size_t)g->n; ++i) taps[KD__STUDENT][0].map[i] *= g->factor;
    if (f.info->learns) assert_ok(kd, f.info->learns(&f, g->n, 1));
    f.loose_at = f.param_count;
    f.param_count += (size_t)f.loose;
    params = (float *)calloc(f.param_count + KD__SLACK, sizeof *params);
    param_grads = (float *)calloc(f.param_count + KD__SLACK, sizeof *param_grads);
    plain_grads = (float *)calloc(f.param_count + KD__SLACK, sizeof *plain_grads);
    kd__feature_place_params(&f, params, param_grads);
    assert_int_equal(kd__feature_copy(&f, params, (float *)(uintptr_t)golden_learned, 0), g->learned);
    for (i = 0; i < (size_t)2 * (size_t)f.layers && f.part_count > 0; ++i)
        golden_floats(&taps[i / (size_t)f.layers][i % (size_t)f.layers], g->n);
    for (i = 0; i < (size_t)g->learned; ++i) learned[i] = (double)golden_learned[i];
    if (f.part_count > 0) assert_near(plain_value(&f, &at_learned), g->value, 1e-9);
    assert_true(f.part_count == 0 || at_learned == learned + g->learned);
    f.room = (double *)calloc(kd__feature_place(&f, (size_t)g->n, NULL), sizeof *f.room);
    assert_near(kd__feature_value(&f), g->value, f.part_count > 0 ? tolerance : 1e-9);
    for (which = 0; which < f.layers; ++which) {
        const kd__tap *t = &taps[KD__STUDENT][which];
        for (i = 0; i < (size_t)g->n * kd__tap_count(t); ++i, ++at) {
            if (t->x)
                assert_near(t->dx[inner_place(t, i)], g->grad[at], tolerance);
            else
                assert_near(t->grad[i], g->grad[at], 1e-8);
        }
    }
    kd__feature_copy(&f, param_grads, plain_grads, 1);
    for (i = 0; i < (size_t)g->learned; ++i) assert_near(plain_grads[i], g->learned_grad[i], tolerance);
    kd__feature_close(&f);
    for (side = 0; side < 2; ++side) {
        for (which = 0; which < 3; ++which)
            free(taps[side][which].map), free(taps[side][which].grad), free(taps[side][which].x);
    }
    free(f.room);
    free(params);
    free(param_grads);
    free(plain_grads);
}

static void test_like_pytorch(void **state)
{
    kd_ctx *kd = test_open(KD_ISA_AUTO, 1);
    int i, kinds[KD_FEATURE_COUNT] = {0};
    (void)state;
    for (i = 0; i < KD__COUNT(golden_features); ++i) {
        check_golden(kd, &golden_features[i]);
        kinds[golden_features[i].kind] = 1;
    }
    for (i = 0; i < KD_FEATURE_COUNT; ++i) assert_true(kinds[i]);
    kd_close(kd);
}

/* 7x5 to 3x2: cells overlap. */
static void test_pooling(void **state)
{
    kd_ctx *kd = test_open(KD_ISA_AUTO, 1);
    enum { NUMBERS = 2 * 3 * 7 * 5 };
    float x[NUMBERS];
    double map[KD__COUNT(golden_pooled)];
    kd__tap tap = {0, 3, 3, 2, NULL, NULL};
    kd_model *m;
    kd__run *run;
    int i;
    (void)state;
    for (i = 0; i < NUMBERS; ++i) x[i] = (float)i;
    assert_ok(kd, kd_model_create(kd, "3x7x5: a: relu, conv 2 3 pad=1, gap", 1, &m));
    tap.value = kd__layer_value(m, "a", 1);
    tap.map = map;
    assert_ok(kd, kd__run_open_tapped(m, NULL, 2, &tap, 1, &run));
    kd__run_forward(run, x, 2);
    kd__tap_read(run, &tap);
    for (i = 0; i < KD__COUNT(golden_pooled); ++i) assert_near(map[i], golden_pooled[i], 1e-12);
    kd__run_close(run);
    kd_model_destroy(m);
    kd_close(kd);
}

/* ---- through a whole network ----------------------------------------------------------------------------- */

static const char student_spec[] =
    "2x6x6: first: conv 4 3 pad=1, relu, maxpool 3 stride=1 pad=1, low: conv 3 3 pad=1 stride=2, "
    "batchnorm, high: relu, res: residual(conv 3 3 pad=1), flat: flatten, head: dense 6, "
    "out: tanh, last: dense 3";
static const char teacher_spec[] = "2x6x6: first: conv 4 3, relu, low: conv 3 3, flat: flatten, "
                                   "head: dense 7, relu, last: dense 3";
enum { IMAGES = 5, NUMBERS = IMAGES * 72 };

typedef struct choice {
    kd_feature_kind kind;
    const char *student, *teacher, *student2, *teacher2;
    float weight;
} choice;

static kd_feature_loss loss_of(const choice *c)
{
    kd_feature_loss loss = kd_feature_loss_defaults(c->kind);
    loss.student = c->student, loss.teacher = c->teacher;
    loss.student2 = c->student2, loss.teacher2 = c->teacher2;
    loss.weight = c->weight;
    loss.warmup = 0;
    return loss;
}

/* Cells as PyTorch defines them. */
static void pool_by_hand(const double *from, int h, int w, const kd__tap *tap, int n)
{
    double *to = tap->map;
    int i, a, b, y, x;
    for (i = 0; i < n * tap->c; ++i, from += h * w) {
        for (a = 0; a < tap->h; ++a) {
            for (b = 0; b < tap->w; ++b, ++to) {
                int cell = 0;
                *to = 0;
                for (y = a * h / tap->h; y * tap->h < (a + 1) * h; ++y) {
                    for (x = b * w / tap->w; x * tap->w < (b + 1) * w; ++x, ++cell) *to += from[y * w + x];
                }
                *to /= cell;
            }
        }
    }
}

/* What a tap must see, from the other implementation of the layers: after a fused activation. */
static void read_by_hand(const reference *r, const kd__tap *tap)
{
    const kd__shape *shape = &r->m->values[tap->value].shape;
    if (shape->flat) /* a vector is compared number by number, whatever image it was */
        memcpy(tap->map, r->values[tap->value], (size_t)r->n * kd__tap_count(tap) * sizeof *tap->map);
    else
        pool_by_hand(r->values[tap->value], shape->h, shape->w, tap, r->n);
}

/* Cross-entropy and the losses on features, in double precision, of a student that has run. */
static double total_loss(kd__features *fs, const reference *student, const int32_t *labels, const double *learned,
                         double *on_features)
{
    const double *logits = student->values[student->m->output];
    double sum = 0;
    int i;
    for (i = 0; i < IMAGES; ++i) {
        double q[3] = {0, 0, 0}, g[3];
        q[labels[i]] = 1;
        memset(g, 0, sizeof g);
        sum += reference_ce(logits + i * 3, q, 3, 1, g) / IMAGES;
    }
    for (i = 0; i < fs->tap_count; ++i) read_by_hand(student, &fs->taps[KD__STUDENT][i]);
    *on_features = 0;
    for (i = 0; i < fs->count; ++i) {
        kd__feature *f = &fs->list[i];
        const size_t count = (size_t)IMAGES * kd__tap_count(f->tap[KD__TEACHER][0]);
        double kept[400];
        assert_true(count <= 400);
        if (f->part_count > 0) {
            *on_features += (double)f->desc.weight * plain_value(f, &learned);
            continue;
        }
        memcpy(kept, f->tap[KD__TEACHER][0]->map, count * sizeof *kept); /* nst works in place */
        *on_features += (double)f->desc.weight * kd__feature_value(f);
        memcpy(f->tap[KD__TEACHER][0]->map, kept, count * sizeof *kept);
    }
    return sum + *on_features;
}

static void check_derivatives(const choice *choices, int count)
{
    kd_ctx *kd = test_open(KD_ISA_AUTO, 1);
    kd_model *student, *teacher;
    kd_feature_loss losses[4];
    float *x = test_floats(9, NUMBERS, 1);
    const int32_t labels[IMAGES] = {0, 2, 1, 1, 0}, samples[IMAGES] = {0, 1, 2, 3, 4};
    kd_data data = kd_data_f32(x, labels, IMAGES, 2, 6, 6, 3);
    kd_train_desc desc = kd_train_defaults();
    kd_trainer *t;
    reference before, after, taught;
    float *plain[2];
    double *learned;
    const double step = 1e-6;
    double on_features, squares = 0, moved = 0;
    kd_step_info info;
    int i, j, k, node, numbers;
    assert_ok(kd, kd_model_create(kd, student_spec, 3, &student));
    assert_ok(kd, kd_model_create(kd, teacher_spec, 4, &teacher));
    for (i = 0; i < count; ++i) losses[i] = loss_of(&choices[i]);
    memset(&info, 0, sizeof info);
    desc.teacher = teacher;
    desc.loss = kd_loss_defaults(KD_LOSS_CE);
    desc.features = losses, desc.feature_count = count;
    desc.optimizer = KD_SGD, desc.momentum = 0, desc.lr = 1;
    desc.clip_norm = 1e6f;
    assert_ok(kd, kd_trainer_open(student, &data, &desc, &t));
    numbers = (int)kd__features_copy(&t->features, t->features.params, NULL, 1);
    for (i = 0; i < 2; ++i) plain[i] = (float *)calloc((size_t)numbers + 1, sizeof *plain[i]);
    learned = (double *)calloc((size_t)numbers + 1, sizeof *learned);
    kd__features_copy(&t->features, t->features.params, plain[0], 1);
    for (i = 0; i < numbers; ++i) learned[i] = (double)plain[0][i];
    reference_open(&before, student, IMAGES, 1);
    reference_open(&taught, teacher, IMAGES, 0);
    assert_ok(kd, kd__trainer_train(t, samples, IMAGES, 0, 1, &info));
    kd__features_copy(&t->features, t->features.params, plain[1], 1);
    reference_open(&after, student, IMAGES, 1);
    reference_run(&taught, x);
    reference_run(&before, x);
    for (i = 0; i < 2 * t->features.tap_count; ++i) { /* learned parts have read floats */
        kd__tap *tap = &t->features.taps[i % 2][i / 2];
        if (tap->x) tap->map = (double *)calloc(IMAGES * kd__tap_count(tap), sizeof *tap->map);
    }
    for (i = 0; i < t->features.tap_count; ++i) read_by_hand(&taught, &t->features.taps[KD__TEACHER][i]);
    assert_near(info.loss, total_loss(&t->features, &before, labels, learned, &on_features), 1e-5);
    /* the learned part: before minus after is its gradient, too */
    for (i = 0; i < numbers; ++i) {
        const double change = (double)plain[0][i] - (double)plain[1][i], kept = learned[i];
        double loss[2];
        for (k = 0; k < 2; ++k) {
            learned[i] = kept + (k ? -step : step);
            loss[k] = total_loss(&t->features, &before, labels, learned, &on_features);
        }
        learned[i] = kept;
        assert_near(change, (loss[0] - loss[1]) / (2 * step), 1e-5);
        squares += change * change;
    }
    for (i = 0; i < student->param_count; ++i) {
        if (!student->params[i].trained) continue;
        node = reference_node_of(student, i);
        for (j = 0; j < (int)kd__param_count(&student->params[i]); ++j) {
            double *w = &before.weights[i][j], loss[2], part[2];
            const double kept = *w, change = kept - after.weights[i][j];
            for (k = 0; k < 2; ++k) {
                *w = kept + (k ? -step : step);
                reference_run_from(&before, node);
                loss[k] = total_loss(&t->features, &before, labels, learned, &part[k]);
            }
            *w = kept;
            assert_near(change, (loss[0] - loss[1]) / (2 * step), 1e-4);
            squares += change * change;
            moved += pow((part[0] - part[1]) / (2 * step), 2);
        }
        reference_run_from(&before, node);
    }
    if (!(moved > 1e-3))
        fail_msg("%s: %g", kd_feature_name(choices[0].kind),
                 moved); /* the losses on features had something to say */
    assert_near(info.gradient_norm, sqrt(squares), 1e-4);
    for (i = 0; i < 2 * t->features.tap_count; ++i) {
        kd__tap *tap = &t->features.taps[i % 2][i / 2];
        if (tap->x) free(tap->map);
    }
    reference_close(&before);
    reference_close(&after);
    reference_close(&taught);
    free(plain[0]), free(plain[1]);
    free(learned);
    kd_trainer_close(t);
    kd_model_destroy(student);
    kd_model_destroy(teacher);
    free(x);
    kd_close(kd);
}

static void test_derivatives(void **state)
{
    static const choice choices[] = {
        {KD_FEATURE_HINT, "first", "first", NULL, NULL, 5},   /* pooled */
        {KD_FEATURE_HINT, "low", "first", NULL, NULL, 5},     /* pooled and learned; read before batchnorm */
        {KD_FEATURE_HINT, "last", "last", NULL, NULL, 5},     /* the outputs themselves */
        {KD_FEATURE_HINT, "out", "head", NULL, NULL, 5},      /* a vector */
        {KD_FEATURE_AT, "res", "low", NULL, NULL, 20},        /* the sum of a residual, and nothing learned */
        {KD_FEATURE_AT_PAPER, "first", "low", NULL, NULL, 5}, /* pooled on both sides */
        {KD_FEATURE_SP, "high", "low", NULL, NULL, 50},       /* a fused activation by its own tag */
        {KD_FEATURE_RKD, "head", "head", NULL, NULL, 1},
        {KD_FEATURE_PKT, "flat", "flat", NULL, NULL, 20000},
        {KD_FEATURE_CC, "res.body.0", "flat", NULL, NULL, 200},
        {KD_FEATURE_NST, "first", "low", NULL, NULL, 5},
        {KD_FEATURE_VID, "low", "first", NULL, NULL, 1000},
        {KD_FEATURE_FSP, "first", "first", "low", "low", 5},
        {KD_FEATURE_REVIEW, "first, low,head", " first,low , head", NULL, NULL, 5},
        {KD_FEATURE_REVIEW, "low", "first", NULL, NULL, 5},
        {KD_FEATURE_CRD, "high", "low", NULL, NULL, 1},
        {KD_FEATURE_CRD, "last", "head", NULL, NULL, 1},
    };
    static const choice several[] = {
        {KD_FEATURE_VID, "first", "low", NULL, NULL, 20},
        {KD_FEATURE_HINT, "low", "first", NULL, NULL, 5},
        {KD_FEATURE_REVIEW, "low, last", "low, head", NULL, NULL, 5},
        {KD_FEATURE_SP, "low", "head", NULL, NULL, 50},
    };
    int i;
    (void)state;
    for (i = 0; i < KD__COUNT(choices); ++i) check_derivatives(&choices[i], 1);
    check_derivatives(several, KD__COUNT(several));
}

/* ---- in training ----------------------------------------------------------------------------------------- */

enum { SAMPLES = 42 };

typedef struct lesson {
    kd_ctx *kd;
    kd_model *student, *teacher;
    float *x;
    int32_t labels[SAMPLES];
    kd_data data;
    kd_feature_loss losses[5];
    kd_train_desc desc;
    char log[400];
    /* from on_step */
    test_memory *memory;
    int steps, first_requests, last_requests;
    double first, last;
} lesson;

static void keep_last_line(void *user, const char *line)
{
    snprintf(((lesson *)user)->log, sizeof((lesson *)user)->log, "%s", line);
}

static int watch(void *user, const kd_step_info *info)
{
    lesson *l = (lesson *)user;
    if (l->steps++ == 0) {
        l->first = info->loss;
        l->first_requests = l->memory ? l->memory->requests : 0;
    }
    l->last = info->loss;
    l->last_requests = l->memory ? l->memory->requests : 0;
    return 0;
}

static void lesson_open(lesson *l, kd_ctx_desc ctx, const choice *choices, int count)
{
    static const choice usual[] = {
        {KD_FEATURE_HINT, "low", "first", NULL, NULL, 5},
        {KD_FEATURE_RKD, "head", "head", NULL, NULL, 1},
        {KD_FEATURE_AT, "res", "low", NULL, NULL, 20},
        {KD_FEATURE_REVIEW, "first, low", "first, low", NULL, NULL, 5},
        {KD_FEATURE_CRD, "head", "head", NULL, NULL, 1},
    };
    int i;
    memset(l, 0, sizeof *l);
    ctx.log = keep_last_line;
    ctx.log_user = l;
    assert_int_equal(kd_open(&ctx, &l->kd), KD_OK);
    assert_ok(l->kd, kd_model_create(l->kd, student_spec, 3, &l->student));
    assert_ok(l->kd, kd_model_create(l->kd, teacher_spec, 4, &l->teacher));
    l->x = test_floats(5, SAMPLES * 72, 1);
    for (i = 0; i < SAMPLES; ++i) l->labels[i] = i % 3;
    l->data = kd_data_f32(l->x, l->labels, SAMPLES, 2, 6, 6, 3);
    if (!choices) choices = usual, count = KD__COUNT(usual);
    for (i = 0; i < count; ++i) l->losses[i] = loss_of(&choices[i]);
    l->desc = kd_train_defaults();
    l->desc.teacher = l->teacher;
    l->desc.features = l->losses;
    l->desc.feature_count = count;
    l->desc.epochs = 2;
    l->desc.batch = 17;
    l->desc.on_step = watch;
    l->desc.user = l;
}

static void lesson_close(lesson *l)
{
    kd_model_destroy(l->student);
    kd_model_destroy(l->teacher);
    free(l->x);
    kd_close(l->kd);
}

static uint64_t lesson_hash(kd_isa isa, int threads)
{
    kd_ctx_desc ctx = kd_ctx_defaults();
    lesson l;
    uint64_t hash;
    ctx.isa = isa;
    ctx.threads = threads;
    lesson_open(&l, ctx, NULL, 0);
    assert_ok(l.kd, kd_train(l.student, &l.data, &l.desc));
    hash = kd_model_hash(l.student);
    lesson_close(&l);
    return hash;
}

/* The same bits for any number of threads, and for all instruction sets with fused multiply-add. */
static void test_same_bits(void **state)
{
    uint64_t fused = 0;
    kd_isa isa;
    (void)state;
    FOR_EACH_ISA(isa)
    {
        const uint64_t hash = lesson_hash(isa, 1);
        assert_true(hash == lesson_hash(isa, 3));
        if (isa == KD_ISA_SCALAR) continue;
        assert_true(!fused || hash == fused);
        fused = hash;
    }
}

/* What is learned is in a checkpoint in PyTorch's order, whatever panels an instruction set stores it in; and it
   learns where losses of two sides have a backward pass each. */
static void test_checkpoint_of_learned(void **state)
{
    static const choice choices[] = {
        {KD_FEATURE_HINT, "low", "first", NULL, NULL, 5},
        {KD_FEATURE_VID, "low", "first", NULL, NULL, 1},
        {KD_FEATURE_REVIEW, "first, low", "first, low", NULL, NULL, 5},
        {KD_FEATURE_CRD, "head", "head", NULL, NULL, 1},
    };
    char path[] = P_tmpdir "/kd_features_XXXXXX";
    const int file = mkstemp(path);
    float *plain[2][4];
    lesson l[2];
    int i, j;
    (void)state;
    assert_true(file >= 0);
    close(file);
    for (i = 0; i < 2; ++i) {
        kd_ctx_desc ctx = kd_ctx_defaults();
        kd_trainer *t;
        const kd__features *fs;
        int64_t count;
        if (i) ctx.isa = KD_ISA_SCALAR;
        lesson_open(&l[i], ctx, choices, KD__COUNT(choices));
        l[i].desc.optimizer = KD_SGD, l[i].desc.dot_delta = 0.05f, l[i].desc.accumulate = 2;
        l[i].desc.lr = 0.001f;
        assert_ok(l[i].kd, kd_trainer_open(l[i].student, &l[i].data, &l[i].desc, &t));
        fs = &t->features;
        count = kd__features_copy(fs, fs->params, NULL, 1);
        for (j = 0; j < 4; ++j) plain[i][j] = (float *)calloc((size_t)count, sizeof(float));
        if (i) assert_ok(l[i].kd, kd_trainer_load(t, path));
        kd__features_copy(fs, fs->params, plain[i][0], 1);
        if (!i) {
            for (j = 0; j < 4; ++j) assert_ok(l[i].kd, kd_trainer_step(t, NULL));
            kd__features_copy(fs, fs->params, plain[i][3], 1);
            for (j = 0; j < count && plain[i][0][j] == plain[i][3][j]; ++j) {}
            assert_true(j < count);
            memcpy(plain[i][0], plain[i][3], (size_t)count * sizeof(float));
            assert_ok(l[i].kd, kd_trainer_save(t, path));
        }
        kd__features_copy(fs, fs->first, plain[i][1], 1);
        kd__features_copy(fs, fs->gathered, plain[i][2], 1);
        for (j = 0; j < 3 && i; ++j) assert_memory_equal(plain[0][j], plain[1][j], (size_t)count * sizeof(float));
        kd_trainer_close(t);
        lesson_close(&l[i]);
    }
    for (i = 0; i < 2; ++i) {
        for (j = 0; j < 4; ++j) free(plain[i][j]);
    }
    unlink(path);
}

/* The teacher stays as it is, the student gets no tensors, and no step allocates. */
static void test_nothing_is_left(void **state)
{
    test_memory memory;
    lesson l;
    kd_model *loaded;
    uint64_t teacher;
    char path[] = P_tmpdir "/kd_features_XXXXXX";
    int tensors;
    const int file = mkstemp(path);
    (void)state;
    assert_true(file >= 0);
    close(file);
    lesson_open(&l, test_memory_desc(&memory), NULL, 0);
    l.memory = &memory;
    l.desc.epochs = 3;
    teacher = kd_model_hash(l.teacher);
    tensors = kd_model_tensors(l.student);
    assert_ok(l.kd, kd_train(l.student, &l.data, &l.desc));
    assert_true(l.steps == 9 && l.first_requests > 0);
    assert_int_equal(l.first_requests, l.last_requests);
    assert_true(teacher == kd_model_hash(l.teacher));
    assert_int_equal(kd_model_tensors(l.student), tensors);
    assert_ok(l.kd, kd_model_save(l.student, path));
    assert_ok(l.kd, kd_model_load(l.kd, path, &loaded));
    assert_int_equal(kd_model_tensors(loaded), tensors);
    assert_true(kd_model_hash(loaded) == kd_model_hash(l.student));
    kd_model_destroy(loaded);
    unlink(path);
    kd_model_destroy(l.student);
    kd_model_destroy(l.teacher);
    free(l.x);
    test_memory_close(l.kd, &memory);
}

/* However early the allocator gives up, the call says so and everything comes back. */
static void test_memory_refused(void **state)
{
    test_memory memory;
    lesson l;
    int i, requests;
    uint64_t before;
    (void)state;
    lesson_open(&l, test_memory_desc(&memory), NULL, 0);
    l.desc.epochs = 0;
    before = kd_model_hash(l.student);
    requests = memory.requests;
    assert_ok(l.kd, kd_train(l.student, &l.data, &l.desc));
    requests = memory.requests - requests;
    for (i = 1; i <= requests; ++i) {
        memory.refuse_at = i;
        assert_int_equal(kd_train(l.student, &l.data, &l.desc), KD_ERR_MEMORY);
        memory.refuse_at = 0;
    }
    assert_true(before == kd_model_hash(l.student));
    kd_model_destroy(l.student);
    kd_model_destroy(l.teacher);
    free(l.x);
    test_memory_close(l.kd, &memory);
}

/* Each loss alone, with the others at weight 0, goes down: the features come nearer. */
static void test_brings_nearer(void **state)
{
    static const float nothing = 0;
    static const choice choices[] = {
        {KD_FEATURE_HINT, "low", "first", NULL, NULL, 1},
        {KD_FEATURE_AT, "res", "low", NULL, NULL, 100},
        {KD_FEATURE_AT_PAPER, "first", "low", NULL, NULL, 1},
        {KD_FEATURE_SP, "high", "low", NULL, NULL, 100},
        {KD_FEATURE_RKD, "head", "head", NULL, NULL, 1},
        {KD_FEATURE_PKT, "flat", "flat", NULL, NULL, 1000},
        {KD_FEATURE_CC, "flat", "flat", NULL, NULL, 1},
        {KD_FEATURE_NST, "first", "low", NULL, NULL, 1},
        {KD_FEATURE_FSP, "first", "first", "low", "low", 1},
        {KD_FEATURE_VID, "low", "first", NULL, NULL, 1},
        {KD_FEATURE_REVIEW, "first, low", "first, low", NULL, NULL, 1},
        {KD_FEATURE_CRD, "head", "head", NULL, NULL, 1},
    };
    int i;
    (void)state;
    for (i = 0; i < KD__COUNT(choices); ++i) {
        const kd_loss_desc ce = kd_loss_defaults(KD_LOSS_CE);
        lesson l;
        lesson_open(&l, kd_ctx_defaults(), &choices[i], 1);
        l.desc.losses = &ce, l.desc.loss_weights = &nothing, l.desc.loss_count = 1;
        l.desc.epochs = 100, l.desc.batch = SAMPLES, l.desc.lr = 0.03f;
        assert_ok(l.kd, kd_train(l.student, &l.data, &l.desc));
        if (!(l.last < 0.7 * l.first))
            fail_msg("%s: from %g to %g", kd_feature_name(choices[i].kind), l.first, l.last);
        lesson_close(&l);
    }
}

/* Two halves of a batch, gathered, move weights and learned part as the whole batch does. */
static void test_accumulate(void **state)
{
    static const choice hint = {KD_FEATURE_HINT, "first", "head", NULL, NULL, 5};
    lesson l[2];
    int i;
    int64_t j;
    kd_tensor_info info;
    (void)state;
    for (i = 0; i < 2; ++i) {
        lesson_open(&l[i], kd_ctx_defaults(), &hint, 1);
        kd_model_destroy(l[i].student);
        assert_ok(l[i].kd, kd_model_create(l[i].kd, "2x6x6: first: conv 4 3, relu, dense 3", 3, &l[i].student));
        l[i].desc.optimizer = KD_SGD, l[i].desc.lr = 0.02f, l[i].desc.shuffle = 0, l[i].desc.epochs = 4;
        l[i].desc.batch = i ? SAMPLES / 2 : SAMPLES, l[i].desc.accumulate = i + 1;
        assert_ok(l[i].kd, kd_train(l[i].student, &l[i].data, &l[i].desc));
    }
    for (i = 0; i < kd_model_tensors(l[0].student); ++i) {
        float a[600], b[600];
        assert_ok(l[0].kd, kd_model_tensor_info(l[0].student, i, &info));
        assert_true(info.count <= 600);
        assert_ok(l[0].kd, kd_model_get_tensor(l[0].student, info.name, a, info.count));
        assert_ok(l[1].kd, kd_model_get_tensor(l[1].student, info.name, b, info.count));
        for (j = 0; j < info.count; ++j) assert_near(a[j], b[j], 1e-5);
    }
    lesson_close(&l[0]);
    lesson_close(&l[1]);
}

/* The weight climbs over the epochs of a warm-up: the first step has the loss of a smaller weight. */
static void test_warmup(void **state)
{
    static const choice hint = {KD_FEATURE_HINT, "low", "first", NULL, NULL, 8};
    double first[2], last[2];
    int i;
    (void)state;
    for (i = 0; i < 2; ++i) {
        lesson l;
        lesson_open(&l, kd_ctx_defaults(), &hint, 1);
        l.desc.batch = SAMPLES, l.desc.lr = 0;
        if (i)
            l.losses[0].warmup = 4, l.desc.epochs = 5;
        else
            l.losses[0].weight = 2;
        assert_ok(l.kd, kd_train(l.student, &l.data, &l.desc));
        first[i] = l.first, last[i] = l.last;
        lesson_close(&l);
    }
    assert_near(first[1], first[0], 1e-6);
    assert_true(last[1] > 1.5 * last[0]);
    assert_near(kd_feature_loss_defaults(KD_FEATURE_REVIEW).warmup, 20, 0);
}

/* The gates start near one half, and with them the deepest layer reaches the first level of the review. */
static void test_review_looks_back(void **state)
{
    static const choice review = {KD_FEATURE_REVIEW, "first, low", "first, low", NULL, NULL, 5};
    lesson l;
    kd_trainer *t;
    kd__feature *f;
    double value[2];
    size_t i;
    int k;
    (void)state;
    lesson_open(&l, kd_ctx_defaults(), &review, 1);
    assert_ok(l.kd, kd_trainer_open(l.student, &l.data, &l.desc, &t));
    assert_ok(l.kd, kd_trainer_step(t, NULL));
    f = &t->features.list[0];
    for (k = 0; k < 2; ++k) {
        kd__review levels[KD__MAX_TAPS];
        const size_t used = kd__feature_place(f, (size_t)f->n, f->room);
        (void)kd__review_open(f, f->n, f->more, levels);
        kd__review_nearest(levels[1].s, levels[1].t, levels[1].nearest_own);
        kd__review_nearest(levels[0].s, levels[0].t, levels[0].nearest_own);
        kd__review_nearest(levels[1].t, levels[0].s, levels[0].nearest_above);
        kd__review_forward(&levels[1]);
        kd__review_forward(&levels[0]);
        value[k] = kd__review_value(&levels[0]);
        for (i = 0; i < (size_t)f->n * kd__tap_count(f->tap[KD__STUDENT][1]); ++i)
            f->tap[KD__STUDENT][1]->x[i] = (float)i / 100 - f->tap[KD__STUDENT][1]->x[i];
        kd__give_back(f->room, used);
    }
    assert_true(fabs(value[0] - value[1]) > 1e-6);
    kd_trainer_close(t);
    lesson_close(&l);
}

/* Embeddings take layers as they are, whatever their size; a loss on each pixel takes the smaller one. */
static void test_sizes(void **state)
{
    static const choice crd = {KD_FEATURE_CRD, "high", "first", NULL, NULL, 1};
    static const choice at = {KD_FEATURE_AT, "high", "first", NULL, NULL, 1};
    const choice *const choices[2] = {&crd, &at};
    int i;
    (void)state;
    for (i = 0; i < 2; ++i) {
        lesson l;
        kd_trainer *t;
        const kd__feature *f;
        lesson_open(&l, kd_ctx_defaults(), choices[i], 1);
        assert_ok(l.kd, kd_trainer_open(l.student, &l.data, &l.desc, &t));
        f = &t->features.list[0];
        assert_int_equal(f->tap[KD__STUDENT][0]->h, 3);
        assert_int_equal(f->tap[KD__TEACHER][0]->h, choices[i] == &crd ? 4 : 3);
        kd_trainer_close(t);
        lesson_close(&l);
    }
}

/* A vector is compared number by number, in PyTorch's order, and not as the image that it was. */
static void test_vectors(void **state)
{
    enum { N = 6, NUMBERS_EACH = 16 };
    static const char *const students[] = {"4x2x2: a: conv 4 1, f: flatten, dense 3",
                                           "4x2x2: a: conv 4 1, flatten, f: sigmoid, dense 3"};
    kd_ctx *kd = test_open(KD_ISA_AUTO, 1);
    float *x = test_floats(3, N * NUMBERS_EACH, 1), s[NUMBERS_EACH], t[NUMBERS_EACH];
    const int32_t labels[N] = {0, 1, 2, 0, 1, 2};
    const kd_data data = kd_data_f32(x, labels, N, 4, 2, 2, 3);
    int i, j, k;
    (void)state;
    for (i = 0; i < 2; ++i) {
        kd_model *student, *teacher, *first;
        kd_feature_loss hint = kd_feature_loss_defaults(KD_FEATURE_HINT);
        kd_train_desc desc = kd_train_defaults();
        kd_loss_desc loss = kd_loss_defaults(KD_LOSS_CE);
        const float nothing = 0;
        float weight[16], bias[4];
        kd_trainer *trainer;
        kd_step_info info;
        double wanted = 0;
        assert_ok(kd, kd_model_create(kd, students[i], 1, &student));
        assert_ok(kd, kd_model_create(kd, "4x2x2: t: dense 16, dense 3", 2, &teacher));
        assert_ok(
            kd, kd_model_create(kd, i ? "4x2x2: a: conv 4 1, flatten, sigmoid" : "4x2x2: a: conv 4 1", 1, &first));
        assert_ok(kd, kd_model_get_tensor(student, "a.weight", weight, 16));
        assert_ok(kd, kd_model_get_tensor(student, "a.bias", bias, 4));
        assert_ok(kd, kd_model_set_tensor(first, "a.weight", weight, 16));
        assert_ok(kd, kd_model_set_tensor(first, "a.bias", bias, 4));
        hint.student = "f", hint.teacher = "t", hint.weight = 1;
        desc.teacher = teacher, desc.features = &hint, desc.feature_count = 1;
        desc.losses = &loss, desc.loss_count = 1, desc.loss_weights = &nothing;
        desc.batch = N;
        assert_ok(kd, kd_trainer_open(student, &data, &desc, &trainer));
        assert_int_equal(trainer->features.param_count, 0); /* 16 numbers on both sides: nothing to be learned */
        assert_ok(kd, kd_trainer_step(trainer, &info));
        kd_trainer_close(trainer);
        for (j = 0; j < N; ++j) {
            kd_model *dense;
            float w[256], b[16];
            assert_ok(kd, kd_model_create(kd, "16: dense 16", 1, &dense));
            assert_ok(kd, kd_model_get_tensor(teacher, "t.weight", w, 256));
            assert_ok(kd, kd_model_get_tensor(teacher, "t.bias", b, 16));
            assert_ok(kd, kd_model_set_tensor(dense, "0.weight", w, 256));
            assert_ok(kd, kd_model_set_tensor(dense, "0.bias", b, 16));
            assert_ok(kd, kd_predict(first, x + j * NUMBERS_EACH, 1, s));
            assert_ok(kd, kd_predict(dense, x + j * NUMBERS_EACH, 1, t));
            for (k = 0; k < NUMBERS_EACH; ++k) wanted += pow((double)s[k] - (double)t[k], 2) / (N * NUMBERS_EACH);
            kd_model_destroy(dense);
        }
        assert_near(info.loss, wanted, 1e-5);
        kd_model_destroy(student), kd_model_destroy(teacher), kd_model_destroy(first);
    }
    free(x);
    kd_close(kd);
}

static void test_log(void **state)
{
    static const choice c = {KD_FEATURE_HINT, "low", "first", NULL, NULL, 2.5f};
    lesson l;
    (void)state;
    lesson_open(&l, kd_ctx_defaults(), &c, 1);
    assert_ok(l.kd, kd_train(l.student, &l.data, &l.desc));
    assert_string_equal(l.log,
                        "kd_train: feature loss hint of \"low\" and \"first\": times 2.5, with a learned part");
    assert_near(kd_feature_loss_defaults(KD_FEATURE_PKT).weight, 30000, 0);
    assert_string_equal(kd_feature_name(KD_FEATURE_COUNT), "unknown");
    assert_string_equal(kd_feature_name(KD_FEATURE_CRD), "crd");
    lesson_close(&l);
}

/* ---- refused --------------------------------------------------------------------------------------------- */

static void test_refused(void **state)
{
    lesson l;
    kd_feature_loss good;
    kd_train_desc desc;
    const kd_model *teachers[1];
    kd_cache *cache;
    uint64_t before;
    (void)state;
    lesson_open(&l, kd_ctx_defaults(), NULL, 0);
    good = l.losses[0];
    desc = l.desc;
    before = kd_model_hash(l.student);
#define REFUSED(change, result, text)                                                                              \
    do {                                                                                                           \
        l.desc = desc;                                                                                             \
        l.losses[0] = good;                                                                                        \
        change;                                                                                                    \
        assert_fails(l.kd, kd_train(l.student, &l.data, &l.desc), result, text);                                   \
    } while (0)
    REFUSED(l.desc.teacher = NULL, KD_ERR_ARGUMENT, "need desc.teacher, a model");
    assert_ok(l.kd, kd_cache_create(l.teacher, &l.data, NULL, 0, 1, &cache));
    REFUSED((l.desc.teacher = NULL, l.desc.cache = cache), KD_ERR_ARGUMENT, "logits alone, from a cache");
    kd_cache_destroy(cache);
    teachers[0] = l.teacher;
    REFUSED((l.desc.teacher = NULL, l.desc.teachers = teachers, l.desc.teacher_count = 1), KD_ERR_ARGUMENT,
            "need desc.teacher");
    REFUSED(l.desc.features = NULL, KD_ERR_ARGUMENT, "features and feature_count belong together");
    REFUSED(l.desc.feature_count = 17, KD_ERR_ARGUMENT, "must be 0 to 16, got 17");
    REFUSED(l.losses[0].cookie = 0, KD_ERR_DEFAULTS, "kd_feature_loss_defaults()");
    REFUSED(l.losses[0].kind = KD_FEATURE_COUNT, KD_ERR_ARGUMENT, "is no kind of feature loss");
    REFUSED(l.losses[0].student = NULL, KD_ERR_ARGUMENT, "feature loss 0 needs the tag of a layer of the student");
    REFUSED(l.losses[0].student = "fisrt", KD_ERR_ARGUMENT,
            "the student has no layer \"fisrt\"; did you mean \"first\"?");
    REFUSED(l.losses[0].teacher = "heat", KD_ERR_ARGUMENT,
            "the teacher has no layer \"heat\"; did you mean \"head\"?");
    REFUSED(l.losses[0].weight = -1, KD_ERR_ARGUMENT, "weight of a feature loss must be 0 to 1000000, got -1");
    REFUSED(l.losses[0].weight = (float)NAN, KD_ERR_ARGUMENT, "weight of a feature loss");
    REFUSED(l.losses[0].order = 9, KD_ERR_ARGUMENT, "order must be 1 to 8, got 9");
    REFUSED(l.losses[0].student2 = "low", KD_ERR_ARGUMENT, "takes one layer a model");
    REFUSED(l.losses[0].student = "first, low", KD_ERR_ARGUMENT, "the student has no layer \"first, low\"");
    REFUSED(l.losses[0].temperature = 0, KD_ERR_ARGUMENT, "temperature of a feature loss must be 0.001");
    REFUSED(l.losses[0].width = 0, KD_ERR_ARGUMENT, "width must be 1 to 65536, got 0");
    REFUSED(l.losses[0].warmup = -1, KD_ERR_ARGUMENT, "warmup of a feature loss must be 0 to");
    REFUSED((l.losses[0].kind = KD_FEATURE_REVIEW, l.losses[0].student = "first, low"), KD_ERR_ARGUMENT,
            "as many layers of the student as of the teacher, got 2 and 1");
    REFUSED((l.losses[0].kind = KD_FEATURE_REVIEW, l.losses[0].teacher = "first,"), KD_ERR_ARGUMENT,
            "the teacher has no layer \"\"");
    REFUSED((l.losses[0].kind = KD_FEATURE_REVIEW, l.losses[0].student = "a, low"), KD_ERR_ARGUMENT,
            "the student has no layer \"a\"");
    REFUSED((l.losses[0].kind = KD_FEATURE_REVIEW, l.losses[0].student2 = "low"), KD_ERR_ARGUMENT,
            "takes one list of layers a model");
    REFUSED(
        (l.losses[0].kind = KD_FEATURE_REVIEW, l.losses[0].student = "low, low, low, low, low, low, low, low, low"),
        KD_ERR_ARGUMENT, "takes up to 8 layers of the student");
    REFUSED(l.losses[0].kind = KD_FEATURE_FSP, KD_ERR_ARGUMENT, "needs the tag of a layer of the student");
    REFUSED((l.losses[0].kind = KD_FEATURE_FSP, l.losses[0].student2 = l.losses[0].teacher2 = "head"), KD_ERR_SHAPE,
            "\"low\" of the student has 3 and \"first\" of the teacher 4");
    assert_true(before == kd_model_hash(l.student));
    kd_model_destroy(l.student);
    assert_ok(l.kd, kd_model_create(l.kd, "2x6x6: early: relu, dense 3", 1, &l.student));
    l.losses[0].student = "early";
    REFUSED((l.losses[0].student = "early", l.desc.feature_count = 1), KD_ERR_ARGUMENT, "depends on no weights");
#undef REFUSED
    lesson_close(&l);
}

/* Gradients through cosines: right, and nothing behind the matrices is touched. */
static void test_cosines(void **state)
{
    enum { N = 3, ALL = N * N };
    double g[ALL + N + 1], by_y[ALL + N + 1], grad[ALL + N + 1], y[ALL], scale[N + 1], other[ALL], value[2];
    int i, j, k;
    (void)state;
    for (i = 0; i < ALL + N + 1; ++i)
        g[i] = 0.3 * (i % 4) + (i % (N + 1) == 0 ? 2 : 0), by_y[i] = 0.1 * i - 0.4, grad[i] = 0;
    for (i = 0; i < N; ++i)
        for (j = 0; j < i; ++j) g[i * N + j] = g[j * N + i];
    scale[N] = 1;
    kd__cosines(g, N, 0.01, scale, y);
    kd__cosines_backward(g, N, scale, by_y, grad);
    for (i = ALL; i < ALL + N + 1; ++i) assert_true(grad[i] == 0);
    for (i = 0; i < ALL; ++i) {
        for (k = 0; k < 2; ++k) {
            memcpy(other, g, sizeof other);
            other[i] += k ? 1e-6 : -1e-6;
            kd__cosines(other, N, 0.01, scale, y);
            for (j = 0, value[k] = 0; j < ALL; ++j) value[k] += by_y[j] * y[j];
        }
        assert_near(grad[i], (value[1] - value[0]) / 2e-6, 1e-7);
    }
}

static void test_sixteen(void **state)
{
    kd_feature_loss losses[KD__MAX_FEATURES];
    lesson l;
    int i;
    (void)state;
    lesson_open(&l, kd_ctx_defaults(), NULL, 0);
    for (i = 0; i < KD__MAX_FEATURES; ++i) losses[i] = l.losses[0];
    l.desc.features = losses;
    l.desc.feature_count = 16;
    assert_ok(l.kd, kd_train(l.student, &l.data, &l.desc));
    lesson_close(&l);
}

/* Only review and tinybert take lists of layers, and only FSP a second layer. */
static void test_layers_of_kinds(void **state)
{
    lesson l;
    int kind;
    (void)state;
    lesson_open(&l, kd_ctx_defaults(), NULL, 0);
    l.desc.feature_count = 1;
    for (kind = 0; kind < KD_FEATURE_COUNT; ++kind) {
        l.losses[0] = kd_feature_loss_defaults((kd_feature_kind)kind);
        l.losses[0].student = "first, low", l.losses[0].teacher = "first, low";
        l.losses[0].student2 = l.losses[0].teacher2 = kind == KD_FEATURE_FSP ? "low" : NULL;
        if (kind == KD_FEATURE_REVIEW) {
            assert_ok(l.kd, kd_train(l.student, &l.data, &l.desc));
            continue;
        }
        if (kind == KD_FEATURE_TINYBERT) {
            assert_fails(l.kd, kd_train(l.student, &l.data, &l.desc), KD_ERR_SHAPE,
                         "has one projection for all layers, but layer 1 of the student's list has 3 channels");
            continue;
        }
        assert_fails(l.kd, kd_train(l.student, &l.data, &l.desc), KD_ERR_ARGUMENT,
                     "the student has no layer \"first, low\"");
        if (kind == KD_FEATURE_FSP) continue;
        l.losses[0].student = l.losses[0].teacher = "first";
        l.losses[0].student2 = l.losses[0].teacher2 = "low";
        assert_fails(l.kd, kd_train(l.student, &l.data, &l.desc), KD_ERR_ARGUMENT, "takes one layer a model");
    }
    lesson_close(&l);
}

/* Under AddressSanitizer nothing may touch what lies between the arrays of a room, until they are given back. */
static void test_fences(void **state)
{
    double *room, *part[3];
    size_t used = 0, i;
    (void)state;
    for (i = 0; i < 3; ++i) assert_null(kd__take(NULL, &used, 5 + i));
    assert_int_equal(used, 5 + 6 + 7 + 3 * KD__FENCE * sizeof(float) / sizeof(double));
    room = (double *)malloc(used * sizeof *room);
    assert_non_null(room);
    for (i = 0, used = 0; i < 3; ++i) part[i] = kd__take(room, &used, 5 + i);
#if KD__FENCE > 0
    for (i = 0; i < used; ++i) {
        const double *at = room + i;
        const int inside = (at >= part[0] && at < part[0] + 5) || (at >= part[1] && at < part[1] + 6) ||
                           (at >= part[2] && at < part[2] + 7);
        assert_int_equal(__asan_address_is_poisoned(at), !inside);
    }
    kd__give_back(room, used);
    assert_null(__asan_region_is_poisoned(room, used * sizeof *room));
#else
    for (i = 0; i < 2; ++i) assert_ptr_equal(part[i + 1], part[i] + 5 + i);
#endif
    free(room);
}

/* Nor what surrounds a block, until the allocator has it back, which writes there as it likes. */
static void test_fences_of_blocks(void **state)
{
#if KD__FENCE > 0
    test_memory memory;
    const kd_ctx_desc desc = test_memory_desc(&memory);
    kd_ctx *kd;
    size_t size;
    (void)state;
    assert_int_equal(kd_open(&desc, &kd), KD_OK);
    for (size = 1; size < 200; size += 11) {
        char *block = KD__NEW(kd, char, size);
        assert_null(__asan_region_is_poisoned(block, size));
        assert_true(__asan_address_is_poisoned(block - 1));
        assert_true(__asan_address_is_poisoned(block + size));
        kd__free(kd, block);
    }
    test_memory_close(kd, &memory);
#else
    (void)state;
    printf("skip  features: fences are seen by AddressSanitizer only\n");
    skip();
#endif
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_like_pytorch),
        cmocka_unit_test(test_pooling),
        cmocka_unit_test(test_derivatives),
        cmocka_unit_test(test_same_bits),
        cmocka_unit_test(test_checkpoint_of_learned),
        cmocka_unit_test(test_nothing_is_left),
        cmocka_unit_test(test_memory_refused),
        cmocka_unit_test(test_brings_nearer),
        cmocka_unit_test(test_accumulate),
        cmocka_unit_test(test_warmup),
        cmocka_unit_test(test_review_looks_back),
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_vectors),
        cmocka_unit_test(test_log),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_layers_of_kinds),
        cmocka_unit_test(test_cosines),
        cmocka_unit_test(test_sixteen),
        cmocka_unit_test(test_fences),
        cmocka_unit_test(test_fences_of_blocks),
    };
    const int failed = cmocka_run_group_tests_name("features", tests, NULL, NULL);
    test_print_skips("features");
    return failed;
}
