/* report.h - the page that distill writes: one HTML file with everything in it, texts, or images as PNG by
   stb_image_write
   Not part of kd.h. Include it in one source file, after kd.h and images.h. */
#ifndef REPORT_H
#define REPORT_H

#include <math.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* stb_image_write asserts that there is memory. It gets all that an image can need beforehand, or is not called. */
static struct {
    char *start;
    size_t used;
} report_memory;

static void *report_take(size_t size)
{
    void *block = report_memory.start + report_memory.used;
    report_memory.used += (size + 15) / 16 * 16;
    return block;
}

static void *report_retake(const void *old, size_t old_size, size_t size)
{
    void *block = report_take(size);
    if (old) memcpy(block, old, old_size);
    return block;
}

/* For an image of so many bytes: lines and their filters, the compressed data, which grow by doubling, and 16384
   chains of up to 16 places, likewise. */
static int report_reserve(size_t bytes)
{
    report_memory.used = 0;
    report_memory.start = (char *)malloc(16 * bytes + ((size_t)16 << 20));
    return report_memory.start != NULL;
}

#define STBIW_MALLOC(size) report_take((size_t)(size))
#define STBIW_REALLOC_SIZED(old, old_size, size) report_retake(old, (size_t)(old_size), (size_t)(size))
#define STBIW_FREE(block) ((void)(block))
#define STBI_WRITE_NO_STDIO
#define STB_IMAGE_WRITE_STATIC /* the program may have one of its own */
#if defined(__GNUC__)
#define STBIWDEF static __attribute__((unused))
#endif
#if defined(__GNUC__) && !defined(__clang__) /* of functions that it leaves out; gcc asks at the very end */
#pragma GCC diagnostic ignored "-Wunused-function"
#endif
#define STB_IMAGE_WRITE_IMPLEMENTATION
#if defined(__GNUC__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wconversion"
#pragma GCC diagnostic ignored "-Wsign-conversion"
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"
#endif
#if defined(__has_include)
#if __has_include(<stb/stb_image_write.h>)
#include <stb/stb_image_write.h>
#else
#include "stb_image_write.h"
#endif
#else
#include <stb/stb_image_write.h>
#endif
#if defined(__GNUC__)
#pragma GCC diagnostic pop
#endif

#if defined(__GNUC__)
#define REPORT_PUBLIC __attribute__((unused)) /* a program need not use all of it */
#else
#define REPORT_PUBLIC
#endif

enum {
    REPORT_CLASSES = 30, /* a confusion matrix with more rows is no longer a picture */
    REPORT_SOFT = 6,     /* images whose soft targets are drawn */
    REPORT_BARS = 5,     /* classes drawn under each */
    REPORT_LARGE = 224,  /* pixels a side, at most, of an image that stands alone */
    REPORT_SMALL = 96,   /* of one among others */
    REPORT_DISAGREEMENTS = 24,
    REPORT_SAMPLES = 12, /* training images of each class */
    REPORT_PAIRS = 8,    /* most frequent confusions */
    REPORT_LEVELS = 5    /* of a tree; what is below is drawn as one leaf */
};
static const double REPORT_SMOOTHING = 0.1; /* of the labels of the students that have no teacher but these */

/* One training: what it reached on the test images, and how it got there. */
typedef struct report_run {
    kd_metrics test;
    int epochs;
    double *validation; /* (epochs): accuracy on the held-out images after each, -1 where none was measured */
    double *loss;       /* (epochs): mean over each */
    double held_out;    /* accuracy on the held-out images of the model that was tested; -1: there are none */
} report_run;

typedef struct report_model {
    const char *spec; /* NULL: a teacher of which only logits are known */
    int64_t parameters, macs, bytes;
    double latency_us; /* one image, one thread */
} report_model;

/* A row of the grid that was tried for a way of training: students trained with seeds of their own, and looked at
   on held-out images. A setting that the way has not, or that is the same everywhere, is below 0; a loss NULL. */
typedef struct report_trial {
    const char *loss;
    double lr, weight_decay, mixup, temperature, alpha;
    int epochs, students;  /* of each of them, and how many; short trials may be followed by longer ones */
    double validation, sd; /* mean accuracy of those students on the held-out images, and its deviation */
    double score;          /* what is chosen by: that accuracy, and between equal ones the likelihood */
} report_trial;

enum { REPORT_WAYS = 12, REPORT_BINS = 15, REPORT_STAGES = 16, REPORT_FILES = 56 };

/* How sure a model is of its answers, and how often it is right: test images by confidence, in even bins, as
   kd_metrics.ece has them. Added up over seeds. */
typedef struct report_reliability {
    double sure[REPORT_BINS], right[REPORT_BINS]; /* sums of confidences and of right answers */
    int64_t count[REPORT_BINS];
} report_reliability;

/* A way of training the student. All ways share seeds, first weights, order of images and images of the test. */
typedef struct report_way {
    const char
        *name; /* "alone", "smoothed", "distilled", "patient" ...: one word; metrics.json has student_<name> */
    const char *title;      /* "student alone": in tables */
    const char *how;        /* the chosen setting in words, "hinton, temperature 2, alpha 0.9", or NULL */
    report_run *runs;       /* (report.seeds), from calloc; belongs to the report and is freed by report_close */
    report_trial *grid;     /* (grid_count), likewise, or NULL: what was tried on the held-out images */
    int grid_count, chosen; /* chosen: the row that the runs were trained with */
    int64_t *confusion;     /* (classes, classes), likewise, or NULL: rows true, summed over seeds */
    report_reliability reliability; /* of all seeds together */
    int apart;                      /* another kind of student, which the verdict leaves out */
} report_way;

/* Where the time went, in the order of the work. */
typedef struct report_stage {
    const char *name; /* "teacher", "choosing", "students" */
    double seconds;
} report_stage;

/* A file that the run read or wrote, with what sha256sum says of it. */
typedef struct report_file {
    char name[64], sha256[65];
    int64_t bytes;
} report_file;

typedef struct report_setting {
    const char *name;
    char value[512];
} report_setting;

/* A student that is a soft decision tree, and how the test images pass through it. */
typedef struct report_tree {
    kd_tree about;
    float *filters; /* (inner nodes, channels, height, width); NULL: they see something else than the images */
    float *leaves;  /* (leaves, classes) */
    double *share;  /* (nodes): of the images */
    double path_accuracy; /* of the most probable leaf alone */
    int example, leaf;    /* an image that it gets right, and its most probable leaf */
} report_tree;

/* A student that was tried within a budget. */
typedef struct report_candidate {
    char spec[2048];
    const char *family; /* "plain", "residual" ... */
    char shape[96];     /* what it is like, in words */
    kd_cost cost;
    int place;            /* in its family, those that use most of the budget first */
    int epochs;           /* of its longest trial; 0: it was not tried */
    double accuracy, nll; /* then, on the held-out images */
} report_candidate;

/* Pictures: pixels (count, channels, height, width). */
typedef struct report_images {
    const uint8_t *pixels;
    const int32_t *labels;
    int count;
} report_images;

typedef struct report {
    const char *folder;
    char *const *classes;
    int class_count, channels, height, width, train_count, validation_count;
    int texts; /* 1: of up to `channels` bytes, in place of pixels */
    report_images train, test;
    const images *loaded; /* whose test images those are, for the names of their files; or NULL */
    report_model teacher, student;
    int teacher_known;      /* its outputs on the test images are known */
    int teacher_trained;    /* by this run: it has curves */
    int teacher_guessed;    /* how its images are normalised is not known */
    report_run teacher_run; /* valid if teacher_known */
    report_reliability teacher_reliability;
    /* Before anything was distilled, on the held-out images, -1: not measured. */
    double teacher_validation, alone_validation;
    /* Students without a teacher that taught beside it, 0: none; their share of the average, 0 to 1; and what is
       right of the test images and of the held-out ones by that average. */
    int ensemble_students;
    double ensemble_share, ensemble_accuracy, ensemble_validation;
    report_way ways[REPORT_WAYS];
    int way_count, base,
        headline; /* numbers of the ways that the verdict compares: the student alone, and distilled */
    int seeds, first_seed;
    int kept_way, kept_seed;    /* which student was kept: way, and number of the seed from 0 */
    const char *kept_why;       /* "best on the held-out images of all ways and seeds", or NULL */
    double attacked;            /* how far each pixel of 0 to 1 was moved for kd_metrics.robust_accuracy; 0: not */
    int unlabelled_count;       /* images without labels that students learned from as well */
    kd_diagnosis before, after; /* of the kept one: before training and after, on the images it learned from */
    double temperature, alpha;  /* of the headline */
    int has_temperature, has_alpha;               /* its loss */
    const float *teacher_logits, *student_logits; /* (test.count, class_count); teacher's may be NULL */
    const int64_t *confusion;                     /* (class_count, class_count) of the kept student */
    const report_setting *settings;
    int setting_count;
    const report_tree *tree;                       /* NULL: the student is none */
    const kd_model *teacher_model, *student_model; /* of texts: whose attention marks their words; or NULL */
    report_candidate
        *candidates; /* (candidate_count), from calloc; freed by report_close; the best first, which was
                                     chosen */
    int candidate_count;
    report_stage stages[REPORT_STAGES];
    int stage_count;
    const char *command; /* as it was typed, or NULL */
    report_file files[REPORT_FILES];
    int file_count;
    double seconds;
} report;

REPORT_PUBLIC static void report_run_close(report_run *run)
{
    free(run->validation);
    free(run->loss);
    run->validation = run->loss = NULL;
}

/* Adds a way of training, without runs or grid; the pointers are kept. Returns its number, -1 without memory. */
REPORT_PUBLIC static int report_way_add(report *r, const char *name, const char *title)
{
    report_way *w = &r->ways[r->way_count];
    const size_t classes = (size_t)r->class_count;
    if (r->way_count == REPORT_WAYS) return -1;
    memset(w, 0, sizeof *w);
    w->name = name;
    w->title = title;
    w->runs = (report_run *)calloc((size_t)r->seeds, sizeof *w->runs);
    w->confusion = (int64_t *)calloc(classes * classes, sizeof *w->confusion);
    if (w->runs && w->confusion) return r->way_count++;
    free(w->runs);
    free(w->confusion);
    return -1;
}

/* Frees what belongs to a report. */
REPORT_PUBLIC static void report_close(report *r)
{
    int i, k;
    for (i = 0; i < r->way_count; ++i) {
        for (k = 0; k < r->seeds; ++k) report_run_close(&r->ways[i].runs[k]);
        free(r->ways[i].runs);
        free(r->ways[i].grid);
        free(r->ways[i].confusion);
    }
    r->way_count = 0;
    free(r->candidates);
    r->candidates = NULL;
    r->candidate_count = 0;
    report_run_close(&r->teacher_run);
}

/* Adds to the time of a stage; the name is kept. */
REPORT_PUBLIC static void report_time(report *r, const char *name, double seconds)
{
    int i = 0;
    while (i < r->stage_count && strcmp(r->stages[i].name, name) != 0) ++i;
    if (i == REPORT_STAGES) return;
    if (i == r->stage_count) r->stages[r->stage_count++].name = name;
    r->stages[i].seconds += seconds;
}

/* ---- numbers --------------------------------------------------------------------------------------------- */

typedef struct report_text {
    char chars[48];
} report_text;

/* 1234567 as "1 234 567" */
static report_text report_count(int64_t value)
{
    report_text t;
    char digits[24];
    int i, n = snprintf(digits, sizeof digits, "%lld", (long long)value), at = 0;
    for (i = 0; i < n; ++i) {
        if (i > 0 && (n - i) % 3 == 0 && digits[i - 1] != '-') t.chars[at++] = ' ';
        t.chars[at++] = digits[i];
    }
    t.chars[at] = 0;
    return t;
}

/* 1234567 as "1.23 M" */
static report_text report_short(double value)
{
    static const char units[] = " kMGT";
    report_text t;
    int unit = 0;
    for (; value >= 999.5 && unit < 4; value /= 1000) ++unit;
    snprintf(t.chars, sizeof t.chars,
             unit == 0       ? "%.0f"
             : value < 9.995 ? "%.2f %c"
             : value < 99.95 ? "%.1f %c"
                             : "%.0f %c",
             value, units[unit]);
    return t;
}

typedef struct report_statistic {
    double mean, sd,
        error; /* sd: of a sample, 0 for one value; error: the standard error of the mean, sd / sqrt(n) */
} report_statistic;

/* Accuracy on the test images less that of other runs with the same seeds (NULL: as it is). The error is that of
   the paired differences: what seeds share does not count. */
static report_statistic report_paired(const report_run *runs, const report_run *others, int count)
{
    report_statistic s = {0, 0, 0};
    int i;
    for (i = 0; i < count; ++i) s.mean += (runs[i].test.accuracy - (others ? others[i].test.accuracy : 0)) / count;
    for (i = 0; i < count; ++i)
        s.sd += pow(runs[i].test.accuracy - (others ? others[i].test.accuracy : 0) - s.mean, 2);
    s.sd = count > 1 ? sqrt(s.sd / (count - 1)) : 0;
    s.error = count > 0 ? s.sd / sqrt((double)count) : 0;
    return s;
}

static report_statistic report_accuracy(const report_run *runs, int count)
{
    return report_paired(runs, NULL, count);
}

/* What a way of training adds to the accuracy of the student alone. */
static report_statistic report_gain(const report *r, int way)
{
    return report_paired(r->ways[way].runs, r->ways[r->base].runs, r->seeds);
}

/* Agreement with the teacher, mean over seeds. */
static double report_agreement(const report_run *runs, int count)
{
    double sum = 0;
    int i;
    for (i = 0; i < count; ++i) sum += runs[i].test.agreement / count;
    return sum;
}

/* ---- answers: what logits say -------------------------------------------------------------------------------- */

static int report_argmax(const float *row, int count)
{
    int best = 0, i;
    for (i = 1; i < count; ++i) {
        if (row[i] > row[best]) best = i;
    }
    return best;
}

static double report_probability(const float *row, int count, int which, double temperature)
{
    const double top = (double)row[report_argmax(row, count)];
    double sum = 0;
    int i;
    for (i = 0; i < count; ++i) sum += exp(((double)row[i] - top) / temperature);
    return exp(((double)row[which] - top) / temperature) / sum;
}

/* How sure a model is of its answers to some images, and how often it is right. */
REPORT_PUBLIC static void report_reliability_add(report_reliability *b, const float *logits, const int32_t *labels,
                                                 int count, int classes)
{
    int i;
    for (i = 0; i < count; ++i) {
        const float *row = logits + (size_t)i * (size_t)classes;
        const int choice = report_argmax(row, classes);
        const double sure = report_probability(row, classes, choice, 1);
        const int above = (int)ceil(sure * REPORT_BINS) - 1, bin = above < 0             ? 0
                                                                   : above < REPORT_BINS ? above
                                                                                         : REPORT_BINS - 1;
        b->sure[bin] += sure;
        b->right[bin] += choice == labels[i];
        ++b->count[bin];
    }
}

