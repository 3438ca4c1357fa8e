/* int8_kernels.h - the kernels of int8 models beside plain sums; a part of test_kernels.c */

static int8_t *int8_weights_of(uint64_t seed, size_t count)
{
    int8_t *x = (int8_t *)calloc(count + TEST_SLACK, 1);
    size_t i;
    for (i = 0; i < count; ++i) x[i] = (int8_t)((int)(kd__rng_bits(seed, i) % 255) - 127);
    return x;
}

/* What becomes of a sum, as the declaration of kd__int8_store says, in plain C. */
static void int8_put(const kd__int8_store *s, float t, ptrdiff_t at)
{
    if (s->act == KD__LEAKYRELU && t < 0) t *= s->act_arg;
    t = t < s->low ? s->low : t > s->high ? s->high : t;
    if (s->in_float)
        s->to_float[at] = t;
    else
        s->to[at] = (uint8_t)((int)nearbyintf(t) + s->zero);
}

static kd__int8_store int8_store_of(int kind)
{
    kd__int8_store s;
    memset(&s, 0, sizeof s);
    s.zero = kind % 3 == 0 ? 0 : kind % 3 == 1 ? 128 : 77;
    s.low = (float)-s.zero, s.high = (float)(255 - s.zero);
    if (kind == 3) s.low = 0, s.high = 90.25f;
    if (kind == 4) s.act = KD__LEAKYRELU, s.act_arg = 0.3f;
    if (kind == 5) s.in_float = 1, s.low = -FLT_MAX, s.high = FLT_MAX;
    return s;
}
enum { INT8_STORES = 6 };

/* ---- kernels ----------------------------------------------------------------------------------------------- */

/* B as kd__int8_product wants it, from (cols, segs, length): one place says what panels are, here again. */
static void int8_pack(const kd_ctx *kd, const int8_t *w, const int32_t *bias, int cols, int segs, int length,
                      int8_t *panels, int32_t *starts)
{
    const int run = (length + 3) / 4;
    int o, s, i;
    for (o = 0; o < cols; ++o) {
        int64_t sum = 0;
        for (s = 0; s < segs; ++s) {
            for (i = 0; i < length; ++i) {
                const int8_t value = w[(o * segs + s) * length + i];
                const int k = s * run * 4 + i;
                panels[((ptrdiff_t)(o / 16) * segs * run + k / 4) * 64 + o % 16 * 4 + k % 4] = value;
                sum += value;
            }
        }
        if (kd->isa != KD_ISA_NEON) sum = 0; /* which takes 128 away from each byte */
        starts[o] = (int32_t)(uint32_t)(uint64_t)(bias[o] + 128 * sum);
    }
}

typedef struct int8_product_case {
    int rows, blocks, cols, segs, length, seg_line, extremes;
} int8_product_case;

