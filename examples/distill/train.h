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

/* What teacher and students are trained with alike. */
static kd_train_desc training_options(const session *s, watch *w, int epochs, double lr, double weight_decay)
{
    kd_train_desc d = kd_train_defaults();
    d.epochs = epochs;
    d.lr = (float)lr;
    d.weight_decay = (float)weight_decay;
    d.batch = s->o.batch;
    d.optimizer = s->optimizer;
    d.schedule = KD_COSINE;
    d.warmup = (float)epochs / 20;
    d.validation_data = s->held.data.count && w->run ? &s->held.data : NULL;
    d.on_step = on_step;
    d.on_epoch = on_epoch;
    d.user = w;
    return d;
}

enum { SECONDS_BETWEEN_CHECKPOINTS = 10 };

/* ---- trainings that can be resumed ----------------------------------------------------------------------- */

/* Where a training keeps its checkpoint, and what the report will show of the epochs behind it. */
static void resume_path(const session *s, int training, const char *end, char *path)
{
    char name[64];
    snprintf(name, sizeof name, "resume/%04d.%s", training, end);
    output_path(s, name, path);
}

/* What resume_number keeps. */
static const char *const resume_numbers[] = {"resume/teacher-epochs.txt", "resume/fit-epochs.txt",
                                             "resume/fit-count.txt"};

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
    for (i = 0; i < KD__COUNT(resume_numbers); ++i) {
        output_path(s, resume_numbers[i], path);
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
    if (o->field == offsetof(options, isa) && s->kd)
        snprintf(text, size, "%s", kd_ctx_isa(s->kd) == KD_ISA_SCALAR ? "scalar" : "avx2, avx512 or neon");
    for (i = 0; o->type == OPTION_TEXTS && i < ((const texts *)field)->count; ++i)
        at += (size_t)snprintf(text + at, size - at, "%s%.*s", i ? ";" : "",
                               (int)size / ((const texts *)field)->count - 2, ((const texts *)field)->values[i]);
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
    if (s->o.resume && !s->o.folds)
        say("\nnote: there is nothing to resume in %s: no run was stopped there, or it came to its end; this one "
            "starts from the beginning\n",
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

static void run_free(report_run *run)
{
    free(run->validation);
    free(run->loss);
    run->validation = run->loss = NULL;
}

/* A decision that the clock had a say in: that of the run to be resumed, if there is one, otherwise *value, which
   is noted for later. */
static int resume_number(const session *s, const char *name, double *value)
{
    char file[64], path[MAX_PATH + 8];
    FILE *f;
    int known = 0;
    snprintf(file, sizeof file, "resume/%s.txt", name);
    output_path(s, file, path);
    f = s->o.resume ? fopen(path, "rb") : NULL;
    if (f) {
        known = fscanf(f, "%lf", value) == 1;
        fclose(f);
    }
    if (known) return 1;
    f = output_open(s, file, path);
    if (!f) return 0;
    fprintf(f, "%.17g\n", *value);
    return output_close(s, file, f, !ferror(f));
}

/* Ctrl-C came: the model as it is now goes into the output folder. */
static int stop_here(const session *s)
{
    const int teacher = s->training == s->teacher || s->training == s->more[s->more_count],
              pretrained = s->training == s->pretrained;
    progress_wipe();
    if (!save_model(s, s->training, "checkpoint.safetensors")) return 0;
    printf("stopped; --resume goes on from here. The %s so far is %s/checkpoint.safetensors%s\n",
           teacher      ? "teacher"
           : pretrained ? "model of hidden words"
                        : "student",
           s->o.out, teacher ? ", which --teacher takes" : "");
    return 0;
}

/* Trains s->training, with a checkpoint at the end, when it is stopped, and after epochs every few seconds.
   run NULL: nothing is kept of its course. */
static int train(session *s, stage *g, const kd_data *data, const kd_train_desc *d, report_run *run)
{
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
    if (good && result == KD_STOPPED) return stop_here(s);
    progress_wipe();
    return good && result < 0 ? kd_complain(s, "training") : good;
}
