/* onnx_peer.c - the header's side of tests/onnx_peer.py
     onnx_peer write FOLDER COUNT   random models of all layers: N.onnx, N.safetensors, N.x.npy, N.y.npy, and a line
                                    each: N, the line of the model
     onnx_peer int8 FOLDER COUNT    the same of int8 models, int8-N.onnx ...; those with odd N add and average
     onnx_peer read FILE X Y AGAIN  what the model in an ONNX file makes of the array X, as the array Y; prints its
                                    line. It then learns for a step, and is written to the ONNX file AGAIN with what
                                    that makes of X as AGAIN.npy */
#define KD_IMPLEMENTATION
#include "../kd.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS = 7, ROOM = 4096 };

static uint64_t counter;
static int draw(int count) { return (int)(kd__rng_bits(11, ++counter) % (uint64_t)count); }
static float number(void) { return (float)(kd__rng_unit(11, ++counter) * 2 - 1); }

/* ---- random models --------------------------------------------------------------------------------------- */

typedef struct line {
    char text[ROOM];
    int c, h, w, flat;
} line;

static void add(line *l, const char *format, ...)
{
    const size_t length = strlen(l->text);
    va_list args;
    va_start(args, format);
    kd__print_list(l->text + length, sizeof l->text - length, format, args);
    va_end(args);
}

static void activation(line *l)
{
    static const char *const words[] = {"relu", "relu6",     "leakyrelu 0.2", "gelu",
                                        "silu", "hardswish", "sigmoid",       "tanh"};
    add(l, ", %s", words[draw(8)]);
}

static void body(line *l, int depth);

/* residual(...) that keeps the shape, or halves the image, or widens the vector */
static void residual(line *l, int depth)
{
    line inner = *l;
    inner.text[0] = 0;
    if (l->flat) {
        inner.c = draw(2) ? l->c : 3 + draw(9);
        add(&inner, ", dense %d", inner.c);
    } else {
        const int stride = l->h > 3 && l->w > 3 ? 1 + draw(2) : 1;
        inner.c = draw(2) ? l->c : 2 + draw(6);
        inner.h = (l->h - 1) / stride + 1, inner.w = (l->w - 1) / stride + 1;
        add(&inner, ", conv %d 3 stride=%d pad=1 bias=%d", inner.c, stride, draw(2));
    }
    if (draw(2)) add(&inner, ", batchnorm");
    activation(&inner);
    if (draw(3) == 0) body(&inner, depth + 1);
    add(l, ", residual(%s)", inner.text + 2);
    l->c = inner.c, l->h = inner.h, l->w = inner.w;
}

/* Two or three branches, one of them without layers. */
static void concat(line *l)
{
    const int c = 2 + draw(6), more = draw(2);
    add(l, l->flat ? ", concat( | dense %d" : ", concat( | conv %d 3 pad=1", c);
    activation(l);
    if (more && !l->flat) add(l, " | maxpool 3 stride=1 pad=1");
    add(l, ")");
    l->c += c + (more && !l->flat ? l->c : 0);
}

/* One layer, or a few, that keep the shape when they are within a residual. */
static void body(line *l, int depth)
{
    const int kind = draw(l->flat ? 6 : 10);
    if (kind == 0)
        add(l, ", batchnorm eps=%s", draw(2) ? "1e-3" : "1e-5");
    else if (kind == 1)
        activation(l);
    else if (kind == 2)
        add(l, ", dropout 0.3");
    else if (kind == 3 && depth < 2)
        residual(l, depth);
    else if (kind == 4 && l->flat && depth == 0)
        add(l, ", dense %d bias=%d", l->c = 3 + draw(20), draw(2));
    else if (kind == 4 && !l->flat)
        add(l, ", depthwise 3 pad=1 bias=%d", draw(2));
    else if (kind == (l->flat ? 5 : 9) && depth == 0)
        concat(l);
    else if (kind == 5 && !l->flat && depth == 0) {
        const int groups = l->c % 2 == 0 ? 2 : 1, most = 1 + draw(3), side = KD__MIN(l->h, l->w);
        const int k = KD__MIN(most, side), pad = draw(k / 2 + 1);
        l->c = 2 + 2 * draw(5), l->h += 2 * pad - k + 1, l->w += 2 * pad - k + 1;
        add(l, ", conv %d %d pad=%d groups=%d", l->c, k, pad, groups);
    } else if (kind >= 6 && !l->flat && depth == 0 && l->h > 3 && l->w > 3) {
        const int pad = draw(2);
        add(l, ", %s 3 stride=2 pad=%d", kind % 2 ? "maxpool" : "avgpool", pad);
        l->h = (l->h + 2 * pad - 3) / 2 + 1, l->w = (l->w + 2 * pad - 3) / 2 + 1;
    }
}

