/* Every layer, forward and backward, on every instruction set: outputs against a double-precision reference,
   gradients against finite differences of it, both against PyTorch. */
#include "support.h"
#include "reference.h"
#include "golden/layers.h"

enum { BATCH = 5, PROBES = 8 };

/* What the loss changes by with one number of a tensor, or (at = -1) along a vector in which every number has its
   part. */
typedef struct slope {
    int tensor;
    int64_t at;
    double value;
} slope;

/* What a model must compute, from the reference: made once, compared with every instruction set. The loss is the
   sum of all outputs times `direction`, so that its gradient by the outputs is `direction`. */
typedef struct expectation {
    const char *spec;
    int batch, slope_count;
    int64_t outputs;               /* of the whole batch */
    float *x, *direction, *prompt; /* prompt: in training */
    double *values[2];             /* outputs in evaluation and in training */
    slope *slopes;
} expectation;

/* Biases and scales away from their initial 0 and 1, so that a missing one shows. */
static void disturb(kd_model *m)
{
    uint64_t state = 99;
    int i;
    for (i = 0; i < m->param_count; ++i) {
        kd__param *p = &m->params[i];
        size_t j;
        if (p->layout != KD__VECTOR) continue;
        for (j = 0; j < p->size; ++j)
            kd__param_stored(m, p)[j] += 0.3f * test_random(&state) + (p->trained ? 0 : 0.35f);
    }
}

static kd_model *create(kd_ctx *kd, const char *spec)
{
    kd_model *m;
    assert_ok(kd, kd_model_create(kd, spec, 3, &m));
    disturb(m);
    return m;
}

static float *vector_along(int tensor, int64_t count)
{
    return test_floats(1000 + (uint64_t)tensor, (size_t)count, 1);
}

/* Central differences. Only what follows the tensor is computed again, so values before it must be up to date. */
static double difference(reference *r, const expectation *e, int tensor, int64_t at)
{
    const double h = 1e-7;
    const int64_t count = kd__param_count(&r->m->params[tensor]);
    double *w = r->weights[tensor], *kept = (double *)malloc((size_t)count * sizeof *kept), loss[2] = {0, 0};
    float *along = vector_along(tensor, count);
    const int node = reference_node_of(r->m, tensor);
    int down;
    int64_t i;
    memcpy(kept, w, (size_t)count * sizeof *kept);
    for (down = 0; down < 2; ++down) {
        const double *y;
        for (i = 0; i < count; ++i) w[i] += (at < 0 ? (double)along[i] : i == at) * (down ? -h : h);
        y = reference_run_from(r, node);
        for (i = 0; i < e->outputs; ++i) loss[down] += y[i] * (double)e->direction[i];
        loss[down] += r->penalty;
        memcpy(w, kept, (size_t)count * sizeof *kept);
    }
    free(kept);
    free(along);
    return (loss[0] - loss[1]) / (2 * h);
}

/* Ids of texts of every length, the first of which is full and the second empty; some have a 0 in between. */
static float *some_texts(const kd_model *m, int batch)
{
    const int length = m->values[m->input].shape.c, vocabulary = kd__vocabulary(m);
    float *x = (float *)calloc((size_t)(batch * length), sizeof *x);
    int i, t;
    for (i = 0; i < batch; ++i) {
        const int end = i == 0 ? length : i == 1 ? 0 : kd__rng_index(7, (uint64_t)i, length + 1);
        for (t = 0; t < end; ++t)
            x[i * length + t] = (float)kd__rng_index(8, (uint64_t)(i * length + t), vocabulary);
    }
    return x;
}

static void expect(expectation *e, const char *spec, int batch)
{
    kd_ctx *kd = test_open(KD_ISA_SCALAR, 1);
    kd_model *m = create(kd, spec);
    slope *next;
    int training, tensor, sample;
    e->spec = spec;
    e->batch = batch;
    e->outputs = (int64_t)batch * kd_model_outputs(m);
    e->x = m->ids ? some_texts(m, batch)
                  : test_floats(1, (size_t)(batch * kd__shape_count(&m->values[m->input].shape)), 1);
    e->direction = test_floats(2, (size_t)e->outputs, 1);
    e->prompt = test_floats(3, (size_t)(batch * m->prompt), 1);
    for (sample = 1; sample < batch; sample += 3) /* have none */
        memset(e->prompt + sample * m->prompt, 0, (size_t)m->prompt * sizeof(float));
    e->slopes = next = (slope *)malloc((size_t)m->param_count * (PROBES + 2) * sizeof *next);
    for (training = 0; training < 2; ++training) {
        const size_t bytes = (size_t)e->outputs * sizeof(double);
        reference r;
        reference_open(&r, m, batch, training);
        r.prompt = training ? e->prompt : NULL;
        e->values[training] = (double *)malloc(bytes);
        memcpy(e->values[training], reference_run(&r, e->x), bytes);
        for (tensor = m->param_count - 1; tensor >= 0 && training; --tensor) { /* the last first: see difference */
            const int64_t count = kd__param_count(&m->params[tensor]), step = (count + PROBES - 1) / PROBES;
            int64_t at;
            if (!m->params[tensor].trained) continue;
            for (at = -1; at < count; at += at < 0 ? 1 : step, ++next) {
                next->tensor = tensor;
                next->at = at;
                next->value = difference(&r, e, tensor, at);
            }
        }
        reference_close(&r);
    }
    e->slope_count = (int)(next - e->slopes);
    kd_model_destroy(m);
    kd_close(kd);
}

