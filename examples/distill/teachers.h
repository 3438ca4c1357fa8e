/* teachers.h - several teachers, which are one to the students: the average of what they say.
   A part of distill.c. */

/* ---- several teachers ------------------------------------------------------------------------------------- */

static int teacher_count(const session *s) { return 1 + s->more_count; }

static const kd_model *teacher_at(const session *s, int index) { return index ? s->more[index - 1] : s->teacher; }

/* Their average at a temperature, as logits (data->count, classes), in `out`. */
static int average_teachers(const session *s, const kd_data *data, float temperature, float *out)
{
    const size_t size = (size_t)data->count * (size_t)data->classes;
    const int count = teacher_count(s);
    const float *each[MAX_LIST];
    float *all = (float *)images_memory(size * (size_t)count + 1, sizeof *all);
    kd_result result = KD_OK;
    int i;
    if (!all) return complain("there is not enough memory for the outputs of %d teachers", count);
    for (i = 0; i < count && result == KD_OK; ++i) {
        kd_evaluate_desc d = kd_evaluate_defaults();
        kd_metrics metrics;
        d.logits = all + size * (size_t)i;
        each[i] = d.logits;
        result = kd_evaluate_with(teacher_at(s, i), data, &d, &metrics);
    }
    if (result == KD_OK)
        result = kd_average_teachers(s->kd, each, NULL, count, data->count, data->classes, temperature, out);
    free(all);
    return result == KD_OK ? 1 : kd_complain(s, "averaging the teachers");
}

/* Memory for that, and that in it; NULL after a complaint. */
static float *averaged_logits(const session *s, const kd_data *data, float temperature)
{
    float *logits = (float *)images_memory((size_t)data->count * (size_t)data->classes + 1, sizeof *logits);
    if (!logits) (void)complain("there is not enough memory for the teachers' outputs");
    if (logits && !average_teachers(s, data, temperature, logits)) {
        free(logits);
        logits = NULL;
    }
    return logits;
}