static void make_line(line *l)
{
    int layers = 2 + draw(6);
    memset(l, 0, sizeof *l);
    l->flat = draw(4) == 0;
    l->c = l->flat ? 3 + draw(30) : 1 + draw(4), l->h = l->flat ? 1 : 5 + draw(12),
    l->w = l->flat ? 1 : 5 + draw(12);
    if (l->flat)
        add(l, "%d: dense %d", l->c, l->c);
    else
        add(l, "%dx%dx%d: conv 4 3x2 stride=1x2 pad=1x0", l->c, l->h, l->w), l->c = 4, l->w = (l->w - 2) / 2 + 1;
    while (layers-- > 0) body(l, 0);
    if (!l->flat && draw(3)) add(l, ", gap");
    switch (draw(4)) {
    case 0: add(l, ", flatten"); break;
    case 1: add(l, ", dense 9, prompt 4, relu, dense 5"); break;
    case 2: add(l, ", softtree 3 4"); break;
    default: add(l, ", dense 10, dropout 0.5");
    }
}

/* Numbers everywhere, so that a mistake shows. */
static void fill(kd_model *m)
{
    int i;
    for (i = 0; i < kd_model_tensors(m); ++i) {
        kd_tensor_info info;
        float *x;
        int64_t j;
        (void)kd_model_tensor_info(m, i, &info);
        x = (float *)calloc((size_t)info.count, sizeof *x);
        (void)kd_model_get_tensor(m, info.name, x, info.count);
        for (j = 0; j < info.count && info.rank == 1; ++j)
            x[j] = strstr(info.name, "running_var") ? 1 + 0.5f * number() : x[j] + 0.3f * number();
        (void)kd_model_set_tensor(m, info.name, x, info.count);
        free(x);
    }
}

static int fail(const kd_ctx *kd, const char *what)
{
    fprintf(stderr, "%s: %s\n", what, kd_error(kd));
    return 1;
}

/* Layers over tokens, and those around them. */
static const char *const sequences[] = {
    "3x8x8: patch_embed.proj: patch 4 12, cls_token: classtoken, pos_embed: position, blocks: encoder 2 3, norm: "
    "layernorm, token 0, head: linear 5",
    "1x6x9: patch 3 8, classtoken, disttoken, position, encoder 1 2 norm=post act=relu eps=1e-5, head: disthead 4",
    "2x6x6: patch 3 8, classtoken, position, prompttokens 3, sidetokens 2 5, encoder 1 2 causal=1, disttoken, "
    "linear 6, meanpool, dense 3",
    "2x6x6: conv 6 3 pad=1, relu, tokens, dropout 0.1, attention 2 causal=1, gelutanh, linear 4 bias=0, meanpool, "
    "dense 3",
    "2x6x6: tokens, concat( | linear 3 | gelu), residual(layernorm, linear 7, silu, droppath 0.1), maxpool 2x1, "
    "batchnorm, layernorm, flatten, layernorm, dense 3",
    "4x5x1: linear 6, residual(encoder 1 2 act=gelutanh), concat(conv 3 1 | ), conv 4 1, gap",
    "12: layernorm, dense 5, linear 4, concat(tanh | layernorm), dense 3",
    "tokens 11: embed 256 12, position, encoder 2 3, layernorm, meanpool, dense 5",
    "tokens 13: embed 256 8, conv 12 5x1 stride=2x1 pad=2x0, batchnorm, relu, conv 12 5x1 pad=2x0, maxpool 2x1, "
    "position, classtoken, encoder 2 2 causal=1, token 0, dense 5",
    "tokens 9: concat(embed 256 4 | embed 256 5), classtoken, residual(attention_in: linear 27, attention 3), "
    "concat(meanpool | maxpool 10x1, flatten), dense 6",
    "tokens 7: embed 256 6, gap, dense 3",
    "tokens 8: embed 256 6, conv 6 3x1 pad=1x0, relu, meanpool",
};

