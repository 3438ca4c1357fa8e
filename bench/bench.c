/* bench - kd.h beside other libraries, on the shapes that distillation meets. bench --help says how. */
#include "measure.h"
#include "peers.h"
#include "convolutions.h"
#include "weight.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

/* ---- matrix multiplication ------------------------------------------------------------------------------- */

typedef struct shape {
    int m, n, k;
    const char *trans;
    int quick;
} shape;

static const shape shapes[] = {
    {64, 64, 64, "NN", 1},      {100, 100, 100, "NN", 0},    {128, 128, 128, "NN", 0},    {256, 256, 256, "NN", 1},
    {512, 512, 512, "NN", 0},   {1024, 1024, 1024, "NN", 1}, {2048, 2048, 2048, "NN", 0}, {128, 1200, 784, "NT", 1},
    {128, 1200, 1200, "NT", 1}, {128, 10, 1200, "NT", 1},    {128, 784, 1200, "NN", 1},   {1200, 784, 128, "TN", 1},
    {1200, 1200, 128, "TN", 0}, {10, 1200, 128, "TN", 1},    {1, 800, 784, "NT", 1},      {1, 10, 800, "NT", 0},
    {32, 576, 16, "NN", 1},     {16, 784, 144, "NN", 0},     {32, 196, 288, "NN", 0},     {64, 196, 576, "NN", 1},
    {128, 32, 784, "NT", 1},    {32, 32, 784, "NT", 0},      {257, 129, 65, "NN", 1},
};

static double bench_product(const char *group, const shape *s, kd_isa isa, int threads)
{
    kd_ctx *kd = open_context(isa, threads);
    const size_t a = (size_t)s->m * (size_t)s->k, b = (size_t)s->k * (size_t)s->n, c = (size_t)s->m * (size_t)s->n;
    float *numbers[4];
    char name[40];
    product p[MAX_CONTESTANTS];
    contestant all[MAX_CONTESTANTS];
    bench_case what = {group, name, "GFLOP/s", 1e9, threads, kd_ctx_isa(kd), 1};
    double ratio;
    int count = 0, i;
    snprintf(name, sizeof name, "%dx%dx%d %s", s->m, s->n, s->k, s->trans);
    numbers[0] = random_floats(1, a);
    numbers[1] = random_floats(2, b);
    numbers[2] = (float *)memory(c * sizeof(float));
    numbers[3] = (float *)memory(c * sizeof(float));
    for (i = -1; i < (int)KD__COUNT(peers); ++i) {
        if (i >= 0 && !peers[i].sgemm && !peers[i].dnnl_sgemm) continue;
        memset(&p[count], 0, sizeof p[count]);
        p[count].kd = i < 0 ? kd : NULL;
        p[count].peer = i < 0 ? NULL : &peers[i];
        p[count].trans_a = s->trans[0] == 'T', p[count].trans_b = s->trans[1] == 'T';
        p[count].m = s->m, p[count].n = s->n, p[count].k = s->k;
        p[count].a = numbers[0], p[count].b = numbers[1], p[count].c = numbers[2];
        all[count].name = i < 0 ? "kd" : peers[i].name;
        all[count].run = multiply;
        all[count].arg = &p[count];
        all[count].work = 2.0 * s->m * s->n * s->k;
        multiply(&p[count]);
        if (i < 0)
            memcpy(numbers[3], numbers[2], c * sizeof(float));
        else
            compare(peers[i].name, name, numbers[2], numbers[3], c, 1e-6 * (s->k + 10));
        memset(numbers[2], 0, c * sizeof(float));
        ++count;
    }
    ratio = measure(&what, all, count);
    for (i = 0; i < 4; ++i) free(numbers[i]);
    kd_close(kd);
    return ratio;
}

static void bench_products(void)
{
    double logs = 0;
    int i, count = 0;
    for (i = 0; i < (int)KD__COUNT(shapes); ++i) {
        char name[40];
        double ratio;
        snprintf(name, sizeof name, "%dx%dx%d %s", shapes[i].m, shapes[i].n, shapes[i].k, shapes[i].trans);
        if (!wanted("gemm", name, shapes[i].quick)) continue;
        ratio = bench_product("gemm", &shapes[i], options.isa, options.threads);
        if (ratio > 0) logs += log(ratio), ++count;
    }
    if (count) printf("  geometric mean of %d: %.2fx the best peer\n", count, exp(logs / count));
}

