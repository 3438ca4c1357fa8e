/* ONNX: what is written, what is read, what is refused. */
#include "disk.h"

#include "golden/exported.h"

static kd_model *create(const char *spec, uint64_t seed)
{
    kd_model *m;
    if (kd_model_create(kd, spec, seed, &m) != KD_OK) fail_msg("%s: %s", spec, kd_error(kd));
    return m;
}

/* ---- writing --------------------------------------------------------------------------------------------- */

static void test_writing_refused(void **state)
{
    kd_model *m = create("12: dense 2", 1);
    kd_onnx_desc desc = kd_onnx_defaults();
    const float mean[1] = {0.5f};
    (void)state;
    assert_int_equal(kd_model_save_onnx(NULL, "m", NULL), KD_ERR_ARGUMENT);
    assert_fails(kd, kd_model_save_onnx(m, NULL, NULL), KD_ERR_ARGUMENT, "must not be NULL");
    memset(&desc, 0, sizeof desc);
    assert_fails(kd, kd_model_save_onnx(m, "m", &desc), KD_ERR_DEFAULTS, "kd_onnx_defaults()");
    desc = kd_onnx_defaults();
    desc.softmax = 2;
    assert_fails(kd, kd_model_save_onnx(m, "m", &desc), KD_ERR_ARGUMENT, "softmax 0 or 1, got 0 and 2");
    desc.softmax = 0, desc.input = (kd_onnx_input)3;
    assert_fails(kd, kd_model_save_onnx(m, "m", &desc), KD_ERR_ARGUMENT, "got 3 and 0");
    desc.input = KD_ONNX_U8_HWC;
    assert_ok(kd, kd_model_save_onnx(m, "m", &desc));
    assert_ok(kd, kd_model_set_preprocessing(m, mean, mean));
    assert_ok(kd, kd_model_save_onnx(m, "m", &desc));
    m->preprocessing_channels = 3; /* as after training on images of three channels */
    m->std[1] = m->std[2] = 1;
    assert_fails(kd, kd_model_save_onnx(m, "m", &desc), KD_ERR_UNSUPPORTED, "a vector of 12 numbers in planes");
    m->weights[m->params[1].offset] = NAN; /* as after training that diverged */
    assert_fails(kd, kd_model_save_onnx(m, "n", NULL), KD_ERR_NOT_FINITE, "\"0.bias\" holds a NaN");
    assert_int_equal(disk_count(), 1);
    kd_model_destroy(m);
}

/* A disk that fails anywhere, and memory: the old file stays. */
static void test_writing_fails(void **state)
{
    kd_model *m = create("1x4x4: conv 2 3, batchnorm, gelu, dense 2, softtree 2 2", 1);
    kd_onnx_desc desc = kd_onnx_defaults();
    const float one = 1;
    int i;
    (void)state;
    desc.input = KD_ONNX_U8;
    assert_ok(kd, kd_model_set_preprocessing(m, &one, &one));
    for (i = 1;; ++i) {
        disk_put("m", "old", 3);
        disk.calls = 0, disk.fail_at = i, disk.halfway = i % 2;
        if (kd_model_save_onnx(m, "m", &desc) == KD_OK) break;
        assert_int_equal(disk_find("m")->size, 3);
        assert_int_equal(disk_count(), 1);
        disk.fail_at = 0;
    }
    assert_true(i > 10);
    disk.fail_at = 0;
    for (i = 1;; ++i) {
        memory.refuse_at = i;
        if (kd_model_save_onnx(m, "m", &desc) == KD_OK) break;
        assert_int_equal(disk_count(), 1);
    }
    assert_true(i > 5);
    memory.refuse_at = 0;
    kd_model_destroy(m);
}

/* int8 models are written as integers with their scales, models on the way there are not. */
static void test_int8(void **state)
{
    kd_model *m = create("1x6x6: conv 3 3, relu, maxpool 2, dense 4", 1), *prepared = NULL, *quant = NULL,
             *back = NULL;
    float *x = test_floats(3, 8 * 36, 1);
    const kd_data data = kd_data_f32(x, NULL, 8, 1, 6, 6, 4);
    size_t i, found = 0;
    (void)state;
    assert_ok(kd, kd_model_prepare_int8(m, &data, NULL, &prepared));
    assert_fails(kd, kd_model_save_onnx(prepared, "m", NULL), KD_ERR_UNSUPPORTED,
                 "kd_model_quantize makes it int8");
    assert_ok(kd, kd_model_quantize(m, &data, NULL, &quant));
    assert_ok(kd, kd_model_save_onnx(quant, "m", NULL));
    for (i = 0; i + 14 < disk_find("m")->size; ++i)
        found += memcmp(disk_find("m")->bytes + i, "QuantizeLinear", 14) == 0;
    assert_int_equal(found, 4); /* of the input, after relu, after pooling, after flatten */
    assert_fails(kd, kd_model_load_onnx(kd, "m", NULL, &back), KD_ERR_UNSUPPORTED, "QuantizeLinear");
    for (i = 1;; ++i) {
        memory.refuse_at = (int)i;
        if (kd_model_save_onnx(quant, "m", NULL) == KD_OK) break;
        assert_int_equal(disk_count(), 1);
    }
    memory.refuse_at = 0;
    assert_true(i > 10);
    kd_model_destroy(quant);
    kd_model_destroy(prepared);
    kd_model_destroy(m);
    free(x);
}

/* ---- reading what was written ---------------------------------------------------------------------------- */

/* Numbers everywhere, so that a mistake shows. */
static void fill(kd_model *m)
{
    uint64_t state = 5;
    int i;
    size_t j;
    for (i = 0; i < m->param_count; ++i) {
        kd__param *p = &m->params[i];
        const int variance = strstr(p->name, "running_var") != NULL;
        for (j = 0; j < p->size; ++j) {
            float *x = kd__param_stored(m, p) + j;
            if (p->layout == KD__VECTOR) *x = variance ? 1.5f + test_random(&state) : *x + test_random(&state);
        }
    }
}

static const char *const lines[] = {
    "3x9x8: conv 4 3x2 stride=2x1 pad=1x0 groups=1, batchnorm eps=1e-3 momentum=0.2, relu, depthwise 3 pad=1 "
    "bias=0, "
    "relu6, maxpool 2, residual(conv 6 3 stride=2 pad=1 bias=0, batchnorm, leakyrelu 0.2, conv 6 1), gelu, dropout "
    "0.25, avgpool 2 stride=1 pad=1, gap, dense 7, silu, dense 3 bias=0",
    "6: batchnorm, dense 4, hardswish, residual(dense 4, tanh, residual(dense 5, batchnorm, sigmoid), dense 6), "
    "dense 3",
    "4x6x6: conv 4 3 groups=2, residual(batchnorm, relu, conv 4 3 pad=1 bias=0), conv 4 1 groups=4, flatten, dense "
    "9, "
    "prompt 3, relu, dense 5, softtree 2 3",
    "2x3x3: flatten",
    "5: dropout 0.5",
    "3x8x8: patch_embed.proj: patch 4 12, classtoken, disttoken, position, encoder 2 3, layernorm, head: disthead "
    "3",
    "2x6x6: tokens, attention 2 causal=1, concat( | linear 3 | gelutanh), residual(layernorm, linear 7, silu), "
    "maxpool "
    "2x1, layernorm, meanpool, dense 3",
    "3x8x8: conv 4 3 pad=1, relu, concat( | conv 5 1, relu | maxpool 3 stride=1 pad=1, conv 2 1), concat(gap, "
    "flatten | "
    "maxpool 4, flatten), dense 3",
    "tokens 13: embed 256 8, conv 12 5x1 stride=2x1 pad=2x0, batchnorm, relu, position, classtoken, encoder 2 2 "
    "causal=1, concat(meanpool | token 0), dense 3",
};

