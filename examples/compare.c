/* compare.c - every way of kd.h to distil, as published: the same teacher, student, images and budget
   cc -O2 examples/compare.c -o compare -lm     (needs stb_image.h, see images.h)

       ./compare examples/data/fashion

   Nothing is chosen here: each method runs as its authors set it, once for each seed, and the test images only
   measure. It is a result whatever it shows: settings from CIFAR-100 need not suit ten kinds of clothes. Losses on
   features are added to cross-entropy, with RepDistiller's weights, and where their papers do so ("+ kl") to KL at
   temperature 4 as well. FSP is not here: it needs a student as wide as its teacher.

   Two to three hours. What is done is kept in NAME.tsv and NAME.safetensors: started again with the same
   options, it goes on from there. */
#define KD_IMPLEMENTATION
#include "../kd.h"

#include "images.h"

#include <time.h>

static const char teacher_line[] =
    "conv 32 3 pad=1, relu, early: maxpool 2, conv 64 3 pad=1, relu, middle: maxpool 2, "
    "late: dense 128, relu, dropout 0.5, dense";
static const char student_line[] =
    "conv 8 3 pad=1, relu, early: maxpool 2, conv 16 3 pad=1, relu, middle: maxpool 2, "
    "late: dense 32, relu, dense";

/* ---- the methods ----------------------------------------------------------------------------------------- */

enum { EARLY = 1, MIDDLE = 2, LATE = 4, LAYERS = 3, LOGITS = KD_FEATURE_COUNT, MAX_SEEDS = 100 };
static const char *const layer_names[LAYERS] = {"early", "middle", "late"};

typedef struct method {
    const char *name;
    kd_loss_kind kind;
    float label_smoothing;
    int standardise, feature; /* LOGITS, or a loss on features beside the others */
    int layers, with_kl;
    const char *source;
} method;

