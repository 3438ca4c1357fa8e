/* test_own.c - learning rates by layer, losses of one's own, and what layers put out */
#include "support.h"

enum { COUNT = 44, SIZE = 2 * 6 * 6, CLASSES = 3 };

typedef struct school {
    float *x, *teacher_logits;
    int32_t labels[COUNT];
    kd_data data;
} school;

static void school_open(school *s)
{
    int i;
    s->x = test_floats(3, (size_t)COUNT * SIZE, 1);
    s->teacher_logits = test_floats(4, (size_t)COUNT * CLASSES, 3);
    for (i = 0; i < COUNT; ++i) s->labels[i] = i * 5 % 7 % CLASSES;
    s->data = kd_data_f32(s->x, s->labels, COUNT, 2, 6, 6, CLASSES);
}

static void school_close(school *s)
{
    free(s->x);
    free(s->teacher_logits);
}

static kd_model *create(kd_ctx *kd, const char *line)
{
    kd_model *m;
    assert_ok(kd, kd_model_create(kd, line, 7, &m));
    return m;
}

static kd_train_desc options(void)
{
    kd_train_desc d = kd_train_defaults();
    d.epochs = 2, d.batch = 10, d.optimizer = KD_SGD, d.lr = 0.05f;
    return d;
}

/* Begins with, as the names of tensors in a layer do. */
static int begins(const char *name, const char *with) { return strncmp(name, with, strlen(with)) == 0; }

/* ---- learning rates by layer --------------------------------------------------------------------------------- */

static const char net[] =
    "2x6x6: a: conv 5 3 pad=1, abn: batchnorm, relu, b: residual(conv 7 3 pad=1, batchnorm, relu, "
    "conv 5 3 pad=1, batchnorm), relu, c: depthwise 3, relu, d: dense 9, tanh, e: dense 3";

/* What is frozen keeps every bit, statistics too, by whatever trains the rest; and all of the rest learns. */
static void test_frozen_stays(void **state)
{
    static const char *const frozen[] = {"a", "abn", "b", "b.body.0", "c", "d", "b.body.4", "e"};
    school s;
    kd_isa isa;
    int which, how, i;
    (void)state;
    school_open(&s);
    FOR_EACH_ISA(isa)
    {
        kd_ctx *kd = test_open(isa, 2);
        for (which = 0; which < KD__COUNT(frozen); ++which) {
            for (how = 0; how < KD_OPTIMIZER_COUNT; ++how) {
                kd_layer_rate rate;
                kd_train_desc d = options();
                kd_model *m = create(kd, net), *before;
                rate.layer = frozen[which], rate.factor = 0;
                d.optimizer = (kd_optimizer)how, d.weight_decay = 0.1f, d.max_norm = 0.1f;
                d.rates = &rate, d.rate_count = 1;
                if (which % 2) d.clip_norm = 0.5f, d.accumulate = 2;
                if (which % 3 == 0) d.slimming = 1e-3f;
                assert_ok(kd, kd_model_clone(m, &before));
                assert_ok(kd, kd_train(m, &s.data, &d));
                for (i = 0; i < m->param_count; ++i) {
                    const kd__param *p = &m->params[i];
                    const int stays = begins(p->name, rate.layer) && p->name[strlen(rate.layer)] == '.';
                    const int same =
                        memcmp(kd__param_stored(m, p), kd__param_stored(before, p), p->size * sizeof(float)) == 0;
                    if (same != stays)
                        fail_msg("%s frozen, %s: %s %s", rate.layer, kd_optimizer_name(d.optimizer), p->name,
                                 same ? "stayed" : "learned");
                }
                kd_model_destroy(before);
                kd_model_destroy(m);
            }
        }
        kd_close(kd);
    }
    school_close(&s);
}

/* A head on frozen layers learns as it would alone, on what they put out. */
static void test_head_alone(void **state)
{
    static const kd_layer_rate rates[] = {{"*", 0}, {"head", 1}};
    kd_layer_rate dropped[] = {{"head", 1}, {"*", 0}, {"head", 1}};
    school s;
    kd_isa isa;
    (void)state;
    school_open(&s);
    FOR_EACH_ISA(isa)
    {
        kd_ctx *kd = test_open(isa, 2);
        kd_train_desc d = options();
        kd_model *m =
            create(kd, "2x6x6: conv 5 3 pad=1, batchnorm, relu, maxpool 2, low: dense 8, top: tanh, head: dense 3");
        kd_model *alone = create(kd, "8: head: dense 3"), *again;
        float features[COUNT * 8], w[24], b[3];
        kd_data data = kd_data_f32(features, s.labels, COUNT, 8, 1, 1, CLASSES);
        kd_step_info info;
        kd_trainer *t;
        assert_ok(kd, kd_predict_layer(m, "top", s.x, COUNT, features));
        assert_ok(kd, kd_model_get_tensor(m, "head.weight", w, 24));
        assert_ok(kd, kd_model_set_tensor(alone, "head.weight", w, 24));
        assert_ok(kd, kd_model_clone(m, &again));
        assert_ok(kd, kd_train(alone, &data, &d));
        d.rates = rates, d.rate_count = 2;
        assert_ok(kd, kd_trainer_open(m, &s.data, &d, &t));
        assert_int_equal(kd__needs_grad(t->run, m->nodes[m->node_count - 1].in),
                         0); /* no way back below the head */
        while (!kd_trainer_done(t)) assert_ok(kd, kd_trainer_step(t, &info));
        kd_trainer_close(t);
        assert_ok(kd, kd_model_get_tensor(alone, "head.weight", w, 24));
        assert_ok(kd, kd_model_get_tensor(alone, "head.bias", b, 3));
        {
            float w2[24], b2[3];
            assert_ok(kd, kd_model_get_tensor(m, "head.weight", w2, 24));
            assert_ok(kd, kd_model_get_tensor(m, "head.bias", b2, 3));
            assert_memory_equal(w, w2, sizeof w);
            assert_memory_equal(b, b2, sizeof b);
        }
        d.rates = dropped, d.rate_count = 3;
        assert_ok(kd, kd_train(again, &s.data, &d));
        assert_true(kd_model_hash(again) == kd_model_hash(m));
        kd_model_destroy(again);
        kd_model_destroy(alone);
        kd_model_destroy(m);
        kd_close(kd);
    }
    school_close(&s);
}

static double nll(kd_model *m, const kd_data *data)
{
    kd_metrics metrics;
    assert_ok(m->kd, kd_evaluate(m, data, &metrics));
    return metrics.nll;
}

