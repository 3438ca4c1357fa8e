/* quickstart.c - train a teacher, distil it into a student, save the student:   cc examples/quickstart.c -lm */
#define KD_IMPLEMENTATION
#include "../kd.h"

enum { SIDE = 16, TRAIN = 1000, TEST = 1000, CLASSES = 4 };
static uint8_t pixels[TRAIN + TEST][SIDE][SIDE];
static int32_t labels[TRAIN + TEST];

static void draw_images(void) /* discs, squares, crosses and rings in noise: your own images go here */
{
    for (int i = 0; i < TRAIN + TEST; ++i) {
        const int size = 3 + rand() % 3, cx = 5 + rand() % 6, cy = 5 + rand() % 6, shape = labels[i] = i % CLASSES;
        for (int y = 0; y < SIDE; ++y)
            for (int x = 0; x < SIDE; ++x) {
                const int dx = abs(x - cx), dy = abs(y - cy), far2 = dx * dx + dy * dy, edge = dx > dy ? dx : dy;
                const int disc = far2 <= size * size, ring = disc && far2 >= (size - 1) * (size - 1);
                const int cross = (dx < 1 || dy < 1) && edge <= size, inside[] = {disc, edge < size, cross, ring};
                pixels[i][y][x] = (uint8_t)(inside[shape] * 120 + rand() % 130);
            }
    }
}

static float train(kd_model *model, const kd_model *teacher) /* the accuracy on images it has not seen */
{
    kd_data seen = kd_data_u8(&pixels[0][0][0], labels, TRAIN, 1, SIDE, SIDE, CLASSES);
    kd_data unseen = kd_data_u8(&pixels[TRAIN][0][0], labels + TRAIN, TEST, 1, SIDE, SIDE, CLASSES);
    kd_train_desc desc = kd_train_defaults();
    kd_metrics metrics = {0};
    desc.epochs = 20, desc.batch = 32, desc.lr = 0.003f, desc.teacher = teacher;
    return kd_train(model, &seen, &desc) || kd_evaluate(model, &unseen, &metrics) ? -1 : (float)metrics.accuracy;
}

int main(void)
{
    const char *large = "1x16x16: conv 16 3 pad=1, relu, maxpool 2, conv 32 3 pad=1, relu, maxpool 2, dense 4";
    const char *small = "1x16x16: conv 8 3 pad=1, relu, maxpool 4, dense 4";
    kd_ctx *kd;
    kd_model *teacher, *alone, *student;
    draw_images();
    if (kd_open(NULL, &kd) || kd_model_create(kd, large, 1, &teacher) || kd_model_create(kd, small, 1, &alone) ||
        kd_model_create(kd, small, 1, &student))
        return 1;
    printf("teacher            %.3f\n", train(teacher, NULL));
    printf("student alone      %.3f\n", train(alone, NULL));
    printf("student distilled  %.3f\n", train(student, teacher));
    if (kd_model_save(student, "student.safetensors")) printf("%s\n", kd_error(kd));
    return 0;
}