static void expectation_free(expectation *e)
{
    free(e->x);
    free(e->direction);
    free(e->prompt);
    free(e->values[0]);
    free(e->values[1]);
    free(e->slopes);
}

static void check_gradients(const kd__run *run, const expectation *e)
{
    const kd_model *m = run->model;
    int i, tensor = -1;
    float *grad = NULL, *along = NULL;
    for (i = 0; i < e->slope_count; ++i) {
        const slope *s = &e->slopes[i];
        const kd__param *p = &m->params[s->tensor];
        const int64_t count = kd__param_count(p);
        double got = 0;
        int64_t j;
        if (s->tensor != tensor) {
            tensor = s->tensor;
            free(grad);
            free(along);
            grad = (float *)malloc((size_t)count * sizeof *grad);
            along = vector_along(tensor, count);
            kd__param_copy(m->kd->k, p, run->weight_grads + p->offset, grad, 1);
        }
        for (j = 0; j < count && s->at < 0; ++j) got += (double)grad[j] * (double)along[j];
        if (s->at >= 0) got = (double)grad[s->at];
        if (fabs(got - s->value) > 5e-5 * (1 + fabs(s->value)))
            fail_msg("%s on %s: gradient %lld of %s is %.7g, by differences %.7g", e->spec, kd_isa_name(m->kd->isa),
                     (long long)s->at, p->name, got, s->value);
    }
    free(grad);
    free(along);
}

/* The gradient by the logits. An image at the end comes out (c, h, w) but is (h, w, c) inside. */
static void set_direction(kd__run *run, const float *direction, int batch)
{
    const kd__shape *s = &run->model->values[run->model->output].shape;
    float *inner = kd__run_logits_grad(run);
    int b, c, p;
    for (b = 0; b < batch; ++b)
        for (c = 0; c < s->c; ++c)
            for (p = 0; p < s->h * s->w; ++p)
                inner[(b * s->h * s->w + p) * s->c + c] = direction[(b * s->c + c) * s->h * s->w + p];
}

static void check_expectation(kd_isa isa, int threads, const expectation *e)
{
    kd_ctx *kd = test_open(isa, threads);
    kd_model *m = create(kd, e->spec);
    float *logits = (float *)malloc((size_t)e->outputs * sizeof *logits);
    int training;
    int64_t i;
    for (training = 0; training < 2; ++training) {
        kd__run *run;
        assert_ok(kd, kd__run_open(m, training ? m : NULL, e->batch, &run));
        run->prompt = training ? e->prompt : NULL;
        kd__run_forward(run, e->x, e->batch);
        kd__export(run, e->batch, logits);
        for (i = 0; i < e->outputs; ++i) {
            const double wanted = e->values[training][i];
            if (fabs((double)logits[i] - wanted) > 2e-5 * (1 + fabs(wanted)))
                fail_msg("%s on %s: %s output %lld is %.7g, expected %.7g", e->spec, kd_isa_name(isa),
                         training ? "training" : "evaluation", (long long)i, (double)logits[i], wanted);
        }
        if (training) {
            set_direction(run, e->direction, e->batch);
            kd__run_backward(run);
            check_gradients(run, e);
        }
        kd__run_close(run);
    }
    free(logits);
    kd_model_destroy(m);
    kd_close(kd);
}

static void check_spec(const char *spec, int batch, int threads)
{
    expectation e;
    kd_isa isa;
    expect(&e, spec, batch);
    FOR_EACH_ISA(isa) check_expectation(isa, threads, &e);
    expectation_free(&e);
}

static void check_specs(const char *const *specs, size_t count)
{
    size_t i;
    for (i = 0; i < count; ++i) {
        check_spec(specs[i], BATCH, 1);
        check_spec(specs[i], 37, 3); /* several chunks, the last one short */
    }
}
#define CHECK(...)                                                                                                 \
    do {                                                                                                           \
        static const char *const specs_[] = {__VA_ARGS__};                                                         \
        check_specs(specs_, sizeof specs_ / sizeof *specs_);                                                       \
    } while (0)

static void test_dense(void **state)
{
    (void)state;
    CHECK("1: dense 1", "7: dense 3", "5: dense 40, tanh, dense 33, sigmoid, dense 17",
          "9: dense 20 bias=0, tanh, dense 2", "2x3x4: dense 8, relu, dense 3",
          "33: dense 70, tanh, dense 65, tanh, dense 64, tanh, dense 10",
          "263: dense 270, tanh, dense 256, tanh, dense 3"); /* so large that gradients are packed */
}

static void test_conv(void **state)
{
    (void)state;
    CHECK("1x6x6: conv 3 3, tanh, dense 2", "2x7x5: conv 4 3 pad=1, tanh, conv 5 3 pad=1, dense 2",
          "3x8x8: conv 4 3 stride=2 pad=1, tanh, conv 6 3 stride=2 pad=1, dense 3",
          "3x9x7: conv 4 5x3 stride=2x3 pad=2x1, tanh, conv 9 2x1 stride=1x2, dense 2",
          "2x6x6: conv 33 1, tanh, conv 17 1 stride=2, tanh, conv 40 1, dense 3",
          "4x6x6: conv 8 3 pad=1 groups=2, tanh, conv 6 3 pad=1 groups=2 bias=0, tanh, conv 4 3 stride=2 groups=2, "
          "dense 2",
          "2x5x5: conv 3 3 pad=2, tanh, conv 3 1 pad=1, tanh, conv 2 3 pad=same, dense 2",
          "1x4x4: conv 2 4, tanh, conv 3 1, dense 2", "2x5x6: conv 3 3, tanh, conv 4 3",
          "2x9x9: conv 3 3 stride=3, tanh, conv 4 2 stride=3, dense 2",
          "3x5x5: conv 2 1 stride=3, tanh, conv 3 3 pad=1, dense 2",
          "1x7x6: conv 9 5x3 stride=2x1 pad=3x2, tanh, dense 2", "3x6x5: conv 17 4x1 pad=5x0, tanh, dense 2");
}