static void int8_product(const kd_ctx *kd, const int8_product_case *p, int kind, int dots)
{
    const int run = (p->length + 3) / 4, padded = (p->cols + 15) / 16 * 16;
    const int lines = p->seg_line ? p->segs / p->seg_line : 1, across = p->seg_line ? p->seg_line : p->segs;
    const ptrdiff_t a_row = 3, a_block = 50, a_seg = 11, a_line = 37;
    const size_t a_size =
        (size_t)(p->rows * a_row + p->blocks * a_block + across * a_seg + lines * a_line + p->length);
    const size_t outputs = (size_t)(p->rows * p->blocks) * (size_t)(p->cols + 5) + 64;
    uint8_t *a = test_bytes(1, a_size), *got = test_bytes(2, outputs), *want = test_bytes(2, outputs);
    int8_t *w = int8_weights_of(3, (size_t)(p->cols * p->segs * p->length));
    int8_t *panels = (int8_t *)calloc((size_t)(padded * p->segs * run * 4 + TEST_SLACK), 1);
    int32_t *bias = (int32_t *)calloc((size_t)padded, 4), *starts = (int32_t *)calloc((size_t)padded, 4);
    float *factor = test_floats(4, (size_t)padded, 0.01f), *floats = test_floats(5, outputs, 1);
    float *want_floats = test_floats(5, outputs, 1);
    kd__int8_product g;
    kd__int8_store store = int8_store_of(kind);
    int b, r, o, s, i;
    if (p->extremes) { /* where products in 16 bits would saturate or wrap */
        memset(a, 255, a_size + TEST_SLACK);
        for (i = 0; i < p->cols * p->segs * p->length; ++i) w[i] = (int8_t)(p->extremes * 127);
    }
    for (o = 0; o < p->cols; ++o) bias[o] = (int32_t)(kd__rng_bits(6, (uint64_t)o) % 20000) - 10000;
    int8_pack(kd, w, bias, p->cols, p->segs, p->length, panels, starts);
    memset(&g, 0, sizeof g);
    g.rows = p->rows, g.blocks = p->blocks, g.cols = p->cols, g.segs = p->segs, g.run = run;
    g.a = a, g.a_row = a_row, g.a_block = a_block, g.a_seg = a_seg;
    if (p->seg_line) g.seg_line = p->seg_line, g.a_line = a_line;
    g.b = panels, g.starts = starts, g.factor = factor, g.dots = dots;
    g.c_row = p->cols + 5, g.c_block = g.c_row * p->rows;
    g.store = store;
    g.store.to = got, g.store.to_float = floats;
    kd->k->int8_product(&g);
    store.to = want, store.to_float = want_floats;
    for (b = 0; b < p->blocks; ++b) {
        for (r = 0; r < p->rows; ++r) {
            for (o = 0; o < p->cols; ++o) {
                int32_t sum = bias[o];
                for (s = 0; s < p->segs; ++s) {
                    const int line = p->seg_line ? s / p->seg_line : 0, place = p->seg_line ? s % p->seg_line : s;
                    const uint8_t *from = a + b * a_block + r * a_row + line * a_line + place * a_seg;
                    for (i = 0; i < p->length; ++i) sum += from[i] * w[(o * p->segs + s) * p->length + i];
                }
                int8_put(&store, (float)sum * factor[o], b * g.c_block + r * g.c_row + o);
            }
        }
    }
    if (memcmp(got, want, outputs) != 0 || memcmp(floats, want_floats, outputs * sizeof(float)) != 0)
        fail_msg("%s dots=%d: rows=%d blocks=%d cols=%d segs=%d length=%d store %d", kd_isa_name(kd->isa), dots,
                 p->rows, p->blocks, p->cols, p->segs, p->length, kind);
    free(a), free(got), free(want), free(w), free(panels), free(bias), free(starts), free(factor), free(floats);
    free(want_floats);
}

static void int8_products(const kd_ctx *kd)
{
    static const int8_product_case odd[] = {
        {7, 1, 100, 3, 9, 0, 0},   {1, 1, 130, 1, 300, 0, 0},  {5, 3, 48, 3, 6, 0, 1},    {4, 4, 33, 9, 4, 3, 0},
        {14, 14, 17, 3, 48, 0, 0}, {2, 1, 64, 1, 31, 0, -1},   {9, 2, 70, 1, 4000, 0, 1}, {3, 2, 20, 6, 3, 2, 0},
        {8, 1, 112, 5, 20, 0, 0},  {13, 1, 16, 1, 2048, 0, -1}};
    const int dots = kd->cpu.dots;
    int with;
    for (with = 0; with < (dots ? 2 : 1); ++with) {
        int8_product_case p;
        int i;
        for (p.rows = 1; p.rows <= 13; p.rows += p.rows < 4 ? 1 : 3) {
            for (p.cols = 1; p.cols <= 67; p.cols += p.cols < 20 ? 3 : 11) {
                for (p.length = 1; p.length <= 21; p.length += 4 + p.length % 3) {
                    p.blocks = 1 + p.rows % 2, p.segs = 1 + p.cols % 3, p.seg_line = p.extremes = 0;
                    int8_product(kd, &p, (p.rows + p.cols + p.length) % INT8_STORES, with ? dots : 0);
                }
            }
        }
        for (i = 0; i < KD__COUNT(odd); ++i) {
            int8_product(kd, &odd[i], i % INT8_STORES, with ? dots : 0);
            int8_product(kd, &odd[i], 5, with ? dots : 0);
        }
    }
}

