/* Students and data of other kinds: soft decision trees, prompts, several heads, two forms of one
   sample, labels from private data, cross-validation. */
#include "support.h"
#include "golden/pate.h"

#include <pthread.h>

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
    char path[] = P_tmpdir "/kd_tasks_XXXXXX", text[2048];
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
    assert_int_equal(kd_model_macs(m), 4 * 4 * 8 + 16 * 3 + 4 * 3); /* filters, decisions, leaves */
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

/* ---- prompts --------------------------------------------------------------------------------------------- */

enum { CLASSES = 4 };

/* A student that sees its features and a prompt, a teacher with another opinion, a side vector of 3 numbers. */
typedef struct prompted {
    kd_ctx *kd;
    kd_model *student, *teacher;
    corners c;
    float *side;
    kd_train_desc desc;
} prompted;

static void prompted_open(prompted *p, const char *spec)
{
    memset(p, 0, sizeof *p);
    p->kd = test_open(KD_ISA_AUTO, 1);
    p->student = create(p->kd, spec);
    p->teacher = create(p->kd, "2: dense 8, tanh, dense 4");
    corners_make(&p->c);
    p->c.data.side = p->side = test_floats(8, SAMPLES * 3, 1);
    p->c.data.side_count = 3;
    p->desc = kd_train_defaults();
    p->desc.batch = SAMPLES / 2;
    p->desc.optimizer = KD_SGD;
    p->desc.momentum = 0;
    p->desc.lr = 0.5f;
}

static void prompted_close(prompted *p)
{
    kd_model_destroy(p->student);
    kd_model_destroy(p->teacher);
    free(p->side);
    kd_close(p->kd);
}

/* One step of SGD on a single dense layer, by hand: what the weights behind the prompt learn is the gradient by the
   logits times the prompt of the same sample. */
static void check_prompt_step(prompted *p, const float *prompts, int numbers)
{
    const int32_t *batch;
    const kd_loss_desc ce = kd_loss_defaults(KD_LOSS_CE);
    float weight[2][CLASSES * 6], logits[SAMPLES * CLASSES], grad[SAMPLES * CLASSES];
    int32_t labels[SAMPLES];
    double value;
    kd_trainer *t;
    int i, j, c, n = SAMPLES / 2, inputs = 2 + numbers;
    p->desc.loss = ce;
    if (p->desc.teacher) { /* must be used by a loss or the prompts: here the prompts alone */
        p->desc.loss = kd_loss_defaults(KD_LOSS_AUTO);
        p->desc.losses = &ce, p->desc.loss_count = 1;
    }
    assert_ok(p->kd, kd_model_get_tensor(p->student, "1.weight", weight[0], CLASSES * inputs));
    assert_ok(p->kd, kd_trainer_open(p->student, &p->c.data, &p->desc, &t));
    assert_ok(p->kd, kd_trainer_step(t, NULL));
    assert_ok(p->kd, kd_model_get_tensor(p->student, "1.weight", weight[1], CLASSES * inputs));
    batch = t->order;
    for (i = 0; i < n; ++i) {
        labels[i] = p->c.labels[batch[i]];
        for (c = 0; c < CLASSES; ++c) {
            const float *w = weight[0] + c * inputs;
            float y = w[0] * p->c.x[2 * batch[i]] + w[1] * p->c.x[2 * batch[i] + 1];
            for (j = 0; j < numbers; ++j) y += w[2 + j] * prompts[batch[i] * numbers + j];
            logits[i * CLASSES + c] = y;
        }
    }
    assert_ok(p->kd, kd_loss(p->kd, &ce, logits, NULL, labels, n, CLASSES, grad, &value));
    for (c = 0; c < CLASSES; ++c) {
        for (j = 0; j < numbers; ++j) {
            double sum = 0;
            for (i = 0; i < n; ++i) sum += (double)grad[i * CLASSES + c] * (double)prompts[batch[i] * numbers + j];
            assert_near(weight[1][c * inputs + 2 + j], (double)weight[0][c * inputs + 2 + j] - 0.5 * sum, 1e-6);
        }
    }
    kd_trainer_close(t);
}

static void test_prompt_step(void **state)
{
    prompted p;
    float targets[SAMPLES * CLASSES];
    (void)state;
    prompted_open(&p, "2: prompt 3, dense 4");
    assert_int_equal(kd_model_prompt(p.student), 3);
    assert_int_equal(kd_model_prompt(p.teacher), 0);
    p.desc.prompt = KD_PROMPT_SIDE;
    check_prompt_step(&p, p.side, 3);
    prompted_close(&p);
    prompted_open(&p, "2: prompt 4, dense 4");
    p.desc.prompt = KD_PROMPT_TEACHER;
    p.desc.prompt_temperature = 2;
    p.desc.teacher = p.teacher;
    assert_ok(p.kd, kd_predict(p.teacher, p.c.x, SAMPLES, targets));
    assert_ok(p.kd, kd_softmax(p.kd, targets, SAMPLES, CLASSES, 2, targets));
    check_prompt_step(&p, targets, CLASSES);
    prompted_close(&p);
}

/* The share of prompts that are dropped goes from prompt_drop to 1, and which they are changes with the epoch. */
static void test_prompt_drop(void **state)
{
    enum { EPOCHS = 50 };
    prompted p;
    kd_trainer *t;
    kd_step_info info;
    int epoch, half, i, last[SAMPLES] = {0}, same = 0;
    (void)state;
    prompted_open(&p, "2: prompt 3, dense 4");
    p.desc.prompt = KD_PROMPT_SIDE;
    p.desc.prompt_drop = 0.2f;
    p.desc.prompt_until = 0.5f;
    p.desc.shuffle = 0;
    p.desc.epochs = EPOCHS;
    assert_ok(p.kd, kd_trainer_open(p.student, &p.c.data, &p.desc, &t));
    for (epoch = 0; epoch < EPOCHS; ++epoch) {
        const double behind = (double)epoch / EPOCHS, wanted = behind < 0.5 ? 0.2 + 1.6 * behind : 1;
        int dropped = 0;
        for (half = 0; half < 2; ++half) {
            assert_ok(p.kd, kd_trainer_step(t, &info));
            for (i = 0; i < SAMPLES / 2; ++i) {
                const float *prompt = t->run->prompt + 3 * i;
                const int none = prompt[0] == 0 && prompt[1] == 0 && prompt[2] == 0,
                          sample = half * SAMPLES / 2 + i;
                if (!none) assert_memory_equal(prompt, p.side + sample * 3, 3 * sizeof *prompt);
                same += epoch == 10 && last[sample] == none;
                last[sample] = none;
                dropped += none;
            }
        }
        if (wanted == 1) assert_int_equal(dropped, SAMPLES);
        if (!(fabs((double)dropped / SAMPLES - wanted) < 0.25)) fail_msg("epoch %d: %d dropped", epoch, dropped);
    }
    assert_true(same > SAMPLES / 5 && same < SAMPLES * 4 / 5);
    kd_trainer_close(t);
    prompted_close(&p);
}

/* Prompts that tell the answer: a student that always had them is lost without, one from whom they were withdrawn
   does as well as one that never had any. kd_evaluate is without, kd_evaluate_with can be with. */
static void test_prompt_withdrawn(void **state)
{
    static const float untils[] = {1, 0.5f, 0};
    static const char *const lines[] = {
        "2: dense 12, tanh, prompt 4, dense 4",
        "2x1x1: tokens, linear 12, tanh, sidetokens 2 4, residual(attention 2), token 0, dense 4"};
    double without[6], with[6];
    int i, j;
    (void)state;
    for (i = 0; i < 6; ++i) {
        prompted p;
        kd_trainer *t;
        kd_metrics metrics;
        kd_evaluate_desc evaluate = kd_evaluate_defaults();
        prompted_open(&p, lines[i / 3]);
        free(p.side);
        p.c.data.side = p.side = test_floats(1, SAMPLES * CLASSES, 0);
        p.c.data.side_count = CLASSES;
        for (j = 0; j < SAMPLES; ++j) p.side[j * CLASSES + p.c.labels[j]] = 30;
        p.desc.prompt = evaluate.prompt = KD_PROMPT_SIDE;
        p.desc.optimizer = KD_ADAM;
        p.desc.lr = 0.05f;
        p.desc.epochs = 80;
        p.desc.prompt_until = untils[i % 3];
        if (i % 3 == 0) p.desc.epochs = 1000000; /* stopped before any is dropped */
        assert_ok(p.kd, kd_trainer_open(p.student, &p.c.data, &p.desc, &t));
        for (j = 0; j < 160; ++j) assert_ok(p.kd, kd_trainer_step(t, NULL));
        kd_trainer_close(t);
        assert_ok(p.kd, kd_evaluate(p.student, &p.c.data, &metrics));
        without[i] = metrics.accuracy;
        assert_ok(p.kd, kd_evaluate_with(p.student, &p.c.data, &evaluate, &metrics));
        with[i] = metrics.accuracy;
        prompted_close(&p);
    }
    for (i = 0; i < 6; i += 3) {
        if (!(with[i] == 1 && without[i] < 0.8))
            fail_msg("%g %g, %g, %g", with[i], without[i], without[i + 1], without[i + 2]);
        assert_true(without[i + 1] > 0.9 && without[i + 2] > 0.9);
    }
}

/* With the teacher's outputs as prompts, an evaluation equals one with the same numbers as side vectors. */
static void test_prompt_evaluated(void **state)
{
    prompted p;
    kd_evaluate_desc desc = kd_evaluate_defaults();
    kd_metrics metrics;
    float logits[3][SAMPLES * CLASSES], targets[SAMPLES * CLASSES];
    (void)state;
    prompted_open(&p, "2: prompt 4, dense 4");
    assert_ok(p.kd, kd_predict(p.teacher, p.c.x, SAMPLES, targets));
    desc.batch = 7;
    desc.prompt = KD_PROMPT_TEACHER;
    desc.prompt_temperature = 3;
    desc.teacher = p.teacher;
    desc.logits = logits[0];
    assert_ok(p.kd, kd_evaluate_with(p.student, &p.c.data, &desc, &metrics));
    desc.teacher = NULL;
    p.c.data.teacher_logits = targets;
    desc.logits = logits[1];
    assert_ok(p.kd, kd_evaluate_with(p.student, &p.c.data, &desc, &metrics));
    assert_memory_equal(logits[0], logits[1], sizeof logits[0]);
    assert_ok(p.kd, kd_softmax(p.kd, targets, SAMPLES, CLASSES, 3, targets));
    p.c.data.teacher_logits = NULL;
    p.c.data.side = targets;
    p.c.data.side_count = CLASSES;
    desc.prompt = KD_PROMPT_SIDE;
    assert_ok(p.kd, kd_evaluate_with(p.student, &p.c.data, &desc, &metrics));
    assert_memory_equal(logits[0], logits[1], sizeof logits[0]);
    desc.prompt = KD_PROMPT_NONE;
    desc.logits = logits[2];
    assert_ok(p.kd, kd_evaluate_with(p.student, &p.c.data, &desc, &metrics));
    assert_memory_not_equal(logits[0], logits[2], sizeof logits[0]);
    assert_ok(p.kd, kd_predict(p.student, p.c.x, SAMPLES, logits[0]));
    assert_memory_equal(logits[0], logits[2], sizeof logits[0]);
    prompted_close(&p);
}

/* The cross-entropy of each sample beside a prompt, as kd_evaluate_with sees it. */
static void losses_beside(prompted *p, const kd_model *m, const float *prompts, double *losses)
{
    const kd_loss_desc ce = kd_loss_defaults(KD_LOSS_CE);
    kd_evaluate_desc evaluate = kd_evaluate_defaults();
    kd_metrics metrics;
    float logits[SAMPLES * CLASSES];
    int i;
    p->c.data.side = prompts;
    evaluate.prompt = KD_PROMPT_SIDE;
    evaluate.logits = logits;
    assert_ok(p->kd, kd_evaluate_with(m, &p->c.data, &evaluate, &metrics));
    p->c.data.side = p->side;
    for (i = 0; i < SAMPLES; ++i)
        assert_ok(p->kd,
                  kd_loss(p->kd, &ce, logits + i * CLASSES, NULL, &p->c.labels[i], 1, CLASSES, NULL, &losses[i]));
}

/* A step of FGSM moves each number of a prompt by epsilon to where differences say that the sample's loss grows;
   the student learns from what came out, and what is dropped is 0. */
