/* csource: models of every layer that C source has, and what they must say. Usage: csource FOLDER. Writes
   m00.safetensors ... and cases.h: images, and the logits of the portable kernels for them. See csource.sh. */
#define KD_IMPLEMENTATION
#include "../kd.h"

#include <stdio.h>

enum { SAMPLES = 3, RANDOM = 12 };

/* What is between these: see random_line. */
static const char *const lines[] = {
    "4: dense 3",
    "784: dense 16, relu, dropout 0.2, dense 10",
    "5: dense 7 bias=0, batchnorm, leakyrelu 0.2, residual(dense 7, gelu, dense 7), tanh, dense 5, sigmoid",
    "1x8x8: conv 8 3 pad=1, relu, maxpool 2, conv 6 3 pad=1, relu6, maxpool 2, dense 12, relu, dense 10",
    "3x9x7: conv 5 3x2 stride=2x1 pad=1x0 bias=0, batchnorm, relu, depthwise 3 pad=1, batchnorm, relu6, conv 9 1, "
    "gap",
    "6x7x7: conv 12 3 stride=2 pad=1 groups=3, silu, conv 6 1 groups=2 bias=0, hardswish, flatten, dense 4",
    "3x16x16: conv 16 3 pad=1, batchnorm, relu, residual(conv 16 3 pad=1, batchnorm, relu, conv 16 3 pad=1, "
    "batchnorm), relu, residual(conv 20 3 stride=2 pad=1, batchnorm, relu, conv 20 3 pad=1, batchnorm), relu, gap, "
    "dense 10",
    "2x6x6: maxpool 3 stride=1 pad=1, avgpool 2 stride=1, avgpool 3 stride=2 pad=1, relu, batchnorm, relu6, conv 5 "
    "1",
    "3x5x5: residual(residual(conv 3 3 pad=1, relu), batchnorm), leakyrelu, maxpool 2 stride=1, flatten, "
    "batchnorm, "
    "relu, dense 3",
    "1x4x4: conv 3 3 pad=4, relu, maxpool 3 stride=3, dense 2",
    "2x5x5: relu, residual(depthwise 5 pad=same bias=0), gap",
    "3x4x4: flatten, dense 3",
    "2x3x3: dropout 0.5, flatten, relu, residual(dropout 0.1), dense 2",
    "16x8x8: conv 16 3 pad=1, relu, conv 16 3 pad=1 groups=16, batchnorm, relu, avgpool 8, dense 4",
    "3x8x8: conv 4 3 pad=1, relu, concat( | conv 5 1, relu | maxpool 3 stride=1 pad=1, conv 2 1), relu6, "
    "concat(batchnorm, relu, conv 3 3 pad=1 | ), concat(gap, flatten | maxpool 4, flatten), relu, dense 3",
    "9: concat(dense 4, relu | | dense 3), dense 5",
    "3x8x8: patch_embed.proj: patch 4 12, cls_token: classtoken, pos_embed: position, blocks: encoder 2 3, norm: "
    "layernorm, token 0, head: linear 5",
    "2x6x6: patch 3 8, classtoken, disttoken, prompttokens 3, position, encoder 1 2 norm=post act=relu eps=1e-5, "
    "meanpool, linear "
    "3",
    "2x6x6: tokens, concat( | linear 3 | gelu), residual(layernorm, linear 7, silu, droppath 0.1), maxpool 2x1, "
    "batchnorm, layernorm, flatten, layernorm, dense 3",
    "tokens 11: embed 256 12, position, encoder 2 3, layernorm, meanpool, dense 5",
    "tokens 13: embed 256 8, conv 12 5x1 stride=2x1 pad=2x0, batchnorm, relu, conv 12 5x1 pad=2x0, maxpool 2x1, "
    "position, classtoken, encoder 2 2 causal=1, token 0, dense 5",
    "tokens 9: concat(embed 256 4 | embed 256 5), classtoken, residual(linear 27, attention 3), concat(meanpool | "
    "maxpool 10x1, flatten), linear 6",
    "tokens 8: embed 20 6, meanpool",
    /* what an int8 model has in float: sums of more and fewer than 16 numbers, with padding and without */
    "3x10x10: patch 2 18, classtoken, position, encoder 2 3, layernorm, token 0, dense 5",
    "1x8x8: patch 2 20, classtoken, disttoken, position, encoder 2 2 causal=1 act=gelutanh, layernorm, disthead 7",
    "tokens 20: embed 256 12, position, encoder 1 3, encoder 1 2 causal=1 act=gelutanh, silu, layernorm, tanh, "
    "meanpool, linear 3",
    "9: dense 4, softtree 3 4",
    "1x6x6: conv 4 3 pad=1, relu, maxpool 2, softtree 5 3 penalty=0",
    "2x4x4: conv 3 3, relu, prompt 5, dense 6, relu, dense 3",
    "2x6x6: patch 3 8, position, sidetokens 3 4, encoder 1 2, layernorm, meanpool, dense 3",
    "tokens 7: embed 30 6, sidetokens 2 3, encoder 1 2, meanpool, dense 3",
    "2x5x5: depthwise 3, gap, batchnorm, relu, dense 4, layernorm, dense 3, tanh",
};