static void bench_products_avx2(void)
{
    int i;
    if (!kd_isa_available(KD_ISA_AVX2) || options.isa != KD_ISA_AUTO) return;
    for (i = 0; i < (int)KD__COUNT(shapes); ++i) {
        char name[40];
        snprintf(name, sizeof name, "%dx%dx%d %s", shapes[i].m, shapes[i].n, shapes[i].k, shapes[i].trans);
        if (shapes[i].m == shapes[i].n && shapes[i].n == shapes[i].k && wanted("gemm-avx2", name, shapes[i].quick))
            (void)bench_product("gemm-avx2", &shapes[i], KD_ISA_AVX2, options.threads);
    }
}

/* ---- softmax and losses ---------------------------------------------------------------------------------- */

typedef struct loss_case {
    kd_ctx *kd;
    kd_loss_desc desc;
    int rows, cols;
    float *student, *teacher, *out;
    int32_t *labels;
} loss_case;

static void run_softmax(void *arg)
{
    const loss_case *l = (const loss_case *)arg;
    need(l->kd, kd_softmax(l->kd, l->student, l->rows, l->cols, 4, l->out));
}

static void run_loss(void *arg)
{
    const loss_case *l = (const loss_case *)arg;
    double value;
    need(l->kd, kd_loss(l->kd, &l->desc, l->student, l->teacher, l->labels, l->rows, l->cols, l->out, &value));
}

static void run_copy(void *arg)
{
    const loss_case *l = (const loss_case *)arg;
    memcpy(l->out, l->student, (size_t)l->rows * (size_t)l->cols * sizeof *l->out);
}

/* Beside memcpy, which is one thread however many kd has: no function that reads and writes as much can be faster
   for long. */
static void bench_losses(void)
{
    static const int sizes[][2] = {{128, 10}, {1024, 100}, {4096, 1000}, {256, 32000}};
    static const char *const names[] = {"softmax", "ce", "kl", "hinton"};
    static const double arrays[] = {2, 2, 3, 3}; /* read and written */
    static const kd_loss_kind kinds[] = {KD_LOSS_AUTO, KD_LOSS_CE, KD_LOSS_KL, KD_LOSS_HINTON};
    int i, j, k;
    for (i = 0; i < (int)KD__COUNT(names); ++i) {
        for (j = 0; j < (int)KD__COUNT(sizes); ++j) {
            const int rows = sizes[j][0], cols = sizes[j][1];
            const size_t count = (size_t)rows * (size_t)cols;
            contestant c[2] = {{"kd", NULL, NULL, 0}, {"memcpy x1", run_copy, NULL, 0}};
            bench_case what = {"losses", NULL, "GB/s", 1e9, options.threads, KD_ISA_AUTO, 0};
            char name[40];
            loss_case l;
            snprintf(name, sizeof name, "%s %dx%d", names[i], rows, cols);
            if (!wanted("losses", name, i == 0 || i == 3)) continue;
            l.kd = open_context(options.isa, options.threads);
            l.desc = kd_loss_defaults(kinds[i]);
            l.rows = rows, l.cols = cols;
            l.student = random_floats(1, count);
            l.teacher = random_floats(2, count);
            l.out = (float *)memory(count * sizeof(float));
            l.labels = (int32_t *)memory((size_t)rows * sizeof(int32_t));
            for (k = 0; k < rows; ++k) l.labels[k] = k % cols;
            what.name = name;
            what.isa = kd_ctx_isa(l.kd);
            c[0].run = i == 0 ? run_softmax : run_loss;
            c[0].arg = c[1].arg = &l;
            c[0].work = arrays[i] * (double)count * sizeof(float);
            c[1].work = 2 * (double)count * sizeof(float);
            if (kinds[i] == KD_LOSS_CE) free(l.teacher), l.teacher = NULL;
            (void)measure(&what, c, 2);
            free(l.student), free(l.teacher), free(l.out), free(l.labels);
            kd_close(l.kd);
        }
    }
}

