/* hinton.c - the MNIST experiments of Hinton, Vinyals and Dean 2015, "Distilling the Knowledge in a Neural
   Network", section 3: what a large net has learned can be taught to a small one through its softened outputs, even
   about digits of which the small one never sees an image.

       cc -O2 -o hinton examples/hinton.c -lm         (needs stb: apt-get install libstb-dev)
       ./hinton <folder with MNIST's four IDX files>

   The table of experiments below is the whole protocol; everything after it is how it is carried out. Settings were
   chosen on training images held out by --held-out, never on the test images. */
#if !defined(_POSIX_C_SOURCE) && !defined(__APPLE__)
#define _POSIX_C_SOURCE 200809L /* clock_gettime */
#endif
#define KD_IMPLEMENTATION
#include "../kd.h"
#include "images.h"
#include "report.h"

#include <errno.h>
#include <time.h>

enum { SIDE = 28, PIXELS = SIDE * SIDE, CLASSES = 10, MAX_SEEDS = 20, MAX_PATH = 4096 };

/* ---- the experiments ------------------------------------------------------------------------------------- */

#define LARGE "1x28x28: dense 1200, relu, dropout 0.3, dense 1200, relu, dropout 0.3, dense 10"
#define SMALL "1x28x28: dense 800, relu, dense 800, relu, dense 10"
#define TINY "1x28x28: dense 30, relu, dense 30, relu, dense 10"

enum { ALL = (1 << CLASSES) - 1, THREE = 1 << 3, SEVEN_EIGHT = 1 << 7 | 1 << 8 };

/* Ways to set the bias of classes that the transfer set shows too seldom or too often. */
enum { AS_TRAINED, BY_TEACHER, BY_PRIORS, BY_TEST, BIAS_COUNT };
static const char *const bias_names[BIAS_COUNT] = {"as trained", "bias by the teacher's shares on the transfer set",
                                                   "bias by priors on unlabelled training images",
                                                   "bias by test errors, as in the paper"};

/* Which of the experiments below is which. Those with 30-30 are the last. */
enum { TEACHER, ALONE, DISTILLED, NO_3, ONLY_7_8, TINY_ALONE, TINY_FIRST };

static const struct experiment {
    const char *title, *spec;
    int epochs;
    double rate;                   /* of learning at the start, lowered along a cosine */
    double decay;                  /* of weights: AdamW */
    double temperature;            /* 0: no teacher, labels only */
    int transfer;                  /* classes whose images it learns from, a bit each */
    int corrected;                 /* classes whose bias is set afterwards */
    const char *paper[BIAS_COUNT]; /* its errors; "all / on 3s" where the 3s are missing */
} experiments[] = {
    {"teacher 1200-1200, dropout, max-norm, shifts", LARGE, 120, 0.001, 0, 0, ALL, 0, {"67"}},
    {"student 800-800 alone, no regularisation", SMALL, 20, 0.001, 0, 0, ALL, 0, {"146"}},
    {"student 800-800 distilled, T = 20", SMALL, 60, 0.001, 0.1, 20, ALL, 0, {"74"}},
    {"student 800-800, no 3 in the transfer set",
     SMALL,
     20,
     0.001,
     0,
     20,
     ALL & ~THREE,
     THREE,
     {"206 / 133", "", "", "109 / 14"}},
    {"student 800-800, only 7s and 8s",
     SMALL,
     30,
     0.001,
     0,
     20,
     SEVEN_EIGHT,
     SEVEN_EIGHT,
     {"47.3 %", "", "", "13.2 %"}},
    {"student 30-30 alone", TINY, 20, 0.004, 0, 0, ALL, 0, {""}},
    {"student 30-30 distilled, T = 1", TINY, 20, 0.004, 0, 1, ALL, 0, {""}},
    {"student 30-30 distilled, T = 2", TINY, 20, 0.004, 0, 2, ALL, 0, {""}},
    {"student 30-30 distilled, T = 2.5", TINY, 20, 0.004, 0, 2.5, ALL, 0, {"best"}},
    {"student 30-30 distilled, T = 3", TINY, 20, 0.004, 0, 3, ALL, 0, {"best"}},
    {"student 30-30 distilled, T = 4", TINY, 20, 0.004, 0, 4, ALL, 0, {"best"}},
    {"student 30-30 distilled, T = 8", TINY, 20, 0.004, 0, 8, ALL, 0, {""}},
    {"student 30-30 distilled, T = 20", TINY, 20, 0.004, 0, 20, ALL, 0, {""}},
};
enum { EXPERIMENT_COUNT = (int)(sizeof experiments / sizeof *experiments) };

