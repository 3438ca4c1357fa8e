/* seeds.c - writes the corpus: small files of every kind, most of them right. Regression files, which are named for
   what they are, are not touched. Usage: seeds FOLDER, with a folder for each parser in it. */
#define KD_IMPLEMENTATION
#include "../../kd.h"
#include "training.h"
#include "../golden/exported.h"
#include "../golden/npz.h"

static const char *folder;
static kd_ctx *kd;

static const char *path_of(const char *parser, const char *name)
{
    static char path[1024];
    snprintf(path, sizeof path, "%s/%s/%s", folder, parser, name);
    return path;
}

static void must(int truth, const char *what)
{
    if (truth) return;
    fprintf(stderr, "%s: %s\n", what, kd ? kd_error(kd) : "no context");
    exit(1);
}

static void put(const char *parser, const char *name, const void *bytes, size_t size)
{
    const char *path = path_of(parser, name);
    FILE *file = fopen(path, "wb");
    must(file && fwrite(bytes, 1, size, file) == size && fclose(file) == 0, path);
}

/* ---- model lines ----------------------------------------------------------------------------------------- */

static void spec_seeds(void)
{
    static const char *const lines[] = {
        "784: dense 20, relu, dropout 0.5, dense 10",
        "1x8x8: conv 4 3 pad=1, relu, maxpool 2, conv 6 3x1 stride=2x1 pad=same bias=0, gelu, dense 3",
        "3x9x7: conv 4 1, batchnorm eps=1e-3 momentum=0.2, relu6, residual(conv 8 3 stride=2 pad=1, batchnorm, "
        "silu), gap, dense 5",
        "4x6x6: first: depthwise 3 pad=1",
        "2x5x5: a: depthwise 3 stride=2 pad=1, hardswish, avgpool 2x3 stride=1 pad=1, sigmoid, b: flatten, dense 1",
        "12: leakyrelu slope=0.3, tanh, residual(dense 7, tanh, residual(dense 7)), dense 2",
        "4x4x4: conv 8 3 pad=1 groups=4, batchnorm, leakyrelu, conv 2 4",
        "1x1x1: conv 1 1",
        "1x3x3: conv 2 3 pad=7 stride=5, relu",
        "3x2147483647x2: dense 4294967296",
        "5: residual(residual(residual(residual(relu))))",
        "5: dense 2 bias=, dense",
        "1x4x4: tree: softtree 3 4 penalty=0.5, softtree 12 100000000",
        "2x4x4: concat( | batchnorm, relu, conv 3 3 pad=1|maxpool 3 stride=1 pad=1, a: concat(relu | gelu)), "
        "concat(flatten | gap, flatten | dense 2)",
    };
    size_t i;
    for (i = 0; i < sizeof lines / sizeof *lines; ++i) {
        char name[32];
        snprintf(name, sizeof name, "line%zu", i);
        put("spec", name, lines[i], strlen(lines[i]));
    }
}

/* ---- safetensors ----------------------------------------------------------------------------------------- */

static void model_seeds(void)
{
    static const char *const names[] = {"trousers", "\xc3\xa9t\xc3\xa9 \"quoted\"", "\\"};
    const float mean = 0.25f, std = 0.5f;
    static const char halves[] = "{\"__metadata__\":{\"kd.version\":\"1\",\"kd.spec\":\"2: dense 2\"},"
                                 "\"0.bias\":{\"dtype\":\"BF16\",\"shape\":[2],\"data_offsets\":[8,12]},"
                                 "\"0.weight\":{\"dtype\":\"F16\",\"shape\":[2,2],\"data_offsets\":[0,8]}}";
    unsigned char bytes[8 + sizeof halves - 1 + 12] = {0};
    kd_model *m;
    must(!kd_model_create(kd, "1x6x6: conv 2 3, batchnorm, relu, dense 3", 1, &m) &&
             !kd_model_set_classes(m, names, 3) && !kd_model_set_preprocessing(m, &mean, &std) &&
             !kd_model_save(m, path_of("model", "image.safetensors")),
         "a model of images");
    kd_model_destroy(m);
    must(!kd_model_create(kd, "3: a: dense 2, tanh, residual(dense 4)", 1, &m) &&
             !kd_model_save(m, path_of("model", "vector.safetensors")),
         "a model of vectors");
    kd_model_destroy(m);
    kd__store_le(bytes, sizeof halves - 1, 8);
    memcpy(bytes + 8, halves, sizeof halves - 1);
    put("model", "halves.safetensors", bytes, sizeof bytes);
}

static void cache_seeds(void)
{
    uint8_t pixels[5 * 16];
    kd_augment augment;
    kd_cache *cache;
    kd_model *m;
    kd_data data;
    size_t i;
    for (i = 0; i < sizeof pixels; ++i) pixels[i] = (uint8_t)(i * 3);
    data = kd_data_u8(pixels, NULL, 5, 1, 4, 4, 2);
    memset(&augment, 0, sizeof augment);
    must(!kd_model_create(kd, "1x4x4: dense 2", 1, &m) && !kd_cache_create(m, &data, NULL, 1, 1, &cache) &&
             !kd_cache_save(cache, path_of("cache", "plain.safetensors")),
         "a cache");
    kd_cache_destroy(cache);
    augment.flip = augment.shift = 1;
    augment.rotate = 10;
    must(!kd_cache_create(m, &data, &augment, 77, 3, &cache) &&
             !kd_cache_save(cache, path_of("cache", "views.safetensors")),
         "a cache of views");
    kd_cache_destroy(cache);
    kd_model_destroy(m);
}

