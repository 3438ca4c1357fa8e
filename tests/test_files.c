/* Files: models, weights, arrays and teacher caches; what is written, what is refused, what a failure leaves. */
#include "disk.h"

#include "golden/names.h"

#include <dirent.h>
#include <float.h>
#include <locale.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

static kd_model *create(const char *spec, uint64_t seed)
{
    kd_model *m;
    if (kd_model_create(kd, spec, seed, &m) != KD_OK) fail_msg("%s: %s", spec, kd_error(kd));
    return m;
}

/* A model with everything that a file can hold. */
static const char full_spec[] =
    "2x6x6: stem: conv 20 3 groups=2 bias=0, batchnorm, leakyrelu 0.2, residual(depthwise 3 "
    "pad=1, batchnorm, relu), dropout 0.25, dense 35, gelu, dense 3";

static kd_model *create_full(void)
{
    static const char *const names[] = {"a \"quoted\\ name", "\x01\n\x7f control",
                                        "Gr\xc3\xbc\xc3\x9f \xf0\x9f\x8c\x8d"};
    const float mean[2] = {0.1234567f, -3e-20f}, std[2] = {1 / 3.0f, 7e19f};
    kd_model *m = create(full_spec, 9);
    uint64_t state = 4;
    int i;
    size_t j;
    assert_ok(kd, kd_model_set_classes(m, names, 3));
    assert_ok(kd, kd_model_set_preprocessing(m, mean, std));
    for (i = 0; i < m->param_count; ++i) { /* biases and statistics away from their start */
        kd__param *p = &m->params[i];
        for (j = 0; p->layout == KD__VECTOR && j < p->size; ++j) kd__param_stored(m, p)[j] += test_random(&state);
    }
    m->batches_seen = (int64_t)1 << 40;
    return m;
}

/* ---- models ---------------------------------------------------------------------------------------------- */

static void test_round_trip(void **state)
{
    kd_model *m = create_full(), *back = NULL;
    kd_isa isa;
    int i;
    (void)state;
    assert_ok(kd, kd_model_save(m, "m"));
    assert_int_equal(disk_count(), 1);
    FOR_EACH_ISA(isa) /* saved by one instruction set, loaded by another */
    {
        kd_ctx *own = kd;
        kd_ctx_desc desc = own->desc;
        float mean[KD_MAX_CHANNELS], std[KD_MAX_CHANNELS];
        desc.isa = isa;
        assert_int_equal(kd_open(&desc, &kd), KD_OK);
        assert_ok(kd, kd_model_load(kd, "m", &back));
        assert_true(kd_model_hash(back) == kd_model_hash(m));
        assert_string_equal(kd_model_spec(back), kd_model_spec(m));
        for (i = 0; i < 3; ++i) assert_string_equal(kd_model_class(back, i), kd_model_class(m, i));
        assert_int_equal(kd_model_preprocessing(back, mean, std), 2);
        assert_memory_equal(mean, m->mean, 2 * sizeof *mean);
        assert_memory_equal(std, m->std, 2 * sizeof *std);
        assert_true(back->batches_seen == m->batches_seen);
        assert_ok(kd, kd_model_save(back, "again"));
        assert_int_equal(disk_find("again")->size, disk_find("m")->size);
        assert_memory_equal(disk_find("again")->bytes, disk_find("m")->bytes, disk_find("m")->size);
        kd_model_destroy(back);
        kd_close(kd);
        kd = own;
    }
    kd_model_destroy(m);
    m = create("3: dense 2", 1); /* and one with nothing beside its weights */
    assert_ok(kd, kd_model_save(m, "m"));
    assert_ok(kd, kd_model_load(kd, "m", &back));
    assert_true(kd_model_hash(back) == kd_model_hash(m));
    assert_null(kd_model_class(back, 0));
    assert_int_equal(kd_model_preprocessing(back, NULL, NULL), 0);
    assert_string_equal(kd_model_framing(back), "");
    kd_model_destroy(back);
    assert_ok(kd, kd_model_set_framing(m, "pad=1,2,3 exif")); /* or with that alone */
    assert_ok(kd, kd_model_save(m, "m"));
    assert_ok(kd, kd_model_load(kd, "m", &back));
    assert_true(kd_model_hash(back) == kd_model_hash(m));
    assert_string_equal(kd_model_framing(back), "pad=1,2,3 exif");
    kd_model_destroy(back);
    kd_model_destroy(m);
    m = create("3 init=he last=0 : dense 2", 1); /* with the options of its line */
    assert_ok(kd, kd_model_save(m, "m"));
    assert_ok(kd, kd_model_load(kd, "m", &back));
    assert_true(kd_model_hash(back) == kd_model_hash(m));
    assert_string_equal(kd_model_spec(back), "3 init=he last=0 : dense 2");
    kd_model_destroy(back);
    kd_model_destroy(m);
    m = create("3: relu", 1); /* or without any */
    assert_ok(kd, kd_model_save(m, "m"));
    assert_ok(kd, kd_model_load(kd, "m", &back));
    kd_model_destroy(back);
    kd_model_destroy(m);
}

/* That of a file, as it says; 0 if it does not. */
static uint64_t checksum_of_bytes(const disk_file *f)
{
    static const char key[] = "\"kd.checksum.bytes\":\"";
    size_t i;
    for (i = 0; i + sizeof key + 16 < f->size; ++i) {
        if (memcmp(f->bytes + i, key, sizeof key - 1) == 0)
            return strtoull((const char *)f->bytes + i + sizeof key - 1, NULL, 16);
    }
    return 0;
}

/* Byte by byte: what another reader of safetensors, and PyTorch, will find. */
static void test_bytes_of_a_model(void **state)
{
    static const char *const names[] = {"no\t", "\"yes\""};
    const float weight[4] = {1, -2, 0.5f, 3}, head[2] = {-1, 1e-30f}, mean[1] = {0.5f}, std[1] = {0.25f};
    const unsigned char data[] = {5, 0, 0,    0,    0, 0, 0,    0,     /* num_batches_tracked */
                                  0, 0, 0,    0,    0, 0, 0,    0,     /* 1.bias, 1.running_mean */
                                  0, 0, 0x80, 0x3f, 0, 0, 0x80, 0x3f}; /* 1.running_var, 1.weight */
    char header[1200], wanted[1200];
    kd_model *m = create("1x2x2: conv 1 2 bias=0, batchnorm, head: dense 2 bias=0", 1);
    const disk_file *f;
    size_t length;
    (void)state;
    m->batches_seen = 5;
    assert_ok(kd, kd_model_set_tensor(m, "0.weight", weight, 4));
    assert_ok(kd, kd_model_set_tensor(m, "head.weight", head, 2));
    assert_ok(kd, kd_model_set_classes(m, names, 2));
    assert_ok(kd, kd_model_set_preprocessing(m, mean, std));
    assert_ok(kd, kd_model_save(m, "m"));
    f = disk_find("m");
    snprintf(wanted, sizeof wanted,
             "{\"__metadata__\":{\"format\":\"pt\",\"kd.version\":\"1\","
             "\"kd.spec\":\"1x2x2: conv 1 2 bias=0, batchnorm, head: dense 2 bias=0\",\"kd.mean\":\"0.5\","
             "\"kd.std\":\"0.25\",\"kd.class.0\":\"no\\u0009\",\"kd.class.1\":\"\\u0022yes\\u0022\","
             "\"kd.checksum\":\"%016llx\",\"kd.checksum.bytes\":\"%016llx\"},"
             "\"1.num_batches_tracked\":{\"dtype\":\"I64\",\"shape\":[],\"data_offsets\":[0,8]},"
             "\"0.weight\":{\"dtype\":\"F32\",\"shape\":[1,1,2,2],\"data_offsets\":[8,24]},"
             "\"1.bias\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[24,28]},"
             "\"1.running_mean\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[28,32]},"
             "\"1.running_var\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[32,36]},"
             "\"1.weight\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[36,40]},"
             "\"head.weight\":{\"dtype\":\"F32\",\"shape\":[2,1],\"data_offsets\":[40,48]}}",
             (unsigned long long)kd__model_checksum(m), (unsigned long long)checksum_of_bytes(f));
    length = (size_t)f->bytes[0] | (size_t)f->bytes[1] << 8;
    assert_memory_equal(f->bytes + 2, "\0\0\0\0\0\0", 6);
    assert_int_equal(length % 8, 0);
    assert_true(length < strlen(wanted) + 8);
    memcpy(header, f->bytes + 8, length);
    header[length] = 0;
    while (strlen(wanted) < length) strcat(wanted, " ");
    assert_string_equal(header, wanted);
    assert_int_equal(f->size, 8 + length + 48);
    assert_memory_equal(f->bytes + 8 + length, data, 8);
    assert_memory_equal(f->bytes + 8 + length + 8, "\0\0\x80\x3f\0\0\0\xc0\0\0\0\x3f\0\0\x40\x40",
                        16); /* 0.weight */
    assert_memory_equal(f->bytes + 8 + length + 24, data + 8, 16);
    assert_memory_equal(f->bytes + 8 + length + 40, "\0\0\x80\xbf\x60\x42\xa2\x0d", 8);
    kd_model_destroy(m);
}

/* Whatever the model: tensors follow each other without a hole, wide types first, then by name. */
static void test_order_of_tensors(void **state)
{
    kd_model *m = create_full();
    const disk_file *f;
    char *text, *c, last[128] = "", name[128], type[8];
    unsigned long long begin, end, at = 0, length;
    int tensors = 0, wide = 8;
    (void)state;
    assert_ok(kd, kd_model_save(m, "m"));
    f = disk_find("m");
    length = kd__load_le(f->bytes, 8);
    text = (char *)calloc(length + 1, 1);
    memcpy(text, f->bytes + 8, length);
    for (c = text; (c = strstr(c, "\":{\"dtype\":\"")) != NULL; ++c, ++tensors) {
        const char *offsets = strstr(c, "data_offsets\":[");
        char *start = c;
        while (start[-1] != '"') --start;
        assert_int_equal(sscanf(start, "%127[^\"]", name), 1);
        assert_int_equal(sscanf(c, "\":{\"dtype\":\"%7[^\"]", type), 1);
        assert_int_equal(sscanf(offsets, "data_offsets\":[%llu,%llu]", &begin, &end), 2);
        assert_true(begin == at && end > begin);
        at = end;
        if (wide == 8 && strcmp(type, "I64") != 0) wide = 4, last[0] = 0;
        assert_string_equal(type, wide == 8 ? "I64" : "F32");
        assert_true(strcmp(last, name) < 0);
        strcpy(last, name);
    }
    assert_int_equal(tensors, m->param_count + 2);
    assert_true(8 + length + at == f->size);
    free(text);
    kd_model_destroy(m);
}

/* ---- files that are not what they should be -------------------------------------------------------------- */

#define SPEC "\"kd.version\":\"1\",\"kd.spec\":\"2: dense 1\""
#define META "\"__metadata__\":{" SPEC "}"
#define META_AND(more) "\"__metadata__\":{" SPEC "," more "}"
#define TENSOR(name, dtype, shape, offsets)                                                                        \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}"
#define BIAS TENSOR("0.bias", "F32", "[1]", "[0,4]")
#define WEIGHT TENSOR("0.weight", "F32", "[1,2]", "[4,12]")
#define GOOD "{" META "," BIAS "," WEIGHT "}"
#define WIDE "{" META "," BIAS "," TENSOR("0.weight", "F64", "[1,2]", "[4,20]") "}"

typedef struct file_case {
    const char *header;
    int bytes; /* of data */
    kd_result result;
    const char *message;
} file_case;

static const float plain_numbers[16] = {0.5f, 1, 2, 4, 8, 16};

static void put_file(const char *header, uint64_t claimed, const void *data, size_t bytes)
{
    const size_t length = strlen(header);
    unsigned char *file = (unsigned char *)malloc(8 + length + bytes);
    kd__store_le(file, claimed, 8);
    memcpy(file + 8, header, length);
    if (bytes) memcpy(file + 8 + length, data, bytes);
    disk_put("f", file, 8 + length + bytes);
    free(file);
}

/* Loading fails so, asks for no more memory than the file warrants, and leaves nothing behind. */
static void check_load(const char *what, kd_result result, const char *message)
{
    kd_model *m = (kd_model *)&m;
    kd_result got;
    memory.largest = 0;
    got = kd_model_load(kd, "f", &m);
    if (got != result || (result != KD_OK && !strstr(kd_error(kd), message)))
        fail_msg("%s: %s \"%s\", expected %s \"%s\"", what, kd_result_name(got), kd_error(kd),
                 kd_result_name(result), message);
    if (result != KD_OK) assert_null(m);
    if (memory.largest > 1 << 16) fail_msg("%s: %zu bytes were asked for at once", what, memory.largest);
    kd_model_destroy(m);
    assert_int_equal(memory.blocks, 1);
    assert_int_equal(disk.open, 0);
}

static void test_broken_headers(void **state)
{
#define BROKEN "is no valid safetensors file: "
#define HEADER_BROKEN KD_ERR_FORMAT, BROKEN "its header is broken at byte "
    static const file_case cases[] = {
        {GOOD, 12, KD_OK, ""},
        {GOOD "     ", 12, KD_OK, ""},
        {"{ \t\r\n" META "\n,\t" BIAS " , " WEIGHT " }", 12, KD_OK, ""},
        {"{" WEIGHT "," META "," BIAS "}", 12, KD_OK, ""},
        {"{" META ",\"0.b\\u0069as\":{\"shape\":[ 1 ],\"data_offsets\":[ 0 , 4 ],\"dtype\":\"F32\"}," WEIGHT "}",
         12, KD_OK, ""},
        /* JSON */
        {"", 0, KD_ERR_FORMAT, BROKEN "its header does not begin with a brace"},
        {"{", 0, KD_ERR_FORMAT, BROKEN "its header does not begin with a brace"},
        {" " GOOD, 12, KD_ERR_FORMAT, BROKEN "its header does not begin with a brace"},
        {"[" META "]", 0, KD_ERR_FORMAT, BROKEN "its header does not begin with a brace"},
        {"{}", 0, KD_ERR_FORMAT, "holds weights but no model line"},
        {"{" META "," BIAS "," WEIGHT, 12, HEADER_BROKEN},
        {"{" META " " BIAS "," WEIGHT "}", 12, HEADER_BROKEN},
        {"{" META "," BIAS "," WEIGHT ",}", 12, HEADER_BROKEN},
        {"{," META "}", 0, HEADER_BROKEN},
        {"{" META ",0:{}}", 0, HEADER_BROKEN},
        {"{\"a\" {}}", 0, HEADER_BROKEN},
        {"{\"a:{}}", 0, HEADER_BROKEN},
        {"{\"a\\x\":{}}", 0, HEADER_BROKEN},
        {"{\"a\\u12\":{}}", 0, HEADER_BROKEN},
        {"{\"a\\u12", 0, HEADER_BROKEN},
        {"{\"a\\u12g4\":{}}", 0, HEADER_BROKEN},
        {"{\"a\\u12G4\":{}}", 0, HEADER_BROKEN},
        {"{\"a\\u12 4\":{}}", 0, HEADER_BROKEN},
        {"{\"a\\ud83d\\ue000\":{}}", 0, HEADER_BROKEN},
        {"{\"a\\ud83d\\uzzzz\":{}}", 0, HEADER_BROKEN},
        {"{\"a\\ud83d\\nabcd\":{}}", 0, HEADER_BROKEN},
        {"{\"a\\u0000\":{}}", 0, HEADER_BROKEN},
        {"{\"a\\ud83d\":{}}", 0, HEADER_BROKEN},
        {"{\"a\\ud83dxxxxxx\":{}}", 0, HEADER_BROKEN},
        {"{\"a\\ud83d\\u0041\":{}}", 0, HEADER_BROKEN},
        {"{\"a\\udc00\":{}}", 0, HEADER_BROKEN},
        {"{\"a\n\":{}}", 0, HEADER_BROKEN},
        {"{\"a\\", 0, HEADER_BROKEN},
        {"{\"a\":{\"shape\":[1", 0, KD_ERR_FORMAT, "the shape of tensor \"a\" is broken"},
        {"{\"\xff\":{}}", 0, HEADER_BROKEN},
        {"{\"\xc0\xaf\":{}}", 0, HEADER_BROKEN},
        {"{\"\xed\xa0\x80\":{}}", 0, HEADER_BROKEN},
        {"{\"\xe2\x82", 0, HEADER_BROKEN},
        {GOOD "x", 12, KD_ERR_FORMAT, BROKEN "something follows its header"},
        {GOOD "{}", 12, KD_ERR_FORMAT, BROKEN "something follows its header"},
        /* metadata */
        {"{\"__metadata__\":[]}", 0, KD_ERR_FORMAT, BROKEN "__metadata__ is no object"},
        {"{\"__metadata__\":{}}", 0, KD_ERR_FORMAT, "holds weights but no model line"},
        {"{\"__metadata__\":{\"a\":1}}", 0, KD_ERR_FORMAT, BROKEN "__metadata__ must map strings to strings"},
        {"{\"__metadata__\":{\"a\":null}}", 0, KD_ERR_FORMAT, "must map strings to strings"},
        {"{\"__metadata__\":{\"a\"}}", 0, KD_ERR_FORMAT, "must map strings to strings"},
        {"{\"__metadata__\":{\"a\":\"b\",}}", 0, KD_ERR_FORMAT, "must map strings to strings"},
        {"{\"__metadata__\":{\"a\":\"b\"", 0, KD_ERR_FORMAT, BROKEN "__metadata__ is not closed"},
        {"{" META "," META "}", 0, KD_ERR_FORMAT, BROKEN "__metadata__ is there twice"},
        {"{" META_AND("\"x\":\"1\",\"x\":\"2\"") "," BIAS "," WEIGHT "}", 12, KD_ERR_FORMAT,
         BROKEN "the metadata key \"x\" is there twice"},
    };
    size_t i;
    kd_model *m = (kd_model *)&m;
    (void)state;
    for (i = 0; i < sizeof cases / sizeof *cases; ++i) {
        put_file(cases[i].header, strlen(cases[i].header), plain_numbers, (size_t)cases[i].bytes);
        check_load(cases[i].header, cases[i].result, cases[i].message);
    }
    put_file("{\"a\\?\":{}}", 10, plain_numbers, 0);
    disk_find("f")->bytes[8 + 4] = 0;
    check_load("an escaped byte 0", HEADER_BROKEN);
    put_file("{\"a\\u12?4\":{}}", 14, plain_numbers, 0);
    disk_find("f")->bytes[8 + 7] = 0;
    check_load("a byte 0 for a digit", HEADER_BROKEN);
    disk_put("f", "", 0);
    check_load("no bytes", KD_ERR_FORMAT, BROKEN "it has only 0 bytes");
    disk_put("f", "1234567", 7);
    check_load("7 bytes", KD_ERR_FORMAT, BROKEN "it has only 7 bytes");
    put_file(GOOD, strlen(GOOD) + 13, plain_numbers, 12);
    check_load("a length beyond the file", KD_ERR_FORMAT, BROKEN "it claims a header of ");
    put_file(GOOD, (uint64_t)100000001, plain_numbers, 12);
    check_load("a length above the limit", KD_ERR_FORMAT, "it claims a header of 100000001 bytes in a file of ");
    put_file(GOOD, UINT64_MAX, plain_numbers, 12);
    check_load("a length of 2^64 - 1", KD_ERR_FORMAT, "it claims a header of 18446744073709551615 bytes");
    put_file(GOOD, strlen(GOOD) - 1, plain_numbers, 12);
    check_load("a length one short", KD_ERR_FORMAT, "its header is broken at byte ");
    assert_fails(kd, kd_model_load(kd, "nowhere", &m), KD_ERR_IO,
                 "kd_model_load: cannot open \"nowhere\" for reading");
    assert_null(m);
    assert_fails(kd, kd_model_load(kd, NULL, &m), KD_ERR_ARGUMENT, "the path must not be NULL");
    assert_fails(kd, kd_model_load(kd, "f", NULL), KD_ERR_ARGUMENT, "out must not be NULL");
    assert_int_equal(kd_model_load(NULL, "f", &m), KD_ERR_ARGUMENT);
}