static void test_prompt_attack_direction(void **state)
{
    const float epsilon = 0.125f, step = 0.01f;
    float *moved = (float *)malloc(SAMPLES * 3 * sizeof *moved);
    double loss[2][3][SAMPLES], clean[SAMPLES], attacked[SAMPLES];
    prompted p;
    kd_model *before;
    kd_trainer *t;
    int i, j, k, compared = 0, dropped = 0;
    (void)state;
    prompted_open(&p, "2: dense 6, tanh, prompt 3, dense 5, tanh, dropout 0.5, dense 4");
    p.desc.prompt = KD_PROMPT_SIDE;
    p.desc.prompt_drop = 0.3f;
    p.desc.prompt_attack = kd_attack_defaults(KD_ATTACK_FGSM);
    p.desc.prompt_attack.epsilon = epsilon;
    p.desc.prompt_attack.low = -2, p.desc.prompt_attack.high = 2;
    p.desc.batch = SAMPLES;
    p.desc.shuffle = 0;
    assert_ok(p.kd, kd_model_clone(p.student, &before));
    for (j = 0; j < 3; ++j) {
        for (k = 0; k < 2; ++k) {
            memcpy(moved, p.side, SAMPLES * 3 * sizeof *moved);
            for (i = 0; i < SAMPLES; ++i) moved[3 * i + j] += k ? step : -step;
            losses_beside(&p, before, moved, loss[k][j]);
        }
    }
    assert_ok(p.kd, kd_trainer_open(p.student, &p.c.data, &p.desc, &t));
    assert_ok(p.kd, kd_trainer_step(t, NULL));
    assert_true(t->run->prompt == t->prompts);
    memcpy(moved, p.side, SAMPLES * 3 * sizeof *moved);
    for (i = 0; i < SAMPLES; ++i) {
        const float *now = t->prompts + 3 * i;
        if (now[0] == 0 && now[1] == 0 && now[2] == 0) {
            ++dropped;
            continue;
        }
        memcpy(moved + 3 * i, now, 3 * sizeof *now);
        for (j = 0; j < 3; ++j) {
            const double rise = loss[1][j][i] - loss[0][j][i];
            if (fabs(rise) < 1e-4) continue;
            assert_near(now[j], p.side[3 * i + j] + (rise > 0 ? epsilon : -epsilon), 1e-6);
            ++compared;
        }
    }
    assert_true(compared > 80 && dropped > 5 && dropped < 35);
    losses_beside(&p, before, p.side, clean);
    losses_beside(&p, before, moved, attacked);
    for (i = 0; i < SAMPLES; ++i) assert_true(attacked[i] >= clean[i]);
    kd_trainer_close(t);
    kd_model_destroy(before);
    free(moved);
    prompted_close(&p);
}

/* The teacher's soft targets move, too: within epsilon and within 0 and 1, to where the student is farther from the
   teacher; PGD from a random start goes farther than FGSM, and where it starts is another place in each epoch. */
static void test_prompt_attack_bounds(void **state)
{
    enum { NONE = -1, STARTS = KD_ATTACK_COUNT };
    double loss[4];
    float targets[SAMPLES * CLASSES], last[SAMPLES * CLASSES];
    int kind, i, epoch, other = 0;
    (void)state;
    for (kind = NONE; kind <= STARTS; ++kind) {
        prompted p;
        kd_trainer *t;
        kd_model *before;
        kd_evaluate_desc evaluate = kd_evaluate_defaults();
        kd_metrics metrics;
        prompted_open(&p, "2: prompt 4, dense 9, tanh, dense 4");
        p.desc.teacher = evaluate.teacher = p.teacher;
        p.desc.prompt = KD_PROMPT_TEACHER;
        p.desc.prompt_until = 1;
        p.desc.batch = SAMPLES;
        p.desc.shuffle = 0;
        p.desc.epochs = 1000000; /* none is dropped */
        p.desc.lr = 0;
        if (kind == KD_ATTACK_FGSM) p.desc.prompt_attack = kd_attack_defaults(KD_ATTACK_FGSM);
        p.desc.prompt_attack.epsilon = kind == NONE ? 0 : 0.3f;
        p.desc.prompt_attack.step = kind == STARTS ? 0 : 0.1f;
        p.desc.prompt_attack.loss = kd_loss_defaults(KD_LOSS_KL);
        p.desc.prompt_attack.loss.temperature = 1;
        assert_ok(p.kd, kd_predict(p.teacher, p.c.x, SAMPLES, targets));
        assert_ok(p.kd, kd_softmax(p.kd, targets, SAMPLES, CLASSES, 1, targets));
        assert_ok(p.kd, kd_model_clone(p.student, &before));
        assert_ok(p.kd, kd_trainer_open(p.student, &p.c.data, &p.desc, &t));
        for (epoch = 0; epoch < 2; ++epoch) {
            assert_ok(p.kd, kd_trainer_step(t, NULL));
            for (i = 0; i < SAMPLES * CLASSES; ++i) {
                assert_true(fabsf(t->prompts[i] - targets[i]) <= (kind == NONE ? 0 : 0.3001f));
                assert_true(t->prompts[i] >= 0 && t->prompts[i] <= 1);
                other += kind == STARTS && epoch && t->prompts[i] != last[i];
            }
            memcpy(last, t->prompts, sizeof last);
        }
        evaluate.prompt = KD_PROMPT_SIDE;
        p.c.data.side = last, p.c.data.side_count = CLASSES;
        assert_ok(p.kd, kd_evaluate_with(before, &p.c.data, &evaluate, &metrics));
        loss[kind + 1] = metrics.kl;
        if (kind == KD_ATTACK_FGSM) { /* an evaluation makes the same ones */
            evaluate.prompt = KD_PROMPT_TEACHER;
            evaluate.prompt_attack = &p.desc.prompt_attack;
            assert_ok(p.kd, kd_evaluate_with(before, &p.c.data, &evaluate, &metrics));
            assert_near(metrics.kl, loss[kind + 1], 1e-6);
        }
        kd_trainer_close(t);
        kd_model_destroy(before);
        prompted_close(&p);
    }
    if (!(loss[1] > loss[0] + 0.01 && loss[2] > loss[1])) fail_msg("%g, %g, %g", loss[0], loss[1], loss[2]);
    assert_true(other > SAMPLES * CLASSES / 2);
}

/* Of a line, whose error grows along sign((y - wanted) w): wanted is what the teacher says, or what the data do. */
static void test_prompt_attack_on_targets(void **state)
{
    int with_teacher, to_targets, i, j;
    (void)state;
    for (with_teacher = 0; with_teacher < 2; ++with_teacher) {
        for (to_targets = 0; to_targets < 2; ++to_targets) {
            prompted p;
            kd_trainer *t;
            float w[5], targets[SAMPLES], taught[SAMPLES];
            prompted_open(&p, "2: prompt 3, dense 1");
            kd_model_destroy(p.teacher);
            p.teacher = create(p.kd, "2: dense 8, tanh, dense 1");
            for (i = 0; i < SAMPLES; ++i) targets[i] = p.c.x[2 * i + 1] > 0 ? 2.0f : -2.0f;
            p.c.data = kd_data_f32(p.c.x, NULL, SAMPLES, 2, 1, 1, 0);
            p.c.data.targets = targets;
            p.c.data.side = p.side, p.c.data.side_count = 3;
            if (with_teacher) p.desc.teacher = p.teacher;
            p.desc.loss = kd_loss_defaults(KD_LOSS_MSE);
            p.desc.prompt = KD_PROMPT_SIDE;
            p.desc.prompt_attack = kd_attack_defaults(KD_ATTACK_FGSM);
            p.desc.prompt_attack.low = -9, p.desc.prompt_attack.high = 9;
            p.desc.prompt_attack.epsilon = 0.25f;
            p.desc.prompt_attack.loss = p.desc.loss;
            p.desc.prompt_attack.loss.to_targets = to_targets;
            p.desc.batch = SAMPLES, p.desc.shuffle = 0;
            assert_ok(p.kd, kd_model_get_tensor(p.student, "1.weight", w, 5));
            assert_ok(p.kd, kd_predict(p.teacher, p.c.x, SAMPLES, taught));
            assert_ok(p.kd, kd_trainer_open(p.student, &p.c.data, &p.desc, &t));
            assert_ok(p.kd, kd_trainer_step(t, NULL));
            for (i = 0; i < SAMPLES; ++i) {
                const float *side = p.side + 3 * i;
                const float y = w[0] * p.c.x[2 * i] + w[1] * p.c.x[2 * i + 1] + w[2] * side[0] + w[3] * side[1] +
                                w[4] * side[2];
                const float off = y - (with_teacher && !to_targets ? taught[i] : targets[i]);
                for (j = 0; j < 3 && fabsf(off) > 1e-4f; ++j)
                    assert_near(t->prompts[3 * i + j], side[j] + (off * w[2 + j] > 0 ? 0.25f : -0.25f), 1e-6);
            }
            kd_trainer_close(t);
            prompted_close(&p);
        }
    }
}

/* An evaluation with adversarial prompts is that of the prompts which kd_train would make; a student trained with
   them bears them better than one that was trained with the prompts as they are. */
static void test_prompt_attack_evaluated(void **state)
{
    double attacked[2], clean[2];
    int i, j;
    (void)state;
    for (i = 0; i < 2; ++i) {
        prompted p;
        kd_attack_desc attack = kd_attack_defaults(KD_ATTACK_PGD);
        kd_evaluate_desc evaluate = kd_evaluate_defaults();
        kd_metrics metrics;
        prompted_open(&p, "2: dense 12, tanh, prompt 4, dense 8, tanh, dense 4");
        free(p.side);
        p.c.data.side = p.side = test_floats(1, SAMPLES * CLASSES, 0.2f);
        p.c.data.side_count = CLASSES;
        for (j = 0; j < SAMPLES; ++j) p.side[j * CLASSES + p.c.labels[j]] += 1;
        attack.epsilon = 0.7f, attack.step = 0.2f, attack.low = -9, attack.high = 9;
        p.desc.prompt = evaluate.prompt = KD_PROMPT_SIDE;
        if (i) p.desc.prompt_attack = attack;
        p.desc.prompt_until = 1;
        p.desc.optimizer = KD_ADAM;
        p.desc.lr = 0.03f;
        p.desc.epochs = 60;
        assert_ok(p.kd, kd_train(p.student, &p.c.data, &p.desc));
        assert_ok(p.kd, kd_evaluate_with(p.student, &p.c.data, &evaluate, &metrics));
        clean[i] = metrics.nll;
        evaluate.prompt_attack = &attack;
        assert_ok(p.kd, kd_evaluate_with(p.student, &p.c.data, &evaluate, &metrics));
        attacked[i] = metrics.nll;
        assert_true(attacked[i] > clean[i]);
        attack = kd_attack_defaults(KD_ATTACK_FGSM);
        attack.epsilon = 0; /* the same numbers as without */
        attack.low = -9, attack.high = 9;
        assert_ok(p.kd, kd_evaluate_with(p.student, &p.c.data, &evaluate, &metrics));
        assert_true(metrics.nll == clean[i]);
        prompted_close(&p);
    }
    if (!(attacked[1] < 0.7 * attacked[0]))
        fail_msg("%g and %g, adversarial %g and %g", clean[0], clean[1], attacked[0], attacked[1]);
}

/* Any number of threads, and a stop on the way, give the same bits; another attack is another training. */
static void test_prompt_attack_repeated(void **state)
{
    char path[] = P_tmpdir "/kd_tasks_XXXXXX";
    const int file = mkstemp(path);
    uint64_t hash[3];
    int i, step;
    (void)state;
    assert_true(file >= 0);
    close(file);
    for (i = 0; i < 3; ++i) {
        prompted p;
        kd_trainer *t, *other;
        prompted_open(&p, "2: dense 5, tanh, prompt 4, dense 4");
        if (i == 1) { /* the same with three threads, which sees the whole way */
            kd_ctx *kd = test_open(KD_ISA_AUTO, 3);
            kd_model_destroy(p.student);
            p.student = create(kd, "2: dense 5, tanh, prompt 4, dense 4");
            kd_model_destroy(p.teacher);
            p.teacher = create(kd, "2: dense 8, tanh, dense 4");
            kd_close(p.kd);
            p.kd = kd;
        }
        p.desc.teacher = p.teacher;
        p.desc.prompt = KD_PROMPT_TEACHER;
        p.desc.prompt_attack.epsilon = 0.2f;
        p.desc.batch = 17;
        p.desc.epochs = 6;
        assert_ok(p.kd, kd_trainer_open(p.student, &p.c.data, &p.desc, &t));
        if (i == 2) assert_ok(p.kd, kd_trainer_load(t, path));
        for (step = i == 2 ? 7 : 0; step < 20; ++step) {
            if (i == 0 && step == 7) assert_ok(p.kd, kd_trainer_save(t, path));
            assert_ok(p.kd, kd_trainer_step(t, NULL));
        }
        hash[i] = kd_model_hash(p.student);
        kd_trainer_close(t);
        p.desc.prompt_attack.epsilon = i ? 0.3f : 0;
        assert_ok(p.kd, kd_trainer_open(p.student, &p.c.data, &p.desc, &other));
        assert_fails(p.kd, kd_trainer_load(other, path), KD_ERR_DATA, "other options");
        kd_trainer_close(other);
        prompted_close(&p);
    }
    unlink(path);
    assert_true(hash[0] == hash[1] && hash[0] == hash[2]);
}

/* A training with prompts, one option changed, is refused. */
#define REFUSED(change, result, text)                                                                              \
    do {                                                                                                           \
        p.desc = desc;                                                                                             \
        p.desc.prompt = KD_PROMPT_SIDE;                                                                            \
        change;                                                                                                    \
        assert_fails(p.kd, kd_train(p.student, &p.c.data, &p.desc), result, text);                                 \
    } while (0)