/* Every kind of file comes back as the same model, on other instruction sets, too. */
static void test_round_trip(void **state)
{
    static const char *const names[] = {"one", "zwei \xc3\xbc", "\"three\""};
    size_t i, kind;
    (void)state;
    for (i = 0; i < KD__COUNT(lines); ++i) {
        kd_model *m = create(lines[i], 3), *back = NULL;
        float mean[KD_MAX_CHANNELS] = {0.25f, -1e-9f, 7, 1}, std[KD_MAX_CHANNELS] = {0.5f, 1 / 3.0f, 1e9f, 2};
        fill(m);
        if (kd_model_outputs(m) == 3) assert_ok(kd, kd_model_set_classes(m, names, 3));
        if (i % 2 == 0 && !m->ids) assert_ok(kd, kd_model_set_preprocessing(m, mean, std));
        if (i % 2 == 0) assert_ok(kd, kd_model_set_framing(m, "crop=256"));
        if (m->ids) memset(m->weights + m->params[m->nodes[0].param[0]].offset, 0, 8 * sizeof(float)); /* of id 0 */
        for (kind = 0; kind < 6; ++kind) {
            kd_onnx_desc desc = kd_onnx_defaults();
            desc.input = (kd_onnx_input)(kind % 3), desc.softmax = (int)kind / 3;
            assert_ok(kd, kd_model_save_onnx(m, "m", &desc));
            assert_ok(kd, kd_model_load_onnx(kd, "m", NULL, &back));
            assert_string_equal(kd_model_spec(back), kd_model_spec(m));
            assert_true(kd_model_hash(back) == kd_model_hash(m));
            assert_int_equal(kd_model_preprocessing(back, mean, std), kd_model_preprocessing(m, NULL, NULL));
            assert_memory_equal(mean, m->mean, (size_t)m->preprocessing_channels * sizeof *mean);
            assert_memory_equal(std, m->std, (size_t)m->preprocessing_channels * sizeof *std);
            if (kd_model_outputs(m) == 3) assert_string_equal(kd_model_class(back, 1), names[1]);
            assert_string_equal(kd_model_framing(back), kd_model_framing(m));
            kd_model_destroy(back);
        }
        kd_model_destroy(m);
    }
}

/* The file without its model line: what the graph alone says. */
static void forget_line(const char *name)
{
    disk_file *f = disk_find(name);
    size_t i;
    for (i = 0; i + 7 < f->size; ++i) {
        if (memcmp(f->bytes + i, "kd.spec", 7) == 0) f->bytes[i + 6] = 'k';
    }
}

static void assert_same_logits(const kd_model *a, const kd_model *b)
{
    float *x = test_floats(8, 2 * (size_t)kd__shape_count(&a->values[a->input].shape), 2), y[2][64];
    assert_ok(kd, kd_predict(a, x, 2, y[0]));
    assert_ok(kd, kd_predict(b, x, 2, y[1]));
    assert_memory_equal(y[0], y[1], 2 * (size_t)kd_model_outputs(a) * sizeof(float));
    free(x);
}

static void test_by_graph(void **state)
{
    static const char *const read[] = {
        "3x9x8: conv 4 3x2 stride=2x1 pad=1x0, batchnorm eps=0.001 momentum=0.2, relu, depthwise 3 pad=1 bias=0, "
        "relu6, "
        "maxpool 2, residual(conv 6 3 stride=2 pad=1 bias=0, batchnorm, leakyrelu slope=0.2, conv 6 1), gelu, "
        "avgpool 2 "
        "stride=1 pad=1, gap, flatten, dense 7, silu, dense 3 bias=0",
        "6: batchnorm, dense 4, hardswish, residual(dense 4, tanh, residual(dense 5, batchnorm, sigmoid), dense "
        "6), dense 3",
    };
    size_t i;
    (void)state;
    for (i = 0; i < KD__COUNT(read); ++i) {
        kd_model *m = create(lines[i], 3), *back = NULL;
        const float mean[4] = {0.25f, 0.5f, 0.75f, 1}, std[4] = {0.5f, 0.25f, 2, 3};
        float got[2][KD_MAX_CHANNELS];
        kd_onnx_desc desc = kd_onnx_defaults();
        int j;
        fill(m);
        if (i == 0) assert_ok(kd, kd_model_set_preprocessing(m, mean, std));
        for (j = 0; j < 6; ++j) {
            if (i == 1 && j % 3 == 2) continue;
            desc.input = (kd_onnx_input)(j % 3), desc.softmax = j / 3;
            assert_ok(kd, kd_model_save_onnx(m, "m", &desc));
            forget_line("m");
            assert_ok(kd, kd_model_load_onnx(kd, "m", NULL, &back));
            assert_string_equal(kd_model_spec(back), read[i]);
            assert_same_logits(m, back);
            assert_int_equal(kd_model_preprocessing(back, got[0], got[1]), i == 0 ? 3 : j ? j % 3 != 0 : 0);
            if (i == 0) assert_memory_equal(got[0], mean, 3 * sizeof *mean);
            if (i == 0) assert_memory_equal(got[1], std, 3 * sizeof *std);
            kd_model_destroy(back);
        }
        kd_model_destroy(m);
    }
}

/* Layers over tokens, from products, turns and new shapes. */
static void test_sequences_by_graph(void **state)
{
    static const char *const cases[][2] = {
        {"3x8x8: patch 4 12, classtoken, position, encoder 2 3, layernorm, token 1, linear 5",
         "3x8x8: conv 12 4 stride=4, tokens, classtoken, position, residual(layernorm, attention 3), "
         "residual(layernorm, linear 48, gelu, linear 12), residual(layernorm, attention 3), residual(layernorm, "
         "linear 48, gelu, linear 12), layernorm, token 1, dense 5"},
        {"2x6x6: conv 4 3, tokens, encoder 1 2 norm=post act=relu eps=1e-3 mlp=0.5, meanpool, layernorm, dense 3",
         "2x6x6: conv 4 3, tokens, residual(attention 2), layernorm eps=0.001, residual(linear 2, relu, linear 4), "
         "layernorm eps=0.001, meanpool, layernorm, dense 3"},
        {"2x4x4: tokens, dropout 0.1, linear 6 bias=0, attention 2 causal=1, silu, concat( | linear 3), attention "
         "1, "
         "token 15, flatten",
         "2x4x4: tokens, linear 6 bias=0, attention 2 causal=1, silu, concat( | linear 3), attention 1, token 15"},
        {"1x3x3: patch 3 2, classtoken, position, attention 1, token 0",
         "1x3x3: conv 2 3 stride=3, tokens, classtoken, position, attention 1, token 0"},
    };
    size_t i;
    int j;
    (void)state;
    for (i = 0; i < KD__COUNT(cases); ++i) {
        kd_model *m = create(cases[i][0], 3), *back = NULL;
        float *x = test_floats(8, 2 * (size_t)kd__shape_count(&m->values[m->input].shape), 2), y[2][64];
        fill(m);
        assert_ok(kd, kd_model_save_onnx(m, "m", NULL));
        forget_line("m");
        if (kd_model_load_onnx(kd, "m", NULL, &back) != KD_OK) fail_msg("%s: %s", cases[i][0], kd_error(kd));
        assert_string_equal(kd_model_spec(back), cases[i][1]);
        assert_ok(kd, kd_predict(m, x, 2, y[0]));
        assert_ok(kd, kd_predict(back, x, 2, y[1]));
        for (j = 0; j < 2 * kd_model_outputs(m); ++j) assert_near(y[1][j], y[0][j], 1e-6);
        free(x);
        kd_model_destroy(back);
        kd_model_destroy(m);
    }
}

/* ---- files that others write ----------------------------------------------------------------------------- */

static void test_torch(void **state)
{
    size_t i;
    (void)state;
    for (i = 0; i < KD__COUNT(onnx_cases); ++i) {
        const onnx_case *c = &onnx_cases[i];
        kd_model *m = NULL;
        char other[64];
        float y[2 * 3];
        int j, outputs;
        strcpy(other, c->name);
        strcat(other, ".data");
        disk_put(c->name, c->file, c->size);
        if (c->data) disk_put(other, c->data, c->data_size);
        if (kd_model_load_onnx(kd, c->name, NULL, &m) != KD_OK)
            fail_msg("%s, %s: %s", c->name, c->way, kd_error(kd));
        outputs = kd_model_outputs(m);
        if (strcmp(c->name, "views.onnx") == 0) {
            float mean[KD_MAX_CHANNELS], std[KD_MAX_CHANNELS], x[2 * 72];
            assert_int_equal(kd_model_preprocessing(m, mean, std), 2);
            assert_float_equal(mean[0], 0.25f, 0);
            assert_float_equal(mean[1], 0.5f, 0);
            assert_float_equal(std[0], 0.5f, 0);
            assert_float_equal(std[1], 2, 0);
            for (j = 0; j < 2 * 72; ++j) x[j] = (c->x[j] - mean[j / 36 % 2]) / std[j / 36 % 2];
            assert_ok(kd, kd_predict(m, x, 2, y));
            assert_ok(kd, kd_softmax(kd, y, 2, outputs, 1, y));
        } else {
            assert_ok(kd, kd_predict(m, c->x, 2, y));
        }
        for (j = 0; j < 2 * outputs; ++j) {
            if (!(fabsf(y[j] - c->y[j]) <= 2e-6f * (1 + fabsf(c->y[j]))))
                fail_msg("%s, %s: output %d is %g, wanted %g; %s", c->name, c->way, j, (double)y[j],
                         (double)c->y[j], kd_model_spec(m));
        }
        kd_model_destroy(m);
        if (c->data) {
            disk_find(other)->size /= 2;
            assert_fails(kd, kd_model_load_onnx(kd, c->name, NULL, &m), KD_ERR_FORMAT, "and its place in");
            disk_delete(disk_find(other));
            assert_fails(kd, kd_model_load_onnx(kd, c->name, NULL, &m), KD_ERR_IO, "cannot open");
        }
        disk_delete(disk_find(c->name));
    }
}

