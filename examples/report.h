/* report.h - the page that distill writes: one HTML file with everything in it, images as PNG by stb_image_write
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
    REPORT_BARS = 6,     /* classes drawn under each */
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

/* A row of the grid that was tried for a way of training: students trained with seeds of their own, and looked at on
   held-out images. A setting that the way has not, or that is the same everywhere, is below 0; a loss NULL. */
typedef struct report_trial {
    const char *loss;
    double lr, weight_decay, temperature, alpha;
    int epochs, students;  /* of each of them, and how many; short trials may be followed by longer ones */
    double validation, sd; /* mean accuracy of those students on the held-out images, and its deviation */
} report_trial;

enum { REPORT_WAYS = 12, REPORT_BINS = 15, REPORT_STAGES = 16, REPORT_FILES = 8 };

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
    report_images train, test;
    report_model teacher, student;
    int teacher_known;      /* its outputs on the test images are known */
    int teacher_trained;    /* by this run: it has curves */
    int teacher_guessed;    /* how its images are normalised is not known */
    report_run teacher_run; /* valid if teacher_known */
    report_reliability teacher_reliability;
    /* Before anything was distilled, on the held-out images, -1: not measured. */
    double teacher_validation, alone_validation;
    report_way ways[REPORT_WAYS];
    int way_count, base,
        headline; /* numbers of the ways that the verdict compares: the student alone, and distilled */
    int seeds, first_seed;
    int kept_way, kept_seed;        /* which student was kept: way, and number of the seed from 0 */
    const char *kept_why;           /* "best on the held-out images of all ways and seeds", or NULL */
    int unlabelled_count;           /* images without labels that students learned from as well */
    kd_diagnosis before, after;     /* of the kept one: before training and after, on the images it learned from */
    double temperature, alpha;      /* of the headline */
    int has_temperature, has_alpha; /* its loss */
    const float *teacher_logits, *student_logits; /* (test.count, class_count); teacher's may be NULL */
    const int64_t *confusion;                     /* (class_count, class_count) of the kept student */
    const report_setting *settings;
    int setting_count;
    const report_tree *tree; /* NULL: the student is none */
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

/* Accuracy on the test images less that of other runs with the same seeds (NULL: as it is). The error is that of the
   paired differences: what seeds share does not count. */
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

/* ---- text and pictures in HTML --------------------------------------------------------------------------- */

/* Writes one letter of a text and returns its bytes; a byte that belongs to none becomes U+FFFD. */
static int report_letter(FILE *f, const char *text)
{
    const int length = images_utf8(text);
    if (length) fwrite(text, 1, (size_t)length, f);
    if (!length) fputs("\xef\xbf\xbd", f);
    return length ? length : 1;
}

