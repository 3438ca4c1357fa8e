/* Models: the language they are written in, the builder, tensors, hashes, prediction, evaluation; and contexts. */
#include "support.h"

/* Every test gets a context whose memory is counted, and must have returned all of it at the end. */
static test_memory memory;
static kd_ctx *kd;

static int open_context(void **state)
{
    const kd_ctx_desc desc = test_memory_desc(&memory);
    (void)state;
    return kd_open(&desc, &kd);
}

static int close_context(void **state)
{
    (void)state;
    test_memory_close(kd, &memory);
    return 0;
}

static kd_model *create(const char *spec, uint64_t seed)
{
    kd_model *m;
    if (kd_model_create(kd, spec, seed, &m) != KD_OK) fail_msg("%s: %s", spec, kd_error(kd));
    return m;
}

static uint64_t hash_of(const char *spec)
{
    kd_model *m = create(spec, 1);
    const uint64_t hash = kd_model_hash(m);
    kd_model_destroy(m);
    return hash;
}

static void repeat(char *text, const char *part, int times)
{
    for (*text = 0; times > 0; --times, text += strlen(part)) strcpy(text, part);
}

/* ---- contexts and names ---------------------------------------------------------------------------------- */

static void test_context(void **state)
{
    kd_ctx_desc desc = kd_ctx_defaults();
    kd_ctx *other = kd;
    int isa;
    (void)state;
    assert_int_equal(kd_open(NULL, NULL), KD_ERR_ARGUMENT);
    desc.cookie = 0;
    assert_int_equal(kd_open(&desc, &other), KD_ERR_DEFAULTS);
    assert_null(other);
    desc = kd_ctx_defaults();
    for (desc.threads = 0; desc.threads <= 257; desc.threads += 257) {
        other = kd;
        assert_int_equal(kd_open(&desc, &other), KD_ERR_ARGUMENT);
        assert_null(other);
    }
    desc = kd_ctx_defaults();
    desc.allocator.alloc = NULL;
    assert_int_equal(kd_open(&desc, &other), KD_ERR_ARGUMENT);
    desc = kd_ctx_defaults();
    desc.allocator.free = NULL;
    assert_int_equal(kd_open(&desc, &other), KD_ERR_ARGUMENT);
    desc = kd_ctx_defaults();
    for (isa = KD_ISA_SCALAR; isa <= KD_ISA_COUNT; ++isa) {
        desc.isa = (kd_isa)isa;
        assert_int_equal(kd_open(&desc, &other),
                         kd_isa_available(desc.isa) ? (kd_result)KD_OK : KD_ERR_UNSUPPORTED);
        if (other) assert_int_equal(kd_ctx_isa(other), isa);
        kd_close(other);
    }
    assert_true(kd_isa_available(KD_ISA_SCALAR));
    assert_false(kd_isa_available(KD_ISA_AVX2) && kd_isa_available(KD_ISA_NEON)); /* no processor has both */
    assert_int_equal(kd_open(NULL, &other), KD_OK);
    assert_int_not_equal(kd_ctx_isa(other), KD_ISA_AUTO);
    assert_true(kd_isa_available(kd_ctx_isa(other)));
    assert_string_equal(kd_error(other), "");
    kd_close(other);
    kd_close(NULL);
    assert_string_equal(kd_error(NULL), "");
    test_memory_close(kd, &memory);
    desc = test_memory_desc(&memory);
    memory.refuse_at = 1;
    assert_int_equal(kd_open(&desc, &kd), KD_ERR_MEMORY);
    assert_null(kd);
    assert_int_equal(kd_open(&desc, &kd), KD_OK);
}

static void test_names(void **state)
{
    (void)state;
    assert_string_equal(kd_version(), KD_VERSION);
    assert_string_equal(kd_result_name(KD_OK), "KD_OK");
    assert_string_equal(kd_result_name(KD_ERR_NOT_FINITE), "KD_ERR_NOT_FINITE");
    assert_string_equal(kd_result_meaning(KD_ERR_SPEC), "a model line cannot be understood");
    assert_string_equal(kd_result_name((kd_result)-99), "unknown result");
    assert_string_equal(kd_isa_name(KD_ISA_AVX2), "avx2");
    assert_string_equal(kd_isa_name(KD_ISA_COUNT), "unknown");
    assert_string_equal(kd_optimizer_name(KD_ADAMW), "adamw");
    assert_string_equal(kd_optimizer_name(KD_OPTIMIZER_COUNT), "unknown");
    assert_string_equal(kd_schedule_name(KD_COSINE), "cosine");
    assert_string_equal(kd_schedule_name(KD_SCHEDULE_COUNT), "unknown");
    assert_string_equal(kd_loss_name(KD_LOSS_HINTON), "hinton");
    assert_string_equal(kd_loss_name(KD_LOSS_COUNT), "unknown");
}

/* An options struct of zeros, which some of them would be happy with, must never be taken. */
static void test_options_need_defaults(void **state)
{
    kd_model *m = create("2: dense 2", 1);
    const float x[2] = {1, 2};
    const int32_t labels[1] = {0};
    kd_data data = kd_data_f32(x, labels, 1, 2, 1, 1, 2), no_data;
    kd_train_desc train;
    kd_evaluate_desc evaluate;
    kd_loss_desc loss;
    kd_metrics metrics;
    kd_cache *cache;
    double value;
    (void)state;
    memset(&no_data, 0, sizeof no_data);
    memset(&train, 0, sizeof train);
    memset(&evaluate, 0, sizeof evaluate);
    memset(&loss, 0, sizeof loss);
    assert_fails(kd, kd_train(m, &data, &train), KD_ERR_DEFAULTS, "kd_train_defaults()");
    train = kd_train_defaults();
    train.loss = loss;
    assert_fails(kd, kd_train(m, &data, &train), KD_ERR_DEFAULTS, "kd_loss_defaults()");
    assert_fails(kd, kd_train(m, &no_data, NULL), KD_ERR_DEFAULTS, "kd_data_u8, kd_data_f32 or kd_data_stream");
    assert_fails(kd, kd_evaluate_with(m, &data, &evaluate, &metrics), KD_ERR_DEFAULTS, "kd_evaluate_defaults()");
    assert_fails(kd, kd_evaluate(m, &no_data, &metrics), KD_ERR_DEFAULTS, "kd_evaluate: the data must start from");
    assert_fails(kd, kd_evaluate(m, NULL, &metrics), KD_ERR_DEFAULTS, "kd_evaluate: the data must start from");
    assert_fails(kd, kd_cache_create(m, &no_data, NULL, 1, 1, &cache), KD_ERR_DEFAULTS, "kd_cache_create");
    assert_fails(kd, kd_loss(kd, &loss, x, NULL, labels, 1, 2, NULL, &value), KD_ERR_DEFAULTS,
                 "kd_loss_defaults()");
    assert_int_equal(kd_train(NULL, &data, NULL), KD_ERR_ARGUMENT);
    assert_int_equal(kd_evaluate(NULL, &data, &metrics), KD_ERR_ARGUMENT);
    kd_model_destroy(m);
}

/* ---- the language ---------------------------------------------------------------------------------------- */

typedef struct shape_case {
    const char *spec, *shape; /* of the last layer that was written */
    int64_t parameters, macs;
} shape_case;

static void test_layers_and_options(void **state)
{
    static const shape_case cases[] = {
        {"7: dense 3", "3", 7 * 3 + 3, 7 * 3},
        {"7: dense 3 0", "3", 7 * 3, 7 * 3},
        {"7: dense bias=0 units=3", "3", 7 * 3, 7 * 3},
        {"2x3x4: dense 5", "5", 24 * 5 + 5, 24 * 5},
        {"1x28x20: conv 4 3", "4x26x18", 4 * 9 + 4, 4 * 26 * 18 * 9},
        {"1x28x20: conv 4 3 bias=0", "4x26x18", 4 * 9, 4 * 26 * 18 * 9},
        {"2x28x20: conv 4 5x3", "4x24x18", 4 * 2 * 15 + 4, 4 * 24 * 18 * 2 * 15},
        {"2x28x20: conv 4 3 2", "4x13x9", 4 * 18 + 4, 4 * 13 * 9 * 18},
        {"2x28x20: conv 4 3 stride=2x1", "4x13x18", 4 * 18 + 4, 4 * 13 * 18 * 18},
        {"2x28x20: conv 4 3 1 1", "4x28x20", 4 * 18 + 4, 4 * 28 * 20 * 18},
        {"2x28x20: conv 4 3 pad=0x2", "4x26x22", 4 * 18 + 4, 4 * 26 * 22 * 18},
        {"2x28x20: conv 4 5x3 pad=same", "4x28x20", 4 * 2 * 15 + 4, 4 * 28 * 20 * 2 * 15},
        {"2x28x20: conv 4 3 stride=2 pad=same", "4x14x10", 4 * 18 + 4, 4 * 14 * 10 * 18},
        {"4x9x9: conv 6 3 groups=2", "6x7x7", 6 * 2 * 9 + 6, 6 * 7 * 7 * 2 * 9},
        {"4x9x9: conv 4 3 groups=4", "4x7x7", 4 * 9 + 4, 4 * 7 * 7 * 9},
        {"4x9x9: conv 8 3 groups=4", "8x7x7", 8 * 9 + 8, 8 * 7 * 7 * 9},
        {"3x9x9: depthwise 3", "3x7x7", 3 * 9 + 3, 3 * 49 * 9},
        {"3x9x8: depthwise 3x2 stride=3x2 pad=1 bias=0", "3x3x5", 3 * 6, 3 * 15 * 6},
        {"3x9x9: depthwise 5 pad=same", "3x9x9", 3 * 25 + 3, 3 * 81 * 25},
        {"3x9x9: maxpool 2", "3x4x4", 0, 0},
        {"3x9x9: maxpool 3 stride=2 pad=1", "3x5x5", 0, 0},
        {"3x9x8: maxpool 3x2", "3x3x4", 0, 0},
        {"3x9x8: maxpool 3x2 1", "3x7x7", 0, 0},
        {"3x9x8: maxpool 2 ceil=1", "3x5x4", 0, 0},
        {"3x9x8: maxpool 3 2 ceil=1", "3x4x4", 0, 0},
        {"3x6x4: maxpool 2x3 3 pad=1 ceil=1", "3x3x2", 0, 0}, /* the next one would begin outside the image */
        {"3x6x5: maxpool 2 stride=3 ceil=1", "3x2x2", 0, 0},
        {"3x9x9: avgpool 2", "3x4x4", 0, 0},
        {"3x9x9: avgpool 3 stride=1x2 pad=1x0", "3x9x4", 0, 0},
        {"3x9x9: gap", "3x1x1", 0, 0},
        {"3x9x9: batchnorm", "3x9x9", 6, 0},
        {"9: batchnorm eps=0.1 momentum=.5", "9", 18, 0},
        {"3x2x2: flatten, batchnorm 1e-3", "12", 24, 0},
        {"3x9x9: dropout 0.5", "3x9x9", 0, 0},
        {"9: dropout probability=0", "9", 0, 0},
        {"3x2x2: flatten", "12", 0, 0},
        {"3x2x2: relu, relu6, leakyrelu, leakyrelu 0.2, gelu, silu, hardswish, sigmoid, tanh", "3x2x2", 0, 0},
        {"9: leakyrelu slope=0", "9", 0, 0},
        {"3x6x6: residual(relu)", "3x6x6", 0, 0},
        {"1x100000000x1: relu", "1x100000000x1", 0, 0},
        {"3x6x6: residual(conv 3 3 pad=1)", "3x6x6", 3 * 27 + 3, 3 * 36 * 27},
        /* where the shapes differ, the input passes a 1x1 convolution with a bias */
        {"3x6x6: residual(conv 5 3 pad=1)", "5x6x6", 5 * 27 + 5 + 5 * 3 + 5, 5 * 36 * 27 + 5 * 36 * 3},
        {"3x6x6: residual(conv 3 3 stride=2x3 pad=1)", "3x3x2", 3 * 27 + 3 + 3 * 3 + 3, 3 * 6 * 27 + 3 * 6 * 3},
        /* ... or without one and with a batchnorm, if the layers have a batchnorm */
        {"3x6x6: residual(conv 5 3 pad=1 bias=0, batchnorm)", "5x6x6", 5 * 27 + 10 + 15 + 10,
         5 * 36 * 27 + 5 * 36 * 3},
        {"2x4x6: residual(conv 2 1 stride=1x2)", "2x4x3", 2 * 6, 2 * 4 * 12},
        {"7: residual(dense 7)", "7", 56, 49},
        {"7: residual(dense 4)", "4", 32 + 32, 28 + 28},
        {"7: residual(dense 4, batchnorm)", "4", 32 + 8 + 28 + 8, 28 + 28},
        {"7: residual(residual(dense 4), dense 7)", "7", 64 + 35, 56 + 28},
        /* a batchnorm in an inner residual does not count for the outer one's body before it, but for its whole */
        {"3x6x6: residual(residual(conv 3 1, batchnorm), conv 4 1)", "4x6x6", 12 + 6 + 16 + 12 + 8,
         36 * 9 + 36 * 12 + 36 * 12},
        {"3x6x6: concat(conv 4 1 | conv 5 3 pad=1)", "9x6x6", 16 + 140, 36 * (12 + 135)},
        {"3x6x6: concat( | conv 5 1), concat(relu||)", "24x6x6", 20, 36 * 15},
        {"3x2x2: concat(flatten|gap, flatten)", "15", 0, 0},
        {"3x2x2: concat(flatten | conv 2 1, flatten)", "20", 8, 24},
        {"7: concat(dense 2|dense 3|)", "12", 40, 35},
        {"3x4x1: concat( | linear 2)", "5x4x1", 8, 24},
        {"4x8x8: concat(conv 8 3 stride=2 pad=1 | maxpool 2 ), residual(concat(conv 4 3 stride=2 pad=1 | conv 8 3 "
         "stride=2 pad=1, batchnorm))",
         "12x2x2", 296 + 436 + 872 + 16 + 144 + 24, 16 * 288 + 4 * (432 + 864 + 144)},
    };
    size_t i;
    (void)state;
    for (i = 0; i < sizeof cases / sizeof *cases; ++i) {
        kd_model *m = create(cases[i].spec, 1);
        const kd__node *last = &m->nodes[m->node_count - 1];
        const int shape = strcmp(last->name, "output") ? last->out : last->in;
        int c, h, w;
        if (strcmp(kd__shape_text(&m->values[shape].shape).chars, cases[i].shape) != 0)
            fail_msg("%s gives %s", cases[i].spec, kd__shape_text(&m->values[shape].shape).chars);
        if (kd_model_parameters(m) != cases[i].parameters || kd_model_macs(m) != cases[i].macs)
            fail_msg("%s has %lld parameters and %lld multiply-adds, expected %lld and %lld", cases[i].spec,
                     (long long)kd_model_parameters(m), (long long)kd_model_macs(m), (long long)cases[i].parameters,
                     (long long)cases[i].macs);
        assert_string_equal(kd_model_spec(m), cases[i].spec);
        kd_model_input(m, &c, &h, &w);
        assert_int_equal(c * h * w, kd__shape_count(&m->values[m->input].shape));
        kd_model_input(m, NULL, NULL, NULL);
        kd_model_destroy(m);
    }
}

/* What is written differently but means the same gives the same numbers ... */
static void test_spellings(void **state)
{
    static const char *const same[][2] = {
        {"1x9x9: conv 4 3 1 1", "  1x9x9:conv 4 3 pad=1"},
        {"1x9x9: conv 4 3 pad=1", "1x9x9 :\tconv kernel = 3x3\n channels =4  pad= 1x1 stride=1 ,relu6"},
        {"1x9x9: conv 4 3 pad=same", "1x9x9: conv 4 3 pad=1"},
        {"1x9x9: conv 4 3 pad=1", "1x9x9: conv 4 kernel=3 pad=1 groups=1 bias=1"},
        {"2x9x9: conv 2 3 groups=2", "2x9x9: depthwise 3"},
        {"1x9x9: maxpool 2", "1x9x9: maxpool 2 2 0"},
        {"7: dense 10", "7: dense 1e1"},
        {"7: batchnorm", "7: batchnorm 0.00001 0.10"},
        {"1x3x3: dense 4", "1x3x3: flatten, dense 4"},
        {"7: residual(dense 7,relu)", "7 :residual ( dense 7 , relu ) "},
        {"7: head: dense 3", "7: head :dense 3"},
        {"7: leakyrelu", "7: leakyrelu 0.01"},
        {"7: dense 10", "7 init=auto last=1 residual = 1 std=0.02 fan_out=0 : dense 10"},
        {"1x3x3 init=he: dense 4", "1x3x3  init = he\n:dense 4"},
    };
    char line[128];
    kd_model *m;
    size_t i;
    (void)state;
    for (i = 0; i < sizeof same / sizeof *same; ++i) {
        snprintf(line, sizeof line, "%s%s", same[i][0], strstr(same[i][1], "relu6") ? ", relu6" : "");
        if (hash_of(line) != hash_of(same[i][1])) fail_msg("\"%s\" and \"%s\" differ", line, same[i][1]);
    }
    m = create("\n 7 :\t dense 4,\r\n  relu \n", 1); /* and is kept on one line */
    assert_string_equal(kd_model_spec(m), "7 : dense 4, relu");
    kd_model_destroy(m);
}