/* Winograd's algorithm: whole tiles and cut ones, every padding, every way its gradients meet others. */
static void test_winograd(void **state)
{
    (void)state;
    CHECK("3x8x4: conv 16 3 pad=1, tanh, conv 16 3 pad=1, gap", "2x9x7: conv 17 1, tanh, conv 16 3, tanh, gap",
          "2x4x3: conv 18 1, tanh, conv 40 3 pad=1, leakyrelu, maxpool 2, dense 2",
          "2x6x7: conv 16 1, residual(conv 16 3 pad=2x1 bias=0, tanh, conv 16 3 pad=0x1), gap");
}

/* Tiles that reach beyond an image find zeros there, not its neighbours: what is cut off leaves no rounding. */
static void test_winograd_edges(void **state)
{
    enum { NUMBERS = 16 * 8 * 5, COUNT = 8 };
    kd_isa isa;
    (void)state;
    FOR_EACH_ISA(isa)
    {
        kd_ctx *kd = test_open(isa, 1);
        kd_model *m = create(kd, "16x8x5: conv 16 3 pad=1");
        float *x = test_floats(1, COUNT * NUMBERS, 1), alone[NUMBERS], together[COUNT * NUMBERS];
        int i;
        for (i = NUMBERS; i < COUNT * NUMBERS; ++i) x[i] *= 1e20f;
        assert_ok(kd, kd_predict(m, x, 1, alone));
        assert_ok(kd, kd_predict(m, x, COUNT, together));
        assert_memory_equal(alone, together, sizeof alone);
        free(x);
        kd_model_destroy(m);
        kd_close(kd);
    }
}

/* Root mean square of got - want, as part of that of want. */
static double error_of(const float *got, const double *want, int64_t count)
{
    double error = 0, all = 0;
    int64_t i;
    for (i = 0; i < count; ++i) {
        error += ((double)got[i] - want[i]) * ((double)got[i] - want[i]);
        all += want[i] * want[i];
    }
    return sqrt(error / all);
}

enum { WIDE = 64, SIDE = 8, SAMPLES = 8, IMAGE = WIDE * SIDE * SIDE, TAPS = WIDE * WIDE * 9 };

/* The gradient of a 3 x 3 convolution's weights with padding 1. */
static void exact_weight_grad(const float *x, const float *dy, double *dw)
{
    int b, out, in, i, j, y, w;
    memset(dw, 0, TAPS * sizeof *dw);
    for (b = 0; b < SAMPLES; ++b, x += IMAGE, dy += IMAGE)
        for (out = 0; out < WIDE; ++out)
            for (in = 0; in < WIDE; ++in)
                for (i = 0; i < 3; ++i)
                    for (j = 0; j < 3; ++j)
                        for (y = KD__MAX(0, 1 - i); y < KD__MIN(SIDE, SIDE + 1 - i); ++y)
                            for (w = KD__MAX(0, 1 - j); w < KD__MIN(SIDE, SIDE + 1 - j); ++w)
                                dw[((out * WIDE + in) * 3 + i) * 3 + j] +=
                                    (double)dy[(out * SIDE + y) * SIDE + w] *
                                    (double)x[(in * SIDE + y + i - 1) * SIDE + w + j - 1];
}

/* Winograd's algorithm errs little more than sums of products do, which have 4e-7 and 1.5e-7 here. */
static void test_winograd_accuracy(void **state)
{
    float *x = test_floats(1, SAMPLES * IMAGE, 1), *dy = test_floats(2, SAMPLES * IMAGE, 1);
    float *y = (float *)malloc(SAMPLES * IMAGE * sizeof *y), *dw = (float *)malloc(TAPS * sizeof *dw);
    double *exact_dw = (double *)malloc(TAPS * sizeof *exact_dw);
    kd_isa isa;
    (void)state;
    exact_weight_grad(x, dy, exact_dw);
    FOR_EACH_ISA(isa)
    {
        kd_ctx *kd = test_open(isa, 1);
        kd_model *m = create(kd, "64x8x8: conv 64 3 pad=1");
        reference r;
        kd__run *run;
        assert_ok(kd, kd__run_open(m, m, SAMPLES, &run));
        kd__run_forward(run, x, SAMPLES);
        kd__export(run, SAMPLES, y);
        reference_open(&r, m, SAMPLES, 1);
        assert_true(error_of(y, reference_run(&r, x), SAMPLES * IMAGE) < 1.1e-6);
        set_direction(run, dy, SAMPLES);
        kd__run_backward(run);
        kd__param_copy(kd->k, &m->params[0], run->weight_grads + m->params[0].offset, dw, 1);
        assert_true(error_of(dw, exact_dw, TAPS) < 7e-7);
        reference_close(&r);
        kd__run_close(run);
        kd_model_destroy(m);
        kd_close(kd);
    }
    free(x);
    free(dy);
    free(y);
    free(dw);
    free(exact_dw);
}

