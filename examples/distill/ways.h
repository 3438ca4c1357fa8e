/* ways.h - distill's trainings one after the other: the teacher, and the student in every way, each with settings
   of its own that are chosen on the held-out images. A part of distill.c. */

/* ---- one student ----------------------------------------------------------------------------------------- */

/* Trains one student. The model goes to *out. */
static int train_student(session *s, stage *g, int way, const report_trial *t, uint64_t seed, report_run *run,
                         kd_model **out)
{
    task to;
    watch w;
    kd_train_desc d;
    w.g = g, w.run = run, w.lines = 0;
    if (run && !run_open(run, t->epochs)) return 0;
    if (way == MUTUAL) return train_peers(s, g, t, seed, run, out);
    if (way == REBORN) return train_generations(s, g, t, seed, run, out);
    d = student_options(s, &w, way, t, seed, &to);
    s->training = way == PRUNED ? pruned_student(s, g, t, seed) : create_model(s, "student", s->student_spec, seed);
    if (!s->training) return 0;
    if (!train(s, g, &to.data, &d, run)) return 0;
    *out = s->training;
    s->training = NULL;
    return 1;
}

/* ---- settings that are chosen on the held-out images ------------------------------------------------------ */

/* All ways try as many: first every learning rate with every weight decay; then, with the best of these, those that
   have a teacher every other temperature and alpha, and the others mixed images and learning rates further
   apart. */
static const double MIXUP_TRIED = 0.4;

static int setting_rounds(const session *s, int *second)
{
    *second = s->o.temperature.count * s->o.alpha.count - 1;
    return s->o.lr.count * s->o.weight_decay.count;
}

static int tries_mixup(const session *s)
{
    return is_automatic(s->o.augment) && !teacher_is_array(s) && s->o.temperature.count * s->o.alpha.count > 1;
}

static report_trial first_setting(const session *s, int way, int index)
{
    report_trial t;
    memset(&t, 0, sizeof t);
    t.lr = s->o.lr.values[index / s->o.weight_decay.count];
    t.weight_decay = s->o.weight_decay.values[index % s->o.weight_decay.count];
    t.temperature = t.alpha = t.mixup = -1;
    if (!way_table[way].teacher && tries_mixup(s)) t.mixup = 0;
    if (way_table[way].teacher) {
        t.loss = s->o.loss;
        if (s->objective.temperature >= 0) t.temperature = s->o.temperature.values[0];
        if (s->objective.alpha >= 0) t.alpha = s->o.alpha.values[0];
    }
    return t;
}

static report_trial second_setting(const session *s, int way, int index, const report_trial *best)
{
    report_trial t = *best;
    const int a = s->o.alpha.count;
    if (!way_table[way].teacher && tries_mixup(s) && index-- == 0) {
        t.mixup = MIXUP_TRIED;
        return t;
    }
    if (!way_table[way].teacher) {
        t.lr *= index % 2 ? pow(2, index / 2 + 1) : pow(0.5, index / 2 + 1);
        return t;
    }
    if (s->objective.temperature >= 0) t.temperature = s->o.temperature.values[(index + 1) / a];
    if (s->objective.alpha >= 0) t.alpha = s->o.alpha.values[(index + 1) % a];
    return t;
}

typedef struct setting_line {
    char chars[300];
} setting_line;

static setting_line rates_text(const report_trial *t)
{
    setting_line line;
    const size_t at = (size_t)snprintf(line.chars, sizeof line.chars, "learning rate %g, weight decay %g", t->lr,
                                       t->weight_decay);
    if (t->mixup > 0) snprintf(line.chars + at, sizeof line.chars - at, ", mixup %g", t->mixup);
    return line;
}

/* "hinton, temperature 2, alpha 0.9", or as much of it as the loss has. */
static setting_line loss_text(const report_trial *t)
{
    setting_line line;
    const size_t size = sizeof line.chars;
    size_t at = (size_t)snprintf(line.chars, size, "%s", t->loss);
    if (t->temperature > 0) at += (size_t)snprintf(line.chars + at, size - at, ", temperature %g", t->temperature);
    if (t->alpha >= 0) (void)snprintf(line.chars + at, size - at, ", alpha %g", t->alpha);
    return line;
}

/* What a nat of likelihood counts: too little to matter where accuracies differ. */
static const double TIE = 1e-7;

