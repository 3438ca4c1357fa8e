/* test_prune.c - pruning: what goes changes nothing that it should not, the right channels go, and mistakes are
   told */
#include "support.h"

static kd_model *create(kd_ctx *kd, const char *line, uint64_t seed)
{
    kd_model *m;
    assert_ok(kd, kd_model_create(kd, line, seed, &m));
    return m;
}

/* Biases, scales, shifts and statistics away from their initial 0 and 1. */
static void disturb(kd_model *m, uint64_t seed)
{
    uint64_t state = seed;
    int i;
    for (i = 0; i < m->param_count; ++i) {
        kd__param *p = &m->params[i];
        size_t j;
        if (p->rank > 1) continue;
        for (j = 0; j < (size_t)kd__param_count(p); ++j)
            kd__param_stored(m, p)[j] += 0.3f * test_random(&state) + (p->trained ? 0 : 0.35f);
    }
}

/* ---- random models --------------------------------------------------------------------------------------- */

typedef struct line_maker {
    char text[2000];
    size_t length;
    uint64_t state;
    int norms; /* 1: each layer with weights has batch normalisation, but for the last; 0: none has */
} line_maker;

static int pick(line_maker *l, int count)
{
    return (int)((test_random(&l->state) + 1) / 2 * (float)count * 0.999f);
}

static void add(line_maker *l, const char *format, ...) KD__PRINTF(2, 3);
static void add(line_maker *l, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    l->length += (size_t)kd__print_list(l->text + l->length, sizeof l->text - l->length, format, args);
    va_end(args);
}

static void add_norm(line_maker *l)
{
    if (l->norms) add(l, ", batchnorm");
}

static void add_act(line_maker *l)
{
    static const char *const acts[] = {"relu", "relu6", "leakyrelu", "gelu", "silu", "hardswish", "tanh"};
    if (pick(l, 4)) add(l, ", %s", acts[pick(l, KD__COUNT(acts))]); /* all of 0 are 0 */
}

static void add_conv(line_maker *l, int channels)
{
    static const char *const forms[] = {"conv %d 3 pad=1", "conv %d 1", "conv kernel=3x1 channels=%d pad = 1x0",
                                        "conv %d 5 pad=same bias=0"};
    add(l, forms[pick(l, 4)], channels);
    add_norm(l);
    add_act(l);
}

static void add_block(line_maker *l, int *channels, int depth)
{
    const int c = 2 + pick(l, 6);
    switch (pick(l, depth < 2 ? 7 : 4)) {
    case 0:
        add(l, "block%d_%d: ", (int)l->length, depth);
        add_conv(l, c);
        *channels = c;
        break;
    case 1:
        add_conv(l, c);
        *channels = c;
        break;
    case 2:
        add(l, pick(l, 2) ? "depthwise 3 pad=1" : "conv %d 3 groups=%d pad=1", *channels, *channels);
        add_norm(l);
        add_act(l);
        break;
    case 3:
        if (*channels % 2 == 0) {
            add(l, "conv 4 3 pad=1 groups=2");
            *channels = 4;
        } else {
            add(l, "depthwise 1");
        }
        add_norm(l);
        break;
    default: {
        int inside = *channels, count = 1 + pick(l, 3);
        add(l, "residual(");
        while (count--) {
            add_block(l, &inside, depth + 1);
            if (count) add(l, ", ");
        }
        if (pick(l, 2)) {
            add(l, ", conv %d 3 pad=1", *channels);
            add_norm(l);
            inside = *channels;
        }
        add(l, ")");
        *channels = inside;
    }
    }
}

/* Images of 2x6x6, 3 classes. */
static const char *random_line(line_maker *l, uint64_t seed, int norms)
{
    int blocks, channels = 2, i;
    memset(l, 0, sizeof *l);
    l->state = seed << 20;
    l->norms = norms;
    blocks = 1 + pick(l, 5);
    add(l, "2x6x6: ");
    for (i = 0; i < blocks; ++i) {
        add_block(l, &channels, 0);
        add(l, ", ");
        if (pick(l, 5) == 0) add(l, "dropout 0.2, ");
    }
    switch (pick(l, 5)) {
    case 0: add(l, "gap, dense 3"); break;
    case 1: add(l, "maxpool 2, dense 3"); break;
    case 2: add(l, "avgpool 3, dense %d", 5 + pick(l, 5)), add_norm(l), add(l, ", relu, dense 3"); break;
    case 3: add(l, "maxpool 3, softtree 2 3"); break;
    default: add(l, "maxpool 2, prompt 2, dense 6"), add_norm(l), add(l, ", dense 3");
    }
    return l->text;
}

/* ---- channels that do nothing ---------------------------------------------------------------------------- */

/* Makes some channels of every layer that may lose some produce 0; one at least stays. Returns how many. */
static int kill_channels(kd_model *m, kd_prune_criterion criterion, uint64_t seed)
{
    kd_prune_desc d = kd_prune_defaults(criterion);
    kd__pruner p;
    int count = 0, v, c, i, j;
    memset(&p, 0, sizeof p);
    p.kd = m->kd, p.m = m, p.d = &d;
    assert_int_equal(kd__prune_open(&p), KD_OK);
    kd__prune_find(&p);
    for (v = 0; v < m->value_count; ++v) {
        if (p.layer[v] != v || !p.tensors[v]) continue;
        for (c = 0; c < p.channels[v]; ++c) {
            if (p.left[v] < 2 || kd__rng_unit(seed, (uint64_t)(v * 100 + c)) < 0.5) continue;
            --p.left[v];
            ++count;
            for (i = 0; i < m->node_count; ++i) {
                const kd__node *n = &m->nodes[i];
                if (p.layer[n->out] != v || !kd__prune_judges(&p, i)) continue;
                for (j = 0; j < 2; ++j) {
                    const kd__param *q = n->param[j] >= 0 ? &m->params[n->param[j]] : NULL;
                    float *plain;
                    int64_t share, e;
                    if (!q) continue;
                    share = kd__param_count(q) / p.channels[v];
                    plain = (float *)calloc((size_t)kd__param_count(q), sizeof *plain);
                    kd__param_copy(m->kd->k, q, kd__param_stored(m, q), plain, 1);
                    for (e = 0; e < share; ++e) plain[c * share + e] = 0;
                    kd__param_copy(m->kd->k, q, kd__param_stored(m, q), plain, 0);
                    free(plain);
                }
            }
        }
    }
    kd__prune_close(&p);
    return count;
}

