/* int8.h - distill's students in int8, made so after training or trained with rounding. A part of distill.c. */

/* ---- int8 ------------------------------------------------------------------------------------------------ */

/* What is compared, all of the same student and as large: the distilled ones made int8 as they are; those that were
   trained alone, and the distilled, trained further with rounded weights and values. report_way.name and title. */
static const struct {
    const char *name, *title;
    int from, aware; /* the way whose students these are; trained further */
} int8_table[INT8_COUNT] = {{"ptq", "int8, after distilling", DISTILLED, 0},
                            {"int8_alone", "int8, trained alone", ALONE, 1},
                            {"int8", "int8, distilled", DISTILLED, 1}};

/* Of the epochs of the student itself, and of its learning rate: it knows its task, and learns to live with the
   rounding. */
static const double INT8_EPOCHS = 0.5, INT8_LR = 0.3;

static report_trial int8_setting(const session *s, int which)
{
    const report_way *from = &s->r.ways[int8_table[which].from];
    report_trial t = from->grid[from->chosen];
    t.epochs = (int)(way_epochs(s, int8_table[which].from, s->plan.epochs) * INT8_EPOCHS + 0.5);
    if (t.epochs < 1) t.epochs = 1;
    t.lr *= INT8_LR;
    return t;
}

static int add_int8_ways(session *s)
{
    int which;
    for (which = 0; which < INT8_COUNT && s->o.int8; ++which) {
        s->int8_way[which] = report_way_add(&s->r, int8_table[which].name, int8_table[which].title);
        if (s->int8_way[which] < 0) return complain("there is not enough memory for the results");
        s->r.ways[s->int8_way[which]].apart = 1;
    }
    return 1;
}

/* Trains a copy of a student that rounds as int8 does. */
static int train_rounded(session *s, stage *g, int which, int seed, const kd_model *student, report_run *run,
                         kd_model **out)
{
    const report_trial t = int8_setting(s, which);
    task to;
    watch w;
    kd_train_desc d;
    w.g = g, w.run = run, w.lines = 0;
    if (!run_open(run, t.epochs)) return 0;
    d = student_options(s, &w, int8_table[which].from, &t, (uint64_t)(s->o.first_seed + seed), &to);
    if (kd_model_prepare_int8(student, &s->fit.data, NULL, &s->training) != KD_OK)
        return kd_complain(s, "rounding a student");
    if (!train(s, g, &to.data, &d, run)) return 0;
    *out = s->training;
    s->training = NULL;
    return 1;
}

/* One student in int8, and what it gets right of the held-out images, computed with integers. */
static int make_int8(session *s, stage *g, int which, int seed)
{
    const int way = s->int8_way[which], from = int8_table[which].from;
    report_run *run = &s->r.ways[way].runs[seed];
    kd_model *student = s->students[from * s->o.seeds + seed], *rounded = NULL, *m = NULL;
    kd_metrics metrics;
    kd_result result;
    if (int8_table[which].aware && !train_rounded(s, g, which, seed, student, run, &rounded)) return 0;
    result = kd_model_quantize(rounded ? rounded : student, &s->fit.data, NULL, &m);
    kd_model_destroy(rounded);
    if (result != KD_OK) return kd_complain(s, "making a student int8");
    s->int8_students[which * s->o.seeds + seed] = m;
    run->held_out = -1;
    if (s->held.data.count < 1) return 1;
    if (kd_evaluate(m, &s->held.data, &metrics) != KD_OK) return kd_complain(s, "evaluating an int8 student");
    run->held_out = metrics.accuracy;
    return 1;
}

/* The int8 student to ship, chosen as the other one is. */
static void choose_int8(session *s)
{
    const int seeds = s->o.seeds;
    int which, i;
    s->int8_kept_kind = INT8_DISTILLED, s->int8_kept_seed = 0;
    for (which = 0; which < INT8_COUNT && s->held.data.count; ++which) {
        if (held_out_mean(s, s->int8_way[which]) > held_out_mean(s, s->int8_way[s->int8_kept_kind]))
            s->int8_kept_kind = which;
    }
    for (i = 1; i < seeds && s->held.data.count; ++i) {
        const report_run *runs = s->r.ways[s->int8_way[s->int8_kept_kind]].runs;
        if (runs[i].held_out > runs[s->int8_kept_seed].held_out) s->int8_kept_seed = i;
    }
}

