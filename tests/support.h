/* support.h - what every test program shares: cmocka, the library seen from inside, random numbers, contexts */
#ifndef KD_TESTS_SUPPORT_H
#define KD_TESTS_SUPPORT_H

#define KD_IMPLEMENTATION
#include "../kd.h"

#include <setjmp.h>
#include <cmocka.h>
#include <unistd.h>

/* Uniform in [-1, 1), the same on every machine. */
static float test_random(uint64_t *state)
{
    *state += 1;
    return (float)(kd__rng_unit(*state, 77) * 2 - 1);
}

KD__PRIVATE float *test_floats(uint64_t seed, size_t count, float scale)
{
    float *x = (float *)calloc(count + 1, sizeof *x);
    uint64_t state = seed << 32;
    size_t i;
    for (i = 0; i < count; ++i) x[i] = test_random(&state) * scale;
    return x;
}

/* Random bytes, and as random ones behind them, which must stay what they are. */
enum { TEST_SLACK = 128 };
KD__PRIVATE uint8_t *test_bytes(uint64_t seed, size_t count)
{
    uint8_t *x = (uint8_t *)calloc(count + TEST_SLACK, 1);
    size_t i;
    for (i = 0; i < count + TEST_SLACK; ++i) x[i] = (uint8_t)kd__rng_bits(seed, i);
    return x;
}

KD__PRIVATE kd_ctx *test_open(kd_isa isa, int threads)
{
    kd_ctx_desc desc = kd_ctx_defaults();
    kd_ctx *kd;
    desc.isa = isa;
    desc.threads = threads;
    assert_int_equal(kd_open(&desc, &kd), KD_OK);
    return kd;
}

/* An allocator that keeps books: what is out and was at most, how large the largest request was, whether every
   block came back with the size it was asked for. Its refuse_at-th request from now is refused, 0: none; for_good:
   all after it, too. */
typedef struct test_memory {
    size_t bytes, largest, peak;
    int blocks, requests, refuse_at, for_good, wrong_sizes;
} test_memory;

enum { TEST_MEMORY_HEAD = 16 }; /* the size stands in front of the block */

KD__PRIVATE void *test_memory_alloc(void *user, size_t size)
{
    test_memory *memory = (test_memory *)user;
    char *start;
    ++memory->requests;
    memory->largest = KD__MAX(memory->largest, size);
    if (memory->refuse_at > 0 && --memory->refuse_at == 0) memory->refuse_at = -1;
    if (memory->refuse_at < 0) {
        if (!memory->for_good) memory->refuse_at = 0;
        return NULL;
    }
    start = size < (size_t)1 << 30 ? (char *)malloc(size + TEST_MEMORY_HEAD) : NULL;
    if (!start) return NULL;
    memcpy(start, &size, sizeof size);
    memory->bytes += size;
    memory->peak = KD__MAX(memory->peak, memory->bytes);
    ++memory->blocks;
    return start + TEST_MEMORY_HEAD;
}

KD__PRIVATE void test_memory_free(void *user, void *ptr, size_t size)
{
    test_memory *memory = (test_memory *)user;
    size_t asked;
    memcpy(&asked, (char *)ptr - TEST_MEMORY_HEAD, sizeof asked);
    memory->wrong_sizes += asked != size;
    memory->bytes -= asked;
    --memory->blocks;
    free((char *)ptr - TEST_MEMORY_HEAD);
}

KD__PRIVATE kd_ctx_desc test_memory_desc(test_memory *memory)
{
    kd_ctx_desc desc = kd_ctx_defaults();
    memset(memory, 0, sizeof *memory);
    desc.allocator.alloc = test_memory_alloc;
    desc.allocator.free = test_memory_free;
    desc.allocator.user = memory;
    return desc;
}

/* Closes the context, after which nothing may be out. */
KD__PRIVATE void test_memory_close(kd_ctx *kd, const test_memory *memory)
{
    kd_close(kd);
    assert_int_equal(memory->blocks, 0);
    assert_int_equal(memory->bytes, 0);
    assert_int_equal(memory->wrong_sizes, 0);
}

/* The next instruction set after `isa` that this machine can run, KD_ISA_COUNT at the end. Skips are counted. */
static int test_isas_skipped[KD_ISA_COUNT];
KD__PRIVATE kd_isa test_next_isa(kd_isa isa)
{
    int next = (int)isa + 1;
    for (; next < KD_ISA_COUNT && !kd_isa_available((kd_isa)next); ++next) ++test_isas_skipped[next];
    return (kd_isa)next;
}

/* Lines that begin with "skip" are counted and shown by tests/run.sh and tests/ci.sh. */
KD__PRIVATE void test_print_skips(const char *program)
{
    int i;
    for (i = 0; i < KD_ISA_COUNT; ++i) {
        if (test_isas_skipped[i])
            printf("skip  %s: %d runs with %s, which this machine lacks\n", program, test_isas_skipped[i],
                   kd_isa_name((kd_isa)i));
    }
}
#define FOR_EACH_ISA(isa) for (isa = test_next_isa(KD_ISA_AUTO); isa < KD_ISA_COUNT; isa = test_next_isa(isa))

#define assert_ok(kd, call)                                                                                        \
    do {                                                                                                           \
        const kd_result result_ = (call);                                                                          \
        if (result_ != KD_OK) fail_msg("%s: %s: %s", #call, kd_result_name(result_), kd_error(kd));                \
    } while (0)

/* The call fails with this result, and the message has this text in it. */
#define assert_fails(kd, call, wanted, text)                                                                       \
    do {                                                                                                           \
        const kd_result result_ = (call);                                                                          \
        if (result_ != (wanted))                                                                                   \
            fail_msg("%s: got %s (%s), wanted %s", #call, kd_result_name(result_), kd_error(kd),                   \
                     kd_result_name(wanted));                                                                      \
        if (!strstr(kd_error(kd), text))                                                                           \
            fail_msg("%s: the message \"%s\" does not say \"%s\"", #call, kd_error(kd), text);                     \
    } while (0)

/* |a - b| <= tolerance * (1 + |b|) */
#define assert_near(a, b, tolerance)                                                                               \
    do {                                                                                                           \
        const double a_ = (double)(a), b_ = (double)(b);                                                           \
        if (!(fabs(a_ - b_) <= (tolerance) * (1 + fabs(b_))))                                                      \
            fail_msg("%s:%d: %s is %.9g, expected %.9g", __FILE__, __LINE__, #a, a_, b_);                          \
    } while (0)

#endif /* KD_TESTS_SUPPORT_H */