/* Gradients that pass through frozen layers, batch normalisation by running statistics among them. */
static void test_gradient_through_frozen(void **state)
{
    static const kd_layer_rate rates[] = {{"abn", 0}, {"b", 0}, {"d", 0}};
    kd_ctx *kd = test_open(KD_ISA_AUTO, 1);
    kd_train_desc d = options();
    kd_model *m = create(kd,
                         "2x6x6: a: conv 3 3 pad=1, abn: batchnorm, silu, b: residual(conv 3 3 pad=1, batchnorm), "
                         "silu, c: depthwise 3, tanh, d: dense 9, gelu, e: dense 3"),
             *probe;
    school s;
    float *stats;
    int i, j;
    (void)state;
    school_open(&s);
    for (i = 0; i < m->param_count; ++i) { /* statistics that batches do not have */
        const kd__param *p = &m->params[i];
        stats = kd__param_stored(m, p);
        for (j = 0; j < (int)p->size && !p->trained; ++j) stats[j] += 0.3f + 0.1f * (float)(j % 3);
    }
    assert_ok(kd, kd_model_clone(m, &probe));
    d.epochs = 1, d.batch = COUNT, d.lr = 1, d.momentum = 0;
    d.rates = rates, d.rate_count = 3;
    assert_ok(kd, kd_train(m, &s.data, &d));
    for (i = 0; i < m->param_count; ++i) {
        const kd__param *p = &m->params[i];
        float *w = kd__param_stored(probe, p);
        if (!begins(p->name, "a.") && !begins(p->name, "c.") && !begins(p->name, "e.")) continue;
        for (j = 0; j < (int)p->size; j += 1 + (int)p->size / 5) {
            const float start = w[j], step = 1e-2f;
            const double moved = (double)start - (double)kd__param_stored(m, p)[j];
            double up, down;
            w[j] = start + step, up = nll(probe, &s.data);
            w[j] = start - step, down = nll(probe, &s.data);
            w[j] = start;
            if (fabs((up - down) / (2 * (double)step) - moved) > 2e-4)
                fail_msg("%s[%d]: %g, by differences %g", p->name, j, moved, (up - down) / (2 * (double)step));
        }
    }
    school_close(&s);
    kd_model_destroy(probe);
    kd_model_destroy(m);
    kd_close(kd);
}

/* A step of SGD, or the first of Adam, is as long as the factor says; so it is with two momenta. */
static void test_factors(void **state)
{
    static const kd_layer_rate rates[] = {{"d", 0.5f}, {"e", 3}, {"e.bias", 2}};
    kd_ctx *kd = test_open(KD_ISA_AUTO, 2);
    school s;
    int how, i, j;
    (void)state;
    school_open(&s);
    s.data.teacher_logits = s.teacher_logits;
    for (how = 0; how < 4; ++how) {
        kd_train_desc d = options();
        kd_model *m = create(kd, net), *plain, *start;
        d.epochs = 1, d.batch = COUNT, d.optimizer = how == 1 ? KD_ADAM : KD_SGD, d.lr = 0.01f;
        if (how == 2) d.dot_delta = 0.05f;
        if (how == 3) d.weight_decay = 0.1f;
        assert_ok(kd, kd_model_clone(m, &plain));
        assert_ok(kd, kd_model_clone(m, &start));
        assert_ok(kd, kd_train(plain, &s.data, &d));
        d.rates = rates, d.rate_count = 3;
        assert_ok(kd, kd_train(m, &s.data, &d));
        for (i = 0; i < m->param_count; ++i) {
            const kd__param *p = &m->params[i];
            const float *w = kd__param_stored(m, p), *one = kd__param_stored(plain, p),
                        *w0 = kd__param_stored(start, p);
            const double factor = strcmp(p->name, "e.bias") == 0 ? 2
                                  : begins(p->name, "e.")        ? 3
                                  : begins(p->name, "d.")        ? 0.5
                                                                 : 1;
            for (j = 0; j < (int)p->size; ++j) {
                const double wanted = factor * ((double)one[j] - (double)w0[j]), got = (double)w[j] - (double)w0[j];
                if (fabs(got - wanted) > 1e-6) fail_msg("%s[%d] moved by %g, not %g", p->name, j, got, wanted);
            }
        }
        kd_model_destroy(start);
        kd_model_destroy(plain);
        kd_model_destroy(m);
    }
    school_close(&s);
    kd_close(kd);
}

/* Of a Transformer whole blocks, of a soft tree its filters or its leaves; and beside masked weights. */
static void test_frozen_elsewhere(void **state)
{
    static const char *const lines[] = {
        "2x6x6: patch: patch 3 8, cls: classtoken, pos: position, blocks: encoder 2 2 "
        "mlp=2, norm: layernorm, token 0, head: linear 3",
        "2x6x6: low: dense 6, tanh, tree: softtree 2 3", "2x6x6: low: dense 64, relu, dense 32, relu, dense 3"};
    static const char *const frozen[] = {"blocks.0", "pos", "cls", "patch", "norm", "tree", "low", "low"};
    static const int of[] = {0, 0, 0, 0, 0, 1, 1, 2};
    kd_ctx *kd = test_open(KD_ISA_AUTO, 2);
    school s;
    int which, i;
    (void)state;
    school_open(&s);
    for (which = 0; which < KD__COUNT(frozen); ++which) {
        kd_layer_rate rate;
        kd_train_desc d = options();
        kd_model *m = create(kd, lines[of[which]]), *before;
        rate.layer = frozen[which], rate.factor = 0;
        d.rates = &rate, d.rate_count = 1, d.optimizer = KD_ADAM;
        if (of[which] == 2) d.sparsity = KD_SPARSITY_MAGNITUDE, d.sparsity_share = 0.5f, d.sparsity_every = 1;
        assert_ok(kd, kd_model_clone(m, &before));
        assert_ok(kd, kd_train(m, &s.data, &d));
        for (i = 0; i < m->param_count; ++i) {
            const kd__param *p = &m->params[i];
            const char *end = p->name + strlen(rate.layer);
            const int stays = begins(p->name, rate.layer) && (!*end || *end == '.');
            const int same =
                memcmp(kd__param_stored(m, p), kd__param_stored(before, p), p->size * sizeof(float)) == 0;
            if (same != stays) fail_msg("%s frozen: %s %s", rate.layer, p->name, same ? "stayed" : "learned");
        }
        kd_model_destroy(before);
        kd_model_destroy(m);
    }
    school_close(&s);
    kd_close(kd);
}

