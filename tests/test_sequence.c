/* Layers over tokens: what they are called and how they start, state dicts of PyTorch's Transformers, masks, and
   what training makes of them. Values and gradients of each layer: test_layers.c. */
#include "disk.h"

#include "golden/sequence.h"

#include "golden/bert.h"

#include "golden/saved.h"

static const char vit_line[] = "3x8x8: patch_embed.proj: patch 4 12, cls_token: classtoken, pos_embed: position, "
                               "blocks: encoder 2 3, norm: layernorm, token 0, head: linear 5";
static const char deit_line[] =
    "1x6x9: patch_embed.proj: patch 3 8, cls_token: classtoken, dist_token: disttoken, pos_embed: position, "
    "blocks: encoder 1 2, norm: layernorm, head: disthead 4";
static const char small_line[] =
    "1x8x8: patch 4 8, classtoken, position, encoder 2 2 mlp=2 droppath=0.2, layernorm, "
    "token 0, linear 3";

static kd_model *create_in(kd_ctx *ctx, const char *spec, uint64_t seed)
{
    kd_model *m;
    if (kd_model_create(ctx, spec, seed, &m) != KD_OK) fail_msg("%s: %s", spec, kd_error(ctx));
    return m;
}

/* ---- against PyTorch ------------------------------------------------------------------------------------- */

static float golden_value(int k, int64_t i)
{
    return (float)((double)((i * 7919 + (int64_t)k * 104729 + i * i % 31 * 577) % 2001 - 1000) / 1000);
}

static float *golden_numbers(int k, int64_t count, float scale, float offset)
{
    float *x = (float *)malloc((size_t)count * sizeof *x);
    int64_t i;
    for (i = 0; i < count; ++i) x[i] = golden_value(k, i) * scale + offset;
    return x;
}