/* Letters of one to four bytes, as themselves and as JSON writes them. */
static void test_escapes(void **state)
{
    static const char header[] = "{" META_AND(
        "\"kd.class.0\":\"A\\u0041\\u00e9\\u00E9\\u20ac\\ud83d\\uDE00\\n\\t\\\\\\/\\\"\xc3\xa9\"") "," BIAS
                                                                                                   "," WEIGHT "}";
    kd_model *m;
    (void)state;
    put_file(header, strlen(header), plain_numbers, 12);
    assert_ok(kd, kd_model_load(kd, "f", &m));
    assert_string_equal(kd_model_class(m, 0), "AA\xc3\xa9\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\n\t\\/\"\xc3\xa9");
    kd_model_destroy(m);
}

/* Every first and second byte: a sequence is what encodes a character, in its shortest form, and no half of a
   pair. */
static void test_utf8(void **state)
{
    static const unsigned char last[] = {0x00, 0x7f, 0x80, 0xbf, 0xc0, 0xff};
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    unsigned char c[4];
    int first, second, i, j, k;
    (void)state;
    for (first = 0; first < 256; ++first) {
        const int bytes = first < 0x80   ? 1
                          : first < 0xc0 ? 0
                          : first < 0xe0 ? 2
                          : first < 0xf0 ? 3
                          : first < 0xf8 ? 4
                                         : 0;
        for (second = 0; second < 256; ++second) {
            for (i = 0; i < (int)(sizeof last * sizeof last); ++i) {
                uint32_t code = bytes > 1 ? (uint32_t)first & (0x7fu >> bytes) : (uint32_t)first;
                int wanted = bytes;
                c[0] = (unsigned char)first, c[1] = (unsigned char)second;
                c[2] = last[(size_t)i / sizeof last], c[3] = last[(size_t)i % sizeof last];
                for (j = 1; j < bytes; ++j) {
                    if (c[j] < 0x80 || c[j] > 0xbf) wanted = 0;
                    code = code << 6 | (c[j] & 0x3fu);
                }
                if (code < least[bytes] || code > 0x10ffff || (code >= 0xd800 && code < 0xe000)) wanted = 0;
                for (k = 1; k <= 4; ++k)
                    assert_int_equal(kd__utf8_length((const char *)c, (const char *)c + k),
                                     k < wanted ? 0 : wanted);
            }
        }
    }
}

static void test_broken_tensors(void **state)
{
    static const file_case cases[] = {
        /* the description */
        {"{" META ",\"0.bias\":7," WEIGHT "}", 12, KD_ERR_FORMAT, "tensor \"0.bias\" has no description"},
        {"{" META ",\"0.bias\":{}," WEIGHT "}", 12, KD_ERR_FORMAT,
         "the description of tensor \"0.bias\" is broken"},
        {"{" META ",\"0.bias\":{\"dtype\":\"F32\",\"shape\":[1]}," WEIGHT "}", 12, KD_ERR_FORMAT,
         "the description of tensor \"0.bias\" is incomplete"},
        {"{" META ",\"0.bias\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],\"x\":1}," WEIGHT "}", 12,
         KD_ERR_FORMAT, "the description of tensor \"0.bias\" has an unknown or repeated key \"x\""},
        {"{" META ",\"0.bias\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4,
         KD_ERR_FORMAT, "has an unknown or repeated key \"dtype\""},
        {"{" META ",\"0.bias\":{\"shape\":[1],\"shape\":[1],\"data_offsets\":[0,4]}}", 4, KD_ERR_FORMAT,
         "has an unknown or repeated key \"shape\""},
        {"{" META ",\"0.bias\":{\"data_offsets\":[0,4],\"data_offsets\":[0,4]}}", 4, KD_ERR_FORMAT,
         "has an unknown or repeated key \"data_offsets\""},
        {"{" META "," TENSOR("0.bias", "F8_E4M3", "[1]", "[0,1]") "}", 1, KD_ERR_FORMAT,
         "tensor \"0.bias\" has the type \"F8_E4M3\", which cannot be read"},
        {"{" META ",\"0.bias\":{\"dtype\":7}}", 0, KD_ERR_FORMAT, "tensor \"0.bias\" has the type \"?\""},
        /* shapes */
        {"{" META "," TENSOR("0.bias", "F32", "[-1]", "[0,4]") "}", 4, KD_ERR_FORMAT,
         "the shape of tensor \"0.bias\" is broken or has more than 8 dimensions"},
        {"{" META "," TENSOR("0.bias", "F32", "[1.0]", "[0,4]") "}", 4, KD_ERR_FORMAT, "the shape of tensor"},
        {"{" META "," TENSOR("0.bias", "F32", "[01]", "[0,4]") "}", 4, KD_ERR_FORMAT, "the shape of tensor"},
        {"{" META "," TENSOR("0.bias", "F32", "[1,]", "[0,4]") "}", 4, KD_ERR_FORMAT, "the shape of tensor"},
        {"{" META "," TENSOR("0.bias", "F32", "1", "[0,4]") "}", 4, KD_ERR_FORMAT, "the shape of tensor"},
        {"{" META "," TENSOR("0.bias", "F32", "[1,1,1,1,1,1,1,1,1]", "[0,4]") "}", 4, KD_ERR_FORMAT,
         "more than 8 dimensions"},
        {"{" META "," TENSOR("0.bias", "F32", "[99999999999999999999]", "[0,4]") "}", 4, KD_ERR_FORMAT,
         "the shape of tensor"},
        {"{" META "," TENSOR("0.bias", "F32", "[4294967296,4294967296]", "[0,0]") "}", 0, KD_ERR_FORMAT,
         "tensor \"0.bias\" is too large"},
        {"{" META "," TENSOR("0.bias", "F32", "[1000000000000000000]", "[0,4]") "}", 4, KD_ERR_FORMAT,
         "tensor \"0.bias\" is too large"},
        {"{" META "," TENSOR("0.bias", "F32", "[0,9223372036854775807]", "[0,4]") "}", 4, KD_ERR_FORMAT, ""},
        /* offsets */
        {"{" META "," TENSOR("0.bias", "F32", "[1]", "[0,4,8]") "}", 4, KD_ERR_FORMAT,
         "the data_offsets of tensor \"0.bias\" are broken"},
        {"{" META "," TENSOR("0.bias", "F32", "[1]", "[4]") "}", 4, KD_ERR_FORMAT, "the data_offsets of"},
        {"{" META "," TENSOR("0.bias", "F32", "[1]", "[4,0]") "," WEIGHT "}", 12, KD_ERR_FORMAT,
         "tensor \"0.bias\" has 1 numbers of 4 bytes, but its data_offsets are 4 and 0 of 12"},
        {"{" META "," TENSOR("0.bias", "F32", "[1]", "[0,8]") "," WEIGHT "}", 12, KD_ERR_FORMAT,
         "has 1 numbers of 4 bytes, but its data_offsets are 0 and 8 of 12"},
        {"{" META "," TENSOR("0.bias", "F32", "[1]", "[12,16]") "," WEIGHT "}", 12, KD_ERR_FORMAT,
         "its data_offsets are 12 and 16 of 12"},
        {"{" META "," TENSOR("0.bias", "F32", "[1]", "[9223372036854775800,9223372036854775804]") "}", 4,
         KD_ERR_FORMAT, "the data_offsets of tensor"},
        {"{" META "," BIAS "," TENSOR("0.weight", "F32", "[1,2]", "[0,8]") "}", 8, KD_ERR_FORMAT,
         "the data of tensor \"0.weight\" begin at 0, expected 4"},
        {"{" META "," BIAS "," TENSOR("0.weight", "F32", "[1,2]", "[8,16]") "}", 16, KD_ERR_FORMAT,
         "the data of tensor \"0.weight\" begin at 8, expected 4"},
        {"{" META "," TENSOR("0.bias", "F32", "[1]", "[4,8]") "}", 8, KD_ERR_FORMAT,
         "the data of tensor \"0.bias\" begin at 4, expected 0"},
        {"{" META "," TENSOR("a", "F32", "[0]", "[0,0]") "," BIAS "," WEIGHT "}", 12, KD_ERR_FORMAT,
         "has a tensor \"a\" that the model does not have"}, /* none of its bytes, before those of another */
        {"{" META "," BIAS "," WEIGHT "," TENSOR("z", "F32", "[0]", "[0,0]") "}", 12, KD_ERR_FORMAT,
         "has a tensor \"z\" that the model does not have"},
        {GOOD, 16, KD_ERR_FORMAT, "4 bytes of data belong to no tensor"},
        {GOOD, 8, KD_ERR_FORMAT,
         "tensor \"0.weight\" has 2 numbers of 4 bytes, but its data_offsets are 4 and 12 of 8"},
        {"{" META "," BIAS "," TENSOR("0.bias", "F32", "[2]", "[4,12]") "}", 12, KD_ERR_FORMAT,
         "tensor \"0.bias\" is there twice"},
        /* against the model */
        {"{" META "," BIAS "}", 4, KD_ERR_FORMAT, "has no tensor \"0.weight\""},
        {"{" META "," BIAS "," WEIGHT "," TENSOR("1.weight", "F32", "[1]", "[12,16]") "}", 16, KD_ERR_FORMAT,
         "has a tensor \"1.weight\" that the model does not have"},
        {"{" META "," BIAS "," TENSOR("0.weight", "F32", "[2,1]", "[4,12]") "}", 12, KD_ERR_SHAPE,
         "tensor \"0.weight\" of \"f\" is (2, 1), but the model's is (1, 2)"},
        {"{" META "," BIAS "," TENSOR("0.weight", "F32", "[2]", "[4,12]") "}", 12, KD_ERR_SHAPE,
         "is (2), but the model's is (1, 2)"},
        {"{" META "," TENSOR("0.bias", "F32", "[]", "[0,4]") "," WEIGHT "}", 12, KD_ERR_SHAPE,
         "tensor \"0.bias\" of \"f\" is a single number, but the model's is (1)"},
        {"{" META "," BIAS "," TENSOR("0.weight", "F32", "[1,3]", "[4,16]") "}", 16, KD_ERR_SHAPE,
         "is (1, 3), but the model's is (1, 2)"},
        {"{" META "," BIAS "," TENSOR("0.weight", "I32", "[1,2]", "[4,12]") "}", 12, KD_ERR_FORMAT,
         "tensor \"0.weight\" of \"f\" holds whole numbers; weights must be F32, F16, BF16 or F64"},
    };
    const double too_large[2] = {1, 1e300};
    unsigned char bytes[20];
    float numbers[4] = {1, 2, 3, 4};
    size_t i;
    (void)state;
    for (i = 0; i < sizeof cases / sizeof *cases; ++i) {
        put_file(cases[i].header, strlen(cases[i].header), plain_numbers, (size_t)cases[i].bytes);
        check_load(cases[i].header, cases[i].result, cases[i].message);
    }
    numbers[2] = NAN;
    put_file(GOOD, strlen(GOOD), numbers, 12);
    check_load("a NaN", KD_ERR_NOT_FINITE, "tensor \"0.weight\" of \"f\" holds a NaN or an infinity");
    memcpy(bytes, numbers, 4), memcpy(bytes + 4, too_large, 16);
    put_file(WIDE, strlen(WIDE), bytes, 20);
    check_load("no float", KD_ERR_NOT_FINITE, "holds a NaN or an infinity, or what is one as a float");
    numbers[2] = 1, numbers[0] = -INFINITY;
    put_file(GOOD, strlen(GOOD), numbers, 12);
    check_load("an infinity", KD_ERR_NOT_FINITE, "tensor \"0.bias\" of \"f\" holds a NaN or an infinity");
}

static void test_broken_metadata(void **state)
{
#define WITH(more) "{" META_AND(more) "," BIAS "," WEIGHT "}", 12
#define ONLY(meta) "{\"__metadata__\":{" meta "}," BIAS "," WEIGHT "}", 12
    static const file_case cases[] = {
        {WITH("\"kd.future\":\"whatever\",\"format\":\"pt\",\"\":\"\""), KD_OK, ""},
        {WITH("\"kd.class.0\":\"\\ud83c\\udf0d\\/\\b\\f\\n\\r\\t\\\\\\\"\""), KD_OK, ""},
        {WITH("\"kd.class.0\":\"a\",\"kd.class.1\":\"of another model\""), KD_OK, ""},
        {WITH("\"kd.mean\":\"0.5\",\"kd.std\":\"1e-1\""), KD_OK, ""},
        {WITH("\"kd.mean\":\"0.5 -2\",\"kd.std\":\"1 3\""), KD_OK, ""},
        {WITH("\"kd.framing\":\"of 63 letters, which is the most that is kept of such words xxx\""), KD_OK, ""},
        {WITH("\"kd.framing\":\"of 63 letters, which is the most that is kept of such words xxxx\""), KD_ERR_FORMAT,
         "kd.framing is broken"},
        {WITH("\"kd.framing\":\"*/ int x;\""), KD_ERR_FORMAT, "kd.framing is broken"},
        {WITH("\"kd.framing\":\"\\n\""), KD_ERR_FORMAT, "kd.framing is broken"},
        {ONLY("\"kd.version\":\"1\""), KD_ERR_FORMAT,
         "\"f\" holds weights but no model line; build the model and use kd_model_load_weights"},
        {ONLY("\"kd.spec\":\"2: dense 1\""), KD_ERR_FORMAT,
         "\"f\" has format version \"none\", this library reads 1"},
        {ONLY("\"kd.spec\":\"2: dense 1\",\"kd.version\":\"2\""), KD_ERR_FORMAT, "has format version \"2\""},
        {ONLY("\"kd.version\":\"1\",\"kd.spec\":\"2: dens 1\""), KD_ERR_SPEC, "did you mean \"dense\"?"},
        {ONLY("\"kd.version\":\"1\",\"kd.spec\":\"2: dense 2\""), KD_ERR_SHAPE,
         "is (1, 2), but the model's is (2, 2)"},
        {ONLY("\"kd.version\":\"1\",\"kd.spec\":\"2: a: dense 1\""), KD_ERR_FORMAT, "has no tensor \"a.weight\""},
        {WITH("\"kd.mean\":\"0.5\""), KD_ERR_FORMAT, "kd.mean or kd.std is broken"},
        {WITH("\"kd.std\":\"0.5\""), KD_ERR_FORMAT, "kd.mean or kd.std is broken"},
        {WITH("\"kd.mean\":\"\",\"kd.std\":\"\""), KD_ERR_FORMAT, "kd.mean or kd.std is broken"},
        {WITH("\"kd.mean\":\"x\",\"kd.std\":\"1\""), KD_ERR_FORMAT, "kd.mean or kd.std is broken"},
        {WITH("\"kd.mean\":\"1 1\",\"kd.std\":\"1\""), KD_ERR_FORMAT, "kd.mean or kd.std is broken"},
        {WITH("\"kd.mean\":\"1 1 1\",\"kd.std\":\"1 1 1\""), KD_ERR_FORMAT, "kd.mean or kd.std is broken"},
        {WITH("\"kd.mean\":\"1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1\",\"kd.std\":\"1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1\""),
         KD_ERR_FORMAT, "kd.mean or kd.std is broken"},
        {WITH("\"kd.mean\":\"1\",\"kd.std\":\"0\""), KD_ERR_ARGUMENT,
         "channel 0 needs a finite mean and a std above 0"},
        {WITH("\"kd.mean\":\"1e99\",\"kd.std\":\"1\""), KD_ERR_ARGUMENT, "channel 0 needs a finite mean"},
        {WITH("\"kd.checksum\":\"0123456789abcdef\""), KD_ERR_FORMAT,
         "its contents do not match its checksum; if it was edited on purpose, remove kd.checksum from the "
         "metadata"},
        {WITH("\"kd.checksum\":\"\""), KD_ERR_FORMAT, "its contents do not match its checksum"},
    };
    size_t i;
    (void)state;
    for (i = 0; i < sizeof cases / sizeof *cases; ++i) {
        put_file(cases[i].header, strlen(cases[i].header), plain_numbers, (size_t)cases[i].bytes);
        check_load(cases[i].header, cases[i].result, cases[i].message);
    }
    {
        static const char two[] =
            "{\"__metadata__\":{\"kd.version\":\"1\",\"kd.spec\":\"1: dense 2 bias=0\","
            "\"kd.class.0\":\"a\",\"kd.class.2\":\"c\"}," TENSOR("0.weight", "F32", "[2,1]", "[0,8]") "}";
        put_file(two, strlen(two), plain_numbers, 8);
        check_load(two, KD_ERR_FORMAT, "the name of class 1 is missing");
    }
}

