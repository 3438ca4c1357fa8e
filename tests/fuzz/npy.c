/* .npy files, and .npz archives of them. What is read has the numbers that its shape says, and comes back the same
   from a file of our own. */
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

static size_t number_at(const uint8_t *data, size_t at, int bytes)
{
    size_t value = 0;
    while (bytes-- > 0) value = value << 8 | data[at + (size_t)bytes];
    return value;
}

static uint32_t checksum(const uint8_t *data, size_t size)
{
    uint32_t crc = 0xffffffffu;
    size_t i;
    int bit;
    for (i = 0; i < size; ++i) {
        crc ^= data[i];
        for (bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
    }
    return ~crc;
}

/* The checksums of an archive's members become right, so that what is behind them is reached. 0 if it has none. */
static int mend(uint8_t *data, size_t size)
{
    size_t at, mended = 0;
    if (size < 22 || memcmp(data + size - 22, "PK\5\6", 4) != 0) return 0;
    at = number_at(data, size - 22 + 16, 4);
    while (at < size && size - at > 46 && memcmp(data + at, "PK\1\2", 4) == 0) {
        const size_t length = number_at(data, at + 20, 4), local = number_at(data, at + 42, 4);
        const size_t body = local < size && size - local > 30
                                ? local + 30 + number_at(data, local + 26, 2) + number_at(data, local + 28, 2)
                                : size;
        if (body < size && length <= size - body) {
            const uint32_t crc = checksum(data + body, length);
            int i;
            for (i = 0; i < 4; ++i) data[at + 16 + (size_t)i] = (uint8_t)(crc >> 8 * i);
            ++mended;
        }
        at += 46 + number_at(data, at + 28, 2) + number_at(data, at + 30, 2) + number_at(data, at + 32, 2);
    }
    return mended > 0;
}

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
    longer = (uint8_t *)malloc(size + 1);
    if (longer && size) memcpy(longer, data, size);
    if (longer && mend(longer, size)) read_one(kd, &memory, longer, size);
    free(longer);
    fuzz_close(kd, &memory);
    return 0;
}