/* ---- training and prediction ----------------------------------------------------------------------------- */

typedef struct training {
    kd_ctx *kd;
    kd_model *model, *teacher;
    kd_data data;
    kd_train_desc desc;
} training;

static void run_training(void *arg)
{
    const training *t = (const training *)arg;
    need(t->kd, kd_train(t->model, &t->data, &t->desc));
}

typedef struct pair {
    const char *name, *large, *small;
    int sizes[2][2]; /* units or channels, for KANN */
} pair;

static const pair pairs[] = {
    {"mlp",
     "784: dense 1200, relu, dense 1200, relu, dense 10",
     "784: dense 64, relu, dense 10",
     {{1200, 1200}, {64, 0}}},
    {"cnn",
     "1x28x28: conv 32 3 pad=1, relu, maxpool 2, conv 64 3 pad=1, relu, maxpool 2, dense 128, relu, dense 10",
     "1x28x28: conv 8 3 pad=1, relu, maxpool 2, conv 16 3 pad=1, relu, maxpool 2, dense 128, relu, dense 10",
     {{32, 64}, {8, 16}}},
};
enum { TRAIN_IMAGES = 1024, SMALL_IMAGES = 8192, TRAIN_CLASSES = 10 }; /* the large, and faster ones */
static const char *const roles[] = {"large", "small", "distil"};

/* The arithmetic that an image needs: forward, both gradients, but none for the pixels; forward in the teacher. */
static double training_flops(const training *t)
{
    const double macs = (double)kd_model_macs(t->model);
    return 6 * macs - 2 * (double)t->model->nodes[0].macs +
           (t->teacher ? 2 * (double)kd_model_macs(t->teacher) : 0);
}

static double training_work(const training *t) { return training_flops(t) * t->data.count; }

static void training_open(training *t, const pair *p, int role, kd_isa isa, int threads, const float *x,
                          const int32_t *labels)
{
    const int flat = strcmp(p->name, "mlp") == 0, side = flat ? 1 : 28;
    memset(t, 0, sizeof *t);
    t->kd = open_context(isa, threads);
    need(t->kd, kd_model_create(t->kd, role == 0 ? p->large : p->small, 1, &t->model));
    if (role == 2) need(t->kd, kd_model_create(t->kd, p->large, 2, &t->teacher));
    t->data =
        kd_data_f32(x, labels, role == 0 ? TRAIN_IMAGES : SMALL_IMAGES, flat ? 784 : 1, side, side, TRAIN_CLASSES);
    t->desc = kd_train_defaults();
    t->desc.teacher = t->teacher;
    t->desc.epochs = 1;
}

static void training_close(training *t)
{
    kd_model_destroy(t->model);
    kd_model_destroy(t->teacher);
    kd_close(t->kd);
}

static int32_t *random_labels(void)
{
    int32_t *labels = (int32_t *)memory(SMALL_IMAGES * sizeof *labels);
    int i;
    for (i = 0; i < SMALL_IMAGES; ++i) labels[i] = kd__rng_index(5, (uint64_t)i, TRAIN_CLASSES);
    return labels;
}

typedef struct kann_training {
    void *net;
    float *x[TRAIN_IMAGES], *one_hot[TRAIN_IMAGES], hot[TRAIN_CLASSES][TRAIN_CLASSES];
} kann_training;

static void run_kann(void *arg)
{
    kann_training *t = (kann_training *)arg;
    kann.train(t->net, TRAIN_IMAGES, t->x, t->one_hot);
}

static void kann_training_open(kann_training *t, const training *mine, const pair *p, int role, float *x,
                               const int32_t *labels)
{
    const int cnn = strcmp(p->name, "cnn") == 0, a = p->sizes[role][0], b = p->sizes[role][1];
    const int biases = cnn ? a + b : 0; /* KANN's convolutions have none */
    int i;
    memset(t, 0, sizeof *t);
    for (i = 0; i < TRAIN_CLASSES; ++i) t->hot[i][i] = 1;
    for (i = 0; i < TRAIN_IMAGES; ++i) t->x[i] = x + (ptrdiff_t)i * 784, t->one_hot[i] = t->hot[labels[i]];
    t->net = kann.open(cnn, a, b, options.threads);
    if (kann.parameters(t->net) + biases != kd_model_parameters(mine->model))
        fail("KANN's %s %s is another model than kd's", p->name, roles[role]);
}

