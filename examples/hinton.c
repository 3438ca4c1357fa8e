/* hinton.c - the MNIST experiments of Hinton, Vinyals and Dean 2015, "Distilling the Knowledge in a Neural Network",
   section 3: what a large net has learned can be taught to a small one through its softened outputs, even about
   digits of which the small one never sees an image.

       cc -O2 -fopenmp -o hinton examples/hinton.c -lm         (needs stb: apt-get install libstb-dev)
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

#define LARGE "1x28x28: dropout 0.2, dense 1200, relu, dropout 0.5, dense 1200, relu, dropout 0.5, dense 10"
#define SMALL "1x28x28: dense 800, relu, dense 800, relu, dense 10"
#define TINY "1x28x28: dense 30, relu, dense 30, relu, dense 10"

enum { ALL = (1 << CLASSES) - 1, THREE = 1 << 3, SEVEN_EIGHT = 1 << 7 | 1 << 8 };

enum {
    TEACHER,
    ALONE,
    DISTILLED,
    NO_3,
    ONLY_7_8,
    TINY_ALONE,
    TINY_1,
    TINY_2,
    TINY_2_5,
    TINY_3,
    TINY_4,
    TINY_8,
    TINY_20,
    EXPERIMENT_COUNT
};

static const struct experiment {
    const char *title, *spec;
    int epochs;
    double rate;        /* of learning at the start, lowered along a cosine */
    double temperature; /* 0: no teacher, labels only */
    int transfer;       /* classes whose images it learns from, a bit each */
    int corrected;      /* classes whose bias is set afterwards */
} experiments[EXPERIMENT_COUNT] = {
    {"teacher 1200-1200, dropout, max-norm, shifts", LARGE, 60, 0.001, 0, ALL, 0},
    {"student 800-800 alone, no regularisation", SMALL, 20, 0.001, 0, ALL, 0},
    {"student 800-800 distilled, T = 20", SMALL, 30, 0.001, 20, ALL, 0},
    {"student 800-800, no 3 in the transfer set", SMALL, 15, 0.001, 20, ALL & ~THREE, THREE},
    {"student 800-800, only 7s and 8s", SMALL, 30, 0.001, 20, SEVEN_EIGHT, SEVEN_EIGHT},
    {"student 30-30 alone", TINY, 20, 0.004, 0, ALL, 0},
    {"student 30-30 distilled, T = 1", TINY, 20, 0.004, 1, ALL, 0},
    {"student 30-30 distilled, T = 2", TINY, 20, 0.004, 2, ALL, 0},
    {"student 30-30 distilled, T = 2.5", TINY, 20, 0.004, 2.5, ALL, 0},
    {"student 30-30 distilled, T = 3", TINY, 20, 0.004, 3, ALL, 0},
    {"student 30-30 distilled, T = 4", TINY, 20, 0.004, 4, ALL, 0},
    {"student 30-30 distilled, T = 8", TINY, 20, 0.004, 8, ALL, 0},
    {"student 30-30 distilled, T = 20", TINY, 20, 0.004, 20, ALL, 0},
};

/* Common to all. The teacher is regularised as in the paper's reference [5]; its students are not. */
static const double ALPHA = 0.95;                       /* weight of the soft targets; the labels have the rest */
static const double MAX_NORM = 3.87;                    /* of the weights into a unit: the square root of 15 */
static const float MEAN = 0.1307f, DEVIATION = 0.3081f; /* of the training pixels, black 0 and white 1 */
static const int BATCH = 128, SHIFT = 2;
static const char CHOSEN[] = "Settings were chosen on 10 000 held-out training images.";

/* Ways to set the bias of classes that the transfer set shows too seldom or too often. */
enum { AS_TRAINED, BY_TEACHER, BY_PRIORS, BY_TEST, BIAS_COUNT };
static const char *const bias_names[] = {"as trained", "bias by the teacher's shares on the transfer set",
                                         "bias by priors, on unlabelled training images",
                                         "bias by test errors, as in the paper"};

