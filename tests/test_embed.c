/* Texts: ids of tokens, padding, and what training and files make of them. Values and gradients by finite
   differences: test_layers.c. */
#include "disk.h"

#include "golden/sequence.h"
#include "golden/text.h"

static kd_model *create_in(kd_ctx *ctx, const char *spec, uint64_t seed)
{
    kd_model *m;
    if (kd_model_create(ctx, spec, seed, &m) != KD_OK) fail_msg("%s: %s", spec, kd_error(ctx));
    return m;
}

/* ---- against PyTorch ------------------------------------------------------------------------------------- */

static const char golden_line[] =
    "tokens 9: embeddings: embed 12 8, pos_embed: position, blocks: encoder 2 2 mlp=2, "
    "norm: layernorm, meanpool, head: dense 3";

static float golden_value(int k, int64_t i)
{
    return (float)((double)((i * 7919 + (int64_t)k * 104729 + i * i % 31 * 577) % 2001 - 1000) / 1000);
}

static void fill_golden(kd_model *m)
{
    int k;
    int64_t i;
    for (k = 0; k < KD__COUNT(golden_text); ++k) {
        const golden_tensor *t = &golden_text[k];
        const int at = kd__param_find(m, t->name);
        const int64_t count = at < 0 ? 0 : kd__param_count(&m->params[at]);
        float *x = (float *)malloc((size_t)count * sizeof *x);
        if (at < 0) fail_msg("there is no tensor %s", t->name);
        assert_int_equal(m->params[at].rank, t->rank);
        for (i = 0; i < t->rank; ++i) assert_int_equal(m->params[at].shape[i], t->shape[i]);
        for (i = 0; i < count; ++i) x[i] = golden_value(k, i) * t->scale + t->offset;
        assert_ok(m->kd, kd_model_set_tensor(m, t->name, x, count));
        free(x);
    }
}

/* PyTorch's Embedding with a padding_idx and TransformerEncoder with a src_key_padding_mask. */
static void test_like_pytorch(void **state)
{
    kd_isa isa;
    (void)state;
    FOR_EACH_ISA(isa)
    {
        kd_ctx *ctx = test_open(isa, 2);
        kd_model *m = create_in(ctx, golden_line, 1);
        float ids[GOLDEN_TEXTS * GOLDEN_LENGTH], logits[GOLDEN_TEXTS * GOLDEN_CLASSES], *inner;
        kd__run *run;
        int i, k;
        int64_t j, at = 0;
        fill_golden(m);
        for (i = 0; i < GOLDEN_TEXTS * GOLDEN_LENGTH; ++i) ids[i] = (float)golden_text_ids[i];
        assert_ok(ctx, kd_predict_u8(m, golden_text_ids, GOLDEN_TEXTS, logits));
        for (i = 0; i < GOLDEN_TEXTS * GOLDEN_CLASSES; ++i) assert_near(logits[i], golden_text_logits[i], 5e-6);
        assert_ok(ctx, kd__run_open(m, m, GOLDEN_TEXTS, &run));
        kd__run_forward(run, ids, GOLDEN_TEXTS);
        inner = kd__run_logits_grad(run);
        for (i = 0; i < GOLDEN_TEXTS * GOLDEN_CLASSES; ++i) inner[i] = golden_value(101, i);
        kd__run_backward(run);
        for (k = 0; k < KD__COUNT(golden_text); ++k) {
            const kd__param *p = &m->params[kd__param_find(m, golden_text[k].name)];
            const int64_t count = kd__param_count(p);
            float *grad = (float *)malloc((size_t)count * sizeof *grad);
            kd__param_copy(ctx->k, p, run->weight_grads + p->offset, grad, 1);
            for (j = 0; j < count; ++j, ++at) {
                if (fabs((double)grad[j] - golden_text_grads[at]) > 2e-5 * (1 + fabs(golden_text_grads[at])))
                    fail_msg("%s: gradient %lld of %s is %.7g, PyTorch's %.7g", kd_isa_name(isa), (long long)j,
                             p->name, (double)grad[j], golden_text_grads[at]);
            }
            free(grad);
        }
        kd__run_close(run);
        kd_model_destroy(m);
        kd_close(ctx);
    }
}