/* Measured in flops, for the fraction of the peak; said in images. */
static void bench_training(void)
{
    static kann_training theirs;
    float *x = random_floats(1, SMALL_IMAGES * 784);
    int32_t *labels = random_labels();
    int i, role;
    for (i = 0; i < 2 * 3; ++i) {
        const pair *p = &pairs[i / 3];
        bench_case what = {"training", NULL, "images/s", 0, options.threads, KD_ISA_AUTO, 1};
        contestant c[2] = {{"kd", run_training, NULL, 0}, {"KANN (RMSprop)", run_kann, &theirs, 0}};
        char name[40];
        training t;
        role = i % 3;
        snprintf(name, sizeof name, "%s %s", p->name, roles[role]);
        if (!wanted("training", name, 1)) continue;
        training_open(&t, p, role, options.isa, options.threads, x, labels);
        what.name = name;
        what.isa = kd_ctx_isa(t.kd);
        what.scale = training_flops(&t);
        c[0].arg = &t;
        c[0].work = training_work(&t), c[1].work = what.scale * TRAIN_IMAGES;
        theirs.net = NULL;
        if (kann.open && role < 2) kann_training_open(&theirs, &t, p, role, x, labels);
        (void)measure(&what, c, theirs.net ? 2 : 1);
        if (theirs.net) kann.close(theirs.net);
        training_close(&t);
    }
    free(x);
    free(labels);
}

/* A trainer that goes on for an epoch each time; fresh: from the beginning each time. */
typedef struct epochs {
    training t;
    kd_trainer *trainer;
    int fresh;
} epochs;

static void run_epoch(void *arg)
{
    epochs *e = (epochs *)arg;
    const int epoch = kd_trainer_position(e->trainer).epoch;
    if (e->fresh) {
        kd_trainer_close(e->trainer);
        kd_model_destroy(e->t.model);
        need(e->t.kd, kd_model_create(e->t.kd, "784: dense 256, relu, dense 10", 1, &e->t.model));
        need(e->t.kd, kd_trainer_open(e->t.model, &e->t.data, &e->t.desc, &e->trainer));
        while (kd_trainer_position(e->trainer).epoch == 0) need(e->t.kd, kd_trainer_step(e->trainer, NULL));
        return;
    }
    while (kd_trainer_position(e->trainer).epoch == epoch) need(e->t.kd, kd_trainer_step(e->trainer, NULL));
}

/* Steps must not get slower: pixels that are always 0, as the borders of digits are, leave weights without
   gradients, and what the optimizer keeps of them shrinks until it is gone. */
static void bench_epochs(void)
{
    static const char *const names[] = {"epoch 1", "epoch 20 on"};
    enum { IMAGES = 1024, EPOCH = 20 };
    float *x = random_floats(1, IMAGES * 784);
    int32_t *labels = random_labels();
    int i, optimizer;
    for (i = 0; i < IMAGES * 784; ++i) {
        const int row = i % 784 / 28, column = i % 28;
        if (row < 6 || row >= 22 || column < 6 || column >= 22 || x[i] < 0) x[i] = 0;
    }
    for (optimizer = 0; optimizer < KD_OPTIMIZER_COUNT; ++optimizer) {
        bench_case what = {"epochs", NULL, "images/s", 0, options.threads, KD_ISA_AUTO, 1};
        contestant c[2];
        epochs e[2];
        char name[40];
        snprintf(name, sizeof name, "mlp 256 %s", kd_optimizer_name((kd_optimizer)optimizer));
        if (!wanted("epochs", name, 1)) continue;
        memset(e, 0, sizeof e);
        for (i = 0; i < 2; ++i) {
            training *t = &e[i].t;
            e[i].fresh = i == 0;
            t->kd = open_context(options.isa, options.threads);
            need(t->kd, kd_model_create(t->kd, "784: dense 256, relu, dense 10", 1, &t->model));
            t->data = kd_data_f32(x, labels, IMAGES, 784, 1, 1, TRAIN_CLASSES);
            t->desc = kd_train_defaults();
            t->desc.optimizer = (kd_optimizer)optimizer;
            t->desc.batch = 16, t->desc.epochs = 1000000, t->desc.weight_decay = 1e-4f;
            need(t->kd, kd_trainer_open(t->model, &t->data, &t->desc, &e[i].trainer));
            while (i == 1 && kd_trainer_position(e[i].trainer).epoch < EPOCH - 1) run_epoch(&e[i]);
            c[i].name = names[i];
            c[i].run = run_epoch, c[i].arg = &e[i], c[i].work = training_work(t);
        }
        what.name = name;
        what.isa = kd_ctx_isa(e[0].t.kd);
        what.scale = training_flops(&e[0].t);
        (void)measure(&what, c, 2);
        for (i = 0; i < 2; ++i) {
            kd_trainer_close(e[i].trainer);
            training_close(&e[i].t);
        }
    }
    free(x);
    free(labels);
}

