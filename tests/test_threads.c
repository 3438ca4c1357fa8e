/* test_threads.c - the threads of a context: every task once, who is waited for, starting, ending, fork(), signals,
   and how many processors there are */
#include <pthread.h>
#include <sched.h>

/* What kd.h starts and ends its threads with can be told to fail. */
static struct {
    int limit;   /* threads that can be started yet, -1: any number */
    int phantom; /* they are started in name only */
    int started, joined;
    size_t stack;
} hook = {-1, 0, 0, 0, 0};

static int hooked_create(pthread_t *id, const pthread_attr_t *attributes, void *(*run)(void *), void *arg)
{
    if (hook.limit == 0) return 11;
    if (hook.limit > 0) --hook.limit;
    ++hook.started;
    (void)pthread_attr_getstacksize(attributes, &hook.stack);
    return hook.phantom ? 0 : pthread_create(id, attributes, run, arg);
}

static int hooked_join(pthread_t id, void **result)
{
    ++hook.joined;
    return hook.phantom ? 0 : pthread_join(id, result);
}

#define pthread_create hooked_create
#define pthread_join hooked_join
#include "support.h"
#undef pthread_create
#undef pthread_join

#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define NO_FORK 1 /* which that sanitizer does not take */
#endif
#endif
#if defined(__SANITIZE_THREAD__)
#define NO_FORK 1
#endif

enum { MOST_TASKS = 100000, THREADS = KD__THREADS ? 4 : 1 };

static void rest(int milliseconds)
{
    struct timespec t;
    t.tv_sec = milliseconds / 1000, t.tv_nsec = milliseconds % 1000 * 1000000l;
    (void)nanosleep(&t, NULL);
}

/* ---- regions --------------------------------------------------------------------------------------------- */

/* Counts how often each task ran, and workers that are used twice at once. */
typedef struct tally {
    int hits[MOST_TASKS], busy[KD__MAX_THREADS], threads, faults, turns;
    const kd_ctx *nested;
} tally;

static void count_one(void *arg, int index, int worker)
{
    (void)worker;
    __atomic_fetch_add(&((int *)arg)[index], 1, __ATOMIC_RELAXED);
}

static void count_task(void *arg, int index, int worker)
{
    tally *t = (tally *)arg;
    volatile int i;
    if (worker < 0 || worker >= t->threads) {
        __atomic_fetch_add(&t->faults, 1, __ATOMIC_RELAXED);
        return;
    }
    __atomic_fetch_add(&t->faults, __atomic_exchange_n(&t->busy[worker], 1, __ATOMIC_RELAXED), __ATOMIC_RELAXED);
    __atomic_fetch_add(&t->hits[index], 1, __ATOMIC_RELAXED);
    for (i = 0; i < t->turns; ++i) {}
    if (t->nested) {
        int hits[5] = {0}, j;
        kd__parallel(t->nested, 5, count_one, hits);
        for (j = 0; j < 5; ++j) __atomic_fetch_add(&t->faults, hits[j] != 1, __ATOMIC_RELAXED);
    }
    __atomic_store_n(&t->busy[worker], 0, __ATOMIC_RELAXED);
}

static void run_region(kd_ctx *kd, tally *t, int count)
{
    int i;
    memset(t->hits, 0, (size_t)count * sizeof *t->hits);
    t->threads = kd_ctx_threads(kd);
    kd__parallel(kd, count, count_task, t);
    for (i = 0; i < count; ++i) {
        if (t->hits[i] != 1) fail_msg("task %d of %d ran %d times", i, count, t->hits[i]);
    }
    assert_int_equal(t->faults, 0);
}

static tally *open_tally(void)
{
    tally *t = (tally *)calloc(1, sizeof *t);
    assert_non_null(t);
    return t;
}