/* ---- lines ----------------------------------------------------------------------------------------------- */

static void test_lines(void **state)
{
    static const struct {
        const char *line, *text;
    } cases[] = {
        {"tokens: embed 3 4", "a model starts with its input"},
        {"tokens 0: embed 3 4", "column 8: a model starts with its input"},
        {"tokens 8x4: embed 3 4", "a colon must follow the input"},
        {"tokens 8: linear 3", "column 11: the input is ids, which embed has to read first"},
        {"tokens 8: dense 3", "the input is ids, which embed has to read first"},
        {"tokens 8: residual(relu), embed 3 2", "the input is ids, which embed has to read first"},
        {"8: embed 3 4", "embed reads ids: it must be the first layer behind an input such as tokens 96:"},
        {"1x8x1: embed 3 4", "embed reads ids"},
        {"tokens 8: embed 3 4, embed 3 4", "embed reads ids"},
        {"tokens 8: concat(embed 3 4 | )", "the input is ids, which embed has to read first"},
        {"tokens 8: embed 3", "embed needs width"},
        {"tokens 8: embed 16777217 1", "a vocabulary of 16777217, with 1 numbers each, is too large"},
        {"tokens 8: embed 16777216 100", "is too large"},
        {"tokens 8: embed 3 90000000", "too large"},
        {"tokens 8: embed 3 4, token 8", "there is no token 8"},
        {"tokens 8: embd 3 4", "did you mean \"embed\"?"},
    };
    kd_model *m = NULL;
    int i, c, h, w;
    (void)state;
    for (i = 0; i < KD__COUNT(cases); ++i) {
        assert_fails(kd, kd_model_create(kd, cases[i].line, 1, &m), KD_ERR_SPEC, cases[i].text);
        assert_null(m);
    }
    m = create_in(kd, "tokens  8 init=he: embed 6 40, meanpool, dense 3", 1);
    kd_model_input(m, &c, &h, &w);
    assert_true(c == 8 && h == 1 && w == 1);
    assert_string_equal(kd_model_spec(m), "tokens 8 init=he: embed 6 40, meanpool, dense 3");
    assert_string_equal(m->params[0].name, "0.weight");
    assert_true(m->params[0].rank == 2 && m->params[0].shape[0] == 6 && m->params[0].shape[1] == 40);
    for (i = 0; i < 240; ++i) { /* padding starts as zeros, the rest within two deviations */
        const double x = fabs((double)m->weights[m->params[0].offset + (size_t)i]);
        assert_true(i < 40 ? x == 0 : x <= 0.04);
    }
    kd_model_destroy(m);
}

/* ---- padding --------------------------------------------------------------------------------------------- */

enum { SHORT = 37, LONG = 101 };

/* Layers over tokens, whose rows are all that depends on the length. */
static const char padded_line[] =
    "tokens %d: embed 256 24, cls: classtoken, pos: position, encoder 2 3%s, layernorm, meanpool, dense 5";

/* A text has the same logits however many zeros follow it, to the bit, alone and among others, for one thread and
   for three. */