/* Of every model and way to train: where a single tensor learns, it learns what it does among all others. */
static void check_single(kd_ctx *kd, school *s, const char *line, int how)
{
    const char *what = strstr(line, "tree") ? "low" : strstr(line, "patch") ? "b.0" : "0";
    kd_model *full, *base = create(kd, line), *prepared, *teacher = create(kd, line);
    kd_train_desc d = options();
    kd_feature_loss f = kd_feature_loss_defaults(KD_FEATURE_HINT);
    kd_loss_desc losses[2];
    int t, j;
    d.epochs = 1, d.batch = COUNT / 2, d.accumulate = 2, d.shuffle = 0; /* one update */
    s->data.teacher_logits = how == 1 ? s->teacher_logits : NULL;
    if (how == 1) d.dot_delta = 0.05f;
    losses[0] = losses[1] = kd_loss_defaults(KD_LOSS_CE);
    losses[1].inputs = KD_INPUTS_ADVERSARIAL;
    if (how == 2) d.losses = losses, d.loss_count = 2, d.attack.steps = 2, d.uncertainty = 1;
    f.student = f.teacher = what;
    if (how == 3) d.teacher = teacher, d.features = &f, d.feature_count = 1;
    if (how == 4)
        d.optimizer = KD_ADAMW, d.weight_decay = 0.1f, d.ema = 0.5f, d.max_norm = 0.3f, d.slimming = 1e-3f;
    if (how == 5) {
        assert_ok(kd, kd_model_prepare_int8(base, &s->data, NULL, &prepared));
        kd_model_destroy(base);
        base = prepared;
    }
    assert_ok(kd, kd_model_clone(base, &full));
    assert_ok(kd, kd_train(full, &s->data, &d));
    for (t = 0; t < base->param_count; ++t) {
        kd_layer_rate rates[2] = {{"*", 0}, {NULL, 1}};
        kd_model *m;
        if (!base->params[t].trained || strstr(base->params[t].name, "norm")) continue;
        rates[1].layer = base->params[t].name;
        d.rates = rates, d.rate_count = 2;
        assert_ok(kd, kd_model_clone(base, &m));
        assert_ok(kd, kd_train(m, &s->data, &d));
        for (j = 0; j < m->param_count; ++j) {
            const kd_model *as = j == t ? full : base;
            if (memcmp(kd__param_stored(m, &m->params[j]), kd__param_stored(as, &as->params[j]),
                       m->params[j].size * sizeof(float)) != 0)
                fail_msg("%s, way %d: where only %s learns, %s is not as %s", line, how, rates[1].layer,
                         m->params[j].name, j == t ? "among all" : "it was");
        }
        kd_model_destroy(m);
    }
    kd_model_destroy(full);
    kd_model_destroy(base);
    kd_model_destroy(teacher);
    s->data.teacher_logits = NULL;
}

static void test_single_tensors(void **state)
{
    static const char *const lines[] = {
        "2x6x6: patch 3 8, classtoken, disttoken, position, droppath 0.2, b: encoder 1 2, head: disthead 3",
        "2x6x6: low: dense 6, tanh, tree: softtree 2 3 penalty=2",
        "2x6x6: conv 3 3 pad=1, gelu, residual(conv 5 3 pad=1, relu, depthwise 3 pad=1, conv 5 3 pad=1), relu6, "
        "avgpool 2, dropout 0.3, dense 7, silu, dense 3",
        "2x6x6: residual(conv 4 3 stride=2 pad=1, residual(conv 4 3 pad=1, hardswish)), leakyrelu, gap, dense 3"};
    kd_ctx *kd = test_open(KD_ISA_AUTO, 2);
    school s;
    int line, how;
    (void)state;
    school_open(&s);
    for (line = 0; line < KD__COUNT(lines); ++line) {
        for (how = 0; how < 6; ++how) check_single(kd, &s, lines[line], how);
    }
    school_close(&s);
    kd_close(kd);
}

/* What stays counts in nothing: not in the norm that clips, and a batchnorm that is frozen takes a lone sample. */
static void test_frozen_counts_not(void **state)
{
    static const kd_layer_rate alone[] = {{"*", 0}, {"3.bias", 1}}, norm[] = {{"1", 0}};
    kd_ctx *kd = test_open(KD_ISA_AUTO, 1);
    kd_train_desc d = options();
    kd_model *m = create(kd, "2x6x6: dense 4, relu, dense 3"), *start;
    kd_step_info info;
    kd_trainer *t;
    double squares = 0;
    school s;
    int j;
    (void)state;
    school_open(&s);
    assert_ok(kd, kd_model_clone(m, &start));
    d.epochs = 1, d.batch = COUNT, d.lr = 1, d.momentum = 0, d.clip_norm = 100;
    d.rates = alone, d.rate_count = 2;
    assert_ok(kd, kd_trainer_open(m, &s.data, &d, &t));
    assert_ok(kd, kd_trainer_step(t, &info));
    kd_trainer_close(t);
    for (j = 0; j < (int)m->weight_count; ++j)
        squares += ((double)m->weights[j] - (double)start->weights[j]) *
                   ((double)m->weights[j] - (double)start->weights[j]);
    assert_near(info.gradient_norm, sqrt(squares), 1e-5);
    kd_model_destroy(start);
    kd_model_destroy(m);
    m = create(kd, "2x6x6: flatten, batchnorm, relu, dense 3");
    d = options(), d.batch = 1;
    assert_fails(kd, kd_train(m, &s.data, &d), KD_ERR_ARGUMENT, "batch must be 2 or more");
    d.rates = norm, d.rate_count = 1;
    assert_ok(kd, kd_train(m, &s.data, &d));
    assert_int_equal(m->batches_seen, 0);
    kd_model_destroy(m);
    school_close(&s);
    kd_close(kd);
}