/* ---- files in the making --------------------------------------------------------------------------------- */

static kd__pb graph, *const g = &graph;

static void start(void)
{
    memset(g, 0, sizeof *g);
    g->kd = kd;
}

/* A node: "Op in,in>out"; attributes follow until end(). */
static size_t begin(const char *text)
{
    char copy[200], *at = copy, *name;
    const size_t node = kd__pb_begin(g, KD__GRAPH_NODE);
    strcpy(copy, text);
    name = strchr(copy, ' ');
    *name++ = 0;
    for (at = name; *at; at = name) {
        const int last = at[strcspn(at, ",>")] == '>' || !at[strcspn(at, ",>")];
        name = at + strcspn(at, ",>");
        if (*name) *name++ = 0;
        kd__pb_text(g, strchr(text, '>') && at > copy + (strchr(text, '>') - text) ? KD__OP_OUTPUT : KD__OP_INPUT,
                    at);
        (void)last;
    }
    kd__pb_text(g, KD__OP_NAME, "the node");
    kd__pb_text(g, KD__OP_TYPE, copy);
    return node;
}

static void op(const char *text) { kd__pb_end(g, begin(text)); }

static void op_int(const char *text, const char *name, int64_t value)
{
    const size_t node = begin(text);
    kd__onnx_int(g, name, value);
    kd__pb_end(g, node);
}

static void op_ints(const char *text, const char *name, int64_t a, int64_t b)
{
    const size_t node = begin(text);
    int64_t v[2];
    v[0] = a, v[1] = b;
    kd__onnx_ints(g, name, v, 2);
    kd__pb_end(g, node);
}

static void pads(const char *text, int64_t each)
{
    const size_t node = begin(text);
    int64_t v[4];
    v[0] = v[1] = v[2] = v[3] = each;
    kd__onnx_ints(g, "pads", v, 4);
    kd__pb_end(g, node);
}

/* A tensor of ones, with a size 0 left out. */
static void tensor(const char *name, int64_t a, int64_t b, int64_t c, int64_t d)
{
    const size_t start_of = kd__pb_begin(g, KD__GRAPH_TENSOR);
    int64_t i, count = 1, sizes[4];
    sizes[0] = a, sizes[1] = b, sizes[2] = c, sizes[3] = d;
    for (i = 0; i < 4; ++i) {
        if (sizes[i]) kd__pb_int(g, KD__TENSOR_DIMS, sizes[i]), count = sizes[i] < 1000 ? count * sizes[i] : 1000;
    }
    kd__pb_int(g, KD__TENSOR_TYPE, KD__ONNX_F32);
    kd__pb_text(g, KD__TENSOR_NAME, name);
    for (i = 0; i < count && count < 1000; ++i) kd__pb_float(g, KD__TENSOR_FLOATS, 1);
    kd__pb_end(g, start_of);
}

static void integers(const char *name, int64_t a, int64_t b)
{
    const size_t start_of = kd__pb_begin(g, KD__GRAPH_TENSOR);
    kd__pb_int(g, KD__TENSOR_DIMS, 2);
    kd__pb_int(g, KD__TENSOR_TYPE, KD__ONNX_INT64);
    kd__pb_text(g, KD__TENSOR_NAME, name);
    kd__pb_int(g, KD__TENSOR_INT64S, a);
    kd__pb_int(g, KD__TENSOR_INT64S, b);
    kd__pb_end(g, start_of);
}

/* Input or output, of up to three sizes after the batch, -1: free. */
static void edge(int field, const char *name, int64_t a, int64_t b, int64_t c)
{
    kd__onnx_writer o;
    int64_t sizes[3];
    sizes[0] = a, sizes[1] = b, sizes[2] = c;
    memset(&o, 0, sizeof o);
    o.kd = kd;
    o.graph = *g;
    kd__onnx_edge(&o, field, name, KD__ONNX_F32, sizes, b ? 3 : 1);
    *g = o.graph;
}

/* The whole file as "m". */
static void finish(int opset)
{
    kd__pb model;
    size_t at;
    memset(&model, 0, sizeof model);
    model.kd = kd;
    kd__pb_int(&model, KD__MODEL_IR, 8);
    at = kd__pb_begin(&model, KD__MODEL_GRAPH);
    kd__pb_put(&model, g->bytes, g->length);
    kd__pb_end(&model, at);
    at = kd__pb_begin(&model, KD__MODEL_OPSET);
    kd__pb_int(&model, 2, opset);
    kd__pb_end(&model, at);
    disk_put("m", model.bytes, model.length);
    kd__free(kd, model.bytes);
    kd__free(kd, g->bytes);
    start();
}

static void refused(const char *text)
{
    kd_model *m = (kd_model *)&graph;
    kd_result result;
    edge(KD__GRAPH_OUTPUT, "y", 3, 0, 0);
    finish(17);
    result = kd_model_load_onnx(kd, "m", NULL, &m);
    if (result == KD_OK || !strstr(kd_error(kd), text))
        fail_msg("wanted \"%s\", got %s: %s", text, kd_result_name(result), result == KD_OK ? "" : kd_error(kd));
    assert_null(m);
    edge(KD__GRAPH_INPUT, "x", 2, 4, 4);
}

static void reads(const char *line)
{
    kd_model *m = NULL;
    edge(KD__GRAPH_OUTPUT, "y", 3, 0, 0);
    finish(17);
    if (kd_model_load_onnx(kd, "m", NULL, &m) != KD_OK) fail_msg("%s: %s", line, kd_error(kd));
    assert_string_equal(kd_model_spec(m), line);
    kd_model_destroy(m);
    edge(KD__GRAPH_INPUT, "x", 2, 4, 4);
}

