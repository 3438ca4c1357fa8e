/* test_quant.c - int8 models: the engine beside the model in float, folding, ranges,
   files, gradients through quant layers. */
#include "support.h"
#include <float.h>

/* ---- models ------------------------------------------------------------------------------------------------ */

enum { IMAGES = 48, CLASSES = 4 };

/* Every rule for integers, layers without one between them, several readers of a value, padding of all kinds. */
static const char *const lines_of_models[] = {
    "1x12x12: conv 8 3 pad=1, relu, maxpool 2, conv 12 3 pad=1, relu, maxpool 2, dense 16, relu, dense 4",
    "144: dense 33, relu, dropout 0.5, dense 18, leakyrelu 0.2, dense 4",
    "3x12x12: conv 8 3 pad=1 bias=0, batchnorm, relu, residual(conv 8 3 pad=1, batchnorm, relu, conv 8 3 pad=1, "
    "batchnorm), relu, residual(conv 16 3 stride=2 pad=1, batchnorm, relu, conv 16 3 pad=1, batchnorm), relu, gap, "
    "dense 4",
    "3x11x12: conv 16 3 pad=1x0 stride=2, batchnorm, relu6, depthwise 3x5 pad=same, batchnorm, relu6, conv 24 1, "
    "batchnorm, conv 24 3 groups=4 pad=same, gelu, avgpool 2, conv 24 3x1 groups=12 pad=1x0, dense 4",
    "2x10x10: batchnorm, conv 20 3, leakyrelu, conv 8 3, silu, maxpool 3 stride=2 pad=1, conv 4 1, gap",
    "20: dense 30, batchnorm, relu, batchnorm, dense 10, softtree 2 4",
    "1x9x9: first: conv 6 3 pad=1, relu, block: residual(a: conv 6 3 pad=1, sigmoid, residual(conv 6 1), tanh), "
    "relu, conv 4 9",
    "3x8x8: residual(conv 3 3 pad=1, batchnorm, hardswish), depthwise 3 stride=2 pad=1, avgpool 3 stride=1 pad=1, "
    "dense 4 bias=0",
    "3x8x8: patch 4 16, classtoken, position, encoder 2 2, layernorm, token 0, linear 4",
    "3x8x8: patch 4 16, classtoken, prompttokens 3, sidetokens 2 4, encoder 1 2, layernorm, meanpool, linear 4",
    "2x6x6: patch 2 12, residual(layernorm, attention 3), residual(encoder 1 2 norm=post act=relu mlp=2), "
    "meanpool, "
    "linear 7, relu, linear 4",
    "3x8x8: conv 6 3 pad=1, relu, concat( | conv 4 1, batchnorm, relu | maxpool 3 stride=1 pad=1, conv 3 1), "
    "conv 8 3 pad=1, relu, concat(gap, flatten | maxpool 2, flatten), dense 4",
    "2x8x8: concat(conv 3 3 stride=2 pad=1, relu | depthwise 3 stride=2 pad=1), concat( | batchnorm, relu, conv 4 "
    "3 "
    "pad=1), concat( | batchnorm, relu, conv 4 3 pad=1), residual(concat(conv 5 1 | conv 8 3 pad=1, gelu)), gap, "
    "dense 4",
    "6: concat(dense 9, tanh | softtree 2 3), dense 4"};

typedef struct fixture {
    kd_ctx *kd;
    kd_model *m;
    float *x;
    int32_t *labels;
    kd_data data;
    int floats;
} fixture;

static fixture fixture_open(kd_isa isa, int threads, const char *line, int epochs)
{
    fixture f;
    kd_train_desc d = kd_train_defaults();
    int c, h, w, i;
    memset(&f, 0, sizeof f);
    f.kd = test_open(isa, threads);
    assert_ok(f.kd, kd_model_create(f.kd, line, 3, &f.m));
    kd_model_input(f.m, &c, &h, &w);
    f.floats = c * h * w;
    f.labels = (int32_t *)calloc(IMAGES, sizeof *f.labels);
    f.x = test_floats(21, (size_t)(IMAGES * f.floats), 1);
    for (i = 0; i < IMAGES * f.floats; ++i) f.x[i] += 0.3f * (float)(i / f.floats % CLASSES);
    for (i = 0; i < IMAGES; ++i) f.labels[i] = i % CLASSES;
    f.data = kd_data_f32(f.x, f.labels, IMAGES, c, h, w, CLASSES);
    d.epochs = epochs;
    d.batch = 16;
    if (epochs) assert_ok(f.kd, kd_train(f.m, &f.data, &d));
    return f;
}

static void fixture_close(fixture *f)
{
    kd_model_destroy(f->m);
    free(f->x);
    free(f->labels);
    kd_close(f->kd);
}

/* ---- the engine beside sums over plain arrays ---- */

typedef struct plain_value {
    int *q; /* (h, w, c), NULL in float */
    float *x;
} plain_value;

/* A value as a layer's windows see it: what is outside is `zero`. */
static int pixel_of(const kd__shape *s, const int *q, int y, int x, int c, int zero)
{
    return y < 0 || x < 0 || y >= s->h || x >= s->w ? zero : q[(y * s->w + x) * s->c + c];
}

static void finish_plain(const kd_model *m, const kd__quant_node *at, plain_value *values, int i, float t)
{
    const kd__quant_value *out = &m->quant->values[at->out];
    if (at->act == KD__LEAKYRELU && t < 0) t *= at->act_arg;
    t = t < at->low ? at->low : t > at->high ? at->high : t;
    if (out->scale > 0)
        values[at->out].q[i] = (int)nearbyintf(t) + out->zero;
    else
        values[at->out].x[i] = t;
}

/* A product with everything from the plain arrays of kd__quant_node, as its comment describes them. */
static void plain_product(const kd_model *m, const kd__node *n, const kd__quant_node *at, plain_value *values)
{
    const kd__param *w = &m->params[n->param[0]];
    const kd__shape *from = &m->values[n->in].shape, *to = &m->values[n->out].shape;
    const kd__quant_value *in = &m->quant->values[n->in];
    const int dense = n->type == KD__TYPE_DENSE, deep = n->type == KD__TYPE_DEPTHWISE;
    const kd__arg *stride = &n->arg[deep ? (int)KD__DEPTHWISE_STRIDE : (int)KD__CONV_STRIDE];
    const kd__arg *pad = &n->arg[deep ? (int)KD__DEPTHWISE_PAD : (int)KD__CONV_PAD];
    const int each = deep ? 1 : at->outputs / w->groups, channels = at->depth / (w->h * w->w);
    int y, x, o, i, j, c;
    for (y = 0; y < (dense ? 1 : to->h); ++y) {
        for (x = 0; x < (dense ? 1 : to->w); ++x) {
            for (o = 0; o < at->outputs; ++o) {
                const int first = deep ? o : o / each * channels;
                int32_t sum = at->bias[o];
                for (i = 0; i < w->h; ++i) {
                    for (j = 0; j < w->w; ++j) {
                        const int row = dense ? i : y * (int)stride->v[0] - (int)pad->v[0] + i;
                        const int col = dense ? j : x * (int)stride->v[1] - (int)pad->v[1] + j;
                        for (c = 0; c < channels; ++c)
                            sum += (pixel_of(from, values[n->in].q, row, col, first + c, in->zero) - in->zero) *
                                   *kd__quant_weight(at, o, (i * w->w + j) * channels + c);
                    }
                }
                finish_plain(m, at, values, (y * to->w + x) * at->outputs + o, (float)sum * at->factor[o]);
            }
        }
    }
}