static int write_one(kd_ctx *kd, const char *folder, int index)
{
    static float x[1 << 16], y[1 << 14], mean[KD_MAX_CHANNELS], std[KD_MAX_CHANNELS];
    static uint8_t pixels[1 << 16];
    kd_onnx_desc desc = kd_onnx_defaults();
    char path[3][512];
    int64_t shape[4];
    kd_model *m;
    kd_result result;
    line l;
    int c, h, w, i, count, bytes = index % 3;
    memset(&l, 0, sizeof l);
    if (index < KD__COUNT(sequences))
        add(&l, "%s", sequences[index]);
    else
        make_line(&l);
    if (kd_model_create(kd, l.text, (uint64_t)index, &m) != KD_OK) return fail(kd, l.text);
    kd_model_input(m, &c, &h, &w);
    fill(m);
    for (i = 0; i < c && i < KD_MAX_CHANNELS; ++i)
        mean[i] = 0.5f + 0.1f * number(), std[i] = 0.3f + 0.1f * number();
    if (index % 2 && !m->ids) (void)kd_model_set_preprocessing(m, mean, std);
    desc.input = (kd_onnx_input)bytes, desc.softmax = index % 5 == 4;
    count = c * h * w * ROWS;
    for (i = 0; i < count; ++i) pixels[i] = (uint8_t)draw(256), x[i] = bytes ? (float)pixels[i] : number() * 2;
    for (i = 0; i < count && m->ids; ++i) { /* of rows from none to all of L, some with a 0 between others */
        pixels[i] = i % c < (i / c * c + ROWS - 2) / (ROWS - 1) && draw(9) ? pixels[i] : 0;
        x[i] = (float)pixels[i];
    }
    shape[0] = ROWS, shape[1] = c, shape[2] = h, shape[3] = w;
    if (bytes == 2) shape[1] = h, shape[2] = w, shape[3] = c;
    kd__print(path[0], sizeof path[0], "%s/%d.onnx", folder, index);
    kd__print(path[1], sizeof path[1], "%s/%d.x.npy", folder, index);
    kd__print(path[2], sizeof path[2], "%s/%d.y.npy", folder, index);
    result = bytes == 0 || m->ids ? kd_predict(m, x, ROWS, y)
             : bytes == 1         ? kd_predict_u8(m, pixels, ROWS, y)
                                  : kd_predict_u8_hwc(m, pixels, ROWS, y);
    if (result == KD_OK && desc.softmax) result = kd_softmax(kd, y, ROWS, kd_model_outputs(m), 1, y);
    if (result == KD_OK) result = kd_model_save_onnx(m, path[0], &desc);
    kd__print(path[0], sizeof path[0], "%s/%d.safetensors", folder, index);
    if (result == KD_OK) result = kd_model_save(m, path[0]);
    if (h == 1 && w == 1) shape[1] = c;
    if (result == KD_OK) result = kd_npy_write(kd, path[1], x, h == 1 && w == 1 ? 2 : 4, shape);
    shape[1] = kd_model_outputs(m);
    if (result == KD_OK) result = kd_npy_write(kd, path[2], y, 2, shape);
    kd_model_destroy(m);
    printf("%d %s\n", index, l.text);
    return result == KD_OK ? 0 : fail(kd, l.text);
}

/* ---- int8 ------------------------------------------------------------------------------------------------ */

