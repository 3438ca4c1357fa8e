/* test_cost.c - what a model takes where it runs by itself: constants, and an arena in which nothing overlaps */
#include "support.h"

static kd_model *create(kd_ctx *kd, const char *line)
{
    kd_model *m;
    assert_ok(kd, kd_model_create(kd, line, 1, &m));
    return m;
}

static kd_cost cost_of(kd_ctx *kd, const char *line)
{
    kd_model *m = create(kd, line);
    kd_cost cost;
    assert_ok(kd, kd_model_cost(m, &cost));
    assert_int_equal(cost.parameters, kd_model_parameters(m));
    assert_int_equal(cost.macs, kd_model_macs(m));
    kd_model_destroy(m);
    return cost;
}

/* By hand: conv 36 + 4, whose bias takes the batchnorm; conv 288 and a bias from its batchnorm, 8; dense 24 + 3. In
   8 bits outputs, and inputs of one, are multiples of 4. */
static void test_a_small_net(void **state)
{
    kd_ctx *kd = test_open(KD_ISA_AUTO, 1);
    const kd_cost c =
        cost_of(kd, "1x8x8: conv 4 3 pad=1, batchnorm, relu, maxpool 2, conv 8 3 pad=1 bias=0, batchnorm, "
                    "relu, gap, dense 3");
    (void)state;
    assert_int_equal(c.flash_float, 4 * (36 + 4 + 288 + 8 + 24 + 3));
    assert_int_equal(c.flash_int8, 4 * (12 + 8) + 8 * (36 + 8) + 4 * (8 + 8) + 5 * 92 + 4 + 256);
    assert_int_equal(c.ram_float, 4 * (64 + 256));       /* the first convolution, from its input into its output */
    assert_int_equal(c.ram_int8, 64 + 256 + 36 + 4 * 8); /* and what one output of the second reads, and sums */
    kd_close(kd);
}

static void test_single_layers(void **state)
{
    kd_ctx *kd = test_open(KD_ISA_AUTO, 1);
    kd_cost c;
    (void)state;
    c = cost_of(kd, "10: dense 3"); /* the output's 3 bytes end at a multiple of 4 */
    assert_int_equal(c.flash_float, 4 * 33);
    assert_int_equal(c.flash_int8, 4 * (12 + 8) + 92 + 256);
    assert_int_equal(c.ram_float, 4 * 13);
    assert_int_equal(c.ram_int8, 12 + 4 + 12 + 4 * 4);
    c = cost_of(kd, "10: dense 3 bias=0");
    assert_int_equal(c.flash_float, 4 * 30);
    assert_int_equal(c.flash_int8, 4 * (12 + 8) + 92 + 256); /* the zero point of what comes in needs a bias */
    c = cost_of(kd, "10: dense 3, gelu, dense 3, sigmoid, dense 3, relu, dropout 0.5"); /* in place, two tables */
    assert_int_equal(c.flash_int8, 4 * (12 + 4 + 4 + 3 * 8) + 3 * 92 + 2 * 256 + 256);
    assert_int_equal(c.ram_int8, 16 + 12 + 4 * 4);
    c = cost_of(kd, "3x4x4: batchnorm, conv 2 1"); /* nothing before it to fold it into: a scale and a shift */
    assert_int_equal(c.flash_float, 4 * (6 + 6 + 2));
    assert_int_equal(c.flash_int8, 3 * (1 + 8) + 4 * (4 + 8) + 2 * 92 + 3 * 256);
    assert_int_equal(c.ram_int8, 48 + 32 + 4 + 4 * 4);
    c = cost_of(kd, "3x4x4: depthwise 3 pad=1 bias=0, batchnorm, relu6, gap, dense 2");
    assert_int_equal(c.flash_float, 4 * (27 + 3 + 6 + 2));
    assert_int_equal(c.flash_int8, 3 * (9 + 8) + 4 * (4 + 8) + 3 * 92 + 4 + 3 * 256);
    assert_int_equal(c.ram_int8, 96 + 4 + 4 * 4); /* depthwise is not in place */
    c = cost_of(kd, "2x2x2: softtree 2 3");
    assert_int_equal(c.flash_int8, 4 * (8 + 8) + 92 + 4 * (3 + 12) + 2 * 256);
    kd_close(kd);
}