static kd__window int8_window_of(int channels, int size, int kernel, int stride, int pad)
{
    kd__window w;
    memset(&w, 0, sizeof w);
    w.channels = channels;
    w.in_h = size, w.in_w = size + 2;
    w.kernel_h = kernel, w.kernel_w = KD__MAX(1, kernel - kernel % 2);
    w.stride_h = stride, w.stride_w = 1 + stride % 2;
    w.pad_h = pad, w.pad_w = KD__MIN(pad, w.kernel_w / 2);
    w.out_h = (w.in_h + 2 * w.pad_h - w.kernel_h) / w.stride_h + 1;
    w.out_w = (w.in_w + 2 * w.pad_w - w.kernel_w) / w.stride_w + 1;
    w.in_row = (ptrdiff_t)w.in_w * channels + 7;
    w.out_row = (ptrdiff_t)w.out_w * channels + 3;
    return w;
}

/* Depthwise filters, which have no padding of their own, and both kinds of pooling. */
static void int8_window_case(const kd_ctx *kd, int channels, int size, int kernel, int stride, int pad, int kind)
{
    const kd__window pooled = int8_window_of(channels, size, kernel, stride, pad);
    const kd__window filtered = int8_window_of(channels, size, kernel, stride, 0);
    const int stored = (channels + 15) / 16 * 16, taps = filtered.kernel_h * filtered.kernel_w;
    const size_t outputs = (size_t)(pooled.out_h * pooled.out_row) + 64;
    uint8_t *x = test_bytes(7, (size_t)(pooled.in_h * pooled.in_row));
    uint8_t *got[3], *want[3];
    int8_t *weight = int8_weights_of(8, (size_t)(taps * stored));
    int32_t *starts = (int32_t *)calloc((size_t)stored, 4);
    float *factor = test_floats(9, (size_t)stored, 0.02f);
    kd__int8_store store = int8_store_of(kind % 5);
    kd__int8_taps t;
    int i, y, j, c, row, col;
    for (i = 0; i < 3; ++i) got[i] = test_bytes(10, outputs), want[i] = test_bytes(10, outputs);
    for (c = 0; c < channels; ++c) starts[c] = 100 * c - 700;
    memset(&t, 0, sizeof t);
    t.w = filtered, t.x = x, t.weight = weight, t.starts = starts, t.factor = factor, t.store = store;
    t.store.to = got[0];
    kd->k->int8_depthwise(&t);
    kd->k->int8_maxpool(&pooled, x, got[1]);
    kd->k->int8_mean(&pooled, &store, 9, 0.37f, x, got[2]);
    store.to = want[0];
    for (y = 0; y < filtered.out_h; ++y) {
        for (j = 0; j < filtered.out_w; ++j) {
            for (c = 0; c < channels; ++c) {
                int32_t sum = starts[c];
                for (i = 0; i < taps; ++i) {
                    row = y * filtered.stride_h + i / filtered.kernel_w,
                    col = j * filtered.stride_w + i % filtered.kernel_w;
                    sum += x[row * filtered.in_row + col * channels + c] * weight[i * stored + c];
                }
                int8_put(&store, (float)sum * factor[c], y * filtered.out_row + j * channels + c);
            }
        }
    }
    store.to = want[2];
    for (y = 0; y < pooled.out_h; ++y) {
        for (j = 0; j < pooled.out_w; ++j) {
            for (c = 0; c < channels; ++c) {
                int largest = 0, sum = 0;
                for (i = 0; i < taps; ++i) {
                    row = y * pooled.stride_h + i / pooled.kernel_w - pooled.pad_h;
                    col = j * pooled.stride_w + i % pooled.kernel_w - pooled.pad_w;
                    if (row < 0 || col < 0 || row >= pooled.in_h || col >= pooled.in_w) continue;
                    largest = KD__MAX(largest, x[row * pooled.in_row + col * channels + c]);
                    sum += x[row * pooled.in_row + col * channels + c] - 9;
                }
                want[1][y * pooled.out_row + j * channels + c] = (uint8_t)largest;
                int8_put(&store, (float)sum * 0.37f, y * pooled.out_row + j * channels + c);
            }
        }
    }
    for (i = 0; i < 3; ++i) {
        if (memcmp(got[i], want[i], outputs) != 0)
            fail_msg("%s: %s of %d channels, %d pixels, window %d, stride %d, padding %d, store %d",
                     kd_isa_name(kd->isa),
                     i == 0   ? "depthwise"
                     : i == 1 ? "maxpool"
                              : "mean",
                     channels, size, kernel, stride, pad, kind);
        free(got[i]), free(want[i]);
    }
    free(x), free(weight), free(starts), free(factor);
}