static void test_prompt_attack_refused(void **state)
{
    prompted p;
    kd_train_desc desc;
    kd_attack_desc attack = kd_attack_defaults(KD_ATTACK_FGSM);
    kd_evaluate_desc evaluate = kd_evaluate_defaults();
    kd_metrics metrics;
    uint64_t before;
    (void)state;
    prompted_open(&p, "2: prompt 3, dense 4");
    p.desc.prompt_attack = attack;
    desc = p.desc;
    before = kd_model_hash(p.student);
    REFUSED(p.desc.prompt = KD_PROMPT_NONE, KD_ERR_ARGUMENT, "prompt_attack without prompts");
    REFUSED(p.desc.prompt_attack.epsilon = -1, KD_ERR_ARGUMENT, "epsilon must be 0 to 1000000, got -1");
    REFUSED(p.desc.prompt_attack.epsilon = (float)NAN, KD_ERR_ARGUMENT, "epsilon must be");
    REFUSED(p.desc.prompt_attack.cookie = 1, KD_ERR_DEFAULTS, "kd_attack_defaults()");
    REFUSED(p.desc.prompt_attack.loss = kd_loss_defaults(KD_LOSS_KL), KD_ERR_ARGUMENT, "needs a teacher");
    REFUSED((p.desc.prompt_attack.loss.kind = KD_LOSS_MSE, p.desc.prompt_attack.loss.to_targets = 1),
            KD_ERR_ARGUMENT, "to_targets needs kd_data.targets");
    REFUSED((p.desc.loss = kd_loss_defaults(KD_LOSS_CE), p.desc.loss.columns = 4), KD_ERR_ARGUMENT,
            "several heads");
    evaluate.prompt_attack = &attack;
    assert_fails(p.kd, kd_evaluate_with(p.student, &p.c.data, &evaluate, &metrics), KD_ERR_ARGUMENT,
                 "prompt_attack without prompts");
    evaluate.prompt = KD_PROMPT_SIDE;
    p.c.labels[7] = 4;
    assert_fails(p.kd, kd_evaluate_with(p.student, &p.c.data, &evaluate, &metrics), KD_ERR_DATA,
                 "label 4 of sample 7 is outside 0 to 3");
    p.c.labels[7] = KD_UNLABELLED;
    assert_ok(p.kd, kd_evaluate_with(p.student, &p.c.data, &evaluate, &metrics));
    assert_int_equal(metrics.count, SAMPLES - 1);
    p.c.data.labels = NULL;
    assert_fails(p.kd, kd_evaluate_with(p.student, &p.c.data, &evaluate, &metrics), KD_ERR_ARGUMENT,
                 "needs labels");
    assert_true(before == kd_model_hash(p.student));
    prompted_close(&p);
}

/* Of a teacher with one output, the probability of class 1. */
static void test_prompt_of_one_output(void **state)
{
    prompted p;
    kd_trainer *t;
    float taught[SAMPLES];
    int i;
    (void)state;
    prompted_open(&p, "2: prompt 1, dense 1");
    kd_model_destroy(p.teacher);
    p.teacher = create(p.kd, "2: dense 1");
    for (i = 0; i < SAMPLES; ++i) p.c.labels[i] %= 2;
    p.c.data.classes = 2;
    p.desc.teacher = p.teacher;
    p.desc.loss = kd_loss_defaults(KD_LOSS_BCE);
    p.desc.prompt = KD_PROMPT_TEACHER;
    p.desc.prompt_temperature = 0.5f;
    p.desc.batch = SAMPLES, p.desc.shuffle = 0;
    assert_ok(p.kd, kd_predict(p.teacher, p.c.x, SAMPLES, taught));
    assert_ok(p.kd, kd_trainer_open(p.student, &p.c.data, &p.desc, &t));
    assert_ok(p.kd, kd_trainer_step(t, NULL));
    for (i = 0; i < SAMPLES; ++i) assert_near(t->prompts[i], 1 / (1 + exp(-2 * (double)taught[i])), 1e-6);
    kd_trainer_close(t);
    prompted_close(&p);
}

static void test_prompt_refused(void **state)
{
    prompted p;
    kd_train_desc desc;
    kd_evaluate_desc evaluate = kd_evaluate_defaults();
    kd_metrics metrics;
    kd_model *none, *four;
    float *targets = test_floats(7, SAMPLES * CLASSES, 1);
    uint64_t before;
    (void)state;
    prompted_open(&p, "2: prompt 3, dense 4");
    desc = p.desc;
    before = kd_model_hash(p.student);
    REFUSED(p.desc.prompt = (kd_prompt)9, KD_ERR_ARGUMENT, "prompt must be 0 to 2, got 9");
    REFUSED(p.desc.prompt = KD_PROMPT_TEACHER, KD_ERR_ARGUMENT, "these prompts need a teacher");
    REFUSED((p.desc.prompt = KD_PROMPT_TEACHER, p.desc.teacher = p.teacher), KD_ERR_SHAPE,
            "a prompt has 4 numbers, but the model takes 3");
    REFUSED(p.desc.prompt_drop = 1.5f, KD_ERR_ARGUMENT, "prompt_drop must be 0 to 1");
    REFUSED(p.desc.prompt_until = -1, KD_ERR_ARGUMENT, "prompt_until must be 0 to 1");
    REFUSED(p.desc.prompt_temperature = 0, KD_ERR_ARGUMENT, "prompt_temperature must be 0.001");
    REFUSED(p.desc.augment.mixup = 0.2f, KD_ERR_ARGUMENT, "mixup blends labels, but not side vectors");
    REFUSED(p.c.data.side_count = 2, KD_ERR_SHAPE, "a prompt has 2 numbers, but the model takes 3");
    p.c.data.side_count = 3;
    REFUSED(p.side[5] = (float)NAN, KD_ERR_NOT_FINITE, "side");
    REFUSED(p.c.data.side = NULL, KD_ERR_ARGUMENT, "these prompts need kd_data.side");
#undef REFUSED
    p.desc = desc;
    p.desc.prompt = KD_PROMPT_TEACHER, p.desc.teacher = p.teacher; /* who is asked for prompts alone */
    p.desc.loss = kd_loss_defaults(KD_LOSS_MSE), p.desc.loss.to_targets = 1;
    assert_ok(p.kd, kd_model_create(p.kd, "2: prompt 4, dense 4", 1, &four));
    p.c.data.targets = targets;
    p.desc.augment.mixup = 0.2f;
    assert_fails(p.kd, kd_train(four, &p.c.data, &p.desc), KD_ERR_ARGUMENT, "what a teacher sees, but not targets");
    p.desc.augment.mixup = 0, p.desc.loss.adjust = KD_ADJUST_SHIFT;
    assert_fails(p.kd, kd_train(four, &p.c.data, &p.desc), KD_ERR_ARGUMENT, "targets are no teacher");
    p.desc.loss.adjust = KD_ADJUST_NONE;
    assert_ok(p.kd, kd_train(four, &p.c.data, &p.desc));
    kd_model_destroy(four);
    free(targets);
    p.c.data.targets = NULL;
    evaluate.prompt = KD_PROMPT_TEACHER;
    assert_fails(p.kd, kd_evaluate_with(p.student, &p.c.data, &evaluate, &metrics), KD_ERR_ARGUMENT,
                 "need a teacher");
    evaluate.prompt_temperature = 0;
    assert_fails(p.kd, kd_evaluate_with(p.student, &p.c.data, &evaluate, &metrics), KD_ERR_ARGUMENT,
                 "prompt_temperature");
    assert_fails(p.kd, kd_model_create(p.kd, "2: prompt 3, prompt 3", 1, &none), KD_ERR_SPEC,
                 "column 14: a model may have one layer that takes prompts");
    assert_fails(p.kd, kd_model_create(p.kd, "15x4096x4096: prompt 100000000", 1, &none), KD_ERR_SPEC,
                 "is too large");
    assert_true(before == kd_model_hash(p.student));
    prompted_close(&p);
}

static void check_same_weights(const kd_model *a, const kd_model *b, double tolerance)
{
    kd_tensor_info info;
    float x[600], y[600];
    int i;
    int64_t j;
    for (i = 0; i < kd_model_tensors(a); ++i) {
        assert_ok(a->kd, kd_model_tensor_info(a, i, &info));
        assert_true(info.count <= 600);
        assert_ok(a->kd, kd_model_get_tensor(a, info.name, x, info.count));
        assert_ok(b->kd, kd_model_get_tensor(b, info.name, y, info.count));
        for (j = 0; j < info.count; ++j) assert_near(x[j], y[j], tolerance);
    }
}

/* ---- with what else there is ----------------------------------------------------------------------------- */

/* The gradient by the inputs passes through both layers: a step of FGSM goes where differences say. */
static void test_layers_attacked(void **state)
{
    kd_ctx *kd = test_open(KD_ISA_AUTO, 1);
    kd_model *m = create(kd, "2x4x4: conv 3 2, tanh, prompt 2, dense 9, tanh, softtree 3 4 penalty=5");
    const kd_loss_desc ce = kd_loss_defaults(KD_LOSS_CE);
    const int32_t labels[3] = {0, 3, 1};
    kd_attack_desc desc = kd_attack_defaults(KD_ATTACK_FGSM);
    float *x = test_floats(2, 96, 0.5f), attacked[96], logits[12];
    int i, k, compared = 0;
    (void)state;
    desc.low = -2, desc.high = 2;
    assert_ok(kd, kd_attack(m, NULL, x, labels, 3, &desc, attacked));
    for (i = 0; i < 96; ++i) {
        const float kept = x[i];
        double value[2];
        for (k = 0; k < 2; ++k) {
            x[i] = kept + (k ? -0.01f : 0.01f);
            assert_ok(kd, kd_predict(m, x, 3, logits));
            assert_ok(kd, kd_loss(kd, &ce, logits, NULL, labels, 3, 4, NULL, &value[k]));
        }
        x[i] = kept;
        if (fabs(value[0] - value[1]) < 1e-5) continue;
        assert_true((attacked[i] > kept) == (value[0] > value[1]));
        ++compared;
    }
    assert_true(compared > 60);
    free(x);
    kd_model_destroy(m);
    kd_close(kd);
}

/* Two backward passes, of hard and of soft terms, bring the penalty of a tree once. */
static void test_tree_dot(void **state)
{
    kd_ctx *kd = test_open(KD_ISA_AUTO, 1);
    kd_model *m[2], *teacher = create(kd, "2: dense 4");
    corners c;
    int i;
    (void)state;
    corners_make(&c);
    for (i = 0; i < 2; ++i) {
        kd_train_desc desc = kd_train_defaults();
        m[i] = create(kd, "2: softtree 2 4 penalty=3");
        desc.teacher = teacher;
        desc.optimizer = KD_SGD;
        desc.lr = 0.1f;
        desc.epochs = 3;
        desc.dot_delta = i ? 1e-6f : 0;
        assert_ok(kd, kd_train(m[i], &c.data, &desc));
    }
    check_same_weights(m[0], m[1], 1e-4);
    for (i = 0; i < 2; ++i) kd_model_destroy(m[i]);
    kd_model_destroy(teacher);
    kd_close(kd);
}

/* Prompts reach both kinds of images, and a teacher with data of its own stays with them. */
static void test_prompt_adversarial(void **state)
{
    prompted p;
    kd_loss_desc losses[2];
    kd_trainer *t;
    int i, k;
    (void)state;
    prompted_open(&p, "2: prompt 4, dense 4");
    losses[0] = losses[1] = kd_loss_defaults(KD_LOSS_KL);
    losses[1].inputs = KD_INPUTS_ADVERSARIAL;
    p.desc.losses = losses, p.desc.loss_count = 2;
    p.desc.teacher = p.teacher;
    p.desc.prompt = KD_PROMPT_TEACHER;
    p.desc.attack.low = -2, p.desc.attack.high = 2;
    assert_ok(p.kd, kd_trainer_open(p.student, &p.c.data, &p.desc, &t));
    assert_ok(p.kd, kd_trainer_step(t, NULL));
    for (i = 0; i < 2; ++i) {
        const float *seen = t->runs[i]->act[p.student->nodes[1].in].base;
        for (k = 0; k < 4; ++k) assert_true(seen[2 + k] == t->prompts[k]);
    }
    kd_trainer_close(t);
    prompted_close(&p);
}

/* ---- several heads --------------------------------------------------------------------------------------- */

enum { HEADS = 3, OUTPUTS = 6 };
static const int head_first[HEADS] = {0, 2, 5}, head_columns[HEADS] = {2, 3, 1};

/* Three questions about a point, with 2, 3 and 2 answers, the last with a single logit, and a last layer with a
   head for each. */
typedef struct heads {
    kd_ctx *kd;
    kd_model *all, *teacher;
    kd_model *apart[HEADS], *teacher_apart[HEADS]; /* the same heads, as models of their own */
    corners c;
    int32_t labels[HEADS][SAMPLES];
    float *targets;
    kd_loss_desc losses[HEADS];
    kd_train_desc desc;
} heads;

/* A model that is one head of another. */
static kd_model *head_of(const kd_model *m, int head)
{
    char spec[32];
    float weight[OUTPUTS * 2], bias[OUTPUTS];
    kd_model *apart;
    snprintf(spec, sizeof spec, "2: dense %d", head_columns[head]);
    apart = create(m->kd, spec);
    assert_ok(m->kd, kd_model_get_tensor(m, "0.weight", weight, OUTPUTS * 2));
    assert_ok(m->kd, kd_model_get_tensor(m, "0.bias", bias, OUTPUTS));
    assert_ok(m->kd, kd_model_set_tensor(apart, "0.weight", weight + 2 * head_first[head], 2 * head_columns[head]));
    assert_ok(m->kd, kd_model_set_tensor(apart, "0.bias", bias + head_first[head], head_columns[head]));
    return apart;
}