static void plain_pool(const kd_model *m, const kd__node *n, const kd__quant_node *at, plain_value *values)
{
    const kd__shape *from = &m->values[n->in].shape, *to = &m->values[n->out].shape;
    const int zero = m->quant->values[n->in].zero;
    int y, x, c, i, j;
    for (y = 0; y < to->h; ++y) {
        for (x = 0; x < to->w; ++x) {
            for (c = 0; c < to->c; ++c) {
                int sum = 0, largest = 0;
                for (i = 0; i < (int)n->arg[KD__POOL_KERNEL].v[0]; ++i) {
                    for (j = 0; j < (int)n->arg[KD__POOL_KERNEL].v[1]; ++j) {
                        const int row = y * (int)n->arg[KD__POOL_STRIDE].v[0] - (int)n->arg[KD__POOL_PAD].v[0] + i;
                        const int col = x * (int)n->arg[KD__POOL_STRIDE].v[1] - (int)n->arg[KD__POOL_PAD].v[1] + j;
                        largest = KD__MAX(largest, pixel_of(from, values[n->in].q, row, col, c, 0));
                        sum += pixel_of(from, values[n->in].q, row, col, c, zero) - zero;
                    }
                }
                i = (y * to->w + x) * to->c + c;
                if (at->op == KD__QUANT_MAXPOOL)
                    values[at->out].q[i] = largest;
                else
                    finish_plain(m, at, values, i, (float)sum * at->factor[0]);
            }
        }
    }
}

/* In PyTorch's order, (c, h, w), one after the other. */
static void plain_concat(const kd_model *m, const kd__node *n, const kd__quant_node *at, plain_value *values)
{
    const kd__shape *out = &m->values[n->out].shape;
    int input, c, p, k = 0;
    for (input = 0; input < n->inputs; ++input) {
        const int value = kd__input(m, n, input);
        const kd__shape *s = &m->values[value].shape;
        const kd__quant_value *from = &m->quant->values[value], *to = &m->quant->values[at->out];
        for (c = 0; c < s->c; ++c) {
            for (p = 0; p < s->h * s->w; ++p, ++k) {
                const float x = (float)(values[value].q[p * s->c + c] - from->zero) * from->scale;
                const float low = (float)-to->zero, high = (float)(255 - to->zero), t = x / to->scale;
                values[at->out].q[k % (out->h * out->w) * out->c + k / (out->h * out->w)] =
                    (int)nearbyintf(t < low    ? low
                                    : t > high ? high
                                               : t) +
                    to->zero;
            }
        }
    }
}

/* Logits of one image, of a model without layers in float. */
static void plain_predict(const kd_model *m, const float *image, float *logits)
{
    plain_value *values = (plain_value *)calloc((size_t)m->value_count, sizeof *values);
    const kd__shape *last = &m->values[m->output].shape;
    int i, k, c, count;
    for (i = 0; i < m->value_count; ++i) {
        const size_t size = (size_t)kd__shape_count(&m->values[i].shape);
        values[i].q = (int *)calloc(size, sizeof(int));
        values[i].x = (float *)calloc(size, sizeof(float));
    }
    for (i = 0; i < m->node_count; ++i) {
        const kd__node *n = &m->nodes[i];
        const kd__quant_node *at = &m->quant->nodes[i];
        const kd__quant_value *in = &m->quant->values[n->in], *out = &m->quant->values[at->out];
        const kd__shape *s = &m->values[n->in].shape;
        count = (int)kd__shape_count(s);
        assert_int_not_equal(at->op, KD__QUANT_FLOAT);
        for (k = 0; k < count; ++k) {
            if (at->op == KD__QUANT_STEPS) {
                const int pixels = s->h * s->w;
                float t = image[k % s->c * pixels + k / s->c] / out->scale;
                t = t < (float)-out->zero          ? (float)-out->zero
                    : t > (float)(255 - out->zero) ? (float)(255 - out->zero)
                                                   : t;
                values[at->out].q[k] = (int)nearbyintf(t) + out->zero;
            } else if (at->op == KD__QUANT_TABLE) {
                values[at->out].q[k] = at->table[values[n->in].q[k]];
            } else if (at->op == KD__QUANT_ADD) {
                const kd__quant_value *in2 = &m->quant->values[kd__input(m, n, 1)];
                finish_plain(m, at, values, k,
                             (float)(values[n->in].q[k] - in->zero) * at->factor[0] +
                                 (float)(values[kd__input(m, n, 1)].q[k] - in2->zero) * at->factor[1]);
            } else if (at->op == KD__QUANT_NOTHING && kd__has_flag(n, KD__KEEPS_GRID)) {
                values[n->out].q[k] = values[n->in].q[k];
            }
        }
        if (at->op == KD__QUANT_CONCAT) plain_concat(m, n, at, values);
        if (at->op == KD__QUANT_PRODUCT) plain_product(m, n, at, values);
        if (at->op == KD__QUANT_MAXPOOL || at->op == KD__QUANT_MEAN) plain_pool(m, n, at, values);
    }
    count = (int)kd__shape_count(last);
    for (k = 0; k < count; ++k) {
        const kd__quant_value *out = &m->quant->values[m->output];
        c = k % last->c * (last->h * last->w) + k / last->c;
        logits[c] =
            out->scale > 0 ? (float)(values[m->output].q[k] - out->zero) * out->scale : values[m->output].x[k];
    }
    for (i = 0; i < m->value_count; ++i) free(values[i].q), free(values[i].x);
    free(values);
}

static int has_float_layers(const kd_model *m)
{
    int i;
    for (i = 0; i < m->node_count; ++i) {
        if (m->quant->nodes[i].op == KD__QUANT_FLOAT) return 1;
    }
    return 0;
}

/* The same bits on every instruction set, for every number of threads and of images, as those of plain sums; the
   model in float that rounds says nearly the same. */