static void compare_logits(kd_ctx *kd, const kd_model *a, const kd_model *b, const char *line)
{
    enum { SAMPLES = 5 };
    float *x = test_floats(7, SAMPLES * 72, 2), first[SAMPLES * 3], second[SAMPLES * 3];
    int i;
    assert_ok(kd, kd_predict(a, x, SAMPLES, first));
    assert_ok(kd, kd_predict(b, x, SAMPLES, second));
    for (i = 0; i < SAMPLES * 3; ++i) {
        if (fabs((double)(first[i] - second[i])) > 2e-5 * (1 + fabs((double)first[i])))
            fail_msg("%s became %s: logit %d is %g, not %g", line, kd_model_spec(b), i, (double)second[i],
                     (double)first[i]);
    }
    free(x);
}

/* Names and order of tensors stay, and the size is what was counted. */
static void compare_tensors(const kd_model *a, const kd_model *b)
{
    int i;
    assert_int_equal(a->node_count, b->node_count);
    assert_int_equal(a->param_count, b->param_count);
    for (i = 0; i < a->param_count; ++i) {
        assert_string_equal(a->params[i].name, b->params[i].name);
        assert_int_equal(a->params[i].rank, b->params[i].rank);
    }
}

static void test_dead_channels_change_nothing(void **state)
{
    enum { MODELS = 150 };
    int round, pruned[2] = {0, 0};
    (void)state;
    for (round = 0; round < 2 * MODELS; ++round) {
        static const kd_prune_criterion criteria[2][2] = {{KD_PRUNE_L1, KD_PRUNE_L2},
                                                          {KD_PRUNE_SCALE, KD_PRUNE_SCALE}};
        kd_ctx *kd = test_open(round % 3 ? KD_ISA_AUTO : KD_ISA_SCALAR, 1);
        line_maker maker;
        const int norms = round % 2, before = round / 2;
        const char *line = random_line(&maker, (uint64_t)before + 1, norms);
        kd_prune_desc d = kd_prune_defaults(criteria[norms][before % 2]);
        kd_model *m = create(kd, line, (uint64_t)round), *small;
        disturb(m, (uint64_t)round);
        if (kill_channels(m, d.criterion, (uint64_t)round)) {
            d.threshold = 0;
            assert_ok(kd, kd_model_prune(m, &d, &small));
            compare_tensors(m, small);
            compare_logits(kd, m, small, line);
            pruned[norms] += kd_model_parameters(small) < kd_model_parameters(m);
            kd_model_destroy(small);
        }
        kd_model_destroy(m);
        kd_close(kd);
    }
    assert_true(pruned[0] > MODELS / 2 && pruned[1] > MODELS / 2); /* the test is not empty */
}

/* Any amount gives a model that is what its line says, whose size was counted right, with the kept weights. */
static void test_amounts(void **state)
{
    int round;
    (void)state;
    for (round = 0; round < 120; ++round) {
        kd_ctx *kd = test_open(KD_ISA_AUTO, 1);
        line_maker maker;
        const char *line = random_line(&maker, 1000 + (uint64_t)round / 3, round % 2);
        kd_prune_desc d = kd_prune_defaults(round % 2 ? KD_PRUNE_SCALE : KD_PRUNE_L2);
        kd_model *m = create(kd, line, (uint64_t)round), *small, *again;
        kd_result result;
        disturb(m, (uint64_t)round);
        d.by_layer = round % 4 / 2;
        d.amount = (float)(round % 10) / 10;
        result = kd_model_prune(m, &d, &small);
        if (result != KD_OK) {
            assert_non_null(strstr(kd_error(kd), "channels that may go") ? kd_error(kd)
                                                                         : strstr(kd_error(kd), "needs batch"));
        } else {
            int64_t parameters, macs;
            kd__pruner p;
            int v;
            compare_tensors(m, small);
            again = create(kd, kd_model_spec(small), 1);
            assert_int_equal(kd_model_parameters(again), kd_model_parameters(small));
            memset(&p, 0, sizeof p);
            p.kd = kd, p.m = m, p.d = &d;
            assert_int_equal(kd__prune_open(&p), KD_OK);
            for (v = 0; v < m->value_count; ++v)
                if (p.layer[v] == v) p.left[v] = small->values[v].shape.c;
            for (v = 0; v < m->value_count; ++v) assert_int_equal(p.left[p.layer[v]], small->values[v].shape.c);
            kd__prune_size(&p, &parameters, &macs);
            assert_int_equal(parameters, kd_model_parameters(small));
            assert_int_equal(macs, kd_model_macs(small));
            if (d.amount == 0) assert_true(kd_model_hash(small) == kd_model_hash(m));
            kd__prune_close(&p);
            kd_model_destroy(again);
            kd_model_destroy(small);
        }
        kd_model_destroy(m);
        kd_close(kd);
    }
}

/* ---- which channels go ----------------------------------------------------------------------------------- */

static void set(kd_ctx *kd, kd_model *m, const char *name, const float *values, int count)
{
    assert_ok(kd, kd_model_set_tensor(m, name, values, count));
}

/* The first numbers of a tensor. */
static void expect(kd_ctx *kd, const kd_model *m, const char *name, const float *values, int count)
{
    float got[64];
    const int index = kd__param_find(m, name);
    assert_ok(kd, kd_model_get_tensor(m, name, got, kd__param_count(&m->params[index])));
    assert_memory_equal(got, values, (size_t)count * sizeof *got);
}

/* By hand: conv makes 3 channels, of which the middle one is least by L2 and the first by L1; columns of the dense
   layer are by channel. */
