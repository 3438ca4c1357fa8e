/* threads.c - trains on kd.h's own threads, or with -DPARALLEL_FOR on this program's, and prints what the weights
   hash to. Usage: threads [RUNS]
   Any number of threads, and two contexts training in two threads at once, must give one hash for each optimizer;
   one model is asked by several threads while it trains nobody. Made for ThreadSanitizer. */
#define KD_IMPLEMENTATION
#include "../../kd.h"

#include <pthread.h>

enum { COUNT = 48, SIDE = 12, CLASSES = 4, MOST_THREADS = 16 };

static uint8_t pixels[COUNT][SIDE * SIDE];
static int32_t labels[COUNT];

static void must(int truth, const char *what)
{
    if (truth) return;
    fprintf(stderr, "%s\n", what);
    exit(1);
}

/* ---- tasks over threads that are made for them ------------------------------------------------------------ */

typedef struct job {
    kd_task_fn task;
    void *arg;
    int count, next;
    pthread_mutex_t lock;
} job;

typedef struct worker {
    job *j;
    int number;
} worker;

static void *work(void *user)
{
    const worker *w = (const worker *)user;
    for (;;) {
        int index;
        pthread_mutex_lock(&w->j->lock);
        index = w->j->next++;
        pthread_mutex_unlock(&w->j->lock);
        if (index >= w->j->count) return NULL;
        w->j->task(w->j->arg, index, w->number);
    }
}

static void parallel_for(void *user, int count, kd_task_fn task, void *arg)
{
    const int threads = *(const int *)user < count ? *(const int *)user : count;
    pthread_t ids[MOST_THREADS];
    worker workers[MOST_THREADS];
    job j;
    int i;
    j.task = task, j.arg = arg, j.count = count, j.next = 0;
    pthread_mutex_init(&j.lock, NULL);
    for (i = 0; i < threads; ++i) {
        workers[i].j = &j, workers[i].number = i;
        must(i == 0 || pthread_create(&ids[i], NULL, work, &workers[i]) == 0, "no thread");
    }
    if (threads > 0) (void)work(&workers[0]);
    for (i = 1; i < threads; ++i) pthread_join(ids[i], NULL);
    pthread_mutex_destroy(&j.lock);
}

/* ---- training -------------------------------------------------------------------------------------------- */

static void ok(kd_ctx *kd, kd_result result)
{
    if (result != KD_OK) must(0, kd_error(kd));
}

typedef struct run {
    int threads, optimizer;
    uint64_t hash;
} run;

/* Everything random is on. */
static void *train(void *user)
{
    static const char teacher_line[] = "1x12x12: conv 12 3 pad=1, batchnorm, relu, maxpool 2, dense 4";
    static const char student_line[] = "1x12x12: conv 5 3 stride=2, gelu, dropout 0.2, depthwise 3 pad=1, "
                                       "residual(conv 8 1, batchnorm, relu), gap, dense 4";
    run *r = (run *)user;
    kd_ctx_desc desc = kd_ctx_defaults();
    kd_train_desc how = kd_train_defaults();
    const kd_data data = kd_data_u8(pixels[0], labels, COUNT, 1, SIDE, SIDE, CLASSES);
    kd_model *teacher, *student;
    kd_metrics metrics;
    kd_ctx *kd;
    desc.threads = r->threads;
#if defined(PARALLEL_FOR) || defined(KD_NO_THREADS)
    desc.parallel_for = parallel_for;
    desc.parallel_user = &r->threads;
#else
    (void)parallel_for;
#endif
    must(kd_open(&desc, &kd) == KD_OK, "no context");
    ok(kd, kd_model_create(kd, teacher_line, 1, &teacher));
    ok(kd, kd_model_create(kd, student_line, 2, &student));
    how.epochs = 2, how.batch = 20, how.optimizer = (kd_optimizer)r->optimizer, how.teacher = teacher;
    how.augment.shift = 1, how.augment.flip = 1, how.augment.rotate = 10, how.augment.mixup = 0.2f;
    how.clip_norm = 1, how.max_norm = 3, how.weight_decay = 0.01f, how.validation = 0.2f;
    ok(kd, kd_train(student, &data, &how));
    ok(kd, kd_evaluate(student, &data, &metrics));
    r->hash = kd_model_hash(student);
    kd_model_destroy(student);
    kd_model_destroy(teacher);
    kd_close(kd);
    return NULL;
}