/* Takes down the answers of one student to the test images: for the confusion and reliability of its way. */
REPORT_PUBLIC static void report_answers(report *r, int way, const float *logits)
{
    report_way *w = &r->ways[way];
    const size_t classes = (size_t)r->class_count;
    int i;
    for (i = 0; i < r->test.count; ++i)
        ++w->confusion[(size_t)r->test.labels[i] * classes +
                       (size_t)report_argmax(logits + (size_t)i * classes, r->class_count)];
    report_reliability_add(&w->reliability, logits, r->test.labels, r->test.count, r->class_count);
}

/* How far confidence is from accuracy: kd_metrics.ece. */
REPORT_PUBLIC static double report_ece(const report_reliability *b)
{
    double error = 0;
    int64_t all = 0;
    int i;
    for (i = 0; i < REPORT_BINS; ++i) all += b->count[i], error += fabs(b->right[i] - b->sure[i]);
    return all ? error / (double)all : 0;
}

/* ---- SHA-256 (FIPS 180-4) ----------------------------------------------------------------------------------- */

typedef struct report_sha {
    uint32_t state[8];
    uint8_t block[64];
    uint64_t bytes;
} report_sha;

static uint32_t report_turned(uint32_t x, int by) { return x >> by | x << (32 - by); }

static void report_sha_block(report_sha *h)
{
    static const uint32_t k[64] = {
        0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
        0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
        0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
        0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
        0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
        0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
        0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
        0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};
    uint32_t w[64], v[8];
    int i;
    for (i = 0; i < 16; ++i)
        w[i] = (uint32_t)h->block[4 * i] << 24 | (uint32_t)h->block[4 * i + 1] << 16 |
               (uint32_t)h->block[4 * i + 2] << 8 | h->block[4 * i + 3];
    for (; i < 64; ++i)
        w[i] = w[i - 16] + w[i - 7] +
               (report_turned(w[i - 15], 7) ^ report_turned(w[i - 15], 18) ^ w[i - 15] >> 3) +
               (report_turned(w[i - 2], 17) ^ report_turned(w[i - 2], 19) ^ w[i - 2] >> 10);
    memcpy(v, h->state, sizeof v);
    for (i = 0; i < 64; ++i) {
        const uint32_t one = v[7] + (report_turned(v[4], 6) ^ report_turned(v[4], 11) ^ report_turned(v[4], 25)) +
                             ((v[4] & v[5]) ^ (~v[4] & v[6])) + k[i] + w[i],
                       two = (report_turned(v[0], 2) ^ report_turned(v[0], 13) ^ report_turned(v[0], 22)) +
                             ((v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]));
        memmove(v + 1, v, 7 * sizeof *v);
        v[4] += one;
        v[0] = one + two;
    }
    for (i = 0; i < 8; ++i) h->state[i] += v[i];
}

static void report_sha_add(report_sha *h, const uint8_t *from, size_t count)
{
    size_t i;
    for (i = 0; i < count; ++i) {
        h->block[h->bytes++ % 64] = from[i];
        if (h->bytes % 64 == 0) report_sha_block(h);
    }
}

/* Lists a file under a name, with its size and hash; one that cannot be read is not listed. */
REPORT_PUBLIC static void report_file_add(report *r, const char *name, const char *path)
{
    static const uint8_t zeros[64] = {0x80};
    report_sha h = {
        {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19}, {0}, 0};
    FILE *f = r->file_count < REPORT_FILES ? fopen(path, "rb") : NULL;
    report_file *to = &r->files[r->file_count];
    uint8_t buffer[4096], length[8];
    size_t n, i;
    if (!f) return;
    while ((n = fread(buffer, 1, sizeof buffer, f)) > 0) report_sha_add(&h, buffer, n);
    to->bytes = (int64_t)h.bytes;
    for (i = 0; i < 8; ++i) length[i] = (uint8_t)(h.bytes * 8 >> (56 - 8 * i));
    report_sha_add(&h, zeros, 1 + (119 - (size_t)(h.bytes % 64)) % 64);
    report_sha_add(&h, length, sizeof length);
    for (i = 0; i < 8; ++i) snprintf(to->sha256 + 8 * i, 9, "%08lx", (unsigned long)h.state[i]);
    snprintf(to->name, sizeof to->name, "%s", name);
    r->file_count += !ferror(f);
    fclose(f);
}

/* ---- writing --------------------------------------------------------------------------------------------- */

enum { REPORT_SENTENCE = 2048 }; /* longer ones are no sentences */

/* fputs and fprintf of what is written about images, or, if that is what there is, texts. */
static void report_puts(const char *sentence, FILE *f)
{
    char words[REPORT_SENTENCE];
    fputs(images_reword(sentence, words, sizeof words), f);
}

static void report_print(FILE *f, const char *format, ...)
#if defined(__GNUC__)
    __attribute__((format(printf, 2, 3)))
#endif
    ;

static void report_print(FILE *f, const char *format, ...)
{
    char words[REPORT_SENTENCE];
    va_list args;
    va_start(args, format);
    vfprintf(f, images_reword(format, words, sizeof words), args);
    va_end(args);
}

/* ---- text and pictures in HTML --------------------------------------------------------------------------- */

/* Writes one letter of a text and returns its bytes; a byte that belongs to none becomes U+FFFD. */
static int report_letter(FILE *f, const char *text)
{
    const int length = images_utf8(text);
    if (length) fwrite(text, 1, (size_t)length, f);
    if (!length) report_puts("\xef\xbf\xbd", f);
    return length ? length : 1;
}

/* Of a text or an attribute. */
static void report_escape(FILE *f, const char *text)
{
    for (; *text; ++text) {
        switch (*text) {
        case '<': report_puts("&lt;", f); break;
        case '>': report_puts("&gt;", f); break;
        case '&': report_puts("&amp;", f); break;
        case '"': report_puts("&quot;", f); break;
        default: text += report_letter(f, text) - 1;
        }
    }
}

/* 1234567 in groups of three that no line break can part. */
static void report_grouped(FILE *f, int64_t value)
{
    const report_text t = report_count(value);
    const char *c;
    for (c = t.chars; *c; ++c) {
        if (*c == ' ') report_puts("&#8239;", f);
        if (*c != ' ') fputc(*c, f);
    }
}

static void report_base64(void *file, void *bytes, int size)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const uint8_t *b = (const uint8_t *)bytes;
    FILE *f = (FILE *)file;
    int i;
    for (i = 0; i < size; i += 3) {
        const uint32_t three = (uint32_t)b[i] << 16 | (i + 1 < size ? (uint32_t)b[i + 1] << 8 : 0) |
                               (i + 2 < size ? (uint32_t)b[i + 2] : 0);
        fputc(digits[three >> 18], f);
        fputc(digits[three >> 12 & 63], f);
        fputc(i + 1 < size ? digits[three >> 6 & 63] : '=', f);
        fputc(i + 2 < size ? digits[three & 63] : '=', f);
    }
}

static int report_left_out; /* pictures for which there was no memory */

/* A picture as the value of an attribute. Returns 0, and counts it as left out, if memory ran out. */
static int report_png(FILE *f, const uint8_t *pixels, int width, int height, int channels)
{
    const int line = width * channels;
    int done;
    if (!report_reserve(((size_t)line + 1) * (size_t)height)) return ++report_left_out, 0;
    report_puts("data:image/png;base64,", f);
    done = stbi_write_png_to_func(report_base64, f, width, height, channels, pixels, line);
    free(report_memory.start);
    report_left_out += !done;
    return done;
}

/* The mean of step x step pixels of one channel, as far as there are any. */
static uint8_t report_pixel(const report *r, const uint8_t *plane, int y, int x, int step)
{
    int sum = 0, n = 0, i, j;
    for (i = y * step; i < (y + 1) * step && i < r->height; ++i)
        for (j = x * step; j < (x + 1) * step && j < r->width; ++j) sum += plane[i * r->width + j], ++n;
    return (uint8_t)((sum + n / 2) / n);
}

/* "28x28 grey", "up to 96 bytes" */
REPORT_PUBLIC static report_text report_shape(const report *r)
{
    report_text t;
    if (r->texts)
        snprintf(t.chars, sizeof t.chars, "up to %d bytes", r->channels);
    else
        snprintf(t.chars, sizeof t.chars, "%dx%d %s", r->width, r->height, r->channels == 1 ? "grey" : "colour");
    return t;
}

/* Texts as they were read, which end where zeros begin. Returns 0 without memory. */
static int report_quotes(FILE *f, const report *r, const report_images *from, const int *which, int count,
                         const char *style)
{
    char *text = (char *)malloc((size_t)r->channels + 1);
    int i;
    for (i = 0; text && i < count; ++i) {
        memcpy(text, from->pixels + (size_t)which[i] * (size_t)r->channels, (size_t)r->channels);
        text[r->channels] = 0;
        report_print(f, "<q style=\"%s\">", style);
        report_escape(f, text);
        report_puts("</q>", f);
    }
    free(text);
    report_left_out += !text;
    return text != NULL;
}

/* The name of a colour in the style: grey for the student alone, green for the headline. */
static const char *report_colour(const report *r, int way)
{
    static const char *const others[] = {"s", "p", "q", "u", "v"};
    const int before = (way > r->base) + (way > r->headline);
    if (way == r->base) return "a";
    if (way == r->headline) return "d";
    return others[(way - before) % 5];
}

/* Adds what token k gets of a row of attention to the bytes that it stands for. */
static void report_share(const kd_attention_info *about, const float *row, int k, const uint8_t *bytes, int length,
                         double *share)
{
    const int at = (k - about->first) * about->stride;
    int here = 0, i;
    while (here < about->stride && at + here < length && bytes[at + here]) ++here;
    for (i = 0; i < here; ++i) share[at + i] += (double)row[k] / here;
}

/* Of a text, how much of a model's attention each byte gets, in its last such layer: the mean over heads of what
   the token that stands for the whole takes, or, where none does, over all tokens, too. Shares sum to 1. Returns 0
   where the model has no attention to bytes, or without memory. */
static int report_looks(const kd_model *m, const uint8_t *bytes, int length, double *share)
{
    kd_attention_info about;
    float *weights, *x;
    double all = 0;
    int c, h, w, i, k, good;
    if (!m || kd_model_attention(m, NULL, &about) != KD_OK || about.stride <= 0) return 0;
    kd_model_input(m, &c, &h, &w);
    if (c * h * w != length) return 0;
    weights = (float *)calloc((size_t)about.heads * (size_t)about.tokens, (size_t)about.tokens * sizeof *weights);
    x = (float *)calloc((size_t)length, sizeof *x);
    for (i = 0; x && i < length; ++i) x[i] = bytes[i], share[i] = 0;
    good = weights && x && kd_predict_attention(m, NULL, x, 1, weights) == KD_OK;
    for (i = 0; good && i < about.heads * about.tokens; ++i) {
        if (about.token >= 0 && i % about.tokens != about.token) continue;
        for (k = about.first; k < about.tokens; ++k)
            report_share(&about, weights + (size_t)i * (size_t)about.tokens, k, bytes, length, share);
    }
    for (i = 0; good && i < length; ++i) all += share[i];
    for (i = 0; all > 0 && i < length; ++i) share[i] /= all;
    free(weights);
    free(x);
    return all > 0;
}

/* Bytes of the word that a text goes on with: 0 in front of white space or at its end. */
static int report_word(const uint8_t *bytes, int length)
{
    int n = 0;
    while (n < length && bytes[n] && !strchr(" \t\r\n", bytes[n])) ++n;
    return n;
}

/* A text whose words are shaded by their shares of attention, the largest the most. Returns 0 without memory. */
static int report_shaded(FILE *f, const uint8_t *bytes, int length, const double *share, const char *colour)
{
    char *text = (char *)calloc((size_t)length + 1, 1);
    double largest = 0, sum;
    int at, n, i, pass;
    if (!text) return ++report_left_out, 0;
    report_print(f, "<q style=\"--c:var(--%s)\">", colour);
    for (pass = 0; pass < 2; ++pass) {
        for (at = 0; at < length && bytes[at]; at += n ? n : 1) {
            n = report_word(bytes + at, length - at);
            for (sum = 0, i = 0; i < n; ++i) sum += share[at + i];
            if (!pass && sum > largest) largest = sum;
            if (!pass) continue;
            memcpy(text, bytes + at, (size_t)(n ? n : 1));
            text[n ? n : 1] = 0;
            if (n)
                report_print(f, "<mark style=\"--v:%.0f%%\" title=\"%.1f&#8239;%%\">",
                             largest > 0 ? 50 * sum / largest : 0, 100 * sum);
            report_escape(f, text);
            if (n) report_puts("</mark>", f);
        }
    }
    report_puts("</q>", f);
    free(text);
    return 1;
}

/* Whose words are marked: 1, the teacher's, 2, the student's, 3, both. */
static int report_lookers(const report *r)
{
    const kd_model *const models[2] = {r->teacher_model, r->student_model};
    kd_attention_info about;
    int i, who = 0;
    for (i = 0; i < 2; ++i) {
        if (r->texts && models[i] && !kd_model_is_int8(models[i]) &&
            kd_model_attention(models[i], NULL, &about) == KD_OK && about.stride > 0)
            who |= 1 << i;
    }
    return who;
}

static int report_tiles(FILE *f, const report *r, const report_images *from, const int *which, int count, int most,
                        const char *style);

/* A test image by itself; a test text once for each of `who` that has attention, or else as it is. */
static int report_seen(FILE *f, const report *r, int image, int who)
{
    const kd_model *const models[2] = {r->teacher_model, r->student_model};
    const uint8_t *bytes = r->test.pixels + (size_t)image * (size_t)r->channels;
    double *share;
    int i, shown = 0;
    if (!r->texts) return report_tiles(f, r, &r->test, &image, 1, REPORT_LARGE, "width:100%;height:auto");
    share = (double *)malloc((size_t)r->channels * sizeof *share);
    for (i = 0; share && i < 2; ++i) {
        if ((who & report_lookers(r)) >> i & 1 && report_looks(models[i], bytes, r->channels, share))
            shown |= report_shaded(f, bytes, r->channels, share, i ? report_colour(r, r->kept_way) : "t");
    }
    free(share);
    return shown || report_quotes(f, r, &r->test, &image, 1, "");
}

/* What the shades of words mean; `who` of the two are shown. */
static void report_say_looks(FILE *f, const report *r, int who)
{
    static const char *const whose[] = {"", "the teacher's", "the student's",
                                        "the teacher's, then, of the same text, the student's"};
    const int seen = who & report_lookers(r);
    if (r->texts && seen)
        report_print(
            f,
            " Words are shaded by their shares of attention, %s, in the last layer that has any. They tell "
            "where a model looks, not why it decides.",
            whose[seen]);
    if (r->texts && !seen)
        report_print(f, " No words are shaded: %s.",
                     who == 1 && !r->teacher_model ? "there is no single teacher whose attention could be shown"
                     : who == 1                    ? "the teacher has no attention that could be shown"
                                                   : "no model here has attention that could be shown");
}