static void test_by_hand(void **state)
{
    static const float conv[] = {1, -2, 1.55f, -1.55f, 4, -5}, bias[] = {7, 8, 9};
    static const float conv_left[] = {1, -2, 4, -5}, bias_left[] = {7, 9},
                       dense_left[] = {1, 2, 3, 4, 9, 10, 11, 12, 13, 14, 15, 16, 21, 22, 23, 24};
    static const char *const names[] = {"one", "two"};
    static const float mean[] = {0.5f, 0.25f}, std[] = {2, 3};
    float got_mean[KD_MAX_CHANNELS], got_std[KD_MAX_CHANNELS], dense[24];
    kd_ctx *kd = test_open(KD_ISA_AUTO, 1);
    kd_model *m = create(kd, "2x2x2 init=pytorch: first: conv 3 1, relu, last: dense 2 bias=0", 1), *small;
    kd_prune_desc d = kd_prune_defaults(KD_PRUNE_L2);
    int i;
    (void)state;
    for (i = 0; i < 24; ++i) dense[i] = (float)(i + 1);
    set(kd, m, "first.weight", conv, 6);
    set(kd, m, "first.bias", bias, 3);
    set(kd, m, "last.weight", dense, 24);
    assert_ok(kd, kd_model_set_classes(m, names, 2));
    assert_ok(kd, kd_model_set_preprocessing(m, mean, std));
    assert_ok(kd, kd_model_set_framing(m, "stretch"));
    d.amount = 0.34f;
    assert_ok(kd, kd_model_prune(m, &d, &small));
    assert_string_equal(kd_model_spec(small), "2x2x2 init=pytorch: first: conv 2 1, relu, last: dense 2 bias=0");
    expect(kd, small, "first.weight", conv_left, 4);
    expect(kd, small, "first.bias", bias_left, 2);
    expect(kd, small, "last.weight", dense_left, 16);
    assert_string_equal(kd_model_class(small, 1), "two");
    assert_int_equal(kd_model_preprocessing(small, got_mean, got_std), 2);
    assert_memory_equal(got_std, std, sizeof std);
    assert_string_equal(kd_model_framing(small), "stretch");
    kd_model_destroy(small);
    d.criterion = KD_PRUNE_L1;
    assert_ok(kd, kd_model_prune(m, &d, &small));
    expect(kd, small, "first.weight", conv + 2, 4);
    expect(kd, small, "first.bias", bias + 1, 2);
    kd_model_destroy(small);
    kd_model_destroy(m);
    kd_close(kd);
}

/* What a residual adds goes with what it is added to, and a projection stays one. */
static void test_residuals(void **state)
{
    kd_ctx *kd = test_open(KD_ISA_AUTO, 1);
    kd_prune_desc d = kd_prune_defaults(KD_PRUNE_SCALE);
    kd_model *m = create(
                 kd,
                 "1x4x4: conv 4 3 pad=1, batchnorm, relu, residual(conv 6 3 pad=1, batchnorm, relu, conv 4 3 "
                 "pad=1, batchnorm), relu, residual(conv 8 3 pad=1, batchnorm), gap, dense 2",
                 1),
             *small;
    float scale[8] = {0.1f, 5, 5, 5, 5, 5, 5, 5};
    (void)state;
    /* of the stream 0.1 and 0.1, 0.3 and 5: the first channel is the one to go, since the mean counts */
    set(kd, m, "1.weight", scale, 4);
    scale[1] = 0.3f;
    set(kd, m, "3.body.4.weight", scale, 4);
    d.threshold = 0.2f;
    assert_ok(kd, kd_model_prune(m, &d, &small));
    assert_string_equal(
        kd_model_spec(small),
        "1x4x4: conv 3 3 pad=1, batchnorm, relu, residual(conv 6 3 pad=1, batchnorm, relu, conv 3 3 "
        "pad=1, batchnorm), relu, residual(conv 8 3 pad=1, batchnorm), gap, dense 2");
    kd_model_destroy(small);
    /* 4 channels in and, of 8, the last 4 out: one more stays */
    {
        const float half[] = {0, 0, 0, 0, 1, 1, 1, 1}, all[] = {0.01f, 0.02f, 0.04f, 0.03f, 1, 1, 1, 1},
                    ones[] = {1, 1, 1, 1};
        set(kd, m, "1.weight", ones, 4);
        set(kd, m, "3.body.4.weight", ones, 4);
        set(kd, m, "5.body.1.weight", half, 8);
        set(kd, m, "5.shortcut.1.weight", half, 8);
        d.threshold = 0;
        assert_ok(kd, kd_model_prune(m, &d, &small));
        assert_non_null(strstr(kd_model_spec(small), "residual(conv 5 3 pad=1, batchnorm), gap"));
        kd_model_destroy(small);
        set(kd, m, "5.body.1.weight", all, 8);
        d.threshold = 0.1f;
        assert_ok(kd, kd_model_prune(m, &d, &small));
        expect(kd, small, "5.body.1.weight", all + 2, 1); /* the one that mattered most of those that went */
        kd_model_destroy(small);
    }
    kd_model_destroy(m);
    kd_close(kd);
}

/* Where the other side is the one that lost a channel, it gets it back. */
static void test_projection_restores_either_side(void **state)
{
    kd_ctx *kd = test_open(KD_ISA_AUTO, 1);
    kd_prune_desc d = kd_prune_defaults(KD_PRUNE_L1);
    kd_model *m = create(kd, "1x4x4: conv 5 1, relu, residual(conv 4 1), flatten, dense 2", 1), *small;
    static const float first[] = {0, 1, 1, 1, 1};
    (void)state;
    set(kd, m, "0.weight", first, 5);
    d.threshold = 0;
    assert_ok(kd, kd_model_prune(m, &d, &small));
    assert_string_equal(kd_model_spec(small), kd_model_spec(m));
    kd_model_destroy(small);
    kd_model_destroy(m);
    kd_close(kd);
}