/* Trains students with a setting, with seeds that the final ones do not use. */
static int try_setting(session *s, stage *g, int way, report_trial *t)
{
    double squares = 0, nll = 0;
    int i;
    t->epochs = way_epochs(s, way, s->plan.trial_epochs);
    t->students = s->o.trials;
    t->validation = t->sd = 0;
    for (i = 0; i < s->o.trials; ++i) {
        kd_model *m;
        kd_metrics metrics;
        kd_result result;
        if (!train_student(s, g, way, t, (uint64_t)(s->o.first_seed + s->o.seeds + i), NULL, &m)) return 0;
        result = kd_evaluate(m, &s->held.data, &metrics);
        kd_model_destroy(m);
        if (result != KD_OK) return kd_complain(s, "evaluating a student");
        t->validation += metrics.accuracy / s->o.trials;
        squares += metrics.accuracy * metrics.accuracy;
        nll += metrics.nll / s->o.trials;
    }
    t->score = t->validation - TIE * nll;
    if (s->o.trials > 1)
        t->sd = sqrt(fmax(0, (squares - s->o.trials * t->validation * t->validation) / (s->o.trials - 1)));
    return 1;
}

/* Of the first round, the mean over all trials with a learning rate (of_rate) or a weight decay. */
static double trials_mean(const session *s, const report_way *about, int of_rate, int index)
{
    const int rates = s->o.lr.count, decays = s->o.weight_decay.count, others = of_rate ? decays : rates;
    double sum = 0;
    int i;
    for (i = 0; i < others; ++i) sum += about->grid[of_rate ? index * decays + i : i * decays + index].score;
    return sum / others;
}

static int best_mean(const session *s, const report_way *about, int of_rate)
{
    const int count = of_rate ? s->o.lr.count : s->o.weight_decay.count;
    int best = 0, i;
    for (i = 1; i < count; ++i) {
        if (trials_mean(s, about, of_rate, i) > trials_mean(s, about, of_rate, best)) best = i;
    }
    return best;
}

/* The first round's choice: the learning rate that is best on average over the weight decays, and the other way
   round, since one trial says little where few images are held out. Returns what is expected of it, were the two
   independent. */
static double choose_rates(const session *s, report_way *about)
{
    const int rate = best_mean(s, about, 1), decay = best_mean(s, about, 0);
    double all = 0;
    int i;
    for (i = 0; i < s->o.lr.count; ++i) all += trials_mean(s, about, 1, i) / s->o.lr.count;
    about->chosen = rate * s->o.weight_decay.count + decay;
    return trials_mean(s, about, 1, rate) + trials_mean(s, about, 0, decay) - all;
}

/* Tries a way's settings: learning rates and weight decays, the first `first` of the grid, then what may be better
   than the best of these. */
static int try_settings(session *s, stage *g, int way, int first, int count)
{
    report_way *about = &s->r.ways[way_place(s, way)];
    report_trial best = about->grid[0];
    double reached = 0;
    int i;
    for (i = 0; i < count; ++i) {
        report_trial *t = &about->grid[i];
        *t = i < first ? first_setting(s, way, i) : second_setting(s, way, i - first, &best);
        if (!try_setting(s, g, way, t)) return 0;
        stage_line(g, "  %-10s %s%s%s: held-out accuracy %.2f %%", about->name, t->loss ? loss_text(t).chars : "",
                   t->loss ? ", " : "", rates_text(t).chars, 100 * t->validation);
        if (i + 1 == first) reached = choose_rates(s, about), best = about->grid[about->chosen];
        if (i >= first && t->validation > reached + 10 * TIE) about->chosen = i, reached = t->validation;
    }
    return 1;
}

/* What a setting that was chosen for another way becomes, where the loss is another one. */
static void adopt_setting(const session *s, int way, report_trial *t)
{
    if (!way_has_no_labels(s, way) && way != ROBUST && way != MUTUAL) return;
    t->loss = kd_loss_name(KD_LOSS_KL);
    t->alpha = -1;
    if (way == ROBUST || way == MUTUAL) t->temperature = 1;
}

/* What a way is trained with, in grid[chosen]. With one setting there is nothing to try. */
static int choose(session *s, int way)
{
    report_way *about = &s->r.ways[way_place(s, way)];
    const report_way *like = &s->r.ways[way_table[way].like];
    const int tried = way_table[way].like == way; /* others take over what was chosen for that way */
    int second, first = setting_rounds(s, &second), count = tried ? first + second : 1;
    const double started = seconds_now();
    stage g = stage_begin(s, "choosing",
                          (int64_t)count * s->o.trials * way_epochs(s, way, s->plan.trial_epochs) *
                              way_data(s, way)->count);
    about->grid = (report_trial *)calloc((size_t)count, sizeof *about->grid);
    if (!about->grid) return complain("there is not enough memory");
    about->grid_count = count;
    about->grid[0] = tried ? first_setting(s, way, 0) : like->grid[like->chosen];
    adopt_setting(s, way, &about->grid[0]);
    if (count > 1 && !try_settings(s, &g, way, first, count)) return 0;
    progress_wipe();
    report_time(&s->r, "choosing", seconds_now() - started);
    return 1;
}

