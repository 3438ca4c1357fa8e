/* ensemble.h - the students without a teacher as further teachers: what several networks say together is better
   than what one of them says, and these are trained anyway. A part of distill.c. */

/* ---- teacher and students, averaged ------------------------------------------------------------------------ */

/* The students that take part. */
static int ensemble_size(const session *s) { return s->o.seeds < MAX_LIST ? s->o.seeds : MAX_LIST - 1; }

static const kd_model *ensemble_student(const session *s, int index)
{
    return s->students[ALONE * s->o.seeds + index];
}

static int ensemble_wanted(const session *s)
{
    const int possible = s->teacher && !s->more_count && !s->objective.feature_count && s->held.data.count > 0;
    if (strcmp(s->o.ensemble, "auto") == 0) return possible && s->r.teacher_trained && s->o.seeds > 1;
    return possible && strcmp(s->o.ensemble, "yes") == 0;
}

/* What is wrong with --ensemble, before anything is trained. */
static int check_ensemble(const session *s)
{
    const char *word = s->o.ensemble, *lack = NULL;
    if (strcmp(word, "auto") == 0 || strcmp(word, "no") == 0) return 1;
    if (strcmp(word, "yes") != 0) return complain("--ensemble can be auto, yes or no, got \"%s\"", word);
    if (s->held.data.count < 1) lack = "held-out images, to weigh teacher and students with (--validation)";
    if (s->objective.feature_count) lack = "one teacher where --feature is given: layers are not averaged";
    if (s->o.teachers > 1 || s->more_count) lack = "one teacher besides the students, not several";
    if (!s->teacher) lack = "a teacher that can be run, not a file of logits";
    return lack ? complain("--ensemble yes needs %s", lack) : 1;
}

/* What a model says of data goes to out, (data->count, data->classes). */
static int model_logits(const session *s, const kd_model *m, const kd_data *data, float *out)
{
    kd_evaluate_desc d = kd_evaluate_defaults();
    kd_metrics metrics;
    d.logits = out;
    return kd_evaluate_with(m, data, &d, &metrics) == KD_OK ? 1 : kd_complain(s, "asking teacher and students");
}

static float *logits_memory(const kd_data *data)
{
    float *logits = (float *)images_memory((size_t)data->count * (size_t)data->classes + 1, sizeof *logits);
    if (!logits) (void)complain("there is not enough memory for the outputs of teacher and students");
    return logits;
}

/* mixed += share (more - mixed) */
static void mix_logits(float *mixed, const float *more, double share, size_t size)
{
    size_t j;
    for (j = 0; j < size; ++j) mixed[j] = (float)(mixed[j] + share * ((double)more[j] - mixed[j]));
}

/* The students' mean logits for data; NULL after a complaint. */
static float *students_logits(const session *s, const kd_data *data)
{
    const size_t size = (size_t)data->count * (size_t)data->classes;
    float *mean = logits_memory(data), *one = mean ? logits_memory(data) : NULL;
    int i, good = one && model_logits(s, ensemble_student(s, 0), data, mean);
    for (i = 1; good && i < ensemble_size(s); ++i) {
        good = model_logits(s, ensemble_student(s, i), data, one);
        if (good) mix_logits(mean, one, 1.0 / (i + 1), size);
    }
    free(one);
    if (good) return mean;
    free(mean);
    return NULL;
}

/* Those of teacher and students together; NULL after a complaint. */
static float *ensemble_logits(const session *s, const kd_data *data)
{
    float *mixed = logits_memory(data), *students = mixed ? students_logits(s, data) : NULL;
    const int good = students && model_logits(s, s->teacher, data, mixed);
    if (good) mix_logits(mixed, students, s->r.ensemble_share, (size_t)data->count * (size_t)data->classes);
    free(students);
    if (good) return mixed;
    free(mixed);
    return NULL;
}

/* The negative log-likelihood of one sample's label. */
static double sample_nll(const float *logits, int classes, int label, double temperature)
{
    double most = logits[0], sum = 0;
    int c;
    for (c = 1; c < classes; ++c) most = fmax(most, logits[c]);
    for (c = 0; c < classes; ++c) sum += exp((logits[c] - most) / temperature);
    return log(sum) - (logits[label] - most) / temperature;
}