/* Two maps are alive in a residual, three while its body makes something new of what it keeps. */
static void test_residuals_keep_their_input(void **state)
{
    kd_ctx *kd = test_open(KD_ISA_AUTO, 1);
    kd_cost c;
    (void)state;
    c = cost_of(kd, "4x8x8: concat( | conv 4 3 pad=1), relu"); /* the input, the branch, and both together */
    assert_int_equal(c.ram_int8, 4 * 256 + 36 + 4 * 4);
    assert_int_equal(c.flash_int8, 4 * (36 + 8) + 92 + 2 * 256 + 4 * 256);
    c = cost_of(kd, "4x8x8: residual(conv 4 3 pad=1, batchnorm, relu), relu, gap, dense 2");
    assert_int_equal(c.ram_int8, 2 * 256 + 36 + 4 * 4); /* the sum goes into the body's memory */
    c = cost_of(kd, "4x8x8: residual(conv 4 3 pad=1, relu, conv 4 3 pad=1), gap, dense 2");
    assert_int_equal(c.ram_int8, 3 * 256 + 36 + 4 * 4);
    c = cost_of(kd, "4x8x8: residual(relu), gap, dense 2"); /* not in place: the input is added afterwards */
    assert_int_equal(c.ram_int8, 2 * 256 + 4 + 4 * 4);
    c = cost_of(kd, "4x8x8: residual(dropout 0.5, relu), gap, dense 2"); /* nor through what does nothing */
    assert_int_equal(c.ram_int8, 2 * 256 + 4 + 4 * 4);
    c = cost_of(kd, "4x8x8: residual(dropout 0.5), gap, dense 2");
    assert_int_equal(c.ram_int8, 256 + 4 + 4 + 4 * 4);
    kd_close(kd);
}

/* The value that a node reads or writes lies where no other value that will be read still lies. */
static void check_arena(kd_ctx *kd, const kd_model *m, int bytes)
{
    int *root = KD__NEW(kd, int, m->value_count), *owner, i, v;
    kd__arena_item *items = KD__NEW(kd, kd__arena_item, m->value_count);
    int64_t total, least = 0, at;
    assert_ok(kd, kd__arena_plan(m, bytes, root, items, &total));
    owner = (int *)calloc((size_t)total + 1, sizeof *owner); /* by byte: the value that was written there last */
    for (at = 0; at < total; ++at) owner[at] = -1;
    for (i = -1; i < m->node_count; ++i) {
        const kd__node *n = i < 0 ? NULL : &m->nodes[i];
        const int out = n ? n->out : m->input;
        const kd__arena_item *to = &items[root[out]];
        int64_t alive = 0;
        for (v = 0; n && v < n->inputs; ++v) { /* what it reads is still there */
            const int in = kd__input(m, n, v);
            const int64_t size = kd__shape_count(&m->values[in].shape) * bytes;
            for (at = 0; at < size; ++at) assert_int_equal(owner[items[root[in]].at + at], in);
        }
        if (n && root[out] != out) /* in place: each element where it was; others have to go elsewhere */
            assert_true(kd__shape_count(&m->values[out].shape) == kd__shape_count(&m->values[n->in].shape));
        if (n && root[out] == out) {
            for (v = 0; v < n->inputs; ++v) {
                const int in = kd__input(m, n, v);
                assert_true(items[root[in]].at + items[root[in]].size <= to->at ||
                            to->at + to->size <= items[root[in]].at);
            }
        }
        assert_true(to->at >= 0 && to->at % 4 == 0 && to->at + to->size <= total);
        for (at = 0; at < kd__shape_count(&m->values[out].shape) * bytes; ++at) {
            owner[to->at + at] = out;
        }
        for (v = 0; v < m->value_count; ++v)
            if (root[v] == v && items[v].from <= i && items[v].until >= i) alive += items[v].size;
        least = KD__MAX(least, alive);
    }
    assert_true(total >= least);
    for (at = 0; at < kd__shape_count(&m->values[m->output].shape) * bytes; ++at)
        assert_int_equal(owner[items[root[m->output]].at + at], m->output);
    free(owner);
    kd__free(kd, root);
    kd__free(kd, items);
}