/* ... and whatever changes the model changes its hash, even where no weight differs. */
static void test_hash_of_architectures(void **state)
{
    static const char *const lines[] = {"4x6x6: conv 4 3 pad=1",
                                        "4x6x6: conv 4 3 pad=1 bias=0",
                                        "4x6x6: conv 4 3 pad=1x0",
                                        "4x6x6: conv 4 3 pad=1 stride=2",
                                        "4x6x6: conv 4 3 pad=1 groups=2",
                                        "4x6x6: conv 4 3 pad=1 groups=4",
                                        "4x6x6: conv 5 3 pad=1",
                                        "4x6x6: conv 4 3x2 pad=1",
                                        "4x6x5: conv 4 3 pad=1",
                                        "4x6x6: tag: conv 4 3 pad=1",
                                        "4x6x6: relu",
                                        "4x6x6: tanh",
                                        "4x6x6: relu, relu",
                                        "4x6x6: residual(relu)",
                                        "4x6x6: residual(relu, relu)",
                                        "4x6x6: leakyrelu",
                                        "4x6x6: leakyrelu 0.02",
                                        "4x6x6: dropout 0.1",
                                        "4x6x6: dropout 0.2",
                                        "4x6x6: batchnorm",
                                        "4x6x6: batchnorm eps=2e-5",
                                        "4x6x6: batchnorm momentum=0.2",
                                        "4x6x6: maxpool 2",
                                        "4x6x6: avgpool 2",
                                        "4x6x6: maxpool 2 stride=1",
                                        "4x6x6: maxpool 2 pad=1",
                                        "4x6x6: gap",
                                        "144: relu",
                                        "4: relu",
                                        "4x1x1: relu"};
    uint64_t hashes[sizeof lines / sizeof *lines];
    size_t i, j;
    (void)state;
    for (i = 0; i < sizeof lines / sizeof *lines; ++i) {
        hashes[i] = hash_of(lines[i]);
        for (j = 0; j < i; ++j) {
            if (hashes[i] == hashes[j]) fail_msg("\"%s\" and \"%s\" have one hash", lines[i], lines[j]);
        }
    }
}

typedef struct spec_case {
    const char *spec, *message; /* after "model line, column " */
} spec_case;

static void check_spec_error(const char *spec, const char *message)
{
    kd_model *m = (kd_model *)&m;
    char wanted[512];
    const kd_result result = kd_model_create(kd, spec, 1, &m);
    snprintf(wanted, sizeof wanted, "model line, column %s", message);
    if (result != KD_ERR_SPEC || strcmp(kd_error(kd), wanted) != 0)
        fail_msg("\"%.80s\": %s, \"%s\", expected \"%s\"", spec, kd_result_name(result), kd_error(kd), wanted);
    assert_null(m);
}

#define ALL_LAYERS                                                                                                 \
    "there are dense, conv, depthwise, maxpool, avgpool, gap, batchnorm, dropout, flatten, quant, residual, "      \
    "concat, softtree, prompt, relu, relu6, leakyrelu, gelu, silu, hardswish, sigmoid, tanh, gelutanh, and for "   \
    "tokens embed, patch, tokens, classtoken, disttoken, prompttokens, sidetokens, position, encoder, layernorm, " \
    "attention, linear, droppath, token, meanpool and disthead"
#define INPUT_WANTED "a model starts with its input, such as 1x28x28: or 784:, of numbers from 1 to 1e8"
#define LONG "abcdefghijabcdefghijabcdefghijabcdefghi" /* a letter more is the longest tag */
#define TREE "abcdefghijabcdefghijabcdefgh"
#define INITS "auto, pytorch, he, glorot or trunc"
#define DEAD                                                                                                       \
    "residual=0 would leave a residual without gradients for ever, whose last layer with weights is followed by "  \
    "a relu or relu6"
#define NO_MORE "follows; layers are separated by commas"

static void test_spec_errors(void **state)
{
    static const spec_case cases[] = {
        /* the input */
        {"", "1: " INPUT_WANTED},
        {"dense 3", "1: " INPUT_WANTED},
        {"0: dense 3", "1: " INPUT_WANTED},
        {"-4: dense 3", "1: " INPUT_WANTED},
        {"2.5: dense 3", "1: " INPUT_WANTED},
        {"1x0x3: dense 3", "3: " INPUT_WANTED},
        {"1x2x: dense 3", "5: " INPUT_WANTED},
        {"100000001: dense 3", "1: " INPUT_WANTED},
        {"1x2: dense 3", "4: an image needs three sizes, channels x height x width, got two"},
        {"1x2x3x4: dense 3", "7: a colon must follow the input, such as 1x28x28: dense 10"},
        {"7 dense 3", "3: a colon must follow the input, such as 1x28x28: dense 10"},
        {"7", "2: a colon must follow the input, such as 1x28x28: dense 10"},
        {"100000x100000x1: gap", "16: the input is too large"},
        /* its options */
        {"7 init=he", "10: a colon must follow the input, such as 1x28x28: dense 10"},
        {"7 init=: relu", "8: init of the input must be " INITS ", got \"\""},
        {"7 init=He: relu", "8: init of the input must be " INITS ", got \"He\""},
        {"7 init=he2: relu", "8: init of the input must be " INITS ", got \"he2\""},
        {"7 init=he init=he: relu", "16: init of the input is given twice"},
        {"7 intit=he: relu", "3: the input has no option \"intit\"; did you mean \"init\"?"},
        {"7 init=he last=-1: relu", "16: last of the input must be a number from 0 to 1e6, got \"-1\""},
        {"7 residual=1e7: relu", "12: residual of the input must be a number from 0 to 1e6, got \"1e7\""},
        {"7 std=0.5: relu", "3: std goes with init=trunc"},
        {"7 init=glorot fan_out=1: relu", "3: fan_out goes with init=he"},
        {"7 fan_out=2: relu", "11: fan_out of the input must be 0 or 1, got \"2\""},
        {"7 residual=0: residual(dense 7, dropout 0.1, relu)", "3: " DEAD},
        {"7 residual=0: residual(dense 7, residual(dense 7), relu6)", "3: " DEAD},
        {"7 residual=0: residual(dense 7, residual(dense 7), gelu), residual(relu)", NULL},
        {"7 residual=0: residual(concat(dense 3 | dense 4, relu))", "3: " DEAD},
        {"7 residual=0: residual(concat(dense 3 | dense 4), relu)", "3: " DEAD},
        {"7 residual=0: residual(concat(dense 3 | dense 4), gelu), concat(relu | dense 2, relu)", NULL},
        {"7 residual=0.5: residual(dense 7, relu)", NULL},
        {"1x100000001x1: gap",
         "3: a model starts with its input, such as 1x28x28: or 784:, of numbers from 1 to 1e8"},
        /* where a layer should be */
        {"7:", "3: a layer is missing here"},
        {"7: dense 3,", "12: a layer is missing here"},
        {"7: dense 3, ", "13: a layer is missing here"},
        {"7: , dense 3", "4: expected a layer, got \",\""},
        {"7: 3", "4: expected a layer, got \"3\""},
        {"7: dense 3; relu", "10: units of dense must be a whole number from 1 to 1e8, got \"3;\""},
        {"7: dense 3)", "11: this parenthesis was never opened"},
        /* words */
        {"7: dens 3", "4: there is no layer \"dens\"; did you mean \"dense\"?"},
        {"7: Dense 3", "4: there is no layer \"Dense\"; did you mean \"dense\"?"},
        {"1x9x9: cnov 3 3", "8: there is no layer \"cnov\"; did you mean \"conv\"?"},
        {"1x9x9: conv2d 3 3", "8: there is no layer \"conv2d\"; did you mean \"conv\"?"},
        {"1x9x9: ocvn 3 3",
         "8: there is no layer \"ocvn\"; did you mean \"conv\"?"}, /* two swaps, not four changes */
        {"7: dense 3, rleu", "13: there is no layer \"rleu\"; did you mean \"relu\"?"},
        {"7: gleu", "4: there is no layer \"gleu\"; did you mean \"gelu\"?"},
        {"7: xelu", "4: there is no layer \"xelu\"; did you mean \"relu\"?"}, /* the first of two as near */
        {"7: leaky_relu", "4: there is no layer \"leaky_relu\"; did you mean \"leakyrelu\"?"},
        {"7: batchnrom", "4: there is no layer \"batchnrom\"; did you mean \"batchnorm\"?"},
        {"7: residul(relu)", "4: there is no layer \"residul\"; did you mean \"residual\"?"},
        {"7: tag: sigmiod", "9: there is no layer \"sigmiod\"; did you mean \"sigmoid\"?"},
        {"1x9x9: pool 2", "8: there is no layer \"pool\"; " ALL_LAYERS},
        {"7: recurrence 3", "4: there is no layer \"recurrence\"; " ALL_LAYERS},
        {"7: abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyz",
         "4: there is no layer \"abcdefghijklmnopqrstuvwxyzabcdefghijklmn\"; " ALL_LAYERS},
        {"7: +", "4: expected a layer, got \"+\""},
        /* values and options */
        {"7: dense", "9: dense needs units: a whole number from 1 to 1e8"},
        {"7: dense , relu", "10: dense needs units: a whole number from 1 to 1e8"},
        {"7: dense 0", "10: units of dense must be a whole number from 1 to 1e8, got \"0\""},
        {"7: dense -3", "10: units of dense must be a whole number from 1 to 1e8, got \"-3\""},
        {"7: dense 2.5", "10: units of dense must be a whole number from 1 to 1e8, got \"2.5\""},
        {"7: dense 2000000000", "10: units of dense must be a whole number from 1 to 1e8, got \"2000000000\""},
        {"7: dense 3x3", "10: units of dense must be a whole number from 1 to 1e8, got \"3x3\""},
        {"7: dense many, relu", "10: units of dense must be a whole number from 1 to 1e8, got \"many\""},
        {"7: dense units=", "16: units of dense must be a whole number from 1 to 1e8, got \"\""},
        {"7: dense 3 bias=2", "17: bias of dense must be 0 or 1, got \"2\""},
        {"7: dense 3 relu", "12: bias of dense must be 0 or 1, got \"relu\""},
        {"7: dense 3 1 1", "14: dense takes nothing more, but \"1\" " NO_MORE},
        {"7: dense 3 1 1, relu", "14: dense takes nothing more, but \"1\" " NO_MORE},
        {"7: relu relu", "9: relu takes nothing more, but \"relu\" " NO_MORE},
        {"7: dense 3 units=4", "18: units of dense is given twice"},
        {"7: dense units=4 units=4", "24: units of dense is given twice"},
        {"7: dense 3 bais=0", "12: dense has no option \"bais\"; did you mean \"bias\"?"},
        {"1x9x9: conv 3 3 strides=2", "17: conv has no option \"strides\"; did you mean \"stride\"?"},
        {"7: dense unit=3", "10: dense has no option \"unit\"; did you mean \"units\"?"},
        {"7: dense 3 colour=0", "12: dense has no option \"colour\""},
        {"7: relu x=0", "9: relu has no option \"x\""},
        {"7: relu abcdefghijabcdefghijabcdefghijabcdefghijx=0",
         "9: relu has no option \"abcdefghijabcdefghijabcdefghijabcdefghij\""},
        {"1x9x9: conv 3", "14: conv needs kernel: a whole number from 1 to 1e8, or two as HxW"},
        {"1x9x9: conv 3 3x", "15: kernel of conv must be a whole number from 1 to 1e8, or two as HxW, got \"3x\""},
        {"1x9x9: conv 3 3x3x3",
         "15: kernel of conv must be a whole number from 1 to 1e8, or two as HxW, got \"3x3x3\""},
        {"1x9x9: conv 3 3 stride=0",
         "24: stride of conv must be a whole number from 1 to 1e8, or two as HxW, got \"0\""},
        {"1x9x9: conv 3 3 pad=sane",
         "21: pad of conv must be a whole number from 0 to 1e8, two as HxW, or same, got \"sane\""},
        {"1x9x9: conv 3 3 pad=sames",
         "21: pad of conv must be a whole number from 0 to 1e8, two as HxW, or same, got \"sames\""},
        {"1x9x9: conv 3 3 pad=same1",
         "21: pad of conv must be a whole number from 0 to 1e8, two as HxW, or same, got \"same1\""},
        {"7: dropout", "11: dropout needs probability: a number from 0 to below 1"},
        {"7: dropout .", "12: probability of dropout must be a number from 0 to below 1, got \".\""},
        {"7: dropout 1", "12: probability of dropout must be a number from 0 to below 1, got \"1\""},
        {"7: leakyrelu slope=-1", "20: slope of leakyrelu must be a number from 0 to 1e6, got \"-1\""},
        {"7: batchnorm eps=nan", "18: eps of batchnorm must be a number from 0 to 1e6, got \"nan\""},
        {"7: batchnorm momentum=1.01", "23: momentum of batchnorm must be a number from 0 to 1, got \"1.01\""},
        {"7: batchnorm eps=1e9", "18: eps of batchnorm must be a number from 0 to 1e6, got \"1e9\""},
        /* shapes */
        {"7: relu, conv 3 3", "10: this layer needs an image, but its input is a vector of 7"},
        {"1x2x4: flatten, maxpool 2", "17: this layer needs an image, but its input is a vector of 8"},
        {"7: gap", "4: gap needs an image, but its input is a vector of 7"},
        {"1x4x5: conv 2 5", "8: a window of 5x5 does not fit the input 1x4x5 with padding 0x0"},
        {"1x4x5: conv 2 1x8 pad=0x1", "8: a window of 1x8 does not fit the input 1x4x5 with padding 0x1"},
        {"1x4x4: maxpool 3, maxpool 2", "19: a window of 2x2 does not fit the input 1x1x1 with padding 0x0"},
        {"1x4x4: conv 2 2 pad=same", "8: pad=same needs an odd kernel, got 2"},
        {"1x4x4: maxpool 3 pad=same", "8: pad=same is for convolutions"},
        {"1x4x4: avgpool 2 pad=2", "8: padding 2 is more than half of the window 2"},
        {"3x4x4: conv 4 3 groups=2", "8: groups=2 must divide the 3 channels that come in and the 4 that go out"},
        {"4x4x4: conv 3 3 groups=2", "8: groups=2 must divide the 4 channels that come in and the 3 that go out"},
        {"1x4x4: conv 100000000 1 pad=50000000",
         "8: the output of this layer, 100000000x100000004x100000004, is too large"},
        {"1x4x8: conv 100000000 1 pad=50000000",
         "8: the output of this layer, 100000000x100000004x100000008, is too large"},
        {"16x2x1: conv 1 1 pad=89478486 stride=100000000, dense 2",
         "9: the input 16x2x1 with padding 89478486x89478486 is too large"},
        {"4096x1x1: conv 1 67108864 stride=100000000 pad=67108864",
         "11: a window of 67108864x67108864 over 4096 channels is too large"},
        /* residuals */
        {"1x4x4: residual conv 3 3",
         "8: residual needs its layers in parentheses: residual(conv 16 3 pad=1, relu)"},
        {"1x4x4: residual", "8: residual needs its layers in parentheses: residual(conv 16 3 pad=1, relu)"},
        {"1x4x4: residual()", "17: a layer is missing here"},
        {"1x4x4: residual(relu", "16: this parenthesis is never closed"},
        {"1x4x4: residual(residual(relu)", "16: this parenthesis is never closed"},
        {"1x4x4: residual(relu))", "22: this parenthesis was never opened"},
        {"1x4x4: residual(relu) relu", "23: expected a comma or the end, got \"r\""},
        {"1x4x4: residual(residual(relu) relu)", "32: expected a comma or a parenthesis, got \"r\""},
        {"1x4x4: residual(conv 1 2)",
         "16: the residual's output 1x3x3 cannot be added to its input 1x4x4: a 1x1 convolution with the stride of "
         "its layers, 1x1, makes that 1x4x4; does one of them need a pad?"},
        /* 8 lines become 3, as with a stride of 3: but weights are made for the 2 of the body */
        {"3x8x8: residual(conv 4 3 stride=2)",
         "16: the residual's output 4x3x3 cannot be added to its input 3x8x8: a 1x1 convolution with the stride of "
         "its layers, 2x2, makes that 4x4x4; does one of them need a pad?"},
        {"2x7x7: residual(residual(conv 2 3 stride=2 pad=1, relu), maxpool 4x1 stride=2x1)",
         "16: the residual's output 2x1x4 cannot be added to its input 2x7x7: a 1x1 convolution with the stride of "
         "its layers, 4x2, makes that 2x2x4; does one of them need a pad?"},
        {"1x4x4: residual(dense 3)",
         "16: the residual's input is an image and its output a vector; they cannot be added"},
        /* concats */
        {"1x4x4: concat conv 3 3",
         "8: concat needs its branches in parentheses: concat(conv 16 1 | conv 16 3 pad=1)"},
        {"1x4x4: concat()", "14: concat needs two branches or more, with a bar | between them"},
        {"1x4x4: concat(relu)", "14: concat needs two branches or more, with a bar | between them"},
        {"1x4x4: concat(relu | ", "14: this parenthesis is never closed"},
        {"1x4x4: concat(relu |, relu)", "21: expected a layer, got \",\""},
        {"1x4x4: concat(relu, | relu)", "21: a layer is missing here"},
        {"1x4x4: concat(relu relu | relu)",
         "20: relu takes nothing more, but \"relu\" follows; layers are separated by commas"},
        {"1x4x4: concat(concat(relu|) relu | relu)", "29: expected a comma, a bar or a parenthesis, got \"r\""},
        {"1x4x4: relu | relu", "13: expected a comma or the end, got \"|\""},
        {"1x4x4: residual(relu | relu)", "22: expected a comma or a parenthesis, got \"|\""},
        {"1x8x8: concat(conv 2 3 pad=1 | relu | conv 5 3 stride=2)",
         "14: branches 1 and 3 of this concat make 2x8x8 and 5x3x3, which cannot lie side by side: all must be "
         "vectors, or images of one height and width"},
        {"1x8x8: concat( | flatten)",
         "14: branches 1 and 2 of this concat make 1x8x8 and a vector of 64, which cannot lie side by side: all "
         "must be vectors, or images of one height and width"},
        {"60000000x1x1: concat( | | | |)", "21: the output of this concat, 300000000 numbers, is too large"},
        {"7: conct(relu | relu)", "4: there is no layer \"conct\"; did you mean \"concat\"?"},
        {"7: 1.cat: relu, concat(relu | )",
         "23: the name \"1.cat\" is taken, by a tag before; give this layer one, too"},
        /* tags */
        {"7: a: dense 3, a: relu", "16: the tag \"a\" is taken"},
        {"7: a: residual(relu), a: residual(relu)", "23: the tag \"a\" is taken"},
        {"7: a: residual(relu), a: relu", "23: the tag \"a\" is taken"},
        {"7: 1: relu, relu, 1: relu", "19: the tag \"1\" is taken"},
        {"7: 1: relu, 0: relu, relu", "22: the name \"1\" is taken, by a tag before; give this layer one, too"},
        {"7: relu, 2.body: relu, 2.body.0: relu", NULL},
        {"7: 1.sum: relu, residual(relu)",
         "25: the name \"1.sum\" is taken, by a tag before; give this layer one, too"},
        {"7: a.: relu", "4: there is no layer \"a\"; " ALL_LAYERS},
        {"7: a..b: relu", "4: there is no layer \"a\"; " ALL_LAYERS},
        {"7: .a: relu", "4: expected a layer, got \".\""},
        {"7: 3 relu", "4: expected a layer, got \"3\""},
        {"7: 0:", "6: a layer is missing after the tag"},
        {"7: a:", "6: a layer is missing after the tag"},
        {"7: a: 3", "7: a layer is missing after the tag"},
        {"7: a: b: relu", "7: there is no layer \"b\"; " ALL_LAYERS},
        {"7: abcdefghijabcdefghijabcdefghijabcdefghijx: relu", "4: a tag may have up to 40 letters"},
        {"7: " LONG "a: residual(" LONG "b: residual(" LONG "c: residual(relu)))",
         "148: the tags around this residual have more than 115 letters together"},
        {"7: " LONG "a: concat(" LONG "b: concat(" LONG "c: relu|)|)", NULL},
        {"7: " LONG "a: concat(" LONG "b: concat(" LONG "c: concat(relu|)|)|)",
         "144: the tags around this concat have more than 105 letters together"},
        {"7: " LONG "a: residual(" LONG "b: residual(" TREE "b: softtree 2 3))",
         "137: this softtree's tag and those around it have more than 120 letters together"},
    };
    char line[400], message[64];
    size_t i;
    (void)state;
    for (i = 0; i < sizeof cases / sizeof *cases; ++i) {
        if (cases[i].message)
            check_spec_error(cases[i].spec, cases[i].message);
        else
            kd_model_destroy(create(cases[i].spec, 1));
    }
    strcpy(line, "7: ");
    repeat(line + 3, "residual(", 17);
    snprintf(message, sizeof message, "%d: residuals are nested more than 16 deep", 3 + 16 * 9 + 1);
    check_spec_error(line, message);
    strcpy(line, "7: ");
    repeat(line + 3, "residual(", 16);
    strcat(line, "relu");
    repeat(line + strlen(line), ")", 16);
    kd_model_destroy(create(line, 1));
    kd_model_destroy(create("7: " LONG "a: residual(" LONG "b: residual(" TREE ": softtree 2 3))", 1));
    {
        enum { LAYERS = 10000 };
        char *many = (char *)malloc(3 + LAYERS * 5 + 5);
        assert_non_null(many);
        strcpy(many, "7: ");
        repeat(many + 3, "relu,", LAYERS);
        strcat(many, "relu");
        snprintf(message, sizeof message, "%d: a model may have up to 10000 layers", 3 + LAYERS * 5 + 1);
        check_spec_error(many, message);
        many[3 + LAYERS * 5 - 1] = 0;
        kd_model_destroy(create(many, 1));
        free(many);
    }
    kd_model_destroy(create("7: abcdefghijabcdefghijabcdefghijabcdefghij: relu, b: residual(b: relu), c: relu", 1));
    kd_model_destroy(create("7: head2: relu, head: relu", 1)); /* one tag begins like another */
    assert_fails(kd, kd_model_create(kd, NULL, 1, NULL), KD_ERR_ARGUMENT, "spec and out must not be NULL");
    assert_int_equal(kd_model_create(NULL, "7: relu", 1, NULL), KD_ERR_ARGUMENT);
    kd_model_destroy(NULL);
}