/* ---- the students ----------------------------------------------------------------------------------------- */

/* Metrics on the test images, agreement with the teacher among them. */
static int test_model(session *s, const kd_model *m, report_run *run, float *logits, int64_t *confusion)
{
    kd_evaluate_desc d = kd_evaluate_defaults();
    kd_data data = s->test;
    const kd_attack_desc attack = attack_options(s);
    d.logits = logits;
    d.confusion = confusion;
    if (s->o.adversarial > 0 && !kd_model_is_int8(m)) d.attack = &attack; /* integers have no gradient for it */
    if (m != s->teacher) data.teacher_logits = s->teacher_test;
    return kd_evaluate_with(m, &data, &d, &run->test) == KD_OK ? 1 : kd_complain(s, "testing");
}

static double held_out_mean(const session *s, int way)
{
    const report_way *about = &s->r.ways[way];
    double sum = 0;
    int i;
    for (i = 0; i < s->o.seeds; ++i) sum += about->runs[i].held_out / s->o.seeds;
    return sum;
}

/* What else there is to say of how a way trains, with a comma behind it. */
static setting_line way_text(const session *s, int way)
{
    setting_line line;
    *line.chars = 0;
    if (way == MUTUAL) snprintf(line.chars, sizeof line.chars, "two students, each other's teachers, ");
    if (way == ASSISTED)
        snprintf(line.chars, sizeof line.chars, "from %.200s, ",
                 kd_model_spec(s->assistants[s->assistant_count - 1]));
    if (way == REBORN)
        snprintf(line.chars, sizeof line.chars, "%d generation%s after the distilled, ", s->o.born_again,
                 plural(s->o.born_again));
    if (way == ROBUST)
        snprintf(line.chars, sizeof line.chars, "images attacked by up to %g a pixel, ", s->o.adversarial);
    return line;
}

/* The final students of a way, one for each seed. */
static int train_way(session *s, int way)
{
    report_way *about = &s->r.ways[way_place(s, way)];
    report_trial setting = about->grid[about->chosen];
    const double started = seconds_now();
    stage g;
    int i;
    setting.epochs = way_epochs(s, way, s->plan.epochs);
    snprintf(
        s->how[way], sizeof s->how[way], "%s%s%s%s%s, %d epoch%s", setting.loss ? loss_text(&setting).chars : "",
        way_has_teacher_itself(way) && s->objective.feature_count ? ", features" : "", setting.loss ? ", " : "",
        way_text(s, way).chars, rates_text(&setting).chars, setting.epochs, plural(setting.epochs));
    about->how = s->how[way];
    g = stage_begin(s, about->name,
                    (int64_t)s->o.seeds * setting.epochs * way_data(s, way)->count *
                        (way == MUTUAL ? 1 : way_trainings(s, way)));
    for (i = 0; i < s->o.seeds; ++i) {
        report_run *run = &about->runs[i];
        snprintf(g.now, sizeof g.now, "%d of %d", i + 1, s->o.seeds);
        if (!train_student(s, &g, way, &setting, (uint64_t)(s->o.first_seed + i), run,
                           &s->students[way_place(s, way) * s->o.seeds + i]))
            return 0;
        run->held_out = run->validation[run->epochs - 1];
    }
    if (s->held.data.count)
        stage_line(&g, "  %-10s held-out accuracy %.2f %%, %s%d seed%s", about->name,
                   100 * held_out_mean(s, way_place(s, way)), s->o.seeds > 1 ? "mean of " : "", s->o.seeds,
                   plural(s->o.seeds));
    else
        stage_line(&g, "  %-10s %d seed%s", about->name, s->o.seeds, plural(s->o.seeds));
    progress_wipe();
    report_time(&s->r, "students", seconds_now() - started);
    return 1;
}

/* The student to ship: of the way that does best on the held-out images on average, the one that does best. */
static void choose_kept(session *s)
{
    report *r = &s->r;
    const int seeds = s->o.seeds;
    int way, i;
    r->kept_way = DISTILLED;
    r->kept_seed = 0;
    r->kept_why = "the first that was distilled: no images were held out to choose with";
    if (s->held.data.count) {
        r->kept_why = "the best way of training on the held-out images, and the best of its seeds";
        for (way = 0; way < WAY_COUNT; ++way) {
            const int place = way_place(s, way);
            if (way_runs(s, way) && !r->ways[place].apart &&
                held_out_mean(s, place) > held_out_mean(s, r->kept_way))
                r->kept_way = place;
        }
        for (i = 1; i < seeds; ++i) {
            if (r->ways[r->kept_way].runs[i].held_out > r->ways[r->kept_way].runs[r->kept_seed].held_out)
                r->kept_seed = i;
        }
    }
    s->kept = s->students[r->kept_way * seeds + r->kept_seed];
}

