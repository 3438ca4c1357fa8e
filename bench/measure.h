/* measure.h - contestants timed side by side, a table for people, JSON for programs, the machine's FMA peak

   All contestants of a case run in turn, round after round, each round starting with another one, so that whatever
   disturbs the machine disturbs all of them. Times are medians; a ratio is the median of the rounds' ratios. */
#ifndef KD_BENCH_MEASURE_H
#define KD_BENCH_MEASURE_H

#define KD_IMPLEMENTATION
#include "../kd.h"

#include <time.h>

enum { MAX_CONTESTANTS = 8, MAX_ROUNDS = 99 };

/* ---- options --------------------------------------------------------------------------------------------- */

static struct {
    int quick, threads, rounds;
    double least; /* seconds that one measurement takes at least */
    const char *only, *wanted, *json;
    kd_isa isa;
} options = {0, 1, 9, 0.005, "", "", NULL, KD_ISA_AUTO};

/* ---- things that must work ------------------------------------------------------------------------------- */

static void KD__PRINTF(1, 2) __attribute__((noreturn)) fail(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fflush(stdout);
    fputs("bench: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    exit(1);
}

static void need(const kd_ctx *kd, kd_result result)
{
    if (result < 0) fail("%s: %s", kd_result_name(result), kd_error(kd));
}

static kd_ctx *open_context(kd_isa isa, int threads)
{
    kd_ctx_desc desc = kd_ctx_defaults();
    kd_ctx *kd;
    kd_result result;
    desc.isa = isa;
    desc.threads = threads;
    result = kd_open(&desc, &kd);
    if (result != KD_OK) fail("kd_open: %s", kd_result_name(result));
    return kd;
}

static void *memory(size_t bytes)
{
    void *data = malloc(bytes + 1);
    if (!data) fail("out of memory");
    memset(data, 0, bytes + 1);
    return data;
}

/* Uniform in [-1, 1). */
static float *random_floats(uint64_t seed, size_t count)
{
    float *x = (float *)memory(count * sizeof *x);
    size_t i;
    for (i = 0; i < count; ++i) x[i] = (float)kd__rng_range(seed, i, -1, 1);
    return x;
}

/* Two contestants must have computed the same, or their times mean nothing. */
static void compare(const char *name, const char *what, const float *got, const float *wanted, size_t count,
                    double tolerance)
{
    size_t i;
    for (i = 0; i < count; ++i) {
        if (!(fabs((double)got[i] - (double)wanted[i]) <= tolerance * (1 + fabs((double)wanted[i]))))
            fail("%s differs from kd on %s: number %zu is %.9g, kd has %.9g", name, what, i, (double)got[i],
                 (double)wanted[i]);
    }
}

/* ---- timing ---------------------------------------------------------------------------------------------- */

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

typedef struct contestant {
    const char *name;
    void (*run)(void *arg);
    void *arg;
    double work; /* of one call, in what the unit counts: flops, bytes, images */
} contestant;

typedef struct spread {
    double median, low, high; /* low, high: quartiles */
} spread;

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static spread spread_of(const double *values, int count)
{
    double sorted[MAX_ROUNDS];
    spread s;
    memcpy(sorted, values, (size_t)count * sizeof *values);
    qsort(sorted, (size_t)count, sizeof *sorted, by_value);
    s.median = sorted[count / 2];
    s.low = sorted[count / 4];
    s.high = sorted[count - 1 - count / 4];
    return s;
}

static double time_of(const contestant *c, long repeats)
{
    const double start = now();
    long i;
    for (i = 0; i < repeats; ++i) c->run(c->arg);
    return now() - start;
}

/* Calls in one measurement. The first one is counted only if it is a long one: it fills caches and allocates. */
static long repeats_of(const contestant *c)
{
    long repeats = 1;
    double seconds = time_of(c, 1);
    if (seconds > 10 * options.least) return 1;
    while ((seconds = time_of(c, repeats)) < options.least)
        repeats = seconds > options.least / 64 ? (long)((double)repeats * options.least * 1.2 / seconds) + 1
                                               : repeats * 8;
    return repeats;
}

/* ---- FMA peak -------------------------------------------------------------------------------------------- */

enum { PEAK_TURNS = 200000 };
static volatile float peak_sink;

/* Independent chains of multiply-adds, enough to hide the latency of one on every unit there is. */
#define PEAK_FUNCTION(isa, attribute, chains, vector, set, fma)                                                    \
    attribute static double peak_##isa(void)                                                                       \
    {                                                                                                              \
        const vector factor = set(0.5f), term = set(1.0f);                                                         \
        vector chain[chains];                                                                                      \
        float sum[sizeof(vector) / sizeof(float)];                                                                 \
        int i, turn;                                                                                               \
        KD__PRAGMA(GCC unroll 16)                                                                                  \
        for (i = 0; i < (chains); ++i) chain[i] = set((float)i + peak_sink);                                       \
        for (turn = 0; turn < PEAK_TURNS; ++turn) KD__PRAGMA(GCC unroll 16)                                        \
        for (i = 0; i < (chains); ++i) chain[i] = fma(chain[i], factor, term);                                     \
        for (i = 0; i < (chains); ++i) {                                                                           \
            memcpy(sum, &chain[i], sizeof sum);                                                                    \
            peak_sink = sum[0];                                                                                    \
        }                                                                                                          \
        return 2.0 * PEAK_TURNS * (chains) * (double)(sizeof(vector) / sizeof(float));                             \
    }

#if KD__X86
PEAK_FUNCTION(avx2, __attribute__((target("avx2,fma"))), 12, __m256, _mm256_set1_ps, _mm256_fmadd_ps)
PEAK_FUNCTION(avx512, __attribute__((target("avx512f"))), 12, __m512, _mm512_set1_ps, _mm512_fmadd_ps)
#endif
#if KD__NEON
#define PEAK_NEON_FMA(x, factor, term) vfmaq_f32(term, x, factor)
PEAK_FUNCTION(neon, , 16, float32x4_t, vdupq_n_f32, PEAK_NEON_FMA)
#endif

static double (*peak_function(kd_isa isa))(void)
{
    switch (isa) {
#if KD__X86
    case KD_ISA_AVX2: return peak_avx2;
    case KD_ISA_AVX512: return peak_avx512;
#endif
#if KD__NEON
    case KD_ISA_NEON: return peak_neon;
#endif
    default: return NULL;
    }
}

/* Floating-point operations a second that so many cores can do, 0 where unknown. Measured again at every call,
   since clocks change; the best of all counts. */
static double peak_flops(kd_isa isa, int threads)
{
    static double best[KD_ISA_COUNT];
    double (*const run)(void) = peak_function(isa);
    int i;
    for (i = 0; i < 3 && run; ++i) {
        const double start = now(), flops = run();
        best[isa] = KD__MAX(best[isa], flops / (now() - start));
    }
    return best[isa] * threads;
}

/* ---- results --------------------------------------------------------------------------------------------- */

typedef struct bench_case {
    const char *group, *name, *unit;
    double scale; /* results are work / time / scale; 0: they are time / work, and less is better */
    int threads;
    kd_isa isa;
    int has_peak; /* work is counted in floating-point operations */
} bench_case;

/* Whether the options ask for this case; quick cases are those that --quick keeps. */
static int wanted(const char *group, const char *name, int quick)
{
    if (options.quick && !quick) return 0;
    return (!options.only[0] || strcmp(options.only, group) == 0) && strstr(name, options.wanted);
}

/* The names over the columns, where they are other ones than those of the case before. */
static void print_heading(const bench_case *b, const contestant *c, int count, int has_peers)
{
    static char shown[500];
    char heading[500];
    int used, i;
    used = snprintf(heading, sizeof heading, "\n%s: %s, %s, %d thread%s\n%-36s %9s", b->group, b->unit,
                    kd_isa_name(b->isa), b->threads, b->threads > 1 ? "s" : "", "", "kd");
    for (i = 1; i < count; ++i) used += snprintf(heading + used, sizeof heading - (size_t)used, " %11s", c[i].name);
    if (has_peers) snprintf(heading + used, sizeof heading - (size_t)used, "    kd / best peer [quartiles]");
    if (strcmp(shown, heading) == 0) return;
    memcpy(shown, heading, sizeof shown);
    puts(heading);
}

/* One more object in the array that the file holds. The file is valid after every one of them. */
static void append_json(const char *object)
{
    FILE *file;
    long end;
    if (!options.json) return;
    file = fopen(options.json, "r+");
    if (!file) file = fopen(options.json, "w+");
    if (!file) fail("%s cannot be written", options.json);
    fseek(file, 0, SEEK_END);
    for (end = ftell(file); end > 0; --end) {
        fseek(file, end - 1, SEEK_SET);
        if (fgetc(file) == ']') break;
    }
    fseek(file, end > 0 ? end - 1 : 0, SEEK_SET);
    while (end > 1) { /* the newline before the bracket */
        fseek(file, end - 2, SEEK_SET);
        if (fgetc(file) != '\n') break;
        --end;
    }
    fseek(file, end > 0 ? end - 1 : 0, SEEK_SET);
    fprintf(file, "%s\n%s\n]\n", end > 0 ? "," : "[", object);
    if (fclose(file) != 0) fail("%s cannot be written", options.json);
}

static double rate_of(const bench_case *b, const contestant *c, double seconds)
{
    return b->scale > 0 ? c->work / seconds / b->scale : seconds / c->work;
}

/* Prints and records what was measured: value[0] is kd's, the others its peers'. ratio: kd ahead of the best peer,
   index `best` (0: no peer). */
static void report(const bench_case *b, const contestant *c, int count, const double *value, int best,
                   const spread *ratio, double of_peak)
{
    char object[2000];
    int used, i;
    print_heading(b, c, count, best);
    printf("%-36s %9.4g", b->name, value[0]);
    for (i = 1; i < count; ++i) printf(" %*.4g", (int)KD__MAX(strlen(c[i].name), (size_t)11), value[i]);
    if (best) printf("    %.2f [%.2f %.2f] %s", ratio->median, ratio->low, ratio->high, c[best].name);
    if (of_peak > 0) printf(", %.0f%% of peak", 100 * of_peak);
    putchar('\n');
    fflush(stdout);
    used = snprintf(object, sizeof object,
                    "{\"group\": \"%s\", \"case\": \"%s\", \"threads\": %d, \"isa\": \"%s\", \"unit\": \"%s\", "
                    "\"kd\": %.6g, \"peers\": {",
                    b->group, b->name, b->threads, kd_isa_name(b->isa), b->unit, value[0]);
    for (i = 1; i < count; ++i)
        used += snprintf(object + used, sizeof object - (size_t)used, "%s\"%s\": %.6g", i > 1 ? ", " : "",
                         c[i].name, value[i]);
    used += snprintf(object + used, sizeof object - (size_t)used, "}, \"ratio_best_peer\": ");
    if (best)
        used += snprintf(object + used, sizeof object - (size_t)used,
                         "%.4g, \"ratio_quartiles\": [%.4g, %.4g], \"best_peer\": \"%s\"", ratio->median,
                         ratio->low, ratio->high, c[best].name);
    else
        used += snprintf(object + used, sizeof object - (size_t)used, "null");
    used += snprintf(object + used, sizeof object - (size_t)used, ", \"fraction_of_peak\": ");
    if (of_peak > 0)
        snprintf(object + used, sizeof object - (size_t)used, "%.4g}", of_peak);
    else
        snprintf(object + used, sizeof object - (size_t)used, "null}");
    append_json(object);
}

/* Runs a case: c[0] is kd. Returns by how much kd is ahead of the best peer, 0 without peers. */
static double measure(const bench_case *b, const contestant *c, int count)
{
    static double times[MAX_CONTESTANTS][MAX_ROUNDS];
    long repeats[MAX_CONTESTANTS];
    double value[MAX_CONTESTANTS], ratios[MAX_ROUNDS], seconds = 0, of_peak = 0;
    spread ratio = {0, 0, 0};
    int i, round, best = 0;
    for (i = 0; i < count; ++i) repeats[i] = repeats_of(&c[i]);
    for (round = 0; round < options.rounds; ++round) {
        for (i = 0; i < count; ++i) {
            const int who = (i + round) % count;
            times[who][round] = time_of(&c[who], repeats[who]) / (double)repeats[who];
        }
    }
    for (i = 0; i < count; ++i) {
        const double median = spread_of(times[i], options.rounds).median;
        value[i] = rate_of(b, &c[i], median);
        if (i == 0 && b->has_peak) of_peak = c->work / median;
        if (i > 0 && (best == 0 || median / c[i].work < seconds)) best = i, seconds = median / c[i].work;
    }
    if (best) {
        for (round = 0; round < options.rounds; ++round)
            ratios[round] = times[best][round] / c[best].work / (times[0][round] / c[0].work);
        ratio = spread_of(ratios, options.rounds);
    }
    if (b->has_peak && peak_function(b->isa))
        of_peak /= peak_flops(b->isa, b->threads);
    else
        of_peak = 0;
    report(b, c, count, value, best, &ratio, of_peak);
    return ratio.median;
}

#endif /* KD_BENCH_MEASURE_H */
