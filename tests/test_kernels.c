/* Every kernel of KD__KERNELS on every instruction set of this machine, and what is built directly on them: against
   a reference, at every size from 1 to 65, beside fences, and with the same bits on every machine.
   KD__KERNELS is the list of tests: a kernel that has no function check_<name> here does not link. */
#include "support.h"
#include "reference.h"
#include <float.h>

#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#elif defined(__GNUC__)
#pragma GCC optimize("fp-contract=off") /* references are rounded as written */
#endif

/* ---- memory between fences ------------------------------------------------------------------------------- */

/* An array ends where the next page cannot be touched (or starts where the one before cannot), which also catches
   the masked loads and stores that a sanitizer does not see. On the open side are canaries: NaNs that must stay,
   and that spoil any result they get into. */
enum { FENCES = 12, FENCE_FLOATS = 1 << 17, CANARIES = 64, SIZES = 65 };

static struct fence {
    float *first, *at;
    size_t count;
} fences[FENCES];
static int fences_used, fences_at_front;

static float canary(void)
{
    const uint32_t bits = 0x7fc0beefu;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static void fill(float *x, size_t count, float value)
{
    size_t i;
    for (i = 0; i < count; ++i) x[i] = value;
}

#if defined(_WIN32)
static void *fence_pages(size_t bytes) { return calloc(1, bytes); }
#else
#include <sys/mman.h>
static void *fence_pages(size_t bytes)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    char *all = (char *)mmap(NULL, bytes + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(all != MAP_FAILED);
    assert_int_equal(mprotect(all + page, bytes, PROT_READ | PROT_WRITE), 0);
    return all + page;
}
#endif

static float *fence(size_t count)
{
    struct fence *f = &fences[fences_used++];
    assert_true(fences_used <= FENCES && count + CANARIES <= FENCE_FLOATS);
    if (!f->first) f->first = (float *)fence_pages(FENCE_FLOATS * sizeof(float));
    f->at = fences_at_front ? f->first : f->first + FENCE_FLOATS - count;
    f->count = count;
    fill(fences_at_front ? f->at : f->at - CANARIES, count + CANARIES, canary());
    return f->at;
}

static char where[256]; /* what is being tested, for messages */

static int same_bits(const float *a, const float *b, size_t count) { return memcmp(a, b, count * sizeof *a) == 0; }

/* Ends a case: nothing was written outside, and all fences are free again. */
static void fences_done(void)
{
    static float canaries[CANARIES];
    fill(canaries, CANARIES, canary());
    while (fences_used > 0) {
        const struct fence *f = &fences[--fences_used];
        if (!same_bits(fences_at_front ? f->at + f->count : f->at - CANARIES, canaries, CANARIES))
            fail_msg("%s wrote outside of array %d, %s it", where, fences_used,
                     fences_at_front ? "after" : "before");
    }
}

/* ---- numbers --------------------------------------------------------------------------------------------- */

enum { POOL = 1 << 16 };
static float pool[POOL]; /* random in [-1, 1) */
static size_t pool_at;

static float number(void) { return pool[pool_at++ % POOL]; }

static void fill_random(float *x, size_t count, float scale)
{
    size_t i;
    for (i = 0; i < count; ++i) x[i] = number() * scale;
}

static float *numbers(size_t count, float scale)
{
    float *x = fence(count);
    fill_random(x, count, scale);
    return x;
}

/* Rows that are `row` floats apart, with canaries between them. */
static float *number_rows(int rows, int cols, ptrdiff_t row, float scale)
{
    float *x = fence((size_t)((rows - 1) * row + cols));
    int r;
    for (r = 0; r < rows; ++r) fill_random(x + r * row, (size_t)cols, scale);
    return x;
}

static float *copy_of(const float *x, size_t count)
{
    float *copy = fence(count);
    memcpy(copy, x, count * sizeof *x);
    return copy;
}

/* ---- comparing ------------------------------------------------------------------------------------------- */

static const char *isa_name;
static int fused; /* this instruction set has fused multiply-adds */
#define NO_DIGEST 0xcbf29ce484222325u
static uint64_t digest;

/* What a kernel wrote, as one number. */
static void digest_floats(const float *x, size_t count)
{
    size_t i;
    for (i = 0; i < count; ++i) {
        uint32_t bits;
        memcpy(&bits, &x[i], sizeof bits);
        digest = (digest ^ bits) * 0x100000001b3u;
    }
}

static void expect_bits(const float *got, const float *want, size_t count)
{
    size_t i;
    if (same_bits(got, want, count)) return;
    for (i = 0; same_bits(got + i, want + i, 1); ++i) {}
    fail_msg("%s on %s: number %zu of %zu is %.9g, expected %.9g", where, isa_name, i, count, (double)got[i],
             (double)want[i]);
}

/* |got - want| <= absolute + relative * |want|; then got joins the digest */
static void expect_near(const float *got, const double *want, size_t count, double relative, double absolute)
{
    size_t i;
    for (i = 0; i < count; ++i) {
        if (!(fabs((double)got[i] - want[i]) <= absolute + relative * fabs(want[i])))
            fail_msg("%s on %s: number %zu of %zu is %.9g, expected %.9g", where, isa_name, i, count,
                     (double)got[i], want[i]);
    }
    digest_floats(got, count);
}

static float fma_or_not(float a, float b, float c) { return fused ? fmaf(a, b, c) : a * b + c; }

/* Chains of multiply-adds are most of the time of these tests: where the processor has the instruction, without a
   call and a check for each. add_row: line += number * alpha * b, a link of each column's chain. add_chain: sum
   with a chain of `count`. */
#define CHAINS(prefix, row_name, chain_name, fma)                                                                  \
    prefix static void row_name(float *line, float number, float alpha, const float *b, ptrdiff_t step, int count) \
    {                                                                                                              \
        int i;                                                                                                     \
        for (i = 0; i < count; ++i) line[i] = fma(number, alpha * b[i * step], line[i]);                           \
    }                                                                                                              \
    prefix static float chain_name(float sum, const float *a, ptrdiff_t a_step, const float *b, ptrdiff_t b_step,  \
                                   int count)                                                                      \
    {                                                                                                              \
        for (; count > 0; --count, a += a_step, b += b_step) sum = fma(*a, *b, sum);                               \
        return sum;                                                                                                \
    }
CHAINS(__attribute__((no_sanitize("address", "undefined"))), add_row_anywhere, add_chain_anywhere, fma_or_not)
#if KD__X86
CHAINS(__attribute__((target("fma"), no_sanitize("address", "undefined"))), add_row_fused, add_chain_fused,
       __builtin_fmaf)
#define IN_ONE (fused && __builtin_cpu_supports("fma"))
#else
#define add_row_fused add_row_anywhere
#define add_chain_fused add_chain_anywhere
#define IN_ONE 0
#endif
#define add_row (IN_ONE ? add_row_fused : add_row_anywhere)
#define add_chain (IN_ONE ? add_chain_fused : add_chain_anywhere)

static float exact_act(int act, float arg, float x)
{
    switch (act) {
    case KD__RELU: return 0 > x ? 0 : x;
    case KD__RELU6: return 0 > x ? 0 : x < 6 ? x : 6;
    case KD__LEAKYRELU: return x < 0 ? x * arg : x;
    default: return x;
    }
}

/* ---- running a check ------------------------------------------------------------------------------------- */

/* What each kernel computes in these tests, as a digest: without and with fused multiply-adds. Whatever the
   compiler and the machine, these are the numbers: two machines train the same weights. A change of a kernel's
   arithmetic changes them; it must be meant. Kernels compared with their reference bit by bit need none. */
#define DIGESTS(X)                                                                                                 \
    X(dots, 0xb7cf2dffc1263539, 0x109ad9896d2b317e)                                                                \
    X(act, 0xd4c0fb21f565d4cb, 0xfb8c7fe5731eb602)                                                                 \
    X(act_grad, 0x5f88654c8decbe8a, 0x5d0764bae87145ee)                                                            \
    X(depthwise, 0x2131e4e36b82ed08, 0x27c919c2379a4159)                                                           \
    X(depthwise_input_grad, 0x0543d6702f7c4e55, 0xf459980c4cef182e)                                                \
    X(depthwise_weight_grad, 0x5d9b907fede18699, 0x6bf0b6a2bd0fde7e)                                               \
    X(winograd_read, 0x9d785d8dbd219b63, 0xab4345bfe967e94c)                                                       \
    X(winograd_read_grad, 0x4b7fa9dae53110a5, 0x3143a191d10ba7a3)                                                  \
    X(winograd_write, 0x2c61a06940376d7a, 0x6fe9e6175219c555)                                                      \
    X(winograd_weight, 0xcad6234dba6595c8, 0x4296b33f974fbceb)                                                     \
    X(winograd_weight_grad, 0x765dc77bb8803200, 0x872ebc17e7cf367d)                                                \
    X(maxpool, 0x96f988187fdaba37, 0x96f988187fdaba37)                                                             \
    X(maxpool_grad, 0x151e2b0839cd18b3, 0x151e2b0839cd18b3)                                                        \
    X(maxpool_places_grad, 0x3a85be0aa92c06cc, 0x3a85be0aa92c06cc)                                                 \
    X(avgpool, 0xe1d475cb2858fc63, 0xe1d475cb2858fc63)                                                             \
    X(avgpool_grad, 0xd4c8b32468450cc4, 0xd4c8b32468450cc4)                                                        \
    X(norm_stats, 0x9aa6fda332478108, 0x45efbeda8c02782d)                                                          \
    X(norm_apply, 0x9a5e1531094d6fb0, 0xeb59ebc328a7b392)                                                          \
    X(norm_grad_stats, 0x3809e0f978a1fb29, 0xda1ae0c7df5ca7be)                                                     \
    X(norm_grad, 0x4b95518632a13e8b, 0x4b95518632a13e8b)                                                           \
    X(softmax, 0x6f37299546cd2114, 0x19638e9cdf71b2f7)                                                             \
    X(layernorm, 0xaf11a21df92a8137, 0x820ec87cc1a58735)                                                           \
    X(layernorm_grad, 0xaf11a21df92a8137, 0x820ec87cc1a58735)                                                      \
    X(softmax_grad, 0x03f7fd5dd84ec279, 0x401a2f2319fef571)                                                        \
    X(log_mix, 0x4157e45fe5ed7fce, 0x88261f10eec30055)                                                             \
    X(row_loss, 0xc01b297dbd176c24, 0xab55bab5a38d5275)                                                            \
    X(mse_loss, 0xcf1a6f97a0bda75c, 0xa96d877fcb5abc7f)                                                            \
    X(bce_loss, 0x62e051f55bf1c745, 0x2daf9c9616f7909b)                                                            \
    X(sum_squares, 0x2166b46d9da65fe0, 0x2167556d9daa549c)                                                         \
    X(update, 0x669a663217587463, 0xfcc85202bdcf4409)                                                              \
    X(limit_norms, 0xc66e6c00bea61ab3, 0x44284a99a22e89a2)

typedef void (*check_fn)(const kd_ctx *kd);

static void expect_digest(const char *name)
{
#define DIGEST(kernel, plain_bits, fused_bits) {#kernel, {plain_bits, fused_bits}},
    static const struct {
        const char *name;
        uint64_t bits[2];
    } known[] = {DIGESTS(DIGEST)};
#undef DIGEST
    size_t i;
    if (FLT_EVAL_METHOD != 0 || digest == NO_DIGEST) return;
    for (i = 0; i < sizeof known / sizeof *known; ++i) {
        if (strcmp(known[i].name, name) == 0 && known[i].bits[fused] == digest) return;
    }
    fail_msg("%s on %s gives other bits than it did: digest %s is 0x%016llx", name, isa_name,
             fused ? "with fused multiply-adds" : "without fused multiply-adds", (unsigned long long)digest);
}

/* Twice each, with arrays that end at a fence and that start at one: which also moves them. */
static void on_every_isa(const char *name, check_fn check)
{
    kd_isa isa;
    FOR_EACH_ISA(isa)
    {
        kd_ctx *kd = test_open(isa, 1);
        isa_name = kd_isa_name(isa);
        fused = isa != KD_ISA_SCALAR;
        for (fences_at_front = 0; fences_at_front < 2; ++fences_at_front) {
            digest = NO_DIGEST;
            pool_at = 0;
            snprintf(where, sizeof where, "%s", name);
            check(kd);
            expect_digest(name);
        }
        kd_close(kd);
    }
}

/* ---- matrices -------------------------------------------------------------------------------------------- */

static const float *gemm_b(const kd_ctx *kd, const kd__gemm *g, int seg, int k, int col)
{
    const int first = col / kd->k->panel * kd->k->panel, width = kd__panel_width(kd->k, g->cols - first);
    if (!g->b_rows) return g->b + seg * g->b_seg + k * g->b_k + col;
    return g->b + (ptrdiff_t)first * g->b_rows + (ptrdiff_t)(g->b_first + seg * g->run + k) * width + col - first;
}

static ptrdiff_t gemm_a_row(const kd__gemm *g, int row)
{
    if (g->pairs) return row / 2 * g->a_row + row % 2;
    return g->a_three ? row / 3 * g->a_three + row % 3 * g->a_row : row * g->a_row;
}

static ptrdiff_t gemm_c(const kd_ctx *kd, const kd__gemm *g, int block, int row, int col)
{
    const int first = col / kd->k->panel * kd->k->panel, width = kd__panel_width(kd->k, g->cols - first);
    if (g->c_transposed) return col * g->c_row + row + block * g->c_block;
    if (g->pairs) return block * g->c_block + row * g->c_row / 2 + col;
    if (!g->c_rows) return block * g->c_block + row * g->c_row + col;
    return (ptrdiff_t)first * g->c_rows + (ptrdiff_t)(g->c_first + row) * width + col - first;
}

/* Every number of C is one chain of multiply-adds in the order of the reduction; nothing else of C is written. */
static void gemm_run_and_compare(const kd_ctx *kd, const kd__gemm *g, size_t c_floats)
{
    float *want = copy_of(g->c, c_floats);
    const int rows = g->pairs ? 2 * g->rows : g->rows;
    int block, row, col, seg;
    for (block = 0; block < g->blocks; ++block) {
        for (row = 0; row < rows; ++row) {
            for (col = 0; col < g->cols; ++col) {
                const ptrdiff_t at = gemm_c(kd, g, block, row, col);
                float sum = g->accumulate ? g->c[at] : g->bias ? g->bias[col] : 0;
                for (seg = 0; seg < g->segs; ++seg) {
                    const float *a = g->a + block * g->a_block + gemm_a_row(g, row) + seg * g->a_seg;
                    const float *b = gemm_b(kd, g, seg, 0, col);
                    sum = add_chain(sum, a, g->a_k, b, gemm_b(kd, g, seg, 1, col) - b, g->run);
                }
                want[at] = exact_act(g->act, g->act_arg, sum);
            }
        }
    }
    kd->k->gemm(g);
    expect_bits(g->c, want, c_floats);
    fences_done();
}

/* The ways in which layers use gemm. */
enum { GEMM_MATRICES, GEMM_PANELS, GEMM_TO_PANELS, GEMM_TURNED, GEMM_LINES, GEMM_EMPTY, GEMM_WAYS };

static void gemm_case(const kd_ctx *kd, int way, int rows, int cols, int run)
{
    const int whole = (cols + kd->k->lanes - 1) / kd->k->lanes * kd->k->lanes;
    size_t c_floats;
    float *b, *c, *bias;
    kd__gemm g;
    int row;
    memset(&g, 0, sizeof g);
    snprintf(where, sizeof where, "gemm, way %d, %d rows, %d columns, run %d", way, rows, cols, run);
    g.rows = rows, g.cols = cols, g.run = run;
    g.blocks = way == GEMM_LINES ? 3 : way == GEMM_TURNED ? 2 : 1;
    g.segs = way == GEMM_EMPTY ? 0 : way == GEMM_PANELS || way == GEMM_TO_PANELS ? 3 : 1;
    g.accumulate = way == GEMM_TO_PANELS || way == GEMM_TURNED || (way == GEMM_MATRICES && (rows + cols) % 3 == 0);
    g.act = way == GEMM_PANELS || way == GEMM_EMPTY ? KD__RELU
            : way == GEMM_TO_PANELS                 ? KD__LEAKYRELU
            : way == GEMM_TURNED                    ? KD__RELU6
            : way == GEMM_MATRICES                  ? KD__IDENTITY + cols % 4
                                                    : KD__IDENTITY;
    g.act_arg = 0.125f;
    g.a_row = 3, g.a_k = 1, g.a_seg = 7, g.a_block = 11; /* rows overlap, as those of a convolution do */
    if (way == GEMM_TO_PANELS) g.a_row = 1, g.a_k = rows + 2;
    if (way == GEMM_TO_PANELS && rows % 3 == 0) g.a_three = 5 + cols % 2 * 20; /* lines of taps over one channel */
    g.a = numbers((size_t)((g.blocks - 1) * g.a_block + gemm_a_row(&g, rows - 1) +
                           KD__MAX(0, g.segs - 1) * g.a_seg + (run - 1) * g.a_k + 1),
                  way == GEMM_TURNED ? 4 : 1);
    if (way == GEMM_MATRICES || way == GEMM_TO_PANELS) {
        g.b_k = cols + 1;
        g.b_seg = g.b_k * run;
        b = fence((size_t)((g.segs * run - 1) * g.b_k + whole));
        for (row = 0; row < g.segs * run; ++row) fill_random(b + row * g.b_k, (size_t)cols, 1);
        g.b = b;
    } else {
        g.b_first = 2;
        g.b_rows = g.b_first + g.segs * run + 1;
        g.b = numbers((size_t)kd__panel_columns(kd->k, cols) * (size_t)g.b_rows, 1);
    }
    if (way == GEMM_PANELS || way == GEMM_LINES || way == GEMM_EMPTY ||
        (way == GEMM_MATRICES && (rows + cols) % 3 == 1)) {
        bias = fence((size_t)whole);
        fill_random(bias, (size_t)cols, 2);
        g.bias = bias;
    }
    if (way == GEMM_TO_PANELS) {
        g.c_first = 1;
        g.c_rows = rows + 2;
        c_floats = (size_t)kd__panel_columns(kd->k, cols) * (size_t)g.c_rows;
    } else if (way == GEMM_TURNED) {
        g.c_transposed = 1;
        g.c_block = rows;
        g.c_row = g.blocks * rows + 2;
        c_floats = (size_t)((cols - 1) * g.c_row + g.blocks * rows);
    } else {
        g.c_row = cols + 3;
        g.c_block = rows * g.c_row + 2;
        c_floats = (size_t)((g.blocks - 1) * g.c_block + (rows - 1) * g.c_row + cols);
    }
    c = g.accumulate ? numbers(c_floats, 1) : fence(c_floats);
    g.c = c;
    gemm_run_and_compare(kd, &g, c_floats);
}

/* Rows in pairs, of numbers that lie side by side: neighbours as they are, or pixels beside copies of others. */
static void gemm_pairs_case(const kd_ctx *kd, int pairs, int cols, int kind)
{
    const int run = 1 + (pairs * 5 + cols) % 7;
    float *bias = fence((size_t)kd->k->lanes);
    size_t c_floats;
    kd__gemm g;
    memset(&g, 0, sizeof g);
    snprintf(where, sizeof where, "gemm, %d pairs, %d columns, run %d, kind %d", pairs, cols, run, kind);
    g.pairs = 1;
    g.rows = pairs, g.cols = cols, g.run = run;
    g.blocks = 3, g.segs = kind == 3 ? 0 : 2;
    g.act = KD__IDENTITY + kind;
    g.act_arg = 0.125f;
    g.a_k = 1 + pairs % 2;
    g.a_row = 2 * g.a_k, g.a_seg = 7, g.a_block = 11;
    g.a =
        numbers((size_t)((g.blocks - 1) * g.a_block + (pairs - 1) * g.a_row + g.a_seg + (run - 1) * g.a_k + 2), 1);
    g.b_first = 2;
    g.b_rows = g.b_first + g.segs * run + 1;
    g.b = numbers((size_t)kd__panel_columns(kd->k, cols) * (size_t)g.b_rows, 1);
    fill_random(bias, (size_t)cols, 2);
    g.accumulate = kind == 0;
    g.bias = kind > 1 ? bias : NULL;
    g.c_row = 2 * (cols + pairs % 3);
    g.c_block = pairs * g.c_row + 2;
    c_floats = (size_t)((g.blocks - 1) * g.c_block + (pairs - 1) * g.c_row + g.c_row / 2 + cols);
    g.c = g.accumulate ? numbers(c_floats, 1) : fence(c_floats);
    gemm_run_and_compare(kd, &g, c_floats);
}

static void check_gemm_of_pairs(const kd_ctx *kd)
{
    int pairs, cols, kind;
    if (!kd->k->pairs) return;
    for (pairs = 1; pairs <= 30; ++pairs) {
        for (cols = 1; cols <= kd->k->narrow; ++cols) {
            for (kind = 0; kind < 4; ++kind) gemm_pairs_case(kd, pairs, cols, kind);
        }
    }
}

static void check_gemm(const kd_ctx *kd)
{
    /* deep enough to be cut, tall, wide enough for several panels at once */
    static const int large[][3] = {{1, 1, 600},  {5, 65, 257}, {15, 33, 512}, {29, 16, 300}, {2, 129, 700},
                                   {1, 300, 40}, {1, 64, 5},   {1, 97, 9},    {1, 131, 3},   {1, 256, 8},
                                   {40, 200, 9}, {65, 65, 65}, {100, 7, 33},  {16, 9, 256}};
    int way, rows, cols, i;
    check_gemm_of_pairs(kd);
    for (way = 0; way < GEMM_WAYS; ++way) {
        for (rows = 1; rows <= 30; ++rows) {
            for (cols = 1; cols <= SIZES; ++cols) gemm_case(kd, way, rows, cols, 1 + (rows * 5 + cols) % 7);
        }
        for (i = 0; i < KD__COUNT(large); ++i) {
            if (way != GEMM_EMPTY)
                gemm_case(kd, way, large[i][0], large[i][1],
                          large[i][2] / (way == GEMM_PANELS || way == GEMM_TO_PANELS ? 3 : 1));
        }
    }
}

static void check_dots(const kd_ctx *kd)
{
    int rows, k, r, i;
    for (rows = 1; rows <= SIZES; ++rows) {
        for (k = 1; k <= SIZES + 1; ++k) {
            const int length = k <= SIZES ? k : 1000 + rows;
            const float *a = number_rows(rows, length, length + 3, 1), *x = numbers((size_t)length, 1);
            float *y = fence((size_t)rows);
            double want[SIZES];
            snprintf(where, sizeof where, "dots, %d rows of %d", rows, length);
            for (r = 0; r < rows; ++r) {
                for (i = 0, want[r] = 0; i < length; ++i) want[r] += (double)a[r * (length + 3) + i] * (double)x[i];
            }
            kd->k->dots(a, length + 3, rows, x, length, y);
            expect_near(y, want, (size_t)rows, 0, length > SIZES ? 1e-5 : 1.5e-6);
            fences_done();
        }
    }
}

static void check_turned_or_copied(const kd_ctx *kd, int turned)
{
    int rows, cols, r, c;
    for (rows = 1; rows <= SIZES; ++rows) {
        for (cols = 1; cols <= SIZES; ++cols) {
            const ptrdiff_t src_row = cols + 3, dst_row = (turned ? rows : cols) + 2;
            const size_t floats = (size_t)(turned ? (cols - 1) * dst_row + rows : (rows - 1) * dst_row + cols);
            const float *src = number_rows(rows, cols, src_row, 1);
            float *dst = fence(floats), *want = fence(floats);
            snprintf(where, sizeof where, "%s, %d rows, %d columns", turned ? "transpose" : "copy", rows, cols);
            for (r = 0; r < rows; ++r) {
                for (c = 0; c < cols; ++c) want[turned ? c * dst_row + r : r * dst_row + c] = src[r * src_row + c];
            }
            (turned ? kd->k->transpose : kd->k->copy)(src, src_row, rows, cols, dst, dst_row);
            expect_bits(dst, want, floats);
            fences_done();
        }
    }
}

static void check_transpose(const kd_ctx *kd) { check_turned_or_copied(kd, 1); }

static void check_copy(const kd_ctx *kd) { check_turned_or_copied(kd, 0); }

static void check_pair_up(const kd_ctx *kd)
{
    int n, step, i;
    for (n = 1; n <= SIZES; ++n) {
        for (step = 1; step <= SIZES; ++step) {
            const float *x = numbers((size_t)(n + step), 1);
            float *pairs = fence((size_t)(2 * n)), *want = fence((size_t)(2 * n));
            snprintf(where, sizeof where, "pair_up, %d numbers and those %d behind", n, step);
            for (i = 0; i < n; ++i) want[2 * i] = x[i], want[2 * i + 1] = x[i + step];
            kd->k->pair_up(n, step, x, pairs);
            expect_bits(pairs, want, (size_t)(2 * n));
            fences_done();
        }
    }
}

/* ---- elementwise ----------------------------------------------------------------------------------------- */

/* Random numbers, and the places where activations have their corners. */
static float *act_inputs(size_t count)
{
    static const float corners[] = {0, -0.0f, 6, 3, -3, 1, -1, 0.625f, 1e-30f, -1e-30f, 20, -20};
    float *x = numbers(count, 8);
    size_t i;
    for (i = 0; i < count; i += 3) x[i] = corners[(i / 3 + count) % (sizeof corners / sizeof *corners)];
    return x;
}

static void check_act(const kd_ctx *kd)
{
    double want[SIZES];
    int kind, n, i, in_place;
    for (kind = KD__IDENTITY; kind <= KD__TANH; ++kind) {
        for (n = 1; n <= SIZES; ++n) {
            for (in_place = 0; in_place < 2; ++in_place) {
                float *x = act_inputs((size_t)n), *y = in_place ? x : fence((size_t)n);
                snprintf(where, sizeof where, "act %d, %d numbers", kind, n);
                for (i = 0; i < n; ++i) want[i] = reference_act(kind, (double)0.3f, (double)x[i]);
                kd->k->act(kind, 0.3f, n, x, y);
                expect_near(y, want, (size_t)n,
                            kind == KD__GELU || kind == KD__SILU || kind == KD__GELU_TANH ? 1e-6 : 2e-7, 2e-7);
                fences_done();
            }
        }
    }
}

/* The derivative of an activation, from its output or (gelu, gelutanh, silu, hardswish) from its input. */
static double act_slope(int kind, double arg, double v)
{
    const double s = 1 / (1 + exp(-v)), bend = sqrt(8 / (4 * atan(1.0)));
    const double gate = 1 / (1 + exp(-bend * (v + 0.044715 * v * v * v)));
    switch (kind) {
    case KD__RELU: return v > 0;
    case KD__RELU6: return v > 0 && v < 6;
    case KD__LEAKYRELU: return v > 0 ? 1 : arg;
    case KD__GELU: return 0.5 * erfc(-v / sqrt(2.0)) + v * exp(-v * v / 2) / sqrt(8 * atan(1.0));
    case KD__SILU: return s * (1 + v * (1 - s));
    case KD__HARDSWISH: return v <= -3 ? 0 : v >= 3 ? 1 : (2 * v + 3) / 6;
    case KD__SIGMOID: return v * (1 - v);
    case KD__TANH: return 1 - v * v;
    case KD__GELU_TANH:
        return fabs(v) > 20 ? v > 0 : gate + v * gate * (1 - gate) * bend * (1 + 3 * 0.044715 * v * v);
    default: return 1;
    }
}

static void check_act_grad(const kd_ctx *kd)
{
    double want[SIZES];
    int kind, n, i, accumulate, in_place;
    for (kind = KD__IDENTITY; kind <= KD__TANH; ++kind) {
        for (n = 1; n <= SIZES; ++n) {
            for (accumulate = 0; accumulate < 2; ++accumulate) {
                for (in_place = 0; in_place < 2 - accumulate; ++in_place) {
                    const float *v =
                        kind == KD__SIGMOID || kind == KD__TANH ? numbers((size_t)n, 1) : act_inputs((size_t)n);
                    float *dy = numbers((size_t)n, 1);
                    float *dx = in_place ? dy : accumulate ? numbers((size_t)n, 1) : fence((size_t)n);
                    snprintf(where, sizeof where, "act_grad %d, %d numbers", kind, n);
                    for (i = 0; i < n; ++i) {
                        want[i] = (double)dy[i] * act_slope(kind, (double)0.3f, (double)v[i]);
                        if (accumulate) want[i] += (double)dx[i];
                    }
                    kd->k->act_grad(kind, 0.3f, n, v, dy, dx, accumulate);
                    expect_near(dx, want, (size_t)n, 3e-7, 3e-7);
                    fences_done();
                }
            }
        }
    }
}

static void check_add(const kd_ctx *kd)
{
    int act, n, i;
    for (act = KD__IDENTITY; act <= KD__LEAKYRELU; ++act) {
        for (n = 1; n <= SIZES; ++n) {
            float *a = numbers((size_t)n, 9), *b = numbers((size_t)n, 1);
            float *y = n % 3 == 0 ? a : n % 3 == 1 ? b : fence((size_t)n), *want = fence((size_t)n);
            snprintf(where, sizeof where, "add, act %d, %d numbers", act, n);
            for (i = 0; i < n; ++i) want[i] = exact_act(act, 0.3f, a[i] + b[i]);
            kd->k->add(n, a, b, act, 0.3f, y);
            expect_bits(y, want, (size_t)n);
            fences_done();
        }
    }
}

static void check_scale(const kd_ctx *kd)
{
    int n, i;
    for (n = 1; n <= SIZES; ++n) {
        float *x = numbers((size_t)n, 1), *want = fence((size_t)n);
        snprintf(where, sizeof where, "scale, %d numbers", n);
        for (i = 0; i < n; ++i) want[i] = x[i] * -0.7f;
        kd->k->scale(n, -0.7f, x);
        expect_bits(x, want, (size_t)n);
        fences_done();
    }
}

/* Adds to what is there, row after row. */
static void check_column_sums(const kd_ctx *kd)
{
    int rows, cols, r, c;
    for (rows = 0; rows <= 20; ++rows) {
        for (cols = 1; cols <= SIZES; ++cols) {
            const float *x = rows ? number_rows(rows, cols, cols + 3, 1) : NULL;
            float *sums = numbers((size_t)cols, 1), *want = copy_of(sums, (size_t)cols);
            snprintf(where, sizeof where, "column_sums, %d rows, %d columns", rows, cols);
            for (r = 0; r < rows; ++r) {
                for (c = 0; c < cols; ++c) want[c] += x[r * (cols + 3) + c];
            }
            kd->k->column_sums(x, cols + 3, rows, cols, sums);
            expect_bits(sums, want, (size_t)cols);
            fences_done();
        }
    }
}

static void check_from_bytes(const kd_ctx *kd)
{
    int n, i;
    for (n = 1; n <= SIZES + 256; ++n) {
        const size_t floats = (size_t)(n + 3) / 4;
        uint8_t *bytes = (uint8_t *)fence(floats) + (fences_at_front ? 0 : floats * sizeof(float) - (size_t)n);
        float *x = fence((size_t)n), *want = fence((size_t)n);
        snprintf(where, sizeof where, "from_bytes, %d bytes", n);
        for (i = 0; i < n; ++i) {
            bytes[i] = (uint8_t)(n - i);
            want[i] = (float)((double)bytes[i] / 255.0);
        }
        kd->k->from_bytes(n, bytes, x);
        expect_bits(x, want, (size_t)n);
        fences_done();
    }
}

static void check_normalise(const kd_ctx *kd)
{
    int n, i;
    for (n = 1; n <= SIZES; ++n) {
        float *x = numbers((size_t)n, 1), *y = n % 2 ? x : fence((size_t)n), *want = fence((size_t)n);
        snprintf(where, sizeof where, "normalise, %d numbers", n);
        for (i = 0; i < n; ++i) want[i] = (x[i] - 0.4467f) / 0.2616f;
        kd->k->normalise(n, x, 0.4467f, 0.2616f, y);
        expect_bits(y, want, (size_t)n);
        fences_done();
    }
}

/* The mask is a hash of index and keys: the finalizer of MurmurHash3, keyed before and in the middle. */
static void check_dropout(const kd_ctx *kd)
{
    static const float drops[] = {0, 0.25f, 0.5f, 0.9f};
    int n, i, which, accumulate;
    for (n = 1; n <= SIZES; ++n) {
        for (which = 0; which < KD__COUNT(drops); ++which) {
            for (accumulate = 0; accumulate < 2; ++accumulate) {
                const float drop = drops[which], *x = numbers((size_t)n, 1);
                float *y = accumulate ? numbers((size_t)n, 1) : fence((size_t)n), *want = copy_of(y, (size_t)n);
                const uint32_t key0 = 0x9e3779b9u * (uint32_t)n, key1 = 0xdeadbeefu + (uint32_t)which;
                snprintf(where, sizeof where, "dropout %g of %d numbers", (double)drop, n);
                for (i = 0; i < n; ++i) {
                    uint32_t h = (uint32_t)i ^ key0;
                    float kept;
                    h = (h ^ h >> 16) * 0x85ebca6bu;
                    h = (h ^ h >> 13) * 0xc2b2ae35u;
                    h ^= key1;
                    h = (h ^ h >> 16) * 0x85ebca6bu;
                    h = (h ^ h >> 13) * 0xc2b2ae35u;
                    h ^= h >> 16;
                    kept = (double)(h >> 8) / 16777216.0 < (double)drop ? 0 : x[i] * 1.25f;
                    want[i] = accumulate ? want[i] + kept : kept;
                }
                kd->k->dropout(n, key0, key1, drop, 1.25f, x, y, accumulate);
                expect_bits(y, want, (size_t)n);
                fences_done();
            }
        }
    }
}

/* ---- windows over images --------------------------------------------------------------------------------- */

/* height, width, kernel, stride and padding, each vertical first */
static const int geometries[][8] = {
    {1, 1, 1, 1, 1, 1, 0, 0},  {5, 7, 3, 3, 1, 1, 1, 1},  {6, 9, 3, 3, 2, 2, 1, 1},  {7, 8, 2, 2, 2, 2, 0, 0},
    {4, 20, 3, 5, 1, 1, 1, 2}, {9, 10, 5, 3, 3, 2, 2, 1}, {3, 17, 1, 9, 1, 1, 0, 4}, {6, 5, 6, 5, 6, 5, 0, 0},
    {5, 5, 3, 1, 2, 3, 0, 0},  {4, 9, 2, 3, 1, 1, 1, 1},  {2, 2, 3, 3, 1, 1, 1, 1},  {7, 19, 2, 10, 3, 1, 1, 5},
};

static kd__window window_of(const int *geometry, int channels)
{
    kd__window w;
    w.channels = channels;
    w.in_h = geometry[0], w.in_w = geometry[1];
    w.kernel_h = geometry[2], w.kernel_w = geometry[3];
    w.stride_h = geometry[4], w.stride_w = geometry[5];
    w.pad_h = geometry[6], w.pad_w = geometry[7];
    w.out_h = (w.in_h + 2 * w.pad_h - w.kernel_h) / w.stride_h + 1;
    w.out_w = (w.in_w + 2 * w.pad_w - w.kernel_w) / w.stride_w + 1;
    w.in_row = (ptrdiff_t)w.in_w * channels + 5;
    w.out_row = (ptrdiff_t)w.out_w * channels + 3;
    return w;
}

/* Tap (i, j) of the window at (y, x): its place in the image whose lines are `row` floats apart, or -1 outside. */
static ptrdiff_t tap_at(const kd__window *w, ptrdiff_t row, int y, int x, int i, int j)
{
    const int iy = y * w->stride_h - w->pad_h + i, ix = x * w->stride_w - w->pad_w + j;
    return iy < 0 || iy >= w->in_h || ix < 0 || ix >= w->in_w ? -1 : iy * row + (ptrdiff_t)ix * w->channels;
}
#define EACH_OUTPUT(w)                                                                                             \
    for (y = 0; y < (w)->out_h; ++y)                                                                               \
        for (x = 0; x < (w)->out_w; ++x)
#define EACH_TAP(w, row)                                                                                           \
    for (i = 0; i < (w)->kernel_h; ++i)                                                                            \
        for (j = 0; j < (w)->kernel_w; ++j)                                                                        \
            if ((at = tap_at(w, row, y, x, i, j)) >= 0)

/* Lines in double precision, the gaps left out of the comparison with lines in float. */
static double wanted_lines[1 << 15];
static double *wanted(const float *start, size_t floats)
{
    size_t n;
    assert_true(floats <= sizeof wanted_lines / sizeof *wanted_lines);
    for (n = 0; n < floats; ++n) wanted_lines[n] = start ? (double)start[n] : 0;
    return wanted_lines;
}

static void expect_lines(const float *got, const double *want, int lines, int length, ptrdiff_t row)
{
    const float untouched = canary();
    int y;
    for (y = 0; y < lines; ++y) {
        expect_near(got + y * row, want + y * row, (size_t)length, 2e-6, 2e-6);
        if (y + 1 < lines && row > length) expect_bits(got + y * row + length, &untouched, 1);
    }
}

typedef void (*window_fn)(const kd_ctx *kd, const kd__window *w);

static void on_every_window(const kd_ctx *kd, const char *name, window_fn check)
{
    int channels, i;
    for (i = 0; i < KD__COUNT(geometries); ++i) {
        for (channels = 1; channels <= SIZES; ++channels) {
            const kd__window w = window_of(geometries[i], channels);
            snprintf(where, sizeof where, "%s, geometry %d, %d channels", name, i, channels);
            check(kd, &w);
            fences_done();
        }
    }
}

static size_t lines_floats(int lines, int length, ptrdiff_t row) { return (size_t)((lines - 1) * row + length); }

/* Lines with `pad` pixels of zeros before, between and after them. */
static float *padded_lines(int lines, int pixels, int channels, int pad, ptrdiff_t *row)
{
    const size_t edge = (size_t)pad * (size_t)channels, line = (size_t)pixels * (size_t)channels;
    float *x = fence(edge + (line + edge) * (size_t)lines);
    int y;
    fill(x, edge + (line + edge) * (size_t)lines, 0);
    *row = (ptrdiff_t)(line + edge);
    for (y = 0; y < lines; ++y) fill_random(x + edge + (size_t)y * (line + edge), line, 1);
    return x + edge;
}

/* An image and a gradient as depthwise kernels want them. */
static float *padded_image(kd__window *w)
{
    return padded_lines(w->in_h, w->in_w, w->channels, w->pad_w, &w->in_row);
}
static float *padded_gradient(kd__window *w)
{
    const int pad = kd__conv_grad_pad(w->in_w, w->out_w, w->kernel_w, w->stride_w, w->pad_w);
    return padded_lines(w->out_h, w->out_w, w->channels, pad, &w->out_row);
}

static void depthwise_window(const kd_ctx *kd, const kd__window *unpadded)
{
    kd__window w = *unpadded;
    const int channels = w.channels, act = channels % 3 == 0 ? KD__RELU : KD__IDENTITY;
    const float *image = padded_image(&w), *weight = numbers((size_t)(w.kernel_h * w.kernel_w * channels), 1);
    const float *bias = channels % 2 ? numbers((size_t)channels, 1) : NULL;
    float *out = fence(lines_floats(w.out_h, w.out_w * channels, w.out_row));
    double *want = wanted(NULL, lines_floats(w.out_h, w.out_w * channels, w.out_row));
    ptrdiff_t at;
    int y, x, i, j, c;
    EACH_OUTPUT(&w)
    {
        double *sum = want + y * w.out_row + (ptrdiff_t)x * channels;
        for (c = 0; bias && c < channels; ++c) sum[c] = (double)bias[c];
        EACH_TAP(&w, w.in_row)
        {
            for (c = 0; c < channels; ++c)
                sum[c] += (double)image[at + c] * (double)weight[(i * w.kernel_w + j) * channels + c];
        }
        for (c = 0; act && c < channels; ++c) sum[c] = reference_act(act, 0, sum[c]);
    }
    kd->k->depthwise(&w, image, weight, bias, act, 0, out);
    expect_lines(out, want, w.out_h, w.out_w * channels, w.out_row);
}

static void check_depthwise(const kd_ctx *kd) { on_every_window(kd, "depthwise", depthwise_window); }

static void depthwise_input_window(const kd_ctx *kd, const kd__window *w)
{
    const int channels = w->channels;
    const float *weight = numbers((size_t)(w->kernel_h * w->kernel_w * channels), 1);
    kd__window padded = *w;
    const float *dy = padded_gradient(&padded);
    const int accumulate = channels % 2;
    float *dx = number_rows(w->in_h, w->in_w * channels, w->in_row, 1);
    double *want = wanted(accumulate ? dx : NULL, lines_floats(w->in_h, w->in_w * channels, w->in_row));
    ptrdiff_t at;
    int y, x, i, j, c;
    EACH_OUTPUT(w)
    {
        EACH_TAP(w, w->in_row)
        {
            for (c = 0; c < channels; ++c)
                want[at + c] += (double)dy[y * padded.out_row + (ptrdiff_t)x * channels + c] *
                                (double)weight[(i * w->kernel_w + j) * channels + c];
        }
    }
    kd->k->depthwise_input_grad(&padded, dy, weight, dx, accumulate);
    expect_lines(dx, want, w->in_h, w->in_w * channels, w->in_row);
}

static void check_depthwise_input_grad(const kd_ctx *kd)
{
    on_every_window(kd, "depthwise_input_grad", depthwise_input_window);
}

static void depthwise_weight_window(const kd_ctx *kd, const kd__window *unpadded)
{
    kd__window w = *unpadded;
    const int channels = w.channels, taps = w.kernel_h * w.kernel_w;
    const float *image = padded_image(&w), *dy = number_rows(w.out_h, w.out_w * channels, w.out_row, 1);
    float *dw = numbers((size_t)(taps * channels), 1);
    double *want = wanted(dw, (size_t)(taps * channels));
    ptrdiff_t at;
    int y, x, i, j, c;
    EACH_OUTPUT(&w)
    {
        EACH_TAP(&w, w.in_row)
        {
            for (c = 0; c < channels; ++c)
                want[(i * w.kernel_w + j) * channels + c] +=
                    (double)image[at + c] * (double)dy[y * w.out_row + (ptrdiff_t)x * channels + c];
        }
    }
    kd->k->depthwise_weight_grad(&w, image, dy, dw);
    expect_lines(dw, want, 1, taps * channels, 0);
}

static void check_depthwise_weight_grad(const kd_ctx *kd)
{
    on_every_window(kd, "depthwise_weight_grad", depthwise_weight_window);
}

/* ---- Winograd's convolution ------------------------------------------------------------------------------ */

/* By definition: A'[i][k] = p_k^i, G[k][i] = p_k^i / product of p_k - p_j, B'[k] the coefficients of the product of
   x - p_j, all over the other finite points; at infinity only the highest power counts. */
enum { WINO_LANES = 16 }; /* of every instruction set: the same numbers for all */
enum { WINO_IMAGE, WINO_OUTPUT, WINO_OUTPUT_GRAD, WINO_WEIGHT, WINO_WEIGHT_GRAD, WINO_KINDS };
static const int wino_in[] = {6, 6, 4, 3, 6}, wino_out[] = {6, 4, 6, 6, 3};

static void wino_matrix(int kind, double m[6][6])
{
    static const double points[] = {0, 0.75, -0.75, 1.5, -1.5};
    int k, j, i;
    memset(m, 0, 6 * sizeof *m);
    for (k = 0; k < 6; ++k) {
        double coefficients[7] = {1}, distances = 1, power = 1;
        int degree = 0;
        for (j = 0; j < 5; ++j) {
            if (j == k) continue;
            if (k < 5) distances *= points[k] - points[j];
            for (++degree, i = degree; i >= 0; --i)
                coefficients[i] = (i ? coefficients[i - 1] : 0) - points[j] * coefficients[i];
        }
        for (i = 0; i < 6; ++i, power *= k < 5 ? points[k] : 1) {
            const double highest = k < 5 ? power : i == (kind < WINO_WEIGHT ? 3 : 2);
            if (kind == WINO_IMAGE) m[k][i] = coefficients[i];
            if (kind == WINO_OUTPUT && i < 4) m[i][k] = highest;
            if (kind == WINO_OUTPUT_GRAD && i < 4) m[k][i] = highest;
            if (kind == WINO_WEIGHT && i < 3) m[k][i] = highest / distances;
            if (kind == WINO_WEIGHT_GRAD && i < 3) m[i][k] = highest / distances;
        }
    }
}

/* One step over lines and columns. */
static void wino_apply(int kind, double in[6][6], double out[6][6])
{
    double m[6][6];
    int i, j, a, b;
    wino_matrix(kind, m);
    for (i = 0; i < wino_out[kind]; ++i) {
        for (j = 0; j < wino_out[kind]; ++j) {
            out[i][j] = 0;
            for (a = 0; a < wino_in[kind]; ++a)
                for (b = 0; b < wino_in[kind]; ++b) out[i][j] += m[i][a] * m[j][b] * in[a][b];
        }
    }
}

/* An image of h x w pixels in tiles of `size` x `size` for the outputs that a convolution with `pad` makes of it.
   *beside: pixels of zeros that its lines need beside them. */
static kd__tiles wino_tiles(int channels, int h, int w, int pad, int size, int *beside)
{
    kd__tiles t;
    memset(&t, 0, sizeof t);
    t.channels = channels, t.h = h, t.w = w;
    t.across = (w + 2 * pad - size + 4) / 4, t.down = (h + 2 * pad - size + 4) / 4;
    t.origin_h = t.origin_w = -pad;
    *beside = pad > 4 * t.across + size - 4 - pad - w ? pad : 4 * t.across + size - 4 - pad - w;
    t.row = (ptrdiff_t)(w + *beside) * channels;
    t.tile = (channels + WINO_LANES - 1) / WINO_LANES * WINO_LANES;
    t.plane = t.across * t.down * t.tile + 3;
    return t;
}

/* Both halves of the tiles in a call each, so that every start is met. */
static void wino_call(kd__tiles t, void (*move)(const kd__tiles *t, float *image, float *planes), float *image,
                      float *planes)
{
    const int tiles = t.across * t.down;
    t.first = 0, t.count = tiles / 2;
    move(&t, image, planes);
    t.first = tiles / 2, t.count = tiles - t.first;
    move(&t, image, planes + t.first * t.tile);
}

static const int wino_geometries[][3] = {{1, 1, 1}, {4, 4, 1}, {5, 7, 1}, {9, 2, 2}, {6, 13, 0}, {3, 6, 2}};

/* `size` x `size` pixels of every tile, and the planes that they must become. */
static void wino_read_case(const kd_ctx *kd, int kind, const int *geometry, int channels)
{
    const int size = wino_in[kind], h = geometry[0], w = geometry[1], pad = kind == WINO_IMAGE ? geometry[2] : 0;
    int beside, n, c, i, j;
    kd__tiles t = wino_tiles(channels, h, w, pad, size, &beside);
    const size_t edge = (size_t)beside * (size_t)channels, floats = edge + (size_t)h * (size_t)t.row;
    float *image = fence(floats + WINO_LANES), *zeros = fence((size_t)(6 * t.tile));
    float *planes = fence((size_t)(KD__WINO_PLANES * t.plane));
    fill(image, floats + WINO_LANES, 0);
    fill(zeros, (size_t)(6 * t.tile), 0);
    for (i = 0; i < h; ++i) fill_random(image + edge + i * t.row, (size_t)(w * channels), 1);
    t.zeros = zeros;
    wino_call(t, kind == WINO_IMAGE ? kd->k->winograd_read : kd->k->winograd_read_grad, image + edge, planes);
    for (n = 0; n < t.across * t.down; ++n) {
        for (c = 0; c < channels; ++c) {
            double in[6][6], out[6][6];
            for (i = 0; i < size; ++i) {
                for (j = 0; j < size; ++j) {
                    const int y = n / t.across * 4 - pad + i, x = n % t.across * 4 - pad + j;
                    const int inside = y >= 0 && y < h && x >= 0 && x < w;
                    in[i][j] = inside ? (double)image[(ptrdiff_t)edge + y * t.row + x * channels + c] : 0;
                }
            }
            wino_apply(kind, in, out);
            for (i = 0; i < KD__WINO_PLANES; ++i)
                expect_near(planes + i * t.plane + n * t.tile + c, &out[i / 6][i % 6], 1, 2e-6, 4e-6);
        }
    }
}

static void wino_write_case(const kd_ctx *kd, const int *geometry, int channels)
{
    const int h = geometry[0], w = geometry[1], act = channels % 3 ? KD__IDENTITY : KD__RELU;
    int beside, n, c, i, j;
    kd__tiles t = wino_tiles(channels, h, w, 0, 4, &beside);
    float *image = number_rows(h, w * channels, t.row += 3, 1),
          *planes = numbers((size_t)(KD__WINO_PLANES * t.plane), 1);
    double *want = wanted(image, lines_floats(h, w * channels, t.row));
    float *bias = numbers((size_t)t.tile, 1);
    t.bias = channels % 2 ? bias : NULL;
    t.accumulate = channels % 4 > 1;
    t.act = act;
    for (n = 0; n < t.across * t.down; ++n) {
        for (c = 0; c < channels; ++c) {
            double in[6][6], out[6][6];
            for (i = 0; i < KD__WINO_PLANES; ++i) in[i / 6][i % 6] = (double)planes[i * t.plane + n * t.tile + c];
            wino_apply(WINO_OUTPUT, in, out);
            for (i = 0; i < 4; ++i) {
                for (j = 0; j < 4; ++j) {
                    const int y = n / t.across * 4 + i, x = n % t.across * 4 + j;
                    double *to = want + y * t.row + x * channels + c;
                    if (y >= h || x >= w) continue;
                    *to = out[i][j] + (t.bias ? (double)bias[c] : 0) + (t.accumulate ? *to : 0);
                    *to = act ? reference_act(act, 0, *to) : *to;
                }
            }
        }
    }
    wino_call(t, kd->k->winograd_write, image, planes);
    for (i = 0; i < h; ++i) expect_near(image + i * t.row, want + i * t.row, (size_t)(w * channels), 2e-6, 2e-5);
    for (i = 0; i + 1 < h; ++i) {
        const float untouched = canary();
        expect_bits(image + i * t.row + w * channels, &untouched, 1);
    }
}

static void wino_every_case(const kd_ctx *kd, int kind)
{
    int channels, i;
    for (i = 0; i < KD__COUNT(wino_geometries); ++i) {
        for (channels = 1; channels <= SIZES; channels += channels < 18 ? 1 : 7) {
            snprintf(where, sizeof where, "Winograd's kind %d, geometry %d, %d channels", kind, i, channels);
            if (kind == WINO_OUTPUT)
                wino_write_case(kd, wino_geometries[i], channels);
            else
                wino_read_case(kd, kind, wino_geometries[i], channels);
            fences_done();
        }
    }
}

static void check_winograd_read(const kd_ctx *kd) { wino_every_case(kd, WINO_IMAGE); }
static void check_winograd_read_grad(const kd_ctx *kd) { wino_every_case(kd, WINO_OUTPUT_GRAD); }
static void check_winograd_write(const kd_ctx *kd) { wino_every_case(kd, WINO_OUTPUT); }

static void wino_weights(int kind, void (*turn)(ptrdiff_t n, float *taps, float *planes))
{
    const int forward = kind == WINO_WEIGHT;
    int n, c, i;
    for (n = 1; n <= SIZES; ++n) {
        float *taps = numbers((size_t)(9 * n), 1), *planes = numbers((size_t)(KD__WINO_PLANES * n), 1);
        const float *from = forward ? taps : planes, *to = forward ? planes : taps;
        double want[KD__WINO_PLANES * SIZES];
        snprintf(where, sizeof where, "Winograd's kind %d of %d numbers", kind, n);
        for (c = 0; c < n; ++c) {
            double in[6][6], out[6][6];
            const int size = wino_in[kind], outputs = wino_out[kind];
            for (i = 0; i < size * size; ++i) in[i / size][i % size] = (double)from[i * n + c];
            wino_apply(kind, in, out);
            for (i = 0; i < outputs * outputs; ++i) want[i * n + c] = out[i / outputs][i % outputs];
        }
        turn(n, taps, planes);
        expect_near(to, want, (size_t)((forward ? KD__WINO_PLANES : 9) * n), 2e-6, 2e-6);
        fences_done();
    }
}

static void check_winograd_weight(const kd_ctx *kd) { wino_weights(WINO_WEIGHT, kd->k->winograd_weight); }
static void check_winograd_weight_grad(const kd_ctx *kd)
{
    wino_weights(WINO_WEIGHT_GRAD, kd->k->winograd_weight_grad);
}

/* ---- pooling --------------------------------------------------------------------------------------------- */

/* An image in which several numbers of a window are often equal. */
static float *image_with_ties(const kd__window *w)
{
    const size_t floats = lines_floats(w->in_h, w->in_w * w->channels, w->in_row);
    float *image = number_rows(w->in_h, w->in_w * w->channels, w->in_row, 2);
    size_t n;
    for (n = 0; n < floats; ++n) {
        if (image[n] == image[n]) image[n] = floorf(image[n] * 2);
    }
    return image;
}

/* The place of the first of the largest numbers of a window. */
static ptrdiff_t largest_at(const kd__window *w, const float *image, int y, int x, int channel)
{
    ptrdiff_t best = -1, at;
    int i, j;
    EACH_TAP(w, w->in_row)
    {
        if (best < 0 || image[at + channel] > image[best]) best = at + channel;
    }
    return best;
}

static void maxpool_window(const kd_ctx *kd, const kd__window *w)
{
    const float *image = image_with_ties(w);
    float *out = fence(lines_floats(w->out_h, w->out_w * w->channels, w->out_row));
    double *want = wanted(NULL, lines_floats(w->out_h, w->out_w * w->channels, w->out_row));
    int y, x, c;
    EACH_OUTPUT(w)
    {
        for (c = 0; c < w->channels; ++c)
            want[y * w->out_row + x * w->channels + c] = (double)image[largest_at(w, image, y, x, c)];
    }
    kd->k->maxpool(w, image, out);
    expect_lines(out, want, w->out_h, w->out_w * w->channels, w->out_row);
}

/* Wherever in the window a NaN is, it comes out; so a NaN is never lost on its way to the loss. */
static void maxpool_passes_on_nan(const kd_ctx *kd)
{
    int place, c;
    for (place = 0; place < 9; ++place) {
        const int geometry[8] = {3, 3, 3, 3, 1, 1, 0, 0};
        kd__window w = window_of(geometry, 20);
        float *image, *out;
        w.in_row = 3 * 20;
        image = numbers(9 * 20, 1);
        out = fence(20);
        for (c = 0; c < 20; c += 2) image[place * 20 + c] = NAN;
        kd->k->maxpool(&w, image, out);
        for (c = 0; c < 20; ++c) {
            if ((out[c] != out[c]) != (c % 2 == 0))
                fail_msg("maxpool on %s: a NaN at place %d of the window comes out as %g", isa_name, place,
                         (double)out[c]);
        }
        fences_done();
    }
}

static void check_maxpool(const kd_ctx *kd)
{
    on_every_window(kd, "maxpool", maxpool_window);
    maxpool_passes_on_nan(kd);
}

/* Whether the kernel of pooling's gradient is told by places, and whether it writes or adds. */
enum { BY_VALUES, BY_PLACES, BY_PLACES_ANEW, POOL_GRADS };

/* Activations and gradients have lines of different lengths. */
static void maxpool_grad_onto(const kd_ctx *kd, const kd__window *w, int way, int relu)
{
    const int channels = w->channels;
    const ptrdiff_t dx_row = w->in_row + 2, dy_row = w->out_row + 4;
    const float *image = image_with_ties(w), *dy = number_rows(w->out_h, w->out_w * channels, dy_row, 1);
    float *out = fence(lines_floats(w->out_h, w->out_w * channels, w->out_row)), *places;
    float *dx = number_rows(w->in_h, w->in_w * channels, dx_row, 1);
    double *want = wanted(dx, lines_floats(w->in_h, w->in_w * channels, dx_row));
    kd__pool_grads g;
    int y, x, c;
    g.x = *w;
    g.dx_row = dx_row, g.dy_row = dy_row, g.overwrite = way == BY_PLACES_ANEW, g.relu = relu;
    for (y = 0; g.overwrite && y < 2 * w->out_h; ++y) {
        for (x = 0; x < 2 * w->out_w * channels; ++x) want[y * dx_row + x] = 0;
    }
    EACH_OUTPUT(w)
    {
        for (c = 0; c < channels; ++c) {
            const ptrdiff_t at = largest_at(w, image, y, x, c);
            out[y * w->out_row + x * channels + c] = image[at];
            if (!relu || image[at] > 0)
                want[at / w->in_row * dx_row + at % w->in_row] += (double)dy[y * dy_row + x * channels + c];
        }
    }
    if (way == BY_VALUES) {
        kd->k->maxpool_grad(&g, image, out, dy, dx);
    } else {
        places = fence((size_t)(w->out_h * w->out_w * channels));
        kd->k->maxpool_places(w, image, relu, out, places);
        kd->k->maxpool_places_grad(&g, places, dy, dx);
    }
    expect_lines(dx, want, w->in_h, w->in_w * channels, dx_row);
    fences_done();
}

static void maxpool_grad_window(const kd_ctx *kd, const kd__window *w)
{
    maxpool_grad_onto(kd, w, BY_VALUES, 0);
    maxpool_grad_onto(kd, w, BY_VALUES, 1);
}

static void check_maxpool_grad(const kd_ctx *kd) { on_every_window(kd, "maxpool_grad", maxpool_grad_window); }

/* The largest as without places, and their places: the first of several, none of a NaN, and with a ReLU none of
   what it left 0. */
static void maxpool_places_window(const kd_ctx *kd, const kd__window *w)
{
    const size_t floats = lines_floats(w->out_h, w->out_w * w->channels, w->out_row);
    float *image = image_with_ties(w);
    int y, x, c, relu;
    if (!kd__window_halves(w)) return;
    image[w->in_row + w->channels - 1] = NAN;
    for (relu = 0; relu < 2; ++relu) {
        float *out = fence(floats), *plain = fence(floats);
        float *places = fence((size_t)(w->out_h * w->out_w * w->channels)), *place = places;
        kd->k->maxpool(w, image, plain);
        kd->k->maxpool_places(w, image, relu, out, places);
        expect_bits(out, plain, floats);
        EACH_OUTPUT(w)
        {
            for (c = 0; c < w->channels; ++c, ++place) {
                const ptrdiff_t corner = 2 * y * w->in_row + 2 * x * w->channels + c;
                const ptrdiff_t behind = largest_at(w, image, y, x, c) - corner;
                const float largest = out[y * w->out_row + x * w->channels + c];
                const int wanted_place = largest != largest || (relu && largest <= 0) ? 4
                                         : behind >= w->in_row                        ? 2 + (behind > w->in_row)
                                                                                      : behind > 0;
                if (*place != (float)wanted_place)
                    fail_msg("%s on %s: (%d, %d), channel %d is said to come from place %g, not %d", where,
                             isa_name, y, x, c, (double)*place, wanted_place);
            }
        }
        fences_done();
        image = image_with_ties(w);
    }
}

static void check_maxpool_places(const kd_ctx *kd) { on_every_window(kd, "maxpool_places", maxpool_places_window); }

static void maxpool_places_grad_window(const kd_ctx *kd, const kd__window *w)
{
    int way, relu;
    for (way = BY_PLACES; way < POOL_GRADS && kd__window_halves(w); ++way) {
        for (relu = 0; relu < 2; ++relu) maxpool_grad_onto(kd, w, way, relu);
    }
}

static void check_maxpool_places_grad(const kd_ctx *kd)
{
    on_every_window(kd, "maxpool_places_grad", maxpool_places_grad_window);
}

static void avgpool_window(const kd_ctx *kd, const kd__window *w)
{
    const float *image = number_rows(w->in_h, w->in_w * w->channels, w->in_row, 1);
    float *out = fence(lines_floats(w->out_h, w->out_w * w->channels, w->out_row));
    double *want = wanted(NULL, lines_floats(w->out_h, w->out_w * w->channels, w->out_row));
    ptrdiff_t at;
    int y, x, i, j, c;
    EACH_OUTPUT(w)
    {
        EACH_TAP(w, w->in_row)
        {
            for (c = 0; c < w->channels; ++c)
                want[y * w->out_row + x * w->channels + c] += (double)image[at + c] / (w->kernel_h * w->kernel_w);
        }
    }
    kd->k->avgpool(w, image, out);
    expect_lines(out, want, w->out_h, w->out_w * w->channels, w->out_row);
}

static void check_avgpool(const kd_ctx *kd) { on_every_window(kd, "avgpool", avgpool_window); }

static void avgpool_grad_window(const kd_ctx *kd, const kd__window *w)
{
    const float *dy = number_rows(w->out_h, w->out_w * w->channels, w->out_row, 1);
    float *dx = number_rows(w->in_h, w->in_w * w->channels, w->in_row, 1);
    double *want = wanted(dx, lines_floats(w->in_h, w->in_w * w->channels, w->in_row));
    ptrdiff_t at;
    int y, x, i, j, c;
    EACH_OUTPUT(w)
    {
        EACH_TAP(w, w->in_row)
        {
            for (c = 0; c < w->channels; ++c)
                want[at + c] += (double)dy[y * w->out_row + x * w->channels + c] / (w->kernel_h * w->kernel_w);
        }
    }
    kd->k->avgpool_grad(w, dy, dx);
    expect_lines(dx, want, w->in_h, w->in_w * w->channels, w->in_row);
}

static void check_avgpool_grad(const kd_ctx *kd) { on_every_window(kd, "avgpool_grad", avgpool_grad_window); }

/* ---- batch normalisation --------------------------------------------------------------------------------- */

typedef void (*image_fn)(const kd_ctx *kd, const kd__image *i);

static void on_every_image(const kd_ctx *kd, const char *name, image_fn check)
{
    static const int sizes[][2] = {{1, 1}, {1, 7}, {3, 5}, {4, 4}, {9, 2}};
    int channels, n;
    for (n = 0; n < KD__COUNT(sizes); ++n) {
        for (channels = 1; channels <= SIZES; ++channels) {
            kd__image i;
            i.channels = channels, i.h = sizes[n][0], i.w = sizes[n][1];
            i.row = (ptrdiff_t)i.w * channels + 5;
            snprintf(where, sizeof where, "%s, %dx%d pixels, %d channels", name, i.h, i.w, channels);
            check(kd, &i);
            fences_done();
        }
    }
}

#define EACH_NUMBER(i)                                                                                             \
    for (y = 0; y < (i)->h; ++y)                                                                                   \
        for (x = 0; x < (i)->w; ++x)                                                                               \
            for (c = 0; c < (i)->channels; ++c)

static float *norm_numbers(const kd__image *i, ptrdiff_t row)
{
    return number_rows(i->h, i->w * i->channels, row, 1);
}

static float *channel_numbers(const kd__image *i, float scale) { return numbers((size_t)i->channels, scale); }

/* The numbers are far from 0: a variance made from sums of squares would have no digit left. */
static void norm_stats_image(const kd_ctx *kd, const kd__image *i)
{
    float *image = norm_numbers(i, i->row), *mean = fence((size_t)i->channels), *m2 = fence((size_t)i->channels);
    double want_mean[SIZES] = {0}, want_m2[SIZES] = {0};
    int y, x, c;
    EACH_NUMBER(i) image[y * i->row + x * i->channels + c] += 1000;
    EACH_NUMBER(i) want_mean[c] += (double)image[y * i->row + x * i->channels + c] / (i->h * i->w);
    EACH_NUMBER(i)
    {
        const double d = (double)image[y * i->row + x * i->channels + c] - want_mean[c];
        want_m2[c] += d * d;
    }
    kd->k->norm_stats(i, image, mean, m2);
    expect_near(mean, want_mean, (size_t)i->channels, 2e-7, 0);
    expect_near(m2, want_m2, (size_t)i->channels, 1e-4, 1e-6);
}

static void check_norm_stats(const kd_ctx *kd) { on_every_image(kd, "norm_stats", norm_stats_image); }

static void norm_apply_image(const kd_ctx *kd, const kd__image *i)
{
    const ptrdiff_t y_row = i->row + 2;
    const int act = i->channels % 3 == 1 ? KD__RELU : KD__IDENTITY;
    const float *image = norm_numbers(i, i->row), *mean = channel_numbers(i, 1), *scale = channel_numbers(i, 3),
                *shift = channel_numbers(i, 1);
    float *out = fence(lines_floats(i->h, i->w * i->channels, y_row));
    double *want = wanted(NULL, lines_floats(i->h, i->w * i->channels, y_row));
    int y, x, c;
    EACH_NUMBER(i)
    want[y * y_row + x * i->channels + c] = reference_act(
        act, 0,
        ((double)image[y * i->row + x * i->channels + c] - (double)mean[c]) * (double)scale[c] + (double)shift[c]);
    kd->k->norm_apply(i, image, mean, scale, shift, act, 0, out, y_row);
    expect_lines(out, want, i->h, i->w * i->channels, y_row);
}

static void check_norm_apply(const kd_ctx *kd) { on_every_image(kd, "norm_apply", norm_apply_image); }

static void norm_grad_stats_image(const kd_ctx *kd, const kd__image *i)
{
    const ptrdiff_t dy_row = i->row + 2;
    const float *image = norm_numbers(i, i->row), *dy = norm_numbers(i, dy_row), *mean = channel_numbers(i, 1),
                *inv_std = channel_numbers(i, 3);
    float *sum_dy = fence((size_t)i->channels), *sum_dy_xhat = fence((size_t)i->channels);
    double want_dy[SIZES] = {0}, want_dy_xhat[SIZES] = {0};
    int y, x, c;
    EACH_NUMBER(i)
    {
        const double d = (double)dy[y * dy_row + x * i->channels + c];
        want_dy[c] += d;
        want_dy_xhat[c] +=
            d * ((double)image[y * i->row + x * i->channels + c] - (double)mean[c]) * (double)inv_std[c];
    }
    kd->k->norm_grad_stats(i, image, dy, dy_row, mean, inv_std, sum_dy, sum_dy_xhat);
    expect_near(sum_dy, want_dy, (size_t)i->channels, 1e-6, 1e-6);
    expect_near(sum_dy_xhat, want_dy_xhat, (size_t)i->channels, 1e-6, 4e-6);
}

static void check_norm_grad_stats(const kd_ctx *kd)
{
    on_every_image(kd, "norm_grad_stats", norm_grad_stats_image);
}

static void norm_grad_image(const kd_ctx *kd, const kd__image *i)
{
    const ptrdiff_t dy_row = i->row + 2, dx_row = i->row + 4;
    const int accumulate = i->channels % 2;
    const float *image = norm_numbers(i, i->row), *dy = norm_numbers(i, dy_row), *mean = channel_numbers(i, 1),
                *inv_std = channel_numbers(i, 2), *factor = channel_numbers(i, 2), *mean_dy = channel_numbers(i, 1),
                *mean_dy_xhat = channel_numbers(i, 1);
    const size_t floats = lines_floats(i->h, i->w * i->channels, dx_row);
    float *dx = accumulate ? norm_numbers(i, dx_row) : fence(floats);
    double *want = wanted(accumulate ? dx : NULL, floats);
    int y, x, c;
    EACH_NUMBER(i)
    {
        const double xhat =
            ((double)image[y * i->row + x * i->channels + c] - (double)mean[c]) * (double)inv_std[c];
        want[y * dx_row + x * i->channels + c] +=
            (double)factor[c] *
            ((double)dy[y * dy_row + x * i->channels + c] - (double)mean_dy[c] - xhat * (double)mean_dy_xhat[c]);
    }
    kd->k->norm_grad(i, image, dy, dy_row, mean, inv_std, factor, mean_dy, mean_dy_xhat, dx, dx_row, accumulate);
    expect_lines(dx, want, i->h, i->w * i->channels, dx_row);
}

static void check_norm_grad(const kd_ctx *kd) { on_every_image(kd, "norm_grad", norm_grad_image); }

/* ---- rows of logits -------------------------------------------------------------------------------------- */

/* Beyond one block of columns on every instruction set, beyond two, and too long for rows to stand abreast. */
static const int long_rows[] = {100, 161, 1100};
enum { LONGEST_ROW = 1100 };

static void softmax_case(const kd_ctx *kd, int rows, int cols, int logarithm)
{
    static const float temperatures[] = {0.5f, 1, 4, 20};
    static double logits[LONGEST_ROW], want[20 * LONGEST_ROW];
    const float t = temperatures[(rows + cols) % 4];
    float *x = numbers((size_t)(rows * cols), 10), *y = (rows + cols) % 2 ? x : fence((size_t)(rows * cols));
    int r, c;
    snprintf(where, sizeof where, "softmax (logarithm: %d), %d rows, %d columns, T = %g", logarithm, rows, cols,
             (double)t);
    for (r = 0; r < rows; ++r) {
        for (c = 0; c < cols; ++c) logits[c] = (double)x[r * cols + c];
        reference_log_softmax(logits, cols, (double)t, want + r * cols);
        for (c = 0; c < cols && !logarithm; ++c) want[r * cols + c] = exp(want[r * cols + c]);
    }
    kd->k->softmax(x, rows, cols, t, logarithm, y);
    expect_near(y, want, (size_t)(rows * cols), logarithm ? 3e-7 : 5e-6, logarithm ? 1e-6 : 1e-30);
    fences_done();
}

static void check_softmax(const kd_ctx *kd)
{
    int rows, cols, logarithm;
    for (logarithm = 0; logarithm < 2; ++logarithm) {
        for (cols = 1; cols <= SIZES; ++cols) {
            for (rows = 1; rows <= 20; ++rows) softmax_case(kd, rows, cols, logarithm);
        }
        for (cols = 0; cols < KD__COUNT(long_rows); ++cols) {
            for (rows = 1; rows <= 3; ++rows) softmax_case(kd, rows, long_rows[cols], logarithm);
        }
    }
}

static void check_softmax_grad(const kd_ctx *kd)
{
    static double want[3 * LONGEST_ROW];
    int rows, cols, r, c, which;
    for (which = 1; which <= SIZES + KD__COUNT(long_rows); ++which) {
        cols = which <= SIZES ? which : long_rows[which - SIZES - 1];
        for (rows = 1; rows <= 3; ++rows) {
            const float *y = numbers((size_t)(rows * cols), 1);
            float *dy = numbers((size_t)(rows * cols), 1);
            snprintf(where, sizeof where, "softmax_grad, %d rows, %d columns", rows, cols);
            for (r = 0; r < rows; ++r) {
                double dot = 0;
                for (c = r * cols; c < (r + 1) * cols; ++c) dot += (double)y[c] * (double)dy[c];
                for (c = r * cols; c < (r + 1) * cols; ++c) want[c] = 0.25 * (double)y[c] * ((double)dy[c] - dot);
            }
            kd->k->softmax_grad(y, rows, cols, 0.25f, dy);
            expect_near(dy, want, (size_t)(rows * cols), 1e-6, 4e-6);
            fences_done();
        }
    }
}

/* Rows that lie apart, gradients that are added to, and each output by itself. */
static void layernorm_case(const kd_ctx *kd, int rows, int cols)
{
    static double y[3 * LONGEST_ROW], dx[3 * LONGEST_ROW], dgamma[LONGEST_ROW], dbeta[LONGEST_ROW];
    kd__layernorm l;
    float *dy = number_rows(rows, cols, cols + 1, 1), *grad, *stats = fence((size_t)(2 * rows));
    int r, c;
    memset(&l, 0, sizeof l);
    l.rows = rows, l.cols = cols;
    l.x_row = cols + 3, l.y_row = cols + 1, l.dx_row = cols + 2;
    l.x = number_rows(rows, cols, l.x_row, 3);
    l.gamma = numbers((size_t)cols, 1), l.beta = numbers((size_t)cols, 1);
    l.eps = 0.125f;
    l.y = number_rows(rows, cols, l.y_row, 1);
    l.stats = stats;
    grad = number_rows(rows, cols, l.dx_row, 1);
    l.accumulate = (rows + cols) % 2;
    l.dgamma = numbers((size_t)cols, 1), l.dbeta = numbers((size_t)cols, 1);
    for (c = 0; c < cols; ++c) dgamma[c] = (double)l.dgamma[c], dbeta[c] = (double)l.dbeta[c];
    for (r = 0; r < rows; ++r) {
        const float *x = l.x + r * l.x_row, *g = dy + r * l.y_row;
        double mean = 0, var = 0, a = 0, b = 0;
        for (c = 0; c < cols; ++c) mean += (double)x[c] / cols;
        for (c = 0; c < cols; ++c) var += ((double)x[c] - mean) * ((double)x[c] - mean) / cols;
        for (c = 0; c < cols; ++c) {
            const double xhat = ((double)x[c] - mean) / sqrt(var + 0.125), d = (double)g[c] * (double)l.gamma[c];
            y[r * cols + c] = xhat * (double)l.gamma[c] + (double)l.beta[c];
            a += d / cols, b += d * xhat / cols;
            dgamma[c] += (double)g[c] * xhat, dbeta[c] += (double)g[c];
        }
        for (c = 0; c < cols; ++c) {
            const double xhat = ((double)x[c] - mean) / sqrt(var + 0.125);
            dx[r * cols + c] = ((double)g[c] * (double)l.gamma[c] - a - xhat * b) / sqrt(var + 0.125) +
                               (l.accumulate ? (double)grad[r * l.dx_row + c] : 0);
        }
    }
    snprintf(where, sizeof where, "layernorm, %d rows, %d columns", rows, cols);
    kd->k->layernorm(&l);
    for (r = 0; r < rows; ++r) expect_near(l.y + r * l.y_row, y + r * cols, (size_t)cols, 2e-6, 4e-6);
    l.dy = dy;
    l.dx = grad;
    kd->k->layernorm_grad(&l);
    for (r = 0; r < rows; ++r) expect_near(grad + r * l.dx_row, dx + r * cols, (size_t)cols, 4e-6, 1e-5);
    expect_near(l.dgamma, dgamma, (size_t)cols, 4e-6, 1e-5);
    expect_near(l.dbeta, dbeta, (size_t)cols, 4e-6, 1e-5);
    l.dgamma = l.dbeta = NULL, l.accumulate = 0;
    kd->k->layernorm_grad(&l);
    l.dx = NULL;
    kd->k->layernorm_grad(&l);
    fences_done();
}

static void check_layernorm(const kd_ctx *kd)
{
    int rows, cols;
    for (rows = 1; rows <= 3; ++rows) {
        for (cols = 1; cols <= SIZES; ++cols) layernorm_case(kd, rows, cols);
        for (cols = 0; cols < KD__COUNT(long_rows); ++cols) layernorm_case(kd, rows, long_rows[cols]);
    }
}
static void check_layernorm_grad(const kd_ctx *kd) { check_layernorm(kd); }

static void check_log_mix(const kd_ctx *kd)
{
    int n, count, i, j;
    for (n = 1; n <= SIZES; ++n) {
        for (count = 1; count <= 5; ++count) {
            const float *x[5], log_weights[5] = {-0.5f, -1, -2, -0.1f, -3};
            float *y = fence((size_t)n);
            double want[SIZES];
            snprintf(where, sizeof where, "log_mix of %d, %d numbers", count, n);
            for (i = 0; i < count; ++i) x[i] = numbers((size_t)n, n % 2 ? 4 : 30);
            for (j = 0; j < n; ++j) {
                double sum = 0;
                for (i = 0; i < count; ++i) sum += exp((double)x[i][j] + (double)log_weights[i]);
                want[j] = 3 * log(sum);
            }
            kd->k->log_mix(n, count, x, log_weights, 3, y);
            expect_near(y, want, (size_t)n, 3e-7, 2e-6);
            fences_done();
        }
    }
}

/* Losses: all combinations of labels, soft labels, a teacher and a gradient in the student's place, from
   kd__loss_prepare's weights. */
static void loss_case(const kd_ctx *kd, kd_loss_kind kind, int rows, int cols, int way)
{
    kd_loss_desc desc = kd_loss_defaults(kind);
    const int has_teacher = kind != KD_LOSS_CE && !(kind == KD_LOSS_BCE && way % 3 == 0);
    const int unlabelled = has_teacher && way % 5 == 0;
    const size_t floats = (size_t)(rows * cols);
    float *student = numbers(floats, 8), *value = fence((size_t)rows);
    const float *teacher = has_teacher ? numbers(floats, 8) : NULL;
    float *grad = way % 4 == 0 ? student : way % 4 == 1 ? NULL : fence(floats);
    int32_t labels[20];
    static double logits[20 * LONGEST_ROW], teachers[20 * LONGEST_ROW], soft_labels[20 * LONGEST_ROW];
    static double want_grad[20 * LONGEST_ROW];
    double want[20];
    kd__row_loss l;
    kd__loss_fn run;
    int r, i;
    desc.temperature = way % 2 ? 3 : 0.75f;
    desc.alpha = 0.375f;
    desc.label_smoothing = way % 3 == 1 ? 0.125f : 0;
    desc.reduction = way % 7 == 0 ? KD_REDUCTION_ELEMENTS : KD_REDUCTION_ROWS;
    if (way % 6 == 2) {
        float *soft = numbers(floats, 1);
        for (i = 0; i < rows * cols; ++i) soft[i] = soft[i] * soft[i], soft_labels[i] = (double)soft[i];
        desc.soft_labels = soft;
    }
    for (r = 0; r < rows; ++r) {
        labels[r] = (r * 7 + way) % (cols == 1 && kind == KD_LOSS_BCE ? 2 : cols);
        if (unlabelled && r % 3 == 1) labels[r] = KD_UNLABELLED;
    }
    snprintf(where, sizeof where, "%s loss, way %d, %d rows, %d columns", kd_loss_name(kind), way, rows, cols);
    for (i = 0; i < rows * cols; ++i) {
        logits[i] = (double)student[i];
        teachers[i] = teacher ? (double)teacher[i] : 0;
    }
    for (r = 0; r < rows; ++r)
        want[r] = reference_loss_row(&desc, cols, logits + r * cols, teacher ? teachers + r * cols : NULL,
                                     desc.soft_labels ? soft_labels + r * cols : NULL, labels[r], rows,
                                     want_grad + r * cols);
    run = kd__loss_prepare(kd, &desc, has_teacher, cols, rows, &l);
    l.rows = rows;
    l.student = student, l.teacher = teacher, l.labels = labels, l.soft_labels = desc.soft_labels;
    l.grad = grad, l.value = value, l.powers = fence((size_t)kd__loss_powers(cols));
    run(&l);
    expect_near(value, want, (size_t)rows, 2e-6, 2e-5);
    if (grad) expect_near(grad, want_grad, floats, 2e-6, 2e-6);
    fences_done();
}

static void on_every_loss(const kd_ctx *kd, const kd_loss_kind *kinds, int count)
{
    int rows, cols, i, way = 0;
    for (i = 0; i < count; ++i) {
        for (cols = 1; cols <= SIZES; ++cols) {
            for (rows = 1; rows <= 20; ++rows) loss_case(kd, kinds[i], rows, cols, way++);
        }
        for (cols = 0; cols < KD__COUNT(long_rows); ++cols) {
            for (rows = 1; rows <= 12; ++rows) loss_case(kd, kinds[i], rows, long_rows[cols], way++);
        }
    }
}

static void check_row_loss(const kd_ctx *kd)
{
    static const kd_loss_kind kinds[] = {KD_LOSS_CE, KD_LOSS_KL, KD_LOSS_HINTON};
    on_every_loss(kd, kinds, 3);
}

static void check_mse_loss(const kd_ctx *kd)
{
    const kd_loss_kind kind = KD_LOSS_MSE;
    on_every_loss(kd, &kind, 1);
}

static void check_bce_loss(const kd_ctx *kd)
{
    const kd_loss_kind kind = KD_LOSS_BCE;
    on_every_loss(kd, &kind, 1);
}

/* ---- sums and updates over all weights ------------------------------------------------------------------- */

static void check_sum_squares(const kd_ctx *kd)
{
    static const int large[] = {4095, 4096, 4097, 8192, 10001};
    int n, i;
    for (n = 0; n <= SIZES + KD__COUNT(large); ++n) {
        const int count = n <= SIZES ? n : large[n - SIZES - 1];
        const float *x = numbers((size_t)count, 1);
        double want = 0, got;
        float rounded;
        snprintf(where, sizeof where, "sum_squares of %d numbers", count);
        for (i = 0; i < count; ++i) want += (double)x[i] * (double)x[i];
        got = kd->k->sum_squares(count, x);
        rounded = (float)got;
        expect_near(&rounded, &want, 1, 3e-7, 0);
        fences_done();
    }
}

static void check_all_finite(const kd_ctx *kd)
{
    const float fine[] = {0, -0.0f, 1, 3.4028235e38f, -3.4028235e38f, 1e-45f, -1e-40f};
    const float wrong[] = {INFINITY, -INFINITY, NAN, -NAN};
    int n, i, j;
    assert_int_equal(kd->k->all_finite(0, NULL), 1);
    for (n = 1; n <= SIZES; ++n) {
        float *x = fence((size_t)n);
        for (i = 0; i < n; ++i) x[i] = fine[i % KD__COUNT(fine)];
        if (!kd->k->all_finite(n, x)) fail_msg("all_finite on %s: %d finite numbers are not", isa_name, n);
        for (i = 0; i < n; ++i) {
            const float kept = x[i];
            for (j = 0; j < KD__COUNT(wrong); ++j) {
                x[i] = wrong[j];
                if (kd->k->all_finite(n, x))
                    fail_msg("all_finite on %s: %g at %d of %d is not seen", isa_name, (double)x[i], i, n);
            }
            x[i] = kept;
        }
        fences_done();
    }
}

static void check_update(const kd_ctx *kd)
{
    int optimizer, way, n, i;
    for (optimizer = 0; optimizer < KD_OPTIMIZER_COUNT; ++optimizer) {
        for (n = 1; n <= SIZES; ++n) {
            for (way = 0; way < 8; ++way) {
                float *w = numbers((size_t)n, 1), *m = numbers((size_t)n, 0.1f), *v = numbers((size_t)n, 1);
                const float *g = numbers((size_t)n, 1);
                double want_w[SIZES], want_m[SIZES], want_v[SIZES];
                kd__update u;
                memset(&u, 0, sizeof u);
                u.optimizer = optimizer;
                u.nesterov = way & 1;
                u.momentum = way & 2 ? 0.9f : 0;
                u.decay = way & 4 ? 0.05f : 0;
                u.lr = 0.1f, u.beta1 = 0.9f, u.beta2 = 0.95f, u.epsilon = 1e-3f, u.grad_scale = 0.5f;
                u.correction1 = 3.69f, u.correction2 = 1.13f;
                snprintf(where, sizeof where, "update, optimizer %d, way %d, %d numbers", optimizer, way, n);
                for (i = 0; i < n; ++i) {
                    double grad = (double)g[i] * 0.5, weight = (double)w[i];
                    v[i] *= v[i];
                    want_m[i] = (double)m[i], want_v[i] = (double)v[i];
                    if (optimizer == KD_ADAMW)
                        weight -= (double)u.lr * (double)u.decay * weight;
                    else
                        grad += (double)u.decay * weight;
                    if (optimizer == KD_SGD) {
                        if (u.momentum != 0) want_m[i] = (double)u.momentum * want_m[i] + grad;
                        weight -= (double)u.lr * (u.momentum == 0 ? grad
                                                  : u.nesterov    ? grad + (double)u.momentum * want_m[i]
                                                                  : want_m[i]);
                    } else {
                        want_m[i] = (double)u.beta1 * want_m[i] + (1 - (double)u.beta1) * grad;
                        want_v[i] = (double)u.beta2 * want_v[i] + (1 - (double)u.beta2) * grad * grad;
                        weight -= (double)u.lr * want_m[i] * (double)u.correction1 /
                                  (sqrt(want_v[i]) * (double)u.correction2 + (double)u.epsilon);
                    }
                    want_w[i] = weight;
                }
                kd->k->update(&u, n, w, g, optimizer == KD_SGD && u.momentum == 0 ? NULL : m,
                              optimizer == KD_SGD ? NULL : v);
                expect_near(w, want_w, (size_t)n, 1e-6, 1e-6);
                expect_near(m, want_m, (size_t)n, 3e-7, 3e-7);
                expect_near(v, want_v, (size_t)n, 3e-7, 3e-7);
                fences_done();
            }
        }
    }
}

static void check_limit_norms(const kd_ctx *kd)
{
    int rows, cols, r, c;
    for (rows = 1; rows <= 12; ++rows) {
        for (cols = 1; cols <= SIZES; ++cols) {
            float *w = number_rows(rows, cols, cols + 3, 1);
            double *want = wanted(w, lines_floats(rows, cols, cols + 3));
            snprintf(where, sizeof where, "limit_norms, %d rows, %d columns", rows, cols);
            for (c = 0; c < cols; ++c) {
                double squares = 0;
                for (r = 0; r < rows; ++r) squares += want[r * (cols + 3) + c] * want[r * (cols + 3) + c];
                for (r = 0; squares > 1.44 && r < rows; ++r) want[r * (cols + 3) + c] *= 1.2 / sqrt(squares);
            }
            kd->k->limit_norms(w, cols + 3, rows, cols, 1.2f);
            expect_lines(w, want, rows, cols, cols + 3);
            fences_done();
        }
    }
}

/* ---- products of doubles --------------------------------------------------------------------------------- */

static double *double_numbers(size_t count)
{
    double *x = (double *)(void *)fence(2 * count);
    size_t i;
    for (i = 0; i < count; ++i) x[i] = (double)number() + (double)number() * 1e-8;
    return x;
}

static double multiply_add(double a, double b, double c) { return fused ? fma(a, b, c) : a * b + c; }

/* c = a b^T with rows further apart than they are long; what lies between them stays. */
static void expect_doubles_dots(const kd_ctx *kd, int m, int n, int k)
{
    const int a_row = k + 1, b_row = k + 3, c_row = n + 1;
    double *a = double_numbers((size_t)((m - 1) * a_row + k)), *b = double_numbers((size_t)((n - 1) * b_row + k));
    double *got = double_numbers((size_t)((m - 1) * c_row + n)), beyond = m > 1 ? got[n] : 0;
    kd__doubles p;
    int i, j, x, lane;
    memset(&p, 0, sizeof p);
    p.m = m, p.n = n, p.k = k;
    p.a = a, p.a_row = a_row, p.b = b, p.b_row = b_row, p.c = got, p.c_row = c_row;
    snprintf(where, sizeof where, "doubles_dots, %d x %d of %d", m, n, k);
    kd->k->doubles_dots(&p);
    for (i = 0; i < m; ++i) {
        for (j = 0; j < n; ++j) {
            double lanes[8] = {0, 0, 0, 0, 0, 0, 0, 0}, want = 0;
            for (x = 0; x <= k; ++x) {
                if (x && (x == k || x % 1024 == 0)) {
                    for (lane = 0; lane < 8; ++lane) want += lanes[lane], lanes[lane] = 0;
                }
                if (x < k) lanes[x % 8] = multiply_add(a[i * a_row + x], b[j * b_row + x], lanes[x % 8]);
            }
            if (got[i * c_row + j] != want)
                fail_msg("%s on %s: (%d, %d) is %.17g, expected %.17g", where, isa_name, i, j, got[i * c_row + j],
                         want);
        }
    }
    if (m > 1 && got[n] != beyond) fail_msg("%s on %s: writes beyond a row", where, isa_name);
    fences_done();
}

/* c += a b; turned, a lies as (k, m). */
static void expect_doubles_add(const kd_ctx *kd, int m, int n, int k, int turned)
{
    const int a_row = turned ? 1 : k + 1, a_col = turned ? m + 1 : 1, b_row = n + 3, c_row = n + 1;
    double *a = double_numbers((size_t)((m - 1) * a_row + (k - 1) * a_col + 1));
    double *b = double_numbers((size_t)((k - 1) * b_row + n)), *got = double_numbers((size_t)((m - 1) * c_row + n));
    double *before = (double *)(void *)fence(2 * (size_t)((m - 1) * c_row + n));
    kd__doubles p;
    int i, j, x;
    memcpy(before, got, (size_t)((m - 1) * c_row + n) * sizeof *got);
    memset(&p, 0, sizeof p);
    p.m = m, p.n = n, p.k = k;
    p.a = a, p.a_row = a_row, p.a_col = a_col, p.b = b, p.b_row = b_row, p.c = got, p.c_row = c_row;
    snprintf(where, sizeof where, "doubles_add, %d x %d over %d%s", m, n, k, turned ? ", turned" : "");
    kd->k->doubles_add(&p);
    for (i = 0; i < m; ++i) {
        for (j = 0; j < (i + 1 < m ? c_row : n); ++j) {
            double want = before[i * c_row + j];
            for (x = 0; x < k && j < n; ++x) want = multiply_add(a[i * a_row + x * a_col], b[x * b_row + j], want);
            if (got[i * c_row + j] != want)
                fail_msg("%s on %s: (%d, %d) is %.17g, expected %.17g", where, isa_name, i, j, got[i * c_row + j],
                         want);
        }
    }
    fences_done();
}

/* Around the columns that stay in a cache. */
static const int deep_sizes[] = {127, 128, 129, 1023, 1024, 1025, 2060};

static void check_doubles_dots(const kd_ctx *kd)
{
    int n, i;
    for (n = 1; n <= SIZES; ++n) {
        expect_doubles_dots(kd, 1 + n % 7, 1 + n % 20, n);
        expect_doubles_dots(kd, 1 + n % 5, n, 1 + n % 17);
    }
    for (i = 0; i < KD__COUNT(deep_sizes); ++i) expect_doubles_dots(kd, 4, 10, deep_sizes[i]);
}

static void check_doubles_add(const kd_ctx *kd)
{
    int n, i;
    for (n = 1; n <= SIZES; ++n) {
        for (i = 0; i < 2; ++i) {
            expect_doubles_add(kd, 1 + n % 17, n, 1 + n % 9, i);
            expect_doubles_add(kd, n, 1 + n % 33, 1 + n % 4, i);
        }
    }
    for (i = 0; i < KD__COUNT(deep_sizes); ++i) expect_doubles_add(kd, 9, 25, deep_sizes[i], i % 2);
}

/* ---- functions of one number, over the whole range ------------------------------------------------------- */

typedef void (*vector_fn)(ptrdiff_t n, const float *x, float *y);

#define VECTOR_FUNCTIONS(X, isa, load, store, lanes)                                                               \
    X(exp, isa, load, store, lanes)                                                                                \
    X(log, isa, load, store, lanes)                                                                                \
    X(sigmoid, isa, load, store, lanes)                                                                            \
    X(tanh, isa, load, store, lanes)                                                                               \
    X(normal_cdf, isa, load, store, lanes)                                                                         \
    X(softplus, isa, load, store, lanes)
#define VECTOR_LOOP(name, isa, load, store, lanes)                                                                 \
    static void each_##name##_##isa(ptrdiff_t n, const float *x, float *y)                                         \
    {                                                                                                              \
        ptrdiff_t i;                                                                                               \
        for (i = 0; i < n; i += lanes) store(y + i, kd__##name##_##isa(load(x + i)));                              \
    }
#define VECTOR_ENTRY(name, isa, load, store, lanes) each_##name##_##isa,
#define LOAD_FLOAT(p) (*(p))
#define STORE_FLOAT(p, x) ((void)(*(p) = (x)))
#define ON_SCALAR(X) VECTOR_FUNCTIONS(X, scalar, LOAD_FLOAT, STORE_FLOAT, 1)
ON_SCALAR(VECTOR_LOOP)
#if KD__X86
#define ON_AVX2(X) VECTOR_FUNCTIONS(X, avx2, _mm256_loadu_ps, _mm256_storeu_ps, 8)
#define ON_AVX512(X) VECTOR_FUNCTIONS(X, avx512, _mm512_loadu_ps, _mm512_storeu_ps, 16)
KD__TARGET_BEGIN("avx2,fma")
ON_AVX2(VECTOR_LOOP)
KD__TARGET_END
KD__TARGET_BEGIN("avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")
ON_AVX512(VECTOR_LOOP)
KD__TARGET_END
#endif
#if KD__NEON
#define ON_NEON(X) VECTOR_FUNCTIONS(X, neon, vld1q_f32, vst1q_f32, 4)
ON_NEON(VECTOR_LOOP)
#endif

static vector_fn vector_function(kd_isa isa, int which)
{
    static const vector_fn scalar[] = {ON_SCALAR(VECTOR_ENTRY)};
#if KD__X86
    static const vector_fn avx2[] = {ON_AVX2(VECTOR_ENTRY)}, avx512[] = {ON_AVX512(VECTOR_ENTRY)};
    if (isa == KD_ISA_AVX2) return avx2[which];
    if (isa == KD_ISA_AVX512) return avx512[which];
#endif
#if KD__NEON
    static const vector_fn neon[] = {ON_NEON(VECTOR_ENTRY)};
    if (isa == KD_ISA_NEON) return neon[which];
#endif
    return isa == KD_ISA_SCALAR ? scalar[which] : NULL;
}

/* Where it is no normal float, it is 0. */
static double exp_or_none(double x) { return x < (double)-87.3365f ? 0 : exp(x); }
static double log_or_nan(double x) { return x < 0 ? NAN : x == 0 ? -INFINITY : log(x); }
static double sigmoid(double x) { return 1 / (1 + exp(-x)); }
static double normal_cdf(double x) { return 0.5 * erfc(-x / sqrt(2.0)); }

/* The distance between floats near x. */
static double ulp_of(double x)
{
    int exponent;
    if (fabs(x) < 1.17549435e-38) return 1.40129846e-45;
    frexp(x, &exponent);
    return ldexp(1, exponent - 24);
}

/* Which 32-bit NEON takes for 0. */
static int subnormal(float x) { return x != 0 && fabsf(x) < FLT_MIN; }

/* `count` numbers on every instruction set: error at most ulps * ulp + absolute, infinities and NaNs where they
   should be, the same bits with and without ... as far as both have fused multiply-adds. */
static void expect_accurate(const char *name, int which, double (*exact)(double), const float *x, ptrdiff_t count,
                            double ulps, double absolute)
{
    static float got[1024], fused_bits[1024];
    static double want[1024];
    int fused_seen = 0;
    ptrdiff_t i;
    kd_isa isa;
    for (i = 0; i < count; ++i) want[i] = exact((double)x[i]);
    for (isa = KD_ISA_SCALAR; isa < KD_ISA_COUNT; isa = (kd_isa)(isa + 1)) {
        if (!kd_isa_available(isa)) continue;
        vector_function(isa, which)(1024, x, got);
        for (i = 0; i < count; ++i) {
            const double error = fabs((double)got[i] - want[i]);
            if (want[i] != want[i] ? got[i] != got[i] : (float)want[i] == got[i]) continue;
            if (KD__NEON == 32 && isa == KD_ISA_NEON && (subnormal(x[i]) || subnormal((float)want[i]))) continue;
            if (!(error <= ulps * ulp_of(want[i]) + absolute))
                fail_msg("%s(%.9g) on %s is %.9g, expected %.9g: wrong by %.3f ulp", name, (double)x[i],
                         kd_isa_name(isa), (double)got[i], want[i], error / ulp_of(want[i]));
        }
        if (isa == KD_ISA_SCALAR) continue;
        for (i = 0; fused_seen && i < count; ++i) {
            if (got[i] == got[i] && !same_bits(&got[i], &fused_bits[i], 1))
                fail_msg("%s(%.9g) on %s is %.9g, but %.9g elsewhere", name, (double)x[i], kd_isa_name(isa),
                         (double)got[i], (double)fused_bits[i]);
        }
        memcpy(fused_bits, got, sizeof got);
        fused_seen = 1;
    }
}

/* Bounds are what every third of all floats gave, rounded up. Every `stride`-th is tried here. */
static void test_functions(void **state)
{
    static const struct {
        const char *name;
        double (*exact)(double);
        double ulps, absolute;
    } functions[] = {
        {"exp", exp_or_none, 1.05, 0},         {"log", log_or_nan, 0.85, 0},
        {"sigmoid", sigmoid, 2.5, 1.2e-38},    {"tanh", tanh, 1.35, 0},
        {"normal_cdf", normal_cdf, 0, 1.1e-7}, {"softplus", reference_softplus, 0.5, 9e-8},
    };
    const uint64_t stride = 4093;
    static float x[1024];
    int which;
    (void)state;
    for (which = 0; which < KD__COUNT(functions); ++which) {
        uint64_t bits = 0;
        while (bits < (uint64_t)1 << 32) {
            ptrdiff_t count = 0;
            fill(x, 1024, 1);
            for (; count < 1024 && bits < (uint64_t)1 << 32; bits += stride, ++count) {
                const uint32_t pattern = (uint32_t)bits;
                memcpy(&x[count], &pattern, sizeof pattern);
            }
            expect_accurate(functions[which].name, which, functions[which].exact, x, count, functions[which].ulps,
                            functions[which].absolute);
        }
    }
}

/* Activations and their derivatives through the kernels, which reach them as layers do. */
static void test_activations(void **state)
{
    /* error of the value and of the derivative: absolute where they are below 1, relative above */
    static const struct {
        int kind;
        double value, slope;
    } bounds[] = {
        {KD__RELU, 0, 0},           {KD__RELU6, 0, 0},          {KD__LEAKYRELU, 6e-8, 0},
        {KD__GELU, 1.6e-7, 1.5e-7}, {KD__SILU, 1.5e-7, 1.1e-6}, {KD__HARDSWISH, 1.4e-7, 1.2e-7},
        {KD__SIGMOID, 9e-8, 3e-8},  {KD__TANH, 8e-8, 5e-8},     {KD__GELU_TANH, 3e-7, 1e-6},
    };
    const uint32_t stride = 65521;
    kd_isa isa;
    int i;
    (void)state;
    FOR_EACH_ISA(isa)
    {
        const kd__kernels *k = kd__kernels_for(isa);
        for (i = 0; i < KD__COUNT(bounds); ++i) {
            const int kind = bounds[i].kind, from_output = kind == KD__SIGMOID || kind == KD__TANH;
            uint64_t bits;
            for (bits = 0; bits < (uint64_t)1 << 32; bits += stride) {
                const uint32_t pattern = (uint32_t)bits;
                const float one = 1;
                float x, y, slope;
                double want;
                memcpy(&x, &pattern, sizeof x);
                if (!(fabsf(x) < 1e37f)) continue; /* hardswish overflows beyond, as PyTorch's does */
                k->act(kind, 0.3f, 1, &x, &y);
                want = reference_act(kind, (double)0.3f, (double)x);
                if (!(fabs((double)y - want) <= bounds[i].value * KD__MAX(1, fabs(want))))
                    fail_msg("activation %d of %.9g on %s is %.9g, expected %.9g", kind, (double)x,
                             kd_isa_name(isa), (double)y, want);
                k->act_grad(kind, 0.3f, 1, from_output ? &y : &x, &one, &slope, 0);
                want = act_slope(kind, (double)0.3f, (double)(from_output ? y : x));
                if (!(fabs((double)slope - want) <= bounds[i].slope * KD__MAX(1, fabs(want))))
                    fail_msg("derivative of activation %d at %.9g on %s is %.9g, expected %.9g", kind, (double)x,
                             kd_isa_name(isa), (double)slope, want);
            }
        }
    }
}

/* ---- kd_sgemm -------------------------------------------------------------------------------------------- */

/* Matrices of 65 x 65 that end at a fence. A product of sizes (m, n, k) uses their last rows and columns, so its
   operands end at the fence too, and every size has the same operands in another length. */
enum { LDA = SIZES + 3, LDB = SIZES + 1, LDC = SIZES + 2, C_FLOATS = (SIZES - 1) * LDC + SIZES };

/* C = alpha * A * B + beta * C with alpha 1, -0.5, 2 (exact) and 0.3 */
static const float scales[][2] = {{1, 0}, {-0.5f, 0}, {1, 1}, {2, -0.5f}, {0.3f, 0.7f}, {0.3f, 0}};

static struct {
    float *a[2], *b[2], *c; /* as they are, and stored transposed */
    float *before[2];       /* C before: numbers, and canaries for beta = 0 */
    float *wanted;          /* [scale][k][row][column] */
} products;

static size_t product_at(int scale, int k, int row)
{
    return (((size_t)scale * (SIZES + 1) + (size_t)k) * SIZES + (size_t)row) * SIZES;
}

/* All results at once: with the last k of 65, from every beginning, for all rows and columns. */
static void products_open(void)
{
    int trans, scale, k, p, row, col;
    fences_at_front = 0;
    for (trans = 0; trans < 2; ++trans) {
        products.a[trans] = number_rows(SIZES, SIZES, LDA, 1);
        products.b[trans] = number_rows(SIZES, SIZES, LDB, 1);
        products.before[trans] = fence(C_FLOATS);
    }
    for (row = 0; row < SIZES; ++row) {
        for (col = 0; col < SIZES; ++col) {
            products.a[1][col * LDA + row] = products.a[0][row * LDA + col];
            products.b[1][col * LDB + row] = products.b[0][row * LDB + col];
        }
        fill_random(products.before[1] + row * LDC, SIZES, 1);
    }
    products.c = fence(C_FLOATS);
    if (!products.wanted) products.wanted = (float *)malloc(sizeof(float) * product_at(KD__COUNT(scales), 0, 0));
    for (scale = 0; scale < KD__COUNT(scales); ++scale) {
        const float alpha = scales[scale][0], beta = scales[scale][1];
        for (k = 0; k <= SIZES; ++k) {
            for (row = 0; row < SIZES; ++row) {
                for (col = 0; col < SIZES; ++col) {
                    float sum = beta == 0 ? 0 : beta * products.before[1][row * LDC + col];
                    for (p = SIZES - k; p < SIZES; ++p)
                        sum = fma_or_not(products.a[0][row * LDA + p], alpha * products.b[0][p * LDB + col], sum);
                    products.wanted[product_at(scale, k, row) + (size_t)col] = sum;
                }
            }
        }
    }
}

static void product_case(kd_ctx *kd, int trans_a, int trans_b, int m, int n, int k, int scale)
{
    const float alpha = scales[scale][0], beta = scales[scale][1], *before = products.before[beta != 0];
    const int skip = m ? (SIZES - m) * LDC : C_FLOATS, first = SIZES - n;
    /* chains of multiply-adds, but where alpha rounds or where a row or a column is a dot product */
    const int exact = alpha != 0.3f && !(m == 1 && trans_b) && !(n == 1 && !trans_a);
    float *c = products.c;
    int row, col;
    memcpy(c, before, C_FLOATS * sizeof *c);
    assert_ok(
        kd,
        kd_sgemm(kd, trans_a, trans_b, m, n, k, alpha,
                 products.a[trans_a] + (trans_a ? (SIZES - k) * LDA + SIZES - m : (SIZES - m) * LDA + SIZES - k),
                 LDA, products.b[trans_b] + (trans_b ? first * LDB + SIZES - k : (SIZES - k) * LDB + first), LDB,
                 beta, c + skip + first, LDC));
    if (!same_bits(c, before, (size_t)skip)) fail_msg("kd_sgemm wrote before C");
    for (row = SIZES - m; row < SIZES; ++row) {
        const float *got = c + row * LDC + first, *want = products.wanted + product_at(scale, k, row) + first;
        if (!same_bits(c + row * LDC, before + row * LDC, (size_t)first) ||
            (row < SIZES - 1 && !same_bits(got + n, before + row * LDC + SIZES, LDC - SIZES)))
            fail_msg("kd_sgemm wrote between the rows of C");
        if (exact && same_bits(got, want, (size_t)n)) continue;
        for (col = 0; col < n; ++col) {
            if (exact || !(fabs((double)got[col] - (double)want[col]) <= 1.2e-5))
                fail_msg(
                    "kd_sgemm on %s, transposed %d %d, %d x %d x %d, alpha %g, beta %g: row %d, column %d is %.9g, "
                    "expected %.9g",
                    isa_name, trans_a, trans_b, m, n, k, (double)alpha, (double)beta, row - SIZES + m, col,
                    (double)got[col], (double)want[col]);
        }
    }
}

/* The expectations themselves, against sums in double. */
static void products_check(void)
{
    int row, col, p;
    for (row = 0; row < SIZES; ++row) {
        for (col = 0; col < SIZES; ++col) {
            double sum = 0;
            for (p = 0; p < SIZES; ++p)
                sum += (double)products.a[0][row * LDA + p] * (double)products.b[0][p * LDB + col];
            assert_near(products.wanted[product_at(0, SIZES, row) + (size_t)col], sum, 2e-6);
        }
    }
}

/* m, n and k from 0 to 65: for each pair of two of them, all values with all values (the third runs along, in three
   ways), times four transpositions, times alpha and beta in turn. KD_TEST_ALL in the environment: every triple. */
static void test_sgemm_small(void **state)
{
    const int everything = getenv("KD_TEST_ALL") != NULL;
    long cases = 0;
    kd_isa isa;
    (void)state;
    FOR_EACH_ISA(isa)
    {
        kd_ctx *kd = test_open(isa, 1);
        int m, n, k, way;
        isa_name = kd_isa_name(isa);
        fused = isa != KD_ISA_SCALAR;
        products_open();
        products_check();
        for (m = 0; m <= SIZES; ++m) {
            for (n = 0; n <= SIZES; ++n) {
                for (way = 0; way < (everything ? SIZES + 1 : 3); ++way) {
                    k = everything ? way : (m + n + way * 23) % (SIZES + 1);
                    product_case(kd, 0, 0, m, n, k, (int)(cases++ % KD__COUNT(scales)));
                    product_case(kd, 0, 1, m, n, k, (int)(cases++ % KD__COUNT(scales)));
                    product_case(kd, 1, 0, m, n, k, (int)(cases++ % KD__COUNT(scales)));
                    product_case(kd, 1, 1, m, n, k, (int)(cases++ % KD__COUNT(scales)));
                    ++cases;
                }
            }
        }
        fences_done();
        kd_close(kd);
    }
}

/* C = alpha * A * B + beta * C by chains, compared bit by bit. The cache sizes that blocks are made for are
   pretended to be small, so that matrices of a few hundred rows are cut in every direction. */
static void large_product_times(float alpha, kd_isa isa, int threads, int l2, int trans_a, int trans_b, int m,
                                int n, int k)
{
    const int lda = (trans_a ? m : k) + 3, ldb = (trans_b ? k : n) + 5, ldc = n + 7;
    const float beta = threads == 1 ? 0 : 0.5f;
    float *a = test_floats(1, (size_t)(lda * (trans_a ? k : m)), 1),
          *b = test_floats(2, (size_t)(ldb * (trans_b ? n : k)), 1);
    float *c = test_floats(3, (size_t)(ldc * m), 1), *want = (float *)malloc((size_t)(ldc * m) * sizeof *want);
    kd_ctx *kd = test_open(isa, threads);
    int row, col, p;
    kd->cpu.l2 = l2;
    isa_name = kd_isa_name(isa);
    fused = isa != KD_ISA_SCALAR;
    snprintf(where, sizeof where, "kd_sgemm with %d threads, transposed %d %d, %d x %d x %d", threads, trans_a,
             trans_b, m, n, k);
    memcpy(want, c, (size_t)(ldc * m) * sizeof *want);
    for (row = 0; row < m; ++row) {
        float *line = want + row * ldc;
        for (col = 0; col < n; ++col) line[col] *= beta;
        for (p = 0; p < k; ++p) {
            const float number_a = trans_a ? a[p * lda + row] : a[row * lda + p];
            const float *from = trans_b ? b + p : b + p * ldb;
            add_row(line, number_a, alpha, from, trans_b ? ldb : 1, n);
        }
    }
    assert_ok(kd, kd_sgemm(kd, trans_a, trans_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc));
    expect_bits(c, want, (size_t)(ldc * m));
    free(a);
    free(b);
    free(c);
    free(want);
    kd_close(kd);
}

static void large_product(kd_isa isa, int threads, int l2, int trans_a, int trans_b, int m, int n, int k)
{
    large_product_times(-2, isa, threads, l2, trans_a, trans_b, m, n, k);
}

static void test_sgemm_large(void **state)
{
    enum { SMALL_CACHE = 1 << 15, SOME_CACHE = 1 << 17, REAL_CACHE = 1 << 20 };
    kd_isa isa;
    int trans;
    (void)state;
    FOR_EACH_ISA(isa)
    {
        for (trans = 0; trans < 4; ++trans) {
            large_product(isa, 1, SMALL_CACHE, trans & 1, trans >> 1, 150, 130, 800); /* depth cut in three */
            large_product(isa, 3, SMALL_CACHE, trans & 1, trans >> 1, 131, 170, 390);
            large_product(isa, 3, REAL_CACHE, trans & 1, trans >> 1, 70, 61, 300);
            large_product(isa, 3, REAL_CACHE, trans & 1, trans >> 1, 200, 20, 50); /* few panels: strips of rows */
            large_product(isa, 1, REAL_CACHE, trans & 1, trans >> 1, 300, 2, 70);
            large_product(isa, 3, REAL_CACHE, trans & 1, trans >> 1, 103, 140, 30); /* U is packed if turned */
            large_product(isa, 1, SOME_CACHE, trans & 1, trans >> 1, 390, 67, 100); /* all of V is packed first */
            large_product(isa, 3, SOME_CACHE, trans & 1, trans >> 1, 67, 390, 100);
            large_product_times(1, isa, 1, REAL_CACHE, trans & 1, trans >> 1, 33, 139, 40); /* V where it lies */
            large_product_times(1, isa, 3, REAL_CACHE, trans & 1, trans >> 1, 16, 420, 40);
            large_product_times(1, isa, 3, REAL_CACHE, trans & 1, trans >> 1, 230, 11, 20);
        }
        large_product(isa, 2, SMALL_CACHE, 0, 0, 60, 2100, 200); /* wider than one shared block */
        large_product(isa, 1, REAL_CACHE, 0, 0, 1, 300, 70);
        large_product_times(1, isa, 1, REAL_CACHE, 0, 0, 2, (1 << 20) + 40, 1); /* wider than one task */
        large_product(isa, 1, REAL_CACHE, 1, 0, 1, 300, 70);
    }
}

/* A and B may be the same; NaNs that alpha = 0 or beta = 0 exclude are not read; a row of dot products longer than
   the kernel's buffer. */
static void test_sgemm_rules(void **state)
{
    kd_isa isa;
    (void)state;
    FOR_EACH_ISA(isa)
    {
        kd_ctx *kd = test_open(isa, 1);
        float a[20 * 20], c[20 * 20], x[700], y[3 * 700];
        int i, j, p;
        for (i = 0; i < 400; ++i) a[i] = (float)((i * 7) % 11) - 5, c[i] = NAN;
        assert_ok(kd, kd_sgemm(kd, 0, 1, 20, 20, 20, 1, a, 20, a, 20, 0, c, 20));
        for (i = 0; i < 20; ++i) {
            for (j = 0; j < 20; ++j) {
                float sum = 0;
                for (p = 0; p < 20; ++p) sum += a[i * 20 + p] * a[j * 20 + p];
                assert_true(c[i * 20 + j] == sum); /* whole numbers: no rounding */
            }
        }
        for (i = 0; i < 400; ++i) a[i] = NAN, c[i] = 2;
        assert_ok(kd, kd_sgemm(kd, 0, 0, 20, 20, 20, 0, a, 20, a, 20, 3, c, 20));
        for (i = 0; i < 400; ++i) assert_true(c[i] == 6);
        assert_ok(kd, kd_sgemm(kd, 0, 0, 20, 20, 0, 1, NULL, 0, NULL, 20, 0.5f, c, 20));
        for (i = 0; i < 400; ++i) assert_true(c[i] == 3);
        for (i = 0; i < 400; ++i) c[i] = NAN;
        assert_ok(kd, kd_sgemm(kd, 0, 0, 20, 20, 20, 0, NULL, 20, NULL, 20, 0, c, 20));
        for (i = 0; i < 400; ++i) assert_true(c[i] == 0);
        for (i = 0; i < 2100; ++i) y[i] = (float)(i % 5);
        for (i = 0; i < 3; ++i) a[i] = (float)(i + 1);
        for (i = 0; i < 700; ++i) x[i] = NAN;
        assert_ok(kd, kd_sgemm(kd, 0, 0, 700, 1, 3, 2, y, 3, a, 1, 0, x, 1));
        for (i = 0; i < 700; ++i) assert_true(x[i] == 2 * (y[3 * i] + 2 * y[3 * i + 1] + 3 * y[3 * i + 2]));
        kd_close(kd);
    }
}

static void test_sgemm_errors(void **state)
{
    kd_ctx *kd = test_open(KD_ISA_AUTO, 1);
    float a[16] = {0}, b[16] = {0}, c[16] = {7};
    (void)state;
    assert_int_equal(kd_sgemm(NULL, 0, 0, 1, 1, 1, 1, a, 1, b, 1, 0, c, 1), KD_ERR_ARGUMENT);
    assert_fails(kd, kd_sgemm(kd, 0, 0, -1, 2, 2, 1, a, 2, b, 2, 0, c, 2), KD_ERR_ARGUMENT,
                 "must not be negative, got m = -1");
    assert_fails(kd, kd_sgemm(kd, 0, 0, 2, -2, 2, 1, a, 2, b, 2, 0, c, 2), KD_ERR_ARGUMENT, "n = -2");
    assert_fails(kd, kd_sgemm(kd, 0, 0, 2, 2, -3, 1, a, 2, b, 2, 0, c, 2), KD_ERR_ARGUMENT, "k = -3");
    assert_fails(kd, kd_sgemm(kd, 0, 0, 2, 2, 2, 1, NULL, 2, b, 2, 0, c, 2), KD_ERR_ARGUMENT, "must not be NULL");
    assert_fails(kd, kd_sgemm(kd, 0, 0, 2, 2, 2, 1, a, 2, NULL, 2, 0, c, 2), KD_ERR_ARGUMENT, "must not be NULL");
    assert_fails(kd, kd_sgemm(kd, 0, 0, 2, 2, 2, 1, a, 2, b, 2, 0, NULL, 2), KD_ERR_ARGUMENT, "must not be NULL");
    assert_fails(kd, kd_sgemm(kd, 0, 0, 2, 3, 4, 1, a, 3, b, 3, 0, c, 3), KD_ERR_ARGUMENT, "rows overlap: lda = 3");
    assert_fails(kd, kd_sgemm(kd, 1, 0, 2, 3, 4, 1, a, 1, b, 3, 0, c, 3), KD_ERR_ARGUMENT, "rows overlap: lda = 1");
    assert_fails(kd, kd_sgemm(kd, 0, 0, 2, 3, 4, 1, a, 4, b, 2, 0, c, 3), KD_ERR_ARGUMENT, "ldb = 2");
    assert_fails(kd, kd_sgemm(kd, 0, 1, 2, 3, 4, 1, a, 4, b, 3, 0, c, 3), KD_ERR_ARGUMENT, "ldb = 3");
    assert_fails(kd, kd_sgemm(kd, 0, 0, 2, 3, 4, 1, a, 4, b, 3, 0, c, 2), KD_ERR_ARGUMENT, "ldc = 2");
    assert_true(c[0] == 7);
    assert_ok(kd, kd_sgemm(kd, 0, 0, 0, 3, 4, 1, NULL, 0, NULL, 0, 0, NULL, 0)); /* nothing to do */
    assert_ok(kd, kd_sgemm(kd, 0, 0, 3, 0, 4, 1, NULL, 0, NULL, 0, 0, NULL, 0));
    kd_close(kd);
}

/* ---- kd_softmax and kd_log_softmax ----------------------------------------------------------------------- */

static const int wide_rows[] = {100, 127, 1000, 4099};

/* Sizes beyond those of check_softmax; the same bits for any number of threads and in place. */
static void test_softmax_sizes(void **state)
{
    enum { ROWS = 333 };
    kd_isa isa;
    int i, r, c, logarithm;
    (void)state;
    FOR_EACH_ISA(isa)
    {
        kd_ctx *one = test_open(isa, 1), *three = test_open(isa, 3);
        for (i = 0; i < 2 * KD__COUNT(wide_rows); ++i) {
            const int cols = i < KD__COUNT(wide_rows) ? wide_rows[i] : 3 + i, rows = cols > 1000 ? 20 : ROWS;
            const size_t count = (size_t)rows * (size_t)cols;
            float *x = test_floats((uint64_t)i, count, 12), *y = (float *)malloc(count * sizeof *y);
            double *logits = (double *)malloc((size_t)cols * 2 * sizeof *logits), *want = logits + cols;
            for (logarithm = 0; logarithm < 2; ++logarithm) {
                kd_result (*const run)(kd_ctx *, const float *, int, int, float, float *) =
                    logarithm ? kd_log_softmax : kd_softmax;
                assert_ok(one, run(one, x, rows, cols, 2, y));
                for (r = 0; r < rows; r += 37) {
                    for (c = 0; c < cols; ++c) logits[c] = (double)x[r * cols + c];
                    reference_log_softmax(logits, cols, 2, want);
                    for (c = 0; c < cols; ++c) {
                        const double wanted_value = logarithm ? want[c] : exp(want[c]);
                        const double error = fabs((double)y[r * cols + c] - wanted_value);
                        if (!(error <= 3e-6 * (logarithm ? 1 : wanted_value)))
                            fail_msg(
                                "softmax (logarithm: %d) on %s, %d columns: row %d, column %d is %g, expected %g",
                                logarithm, kd_isa_name(isa), cols, r, c, (double)y[r * cols + c], wanted_value);
                    }
                }
                assert_ok(three, run(three, x, rows, cols, 2, x));
                assert_true(same_bits(x, y, count));
                memcpy(x, y, count * sizeof *x); /* the logarithm of probabilities: other logits */
            }
            free(x);
            free(y);
            free(logits);
        }
        kd_close(one);
        kd_close(three);
    }
}

/* Rows at the limits, alone and between others, in short rows (turned into columns) and in long ones. */
static void test_softmax_limits(void **state)
{
    enum { ROWS = 7, ODD = 3 };
    static const int widths[] = {2, 3, 9, 16, 17, 31, 65};
    kd_isa isa;
    int i, r, c;
    (void)state;
    FOR_EACH_ISA(isa)
    {
        kd_ctx *kd = test_open(isa, 1);
        for (i = 0; i < KD__COUNT(widths); ++i) {
            const int cols = widths[i], last = cols - 1;
            float *x = test_floats(5, (size_t)(ROWS * cols), 3), *row = x + ODD * cols;
            float p[ROWS * SIZES], log_p[ROWS * SIZES], alone[ROWS * SIZES];
            int way;
            assert_ok(kd, kd_softmax(kd, x, ROWS, cols, 1, alone));
            for (way = 0; way < 8; ++way) {
                for (c = 0; c < cols; ++c) row[c] = (float)(c % 3);
                switch (way) {
                case 0: row[last] = INFINITY; break;          /* gets everything */
                case 1: row[0] = row[last] = INFINITY; break; /* shared */
                case 2: row[0] = -INFINITY; break;            /* gets nothing */
                case 3:
                    for (c = 0; c < cols; ++c) row[c] = -INFINITY;
                    break; /* all equal */
                case 4: row[0] = NAN; break;
                case 5: row[last] = NAN, row[0] = INFINITY; break;
                case 6: row[0] = 3e38f, row[last] = -3e38f; break; /* their difference is no float */
                default: row[last] = NAN; break;
                }
                assert_ok(kd, kd_softmax(kd, x, ROWS, cols, 1, p));
                assert_ok(kd, kd_log_softmax(kd, x, ROWS, cols, 1, log_p));
                for (r = 0; r < ROWS; ++r) {
                    for (c = 0; c < cols; ++c) {
                        const float got = p[r * cols + c], log_got = log_p[r * cols + c];
                        if (r != ODD) {
                            assert_true(same_bits(&got, &alone[r * cols + c], 1)); /* the rows do not meet */
                            assert_near(expf(log_got), got, 1e-5);
                            continue;
                        }
                        switch (way) {
                        case 0: assert_true(got == (c == last) && log_got == (c == last ? 0 : -INFINITY)); break;
                        case 1:
                            assert_true(got == (c == 0 || c == last ? 0.5f : 0));
                            if (got > 0)
                                assert_near(log_got, -log(2), 1e-6);
                            else
                                assert_true(log_got == -INFINITY);
                            break;
                        case 2: assert_true((got == 0) == (c == 0) && (log_got == -INFINITY) == (c == 0)); break;
                        case 3: assert_near(got, 1.0 / cols, 1e-6); break;
                        case 6: assert_true(got == (c == 0)); break;
                        default: assert_true(got != got && log_got != log_got);
                        }
                    }
                }
            }
            free(x);
        }
        kd_close(kd);
    }
}

/* Large temperatures flatten, small ones choose, shifts do nothing. */
static void test_softmax_temperature(void **state)
{
    kd_isa isa;
    (void)state;
    FOR_EACH_ISA(isa)
    {
        kd_ctx *kd = test_open(isa, 1);
        const float x[5] = {1, 4, 2, -3, 4.5f};
        float p[5], shifted[5];
        int c;
        assert_ok(kd, kd_softmax(kd, x, 1, 5, 1e6f, p));
        for (c = 0; c < 5; ++c) assert_near(p[c], 0.2, 2e-6);
        assert_ok(kd, kd_softmax(kd, x, 1, 5, 1e-3f, p));
        for (c = 0; c < 5; ++c) assert_true(p[c] == (c == 4));
        assert_ok(kd, kd_softmax(kd, x, 1, 5, 1e-42f, p)); /* 1 / T is no float */
        for (c = 0; c < 5; ++c) assert_true(p[c] == (c == 4));
        for (c = 0; c < 5; ++c) shifted[c] = x[c] - 1024;
        assert_ok(kd, kd_softmax(kd, shifted, 1, 5, 3, shifted));
        assert_ok(kd, kd_softmax(kd, x, 1, 5, 3, p));
        assert_memory_equal(p, shifted, sizeof p);
        kd_close(kd);
    }
}

static void test_softmax_errors(void **state)
{
    kd_ctx *kd = test_open(KD_ISA_AUTO, 1);
    float x[4] = {1, 2, 3, 4}, y[4];
    (void)state;
    assert_int_equal(kd_softmax(NULL, x, 1, 4, 1, y), KD_ERR_ARGUMENT);
    assert_fails(kd, kd_softmax(kd, NULL, 1, 4, 1, y), KD_ERR_ARGUMENT,
                 "kd_softmax: logits of 1 rows and 4 columns, or a NULL");
    assert_fails(kd, kd_log_softmax(kd, x, 1, 4, 1, NULL), KD_ERR_ARGUMENT, "kd_log_softmax: logits of 1 rows");
    assert_fails(kd, kd_softmax(kd, x, -1, 4, 1, y), KD_ERR_ARGUMENT, "-1 rows");
    assert_fails(kd, kd_softmax(kd, x, 1, -4, 1, y), KD_ERR_ARGUMENT, "-4 columns");
    assert_fails(kd, kd_softmax(kd, x, 1, 4, 0, y), KD_ERR_ARGUMENT, "temperature must be above 0, got 0");
    assert_fails(kd, kd_softmax(kd, x, 1, 4, -2, y), KD_ERR_ARGUMENT, "got -2");
    assert_fails(kd, kd_softmax(kd, x, 1, 4, NAN, y), KD_ERR_ARGUMENT, "above 0, got nan");
    assert_fails(kd, kd_log_softmax(kd, x, 1, 4, INFINITY, y), KD_ERR_ARGUMENT, "above 0, got inf");
    assert_ok(kd, kd_softmax(kd, NULL, 0, 4, 1, NULL));
    assert_ok(kd, kd_softmax(kd, NULL, 4, 0, 1, NULL));
    kd_close(kd);
}

/* ---- int8 ------------------------------------------------------------------------------------------------ */

#include "int8_kernels.h"

static void check_int8_product(const kd_ctx *kd) { int8_products(kd); }
static void check_int8_depthwise(const kd_ctx *kd) { int8_windows(kd); }
static void check_int8_maxpool(const kd_ctx *kd) { int8_windows(kd); }
static void check_int8_mean(const kd_ctx *kd) { int8_windows(kd); }
static void check_int8_add(const kd_ctx *kd) { int8_lines(kd); }
static void check_to_steps(const kd_ctx *kd) { int8_lines(kd); }
static void check_round_to_grid(const kd_ctx *kd) { int8_lines(kd); }
static void check_round_to_grid_grad(const kd_ctx *kd) { int8_lines(kd); }

/* ---- all of them ----------------------------------------------------------------------------------------- */

#define KD__ITEM(type, name, parameters)                                                                           \
    static void test_##name(void **state)                                                                          \
    {                                                                                                              \
        (void)state;                                                                                               \
        on_every_isa(#name, check_##name);                                                                         \
    }
KD__KERNELS(KD__ITEM)
#undef KD__ITEM

int main(void)
{
    const struct CMUnitTest tests[] = {
#define KD__ITEM(type, name, parameters) cmocka_unit_test(test_##name),
        KD__KERNELS(KD__ITEM)
#undef KD__ITEM
            cmocka_unit_test(test_functions),
        cmocka_unit_test(test_activations),
        cmocka_unit_test(test_sgemm_small),
        cmocka_unit_test(test_sgemm_large),
        cmocka_unit_test(test_sgemm_rules),
        cmocka_unit_test(test_sgemm_errors),
        cmocka_unit_test(test_softmax_sizes),
        cmocka_unit_test(test_softmax_limits),
        cmocka_unit_test(test_softmax_temperature),
        cmocka_unit_test(test_softmax_errors),
    };
    uint64_t seed = 1;
    int failed, i;
    for (i = 0; i < POOL; ++i) pool[i] = test_random(&seed);
    failed = cmocka_run_group_tests_name("kernels", tests, NULL, NULL);
    test_print_skips("kernels");
    return failed;
}
