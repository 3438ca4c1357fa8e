/* .npz archives: what NumPy writes, and what others break. */
#include "disk.h"

#include "golden/npz.h"

#define PUT(name, what) disk_put(name, npz_##what, sizeof npz_##what)

static kd_model *create(void)
{
    kd_model *m;
    assert_ok(kd, kd_model_create(kd, "1x6x6: conv 2 3, batchnorm, relu, dense 3", 1, &m));
    return m;
}

static void check_numbers(const kd_array *a, int k, int rows, int columns)
{
    int i;
    assert_int_equal(a->rank, 2);
    assert_int_equal(a->shape[0], rows);
    assert_int_equal(a->shape[1], columns);
    for (i = 0; i < rows * columns; ++i) assert_true(a->values[i] == (float)i / 8 - (float)k);
}

static void test_one_array(void **state)
{
    kd_array a;
    (void)state;
    PUT("a.npz", one);
    assert_ok(kd, kd_npy_read(kd, "a.npz", &a));
    check_numbers(&a, 0, 3, 2);
    kd_array_free(kd, &a);
    assert_ok(kd, kd_npy_read(kd, "a.npz:arr_0", &a));
    check_numbers(&a, 0, 3, 2);
    kd_array_free(kd, &a);
    PUT("any name", streamed);
    assert_ok(kd, kd_npy_read(kd, "any name", &a));
    check_numbers(&a, 0, 3, 2);
    kd_array_free(kd, &a);
    PUT("s.npz", several);
    assert_ok(kd, kd_npy_read(kd, "s.npz:train", &a));
    check_numbers(&a, 0, 3, 2);
    kd_array_free(kd, &a);
    assert_ok(kd, kd_npy_read(kd, "s.npz:test", &a));
    check_numbers(&a, 1, 4, 2);
    kd_array_free(kd, &a);
    assert_fails(kd, kd_npy_read(kd, "s.npz", &a), KD_ERR_FORMAT,
                 "\"s.npz\" holds 3 arrays: train, test, labels; one is chosen by its name, as in \"s.npz:train\"");
    assert_fails(kd, kd_npy_read(kd, "s.npz:tes", &a), KD_ERR_FORMAT,
                 "\"s.npz\" holds no array \"tes\", but train, test, labels");
    assert_fails(kd, kd_npy_read(kd, "t.npz:test", &a), KD_ERR_IO, "cannot open \"t.npz\" for reading");
    assert_fails(kd, kd_npy_read(kd, "t.npz:of/a.npy", &a), KD_ERR_IO,
                 "cannot open \"t.npz:of/a.npy\" for reading");
    assert_null(a.values);
    PUT("w.npz", weights);
    assert_fails(kd, kd_npy_read(kd, "w.npz", &a), KD_ERR_FORMAT, "holds 9 arrays: 0.weight, 0.bias, 1.weight, ");
    PUT("n.npz", none);
    assert_fails(kd, kd_npy_read(kd, "n.npz", &a), KD_ERR_FORMAT,
                 "\"n.npz\" is no valid .npz file: it holds no array");
    assert_fails(kd, kd_npy_read(kd, "n.npz:x", &a), KD_ERR_FORMAT, "it holds no array");
    PUT("c.npz", compressed);
    assert_fails(kd, kd_npy_read(kd, "c.npz", &a), KD_ERR_FORMAT,
                 "numpy.savez('stored.npz', **numpy.load('c.npz'))\"");
    PUT("t.pt", torch);
    assert_fails(kd, kd_npy_read(kd, "t.pt", &a), KD_ERR_FORMAT,
                 "its member \"archive/data.pkl\" is no array; what torch.save writes is no .npz");
    disk_put("s.npz", "x", 1);
    assert_fails(kd, kd_npy_read(kd, "s.npz:train", &a), KD_ERR_FORMAT, "it has only 1 bytes");
}

/* The list of names ends before the sentence does. */
static void test_many_names(void **state)
{
    kd_array a;
    (void)state;
    PUT("w.npz", weights);
    assert_fails(kd, kd_npy_read(kd, "w.npz:none", &a), KD_ERR_FORMAT, "1.num_batches_tracked, 4.weight, 4.bias");
}