/* What is printed: a figure of an experiment beside the paper's. */
typedef enum unit { ERRORS, ERRORS_ON_3, PERCENT } unit;
static const struct row {
    int experiment, bias;
    unit unit;
    const char *paper;
} rows[] = {
    {TEACHER, AS_TRAINED, ERRORS, "67"},    {ALONE, AS_TRAINED, ERRORS, "146"},
    {DISTILLED, AS_TRAINED, ERRORS, "74"},  {NO_3, AS_TRAINED, ERRORS, "206"},
    {NO_3, AS_TRAINED, ERRORS_ON_3, "133"}, {NO_3, BY_TEACHER, ERRORS, ""},
    {NO_3, BY_TEACHER, ERRORS_ON_3, ""},    {NO_3, BY_PRIORS, ERRORS, ""},
    {NO_3, BY_PRIORS, ERRORS_ON_3, ""},     {NO_3, BY_TEST, ERRORS, "109"},
    {NO_3, BY_TEST, ERRORS_ON_3, "14"},     {ONLY_7_8, AS_TRAINED, PERCENT, "47.3 %"},
    {ONLY_7_8, BY_TEACHER, PERCENT, ""},    {ONLY_7_8, BY_PRIORS, PERCENT, ""},
    {ONLY_7_8, BY_TEST, PERCENT, "13.2 %"}, {TINY_ALONE, AS_TRAINED, ERRORS, ""},
    {TINY_1, AS_TRAINED, ERRORS, ""},       {TINY_2, AS_TRAINED, ERRORS, ""},
    {TINY_2_5, AS_TRAINED, ERRORS, "best"}, {TINY_3, AS_TRAINED, ERRORS, "best"},
    {TINY_4, AS_TRAINED, ERRORS, "best"},   {TINY_8, AS_TRAINED, ERRORS, ""},
    {TINY_20, AS_TRAINED, ERRORS, ""},
};
enum { ROW_COUNT = (int)(sizeof rows / sizeof *rows) };

/* ---- options --------------------------------------------------------------------------------------------- */

typedef struct options {
    const char *folder, *out;
    int seeds, teachers, first_seed, threads, quick, held_out;
} options;

static const struct option {
    const char *name;
    size_t field;
    int most; /* 0: text; 1: a switch without value */
    const char *help;
} option_table[] = {
    {"seeds", offsetof(options, seeds), MAX_SEEDS, "N       students of each kind (5)"},
    {"teachers", offsetof(options, teachers), MAX_SEEDS, "N    teachers that they are shared among (2)"},
    {"seed", offsetof(options, first_seed), 1000000, "N        the first seed (1)"},
    {"threads", offsetof(options, threads), 256, "N     0: one for each processor; the results are the same (0)"},
    {"held-out", offsetof(options, held_out), 30000,
     "N    count errors on the last N training images, not learned from, instead of the test images: for choosing"},
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
    char *end;
    long number;
    if (p->most == 0) {
        *(const char **)(void *)((char *)o + p->field) = value;
        return 1;
    }
    number = p->most == 1 ? 1 : strtol(value, &end, 10);
    if (p->most > 1 && (end == value || *end || number < 0 || number > p->most))
        return complain("not a number that this option takes", value);
    *(int *)(void *)((char *)o + p->field) = (int)number;
    return 1;
}

