/* Teacher caches. What loads is finite, and is saved and loaded again as the same bits. */
#include "fuzz.h"

static void use(kd_ctx *kd, const kd_cache *c)
{
    kd_cache *again = NULL;
    uint8_t *saved;
    size_t size;
    fuzz_check(kd_cache_save(c, "out") == KD_OK);
    saved = fuzz_copy_saved(&size);
    fuzz_check(kd_cache_load(kd, "out", &again) == KD_OK);
    fuzz_check(kd_cache_save(again, "out") == KD_OK && fuzz_saved_is(saved, size));
    fuzz_check(kd_cache_logits(c, 0) && !kd_cache_logits(c, -1));
    kd_cache_destroy(again);
    free(saved);
}

enum { EACH = 256 }; /* bytes of memory a byte: an entry of the header has few letters */

static void load(kd_ctx *kd, fuzz_memory *memory, const uint8_t *data, size_t size)
{
    const fuzz_cost cost = fuzz_cost_begin(memory);
    kd_cache *c = NULL;
    kd_result result;
    fuzz_input(data, size);
    result = kd_cache_load(kd, "in", &c);
    fuzz_cost_end(cost, size, EACH);
    if (result == KD_OK)
        use(kd, c);
    else
        fuzz_refused(kd, result, c);
    kd_cache_destroy(c);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static fuzz_memory memory;
    kd_ctx *kd = fuzz_context(&memory, KD_ISA_AUTO, NULL);
    uint8_t *longer;
    size_t length;
    load(kd, &memory, data, size);
    longer = fuzz_one_of(FUZZ_STRETCHES, data, size) ? fuzz_stretched(data, size, 8, 8, &length) : NULL;
    if (longer) load(kd, &memory, longer, length);
    free(longer);
    fuzz_close(kd, &memory);
    return 0;
}
