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

enum { EACH = 1024 }; /* bytes of memory a byte: a layer, with its names, takes a word */

/* A header of any length takes a time in proportion. */
static void stretch(kd_ctx *kd, fuzz_memory *memory, const uint8_t *data, size_t size)
{
    size_t length;
    uint8_t *longer = fuzz_stretched(data, size, 8, 8, &length);
    const fuzz_cost cost = fuzz_cost_begin(memory);
    kd_model *m = NULL;
    if (!longer) return;
    fuzz_input(longer, length);
    if (kd_model_load(kd, "in", &m) == KD_OK) kd_model_destroy(m);
    fuzz_cost_end(cost, length, EACH);
    free(longer);
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
    fuzz_cost cost;
    if (!kd) kd = fuzz_context(&memory, KD_ISA_AUTO, NULL);
    if (!target) {
        fuzz_check(kd_model_create(kd, line, 7, &target) == KD_OK);
        hash = kd_model_hash(target);
    }
    fuzz_input(data, size);
    fuzz_begin(&memory);
    cost = fuzz_cost_begin(&memory);
    result = kd_model_load(kd, "in", &m);
    fuzz_cost_end(cost, size, EACH);
    if (result == KD_OK)
        use(kd, m);
    else
        fuzz_refused(kd, result, m);
    kd_model_destroy(m);
    if (fuzz_one_of(FUZZ_STRETCHES, data, size)) stretch(kd, &memory, data, size);
    fuzz_input(data, size);
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
