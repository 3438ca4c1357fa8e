/* ONNX: what is written, what is read, what is refused. */
#include "disk.h"

static kd_model *create(const char *spec, uint64_t seed)
{
    kd_model *m;
    if (kd_model_create(kd, spec, seed, &m) != KD_OK) fail_msg("%s: %s", spec, kd_error(kd));
    return m;
}

/* ---- writing --------------------------------------------------------------------------------------------- */

static void test_writing_refused(void **state)
{
    kd_model *m = create("12: dense 2", 1);
    kd_onnx_desc desc = kd_onnx_defaults();
    const float mean[1] = {0.5f};
    (void)state;
    assert_int_equal(kd_model_save_onnx(NULL, "m", NULL), KD_ERR_ARGUMENT);
    assert_fails(kd, kd_model_save_onnx(m, NULL, NULL), KD_ERR_ARGUMENT, "must not be NULL");
    memset(&desc, 0, sizeof desc);
    assert_fails(kd, kd_model_save_onnx(m, "m", &desc), KD_ERR_DEFAULTS, "kd_onnx_defaults()");
    desc = kd_onnx_defaults();
    desc.softmax = 2;
    assert_fails(kd, kd_model_save_onnx(m, "m", &desc), KD_ERR_ARGUMENT, "softmax 0 or 1, got 0 and 2");
    desc.softmax = 0, desc.input = (kd_onnx_input)3;
    assert_fails(kd, kd_model_save_onnx(m, "m", &desc), KD_ERR_ARGUMENT, "got 3 and 0");
    desc.input = KD_ONNX_U8_HWC;
    assert_ok(kd, kd_model_save_onnx(m, "m", &desc));
    assert_ok(kd, kd_model_set_preprocessing(m, mean, mean));
    assert_ok(kd, kd_model_save_onnx(m, "m", &desc));
    m->preprocessing_channels = 3; /* as after training on images of three channels */
    m->std[1] = m->std[2] = 1;
    assert_fails(kd, kd_model_save_onnx(m, "m", &desc), KD_ERR_UNSUPPORTED, "a vector of 12 numbers in planes");
    m->weights[m->params[1].offset] = NAN; /* as after training that diverged */
    assert_fails(kd, kd_model_save_onnx(m, "n", NULL), KD_ERR_NOT_FINITE, "\"0.bias\" holds a NaN");
    assert_int_equal(disk_count(), 1);
    kd_model_destroy(m);
}

/* A disk that fails anywhere, and memory: the old file stays. */
static void test_writing_fails(void **state)
{
    kd_model *m = create("1x4x4: conv 2 3, batchnorm, gelu, dense 2, softtree 2 2", 1);
    kd_onnx_desc desc = kd_onnx_defaults();
    const float one = 1;
    int i;
    (void)state;
    desc.input = KD_ONNX_U8;
    assert_ok(kd, kd_model_set_preprocessing(m, &one, &one));
    for (i = 1;; ++i) {
        disk_put("m", "old", 3);
        disk.calls = 0, disk.fail_at = i, disk.halfway = i % 2;
        if (kd_model_save_onnx(m, "m", &desc) == KD_OK) break;
        assert_int_equal(disk_find("m")->size, 3);
        assert_int_equal(disk_count(), 1);
        disk.fail_at = 0;
    }
    assert_true(i > 10);
    disk.fail_at = 0;
    for (i = 1;; ++i) {
        memory.refuse_at = i;
        if (kd_model_save_onnx(m, "m", &desc) == KD_OK) break;
        assert_int_equal(disk_count(), 1);
    }
    assert_true(i > 5);
    memory.refuse_at = 0;
    kd_model_destroy(m);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, open_context, close_context)
    const struct CMUnitTest tests[] = {
        TEST(test_writing_refused),
        TEST(test_writing_fails),
    };
    return cmocka_run_group_tests_name("onnx", tests, NULL, NULL);
}