/* ---- ONNX ------------------------------------------------------------------------------------------------ */

/* What the library writes, with the metadata that make it its own and without, and what PyTorch writes. */
static void onnx_seeds(void)
{
    static const char *const lines[] = {
        "2x6x6: conv 2 3 pad=1, batchnorm, relu6, maxpool 2, dense 3",
        "6: dense 4, gelu, residual(dense 4, silu), hardswish, dense 2",
        "3x8x8: conv 4 3 stride=2 pad=1 bias=0, batchnorm, leakyrelu, depthwise 3, avgpool 2 stride=1, gap, dense "
        "2",
        "2x6x6: conv 2 1, concat( | relu, conv 3 1), concat( | relu, conv 2 3 pad=1 | maxpool 3 stride=1 pad=1), "
        "dense 2",
        "1x4x4: patch 2 4, classtoken, position, encoder 1 2 mlp=1, layernorm, token 0, linear 2",
        "2x4x4: tokens, disttoken, prompttokens 2, attention 2 causal=1, concat( | linear 1), gelutanh, meanpool",
        "tokens 5: embed 9 4, attention 2, meanpool",
    };
    char name[32];
    size_t i, at;
    for (i = 0; i < sizeof lines / sizeof *lines; ++i) {
        static const char key[] = "kd.spec";
        char *bytes;
        size_t size;
        kd_model *m;
        snprintf(name, sizeof name, "own%zu.onnx", i);
        must(!kd_model_create(kd, lines[i], 1, &m) && !kd_model_save_onnx(m, path_of("onnx", name), NULL),
             lines[i]);
        must(!kd__read_file(kd, "seeds", path_of("onnx", name), &bytes, &size), name);
        for (at = 0; at + sizeof key <= size; ++at) {
            if (memcmp(bytes + at, key, sizeof key - 1) == 0) bytes[at] = 'x';
        }
        snprintf(name, sizeof name, "foreign%zu.onnx", i);
        put("onnx", name, bytes, size);
        kd__free(kd, bytes);
        kd_model_destroy(m);
    }
    for (i = 0; i < sizeof onnx_cases / sizeof *onnx_cases; ++i) {
        snprintf(name, sizeof name, "%.6s-%.20s", onnx_cases[i].way, onnx_cases[i].name);
        put("onnx", name, onnx_cases[i].file, onnx_cases[i].size);
    }
}

/* ---- .npy ------------------------------------------------------------------------------------------------ */

static void npy_seed(const char *name, int version, const char *header, size_t data)
{
    unsigned char bytes[512] = {0x93, 'N', 'U', 'M', 'P', 'Y'};
    const size_t length = strlen(header), start = version == 1 ? 10 : 12;
    size_t i;
    bytes[6] = (unsigned char)version;
    kd__store_le(bytes + 8, length, version == 1 ? 2 : 4);
    memcpy(bytes + start, header, length);
    for (i = 0; i < data; ++i) bytes[start + length + i] = (unsigned char)(i * 29 + 1);
    put("npy", name, bytes, start + length + data);
}

static void npy_seeds(void)
{
    npy_seed("f4.npy", 1, "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }     \n", 24);
    npy_seed("f2.npy", 2, "{\"shape\": (5L,), 'descr': '>f2', 'fortran_order': False}\n", 10);
    npy_seed("f8.npy", 3, "{'descr': '>f8', 'fortran_order': False, 'shape': (1, 1, 2), }\n", 16);
    npy_seed("i8.npy", 1, "{'descr': '<i8', 'fortran_order': True, 'shape': (2,), }\n", 16);
    npy_seed("b1.npy", 1, "{'descr': '|b1', 'fortran_order': False, 'shape': (), }\n", 1);
    npy_seed("u2.npy", 1, "{'descr': '=u2', 'fortran_order': False, 'shape': (0, 4, 1, 1, 1, 1, 1, 9), }\n", 0);
    npy_seed("huge.npy", 1, "{'descr': '<i4', 'fortran_order': False, 'shape': (4294967296, 4294967297), }\n", 4);
    put("npy", "one.npz", npz_one, sizeof npz_one);
    put("npy", "streamed.npz", npz_streamed, sizeof npz_streamed);
    put("npy", "several.npz", npz_several, sizeof npz_several);
    put("npy", "none.npz", npz_none, sizeof npz_none);
    put("npy", "compressed.npz", npz_compressed, sizeof npz_compressed);
    put("npy", "torch.npz", npz_torch, sizeof npz_torch);
    put("model", "weights.npz", npz_weights, sizeof npz_weights);
    put("model", "columns.npz", npz_columns, sizeof npz_columns);
}

/* ---- IDX: what tests/fuzz/idx.c takes as one input ------------------------------------------------------- */

