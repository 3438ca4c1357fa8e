/* training.h - the training whose checkpoint is in the corpus */
#ifndef KD_FUZZ_TRAINING_H
#define KD_FUZZ_TRAINING_H

typedef struct small_training {
    float x[6 * 4];
    int32_t labels[6];
    kd_data data;
    kd_train_desc desc;
    kd_model *m;
    kd_trainer *t;
} small_training;

static kd_result small_training_open(kd_ctx *kd, small_training *s)
{
    kd_result result;
    int i;
    for (i = 0; i < 24; ++i) s->x[i] = (float)(i * 7 % 11) / 8;
    for (i = 0; i < 6; ++i) s->labels[i] = i % 2;
    s->data = kd_data_f32(s->x, s->labels, 6, 1, 2, 2, 2);
    s->desc = kd_train_defaults();
    s->desc.epochs = 3, s->desc.batch = 2, s->desc.optimizer = KD_SGD;
    s->m = NULL, s->t = NULL;
    result = kd_model_create(kd, "1x2x2: dense 2, batchnorm", 7, &s->m);
    return result == KD_OK ? kd_trainer_open(s->m, &s->data, &s->desc, &s->t) : result;
}

static void small_training_close(small_training *s)
{
    kd_trainer_close(s->t);
    kd_model_destroy(s->m);
}

#endif /* KD_FUZZ_TRAINING_H */