static void engine(void **state)
{
    size_t line;
    (void)state;
    for (line = 0; line < sizeof lines_of_models / sizeof *lines_of_models; ++line) {
        fixture f = fixture_open(KD_ISA_SCALAR, 1, lines_of_models[line], 2);
        kd_model *rounded, *int8;
        float want[IMAGES * CLASSES], got[IMAGES * CLASSES], again[IMAGES * CLASSES], most = 0;
        int i, agreed = 0, threads;
        kd_isa isa;
        assert_ok(f.kd, kd_model_prepare_int8(f.m, &f.data, NULL, &rounded));
        assert_ok(f.kd, kd_model_quantize(rounded, NULL, NULL, &int8));
        assert_true(kd_model_is_int8(int8) && !kd_model_is_int8(rounded));
        assert_ok(f.kd, kd_predict(int8, f.x, IMAGES, want));
        for (i = 0; i < IMAGES && !has_float_layers(int8); ++i) {
            float logits[CLASSES];
            plain_predict(int8, f.x + i * f.floats, logits);
            assert_memory_equal(logits, want + i * CLASSES, sizeof logits);
        }
        FOR_EACH_ISA(isa)
        {
            for (threads = 1; threads <= 3; threads += 2) {
                kd_ctx *kd = test_open(isa, threads);
                kd_model *copy, *twice;
                assert_ok(kd, kd_model_clone_to(int8, kd, &copy));
                assert_ok(kd, kd_predict(copy, f.x, IMAGES, got));
                for (i = 0; i < IMAGES; ++i)
                    assert_ok(kd, kd_predict(copy, f.x + i * f.floats, 1, again + i * CLASSES));
                assert_memory_equal(got, again, sizeof got);
                if (!has_float_layers(int8)) assert_memory_equal(got, want, sizeof got);
                assert_true(kd_model_hash(copy) == kd_model_hash(int8));
                assert_ok(kd, kd_model_clone(copy, &twice));
                assert_true(kd_model_hash(copy) == kd_model_hash(twice));
                kd_model_destroy(copy);
                kd_model_destroy(twice);
                kd_close(kd);
            }
        }
        assert_ok(f.kd, kd_predict(rounded, f.x, IMAGES, got));
        for (i = 0; i < IMAGES * CLASSES; ++i) most = KD__MAX(most, fabsf(got[i] - want[i]));
        for (i = 0; i < IMAGES; ++i)
            agreed += kd__argmax(got + i * CLASSES, CLASSES) == kd__argmax(want + i * CLASSES, CLASSES);
        assert_true(agreed >= IMAGES - 1 && most < 0.1f);
        kd_model_destroy(rounded);
        kd_model_destroy(int8);
        fixture_close(&f);
    }
}

/* Bytes give what floats made of them do, and evaluation takes the integers. */
static void pixels(void **state)
{
    fixture f = fixture_open(KD_ISA_AUTO, 2, lines_of_models[2], 1);
    const float mean[3] = {0.5f, 0.4f, 0.3f}, std[3] = {0.2f, 0.3f, 0.25f};
    uint8_t *bytes = test_bytes(31, (size_t)(IMAGES * f.floats));
    float *x = (float *)calloc((size_t)(IMAGES * f.floats), sizeof *x), a[IMAGES * CLASSES], b[IMAGES * CLASSES];
    kd_data data = kd_data_u8(bytes, f.labels, IMAGES, 3, 12, 12, CLASSES);
    kd_evaluate_desc d = kd_evaluate_defaults();
    kd_metrics metrics;
    kd_model *int8;
    int i, right = 0;
    (void)state;
    assert_ok(f.kd, kd_model_set_preprocessing(f.m, mean, std));
    for (i = 0; i < 3; ++i) data.mean[i] = mean[i], data.std[i] = std[i];
    assert_ok(f.kd, kd_model_set_framing(f.m, "pad=1,2,3"));
    assert_ok(f.kd, kd_model_quantize(f.m, &data, NULL, &int8));
    assert_string_equal(kd_model_framing(int8), "pad=1,2,3");
    for (i = 0; i < IMAGES * f.floats; ++i)
        x[i] = ((float)bytes[i] * (1 / 255.0f) - mean[i / 144 % 3]) / std[i / 144 % 3];
    assert_ok(f.kd, kd_predict_u8(int8, bytes, IMAGES, a));
    d.logits = b;
    assert_ok(f.kd, kd_evaluate_with(int8, &data, &d, &metrics));
    assert_memory_equal(a, b, sizeof a);
    for (i = 0; i < IMAGES; ++i) right += kd__argmax(a + i * CLASSES, CLASSES) == f.labels[i];
    assert_near(metrics.accuracy, (double)right / IMAGES, 1e-12);
    assert_ok(f.kd, kd_predict(int8, x, IMAGES, b));
    for (i = 0; i < IMAGES * CLASSES; ++i) assert_near(a[i], b[i], 0.1);
    free(bytes);
    free(x);
    kd_model_destroy(int8);
    fixture_close(&f);
}

/* Without batchnorm, the same outputs; and what the lines become. */
static void folding(void **state)
{
    static const char *const wanted[][2] = {
        {"3x4x4: a: conv 4 3 pad=1 bias=0, b: batchnorm, relu, dense 2",
         "3x4x4: a: conv 4 3 stride=1 pad=1, relu, dense 2"},
        {"3x4x4: batchnorm, relu, batchnorm, conv 2 1 groups=1, gelu, batchnorm",
         "3x4x4: depthwise 1, relu, depthwise 1, conv 2 1 groups=1, gelu, depthwise 1"},
        {"4: dense 3 bias=0, batchnorm, batchnorm", "4: dense 3"},
        {"2x6x6: patch 3 4, classtoken, disttoken, encoder 1 2 mlp=1, head: disthead 3",
         "2x6x6: patch 3 4, classtoken, disttoken, encoder 1 2 mlp=1, head: disthead 3"},
        {"2x6x6: residual(depthwise 3 pad=1x1, batchnorm, conv 4 3 stride=2 pad=1, batchnorm), relu, gap",
         "2x6x6: residual(depthwise 3 stride=1 pad=1, conv 4 3 stride=2 pad=1), relu, gap"},
        {"4: residual(relu, batchnorm, dense 3), batchnorm, dense 2",
         "4: residual(relu, batchnorm, dense 3), batchnorm, dense 2"},
        {"2x6x6: a: concat( | batchnorm, relu,conv 3 1 |b:conv 2 1, batchnorm, residual(conv 3 1, batchnorm)), "
         "relu, gap",
         "2x6x6: a: concat( | depthwise 1, relu, conv 3 1 | b: conv 2 1 stride=1 pad=0, residual(conv 3 1 stride=1 "
         "pad=0)), relu, gap"}};
    size_t line;
    (void)state;
    for (line = 0; line < sizeof wanted / sizeof *wanted; ++line) {
        fixture f = fixture_open(KD_ISA_AUTO, 1, wanted[line][0], 0);
        static float a[IMAGES * 512], b[IMAGES * 512];
        kd_model *folded;
        size_t i;
        const int outputs = kd_model_outputs(f.m);
        assert_true(outputs <= 512);
        for (i = 0; i < f.m->state_count; ++i) f.m->state[i] = 0.3f + 0.1f * (float)(i % 7);
        for (i = 0; i < f.m->weight_count; ++i) f.m->weights[i] += 0.05f * (float)(i % 5);
        assert_ok(f.kd, kd_model_fold(f.m, &folded));
        assert_string_equal(kd_model_spec(folded), wanted[line][1]);
        assert_ok(f.kd, kd_predict(f.m, f.x, IMAGES, a));
        assert_ok(f.kd, kd_predict(folded, f.x, IMAGES, b));
        for (i = 0; i < (size_t)(IMAGES * outputs); ++i) assert_near(b[i], a[i], 1e-5);
        kd_model_destroy(folded);
        fixture_close(&f);
    }
}