/* Layers in which ONNX Runtime rounds in one order only; with `sums` also those in which its order depends on the
   processor. */
static void make_int8_line(line *l, int sums)
{
    int layers = 2 + draw(4);
    memset(l, 0, sizeof *l);
    l->c = 1 + draw(3), l->h = l->w = 9 + draw(8);
    add(l, "%dx%dx%d: conv 4 3 pad=1, relu", l->c, l->h, l->w), l->c = 4;
    while (layers-- > 0) {
        const int kind = draw(sums ? 7 : 5);
        if (kind == 0) add(l, ", conv %d 3 pad=1%s", l->c = 2 * (1 + draw(5)), draw(2) ? ", relu" : "");
        if (kind == 1) add(l, ", depthwise 3 pad=1, batchnorm, relu");
        if (kind == 2 && l->h > 5) add(l, ", maxpool 2"), l->h /= 2, l->w /= 2;
        if (kind == 3 && l->h > 5)
            add(l, ", conv %d 3 stride=2 pad=1 bias=0, batchnorm, relu", l->c = 3 + draw(9)), l->h = (l->h + 1) / 2,
                                                                                              l->w = l->h;
        if (kind == 4) {
            const int c = 1 + draw(5);
            add(l, ", concat( | conv %d 3 pad=1, relu | conv 3 1), concat(batchnorm, relu | )", c);
            l->c = 2 * (l->c + c + 3);
        }
        if (kind == 5) add(l, ", residual(conv %d 3 pad=1, relu, conv %d 3 pad=1), relu", l->c, l->c);
        if (kind == 6 && l->h > 5) add(l, ", avgpool 2"), l->h /= 2, l->w /= 2;
    }
    if (sums) add(l, ", gap");
    add(l, ", dense %d, relu, dense 6", 5 + draw(20));
}

/* What ONNX Runtime has no rule for, as layer normalisation, is in float between the integers. */
static const char *const int8_sequences[] = {
    "2x8x8: patch 2 16, classtoken, position, encoder 2 4, layernorm, token 0, linear 6",
    "3x7x1: linear 8, relu, concat( | linear 5), linear 4, meanpool, dense 6",
    "2x8x8: patch 2 16, prompttokens 2, sidetokens 1 3, encoder 1 4, layernorm, token 0, linear 6",
};

static int int8_one(kd_ctx *kd, const char *folder, int index)
{
    static float x[1 << 16], y[1 << 14];
    kd_quantize_desc desc = kd_quantize_defaults();
    char path[3][512];
    int64_t shape[4];
    kd_model *m = NULL, *quant = NULL;
    kd_data data;
    kd_result result;
    line l;
    int c, h, w, i, count;
    if (index % 2 && index / 2 < KD__COUNT(int8_sequences)) {
        memset(&l, 0, sizeof l);
        add(&l, "%s", int8_sequences[index / 2]);
    } else {
        make_int8_line(&l, index % 2);
    }
    if (kd_model_create(kd, l.text, (uint64_t)index, &m) != KD_OK) return fail(kd, l.text);
    kd_model_input(m, &c, &h, &w);
    fill(m);
    count = c * h * w * ROWS;
    for (i = 0; i < count; ++i) x[i] = number() * 2;
    data = kd_data_f32(x, NULL, ROWS, c, h, w, 6);
    desc.weight_limit = 64; /* so that no processor saturates */
    result = kd_model_quantize(m, &data, &desc, &quant);
    kd__print(path[0], sizeof path[0], "%s/int8-%d.onnx", folder, index);
    kd__print(path[1], sizeof path[1], "%s/int8-%d.x.npy", folder, index);
    kd__print(path[2], sizeof path[2], "%s/int8-%d.y.npy", folder, index);
    shape[0] = ROWS, shape[1] = c, shape[2] = h, shape[3] = w;
    if (result == KD_OK) result = kd_predict(quant, x, ROWS, y);
    if (result == KD_OK) result = kd_model_save_onnx(quant, path[0], NULL);
    if (result == KD_OK) result = kd_npy_write(kd, path[1], x, 4, shape);
    shape[1] = 6;
    if (result == KD_OK) result = kd_npy_write(kd, path[2], y, 2, shape);
    kd_model_destroy(quant);
    kd_model_destroy(m);
    printf("%d %s\n", index, l.text);
    return result == KD_OK ? 0 : fail(kd, l.text);
}