/* Tiles of one class side by side in one picture; which[i] is the number of the i-th. Large images are shrunk by a
   whole number to at most `most` pixels a side. Returns 0 without memory. */
static int report_tiles(FILE *f, const report *r, const report_images *from, const int *which, int count, int most,
                        const char *style)
{
    const int side = r->height > r->width ? r->height : r->width, step = (side + most - 1) / most;
    const int height = (r->height + step - 1) / step, width = (r->width + step - 1) / step;
    const size_t plane = (size_t)r->height * (size_t)r->width, line = (size_t)width * (size_t)count;
    const int channels = r->channels == 1 ? 1 : 3;
    uint8_t *sheet = r->texts ? NULL : (uint8_t *)calloc(line * (size_t)height, (size_t)channels);
    int i, c, y, x, done;
    if (r->texts) return report_quotes(f, r, from, which, count, style);
    if (!sheet) return ++report_left_out, 0;
    for (i = 0; i < count; ++i) {
        const uint8_t *pixels = from->pixels + (size_t)which[i] * plane * (size_t)r->channels;
        for (c = 0; c < channels; ++c)
            for (y = 0; y < height; ++y)
                for (x = 0; x < width; ++x)
                    sheet[((size_t)y * line + (size_t)(i * width + x)) * (size_t)channels + (size_t)c] =
                        report_pixel(r, pixels + (size_t)(c % r->channels) * plane, y, x, step);
    }
    report_print(f, "<img width=\"%d\" height=\"%d\" style=\"%s\" alt=\"", (int)line, height, style);
    report_escape(f, r->classes[from->labels[which[0]]]);
    report_puts("\" src=\"", f);
    done = report_png(f, sheet, (int)line, height, channels);
    report_puts("\">", f);
    free(sheet);
    return done;
}

static void report_key(FILE *f, const char *colour)
{
    report_print(f, "<span class=\"key\" style=\"background:var(--%s)\"></span>", colour);
}

/* Which colour is whose. */
static void report_legend(FILE *f, const report *r, int teacher)
{
    int i;
    report_puts("<p class=\"legend\">", f);
    for (i = teacher ? -1 : 0; i < r->way_count; ++i) {
        report_puts("<span>", f);
        report_key(f, i < 0 ? "t" : report_colour(r, i));
        report_escape(f, i < 0 ? "teacher" : r->ways[i].title);
        report_puts("</span> ", f);
    }
    report_puts("</p>", f);
}

/* A card around a table that may be wider than the page: it scrolls, by keyboard as well. */
static void report_scroll(FILE *f, const char *what)
{
    report_puts("<div class=\"card scroll\" tabindex=\"0\" role=\"region\" aria-label=\"", f);
    report_escape(f, what);
    report_puts("\">", f);
}

/* ---- the verdict ----------------------------------------------------------------------------------------- */

/* What distillation brought, first of all, in a sentence or two without markup. A difference is clear beyond two
   standard errors. */
REPORT_PUBLIC static void report_verdict(const report *r, char *text, size_t size)
{
    const report_statistic gain = report_gain(r, r->headline);
    int i, best = r->headline;
    size_t at;
    if (r->seeds < 2)
        snprintf(
            text, size,
            "Distillation changed the student's accuracy by %+.2f points; one seed cannot tell chance from effect.",
            100 * gain.mean);
    else if (fabs(gain.mean) <= 2 * gain.error)
        snprintf(
            text, size,
            "No clear difference: distillation changed the student's accuracy by %+.2f points, within its error "
            "(two standard errors are %.2f, %d seeds).",
            100 * gain.mean, 200 * gain.error, r->seeds);
    else if (gain.mean > 0)
        snprintf(text, size, "Distillation gained %.2f points (standard error %.2f, %d seeds).", 100 * gain.mean,
                 100 * gain.error, r->seeds);
    else
        snprintf(text, size,
                 "The student alone wins: distillation lost %.2f points (standard error %.2f, %d seeds).",
                 -100 * gain.mean, 100 * gain.error, r->seeds);
    for (i = 0; i < r->way_count; ++i) {
        if (i != r->base && !r->ways[i].apart && report_gain(r, i).mean > report_gain(r, best).mean) best = i;
    }
    at = strlen(text);
    if (best != r->headline && report_gain(r, best).mean > 0)
        snprintf(text + at, size - at, " More came from another way, \"%s\": %+.2f points.", r->ways[best].title,
                 100 * report_gain(r, best).mean);
}

/* A teacher that is no better than its student has little to teach: compared on the held-out images, or on the test
   images where those are not known. Returns 0 and an empty text where it is better, or not known. */
REPORT_PUBLIC static int report_teacher_warning(const report *r, char *text, size_t size)
{
    char words[REPORT_SENTENCE];
    const int held = r->teacher_validation >= 0 && r->alone_validation >= 0;
    const double teacher = r->ensemble_students ? r->ensemble_validation
                           : held               ? r->teacher_validation
                           : r->teacher_known   ? r->teacher_run.test.accuracy
                                                : 2,
                 alone = held ? r->alone_validation : report_accuracy(r->ways[r->base].runs, r->seeds).mean;
    *text = 0;
    if (teacher > alone) return 0;
    snprintf(text, size,
             images_reword("%s better than the student on the %s images: %.2f %% and %.2f %%. A stronger teacher, "
                           "trained longer or larger, is what distillation needs first.",
                           words, sizeof words),
             r->ensemble_students ? "Teacher and students together are not" : "The teacher is not",
             held ? "held-out" : "test", 100 * teacher, 100 * alone);
    return 1;
}

typedef struct report_name {
    char chars[64];
} report_name;

/* "teacher and 5 students" */
REPORT_PUBLIC static report_name report_ensemble(const report *r)
{
    report_name name;
    snprintf(name.chars, sizeof name.chars, r->ensemble_share < 1 ? "teacher and %d student%s" : "the %d student%s",
             r->ensemble_students, r->ensemble_students == 1 ? "" : "s");
    return name;
}

/* "distilled, seed 3; best on the held-out images" */
REPORT_PUBLIC static void report_kept(const report *r, char *text, size_t size)
{
    char words[REPORT_SENTENCE];
    const report_way *w = &r->ways[r->kept_way];
    const double held = w->runs[r->kept_seed].held_out;
    const size_t at = (size_t)snprintf(text, size, "%s, seed %d", w->title, r->first_seed + r->kept_seed);
    if (at < size && r->kept_why)
        snprintf(text + at, size - at, "; %s", images_reword(r->kept_why, words, sizeof words));
    if (at < size && !r->kept_why && held >= 0)
        snprintf(text + at, size - at, images_reword("; %.2f %% of the held-out images", words, sizeof words),
                 100 * held);
}

/* ---- the head of the page -------------------------------------------------------------------------------- */

/* In parts: ISO C wants no string of more than 4095 letters to work. */
static const char *const report_style[] = {
    ":root{color-scheme:light dark;--ink:#1d2330;--soft:#596275;--page:#f6f7f9;--card:#fff;--line:#e3e6ec;"
    "--t:#6941c6;--a:#667085;--d:#067647;--s:#b54708;--p:#175cd3;--q:#c11574;--u:#566b00;--v:#7a2e0e;"
    "--1:#42307d;--2:#7f56d9;--3:#ae7bea;--good:#067647;--bad:#d92d20;--note:#fff4e0}"
    "@media(prefers-color-scheme:dark){:root{--ink:#e8eaf0;--soft:#a3adbf;--page:#12151c;--card:#1b202b;"
    "--line:#2f3746;--t:#b5a6ff;--a:#9aa5b8;--d:#3ccb7f;--s:#fdb022;--p:#6cb8ff;--q:#f670c7;--u:#bcd42a;"
    "--v:#e6a27c;--1:#e4dcff;--2:#b5a6ff;--3:#8468f5;--good:#3ccb7f;--bad:#f97066;--note:#3a2d12}}"
    "*{box-sizing:border-box}body{margin:0;background:var(--page);color:var(--ink);"
    "font:16px/1.5 system-ui,-apple-system,'Segoe UI',Roboto,sans-serif;-webkit-text-size-adjust:100%}"
    "main{max-width:1128px;margin:0 auto;padding:40px 24px 64px}h1{font-size:16px;font-weight:600;margin:0 0 6px;"
    "color:var(--soft)}h2{font-size:21px;line-height:1.3;margin:48px 0 4px}"
    "p{margin:4px 0 14px;color:var(--soft);max-width:76ch}"
    ".lead{font-size:26px;line-height:1.3;font-weight:600;color:var(--ink);max-width:none;margin:0 0 12px}"
    ".note{background:var(--note);color:var(--ink);border-left:4px solid var(--s);border-radius:6px;padding:10px "
    "14px;"
    "max-width:none}"
    "nav{display:flex;flex-wrap:wrap;gap:4px 18px;margin:14px 0 22px;font-size:14px}a{color:var(--p)}"
    ".row{display:grid;gap:16px;grid-template-columns:repeat(auto-fit,minmax(min(250px,100%),1fr))}"
    ".wide{grid-template-columns:repeat(auto-fit,minmax(min(420px,100%),1fr))}"
    ".stack{display:grid;gap:16px;grid-template-columns:minmax(0,1fr)}"
    ".card{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:18px 20px;min-width:0}"
    ".card h3{margin:0 0 6px;font-size:14px;font-weight:600;color:var(--soft)}.card p{font-size:14px}"
    ".big{font-size:38px;font-weight:650;line-height:1.15;white-space:nowrap;font-variant-numeric:tabular-nums}"
    ".big small,.sub{font-size:14px;font-weight:400;color:var(--soft)}.sub{margin:0 0 10px}"
    ".key{display:inline-block;width:10px;height:10px;border-radius:5px;margin-right:7px}"
    ".legend{display:flex;flex-wrap:wrap;gap:2px 18px;font-size:14px;max-width:none}"
    ".badge{display:inline-block;border:1px solid var(--good);color:var(--good);border-radius:9px;padding:0 7px;"
    "font-size:11px;margin-left:6px}"
    "dl{display:grid;grid-template-columns:minmax(110px,max-content) minmax(3.5em,1fr);gap:2px 14px;margin:0;"
    "font-size:14px}dt{color:var(--soft);overflow-wrap:anywhere}.strip>span{overflow-wrap:anywhere}"
    "dd{margin:0;text-align:right;overflow-wrap:anywhere;font-variant-numeric:tabular-nums}"
    ".row.tried>:last-child:nth-child(odd){grid-column:1/-1}"
    ".row dl{grid-template-columns:1fr auto}.row dd{white-space:nowrap}"
    "code{font:13px ui-monospace,Consolas,monospace;overflow-wrap:anywhere}"
    "img{image-rendering:pixelated;display:block;border-radius:4px}svg{display:block;width:100%;height:auto}"
    "svg text{fill:var(--soft);font:12px system-ui,sans-serif}",
    /* tables, pictures, and what is smaller on a phone */
    "table{border-collapse:collapse;font-size:14px;font-variant-numeric:tabular-nums}.full{width:100%}"
    "td,th{padding:5px 10px;text-align:right;font-weight:400;white-space:nowrap}tr+tr>*{border-top:1px solid "
    "var(--line)}tr>:first-child{text-align:left}th{color:var(--soft)}tr>th:first-child{color:inherit}"
    ".scroll{overflow-x:auto}.scroll tr>th:first-child{position:sticky;left:0;background:var(--card)}"
    "thead th{white-space:normal;vertical-align:bottom;min-width:64px}"
    ".first{min-width:190px;white-space:normal!important}.first small{display:block;color:var(--soft)}"
    "th button{all:unset;cursor:pointer}th button::after{content:' \\2195';opacity:.45}"
    "th[aria-sort=ascending] button::after{content:' \\2191';opacity:1}"
    "th[aria-sort=descending] button::after{content:' \\2193';opacity:1}"
    ".chosen>*{font-weight:600;color:var(--ink)}"
    ".matrix{table-layout:fixed;font-size:12px}.matrix td,.matrix th{padding:0;height:28px;border:1px solid "
    "var(--card);text-align:center;overflow:hidden;text-overflow:ellipsis}"
    ".matrix th:first-child{width:84px;text-align:left;padding-right:6px;color:var(--soft)}"
    ".matrix thead th{height:86px;min-width:0}"
    ".matrix thead span{writing-mode:vertical-rl;transform:rotate(180deg);max-height:84px;overflow:hidden;"
    "text-overflow:ellipsis;display:inline-block}"
    ".matrix td.hit{background:color-mix(in srgb,var(--good) var(--v),var(--card))}"
    ".matrix td.miss{background:color-mix(in srgb,var(--bad) var(--v),var(--card))}"
    ".grid{display:grid;gap:12px;grid-template-columns:repeat(auto-fill,minmax(min(150px,100%),1fr))}"
    ".texts{grid-template-columns:repeat(auto-fill,minmax(min(310px,100%),1fr))}"
    "q mark{color:inherit;border-radius:3px;background:color-mix(in srgb,var(--c) var(--v),transparent)}"
    ".tile small{display:block;color:var(--soft)}.tile{background:var(--card);border:1px solid "
    "var(--line);border-radius:10px;padding:10px;font-size:13px;"
    "line-height:1.4;overflow-wrap:anywhere}.right{color:var(--good)}.wrong{color:var(--bad)}"
    ".strip{display:grid;grid-template-columns:minmax(90px,auto) minmax(0,1fr);gap:8px 14px;align-items:center;"
    "font-size:14px}.strip>div{display:flex;flex-wrap:wrap;gap:4px 0}.strip img{height:44px;width:auto}"
    ".strip img+img.test{margin-left:14px}.strip small{color:var(--soft);display:block}"
    ".said{margin:8px 0 0;padding-left:20px;overflow-wrap:anywhere}"
    "q{display:block;quotes:none;overflow-wrap:anywhere;padding:4px 10px;margin:2px 0;border-left:3px solid "
    "var(--c,var(--soft));font-size:14px}.strip>div>q{flex-basis:100%}"
    ".soft{display:grid;grid-template-columns:88px minmax(0,1fr);gap:14px}"
    ".tree{position:relative}.tree svg{min-width:880px}.bar{display:flex;height:14px;border-radius:4px;"
    "overflow:hidden;margin:2px 0 12px}.bar i{display:block;min-width:1px}"
    ".p{cursor:default}:focus-visible{outline:2px solid var(--p);outline-offset:2px}svg .p:focus{outline:none}"
    "svg .p:focus-visible .m,svg .p:hover .m{stroke:var(--ink);stroke-width:2.5;stroke-opacity:1}"
    "#tip{position:fixed;z-index:9;background:var(--ink);color:var(--page);font-size:13px;line-height:1.35;"
    "padding:5px 9px;border-radius:6px;pointer-events:none;max-width:min(320px,90vw)}#tip[hidden]{display:none}"
    "img[role=button]{cursor:zoom-in}dialog{border:0;border-radius:12px;padding:14px;background:var(--card);"
    "color:var(--ink);max-width:96vw}dialog img{max-width:100%;height:auto}dialog::backdrop{background:#000a}"
    "@media(max-width:600px){main{padding:24px 14px 48px}.card{padding:14px}.lead{font-size:21px}"
    ".chart text{font-size:17px}.wide .card{padding:14px 10px}.soft{grid-template-columns:72px minmax(0,1fr)}"
    ".strip{grid-template-columns:76px minmax(0,1fr)}.strip img{height:auto;max-width:100%}"
    ".strip img+img.test{margin-left:0}.matrix{font-size:11px}.matrix th:first-child{width:62px}"
    ".scroll{padding:14px 10px}.first{min-width:112px;max-width:120px}td,th{padding:5px 8px}}"
    "@media print{body{background:#fff}.card,.tile{break-inside:avoid}nav{display:none}}"};