/* Where quant layers go. */
static void placing(void **state)
{
    static const char *const wanted[][2] = {
        {"1x8x8: conv 4 3, relu, maxpool 2, flatten, dropout 0.1, dense 5, gelu, dense 2",
         "1x8x8: quant, conv 4 3, relu, quant, maxpool 2, flatten, dropout 0.1, dense 5, quant, gelu, quant, dense "
         "2"},
        {"3x8x8: conv 4 3, batchnorm, relu, residual(conv 6 3 pad=1, batchnorm, relu, conv 6 1, batchnorm), relu, "
         "gap, "
         "dense 2",
         "3x8x8: quant, conv 4 3 stride=1 pad=0, relu, quant, residual(conv 6 3 stride=1 pad=1, relu, quant, conv "
         "6 1 "
         "stride=1 pad=0, quant), relu, quant, gap, quant, dense 2"},
        {"2x6x6: patch 3 8, blocks: encoder 1 2, norm: layernorm, token 0, linear 2",
         "2x6x6: quant, patch 3 8, residual(layernorm eps=1e-06, quant, attention 2 causal=0 quant=1), "
         "residual(layernorm eps=1e-06, quant, linear 32, quant, gelu, quant, linear 8), norm: layernorm, token 0, "
         "quant, linear 2"},
        {"3x8x8: conv 4 3, relu, concat(|conv 5 1, relu | maxpool 3 stride=1 pad=1, conv 2 1), conv 3 3, gap",
         "3x8x8: quant, conv 4 3, relu, quant, concat( | conv 5 1, relu, quant | maxpool 3 stride=1 pad=1, conv 2 "
         "1, "
         "quant), quant, conv 3 3, quant, gap"},
        {"3x4x1: linear 4, concat(linear 3 | gelu), layernorm, token 0",
         "3x4x1: quant, linear 4, quant, concat(linear 3 | gelu), layernorm, token 0"},
        {"6: dense 4, batchnorm, relu, batchnorm, dense 4, softtree 1 2",
         "6: quant, dense 4, relu, batchnorm, quant, dense 4, quant, softtree 1 2"}};
    size_t line;
    (void)state;
    for (line = 0; line < sizeof wanted / sizeof *wanted; ++line) {
        fixture f = fixture_open(KD_ISA_AUTO, 1, wanted[line][0], 0);
        kd_quantize_desc d = kd_quantize_defaults();
        kd_model *m, *again;
        d.range = KD_RANGE_MINMAX;
        assert_ok(f.kd, kd_model_prepare_int8(f.m, &f.data, &d, &m));
        assert_string_equal(kd_model_spec(m), wanted[line][1]);
        assert_ok(f.kd, kd_model_prepare_int8(m, NULL, &d, &again)); /* has all it needs */
        assert_string_equal(kd_model_spec(again), wanted[line][1]);
        assert_true(kd_model_hash(m) == kd_model_hash(again));
        kd_model_destroy(m);
        kd_model_destroy(again);
        d.weight_limit = 64;
        assert_ok(f.kd, kd_model_quantize(f.m, &f.data, &d, &m));
        assert_non_null(strstr(kd_model_spec(m), "quant limit=64, "));
        kd_model_destroy(m);
        fixture_close(&f);
    }
}

/* Grids: of the ends seen, of all but some, of least error. */
static void ranges(void **state)
{
    kd_ctx *kd = test_open(KD_ISA_AUTO, 2);
    const kd_data data = kd_data_f32(NULL, NULL, 1, 1, 1, 1, 0);
    kd_quantize_range range;
    (void)state;
    for (range = (kd_quantize_range)0; range < KD_RANGE_COUNT; range = (kd_quantize_range)(range + 1)) {
        enum { COUNT = 1000 };
        float x[COUNT], scale, zero;
        kd_data images = data;
        kd_quantize_desc d = kd_quantize_defaults();
        kd_model *m, *out;
        int i;
        for (i = 0; i < COUNT; ++i) x[i] = (float)(i % 100) / 99;
        x[7] = 10, x[8] = -0.5f; /* lone ones */
        images.pixels = x, images.count = COUNT;
        d.range = range;
        d.percentile = 99.5f;
        d.batch = 100;
        assert_string_equal(kd_quantize_range_name(range), range == KD_RANGE_MINMAX ? "minmax"
                                                           : range == KD_RANGE_MSE  ? "mse"
                                                                                    : "percentile");
        assert_ok(kd, kd_model_create(kd, "1: dense 2", 1, &m));
        assert_ok(kd, kd_model_prepare_int8(m, &images, &d, &out));
        assert_ok(kd, kd_model_get_tensor(out, "0.scale", &scale, 1));
        assert_ok(kd, kd_model_get_tensor(out, "0.zero_point", &zero, 1));
        if (range == KD_RANGE_MINMAX) assert_near(scale, 10.5 / 255, 1e-6);
        if (range == KD_RANGE_MINMAX) assert_near(zero, 12, 0);
        if (range == KD_RANGE_PERCENTILE) assert_true(scale * (255 - zero) < 1.1f && scale * (255 - zero) > 0.9f);
        if (range == KD_RANGE_MSE) assert_true(scale <= 10.5f / 255 && scale > 0);
        kd_model_destroy(m);
        kd_model_destroy(out);
    }
    assert_string_equal(kd_quantize_range_name((kd_quantize_range)77), "?");
    { /* ten thousand million below 1, one at 10 */
        static int64_t bins[KD__WATCH_BINS];
        kd__range_watch watch;
        kd__grid all, least;
        int i;
        for (i = 0; i < KD__WATCH_BINS / 10; ++i) bins[i] = 50000000;
        bins[KD__WATCH_BINS - 1] = 1;
        watch.low = 0, watch.high = 10, watch.bins = bins;
        all = kd__grid_between(0, 10), least = kd__grid_of_least_error(&watch);
        assert_true(least.scale < 0.25f * all.scale &&
                    kd__grid_error(&watch, least) < kd__grid_error(&watch, all) / 10);
    }
    kd_close(kd);
}

