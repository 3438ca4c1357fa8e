/* A little of everything against an implementation in another file; compiled as C and as C++. */
#include "../../kd.h"

#include <string.h>

static int passed(kd_result result) { return result == KD_OK; }

int main(void)
{
    static uint8_t pixels[32][16];
    static int32_t labels[32];
    kd_ctx *kd = NULL;
    kd_model *teacher = NULL, *student = NULL;
    kd_data data;
    kd_train_desc desc = kd_train_defaults();
    kd_metrics metrics;
    int i, ok;
    for (i = 0; i < 32; ++i) {
        labels[i] = i % 2;
        memset(pixels[i], 40 + 120 * (i % 2) + i, sizeof pixels[i]);
    }
    data = kd_data_u8(&pixels[0][0], labels, 32, 1, 4, 4, 2);
    desc.batch = 8;
    desc.lr = 0.01f;
    ok = passed(kd_open(NULL, &kd)) && passed(kd_model_create(kd, "1x4x4: dense 8, relu, dense 2", 1, &teacher)) &&
         passed(kd_model_create(kd, "1x4x4: dense 4, relu, dense 2", 2, &student)) &&
         passed(kd_train(teacher, &data, &desc));
    desc.teacher = teacher;
    ok = ok && passed(kd_train(student, &data, &desc)) && passed(kd_evaluate(student, &data, &metrics)) &&
         metrics.count == 32 && strcmp(kd_version(), KD_VERSION) == 0;
    kd_model_destroy(student);
    kd_model_destroy(teacher);
    kd_close(kd);
    return ok ? 0 : 1;
}