static void test_depthwise(void **state)
{
    (void)state;
    CHECK("3x7x6: conv 5 1, tanh, depthwise 3 pad=1, tanh, depthwise 3 stride=2 pad=1, dense 2",
          "2x6x6: conv 20 1, tanh, depthwise 5x3 pad=2x1 bias=0, tanh, conv 20 3 groups=20 pad=1, dense 2",
          "1x4x11: conv 33 1, tanh, depthwise 3 pad=1, tanh, dense 2", "17x5x9: depthwise 1x9, tanh, dense 2",
          "4x6x6: depthwise 2 stride=2, tanh, conv 4 2 groups=4, dense 3");
}

static void test_pooling(void **state)
{
    (void)state;
    CHECK("2x6x6: conv 5 3 pad=1, maxpool 2, dense 2",
          "2x7x7: conv 18 3 pad=1, maxpool 3 stride=2 pad=1, conv 4 3 pad=1, dense 2",
          "2x6x8: conv 3 3 pad=1, avgpool 2, dense 2",
          "2x7x7: conv 3 3 pad=1, avgpool 3 stride=2 pad=1, conv 3 3, dense 2",
          "3x5x4: conv 6 3 pad=1, tanh, gap, dense 2",
          "2x6x6: conv 4 3 pad=1, maxpool 3 stride=1, avgpool 2x1 stride=1x2, gap",
          "2x6x7: conv 4 3 pad=1, maxpool 2x3 stride=3x2, dense 3",
          "2x6x7: conv 4 3 pad=1, maxpool 3 stride=2 ceil=1, conv 3 1, relu, maxpool 2 ceil=1, dense 3",
          "2x7x7: conv 18 3 pad=1, maxpool 3 stride=2 pad=1 ceil=1, conv 4 3 pad=1, maxpool 2 stride=3 ceil=1, "
          "dense 2",
          /* the derivative of a ReLU in the pooling after it, and where it must not be there */
          "2x6x6: conv 5 3 pad=1, relu, maxpool 2, conv 18 3 pad=1, relu, maxpool 2, dense 2",
          "2x7x7: conv 18 3 pad=1, relu, maxpool 3 stride=2 pad=1, conv 4 3 pad=1, dense 2",
          "2x5x5: conv 5 3 pad=1, residual(relu, maxpool 3 stride=1 pad=1, conv 5 3 pad=1), dense 2",
          "2x5x5: conv 5 3 pad=1, relu, residual(maxpool 3 stride=1 pad=1, conv 5 3 pad=1), dense 2");
}

static void test_activations(void **state)
{
    (void)state;
    CHECK("6: dense 20, relu, dense 19, relu6, dense 18, leakyrelu 0.2, dense 2",
          "6: dense 20, gelu, dense 19, silu, dense 4",
          "6: dense 20, hardswish, dense 19, sigmoid, dense 18, tanh, dense 2",
          "2x5x5: conv 3 3 pad=1, relu, conv 4 3 pad=1, gelu, conv 5 3 pad=1, silu, conv 3 3 pad=1, hardswish, "
          "dense 2",
          "2x5x5: conv 3 3 pad=1, relu6, conv 4 3 pad=1, leakyrelu slope=0.3, conv 5 3 pad=1, sigmoid, conv 3 3, "
          "tanh, dense 2",
          "6: relu, dense 3, gelu, relu, dense 2", "5: dense 8, relu, tanh, relu, dense 2");
}

/* Tokens of every width, in one tile of queries and in several, one head and many, odd sizes of heads. */
static void test_sequences(void **state)
{
    (void)state;
    CHECK("3x6x1: linear 5, gelu, linear 4 bias=0, meanpool, dense 2", "5x7x1: layernorm, token 3, linear 3",
          "2x4x6: patch 2 7, layernorm eps=1e-5, meanpool, gelutanh, linear 3",
          "2x6x4: patch 3x2 5 bias=0, classtoken, position, token 0, layernorm, dense 3",
          "3x4x4: conv 5 3 pad=1, tokens, disttoken, tanh, classtoken, position, linear 6, relu, meanpool",
          "4x4x1: attention 1, meanpool", "6x9x1: linear 6, attention 3, token 0, dense 2",
          "10x5x1: attention 2 causal=1, token 3",
          "4x3x3: conv 6 3 pad=1, tokens, residual(layernorm, attention 2, droppath 0), meanpool, dense 2",
          "9: layernorm, dense 5, tanh, layernorm eps=0.1, dense 2", "2x3x1: tokens, classtoken, linear 3",
          "2x4x4: patch 2 6, classtoken, position, encoder 2 2 mlp=2, layernorm, token 0, linear 3",
          "2x4x4: patch 2 6, encoder 1 3 mlp=0.5 norm=post act=relu eps=1e-5, meanpool, dense 3",
          "3x8x2: patch 2 4, position, encoder 1 1 act=gelutanh causal=1, token 2");
    check_spec("2x49x1: linear 64, attention 2, token 7, dense 3", 2, 2);
    check_spec("6x35x1: attention 2 causal=1, token 34, dense 2", 3, 2);
    check_spec("3x103x1: linear 12, attention 2 causal=1, linear 2, token 101", 1, 1);
    check_spec("17x40x1: encoder 1 1 mlp=1, layernorm, meanpool, dense 2", 2, 2);
}

