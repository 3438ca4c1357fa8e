/* Students and data of other kinds: soft decision trees. */
#include "support.h"

/* ---- soft decision trees --------------------------------------------------------------------------------- */

static kd_model *create(kd_ctx *kd, const char *spec)
{
    kd_model *m;
    assert_ok(kd, kd_model_create(kd, spec, 7, &m));
    return m;
}

/* What is handed out for a drawing makes the same predictions as the model. */
static void test_tree_read(void **state)
{
    enum { DEPTH = 3, INNER = 7, LEAVES = 8, NODES = 15, FEATURES = 20, CLASSES = 4, IMAGES = 300 };
    kd_ctx *kd = test_open(KD_ISA_AUTO, 1);
    kd_model *m = create(kd, "1x4x5: tree: softtree 3 4");
    float filters[INNER * FEATURES], biases[INNER], leaves[LEAVES * CLASSES], beta[INNER];
    float *x = test_floats(4, IMAGES * FEATURES, 3), *logits = test_floats(5, IMAGES * CLASSES, 1);
    float *paths = test_floats(6, IMAGES * NODES, 1);
    kd_tree tree;
    int i, j, c;
    (void)state;
    for (j = 0; j < INNER; ++j) beta[j] = 0.4f + 0.3f * (float)j, biases[j] = 0.2f * (float)(j - 3);
    assert_ok(kd, kd_model_set_tensor(m, "tree.beta", beta, INNER));
    assert_ok(kd, kd_model_set_tensor(m, "tree.filters.bias", biases, INNER));
    assert_ok(kd, kd_tree_info(m, &tree));
    assert_string_equal(tree.name, "tree");
    assert_true(tree.depth == DEPTH && tree.classes == CLASSES);
    assert_true(tree.channels == 1 && tree.height == 4 && tree.width == 5);
    assert_ok(kd, kd_tree_read(m, NULL, NULL, NULL));
    assert_ok(kd, kd_tree_read(m, filters, biases, leaves));
    assert_ok(kd, kd_tree_paths(m, x, IMAGES, paths));
    assert_ok(kd, kd_predict(m, x, IMAGES, logits));
    for (i = 0; i < IMAGES; ++i) {
        double p[NODES] = {1}, mixture[CLASSES] = {0}, sum = 0;
        for (j = 0; j < INNER; ++j) {
            double z = (double)biases[j];
            for (c = 0; c < FEATURES; ++c) z += (double)filters[j * FEATURES + c] * (double)x[i * FEATURES + c];
            p[2 * j + 2] = p[j] / (1 + exp(-z));
            p[2 * j + 1] = p[j] / (1 + exp(z));
        }
        for (j = 0; j < NODES; ++j) assert_near(paths[i * NODES + j], p[j], 2e-6);
        for (j = 0; j < LEAVES; ++j) {
            for (c = 0; c < CLASSES; ++c) mixture[c] += p[INNER + j] * (double)leaves[j * CLASSES + c];
        }
        for (c = 0; c < CLASSES; ++c) assert_near(logits[i * CLASSES + c], log(mixture[c]), 1e-5);
        for (c = 0; c < CLASSES; ++c) sum += exp((double)logits[i * CLASSES + c]);
        assert_near(sum, 1, 1e-6); /* already logarithms of probabilities */
    }
    free(x);
    free(logits);
    free(paths);
    kd_model_destroy(m);
    kd_close(kd);
}

/* However sure of itself a tree is, its outputs stay finite and its gradients find the way back. */
static void test_tree_sure(void **state)
{
    kd_ctx *kd = test_open(KD_ISA_AUTO, 1);
    kd_model *m = create(kd, "1: softtree 2 2");
    const float x[2] = {1, -1}, steep[3] = {5000, 5000, 5000}, zeros[3] = {0, 0, 0};
    const float wrong[8] = {400, -400, 400, -400, -400, 400, -400, 400};
    const int32_t labels[2] = {0, 1};
    kd_data data = kd_data_f32(x, labels, 2, 1, 1, 1, 2);
    kd_train_desc desc = kd_train_defaults();
    kd_metrics metrics;
    float logits[4];
    (void)state;
    assert_ok(kd, kd_model_set_tensor(m, "0.filters.weight", steep, 3));
    assert_ok(kd, kd_model_set_tensor(m, "0.filters.bias", zeros, 3));
    assert_ok(kd, kd_model_set_tensor(m, "0.leaves", wrong, 8));
    assert_ok(kd, kd_predict(m, x, 2, logits));
    assert_near(logits[0], -800, 1e-6);
    assert_near(logits[1], 0, 1e-6);
    desc.epochs = 300;
    desc.lr = 5;
    assert_ok(kd, kd_train(m, &data, &desc));
    assert_ok(kd, kd_evaluate(m, &data, &metrics));
    assert_true(metrics.accuracy == 1);
    kd_model_destroy(m);
    kd_close(kd);
}