static const method methods[] = {
    {"labels alone", KD_LOSS_CE, 0, 0, LOGITS, 0, 0, "no teacher"},
    {"label smoothing 0.1", KD_LOSS_CE, 0.1f, 0, LOGITS, 0, 0, "no teacher; Szegedy et al. 2016"},
    {"tfkd", KD_LOSS_TFKD, 0, 0, LOGITS, 0, 0, "no teacher; Yuan et al. 2020"},
    {"cskd", KD_LOSS_CSKD, 0, 0, LOGITS, 0, 0, "no teacher; Yun et al. 2020"},
    {"hinton", KD_LOSS_HINTON, 0, 0, LOGITS, 0, 0, "Hinton, Vinyals and Dean 2015"},
    {"kl", KD_LOSS_KL, 0, 0, LOGITS, 0, 0, "the same without labels"},
    {"softce", KD_LOSS_SOFT_CE, 0, 0, LOGITS, 0, 0, "its gradient, by cross-entropy"},
    {"mse", KD_LOSS_MSE, 0, 0, LOGITS, 0, 0, "Ba and Caruana 2014"},
    {"centredmse", KD_LOSS_CENTRED_MSE, 0, 0, LOGITS, 0, 0, "the limit of KL for high T"},
    {"rkl", KD_LOSS_RKL, 0, 0, LOGITS, 0, 0, "Gu et al. 2024"},
    {"jsd", KD_LOSS_JSD, 0, 0, LOGITS, 0, 0, "Agarwal et al. 2024"},
    {"dkd", KD_LOSS_DKD, 0, 0, LOGITS, 0, 0, "Zhao et al. 2022"},
    {"nkd", KD_LOSS_NKD, 0, 0, LOGITS, 0, 0, "Yang et al. 2023"},
    {"dist", KD_LOSS_DIST, 0, 0, LOGITS, 0, 0, "Huang et al. 2022"},
    {"ttm", KD_LOSS_TTM, 0, 0, LOGITS, 0, 0, "Zheng and Yang 2024"},
    {"wttm", KD_LOSS_WTTM, 0, 0, LOGITS, 0, 0, "Zheng and Yang 2024"},
    {"mlld", KD_LOSS_MLLD, 0, 0, LOGITS, 0, 0, "Jin et al. 2023"},
    {"ctkd", KD_LOSS_CTKD, 0, 0, LOGITS, 0, 0, "Li et al. 2023"},
    {"kl, standardised", KD_LOSS_KL, 0, 1, LOGITS, 0, 0, "Sun et al. 2024"},
    {"hint", KD_LOSS_CE, 0, 0, KD_FEATURE_HINT, MIDDLE, 0, "Romero et al. 2015"},
    {"at", KD_LOSS_CE, 0, 0, KD_FEATURE_AT, EARLY | MIDDLE, 0, "Zagoruyko and Komodakis 2017, their code"},
    {"atpaper", KD_LOSS_CE, 0, 0, KD_FEATURE_AT_PAPER, EARLY | MIDDLE, 0, "Zagoruyko and Komodakis 2017"},
    {"sp", KD_LOSS_CE, 0, 0, KD_FEATURE_SP, MIDDLE, 0, "Tung and Mori 2019"},
    {"rkd", KD_LOSS_CE, 0, 0, KD_FEATURE_RKD, LATE, 0, "Park et al. 2019"},
    {"pkt", KD_LOSS_CE, 0, 0, KD_FEATURE_PKT, LATE, 0, "Passalis and Tefas 2018"},
    {"cc", KD_LOSS_CE, 0, 0, KD_FEATURE_CC, LATE, 0, "Peng et al. 2019"},
    {"nst", KD_LOSS_CE, 0, 0, KD_FEATURE_NST, EARLY | MIDDLE, 0, "Huang and Wang 2017"},
    {"vid", KD_LOSS_CE, 0, 0, KD_FEATURE_VID, EARLY | MIDDLE, 0, "Ahn et al. 2019"},
    {"crd", KD_LOSS_CE, 0, 0, KD_FEATURE_CRD, LATE, 0, "Tian et al. 2020, negatives of the batch"},
    {"review", KD_LOSS_CE, 0, 0, KD_FEATURE_REVIEW, EARLY | MIDDLE | LATE, 0, "Chen et al. 2021"},
    {"hint + kl", KD_LOSS_CE, 0, 0, KD_FEATURE_HINT, MIDDLE, 1, "Romero et al. 2015"},
    {"at + kl", KD_LOSS_CE, 0, 0, KD_FEATURE_AT, EARLY | MIDDLE, 1, "Zagoruyko and Komodakis 2017"},
    {"rkd + kl", KD_LOSS_CE, 0, 0, KD_FEATURE_RKD, LATE, 1, "Park et al. 2019"},
    {"crd + kl", KD_LOSS_CE, 0, 0, KD_FEATURE_CRD, LATE, 1, "Tian et al. 2020"},
};
enum { METHODS = sizeof methods / sizeof *methods };

static int is_on_features(const method *m) { return m->feature != LOGITS; }

static int has_teacher(const method *m)
{
    return is_on_features(m) || (m->kind != KD_LOSS_CE && m->kind != KD_LOSS_TFKD && m->kind != KD_LOSS_CSKD);
}

/* What a method trains with, and the room that its options point into. */
typedef struct lesson {
    kd_loss_desc losses[2];
    kd_feature_loss features[LAYERS];
    kd_train_desc desc;
} lesson;

/* Review takes its layers as a list, the others one each. */
static void add_features(lesson *l, const method *m)
{
    int i;
    for (i = 0; i < LAYERS; ++i) {
        kd_feature_loss *f = &l->features[l->desc.feature_count];
        if (!(m->layers >> i & 1)) continue;
        *f = kd_feature_loss_defaults((kd_feature_kind)m->feature);
        f->student = f->teacher = m->feature == KD_FEATURE_REVIEW ? "early, middle, late" : layer_names[i];
        ++l->desc.feature_count;
        if (m->feature == KD_FEATURE_REVIEW) break;
    }
    l->desc.features = l->features;
}