/* ---- training through rounding ----------------------------------------------------------------------------- */

static kd__run *gradients_of(kd_model *m, const fixture *f)
{
    kd_loss_desc loss = kd_loss_defaults(KD_LOSS_CE);
    kd__run *r;
    double value;
    assert_ok(f->kd, kd__run_open(m, m, IMAGES, &r));
    kd__run_forward(r, f->x, IMAGES);
    assert_ok(f->kd, kd_loss(f->kd, &loss, kd__run_logits(r), NULL, f->labels, IMAGES, CLASSES,
                             kd__run_logits_grad(r), &value));
    kd__run_backward(r);
    return r;
}

/* Weights: the gradient is that at the rounded ones, unchanged. */
static void weight_gradients(void **state)
{
    size_t line;
    (void)state;
    for (line = 0; line < 5; ++line) {
        fixture f = fixture_open(KD_ISA_AUTO, 1, lines_of_models[line], 1);
        kd_model *m, *at_rounded;
        kd__run *a, *b;
        size_t i, moved = 0;
        if (f.m->node_dropout) { /* nothing random here */
            fixture_close(&f);
            continue;
        }
        assert_ok(f.kd, kd_model_prepare_int8(f.m, &f.data, NULL, &m));
        a = gradients_of(m, &f);
        assert_ok(f.kd, kd_model_clone(m, &at_rounded));
        for (i = 0; i < m->weight_count; ++i) {
            moved += a->rounded[i] < m->weights[i] || a->rounded[i] > m->weights[i];
            at_rounded->weights[i] = a->rounded[i];
        }
        assert_true(moved > m->weight_count / 4);
        b = gradients_of(at_rounded, &f);
        for (i = 0; i < m->weight_count; ++i) {
            assert_near(b->rounded[i], a->rounded[i], 1e-6);
            assert_near(b->weight_grads[i], a->weight_grads[i], 1e-4);
        }
        kd__run_close(a);
        kd__run_close(b);
        kd_model_destroy(m);
        kd_model_destroy(at_rounded);
        fixture_close(&f);
    }
}

/* Values: of a layer behind a grid so fine that rounding is nothing, the gradient is that of numbers that are only
   clipped, which finite differences show. */
static void value_gradients(void **state)
{
    kd_ctx *kd = test_open(KD_ISA_AUTO, 1);
    enum { FEATURES = 40 };
    float x[FEATURES], scale = 1 / 64.0f, zero = 100;
    kd_model *m;
    kd__run *r;
    kd__run_desc desc = {NULL, 0, NULL, 0, NULL, 0, 0};
    int i;
    (void)state;
    assert_ok(kd, kd_model_create(kd, "40: tanh, quant, dense 1", 5, &m));
    assert_ok(kd, kd_model_set_tensor(m, "1.scale", &scale, 1));
    assert_ok(kd, kd_model_set_tensor(m, "1.zero_point", &zero, 1));
    for (i = 0; i < FEATURES; ++i) x[i] = 0.2f * (float)(i - FEATURES / 2); /* to tanh 4: inside; then outside */
    scale = 1 / 200.0f;
    assert_ok(kd, kd_model_set_tensor(m, "1.scale", &scale, 1)); /* -0.5 to 0.775 */
    desc.sought = m->input;
    assert_ok(kd, kd__run_open_for(m, &desc, 1, &r));
    kd__run_forward(r, x, 1);
    kd__run_logits_grad(r)[0] = 1;
    kd__run_backward(r);
    for (i = 0; i < FEATURES; ++i) {
        const double y = tanh((double)x[i]), slope = 1 - y * y, steps = floor(y * 200 + 0.5);
        const int inside = steps >= -100 && steps <= 155;
        /* weights are rounded, too: the gradient is by what is used */
        const double w = (double)kd__weight(r, m->nodes[2].param[0])[(ptrdiff_t)i * kd__panel_width(kd->k, 1)];
        assert_near(r->grad[m->input].base[i], inside ? w * slope : 0, 1e-5);
    }
    kd__run_close(r);
    kd_model_destroy(m);
    kd_close(kd);
}

/* Learning with rounding, from a teacher, brings the int8 model closer; a training that was interrupted ends with
   the same weights. */
static void aware(void **state)
{
    fixture f = fixture_open(KD_ISA_AUTO, 2, lines_of_models[0], 6);
    kd_model *rough, *trained, *resumed, *before, *after;
    kd_train_desc d = kd_train_defaults();
    kd_quantize_desc q = kd_quantize_defaults();
    kd_evaluate_desc e = kd_evaluate_defaults();
    kd_metrics first, second;
    kd_trainer *t;
    char path[] = P_tmpdir "/kd_test_quant_XXXXXX";
    const int file = mkstemp(path);
    (void)state;
    q.weight_limit = 3; /* two bits and a half, so that there is something to gain */
    assert_ok(f.kd, kd_model_prepare_int8(f.m, &f.data, &q, &rough));
    assert_ok(f.kd, kd_model_clone(rough, &trained));
    assert_ok(f.kd, kd_model_clone(rough, &resumed));
    d.epochs = 12, d.batch = 12, d.teacher = f.m, d.lr = 0.002f;
    d.loss = kd_loss_defaults(KD_LOSS_KL);
    assert_ok(f.kd, kd_train(trained, &f.data, &d));
    assert_ok(f.kd, kd_trainer_open(resumed, &f.data, &d, &t));
    while (kd_trainer_position(t).epoch < 5) assert_ok(f.kd, kd_trainer_step(t, NULL));
    assert_ok(f.kd, kd_trainer_save(t, path));
    kd_trainer_close(t);
    kd_model_destroy(resumed);
    assert_ok(f.kd, kd_model_clone(rough, &resumed));
    assert_ok(f.kd, kd_trainer_open(resumed, &f.data, &d, &t));
    assert_ok(f.kd, kd_trainer_load(t, path));
    while (!kd_trainer_done(t)) assert_ok(f.kd, kd_trainer_step(t, NULL));
    kd_trainer_close(t);
    assert_true(kd_model_hash(trained) == kd_model_hash(resumed));
    e.teacher = f.m;
    assert_ok(f.kd, kd_model_quantize(rough, NULL, NULL, &before));
    assert_ok(f.kd, kd_model_quantize(trained, NULL, NULL, &after));
    assert_ok(f.kd, kd_evaluate_with(before, &f.data, &e, &first));
    assert_ok(f.kd, kd_evaluate_with(after, &f.data, &e, &second));
    assert_true(second.kl < 0.7 * first.kl);
    kd_model_destroy(rough), kd_model_destroy(trained), kd_model_destroy(resumed);
    kd_model_destroy(before), kd_model_destroy(after);
    close(file);
    remove(path);
    fixture_close(&f);
}