/* What a concat puts side by side stays, and so do the layers that read it; the others go. */
static void test_concats(void **state)
{
    kd_ctx *kd = test_open(KD_ISA_AUTO, 1);
    kd_prune_desc d = kd_prune_defaults(KD_PRUNE_L2);
    kd_model *m =
                 create(kd,
                        "1x8x8: conv 4 3 pad=1, relu, conv 4 3, a: concat( | batchnorm, relu, conv 8 1, batchnorm, "
                        "relu, conv 2 3 pad=1|conv 6 1, relu,conv 3 1), conv 8 1, gap, dense 3",
                        1),
             *small;
    (void)state;
    assert_ok(kd, kd_model_prune(m, &d, &small));
    assert_string_equal(kd_model_spec(small),
                        "1x8x8: conv 2 3 pad=1, relu, conv 4 3, a: concat( | batchnorm, relu, conv 4 1, batchnorm, "
                        "relu, conv 2 3 pad=1|conv 3 1, relu,conv 3 1), conv 4 1, gap, dense 3");
    kd_model_destroy(small);
    kd_model_destroy(m);
    m = create(kd, "1x8x8: concat(conv 4 1 | conv 6 1), flatten", 1);
    assert_fails(kd, kd_model_prune(m, &d, &small), KD_ERR_ARGUMENT, "no layer has channels that may go");
    kd_model_destroy(m);
    kd_close(kd);
}

/* Words that stand for several layers stay, and those behind them are still met. */
static void test_words_of_several_layers(void **state)
{
    kd_ctx *kd = test_open(KD_ISA_AUTO, 1);
    kd_prune_desc d = kd_prune_defaults(KD_PRUNE_L2);
    kd_model *m = create(kd, "1x8x8: patch 4 8, blocks: encoder 1 2 mlp=2, meanpool, dense 8, relu, dense 3", 1),
             *small;
    (void)state;
    assert_ok(kd, kd_model_prune(m, &d, &small));
    assert_string_equal(kd_model_spec(small),
                        "1x8x8: patch 4 8, blocks: encoder 1 2 mlp=2, meanpool, dense 4, relu, dense 3");
    kd_model_destroy(small);
    kd_model_destroy(m);
    kd_close(kd);
}

/* A target that a projection's channel, given back, would miss is reached with other channels. */
static void test_target_beside_a_projection(void **state)
{
    kd_ctx *kd = test_open(KD_ISA_AUTO, 1);
    kd_prune_desc d = kd_prune_defaults(KD_PRUNE_L1);
    kd_model *m = create(kd, "1x4x4: conv 6 1, relu, residual(conv 5 1), relu, gap, dense 2", 1), *small;
    int target, reached = 0;
    (void)state;
    for (target = 30; target < 80; ++target) {
        d.parameters = target;
        if (kd_model_prune(m, &d, &small) != KD_OK) fail_msg("%d: %s", target, kd_error(kd));
        assert_true(kd_model_parameters(small) <= target);
        reached += kd_model_parameters(small) == target;
        kd_model_destroy(small);
    }
    assert_true(reached > 0);
    kd_model_destroy(m);
    kd_close(kd);
}

static void test_targets_and_minimum(void **state)
{
    kd_ctx *kd = test_open(KD_ISA_AUTO, 1);
    kd_model *m = create(kd, "1x8x8: conv 16 3 pad=1, relu, maxpool 2, conv 32 3 pad=1, relu, gap, dense 4", 1),
             *small, *larger;
    kd_prune_desc d = kd_prune_defaults(KD_PRUNE_L2);
    int v;
    (void)state;
    d.parameters = 1000;
    assert_ok(kd, kd_model_prune(m, &d, &small));
    assert_true(kd_model_parameters(small) <= 1000 && kd_model_parameters(small) > 750);
    kd_model_destroy(small);
    d.parameters = 0, d.macs = 20000, d.by_layer = 1;
    assert_ok(kd, kd_model_prune(m, &d, &small));
    assert_true(kd_model_macs(small) <= 20000 && kd_model_macs(small) > 15000);
    kd_model_destroy(small);
    d.macs = 0, d.amount = 0.99f, d.by_layer = 0, d.minimum = 5;
    assert_ok(kd, kd_model_prune(m, &d, &small));
    assert_string_equal(kd_model_spec(small),
                        "1x8x8: conv 5 3 pad=1, relu, maxpool 2, conv 5 3 pad=1, relu, gap, dense 4");
    kd_model_destroy(small);
    d.amount = 0.25f, d.by_layer = 1; /* in proportion */
    assert_ok(kd, kd_model_prune(m, &d, &small));
    assert_non_null(strstr(kd_model_spec(small), "conv 12 3 pad=1, relu, maxpool 2, conv 24 3"));
    kd_model_destroy(small);
    assert_ok(kd, kd_model_prune(m, NULL, &small)); /* half of 48 */
    for (v = 0; v < 2; ++v) assert_true(small->values[1].shape.c + small->values[4].shape.c == 24);
    d = kd_prune_defaults(KD_PRUNE_L2);
    assert_ok(kd, kd_model_prune(m, &d, &larger));
    assert_true(kd_model_hash(small) == kd_model_hash(larger));
    kd_model_destroy(small);
    kd_model_destroy(larger);
    kd_model_destroy(m);
    kd_close(kd);
}

/* ---- taylor ---------------------------------------------------------------------------------------------- */

/* The loss of the one batch, in training mode, of a copy in which a layer's channel is multiplied by a factor. */
static double loss_of(const kd_model *m, const kd_data *data, const kd_train_desc *like, const char *const *names,
                      int channel, double factor)
{
    kd_train_desc d = *like;
    kd_step_info info;
    kd_trainer *t;
    kd_model *copy;
    d.optimizer = KD_SGD, d.lr = d.momentum = 0, d.epochs = 1;
    assert_int_equal(kd_model_clone(m, &copy), KD_OK);
    for (; *names; ++names) {
        const kd__param *q = &copy->params[kd__param_find(copy, *names)];
        const int64_t count = kd__param_count(q), share = count / q->shape[0];
        float *plain = (float *)calloc((size_t)count, sizeof *plain);
        int64_t e;
        kd__param_copy(m->kd->k, q, kd__param_stored(copy, q), plain, 1);
        for (e = 0; e < share; ++e)
            plain[channel * share + e] = (float)((double)plain[channel * share + e] * factor);
        kd__param_copy(m->kd->k, q, kd__param_stored(copy, q), plain, 0);
        free(plain);
    }
    assert_int_equal(kd_trainer_open(copy, data, &d, &t), KD_OK);
    assert_int_equal(kd_trainer_step(t, &info), KD_OK);
    kd_trainer_close(t);
    kd_model_destroy(copy);
    return info.loss;
}

