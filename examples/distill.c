/* distill.c - distil an image classifier: train a teacher, distil it into a student, report what that brought

       cc -O2 -fopenmp -o distill examples/distill.c -lm         (needs stb: apt-get install libstb-dev)
       ./distill examples/data/fashion

   Everything is trained on the same images: a share of the training images is held out to choose temperature and
   alpha with, and the test images are looked at once, at the end. */
#if !defined(_POSIX_C_SOURCE) && !defined(__APPLE__)
#define _POSIX_C_SOURCE 200809L /* clock_gettime, fsync, sigaction */
#endif
#define KD_IMPLEMENTATION
#include "../kd.h"
#include "images.h"
#include "report.h"

#include <errno.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

/* ---- options --------------------------------------------------------------------------------------------- */

enum { MAX_LIST = 16, EXIT_INTERRUPTED = 130, MAX_SPEC = 2048, MAX_PATH = 4096 };

typedef struct list {
    double values[MAX_LIST];
    int count;
} list;

typedef struct options {
    const char *folder, *teacher, *teacher_weights, *teacher_test, *student, *augment, *teacher_augment, *loss,
        *optimizer, *out, *isa;
    list temperature, alpha, mean, std;
    int epochs, teacher_epochs, batch, seeds, first_seed, trials, threads, size, channels, limit, resume;
    double lr, teacher_lr, weight_decay, validation, test_share, max_skipped;
} options;

typedef enum kind { OPTION_TEXT, OPTION_INT, OPTION_REAL, OPTION_LIST, OPTION_FLAG } kind;

/* name, argument, kind, field, least, most, default, what --help says */
#define OPTIONS(X)                                                                                                 \
    X("teacher", "SPEC|FILE", OPTION_TEXT, teacher, 0, 0, "",                                                      \
      "what to train as teacher, as a model line (above); or a .safetensors file of a trained one; or a .npy "     \
      "file with "                                                                                                 \
      "its logits for the training images, in the order of their names (a class folder at a time), shape "         \
      "(images, "                                                                                                  \
      "classes)")                                                                                                  \
    X("teacher-weights", "FILE", OPTION_TEXT, teacher_weights, 0, 0, "",                                           \
      "weights for the model line of --teacher from a .safetensors file that has none, such as PyTorch's")         \
    X("mean", "M[,M...]", OPTION_LIST, mean, -1e6, 1e6, "",                                                        \
      "of each channel, subtracted from pixels of 0 to 1, and")                                                    \
    X("std", "D[,D...]", OPTION_LIST, std, 1e-6, 1e6, "",                                                          \
      "deviation that they are then divided by, as in torchvision's Normalize: what a teacher from elsewhere "     \
      "was trained with; if not given, as a .safetensors teacher says, or those of the training images")           \
    X("teacher-test", "FILE", OPTION_TEXT, teacher_test, 0, 0, "",                                                 \
      "with a .npy teacher: its logits for the test images, to compare with")                                      \
    X("student", "SPEC", OPTION_TEXT, student, 0, 0, "", "what to train as student, as a model line")              \
    X("temperature", "T[,T...]", OPTION_LIST, temperature, 1e-3, 1e3, "2,4", "temperatures to choose from")        \
    X("alpha", "A[,A...]", OPTION_LIST, alpha, 0, 1, "0.7,0.9",                                                    \
      "weights of the teacher's part in the loss to choose from; the labels have the rest")                        \
    X("loss", "NAME", OPTION_TEXT, loss, 0, 0, "hinton",                                                           \
      "hinton, kl (no labels), mse (on logits), rkl, jsd, softce, centredmse, dkd, nkd, dist, ttm, wttm, mlld, "   \
      "ctkd: all else as published")                                                                               \
    X("validation", "SHARE", OPTION_REAL, validation, 0, 0.5, "0.1",                                               \
      "share of the training images held out to choose temperature and alpha with")                                \
    X("trials", "N", OPTION_INT, trials, 1, 100, "2", "students trained for each temperature and alpha")           \
    X("epochs", "N", OPTION_INT, epochs, 1, 100000, "30", "passes over the images for each student")               \
    X("teacher-epochs", "N", OPTION_INT, teacher_epochs, 1, 100000, "16", "passes for the teacher")                \
    X("batch", "N", OPTION_INT, batch, 1, 65536, "64", "images a step")                                            \
    X("optimizer", "NAME", OPTION_TEXT, optimizer, 0, 0, "adam", "adam, adamw or sgd")                             \
    X("lr", "RATE", OPTION_REAL, lr, 1e-9, 100, "0.002", "learning rate of the students, lowered along a cosine")  \
    X("teacher-lr", "RATE", OPTION_REAL, teacher_lr, 1e-9, 100, "0.001", "learning rate of the teacher, likewise") \
    X("weight-decay", "W", OPTION_REAL, weight_decay, 0, 10, "0", "of teacher and students")                       \
    X("augment", "WORDS", OPTION_TEXT, augment, 0, 0, "",                                                          \
      "random changes to training images: flip, shift=2, rotate=10, brightness=0.2, contrast=0.2, "                \
      "saturation=0.2, "                                                                                           \
      "cutout=8, mixup=0.2, joined by commas")                                                                     \
    X("teacher-augment", "WORDS", OPTION_TEXT, teacher_augment, 0, 0, "",                                          \
      "other changes, or \"none\", for the teacher's own training; if not given, the same")                        \
    X("seeds", "N", OPTION_INT, seeds, 1, 1000, "5",                                                               \
      "students trained alone, as many with smoothed labels, and as many distilled")                               \
    X("seed", "N", OPTION_INT, first_seed, 0, 1000000000, "1",                                                     \
      "the first seed; everything random follows from it")                                                         \
    X("threads", "N", OPTION_INT, threads, 0, 256, "0", "0: one for each processor; results do not depend on it")  \
    X("isa", "NAME", OPTION_TEXT, isa, 0, 0, "auto", "instruction set: auto, scalar, avx2, avx512 or neon")        \
    X("size", "N", OPTION_INT, size, 0, 4096, "0", "resize images to NxN; 0: as they are")                         \
    X("channels", "N", OPTION_INT, channels, 0, 3, "0", "1 grey, 3 colour; 0: as the images are")                  \
    X("limit", "N", OPTION_INT, limit, 0, 1000000000, "0",                                                         \
      "use at most N training and N test images of each class")                                                    \
    X("test-share", "SHARE", OPTION_REAL, test_share, 0.001, 0.999, "0.2",                                         \
      "share of each class to test with, where there is no folder for that")                                       \
    X("max-skipped", "SHARE", OPTION_REAL, max_skipped, 0, 1, "0.01",                                              \
      "share of files that may be unreadable before that is an error")                                             \
    X("out", "FOLDER", OPTION_TEXT, out, 0, 0, "out", "where the results go")                                      \
    X("resume", "", OPTION_FLAG, resume, 0, 1, "",                                                                 \
      "go on where a run with the same options and output folder was stopped")

typedef struct option {
    const char *name, *argument;
    kind type;
    size_t field;
    double least, most;
    const char *standard, *help;
} option;

static const option option_table[] = {
#define X(name, argument, type, field, least, most, standard, help)                                                \
    {name, argument, type, offsetof(options, field), least, most, standard, help},
    OPTIONS(X)
#undef X
};
enum { OPTION_COUNT = (int)(sizeof option_table / sizeof *option_table) };

/* One sentence on stderr. Returns 0, for `return complain(...)`. */
static int complain(const char *format, ...)
#if defined(__GNUC__)
    __attribute__((format(printf, 1, 2)))
#endif
    ;

static int complain(const char *format, ...)
{
    va_list args;
    fflush(stdout);
    fputs("distill: ", stderr);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    return 0;
}

/* A help text, broken into lines that start at a column. */
static void print_wrapped(const char *text, int column)
{
    const int width = 100 - column;
    while (*text) {
        int length = (int)strlen(text);
        if (length > width) {
            for (length = width; length > 0 && text[length] != ' '; --length) {}
        }
        printf("%.*s\n", length, text);
        text += length;
        if (*text == ' ') ++text;
        if (*text) printf("%*s", column, "");
    }
}