static void test_nodes_refused(void **state)
{
    (void)state;
    start();
    edge(KD__GRAPH_INPUT, "x", 2, 4, 4);
    op("Relu x>a"), op("Relu a>y"), op("Relu y>a");
    refused("\"a\" is made twice");
    op("Relu b>a"), op("Relu a>b"), op("Relu b>y");
    refused("which is made later: a circle");
    op("Conv x,w>y");
    refused("reads \"w\", which is nowhere");
    tensor("w", 3, 2, 3, 3), op("Conv x,w>z");
    refused("no node makes its output \"y\"");
    tensor("w", 3, -2, 3, 3), op("Conv x,w>y");
    refused("a size of -2 that cannot be");
    tensor("w", (int64_t)1 << 40, (int64_t)1 << 40, 1, 1), op("Conv x,w>y");
    refused("that cannot be");
    tensor("w", 100000, 2, 3, 3), op("Conv x,w>y");
    refused("should hold 1800000 numbers, and does not");
    tensor("w", 3, 3, 3, 3), op("Conv x,w>y");
    refused("\"the node\", Conv: its weight is not for 2 channels");
    tensor("w", 3, 2, 5, 5), op("Conv x,w>y");
    refused("its window does not fit");
    tensor("w", 3, 2, 3, 3), op_ints("Conv x,w>y", "dilations", 2, 2);
    refused("dilations other than 1");
    tensor("w", 3, 2, 3, 3), tensor("b", 2, 0, 0, 0), op("Conv x,w,b>y");
    refused("its bias is no constant with a number");
    tensor("w", 3, 2, 3, 3), op("Conv x,w>a"), op_int("Concat a,a>y", "axis", 2);
    refused("channels can be joined, and the numbers of vectors or tokens: not axis 2");
    tensor("w", 3, 2, 3, 3), op("Conv x,w>a"), op_int("Concat a,x>y", "axis", 1);
    refused("what it joins, 3x2x2 and 2x4x4, does not fit");
    op("Relu x>a"), op("Flatten x>b"), op_int("Concat a,b>y", "axis", 1);
    refused("what it joins, 2x4x4 and 32, does not fit");
    op("Relu x>a"), op("Shape x>s"), op_int("Concat a,s>y", "axis", 1);
    refused("its input 1 is a constant or missing");
    op("Shape x>s"), op_int("Concat s,x>y", "axis", 1);
    refused("what it joins are neither shapes nor branches");
    op("Relu x>a"), op("Tanh a>b"), op("Sigmoid a>c"), op("Add a,b>d"), op_int("Concat c,b,d>y", "axis", 1);
    refused("its output goes to several places, which only a sum or a concat can join again");
    op("Elu x>y");
    refused("\"the node\" is a Elu, which no layer here says; what can be read: Conv Gemm");
    tensor("w", 3, 32, 0, 0), op("Gemm x,w>y");
    refused("a vector and a constant weight");
    tensor("w", 3, 32, 0, 0), op("Flatten x>a"), op_int("Gemm a,w>y", "transA", 1);
    refused("transA=1 is not supported");
    tensor("w", 3, 31, 0, 0), op("Flatten x>a"), op_int("Gemm a,w>y", "transB", 1);
    refused("its weight takes 31 numbers, and 32 come");
    op("Flatten x>a"), op("Softmax a>b"), op("Relu b>y");
    refused("a softmax can be read at the end");
    op_ints("MaxPool x>y", "kernel_shape", 9, 9);
    refused("its window does not fit");
    op("Flatten x>a"), op("Softmax a>,y");
    refused("\"the node\", Softmax: the output is no layer's");
    op_ints("MaxPool x>a,b", "kernel_shape", 2, 2), op("Relu b>y");
    refused("its input 0 is a constant or missing");
    tensor("w", 3, 2, 3, 3), pads("Conv x,w>y", 1 << 20);
    refused("its output is too large");
    op_ints("MaxPool x>y", "kernel_shape", 1, -1);
    refused("a kernel of two sizes");
    op("Relu x>a"), op("Sigmoid a>b"), op("Tanh a>c"), op("Mul b,c>y");
    refused("of two branches the sum can be read");
    op("Relu x>a"), op_ints("MaxPool a>b", "kernel_shape", 2, 2), op("Add a,b>y");
    refused("different shapes, 2x4x4 and 2x3x3");
    op("Relu x>a"), op("Tanh x>b"), op("Add a,b>y");
    refused("one of its branches must be the input of the other");
    op("Relu x>a"), op("Tanh a>b"), op("Add a,b>c"), op("Add b,c>y");
    refused("one of its branches must be the input of the other");
    integers("s", 0, 30), op("Reshape x,s>y");
    refused("an image can become a vector");
    op("Shape x>a"), op("Reshape x,a>b"), op("Add a,a>c"), op("Reshape b,c>y");
    refused("it computes with the batch size");
    edge(KD__GRAPH_INPUT, "x2", 2, 4, 4), op("Add x,x2>y");
    refused("it has several inputs, \"x2\" among them");
    op("Identity x>y");
    refused("the output is no layer's");
    op("Erf x>y");
    refused("as a part of gelu");
    op_ints("ReduceMean x>y", "axes", 1, 2);
    refused("a mean over height and width");
    kd__free(kd, g->bytes);
}

static void sizes(const char *name, const int64_t *v, int count)
{
    const size_t start_of = kd__pb_begin(g, KD__GRAPH_TENSOR);
    int i;
    kd__pb_int(g, KD__TENSOR_DIMS, count);
    kd__pb_int(g, KD__TENSOR_TYPE, KD__ONNX_INT64);
    kd__pb_text(g, KD__TENSOR_NAME, name);
    for (i = 0; i < count; ++i) kd__pb_int(g, KD__TENSOR_INT64S, v[i]);
    kd__pb_end(g, start_of);
}

static void transpose(const char *text, const int64_t *order, int count)
{
    const size_t node = begin(text);
    kd__onnx_ints(g, "perm", order, count);
    kd__pb_end(g, node);
}

/* The image (2, 4, 4) as 16 tokens t of 6 numbers, these as 3 x 1 head x 2 numbers, s, whose parts are q, k, v. */
static void attention(int heads)
{
    static const int64_t row[3] = {0, 2, 16}, turn[3] = {0, 2, 1}, apart[5] = {2, 0, 3, 1, 4};
    int64_t five[5] = {0, 16, 3, 1, 2};
    static const char *const parts[3] = {"Gather s,i0>q", "Gather s,i1>k", "Gather s,i2>v"};
    int i;
    five[3] = heads, five[4] = 2 / heads;
    sizes("row", row, 3), op("Reshape x,row>r"), transpose("Transpose r>u", turn, 3);
    tensor("w", 2, 6, 0, 0), op("MatMul u,w>t");
    sizes("five", five, 5), op("Reshape t,five>p"), transpose("Transpose p>s", apart, 5);
    for (i = 0; i < 3; ++i) {
        char name[4] = "i0";
        const size_t start_of = kd__pb_begin(g, KD__GRAPH_TENSOR);
        name[1] = (char)('0' + i);
        kd__pb_int(g, KD__TENSOR_TYPE, KD__ONNX_INT64);
        kd__pb_text(g, KD__TENSOR_NAME, name);
        kd__pb_int(g, KD__TENSOR_INT64S, i);
        kd__pb_end(g, start_of);
        op_int(parts[i], "axis", 0);
    }
}

/* A tensor of these numbers, (rows, columns), or where rows is 0 (columns). */
static void numbers(const char *name, int rows, int columns, const float *x)
{
    const size_t start_of = kd__pb_begin(g, KD__GRAPH_TENSOR);
    int i;
    if (rows) kd__pb_int(g, KD__TENSOR_DIMS, rows);
    kd__pb_int(g, KD__TENSOR_DIMS, columns);
    kd__pb_int(g, KD__TENSOR_TYPE, KD__ONNX_F32);
    kd__pb_text(g, KD__TENSOR_NAME, name);
    for (i = 0; i < KD__MAX(rows, 1) * columns; ++i) kd__pb_float(g, KD__TENSOR_FLOATS, x[i]);
    kd__pb_end(g, start_of);
}

/* The same image as 16 tokens u of 2 numbers, of which three layers make q, k (turned) and v; `from`: what the
   second one reads, `width` of it. */
static void apart(const char *from, int width)
{
    static const int64_t row[3] = {0, 2, 16}, turn[3] = {0, 2, 1}, back[4] = {0, 2, 1, 3}, keys[4] = {0, 2, 3, 1};
    static const float q[4] = {1, 2, 3, 4}, k[4] = {5, 6, 7, 8}, v[4] = {9, 10, 11, 12}, bias[2] = {13, 14};
    int64_t heads[4] = {0, 16, 1, 2};
    sizes("row", row, 3), op("Reshape x,row>r"), transpose("Transpose r>u", turn, 3), op("Relu u>w");
    numbers("wq", 2, 2, q), numbers("wk", 2, width, k), numbers("wv", 2, 2, v), numbers("bv", 0, 2, bias);
    op("MatMul u,wq>q1"), op(from), op("MatMul u,wv>v0"), op("Add v0,bv>v1");
    sizes("split", heads, 4), heads[3] = width, sizes("split_k", heads, 4);
    op("Reshape q1,split>q2"), op("Reshape k1,split_k>k2"), op("Reshape v1,split>v2");
    transpose("Transpose q2>q", back, 4), transpose("Transpose k2>k", keys, 4),
        transpose("Transpose v2>v", back, 4);
}

/* The rest: the softmax is `weights`, the answers go through one layer more, and the mean of that is y. */
static void answers(const char *product)
{
    static const int64_t back[4] = {0, 2, 1, 3}, together[3] = {0, 16, 2};
    const int64_t axis = 1;
    size_t node;
    op(product), transpose("Transpose z>z1", back, 4), sizes("together", together, 3), op("Reshape z1,together>z2");
    tensor("wo", 2, 2, 0, 0), op("MatMul z2,wo>o");
    node = begin("ReduceMean o>y");
    kd__onnx_ints(g, "axes", &axis, 1);
    kd__onnx_int(g, "keepdims", 0);
    kd__pb_end(g, node);
}

