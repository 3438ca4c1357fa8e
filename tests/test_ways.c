/* Ways to train: adversarial inputs, DOT, peers that teach each other, and those that are made of single calls.
   Each must notice a teacher that is ignored, has changed places with the student, or sees other images. */
#include "support.h"
#include "reference.h"
#include "golden/ways.h"

/* Every test gets a context whose memory is counted, and must have returned all of it at the end. */
static test_memory memory;
static kd_ctx *kd;
static char last_line[300];

static void keep_last_line(void *user, const char *line)
{
    (void)user;
    snprintf(last_line, sizeof last_line, "%s", line);
}

static int open_context(void **state)
{
    kd_ctx_desc desc = test_memory_desc(&memory);
    (void)state;
    desc.log = keep_last_line;
    return kd_open(&desc, &kd);
}

static int close_context(void **state)
{
    (void)state;
    test_memory_close(kd, &memory);
    return 0;
}

static kd_model *create_in(kd_ctx *ctx, const char *spec, uint64_t seed)
{
    kd_model *m;
    if (kd_model_create(ctx, spec, seed, &m) != KD_OK) fail_msg("%s: %s", spec, kd_error(ctx));
    return m;
}

static kd_model *create(const char *spec, uint64_t seed) { return create_in(kd, spec, seed); }

/* ---- against PyTorch ------------------------------------------------------------------------------------- */

/* All tensors, one after the other. */
static void set_weights(kd_model *m, const float *values)
{
    kd_tensor_info info;
    int i;
    for (i = 0; i < kd_model_tensors(m); ++i) {
        assert_ok(m->kd, kd_model_tensor_info(m, i, &info));
        assert_ok(m->kd, kd_model_set_tensor(m, info.name, values, info.count));
        values += info.count;
    }
}

enum { MAX_LOSSES = 2 };

/* A recipe and the losses it is made of. */
typedef struct recipe {
    kd_train_desc desc;
    kd_loss_desc losses[MAX_LOSSES];
    float weights[MAX_LOSSES];
} recipe;

static void add_loss(recipe *r, kd_loss_kind kind, float temperature, kd_inputs inputs, float weight)
{
    kd_loss_desc *loss = &r->losses[r->desc.loss_count];
    *loss = kd_loss_defaults(kind);
    loss->temperature = temperature;
    loss->inputs = inputs;
    r->weights[r->desc.loss_count++] = weight;
    r->desc.losses = r->losses;
    r->desc.loss_weights = r->weights;
}

/* Goldblum et al. 2020 */
static void set_ard(recipe *r)
{
    add_loss(r, KD_LOSS_CE, 1, KD_INPUTS_CLEAN, 0.3f);
    add_loss(r, KD_LOSS_KL, 3, KD_INPUTS_ADVERSARIAL, 0.7f);
}

/* Zi et al. 2021 */
static void set_rslad(recipe *r)
{
    add_loss(r, KD_LOSS_KL, 1, KD_INPUTS_CLEAN, 1 / 6.0f);
    add_loss(r, KD_LOSS_KL, 1, KD_INPUTS_ADVERSARIAL, 5 / 6.0f);
    r->desc.attack.loss = kd_loss_defaults(KD_LOSS_KL);
    r->desc.attack.loss.temperature = 1;
}

static void set_fgsm(recipe *r)
{
    add_loss(r, KD_LOSS_CE, 1, KD_INPUTS_ADVERSARIAL, 1);
    r->desc.attack.kind = KD_ATTACK_FGSM;
    r->desc.teacher = NULL;
}

static void set_binary(recipe *r)
{
    add_loss(r, KD_LOSS_BCE, 2, KD_INPUTS_ADVERSARIAL, 1);
    r->losses[0].alpha = 0.6f;
}

static void set_dot(recipe *r)
{
    r->desc.dot_delta = 0.15f;
    r->desc.loss = kd_loss_defaults(KD_LOSS_HINTON);
    r->desc.loss.temperature = 3;
    r->desc.loss.alpha = 0.7f;
}

static void set_dot_gathered(recipe *r)
{
    set_dot(r);
    r->desc.accumulate = 2;
}

static void set_dot_ard(recipe *r)
{
    set_ard(r);
    r->desc.dot_delta = 0.15f;
}

typedef struct way {
    const char *name;
    void (*set)(recipe *r);
    const double *end, *losses;
} way;

static int check_loss(void *user, const kd_step_info *info)
{
    const double **next = (const double **)user;
    assert_near(info->loss, *(*next)++, 2e-6);
    return 0;
}

static void check_way(kd_ctx *ctx, const way *w)
{
    const int binary = w->set == set_binary;
    kd_model *teacher = create_in(ctx, binary ? "2x4x4: dense 1" : "2x4x4: dense 3", 1);
    kd_model *m =
        create_in(ctx,
                  binary ? "2x4x4: conv 4 3 pad=1 bias=0, batchnorm, tanh, maxpool 2, conv 3 2, silu, dense 1"
                         : "2x4x4: conv 4 3 pad=1 bias=0, batchnorm, tanh, maxpool 2, conv 3 2, silu, dense 3",
                  1);
    kd_data data = kd_data_u8(golden_pixels, binary ? golden_binary_labels : golden_labels, GOLDEN_COUNT, 2, 4, 4,
                              binary ? 2 : 3);
    const double *next = w->losses, *wanted = w->end;
    recipe r;
    int i;
    int64_t j;
    data.mean[0] = 0.4f, data.mean[1] = 0.6f, data.std[0] = 0.25f, data.std[1] = 0.3f;
    set_weights(teacher, binary ? golden_binary_teacher : golden_teacher);
    set_weights(m, binary ? golden_binary_student : golden_student);
    memset(&r, 0, sizeof r);
    r.desc = kd_train_defaults();
    r.desc.teacher = teacher;
    r.desc.epochs = GOLDEN_EPOCHS, r.desc.batch = GOLDEN_BATCH, r.desc.shuffle = 0;
    r.desc.optimizer = KD_SGD, r.desc.lr = 0.05f, r.desc.momentum = 0.8f, r.desc.weight_decay = 0.02f;
    r.desc.attack.epsilon = 0.06f, r.desc.attack.step = 0.025f, r.desc.attack.steps = 3;
    r.desc.attack.random_start = 0;
    r.desc.on_step = check_loss;
    r.desc.user = &next;
    w->set(&r);
    if (kd_train(m, &data, &r.desc) != KD_OK) fail_msg("%s: %s", w->name, kd_error(ctx));
    assert_true(next == w->losses + 2 * GOLDEN_EPOCHS);
    for (i = 0; i < kd_model_tensors(m); ++i) {
        kd_tensor_info info;
        float values[128];
        assert_ok(ctx, kd_model_tensor_info(m, i, &info));
        assert_ok(ctx, kd_model_get_tensor(m, info.name, values, info.count));
        for (j = 0; j < info.count; ++j, ++wanted) {
            if (fabs((double)values[j] - *wanted) > 1e-5 * (1 + fabs(*wanted)))
                fail_msg("%s on %s: %s[%d] is %.8g, PyTorch has %.8g", w->name, kd_isa_name(ctx->isa), info.name,
                         (int)j, (double)values[j], *wanted);
        }
    }
    kd_model_destroy(m);
    kd_model_destroy(teacher);
}

static void test_like_pytorch(void **state)
{
    static const way ways[] = {
        {"ard", set_ard, golden_ard_end, golden_ard_losses},
        {"rslad", set_rslad, golden_rslad_end, golden_rslad_losses},
        {"fgsm", set_fgsm, golden_fgsm_end, golden_fgsm_losses},
        {"binary", set_binary, golden_binary_end, golden_binary_losses},
        {"dot", set_dot, golden_dot_end, golden_dot_losses},
        {"dot, gathered", set_dot_gathered, golden_dot_gathered_end, golden_dot_gathered_losses},
        {"dot with ard", set_dot_ard, golden_dot_ard_end, golden_dot_ard_losses},
    };
    kd_isa isa;
    int i;
    (void)state;
    FOR_EACH_ISA(isa)
    {
        kd_ctx *ctx = test_open(isa, 2);
        for (i = 0; i < KD__COUNT(ways); ++i) check_way(ctx, &ways[i]);
        kd_close(ctx);
    }
}

/* ---- the gradient by the input --------------------------------------------------------------------------- */

enum { CLASSES = 3 };

/* Mean cross-entropy of the reference's outputs. */
static double reference_mean_ce(const double *logits, const int32_t *labels, int n)
{
    double sum = 0;
    int i;
    for (i = 0; i < n; ++i) {
        double q[CLASSES] = {0, 0, 0}, g[CLASSES] = {0, 0, 0};
        q[labels[i]] = 1;
        sum += reference_ce(logits + i * CLASSES, q, CLASSES, 1, g) / n;
    }
    return sum;
}

/* The gradient by a value, all of it, sample by sample in the order of the input, as the run has stored it. */
static void gradient_by(kd_ctx *ctx, const kd_model *m, int sought, const float *x, const float *prompt,
                        const int32_t *labels, int n, double *to)
{
    const kd__run_desc desc = {NULL, sought, NULL, 0, NULL, 0, 0};
    const kd_loss_desc ce = kd_loss_defaults(KD_LOSS_CE);
    const kd__shape *s = &m->values[sought].shape;
    const kd__span all = {0, 0, 0, 0};
    kd__run *run;
    double value;
    int i, c, h, w;
    assert_ok(ctx, kd__run_open_for(m, &desc, n, &run));
    run->prompt = prompt;
    kd__run_forward(run, x, n);
    assert_ok(ctx,
              kd_loss(ctx, &ce, kd__run_logits(run), NULL, labels, n, CLASSES, kd__run_logits_grad(run), &value));
    kd__run_backward(run);
    for (i = 0; i < n; ++i) {
        const float *from = kd__slot_at(&run->grad[sought], all, i);
        for (c = 0; c < s->c; ++c) {
            for (h = 0; h < s->h; ++h) {
                for (w = 0; w < s->w; ++w) *to++ = (double)from[h * run->grad[sought].row + w * s->c + c];
            }
        }
    }
    kd__run_close(run);
}

/* By the input; of a model with a prompt by that, and the features before it. */
static void check_input_gradient(kd_ctx *ctx, const char *spec)
{
    enum { N = 7, MOST = 256 };
    kd_model *m = create_in(ctx, spec, 7);
    const int sought = m->prompt ? m->prompted : m->input;
    const int floats = (int)kd__shape_count(&m->values[sought].shape);
    float *x = test_floats(3, (size_t)(N * kd__shape_count(&m->values[m->input].shape)), 1);
    float *prompt = test_floats(4, (size_t)(N * m->prompt), 1);
    double got[N * MOST];
    int32_t labels[N];
    reference r;
    int i, j, next = 0;
    assert_true(floats <= MOST);
    for (i = 0; i < (int)m->state_count; ++i)
        m->state[i] = 0.5f + 0.25f * (float)(i % 5); /* statistics of its own */
    for (i = 0; i < N; ++i) labels[i] = i * 5 % CLASSES;
    gradient_by(ctx, m, sought, x, prompt, labels, N, got);
    reference_open(&r, m, N, 0);
    r.prompt = prompt;
    reference_run(&r, x);
    while (m->prompt && m->nodes[next++].out != sought) {}
    for (i = 0; i < N * floats; i += 7) { /* every place once: 7 samples, whose sizes are no multiples of 7 */
        double *number = &r.values[sought][i], up, down;
        const double kept = *number, step = 1e-6;
        *number = kept + step;
        up = reference_mean_ce(reference_run_from(&r, next), labels, N);
        *number = kept - step;
        down = reference_mean_ce(reference_run_from(&r, next), labels, N);
        *number = kept;
        if (fabs(got[i] - (up - down) / (2 * step)) > 2e-6)
            fail_msg("%s on %s: number %d is %g, should be %g", spec, kd_isa_name(ctx->isa), i, got[i],
                     (up - down) / (2 * step));
    }
    for (i = j = 0; i < N * floats; ++i) j += got[i] != 0;
    assert_true(j > N * floats / 10);
    reference_close(&r);
    free(x);
    free(prompt);
    kd_model_destroy(m);
}

