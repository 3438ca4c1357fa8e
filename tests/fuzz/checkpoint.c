/* Checkpoints. What loads can be trained on, to its end unless its numbers are huge; what does not leaves model and
   training as they were, so that the training goes on to the weights that it reaches without that file. */
#include "fuzz.h"
#include "training.h"

enum {
    ONE_OF = 64 /* refused files after which the training goes on to its end, at ten times a file's cost */
};

static fuzz_memory memory;
static kd_ctx *kd;
static small_training training; /* after its first step */

static void start(void)
{
    fuzz_check(small_training_open(kd, &training) == KD_OK);
    fuzz_check(kd_trainer_step(training.t, NULL) == KD_OK);
}

/* The hash of the weights at the end, or 0 where they would have grown beyond all bounds. The training starts
   again. */
static uint64_t finish(void)
{
    uint64_t hash = 0;
    kd_result result = KD_OK;
    while (result == KD_OK && !kd_trainer_done(training.t)) result = kd_trainer_step(training.t, NULL);
    if (result == KD_OK)
        hash = kd_model_hash(training.m);
    else
        fuzz_check(result == KD_ERR_NOT_FINITE && *kd_error(kd));
    small_training_close(&training);
    start();
    return hash;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint64_t first, last;
    kd_result result;
    fuzz_cost cost;
    if (!kd) {
        kd = fuzz_context(&memory, KD_ISA_SCALAR, NULL);
        start();
        first = kd_model_hash(training.m);
        last = finish();
    }
    fuzz_input(data, size);
    fuzz_begin(&memory);
    cost = fuzz_cost_begin(&memory);
    result = kd_trainer_load(training.t, "in");
    fuzz_cost_end(cost, size, 256);
    fuzz_end(&memory);
    if (result == KD_OK) {
        finish();
        return 0;
    }
    fuzz_check(result == KD_ERR_FORMAT || result == KD_ERR_DATA || result == KD_ERR_NOT_FINITE ||
               result == KD_ERR_MEMORY || result == KD_ERR_ARGUMENT);
    fuzz_check(*kd_error(kd) && kd_model_hash(training.m) == first && kd_trainer_position(training.t).images == 2);
    if (fuzz_one_of(ONE_OF, data, size)) fuzz_check(finish() == last);
    return 0;
}