#define NORM_SPEC "\"__metadata__\":{\"kd.version\":\"1\",\"kd.spec\":\"1: batchnorm\"}"
#define NORM                                                                                                       \
    TENSOR("0.weight", "F32", "[1]", "[0,4]")                                                                      \
    "," TENSOR("0.bias", "F32", "[1]", "[4,8]") "," TENSOR("0.running_mean", "F32", "[1]", "[8,12]") "," TENSOR(   \
        "0.running_var", "F32", "[1]", "[12,16]")

static void test_batches_tracked(void **state)
{
    static const file_case cases[] = {
        {"{" NORM_SPEC "," NORM "}", 16, KD_OK, ""}, /* PyTorch writes it, others may not */
        {"{" NORM_SPEC "," NORM "," TENSOR("0.num_batches_tracked", "I64", "[]", "[16,24]") "}", 24, KD_OK, ""},
        {"{" NORM_SPEC "," NORM "," TENSOR("0.num_batches_tracked", "I64", "[1]", "[16,24]") "}", 24, KD_OK, ""},
        {"{" NORM_SPEC "," NORM "," TENSOR("0.num_batches_tracked", "I32", "[]", "[16,20]") "}", 20, KD_ERR_FORMAT,
         "tensor \"0.num_batches_tracked\" of \"f\" must be one whole number"},
        {"{" NORM_SPEC "," NORM "," TENSOR("0.num_batches_tracked", "F64", "[]", "[16,24]") "}", 24, KD_OK, ""},
        {"{" NORM_SPEC "," NORM "," TENSOR("0.num_batches_tracked", "I64", "[2]", "[16,32]") "}", 32, KD_ERR_FORMAT,
         "must be one whole number"},
        {"{" NORM_SPEC "," NORM "," TENSOR("1.num_batches_tracked", "I64", "[]", "[16,24]") "}", 24, KD_ERR_FORMAT,
         "has a tensor \"1.num_batches_tracked\" that the model does not have"},
        {"{" NORM_SPEC "," NORM
         "," TENSOR("0.num_batches_tracked", "I64", "[]", "[16,24]") "," TENSOR("a", "F32", "[1]", "[24,28]") "}",
         28, KD_ERR_FORMAT, "has a tensor \"a\" that the model does not have"},
    };
    static const int64_t counts[] = {0, 999999999999999999, 1000000000000000000, INT64_MAX, -1};
    float numbers[8] = {0.5f, 1, 2, 4};
    size_t i;
    (void)state;
    for (i = 0; i < sizeof cases / sizeof *cases; ++i) {
        put_file(cases[i].header, strlen(cases[i].header), numbers, (size_t)cases[i].bytes);
        check_load(cases[i].header, cases[i].result, cases[i].message);
    }
    for (i = 0; i < sizeof counts / sizeof *counts;
         ++i) { /* beyond the second, training could not go on counting */
        kd__store_le((unsigned char *)(numbers + 4), (uint64_t)counts[i], 8);
        put_file(cases[1].header, strlen(cases[1].header), numbers, (size_t)cases[1].bytes);
        check_load(cases[1].header, i < 2 ? KD_OK : KD_ERR_FORMAT, i < 2 ? "" : "from 0 to below 1e18");
    }
}

/* A line of a few letters that describes gigabytes is refused before any of them is asked for. */
static void test_hostile_lines(void **state)
{
    static const char *const lines[] = {"1: dense 100000000",
                                        "1: dense 100000000 bias=0, batchnorm",
                                        "100000000: dense 1 bias=0",
                                        "100000000: batchnorm",
                                        "1x1x1: conv 100000000 1",
                                        "16384x1x1: depthwise 127 pad=63",
                                        "1: dense 10000, dense 10000, dense 1"};
    char header[1000];
    size_t i;
    (void)state;
    for (i = 0; i < sizeof lines / sizeof *lines; ++i) {
        snprintf(header, sizeof header, "{\"__metadata__\":{\"kd.version\":\"1\",\"kd.spec\":\"%s\"}," BIAS "}",
                 lines[i]);
        put_file(header, strlen(header), plain_numbers, 4);
        check_load(header, KD_ERR_FORMAT, "has no tensor \"0.weight\"");
    }
    /* no weights, but many outputs, of which one has a name */
    strcpy(header,
           "{\"__metadata__\":{\"kd.version\":\"1\",\"kd.spec\":\"100000000: relu\",\"kd.class.0\":\"a\"}}");
    put_file(header, strlen(header), NULL, 0);
    check_load(header, KD_ERR_FORMAT, "it does not name all of its 100000000 classes");
    strcpy(header, "{\"__metadata__\":{\"kd.version\":\"1\",\"kd.spec\":\"1: dense 2000000000\"}}");
    put_file(header, strlen(header), NULL, 0);
    check_load(header, KD_ERR_SPEC, "units of dense must be a whole number from 1 to 1e8, got \"2000000000\"");
}

/* The checksum of bytes is a number that is written into files: it does not change, however bytes come and whatever
   machine reads them. Every bit counts, and so do zeros at the end. */
static void test_checksum(void **state)
{
    unsigned char bytes[300];
    kd__checksum all, parts;
    uint64_t value;
    size_t i, j, at;
    (void)state;
    for (i = 0; i < sizeof bytes; ++i) bytes[i] = (unsigned char)(i * 89 + i / 7);
    memset(&all, 0, sizeof all);
    assert_true(kd__checksum_value(&all) == UINT64_C(0xd49ab4f66b5a577c));
    kd__checksum_add(&all, bytes, sizeof bytes);
    value = kd__checksum_value(&all);
    assert_true(value == UINT64_C(0x50d0a1da30155328));
    for (i = 1; i < 150; ++i) {
        memset(&parts, 0, sizeof parts);
        for (at = 0; at < sizeof bytes; at += j) {
            j = KD__MIN(1 + (at * 31 + i * 7) % i, sizeof bytes - at);
            kd__checksum_add(&parts, bytes + at, j);
        }
        assert_true(kd__checksum_value(&parts) == value);
    }
    for (i = 0; i < 8 * sizeof bytes; ++i) {
        bytes[i / 8] ^= (unsigned char)(1 << i % 8);
        memset(&parts, 0, sizeof parts);
        kd__checksum_add(&parts, bytes, sizeof bytes);
        assert_true(kd__checksum_value(&parts) != value);
        bytes[i / 8] ^= (unsigned char)(1 << i % 8);
    }
    memset(bytes, 0, sizeof bytes);
    memset(&all, 0, sizeof all);
    value = kd__checksum_value(&all);
    for (i = 1; i < sizeof bytes; ++i) {
        kd__checksum_add(&all, bytes, 1);
        assert_true(kd__checksum_value(&all) != value);
        value = kd__checksum_value(&all);
    }
}

/* What is said of tensors is under the checksum, too: names that change places, another type of the same size. */
static void test_described(void **state)
{
    static const char *const edits[][2] = {{"\"0.weight\"", "\"2.weight\""}, {"\"BF16\"", "\"F16\" "}};
    int i;
    (void)state;
    for (i = 0; i < 2; ++i) {
        kd_model *m = create("8: dense 8, relu, dense 8", 1), *back;
        unsigned char bytes[2048];
        size_t size, at, other = 0;
        assert_ok(kd, kd_model_save_memory(m, KD_DTYPE_BF16, NULL, 0, &size));
        assert_true(size <= sizeof bytes);
        assert_ok(kd, kd_model_save_memory(m, KD_DTYPE_BF16, bytes, size, NULL));
        for (at = 0; memcmp(bytes + at, edits[i][0], strlen(edits[i][0])) != 0;) ++at;
        if (i == 0) {
            while (memcmp(bytes + other, edits[0][1], strlen(edits[0][1])) != 0) ++other;
            bytes[other + 1] = '0';
        }
        memcpy(bytes + at, edits[i][1], strlen(edits[i][1]));
        assert_fails(kd, kd_model_load_memory(kd, bytes, size, &back), KD_ERR_FORMAT, "is damaged");
        assert_fails(kd, kd_model_load_in_place(kd, bytes, size, &back), KD_ERR_FORMAT, "is damaged");
        kd_model_destroy(m);
    }
}

/* Three tensors for one are what names of other libraries may stand for, nothing in a file of our own. */
static void test_no_parts(void **state)
{
    static const char header[] = "{\"__metadata__\":{\"kd.version\":\"1\",\"kd.spec\":\"2: dense 3 bias=0\"},"
                                 "\"0.weight#1\":{\"dtype\":\"F32\",\"shape\":[1,2],\"data_offsets\":[0,8]},"
                                 "\"0.weight#2\":{\"dtype\":\"F32\",\"shape\":[1,2],\"data_offsets\":[8,16]},"
                                 "\"0.weight#3\":{\"dtype\":\"F32\",\"shape\":[1,2],\"data_offsets\":[16,24]}}";
    unsigned char bytes[8 + sizeof header - 1 + 24];
    kd_model *m;
    (void)state;
    memset(bytes, 0, sizeof bytes);
    kd__store_le(bytes, sizeof header - 1, 8);
    memcpy(bytes + 8, header, sizeof header - 1);
    assert_fails(kd, kd_model_load_memory(kd, bytes, sizeof bytes, &m), KD_ERR_FORMAT,
                 "has no tensor \"0.weight\"");
    assert_fails(kd, kd_model_load_in_place(kd, bytes, sizeof bytes, &m), KD_ERR_FORMAT,
                 "has no tensor \"0.weight\"");
    m = create("2: dense 3 bias=0", 1);
    disk_put("p", bytes, sizeof bytes);
    assert_fails(kd, kd_model_load_weights(m, "p"), KD_ERR_FORMAT, "has no tensor \"0.weight\"");
    disk_delete(disk_find("p"));
    kd_model_destroy(m);
}

/* Of every layout and type of numbers, by either checksum: a flipped bit anywhere in the data is found. */
static void test_flipped_bits(void **state)
{
    static const char *const lines[] = {
        "2x5x5: conv 6 3 groups=2, batchnorm, relu, depthwise 2, conv 4 1, dense 3, softtree 1 2",
        "2x4x4: patch 2 4, classtoken, position, encoder 1 2, layernorm, token 0, linear 2"};
    const kd_dtype types[] = {KD_DTYPE_F32, KD_DTYPE_F16, KD_DTYPE_BF16};
    int line, type, way;
    (void)state;
    for (line = 0; line < KD__COUNT(lines); ++line) {
        kd_model *m = create(lines[line], 5), *back;
        for (type = 0; type < KD__COUNT(types); ++type) {
            unsigned char *bytes;
            size_t i, data;
            assert_ok(kd, kd_model_save_as(m, "f", types[type]));
            bytes = disk_find("f")->bytes;
            data = 8 + (size_t)kd__load_le(bytes, 8);
            for (way = 0; way < 2; ++way) {
                for (i = data; i < disk_find("f")->size; ++i) {
                    const unsigned char bit = (unsigned char)(1 << (i + (size_t)way) % 8);
                    bytes[i] ^= bit;
                    if (kd_model_load(kd, "f", &back) == KD_OK)
                        fail_msg("line %d, type %d, way %d: byte %d", line, type, way, (int)(i - data));
                    assert_null(back);
                    bytes[i] ^= bit;
                }
                assert_ok(kd, kd_model_load(kd, "f", &back));
                kd_model_destroy(back);
                /* as files were before they had that of their bytes */
                for (i = 0; i + 17 < data && memcmp(bytes + i, "kd.checksum.bytes", 17) != 0; ++i) {}
                if (way == 0) memcpy(bytes + i, "kd.checksum.other", 17);
            }
        }
        kd_model_destroy(m);
    }
}

/* Tensors of all sizes come to where they belong, and nothing else does: as they were before they were saved, on
   every instruction set, from files and from memory that is nowhere aligned. */
static void test_places(void **state)
{
    static const char *const lines[] = {
        "5: dense 1, dense 7, dense 16, dense 33, dense 64, dense 70, dense 128, dense 150, dense 3",
        "2100: dense 40, dense 100, dense 2", /* longer than what is read in one go */
        "9000: dense 3",
        "4x5x6: conv 70 3 pad=1, conv 96 3x2 groups=2, conv 65 1, conv 6 2, depthwise 2",
        "40x3x3: conv 50 3 pad=1, conv 260 3 groups=2 bias=0, flatten, dense 65, dense 1",
        "3x8x8: patch 4 16, classtoken, position, encoder 2 2, layernorm, token 0, linear 100"};
    const kd_dtype types[] = {KD_DTYPE_F32, KD_DTYPE_F16, KD_DTYPE_BF16};
    int line, type, isa;
    (void)state;
    for (isa = KD_ISA_SCALAR; isa < KD_ISA_COUNT; ++isa) {
        if (!kd_isa_available((kd_isa)isa)) continue;
        for (line = 0; line < KD__COUNT(lines); ++line) {
            kd_ctx_desc desc = kd->desc;
            kd_model *m, *rounded, *back;
            kd_ctx *c;
            desc.isa = (kd_isa)isa;
            assert_int_equal(kd_open(&desc, &c), KD_OK);
            assert_ok(c, kd_model_create(c, lines[line], 7, &m));
            for (type = 0; type < 3; ++type) {
                unsigned char *bytes;
                size_t size;
                int way;
                assert_ok(c, kd__model_rounded(m, types[type], &rounded));
                assert_ok(c, kd_model_save_memory(m, types[type], NULL, 0, &size));
                bytes = (unsigned char *)malloc(size + 1);
                assert_ok(c, kd_model_save_memory(m, types[type], bytes + 1, size, NULL));
                disk_put("f", bytes + 1, size);
                for (way = 0; way < 2; ++way) {
                    if (way)
                        assert_ok(c, kd_model_load_memory(c, bytes + 1, size, &back));
                    else
                        assert_ok(c, kd_model_load(c, "f", &back));
                    assert_memory_equal(back->weights, rounded->weights, rounded->weight_count * sizeof(float));
                    assert_memory_equal(back->state, rounded->state, rounded->state_count * sizeof(float));
                    kd_model_destroy(back);
                }
                kd_model_destroy(rounded);
                free(bytes);
            }
            kd_model_destroy(m);
            kd_close(c);
        }
    }
}

/* No flipped bit and no missing end goes unnoticed. */
static void test_damaged_files(void **state)
{
    static const unsigned char masks[] = {1, 4, 0x20, 0x80};
    static const char *const names[] = {"cat", "dog"};
    const float mean[1] = {0.5f}, std[1] = {0.25f};
    kd_model *m = create("1x3x3: conv 2 2, batchnorm, head: dense 2", 3), *back;
    unsigned char *bytes;
    uint64_t checksum;
    size_t size, i, j;
    int unharmed = 0;
    (void)state;
    assert_ok(kd, kd_model_set_classes(m, names, 2));
    assert_ok(kd, kd_model_set_preprocessing(m, mean, std));
    m->batches_seen = 1000;
    checksum = kd__model_checksum(m);
    assert_ok(kd, kd_model_save(m, "f"));
    kd_model_destroy(m);
    size = disk_find("f")->size;
    bytes = disk_find("f")->bytes;
    for (i = 0; i < size; ++i) {
        for (j = 0; j < sizeof masks; ++j) {
            bytes[i] ^= masks[j];
            if (kd_model_load(kd, "f", &back) == KD_OK) { /* "format", or blanks in the line, say nothing */
                if (kd__model_checksum(back) != checksum) fail_msg("byte %d, bit %d", (int)i, masks[j]);
                ++unharmed;
                kd_model_destroy(back);
            }
            bytes[i] ^= masks[j];
        }
    }
    assert_true(unharmed < 100);
    for (i = 0; i < size; ++i) {
        disk_find("f")->size = i;
        assert_int_equal(kd_model_load(kd, "f", &back), KD_ERR_FORMAT);
    }
    disk_find("f")->size = size;
    assert_ok(kd, kd_model_load(kd, "f", &back));
    kd_model_destroy(back);
}

/* ---- memory, and numbers of two bytes -------------------------------------------------------------------- */