static void test_every_task_once(void **state)
{
    static const int threads[] = {1, 2, 3, 4, 16, 256};
    static const int counts[] = {0, 1, 2, 3, 4, 5, 15, 16, 17, 255, 256, 257, 1000, MOST_TASKS};
    tally *t = open_tally();
    int i, j, round;
    (void)state;
    for (i = 0; i < KD__COUNT(threads); ++i) {
        kd_ctx *kd = test_open(KD_ISA_AUTO, threads[i]);
        assert_int_equal(kd_ctx_threads(kd), KD__THREADS ? threads[i] : 1);
        for (round = 0; round < 20; ++round) {
            t->turns = round % 3 * 100;
            t->nested = round % 4 == 3 ? kd : NULL;
            for (j = 0; j < KD__COUNT(counts) - (round > 0); ++j) run_region(kd, t, counts[j]);
            if (round % 7 == 6) rest(2); /* long enough to fall asleep */
        }
        kd_close(kd);
    }
    free(t);
}

/* Many short regions, in which a thread is late more often than not. */
static void test_short_regions(void **state)
{
    kd_ctx *kd = test_open(KD_ISA_AUTO, 3);
    tally *t = open_tally();
    int i;
    (void)state;
    for (i = 0; i < 20000; ++i) run_region(kd, t, 2 + i % 5);
    kd_close(kd);
    free(t);
}

#if KD__THREADS
/* Threads that never run: all is done by the calling one, which waits for nobody. */
static void test_threads_put_aside(void **state)
{
    kd_ctx *kd;
    tally *t = open_tally();
    int i;
    (void)state;
    hook.phantom = 1;
    kd = test_open(KD_ISA_AUTO, 8);
    assert_int_equal(kd_ctx_threads(kd), 8);
    for (i = 0; i < 100; ++i) run_region(kd, t, 1 + i * 7);
    for (i = 1; i < 8; ++i) assert_int_equal(kd->pool->workers[i].state, KD__IDLE);
    kd_close(kd);
    hook.phantom = 0;
    free(t);
}

typedef struct visitor {
    kd_ctx *kd;
    int hits[64], faults;
} visitor;

static void *visit(void *user)
{
    visitor *v = (visitor *)user;
    int i, j;
    for (i = 0; i < 500; ++i) {
        memset(v->hits, 0, sizeof v->hits);
        kd__parallel(v->kd, 64, count_one, v->hits);
        for (j = 0; j < 64; ++j) v->faults += v->hits[j] != 1;
    }
    return NULL;
}

/* Several threads at once in regions of one context. */
static void test_regions_at_once(void **state)
{
    visitor v[4];
    pthread_t ids[4];
    kd_ctx *kd = test_open(KD_ISA_AUTO, 3);
    int i;
    (void)state;
    memset(v, 0, sizeof v);
    for (i = 0; i < 4; ++i) {
        v[i].kd = kd;
        assert_int_equal(pthread_create(&ids[i], NULL, visit, &v[i]), 0);
    }
    for (i = 0; i < 4; ++i) {
        assert_int_equal(pthread_join(ids[i], NULL), 0);
        assert_int_equal(v[i].faults, 0);
    }
    kd_close(kd);
}
#endif

/* ---- models ---------------------------------------------------------------------------------------------- */

enum { IMAGES = 96, SIDE = 8, CLASSES = 4 };

typedef struct samples {
    float x[IMAGES * SIDE * SIDE];
    int32_t labels[IMAGES];
    kd_data data;
} samples;

static void make_samples(samples *s)
{
    int i;
    for (i = 0; i < IMAGES * SIDE * SIDE; ++i) s->x[i] = (float)kd__rng_range(1, (uint64_t)i, -1, 1);
    for (i = 0; i < IMAGES; ++i) s->labels[i] = i % CLASSES;
    s->data = kd_data_f32(s->x, s->labels, IMAGES, 1, SIDE, SIDE, CLASSES);
}

static kd_model *create(kd_ctx *kd)
{
    kd_model *m;
    assert_ok(kd, kd_model_create(kd, "1x8x8: conv 6 3 pad=1, relu, maxpool 2, dense 16, relu, dense 4", 1, &m));
    return m;
}