static void add_method(lesson *l, const method *m)
{
    kd_loss_desc *loss = &l->losses[0];
    *loss = kd_loss_defaults(m->kind);
    loss->label_smoothing = m->label_smoothing;
    loss->standardise = m->standardise;
    if (m->standardise) loss->temperature = 2, loss->soft_weight = 9, loss->hard_weight = 0.1f; /* as published */
    l->losses[1] = kd_loss_defaults(KD_LOSS_KL);
    l->desc.losses = l->losses;
    l->desc.loss_count = 1 + m->with_kl;
    if (is_on_features(m)) add_features(l, m);
}

/* ---- a run ----------------------------------------------------------------------------------------------- */

enum { ACCURACY, NLL, ECE, AGREEMENT, MEASURES };

typedef struct result {
    int known[MAX_SEEDS];
    double of[MAX_SEEDS][MEASURES], mean[MEASURES], sd, gain, error; /* sd, gain and its standard error: accuracy */
} result;

typedef struct comparison {
    const char *folder, *out;
    int force; /* replace files of others */
    int seeds, epochs, teacher_epochs, limit;
    images images;
    kd_ctx *kd;
    kd_data train, test;
    kd_model *teacher;
    kd_cache *on_train, *on_test;
    double teacher_accuracy;
    char key[1024]; /* what results depend on */
    result results[METHODS];
} comparison;

static int complain(const char *what, const char *why)
{
    fflush(stdout);
    fprintf(stderr, "compare: %s%s%s\n", what, why ? ": " : "", why ? why : "");
    return 0;
}