/* ---- files ------------------------------------------------------------------------------------------------- */

static unsigned char *save(const kd_model *m, size_t *size)
{
    unsigned char *bytes;
    assert_ok(m->kd, kd_model_save_memory(m, KD_DTYPE_F32, NULL, 0, size));
    bytes = (unsigned char *)malloc(*size + 1);
    assert_ok(m->kd, kd_model_save_memory(m, KD_DTYPE_F32, bytes, *size, NULL));
    bytes[*size] = 0;
    return bytes;
}

/* Where a text begins in a header. */
static unsigned char *find(unsigned char *bytes, const char *text)
{
    const size_t length = (size_t)kd__load_le(bytes, 8);
    size_t i;
    for (i = 8; i + strlen(text) <= length; ++i) {
        if (memcmp(bytes + i, text, strlen(text)) == 0) return bytes + i;
    }
    fail_msg("the file has no \"%s\"", text);
    return NULL;
}

/* Under names that say nothing they are not looked at. */
static void without_checksums(unsigned char *bytes)
{
    memcpy(find(bytes, "kd.checksum\""), "kd.Checksum\"", 12);
    memcpy(find(bytes, "kd.checksum.bytes"), "kd.Checksum.bytes", 17);
}

/* The data of a tensor. */
static unsigned char *data_of(unsigned char *bytes, const char *name)
{
    char quoted[80];
    const char *at;
    snprintf(quoted, sizeof quoted, "\"%s\":", name);
    at = strstr((const char *)find(bytes, quoted), "data_offsets\":[");
    return bytes + 8 + kd__load_le(bytes, 8) + (size_t)atoll(at + 15);
}

static void files(void **state)
{
    size_t line, size, i;
    (void)state;
    for (line = 0; line < sizeof lines_of_models / sizeof *lines_of_models; ++line) {
        fixture f = fixture_open(KD_ISA_AUTO, 1, lines_of_models[line], 1);
        float want[IMAGES * CLASSES], got[IMAGES * CLASSES];
        kd_model *int8, *loaded;
        unsigned char *bytes, *broken;
        int trial;
        assert_ok(f.kd, kd_model_quantize(f.m, &f.data, NULL, &int8));
        assert_ok(f.kd, kd_predict(int8, f.x, IMAGES, want));
        bytes = save(int8, &size);
        assert_ok(f.kd, kd_model_load_memory(f.kd, bytes, size, &loaded));
        assert_true(kd_model_is_int8(loaded) && kd_model_hash(loaded) == kd_model_hash(int8));
        assert_ok(f.kd, kd_predict(loaded, f.x, IMAGES, got));
        assert_memory_equal(want, got, sizeof got);
        kd_model_destroy(loaded);
        /* damaged: found by the checksum; without one, refused or a model like any other */
        broken = (unsigned char *)malloc(size + 1);
        for (trial = 0; trial < 150; ++trial) {
            const size_t at = 8 + (size_t)kd__rng_index(41, (uint64_t)trial, (int)(size - 8));
            memcpy(broken, bytes, size + 1);
            if (trial % 3) without_checksums(broken);
            broken[at] ^= (unsigned char)(1 + kd__rng_index(42, (uint64_t)trial, 255));
            if (kd_model_load_memory(f.kd, broken, size, &loaded) == KD_OK) {
                assert_ok(f.kd, kd_predict(loaded, f.x, 3, got));
                kd_model_destroy(loaded);
            }
        }
        for (i = 0; i < size; i += 1 + size / 40)
            assert_int_not_equal(kd_model_load_memory(f.kd, bytes, i, &loaded), KD_OK);
        for (i = 8 + (size_t)kd__load_le(bytes, 8); i < size; i += line == 0 ? 1 : 1 + size / 300) {
            bytes[i] ^= (unsigned char)(1 << i % 8);
            if (kd_model_load_memory(f.kd, bytes, size, &loaded) == KD_OK)
                fail_msg("%s: byte %zu of %zu", lines_of_models[line], i, size);
            bytes[i] ^= (unsigned char)(1 << i % 8);
        }
        free(bytes);
        free(broken);
        kd_model_destroy(int8);
        fixture_close(&f);
    }
}

/* Every kind of number that a file may have wrong. */
static void hostile(void **state)
{
    static const struct {
        const char *tensor, *says;
        int bytes;
        uint32_t bits;
    } wrong[] = {{"0.scale", "scale", 4, 0x7fc00000u},
                 {"0.scale", "scale", 4, 0xbf800000u},
                 {"0.scale", "scale", 4, 0},
                 {"0.scale", "scale", 4, 0x00000001u},
                 {"0.zero_point", "zero point", 4, 0x43800000u},
                 {"0.zero_point", "zero point", 4, 0x3f000000u},
                 {"1.weight_scale", "NaN", 4, 0x7f800000u},
                 {"1.weight_scale", "multiply", 4, 0xbf800000u},
                 {"1.weight_scale", "multiply", 4, 0},
                 {"1.bias", "32 bits", 4, 0x7fffffffu},
                 {"1.bias", "32 bits", 4, 0x80000000u},
                 {"1.weight", "-128", 1, 0x80}};
    fixture f = fixture_open(KD_ISA_AUTO, 1, lines_of_models[0], 0);
    kd_model *int8, *loaded;
    unsigned char *bytes;
    size_t i, size;
    (void)state;
    assert_ok(f.kd, kd_model_quantize(f.m, &f.data, NULL, &int8));
    for (i = 0; i < sizeof wrong / sizeof *wrong; ++i) {
        bytes = save(int8, &size);
        without_checksums(bytes);
        kd__store_le(data_of(bytes, wrong[i].tensor), wrong[i].bits, wrong[i].bytes);
        if (kd_model_load_memory(f.kd, bytes, size, &loaded) == KD_OK)
            fail_msg("%s is taken with %08x", wrong[i].tensor, wrong[i].bits);
        if (!strstr(kd_error(f.kd), wrong[i].says)) fail_msg("%s: \"%s\"", wrong[i].tensor, kd_error(f.kd));
        free(bytes);
    }
    bytes = save(int8, &size);
    memcpy(find(bytes, "\"I8\""), "\"U8\"", 4);
    assert_fails(f.kd, kd_model_load_memory(f.kd, bytes, size, &loaded), KD_ERR_FORMAT, "must be I8");
    memcpy(find(bytes, "\"U8\""), "\"I8\"", 4);
    memcpy(find(bytes, "\"kd.int8\":\"1\""), "\"kd.int8\":\"2\"", 13);
    assert_fails(f.kd, kd_model_load_memory(f.kd, bytes, size, &loaded), KD_ERR_FORMAT, "kd.int8");
    free(bytes);
    kd_model_destroy(int8);
    fixture_close(&f);
}