static uint64_t train(kd_ctx *kd, samples *s)
{
    kd_train_desc desc = kd_train_defaults();
    kd_model *m = create(kd);
    uint64_t hash;
    desc.epochs = 2, desc.batch = 48;
    assert_ok(kd, kd_train(m, &s->data, &desc));
    hash = kd_model_hash(m);
    kd_model_destroy(m);
    return hash;
}

#if KD__THREADS
typedef struct asker {
    const kd_model *m;
    const samples *s;
    float logits[IMAGES * CLASSES];
    int faults;
} asker;

static void *ask(void *user)
{
    asker *a = (asker *)user;
    int i;
    for (i = 0; i < 40; ++i) a->faults += kd_predict(a->m, a->s->x, IMAGES, a->logits) != KD_OK;
    return NULL;
}

/* One model, several threads that predict, and a context with threads of its own. */
static void test_predictions_at_once(void **state)
{
    static asker a[4];
    static float wanted[IMAGES * CLASSES];
    samples s;
    pthread_t ids[4];
    kd_ctx *kd = test_open(KD_ISA_AUTO, 3);
    kd_model *m = create(kd);
    int i;
    (void)state;
    make_samples(&s);
    assert_ok(kd, kd_predict(m, s.x, IMAGES, wanted));
    for (i = 0; i < 4; ++i) {
        a[i].m = m, a[i].s = &s;
        assert_int_equal(pthread_create(&ids[i], NULL, ask, &a[i]), 0);
    }
    for (i = 0; i < 4; ++i) {
        assert_int_equal(pthread_join(ids[i], NULL), 0);
        assert_int_equal(a[i].faults, 0);
        assert_memory_equal(a[i].logits, wanted, sizeof wanted);
    }
    kd_model_destroy(m);
    kd_close(kd);
}

typedef struct softener {
    kd_ctx *kd;
    const float *logits;
    float probs[2][1200 * 40];
    int faults;
} softener;

static void *soften(void *user)
{
    softener *a = (softener *)user;
    int i;
    for (i = 0; i < 30; ++i) {
        a->faults += kd_softmax(a->kd, a->logits, 1200, 40, 3, a->probs[0]) != KD_OK;
        a->faults += kd_log_softmax(a->kd, a->logits, 1200, 40, 3, a->probs[1]) != KD_OK;
        a->faults += kd_softmax(a->kd, a->logits, 1200, 40, 0, a->probs[0]) != KD_ERR_ARGUMENT;
    }
    return NULL;
}

/* One context, several threads that ask it for probabilities, of more rows than one task has, and for errors. */
static void test_softmax_at_once(void **state)
{
    static softener a[4];
    static float wanted[2][1200 * 40];
    float *logits = test_floats(3, 1200 * 40, 5);
    pthread_t ids[4];
    kd_ctx *kd = test_open(KD_ISA_AUTO, 3);
    int i;
    (void)state;
    assert_ok(kd, kd_softmax(kd, logits, 1200, 40, 3, wanted[0]));
    assert_ok(kd, kd_log_softmax(kd, logits, 1200, 40, 3, wanted[1]));
    for (i = 0; i < 4; ++i) {
        a[i].kd = kd, a[i].logits = logits;
        assert_int_equal(pthread_create(&ids[i], NULL, soften, &a[i]), 0);
    }
    for (i = 0; i < 4; ++i) {
        assert_int_equal(pthread_join(ids[i], NULL), 0);
        assert_int_equal(a[i].faults, 0);
        assert_memory_equal(a[i].probs, wanted, sizeof wanted);
    }
    assert_string_equal(kd_error(kd), "kd_softmax: the temperature must be above 0, got 0");
    kd_close(kd);
    free(logits);
}

/* An allocator without a lock, which only those may call whom the owner lets: one thread at a time. */
typedef struct guarded {
    pthread_t owner;
    int calls, strangers, inside;
} guarded;