/* Lines made of pieces of the language and of noise: a model, or a spec error inside the line, nothing else. */
static void test_garbage_lines(void **state)
{
    static const char *const pieces[] = {"7",
                                         "1x8x8",
                                         "3x5x4",
                                         ":",
                                         ": ",
                                         ",",
                                         " ",
                                         "(",
                                         ")",
                                         "=",
                                         "x",
                                         "dense ",
                                         "conv ",
                                         "relu",
                                         "gap",
                                         "3",
                                         "1",
                                         "2x2",
                                         "0.5",
                                         "-1",
                                         "pad=",
                                         "stride=",
                                         "groups=",
                                         "bias=0",
                                         "same",
                                         "\t",
                                         "tag: ",
                                         "residual(",
                                         "flatten",
                                         "99999999",
                                         "maxpool ",
                                         "depthwise",
                                         "|",
                                         "concat(",
                                         "concat(relu | )",
                                         "batchn",
                                         "dropout",
                                         "\xc3\xa4",
                                         "1e30",
                                         "\x01",
                                         "\xff\xfe",
                                         "%s%n",
                                         "1x8x8: conv 2 3",
                                         " init=",
                                         "he",
                                         "last=0",
                                         "residual=0",
                                         "tokens 6: ",
                                         "embed 3 4",
                                         "attention 2"};
    uint64_t state_of = 5;
    int round, models = 0;
    char *line = (char *)malloc(1 << 20);
    kd_model *m;
    (void)state;
    for (round = 0; round < 20000; ++round) {
        const int count = 1 + (int)((test_random(&state_of) + 1) * 9);
        kd_result result;
        int i, column = 0;
        line[0] = 0;
        if (round % 2) strcpy(line, round % 4 == 1 ? "2x6x6: " : "9: ");
        for (i = 0; i < count; ++i)
            strcat(line, pieces[(int)((test_random(&state_of) + 1) * 0.5f * KD__COUNT(pieces))]);
        result = kd_model_create(kd, line, 1, &m);
        if (result == KD_ERR_SPEC) {
            assert_int_equal(sscanf(kd_error(kd), "model line, column %d: ", &column), 1);
            if (column < 1 || column > (int)strlen(line) + 1) fail_msg("column %d of \"%s\"", column, line);
        } else if (result != KD_OK && result != KD_ERR_MEMORY) {
            fail_msg("\"%s\": %s", line, kd_error(kd));
        }
        models += result == KD_OK;
        kd_model_destroy(m);
    }
    assert_true(models > 50);
    /* every beginning of a long line */
    for (round = 0; round < 200; ++round) {
        snprintf(line, (size_t)round + 1, "%s",
                 "3x8x8: stem: conv 4 3 pad=same bias=0, batchnorm eps=1e-3, leakyrelu 0.2, residual(conv 8 3 "
                 "stride=2 pad=1, batchnorm, relu), maxpool 2, dropout 0.5, dense 7, sigmoid");
        if (kd_model_create(kd, line, 1, &m) != KD_OK) assert_non_null(strstr(kd_error(kd), "model line, column"));
        kd_model_destroy(m);
    }
    strcpy(line, "7: "); /* many layers, and one very long word */
    repeat(line + 3, "relu, ", 5000);
    strcat(line, "dense 2");
    m = create(line, 1);
    assert_int_equal(m->node_count, 5001);
    kd_model_destroy(m);
    strcpy(line, "7: ");
    repeat(line + 3, "a", 1000000);
    check_spec_error(line, "4: there is no layer \"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"; " ALL_LAYERS);
    strcpy(line, "7: dense ");
    repeat(line + 9, "9", 1000000);
    check_spec_error(line, "10: units of dense must be a whole number from 1 to 1e8, got "
                           "\"9999999999999999999999999999999999999999\"");
    strcpy(line, "1x5x5: ");
    repeat(line + 7, "residual(", 100000);
    assert_int_equal(kd_model_create(kd, line, 1, &m), KD_ERR_SPEC);
    free(line);
}

/* ---- the builder ----------------------------------------------------------------------------------------- */

static kd_builder *builder(int channels, int height, int width)
{
    kd_builder *b;
    assert_ok(kd, kd_builder_open(kd, channels, height, width, &b));
    return b;
}

static void test_builder(void **state)
{
    kd_builder *b = builder(3, 16, 12);
    kd_model *m;
    (void)state;
    kd_builder_conv(b, 8, 3, 2, 1);
    kd_builder_layer(b, "%s", "batchnorm");
    kd_builder_layer(b, "leakyrelu %g", 0.25);
    kd_builder_residual(b);
    kd_builder_depthwise(b, 3, 1, 1);
    kd_builder_residual(b);
    kd_builder_layer(b, "relu");
    kd_builder_end(b);
    kd_builder_end(b);
    kd_builder_maxpool(b, 2, 1);
    kd_builder_avgpool(b, 3, 2);
    kd_builder_layer(b, "head: dense 20 bias=0, tanh");
    kd_builder_dense(b, 5);
    assert_ok(kd, kd_builder_finish(b, 1, &m));
    assert_string_equal(
        kd_model_spec(m),
        "3x16x12: conv 8 3 stride=2 pad=1, batchnorm, leakyrelu 0.25, residual(depthwise 3 stride=1 "
        "pad=1, residual(relu)), maxpool 2 stride=1, avgpool 3 stride=2, head: dense 20 bias=0, "
        "tanh, dense 5");
    assert_true(kd_model_hash(m) ==
                hash_of("3x16x12: conv 8 3 2 1, batchnorm, leakyrelu slope=0.25, residual(depthwise 3 pad=same, "
                        "residual(relu)), maxpool 2 1, avgpool 3 2, head: dense 20 0, tanh, dense 5"));
    kd_model_destroy(m);
    b = builder(3, 8, 8);
    kd_builder_concat(b);
    kd_builder_branch(b);
    kd_builder_conv(b, 4, 3, 1, 1);
    kd_builder_layer(b, "relu");
    kd_builder_branch(b);
    kd_builder_maxpool(b, 1, 1);
    kd_builder_end(b);
    kd_builder_dense(b, 2);
    kd_builder_concat(NULL);
    kd_builder_branch(NULL);
    assert_ok(kd, kd_builder_finish(b, 1, &m));
    assert_string_equal(kd_model_spec(m),
                        "3x8x8: concat( | conv 4 3 stride=1 pad=1, relu | maxpool 1 stride=1), dense 2");
    kd_model_destroy(m);
    b = builder(40, 1, 1);
    kd_builder_dense(b, 2);
    assert_ok(kd, kd_builder_finish(b, 1, &m));
    assert_true(kd_model_hash(m) == hash_of("40: dense 2"));
    kd_model_destroy(m);
}

/* Names as PyTorch gives them: a tag may have dots, or be the number from which counting goes on. */
static void test_tags(void **state)
{
    static const struct {
        const char *spec, *names;
    } cases[] = {
        {"1x4x4: features.0: conv 2 3, relu, classifier.1: dense 2, dense 3",
         "features.0.weight features.0.bias classifier.1.weight classifier.1.bias 4.weight 4.bias "},
        {"7: 2: dense 3 bias=0, relu, dense 4 bias=0", "2.weight 4.weight "},
        {"7: 2_: dense 3 bias=0, relu, dense 4 bias=0", "2_.weight 2.weight "},
        {"7: 1234567890: dense 3 bias=0, dense 4 bias=0", "1234567890.weight 1.weight "},
        {"1x4x4: conv 2 3, 3: conv 2 1 bias=0, dense 2 bias=0", "0.weight 0.bias 3.weight 5.weight "},
        {"1x4x4: 0: dense 3 bias=0, dense 2 bias=0", "0.weight 1.weight "},
        {"1x4x4: 5: dense 3 bias=0, dense 2 bias=0", "5.weight 6.weight "},
        {"1x4x4: 1: dense 3 bias=0, dense 2 bias=0", "1.weight 2.weight "},
        {"1x4x4: conv 1 1, 2: residual(1: conv 1 1, relu, conv 1 1 bias=0), gap, dense 2 bias=0",
         "0.weight 0.bias 2.body.1.weight 2.body.1.bias 2.body.3.weight 5.weight "},
        {"1x4x4: conv 1 1, concat( | relu, conv 2 1 | a: conv 1 1 bias=0), b: concat(conv 2 1 bias=0 |), conv 2 1 "
         "bias=0",
         "0.weight 0.bias 1.branches.1.1.weight 1.branches.1.1.bias 1.branches.2.a.weight b.branches.0.0.weight "
         "3.weight "},
        {"7: a . b : dense 2", NULL},
    };
    size_t i;
    (void)state;
    for (i = 0; i < sizeof cases / sizeof *cases; ++i) {
        char names[300] = "";
        kd_model *m = NULL, *again;
        kd_tensor_info info;
        int t;
        if (!cases[i].names) {
            assert_int_equal(kd_model_create(kd, cases[i].spec, 1, &m), KD_ERR_SPEC);
            continue;
        }
        m = create(cases[i].spec, 1);
        for (t = 0; t < kd_model_tensors(m); ++t) {
            assert_ok(kd, kd_model_tensor_info(m, t, &info));
            strcat(strcat(names, info.name), " ");
        }
        assert_string_equal(names, cases[i].names);
        again = create(kd_model_spec(m), 1);
        assert_true(kd_model_hash(again) == kd_model_hash(m));
        kd_model_destroy(again);
        kd_model_destroy(m);
    }
}

static void test_builder_mistakes(void **state)
{
    char text[300];
    kd_builder *b;
    kd_model *m = (kd_model *)&m;
    (void)state;
    b = builder(1, 8, 8);
    kd_builder_layer(b, NULL);
    assert_fails(kd, kd_builder_finish(b, 1, &m), KD_ERR_SPEC, "the text of a layer is NULL, or longer than 255");
    b = builder(1, 8, 8);
    kd_builder_layer(b, "relu");
    assert_fails(kd, kd_builder_finish(b, 1, NULL), KD_ERR_ARGUMENT, "kd_builder_finish: out must not be NULL");
    m = (kd_model *)&m;
    b = builder(1, 8, 8);
    kd_builder_dense(b, 0);
    kd_builder_layer(b, "relu");
    assert_fails(kd, kd_builder_finish(b, 1, &m), KD_ERR_SPEC,
                 "column 14: units of dense must be a whole number from 1 to 1e8, got \"0\"");
    assert_null(m);
    b = builder(0, 8, 8);
    kd_builder_dense(b, 1);
    assert_fails(kd, kd_builder_finish(b, 1, &m), KD_ERR_SPEC, "a model starts with its input");
    b = builder(1, 8, 8);
    assert_fails(kd, kd_builder_finish(b, 1, &m), KD_ERR_SPEC, "a layer is missing here");
    b = builder(1, 8, 8);
    kd_builder_residual(b);
    kd_builder_layer(b, "relu");
    assert_fails(kd, kd_builder_finish(b, 1, &m), KD_ERR_SPEC, "this parenthesis is never closed");
    b = builder(1, 8, 8);
    kd_builder_layer(b, "relu");
    kd_builder_end(b);
    assert_fails(kd, kd_builder_finish(b, 1, &m), KD_ERR_SPEC, "this parenthesis was never opened");
    memset(text, 'a', sizeof text);
    text[299] = 0;
    b = builder(1, 8, 8);
    kd_builder_layer(b, "%s", text);
    kd_builder_layer(b, "relu");
    assert_int_equal(kd_model_create(kd, "4: foo", 1, &m), KD_ERR_SPEC); /* another mistake meanwhile */
    assert_fails(kd, kd_builder_finish(b, 1, &m), KD_ERR_SPEC,
                 "the text of a layer is NULL, or longer than 255 letters");
    b = builder(1, 8, 8);
    kd_builder_layer(b, "dense %d.", 5); /* a point, but none between digits */
    assert_ok(kd, kd_builder_finish(b, 1, &m));
    assert_int_equal(kd_model_outputs(m), 5);
    kd_model_destroy(m);
    b = builder(1, 8, 8);
    kd_builder_layer(b, "relu");
    assert_fails(kd, kd_builder_finish(b, 1, NULL), KD_ERR_ARGUMENT, "out must not be NULL");
    kd_builder_abandon(builder(1, 8, 8));
    kd_builder_abandon(NULL);
    kd_builder_dense(NULL, 3);
    kd_builder_residual(NULL);
    kd_builder_end(NULL);
    assert_int_equal(kd_builder_finish(NULL, 1, &m), KD_ERR_ARGUMENT);
    assert_fails(kd, kd_builder_open(kd, 1, 1, 1, NULL), KD_ERR_ARGUMENT, "out must not be NULL");
    assert_int_equal(kd_builder_open(NULL, 1, 1, 1, &b), KD_ERR_ARGUMENT);
}

/* ---- description and tensors ----------------------------------------------------------------------------- */

/* Which convolution the sum of a residual needs, line by line and number by number. */
static void test_describe_shortcut(void **state)
{
    kd_model *m = create("3x6x6: residual(conv 3 3 stride=2x3 pad=1)", 1);
    char text[2000];
    (void)state;
    kd_model_describe(m, text, sizeof text);
    assert_non_null(strstr(text, "conv 3 1 stride=2x3 "));
    kd_model_destroy(m);
}

static void test_describe(void **state)
{
    static const char wanted[] =
        "name           layer                                      output   parameters  multiply-adds\n"
        "               input                                     3x16x16\n"
        "stem           conv 64 3 pad=1 bias=0                   64x16x16        1,728        442,368\n"
        "1              batchnorm                                64x16x16          128               \n"
        "2              relu                                     64x16x16                            \n"
        "3.body.0         conv 8 1 stride=2                         8x8x8          520         32,768\n"
        "3.shortcut       conv 8 1 stride=2x2                       8x8x8          520         32,768\n"
        "3.sum          +                                           8x8x8                            \n"
        "4              flatten                                       512                            \n"
        "5              dense 10                                       10        5,130          5,120\n"
        "               total                                                    8,026        513,024\n";
    kd_model *m = create("3x16x16: stem: conv 64 3 pad=1 bias=0, batchnorm, relu, residual(conv 8 1 stride=2), "
                         "dense 10",
                         1);
    char text[2000], part[2000];
    size_t length, size;
    (void)state;
    length = kd_model_describe(m, text, sizeof text);
    assert_string_equal(text, wanted);
    assert_int_equal(length, strlen(text));
    assert_int_equal(kd_model_describe(m, NULL, 0), length);
    for (size = 0; size <= length + 1; size += size < 3 || size + 3 > length ? 1 : 7) {
        memset(part, '#', sizeof part);
        assert_int_equal(kd_model_describe(m, part, size), length);
        if (size) {
            assert_int_equal(strlen(part), size - 1);
            assert_memory_equal(part, text, size - 1);
        }
        assert_int_equal(part[size], '#');
    }
    kd_model_destroy(m);
    m = create("3x16x16: stem:\n conv\t64   3 \n pad=1 bias=0, batchnorm , relu, residual( conv  8 1\nstride=2 ),\n"
               "\tdense\r10 ",
               1);
    kd_model_describe(m, text, sizeof text);
    assert_string_equal(text, wanted); /* however the line is broken */
    kd_model_destroy(m);
}

typedef struct tensor_case {
    const char *name;
    int rank, trained;
    int64_t shape[4];
} tensor_case;

static void test_tensor_names(void **state)
{
    static const tensor_case wanted[] = {
        {"stem.weight", 4, 1, {4, 1, 3, 2}},
        {"stem.bias", 1, 1, {4}},
        {"1.weight", 1, 1, {4}},
        {"1.bias", 1, 1, {4}},
        {"1.running_mean", 1, 0, {4}},
        {"1.running_var", 1, 0, {4}},
        {"3.weight", 4, 1, {4, 1, 3, 3}},
        {"4.body.0.weight", 4, 1, {6, 4, 1, 1}},
        {"4.body.0.bias", 1, 1, {6}},
        {"4.body.norm.weight", 1, 1, {6}},
        {"4.body.norm.bias", 1, 1, {6}},
        {"4.body.norm.running_mean", 1, 0, {6}},
        {"4.body.norm.running_var", 1, 0, {6}},
        {"4.shortcut.0.weight", 4, 1, {6, 4, 1, 1}},
        {"4.shortcut.1.weight", 1, 1, {6}},
        {"4.shortcut.1.bias", 1, 1, {6}},
        {"4.shortcut.1.running_mean", 1, 0, {6}},
        {"4.shortcut.1.running_var", 1, 0, {6}},
        {"block.body.1.weight", 4, 1, {5, 6, 1, 1}},
        {"block.body.1.bias", 1, 1, {5}},
        {"block.shortcut.weight", 4, 1, {5, 6, 1, 1}},
        {"block.shortcut.bias", 1, 1, {5}},
        {"7.weight", 2, 1, {3, 60}}, /* 6 is the flatten that a dense layer brings along */
        {"7.bias", 1, 1, {3}},
        {"head.weight", 2, 1, {2, 3}},
        {"head.bias", 1, 1, {2}},
    };
    kd_model *m = create("2x5x5: stem: conv 4 3x2 groups=2, batchnorm, relu, depthwise 3 pad=1 bias=0, "
                         "residual(conv 6 1, norm: batchnorm), block: residual(relu, conv 5 1), dense 3, "
                         "head: dense 2",
                         1);
    kd_tensor_info info;
    int i, j;
    (void)state;
    assert_int_equal(kd_model_tensors(m), KD__COUNT(wanted));
    for (i = 0; i < KD__COUNT(wanted); ++i) {
        int64_t count = 1;
        assert_ok(kd, kd_model_tensor_info(m, i, &info));
        assert_string_equal(info.name, wanted[i].name);
        assert_int_equal(info.rank, wanted[i].rank);
        assert_int_equal(info.trained, wanted[i].trained);
        for (j = 0; j < info.rank; ++j) {
            if (info.shape[j] != wanted[i].shape[j]) fail_msg("%s: dimension %d", info.name, j);
            count *= info.shape[j];
        }
        assert_int_equal(info.count, count);
    }
    assert_fails(kd, kd_model_tensor_info(m, -1, &info), KD_ERR_ARGUMENT, "index 0 to 25, got -1");
    assert_fails(kd, kd_model_tensor_info(m, 26, &info), KD_ERR_ARGUMENT, "index 0 to 25, got 26");
    assert_fails(kd, kd_model_tensor_info(m, 0, NULL), KD_ERR_ARGUMENT, "out must not be NULL");
    assert_int_equal(kd_model_tensor_info(NULL, 0, &info), KD_ERR_ARGUMENT);
    kd_model_destroy(m);
}

/* Each number of a weight is where PyTorch has it: an image that is 1 in one place reads the weights out. */
static void check_layout(kd_isa isa, const char *spec, const char *name)
{
    kd_ctx *on = test_open(isa, 1);
    kd_model *m;
    int c, h, w, i, o, input, outputs;
    float *x, *logits, *weights;
    assert_ok(on, kd_model_create(on, spec, 3, &m));
    kd_model_input(m, &c, &h, &w);
    input = c * h * w;
    outputs = kd_model_outputs(m);
    x = (float *)calloc((size_t)input, sizeof *x);
    logits = (float *)malloc((size_t)outputs * sizeof *logits);
    weights = test_floats(8, (size_t)(input * outputs), 1);
    assert_ok(on, kd_model_set_tensor(m, name, weights, (int64_t)input * outputs));
    memset(weights, 0, (size_t)(input * outputs) * sizeof *weights);
    assert_ok(on, kd_model_get_tensor(m, name, weights, (int64_t)input * outputs));
    for (i = 0; i < input; ++i) {
        x[i] = 1;
        assert_ok(on, kd_predict(m, x, 1, logits));
        for (o = 0; o < outputs; ++o) assert_true(logits[o] == weights[o * input + i]);
        x[i] = 0;
    }
    free(x);
    free(logits);
    free(weights);
    kd_model_destroy(m);
    kd_close(on);
}

static void test_tensor_layouts(void **state)
{
    kd_isa isa;
    (void)state;
    FOR_EACH_ISA(isa)
    {
        check_layout(isa, "5: dense 3 bias=0", "0.weight");
        check_layout(isa, "37: dense 70 bias=0", "0.weight");
        check_layout(isa, "2x3x4: dense 35 bias=0", "1.weight");
        check_layout(isa, "3x4x2: conv 5 4x2 bias=0", "0.weight");
        check_layout(isa, "17x3x3: conv 40 3 bias=0", "0.weight");
    }
}

/* Groups, filters of one channel, and one number for each of a flattened image. */
static void test_tensor_layouts_by_channel(void **state)
{
    float x[3 * 4 * 2], weights[36], zeros[6] = {0}, logits[6];
    kd_model *m = create("4x1x3: conv 6 1x3 groups=2", 1);
    int i, o;
    (void)state;
    for (i = 0; i < 36; ++i) weights[i] = (float)i;
    assert_ok(kd, kd_model_set_tensor(m, "0.weight", weights, 36)); /* (6, 2, 1, 3) */
    assert_ok(kd, kd_model_set_tensor(m, "0.bias", zeros, 6));
    memset(x, 0, sizeof x);
    for (i = 0; i < 12; ++i) { /* (4, 1, 3) */
        x[i] = 1;
        assert_ok(kd, kd_predict(m, x, 1, logits));
        x[i] = 0;
        for (o = 0; o < 6; ++o) {
            const int mine = i / 6 == o / 3; /* outputs 0 to 2 read channels 0 and 1 */
            assert_near(logits[o], mine ? o * 6 + i % 6 : 0, 0);
        }
    }
    kd_model_destroy(m);
    m = create("3x4x2: depthwise 4x2 bias=0", 1);
    assert_ok(kd, kd_model_set_tensor(m, "0.weight", weights, 24));
    for (i = 0; i < 24; ++i) {
        x[i] = 1;
        assert_ok(kd, kd_predict(m, x, 1, logits));
        x[i] = 0;
        for (o = 0; o < 3; ++o) assert_near(logits[o], i / 8 == o ? i : 0, 0);
    }
    kd_model_destroy(m);
    m = create("3x1x2: flatten, batchnorm, tanh", 1);
    for (i = 0; i < 6; ++i) x[i] = 0.1f * (float)(i + 1);
    assert_ok(kd, kd_model_set_tensor(m, "1.bias", x, 6));
    assert_ok(kd, kd_predict(m, zeros, 1, logits));
    for (i = 0; i < 6; ++i) assert_near(logits[i], tanh((double)x[i]), 1e-6);
    kd_model_destroy(m);
}

static void test_tensor_errors(void **state)
{
    kd_model *m = create("3: dense 2, batchnorm", 1);
    const uint64_t hash = kd_model_hash(m);
    float values[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    (void)state;
    assert_fails(kd, kd_model_get_tensor(m, "0.wait", values, 6), KD_ERR_ARGUMENT,
                 "kd_model_get_tensor: the model has no tensor \"0.wait\"");
    assert_fails(kd, kd_model_get_tensor(m, "0.weight", values, 8), KD_ERR_SHAPE,
                 "tensor \"0.weight\" has 6 numbers, got room for 8");
    assert_fails(kd, kd_model_get_tensor(m, NULL, values, 6), KD_ERR_ARGUMENT, "must not be NULL");
    assert_fails(kd, kd_model_get_tensor(m, "0.weight", NULL, 6), KD_ERR_ARGUMENT, "must not be NULL");
    assert_fails(kd, kd_model_set_tensor(m, "2.weight", values, 6), KD_ERR_ARGUMENT,
                 "kd_model_set_tensor: the model has no tensor \"2.weight\"");
    assert_fails(kd, kd_model_set_tensor(m, "0.bias", values, 1), KD_ERR_SHAPE, "has 2 numbers");
    values[4] = NAN;
    assert_fails(kd, kd_model_set_tensor(m, "0.weight", values, 6), KD_ERR_NOT_FINITE,
                 "kd_model_set_tensor: 0.weight has a NaN in row 0, column 4");
    values[4] = -INFINITY;
    assert_fails(kd, kd_model_set_tensor(m, "1.running_mean", values + 3, 2), KD_ERR_NOT_FINITE,
                 "1.running_mean has an infinity");
    values[0] = 1, values[1] = -0.5f;
    assert_fails(kd, kd_model_set_tensor(m, "1.running_var", values, 2), KD_ERR_ARGUMENT,
                 "kd_model_set_tensor: 1.running_var has a negative variance");
    assert_int_equal(kd_model_get_tensor(NULL, "0.weight", values, 6), KD_ERR_ARGUMENT);
    assert_int_equal(kd_model_set_tensor(NULL, "0.weight", values, 6), KD_ERR_ARGUMENT);
    assert_true(kd_model_hash(m) == hash);
    kd_model_destroy(m);
}

/* Every bit of every number counts, and putting it back brings the hash back. */
static void test_hash_of_weights(void **state)
{
    kd_isa isa;
    uint64_t scalar = 0;
    (void)state;
    FOR_EACH_ISA(isa)
    {
        kd_ctx *on = test_open(isa, 1);
        kd_model *m;
        kd_tensor_info info;
        uint64_t hash;
        int i;
        assert_ok(on, kd_model_create(on, "2x5x5: conv 20 3 groups=2, batchnorm, depthwise 3, dense 35", 4, &m));
        hash = kd_model_hash(m);
        if (isa == KD_ISA_SCALAR) scalar = hash;
        assert_true(hash == scalar); /* the same weights and the same hash, however they are stored */
        for (i = 0; i < kd_model_tensors(m); ++i) {
            float *values;
            int64_t e;
            assert_ok(on, kd_model_tensor_info(m, i, &info));
            values = (float *)malloc((size_t)info.count * sizeof *values);
            assert_ok(on, kd_model_get_tensor(m, info.name, values, info.count));
            for (e = 0; e < info.count; e += 1 + info.count / 16) {
                const float kept = values[e];
                uint32_t bit;
                for (bit = 1; bit; bit <<= 15) {
                    values[e] = kd__bits_float(kd__float_bits(kept) ^ bit);
                    if (!kd__is_finite((double)values[e])) continue;
                    assert_ok(on, kd_model_set_tensor(m, info.name, values, info.count));
                    if (kd_model_hash(m) == hash)
                        fail_msg("%s, number %d: a bit does not count", info.name, (int)e);
                }
                values[e] = kept;
            }
            assert_ok(on, kd_model_set_tensor(m, info.name, values, info.count));
            assert_true(kd_model_hash(m) == hash);
            free(values);
        }
        kd_model_destroy(m);
        kd_close(on);
    }
}

/* ---- initial weights ------------------------------------------------------------------------------------- */

typedef struct start_case {
    const char *spec, *name;
    double bound; /* uniform in +-bound */
} start_case;

/* Enough numbers of a tensor to tell how they are spread. */
typedef struct spread {
    double mean, variance, largest;
    int64_t count;
} spread;

static spread spread_of(const kd_model *m, const char *name)
{
    const int64_t count = kd__param_count(&m->params[kd__param_find(m, name)]);
    float *values = (float *)malloc((size_t)count * sizeof *values);
    spread s = {0, 0, 0, 0};
    int64_t e;
    assert_ok(kd, kd_model_get_tensor(m, name, values, count));
    for (e = 0; e < count; ++e) {
        s.largest = KD__MAX(s.largest, fabs((double)values[e]));
        s.mean += (double)values[e] / (double)count;
        s.variance += (double)values[e] * (double)values[e] / (double)count;
    }
    s.count = count;
    free(values);
    return s;
}

static void test_initial_weights(void **state)
{
    const start_case cases[] = {
        {"50: dense 400, relu, dense 40", "0.weight", sqrt(6.0 / 50)},
        {"50: dense 400, relu, dense 40", "2.weight", sqrt(3.0 / 400)},
        {"50: dense 400, tanh, dense 40", "0.weight", sqrt(3.0 / 50)},
        {"50: dense 400, sigmoid, relu", "0.weight", sqrt(3.0 / 50)},
        {"50: dense 400, batchnorm, dropout 0.5, leakyrelu", "0.weight", sqrt(6.0 / 50)},
        {"50: dense 400, gelu, dense 40", "0.weight", sqrt(6.0 / 50)},
        {"50: dense 400, dense 40, relu", "0.weight", sqrt(3.0 / 50)},
        {"8x9x9: conv 64 3, batchnorm, relu6", "0.weight", sqrt(6.0 / 72)},
        {"8x9x9: conv 64 3x5, maxpool 2", "0.weight", sqrt(3.0 / 120)},
        {"8x9x9: conv 64 3 groups=4, silu", "0.weight", sqrt(6.0 / 18)},
        {"200x9x9: depthwise 3, hardswish", "0.weight", sqrt(6.0 / 9)},
        {"8x9x9: conv 64 3, residual(conv 64 1, relu), relu", "0.weight", sqrt(3.0 / 72)},
        /* PyTorch's nn.Linear and nn.Conv2d, whose kaiming_uniform_ has a = sqrt(5): gain sqrt(1 / 3) */
        {"50 init=pytorch: dense 400, relu, dense 400", "0.weight", sqrt(1.0 / 50)},
        {"50 init=pytorch: dense 400, relu, dense 400", "0.bias", sqrt(1.0 / 50)},
        {"50 init=pytorch: dense 400, relu, dense 400", "2.bias", sqrt(1.0 / 400)},
        {"4x5x6 init=pytorch: dense 400, relu", "1.weight", sqrt(1.0 / 120)},
        {"8x9x9 init=pytorch: conv 400 3x5 groups=4, silu", "0.weight", sqrt(1.0 / 30)},
        {"8x9x9 init=pytorch: conv 400 3x5 groups=4, silu", "0.bias", sqrt(1.0 / 30)},
        {"400x9x9 init=pytorch: depthwise 3", "0.weight", sqrt(1.0 / 9)},
        {"400x9x9 init=pytorch: depthwise 3", "0.bias", sqrt(1.0 / 9)},
        {"50 init=glorot: dense 400, relu", "0.weight", sqrt(6.0 / 450)},
        {"4x5x6 init=glorot: dense 400, relu", "1.weight", sqrt(6.0 / 520)},
        {"8x9x9 init=glorot: conv 64 3x5 groups=4, relu", "0.weight", sqrt(6.0 / (30 + 240))},
        {"400x9x9 init=glorot: depthwise 3", "0.weight", sqrt(6.0 / 18)},
        {"50 init=he: softtree 6 7", "0.leaves", sqrt(3.0)}, /* whatever the kind */
        {"50 init=pytorch: softtree 6 7", "0.leaves", sqrt(3.0)},
        {"50 init=pytorch last=0.5: dense 400, relu, dense 400", "2.weight", sqrt(0.25 / 400)},
        {"50 init=pytorch last=0.5: dense 400, relu, dense 400", "2.bias", sqrt(0.25 / 400)},
        {"50 init=pytorch last=0.5: dense 400, relu, dense 400", "0.weight", sqrt(1.0 / 50)},
    };
    size_t i;
    (void)state;
    for (i = 0; i < sizeof cases / sizeof *cases; ++i) {
        kd_model *m = create(cases[i].spec, 7);
        const double bound = cases[i].bound;
        const spread s = spread_of(m, cases[i].name);
        if (s.largest > bound * (1 + 1e-6) || s.largest < bound * 0.98)
            fail_msg("%s: the largest start is %g, expected %g", cases[i].spec, s.largest, bound);
        /* mean 0, variance 1/3; five standard errors */
        if (fabs(s.mean / bound) > 5 * 0.578 / sqrt((double)s.count) ||
            fabs(s.variance / bound / bound - 1.0 / 3) > 5 * 0.3 / sqrt((double)s.count))
            fail_msg("%s: mean %g, variance %g", cases[i].spec, s.mean / bound, s.variance / bound / bound);
        kd_model_destroy(m);
    }
}

static void test_normal_weights(void **state)
{
    static const struct {
        const char *spec, *name;
        double deviation, cut; /* of the normal distribution, before anything is cut off; 0: nothing is */
    } cases[] = {
        {"50 init=he: dense 400, relu, dense 400", "0.weight", 0.2, 0},
        {"50 init=he: dense 400, relu, dense 400", "2.weight", 0.070710678, 0},
        {"50 init=he fan_out=1: dense 400, relu", "0.weight", 0.070710678, 0},
        {"4x5x10 init=he fan_out=1: dense 50", "1.weight", 0.2, 0},
        {"8x9x9 init=he: conv 400 5 groups=4", "0.weight", 0.2, 0},
        {"8x9x9 init=he fan_out=1: conv 400 5 groups=4", "0.weight", 0.028284271, 0},
        {"400x9x9 init=he fan_out=1: depthwise 3", "0.weight", 0.471404521, 0},
        {"50 init=trunc: dense 400, relu", "0.weight", 0.02, 0.04},
        {"50 init=trunc std=0.5: dense 400, relu", "0.weight", 0.5, 1},
    };
    size_t i;
    (void)state;
    for (i = 0; i < sizeof cases / sizeof *cases; ++i) {
        kd_model *m = create(cases[i].spec, 7);
        const spread s = spread_of(m, cases[i].name);
        const double deviation = cases[i].deviation, cut = cases[i].cut, error = 5 / sqrt((double)s.count);
        /* a normal distribution within 2 deviations has 0.7737 of its variance */
        const double variance = s.variance / deviation / deviation / (cut > 0 ? 0.77374 : 1);
        if (fabs(s.mean / deviation) > error || fabs(variance - 1) > 1.5 * error)
            fail_msg("%s: mean %g, variance %g", cases[i].spec, s.mean / deviation, variance);
        if (cut > 0 ? s.largest > cut * 1.0001 || s.largest < cut * 0.99 : s.largest < 3 * deviation)
            fail_msg("%s: the largest start is %g", cases[i].spec, s.largest);
        kd_model_destroy(m);
    }
    { /* within one deviation are 68.27 % */
        kd_model *m = create("50 init=he: dense 400", 3);
        float values[20000];
        int inside = 0;
        assert_ok(kd, kd_model_get_tensor(m, "0.weight", values, 20000));
        for (i = 0; i < 20000; ++i) inside += fabs((double)values[i]) < 0.2;
        assert_true(abs(inside - 13654) < 330);
        kd_model_destroy(m);
    }
}

/* A tensor of the model with a factor is that of the model without, times the factor. */
static void check_factor(const char *options, const char *layers, const char *name, float factor)
{
    char line[300];
    kd_model *m, *plain;
    float a[600], b[600];
    int64_t count, e;
    snprintf(line, sizeof line, "4x3x3 init=pytorch %s: %s", options, layers);
    m = create(line, 5);
    snprintf(line, sizeof line, "4x3x3 init=pytorch: %s", layers);
    plain = create(line, 5);
    count = kd__param_count(&m->params[kd__param_find(m, name)]);
    assert_true(count <= 600);
    assert_ok(kd, kd_model_get_tensor(m, name, a, count));
    assert_ok(kd, kd_model_get_tensor(plain, name, b, count));
    for (e = 0; e < count; ++e) {
        if (a[e] != b[e] * factor)
            fail_msg("%s of %s, %s: %g, expected %g", name, line, options, a[e], b[e] * factor);
    }
    kd_model_destroy(m);
    kd_model_destroy(plain);
}

static void test_small_starts(void **state)
{
    static const char basic[] =
        "conv 4 1, residual(conv 4 3 pad=1, batchnorm, relu, conv 6 3 pad=1, batchnorm), relu, "
        "gap, dense 5";
    static const char bare[] =
        "residual(conv 4 3 pad=1, relu, conv 4 1, dropout 0.1), residual(batchnorm, relu, conv 4 "
        "1), residual(conv 4 1, residual(conv 4 1)), residual(maxpool 1), gap";
    static const char nested[] = "conv 4 1, residual(residual(conv 4 1), residual(conv 5 1)), batchnorm, gap";
    static const char beside[] =
        "conv 9 1, residual(conv 4 1, relu, concat(conv 3 1 | conv 2 1, concat( | conv 2 1 | "
        "relu, conv 2 1))), concat(gap, flatten | dense 2), dense 3";
    float values[24];
    kd_model *m;
    kd_isa isa;
    int i;
    (void)state;
    check_factor("last=0.25", basic, "5.weight", 0.25f);
    check_factor("last=0.25", basic, "5.bias", 0.25f);
    check_factor("last=0.25", basic, "0.weight", 1);
    check_factor("last=0.25", basic, "1.body.4.weight", 1);
    check_factor("last=0", nested, "0.weight", 0); /* outside all residuals, batchnorm apart */
    check_factor("last=0", nested, "0.bias", 0);
    check_factor("last=0", nested, "1.body.1.body.0.weight", 1);
    check_factor("last=0", nested, "2.weight", 1);
    check_factor("residual=0", basic, "1.body.4.weight", 0);
    check_factor("residual=0", basic, "1.body.1.weight", 1);
    check_factor("residual=0", basic, "1.body.3.weight", 1);
    check_factor("residual=0", basic, "1.shortcut.1.weight", 1);
    check_factor("residual=0", basic, "5.weight", 1);
    check_factor("residual=0.5", basic, "1.body.4.weight", 0.5f);
    check_factor("residual=0.5", bare, "0.body.2.weight", 0.5f);
    check_factor("residual=0.5", bare, "0.body.2.bias", 0.5f);
    check_factor("residual=0.5", bare, "0.body.0.weight", 1);
    check_factor("residual=0.5", bare, "1.body.2.weight", 0.5f); /* what comes last, though it is no batchnorm */
    check_factor("residual=0.5", bare, "1.body.0.weight", 1);
    check_factor("residual=0.5", bare, "2.body.1.body.0.weight", 0.5f);
    check_factor("residual=0.5", bare, "2.body.0.weight", 0.5f);
    check_factor("residual=0.5", nested, "0.weight", 1);
    check_factor("residual=0.5", beside, "0.weight", 1); /* all that a branch's concat ends in */
    check_factor("residual=0.5", beside, "1.body.0.weight", 1);
    check_factor("residual=0.5", beside, "1.body.2.branches.0.0.weight", 0.5f);
    check_factor("residual=0.5", beside, "1.body.2.branches.1.0.weight", 0.5f);
    check_factor("residual=0.5", beside, "1.body.2.branches.1.1.branches.1.0.bias", 0.5f);
    check_factor("residual=0.5", beside, "1.body.2.branches.1.1.branches.2.1.weight", 0.5f);
    check_factor("last=0.5", beside, "2.branches.1.1.weight", 1);
    check_factor("last=0.5", beside, "3.weight", 0.5f);
    check_factor("residual=0.5", nested, "1.body.0.body.0.weight", 0.5f);
    check_factor("residual=0.5", nested, "1.body.1.body.0.weight", 0.5f);
    check_factor("residual=0.5", nested, "1.body.1.shortcut.weight", 0.5f); /* ends the outer branch */
    FOR_EACH_ISA(isa) /* what this is for: a residual that passes its input on, and logits that are 0 */
    {
        kd_ctx_desc desc = kd->desc;
        kd_ctx *other;
        float y[4];
        desc.isa = isa;
        assert_int_equal(kd_open(&desc, &other), KD_OK);
        for (i = 0; i < 4; ++i) values[i] = (float)i - 1.25f;
        assert_ok(other,
                  kd_model_create(other, "4 init=pytorch residual=0: residual(dense 9, relu, dense 4)", 1, &m));
        assert_ok(other, kd_predict(m, values, 1, y));
        for (i = 0; i < 4; ++i) assert_true(y[i] == values[i]);
        kd_model_destroy(m);
        assert_ok(other, kd_model_create(other, "4 init=trunc last=0: dense 9, relu, dense 4", 1, &m));
        assert_ok(other, kd_predict(m, values, 1, y));
        for (i = 0; i < 4; ++i) assert_true(y[i] == 0);
        kd_model_destroy(m);
        kd_close(other);
    }
    m = create("4 last=0: softtree 3 3", 1); /* its leaves alone */
    assert_ok(kd, kd_model_get_tensor(m, "0.leaves", values, 24));
    for (i = 0; i < 24; ++i) assert_true(values[i] == 0);
    assert_ok(kd, kd_model_get_tensor(m, "0.beta", values, 7));
    for (i = 0; i < 7; ++i) assert_true(values[i] == 1);
    kd_model_destroy(m);
    kd_model_destroy(create("4 last=0: batchnorm, residual(relu)", 1)); /* nothing to multiply */
}

/* From seed 1; the same on every machine. */
static void test_init_pinned(void **state)
{
    static const uint64_t pinned[] = {0xf7b3d59af6b90ca4u, 0x2432f96872792d11u, 0x1094d7fd7c2fe53bu,
                                      0x5bf249c9f0db720eu, 0x0b58fd7b720b9484u};
    kd_isa isa;
    int i;
    (void)state;
    FOR_EACH_ISA(isa)
    {
        kd_ctx_desc desc = kd->desc;
        kd_ctx *other;
        desc.isa = isa;
        assert_int_equal(kd_open(&desc, &other), KD_OK);
        for (i = 0; i < KD_INIT_COUNT; ++i) {
            const kd_init init = kd_init_defaults((kd_init_kind)i);
            kd_model *m;
            assert_ok(other, kd_model_create_with(other,
                                                  "3x8x8: conv 8 3 pad=1, batchnorm, relu, residual(depthwise 3 "
                                                  "pad=1, relu, conv 8 3 pad=1 groups=2), gap, dense 5",
                                                  1, &init, &m));
            if (kd_model_hash(m) != pinned[i])
                fail_msg("%s, %s: 0x%016llxu", kd_init_name((kd_init_kind)i), kd_isa_name(isa),
                         (unsigned long long)kd_model_hash(m));
            kd_model_destroy(m);
        }
        kd_close(other);
    }
}

/* First weights by a struct are those of the line with the same options; the line stays. */
static void test_init_options(void **state)
{
    static const char *const lines[] = {
        "7 init=auto: dense 3, relu, dense 4", "7 init=pytorch: dense 3, relu, dense 4",
        "7 init=he: dense 3, relu, dense 4", "7 init=glorot: dense 3, relu, dense 4",
        "7 init=trunc: dense 3, relu, dense 4"};
    kd_init init;
    kd_builder *b;
    kd_model *m;
    int i;
    (void)state;
    for (i = 0; i < KD_INIT_COUNT; ++i) {
        init = kd_init_defaults((kd_init_kind)i);
        assert_ok(kd, kd_model_create_with(kd, "7: dense 3, relu, dense 4", 1, &init, &m));
        assert_true(kd_model_hash(m) == hash_of(lines[i]));
        assert_string_equal(kd_model_spec(m), "7: dense 3, relu, dense 4");
        kd_model_destroy(m);
        assert_non_null(strstr(lines[i], kd_init_name((kd_init_kind)i)));
        assert_non_null(strstr(INITS, kd_init_name((kd_init_kind)i)));
    }
    assert_string_equal(kd_init_name(KD_INIT_COUNT), "unknown");
    init = kd_init_defaults(KD_INIT_TRUNC_NORMAL);
    init.std = 0.5f, init.last = 0.25f, init.residual = 0;
    assert_ok(kd, kd_model_create_with(kd, "7 init=he: residual(dense 7), dense 4", 1, &init, &m));
    assert_true(kd_model_hash(m) ==
                hash_of("7 init=trunc std=0.5 last=0.25 residual=0: residual(dense 7), dense 4"));
    assert_string_equal(kd_model_spec(m), "7 init=he: residual(dense 7), dense 4");
    kd_model_destroy(m);
    assert_ok(kd, kd_model_create_with(kd, lines[2], 1, NULL, &m));
    assert_true(kd_model_hash(m) == hash_of(lines[2]));
    kd_model_destroy(m);
    b = builder(7, 1, 1);
    kd_builder_init(b, NULL);
    kd_builder_init(b, &init);
    kd_builder_layer(b, "residual(dense 7)");
    kd_builder_dense(b, 4);
    assert_ok(kd, kd_builder_finish(b, 1, &m));
    assert_true(kd_model_hash(m) ==
                hash_of("7 init=trunc std=0.5 last=0.25 residual=0: residual(dense 7), dense 4"));
    kd_model_destroy(m);
}

static void test_init_refused(void **state)
{
    static const struct {
        kd_init_kind kind;
        int fan_out;
        float std, last, residual;
        const char *message;
    } cases[] = {
        {KD_INIT_COUNT, 0, 0.02f, 1, 1, "there is no such kind of first weights"},
        {(kd_init_kind)-1, 0, 0.02f, 1, 1, "there is no such kind of first weights"},
        {KD_INIT_HE, 2, 0.02f, 1, 1, "fan_out must be 0 or 1"},
        {KD_INIT_PYTORCH, 1, 0.02f, 1, 1, "fan_out goes with init=he"},
        {KD_INIT_TRUNC_NORMAL, 0, -1, 1, 1, "std must be 0 to 1e6"},
        {KD_INIT_TRUNC_NORMAL, 0, (float)NAN, 1, 1, "std must be 0 to 1e6"},
        {KD_INIT_GLOROT, 0, 0.1f, 1, 1, "std goes with init=trunc"},
        {KD_INIT_AUTO, 0, 0.02f, -1, 1, "last must be 0 to 1e6"},
        {KD_INIT_AUTO, 0, 0.02f, 2e6f, 1, "last must be 0 to 1e6"},
        {KD_INIT_AUTO, 0, 0.02f, 1, (float)INFINITY, "residual must be 0 to 1e6"},
        {KD_INIT_AUTO, 0, 0.02f, 1, 0, DEAD},
    };
    kd_init init;
    kd_model *m;
    size_t i;
    (void)state;
    for (i = 0; i < sizeof cases / sizeof *cases; ++i) {
        init = kd_init_defaults(cases[i].kind);
        init.fan_out = cases[i].fan_out, init.std = cases[i].std;
        init.last = cases[i].last, init.residual = cases[i].residual;
        m = (kd_model *)&m;
        assert_fails(kd, kd_model_create_with(kd, "7: residual(dense 7, relu)", 1, &init, &m), KD_ERR_ARGUMENT,
                     cases[i].message);
        assert_null(m);
    }
    init.cookie = 0;
    assert_fails(kd, kd_model_create_with(kd, "7: relu", 1, &init, &m), KD_ERR_DEFAULTS, "kd_init_defaults()");
    assert_int_equal(kd_model_create_with(NULL, "7: relu", 1, NULL, &m), KD_ERR_ARGUMENT);
}

static void test_initial_vectors(void **state)
{
    static const char *const names[] = {"0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var"};
    static const float wanted[] = {0, 1, 0, 0, 1};
    kd_model *m = create("5: dense 20, batchnorm, relu, dense 2", 7), *other;
    float values[20], first[100], second[100];
    int i, j;
    (void)state;
    for (i = 0; i < 5; ++i) {
        assert_ok(kd, kd_model_get_tensor(m, names[i], values, 20));
        for (j = 0; j < 20; ++j) assert_true(values[j] == wanted[i]);
    }
    other = create("5: dense 20, batchnorm, relu, dense 2", 7);
    assert_true(kd_model_hash(other) == kd_model_hash(m)); /* the seed alone decides ... */
    kd_model_destroy(other);
    other = create("5: dense 20, batchnorm, relu, dense 2", 8);
    assert_ok(kd, kd_model_get_tensor(m, "0.weight", first, 100));
    assert_ok(kd, kd_model_get_tensor(other, "0.weight", second, 100));
    for (i = 0; i < 100; ++i) assert_true(first[i] != second[i]); /* ... every number */
    kd_model_destroy(other);
    kd_model_destroy(m);
    m = create("20: dense 20, dense 20", 7); /* and layers differ */
    assert_ok(kd, kd_model_get_tensor(m, "0.bias", values, 20));
    {
        float a[400], b[400];
        assert_ok(kd, kd_model_get_tensor(m, "0.weight", a, 400));
        assert_ok(kd, kd_model_get_tensor(m, "1.weight", b, 400));
        for (i = 0; i < 400; ++i) assert_true(a[i] != b[i]);
    }
    kd_model_destroy(m);
}

/* ---- what travels with a model --------------------------------------------------------------------------- */

static void test_classes(void **state)
{
    static const char *const names[] = {"cat", "", "Gr\xc3\xbc\xc3\x9f Gott"}, *const broken[] = {"a", NULL, "c"};
    char changing[8] = "cat";
    const char *copied[3];
    kd_model *m = create("2: dense 3", 1);
    (void)state;
    assert_null(kd_model_class(m, 0));
    assert_ok(kd, kd_model_set_classes(m, names, 3));
    assert_string_equal(kd_model_class(m, 0), "cat");
    assert_string_equal(kd_model_class(m, 1), "");
    assert_string_equal(kd_model_class(m, 2), "Gr\xc3\xbc\xc3\x9f Gott");
    assert_null(kd_model_class(m, -1));
    assert_null(kd_model_class(m, 3));
    assert_fails(kd, kd_model_set_classes(m, names, 2), KD_ERR_ARGUMENT, "the model has 3 outputs, got 2 names");
    assert_fails(kd, kd_model_set_classes(m, NULL, 3), KD_ERR_ARGUMENT, "kd_model_set_classes");
    assert_fails(kd, kd_model_set_classes(m, broken, 3), KD_ERR_ARGUMENT, "name 1 is NULL");
    assert_int_equal(kd_model_set_classes(NULL, names, 3), KD_ERR_ARGUMENT);
    assert_string_equal(kd_model_class(m, 0), "cat"); /* the old names stay after a failure */
    copied[0] = changing, copied[1] = "b", copied[2] = "c";
    assert_ok(kd, kd_model_set_classes(m, copied, 3));
    changing[0] = 'b';
    assert_string_equal(kd_model_class(m, 0), "cat");
    copied[0] = "a\xff\xe4z", copied[1] = "\xc3",
    copied[2] = "\xed\xa0\x80|\xf0\x9f\x8c\x8d"; /* no UTF-8, but the last */
    assert_ok(kd, kd_model_set_classes(m, copied, 3));
    assert_string_equal(kd_model_class(m, 0), "a??z");
    assert_string_equal(kd_model_class(m, 1), "?");
    assert_string_equal(kd_model_class(m, 2), "???|\xf0\x9f\x8c\x8d");
    kd_model_destroy(m);
}

/* Pixels as cameras have them give the same bits as the same in planes, with a workspace, too; more samples than a
   workspace holds, more pixels than are put in order at once. */
static void test_interleaved(void **state)
{
    static const char *const specs[] = {"3x29x31: conv 4 3 stride=2, relu, flatten, dense 3", "1x5x4: dense 3",
                                        "7: dense 3"};
    enum { N = 300 };
    const float mean[7] = {0.5f, 0.25f, 0.1f, 0.2f, 0, 0, 0}, std[7] = {0.5f, 0.1f, 0.3f, 1, 1, 1, 1};
    float wanted[N * 3], found[N * 3];
    int i, j, p, c, normalised;
    (void)state;
    for (i = 0; i < 3; ++i) {
        kd_model *m = create(specs[i], 1);
        kd_workspace *w;
        int channels, height, width, pixels;
        uint8_t *planes, *mixed;
        kd_model_input(m, &channels, &height, &width);
        pixels = height * width;
        planes = (uint8_t *)malloc((size_t)(N * channels * pixels));
        mixed = (uint8_t *)malloc((size_t)(N * channels * pixels));
        for (j = 0; j < N; ++j) {
            for (c = 0; c < channels; ++c) {
                for (p = 0; p < pixels; ++p)
                    planes[(j * channels + c) * pixels + p] = mixed[(j * pixels + p) * channels + c] =
                        (uint8_t)(kd__rng_unit(7, (uint64_t)((j * channels + c) * pixels + p)) * 256);
            }
        }
        assert_ok(kd, kd_workspace_create(m, 9, &w));
        for (normalised = 0; normalised < 2; ++normalised) {
            if (normalised) assert_ok(kd, kd_model_set_preprocessing(m, mean, std));
            assert_ok(kd, kd_predict_u8(m, planes, N, wanted));
            assert_ok(kd, kd_predict_u8_hwc(m, mixed, N, found));
            assert_memory_equal(found, wanted, sizeof found);
            memset(found, 0, sizeof found);
            assert_ok(kd, kd_workspace_predict_u8(w, planes, 9, found));
            assert_memory_equal(found, wanted, 9 * 3 * sizeof *found);
            memset(found, 0, sizeof found);
            assert_ok(kd, kd_workspace_predict_u8_hwc(w, mixed, 9, found));
            assert_memory_equal(found, wanted, 9 * 3 * sizeof *found);
        }
        assert_fails(kd, kd_workspace_predict_u8(w, planes, 10, found), KD_ERR_ARGUMENT,
                     "kd_workspace_predict_u8: 10 samples, but this workspace holds 0 to 9");
        assert_fails(kd, kd_workspace_predict_u8_hwc(w, NULL, 1, found), KD_ERR_ARGUMENT,
                     "kd_workspace_predict_u8_hwc: 1 samples");
        assert_ok(kd, kd_workspace_predict_u8_hwc(w, NULL, 0, NULL));
        assert_fails(kd, kd_predict_u8_hwc(m, mixed, -1, found), KD_ERR_ARGUMENT, "kd_predict_u8_hwc: -1 samples");
        assert_int_equal(kd_predict_u8_hwc(NULL, mixed, 1, found), KD_ERR_ARGUMENT);
        assert_int_equal(kd_workspace_predict_u8(NULL, mixed, 1, found), KD_ERR_ARGUMENT);
        kd_workspace_destroy(w);
        kd_model_destroy(m);
        free(planes), free(mixed);
    }
}

static void test_preprocessing(void **state)
{
    const float mean[3] = {0.5f, 0.25f, 0}, std[3] = {0.5f, 0.1f, 1}, zeros[3] = {0};
    float bad[3] = {1, 1, NAN}, got_mean[KD_MAX_CHANNELS], got_std[KD_MAX_CHANNELS], x[12], known[2], wanted[2];
    uint8_t pixels[12] = {0, 255, 128, 7, 1, 2, 3, 250, 90, 80, 70, 60};
    kd_model *m = create("3x2x2: dense 2", 1);
    int i;
    (void)state;
    assert_int_equal(kd_model_preprocessing(m, got_mean, got_std), 0);
    for (i = 0; i < 12; ++i) x[i] = (float)pixels[i] / 255; /* nothing known: scaled by 1/255 */
    assert_ok(kd, kd_predict_u8(m, pixels, 1, known));
    assert_ok(kd, kd_predict(m, x, 1, wanted));
    for (i = 0; i < 2; ++i) assert_near(known[i], wanted[i], 1e-6);
    assert_ok(kd, kd_model_set_preprocessing(m, mean, std));
    assert_int_equal(kd_model_preprocessing(m, got_mean, got_std), 3);
    assert_memory_equal(got_mean, mean, sizeof mean);
    assert_memory_equal(got_std, std, sizeof std);
    assert_int_equal(kd_model_preprocessing(m, NULL, NULL), 3);
    for (i = 0; i < 12; ++i) x[i] = ((float)pixels[i] / 255 - mean[i / 4]) / std[i / 4];
    assert_ok(kd, kd_predict_u8(m, pixels, 1, known));
    assert_ok(kd, kd_predict(m, x, 1, wanted));
    for (i = 0; i < 2; ++i) assert_near(known[i], wanted[i], 1e-5);
    assert_fails(kd, kd_model_set_preprocessing(m, bad, std), KD_ERR_ARGUMENT,
                 "channel 2 needs a finite mean and a std above 0, got nan and 1");
    assert_fails(kd, kd_model_set_preprocessing(m, mean, zeros), KD_ERR_ARGUMENT, "channel 0 needs");
    bad[2] = INFINITY;
    assert_fails(kd, kd_model_set_preprocessing(m, mean, bad), KD_ERR_ARGUMENT, "got 0 and inf");
    assert_int_equal(kd_model_preprocessing(m, got_mean, NULL), 3); /* as it was */
    assert_memory_equal(got_mean, mean, sizeof mean);
    assert_fails(kd, kd_model_set_preprocessing(m, mean, NULL), KD_ERR_ARGUMENT, "mean without std");
    assert_fails(kd, kd_model_set_preprocessing(m, NULL, std), KD_ERR_ARGUMENT, "std without mean");
    assert_int_equal(kd_model_preprocessing(m, NULL, NULL), 3);
    assert_ok(kd, kd_model_set_preprocessing(m, NULL, NULL));
    assert_int_equal(kd_model_preprocessing(m, NULL, NULL), 0);
    assert_int_equal(kd_model_set_preprocessing(NULL, mean, std), KD_ERR_ARGUMENT);
    kd_model_destroy(m);
    m = create("12: dense 2", 1); /* a vector has one */
    assert_ok(kd, kd_model_set_preprocessing(m, mean, std));
    assert_int_equal(kd_model_preprocessing(m, NULL, NULL), 1);
    for (i = 0; i < 12; ++i) x[i] = ((float)pixels[i] / 255 - mean[0]) / std[0];
    assert_ok(kd, kd_predict_u8(m, pixels, 1, known));
    assert_ok(kd, kd_predict(m, x, 1, wanted));
    for (i = 0; i < 2; ++i) assert_near(known[i], wanted[i], 1e-5);
    kd_model_destroy(m);
    m = create("17x2x2: dense 2", 1);
    assert_fails(kd, kd_model_set_preprocessing(m, got_mean, got_std), KD_ERR_ARGUMENT,
                 "17 channels, but at most 16 can be normalised");
    kd_model_destroy(m);
}

static void test_framing(void **state)
{
    kd_model *m = create("1x2x2: dense 2", 1), *copy = NULL;
    char words[65];
    (void)state;
    assert_string_equal(kd_model_framing(m), "");
    assert_ok(kd, kd_model_set_framing(m, "crop=256 exif"));
    assert_string_equal(kd_model_framing(m), "crop=256 exif");
    assert_ok(kd, kd_model_clone(m, &copy));
    assert_string_equal(kd_model_framing(copy), "crop=256 exif");
    assert_true(kd_model_hash(copy) == kd_model_hash(m));
    kd_model_destroy(copy);
    memset(words, 'x', sizeof words);
    words[64] = 0;
    assert_fails(kd, kd_model_set_framing(m, words), KD_ERR_ARGUMENT, "at most 63 letters, digits, blanks and");
    assert_fails(kd, kd_model_set_framing(m, "*/"), KD_ERR_ARGUMENT, "kd_model_set_framing: at most 63");
    assert_fails(kd, kd_model_set_framing(m, "a\nb"), KD_ERR_ARGUMENT, "at most 63");
    assert_string_equal(kd_model_framing(m), "crop=256 exif"); /* as it was */
    words[63] = 0;
    assert_ok(kd, kd_model_set_framing(m, words));
    assert_string_equal(kd_model_framing(m), words);
    assert_ok(kd, kd_model_set_framing(m, NULL));
    assert_string_equal(kd_model_framing(m), "");
    assert_int_equal(kd_model_set_framing(NULL, ""), KD_ERR_ARGUMENT);
    kd_model_destroy(m);
}

static void test_clone(void **state)
{
    static const char *const names[] = {"yes", "no"};
    const float mean[1] = {0.3f}, std[1] = {0.2f};
    float values[2] = {4, 5}, got[KD_MAX_CHANNELS];
    kd_model *m = create("1x3x3: conv 4 3, batchnorm, dense 2", 1), *copy = NULL;
    uint64_t hash;
    (void)state;
    assert_ok(kd, kd_model_set_classes(m, names, 2));
    assert_ok(kd, kd_model_set_preprocessing(m, mean, std));
    m->batches_seen = 77;
    assert_ok(kd, kd_model_set_tensor(m, "3.bias", values, 2));
    hash = kd_model_hash(m);
    assert_ok(kd, kd_model_clone(m, &copy));
    assert_true(kd_model_hash(copy) == hash);
    assert_true(kd__model_checksum(copy) == kd__model_checksum(m)); /* what a saved file would hold */
    assert_string_equal(kd_model_spec(copy), kd_model_spec(m));
    assert_string_equal(kd_model_class(copy, 1), "no");
    assert_int_equal(kd_model_preprocessing(copy, got, NULL), 1);
    assert_true(got[0] == mean[0]);
    assert_int_equal(copy->batches_seen, 77);
    values[0] = 9; /* and neither is tied to the other */
    assert_ok(kd, kd_model_set_tensor(copy, "3.bias", values, 2));
    assert_true(kd_model_hash(m) == hash);
    kd_model_destroy(m);
    assert_ok(kd, kd_model_get_tensor(copy, "3.bias", got, 2));
    assert_true(got[0] == 9);
    assert_int_equal(kd_model_clone(NULL, &m), KD_ERR_ARGUMENT);
    assert_fails(kd, kd_model_clone(copy, NULL), KD_ERR_ARGUMENT, "out must not be NULL");
    kd_model_destroy(copy);
}

/* ---- prediction ------------------------------------------------------------------------------------------ */

enum { SAMPLES = 600, PREDICT_INPUT = 2 * 6 * 6, PREDICT_OUTPUTS = 5 };
static const char predict_spec[] =
    "2x6x6: conv 12 3 pad=1, batchnorm, relu, maxpool 2, residual(conv 20 3 stride=2 "
    "pad=1, gelu), dropout 0.5, dense 30, tanh, dense 5";

/* A sample's logits do not depend on what else is in the call, on threads or on where a call is cut. */
static void test_predict(void **state)
{
    float *x = test_floats(1, SAMPLES * PREDICT_INPUT, 1);
    float *one = (float *)malloc(SAMPLES * PREDICT_OUTPUTS * sizeof *one);
    float *all = (float *)malloc(SAMPLES * PREDICT_OUTPUTS * sizeof *all);
    kd_isa isa;
    (void)state;
    FOR_EACH_ISA(isa)
    {
        int threads, i;
        for (threads = 1; threads <= 3; threads += 2) {
            kd_ctx *on = test_open(isa, threads);
            kd_model *m;
            assert_ok(on, kd_model_create(on, predict_spec, 3, &m));
            for (i = 0; i < SAMPLES; ++i)
                assert_ok(on, kd_predict(m, x + i * PREDICT_INPUT, 1, one + i * PREDICT_OUTPUTS));
            memset(all, 0, SAMPLES * PREDICT_OUTPUTS * sizeof *all);
            assert_ok(on, kd_predict(m, x, SAMPLES, all));
            assert_memory_equal(one, all, SAMPLES * PREDICT_OUTPUTS * sizeof *all);
            assert_ok(on, kd_predict(m, x, 37, all));
            assert_memory_equal(one, all, SAMPLES * PREDICT_OUTPUTS * sizeof *all);
            kd_model_destroy(m);
            kd_close(on);
        }
    }
    free(x);
    free(one);
    free(all);
}

static void test_predict_errors(void **state)
{
    kd_model *m = create("4: dense 3", 1);
    const float x[4] = {0};
    const uint8_t pixels[4] = {0};
    float logits[3] = {5, 5, 5};
    (void)state;
    assert_ok(kd, kd_predict(m, NULL, 0, NULL));
    assert_ok(kd, kd_predict_u8(m, NULL, 0, NULL));
    assert_fails(kd, kd_predict(m, x, -1, logits), KD_ERR_ARGUMENT, "kd_predict: -1 samples, or a NULL pointer");
    assert_fails(kd, kd_predict(m, NULL, 1, logits), KD_ERR_ARGUMENT, "kd_predict: 1 samples, or a NULL pointer");
    assert_fails(kd, kd_predict(m, x, 1, NULL), KD_ERR_ARGUMENT, "kd_predict: 1 samples, or a NULL pointer");
    assert_fails(kd, kd_predict_u8(m, pixels, -1, logits), KD_ERR_ARGUMENT, "kd_predict_u8: -1 samples");
    assert_fails(kd, kd_predict_u8(m, NULL, 1, logits), KD_ERR_ARGUMENT, "kd_predict_u8");
    assert_fails(kd, kd_predict_u8(m, pixels, 1, NULL), KD_ERR_ARGUMENT, "kd_predict_u8");
    assert_int_equal(kd_predict(NULL, x, 1, logits), KD_ERR_ARGUMENT);
    assert_int_equal(kd_predict_u8(NULL, pixels, 1, logits), KD_ERR_ARGUMENT);
    assert_true(logits[0] == 5);
    kd_model_destroy(m);
}

/* Little scratch makes workspaces smaller and leaves Winograd's way out, which is the same up to rounding. */
static void test_scratch(void **state)
{
    static const char line[] = "16x8x8: conv 32 3 pad=1, relu, gap, dense 3";
    float *x = test_floats(3, 2 * 16 * 64, 1), logits[2][6];
    size_t bytes[2];
    int i;
    (void)state;
    for (i = 0; i < 2; ++i) {
        kd_ctx_desc desc = kd_ctx_defaults();
        kd_ctx *context;
        kd_model *m;
        kd_workspace *w;
        desc.scratch = i ? 16384 : 0;
        assert_int_equal(kd_open(&desc, &context), KD_OK);
        assert_ok(context, kd_model_create(context, line, 1, &m));
        assert_int_equal(kd__is_winograd(m, &m->nodes[0]), !i);
        assert_ok(context, kd_workspace_create(m, 2, &w));
        bytes[i] = kd_workspace_bytes(w);
        assert_ok(context, kd_workspace_predict(w, x, 2, logits[i]));
        kd_workspace_destroy(w);
        kd_model_destroy(m);
        kd_close(context);
    }
    assert_true(bytes[1] < bytes[0] / 2);
    for (i = 0; i < 6; ++i) assert_near(logits[1][i], logits[0][i], 1e-5);
    free(x);
}

/* Batch normalisation works in the buffer of its input where nobody else reads that. */
static void test_in_place(void **state)
{
    static const struct {
        const char *line;
        int node, shared; /* of the batchnorm */
    } cases[] = {{"2x6x6: conv 4 3 pad=1, batchnorm, relu, conv 3 3", 1, 1},
                 {"2x6x6: conv 4 3 pad=1, relu, batchnorm, dense 3", 2, 1},
                 {"2x6x6: batchnorm, relu, conv 3 3", 0, 0},
                 {"2x6x6: flatten, batchnorm, dense 3", 1, 0},
                 {"2x6x6: conv 4 3 pad=1, residual(batchnorm, conv 4 3 pad=1), gap", 1, 0}};
    float *x = test_floats(5, 3 * 72, 1), *before = test_floats(5, 3 * 72, 1), logits[3 * 64];
    size_t i;
    (void)state;
    for (i = 0; i < sizeof cases / sizeof *cases; ++i) {
        kd_model *m = create(cases[i].line, 3);
        const kd__node *n = &m->nodes[cases[i].node];
        kd__tap tap;
        kd__run_desc tapped = {NULL, -1, NULL, 0, NULL, 0, 0}, sought = {NULL, 0, NULL, 0, NULL, 0, 0};
        kd__run *run;
        assert_true(kd__is_norm(n));
        memset(&tap, 0, sizeof tap);
        tap.value = n->in;
        tapped.taps = &tap, tapped.tap_count = 1;
        assert_ok(kd, kd__run_open(m, NULL, 3, &run));
        assert_int_equal(run->act[n->in].base == run->act[n->out].base, cases[i].shared);
        kd__run_close(run);
        assert_ok(kd, kd__run_open(m, m, 3, &run));
        assert_true(run->act[n->in].base != run->act[n->out].base);
        kd__run_close(run);
        assert_ok(kd, kd__run_open_for(m, &tapped, 3, &run));
        assert_true(run->act[n->in].base != run->act[n->out].base);
        kd__run_close(run);
        assert_ok(kd, kd__run_open_for(m, &sought, 3, &run)); /* whose way back reads it */
        assert_true(run->act[n->in].base != run->act[n->out].base);
        kd__run_close(run);
        assert_ok(kd, kd_predict(m, x, 3, logits));
        assert_memory_equal(x, before, 3 * 72 * sizeof *x);
        kd_model_destroy(m);
    }
    free(before);
    free(x);
}

/* A workspace is as large as was said before, which itself takes little. */
static void test_workspace_planned(void **state)
{
    static const char *const lines[] = {
        "3x32x32: conv 16 3 pad=1, batchnorm, relu, residual(conv 16 3 pad=1, batchnorm, relu, conv 16 3 pad=1, "
        "batchnorm), relu, maxpool 2, conv 32 3, gap, dense 10",
        "784: dense 300, relu, dense 10", "3x32x32: patch 8 24, classtoken, encoder 2 3, token 0, linear 10",
        "1x8x8: depthwise 3, softtree 3 10"};
    static const int capacities[] = {1, 7, 40, 300};
    const int line_count = KD__COUNT(lines);
    test_memory books;
    uint8_t *pixels = test_bytes(3, 8 * 3 * 32 * 32);
    kd_data data = kd_data_u8(pixels, NULL, 8, 3, 32, 32, 10);
    int i, j, threads;
    (void)state;
    for (threads = 1; threads <= 3; threads += 2) {
        for (i = 0; i <= line_count; ++i) { /* the last one is int8 */
            kd_ctx_desc desc = test_memory_desc(&books);
            kd_ctx *context;
            kd_model *m, *small;
            desc.threads = threads;
            assert_int_equal(kd_open(&desc, &context), KD_OK);
            assert_ok(context, kd_model_create(context, lines[i % line_count], 1, &m));
            if (i == line_count) {
                assert_ok(context, kd_model_quantize(m, &data, NULL, &small));
                kd_model_destroy(m);
                m = small;
            }
            for (j = 0; j < KD__COUNT(capacities); ++j) {
                const size_t before = books.bytes;
                size_t bytes = 0;
                kd_workspace *w;
                books.peak = before;
                assert_ok(context, kd_model_workspace_bytes(m, capacities[j], &bytes));
                assert_int_equal(books.bytes, before);
                assert_true(books.peak - before < 32768);
                assert_ok(context, kd_workspace_create(m, capacities[j], &w));
                assert_int_equal(books.bytes - before, bytes);
                assert_int_equal(kd_workspace_bytes(w), bytes);
                kd_workspace_destroy(w);
            }
            kd_model_destroy(m);
            test_memory_close(context, &books);
        }
    }
    free(pixels);
}

static void test_workspace_planned_refused(void **state)
{
    kd_model *m = create(predict_spec, 3);
    size_t bytes = 5;
    (void)state;
    assert_int_equal(kd_model_workspace_bytes(NULL, 1, &bytes), KD_ERR_ARGUMENT);
    assert_fails(kd, kd_model_workspace_bytes(m, 1, NULL), KD_ERR_ARGUMENT, "bytes must not be NULL");
    assert_fails(kd, kd_model_workspace_bytes(m, 0, &bytes), KD_ERR_ARGUMENT,
                 "kd_model_workspace_bytes: capacity must be 1 to 65536, got 0");
    memory.refuse_at = 2;
    assert_fails(kd, kd_model_workspace_bytes(m, 1, &bytes), KD_ERR_MEMORY, "out of memory");
    assert_int_equal(bytes, 5);
    kd_model_destroy(m);
}

static void test_workspace(void **state)
{
    kd_model *m = create(predict_spec, 3);
    float *x = test_floats(1, SAMPLES * PREDICT_INPUT, 1), wanted[40 * PREDICT_OUTPUTS], got[40 * PREDICT_OUTPUTS];
    kd_workspace *small, *large = NULL;
    size_t before;
    int i, requests;
    (void)state;
    assert_ok(kd, kd_predict(m, x, 40, wanted));
    before = memory.bytes;
    assert_ok(kd, kd_workspace_create(m, 40, &large));
    assert_int_equal(kd_workspace_bytes(large), memory.bytes - before);
    assert_ok(kd, kd_workspace_create(m, 7, &small));
    assert_true(kd_workspace_bytes(small) < kd_workspace_bytes(large));
    assert_int_equal(kd_workspace_bytes(small) + kd_workspace_bytes(large), memory.bytes - before);
    requests = memory.requests;
    assert_ok(kd, kd_workspace_predict(large, x, 40, got));
    assert_memory_equal(got, wanted, sizeof got);
    memset(got, 0, sizeof got);
    for (i = 0; i < 40; i += 5)
        assert_ok(kd, kd_workspace_predict(small, x + i * PREDICT_INPUT, 5, got + i * PREDICT_OUTPUTS));
    assert_memory_equal(got, wanted, sizeof got);
    assert_ok(kd, kd_workspace_predict(small, x, 0, got));
    assert_int_equal(memory.requests, requests); /* never allocates */
    assert_fails(kd, kd_workspace_predict(small, x, 8, got), KD_ERR_ARGUMENT,
                 "8 samples, but this workspace holds 0 to 7");
    assert_fails(kd, kd_workspace_predict(small, x, -1, got), KD_ERR_ARGUMENT, "-1 samples");
    assert_fails(kd, kd_workspace_predict(small, NULL, 1, got), KD_ERR_ARGUMENT, "must not be NULL");
    assert_fails(kd, kd_workspace_predict(small, x, 1, NULL), KD_ERR_ARGUMENT, "must not be NULL");
    assert_int_equal(kd_workspace_predict(NULL, x, 1, got), KD_ERR_ARGUMENT);
    kd_workspace_destroy(small);
    kd_workspace_destroy(large);
    kd_workspace_destroy(NULL);
    for (i = -1; i <= 65537; i += i == 0 ? 65537 : 1) {
        small = large; /* which is no more */
        assert_fails(kd, kd_workspace_create(m, i, &small), KD_ERR_ARGUMENT, "capacity must be 1 to 65536");
        assert_null(small);
    }
    assert_fails(kd, kd_workspace_create(m, 3, NULL), KD_ERR_ARGUMENT, "kd_workspace_create");
    small = large;
    assert_int_equal(kd_workspace_create(NULL, 3, &small), KD_ERR_ARGUMENT);
    assert_null(small);
    {
        kd_model *none = m;
        kd_trainer *trainer = (kd_trainer *)(void *)m;
        kd_builder *builder = (kd_builder *)(void *)m;
        kd_cache *cache = (kd_cache *)(void *)m;
        assert_int_equal(kd_model_create(NULL, "2: dense 2", 1, &none), KD_ERR_ARGUMENT);
        assert_null(none);
        none = m;
        assert_int_equal(kd_model_clone(NULL, &none), KD_ERR_ARGUMENT);
        assert_null(none);
        none = m;
        assert_int_equal(kd_model_load(NULL, "file", &none), KD_ERR_ARGUMENT);
        assert_null(none);
        assert_int_equal(kd_trainer_open(NULL, NULL, NULL, &trainer), KD_ERR_ARGUMENT);
        assert_null(trainer);
        assert_int_equal(kd_builder_open(NULL, 1, 1, 1, &builder), KD_ERR_ARGUMENT);
        assert_null(builder);
        assert_fails(kd, kd_cache_create(m, NULL, NULL, 1, 0, &cache), KD_ERR_ARGUMENT, "views must be");
        assert_null(cache);
        cache = (kd_cache *)(void *)m;
        assert_int_equal(kd_cache_load(NULL, "file", &cache), KD_ERR_ARGUMENT);
        assert_null(cache);
    }
    kd_model_destroy(m);
    free(x);
}

#if KD__THREADS
typedef struct asker {
    const kd_model *m;
    const float *x;
    float *got;
    int first, failures;
    pthread_t id;
} asker;

/* Every fourth three samples, in calls of different sizes, some of them failing. */
static void *predict_some(void *user)
{
    asker *a = (asker *)user;
    int i;
    for (i = a->first; i < SAMPLES; i += 4 * 3) {
        const int n = i % 2 ? 1 : 2;
        a->failures += kd_predict(a->m, a->x + i * PREDICT_INPUT, n, a->got + i * PREDICT_OUTPUTS) != KD_OK;
        a->failures +=
            kd_predict(a->m, a->x + (i + n) * PREDICT_INPUT, 3 - n, a->got + (i + n) * PREDICT_OUTPUTS) != KD_OK;
        a->failures += kd_predict(a->m, a->x, -i - 1, a->got) != KD_ERR_ARGUMENT;
        a->failures += kd_model_outputs(a->m) != PREDICT_OUTPUTS || kd_model_hash(a->m) == 0;
    }
    return NULL;
}

/* A model may be used by several threads at once. */
static void test_predict_from_threads(void **state)
{
    kd_ctx *on = test_open(KD_ISA_AUTO, 1);
    float *x = test_floats(1, SAMPLES * PREDICT_INPUT, 1);
    float *wanted = (float *)malloc(SAMPLES * PREDICT_OUTPUTS * sizeof *wanted);
    float *got = (float *)calloc(SAMPLES * PREDICT_OUTPUTS, sizeof *got);
    asker askers[4];
    kd_model *m;
    int i;
    (void)state;
    assert_ok(on, kd_model_create(on, predict_spec, 3, &m));
    assert_ok(on, kd_predict(m, x, SAMPLES, wanted));
    for (i = 0; i < 4; ++i) {
        askers[i].m = m, askers[i].x = x, askers[i].got = got;
        askers[i].first = 3 * i, askers[i].failures = 0;
        assert_int_equal(pthread_create(&askers[i].id, NULL, predict_some, &askers[i]), 0);
    }
    for (i = 0; i < 4; ++i) {
        assert_int_equal(pthread_join(askers[i].id, NULL), 0);
        assert_int_equal(askers[i].failures, 0);
    }
    assert_memory_equal(got, wanted, SAMPLES * PREDICT_OUTPUTS * sizeof *wanted);
    assert_non_null(strstr(kd_error(on), "samples, or a NULL pointer"));
    kd_model_destroy(m);
    kd_close(on);
    free(x);
    free(wanted);
    free(got);
}
#endif

/* ---- evaluation ------------------------------------------------------------------------------------------ */

/* Models that hand their input on, times a factor, so that the logits are known. */
static kd_model *identity(int size, float factor)
{
    char spec[64];
    kd_model *m;
    float *weights = (float *)calloc((size_t)(size * size), sizeof *weights);
    int i;
    snprintf(spec, sizeof spec, "%d: dense %d bias=0", size, size);
    m = create(spec, 1);
    for (i = 0; i < size; ++i) weights[i * size + i] = factor;
    assert_ok(kd, kd_model_set_tensor(m, "0.weight", weights, (int64_t)size * size));
    free(weights);
    return m;
}

static void reference_softmax(const float *logits, double factor, int n, double *p)
{
    double sum = 0;
    int c;
    for (c = 0; c < n; ++c) sum += exp(factor * (double)logits[c]);
    for (c = 0; c < n; ++c) p[c] = exp(factor * (double)logits[c]) / sum;
}

static int reference_argmax(const double *p, int n)
{
    int best = 0, c;
    for (c = 0; c < n; ++c) best = p[c] > p[best] ? c : best;
    return best;
}

/* Metrics of logits x against labels, from their definitions; the teacher's logits are factor * x. */
static void reference_metrics(const float *x, const float *targets, const int32_t *labels, int count, int classes,
                              double factor, kd_metrics *out, int64_t *confusion)
{
    double bin_confidence[15] = {0}, p[8], q[8];
    int bin_count[15] = {0}, bin_right[15] = {0}, right = 0, r, c, bin;
    memset(out, 0, sizeof *out);
    memset(confusion, 0, (size_t)(classes * classes) * sizeof *confusion);
    out->classes = classes;
    for (r = 0; r < count; ++r, x += classes) {
        int choice;
        reference_softmax(x, 1, classes, p);
        reference_softmax(x, factor, classes, q);
        choice = reference_argmax(p, classes);
        for (c = 0; c < classes; ++c) {
            const double d = (double)x[c] - (double)targets[r * classes + c];
            out->kl += q[c] * log(q[c] / p[c]) / count;
            out->mse += d * d / count / classes;
        }
        out->agreement += (double)(choice == reference_argmax(q, classes)) / count;
        if (labels[r] == KD_UNLABELLED) continue;
        ++out->count;
        ++confusion[labels[r] * classes + choice];
        ++out->class_count[labels[r]];
        out->nll -= log(p[labels[r]]);
        for (bin = 0; bin < 14 && p[choice] > (bin + 1) / 15.0; ++bin) {}
        ++bin_count[bin];
        bin_confidence[bin] += p[choice];
        bin_right[bin] += choice == labels[r];
        right += choice == labels[r];
    }
    out->nll /= out->count;
    out->accuracy = (double)right / out->count;
    for (bin = 0; bin < 15; ++bin) { /* sum over bins of share * |accuracy - confidence| */
        if (bin_count[bin])
            out->ece += (double)bin_count[bin] / out->count *
                        fabs((double)bin_right[bin] / bin_count[bin] - bin_confidence[bin] / bin_count[bin]);
    }
    for (c = 0; c < classes; ++c) {
        if (out->class_count[c]) out->class_accuracy[c] = (double)confusion[c * classes + c] / out->class_count[c];
    }
}

static void check_metrics(const kd_metrics *got, const kd_metrics *wanted)
{
    int c;
    assert_int_equal(got->count, wanted->count);
    assert_near(got->accuracy, wanted->accuracy, 1e-12);
    assert_near(got->nll, wanted->nll, 1e-5);
    assert_near(got->ece, wanted->ece, 1e-5);
    assert_near(got->mse, wanted->mse, 1e-6);
    assert_near(got->agreement, wanted->agreement, 1e-12);
    assert_near(got->kl, wanted->kl, 1e-5);
    assert_int_equal(got->classes, wanted->classes);
    for (c = 0; c < got->classes; ++c) {
        assert_int_equal(got->class_count[c], wanted->class_count[c]);
        assert_near(got->class_accuracy[c], wanted->class_accuracy[c], 1e-12);
    }
}

static void test_metrics(void **state)
{
    enum { COUNT = 700, CLASSES = 5 };
    kd_model *m = identity(CLASSES, 1), *teacher = identity(CLASSES, -0.7f);
    float *x = test_floats(1, COUNT * CLASSES, 3), *targets = test_floats(2, COUNT * CLASSES, 1);
    float *logits = (float *)malloc(COUNT * CLASSES * sizeof *logits);
    float *cached = (float *)malloc(COUNT * CLASSES * sizeof *cached);
    int32_t labels[COUNT];
    int64_t confusion[CLASSES * CLASSES], wanted_confusion[CLASSES * CLASSES];
    kd_metrics got, wanted;
    kd_data data = kd_data_f32(x, labels, COUNT, CLASSES, 1, 1, CLASSES);
    kd_evaluate_desc desc = kd_evaluate_defaults();
    int r;
    (void)state;
    for (r = 0; r < COUNT; ++r) {
        double p[CLASSES];
        reference_softmax(x + r * CLASSES, 1, CLASSES, p);
        labels[r] = r % 9 == 0 ? KD_UNLABELLED : r % 3 ? reference_argmax(p, CLASSES) : r % 4; /* never all wrong */
    }
    reference_metrics(x, targets, labels, COUNT, CLASSES, -0.7, &wanted, wanted_confusion);
    assert_true(wanted.accuracy > 0.5 && wanted.accuracy < 0.95 && wanted.agreement < 0.2 && wanted.ece > 0.01);
    data.targets = targets;
    desc.teacher = teacher;
    desc.logits = logits;
    desc.confusion = confusion;
    for (desc.batch = 1; desc.batch < 2000; desc.batch *= 11) { /* 1, 11, 121, 1331 */
        memset(confusion, 77, sizeof confusion);
        memset(logits, 0, COUNT * CLASSES * sizeof *logits);
        memset(&got, 77, sizeof got);
        assert_ok(kd, kd_evaluate_with(m, &data, &desc, &got));
        check_metrics(&got, &wanted);
        assert_memory_equal(confusion, wanted_confusion, sizeof confusion);
        assert_memory_equal(logits, x, COUNT * CLASSES * sizeof *logits);
    }
    /* cached logits of the teacher in place of the teacher */
    for (r = 0; r < COUNT * CLASSES; ++r) cached[r] = -0.7f * x[r];
    data.teacher_logits = cached;
    assert_ok(kd, kd_evaluate(m, &data, &got));
    check_metrics(&got, &wanted);
    /* neither teacher nor targets nor labels */
    data.teacher_logits = data.targets = NULL;
    wanted.agreement = wanted.kl = -1;
    wanted.mse = 0;
    assert_ok(kd, kd_evaluate(m, &data, &got));
    check_metrics(&got, &wanted);
    data.labels = NULL;
    assert_ok(kd, kd_evaluate(m, &data, &got));
    assert_int_equal(got.count, 0);
    assert_true(got.accuracy == 0 && got.nll == 0 && got.ece == 0);
    kd_model_destroy(m);
    kd_model_destroy(teacher);
    free(x);
    free(targets);
    free(logits);
    free(cached);
}

/* One output decides between two classes by its sign. */
static void test_metrics_of_one_output(void **state)
{
    const float x[6] = {2, -1, 0.5f, -3, 0, 4};
    const int32_t labels[6] = {1, 0, 0, 1, 0, KD_UNLABELLED}, zeros[6] = {0};
    const int64_t wanted[4] = {2, 1, 1, 1}; /* sigmoid(0) is no more than a half: class 0 */
    kd_model *m = identity(1, 1);
    kd_data data = kd_data_f32(x, labels, 6, 1, 1, 1, 2);
    kd_evaluate_desc desc = kd_evaluate_defaults();
    int64_t confusion[4];
    kd_metrics metrics;
    double nll = 0;
    int i;
    (void)state;
    for (i = 0; i < 5; ++i) nll += log(1 + exp(labels[i] ? -(double)x[i] : (double)x[i])) / 5;
    desc.confusion = confusion;
    assert_ok(kd, kd_evaluate_with(m, &data, &desc, &metrics));
    assert_int_equal(metrics.count, 5);
    assert_near(metrics.accuracy, 3 / 5.0, 1e-12);
    assert_near(metrics.nll, nll, 1e-6);
    assert_int_equal(metrics.classes, 2);
    assert_memory_equal(confusion, wanted, sizeof wanted);
    /* one class only: what is chosen may be outside, and is not counted */
    data = kd_data_f32(x, zeros, 6, 1, 1, 1, 1);
    memset(confusion, 77, sizeof confusion);
    assert_ok(kd, kd_evaluate_with(m, &data, &desc, &metrics));
    assert_int_equal(confusion[0], 3);
    assert_int_equal(((unsigned char *)confusion)[8], 77);
    kd_model_destroy(m);
}

static int failing_batch(void *user, const int32_t *samples, int n, float *x, int32_t *labels)
{
    (void)user, (void)samples, (void)n, (void)x, (void)labels;
    return 1;
}

static void test_evaluate_errors(void **state)
{
    kd_model *m = create("4: dense 3", 1), *other = create("4: dense 2", 1), *image = create("1x2x3: dense 3", 1);
    static const char *const names[] = {"a", "b", "c"}, *const others[] = {"a", "c", "b"};
    float x[8] = {0};
    int32_t labels[2] = {0, 3};
    kd_data data = kd_data_f32(x, labels, 2, 1, 1, 4, 3), broken;
    kd_evaluate_desc desc = kd_evaluate_defaults();
    kd_metrics metrics, untouched;
    (void)state;
    memset(&metrics, 55, sizeof metrics);
    untouched = metrics;
    assert_fails(kd, kd_evaluate(m, &data, &metrics), KD_ERR_DATA, "label 3 of sample 1 is outside 0 to 2");
    labels[1] = -1; /* only KD_UNLABELLED means unknown */
    assert_fails(kd, kd_evaluate(m, &data, &metrics), KD_ERR_DATA, "label -1 of sample 1 is outside 0 to 2");
    labels[1] = 2;
    assert_fails(kd, kd_evaluate(m, &data, NULL), KD_ERR_ARGUMENT, "out must not be NULL");
    desc.batch = 0;
    assert_fails(kd, kd_evaluate_with(m, &data, &desc, &metrics), KD_ERR_ARGUMENT,
                 "batch must be 1 to 65536, got 0");
    desc = kd_evaluate_defaults();
    assert_fails(kd, kd_evaluate(other, &data, &metrics), KD_ERR_SHAPE,
                 "the model has 2 outputs, but the data have 3 classes");
    assert_fails(kd, kd_evaluate(image, &data, &metrics), KD_ERR_SHAPE,
                 "the model reads 1x2x3, but the images are 1x1x4");
    desc.teacher = other;
    assert_fails(kd, kd_evaluate_with(m, &data, &desc, &metrics), KD_ERR_SHAPE,
                 "the teacher has 2 outputs, the student 3");
    desc.teacher = image;
    assert_fails(kd, kd_evaluate_with(m, &data, &desc, &metrics), KD_ERR_SHAPE,
                 "the teacher reads 1x2x3, but the images are 1x1x4");
    assert_ok(kd, kd_model_set_classes(m, names, 3));
    assert_ok(kd, kd_model_set_classes(image, others, 3));
    assert_fails(kd, kd_evaluate_with(m, &data, &desc, &metrics), KD_ERR_DATA,
                 "output 1 is \"c\" for the teacher, but \"b\" for the student");
    broken = data;
    broken.count = 0;
    assert_fails(kd, kd_evaluate(m, &broken, &metrics), KD_ERR_DATA, "there are no samples");
    broken = data;
    broken.pixels = NULL;
    assert_fails(kd, kd_evaluate(m, &broken, &metrics), KD_ERR_DATA, "images of 1x1x4, or no pixels");
    broken = data;
    broken.std[0] = 0;
    assert_fails(kd, kd_evaluate(m, &broken, &metrics), KD_ERR_ARGUMENT, "channel 0 needs a finite mean");
    broken = data;
    broken.classes = 0;
    assert_fails(kd, kd_evaluate(m, &broken, &metrics), KD_ERR_DATA, "the number of classes is 0");
    x[6] = NAN;
    assert_fails(kd, kd_evaluate(m, &data, &metrics), KD_ERR_NOT_FINITE, "a NaN in the data, sample 1, number 2");
    x[6] = INFINITY;
    assert_fails(kd, kd_evaluate(m, &data, &metrics), KD_ERR_NOT_FINITE, "an infinity in the data, sample 1");
    x[6] = 0;
    broken = kd_data_stream(failing_batch, NULL, 5, 1, 1, 4, 3);
    assert_fails(kd, kd_evaluate(m, &broken, &metrics), KD_ERR_DATA,
                 "the batch callback failed for 5 samples, the first of them sample 0");
    assert_ok(kd, kd_model_set_preprocessing(m, x + 1, data.std)); /* mean 0, std 1: what data has by default */
    assert_memory_equal(&metrics, &untouched, sizeof metrics);
    assert_ok(kd, kd_evaluate(m, &data, &metrics));
    data.mean[0] = 1e-5f; /* as good as the same */
    assert_ok(kd, kd_evaluate(m, &data, &metrics));
    data.mean[0] = 0.5f;
    assert_fails(
        kd, kd_evaluate(m, &data, &metrics), KD_ERR_DATA,
        "the model was trained on images normalised with mean 0 and std 1 in channel 0, but these have 0.5");
    kd_model_destroy(m);
    kd_model_destroy(other);
    kd_model_destroy(image);
}

/* ---- memory ---------------------------------------------------------------------------------------------- */

/* Much of the library in one go; the first failure. */
static kd_result run_through(void)
{
    static const char *const names[] = {"a", "b"};
    const float x[2 * 32] = {0};
    const int32_t labels[2] = {0, 1};
    kd_data data = kd_data_f32(x, labels, 2, 2, 4, 4, 2);
    kd_model *m = NULL, *copy = NULL;
    kd_builder *b = NULL;
    kd_workspace *w = NULL;
    kd_metrics metrics;
    float logits[4];
    kd_result result = kd_builder_open(kd, 2, 4, 4, &b);
    if (result == KD_OK) {
        kd_builder_conv(b, 3, 3, 1, 1);
        kd_builder_residual(b);
        kd_builder_layer(b, "batchnorm, relu, conv 4 1");
        kd_builder_end(b);
        kd_builder_dense(b, 2);
        result = kd_builder_finish(b, 1, &m);
    }
    if (result == KD_OK) result = kd_model_set_classes(m, names, 2);
    if (result == KD_OK) result = kd_model_clone(m, &copy);
    if (result == KD_OK) result = kd_predict(m, x, 2, logits);
    if (result == KD_OK) result = kd_workspace_create(copy, 3, &w);
    if (result == KD_OK) result = kd_evaluate(m, &data, &metrics);
    kd_workspace_destroy(w);
    kd_model_destroy(copy);
    kd_model_destroy(m);
    return result;
}

/* Whichever request is refused: KD_ERR_MEMORY, said in words, and nothing is lost. */
static void test_out_of_memory(void **state)
{
    int refused;
    (void)state;
    for (refused = 1;; ++refused) {
        kd_result result;
        kd->error[0] = 0;
        memory.refuse_at = refused;
        result = run_through();
        if (memory.refuse_at > 0) { /* it was never reached */
            assert_int_equal(result, KD_OK);
            break;
        }
        if (result != KD_ERR_MEMORY) fail_msg("request %d refused: %s", refused, kd_result_name(result));
        assert_non_null(strstr(kd_error(kd), "out of memory"));
        assert_int_equal(memory.blocks, 1); /* the context */
    }
    memory.refuse_at = 0;
    assert_true(refused > 60);
    assert_ok(kd, run_through());
}

/* A copy for another instruction set, whose kernels want another order of weights, is the same model. */
static void test_clone_between_isas(void **state)
{
    static const char spec[] = "3x9x7: conv 5 3 pad=1, batchnorm, relu, residual( conv 5 3 pad=1 ), depthwise 3, "
                               "relu, flatten, dense 37, relu, dense 3";
    float *x = test_floats(5, 4 * 3 * 9 * 7, 1), wanted[12], found[12];
    kd_isa from, to;
    int i;
    (void)state;
    FOR_EACH_ISA(from)
    {
        FOR_EACH_ISA(to)
        {
            kd_ctx *one = test_open(from, 1), *other = test_open(to, 1);
            kd_model *m, *copy, *again;
            assert_ok(one, kd_model_create(one, spec, 3, &m));
            assert_ok(other, kd_model_clone_to(m, other, &copy));
            assert_true(kd_model_hash(m) == kd_model_hash(copy));
            assert_ok(one, kd_model_clone_to(copy, one, &again));
            assert_memory_equal(again->weights, m->weights, m->weight_count * sizeof(float));
            assert_ok(one, kd_predict(m, x, 4, wanted));
            assert_ok(other, kd_predict(copy, x, 4, found));
            for (i = 0; i < 12; ++i) assert_near(found[i], wanted[i], 1e-4);
            kd_model_destroy(m), kd_model_destroy(copy), kd_model_destroy(again);
            kd_close(one), kd_close(other);
        }
    }
    free(x);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, open_context, close_context)
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_clone_between_isas),
        TEST(test_context),
        TEST(test_names),
        TEST(test_options_need_defaults),
        TEST(test_layers_and_options),
        TEST(test_spellings),
        TEST(test_hash_of_architectures),
        TEST(test_spec_errors),
        TEST(test_garbage_lines),
        TEST(test_builder),
        TEST(test_tags),
        TEST(test_builder_mistakes),
        TEST(test_describe),
        TEST(test_describe_shortcut),
        TEST(test_tensor_names),
        TEST(test_tensor_layouts),
        TEST(test_tensor_layouts_by_channel),
        TEST(test_tensor_errors),
        TEST(test_hash_of_weights),
        TEST(test_initial_weights),
        TEST(test_normal_weights),
        TEST(test_small_starts),
        TEST(test_init_pinned),
        TEST(test_init_options),
        TEST(test_init_refused),
        TEST(test_initial_vectors),
        TEST(test_classes),
        TEST(test_interleaved),
        TEST(test_preprocessing),
        TEST(test_framing),
        TEST(test_clone),
        TEST(test_predict),
        TEST(test_predict_errors),
        TEST(test_in_place),
        TEST(test_workspace_planned),
        TEST(test_workspace_planned_refused),
        TEST(test_workspace),
        TEST(test_scratch),
#if KD__THREADS
        TEST(test_predict_from_threads),
#endif
        TEST(test_metrics),
        TEST(test_metrics_of_one_output),
        TEST(test_evaluate_errors),
        TEST(test_out_of_memory),
    };
    const int failed = cmocka_run_group_tests_name("models", tests, NULL, NULL);
    test_print_skips("models");
    return failed;
}