static void *ask(void *user)
{
    const kd_model *m = (const kd_model *)user;
    uint64_t *hash = (uint64_t *)calloc(1, sizeof *hash);
    float logits[CLASSES];
    int i;
    must(hash != NULL, "no memory");
    for (i = 0; i < COUNT; ++i) {
#ifdef KD_NO_THREADS /* a model belongs to one thread at a time */
        (void)m;
        logits[i % CLASSES] = 0;
#else
        must(kd_predict_u8(m, pixels[i], 1, logits) == KD_OK, "no prediction");
#endif
        *hash = *hash * 31 + kd__float_bits(logits[i % CLASSES]);
    }
    return hash;
}

static void predict_at_once(void)
{
    kd_ctx_desc desc = kd_ctx_defaults();
    pthread_t ids[4];
    uint64_t wanted = 0;
    kd_model *m;
    kd_ctx *kd;
    int i;
    desc.threads = 3;
    must(kd_open(&desc, &kd) == KD_OK, "no context");
    ok(kd, kd_model_create(kd, "1x12x12: conv 6 3, relu, maxpool 2, dense 4", 1, &m));
    for (i = 0; i < 4; ++i) must(pthread_create(&ids[i], NULL, ask, m) == 0, "no thread");
    for (i = 0; i < 4; ++i) {
        void *hash;
        pthread_join(ids[i], &hash);
        if (i == 0) wanted = *(uint64_t *)hash;
        must(*(uint64_t *)hash == wanted, "threads that predict at once disagree");
        free(hash);
    }
    kd_model_destroy(m);
    kd_close(kd);
}

int main(int argc, char **argv)
{
    static const int threads[] = {2, 3, 4, 7, 8, 16};
    const int runs = argc > 1 ? atoi(argv[1]) : 1;
    int optimizer, i, n, trained = 0;
    size_t t;
    for (i = 0; i < COUNT; ++i) {
        labels[i] = i % CLASSES;
        for (n = 0; n < SIDE * SIDE; ++n) pixels[i][n] = (uint8_t)((n * (3 + i % CLASSES) + i * 7) % 256);
    }
    for (optimizer = 0; optimizer < KD_OPTIMIZER_COUNT; ++optimizer) {
        run alone = {1, 0, 0}, pair[2];
        pthread_t id;
        alone.optimizer = optimizer;
        (void)train(&alone);
        for (n = 0; n < runs; ++n) {
            for (t = 0; t < sizeof threads / sizeof *threads; ++t, ++trained) {
                run many = {threads[t], optimizer, 0};
                (void)train(&many);
                must(many.hash == alone.hash, "the number of threads changes the weights");
            }
            pair[0].threads = 1, pair[1].threads = 3;
            pair[0].optimizer = pair[1].optimizer = optimizer;
            must(pthread_create(&id, NULL, train, &pair[1]) == 0, "no thread");
            (void)train(&pair[0]);
            pthread_join(id, NULL);
            must(pair[0].hash == alone.hash && pair[1].hash == alone.hash, "contexts disturb each other");
            trained += 2;
        }
        fprintf(stderr, "%s %016llx\n", kd_optimizer_name((kd_optimizer)optimizer), (unsigned long long)alone.hash);
    }
    predict_at_once();
    printf("%d trainings\n", trained + KD_OPTIMIZER_COUNT);
    return 0;
}