/* Common to all. The teacher is regularised as in the paper's reference [5]; its students are not. */
static const double ALPHA = 0.9;                        /* weight of the soft targets; the labels have the rest */
static const double MAX_NORM = 3.87;                    /* of the weights into a unit: the square root of 15 */
static const float MEAN = 0.1307f, DEVIATION = 0.3081f; /* of the training pixels, black 0 and white 1 */
static const int BATCH = 128, SHIFT = 2;
static const char CHOSEN[] =
    "Chosen by errors on 10 000 held-out training images. Teacher, 20 epochs: dropout 0.3, 97 errors; "
    "0.5, 123; 0.3 with standardised pixels, 104. Student alone, 20 epochs: 164; with standardised pixels "
    "149; also with the distilled student's decay 158, and for its 60 epochs 146. Distilled from a "
    "teacher of 40 epochs with 77 errors, two seeds: 30 epochs, 100 and 98; with a decay of 0.1, 92 and "
    "90; so for 60 epochs, 83 and 92. No better, mostly one seed: a teacher with dropout 0.2 and 69 "
    "errors, 92 and 86; soft targets alone 98, batches of 32 98, rates of 0.0003 and 0.003 115 and 97, "
    "first weights a fifth as large 92 and 99, momentum without Adam 116, decays of 0.3 and 1 94 and 107, "
    "120 epochs 88, dropout in the student 109. Not tuned: the teacher's 120 epochs, the 30-30 students, "
    "the two reduced transfer sets.";

/* ---- options --------------------------------------------------------------------------------------------- */

typedef struct options {
    const char *folder, *out;
    int seeds, large_seeds, teachers, first_seed, threads, quick, force, held_out;
} options;

static const struct option {
    const char *name;
    size_t field;
    int most; /* 0: text; 1: a switch without value */
    const char *help;
} option_table[] = {
    {"seeds", offsetof(options, seeds), MAX_SEEDS, "N       students of each kind (5)"},
    {"large-seeds", offsetof(options, large_seeds), MAX_SEEDS, "N of 800-800, if fewer"},
    {"teachers", offsetof(options, teachers), MAX_SEEDS, "N    teachers that they share (1, as in the paper)"},
    {"seed", offsetof(options, first_seed), 1000000, "N        the first seed (1)"},
    {"threads", offsetof(options, threads), 256, "N     0: one for each processor; the results are the same (0)"},
    {"held-out", offsetof(options, held_out), 30000,
     "N    count errors on the last N training images, not learned from, instead of the test images: for choosing"},
    {"force", offsetof(options, force), 1, "        replace files that are not from a run of hinton"},
    {"quick", offsetof(options, quick), 1, "        20 000 images, a third of the epochs, 2 seeds: a few minutes"},
    {"out", offsetof(options, out), 0, "FOLDER    where hinton.html and hinton.json go (out-hinton)"},
};
enum { OPTION_COUNT = (int)(sizeof option_table / sizeof *option_table) };

/* One sentence on stderr. Returns 0, for `return complain(...)`. */
static int complain(const char *what, const char *why)
{
    fflush(stdout);
    fprintf(stderr, "hinton: %s%s%s\n", what, why ? ": " : "", why ? why : "");
    return 0;
}

static int print_help(void)
{
    int i;
    puts("usage: hinton FOLDER [options]\n\n"
         "Repeats the MNIST experiments of Hinton, Vinyals and Dean 2015, section 3. FOLDER has MNIST's four IDX "
         "files,\nalso as .gz.\n");
    for (i = 0; i < OPTION_COUNT; ++i) printf("  --%s %s\n", option_table[i].name, option_table[i].help);
    return -1;
}

static int parse_option(options *o, const struct option *p, const char *value)
{
    char *end = NULL, *field = (char *)o + p->field;
    const long number = p->most > 1 ? strtol(value, &end, 10) : p->most;
    if (p->most > 1 && (end == value || *end || number < 0 || number > p->most))
        return complain("not a number that this option takes", value);
    if (p->most) *(int *)(void *)field = (int)number;
    if (!p->most) *(const char **)(void *)field = value;
    return 1;
}

/* Returns 1 to go on, 0 after a complaint, -1 after --help. */
static int parse_options(options *o, int argc, char **argv)
{
    int i, k;
    o->out = "out-hinton", o->first_seed = 1;
    for (i = 1; i < argc; ++i) {
        const char *name = argv[i];
        if (strcmp(name, "--help") == 0) return print_help();
        if (name[0] != '-') o->folder = name;
        if (name[0] != '-') continue;
        for (k = 0; k < OPTION_COUNT; ++k) {
            if (strncmp(name, "--", 2) == 0 && strcmp(name + 2, option_table[k].name) == 0) break;
        }
        if (k == OPTION_COUNT) return complain("there is no such option; hinton --help lists them", name);
        if (option_table[k].most != 1 && ++i == argc) return complain("this option needs a value", name);
        if (!parse_option(o, &option_table[k], argv[i])) return 0;
    }
    if (!o->folder) return complain("which folder has MNIST? hinton --help says more", NULL);
    if (!o->seeds) o->seeds = o->quick ? 2 : 5;
    if (!o->large_seeds || o->large_seeds > o->seeds) o->large_seeds = o->seeds;
    if (!o->teachers) o->teachers = 1;
    if (o->teachers > o->large_seeds) o->teachers = o->large_seeds;
    return 1;
}

