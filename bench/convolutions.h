/* convolutions.h - convolution forward and backward, in kd and as oneDNN's primitives

   oneDNN chooses its own layouts; bringing data into them is not timed. kd's images are (h, w, c) with zeros
   between the lines, as inside of any model; its weight gradient includes summing the shares of the chunks, its
   input gradient turning the weights, since both happen at every step of training. No bias on either side. */
#ifndef KD_BENCH_CONVOLUTIONS_H
#define KD_BENCH_CONVOLUTIONS_H

#include "peers.h"

#if defined(__has_include)
#if __has_include(<dnnl.h>)
#include <dnnl.h>
#endif
#endif
#if defined(DNNL_VERSION_MAJOR)
#define HAS_ONEDNN (DNNL_VERSION_MAJOR == 2)
#else
#define HAS_ONEDNN 0
#endif

typedef struct conv_case {
    int channels, size, outputs, kernel, stride, depthwise, quick;
} conv_case;

enum { CONV_BATCH = 128 };
enum { CONV_FORWARD, CONV_INPUT_GRADIENT, CONV_WEIGHT_GRADIENT, CONV_PASSES };
static const char *const conv_pass_names[] = {"forward", "input gradient", "weight gradient"};

static int conv_out(const conv_case *c) { return (c->size + 2 * (c->kernel / 2) - c->kernel) / c->stride + 1; }

/* ---- kd -------------------------------------------------------------------------------------------------- */

/* One layer of a model in training, reached from inside: its steps are run alone. Batch normalisation stands before
   it, so that its input has a gradient. */
typedef struct kd_conv {
    kd_ctx *kd;
    kd_model *model;
    kd__run *run;
    kd__node *node;
    float *gradients[2];
    int pass;
} kd_conv;

/* Gradients are usually kept for a few samples only, as long as they are in the cache. Here they are in memory for
   the whole batch, as they are for oneDNN. */
static float *kd_conv_whole_batch(kd_ctx *kd, kd__slot *slot)
{
    slot->worker = 0;
    return slot->base = KD__NEW(kd, float, slot->sample *CONV_BATCH + KD__SLACK);
}

static void kd_conv_input_gradient(const kd__run *r, const kd__node *n, kd__span s)
{
    int i;
    if (n->type == KD__TYPE_CONV) {
        kd__conv_input_grad(r, n, s);
        return;
    }
    for (i = s.first; i < s.first + s.count; ++i) {
        const float *dy = kd__slot_at(&r->grad[n->out], s, i);
        const kd__window w = kd__depthwise_window(r, n, &r->grad[n->in], &r->grad[n->out]);
        r->k->depthwise_input_grad(&w, dy, kd__weight(r, n->param[0]), kd__slot_at(&r->grad[n->in], s, i), 0);
    }
}

static void kd_conv_run(void *arg)
{
    const kd_conv *c = (const kd_conv *)arg;
    const kd__run *r = c->run;
    const int backward = c->pass != CONV_FORWARD;
    const kd__step *steps = backward ? r->backward : r->forward;
    const int count = backward ? r->backward_steps : r->forward_steps;
    int *needs_grad = &c->model->values[c->node->in].needs_grad, i;
    *needs_grad = c->pass == CONV_INPUT_GRADIENT;
    for (i = 0; i < count; ++i) {
        kd__step step = steps[i];
        if (step.node != c->node) continue;
        if (c->pass == CONV_INPUT_GRADIENT && !step.whole) step.fn = kd_conv_input_gradient;
        kd__run_steps(r, &step, 1);
    }
    if (c->pass == CONV_WEIGHT_GRADIENT) kd__run_reduce(c->run, c->node->param[0], 0);
}

