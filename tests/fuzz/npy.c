/* .npy files. What is read has the numbers that its shape says, and comes back the same from a file of our own. */
#include "fuzz.h"

static void use(kd_ctx *kd, const kd_array *a)
{
    kd_array again;
    int64_t count = 1;
    int i;
    fuzz_check(a->rank >= 0 && a->rank <= 8);
    for (i = 0; i < a->rank; ++i) count *= a->shape[i];
    fuzz_check(a->count == count);
    fuzz_check(kd_npy_write(kd, "out", a->values, a->rank, a->shape) == KD_OK);
    fuzz_check(kd_npy_read(kd, "out", &again) == KD_OK);
    fuzz_check(again.count == count && again.rank == a->rank);
    fuzz_check(memcmp(again.values, a->values, (size_t)count * sizeof(float)) == 0);
    fuzz_check(memcmp(again.shape, a->shape, sizeof a->shape) == 0);
    kd_array_free(kd, &again);
}

enum { EACH = 16 }; /* bytes of memory a byte: the file, and a float for every byte of it */

static void read_one(kd_ctx *kd, fuzz_memory *memory, const uint8_t *data, size_t size)
{
    const fuzz_cost cost = fuzz_cost_begin(memory);
    kd_array array;
    kd_result result;
    fuzz_input(data, size);
    result = kd_npy_read(kd, "in", &array);
    fuzz_cost_end(cost, size, EACH);
    if (result == KD_OK)
        use(kd, &array);
    else
        fuzz_refused(kd, result, array.values);
    kd_array_free(kd, &array);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static fuzz_memory memory;
    kd_ctx *kd = fuzz_context(&memory, KD_ISA_AUTO, NULL);
    uint8_t *longer;
    size_t length;
    read_one(kd, &memory, data, size);
    longer = fuzz_one_of(FUZZ_STRETCHES, data, size) ? fuzz_stretched(data, size, 10, 2, &length) : NULL;
    if (longer) read_one(kd, &memory, longer, length);
    free(longer);
    fuzz_close(kd, &memory);
    return 0;
}