/* ---- the laboratory -------------------------------------------------------------------------------------- */

typedef struct outcome {
    int errors, errors_on_3;
    double bias; /* added to the corrected classes */
} outcome;

typedef struct lab {
    options o;
    kd_ctx *kd;
    images images;
    images_set train, test; /* test: what errors are counted on */
    float *soft[MAX_SEEDS]; /* each teacher's logits for the training images as they are (count, CLASSES) */
    float *logits;          /* room for a student's, for as many images */
    outcome outcomes[EXPERIMENT_COUNT][BIAS_COUNT][MAX_SEEDS];
    double started, work_done, work;
} lab;

static double seconds_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int kd_complain(const lab *l, const char *what) { return complain(what, kd_error(l->kd)); }

static int seeds_of(const lab *l, int e)
{
    return e == TEACHER ? l->o.teachers : e < TINY_ALONE ? l->o.large_seeds : l->o.seeds;
}

static int epochs_of(const lab *l, int e)
{
    return l->o.quick ? (experiments[e].epochs + 2) / 3 : experiments[e].epochs;
}

/* Images as the model of an experiment sees them: students do better with standardised pixels, the teacher not. */
static kd_data data_of(const images_set *s, int e)
{
    kd_data data = kd_data_u8(s->pixels, s->labels, s->count, 1, SIDE, SIDE, CLASSES);
    if (e != TEACHER) data.mean[0] = MEAN, data.std[0] = DEVIATION;
    return data;
}

/* Results are replaced where a run wrote them: hinton.json begins so. */
static int check_replaced(const lab *l)
{
    static const char *const names[] = {"hinton.json", "hinton.html"};
    static const char mark[] = "{\n\"kd\": \"";
    char path[MAX_PATH], first[sizeof mark] = {0};
    struct stat info;
    int i;
    for (i = 0; i < 2; ++i) {
        FILE *f;
        snprintf(path, sizeof path, "%s/%s", l->o.out, names[i]);
        if (stat(path, &info) != 0) continue;
        f = i == 0 ? fopen(path, "rb") : NULL;
        if (f) first[fread(first, 1, sizeof first - 1, f)] = 0;
        if (f) fclose(f);
        if (!l->o.force && strcmp(first, mark) != 0)
            return complain(path, "is there, and not from a run of hinton; give another --out, or --force");
    }
    return 1;
}

/* Found out before an hour's work, not after it. */
static int check_output(const lab *l)
{
    char path[MAX_PATH];
    FILE *f;
    if (!check_replaced(l)) return 0;
    if (mkdir(l->o.out, 0777) != 0 && errno != EEXIST) return complain(l->o.out, strerror(errno));
    snprintf(path, sizeof path, "%s/hinton.kd-tmp", l->o.out);
    f = fopen(path, "wb");
    if (!f) return complain(path, strerror(errno));
    fclose(f);
    (void)remove(path);
    return 1;
}

static int open_lab(lab *l)
{
    kd_ctx_desc desc = kd_ctx_defaults();
    images_options io = images_defaults();
    int i;
    desc.threads = l->o.threads ? l->o.threads : kd_cpu_count();
    l->started = seconds_now();
    if (kd_open(&desc, &l->kd) != KD_OK) return complain("the library cannot be opened", NULL);
    if (!check_output(l)) return 0;
    io.join_validation = 1;
    if (!images_load(&l->images, l->o.folder, &io)) return complain(l->images.error, NULL);
    if (l->images.height != SIDE || l->images.width != SIDE || l->images.channels != 1 ||
        l->images.class_count != CLASSES)
        return complain("these are not ten classes of grey 28x28 images", l->o.folder);
    l->train = l->images.train, l->test = l->images.test;
    if (l->o.held_out) {
        if (l->o.held_out >= l->train.count) return complain("--held-out leaves nothing to learn from", NULL);
        l->train.count -= l->o.held_out;
        l->test.pixels = l->train.pixels + (size_t)l->train.count * PIXELS;
        l->test.labels = l->train.labels + l->train.count;
        l->test.count = l->o.held_out;
    }
    if (l->o.quick && l->train.count > 20000) l->train.count = 20000;
    l->logits = (float *)malloc(sizeof(float) * CLASSES * (size_t)(l->train.count + l->test.count));
    for (i = 0; i < l->o.teachers; ++i)
        l->soft[i] = (float *)malloc(sizeof(float) * CLASSES * (size_t)l->train.count);
    for (i = 0; i < l->o.teachers; ++i) {
        if (!l->soft[i] || !l->logits) return complain("out of memory", NULL);
    }
    return 1;
}

/* ---- transfer sets --------------------------------------------------------------------------------------- */

/* The training images of some classes, with a teacher's logits. */
typedef struct transfer {
    images_set set;
    float *soft;
    int copied;
} transfer;