/* A state dict as file "f", without a model line. */
static void put_state_dict(const golden_tensor *tensors, int count)
{
    static unsigned char bytes[1 << 17];
    char header[8192] = "{";
    unsigned char *data = bytes + 8 + sizeof header, *at = data;
    size_t length = 1;
    int k, j;
    for (k = 0; k < count; ++k) {
        const golden_tensor *t = &tensors[k];
        const int whole = strstr(t->name, "position_ids") != NULL;
        int64_t size = 1, i;
        float *x;
        length += (size_t)sprintf(header + length, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[", k ? "," : "", t->name,
                                  whole ? "I64" : "F32");
        for (j = 0; j < t->rank; ++j) {
            size *= t->shape[j];
            length += (size_t)sprintf(header + length, "%s%d", j ? "," : "", t->shape[j]);
        }
        length += (size_t)sprintf(header + length, "],\"data_offsets\":[%d,%d]}", (int)(at - data),
                                  (int)(at - data + (whole ? 8 : 4) * size));
        x = golden_numbers(k, size, t->scale, t->offset);
        for (i = 0; i < size && !whole; ++i, at += 4) kd__store_le(at, kd__float_bits(x[i]), 4);
        for (i = 0; i < size && whole; ++i, at += 8) kd__store_le(at, (uint64_t)i, 8);
        free(x);
    }
    assert_true(length < sizeof header - 1);
    header[length] = '}';
    memset(header + length + 1, ' ', sizeof header - length - 1);
    kd__store_le(bytes, sizeof header, 8);
    memcpy(bytes + 8, header, sizeof header);
    disk_put("f", bytes, (size_t)(at - bytes));
}

static void check_state_dict(const char *line, const golden_tensor *tensors, int count, const double *wanted,
                             int outputs, int exact_names)
{
    kd_ctx *own = kd;
    kd_isa isa;
    int i;
    put_state_dict(tensors, count);
    FOR_EACH_ISA(isa)
    {
        kd_ctx_desc desc = own->desc;
        float logits[16], *x;
        kd_model *m, *back;
        desc.isa = isa;
        assert_int_equal(kd_open(&desc, &kd), KD_OK);
        m = create_in(kd, line, 1);
        for (i = 0; exact_names && i < count; ++i) assert_true(kd__param_find(m, tensors[i].name) >= 0);
        assert_ok(kd, kd_model_load_weights(m, "f"));
        x = golden_numbers(100, 2 * kd__shape_count(&m->values[m->input].shape), 1, 0);
        assert_ok(kd, kd_predict(m, x, 2, logits));
        for (i = 0; i < 2 * outputs; ++i) assert_near(logits[i], wanted[i], 5e-6);
        assert_ok(kd, kd_model_save(m, "m")); /* and through a file of its own */
        assert_ok(kd, kd_model_load(kd, "m", &back));
        assert_true(kd_model_hash(back) == kd_model_hash(m));
        kd_model_destroy(m), kd_model_destroy(back);
        free(x);
        kd_close(kd);
        kd = own;
    }
    disk_delete(disk_find("m"));
    disk_delete(disk_find("f"));
}

/* The same under the names of other libraries, which `under` says; where queries, keys and values have three, each
   has a slice of the one tensor. */
static void put_renamed(const char *prefix, const char *(*under)(const char *name, int part, char *text))
{
    static unsigned char bytes[1 << 17];
    char header[8192] = "{", text[128];
    unsigned char *data = bytes + 8 + sizeof header, *at = data;
    size_t length = 1;
    int k, j, part;
    for (k = 0; k < KD__COUNT(golden_vit); ++k) {
        const golden_tensor *t = &golden_vit[k];
        const char *name = under(t->name, 1, text);
        const int parts = strstr(t->name, "qkv") && strcmp(name, under(t->name, 2, text + 64)) != 0 ? 3 : 1;
        int64_t size = 1, i;
        float *x;
        for (j = 0; j < t->rank; ++j) size *= t->shape[j];
        x = golden_numbers(k, size, t->scale, t->offset);
        for (part = 0; part < parts; ++part) {
            length += (size_t)sprintf(header + length, "%s\"%s%s\":{\"dtype\":\"F32\",\"shape\":[",
                                      length > 1 ? "," : "", prefix, under(t->name, part + 1, text));
            for (j = 0; j < t->rank; ++j)
                length += (size_t)sprintf(header + length, "%s%d", j ? "," : "", t->shape[j] / (j ? 1 : parts));
            length += (size_t)sprintf(header + length, "],\"data_offsets\":[%d,%d]}", (int)(at - data),
                                      (int)(at - data + 4 * size / parts));
            for (i = part * size / parts; i < (part + 1) * size / parts; ++i, at += 4)
                kd__store_le(at, kd__float_bits(x[i]), 4);
        }
        free(x);
    }
    assert_true(length < sizeof header - 1);
    header[length] = '}';
    memset(header + length + 1, ' ', sizeof header - length - 1);
    kd__store_le(bytes, sizeof header, 8);
    memcpy(bytes + 8, header, sizeof header);
    disk_put("f", bytes, (size_t)(at - bytes));
}

/* A name, of which each pair stands for one that begins so: ours, theirs. */
static const char *replace(const char *const pairs[][2], const char *name, int block, char *text)
{
    for (; (*pairs)[0]; ++pairs) {
        const size_t length = strlen((*pairs)[0]);
        if (strncmp(name, (*pairs)[0], length) != 0) continue;
        if (strstr((*pairs)[1], "%d"))
            sprintf(text, (*pairs)[1], block, name + length);
        else
            sprintf(text, (*pairs)[1], name + length);
        return text;
    }
    fail_msg("no name for %s", name);
    return NULL;
}

static const char *named(const char *const outer[][2], const char *const inner[][2], const char *name, char *text)
{
    int block = 0, read = 0;
    if (sscanf(name, "blocks.%d.%n", &block, &read) == 1) return replace(inner, name + read, block, text);
    return replace(outer, name, 0, text);
}

static const char *in_torchvision(const char *name, int part, char *text)
{
    static const char *const outer[][2] = {{"cls_token", "class_token%s"},
                                           {"pos_embed", "encoder.pos_embedding%s"},
                                           {"patch_embed.proj.", "conv_proj.%s"},
                                           {"norm.", "encoder.ln.%s"},
                                           {"head.", "heads.head.%s"},
                                           {NULL, NULL}};
    static const char *const inner[][2] = {
        {"norm1.", "encoder.layers.encoder_layer_%d.ln_1.%s"},
        {"norm2.", "encoder.layers.encoder_layer_%d.ln_2.%s"},
        {"attn.qkv.", "encoder.layers.encoder_layer_%d.self_attention.in_proj_%s"},
        {"attn.proj.", "encoder.layers.encoder_layer_%d.self_attention.out_proj.%s"},
        {"mlp.fc1.", "encoder.layers.encoder_layer_%d.mlp.0.%s"},
        {"mlp.fc2.", "encoder.layers.encoder_layer_%d.mlp.3.%s"},
        {NULL, NULL}};
    (void)part;
    return named(outer, inner, name, text);
}

static const char *const hugging_face[][2] = {
    {"cls_token", "vit.embeddings.cls_token%s"},
    {"pos_embed", "vit.embeddings.position_embeddings%s"},
    {"patch_embed.proj.", "vit.embeddings.patch_embeddings.projection.%s"},
    {"norm.", "vit.layernorm.%s"},
    {"head.", "classifier.%s"},
    {NULL, NULL}};

static const char *in_hugging_face(const char *name, int part, char *text)
{
    static const char *const inner[][2] = {{"norm1.", "vit.encoder.layer.%d.layernorm_before.%s"},
                                           {"norm2.", "vit.encoder.layer.%d.layernorm_after.%s"},
                                           {"attn.proj.", "vit.encoder.layer.%d.attention.output.dense.%s"},
                                           {"mlp.fc1.", "vit.encoder.layer.%d.intermediate.dense.%s"},
                                           {"mlp.fc2.", "vit.encoder.layer.%d.output.dense.%s"},
                                           {NULL, NULL}};
    static const char *const thirds[] = {"query", "key", "value"};
    int block = 0, read = 0;
    if (strstr(name, "qkv")) {
        assert_int_equal(sscanf(name, "blocks.%d.attn.qkv.%n", &block, &read), 1);
        sprintf(text, "vit.encoder.layer.%d.attention.attention.%s.%s", block, thirds[part - 1], name + read);
        return text;
    }
    return named(hugging_face, inner, name, text);
}

static const char *in_hugging_face_5(const char *name, int part, char *text)
{
    static const char *const inner[][2] = {{"norm1.", "vit.layers.%d.layernorm_before.%s"},
                                           {"norm2.", "vit.layers.%d.layernorm_after.%s"},
                                           {"attn.proj.", "vit.layers.%d.attention.o_proj.%s"},
                                           {"mlp.", "vit.layers.%d.mlp.%s"},
                                           {NULL, NULL}};
    int block = 0, read = 0;
    if (!strstr(name, "qkv")) return named(hugging_face, inner, name, text);
    assert_int_equal(sscanf(name, "blocks.%d.attn.qkv.%n", &block, &read), 1);
    sprintf(text, "vit.layers.%d.attention.%c_proj.%s", block, "qkv"[part - 1], name + read);
    return text;
}

static const char *in_encoder(const char *name, int part, char *text)
{
    static const char *const outer[][2] = {{"", "%s"}, {NULL, NULL}};
    static const char *const inner[][2] = {{"norm", "encoder.layers.%d.norm%s"},
                                           {"attn.qkv.", "encoder.layers.%d.self_attn.in_proj_%s"},
                                           {"attn.proj.", "encoder.layers.%d.self_attn.out_proj.%s"},
                                           {"mlp.fc1.", "encoder.layers.%d.linear1.%s"},
                                           {"mlp.fc2.", "encoder.layers.%d.linear2.%s"},
                                           {NULL, NULL}};
    (void)part;
    return named(outer, inner, name, text);
}

static void test_other_names(void **state)
{
    const char *(*const libraries[])(const char *, int, char *) = {in_torchvision, in_hugging_face,
                                                                   in_hugging_face_5, in_encoder};
    kd_isa isa;
    int i, j;
    (void)state;
    for (i = 0; i < 8; ++i) {
        put_renamed(i / 4 ? "module." : "", libraries[i % 4]);
        FOR_EACH_ISA(isa)
        {
            kd_ctx_desc desc = kd->desc;
            kd_ctx *ctx;
            kd_model *m;
            float logits[16], *x = golden_numbers(100, 2 * 192, 1, 0);
            desc.isa = isa;
            assert_int_equal(kd_open(&desc, &ctx), KD_OK);
            m = create_in(ctx, vit_line, 1);
            assert_ok(ctx, kd_model_load_weights(m, "f"));
            assert_ok(ctx, kd_predict(m, x, 2, logits));
            for (j = 0; j < 10; ++j) assert_near(logits[j], golden_vit_logits[j], 5e-6);
            kd_model_destroy(m);
            m = create_in(ctx,
                          "3x8x8: patch_embed.proj: patch 4 15, cls_token: classtoken, pos_embed: position, "
                          "blocks: encoder 2 3, norm: layernorm, token 0, head: linear 5",
                          1);
            assert_fails(ctx, kd_model_load_weights(m, "f"), KD_ERR_SHAPE, "but the model's");
            kd_model_destroy(m);
            m = create_in(ctx,
                          "3x8x8: patch_embed.proj: patch 4 12, cls_token: classtoken, pos_embed: position, "
                          "blocks: encoder 1 3, norm: layernorm, token 0, head: linear 5",
                          1);
            assert_fails(ctx, kd_model_load_weights(m, "f"), KD_ERR_FORMAT, "that the model does not have");
            assert_non_null(strstr(kd_error(ctx), "1.")); /* the second block's */
            kd_model_destroy(m);
            kd_close(ctx);
            free(x);
        }
        disk_delete(disk_find("f"));
    }
}

static void test_state_dicts(void **state)
{
    (void)state;
    check_state_dict(vit_line, golden_vit, KD__COUNT(golden_vit), golden_vit_logits, 5, 1);
    check_state_dict(deit_line, golden_deit, KD__COUNT(golden_deit), golden_deit_logits, 4, 1);
}

/* ---- BERT ------------------------------------------------------------------------------------------------ */

/* A line whose tensors have the names that those of BERT are translated to. */
#define BERT_LINE(length, blocks, end)                                                                             \
    "tokens " length ": embed: embed 12 8, pos_embed: position, norm_pre: layernorm 1e-12, "                       \
    "blocks: encoder " blocks " 2 mlp=2 norm=post eps=1e-12, token 0, pooler: linear 8, " end
#define BERT_HEAD "tanh, head: linear 3"

/* As files of many years have it: the end of a layernorm's names, and a buffer of whole numbers. */
static int older(const golden_tensor *from, int count, char names[][80], golden_tensor *to)
{
    int i;
    for (i = 0; i < count; ++i) {
        char *norm = strcpy(names[i], from[i].name);
        to[i] = from[i];
        to[i].name = names[i];
        norm = strstr(norm, "LayerNorm.");
        if (norm) strcpy(norm + 10, strcmp(norm + 10, "bias") == 0 ? "beta" : "gamma");
    }
    to[count] = to[0];
    to[count].name = "bert.embeddings.position_ids";
    to[count].shape[0] = 1, to[count].shape[1] = 16;
    return count + 1;
}

static void check_bert(const char *line, const golden_tensor *tensors, int count, const double *wanted,
                       int segments)
{
    kd_isa isa;
    int i;
    put_state_dict(tensors, count);
    FOR_EACH_ISA(isa)
    {
        kd_ctx_desc desc = kd->desc;
        float ids[BERT_TEXTS * BERT_LENGTH], logits[BERT_TEXTS * 8];
        kd_ctx *ctx;
        kd_model *m;
        desc.isa = isa;
        desc.log = log_keep;
        assert_int_equal(kd_open(&desc, &ctx), KD_OK);
        m = create_in(ctx, line, 1);
        kept_count = 0;
        assert_ok(ctx, kd_model_load_weights(m, "f"));
        assert_int_equal(kept_count, 2);
        assert_non_null(strstr(kept_lines[1], "\"pos_embed\" are the first 9 of the 16 rows of"));
        assert_true(segments == (strstr(kept_lines[1], "is added: texts have one segment") != NULL));
        for (i = 0; i < BERT_TEXTS * BERT_LENGTH; ++i) ids[i] = (float)bert_ids[i];
        assert_ok(ctx, kd_predict(m, ids, BERT_TEXTS, logits));
        for (i = 0; i < BERT_TEXTS * kd_model_outputs(m); ++i) assert_near(logits[i], wanted[i], 5e-6);
        kd_model_destroy(m);
        kd_close(ctx);
    }
    disk_delete(disk_find("f"));
}

static void test_bert(void **state)
{
    char names[KD__COUNT(bert)][80];
    golden_tensor old[KD__COUNT(bert) + 1];
    const int count = older(bert, KD__COUNT(bert), names, old);
    (void)state;
    check_bert(BERT_LINE("9", "2", BERT_HEAD), bert, KD__COUNT(bert), bert_logits, 1);
    check_bert(BERT_LINE("9", "2", BERT_HEAD), old, count, bert_logits, 1);
    check_bert(BERT_LINE("9", "2", "tanh"), bert_model, KD__COUNT(bert_model), bert_model_logits, 1);
    check_bert(BERT_LINE("9", "2", "relu, head: linear 3"), distilbert, KD__COUNT(distilbert), distilbert_logits,
               0);
}

/* What does not fit is said, and the model stays as it was. */
static void test_bert_refused(void **state)
{
    static const struct {
        const char *line;
        kd_result result;
        const char *text;
    } cases[] = {
        {BERT_LINE("17", "2", BERT_HEAD), KD_ERR_SHAPE,
         "tensor \"bert.embeddings.position_embeddings.weight\" of \"f\" is (16, 8), but the model's \"pos_embed\" "
         "is "
         "(1, 17, 8), a row a token"},
        {BERT_LINE("9", "1", BERT_HEAD), KD_ERR_FORMAT,
         "has a tensor \"bert.encoder.layer.1.attention.output.dense.bias\" that the model does not have"},
        {BERT_LINE("9", "2", "tanh, head: linear 4"), KD_ERR_SHAPE,
         "tensor \"classifier.weight\" of \"f\" is (3, 8), but the model's \"head.weight\" is (4, 8)"},
        {BERT_LINE("9", "2", "tanh"), KD_ERR_FORMAT, "has a tensor \"classifier.bias\" that the model does not"},
        {"tokens 9: embed: embed 12 8, norm_pre: layernorm 1e-12, blocks: encoder 2 2 mlp=2 norm=post eps=1e-12, "
         "token 0, pooler: linear 8, tanh, head: linear 3",
         KD_ERR_FORMAT, "has a tensor \"bert.embeddings.position_embeddings.weight\" that the model does not have"},
    };
    char names[KD__COUNT(bert)][80];
    golden_tensor changed[KD__COUNT(bert) + 2];
    const int count = older(bert, KD__COUNT(bert), names, changed);
    uint64_t hash;
    kd_model *m;
    int i;
    (void)state;
    put_state_dict(changed, count);
    for (i = 0; i < KD__COUNT(cases); ++i) {
        m = create_in(kd, cases[i].line, 1);
        hash = kd_model_hash(m);
        assert_fails(kd, kd_model_load_weights(m, "f"), cases[i].result, cases[i].text);
        assert_true(kd_model_hash(m) == hash);
        kd_model_destroy(m);
    }
    m = create_in(kd, BERT_LINE("9", "2", BERT_HEAD), 1);
    hash = kd_model_hash(m);
    for (i = 0; !strstr(bert[i].name, "0.output.LayerNorm.weight"); ++i) {}
    changed[count] = bert[i]; /* under both names */
    put_state_dict(changed, count + 1);
    assert_fails(kd, kd_model_load_weights(m, "f"), KD_ERR_FORMAT,
                 "0.output.LayerNorm.gamma\" and \"bert.encoder.layer.0.output.LayerNorm.weight\" of \"f\" both "
                 "stand for the model's \"blocks.0.norm2.weight\"");
    assert_true(kd_model_hash(m) == hash);
    changed[2].scale = INFINITY; /* token types */
    put_state_dict(changed, count);
    assert_fails(kd, kd_model_load_weights(m, "f"), KD_ERR_NOT_FINITE,
                 "token_type_embeddings.weight\" of \"f\" holds");
    assert_true(kd_model_hash(m) == hash);
    changed[2].scale = 1, changed[2].shape[0] = 0;
    put_state_dict(changed, count);
    assert_fails(kd, kd_model_load_weights(m, "f"), KD_ERR_SHAPE,
                 "token_type_embeddings.weight\" of \"f\" is (0, 8)");
    kd_model_destroy(m);
    disk_delete(disk_find("f"));
}

/* ---- lines ----------------------------------------------------------------------------------------------- */

/* ---- saved under the names of other libraries ------------------------------------------------------------ */

#define SAVED_VIT                                                                                                  \
    "3x8x8: patch_embed.proj: patch 4 12, cls_token: classtoken, pos_embed: position, blocks: encoder 2 3, "       \
    "norm: layernorm, token 0, head: linear 5"
#define SAVED_DEIT                                                                                                 \
    "3x8x8: patch_embed.proj: patch 4 12, cls_token: classtoken, dist_token: disttoken, pos_embed: position, "     \
    "blocks: encoder 2 3, norm: layernorm, head: disthead 5"
#define SAVED_ENCODER "12x5x1: blocks: encoder 2 3 norm=post act=relu"

/* Whether the file's header has just these tensors; as many bytes follow. */
static void check_saved(const saved_tensor *wanted, int count, const char *type)
{
    const disk_file *f = disk_find("f");
    const size_t length = (size_t)kd__load_le(f->bytes, 8);
    char *header = (char *)calloc(length + 1, 1), text[256];
    const char *at;
    int i, found = 0;
    memcpy(header, f->bytes + 8, length);
    assert_true(strstr(header, "{\"__metadata__\":{\"format\":\"pt\"},\"") == header);
    for (i = 0; i < count; ++i) {
        snprintf(text, sizeof text, ",\"%s\":{\"dtype\":\"%s\",\"shape\":%s,", wanted[i].name, type,
                 wanted[i].shape);
        if (!strstr(header, text)) fail_msg("no %s", text);
    }
    for (at = header; (at = strstr(at, "\"dtype\"")) != NULL; ++at) ++found;
    assert_int_equal(found, count);
    at = strrchr(header, ',');
    assert_true(f->size == 8 + length + (size_t)strtoul(at + 1, NULL, 10));
    free(header);
}

/* Of a file's bytes. */
static uint64_t saved_hash(const char *name)
{
    const disk_file *f = disk_find(name);
    uint64_t hash = 0;
    size_t i;
    for (i = 0; f && i < f->size; ++i) hash = kd__mix(hash ^ f->bytes[i]);
    return hash;
}

static const struct {
    kd_names names;
    const char *line;
    const saved_tensor *tensors;
    int count;
} saved_cases[] = {
#define SAVED(names, word, line)                                                                                   \
    {                                                                                                              \
        names, line, saved_##word, KD__COUNT(saved_##word)                                                         \
    }
    SAVED(KD_NAMES_TIMM, timm, SAVED_VIT),
    SAVED(KD_NAMES_TORCHVISION, torchvision, SAVED_VIT),
    SAVED(KD_NAMES_ENCODER, encoder, SAVED_ENCODER),
    SAVED(KD_NAMES_VIT, vit, SAVED_VIT),
    SAVED(KD_NAMES_DEIT, deit, SAVED_DEIT),
    SAVED(KD_NAMES_BERT, bert, BERT_LINE("9", "2", BERT_HEAD)),
    SAVED(KD_NAMES_DISTILBERT, distilbert, BERT_LINE("9", "2", "relu, head: linear 3")),
};

/* Numbers of all kinds, and all different: another order would be another model. */
static void fill_saved(kd_model *m)
{
    int i;
    for (i = 0; i < kd_model_tensors(m); ++i) {
        kd_tensor_info info;
        float *values;
        assert_ok(m->kd, kd_model_tensor_info(m, i, &info));
        values = golden_numbers(i + 1, info.count, 1, 2);
        assert_ok(m->kd, kd_model_set_tensor(m, info.name, values, info.count));
        free(values);
    }
}

static void test_saved_names(void **state)
{
    kd_isa isa;
    size_t c;
    int dtype;
    (void)state;
    assert_int_equal(KD__COUNT(saved_cases), KD_NAMES_COUNT);
    FOR_EACH_ISA(isa)
    {
        kd_ctx_desc desc = kd->desc;
        kd_ctx *ctx;
        desc.isa = isa;
        assert_int_equal(kd_open(&desc, &ctx), KD_OK);
        for (c = 0; c < sizeof saved_cases / sizeof *saved_cases; ++c) {
            for (dtype = KD_DTYPE_F32; dtype <= KD_DTYPE_BF16; ++dtype) {
                static const char *const types[] = {"F32", "F16", "BF16"};
                kd_model *m = create_in(ctx, saved_cases[c].line, 1),
                         *back = create_in(ctx, saved_cases[c].line, 2), *wanted;
                fill_saved(m);
                assert_ok(ctx, kd_model_save_names(m, "f", saved_cases[c].names, (kd_dtype)dtype));
                check_saved(saved_cases[c].tensors, saved_cases[c].count, types[dtype]);
                assert_ok(ctx, kd_model_save_as(m, "m", (kd_dtype)dtype));
                assert_ok(ctx, kd_model_load(ctx, "m", &wanted));
                assert_true(kd_model_hash(wanted) != kd_model_hash(back));
                assert_ok(ctx, kd_model_load_weights(back, "f"));
                assert_true(kd_model_hash(wanted) == kd_model_hash(back));
                kd_model_destroy(m), kd_model_destroy(back), kd_model_destroy(wanted);
            }
        }
        kd_close(ctx);
    }
    disk_delete(disk_find("f"));
    disk_delete(disk_find("m"));
}

/* A file that is part of a model with more: layers in front of the encoder and behind keep their names. */
static void test_saved_encoder(void **state)
{
    static const char line[] =
        "tokens 7: embed: embed 20 6, position, blocks: encoder 1 2 norm=post act=relu, meanpool, head: dense 3";
    kd_model *m = create_in(kd, line, 1), *back = create_in(kd, line, 2);
    (void)state;
    assert_ok(kd, kd_model_save_names(m, "f", KD_NAMES_ENCODER, KD_DTYPE_F32));
    assert_ok(kd, kd_model_load_weights(back, "f"));
    assert_true(kd_model_hash(m) == kd_model_hash(back));
    kd_model_destroy(m), kd_model_destroy(back);
    disk_delete(disk_find("f"));
}

static void test_saved_refused(void **state)
{
    static const struct {
        kd_names names;
        const char *line, *text;
    } cases[] = {
        {KD_NAMES_BERT, SAVED_VIT,
         "BertForSequenceClassification has no tensor for the model's \"patch_embed.proj."},
        {KD_NAMES_VIT, SAVED_DEIT,
         "Hugging Face's ViTForImageClassification has no tensor for the model's \"dist_token\" (1, 1, 12)"},
        {KD_NAMES_DEIT, SAVED_VIT, "has a layer that the model lacks, \"dist_token\""},
        {KD_NAMES_TORCHVISION,
         "3x8x8: patch_embed.proj: patch 4 12, pos_embed: position, blocks: encoder 2 3, norm: layernorm, token 0, "
         "head: linear 5",
         "torchvision's VisionTransformer has a layer that the model lacks, \"cls_token\""},
        {KD_NAMES_VIT,
         "3x8x8: patch_embed.proj: patch 4 12, cls_token: classtoken, pos_embed: position, "
         "blocks: encoder 2 3, norm: layernorm, token 0, head: linear 5 bias=0",
         "has a tensor that the model lacks, \"head.bias\""},
        {KD_NAMES_ENCODER, "12x5x1: tokens, blocks: encoder 1 3, layers.0.norm1: layernorm, meanpool, dense 3",
         "would both be \"layers.0.norm1."},
        {KD_NAMES_TIMM,
         "3x8x8: patch_embed.proj: patch 4 12, cls_token: classtoken, pos_embed: position, "
         "blocks: encoder 2 3 norm=post, norm: layernorm, token 0, head: linear 5",
         "the blocks of timm's VisionTransformer are those of norm=pre, the model's of norm=post"},
        {KD_NAMES_DISTILBERT,
         "tokens 9: embed: embed 12 8, pos_embed: position, norm_pre: layernorm, blocks: encoder 2 2, token 0, "
         "pooler: linear 8, relu, head: linear 3",
         "are those of norm=post, the model's of norm=pre"},
        {KD_NAMES_ENCODER, "12x5x1: encoder 2 3, meanpool, dense 3",
         "has an encoder; the model has none of the name \"blocks\""},
        {KD_NAMES_ENCODER, "12x5x1: bn: batchnorm, tokens, blocks: encoder 2 3, meanpool, dense 3",
         "torch.nn.TransformerEncoder has no tensor for the model's \"bn.running_mean\" (12)"},
    };
    kd_model *m = create_in(kd, SAVED_VIT, 1), *small;
    kd_data data;
    float *x = golden_numbers(3, 4 * 192, 1, 0), value = 70000;
    int i;
    (void)state;
    for (i = 0; i < KD__COUNT(cases); ++i) {
        kd_model *other = create_in(kd, cases[i].line, 1);
        assert_fails(kd, kd_model_save_names(other, "f", cases[i].names, KD_DTYPE_F32), KD_ERR_UNSUPPORTED,
                     cases[i].text);
        kd_model_destroy(other);
    }
    assert_int_equal(kd_model_save_names(NULL, "f", KD_NAMES_VIT, KD_DTYPE_F32), KD_ERR_ARGUMENT);
    assert_fails(kd, kd_model_save_names(m, "f", KD_NAMES_COUNT, KD_DTYPE_F32), KD_ERR_ARGUMENT,
                 "kd_model_save_names: there is no kd_names 7");
    assert_fails(kd, kd_model_save_names(m, "f", KD_NAMES_VIT, (kd_dtype)3), KD_ERR_ARGUMENT,
                 "there is no kd_dtype 3");
    assert_fails(kd, kd_model_save_names(m, NULL, KD_NAMES_VIT, KD_DTYPE_F32), KD_ERR_ARGUMENT,
                 "kd_model_save_names");
    data = kd_data_f32(x, NULL, 4, 3, 8, 8, 5);
    assert_ok(kd, kd_model_quantize(m, &data, NULL, &small));
    assert_fails(kd, kd_model_save_names(small, "f", KD_NAMES_VIT, KD_DTYPE_F32), KD_ERR_UNSUPPORTED,
                 "an int8 model has no names elsewhere");
    kd_model_destroy(small);
    kd__param_stored(m, &m->params[0])[0] = value;
    assert_fails(kd, kd_model_save_names(m, "f", KD_NAMES_VIT, KD_DTYPE_F16), KD_ERR_NOT_FINITE, "beyond 65504");
    assert_null(disk_find("f"));
    assert_ok(kd, kd_model_save_names(m, "f", KD_NAMES_VIT, KD_DTYPE_F32));
    for (i = 1;; ++i) { /* what the disk refuses leaves the file as it was */
        const uint64_t before = saved_hash("f");
        kd_result result;
        disk.calls = 0, disk.fail_at = i;
        result = kd_model_save_names(m, "f", KD_NAMES_TIMM, KD_DTYPE_F32);
        disk.fail_at = 0;
        if (result == KD_OK) break;
        assert_int_equal(result, KD_ERR_IO);
        assert_true(saved_hash("f") == before);
    }
    assert_true(i > 4);
    assert_string_equal(kd_names_name(KD_NAMES_DISTILBERT), "distilbert");
    assert_string_equal(kd_names_name(KD_NAMES_COUNT), "unknown");
    kd_model_destroy(m);
    disk_delete(disk_find("f"));
    free(x);
}

static void test_lines_refused(void **state)
{
    static const struct {
        const char *line, *text;
    } cases[] = {
        {"8: linear 3, attention 2",
         "column 14: attention needs tokens, which patch and tokens make of an image, but"},
        {"3x8x8: linear 5", "linear needs tokens, which patch and tokens make of an image, but its input is 3x8x8"},
        {"3x8x8: flatten, linear 5",
         "linear needs tokens, which patch and tokens make of an image, but its input is a v"},
        {"3x8x8: layernorm", "layernorm needs tokens"},
        {"3x8x8: classtoken", "classtoken needs tokens"},
        {"3x8x8: disttoken", "disttoken needs tokens"},
        {"3x8x8: position", "position needs tokens"},
        {"3x8x8: prompttokens 2", "prompttokens needs tokens"},
        {"3x8x8: sidetokens 2 3", "sidetokens needs tokens"},
        {"3x8x8: patch 4 12, prompttokens", "prompttokens needs count: a whole number"},
        {"3x8x8: patch 4 12, sidetokens 2", "sidetokens needs numbers: a whole number"},
        {"3x8x8: patch 4 12, prompttokens 100000000", "100000000 tokens of 12 numbers are too many"},
        {"3x8x8: patch 4 12, sidetokens 10000 10000", "10000 tokens of 12 numbers, each of 10000, are too many"},
        {"3x8x8: patch 4 12, sidetokens 1 3, sidetokens 1 3",
         "column 36: a model may have one layer that takes pro"},
        {"3x8x8: patch 4 12, sidetokens 1 3, token 0, prompt 3", "a model may have one layer that takes prompts"},
        {"3x8x8: patch 4 12, sidetokens 2 3, token 4",
         "there is no token 4: tokens are 0 to 3, others may be missing"},
        {"3x8x8: patch 4 12, sidetokens 1 3, position", "position must stand in front of sidetokens"},
        {"3x8x8: patch 4 12, sidetokens 1 3, conv 4 3x1", "may be missing, which \"conv\" cannot pass on"},
        {"3x8x8: patch 4 12, sidetokens 1 3, gap", "may be missing, which \"gap\" cannot pass on"},
        {"3x8x8: patch 4 12, sidetokens 1 3, dense 4", "may be missing, which \"flatten\" cannot pass on"},
        {"3x8x8: patch 4 12, sidetokens 1 3, linear 4", "may be missing, which \"flatten\" cannot pass on"},
        {"3x8x8: patch 4 12, concat(sidetokens 2 3 | prompttokens 2), token 0", "which \"concat\" cannot pass on"},
        {"3x8x8: meanpool", "meanpool needs tokens"},
        {"3x8x8: encoder 1 1", "encoder needs tokens"},
        {"192: tokens", "tokens needs an image, but its input is a vector of 192"},
        {"192: patch 2 3", "this layer needs an image"},
        {"3x8x9: patch 4 12", "patches of 4x4 do not divide the input 3x8x9"},
        {"3x8x8: patch 4", "patch needs channels: a whole number from 1 to 1e8"},
        {"3x8x8: patch 4 12, attention 5", "column 20: 5 heads do not divide the 12 numbers of a token"},
        {"3x8x8: patch 4 12, encoder 2 5", "column 20: 5 heads do not divide the 12 numbers of a token"},
        {"3x8x8: patch 4 12, token 4", "there is no token 4: tokens are 0 to 3"},
        {"3x8x8: patch 4 12, encoder 2 3 norm=both", "norm of encoder must be pre or post, got \"both\""},
        {"3x8x8: patch 4 12, encoder 2 3 act=silu", "act of encoder must be gelu, gelutanh or relu, got \"silu\""},
        {"3x8x8: patch 4 12, encoder 2 3 mlp=0", "a perceptron of 0 times the 12 numbers of a token is none"},
        {"3x8x8: patch 4 12, encoder 2 3 droppath=1", "droppath of encoder must be a number from 0 to below 1"},
        {"3x8x8: disthead 3", "token needs tokens"},
        {"3x8x8: patch 8 4, disthead 3", "there is no token 1"},
        {"3x8x8: encodr 2 3", "did you mean \"encoder\"?"},
        {"3x8x8: patch 4 12, encoder", "encoder needs depth"},
        {"3x8x8: patch 4 100000000", "too large"},
        {"1x4x4: tokens, linear 100000000", "too large"},
    };
    int i;
    (void)state;
    for (i = 0; i < KD__COUNT(cases); ++i) {
        kd_model *m = NULL;
        assert_fails(kd, kd_model_create(kd, cases[i].line, 1, &m), KD_ERR_SPEC, cases[i].text);
        assert_null(m);
    }
}

/* The weights of a model, under the names that another has for them. */
static void take_weights(kd_model *to, const kd_model *from)
{
    int i, j;
    for (i = 0; i < to->param_count; ++i) {
        for (j = 0; j < from->param_count && strcmp(from->params[j].name, to->params[i].name) != 0; ++j) {}
        assert_true(j < from->param_count);
        assert_int_equal(to->params[i].size, from->params[j].size);
        memcpy(to->weights + to->params[i].offset, from->weights + from->params[j].offset,
               to->params[i].size * sizeof(float));
    }
}

/* Without prompts, a model puts out to the bit what it does without the layer that takes them; with the same prompt
   for all, what it does with the tokens it makes as learned ones, but for the order of sums. */
static void test_side_tokens(void **state)
{
    enum { N = 5, NUMBERS = 3, OUT = 4 };
    static const char *const lines[] = {
        "2x8x8: p: patch 4 8, c: classtoken, q: position, s: sidetokens 2 3, e: encoder 2 2, n: layernorm, %s, h: "
        "linear 4",
        "2x8x8: p: patch 4 8, c: classtoken, q: position, e: encoder 2 2, n: layernorm, %s, h: linear 4",
        "2x8x8: p: patch 4 8, c: classtoken, q: position, t: prompttokens 2, e: encoder 2 2, n: layernorm, %s, h: "
        "linear 4"};
    static const char *const ends[] = {"token 0", "meanpool"};
    float x[N * 128], prompt[N * NUMBERS], got[N * OUT], wanted[N * OUT];
    uint64_t seed = 9;
    kd_isa isa;
    int i, j, c, end, line;
    (void)state;
    for (i = 0; i < N * 128; ++i) x[i] = test_random(&seed);
    for (i = 0; i < N * NUMBERS; ++i) prompt[i] = (float)(1 + i % NUMBERS);
    FOR_EACH_ISA(isa)
    {
        kd_ctx *ctx = test_open(isa, 2);
        for (end = 0; end < 2; ++end) {
            kd_model *m[3];
            kd__run *run;
            for (line = 0; line < 3; ++line) {
                char text[160];
                snprintf(text, sizeof text, lines[line], ends[end]);
                m[line] = create_in(ctx, text, 4);
            }
            for (i = 0; i < (int)m[0]->weight_count; ++i) m[0]->weights[i] += test_random(&seed) / 4;
            assert_int_equal(kd_model_prompt(m[0]), NUMBERS);
            take_weights(m[1], m[0]);
            assert_ok(ctx, kd_predict(m[0], x, N, got));
            assert_ok(ctx, kd_predict(m[1], x, N, wanted));
            assert_memory_equal(got, wanted, sizeof got);
            for (i = 0; i < m[2]->param_count; ++i) { /* t = s.weight prompt + s.bias, and the rest */
                kd__param *p = &m[2]->params[i];
                for (j = 0; j < m[0]->param_count && strcmp(m[0]->params[j].name, p->name) != 0; ++j) {}
                if (strcmp(p->name, "t") == 0) {
                    const float *w = m[0]->weights + m[0]->params[kd__param_find(m[0], "s.weight")].offset;
                    const float *b = m[0]->weights + m[0]->params[kd__param_find(m[0], "s.bias")].offset;
                    for (c = 0; c < 16; ++c)
                        m[2]->weights[p->offset + (size_t)c] =
                            b[c] + w[c * 3] + 2 * w[c * 3 + 1] + 3 * w[c * 3 + 2];
                } else {
                    memcpy(m[2]->weights + p->offset, m[0]->weights + m[0]->params[j].offset,
                           p->size * sizeof(float));
                }
            }
            assert_ok(ctx, kd_predict(m[2], x, N, wanted));
            assert_ok(ctx, kd__run_open(m[0], NULL, N, &run));
            run->prompt = prompt;
            kd__run_forward(run, x, N);
            for (i = 0; i < N * OUT; ++i) assert_near(kd__run_logits(run)[i], wanted[i], 2e-5);
            kd__run_close(run);
            for (line = 0; line < 3; ++line) kd_model_destroy(m[line]);
        }
        kd_close(ctx);
    }
}

/* What a line stands for: names as in timm, drop paths that grow, and the same numbers as layer by layer. */
static void test_encoder_is_its_layers(void **state)
{
    static const char encoder[] =
        "4x5x1: encoder 2 2 mlp=1.5 eps=0.001 act=gelutanh droppath=0.25 causal=1, meanpool";
    static const char layers[] =
        "4x5x1: residual(layernorm 0.001, attention 2 1), residual(layernorm 0.001, linear 6, gelutanh, linear 4), "
        "residual(layernorm 0.001, attention 2 1, droppath 0.25), residual(layernorm 0.001, linear 6, gelutanh, "
        "linear 4, droppath 0.25), meanpool";
    kd_model *a = create_in(kd, encoder, 5), *b = create_in(kd, layers, 5);
    float x[3 * 20], y[3 * 4], z[3 * 4];
    uint64_t seed = 3;
    int i;
    (void)state;
    for (i = 0; i < 60; ++i) x[i] = test_random(&seed);
    assert_int_equal(kd_model_tensors(a), kd_model_tensors(b));
    assert_int_equal(kd_model_macs(a), kd_model_macs(b));
    assert_ok(kd, kd_predict(a, x, 3, y));
    assert_ok(kd, kd_predict(b, x, 3, z));
    assert_memory_equal(y, z, sizeof y);
    assert_string_equal(a->params[2].name, "0.0.attn.qkv.weight");
    assert_string_equal(b->params[2].name, "0.body.1.qkv.weight");
    kd_model_destroy(a), kd_model_destroy(b);
}

static double largest_of(const kd_model *m, const char *name, double *deviation)
{
    const kd__param *p = &m->params[kd__param_find(m, name)];
    float *x = (float *)malloc((size_t)kd__param_count(p) * sizeof *x);
    double largest = 0, squares = 0;
    int64_t i;
    assert_ok(kd, kd_model_get_tensor(m, name, x, kd__param_count(p)));
    for (i = 0; i < kd__param_count(p); ++i) {
        largest = KD__MAX(largest, fabs((double)x[i]));
        squares += (double)x[i] * (double)x[i];
    }
    *deviation = sqrt(squares / (double)kd__param_count(p));
    free(x);
    return largest;
}

/* timm's first weights; a kind in the line is for matrices alone. */
static void test_start(void **state)
{
    static const char *const zeros[] = {"blocks.0.attn.qkv.bias", "blocks.0.mlp.fc2.bias", "norm.bias",
                                        "head.bias"};
    const char *line = "3x32x32: patch_embed: patch 4 64, dist: disttoken, cls: classtoken, pos: position, "
                       "blocks: encoder 1 2, norm: layernorm, token 0, head: linear 40";
    const double cut = 0.879 * 0.02; /* deviation of a normal distribution without what is beyond 2 */
    kd_model *m = create_in(kd, line, 1);
    double deviation, largest;
    int i;
    (void)state;
    largest = largest_of(m, "blocks.0.attn.qkv.weight", &deviation);
    assert_true(largest <= 0.04 && fabs(deviation - cut) < 0.02 * cut);
    largest = largest_of(m, "head.weight", &deviation);
    assert_true(largest <= 0.04 && fabs(deviation - cut) < 0.05 * cut);
    largest = largest_of(m, "pos", &deviation);
    assert_true(largest <= 0.04 && fabs(deviation - cut) < 0.05 * cut);
    largest = largest_of(m, "dist", &deviation);
    assert_true(largest <= 0.04 && deviation > 0.012);
    largest = largest_of(m, "cls", &deviation);
    assert_true(largest <= 2e-6 && deviation > 0.6e-6);
    largest = largest_of(m, "patch_embed.weight", &deviation);
    assert_true(largest <= 1 / sqrt(48.0) && fabs(deviation - largest / sqrt(3.0)) < 0.02 * largest);
    largest = largest_of(m, "patch_embed.bias", &deviation);
    assert_true(largest <= 1 / sqrt(48.0) && deviation > 0.4 * largest);
    for (i = 0; i < KD__COUNT(zeros); ++i) assert_true(largest_of(m, zeros[i], &deviation) == 0);
    largest = largest_of(m, "norm.weight", &deviation);
    assert_true(largest == 1 && deviation == 1);
    kd_model_destroy(m);
    m = create_in(kd, "4x16x1 init=he residual=0 last=0.5: pos: position, blocks: encoder 1 2, meanpool, linear 64",
                  1);
    largest_of(m, "blocks.0.mlp.fc1.weight", &deviation);
    assert_true(fabs(deviation - sqrt(2 / 4.0)) < 0.2);
    assert_true(largest_of(m, "pos", &deviation) <= 0.04);
    assert_true(largest_of(m, "blocks.0.attn.proj.weight", &deviation) == 0);
    assert_true(largest_of(m, "blocks.0.mlp.fc2.weight", &deviation) == 0);
    kd_model_destroy(m);
}

/* ---- masks ----------------------------------------------------------------------------------------------- */

/* With causal=1 no bit of a token's output depends on later ones, whatever these are. */
static void test_causal(void **state)
{
    enum { TOKENS = 130, WIDTH = 6 };
    kd_isa isa;
    (void)state;
    FOR_EACH_ISA(isa)
    {
        kd_ctx *ctx = test_open(isa, 1);
        kd_model *m = create_in(ctx, "6x130x1: linear 6, attention 3 causal=1, linear 6", 1);
        float *x = test_floats(1, TOKENS * WIDTH, 1), *y = test_floats(1, TOKENS * WIDTH, 1);
        float *first = test_floats(2, TOKENS * WIDTH, 1);
        int cut, c, t;
        assert_ok(ctx, kd_predict(m, x, 1, first));
        for (cut = 1; cut < TOKENS; cut += 43) {
            int changed = 0;
            memcpy(y, x, TOKENS * WIDTH * sizeof *y);
            for (c = 0; c < WIDTH; ++c)
                for (t = cut; t < TOKENS; ++t) y[c * TOKENS + t] += 3.0f * (float)(t + c);
            assert_ok(ctx, kd_predict(m, y, 1, y));
            for (c = 0; c < WIDTH; ++c) {
                assert_memory_equal(y + c * TOKENS, first + c * TOKENS, (size_t)cut * sizeof *y);
                for (t = cut; t < TOKENS; ++t) changed += y[c * TOKENS + t] != first[c * TOKENS + t];
            }
            assert_true(changed > (TOKENS - cut) * WIDTH / 2);
        }
        free(x), free(y), free(first);
        kd_model_destroy(m);
        kd_close(ctx);
    }
}

/* Scores that differ by more than floats can tell are still a softmax; equal ones share. */
static void test_sharp_attention(void **state)
{
    kd_model *m = create_in(kd, "1x3x1: a: attention 1", 1);
    static const float qkv[3] = {100, 100, 1}, zeros[3] = {0, 0, 0}, one[1] = {1}, values[3] = {0, 0, 1},
                       x[3] = {-30, 2, 30};
    float y[3];
    int i;
    (void)state;
    assert_ok(kd, kd_model_set_tensor(m, "a.qkv.weight", qkv, 3));
    assert_ok(kd, kd_model_set_tensor(m, "a.qkv.bias", zeros, 3));
    assert_ok(kd, kd_model_set_tensor(m, "a.proj.weight", one, 1));
    assert_ok(kd, kd_model_set_tensor(m, "a.proj.bias", zeros, 1));
    assert_ok(kd, kd_predict(m, x, 1, y));
    assert_true(y[0] == -30 && y[1] == 30 && y[2] == 30);
    assert_ok(kd, kd_model_set_tensor(m, "a.qkv.weight", values, 3));
    assert_ok(kd, kd_predict(m, x, 1, y));
    for (i = 0; i < 3; ++i) assert_near(y[i], 2 / 3.0, 1e-6);
    kd_model_destroy(m);
}

/* All of a sample is dropped or scaled, as often as asked for, and the gradient with it. */
static void test_droppath(void **state)
{
    enum { SAMPLES = 400, NUMBERS = 6 };
    kd_model *m = create_in(kd, "2x3x1: linear 2, droppath 0.25, tanh", 1);
    float *x = test_floats(1, SAMPLES * NUMBERS, 1), *one = test_floats(1, SAMPLES * NUMBERS, 1);
    const kd__node *drop = &m->nodes[1];
    const kd__span all = {0, 0, 0, 0};
    kd__run *run;
    int i, j, round, dropped[2] = {0, 0}, both = 0;
    char gone[2][SAMPLES];
    (void)state;
    for (i = 0; i < SAMPLES * NUMBERS; ++i) one[i] = 1;
    assert_ok(kd, kd__run_open(m, m, SAMPLES, &run));
    for (round = 0; round < 2; ++round) {
        run->dropout_key = (uint64_t)round;
        kd__run_forward(run, x, SAMPLES);
        memcpy(kd__run_logits_grad(run), one, SAMPLES * NUMBERS * sizeof *one);
        kd__run_backward(run);
        for (i = 0; i < SAMPLES; ++i) {
            const float *from = kd__slot_at(&run->act[drop->in], all, i),
                        *to = kd__slot_at(&run->act[drop->out], all, i);
            const float kept = to[0] != 0 ? 1 / 0.75f : 0;
            for (j = 0; j < NUMBERS; ++j) assert_true(to[j] == from[j] * kept);
            gone[round][i] = kept == 0;
            dropped[round] += kept == 0;
        }
        assert_true(dropped[round] > SAMPLES / 4 - 35 && dropped[round] < SAMPLES / 4 + 35);
    }
    for (i = 0; i < SAMPLES; ++i) both += gone[0][i] && gone[1][i];
    assert_true(both < SAMPLES / 8); /* another step drops others */
    kd__run_close(run);
    assert_ok(kd, kd_predict(m, x, 2, one)); /* and prediction none */
    for (i = 0; i < 2 * NUMBERS; ++i) assert_true(one[i] != 0);
    kd_model_destroy(m);
    free(x), free(one);
}

/* ---- training -------------------------------------------------------------------------------------------- */

enum { COUNT = 90, PIXELS = 64, CLASSES = 3 };

/* Images whose class is where they are bright. */
static kd_data make_data(float *x, int32_t *labels)
{
    uint64_t seed = 5;
    int i, j;
    for (i = 0; i < COUNT; ++i) {
        labels[i] = i % CLASSES;
        for (j = 0; j < PIXELS; ++j)
            x[i * PIXELS + j] = 0.3f * test_random(&seed) + (j / 8 * 3 / 8 == labels[i] ? 1.0f : 0.0f);
    }
    return kd_data_f32(x, labels, COUNT, 1, 8, 8, CLASSES);
}

static kd_train_desc make_desc(void)
{
    kd_train_desc desc = kd_train_defaults();
    desc.epochs = 6;
    desc.batch = 16;
    desc.optimizer = KD_ADAMW;
    desc.weight_decay = 0.05f;
    desc.decay_norms_and_biases = 0;
    desc.lr = 0.01f;
    return desc;
}

/* The same bits with any number of threads, and on all instruction sets that have fused multiply-adds. */
static void test_same_bits(void **state)
{
    static float x[COUNT * PIXELS];
    int32_t labels[COUNT];
    const kd_data data = make_data(x, labels);
    const kd_train_desc desc = make_desc();
    uint64_t fused = 0;
    kd_isa isa;
    (void)state;
    FOR_EACH_ISA(isa)
    {
        uint64_t hash = 0;
        int threads;
        for (threads = 1; threads <= 3; ++threads) {
            kd_ctx *ctx = test_open(isa, threads);
            kd_model *m = create_in(ctx, small_line, 4);
            kd_metrics metrics;
            assert_ok(ctx, kd_train(m, &data, &desc));
            assert_ok(ctx, kd_evaluate(m, &data, &metrics));
            assert_true(metrics.accuracy > 0.95);
            if (threads > 1) assert_true(kd_model_hash(m) == hash);
            hash = kd_model_hash(m);
            kd_model_destroy(m);
            kd_close(ctx);
        }
        if (isa != KD_ISA_SCALAR && fused) assert_true(hash == fused);
        if (isa != KD_ISA_SCALAR) fused = hash;
    }
}

/* Decay leaves norms, biases, tokens and positions alone. */
static void test_decay(void **state)
{
    static float x[COUNT * PIXELS];
    int32_t labels[COUNT];
    const kd_data data = make_data(x, labels);
    kd_train_desc desc = make_desc();
    kd_model *m[2];
    int i, decays;
    (void)state;
    desc.epochs = 1;
    desc.batch = COUNT; /* one step: with and without decay the gradients are the same */
    for (decays = 0; decays < 2; ++decays) {
        m[decays] = create_in(kd, small_line, 4);
        desc.weight_decay = decays ? 0.5f : 0;
        assert_ok(kd, kd_train(m[decays], &data, &desc));
    }
    for (i = 0; i < kd_model_tensors(m[0]); ++i) {
        const kd__param *p = &m[0]->params[i];
        const int same = memcmp(m[0]->weights + p->offset, m[1]->weights + p->offset, p->size * sizeof(float)) == 0;
        if (same != (p->rank == 1 || p->rank == 3)) fail_msg("%s: %s decay", p->name, same ? "no" : "a");
    }
    kd_model_destroy(m[0]), kd_model_destroy(m[1]);
}

/* ---- distillation ---------------------------------------------------------------------------------------- */

static const char teacher_line[] =
    "1x8x8: patch 4 12, cls: classtoken, dist: disttoken, position, blocks: encoder 3 2, "
    "layernorm, token 0, logits: dense 3";
static const char student_line[] =
    "1x8x8: patch 4 8, cls: classtoken, dist: disttoken, position, blocks: encoder 2 2 "
    "mlp=2, layernorm, head: disthead 3";

/* Of two heads the first learns in training, what a loss on features says the second; both answer afterwards. */
static void test_two_heads(void **state)
{
    static float x[COUNT * PIXELS];
    int32_t labels[COUNT];
    const kd_data data = make_data(x, labels);
    kd_train_desc desc = make_desc();
    kd_feature_loss loss = kd_feature_loss_defaults(KD_FEATURE_DEIT_HARD);
    kd_model *teacher = create_in(kd, teacher_line, 1), *student;
    float logits[COUNT * 3], heads[2][COUNT * 3], start[2][3 * 8], end[2][3 * 8];
    int i, with;
    (void)state;
    assert_ok(kd, kd_train(teacher, &data, &desc));
    loss.student = "head_dist", loss.teacher = "logits";
    desc.loss = kd_loss_defaults(KD_LOSS_CE);
    for (with = 0; with < 2; ++with) {
        kd_metrics metrics;
        kd__run *run;
        student = create_in(kd, student_line, 2);
        desc.features = with ? &loss : NULL, desc.feature_count = with;
        desc.teacher = with ? teacher : NULL;
        assert_ok(kd, kd_model_get_tensor(student, "head.weight", start[0], 24));
        assert_ok(kd, kd_model_get_tensor(student, "head_dist.weight", start[1], 24));
        assert_ok(kd, kd_train(student, &data, &desc));
        assert_ok(kd, kd_model_get_tensor(student, "head.weight", end[0], 24));
        assert_ok(kd, kd_model_get_tensor(student, "head_dist.weight", end[1], 24));
        assert_true(memcmp(start[0], end[0], sizeof end[0]) != 0);
        for (i = 0; i < 24; ++i) /* without a loss of its own the second only decays */
            assert_true(with || fabs((double)end[1][i]) <= fabs((double)start[1][i]));
        assert_ok(kd, kd_evaluate(student, &data, &metrics));
        assert_true(!with || metrics.accuracy > 0.95);
        assert_ok(kd, kd__run_open(student, NULL, COUNT, &run));
        kd__run_forward(run, x, COUNT);
        memcpy(logits, kd__run_logits(run), sizeof logits);
        kd__run_close(run);
        for (i = 0; i < 2; ++i) { /* each head by itself */
            static const float zeros[24];
            kd_model *one;
            assert_ok(kd, kd_model_clone(student, &one));
            assert_ok(kd, kd_model_set_tensor(one, i ? "head.weight" : "head_dist.weight", zeros, 24));
            assert_ok(kd, kd_model_set_tensor(one, i ? "head.bias" : "head_dist.bias", zeros, 3));
            assert_ok(kd, kd_predict(one, x, COUNT, heads[i]));
            kd_model_destroy(one);
        }
        for (i = 0; i < COUNT * 3; ++i) assert_near(logits[i], heads[0][i] + heads[1][i], 1e-5);
        kd_model_destroy(student);
    }
    kd_model_destroy(teacher);
}

typedef struct losses_seen {
    double first, last;
} losses_seen;

static int keep_losses(void *user, const kd_epoch_info *info)
{
    losses_seen *seen = (losses_seen *)user;
    if (info->epoch == 0) seen->first = info->loss;
    seen->last = info->loss;
    return 0;
}

/* Every loss for Transformers goes down by itself, whatever widths and depths; two threads give the same bits. */
static void test_layers_teach(void **state)
{
    static const struct {
        kd_feature_kind kind;
        const char *student, *teacher;
        double falls; /* to less than this share */
    } cases[] = {
        {KD_FEATURE_MINILM, "blocks.1.attn.qkv", "blocks.2.attn.qkv", 0.6},
        {KD_FEATURE_TINYBERT, "cls, blocks.0, blocks.1", "cls, blocks.0, blocks.2", 0.7},
        {KD_FEATURE_HINT, "blocks.1", "blocks.2", 0.7},
        {KD_FEATURE_DEIT, "head_dist", "logits", 0.6},
        {KD_FEATURE_DEIT_HARD, "head_dist", "logits", 0.6},
    };
    static float x[COUNT * PIXELS];
    int32_t labels[COUNT];
    const kd_data data = make_data(x, labels);
    int i, threads;
    (void)state;
    for (i = 0; i < KD__COUNT(cases); ++i) {
        uint64_t hash[2];
        for (threads = 1; threads <= 2; ++threads) {
            kd_ctx *ctx = test_open(KD_ISA_AUTO, threads);
            kd_model *teacher = create_in(ctx, teacher_line, 1), *student = create_in(ctx, student_line, 2);
            kd_train_desc desc = make_desc();
            kd_feature_loss loss = kd_feature_loss_defaults(cases[i].kind);
            losses_seen seen = {0, 0};
            assert_ok(ctx, kd_train(teacher, &data, &desc));
            loss.student = cases[i].student, loss.teacher = cases[i].teacher;
            loss.weight = 1000;
            desc.teacher = teacher;
            desc.loss = kd_loss_defaults(KD_LOSS_CE);
            desc.features = &loss, desc.feature_count = 1;
            desc.epochs = 12;
            desc.weight_decay = 0;
            desc.on_epoch = keep_losses, desc.user = &seen;
            assert_ok(ctx, kd_train(student, &data, &desc));
            if (!(seen.last < cases[i].falls * seen.first))
                fail_msg("%s: %g, at last %g", kd_feature_name(cases[i].kind), seen.first, seen.last);
            hash[threads - 1] = kd_model_hash(student);
            kd_model_destroy(teacher), kd_model_destroy(student);
            kd_close(ctx);
        }
        assert_true(hash[0] == hash[1]);
    }
}

static void test_layers_refused(void **state)
{
    static const struct {
        kd_feature_kind kind;
        const char *student, *teacher;
        int heads;
        kd_result result;
        const char *text;
    } cases[] = {
        {KD_FEATURE_MINILM, "blocks.0.attn", "blocks.0.attn.qkv", 0, KD_ERR_SHAPE,
         "needs the qkv layers of attention"},
        {KD_FEATURE_MINILM, "blocks.0.attn.qkv", "blocks.0.attn.qkv", 8, KD_ERR_ARGUMENT,
         "8 relation heads do not divide the widths 8 of the student and 12"},
        {KD_FEATURE_MINILM, "blocks.0.attn.qkv", "0", 0, KD_ERR_SHAPE, "compares tokens, of which"},
        {KD_FEATURE_DEIT, "head_dist", "blocks.0", 0, KD_ERR_SHAPE, "compares logits"},
        {KD_FEATURE_TINYBERT, "blocks.0, blocks.1", "blocks.0", 0, KD_ERR_ARGUMENT, "needs as many layers"},
    };
    static float x[COUNT * PIXELS];
    int32_t labels[COUNT];
    const kd_data data = make_data(x, labels);
    kd_train_desc desc = make_desc();
    kd_model *teacher = create_in(kd, teacher_line, 1), *student = create_in(kd, student_line, 2);
    int i;
    (void)state;
    desc.teacher = teacher;
    for (i = 0; i < KD__COUNT(cases); ++i) {
        kd_feature_loss loss = kd_feature_loss_defaults(cases[i].kind);
        loss.student = cases[i].student, loss.teacher = cases[i].teacher;
        loss.heads = cases[i].heads;
        desc.features = &loss, desc.feature_count = 1;
        assert_fails(kd, kd_train(student, &data, &desc), cases[i].result, cases[i].text);
    }
    kd_model_destroy(teacher), kd_model_destroy(student);
}

static int requests_in_steps;

static int count_requests(void *user, const kd_step_info *info)
{
    static int before;
    (void)user;
    if (info->step > 0) requests_in_steps += memory.requests - before;
    before = memory.requests;
    return 0;
}

/* Memory that is refused at any point is an error that leaves nothing behind; steps ask for none. */
static void test_memory_is_planned(void **state)
{
    static float x[COUNT * PIXELS];
    int32_t labels[COUNT];
    const kd_data data = make_data(x, labels);
    kd_train_desc desc = make_desc();
    kd_result result = KD_ERR_MEMORY;
    int at;
    (void)state;
    desc.epochs = 1;
    for (at = 1; result == KD_ERR_MEMORY; ++at) {
        kd_model *m = NULL;
        memory.refuse_at = at;
        result = kd_model_create(kd, small_line, 1, &m);
        if (result == KD_OK) {
            memory.refuse_at = KD__MAX(1, at - 200); /* those of training come next */
            result = kd_train(m, &data, &desc);
        }
        kd_model_destroy(m);
        assert_true(at < 2000);
    }
    memory.refuse_at = 0;
    assert_int_equal(result, KD_OK);
    {
        kd_model *m = create_in(kd, small_line, 1);
        desc.on_step = count_requests;
        assert_ok(kd, kd_train(m, &data, &desc));
        assert_int_equal(requests_in_steps, 0);
        kd_model_destroy(m);
    }
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, open_context, close_context)
    const struct CMUnitTest tests[] = {
        TEST(test_state_dicts),
        TEST(test_other_names),
        TEST(test_bert),
        TEST(test_bert_refused),
        TEST(test_saved_names),
        TEST(test_saved_encoder),
        TEST(test_saved_refused),
        TEST(test_lines_refused),
        TEST(test_side_tokens),
        TEST(test_encoder_is_its_layers),
        TEST(test_start),
        TEST(test_causal),
        TEST(test_sharp_attention),
        TEST(test_droppath),
        TEST(test_same_bits),
        TEST(test_decay),
        TEST(test_memory_is_planned),
        TEST(test_two_heads),
        TEST(test_layers_teach),
        TEST(test_layers_refused),
    };
    const int failed = cmocka_run_group_tests_name("sequence", tests, NULL, NULL);
    test_print_skips("sequence");
    return failed;
}