/* Losses on features of frozen layers teach what they still can; nobody else notices. */
static void test_features_of_frozen(void **state)
{
    static const kd_layer_rate rates[] = {{"a", 0}, {"abn", 0}};
    kd_ctx *kd = test_open(KD_ISA_AUTO, 2);
    kd_feature_loss f = kd_feature_loss_defaults(KD_FEATURE_HINT);
    kd_train_desc d = options();
    kd_model *teacher = create(kd, net), *m, *plain;
    float before[5 * 18], after[5 * 18];
    school s;
    (void)state;
    school_open(&s);
    m = create(kd, net), plain = create(kd, net);
    f.student = f.teacher = "a";
    d.teacher = teacher, d.rates = rates, d.rate_count = 2;
    assert_ok(kd, kd_model_get_tensor(m, "a.weight", before, 90));
    assert_ok(kd, kd_train(plain, &s.data, &d));
    d.features = &f, d.feature_count = 1;
    assert_ok(kd, kd_train(m, &s.data, &d));
    assert_ok(kd, kd_model_get_tensor(m, "a.weight", after, 90));
    assert_memory_equal(before, after, sizeof before);
    assert_true(kd_model_hash(m) == kd_model_hash(plain));
    kd_model_destroy(plain);
    kd_model_destroy(m);
    kd_model_destroy(teacher);
    school_close(&s);
    kd_close(kd);
}

static void test_rates_refused(void **state)
{
    kd_ctx *kd = test_open(KD_ISA_AUTO, 1);
    kd_layer_rate rates[2] = {{"a", 0}, {"*", 0}};
    kd_train_desc d = options();
    kd_model *m = create(kd, net);
    kd_trainer *t;
    school s;
    (void)state;
    school_open(&s);
    d.rates = rates;
    assert_fails(kd, kd_train(m, &s.data, &d), KD_ERR_ARGUMENT, "rates and rate_count belong together");
    d.rate_count = 257;
    assert_fails(kd, kd_train(m, &s.data, &d), KD_ERR_ARGUMENT, "must be 0 to 256, got 257");
    d.rate_count = 2;
    assert_fails(kd, kd_train(m, &s.data, &d), KD_ERR_ARGUMENT, "kd_train: rates freeze all layers");
    rates[1].factor = -1;
    assert_fails(kd, kd_train(m, &s.data, &d), KD_ERR_ARGUMENT, "the rate of \"*\" must be 0 to 1000000, got -1");
    rates[1].factor = NAN;
    assert_fails(kd, kd_train(m, &s.data, &d), KD_ERR_ARGUMENT, "got nan");
    rates[1].factor = 1, rates[1].layer = "aa";
    assert_fails(kd, kd_train(m, &s.data, &d), KD_ERR_ARGUMENT,
                 "rate 1 is of \"aa\", but no tensor of the model has that name, or begins with it and a dot; the "
                 "first is \"a.weight\"");
    rates[1].layer = NULL;
    assert_fails(kd, kd_train(m, &s.data, &d), KD_ERR_ARGUMENT, "rate 1 names no layer");
    d.rate_count = 1; /* and of a training that is saved they are a part */
    assert_ok(kd, kd_trainer_open(m, &s.data, &d, &t));
    assert_ok(kd, kd_trainer_save(t, "build/test_own.checkpoint"));
    kd_trainer_close(t);
    rates[0].factor = 2;
    assert_ok(kd, kd_trainer_open(m, &s.data, &d, &t));
    assert_fails(kd, kd_trainer_load(t, "build/test_own.checkpoint"), KD_ERR_DATA, "options");
    kd_trainer_close(t);
    remove("build/test_own.checkpoint");
    kd_model_destroy(m);
    school_close(&s);
    kd_close(kd);
}

/* ---- losses of one's own ------------------------------------------------------------------------------------- */

typedef struct own {
    int calls, rows, teachers, labels, soft;
    double value, grad; /* added */
} own;

/* Cross-entropy, and half the squared distance to the teacher. */
static double own_loss(void *user, const kd_loss_batch *b)
{
    own *o = (own *)user;
    double sum = 0;
    int r, c;
    ++o->calls, o->rows += b->rows;
    o->teachers += b->teacher != NULL, o->labels += b->labels != NULL, o->soft += b->soft_labels != NULL;
    for (r = 0; r < b->rows; ++r) {
        const float *s = b->student + (ptrdiff_t)r * b->cols,
                    *t = b->teacher ? b->teacher + (ptrdiff_t)r * b->cols : NULL;
        float *g = b->grad + (ptrdiff_t)r * b->cols;
        double total = 0, most = (double)s[0];
        for (c = 0; c < b->cols; ++c) most = fmax(most, (double)s[c]);
        for (c = 0; c < b->cols; ++c) total += exp((double)s[c] - most);
        for (c = 0; c < b->cols; ++c) {
            const double log_p = (double)s[c] - most - log(total);
            const double y = b->soft_labels ? (double)b->soft_labels[(ptrdiff_t)r * b->cols + c]
                             : b->labels    ? b->labels[r] == c
                                            : 0;
            const double far = t ? (double)s[c] - (double)t[c] : 0;
            const int hard = b->soft_labels || (b->labels && b->labels[r] != KD_UNLABELLED);
            sum += (hard ? -y * log_p : 0) + 0.5 * far * far;
            g[c] = (float)(((hard ? exp(log_p) - y : 0) + far + o->grad) / b->rows);
        }
    }
    return sum / b->rows + o->value;
}

static kd_loss_desc own_desc(own *o)
{
    kd_loss_desc d = kd_loss_defaults(KD_LOSS_CUSTOM);
    memset(o, 0, sizeof *o);
    d.fn = own_loss, d.user = o;
    return d;
}

/* Alone, with weights, and in a sum: what the losses of the library that say the same bring. */
static void test_own_as_the_librarys(void **state)
{
    kd_ctx *kd = test_open(KD_ISA_AUTO, 2);
    school s;
    own o;
    kd_loss_desc custom = own_desc(&o), ce = kd_loss_defaults(KD_LOSS_CE), mse = kd_loss_defaults(KD_LOSS_MSE);
    float grad[3][COUNT * CLASSES];
    double value[3];
    int i;
    (void)state;
    school_open(&s);
    mse.soft_weight = 0.5f;
    assert_string_equal(kd_loss_name(KD_LOSS_CUSTOM), "custom");
    assert_ok(kd, kd_loss(kd, &ce, s.x, NULL, s.labels, COUNT, CLASSES, grad[0], &value[0]));
    assert_ok(kd, kd_loss(kd, &mse, s.x, s.teacher_logits, NULL, COUNT, CLASSES, grad[1], &value[1]));
    assert_ok(kd, kd_loss(kd, &custom, s.x, s.teacher_logits, s.labels, COUNT, CLASSES, grad[2], &value[2]));
    assert_near(value[2], value[0] + value[1], 1e-6);
    for (i = 0; i < COUNT * CLASSES; ++i) assert_near(grad[2][i], grad[0][i] + grad[1][i], 1e-6);
    custom.soft_weight = 3, custom.hard_weight = 2; /* that is CE once more */
    assert_ok(kd, kd_loss(kd, &custom, s.x, s.teacher_logits, s.labels, COUNT, CLASSES, grad[2], &value[2]));
    assert_near(value[2], 5 * value[0] + 3 * value[1], 1e-6);
    for (i = 0; i < COUNT * CLASSES; ++i) assert_near(grad[2][i], 5 * grad[0][i] + 3 * grad[1][i], 1e-6);
    assert_int_equal(o.calls, 2);
    assert_int_equal(o.rows, 2 * COUNT);
    assert_ok(kd, kd_loss(kd, &ce, s.x, NULL, s.labels, COUNT, CLASSES, NULL, &value[0]));
    custom = own_desc(&o);
    assert_ok(kd, kd_loss(kd, &custom, s.x, NULL, s.labels, COUNT, CLASSES, NULL, &value[2]));
    assert_near(value[2], value[0], 1e-6);
    assert_ok(kd, kd_loss(kd, &custom, s.x, NULL, NULL, COUNT, CLASSES, NULL, &value[2]));
    assert_true(value[2] == 0 && o.labels == 1 && o.teachers == 0);
    school_close(&s);
    kd_close(kd);
}

