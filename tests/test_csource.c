/* Models as C source: what is refused, what shares memory, what a file says. csource.sh compiles and runs them. */
#include "disk.h"

static kd_model *create(const char *line)
{
    kd_model *m;
    if (kd_model_create(kd, line, 1, &m) != KD_OK) fail_msg("%s: %s", line, kd_error(kd));
    return m;
}

/* The file, which ends in a 0. */
static const char *text_of(const char *path)
{
    disk_file *f = disk_find(path);
    assert_non_null(f);
    f->bytes = (unsigned char *)realloc(f->bytes, f->size + 1);
    f->bytes[f->size] = 0;
    return (const char *)f->bytes;
}

static int count_of(const char *text, const char *what)
{
    int count = 0;
    for (; (text = strstr(text, what)) != NULL; ++text) ++count;
    return count;
}

/* ---- the plan -------------------------------------------------------------------------------------------- */

static const char *const lines[] = {
    "784: dense 16, relu, dense 10",
    "1x28x28: conv 8 3 pad=1, relu, maxpool 2, conv 16 3 pad=1, relu, maxpool 2, dense 32, relu, dense 10",
    "3x32x32: conv 16 3 pad=1, batchnorm, relu, residual(conv 16 3 pad=1, batchnorm, relu, conv 16 3 pad=1, "
    "batchnorm), relu, residual(conv 32 3 stride=2 pad=1, batchnorm, relu, conv 32 3 pad=1, batchnorm), relu, gap, "
    "dense 10",
    "3x5x5: residual(residual(conv 3 3 pad=1, relu), batchnorm), leakyrelu, maxpool 2, flatten, batchnorm, dense 3",
    "2x6x6: relu, residual(depthwise 3 pad=1, residual(maxpool 3 stride=1 pad=1, gelu), conv 2 1), residual(relu)",
    "4x6x6: residual(conv 4 1), residual(conv 4 1, sigmoid), residual(dropout 0.5, conv 4 1), flatten",
    "3x8x8: conv 4 3 pad=1, relu, concat( | conv 5 1, relu | maxpool 3 stride=1 pad=1), concat(relu | | "
    "batchnorm), "
    "residual(concat(relu | conv 3 3 pad=1)), concat(gap, flatten | maxpool 4, flatten), relu, dense 3",
    "3x8x8: patch 4 12, classtoken, position, encoder 2 3, layernorm, token 0, dense 5",
    "tokens 13: embed 256 8, conv 12 5x1 stride=2x1 pad=2x0, batchnorm, relu, conv 12 5x1 pad=2x0, maxpool 2x1, "
    "position, encoder 2 2, layernorm, meanpool, dense 5",
};

/* Plays the plan: every step reads what the steps before have left for it, whoever wrote there since. */
static void play(const kd__c_plan *p)
{
    int *owner = (int *)calloc((size_t)p->memory, sizeof *owner); /* by byte: the buffer that wrote it last */
    int i, step, side;
    int64_t b;
    for (i = -1; i < p->step_count; ++i) {
        const kd__c_step *s = i < 0 ? NULL : &p->steps[i];
        const int out = s ? s->out : 0;
        const int reads[3] = {s ? s->in : -1, s ? s->in2 : -1, s && s->onto ? s->out : -1};
        for (side = 0; side < 3; ++side) {
            const kd__arena_item *from = reads[side] < 0 ? NULL : &p->buffers[reads[side]];
            for (b = 0; from && b < from->size; ++b) assert_int_equal(owner[from->at + b], reads[side] + 1);
        }
        if (s && s->out == s->in) assert_true(s->kind >= KD__C_ADD);
        for (b = 0; b < p->buffers[out].size; ++b) owner[p->buffers[out].at + b] = out + 1;
    }
    step = p->values[p->m->output].buffer;
    for (b = 0; b < p->buffers[step].size; ++b) assert_int_equal(owner[p->buffers[step].at + b], step + 1);
    free(owner);
}

/* The int8 model of one, of ranges that noise has. */
static kd_model *integers(const kd_model *m)
{
    enum { IMAGES = 2 };
    kd_model *made = NULL;
    uint8_t pixels[IMAGES * 3072];
    kd_data images;
    int c, h, w, i;
    kd_model_input(m, &c, &h, &w);
    for (i = 0; i < KD__COUNT(pixels); ++i) pixels[i] = (uint8_t)(i * 37 + i / 7);
    images = m->ids ? kd_data_text(pixels, NULL, IMAGES, c, kd_model_outputs(m))
                    : kd_data_u8(pixels, NULL, IMAGES, c, h, w, kd_model_outputs(m));
    if (kd_model_quantize(m, &images, NULL, &made) != KD_OK) fail_msg("%s: %s", m->spec, kd_error(kd));
    return made;
}

