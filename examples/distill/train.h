/* train.h - distill's trainings, which can be interrupted and resumed. A part of distill.c. */

/* ---- training -------------------------------------------------------------------------------------------- */

/* What the callbacks of one training need. */
typedef struct watch {
    stage *g;
    report_run *run;
    int lines; /* a line for each epoch */
} watch;

static int on_step(void *user, const kd_step_info *info)
{
    watch *w = (watch *)user;
    w->g->done = w->g->before + info->images;
    stage_draw(w->g);
    return interrupted != 0;
}

static int on_epoch(void *user, const kd_epoch_info *info)
{
    watch *w = (watch *)user;
    if (w->run) {
        w->run->validation[info->epoch] = info->has_validation ? info->validation.accuracy : -1;
        w->run->loss[info->epoch] = info->loss;
    }
    if (w->lines && info->has_validation)
        stage_line(w->g, "  epoch %2d of %d   loss %.4f   held-out accuracy %.2f %%", info->epoch + 1, info->epochs,
                   info->loss, 100 * info->validation.accuracy);
    else if (w->lines)
        stage_line(w->g, "  epoch %2d of %d   loss %.4f", info->epoch + 1, info->epochs, info->loss);
    return interrupted != 0;
}

static kd_train_desc training_options(const session *s, watch *w, int teacher)
{
    kd_train_desc d = kd_train_defaults();
    d.epochs = teacher ? s->o.teacher_epochs : s->o.epochs;
    d.lr = (float)(teacher ? s->o.teacher_lr : s->o.lr);
    d.batch = s->o.batch;
    d.optimizer = s->optimizer;
    d.weight_decay = (float)s->o.weight_decay;
    d.schedule = KD_COSINE;
    d.augment = teacher ? s->teacher_augment : s->augment;
    d.validation_data = s->held.data.count && w->run ? &s->held.data : NULL;
    d.on_step = on_step;
    d.on_epoch = on_epoch;
    d.user = w;
    return d;
}

/* ---- trainings that can be resumed ----------------------------------------------------------------------- */

/* Where a training keeps its checkpoint, and what the report will show of the epochs behind it. */
static void resume_path(const session *s, int training, const char *end, char *path)
{
    char name[64];
    snprintf(name, sizeof name, "resume/%04d.%s", training, end);
    output_path(s, name, path);
}

/* What an earlier run has left is of no use to one that starts again, or is finished. The last go first: whenever
   this is ended, what is left is a run up to some training. */
static void resume_clear(const session *s)
{
    char path[MAX_PATH];
    struct stat st;
    int i = 0;
    while (resume_path(s, i, "safetensors", path), stat(path, &st) == 0) ++i;
    for (; i >= 0; --i) { /* of the one after the last there may be a .txt */
        resume_path(s, i, "safetensors", path);
        (void)remove(path);
        resume_path(s, i, "txt", path);
        (void)remove(path);
    }
    output_path(s, "resume/options.txt", path);
    (void)remove(path);
    output_path(s, "resume", path);
    (void)rmdir(path);
}

/* Whether an option has a say in the results. The images themselves are known to the checkpoints. */
static int option_counts(const option *o)
{
    static const char *const others[] = {"threads", "max-skipped", "out", "resume"};
    int i;
    for (i = 0; i < KD__COUNT(others) && strcmp(o->name, others[i]) != 0; ++i) {}
    return i == KD__COUNT(others);
}

/* A number as one would type it, and to the last bit. */
static int number_text(double value, char *text, size_t size)
{
    const int length = snprintf(text, size, "%g", value);
    return strtod(text, NULL) == value ? length : snprintf(text, size, "%.17g", value);
}