/* What those that taught the distilled get right together. */
static int test_ensemble(session *s)
{
    float *logits;
    if (!s->r.ensemble_students) return 1;
    logits = ensemble_logits(s, &s->test);
    if (!logits) return 0;
    s->r.ensemble_accuracy = logits_accuracy(logits, &s->test);
    free(logits);
    return 1;
}

/* The only look at the test images: nothing is chosen any more. */
static int test_students(session *s)
{
    int way, i;
    if (!test_ensemble(s)) return 0;
    for (way = 0; way < WAY_COUNT; ++way) {
        const int place = way_place(s, way);
        for (i = 0; i < s->o.seeds && way_runs(s, way); ++i) {
            if (!test_model(s, s->students[place * s->o.seeds + i], &s->r.ways[place].runs[i], s->student_test,
                            NULL))
                return 0;
            report_answers(&s->r, place, s->student_test);
        }
    }
    return 1;
}

/* ---- the teacher ------------------------------------------------------------------------------------------ */

/* How long an epoch of a training takes here and now; a copy of the model is trained for a moment. 0: not known. */
static double seconds_for_epoch(const session *s, const kd_model *m, const kd_data *data, const kd_train_desc *like)
{
    enum { STEPS = 20 };
    const double most = 1;
    kd_train_desc d = *like;
    kd_model *copy;
    kd_trainer *t = NULL;
    double started, seconds = 0;
    int steps = 0;
    d.on_step = NULL, d.on_epoch = NULL, d.validation_data = NULL;
    if (kd_model_clone(m, &copy) != KD_OK) return 0;
    if (kd_trainer_open(copy, data, &d, &t) == KD_OK && kd_trainer_step(t, NULL) == KD_OK) {
        started = seconds_now();
        while (steps < STEPS && seconds < most && !kd_trainer_done(t) && kd_trainer_step(t, NULL) == KD_OK)
            ++steps, seconds = seconds_now() - started;
    }
    kd_trainer_close(t);
    kd_model_destroy(copy);
    return steps ? seconds / steps * data->count / s->o.batch : 0;
}

static kd_train_desc teacher_options(const session *s, watch *w, int epochs)
{
    kd_train_desc d = training_options(s, w, epochs, s->o.teacher_lr, s->o.teacher_weight_decay);
    d.augment = s->teacher_augment;
    d.seed = (uint64_t)s->o.first_seed;
    d.loss = kd_loss_defaults(KD_LOSS_CE);
    weigh_classes(s, &d.loss);
    return d;
}

/* Fewer epochs where the time for the teacher is bounded; noted for those who resume, whose clock may say another
   thing. */
static int bound_teacher(session *s)
{
    double epoch, epochs;
    watch w;
    kd_train_desc d;
    if (s->o.teacher_minutes <= 0) return 1;
    memset(&w, 0, sizeof w);
    d = teacher_options(s, &w, s->plan.teacher_epochs);
    epoch = seconds_for_epoch(s, s->teacher, &s->fit.data, &d);
    epoch *= s->o.teachers;
    epochs = epoch > 0 ? floor(60 * s->o.teacher_minutes / epoch) : s->plan.teacher_epochs;
    if (epochs < 1) {
        say("note: an epoch of the teacher takes about %s, longer than --teacher-minutes %g; it is trained for "
            "one\n",
            time_text(epoch).chars, s->o.teacher_minutes);
        epochs = 1;
    }
    if (epochs > s->plan.teacher_epochs) epochs = s->plan.teacher_epochs;
    if (!resume_number(s, "teacher-epochs", &epochs)) return 0;
    s->plan.teacher_epochs = (int)epochs;
    return 1;
}

static int train_teacher(session *s, int epochs)
{
    stage g = stage_begin(s, "teacher", (int64_t)epochs * s->fit.data.count);
    const double started = seconds_now();
    watch w;
    kd_train_desc d;
    w.g = &g, w.run = &s->r.teacher_run, w.lines = 1;
    if (!run_open(w.run, epochs)) return 0;
    d = teacher_options(s, &w, epochs);
    printf("\nTraining the teacher, %d epoch%s\n", epochs, plural(epochs));
    if (!start_teacher(s, s->teacher)) return 0;
    s->training = s->teacher;
    if (!train(s, &g, &s->fit.data, &d, w.run)) return 0;
    s->training = NULL;
    report_time(&s->r, "teacher", seconds_now() - started);
    return 1;
}