/* Trains like the library's own, alone and in a sum; sees soft labels, samples without a label and validation. */
static void test_training_by_own(void **state)
{
    kd_ctx *kd = test_open(KD_ISA_AUTO, 2);
    kd_loss_desc two[2];
    float weights[2] = {1, 0.5f};
    kd_train_desc d = options();
    kd_model *m[3];
    kd_cross_validation cv;
    school s;
    own o;
    int i, j;
    (void)state;
    school_open(&s);
    s.data.teacher_logits = s.teacher_logits;
    two[0] = kd_loss_defaults(KD_LOSS_CE), two[1] = kd_loss_defaults(KD_LOSS_MSE);
    for (i = 0; i < 3; ++i) m[i] = create(kd, net);
    d.losses = two, d.loss_weights = weights, d.loss_count = 2, d.lr = 0.01f;
    assert_ok(kd, kd_train(m[0], &s.data, &d));
    d.losses = NULL, d.loss_weights = NULL, d.loss_count = 0;
    d.loss = own_desc(&o), d.validation = 0;
    assert_ok(kd, kd_train(m[1], &s.data, &d));
    assert_int_equal(o.calls, 2 * 5);
    assert_int_equal(o.rows, 2 * COUNT);
    assert_int_equal(o.teachers, o.calls);
    for (j = 0; j < (int)m[0]->weight_count; ++j) assert_near(m[1]->weights[j], m[0]->weights[j], 1e-4);
    two[0] = own_desc(&o), two[1] = own_desc(&o), weights[0] = 0.25f, weights[1] = 0.75f;
    d.loss = kd_loss_defaults(KD_LOSS_AUTO), d.losses = two, d.loss_weights = weights, d.loss_count = 2;
    assert_ok(kd, kd_train(m[2], &s.data, &d));
    for (j = 0; j < (int)m[0]->weight_count; ++j) assert_near(m[2]->weights[j], m[0]->weights[j], 1e-4);
    d.losses = NULL, d.loss_weights = NULL, d.loss_count = 0, d.loss = own_desc(&o);
    d.augment.mixup = 0.3f, s.data.teacher_logits = NULL;
    assert_ok(kd, kd_train(m[2], &s.data, &d));
    assert_true(o.calls > 0 && o.soft == o.calls && o.labels == 0);
    d.augment.mixup = 0;
    s.labels[3] = KD_UNLABELLED;
    d.loss = own_desc(&o);
    assert_ok(kd, kd_train(m[2], &s.data, &d));
    assert_true(o.labels == o.calls && o.teachers == 0);
    d.loss = own_desc(&o), s.labels[3] = 0; /* one fold after the other: o counts right */
    assert_ok(kd, kd_cross_validate(m[2], &s.data, &d, 4, NULL, &cv));
    assert_int_equal(o.rows, 3 * COUNT * d.epochs);
    for (i = 0; i < 3; ++i) kd_model_destroy(m[i]);
    school_close(&s);
    kd_close(kd);
}

/* Made of the library's losses; and what else may call one. */
static double nested_loss(void *user, const kd_loss_batch *b)
{
    kd_loss_desc d = kd_loss_defaults(b->teacher ? KD_LOSS_MLLD : KD_LOSS_TFKD);
    double value = 0;
    if (kd_loss((kd_ctx *)user, &d, b->student, b->teacher, b->labels, b->rows, b->cols, b->grad, &value) != KD_OK)
        return (double)NAN;
    return value;
}

static void test_nested(void **state)
{
    kd_ctx *kd = test_open(KD_ISA_AUTO, 2);
    kd_loss_desc custom = kd_loss_defaults(KD_LOSS_CUSTOM), mlld = kd_loss_defaults(KD_LOSS_MLLD);
    float grad[2][COUNT * CLASSES];
    double value[2];
    kd_train_desc d = options();
    kd_model *m[2];
    school s;
    int i;
    (void)state;
    school_open(&s);
    custom.fn = nested_loss, custom.user = kd;
    assert_ok(kd, kd_loss(kd, &mlld, s.x, s.teacher_logits, s.labels, COUNT, CLASSES, grad[0], &value[0]));
    assert_ok(kd, kd_loss(kd, &custom, s.x, s.teacher_logits, s.labels, COUNT, CLASSES, grad[1], &value[1]));
    assert_near(value[1], value[0], 1e-12);
    for (i = 0; i < COUNT * CLASSES; ++i) assert_near(grad[1][i], grad[0][i], 1e-6);
    s.data.teacher_logits = s.teacher_logits;
    for (i = 0; i < 2; ++i) {
        m[i] = create(kd, net);
        d.loss = i ? custom : mlld;
        assert_ok(kd, kd_train(m[i], &s.data, &d));
    }
    for (i = 0; i < (int)m[0]->weight_count; ++i) assert_near(m[1]->weights[i], m[0]->weights[i], 1e-4);
    for (i = 0; i < 2; ++i) kd_model_destroy(m[i]);
    school_close(&s);
    kd_close(kd);
}

/* The logit of a single output against labels 0 and 1, and labels that are no classes. */
static double single_loss(void *user, const kd_loss_batch *b)
{
    double sum = 0;
    int r;
    (void)user;
    for (r = 0; r < b->rows; ++r) {
        const double far = (double)b->student[r] - b->labels[r];
        sum += far * far / b->rows;
        b->grad[r] = (float)(2 * far / b->rows);
    }
    return sum;
}