static void test_padding_changes_no_bit(void **state)
{
    static const int lengths[] = {0, 1, 2, 20, SHORT};
    enum { COUNT = KD__COUNT(lengths) };
    kd_isa isa;
    int causal;
    (void)state;
    FOR_EACH_ISA(isa)
    for (causal = 0; causal < 2; ++causal) {
        uint8_t texts[2][COUNT * LONG];
        float logits[3][COUNT * 5], *pos = (float *)calloc((LONG + 1) * 24, sizeof *pos);
        int sizes[2] = {SHORT, LONG}, i, j, size, k;
        for (size = 0; size < 2; ++size) {
            kd_ctx *ctx = test_open(isa, size ? 3 : 1);
            char line[200];
            kd_model *m;
            snprintf(line, sizeof line, padded_line, sizes[size], causal ? " causal=1" : "");
            m = create_in(ctx, line, 3);
            for (k = 0; k < m->param_count; ++k) { /* the same rows of positions */
                const kd__param *p = &m->params[k];
                if (strcmp(p->name, "pos") != 0) continue;
                for (i = 0; i < (int)p->size; ++i) pos[i] = (float)kd__rng_range(5, (uint64_t)i, -1, 1);
                assert_ok(ctx, kd_model_set_tensor(m, "pos", pos, (int64_t)p->size));
            }
            for (k = 0; k < m->param_count; ++k) { /* and the same of all others, whatever number they have */
                const kd__param *p = &m->params[k];
                const int64_t count = kd__param_count(p);
                float *x = (float *)malloc((size_t)count * sizeof *x);
                for (i = 0; i < (int)count; ++i) x[i] = (float)kd__rng_range((uint64_t)k, (uint64_t)i, -0.5, 0.5);
                if (strcmp(p->name, "pos") != 0) assert_ok(ctx, kd_model_set_tensor(m, p->name, x, count));
                free(x);
            }
            memset(texts[size], 0, sizeof texts[size]);
            for (i = 0; i < COUNT; ++i)
                for (j = 0; j < lengths[i]; ++j)
                    texts[size][i * sizes[size] + j] =
                        (uint8_t)(1 + kd__rng_index(6, (uint64_t)(i * LONG + j), 255));
            assert_ok(ctx, kd_predict_u8(m, texts[size], COUNT, logits[size]));
            for (i = 0; i < COUNT; ++i) {
                assert_ok(ctx, kd_predict_u8(m, texts[size] + i * sizes[size], 1, logits[2] + i * 5));
                for (j = 0; j < 5; ++j) assert_true(kd__is_finite((double)logits[2][i * 5 + j]));
            }
            assert_memory_equal(logits[size], logits[2], sizeof logits[2]);
            kd_model_destroy(m);
            kd_close(ctx);
        }
        assert_memory_equal(logits[0], logits[1], sizeof logits[0]);
        free(pos);
    }
}

/* What stands at padded places, or flows back from there, moves nothing: not even what a sum makes of zeros. */
static void test_padding_learns_nothing(void **state)
{
    kd_model *m = create_in(kd, "tokens 8: embed 9 6, pos: position, encoder 1 2, meanpool, dense 2", 1);
    float ids[3 * 8] = {3, 4, 3, 0, 0, 0, 0, 0, /* an empty text */ 0, 0, 0, 0, 0, 0, 0, 0, 7, 0, 5, 0, 0, 0, 0, 0},
                  *grad;
    const kd__param *table, *pos;
    kd__run *run;
    int i, j;
    (void)state;
    assert_ok(kd, kd__run_open(m, m, 3, &run));
    kd__run_forward(run, ids, 3);
    for (i = 0; i < 6; ++i) kd__run_logits_grad(run)[i] = 1.0f + (float)i;
    kd__run_backward(run);
    table = &m->params[0], pos = &m->params[kd__param_find(m, "pos")];
    grad = run->weight_grads + table->offset;
    for (i = 0; i < 9; ++i) {
        double size = 0;
        for (j = 0; j < 6; ++j) size += fabs((double)grad[i * 6 + j]);
        assert_true((size > 0) == (i == 3 || i == 4 || i == 5 || i == 7));
    }
    grad = run->weight_grads + pos->offset;
    for (i = 0; i < 8; ++i) {
        double size = 0;
        for (j = 0; j < 6; ++j) size += fabs((double)grad[i * 6 + j]);
        assert_true((size > 0) == (i < 3));
    }
    kd__run_close(run);
    kd_model_destroy(m);
}