/* The others, where there are several, with seeds that follow the first one's. */
static int train_more_teachers(session *s)
{
    const int epochs = s->plan.teacher_epochs;
    const double started = seconds_now();
    stage g = stage_begin(s, "teachers", (int64_t)(s->o.teachers - 1) * epochs * s->fit.data.count);
    watch w;
    int i;
    w.g = &g, w.run = NULL, w.lines = 0;
    for (i = 1; i < s->o.teachers; ++i) {
        kd_train_desc d = teacher_options(s, &w, epochs);
        kd_metrics metrics;
        d.seed += (uint64_t)i;
        snprintf(g.now, sizeof g.now, "%d of %d", i + 1, s->o.teachers);
        s->training = create_model(s, "teacher", s->teacher_spec, d.seed);
        if (!s->training) return 0;
        s->more[s->more_count] = s->training;
        if (!start_teacher(s, s->training)) return 0;
        if (!train(s, &g, &s->fit.data, &d, NULL)) return 0;
        s->training = NULL;
        s->averaged[++s->more_count] = s->more[i - 1];
        if (s->held.data.count < 1) continue;
        if (kd_evaluate(s->more[i - 1], &s->held.data, &metrics) != KD_OK)
            return kd_complain(s, "evaluating a teacher");
        stage_line(&g, "  teacher %d of %d   held-out accuracy %.2f %%", i + 1, s->o.teachers,
                   100 * metrics.accuracy);
    }
    s->averaged[0] = s->teacher;
    progress_wipe();
    report_time(&s->r, "teacher", seconds_now() - started);
    return 1;
}

/* Its accuracy on the held-out images. -1: there are none, or it is known by its logits and has none for them. */
static int validate_teacher(session *s, double *accuracy)
{
    const part *held = &s->held;
    const float *logits = held->teacher_logits;
    float *average = NULL;
    kd_metrics metrics;
    *accuracy = -1;
    if (held->data.count < 1) return 1;
    if (s->more_count) {
        logits = average = averaged_logits(s, &held->data, 1);
        if (!average) return 0;
    }
    if (s->teacher && !average) {
        if (kd_evaluate(s->teacher, &held->data, &metrics) != KD_OK)
            return kd_complain(s, "evaluating the teacher");
        *accuracy = metrics.accuracy;
    } else if (logits) {
        *accuracy = logits_accuracy(logits, &held->data);
    }
    free(average);
    return 1;
}

/* A teacher that is no better than its student is trained once more, twice as long and from other first weights;
   the better of the two stays. */
static int second_teacher(session *s)
{
    const double reached = s->r.teacher_validation;
    kd_model *first = s->teacher;
    report_run run = s->r.teacher_run;
    int good;
    say("\nThe teacher is not better than the student: another one is trained, twice as long\n");
    s->teacher = create_model(s, "teacher", s->teacher_spec, (uint64_t)s->o.first_seed + 1);
    memset(&s->r.teacher_run, 0, sizeof s->r.teacher_run);
    good =
        s->teacher && train_teacher(s, 2 * s->plan.teacher_epochs) && validate_teacher(s, &s->r.teacher_validation);
    if (good && s->r.teacher_validation > reached) {
        s->plan.teacher_epochs *= 2;
        kd_model_destroy(first);
        run_free(&run);
        return 1;
    }
    if (s->training == s->teacher) s->training = NULL;
    kd_model_destroy(s->teacher);
    run_free(&s->r.teacher_run);
    s->teacher = first;
    s->r.teacher_run = run;
    s->r.teacher_validation = reached;
    return good;
}

/* Before anything is distilled: is there something to be learned from this teacher? */
static int compare_teacher(session *s)
{
    report *r = &s->r;
    const double alone = s->held.data.count ? held_out_mean(s, ALONE) : -1;
    r->alone_validation = alone;
    if (alone < 0 || r->teacher_validation < 0) return 1;
    if (r->teacher_trained && r->teacher_validation <= alone && !s->o.teacher_epochs && s->o.teacher_minutes <= 0 &&
        s->o.teachers == 1 && !second_teacher(s))
        return 0;
    if (!choose_ensemble(s)) return 0;
    say("\nOn the held-out images the teacher gets %.2f %% right, the student alone %.2f %%\n",
        100 * r->teacher_validation, 100 * alone);
    if (r->ensemble_students && r->ensemble_share < 1)
        say("The %d student%s alone teach%s with it, with %.0f %% of the average: together %.2f %%\n",
            r->ensemble_students, plural(r->ensemble_students), r->ensemble_students == 1 ? "es" : "",
            100 * r->ensemble_share, 100 * r->ensemble_validation);
    if (r->ensemble_students && !(r->ensemble_share < 1))
        say("The %d student%s alone teach%s instead of it: together %.2f %%\n", r->ensemble_students,
            plural(r->ensemble_students), r->ensemble_students == 1 ? "es" : "", 100 * r->ensemble_validation);
    if (r->teacher_validation <= alone && !(r->ensemble_students && r->ensemble_validation > alone))
        say("note: the teacher is not better than the student; what is learned from it may do harm. A larger one "
            "(--teacher), or one that is trained longer (--teacher-epochs), may help\n");
    fflush(stdout);
    return 1;
}