/* What an option is, on one line. Of instruction sets it matters whether they are the portable one. */
static void option_text(const session *s, const option *o, char *text, size_t size)
{
    const void *field = (const char *)&s->o + o->field;
    const list *l = (const list *)field;
    size_t at = 0;
    int i;
    *text = 0;
    if (o->type == OPTION_TEXT) snprintf(text, size, "%s", *(const char *const *)field);
    if (o->field == offsetof(options, isa))
        snprintf(text, size, "%s", kd_ctx_isa(s->kd) == KD_ISA_SCALAR ? "scalar" : "avx2, avx512 or neon");
    if (o->type == OPTION_INT) snprintf(text, size, "%d", *(const int *)field);
    if (o->type == OPTION_REAL) (void)number_text(*(const double *)field, text, size);
    for (i = 0; o->type == OPTION_LIST && i < l->count; ++i) {
        if (i) text[at++] = ',';
        at += (size_t)number_text(l->values[i], text + at, size - at);
    }
    for (; *text; ++text) {
        if (*text == '\n' || *text == '\r') *text = ' ';
    }
}

/* The options of a run lie beside its checkpoints: these know those of their own training, but not how long it is
   to be, and less of the trainings before. */
static int resume_write_options(const session *s)
{
    char path[MAX_PATH + 8], text[MAX_PATH];
    FILE *f;
    int i;
    output_path(s, "resume", path);
    if (mkdir(path, 0777) != 0 && errno != EEXIST)
        return complain("the folder %s cannot be made: %s", path, strerror(errno));
    f = output_open(s, "resume/options.txt", path);
    if (!f) return 0;
    for (i = 0; i < OPTION_COUNT; ++i) {
        option_text(s, &option_table[i], text, sizeof text);
        if (option_counts(&option_table[i])) fprintf(f, "%s=%s\n", option_table[i].name, text);
    }
    return output_close(s, "resume/options.txt", f, !ferror(f));
}

/* Compares the options with those of the run to be resumed, in f. */
static int resume_compare_options(const session *s, FILE *f)
{
    char text[MAX_PATH], line[MAX_PATH + 64];
    int i;
    for (i = 0; i < OPTION_COUNT; ++i) {
        const option *o = &option_table[i];
        const size_t length = strlen(o->name);
        if (!option_counts(o)) continue;
        option_text(s, o, text, sizeof text);
        if (!fgets(line, sizeof line, f) || strncmp(line, o->name, length) != 0 || line[length] != '=')
            return complain("%s/resume/options.txt is damaged or of another version: where --%s is wanted it has "
                            "something else; without --resume, all starts again",
                            s->o.out, o->name);
        line[strcspn(line, "\n")] = 0;
        if (strcmp(line + length + 1, text) != 0)
            return complain("the run to be resumed has --%s \"%s\", this one \"%s\"; without --resume, all starts "
                            "again",
                            o->name, line + length + 1, text);
    }
    return 1;
}

/* Before the first training. A run with other options than that to be resumed is refused, and changes nothing. */
static int resume_begin(const session *s)
{
    char path[MAX_PATH];
    struct stat st;
    FILE *f;
    int same;
    output_path(s, "resume/options.txt", path);
    f = s->o.resume ? fopen(path, "rb") : NULL;
    if (f) {
        same = resume_compare_options(s, f);
        fclose(f);
        return same;
    }
    resume_path(s, 0, "safetensors", path);
    if (s->o.resume && stat(path, &st) == 0)
        return complain("%s/resume/options.txt, with the options of the run to be resumed, cannot be read; without "
                        "--resume, all starts again",
                        s->o.out);
    resume_clear(s);
    return resume_write_options(s);
}

static int resume_save(const session *s, const kd_trainer *t, int training, const report_run *run)
{
    const int epochs = kd_trainer_position(t).epoch;
    char path[MAX_PATH + 8], name[64];
    FILE *f;
    int i;
    snprintf(name, sizeof name, "resume/%04d.txt", training);
    f = output_open(s, name, path);
    if (!f) return 0;
    for (i = 0; run && i < epochs; ++i) fprintf(f, "%.17g %.17g\n", run->loss[i], run->validation[i]);
    if (!output_close(s, name, f, !ferror(f))) return 0;
    resume_path(s, training, "safetensors", path);
    return kd_trainer_save(t, path) == KD_OK ? 1 : kd_complain(s, "saving a checkpoint");
}

