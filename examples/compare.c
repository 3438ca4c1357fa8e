/* compare.c - every loss of kd.h with its published settings: the same teacher, student, images and budget
   cc -O2 -fopenmp examples/compare.c -o compare -lm     (needs stb_image.h, see images.h)

       ./compare examples/data/fashion

   Nothing is chosen here: each loss runs as its authors set it, once for each seed, and the test images only
   measure. It is a result whatever it shows: settings from CIFAR-100 need not suit ten kinds of clothes. */
#define KD_IMPLEMENTATION
#include "../kd.h"

#include "images.h"

#include <time.h>

static const char teacher_line[] = "conv 32 3 pad=1, relu, maxpool 2, conv 64 3 pad=1, relu, maxpool 2, dense 128, "
                                   "relu, dropout 0.5, dense";
static const char student_line[] =
    "conv 8 3 pad=1, relu, maxpool 2, conv 16 3 pad=1, relu, maxpool 2, dense 32, relu, dense";

/* ---- the methods ----------------------------------------------------------------------------------------- */

typedef struct method {
    const char *name;
    kd_loss_kind kind;
    float label_smoothing;
    int standardise;
    const char *source;
} method;

static const method methods[] = {
    {"labels alone", KD_LOSS_CE, 0, 0, "no teacher"},
    {"label smoothing 0.1", KD_LOSS_CE, 0.1f, 0, "no teacher; Szegedy et al. 2016"},
    {"tfkd", KD_LOSS_TFKD, 0, 0, "no teacher; Yuan et al. 2020"},
    {"cskd", KD_LOSS_CSKD, 0, 0, "no teacher; Yun et al. 2020"},
    {"hinton", KD_LOSS_HINTON, 0, 0, "Hinton, Vinyals and Dean 2015"},
    {"kl", KD_LOSS_KL, 0, 0, "the same without labels"},
    {"softce", KD_LOSS_SOFT_CE, 0, 0, "its gradient, by cross-entropy"},
    {"mse", KD_LOSS_MSE, 0, 0, "Ba and Caruana 2014"},
    {"centredmse", KD_LOSS_CENTRED_MSE, 0, 0, "the limit of KL for high T"},
    {"rkl", KD_LOSS_RKL, 0, 0, "Gu et al. 2024"},
    {"jsd", KD_LOSS_JSD, 0, 0, "Agarwal et al. 2024"},
    {"dkd", KD_LOSS_DKD, 0, 0, "Zhao et al. 2022"},
    {"nkd", KD_LOSS_NKD, 0, 0, "Yang et al. 2023"},
    {"dist", KD_LOSS_DIST, 0, 0, "Huang et al. 2022"},
    {"ttm", KD_LOSS_TTM, 0, 0, "Zheng and Yang 2024"},
    {"wttm", KD_LOSS_WTTM, 0, 0, "Zheng and Yang 2024"},
    {"mlld", KD_LOSS_MLLD, 0, 0, "Jin et al. 2023"},
    {"ctkd", KD_LOSS_CTKD, 0, 0, "Li et al. 2023"},
    {"kl, standardised", KD_LOSS_KL, 0, 1, "Sun et al. 2024"},
};
enum { METHODS = sizeof methods / sizeof *methods, MAX_SEEDS = 100 };

static kd_loss_desc loss_of(const method *m)
{
    kd_loss_desc loss = kd_loss_defaults(m->kind);
    loss.label_smoothing = m->label_smoothing;
    loss.standardise = m->standardise;
    if (m->standardise) loss.temperature = 2, loss.soft_weight = 9, loss.hard_weight = 0.1f; /* as published */
    return loss;
}

static int has_teacher(const method *m)
{
    return m->kind != KD_LOSS_CE && m->kind != KD_LOSS_TFKD && m->kind != KD_LOSS_CSKD;
}

/* ---- a run ----------------------------------------------------------------------------------------------- */

typedef struct result {
    double accuracy[MAX_SEEDS], agreement, nll, ece, mean, sd, gain, error;
} result;

typedef struct comparison {
    const char *folder, *out;
    int seeds, epochs, teacher_epochs, limit;
    images images;
    kd_ctx *kd;
    kd_data train, test;
    kd_model *teacher;
    kd_cache *on_train, *on_test;
    double teacher_accuracy;
    result results[METHODS];
} comparison;