static void guarded_enter(guarded *g)
{
    ++g->calls;
    if (!pthread_equal(g->owner, pthread_self()) || g->inside) ++g->strangers;
    g->inside = 1;
}

static void *guarded_alloc(void *user, size_t size)
{
    void *block;
    guarded_enter((guarded *)user);
    block = malloc(size);
    ((guarded *)user)->inside = 0;
    return block;
}

static void guarded_free(void *user, void *block, size_t size)
{
    (void)size;
    guarded_enter((guarded *)user);
    free(block);
    ((guarded *)user)->inside = 0;
}

/* Whatever its threads do, a context asks for memory from the thread that calls it, cross-validation too, whose
   folds are contexts on other threads. */
static void test_allocator_thread(void **state)
{
    kd_ctx_desc desc = kd_ctx_defaults();
    kd_train_desc how = kd_train_defaults();
    guarded g = {pthread_self(), 0, 0, 0};
    float logits[IMAGES * CLASSES], probs[IMAGES * CLASSES];
    kd_cross_validation all;
    kd_metrics metrics;
    kd_cache *cache;
    kd_model *m, *copy;
    kd_ctx *kd;
    samples s;
    int calls;
    (void)state;
    make_samples(&s);
    desc.threads = 4;
    desc.allocator.alloc = guarded_alloc, desc.allocator.free = guarded_free, desc.allocator.user = &g;
    assert_int_equal(kd_open(&desc, &kd), KD_OK);
    m = create(kd);
    (void)train(kd, &s);
    assert_ok(kd, kd_predict(m, s.x, IMAGES, logits));
    assert_ok(kd, kd_softmax(kd, logits, IMAGES, CLASSES, 2, probs));
    assert_ok(kd, kd_evaluate(m, &s.data, &metrics));
    assert_ok(kd, kd_cache_create(m, &s.data, NULL, 1, 1, &cache));
    assert_ok(kd, kd_model_clone(m, &copy));
    how.epochs = 2, how.batch = 16;
    how.loss = kd_loss_defaults(KD_LOSS_DIST); /* which takes room of its own */
    how.teacher = copy;
    calls = g.calls;
    assert_ok(kd, kd_cross_validate(m, &s.data, &how, 6, NULL, &all));
    assert_true(g.calls > calls);
    kd_cache_destroy(cache);
    kd_model_destroy(copy);
    kd_model_destroy(m);
    kd_close(kd);
    assert_int_equal(g.strangers, 0);
}

static int crowd, most_of_crowd; /* in an allocator at once */

static void *crowded_alloc(void *user, size_t size)
{
    const int now = __atomic_add_fetch(&crowd, 1, __ATOMIC_SEQ_CST);
    (void)user;
    if (now > __atomic_load_n(&most_of_crowd, __ATOMIC_SEQ_CST))
        __atomic_store_n(&most_of_crowd, now, __ATOMIC_SEQ_CST);
    rest(5);
    (void)__atomic_sub_fetch(&crowd, 1, __ATOMIC_SEQ_CST);
    return malloc(size);
}

static void crowded_free(void *user, void *block, size_t size)
{
    (void)user, (void)size;
    free(block);
}

static void *ask_once(void *user)
{
    asker *a = (asker *)user;
    a->faults = kd_predict(a->m, a->s->x, IMAGES, a->logits) != KD_OK;
    return NULL;
}