/* Takes a training up where an earlier run left it, if it did. */
static int resume_load(const session *s, kd_trainer *t, int training, report_run *run)
{
    char path[MAX_PATH];
    struct stat st;
    FILE *f;
    int i;
    resume_path(s, training, "safetensors", path);
    if (!s->o.resume || stat(path, &st) != 0) return 1;
    if (kd_trainer_load(t, path) != KD_OK) return kd_complain(s, "resuming (without --resume, all starts again)");
    resume_path(s, training, "txt", path);
    f = fopen(path, "rb");
    for (i = 0; f && run && i < run->epochs && fscanf(f, "%lf %lf", &run->loss[i], &run->validation[i]) == 2; ++i) {
    }
    if (f) fclose(f);
    return 1;
}

static int run_open(report_run *run, int epochs)
{
    run->epochs = epochs;
    run->validation = (double *)calloc((size_t)epochs, sizeof(double));
    run->loss = (double *)calloc((size_t)epochs, sizeof(double));
    return run->validation && run->loss ? 1 : complain("there is not enough memory for the training curves");
}

/* Ctrl-C came: the model as it is now goes into the output folder. */
static int stop_here(const session *s, stage *g)
{
    stage_wipe(g);
    if (!save_model(s, s->training, "checkpoint.safetensors")) return 0;
    printf("stopped; --resume goes on from here. The %s so far is %s/checkpoint.safetensors%s\n",
           s->training == s->teacher ? "teacher" : "student", s->o.out,
           s->training == s->teacher ? ", which --teacher takes" : "");
    return 0;
}

/* Trains s->training, with a checkpoint at the end, when it is stopped, and after epochs every few seconds.
   run NULL: nothing is kept of its course. */
static int train(session *s, stage *g, const kd_data *data, const kd_train_desc *d, report_run *run)
{
    enum { SECONDS_BETWEEN_CHECKPOINTS = 10 };
    const int training = s->trainings++;
    double saved = seconds_now();
    kd_result result = KD_OK;
    kd_trainer *t;
    int good;
    g->before = g->done;
    if (kd_trainer_open(s->training, data, d, &t) != KD_OK) return kd_complain(s, "training");
    good = resume_load(s, t, training, run);
    if (good) g->done += kd_trainer_position(t).images, g->resumed += kd_trainer_position(t).images;
    while (good && result == KD_OK && !kd_trainer_done(t)) {
        result = kd_trainer_step(t, NULL);
        if (result < 0 || !(kd_trainer_done(t) || (kd_trainer_position(t).step == 0 &&
                                                   seconds_now() - saved > SECONDS_BETWEEN_CHECKPOINTS)))
            continue;
        good = resume_save(s, t, training, run);
        saved = seconds_now();
    }
    kd_trainer_close(t);
    if (good && result == KD_STOPPED) return stop_here(s, g);
    stage_wipe(g);
    return good && result < 0 ? kd_complain(s, "training") : good;
}

static int train_teacher(session *s)
{
    stage g = stage_begin(s, "teacher", (int64_t)s->o.teacher_epochs * s->fit.data.count);
    watch w;
    kd_train_desc d;
    w.g = &g, w.run = &s->r.teacher_run, w.lines = 1;
    if (!run_open(w.run, s->o.teacher_epochs)) return 0;
    d = training_options(s, &w, 1);
    d.seed = (uint64_t)s->o.first_seed;
    printf("\nTraining the teacher, %d epoch%s\n", d.epochs, plural(d.epochs));
    s->training = s->teacher;
    if (!train(s, &g, &s->fit.data, &d, w.run)) return 0;
    s->training = NULL;
    return 1;
}

/* The teacher's outputs for every view of every image that the students will see: once, not in each training. If
   they would not fit, or are more than a cache has, the teacher runs beside its students: views that repeat would
   not be what the others get. */