static void test_weights(void **state)
{
    static const char *const names[] = {"0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean"};
    static const int counts[] = {18, 2, 2, 2, 2};
    kd_model *m = create();
    float values[96];
    uint64_t hash;
    int k, i;
    (void)state;
    PUT("w", weights);
    assert_ok(kd, kd_model_load_weights(m, "w"));
    for (k = 0; k < 5; ++k) {
        assert_ok(kd, kd_model_get_tensor(m, names[k], values, counts[k]));
        for (i = 0; i < counts[k]; ++i) assert_true(values[i] == (float)i / 8 - (float)k);
    }
    assert_ok(kd, kd_model_get_tensor(m, "4.weight", values, 96));
    for (i = 0; i < 96; ++i) assert_true(values[i] == (float)i / 8 - 5);
    assert_ok(kd, kd_model_get_tensor(m, "4.bias", values, 3));
    assert_true(values[0] == 1 && values[1] == -2 && values[2] == 3);
    assert_true(m->batches_seen == 1234567890123);
    hash = kd_model_hash(m);
    PUT("w", several);
    assert_fails(kd, kd_model_load_weights(m, "w"), KD_ERR_FORMAT, "kd_model_load_weights: \"w\"");
    PUT("w", columns);
    assert_fails(kd, kd_model_load_weights(m, "w"), KD_ERR_FORMAT,
                 "kd_model_load_weights: \"w:4.weight\" is in Fortran order; save np.ascontiguousarray(x) instead");
    PUT("w", compressed);
    assert_fails(kd, kd_model_load_weights(m, "w"), KD_ERR_FORMAT, "as by np.savez_compressed");
    PUT("w", torch);
    assert_fails(kd, kd_model_load_weights(m, "w"), KD_ERR_FORMAT, "what torch.save writes is no .npz");
    PUT("w", none);
    assert_int_equal(kd_model_load_weights(m, "w"), KD_ERR_FORMAT);
    assert_true(kd_model_hash(m) == hash);
    kd_model_destroy(m);
}

/* ---- broken archives -------------------------------------------------------------------------------------- */

/* Of npz_one: the directory's one entry, and what says where it is. */
typedef struct archive {
    unsigned char bytes[1024];
    size_t size, entry, last, local;
} archive;

static archive archive_of_one(void)
{
    archive a;
    memset(&a, 0, sizeof a);
    a.size = sizeof npz_one;
    memcpy(a.bytes, npz_one, a.size);
    a.last = a.size - 22;
    a.entry = (size_t)kd__load_le(a.bytes + a.last + 16, 4);
    return a;
}

static void refused(archive a, size_t at, uint64_t value, int bytes, const char *message)
{
    kd_array array;
    kd__store_le(a.bytes + at, value, bytes);
    disk_put("a", a.bytes, a.size);
    assert_fails(kd, kd_npy_read(kd, "a", &array), KD_ERR_FORMAT, message);
    assert_null(array.values);
}

static void test_broken(void **state)
{
    const archive a = archive_of_one();
    const size_t e = a.entry, extra = e + 46 + 9;
    (void)state;
    refused(a, a.last, 0, 4, "\"a\" is no valid .npz file: it has no directory at its end; is it cut off?");
    refused(a, a.last + 16, 0xfffffff0u, 4, "its directory would be 55 bytes at 4294967280 of");
    refused(a, a.last + 12, 1000, 4, "its directory would be 1000 bytes at");
    refused(a, a.last + 16, 0xffffffffu, 4, "its directory of 64 bits is not where it should be");
    refused(a, a.last + 12, 0xffffffffu, 4, "its directory of 64 bits is not where it should be");
    refused(a, a.last + 10, 0xffff, 2, "its directory of 64 bits is not where it should be");
    refused(a, a.last + 12, 54, 4, "its directory is broken");
    refused(a, a.last + 12, 45, 4, "its directory is broken");
    refused(a, e, 0, 4, "its directory is broken");
    refused(a, e + 28, 10, 2, "its directory is broken");
    refused(a, e + 30, 65535, 2, "its directory is broken");
    refused(a, e + 32, 1, 2, "its directory is broken");
    refused(a, e + 46, 0xff, 1, "the name of a member is no UTF-8");
    refused(a, e + 46, 0, 1, "the name of a member is no UTF-8");
    refused(a, e + 46 + 8, 'z', 1, "its member \"arr_0.npz\" is no array");
    refused(a, e + 10, 12, 2, "its member \"arr_0\" is compressed or encrypted in a way that is not known");
    refused(a, e + 8, 1, 2, "its member \"arr_0\" is compressed or encrypted");
    refused(a, e + 16, 12345, 4, "its member \"arr_0\" is damaged: its contents do not match its checksum");
    refused(a, e + 20, 0, 4, "its member \"arr_0\" is not where its directory says");
    refused(a, e + 24, 0xffffffffu, 4, "its member \"arr_0\" is not where its directory says");
    refused(a, e + 42, 0xffffffffu, 4, "its member \"arr_0\" is not where its directory says");
    refused(a, e + 42, a.size - 29, 4, "its member \"arr_0\" is not where its directory says");
    refused(a, e + 42, 0x7fffffff, 4, "its member \"arr_0\" is not where its directory says");
    refused(a, e + 42, 1, 4, "its member \"arr_0\" is not where its directory says");
    refused(a, 26, 65535, 2, "its member \"arr_0\" should have 152 bytes, more than are there");
    refused(a, 28, a.size - 30 - 9 - 151, 2, "its member \"arr_0\" should have 152 bytes, more than are there");
    refused(a, 28, 0, 2, "is damaged: its contents do not match");
    assert_int_equal(extra, a.last);
}