static int complain(const char *what, const char *why)
{
    fflush(stdout);
    fprintf(stderr, "compare: %s%s%s\n", what, why ? ": " : "", why ? why : "");
    return 0;
}

static kd_train_desc training(const comparison *c, uint64_t seed)
{
    kd_train_desc desc = kd_train_defaults();
    (void)c;
    desc.batch = 64;
    desc.seed = seed;
    desc.schedule = KD_COSINE;
    return desc;
}

static kd_data data_of(const comparison *c, const images_set *set)
{
    const images *s = &c->images;
    return kd_data_u8(set->pixels, set->labels, set->count, s->channels, s->height, s->width, s->class_count);
}

static kd_model *create(comparison *c, const char *line, uint64_t seed)
{
    char spec[512];
    kd_model *m = NULL;
    snprintf(spec, sizeof spec, "%dx%dx%d: %s %d", c->images.channels, c->images.height, c->images.width, line,
             c->images.class_count);
    if (kd_model_create(c->kd, spec, seed, &m) != KD_OK) complain(spec, kd_error(c->kd));
    return m;
}

static int train_teacher(comparison *c)
{
    kd_train_desc desc = training(c, 1);
    kd_metrics metrics;
    desc.epochs = c->teacher_epochs;
    desc.augment.flip = 1;
    c->teacher = create(c, teacher_line, 1);
    if (!c->teacher) return 0;
    if (kd_train(c->teacher, &c->train, &desc) != KD_OK || kd_evaluate(c->teacher, &c->test, &metrics) != KD_OK ||
        kd_cache_create(c->teacher, &c->train, NULL, 1, 1, &c->on_train) != KD_OK ||
        kd_cache_create(c->teacher, &c->test, NULL, 1, 1, &c->on_test) != KD_OK)
        return complain("the teacher", kd_error(c->kd));
    c->teacher_accuracy = metrics.accuracy;
    c->test.teacher_logits = kd_cache_logits(c->on_test, 0);
    printf("teacher: %.2f %% after %d epochs\n\n", 100 * metrics.accuracy, desc.epochs);
    return 1;
}

static int train_student(comparison *c, const method *m, uint64_t seed, kd_metrics *metrics)
{
    kd_train_desc desc = training(c, seed);
    kd_model *student = create(c, student_line, seed);
    int ok;
    if (!student) return 0;
    desc.epochs = c->epochs;
    desc.lr = 0.002f;
    desc.loss = loss_of(m);
    if (has_teacher(m)) desc.cache = c->on_train;
    ok = kd_train(student, &c->train, &desc) == KD_OK && kd_evaluate(student, &c->test, metrics) == KD_OK;
    if (!ok) complain(m->name, kd_error(c->kd));
    kd_model_destroy(student);
    return ok;
}

static void summarise(const comparison *c, result *r, const result *alone)
{
    double squares = 0, gains = 0;
    int s;
    r->mean = r->gain = 0;
    for (s = 0; s < c->seeds; ++s) r->mean += r->accuracy[s] / c->seeds;
    for (s = 0; s < c->seeds; ++s) {
        squares += (r->accuracy[s] - r->mean) * (r->accuracy[s] - r->mean);
        r->gain += (r->accuracy[s] - alone->accuracy[s]) / c->seeds;
    }
    for (s = 0; s < c->seeds; ++s) {
        const double gain = r->accuracy[s] - alone->accuracy[s] - r->gain;
        gains += gain * gain;
    }
    r->sd = c->seeds > 1 ? sqrt(squares / (c->seeds - 1)) : 0;
    r->error = c->seeds > 1 ? sqrt(gains / (c->seeds - 1) / c->seeds) : 0;
}