static void heads_open(heads *h)
{
    const float bias[OUTPUTS] = {0.2f, -0.4f, 0.6f, 0.1f, -0.2f, 0.5f};
    int i;
    memset(h, 0, sizeof *h);
    h->kd = test_open(KD_ISA_AUTO, 1);
    corners_make(&h->c);
    for (i = 0; i < SAMPLES; ++i) {
        const float x = h->c.x[2 * i], y = h->c.x[2 * i + 1];
        h->labels[0][i] = x > 0.1f;
        h->labels[1][i] = y > 0.4f ? 2 : y > -0.3f;
        h->labels[2][i] = x + y > 0;
    }
    h->labels[1][7] = KD_UNLABELLED;
    h->all = create(h->kd, "2: dense 6");
    assert_ok(h->kd, kd_model_create(h->kd, "2: dense 6", 99, &h->teacher));
    assert_ok(h->kd, kd_model_set_tensor(h->teacher, "0.bias", bias, OUTPUTS));
    h->targets = test_floats(5, SAMPLES * OUTPUTS, 2);
    h->c.data.labels = h->labels[0];
    h->c.data.task_labels = h->labels[1];
    h->c.data.task_count = 2;
    h->c.data.classes = 2;
    for (i = 0; i < HEADS; ++i) {
        h->apart[i] = head_of(h->all, i);
        h->teacher_apart[i] = head_of(h->teacher, i);
        h->losses[i] = kd_loss_defaults(i == 2 ? KD_LOSS_BCE : KD_LOSS_HINTON);
        h->losses[i].first = head_first[i], h->losses[i].columns = head_columns[i], h->losses[i].task = i;
        h->losses[i].alpha = 0.4f;
    }
    h->desc = kd_train_defaults();
    h->desc.losses = h->losses;
    h->desc.loss_count = HEADS;
    h->desc.epochs = 3;
    h->desc.batch = 23;
    h->desc.lr = 0.02f;
}

static void heads_close(heads *h)
{
    int i;
    for (i = 0; i < HEADS; ++i) kd_model_destroy(h->apart[i]), kd_model_destroy(h->teacher_apart[i]);
    kd_model_destroy(h->all);
    kd_model_destroy(h->teacher);
    free(h->targets);
    kd_close(h->kd);
}

/* What the loss of one head is given when its model is trained alone. */
static kd_data data_of(const heads *h, int head)
{
    kd_data data = h->c.data;
    data.labels = h->labels[head];
    data.task_labels = NULL;
    data.task_count = 0;
    data.classes = head_columns[head] == 1 ? 2 : head_columns[head];
    return data;
}

/* Trains all heads at once, and each by itself: the same weights must come out. */
static void check_heads(heads *h, const kd_model *const *teachers, const kd_model *const (*apart)[2])
{
    float together[OUTPUTS * 2], alone[OUTPUTS * 2];
    kd_train_desc desc = h->desc;
    int i, j;
    desc.teachers = teachers;
    desc.teacher_count = teachers ? 2 : 0;
    if (!teachers) desc.teacher = h->teacher;
    assert_ok(h->kd, kd_train(h->all, &h->c.data, &desc));
    assert_ok(h->kd, kd_model_get_tensor(h->all, "0.weight", together, OUTPUTS * 2));
    for (i = 0; i < h->desc.loss_count; ++i) {
        const kd_data data = data_of(h, i);
        kd_train_desc own = h->desc;
        own.losses = NULL, own.loss_count = 0;
        own.loss = h->losses[i];
        own.loss.first = own.loss.columns = own.loss.task = 0;
        own.teachers = teachers ? apart[i] : NULL;
        own.teacher_count = teachers ? 2 : 0;
        if (!teachers) own.teacher = h->teacher_apart[i];
        assert_ok(h->kd, kd_train(h->apart[i], &data, &own));
        assert_ok(h->kd, kd_model_get_tensor(h->apart[i], "0.weight", alone, 2 * head_columns[i]));
        for (j = 0; j < 2 * head_columns[i]; ++j) assert_near(together[2 * head_first[i] + j], alone[j], 1e-6);
    }
}

static void test_heads(void **state)
{
    heads h;
    const kd_model *teachers[2], *apart[HEADS][2];
    kd_model *second;
    int i, k;
    (void)state;
    heads_open(&h); /* one teacher with the same heads */
    check_heads(&h, NULL, NULL);
    heads_close(&h);
    for (k = 0; k < 2; ++k) { /* two, whose probabilities or logits are averaged, head by head */
        heads_open(&h);
        h.desc.teacher_average = k ? KD_AVERAGE_LOGITS : KD_AVERAGE_PROBABILITIES;
        assert_ok(h.kd, kd_model_create(h.kd, "2: dense 6", 77, &second));
        teachers[0] = h.teacher, teachers[1] = second;
        for (i = 0; i < HEADS; ++i) apart[i][0] = h.teacher_apart[i], apart[i][1] = head_of(second, i);
        h.desc.loss_count = k ? HEADS : 2; /* of a single column there is no softmax to average */
        check_heads(&h, teachers, (const kd_model *const(*)[2])apart);
        for (i = 0; i < HEADS; ++i) kd_model_destroy((kd_model *)(uintptr_t)apart[i][1]);
        kd_model_destroy(second);
        heads_close(&h);
    }
}

/* Without a teacher: targets of a regression beside classes. */
static void test_heads_targets(void **state)
{
    heads h;
    float together[OUTPUTS * 2], alone[6], targets[SAMPLES * 3];
    kd_train_desc desc;
    kd_data data;
    int i;
    (void)state;
    heads_open(&h);
    h.c.data.targets = h.targets;
    h.losses[0].kind = KD_LOSS_CE;
    h.losses[1] = kd_loss_defaults(KD_LOSS_MSE);
    h.losses[1].first = 2, h.losses[1].columns = 3;
    desc = h.desc;
    assert_ok(h.kd, kd_train(h.all, &h.c.data, &desc));
    assert_ok(h.kd, kd_model_get_tensor(h.all, "0.weight", together, OUTPUTS * 2));
    kd__gather_columns(targets, h.targets, SAMPLES, OUTPUTS, 2, 3);
    data = data_of(&h, 1);
    data.labels = NULL;
    data.targets = targets;
    desc.losses = NULL, desc.loss_count = 0;
    assert_ok(h.kd, kd_train(h.apart[1], &data, &desc));
    assert_ok(h.kd, kd_model_get_tensor(h.apart[1], "0.weight", alone, 6));
    for (i = 0; i < 6; ++i) assert_near(together[4 + i], alone[i], 1e-6);
    heads_close(&h);
}

static int keep_epoch(void *user, const kd_epoch_info *info)
{
    assert_true(info->loss_weights[0] == 1);
    *(kd_epoch_info *)user = *info;
    return 0;
}

/* Metrics of a head are those of a model that has no other; validation and accuracy follow the first loss. */
static void test_heads_evaluated(void **state)
{
    heads h;
    int i, j;
    (void)state;
    heads_open(&h);
    for (i = 0; i < HEADS; ++i) {
        kd_evaluate_desc desc = kd_evaluate_defaults();
        kd_data data = data_of(&h, i);
        kd_metrics head, apart;
        int64_t confusion[2][9];
        desc.teacher = h.teacher;
        desc.first = head_first[i], desc.columns = head_columns[i], desc.task = i;
        desc.confusion = confusion[0];
        desc.batch = 17;
        h.c.data.targets = h.targets;
        assert_ok(h.kd, kd_evaluate_with(h.all, &h.c.data, &desc, &head));
        desc.first = desc.columns = desc.task = 0;
        desc.teacher = h.teacher_apart[i];
        desc.confusion = confusion[1];
        assert_ok(h.kd, kd_evaluate_with(h.apart[i], &data, &desc, &apart));
        for (apart.mse = 0, j = 0; j < SAMPLES * head_columns[i]; ++j) {
            const int at = j / head_columns[i] * OUTPUTS + head_first[i] + j % head_columns[i];
            float logits[OUTPUTS];
            assert_ok(h.kd, kd_predict(h.all, h.c.x + 2 * (at / OUTPUTS), 1, logits));
            apart.mse += pow((double)logits[at % OUTPUTS] - (double)h.targets[at], 2) / (SAMPLES * head_columns[i]);
        }
        assert_near(head.mse, apart.mse, 1e-6);
        head.mse = apart.mse;
        assert_memory_equal(&head, &apart, sizeof head);
        for (j = 0; j < data.classes * data.classes; ++j) assert_int_equal(confusion[0][j], confusion[1][j]);
    }
    h.c.data.targets = NULL;
    for (i = 0; i < HEADS; ++i) {
        kd_epoch_info info;
        kd_evaluate_desc desc = kd_evaluate_defaults();
        kd_metrics metrics;
        kd_train_desc train = h.desc;
        train.teacher = h.teacher;
        train.losses = &h.losses[i], train.loss_count = 1;
        train.validation_data = &h.c.data;
        train.lr = 0;
        train.epochs = 1;
        train.on_epoch = keep_epoch;
        train.user = &info;
        assert_ok(h.kd, kd_train(h.all, &h.c.data, &train));
        desc.first = head_first[i], desc.columns = head_columns[i], desc.task = i;
        assert_ok(h.kd, kd_evaluate_with(h.all, &h.c.data, &desc, &metrics));
        assert_near(info.accuracy, metrics.accuracy, 1e-12);
        assert_near(info.validation.accuracy, metrics.accuracy, 1e-12);
        assert_near(info.validation.nll, metrics.nll, 1e-12);
        assert_true(info.validation.agreement >= 0);
    }
    heads_close(&h);
}

/* All columns as one head: what its labels are, its columns say, whatever data.classes is. */
static void test_whole_head(void **state)
{
    heads h;
    kd_evaluate_desc desc = kd_evaluate_defaults();
    kd_data data, alone;
    kd_metrics head, apart;
    int64_t confusion[2][10];
    (void)state;
    heads_open(&h);
    data = h.c.data, alone = data_of(&h, 1);
    data.classes = 10;
    confusion[0][9] = 77;
    desc.confusion = confusion[1];
    assert_ok(h.kd, kd_evaluate_with(h.apart[1], &alone, &desc, &apart));
    desc.columns = 3, desc.task = 1;
    desc.confusion = confusion[0];
    assert_ok(h.kd, kd_evaluate_with(h.apart[1], &data, &desc, &head));
    assert_int_equal(head.classes, 3);
    assert_memory_equal(&head, &apart, sizeof head);
    assert_memory_equal(confusion[0], confusion[1], 9 * sizeof *confusion[0]);
    assert_int_equal(confusion[0][9], 77);
    h.labels[1][3] = 3;
    assert_fails(h.kd, kd_evaluate_with(h.apart[1], &data, &desc, &head), KD_ERR_DATA, "outside 0 to 2");
    { /* the same where no loss has all columns for labels: validation may not look beyond the outputs */
        kd_loss_desc losses[2];
        kd_train_desc train = h.desc;
        kd_epoch_info info;
        losses[0] = kd_loss_defaults(KD_LOSS_KL), losses[1] = h.losses[1];
        train.teacher = h.teacher, train.losses = losses, train.loss_count = 2, train.epochs = 1;
        train.on_epoch = keep_epoch, train.user = &info;
        h.labels[1][3] = 1;
        data = h.c.data, data.classes = 100;
        train.validation_data = &data;
        assert_ok(h.kd, kd_train(h.all, &data, &train));
        assert_int_equal(info.validation.classes, OUTPUTS);
        h.labels[0][4] = OUTPUTS;
        assert_fails(h.kd, kd_train(h.all, &data, &train), KD_ERR_DATA, "is outside 0 to 5");
    }
    data = h.c.data, data.classes = 1;
    desc.columns = 1, desc.task = 2;
    assert_ok(h.kd, kd_evaluate_with(h.apart[2], &data, &desc, &head));
    assert_int_equal(head.classes, 2);
    heads_close(&h);
}

/* Step by step with SGD in double precision: the losses, their variances, and the weights of the heads. */
static void test_uncertainty(void **state)
{
    static const float weights[HEADS] = {1, 4, 0.5f};
    heads h;
    kd_trainer *t;
    kd_step_info info;
    double s[HEADS] = {0}, w[OUTPUTS * 2];
    float weight[OUTPUTS * 2], logits[SAMPLES * OUTPUTS];
    int step, i, j, k;
    (void)state;
    heads_open(&h);
    for (i = 0; i < HEADS; ++i) h.losses[i].kind = i == 2 ? KD_LOSS_BCE : KD_LOSS_CE;
    h.labels[1][7] = 0;
    h.desc.loss_weights = weights;
    h.desc.uncertainty = 1;
    h.desc.optimizer = KD_SGD, h.desc.momentum = 0, h.desc.lr = 0.5f, h.desc.weight_decay = 0.1f;
    h.desc.batch = SAMPLES, h.desc.shuffle = 0, h.desc.epochs = 5;
    assert_ok(h.kd, kd_trainer_open(h.all, &h.c.data, &h.desc, &t));
    for (step = 0; step < 5; ++step) {
        double loss = 0;
        assert_ok(h.kd, kd_model_get_tensor(h.all, "0.weight", weight, OUTPUTS * 2));
        assert_ok(h.kd, kd_predict(h.all, h.c.x, SAMPLES, logits));
        for (i = 0; i < HEADS; ++i) {
            kd_loss_desc desc = h.losses[i];
            float part[SAMPLES * 3], grad[SAMPLES * 3];
            const double factor = exp(-s[i]) * (double)weights[i];
            double value;
            desc.first = desc.columns = desc.task = 0;
            kd__gather_columns(part, logits, SAMPLES, OUTPUTS, head_first[i], head_columns[i]);
            assert_ok(h.kd, kd_loss(h.kd, &desc, part, NULL, h.labels[i], SAMPLES, head_columns[i], grad, &value));
            for (j = 0; j < 2 * head_columns[i]; ++j) {
                double sum = 0;
                for (k = 0; k < SAMPLES; ++k)
                    sum += (double)grad[k * head_columns[i] + j / 2] * (double)h.c.x[2 * k + j % 2];
                k = 2 * head_first[i] + j;
                w[k] = (double)weight[k] - 0.5 * (factor * sum + 0.1 * (double)weight[k]);
            }
            loss += factor * value + s[i] / 2;
            s[i] -= 0.5 * (0.5 - factor * value);
        }
        assert_ok(h.kd, kd_trainer_step(t, &info));
        assert_near(info.loss, loss, 1e-6);
        assert_ok(h.kd, kd_model_get_tensor(h.all, "0.weight", weight, OUTPUTS * 2));
        for (j = 0; j < OUTPUTS * 2; ++j) assert_near(weight[j], w[j], 1e-6);
        for (i = 0; i < HEADS; ++i) assert_near(t->variances[i], s[i], 1e-6);
    }
    assert_near(t->weights_now[1], 4 * exp(-s[1]), 1e-5);
    assert_true(s[1] > 0.1 && s[2] < -0.1);
    kd_trainer_close(t);
    heads_close(&h);
}

