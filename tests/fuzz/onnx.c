/* ONNX files. What loads is a model: it can be saved as ONNX, loads again as the same one, and predicts; what does
   not leaves nothing behind. A file of data beside it has the bytes of the file itself. */
#include "fuzz.h"

static void use(kd_ctx *kd, const kd_model *m)
{
    static float x[FUZZ_NUMBERS], logits[FUZZ_NUMBERS];
    kd_model *again = NULL;
    size_t numbers;
    const kd_result saved = kd_model_save_onnx(m, "out", NULL);
    fuzz_check(saved == KD_OK || saved == KD_ERR_UNSUPPORTED || saved == KD_ERR_MEMORY);
    if (saved == KD_OK) {
        fuzz_input(fuzz_saved, fuzz_out.size);
        fuzz_check(kd_model_load_onnx(kd, "in", NULL, &again) == KD_OK);
        fuzz_check(kd_model_hash(again) == kd_model_hash(m));
        kd_model_destroy(again);
    }
    if (!fuzz_is_small(m, &numbers)) return;
    fuzz_pixels(x, numbers);
    fuzz_check(kd_predict(m, x, 1, logits) == KD_OK);
}

enum { EACH = 4096 }; /* bytes of memory a byte: a tensor or a node of two bytes takes a few hundred, and a layer */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static fuzz_memory memory;
    static kd_ctx *kd;
    kd_model *m = NULL;
    kd_result result;
    fuzz_cost cost;
    if (!kd) kd = fuzz_context(&memory, KD_ISA_AUTO, NULL);
    fuzz_input(data, size);
    fuzz_out.bytes = data, fuzz_out.size = size;
    fuzz_begin(&memory);
    cost = fuzz_cost_begin(&memory);
    result = kd_model_load_onnx(kd, "in", fuzz_one_of(4, data, size) ? "3x8x8" : NULL, &m);
    fuzz_cost_end(cost, size, EACH);
    if (result == KD_OK)
        use(kd, m);
    else if (result == KD_ERR_UNSUPPORTED || result == KD_ERR_IO || result == KD_ERR_DATA)
        fuzz_check(!m && *kd_error(kd));
    else
        fuzz_refused(kd, result, m);
    kd_model_destroy(m);
    fuzz_end(&memory);
    return 0;
}