static void test_nothing_overlaps(void **state)
{
    static const char *const lines[] = {
        "10: dense 3",
        "3x9x7: conv 5 3, relu, maxpool 2, conv 7 3 pad=1, gelu, gap, dense 4, silu, dense 2",
        "3x8x8: conv 4 3 pad=1, batchnorm, relu, residual(conv 4 3 pad=1, batchnorm, relu, conv 4 3 pad=1, "
        "batchnorm), relu, residual(conv 8 3 pad=1 stride=2, batchnorm, relu, conv 8 3 pad=1, batchnorm), relu, "
        "gap, dense 3",
        "4x6x6: residual(residual(conv 4 3 pad=1, relu), conv 4 1, tanh), residual(relu), avgpool 2, dense 5",
        "6x8x8: residual(conv 36 1, batchnorm, relu6, depthwise 3 pad=1, batchnorm, relu6, conv 6 1, batchnorm), "
        "conv 9 1, depthwise 3 stride=2 pad=1, relu, gap, dense 3",
        "2x6x6: conv 3 3, relu, dense 20, relu, residual(dense 20, relu, dense 20), relu, prompt 4, dense 3",
        "3x8x8: conv 4 3 pad=1, relu, concat( | conv 5 1, relu | maxpool 3 stride=1 pad=1), concat(relu | | "
        "batchnorm), residual(concat(relu | conv 3 3 pad=1)), concat(gap, flatten | maxpool 4, flatten), dense 3",
    };
    kd_ctx *kd = test_open(KD_ISA_AUTO, 1);
    int i;
    (void)state;
    for (i = 0; i < KD__COUNT(lines); ++i) {
        kd_model *m = create(kd, lines[i]);
        check_arena(kd, m, 1);
        check_arena(kd, m, 4);
        kd_model_destroy(m);
    }
    kd_close(kd);
}

/* Random buffers: none overlaps another of its time, the arena is at most a third above what is alive at once. */
static void test_random_buffers(void **state)
{
    enum { COUNT = 40 };
    kd__arena_item items[COUNT];
    int order[COUNT], round, i, j, t;
    (void)state;
    for (round = 0; round < 300; ++round) {
        int64_t total, least = 0;
        for (i = 0; i < COUNT; ++i) {
            const uint64_t key = (uint64_t)(round * COUNT + i);
            items[i].size = 4 * (int64_t)(kd__rng_unit(key, 1) * 50); /* some have none */
            items[i].from = (int)(kd__rng_unit(key, 2) * 60);
            items[i].until = items[i].from + (int)(kd__rng_unit(key, 3) * kd__rng_unit(key, 4) * 20);
        }
        total = kd__arena_place(items, COUNT, order);
        for (t = 0; t < 90; ++t) {
            int64_t alive = 0;
            for (i = 0; i < COUNT; ++i) alive += items[i].from <= t && t <= items[i].until ? items[i].size : 0;
            least = KD__MAX(least, alive);
        }
        assert_true(total >= least && 3 * total <= 4 * least);
        for (i = 0; i < COUNT; ++i) {
            assert_int_equal(items[i].at < 0, items[i].size == 0);
            for (j = 0; j < i; ++j) {
                if (items[i].size == 0 || items[j].size == 0 || items[i].from > items[j].until ||
                    items[j].from > items[i].until)
                    continue;
                assert_true(items[i].at + items[i].size <= items[j].at ||
                            items[j].at + items[j].size <= items[i].at);
            }
        }
    }
}

/* The int8 model takes what was said of it when it was in float. */
static void test_int8(void **state)
{
    static const float x[4 * 64] = {1, 2, 3};
    const kd_data images = kd_data_f32(x, NULL, 4, 1, 8, 8, 3);
    kd_ctx *kd = test_open(KD_ISA_AUTO, 1);
    kd_model *m = create(kd,
                         "1x8x8: conv 4 3 pad=1, batchnorm, relu, residual(conv 4 3 pad=1, batchnorm), relu, gap, "
                         "dense 3"),
             *integers;
    kd_cost before, after;
    (void)state;
    assert_ok(kd, kd_model_quantize(m, &images, NULL, &integers));
    assert_ok(kd, kd_model_cost(m, &before));
    assert_ok(kd, kd_model_cost(integers, &after));
    assert_int_equal(after.ram_int8, before.ram_int8);
    assert_int_equal(after.macs, before.macs);
    kd_model_destroy(integers);
    kd_model_destroy(m);
    kd_close(kd);
}