enum { SAMPLES = 60 };

/* Points in a square; the class says in which of its four corners. */
typedef struct corners {
    float x[SAMPLES * 2];
    int32_t labels[SAMPLES];
    kd_data data;
} corners;

static void corners_make(corners *c)
{
    uint64_t random = 3;
    int i;
    for (i = 0; i < 2 * SAMPLES; ++i) c->x[i] = test_random(&random);
    for (i = 0; i < SAMPLES; ++i) c->labels[i] = (c->x[2 * i] > 0.1f) + 2 * (c->x[2 * i + 1] > -0.2f);
    c->data = kd_data_f32(c->x, c->labels, SAMPLES, 2, 1, 1, 4);
}

static int keep_loss(void *user, const kd_step_info *info)
{
    *(double *)user = info->loss;
    return 1;
}

/* Of a tree of depth 2, from its paths: how unevenly the samples are spread over the leaves. */
static double path_penalty(const kd_model *m, const corners *c)
{
    float paths[SAMPLES * 7];
    double sum = 0;
    int i, leaf;
    assert_ok(m->kd, kd_tree_paths(m, c->x, SAMPLES, paths));
    for (leaf = 3; leaf < 7; ++leaf) {
        double mass = 0;
        for (i = 0; i < SAMPLES; ++i) mass += (double)paths[i * 7 + leaf] / SAMPLES;
        sum -= log(mass) / 4;
    }
    return sum;
}

/* The loss that is reported is that of the outputs and the penalty; training brings the penalty down. */
static void test_tree_penalty(void **state)
{
    static const char *const lines[] = {"2: softtree 2 4 penalty=0", "2: softtree 2 4 penalty=3"};
    const float uneven[3] = {2, 2, 2};
    kd_ctx *kd = test_open(KD_ISA_AUTO, 1);
    const kd_loss_desc ce = kd_loss_defaults(KD_LOSS_CE);
    float logits[SAMPLES * 4];
    double loss, value, after[2];
    corners c;
    int i;
    (void)state;
    corners_make(&c);
    for (i = 0; i < 2; ++i) {
        kd_model *m = create(kd, lines[i]);
        kd_train_desc desc = kd_train_defaults();
        assert_ok(kd, kd_model_set_tensor(m, "0.filters.bias", uneven, 3));
        assert_ok(kd, kd_predict(m, c.x, SAMPLES, logits));
        assert_ok(kd, kd_loss(kd, &ce, logits, NULL, c.labels, SAMPLES, 4, NULL, &value));
        value += i * 3 * path_penalty(m, &c);
        desc.batch = SAMPLES;
        desc.lr = 0.02f;
        desc.on_step = keep_loss;
        desc.user = &loss;
        assert_int_equal(kd_train(m, &c.data, &desc), KD_STOPPED);
        assert_near(loss, value, 1e-6);
        desc.on_step = NULL;
        desc.epochs = 100;
        assert_ok(kd, kd_train(m, &c.data, &desc));
        after[i] = path_penalty(m, &c) - 2 * log(2.0);
        kd_model_destroy(m);
    }
    assert_true(after[0] > 0.05 && after[1] >= 0 && after[1] < 0.1 * after[0]);
    kd_close(kd);
}

/* From a teacher alone, without labels, a tree comes to agree with it. */
static void test_tree_distilled(void **state)
{
    kd_ctx *kd = test_open(KD_ISA_AUTO, 1);
    kd_model *m = create(kd, "2: softtree 3 4"), *teacher = create(kd, "2: dense 16, tanh, dense 4");
    kd_train_desc desc = kd_train_defaults();
    kd_evaluate_desc with = kd_evaluate_defaults();
    kd_metrics metrics;
    corners c;
    (void)state;
    corners_make(&c);
    desc.epochs = 200, desc.lr = 0.02f;
    assert_ok(kd, kd_train(teacher, &c.data, &desc));
    c.data.labels = NULL;
    desc.teacher = with.teacher = teacher;
    desc.loss.temperature = 1;
    assert_ok(kd, kd_evaluate_with(m, &c.data, &with, &metrics));
    assert_true(metrics.agreement < 0.7);
    assert_ok(kd, kd_train(m, &c.data, &desc));
    assert_ok(kd, kd_evaluate_with(m, &c.data, &with, &metrics));
    assert_true(metrics.agreement > 0.9);
    kd_model_destroy(teacher);
    kd_model_destroy(m);
    kd_close(kd);
}