/* What has been learned beside the weights is in a checkpoint. */
static void test_uncertainty_saved(void **state)
{
    char path[] = P_tmpdir "/kd_tasks_XXXXXX";
    const int file = mkstemp(path);
    heads h[2];
    kd_trainer *t[2];
    int i, step;
    (void)state;
    assert_true(file >= 0);
    close(file);
    for (i = 0; i < 2; ++i) {
        heads_open(&h[i]);
        h[i].desc.teacher = h[i].teacher;
        h[i].desc.uncertainty = 1;
        h[i].desc.accumulate = 2;
        assert_ok(h[i].kd, kd_trainer_open(h[i].all, &h[i].c.data, &h[i].desc, &t[i]));
    }
    for (step = 0; step < 4; ++step) assert_ok(h[0].kd, kd_trainer_step(t[0], NULL));
    assert_ok(h[0].kd, kd_trainer_save(t[0], path));
    assert_ok(h[1].kd, kd_trainer_load(t[1], path));
    for (step = 4; step < 9; ++step) {
        for (i = 0; i < 2; ++i) assert_ok(h[i].kd, kd_trainer_step(t[i], NULL));
    }
    assert_true(t[0]->variances[1] != 0);
    assert_memory_equal(t[0]->variances, t[1]->variances, sizeof t[0]->variances);
    assert_true(kd_model_hash(h[0].all) == kd_model_hash(h[1].all));
    kd_trainer_close(t[0]);
    h[1].labels[2][3] ^= 1;
    assert_fails(h[1].kd, kd_trainer_load(t[1], path), KD_ERR_DATA, "other data");
    kd_trainer_close(t[1]);
    heads_close(&h[0]);
    heads_close(&h[1]);
    unlink(path);
}

static void test_heads_refused(void **state)
{
    heads h;
    kd_loss_desc good[HEADS];
    const kd_model *teachers[2];
    kd_train_desc desc;
    kd_evaluate_desc evaluate = kd_evaluate_defaults();
    kd_metrics metrics;
    uint64_t before;
    double value;
    (void)state;
    heads_open(&h);
    h.desc.teacher = h.teacher;
    memcpy(good, h.losses, sizeof good);
    desc = h.desc;
    before = kd_model_hash(h.all);
#define REFUSED(change, result, text)                                                                              \
    do {                                                                                                           \
        memcpy(h.losses, good, sizeof good);                                                                       \
        h.desc = desc;                                                                                             \
        change;                                                                                                    \
        assert_fails(h.kd, kd_train(h.all, &h.c.data, &h.desc), result, text);                                     \
    } while (0)
    REFUSED(h.losses[1].columns = 5, KD_ERR_SHAPE, "5 columns from column 2, but the model has 6 outputs");
    REFUSED(h.losses[1].first = -1, KD_ERR_SHAPE, "3 columns from column -1");
    REFUSED(h.losses[1].columns = 0, KD_ERR_SHAPE, "0 columns from column 2");
    REFUSED(h.losses[1].task = 3, KD_ERR_DATA, "task 3, but the data have labels for 2 besides the first");
    REFUSED((h.losses[1].first = 0, h.losses[1].columns = 0), KD_ERR_ARGUMENT, "task 1 needs first and columns");
    REFUSED(h.losses[1].columns = 2, KD_ERR_DATA, "label 2 of row");
    REFUSED(h.desc.augment.mixup = 0.2f, KD_ERR_ARGUMENT, "know nothing of several heads");
    teachers[0] = teachers[1] = h.teacher;
    REFUSED((h.desc.teacher = NULL, h.desc.teachers = teachers, h.desc.teacher_count = 2), KD_ERR_ARGUMENT,
            "the softmax of a single column is always 1");
    REFUSED(h.desc.uncertainty = 2, KD_ERR_ARGUMENT, "uncertainty must be 0 to 1, got 2");
    REFUSED(h.desc.loss.columns = 2, KD_ERR_ARGUMENT, "give loss or losses, not both; columns of loss has no use");
    REFUSED(h.desc.loss.alpha = 0.5f, KD_ERR_ARGUMENT, "alpha of loss has no use");
    REFUSED(h.desc.loss.temperature = 2, KD_ERR_ARGUMENT, "temperature of loss has no use");
    REFUSED(h.desc.loss.label_smoothing = 0.1f, KD_ERR_ARGUMENT, "label_smoothing of loss has no use");
    REFUSED((h.desc.loss = h.losses[0], h.desc.losses = NULL, h.desc.loss_count = 0, h.desc.uncertainty = 1),
            KD_ERR_ARGUMENT, "uncertainty weighs several losses");
    REFUSED(h.losses[1].inputs = KD_INPUTS_ADVERSARIAL, KD_ERR_ARGUMENT, "attacks know nothing of several heads");
    REFUSED((h.desc.uncertainty = 1, h.desc.optimizer = KD_SGD, h.desc.dot_delta = 0.05f), KD_ERR_ARGUMENT,
            "uncertainty weighs whole losses, dot_delta parts them");
    REFUSED((h.c.data.task_labels = NULL), KD_ERR_DATA, "task 1, but the data have labels for 0");
    h.c.data.task_labels = h.labels[1];
#undef REFUSED
    evaluate.first = 3, evaluate.columns = 4;
    assert_fails(h.kd, kd_evaluate_with(h.all, &h.c.data, &evaluate, &metrics), KD_ERR_SHAPE,
                 "4 columns from column 3");
    evaluate.first = 2, evaluate.columns = 2, evaluate.task = 1;
    assert_fails(h.kd, kd_evaluate_with(h.all, &h.c.data, &evaluate, &metrics), KD_ERR_DATA, "is outside 0 to 1");
    assert_fails(h.kd, kd_loss(h.kd, &good[1], h.targets, h.targets, h.labels[1], 2, 3, NULL, &value),
                 KD_ERR_ARGUMENT, "first, columns and task are for training");
    assert_fails(h.kd, kd_evaluate(h.all, &h.c.data, &metrics), KD_ERR_SHAPE,
                 "6 outputs, but the data have 2 classes");
    assert_true(before == kd_model_hash(h.all));
    heads_close(&h);
}

/* ---- what the teacher sees ------------------------------------------------------------------------------- */

/* Grey pictures of 14x14 for the student; for the teacher the same ones, 28x28 and in colour. */
typedef struct forms {
    kd_ctx *kd;
    kd_model *student, *teacher;
    float *colour, *grey, *targets;
    int32_t labels[SAMPLES];
    kd_data data, teacher_data;
    kd_train_desc desc;
} forms;

static const int32_t no_label = 0;
static const float no_number = 0;

static void forms_open(forms *f)
{
    int i, y, x, c;
    memset(f, 0, sizeof *f);
    f->kd = test_open(KD_ISA_AUTO, 1);
    f->colour = test_floats(2, SAMPLES * 3 * 28 * 28, 1);
    f->grey = test_floats(1, SAMPLES * 14 * 14, 0);
    f->targets = test_floats(1, SAMPLES * CLASSES, 0);
    for (i = 0; i < SAMPLES; ++i) {
        f->labels[i] = i % CLASSES;
        for (y = 0; y < 28; ++y) {
            for (x = 0; x < 28; ++x) {
                for (c = 0; c < 3; ++c)
                    f->grey[(i * 14 + y / 2) * 14 + x / 2] += f->colour[((i * 3 + c) * 28 + y) * 28 + x] / 12;
            }
        }
    }
    f->student = create(f->kd, "1x14x14: conv 3 3 stride=2, relu, dense 4");
    f->teacher = create(f->kd, "3x28x28: conv 4 5 stride=3, relu, dense 4");
    f->data = kd_data_f32(f->grey, f->labels, SAMPLES, 1, 14, 14, CLASSES);
    f->teacher_data = kd_data_f32(f->colour, NULL, SAMPLES, 3, 28, 28, 0);
    f->teacher_data.mean[1] = 0.25f, f->teacher_data.std[2] = 0.5f;
    f->teacher_data.labels = &no_label, f->teacher_data.soft_labels = &no_number; /* nobody looks at these */
    f->teacher_data.classes = 1 << 20;
    for (i = 0; i < SAMPLES * 3 * 28 * 28; ++i) {
        c = i / (28 * 28) % 3;
        f->colour[i] = (f->colour[i] - f->teacher_data.mean[c]) / f->teacher_data.std[c]; /* to be undone below */
    }
    assert_ok(f->kd, kd_predict(f->teacher, f->colour, SAMPLES, f->targets));
    for (i = 0; i < SAMPLES * 3 * 28 * 28; ++i) {
        c = i / (28 * 28) % 3;
        f->colour[i] = f->colour[i] * f->teacher_data.std[c] + f->teacher_data.mean[c];
    }
    f->desc = kd_train_defaults();
    f->desc.epochs = 2;
    f->desc.batch = 17;
}

static void forms_close(forms *f)
{
    kd_model_destroy(f->student);
    kd_model_destroy(f->teacher);
    free(f->colour);
    free(f->grey);
    free(f->targets);
    kd_close(f->kd);
}

static int answer(void *user, const float *x, const int32_t *samples, int n, float *logits)
{
    (void)samples;
    return kd_predict(((forms *)user)->teacher, x, n, logits) != KD_OK;
}

/* A model, two models, a callback and a cache, each with data of its own, teach what the same logits teach as an
   array: the teacher sees its form of the very samples that the student sees. */
static void test_teacher_data(void **state)
{
    enum { MODEL, MODELS, CALLBACK, CACHE, WAYS };
    forms f;
    int way;
    (void)state;
    forms_open(&f);
    for (way = 0; way < WAYS; ++way) {
        kd_model *student, *by_array;
        const kd_model *teachers[2];
        kd_cache *cache = NULL;
        kd_data array = f.data;
        kd_train_desc desc = f.desc;
        assert_ok(f.kd, kd_model_clone(f.student, &student));
        assert_ok(f.kd, kd_model_clone(f.student, &by_array));
        array.teacher_logits = f.targets;
        assert_ok(f.kd, kd_train(by_array, &array, &desc));
        teachers[0] = teachers[1] = f.teacher;
        desc.teacher_data = &f.teacher_data;
        if (way == MODEL) desc.teacher = f.teacher;
        if (way == MODELS) desc.teachers = teachers, desc.teacher_count = 2;
        if (way == CALLBACK) desc.teacher_fn = answer, desc.teacher_user = &f;
        if (way == CACHE) {
            assert_ok(f.kd, kd_cache_create(f.teacher, &f.teacher_data, NULL, 0, 1, &cache));
            desc.cache = cache;
        }
        assert_ok(f.kd, kd_train(student, &f.data, &desc));
        check_same_weights(student, by_array, 1e-5);
        kd_cache_destroy(cache);
        kd_model_destroy(student);
        kd_model_destroy(by_array);
    }
    forms_close(&f);
}

/* Held-out samples and losses on features, too, are shown to the teacher in its form. */
static void test_teacher_data_elsewhere(void **state)
{
    forms f;
    kd_evaluate_desc desc = kd_evaluate_defaults();
    kd_metrics wanted, got;
    kd_epoch_info info[2];
    kd_train_desc train;
    kd_feature_loss hint = kd_feature_loss_defaults(KD_FEATURE_HINT);
    double loss[2];
    int i;
    (void)state;
    forms_open(&f);
    f.data.teacher_logits = f.targets;
    assert_ok(f.kd, kd_evaluate_with(f.student, &f.data, &desc, &wanted));
    f.data.teacher_logits = NULL;
    desc.teacher = f.teacher;
    desc.teacher_data = &f.teacher_data;
    desc.batch = 13;
    assert_ok(f.kd, kd_evaluate_with(f.student, &f.data, &desc, &got));
    assert_near(got.kl, wanted.kl, 1e-6);
    assert_near(got.agreement, wanted.agreement, 1e-12);
    for (i = 0; i < 2; ++i) {
        train = f.desc;
        train.epochs = 1, train.lr = 0;
        train.validation = 0.3f;
        train.on_epoch = keep_epoch;
        train.user = &info[i];
        if (i) train.teacher = f.teacher, train.teacher_data = &f.teacher_data;
        f.data.teacher_logits = i ? NULL : f.targets;
        assert_ok(f.kd, kd_train(f.student, &f.data, &train));
    }
    assert_near(info[1].validation.kl, info[0].validation.kl, 1e-6);
    train.validation = 0;
    train.validation_data = &f.data;
    assert_ok(f.kd, kd_train(f.student, &f.data, &train));
    assert_true(info[1].has_validation && info[1].validation.agreement == -1);
    hint.student = "0", hint.teacher = "0"; /* shown other samples, the hint has another value */
    train = f.desc;
    train.teacher = f.teacher;
    train.teacher_data = &f.teacher_data;
    train.features = &hint, train.feature_count = 1;
    train.batch = SAMPLES;
    train.on_step = keep_loss;
    for (i = 0; i < 2; ++i) {
        kd_model *student;
        train.user = &loss[i];
        assert_ok(f.kd, kd_model_clone(f.student, &student));
        assert_int_equal(kd_train(student, &f.data, &train), KD_STOPPED);
        kd_model_destroy(student);
        memset(f.colour, 0, SAMPLES / 2 * 3 * 28 * 28 * sizeof *f.colour);
    }
    assert_true(loss[0] != loss[1]);
    forms_close(&f);
}