static void test_labels_of_own(void **state)
{
    kd_ctx *kd = test_open(KD_ISA_AUTO, 1);
    kd_train_desc d = options();
    kd_model *m = create(kd, "2x6x6: dense 1"), *teacher = create(kd, net), *student = create(kd, net);
    kd_loss_desc loss = kd_loss_defaults(KD_LOSS_CUSTOM);
    float logits[3] = {1, 2, 3}, grad[3];
    static const int32_t far[3] = {7, -4, 1000};
    double value;
    school s;
    own o;
    int i;
    (void)state;
    school_open(&s);
    loss.fn = single_loss;
    assert_ok(kd, kd_loss(kd, &loss, logits, NULL, far, 3, 1, grad, &value));
    assert_near(value, (36 + 36 + 997.0 * 997) / 3, 1e-6);
    for (i = 0; i < COUNT; ++i) s.labels[i] = i % 2;
    s.data.classes = 2;
    d.loss = loss, d.epochs = 20, d.lr = 0.005f;
    assert_ok(kd, kd_train(m, &s.data, &d));
    d = options(), d.loss = own_desc(&o), d.teacher = teacher, d.augment.mixup = 0.3f;
    s.data.labels = NULL, s.data.classes = 0; /* and without any there are none */
    assert_ok(kd, kd_train(student, &s.data, &d));
    assert_true(o.calls > 0 && o.labels == 0 && o.soft == 0 && o.teachers == o.calls);
    d.augment.mixup = 0, d.dot_delta = 0.05f, d.loss = own_desc(&o);
    assert_ok(kd, kd_train(student, &s.data, &d));
    assert_int_equal(o.calls, 2 * 2 * 5);
    kd_model_destroy(student);
    kd_model_destroy(teacher);
    kd_model_destroy(m);
    school_close(&s);
    kd_close(kd);
}

static void test_own_refused(void **state)
{
    kd_ctx *kd = test_open(KD_ISA_AUTO, 1);
    kd_train_desc d = options();
    kd_model *m = create(kd, net);
    const uint64_t before = kd_model_hash(m);
    school s;
    own o;
    double value;
    (void)state;
    school_open(&s);
    d.loss = kd_loss_defaults(KD_LOSS_CUSTOM);
    assert_fails(kd, kd_train(m, &s.data, &d), KD_ERR_ARGUMENT,
                 "KD_LOSS_CUSTOM and fn of the loss belong together");
    d.loss = kd_loss_defaults(KD_LOSS_CE), d.loss.fn = own_loss;
    assert_fails(kd, kd_train(m, &s.data, &d), KD_ERR_ARGUMENT,
                 "KD_LOSS_CUSTOM and fn of the loss belong together");
    d.loss = own_desc(&o), d.loss.standardise = 1;
    assert_fails(kd, kd_train(m, &s.data, &d), KD_ERR_ARGUMENT, "loss custom has no logits to standardise");
    d.loss = own_desc(&o), d.loss.temperature_end = 1;
    assert_fails(kd, kd_train(m, &s.data, &d), KD_ERR_ARGUMENT, "loss custom has no temperature");
    d.loss = own_desc(&o), d.loss.hard_weight = 1, s.data.labels = NULL;
    assert_fails(kd, kd_train(m, &s.data, &d), KD_ERR_ARGUMENT, "needs labels for its hard term");
    s.data.labels = s.labels;
    d.loss = own_desc(&o), o.value = (double)NAN;
    assert_fails(kd, kd_train(m, &s.data, &d), KD_ERR_NOT_FINITE, "the loss is not finite at step 0");
    d.loss = own_desc(&o), o.grad = (double)INFINITY;
    assert_fails(kd, kd_train(m, &s.data, &d), KD_ERR_NOT_FINITE, "the loss is not finite at step 0");
    assert_true(kd_model_hash(m) == before);
    d.loss = own_desc(&o), o.grad = (double)NAN;
    assert_int_equal(kd_loss(kd, &d.loss, s.x, NULL, s.labels, COUNT, CLASSES, NULL, &value), KD_ERR_NOT_FINITE);
    kd_model_destroy(m);
    school_close(&s);
    kd_close(kd);
}

/* ---- what layers put out ------------------------------------------------------------------------------------- */

/* The layer is the end of a model of its own: the same bits. */
static void test_layers(void **state)
{
    static const struct {
        const char *line, *layer, *until;
        int c, h, w;
    } cases[] = {
        {"2x6x6: conv 5 3, relu, maxpool 2, batchnorm, dense 7, tanh, dense 3", "0", "2x6x6: conv 5 3, relu", 5, 4,
         4},
        {"2x6x6: conv 5 3, gelu, s: maxpool 2, batchnorm, dense 7, tanh, dense 3", "s",
         "2x6x6: conv 5 3, gelu, maxpool 2", 5, 2, 2},
        {"2x6x6: conv 5 3, relu, maxpool 2, batchnorm, dense 7, t: tanh, dense 3", "t",
         "2x6x6: conv 5 3, relu, maxpool 2, batchnorm, dense 7, tanh", 7, 1, 1},
        {"2x6x6: conv 5 3, r: residual(conv 5 3 pad=1, batchnorm), relu, gap, e: dense 3", "r",
         "2x6x6: conv 5 3, residual(conv 5 3 pad=1, batchnorm), relu", 5, 4, 4},
        {"2x6x6: conv 5 3, flatten, dense 3", "1", "2x6x6: conv 5 3, flatten", 80, 1, 1},
        {"2x6x6: conv 5 3, residual(conv 5 3 pad=1, batchnorm), relu, gap, e: dense 3", "e",
         "2x6x6: conv 5 3, residual(conv 5 3 pad=1, batchnorm), relu, gap, dense 3", 3, 1, 1},
        {"2x6x6: patch 2 8, b: encoder 2 2, meanpool, linear 3", "b.0", "2x6x6: patch 2 8, encoder 1 2", 8, 9, 1},
    };
    const int n = 150;
    float *x = test_floats(9, (size_t)n * SIZE, 1);
    size_t i;
    kd_isa isa;
    (void)state;
    FOR_EACH_ISA(isa)
    {
        kd_ctx *kd = test_open(isa, 2);
        for (i = 0; i < sizeof cases / sizeof *cases; ++i) {
            kd_model *m = create(kd, cases[i].line), *part = create(kd, cases[i].until);
            int c, h, w, outputs = kd_model_outputs(part), j;
            float *wanted = test_floats(1, (size_t)n * (size_t)outputs, 1),
                  *got = test_floats(2, (size_t)n * (size_t)outputs, 1);
            for (j = 0; j < part->param_count; ++j) { /* by their places: names go on differently */
                const kd__param *from = &m->params[j];
                memcpy(kd__param_stored(part, &part->params[j]), kd__param_stored(m, from),
                       from->size * sizeof(float));
            }
            assert_ok(kd, kd_layer_shape(m, cases[i].layer, &c, &h, &w));
            assert_int_equal(c, cases[i].c);
            assert_int_equal(h, cases[i].h);
            assert_int_equal(w, cases[i].w);
            assert_int_equal(c * h * w, outputs);
            assert_ok(kd, kd_predict(part, x, n, wanted));
            assert_ok(kd, kd_predict_layer(m, cases[i].layer, x, n, got));
            if (memcmp(wanted, got, (size_t)n * (size_t)outputs * sizeof *got) != 0)
                fail_msg("%s of %s", cases[i].layer, cases[i].line);
            free(wanted);
            free(got);
            kd_model_destroy(part);
            kd_model_destroy(m);
        }
        kd_close(kd);
    }
    free(x);
}