/* ---- what is refused --------------------------------------------------------------------------------------- */

static void refused(void **state)
{
    fixture f = fixture_open(KD_ISA_AUTO, 1, lines_of_models[0], 0);
    kd_quantize_desc d = kd_quantize_defaults();
    kd_train_desc t = kd_train_defaults();
    kd_attack_desc attack = kd_attack_defaults(KD_ATTACK_FGSM);
    kd_data none = f.data;
    kd_model *int8, *out = f.m, *other;
    size_t size;
    float one = 1, huge = 1e38f, *x = (float *)malloc((size_t)(IMAGES * f.floats) * sizeof *x);
    (void)state;
    assert_ok(f.kd, kd_model_quantize(f.m, &f.data, NULL, &int8));
    assert_fails(f.kd, kd_model_quantize(f.m, NULL, NULL, &out), KD_ERR_ARGUMENT, "images must not be NULL");
    assert_null(out);
    none.count = 0;
    assert_fails(f.kd, kd_model_quantize(f.m, &none, NULL, &out), KD_ERR_DATA, "no samples");
    assert_fails(f.kd, kd_model_quantize(f.m, &f.data, NULL, NULL), KD_ERR_ARGUMENT, "out must not be NULL");
    assert_fails(f.kd, kd_model_prepare_int8(f.m, &f.data, NULL, NULL), KD_ERR_ARGUMENT, "out must not be NULL");
    assert_fails(f.kd, kd_model_fold(f.m, NULL), KD_ERR_ARGUMENT, "out must not be NULL");
    assert_int_equal(kd_model_quantize(NULL, &f.data, NULL, &out), KD_ERR_ARGUMENT);
    assert_int_equal(kd_model_prepare_int8(NULL, &f.data, NULL, &out), KD_ERR_ARGUMENT);
    assert_int_equal(kd_model_fold(NULL, &out), KD_ERR_ARGUMENT);
    d.percentile = 20;
    assert_fails(f.kd, kd_model_quantize(f.m, &f.data, &d, &out), KD_ERR_ARGUMENT, "percentile must be");
    d = kd_quantize_defaults(), d.weight_limit = 128;
    assert_fails(f.kd, kd_model_quantize(f.m, &f.data, &d, &out), KD_ERR_ARGUMENT, "weight_limit must be");
    d = kd_quantize_defaults(), d.batch = 257;
    assert_fails(f.kd, kd_model_quantize(f.m, &f.data, &d, &out), KD_ERR_ARGUMENT, "batch 1 to 256");
    d = kd_quantize_defaults(), d.range = (kd_quantize_range)9;
    assert_fails(f.kd, kd_model_quantize(f.m, &f.data, &d, &out), KD_ERR_ARGUMENT, "kd_quantize_range 9");
    d.cookie = 0;
    assert_fails(f.kd, kd_model_quantize(f.m, &f.data, &d, &out), KD_ERR_DEFAULTS, "kd_quantize_defaults");
    assert_fails(f.kd, kd_model_quantize(int8, &f.data, NULL, &out), KD_ERR_UNSUPPORTED, "int8 model");
    assert_fails(f.kd, kd_model_fold(int8, &out), KD_ERR_UNSUPPORTED, "int8 model");
    assert_fails(f.kd, kd_train(int8, &f.data, &t), KD_ERR_UNSUPPORTED, "only predicts");
    assert_fails(f.kd, kd_attack(int8, NULL, f.x, f.labels, 1, &attack, x), KD_ERR_UNSUPPORTED, "only predicts");
    assert_fails(f.kd, kd_model_set_tensor(int8, "0.scale", &one, 1), KD_ERR_UNSUPPORTED, "only predicts");
    assert_fails(f.kd, kd_model_save_memory(int8, KD_DTYPE_F16, NULL, 0, &size), KD_ERR_UNSUPPORTED, "as it is");
    assert_fails(f.kd, kd_model_load_weights(int8, "/nowhere"), KD_ERR_UNSUPPORTED, "only predicts");
    /* no rule for any layer; quant layers that have seen nothing; numbers beyond all measure */
    assert_ok(f.kd, kd_model_create(f.kd, "4: batchnorm, prompt 2", 1, &other));
    none = kd_data_f32(f.x, NULL, 10, 4, 1, 1, 0);
    assert_fails(f.kd, kd_model_quantize(other, &none, NULL, &out), KD_ERR_UNSUPPORTED, "no rule");
    kd_model_destroy(other);
    assert_fails(f.kd, kd_model_create(f.kd, "4: quant limit=128, dense 2", 1, &other), KD_ERR_SPEC, "1 to 127");
    f.m->weights[0] = NAN;
    assert_fails(f.kd, kd_model_quantize(f.m, &f.data, NULL, &out), KD_ERR_NOT_FINITE, "NaN or an infinity");
    f.m->weights[0] = 0;
    assert_ok(f.kd, kd_model_create(f.kd, "4: quant, dense 2", 1, &other));
    assert_ok(f.kd, kd_model_set_tensor(other, "1.bias", (const float[2]){huge, 0}, 2));
    assert_ok(f.kd, kd_model_set_tensor(other, "0.scale", &one, 1));
    assert_ok(f.kd, kd_model_quantize(other, NULL, NULL, &out)); /* a bias that makes its weights nothing */
    kd_model_destroy(out);
    one = 1e-30f;
    assert_ok(f.kd, kd_model_set_tensor(other, "0.scale", &one, 1));
    assert_ok(f.kd, kd_model_set_tensor(other, "1.bias", (const float[2]){0, 0}, 2));
    assert_ok(f.kd, kd_model_set_tensor(other, "1.weight",
                                        (const float[8]){1e-12f, 1e-12f, 1e-12f, 1e-12f, 1, 1, 1, 1}, 8));
    assert_fails(f.kd, kd_model_quantize(other, NULL, NULL, &out), KD_ERR_NOT_FINITE, "too far apart");
    kd_model_destroy(other);
    kd_model_destroy(int8);
    free(x);
    fixture_close(&f);
}