/* Optional: tips on hover and focus, arrow keys between points and cells, tables that sort, pictures that grow. The
   page reads without it. */
static const char report_script[] =
    "(function(){'use strict';var d=document,tip=d.createElement('div');tip.id='tip';tip.hidden=true;"
    "tip.setAttribute('aria-hidden','true');d.body.appendChild(tip);"
    "function say(e){var t=e.querySelector('title');if(t){e.dataset.tip=t.textContent;t.remove()}"
    "if(e.title){e.dataset.tip=e.title;e.removeAttribute('title')}"
    "if(e.dataset.tip)e.setAttribute('aria-label',e.dataset.tip);return e.dataset.tip}"
    "function show(v){var e=v.target.closest?v.target.closest('.p'):null,s=e?say(e):'';tip.hidden=!s;if(!s)return;"
    "tip.textContent=s;var b=e.getBoundingClientRect(),w=tip.offsetWidth,h=tip.offsetHeight;"
    "tip.style.left=Math.max(6,Math.min(d.documentElement.clientWidth-w-6,b.left+b.width/2-w/2))+'px';"
    "tip.style.top=(b.top>h+10?b.top-h-8:b.bottom+8)+'px'}"
    "function hide(){tip.hidden=true}"
    "d.addEventListener('pointerover',show);d.addEventListener('focusin',show);d.addEventListener('focusout',hide);"
    "addEventListener('scroll',hide,{passive:true});"
    "function next(e,k){if(e.tagName=='TD'){var t=e.closest('table'),r=e.parentNode.rowIndex,c=e.cellIndex;"
    "r+=(k=='ArrowDown')-(k=='ArrowUp');c+=(k=='ArrowRight')-(k=='ArrowLeft');return t.rows[r]&&t.rows[r].cells[c]}"
    "var g=Array.prototype.slice.call(e.closest('svg').querySelectorAll('.p')),"
    "i=g.indexOf(e)+(k=='ArrowRight'||k=='ArrowDown'?1:-1);return g[i]}"
    "d.addEventListener('keydown',function(v){if(v.key=='Escape')hide();var e=v.target,n;"
    "if(v.key.slice(0,5)=='Arrow'&&e.classList.contains('p')){n=next(e,v.key);"
    "if(n&&n.classList.contains('p')){v.preventDefault();e.tabIndex=-1;n.tabIndex=0;n.focus()}}"
    "if((v.key=='Enter'||v.key==' ')&&e.tagName=='IMG'){v.preventDefault();grow(e)}});"
    "function value(r,c){var s=(r.cells[c]||{}).textContent||'',x=parseFloat(s.replace(/[\\s\\u202f]/g,''));"
    "return isNaN(x)?s:x}"
    "d.querySelectorAll('table.sort').forEach(function(t){Array.prototype.forEach.call(t.tHead.rows[0].cells,"
    "function(h,c){if(!h.textContent)return;var b=d.createElement('button');b.textContent=h.textContent;"
    "h.textContent='';h.appendChild(b);b.onclick=function(){var up=h.getAttribute('aria-sort')!='ascending';"
    "t.querySelectorAll('th[aria-sort]').forEach(function(o){o.removeAttribute('aria-sort')});"
    "h.setAttribute('aria-sort',up?'ascending':'descending');Array.prototype.slice.call(t.tBodies[0].rows)"
    ".sort(function(x,y){var p=value(x,c),q=value(y,c),o=typeof p==typeof q?(p<q?-1:p>q?1:0):typeof p=='number'?"
    "-1:1;return up?o:-o}).forEach(function(r){t.tBodies[0].appendChild(r)})}})});"
    "var big=d.createElement('dialog');if(!big.showModal)return;d.body.appendChild(big);"
    "big.onclick=function(){big.close()};"
    "function grow(i){var c=i.cloneNode(),k=Math.max(1,Math.min(d.documentElement.clientWidth*.9/i.naturalWidth,"
    "innerHeight*.75/i.naturalHeight,12));c.removeAttribute('role');c.removeAttribute('tabindex');"
    "c.style.cssText='width:'+i.naturalWidth*k+'px';big.replaceChildren(c,i.alt);big.setAttribute('aria-label',i."
    "alt);"
    "big.showModal()}"
    "d.querySelectorAll('img').forEach(function(i){i.tabIndex=0;i.setAttribute('role','button');"
    "i.setAttribute('aria-label',i.alt+', enlarge');i.onclick=function(){grow(i)}})})()";

static void report_open_page(FILE *f, const char *title)
{
    report_puts(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" "
        "content=\"width=device-width,initial-scale=1\"><meta name=\"color-scheme\" content=\"light dark\"><title>",
        f);
    report_print(f, "%s</title><style>%s%s</style></head><body><main>", title, report_style[0], report_style[1]);
}

static void report_close_page(FILE *f, const char *program)
{
    report_print(f,
                 "<p style=\"margin-top:40px\">Made by %s, an example of kd.h " KD_VERSION
                 ".</p></main><script>%s</script></body></html>\n",
                 program, report_script);
}

/* "The student keeps 97 % of the teacher's accuracy ..." */
static void report_size(FILE *f, const report *r)
{
    const report_statistic soft = report_accuracy(r->ways[r->headline].runs, r->seeds);
    double smaller, faster;
    if (!r->teacher_known || !r->teacher.spec) return;
    smaller = (double)r->teacher.parameters / (double)r->student.parameters;
    faster = r->teacher.latency_us / r->student.latency_us;
    report_print(f, "<p>The distilled student has %.1f&nbsp;%% of the teacher's accuracy with ",
                 100 * soft.mean / r->teacher_run.test.accuracy);
    if (smaller >= 1.5) report_print(f, "%.0f&nbsp;times fewer parameters, and ", smaller);
    if (smaller < 1.5) report_print(f, "%.2f&nbsp;times its parameters, and ", 1 / smaller);
    if (faster >= 1.05) report_print(f, "answers %.1f&nbsp;times faster.", faster);
    if (faster < 1.05) report_print(f, "takes %.2f&nbsp;times as long to answer.", 1 / faster);
    report_puts("</p>", f);
}

static void report_notes(FILE *f, const report *r)
{
    char text[1024];
    if (report_teacher_warning(r, text, sizeof text)) report_print(f, "<p class=\"note\">%s</p>", text);
    if (r->teacher_guessed)
        report_puts(
            "<p class=\"note\">The teacher does not say how its images were normalised. It was given them by "
            "mean and "
            "deviation of the training images, which may not be what it learned from.</p>",
            f);
    report_size(f, r);
    report_kept(r, text, sizeof text);
    report_puts("<p>Kept as <code>student.safetensors</code>: ", f);
    report_escape(f, text);
    report_puts(".</p>", f);
}

static void report_card(FILE *f, const char *title, const char *colour, const report_model *m,
                        const report_run *runs, int count)
{
    const report_statistic accuracy = report_accuracy(runs, count);
    report_print(f, "<div class=\"card\"><h3><span class=\"key\" style=\"background:var(--%s)\"></span>", colour);
    report_escape(f, title);
    report_puts("</h3>", f);
    if (count == 0)
        report_puts("<div class=\"big\">&ndash;</div><p class=\"sub\">known on training images only</p>", f);
    if (count > 0) report_print(f, "<div class=\"big\">%.2f&nbsp;%%</div>", 100 * accuracy.mean);
    if (count == 1) report_puts("<p class=\"sub\">of the test images, one training</p>", f);
    if (count > 1)
        report_print(f, "<p class=\"sub\">of the test images, &plusmn;&nbsp;%.2f over %d&nbsp;seeds</p>",
                     100 * accuracy.sd, count);
    if (!m->spec) {
        report_puts("<p class=\"sub\">Its logits are all that is known of it.</p></div>", f);
        return;
    }
    report_puts("<dl><dt>parameters</dt><dd>", f);
    report_grouped(f, m->parameters);
    report_print(f,
                 "</dd><dt>multiply-adds an image</dt><dd>%s</dd><dt>file</dt><dd>%sB</dd><dt>latency, one "
                 "thread</dt><dd>%.1f&nbsp;&micro;s</dd></dl></div>",
                 report_short((double)m->macs).chars, report_short((double)m->bytes).chars, m->latency_us);
}

static void report_head(FILE *f, const report *r)
{
    char text[1024];
    report_open_page(f, "Distillation report");
    report_puts("<h1>Distillation report</h1><p class=\"lead\">", f);
    report_verdict(r, text, sizeof text);
    report_escape(f, text);
    report_puts("</p>", f);
    report_notes(f, r);
    report_puts("<p>Images in <code>", f);
    report_escape(f, r->folder);
    report_puts("</code>: ", f);
    report_grouped(f, r->train_count);
    report_puts(" to train on, ", f);
    report_grouped(f, r->validation_count);
    report_puts(" held out to choose with, ", f);
    report_grouped(f, r->test.count);
    report_puts(" to test on once", f);
    if (r->unlabelled_count > 0) {
        report_puts(", and ", f);
        report_grouped(f, r->unlabelled_count);
        report_puts(" without labels, on which the teacher was asked", f);
    }
    report_print(f, "; %s, %d classes.</p>", report_shape(r).chars, r->class_count);
    report_puts(
        "<nav aria-label=\"Parts of this page\"><a href=\"#results\">Results</a><a href=\"#errors\">Errors</a><a "
        "href=\"#images\">Images</a><a href=\"#settings\">How it was made</a></nav><div class=\"row\">",
        f);
    report_card(f, "teacher", "t", &r->teacher, &r->teacher_run, r->teacher_known);
    report_card(f, r->ways[r->base].title, "a", &r->student, r->ways[r->base].runs, r->seeds);
    report_card(f, r->ways[r->headline].title, "d", &r->student, r->ways[r->headline].runs, r->seeds);
    report_puts("</div>", f);
}

/* ---- the table of results -------------------------------------------------------------------------------- */

static double report_mean_held_out(const report_run *runs, int count)
{
    double sum = 0;
    int i;
    for (i = 0; i < count; ++i) {
        if (runs[i].held_out < 0) return -1;
        sum += runs[i].held_out / count;
    }
    return sum;
}

static void report_percent_cell(FILE *f, double value)
{
    if (value < 0) report_puts("<td>&ndash;</td>", f);
    if (value >= 0) report_print(f, "<td>%.2f&nbsp;%%</td>", 100 * value);
}

/* Of attacked test images, the mean of some runs; -1: not known. */
REPORT_PUBLIC static double report_robust(const report_run *runs, int count)
{
    double sum = 0;
    int i;
    for (i = 0; i < count; ++i) {
        if (runs[i].test.robust_accuracy < 0) return -1;
        sum += runs[i].test.robust_accuracy / count;
    }
    return sum;
}

/* A line of the table; way -1: the teacher. */
static void report_line(FILE *f, const report *r, int way)
{
    const report_run *runs = way < 0 ? &r->teacher_run : r->ways[way].runs;
    const int count = way < 0 ? 1 : r->seeds;
    const report_statistic accuracy = report_accuracy(runs, count);
    double ece = 0, nll = 0;
    int i;
    for (i = 0; i < count; ++i) ece += runs[i].test.ece / count, nll += runs[i].test.nll / count;
    report_puts("<tr><th scope=\"row\" class=\"first\">", f);
    report_key(f, way < 0 ? "t" : report_colour(r, way));
    report_escape(f, way < 0 ? "teacher" : r->ways[way].title);
    if (way >= 0 && way == r->kept_way)
        report_print(f, "<span class=\"badge\">seed&nbsp;%d kept</span>", r->first_seed + r->kept_seed);
    if (way >= 0 && r->ways[way].how) {
        report_puts("<small>", f);
        report_escape(f, r->ways[way].how);
        report_puts("</small>", f);
    }
    report_print(f, "</th><td>%.2f&nbsp;%%</td>", 100 * accuracy.mean);
    if (r->seeds > 1 && way < 0) report_puts("<td>&ndash;</td>", f);
    if (r->seeds > 1 && way >= 0) report_print(f, "<td>%.2f</td>", 100 * accuracy.sd);
    if (way < 0 || way == r->base) {
        report_print(f, "<td>&ndash;</td>%s", r->seeds > 1 ? "<td>&ndash;</td>" : "");
    } else {
        const report_statistic gain = report_gain(r, way);
        report_print(f, "<td class=\"%s\">%+.2f</td>",
                     r->seeds < 2 || fabs(gain.mean) <= 2 * gain.error ? ""
                     : gain.mean > 0                                   ? "right"
                                                                       : "wrong",
                     100 * gain.mean);
        if (r->seeds > 1) report_print(f, "<td>%.2f</td>", 100 * gain.error);
    }
    report_percent_cell(f, way < 0 ? r->teacher_validation : report_mean_held_out(runs, count));
    report_print(f, "<td>%.3f</td><td>%.3f</td>", nll, ece);
    report_percent_cell(f, way < 0 || runs[0].test.agreement < 0 ? -1 : report_agreement(runs, count));
    if (r->attacked > 0) report_percent_cell(f, report_robust(runs, count));
    report_puts("</tr>", f);
}

/* A line for those that taught the distilled together. */
static void report_ensemble_line(FILE *f, const report *r)
{
    report_puts("<tr><th scope=\"row\" class=\"first\">", f);
    report_key(f, "t");
    report_escape(f, report_ensemble(r).chars);
    report_print(f, "<small>averaged, the students with %.0f&nbsp;%%: what the distilled learned from</small></th>",
                 100 * r->ensemble_share);
    report_percent_cell(f, r->ensemble_accuracy);
    report_print(f, "%s<td>&ndash;</td>%s", r->seeds > 1 ? "<td>&ndash;</td>" : "",
                 r->seeds > 1 ? "<td>&ndash;</td>" : "");
    report_percent_cell(f, r->ensemble_validation);
    report_print(f, "<td>&ndash;</td><td>&ndash;</td><td>&ndash;</td>%s</tr>",
                 r->attacked > 0 ? "<td>&ndash;</td>" : "");
}