static void check_taylor(kd_ctx *kd, const char *line, const char *const *names, int channels, int value)
{
    enum { COUNT = 40 };
    float *x = test_floats(3, COUNT * 72, 1);
    int32_t labels[COUNT] = {0};
    kd_data data = kd_data_f32(x, labels, COUNT, 2, 6, 6, 3);
    kd_train_desc train = kd_train_defaults();
    kd_prune_desc d = kd_prune_defaults(KD_PRUNE_TAYLOR);
    kd_model *m = create(kd, line, 5), *teacher = create(kd, "2x6x6: conv 4 3, tanh, dense 3", 6);
    kd__pruner p;
    int i, c;
    for (i = 0; i < COUNT; ++i) labels[i] = i * 7 % 3;
    disturb(m, 5);
    train.batch = COUNT;
    train.teacher = teacher;
    d.data = &data, d.train = &train;
    memset(&p, 0, sizeof p);
    p.kd = kd, p.m = m, p.d = &d;
    assert_int_equal(kd__prune_open(&p), KD_OK);
    assert_ok(kd, kd__prune_score(&p));
    for (c = 0; c < channels; ++c) {
        const double step = 0.01, up = loss_of(m, &data, &train, names, c, 1 + step),
                     down = loss_of(m, &data, &train, names, c, 1 - step), slope = (up - down) / (2 * step);
        const double score = p.score[p.first[p.layer[value]] + (size_t)c];
        if (fabs(sqrt(score) - fabs(slope)) > 1e-3 * (fabs(slope) + 0.02))
            fail_msg("%s, channel %d: %g, by differences %g", line, c, sqrt(score), fabs(slope));
    }
    kd__prune_close(&p);
    kd_model_destroy(m);
    kd_model_destroy(teacher);
    free(x);
}

static void test_taylor(void **state)
{
    static const char *const conv[] = {"0.weight", "0.bias", NULL}, *const norm[] = {"1.weight", "1.bias", NULL},
                             *const both[] = {"1.weight", "1.bias", "3.body.1.weight", "3.body.1.bias", NULL};
    kd_ctx *kd = test_open(KD_ISA_AUTO, 1);
    (void)state;
    check_taylor(kd, "2x6x6: conv 4 3, relu, maxpool 2, dense 3", conv, 4, 1);
    check_taylor(kd, "2x6x6: dense 6, tanh, dense 3", (const char *const[]){"1.weight", "1.bias", NULL}, 6, 2);
    check_taylor(kd, "2x6x6: conv 4 3, batchnorm, relu, depthwise 3, relu, gap, dense 3",
                 (const char *const[]){"1.weight", "1.bias", "3.weight", "3.bias", NULL}, 4, 1);
    check_taylor(kd, "2x6x6: conv 4 3 bias=0, batchnorm, silu, gap, dense 3", norm, 4, 1);
    check_taylor(kd, "2x6x6: conv 4 1, batchnorm, relu, residual(conv 4 3 pad=1, batchnorm), relu, gap, dense 3",
                 both, 4, 1);
    kd_close(kd);
}

/* Several batches, augmentation and threads: the same bits. */
static void test_taylor_repeats(void **state)
{
    enum { COUNT = 50 };
    const kd_layer_rate frozen = {"0", 0};
    uint64_t hashes[2];
    int threads, i;
    (void)state;
    for (threads = 1; threads <= 2; ++threads) {
        kd_ctx *kd = test_open(KD_ISA_AUTO, threads);
        float *x = test_floats(3, COUNT * 72, 1);
        int32_t labels[COUNT];
        kd_data data = kd_data_f32(x, labels, COUNT, 2, 6, 6, 3);
        kd_train_desc train = kd_train_defaults();
        kd_prune_desc d = kd_prune_defaults(KD_PRUNE_TAYLOR);
        kd_model *m = create(kd, "2x6x6: conv 16 3 pad=1, batchnorm, relu, dropout 0.2, maxpool 2, dense 3", 1),
                 *small;
        const uint64_t before = kd_model_hash(m);
        for (i = 0; i < COUNT; ++i) labels[i] = i * 7 % 3;
        train.batch = 16, train.augment.shift = 1, train.keep = KD_KEEP_BEST, train.validation = 0.2f;
        train.patience = 3, train.ema = 0.9f;
        d.data = &data, d.train = &train;
        assert_ok(kd, kd_model_prune(m, &d, &small));
        assert_true(kd_model_hash(m) == before);
        assert_int_equal(small->values[1].shape.c, 8);
        hashes[threads - 1] = kd_model_hash(small);
        kd_model_destroy(small);
        train.rates = &frozen, train.rate_count = 1; /* is no reason to lose channels */
        assert_ok(kd, kd_model_prune(m, &d, &small));
        assert_true(kd_model_hash(small) == hashes[threads - 1]);
        d.train = NULL;
        kd_model_destroy(small);
        assert_ok(kd, kd_model_prune(m, &d, &small));
        kd_model_destroy(small);
        kd_model_destroy(m);
        free(x);
        kd_close(kd);
    }
    assert_true(hashes[0] == hashes[1]);
}

/* ---- masks and slimming in training ---------------------------------------------------------------------- */

typedef struct lesson {
    float x[60 * 64];
    int32_t labels[60];
    kd_data data;
    kd_train_desc d;
    kd_model *m, *teacher;
} lesson;