/* A step of training, and the model as another ONNX file. */
static kd_result learn(kd_ctx *kd, kd_model *m, const kd_array *x, const char *name)
{
    kd_train_desc desc = kd_train_defaults();
    int32_t labels[ROWS] = {0}, *ids = NULL;
    int c, h, w, i;
    char path[512];
    int64_t shape[2];
    float *y;
    kd_data data;
    kd_result result;
    const uint64_t before = kd_model_hash(m);
    kd_model_input(m, &c, &h, &w);
    shape[0] = KD__MIN(x->shape[0], ROWS), shape[1] = kd_model_outputs(m);
    for (i = 0; i < ROWS; ++i) labels[i] = i % (int)shape[1];
    data = kd_data_f32(x->values, labels, (int)shape[0], c, h, w, (int)shape[1]);
    if (m->ids) {
        ids = (int32_t *)calloc((size_t)(shape[0] * c), sizeof *ids);
        for (i = 0; i < (int)shape[0] * c; ++i) ids[i] = (int32_t)x->values[i];
        data = kd_data_tokens(ids, labels, (int)shape[0], c, (int)shape[1]);
    }
    desc.epochs = 1, desc.batch = ROWS, desc.lr = 1e-3f;
    result = kd_train(m, &data, &desc);
    free(ids);
    if (result != KD_OK) return result;
    if (kd_model_hash(m) == before) return KD_ERR_DATA;
    y = (float *)calloc((size_t)(shape[0] * shape[1]), sizeof *y);
    kd__print(path, sizeof path, "%s.npy", name);
    result = m->ids ? KD_OK : kd_model_set_preprocessing(m, NULL, NULL);
    if (result == KD_OK) result = kd_predict(m, x->values, (int)shape[0], y);
    if (result == KD_OK) result = kd_npy_write(kd, path, y, 2, shape);
    if (result == KD_OK) result = kd_model_save_onnx(m, name, NULL);
    free(y);
    return result;
}

static int read_one(kd_ctx *kd, char **names)
{
    kd_array x;
    int64_t shape[2];
    kd_model *m = NULL;
    float *y = NULL;
    kd_result result = kd_model_load_onnx(kd, names[0], NULL, &m);
    memset(&x, 0, sizeof x);
    if (result == KD_OK) result = kd_npy_read(kd, names[1], &x);
    if (result == KD_OK) {
        printf("%s\n", kd_model_spec(m));
        shape[0] = x.shape[0], shape[1] = kd_model_outputs(m);
        y = (float *)calloc((size_t)(shape[0] * shape[1]), sizeof *y);
        result = kd_predict(m, x.values, (int)x.shape[0], y);
        if (result == KD_OK) result = kd_npy_write(kd, names[2], y, 2, shape);
    }
    if (result == KD_OK) result = learn(kd, m, &x, names[3]);
    free(y);
    kd_array_free(kd, &x);
    kd_model_destroy(m);
    return result == KD_OK ? 0 : fail(kd, names[0]);
}

int main(int argc, char **argv)
{
    kd_ctx *kd;
    int i, failed = argc < 4;
    if (failed || kd_open(NULL, &kd) != KD_OK) return 2;
    for (i = 0; strcmp(argv[1], "write") == 0 && i < atoi(argv[3]) && !failed; ++i)
        failed = write_one(kd, argv[2], i);
    for (i = 0; strcmp(argv[1], "int8") == 0 && i < atoi(argv[3]) && !failed; ++i)
        failed = int8_one(kd, argv[2], i);
    if (strcmp(argv[1], "read") == 0 && argc == 6) failed = read_one(kd, argv + 2);
    kd_close(kd);
    return failed;
}