/* First layers of every kind, prompts before and behind all sorts, and all that lets gradients through in another
   way than in training. */
static void test_input_gradient(void **state)
{
    static const char *const specs[] = {
        "10: dense 8, tanh, dense 3",
        "3x5x5: flatten, dense 3",
        "3x5x5: conv 4 3 pad=1, batchnorm, silu, dropout 0.5, dense 3",
        "2x6x5: conv 6 3 stride=2 pad=1 groups=2, relu, dense 3",
        "3x6x6: depthwise 3 pad=1, gelu, avgpool 2, dense 3",
        "3x5x5: batchnorm, residual(conv 3 3 pad=1, batchnorm, leakyrelu), maxpool 2, dense 3",
        "1x6x6: dropout 0.4, conv 5 3 pad=1, residual(conv 7 3 pad=1, batchnorm), gap, dropout 0.3, dense 3",
        "2x5x5: maxpool 3 stride=1, tanh, flatten, batchnorm, dense 3",
        "2x5x5: residual(conv 2 3 pad=1, sigmoid), residual(conv 4 1), dense 9, hardswish, dense 3",
        "16x2x2: relu, conv 4 1, dense 3",
        "16x4x4: conv 16 3 pad=1, relu, conv 17 3 pad=1, gap, dense 3", /* Winograd's, both */
        "10: prompt 4, dense 3",
        "2x4x4: conv 5 3, batchnorm, relu, prompt 20, dropout 0.5, dense 6, relu, dense 3",
        "6: dense 5, residual(prompt 2, tanh, dense 3), silu, dense 3",
        "3x3x3: residual(conv 4 3 pad=1, batchnorm), prompt 7, flatten, residual(dense 43, gelu), softtree 2 3",
    };
    kd_isa isa;
    int i;
    (void)state;
    FOR_EACH_ISA(isa)
    {
        kd_ctx *ctx = test_open(isa, 2);
        for (i = 0; i < KD__COUNT(specs); ++i) check_input_gradient(ctx, specs[i]);
        kd_close(ctx);
    }
}

/* The gradient by a prompt that tokens are made of, by which it is attacked, number by number; 0 where a sample has
   none. */
static void test_prompt_gradient(void **state)
{
    enum { N = 4, NUMBERS = 3 };
    const kd_loss_desc ce = kd_loss_defaults(KD_LOSS_CE);
    const float h = 1 / 128.0f;
    kd_isa isa;
    (void)state;
    FOR_EACH_ISA(isa)
    {
        kd_ctx *ctx = test_open(isa, 2);
        kd_model *m = create_in(ctx, "2x4x4: patch 2 6, sidetokens 2 3, encoder 1 2 mlp=1, meanpool, linear 3", 1);
        const kd__run_desc desc = {NULL, m->prompted, NULL, 0, NULL, 0, 0};
        const kd__node *node = &m->nodes[m->values[m->prompted].producer];
        float *x = test_floats(3, N * 32, 1), *prompt = test_floats(4, N * NUMBERS, 1);
        int32_t labels[N] = {0, 2, 1, 2};
        float got[N * NUMBERS];
        kd__run *run;
        double value;
        int i;
        for (i = 0; i < (int)m->weight_count; ++i) m->weights[i] *= 8; /* from 0.02 to where it matters */
        memset(prompt + NUMBERS, 0, NUMBERS * sizeof *prompt);
        assert_ok(ctx, kd__run_open_for(m, &desc, N, &run));
        run->prompt = prompt;
        kd__run_forward(run, x, N);
        assert_ok(ctx,
                  kd_loss(ctx, &ce, kd__run_logits(run), NULL, labels, N, 3, kd__run_logits_grad(run), &value));
        kd__run_backward(run);
        for (i = 0; i < N * NUMBERS; ++i)
            got[i] = kd__prompt_given(run, i / NUMBERS)
                         ? kd__sidetokens_by_number(run, node, i / NUMBERS,
                                                    kd__sidetokens_place(run, node, i / NUMBERS), i % NUMBERS)
                         : 0;
        kd__run_close(run);
        for (i = 0; i < N * NUMBERS; ++i) {
            reference r;
            double losses[2];
            const float kept = prompt[i];
            int down, j, c;
            for (down = 0; down < 2; ++down) {
                const double *y;
                prompt[i] = kept + (down ? -h : h);
                reference_open(&r, m, N, 0);
                r.prompt = prompt;
                y = reference_run(&r, x);
                for (j = 0, losses[down] = 0; j < N; ++j) {
                    double sum = 0;
                    for (c = 0; c < 3; ++c) sum += exp(y[j * 3 + c]);
                    losses[down] += (log(sum) - y[j * 3 + labels[j]]) / N;
                }
                reference_close(&r);
            }
            prompt[i] = kept;
            if (i / NUMBERS == 1)
                assert_true(got[i] == 0);
            else
                assert_near(got[i], (losses[0] - losses[1]) / (2 * (double)h), 2e-4);
        }
        free(x);
        free(prompt);
        kd_model_destroy(m);
        kd_close(ctx);
    }
}

/* A step of an attack goes by the gradient as it was when the step began, though the prompt on its way may look
   like none, and its tokens would then be elsewhere. */
static void test_prompt_attack_of_texts(void **state)
{
    enum { N = 3, NUMBERS = 4 };
    const float x[N * 6] = {1, 2, 0, 0, 0, 0, 3, 1, 4, 2, 0, 0, 2, 0, 0, 0, 0, 0};
    const float prompt[N * NUMBERS] = {1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1};
    const int32_t labels[N] = {0, 1, 1};
    uint64_t seed;
    (void)state;
    for (seed = 1; seed < 9; ++seed) {
        kd_ctx *ctx = test_open(KD_ISA_AUTO, 1);
        kd_model *m = create_in(ctx, "tokens 6: embed 5 6, sidetokens 2 4, attention 2, meanpool, dense 2", seed);
        kd_attack_desc desc = kd_attack_defaults(KD_ATTACK_FGSM);
        const kd__run_desc run_desc = {NULL, m->prompted, NULL, 0, NULL, 0, 0};
        const kd__node *node = &m->nodes[m->values[m->prompted].producer];
        kd__attacker a;
        kd__run *run;
        double value;
        int i;
        desc.epsilon = 1, desc.low = 0, desc.high = 1;
        desc.loss = kd_loss_defaults(KD_LOSS_CE);
        assert_ok(ctx, kd__run_open_for(m, &run_desc, N, &run));
        run->prompt = prompt;
        kd__run_forward(run, x, N);
        assert_ok(ctx, kd_loss(ctx, &desc.loss, kd__run_logits(run), NULL, labels, N, 2, kd__run_logits_grad(run),
                               &value));
        kd__run_backward(run);
        assert_ok(ctx, kd__attack_open(&a, m, m->prompted, &desc, 0, NULL, NULL, N));
        assert_ok(ctx, kd__attack_make(&a, "test", x, prompt, N, NULL, labels, NULL));
        for (i = 0; i < N * NUMBERS; ++i) {
            const float g = kd__sidetokens_by_number(run, node, i / NUMBERS,
                                                     kd__sidetokens_place(run, node, i / NUMBERS), i % NUMBERS);
            assert_true(a.x[i] == (g > 0 ? 1 : g < 0 ? 0 : prompt[i]));
        }
        kd__attack_close(&a);
        kd__run_close(run);
        kd_model_destroy(m);
        kd_close(ctx);
    }
}

/* ---- attacks --------------------------------------------------------------------------------------------- */

enum { PIXELS = 32, IMAGES = 300 };

typedef struct scene {
    kd_model *m, *teacher;
    float x[IMAGES * PIXELS], out[IMAGES * PIXELS];
    int32_t labels[IMAGES];
} scene;

static const float scene_mean[] = {0.4f, 0.6f}, scene_std[] = {0.25f, 0.5f};

/* Two channels of normalised pixels in [0, 1], and a model that knows their preprocessing. */
static scene *scene_open(kd_ctx *ctx)
{
    scene *s = (scene *)calloc(1, sizeof *s);
    uint64_t random = 5;
    int i;
    s->m = create_in(ctx, "2x4x4: conv 6 3 pad=1, batchnorm, relu, dropout 0.3, dense 3", 4);
    s->teacher = create_in(ctx, "2x4x4: dense 12, tanh, dense 3", 9);
    assert_ok(ctx, kd_model_set_preprocessing(s->m, scene_mean, scene_std));
    for (i = 0; i < IMAGES * PIXELS; ++i) {
        const int c = i / 16 % 2;
        s->x[i] = (0.5f + 0.5f * test_random(&random) - scene_mean[c]) / scene_std[c];
    }
    for (i = 0; i < IMAGES; ++i) s->labels[i] = i % 3;
    return s;
}

static void scene_close(scene *s)
{
    kd_model_destroy(s->m);
    kd_model_destroy(s->teacher);
    free(s);
}

/* The loss of a model on inputs x, against what the teacher says of the scene's own. */
static double loss_on(kd_ctx *ctx, const scene *s, const kd_loss_desc *loss, const float *x)
{
    static float logits[IMAGES * CLASSES], taught[IMAGES * CLASSES];
    const int soft = loss->kind != KD_LOSS_CE;
    double value;
    assert_ok(ctx, kd_predict(s->m, x, IMAGES, logits));
    assert_ok(ctx, kd_predict(s->teacher, s->x, IMAGES, taught));
    assert_ok(ctx, kd_loss(ctx, loss, logits, soft ? taught : NULL, s->labels, IMAGES, CLASSES, NULL, &value));
    return value;
}

/* By how much of epsilon numbers have moved, the largest; nothing leaves [0, 1]. */
static double reach(const scene *s, float epsilon)
{
    double most = 0;
    int i;
    for (i = 0; i < IMAGES * PIXELS; ++i) {
        const int c = i / 16 % 2;
        const double pixel = (double)s->out[i] * (double)scene_std[c] + (double)scene_mean[c];
        assert_true(pixel > -1e-6 && pixel < 1 + 1e-6);
        most = KD__MAX(most, fabs((double)(s->out[i] - s->x[i])) * (double)scene_std[c] / (double)epsilon);
    }
    return most;
}