static void test_nothing_is_overwritten_in_int8(void **state)
{
    int i;
    (void)state;
    for (i = 0; i < KD__COUNT(lines); ++i) {
        kd_model *m = create(lines[i]), *q = integers(m);
        kd__c_plan p;
        assert_ok(kd, kd__c_plan_open(q, "test", &p));
        play(&p);
        kd__c_plan_close(&p);
        kd_model_destroy(q), kd_model_destroy(m);
    }
}

/* What an int8 model has in float: names of its own, no libm, and no array of floats where there is none. */
static void test_int8_with_floats(void **state)
{
    kd_model *m = create("3x8x8: patch 4 12, classtoken, position, encoder 1 3, layernorm, token 0, linear 5");
    kd_model *q = integers(m);
    const char *text;
    (void)state;
    assert_ok(kd, kd_model_save_c(q, "m.c", NULL));
    text = text_of("m.c");
    assert_int_equal(count_of(text, "student_float_attention(") + count_of(text, "student_float_layernorm("),
                     2 + 4);
    assert_int_equal(count_of(text, "static float student_memory["), 1);
    assert_int_equal(count_of(text, "fp-contract=off") + count_of(text, "#pragma GCC pop_options"), 2);
    assert_int_equal(count_of(text, "math.h"), 0);
    assert_true(count_of(text, "student_to_steps(v + ") > 1);
    kd_model_destroy(q), kd_model_destroy(m);
    m = create("1x4x4: conv 3 3, relu, dense 2");
    q = integers(m);
    assert_ok(kd, kd_model_save_c(q, "m.c", NULL));
    text = text_of("m.c");
    assert_int_equal(count_of(text, "static uint8_t student_memory["), 1);
    assert_int_equal(count_of(text, "_float_") + count_of(text, "GCC") + count_of(text, "string.h"), 0);
    kd_model_destroy(q), kd_model_destroy(m);
}

static void test_nothing_is_overwritten(void **state)
{
    int i;
    (void)state;
    for (i = 0; i < KD__COUNT(lines); ++i) {
        kd_model *m = create(lines[i]);
        kd_cost cost;
        kd__c_plan p;
        assert_ok(kd, kd__c_plan_open(m, "test", &p));
        play(&p);
        assert_ok(kd, kd_model_cost(m, &cost));
        if (p.memory > cost.ram_float)
            fail_msg("%s: %d bytes, cost says %d", lines[i], (int)p.memory, (int)cost.ram_float);
        kd__c_plan_close(&p);
        kd_model_destroy(m);
    }
}

static int64_t memory_of(const char *line, int *steps)
{
    kd_model *m = create(line);
    kd__c_plan p;
    int64_t bytes;
    assert_ok(kd, kd__c_plan_open(m, "test", &p));
    bytes = p.memory;
    *steps = p.step_count;
    kd__c_plan_close(&p);
    kd_model_destroy(m);
    return bytes;
}

static void test_what_is_folded(void **state)
{
    int steps;
    (void)state;
    /* a residual keeps two maps: its last convolution adds to the other side where that lies */
    assert_int_equal(
        memory_of("4x8x8: residual(conv 4 3 pad=1, batchnorm, relu, conv 4 3 pad=1, batchnorm), relu", &steps),
        2 * 4 * 256);
    assert_int_equal(steps, 2);
    assert_int_equal(memory_of("4x8x8: residual(conv 8 3 pad=1 stride=2, relu, conv 8 3 pad=1), relu, gap", &steps),
                     4 * (256 + 2 * 128));
    assert_int_equal(steps, 4);
    /* who reads its own input with a window cannot add to it */
    assert_int_equal(memory_of("4x8x8: residual(conv 4 3 pad=1)", &steps), 2 * 4 * 256);
    assert_int_equal(steps, 2);
    /* an activation between, or another reader */
    (void)memory_of("4x8x8: residual(relu, conv 4 1, relu)", &steps);
    assert_int_equal(steps, 3);
    (void)memory_of("4x8x8: conv 4 1, residual(relu, conv 4 1), batchnorm, relu", &steps);
    assert_int_equal(steps, 4);
    /* pooling of each pixel once, after an activation or before it */
    assert_int_equal(memory_of("2x8x8: conv 4 3, relu, maxpool 3x2", &steps), 4 * (128 + 4 * 2 * 3));
    assert_int_equal(steps, 1);
    assert_int_equal(memory_of("2x8x8: depthwise 3, batchnorm, maxpool 2, relu6", &steps), 4 * (128 + 2 * 3 * 3));
    assert_int_equal(steps, 1);
    (void)memory_of("2x8x8: conv 4 3, maxpool 2, batchnorm, relu", &steps);
    assert_int_equal(steps, 2);
    (void)memory_of("2x8x8: conv 4 3, maxpool 2 stride=1, conv 2 1, maxpool 2 pad=1, conv 2 1, tanh, maxpool 2",
                    &steps);
    assert_int_equal(steps, 7);
    (void)memory_of("2x8x8: conv 2 1, residual(conv 2 1, maxpool 1)", &steps);
    assert_int_equal(steps, 3);
    /* number by number: in place */
    assert_int_equal(memory_of("2x8x8: gelu, dropout 0.5, flatten, relu, batchnorm", &steps), 4 * 128);
    assert_int_equal(steps, 3);
    /* a batchnorm by number of a flattened image is not one by channel */
    (void)memory_of("2x8x8: conv 2 1, flatten, batchnorm", &steps);
    assert_int_equal(steps, 2);
}