/* 12 updates: 3 epochs of 4. */
static void lesson_open(lesson *l, kd_ctx *kd, const char *line)
{
    uint64_t state = 5;
    int i;
    for (i = 0; i < 60 * 64; ++i) l->x[i] = test_random(&state);
    for (i = 0; i < 60; ++i) l->labels[i] = i * 7 % 3;
    l->data = kd_data_f32(l->x, l->labels, 60, 4, 4, 4, 3);
    l->d = kd_train_defaults();
    l->d.epochs = 3, l->d.batch = 15, l->d.lr = 0.01f;
    l->m = create(kd, line, 1);
    l->teacher = create(kd, "4x4x4: dense 9, tanh, dense 3", 2);
    l->d.teacher = l->teacher;
}

static void lesson_close(lesson *l)
{
    kd_model_destroy(l->m);
    kd_model_destroy(l->teacher);
}

static int64_t zeros_of(kd_ctx *kd, const kd_model *m, const char *name, int64_t *count)
{
    const kd__param *p = &m->params[kd__param_find(m, name)];
    int64_t zeros = 0, i;
    float *plain;
    *count = kd__param_count(p);
    plain = (float *)calloc((size_t)*count, sizeof *plain);
    assert_ok(kd, kd_model_get_tensor(m, name, plain, *count));
    for (i = 0; i < *count; ++i) zeros += !(plain[i] < 0 || plain[i] > 0);
    free(plain);
    return zeros;
}

static const char sparse_line[] = "4x4x4: conv 5 3 pad=1, batchnorm, relu, conv 8 1, relu, dense 3";

/* Zhu and Gupta's cubic, update by update, and nothing but weights of layers. */
static void test_gradual_magnitude(void **state)
{
    static const char *const names[] = {"0.weight", "3.weight", "6.weight"};
    kd_ctx *kd = test_open(KD_ISA_AUTO, 1);
    lesson *l = (lesson *)calloc(1, sizeof *l);
    kd_trainer *t;
    int64_t count;
    int step, i;
    (void)state;
    lesson_open(l, kd, sparse_line);
    l->d.sparsity = KD_SPARSITY_MAGNITUDE;
    l->d.sparsity_share = 0.8f, l->d.sparsity_from = 0.25f, l->d.sparsity_until = 0.75f, l->d.sparsity_every = 2;
    assert_ok(kd, kd_trainer_open(l->m, &l->data, &l->d, &t));
    for (step = 0; step < 12; ++step) {
        const int last = step < 3 ? -1 : step >= 9 ? 9 : step - (step - 3) % 2; /* of the updates that mask more */
        const double u = (last - 3) / 6.0, share = 0.8 * (1 - (1 - u) * (1 - u) * (1 - u));
        assert_ok(kd, kd_trainer_step(t, NULL));
        for (i = 0; i < 3; ++i) {
            const int64_t zeros = zeros_of(kd, l->m, names[i], &count);
            assert_int_equal(zeros, last < 0 ? 0 : (int64_t)(share * (double)count + 1e-6));
        }
        assert_int_equal(zeros_of(kd, l->m, "1.weight", &count), 0);
    }
    kd_trainer_close(t);
    lesson_close(l);
    free(l);
    kd_close(kd);
}

/* Those of the least magnitude go, and stay away. */
static void test_magnitude_takes_the_least(void **state)
{
    kd__sparse s;
    float plain[] = {3, -1, 2, -2, 0.5f, -4, 1, 0};
    int64_t *counts = (int64_t *)calloc(65536, sizeof *counts);
    static const float wanted[] = {3, 0, 0, -2, 0, -4, 0, 0};
    (void)state;
    memset(&s, 0, sizeof s);
    s.plain = plain, s.counts = counts;
    kd__sparse_smallest(&s, 8, 5); /* 0, 0.5, 1, 1 and the first of 2 and -2 */
    assert_memory_equal(plain, wanted, sizeof wanted);
    kd__sparse_smallest(&s, 8, 0);
    assert_memory_equal(plain, wanted, sizeof wanted);
    free(counts);
}

static void test_two_of_four(void **state)
{
    kd_ctx *kd = test_open(KD_ISA_AUTO, 1);
    lesson *l = (lesson *)calloc(1, sizeof *l);
    float w[180];
    int64_t count;
    int o, p, c, zeros;
    (void)state;
    lesson_open(l, kd, sparse_line);
    l->d.sparsity = KD_SPARSITY_TWO_OF_FOUR, l->d.sparsity_from = 0.5f;
    assert_ok(kd, kd_train(l->m, &l->data, &l->d));
    assert_ok(kd, kd_model_get_tensor(l->m, "0.weight", w, 180));
    for (o = 0; o < 5; ++o) {
        for (p = 0; p < 9; ++p) {
            for (zeros = c = 0; c < 4; ++c) zeros += !(w[(o * 4 + c) * 9 + p] < 0 || w[(o * 4 + c) * 9 + p] > 0);
            assert_int_equal(zeros, 2);
        }
    }
    assert_int_equal(zeros_of(kd, l->m, "3.weight", &count), 0); /* 5 channels come in */
    assert_int_equal(zeros_of(kd, l->m, "6.weight", &count), 3 * 128 / 2);
    {
        float four[] = {0, 3, 0, -2}, eight[] = {1, 9, -5, 9, 4, 9, -3, 9};
        static const float four_left[] = {0, 3, 0, -2}, eight_left[] = {0, 9, -5, 9, 4, 9, 0, 9};
        kd__sparse_four(four, 1);
        assert_memory_equal(four, four_left, sizeof four);
        kd__sparse_four(eight, 2);
        assert_memory_equal(eight, eight_left, sizeof eight);
    }
    lesson_close(l);
    free(l);
    kd_close(kd);
}