static void print_help(void)
{
    enum { HELP_COLUMN = 2 + 2 + 15 + 1 + 10 + 1 };
    int i;
    puts("usage: distill IMAGES [options]\n"
         "\n"
         "Trains a large model, the teacher, on a folder of images, and then a small one, the student: alone, "
         "with smoothed\n"
         "labels, and distilled, which means that it also learns from the teacher's outputs. All are tested on "
         "images that nobody\n"
         "has seen before. Results: a table here, and in the output folder teacher.safetensors, "
         "student.safetensors,\n"
         "metrics.json and report.html, which you can open in a browser.\n"
         "\n"
         "IMAGES is a folder with train/<class>/*.jpg and test/<class>/*.jpg, or only <class>/*.jpg, which are "
         "then split;\n"
         "JPEG, PNG, BMP and PNM are read. Or one with MNIST's IDX files, also as .gz.\n"
         "\n"
         "A model line names layers in order, for example\n"
         "    conv 8 3 pad=1, relu, maxpool 2, dense 10          8 filters of 3x3, ..., 10 outputs\n"
         "    dense 64, relu, dropout 0.5, dense 10              a multilayer perceptron\n"
         "    softtree 5 10                                      a soft decision tree, which the report draws\n"
         "It may begin with the size of the images: \"1x28x28: dense 10\". kd.h describes all layers.\n"
         "\n"
         "Options (and what they are if not given):");
    for (i = 0; i < OPTION_COUNT; ++i) {
        const option *o = &option_table[i];
        printf("  --%-15s %-10s ", o->name, o->argument);
        print_wrapped(o->help, HELP_COLUMN);
        if (*o->standard) printf("%*s(%s)\n", HELP_COLUMN, "", o->standard);
    }
    puts("\nCtrl-C stops; the model in training is then in the output folder as checkpoint.safetensors, and "
         "--resume "
         "goes\non from there, to the same results.");
}

static const char *plural(int count) { return count == 1 ? "" : "s"; }

static int parse_number(const option *o, const char *text, char end, double *value, const char **rest)
{
    char *stop;
    *value = strtod(text, &stop);
    if (stop == text || (*stop && *stop != end)) return complain("--%s takes numbers, got \"%s\"", o->name, text);
    if (!(*value >= o->least && *value <= o->most))
        return complain("--%s must be %g to %g, got %.*s", o->name, o->least, o->most, (int)(stop - text), text);
    *rest = *stop ? stop + 1 : stop;
    return 1;
}

static int parse_option(const option *o, options *all, const char *text)
{
    void *field = (char *)all + o->field;
    double value;
    if (o->type == OPTION_TEXT) {
        *(const char **)field = text;
    } else if (o->type == OPTION_LIST) {
        list *l = (list *)field;
        l->count = 0;
        do {
            if (l->count == MAX_LIST) return complain("--%s takes up to %d numbers", o->name, (int)MAX_LIST);
            if (!parse_number(o, text, ',', &l->values[l->count++], &text)) return 0;
        } while (*text);
    } else {
        if (!parse_number(o, text, 0, &value, &text)) return 0;
        if (o->type == OPTION_INT && value != floor(value)) return complain("--%s takes whole numbers", o->name);
        if (o->type == OPTION_INT) *(int *)field = (int)value;
        if (o->type == OPTION_REAL) *(double *)field = value;
    }
    return 1;
}

/* Returns 1 to go on, 0 after a complaint, -1 after --help. */
static int parse_options(options *o, int argc, char **argv)
{
    int i, k;
    memset(o, 0, sizeof *o);
    for (k = 0; k < OPTION_COUNT; ++k) {
        const option *p = &option_table[k];
        if ((*p->standard || p->type == OPTION_TEXT) && !parse_option(p, o, p->standard)) return 0;
    }
    for (i = 1; i < argc; ++i) {
        const char *name = argv[i] + 2, *value = strchr(argv[i], '=');
        const size_t length = value ? (size_t)(value - name) : strlen(argv[i]) - (argv[i][0] == '-' ? 2 : 0);
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            print_help();
            return -1;
        }
        if (argv[i][0] != '-') {
            if (o->folder) return complain("one folder of images is enough, got %s and %s", o->folder, argv[i]);
            o->folder = argv[i];
            continue;
        }
        for (k = 0; k < OPTION_COUNT; ++k) {
            if (strncmp(argv[i], "--", 2) == 0 && strlen(option_table[k].name) == length &&
                memcmp(option_table[k].name, name, length) == 0)
                break;
        }
        if (k == OPTION_COUNT) return complain("there is no option %s; distill --help lists them", argv[i]);
        if (option_table[k].type == OPTION_FLAG) {
            if (value) return complain("--%s takes no value", option_table[k].name);
            *(int *)(void *)((char *)o + option_table[k].field) = 1;
            continue;
        }
        if (!value && ++i == argc) return complain("--%s needs a value", option_table[k].name);
        if (!parse_option(&option_table[k], o, value ? value + 1 : argv[i])) return 0;
    }
    if (!o->folder) return complain("which images? Try: distill examples/data/fashion, or distill --help");
    return 1;
}

/* "flip,shift=2", of the option of that name */
static int parse_augment(const char *name, const char *text, kd_augment *augment)
{
    static const struct {
        const char *word;
        int whole; /* takes a whole number, or 1 if none is given */
        size_t field;
        double most;
    } words[] = {
        {"flip", 1, offsetof(kd_augment, flip), 1},         {"shift", 1, offsetof(kd_augment, shift), 1000},
        {"rotate", 0, offsetof(kd_augment, rotate), 180},   {"brightness", 0, offsetof(kd_augment, brightness), 1},
        {"contrast", 0, offsetof(kd_augment, contrast), 1}, {"saturation", 0, offsetof(kd_augment, saturation), 1},
        {"cutout", 1, offsetof(kd_augment, cutout), 1000},  {"mixup", 0, offsetof(kd_augment, mixup), 100}};
    memset(augment, 0, sizeof *augment);
    if (strcmp(text, "none") == 0) return 1;
    while (*text) {
        const size_t length = strcspn(text, "=,");
        double value = 1;
        size_t i;
        for (i = 0; i < sizeof words / sizeof *words; ++i) {
            if (strlen(words[i].word) == length && memcmp(words[i].word, text, length) == 0) break;
        }
        if (i == sizeof words / sizeof *words)
            return complain("--%s does not know \"%.*s\"; distill --help lists the words", name, (int)length, text);
        text += length;
        if (*text == '=') {
            char *end;
            value = strtod(text + 1, &end);
            if (end == text + 1 || (*end && *end != ',') || !(value >= 0 && value <= words[i].most) ||
                (words[i].whole && value != floor(value)))
                return complain("--%s %s takes a %s up to %g, got \"%.*s\"", name, words[i].word,
                                words[i].whole ? "whole number" : "number", words[i].most,
                                (int)strcspn(text + 1, ","), text + 1);
            text = end;
        } else if (!words[i].whole) {
            return complain("--%s %s needs a value, as in %s=0.2", name, words[i].word, words[i].word);
        }
        value = fabs(value); /* no -0: that is not the same as nothing to memcmp */
        if (words[i].whole) *(int *)(void *)((char *)augment + words[i].field) = (int)value;
        if (!words[i].whole) *(float *)(void *)((char *)augment + words[i].field) = (float)value;
        if (*text == ',') ++text;
    }
    return 1;
}

/* ---- what one run of the program holds ------------------------------------------------------------------- */

/* The training images, apart: those to learn from, and those held out. */
typedef struct part {
    uint8_t *pixels;
    int32_t *labels;
    int32_t *origin; /* number of each among all training images */
    float *teacher_logits;
    kd_data data;
} part;