static void transfer_close(transfer *t)
{
    if (!t->copied) return;
    free(t->set.pixels);
    free(t->set.labels);
    free(t->soft);
}

static int transfer_open(const lab *l, int classes, float *soft, transfer *t)
{
    int i, n = 0;
    t->set = l->train, t->soft = soft, t->copied = classes != ALL;
    if (!t->copied) return 1;
    for (i = 0; i < l->train.count; ++i) n += classes >> l->train.labels[i] & 1;
    t->set.pixels = (uint8_t *)malloc((size_t)n * PIXELS);
    t->set.labels = (int32_t *)malloc((size_t)n * sizeof *t->set.labels);
    t->soft = (float *)malloc((size_t)n * CLASSES * sizeof *soft);
    t->set.count = 0;
    if (!t->set.pixels || !t->set.labels || !t->soft) {
        transfer_close(t);
        return complain("out of memory", NULL);
    }
    for (i = 0; i < l->train.count; ++i) {
        const size_t to = (size_t)t->set.count, from = (size_t)i;
        if (!(classes >> l->train.labels[i] & 1)) continue;
        memcpy(t->set.pixels + to * PIXELS, l->train.pixels + from * PIXELS, PIXELS);
        memcpy(t->soft + to * CLASSES, soft + from * CLASSES, CLASSES * sizeof *soft);
        t->set.labels[to] = l->train.labels[i];
        ++t->set.count;
    }
    return 1;
}

/* ---- the bias of classes that the transfer set distorts -------------------------------------------------- */

/* log of P(some classes) / P(the others). A bias added to the logits of those classes adds to it. */
static double log_odds(const float *row, int classes)
{
    double in = 0, out = 0;
    const double top = (double)row[report_argmax(row, CLASSES)];
    int c;
    for (c = 0; c < CLASSES; ++c) *(classes >> c & 1 ? &in : &out) += exp((double)row[c] - top);
    return log(in + 1e-300) - log(out + 1e-300);
}

/* The share of probability that some classes get, over all rows, with a bias. */
static double share_of(const double *odds, int count, double bias)
{
    double sum = 0;
    int i;
    for (i = 0; i < count; ++i) sum += 1 / (1 + exp(-odds[i] - bias));
    return sum / count;
}

/* The bias with which the classes get a share: by bisection, as the share grows with the bias. 0: no memory. */
static int bias_for_share(const float *logits, int count, int classes, double share, double *bias)
{
    double low = -30, high = 30, *odds = (double *)malloc(sizeof(double) * (size_t)count);
    int i;
    if (!odds) return complain("the bias", "there is not enough memory");
    for (i = 0; i < count; ++i) odds[i] = log_odds(logits + (size_t)i * CLASSES, classes);
    for (i = 0; i < 40; ++i) *(share_of(odds, count, (low + high) / 2) < share ? &low : &high) = (low + high) / 2;
    free(odds);
    *bias = (low + high) / 2;
    return 1;
}

static double teacher_share(const transfer *t, int classes)
{
    double sum = 0;
    int i;
    for (i = 0; i < t->set.count; ++i) sum += 1 / (1 + exp(-log_odds(t->soft + (size_t)i * CLASSES, classes)));
    return sum / t->set.count;
}

static double label_share(const images_set *s, int classes)
{
    int i, n = 0;
    for (i = 0; i < s->count; ++i) n += classes >> s->labels[i] & 1;
    return (double)n / s->count;
}

/* The bias with the fewest errors, in steps of 0.1; the middle one, if several are as good. */
static double bias_for_labels(const float *logits, const images_set *s, int classes)
{
    enum { STEPS = 200 };
    int step, i, c, least = s->count + 1, first = 0, last = 0;
    for (step = -STEPS; step <= STEPS; ++step) {
        int errors = 0;
        for (i = 0; i < s->count; ++i) {
            float row[CLASSES];
            for (c = 0; c < CLASSES; ++c)
                row[c] = logits[(size_t)i * CLASSES + (size_t)c] + (classes >> c & 1 ? 0.1f * (float)step : 0);
            errors += report_argmax(row, CLASSES) != s->labels[i];
        }
        if (errors < least) least = errors, first = step;
        if (errors == least) last = step;
    }
    return 0.05 * (first + last);
}

/* Adds to the biases of some classes in the last layer. */
static int add_bias(kd_model *m, int classes, double bias)
{
    float values[CLASSES];
    kd_tensor_info info;
    int c;
    if (kd_model_tensor_info(m, kd_model_tensors(m) - 1, &info) != KD_OK) return 0;
    if (kd_model_get_tensor(m, info.name, values, CLASSES) != KD_OK) return 0;
    for (c = 0; c < CLASSES; ++c) values[c] += classes >> c & 1 ? (float)bias : 0;
    return kd_model_set_tensor(m, info.name, values, CLASSES) == KD_OK;
}

/* ---- training and counting errors ------------------------------------------------------------------------ */