/* Tokens that are learned, and those of prompts, of which a sample may have none. */
static void test_prompt_tokens(void **state)
{
    (void)state;
    CHECK("2x4x4: patch 2 6, prompttokens 3, encoder 1 2 mlp=1, token 0, linear 3",
          "2x4x4: patch 2 6, classtoken, position, prompttokens 1, disttoken, encoder 1 3 mlp=1, token 1",
          "3x1x1: tokens, prompttokens 20, meanpool, dense 2",
          "tokens 5: embed 4 6, prompttokens 2, attention 2, meanpool, dense 2",
          "2x4x4: patch 2 6, sidetokens 2 3, encoder 1 2 mlp=1, token 0, linear 3",
          "2x4x4: patch 2 5, sidetokens 1 1, residual(layernorm, attention 1), linear 4, gelu, meanpool, dense 2",
          "3x4x4: conv 5 3 pad=1, tokens, classtoken, position, sidetokens 3 7, disttoken, encoder 1 1 causal=1 "
          "mlp=1, "
          "token 2",
          "tokens 7: embed 5 6, sidetokens 2 4, attention 2, meanpool, dense 2",
          "tokens 8: embed 4 5, maxpool 2x1, disttoken, sidetokens 1 2, classtoken, residual(layernorm, attention "
          "1), "
          "meanpool");
    check_spec("3x103x1: linear 12, sidetokens 5 33, attention 2 causal=1, linear 2, token 101", 3, 2);
}

/* Texts: padding at their end, behind convolutions that keep a token for several ids, and learned tokens. */
static void test_texts(void **state)
{
    (void)state;
    CHECK("tokens 7: embed 5 6, attention 2, meanpool, dense 2", "tokens 1: embed 2 1, meanpool",
          "tokens 9: embed 7 35, position, encoder 2 5 mlp=2, layernorm, meanpool, dense 3",
          "tokens 6: embed 4 6, classtoken, position, encoder 1 3 mlp=1 causal=1, token 0, linear 2",
          "tokens 10: embed 9 4, conv 6 3x1 pad=1x0 stride=2x1, tanh, position, encoder 1 2 mlp=1 norm=post, "
          "meanpool",
          "tokens 8: embed 4 5, maxpool 2x1, disttoken, classtoken, residual(layernorm, attention 1), meanpool",
          "tokens 6: embed 4 5, conv 4 3x1, relu, gap, dense 2", "tokens 5: embed 3 4, linear 3, tanh, dense 2");
    check_spec("tokens 70: embed 30 64, position, attention 2, attention 4 causal=1, meanpool, dense 3", 3, 2);
}

static void test_batchnorm(void **state)
{
    (void)state;
    CHECK("2x6x6: conv 4 3 pad=1 bias=0, batchnorm, relu, conv 5 3 pad=1, batchnorm, tanh, dense 2",
          "7: dense 19, batchnorm, relu, dense 5, batchnorm, dense 2",
          "2x4x4: batchnorm, conv 3 3 pad=1, batchnorm eps=0.01, flatten, batchnorm, dense 2",
          "3x5x5: conv 17 3 stride=2, batchnorm, gelu, depthwise 3 pad=1, batchnorm, relu6, gap, dense 3");
}

static void test_residual(void **state)
{
    (void)state;
    CHECK("3x6x6: residual(conv 3 3 pad=1, tanh, conv 3 3 pad=1), tanh, dense 2",
          "3x6x6: conv 4 3 pad=1, relu, residual(conv 4 3 pad=1, batchnorm, relu, conv 4 3 pad=1, batchnorm), "
          "relu, gap, dense 2",
          "2x8x8: residual(conv 6 3 stride=2 pad=1, batchnorm, relu, conv 6 3 pad=1, batchnorm), relu, "
          "residual(conv 4 3 stride=2 pad=1), dense 2",
          "9: dense 6, residual(dense 6, tanh, dense 6), tanh, residual(dense 11, relu), dense 3",
          "2x6x6: residual(residual(conv 3 3 pad=1, relu), depthwise 3 pad=1), residual(relu), maxpool 2, dense 2",
          "2x5x5: conv 3 3 pad=1, residual(relu, conv 3 3 pad=1), residual(conv 3 3 pad=1, relu), dense 2",
          "2x5x5: conv 3 3 pad=1, residual(residual(conv 3 3 pad=1, tanh), conv 3 3 pad=1), dense 2");
}

static void test_concat(void **state)
{
    (void)state;
    CHECK("3x6x6: concat(conv 2 1 | conv 5 3 pad=1, tanh), dense 2",
          "3x6x6: conv 4 3 pad=1, relu, concat(conv 3 1, relu | conv 5 3 pad=1, relu | maxpool 3 stride=1 pad=1, "
          "conv 2 1), batchnorm, relu, gap, dense 2",
          "2x5x5: conv 4 3 pad=1, concat( | batchnorm, relu, conv 3 3 pad=1), concat(|batchnorm, relu, conv 3 3 "
          "pad=1), concat(batchnorm, relu, conv 3 3 pad=1|), batchnorm, relu, dense 2",
          "3x6x6: concat(|), concat(| | ), conv 4 3 pad=1, concat(relu | | leakyrelu), dense 2",
          "2x6x6: concat(residual(conv 4 3 pad=1, relu) | conv 3 1, concat(tanh | conv 2 3 pad=1)), "
          "residual(concat(conv 4 3 pad=1, tanh | conv 5 1)), conv 3 3 pad=1, dense 2",
          "3x8x8: concat(conv 4 3 stride=2 pad=1 | maxpool 2 | avgpool 2), conv 5 3 pad=1, relu, dense 2",
          "9: concat(dense 6, tanh | dense 40, relu | ), dense 5, concat( | dense 2), dense 3",
          "2x4x4: conv 3 3 pad=1, tanh, concat(flatten | conv 5 3, flatten | gap, flatten), tanh, dense 3",
          "2x4x4: concat(flatten | conv 5 3 pad=1, flatten), batchnorm, dense 3",
          "3x5x1: concat(linear 4 | layernorm, attention 3 | ), linear 6, concat(token 1 | meanpool), dense 2");
    check_spec("5x12x31: concat(conv 40 3 pad=1, tanh | conv 36 5 pad=2 | ), concat( | conv 16 1), conv 3 3, gap",
               3, 2);
}