/* Queries, keys and values of three layers become those of one. */
static void test_three_layers(void **state)
{
    static const float wanted[12] = {1, 3, 2, 4, 5, 7, 6, 8, 9, 11, 10, 12}, scale = 0.70710678f, zero = 0;
    static float mask[16 * 16];
    float got[12];
    kd_model *m = NULL;
    int i;
    (void)state;
    start();
    edge(KD__GRAPH_INPUT, "x", 2, 4, 4);
    apart("MatMul u,wk>k1", 2), numbers("scale", 0, 1, &scale), op("MatMul q,k>a"), op("Mul a,scale>b");
    op("Softmax b>s"), answers("MatMul s,v>z");
    edge(KD__GRAPH_OUTPUT, "y", 2, 0, 0);
    finish(17);
    assert_ok(kd, kd_model_load_onnx(kd, "m", NULL, &m));
    assert_string_equal(kd_model_spec(m), "2x4x4: tokens, attention 1, meanpool");
    assert_ok(kd, kd_model_get_tensor(m, "1.qkv.weight", got, 12));
    assert_memory_equal(got, wanted, sizeof got); /* (out, in), where MatMul has (in, out) */
    assert_ok(kd, kd_model_get_tensor(m, "1.qkv.bias", got, 6));
    for (i = 0; i < 6; ++i) assert_true(got[i] == (float)(i < 4 ? 0 : 13 + i - 4));
    kd_model_destroy(m);
    edge(KD__GRAPH_INPUT, "x", 2, 4, 4);
    /* a mask that masks nothing, and a softmax that is 0 where it is no number */
    apart("MatMul u,wk>k1", 2), numbers("scale", 0, 1, &scale), op("Mul q,scale>p"), op("MatMul p,k>a");
    numbers("mask", 16, 16, mask), numbers("zero", 0, 1, &zero), op("Add a,mask>b"), op("Softmax b>s");
    op("IsNaN s>none"), op("Where none,zero,s>n"), answers("MatMul n,v>z");
    reads("2x4x4: tokens, attention 1, meanpool");
    for (i = 0; i < 16 * 16; ++i) mask[i] = i % 16 > i / 16 ? -1e30f : 0;
    apart("MatMul u,wk>k1", 2), numbers("scale", 0, 1, &scale), op("Mul q,scale>p"), op("MatMul p,k>a");
    numbers("mask", 16, 16, mask), op("Add a,mask>b"), op("Softmax b>s"), answers("MatMul s,v>z");
    reads("2x4x4: tokens, attention 1 causal=1, meanpool");
    apart("MatMul w,wk>k1", 2), op("MatMul q,k>y"); /* keys of something else */
    refused("or of two linear layers that read the same");
    apart("MatMul u,wk>k1", 1), op("MatMul q,k>y");
    refused("or of two linear layers that read the same");
    apart("Relu u>k1", 2), op("MatMul q,k>y");
    refused("or of two linear layers that read the same");
    apart("MatMul u,wk>k1", 2), numbers("scale", 0, 1, &scale), op("MatMul q,k>a"), op("Mul a,scale>b");
    op("Softmax b>s"), op("Relu v>e"), op("MatMul s,e>y");
    refused("what it multiplies are not a softmax and the values that belong to it");
    apart("MatMul u,wk>k1", 2), numbers("scale", 0, 1, &scale), op("MatMul q,k>a"), op("Mul a,scale>b");
    op("Softmax b>s"), op("IsNaN b>n"), op("Relu n>y");
    refused("its input is no softmax");
    apart("MatMul u,wk>k1", 2), numbers("scale", 0, 1, &scale), op("MatMul q,k>a"), op("Mul a,scale>b");
    op("Softmax b>s"), op("IsNaN s>n"), op("Where n,scale,s>y");
    refused("a softmax can be 0 where it is no number");
    apart("MatMul u,wk>k1", 2), numbers("scale", 0, 1, &scale), op("MatMul q,k>a"), op("Mul a,scale>b");
    op("Softmax b>s"), op("IsNaN s>n"), op("Mul n,scale>y");
    refused("the node");
    kd__free(kd, g->bytes);
}

/* Sequences that are no layers'. */
static void test_sequences_refused(void **state)
{
    static const int64_t keys[4] = {0, 1, 3, 2}, wrong[4] = {0, 1, 1, 2}, flat[2] = {0, 32}, odd[3] = {0, 5, 7},
                         huge[3] = {0, INT64_MIN + 1, -1}, two[3] = {-1, -1, 2};
    (void)state;
    start();
    edge(KD__GRAPH_INPUT, "x", 2, 4, 4);
    attention(1), transpose("Transpose k>kt", wrong, 4), op("MatMul q,kt>y");
    refused("its perm is no order of 4 axes");
    attention(1), op("MatMul q,k>y");
    refused("what it multiplies are not the queries and keys of one layer's tokens");
    attention(1), transpose("Transpose v>kt", keys, 4), op("MatMul q,kt>y");
    refused("what it multiplies are not the queries and keys");
    attention(1), transpose("Transpose k>kt", keys, 4), op("MatMul q,kt>a"), op("Softmax a>y");
    refused("attention whose scores are multiplied by 1 and not by 1 / sqrt(2)");
    attention(2), transpose("Transpose k>kt", keys, 4), op("MatMul q,kt>a"), op("Softmax a>b"), op("MatMul b,k>y");
    refused("what it multiplies are not a softmax and the values that belong to it");
    attention(2), transpose("Transpose k>kt", keys, 4), op("MatMul q,kt>a"), op("Softmax a>b"), op("MatMul b,v>y");
    refused("the output is no layer's");
    attention(2), transpose("Transpose k>kt", keys, 4), op("MatMul q,kt>a"), sizes("f", flat, 2),
        op("Reshape a,f>y");
    refused("its input is turned or split as no layer here reads it");
    attention(1), op("Relu q>y");
    refused("its input is a part of what a layer gives");
    attention(1), op("Add q,k>y");
    refused("what it adds are not the same tokens in the same order");
    attention(1), tensor("w2", 2, 3, 0, 0), op("MatMul q,w2>y");
    refused("tokens, their numbers last, and a constant weight");
    attention(1), tensor("w2", 5, 3, 0, 0), op("MatMul t,w2>y");
    refused("its weight takes 5 numbers, and tokens of 6 come");
    attention(1), sizes("f", odd, 3), op("Reshape t,f>y");
    refused("its shape does not fit its input");
    attention(1), sizes("f", huge, 3), op("Reshape t,f>y");
    refused("its shape does not fit its input");
    attention(1), sizes("f", two, 3), op("Reshape t,f>y");
    refused("its shape does not fit its input");
    attention(1), op_int("Gather s,i2>y", "axis", 1);
    refused("of tokens one can be taken");
    attention(1), tensor("w2", 3, 6, 3, 3), op("Conv t,w2>y");
    refused("its input are tokens, (N, 16, 6), and it reads images or vectors");
    attention(1), op("Relu t>y");
    refused("the output are tokens, and a vector is needed");
    attention(1), tensor("g", 5, 0, 0, 0), op("LayerNormalization t,g>y");
    refused("its input 1 is no constant with 6 numbers");
    attention(1), tensor("g", 2, 0, 0, 0), op("LayerNormalization q,g>y");
    refused("the numbers of tokens, the last axis, can be normalised");
    attention(1), op("Split t>a,b,c,d"), op("Relu a>y");
    refused("numbers of tokens in equal parts can be read");
    attention(1), op_ints("ReduceMean t>y", "axes", 1, 2);
    refused("the mean over axis 1 can be read");
    attention(1), op("Slice t,five,five>y");
    refused("of tokens all or a part of their numbers can be sliced");
    attention(1), op("Sqrt t>y");
    refused("one number, from 0, is needed");
    attention(1), op("Expand t,five>y");
    refused("can be expanded to all samples");
    attention(1), op("Equal t,five>y");
    refused("it can read shapes, nothing else");
    kd__free(kd, g->bytes);
}

/* ---- texts ----------------------------------------------------------------------------------------------- */

static void text_edge(const char *name, int64_t length)
{
    kd__onnx_writer o;
    memset(&o, 0, sizeof o);
    o.kd = kd;
    o.graph = *g;
    kd__onnx_edge(&o, KD__GRAPH_INPUT, name, KD__ONNX_INT64, &length, 1);
    *g = o.graph;
}

