/* names_peer.c - for names.sh: models of which names_peer.py asks other libraries what they compute.
   usage: names_peer FOLDER: writes NAMES.safetensors, as kd_model_save_names does, and NAMES.npy, logits of the
   inputs that names_peer.py makes, too; and own.safetensors, BERT's as kd_model_save writes it. */
#define KD_IMPLEMENTATION
#include "../kd.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define VIT_LINE(start, end)                                                                                       \
    "3x8x8: patch_embed.proj: patch 4 12, cls_token: classtoken, " start                                           \
    "pos_embed: position, blocks: encoder 2 3 eps=%s, norm: layernorm %s, " end
#define BERT_LINE(end)                                                                                             \
    "tokens 9: embed: embed 12 8, pos_embed: position, norm_pre: layernorm 1e-12, "                                \
    "blocks: encoder 2 2 mlp=2 norm=post eps=1e-12, token 0, pooler: linear 8, " end ", head: linear 3"

enum { SAMPLES = 4 };

static const struct {
    kd_names names;
    const char *line, *eps;
} cases[] = {
    {KD_NAMES_TIMM, VIT_LINE("", "token 0, head: linear 5"), "1e-6"},
    {KD_NAMES_TORCHVISION, VIT_LINE("", "token 0, head: dense 5"), "1e-6"},
    {KD_NAMES_ENCODER, "12x5x1: blocks: encoder 2 3 eps=1e-5 norm=post act=relu, meanpool, head: linear 5", ""},
    {KD_NAMES_VIT, VIT_LINE("", "token 0, head: linear 5"), "1e-12"},
    {KD_NAMES_DEIT, VIT_LINE("dist_token: disttoken, ", "head: disthead 5"), "1e-12"},
    {KD_NAMES_BERT, BERT_LINE("tanh"), ""},
    {KD_NAMES_DISTILBERT, BERT_LINE("relu"), ""},
};

/* What names_peer.py has, too: numbers of -1 to 1, or ids, the last samples with padding. */
static float input_of(int ids, int sample, int i, int size)
{
    const int n = (i * 7919 + sample * 104729) % 2001;
    if (!ids) return (float)(n - 1000) / 1000;
    return i < size - sample ? (float)(1 + n % 11) : 0;
}

static int run(kd_ctx *kd, const char *folder, size_t at)
{
    char path[4096], line[512];
    float *x, *logits = NULL;
    int64_t shape[2] = {SAMPLES, 0};
    kd_model *m;
    kd_result result;
    int c, h, w, i, j;
    snprintf(line, sizeof line, cases[at].line, cases[at].eps, cases[at].eps);
    result = kd_model_create(kd, line, 3, &m);
    if (result != KD_OK) return 0;
    for (i = 0; i < kd_model_tensors(m) && result == KD_OK; ++i) { /* none is 0, as first biases are */
        kd_tensor_info info;
        float *values;
        (void)kd_model_tensor_info(m, i, &info);
        values = (float *)malloc((size_t)info.count * sizeof *values);
        if (!values) return 0;
        for (j = 0; j < (int)info.count; ++j)
            values[j] = (float)((j * 31 + i * 17) % 101 - 50) / 100 + (strstr(info.name, "norm") ? 1.0f : 0.0f);
        result = kd_model_set_tensor(m, info.name, values, info.count);
        free(values);
    }
    kd_model_input(m, &c, &h, &w);
    shape[1] = kd_model_outputs(m);
    x = (float *)malloc((size_t)(SAMPLES * c * h * w) * sizeof *x);
    logits = (float *)malloc((size_t)SAMPLES * (size_t)shape[1] * sizeof *logits);
    if (!x || !logits) return 0;
    for (i = 0; i < SAMPLES; ++i)
        for (j = 0; j < c * h * w; ++j)
            x[i * c * h * w + j] = input_of(strncmp(line, "tokens", 6) == 0, i, j, c * h * w);
    if (result == KD_OK) result = kd_predict(m, x, SAMPLES, logits);
    snprintf(path, sizeof path, "%s/%s.npy", folder, kd_names_name(cases[at].names));
    if (result == KD_OK) result = kd_npy_write(kd, path, logits, 2, shape);
    snprintf(path, sizeof path, "%s/%s.safetensors", folder, kd_names_name(cases[at].names));
    if (result == KD_OK) result = kd_model_save_names(m, path, cases[at].names, KD_DTYPE_F32);
    snprintf(path, sizeof path, "%s/own.safetensors", folder);
    if (result == KD_OK && cases[at].names == KD_NAMES_BERT) result = kd_model_save(m, path);
    free(x);
    free(logits);
    kd_model_destroy(m);
    return result == KD_OK;
}

int main(int argc, char **argv)
{
    kd_ctx *kd;
    size_t i;
    if (argc != 2 || kd_open(NULL, &kd) != KD_OK) return EXIT_FAILURE;
    for (i = 0; i < sizeof cases / sizeof *cases; ++i) {
        if (run(kd, argv[1], i)) continue;
        fprintf(stderr, "%s: %s\n", kd_names_name(cases[i].names), kd_error(kd));
        return EXIT_FAILURE;
    }
    kd_close(kd);
    return EXIT_SUCCESS;
}