static void test_attacks_raise_the_loss(void **state)
{
    scene *s = scene_open(kd);
    kd_attack_desc fgsm = kd_attack_defaults(KD_ATTACK_FGSM), pgd = kd_attack_defaults(KD_ATTACK_PGD);
    kd_loss_desc losses[2];
    int i;
    (void)state;
    fgsm.epsilon = pgd.epsilon = 0.05f, pgd.step = 0.02f;
    losses[0] = kd_loss_defaults(KD_LOSS_CE);
    losses[1] = kd_loss_defaults(KD_LOSS_KL);
    losses[1].temperature = 1;
    for (i = 0; i < 2; ++i) {
        const kd_model *teacher = i ? s->teacher : NULL;
        const int32_t *labels = i ? NULL : s->labels;
        const uint64_t before = kd_model_hash(s->m);
        double clean, once, often;
        fgsm.loss = losses[i];
        if (i) pgd.loss = losses[i]; /* open at first: cross-entropy */
        clean = loss_on(kd, s, &losses[i], s->x);
        assert_ok(kd, kd_attack(s->m, teacher, s->x, labels, IMAGES, &fgsm, s->out));
        once = loss_on(kd, s, &losses[i], s->out);
        assert_near(reach(s, fgsm.epsilon), 1, 1e-5);
        assert_ok(kd, kd_attack(s->m, teacher, s->x, labels, IMAGES, &pgd, s->out));
        often = loss_on(kd, s, &losses[i], s->out);
        assert_near(reach(s, pgd.epsilon), 1, 1e-5);
        if (!(once > 1.1 * clean && often > once))
            fail_msg("%s: %g, %g by fgsm, %g by pgd", kd_loss_name(losses[i].kind), clean, once, often);
        assert_true(before == kd_model_hash(s->m));
    }
    scene_close(s);
}

/* FGSM moves every number by epsilon of its channel against the sign of the gradient; only range stops it. */
static void test_fgsm_by_hand(void **state)
{
    scene *s = scene_open(kd);
    kd_attack_desc fgsm = kd_attack_defaults(KD_ATTACK_FGSM);
    double *gradient = (double *)calloc(IMAGES * PIXELS, sizeof *gradient);
    int i, moved = 0, stopped = 0;
    (void)state;
    gradient_by(kd, s->m, s->m->input, s->x, NULL, s->labels, IMAGES, gradient);
    assert_ok(kd, kd_attack(s->m, NULL, s->x, s->labels, IMAGES, &fgsm, s->out));
    for (i = 0; i < IMAGES * PIXELS; ++i) {
        const int c = i / 16 % 2;
        const double unit = (double)scene_std[c], low = -(double)scene_mean[c] / unit, high = low + 1 / unit;
        double wanted = (double)s->x[i] + (gradient[i] > 0 ? 1 : gradient[i] < 0 ? -1 : 0) * (8 / 255.0) / unit;
        stopped += wanted < low || wanted > high;
        moved += gradient[i] != 0;
        wanted = KD__MIN(KD__MAX(wanted, low), high);
        assert_near(s->out[i], wanted, 1e-5);
    }
    assert_true(moved > IMAGES * PIXELS / 2 && stopped > 50);
    free(gradient);
    scene_close(s);
}

/* One sample at a time, in place, on any number of threads: the same. Another seed is another start. */
static void test_attack_of_each_sample(void **state)
{
    kd_attack_desc pgd = kd_attack_defaults(KD_ATTACK_PGD);
    kd_ctx *other = test_open(KD_ISA_AUTO, 3);
    scene *s = scene_open(kd), *t = scene_open(other);
    int i;
    (void)state;
    pgd.steps = 3;
    assert_ok(kd, kd_attack(s->m, NULL, s->x, s->labels, IMAGES, &pgd, s->out));
    assert_ok(other, kd_attack(t->m, NULL, t->x, t->labels, IMAGES, &pgd, t->x));
    assert_memory_equal(s->out, t->x, sizeof s->out);
    assert_ok(kd, kd_attack(s->m, NULL, s->x, s->labels, 1, &pgd, t->out));
    assert_memory_equal(s->out, t->out, PIXELS * sizeof(float));
    pgd.seed = 2;
    assert_ok(kd, kd_attack(s->m, NULL, s->x, s->labels, 1, &pgd, t->out));
    assert_memory_not_equal(s->out, t->out, PIXELS * sizeof(float));
    pgd.random_start = 0, pgd.step = 0;
    assert_ok(kd, kd_attack(s->m, NULL, s->x, s->labels, IMAGES, &pgd, s->out));
    assert_memory_equal(s->x, s->out, sizeof s->x);
    pgd.random_start = 0.1f;
    assert_ok(kd, kd_attack(s->m, NULL, s->x, s->labels, IMAGES, &pgd, s->out));
    assert_near(reach(s, pgd.epsilon), 0.1, 1e-4);
    for (i = 0; i < PIXELS; ++i) s->x[i] = 9; /* outside: may stay, not leave farther */
    pgd.random_start = 1;
    assert_ok(kd, kd_attack(s->m, NULL, s->x, s->labels, 1, &pgd, s->out));
    for (i = 0; i < PIXELS; ++i) assert_true(s->out[i] <= 9 && s->out[i] > 8.8f);
    scene_close(s);
    scene_close(t);
    kd_close(other);
}

/* More samples than are worked on at once: each has a start of its own. */
static void test_many_random_starts(void **state)
{
    enum { COUNT = 2 * KD__PREDICT_BATCH + 3 };
    kd_attack_desc pgd = kd_attack_defaults(KD_ATTACK_PGD);
    kd_model *m = create("2: dense 3", 1);
    float *x = (float *)calloc(2 * COUNT, sizeof *x), *out = (float *)malloc(2 * COUNT * sizeof *out);
    int32_t *labels = (int32_t *)calloc(COUNT, sizeof *labels);
    int i, j;
    (void)state;
    for (i = 0; i < 2 * COUNT; ++i) x[i] = 0.5f;
    pgd.random_start = 1, pgd.step = 0;
    assert_ok(kd, kd_attack(m, NULL, x, labels, COUNT, &pgd, out));
    for (i = 0; i < COUNT; ++i) {
        const uint64_t key = kd__rng_key(pgd.seed, KD__RNG_ATTACK, 0, (uint64_t)i);
        const double reach = (double)pgd.epsilon;
        for (j = 0; j < 2; ++j)
            assert_near(out[2 * i + j] - x[2 * i + j], kd__rng_range(key, (uint64_t)j, -reach, reach), 1e-7);
        for (j = 0; j < i; ++j) assert_true(out[2 * i] != out[2 * j] || out[2 * i + 1] != out[2 * j + 1]);
    }
    kd_model_destroy(m);
    free(x);
    free(out);
    free(labels);
}

/* Robust accuracy is that of what kd_attack makes. */
static void test_robust_accuracy(void **state)
{
    scene *s = scene_open(kd);
    kd_data data = kd_data_f32(s->x, s->labels, IMAGES, 2, 4, 4, CLASSES);
    kd_evaluate_desc desc = kd_evaluate_defaults();
    kd_attack_desc pgd = kd_attack_defaults(KD_ATTACK_PGD);
    kd_metrics plain, attacked;
    float logits[IMAGES * CLASSES];
    int i, right = 0, labelled = 0;
    (void)state;
    assert_ok(kd, kd_model_set_preprocessing(s->m, NULL, NULL));
    for (i = 0; i < IMAGES * PIXELS; ++i) s->x[i] = KD__MIN(KD__MAX(s->x[i], 0), 1);
    assert_ok(kd, kd_evaluate(s->m, &data, &plain));
    assert_true(plain.robust_accuracy == -1);
    assert_ok(kd, kd_attack(s->m, NULL, s->x, s->labels, IMAGES, &pgd, s->out));
    assert_ok(kd, kd_predict(s->m, s->out, IMAGES, logits));
    for (i = 7; i < IMAGES; i += 11) s->labels[i] = KD_UNLABELLED; /* not judged */
    for (i = 0; i < IMAGES; ++i) {
        if (s->labels[i] == KD_UNLABELLED) continue;
        ++labelled;
        right += kd__argmax(logits + i * CLASSES, CLASSES) == s->labels[i];
    }
    desc.attack = &pgd;
    desc.batch = 77;
    assert_ok(kd, kd_evaluate_with(s->m, &data, &desc, &attacked));
    assert_near(attacked.robust_accuracy, (double)right / labelled, 1e-12);
    assert_true(attacked.robust_accuracy < attacked.accuracy - 0.05);
    pgd.loss = kd_loss_defaults(KD_LOSS_KL);
    assert_fails(kd, kd_evaluate_with(s->m, &data, &desc, &attacked), KD_ERR_ARGUMENT, "needs a teacher's logits");
    desc.teacher = s->teacher;
    assert_ok(kd, kd_evaluate_with(s->m, &data, &desc, &attacked));
    scene_close(s);
}

/* A window that is moved further than the image is large has one place, and its gradient takes no longer. */
static void test_attack_of_long_strides(void **state)
{
    static const char *const lines[] = {"2x4x4: conv 5 2 stride=100000000, dense 3",
                                        "2x4x4: depthwise 2 stride=100000000x2, dense 3",
                                        "2x4x4: maxpool 3 stride=100000000, dense 3"};
    scene *s = scene_open(kd);
    kd_attack_desc pgd = kd_attack_defaults(KD_ATTACK_PGD);
    int i;
    (void)state;
    for (i = 0; i < 3; ++i) {
        kd_model *m = create(lines[i], 4);
        assert_ok(kd, kd_attack(m, NULL, s->x, s->labels, IMAGES, &pgd, s->out));
        assert_memory_not_equal(s->x, s->out, sizeof *s->x * 32);
        kd_model_destroy(m);
    }
    scene_close(s);
}

static void test_attack_refused(void **state)
{
    scene *s = scene_open(kd);
    kd_attack_desc good = kd_attack_defaults(KD_ATTACK_PGD), desc;
    kd_model *wide = create("2x4x4: dense 4", 1), *larger = create("2x8x8: dense 3", 1),
             *turned = create("4x2x4: dense 3", 1), *image = create("2x4x4: conv 3 1", 1);
    (void)state;
    s->out[0] = 77;
#define REFUSED(change, teacher, labels, result, text)                                                             \
    do {                                                                                                           \
        desc = good;                                                                                               \
        change;                                                                                                    \
        assert_fails(kd, kd_attack(s->m, teacher, s->x, labels, IMAGES, &desc, s->out), result, text);             \
    } while (0)
    REFUSED(desc.cookie = 0, NULL, s->labels, KD_ERR_DEFAULTS, "kd_attack_defaults()");
    REFUSED(desc.epsilon = -1, NULL, s->labels, KD_ERR_ARGUMENT,
            "the attack's epsilon must be 0 to 1000000, got -1");
    REFUSED(desc.step = (float)NAN, NULL, s->labels, KD_ERR_ARGUMENT, "the attack's step must be");
    REFUSED(desc.steps = 0, NULL, s->labels, KD_ERR_ARGUMENT, "the attack's steps must be 1 to 10000, got 0");
    REFUSED(desc.random_start = 2, NULL, s->labels, KD_ERR_ARGUMENT, "random_start must be 0 to 1, got 2");
    REFUSED((desc.low = 0.5f, desc.high = 0.25f), NULL, s->labels, KD_ERR_ARGUMENT, "high must be 0.5 to");
    REFUSED(desc.kind = KD_ATTACK_COUNT, NULL, s->labels, KD_ERR_ARGUMENT,
            "the kind of attack must be 0 to 1, got 2");
    REFUSED(desc.loss.cookie = 0, NULL, s->labels, KD_ERR_DEFAULTS, "kd_loss_defaults()");
    REFUSED((void)0, NULL, NULL, KD_ERR_ARGUMENT, "loss ce needs labels, got none");
    REFUSED((void)0, s->teacher, s->labels, KD_ERR_ARGUMENT, "loss ce would ignore the teacher");
    REFUSED(desc.loss = kd_loss_defaults(KD_LOSS_KL), NULL, s->labels, KD_ERR_ARGUMENT, "needs a teacher's logits");
    REFUSED(desc.loss = kd_loss_defaults(KD_LOSS_KL), wide, NULL, KD_ERR_SHAPE, "the teacher has 4 outputs");
    REFUSED(desc.loss = kd_loss_defaults(KD_LOSS_KL), larger, NULL, KD_ERR_SHAPE,
            "the model reads 2x4x4, but its teacher 2x8x8");
    REFUSED(desc.loss = kd_loss_defaults(KD_LOSS_KL), turned, NULL, KD_ERR_SHAPE, "but its teacher 4x2x4");
    assert_fails(kd, kd_attack(image, NULL, s->x, s->labels, IMAGES, &good, s->out), KD_ERR_SHAPE,
                 "the model ends in an image of 3x4x4");
    REFUSED(desc.loss.soft_labels = s->x, NULL, s->labels, KD_ERR_ARGUMENT,
            "no soft_labels, first, columns or task");
    REFUSED(desc.loss.columns = 2, NULL, s->labels, KD_ERR_ARGUMENT, "no soft_labels, first, columns or task");
    REFUSED((desc.loss = kd_loss_defaults(KD_LOSS_MSE), desc.loss.to_targets = 1), NULL, s->labels, KD_ERR_ARGUMENT,
            "to_targets needs kd_data.targets");
    REFUSED(desc.loss = kd_loss_defaults(KD_LOSS_MSE), NULL, s->labels, KD_ERR_ARGUMENT,
            "needs a teacher's logits");
    s->labels[3] = 3;
    REFUSED((void)0, NULL, s->labels, KD_ERR_DATA, "label 3 of row 3 is outside 0 to 2");
    s->labels[3] = 0;
#undef REFUSED
    assert_true(s->out[0] == 77);
    s->x[5] = (float)INFINITY;
    assert_fails(kd, kd_attack(s->m, NULL, s->x, s->labels, IMAGES, &good, s->out), KD_ERR_NOT_FINITE,
                 "not finite");
    assert_int_equal(kd_attack(NULL, NULL, s->x, s->labels, IMAGES, &good, s->out), KD_ERR_ARGUMENT);
    assert_ok(kd, kd_attack(s->m, NULL, NULL, s->labels, 0, &good, NULL));
    assert_string_equal(kd_attack_name(KD_ATTACK_FGSM), "fgsm");
    assert_string_equal(kd_attack_name(KD_ATTACK_COUNT), "unknown");
    kd_model_destroy(wide);
    kd_model_destroy(larger);
    kd_model_destroy(turned);
    kd_model_destroy(image);
    scene_close(s);
}