/* Files that were cut off, and with any byte changed: refused, or the same numbers. */
static void test_cut_and_changed(void **state)
{
    kd_array array;
    kd_model *m = create();
    const uint64_t hash = kd_model_hash(m);
    unsigned char *bytes = (unsigned char *)malloc(sizeof npz_weights);
    size_t i;
    (void)state;
    for (i = 0; i < sizeof npz_one; ++i) {
        disk_put("a", npz_one, i);
        assert_int_equal(kd_npy_read(kd, "a", &array), KD_ERR_FORMAT);
    }
    for (i = 0; i < sizeof npz_one; ++i) {
        archive a = archive_of_one();
        a.bytes[i] ^= 0x20;
        disk_put("a", a.bytes, a.size);
        if (kd_npy_read(kd, "a", &array) == KD_OK) check_numbers(&array, 0, 3, 2);
        kd_array_free(kd, &array);
    }
    for (i = 0; i < sizeof npz_weights; i += 7) {
        disk_put("w", npz_weights, i);
        assert_int_equal(kd_model_load_weights(m, "w"), KD_ERR_FORMAT);
        assert_true(kd_model_hash(m) == hash);
    }
    memcpy(bytes, npz_weights, sizeof npz_weights);
    bytes[200] ^= 1; /* in the first array */
    disk_put("w", bytes, sizeof npz_weights);
    assert_fails(kd, kd_model_load_weights(m, "w"), KD_ERR_FORMAT, "its member \"0.weight\" is damaged");
    free(bytes);
    kd_model_destroy(m);
}

/* Members that share their bytes: they would take more time and memory than the file has bytes. */
static void test_shared_bytes(void **state)
{
    archive a = archive_of_one();
    const size_t length = a.last - a.entry;
    kd_array array;
    (void)state;
    memmove(a.bytes + a.last + length, a.bytes + a.last, 22); /* the same entry three times */
    memcpy(a.bytes + a.last, a.bytes + a.entry, length);
    a.last += length, a.size += length;
    kd__store_le(a.bytes + a.last + 12, 2 * length, 4);
    refused(a, 0, kd__load_le(a.bytes, 4), 4, "holds 2 arrays: arr_0, arr_0");
    memmove(a.bytes + a.last + length, a.bytes + a.last, 22);
    memcpy(a.bytes + a.last, a.bytes + a.entry, length);
    a.last += length, a.size += length;
    kd__store_le(a.bytes + a.last + 12, 3 * length, 4);
    refused(a, 0, kd__load_le(a.bytes, 4), 4, "its member \"arr_0\" should have 152 bytes, more than are there");
    (void)array;
}