/* The bytes are those of the file, wherever they lie; what is no file is refused as from a file. */
static void test_memory_round_trip(void **state)
{
    kd_model *m = create_full(), *back = NULL;
    unsigned char *bytes;
    size_t size = 0, i;
    (void)state;
    assert_ok(kd, kd_model_save(m, "m"));
    assert_ok(kd, kd_model_save_memory(m, KD_DTYPE_F32, NULL, 0, &size));
    assert_int_equal(size, disk_find("m")->size);
    bytes = (unsigned char *)malloc(size + 4);
    memset(bytes, 0x77, size + 4);
    assert_fails(kd, kd_model_save_memory(m, KD_DTYPE_F32, bytes + 1, size - 1, NULL), KD_ERR_ARGUMENT, "room for");
    for (i = 0; i < size + 4; ++i) assert_int_equal(bytes[i], 0x77);
    assert_ok(kd, kd_model_save_memory(m, KD_DTYPE_F32, bytes + 1, size, &i));
    assert_int_equal(i, size);
    assert_memory_equal(bytes + 1, disk_find("m")->bytes, size);
    assert_int_equal(bytes[0], 0x77);
    assert_int_equal(bytes[size + 1], 0x77);
    assert_ok(kd, kd_model_load_memory(kd, bytes + 1, size, &back));
    assert_true(kd__model_checksum(back) == kd__model_checksum(m));
    kd_model_destroy(back);
    for (i = 0; i < size; i += i < 2000 ? 1 : 97) {
        assert_int_equal(kd_model_load_memory(kd, bytes + 1, i, &back), KD_ERR_FORMAT);
        assert_null(back);
    }
    bytes[size] ^= 1;
    assert_fails(kd, kd_model_load_memory(kd, bytes + 1, size, &back), KD_ERR_FORMAT, "damaged");
    assert_fails(kd, kd_model_load_memory(kd, NULL, 8, &back), KD_ERR_ARGUMENT, "kd_model_load_memory: bytes");
    assert_fails(kd, kd_model_load_memory(kd, bytes, size, NULL), KD_ERR_ARGUMENT, "out");
    assert_fails(kd, kd_model_save_memory(m, KD_DTYPE_F32, NULL, 8, NULL), KD_ERR_ARGUMENT, "bytes");
    assert_int_equal(kd_model_load_memory(NULL, bytes, size, &back), KD_ERR_ARGUMENT);
    assert_int_equal(kd_model_save_memory(NULL, KD_DTYPE_F32, bytes, size, NULL), KD_ERR_ARGUMENT);
    free(bytes);
    kd_model_destroy(m);
}

/* While a model loads it takes no more than 4 KB beside what stays: the header of its file is in there, too. */
static void test_memory_while_loading(void **state)
{
    static const char *const lines[] = {
        "784: dense 100, relu, dense 100, relu, dense 10",
        "1x28x28: conv 8 3 pad=1, batchnorm, relu, maxpool 2, conv 16 3 pad=1, batchnorm, relu, maxpool 2, "
        "conv 32 3 pad=1, batchnorm, relu, maxpool 2, dense 10"};
    const kd_dtype types[] = {KD_DTYPE_F32, KD_DTYPE_F16};
    int line, type, way;
    (void)state;
    for (line = 0; line < KD__COUNT(lines); ++line) {
        kd_model *m = create(lines[line], 1), *back;
        for (type = 0; type < KD__COUNT(types); ++type) {
            assert_ok(kd, kd_model_save_as(m, "m", types[type]));
            for (way = 0; way < 2; ++way) {
                memory.peak = memory.bytes;
                if (way)
                    assert_ok(kd, kd_model_load_memory(kd, disk_find("m")->bytes, disk_find("m")->size, &back));
                else
                    assert_ok(kd, kd_model_load(kd, "m", &back));
                if (memory.peak > memory.bytes + 4096)
                    fail_msg("%s: %zu bytes at most, %zu stay", lines[line], memory.peak, memory.bytes);
                kd_model_destroy(back);
            }
        }
        kd_model_destroy(m);
    }
}

/* Every way in which weights are used, and some that are copied whatever is asked. */
static const char *const left_lines[] = {
    "1x12x12: conv 8 3 pad=1, batchnorm, relu, maxpool 2, conv 16 3 pad=1, batchnorm, relu, conv 37 3, relu, "
    "dense 5",
    "3x9x10: conv 12 3x5 stride=2 pad=1 bias=0, relu, depthwise 3 pad=1, conv 24 3 groups=3 pad=1, leakyrelu 0.1, "
    "conv 20 1, gap, dense 3",
    "70: dense 67, batchnorm, relu, dense 10, softtree 2 4",
    "3x8x8: patch 4 16, classtoken, position, prompttokens 3, sidetokens 2 3, encoder 2 2, layernorm, token 0, "
    "linear 4",
    "2x6x6: quant, conv 6 3 pad=1, relu, quant, dense 3",
    "5: batchnorm, prompt 2"};

/* Weights that stay where they are give the same bits as those that are copied, and models that are the same in all
   that can be asked of them; what would change them is refused. */
static void test_in_place(void **state)
{
    enum { SAMPLES = 9, MOST = 300, ROOM = 8192 }; /* ROOM: for any tensor */
    const kd_dtype types[] = {KD_DTYPE_F32, KD_DTYPE_F16, KD_DTYPE_BF16};
    static float logits[ROOM], want[ROOM];
    float *x = test_floats(4, SAMPLES * MOST, 1);
    kd_attack_desc attack = kd_attack_defaults(KD_ATTACK_FGSM);
    kd_train_desc d = kd_train_defaults();
    int32_t labels[SAMPLES] = {0};
    int i, type, isa, runs = 0;
    (void)state;
    for (isa = KD_ISA_SCALAR; isa < KD_ISA_COUNT; ++isa) {
        if (!kd_isa_available((kd_isa)isa)) continue;
        for (i = 0; i < KD__COUNT(left_lines); ++i) {
            kd_ctx *c = test_open((kd_isa)isa, 1 + i % 2);
            kd_model *m, *copied, *left, *clone, *damaged;
            const char *first;
            assert_ok(c, kd_model_create(c, left_lines[i], 7, &m));
            first = m->params[0].name;
            for (type = 0; type < 3; ++type) {
                const size_t outputs = (size_t)kd_model_outputs(m);
                unsigned char *bytes, *whole;
                size_t size, n;
                assert_ok(c, kd_model_save_memory(m, types[type], NULL, 0, &size));
                bytes = (unsigned char *)malloc(size + 1);
                whole = (unsigned char *)malloc(size);
                assert_ok(c, kd_model_save_memory(m, types[type], bytes + 1, size, NULL));
                assert_ok(c, kd_model_load_memory(c, bytes + 1, size, &copied));
                assert_ok(c, kd_model_load_in_place(c, bytes + 1, size, &left));
                assert_int_equal(left->weight_count < copied->weight_count, i < 4);
                for (n = 1; n <= SAMPLES; n += 4) {
                    assert_ok(c, kd_predict(copied, x, (int)n, want));
                    assert_ok(c, kd_predict(left, x, (int)n, logits));
                    assert_memory_equal(logits, want, n * outputs * sizeof *want);
                }
                assert_true(kd_model_hash(left) == kd_model_hash(copied));
                assert_ok(c, kd_model_save_memory(left, types[type], whole, size, NULL));
                assert_memory_equal(whole, bytes + 1, size);
                assert_ok(c, kd_model_get_tensor(left, first, logits, kd__param_count(&left->params[0])));
                assert_ok(c, kd_model_get_tensor(copied, first, want, kd__param_count(&left->params[0])));
                assert_memory_equal(logits, want, (size_t)kd__param_count(&left->params[0]) * sizeof *want);
                assert_ok(c, kd_model_clone(left, &clone));
                if (i < 4) {
                    kd_data data = kd_data_f32(x, labels, SAMPLES, left->values[0].shape.c, left->values[0].shape.h,
                                               left->values[0].shape.w, (int)outputs);
                    d.epochs = 1;
                    assert_fails(c, kd_train(left, &data, &d), KD_ERR_UNSUPPORTED, "a clone of it");
                    assert_fails(c, kd_attack(left, NULL, x, labels, 1, &attack, logits), KD_ERR_UNSUPPORTED,
                                 "kd_model_load_in_place");
                    assert_fails(c, kd_model_set_tensor(left, first, want, kd__param_count(&left->params[0])),
                                 KD_ERR_UNSUPPORTED, "kd_model_set_tensor");
                    assert_fails(c, kd_model_load_weights(left, "m"), KD_ERR_UNSUPPORTED, "kd_model_load_weights");
                    assert_ok(c, kd_train(clone, &data, &d));
                }
                bytes[size] ^= 1;
                assert_int_not_equal(kd_model_load_in_place(c, bytes + 1, size, &damaged), KD_OK);
                assert_null(damaged);
                kd_model_destroy(clone);
                kd_model_destroy(left);
                kd_model_destroy(copied);
                free(bytes);
                free(whole);
                ++runs;
            }
            kd_model_destroy(m);
            kd_close(c);
        }
    }
    assert_true(runs > 0);
    free(x);
}

/* What stays in the file takes no memory: not while it loads, and afterwards a panel at a time in the workspace. */
static void test_memory_in_place(void **state)
{
    kd_model *m = create("784: dense 100, relu, dense 100, relu, dense 10", 1), *back;
    kd_workspace *w;
    size_t copied, before = memory.bytes;
    const char *path = "m";
    (void)state;
    assert_ok(kd, kd_model_workspace_bytes(m, 1, &copied));
    assert_ok(kd, kd_model_save(m, path));
    before = memory.peak = memory.bytes;
    assert_ok(kd, kd_model_load_in_place(kd, disk_find(path)->bytes, disk_find(path)->size, &back));
    if (memory.peak - before > 16384) fail_msg("%zu bytes while loading", memory.peak - before);
    before = memory.bytes;
    assert_ok(kd, kd_workspace_create(back, 1, &w));
    if (memory.bytes - before > copied + (KD__FENCE ? 2 : 1) * 784 * (size_t)kd->k->panel * 4 + 1024)
        fail_msg("a workspace of %zu bytes, %zu with copied weights", memory.bytes - before, copied);
    kd_workspace_destroy(w);
    kd_model_destroy(back);
    kd_model_destroy(m);
}

/* Every half there is comes through, and what is between two goes to the nearer, halves to the even one. */
static void test_halves(void **state)
{
    uint32_t h;
    (void)state;
    for (h = 0; h < 0x7c00; ++h) {
        const float at = kd__half_to_float(h), next = h < 0x7bff ? kd__half_to_float(h + 1) : 65536;
        const float middle = (at + next) / 2;
        assert_int_equal(kd__float_to_half(at), h);
        assert_int_equal(kd__float_to_half(-at), h | 0x8000u);
        assert_int_equal(kd__float_to_half(middle), h + (h & 1));
        assert_int_equal(kd__float_to_half(nextafterf(middle, 0)), h);
        assert_int_equal(kd__float_to_half(nextafterf(middle, INFINITY)), h + 1);
    }
    assert_int_equal(kd__float_to_half(INFINITY), 0x7c00);
    assert_int_equal(kd__float_to_half(3e38f), 0x7c00);
    assert_true(kd__round_to(KD_DTYPE_BF16, kd__bits_float(0x3f808000u)) == 1.0f);
    assert_true(kd__round_to(KD_DTYPE_BF16, kd__bits_float(0x3f818000u)) == kd__bits_float(0x3f820000u));
    assert_true(kd__round_to(KD_DTYPE_BF16, kd__bits_float(0x3f808001u)) == kd__bits_float(0x3f810000u));
}

/* Half of the bytes, every weight the nearest there is, statistics as they were; saved again it stays as it is. */
static void test_save_as(void **state)
{
    static const kd_dtype dtypes[] = {KD_DTYPE_F16, KD_DTYPE_BF16};
    kd_model *m = create_full(), *back, *again;
    size_t full, i, j;
    (void)state;
    assert_ok(kd, kd_model_save_as(m, "m", KD_DTYPE_F32));
    full = disk_find("m")->size;
    for (i = 0; i < 2; ++i) {
        assert_ok(kd, kd_model_save_as(m, "half", dtypes[i]));
        assert_true(disk_find("half")->size < full - (size_t)kd_model_parameters(m) * 2 + 64);
        assert_ok(kd, kd_model_load(kd, "half", &back));
        assert_true(kd_model_hash(back) != kd_model_hash(m));
        for (j = 0; j < m->weight_count; ++j)
            assert_true(back->weights[j] == kd__round_to(dtypes[i], m->weights[j]));
        assert_memory_equal(back->state, m->state, m->state_count * sizeof(float));
        assert_int_equal(back->batches_seen, m->batches_seen);
        assert_ok(kd, kd_model_save_as(back, "again", dtypes[i]));
        assert_ok(kd, kd_model_load(kd, "again", &again));
        assert_true(kd__model_checksum(again) == kd__model_checksum(back));
        kd_model_destroy(back);
        kd_model_destroy(again);
    }
    m->weights[0] = 65519;
    assert_ok(kd, kd_model_save_as(m, "half", KD_DTYPE_F16));
    m->weights[0] = 65520;
    assert_fails(kd, kd_model_save_as(m, "half", KD_DTYPE_F16), KD_ERR_NOT_FINITE, "65504");
    assert_ok(kd, kd_model_save_as(m, "half", KD_DTYPE_BF16));
    m->weights[0] = INFINITY;
    assert_fails(kd, kd_model_save_as(m, "half", KD_DTYPE_BF16), KD_ERR_NOT_FINITE, "NaN or an infinity");
    assert_fails(kd, kd_model_save_as(m, "half", (kd_dtype)3), KD_ERR_ARGUMENT, "kd_dtype 3");
    assert_int_equal(kd_model_save_as(NULL, "half", KD_DTYPE_F16), KD_ERR_ARGUMENT);
    kd_model_destroy(m);
}

/* ---- weights alone --------------------------------------------------------------------------------------- */

/* Another library's file: other number types, any order, and nothing where alignment would put it. */
#define TORCH_MEAN TENSOR("1.running_mean", "F32", "[2]", "[0,8]")
#define TORCH_VAR TENSOR("1.running_var", "F64", "[2]", "[8,24]")
#define TORCH_WEIGHT TENSOR("0.weight", "F16", "[2,3]", "[24,36]")
#define TORCH_BIAS TENSOR("0.bias", "BF16", "[2]", "[36,40]")
#define TORCH_NORM TENSOR("1.weight", "F32", "[2]", "[40,48]") "," TENSOR("1.bias", "F32", "[2]", "[48,56]")
#define TORCH_BATCHES TENSOR("1.num_batches_tracked", "I64", "[]", "[56,64]")
#define TORCH(var)                                                                                                 \
    "{" TORCH_BATCHES "," TORCH_NORM "," TORCH_BIAS ",\"__metadata__\":{\"format\":\"pt\"}," TORCH_WEIGHT "," var  \
    "," TORCH_MEAN "}   "

static const unsigned char torch_data[64] = {
    0,    0,    0,    0x3f, 0, 0, 0x80, 0xbf,                                           /* 0.5, -1 */
    0,    0,    0,    0,    0, 0, 0xe0, 0x3f, 0,    0,    0,    0,    0, 0, 0x10, 0x40, /* 0.5, 4 as doubles */
    0,    0x3c, 0,    0xc0, 1, 0, 0,    4,    0xff, 0x7b, 0,    0x80, /* halves: 1, -2, 2^-24, 2^-14, 65504, -0 */
    0x80, 0x3f, 0x49, 0xc0,                                           /* upper halves of floats: 1, -3.140625 */
    0,    0,    0x40, 0x40, 0, 0, 0x80, 0x40, 0,    0,    0xa0, 0x40, 0, 0, 0xc0, 0x40, 42, 0, 0, 0, 0, 0, 0, 0};

static void test_load_weights(void **state)
{
    static const float weight[6] = {1, -2, 1 / 16777216.0f, 1 / 16384.0f, 65504, -0.0f}, bias[2] = {1, -3.140625f};
    static const float norm[4][2] = {{3, 4}, {5, 6}, {0.5f, -1}, {0.5f, 4}};
    static const char *const names[4] = {"1.weight", "1.bias", "1.running_mean", "1.running_var"};
    static const char *const classes[2] = {"a", "b"};
    kd_model *m = create("3: dense 2, batchnorm", 1);
    float got[6];
    int i;
    (void)state;
    assert_ok(kd, kd_model_set_classes(m, classes, 2));
    put_file(TORCH(TORCH_VAR), strlen(TORCH(TORCH_VAR)), torch_data, 64);
    assert_ok(kd, kd_model_load_weights(m, "f"));
    assert_ok(kd, kd_model_get_tensor(m, "0.weight", got, 6));
    assert_memory_equal(got, weight, sizeof weight);
    assert_ok(kd, kd_model_get_tensor(m, "0.bias", got, 2));
    assert_memory_equal(got, bias, sizeof bias);
    for (i = 0; i < 4; ++i) {
        assert_ok(kd, kd_model_get_tensor(m, names[i], got, 2));
        assert_memory_equal(got, norm[i], sizeof norm[i]);
    }
    assert_int_equal(m->batches_seen, 42);
    assert_string_equal(kd_model_class(m, 1), "b"); /* what the file says nothing about stays */
    kd_model_destroy(m);
    /* weights of a saved model: its line, even another one, does not matter */
    m = create("2: dense 1", 5);
    put_file(GOOD, strlen(GOOD), plain_numbers, 12);
    assert_ok(kd, kd_model_load_weights(m, "f"));
    assert_ok(kd, kd_model_get_tensor(m, "0.weight", got, 2));
    assert_memory_equal(got, plain_numbers + 1, 8);
    kd_model_destroy(m);
}

/* A count of batches that .float() has gone over. */
static void test_float_batches(void **state)
{
    static const char header[] = "{" NORM "," TENSOR("0.num_batches_tracked", "F32", "[]", "[16,20]") "}";
    static const struct {
        float count;
        int64_t wanted; /* -1: refused */
    } cases[] = {{0, 0},      {42, 42},  {16777216, 16777216}, {41.5f, -1}, {-1, -1},
                 {1e18f, -1}, {NAN, -1}, {INFINITY, -1}};
    size_t i;
    (void)state;
    for (i = 0; i < sizeof cases / sizeof *cases; ++i) {
        kd_model *m = create("1: batchnorm", 1);
        unsigned char data[20] = {0, 0, 0x80, 0x3f, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x80, 0x3f};
        const uint32_t bits = kd__float_bits(cases[i].count);
        int b;
        for (b = 0; b < 4; ++b) data[16 + b] = (unsigned char)(bits >> (8 * b));
        put_file(header, strlen(header), data, sizeof data);
        if (cases[i].wanted < 0)
            assert_fails(kd, kd_model_load_weights(m, "f"), KD_ERR_FORMAT,
                         "tensor \"0.num_batches_tracked\" of \"f\" must be one whole number");
        else
            assert_ok(kd, kd_model_load_weights(m, "f"));
        assert_int_equal(m->batches_seen, KD__MAX(cases[i].wanted, 0));
        kd_model_destroy(m);
    }
}