/* ---- the file -------------------------------------------------------------------------------------------- */

static void test_refused(void **state)
{
    static const char *const wrong[] = {
        "", "2a", "a-b", "a b", "stud\xc3\xa9nt", "a234567890123456789012345678901234567890x"};
    kd_model *m = create("2x2x2: quant, dense 2");
    kd_c_desc desc = kd_c_defaults();
    int i;
    (void)state;
    assert_string_equal(desc.prefix, "student");
    assert_int_equal(kd_model_save_c(NULL, "m.c", NULL), KD_ERR_ARGUMENT);
    assert_fails(kd, kd_model_save_c(m, "m.c", NULL), KD_ERR_UNSUPPORTED,
                 "layer 0 (quant) of a model in float cannot be written; make an int8 model");
    kd_model_destroy(m);
    m = create("4: dense 3, batchnorm");
    for (i = 0; i < KD__COUNT(wrong); ++i) {
        desc.prefix = wrong[i];
        assert_fails(kd, kd_model_save_c(m, "m.c", &desc), KD_ERR_ARGUMENT, "C identifier");
    }
    desc.prefix = NULL;
    assert_fails(kd, kd_model_save_c(m, "m.c", &desc), KD_ERR_ARGUMENT, "got \"(null)\"");
    desc.cookie = 0;
    assert_fails(kd, kd_model_save_c(m, "m.c", &desc), KD_ERR_DEFAULTS, "kd_c_defaults()");
    assert_fails(kd, kd_model_save_c(m, NULL, NULL), KD_ERR_ARGUMENT, "path");
    assert_int_equal(disk_count(), 0);
    assert_ok(kd, kd_model_set_framing(m, "crop=256"));
    assert_ok(kd, kd_model_save_c(m, "m.c", NULL)); /* which stays when a later one is refused */
    m->weights[m->params[m->nodes[1].param[0]].offset] = 3e38f;
    m->weights[0] = 3e38f; /* finite, but not with the batchnorm folded into it */
    assert_fails(kd, kd_model_save_c(m, "m.c", NULL), KD_ERR_NOT_FINITE, "layer 0 with its batchnorm");
    m->weights[0] = NAN;
    assert_fails(kd, kd_model_save_c(m, "m.c", NULL), KD_ERR_NOT_FINITE, "0.weight");
    assert_int_equal(disk_count(), 1);
    assert_non_null(strstr(text_of("m.c"), "student_classify"));
    assert_non_null(strstr(text_of("m.c"), "were brought to that of its input so: crop=256\n"));
    kd_model_destroy(m);
}