/* The peak memory of this process after an epoch of the large MLP, in MB. */
static void train_once(void)
{
    float *x = random_floats(1, TRAIN_IMAGES * 784);
    int32_t *labels = random_labels();
    FILE *status = fopen("/proc/self/status", "r");
    char line[200];
    double kilobytes = 0;
    training t;
    training_open(&t, &pairs[0], 0, options.isa, options.threads, x, labels);
    run_training(&t);
    while (status && fgets(line, sizeof line, status)) (void)sscanf(line, "VmHWM: %lf", &kilobytes);
    printf("%.1f\n", kilobytes / 1024);
    if (status) fclose(status);
    training_close(&t);
    free(x);
    free(labels);
}

typedef struct prediction {
    kd_ctx *kd;
    kd_model *model;
    kd_workspace *workspace;
    const float *x;
    float logits[128 * TRAIN_CLASSES];
    int count;
} prediction;

static void run_prediction(void *arg)
{
    prediction *p = (prediction *)arg;
    need(p->kd, kd_workspace_predict(p->workspace, p->x, p->count, p->logits));
}

static void bench_predictions(void)
{
    float *x = random_floats(1, 128 * 784);
    int i;
    for (i = 0; i < 2 * 2 * 2; ++i) {
        const pair *of = &pairs[i / 4];
        bench_case what = {"prediction", NULL, "images/s", 0, options.threads, KD_ISA_AUTO, 1};
        contestant c = {"kd", run_prediction, NULL, 0};
        char name[40];
        prediction p;
        p.count = i % 2 ? 128 : 1;
        snprintf(name, sizeof name, "%s %s, batch %d", of->name, roles[i / 2 % 2], p.count);
        if (!wanted("prediction", name, i / 2 % 2)) continue;
        p.kd = open_context(options.isa, options.threads);
        need(p.kd, kd_model_create(p.kd, i / 2 % 2 ? of->small : of->large, 1, &p.model));
        need(p.kd, kd_workspace_create(p.model, p.count, &p.workspace));
        p.x = x;
        what.name = name;
        what.isa = kd_ctx_isa(p.kd);
        what.scale = 2 * (double)kd_model_macs(p.model);
        c.arg = &p;
        c.work = what.scale * p.count;
        (void)measure(&what, &c, 1);
        kd_workspace_destroy(p.workspace);
        kd_model_destroy(p.model);
        kd_close(p.kd);
    }
    free(x);
}

/* ---- two threads ----------------------------------------------------------------------------------------- */

/* Another process that does nothing and takes all the time it can get. */
static pid_t start_neighbour(void)
{
    const struct timespec settle = {0, 50000000}; /* until the system has found it a processor */
    const pid_t id = fork();
    if (id < 0) fail("no process can be started");
    if (id == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* should this program end before */
        for (;;) KD__OPAQUE(options.rounds);
    }
    (void)nanosleep(&settle, NULL);
    return id;
}

static void stop_neighbour(pid_t id)
{
    (void)kill(id, SIGKILL);
    (void)waitpid(id, NULL, 0);
}

/* Measures by turns: the second is one thread on a machine that does nothing else, the first all threads beside one
   busy process. Their ratio is what is left of a thread's speed. */
