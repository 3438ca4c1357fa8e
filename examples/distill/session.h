/* session.h - what one run of distill holds, its progress on the console, and its files. A part of distill.c. */

/* ---- what one run of the program holds ------------------------------------------------------------------- */

/* The training images, apart: those to learn from, and those held out. */
typedef struct part {
    uint8_t *pixels;
    int32_t *labels;
    int32_t
        *origin; /* number of each among all training images, behind which are those of a folder to choose with */
    float *teacher_logits;
    kd_data data;
} part;

/* What a student with a teacher minimises: weights[i] times losses[which[i]], and the losses on features. */
enum { MAX_LAYERS = 400 };
typedef struct objective {
    int which[MAX_LIST], count;
    float weights[MAX_LIST];
    int temperature, alpha; /* the first term that has one, -1: none */
    int first;              /* that whose temperature is chosen, or else the first that has a teacher */
    kd_feature_loss features[MAX_LIST];
    int feature_count;
    char layers[MAX_LIST][4][MAX_LAYERS]; /* names, to which features point */
} objective;

/* The ways of training the student, in the order in which they run; report_way.name and title. Those without a
   teacher come first: what they reach says whether the teacher is worth learning from. */
enum { ALONE, SMOOTHED, DISTILLED, PATIENT, PRUNED, MUTUAL, ASSISTED, REBORN, ROBUST, WAY_COUNT };
static const char *const way_names[WAY_COUNT][2] = {{"alone", "student alone"},
                                                    {"smoothed", "student, labels smoothed"},
                                                    {"distilled", "student distilled"},
                                                    {"patient", "student distilled, patient"},
                                                    {"pruned", "student pruned and distilled"},
                                                    {"mutual", "student, one of two"},
                                                    {"assisted", "student of an assistant"},
                                                    {"reborn", "student born again"},
                                                    {"robust", "student under attack"}};

/* Students in int8, with --int8. */
enum { INT8_PTQ, INT8_ALONE, INT8_DISTILLED, INT8_COUNT };

/* What suits the images, where the options leave it open. */
typedef struct plan {
    int epochs, trial_epochs, teacher_epochs;
    char augment[MAX_WORDS], teacher_augment[MAX_WORDS]; /* as --augment takes them */
} plan;

/* Logits that another program kept, and whose they are. */
typedef struct kept_rows {
    const char *path;
    kd_array array; /* (rows, width) */
    int rows, width;
    char **names; /* the image of each row; NULL: rows have the order of the images */
} kept_rows;

/* What a student may take, 0: as much as it likes, and the least of those that take more. */
typedef struct fitting {
    kd_cost most, least;
} fitting;

/* A student that is trained beside the others, to compare with. */
typedef struct rival {
    char spec[MAX_SPEC];
    kd_cost cost;
    kd_model **models; /* (seeds) */
    report_run *runs;  /* (seeds) */
} rival;

typedef struct session {
    options o;
    plan plan;
    kd_augment augment, teacher_augment;
    objective objective;
    fitting fitting;
    float *class_weights; /* (classes); NULL: all count as many images as they have */
    rival rivals[MAX_LIST];
    kd_optimizer optimizer;
    kd_ctx *kd;
    images images;
    part fit, held, all; /* all: those to learn from and those without labels, where there are any */
    kd_data test;
    kd_model *teacher, *training, *kept; /* training: what Ctrl-C would save; kept: the student to be shipped */
    kd_model *pretrained;                /* on hidden words: what teachers start from; NULL: none */
    int hidden_passes;                   /* over the texts, that it has learned from */
    double hidden_told[2];    /* share of the letters hidden in held-out texts that it tells: before, and after */
    kd_model *more[MAX_LIST]; /* teachers after the first, and behind them that in training */
    int more_count;
    const kd_model *averaged[MAX_LIST]; /* all of them, where there are several, or teacher and students */
    float average_weights[MAX_LIST];
    int averaged_count;
    kd_model *assistants[MAX_LIST]; /* each learned from the one before, the first from the teacher */
    int assistant_count;
    const kd_model *elder;     /* what a student of a student learns from now */
    kd_model **students;       /* (WAY_COUNT, seeds): the final ones, until they are tested */
    char how[WAY_COUNT][1100]; /* what each way was trained with, in words */
    kd_cache
        *cache[WAY_COUNT]; /* what the teacher says of each view of the images; NULL: it is asked in training */
    float *teacher_test, *student_test; /* logits of the test images */
    kept_rows rows_train, rows_test, rows_check;
    int *columns;        /* of each class, where a teacher may have others; NULL: not known yet */
    char **column_names; /* of --teacher-columns FILE */
    int column_count;
    kd_model **int8_students; /* (INT8_COUNT, seeds) */
    int int8_way[INT8_COUNT]; /* of the report */
    char int8_how[INT8_COUNT][128];
    int int8_kept_kind, int8_kept_seed;
    report_model int8_model;
    int own_output;  /* what is in the output folder may be replaced */
    int made_output; /* folders of its path that were not there before */
    int telling;     /* what the library logs is shown */
    int64_t *confusion;
    report_tree tree;
    report_setting settings[24 + REPORT_WAYS + 2 * MAX_LIST];
    report r;
    char teacher_spec[MAX_SPEC], student_spec[MAX_SPEC];
    char larger_spec[MAX_SPEC]; /* what the student is pruned from; empty: nothing */
    int prompts;                /* numbers that its layer prompt or sidetokens takes */
    int trainings;              /* begun so far: each has a checkpoint of its own */
    char command[MAX_PATH];     /* as it was typed */
    double started;
} session;