static void test_teacher_data_refused(void **state)
{
    forms f;
    kd_train_desc desc;
    kd_evaluate_desc evaluate = kd_evaluate_defaults();
    kd_metrics metrics;
    kd_cache *cache;
    (void)state;
    forms_open(&f);
    f.desc.teacher = f.teacher;
    desc = f.desc;
#define REFUSED(change, result, text)                                                                              \
    do {                                                                                                           \
        desc = f.desc;                                                                                             \
        desc.teacher_data = &f.teacher_data;                                                                       \
        change;                                                                                                    \
        assert_fails(f.kd, kd_train(f.student, &f.data, &desc), result, text);                                     \
    } while (0)
    REFUSED(desc.teacher_data = NULL, KD_ERR_SHAPE, "the teacher reads 3x28x28, but the images are 1x14x14");
    REFUSED(desc.teacher = NULL, KD_ERR_ARGUMENT, "teacher_data without a teacher that would see them");
    REFUSED(desc.augment.flip = 1, KD_ERR_ARGUMENT, "another view than teacher_data shows the teacher");
    REFUSED(desc.teacher_data = &f.data, KD_ERR_SHAPE, "the teacher reads 3x28x28");
    REFUSED(f.teacher_data.count = SAMPLES - 1, KD_ERR_DATA, "the student has 60 samples, but teacher_data 59");
    f.teacher_data.count = SAMPLES;
    REFUSED(f.teacher_data.cookie = 0, KD_ERR_DEFAULTS, "teacher_data must start from");
    f.teacher_data.cookie = KD__COOKIE;
    assert_ok(f.kd, kd_cache_create(f.teacher, &f.teacher_data, NULL, 0, 1, &cache));
    REFUSED((desc.teacher = NULL, desc.cache = cache, desc.teacher_data = NULL), KD_ERR_DATA,
            "belong to other images");
    {
        const kd_data whole = f.teacher_data;
        const kd_cache *none = NULL;
        const struct {
            kd_teacher_fn fn;
            const kd_cache *cache;
        } sources[] = {{answer, none}, {NULL, cache}};
        int i;
        for (i = 0; i < 2; ++i) {
            f.teacher_data.pixels = NULL;
            REFUSED((desc.teacher = NULL, desc.teacher_fn = sources[i].fn, desc.cache = sources[i].cache),
                    KD_ERR_DATA, "or no pixels");
            f.teacher_data = whole;
            f.teacher_data.std[1] = 0;
            REFUSED((desc.teacher = NULL, desc.teacher_fn = sources[i].fn, desc.cache = sources[i].cache),
                    KD_ERR_ARGUMENT, "a std above 0");
            f.teacher_data = whole;
        }
    }
    f.teacher_data.mean[0] = 0.5f;
    REFUSED((desc.teacher = NULL, desc.cache = cache), KD_ERR_DATA, "belong to other images");
    kd_cache_destroy(cache);
#undef REFUSED
    evaluate.teacher_data = &f.teacher_data;
    assert_fails(f.kd, kd_evaluate_with(f.student, &f.data, &evaluate, &metrics), KD_ERR_ARGUMENT,
                 "teacher_data without a teacher");
    evaluate.teacher = f.teacher;
    f.teacher_data.count = 1;
    assert_fails(f.kd, kd_evaluate_with(f.student, &f.data, &evaluate, &metrics), KD_ERR_DATA,
                 "but teacher_data 1");
    forms_close(&f);
}

/* ---- labels from private data ---------------------------------------------------------------------------- */

/* Mean, spread and tails of the noise, and that it depends on seed, sample and class. */
static void test_pate_noise(void **state)
{
    enum { COUNT = 200000 };
    static const struct {
        kd_pate_noise noise;
        double variance, kurtosis, beyond; /* of scale 1; the share beyond 3 */
    } wanted[] = {{KD_PATE_LAPLACE, 2, 6, 0.049787}, {KD_PATE_GAUSSIAN, 1, 3, 0.0027}};
    int i, w;
    (void)state;
    for (w = 0; w < 2; ++w) {
        double sum = 0, squares = 0, fourth = 0, beyond = 0, together = 0, last = 0;
        for (i = 0; i < COUNT; ++i) {
            const uint64_t key = kd__rng_key(9, KD__RNG_PATE, (uint64_t)i / 10, 0);
            const double x = kd__pate_draw(wanted[w].noise, 1, key, i % 10);
            assert_near(kd__pate_draw(wanted[w].noise, 7, key, i % 10), 7 * x, 1e-12);
            sum += x, squares += x * x, fourth += x * x * x * x;
            beyond += fabs(x) > 3;
            together += x * last;
            last = x;
        }
        assert_true(fabs(sum / COUNT) < 0.02);
        assert_true(fabs(together / COUNT) < 0.02);
        assert_near(squares / COUNT / wanted[w].variance, 1, 0.01);
        assert_near(fourth * COUNT / squares / squares, wanted[w].kurtosis, 0.03);
        assert_near(beyond / COUNT, wanted[w].beyond, 0.0005);
    }
}

static void test_pate_cost(void **state)
{
    kd_ctx *kd = test_open(KD_ISA_AUTO, 1);
    int i;
    (void)state;
    for (i = 0; i < KD__COUNT(golden_pates); ++i) {
        const golden_pate *g = &golden_pates[i];
        kd_pate_desc desc = kd_pate_defaults();
        kd_pate_budget budget;
        desc.noise = g->noise;
        desc.gamma = desc.sigma = g->scale;
        desc.delta = g->delta;
        if (g->threshold_sigma > 0) desc.threshold = 100, desc.threshold_sigma = g->threshold_sigma;
        assert_ok(kd, kd_pate_cost(kd, &desc, g->asked, g->answered, &budget));
        assert_near(budget.epsilon, g->epsilon, 1e-6);
        assert_true(budget.delta == g->delta && budget.asked == g->asked && budget.answered == g->answered);
        if (g->threshold_sigma > 0) { /* however low, it was asked for */
            desc.threshold = 0.5f;
            assert_ok(kd, kd_pate_cost(kd, &desc, g->asked, g->answered, &budget));
            assert_near(budget.epsilon, g->epsilon, 1e-6);
        }
        assert_ok(kd, kd_pate_cost(kd, &desc, 0, 0, &budget));
        assert_true(budget.epsilon == 0);
    }
    kd_close(kd);
}

/* Votes are those of every teacher; with next to no noise the label is what most of them say, with some it is that
   more often than not, and a student learns from it. */
static void test_pate_label(void **state)
{
    enum { TEACHERS = 9, PUBLIC = SAMPLES, PRIVATE = 60 };
    kd_ctx *kd = test_open(KD_ISA_AUTO, 1);
    kd_model *teachers[TEACHERS], *student = create(kd, "2: dense 12, tanh, dense 4");
    int32_t votes[PUBLIC * CLASSES], labels[3][PUBLIC], wrong = 0;
    float logits[PUBLIC * CLASSES];
    kd_train_desc desc = kd_train_defaults();
    kd_pate_desc pate = kd_pate_defaults();
    kd_pate_budget budget;
    kd_metrics metrics;
    corners c;
    int i, t, k;
    kd_data bare;
    (void)state;
    corners_make(&c);
    desc.epochs = 60;
    desc.lr = 0.02f;
    for (t = 0; t < TEACHERS; ++t) { /* disjoint parts */
        float x[PRIVATE * 2];
        int32_t own[PRIVATE];
        uint64_t random = 1000 * (uint64_t)(t + 1);
        kd_data data = kd_data_f32(x, own, PRIVATE, 2, 1, 1, CLASSES);
        for (i = 0; i < 2 * PRIVATE; ++i) x[i] = test_random(&random);
        for (i = 0; i < PRIVATE; ++i) own[i] = (x[2 * i] > 0.1f) + 2 * (x[2 * i + 1] > -0.2f);
        assert_ok(kd, kd_model_create(kd, "2: dense 6, tanh, dense 4", (uint64_t)t, &teachers[t]));
        assert_ok(kd, kd_train(teachers[t], &data, &desc));
    }
    assert_ok(kd, kd_pate_votes((const kd_model *const *)teachers, TEACHERS, &c.data, votes));
    for (t = 0; t < TEACHERS; ++t) {
        assert_ok(kd, kd_predict(teachers[t], c.x, PUBLIC, logits));
        for (i = 0; i < PUBLIC; ++i) --votes[i * CLASSES + kd__argmax(logits + i * CLASSES, CLASSES)];
    }
    for (i = 0; i < PUBLIC * CLASSES; ++i) assert_int_equal(votes[i], 0);
    bare = c.data;
    bare.labels = &no_label, bare.soft_labels = &no_number, bare.classes = 1 << 20; /* nobody looks at these */
    assert_ok(kd, kd_pate_votes((const kd_model *const *)teachers, TEACHERS, &bare, votes));
    for (k = 0; k < 2; ++k) {
        pate.noise = k ? KD_PATE_GAUSSIAN : KD_PATE_LAPLACE;
        pate.gamma = 1e6, pate.sigma = 1e-6, pate.seed = 0;
        assert_ok(kd, kd_pate_label(kd, &pate, votes, PUBLIC, CLASSES, labels[0], &budget));
        assert_true(budget.asked == PUBLIC && budget.answered == PUBLIC && budget.epsilon > 1e6);
        for (i = 0; i < PUBLIC; ++i) {
            for (t = 0; t < CLASSES; ++t) assert_true(votes[i * CLASSES + labels[0][i]] >= votes[i * CLASSES + t]);
        }
        pate.gamma = 0.2, pate.sigma = 5;
        assert_ok(kd, kd_pate_label(kd, &pate, votes, PUBLIC, CLASSES, labels[1], NULL));
        assert_ok(kd, kd_pate_label(kd, &pate, votes, PUBLIC, CLASSES, labels[2], NULL));
        assert_memory_equal(labels[1], labels[2], sizeof labels[1]);
        pate.seed = 5;
        assert_ok(kd, kd_pate_label(kd, &pate, votes, PUBLIC, CLASSES, labels[2], NULL));
        assert_memory_not_equal(labels[1], labels[2], sizeof labels[1]);
        for (wrong = 0, i = 0; i < PUBLIC; ++i) wrong += labels[1][i] != labels[0][i];
        assert_true(wrong > 0 && wrong < PUBLIC / 2);
    }
    pate.sigma = 1;
    assert_ok(kd, kd_pate_label(kd, &pate, votes, PUBLIC, CLASSES, labels[1], &budget));
    c.data.labels = labels[1];
    assert_ok(kd, kd_train(student, &c.data, &desc));
    c.data.labels = c.labels;
    assert_ok(kd, kd_evaluate(student, &c.data, &metrics));
    assert_true(metrics.accuracy > 0.8);
    for (t = 0; t < TEACHERS; ++t) kd_model_destroy(teachers[t]);
    kd_model_destroy(student);
    kd_close(kd);
}

/* Where teachers say nothing, noise decides: each class as often as the others. */
static void test_pate_fair(void **state)
{
    enum { ROWS = 3000 };
    static const int32_t votes[ROWS * 3] = {0};
    static int32_t labels[ROWS];
    kd_ctx *kd = test_open(KD_ISA_AUTO, 1);
    kd_pate_desc pate = kd_pate_defaults();
    int i, noise, counts[3];
    (void)state;
    for (noise = 0; noise < 2; ++noise) {
        pate.noise = (kd_pate_noise)noise;
        assert_ok(kd, kd_pate_label(kd, &pate, votes, ROWS, 3, labels, NULL));
        memset(counts, 0, sizeof counts);
        for (i = 0; i < ROWS; ++i) ++counts[labels[i]];
        for (i = 0; i < 3; ++i) assert_true(abs(counts[i] - ROWS / 3) < 100);
    }
    kd_close(kd);
}

/* Of classes with the same number, the first. So many votes leave little of the noise. */
static void test_pate_tie(void **state)
{
    static const int32_t votes[] = {7, 2000000000, 2000000000};
    kd_pate_desc pate = kd_pate_defaults();
    uint64_t key;
    int ties = 0;
    (void)state;
    pate.noise = KD_PATE_GAUSSIAN;
    pate.sigma = 1e-6;
    for (key = 0; key < 200; ++key) {
        const double second = votes[1] + kd__pate_draw(pate.noise, pate.sigma, key, 1);
        const double third = votes[2] + kd__pate_draw(pate.noise, pate.sigma, key, 2);
        ties += second == third;
        assert_int_equal(kd__pate_answer(&pate, votes, 3, key), second >= third ? 1 : 2);
    }
    assert_true(ties > 5 && ties < 195);
}