static void test_softtree(void **state)
{
    (void)state;
    CHECK("3: softtree 1 2", "5: softtree 3 4 penalty=0", "7: dense 6, tanh, softtree 4 3 penalty=7",
          "2x3x4: conv 3 2, tanh, softtree 2 20 0.5", "6: softtree 5 33, tanh, dense 2");
}

static void test_prompt(void **state)
{
    (void)state;
    CHECK("4: prompt 3, dense 2", "2x3x4: prompt 1, dense 5, tanh, dense 2",
          "2x4x4: conv 5 3 pad=1, tanh, prompt 20, dense 3",
          "6: dense 5, residual(prompt 2, tanh, dense 3), dense 2",
          "3x4x4: conv 4 3, flatten, residual(prompt 4, dense 6), softtree 2 3");
}

/* Large enough that every blocking of the kernels is entered. */
static void test_wide(void **state)
{
    (void)state;
    check_spec("300: dense 90, tanh, dense 70, tanh, dense 7", 40, 2);
    check_spec("5x12x31: conv 40 3 pad=1, tanh, conv 36 3 pad=1 stride=2, dense 3", 3, 2);
    check_spec("1x41x48: conv 16 1, tanh, conv 16 3 pad=1, gap", 1, 1);
    check_spec("3: dense 1024, tanh, dense 1, tanh, dense 2", 5, 2); /* samples with a gap between them */
}

/* ---- against PyTorch ------------------------------------------------------------------------------------- */

static void compare(const kd_model *m, const char *what, int index, float got, double wanted)
{
    if (fabs((double)got - wanted) > 4e-6 * (1 + fabs(wanted)))
        fail_msg("%s on %s: %s %d is %.8g, PyTorch has %.9g", m->spec, kd_isa_name(m->kd->isa), what, index,
                 (double)got, wanted);
}

/* The layers in question stand behind two that pass everything on as it is: one for a value whose gradient can be
   read, and one that keeps an activation from being done by the first. */
static kd_model *create_golden(kd_ctx *kd, const golden_layer *g)
{
    static const float ones[] = {1, 1, 1, 1, 1, 1, 1, 1};
    const int input = (int)strcspn(g->line, ":");
    const float *weights = golden_weights;
    char spec[200];
    kd_tensor_info info;
    kd_model *m;
    int i, j;
    snprintf(spec, sizeof spec, "%.*s: depthwise 1 bias=0, maxpool 1,%s", input, g->line, g->line + input + 1);
    assert_ok(kd, kd_model_create(kd, spec, 1, &m));
    for (i = 0; i < kd_model_tensors(m); ++i) {
        float values[KD__COUNT(golden_weights)];
        assert_ok(kd, kd_model_tensor_info(m, i, &info));
        if (i == 0) {
            assert_ok(kd, kd_model_set_tensor(m, info.name, ones, info.count));
            continue;
        }
        assert_true(weights + info.count <= golden_weights + KD__COUNT(golden_weights));
        for (j = 0; j < info.count; ++j) values[j] = *weights++ + (strstr(info.name, "running_var") ? 1.0f : 0.0f);
        assert_ok(kd, kd_model_set_tensor(m, info.name, values, info.count));
    }
    return m;
}

static void check_golden_input_grad(const kd__run *run, const golden_layer *g)
{
    const int value = run->model->nodes[1].out;
    const kd__shape *shape = &run->model->values[value].shape;
    const kd__slot *slot = &run->grad[value];
    kd__span s = {0, 0, 0, 0};
    int i, c, y, x, at = 0;
    s.count = g->samples;
    for (i = 0; i < g->samples; ++i)
        for (c = 0; c < shape->c; ++c)
            for (y = 0; y < shape->h; ++y)
                for (x = 0; x < shape->w; ++x, ++at)
                    compare(run->model, "gradient of input", at,
                            kd__slot_at(slot, s, i)[y * slot->row + x * shape->c + c], g->input_grad[at]);
}

/* Gradients and running statistics, tensor by tensor. */
static void check_golden_tensors(const kd__run *run, const golden_layer *g)
{
    const kd_model *m = run->model;
    kd_tensor_info info;
    int i, j, at = 0;
    for (i = 1; i < kd_model_tensors(m); ++i) {
        const kd__param *p = &m->params[i];
        float values[KD__COUNT(golden_weights)];
        assert_ok(m->kd, kd_model_tensor_info(m, i, &info));
        assert_ok(m->kd, kd_model_get_tensor(m, info.name, values, info.count));
        if (info.trained) kd__param_copy(m->kd->k, p, run->weight_grads + p->offset, values, 1);
        for (j = 0; j < info.count; ++j, ++at) compare(m, info.name, j, values[j], g->tensors[at]);
    }
    assert_int_equal(at, g->tensor_count);
}