/* Which tokens are padding is known behind whatever keeps them in place. */
static void test_who_passes_padding_on(void **state)
{
    static const struct {
        const char *layers;
        int stride, lead;
    } cases[] = {
        {"linear 4", 1, 0},
        {"linear 4, gelu, dropout 0.1, layernorm, position, attention 1", 1, 0},
        {"residual(layernorm, attention 2)", 1, 0},
        {"classtoken", 1, 1},
        {"classtoken, disttoken, encoder 1 2", 1, 2},
        {"prompttokens 3, linear 4", 1, 3},
        {"classtoken, sidetokens 2 5, linear 4, prompttokens 2, meanpool", 1, 3},
        {"conv 4 2x1 pad=1x0", 0, 0}, /* a token more, which is not learned */
        {"conv 4 3x1 pad=1x0", 1, 0},
        {"conv 4 3x1 pad=1x0 stride=2x1, depthwise 3x1 pad=1x0, maxpool 2x1", 4, 0},
        {"avgpool 2x1, classtoken", 2, 1},
        {"concat(linear 3 | attention 2)", 1, 0},
        {"concat(conv 4 3x1 pad=1x0 | conv 3 5x1 pad=2x0), maxpool 2x1", 2, 0},
        {"conv 4 3x1", 0, 0},              /* a token for other windows */
        {"classtoken, maxpool 2x1", 0, 0}, /* the learned one is part of one */
        {"meanpool", 0, 0},
    };
    int i;
    (void)state;
    for (i = 0; i < KD__COUNT(cases); ++i) {
        char line[200];
        kd_model *m;
        snprintf(line, sizeof line, "tokens 12: embed 5 4, %s", cases[i].layers);
        m = create_in(kd, line, 1);
        if (m->values[m->nodes[m->node_count - 1].in].stride != cases[i].stride && i + 1 < KD__COUNT(cases))
            fail_msg("%s: %d ids a token", line, m->values[m->nodes[m->node_count - 1].in].stride);
        if (i + 1 < KD__COUNT(cases)) /* the last node flattens */
            assert_int_equal(m->values[m->nodes[m->node_count - 1].in].lead, cases[i].lead);
        assert_int_equal(m->values[m->output].stride, 0);
        kd_model_destroy(m);
    }
}

/* ---- data ------------------------------------------------------------------------------------------------ */

enum { TEXTS = 90, LENGTH = 16, CLASSES = 3 };
static const char text_line[] = "tokens 16: embed 128 12, position, encoder 2 2 mlp=2 droppath=0.1, layernorm, "
                                "meanpool, dense 3";

/* Texts whose class is the word among letters; a third of them are short. */
static kd_data make_texts(uint8_t *bytes, int32_t *labels)
{
    static const char *const words[CLASSES] = {"cat", "dog", "emu"};
    int i, j;
    memset(bytes, 0, TEXTS * LENGTH);
    for (i = 0; i < TEXTS; ++i) {
        const int length = i / CLASSES % 3 ? LENGTH : 5;
        labels[i] = i % CLASSES;
        for (j = 0; j < length; ++j)
            bytes[i * LENGTH + j] = (uint8_t)('p' + kd__rng_index(3, (uint64_t)(i * LENGTH + j), 8));
        memcpy(bytes + i * LENGTH + kd__rng_index(4, (uint64_t)i, length - 2), words[labels[i]], 3);
    }
    return kd_data_text(bytes, labels, TEXTS, LENGTH, CLASSES);
}

static kd_train_desc make_desc(void)
{
    kd_train_desc desc = kd_train_defaults();
    desc.epochs = 12;
    desc.batch = 16;
    desc.optimizer = KD_ADAMW;
    desc.weight_decay = 0.05f;
    desc.decay_norms_and_biases = 0;
    desc.lr = 0.01f;
    return desc;
}

static int give_texts(void *user, const int32_t *samples, int n, float *x, int32_t *labels)
{
    const kd_data *texts = (const kd_data *)user;
    int i, j;
    for (i = 0; i < n; ++i) {
        for (j = 0; j < LENGTH; ++j)
            x[i * LENGTH + j] = (float)((const uint8_t *)texts->pixels)[samples[i] * LENGTH + j];
        labels[i] = texts->labels[samples[i]];
    }
    return 0;
}