/* Threads that predict with one model do call it at once: that is what its description warns of. */
static void test_allocator_crowd(void **state)
{
    static asker a[4];
    kd_ctx_desc desc = kd_ctx_defaults();
    pthread_t ids[4];
    kd_ctx *kd;
    kd_model *m;
    samples s;
    int i;
    (void)state;
    make_samples(&s);
    desc.allocator.alloc = crowded_alloc, desc.allocator.free = crowded_free;
    assert_int_equal(kd_open(&desc, &kd), KD_OK);
    m = create(kd);
    assert_int_equal(most_of_crowd, 1);
    for (i = 0; i < 4; ++i) {
        a[i].m = m, a[i].s = &s;
        assert_int_equal(pthread_create(&ids[i], NULL, ask_once, &a[i]), 0);
    }
    for (i = 0; i < 4; ++i) {
        assert_int_equal(pthread_join(ids[i], NULL), 0);
        assert_int_equal(a[i].faults, 0);
    }
    assert_true(most_of_crowd > 1);
    kd_model_destroy(m);
    kd_close(kd);
}

/* A copy in another context, made while others predict; then trained on a thread of its own, and brought back. */
typedef struct learner {
    kd_ctx *kd;
    kd_model *m;
    samples *s;
    kd_result result;
} learner;

static void *learn(void *user)
{
    learner *l = (learner *)user;
    kd_train_desc desc = kd_train_defaults();
    desc.epochs = 2, desc.batch = 48;
    l->result = kd_train(l->m, &l->s->data, &desc);
    return NULL;
}

static void test_clone_to(void **state)
{
    static asker a[2];
    static float wanted[IMAGES * CLASSES];
    static const char *const names[] = {"a", "b", "c", "d"};
    const float mean[] = {0.5f}, std[] = {0.25f};
    float one[1], other[1];
    samples s;
    pthread_t ids[3];
    kd_ctx *kd = test_open(KD_ISA_AUTO, 2);
    kd_model *m = create(kd), *back;
    learner l;
    int i;
    (void)state;
    make_samples(&s);
    assert_ok(kd, kd_model_set_classes(m, names, CLASSES));
    assert_ok(kd, kd_predict(m, s.x, IMAGES, wanted));
    for (i = 0; i < 2; ++i) {
        a[i].m = m, a[i].s = &s;
        assert_int_equal(pthread_create(&ids[i], NULL, ask, &a[i]), 0);
    }
    l.s = &s;
    l.kd = test_open(KD_ISA_AUTO, 2);
    assert_ok(l.kd, kd_model_clone_to(m, l.kd, &l.m));
    assert_true(l.m->kd == l.kd && kd_model_hash(l.m) == kd_model_hash(m));
    assert_int_equal(pthread_create(&ids[2], NULL, learn, &l), 0);
    for (i = 0; i < 3; ++i) assert_int_equal(pthread_join(ids[i], NULL), 0);
    for (i = 0; i < 2; ++i) assert_memory_equal(a[i].logits, wanted, sizeof wanted);
    assert_ok(l.kd, l.result);
    assert_true(kd_model_hash(l.m) == train(kd, &s));
    assert_ok(l.kd, kd_model_set_preprocessing(l.m, mean, std));
    assert_ok(kd, kd_model_clone_to(l.m, kd, &back));
    assert_true(kd_model_hash(back) == kd_model_hash(l.m) && kd_model_hash(back) != kd_model_hash(m));
    kd_model_destroy(l.m);
    kd_close(l.kd);
    assert_string_equal(kd_model_class(back, 3), "d");
    assert_int_equal(kd_model_preprocessing(back, one, other), 1);
    assert_true(one[0] == mean[0] && other[0] == std[0]);
    kd_model_destroy(back);
    assert_fails(kd, kd_model_clone_to(NULL, kd, &back), KD_ERR_ARGUMENT, "kd_model_clone_to: m");
    assert_null(back);
    assert_fails(kd, kd_model_clone_to(m, kd, NULL), KD_ERR_ARGUMENT, "kd_model_clone_to: m");
    assert_int_equal(kd_model_clone_to(m, NULL, &back), KD_ERR_ARGUMENT);
    kd_model_destroy(m);
    kd_close(kd);
}

/* ---- starting and ending --------------------------------------------------------------------------------- */

static char logged[512];

static void keep_line(void *user, const char *line)
{
    (void)user;
    snprintf(logged, sizeof logged, "%s", line);
}