static int run_method(comparison *c, int index)
{
    const method *m = &methods[index];
    result *r = &c->results[index];
    int s;
    for (s = 0; s < c->seeds; ++s) {
        kd_metrics metrics;
        if (!train_student(c, m, (uint64_t)s + 1, &metrics)) return 0;
        r->accuracy[s] = metrics.accuracy;
        r->agreement += metrics.agreement / c->seeds;
        r->nll += metrics.nll / c->seeds;
        r->ece += metrics.ece / c->seeds;
    }
    summarise(c, r, &c->results[0]);
    printf("%-20s %6.2f +- %4.2f   %+5.2f +- %4.2f   %6.3f   %5.3f   %5.1f   %s\n", m->name, 100 * r->mean,
           100 * r->sd, 100 * r->gain, 100 * r->error, r->nll, r->ece, 100 * r->agreement, m->source);
    fflush(stdout);
    return 1;
}

static int run(comparison *c)
{
    images_options o = images_defaults();
    int i;
    o.limit = c->limit;
    if (!images_load(&c->images, c->folder, &o)) return complain(c->images.error, NULL);
    c->train = data_of(c, &c->images.train);
    c->test = data_of(c, &c->images.test);
    printf("%s: %d images to train on, %d to test; %d seeds, %d epochs each\n", c->folder, c->train.count,
           c->test.count, c->seeds, c->epochs);
    if (!train_teacher(c)) return 0;
    printf("loss                 accuracy        gain, std error  nll      ece     as teacher\n");
    for (i = 0; i < METHODS; ++i) {
        if (!run_method(c, i)) return 0;
    }
    return 1;
}

/* ---- what is left of it ---------------------------------------------------------------------------------- */

static FILE *create_file(const comparison *c, const char *name, char *path, size_t size)
{
    FILE *f;
    snprintf(path, size, "%s.%s", c->out, name);
    f = fopen(path, "wb");
    if (!f) complain(path, "cannot be written");
    return f;
}

static int close_file(FILE *f, const char *path)
{
    const int failed = ferror(f);
    return fclose(f) == 0 && !failed ? 1 : complain(path, "cannot be written");
}

static int write_json(const comparison *c)
{
    char path[1024];
    FILE *f = create_file(c, "json", path, sizeof path);
    int i, s;
    if (!f) return 0;
    fprintf(f, "{\"seeds\": %d, \"epochs\": %d, \"teacher\": %.6f, \"methods\": [\n", c->seeds, c->epochs,
            c->teacher_accuracy);
    for (i = 0; i < METHODS; ++i) {
        const result *r = &c->results[i];
        fprintf(f, "  {\"name\": \"%s\", \"mean\": %.6f, \"sd\": %.6f, \"gain\": %.6f, \"gain_se\": %.6f, ",
                methods[i].name, r->mean, r->sd, r->gain, r->error);
        fprintf(f, "\"nll\": %.6f, \"ece\": %.6f, \"agreement\": %.6f, \"accuracies\": [", r->nll, r->ece,
                r->agreement);
        for (s = 0; s < c->seeds; ++s) fprintf(f, "%s%.6f", s ? ", " : "", r->accuracy[s]);
        fprintf(f, "]}%s\n", i + 1 < METHODS ? "," : "");
    }
    fputs("]}\n", f);
    return close_file(f, path);
}