static void test_what_it_says(void **state)
{
    static const char *const names[] = {"a \"b\"\\?", "$5 @ \xc3\xa9*/", "c"};
    const float mean[2] = {0.5f, 0.25f}, std[2] = {0.5f, 0.5f};
    kd_model *m = create("2x4x4: conv 4 3, batchnorm, relu, gap, dense 3");
    kd_c_desc desc = kd_c_defaults();
    const char *text;
    int steps;
    char ram[40];
    (void)state;
    desc.prefix = "bird_1";
    assert_ok(kd, kd_model_set_classes(m, names, 3));
    assert_ok(kd, kd_model_set_preprocessing(m, mean, std));
    assert_ok(kd, kd_model_save_c(m, "m.c", &desc));
    text = text_of("m.c");
    assert_null(strstr(text, "student"));
    assert_non_null(strstr(text, "2x4x4: conv 4 3, batchnorm, relu, gap, dense 3"));
    assert_non_null(
        strstr(text, "    \"a \\042b\\042\\134\\077\",\n    \"\\0445 \\100 \\303\\251\\052/\",\n    \"c\",\n"));
    assert_non_null(strstr(text, "#define BIRD_1_CLASSES 3\n#define BIRD_1_CHANNELS 2\n#define BIRD_1_HEIGHT 4\n"));
    assert_non_null(strstr(text, "#define BIRD_1_MACS 300\n")); /* 2 x 2 x 4 x 18 and 12 */
    /* two tables of pixels, panels of 4 outputs, of dense with a column to spare, three windows, names */
    assert_non_null(strstr(text, "#define BIRD_1_FLASH 2644\n"));
    kd__print(ram, sizeof ram, "#define BIRD_1_RAM %d\n", (int)memory_of(m->spec, &steps) + 12);
    assert_non_null(strstr(text, ram));
    assert_non_null(strstr(text, " -1.0f, -0.992156863f,")); /* (0 - 0.5) / 0.5 ... */
    assert_non_null(strstr(text, " -0.492156863f,"));
    assert_int_equal(count_of(text, "erfcf") + count_of(text, "math.h") + count_of(text, "_maxpool"), 0);
    assert_int_equal(count_of(text, "bird_1_conv("), 1);
    kd_model_destroy(m);
    m = create("4: dense 3, gelu");
    assert_ok(kd, kd_model_save_c(m, "m.c", NULL));
    text = text_of("m.c");
    assert_int_equal(count_of(text, "math.h") + count_of(text, "erf("), 0); /* no libm */
    assert_int_equal(count_of(text, "student_exp(") + count_of(text, "#include <string.h>"), 3);
    kd_model_destroy(m);
}

static void test_texts(void **state)
{
    kd_model *m = create("tokens 6: embed 9 4, linear 12, attention 2, meanpool");
    const char *text;
    (void)state;
    m->weights[m->params[m->nodes[0].param[0]].offset] = 3; /* of the vector of id 0 */
    assert_ok(kd, kd_model_save_c(m, "m.c", NULL));
    text = text_of("m.c");
    assert_non_null(strstr(text, "int student_classify(const char *text);\n"));
    assert_non_null(strstr(text, "student_p0[] STUDENT_CONST = { /* embed 9 4 */\n    0.0f, 0.0f, 0.0f, 0.0f, "));
    assert_int_equal(count_of(text, "student_real(length, 0, 1)"), 2);
    assert_int_equal(count_of(text, "_pixel[") + count_of(text, "uint8_t *"), 0);
    /* embed's 36 numbers; 3, 9 and 3 panels of linear layers, each with its window */
    assert_non_null(strstr(text, "#define STUDENT_FLASH 3060\n"));
    /* what 6 tokens are in and behind the linear layer of queries, keys and values; three to spare, scores */
    assert_non_null(strstr(text, "#define STUDENT_RAM 1188\n"));
    kd_model_destroy(m);
    m = create("2x4x4: patch 2 4, classtoken, meanpool"); /* of which no token is padding */
    assert_ok(kd, kd_model_save_c(m, "m.c", NULL));
    assert_non_null(strstr(text_of("m.c"), "student_meanpool(v + "));
    assert_int_equal(count_of(text_of("m.c"), "_real") + count_of(text_of("m.c"), "length"), 0);
    kd_model_destroy(m);
}

static kd_result save(void *model) { return kd_model_save_c((const kd_model *)model, "target", NULL); }

static void test_failing_disk(void **state)
{
    kd_model *m = create("2x4x4: conv 4 3, batchnorm, relu, gap, dense 3");
    (void)state;
    check_failing_disk(save, m, "kd_model_save_c");
    check_power_cut(save, m);
    kd_model_destroy(m);
}

/* Whichever request for memory is refused. */
static void test_refused_memory(void **state)
{
    kd_model *m = create(lines[2]);
    const int blocks = memory.blocks;
    kd_result result = KD_ERR_MEMORY;
    int i;
    (void)state;
    for (i = 1; result != KD_OK; ++i) {
        memory.refuse_at = i;
        result = save(m);
        if (result != KD_OK) assert_int_equal(result, KD_ERR_MEMORY);
        assert_int_equal(memory.blocks, blocks);
        assert_int_equal(disk_count(), result == KD_OK);
    }
    assert_true(i > 10);
    memory.refuse_at = 0;
    kd_model_destroy(m);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, open_context, close_context)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_nothing_is_overwritten),
        TEST(test_what_is_folded),
        TEST(test_refused),
        TEST(test_what_it_says),
        TEST(test_failing_disk),
        TEST(test_refused_memory),
        TEST(test_texts),
        TEST(test_nothing_is_overwritten_in_int8),
        TEST(test_int8_with_floats),
    };
    return cmocka_run_group_tests_name("csource", tests, NULL, NULL);
}