/* Of a file that kd_model_save wrote a flipped bit is found, whichever way it is read. */
static void test_load_weights_damaged(void **state)
{
    kd_model *m = create("3: dense 2, batchnorm", 3), *other = create("3: dense 2, batchnorm, relu", 4);
    const uint64_t before = kd_model_hash(other);
    float got[6], wanted[6];
    (void)state;
    assert_ok(kd, kd_model_save(m, "f"));
    assert_ok(kd, kd_model_load_weights(other, "f"));
    assert_ok(kd, kd_model_get_tensor(m, "0.weight", wanted, 6));
    assert_ok(kd, kd_model_get_tensor(other, "0.weight", got, 6));
    assert_memory_equal(got, wanted, sizeof wanted);
    kd_model_destroy(other);
    other = create("3: dense 2, batchnorm, relu", 4);
    disk_find("f")->bytes[disk_find("f")->size - 70] ^= 1;
    assert_fails(kd, kd_model_load_weights(other, "f"), KD_ERR_FORMAT,
                 "kd_model_load_weights: \"f\" is damaged: its contents do not match its checksum");
    assert_true(kd_model_hash(other) == before);
    kd_model_destroy(other);
    kd_model_destroy(m);
}

static void test_load_weights_failures(void **state)
{
    kd_model *m = create("3: dense 2, batchnorm", 1), *other = create("3: dense 2, batchnorm, dense 1", 1);
    const uint64_t hash = kd_model_hash(m);
    unsigned char data[64];
    int blocks = memory.blocks;
    (void)state;
    put_file(TORCH(TORCH_VAR), strlen(TORCH(TORCH_VAR)), torch_data, 64);
    assert_fails(kd, kd_model_load_weights(other, "f"), KD_ERR_FORMAT,
                 "kd_model_load_weights: \"f\" has no tensor \"2.weight\"");
    kd_model_destroy(other);
    other = create("3: features.0: dense 2, features.1: batchnorm", 1);
    assert_fails(kd, kd_model_load_weights(other, "f"), KD_ERR_FORMAT,
                 "\"f\" has no tensor \"features.0.weight\", but a \"0.bias\" that the model does not have");
    kd_model_destroy(other);
    other = create("3: dense 2", 1);
    assert_fails(kd, kd_model_load_weights(other, "f"), KD_ERR_FORMAT,
                 "\"f\" has a tensor \"1.bias\" that the model does not have");
    kd_model_destroy(other);
    other = create("4: dense 2, batchnorm", 1);
    assert_fails(kd, kd_model_load_weights(other, "f"), KD_ERR_SHAPE,
                 "\"0.weight\" of \"f\" is (2, 3), but the model's is (2, 4)");
    kd_model_destroy(other);
    blocks = memory.blocks;
    memcpy(data, torch_data, sizeof data);
    data[33] = 0x7c; /* the fifth half becomes a NaN */
    put_file(TORCH(TORCH_VAR), strlen(TORCH(TORCH_VAR)), data, 64);
    assert_fails(kd, kd_model_load_weights(m, "f"), KD_ERR_NOT_FINITE, "\"0.weight\" of \"f\" holds a NaN");
    memcpy(data, torch_data, sizeof data);
    data[23] = 0x7e; /* 1e300 is no float */
    put_file(TORCH(TORCH_VAR), strlen(TORCH(TORCH_VAR)), data, 64);
    assert_fails(kd, kd_model_load_weights(m, "f"), KD_ERR_NOT_FINITE, "\"1.running_var\" of \"f\" holds a NaN");
    memcpy(data, torch_data, sizeof data);
    data[23] |= 0x80; /* the second becomes negative */
    put_file(TORCH(TORCH_VAR), strlen(TORCH(TORCH_VAR)), data, 64);
    assert_fails(kd, kd_model_load_weights(m, "f"), KD_ERR_FORMAT,
                 "tensor \"1.running_var\" of \"f\" holds a negative variance");
#define INTEGERS TENSOR("1.running_var", "I64", "[2]", "[8,24]")
    put_file(TORCH(INTEGERS), strlen(TORCH(INTEGERS)), torch_data, 64);
    assert_fails(kd, kd_model_load_weights(m, "f"), KD_ERR_FORMAT,
                 "\"1.running_var\" of \"f\" holds whole numbers");
    assert_fails(kd, kd_model_load_weights(m, "nowhere"), KD_ERR_IO, "cannot open \"nowhere\"");
    assert_int_equal(kd_model_load_weights(NULL, "f"), KD_ERR_ARGUMENT);
    assert_true(kd_model_hash(m) == hash);
    assert_int_equal(m->batches_seen, 0);
    assert_int_equal(memory.blocks, blocks);
    kd_model_destroy(m);
}

/* ---- PyTorch's names -------------------------------------------------------------------------------------- */

enum { MOST_TENSORS = 320, MOST_CHANGES = 18 };

/* A safetensors file in the making. Every `from` in a name becomes the `to` beside it. */
typedef struct torch_file {
    const char *prefix, *changes[MOST_CHANGES][2];
    char names[MOST_TENSORS][64];
    kd__st_entry entries[MOST_TENSORS];
    int count, change_count;
} torch_file;

static void torch_change(torch_file *t, const char *from, const char *to)
{
    t->changes[t->change_count][0] = from;
    t->changes[t->change_count++][1] = to;
}

static void torch_add(torch_file *t, const char *layer, const char *leaf, int rank, const int *shape)
{
    kd__st_entry *e = &t->entries[t->count];
    char *name = t->names[t->count++];
    int i;
    snprintf(name, sizeof t->names[0], "%s%s.%s", t->prefix ? t->prefix : "", layer, leaf);
    for (i = 0; i < t->change_count; ++i) {
        char *at = strstr(name, t->changes[i][0]), rest[64];
        if (!at) continue;
        strcpy(rest, at + strlen(t->changes[i][0]));
        strcpy(at, t->changes[i][1]);
        strcat(at, rest);
    }
    memset(e, 0, sizeof *e);
    e->name = name;
    e->given = name;
    e->kind = rank ? KD__FLOAT : KD__SIGNED;
    e->size = rank ? 4 : 8;
    e->rank = rank;
    e->count = 1;
    for (i = 0; i < rank; ++i) e->shape[i] = shape[i], e->count *= shape[i];
}

static void torch_add_all(torch_file *t, const torch_layer *layers, int count)
{
    static const char *const of_norm[4] = {"weight", "bias", "running_mean", "running_var"};
    int i, j;
    for (i = 0; i < count; ++i) {
        const torch_layer *l = &layers[i];
        for (j = 0; j < (l->rank == 1 ? 4 : 1 + l->bias); ++j)
            torch_add(t, l->name, of_norm[j], j ? 1 : l->rank, l->shape);
        if (l->rank == 1) torch_add(t, l->name, "num_batches_tracked", 0, NULL);
    }
}

/* As file "f", with values in the order in which tensors were added. */
static void torch_put(const torch_file *t, const float *values)
{
    static char header[MOST_TENSORS * 160];
    static unsigned char data[1 << 16];
    size_t bytes = 0, at = 1, k;
    int i, j;
    strcpy(header, "{");
    for (i = 0; i < t->count; ++i) {
        const kd__st_entry *e = &t->entries[i];
        at += (size_t)sprintf(header + at, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[", i ? "," : "", e->name,
                              e->rank ? "F32" : "I64");
        for (j = 0; j < e->rank; ++j) at += (size_t)sprintf(header + at, "%s%d", j ? "," : "", (int)e->shape[j]);
        at += (size_t)sprintf(header + at, "],\"data_offsets\":[%d,%d]}", (int)bytes,
                              (int)(bytes + (size_t)e->count * (size_t)e->size));
        for (k = 0; k < (size_t)e->count; ++k, bytes += (size_t)e->size)
            kd__store_le(data + bytes, e->rank ? kd__float_bits(*values++) : 5, e->size);
    }
    strcat(header, "}");
    put_file(header, strlen(header), data, bytes);
}

static torch_file *torch_small(torch_file *t)
{
    torch_add_all(t, small_layers, KD__COUNT(small_layers));
    return t;
}

#define TORCH_BASIC(channels, stride)                                                                              \
    "residual(conv " channels " 3 stride=" stride " pad=1 bias=0, batchnorm, relu, conv " channels                 \
    " 3 pad=1 bias=0, batchnorm), relu, "
#define TORCH_BOTTLENECK(channels, stride, wide)                                                                   \
    "residual(conv " channels " 1 bias=0, batchnorm, relu, conv " channels " 3 stride=" stride                     \
    " pad=1 bias=0, batchnorm, relu, conv " wide " 1 bias=0, batchnorm), relu, "
#define TORCH_X(channels, stride, groups)                                                                          \
    "residual(conv " channels " 1 bias=0, batchnorm, relu, conv " channels " 3 stride=" stride                     \
    " pad=1 groups=" groups " bias=0, batchnorm, relu, conv " channels " 1 bias=0, batchnorm), relu, "
#define TORCH_VGG(channels) "conv " channels " 3 pad=1, batchnorm, relu, "
#define SMALL_STEM "3x9x7: conv 4 3 pad=1 bias=0, batchnorm, relu, "
#define SMALL_BODY TORCH_BASIC("4", "1") TORCH_BASIC("6", "2") TORCH_BOTTLENECK("2", "2", "8") "gap, "
#define SMALL_LINE SMALL_STEM SMALL_BODY "dense 3"

/* Weights of a small residual network give PyTorch's logits, whatever of the usual names its layers have. */
static void test_torch_values(void **state)
{
    static const struct {
        const char *prefix, *changes[MOST_CHANGES][2];
    } cases[] = {{"", {{NULL, NULL}}},
                 {"module.", {{NULL, NULL}}},
                 {"_orig_mod.student.", {{NULL, NULL}}},
                 {"", {{".downsample.", ".shortcut."}, {"fc", "linear"}}}, /* kuangliu */
                 {"model.", {{"layer3", "stages3"}, {"layer2", "stages2"}, {"layer1", "stages1"}}},
                 {"resnet.encoder.", {{"downsample.0", "skip.conv"}, {"downsample.1", "skip.bn"}}},
                 {"", /* weiaicunzai */
                  {{"layer1.0.conv1", "conv2_x.0.residual_function.0"},
                   {"layer1.0.bn1", "conv2_x.0.residual_function.1"},
                   {"layer1.0.conv2", "conv2_x.0.residual_function.3"},
                   {"layer1.0.bn2", "conv2_x.0.residual_function.4"},
                   {"layer2.0.conv1", "conv3_x.0.residual_function.0"},
                   {"layer2.0.bn1", "conv3_x.0.residual_function.1"},
                   {"layer2.0.conv2", "conv3_x.0.residual_function.3"},
                   {"layer2.0.bn2", "conv3_x.0.residual_function.4"},
                   {"layer3.0.conv1", "conv4_x.0.residual_function.0"},
                   {"layer3.0.bn1", "conv4_x.0.residual_function.1"},
                   {"layer3.0.conv2", "conv4_x.0.residual_function.3"},
                   {"layer3.0.bn2", "conv4_x.0.residual_function.4"},
                   {"layer3.0.conv3", "conv4_x.0.residual_function.6"},
                   {"layer3.0.bn3", "conv4_x.0.residual_function.7"},
                   {"layer2.0.downsample", "conv3_x.0.shortcut"},
                   {"layer3.0.downsample", "conv4_x.0.shortcut"},
                   {"conv1.", "conv1.0."},
                   {"bn1.", "conv1.1."}}}};
    float logits[6];
    size_t i, j;
    int c;
    (void)state;
    kd->desc.log = log_keep;
    for (i = 0; i < sizeof cases / sizeof *cases; ++i) {
        torch_file *t = (torch_file *)calloc(1, sizeof *t);
        kd_model *m = create(SMALL_LINE, 1);
        t->prefix = cases[i].prefix;
        for (j = 0; j < MOST_CHANGES && cases[i].changes[j][0]; ++j)
            torch_change(t, cases[i].changes[j][0], cases[i].changes[j][1]);
        torch_put(torch_small(t), small_values);
        kept_count = 0;
        assert_ok(kd, kd_model_load_weights(m, "f"));
        assert_int_equal(kept_count, 1);
        assert_int_equal(m->batches_seen, 5);
        assert_ok(kd, kd_predict(m, small_inputs, 2, logits));
        for (c = 0; c < 6; ++c) assert_float_equal(logits[c], small_logits[c], 1e-5);
        kd_model_destroy(m);
        free(t);
    }
    assert_string_equal(kept_lines[0], "kd_model_load_weights: the layers of \"f\" are taken in the order of their "
                                       "names, from \"conv1.0.weight\" to \"fc.weight\"");
    kd->desc.log = NULL;
}

/* A prefix that all names share is left out, and said to be; one that the model's names have, too, is not. */
static void test_torch_prefix(void **state)
{
    static const int shape[2] = {2, 1};
    static const float values[4] = {1, 2, 3, 4};
    static const char *const prefixes[] = {"module.", "_orig_mod.", "a.b.c.d.e.f.g."};
    char wanted[128];
    size_t i;
    (void)state;
    kd->desc.log = log_keep;
    for (i = 0; i < 4; ++i) {
        torch_file *t = (torch_file *)calloc(1, sizeof *t);
        kd_model *m = create(i < 3 ? "1: 7: dense 2" : "1: module.7: dense 2", 1);
        float got[2];
        t->prefix = i < 3 ? prefixes[i] : "module.";
        torch_add(t, "7", "weight", 2, shape);
        torch_add(t, "7", "bias", 1, shape);
        torch_put(t, values);
        kept_count = 0;
        assert_ok(kd, kd_model_load_weights(m, "f"));
        assert_int_equal(kept_count, i < 3);
        snprintf(wanted, sizeof wanted,
                 "kd_model_load_weights: all names of \"f\" begin with \"%s\", which is left out", t->prefix);
        if (i < 3) assert_string_equal(kept_lines[0], wanted);
        assert_ok(kd, kd_model_get_tensor(m, i < 3 ? "7.weight" : "module.7.weight", got, 2));
        assert_true(got[0] == 1 && got[1] == 2);
        kd_model_destroy(m);
        free(t);
    }
    kd->desc.log = NULL;
}

/* Networks as they are, name by name and shape by shape. */
static void test_torch_networks(void **state)
{
#define ROWS(of) of, KD__COUNT(of)
    static const struct {
        const torch_layer *layers;
        int count;
        const char *line;
    } cases[] = {
        {ROWS(torchvision_resnet18),
         "3x224x224: conv 64 7 stride=2 pad=3 bias=0, batchnorm, relu, maxpool 3 stride=2 pad=1, " TORCH_BASIC("64",
                                                                                                               "1")
             TORCH_BASIC("64", "1") TORCH_BASIC("128", "2") TORCH_BASIC("128", "1") TORCH_BASIC("256", "2")
                 TORCH_BASIC("256", "1") TORCH_BASIC("512", "2") TORCH_BASIC("512", "1") "gap, dense 1000"},
        {ROWS(repdistiller_resnet18),
         "3x32x32: conv 64 7 pad=3 bias=0, batchnorm, relu, " TORCH_BASIC("64", "1") TORCH_BASIC("64", "1")
             TORCH_BASIC("128", "2") TORCH_BASIC("128", "1") TORCH_BASIC("256", "2") TORCH_BASIC("256", "1")
                 TORCH_BASIC("512", "2") TORCH_BASIC("512", "1") "gap, dense 1000"},
        {ROWS(mdistiller_resnet20),
         "3x32x32: conv 16 3 pad=1 bias=0, batchnorm, relu, " TORCH_BASIC("16", "1") TORCH_BASIC("16", "1")
             TORCH_BASIC("16", "1") TORCH_BASIC("32", "2") TORCH_BASIC("32", "1") TORCH_BASIC("32", "1")
                 TORCH_BASIC("64", "2") TORCH_BASIC("64", "1") TORCH_BASIC("64", "1") "gap, dense 100"},
        {ROWS(timm_resnet26),
         "3x224x224: conv 64 7 stride=2 pad=3 bias=0, batchnorm, relu, maxpool 3 stride=2 pad=1, " TORCH_BOTTLENECK(
             "64", "1", "256") TORCH_BOTTLENECK("64", "1", "256") TORCH_BOTTLENECK("128", "2", "512")
             TORCH_BOTTLENECK("128", "1", "512") TORCH_BOTTLENECK("256", "2", "1024")
                 TORCH_BOTTLENECK("256", "1", "1024") TORCH_BOTTLENECK("512", "2", "2048")
                     TORCH_BOTTLENECK("512", "1", "2048") "gap, dense 1000"},
        {ROWS(timm_regnetx_002),
         "3x224x224: conv 32 3 stride=2 pad=1 bias=0, batchnorm, relu, " TORCH_X("24", "2", "3")
             TORCH_X("56", "2", "7") TORCH_X("152", "2", "19") TORCH_X("152", "1", "19") TORCH_X("152", "1", "19")
                 TORCH_X("152", "1", "19") TORCH_X("368", "2", "46") TORCH_X("368", "1", "46")
                     TORCH_X("368", "1", "46") TORCH_X("368", "1", "46") TORCH_X("368", "1", "46")
                         TORCH_X("368", "1", "46") TORCH_X("368", "1", "46") "gap, dense 1000"},
        {ROWS(torchvision_vgg11_bn),
         "3x224x224: " TORCH_VGG("64") "maxpool 2, " TORCH_VGG("128") "maxpool 2, " TORCH_VGG("256")
             TORCH_VGG("256") "maxpool 2, " TORCH_VGG("512") TORCH_VGG("512") "maxpool 2, " TORCH_VGG("512")
                 TORCH_VGG("512") "maxpool 2, dense 4096, relu, dropout 0.5, dense 4096, relu, dropout 0.5, "
                                  "dense 1000"}};
#undef ROWS
    size_t i;
    int j;
    (void)state;
    for (i = 0; i < sizeof cases / sizeof *cases; ++i) {
        torch_file *t = (torch_file *)calloc(1, sizeof *t);
        kd_model *m;
        kd__st_file f;
        torch_add_all(t, cases[i].layers, cases[i].count);
        memset(&f, 0, sizeof f);
        f.kd = kd, f.where = "test", f.path = "f";
        f.entries = t->entries, f.entry_count = t->count;
        qsort(f.entries, (size_t)f.entry_count, sizeof *f.entries, kd__st_by_name);
        assert_ok(kd, kd__model_plan(kd, cases[i].line, &m)); /* without 11 million weights */
        assert_ok(kd, kd__st_adopt(&f, m));
        for (j = 0; j < m->param_count; ++j) {
            const kd__st_entry *e = kd__st_find(&f, m->params[j].name);
            assert_non_null(e);
            assert_int_equal(e->rank, m->params[j].rank);
            assert_memory_equal(e->shape, m->params[j].shape, (size_t)e->rank * sizeof *e->shape);
        }
        for (j = 0; j < f.entry_count; ++j) assert_true(kd__model_has_tensor(m, f.entries[j].name));
        kd__free(kd, f.adopted);
        kd_model_destroy(m);
        free(t);
    }
}

/* What cannot be this model's is told by the file's names and the model's, with both shapes, and changes
   nothing. */
static void test_torch_failures(void **state)
{
    static const struct {
        const char *changes[MOST_CHANGES][2], *line;
        kd_result result;
        const char *wanted;
    } cases[] = {
        {{{NULL, NULL}}, /* another width */
         "3x9x7: conv 5 3 pad=1 bias=0, batchnorm, relu, " SMALL_BODY "dense 3",
         KD_ERR_SHAPE,
         "tensor \"conv1.weight\" of \"f\" is (4, 3, 3, 3), but the model's \"0.weight\" is (5, 3, 3, 3)"},
        {{{NULL, NULL}}, /* no projection where the file has one */
         SMALL_STEM TORCH_BASIC("4", "1") TORCH_BASIC("4", "1") TORCH_BOTTLENECK("2", "2", "8") "gap, dense 3",
         KD_ERR_SHAPE,
         "tensor \"layer2.0.conv1.weight\" of \"f\" is (6, 4, 3, 3), but the model's \"5.body.0.weight\" is (4, 4, "
         "3, "
         "3)"},
        {{{".downsample.", ".layer9."}},
         SMALL_LINE,
         KD_ERR_SHAPE,
         "tensor \"layer2.0.layer9.0.weight\" (6, 4, 1, 1) of \"f\" would be the model's \"5.shortcut.0.weight\" "
         "(6, "
         "4, 1, 1), but only one of them is on a shortcut"},
        {{{NULL, NULL}}, /* a block is missing */
         SMALL_STEM TORCH_BASIC("4", "1") TORCH_BASIC("6", "2") "gap, dense 3",
         KD_ERR_FORMAT,
         "\"f\" has more convolutions than the model: \"layer3.0.conv1.weight\" (2, 6, 1, 1) is left over"},
        {{{NULL, NULL}}, /* one too many */
         SMALL_STEM SMALL_BODY "dense 3, relu, dense 3",
         KD_ERR_FORMAT,
         "\"f\" has fewer dense layers than the model: \"13.weight\" (3, 3) is left over"},
        {{{NULL, NULL}},
         "3x9x7: conv 4 3 pad=1, batchnorm, relu, " SMALL_BODY "dense 3",
         KD_ERR_FORMAT,
         "\"f\" has no \"conv1.bias\", which would be the model's \"0.bias\" (4); a layer without it has bias=0"},
        {{{NULL, NULL}},
         SMALL_STEM SMALL_BODY "dense 3 bias=0",
         KD_ERR_FORMAT,
         "\"f\" has a tensor \"fc.bias\" (3) that the model does not have"},
        {{{"bn1.running_var", "bn1.running_mad"}},
         SMALL_LINE,
         KD_ERR_FORMAT,
         "\"f\" has no \"bn1.running_var\", which would be the model's \"1.running_var\" (4)"},
        {{{"layer1.", "block1."}},
         SMALL_LINE,
         KD_ERR_FORMAT,
         "nothing in the names \"block1.0.conv2.weight\" (4, 4, 3, 3) and \"layer2.0.conv1.weight\" (6, 4, 3, 3) "
         "of "
         "\"f\" says which comes first"},
        {{{"layer1.0.conv2", "layer1.0.conv01"}},
         SMALL_LINE,
         KD_ERR_FORMAT,
         "nothing in the names \"layer1.0.conv01.weight\" (4, 4, 3, 3) and \"layer1.0.conv1.weight\" (4, 4, 3, 3)"},
        {{{"layer1.", "dreams."}},
         SMALL_LINE,
         KD_ERR_FORMAT,
         "\"f\" has no tensor \"0.weight\", but a \"bn1.bias\" that the model does not have"},
    };
    size_t i;
    int j, blocks;
    (void)state;
    for (i = 0; i < sizeof cases / sizeof *cases; ++i) {
        torch_file *t = (torch_file *)calloc(1, sizeof *t);
        kd_model *m = create(cases[i].line, 1);
        const uint64_t hash = kd_model_hash(m);
        for (j = 0; j < MOST_CHANGES && cases[i].changes[j][0]; ++j)
            torch_change(t, cases[i].changes[j][0], cases[i].changes[j][1]);
        torch_put(torch_small(t), small_values);
        blocks = memory.blocks;
        assert_fails(kd, kd_model_load_weights(m, "f"), cases[i].result, cases[i].wanted);
        assert_int_equal(memory.blocks, blocks);
        assert_true(kd_model_hash(m) == hash);
        kd_model_destroy(m);
        free(t);
    }
}

/* ---- when the disk fails --------------------------------------------------------------------------------- */

static kd_result save_model(void *m) { return kd_model_save((const kd_model *)m, "target"); }
static kd_result save_cache(void *c) { return kd_cache_save((const kd_cache *)c, "target"); }

static kd_result save_array(void *values)
{
    const int64_t shape[2] = {30, 40};
    return kd_npy_write(kd, "target", (const float *)values, 2, shape);
}

static kd_cache *create_cache(const kd_model *teacher, const float *x, int count)
{
    kd_data data = kd_data_f32(x, NULL, count, 2, 6, 6, 3);
    kd_augment augment;
    kd_cache *c;
    kd_model_preprocessing(teacher, data.mean, data.std);
    memset(&augment, 0, sizeof augment);
    augment.shift = 1;
    augment.mixup = 0.3f;
    assert_ok(kd, kd_cache_create(teacher, &data, &augment, 0x123456789abcdef0u, 3, &c));
    return c;
}

static void test_failing_disk(void **state)
{
    kd_model *m = create_full();
    float *x = test_floats(1, 40 * 72, 1);
    kd_cache *c = create_cache(m, x, 40);
    (void)state;
    check_failing_disk(save_model, m, "kd_model_save: ");
    check_failing_disk(save_cache, c, "kd_cache_save: ");
    check_failing_disk(save_array, x, "kd_npy_write: ");
    check_power_cut(save_model, m);
    check_power_cut(save_cache, c);
    check_power_cut(save_array, x);
    kd_cache_destroy(c);
    kd_model_destroy(m);
    free(x);
}

/* A process that dies after any call, on a real disk: under the name is the old model or the new one. */
static int calls_left;

static void maybe_die(void)
{
    if (calls_left-- == 0) _exit(0);
}

static void *dying_open(void *user, const char *path, char mode)
{
    maybe_die();
    return kd__stdio_open(user, path, mode);
}

static size_t dying_write(void *user, void *file, const void *bytes, size_t size)
{
    maybe_die();
    return kd__stdio_write(user, file, bytes, size);
}

static int dying_sync(void *user, void *file)
{
    maybe_die();
    return kd__stdio_sync(user, file);
}

static int dying_close(void *user, void *file)
{
    maybe_die();
    return kd__stdio_close(user, file);
}

static int dying_replace(void *user, const char *from, const char *to)
{
    maybe_die();
    return kd__stdio_replace(user, from, to);
}

static void test_killed_while_saving(void **state)
{
    char folder[] = P_tmpdir "/kd-test-XXXXXX", path[64], temporary[80];
    kd_ctx *plain;
    kd_model *before, *after;
    int calls, killed = 0, status = 1;
    (void)state;
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/m", folder);
    snprintf(temporary, sizeof temporary, "%s.kd-tmp", path);
    assert_int_equal(kd_open(NULL, &plain), KD_OK);
    assert_ok(plain, kd_model_create(plain, full_spec, 1, &before));
    assert_ok(plain, kd_model_create(plain, full_spec, 2, &after));
    for (calls = 0; status != 7; ++calls) { /* 7: it lived through all of them */
        kd_model *found;
        pid_t child;
        assert_ok(plain, kd_model_save(before, path));
        child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            calls_left = calls;
            plain->desc.io.open = dying_open, plain->desc.io.write = dying_write;
            plain->desc.io.sync = dying_sync, plain->desc.io.close = dying_close;
            plain->desc.io.replace = dying_replace;
            _exit(kd_model_save(after, path) == KD_OK ? 7 : 1);
        }
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFEXITED(status));
        status = WEXITSTATUS(status);
        assert_true(status == 0 || status == 7);
        assert_ok(plain, kd_model_load(plain, path, &found));
        assert_true(kd_model_hash(found) == kd_model_hash(status == 7 ? after : before));
        kd_model_destroy(found);
        killed += status == 0;
    }
    assert_true(killed > 6);
    kd_model_destroy(before);
    kd_model_destroy(after);
    kd_close(plain);
    remove(path);
    remove(temporary);
    assert_int_equal(rmdir(folder), 0);
}