/* Stopped anywhere and resumed, on one thread or two: the same bits. */
static void test_sparse_resumes(void **state)
{
    char path[] = P_tmpdir "/kd-prune-XXXXXX";
    const int file = mkstemp(path);
    uint64_t hash[2] = {0, 0}, whole = 0;
    int stop;
    (void)state;
    assert_true(file >= 0);
    close(file);
    for (stop = 0; stop < 12; stop += 3) {
        kd_ctx *kd = test_open(KD_ISA_AUTO, 1 + stop / 3 % 2);
        lesson *l = (lesson *)calloc(1, sizeof *l);
        kd_trainer *t;
        int step;
        lesson_open(l, kd, sparse_line);
        l->d.sparsity = KD_SPARSITY_MAGNITUDE, l->d.sparsity_every = 2, l->d.sparsity_until = 0.9f;
        l->d.slimming = 1e-3f;
        assert_ok(kd, kd_trainer_open(l->m, &l->data, &l->d, &t));
        for (step = 0; step < stop; ++step) assert_ok(kd, kd_trainer_step(t, NULL));
        assert_ok(kd, kd_trainer_save(t, path));
        kd_trainer_close(t);
        kd_model_destroy(l->m);
        l->m = create(kd, sparse_line, 1);
        l->d.slimming = 0;
        assert_ok(kd, kd_trainer_open(l->m, &l->data, &l->d, &t));
        assert_fails(kd, kd_trainer_load(t, path), KD_ERR_DATA, "options");
        kd_trainer_close(t);
        l->d.slimming = 1e-3f;
        assert_ok(kd, kd_trainer_open(l->m, &l->data, &l->d, &t));
        assert_ok(kd, kd_trainer_load(t, path));
        while (!kd_trainer_done(t)) assert_ok(kd, kd_trainer_step(t, NULL));
        kd_trainer_close(t);
        hash[stop > 0] = kd_model_hash(l->m);
        if (stop == 0) whole = hash[0];
        assert_true(kd_model_hash(l->m) == whole);
        lesson_close(l);
        free(l);
        kd_close(kd);
    }
    remove(path);
}

/* One step of gradient descent: each scale is lr * lambda nearer to 0 than without, and nothing else is. */
static void test_slimming(void **state)
{
    float scales[2][5], weights[2][180];
    int i, c;
    (void)state;
    for (i = 0; i < 2; ++i) {
        kd_ctx *kd = test_open(KD_ISA_AUTO, 1);
        lesson *l = (lesson *)calloc(1, sizeof *l);
        static const float first[] = {0.5f, -0.5f, 0, 1, -1};
        lesson_open(l, kd, sparse_line);
        set(kd, l->m, "1.weight", first, 5);
        l->d.optimizer = KD_SGD, l->d.momentum = 0, l->d.lr = 0.1f, l->d.epochs = 1, l->d.batch = 15;
        l->d.accumulate = 4; /* one update */
        l->d.slimming = i ? 0.25f : 0;
        assert_ok(kd, kd_train(l->m, &l->data, &l->d));
        assert_ok(kd, kd_model_get_tensor(l->m, "1.weight", scales[i], 5));
        assert_ok(kd, kd_model_get_tensor(l->m, "0.weight", weights[i], 180));
        if (i) {
            for (c = 0; c < 5; ++c)
                assert_near(scales[1][c] - scales[0][c], first[c] > 0 ? -0.025 : first[c] < 0 ? 0.025 : 0.0, 1e-6);
            assert_memory_equal(weights[0], weights[1], sizeof weights[0]);
        }
        lesson_close(l);
        free(l);
        kd_close(kd);
    }
}

static void test_sparse_refusals(void **state)
{
    kd_ctx *kd = test_open(KD_ISA_AUTO, 1);
    lesson *l = (lesson *)calloc(1, sizeof *l);
    (void)state;
    lesson_open(l, kd, sparse_line);
#define UNTRAINED(change, text)                                                                                    \
    do {                                                                                                           \
        kd_train_desc before = l->d;                                                                               \
        change;                                                                                                    \
        assert_fails(kd, kd_train(l->m, &l->data, &l->d), KD_ERR_ARGUMENT, text);                                  \
        l->d = before;                                                                                             \
    } while (0)
    UNTRAINED(l->d.slimming = -1, "slimming");
    UNTRAINED(l->d.slimming = NAN, "slimming");
    UNTRAINED(l->d.sparsity = (kd_sparsity)3, "sparsity");
    UNTRAINED(l->d.sparsity_share = 1, "sparsity_share");
    UNTRAINED(l->d.sparsity_from = 0.7f, "sparsity_until");
    UNTRAINED(l->d.sparsity_every = 0, "sparsity_every");
    l->d.sparsity = KD_SPARSITY_MAGNITUDE;
    UNTRAINED(l->d.ema = 0.9f, "sparsity goes without ema, KD_KEEP_BEST and patience");
    UNTRAINED((l->d.keep = KD_KEEP_BEST, l->d.validation = 0.2f), "sparsity goes without");
    UNTRAINED((l->d.patience = 2, l->d.validation = 0.2f), "sparsity goes without");
    assert_string_equal(kd_sparsity_name(KD_SPARSITY_TWO_OF_FOUR), "2:4");
    assert_string_equal(kd_sparsity_name((kd_sparsity)9), "unknown");
    lesson_close(l);
    free(l);
    kd_close(kd);
}

/* ---- mistakes -------------------------------------------------------------------------------------------- */