/* ---- adversarial training -------------------------------------------------------------------------------- */

enum { SIGNS = 400 };

/* Two classes. One pixel tells them apart for good, but lies in one case of ten; many others tell by a little, less
   than an attack may change. */
typedef struct signs {
    float x[SIGNS * 16];
    int32_t labels[SIGNS];
    kd_data data;
} signs;

static signs *signs_open(void)
{
    signs *s = (signs *)calloc(1, sizeof *s);
    uint64_t random = 8;
    int i, j;
    for (i = 0; i < SIGNS; ++i) {
        const float side = i % 2 ? 1.0f : -1.0f;
        s->labels[i] = i % 2;
        s->x[i * 16] = 0.5f + 0.3f * (test_random(&random) < -0.8f ? -side : side);
        for (j = 1; j < 16; ++j) s->x[i * 16 + j] = 0.5f + 0.06f * side + 0.06f * test_random(&random);
    }
    s->data = kd_data_f32(s->x, s->labels, SIGNS, 16, 1, 1, 2);
    return s;
}

static kd_train_desc signs_desc(void)
{
    kd_train_desc d = kd_train_defaults();
    d.epochs = 30, d.batch = 40, d.lr = 0.05f;
    d.attack.epsilon = 0.1f, d.attack.step = 0.04f, d.attack.steps = 4;
    return d;
}

static kd_metrics signs_judge(const kd_model *m, const signs *s)
{
    const kd_train_desc d = signs_desc();
    kd_evaluate_desc desc = kd_evaluate_defaults();
    kd_metrics metrics;
    desc.attack = &d.attack;
    assert_ok(kd, kd_evaluate_with(m, &s->data, &desc, &metrics));
    return metrics;
}

/* A student that learns from a teacher alone, on attacked inputs. */
static kd_metrics signs_taught(const kd_model *teacher, const signs *s)
{
    kd_model *student = create("16: dense 8, relu, dense 2", 2);
    kd_train_desc desc = signs_desc();
    kd_loss_desc loss = kd_loss_defaults(KD_LOSS_KL);
    kd_metrics metrics;
    loss.temperature = 1;
    loss.inputs = KD_INPUTS_ADVERSARIAL;
    desc.teacher = teacher;
    desc.losses = &loss, desc.loss_count = 1;
    assert_ok(kd, kd_train(student, &s->data, &desc));
    metrics = signs_judge(student, s);
    kd_model_destroy(student);
    return metrics;
}

/* Labels alone give a model that an attack turns over; training on attacked inputs one that stands, and so does
   distilling such a model on attacked inputs. From one that takes each class for the other, that is what is
   learned. */
static void test_robustness(void **state)
{
    static const char spec[] = "16: dense 8, relu, dense 2";
    kd_model *plain = create(spec, 1), *robust = create(spec, 1), *contrary = create(spec, 3);
    signs *s = signs_open();
    kd_train_desc desc = signs_desc();
    kd_loss_desc loss = kd_loss_defaults(KD_LOSS_CE);
    kd_metrics a, b, c, d;
    int i;
    (void)state;
    assert_ok(kd, kd_train(plain, &s->data, &desc));
    desc.losses = &loss, desc.loss_count = 1;
    loss.inputs = KD_INPUTS_ADVERSARIAL;
    assert_ok(kd, kd_train(robust, &s->data, &desc));
    for (i = 0; i < SIGNS; ++i) s->labels[i] = 1 - s->labels[i];
    assert_ok(kd, kd_train(contrary, &s->data, &desc));
    for (i = 0; i < SIGNS; ++i) s->labels[i] = 1 - s->labels[i];
    a = signs_judge(plain, s), b = signs_judge(robust, s);
    c = signs_taught(robust, s), d = signs_taught(contrary, s);
    if (!(a.accuracy > 0.95 && a.robust_accuracy < 0.2 && b.robust_accuracy > 0.8 && c.robust_accuracy > 0.8 &&
          d.accuracy < 0.2))
        fail_msg("labels %g and %g attacked, adversarial %g, taught %g, taught the contrary %g", a.accuracy,
                 a.robust_accuracy, b.robust_accuracy, c.robust_accuracy, d.accuracy);
    kd_model_destroy(plain), kd_model_destroy(robust), kd_model_destroy(contrary);
    free(s);
}

static int count_requests(void *user, const kd_step_info *info)
{
    int *requests = (int *)user;
    if (info->epoch == 0 && info->step == 0) requests[0] = memory.requests;
    requests[1] = memory.requests;
    return 0;
}

static int keep_robust(void *user, const kd_epoch_info *info)
{
    *(double *)user = info->validation.robust_accuracy;
    return 0;
}

/* Everything at once: clean and attacked, two sides of DOT, features, dropout, batchnorm, accumulation, mixup. */
static recipe everything(const kd_model *teacher, const kd_feature_loss *feature)
{
    recipe r;
    memset(&r, 0, sizeof r);
    r.desc = kd_train_defaults();
    r.desc.teacher = teacher;
    r.desc.epochs = 2, r.desc.batch = 17, r.desc.accumulate = 2;
    r.desc.optimizer = KD_SGD, r.desc.lr = 0.02f, r.desc.dot_delta = 0.05f;
    r.desc.attack.steps = 2;
    r.desc.augment.mixup = 0.3f;
    r.desc.features = feature, r.desc.feature_count = 1;
    add_loss(&r, KD_LOSS_HINTON, 2, KD_INPUTS_CLEAN, 1);
    add_loss(&r, KD_LOSS_KL, 2, KD_INPUTS_ADVERSARIAL, 0.5f);
    return r;
}

static uint64_t everything_hash(kd_isa isa, int threads)
{
    kd_ctx *ctx = test_open(isa, threads);
    scene *s = scene_open(ctx);
    kd_model *m = create_in(ctx, "2x4x4: a: conv 6 3 pad=1, batchnorm, relu, dropout 0.3, dense 3", 4);
    kd_model *teacher = create_in(ctx, "2x4x4: a: conv 5 3 pad=1, relu, dense 3", 5);
    kd_data data = kd_data_f32(s->x, s->labels, 60, 2, 4, 4, CLASSES);
    kd_feature_loss hint = kd_feature_loss_defaults(KD_FEATURE_HINT);
    recipe r;
    uint64_t hash;
    hint.student = hint.teacher = "a";
    hint.weight = 0.1f;
    r = everything(teacher, &hint);
    r.desc.losses = r.losses, r.desc.loss_weights = r.weights;
    assert_ok(ctx, kd_train(m, &data, &r.desc));
    hash = kd_model_hash(m);
    kd_model_destroy(m);
    kd_model_destroy(teacher);
    scene_close(s);
    kd_close(ctx);
    return hash;
}

/* The same bits for any number of threads, and for all instruction sets with fused multiply-add. */
static void test_same_bits(void **state)
{
    uint64_t fused = 0;
    kd_isa isa;
    (void)state;
    FOR_EACH_ISA(isa)
    {
        const uint64_t hash = everything_hash(isa, 1);
        assert_true(hash == everything_hash(isa, 3));
        if (isa == KD_ISA_SCALAR) continue;
        assert_true(!fused || hash == fused);
        fused = hash;
    }
}

/* No step allocates, every refusal of memory comes back as one, and the epoch's report has robust accuracy. */
static void test_adversarial_training(void **state)
{
    scene *s = scene_open(kd);
    kd_model *m = create("2x4x4: a: conv 6 3 pad=1, batchnorm, relu, dropout 0.3, dense 3", 4);
    kd_model *teacher = create("2x4x4: a: conv 5 3 pad=1, relu, dense 3", 5);
    kd_data data = kd_data_f32(s->x, s->labels, 60, 2, 4, 4, CLASSES);
    kd_feature_loss hint = kd_feature_loss_defaults(KD_FEATURE_HINT);
    recipe r;
    uint64_t before;
    double robust = -2;
    int requests[2], i, count;
    (void)state;
    hint.student = hint.teacher = "a";
    hint.weight = 0.1f;
    r = everything(teacher, &hint);
    r.desc.losses = r.losses, r.desc.loss_weights = r.weights;
    r.desc.validation = 0.3f, r.desc.keep = KD_KEEP_BEST;
    r.desc.epochs = 0;
    before = kd_model_hash(m);
    count = memory.requests;
    assert_ok(kd, kd_train(m, &data, &r.desc));
    count = memory.requests - count;
    for (i = 1; i <= count; ++i) {
        memory.refuse_at = i;
        assert_int_equal(kd_train(m, &data, &r.desc), KD_ERR_MEMORY);
    }
    assert_true(before == kd_model_hash(m));
    r.desc.epochs = 3;
    r.desc.on_step = count_requests, r.desc.user = requests;
    assert_ok(kd, kd_train(m, &data, &r.desc));
    assert_int_equal(requests[0], requests[1]);
    r.desc.on_step = NULL, r.desc.on_epoch = keep_robust, r.desc.user = &robust;
    assert_ok(kd, kd_train(m, &data, &r.desc));
    assert_true(robust >= 0 && robust <= 1);
    kd_model_destroy(m), kd_model_destroy(teacher);
    scene_close(s);
}