static kd_train_desc training(uint64_t seed)
{
    kd_train_desc desc = kd_train_defaults();
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

static void file_name(const comparison *c, const char *end, char *path, size_t size)
{
    snprintf(path, size, "%s.%s", c->out, end);
}

/* Files of these names are replaced where an earlier run wrote them: NAME.tsv, which comes first, begins so. */
static int check_output(const comparison *c)
{
    static const char *const ends[] = {"tsv", "safetensors", "json", "md", "svg"};
    static const char mark[] = "# kd.h ";
    char path[1024], first[sizeof mark] = {0};
    struct stat info;
    size_t i;
    FILE *f;
    file_name(c, "tsv", path, sizeof path);
    f = fopen(path, "rb");
    if (f) first[fread(first, 1, sizeof first - 1, f)] = 0;
    if (f) fclose(f);
    if (c->force || strcmp(first, mark) == 0) return 1;
    for (i = 0; i < sizeof ends / sizeof *ends; ++i) {
        file_name(c, ends[i], path, sizeof path);
        if (stat(path, &info) == 0)
            return complain(path, "is there, and not from a run of compare; give another --out, or --force");
    }
    return 1;
}

/* Takes what an earlier run has measured. Returns 0 if there is none that was about the same. */
static int read_results(comparison *c)
{
    char path[1024], line[1024];
    const size_t length = strlen(c->key);
    FILE *f;
    int same;
    file_name(c, "tsv", path, sizeof path);
    f = fopen(path, "rb");
    same = f && fgets(line, sizeof line, f) && strncmp(line, c->key, length) == 0 && line[length] == '\n';
    while (same && fgets(line, sizeof line, f)) {
        char name[64];
        double of[MEASURES];
        int seed, i;
        if (sscanf(line, "%63[^\t]\t%d\t%lf\t%lf\t%lf\t%lf", name, &seed, &of[ACCURACY], &of[NLL], &of[ECE],
                   &of[AGREEMENT]) != 2 + MEASURES)
            continue;
        for (i = 0; i < METHODS; ++i) {
            if (strcmp(methods[i].name, name) != 0 || seed < 1 || seed > MAX_SEEDS) continue;
            memcpy(c->results[i].of[seed - 1], of, sizeof of);
            c->results[i].known[seed - 1] = 1;
        }
    }
    if (f) fclose(f);
    return same;
}

/* All that is known; a run that is stopped loses one training at most. */
static int write_results(const comparison *c)
{
    char path[1024], unfinished[1032];
    FILE *f;
    int i, s, failed;
    file_name(c, "tsv", path, sizeof path);
    snprintf(unfinished, sizeof unfinished, "%s.new", path);
    f = fopen(unfinished, "wb");
    if (!f) return complain(unfinished, "cannot be written");
    fprintf(f, "%s\n", c->key);
    for (i = 0; i < METHODS; ++i) {
        for (s = 0; s < MAX_SEEDS; ++s) {
            const double *of = c->results[i].of[s];
            if (c->results[i].known[s])
                fprintf(f, "%s\t%d\t%.17g\t%.17g\t%.17g\t%.17g\n", methods[i].name, s + 1, of[ACCURACY], of[NLL],
                        of[ECE], of[AGREEMENT]);
        }
    }
    failed = ferror(f);
    failed |= fclose(f) != 0;
    return !failed && rename(unfinished, path) == 0 ? 1 : complain(path, "cannot be written");
}

/* That of an earlier run which was about the same, or a new one. */
static int get_teacher(comparison *c)
{
    char path[1024];
    kd_train_desc desc = training(1);
    file_name(c, "safetensors", path, sizeof path);
    if (read_results(c))
        return kd_model_load(c->kd, path, &c->teacher) == KD_OK ? 1 : complain(path, kd_error(c->kd));
    desc.epochs = c->teacher_epochs;
    desc.augment.flip = 1;
    c->teacher = create(c, teacher_line, 1);
    if (!c->teacher) return 0;
    return kd_train(c->teacher, &c->train, &desc) == KD_OK && kd_model_save(c->teacher, path) == KD_OK
               ? write_results(c)
               : complain("the teacher", kd_error(c->kd));
}

/* Of all that the table of methods says; FNV-1a. */
static uint64_t hash_methods(void)
{
    uint64_t hash = 14695981039346656037u;
    char row[256];
    int i, j;
    for (i = 0; i < METHODS; ++i) {
        const method *m = &methods[i];
        snprintf(row, sizeof row, "%s %d %.9g %d %d %d %d\n", m->name, (int)m->kind, (double)m->label_smoothing,
                 m->standardise, m->feature, m->layers, m->with_kl);
        for (j = 0; row[j]; ++j) hash = (hash ^ (unsigned char)row[j]) * 1099511628211u;
    }
    return hash;
}

static int prepare_teacher(comparison *c)
{
    kd_metrics metrics;
    snprintf(c->key, sizeof c->key, "# kd.h %s, %s, %016llx, %016llx, methods %016llx, %d epochs of %s, %d of %s",
             kd_version(), kd_isa_name(kd_ctx_isa(c->kd)), (unsigned long long)kd_data_hash(&c->train),
             (unsigned long long)kd_data_hash(&c->test), (unsigned long long)hash_methods(), c->teacher_epochs,
             teacher_line, c->epochs, student_line);
    if (!get_teacher(c)) return 0;
    if (kd_evaluate(c->teacher, &c->test, &metrics) != KD_OK ||
        kd_cache_create(c->teacher, &c->train, NULL, 1, 1, &c->on_train) != KD_OK ||
        kd_cache_create(c->teacher, &c->test, NULL, 1, 1, &c->on_test) != KD_OK)
        return complain("the teacher", kd_error(c->kd));
    c->teacher_accuracy = metrics.accuracy;
    c->test.teacher_logits = kd_cache_logits(c->on_test, 0);
    printf("teacher: %.2f %% after %d epochs\n\n", 100 * metrics.accuracy, c->teacher_epochs);
    return 1;
}

static int train_student(comparison *c, const method *m, uint64_t seed, double *of)
{
    kd_model *student = create(c, student_line, seed);
    kd_metrics metrics;
    lesson l;
    int ok;
    if (!student) return 0;
    l.desc = training(seed);
    l.desc.epochs = c->epochs;
    l.desc.lr = 0.002f;
    add_method(&l, m);
    if (is_on_features(m)) l.desc.teacher = c->teacher;
    if (has_teacher(m) && !is_on_features(m)) l.desc.cache = c->on_train;
    ok = kd_train(student, &c->train, &l.desc) == KD_OK && kd_evaluate(student, &c->test, &metrics) == KD_OK;
    if (!ok) complain(m->name, kd_error(c->kd));
    kd_model_destroy(student);
    if (!ok) return 0;
    of[ACCURACY] = metrics.accuracy;
    of[NLL] = metrics.nll;
    of[ECE] = metrics.ece;
    of[AGREEMENT] = metrics.agreement;
    return 1;
}

static void summarise(const comparison *c, result *r, const result *alone)
{
    double squares = 0, gains = 0;
    int s, i;
    for (s = 0; s < c->seeds; ++s) {
        for (i = 0; i < MEASURES; ++i) r->mean[i] += r->of[s][i] / c->seeds;
        r->gain += (r->of[s][ACCURACY] - alone->of[s][ACCURACY]) / c->seeds;
    }
    for (s = 0; s < c->seeds; ++s) {
        const double from_mean = r->of[s][ACCURACY] - r->mean[ACCURACY];
        const double gain = r->of[s][ACCURACY] - alone->of[s][ACCURACY] - r->gain;
        squares += from_mean * from_mean;
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
        if (r->known[s]) continue;
        if (!train_student(c, m, (uint64_t)s + 1, r->of[s])) return 0;
        r->known[s] = 1;
        if (!write_results(c)) return 0;
    }
    summarise(c, r, &c->results[0]);
    printf("%-20s %6.2f +- %4.2f   %+5.2f +- %4.2f   %6.3f   %5.3f   %5.1f   %s\n", m->name,
           100 * r->mean[ACCURACY], 100 * r->sd, 100 * r->gain, 100 * r->error, r->mean[NLL], r->mean[ECE],
           100 * r->mean[AGREEMENT], m->source);
    fflush(stdout);
    return 1;
}

static int run(comparison *c)
{
    images_options o = images_defaults();
    int i;
    o.limit = c->limit;
    o.join_validation = 1;
    if (!images_load(&c->images, c->folder, &o)) return complain(c->images.error, NULL);
    for (i = 0; i < c->images.said_count; ++i) printf("note: %s\n", c->images.said[i]);
    c->train = data_of(c, &c->images.train);
    c->test = data_of(c, &c->images.test);
    printf("%s: %d images to train on, %d to test; %d seeds, %d epochs each\n", c->folder, c->train.count,
           c->test.count, c->seeds, c->epochs);
    if (!prepare_teacher(c)) return 0;
    printf("method               accuracy        gain, std error  nll      ece     as teacher\n");
    for (i = 0; i < METHODS; ++i) {
        if (!run_method(c, i)) return 0;
    }
    return 1;
}

/* ---- what is left of it ---------------------------------------------------------------------------------- */

static FILE *create_file(const comparison *c, const char *name, char *path, size_t size)
{
    FILE *f;
    file_name(c, name, path, size);
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
                methods[i].name, r->mean[ACCURACY], r->sd, r->gain, r->error);
        fprintf(f, "\"nll\": %.6f, \"ece\": %.6f, \"agreement\": %.6f, \"accuracies\": [", r->mean[NLL],
                r->mean[ECE], r->mean[AGREEMENT]);
        for (s = 0; s < c->seeds; ++s) fprintf(f, "%s%.6f", s ? ", " : "", r->of[s][ACCURACY]);
        fprintf(f, "]}%s\n", i + 1 < METHODS ? "," : "");
    }
    fputs("]}\n", f);
    return close_file(f, path);
}