/* Whole numbers 0, step, 2 step ... of up to three sizes, each below a limit; a size 0 is left out. */
static void whole(const char *name, int type, int step, int limit, int a, int b, int c)
{
    const size_t start_of = kd__pb_begin(g, KD__GRAPH_TENSOR);
    const int dims[3] = {a, b, c}, count = KD__MAX(a, 1) * KD__MAX(b, 1) * KD__MAX(c, 1);
    int i;
    for (i = 0; i < 3; ++i) {
        if (dims[i]) kd__pb_int(g, KD__TENSOR_DIMS, dims[i]);
    }
    kd__pb_int(g, KD__TENSOR_TYPE, type);
    kd__pb_text(g, KD__TENSOR_NAME, name);
    for (i = 0; i < count; ++i)
        kd__pb_int(g, type == KD__ONNX_INT64 ? KD__TENSOR_INT64S : KD__TENSOR_INT32S, i * step % limit);
    kd__pb_end(g, start_of);
}

static void real(const char *name, float x)
{
    const size_t start_of = kd__pb_begin(g, KD__GRAPH_TENSOR);
    kd__pb_int(g, KD__TENSOR_TYPE, KD__ONNX_F32);
    kd__pb_text(g, KD__TENSOR_NAME, name);
    kd__pb_float(g, KD__TENSOR_FLOATS, x);
    kd__pb_end(g, start_of);
}

/* Six ids of a text, one head of attention, to whose scores `mask` is added, and the first token. */
static const char *text_mask;

static void text_with(const char *mask)
{
    text_edge("ids", 6), text_edge("mask", 6);
    text_mask = mask;
}

static void text_end(void)
{
    static const int64_t turn[3] = {0, 2, 1};
    tensor("table", 9, 2, 0, 0), op("Gather table,ids>e"), op("Relu e>h");
    tensor("wq", 2, 2, 0, 0), tensor("wk", 2, 2, 0, 0), tensor("wv", 2, 2, 0, 0), real("scale", 0.70710678f);
    op("MatMul h,wq>q"), op("MatMul h,wk>k"), op("MatMul h,wv>v"), transpose("Transpose k>kt", turn, 3);
    op("MatMul q,kt>a"), op("Mul a,scale>b"), op(text_mask), op("Softmax c>d"), op("MatMul d,v>f");
    tensor("wo", 2, 2, 0, 0), op("MatMul f,wo>o"), whole("first", KD__ONNX_INT64, 1, 1, 0, 0, 0);
    op_int("Gather o,first>y", "axis", 1);
    text_mask = NULL;
}

static const char text_line[] = "tokens 6: embed 9 2, relu, attention 1, token 0";

static void reads_text(const char *line)
{
    kd_model *m = NULL;
    text_end();
    edge(KD__GRAPH_OUTPUT, "y", 2, 0, 0);
    finish(17);
    if (kd_model_load_onnx(kd, "m", NULL, &m) != KD_OK) fail_msg("%s: %s", line, kd_error(kd));
    assert_string_equal(kd_model_spec(m), line);
    kd_model_destroy(m);
}

static void refused_text(const char *text)
{
    kd_model *m = (kd_model *)&graph;
    kd_result result;
    if (text_mask) text_end();
    edge(KD__GRAPH_OUTPUT, "y", 2, 0, 0);
    finish(17);
    result = kd_model_load_onnx(kd, "m", NULL, &m);
    if (result == KD_OK || !strstr(kd_error(kd), text))
        fail_msg("wanted \"%s\", got %s: %s", text, kd_result_name(result), result == KD_OK ? "" : kd_error(kd));
    assert_null(m);
}

static void test_text_masks(void **state)
{
    static const char *const ways[] = {
        "Cast>bool",         "Equal mask,ones>w",      "Greater mask,zeros>w", "GreaterOrEqual mask,ones>w",
        "Less zeros,mask>w", "LessOrEqual ones,mask>w"};
    int i;
    (void)state;
    start();
    for (i = 0; i < KD__COUNT(ways); ++i) { /* true or false, then a number for each */
        text_with("Add b,g>c");
        whole("zeros", KD__ONNX_INT64, 0, 1, 6, 0, 0), integers("ones2", 1, 1);
        real("zero", 0), real("low", -3e38f), op("Equal zeros,zeros>same"), op_int("Cast same>ones", "to", 7);
        if (i)
            op(ways[i]);
        else
            op_int("Cast mask>w", "to", KD__ONNX_BOOL);
        op("Not w>w1"), op("Not w1>w2"), op("And w2,same>w3"), op("Or w3,w3>w4"), op("Where w4,zero,low>g");
        reads_text(text_line);
    }
    text_with("Add g,b>c"); /* (1 - mask) * -10000 */
    real("one", 1), real("far", -10000), op_int("Cast mask>w", "to", KD__ONNX_F32), op("Sub one,w>w1");
    op("Mul w1,far>g");
    reads_text(text_line);
    text_with("Add b,g>c"); /* gathered by places, as (N, 6, 6) */
    whole("at", KD__ONNX_INT64, 1, 6, 6, 0, 0), whole("none", KD__ONNX_INT64, 0, 1, 1, 0, 0);
    whole("cube", KD__ONNX_INT64, 1, 6, 1, 6, 0), real("zero", 0), real("low", -3e38f), integers("flat", 6, 1);
    whole("axis", KD__ONNX_INT64, 0, 1, 1, 0, 0), op_int("Cast mask>w", "to", KD__ONNX_BOOL);
    op_int("Flatten w>w1", "axis", 2), op("Gather w1,cube>w2"), op("Reshape w2,flat>w3"), integers("back", 1, -1);
    op("Reshape w3,back>w4"), op("Unsqueeze w4,axis>w5");
    sizes("six", (const int64_t[]){1, 6, 6}, 3), op("Expand w5,six>w6"), op("Where w6,zero,low>g");
    reads_text(text_line);
    text_with("Add b,g>c"); /* the same by two places each, which are joined; later tokens are hidden, too */
    real("zero", 0), real("low", -3e38f), real("from", 0), whole("n0", KD__ONNX_INT64, 1, 1, 0, 0, 0);
    op("Shape ids>shape"), whole("n1", KD__ONNX_INT64, 1, 2, 2, 0, 0), whole("long", KD__ONNX_INT64, 1, 9, 1, 9, 0);
    sizes("start", (const int64_t[]){0}, 1), sizes("end", (const int64_t[]){6}, 1),
        sizes("along", (const int64_t[]){1}, 1), sizes("last", (const int64_t[]){-1}, 1);
    op("Slice long,start,end,along,along>keys"), op("Unsqueeze keys,last>keys1");
    op("Mul keys1,start>samples"), op_int("Concat samples,keys1>places", "axis", -1);
    op_int("Cast mask>w", "to", KD__ONNX_BOOL), op("GatherND w,places>w1");
    sizes("column", (const int64_t[]){1, 6, 1}, 3), op("Reshape keys,column>queries"), op("Max keys,keys>keys2");
    op("Unsqueeze keys2,start>keys3"), op("LessOrEqual keys3,queries>w2"), op("And w1,w2>w3");
    op("Where w3,zero,low>g");
    reads_text("tokens 6: embed 9 2, relu, attention 1 causal=1, token 0");
    text_with("Identity b>c"); /* nothing is hidden: that is said */
    kd->desc.log = log_keep;
    kept_count = 0;
    reads_text(text_line);
    kd->desc.log = NULL;
    assert_int_equal(kept_count, 2); /* of the input that is the mask first */
    assert_non_null(strstr(kept_lines[1], "sees what only fills a text up"));
    for (i = 0; i < 4; ++i) { /* hides what it should not, or not what it should */
        text_with("Add b,g>c");
        real("zero", 0), real("low", -3e38f), real("little", -5), op_int("Cast mask>w", "to", KD__ONNX_BOOL);
        whole("bits", KD__ONNX_BOOL, 1, 2, 6, 0, 0), op("Or w,bits>w1"), op("And w,bits>w2");
        op(i == 0   ? "Where w,low,zero>g"
           : i == 1 ? "Where w,zero,little>g"
           : i == 2 ? "Where w1,zero,low>g"
                    : "Where w2,zero,low>g");
        refused_text("neither positions nor a mask that hides what follows a text");
    }
    kd__free(kd, g->bytes);
}