static void measure_beside(const bench_case *b, contestant c[2])
{
    double times[2][MAX_ROUNDS], ratios[MAX_ROUNDS], value[2];
    long repeats[2];
    spread ratio;
    int i, round;
    for (i = 0; i < 2; ++i) repeats[i] = repeats_of(&c[i]);
    for (round = 0; round < options.rounds; ++round) {
        const pid_t id = start_neighbour();
        times[0][round] = time_of(&c[0], repeats[0]) / (double)repeats[0];
        stop_neighbour(id);
        times[1][round] = time_of(&c[1], repeats[1]) / (double)repeats[1];
        ratios[round] = times[1][round] / c[1].work / (times[0][round] / c[0].work);
    }
    for (i = 0; i < 2; ++i) value[i] = rate_of(b, &c[i], spread_of(times[i], options.rounds).median);
    ratio = spread_of(ratios, options.rounds);
    report(b, c, 2, value, 1, &ratio, 0);
}

/* By how much all threads are ahead of one: the peer is kd itself. Then the same while another process is busy. */
static void bench_threads_of(int busy)
{
    const int threads = options.threads > 1 ? options.threads : KD__MIN(2, kd_cpu_count());
    float *x = random_floats(1, SMALL_IMAGES * 784);
    int32_t *labels = random_labels();
    int i, j;
    if (threads < 2) puts("\nthreads: left out, there is one processor only");
    for (i = 0; i < 3 + 4 && threads > 1; ++i) {
        bench_case what = {
            busy ? "threads-busy" : "threads", NULL, i < 3 ? "GFLOP/s" : "images/s", 1, threads, KD_ISA_AUTO, 1};
        contestant c[2] = {{"kd", NULL, NULL, 0}, {busy ? "1, not busy" : "kd, 1 thread", NULL, NULL, 0}};
        char name[40];
        if (i < 3) {
            const int n = 512 << i;
            const size_t count = (size_t)n * (size_t)n;
            product p[2];
            snprintf(name, sizeof name, "%dx%dx%d NN", n, n, n);
            if (!wanted(what.group, name, i == 1 - busy)) continue;
            memset(p, 0, sizeof p);
            p[0].a = p[1].a = random_floats(1, count);
            p[0].b = p[1].b = random_floats(2, count);
            p[0].c = p[1].c = (float *)memory(count * sizeof(float));
            what.scale = 1e9;
            for (j = 0; j < 2; ++j) {
                p[j].kd = open_context(options.isa, j ? 1 : threads);
                p[j].m = p[j].n = p[j].k = n;
                c[j].run = multiply, c[j].arg = &p[j], c[j].work = 2.0 * n * n * n;
            }
            what.name = name, what.isa = kd_ctx_isa(p[0].kd);
            if (busy)
                measure_beside(&what, c);
            else
                (void)measure(&what, c, 2);
            for (j = 0; j < 2; ++j) kd_close(p[j].kd);
            free((void *)(uintptr_t)p[0].a), free((void *)(uintptr_t)p[0].b), free(p[0].c);
        } else {
            const pair *of = &pairs[(i - 3) / 2];
            const int role = (i - 3) % 2;
            training t[2];
            snprintf(name, sizeof name, "training %s %s", of->name, roles[role]);
            if (!wanted(what.group, name, role == 0)) continue;
            for (j = 0; j < 2; ++j) {
                training_open(&t[j], of, role, options.isa, j ? 1 : threads, x, labels);
                what.scale = training_flops(&t[j]);
                c[j].run = run_training, c[j].arg = &t[j], c[j].work = training_work(&t[j]);
            }
            what.name = name, what.isa = kd_ctx_isa(t[0].kd);
            if (busy)
                measure_beside(&what, c);
            else
                (void)measure(&what, c, 2);
            for (j = 0; j < 2; ++j) training_close(&t[j]);
        }
    }
    free(x);
    free(labels);
}

static void bench_threads(void) { bench_threads_of(0); }
static void bench_threads_busy(void) { bench_threads_of(1); }

/* ---- options --------------------------------------------------------------------------------------------- */

typedef struct group {
    const char *name, *what;
    void (*run)(void);
} group;