/* Of every sample, at the temperature that suits the logits best: students are trained with one of their own. */
static void rate_samples(const float *logits, const kd_data *data, double *nll)
{
    const int classes = data->classes;
    double best = HUGE_VAL, chosen = 1;
    int step, i;
    for (step = -6; step <= 6; ++step) {
        const double temperature = pow(2, step / 2.0);
        double sum = 0;
        for (i = 0; i < data->count; ++i)
            sum += sample_nll(logits + (size_t)i * (size_t)classes, classes, data->labels[i], temperature);
        if (sum < best) best = sum, chosen = temperature;
    }
    for (i = 0; i < data->count; ++i)
        nll[i] = sample_nll(logits + (size_t)i * (size_t)classes, classes, data->labels[i], chosen);
}

/* Whether the first are better, beyond two standard errors of the difference. */
static int clearly_better(const double *nll, const double *others, int count)
{
    double sum = 0, squares = 0;
    int i;
    for (i = 0; i < count; ++i) sum += others[i] - nll[i], squares += (others[i] - nll[i]) * (others[i] - nll[i]);
    return count > 1 && sum > 2 * sqrt(fmax(0, squares - sum * sum / count) * count / (count - 1));
}

static double logits_accuracy(const float *logits, const kd_data *data)
{
    int i, right = 0;
    for (i = 0; i < data->count; ++i)
        right += report_argmax(logits + (size_t)i * (size_t)data->classes, data->classes) == data->labels[i];
    return (double)right / data->count;
}

/* Students and teacher as those that the next ones are trained with, where their outputs are not kept. */
static void ensemble_line_up(session *s)
{
    const double share = s->r.ensemble_share;
    const int students = ensemble_size(s);
    int i;
    s->averaged_count = 0;
    if (share < 1) s->averaged[0] = s->teacher, s->average_weights[0] = (float)(1 - share), s->averaged_count = 1;
    for (i = 0; i < students; ++i) {
        s->average_weights[s->averaged_count] = (float)(share / students);
        s->averaged[s->averaged_count++] = ensemble_student(s, i);
    }
}

/* How much of the average the students get: half of it, unless the held-out images say clearly that teacher or
   students do better alone. Their log-likelihood tells more of few images than their accuracy. */
static int choose_ensemble(session *s)
{
    static const double shares[] = {0.5, 0, 1};
    enum { HALF };
    const kd_data *held = &s->held.data;
    const size_t size = (size_t)held->count * (size_t)held->classes;
    double *nll[3] = {NULL, NULL, NULL};
    float *students, *teacher, *mixed;
    int i, chosen = HALF, good;
    if (!ensemble_wanted(s)) return 1;
    students = students_logits(s, held);
    teacher = students ? logits_memory(held) : NULL;
    mixed = teacher ? logits_memory(held) : NULL;
    good = mixed && model_logits(s, s->teacher, held, teacher);
    for (i = 0; good && i < KD__COUNT(shares); ++i) {
        nll[i] = (double *)calloc((size_t)held->count, sizeof **nll);
        if (!nll[i]) good = complain("there is not enough memory");
        if (!good) break;
        memcpy(mixed, teacher, size * sizeof *mixed);
        mix_logits(mixed, students, shares[i], size);
        rate_samples(mixed, held, nll[i]);
        if (i != HALF && !clearly_better(nll[i], nll[chosen], held->count)) continue;
        chosen = i;
        s->r.ensemble_validation = logits_accuracy(mixed, held);
    }
    for (i = 0; i < KD__COUNT(shares); ++i) free(nll[i]);
    free(students);
    free(teacher);
    free(mixed);
    if (!good) return 0;
    s->r.ensemble_share = shares[chosen];
    s->r.ensemble_students = s->r.ensemble_share > 0 ? ensemble_size(s) : 0;
    if (s->r.ensemble_students) ensemble_line_up(s);
    return 1;
}

/* Adds what the students say to what the teacher, or the first of them, said of the same views. */
static int blend_students(const session *s, const kd_data *data, const kd_augment *augment, int views, kd_cache *c)
{
    const double share = s->r.ensemble_share, each = share / s->r.ensemble_students;
    double sum = share < 1 ? 1 - share : each;
    int i;
    for (i = share < 1 ? 0 : 1; i < s->r.ensemble_students; ++i) {
        kd_cache *student;
        kd_result result;
        sum += each;
        if (kd_cache_create(ensemble_student(s, i), data, augment, (uint64_t)s->o.first_seed, views, &student) !=
            KD_OK)
            return kd_complain(s, "running the students");
        result = kd_cache_blend(c, student, (float)(each / sum));
        kd_cache_destroy(student);
        if (result != KD_OK) return kd_complain(s, "averaging teacher and students");
    }
    return 1;
}