static volatile sig_atomic_t interrupted;

/* The second Ctrl-C ends the program at once. */
static void on_interrupt(int number)
{
    interrupted = 1;
    signal(number, SIG_DFL);
}

static double seconds_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int kd_complain(const session *s, const char *doing) { return complain("%s: %s", doing, kd_error(s->kd)); }

/* ---- progress -------------------------------------------------------------------------------------------- */

/* A part of the work whose speed is even, so that the time left can be told. */
typedef struct stage {
    session *s;
    const char *name;
    char now[64];                         /* "epoch 3 of 12" */
    int64_t done, total, before, resumed; /* images; resumed: done by an earlier run */
    int64_t told, told_resumed;           /* of these, what the lines so far have told of */
    double started, drawn;
    int terminal;
} stage;

static stage stage_begin(session *s, const char *name, int64_t total)
{
    stage g;
    memset(&g, 0, sizeof g);
    g.s = s;
    g.name = name;
    g.total = total;
    g.started = seconds_now();
    g.terminal = isatty(STDERR_FILENO);
    return g;
}

static report_text time_text(double seconds)
{
    report_text t;
    if (seconds < 90)
        snprintf(t.chars, sizeof t.chars, "%.0f s", seconds);
    else if (seconds < 5400)
        snprintf(t.chars, sizeof t.chars, "%.0f min", seconds / 60);
    else
        snprintf(t.chars, sizeof t.chars, "%.1f h", seconds / 3600);
    return t;
}

/* "7 210 images/s, 21 s left", or briefly the time alone. What an earlier run did has no speed. */
static void stage_speed(const stage *g, int brief, char *text, size_t size)
{
    char pace[48] = "", words[32];
    const double taken = seconds_now() - g->started, done = (double)(g->done - g->resumed),
                 rate = done > 0 && taken > 0 ? done / taken : 0;
    const double left = rate > 0 ? (double)(g->total - g->done) / rate : 0;
    if (!brief)
        snprintf(pace, sizeof pace, images_reword("%.32s images/s, ", words, sizeof words),
                 report_count((int64_t)rate).chars);
    if (!(rate > 0))
        *text = 0;
    else if (g->done < g->total)
        snprintf(text, size, "%s%s left", pace, time_text(left).chars);
    else
        snprintf(text, size, "%stook %s", pace, time_text(taken).chars);
}

static void stage_draw(stage *g)
{
    enum { WIDTH = 30 };
    char bar[WIDTH + 1], speed[128], line[320];
    const double share = g->total ? (double)g->done / (double)g->total : 0;
    const int full = (int)(share * WIDTH);
    const double now = seconds_now();
    if (!g->terminal || now - g->drawn < 0.1) return;
    g->drawn = now;
    memset(bar, '.', WIDTH);
    memset(bar, '#', (size_t)full);
    bar[WIDTH] = 0;
    stage_speed(g, 0, speed, sizeof speed);
    progress_wipe();
    fflush(stdout);
    snprintf(line, sizeof line, "  %s %s [%s] %2.0f %%  %s", g->name, g->now, bar, 100 * share, speed);
    progress_drawn = fprintf(stderr, "%.*s", columns_of(stderr) - 1, line); /* a longer one could not be wiped */
    fflush(stderr);
}