static const group groups[] = {
    {"gemm", "kd_sgemm", bench_products},
    {"gemm-avx2", "kd_sgemm with AVX2, squares", bench_products_avx2},
    {"conv", "convolutions, forward and backward", bench_convolutions},
    {"losses", "softmax and losses, beside memcpy", bench_losses},
    {"training", "training and distillation, batch 128, Adam", bench_training},
    {"epochs", "training with batch 16: the first epoch beside the twentieth and later ones", bench_epochs},
    {"prediction", "kd_workspace_predict", bench_predictions},
    {"threads", "two threads beside one", bench_threads},
    {"threads-busy", "two threads beside one and a busy process", bench_threads_busy},
    {"weight", "compile time, code size, memory, start-up", bench_weight},
};

static void print_help(void)
{
    int i;
    puts("usage: bench [options]\n"
         "  --quick         fewer cases, fewer rounds\n"
         "  --train-once    only prints the peak memory of training the large MLP, in MB\n"
         "  --only GROUP    one group of cases:");
    for (i = 0; i < (int)KD__COUNT(groups); ++i)
        printf("                    %-12s %s\n", groups[i].name, groups[i].what);
    puts("  --case TEXT     cases with this text in their name\n"
         "  --threads N     1; threads of kd and of its peers\n"
         "  --isa NAME      auto; instruction set of kd: scalar, avx2, avx512, neon\n"
         "  --repeats N     9 (--quick: 5); rounds, an odd number\n"
         "  --json FILE     appends the results to the array in FILE");
}

static const char *value_of(int argc, char **argv, int *i)
{
    if (*i + 1 >= argc) fail("%s needs a value", argv[*i]);
    return argv[++*i];
}

static kd_isa isa_named(const char *name)
{
    int isa;
    for (isa = 0; isa < KD_ISA_COUNT; ++isa) {
        if (strcmp(kd_isa_name((kd_isa)isa), name) == 0 && kd_isa_available((kd_isa)isa)) return (kd_isa)isa;
    }
    fail("this machine has no instruction set %s", name);
}

static void read_options(int argc, char **argv)
{
    int i, rounds = 0, known = 0, once = 0;
    for (i = 1; i < argc; ++i) {
        if (strcmp(argv[i], "--help") == 0)
            print_help(), exit(0);
        else if (strcmp(argv[i], "--quick") == 0)
            options.quick = 1;
        else if (strcmp(argv[i], "--train-once") == 0)
            once = 1;
        else if (strcmp(argv[i], "--only") == 0)
            options.only = value_of(argc, argv, &i);
        else if (strcmp(argv[i], "--case") == 0)
            options.wanted = value_of(argc, argv, &i);
        else if (strcmp(argv[i], "--threads") == 0)
            options.threads = atoi(value_of(argc, argv, &i));
        else if (strcmp(argv[i], "--isa") == 0)
            options.isa = isa_named(value_of(argc, argv, &i));
        else if (strcmp(argv[i], "--repeats") == 0)
            rounds = atoi(value_of(argc, argv, &i));
        else if (strcmp(argv[i], "--json") == 0)
            options.json = value_of(argc, argv, &i);
        else
            fail("unknown option %s; --help says what there is", argv[i]);
    }
    options.rounds = rounds ? rounds : options.quick ? 5 : 9;
    if (options.rounds < 1 || options.rounds > MAX_ROUNDS || options.rounds % 2 == 0)
        fail("--repeats must be odd, 1 to %d", MAX_ROUNDS);
    if (options.threads < 1 || options.threads > 256) fail("--threads must be 1 to 256");
    for (i = 0; i < (int)KD__COUNT(groups); ++i) known |= strcmp(groups[i].name, options.only) == 0;
    if (once) train_once(), exit(0);
    if (options.only[0] && !known) fail("there is no group %s; --help says which there are", options.only);
}

int main(int argc, char **argv)
{
    int i;
    double load;
    read_options(argc, argv);
    if (getloadavg(&load, 1) == 1 && load > 0.75)
        printf("This machine is busy with something else (load %.1f): expect noise, above all with threads.\n",
               load);
    open_peers();
    open_kann();
    set_peer_threads(options.threads);
    for (i = 0; i < (int)KD__COUNT(groups); ++i) {
        if (!options.only[0] || strcmp(options.only, groups[i].name) == 0) groups[i].run();
    }
    return 0;
}