static void report_table(FILE *f, const report *r)
{
    int i;
    report_puts("<h2 id=\"results\">Results</h2><p>", f);
    if (r->seeds > 1)
        report_print(
            f,
            "Means over %d seeds. All students have the same model and, seed by seed, the same first weights and "
            "order of images, so gains are differences of pairs; a gain is clear beyond two standard errors.",
            r->seeds);
    else
        report_puts("All students have the same model, first weights and order of images.", f);
    report_puts("</p>", f);
    report_scroll(f, "Results, a line for each way of training");
    report_print(
        f,
        "<table class=\"sort full\"><thead><tr><th>model</th><th>test accuracy</th>%s<th>gain over "
        "alone</th>%s<th>held-out</th><th>neg. log-likelihood</th><th>calibration error</th><th>agrees with "
        "teacher</th>",
        r->seeds > 1 ? "<th>deviation</th>" : "", r->seeds > 1 ? "<th>standard error</th>" : "");
    if (r->attacked > 0) report_print(f, "<th>attacked by up to %g a pixel</th>", r->attacked);
    report_puts("</tr></thead><tbody>", f);
    if (r->teacher_known) report_line(f, r, -1);
    if (r->ensemble_students) report_ensemble_line(f, r);
    for (i = 0; i < r->way_count; ++i) report_line(f, r, i);
    report_puts("</tbody></table></div>", f);
}

/* ---- charts ---------------------------------------------------------------------------------------------- */

/* A frame in which accuracy from `low` to `high` goes up and something from `left` to `right` goes across. */
typedef struct report_axes {
    FILE *f;
    double low, high, left, right;
} report_axes;

enum {
    REPORT_WIDTH = 520,
    REPORT_HEIGHT = 290,
    REPORT_LEFT = 66,
    REPORT_BOTTOM = 44,
    REPORT_TOP = 14,
    REPORT_RIGHT = 14
};

static double report_x(const report_axes *a, double x)
{
    const double span = a->right > a->left ? a->right - a->left : 1;
    return REPORT_LEFT + (x - a->left) / span * (REPORT_WIDTH - REPORT_LEFT - REPORT_RIGHT);
}

static double report_y(const report_axes *a, double y)
{
    const double span = a->high > a->low ? a->high - a->low : 1;
    return REPORT_HEIGHT - REPORT_BOTTOM - (y - a->low) / span * (REPORT_HEIGHT - REPORT_BOTTOM - REPORT_TOP);
}

/* Opens the drawing, with horizontal lines at round accuracies. */
static void report_axes_open(const report_axes *a, const char *across)
{
    static const double steps[] = {0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2};
    size_t s = 0;
    int tick, digits;
    while (s + 1 < sizeof steps / sizeof *steps && (a->high - a->low) / steps[s] > 6) ++s;
    digits = steps[s] < 0.001 ? 2 : steps[s] < 0.01 ? 1 : 0;
    report_print(a->f, "<svg class=\"chart\" viewBox=\"0 0 %d %d\" role=\"group\" aria-label=\"accuracy by %s\">",
                 REPORT_WIDTH, REPORT_HEIGHT, across);
    for (tick = (int)ceil(a->low / steps[s]); tick * steps[s] <= a->high + 1e-9; ++tick) {
        const double y = report_y(a, tick * steps[s]);
        report_print(
            a->f,
            "<line x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\" stroke=\"var(--line)\"/><text x=\"%d\" y=\"%.1f\" "
            "text-anchor=\"end\">%.*f&#8239;%%</text>",
            REPORT_LEFT, REPORT_WIDTH - REPORT_RIGHT, y, y, REPORT_LEFT - 6, y + 4, digits, 100 * tick * steps[s]);
    }
    report_print(a->f, "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">%s</text>", (REPORT_LEFT + REPORT_WIDTH) / 2,
                 REPORT_HEIGHT - 5, across);
}

static void report_across(const report_axes *a, double x, int number)
{
    report_print(a->f, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%d</text>", report_x(a, x),
                 REPORT_HEIGHT - REPORT_BOTTOM + 17, number);
}

static void report_widen(report_axes *a, double value)
{
    if (value < a->low) a->low = value;
    if (value > a->high) a->high = value;
}

/* Room above and below, as far as there are accuracies. */
static void report_margin(report_axes *a, double margin)
{
    a->low = fmax(0, a->low - margin);
    a->high = fmin(1, a->high + margin);
}

/* A point that says its value when it is pointed at or focused. The caller writes that, calls report_point_mark and
   draws it, with class "m", and closes the group. Of a drawing the first point is in the order of tabs, and arrow
   keys lead to the others. */
static void report_point_open(FILE *f, int *first)
{
    report_print(f, "<g class=\"p\" tabindex=\"%d\" role=\"img\"><title>", *first ? 0 : -1);
    *first = 0;
}

static void report_point_mark(FILE *f) { report_puts("</title>", f); }

/* A disc, diamond, square or triangle, by colour: not all readers tell colours apart. */
static void report_mark(FILE *f, double x, double y, double size, const char *colour)
{
    const double s = size;
    switch (colour[0]) {
    case 'd':
        report_print(f, "<path class=\"m\" fill=\"var(--d)\" d=\"M%.1f %.1fl%.1f %.1fl%.1f %.1fl%.1f %.1fz\"/>", x,
                     y - 1.3 * s, 1.3 * s, 1.3 * s, -1.3 * s, 1.3 * s, -1.3 * s, -1.3 * s);
        break;
    case 's':
    case 'q':
    case 'v':
        report_print(f,
                     "<rect class=\"m\" fill=\"var(--%s)\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\"/>",
                     colour, x - 0.85 * s, y - 0.85 * s, 1.7 * s, 1.7 * s);
        break;
    case 'p':
    case 'u':
        report_print(f, "<path class=\"m\" fill=\"var(--%s)\" d=\"M%.1f %.1fl%.1f %.1fh%.1fz\"/>", colour, x,
                     y - 1.2 * s, 1.15 * s, 2 * s, -2.3 * s);
        break;
    default:
        report_print(f, "<circle class=\"m\" cx=\"%.1f\" cy=\"%.1f\" r=\"%.1f\" fill=\"var(--%s)\"/>", x, y, s,
                     colour);
    }
}

static double report_mean_at(const report_run *runs, int count, int epoch)
{
    double mean = 0;
    int i;
    for (i = 0; i < count; ++i) mean += runs[i].validation[epoch] / count;
    return mean;
}

/* Validation accuracy by epoch: the mean of the runs as a line, their extremes as a band. */
static void report_curve(const report_axes *a, const report_run *runs, int count, const char *title,
                         const char *colour, int *first)
{
    enum { MOST_POINTS = 40 };
    const int epochs = runs[0].epochs, step = (epochs + MOST_POINTS - 1) / MOST_POINTS;
    int e, i;
    report_print(a->f, "<path fill=\"var(--%s)\" fill-opacity=\".16\" d=\"", colour);
    for (e = 0; e < 2 * epochs && count > 1; ++e) {
        const int at = e < epochs ? e : 2 * epochs - 1 - e;
        double edge = runs[0].validation[at];
        for (i = 1; i < count; ++i)
            edge = e < epochs ? fmax(edge, runs[i].validation[at]) : fmin(edge, runs[i].validation[at]);
        report_print(a->f, "%c%.1f %.1f", e ? 'L' : 'M', report_x(a, at + 1), report_y(a, fmax(edge, a->low)));
    }
    report_print(a->f, "\"/><path fill=\"none\" stroke-width=\"2\" stroke=\"var(--%s)\"%s d=\"", colour,
                 colour[0] == 't' ? " stroke-dasharray=\"6 4\"" : "");
    for (e = 0; e < epochs; ++e)
        report_print(a->f, "%c%.1f %.1f", e ? 'L' : 'M', report_x(a, e + 1),
                     report_y(a, fmax(report_mean_at(runs, count, e), a->low)));
    report_puts("\"/>", a->f);
    for (e = epochs - 1; e >= 0; e -= step) {
        const double mean = report_mean_at(runs, count, e);
        report_point_open(a->f, first);
        report_escape(a->f, title);
        report_print(a->f, ", epoch %d: %.2f %%", e + 1, 100 * mean);
        report_point_mark(a->f);
        report_print(
            a->f, "<circle class=\"m\" cx=\"%.1f\" cy=\"%.1f\" r=\"5\" fill=\"var(--%s)\" fill-opacity=\"0\"/></g>",
            report_x(a, e + 1), report_y(a, fmax(mean, a->low)), colour);
    }
}

/* Whether there are curves of the held-out images to draw. */
static int report_has_curves(const report *r)
{
    return r->validation_count > 0 && r->way_count > 0 && r->ways[0].runs[0].validation != NULL;
}

static void report_curves(FILE *f, const report *r)
{
    report_axes a;
    const int teacher = r->teacher_trained && r->teacher_run.validation ? r->teacher_run.epochs : 0;
    int i, e, w, first = 1;
    a.f = f, a.left = 1, a.right = teacher, a.low = 1, a.high = 0;
    for (w = 0; w < r->way_count; ++w) {
        const report_run *runs = r->ways[w].runs;
        if (a.right < runs[0].epochs) a.right = runs[0].epochs;
        for (i = 0; i < r->seeds; ++i)
            for (e = runs[i].epochs / 5; e < runs[i].epochs; ++e) report_widen(&a, runs[i].validation[e]);
    }
    for (e = teacher / 5; e < teacher; ++e) report_widen(&a, r->teacher_run.validation[e]);
    report_margin(&a, fmax(0.001, (a.high - a.low) * 0.05));
    report_puts("<div class=\"card\"><h3>Accuracy on the held-out images, epoch by epoch</h3>", f);
    report_legend(f, r, teacher > 0);
    report_axes_open(&a, "epoch");
    for (e = 1; e <= (int)a.right; ++e) {
        if (a.right <= 10 || e % (((int)a.right + 7) / 8) == 0) report_across(&a, e, e);
    }
    if (teacher) report_curve(&a, &r->teacher_run, 1, "teacher", "t", &first);
    for (w = 0; w < r->way_count; ++w)
        report_curve(&a, r->ways[w].runs, r->seeds, r->ways[w].title, report_colour(r, w), &first);
    report_puts("</svg></div>", f);
}

static void report_seed_point(const report_axes *a, const report *r, int way, int i, int *first)
{
    const report_run *runs = r->ways[way].runs;
    const double accuracy = runs[i].test.accuracy, x = report_x(a, i + 1), y = report_y(a, accuracy);
    report_point_open(a->f, first);
    report_escape(a->f, r->ways[way].title);
    report_print(a->f, ", seed %d: %.2f %%", r->first_seed + i, 100 * accuracy);
    if (way != r->base)
        report_print(a->f, ", %+.2f points", 100 * (accuracy - r->ways[r->base].runs[i].test.accuracy));
    if (r->student.spec && way == r->kept_way && i == r->kept_seed) report_puts("; this one was kept", a->f);
    report_point_mark(a->f);
    if (r->student.spec && way == r->kept_way && i == r->kept_seed)
        report_print(
            a->f, "<path fill=\"none\" stroke=\"var(--ink)\" d=\"M%.1f %.1fa11 11 0 1 0 22 0a11 11 0 1 0 -22 0\"/>",
            x - 11, y);
    report_mark(a->f, x, y, 6, report_colour(r, way));
    report_puts("</g>", a->f);
}

/* A mark a seed and way on the test images, alone and distilled joined by a line; the teacher as a dashed line. */
static void report_seeds(FILE *f, const report *r)
{
    report_axes a;
    int i, w, first = 1;
    a.f = f, a.left = 0, a.right = r->seeds + 1, a.low = 1, a.high = 0;
    for (w = 0; w < r->way_count; ++w)
        for (i = 0; i < r->seeds; ++i) report_widen(&a, r->ways[w].runs[i].test.accuracy);
    if (r->teacher_known) report_widen(&a, r->teacher_run.test.accuracy);
    report_margin(&a, 0.002);
    report_puts("<div class=\"card\"><h3>Accuracy on the test images, seed by seed</h3>", f);
    report_legend(f, r, r->teacher_known);
    report_axes_open(&a, "seed");
    if (r->teacher_known) {
        const double y = report_y(&a, r->teacher_run.test.accuracy);
        report_point_open(f, &first);
        report_print(f, "teacher: %.2f %%", 100 * r->teacher_run.test.accuracy);
        report_point_mark(f);
        report_print(f,
                     "<line class=\"m\" x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\" stroke=\"var(--t)\" "
                     "stroke-width=\"2\" stroke-dasharray=\"6 4\"/></g>",
                     REPORT_LEFT, REPORT_WIDTH - REPORT_RIGHT, y, y);
    }
    for (i = 0; i < r->seeds; ++i) {
        const double x = report_x(&a, i + 1), alone = report_y(&a, r->ways[r->base].runs[i].test.accuracy),
                     soft = report_y(&a, r->ways[r->headline].runs[i].test.accuracy);
        report_print(
            f, "<line x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\" stroke=\"var(--a)\" stroke-width=\"2\"/>", x,
            x, alone, soft);
        if (r->seeds <= 12 || i % ((r->seeds + 11) / 12) == 0) report_across(&a, i + 1, r->first_seed + i);
        for (w = 0; w < r->way_count; ++w) report_seed_point(&a, r, w, i, &first);
    }
    report_puts("</svg></div>", f);
}

/* ---- students within a budget ----------------------------------------------------------------------------- */

static double report_kilobytes(int64_t bytes) { return (double)bytes / 1024; }

static void report_candidate_point(const report_axes *a, const report_candidate *c, int chosen, int *first)
{
    static const struct {
        const char *family, *colour;
    } marks[] = {{"plain", "a"}, {"residual", "s"}, {"separable", "d"}, {"dense", "p"}};
    const double x = report_x(a, report_kilobytes(c->cost.flash_int8)), y = report_y(a, c->accuracy);
    int i = 0;
    while (i < 3 && strcmp(marks[i].family, c->family) != 0) ++i;
    report_point_open(a->f, first);
    report_print(a->f, "%s, %.1f KB flash, %.1f KB RAM, %s multiply-adds: %.2f %% after %d epochs%s; ", c->family,
                 report_kilobytes(c->cost.flash_int8), report_kilobytes(c->cost.ram_int8),
                 report_short((double)c->cost.macs).chars, 100 * c->accuracy, c->epochs, chosen ? "; chosen" : "");
    report_escape(a->f, c->spec);
    report_point_mark(a->f);
    if (chosen)
        report_print(
            a->f, "<path fill=\"none\" stroke=\"var(--ink)\" d=\"M%.1f %.1fa11 11 0 1 0 22 0a11 11 0 1 0 -22 0\"/>",
            x - 11, y);
    report_mark(a->f, x, y, 5, marks[i].colour);
    report_puts("</g>", a->f);
}