/* Where nothing else is random, the seed decides where attacks start, if they start anywhere but at the image. */
static void test_random_starts(void **state)
{
    signs *s = signs_open();
    kd_loss_desc loss = kd_loss_defaults(KD_LOSS_CE);
    uint64_t hash[2][2];
    int start, seed;
    (void)state;
    loss.inputs = KD_INPUTS_ADVERSARIAL;
    for (start = 0; start < 2; ++start) {
        for (seed = 0; seed < 2; ++seed) {
            kd_model *m = create("16: dense 2", 1);
            kd_train_desc desc = signs_desc();
            desc.losses = &loss, desc.loss_count = 1;
            desc.epochs = 2, desc.shuffle = 0, desc.seed = (uint64_t)seed;
            desc.attack.random_start = (float)start, desc.attack.seed = (uint64_t)(seed + 10 * start);
            assert_ok(kd, kd_train(m, &s->data, &desc));
            hash[start][seed] = kd_model_hash(m);
            kd_model_destroy(m);
        }
    }
    assert_true(hash[0][0] == hash[0][1] && hash[1][0] != hash[1][1] && hash[0][0] != hash[1][0]);
    free(s);
}

/* A training with all of it, stopped between two batches of one update, ends with the same bits. */
static void test_checkpoint(void **state)
{
    scene *s = scene_open(kd);
    kd_model *teacher = create("2x4x4: a: conv 5 3 pad=1, relu, dense 3", 5), *m[2];
    kd_data data = kd_data_f32(s->x, s->labels, 60, 2, 4, 4, CLASSES);
    kd_feature_loss hint = kd_feature_loss_defaults(KD_FEATURE_HINT);
    char path[] = P_tmpdir "/kd_ways_XXXXXX";
    const int file = mkstemp(path);
    kd_trainer *t;
    recipe r;
    int i, step;
    (void)state;
    assert_true(file >= 0);
    close(file);
    hint.student = hint.teacher = "a";
    hint.weight = 0.1f;
    r = everything(teacher, &hint);
    r.desc.losses = r.losses, r.desc.loss_weights = r.weights;
    for (i = 0; i < 2; ++i) {
        m[i] = create("2x4x4: a: conv 6 3 pad=1, batchnorm, relu, dropout 0.3, dense 3", 4 + (uint64_t)i);
        assert_ok(kd, kd_trainer_open(m[i], &data, &r.desc, &t));
        if (i) assert_ok(kd, kd_trainer_load(t, path));
        for (step = 0; !kd_trainer_done(t); ++step) {
            if (i == 0 && step == 5) assert_ok(kd, kd_trainer_save(t, path));
            assert_ok(kd, kd_trainer_step(t, NULL));
        }
        kd_trainer_close(t);
    }
    assert_true(kd_model_hash(m[0]) == kd_model_hash(m[1]));
    for (i = 0; i < 2; ++i) {
        if (i)
            r.desc.attack.step *= 2;
        else
            r.desc.dot_delta = 0.06f;
        assert_ok(kd, kd_trainer_open(m[1], &data, &r.desc, &t));
        assert_fails(kd, kd_trainer_load(t, path), KD_ERR_DATA, "other options");
        kd_trainer_close(t);
        r.desc.dot_delta = 0.05f;
    }
    unlink(path);
    kd_model_destroy(m[0]), kd_model_destroy(m[1]), kd_model_destroy(teacher);
    scene_close(s);
}

static void test_training_refused(void **state)
{
    signs *s = signs_open();
    kd_model *m = create("16: dense 2", 1), *teacher = create("16: dense 2", 2), *one = create("16: dense 1", 3);
    const kd_model *ones[2] = {one, one};
    const uint64_t before = kd_model_hash(m);
    const kd_train_desc usual = signs_desc();
    kd_loss_desc loss;
    kd_train_desc desc;
    kd_trainer *t;
    kd_model *moved;
    (void)state;
#define REFUSED(kind, change, result, text)                                                                        \
    do {                                                                                                           \
        desc = usual;                                                                                              \
        loss = kd_loss_defaults(kind);                                                                             \
        loss.inputs = KD_INPUTS_ADVERSARIAL;                                                                       \
        desc.losses = &loss, desc.loss_count = 1;                                                                  \
        change;                                                                                                    \
        assert_fails(kd, kd_train(m, &s->data, &desc), result, text);                                              \
    } while (0)
    REFUSED(KD_LOSS_CE, desc.attack.steps = 0, KD_ERR_ARGUMENT, "the attack's steps");
    REFUSED(KD_LOSS_CE, desc.attack.cookie = 0, KD_ERR_DEFAULTS, "kd_attack_defaults()");
    REFUSED(KD_LOSS_CE, desc.attack.loss = kd_loss_defaults(KD_LOSS_KL), KD_ERR_ARGUMENT,
            "needs a teacher's logits");
    REFUSED(KD_LOSS_CE, loss.inputs = (kd_inputs)2, KD_ERR_ARGUMENT, "inputs must be 0 to 1, got 2");
    s->data.targets = s->x;
    REFUSED(KD_LOSS_CE, loss.to_targets = 1, KD_ERR_ARGUMENT, "to_targets must be 0 to 0, got 1");
    REFUSED(KD_LOSS_CE, desc.attack.loss = kd_loss_defaults(KD_LOSS_KL), KD_ERR_ARGUMENT,
            "needs a teacher's logits"); /* targets are for mse alone */
    s->data.targets = NULL;
    REFUSED(KD_LOSS_MSE, (loss.to_targets = 1, desc.teacher = teacher), KD_ERR_ARGUMENT, "needs kd_data.targets");
    REFUSED(KD_LOSS_KL, (desc.teacher = teacher, desc.dot_delta = 0.05f), KD_ERR_ARGUMENT,
            "dot_delta needs KD_SGD");
    REFUSED(KD_LOSS_CE, (desc.optimizer = KD_SGD, desc.dot_delta = 0.05f), KD_ERR_ARGUMENT, "and a teacher");
    REFUSED(KD_LOSS_KL, (desc.teacher = teacher, desc.optimizer = KD_SGD, desc.dot_delta = 0.2f), KD_ERR_ARGUMENT,
            "dot_delta must be 0 to");
    desc = usual;
    desc.loss = kd_loss_defaults(KD_LOSS_KL), desc.teacher = teacher, desc.optimizer = KD_SGD;
    desc.momentum = 0.8f, desc.dot_delta = 0.2f, desc.rollback = 0.99f; /* the largest there are, as decimals */
    assert_ok(kd, kd_trainer_open(m, &s->data, &desc, &t));
    kd_trainer_close(t);
    desc.momentum = 0, desc.dot_delta = 1e-8f; /* what rounding lets through is no velocity */
    assert_ok(kd, kd_model_clone(m, &moved));
    assert_ok(kd, kd_trainer_open(moved, &s->data, &desc, &t));
    assert_ok(kd, kd_trainer_step(t, NULL));
    kd_trainer_close(t);
    kd_model_destroy(moved);
    REFUSED(KD_LOSS_KL,
            (desc.teacher = teacher, desc.optimizer = KD_SGD, desc.dot_delta = 0.05f, desc.clip_norm = 1),
            KD_ERR_ARGUMENT, "no clip_norm");
    s->data.labels = NULL;
    REFUSED(KD_LOSS_KL, desc.teacher = teacher, KD_ERR_ARGUMENT, "loss ce needs labels");
    REFUSED(KD_LOSS_KL, (desc.teacher = teacher, desc.attack.loss = loss, desc.attack.loss.kind = KD_LOSS_DKD),
            KD_ERR_ARGUMENT, "needs");
    assert_true(before == kd_model_hash(m));
#undef REFUSED
    desc = usual;
    desc.teachers = ones, desc.teacher_count = 2;
    desc.loss = kd_loss_defaults(KD_LOSS_MSE);
    kd_model_destroy(m);
    m = create("16: dense 1", 1);
    assert_fails(kd, kd_train(m, &s->data, &desc), KD_ERR_ARGUMENT, "average the logits");
    desc.teacher_average = KD_AVERAGE_LOGITS;
    assert_ok(kd, kd_train(m, &s->data, &desc));
    kd_model_destroy(m);
    kd_model_destroy(one);
    kd_model_destroy(teacher);
    free(s);
}

static void test_log(void **state)
{
    signs *s = signs_open();
    kd_model *m = create("16: dense 2", 1), *teacher = create("16: dense 2", 2);
    kd_train_desc desc = signs_desc();
    kd_loss_desc loss = kd_loss_defaults(KD_LOSS_KL);
    (void)state;
    desc.epochs = 0;
    desc.teacher = teacher;
    desc.losses = &loss, desc.loss_count = 1;
    loss.inputs = KD_INPUTS_ADVERSARIAL;
    assert_ok(kd, kd_train(m, &s->data, &desc));
    assert_string_equal(last_line,
                        "kd_train: attack pgd on loss ce: 4 steps of 0.04 within 0.1, from a start within 0.1");
    desc.attack.kind = KD_ATTACK_FGSM;
    assert_ok(kd, kd_train(m, &s->data, &desc));
    assert_string_equal(last_line, "kd_train: attack fgsm on loss ce: a step of 0.1");
    desc.optimizer = KD_SGD, desc.dot_delta = 0.075f;
    assert_ok(kd, kd_train(m, &s->data, &desc));
    assert_string_equal(last_line, "kd_train: momentum 0.975 for soft terms, 0.825 for hard terms");
    kd_model_destroy(m);
    kd_model_destroy(teacher);
    free(s);
}

/* ---- ways made of single calls --------------------------------------------------------------------------- */

enum { SEEN = 90, OTHERS = 90, UNSEEN = 120, ALL = SEEN + OTHERS + UNSEEN, SIZE = 16 };

/* Images of three classes, in three sets: to learn from, to pass on with, and to judge by. A teacher who knows
   class c as c + 1 is followed by those who learn from it alone, and by nobody else. */
typedef struct lesson {
    float x[ALL * SIZE];
    int32_t labels[ALL], shifted[ALL], few[ALL];
    kd_data seen, others, unseen;
    kd_train_desc desc;
    kd_model *teacher; /* knows the shifted labels */
} lesson;

static kd_data part(lesson *l, int first, int count, const int32_t *labels)
{
    return kd_data_f32(l->x + first * SIZE, labels ? labels + first : NULL, count, 1, 4, 4, CLASSES);
}

/* Share of the unseen images of class c in which a model sees class c + shift. */
static double follows(const kd_model *m, const lesson *l, int shift)
{
    float logits[UNSEEN * CLASSES];
    int i, same = 0;
    assert_ok(kd, kd_predict(m, (const float *)l->unseen.pixels, UNSEEN, logits));
    for (i = 0; i < UNSEEN; ++i)
        same += kd__argmax(logits + i * CLASSES, CLASSES) == (l->unseen.labels[i] + shift) % CLASSES;
    return (double)same / UNSEEN;
}