static void kd_conv_open(kd_conv *c, const conv_case *which, kd_isa isa)
{
    char spec[120];
    float *x = random_floats(1, (size_t)CONV_BATCH * (size_t)(which->channels * which->size * which->size));
    if (which->depthwise)
        snprintf(spec, sizeof spec, "%dx%dx%d: batchnorm, depthwise %d stride=%d pad=%d bias=0", which->channels,
                 which->size, which->size, which->kernel, which->stride, which->kernel / 2);
    else
        snprintf(spec, sizeof spec, "%dx%dx%d: batchnorm, conv %d %d stride=%d pad=%d bias=0", which->channels,
                 which->size, which->size, which->outputs, which->kernel, which->stride, which->kernel / 2);
    c->kd = open_context(isa, options.threads);
    need(c->kd, kd_model_create(c->kd, spec, 1, &c->model));
    need(c->kd, kd__run_open(c->model, c->model, CONV_BATCH, &c->run));
    c->node = &c->model->nodes[1];
    c->gradients[0] = kd_conv_whole_batch(c->kd, &c->run->grad[c->node->in]);
    c->gradients[1] = kd_conv_whole_batch(c->kd, &c->run->grad[c->node->out]);
    kd__run_forward(c->run, x, CONV_BATCH);
    free(x);
}

static void kd_conv_close(kd_conv *c)
{
    kd__run_close(c->run);
    kd__free(c->kd, c->gradients[0]);
    kd__free(c->kd, c->gradients[1]);
    kd_model_destroy(c->model);
    kd_close(c->kd);
}

/* A value of the run (its gradient) into (n, c, h, w), or from there. */
static void kd_conv_copy(const kd_conv *c, int value, int gradient, float *plain, int to_plain)
{
    const kd__shape *s = &c->model->values[value].shape;
    const kd__slot *slot = gradient ? &c->run->grad[value] : &c->run->act[value];
    const kd__span all = {0, CONV_BATCH, 0, 0};
    int i, ch, y, x;
    for (i = 0; i < CONV_BATCH; ++i)
        for (ch = 0; ch < s->c; ++ch)
            for (y = 0; y < s->h; ++y)
                for (x = 0; x < s->w; ++x, ++plain) {
                    float *stored = kd__slot_at(slot, all, i) + y * slot->row + (ptrdiff_t)x * s->c + ch;
                    if (to_plain)
                        *plain = *stored;
                    else
                        *stored = *plain;
                }
}

/* ---- oneDNN ---------------------------------------------------------------------------------------------- */

enum { TENSOR_X, TENSOR_W, TENSOR_Y, TENSORS };

#if HAS_ONEDNN

#define DNNL_FUNCTIONS(X)                                                                                          \
    X(engine_create)                                                                                               \
    X(stream_create)                                                                                               \
    X(stream_wait)                                                                                                 \
    X(stream_destroy)                                                                                              \
    X(engine_destroy)                                                                                              \
    X(memory_desc_init_by_tag)                                                                                     \
    X(convolution_forward_desc_init)                                                                               \
    X(convolution_backward_data_desc_init)                                                                         \
    X(convolution_backward_weights_desc_init)                                                                      \
    X(primitive_desc_create)                                                                                       \
    X(primitive_desc_query_md)                                                                                     \
    X(primitive_desc_destroy)                                                                                      \
    X(primitive_create)                                                                                            \
    X(primitive_execute)                                                                                           \
    X(primitive_destroy)                                                                                           \
    X(memory_create)                                                                                               \
    X(memory_destroy)                                                                                              \
    X(memory_get_memory_desc)                                                                                      \
    X(reorder_primitive_desc_create)

static struct {
#define DNNL_MEMBER(name) __typeof__(dnnl_##name) *name;
    DNNL_FUNCTIONS(DNNL_MEMBER)
    int ready;
    dnnl_engine_t engine;
    dnnl_stream_t stream;
} dnnl;

static void dnnl_need(dnnl_status_t status, const char *what)
{
    if (status != dnnl_success) fail("oneDNN: %s fails with status %d", what, (int)status);
}