/* Samples on which the teachers do not agree get no label, and cost less. */
static void test_pate_threshold(void **state)
{
    static const int32_t votes[] = {100, 0, 0, 34, 33, 33, 0, 5, 95, 50, 50, 0}, nobody[3] = {0, 0, 0};
    kd_ctx *kd = test_open(KD_ISA_AUTO, 1);
    kd_pate_desc pate = kd_pate_defaults();
    kd_pate_budget budget;
    int32_t labels[4];
    (void)state;
    pate.sigma = 2;
    pate.threshold = 75;
    pate.threshold_sigma = 4;
    assert_ok(kd, kd_pate_label(kd, &pate, votes, 4, 3, labels, &budget));
    assert_true(labels[0] == 0 && labels[1] == KD_UNLABELLED && labels[2] == 2 && labels[3] == KD_UNLABELLED);
    assert_true(budget.asked == 4 && budget.answered == 2);
    assert_near(budget.epsilon, 0.625 + 2 * sqrt(0.625 * log(1e5)), 1e-9);
    pate.threshold = 0.5, pate.threshold_sigma = 0.001;
    assert_ok(kd, kd_pate_label(kd, &pate, nobody, 1, 3, labels, &budget)); /* none is still too few */
    assert_int_equal(labels[0], KD_UNLABELLED);
    kd_close(kd);
}

static void test_pate_refused(void **state)
{
    kd_ctx *kd = test_open(KD_ISA_AUTO, 1);
    kd_model *a = create(kd, "2: dense 4"), *b = create(kd, "2: dense 3"), *one = create(kd, "2: dense 1");
    const kd_model *teachers[2];
    kd_pate_desc good = kd_pate_defaults(), pate;
    kd_pate_budget budget;
    int32_t votes[SAMPLES * 4], labels[SAMPLES];
    float bias = -100;
    corners c;
    int i;
    (void)state;
    corners_make(&c);
    memset(votes, 0, sizeof votes);
#define REFUSED(change, result, text)                                                                              \
    do {                                                                                                           \
        pate = good;                                                                                               \
        change;                                                                                                    \
        assert_fails(kd, kd_pate_label(kd, &pate, votes, SAMPLES, 4, labels, NULL), result, text);                 \
    } while (0)
    REFUSED(pate.cookie = 0, KD_ERR_DEFAULTS, "kd_pate_defaults()");
    assert_true(good.noise == KD_PATE_GAUSSIAN && good.gamma == 0.05 && good.sigma == 40 && good.threshold == 0);
    assert_true(good.threshold_sigma == 150 && good.delta == 1e-5 && good.seed == 0);
    REFUSED(pate.noise = (kd_pate_noise)2, KD_ERR_ARGUMENT, "noise must be 0 to 1, got 2");
    REFUSED(pate.sigma = 0, KD_ERR_ARGUMENT, "sigma must be");
    REFUSED(pate.gamma = (double)NAN, KD_ERR_ARGUMENT, "gamma must be");
    REFUSED(pate.delta = 0, KD_ERR_ARGUMENT, "delta must be");
    REFUSED(pate.delta = 0.51, KD_ERR_ARGUMENT, "delta must be");
    pate.delta = 0.5;
    assert_ok(kd, kd_pate_label(kd, &pate, votes, SAMPLES, 4, labels, NULL));
    votes[4 * 5 + 2] = -1;
    REFUSED((void)0, KD_ERR_ARGUMENT, "class 2 of sample 5 has -1 votes");
    votes[4 * 5 + 2] = 0;
    REFUSED((pate.noise = KD_PATE_LAPLACE, pate.threshold = 1), KD_ERR_ARGUMENT, "threshold must be 0 to 0, got 1");
#undef REFUSED
    assert_fails(kd, kd_pate_label(kd, &good, votes, SAMPLES, 1, labels, NULL), KD_ERR_ARGUMENT,
                 "2 classes or more");
    assert_fails(kd, kd_pate_cost(kd, &good, 3, 4, &budget), KD_ERR_ARGUMENT,
                 "of 3 samples 0 to all answered, got 4");
    teachers[0] = a, teachers[1] = b;
    assert_fails(kd, kd_pate_votes(teachers, 2, &c.data, votes), KD_ERR_SHAPE, "");
    assert_fails(kd, kd_pate_votes(teachers, 1, &c.data, NULL), KD_ERR_ARGUMENT, "votes must not be NULL");
    teachers[1] = NULL;
    assert_fails(kd, kd_pate_votes(teachers, 2, &c.data, votes), KD_ERR_ARGUMENT, "teacher 1 is NULL");
    assert_ok(kd, kd_model_set_tensor(one, "0.bias", &bias, 1)); /* one output: its sign, of two classes */
    teachers[0] = one;
    assert_ok(kd, kd_pate_votes(teachers, 1, &c.data, votes));
    for (i = 0; i < SAMPLES; ++i) assert_true(votes[2 * i] == 1 && votes[2 * i + 1] == 0);
    kd_model_destroy(a);
    kd_model_destroy(b);
    kd_model_destroy(one);
    kd_close(kd);
}

/* ---- cross-validation ------------------------------------------------------------------------------------ */

enum { FOLDS = 7 }; /* 60 samples: folds of 8 and 9 */

typedef struct folded {
    kd_ctx *kd;
    kd_model *student, *teacher;
    corners c;
    kd_train_desc desc;
} folded;

static void folded_open(folded *f, kd_isa isa, int threads)
{
    memset(f, 0, sizeof *f);
    f->kd = test_open(isa, threads);
    f->student = create(f->kd, "2: dense 9, batchnorm, tanh, dropout 0.2, dense 4");
    f->teacher = create(f->kd, "2: dense 8, tanh, dense 4");
    corners_make(&f->c);
    f->desc = kd_train_defaults();
    f->desc.teacher = f->teacher;
    f->desc.epochs = 4;
    f->desc.batch = 16;
    f->desc.lr = 0.03f;
    f->desc.augment.mixup = 0.4f;
}

static void folded_close(folded *f)
{
    kd_model_destroy(f->student);
    kd_model_destroy(f->teacher);
    kd_close(f->kd);
}

/* What one fold's training makes of the model, and which samples it was not shown. */
static uint64_t train_fold(folded *f, int fold, int32_t *held_out, int *count)
{
    kd_model *m;
    kd_trainer *t;
    uint64_t hash;
    assert_ok(f->kd, kd_model_clone(f->student, &m));
    assert_ok(f->kd, kd__trainer_new(m, &f->c.data, &f->desc, fold, FOLDS, &t));
    *count = t->validation_count;
    memcpy(held_out, t->order + t->train_count, (size_t)*count * sizeof *held_out);
    while (!kd_trainer_done(t)) assert_ok(f->kd, kd_trainer_step(t, NULL));
    kd_trainer_close(t);
    hash = kd_model_hash(m);
    kd_model_destroy(m);
    return hash;
}

/* Every sample is held out once; what it looks like and is called makes no difference to the model that it judges,
   but to all others. */
static void test_folds_apart(void **state)
{
    int32_t held_out[SAMPLES], again[SAMPLES];
    int fold, i, count, seen[SAMPLES] = {0};
    folded f;
    (void)state;
    folded_open(&f, KD_ISA_AUTO, 1);
    for (fold = 0; fold < FOLDS; ++fold) {
        const uint64_t hash = train_fold(&f, fold, held_out, &count);
        const corners kept = f.c;
        assert_true(count == 8 || count == 9);
        for (i = 0; i < count; ++i) {
            ++seen[held_out[i]];
            f.c.x[2 * held_out[i]] = 5, f.c.labels[held_out[i]] = i % 4;
        }
        assert_true(train_fold(&f, fold, again, &count) == hash);
        assert_memory_equal(held_out, again, (size_t)count * sizeof *again);
        assert_true(train_fold(&f, (fold + 1) % FOLDS, again, &count) != hash);
        memcpy(f.c.x, kept.x, sizeof kept.x);
        memcpy(f.c.labels, kept.labels, sizeof kept.labels);
    }
    for (i = 0; i < SAMPLES; ++i) assert_int_equal(seen[i], 1);
    folded_close(&f);
}

/* A fold without labels says nothing of accuracy. */
static void test_folds_without_labels(void **state)
{
    kd_metrics each[FOLDS];
    kd_cross_validation all;
    double accuracy = 0, squares = 0, nll = 0, kl = 0;
    int i, labelled = 0;
    folded f;
    (void)state;
    folded_open(&f, KD_ISA_AUTO, 1);
    for (i = 0; i < SAMPLES; ++i) {
        if (i % 15) f.c.labels[i] = KD_UNLABELLED;
    }
    f.desc.loss = kd_loss_defaults(KD_LOSS_KL);
    assert_ok(f.kd, kd_cross_validate(f.student, &f.c.data, &f.desc, FOLDS, each, &all));
    for (i = 0; i < FOLDS; ++i) labelled += each[i].count > 0;
    assert_true(labelled > 1 && labelled < FOLDS);
    for (i = 0; i < FOLDS; ++i) {
        accuracy += each[i].accuracy / labelled, nll += each[i].nll / labelled, kl += each[i].kl / FOLDS;
    }
    for (i = 0; i < FOLDS; ++i) squares += each[i].count ? pow(each[i].accuracy - accuracy, 2) / (labelled - 1) : 0;
    assert_near(all.accuracy.mean, accuracy, 1e-12);
    assert_near(all.accuracy.sd, sqrt(squares), 1e-12);
    assert_near(all.nll.mean, nll, 1e-12);
    assert_near(all.kl.mean, kl, 1e-12);
    for (i = 0; i < SAMPLES; ++i) f.c.labels[i] = i == 0 ? f.c.labels[0] : KD_UNLABELLED;
    assert_ok(f.kd, kd_cross_validate(f.student, &f.c.data, &f.desc, FOLDS, each, &all));
    for (accuracy = 0, i = 0; i < FOLDS; ++i) accuracy += each[i].accuracy;
    assert_near(all.accuracy.mean, accuracy, 1e-12);
    assert_true(all.accuracy.sd == 0); /* of one fold */
    f.c.labels[0] = KD_UNLABELLED;
    assert_ok(f.kd, kd_cross_validate(f.student, &f.c.data, &f.desc, FOLDS, each, &all));
    assert_true(all.accuracy.mean == 0 && all.nll.mean == 0 && all.kl.mean > 0);
    folded_close(&f);
}

/* The metrics are those of each fold's own samples, and their mean and spread those of the folds. */
static void test_folds_measured(void **state)
{
    kd_metrics each[FOLDS], wanted;
    kd_cross_validation all;
    int32_t held_out[SAMPLES], labels[SAMPLES];
    int fold, i, count;
    double mean = 0, squares = 0;
    uint64_t before;
    folded f;
    (void)state;
    folded_open(&f, KD_ISA_AUTO, 1);
    before = kd_model_hash(f.student);
    assert_ok(f.kd, kd_cross_validate(f.student, &f.c.data, &f.desc, FOLDS, each, &all));
    assert_true(before == kd_model_hash(f.student));
    for (fold = 0; fold < FOLDS; ++fold) {
        kd_model *m;
        kd_trainer *t;
        kd_evaluate_desc evaluate = kd_evaluate_defaults();
        kd_data data = f.c.data;
        (void)train_fold(&f, fold, held_out, &count);
        for (i = 0; i < SAMPLES; ++i) labels[i] = KD_UNLABELLED;
        for (i = 0; i < count; ++i) labels[held_out[i]] = f.c.labels[held_out[i]];
        data.labels = labels;
        assert_ok(f.kd, kd_model_clone(f.student, &m));
        assert_ok(f.kd, kd__trainer_new(m, &f.c.data, &f.desc, fold, FOLDS, &t));
        while (!kd_trainer_done(t)) assert_ok(f.kd, kd_trainer_step(t, NULL));
        kd_trainer_close(t);
        assert_ok(f.kd, kd_evaluate_with(m, &data, &evaluate, &wanted));
        kd_model_destroy(m);
        assert_int_equal(each[fold].count, count);
        assert_near(each[fold].accuracy, wanted.accuracy, 1e-12);
        assert_near(each[fold].nll, wanted.nll, 1e-9);
        assert_true(each[fold].agreement >= 0 && each[fold].kl >= 0);
        mean += each[fold].accuracy / FOLDS;
    }
    for (fold = 0; fold < FOLDS; ++fold) squares += pow(each[fold].accuracy - mean, 2);
    assert_near(all.accuracy.mean, mean, 1e-12);
    assert_near(all.accuracy.sd, sqrt(squares / (FOLDS - 1)), 1e-12);
    assert_true(all.kl.mean > 0 && all.nll.sd > 0);
    assert_near(all.robust_accuracy.mean, -1, 1e-12); /* nobody attacked */
    f.desc.teacher = NULL;
    f.desc.loss = kd_loss_defaults(KD_LOSS_CE);
    f.desc.loss.inputs = KD_INPUTS_ADVERSARIAL;
    f.desc.attack.epsilon = 0.3f, f.desc.attack.low = -1;
    assert_ok(f.kd, kd_cross_validate(f.student, &f.c.data, &f.desc, FOLDS, each, &all));
    for (mean = 0, fold = 0; fold < FOLDS; ++fold) mean += each[fold].robust_accuracy / FOLDS;
    assert_near(all.robust_accuracy.mean, mean, 1e-12);
    assert_true(mean > 0 && mean < all.accuracy.mean);
    folded_close(&f);
}

static int go_on(void *user, const kd_epoch_info *info)
{
    (void)info;
    ++*(int *)user;
    return 0;
}

static int stop(void *user, const kd_step_info *info)
{
    (void)info;
    return ++*(int *)user == 9;
}

/* The same bits for any number of threads, and with a callback, which has one fold after the other; another teacher
   makes another result. */