static void test_refusals(void **state)
{
    static const float zeros[8];
    kd_ctx *kd = test_open(KD_ISA_AUTO, 1);
    kd_model *m = create(kd, "1x4x4: conv 4 3, batchnorm, relu, dense 8, relu, dense 2", 1), *out = m;
    kd_prune_desc d = kd_prune_defaults(KD_PRUNE_SCALE), zero;
    kd_data data = kd_data_f32(zeros, NULL, 1, 1, 2, 4, 2);
    (void)state;
    assert_int_equal(kd_model_prune(NULL, &d, &out), KD_ERR_ARGUMENT);
    assert_null(out);
    assert_fails(kd, kd_model_prune(m, &d, NULL), KD_ERR_ARGUMENT, "out must not be NULL");
    memset(&zero, 0, sizeof zero);
    assert_fails(kd, kd_model_prune(m, &zero, &out), KD_ERR_DEFAULTS, "kd_prune_defaults()");
#define REFUSED(change, text)                                                                                      \
    do {                                                                                                           \
        kd_prune_desc before = d;                                                                                  \
        change;                                                                                                    \
        out = m;                                                                                                   \
        assert_fails(kd, kd_model_prune(m, &d, &out), KD_ERR_ARGUMENT, text);                                      \
        assert_null(out);                                                                                          \
        d = before;                                                                                                \
    } while (0)
    REFUSED(d.criterion = (kd_prune_criterion)77, "no criterion 77");
    REFUSED(d.amount = 1, "amount of 1 would remove all channels");
    REFUSED(d.amount = -0.5f, "amount must be 0 to below 1, got -0.5");
    REFUSED(d.amount = NAN, "amount must be");
    REFUSED(d.threshold = NAN, "off is -1, 0 and 0");
    REFUSED(d.parameters = -5, "off is -1, 0 and 0");
    REFUSED((d.parameters = 100, d.macs = 100), "one of threshold, parameters and macs");
    REFUSED((d.parameters = 100, d.threshold = 0), "one of threshold, parameters and macs");
    REFUSED(d.minimum = 0, "minimum must be 1 to 1e8, got 0");
    REFUSED(d.criterion = KD_PRUNE_TAYLOR, "taylor needs data");
    REFUSED(d.data = &data, "data are for the criterion taylor, this is scale");
    REFUSED(d.threshold = 2, "no channel of layer \"0\" is above the threshold of 2");
    REFUSED(d.parameters = 20, "1 channel left of each layer the model still has 70 parameters, more than 20");
    REFUSED((d.macs = 20, d.minimum = 3), "3 channels left of each layer the model still has 220 multiply-adds");
    d.criterion = KD_PRUNE_TAYLOR, d.data = &data;
    assert_fails(kd, kd_model_prune(m, &d, &out), KD_ERR_SHAPE, "kd_train");
    d = kd_prune_defaults(KD_PRUNE_SCALE);
    m->weights[m->params[kd__param_find(m, "1.weight")].offset + 2] = NAN;
    assert_fails(kd, kd_model_prune(m, &d, &out), KD_ERR_NOT_FINITE, "1.weight");
    kd_model_destroy(m);
    m = create(kd, "1x4x4: conv 4 3, relu, dense 2", 1);
    REFUSED(d.amount = 0.5f, "the criterion scale needs batch normalisation");
    kd_model_destroy(m);
    d.criterion = KD_PRUNE_L1;
    m = create(kd, "4x4x4: batchnorm, conv 4 3 groups=2, relu, dense 2", 1);
    REFUSED(d.amount = 0.5f, "no layer has channels that may go");
    kd_model_destroy(m);
    m = create(kd, "1x2x4: dense 4, relu, dense 2", 1);
    assert_ok(kd, kd_model_quantize(m, &data, NULL, &out));
    kd_model_destroy(m);
    m = out;
    assert_fails(kd, kd_model_prune(m, &d, &out), KD_ERR_UNSUPPORTED, "kd_model_prune");
    kd_model_destroy(m);
    kd_close(kd);
    assert_string_equal(kd_prune_name(KD_PRUNE_TAYLOR), "taylor");
    assert_string_equal(kd_prune_name((kd_prune_criterion)77), "unknown");
}

/* Refused memory, wherever it is: nothing is lost. */
static void test_refused_memory(void **state)
{
    static float x[20 * 16];
    static int32_t labels[20];
    kd_prune_desc d[2];
    kd_data data = kd_data_f32(x, labels, 20, 1, 4, 4, 2);
    test_memory memory;
    kd_ctx_desc desc = test_memory_desc(&memory);
    kd_ctx *kd;
    kd_model *m, *out;
    int i, which;
    (void)state;
    d[0] = kd_prune_defaults(KD_PRUNE_SCALE), d[1] = kd_prune_defaults(KD_PRUNE_TAYLOR);
    d[1].data = &data;
    assert_int_equal(kd_open(&desc, &kd), KD_OK);
    m = create(kd, "1x4x4: conv 4 3, batchnorm, relu, dense 2", 1);
    for (which = 0; which < 2; ++which) {
        for (i = 1;; ++i) {
            memory.refuse_at = i;
            out = m;
            if (kd_model_prune(m, &d[which], &out) == KD_OK) break;
            assert_null(out);
            assert_true(i < 1000);
        }
        memory.refuse_at = 0;
        assert_true(i > 8);
        kd_model_destroy(out);
    }
    kd_model_destroy(m);
    test_memory_close(kd, &memory);
}

/* What goes is told. */
static char told[400];
static void keep_line(void *user, const char *line)
{
    (void)user;
    kd__print(told + strlen(told), sizeof told - strlen(told), "%s\n", line);
}

static void test_log(void **state)
{
    kd_ctx_desc desc = kd_ctx_defaults();
    kd_prune_desc d = kd_prune_defaults(KD_PRUNE_SCALE);
    kd_model *m, *small;
    kd_ctx *kd;
    (void)state;
    desc.log = keep_line;
    assert_int_equal(kd_open(&desc, &kd), KD_OK);
    m = create(kd, "1x4x4: conv 4 3, batchnorm, relu, dense 8, dense 2", 1);
    assert_ok(kd, kd_model_prune(m, &d, &small));
    assert_string_equal(told, "kd_model_prune: layer \"0\" keeps 2 of 4 channels\n");
    kd_model_destroy(small);
    kd_model_destroy(m);
    kd_close(kd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_dead_channels_change_nothing),
        cmocka_unit_test(test_amounts),
        cmocka_unit_test(test_by_hand),
        cmocka_unit_test(test_residuals),
        cmocka_unit_test(test_projection_restores_either_side),
        cmocka_unit_test(test_concats),
        cmocka_unit_test(test_words_of_several_layers),
        cmocka_unit_test(test_target_beside_a_projection),
        cmocka_unit_test(test_targets_and_minimum),
        cmocka_unit_test(test_taylor),
        cmocka_unit_test(test_taylor_repeats),
        cmocka_unit_test(test_gradual_magnitude),
        cmocka_unit_test(test_magnitude_takes_the_least),
        cmocka_unit_test(test_two_of_four),
        cmocka_unit_test(test_sparse_resumes),
        cmocka_unit_test(test_slimming),
        cmocka_unit_test(test_sparse_refusals),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_refused_memory),
        cmocka_unit_test(test_log),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