static int run_teacher(session *s)
{
    enum { MOST_VIEWS = 1 << 16 };
    const int64_t budget = 512 << 20,
                  view = (int64_t)s->fit.data.count * s->images.class_count * (int64_t)sizeof(float);
    const kd_augment none = {0, 0, 0, 0, 0, 0, 0, 0};
    const int changes = memcmp(&s->augment, &none, sizeof none) != 0;
    const int views = changes ? s->o.epochs : 1;
    if (changes && (views > budget / view || views > MOST_VIEWS)) return 1;
    if (kd_cache_create(s->teacher, &s->fit.data, changes ? &s->augment : NULL, (uint64_t)s->o.first_seed, views,
                        &s->cache) != KD_OK)
        return kd_complain(s, "running the teacher");
    return 1;
}

/* A loss without a teacher has labels alone. */
static kd_train_desc student_options(const session *s, watch *w, uint64_t seed, const kd_loss_desc *loss,
                                     kd_data *data)
{
    kd_train_desc d = training_options(s, w, 0);
    d.seed = seed;
    d.loss = *loss;
    *data = s->fit.data;
    if (loss->kind != KD_LOSS_CE) {
        d.cache = s->cache;
        if (!s->cache) d.teacher = s->teacher;
        data->teacher_logits = s->fit.teacher_logits;
    }
    return d;
}

/* Trains one student. The model goes to *out. */
static int train_student(session *s, stage *g, uint64_t seed, const kd_loss_desc *loss, report_run *run,
                         kd_model **out)
{
    kd_data data;
    watch w;
    kd_train_desc d;
    w.g = g, w.run = run, w.lines = 0;
    if (run && !run_open(run, s->o.epochs)) return 0;
    d = student_options(s, &w, seed, loss, &data);
    s->training = create_model(s, "student", s->student_spec, seed);
    if (!s->training) return 0;
    if (!train(s, g, &data, &d, run)) return 0;
    *out = s->training;
    s->training = NULL;
    return 1;
}

/* The losses that learn from a teacher, and whether temperature and alpha are theirs to choose. */
static const struct {
    kd_loss_kind kind;
    int temperature, alpha;
} losses[] = {{KD_LOSS_HINTON, 1, 1}, {KD_LOSS_KL, 1, 0},      {KD_LOSS_MSE, 0, 0},         {KD_LOSS_RKL, 1, 0},
              {KD_LOSS_JSD, 1, 0},    {KD_LOSS_SOFT_CE, 1, 0}, {KD_LOSS_CENTRED_MSE, 0, 0}, {KD_LOSS_DKD, 1, 0},
              {KD_LOSS_NKD, 1, 0},    {KD_LOSS_DIST, 1, 0},    {KD_LOSS_TTM, 0, 0},         {KD_LOSS_WTTM, 0, 0},
              {KD_LOSS_MLLD, 0, 0},   {KD_LOSS_CTKD, 0, 0}};

static kd_loss_desc loss_options(const session *s, double temperature, double alpha)
{
    const kd_loss_kind what = losses[s->loss].kind;
    kd_loss_desc loss = kd_loss_defaults(what);
    if (losses[s->loss].temperature) loss.temperature = (float)temperature;
    if (losses[s->loss].alpha) loss.alpha = (float)alpha;
    return loss;
}

static int check_training(const session *s, const char *whose, kd_model *m, const kd_data *data,
                          const kd_train_desc *d)
{
    kd_trainer *t;
    if (kd_trainer_open(m, data, d, &t) != KD_OK) return kd_complain(s, whose);
    kd_trainer_close(t);
    return 1;
}

/* Everything that can be wrong with the trainings is found here, before the first of them and before an earlier run
   is given up: the student's come long after the teacher's. */
static int check_trainings(session *s)
{
    const kd_loss_desc loss = loss_options(s, s->o.temperature.values[0], s->o.alpha.values[0]);
    kd_data data;
    kd_train_desc d;
    kd_model *student;
    watch w;
    int good;
    memset(&w, 0, sizeof w);
    w.run = s->r.ways[DISTILLED].runs; /* there are held-out images to look at, too */
    d = training_options(s, &w, 1);
    if (s->r.teacher_trained && !check_training(s, "the teacher's training", s->teacher, &s->fit.data, &d))
        return 0;
    student = create_model(s, "student", s->student_spec, 1);
    if (!student) return 0;
    d = student_options(s, &w, 1, &loss, &data);
    good = check_training(s, "the student's training", student, &data, &d);
    kd_model_destroy(student);
    return good;
}