/* Held-out accuracy of all that were tried, by their flash in 8 bits; that which was chosen in a ring. */
static void report_candidates(FILE *f, const report *r)
{
    report_axes a;
    int i, first = 1, tick, step = 1;
    if (!r->candidate_count || !r->candidates[0].epochs) return;
    a.f = f, a.left = 0, a.right = 1, a.low = 1, a.high = 0;
    for (i = 0; i < r->candidate_count && r->candidates[i].epochs; ++i) {
        report_widen(&a, r->candidates[i].accuracy);
        a.right = fmax(a.right, 1.05 * report_kilobytes(r->candidates[i].cost.flash_int8));
    }
    report_margin(&a, 0.01);
    while (a.right / step > 8) step *= step % 5 == 0 || step == 1 ? 2 : 5;
    report_puts(
        "<div class=\"card\"><h3>Students that fit: accuracy by size</h3><p>Short trials on the held-out images; "
        "those that did best were tried again, longer. In a ring the one that was chosen. Discs are plain "
        "networks, "
        "squares residual, diamonds depthwise separable ones.</p>",
        f);
    report_axes_open(&a, "flash in 8 bits, KB");
    for (tick = 0; tick <= a.right; tick += step) report_across(&a, tick, tick);
    for (i = r->candidate_count - 1; i >= 0; --i) {
        if (r->candidates[i].epochs) report_candidate_point(&a, &r->candidates[i], i == 0, &first);
    }
    report_puts("</svg></div>", f);
}

/* The largest difference of a seed from the student alone, in points, or where the error bars end. */
static double report_widest_gain(const report *r)
{
    double most = 0.1;
    int w, i;
    for (w = 0; w < r->way_count; ++w) {
        const report_statistic gain = report_gain(r, w);
        most = fmax(most, 100 * (fabs(gain.mean) + 2 * gain.error));
        for (i = 0; i < r->seeds; ++i)
            most =
                fmax(most, 100 * fabs(r->ways[w].runs[i].test.accuracy - r->ways[r->base].runs[i].test.accuracy));
    }
    return most;
}

/* A row of the picture of gains: every seed as a small mark, the mean as a large one, and two standard errors. */
static void report_gain_row(FILE *f, const report *r, int way, double y, double zero, double scale, int *first)
{
    const report_statistic gain = report_gain(r, way);
    const char *colour = report_colour(r, way);
    const double mean = zero + 100 * gain.mean * scale, error = 100 * gain.error * scale;
    int i;
    report_print(f, "<text x=\"%d\" y=\"%.1f\">", REPORT_RIGHT, y - 14);
    report_escape(f, r->ways[way].title);
    report_puts("</text>", f);
    for (i = 0; i < r->seeds && r->seeds > 1; ++i)
        report_print(f, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3\" fill=\"var(--%s)\" fill-opacity=\".45\"/>",
                     zero + 100 * scale *
                                (r->ways[way].runs[i].test.accuracy - r->ways[r->base].runs[i].test.accuracy),
                     y + 9, colour);
    report_point_open(f, first);
    report_escape(f, r->ways[way].title);
    report_print(f, ": %+.2f points", 100 * gain.mean);
    if (r->seeds > 1) report_print(f, ", standard error %.2f", 100 * gain.error);
    report_point_mark(f);
    report_print(
        f,
        "<path stroke=\"var(--%s)\" stroke-width=\"1.5\" d=\"M%.1f %.1fH%.1f\"/><path stroke=\"var(--%s)\" "
        "stroke-width=\"4\" d=\"M%.1f %.1fH%.1f\"/>",
        colour, mean - 2 * error, y, mean + 2 * error, colour, mean - error, y, mean + error);
    report_mark(f, mean, y, 6, colour);
    report_puts("</g>", f);
}

/* What each way adds to the student alone. */
static void report_gains(FILE *f, const report *r)
{
    static const double steps[] = {0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50};
    enum { ROW = 44, TOP = 8 };
    const double most = 1.06 * report_widest_gain(r), zero = REPORT_WIDTH / 2.0,
                 scale = (REPORT_WIDTH / 2.0 - REPORT_RIGHT) / most;
    const int height = TOP + ROW * (r->way_count - 1) + 40;
    int w, tick, row = 0, first = 1;
    size_t s = 0;
    while (s + 1 < sizeof steps / sizeof *steps && most / steps[s] > 4) ++s;
    report_puts("<div class=\"card\"><h3>Gain over the student alone, in points on the test images</h3>", f);
    if (r->seeds > 1)
        report_puts("<p class=\"sub\">Mean, one standard error (thick) and two (thin); below it each seed's own "
                    "difference.</p>",
                    f);
    report_print(f, "<svg class=\"chart\" viewBox=\"0 0 %d %d\" role=\"group\" aria-label=\"gain of each way\">",
                 REPORT_WIDTH, height);
    for (tick = -(int)(most / steps[s]); tick <= (int)(most / steps[s]); ++tick) {
        const double x = zero + tick * steps[s] * scale;
        report_print(
            f,
            "<line x1=\"%.1f\" x2=\"%.1f\" y1=\"%d\" y2=\"%d\" stroke=\"var(--%s)\"/><text x=\"%.1f\" y=\"%d\" "
            "text-anchor=\"middle\">",
            x, x, TOP, height - 26, tick ? "line" : "soft", x, height - 8);
        report_print(f, tick ? "%+g</text>" : "%g</text>", tick * steps[s]);
    }
    for (w = 0; w < r->way_count; ++w) {
        if (w != r->base) report_gain_row(f, r, w, TOP + ROW * row++ + 24, zero, scale, &first);
    }
    report_puts("</svg></div>", f);
}

/* How often those are right that are so and so sure. */
static void report_reliable(const report_axes *a, const report_reliability *b, const char *title,
                            const char *colour, int *first)
{
    int64_t all = 0;
    int i, drawn = 0;
    for (i = 0; i < REPORT_BINS; ++i) all += b->count[i];
    report_print(a->f, "<path fill=\"none\" stroke-width=\"2\" stroke=\"var(--%s)\"%s d=\"", colour,
                 colour[0] == 't' ? " stroke-dasharray=\"6 4\"" : "");
    for (i = 0; i < REPORT_BINS; ++i) {
        const double n = (double)b->count[i];
        if (n > 0)
            report_print(a->f, "%c%.1f %.1f", drawn++ ? 'L' : 'M', report_x(a, b->sure[i] / n),
                         report_y(a, b->right[i] / n));
    }
    report_puts("\"/>", a->f);
    for (i = 0; i < REPORT_BINS; ++i) {
        const double n = (double)b->count[i];
        if (n <= 0) continue;
        report_point_open(a->f, first);
        report_escape(a->f, title);
        report_print(a->f, ", %.1f %% of its answers: %.1f %% sure, %.1f %% right", 100 * n / (double)all,
                     100 * b->sure[i] / n, 100 * b->right[i] / n);
        report_point_mark(a->f);
        report_mark(a->f, report_x(a, b->sure[i] / n), report_y(a, b->right[i] / n),
                    2.5 + 6 * sqrt(n / (double)all), colour);
        report_puts("</g>", a->f);
    }
}

static void report_calibration(FILE *f, const report *r)
{
    const report_reliability *alone = &r->ways[r->base].reliability, *soft = &r->ways[r->headline].reliability;
    const int teacher = report_ece(&r->teacher_reliability) > 0;
    report_axes a;
    int i, first = 1;
    a.f = f, a.low = 0, a.high = 1, a.left = 0, a.right = 1;
    report_puts(
        "<div class=\"card\"><h3>Reliability: how sure, and how often right</h3><p class=\"sub\">On the diagonal "
        "confidence is accuracy; below it a model is too sure. Marks are larger where there are more answers.</p>",
        f);
    report_axes_open(&a, "confidence, %");
    for (i = 0; i <= 5; ++i) report_across(&a, 0.2 * i, 20 * i);
    report_print(f, "<path stroke=\"var(--soft)\" stroke-dasharray=\"2 4\" d=\"M%.1f %.1fL%.1f %.1f\"/>",
                 report_x(&a, 0), report_y(&a, 0), report_x(&a, 1), report_y(&a, 1));
    if (teacher) report_reliable(&a, &r->teacher_reliability, "teacher", "t", &first);
    report_reliable(&a, alone, r->ways[r->base].title, "a", &first);
    report_reliable(&a, soft, r->ways[r->headline].title, "d", &first);
    report_puts("</svg><p class=\"legend\">", f);
    if (teacher)
        report_print(f,
                     "<span><span class=\"key\" style=\"background:var(--t)\"></span>teacher, error %.3f</span> ",
                     report_ece(&r->teacher_reliability));
    report_print(f,
                 "<span><span class=\"key\" style=\"background:var(--a)\"></span>alone, %.3f</span> <span><span "
                 "class=\"key\" style=\"background:var(--d)\"></span>distilled, %.3f</span></p></div>",
                 report_ece(alone), report_ece(soft));
}

/* Every seed's accuracy, as numbers. */
static void report_seed_table(FILE *f, const report *r)
{
    int i, w;
    report_puts(
        "<details class=\"card\" style=\"margin-top:16px\"><summary>Every seed in numbers</summary><div "
        "class=\"scroll\" tabindex=\"0\" "
        "role=\"region\" aria-label=\"Accuracy of every seed\"><table class=\"sort\"><thead><tr><th>seed</th>",
        f);
    for (w = 0; w < r->way_count; ++w) {
        report_puts("<th>", f);
        report_escape(f, r->ways[w].title);
        report_puts("</th>", f);
    }
    report_puts("<th>distilled less alone</th></tr></thead><tbody>", f);
    for (i = 0; i < r->seeds; ++i) {
        report_print(f, "<tr><th scope=\"row\">%d</th>", r->first_seed + i);
        for (w = 0; w < r->way_count; ++w) report_percent_cell(f, r->ways[w].runs[i].test.accuracy);
        report_print(f, "<td>%+.2f</td></tr>",
                     100 * (r->ways[r->headline].runs[i].test.accuracy - r->ways[r->base].runs[i].test.accuracy));
    }
    report_puts("</tbody></table></div></details>", f);
}

/* ---- what was tried -------------------------------------------------------------------------------------- */

/* What was tried on the held-out images for one way of training. */
static void report_grid(FILE *f, const report *r, int way)
{
    static const char *const heads[] = {"learning rate", "weight decay", "mixup", "temperature", "alpha"};
    const report_way *w = &r->ways[way];
    const report_trial *first = w->grid;
    const double used[] = {first ? first->lr : -1, first ? first->weight_decay : -1, first ? first->mixup : -1,
                           first ? first->temperature : -1, first ? first->alpha : -1};
    int i, k, epochs = 0;
    if (w->grid_count < 2) return;
    for (i = 1; i < w->grid_count; ++i) epochs |= w->grid[i].epochs != first->epochs;
    report_scroll(f, w->title);
    report_puts("<h3>", f);
    report_key(f, report_colour(r, way));
    report_escape(f, w->title);
    report_print(f, "</h3><table class=\"sort full\"><thead><tr>%s", first->loss ? "<th>loss</th>" : "");
    for (k = 0; k < 5; ++k) {
        if (used[k] >= 0) report_print(f, "<th>%s</th>", heads[k]);
    }
    report_print(f, "%s<th>held-out accuracy</th><th></th></tr></thead><tbody>", epochs ? "<th>epochs</th>" : "");
    for (i = 0; i < w->grid_count; ++i) {
        const report_trial *t = &w->grid[i];
        const double values[] = {t->lr, t->weight_decay, t->mixup, t->temperature, t->alpha};
        report_puts(i == w->chosen ? "<tr class=\"chosen\">" : "<tr>", f);
        if (first->loss) report_print(f, "<td>%s</td>", t->loss ? t->loss : "&ndash;");
        for (k = 0; k < 5; ++k) {
            if (used[k] >= 0 && values[k] >= 0) report_print(f, "<td>%g</td>", values[k]);
            if (used[k] >= 0 && values[k] < 0) report_puts("<td>&ndash;</td>", f);
        }
        if (epochs) report_print(f, "<td>%d</td>", t->epochs);
        report_print(f, "<td>%.2f&nbsp;%%", 100 * t->validation);
        if (t->students > 1) report_print(f, " &plusmn;&nbsp;%.2f", 100 * t->sd);
        report_print(f, "</td><td>%s</td></tr>", i == w->chosen ? "chosen" : "");
    }
    report_puts("</tbody></table></div>", f);
}

static void report_grids(FILE *f, const report *r)
{
    int i, grids = 0;
    for (i = 0; i < r->way_count; ++i) grids += r->ways[i].grid_count > 1;
    if (!grids) return;
    report_puts(
        "<h2>What was tried</h2><p>On the held-out images, with seeds of their own; the test images had no part in "
        "it. One trial says little, so the learning rate is the one that did best on average over the weight "
        "decays, "
        "and the weight decay over the learning rates.</p><div class=\"row wide tried\">",
        f);
    for (i = 0; i < r->way_count; ++i) report_grid(f, r, i);
    report_puts("</div>", f);
}

/* ---- what the teacher knows ------------------------------------------------------------------------------ */

/* For each of a few classes the image on which the teacher is right but has the most to say about other classes. */
static int report_pick(const report *r, int *which)
{
    double doubt[REPORT_SOFT];
    int picked = 0, i, k;
    for (i = 0; i < r->test.count; ++i) {
        const float *row = r->teacher_logits + (size_t)i * (size_t)r->class_count;
        const int label = r->test.labels[i];
        double distance;
        if (report_argmax(row, r->class_count) != label) continue;
        distance = fabs(report_probability(row, r->class_count, label, 1) - 0.8);
        for (k = 0; k < picked && r->test.labels[which[k]] != label; ++k) {}
        if (k == picked && picked < REPORT_SOFT)
            ++picked;
        else if (k == picked || doubt[k] <= distance)
            continue;
        which[k] = i;
        doubt[k] = distance;
    }
    return picked;
}

/* The classes with the largest logits, largest first. */
static void report_order(const float *row, int classes, int *order, int count)
{
    int i, k, c;
    for (i = 0; i < count; ++i) {
        int best = -1;
        for (c = 0; c < classes; ++c) {
            for (k = 0; k < i && order[k] != c; ++k) {}
            if (k == i && (best < 0 || row[c] > row[best])) best = c;
        }
        order[i] = best;
    }
}

/* A class name where there is room for so many letters; the marks below it have all of it. */
static void report_short_name(FILE *f, const char *name, int room)
{
    char text[128];
    size_t at = 0;
    int letters = 0;
    for (; name[at] && at + 8 < sizeof text; ++at) {
        letters += ((unsigned char)name[at] & 0xc0) != 0x80; /* where a letter of UTF-8 begins */
        if (letters > room) break;
        text[at] = name[at];
    }
    text[at] = 0;
    if (name[at]) memcpy(text + at, "\xe2\x80\xa6", 4);
    report_escape(f, text);
}