/* Ids, places and segments from tables, (9, 2), (8, 2) and (2, 2): what is added to the ids' is one layer. */
static void test_texts(void **state)
{
    static const float table[4] = {1, 2, 3, 4};
    float got[12];
    kd_model *m = NULL;
    int i, way;
    (void)state;
    for (way = 0; way < 3; ++way) {
        start();
        if (way < 2) text_edge("segment", way ? -1 : 6);
        text_edge("ids", way ? -1 : 6);
        tensor("table", 9, 2, 0, 0), numbers("kinds", 2, 2, table), tensor("places", 8, 2, 0, 0);
        whole("zeros", KD__ONNX_INT64, 0, 1, 1, 9, 0), whole("at", KD__ONNX_INT64, 1, 6, 1, 6, 0);
        op_int("GatherElements zeros,at>none", "axis", 1), op("Gather table,ids>a");
        op(way < 2 ? "Gather kinds,segment>k" : "Gather kinds,none>k"), op("Gather places,at>p");
        op("Add a,k>b"), op("Add p,b>c"), whole("first", KD__ONNX_INT64, 1, 1, 0, 0, 0);
        op_int("Gather c,first>y", "axis", 1);
        edge(KD__GRAPH_OUTPUT, "y", 2, 0, 0);
        finish(17);
        if (way) {
            assert_fails(kd, kd_model_load_onnx(kd, "m", NULL, &m), KD_ERR_SHAPE,
                         "leaves the length of its texts open; say it, such as 128");
            assert_ok(kd, kd_model_load_onnx(kd, "m", "6", &m));
        } else {
            assert_ok(kd, kd_model_load_onnx(kd, "m", NULL, &m));
        }
        assert_string_equal(kd_model_spec(m), "tokens 6: embed 9 2, position, token 0");
        assert_ok(kd, kd_model_get_tensor(m, "1", got, 12));
        for (i = 0; i < 12; ++i) assert_true(got[i] == (float)(2 + i % 2)); /* row 0 of kinds, and 1 */
        kd_model_destroy(m);
    }
}

static void test_texts_refused(void **state)
{
    static const int64_t five = 5, shape[2] = {7, 7}, big[3] = {1 << 20, 1 << 20, 1 << 20};
    static const struct {
        const char *node, *text;
    } cases[] = {
        {"Relu ids>y", "ids of a text can be looked up in a table, nothing else"},
        {"Relu mask>y", "its input 0 is a constant or missing"},
        {"Gather line,ids>y", "ids are looked up in a constant table of two dimensions"},
        {"Gather kinds,mask>y", "the output is no layer's"}, /* which makes it the segments */
        {"Reshape w,shape>y", "its shape does not fit its input"},
        {"Expand w,shape>y", "its shape does not fit its input"},
        {"Expand w,w>y", "its shape does not fit its input"},
        {"Equal w,shape>y", "its shapes do not fit"},
        {"Unsqueeze w,shape>y", "its axes do not fit its input"},
        {"Gather w,five>y", "its index is out of range"},
        {"GatherND w,w>y", "its axis or its shapes do not fit"},
        {"GatherElements w,five6>y", "its index is out of range"},
        {"GatherElements w,shape>y", "its axis or its shapes do not fit"},
        {"Slice w,five6,five6>y", "a run of one axis can be sliced, nothing else"},
        {"Slice w>y", "a run of one axis can be sliced, nothing else"},
        {"Concat w,shape>y", "its shapes do not fit"},
        {"Range five,shape,five>y", "its limits are no whole numbers, or its step is not 1"},
        {"ConstantOfShape w>y", "its input is no shape"},
        {"ConstantOfShape big>y", "it is too large, or has too many dimensions"},
    };
    int i;
    (void)state;
    for (i = 0; i < KD__COUNT(cases); ++i) {
        start();
        text_edge("ids", 6), text_edge("mask", 6);
        tensor("table", 9, 2, 0, 0), tensor("line", 9, 0, 0, 0), tensor("kinds", 2, 2, 0, 0),
            sizes("five", &five, 1);
        sizes("shape", shape, 2), sizes("big", big, 3), whole("five6", KD__ONNX_INT64, 1, 6, 5, 6, 0);
        op_int("Cast mask>w", "to", KD__ONNX_BOOL), op("Gather table,ids>unused"), op(cases[i].node);
        refused_text(cases[i].text);
    }
    start();
    text_edge("ids", 6), text_edge("mask", 6), text_edge("mask2", 6);
    tensor("table", 9, 2, 0, 0), op("Gather table,ids>e"), op("Relu e>y");
    refused_text("it has more than one input that could be the mask");
    text_edge("ids", 6), text_edge("places", 6), tensor("table", 9, 2, 0, 0), tensor("rows", 6, 2, 0, 0);
    op("Gather table,ids>e"), op("Gather rows,places>p"), op("Add e,p>y");
    refused_text("the input \"places\" of \"m\" is looked up in a table of 6 rows");
    text_edge("ids", 6), text_edge("mask", 7), tensor("table", 9, 2, 0, 0), op("Gather table,ids>y");
    refused_text("it has several inputs, \"mask\" among them; one can be read");
    text_edge("ids", 6), tensor("table", 9, 2, 0, 0), op("Gather table,ids>e");
    op_ints("ReduceMean e>y", "axes", 1, 1);
    refused_text("the node");
    {
        const int64_t axis = 1;
        size_t node;
        text_edge("ids", 6), tensor("table", 9, 2, 0, 0), op("Gather table,ids>e"), node = begin("ReduceMean e>y");
        kd__onnx_ints(g, "axes", &axis, 1);
        kd__onnx_int(g, "keepdims", 0);
        kd__pb_end(g, node);
    }
    refused_text("a mean over all tokens of a text has those in it that only fill it up");
    kd__free(kd, g->bytes);
}

static void test_nodes_read(void **state)
{
    (void)state;
    start();
    edge(KD__GRAPH_INPUT, "x", 2, 4, 4);
    tensor("w", 3, 2, 3, 3), op("Conv x,w>y");
    reads("2x4x4: conv 3 3 bias=0");
    tensor("w", 3, 2, 3, 3), tensor("b", 1, 3, 1, 1), op("Conv x,w>a"), op("Add b,a>y");
    reads("2x4x4: conv 3 3");
    tensor("w", 32, 3, 0, 0), tensor("b", 3, 0, 0, 0), op("Flatten x>a"), op("MatMul a,w>c"), op("Add c,b>y");
    reads("2x4x4: flatten, dense 3");
    tensor("w", 3, 32, 0, 0), op("Flatten x>a"), op("Transpose w>v"), op("MatMul a,v>y");
    reads("2x4x4: flatten, dense 3 bias=0");
    integers("s", 0, 32), op("Relu x>a"), op("Reshape a,s>b"), op("Dropout b>c"), op("LogSoftmax c>y");
    reads("2x4x4: relu, flatten");
    op_ints("ReduceMean x>a", "axes", -1, -2), op("Identity a>y");
    reads("2x4x4: gap");
    op("GlobalMaxPool x>y");
    reads("2x4x4: maxpool 4");
    op("Relu x>a"), op("Relu a>b"), op("Elu b>dead"), op("Add b,a>y"); /* what the output does not need */
    reads("2x4x4: relu, residual(relu)");
    tensor("v", 4, 2, 1, 1), tensor("w", 4, 2, 3, 3);
    op_ints("Conv x,v>a", "strides", 2, 2), op("Relu x>b");
    {
        const size_t node = begin("Conv b,w>c");
        const int64_t two[2] = {2, 2}, pads[4] = {1, 1, 1, 1};
        kd__onnx_ints(g, "strides", two, 2);
        kd__onnx_ints(g, "pads", pads, 4);
        kd__pb_end(g, node);
    }
    op("Add a,c>y");
    reads("2x4x4: residual(relu, conv 4 3 stride=2 pad=1 bias=0)");
    op_int("Concat x>y", "axis", 1); /* of one input: nothing, as in DenseNet's first layers */
    refused("its output is its input");
    op("Relu x>a"), op_int("Concat a>b", "axis", 1), op("Tanh b>c"), op_int("Concat a,c>d", "axis", 1);
    op("Sigmoid d>e"), op_int("Concat a,c,e>f", "axis", -3), op("Gelu f>g"), op_int("Concat a,c,e,g>y", "axis", 1);
    reads("2x4x4: relu, concat( | tanh), concat( | sigmoid), concat( | gelu)");
    op("Relu x>a"), op("Tanh a>b"), op_int("Concat a,b>c", "axis", 1), op_int("Concat a,b>d", "axis", 1);
    op("Add c,d>y"); /* twice the same */
    refused("one of its branches must be the input of the other");
    op("Relu x>a"), op("Tanh a>b"), op("Sigmoid b>c"), op("Relu b>d"), op("Tanh x>e");
    op_int("Concat a,c,d,b,e>y", "axis", 1); /* neighbours that have layers in common */
    reads("2x4x4: concat(relu, concat( | tanh, concat(sigmoid | relu | )) | tanh)");
    op("Relu x>a"), op("GlobalAveragePool x>b"), op("Flatten a>c"), op("Flatten b>d");
    op_int("Concat c,d,c>y", "axis", -1);
    refused("goes to several places");
    {
        const size_t node = begin("MaxPool x>y");
        const int64_t three[2] = {3, 3}, two[2] = {2, 2};
        kd__onnx_ints(g, "kernel_shape", three, 2);
        kd__onnx_ints(g, "strides", two, 2);
        kd__onnx_int(g, "ceil_mode", 1);
        kd__pb_end(g, node);
    }
    reads("2x4x4: maxpool 3 stride=2 ceil=1");
    {
        const size_t node = begin("AveragePool x>y");
        const int64_t three[2] = {3, 3}, two[2] = {2, 2};
        kd__onnx_ints(g, "kernel_shape", three, 2);
        kd__onnx_ints(g, "strides", two, 2);
        kd__onnx_int(g, "ceil_mode", 1);
        kd__pb_end(g, node);
    }
    refused("ceil_mode=1 makes its output larger here");
    kd__free(kd, g->bytes);
}