/* The teacher's outputs for every view of every image that the students of a way will see: once, not in each
   training. If they would not fit, or are more than a cache has, the teacher runs beside its students: views that
   repeat would not be what the others get. So it does where its layers are wanted, and where there are
   several: their average is another one for every temperature. */
static int run_teacher(session *s, int way)
{
    enum { MOST_VIEWS = 1 << 16 };
    const kd_data *data = way_data(s, way);
    const kd_augment augment = way_augment(s, way);
    const int64_t budget = 512 << 20, view = (int64_t)data->count * s->images.class_count * (int64_t)sizeof(float);
    const int changes = changes_images(&augment), itself = way_has_teacher_itself(way);
    const int views = changes ? way_epochs(s, way, s->plan.epochs) : 1;
    const double started = seconds_now();
    const kd_model *teacher = !itself                   ? s->assistants[s->assistant_count - 1]
                              : s->r.ensemble_share < 1 ? s->teacher
                                                        : ensemble_student(s, 0);
    if (s->cache[way] || !teacher || (itself && (s->more_count || s->objective.feature_count)) ||
        (changes && (views > budget / view || views > MOST_VIEWS)))
        return 1;
    if (kd_cache_create(teacher, data, changes ? &augment : NULL, (uint64_t)s->o.first_seed, views,
                        &s->cache[way]) != KD_OK)
        return kd_complain(s, "running the teacher");
    if (itself && s->r.ensemble_students &&
        !blend_students(s, data, changes ? &augment : NULL, views, s->cache[way]))
        return 0;
    report_time(&s->r, "teacher's outputs", seconds_now() - started);
    return 1;
}

/* What must be there before a way's students are trained. */
static int prepare_way(session *s, int way)
{
    const report_way *like = &s->r.ways[way_table[way].like];
    if (!way_table[way].teacher || way == PRUNED || way == ROBUST || way == REBORN) return 1;
    if (way == ASSISTED && !train_assistants(s, &like->grid[like->chosen])) return 0;
    return run_teacher(s, way);
}

/* ---- the order of the work -------------------------------------------------------------------------------- */

static int check_training(const session *s, const char *whose, kd_model *m, const kd_data *data,
                          const kd_train_desc *d)
{
    kd_trainer *t;
    if (kd_trainer_open(m, data, d, &t) != KD_OK) return kd_complain(s, whose);
    kd_trainer_close(t);
    return 1;
}

/* Those have all that the students have, but for other layers. */
static int check_assistants(session *s, const kd_data *data, const kd_train_desc *d)
{
    int i, good = 1;
    for (i = 0; good && i < s->o.assistant.count; ++i) {
        char spec[MAX_SPEC];
        kd_model *m =
            complete_spec(s, s->o.assistant.values[i], spec) ? create_model(s, "assistant", spec, 1) : NULL;
        good = m && check_training(s, "the assistant's training", m, data, d);
        kd_model_destroy(m);
    }
    return good;
}

/* Everything that can be wrong with the trainings is found here, before the first of them and before an earlier run
   is given up: the student's come long after the teacher's. */