static void int8_windows(const kd_ctx *kd)
{
    int channels, kernel, stride;
    for (channels = 1; channels <= 35; channels += channels < 5 ? 1 : 5) {
        for (kernel = 1; kernel <= 5; ++kernel) {
            for (stride = 1; stride <= 3; ++stride)
                int8_window_case(kd, channels, 6 + stride, kernel, stride, (channels + stride) % 2 ? kernel / 2 : 0,
                                 channels + kernel);
        }
    }
    int8_window_case(kd, 19, 10, 9, 1, 0, 1); /* more taps than are kept widened */
}

/* Elementwise: steps of a grid, forward and back, and sums. */
static void int8_lines(const kd_ctx *kd)
{
    enum { MOST = 70 };
    int n, i, kind;
    for (n = 1; n <= MOST; ++n) {
        float x[MOST + TEST_SLACK], y[MOST + TEST_SLACK], dy[MOST + TEST_SLACK], dx[MOST + TEST_SLACK];
        uint8_t steps[MOST + TEST_SLACK], a[MOST + TEST_SLACK], b[MOST + TEST_SLACK], sum[MOST + TEST_SLACK],
            want[MOST + TEST_SLACK];
        const int zero = n * 5 % 256;
        const float scale = 0.013f + 0.001f * (float)n;
        memset(sum, 99, sizeof sum), memset(want, 99, sizeof want), memset(steps, 99, sizeof steps);
        for (i = 0; i < MOST + TEST_SLACK; ++i) {
            x[i] = i % 7 == 0 ? scale * ((float)(i % 30) + 0.5f) : (float)(kd__rng_unit(11, (uint64_t)i) * 8 - 4);
            y[i] = dx[i] = 17, dy[i] = (float)i + 1;
            a[i] = (uint8_t)kd__rng_bits(12, (uint64_t)i), b[i] = (uint8_t)kd__rng_bits(13, (uint64_t)i);
        }
        kd->k->to_steps(n, scale, zero, x, steps);
        kd->k->round_to_grid(n, scale, (float)zero, x, y);
        kd->k->round_to_grid_grad(n, scale, (float)zero, x, dy, dx, n % 2);
        for (i = 0; i < n; ++i) {
            const float q = nearbyintf(x[i] / scale), most = (float)(255 - zero), least = (float)-zero;
            const float kept = q < least ? least : q > most ? most : q;
            assert_int_equal(steps[i], (int)kept + zero);
            assert_true(y[i] == kept * scale);
            /* a tie at either end may count as inside or outside */
            if (x[i] / scale - floorf(x[i] / scale) != 0.5f)
                assert_true(dx[i] == (q < least || q > most ? 0 : dy[i]) + (n % 2 ? 17 : 0));
        }
        assert_int_equal(steps[n], 99);
        assert_true(y[n] == 17 && dx[n] == 17);
        for (kind = 0; kind < 5; ++kind) {
            kd__int8_store s = int8_store_of(kind);
            kd->k->int8_add(n, &s, a, 3, 0.7f, b, 200, 0.31f, sum);
            s.to = want;
            for (i = 0; i < n; ++i) int8_put(&s, (float)(a[i] - 3) * 0.7f + (float)(b[i] - 200) * 0.31f, i);
            assert_memory_equal(sum, want, sizeof sum);
        }
    }
}