/* One step with losses on features, of texts with this much room. Returns the loss; *m is the student after it. */
static double step_with_layers(kd_ctx *ctx, int length, int kind, kd_model **m)
{
    static const char *const lines[] = {
        "tokens %d: e: embed 128 12, b: encoder 2 2 mlp=2, layernorm, meanpool, dense 3",
        "tokens %d: e: embed 128 18, b: encoder 3 3 mlp=2, layernorm, meanpool, dense 3"};
    static uint8_t bytes[TEXTS * LENGTH], wide[TEXTS * 2 * LENGTH];
    int32_t labels[TEXTS];
    kd_data data = make_texts(bytes, labels);
    kd_train_desc desc = kd_train_defaults();
    kd_feature_loss layers = kd_feature_loss_defaults((kd_feature_kind)kind);
    kd_model *teacher;
    kd_trainer *t;
    kd_step_info info;
    char line[128];
    int i;
    memset(wide, 0, sizeof wide);
    for (i = 0; i < TEXTS; ++i) memcpy(wide + i * length, bytes + i * LENGTH, LENGTH);
    data = kd_data_text(wide, labels, TEXTS, length, CLASSES);
    snprintf(line, sizeof line, lines[0], length);
    *m = create_in(ctx, line, 4);
    snprintf(line, sizeof line, lines[1], length);
    teacher = create_in(ctx, line, 5);
    layers.student = kind == KD_FEATURE_MINILM ? "b.1.attn.qkv" : kind == KD_FEATURE_HINT ? "b.1" : "e, b.0, b.1";
    layers.teacher = kind == KD_FEATURE_MINILM ? "b.2.attn.qkv" : kind == KD_FEATURE_HINT ? "b.2" : "e, b.1, b.2";
    desc.features = &layers, desc.feature_count = 1;
    desc.teacher = teacher;
    desc.optimizer = KD_SGD, desc.momentum = 0, desc.lr = 0.5f, desc.batch = TEXTS;
    assert_ok(ctx, kd_trainer_open(*m, &data, &desc, &t));
    assert_ok(ctx, kd_trainer_step(t, &info));
    kd_trainer_close(t);
    kd_model_destroy(teacher);
    return info.loss;
}

/* Losses on features see no padding: with twice as much of it they teach the same. */
static void test_layers_without_padding(void **state)
{
    static const int kinds[] = {KD_FEATURE_MINILM, KD_FEATURE_TINYBERT, KD_FEATURE_HINT};
    size_t j;
    int i;
    (void)state;
    for (i = 0; i < KD__COUNT(kinds); ++i) {
        kd_ctx *ctx = test_open(KD_ISA_AUTO, 2);
        kd_model *a, *b;
        const double value = step_with_layers(ctx, LENGTH, kinds[i], &a);
        assert_near(step_with_layers(ctx, 2 * LENGTH, kinds[i], &b), value, 1e-6 * value);
        assert_int_equal(a->weight_count, b->weight_count);
        for (j = 0; j < a->weight_count; ++j) assert_near(a->weights[j], b->weights[j], 2e-6);
        kd_model_destroy(a);
        kd_model_destroy(b);
        kd_close(ctx);
    }
}

/* The same bits for any number of threads, on all instruction sets with fused multiply-adds, and from bytes, ids
   and a stream. */
