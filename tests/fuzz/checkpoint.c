/* Checkpoints. What loads can be trained on to its end; what does not leaves model and training as they were. */
#include "fuzz.h"
#include "training.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static fuzz_memory memory;
    kd_ctx *kd = fuzz_context(&memory, KD_ISA_SCALAR, NULL);
    small_training s;
    kd_result result;
    uint64_t hash;
    fuzz_input(data, size);
    fuzz_check(small_training_open(kd, &s) == KD_OK);
    fuzz_check(kd_trainer_step(s.t, NULL) == KD_OK);
    hash = kd_model_hash(s.m);
    result = kd_trainer_load(s.t, "in");
    if (result != KD_OK) {
        fuzz_check(result == KD_ERR_FORMAT || result == KD_ERR_DATA || result == KD_ERR_NOT_FINITE ||
                   result == KD_ERR_MEMORY || result == KD_ERR_ARGUMENT);
        fuzz_check(*kd_error(kd) && kd_model_hash(s.m) == hash && kd_trainer_position(s.t).images == 2);
    }
    while (!kd_trainer_done(s.t)) fuzz_check(kd_trainer_step(s.t, NULL) == KD_OK);
    small_training_close(&s);
    fuzz_close(kd, &memory);
    return 0;
}