static void test_input(void **state)
{
    kd_model *m = NULL;
    (void)state;
    start();
    edge(KD__GRAPH_INPUT, "x", 2, -1, -1), op("Relu x>y"), edge(KD__GRAPH_OUTPUT, "y", 2, 1, 1);
    finish(17);
    assert_fails(kd, kd_model_load_onnx(kd, "m", NULL, &m), KD_ERR_SHAPE, "leaves the size of its input open");
    assert_ok(kd, kd_model_load_onnx(kd, "m", "2x5x6", &m));
    assert_string_equal(kd_model_spec(m), "2x5x6: relu");
    kd_model_destroy(m);
    assert_fails(kd, kd_model_load_onnx(kd, "m", "5x", &m), KD_ERR_ARGUMENT,
                 "such as 3x224x224 or 784, got \"5x\"");
    assert_fails(kd, kd_model_load_onnx(kd, "m", "5x6", &m), KD_ERR_ARGUMENT, "got \"5x6\"");
    assert_fails(kd, kd_model_load_onnx(kd, NULL, NULL, &m), KD_ERR_ARGUMENT, "must not be NULL");
    assert_fails(kd, kd_model_load_onnx(kd, "m", NULL, NULL), KD_ERR_ARGUMENT, "out must not be NULL");
    assert_int_equal(kd_model_load_onnx(NULL, "m", NULL, &m), KD_ERR_ARGUMENT);
    op("Relu x>y"), edge(KD__GRAPH_INPUT, "x", 2, 4, 4), edge(KD__GRAPH_OUTPUT, "y", 2, 1, 1);
    finish(6);
    assert_fails(kd, kd_model_load_onnx(kd, "m", NULL, &m), KD_ERR_FORMAT, "it is of operator set 6");
    kd__free(kd, g->bytes);
}

/* Data beside the file: only in its folder. */
static void test_external(void **state)
{
    static const char *const places[] = {"../w", "/w", "a/../w", "C:w", "a\\w", "", "a//w", ".."};
    static const unsigned char ones[8] = {0, 0, 0, 0, 0, 0, 128, 63};
    kd_model *m = NULL;
    float w;
    size_t i;
    (void)state;
    for (i = 0; i <= KD__COUNT(places); ++i) {
        size_t t, pair;
        start();
        edge(KD__GRAPH_INPUT, "x", 1, 0, 0);
        t = kd__pb_begin(g, KD__GRAPH_TENSOR);
        kd__pb_int(g, KD__TENSOR_DIMS, 1);
        kd__pb_int(g, KD__TENSOR_DIMS, 1);
        kd__pb_int(g, KD__TENSOR_TYPE, KD__ONNX_F32);
        kd__pb_text(g, KD__TENSOR_NAME, "w");
        pair = kd__pb_begin(g, KD__TENSOR_EXTERNAL);
        kd__pb_text(g, 1, "location"), kd__pb_text(g, 2, i < KD__COUNT(places) ? places[i] : "w.data");
        kd__pb_end(g, pair);
        pair = kd__pb_begin(g, KD__TENSOR_EXTERNAL);
        kd__pb_text(g, 1, "offset"), kd__pb_text(g, 2, "4");
        kd__pb_end(g, pair);
        kd__pb_int(g, KD__TENSOR_LOCATION, 1);
        kd__pb_end(g, t);
        op("MatMul x,w>y"), edge(KD__GRAPH_OUTPUT, "y", 1, 0, 0);
        finish(17);
        if (i < KD__COUNT(places)) {
            assert_fails(kd, kd_model_load_onnx(kd, "m", NULL, &m), KD_ERR_FORMAT, "outside of the folder");
            continue;
        }
        disk_put("w.data", ones, sizeof ones);
        assert_ok(kd, kd_model_load_onnx(kd, "m", NULL, &m));
        assert_ok(kd, kd_model_get_tensor(m, "0.weight", &w, 1));
        assert_float_equal(w, 1, 0);
        kd_model_destroy(m);
        disk_put("w.data", ones, 7);
        assert_fails(kd, kd_model_load_onnx(kd, "m", NULL, &m), KD_ERR_FORMAT, "needs 4 bytes");
    }
}

/* Cut anywhere, or with a byte changed, or with memory that runs out: words, and nothing left behind. */
static void test_damaged(void **state)
{
    kd_model *m = create("2x4x4: conv 2 3 pad=1, batchnorm, residual(conv 2 1), gelu, dense 2", 1);
    unsigned char *bytes;
    size_t size, i;
    int blocks, kind;
    (void)state;
    for (kind = 0; kind < 2; ++kind) {
        kd_model *back;
        assert_ok(kd, kd_model_save_onnx(m, "m", NULL));
        if (kind) forget_line("m");
        size = disk_find("m")->size;
        bytes = (unsigned char *)malloc(size);
        memcpy(bytes, disk_find("m")->bytes, size);
        blocks = memory.blocks;
        for (i = 0; i < size; ++i) {
            const unsigned char old = bytes[i];
            disk_put("m", bytes, i);
            if (kd_model_load_onnx(kd, "m", NULL, &back) != KD_OK) assert_null(back);
            kd_model_destroy(back);
            if (i % 3 == 0) {
                bytes[i] ^= (unsigned char)(1 << i % 8);
                disk_put("m", bytes, size);
                if (kd_model_load_onnx(kd, "m", NULL, &back) != KD_OK) assert_null(back);
                kd_model_destroy(back);
                bytes[i] = old;
            }
            assert_int_equal(memory.blocks, blocks);
        }
        disk_put("m", bytes, size);
        for (i = 1;; ++i) {
            memory.refuse_at = (int)i;
            if (kd_model_load_onnx(kd, "m", NULL, &back) == KD_OK) break;
            assert_null(back);
            assert_int_equal(memory.blocks, blocks);
        }
        memory.refuse_at = 0;
        assert_true(i > 20);
        kd_model_destroy(back);
        free(bytes);
    }
    kd_model_destroy(m);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, open_context, close_context)
    const struct CMUnitTest tests[] = {
        TEST(test_int8),          TEST(test_writing_refused),    TEST(test_writing_fails), TEST(test_round_trip),
        TEST(test_by_graph),      TEST(test_sequences_by_graph), TEST(test_three_layers),  TEST(test_torch),
        TEST(test_nodes_refused), TEST(test_sequences_refused),  TEST(test_text_masks),    TEST(test_texts),
        TEST(test_texts_refused), TEST(test_nodes_read),         TEST(test_input),         TEST(test_external),
        TEST(test_damaged),
    };
    return cmocka_run_group_tests_name("onnx", tests, NULL, NULL);
}
