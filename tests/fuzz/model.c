/* Saved models. What loads can be saved and loads again as the same model; what does not leaves nothing behind, and
   weights that are refused leave the model as it was. */
#include "fuzz.h"

static void use(kd_ctx *kd, const kd_model *m)
{
    static float x[FUZZ_NUMBERS], logits[FUZZ_NUMBERS];
    kd_model *again = NULL;
    uint8_t *saved;
    size_t size, numbers;
    fuzz_check(kd_model_save(m, "out") == KD_OK);
    saved = fuzz_copy_saved(&size);
    fuzz_check(kd_model_load(kd, "out", &again) == KD_OK);
    fuzz_check(kd_model_save(again, "out") == KD_OK && fuzz_saved_is(saved, size));
    fuzz_check(kd_model_hash(again) == kd_model_hash(m));
    kd_model_destroy(again);
    free(saved);
    if (!fuzz_is_small(m, &numbers)) return;
    fuzz_pixels(x, numbers);
    fuzz_check(kd_predict(m, x, 1, logits) == KD_OK);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char line[] = "1x6x6: conv 2 3, batchnorm, relu, dense 3";
    static fuzz_memory memory;
    static kd_ctx *kd;
    static kd_model *target;
    static uint64_t hash;
    kd_model *m = NULL;
    kd_result result;
    if (!kd) kd = fuzz_context(&memory, KD_ISA_AUTO, NULL);
    if (!target) {
        fuzz_check(kd_model_create(kd, line, 7, &target) == KD_OK);
        hash = kd_model_hash(target);
    }
    fuzz_input(data, size);
    fuzz_begin(&memory);
    result = kd_model_load(kd, "in", &m);
    if (result == KD_OK)
        use(kd, m);
    else
        fuzz_refused(kd, result, m);
    kd_model_destroy(m);
    result = kd_model_load_weights(target, "in");
    fuzz_end(&memory);
    if (result != KD_OK) {
        fuzz_check(kd_model_hash(target) == hash);
    } else {
        kd_model_destroy(target);
        target = NULL;
    }
    return 0;
}
