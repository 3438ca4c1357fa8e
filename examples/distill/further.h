/* further.h - ways of training that take more models than a teacher and a student: a larger student that is pruned,
   assistants, generations, two that learn together. A part of distill.c. */

/* ---- pruned ---------------------------------------------------------------------------------------------- */

/* The larger student, distilled, without the channels that matter least. NULL after a complaint. */
static kd_model *pruned_student(session *s, stage *g, const report_trial *t, uint64_t seed)
{
    task to;
    watch w;
    kd_train_desc d;
    kd_model *small = NULL;
    w.g = g, w.run = NULL, w.lines = 0;
    d = student_options(s, &w, PRUNED, t, seed, &to);
    s->training = create_model(s, "larger student", s->larger_spec, seed);
    if (!s->training || !train(s, g, &to.data, &d, NULL)) return NULL;
    if (!prune_student(s, s->training, &small)) return NULL;
    kd_model_destroy(s->training);
    s->training = NULL;
    return small;
}

/* ---- assistants ------------------------------------------------------------------------------------------ */

/* Where teacher and student are far apart, networks between them may help (Mirzadeh et al. 2020): each is distilled
   from the one before, the first from those that teach the distilled. */
static int train_assistants(session *s, const report_trial *chosen)
{
    const texts *specs = &s->o.assistant;
    report_trial t = *chosen;
    stage g;
    t.epochs = way_epochs(s, ASSISTED, s->plan.epochs);
    g = stage_begin(s, "assistant", (int64_t)specs->count * t.epochs * way_data(s, ASSISTED)->count);
    while (s->assistant_count < specs->count) {
        const int now = s->assistant_count;
        char spec[MAX_SPEC], name[64];
        task to;
        watch w;
        kd_train_desc d;
        kd_metrics metrics;
        w.g = &g, w.run = NULL, w.lines = 0;
        d = student_options(s, &w, now ? ASSISTED : DISTILLED, &t, (uint64_t)s->o.first_seed, &to);
        snprintf(g.now, sizeof g.now, "%d of %d", now + 1, specs->count);
        if (!complete_spec(s, specs->values[now], spec)) return 0;
        s->training = create_model(s, "assistant", spec, (uint64_t)s->o.first_seed);
        if (!s->training || !train(s, &g, &to.data, &d, NULL)) return 0;
        s->assistants[s->assistant_count++] = s->training;
        s->training = NULL;
        numbered_file("assistant", now, name, sizeof name);
        if (!save_known(s, s->assistants[now], name)) return 0;
        if (s->held.data.count < 1) continue;
        if (kd_evaluate(s->assistants[now], &s->held.data, &metrics) != KD_OK)
            return kd_complain(s, "evaluating an assistant");
        stage_line(&g, "  assistant  held-out accuracy %.2f %%, %d of %d", 100 * metrics.accuracy, now + 1,
                   specs->count);
    }
    progress_wipe();
    return 1;
}

/* ---- generations ----------------------------------------------------------------------------------------- */

/* The student of the same seed that was distilled teaches another one like it, that one the next, and the last is
   the result (Furlanello et al. 2018). */
static int train_generations(session *s, stage *g, const report_trial *t, uint64_t seed, report_run *run,
                             kd_model **out)
{
    const int first = DISTILLED * s->o.seeds + (int)(seed - (uint64_t)s->o.first_seed);
    kd_model *elder = NULL;
    int i;
    for (i = 1; i <= s->o.born_again; ++i) {
        task to;
        watch w;
        kd_train_desc d;
        int good;
        s->elder = elder ? elder : s->students[first];
        w.g = g, w.run = i == s->o.born_again ? run : NULL, w.lines = 0;
        d = student_options(s, &w, REBORN, t, seed, &to);
        s->training = create_model(s, "student", s->student_spec, seed + (uint64_t)i * MORE_SEEDS);
        good = s->training && train(s, g, &to.data, &d, w.run);
        kd_model_destroy(elder);
        s->elder = NULL;
        if (!good) return 0;
        elder = s->training;
        s->training = NULL;
    }
    *out = elder;
    return 1;
}

/* ---- two that learn together ------------------------------------------------------------------------------ */