static void test_layers_refused(void **state)
{
    test_memory memory;
    kd_ctx_desc desc = test_memory_desc(&memory);
    kd_ctx *kd;
    kd_model *m, *small;
    kd_data data;
    float x[4 * SIZE], out[4 * 80];
    int c, h, w, i;
    (void)state;
    for (i = 0; i < 4 * SIZE; ++i) x[i] = (float)(i % 5) - 2;
    data = kd_data_f32(x, NULL, 4, 2, 6, 6, CLASSES);
    assert_int_equal(kd_open(&desc, &kd), KD_OK);
    m = create(kd, "2x6x6: first: conv 5 3, relu, dense 3");
    assert_int_equal(kd_predict_layer(NULL, "first", x, 4, out), KD_ERR_ARGUMENT);
    assert_int_equal(kd_layer_shape(NULL, "first", &c, &h, &w), KD_ERR_ARGUMENT);
    assert_fails(kd, kd_layer_shape(m, "first", &c, NULL, &w), KD_ERR_ARGUMENT, "needs places for the shape");
    assert_fails(kd, kd_layer_shape(m, NULL, &c, &h, &w), KD_ERR_ARGUMENT,
                 "kd_layer_shape: needs the name of a layer");
    assert_fails(kd, kd_predict_layer(m, "frist", x, 4, out), KD_ERR_ARGUMENT,
                 "kd_predict_layer: the model has no layer \"frist\"; did you mean \"first\"?");
    assert_fails(kd, kd_predict_layer(m, "first", x, -1, out), KD_ERR_ARGUMENT, "-1 samples, or a NULL pointer");
    assert_fails(kd, kd_predict_layer(m, "first", NULL, 4, out), KD_ERR_ARGUMENT, "4 samples, or a NULL pointer");
    assert_ok(kd, kd_predict_layer(m, "first", NULL, 0, NULL));
    for (i = 1;; ++i) { /* every request for memory refused in turn */
        kd_result result;
        memory.requests = 0, memory.refuse_at = i;
        result = kd_predict_layer(m, "first", x, 4, out);
        memory.refuse_at = 0;
        if (memory.requests < i) break;
        assert_int_equal(result, KD_ERR_MEMORY);
    }
    assert_true(i > 3);
    assert_ok(kd, kd_model_quantize(m, &data, NULL, &small));
    assert_fails(kd, kd_predict_layer(small, "first", x, 4, out), KD_ERR_UNSUPPORTED,
                 "an int8 model has no floats");
    kd_model_destroy(small);
    kd_model_destroy(m);
    test_memory_close(kd, &memory);
}

/* ---- what attention looks at --------------------------------------------------------------------------------- */

enum { SEEN_TOKENS = 70, SEEN_WIDTH = 6 };

/* In double precision, of the layer before: queries, keys and values of each token, padding behind `real`. */
static void weights_of(const float *qkv, int tokens, int real, int heads, int causal, double *to)
{
    const int size = SEEN_WIDTH / heads;
    int h, i, j, k;
    memset(to, 0, (size_t)(heads * tokens * tokens) * sizeof *to);
    for (h = 0; h < heads; ++h) {
        for (i = 0; i < real; ++i) {
            double *row = to + (h * tokens + i) * tokens, sum = 0;
            for (j = 0; j < real && (!causal || j <= i); ++j) {
                double score = 0;
                for (k = 0; k < size; ++k)
                    score += (double)qkv[(h * size + k) * tokens + i] *
                             (double)qkv[(SEEN_WIDTH + h * size + k) * tokens + j];
                row[j] = exp(score / sqrt((double)size));
                sum += row[j];
            }
            for (j = 0; j < real; ++j) row[j] /= sum;
        }
    }
}