static int logits_of(const lab *l, int e, const kd_model *m, const images_set *s, float *logits)
{
    const kd_data data = data_of(s, e);
    kd_evaluate_desc desc = kd_evaluate_defaults();
    kd_metrics metrics;
    desc.logits = logits;
    return kd_evaluate_with(m, &data, &desc, &metrics) >= KD_OK || kd_complain(l, "evaluating");
}

static int count_errors(const lab *l, int e, const kd_model *m, outcome *out)
{
    const kd_data data = data_of(&l->test, e);
    kd_metrics metrics;
    if (kd_evaluate(m, &data, &metrics) != KD_OK) return kd_complain(l, "evaluating");
    out->errors = (int)lround((1 - metrics.accuracy) * metrics.count);
    out->errors_on_3 = (int)lround((1 - metrics.class_accuracy[3]) * metrics.class_count[3]);
    return 1;
}

static int train(const lab *l, int e, const transfer *t, int seed, kd_model **out)
{
    const struct experiment *x = &experiments[e];
    kd_data data = data_of(&t->set, e);
    kd_train_desc desc = kd_train_defaults();
    if (kd_model_create(l->kd, x->spec, (uint64_t)seed, out) != KD_OK) return kd_complain(l, x->title);
    desc.seed = (uint64_t)seed;
    desc.epochs = epochs_of(l, e);
    desc.batch = BATCH;
    desc.lr = (float)x->rate;
    desc.optimizer = KD_ADAMW;
    desc.weight_decay = (float)x->decay;
    desc.schedule = KD_COSINE;
    if (e == TEACHER) {
        desc.augment.shift = SHIFT;
        desc.max_norm = (float)MAX_NORM;
    }
    if (x->temperature > 0) {
        data.teacher_logits = t->soft;
        desc.loss = kd_loss_defaults(KD_LOSS_HINTON);
        desc.loss.temperature = (float)x->temperature;
        desc.loss.alpha = (float)ALPHA;
    }
    return kd_train(*out, &data, &desc) == KD_OK || kd_complain(l, x->title);
}

/* Counts a student's errors as trained and with its biases corrected in each of the ways. */
static int correct_biases(lab *l, int e, const transfer *t, int index, kd_model *m)
{
    const int classes = experiments[e].corrected, train_count = l->train.count;
    float *test_logits = l->logits + (size_t)train_count * CLASSES;
    double bias[BIAS_COUNT] = {0};
    int way;
    if (!logits_of(l, e, m, &t->set, l->logits)) return 0;
    if (!bias_for_share(l->logits, t->set.count, classes, teacher_share(t, classes), &bias[BY_TEACHER])) return 0;
    if (!logits_of(l, e, m, &l->train, l->logits) || !logits_of(l, e, m, &l->test, test_logits)) return 0;
    if (!bias_for_share(l->logits, train_count, classes, label_share(&l->train, classes), &bias[BY_PRIORS]))
        return 0;
    bias[BY_TEST] = bias_for_labels(test_logits, &l->test, classes);
    for (way = AS_TRAINED + 1; way < BIAS_COUNT; ++way) {
        outcome *out = &l->outcomes[e][way][index];
        out->bias = bias[way];
        if (!add_bias(m, classes, bias[way]) || !count_errors(l, e, m, out) || !add_bias(m, classes, -bias[way]))
            return 0;
        printf("    %s %+.1f: %d errors, %d on 3s\n", bias_names[way], out->bias, out->errors, out->errors_on_3);
    }
    return 1;
}

/* What an image costs in training; the second number stands for all that is no multiplication. */
static double work_of(const lab *l, int e)
{
    const double macs = e == TEACHER ? 2.4e6 : strcmp(experiments[e].spec, TINY) ? 1.3e6 : 2.5e4;
    return (macs + 6e4) * epochs_of(l, e) * l->train.count * label_share(&l->train, experiments[e].transfer);
}

static int run_one(lab *l, int e, int index)
{
    const double started = seconds_now();
    outcome *out = &l->outcomes[e][AS_TRAINED][index];
    const int seed = l->o.first_seed + index;
    kd_model *m = NULL;
    transfer t;
    int ok;
    if (!transfer_open(l, experiments[e].transfer, l->soft[index % l->o.teachers], &t)) return 0;
    ok = train(l, e, &t, seed, &m) && count_errors(l, e, m, out);
    if (ok && e == TEACHER) ok = logits_of(l, e, m, &l->train, l->soft[index]);
    l->work_done += work_of(l, e);
    if (ok) {
        const double now = seconds_now(), left = (l->work / l->work_done - 1) * (now - l->started);
        printf("%-48s seed %d: %4d errors   %4.0f s, %.0f min left\n", experiments[e].title, seed, out->errors,
               now - started, left / 60);
    }
    if (ok && experiments[e].corrected) ok = correct_biases(l, e, &t, index, m);
    kd_model_destroy(m);
    transfer_close(&t);
    return ok;
}