/* The same bits for any number of threads, and for all instruction sets with fused multiply-add. */
static void test_tree_bits(void **state)
{
    uint64_t fused = 0, hash[2];
    kd_isa isa;
    int i;
    (void)state;
    FOR_EACH_ISA(isa)
    {
        for (i = 0; i < 2; ++i) {
            kd_ctx *kd = test_open(isa, i ? 3 : 1);
            kd_model *m = create(kd, "2: dense 9, tanh, softtree 4 4 penalty=2");
            kd_train_desc desc = kd_train_defaults();
            corners c;
            corners_make(&c);
            desc.epochs = 3;
            desc.batch = 41;
            assert_ok(kd, kd_train(m, &c.data, &desc));
            hash[i] = kd_model_hash(m);
            kd_model_destroy(m);
            kd_close(kd);
        }
        assert_true(hash[0] == hash[1]);
        if (isa == KD_ISA_SCALAR) continue;
        assert_true(!fused || hash[0] == fused);
        fused = hash[0];
    }
}

static void test_tree_saved(void **state)
{
    kd_ctx *kd = test_open(KD_ISA_AUTO, 1);
    kd_model *m = create(kd, "2x3x3: conv 4 2, relu, softtree 2 3 penalty=0.5"), *back, *clone;
    char path[] = "/tmp/kd_tasks_XXXXXX", text[2048];
    float *leaves = test_floats(1, 12, 2), again[12];
    const int file = mkstemp(path);
    (void)state;
    assert_true(file >= 0);
    close(file);
    assert_ok(kd, kd_model_set_tensor(m, "3.leaves", leaves, 12));
    assert_ok(kd, kd_model_save(m, path));
    assert_ok(kd, kd_model_load(kd, path, &back));
    assert_true(kd_model_hash(back) == kd_model_hash(m));
    assert_ok(kd, kd_model_get_tensor(back, "3.leaves", again, 12));
    assert_memory_equal(leaves, again, sizeof again);
    assert_ok(kd, kd_model_clone(m, &clone));
    assert_true(kd_model_hash(clone) == kd_model_hash(m));
    kd_model_describe(m, text, sizeof text);
    assert_non_null(strstr(text, "3.filters        dense 3                                       3           51"));
    assert_non_null(strstr(text, "3              softtree 2 3 penalty=0.5                        3           15"));
    unlink(path);
    free(leaves);
    kd_model_destroy(m);
    kd_model_destroy(back);
    kd_model_destroy(clone);
    kd_close(kd);
}

static void test_tree_refused(void **state)
{
    kd_ctx *kd = test_open(KD_ISA_AUTO, 1);
    kd_model *m = create(kd, "2: dense 2"), *none;
    kd_tree tree;
    float x[2] = {0, 0}, paths[3];
    (void)state;
    assert_fails(kd, kd_model_create(kd, "2: softtree 13 4", 1, &none), KD_ERR_SPEC,
                 "column 4: the depth of a softtree must be 1 to 12, got 13");
    assert_fails(kd, kd_model_create(kd, "2: softtree 2 1", 1, &none), KD_ERR_SPEC,
                 "a softtree of depth 2 needs 2 to 67108863 classes, got 1");
    assert_fails(kd, kd_model_create(kd, "2: softtree 12 100000000", 1, &none), KD_ERR_SPEC, "got 100000000");
    assert_fails(kd, kd_model_create(kd, "2: softtree 2", 1, &none), KD_ERR_SPEC, "softtree needs classes");
    assert_fails(kd, kd_model_create(kd, "2: softtre 2 2", 1, &none), KD_ERR_SPEC, "did you mean \"softtree\"?");
    assert_fails(kd, kd_tree_info(m, &tree), KD_ERR_ARGUMENT, "kd_tree_info: the model has no softtree layer");
    assert_fails(kd, kd_tree_read(m, NULL, NULL, NULL), KD_ERR_ARGUMENT, "no softtree");
    assert_fails(kd, kd_tree_paths(m, x, 1, paths), KD_ERR_ARGUMENT, "no softtree");
    kd_model_destroy(m);
    m = create(kd, "2: softtree 1 2");
    assert_fails(kd, kd_tree_info(m, NULL), KD_ERR_ARGUMENT, "out must not be NULL");
    assert_fails(kd, kd_tree_paths(m, NULL, 1, paths), KD_ERR_ARGUMENT, "a NULL pointer");
    assert_ok(kd, kd_tree_paths(m, NULL, 0, NULL));
    kd_model_destroy(m);
    kd_close(kd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tree_read),    cmocka_unit_test(test_tree_sure),
        cmocka_unit_test(test_tree_penalty), cmocka_unit_test(test_tree_distilled),
        cmocka_unit_test(test_tree_bits),    cmocka_unit_test(test_tree_saved),
        cmocka_unit_test(test_tree_refused),
    };
    const int failed = cmocka_run_group_tests_name("tasks", tests, NULL, NULL);
    printf("tasks: %d runs skipped for instruction sets that this machine lacks\n", test_isas_skipped);
    return failed;
}