static void test_same_bits(void **state)
{
    static uint8_t bytes[TEXTS * LENGTH];
    static int32_t ids[TEXTS * LENGTH];
    int32_t labels[TEXTS];
    kd_data data[3];
    const kd_train_desc desc = make_desc();
    uint64_t fused = 0;
    kd_isa isa;
    int i;
    (void)state;
    data[0] = make_texts(bytes, labels);
    for (i = 0; i < TEXTS * LENGTH; ++i) ids[i] = bytes[i];
    data[1] = kd_data_tokens(ids, labels, TEXTS, LENGTH, CLASSES);
    data[2] = kd_data_stream(give_texts, &data[0], TEXTS, LENGTH, 1, 1, CLASSES);
    data[2].type = KD_PIXELS_IDS_I32;
    FOR_EACH_ISA(isa)
    {
        uint64_t hash = 0;
        for (i = 0; i < 3; ++i) {
            kd_ctx *ctx = test_open(isa, i + 1);
            kd_model *m = create_in(ctx, text_line, 4);
            kd_metrics metrics;
            assert_ok(ctx, kd_train(m, &data[i], &desc));
            assert_ok(ctx, kd_evaluate(m, &data[0], &metrics));
            assert_true(metrics.accuracy > 0.95);
            if (i > 0) assert_true(kd_model_hash(m) == hash);
            hash = kd_model_hash(m);
            kd_model_destroy(m);
            kd_close(ctx);
        }
        if (isa != KD_ISA_SCALAR && fused) assert_true(hash == fused);
        if (isa != KD_ISA_SCALAR) fused = hash;
    }
}

/* What cannot be is said, and nothing is changed. */
static void test_data_refused(void **state)
{
    static uint8_t bytes[TEXTS * LENGTH];
    static int32_t ids[TEXTS * LENGTH];
    static float pixels[TEXTS * LENGTH];
    int32_t labels[TEXTS];
    kd_data texts = make_texts(bytes, labels), images = kd_data_f32(pixels, labels, TEXTS, LENGTH, 1, 1, CLASSES),
            tokens = kd_data_tokens(ids, labels, TEXTS, LENGTH, CLASSES);
    kd_model *m = create_in(kd, text_line, 1), *other = create_in(kd, "16: dense 3", 1), *made;
    kd_train_desc desc = make_desc();
    kd_attack_desc attack = kd_attack_defaults(KD_ATTACK_FGSM);
    const float mean = 0.5f, std = 0.5f;
    const uint64_t hash = kd_model_hash(m);
    float logits[CLASSES];
    (void)state;
    assert_fails(kd, kd_train(m, &images, &desc), KD_ERR_DATA, "the model reads ids, which kd_data_text and");
    assert_fails(kd, kd_train(other, &texts, &desc), KD_ERR_DATA, "reads pixels, but the data are ids of tokens");
    ids[35] = 128;
    assert_fails(kd, kd_train(m, &tokens, &desc), KD_ERR_DATA, "id 128 in sample 2, place 3, but ids are 0 to 127");
    ids[35] = -1;
    assert_fails(kd, kd_train(m, &tokens, &desc), KD_ERR_DATA, "id -1 in sample 2");
    ids[35] = 0;
    bytes[0] = 0xc3;
    assert_fails(kd, kd_train(m, &texts, &desc), KD_ERR_DATA, "id 195 in sample 0, place 0");
    bytes[0] = 'a';
    texts.mean[0] = 0.5f;
    assert_fails(kd, kd_train(m, &texts, &desc), KD_ERR_DATA, "ids are not normalised: mean must be 0 and std 1");
    texts.mean[0] = 0;
    desc.augment.shift = 1;
    assert_fails(kd, kd_train(m, &texts, &desc), KD_ERR_ARGUMENT, "make no sense of ids of tokens");
    desc.augment.shift = 0, desc.augment.mixup = 0.2f;
    assert_fails(kd, kd_train(m, &texts, &desc), KD_ERR_ARGUMENT, "such as shift, flip or mixup, make no sense");
    texts.height = LENGTH, texts.channels = 1;
    desc.augment.mixup = 0;
    desc.epochs = 1;
    assert_int_equal(kd_model_hash(m), hash);
    assert_ok(kd, kd_train(m, &texts, &desc)); /* another shape of as many ids */
    assert_int_equal(kd_model_preprocessing(m, NULL, NULL), 0);
    assert_fails(kd, kd_model_set_preprocessing(m, &mean, &std), KD_ERR_ARGUMENT, "ids, which stay as they are");
    assert_fails(kd, kd_attack(m, NULL, pixels, labels, 1, &attack, pixels), KD_ERR_UNSUPPORTED,
                 "ids of tokens have no gradient");
    assert_null(disk_find("f"));
    assert_ok(kd, kd_model_save_onnx(m, "f", NULL));
    assert_ok(kd, kd_model_save_c(m, "g.c", NULL));
    assert_non_null(disk_find("f")), assert_non_null(disk_find("g.c"));
    pixels[3] = 0.5f; /* is no id */
    assert_ok(kd, kd_predict(m, pixels, 1, logits));
    assert_true(logits[0] != logits[0]);
    pixels[3] = 128;
    assert_ok(kd, kd_predict(m, pixels, 1, logits));
    assert_true(logits[0] != logits[0]);
    assert_fails(kd, kd_model_create(kd, "tokens 16: embed 128 12, prompt 3, dense 2, embed 1 1", 1, &made),
                 KD_ERR_SPEC, "embed reads ids");
    kd_model_destroy(m), kd_model_destroy(other);
}