/* Returns 1 to go on, 0 after a complaint, -1 after --help. */
static int parse_options(options *o, int argc, char **argv)
{
    int i, k;
    o->out = "out-hinton", o->first_seed = 1;
    for (i = 1; i < argc; ++i) {
        if (strcmp(argv[i], "--help") == 0) return print_help();
        if (argv[i][0] != '-') {
            o->folder = argv[i];
            continue;
        }
        for (k = 0; k < OPTION_COUNT; ++k) {
            if (strncmp(argv[i], "--", 2) == 0 && strcmp(argv[i] + 2, option_table[k].name) == 0) break;
        }
        if (k == OPTION_COUNT) return complain("there is no such option; hinton --help lists them", argv[i]);
        if (option_table[k].most != 1 && i + 1 == argc) return complain("this option needs a value", argv[i]);
        if (!parse_option(o, &option_table[k], option_table[k].most == 1 ? "" : argv[++i])) return 0;
    }
    if (!o->folder) return complain("which folder has MNIST? hinton --help says more", NULL);
    if (!o->seeds) o->seeds = o->quick ? 2 : 5;
    if (!o->teachers) o->teachers = o->quick ? 1 : 2;
    if (o->teachers > o->seeds) o->teachers = o->seeds;
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

static int seeds_of(const lab *l, int e) { return e == TEACHER ? l->o.teachers : l->o.seeds; }

static int epochs_of(const lab *l, int e)
{
    return l->o.quick ? (experiments[e].epochs + 2) / 3 : experiments[e].epochs;
}

static kd_data data_of(const images_set *s)
{
    kd_data data = kd_data_u8(s->pixels, s->labels, s->count, 1, SIDE, SIDE, CLASSES);
    data.mean[0] = MEAN, data.std[0] = DEVIATION;
    return data;
}

static int open_lab(lab *l)
{
    kd_ctx_desc desc = kd_ctx_defaults();
    int i;
#ifdef _OPENMP
    desc.threads = l->o.threads ? l->o.threads : omp_get_num_procs() < 256 ? omp_get_num_procs() : 256;
#endif
    l->started = seconds_now();
    if (kd_open(&desc, &l->kd) != KD_OK) return complain("the library cannot be opened", NULL);
    if (mkdir(l->o.out, 0777) != 0 && errno != EEXIST) return complain(l->o.out, strerror(errno));
    if (!images_load(&l->images, l->o.folder, NULL)) return complain(l->images.error, NULL);
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

/* The bias with which the classes get a share: by bisection, as the share grows with the bias. */
static double bias_for_share(const float *logits, int count, int classes, double share)
{
    double low = -30, high = 30, *odds = (double *)malloc(sizeof(double) * (size_t)count);
    int i;
    if (!odds) return 0;
    for (i = 0; i < count; ++i) odds[i] = log_odds(logits + (size_t)i * CLASSES, classes);
    for (i = 0; i < 40; ++i) *(share_of(odds, count, (low + high) / 2) < share ? &low : &high) = (low + high) / 2;
    free(odds);
    return (low + high) / 2;
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

static int logits_of(const lab *l, const kd_model *m, const images_set *s, float *logits)
{
    const kd_data data = data_of(s);
    kd_evaluate_desc desc = kd_evaluate_defaults();
    kd_metrics metrics;
    desc.logits = logits;
    return kd_evaluate_with(m, &data, &desc, &metrics) >= KD_OK || kd_complain(l, "evaluating");
}

static int count_errors(const lab *l, const kd_model *m, outcome *out)
{
    const kd_data data = data_of(&l->test);
    kd_metrics metrics;
    if (kd_evaluate(m, &data, &metrics) != KD_OK) return kd_complain(l, "evaluating");
    out->errors = (int)lround((1 - metrics.accuracy) * metrics.count);
    out->errors_on_3 = (int)lround((1 - metrics.class_accuracy[3]) * metrics.class_count[3]);
    return 1;
}

static int train(const lab *l, int e, const transfer *t, int seed, kd_model **out)
{
    const struct experiment *x = &experiments[e];
    kd_data data = data_of(&t->set);
    kd_train_desc desc = kd_train_defaults();
    if (kd_model_create(l->kd, x->spec, (uint64_t)seed, out) != KD_OK) return kd_complain(l, x->title);
    desc.seed = (uint64_t)seed;
    desc.epochs = epochs_of(l, e);
    desc.batch = BATCH;
    desc.lr = (float)x->rate;
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
    if (!logits_of(l, m, &t->set, l->logits)) return 0;
    bias[BY_TEACHER] = bias_for_share(l->logits, t->set.count, classes, teacher_share(t, classes));
    if (!logits_of(l, m, &l->train, l->logits) || !logits_of(l, m, &l->test, test_logits)) return 0;
    bias[BY_PRIORS] = bias_for_share(l->logits, train_count, classes, label_share(&l->train, classes));
    bias[BY_TEST] = bias_for_labels(test_logits, &l->test, classes);
    for (way = AS_TRAINED + 1; way < BIAS_COUNT; ++way) {
        outcome *out = &l->outcomes[e][way][index];
        out->bias = bias[way];
        if (!add_bias(m, classes, bias[way]) || !count_errors(l, m, out) || !add_bias(m, classes, -bias[way]))
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
    ok = train(l, e, &t, seed, &m) && count_errors(l, m, out);
    if (ok && e == TEACHER) ok = logits_of(l, m, &l->train, l->soft[index]);
    l->work_done += work_of(l, e);
    if (ok) {
        const double now = seconds_now(), left = (l->work / l->work_done - 1) * (now - l->started);
        printf("%-48s seed %d: %4d errors   %4.0f s, %.0f min left\n", experiments[e].title, seed, out->errors,
               now - started, left / 60);
    }
    if (ok && experiments[e].corrected) ok = correct_biases(l, e, &t, index, m);
    fflush(stdout);
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

static double value_of(const lab *l, const struct row *r, int index)
{
    const outcome *o = &l->outcomes[r->experiment][r->bias][index];
    if (r->unit == PERCENT) return 100.0 * o->errors / l->test.count;
    return r->unit == ERRORS_ON_3 ? o->errors_on_3 : o->errors;
}

static report_statistic statistic_of(const lab *l, const struct row *r)
{
    const int count = seeds_of(l, r->experiment);
    report_statistic s = {0, 0};
    int i;
    for (i = 0; i < count; ++i) s.mean += value_of(l, r, i) / count;
    for (i = 0; i < count; ++i) s.sd += (value_of(l, r, i) - s.mean) * (value_of(l, r, i) - s.mean);
    s.sd = count > 1 ? sqrt(s.sd / (count - 1)) : 0;
    return s;
}

static double mean_errors(const lab *l, int e)
{
    const struct row r = {e, AS_TRAINED, ERRORS, ""};
    return statistic_of(l, &r).mean;
}

static double mean_bias(const lab *l, int e, int way)
{
    double sum = 0;
    int i;
    for (i = 0; i < l->o.seeds; ++i) sum += l->outcomes[e][way][i].bias / l->o.seeds;
    return sum;
}

/* "student 800-800, no 3 in the transfer set, bias by test errors (+2.1): errors on 3s" */
static void row_title(const lab *l, const struct row *r, char *text, size_t size)
{
    const struct experiment *x = &experiments[r->experiment];
    const char *const units[] = {"", ": on the 3s alone", ""};
    char bias[128] = "";
    if (r->bias != AS_TRAINED)
        snprintf(bias, sizeof bias, ", %s (%+.1f)", bias_names[r->bias], mean_bias(l, r->experiment, r->bias));
    snprintf(text, size, "%s%s%s", x->title, bias, units[r->unit]);
}

static void what_was_done(const lab *l, char *text, size_t size)
{
    snprintf(text, size,
             "%sErrors on %d %s images, after learning from %d; %d student%s of each kind, %d teacher%s.",
             l->o.quick ? "QUICK RUN: fewer images, epochs and seeds than the experiments need. " : "",
             l->test.count, l->o.held_out ? "held-out training" : "test", l->train.count, l->o.seeds,
             l->o.seeds == 1 ? "" : "s", l->o.teachers, l->o.teachers == 1 ? "" : "s");
}

static void verdict(const lab *l, char *text, size_t size)
{
    const double alone = mean_errors(l, ALONE), soft = mean_errors(l, DISTILLED);
    snprintf(text, size,
             "The distilled 800-800 makes %.1f errors, %.0f %% of the %.1f that it makes alone; the paper: 74, "
             "51 %% of 146.",
             soft, 100 * soft / alone, alone);
}

static void print_table(const lab *l)
{
    char text[512];
    int i;
    what_was_done(l, text, sizeof text);
    printf("\n%s\n\n%-100s %8s %16s\n", text, "", "paper", "here");
    for (i = 0; i < ROW_COUNT; ++i) {
        const report_statistic s = statistic_of(l, &rows[i]);
        row_title(l, &rows[i], text, sizeof text);
        printf("%-100s %8s %8.1f +- %-4.1f%s\n", text, rows[i].paper, s.mean, s.sd,
               rows[i].unit == PERCENT ? " %" : "");
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

static int write_json(const lab *l)
{
    FILE *f = output_open(l, "hinton.json");
    int i, k;
    if (!f) return 0;
    fprintf(f,
            "{\n\"kd\": \"%s\", \"quick\": %s, \"held_out\": %d, \"train\": %d, \"test\": %d, \"seeds\": %d, "
            "\"teachers\": %d, \"first_seed\": %d,\n\"alpha\": %g, \"batch\": %d, \"seconds\": %.0f,\n\"rows\": [",
            kd_version(), l->o.quick ? "true" : "false", l->o.held_out, l->train.count, l->test.count, l->o.seeds,
            l->o.teachers, l->o.first_seed, ALPHA, BATCH, seconds_now() - l->started);
    for (i = 0; i < ROW_COUNT; ++i) {
        const struct experiment *x = &experiments[rows[i].experiment];
        const report_statistic s = statistic_of(l, &rows[i]);
        char title[512];
        row_title(l, &rows[i], title, sizeof title);
        fprintf(f,
                "%s\n{\"title\": \"%s\", \"model\": \"%s\", \"epochs\": %d, \"lr\": %g, \"temperature\": %g, "
                "\"unit\": \"%s\", \"paper\": \"%s\", \"mean\": %.3f, \"sd\": %.3f, \"values\": [",
                i ? "," : "", title, x->spec, epochs_of(l, rows[i].experiment), x->rate, x->temperature,
                rows[i].unit == PERCENT ? "percent" : "errors", rows[i].paper, s.mean, s.sd);
        for (k = 0; k < seeds_of(l, rows[i].experiment); ++k)
            fprintf(f, "%s%g", k ? ", " : "", value_of(l, &rows[i], k));
        fputs("]}", f);
    }
    fputs("\n]}\n", f);
    return output_close(f, "hinton.json");
}

static void page_card(FILE *f, const lab *l, int row, const char *title, const char *colour)
{
    const report_statistic s = statistic_of(l, &rows[row]);
    fprintf(f,
            "<div class=\"card\"><h3><span class=\"key\" style=\"background:var(--%s)\"></span>%s</h3><div "
            "class=\"big\">%.1f <small>&plusmn;&nbsp;%.1f errors</small></div><dl><dt>in the paper</dt><dd>%s</dd>"
            "<dt>model</dt><dd><code>%s</code></dd></dl></div>",
            colour, title, s.mean, s.sd, rows[row].paper, experiments[rows[row].experiment].spec);
}

/* Accuracy of the 30-30 student by temperature: a dot a seed, a line through the means. */
static void page_sweep(FILE *f, const lab *l)
{
    report_axes a;
    int e, i;
    a.f = f, a.left = log2(0.8), a.right = log2(25), a.low = 1, a.high = 0;
    for (e = TINY_ALONE; e <= TINY_20; ++e) {
        for (i = 0; i < l->o.seeds; ++i)
            report_widen(&a, 1 - (double)l->outcomes[e][AS_TRAINED][i].errors / l->test.count);
    }
    a.low -= 0.001, a.high += 0.001;
    fputs("<div class=\"card\"><h3>30-30 by temperature; dashed: alone</h3>", f);
    report_axes_open(&a, "temperature");
    for (e = TINY_ALONE; e <= TINY_20; ++e) {
        const double t = experiments[e].temperature, mean = 1 - mean_errors(l, e) / l->test.count;
        const double left = e == TINY_ALONE ? a.left : log2(experiments[e - (e > TINY_1)].temperature);
        const double from = e > TINY_1 ? 1 - mean_errors(l, e - 1) / l->test.count : mean;
        fprintf(f,
                "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke-width=\"2\" stroke=\"var(--%s)\"%s/>",
                report_x(&a, left), report_y(&a, from), report_x(&a, t > 0 ? log2(t) : a.right), report_y(&a, mean),
                t > 0 ? "d" : "a", t > 0 ? "" : " stroke-dasharray=\"6 4\"");
        if (t <= 0) continue;
        fprintf(f, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%g</text>", report_x(&a, log2(t)),
                REPORT_HEIGHT - REPORT_BOTTOM + 17, t);
        for (i = 0; i < l->o.seeds; ++i)
            fprintf(f, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3\" fill=\"var(--d)\" fill-opacity=\".6\"/>",
                    report_x(&a, log2(t)),
                    report_y(&a, 1 - (double)l->outcomes[e][AS_TRAINED][i].errors / l->test.count));
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
    for (i = 0; i < l->o.seeds; ++i) {
        alone[i].test.accuracy = 1 - (double)l->outcomes[ALONE][AS_TRAINED][i].errors / l->test.count;
        soft[i].test.accuracy = 1 - (double)l->outcomes[DISTILLED][AS_TRAINED][i].errors / l->test.count;
    }
    r.seeds = l->o.seeds, r.alone = alone, r.soft = soft, r.teacher_known = 1;
    r.teacher_run.test.accuracy = 1 - mean_errors(l, TEACHER) / l->test.count;
    report_seeds(f, &r);
}

static void page_table(FILE *f, const lab *l)
{
    char text[512];
    int i;
    fprintf(f,
            "<h2>Every figure, and how it came about</h2><p>Errors: mean and standard deviation over the seeds; in "
            "brackets what was added to the biases. Adam, batches of %d, the learning rate lowered along a cosine. "
            "Soft targets weigh %g, labels %g. Teacher: shifts of up to %d pixels, weights into a unit at most %g "
            "long. %s</p><div class=\"card scroll\"><table><tr><th></th><th>paper</th><th>here</th><th>epochs</th>"
            "<th>learning rate</th></tr>",
            BATCH, ALPHA, 1 - ALPHA, SHIFT, MAX_NORM, CHOSEN);
    for (i = 0; i < ROW_COUNT; ++i) {
        const report_statistic s = statistic_of(l, &rows[i]);
        row_title(l, &rows[i], text, sizeof text);
        fprintf(f,
                "<tr><td style=\"text-align:left\">%s</td><td>%s</td><td>%.1f &plusmn; %.1f%s</td><td>%d</td>"
                "<td>%g</td></tr>",
                text, rows[i].paper, s.mean, s.sd, rows[i].unit == PERCENT ? " %" : "",
                epochs_of(l, rows[i].experiment), experiments[rows[i].experiment].rate);
    }
    fprintf(f, "</table></div><p>%.0f minutes.</p>", (seconds_now() - l->started) / 60);
}

static int write_page(const lab *l)
{
    FILE *f = output_open(l, "hinton.html");
    char text[512];
    if (!f) return 0;
    fprintf(f,
            "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" "
            "content=\"width=device-width,initial-scale=1\"><title>Distilling MNIST</title><style>%s</style></head>"
            "<body><main><h1>Distilling the knowledge in a neural network</h1><p>Hinton, Vinyals and Dean 2015, "
            "section 3, repeated. ",
            report_style);
    what_was_done(l, text, sizeof text);
    fprintf(f, "%s</p>", text);
    verdict(l, text, sizeof text);
    fprintf(f, "<p class=\"lead\">%s</p><div class=\"row\">", text);
    page_card(f, l, 0, "Teacher", "t");
    page_card(f, l, 1, "Student alone", "a");
    page_card(f, l, 2, "Student distilled", "d");
    fputs(
        "</div><h2>Results</h2><p>The paper finds all temperatures above 8 alike for large students, and 2.5 to 4 "
        "best for one with 30 units a layer.</p><div class=\"row wide\">",
        f);
    page_seeds(f, l);
    page_sweep(f, l);
    fputs("</div>", f);
    page_table(f, l);
    fputs("<p style=\"margin-top:40px\">Made by hinton, an example of kd.h " KD_VERSION
          ".</p></main></body></html>\n",
          f);
    return output_close(f, "hinton.html");
}

int main(int argc, char **argv)
{
    static lab l; /* zeroed */
    char text[512];
    int i, done;
    const int parsed = parse_options(&l.o, argc, argv);
    if (parsed <= 0) return parsed < 0 ? EXIT_SUCCESS : EXIT_FAILURE;
    done = open_lab(&l);
    if (done) {
        what_was_done(&l, text, sizeof text);
        printf("%s %s\n\n", text, CHOSEN);
        done = run_all(&l) && write_json(&l) && write_page(&l);
    }
    if (done) {
        print_table(&l);
        printf("%s/hinton.html has it all.\n", l.o.out);
    }
    for (i = 0; i < MAX_SEEDS; ++i) free(l.soft[i]);
    free(l.logits);
    images_free(&l.images);
    kd_close(l.kd);
    return done ? EXIT_SUCCESS : EXIT_FAILURE;
}