static int run_all(lab *l)
{
    int e, i;
    for (e = 0; e < EXPERIMENT_COUNT; ++e) l->work += seeds_of(l, e) * work_of(l, e);
    for (e = 0; e < EXPERIMENT_COUNT; ++e) {
        for (i = 0; i < seeds_of(l, e); ++i) {
            if (!run_one(l, e, i)) return 0;
        }
    }
    return 1;
}

/* ---- figures --------------------------------------------------------------------------------------------- */

/* Errors of an experiment over its seeds: in all, or on the 3s alone. */
static report_statistic errors_of(const lab *l, int e, int way, int on_3)
{
    const outcome *o = l->outcomes[e][way];
    const int count = seeds_of(l, e);
    report_statistic s = {0, 0, 0};
    int i;
    for (i = 0; i < count; ++i) s.mean += (double)(on_3 ? o[i].errors_on_3 : o[i].errors) / count;
    for (i = 0; i < count; ++i) s.sd += pow((on_3 ? o[i].errors_on_3 : o[i].errors) - s.mean, 2);
    s.sd = count > 1 ? sqrt(s.sd / (count - 1)) : 0;
    return s;
}

/* "112.4 +- 6.1", and what else the paper counts. */
static report_text figure_of(const lab *l, int e, int way, const char *sign)
{
    const report_statistic all = errors_of(l, e, way, 0), on_3 = errors_of(l, e, way, 1);
    const double percent = experiments[e].corrected == SEVEN_EIGHT ? 100.0 / l->test.count : 1;
    report_text t;
    int n = snprintf(t.chars, sizeof t.chars, "%.1f %s %.1f", percent * all.mean, sign, percent * all.sd);
    if (experiments[e].corrected == SEVEN_EIGHT) snprintf(t.chars + n, sizeof t.chars - (size_t)n, " %%");
    if (experiments[e].corrected == THREE)
        snprintf(t.chars + n, sizeof t.chars - (size_t)n, " / %.1f %s %.1f", on_3.mean, sign, on_3.sd);
    return t;
}

static int ways_of(int e) { return experiments[e].corrected ? BIAS_COUNT : 1; }

static const char *paper_of(int e, int way) { return experiments[e].paper[way]; }

/* "student 800-800, no 3 in the transfer set, bias by test errors (+2.1)" */
static void row_title(const lab *l, int e, int way, char *text, size_t size)
{
    double bias = 0;
    int i;
    for (i = 0; i < seeds_of(l, e); ++i) bias += l->outcomes[e][way][i].bias / seeds_of(l, e);
    if (way == AS_TRAINED)
        snprintf(text, size, "%s", experiments[e].title);
    else
        snprintf(text, size, "%s, %s (%+.1f)", experiments[e].title, bias_names[way], bias);
}

static void what_was_done(const lab *l, char *text, size_t size)
{
    snprintf(text, size,
             "%sErrors on %d %s images, after learning from %d; %d teacher(s), %d student(s) 800-800 and %d 30-30 "
             "of each kind.",
             l->o.quick ? "QUICK RUN: fewer images, epochs and seeds than the experiments need. " : "",
             l->test.count, l->o.held_out ? "held-out training" : "test", l->train.count, l->o.teachers,
             l->o.large_seeds, l->o.seeds);
}

static void verdict(const lab *l, char *text, size_t size)
{
    const double alone = errors_of(l, ALONE, AS_TRAINED, 0).mean,
                 soft = errors_of(l, DISTILLED, AS_TRAINED, 0).mean;
    snprintf(text, size,
             "The distilled 800-800 makes %.1f errors, %.0f %% of the %.1f that it makes alone; the paper: 74, "
             "51 %% of 146.",
             soft, 100 * soft / alone, alone);
}

static void print_table(const lab *l)
{
    char text[512];
    int e, way;
    what_was_done(l, text, sizeof text);
    printf("\n%s\n\n%-96s %10s   here\n", text, "", "paper");
    for (e = 0; e < EXPERIMENT_COUNT; ++e) {
        for (way = 0; way < ways_of(e); ++way) {
            row_title(l, e, way, text, sizeof text);
            printf("%-96s %10s   %s\n", text, paper_of(e, way), figure_of(l, e, way, "+-").chars);
        }
    }
    verdict(l, text, sizeof text);
    printf("\n%s\n%.0f minutes.\n", text, (seconds_now() - l->started) / 60);
}

/* ---- hinton.json and hinton.html ------------------------------------------------------------------------- */

static FILE *output_open(const lab *l, const char *name)
{
    char path[MAX_PATH];
    FILE *f;
    snprintf(path, sizeof path, "%s/%s", l->o.out, name);
    f = fopen(path, "wb");
    if (!f) (void)complain(path, strerror(errno));
    return f;
}

static int output_close(FILE *f, const char *name)
{
    const int bad = ferror(f);
    return (fclose(f) == 0 && !bad) || complain(name, "could not be written");
}