/* Weight decay leaves the vectors of ids alone unless it is for all. */
static void test_decay(void **state)
{
    static uint8_t bytes[TEXTS * LENGTH];
    int32_t labels[TEXTS];
    const kd_data texts = make_texts(bytes, labels);
    kd_train_desc desc = make_desc();
    uint64_t hash[2] = {0, 0};
    int pass, decays;
    (void)state;
    desc.epochs = 1, desc.batch = TEXTS; /* one step: gradients are the same */
    for (pass = 0; pass < 2; ++pass) {
        kd_model *m[2];
        size_t bytes_of_table;
        desc.decay_norms_and_biases = pass;
        for (decays = 0; decays < 2; ++decays) {
            m[decays] = create_in(kd, text_line, 4);
            desc.weight_decay = decays ? 0.5f : 0;
            assert_ok(kd, kd_train(m[decays], &texts, &desc));
        }
        bytes_of_table = m[0]->params[0].size * sizeof(float);
        assert_int_equal(memcmp(m[0]->weights, m[1]->weights, bytes_of_table) == 0, pass == 0);
        hash[pass] = kd_model_hash(m[1]);
        kd_model_destroy(m[0]), kd_model_destroy(m[1]);
    }
    assert_true(hash[0] != hash[1]);
}

/* ---- files ----------------------------------------------------------------------------------------------- */

/* A file brings a model back; training goes on from a checkpoint to the same bits; a teacher of texts teaches a
   student of texts. */
static void test_files(void **state)
{
    static uint8_t bytes[TEXTS * LENGTH];
    int32_t labels[TEXTS];
    const kd_data texts = make_texts(bytes, labels);
    kd_train_desc desc = make_desc();
    kd_model *m = create_in(kd, text_line, 4), *back, *again, *student;
    kd_trainer *t;
    kd_step_info info;
    kd_metrics metrics;
    (void)state;
    assert_ok(kd, kd_train(m, &texts, &desc));
    assert_ok(kd, kd_model_save(m, "m"));
    assert_ok(kd, kd_model_load(kd, "m", &back));
    assert_true(kd_model_hash(back) == kd_model_hash(m));
    assert_string_equal(kd_model_spec(back), text_line);
    kd_model_destroy(back);
    back = create_in(kd, text_line, 1);
    assert_ok(kd, kd_model_load_weights(back, "m"));
    assert_true(kd_model_hash(back) == kd_model_hash(m));
    kd_model_destroy(back);
    again = create_in(kd, text_line, 4);
    assert_ok(kd, kd_trainer_open(again, &texts, &desc, &t));
    while (kd_trainer_position(t).epoch < 5) assert_ok(kd, kd_trainer_step(t, &info));
    assert_ok(kd, kd_trainer_step(t, &info));
    assert_ok(kd, kd_trainer_save(t, "c"));
    kd_trainer_close(t);
    kd_model_destroy(again);
    again = create_in(kd, text_line, 9);
    assert_ok(kd, kd_trainer_open(again, &texts, &desc, &t));
    assert_ok(kd, kd_trainer_load(t, "c"));
    while (!kd_trainer_done(t)) assert_ok(kd, kd_trainer_step(t, &info));
    kd_trainer_close(t);
    assert_true(kd_model_hash(again) == kd_model_hash(m));
    student =
        create_in(kd,
                  "tokens 16: embed 128 8, conv 12 3x1 pad=1x0 stride=2x1, relu, position, encoder 1 2 mlp=1, "
                  "layernorm, meanpool, dense 3",
                  2);
    desc.teacher = m;
    assert_ok(kd, kd_train(student, &texts, &desc));
    assert_ok(kd, kd_evaluate(student, &texts, &metrics));
    assert_true(metrics.accuracy > 0.95);
    kd_model_destroy(m), kd_model_destroy(again), kd_model_destroy(student);
    disk_delete(disk_find("m"));
    disk_delete(disk_find("c"));
}