static void test_folds_parallel(void **state)
{
    kd_metrics one[FOLDS], other[FOLDS];
    kd_cross_validation all;
    int i, calls = 0;
    folded f;
    (void)state;
    folded_open(&f, KD_ISA_AUTO, 1);
    assert_ok(f.kd, kd_cross_validate(f.student, &f.c.data, &f.desc, FOLDS, one, &all));
    folded_close(&f);
    for (i = 2; i < 9; i += 3) {
        folded_open(&f, KD_ISA_AUTO, i);
        assert_ok(f.kd, kd_cross_validate(f.student, &f.c.data, &f.desc, FOLDS, other, &all));
        assert_memory_equal(one, other, sizeof one);
        folded_close(&f);
    }
    folded_open(&f, KD_ISA_AUTO, 3);
    f.desc.on_epoch = go_on;
    f.desc.user = &calls;
    assert_ok(f.kd, kd_cross_validate(f.student, &f.c.data, &f.desc, FOLDS, other, &all));
    assert_memory_equal(one, other, sizeof one);
    assert_int_equal(calls, FOLDS * 4);
    f.desc.on_epoch = NULL;
    f.desc.on_step = stop;
    calls = 0;
    assert_int_equal(kd_cross_validate(f.student, &f.c.data, &f.desc, FOLDS, other, &all), KD_STOPPED);
    f.desc.on_step = NULL;
    kd_model_destroy(f.teacher);
    assert_ok(f.kd, kd_model_create(f.kd, "2: dense 8, tanh, dense 4", 123, &f.teacher));
    f.desc.teacher = f.teacher;
    assert_ok(f.kd, kd_cross_validate(f.student, &f.c.data, &f.desc, FOLDS, other, &all));
    assert_true(one[0].nll != other[0].nll && one[0].kl != other[0].kl);
    folded_close(&f);
}

typedef struct progress {
    int calls, stop_at;
    int64_t done, all;
    pthread_t thread;
} progress;

static int told(void *user, int64_t done, int64_t all)
{
    progress *p = (progress *)user;
    assert_true(done >= p->done && done <= all && (p->calls == 0 || all == p->all));
    assert_true(pthread_equal(p->thread, pthread_self()));
    p->done = done, p->all = all;
    return ++p->calls == p->stop_at;
}

/* Cross-validation says how far it is without other results, and stops when asked to, at the same time or not. */
static void test_folds_progress(void **state)
{
    kd_metrics one[FOLDS], other[FOLDS];
    kd_cross_validation all, before;
    int threads, calls;
    folded f;
    (void)state;
    folded_open(&f, KD_ISA_AUTO, 1);
    f.desc.epochs = 9;
    assert_ok(f.kd, kd_cross_validate(f.student, &f.c.data, &f.desc, FOLDS, one, &before));
    folded_close(&f);
    for (threads = 1; threads < 5; threads += 3) {
        progress p = {0, 0, 0, 0, pthread_self()};
        folded_open(&f, KD_ISA_AUTO, threads);
        f.desc.epochs = 9;
        assert_ok(f.kd, kd_cross_validate_with(f.student, &f.c.data, &f.desc, FOLDS, told, &p, other, &all));
        assert_memory_equal(one, other, sizeof one);
        assert_memory_equal(&all, &before, sizeof all);
        assert_true(p.done == (int64_t)SAMPLES * (FOLDS - 1) * 9 && p.all == p.done);
        assert_true(p.calls > 2 * ((FOLDS + threads - 1) / threads));
        calls = p.calls;
        memset(&all, 7, sizeof all);
        before = all;
        memset(other, 7, sizeof other);
        for (p.stop_at = 1; p.stop_at <= calls; p.stop_at += 3) {
            p.calls = 0, p.done = 0;
            assert_int_equal(kd_cross_validate_with(f.student, &f.c.data, &f.desc, FOLDS, told, &p, other, &all),
                             KD_STOPPED);
            assert_int_equal(p.calls, p.stop_at);
            assert_memory_equal(&all, &before, sizeof all);
            assert_int_equal(((const unsigned char *)other)[5], 7);
        }
        before = all;
        assert_ok(f.kd, kd_cross_validate(f.student, &f.c.data, &f.desc, FOLDS, other, &before));
        assert_memory_equal(one, other, sizeof one);
        folded_close(&f);
    }
}

/* So do evaluation and a teacher's cache; nothing stays behind. */
static void test_progress(void **state)
{
    kd_evaluate_desc desc = kd_evaluate_defaults();
    kd_metrics before, metrics;
    kd_augment augment;
    kd_cache *cache;
    progress p = {0, 0, 0, 0, pthread_self()};
    folded f;
    (void)state;
    folded_open(&f, KD_ISA_AUTO, 3);
    desc.batch = 7;
    assert_ok(f.kd, kd_evaluate_with(f.student, &f.c.data, &desc, &before));
    desc.on_progress = told;
    desc.user = &p;
    assert_ok(f.kd, kd_evaluate_with(f.student, &f.c.data, &desc, &metrics));
    assert_memory_equal(&metrics, &before, sizeof metrics);
    assert_true(p.calls == (SAMPLES + 6) / 7 && p.done == SAMPLES && p.all == SAMPLES);
    for (p.stop_at = 1; p.stop_at <= (SAMPLES + 6) / 7; ++p.stop_at) {
        memset(&metrics, 9, sizeof metrics);
        before = metrics;
        p.calls = 0, p.done = 0;
        assert_int_equal(kd_evaluate_with(f.student, &f.c.data, &desc, &metrics), KD_STOPPED);
        assert_memory_equal(&metrics, &before, sizeof metrics);
        assert_int_equal(p.calls, p.stop_at);
    }
    memset(&augment, 0, sizeof augment);
    augment.mixup = 0.2f;
    memset(&p, 0, sizeof p);
    p.thread = pthread_self();
    assert_ok(f.kd, kd_cache_create_with(f.teacher, &f.c.data, &augment, 3, 5, told, &p, &cache));
    kd_cache_destroy(cache);
    assert_true(p.calls >= 5 && p.done == 5 * SAMPLES && p.all == p.done);
    p.calls = 0, p.done = 0, p.stop_at = 3;
    assert_int_equal(kd_cache_create_with(f.teacher, &f.c.data, &augment, 3, 5, told, &p, &cache), KD_STOPPED);
    assert_true(cache == NULL && p.calls == 3);
    folded_close(&f);
}

/* However early the allocator gives up, the call says so and everything comes back. */
static void test_folds_memory(void **state)
{
    test_memory memory;
    kd_ctx_desc ctx = test_memory_desc(&memory);
    kd_ctx *kd;
    kd_model *m;
    kd_train_desc desc = kd_train_defaults();
    kd_cross_validation all;
    corners c;
    int i, requests;
    (void)state;
    ctx.threads = 2;
    corners_make(&c);
    assert_int_equal(kd_open(&ctx, &kd), KD_OK);
    m = create(kd, "2: dense 4");
    desc.epochs = 1;
    requests = memory.requests;
    assert_ok(kd, kd_cross_validate(m, &c.data, &desc, 3, NULL, &all));
    requests = memory.requests - requests;
    for (i = 1; i <= requests; ++i) {
        memory.refuse_at = i;
        assert_int_equal(kd_cross_validate(m, &c.data, &desc, 3, NULL, &all), KD_ERR_MEMORY);
        memory.refuse_at = 0;
    }
    kd_model_destroy(m);
    test_memory_close(kd, &memory);
}

/* Where several folds fail at the same time, the first of them is the one that is told. */
static void test_folds_diverge(void **state)
{
    kd_cross_validation all;
    char said[2][200];
    int fold;
    folded f;
    (void)state;
    folded_open(&f, KD_ISA_AUTO, 2);
    kd_model_destroy(f.student);
    f.student = create(f.kd, "2: dense 4");
    f.desc.loss = kd_loss_defaults(KD_LOSS_MSE); /* its gradient grows with the distance */
    f.desc.optimizer = KD_SGD;
    f.desc.lr = 12;
    f.desc.epochs = 100;
    for (fold = 0; fold < 2; ++fold) {
        kd_model *m;
        kd_trainer *t;
        kd_result result = KD_OK;
        assert_ok(f.kd, kd_model_clone(f.student, &m));
        assert_ok(f.kd, kd__trainer_new(m, &f.c.data, &f.desc, fold, 2, &t));
        while (result == KD_OK && !kd_trainer_done(t)) result = kd_trainer_step(t, NULL);
        assert_int_equal(result, KD_ERR_NOT_FINITE);
        snprintf(said[fold], sizeof said[fold], "%s", kd_error(f.kd));
        kd_trainer_close(t);
        kd_model_destroy(m);
    }
    assert_string_not_equal(said[0], said[1]);
    assert_int_equal(kd_cross_validate(f.student, &f.c.data, &f.desc, 2, NULL, &all), KD_ERR_NOT_FINITE);
    assert_string_equal(kd_error(f.kd), said[0]);
    folded_close(&f);
}

static void test_folds_refused(void **state)
{
    folded f;
    kd_cross_validation all;
    kd_train_desc desc;
    kd_ctx *elsewhere = test_open(KD_ISA_AUTO, 1);
    kd_model *foreign = create(elsewhere, "2: dense 4");
    const kd_model *both[2];
    (void)state;
    folded_open(&f, KD_ISA_AUTO, 2);
    both[0] = f.student, both[1] = foreign;
#define REFUSED(change, folds, result, text)                                                                       \
    do {                                                                                                           \
        desc = f.desc;                                                                                             \
        change;                                                                                                    \
        assert_fails(f.kd, kd_cross_validate(f.student, &f.c.data, &desc, folds, NULL, &all), result, text);       \
    } while (0)
    REFUSED((void)0, 1, KD_ERR_ARGUMENT, "of 60 samples 2 to 60 folds can be made, got 1");
    REFUSED((void)0, 61, KD_ERR_ARGUMENT, "got 61");
    REFUSED(desc.cookie = 0, 3, KD_ERR_DEFAULTS, "kd_train_defaults()");
    REFUSED(desc.validation = 0.1f, 3, KD_ERR_ARGUMENT, "no validation");
    REFUSED(desc.patience = 2, 3, KD_ERR_ARGUMENT, "no validation");
    REFUSED(desc.lr = -1, 3, KD_ERR_ARGUMENT, "kd_train: lr must be");
    REFUSED(f.c.labels[40] = 9, 3, KD_ERR_DATA, "label 9 of row 40");
    f.c.labels[40] = 1;
    REFUSED((desc.optimizer = KD_SGD, desc.lr = desc.weight_decay = 1e6f), 3, KD_ERR_NOT_FINITE, "at step");
    REFUSED(desc.teacher = foreign, 3, KD_ERR_ARGUMENT, "a teacher of another context");
    REFUSED((desc.teachers = both, desc.teacher_count = 2), 3, KD_ERR_ARGUMENT, "a teacher of another context");
#undef REFUSED
    assert_fails(f.kd, kd_cross_validate(f.student, &f.c.data, &f.desc, 3, NULL, NULL), KD_ERR_ARGUMENT,
                 "out must not be NULL");
    folded_close(&f);
    kd_model_destroy(foreign);
    kd_close(elsewhere);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tree_read),
        cmocka_unit_test(test_tree_sure),
        cmocka_unit_test(test_tree_penalty),
        cmocka_unit_test(test_tree_distilled),
        cmocka_unit_test(test_tree_bits),
        cmocka_unit_test(test_tree_saved),
        cmocka_unit_test(test_tree_refused),
        cmocka_unit_test(test_prompt_step),
        cmocka_unit_test(test_prompt_drop),
        cmocka_unit_test(test_prompt_withdrawn),
        cmocka_unit_test(test_prompt_evaluated),
        cmocka_unit_test(test_prompt_of_one_output),
        cmocka_unit_test(test_prompt_attack_direction),
        cmocka_unit_test(test_prompt_attack_bounds),
        cmocka_unit_test(test_prompt_attack_on_targets),
        cmocka_unit_test(test_prompt_attack_evaluated),
        cmocka_unit_test(test_prompt_attack_repeated),
        cmocka_unit_test(test_prompt_attack_refused),
        cmocka_unit_test(test_prompt_refused),
        cmocka_unit_test(test_layers_attacked),
        cmocka_unit_test(test_tree_dot),
        cmocka_unit_test(test_prompt_adversarial),
        cmocka_unit_test(test_heads),
        cmocka_unit_test(test_heads_targets),
        cmocka_unit_test(test_heads_evaluated),
        cmocka_unit_test(test_whole_head),
        cmocka_unit_test(test_uncertainty),
        cmocka_unit_test(test_uncertainty_saved),
        cmocka_unit_test(test_heads_refused),
        cmocka_unit_test(test_teacher_data),
        cmocka_unit_test(test_teacher_data_elsewhere),
        cmocka_unit_test(test_teacher_data_refused),
        cmocka_unit_test(test_pate_noise),
        cmocka_unit_test(test_pate_cost),
        cmocka_unit_test(test_pate_label),
        cmocka_unit_test(test_pate_fair),
        cmocka_unit_test(test_pate_tie),
        cmocka_unit_test(test_pate_threshold),
        cmocka_unit_test(test_pate_refused),
        cmocka_unit_test(test_folds_apart),
        cmocka_unit_test(test_folds_without_labels),
        cmocka_unit_test(test_folds_measured),
        cmocka_unit_test(test_folds_parallel),
        cmocka_unit_test(test_folds_progress),
        cmocka_unit_test(test_progress),
        cmocka_unit_test(test_folds_memory),
        cmocka_unit_test(test_folds_diverge),
        cmocka_unit_test(test_folds_refused),
    };
    const int failed = cmocka_run_group_tests_name("tasks", tests, NULL, NULL);
    test_print_skips("tasks");
    return failed;
}