/* A line for each method: its seeds as dots, the mean with its standard deviation as a bar. */
static int write_picture(const comparison *c)
{
    enum { LEFT = 170, RIGHT = 640, TOP = 40, LINE = 24 };
    const int bottom = TOP + METHODS * LINE;
    double low = 1, high = c->teacher_accuracy, grid;
    char path[1024];
    FILE *f = create_file(c, "svg", path, sizeof path);
    int i, s;
    if (!f) return 0;
    for (i = 0; i < METHODS; ++i) {
        for (s = 0; s < c->seeds; ++s) {
            low = KD__MIN(low, c->results[i].accuracy[s]);
            high = KD__MAX(high, c->results[i].accuracy[s]);
        }
    }
    low = floor(low * 100 - 0.2) / 100, high = ceil(high * 100 + 0.2) / 100;
#define ACROSS(accuracy) (LEFT + ((accuracy)-low) / (high - low) * (RIGHT - LEFT))
    fprintf(f, "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" font-family=\"sans-serif\" ",
            RIGHT + 30, bottom + 40);
    fputs("font-size=\"12\"><rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n", f);
    fprintf(f,
            "<text x=\"10\" y=\"20\" font-weight=\"bold\">Test accuracy of one student by loss, %d seeds</text>\n",
            c->seeds);
    for (grid = low; grid < high + 1e-9; grid += 0.01) {
        fprintf(f, "<line x1=\"%.1f\" x2=\"%.1f\" y1=\"%d\" y2=\"%d\" stroke=\"#e2e4ea\"/>", ACROSS(grid),
                ACROSS(grid), TOP, bottom);
        fprintf(f, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\" fill=\"#667\">%.0f %%</text>\n", ACROSS(grid),
                bottom + 18, 100 * grid);
    }
    fprintf(f, "<line x1=\"%.1f\" x2=\"%.1f\" y1=\"%d\" y2=\"%d\" stroke=\"#7257e6\" stroke-dasharray=\"5 3\"/>",
            ACROSS(c->teacher_accuracy), ACROSS(c->teacher_accuracy), TOP, bottom);
    fprintf(f, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\" fill=\"#7257e6\">teacher</text>\n",
            ACROSS(c->teacher_accuracy), TOP - 5);
    for (i = 0; i < METHODS; ++i) {
        const result *r = &c->results[i];
        const char *colour = has_teacher(&methods[i]) ? "#0f9d6b" : "#8a90a2";
        const double y = TOP + (i + 0.5) * LINE;
        fprintf(f, "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%s</text>", LEFT - 12, y + 4, methods[i].name);
        fprintf(f, "<line x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\" stroke=\"%s\" stroke-width=\"2\"/>",
                ACROSS(r->mean - r->sd), ACROSS(r->mean + r->sd), y, y, colour);
        for (s = 0; s < c->seeds; ++s)
            fprintf(f, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"2\" fill=\"%s\" fill-opacity=\"0.45\"/>",
                    ACROSS(r->accuracy[s]), y, colour);
        fprintf(f, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"4.5\" fill=\"%s\"/>\n", ACROSS(r->mean), y, colour);
    }
#undef ACROSS
    fputs("</svg>\n", f);
    return close_file(f, path);
}

/* ---- main ------------------------------------------------------------------------------------------------ */

static int usage(void)
{
    fputs("usage: compare IMAGES [--seeds N] [--epochs N] [--teacher-epochs N] [--limit N] [--threads N] [--out "
          "NAME]\n"
          "Trains one student with every loss of kd.h, as published, and writes NAME.json and NAME.svg.\n",
          stderr);
    return 2;
}

int main(int argc, char **argv)
{
    static comparison c;
    kd_ctx_desc desc = kd_ctx_defaults();
    int threads = 2, i, ok;
    struct {
        const char *name;
        int *value, most;
    } options[] = {{"--seeds", &c.seeds, MAX_SEEDS},
                   {"--epochs", &c.epochs, 100000},
                   {"--teacher-epochs", &c.teacher_epochs, 100000},
                   {"--limit", &c.limit, 1 << 30},
                   {"--threads", &threads, 256}};
    c.seeds = 5, c.epochs = 30, c.teacher_epochs = 24, c.out = "compare";
    for (i = 1; i < argc; ++i) {
        const int has_value = i + 1 < argc;
        size_t o = 0;
        while (o < KD__COUNT(options) && strcmp(argv[i], options[o].name) != 0) ++o;
        if (strcmp(argv[i], "--out") == 0 && has_value) {
            c.out = argv[++i];
        } else if (o < KD__COUNT(options) && has_value) {
            *options[o].value = atoi(argv[++i]);
            if (*options[o].value < 1 || *options[o].value > options[o].most) return usage();
        } else if (*argv[i] != '-' && !c.folder) {
            c.folder = argv[i];
        } else {
            return usage();
        }
    }
    if (!c.folder) return usage();
    desc.threads = threads;
    if (kd_open(&desc, &c.kd) != KD_OK) return complain("kd_open failed", NULL) + 1;
    ok = run(&c) && write_json(&c) && write_picture(&c);
    if (ok) printf("\n%s.json, %s.svg\n", c.out, c.out);
    kd_cache_destroy(c.on_train);
    kd_cache_destroy(c.on_test);
    kd_model_destroy(c.teacher);
    kd_close(c.kd);
    images_free(&c.images);
    return !ok;
}