static void check_golden(kd_ctx *kd, const golden_layer *g)
{
    kd_model *m = create_golden(kd, g);
    const int outputs = g->samples * kd_model_outputs(m);
    const float *x = g->wide_inputs ? golden_wide_inputs : golden_inputs;
    float y[KD__COUNT(golden_directions)];
    int training, i;
    for (training = 0; training < 2; ++training) {
        const double *wanted = training || !g->evaluation ? g->training : g->evaluation;
        kd__run *run;
        /* room for so many that all samples pass together: gradients are kept for those that do */
        assert_ok(kd, kd__run_open(m, training ? m : NULL, KD__MAX_CHUNKS * g->samples, &run));
        kd__run_forward(run, x, g->samples);
        kd__export(run, g->samples, y);
        for (i = 0; i < outputs; ++i)
            compare(m, training ? "output in training" : "output in evaluation", i, y[i], wanted[i]);
        if (training) {
            assert_true(run->block >= g->samples);
            set_direction(run, golden_directions, g->samples);
            kd__run_backward(run);
            kd__run_steps(run, run->commit, run->commit_steps);
            check_golden_input_grad(run, g);
            check_golden_tensors(run, g);
        }
        kd__run_close(run);
    }
    kd_model_destroy(m);
}

static void test_like_pytorch(void **state)
{
    kd_isa isa;
    int i;
    (void)state;
    FOR_EACH_ISA(isa)
    {
        kd_ctx *kd = test_open(isa, 1);
        for (i = 0; i < KD__COUNT(golden_layers); ++i) check_golden(kd, &golden_layers[i]);
        kd_close(kd);
    }
}

/* ---- dropout, running statistics ------------------------------------------------------------------------- */

/* The mask keeps the right share, scales it, depends on seed, step and sample, and is the same backward. */
static void test_dropout(void **state)
{
    kd_isa isa;
    (void)state;
    FOR_EACH_ISA(isa)
    {
        kd_ctx *kd = test_open(isa, 1);
        kd_model *m;
        kd__run *run;
        float x[3 * 4000], first[3 * 4000];
        const float *y;
        int i, kept = 0, same = 0;
        for (i = 0; i < 12000; ++i) x[i] = 1;
        assert_ok(kd, kd_model_create(kd, "4000: dropout 0.25, tanh", 1, &m));
        assert_ok(kd, kd__run_open(m, m, 3, &run));
        run->dropout_key = 5;
        kd__run_forward(run, x, 3);
        y = kd__run_logits(run);
        for (i = 0; i < 12000; ++i) {
            const float wanted = y[i] != 0 ? tanhf(1 / 0.75f) : 0;
            assert_near(y[i], wanted, 1e-6);
            kept += y[i] != 0;
            first[i] = y[i];
        }
        assert_true(kept > 12000 * 0.73 && kept < 12000 * 0.77);
        for (i = 0; i < 4000; ++i) same += (first[i] != 0) == (first[4000 + i] != 0);
        assert_true(same > 4000 * 0.56 && same < 4000 * 0.69); /* 0.75^2 + 0.25^2 if samples are independent */
        run->dropout_key = 6;
        kd__run_forward(run, x, 3);
        for (i = 0, same = 0; i < 12000; ++i) same += (first[i] != 0) == (y[i] != 0);
        assert_true(same > 12000 * 0.59 && same < 12000 * 0.66);
        kd__run_close(run);
        kd_model_destroy(m);
        /* backward: with a layer before it, that layer's gradient must use the same mask */
        assert_ok(kd, kd_model_create(kd, "1: dense 50 bias=0, dropout 0.5, tanh", 1, &m));
        assert_ok(kd, kd__run_open(m, m, 1, &run));
        run->dropout_key = 9;
        kd__run_forward(run, x, 1);
        for (i = 0; i < 50; ++i) kd__run_logits_grad(run)[i] = 1;
        kd__run_backward(run);
        for (i = 0; i < 50; ++i) {
            float grads[50];
            kd__param_copy(kd->k, &m->params[0], run->weight_grads, grads, 1);
            assert_int_equal(grads[i] != 0, kd__run_logits(run)[i] != 0);
        }
        kd__run_close(run);
        /* and in evaluation it is not there */
        assert_ok(kd, kd__run_open(m, NULL, 1, &run));
        kd__run_forward(run, x, 1);
        for (i = 0; i < 50; ++i) assert_true(kd__run_logits(run)[i] != 0);
        kd__run_close(run);
        kd_model_destroy(m);
        kd_close(kd);
    }
}

/* A relu works after every kind of layer, those that apply it themselves and those that do not. */
static void test_relu_after_each(void **state)
{
    enum { COUNT = 9, FLOATS = 4 * 6 * 6, MOST = COUNT * 400 };
    static const char *const layers[] = {"dense 9",
                                         "conv 5 3",
                                         "conv 4 3 groups=2",
                                         "depthwise 3",
                                         "maxpool 2",
                                         "avgpool 2",
                                         "gap",
                                         "batchnorm",
                                         "dropout 0.5",
                                         "flatten",
                                         "residual(conv 4 3 pad=1)",
                                         "softtree 2 5",
                                         "prompt 3",
                                         "relu6",
                                         "leakyrelu",
                                         "gelu",
                                         "silu",
                                         "hardswish",
                                         "sigmoid",
                                         "tanh"};
    kd_ctx *kd = test_open(KD_ISA_AUTO, 1);
    float *x = test_floats(1, COUNT * FLOATS, 1), *plain = (float *)malloc(MOST * sizeof *plain);
    float *clipped = (float *)malloc(MOST * sizeof *clipped);
    int i, j;
    (void)state;
    for (i = 0; i < KD__COUNT(layers); ++i) {
        char spec[100];
        kd_model *m[2];
        for (j = 0; j < 2; ++j) {
            snprintf(spec, sizeof spec, "4x6x6: %s%s%s", strcmp(layers[i], "prompt 3") ? "" : "dense 4, ",
                     layers[i], j ? ", relu" : "");
            m[j] = create(kd, spec);
            if (j)
                memcpy(m[1]->weights, m[0]->weights,
                       (size_t)m[0]->weight_count * sizeof(float)); /* started otherwise */
            assert_true(COUNT * kd_model_outputs(m[j]) <= MOST);
            assert_ok(kd, kd_predict(m[j], x, COUNT, j ? clipped : plain));
        }
        for (j = 0; j < COUNT * kd_model_outputs(m[0]); ++j) {
            if (clipped[j] != KD__MAX(plain[j], 0))
                fail_msg("%s: relu makes %g of %g", layers[i], clipped[j], plain[j]);
        }
        kd_model_destroy(m[0]);
        kd_model_destroy(m[1]);
    }
    free(x);
    free(plain);
    free(clipped);
    kd_close(kd);
}