/* Samples with and without padding, in more than one tile and more than one slice of a call. */
static void test_attention(void **state)
{
    static const struct {
        const char *line, *layer, *before;
        int tokens, heads, causal, token, first, stride, lead; /* lead: tokens in front of a text's */
    } cases[] = {
        {"2x6x8: patch 2 6, cls: classtoken, b: encoder 2 3, layernorm, token 0, linear 3", "b.1.attn",
         "b.1.attn.qkv", 13, 3, 0, 0, 0, 0, 0},
        {"2x6x8: patch 2 6, attention 2 causal=1, token 7, linear 3", "1", "1.qkv", 12, 2, 1, 7, 0, 0, 0},
        {"tokens 70: embed 50 6, position, b: encoder 2 2, meanpool, linear 3", NULL, "b.1.attn.qkv", 70, 2, 0, -1,
         0, 1, 0},
        {"tokens 70: embed 50 6, b: encoder 2 1 causal=1, meanpool, linear 3", "b.0.attn", "b.0.attn.qkv", 70, 1, 1,
         -1, 0, 1, 0},
        {"tokens 70: embed 50 6, conv 6 3x1 pad=1x0 stride=2x1, tokens, classtoken, b: encoder 1 2, token 0, "
         "linear 3",
         NULL, "b.0.attn.qkv", 36, 2, 0, 0, 1, 2, 1},
    };
    enum { N = 67 };
    float *x = (float *)calloc((size_t)N * 96, sizeof *x);
    size_t c;
    kd_isa isa;
    (void)state;
    FOR_EACH_ISA(isa)
    {
        kd_ctx *kd = test_open(isa, 2);
        for (c = 0; c < sizeof cases / sizeof *cases; ++c) {
            kd_model *m = create(kd, cases[c].line);
            const int tokens = cases[c].tokens, heads = cases[c].heads, input = m->ids ? SEEN_TOKENS : 96,
                      size = heads * tokens * tokens;
            float *qkv = (float *)malloc((size_t)(N * 3 * SEEN_WIDTH * tokens) * sizeof *qkv),
                  *got = (float *)malloc((size_t)(N * size) * sizeof *got);
            double *wanted = (double *)malloc((size_t)size * sizeof *wanted);
            kd_attention_info info;
            int i, j;
            for (i = 0; i < m->param_count; ++i) { /* weights that are not all alike */
                float *w = kd__param_stored(m, &m->params[i]);
                for (j = 0; j < (int)m->params[i].size; ++j) w[j] += 0.3f * (float)((i + 7 * j) % 11 - 5) / 5;
            }
            for (i = 0; i < N * input; ++i)
                x[i] = !m->ids ? (float)(i * 31 % 19) / 9 - 1 : i % input < 1 + i / input ? (float)(1 + i % 49) : 0;
            assert_ok(kd, kd_model_attention(m, cases[c].layer, &info));
            if (cases[c].layer) assert_string_equal(info.layer, cases[c].layer);
            assert_int_equal(info.tokens, tokens);
            assert_int_equal(info.heads, heads);
            assert_int_equal(info.token, cases[c].token);
            assert_int_equal(info.first, cases[c].first);
            assert_int_equal(info.stride, cases[c].stride);
            assert_ok(kd, kd_predict_layer(m, cases[c].before, x, N, qkv));
            memset(got, 255, (size_t)(N * size) * sizeof *got);
            assert_ok(kd, kd_predict_attention(m, cases[c].layer, x, N, got));
            for (i = 0; i < N; ++i) {
                const int ids = i + 1 < SEEN_TOKENS ? i + 1 : SEEN_TOKENS, stride = cases[c].stride;
                const int real = m->ids ? (ids + stride - 1) / stride + cases[c].lead : tokens;
                weights_of(qkv + i * 3 * SEEN_WIDTH * tokens, tokens, real, heads, cases[c].causal, wanted);
                for (j = 0; j < size; ++j) {
                    if (!(fabs(wanted[j] - (double)got[i * size + j]) <= 1e-5))
                        fail_msg("%s, sample %d, weight %d: %g, not %g", cases[c].line, i, j,
                                 (double)got[i * size + j], wanted[j]);
                }
            }
            free(wanted);
            free(got);
            free(qkv);
            kd_model_destroy(m);
        }
        kd_close(kd);
    }
    free(x);
}

static void test_attention_refused(void **state)
{
    test_memory memory;
    kd_ctx_desc desc = test_memory_desc(&memory);
    kd_ctx *kd;
    kd_model *m, *none;
    kd_attention_info info;
    float x[2 * 48], out[2 * 2 * 12 * 12];
    int i;
    (void)state;
    for (i = 0; i < 2 * 48; ++i) x[i] = (float)(i % 5) - 2;
    assert_int_equal(kd_open(&desc, &kd), KD_OK);
    m = create(kd, "1x6x8: patch 2 6, look: attention 2, meanpool, linear 3");
    none = create(kd, "1x6x8: first: conv 5 3, relu, dense 3");
    assert_int_equal(kd_model_attention(NULL, "look", &info), KD_ERR_ARGUMENT);
    assert_int_equal(kd_predict_attention(NULL, "look", x, 2, out), KD_ERR_ARGUMENT);
    assert_fails(kd, kd_model_attention(m, "look", NULL), KD_ERR_ARGUMENT,
                 "kd_model_attention: out must not be NULL");
    assert_fails(kd, kd_model_attention(none, NULL, &info), KD_ERR_ARGUMENT,
                 "kd_model_attention: the model has no attention layer");
    assert_fails(kd, kd_predict_attention(none, NULL, x, 2, out), KD_ERR_ARGUMENT,
                 "kd_predict_attention: the model has no attention layer");
    assert_fails(kd, kd_model_attention(none, "first", &info), KD_ERR_ARGUMENT,
                 "kd_model_attention: layer \"first\" is conv, not attention");
    assert_fails(kd, kd_predict_attention(m, "lok", x, 2, out), KD_ERR_ARGUMENT,
                 "kd_predict_attention: the model has no layer \"lok\"; did you mean \"look\"?");
    assert_fails(kd, kd_predict_attention(m, NULL, x, -1, out), KD_ERR_ARGUMENT,
                 "kd_predict_attention: -1 samples, or a NULL pointer");
    assert_fails(kd, kd_predict_attention(m, NULL, x, 2, NULL), KD_ERR_ARGUMENT, "2 samples, or a NULL pointer");
    assert_ok(kd, kd_predict_attention(m, NULL, NULL, 0, NULL));
    for (i = 1;; ++i) { /* every request for memory refused in turn */
        kd_result result;
        memory.requests = 0, memory.refuse_at = i;
        result = kd_predict_attention(m, NULL, x, 2, out);
        memory.refuse_at = 0;
        if (memory.requests < i) break;
        assert_int_equal(result, KD_ERR_MEMORY);
    }
    assert_true(i > 3);
    kd_model_destroy(none);
    kd_model_destroy(m);
    test_memory_close(kd, &memory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_frozen_stays),
        cmocka_unit_test(test_head_alone),
        cmocka_unit_test(test_gradient_through_frozen),
        cmocka_unit_test(test_factors),
        cmocka_unit_test(test_frozen_elsewhere),
        cmocka_unit_test(test_single_tensors),
        cmocka_unit_test(test_frozen_counts_not),
        cmocka_unit_test(test_features_of_frozen),
        cmocka_unit_test(test_rates_refused),
        cmocka_unit_test(test_own_as_the_librarys),
        cmocka_unit_test(test_training_by_own),
        cmocka_unit_test(test_nested),
        cmocka_unit_test(test_labels_of_own),
        cmocka_unit_test(test_own_refused),
        cmocka_unit_test(test_layers),
        cmocka_unit_test(test_layers_refused),
        cmocka_unit_test(test_attention),
        cmocka_unit_test(test_attention_refused),
    };
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    test_print_skips("test_own");
    return failed;
}