static int check_trainings(session *s)
{
    report_trial setting = first_setting(s, DISTILLED, 0);
    task to;
    kd_train_desc d;
    kd_model *student;
    watch w;
    int good, way;
    memset(&w, 0, sizeof w);
    if (s->objective.feature_count && !s->teacher)
        return complain("--feature needs a teacher that can be run: a file of logits has no layers");
    if (s->o.teachers > 1 && !s->r.teacher_trained)
        return complain("--teachers trains several of one model line; a teacher that is there already is one");
    if ((s->o.teachers > 1 || s->more_count) && s->objective.feature_count)
        return complain("--feature needs one teacher: the layers of several are not averaged");
    if (!check_pretrain(s)) return 0;
    if (s->plan.epochs && !teacher_has_epochs(s, s->plan.epochs))
        return complain("--teacher-from %g and --teacher-until %g leave none of %d epochs to the teacher",
                        s->o.teacher_from, s->o.teacher_until, s->plan.epochs);
    w.run = s->r.ways[DISTILLED].runs; /* there are held-out images to look at, too */
    d = teacher_options(s, &w, s->plan.teacher_epochs);
    if (s->r.teacher_trained && !check_training(s, "the teacher's training", s->teacher, &s->fit.data, &d))
        return 0;
    setting.epochs = s->plan.epochs;
    for (way = DISTILLED; way < WAY_COUNT; ++way) {
        if (way != DISTILLED && !(way == ROBUST && way_runs(s, way))) continue;
        student = create_model(s, "student", s->student_spec, 1);
        if (!student) return 0;
        d = student_options(s, &w, way, &setting, 1, &to);
        good = check_training(s, "the student's training", student, &to.data, &d);
        kd_model_destroy(student);
        if (!good) return 0;
    }
    d = student_options(s, &w, DISTILLED, &setting, 1, &to);
    return check_assistants(s, &to.data, &d);
}

/* How many held-out images a model gets right only as they are, and only mirrored. */
static int count_mirrored(session *s, const kd_model *m, int *plain, int *mirrored)
{
    const int count = s->held.data.count, classes = s->images.class_count, width = s->images.width;
    const size_t rows = part_image(s) * (size_t)count / (size_t)width;
    float *logits = (float *)images_memory(2 * (size_t)count * (size_t)classes, sizeof *logits);
    uint8_t *pixels = (uint8_t *)images_memory(rows * (size_t)width, 1);
    kd_data data[2];
    int i, x, good = logits && pixels;
    size_t row;
    if (!good) (void)complain("there is not enough memory for the mirrored images");
    for (row = 0; good && row < rows; ++row) {
        for (x = 0; x < width; ++x)
            pixels[row * (size_t)width + (size_t)x] = s->held.pixels[row * (size_t)width + (size_t)(width - 1 - x)];
    }
    data[0] = data[1] = s->held.data;
    data[1].pixels = pixels;
    for (i = 0; good && i < 2; ++i) {
        kd_evaluate_desc d = kd_evaluate_defaults();
        kd_metrics metrics;
        d.logits = logits + (size_t)i * (size_t)count * (size_t)classes;
        good = kd_evaluate_with(m, &data[i], &d, &metrics) == KD_OK ? 1 : kd_complain(s, "evaluating a student");
    }
    *plain = *mirrored = 0;
    for (i = 0; good && i < count; ++i) {
        const int a = report_argmax(logits + (size_t)i * (size_t)classes, classes) == s->held.labels[i],
                  b = report_argmax(logits + (size_t)(count + i) * (size_t)classes, classes) == s->held.labels[i];
        *plain += a && !b;
        *mirrored += b && !a;
    }
    free(logits);
    free(pixels);
    return good;
}

/* Whether training images may be mirrored: where a student that has seen none knows mirrored ones as well as
   others, but for chance (twice the standard error of the difference) or 3 in 100. Letters and digits are
   not tried. */
static int choose_flip(session *s)
{
    report_trial t = first_setting(s, ALONE, 0);
    kd_model *m;
    stage g;
    int plain, mirrored, lost, flip;
    if (!is_automatic(s->o.augment) || teacher_is_array(s) || s->held.data.count < 1) return 1;
    if (classes_are_letters(&s->images)) {
        puts("\nImages are not mirrored: the classes look like letters or digits");
        return 1;
    }
    t.epochs = s->plan.trial_epochs;
    say("\nMay images be mirrored? A student that has seen none is asked about the held-out images and their "
        "mirror "
        "images\n");
    g = stage_begin(s, "mirror", (int64_t)t.epochs * s->fit.data.count);
    if (!train_student(s, &g, ALONE, &t, (uint64_t)s->o.first_seed, NULL, &m)) return 0;
    if (!count_mirrored(s, m, &plain, &mirrored)) {
        kd_model_destroy(m);
        return 0;
    }
    kd_model_destroy(m);
    lost = plain - mirrored;
    flip = lost <= 2 * sqrt((double)(plain + mirrored)) || 100 * lost <= 3 * s->held.data.count;
    stage_line(&g, "  of %d it knows %d only as they are, %d only mirrored: %s", s->held.data.count, plain,
               mirrored, flip ? "yes" : "no");
    progress_wipe();
    return plan_augmentation(s, flip);
}