enum { PACKED = 1, SMALLER = 2, COLOUR = 4, FEW = 8, NAMED = 16 };

/* gzip with one block that is stored as it is. */
static size_t pack(const unsigned char *bytes, size_t size, unsigned char *to)
{
    static const unsigned char head[10] = {0x1f, 0x8b, 8};
    uint32_t crc = 0xffffffffu;
    size_t i;
    int bit;
    for (i = 0; i < size; ++i) {
        crc ^= bytes[i];
        for (bit = 0; bit < 8; ++bit) crc = crc & 1 ? crc >> 1 ^ 0xedb88320u : crc >> 1;
    }
    memcpy(to, head, sizeof head);
    to[10] = 1;
    kd__store_le(to + 11, size | (~(uint64_t)size << 16), 4);
    memcpy(to + 15, bytes, size);
    kd__store_le(to + 15 + size, (uint64_t)(crc ^ 0xffffffffu), 4);
    kd__store_le(to + 19 + size, size, 4);
    return size + 23;
}

static void idx_seed(const char *name, int options, unsigned count, unsigned side, unsigned classes)
{
    unsigned char images[256] = {0, 0, 8, 3}, labels[64] = {0, 0, 8, 1}, both[512];
    size_t image_size = 16 + (size_t)count * side * side, label_size = 8 + count, at = 3, i;
    images[7] = labels[7] = (unsigned char)count;
    images[11] = images[15] = (unsigned char)side;
    for (i = 16; i < image_size; ++i) images[i] = (unsigned char)(i * 31);
    for (i = 8; i < label_size; ++i) labels[i] = (unsigned char)(i % classes);
    if (options & PACKED) {
        const size_t plain = image_size;
        image_size = pack(images, plain, both + at);
        at += image_size;
        at += pack(labels, label_size, both + at);
    } else {
        memcpy(both + at, images, image_size);
        memcpy(both + at + image_size, labels, label_size);
        at += image_size + label_size;
    }
    both[0] = (unsigned char)options;
    kd__store_le(both + 1, image_size, 2);
    put("idx", name, both, at);
}

static void idx_seeds(void)
{
    idx_seed("plain", 0, 4, 5, 2);
    idx_seed("resized", SMALLER | COLOUR, 3, 5, 3);
    idx_seed("packed", PACKED | FEW, 4, 5, 2);
    idx_seed("named", NAMED, 2, 4, 2);
}

static void checkpoint_seeds(void)
{
    small_training s;
    int i;
    must(!small_training_open(kd, &s), "a training");
    for (i = 0; i < 5; ++i) must(!kd_trainer_step(s.t, NULL), "a step");
    must(!kd_trainer_save(s.t, path_of("checkpoint", "step5.safetensors")), "a checkpoint");
    small_training_close(&s);
}

/* ---- texts: what tests/fuzz/table.c takes as one input --------------------------------------------------- */

enum { TESTED = 1, UNLABELLED = 2, LINES = 4, SHORT = 8, FORGIVING = 32, FOLDS = 64 };

static void table_seed(const char *name, int options, const char *first, const char *second)
{
    char bytes[1024];
    const size_t length = strlen(first), more = strlen(second);
    bytes[0] = (char)options, bytes[1] = (char)(length & 255), bytes[2] = (char)(length >> 8);
    memcpy(bytes + 3, first, length);
    memcpy(bytes + 3 + length, second, more);
    put("table", name, bytes, 3 + length + more);
}

static void table_seeds(void)
{
    static const char plain[] = "text,label\nhello there,a\nwho is it,b\ngood day,a\nwhat now,b\nhi,a\nwhy,b\n";
    table_seed("plain", 0, plain, "");
    table_seed("folds", FOLDS, plain, "");
    table_seed("tested", TESTED | SHORT, plain, "label,text\nb,\"who, \"\"then\"\"\nor when is this\"\na,hello\n");
    table_seed(
        "odd", FORGIVING,
        "\xef\xbb\xbfn;Question;CLASS\r\n1; one ;x\r\n\r\n2;\"two\r\nlines\";y\r\n3;\xc3\xa4\xff;x\r\n4;;y\r\n"
        "5;a;x;more\r\n6;\"b\"c;y\r\n7;\xe2\x82\xac;x\r\n8;d;y",
        "");
    table_seed("tabs", UNLABELLED, "intent\tsentence\nx\tone\ny\ttwo\nx\tthree\ny\tfour\n",
               "sentence\nfive\n\nsix and seven and eight and nine\n");
    table_seed("lines", UNLABELLED | LINES, plain, "one\r\n\n two \nthree");
    table_seed("open", 0, "text,label\na,b\n\"c,d\ne,f\n", "");
}

int main(int argc, char **argv)
{
    if (argc != 2) return 2;
    folder = argv[1];
    must(kd_open(NULL, &kd) == KD_OK, "kd_open");
    spec_seeds();
    model_seeds();
    cache_seeds();
    onnx_seeds();
    npy_seeds();
    idx_seeds();
    checkpoint_seeds();
    table_seeds();
    kd_close(kd);
    return 0;
}