static void report_soft_card(FILE *f, const report *r, int image, const double *temperatures)
{
    enum { STEP = 46 };
    const float *row = r->teacher_logits + (size_t)image * (size_t)r->class_count;
    const int bars = r->class_count < REPORT_BARS ? r->class_count : REPORT_BARS;
    int order[REPORT_BARS], i, t, first = 1;
    report_order(row, r->class_count, order, bars);
    report_print(f, "<div class=\"card soft\"%s><div>", r->texts ? " style=\"grid-template-columns:1fr\"" : "");
    (void)report_seen(f, r, image, 1);
    report_puts("<p style=\"margin:6px 0 0;overflow-wrap:anywhere\">", f);
    report_escape(f, r->classes[r->test.labels[image]]);
    report_print(f,
                 "</p></div><svg viewBox=\"0 0 260 %d\" role=\"group\" aria-label=\"the teacher's probabilities\">",
                 bars * STEP);
    for (i = 0; i < bars; ++i) {
        double p[3];
        for (t = 0; t < 3; ++t) p[t] = report_probability(row, r->class_count, order[i], temperatures[t]);
        report_print(f, "<text x=\"0\" y=\"%d\">", i * STEP + 12);
        report_short_name(f, r->classes[order[i]], 20);
        report_print(f, "</text><text x=\"258\" y=\"%d\" text-anchor=\"end\">%.1f, %.1f, %.1f&#8239;%%</text>",
                     i * STEP + 12, 100 * p[0], 100 * p[1], 100 * p[2]);
        for (t = 0; t < 3; ++t) {
            report_point_open(f, &first);
            report_escape(f, r->classes[order[i]]);
            report_print(f, " at T = %g: %.2f %%", temperatures[t], 100 * p[t]);
            report_point_mark(f);
            report_print(
                f,
                "<rect class=\"m\" x=\"0\" y=\"%d\" width=\"%.1f\" height=\"6\" rx=\"2\" fill=\"var(--%d)\"/></g>",
                i * STEP + 17 + 8 * t, fmax(258 * p[t], 1.5), t + 1);
        }
    }
    report_puts("</svg></div>", f);
}

static void report_soft_targets(FILE *f, const report *r)
{
    double temperatures[3];
    int which[REPORT_SOFT], picked, i;
    if (!r->teacher_logits) return;
    temperatures[0] = 1;
    temperatures[1] = r->temperature > 1 ? r->temperature : 4;
    temperatures[2] = temperatures[1] < 10 ? 10 : 4 * temperatures[1];
    picked = report_pick(r, which);
    if (!picked) return;
    report_puts("<h2>What the teacher tells beyond the label</h2><p>Its probabilities for test images at three "
                "temperatures: "
                "the student learns from the small ones as well.",
                f);
    report_say_looks(f, r, 1);
    report_puts("</p><p class=\"legend\">", f);
    for (i = 0; i < 3; ++i)
        report_print(f, "<span><span class=\"key\" style=\"background:var(--%d)\"></span>T = %g</span> ", i + 1,
                     temperatures[i]);
    report_puts(
        "</p><div class=\"row\" style=\"grid-template-columns:repeat(auto-fit,minmax(min(310px,100%),1fr))\">", f);
    for (i = 0; i < picked; ++i) report_soft_card(f, r, which[i], temperatures);
    report_puts("</div>", f);
}

/* ---- a soft decision tree -------------------------------------------------------------------------------- */

REPORT_PUBLIC static void report_tree_close(report_tree *t)
{
    free(t->filters);
    free(t->leaves);
    free(t->share);
    memset(t, 0, sizeof *t);
}

static void report_tree_pass(report_tree *t, const kd_data *d, int image, const float *paths)
{
    const int inner = (1 << t->about.depth) - 1;
    int j, leaf = 0, choice;
    for (j = 0; j <= 2 * inner; ++j) t->share[j] += (double)paths[j] / d->count;
    for (j = 1; j <= inner; ++j) {
        if (paths[inner + j] > paths[inner + leaf]) leaf = j;
    }
    choice = report_argmax(t->leaves + (size_t)leaf * (size_t)t->about.classes, t->about.classes);
    if (choice != d->labels[image]) return;
    t->path_accuracy += 1.0 / d->count;
    if (t->example < 0) t->example = image, t->leaf = leaf;
}

/* Whether it is a tree that names the classes: another layer may follow one. */
static int report_ends_in_tree(const char *spec)
{
    const char *last = strrchr(spec, ',');
    return strstr(last ? last : spec, "softtree") != NULL;
}

/* Reads the tree of a model, if it ends in one, and sends images, pixels of 8 bits, through it. Returns 0 if it has
   none or memory ran out. */
REPORT_PUBLIC static int report_tree_open(report_tree *t, const kd_model *m, const kd_data *d)
{
    enum { BATCH = 64 };
    const int plane = d->height * d->width, pixels = d->channels * plane;
    size_t nodes, leaves;
    float *x, *paths;
    int i, j, n, done;
    memset(t, 0, sizeof *t);
    t->example = -1;
    if (!report_ends_in_tree(kd_model_spec(m)) || kd_tree_info(m, &t->about) != KD_OK) return 0;
    if (t->about.classes != d->classes) return 0; /* a tree before the last one */
    leaves = (size_t)1 << t->about.depth, nodes = 2 * leaves - 1;
    if (t->about.channels == d->channels && t->about.height == d->height && t->about.width == d->width)
        t->filters = (float *)calloc(leaves * (size_t)pixels, sizeof *t->filters);
    t->leaves = (float *)calloc(leaves * (size_t)t->about.classes, sizeof *t->leaves);
    t->share = (double *)calloc(nodes, sizeof *t->share);
    x = (float *)calloc((size_t)BATCH * (size_t)pixels, sizeof *x);
    paths = (float *)calloc((size_t)BATCH * nodes, sizeof *paths);
    done = t->leaves && t->share && x && paths && kd_tree_read(m, t->filters, NULL, t->leaves) == KD_OK;
    for (i = 0; i < d->count && done; i += n) {
        const uint8_t *from = (const uint8_t *)d->pixels + (size_t)i * (size_t)pixels;
        n = d->count - i < BATCH ? d->count - i : BATCH;
        for (j = 0; j < n * pixels; ++j) {
            const int c = j / plane % d->channels;
            x[j] = ((float)from[j] / 255 - d->mean[c]) / d->std[c];
        }
        done = kd_tree_paths(m, x, n, paths) == KD_OK;
        for (j = 0; j < n && done; ++j) report_tree_pass(t, d, i + j, paths + (size_t)j * nodes);
    }
    free(x);
    free(paths);
    if (!done) report_tree_close(t);
    return done;
}

/* The filter of an inner node: orange where brightness sends an image to the right, blue where to the left. */
static void report_filter(FILE *f, const report *r, int node, double x, double y, double size)
{
    static const int full[2][3] = {{225, 87, 20}, {37, 99, 235}};
    const int plane = r->height * r->width;
    const float *w = r->tree->filters + (size_t)node * (size_t)(r->channels * plane);
    uint8_t *rgb = (uint8_t *)calloc((size_t)plane, 3);
    double *sum = (double *)calloc((size_t)plane, sizeof *sum), largest = 1e-30;
    int i, c;
    if (rgb && sum) {
        for (c = 0; c < r->channels; ++c)
            for (i = 0; i < plane; ++i) sum[i] += (double)w[c * plane + i];
        for (i = 0; i < plane; ++i) largest = fmax(largest, fabs(sum[i]));
        for (i = 0; i < plane; ++i)
            for (c = 0; c < 3; ++c)
                rgb[3 * i + c] = (uint8_t)(255 - fabs(sum[i]) / largest * (255 - full[sum[i] < 0][c]));
        report_print(f, "<image x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" href=\"", x - size / 2,
                     y - size / 2, size, size);
        (void)report_png(f, rgb, r->width, r->height, 3);
        report_puts("\"/>", f);
    }
    free(rgb);
    free(sum);
}

enum { REPORT_TREE_WIDTH = 1040, REPORT_TREE_STEP = 96, REPORT_TREE_TOP = 44 };

static int report_level(int node)
{
    int level = 0;
    while (node + 1 >= 2 << level) ++level;
    return level;
}

static double report_node_x(int node)
{
    const int level = report_level(node);
    return (node + 1.5 - (1 << level)) * REPORT_TREE_WIDTH / (1 << level);
}

static double report_node_y(int node) { return REPORT_TREE_TOP + report_level(node) * REPORT_TREE_STEP; }

/* Whether the way of the example goes through a node. */
static int report_on_path(const report_tree *t, int node)
{
    int j = (1 << t->about.depth) - 1 + t->leaf;
    while (j > node) j = (j - 1) / 2;
    return t->example >= 0 && j == node;
}

/* What the leaves below a node say, each as often as it is reached. Returns the class they say most. */
static int report_below(const report_tree *t, int node, double *share)
{
    const int levels = t->about.depth - report_level(node), inner = (1 << t->about.depth) - 1;
    int first = node, best = 0, i, k, c;
    double *say = (double *)calloc((size_t)t->about.classes, sizeof *say), all = 0;
    if (!say) return 0;
    for (k = 0; k < levels; ++k) first = 2 * first + 1;
    for (i = first; i < first + (1 << levels); ++i) {
        all += t->share[i];
        for (c = 0; c < t->about.classes; ++c)
            say[c] += t->share[i] * (double)t->leaves[(size_t)(i - inner) * (size_t)t->about.classes + (size_t)c];
    }
    for (c = 1; c < t->about.classes; ++c) {
        if (say[c] > say[best]) best = c;
    }
    *share = say[best] / fmax(all, 1e-30);
    free(say);
    return best;
}

static void report_tree_leaf(FILE *f, const report *r, int node)
{
    double sure = 0;
    const int says = report_below(r->tree, node, &sure);
    const double x = report_node_x(node), y = report_node_y(node);
    report_print(f, "<g class=\"p\"><title>%.2f %% of the images; %.0f %% ", 100 * r->tree->share[node],
                 100 * sure);
    report_escape(f, r->classes[says]);
    report_print(
        f,
        "</title><rect class=\"m\" x=\"%.1f\" y=\"%.1f\" width=\"16\" height=\"16\" rx=\"4\" fill=\"var(--%s)\" "
        "fill-opacity=\"%.2f\" stroke=\"var(--line)\"/><text transform=\"translate(%.1f %.1f) rotate(90)\">",
        x - 8, y - 8, report_on_path(r->tree, node) ? "d" : "t", 0.1 + 0.9 * sure, x - 4, y + 14);
    report_escape(f, r->classes[says]);
    report_print(f, " %.0f&#8239;%%</text></g>", 100 * sure);
}

static void report_decisions(FILE *f, const report *r)
{
    const report_tree *t = r->tree;
    int levels, leaves, j;
    if (!t) return;
    levels = t->about.depth < REPORT_LEVELS ? t->about.depth : REPORT_LEVELS;
    leaves = 1 << levels;
    report_puts("<h2>How the student decides</h2><p>It is a soft decision tree. ", f);
    if (t->filters)
        report_puts(
            "Each inner node weighs the pixels: orange ones that are bright send an image to the right, blue "
            "ones to "
            "the left. ",
            f);
    report_puts(
        "Lines are as thick as the share of the test images that takes them; a square is a leaf, with the class it "
        "names. ",
        f);
    if (t->about.depth > levels) report_print(f, "The first %d of %d levels are drawn. ", levels, t->about.depth);
    report_print(f,
                 "Asked for the most probable leaf alone, the tree is right on %.2f&nbsp;%% of the test images. ",
                 100 * t->path_accuracy);
    if (t->example >= 0) report_puts("The green way is that of the image in the corner.", f);
    report_print(f,
                 "</p><div class=\"card scroll tree\" tabindex=\"0\" role=\"region\" aria-label=\"the tree\"><svg "
                 "viewBox=\"0 0 %d %d\" role=\"group\">",
                 REPORT_TREE_WIDTH, REPORT_TREE_TOP + levels * REPORT_TREE_STEP + 120);
    for (j = 1; j < 2 * leaves - 1; ++j)
        report_print(f,
                     "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"var(--%s)\" "
                     "stroke-width=\"%.1f\"><title>%.2f %% of the images</title></line>",
                     report_node_x((j - 1) / 2), report_node_y((j - 1) / 2), report_node_x(j), report_node_y(j),
                     report_on_path(t, j) ? "d" : "a", 1 + 13 * t->share[j], 100 * t->share[j]);
    for (j = 0; j < leaves - 1; ++j) {
        const double room = 0.8 * REPORT_TREE_WIDTH / (1 << report_level(j));
        if (t->filters)
            report_filter(f, r, j, report_node_x(j), report_node_y(j), room < 76 ? room : 76);
        else
            report_print(f, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"6\" fill=\"var(--a)\"/>", report_node_x(j),
                         report_node_y(j));
    }
    for (j = leaves - 1; j < 2 * leaves - 1; ++j) report_tree_leaf(f, r, j);
    report_puts("</svg>", f);
    if (t->example >= 0) {
        report_puts("<div style=\"position:absolute;left:20px;top:18px;font-size:13px\">", f);
        (void)report_tiles(f, r, &r->test, &t->example, 1, REPORT_LARGE, "width:72px;height:auto");
        report_escape(f, r->classes[r->test.labels[t->example]]);
        report_puts("</div>", f);
    }
    report_puts("</div>", f);
}

/* ---- what pulls at the student --------------------------------------------------------------------------- */

static void report_diagnosis(FILE *f, const report *r)
{
    const kd_diagnosis *b = &r->before, *a = &r->after;
    report_puts(
        "<h2>What pulls at the student</h2><p>On the images it learned from, the student that was kept, before "
        "training and after. The cosine says whether teacher and labels ask for the same: 1 the same, 0 nothing "
        "in common, below 0 the opposite.",
        f);
    if (r->has_temperature)
        report_print(
            f,
            " A soft target's entropy lies between 0, a bare label, and %.2f nats, every class alike; here, at "
            "temperature %g, it is %.2f.",
            log((double)r->class_count), r->temperature, a->target_entropy);
    report_puts("</p>", f);
    report_scroll(f, "Pull of teacher and labels");
    report_puts(
        "<table><thead><tr><th></th><th>weight in the loss</th><th>gradient before</th><th>after</th></tr></thead>",
        f);
    report_print(f, "<tr><th>teacher</th><td>%.3g</td><td>%.3g</td><td>%.3g</td></tr>", a->soft_weight,
                 b->soft_norm, a->soft_norm);
    report_print(f, "<tr><th>labels</th><td>%.3g</td><td>%.3g</td><td>%.3g</td></tr>", a->hard_weight, b->hard_norm,
                 a->hard_norm);
    report_print(f, "<tr><th>cosine of the two</th><td></td><td>%.2f</td><td>%.2f</td></tr></table></div>",
                 b->gradient_cosine, a->gradient_cosine);
}

/* ---- where the student errs ------------------------------------------------------------------------------ */

/* A cell of a confusion matrix: percent of the row's class, `per` times as many images having been counted. */
static void report_cell(FILE *f, const report *r, int row, int column, int64_t n, int64_t total, int per,
                        int *first)
{
    const double share = total ? (double)n / (double)total : 0;
    report_print(f, "<td class=\"%s p\" tabindex=\"%d\"", row == column ? "hit" : "miss", *first ? 0 : -1);
    *first = 0;
    if (n) {
        report_print(f, " style=\"--v:%.0f%%\" title=\"%.1f %% of ",
                     row == column ? 60 * share : fmin(85, 280 * share), 100 * share);
        report_escape(f, r->classes[row]);
        report_puts(row == column ? " recognised (" : " taken for ", f);
        if (row != column) report_escape(f, r->classes[column]);
        report_print(f, per > 1 ? "%s%.1f of %.0f images, mean over seeds)\"" : "%s%.0f of %.0f images)\"",
                     row == column ? "" : " (", (double)n / per, (double)total / per);
    }
    fputc('>', f);
    if (n && share < 0.005) report_puts("&middot;", f);
    if (share >= 0.005) report_print(f, "%.0f", 100 * share);
    report_puts("</td>", f);
}