/* An epoch of each of the assistants, trained like a student. */
static double seconds_for_assistants(session *s, const kd_train_desc *like)
{
    double seconds = 0;
    int i;
    for (i = 0; i < s->o.assistant.count; ++i) {
        char spec[MAX_SPEC];
        kd_model *m =
            complete_spec(s, s->o.assistant.values[i], spec) ? create_model(s, "assistant", spec, 1) : NULL;
        if (m) seconds += seconds_for_epoch(s, m, &s->fit.data, like);
        kd_model_destroy(m);
    }
    return seconds;
}

/* What all of it will take, measured with a few steps of each kind. */
static void announce_time(session *s)
{
    report_trial t = first_setting(s, ALONE, 0);
    task to;
    kd_model *student;
    kd_train_desc d;
    watch w;
    double teacher = 0, epoch = 0, epochs = 0, assisting,
           asked = s->plan.epochs; /* how often the teacher is, for all images */
    const int trained = s->r.teacher_trained ? s->plan.teacher_epochs : 0,
              several = s->more_count ? teacher_count(s) : s->o.teachers;
    int way, second, first = setting_rounds(s, &second);
    memset(&w, 0, sizeof w);
    d = teacher_options(s, &w, s->plan.teacher_epochs);
    for (way = 0; s->teacher && way < teacher_count(s); ++way)
        teacher += seconds_for_epoch(s, teacher_at(s, way), &s->fit.data, &d);
    student = create_model(s, "student", s->student_spec, 1);
    if (!student) return;
    t.epochs = s->plan.epochs;
    d = student_options(s, &w, ALONE, &t, 1, &to);
    epoch = seconds_for_epoch(s, student, &to.data, &d);
    kd_model_destroy(student);
    for (way = 0; way < WAY_COUNT; ++way) {
        if (!way_runs(s, way)) continue;
        epochs += way_table[way].epochs *
                  ((double)s->o.seeds * s->plan.epochs * way_trainings(s, way) * (way == ROBUST ? 16 : 1) +
                   (way_table[way].like != way || first + second == 1 ? 0 : first + second) * (double)s->o.trials *
                       s->plan.trial_epochs);
    }
    if (s->o.int8) epochs += 2.0 * s->o.seeds * s->plan.epochs * 0.6; /* a little slower, with rounding */
    if (way_runs(s, PRUNED))
        epochs += 2.0 * s->o.seeds * s->plan.epochs; /* the larger one, two to four times as slow */
    if (ensemble_wanted(s)) epochs += s->o.seeds * s->plan.epochs / 3.0; /* asked once for every view */
    assisting = seconds_for_assistants(s, &d) * s->plan.epochs;
    if (s->o.adversarial > 0) /* tests are attacked, 10 steps each */
        epochs += 11.0 * s->test.count / s->fit.data.count * s->r.way_count * s->o.seeds;
    epoch = epoch * epochs + assisting;
    if (!s->more_count) teacher *= s->o.teachers;
    epoch += teacher * trained;
    if (s->objective.feature_count || several > 1) /* beside every student, not once */
        asked = s->o.seeds * s->plan.epochs +
                (first + second == 1 ? 0 : first + second) * (double)s->o.trials * s->plan.trial_epochs;
    if (s->o.patient) asked += 3.0 * s->plan.epochs; /* its outputs are kept, too */
    epoch += teacher / 3 * asked;
    if (s->r.candidate_count) epoch += 60 * s->o.search_minutes;
    if (s->o.folds) epoch *= s->o.folds - s->o.fold;
    say("time      about %s here%s: %d epoch%s for the teacher, %d for each student (--effort 0.3 takes a third)\n",
        time_text(epoch).chars, s->o.folds ? ", for this fold and those behind it" : "", trained, plural(trained),
        s->plan.epochs);
    fflush(stdout);
}

static int prepare_teacher(session *s)
{
    if (s->r.teacher_trained && (!pretrain(s) || !bound_teacher(s) || !train_teacher(s, s->plan.teacher_epochs)))
        return 0;
    if (s->o.teachers > 1 && !train_more_teachers(s)) return 0;
    return validate_teacher(s, &s->r.teacher_validation);
}

/* The ways that need no teacher, then those that have one. */
static int train_ways(session *s, int teacher)
{
    int way;
    say("\nThe student %s: settings are chosen on the held-out images, then %d seed%s %s trained\n",
        teacher ? "with the teacher" : "without a teacher", s->o.seeds, plural(s->o.seeds),
        s->o.seeds == 1 ? "is" : "are");
    for (way = 0; way < WAY_COUNT; ++way) {
        if (way_table[way].teacher != teacher || !way_runs(s, way)) continue;
        if (!prepare_way(s, way) || !choose(s, way) || !train_way(s, way)) return 0;
    }
    return 1;
}