/* A line that stays, with the speed behind it, or where all that it tells of comes from; as much of that as a
   terminal has room for. */
static void stage_line(stage *g, const char *format, ...)
#if defined(__GNUC__)
    __attribute__((format(printf, 2, 3)))
#endif
    ;

static void stage_line(stage *g, const char *format, ...)
{
    const int columns = columns_of(stdout),
              replayed = g->done > g->told && g->done - g->told == g->resumed - g->told_resumed;
    char speed[128], text[1024];
    va_list args;
    progress_wipe();
    stage_speed(g, 0, speed, sizeof speed);
    if (replayed) snprintf(speed, sizeof speed, "from the run before");
    g->told = g->done;
    g->told_resumed = g->resumed;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (columns && (int)(strlen(text) + strlen(speed)) + 3 > columns && !replayed)
        stage_speed(g, 1, speed, sizeof speed);
    if (columns && (int)(strlen(text) + strlen(speed)) + 3 > columns) *speed = 0;
    say(*speed ? "%s   %s\n" : "%s%s\n", text, speed);
    fflush(stdout);
}

/* ---- files ----------------------------------------------------------------------------------------------- */

static void output_path(const session *s, const char *name, char *path)
{
    snprintf(path, MAX_PATH, "%s/%s", s->o.out, name);
}

static int is_same_file(const char *path, const struct stat *other)
{
    struct stat info;
    return stat(path, &info) == 0 && info.st_dev == other->st_dev && info.st_ino == other->st_ino;
}

/* Whether a file of the output folder begins so that only distill can have written it. */
static int is_own_file(const session *s, const char *name, const char *first)
{
    char path[MAX_PATH], text[64] = {0};
    FILE *f;
    output_path(s, name, path);
    f = fopen(path, "rb");
    if (f) text[fread(text, 1, sizeof text - 1, f)] = 0;
    if (f) fclose(f);
    return strncmp(text, first, strlen(first)) == 0;
}

/* No file that is read may be one that is written. */
static int check_not_read(const session *s, const char *path)
{
    const char *const inputs[] = {s->o.teacher_weights, s->o.teacher_test, s->o.teacher_names, s->o.teacher_columns,
                                  s->o.teacher_check};
    const texts *teachers = &s->o.teachers_given;
    struct stat info;
    int i;
    if (stat(path, &info) != 0) return 1;
    for (i = 0; i < teachers->count; ++i) {
        if (is_same_file(teachers->values[i], &info))
            return complain("%s is read, and %s would replace it; give another --out", teachers->values[i], path);
    }
    for (i = 0; i < KD__COUNT(inputs); ++i) {
        if (*inputs[i] && is_same_file(inputs[i], &info))
            return complain("%s is read, and %s would replace it; give another --out", inputs[i], path);
    }
    return 1;
}

/* "teacher.safetensors", "teacher-2.safetensors" ... */
static void numbered_file(const char *what, int index, char *name, size_t size)
{
    if (index == 0) snprintf(name, size, "%s.safetensors", what);
    if (index > 0) snprintf(name, size, "%s-%d.safetensors", what, index + 1);
}

/* A file that is read is not written, and what others have put there is not replaced. */
static int check_output_file(const session *s, const char *name)
{
    char path[MAX_PATH];
    struct stat info;
    output_path(s, name, path);
    if (stat(path, &info) != 0) return 1;
    if (!check_not_read(s, path)) return 0;
    return s->own_output ||
           complain("%s is there, and not from a run of distill; give another --out, or --force to replace it",
                    path);
}

static int check_replaced(session *s)
{
    static const char *const outputs[] = {"student.safetensors",
                                          "student_int8.safetensors",
                                          "student_robust.safetensors",
                                          "checkpoint.safetensors",
                                          "metrics.json",
                                          "report.html"};
    const int given = s->o.teachers_given.count, trained = s->o.teachers;
    struct stat info;
    char name[64];
    int i;
    s->own_output = s->o.force || is_own_file(s, "metrics.json", "{\n  \"version\": \"") ||
                    is_own_file(s, "resume/options.txt", option_table[0].name);
    for (i = 0; i < KD__COUNT(outputs) && !s->o.write_order; ++i) {
        if (!check_output_file(s, outputs[i])) return 0;
    }
    for (i = 0; i < (given > trained ? given : trained) && !s->o.write_order; ++i) {
        numbered_file("teacher", i, name, sizeof name);
        if (!check_output_file(s, name)) return 0;
    }
    for (i = 0; i < s->o.assistant.count && !s->o.write_order; ++i) {
        numbered_file("assistant", i, name, sizeof name);
        if (!check_output_file(s, name)) return 0;
    }
    return stat(s->o.out, &info) != 0 || !is_same_file(s->o.folder, &info) ||
           complain("the images are in %s; give another --out", s->o.out);
}