/* Uniform in [-1, 1). */
static float next(uint64_t *state)
{
    *state += 1;
    return (float)(kd__rng_unit(*state, 77) * 2 - 1);
}

static void make_texts(const kd_model *m, int length, uint8_t *bytes, float *ids);

/* The same in int8, calibrated on noise, or on texts; NULL: int8 has no rule for anything in it. */
static kd_model *quantised(kd_ctx *kd, const kd_model *m, const char *line)
{
    enum { IMAGES = 18 };
    kd_model *made = NULL;
    kd_data data;
    int c, h, w, i;
    float *x;
    uint8_t *bytes;
    uint64_t state = 5;
    kd_model_input(m, &c, &h, &w);
    x = (float *)calloc((size_t)(IMAGES * c * h * w), sizeof *x);
    bytes = (uint8_t *)calloc((size_t)(IMAGES * c * h * w), 1);
    for (i = 0; i < IMAGES * c * h * w; ++i) x[i] = 2 * next(&state);
    for (i = 0; m->ids && i < IMAGES; i += SAMPLES) make_texts(m, c, bytes + i * c, x + i * c);
    data = m->ids ? kd_data_text(bytes, NULL, IMAGES, c, kd_model_outputs(m))
                  : kd_data_f32(x, NULL, IMAGES, c, h, w, kd_model_outputs(m));
    if (!m->ids) kd_model_preprocessing(m, data.mean, data.std);
    if (kd_model_quantize(m, &data, NULL, &made) != KD_OK && !strstr(kd_error(kd), "no rule for any layer"))
        fprintf(stderr, "%s: %s\n", line, kd_error(kd)), exit(1);
    free(x);
    free(bytes);
    return made;
}

static int pick(uint64_t *state, int count) { return (int)((next(state) + 1) * 0.499999f * (float)count); }

/* Layers that keep height and width. */
static void append_body(char *line, uint64_t *state, int channels)
{
    static const char *const acts[] = {"relu",      "relu6",   "leakyrelu 0.3", "gelu",     "silu",
                                       "hardswish", "sigmoid", "tanh",          "gelutanh", "batchnorm, relu"};
    char *at = line + strlen(line);
    switch (pick(state, 5)) {
    case 0: sprintf(at, ", conv %d 3 pad=1", channels); break;
    case 1: sprintf(at, ", conv %d 1 bias=0", channels); break;
    case 2: sprintf(at, ", depthwise 3 pad=1"); break;
    case 3: sprintf(at, ", conv %d 5 pad=2 groups=2", channels); break;
    default: sprintf(at, ", maxpool 3 stride=1 pad=1, batchnorm"); break;
    }
    sprintf(line + strlen(line), ", %s", acts[pick(state, 10)]);
}

static void random_line(char *line, uint64_t seed)
{
    uint64_t state = seed * 1000;
    int blocks = 1 + pick(&state, 3), channels = 2 * (1 + pick(&state, 5)), i;
    sprintf(line, "%dx%dx%d: conv %d 3 pad=1", 1 + pick(&state, 3), 6 + pick(&state, 7), 6 + pick(&state, 7),
            channels);
    for (i = 0; i < blocks; ++i) {
        const int branches = pick(&state, 3) == 0;
        append_body(line, &state, channels);
        if (branches) {
            char body[300] = "";
            append_body(body, &state, channels);
            append_body(body, &state, channels);
            sprintf(line + strlen(line), ", residual(%s), relu", body + 2);
        }
        if (pick(&state, 3) == 0) strcat(line, i % 2 ? ", avgpool 2" : ", maxpool 2");
    }
    strcat(line, pick(&state, 2) ? ", gap, dense 5" : ", dense 6, tanh, dense 3");
}

static kd_model *make(kd_ctx *kd, const char *line, uint64_t seed)
{
    uint64_t state = seed;
    kd_model *m = NULL;
    float mean[KD_MAX_CHANNELS], std[KD_MAX_CHANNELS];
    int i;
    size_t j;
    if (kd_model_create(kd, line, seed, &m) != KD_OK) fprintf(stderr, "%s: %s\n", line, kd_error(kd)), exit(1);
    for (i = 0; i < m->param_count; ++i) { /* biases and statistics away from their start */
        kd__param *p = &m->params[i];
        for (j = 0; p->layout == KD__VECTOR && j < p->size; ++j) kd__param_stored(m, p)[j] += 0.5f * next(&state);
    }
    for (i = 0; i < KD_MAX_CHANNELS; ++i) mean[i] = 0.1f * (float)i + 0.3f, std[i] = 0.2f + 0.05f * (float)i;
    if (seed % 3 && !m->ids) kd_model_set_preprocessing(m, mean, std);
    return m;
}