static kd_result load_model(void *unused)
{
    kd_model *m = NULL;
    const kd_result result = kd_model_load(kd, "m", &m);
    (void)unused;
    assert_int_equal(m != NULL, result == KD_OK);
    kd_model_destroy(m);
    return result;
}

static kd_result load_cache(void *unused)
{
    kd_cache *c = NULL;
    const kd_result result = kd_cache_load(kd, "c", &c);
    (void)unused;
    assert_int_equal(c != NULL, result == KD_OK);
    kd_cache_destroy(c);
    return result;
}

static kd_result load_array(void *unused)
{
    kd_array array;
    const kd_result result = kd_npy_read(kd, "a", &array);
    (void)unused;
    assert_int_equal(array.values != NULL, result == KD_OK);
    kd_array_free(kd, &array);
    return result;
}

static kd_result load_weights(void *m) { return kd_model_load_weights((kd_model *)m, "m"); }

typedef struct load_case {
    file_fn load;
    const char *where;
} load_case;

/* Reading: open, size or read fails, or any request for memory. */
static void test_failing_reads(void **state)
{
    static const load_case loads[] = {{load_model, "kd_model_load: "},
                                      {load_cache, "kd_cache_load: "},
                                      {load_array, "kd_npy_read: "},
                                      {load_weights, "kd_model_load_weights: "}};
    kd_model *m = create_full();
    const uint64_t hash = kd_model_hash(m);
    float *x = test_floats(1, 40 * 72, 1);
    const int64_t shape[1] = {2880};
    kd_cache *c = create_cache(m, x, 40);
    size_t i;
    int failed;
    (void)state;
    assert_ok(kd, kd_model_save(m, "m"));
    assert_ok(kd, kd_cache_save(c, "c"));
    assert_ok(kd, kd_npy_write(kd, "a", x, 1, shape));
    kd_cache_destroy(c);
    for (i = 0; i < sizeof loads / sizeof *loads; ++i) {
        const int blocks = memory.blocks;
        const int reads = loads[i].load == load_model ? 12 : 3; /* a model is read tensor by tensor */
        for (failed = 1; failed <= reads; ++failed) {
            for (disk.halfway = 0; disk.halfway < 2; ++disk.halfway) {
                kd->error[0] = 0;
                disk.calls = 0;
                disk.fail_at = failed;
                assert_int_equal(loads[i].load(m), KD_ERR_IO);
                assert_int_equal(strncmp(kd_error(kd), loads[i].where, strlen(loads[i].where)), 0);
                assert_int_equal(disk.open, 0);
                assert_int_equal(memory.blocks, blocks);
            }
        }
        disk.fail_at = 0;
        for (failed = 1;; ++failed) {
            kd_result result;
            memory.refuse_at = failed;
            result = loads[i].load(m);
            if (memory.refuse_at > 0) {
                memory.refuse_at = 0;
                assert_int_equal(result, KD_OK);
                break;
            }
            assert_int_equal(result, KD_ERR_MEMORY);
            assert_int_equal(disk.open, 0);
            assert_int_equal(memory.blocks, blocks);
            assert_true(kd_model_hash(m) == hash);
        }
        assert_true(failed > 3);
    }
    kd_model_destroy(m);
    free(x);
}

/* kd_model_hash of 0.1.0, which is in the checksum of every file: of the layers, their names and first weights. */
static void test_hashes_of_an_earlier_version(void **state)
{
    static const struct {
        uint64_t hash;
        const char *spec;
    } lines[] = {
        {UINT64_C(0x1d15772043f73173), "4: dense 2"},
        {UINT64_C(0xc6914aba736dba87), "1x6x6: conv 2 3 pad=1, dense 2"},
        {UINT64_C(0xc0dd5e2e7b1c30af),
         "1x6x6: conv 2 3x1 stride=2x1 pad=1x0 groups=1 bias=0, batchnorm, relu, dense 2"},
        {UINT64_C(0x636ced6c1b9b35f3), "1x6x6: maxpool 2, dense 2"},
        {UINT64_C(0x88d70c1b842eb1c4), "1x6x6: avgpool 3 stride=1 pad=1, dense 2 bias=0"},
        {UINT64_C(0xf46a43244c060df4), "1x6x6: residual(conv 1 3 pad=1), dense 3"},
        {UINT64_C(0xc9ae3f3096630db0), "1x6x6: residual(conv 4 3 pad=1, batchnorm), dense 3"},
        {UINT64_C(0x1aefe2b269617edf), "1x6x6: residual(conv 4 3 stride=2 pad=1), relu, dense 3"},
        {UINT64_C(0xafa0f6b0ecd97647), "8: residual(dense 4), dense 3"},
        {UINT64_C(0x9f58cf73fdc3f882), "8: residual(dense 4, batchnorm), dense 3"},
        {UINT64_C(0x79cad516aa1c5653), "1x6x6: depthwise 3 pad=1, leakyrelu, dense 2"},
        {UINT64_C(0x501fffd9bfb2f218), "4: softtree 2 3"},
        {UINT64_C(0x79b3bf0f96c739b0),
         "1x8x8: a: conv 4 3, b: relu, dropout 0.25, gap, t: softtree 3 4 penalty=0.5"},
        {UINT64_C(0xef81b55ebcaac442), "4: dense 8, prompt 3, dense 2"},
        {UINT64_C(0x4558c8c4ab5d5968), "4: dense 3, gelu, dense 4, silu, dense 4, tanh, dense 4, sigmoid, dense 4, "
                                       "hardswish, dense 4, relu6, dense 2"},
        {UINT64_C(0xd1177594ef191209),
         "2x6x6: conv 4 3 pad=same groups=2, batchnorm eps=1e-3 momentum=0.2, flatten, dense 2"},
    };
    int i;
    (void)state;
    for (i = 0; i < KD__COUNT(lines); ++i) {
        kd_model *m = create(lines[i].spec, 7);
        if (kd_model_hash(m) != lines[i].hash) fail_msg("%s has another hash than in 0.1.0", lines[i].spec);
        kd_model_destroy(m);
    }
}

/* Trained and saved by kd.h 0.1.0 (batchnorm, residual, soft tree, preprocessing, classes), and what it said. */
static void test_of_an_earlier_version(void **state)
{
    static const float expected[6] = {-0.659541905f, -1.36874712f, -1.47627914f,
                                      -0.739181638f, -1.26842737f, -1.42203856f};
    static const char *const names[] = {"ant", "bee", "cat"};
    const char *slash = strrchr(__FILE__, '/');
    char path[1024];
    float x[72], logits[6], mean[KD_MAX_CHANNELS], std[KD_MAX_CHANNELS];
    kd_isa isa;
    int i;
    (void)state;
    snprintf(path, sizeof path, "%.*s/golden/saved_by_0.1.0.safetensors", slash ? (int)(slash - __FILE__) : 1,
             slash ? __FILE__ : ".");
    for (i = 0; i < 72; ++i) x[i] = (float)(i * 29 % 64) / 32 - 1;
    FOR_EACH_ISA(isa)
    {
        kd_ctx *ctx = test_open(isa, 1);
        kd_model *m;
        assert_ok(ctx, kd_model_load(ctx, path, &m));
        assert_string_equal(kd_model_spec(m),
                            "1x6x6: first: conv 2 3 pad=1, batchnorm, relu, maxpool 2, "
                            "residual(depthwise 3 pad=1, leakyrelu), dense 4, relu, softtree 2 3");
        assert_ok(ctx, kd_predict(m, x, 2, logits));
        for (i = 0; i < 6; ++i) assert_near(logits[i], expected[i], 1e-6);
        assert_int_equal(kd_model_preprocessing(m, mean, std), 1);
        assert_true(mean[0] == 0.5f && std[0] == 0.25f);
        for (i = 0; i < 3; ++i) assert_string_equal(kd_model_class(m, i), names[i]);
        kd_model_destroy(m);
        kd_close(ctx);
    }
}

