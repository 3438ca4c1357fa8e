/* Students and data of other kinds: soft decision trees, prompts. */
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
    assert_true(same > 0 && same < SAMPLES);
    kd_trainer_close(t);
    prompted_close(&p);
}

/* Prompts that tell the answer: a student that always had them is lost without, one from whom they were withdrawn
   does as well as one that never had any. kd_evaluate is without, kd_evaluate_with can be with. */
static void test_prompt_withdrawn(void **state)
{
    static const float untils[] = {1, 0.5f, 0};
    double without[3], with[3];
    int i, j;
    (void)state;
    for (i = 0; i < 3; ++i) {
        prompted p;
        kd_trainer *t;
        kd_metrics metrics;
        kd_evaluate_desc evaluate = kd_evaluate_defaults();
        prompted_open(&p, "2: dense 12, tanh, prompt 4, dense 4");
        free(p.side);
        p.c.data.side = p.side = test_floats(1, SAMPLES * CLASSES, 0);
        p.c.data.side_count = CLASSES;
        for (j = 0; j < SAMPLES; ++j) p.side[j * CLASSES + p.c.labels[j]] = 30;
        p.desc.prompt = evaluate.prompt = KD_PROMPT_SIDE;
        p.desc.optimizer = KD_ADAM;
        p.desc.lr = 0.05f;
        p.desc.epochs = 80;
        p.desc.prompt_until = untils[i];
        if (i == 0) p.desc.epochs = 1000000; /* stopped before any is dropped */
        assert_ok(p.kd, kd_trainer_open(p.student, &p.c.data, &p.desc, &t));
        for (j = 0; j < 160; ++j) assert_ok(p.kd, kd_trainer_step(t, NULL));
        kd_trainer_close(t);
        assert_ok(p.kd, kd_evaluate(p.student, &p.c.data, &metrics));
        without[i] = metrics.accuracy;
        assert_ok(p.kd, kd_evaluate_with(p.student, &p.c.data, &evaluate, &metrics));
        with[i] = metrics.accuracy;
        prompted_close(&p);
    }
    if (!(with[0] == 1 && without[0] < 0.8)) fail_msg("%g %g, %g, %g", with[0], without[0], without[1], without[2]);
    assert_true(without[1] > 0.9 && without[2] > 0.9);
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

static void test_prompt_refused(void **state)
{
    prompted p;
    kd_train_desc desc;
    kd_evaluate_desc evaluate = kd_evaluate_defaults();
    kd_metrics metrics;
    kd_model *none;
    uint64_t before;
    (void)state;
    prompted_open(&p, "2: prompt 3, dense 4");
    desc = p.desc;
    before = kd_model_hash(p.student);
#define REFUSED(change, result, text)                                                                              \
    do {                                                                                                           \
        p.desc = desc;                                                                                             \
        p.desc.prompt = KD_PROMPT_SIDE;                                                                            \
        change;                                                                                                    \
        assert_fails(p.kd, kd_train(p.student, &p.c.data, &p.desc), result, text);                                 \
    } while (0)
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
    evaluate.prompt = KD_PROMPT_TEACHER;
    assert_fails(p.kd, kd_evaluate_with(p.student, &p.c.data, &evaluate, &metrics), KD_ERR_ARGUMENT,
                 "need a teacher");
    evaluate.prompt_temperature = 0;
    assert_fails(p.kd, kd_evaluate_with(p.student, &p.c.data, &evaluate, &metrics), KD_ERR_ARGUMENT,
                 "prompt_temperature");
    assert_fails(p.kd, kd_model_create(p.kd, "2: prompt 3, prompt 3", 1, &none), KD_ERR_SPEC,
                 "column 14: a model may have one prompt layer");
    assert_fails(p.kd, kd_model_create(p.kd, "15x4096x4096: prompt 100000000", 1, &none), KD_ERR_SPEC, "is too large");
    assert_true(before == kd_model_hash(p.student));
    prompted_close(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tree_read),        cmocka_unit_test(test_tree_sure),
        cmocka_unit_test(test_tree_penalty),     cmocka_unit_test(test_tree_distilled),
        cmocka_unit_test(test_tree_bits),        cmocka_unit_test(test_tree_saved),
        cmocka_unit_test(test_tree_refused),     cmocka_unit_test(test_prompt_step),
        cmocka_unit_test(test_prompt_drop),      cmocka_unit_test(test_prompt_withdrawn),
        cmocka_unit_test(test_prompt_evaluated), cmocka_unit_test(test_prompt_refused),
    };
    const int failed = cmocka_run_group_tests_name("tasks", tests, NULL, NULL);
    printf("tasks: %d runs skipped for instruction sets that this machine lacks\n", test_isas_skipped);
    return failed;
}