/* Outputs and gradients of a batch are the same whatever the run has worked on before. */
static void test_nothing_stays(void **state)
{
    enum { COUNT = 37, FLOATS = 3 * 6 * 6 };
    static const char *const specs[] = {
        "3x6x6: conv 6 3 pad=1 bias=0, batchnorm, relu, depthwise 3 pad=1, batchnorm, tanh, maxpool 2, dense 4",
        "3x6x6: conv 16 3 pad=1, relu, residual(conv 16 3 pad=1, batchnorm), relu, avgpool 2, conv 8 1, gap, dense "
        "4",
        "108: dense 33, batchnorm, gelu, dense 20, silu, softtree 2 4"};
    float *x = test_floats(1, COUNT * FLOATS, 1), *other = test_floats(2, COUNT * FLOATS, 3);
    float *dy = test_floats(3, COUNT * 4, 1);
    int i, used;
    (void)state;
    for (i = 0; i < KD__COUNT(specs); ++i) {
        kd_ctx *kd = test_open(KD_ISA_AUTO, 1);
        kd_model *m = create(kd, specs[i]);
        float y[2][COUNT * 4], *grads[2];
        for (used = 0; used < 2; ++used) {
            kd__run *run;
            assert_ok(kd, kd__run_open(m, m, COUNT, &run));
            if (used) {
                kd__run_forward(run, other, COUNT - 3);
                set_direction(run, dy, COUNT - 3);
                kd__run_backward(run);
            }
            kd__run_forward(run, x, COUNT);
            kd__export(run, COUNT, y[used]);
            set_direction(run, dy, COUNT);
            kd__run_backward(run);
            grads[used] = (float *)malloc((size_t)m->weight_count * sizeof(float));
            memcpy(grads[used], run->weight_grads, (size_t)m->weight_count * sizeof(float));
            kd__run_close(run);
        }
        assert_memory_equal(y[0], y[1], sizeof y[0]);
        assert_memory_equal(grads[0], grads[1], (size_t)m->weight_count * sizeof(float));
        free(grads[0]);
        free(grads[1]);
        kd_model_destroy(m);
        kd_close(kd);
    }
    free(x);
    free(other);
    free(dy);
}

/* Running statistics after one training step, PyTorch's way: 0.9 old + 0.1 new, variance unbiased. */
static void test_running_statistics(void **state)
{
    kd_ctx *kd = test_open(KD_ISA_AUTO, 1);
    kd_model *m;
    kd_data data;
    kd_train_desc desc = kd_train_defaults();
    reference r;
    float *x = test_floats(3, 20 * 2 * 4 * 4, 1), mean[2], var[2];
    int32_t labels[20] = {0};
    int c;
    (void)state;
    assert_ok(kd, kd_model_create(kd, "2x4x4: batchnorm, dense 3", 1, &m));
    reference_open(&r, m, 20, 1);
    reference_run(&r, x);
    data = kd_data_f32(x, labels, 20, 2, 4, 4, 3);
    desc.epochs = 1;
    desc.batch = 20;
    assert_ok(kd, kd_train(m, &data, &desc));
    assert_ok(kd, kd_model_get_tensor(m, "0.running_mean", mean, 2));
    assert_ok(kd, kd_model_get_tensor(m, "0.running_var", var, 2));
    for (c = 0; c < 2; ++c) {
        assert_near(mean[c], 0.1 * r.batch_mean[0][c], 1e-6);
        assert_near(var[c], 0.9 + 0.1 * r.batch_var[0][c] * 320 / 319, 1e-6);
    }
    assert_int_equal(m->batches_seen, 1);
    reference_close(&r);
    free(x);
    kd_model_destroy(m);
    kd_close(kd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dense),
        cmocka_unit_test(test_conv),
        cmocka_unit_test(test_winograd),
        cmocka_unit_test(test_winograd_edges),
        cmocka_unit_test(test_winograd_accuracy),
        cmocka_unit_test(test_depthwise),
        cmocka_unit_test(test_pooling),
        cmocka_unit_test(test_activations),
        cmocka_unit_test(test_sequences),
        cmocka_unit_test(test_texts),
        cmocka_unit_test(test_batchnorm),
        cmocka_unit_test(test_relu_after_each),
        cmocka_unit_test(test_nothing_stays),
        cmocka_unit_test(test_residual),
        cmocka_unit_test(test_concat),
        cmocka_unit_test(test_softtree),
        cmocka_unit_test(test_prompt),
        cmocka_unit_test(test_prompt_tokens),
        cmocka_unit_test(test_wide),
        cmocka_unit_test(test_like_pytorch),
        cmocka_unit_test(test_dropout),
        cmocka_unit_test(test_running_statistics),
    };
    const int failed = cmocka_run_group_tests_name("layers", tests, NULL, NULL);
    test_print_skips("layers");
    return failed;
}