typedef struct loss_line {
    char chars[96];
} loss_line;

/* "hinton, temperature 2, alpha 0.9", or as much of it as the loss has. */
static loss_line loss_text(const session *s)
{
    loss_line line;
    const size_t size = sizeof line.chars;
    size_t at = (size_t)snprintf(line.chars, size, "%s", s->o.loss);
    if (losses[s->loss].temperature)
        at += (size_t)snprintf(line.chars + at, size - at, ", temperature %g", s->r.temperature);
    if (losses[s->loss].alpha) (void)snprintf(line.chars + at, size - at, ", alpha %g", s->r.alpha);
    return line;
}

/* One temperature and alpha, tried with seeds that the final students do not use. */
static int try_choice(session *s, stage *g, report_trial *c)
{
    const kd_loss_desc loss = loss_options(s, c->temperature, c->alpha);
    double squares = 0;
    int i;
    for (i = 0; i < s->o.trials; ++i) {
        kd_model *m;
        kd_metrics metrics;
        kd_result result;
        if (!train_student(s, g, (uint64_t)(s->o.first_seed + s->o.seeds + i), &loss, NULL, &m)) return 0;
        result = kd_evaluate(m, &s->held.data, &metrics);
        kd_model_destroy(m);
        if (result != KD_OK) return kd_complain(s, "evaluating a student");
        c->validation += metrics.accuracy / s->o.trials;
        squares += metrics.accuracy * metrics.accuracy;
    }
    if (s->o.trials > 1)
        c->sd = sqrt(fmax(0, (squares - s->o.trials * c->validation * c->validation) / (s->o.trials - 1)));
    if (losses[s->loss].alpha)
        stage_line(g, "  temperature %-4g alpha %-4g held-out accuracy %.2f %%", c->temperature, c->alpha,
                   100 * c->validation);
    else
        stage_line(g, "  temperature %-4g held-out accuracy %.2f %%", c->temperature, 100 * c->validation);
    return 1;
}

static int choose(session *s)
{
    const list *t = &s->o.temperature, *a = &s->o.alpha;
    const int count = t->count * a->count;
    report_way *way = &s->r.ways[DISTILLED];
    stage g = stage_begin(s, "choosing", (int64_t)count * s->o.trials * s->o.epochs * s->fit.data.count);
    int i, best = 0;
    way->grid = (report_trial *)calloc((size_t)count, sizeof *way->grid);
    if (!way->grid) return complain("there is not enough memory");
    way->grid_count = count;
    if (count > 1)
        printf("\nChoosing %s on the held-out images, %d trial%s each\n",
               losses[s->loss].alpha ? "temperature and alpha" : "the temperature", s->o.trials,
               plural(s->o.trials));
    for (i = 0; i < count; ++i) {
        report_trial *c = &way->grid[i];
        c->lr = c->weight_decay = -1;
        c->temperature = t->values[i / a->count];
        c->alpha = losses[s->loss].alpha ? a->values[i % a->count] : -1;
        c->epochs = s->o.epochs, c->students = s->o.trials;
        snprintf(g.now, sizeof g.now, "%d of %d", i + 1, count);
        if (count > 1 && !try_choice(s, &g, c)) return 0;
        if (c->validation > way->grid[best].validation) best = i;
    }
    stage_wipe(&g);
    way->chosen = best;
    s->r.has_temperature = losses[s->loss].temperature;
    s->r.has_alpha = losses[s->loss].alpha;
    s->r.temperature =
        losses[s->loss].temperature ? way->grid[best].temperature : (double)loss_options(s, 0, 0).temperature;
    s->r.alpha = a->values[best % a->count];
    return 1;
}