/* 64 bits: in an entry, and for the directory itself. */
static void test_wide(void **state)
{
    const archive one = archive_of_one();
    archive a = one;
    kd_array array;
    unsigned char *e = a.bytes + a.entry, *extra = a.bytes + a.last;
    const uint64_t directory = a.entry, length = a.last - a.entry + 4 + 4 + 4 + 24;
    (void)state;
    kd__store_le(e + 20, 0xffffffffu, 4), kd__store_le(e + 24, 0xffffffffu, 4),
        kd__store_le(e + 42, 0xffffffffu, 4);
    kd__store_le(e + 30, 4 + 4 + 4 + 24, 2);
    kd__store_le(extra, 7, 2), kd__store_le(extra + 2, 4, 2), kd__store_le(extra + 4, 0, 4); /* something else */
    kd__store_le(extra + 8, 1, 2), kd__store_le(extra + 10, 24, 2);
    kd__store_le(extra + 12, 152, 8), kd__store_le(extra + 20, 152, 8), kd__store_le(extra + 28, 0, 8);
    a.last += 36, a.size += 36;
    memcpy(a.bytes + a.last, one.bytes + one.last, 22);
    kd__store_le(a.bytes + a.last + 12, length, 4);
    disk_put("a", a.bytes, a.size);
    assert_ok(kd, kd_npy_read(kd, "a", &array));
    check_numbers(&array, 0, 3, 2);
    kd_array_free(kd, &array);
    refused(a, (size_t)(extra - a.bytes) + 10, 23, 2, "is not where its directory says");
    refused(a, (size_t)(extra - a.bytes) + 10, 16, 2, "is not where its directory says");
    refused(a, (size_t)(extra - a.bytes) + 10, 25, 2, "is not where its directory says");
    refused(a, (size_t)(extra - a.bytes) + 2, 40, 2, "is not where its directory says");
    refused(a, (size_t)(extra - a.bytes) + 8, 2, 2, "is not where its directory says");
    refused(a, (size_t)(extra - a.bytes) + 28, UINT64_MAX, 8, "is not where its directory says");
    refused(a, (size_t)(extra - a.bytes) + 12, UINT64_MAX, 8, "is not where its directory says");
    kd__store_le(extra + 12, UINT64_MAX - 100, 8);
    refused(a, (size_t)(extra - a.bytes) + 20, UINT64_MAX - 100, 8, "bytes, more than are there");
    kd__store_le(extra + 12, 152, 8);
    memmove(a.bytes + a.last + 76, a.bytes + a.last, 22);
    e = a.bytes + a.last;
    memset(e, 0, 76);
    memcpy(e, "PK\6\6", 4), memcpy(e + 56, "PK\6\7", 4);
    kd__store_le(e + 40, length, 8), kd__store_le(e + 48, directory, 8), kd__store_le(e + 64, a.last, 8);
    memset(e + 76 + 8, 255, 12); /* counts, length and place of the directory */
    a.size += 76;
    disk_put("a", a.bytes, a.size);
    assert_ok(kd, kd_npy_read(kd, "a", &array));
    check_numbers(&array, 0, 3, 2);
    kd_array_free(kd, &array);
    refused(a, a.last, 0, 4, "its directory of 64 bits is not where it should be");
    refused(a, a.last + 56, 0, 4, "its directory of 64 bits is not where it should be");
    refused(a, a.last + 64, a.last + 21, 8, "its directory of 64 bits is not where it should be");
    refused(a, a.last + 64, UINT64_MAX - 3, 8, "its directory of 64 bits is not where it should be");
    refused(a, a.last + 40, UINT64_MAX, 8, "its directory would be 18446744073709551615 bytes");
    refused(a, a.last + 48, UINT64_MAX - 1, 8, "bytes at 18446744073709551614 of");
    a.bytes[a.size] = 'c'; /* a comment */
    a.size += 1;
    disk_put("a", a.bytes, a.size);
    assert_ok(kd, kd_npy_read(kd, "a", &array));
    kd_array_free(kd, &array);
}

/* Any read and any request for memory fails. */
static void test_failing(void **state)
{
    kd_array array;
    kd_model *m = create();
    const uint64_t hash = kd_model_hash(m);
    int i, weights;
    (void)state;
    PUT("w.npz", weights);
    for (weights = 0; weights < 2; ++weights) {
        for (i = 1;; ++i) {
            kd_result result;
            disk.calls = 0, disk.fail_at = i, disk.halfway = i % 2;
            result = weights ? kd_model_load_weights(m, "w.npz") : kd_npy_read(kd, "w.npz:4.weight", &array);
            disk.fail_at = 0;
            if (result == KD_OK) break;
            assert_int_equal(result, KD_ERR_IO);
            if (weights) assert_true(kd_model_hash(m) == hash);
        }
        assert_true(i > 3);
        if (!weights) kd_array_free(kd, &array);
        for (i = 1;; ++i) {
            const int blocks = memory.blocks;
            kd_result result;
            memory.refuse_at = i;
            result = weights ? kd_model_load_weights(m, "w.npz") : kd_npy_read(kd, "w.npz:4.weight", &array);
            if (memory.refuse_at > 0) break;
            assert_int_equal(result, KD_ERR_MEMORY);
            assert_int_equal(memory.blocks, blocks);
            assert_int_equal(disk.open, 0);
        }
        memory.refuse_at = 0;
        assert_true(i > 3);
        if (!weights) kd_array_free(kd, &array);
    }
    kd_model_destroy(m);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, open_context, close_context)
    const struct CMUnitTest tests[] = {
        TEST(test_one_array),       TEST(test_many_names),   TEST(test_weights), TEST(test_broken),
        TEST(test_cut_and_changed), TEST(test_shared_bytes), TEST(test_wide),    TEST(test_failing),
    };
    return cmocka_run_group_tests_name("npz", tests, NULL, NULL);
}