static void test_refused_memory_while_saving(void **state)
{
    kd_model *m = create_full();
    float *x = test_floats(1, 40 * 72, 1);
    kd_cache *c = create_cache(m, x, 40);
    file_fn saves[2] = {save_model, save_cache};
    void *subjects[2];
    int i, failed;
    (void)state;
    subjects[0] = m, subjects[1] = c;
    for (i = 0; i < 2; ++i) {
        for (failed = 1;; ++failed) {
            const int blocks = memory.blocks;
            kd_result result;
            disk_put("target", "old", 3);
            memory.refuse_at = failed;
            result = saves[i](subjects[i]);
            assert_int_equal(memory.blocks, blocks);
            assert_int_equal(disk_count(), 1);
            assert_int_equal(disk.open, 0);
            if (memory.refuse_at > 0) break;
            assert_int_equal(result, KD_ERR_MEMORY);
            assert_memory_equal(disk_find("target")->bytes, "old", 3);
        }
        memory.refuse_at = 0;
        assert_true(failed > 2);
    }
    kd_cache_destroy(c);
    kd_model_destroy(m);
    free(x);
}

static void keep_line(void *user, const char *line) { kd__print((char *)user, 256, "%s", line); }

static void test_saving_refused(void **state)
{
    kd_model *m = create("2: dense 2, batchnorm", 1);
    kd_ctx_desc desc = kd->desc;
    kd_model *other;
    kd_ctx *none;
    static const char *const names[] = {
        "no open:", "no read:", "no write:", "no size:", "no close:", "no replace:", "no remove:", "no sync:"};
    char said[256];
    const float values[1] = {1};
    kd_array array;
    int missing;
    (void)state;
    assert_int_equal(kd_model_save(NULL, "m"), KD_ERR_ARGUMENT);
    assert_fails(kd, kd_model_save(m, NULL), KD_ERR_ARGUMENT, "kd_model_save: the path must not be NULL or empty");
    assert_fails(kd, kd_model_save(m, ""), KD_ERR_ARGUMENT, "the path must not be NULL or empty");
    m->weights[1] = INFINITY;
    assert_fails(kd, kd_model_save(m, "m"), KD_ERR_NOT_FINITE,
                 "tensor \"0.weight\" holds a NaN or an infinity; nothing was written");
    m->weights[1] = 0;
    m->state[0] = NAN;
    assert_fails(kd, kd_model_save(m, "m"), KD_ERR_NOT_FINITE, "tensor \"1.running_mean\" holds a NaN");
    assert_int_equal(disk_count(), 0);
    kd_model_destroy(m);
    desc.log = keep_line;
    desc.log_user = said;
    for (missing = 0; missing < 8; ++missing) { /* half of a platform's files */
        desc.io = kd->desc.io;
        switch (missing) {
        case 0: desc.io.open = NULL; break;
        case 1: desc.io.read = NULL; break;
        case 2: desc.io.write = NULL; break;
        case 3: desc.io.size = NULL; break;
        case 4: desc.io.close = NULL; break;
        case 5: desc.io.replace = NULL; break;
        case 6: desc.io.remove = NULL; break;
        default: desc.io.sync = NULL;
        }
        said[0] = 0;
        assert_int_equal(kd_open(&desc, &none), KD_ERR_ARGUMENT);
        assert_null(none);
        assert_non_null(strstr(said, names[missing]));
        assert_non_null(strstr(said, "has 7 functions, but no "));
    }
    memset(&desc.io, 0, sizeof desc.io);
    assert_int_equal(kd_open(&desc, &none), KD_OK);
    assert_ok(none, kd_model_create(none, "2: dense 2", 1, &m));
    assert_fails(none, kd_model_save(m, "m"), KD_ERR_UNSUPPORTED, "kd_ctx_desc.io has no ");
    assert_fails(none, kd_model_load(none, "m", &other), KD_ERR_UNSUPPORTED, "kd_ctx_desc.io has no ");
    assert_fails(none, kd_npy_read(none, "m", &array), KD_ERR_UNSUPPORTED, "kd_ctx_desc.io has no ");
    assert_fails(none, kd_npy_write(none, "m", values, 0, NULL), KD_ERR_UNSUPPORTED, "kd_ctx_desc.io has no ");
    kd_model_destroy(m);
    kd_close(none);
}

/* ---- .npy ------------------------------------------------------------------------------------------------ */

/* A file of a version, with this dictionary, padded as NumPy does. */
static void put_npy(int version, const char *dictionary, const void *data, size_t bytes)
{
    const size_t length = strlen(dictionary), head = version == 1 ? 10 : 12;
    const size_t padded = (head + length + 1 + 63) / 64 * 64 - head;
    unsigned char *file = (unsigned char *)malloc(head + padded + bytes);
    memcpy(file, "\x93NUMPY", 6);
    file[6] = (unsigned char)version;
    file[7] = 0;
    kd__store_le(file + 8, padded, (int)head - 8);
    memset(file + head, ' ', padded);
    memcpy(file + head, dictionary, length);
    file[head + padded - 1] = '\n';
    if (bytes) memcpy(file + head + padded, data, bytes);
    disk_put("a", file, head + padded + bytes);
    free(file);
}

#define NPY(descr, shape) "{'descr': '" descr "', 'fortran_order': False, 'shape': " shape ", }"

typedef struct number_case {
    const char *type;
    int size;
    unsigned char bytes[24]; /* three numbers, little-endian */
    float numbers[3];
} number_case;

static void test_npy_types(void **state)
{
    static const number_case cases[] = {
        {"f2", 2, {0, 0x3e, 1, 0x80, 0xff, 0x7b}, {1.5f, -1 / 16777216.0f, 65504}},
        {"f4", 4, {0, 0, 0xc0, 0x3f, 1, 0, 0, 0, 0xff, 0xff, 0x7f, 0xff}, {1.5f, 1.40129846e-45f, -FLT_MAX}},
        {"f8",
         8,
         {0,    0,    0,    0,    0, 0, 0xf8, 0x3f, 0x9a, 0x99, 0x99, 0x99,
          0x99, 0x99, 0xb9, 0x3f, 0, 0, 0,    0,    0,    0,    0xf0, 0x7f},
         {1.5f, 0.1f, INFINITY}},
        {"i1", 1, {0x80, 0xff, 0x7f}, {-128, -1, 127}},
        {"i2", 2, {0, 0x80, 0xff, 0xff, 0xff, 0x7f}, {-32768, -1, 32767}},
        {"i4", 4, {0, 0, 0, 0x80, 0xfe, 0xff, 0xff, 0xff, 0, 0, 0, 0x40}, {-2147483648.0f, -2, 1073741824}},
        {"i8",
         8,
         {0, 0, 0, 0, 0, 0, 0, 0x80, 0xfd, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 1, 0, 0, 0},
         {-9223372036854775808.0f, -3, 4294967296.0f}},
        {"u1", 1, {0, 128, 255}, {0, 128, 255}},
        {"u2", 2, {0, 0, 0, 0x80, 0xff, 0xff}, {0, 32768, 65535}},
        {"b1", 1, {0, 1, 1}, {0, 1, 1}},
    };
    char dictionary[100];
    unsigned char swapped[24];
    size_t i, version;
    int order, j, k;
    kd_array array;
    (void)state;
    for (i = 0; i < sizeof cases / sizeof *cases; ++i) {
        for (order = 0; order < 3; ++order) {
            if ((order == 2) != (cases[i].size == 1)) continue; /* one byte has no order */
            for (version = 1; version <= 3; ++version) {
                for (j = 0; j < 3; ++j)
                    for (k = 0; k < cases[i].size; ++k)
                        swapped[j * cases[i].size + k] =
                            cases[i].bytes[j * cases[i].size + (order == 1 ? cases[i].size - 1 - k : k)];
                snprintf(dictionary, sizeof dictionary,
                         "{'descr': '%c%s', 'fortran_order': False, 'shape': (3, 1), }", "<>|"[order],
                         cases[i].type);
                put_npy((int)version, dictionary, swapped, (size_t)(3 * cases[i].size));
                assert_ok(kd, kd_npy_read(kd, "a", &array));
                assert_int_equal(array.rank, 2);
                assert_true(array.shape[0] == 3 && array.shape[1] == 1 && array.count == 3);
                assert_memory_equal(array.values, cases[i].numbers, sizeof cases[i].numbers);
                kd_array_free(kd, &array);
            }
        }
    }
}

typedef struct npy_case {
    const char *dictionary;
    int bytes;
    const char *message; /* NULL: it can be read */
} npy_case;

static void test_npy_headers(void **state)
{
    static const char unknown[] = "the header of \"a\" is not understood";
    static const npy_case cases[] = {
        {NPY("<f4", "()"), 4, NULL},
        {NPY("<f4", "(4,)"), 16, NULL},
        {NPY("<f4", "(2, 2)"), 16, NULL},
        {NPY("<f4", "(2,2,)"), 16, NULL},
        {NPY("<f4", "(0, 3)"), 0, NULL},
        {NPY("<f4", "(4294967296, 4294967296, 4294967296, 0)"), 0, NULL},
        {NPY("<f4", "(1, 1, 1, 1, 1, 1, 1, 4)"), 16, NULL},
        {NPY("<f4", "(2L, 2L)"), 16, NULL},
        {"{\"shape\":(4,),\"fortran_order\":False,\"descr\":\"<f4\"}", 16, NULL},
        {"  { 'fortran_order' : True , 'descr' : '<f4' , 'shape' : ( 4 , ) }", 16, NULL},
        {"{'descr': '<f4', 'fortran_order': True, 'shape': (), }", 4, NULL},
        {"{'descr': '<f4', 'fortran_order': True, 'shape': (2, 2), }", 16,
         "\"a\" is in Fortran order; save np.ascontiguousarray(x) instead"},
        {NPY("<f4", "(2, 2)"), 15, "\"a\" should hold 4 numbers of 4 bytes, but 15 bytes follow its header"},
        {NPY("<f4", "(2, 2)"), 17, "should hold 4 numbers of 4 bytes, but 17 bytes"},
        {NPY("<f4", "(2, 2)"), 0, "should hold 4 numbers of 4 bytes, but 0 bytes"},
        {NPY("<f4", "(0, 3)"), 4, "should hold 0 numbers of 4 bytes, but 4 bytes"},
        {NPY("<f4", "(4294967296, 4294967296)"), 0, "but 0 bytes follow its header"},
        {NPY("<f4", "(4611686018427387904,)"), 0, "but 0 bytes follow its header"},
        {NPY("<f8", "(1000000000000000000,)"), 8, "but 8 bytes follow its header"},
        {NPY("<u4", "(4,)"), 16, "\"a\" holds numbers of type \"<u4\"; f2 f4 f8 i1 i2 i4 i8 u1 u2 b1 can be read"},
        {NPY("|O", "(4,)"), 16, "holds numbers of type \"|O\""},
        {NPY("<U2", "(4,)"), 32, "holds numbers of type \"<U2\""},
        {NPY("<c8", "(2,)"), 16, "holds numbers of type \"<c8\""},
        {NPY("<f16", "(1,)"), 16, "holds numbers of type \"<f16\""},
        {NPY("f4", "(4,)"), 16, "holds numbers of type \"f4\""},
        {NPY("", "(4,)"), 16, "holds numbers of type \"\""},
        {NPY("<f", "(4,)"), 16, "holds numbers of type \"<f\""},
        {NPY("<f4x", "(4,)"), 16, "holds numbers of type \"<f4x\""},
        {NPY("!f4", "(4,)"), 16, "holds numbers of type \"!f4\""},
        {NPY("=f4", "(4,)"), 16, NULL},
        {NPY("|f4", "(4,)"), 16, NULL},
        {"{'descr", 16, unknown},
        {"{descr: '<f4', 'fortran_order': False, 'shape': (4,), }", 16, unknown},
        {"{'descr' '<f4', 'fortran_order': False, 'shape': (4,), }", 16, unknown},
        {"{'a name that is too long for a key': '<f4', 'fortran_order': False, 'shape': (4,), }", 16, unknown},
        {"{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (4,), }", 16, unknown},
        {"{'descr': '<f4', 'fortran_order': False, }", 16, unknown},
        {"{'descr': '<f4', 'shape': (4,), }", 16, unknown},
        {"{'fortran_order': False, 'shape': (4,), }", 16, unknown},
        {"{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (4,), }", 16, unknown},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (4,), 'more': 1}", 16, unknown},
        {"{'descr': '<f4' 'fortran_order': False, 'shape': (4,), }", 16, unknown},
        {"{'descr': '<f4', 'fortran_order': 0, 'shape': (4,), }", 16, unknown},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': 4, }", 16, unknown},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (-4,), }", 16, unknown},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (4.0,), }", 16, unknown},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (,), }", 16, unknown},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (4, }", 16, unknown},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (4", 16, unknown},
        {"{'descr': '<f4", 16, unknown},
        {NPY("<f4", "(99999999999999999999,)"), 0, unknown},
        {NPY("<f4", "(1, 1, 1, 1, 1, 1, 1, 1, 4)"), 16, unknown},
        {NPY("<f4", "(4,)") " x", 16, unknown},
        {"", 16, unknown},
        {"()", 16, unknown},
    };
    unsigned char bytes[64] = {0};
    size_t i, size;
    kd_array array;
    (void)state;
    for (i = 0; i < sizeof cases / sizeof *cases; ++i) {
        put_npy(1, cases[i].dictionary, bytes, (size_t)cases[i].bytes);
        memory.largest = 0;
        if (cases[i].message) {
            assert_fails(kd, kd_npy_read(kd, "a", &array), KD_ERR_FORMAT, cases[i].message);
            assert_null(array.values);
        } else if (kd_npy_read(kd, "a", &array) != KD_OK) {
            fail_msg("%s: %s", cases[i].dictionary, kd_error(kd));
        } else {
            assert_int_equal(array.count * 4, cases[i].bytes);
            kd_array_free(kd, &array);
        }
        assert_true(memory.largest < 4096);
    }
    /* every beginning of a good file */
    put_npy(1, NPY("<f4", "(2, 2)"), bytes, 16);
    size = disk_find("a")->size;
    for (i = 0; i < size; ++i) {
        disk_find("a")->size = i;
        assert_int_equal(kd_npy_read(kd, "a", &array), KD_ERR_FORMAT);
    }
    disk_find("a")->size = size;
    disk_find("a")->bytes[30] = 0; /* a byte 0 ends no header */
    assert_fails(kd, kd_npy_read(kd, "a", &array), KD_ERR_FORMAT, unknown);
    for (i = 0; i < 256; i += i < 5 ? 1 : 50) { /* versions */
        put_npy(1, NPY("<f4", "()"), bytes, 4);
        disk_find("a")->bytes[6] = (unsigned char)i;
        if (i != 1) assert_int_equal(kd_npy_read(kd, "a", &array), KD_ERR_FORMAT);
        if (i == 0 || i > 3)
            assert_non_null(strstr(kd_error(kd), "kd_npy_read: \"a\" is no .npy file of version 1 to 3"));
    }
    for (i = 0; i < 2; ++i) { /* a header that ends in a word */
        static const unsigned char cut[][18] = {"\x93NUMPY\1\0\4\0{'de", "\x93NUMPY\1\0\4\0{\"de"};
        disk_put("a", cut[i], 14);
        assert_fails(kd, kd_npy_read(kd, "a", &array), KD_ERR_FORMAT, unknown);
    }
    disk_put("a", "PK\3\4 a zip file", 15);
    assert_fails(kd, kd_npy_read(kd, "a", &array), KD_ERR_FORMAT, "is no valid .npz file: it has only 15 bytes");
    disk_put("a", "PJ\3\4 something", 14);
    assert_fails(kd, kd_npy_read(kd, "a", &array), KD_ERR_FORMAT, "is no .npy file of version 1 to 3");
    put_npy(2, NPY("<f4", "()"), bytes, 4);
    memset(disk_find("a")->bytes + 8, 0xff, 4);
    assert_fails(kd, kd_npy_read(kd, "a", &array), KD_ERR_FORMAT, "claims a header of 4294967295 bytes");
    {
        char *large = (char *)malloc(20001);
        memset(large, ' ', 20000);
        large[20000] = 0;
        memcpy(large, NPY("<f4", "()"), strlen(NPY("<f4", "()")));
        put_npy(2, large, bytes, 4);
        assert_fails(kd, kd_npy_read(kd, "a", &array), KD_ERR_FORMAT, "claims a header of 20");
        large[9000] = 0; /* NumPy's own limit is 10000 */
        put_npy(2, large, bytes, 4);
        assert_ok(kd, kd_npy_read(kd, "a", &array));
        kd_array_free(kd, &array);
        free(large);
    }
    assert_fails(kd, kd_npy_read(kd, "nowhere", &array), KD_ERR_IO, "kd_npy_read: cannot open \"nowhere\"");
    assert_fails(kd, kd_npy_read(kd, NULL, &array), KD_ERR_ARGUMENT, "the path must not be NULL");
    assert_fails(kd, kd_npy_read(kd, "a", NULL), KD_ERR_ARGUMENT, "out must not be NULL");
    assert_int_equal(kd_npy_read(NULL, "a", &array), KD_ERR_ARGUMENT);
}

typedef struct shape_case {
    int rank;
    int64_t shape[8];
    const char *text;
} shape_case;