typedef struct session {
    options o;
    kd_augment augment, teacher_augment;
    int loss; /* which of losses */
    kd_optimizer optimizer;
    kd_ctx *kd;
    images images;
    part fit, held;
    kd_data test;
    kd_model *teacher, *training, *kept; /* training: what Ctrl-C would save; kept: the student to be shipped */
    kd_cache *cache;
    float *teacher_test, *student_test; /* logits of the test images */
    int64_t *confusion;
    report_choice *choices;
    report_tree tree;
    report_setting settings[16];
    report r;
    char teacher_spec[MAX_SPEC], student_spec[MAX_SPEC];
    int trainings; /* begun so far: each has a checkpoint of its own */
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
    double started, drawn;
    int terminal, drawn_length;
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

static void stage_wipe(stage *g)
{
    if (g->drawn_length) fprintf(stderr, "\r%*s\r", g->drawn_length, "");
    g->drawn_length = 0;
}

/* "7 210 images/s, 21 s left" */
static void stage_speed(const stage *g, char *text, size_t size)
{
    const double taken = seconds_now() - g->started, done = (double)(g->done - g->resumed),
                 rate = done > 0 && taken > 0 ? done / taken : 0;
    const double left = rate > 0 ? (double)(g->total - g->done) / rate : 0;
    if (g->done < g->total)
        snprintf(text, size, "%s images/s, %s left", report_count((int64_t)rate).chars, time_text(left).chars);
    else
        snprintf(text, size, "%s images/s, took %s", report_count((int64_t)rate).chars, time_text(taken).chars);
}

static void stage_draw(stage *g)
{
    enum { WIDTH = 30 };
    char bar[WIDTH + 1], speed[128];
    const double share = g->total ? (double)g->done / (double)g->total : 0;
    const int full = (int)(share * WIDTH);
    const double now = seconds_now();
    if (!g->terminal || now - g->drawn < 0.1) return;
    g->drawn = now;
    memset(bar, '.', WIDTH);
    memset(bar, '#', (size_t)full);
    bar[WIDTH] = 0;
    stage_speed(g, speed, sizeof speed);
    stage_wipe(g);
    fflush(stdout);
    g->drawn_length = fprintf(stderr, "  %s %s [%s] %2.0f %%  %s", g->name, g->now, bar, 100 * share, speed);
    fflush(stderr);
}

/* A line that stays, with the speed behind it. */
static void stage_line(stage *g, const char *format, ...)
#if defined(__GNUC__)
    __attribute__((format(printf, 2, 3)))
#endif
    ;

static void stage_line(stage *g, const char *format, ...)
{
    char speed[128];
    va_list args;
    stage_wipe(g);
    stage_speed(g, speed, sizeof speed);
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    printf("   %s\n", speed);
    fflush(stdout);
}

/* ---- files ----------------------------------------------------------------------------------------------- */

static void output_path(const session *s, const char *name, char *path)
{
    snprintf(path, MAX_PATH, "%s/%s", s->o.out, name);
}

/* Makes the folder and proves, before any work is done, that files can be written there. */
static int check_output(const session *s)
{
    char path[MAX_PATH];
    FILE *f;
    if (strlen(s->o.out) == 0 || strlen(s->o.out) > MAX_PATH - 64)
        return complain("--out needs the name of a folder");
    if (mkdir(s->o.out, 0777) != 0 && errno != EEXIST)
        return complain("the output folder %s cannot be made: %s", s->o.out, strerror(errno));
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

static int save_model(const session *s, const kd_model *m, const char *name)
{
    char path[MAX_PATH];
    output_path(s, name, path);
    return kd_model_save(m, path) == KD_OK ? 1 : kd_complain(s, "saving a model");
}

static int64_t file_bytes(const session *s, const char *name)
{
    char path[MAX_PATH];
    struct stat st;
    output_path(s, name, path);
    return stat(path, &st) == 0 ? (int64_t)st.st_size : 0;
}

/* ---- the images ------------------------------------------------------------------------------------------ */

static void print_noticed(int count, const char *what)
{
    if (count > 0) printf("  note: %d %s\n", count, what);
}

static int load_images(session *s)
{
    const images *im = &s->images;
    images_options io = images_defaults();
    int i;
    io.size = s->o.size;
    io.channels = s->o.channels;
    io.test_share = s->o.test_share;
    io.max_skipped = s->o.max_skipped;
    io.limit = s->o.limit;
    io.seed = (uint64_t)s->o.first_seed;
    if (!images_load(&s->images, s->o.folder, &io)) return complain("%s", s->images.error);
    for (i = 0; i < s->images.skipped && i < IMAGES_LISTED; ++i) printf("  skipped: %s\n", s->images.listed[i]);
    if (s->images.skipped > IMAGES_LISTED) printf("  ... and %d more\n", s->images.skipped - IMAGES_LISTED);
    print_noticed(im->unsupported, "files of other formats were left out; JPEG, PNG, BMP and PNM are read");
    print_noticed(im->rotated, "photos say in EXIF that they are to be turned; they are taken as they lie");
    print_noticed(im->resized,
                  "images were brought to this size, and their edges cut off where they are no squares");
    if (s->images.class_count < 2)
        return complain("%s has one class, %s; a classifier needs at least two", s->o.folder,
                        s->images.class_names[0]);
    return 1;
}

typedef struct drawn {
    uint64_t lot;
    int label, index;
} drawn;

static int by_label_and_lot(const void *a, const void *b)
{
    const drawn *x = (const drawn *)a, *y = (const drawn *)b;
    if (x->label != y->label) return x->label < y->label ? -1 : 1;
    return x->lot < y->lot ? -1 : x->lot > y->lot;
}

static int part_open(session *s, part *p, int capacity)
{
    const images *im = &s->images;
    const size_t image = (size_t)im->channels * (size_t)im->height * (size_t)im->width;
    p->pixels = (uint8_t *)images_memory((size_t)capacity + 1, image);
    p->labels = (int32_t *)images_memory((size_t)capacity + 1, sizeof *p->labels);
    p->origin = (int32_t *)images_memory((size_t)capacity + 1, sizeof *p->origin);
    if (!p->pixels || !p->labels || !p->origin)
        return complain("there is not enough memory for %d images", capacity);
    p->data = kd_data_u8(p->pixels, p->labels, 0, im->channels, im->height, im->width, im->class_count);
    return 1;
}

static void part_add(const session *s, part *p, int index)
{
    const images *im = &s->images;
    const size_t image = (size_t)im->channels * (size_t)im->height * (size_t)im->width;
    memcpy(p->pixels + (size_t)p->data.count * image, im->train.pixels + (size_t)index * image, image);
    p->labels[p->data.count] = im->train.labels[index];
    p->origin[p->data.count++] = index;
}

/* Of each class, the same share is held out, drawn by the seed. The copies replace the loader's memory. */
static int split_images(session *s)
{
    const int count = s->images.train.count;
    drawn *all = (drawn *)images_memory((size_t)count + 1, sizeof *all);
    int held = 0, i, first = 0, ok;
    if (!all) return complain("there is not enough memory for %d images", count);
    for (i = 0; i < count; ++i) {
        all[i].label = s->images.train.labels[i];
        all[i].lot = images_hash((uint64_t)i ^ images_hash((uint64_t)s->o.first_seed));
        all[i].index = i;
    }
    qsort(all, (size_t)count, sizeof *all, by_label_and_lot);
    for (i = 0; i < count; ++i) { /* mark those held out: the first of each class */
        int last = i;
        if (i > 0 && all[i].label == all[i - 1].label) continue;
        for (first = i; last < count && all[last].label == all[first].label; ++last) {}
        for (last = first + (int)(s->o.validation * (last - first) + 0.5); first < last; ++first, ++held)
            all[first].lot = UINT64_MAX;
    }
    ok = part_open(s, &s->fit, count - held) && part_open(s, &s->held, held);
    if (ok) {
        for (i = 0; i < count; ++i) part_add(s, all[i].lot == UINT64_MAX ? &s->held : &s->fit, all[i].index);
    }
    free(all);
    if (!ok) return 0;
    s->test = kd_data_u8(s->images.test.pixels, s->images.test.labels, s->images.test.count, s->images.channels,
                         s->images.height, s->images.width, s->images.class_count);
    free(s->images.train.pixels);
    s->images.train.pixels = NULL;
    return 1;
}

/* --mean and --std, for each channel or one for all. */
static int given_preprocessing(session *s)
{
    const list *mean = &s->o.mean, *std = &s->o.std;
    const int channels = s->images.channels;
    int c;
    if ((mean->count > 0) != (std->count > 0)) return complain("--mean and --std go together");
    if ((mean->count > 1 && mean->count != channels) || (std->count > 1 && std->count != channels))
        return complain("--mean and --std take one number%s, got %d and %d",
                        channels > 1 ? ", or 3, one for each channel of the images" : " for grey images",
                        mean->count, std->count);
    for (c = 0; c < channels && mean->count > 0; ++c) {
        s->fit.data.mean[c] = (float)mean->values[mean->count > 1 ? c : 0];
        s->fit.data.std[c] = (float)std->values[std->count > 1 ? c : 0];
    }
    return 1;
}

/* Mean and deviation of each channel over the images to learn from. */
static void measure_preprocessing(session *s)
{
    const kd_data *d = &s->fit.data;
    const size_t plane = (size_t)d->height * (size_t)d->width;
    int c, i;
    size_t p;
    for (c = 0; c < d->channels; ++c) {
        double sum = 0, squares = 0, n = (double)d->count * (double)plane, mean, variance;
        for (i = 0; i < d->count; ++i) {
            const uint8_t *pixels = s->fit.pixels + ((size_t)i * (size_t)d->channels + (size_t)c) * plane;
            for (p = 0; p < plane; ++p) sum += pixels[p], squares += (double)pixels[p] * pixels[p];
        }
        mean = sum / n;
        variance = squares / n - mean * mean;
        s->fit.data.mean[c] = (float)(mean / 255);
        s->fit.data.std[c] = variance > 1 ? (float)(sqrt(variance) / 255) : 1;
    }
}

/* A teacher that was trained elsewhere knows what it was fed; if it does not, that has to be said. */
static int take_preprocessing(session *s, const kd_model *teacher)
{
    float mean[KD_MAX_CHANNELS], std[KD_MAX_CHANNELS];
    const int known = kd_model_preprocessing(teacher, mean, std);
    int c;
    if (known && s->o.mean.count > 0)
        return complain("%s says how its images were normalised; leave out --mean and --std", s->o.teacher);
    s->r.teacher_guessed = !known && s->o.mean.count == 0;
    for (c = 0; c < s->fit.data.channels && known; ++c) {
        s->fit.data.mean[c] = mean[c < known ? c : 0];
        s->fit.data.std[c] = std[c < known ? c : 0];
    }
    return 1;
}

static void share_preprocessing(session *s)
{
    memcpy(s->held.data.mean, s->fit.data.mean, sizeof s->held.data.mean);
    memcpy(s->held.data.std, s->fit.data.std, sizeof s->held.data.std);
    memcpy(s->test.mean, s->fit.data.mean, sizeof s->test.mean);
    memcpy(s->test.std, s->fit.data.std, sizeof s->test.std);
}

/* ---- the models ------------------------------------------------------------------------------------------ */

static int ends_with(const char *text, const char *end)
{
    const size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

/* A line that does for images of any size: convolutions and halvings until about 7x7 is left. */
static void default_spec(const session *s, int channels, int most, const char *norm, const char *end, char *spec)
{
    const images *im = &s->images;
    int side = im->height < im->width ? im->height : im->width;
    size_t at = 0;
    for (; side >= 12; side /= 2, channels = channels * 2 < most ? channels * 2 : most)
        at += (size_t)snprintf(spec + at, MAX_SPEC - at, "conv %d 3 pad=1%s, relu, maxpool 2, ", channels, norm);
    snprintf(spec + at, MAX_SPEC - at, "%sdense %d", end, im->class_count);
}

/* Puts the size of the images in front of a line that does not begin with one. */
static int complete_spec(const session *s, const char *line, char *spec)
{
    const images *im = &s->images;
    const int has_size = line[0] >= '0' && line[0] <= '9';
    const int length = has_size
                           ? snprintf(spec, MAX_SPEC, "%s", line)
                           : snprintf(spec, MAX_SPEC, "%dx%dx%d: %s", im->channels, im->height, im->width, line);
    return length < MAX_SPEC ? 1 : complain("a model line may have up to %d letters", (int)MAX_SPEC);
}

static kd_model *create_model(session *s, const char *who, const char *spec, uint64_t seed)
{
    const images *im = &s->images;
    kd_model *m;
    int c, h, w;
    const kd_result result = kd_model_create(s->kd, spec, seed, &m);
    if (result == KD_ERR_SPEC) /* its columns count from the size, which may not be what was typed */
        (void)complain("the %s is read as \"%s\": %s", who, spec, kd_error(s->kd));
    else if (result != KD_OK)
        (void)kd_complain(s, who);
    if (result != KD_OK) return NULL;
    kd_model_input(m, &c, &h, &w);
    if (c * h * w != im->channels * im->height * im->width)
        (void)complain("the %s takes %dx%dx%d, but the images are %dx%dx%d; --size or --channels may help", who, c,
                       h, w, im->channels, im->height, im->width);
    else if (kd_model_outputs(m) != im->class_count)
        (void)complain("the %s has %d outputs, but the images have %d classes: let its last layer be dense %d", who,
                       kd_model_outputs(m), im->class_count, im->class_count);
    else if (kd_model_set_classes(m, (const char *const *)im->class_names, im->class_count) != KD_OK)
        (void)kd_complain(s, who);
    else
        return m;
    kd_model_destroy(m);
    return NULL;
}

/* Class names, where the file has them, must be those of the images: another order would teach nonsense. */
static int check_classes(const session *s)
{
    int i;
    for (i = 0; i < s->images.class_count; ++i) {
        const char *name = kd_model_class(s->teacher, i);
        if (name && strcmp(name, s->images.class_names[i]) != 0)
            return complain("the teacher's class %d is \"%s\", but that of the images is \"%s\"", i, name,
                            s->images.class_names[i]);
    }
    return 1;
}

/* Whether it is the archive that torch.save writes. */
static int is_torch_archive(const char *path)
{
    char first[4] = {0};
    FILE *f = fopen(path, "rb");
    const int found = f && fread(first, 1, sizeof first, f) == sizeof first && memcmp(first, "PK\3\4", 4) == 0;
    if (f) fclose(f);
    return found;
}

/* Says why a file could not be loaded, and what to do where it is of a kind that people have. */
static int complain_of_weights(const session *s, const char *who, const char *path)
{
    if (is_torch_archive(path))
        return complain("%s: %s is no safetensors file but one of torch.save; write it with "
                        "safetensors.torch.save_file",
                        who, path);
    if (strstr(kd_error(s->kd), "no model line"))
        return complain(
            "%s: %s holds weights but no model line; give both: --teacher \"SPEC\" --teacher-weights %s", who, path,
            path);
    return kd_complain(s, who);
}

static int load_teacher(session *s, const char *path)
{
    int c, h, w;
    if (kd_model_load(s->kd, path, &s->teacher) != KD_OK) return complain_of_weights(s, "the teacher", path);
    kd_model_input(s->teacher, &c, &h, &w);
    if (c * h * w != s->images.channels * s->images.height * s->images.width)
        return complain("the teacher takes %dx%dx%d, but the images are %dx%dx%d; --size or --channels may help", c,
                        h, w, s->images.channels, s->images.height, s->images.width);
    if (kd_model_outputs(s->teacher) != s->images.class_count)
        return complain("the teacher knows %d classes, but the images have %d", kd_model_outputs(s->teacher),
                        s->images.class_count);
    return check_classes(s);
}

/* Of a file that knows its layers, classes and preprocessing, none may be ignored. */
static int load_weights(session *s)
{
    const char *path = s->o.teacher_weights;
    kd_model *whole;
    if (kd_model_load(s->kd, path, &whole) == KD_OK) {
        kd_model_destroy(whole);
        return complain("%s has a model line of its own, and knows its classes and images; give it as --teacher",
                        path);
    }
    return kd_model_load_weights(s->teacher, path) == KD_OK ? 1
                                                            : complain_of_weights(s, "the teacher's weights", path);
}

/* Logits from a .npy file, a row for each of `count` images. */
static float *load_logits(session *s, const char *path, int count, const char *what)
{
    kd_array array;
    float *rows = NULL;
    int64_t finite = 0;
    if (kd_npy_read(s->kd, path, &array) != KD_OK) {
        (void)kd_complain(s, "the teacher's logits");
        return NULL;
    }
    while (finite < array.count && isfinite(array.values[finite])) ++finite;
    if (array.rank != 2 || array.shape[0] != count || array.shape[1] != s->images.class_count)
        (void)complain(
            "%s must have shape (%d, %d), a row for each %s image, but it is %lld-dimensional with %lld rows of "
            "%lld",
            path, count, s->images.class_count, what, (long long)array.rank,
            (long long)(array.rank > 0 ? array.shape[0] : 0), (long long)(array.rank > 1 ? array.shape[1] : 0));
    else if (finite < array.count)
        (void)complain("%s holds a NaN or an infinity in row %lld", path,
                       (long long)(finite / s->images.class_count));
    else
        rows = (float *)images_memory((size_t)array.count, sizeof *rows);
    if (rows) memcpy(rows, array.values, (size_t)array.count * sizeof *rows);
    kd_array_free(s->kd, &array);
    return rows;
}

static int part_take_logits(session *s, part *p, const float *all)
{
    const size_t classes = (size_t)s->images.class_count;
    int i;
    p->teacher_logits = (float *)images_memory((size_t)p->data.count * classes + 1, sizeof(float));
    if (!p->teacher_logits) return complain("there is not enough memory for the teacher's logits");
    for (i = 0; i < p->data.count; ++i)
        memcpy(p->teacher_logits + (size_t)i * classes, all + (size_t)p->origin[i] * classes,
               classes * sizeof(float));
    return 1;
}

static int load_teacher_logits(session *s)
{
    float *all;
    int done;
    if (s->augment.shift || s->augment.flip || s->augment.rotate > 0 || s->augment.brightness > 0 ||
        s->augment.contrast > 0 || s->augment.saturation > 0 || s->augment.cutout || s->augment.mixup > 0)
        return complain(
            "--augment needs a teacher that can be run: logits in a file belong to the images as they are");
    all = load_logits(s, s->o.teacher, s->images.train.count, "training");
    if (!all) return 0;
    done = part_take_logits(s, &s->fit, all) && part_take_logits(s, &s->held, all);
    free(all);
    if (done && *s->o.teacher_test) {
        s->teacher_test = load_logits(s, s->o.teacher_test, s->images.test.count, "test");
        done = s->teacher_test != NULL;
    }
    return done;
}

/* Everything that can be wrong with the models is found here, before anything is trained. */
static int open_models(session *s)
{
    char line[MAX_SPEC];
    const char *teacher = s->o.teacher, *student = s->o.student;
    kd_model *m;
    if (!*student) {
        default_spec(s, 8, 64, "", "dense 32, relu, ", line);
        student = line;
    }
    if (!complete_spec(s, student, s->student_spec)) return 0;
    m = create_model(s, "student", s->student_spec, 1);
    if (!m) return 0;
    s->r.student.parameters = kd_model_parameters(m);
    s->r.student.macs = kd_model_macs(m);
    s->r.student.spec = s->student_spec;
    kd_model_destroy(m);
    if (*s->o.teacher_test && !ends_with(teacher, ".npy"))
        return complain("--teacher-test goes with a .npy --teacher");
    if (*s->o.teacher_weights && (!*teacher || ends_with(teacher, ".npy") || ends_with(teacher, ".safetensors")))
        return complain("--teacher-weights goes with a model line as --teacher");
    if (ends_with(teacher, ".npy")) return load_teacher_logits(s);
    if (ends_with(teacher, ".safetensors")) {
        if (!load_teacher(s, teacher)) return 0;
        snprintf(s->teacher_spec, sizeof s->teacher_spec, "%s", kd_model_spec(s->teacher));
    } else if (is_torch_archive(teacher)) {
        return complain_of_weights(s, "the teacher", teacher);
    } else {
        if (!*teacher) {
            default_spec(s, 32, 256, "", "dense 128, relu, dropout 0.5, ", line);
            teacher = line;
        }
        if (!complete_spec(s, teacher, s->teacher_spec)) return 0;
        s->teacher = create_model(s, "teacher", s->teacher_spec, (uint64_t)s->o.first_seed);
        if (!s->teacher) return 0;
        s->r.teacher_trained = !*s->o.teacher_weights;
        if (*s->o.teacher_weights && !load_weights(s)) return 0;
    }
    if (!s->r.teacher_trained && !take_preprocessing(s, s->teacher)) return 0;
    s->r.teacher.parameters = kd_model_parameters(s->teacher);
    s->r.teacher.macs = kd_model_macs(s->teacher);
    s->r.teacher.spec = s->teacher_spec;
    return 1;
}

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
    w.run = s->r.soft; /* there are held-out images to look at, too */
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
static int try_choice(session *s, stage *g, report_choice *c)
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
    stage g = stage_begin(s, "choosing", (int64_t)count * s->o.trials * s->o.epochs * s->fit.data.count);
    int i, best = 0;
    s->choices = (report_choice *)calloc((size_t)count, sizeof *s->choices);
    if (!s->choices) return complain("there is not enough memory");
    if (count > 1)
        printf("\nChoosing %s on the held-out images, %d trial%s each\n",
               losses[s->loss].alpha ? "temperature and alpha" : "the temperature", s->o.trials,
               plural(s->o.trials));
    for (i = 0; i < count; ++i) {
        s->choices[i].temperature = t->values[i / a->count];
        s->choices[i].alpha = a->values[i % a->count];
        snprintf(g.now, sizeof g.now, "%d of %d", i + 1, count);
        if (count > 1 && !try_choice(s, &g, &s->choices[i])) return 0;
        if (s->choices[i].validation > s->choices[best].validation) best = i;
    }
    stage_wipe(&g);
    s->r.choices = s->choices;
    s->r.choice_count = count;
    s->r.chosen = best;
    s->r.trials = s->o.trials;
    s->r.has_temperature = losses[s->loss].temperature;
    s->r.has_alpha = losses[s->loss].alpha;
    s->r.temperature =
        losses[s->loss].temperature ? s->choices[best].temperature : (double)loss_options(s, 0, 0).temperature;
    s->r.alpha = s->choices[best].alpha;
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
    const int last = s->o.epochs - 1;
    if (s->kept && !(s->r.soft[index].validation[last] > s->r.soft[s->r.saved].validation[last])) {
        kd_model_destroy(m);
        return 1;
    }
    kd_model_destroy(s->kept);
    s->kept = m;
    s->r.saved = index;
    return 1;
}

/* A student of the final ones, tested: into *out, or forgotten where that is NULL. */
static int final_student(session *s, stage *g, uint64_t seed, const kd_loss_desc *loss, report_run *run,
                         kd_model **out)
{
    kd_model *m;
    if (!train_student(s, g, seed, loss, run, &m)) return 0;
    if (test_model(s, m, run, NULL, NULL)) {
        if (!out) kd_model_destroy(m);
        if (out) *out = m;
        return 1;
    }
    kd_model_destroy(m);
    return 0;
}

static int train_students(session *s)
{
    const kd_loss_desc loss = loss_options(s, s->r.temperature, s->r.alpha), labels = kd_loss_defaults(KD_LOSS_CE);
    kd_loss_desc smooth = labels;
    stage g = stage_begin(s, "students", (int64_t)3 * s->o.seeds * s->o.epochs * s->fit.data.count);
    int i;
    smooth.label_smoothing = (float)REPORT_SMOOTHING;
    printf("\nTraining the student alone, with smoothed labels, and distilled by %s, %d seed%s\n",
           loss_text(s).chars, s->o.seeds, plural(s->o.seeds));
    for (i = 0; i < s->o.seeds; ++i) {
        const uint64_t seed = (uint64_t)(s->o.first_seed + i);
        kd_model *m;
        snprintf(g.now, sizeof g.now, "%d of %d", i + 1, s->o.seeds);
        if (!final_student(s, &g, seed, &labels, &s->r.alone[i], NULL) ||
            !final_student(s, &g, seed, &smooth, &s->r.smooth[i], NULL) ||
            !final_student(s, &g, seed, &loss, &s->r.soft[i], &m) || !keep_student(s, m, i))
            return 0;
        stage_line(&g, "  seed %-3d alone %.2f %%   smoothed %.2f %%   distilled %.2f %%", (int)seed,
                   100 * s->r.alone[i].test.accuracy, 100 * s->r.smooth[i].test.accuracy,
                   100 * s->r.soft[i].test.accuracy);
    }
    stage_wipe(&g);
    return 1;
}

/* What teacher and labels ask of the student that was kept, before it was trained and after. */
static int diagnose(session *s)
{
    kd_diagnose_desc d = kd_diagnose_defaults();
    kd_data data = s->fit.data;
    kd_model *fresh = create_model(s, "student", s->student_spec, (uint64_t)(s->o.first_seed + s->r.saved));
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

/* ---- results --------------------------------------------------------------------------------------------- */

static int by_size(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* Median time of one prediction of one image on one thread, of the model in a saved file. */
static int measure_latency(session *s, const char *name, double *microseconds)
{
    enum { TRIES = 201 };
    double took[TRIES];
    char path[MAX_PATH];
    kd_ctx_desc desc = kd_ctx_defaults();
    kd_ctx *kd = NULL;
    kd_model *m = NULL;
    kd_workspace *w = NULL;
    float *x =
        (float *)calloc((size_t)s->images.channels * (size_t)s->images.height * (size_t)s->images.width, sizeof *x);
    float *logits = (float *)calloc((size_t)s->images.class_count, sizeof *logits);
    int i, done;
    desc.isa = kd_ctx_isa(s->kd);
    output_path(s, name, path);
    done = x && logits && kd_open(&desc, &kd) == KD_OK && kd_model_load(kd, path, &m) == KD_OK &&
           kd_workspace_create(m, 1, &w) == KD_OK;
    for (i = 0; i < TRIES && done; ++i) {
        took[i] = seconds_now();
        done = kd_workspace_predict(w, x, 1, logits) == KD_OK;
        took[i] = seconds_now() - took[i];
    }
    if (!done) (void)complain("%s cannot be read again: %s", path, kd ? kd_error(kd) : "out of memory");
    if (done) {
        qsort(took, TRIES, sizeof *took, by_size);
        *microseconds = 1e6 * took[TRIES / 2];
    }
    kd_workspace_destroy(w);
    kd_model_destroy(m);
    kd_close(kd);
    free(x);
    free(logits);
    return done;
}

static void print_row(const char *name, const report_model *m, const report_run *runs, int count)
{
    const report_statistic a = report_accuracy(runs, count);
    printf("%-19s", name);
    if (m->spec)
        printf("%12s%16s%11sB%9.1f us", report_count(m->parameters).chars, report_short((double)m->macs).chars,
               report_short((double)m->bytes).chars, m->latency_us);
    else
        printf("%12s%16s%12s%12s", "-", "-", "-", "-");
    if (count == 0) printf("          -\n");
    if (count == 1) printf("   %7.2f %%\n", 100 * a.mean);
    if (count > 1) printf("   %7.2f %% +- %.2f\n", 100 * a.mean, 100 * a.sd);
}

static void print_table(const session *s)
{
    const report *r = &s->r;
    const report_statistic gain = report_gain(r);
    printf("\n%-19s%12s%16s%12s%12s   test accuracy%s\n", "", "parameters", "multiply-adds", "file", "latency",
           r->seeds > 1 ? ", mean +- sd" : "");
    print_row("teacher", &r->teacher, &r->teacher_run, r->teacher_known);
    print_row("student alone", &r->student, r->alone, r->seeds);
    print_row("... labels smoothed", &r->student, r->smooth, r->seeds);
    print_row("student distilled", &r->student, r->soft, r->seeds);
    printf("\nDistillation: %+.2f points", 100 * gain.mean);
    if (r->seeds > 1) printf(", standard error %.2f, %d seeds", 100 * gain.sd, r->seeds);
    printf("; %s", loss_text(s).chars);
    if (r->teacher_known)
        printf("; agrees with the teacher on %.1f %% of the test images (alone: %.1f %%)",
               100 * report_agreement(r->soft, r->seeds), 100 * report_agreement(r->alone, r->seeds));
    printf("\nPull of teacher and labels: weights %.3g and %.3g, gradients %.3g and %.3g, cosine %.2f (untrained: "
           "%.2f)\n",
           r->after.soft_weight, r->after.hard_weight, r->after.soft_norm, r->after.hard_norm,
           r->after.gradient_cosine, r->before.gradient_cosine);
    if (losses[s->loss].temperature)
        printf("Targets at temperature %g: entropy %.2f nats of at most %.2f\n", r->temperature,
               r->after.target_entropy, log((double)r->class_count));
    printf("The report: %s/report.html   (%s)\n", s->o.out, time_text(r->seconds).chars);
}

/* ---- metrics.json ---------------------------------------------------------------------------------------- */

static const char *augment_text(const char *words) { return *words ? words : "none"; }

static void json_text(FILE *f, const char *text)
{
    fputc('"', f);
    for (; *text; ++text) {
        if (*text == '"' || *text == '\\') fputc('\\', f);
        if ((unsigned char)*text < 32)
            fprintf(f, "\\u%04x", (unsigned)(unsigned char)*text);
        else
            text += report_letter(f, text) - 1;
    }
    fputc('"', f);
}

static void json_model(FILE *f, const report_model *m)
{
    fputs("\"spec\": ", f);
    json_text(f, m->spec);
    fprintf(f, ", \"params\": %lld, \"macs\": %lld, \"bytes\": %lld", (long long)m->parameters, (long long)m->macs,
            (long long)m->bytes);
}

static void json_metrics(FILE *f, const kd_metrics *m)
{
    fprintf(f, "\"accuracy\": %.6f, \"nll\": %.6f, \"ece\": %.6f", m->accuracy, m->nll, m->ece);
}

static void json_runs(FILE *f, const char *name, const report_run *runs, int count)
{
    const report_statistic a = report_accuracy(runs, count);
    double nll = 0, ece = 0;
    int i;
    for (i = 0; i < count; ++i) nll += runs[i].test.nll / count, ece += runs[i].test.ece / count;
    fprintf(f, "  \"%s\": {\"accuracy_mean\": %.6f, \"accuracy_sd\": %.6f, \"accuracies\": [", name, a.mean, a.sd);
    for (i = 0; i < count; ++i) fprintf(f, "%s%.6f", i ? ", " : "", runs[i].test.accuracy);
    fprintf(f, "], \"nll\": %.6f, \"ece\": %.6f", nll, ece);
    if (runs[0].test.agreement >= 0) fprintf(f, ", \"agreement\": %.6f", report_agreement(runs, count));
    fputs("},\n", f);
}

/* A setting: null where the run has none. */
static void json_number(FILE *f, const char *name, double value, int known)
{
    char text[32];
    (void)number_text(value, text, sizeof text);
    fprintf(f, "\"%s\": %s", name, known ? text : "null");
}

static void json_words(FILE *f, const char *name, const char *text, int known)
{
    fprintf(f, "\"%s\": ", name);
    if (known) json_text(f, text);
    if (!known) fputs("null", f);
}

/* What was run. The loss has a temperature and an alpha, or has not. */
static void json_settings(FILE *f, const session *s)
{
    const options *o = &s->o;
    const report *r = &s->r;
    const int trained = r->teacher_trained;
    int i;
    fputs("  ", f);
    json_words(f, "loss", o->loss, 1);
    fputs(", ", f);
    json_number(f, "temperature", r->temperature, losses[s->loss].temperature);
    fputs(", ", f);
    json_number(f, "alpha", r->alpha, losses[s->loss].alpha);
    fprintf(f, ",\n  \"epochs\": %d, ", o->epochs);
    json_number(f, "teacher_epochs", o->teacher_epochs, trained);
    fputs(", ", f);
    json_number(f, "lr", o->lr, 1);
    fputs(", ", f);
    json_number(f, "teacher_lr", o->teacher_lr, trained);
    fprintf(f, ", \"batch\": %d, ", o->batch);
    json_words(f, "optimizer", kd_optimizer_name(s->optimizer), 1);
    fputs(", ", f);
    json_number(f, "weight_decay", o->weight_decay, 1);
    fputs(",\n  ", f);
    json_words(f, "augment", augment_text(o->augment), 1);
    fputs(", ", f);
    json_words(f, "teacher_augment", augment_text(o->teacher_augment), trained);
    fputs(",\n  \"seed_numbers\": [", f);
    for (i = 0; i < r->seeds; ++i) fprintf(f, "%s%d", i ? ", " : "", o->first_seed + i);
    fputs("],\n", f);
}

/* What was tried on the held-out images; nothing where there was one to choose from. */
static void json_choices(FILE *f, const session *s)
{
    const report *r = &s->r;
    int i;
    fprintf(f, "  \"trials\": %d, \"choices\": [", s->o.trials);
    for (i = 0; i < r->choice_count && r->choice_count > 1; ++i) {
        fputs(i ? ",\n    {" : "\n    {", f);
        json_number(f, "temperature", r->choices[i].temperature, losses[s->loss].temperature);
        fputs(", ", f);
        json_number(f, "alpha", r->choices[i].alpha, losses[s->loss].alpha);
        fprintf(f, ", \"accuracy_mean\": %.6f", r->choices[i].validation);
        if (s->o.trials > 1) fprintf(f, ", \"accuracy_sd\": %.6f", r->choices[i].sd);
        fputs("}", f);
    }
    fputs("],\n", f);
}

static void json_diagnosis(FILE *f, const session *s)
{
    const kd_diagnosis *before = &s->r.before, *after = &s->r.after;
    fprintf(f,
            "  \"diagnosis\": {\"soft_weight\": %.6g, \"hard_weight\": %.6g, \"soft_norm\": %.6g, \"hard_norm\": "
            "%.6g, \"gradient_cosine\": %.6f, \"gradient_cosine_untrained\": %.6f, \"target_entropy\": ",
            after->soft_weight, after->hard_weight, after->soft_norm, after->hard_norm, after->gradient_cosine,
            before->gradient_cosine);
    fprintf(f, losses[s->loss].temperature ? "%.6f},\n" : "null},\n", after->target_entropy);
}

static int write_metrics(const session *s)
{
    const report *r = &s->r;
    char path[MAX_PATH];
    FILE *f = output_open(s, "metrics.json", path);
    int i;
    if (!f) return 0;
    fprintf(f, "{\n  \"version\": \"%s\", \"isa\": \"%s\", \"images\": ", kd_version(),
            kd_isa_name(kd_ctx_isa(s->kd)));
    json_text(f, r->folder);
    fprintf(
        f,
        ",\n  \"seeds\": %d, \"train_images\": %d, \"validation_images\": %d, \"test_images\": %d, \"classes\": [",
        r->seeds, r->train_count, r->validation_count, r->test.count);
    for (i = 0; i < r->class_count; ++i) {
        if (i) fputs(", ", f);
        json_text(f, r->classes[i]);
    }
    fputs("],\n", f);
    json_settings(f, s);
    json_choices(f, s);
    fputs("  \"teacher\": {", f);
    if (r->teacher.spec) json_model(f, &r->teacher);
    if (r->teacher.spec && r->teacher_known) fputs(", ", f);
    if (r->teacher_known) json_metrics(f, &r->teacher_run.test);
    fputs("},\n  \"student\": {", f);
    json_model(f, &r->student);
    fputs("},\n", f);
    json_runs(f, "student_alone", r->alone, r->seeds);
    json_runs(f, "student_smoothed", r->smooth, r->seeds);
    json_runs(f, "student_distilled", r->soft, r->seeds);
    json_diagnosis(f, s);
    if (r->teacher_known) fprintf(f, "  \"agreement\": %.6f,\n", report_agreement(r->soft, r->seeds));
    if (r->teacher.spec) fprintf(f, "  \"teacher_latency_us\": %.3f,\n", r->teacher.latency_us);
    fprintf(f, "  \"student_latency_us\": %.3f,\n  \"seconds\": %.3f\n}\n", r->student.latency_us, r->seconds);
    return output_close(s, "metrics.json", f, !ferror(f));
}

/* ---- the whole ------------------------------------------------------------------------------------------- */

static void add_setting(session *s, const char *name, const char *format, ...)
#if defined(__GNUC__)
    __attribute__((format(printf, 3, 4)))
#endif
    ;

static void add_setting(session *s, const char *name, const char *format, ...)
{
    report_setting *setting = &s->settings[s->r.setting_count++];
    va_list args;
    setting->name = name;
    va_start(args, format);
    vsnprintf(setting->value, sizeof setting->value, format, args);
    va_end(args);
}

static void fill_report(session *s)
{
    const options *o = &s->o;
    report *r = &s->r;
    r->folder = o->folder;
    r->classes = s->images.class_names;
    r->class_count = s->images.class_count;
    r->channels = s->images.channels;
    r->height = s->images.height;
    r->width = s->images.width;
    r->train_count = s->fit.data.count;
    r->validation_count = s->held.data.count;
    r->train.pixels = s->fit.pixels, r->train.labels = s->fit.labels, r->train.count = s->fit.data.count;
    r->test.pixels = s->images.test.pixels, r->test.labels = s->images.test.labels,
    r->test.count = s->images.test.count;
    r->teacher_logits = s->teacher_test;
    r->student_logits = s->student_test;
    r->confusion = s->confusion;
    if (report_tree_open(&s->tree, s->kept, &s->test)) r->tree = &s->tree;
    add_setting(s, "teacher", "%s", r->teacher.spec ? r->teacher.spec : o->teacher);
    add_setting(s, "student", "%s", r->student.spec);
    if (losses[s->loss].alpha)
        add_setting(s, "loss", "%s: alpha T^2 KL(teacher || student) + (1 - alpha) cross-entropy",
                    loss_text(s).chars);
    else
        add_setting(s, "loss", "%s", loss_text(s).chars);
    if (r->teacher_trained)
        add_setting(s, "teacher's training", "%d epoch%s, learning rate %g", o->teacher_epochs,
                    plural(o->teacher_epochs), o->teacher_lr);
    add_setting(s, "students' training", "%d epoch%s, learning rate %g", o->epochs, plural(o->epochs), o->lr);
    add_setting(s, "both", "%s, cosine schedule, batch %d, weight decay %g", kd_optimizer_name(s->optimizer),
                o->batch, o->weight_decay);
    if (r->teacher_trained) add_setting(s, "teacher's augmentation", "%s", augment_text(o->teacher_augment));
    add_setting(s, "students' augmentation", "%s", augment_text(o->augment));
    if (o->seeds == 1)
        add_setting(s, "seed", "%d", o->first_seed);
    else
        add_setting(s, "seeds", "%d to %d", o->first_seed, o->first_seed + o->seeds - 1);
    add_setting(s, "library", "kd.h %s, %s", kd_version(), kd_isa_name(kd_ctx_isa(s->kd)));
    r->settings = s->settings;
}

static int write_report(session *s)
{
    char path[MAX_PATH];
    FILE *f = output_open(s, "report.html", path);
    if (!f || !output_close(s, "report.html", f, report_write(f, &s->r))) return 0;
    if (report_left_out)
        fprintf(stderr, "distill: %d pictures are left out of the report: there is not enough memory\n",
                report_left_out);
    return 1;
}

static int open_session(session *s)
{
    kd_ctx_desc desc = kd_ctx_defaults();
    kd_result result;
    int i;
    if (!*s->o.teacher_augment) s->o.teacher_augment = s->o.augment;
    if (!parse_augment("augment", s->o.augment, &s->augment) ||
        !parse_augment("teacher-augment", s->o.teacher_augment, &s->teacher_augment))
        return 0;
    while (s->loss < (int)KD__COUNT(losses) && strcmp(s->o.loss, kd_loss_name(losses[s->loss].kind)) != 0)
        ++s->loss;
    if (s->loss == (int)KD__COUNT(losses))
        return complain("--loss can be one of those that distill --help lists, got \"%s\"", s->o.loss);
    for (i = 0; i < KD_OPTIMIZER_COUNT && strcmp(s->o.optimizer, kd_optimizer_name((kd_optimizer)i)) != 0; ++i) {}
    if (i == KD_OPTIMIZER_COUNT)
        return complain("--optimizer can be adam, adamw or sgd, got \"%s\"", s->o.optimizer);
    s->optimizer = (kd_optimizer)i;
    for (i = 0; i < KD_ISA_COUNT && strcmp(s->o.isa, kd_isa_name((kd_isa)i)) != 0; ++i) {}
    if (i == KD_ISA_COUNT)
        return complain("there is no instruction set \"%s\"; distill --help lists them", s->o.isa);
    if (!losses[s->loss].temperature) s->o.temperature.count = 1;
    if (!losses[s->loss].alpha) s->o.alpha.count = 1, s->o.alpha.values[0] = 1;
    if (s->o.validation <= 0 && s->o.temperature.count * s->o.alpha.count > 1)
        return complain("to choose among %d settings, --validation must hold out some images",
                        s->o.temperature.count * s->o.alpha.count);
    desc.isa = (kd_isa)i;
#ifdef _OPENMP
    desc.threads = s->o.threads ? s->o.threads : omp_get_num_procs() < 256 ? omp_get_num_procs() : 256;
#endif
    result = kd_open(&desc, &s->kd);
    if (result != KD_OK)
        return complain("the library cannot be opened with instruction set %s: %s", s->o.isa,
                        kd_result_meaning(result));
    printf("kd.h %s, %s, %d thread%s\n", kd_version(), kd_isa_name(kd_ctx_isa(s->kd)), desc.threads,
           plural(desc.threads));
    return 1;
}

static void print_plan(const session *s)
{
    const report *r = &s->r;
    printf("images    %s: %s to learn from, ", s->o.folder, report_count(s->fit.data.count).chars);
    printf("%s held out, ", report_count(s->held.data.count).chars);
    printf("%s to test; %dx%d %s, %d classes\n", report_count(s->images.test.count).chars, s->images.width,
           s->images.height, s->images.channels == 1 ? "grey" : "colour", s->images.class_count);
    if (r->teacher.spec)
        printf("teacher   %s\n          %s parameters\n", s->teacher_spec,
               report_count(r->teacher.parameters).chars);
    else
        printf("teacher   logits in %s\n", s->o.teacher);
    if (r->teacher_guessed)
        puts("          note: it does not say how its images were normalised, and is given them by mean and "
             "deviation\n"
             "          of the training images; --mean and --std are there to say otherwise");
    printf("student   %s\n          %s parameters\n", s->student_spec, report_count(r->student.parameters).chars);
    fflush(stdout);
}

static int allocate_results(session *s)
{
    const size_t classes = (size_t)s->images.class_count, tests = (size_t)s->images.test.count;
    s->r.seeds = s->o.seeds;
    s->r.first_seed = s->o.first_seed;
    s->r.alone = (report_run *)calloc((size_t)s->o.seeds, sizeof *s->r.alone);
    s->r.smooth = (report_run *)calloc((size_t)s->o.seeds, sizeof *s->r.smooth);
    s->r.soft = (report_run *)calloc((size_t)s->o.seeds, sizeof *s->r.soft);
    if (!s->teacher_test && s->teacher) s->teacher_test = (float *)images_memory(tests * classes, sizeof(float));
    s->student_test = (float *)images_memory(tests * classes, sizeof(float));
    s->confusion = (int64_t *)images_memory(classes * classes, sizeof(int64_t));
    return s->r.alone && s->r.smooth && s->r.soft && s->student_test && s->confusion &&
                   (s->teacher_test || !s->teacher)
               ? 1
               : complain("there is not enough memory for the results");
}

/* How far a .npy teacher's confidence is from its accuracy: kd_metrics.ece, of the logits for the test images. */
static double calibration_error(const session *s)
{
    enum { BINS = 15 };
    const int classes = s->test.classes;
    double right[BINS] = {0}, sure[BINS] = {0}, error = 0;
    int i;
    for (i = 0; i < s->test.count; ++i) {
        const float *row = s->teacher_test + (size_t)i * (size_t)classes;
        const int choice = report_argmax(row, classes);
        const double confidence = report_probability(row, classes, choice, 1);
        const int above = (int)ceil(confidence * BINS) - 1, bin = above < 0 ? 0 : above < BINS ? above : BINS - 1;
        right[bin] += choice == s->test.labels[i];
        sure[bin] += confidence;
    }
    for (i = 0; i < BINS; ++i) error += fabs(right[i] - sure[i]) / s->test.count;
    return error;
}

/* What a .npy teacher reaches on the test images, from its logits. */
static int test_logits(session *s)
{
    kd_metrics *m = &s->r.teacher_run.test;
    kd_loss_desc loss = kd_loss_defaults(KD_LOSS_CE);
    const int classes = s->test.classes;
    int i, c;
    if (kd_loss(s->kd, &loss, s->teacher_test, NULL, s->test.labels, s->test.count, classes, NULL, &m->nll) !=
        KD_OK)
        return kd_complain(s, "the teacher's logits");
    m->classes = classes < KD_METRICS_CLASSES ? classes : KD_METRICS_CLASSES;
    for (i = 0; i < s->test.count; ++i) {
        const int label = s->test.labels[i],
                  hit = report_argmax(s->teacher_test + (size_t)i * (size_t)classes, classes) == label;
        m->accuracy += (double)hit / s->test.count;
        if (label < m->classes) ++m->class_count[label], m->class_accuracy[label] += hit;
    }
    for (c = 0; c < m->classes; ++c) m->class_accuracy[c] /= m->class_count[c] ? m->class_count[c] : 1;
    m->ece = calibration_error(s);
    m->agreement = 1;
    return 1;
}

/* A teacher from elsewhere may have learnt from images normalised otherwise, or classes in another order: that is
   better said before the students are trained than after. */
static void print_known_teacher(const session *s)
{
    const double accuracy = s->r.teacher_run.test.accuracy, chance = 1.0 / s->images.class_count;
    if (!s->teacher_test || s->r.teacher_trained) return;
    printf("\nThe teacher gets %.2f %% of the test images right\n", 100 * accuracy);
    if (accuracy < 2 * chance && s->images.class_count > 2)
        puts("note: that is hardly more than chance; were its images normalised like these (--mean, --std), and "
             "are its\n"
             "classes those of the folders, in their order?");
    fflush(stdout);
}

static int prepare_teacher(session *s)
{
    if (s->teacher) {
        if (s->r.teacher_trained && !train_teacher(s)) return 0;
        if ((!kd_model_preprocessing(s->teacher, NULL, NULL) &&
             kd_model_set_preprocessing(s->teacher, s->fit.data.mean, s->fit.data.std) != KD_OK) ||
            kd_model_set_classes(s->teacher, (const char *const *)s->images.class_names, s->images.class_count) !=
                KD_OK)
            return kd_complain(s, "the teacher");
        if (!save_model(s, s->teacher, "teacher.safetensors")) return 0;
        if (!test_model(s, s->teacher, &s->r.teacher_run, s->teacher_test, NULL)) return 0;
        if (!run_teacher(s)) return 0;
    } else if (s->teacher_test && !test_logits(s)) {
        return 0;
    }
    s->r.teacher_known = s->teacher_test != NULL;
    print_known_teacher(s);
    return 1;
}

static int finish(session *s)
{
    report_run again; /* the kept student once more, for its logits */
    if (!save_model(s, s->kept, "student.safetensors")) return 0;
    if (!test_model(s, s->kept, &again, s->student_test, s->confusion)) return 0;
    if (!measure_latency(s, "student.safetensors", &s->r.student.latency_us)) return 0;
    if (s->teacher && !measure_latency(s, "teacher.safetensors", &s->r.teacher.latency_us)) return 0;
    s->r.student.bytes = file_bytes(s, "student.safetensors");
    s->r.teacher.bytes = s->teacher ? file_bytes(s, "teacher.safetensors") : 0;
    s->r.seconds = seconds_now() - s->started;
    fill_report(s);
    if (!write_metrics(s) || !write_report(s)) return 0;
    resume_clear(s);
    print_table(s);
    return 1;
}

static int run(session *s)
{
    s->started = seconds_now();
    if (!open_session(s) || !check_output(s) || !load_images(s) || !split_images(s)) return 0;
    if (s->fit.data.count < 1) return complain("%s has no images to learn from", s->o.folder);
    if (s->held.data.count < 1 && s->o.temperature.count * s->o.alpha.count > 1)
        return complain("%s has too few images to hold some out; give one --temperature and one --alpha",
                        s->o.folder);
    measure_preprocessing(s);
    if (!given_preprocessing(s) || !open_models(s) || !allocate_results(s)) return 0;
    share_preprocessing(s);
    if (!check_trainings(s)) return 0;
    print_plan(s);
    return resume_begin(s) && prepare_teacher(s) && choose(s) && train_students(s) && diagnose(s) && finish(s);
}

static void runs_free(report_run *runs, int count)
{
    int i;
    for (i = 0; i < count && runs; ++i) {
        free(runs[i].validation);
        free(runs[i].loss);
    }
}

static void close_session(session *s)
{
    part *parts[2];
    int i;
    parts[0] = &s->fit, parts[1] = &s->held;
    for (i = 0; i < 2; ++i) {
        free(parts[i]->pixels);
        free(parts[i]->labels);
        free(parts[i]->origin);
        free(parts[i]->teacher_logits);
    }
    if (s->training != s->teacher) kd_model_destroy(s->training);
    kd_model_destroy(s->teacher);
    kd_model_destroy(s->kept);
    kd_cache_destroy(s->cache);
    runs_free(&s->r.teacher_run, 1);
    runs_free(s->r.alone, s->r.seeds);
    runs_free(s->r.smooth, s->r.seeds);
    runs_free(s->r.soft, s->r.seeds);
    free(s->r.alone);
    free(s->r.smooth);
    free(s->r.soft);
    free(s->teacher_test);
    free(s->student_test);
    free(s->confusion);
    free(s->choices);
    report_tree_close(&s->tree);
    images_free(&s->images);
    kd_close(s->kd);
}

int main(int argc, char **argv)
{
    static session s; /* zeroed, and too large for some stacks */
    struct sigaction action;
    const int parsed = parse_options(&s.o, argc, argv);
    int done;
    if (parsed < 0) return EXIT_SUCCESS;
    if (parsed == 0) return EXIT_FAILURE;
    memset(&action, 0, sizeof action);
    action.sa_handler = on_interrupt;
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    done = run(&s);
    close_session(&s);
    return done ? EXIT_SUCCESS : interrupted ? EXIT_INTERRUPTED : EXIT_FAILURE;
}
