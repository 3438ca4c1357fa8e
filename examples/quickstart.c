/* quickstart.c - train a teacher, distil it into a student, save the student:   cc examples/quickstart.c -lm */
#define KD_IMPLEMENTATION
#include "../kd.h"

enum { SIDE = 16, TRAIN = 1000, TEST = 2000, CLASSES = 4 };
static uint8_t pixels[TRAIN + TEST][SIDE * SIDE]; /* your own images go here */
static int32_t labels[TRAIN + TEST];

static void draw_images(void) /* stripes in noise; the class is their direction */
{
    for (int i = 0; i < TRAIN + TEST; ++i) {
        const int direction = labels[i] = rand() % CLASSES, phase = rand() % 6;
        for (int p = 0; p < SIDE * SIDE; ++p) {
            const int x = p % SIDE, y = p / SIDE, across[CLASSES] = {x, y, x + y, x - y + SIDE};
            pixels[i][p] = (uint8_t)((across[direction] + phase) / 3 % 2 * 70 + rand() % 180);
        }
    }
}

static void train(const char *name, kd_model *model, const kd_model *teacher)
{
    kd_data seen = kd_data_u8(pixels[0], labels, TRAIN, 1, SIDE, SIDE, CLASSES);
    kd_data unseen = kd_data_u8(pixels[TRAIN], labels + TRAIN, TEST, 1, SIDE, SIDE, CLASSES);
    kd_train_desc desc = kd_train_defaults();
    kd_metrics metrics = {0};
    desc.epochs = 30;
    desc.teacher = teacher;
    desc.loss.temperature = 2;
    if (kd_train(model, &seen, &desc) == KD_OK && kd_evaluate(model, &unseen, &metrics) == KD_OK)
        printf("%-18s %5.1f %%  %6lld parameters\n", name, 100 * metrics.accuracy,
               (long long)kd_model_parameters(model));
}

int main(void)
{
    const char *large = "1x16x16: conv 16 3 pad=1, relu, maxpool 2, conv 32 3 pad=1, relu, maxpool 2, dense 4";
    const char *small = "1x16x16: conv 4 3 pad=1, relu, maxpool 4, dense 4";
    kd_ctx *kd;
    kd_model *teacher, *alone, *student;
    draw_images();
    if (kd_open(NULL, &kd) || kd_model_create(kd, large, 1, &teacher) || kd_model_create(kd, small, 1, &alone) ||
        kd_model_create(kd, small, 1, &student))
        return 1;
    train("teacher", teacher, NULL);
    train("student alone", alone, NULL);
    train("student distilled", student, teacher);
    return kd_model_save(student, "student.safetensors") != KD_OK;
}