static void json_row(FILE *f, const lab *l, int e, int way)
{
    const struct experiment *x = &experiments[e];
    const char *const names[] = {"errors", "errors_on_3"};
    int i, on_3;
    fprintf(
        f,
        "{\"title\": \"%s\", \"bias_set\": \"%s\", \"model\": \"%s\", \"epochs\": %d, \"lr\": %g, \"decay\": %g, "
        "\"temperature\": %g, \"paper\": \"%s\"",
        x->title, bias_names[way], x->spec, epochs_of(l, e), x->rate, x->decay, x->temperature, paper_of(e, way));
    for (on_3 = 0; on_3 < 2; ++on_3) {
        const report_statistic s = errors_of(l, e, way, on_3);
        fprintf(f, ",\n \"%s\": {\"mean\": %.3f, \"sd\": %.3f, \"seeds\": [", names[on_3], s.mean, s.sd);
        for (i = 0; i < seeds_of(l, e); ++i) {
            const outcome *o = &l->outcomes[e][way][i];
            fprintf(f, "%s%d", i ? ", " : "", on_3 ? o->errors_on_3 : o->errors);
        }
        fputs("]}", f);
    }
    fputs(", \"bias\": [", f);
    for (i = 0; i < seeds_of(l, e); ++i) fprintf(f, "%s%.2f", i ? ", " : "", l->outcomes[e][way][i].bias);
    fputs("]}", f);
}

static int write_json(const lab *l)
{
    FILE *f = output_open(l, "hinton.json");
    int e, way;
    if (!f) return 0;
    fprintf(f,
            "{\n\"kd\": \"%s\", \"quick\": %s, \"held_out\": %d, \"train\": %d, \"test\": %d, \"seeds\": %d, "
            "\"teachers\": %d, \"first_seed\": %d,\n\"alpha\": %g, \"batch\": %d, \"seconds\": %.0f,\n\"rows\": [",
            kd_version(), l->o.quick ? "true" : "false", l->o.held_out, l->train.count, l->test.count, l->o.seeds,
            l->o.teachers, l->o.first_seed, ALPHA, BATCH, seconds_now() - l->started);
    for (e = 0; e < EXPERIMENT_COUNT; ++e) {
        for (way = 0; way < ways_of(e); ++way) {
            fputs(e + way ? ",\n" : "\n", f);
            json_row(f, l, e, way);
        }
    }
    fputs("\n]}\n", f);
    return output_close(f, "hinton.json");
}

static void page_card(FILE *f, const lab *l, int e, const char *title, const char *colour)
{
    fprintf(
        f,
        "<div class=\"card\"><h3><span class=\"key\" style=\"background:var(--%s)\"></span>%s</h3><div "
        "class=\"big\">%s <small>errors</small></div><dl><dt>in the paper</dt><dd>%s</dd><dt>model</dt><dd><code>"
        "%s</code></dd></dl></div>",
        colour, title, figure_of(l, e, AS_TRAINED, "&plusmn;").chars, paper_of(e, AS_TRAINED), experiments[e].spec);
}

static double accuracy_of(const lab *l, int e, int index)
{
    return 1 - (double)l->outcomes[e][AS_TRAINED][index].errors / l->test.count;
}

static double mean_accuracy(const lab *l, int e) { return 1 - errors_of(l, e, AS_TRAINED, 0).mean / l->test.count; }

static void page_line(const report_axes *a, double x0, double y0, double x1, double y1, const char *style)
{
    fprintf(a->f, "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke-width=\"2\" %s/>", report_x(a, x0),
            report_y(a, y0), report_x(a, x1), report_y(a, y1), style);
}

/* Accuracy of the 30-30 student by temperature: a dot a seed, a line through the means. */
static void page_sweep(FILE *f, const lab *l)
{
    const double alone = mean_accuracy(l, TINY_ALONE);
    report_axes a;
    int e, i;
    a.f = f, a.left = log2(0.8), a.right = log2(25), a.low = alone, a.high = alone;
    for (e = TINY_FIRST; e < EXPERIMENT_COUNT; ++e) {
        for (i = 0; i < l->o.seeds; ++i) report_widen(&a, accuracy_of(l, e, i));
    }
    report_margin(&a, 0.001);
    fputs("<div class=\"card\"><h3>30-30 by temperature; dashed: alone</h3>", f);
    report_axes_open(&a, "temperature");
    page_line(&a, a.left, alone, a.right, alone, "stroke=\"var(--a)\" stroke-dasharray=\"6 4\"");
    for (e = TINY_FIRST; e < EXPERIMENT_COUNT; ++e) {
        const double t = log2(experiments[e].temperature);
        if (e > TINY_FIRST)
            page_line(&a, log2(experiments[e - 1].temperature), mean_accuracy(l, e - 1), t, mean_accuracy(l, e),
                      "stroke=\"var(--d)\"");
        fprintf(f, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%g</text>", report_x(&a, t),
                REPORT_HEIGHT - REPORT_BOTTOM + 17, experiments[e].temperature);
        for (i = 0; i < l->o.seeds; ++i)
            fprintf(f, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3\" fill=\"var(--d)\" fill-opacity=\".6\"/>",
                    report_x(&a, t), report_y(&a, accuracy_of(l, e, i)));
    }
    fputs("</svg></div>", f);
}