static void report_escape(FILE *f, const char *text)
{
    for (; *text; ++text) {
        switch (*text) {
        case '<': fputs("&lt;", f); break;
        case '>': fputs("&gt;", f); break;
        case '&': fputs("&amp;", f); break;
        case '"': fputs("&quot;", f); break;
        default: text += report_letter(f, text) - 1;
        }
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
    fputs("data:image/png;base64,", f);
    done = stbi_write_png_to_func(report_base64, f, width, height, channels, pixels, line);
    free(report_memory.start);
    report_left_out += !done;
    return done;
}

/* Tiles of one class side by side in one picture; which[i] is the number of the i-th. Returns 0 without memory. */
static int report_tiles(FILE *f, const report *r, const report_images *from, const int *which, int count,
                        const char *style)
{
    const size_t plane = (size_t)r->height * (size_t)r->width, line = (size_t)r->width * (size_t)count;
    const int channels = r->channels == 1 ? 1 : 3;
    uint8_t *sheet = (uint8_t *)calloc(plane * (size_t)count, (size_t)channels);
    int i, c, y, x, done;
    if (!sheet) return ++report_left_out, 0;
    for (i = 0; i < count; ++i) {
        const uint8_t *pixels = from->pixels + (size_t)which[i] * plane * (size_t)r->channels;
        for (c = 0; c < channels; ++c)
            for (y = 0; y < r->height; ++y)
                for (x = 0; x < r->width; ++x)
                    sheet[((size_t)y * line + (size_t)(i * r->width + x)) * (size_t)channels + (size_t)c] =
                        pixels[(size_t)(c % r->channels) * plane + (size_t)(y * r->width + x)];
    }
    fprintf(f, "<img style=\"%s\" alt=\"", style);
    report_escape(f, r->classes[from->labels[which[0]]]);
    fputs("\" src=\"", f);
    done = report_png(f, sheet, (int)line, r->height, channels);
    fputs("\">", f);
    free(sheet);
    return done;
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

/* ---- the head of the page -------------------------------------------------------------------------------- */

static const char report_style[] =
    ":root{--ink:#1d2330;--soft:#667085;--page:#f6f7f9;--card:#fff;--line:#e3e6ec;--t:#7a5af8;--a:#98a2b3;--s:#"
    "dc8a12;--d:#0e9f6e;"
    "--bad:#d92d20}"
    "@media(prefers-color-scheme:dark){:root{--ink:#e8eaf0;--soft:#98a2b3;--page:#12151c;--card:#1b202b;"
    "--line:#2d3442;--t:#9b8afb;--a:#7c879b;--s:#f5b041;--d:#32d583;--bad:#f97066}}"
    "*{box-sizing:border-box}body{margin:0;background:var(--page);color:var(--ink);"
    "font:16px/1.5 system-ui,-apple-system,'Segoe UI',Roboto,sans-serif}"
    "main{max-width:1080px;margin:0 auto;padding:40px 24px 64px}h1{font-size:30px;line-height:1.2;margin:0 0 8px}"
    "h2{font-size:20px;margin:44px 0 4px}p{margin:4px 0 14px;color:var(--soft);max-width:76ch}"
    ".lead{font-size:18px;color:var(--ink)}"
    ".row{display:grid;gap:16px;grid-template-columns:repeat(auto-fit,minmax(220px,1fr))}"
    ".wide{grid-template-columns:repeat(auto-fit,minmax(420px,1fr))}"
    ".card{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:18px 20px;min-width:0}"
    ".card h3{margin:0;font-size:14px;font-weight:600;color:var(--soft)}"
    ".big{font-size:38px;font-weight:650;line-height:1.15;margin:4px 0 10px}"
    ".big small{font-size:15px;font-weight:400;color:var(--soft)}"
    ".key{display:inline-block;width:10px;height:10px;border-radius:5px;margin-right:7px}"
    "dl{display:grid;grid-template-columns:auto 1fr;gap:2px 14px;margin:0;font-size:14px}dt{color:var(--soft)}"
    "dd{margin:0;text-align:right;overflow-wrap:anywhere;font-variant-numeric:tabular-nums}"
    ".row dl{grid-template-columns:1fr auto}.row dd{white-space:nowrap}"
    "code{font:13px ui-monospace,Consolas,monospace;overflow-wrap:anywhere}"
    "img{image-rendering:pixelated;display:block;border-radius:4px}svg{display:block;width:100%;height:auto}"
    "svg text{fill:var(--soft);font:12px system-ui,sans-serif}"
    "table{border-collapse:collapse;font-size:13px}td,th{padding:4px 9px;text-align:right;font-weight:400}"
    "th{color:var(--soft)}.scroll{overflow-x:auto}.matrix td{min-width:38px;text-align:center;border:1px solid "
    "var(--card)}"
    ".matrix td.hit{background:color-mix(in srgb,var(--d) var(--v),var(--card))}"
    ".matrix td.miss{background:color-mix(in srgb,var(--bad) var(--v),var(--card))}"
    ".grid{display:grid;gap:12px;grid-template-columns:repeat(auto-fill,minmax(150px,1fr))}"
    ".tile{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:10px;font-size:13px;"
    "line-height:1.4;overflow-wrap:anywhere}.right{color:var(--d)}.wrong{color:var(--bad)}"
    ".strip{display:grid;grid-template-columns:minmax(70px,auto) 1fr;gap:4px "
    "14px;align-items:center;font-size:14px}";

/* "Distillation adds 0.63 points ..." */
static void report_lead(FILE *f, const report *r)
{
    const report_statistic soft = report_accuracy(r->ways[r->headline].runs, r->seeds),
                           gain = report_gain(r, r->headline);
    fputs("<p class=\"lead\">", f);
    if (r->teacher_known && r->teacher.spec) {
        const double smaller = (double)r->teacher.parameters / (double)r->student.parameters,
                     faster = r->teacher.latency_us / r->student.latency_us;
        fprintf(f, "The student keeps %.1f&nbsp;%% of the teacher's accuracy with ",
                100 * soft.mean / r->teacher_run.test.accuracy);
        if (smaller >= 1.5) fprintf(f, "%.0f&nbsp;times fewer parameters, and ", smaller);
        if (smaller < 1.5) fprintf(f, "%.2f&nbsp;times its parameters, and ", 1 / smaller);
        if (faster >= 1.05) fprintf(f, "answers %.1f&nbsp;times faster. ", faster);
        if (faster < 1.05) fprintf(f, "takes %.2f&nbsp;times as long to answer. ", 1 / faster);
    }
    if (r->seeds < 2)
        fprintf(
            f,
            "Distillation changed the student's accuracy by %+.2f points; one seed cannot tell chance from effect.",
            100 * gain.mean);
    else if (fabs(gain.mean) <= 2 * gain.error)
        fprintf(f,
                "Between the distilled student and the same student trained on labels alone there is no clear "
                "difference: "
                "%+.2f points, standard error %.2f, over %d seeds.",
                100 * gain.mean, 100 * gain.error, r->seeds);
    else
        fprintf(
            f,
            "Distillation %s %.2f points %s the same student trained on labels alone, at the same cost (%d seeds, "
            "standard error %.2f).",
            gain.mean > 0 ? "adds" : "takes", 100 * fabs(gain.mean), gain.mean > 0 ? "to" : "from", r->seeds,
            100 * gain.error);
    fputs("</p>", f);
}

static void report_card(FILE *f, const char *title, const char *colour, const report_model *m,
                        const report_run *runs, int count)
{
    const report_statistic accuracy = report_accuracy(runs, count);
    double ece = 0, nll = 0;
    int i;
    for (i = 0; i < count; ++i) ece += runs[i].test.ece / count, nll += runs[i].test.nll / count;
    fprintf(f, "<div class=\"card\"><h3><span class=\"key\" style=\"background:var(--%s)\"></span>%s</h3>", colour,
            title);
    if (count == 0) fputs("<div class=\"big\">&ndash; <small>known on training images only</small></div>", f);
    if (count == 1) fprintf(f, "<div class=\"big\">%.2f&nbsp;%%</div>", 100 * accuracy.mean);
    if (count > 1)
        fprintf(f, "<div class=\"big\">%.2f&nbsp;%% <small>&plusmn;&nbsp;%.2f</small></div>", 100 * accuracy.mean,
                100 * accuracy.sd);
    fputs("<dl>", f);
    if (m->spec)
        fprintf(f,
                "<dt>parameters</dt><dd>%s</dd><dt>multiply-adds an image</dt><dd>%s</dd><dt>file</dt><dd>%sB</dd>"
                "<dt>latency</dt><dd>%.1f&nbsp;&micro;s</dd>",
                report_count(m->parameters).chars, report_short((double)m->macs).chars,
                report_short((double)m->bytes).chars, m->latency_us);
    if (count)
        fprintf(f, "<dt>negative log-likelihood</dt><dd>%.3f</dd><dt>calibration error</dt><dd>%.3f</dd>", nll,
                ece);
    if (count && runs[0].test.agreement >= 0 && colour[0] != 't')
        fprintf(f, "<dt>agrees with the teacher</dt><dd>%.1f&nbsp;%%</dd>", 100 * report_agreement(runs, count));
    fputs("</dl></div>", f);
}

static void report_head(FILE *f, const report *r)
{
    int i;
    fputs("<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" "
          "content=\"width=device-width,initial-scale=1\"><title>Distillation report</title><style>",
          f);
    fputs(report_style, f);
    fputs("</style></head><body><main><h1>Distillation report</h1><p>", f);
    fprintf(f, "Images in <code>");
    report_escape(f, r->folder);
    fprintf(f, "</code>: %s to train on, ", report_count(r->train_count).chars);
    fprintf(f, "%s held out to choose with, ", report_count(r->validation_count).chars);
    fprintf(f, "%s to test on once; %dx%d %s, %d classes.</p>", report_count(r->test.count).chars, r->width,
            r->height, r->channels == 1 ? "grey" : "colour", r->class_count);
    report_lead(f, r);
    fputs("<div class=\"row\">", f);
    report_card(f, "Teacher", "t", &r->teacher, &r->teacher_run, r->teacher_known);
    for (i = 0; i < r->way_count; ++i)
        report_card(f, r->ways[i].title, report_colour(r, i), &r->student, r->ways[i].runs, r->seeds);
    fputs("</div>", f);
}

/* ---- charts ---------------------------------------------------------------------------------------------- */

/* A frame in which accuracy from `low` to `high` goes up and something from `left` to `right` goes across. */
typedef struct report_axes {
    FILE *f;
    double low, high, left, right;
} report_axes;

enum {
    REPORT_WIDTH = 520,
    REPORT_HEIGHT = 270,
    REPORT_LEFT = 58,
    REPORT_BOTTOM = 40,
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
    fprintf(a->f, "<svg viewBox=\"0 0 %d %d\" role=\"img\">", REPORT_WIDTH, REPORT_HEIGHT);
    for (tick = (int)ceil(a->low / steps[s]); tick * steps[s] <= a->high + 1e-9; ++tick) {
        const double y = report_y(a, tick * steps[s]);
        fprintf(
            a->f,
            "<line x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\" stroke=\"var(--line)\"/><text x=\"%d\" y=\"%.1f\" "
            "text-anchor=\"end\">%.*f&#8201;%%</text>",
            REPORT_LEFT, REPORT_WIDTH - REPORT_RIGHT, y, y, REPORT_LEFT - 6, y + 4, digits, 100 * tick * steps[s]);
    }
    fprintf(a->f, "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">%s</text>", (REPORT_LEFT + REPORT_WIDTH) / 2,
            REPORT_HEIGHT - 6, across);
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

/* Validation accuracy by epoch: the mean of the runs as a line, their extremes as a band. */
static void report_curve(const report_axes *a, const report_run *runs, int count, const char *colour)
{
    const int epochs = runs[0].epochs;
    int e, i;
    fprintf(a->f, "<path fill=\"var(--%s)\" fill-opacity=\".18\" d=\"", colour);
    for (e = 0; e < 2 * epochs && count > 1; ++e) {
        const int at = e < epochs ? e : 2 * epochs - 1 - e;
        double edge = runs[0].validation[at];
        for (i = 1; i < count; ++i)
            edge = e < epochs ? fmax(edge, runs[i].validation[at]) : fmin(edge, runs[i].validation[at]);
        fprintf(a->f, "%c%.1f %.1f", e ? 'L' : 'M', report_x(a, at + 1), report_y(a, fmax(edge, a->low)));
    }
    fprintf(a->f, "\"/><path fill=\"none\" stroke-width=\"2\" stroke=\"var(--%s)\" d=\"", colour);
    for (e = 0; e < epochs; ++e) {
        double mean = 0;
        for (i = 0; i < count; ++i) mean += runs[i].validation[e] / count;
        fprintf(a->f, "%c%.1f %.1f", e ? 'L' : 'M', report_x(a, e + 1), report_y(a, fmax(mean, a->low)));
    }
    fputs("\"/>", a->f);
}

static void report_curves(FILE *f, const report *r)
{
    report_axes a;
    const int teacher = r->teacher_trained ? r->teacher_run.epochs : 0;
    int i, e, w;
    a.f = f, a.left = 1, a.right = teacher, a.low = 1, a.high = 0;
    for (w = 0; w < r->way_count; ++w) {
        const report_run *runs = r->ways[w].runs;
        if (a.right < runs[0].epochs) a.right = runs[0].epochs;
        for (i = 0; i < r->seeds; ++i)
            for (e = runs[i].epochs / 5; e < runs[i].epochs; ++e) report_widen(&a, runs[i].validation[e]);
    }
    for (e = teacher / 5; e < teacher; ++e) report_widen(&a, r->teacher_run.validation[e]);
    report_margin(&a, fmax(0.001, (a.high - a.low) * 0.05));
    fputs("<div class=\"card\"><h3>Accuracy on the held-out images, epoch by epoch</h3>", f);
    report_axes_open(&a, "epoch");
    for (e = 1; e <= (int)a.right; ++e) {
        if (a.right <= 12 || e % (((int)a.right + 9) / 10) == 0)
            fprintf(f, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%d</text>", report_x(&a, e),
                    REPORT_HEIGHT - REPORT_BOTTOM + 17, e);
    }
    if (teacher) report_curve(&a, &r->teacher_run, 1, "t");
    for (w = 0; w < r->way_count; ++w) report_curve(&a, r->ways[w].runs, r->seeds, report_colour(r, w));
    fputs("</svg></div>", f);
}

static void report_dot(const report_axes *a, double x, double y, int radius, const char *colour)
{
    fprintf(a->f, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"%d\" fill=\"var(--%s)\"/>", x, y, radius, colour);
}

/* One dot a seed on the test images, alone and distilled joined by a line; the teacher as a dashed line. */
static void report_seeds(FILE *f, const report *r)
{
    report_axes a;
    int i, w;
    a.f = f, a.left = 0, a.right = r->seeds + 1, a.low = 1, a.high = 0;
    for (w = 0; w < r->way_count; ++w)
        for (i = 0; i < r->seeds; ++i) report_widen(&a, r->ways[w].runs[i].test.accuracy);
    if (r->teacher_known) report_widen(&a, r->teacher_run.test.accuracy);
    report_margin(&a, 0.002);
    fputs("<div class=\"card\"><h3>Accuracy on the test images, seed by seed</h3>", f);
    report_axes_open(&a, "seed");
    if (r->teacher_known)
        fprintf(f,
                "<line x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\" stroke=\"var(--t)\" stroke-width=\"2\" "
                "stroke-dasharray=\"6 4\"/>",
                REPORT_LEFT, REPORT_WIDTH - REPORT_RIGHT, report_y(&a, r->teacher_run.test.accuracy),
                report_y(&a, r->teacher_run.test.accuracy));
    for (i = 0; i < r->seeds; ++i) {
        const double x = report_x(&a, i + 1), alone = report_y(&a, r->ways[r->base].runs[i].test.accuracy),
                     soft = report_y(&a, r->ways[r->headline].runs[i].test.accuracy);
        fprintf(f,
                "<line x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\" stroke=\"var(--a)\" stroke-width=\"2\"/>"
                "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%d</text>",
                x, x, alone, soft, x, REPORT_HEIGHT - REPORT_BOTTOM + 17, r->first_seed + i);
        for (w = 0; w < r->way_count; ++w)
            report_dot(&a, x, report_y(&a, r->ways[w].runs[i].test.accuracy), 6, report_colour(r, w));
    }
    fputs("</svg></div>", f);
}

/* What was tried on the held-out images for one way of training. */
static void report_grid(FILE *f, const report *r, int way)
{
    const report_way *w = &r->ways[way];
    const report_trial *first = w->grid;
    int i, k;
    if (w->grid_count < 2) return;
    fputs("<div class=\"card scroll\"><h3>", f);
    report_escape(f, w->title);
    fputs("</h3><table><tr>", f);
    fprintf(f, "%s%s%s%s%s<th>held-out accuracy</th><th></th></tr>", first->loss ? "<th>loss</th>" : "",
            first->lr >= 0 ? "<th>learning rate</th>" : "", first->weight_decay >= 0 ? "<th>weight decay</th>" : "",
            first->temperature >= 0 ? "<th>temperature</th>" : "", first->alpha >= 0 ? "<th>alpha</th>" : "");
    for (i = 0; i < w->grid_count; ++i) {
        const report_trial *t = &w->grid[i];
        const double values[] = {t->lr, t->weight_decay, t->temperature, t->alpha};
        fputs("<tr>", f);
        if (t->loss) fprintf(f, "<td>%s</td>", t->loss);
        for (k = 0; k < 4; ++k) {
            if (values[k] >= 0) fprintf(f, "<td>%g</td>", values[k]);
        }
        fprintf(f, "<td>%.2f %%", 100 * t->validation);
        if (t->students > 1) fprintf(f, " &plusmn; %.2f", 100 * t->sd);
        fprintf(f, "</td><td>%s</td></tr>", i == w->chosen ? "chosen" : "");
    }
    fputs("</table></div>", f);
}

static void report_grids(FILE *f, const report *r)
{
    int i, grids = 0;
    for (i = 0; i < r->way_count; ++i) grids += r->ways[i].grid_count > 1;
    if (!grids) return;
    fputs(
        "<h2>What was tried</h2><p>On the held-out images, with seeds of their own; the test images had no part in "
        "it.</p>",
        f);
    for (i = 0; i < r->way_count; ++i) report_grid(f, r, i);
}

/* ---- what the teacher knows ------------------------------------------------------------------------------ */

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

static void report_soft_card(FILE *f, const report *r, int image, const double *temperatures,
                             const char *const *fill)
{
    const float *row = r->teacher_logits + (size_t)image * (size_t)r->class_count;
    const int bars = r->class_count < REPORT_BARS ? r->class_count : REPORT_BARS, step = 36;
    int order[REPORT_BARS], i, k, t, c;
    for (i = 0; i < bars; ++i) { /* the classes with the largest logits */
        int best = -1;
        for (c = 0; c < r->class_count; ++c) {
            for (k = 0; k < i && order[k] != c; ++k) {}
            if (k == i && (best < 0 || row[c] > row[best])) best = c;
        }
        order[i] = best;
    }
    fputs("<div class=\"card\" style=\"display:grid;grid-template-columns:88px 1fr;gap:14px\"><div>", f);
    (void)report_tiles(f, r, &r->test, &image, 1, "width:88px");
    fputs("<p style=\"margin:6px 0 0;font-size:14px\">", f);
    report_escape(f, r->classes[r->test.labels[image]]);
    fprintf(f, "</p></div><svg viewBox=\"0 0 260 %d\" role=\"img\">", bars * step);
    for (i = 0; i < bars; ++i) {
        fprintf(f, "<text x=\"0\" y=\"%d\">", i * step + 11);
        report_escape(f, r->classes[order[i]]);
        fputs("</text>", f);
        for (t = 0; t < 3; ++t) {
            const double p = report_probability(row, r->class_count, order[i], temperatures[t]);
            fprintf(f,
                    "<rect x=\"0\" y=\"%d\" width=\"%.1f\" height=\"5\" rx=\"2\" fill=\"var(--%s)\" "
                    "fill-opacity=\"%s\">"
                    "<title>T = %g: %.2f %%</title></rect>",
                    i * step + 15 + 6 * t, fmax(258 * p, 0.6), fill[0], fill[t + 1], temperatures[t], 100 * p);
        }
    }
    fputs("</svg></div>", f);
}

static void report_soft_targets(FILE *f, const report *r)
{
    static const char *const fill[] = {"t", "1", ".62", ".32"};
    double temperatures[3];
    int which[REPORT_SOFT], picked, i;
    if (!r->teacher_logits) return;
    temperatures[0] = 1;
    temperatures[1] = r->temperature > 1 ? r->temperature : 4;
    temperatures[2] = temperatures[1] < 10 ? 10 : 4 * temperatures[1];
    picked = report_pick(r, which);
    fprintf(
        f,
        "<h2>What the teacher tells beyond the label</h2><p>Its probabilities for test images at three "
        "temperatures: "
        "the student learns from the small ones as well.</p><p><span class=\"key\" style=\"background:var(--t)\">"
        "</span>T = %g &ensp; <span class=\"key\" style=\"background:var(--t);opacity:.62\"></span>T = %g &ensp; "
        "<span class=\"key\" style=\"background:var(--t);opacity:.32\"></span>T = %g</p><div class=\"row\" "
        "style=\"grid-template-columns:repeat(auto-fit,minmax(310px,1fr))\">",
        temperatures[0], temperatures[1], temperatures[2]);
    for (i = 0; i < picked; ++i) report_soft_card(f, r, which[i], temperatures, fill);
    fputs("</div>", f);
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
        fprintf(f, "<image x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" href=\"", x - size / 2,
                y - size / 2, size, size);
        (void)report_png(f, rgb, r->width, r->height, 3);
        fputs("\"/>", f);
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
    fprintf(f, "<g><title>%.2f %% of the images; %.0f %% ", 100 * r->tree->share[node], 100 * sure);
    report_escape(f, r->classes[says]);
    fprintf(f,
            "</title><rect x=\"%.1f\" y=\"%.1f\" width=\"16\" height=\"16\" rx=\"4\" fill=\"var(--%s)\" "
            "fill-opacity=\"%.2f\" stroke=\"var(--line)\"/><text transform=\"translate(%.1f %.1f) rotate(90)\">",
            x - 8, y - 8, report_on_path(r->tree, node) ? "d" : "t", 0.1 + 0.9 * sure, x - 4, y + 14);
    report_escape(f, r->classes[says]);
    fprintf(f, " %.0f&#8201;%%</text></g>", 100 * sure);
}

static void report_decisions(FILE *f, const report *r)
{
    const report_tree *t = r->tree;
    int levels, leaves, j;
    if (!t) return;
    levels = t->about.depth < REPORT_LEVELS ? t->about.depth : REPORT_LEVELS;
    leaves = 1 << levels;
    fputs("<h2>How the student decides</h2><p>It is a soft decision tree. ", f);
    if (t->filters)
        fputs("Each inner node weighs the pixels: orange ones that are bright send an image to the right, blue "
              "ones to "
              "the left. ",
              f);
    fputs(
        "Lines are as thick as the share of the test images that takes them; a square is a leaf, with the class it "
        "names. ",
        f);
    if (t->about.depth > levels) fprintf(f, "The first %d of %d levels are drawn. ", levels, t->about.depth);
    fprintf(f, "Asked for the most probable leaf alone, the tree is right on %.2f&nbsp;%% of the test images. ",
            100 * t->path_accuracy);
    if (t->example >= 0) fputs("The green way is that of the image in the corner.", f);
    fprintf(f, "</p><div class=\"card\" style=\"position:relative\"><svg viewBox=\"0 0 %d %d\" role=\"img\">",
            REPORT_TREE_WIDTH, REPORT_TREE_TOP + levels * REPORT_TREE_STEP + 120);
    for (j = 1; j < 2 * leaves - 1; ++j)
        fprintf(f,
                "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"var(--%s)\" "
                "stroke-width=\"%.1f\"><title>%.2f %% of the images</title></line>",
                report_node_x((j - 1) / 2), report_node_y((j - 1) / 2), report_node_x(j), report_node_y(j),
                report_on_path(t, j) ? "d" : "a", 1 + 13 * t->share[j], 100 * t->share[j]);
    for (j = 0; j < leaves - 1; ++j) {
        const double room = 0.8 * REPORT_TREE_WIDTH / (1 << report_level(j));
        if (t->filters)
            report_filter(f, r, j, report_node_x(j), report_node_y(j), room < 76 ? room : 76);
        else
            fprintf(f, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"6\" fill=\"var(--a)\"/>", report_node_x(j),
                    report_node_y(j));
    }
    for (j = leaves - 1; j < 2 * leaves - 1; ++j) report_tree_leaf(f, r, j);
    fputs("</svg>", f);
    if (t->example >= 0) {
        fputs("<div style=\"position:absolute;left:20px;top:18px;font-size:13px\">", f);
        (void)report_tiles(f, r, &r->test, &t->example, 1, "width:72px");
        report_escape(f, r->classes[r->test.labels[t->example]]);
        fputs("</div>", f);
    }
    fputs("</div>", f);
}

/* ---- what pulls at the student --------------------------------------------------------------------------- */

static void report_diagnosis(FILE *f, const report *r)
{
    const kd_diagnosis *b = &r->before, *a = &r->after;
    fputs("<h2>What pulls at the student</h2><p>On the images it learned from, the student that was kept, before "
          "training and after. The cosine says whether teacher and labels ask for the same: 1 the same, 0 nothing "
          "in common, below 0 the opposite.",
          f);
    if (r->has_temperature)
        fprintf(f,
                " A soft target's entropy lies between 0, a bare label, and %.2f nats, every class alike; here, at "
                "temperature %g, it is %.2f.",
                log((double)r->class_count), r->temperature, a->target_entropy);
    fputs("</p><div class=\"card scroll\"><table>", f);
    fputs("<tr><th></th><th>weight in the loss</th><th>gradient before</th><th>after</th></tr>", f);
    fprintf(f, "<tr><th>teacher</th><td>%.3g</td><td>%.3g</td><td>%.3g</td></tr>", a->soft_weight, b->soft_norm,
            a->soft_norm);
    fprintf(f, "<tr><th>labels</th><td>%.3g</td><td>%.3g</td><td>%.3g</td></tr>", a->hard_weight, b->hard_norm,
            a->hard_norm);
    fprintf(f, "<tr><th>cosine of the two</th><td></td><td>%.2f</td><td>%.2f</td></tr></table></div>",
            b->gradient_cosine, a->gradient_cosine);
}

/* ---- where the student errs ------------------------------------------------------------------------------ */

static void report_matrix(FILE *f, const report *r)
{
    int i, j;
    fputs("<div class=\"card scroll\"><table class=\"matrix\"><tr><th></th>", f);
    for (j = 0; j < r->class_count; ++j) {
        fputs("<th>", f);
        report_escape(f, r->classes[j]);
        fputs("</th>", f);
    }
    fputs("</tr>", f);
    for (i = 0; i < r->class_count; ++i) {
        const int64_t *row = r->confusion + (size_t)i * (size_t)r->class_count;
        int64_t total = 0;
        for (j = 0; j < r->class_count; ++j) total += row[j];
        fputs("<tr><th>", f);
        report_escape(f, r->classes[i]);
        fputs("</th>", f);
        for (j = 0; j < r->class_count; ++j) {
            const double share = total ? (double)row[j] / (double)total : 0;
            fprintf(f, "<td class=\"%s\" style=\"--v:%.0f%%\">", i == j ? "hit" : "miss",
                    i == j ? 65 * share : fmin(85, 280 * share));
            if (row[j]) fprintf(f, "%lld", (long long)row[j]);
            fputs("</td>", f);
        }
        fputs("</tr>", f);
    }
    fputs("</table></div>", f);
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
    fputs("<div class=\"card scroll\"><h3>Errors in each class, of 100 test images</h3><table><tr><th></th>", f);
    if (r->teacher_known) fputs("<th>teacher</th>", f);
    for (w = 0; w < r->way_count; ++w) fprintf(f, "<th>%s</th>", r->ways[w].title);
    fputs("</tr>", f);
    for (c = 0; c < r->class_count; ++c) {
        fputs("<tr><th>", f);
        report_escape(f, r->classes[c]);
        fputs("</th>", f);
        if (r->teacher_known) fprintf(f, "<td>%.1f</td>", 100 * report_class_error(&r->teacher_run, 1, c));
        for (w = 0; w < r->way_count; ++w)
            fprintf(f, "<td>%.1f</td>", 100 * report_class_error(r->ways[w].runs, r->seeds, c));
        fputs("</tr>", f);
    }
    fputs("</table></div>", f);
}

static void report_pairs(FILE *f, const report *r)
{
    const size_t cells = (size_t)r->class_count * (size_t)r->class_count;
    int64_t below = INT64_MAX;
    size_t last = 0, best, i;
    int shown;
    fputs("<div class=\"card\"><h3>Most frequent confusions</h3><dl>", f);
    for (shown = 0; shown < REPORT_PAIRS; ++shown) {
        for (best = cells, i = 0; i < cells; ++i) { /* the next one down: fewer, or as many but later */
            const int64_t n = r->confusion[i];
            if (i / (size_t)r->class_count == i % (size_t)r->class_count || n == 0) continue;
            if (n > below || (n == below && i <= last && shown > 0)) continue;
            if (best == cells || n > r->confusion[best]) best = i;
        }
        if (best == cells) break;
        fputs("<dt>", f);
        report_escape(f, r->classes[best / (size_t)r->class_count]);
        fputs(" taken for ", f);
        report_escape(f, r->classes[best % (size_t)r->class_count]);
        fprintf(f, "</dt><dd>%lld</dd>", (long long)r->confusion[best]);
        below = r->confusion[best], last = best;
    }
    fputs("</dl></div>", f);
}

static void report_says(FILE *f, const report *r, const char *who, int class_index, double probability, int label)
{
    fprintf(f, "<br>%s: <span class=\"%s\">", who, class_index == label ? "right" : "wrong");
    report_escape(f, r->classes[class_index]);
    fprintf(f, "</span> %.0f&#8201;%%", 100 * probability);
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
    fprintf(f,
            "<h2>Where teacher and student disagree</h2><p>On %d of %s test images; the teacher is right on %d of "
            "them, the "
            "student on %d. Shown are those on which both are surest.</p><div class=\"grid\">",
            all, report_count(r->test.count).chars, teacher_right, student_right);
    for (i = 0; i < count; ++i) {
        const float *t = r->teacher_logits + (size_t)which[i] * (size_t)r->class_count;
        const float *s = r->student_logits + (size_t)which[i] * (size_t)r->class_count;
        const int label = r->test.labels[which[i]], tc = report_argmax(t, r->class_count),
                  sc = report_argmax(s, r->class_count);
        fputs("<div class=\"tile\">", f);
        (void)report_tiles(f, r, &r->test, &which[i], 1, "width:100%");
        fputs("<b>", f);
        report_escape(f, r->classes[label]);
        fputs("</b>", f);
        report_says(f, r, "teacher", tc, report_probability(t, r->class_count, tc, 1), label);
        report_says(f, r, "student", sc, report_probability(s, r->class_count, sc, 1), label);
        fputs("</div>", f);
    }
    fputs("</div>", f);
}

/* ---- what it was trained on, and how --------------------------------------------------------------------- */

static void report_samples(FILE *f, const report *r)
{
    int c, i;
    fputs("<h2>The images</h2><p>Some of the training images of each class, as the models see them.</p><div "
          "class=\"card "
          "strip\">",
          f);
    for (c = 0; c < r->class_count && c < REPORT_CLASSES; ++c) {
        int which[REPORT_SAMPLES], count = 0;
        for (i = 0; i < r->train.count && count < REPORT_SAMPLES; ++i) {
            if (r->train.labels[i] == c) which[count++] = i;
        }
        fputs("<span>", f);
        report_escape(f, r->classes[c]);
        fputs("</span>", f);
        if (count) (void)report_tiles(f, r, &r->train, which, count, "height:44px;max-width:100%");
    }
    fputs("</div>", f);
}

static void report_settings(FILE *f, const report *r)
{
    int i;
    fputs("<h2>Settings</h2><div class=\"card\"><dl>", f);
    for (i = 0; i < r->setting_count; ++i) {
        fprintf(f, "<dt>%s</dt><dd><code>", r->settings[i].name);
        report_escape(f, r->settings[i].value);
        fputs("</code></dd>", f);
    }
    fprintf(f, "<dt>time</dt><dd>%.0f s</dd></dl></div>", r->seconds);
}

static void report_legend(FILE *f, const report *r)
{
    int i;
    fputs("<p>", f);
    if (r->teacher_known) fputs("<span class=\"key\" style=\"background:var(--t)\"></span>teacher &ensp; ", f);
    for (i = 0; i < r->way_count; ++i)
        fprintf(f, "<span class=\"key\" style=\"background:var(--%s)\"></span>%s &ensp; ", report_colour(r, i),
                r->ways[i].title);
    fputs("</p>", f);
}

/* Writes the page. Returns 0 if that failed. */
REPORT_PUBLIC static int report_write(FILE *f, const report *r)
{
    report_head(f, r);
    fputs("<h2>Results</h2>", f);
    report_legend(f, r);
    fputs("<div class=\"row wide\">", f);
    report_seeds(f, r);
    if (r->validation_count) report_curves(f, r);
    fputs("</div>", f);
    report_soft_targets(f, r);
    report_grids(f, r);
    report_diagnosis(f, r);
    report_decisions(f, r);
    fputs(
        "<h2>Where the distilled student errs</h2><p>Rows are true classes, columns what the student that was kept "
        "says.</p><div style=\"display:grid;gap:16px\">",
        f);
    if (r->class_count <= REPORT_CLASSES) report_matrix(f, r);
    report_classes(f, r);
    report_pairs(f, r);
    fputs("</div>", f);
    report_disagreements(f, r);
    report_samples(f, r);
    report_settings(f, r);
    fputs("<p style=\"margin-top:40px\">Made by distill, an example of kd.h " KD_VERSION
          ".</p></main></body></html>\n",
          f);
    return !ferror(f);
}

#endif /* REPORT_H */