/* The table as a README shows it. */
static int write_table(const comparison *c)
{
    char path[1024];
    FILE *f = create_file(c, "md", path, sizeof path);
    int i;
    if (!f) return 0;
    fputs("| method | accuracy | gain | nll | ece | as the teacher |\n| --- | ---: | ---: | ---: | ---: | ---: |\n",
          f);
    for (i = 0; i < METHODS; ++i) {
        const result *r = &c->results[i];
        fprintf(f, "| %s | %.2f \xc2\xb1 %.2f | %+.2f \xc2\xb1 %.2f | %.3f | %.3f | %.1f |\n", methods[i].name,
                100 * r->mean[ACCURACY], 100 * r->sd, 100 * r->gain, 100 * r->error, r->mean[NLL], r->mean[ECE],
                100 * r->mean[AGREEMENT]);
    }
    return close_file(f, path);
}

/* Without a teacher, from its logits, from its features. */
static const char *colour_of(const method *m)
{
    return is_on_features(m) ? "#2f6fde" : has_teacher(m) ? "#0f9d6b" : "#8a90a2";
}

/* A line for each method: its seeds as dots, the mean with its standard deviation as a bar. */
static int write_picture(const comparison *c)
{
    enum { LEFT = 170, RIGHT = 640, TOP = 40, LINE = 24 };
    const int bottom = TOP + METHODS * LINE;
    double low = 1, high = c->teacher_accuracy, grid, step;
    char path[1024];
    FILE *f = create_file(c, "svg", path, sizeof path);
    int i, s;
    if (!f) return 0;
    for (i = 0; i < METHODS; ++i) {
        for (s = 0; s < c->seeds; ++s) {
            low = KD__MIN(low, c->results[i].of[s][ACCURACY]);
            high = KD__MAX(high, c->results[i].of[s][ACCURACY]);
        }
    }
    low = floor(low * 100 - 0.2) / 100, high = ceil(high * 100 + 0.2) / 100;
#define ACROSS(accuracy) (LEFT + ((accuracy)-low) / (high - low) * (RIGHT - LEFT))
    fprintf(f, "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" font-family=\"sans-serif\" ",
            RIGHT + 30, bottom + 40);
    fputs("font-size=\"12\"><rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n", f);
    fprintf(
        f, "<text x=\"10\" y=\"20\" font-weight=\"bold\">Test accuracy of one student by method, %d seeds</text>\n",
        c->seeds);
    for (grid = low, step = ceil((high - low) * 10) / 100; grid < high + 1e-9; grid += step) {
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
        const char *colour = colour_of(&methods[i]);
        const double y = TOP + (i + 0.5) * LINE;
        fprintf(f, "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%s</text>", LEFT - 12, y + 4, methods[i].name);
        fprintf(f, "<line x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\" stroke=\"%s\" stroke-width=\"2\"/>",
                ACROSS(r->mean[ACCURACY] - r->sd), ACROSS(r->mean[ACCURACY] + r->sd), y, y, colour);
        for (s = 0; s < c->seeds; ++s)
            fprintf(f, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"2\" fill=\"%s\" fill-opacity=\"0.45\"/>",
                    ACROSS(r->of[s][ACCURACY]), y, colour);
        fprintf(f, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"4.5\" fill=\"%s\"/>\n", ACROSS(r->mean[ACCURACY]), y,
                colour);
    }
#undef ACROSS
    fputs("</svg>\n", f);
    return close_file(f, path);
}

/* ---- main ------------------------------------------------------------------------------------------------ */

static int usage(void)
{
    fputs("usage: compare IMAGES [--seeds N] [--epochs N] [--teacher-epochs N] [--limit N] [--threads N] [--force] "
          "[--out "
          "NAME]\n"
          "Trains one student in every way of kd.h, as published, and writes NAME.json, NAME.md and NAME.svg; what "
          "is\n"
          "done is kept in NAME.tsv and NAME.safetensors.\n",
          stderr);
    return 2;
}

int main(int argc, char **argv)
{
    static comparison c;
    kd_ctx_desc desc = kd_ctx_defaults();
    int threads = kd_cpu_count(), i, ok;
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
        if (strcmp(argv[i], "--force") == 0) {
            c.force = 1;
        } else if (strcmp(argv[i], "--out") == 0 && has_value) {
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
    ok = check_output(&c) && run(&c) && write_json(&c) && write_table(&c) && write_picture(&c);
    if (ok) printf("\n%s.json, %s.md, %s.svg\n", c.out, c.out, c.out);
    kd_cache_destroy(c.on_train);
    kd_cache_destroy(c.on_test);
    kd_model_destroy(c.teacher);
    kd_close(c.kd);
    images_free(&c.images);
    return !ok;
}