static void test_open_and_close(void **state)
{
    int i, joined = hook.joined, started = hook.started;
    tally *t = open_tally();
    (void)state;
    for (i = 0; i < 200; ++i) {
        kd_ctx *kd = test_open(KD_ISA_AUTO, 1 + i % 5);
        if (i % 2) run_region(kd, t, i);
        if (i % 50 == 49) rest(2);
        kd_close(kd);
    }
    assert_int_equal(hook.started - started, 400);
    assert_int_equal(hook.joined - joined, 400);
    assert_int_equal(hook.stack, KD__STACK);
    free(t);
}

/* Many contexts at a time, in use by turns. */
static void test_many_contexts(void **state)
{
    kd_ctx *kd[12];
    tally *t = open_tally();
    int i, round;
    (void)state;
    for (i = 0; i < KD__COUNT(kd); ++i) kd[i] = test_open(KD_ISA_AUTO, 3);
    for (round = 0; round < 30; ++round) {
        for (i = 0; i < KD__COUNT(kd); ++i) run_region(kd[i], t, 10 + i);
    }
    for (i = 0; i < KD__COUNT(kd); ++i) kd_close(kd[i]);
    free(t);
}

/* Threads that cannot be started: it goes on with the others and says so, or fails where that is asked for; nothing
   is lost either way. */
static void test_fewer_threads(void **state)
{
    int limit;
    samples s;
    kd_ctx *one = test_open(KD_ISA_AUTO, 1);
    const uint64_t wanted = (make_samples(&s), train(one, &s));
    (void)state;
    for (limit = 0; limit < 5; ++limit) {
        test_memory memory = {0};
        const int had = hook.started - hook.joined;
        char words[64];
        kd_ctx_desc desc = kd_ctx_defaults();
        kd_ctx *kd;
        desc.allocator.alloc = test_memory_alloc, desc.allocator.free = test_memory_free;
        desc.allocator.user = &memory;
        desc.threads = 5;
        desc.log = keep_line;
        logged[0] = 0;
        hook.limit = limit;
        assert_int_equal(kd_open(&desc, &kd), KD_OK);
        assert_int_equal(kd_ctx_threads(kd), 1 + limit);
        snprintf(words, sizeof words, "kd_open: %d of 5 threads could be started", 1 + limit);
        if (limit < 4)
            assert_non_null(strstr(logged, words));
        else
            assert_string_equal(logged, "");
        assert_true(train(kd, &s) == wanted);
        kd_close(kd);
        desc.threads_strict = 1;
        hook.limit = limit;
        assert_int_equal(kd_open(&desc, &kd), limit < 4 ? KD_ERR_UNSUPPORTED : KD_OK);
        if (limit < 4) assert_null(kd);
        kd_close(kd);
        hook.limit = -1;
        assert_int_equal(memory.blocks, 0);
        assert_int_equal(memory.wrong_sizes, 0);
        assert_int_equal(hook.started - hook.joined, had);
    }
    kd_close(one);
}

static void test_no_memory_for_threads(void **state)
{
    int i;
    (void)state;
    for (i = 1; i <= 2; ++i) {
        test_memory memory = {0};
        kd_ctx_desc desc = kd_ctx_defaults();
        kd_ctx *kd;
        desc.allocator.alloc = test_memory_alloc, desc.allocator.free = test_memory_free;
        desc.allocator.user = &memory;
        desc.threads = 4;
        memory.refuse_at = i;
        assert_int_equal(kd_open(&desc, &kd), KD_ERR_MEMORY);
        assert_null(kd);
        assert_int_equal(memory.blocks, 0);
    }
}