/* An output without weights, an image of nothing but zeros, and numbers that no float holds on the way. */
static void nothing_there(void **state)
{
    kd_ctx *kd = test_open(KD_ISA_AUTO, 1);
    float zeros[64] = {0}, logits[2 * 16], weights[8] = {0, 0, 0, 0, 1, 2, 3, 4}, biases[2] = {5, -0.25f};
    float broken[64];
    kd_data data = kd_data_f32(zeros, NULL, 16, 4, 1, 1, 0);
    kd_model *m, *int8;
    int i;
    (void)state;
    assert_ok(kd, kd_model_create(kd, "4: dense 2", 1, &m));
    assert_ok(kd, kd_model_set_tensor(m, "0.weight", weights, 8));
    assert_ok(kd, kd_model_set_tensor(m, "0.bias", biases, 2));
    assert_ok(kd, kd_model_quantize(m, &data, NULL, &int8));
    assert_ok(kd, kd_predict(int8, zeros, 16, logits));
    for (i = 0; i < 16; ++i) {
        assert_near(logits[2 * i], 5, 1e-2);
        assert_near(logits[2 * i + 1], -0.25, 1e-2);
    }
    kd_model_destroy(int8);
    for (i = 0; i < 64; ++i) broken[i] = 1e30f;
    data.pixels = broken;
    weights[0] = 1e30f;
    kd_model_destroy(m);
    assert_ok(kd, kd_model_create(kd, "4: dense 2, dense 2", 1, &m));
    assert_ok(kd, kd_model_set_tensor(m, "0.weight", weights, 8));
    assert_fails(kd, kd_model_quantize(m, &data, NULL, &int8), KD_ERR_NOT_FINITE, "NaN, an infinity");
    kd_model_destroy(m);
    kd_close(kd);
}

/* Memory that is refused at any request loses nothing. */
static void starved(void **state)
{
    int at, done = 0;
    (void)state;
    for (at = 1; !done; at += 3) {
        test_memory memory;
        kd_ctx_desc desc = test_memory_desc(&memory);
        fixture f = fixture_open(KD_ISA_AUTO, 1, lines_of_models[3], 0);
        kd_model *copy, *int8 = NULL, *loaded = NULL;
        unsigned char *bytes = NULL;
        size_t size;
        kd_result result;
        kd_ctx *kd;
        assert_int_equal(kd_open(&desc, &kd), KD_OK);
        assert_ok(kd, kd_model_clone_to(f.m, kd, &copy));
        memory.refuse_at = at;
        memory.for_good = 1;
        result = kd_model_quantize(copy, &f.data, NULL, &int8);
        if (result == KD_OK) {
            result = kd_model_save_memory(int8, KD_DTYPE_F32, NULL, 0, &size);
            bytes = (unsigned char *)malloc(result == KD_OK ? size : 1);
            if (result == KD_OK) result = kd_model_save_memory(int8, KD_DTYPE_F32, bytes, size, NULL);
            if (result == KD_OK) result = kd_model_load_memory(kd, bytes, size, &loaded);
        }
        if (result != KD_OK) assert_int_equal(result, KD_ERR_MEMORY);
        done = result == KD_OK;
        memory.refuse_at = memory.for_good = 0;
        free(bytes);
        kd_model_destroy(copy);
        kd_model_destroy(int8);
        kd_model_destroy(loaded);
        test_memory_close(kd, &memory);
        fixture_close(&f);
    }
}

/* A weight of an int8 model is a byte, once: after quantizing, in a copy, and of a file, while it loads, too. */
static void kept_once(void **state)
{
    fixture f = fixture_open(KD_ISA_AUTO, 1, "144: dense 256, relu, dense 256, relu, dense 4", 0);
    const size_t most = 144 * 256 + 256 * 256 + 256 * 16 + 64 * 1024; /* and all else */
    test_memory memory;
    kd_ctx_desc desc = test_memory_desc(&memory);
    kd_ctx *kd;
    kd_model *copy, *int8, *cloned, *loaded;
    unsigned char *bytes;
    size_t before, size;
    char path[] = P_tmpdir "/kd_test_quant_XXXXXX";
    const int file = mkstemp(path);
    (void)state;
    close(file);
    assert_int_equal(kd_open(&desc, &kd), KD_OK);
    assert_ok(kd, kd_model_clone_to(f.m, kd, &copy));
    before = memory.bytes;
    assert_ok(kd, kd_model_quantize(copy, &f.data, NULL, &int8));
    assert_true(memory.bytes - before < most);
    before = memory.bytes;
    assert_ok(kd, kd_model_clone(int8, &cloned));
    assert_true(memory.bytes - before < most);
    bytes = save(int8, &size);
    memory.peak = before = memory.bytes;
    assert_ok(kd, kd_model_load_memory(kd, bytes, size, &loaded));
    if (memory.peak - before >= most) fail_msg("%zu bytes while loading", memory.peak - before);
    kd_model_destroy(loaded);
    assert_ok(kd, kd_model_save(int8, path));
    memory.peak = memory.bytes;
    assert_ok(kd, kd_model_load(kd, path, &loaded));
    if (memory.peak > memory.bytes + 4096)
        fail_msg("from a file %zu bytes at most, %zu stay", memory.peak, memory.bytes);
    remove(path);
    assert_true(kd_model_hash(loaded) == kd_model_hash(int8) && kd_model_hash(cloned) == kd_model_hash(int8));
    free(bytes);
    kd_model_destroy(copy);
    kd_model_destroy(int8);
    kd_model_destroy(cloned);
    kd_model_destroy(loaded);
    test_memory_close(kd, &memory);
    fixture_close(&f);
}

/* Data are often in the order of their classes: what only the last ones are like counts as well. */
static void taken_evenly(void **state)
{
    enum { COUNT = 3000 };
    float *x = (float *)calloc(COUNT, sizeof *x), large = 20, weight[2] = {1, -1}, zeros[2] = {0, 0}, logits[2];
    kd_ctx *kd = test_open(KD_ISA_AUTO, 1);
    kd_data data = kd_data_f32(x, NULL, COUNT, 1, 1, 1, 2);
    kd_model *m, *int8;
    int i;
    (void)state;
    for (i = 0; i < COUNT; ++i) x[i] = (float)(i % 11 - 5) * (i < COUNT / 2 ? 0.1f : 4);
    assert_ok(kd, kd_model_create(kd, "1: dense 2", 1, &m));
    assert_ok(kd, kd_model_set_tensor(m, "0.weight", weight, 2));
    assert_ok(kd, kd_model_set_tensor(m, "0.bias", zeros, 2));
    assert_ok(kd, kd_model_quantize(m, &data, NULL, &int8));
    assert_ok(kd, kd_predict(int8, &large, 1, logits));
    assert_true(fabsf(logits[0] - 20) < 1 && fabsf(logits[1] + 20) < 1);
    kd_model_destroy(int8);
    kd_model_destroy(m);
    kd_close(kd);
    free(x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(engine),          cmocka_unit_test(pixels),    cmocka_unit_test(folding),
        cmocka_unit_test(placing),         cmocka_unit_test(ranges),    cmocka_unit_test(weight_gradients),
        cmocka_unit_test(value_gradients), cmocka_unit_test(aware),     cmocka_unit_test(files),
        cmocka_unit_test(hostile),         cmocka_unit_test(refused),   cmocka_unit_test(nothing_there),
        cmocka_unit_test(starved),         cmocka_unit_test(kept_once), cmocka_unit_test(taken_evenly),
    };
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    test_print_skips("test_quant");
    return failed;
}
