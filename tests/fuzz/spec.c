/* Model lines. A line that is understood makes a model that predicts, is understood again, and trains to the same
   bits on another instruction set and in another order of tasks. */
#include "fuzz.h"

enum {
    ONE_OF = 64 /* models that are trained, at five times the cost of all the rest */
};

static void backwards(void *user, int count, kd_task_fn task, void *arg)
{
    int i;
    (void)user;
    for (i = count - 1; i >= 0; --i) task(arg, i, i % 3);
}

static kd_model *understood(kd_ctx *kd, const char *line)
{
    kd_model *m = NULL;
    const kd_result result = kd_model_create(kd, line, 1, &m);
    if (result != KD_OK) {
        fuzz_check(result == KD_ERR_SPEC || result == KD_ERR_SHAPE || result == KD_ERR_MEMORY);
        fuzz_check(m == NULL && *kd_error(kd));
    }
    return m;
}

/* The description is cut where the room ends, and a plan for any model is made or refused. */
static void describe_and_plan(kd_ctx *kd, const kd_model *m)
{
    char text[512];
    kd_workspace *w = NULL;
    const size_t length = kd_model_describe(m, text, sizeof text);
    const kd_result result = kd_workspace_create(m, 2, &w);
    fuzz_check(strlen(text) == (length < sizeof text ? length : sizeof text - 1));
    fuzz_check(result == KD_OK || (result == KD_ERR_MEMORY && !w && *kd_error(kd)));
    kd_workspace_destroy(w);
}

/* One update from three samples; 0 if that was refused. */
static uint64_t trained(kd_ctx *kd, const char *line, size_t numbers)
{
    static float x[3 * FUZZ_NUMBERS];
    const int32_t labels[3] = {0, 1, 0};
    kd_model *m = understood(kd, line);
    kd_train_desc desc = kd_train_defaults();
    kd_data data;
    kd_result result;
    uint64_t hash = 0;
    int c, h, w, outputs;
    if (!m) return 0;
    kd_model_input(m, &c, &h, &w);
    outputs = kd_model_outputs(m);
    fuzz_pixels(x, 3 * numbers);
    data = kd_data_f32(x, labels, 3, c, h, w, outputs == 1 ? 2 : outputs);
    if (outputs == 1) desc.loss.kind = KD_LOSS_BCE;
    desc.epochs = 1;
    desc.augment.flip = 1;
    result = kd_train(m, &data, &desc);
    /* a model may end in an image: it is not trained */
    fuzz_check(result == KD_OK || result == KD_ERR_MEMORY || result == KD_ERR_NOT_FINITE || result == KD_ERR_SHAPE);
    fuzz_check(kd_model_save(m, "out") == KD_OK); /* refused if a weight is not finite */
    if (result == KD_OK) hash = kd_model_hash(m);
    kd_model_destroy(m);
    return hash;
}

/* The same bits on another instruction set with its tasks in another order. */
static void compare(kd_ctx *kd, const char *line, size_t numbers)
{
    static fuzz_memory memory;
    static kd_ctx *other;
    const kd_isa isa = kd_ctx_isa(kd);
    uint64_t hash, other_hash;
    if (!other) other = fuzz_context(&memory, isa == KD_ISA_AVX512 ? KD_ISA_AVX2 : isa, backwards);
    fuzz_begin(&memory);
    hash = trained(kd, line, numbers);
    other_hash = trained(other, line, numbers);
    fuzz_check(hash == other_hash || !hash || !other_hash);
    fuzz_end(&memory);
}

/* A line of any length takes a time in proportion. Its memory is that of its layers, which the context bounds. */
static void stretch(kd_ctx *kd, fuzz_memory *memory, const uint8_t *data, size_t size)
{
    size_t length;
    uint8_t *line = fuzz_stretched(data, size, 0, 0, &length);
    const fuzz_cost cost = fuzz_cost_begin(memory);
    if (!line) return;
    kd_model_destroy(understood(kd, (const char *)line));
    fuzz_cost_end(cost, length, FUZZ_MEMORY);
    free(line);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static fuzz_memory memory;
    static kd_ctx *kd;
    kd_model *m, *again;
    char *line = (char *)calloc(size + 1, 1);
    size_t numbers;
    if (!line) return 0;
    if (size) memcpy(line, data, size);
    if (!kd) kd = fuzz_context(&memory, KD_ISA_AUTO, NULL);
    fuzz_begin(&memory);
    m = understood(kd, line);
    if (m) {
        again = understood(kd, kd_model_spec(m));
        fuzz_check(!again || kd_model_hash(again) == kd_model_hash(m));
        kd_model_destroy(again);
        describe_and_plan(kd, m);
        if (fuzz_is_small(m, &numbers) && fuzz_one_of(ONE_OF, data, size)) compare(kd, line, numbers);
    }
    kd_model_destroy(m);
    if (fuzz_one_of(FUZZ_STRETCHES, data, size)) stretch(kd, &memory, data, size);
    fuzz_end(&memory);
    free(line);
    return 0;
}
