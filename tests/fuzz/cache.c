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

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static fuzz_memory memory;
    kd_ctx *kd = fuzz_context(&memory, KD_ISA_AUTO, NULL);
    kd_cache *c = NULL;
    kd_result result;
    fuzz_input(data, size);
    result = kd_cache_load(kd, "in", &c);
    if (result == KD_OK)
        use(kd, c);
    else
        fuzz_refused(kd, result, c);
    kd_cache_destroy(c);
    fuzz_close(kd, &memory);
    return 0;
}