static int dnnl_open(void)
{
    void *library = dnnl.ready ? NULL : dlopen("libdnnl.so.2", RTLD_NOW | RTLD_LOCAL);
    if (!library) return dnnl.ready;
#define DNNL_LOAD(name)                                                                                            \
    find_symbol(library, "dnnl_" #name, &dnnl.name);                                                               \
    if (!dnnl.name) return 0;
    DNNL_FUNCTIONS(DNNL_LOAD)
    dnnl_need(dnnl.engine_create(&dnnl.engine, dnnl_cpu, 0), "engine_create");
    dnnl_need(dnnl.stream_create(&dnnl.stream, dnnl.engine, dnnl_stream_default_flags), "stream_create");
    dnnl.ready = 1;
    return 1;
}

/* A tensor where the caller has it, and where the primitive wants it. */
typedef struct dnnl_tensor {
    dnnl_memory_desc_t plain, any;
    float *data;
    dnnl_memory_t own;
} dnnl_tensor;

typedef struct dnnl_conv {
    dnnl_primitive_t primitive;
    dnnl_exec_arg_t args[TENSORS];
    dnnl_tensor tensors[TENSORS];
    int result; /* the one that is computed */
} dnnl_conv;

static void dnnl_convert(dnnl_memory_t from, dnnl_memory_t to)
{
    dnnl_exec_arg_t args[2] = {{DNNL_ARG_FROM, NULL}, {DNNL_ARG_TO, NULL}};
    const dnnl_memory_desc_t *a, *b;
    dnnl_primitive_desc_t desc;
    dnnl_primitive_t primitive;
    args[0].memory = from, args[1].memory = to;
    dnnl_need(dnnl.memory_get_memory_desc(from, &a), "memory_get_memory_desc");
    dnnl_need(dnnl.memory_get_memory_desc(to, &b), "memory_get_memory_desc");
    dnnl_need(dnnl.reorder_primitive_desc_create(&desc, a, dnnl.engine, b, dnnl.engine, NULL), "reorder");
    dnnl_need(dnnl.primitive_create(&primitive, desc), "primitive_create");
    dnnl_need(dnnl.primitive_execute(primitive, dnnl.stream, 2, args), "primitive_execute");
    dnnl_need(dnnl.stream_wait(dnnl.stream), "stream_wait");
    dnnl.primitive_destroy(primitive);
    dnnl.primitive_desc_destroy(desc);
}

static void dnnl_conv_run(void *arg)
{
    const dnnl_conv *c = (const dnnl_conv *)arg;
    dnnl_need(dnnl.primitive_execute(c->primitive, dnnl.stream, TENSORS, c->args), "primitive_execute");
    dnnl_need(dnnl.stream_wait(dnnl.stream), "stream_wait");
}

static void dnnl_tensor_copy(const dnnl_tensor *t, int to_plain)
{
    dnnl_memory_t plain;
    dnnl_need(dnnl.memory_create(&plain, &t->plain, dnnl.engine, t->data), "memory_create");
    dnnl_convert(to_plain ? t->own : plain, to_plain ? plain : t->own);
    dnnl.memory_destroy(plain);
}

/* data: the plain tensors, of which the result is overwritten by dnnl_conv_result. */
static void dnnl_conv_open(dnnl_conv *c, const conv_case *which, int pass, float *const data[TENSORS])
{
    static const int first_args[] = {DNNL_ARG_SRC, DNNL_ARG_DIFF_SRC, DNNL_ARG_SRC};
    static const int weight_args[] = {DNNL_ARG_WEIGHTS, DNNL_ARG_WEIGHTS, DNNL_ARG_DIFF_WEIGHTS};
    static const int last_args[] = {DNNL_ARG_DST, DNNL_ARG_DIFF_DST, DNNL_ARG_DIFF_DST};
    static const int results[] = {TENSOR_Y, TENSOR_X, TENSOR_W};
    const int out = conv_out(which), grouped = which->depthwise;
    const dnnl_dims_t x = {CONV_BATCH, which->channels, which->size, which->size};
    const dnnl_dims_t y = {CONV_BATCH, which->outputs, out, out};
    const dnnl_dims_t dense = {which->outputs, which->channels, which->kernel, which->kernel};
    const dnnl_dims_t groups = {which->channels, 1, 1, which->kernel, which->kernel};
    const dnnl_dims_t strides = {which->stride, which->stride}, pads = {which->kernel / 2, which->kernel / 2};
    const dnnl_alg_kind_t kind = dnnl_convolution_auto; /* direct or Winograd, as it likes */
    dnnl_tensor *t = c->tensors;
    dnnl_convolution_desc_t desc;
    dnnl_primitive_desc_t primitive, hint = NULL;
    int i;
    for (i = 0; i < 2 * TENSORS; ++i) {
        dnnl_memory_desc_t *md = i % 2 ? &t[i / 2].any : &t[i / 2].plain;
        const int weights = i / 2 == TENSOR_W, rank = weights && grouped ? 5 : 4;
        const dnnl_format_tag_t tag = i % 2 ? dnnl_format_tag_any : rank == 5 ? dnnl_goihw : dnnl_nchw;
        dnnl_need(dnnl.memory_desc_init_by_tag(md, rank,
                                               weights             ? grouped ? groups : dense
                                               : i / 2 == TENSOR_X ? x
                                                                   : y,
                                               dnnl_f32, tag),
                  "memory_desc_init_by_tag");
    }
    dnnl_need(dnnl.convolution_forward_desc_init(&desc, dnnl_forward_training, kind, &t[TENSOR_X].any,
                                                 &t[TENSOR_W].any, NULL, &t[TENSOR_Y].any, strides, pads, pads),
              "convolution_forward_desc_init");
    dnnl_need(dnnl.primitive_desc_create(&primitive, &desc, NULL, dnnl.engine, NULL), "primitive_desc_create");
    if (pass != CONV_FORWARD) {
        hint = primitive;
        if (pass == CONV_INPUT_GRADIENT)
            dnnl_need(dnnl.convolution_backward_data_desc_init(&desc, kind, &t[TENSOR_X].any, &t[TENSOR_W].any,
                                                               &t[TENSOR_Y].any, strides, pads, pads),
                      "convolution_backward_data_desc_init");
        else
            dnnl_need(dnnl.convolution_backward_weights_desc_init(&desc, kind, &t[TENSOR_X].any, &t[TENSOR_W].any,
                                                                  NULL, &t[TENSOR_Y].any, strides, pads, pads),
                      "convolution_backward_weights_desc_init");
        dnnl_need(dnnl.primitive_desc_create(&primitive, &desc, NULL, dnnl.engine, hint), "primitive_desc_create");
    }
    c->result = results[pass];
    c->args[TENSOR_X].arg = first_args[pass];
    c->args[TENSOR_W].arg = weight_args[pass];
    c->args[TENSOR_Y].arg = last_args[pass];
    for (i = 0; i < TENSORS; ++i) {
        const dnnl_memory_desc_t *md =
            dnnl.primitive_desc_query_md(primitive, dnnl_query_exec_arg_md, c->args[i].arg);
        t[i].data = data[i];
        dnnl_need(dnnl.memory_create(&t[i].own, md, dnnl.engine, DNNL_MEMORY_ALLOCATE), "memory_create");
        c->args[i].memory = t[i].own;
        if (i != c->result) dnnl_tensor_copy(&t[i], 0);
    }
    dnnl_need(dnnl.primitive_create(&c->primitive, primitive), "primitive_create");
    dnnl.primitive_desc_destroy(primitive);
    if (hint) dnnl.primitive_desc_destroy(hint);
}

static void dnnl_conv_close(dnnl_conv *c)
{
    int i;
    dnnl.primitive_destroy(c->primitive);
    for (i = 0; i < TENSORS; ++i) dnnl.memory_destroy(c->tensors[i].own);
}

#endif /* HAS_ONEDNN */

/* ---- both ------------------------------------------------------------------------------------------------ */

static const conv_case conv_cases[] = {
    /* channels, size, outputs, kernel, stride, depthwise, quick */
    {1, 28, 32, 3, 1, 0, 1},  {32, 14, 64, 3, 1, 0, 1}, {1, 28, 8, 3, 1, 0, 0},   {8, 14, 16, 3, 1, 0, 1},
    {3, 32, 16, 3, 1, 0, 0},  {16, 32, 16, 3, 1, 0, 1}, {16, 32, 32, 3, 2, 0, 0}, {32, 16, 32, 3, 1, 0, 0},
    {32, 16, 64, 3, 2, 0, 1}, {64, 8, 64, 3, 1, 0, 1},  {16, 32, 32, 1, 2, 0, 0}, {32, 16, 64, 1, 2, 0, 0},
    {32, 16, 64, 1, 1, 0, 1}, {64, 14, 64, 1, 1, 0, 0}, {32, 16, 32, 3, 1, 1, 1}, {64, 14, 64, 3, 1, 1, 0},
};

static void bench_convolution(const conv_case *which)
{
    const size_t out = (size_t)conv_out(which), per_output = which->depthwise ? 1 : (size_t)which->channels;
    const size_t weights = (size_t)which->outputs * per_output * (size_t)(which->kernel * which->kernel);
    const size_t counts[TENSORS] = {(size_t)CONV_BATCH * (size_t)(which->channels * which->size * which->size),
                                    weights, (size_t)CONV_BATCH * (size_t)which->outputs * out * out};
    float *kept[TENSORS], *data[TENSORS];
    char name[80];
    kd_conv mine;
    int i, pass, opened = 0;
    for (pass = 0; pass < CONV_PASSES; ++pass) {
        contestant c[2] = {{"kd", kd_conv_run, NULL, 0}, {"oneDNN", NULL, NULL, 0}};
        bench_case what = {"conv", name, "GFLOP/s", 1e9, options.threads, KD_ISA_AUTO, 1};
        int count = 1;
        snprintf(name, sizeof name, "%dx%dx%d %s %d %dx%d%s %s", which->channels, which->size, which->size,
                 which->depthwise ? "depthwise" : "conv", which->outputs, which->kernel, which->kernel,
                 which->stride > 1 ? "/2" : "", conv_pass_names[pass]);
        if (!wanted("conv", name, which->quick)) continue;
        if (!opened++) {
            kd_conv_open(&mine, which, options.isa);
            for (i = 0; i < TENSORS; ++i) kept[i] = random_floats((uint64_t)i + 2, counts[i]);
            for (i = 0; i < TENSORS; ++i) data[i] = (float *)memory(counts[i] * sizeof(float));
        }
        mine.pass = pass;
        what.isa = kd_ctx_isa(mine.kd);
        c[0].arg = &mine;
        c[0].work = 2.0 * CONV_BATCH * (double)(out * out) * (double)weights;
        need(mine.kd, kd_model_get_tensor(mine.model, "1.weight", kept[TENSOR_W], (int64_t)weights));
        kd_conv_copy(&mine, mine.node->in, 0, kept[TENSOR_X], 1);
        if (pass != CONV_FORWARD) kd_conv_copy(&mine, mine.node->out, 1, kept[TENSOR_Y], 0);
        kd_conv_run(&mine);
#if HAS_ONEDNN
        if (dnnl_open()) {
            dnnl_conv theirs;
            for (i = 0; i < TENSORS; ++i) memcpy(data[i], kept[i], counts[i] * sizeof(float));
            dnnl_conv_open(&theirs, which, pass, data);
            dnnl_conv_run(&theirs);
            dnnl_tensor_copy(&theirs.tensors[theirs.result], 1);
            if (theirs.result == TENSOR_W) {
                const kd__param *p = &mine.model->params[mine.node->param[0]];
                kd__param_copy(mine.kd->k, p, mine.run->weight_grads + p->offset, kept[TENSOR_W], 1);
            } else {
                kd_conv_copy(&mine, theirs.result == TENSOR_X ? mine.node->in : mine.node->out,
                             theirs.result == TENSOR_X, kept[theirs.result], 1);
            }
            compare("oneDNN", name, data[theirs.result], kept[theirs.result], counts[theirs.result], 1e-3);
            c[1].run = dnnl_conv_run;
            c[1].arg = &theirs;
            c[1].work = c[0].work;
            count = 2;
            (void)measure(&what, c, count);
            dnnl_conv_close(&theirs);
            continue;
        }
#endif
        (void)measure(&what, c, count);
    }
    for (i = 0; i < TENSORS && opened; ++i) free(kept[i]), free(data[i]);
    if (opened) kd_conv_close(&mine);
}

static void bench_convolutions(void)
{
    int i;
    puts("\nconv: batch 128; oneDNN in layouts of its own choice, without the time to get there; kd's weight "
         "gradient\n"
         "with summing the chunks' shares, its input gradient with turning the weights");
#if !HAS_ONEDNN
    puts("oneDNN's convolutions are missing: apt-get install libdnnl-dev (version 2)");
#endif
    for (i = 0; i < (int)KD__COUNT(conv_cases); ++i) bench_convolution(&conv_cases[i]);
}

#endif /* KD_BENCH_CONVOLUTIONS_H */