/* Threads without work cost no time: looking out for it ends after some microseconds. */
static void test_idle_threads_sleep(void **state)
{
    kd_ctx *kd = test_open(KD_ISA_AUTO, 8);
    tally *t = open_tally();
    clock_t used;
    int i;
    (void)state;
    run_region(kd, t, 100);
    rest(100);
    used = clock();
    rest(300);
    assert_true(clock() - used < CLOCKS_PER_SEC / 20);
    for (i = 1; i < 8; ++i) assert_int_equal(kd__atomic_load(&kd->pool->workers[i].state), KD__ASLEEP);
    run_region(kd, t, 100);
    kd_close(kd);
    free(t);
}

static void look_at_signals(void *arg, int index, int worker)
{
    sigset_t blocked;
    (void)index;
    if (pthread_sigmask(SIG_BLOCK, NULL, &blocked) == 0 && sigismember(&blocked, SIGINT) != (worker > 0))
        __atomic_fetch_add((int *)arg, 1, __ATOMIC_RELAXED);
    rest(1);
}

/* A signal is for the program's own threads. */
static void test_signals(void **state)
{
    kd_ctx *kd = test_open(KD_ISA_AUTO, 4);
    int faults = 0;
    (void)state;
    kd__parallel(kd, 40, look_at_signals, &faults);
    assert_int_equal(faults, 0);
    kd_close(kd);
}

/* ---- fork ------------------------------------------------------------------------------------------------ */

#ifndef NO_FORK
/* What a child does with a parent's context and with its own. Returns what went wrong, 0: nothing. */
static int child(kd_ctx *kd, const kd_model *m, samples *s, const float *wanted, uint64_t hash)
{
    static float logits[IMAGES * CLASSES];
    kd_ctx_desc desc = kd_ctx_defaults();
    kd_ctx *own;
    if (kd_ctx_threads(kd) != 1) return 1;
    if (kd_predict(m, s->x, IMAGES, logits) != KD_OK || memcmp(logits, wanted, sizeof logits) != 0) return 2;
    if (train(kd, s) != hash) return 3;
    desc.threads = 4;
    if (kd_open(&desc, &own) != KD_OK || kd_ctx_threads(own) != 4) return 4;
    if (train(own, s) != hash) return 5;
    kd_close(own);
    kd_close(kd);
    return 0;
}

static void test_fork(void **state)
{
    static float wanted[IMAGES * CLASSES];
    samples s;
    kd_ctx *kd = test_open(KD_ISA_AUTO, 4);
    kd_model *m = create(kd);
    uint64_t hash;
    int i, status;
    (void)state;
    make_samples(&s);
    hash = train(kd, &s);
    for (i = 0; i < 12; ++i) {
        pid_t id;
        assert_ok(kd, kd_predict(m, s.x, IMAGES, wanted));
        if (i % 2) rest(2); /* asleep, or still looking */
        id = fork();
        assert_true(id >= 0);
        if (id == 0) {
            alarm(60); /* rather than hang */
            _exit(child(kd, m, &s, wanted, hash));
        }
        assert_true(train(kd, &s) == hash); /* meanwhile, the parent goes on */
        assert_true(waitpid(id, &status, 0) == id);
        assert_true(WIFEXITED(status));
        assert_int_equal(WEXITSTATUS(status), 0);
    }
    kd_model_destroy(m);
    kd_close(kd);
}
#endif
#endif

/* ---- processors ------------------------------------------------------------------------------------------ */

static void test_cpu_count(void **state)
{
    (void)state;
    assert_in_range(kd_cpu_count(), 1, 256);
#if KD__THREADS && defined(__linux__) && defined(_SC_NPROCESSORS_ONLN)
    assert_true(kd_cpu_count() <= sysconf(_SC_NPROCESSORS_ONLN));
    if (system("command -v taskset >/dev/null") == 0) {
        char line[64];
        int status;
        snprintf(line, sizeof line, "taskset -p -c 0 %ld >/dev/null", (long)getpid());
        status = system(line);
        if (status == 0) assert_int_equal(kd_cpu_count(), 1);
        snprintf(line, sizeof line, "taskset -p -c 0-1023 %ld >/dev/null", (long)getpid());
        assert_int_equal(system(line), status);
    }
#endif
}