/* The folder, and those that it is to lie in. */
static int make_output(session *s)
{
    char path[MAX_PATH];
    char *slash;
    snprintf(path, sizeof path, "%s", s->o.out);
    for (slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = 0;
        s->made_output += mkdir(path, 0777) == 0; /* what fails here fails below */
        *slash = '/';
    }
    if (mkdir(path, 0777) != 0) return errno == EEXIST;
    ++s->made_output;
    return 1;
}

/* What was made and holds nothing goes again. */
static void drop_output(const session *s)
{
    char path[MAX_PATH];
    int i;
    snprintf(path, sizeof path, "%s", s->o.out);
    for (i = 0; i < s->made_output && rmdir(path) == 0; ++i) {
        char *slash = strrchr(path, '/');
        if (slash) *slash = 0;
    }
}

/* Makes the folder and proves, before any work is done, that files can be written there. */
static int check_output(session *s)
{
    char path[MAX_PATH];
    FILE *f;
    if (strlen(s->o.out) == 0 || strlen(s->o.out) > MAX_PATH - 64)
        return complain("--out needs the name of a folder");
    if (!check_replaced(s)) return 0;
    if (!make_output(s)) return complain("the output folder %s cannot be made: %s", s->o.out, strerror(errno));
    output_path(s, "distill.kd-tmp", path);
    f = fopen(path, "wb");
    if (!f) return complain("nothing can be written into the output folder %s: %s", s->o.out, strerror(errno));
    fclose(f);
    (void)remove(path);
    return 1;
}

/* A text file that appears under its name only once it is complete. */
static FILE *output_open(const session *s, const char *name, char *path)
{
    FILE *f;
    output_path(s, name, path);
    strcat(path, ".kd-tmp");
    f = fopen(path, "wb");
    if (!f) (void)complain("%s cannot be written: %s", path, strerror(errno));
    return f;
}

static int output_close(const session *s, const char *name, FILE *f, int good)
{
    char from[MAX_PATH + 8], to[MAX_PATH];
    output_path(s, name, to);
    snprintf(from, sizeof from, "%s.kd-tmp", to);
    good = good && fflush(f) == 0 && fsync(fileno(f)) == 0;
    good = fclose(f) == 0 && good;
    if (good && rename(from, to) == 0) return 1;
    (void)remove(from);
    return complain("%s cannot be written: %s", to, strerror(errno));
}

/* Seeds of models beside those of the ways, which have one for each seed and trial. */
enum { MORE_SEEDS = 1000003 };

static int save_model(const session *s, const kd_model *m, const char *name)
{
    char path[MAX_PATH];
    output_path(s, name, path);
    return kd_model_save(m, path) == KD_OK ? 1 : kd_complain(s, "saving a model");
}

/* How its images were brought to their size, for a model that does not know. */
static kd_result know_framing(const session *s, kd_model *m)
{
    char words[64];
    if (*kd_model_framing(m)) return KD_OK;
    images_framing_words(&s->images.framing, words, sizeof words);
    return kd_model_set_framing(m, *words || !s->images.resized ? words : "crop");
}

/* With the names of the classes, and the preprocessing of the images unless it has one of its own. */
static int save_known(const session *s, kd_model *m, const char *name)
{
    if (kd_model_set_classes(m, (const char *const *)s->images.class_names, s->images.class_count) != KD_OK ||
        (!s->images.are_texts && !kd_model_preprocessing(m, NULL, NULL) &&
         kd_model_set_preprocessing(m, s->fit.data.mean, s->fit.data.std) != KD_OK) ||
        know_framing(s, m) != KD_OK)
        return kd_complain(s, name);
    return save_model(s, m, name);
}

static int64_t file_bytes(const session *s, const char *name)
{
    char path[MAX_PATH];
    struct stat st;
    output_path(s, name, path);
    return stat(path, &st) == 0 ? (int64_t)st.st_size : 0;
}