/* Seed by seed, with the chart of the distillation report. */
static void page_seeds(FILE *f, const lab *l)
{
    static report_run alone[MAX_SEEDS], soft[MAX_SEEDS];
    report r;
    int i;
    memset(&r, 0, sizeof r);
    for (i = 0; i < l->o.large_seeds; ++i) {
        alone[i].test.accuracy = accuracy_of(l, ALONE, i);
        soft[i].test.accuracy = accuracy_of(l, DISTILLED, i);
    }
    r.ways[0].runs = alone, r.ways[0].title = "student alone";
    r.ways[1].runs = soft, r.ways[1].title = "student distilled";
    r.seeds = l->o.large_seeds, r.way_count = 2, r.headline = 1, r.teacher_known = 1;
    r.first_seed = l->o.first_seed;
    r.teacher_run.test.accuracy = mean_accuracy(l, TEACHER);
    report_seeds(f, &r);
}

static void page_table(FILE *f, const lab *l)
{
    char text[512];
    int e, way;
    fprintf(
        f,
        "<h2>Every figure, and how it came about</h2><p>Errors: mean and standard deviation over the seeds; in "
        "brackets what was added to the biases. AdamW, batches of %d, the learning rate lowered along a cosine. "
        "Soft targets weigh %g, labels %g. Teacher: shifts of up to %d pixels, weights into a unit at most %g "
        "long. %s</p><div class=\"card scroll\"><table><tr><th></th><th>paper</th><th>here</th><th>epochs</th>"
        "<th>learning rate</th><th>decay</th></tr>",
        BATCH, ALPHA, 1 - ALPHA, SHIFT, MAX_NORM, CHOSEN);
    for (e = 0; e < EXPERIMENT_COUNT; ++e) {
        for (way = 0; way < ways_of(e); ++way) {
            row_title(l, e, way, text, sizeof text);
            fprintf(f,
                    "<tr><td style=\"text-align:left\">%s</td><td>%s</td><td>%s</td><td>%d</td><td>%g</td>"
                    "<td>%g</td></tr>",
                    text, paper_of(e, way), figure_of(l, e, way, "&plusmn;").chars, epochs_of(l, e),
                    experiments[e].rate, experiments[e].decay);
        }
    }
    fprintf(f, "</table></div><p>%.0f minutes.</p>", (seconds_now() - l->started) / 60);
}

static int write_page(const lab *l)
{
    FILE *f = output_open(l, "hinton.html");
    char text[512];
    if (!f) return 0;
    report_open_page(f, "Distilling MNIST");
    fputs("<h1>Distilling the knowledge in a neural network</h1><p>Hinton, Vinyals and Dean 2015, section 3, "
          "repeated. ",
          f);
    what_was_done(l, text, sizeof text);
    fprintf(f, "%s</p>", text);
    verdict(l, text, sizeof text);
    fprintf(f, "<p class=\"lead\">%s</p><div class=\"row\">", text);
    page_card(f, l, TEACHER, "Teacher", "t");
    page_card(f, l, ALONE, "Student alone", "a");
    page_card(f, l, DISTILLED, "Student distilled", "d");
    fputs(
        "</div><h2>Results</h2><p>The paper finds all temperatures above 8 alike for large students, and 2.5 to 4 "
        "best for one with 30 units a layer.</p><div class=\"row wide\">",
        f);
    page_seeds(f, l);
    page_sweep(f, l);
    fputs("</div>", f);
    page_table(f, l);
    report_close_page(f, "hinton");
    return output_close(f, "hinton.html");
}

int main(int argc, char **argv)
{
    static lab l; /* zeroed */
    char text[512];
    int i, done;
    const int parsed = parse_options(&l.o, argc, argv);
    if (parsed <= 0) return parsed < 0 ? EXIT_SUCCESS : EXIT_FAILURE;
    setvbuf(stdout, NULL, _IOLBF, BUFSIZ); /* a log can be followed */
    done = open_lab(&l);
    if (done) {
        what_was_done(&l, text, sizeof text);
        printf("%s %s\n\n", text, CHOSEN);
        done = run_all(&l);
    }
    if (done) {
        print_table(&l);
        done = write_json(&l) && write_page(&l);
    }
    if (done) printf("%s/hinton.html has it all.\n", l.o.out);
    for (i = 0; i < MAX_SEEDS; ++i) free(l.soft[i]);
    free(l.logits);
    images_free(&l.images);
    kd_close(l.kd);
    return done ? EXIT_SUCCESS : EXIT_FAILURE;
}