#define assert_follows(m, l, shift)                                                                                \
    do {                                                                                                           \
        const double share_ = follows(m, l, shift);                                                                \
        if (!(share_ > 0.9)) fail_msg("%s:%d: %s follows in %g", __FILE__, __LINE__, #m, share_);                  \
    } while (0)

static kd_model *pupil(uint64_t seed) { return create("1x4x4: dense 12, relu, dense 3", seed); }

static lesson *lesson_open(void)
{
    lesson *l = (lesson *)calloc(1, sizeof *l);
    uint64_t random = 3;
    kd_data shifted;
    int i, j;
    for (i = 0; i < ALL; ++i) {
        const int c = i * 7 % CLASSES;
        l->labels[i] = c;
        l->shifted[i] = (c + 1) % CLASSES;
        l->few[i] = i < 6 ? c : KD_UNLABELLED;
        for (j = 0; j < SIZE; ++j)
            l->x[i * SIZE + j] = 0.35f * (1 + test_random(&random)) + (j / 5 == c ? 0.3f : 0);
    }
    l->seen = part(l, 0, SEEN, l->labels);
    l->others = part(l, SEEN, OTHERS, NULL);
    l->unseen = part(l, SEEN + OTHERS, UNSEEN, l->labels);
    l->desc = kd_train_defaults();
    l->desc.epochs = 25, l->desc.batch = 15, l->desc.lr = 0.02f;
    l->teacher = pupil(1);
    shifted = part(l, 0, SEEN, l->shifted);
    assert_ok(kd, kd_train(l->teacher, &shifted, &l->desc));
    assert_follows(l->teacher, l, 1);
    return l;
}

static void lesson_close(lesson *l)
{
    kd_model_destroy(l->teacher);
    free(l);
}

/* A new model that has learned from a teacher alone. The teacher stays as it is. */
static kd_model *taught_by(const kd_model *teacher, const char *spec, uint64_t seed, const lesson *l,
                           const kd_data *images)
{
    kd_model *m = create(spec, seed);
    kd_train_desc desc = l->desc;
    kd_data data = *images;
    const uint64_t before = kd_model_hash(teacher);
    data.labels = NULL;
    desc.teacher = teacher;
    assert_ok(kd, kd_train(m, &data, &desc));
    assert_true(before == kd_model_hash(teacher));
    return m;
}

/* Mirzadeh et al. 2020 */
static void test_teacher_assistants(void **state)
{
    static const char *const specs[] = {"1x4x4: dense 9, relu, dense 3", "1x4x4: dense 6, relu, dense 3",
                                        "1x4x4: dense 3"};
    lesson *l = lesson_open();
    kd_model *last = l->teacher;
    int i;
    (void)state;
    for (i = 0; i < KD__COUNT(specs); ++i) {
        kd_model *next = taught_by(last, specs[i], 10 + (uint64_t)i, l, &l->seen);
        assert_follows(next, l, 1);
        if (last != l->teacher) kd_model_destroy(last);
        last = next;
    }
    kd_model_destroy(last);
    lesson_close(l);
}

static double nll_of(const float *logits, const lesson *l)
{
    const kd_loss_desc ce = kd_loss_defaults(KD_LOSS_CE);
    double value;
    assert_ok(kd, kd_loss(kd, &ce, logits, NULL, l->shifted + SEEN + OTHERS, UNSEEN, CLASSES, NULL, &value));
    return value;
}

/* Furlanello et al. 2018: each generation teaches the next, and all together the last. */
static void test_born_again(void **state)
{
    enum { GENERATIONS = 3 };
    lesson *l = lesson_open();
    kd_model *generation[GENERATIONS], *heir = pupil(40);
    float logits[GENERATIONS][UNSEEN * CLASSES], together[UNSEEN * CLASSES];
    const float *each[GENERATIONS];
    kd_train_desc desc = l->desc;
    double alone = 0;
    int i;
    (void)state;
    for (i = 0; i < GENERATIONS; ++i) {
        generation[i] =
            taught_by(i ? generation[i - 1] : l->teacher, kd_model_spec(l->teacher), 30 + (uint64_t)i, l, &l->seen);
        assert_follows(generation[i], l, 1);
        assert_ok(kd, kd_predict(generation[i], (const float *)l->unseen.pixels, UNSEEN, logits[i]));
        each[i] = logits[i];
        alone += nll_of(logits[i], l) / GENERATIONS;
    }
    assert_ok(kd, kd_average_teachers(kd, each, NULL, GENERATIONS, UNSEEN, CLASSES, 1, together));
    assert_true(nll_of(together, l) < alone);
    desc.teachers = (const kd_model *const *)generation;
    desc.teacher_count = GENERATIONS;
    assert_ok(kd, kd_train(heir, &l->others, &desc));
    assert_follows(heir, l, 1);
    for (i = 0; i < GENERATIONS; ++i) kd_model_destroy(generation[i]);
    kd_model_destroy(heir);
    lesson_close(l);
}

typedef struct watch {
    double first, last;
    int steps;
} watch;

static int watch_loss(void *user, const kd_step_info *info)
{
    watch *w = (watch *)user;
    if (w->steps++ == 0) w->first = info->loss;
    w->last = info->loss;
    return 0;
}

/* What a model says of itself, on images as both see them, is no news; against labels it holds or gives way as
   alpha says. */
static void test_self_distillation(void **state)
{
    static const float alphas[] = {0.9f, 0.1f};
    lesson *l = lesson_open();
    kd_model *student;
    kd_train_desc desc = l->desc;
    watch w = {0, 0, 0};
    int i;
    (void)state;
    assert_ok(kd, kd_model_clone(l->teacher, &student));
    desc.teacher = student;
    assert_fails(kd, kd_train(student, &l->seen, &desc), KD_ERR_ARGUMENT, "clone it first");
    desc.teacher = l->teacher;
    desc.augment.shift = 1;
    desc.on_step = watch_loss, desc.user = &w;
    assert_ok(kd, kd_train(student, &l->others, &desc));
    assert_true(fabs(w.first) < 1e-6 && fabs(w.last) < 1e-6);
    assert_follows(student, l, 1);
    desc.augment.shift = 0;
    desc.loss = kd_loss_defaults(KD_LOSS_HINTON);
    for (i = 0; i < 2; ++i) {
        desc.loss.alpha = alphas[i];
        assert_ok(kd, kd_train(student, &l->seen, &desc));
        assert_true(follows(student, l, 1 - i) > 0.8);
    }
    kd_model_destroy(student);
    lesson_close(l);
}

/* A small teacher that cannot know all there is, and a large student that learns from it and from the labels: it
   surpasses the teacher, and yet is nearer to it than labels alone, smoothed or not, would bring it. */
static void test_small_to_large(void **state)
{
    enum { SMALL, LABELS, SMOOTHED, TAUGHT, MODELS };
    static const char large[] = "1x4x4: dense 48, relu, dense 3";
    lesson *l = lesson_open();
    kd_model *models[MODELS];
    kd_metrics metrics[MODELS];
    kd_evaluate_desc judge = kd_evaluate_defaults();
    kd_data data = part(l, 0, ALL, l->labels);
    int i;
    (void)state;
    for (i = 0; i < ALL; i += 2) { /* where the last pixel is bright, classes have changed places */
        l->x[i * SIZE + 15] = 2;
        l->labels[i] = l->shifted[i];
    }
    for (i = 0; i < MODELS; ++i) {
        kd_train_desc desc = l->desc;
        models[i] = create(i == SMALL ? "1x4x4: dense 3" : large, 2);
        desc.epochs = 60;
        desc.teacher = i == TAUGHT ? models[SMALL] : NULL;
        desc.loss = kd_loss_defaults(i == TAUGHT ? KD_LOSS_HINTON : KD_LOSS_CE);
        desc.loss.temperature = 1;
        desc.loss.alpha = 0.5f;
        desc.loss.label_smoothing = i == SMOOTHED ? 0.4f : 0;
        assert_ok(kd, kd_train(models[i], &data, &desc));
        judge.teacher = models[SMALL];
        assert_ok(kd, kd_evaluate_with(models[i], &data, &judge, &metrics[i]));
    }
    if (!(metrics[TAUGHT].accuracy > metrics[SMALL].accuracy + 0.1 &&
          metrics[TAUGHT].kl < 0.6 * KD__MIN(metrics[LABELS].kl, metrics[SMOOTHED].kl)))
        fail_msg("small %g, large %g; KL %g, of labels %g, of smoothed ones %g", metrics[SMALL].accuracy,
                 metrics[TAUGHT].accuracy, metrics[TAUGHT].kl, metrics[LABELS].kl, metrics[SMOOTHED].kl);
    for (i = 0; i < MODELS; ++i) kd_model_destroy(models[i]);
    lesson_close(l);
}

/* Labels take up where the teacher has left off. */
static void test_fine_tuning(void **state)
{
    lesson *l = lesson_open();
    kd_model *student = taught_by(l->teacher, kd_model_spec(l->teacher), 2, l, &l->seen);
    kd_train_desc desc = l->desc;
    watch w = {0, 0, 0};
    (void)state;
    assert_follows(student, l, 1);
    desc.on_step = watch_loss, desc.user = &w;
    assert_ok(kd, kd_train(student, &l->seen, &desc));
    assert_true(w.first > 2 && w.last < 0.5); /* it was sure of something else */
    assert_follows(student, l, 0);
    kd_model_destroy(student);
    lesson_close(l);
}

/* Rusu et al. 2016, equation 3: Q-values that differ by little become a sure choice, softmax(Q / 0.01). */
static void test_policy(void **state)
{
    lesson *l = lesson_open();
    kd_model *student = pupil(3);
    kd_train_desc desc = l->desc;
    float weight[CLASSES * 12], bias[CLASSES], values[UNSEEN * CLASSES], logits[UNSEEN * CLASSES];
    double sum = 0, value;
    int i, c;
    (void)state;
    assert_ok(kd, kd_model_get_tensor(l->teacher, "3.weight", weight, CLASSES * 12));
    assert_ok(kd, kd_model_get_tensor(l->teacher, "3.bias", bias, CLASSES));
    for (i = 0; i < CLASSES * 12; ++i) weight[i] *= 0.01f;
    for (i = 0; i < CLASSES; ++i) bias[i] = 5 + 0.01f * bias[i];
    assert_ok(kd, kd_model_set_tensor(l->teacher, "3.weight", weight, CLASSES * 12));
    assert_ok(kd, kd_model_set_tensor(l->teacher, "3.bias", bias, CLASSES));
    desc.teacher = l->teacher;
    desc.loss = kd_loss_defaults(KD_LOSS_TTM);
    desc.loss.gamma = 100; /* 1 / 0.01 */
    desc.loss.soft_weight = 1, desc.loss.hard_weight = 0;
    assert_ok(kd, kd_train(student, &l->others, &desc));
    assert_follows(student, l, 1);
    assert_ok(kd, kd_predict(student, (const float *)l->unseen.pixels, UNSEEN, logits));
    assert_true(nll_of(logits, l) < 0.5);
    assert_ok(kd, kd_predict(l->teacher, (const float *)l->unseen.pixels, UNSEEN, values));
    assert_true(nll_of(values, l) > 1);
    assert_ok(kd, kd_loss(kd, &desc.loss, logits, values, NULL, UNSEEN, CLASSES, NULL, &value));
    for (i = 0; i < UNSEEN; ++i) {
        double s[CLASSES], t[CLASSES], log_p[CLASSES], log_q[CLASSES];
        for (c = 0; c < CLASSES; ++c)
            s[c] = (double)logits[i * CLASSES + c], t[c] = (double)values[i * CLASSES + c];
        reference_log_softmax(s, CLASSES, 1, log_p);
        reference_log_softmax(t, CLASSES, 0.01, log_q);
        for (c = 0; c < CLASSES; ++c) sum += exp(log_q[c]) * (log_q[c] - log_p[c]) / UNSEEN;
    }
    assert_near(value, sum, 1e-5);
    kd_model_destroy(student);
    lesson_close(l);
}

/* Ba and Caruana 2014: no classes and no labels, only numbers to come near to. */
static void test_regression(void **state)
{
    lesson *l = lesson_open();
    kd_model *teacher = create("1x4x4: dense 20, tanh, dense 2", 5), *student = create("1x4x4: dense 2", 6);
    kd_data data = part(l, 0, SEEN, NULL), judged = part(l, SEEN + OTHERS, UNSEEN, NULL);
    kd_train_desc desc = l->desc;
    float outputs[UNSEEN * 2];
    kd_metrics before, after;
    (void)state;
    data.classes = judged.classes = 0;
    assert_ok(kd, kd_predict(teacher, (const float *)judged.pixels, UNSEEN, outputs));
    judged.targets = outputs;
    desc.teacher = teacher;
    desc.loss = kd_loss_defaults(KD_LOSS_MSE);
    desc.epochs = 60;
    assert_ok(kd, kd_evaluate(student, &judged, &before));
    assert_ok(kd, kd_train(student, &data, &desc));
    assert_ok(kd, kd_evaluate(student, &judged, &after));
    if (!(after.mse < 0.02 * before.mse)) fail_msg("squared error %g, then %g", before.mse, after.mse);
    kd_model_destroy(teacher), kd_model_destroy(student);
    lesson_close(l);
}

/* One output; the teacher takes yes for no. */
static void test_binary(void **state)
{
    lesson *l = lesson_open();
    kd_model *teacher = create("1x4x4: dense 8, relu, dense 1", 5), *student = create("1x4x4: dense 1", 6);
    kd_train_desc desc = l->desc;
    kd_data data = l->seen, judged = l->unseen;
    kd_metrics metrics;
    int i;
    (void)state;
    for (i = 0; i < ALL; ++i) {
        l->labels[i] = l->labels[i] == 0;
        l->shifted[i] = 1 - l->labels[i];
    }
    data.classes = judged.classes = 2;
    desc.loss = kd_loss_defaults(KD_LOSS_BCE);
    data.labels = l->shifted;
    assert_ok(kd, kd_train(teacher, &data, &desc));
    data.labels = l->labels;
    desc.teacher = teacher;
    desc.loss.alpha = 0.95f;
    assert_ok(kd, kd_train(student, &data, &desc));
    assert_ok(kd, kd_evaluate(student, &judged, &metrics));
    assert_true(metrics.accuracy < 0.15);
    kd_model_destroy(teacher), kd_model_destroy(student);
    lesson_close(l);
}

/* A transfer set of its own, without labels. */
static void test_unlabelled(void **state)
{
    lesson *l = lesson_open();
    kd_model *student = taught_by(l->teacher, "1x4x4: dense 5, relu, dense 3", 8, l, &l->others);
    (void)state;
    assert_follows(student, l, 1);
    kd_model_destroy(student);
    lesson_close(l);
}

/* Six labels do not suffice; with a teacher they need not. They are heard, too: alone they speak against it. */
static void test_few_labels(void **state)
{
    lesson *l = lesson_open();
    kd_model *alone = pupil(4), *student = pupil(4), *split = pupil(4);
    kd_data six = part(l, 0, 6, l->labels), some = part(l, 0, SEEN, l->few);
    kd_train_desc desc = l->desc;
    float logits[6 * CLASSES];
    int i, heard = 0;
    (void)state;
    assert_ok(kd, kd_train(alone, &six, &desc));
    assert_true(follows(alone, l, 0) < 0.9);
    desc.teacher = l->teacher;
    assert_ok(kd, kd_train(student, &some, &desc));
    assert_follows(student, l, 1);
    desc.loss.alpha = 0.02f;
    desc.epochs = 100;
    assert_ok(kd, kd_train(split, &some, &desc));
    assert_ok(kd, kd_predict(split, l->x, 6, logits));
    for (i = 0; i < 6; ++i) heard += kd__argmax(logits + i * CLASSES, CLASSES) == l->labels[i];
    assert_int_equal(heard, 6);
    kd_model_destroy(alone), kd_model_destroy(student), kd_model_destroy(split);
    lesson_close(l);
}

/* Looks like the teacher, but is asked through a function. */
typedef struct oracle {
    const kd_model *teacher;
    const lesson *l;
} oracle;

static int ask(void *user, const float *x, const int32_t *samples, int n, float *logits)
{
    const oracle *o = (const oracle *)user;
    int i;
    for (i = 0; i < n; ++i) assert_memory_equal(x + i * SIZE, o->l->x + samples[i] * SIZE, SIZE * sizeof(float));
    return kd_predict(o->teacher, x, n, logits) != KD_OK;
}

/* A live teacher, one asked through a callback, its logits, a cache of them: the same student to the last bit. */
static void test_sources(void **state)
{
    enum { LIVE, CALLED, LOGITS, CACHED, VIEWS_LIVE, VIEWS_CACHED, WAYS };
    lesson *l = lesson_open();
    uint64_t hash[WAYS];
    oracle o;
    int i;
    (void)state;
    o.teacher = l->teacher, o.l = l;
    for (i = 0; i < WAYS; ++i) {
        kd_model *student = pupil(9);
        kd_train_desc desc = l->desc;
        kd_data data = part(l, 0, SEEN, NULL);
        kd_cache *cache = NULL;
        float logits[SEEN * CLASSES];
        desc.epochs = 4;
        if (i >= VIEWS_LIVE) desc.augment.shift = 1, desc.augment.flip = 1;
        if (i == CACHED || i == VIEWS_CACHED)
            assert_ok(kd,
                      kd_cache_create(l->teacher, &data, &desc.augment, desc.seed, i == CACHED ? 1 : 4, &cache));
        if (i == LOGITS) assert_ok(kd, kd_predict(l->teacher, l->x, SEEN, logits));
        desc.teacher = i == LIVE || i == VIEWS_LIVE ? l->teacher : NULL;
        desc.teacher_fn = i == CALLED ? ask : NULL, desc.teacher_user = &o;
        data.teacher_logits = i == LOGITS ? logits : NULL;
        desc.cache = cache;
        assert_ok(kd, kd_train(student, &data, &desc));
        hash[i] = kd_model_hash(student);
        kd_cache_destroy(cache);
        kd_model_destroy(student);
    }
    assert_true(hash[LIVE] == hash[CALLED] && hash[LIVE] == hash[LOGITS] && hash[LIVE] == hash[CACHED]);
    assert_true(hash[VIEWS_LIVE] == hash[VIEWS_CACHED] && hash[VIEWS_LIVE] != hash[LIVE]);
    lesson_close(l);
}

/* Two teachers who contradict each other: the one with more weight is followed. */
static void test_ensemble(void **state)
{
    lesson *l = lesson_open();
    kd_model *other = pupil(2);
    const kd_model *teachers[2];
    int i;
    (void)state;
    assert_ok(kd, kd_train(other, &l->seen, &l->desc)); /* knows the labels */
    teachers[0] = l->teacher, teachers[1] = other;
    for (i = 0; i < 2; ++i) {
        kd_model *student = pupil(7);
        kd_train_desc desc = l->desc;
        float weights[2] = {1, 1};
        weights[i] = 3;
        desc.teachers = teachers, desc.teacher_weights = weights, desc.teacher_count = 2;
        desc.loss = kd_loss_defaults(KD_LOSS_KL);
        desc.loss.temperature = 1;
        assert_ok(kd, kd_train(student, &l->others, &desc));
        assert_follows(student, l, i == 0 ? 1 : 0);
        kd_model_destroy(student);
    }
    kd_model_destroy(other);
    lesson_close(l);
}

/* ---- models that learn together -------------------------------------------------------------------------- */

/* One round of all models over one batch, by kd_train: each from the labels or targets, and from the others. */
static void round_by_hand(kd_model **models, int count, const kd_data *data, kd_train_desc desc)
{
    const int outputs = kd_model_outputs(models[0]);
    int i, j;
    desc.epochs = 1, desc.batch = data->count;
    for (i = 0; i < count; ++i) {
        const float twice = 2;
        const kd_model *others[4];
        kd_loss_desc losses[2];
        kd_train_desc d = desc;
        for (j = 0; j < count - 1; ++j) others[j] = models[j < i ? j : j + 1];
        losses[0] = losses[1] = kd_loss_defaults(data->targets  ? KD_LOSS_MSE
                                                 : outputs == 1 ? KD_LOSS_BCE
                                                                : KD_LOSS_KL);
        losses[0].temperature = 1;
        losses[0].to_targets = data->targets != NULL;
        losses[0].hard_weight = data->targets || outputs == 1 ? 0 : 1;
        if (outputs == 1) losses[0].alpha = 0.5f;
        losses[0].label_smoothing = desc.loss.label_smoothing;
        d.loss = kd_loss_defaults(KD_LOSS_AUTO);
        d.losses = losses, d.loss_count = data->targets ? 2 : 1;
        d.loss_weights = data->targets || outputs > 1 ? NULL : &twice;
        d.teachers = others, d.teacher_count = count - 1;
        d.teacher_average = outputs == 1 ? KD_AVERAGE_LOGITS : KD_AVERAGE_PROBABILITIES;
        assert_ok(kd, kd_train(models[i], data, &d));
    }
}

/* Each step of each model is that of kd_train with the others, as they are by then, for teachers. */
static void check_mutual_by_hand(const char *spec, int count, const kd_data *data, kd_train_desc desc)
{
    kd_model *together[4] = {0}, *by_hand[4] = {0};
    int i;
    desc.optimizer = KD_SGD, desc.momentum = 0, desc.lr = 0.1f;
    desc.epochs = 2, desc.batch = data->count, desc.shuffle = 0;
    for (i = 0; i < count; ++i)
        together[i] = create(spec, 50 + (uint64_t)i), by_hand[i] = create(spec, 50 + (uint64_t)i);
    assert_ok(kd, kd_train_mutual(together, count, data, &desc));
    round_by_hand(by_hand, count, data, desc);
    round_by_hand(by_hand, count, data, desc);
    for (i = 0; i < count; ++i) {
        assert_true(kd_model_hash(together[i]) == kd_model_hash(by_hand[i]));
        kd_model_destroy(together[i]), kd_model_destroy(by_hand[i]);
    }
}

static void test_mutual_by_hand(void **state)
{
    static const char one[] = "1x4x4: dense 8, tanh, dense 1";
    lesson *l = lesson_open();
    kd_data classes = l->seen, targets = l->seen, binary = l->seen;
    kd_train_desc smoothed = l->desc;
    int count, i;
    (void)state;
    targets.labels = NULL;
    targets.classes = 0;
    targets.targets = l->x; /* the first pixels */
    for (i = 0; i < SEEN; ++i) l->shifted[i] = l->labels[i] == 1;
    binary.labels = l->shifted;
    binary.classes = 2;
    for (count = 2; count <= 4; ++count) {
        check_mutual_by_hand(kd_model_spec(l->teacher), count, &classes, l->desc);
        check_mutual_by_hand(one, count, &targets, l->desc);
        check_mutual_by_hand(one, count, &binary, l->desc);
        smoothed.loss.label_smoothing = 0.1f;
        check_mutual_by_hand(kd_model_spec(l->teacher), count, &classes, smoothed);
        check_mutual_by_hand(one, count, &binary, smoothed);
    }
    lesson_close(l);
}

static int keep_loss(void *user, const kd_step_info *info)
{
    double **next = (double **)user;
    *(*next)++ = info->loss;
    return 0;
}

/* A loss left open may be that of one head: its columns, its labels. Of one column it is bce. */
static void test_mutual_head(void **state)
{
    lesson *l = lesson_open();
    int columns, i;
    (void)state;
    for (columns = 1; columns < 3; ++columns) {
        kd_model *whole[2], *by_hand[2];
        int32_t labels[SEEN];
        float weight[2][CLASSES * SIZE];
        kd_train_desc desc = l->desc;
        kd_data data = l->seen;
        for (i = 0; i < SEEN; ++i) labels[i] = i % 2;
        data.task_labels = labels, data.task_count = 1;
        desc.epochs = 1, desc.batch = SEEN, desc.shuffle = 0;
        desc.loss.first = 1, desc.loss.columns = columns, desc.loss.task = 1;
        for (i = 0; i < 2; ++i)
            whole[i] = create("1x4x4: dense 3", 5 + (uint64_t)i),
            by_hand[i] = create("1x4x4: dense 3", 5 + (uint64_t)i);
        assert_ok(kd, kd_train_mutual(whole, 2, &data, &desc));
        for (i = 0; i < 2; ++i) {
            const float twice = 2;
            kd_loss_desc loss = kd_loss_defaults(columns == 1 ? KD_LOSS_BCE : KD_LOSS_KL);
            kd_train_desc own = desc;
            loss.temperature = 1;
            if (columns == 1) loss.alpha = 0.5f;
            loss.hard_weight = columns == 1 ? 0 : 1;
            loss.first = 1, loss.columns = columns, loss.task = 1;
            own.loss = kd_loss_defaults(KD_LOSS_AUTO);
            own.losses = &loss, own.loss_count = 1, own.loss_weights = columns == 1 ? &twice : NULL;
            own.teacher = by_hand[1 - i];
            assert_ok(kd, kd_train(by_hand[i], &data, &own));
        }
        for (i = 0; i < 2; ++i) {
            assert_true(kd_model_hash(whole[i]) == kd_model_hash(by_hand[i]));
            assert_ok(kd, kd_model_get_tensor(whole[i], "1.weight", weight[0], CLASSES * SIZE));
            kd_model_destroy(by_hand[i]);
            by_hand[i] = create("1x4x4: dense 3", 5 + (uint64_t)i);
            assert_ok(kd, kd_model_get_tensor(by_hand[i], "1.weight", weight[1], CLASSES * SIZE));
            assert_memory_equal(weight[0], weight[1], SIZE * sizeof(float)); /* column 0 learns nothing */
            assert_memory_not_equal(weight[0] + SIZE, weight[1] + SIZE, SIZE * sizeof(float));
            kd_model_destroy(whole[i]), kd_model_destroy(by_hand[i]);
        }
    }
    lesson_close(l);
}

/* Equal models that stay as they are: whatever their losses differ by comes from dropout, whose masks are each
   model's own; the first has those of a training without peers. */
static void test_mutual_dropout(void **state)
{
    static const char *const lines[] = {"1x4x4: dense 8, tanh, dropout 0.5, dense 3",
                                        "1x4x4: dense 8, tanh, dense 3"};
    lesson *l = lesson_open();
    int i, j, k;
    (void)state;
    for (i = 0; i < 2; ++i) {
        kd_model *twins[3];
        kd_train_desc desc = l->desc;
        double losses[6], alone[2], *next = losses;
        for (j = 0; j < 3; ++j) twins[j] = create(lines[i], 5);
        desc.lr = 0;
        desc.epochs = 2, desc.batch = l->seen.count;
        desc.on_step = keep_loss, desc.user = &next;
        assert_ok(kd, kd_train_mutual(twins, 3, &l->seen, &desc));
        assert_ptr_equal(next, losses + 6);
        for (j = 0; j < 6; ++j) {
            for (k = j + 1; k < 6; ++k) {
                if (i == 0) assert_true(fabs(losses[j] - losses[k]) > 1e-6);
                if (i == 1) assert_near(losses[j], losses[k], 1e-6);
            }
        }
        next = alone;
        desc.teacher = twins[1];
        desc.loss = kd_loss_defaults(KD_LOSS_KL);
        desc.loss.temperature = 1, desc.loss.hard_weight = 1;
        assert_ok(kd, kd_train(twins[0], &l->seen, &desc));
        for (j = 0; j < 2; ++j) assert_near(losses[3 * j], alone[j], 1e-6);
        for (j = 0; j < 3; ++j) kd_model_destroy(twins[j]);
    }
    lesson_close(l);
}

typedef struct club {
    kd_model *models[3];
    int count, calls, until;
    const kd_model *seen[8];
} club;

static int note_model(void *user, const kd_epoch_info *info)
{
    club *c = (club *)user;
    c->seen[c->calls++] = info->model;
    return c->calls == c->until;
}

/* Mean squared difference of two models' outputs for the unseen images. */
static double apart(const kd_model *a, const kd_model *b, const float *x, int outputs)
{
    float p[UNSEEN * CLASSES], q[UNSEEN * CLASSES];
    double sum = 0;
    int i;
    assert_ok(kd, kd_predict(a, x, UNSEEN, p));
    assert_ok(kd, kd_predict(b, x, UNSEEN, q));
    for (i = 0; i < UNSEEN * outputs; ++i) sum += pow((double)p[i] - (double)q[i], 2) / (UNSEEN * outputs);
    return sum;
}

/* Regression on targets that are mostly noise: models come nearer to each other than each alone would. */
static void check_mutual_regression(const lesson *l, int count, const kd_data *data)
{
    static const char spec[] = "1x4x4: dense 48, relu, dense 1";
    kd_model *together[3], *alone[3];
    kd_train_desc desc = l->desc;
    double near, far;
    int i;
    desc.epochs = 120;
    for (i = 0; i < count; ++i) {
        together[i] = create(spec, 60 + (uint64_t)i), alone[i] = create(spec, 60 + (uint64_t)i);
        assert_ok(kd, kd_train(alone[i], data, &desc));
    }
    assert_ok(kd, kd_train_mutual(together, count, data, &desc));
    near = apart(together[0], together[1], (const float *)l->unseen.pixels, 1);
    far = apart(alone[0], alone[1], (const float *)l->unseen.pixels, 1);
    if (!(near < 0.7 * far)) fail_msg("%d models: apart by %g, alone by %g", count, near, far);
    for (i = 0; i < count; ++i) {
        kd_metrics metrics;
        assert_ok(kd, kd_evaluate(together[i], data, &metrics));
        assert_true(metrics.mse < 0.12); /* of 0.2, most of it noise: the targets are heard */
        kd_model_destroy(together[i]), kd_model_destroy(alone[i]);
    }
}

static void test_mutual_regression(void **state)
{
    lesson *l = lesson_open();
    kd_data data = part(l, 0, SEEN, NULL);
    float *targets = test_floats(6, SEEN, 0.5f);
    int i;
    (void)state;
    for (i = 0; i < SEEN; ++i) targets[i] += l->x[i * SIZE] + l->x[i * SIZE + 3];
    data.classes = 0;
    data.targets = targets;
    check_mutual_regression(l, 2, &data);
    check_mutual_regression(l, 3, &data);
    free(targets);
    lesson_close(l);
}

static void test_mutual_callbacks(void **state)
{
    lesson *l = lesson_open();
    kd_train_desc desc = l->desc;
    kd_ctx *elsewhere = test_open(KD_ISA_AUTO, 1);
    kd_model *wide = create("1x4x4: dense 4", 1), *foreign = create_in(elsewhere, "1x4x4: dense 3", 1);
    const float weights[] = {1, 1};
    club c;
    int i;
    (void)state;
    memset(&c, 0, sizeof c);
    for (i = 0; i < 3; ++i) c.models[i] = pupil(70 + (uint64_t)i);
    desc.epochs = 2;
    desc.on_epoch = note_model, desc.user = &c;
    assert_ok(kd, kd_train_mutual(c.models, 3, &l->seen, &desc));
    assert_int_equal(c.calls, 6);
    for (i = 0; i < 6; ++i) assert_ptr_equal(c.seen[i], c.models[i % 3]);
    c.calls = 0, c.until = 2;
    assert_int_equal(kd_train_mutual(c.models, 3, &l->seen, &desc), KD_STOPPED);
    assert_int_equal(c.calls, 2);
    desc.on_epoch = NULL;
#define REFUSED(count, result, text)                                                                               \
    assert_fails(kd, kd_train_mutual(c.models, count, &l->seen, &desc), result, text)
    REFUSED(1, KD_ERR_ARGUMENT, "needs 2 to 64 models, got 1");
    desc.teacher = l->teacher;
    REFUSED(2, KD_ERR_ARGUMENT, "the models are each other's teachers");
    desc.teacher = NULL;
    desc.loss.temperature_end = 2;
    REFUSED(2, KD_ERR_ARGUMENT, "a loss left open has no use for temperature_end; name its kind, or give losses");
    desc.loss = kd_loss_defaults(KD_LOSS_AUTO), desc.loss.hard_weight = 1;
    REFUSED(2, KD_ERR_ARGUMENT, "no use for hard_weight");
    desc.loss = kd_loss_defaults(KD_LOSS_AUTO), desc.uncertainty = 1;
    REFUSED(2, KD_ERR_ARGUMENT, "uncertainty weighs several losses; give losses");
    desc.uncertainty = 0, desc.loss_weights = weights;
    REFUSED(3, KD_ERR_ARGUMENT, "loss_weights weigh several losses; give losses");
    desc.loss_weights = NULL;
    desc.cookie = 0;
    REFUSED(2, KD_ERR_DEFAULTS, "kd_train_defaults()");
    desc = l->desc;
    kd_model_destroy(c.models[2]);
    c.models[2] = NULL;
    REFUSED(3, KD_ERR_ARGUMENT, "model 2 is NULL");
    c.models[2] = foreign;
    REFUSED(3, KD_ERR_ARGUMENT, "model 2 is of another context than model 0");
    c.models[2] = c.models[0];
    REFUSED(3, KD_ERR_ARGUMENT, "a model cannot be its own teacher");
    c.models[2] = wide;
    REFUSED(3, KD_ERR_SHAPE, "outputs");
    l->seen.labels = NULL;
    REFUSED(2, KD_ERR_ARGUMENT, "needs labels");
#undef REFUSED
    assert_int_equal(kd_train_mutual(NULL, 2, &l->seen, &desc), KD_ERR_ARGUMENT);
    for (i = 0; i < 3; ++i) kd_model_destroy(c.models[i]);
    kd_model_destroy(foreign);
    kd_close(elsewhere);
    lesson_close(l);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, open_context, close_context)
    const struct CMUnitTest tests[] = {
        TEST(test_like_pytorch),
        TEST(test_input_gradient),
        TEST(test_prompt_gradient),
        TEST(test_prompt_attack_of_texts),
        TEST(test_attacks_raise_the_loss),
        TEST(test_fgsm_by_hand),
        TEST(test_attack_of_each_sample),
        TEST(test_robust_accuracy),
        TEST(test_attack_refused),
        TEST(test_attack_of_long_strides),
        TEST(test_robustness),
        TEST(test_same_bits),
        TEST(test_adversarial_training),
        TEST(test_random_starts),
        TEST(test_many_random_starts),
        TEST(test_checkpoint),
        TEST(test_training_refused),
        TEST(test_log),
        TEST(test_teacher_assistants),
        TEST(test_born_again),
        TEST(test_self_distillation),
        TEST(test_small_to_large),
        TEST(test_fine_tuning),
        TEST(test_policy),
        TEST(test_regression),
        TEST(test_binary),
        TEST(test_unlabelled),
        TEST(test_few_labels),
        TEST(test_sources),
        TEST(test_ensemble),
        TEST(test_mutual_by_hand),
        TEST(test_mutual_head),
        TEST(test_mutual_dropout),
        TEST(test_mutual_regression),
        TEST(test_mutual_callbacks),
    };
#undef TEST
    const int failed = cmocka_run_group_tests_name("ways", tests, NULL, NULL);
    test_print_skips("ways");
    return failed;
}