/* Rows are true classes; counted over `per` students. */
static void report_matrix(FILE *f, const report *r, const int64_t *counts, int per, const char *title,
                          const char *colour)
{
    int i, j, first = 1;
    report_scroll(f, title);
    report_puts("<h3>", f);
    report_key(f, colour);
    report_escape(f, title);
    report_print(f, "</h3><table class=\"matrix full\" style=\"min-width:%dpx\"><thead><tr><th></th>",
                 62 + 23 * r->class_count);
    for (j = 0; j < r->class_count; ++j) {
        report_puts("<th scope=\"col\"><span>", f);
        report_escape(f, r->classes[j]);
        report_puts("</span></th>", f);
    }
    report_puts("</tr></thead><tbody>", f);
    for (i = 0; i < r->class_count; ++i) {
        const int64_t *row = counts + (size_t)i * (size_t)r->class_count;
        int64_t total = 0;
        for (j = 0; j < r->class_count; ++j) total += row[j];
        report_puts("<tr><th scope=\"row\">", f);
        report_escape(f, r->classes[i]);
        report_puts("</th>", f);
        for (j = 0; j < r->class_count; ++j) report_cell(f, r, i, j, row[j], total, per, &first);
        report_puts("</tr>", f);
    }
    report_puts("</tbody></table></div>", f);
}

/* The student alone beside the one that was kept. */
static void report_matrices(FILE *f, const report *r)
{
    const report_way *alone = &r->ways[r->base];
    char title[256];
    if (r->class_count > REPORT_CLASSES) return;
    report_print(f, "<div class=\"%s\">", r->class_count > 12 ? "stack" : "row wide");
    snprintf(title, sizeof title, r->seeds > 1 ? "%s, mean of %d seeds" : "%s", alone->title, r->seeds);
    report_matrix(f, r, alone->confusion, r->seeds, title, "a");
    snprintf(title, sizeof title, "the one that was kept: %s, seed %d", r->ways[r->kept_way].title,
             r->first_seed + r->kept_seed);
    report_matrix(f, r, r->confusion, 1, title, report_colour(r, r->kept_way));
    report_puts("</div>", f);
}

static int report_class_size(const report_images *from, int c)
{
    int i, n = 0;
    for (i = 0; i < from->count; ++i) n += from->labels[i] == c;
    return n;
}

static double report_class_error(const report_run *runs, int count, int c)
{
    double sum = 0;
    int i;
    for (i = 0; i < count; ++i) sum += (1 - runs[i].test.class_accuracy[c]) / count;
    return sum;
}

/* Errors class by class, means over seeds. */
static void report_classes(FILE *f, const report *r)
{
    int c, w;
    if (r->class_count > KD_METRICS_CLASSES) return;
    report_scroll(f, "Errors in each class");
    report_puts(
        "<h3>Errors in each class, percent of its test images</h3><table class=\"sort full\"><thead><tr><th>class"
        "</th><th>test images</th>",
        f);
    if (r->teacher_known) report_puts("<th>teacher</th>", f);
    for (w = 0; w < r->way_count; ++w) {
        report_puts("<th>", f);
        report_escape(f, r->ways[w].title);
        report_puts("</th>", f);
    }
    report_puts("</tr></thead><tbody>", f);
    for (c = 0; c < r->class_count; ++c) {
        report_puts("<tr><th scope=\"row\">", f);
        report_escape(f, r->classes[c]);
        report_print(f, "</th><td>%d</td>", report_class_size(&r->test, c));
        if (r->teacher_known) report_print(f, "<td>%.1f</td>", 100 * report_class_error(&r->teacher_run, 1, c));
        for (w = 0; w < r->way_count; ++w)
            report_print(f, "<td>%.1f</td>", 100 * report_class_error(r->ways[w].runs, r->seeds, c));
        report_puts("</tr>", f);
    }
    report_puts("</tbody></table></div>", f);
}

static void report_pairs(FILE *f, const report *r)
{
    const size_t cells = (size_t)r->class_count * (size_t)r->class_count;
    int64_t below = INT64_MAX;
    size_t last = 0, best, i;
    int shown;
    report_puts(
        "<div class=\"card\"><h3>Most frequent confusions of the one that was kept, in test images</h3><dl>", f);
    for (shown = 0; shown < REPORT_PAIRS; ++shown) {
        for (best = cells, i = 0; i < cells; ++i) { /* the next one down: fewer, or as many but later */
            const int64_t n = r->confusion[i];
            if (i / (size_t)r->class_count == i % (size_t)r->class_count || n == 0) continue;
            if (n > below || (n == below && i <= last && shown > 0)) continue;
            if (best == cells || n > r->confusion[best]) best = i;
        }
        if (best == cells) break;
        report_puts("<dt>", f);
        report_escape(f, r->classes[best / (size_t)r->class_count]);
        report_puts(" taken for ", f);
        report_escape(f, r->classes[best % (size_t)r->class_count]);
        report_print(f, "</dt><dd>%lld</dd>", (long long)r->confusion[best]);
        below = r->confusion[best], last = best;
    }
    report_puts("</dl></div>", f);
}

static void report_says(FILE *f, const report *r, const char *who, int class_index, double probability, int label)
{
    report_print(f, "<br>%s: <span class=\"%s\">", who, class_index == label ? "right" : "wrong");
    report_escape(f, r->classes[class_index]);
    report_print(f, "</span> %.0f&#8239;%%", 100 * probability);
}

static void report_disagreements(FILE *f, const report *r)
{
    int which[REPORT_DISAGREEMENTS], count = 0, all = 0, student_right = 0, teacher_right = 0, i, k;
    double sure[REPORT_DISAGREEMENTS];
    if (!r->teacher_logits) return;
    for (i = 0; i < r->test.count; ++i) {
        const float *t = r->teacher_logits + (size_t)i * (size_t)r->class_count;
        const float *s = r->student_logits + (size_t)i * (size_t)r->class_count;
        const int tc = report_argmax(t, r->class_count), sc = report_argmax(s, r->class_count);
        double both;
        if (tc == sc) continue;
        ++all;
        student_right += sc == r->test.labels[i];
        teacher_right += tc == r->test.labels[i];
        both = report_probability(t, r->class_count, tc, 1) * report_probability(s, r->class_count, sc, 1);
        if (count == REPORT_DISAGREEMENTS && both <= sure[count - 1]) continue;
        for (k = count < REPORT_DISAGREEMENTS ? count++ : count - 1; k > 0 && sure[k - 1] < both; --k)
            which[k] = which[k - 1], sure[k] = sure[k - 1];
        which[k] = i, sure[k] = both;
    }
    if (!all) {
        report_print(f, "<h2>Where teacher and student disagree</h2><p>On none of the %s test images.</p>",
                     report_count(r->test.count).chars);
        return;
    }
    report_print(
        f,
        "<h2>Where teacher and student disagree</h2><p>On %d of %s test images; the teacher is right on %d of "
        "them, the "
        "student on %d. Shown are those on which both are surest.",
        all, report_count(r->test.count).chars, teacher_right, student_right);
    report_say_looks(f, r, 3);
    report_print(f, "</p><div class=\"grid%s\">", r->texts ? " texts" : "");
    for (i = 0; i < count; ++i) {
        const float *t = r->teacher_logits + (size_t)which[i] * (size_t)r->class_count;
        const float *s = r->student_logits + (size_t)which[i] * (size_t)r->class_count;
        const int label = r->test.labels[which[i]], tc = report_argmax(t, r->class_count),
                  sc = report_argmax(s, r->class_count);
        report_puts("<div class=\"tile\">", f);
        (void)report_seen(f, r, which[i], 3);
        report_puts("<b>", f);
        report_escape(f, r->classes[label]);
        report_puts("</b>", f);
        report_says(f, r, "teacher", tc, report_probability(t, r->class_count, tc, 1), label);
        report_says(f, r, "student", sc, report_probability(s, r->class_count, sc, 1), label);
        if (r->loaded && r->loaded->test.origin) {
            char name[512];
            (void)images_name(r->loaded, &r->loaded->test, which[i], name, sizeof name);
            report_puts("<small>", f);
            report_escape(f, name);
            report_puts("</small>", f);
        }
        report_puts("</div>", f);
    }
    report_puts("</div>", f);
}

/* ---- what it was trained on, and how --------------------------------------------------------------------- */

/* The first images of a class, in strips that a narrow page puts under each other. */
static void report_strips(FILE *f, const report *r, const report_images *from, int c, int count, const char *style)
{
    enum { STRIP = 6 };
    int which[REPORT_SAMPLES], found = 0, i;
    if (r->texts) count /= 4; /* each takes a line */
    for (i = 0; i < from->count && found < count; ++i) {
        if (from->labels[i] == c) which[found++] = i;
    }
    for (i = 0; i < found; i += STRIP)
        (void)report_tiles(f, r, from, which + i, found - i < STRIP ? found - i : STRIP, REPORT_SMALL, style);
}

/* A contact sheet: what the loader made of the files, so that a wrong size, channel or class meets the eye. */
/* What the loader had to say of them: what was left out or changed, and copies. */
static void report_said(FILE *f, const images *loaded)
{
    int i;
    if (!loaded || !loaded->said_count) return;
    report_puts("<div class=\"card\" style=\"margin-top:16px\"><h3>What was said of them</h3><ul class=\"said\">",
                f);
    for (i = 0; i < loaded->said_count; ++i) {
        report_puts("<li>", f);
        report_escape(f, loaded->said[i]);
        report_puts("</li>", f);
    }
    report_puts("</ul></div>", f);
}

static void report_samples(FILE *f, const report *r)
{
    const int shown = r->class_count < REPORT_CLASSES ? r->class_count : REPORT_CLASSES;
    int c;
    report_print(
        f,
        "<h2 id=\"images\">The images</h2><p>The first of each class, as the models see them: %d to train on, and "
        "then %d to test.",
        REPORT_SAMPLES / (r->texts ? 4 : 1), REPORT_SAMPLES / (r->texts ? 8 : 2));
    if (shown < r->class_count) report_print(f, " The first %d of %d classes are shown.", shown, r->class_count);
    report_puts("</p><div class=\"card strip\">", f);
    for (c = 0; c < shown; ++c) {
        report_puts("<span>", f);
        report_escape(f, r->classes[c]);
        report_print(f, "<small>%d train, %d&nbsp;test</small></span><div>", report_class_size(&r->train, c),
                     report_class_size(&r->test, c));
        report_strips(f, r, &r->train, c, REPORT_SAMPLES, "");
        report_strips(f, r, &r->test, c, REPORT_SAMPLES / 2,
                      r->texts ? "border-color:var(--t)" : "outline:2px solid var(--t);outline-offset:-2px");
        report_puts("</div>", f);
    }
    report_puts("</div>", f);
    report_said(f, r->loaded);
}

static void report_seconds(FILE *f, double seconds)
{
    report_print(f,
                 seconds < 9.95  ? "%.1f&nbsp;s"
                 : seconds < 600 ? "%.0f&nbsp;s"
                                 : "%.1f&nbsp;min",
                 seconds < 600 ? seconds : seconds / 60);
}

static void report_stages(FILE *f, const report *r)
{
    static const char *const colours[] = {"t", "s", "d", "p", "q", "u", "v", "a"};
    double all = 0;
    int i;
    for (i = 0; i < r->stage_count; ++i) all += r->stages[i].seconds;
    if (!(all > 0)) return;
    report_puts("<div class=\"card\"><h3>Where the time went</h3><div class=\"bar\" aria-hidden=\"true\">", f);
    for (i = 0; i < r->stage_count; ++i)
        report_print(f, "<i style=\"width:%.2f%%;background:var(--%s)\"></i>", 100 * r->stages[i].seconds / all,
                     colours[i % 8]);
    report_puts("</div><dl>", f);
    for (i = 0; i < r->stage_count; ++i) {
        report_puts("<dt>", f);
        report_key(f, colours[i % 8]);
        report_escape(f, r->stages[i].name);
        report_puts("</dt><dd>", f);
        report_seconds(f, r->stages[i].seconds);
        report_puts("</dd>", f);
    }
    report_puts("<dt>all</dt><dd>", f);
    report_seconds(f, r->seconds);
    report_puts("</dd></dl></div>", f);
}

static void report_files(FILE *f, const report *r)
{
    int i;
    if (!r->file_count) return;
    report_puts("<div class=\"card\"><h3>Files, and their SHA-256</h3><dl>", f);
    for (i = 0; i < r->file_count; ++i) {
        report_puts("<dt>", f);
        report_escape(f, r->files[i].name);
        report_print(f, "</dt><dd><code>%s</code></dd>", r->files[i].sha256);
    }
    report_puts("</dl></div>", f);
}

static void report_settings(FILE *f, const report *r)
{
    int i;
    report_puts("<h2 id=\"settings\">How it was made</h2><div class=\"stack\"><div class=\"card\">", f);
    if (r->command) {
        report_puts("<h3>Command</h3><p><code>", f);
        report_escape(f, r->command);
        report_puts("</code></p>", f);
    }
    report_puts("<h3>Settings</h3><dl>", f);
    for (i = 0; i < r->setting_count; ++i) {
        report_print(f, "<dt>%s</dt><dd><code>", r->settings[i].name);
        report_escape(f, r->settings[i].value);
        report_puts("</code></dd>", f);
    }
    report_puts("</dl></div>", f);
    report_stages(f, r);
    report_files(f, r);
    report_puts("</div>", f);
}

/* Writes the page. Returns 0 if that failed. */
REPORT_PUBLIC static int report_write(FILE *f, const report *r)
{
    report_head(f, r);
    report_table(f, r);
    report_puts("<div class=\"row wide\" style=\"margin-top:16px\">", f);
    report_seeds(f, r);
    if (r->way_count > 1) report_gains(f, r);
    if (report_has_curves(r)) report_curves(f, r);
    report_calibration(f, r);
    report_candidates(f, r);
    report_puts("</div>", f);
    report_seed_table(f, r);
    report_grids(f, r);
    report_soft_targets(f, r);
    report_diagnosis(f, r);
    report_decisions(f, r);
    report_puts(
        "<h2 id=\"errors\">Where the students err</h2><p>Rows are true classes, columns what the student says, in "
        "percent of the row.</p>",
        f);
    report_matrices(f, r);
    report_puts("<div class=\"stack\" style=\"margin-top:16px\">", f);
    report_classes(f, r);
    report_pairs(f, r);
    report_puts("</div>", f);
    report_disagreements(f, r);
    report_samples(f, r);
    report_settings(f, r);
    report_close_page(f, "distill");
    return !ferror(f);
}

#endif /* REPORT_H */