/* One of the two, and the number of its checkpoint. */
typedef struct peer {
    kd_model *m;
    kd_trainer *t;
    int training;
} peer;

static void peers_close(peer *p)
{
    int i;
    for (i = 0; i < 2; ++i) {
        kd_trainer_close(p[i].t);
        p[i].t = NULL;
    }
}

/* The first has the first weights of its seed, as in all ways; the other is a network like it. */
static int peers_open(session *s, watch *w, const report_trial *t, uint64_t seed, task *to, peer *p)
{
    int i;
    for (i = 0; i < 2; ++i) {
        kd_model_destroy(p[i].m);
        p[i].m = create_model(s, "student", s->student_spec, seed + (i ? MORE_SEEDS : 0));
        if (!p[i].m) return 0;
    }
    for (i = 0; i < 2; ++i) {
        kd_train_desc d;
        s->elder = p[1 - i].m;
        d = student_options(s, w, MUTUAL, t, seed, to);
        s->elder = NULL;
        if (i) d.on_step = NULL, d.on_epoch = NULL, d.validation_data = NULL;
        if (kd_trainer_open(p[i].m, &to->data, &d, &p[i].t) != KD_OK) return kd_complain(s, "training");
    }
    return 1;
}

/* How many images the first has seen more than the second. */
static int64_t peers_apart(const peer *p)
{
    return kd_trainer_position(p[0].t).images - kd_trainer_position(p[1].t).images;
}

/* Takes both up where an earlier run left them. Of a run that was ended between two checkpoints, one may be older:
   then both begin again. */
static int peers_resume(session *s, watch *w, const report_trial *t, uint64_t seed, task *to, peer *p)
{
    const int most = s->o.batch < s->fit.data.count ? s->o.batch + 1 : s->fit.data.count; /* images of a step */
    if (!resume_load(s, p[0].t, p[0].training, w->run) || !resume_load(s, p[1].t, p[1].training, NULL)) return 0;
    if (peers_apart(p) >= 0 && peers_apart(p) <= most) return 1;
    peers_close(p);
    return peers_open(s, w, t, seed, to, p);
}

static int peers_save(const session *s, const peer *p, const report_run *run)
{
    return resume_save(s, p[0].t, p[0].training, run) && resume_save(s, p[1].t, p[1].training, NULL);
}

/* A step of each in turn: whoever is behind has the next one. */
static int peers_step(const peer *p, kd_result *result)
{
    const int next = peers_apart(p) > 0;
    if (kd_trainer_done(p[next].t)) return 0;
    *result = kd_trainer_step(p[next].t, NULL);
    return *result == KD_OK;
}

/* Trains two students, each of which learns from the labels and from what the other says (Zhang et al. 2018). */
static int train_peers(session *s, stage *g, const report_trial *t, uint64_t seed, report_run *run, kd_model **out)
{
    peer p[2] = {{NULL, NULL, 0}, {NULL, NULL, 0}};
    double saved = seconds_now();
    kd_result result = KD_OK;
    task to;
    watch w;
    int good;
    w.g = g, w.run = run, w.lines = 0;
    g->before = g->done;
    p[0].training = s->trainings++, p[1].training = s->trainings++;
    good = peers_open(s, &w, t, seed, &to, p) && (!s->o.resume || peers_resume(s, &w, t, seed, &to, p));
    if (good) g->done += kd_trainer_position(p[0].t).images, g->resumed += kd_trainer_position(p[0].t).images;
    while (good && peers_step(p, &result)) {
        if (peers_apart(p) || kd_trainer_position(p[1].t).step ||
            seconds_now() - saved < SECONDS_BETWEEN_CHECKPOINTS)
            continue;
        good = peers_save(s, p, run);
        saved = seconds_now();
    }
    if (good && result >= 0) good = peers_save(s, p, run);
    peers_close(p);
    s->training = p[0].m; /* what is shown of a training that was stopped */
    kd_model_destroy(p[1].m);
    if (good && result == KD_STOPPED) return stop_here(s);
    progress_wipe();
    if (!good || result < 0) return good ? kd_complain(s, "training") : 0;
    *out = p[0].m;
    s->training = NULL;
    return 1;
}