/* In int8 the layers with rules for it round; vectors of ids and attention stay float. */
static void test_int8(void **state)
{
    static uint8_t bytes[TEXTS * LENGTH];
    int32_t labels[TEXTS];
    const kd_data texts = make_texts(bytes, labels);
    kd_train_desc desc = make_desc();
    kd_model *m = create_in(kd, text_line, 4), *small, *back;
    float logits[2][TEXTS * CLASSES];
    kd_metrics metrics;
    (void)state;
    assert_ok(kd, kd_train(m, &texts, &desc));
    assert_ok(kd, kd_model_quantize(m, &texts, NULL, &small));
    assert_ok(kd, kd_evaluate(small, &texts, &metrics));
    assert_true(metrics.accuracy > 0.9);
    assert_ok(kd, kd_predict_u8(small, bytes, TEXTS, logits[0]));
    assert_ok(kd, kd_model_save(small, "s"));
    assert_ok(kd, kd_model_load(kd, "s", &back));
    assert_ok(kd, kd_predict_u8(back, bytes, TEXTS, logits[1]));
    assert_memory_equal(logits[0], logits[1], sizeof logits[0]);
    kd_model_destroy(m), kd_model_destroy(small), kd_model_destroy(back);
    disk_delete(disk_find("s"));
}

/* Memory that is refused at any point is an error that leaves nothing behind. */
static void test_refused_memory(void **state)
{
    static uint8_t bytes[TEXTS * LENGTH];
    int32_t labels[TEXTS];
    const kd_data texts = make_texts(bytes, labels);
    kd_train_desc desc = make_desc();
    kd_result result = KD_ERR_MEMORY;
    int at;
    (void)state;
    desc.epochs = 1;
    for (at = 1; result == KD_ERR_MEMORY && at < 1000; ++at) {
        kd_model *m = NULL;
        memory.refuse_at = at;
        result = kd_model_create(kd, "tokens 16: embed 128 4, classtoken, attention 2, meanpool, dense 3", 1, &m);
        if (result == KD_OK) result = kd_train(m, &texts, &desc);
        kd_model_destroy(m);
    }
    memory.refuse_at = 0;
    assert_int_equal(result, KD_OK);
    assert_true(at > 50);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, open_context, close_context)
    const struct CMUnitTest tests[] = {
        TEST(test_like_pytorch),
        TEST(test_lines),
        TEST(test_padding_changes_no_bit),
        TEST(test_padding_learns_nothing),
        TEST(test_who_passes_padding_on),
        TEST(test_layers_without_padding),
        TEST(test_same_bits),
        TEST(test_data_refused),
        TEST(test_decay),
        TEST(test_files),
        TEST(test_int8),
        TEST(test_refused_memory),
    };
    const int failed = cmocka_run_group_tests_name("embed", tests, NULL, NULL);
    test_print_skips("embed");
    return failed;
}