#if KD__THREADS && defined(__linux__)
static char folder[] = P_tmpdir "/kd-threads-XXXXXX";

/* A file below the test's folder, whose own folders are made. */
static void put(const char *name, const char *text)
{
    char path[300], *slash;
    FILE *file;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    for (slash = path + strlen(folder) + 1; (slash = strchr(slash, '/')) != NULL; *slash++ = '/') {
        *slash = 0;
        (void)mkdir(path, 0700);
    }
    file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    assert_int_equal(fclose(file), 0);
}

static int quota_of(const char *groups)
{
    char path[64];
    put("groups", groups);
    snprintf(path, sizeof path, "%s/groups", folder);
    return kd__cpu_quota(path, folder);
}

static void test_quota(void **state)
{
    char command[64];
    (void)state;
    assert_non_null(mkdtemp(folder));
    assert_int_equal(kd__cpu_quota("no/such/file", folder), 0);
    put("a/b/c/cpu.max", "max 100000\n");
    assert_int_equal(quota_of("0::/a/b/c\n"), 0);
    put("a/cpu.max", "250000 100000\n");
    assert_int_equal(quota_of("0::/a/b/c\n"), 3); /* of a group above; part of a processor is one */
    put("a/b/cpu.max", "100000 100000\n");
    assert_int_equal(quota_of("0::/a/b/c\n"), 1);
    assert_int_equal(quota_of("0::/a\n"), 3);
    assert_int_equal(quota_of("0::/\n"), 0);
    assert_int_equal(quota_of("0::/not/here\n"), 0);
    put("cpu.max", "1000 100000\n"); /* where a container's own group is mounted */
    assert_int_equal(quota_of("0::/not/here\n"), 1);
    put("cpu.max", "nonsense");
    assert_int_equal(quota_of("0::/\n"), 0);
    put("cpu/x/cpu.cfs_quota_us", "-1\n");
    put("cpu/x/cpu.cfs_period_us", "100000\n");
    assert_int_equal(quota_of("4:cpu,cpuacct:/x\n0::/\n"), 0);
    put("cpu/x/cpu.cfs_quota_us", "400000\n");
    assert_int_equal(quota_of("4:cpu,cpuacct:/x\n0::/\n"), 4);
    assert_int_equal(quota_of("4:cpuacct,cpu:/x\n"), 4);
    assert_int_equal(quota_of("4:cpu:/x/y\n"), 4);
    assert_int_equal(quota_of("4:cpuset:/x\n3:cpuacct:/cpu,/x\n"), 0);
    assert_int_equal(quota_of("4:cpu:/x\n0::/a\n"), 3);
    assert_int_equal(quota_of("garbage\n\n::\n"), 0);
    snprintf(command, sizeof command, "rm -r %s", folder);
    assert_int_equal(system(command), 0);
}
#endif

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_task_once),
        cmocka_unit_test(test_short_regions),
#if KD__THREADS
        cmocka_unit_test(test_threads_put_aside),
        cmocka_unit_test(test_regions_at_once),
        cmocka_unit_test(test_predictions_at_once),
        cmocka_unit_test(test_softmax_at_once),
        cmocka_unit_test(test_allocator_thread),
        cmocka_unit_test(test_allocator_crowd),
        cmocka_unit_test(test_clone_to),
        cmocka_unit_test(test_open_and_close),
        cmocka_unit_test(test_many_contexts),
        cmocka_unit_test(test_fewer_threads),
        cmocka_unit_test(test_no_memory_for_threads),
        cmocka_unit_test(test_idle_threads_sleep),
        cmocka_unit_test(test_signals),
#ifndef NO_FORK
        cmocka_unit_test(test_fork),
#endif
#endif
        cmocka_unit_test(test_cpu_count),
#if KD__THREADS && defined(__linux__)
        cmocka_unit_test(test_quota),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