/* Metrics on the test images, agreement with the teacher among them. */
static int test_model(session *s, const kd_model *m, report_run *run, float *logits, int64_t *confusion)
{
    kd_evaluate_desc d = kd_evaluate_defaults();
    kd_data data = s->test;
    d.logits = logits;
    d.confusion = confusion;
    if (m != s->teacher) data.teacher_logits = s->teacher_test;
    return kd_evaluate_with(m, &data, &d, &run->test) == KD_OK ? 1 : kd_complain(s, "testing");
}

/* The student to ship is the one that does best on the held-out images (without any: the first). */
static int keep_student(session *s, kd_model *m, int index)
{
    const report_run *runs = s->r.ways[DISTILLED].runs;
    if (s->kept && !(runs[index].held_out > runs[s->r.kept_seed].held_out)) {
        kd_model_destroy(m);
        return 1;
    }
    kd_model_destroy(s->kept);
    s->kept = m;
    s->r.kept_way = DISTILLED;
    s->r.kept_seed = index;
    return 1;
}

/* A student of the final ones, tested: into *out, or forgotten where that is NULL. */
static int final_student(session *s, stage *g, int way, int index, const kd_loss_desc *loss, kd_model **out)
{
    report_run *run = &s->r.ways[way].runs[index];
    kd_model *m;
    if (!train_student(s, g, (uint64_t)(s->o.first_seed + index), loss, run, &m)) return 0;
    if (test_model(s, m, run, s->student_test, NULL)) {
        run->held_out = run->validation[run->epochs - 1];
        report_answers(&s->r, way, s->student_test);
        if (!out) kd_model_destroy(m);
        if (out) *out = m;
        return 1;
    }
    kd_model_destroy(m);
    return 0;
}

static int train_students(session *s)
{
    kd_loss_desc losses_of[WAY_COUNT];
    const report_way *ways = s->r.ways;
    stage g = stage_begin(s, "students", (int64_t)WAY_COUNT * s->o.seeds * s->o.epochs * s->fit.data.count);
    int i, w;
    losses_of[ALONE] = losses_of[SMOOTHED] = kd_loss_defaults(KD_LOSS_CE);
    losses_of[SMOOTHED].label_smoothing = (float)REPORT_SMOOTHING;
    losses_of[DISTILLED] = loss_options(s, s->r.temperature, s->r.alpha);
    printf("\nTraining the student alone, with smoothed labels, and distilled by %s, %d seed%s\n",
           loss_text(s).chars, s->o.seeds, plural(s->o.seeds));
    for (i = 0; i < s->o.seeds; ++i) {
        kd_model *m = NULL;
        snprintf(g.now, sizeof g.now, "%d of %d", i + 1, s->o.seeds);
        for (w = 0; w < WAY_COUNT; ++w) {
            if (!final_student(s, &g, w, i, &losses_of[w], w == DISTILLED ? &m : NULL)) return 0;
        }
        if (!keep_student(s, m, i)) return 0;
        stage_line(&g, "  seed %-3d alone %.2f %%   smoothed %.2f %%   distilled %.2f %%", s->o.first_seed + i,
                   100 * ways[ALONE].runs[i].test.accuracy, 100 * ways[SMOOTHED].runs[i].test.accuracy,
                   100 * ways[DISTILLED].runs[i].test.accuracy);
    }
    stage_wipe(&g);
    return 1;
}

/* What teacher and labels ask of the student that was kept, before it was trained and after. */
static int diagnose(session *s)
{
    kd_diagnose_desc d = kd_diagnose_defaults();
    kd_data data = s->fit.data;
    kd_model *fresh = create_model(s, "student", s->student_spec, (uint64_t)(s->o.first_seed + s->r.kept_seed));
    int done;
    if (!fresh) return 0;
    d.teacher = s->teacher;
    d.loss = loss_options(s, s->r.temperature, s->r.alpha);
    if (!s->teacher) data.teacher_logits = s->fit.teacher_logits;
    done = kd_diagnose(fresh, &data, &d, &s->r.before) == KD_OK &&
           kd_diagnose(s->kept, &data, &d, &s->r.after) == KD_OK;
    kd_model_destroy(fresh);
    return done ? 1 : kd_complain(s, "diagnosis");
}