/* A number that the C source tells. */
static long told(const char *path, const char *name)
{
    static char text[1 << 20];
    FILE *f = fopen(path, "rb");
    const char *at;
    text[fread(text, 1, sizeof text - 1, f)] = 0;
    fclose(f);
    at = strstr(text, name);
    assert_non_null(at);
    return strtol(at + strlen(name), NULL, 10);
}

/* What is said beforehand is what the C source of the int8 model takes, or more where it pools in a convolution. */
static void test_like_c_source(void **state)
{
    static const char *const lines[] = {
        "1x8x8: conv 4 3 pad=1, batchnorm, relu, conv 8 3 pad=1, relu, gap, dense 3",
        "1x8x8: conv 6 3 pad=1, batchnorm, relu, maxpool 2, depthwise 3 pad=1, batchnorm, relu, conv 5 1, relu, "
        "avgpool 2, dense 3",
        "1x8x8: conv 4 3 pad=1, batchnorm, relu, residual(conv 7 3 pad=1, batchnorm, relu, conv 4 3 pad=1, "
        "batchnorm), relu, residual(conv 8 3 pad=1 stride=2, batchnorm), relu, gap, dense 3",
        "1x8x8: conv 3 3, hardswish, maxpool 2, dense 9, gelu, dense 3",
        "1x8x8: dense 10, relu, dense 3",
    };
    static const char *const names[] = {"one", "two", "three"};
    static const float x[4 * 64] = {1, 2, 3, -1, -2};
    const kd_data images = kd_data_f32(x, NULL, 4, 1, 8, 8, 3);
    kd_ctx *kd = test_open(KD_ISA_AUTO, 1);
    char path[] = P_tmpdir "/kd-cost-XXXXXX";
    const int file = mkstemp(path);
    int i;
    (void)state;
    assert_true(file >= 0);
    close(file);
    for (i = 0; i < KD__COUNT(lines); ++i) {
        kd_model *m = create(kd, lines[i]), *integers;
        kd_cost cost;
        long flash, ram;
        assert_ok(kd, kd_model_set_classes(m, names, 3));
        assert_ok(kd, kd_model_cost(m, &cost));
        assert_ok(kd, kd_model_quantize(m, &images, NULL, &integers));
        assert_ok(kd, kd_model_save_c(integers, path, NULL));
        flash = told(path, "STUDENT_FLASH "), ram = told(path, "STUDENT_RAM ");
        if (cost.flash_int8 < flash || cost.flash_int8 > flash + 2 * 96 || cost.ram_int8 < ram ||
            (!strstr(lines[i], "maxpool") && cost.ram_int8 > ram + 8))
            fail_msg("%s: flash %ld, said %ld; RAM %ld, said %ld", lines[i], flash, (long)cost.flash_int8, ram,
                     (long)cost.ram_int8);
        kd_model_destroy(integers);
        kd_model_destroy(m);
    }
    remove(path);
    kd_close(kd);
}

static void test_refusals(void **state)
{
    test_memory memory;
    kd_ctx_desc desc = test_memory_desc(&memory);
    kd_cost cost, before;
    kd_ctx *kd;
    kd_model *m;
    int i;
    (void)state;
    assert_int_equal(kd_open(&desc, &kd), KD_OK);
    m = create(kd, "10: dense 3");
    assert_int_equal(kd_model_cost(NULL, &cost), KD_ERR_ARGUMENT);
    assert_fails(kd, kd_model_cost(m, NULL), KD_ERR_ARGUMENT, "out must not be NULL");
    memset(&cost, 7, sizeof cost);
    before = cost;
    for (i = 1; i <= 4; ++i) {
        memory.refuse_at = i;
        assert_int_equal(kd_model_cost(m, &cost), KD_ERR_MEMORY);
        assert_memory_equal(&cost, &before, sizeof cost);
    }
    memory.refuse_at = 0;
    assert_ok(kd, kd_model_cost(m, &cost));
    kd_model_destroy(m);
    test_memory_close(kd, &memory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_small_net),
        cmocka_unit_test(test_single_layers),
        cmocka_unit_test(test_residuals_keep_their_input),
        cmocka_unit_test(test_nothing_overlaps),
        cmocka_unit_test(test_random_buffers),
        cmocka_unit_test(test_int8),
        cmocka_unit_test(test_like_c_source),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