/* All students in int8, before anything is tested. */
static int make_int8_students(session *s)
{
    const double started = seconds_now();
    char words[64];
    int which, i;
    if (!s->o.int8) return 1;
    s->int8_students = (kd_model **)calloc((size_t)(INT8_COUNT * s->o.seeds), sizeof(kd_model *));
    if (!s->int8_students) return complain("there is not enough memory for the int8 students");
    printf("\nThe student in int8: its accuracy is that of the integers\n");
    for (which = 0; which < INT8_COUNT; ++which) {
        const report_trial t = int8_setting(s, which);
        const kd_data *data = way_data(s, int8_table[which].from);
        stage g = stage_begin(s, int8_table[which].title,
                              int8_table[which].aware ? (int64_t)s->o.seeds * t.epochs * data->count : 0);
        if (int8_table[which].aware)
            snprintf(s->int8_how[which], sizeof s->int8_how[which],
                     "%d more epoch%s with rounding, learning rate %g", t.epochs, plural(t.epochs), t.lr);
        else
            snprintf(s->int8_how[which], sizeof s->int8_how[which], "%s",
                     images_reword("ranges of least squared error on training images", words, sizeof words));
        s->r.ways[s->int8_way[which]].how = s->int8_how[which];
        for (i = 0; i < s->o.seeds; ++i) {
            snprintf(g.now, sizeof g.now, "%d of %d", i + 1, s->o.seeds);
            if (!make_int8(s, &g, which, i)) return 0;
        }
        if (s->held.data.count)
            stage_line(&g, "  %-24s held-out accuracy %.2f %%", int8_table[which].title,
                       100 * held_out_mean(s, s->int8_way[which]));
    }
    progress_wipe();
    report_time(&s->r, "int8", seconds_now() - started);
    choose_int8(s);
    return 1;
}

static const kd_model *kept_int8(const session *s)
{
    return s->int8_students[s->int8_kept_kind * s->o.seeds + s->int8_kept_seed];
}

static int test_int8_students(session *s)
{
    int which, i;
    for (which = 0; which < INT8_COUNT && s->o.int8; ++which) {
        for (i = 0; i < s->o.seeds; ++i) {
            if (!test_model(s, s->int8_students[which * s->o.seeds + i], &s->r.ways[s->int8_way[which]].runs[i],
                            s->student_test, NULL))
                return 0;
            report_answers(&s->r, s->int8_way[which], s->student_test);
        }
    }
    return 1;
}

/* The file, and how large and fast what is in it is. */
static int save_int8(session *s)
{
    if (!s->o.int8) return 1;
    s->int8_model = s->r.student;
    if (!save_model(s, kept_int8(s), "student_int8.safetensors") ||
        !measure_latency(s, "student_int8.safetensors", &s->int8_model.latency_us))
        return 0;
    s->int8_model.bytes = file_bytes(s, "student_int8.safetensors");
    return 1;
}

/* Whether a line of the table is about int8. */
static int is_int8_way(const session *s, int way)
{
    int which;
    for (which = 0; which < INT8_COUNT && s->o.int8; ++which) {
        if (s->int8_way[which] == way) return 1;
    }
    return 0;
}

static void print_int8(const session *s)
{
    const report_way *kept, *float_way = &s->r.ways[DISTILLED];
    report_statistic difference;
    if (!s->o.int8) return;
    kept = &s->r.ways[s->int8_way[s->int8_kept_kind]];
    difference = report_paired(kept->runs, float_way->runs, s->o.seeds);
    printf("In int8 (%s): %+.2f points against the distilled student in float", kept->title, 100 * difference.mean);
    if (s->o.seeds > 1) printf(" (standard error %.2f)", 100 * difference.error);
    printf("; seed %d is %s/student_int8.safetensors\n", s->o.first_seed + s->int8_kept_seed, s->o.out);
}