static void test_npy_round_trip(void **state)
{
    static const shape_case cases[] = {
        {0, {0}, "()"},
        {1, {5}, "(5,)"},
        {2, {2, 3}, "(2, 3)"},
        {3, {2, 0, 3}, "(2, 0, 3)"},
        {4, {1, 2, 3, 4}, "(1, 2, 3, 4)"},
        {8, {1, 2, 1, 1, 2, 1, 1, 600}, "(1, 2, 1, 1, 2, 1, 1, 600)"},
    };
    float *x = test_floats(6, 2400, 1e10f);
    char wanted[200];
    kd_array array;
    size_t i, head;
    int j;
    (void)state;
    x[1] = -0.0f, x[2] = INFINITY, x[3] = 1e-45f;
    for (i = 0; i < sizeof cases / sizeof *cases; ++i) {
        int64_t count = 1;
        const disk_file *f;
        assert_ok(kd, kd_npy_write(kd, "a", x, cases[i].rank, cases[i].shape));
        f = disk_find("a");
        snprintf(wanted, sizeof wanted, "{'descr': '<f4', 'fortran_order': False, 'shape': %s, }", cases[i].text);
        while ((strlen(wanted) + 11) % 64) strcat(wanted, " ");
        strcat(wanted, "\n");
        head = strlen(wanted);
        assert_memory_equal(f->bytes, "\x93NUMPY\1\0", 8);
        assert_int_equal(f->bytes[8] | f->bytes[9] << 8, head);
        assert_memory_equal(f->bytes + 10, wanted, head);
        assert_ok(kd, kd_npy_read(kd, "a", &array));
        assert_int_equal(array.rank, cases[i].rank);
        for (j = 0; j < array.rank; ++j) {
            assert_true(array.shape[j] == cases[i].shape[j]);
            count *= cases[i].shape[j];
        }
        assert_true(array.count == count && f->size == 10 + head + (size_t)count * 4);
        if (count) assert_memory_equal(array.values, x, (size_t)count * sizeof *x);
        if (count) assert_memory_equal(f->bytes + 10 + head, x, (size_t)count * sizeof *x); /* on this machine */
        kd_array_free(kd, &array);
        assert_null(array.values);
    }
    kd_array_free(kd, &array);
    kd_array_free(kd, NULL);
    kd_array_free(NULL, &array);
    free(x);
}

static void test_npy_write_errors(void **state)
{
    const int64_t negative[2] = {3, -1}, huge[3] = {1 << 30, 1 << 30, 1 << 30}, one[1] = {1};
    const float x[1] = {1};
    (void)state;
    assert_fails(kd, kd_npy_write(kd, "a", x, -1, one), KD_ERR_ARGUMENT,
                 "kd_npy_write: rank must be 0 to 8, got -1");
    assert_fails(kd, kd_npy_write(kd, "a", x, 9, one), KD_ERR_ARGUMENT, "rank must be 0 to 8, got 9");
    assert_fails(kd, kd_npy_write(kd, "a", x, 1, NULL), KD_ERR_ARGUMENT, "rank must be 0 to 8, got 1");
    assert_fails(kd, kd_npy_write(kd, "a", x, 2, negative), KD_ERR_ARGUMENT, "dimension 1 is negative");
    assert_fails(kd, kd_npy_write(kd, "a", x, 3, huge), KD_ERR_ARGUMENT, "too many values, or NULL");
    assert_fails(kd, kd_npy_write(kd, "a", NULL, 1, one), KD_ERR_ARGUMENT, "too many values, or NULL");
    assert_fails(kd, kd_npy_write(kd, "", x, 1, one), KD_ERR_ARGUMENT, "the path must not be NULL or empty");
    assert_int_equal(kd_npy_write(NULL, "a", x, 1, one), KD_ERR_ARGUMENT);
    assert_int_equal(disk_count(), 0);
}

/* ---- teacher caches -------------------------------------------------------------------------------------- */

static void test_cache_round_trip(void **state)
{
    kd_model *m = create_full();
    float *x = test_floats(1, 40 * 72, 1);
    kd_cache *c = create_cache(m, x, 40), *back;
    int view;
    (void)state;
    assert_ok(kd, kd_cache_save(c, "c"));
    assert_ok(kd, kd_cache_load(kd, "c", &back));
    assert_int_equal(back->views, 3);
    assert_int_equal(back->count, 40);
    assert_int_equal(back->classes, 3);
    assert_true(back->data_hash == c->data_hash && back->teacher_hash == c->teacher_hash && back->seed == c->seed);
    assert_memory_equal(&back->augment, &c->augment, sizeof c->augment);
    for (view = 0; view < 3; ++view)
        assert_memory_equal(kd_cache_logits(back, view), kd_cache_logits(c, view), 40 * 3 * sizeof(float));
    assert_memory_not_equal(kd_cache_logits(c, 0), kd_cache_logits(c, 1), 40 * 3 * sizeof(float));
    assert_null(kd_cache_logits(back, 3));
    assert_null(kd_cache_logits(back, -1));
    assert_null(kd_cache_logits(NULL, 0));
    kd_cache_destroy(back);
    kd_cache_destroy(c);
    kd_cache_destroy(NULL);
    kd_model_destroy(m);
    free(x);
}

#define SETTINGS_OF(tail)                                                                                          \
    "{\"__metadata__\":{\"kd.cache\":\"0123456789abcdef 0123456789abcdef 0000000000000001 2 1 0 " tail "\"}"
#define SETTINGS SETTINGS_OF("00000000 00000000 00000000 00000000 3e99999a")
#define LOGITS TENSOR("logits", "F32", "[1,2,2]", "[0,16]")

static void test_broken_caches(void **state)
{
    static const file_case cases[] = {
        {SETTINGS "," LOGITS "}", 16, KD_OK, ""},
        {"{" LOGITS "}", 16, KD_ERR_FORMAT, "\"f\" holds no teacher outputs saved by kd_cache_save"},
        {SETTINGS "}", 0, KD_ERR_FORMAT, "\"f\" holds no teacher outputs saved by kd_cache_save"},
        {GOOD, 12, KD_ERR_FORMAT, "\"f\" holds no teacher outputs saved by kd_cache_save"},
        {SETTINGS "," TENSOR("logits", "F32", "[2,2]", "[0,16]") "}", 16, KD_ERR_FORMAT,
         "holds no teacher outputs"},
        {SETTINGS "," TENSOR("logits", "F32", "[0,2,2]", "[0,0]") "}", 0, KD_ERR_FORMAT,
         "holds no teacher outputs"},
        {SETTINGS "," TENSOR("logits", "F32", "[65537,1,0]", "[0,0]") "}", 0, KD_ERR_FORMAT, "no teacher outputs"},
        {SETTINGS "," TENSOR("logits", "F32", "[1,0,2]", "[0,0]") "}", 0, KD_ERR_FORMAT, "no teacher outputs"},
        {SETTINGS "," TENSOR("logits", "F32", "[1,2,0]", "[0,0]") "}", 0, KD_ERR_FORMAT, "no teacher outputs"},
        {SETTINGS_OF("00000000 00000000 00000000 00000000 3e99999G") "," LOGITS "}", 16, KD_ERR_FORMAT,
         "the settings of the cache are broken"},
        {SETTINGS_OF("00000000 00000000 00000000 00000000 3e99999/") "," LOGITS "}", 16, KD_ERR_FORMAT,
         "the settings of the cache are broken"},
        {SETTINGS "," TENSOR("logits", "I32", "[1,2,2]", "[0,16]") "}", 16, KD_ERR_FORMAT, "no teacher outputs"},
        {SETTINGS "," TENSOR("logits", "F32", "[1,2,3]", "[0,16]") "}", 16, KD_ERR_FORMAT, "has 6 numbers"},
        {SETTINGS_OF("00000000 00000000 00000000 00000000") "," LOGITS "}", 16, KD_ERR_FORMAT,
         "the settings of the cache are broken"},
        {SETTINGS_OF("00000000 00000000 00000000 00000000 3e99999a 1") "," LOGITS "}", 16, KD_ERR_FORMAT,
         "the settings of the cache are broken"},
        {SETTINGS_OF("00000000 00000000 00000000  00000000 3e99999a") "," LOGITS "}", 16, KD_ERR_FORMAT,
         "the settings of the cache are broken"},
        {SETTINGS_OF("00000000 00000000 00000000 00000000 3e99999g") "," LOGITS "}", 16, KD_ERR_FORMAT,
         "the settings of the cache are broken"},
        {SETTINGS_OF("00000000 00000000 00000000 00000000 00000000000000000") "," LOGITS "}", 16, KD_ERR_FORMAT,
         "the settings of the cache are broken"},
    };
    float numbers[4] = {1, 2, NAN, 4};
    size_t i;
    kd_cache *c;
    (void)state;
    for (i = 0; i < sizeof cases / sizeof *cases; ++i) {
        kd_result result;
        put_file(cases[i].header, strlen(cases[i].header), plain_numbers, (size_t)cases[i].bytes);
        c = (kd_cache *)&c;
        result = kd_cache_load(kd, "f", &c);
        if (result != cases[i].result || (result != KD_OK && !strstr(kd_error(kd), cases[i].message)))
            fail_msg("%s: %s \"%s\"", cases[i].header, kd_result_name(result), kd_error(kd));
        assert_int_equal(c != NULL, result == KD_OK);
        kd_cache_destroy(c);
    }
    for (i = 0; i < 2; ++i) { /* more views, and more classes, than there may be */
        static const char *const large[] = {SETTINGS "," TENSOR("logits", "F16", "[65537,1,1]", "[0,131074]") "}",
                                            SETTINGS
                                            "," TENSOR("logits", "F16", "[1,1,16777217]", "[0,33554434]") "}"};
        const size_t bytes = i ? 33554434 : 131074;
        void *zeros = calloc(bytes, 1);
        put_file(large[i], strlen(large[i]), zeros, bytes);
        free(zeros);
        assert_fails(kd, kd_cache_load(kd, "f", &c), KD_ERR_FORMAT, "holds no teacher outputs");
    }
    put_file(SETTINGS "," LOGITS "}", strlen(SETTINGS "," LOGITS "}"), numbers, 16);
    assert_fails(kd, kd_cache_load(kd, "f", &c), KD_ERR_NOT_FINITE, "logits has a NaN in row 1, column 0");
    assert_fails(kd, kd_cache_load(kd, "f", NULL), KD_ERR_ARGUMENT, "out must not be NULL");
    assert_fails(kd, kd_cache_load(kd, "nowhere", &c), KD_ERR_IO, "kd_cache_load: cannot open \"nowhere\"");
    assert_int_equal(kd_cache_load(NULL, "f", &c), KD_ERR_ARGUMENT);
    assert_int_equal(kd_cache_save(NULL, "f"), KD_ERR_ARGUMENT);
    put_file(SETTINGS "," LOGITS "}", strlen(SETTINGS "," LOGITS "}"), plain_numbers, 16);
    check_load("a cache is no model", KD_ERR_FORMAT, "holds weights but no model line");
}

/* ---- the real disk --------------------------------------------------------------------------------------- */

static int entries(const char *folder)
{
    DIR *d = opendir(folder);
    int count = 0;
    while (readdir(d)) ++count;
    closedir(d);
    return count - 2; /* . and .. */
}

static void test_stdio(void **state)
{
    char folder[] = P_tmpdir "/kd-test-XXXXXX", path[64], missing[80], inside[80], longest[200];
    const float number = 1;
    kd_ctx *own;
    kd_model *m, *other, *back;
    uint64_t hash;
    FILE *file;
    (void)state;
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/m.safetensors", folder);
    snprintf(missing, sizeof missing, "%s/no/m", folder);
    snprintf(inside, sizeof inside, "%s/sub", folder);
    own = test_open(KD_ISA_AUTO, 1);
    assert_ok(own, kd_model_create(own, full_spec, 1, &m));
    assert_ok(own, kd_model_create(own, full_spec, 2, &other));
    hash = kd_model_hash(m);
    assert_ok(own, kd_model_save(other, path));
    assert_ok(own, kd_model_save(m, path)); /* takes the place of the other one */
    assert_int_equal(entries(folder), 1);
    assert_ok(own, kd_model_load(own, path, &back));
    assert_true(kd_model_hash(back) == hash);
    kd_model_destroy(back);
    assert_fails(own, kd_model_save(m, missing), KD_ERR_IO, "kd_model_save: cannot create");
    assert_fails(own, kd_model_load(own, missing, &back), KD_ERR_IO, "kd_model_load: cannot open");
    assert_int_equal(mkdir(inside, 0700), 0);
    snprintf(longest, sizeof longest, "%s/m", inside);
    assert_ok(own, kd_model_save(m, longest));
    assert_fails(own, kd_model_save(other, inside), KD_ERR_IO, "cannot rename"); /* a folder with something in it */
    assert_int_equal(entries(folder), 2);
    assert_ok(own, kd_model_load(own, longest, &back));
    assert_true(kd_model_hash(back) == hash);
    kd_model_destroy(back);
    file = fopen("/dev/full", "rb"); /* a disk without room: the temporary file is a link to it */
    if (file) {
        char temporary[96];
        (void)fclose(file);
        snprintf(temporary, sizeof temporary, "%s.kd-tmp", path);
        assert_int_equal(symlink("/dev/full", temporary), 0);
        assert_fails(own, kd_model_save(other, path), KD_ERR_IO, "m.safetensors.kd-tmp");
        assert_int_equal(symlink("/dev/full", temporary), 0); /* few bytes reach it only when they are flushed */
        assert_fails(own, kd_npy_write(own, path, &number, 0, NULL), KD_ERR_IO, "could not be made durable");
        assert_int_equal(entries(folder), 2);
        assert_ok(own, kd_model_load(own, path, &back));
        assert_true(kd_model_hash(back) == hash);
        kd_model_destroy(back);
    }
    kd_model_destroy(m);
    kd_model_destroy(other);
    kd_close(own);
    (void)remove(longest);
    (void)rmdir(inside);
    (void)remove(path);
    assert_int_equal(rmdir(folder), 0);
}

/* A name without a folder, and a folder that cannot be opened to be synced: the file is there. */
static void test_replace(void **state)
{
    char folder[] = P_tmpdir "/kd-test-XXXXXX", back[4096];
    struct rlimit before, none;
    FILE *file;
    (void)state;
    assert_non_null(mkdtemp(folder));
    assert_non_null(getcwd(back, sizeof back));
    assert_int_equal(chdir(folder), 0);
    file = fopen("a", "wb");
    assert_non_null(file);
    (void)fclose(file);
    assert_int_equal(kd__stdio_replace(NULL, "a", "b"), 0);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    none = before;
    none.rlim_cur = 0;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
    assert_int_equal(kd__stdio_replace(NULL, "b", "./c"), 0);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
    assert_int_equal(entries("."), 1);
    assert_int_equal(remove("c"), 0);
    assert_int_equal(chdir(back), 0);
    assert_int_equal(rmdir(folder), 0);
}

/* What can be opened but has no size: a pipe, a folder. */
static void test_no_file(void **state)
{
    int ends[2];
    char path[32];
    kd_ctx *own = test_open(KD_ISA_AUTO, 1);
    kd_array array;
    (void)state;
    assert_int_equal(pipe(ends), 0);
    snprintf(path, sizeof path, "/dev/fd/%d", ends[0]);
    assert_fails(own, kd_npy_read(own, path, &array), KD_ERR_IO, "kd_npy_read: cannot tell the size of \"/dev/fd/");
    assert_int_equal(kd_npy_read(own, "/", &array), KD_ERR_IO);
    (void)close(ends[0]);
    (void)close(ends[1]);
    kd_close(own);
}

/* Numbers in files are the same in a country of decimal commas. */
static void test_locale(void **state)
{
    static const char *const locales[] = {"de_DE.UTF-8", "de_DE.utf8", "fr_FR.UTF-8", "de_DE", "fr_FR.utf8"};
    kd_model *m = create_full(), *back;
    size_t i = 0;
    (void)state;
    assert_ok(kd, kd_model_save(m, "m"));
    while (i < sizeof locales / sizeof *locales && !setlocale(LC_NUMERIC, locales[i])) ++i;
    if (i == sizeof locales / sizeof *locales) {
        kd_model_destroy(m);
        printf("skip  files: there is no locale with decimal commas\n");
        skip();
    }
    assert_ok(kd, kd_model_save(m, "comma"));
    assert_int_equal(disk_find("m")->size, disk_find("comma")->size);
    assert_memory_equal(disk_find("m")->bytes, disk_find("comma")->bytes, disk_find("m")->size);
    assert_ok(kd, kd_model_load(kd, "m", &back));
    assert_true(kd__model_checksum(back) == kd__model_checksum(m));
    (void)setlocale(LC_NUMERIC, "C");
    kd_model_destroy(back);
    kd_model_destroy(m);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, open_context, close_context)
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_of_an_earlier_version),
        TEST(test_hashes_of_an_earlier_version),
        TEST(test_round_trip),
        TEST(test_bytes_of_a_model),
        TEST(test_order_of_tensors),
        TEST(test_broken_headers),
        TEST(test_escapes),
        TEST(test_utf8),
        TEST(test_broken_tensors),
        TEST(test_broken_metadata),
        TEST(test_batches_tracked),
        TEST(test_hostile_lines),
        TEST(test_checksum),
        TEST(test_flipped_bits),
        TEST(test_described),
        TEST(test_no_parts),
        TEST(test_places),
        TEST(test_damaged_files),
        TEST(test_memory_round_trip),
        TEST(test_memory_while_loading),
        TEST(test_in_place),
        TEST(test_memory_in_place),
        TEST(test_halves),
        TEST(test_save_as),
        TEST(test_load_weights),
        TEST(test_float_batches),
        TEST(test_load_weights_damaged),
        TEST(test_load_weights_failures),
        TEST(test_torch_values),
        TEST(test_torch_prefix),
        TEST(test_torch_networks),
        TEST(test_torch_failures),
        TEST(test_failing_disk),
        TEST(test_killed_while_saving),
        TEST(test_failing_reads),
        TEST(test_refused_memory_while_saving),
        TEST(test_saving_refused),
        TEST(test_npy_types),
        TEST(test_npy_headers),
        TEST(test_npy_round_trip),
        TEST(test_npy_write_errors),
        TEST(test_cache_round_trip),
        TEST(test_broken_caches),
        TEST(test_stdio),
        TEST(test_replace),
        TEST(test_no_file),
        TEST(test_locale),
    };
    const int failed = cmocka_run_group_tests_name("files", tests, NULL, NULL);
    test_print_skips("files");
    return failed;
}