/* Texts: a whole one, half of one, and one of no bytes, if there are logits then. Ids may be 0 between others. */
static void make_texts(const kd_model *m, int length, uint8_t *bytes, float *ids)
{
    const int vocabulary = (int)m->nodes[0].arg[KD__EMBED_VOCABULARY].v[0];
    const int lengths[SAMPLES] = {length, length / 2, strstr(m->spec, "20 6, meanpool") ? 1 : 0};
    int i, j;
    for (i = 0; i < SAMPLES; ++i) {
        for (j = 0; j < length; ++j, ++bytes, ++ids) {
            *bytes = (uint8_t)(j < lengths[i] ? 1 + (i * 91 + j * 37) % (vocabulary - 1) : 0);
            *ids = *bytes % 5 == 4 && j + 1 < lengths[i] ? 0.0f : (float)*bytes;
        }
    }
}

/* kd_predict of bytes. */
static kd_result predict_bytes(const kd_model *m, const uint8_t *bytes, int length, float *logits)
{
    float *ids = (float *)calloc((size_t)(SAMPLES * length), sizeof *ids);
    kd_result result;
    int i;
    if (!m->ids) {
        free(ids);
        return kd_predict_u8_hwc(m, bytes, SAMPLES, logits);
    }
    for (i = 0; i < SAMPLES * length; ++i) ids[i] = (float)bytes[i];
    result = kd_predict(m, ids, SAMPLES, logits);
    free(ids);
    return result;
}

/* One model: its file, and its part of cases.h. */
static void write_case(kd_ctx *kd, FILE *cases, const char *folder, int index, const char *line, kd_model *m)
{
    char path[1000];
    int c, h, w, i, count, outputs = kd_model_outputs(m);
    uint8_t *pixels;
    float *x, *logits = (float *)calloc((size_t)(2 * SAMPLES * outputs), sizeof *logits);
    uint64_t state = (uint64_t)index;
    kd_model_input(m, &c, &h, &w);
    count = c * h * w;
    pixels = (uint8_t *)calloc((size_t)(SAMPLES * count), 1);
    x = (float *)calloc((size_t)(SAMPLES * count), sizeof *x);
    for (i = 0; i < SAMPLES * count; ++i) x[i] = 2 * next(&state);
    for (i = 0; i < SAMPLES * count; ++i) pixels[i] = (uint8_t)(i * 37 + i * i % 91 + index);
    if (m->ids) make_texts(m, count, pixels, x);
    snprintf(path, sizeof path, "%s/m%02d.safetensors", folder, index);
    if (kd_model_save(m, path) != KD_OK || predict_bytes(m, pixels, count, logits) != KD_OK ||
        kd_predict(m, x, SAMPLES, logits + SAMPLES * outputs) != KD_OK)
        fprintf(stderr, "%s\n", kd_error(kd)), exit(1);
    fprintf(cases, "/* %s */\n#include \"m%02d.c\"\nstatic const %s m%02d_pixels[] = {", line, index,
            m->ids ? "char" : "uint8_t", index);
    for (i = 0; i < SAMPLES * count; ++i)
        fprintf(cases, "%s%d,%s", m->ids ? "(char)" : "", pixels[i], i % 30 == 29 ? "\n" : "");
    fprintf(cases, "};\nstatic const float m%02d_x[] = {", index);
    for (i = 0; i < SAMPLES * count; ++i) { /* as the file takes it: (h, w, c), but for vectors */
        const int sample = i / count, in = i % count, from = m->ids ? i : sample * count + in % c * h * w + in / c;
        fprintf(cases, "%.9ff,%s", (double)x[from], i % 8 == 7 ? "\n" : "");
    }
    fprintf(cases, "};\nstatic const float m%02d_logits_wanted[] = {", index);
    for (i = 0; i < 2 * SAMPLES * outputs; ++i)
        fprintf(cases, "%.9ef,%s", (double)logits[i], i % 6 == 5 ? "\n" : "");
    fprintf(cases, "};\n");
    free(pixels);
    free(x);
    free(logits);
}

int main(int argc, char **argv)
{
    kd_ctx_desc desc = kd_ctx_defaults();
    kd_ctx *kd;
    char path[1000], line[1000];
    FILE *cases;
    int i, count = 0, exact[2 * (KD__COUNT(lines) + RANDOM)] = {0};
    desc.isa = KD_ISA_SCALAR;
    snprintf(path, sizeof path, "%s/cases.h", argc > 1 ? argv[1] : ".");
    cases = fopen(path, "w");
    if (!cases || kd_open(&desc, &kd) != KD_OK) return 1;
    for (i = 0; i < KD__COUNT(lines) + RANDOM; ++i) {
        kd_model *m, *q;
        if (i < KD__COUNT(lines))
            strcpy(line, lines[i]);
        else
            random_line(line, (uint64_t)i);
        m = make(kd, line, (uint64_t)i + 1);
        write_case(kd, cases, argv[1], count++, line, m);
        q = quantised(kd, m, line);
        if (q) write_case(kd, cases, argv[1], count++, line, q), exact[count - 1] = 1;
        kd_model_destroy(q);
        kd_model_destroy(m);
    }
    fprintf(cases, "enum { SAMPLES = %d };\n#define CASES(X)", SAMPLES);
    for (i = 0; i < count; ++i) fprintf(cases, " X(m%02d, M%02d, %d)", i, i, exact[i]);
    fprintf(cases, "\n");
    kd_close(kd);
    return fclose(cases) != 0;
}
