/* classify.c - what does a saved student see in an image, or make of a text?

       cc -O2 -o classify examples/classify.c -lm                (needs stb: apt-get install libstb-dev)
       ./classify out/student.safetensors examples/data/samples/Bag.png ...
       ./classify teacher.safetensors --logits kept.npy images/train/cat/1.png ...
       ./classify out-text/student.safetensors --text "my card has not come yet" questions.csv ...

   A file of texts is a .csv or .tsv table with a column text, or a .txt file with a text a line.
   --logits keeps the logits, (images, outputs), and beside them kept.txt, a line with the name of each image, which
   `distill --teacher kept.npy` reads. */
#define KD_IMPLEMENTATION
#include "../kd.h"
#include "images.h"
#include "texts.h"

enum { SHOWN = 3 };

/* How pictures are brought to the size of the model: as --resize and --exif say, else as it knows itself. One that
   is not square and knows nothing has them stretched. 0 after a complaint. */
static int find_framing(const kd_model *m, const char *path, const char *resize, int exif, images_framing *f)
{
    const char *known = kd_model_framing(m);
    float mean[KD_MAX_CHANNELS], std[KD_MAX_CHANNELS];
    int c, h, w, upright;
    kd_model_input(m, &c, &h, &w);
    if (!images_framing_parse(known, f)) {
        fprintf(stderr,
                "classify: %s says that its images were brought to their size by \"%s\", which is not known "
                "here\n",
                path, known);
        return 0;
    }
    if (!*known && h != w) f->way = IMAGES_STRETCH;
    upright = f->upright || exif; /* --resize says nothing of that */
    if (resize && (!images_framing_parse(resize, f) || f->upright)) {
        fprintf(stderr,
                "classify: --resize takes crop, stretch, pad, pad=R,G,B, pad=mean or the pixels of the shorter "
                "edge, got "
                "\"%s\"\n",
                resize);
        return 0;
    }
    f->upright = upright;
    if (f->by_mean && !kd_model_preprocessing(m, mean, std)) {
        fprintf(stderr,
                "classify: pad=mean is the colour of the mean of the model's images, which %s does not know\n",
                path);
        return 0;
    }
    if (f->by_mean) images_framing_mean(f, mean, kd_model_preprocessing(m, NULL, NULL));
    return 1;
}

/* The image as the model was trained on it: (channels, height, width). NULL and *why if it cannot be read. */
static uint8_t *load_image(const char *path, int channels, int height, int width, const images_framing *f,
                           const char **why)
{
    images_picture p;
    size_t size, area = (size_t)height * (size_t)width, i;
    uint8_t *bytes = images_read(path, &size, why), *fitted, *planes;
    int c;
    memset(&p, 0, sizeof p);
    if (!bytes) return NULL;
    c = images_decode(bytes, size, channels, &p, why);
    free(bytes);
    if (!c) return NULL;
    *why = "does not fit in memory";
    if (!f->upright || images_turn(&p)) *why = images_too_long(p.w, p.h, width, height, f);
    if (*why) {
        free(p.pixels);
        return NULL;
    }
    *why = "does not fit in memory";
    fitted = images_fits(p.w, p.h, width, height, f) ? p.pixels : images_fit(&p, width, height, f);
    planes = fitted ? (uint8_t *)images_memory(area, (size_t)channels) : NULL;
    for (i = 0; planes && i < area; ++i) {
        for (c = 0; c < channels; ++c) planes[(size_t)c * area + i] = fitted[i * (size_t)channels + (size_t)c];
    }
    free(fitted);
    return planes;
}

static void print_class(const kd_model *m, int index, float probability)
{
    const char *name = kd_model_class(m, index);
    char number[32];
    snprintf(number, sizeof number, "class %d", index);
    printf("  %5.1f %%  %s\n", 100 * (double)probability, name ? name : number);
}

static void print_best(const kd_model *m, const char *path, float *scores)
{
    const int classes = kd_model_outputs(m);
    int i, k;
    printf("%s\n", path);
    for (k = 0; k < SHOWN && k < classes; ++k) {
        int best = 0;
        for (i = 1; i < classes; ++i) {
            if (scores[i] > scores[best]) best = i;
        }
        print_class(m, best, scores[best]);
        scores[best] = -1;
    }
}

/* The likeliest classes of one image, whose logits go into `logits` if that is not NULL. Returns 0 if there was a
   problem. */
static int classify(kd_ctx *kd, const kd_model *m, const images_framing *f, const char *path, float *scores,
                    float *logits)
{
    int c, h, w, side;
    const int classes = kd_model_outputs(m);
    const char *why = NULL;
    uint8_t *pixels;
    kd_result result;
    kd_model_input(m, &c, &h, &w);
    if (h == 1 && w == 1 && c > 3) { /* a multilayer perceptron: a square, in grey or colour */
        const int planes = c % 3 == 0 && sqrt(c / 3) == floor(sqrt(c / 3)) ? 3 : 1;
        side = (int)sqrt(c / planes);
        if (side * side * planes == c) c = planes, h = w = side;
    }
    if (c != 1 && c != 3) {
        fprintf(stderr, "classify: the model takes %dx%dx%d, which is no image\n", c, h, w);
        return 0;
    }
    pixels = load_image(path, c, h, w, f, &why);
    if (!pixels) {
        fprintf(stderr, "classify: %s %s\n", path, why);
        return 0;
    }
    result = kd_predict_u8(m, pixels, 1, scores);
    free(pixels);
    if (result == KD_OK && logits) memcpy(logits, scores, (size_t)classes * sizeof *logits);
    if (result == KD_OK) result = kd_softmax(kd, scores, 1, classes, 1, scores);
    if (result != KD_OK) {
        fprintf(stderr, "classify: %s: %s\n", path, kd_error(kd));
        return 0;
    }
    print_best(m, path, scores);
    return 1;
}

/* ---- texts ----------------------------------------------------------------------------------------------- */

/* A model of texts: how many bytes it reads, else 0. */
static int text_length(const kd_model *m)
{
    int c, h, w;
    if (strncmp(kd_model_spec(m), "tokens ", 7) != 0) return 0;
    kd_model_input(m, &c, &h, &w);
    return c;
}

/* The likeliest classes of a text, of which the beginning is read. Returns 0 if there was a problem. */
static int classify_text(kd_ctx *kd, const kd_model *m, const char *text, float *scores)
{
    const size_t length = (size_t)text_length(m);
    uint8_t *bytes = (uint8_t *)images_memory(length, 1);
    kd_result result = KD_ERR_MEMORY;
    if (bytes) memcpy(bytes, text, texts_cut(text, length));
    if (bytes) result = kd_predict_u8(m, bytes, 1, scores);
    free(bytes);
    if (result == KD_OK) result = kd_softmax(kd, scores, 1, kd_model_outputs(m), 1, scores);
    if (result != KD_OK) {
        fprintf(stderr, "classify: %s\n", result == KD_ERR_MEMORY ? "there is not enough memory" : kd_error(kd));
        return 0;
    }
    print_best(m, text, scores);
    return 1;
}

/* All texts of a file. */
static int classify_texts(kd_ctx *kd, const kd_model *m, const char *path, float *scores)
{
    images s;
    texts_file f;
    int done = texts_open(&s, &f, path), i;
    if (!done) fprintf(stderr, "classify: %s\n", s.error);
    for (i = 0; i < s.skipped && i < IMAGES_LISTED; ++i) fprintf(stderr, "classify: %s\n", s.listed[i]);
    for (i = 0; i < f.count && done; ++i) done = classify_text(kd, m, f.rows[i].text, scores);
    done = done && !s.skipped;
    texts_file_free(&f);
    images_free(&s);
    return done;
}

/* ---- kept logits ----------------------------------------------------------------------------------------- */

typedef struct keeping {
    const char *path; /* of the array; NULL: none */
    char *names;      /* of the list beside it */
    float *logits;
    const char **images;
    int count, force;
    const char **texts; /* given with --text */
    int text_count;
    const char *resize; /* given with --resize */
    int exif;
    images_framing framing;
} keeping;

/* Neither file may be one that is read, or one that is there. */
static int check_kept(const keeping *k, char **given, int count)
{
    const char *outputs[2];
    struct stat info, other;
    int i, j;
    outputs[0] = k->path, outputs[1] = k->names;
    for (i = 0; i < 2; ++i) {
        if (stat(outputs[i], &info) != 0) continue;
        for (j = 0; j < count; ++j) {
            if (stat(given[j], &other) != 0 || other.st_dev != info.st_dev || other.st_ino != info.st_ino) continue;
            fprintf(stderr, "classify: %s is read, and %s would replace it\n", given[j], outputs[i]);
            return 0;
        }
        if (k->force) continue;
        fprintf(stderr, "classify: %s is there; give another name, or --force to replace it\n", outputs[i]);
        return 0;
    }
    return 1;
}

/* "kept.npy" to "kept.txt" */
static int keep_open(keeping *k, char **files, int count, int outputs)
{
    const char *dot = strrchr(k->path, '.'), *slash = strrchr(k->path, '/');
    const size_t length = dot && (!slash || dot > slash) ? (size_t)(dot - k->path) : strlen(k->path);
    k->names = (char *)images_memory(length + 5, 1);
    k->logits = (float *)images_memory((size_t)count * (size_t)outputs, sizeof *k->logits);
    k->images = (const char **)images_memory((size_t)count, sizeof *k->images);
    if (!k->names || !k->logits || !k->images) {
        fputs("classify: there is not enough memory\n", stderr);
        return 0;
    }
    memcpy(k->names, k->path, length);
    memcpy(k->names + length, ".txt", 5);
    return check_kept(k, files, count);
}

static int keep_write(const keeping *k, kd_ctx *kd, int outputs)
{
    int64_t shape[2];
    FILE *f;
    int i, good;
    shape[0] = k->count, shape[1] = outputs;
    if (kd_npy_write(kd, k->path, k->logits, 2, shape) != KD_OK) {
        fprintf(stderr, "classify: %s\n", kd_error(kd));
        return 0;
    }
    f = fopen(k->names, "wb");
    good = f != NULL;
    for (i = 0; i < k->count && good; ++i) good = fprintf(f, "%s\n", k->images[i]) > 0;
    if (f) good = fclose(f) == 0 && good;
    if (!good) fprintf(stderr, "classify: %s cannot be written\n", k->names);
    return good;
}

static int is_text(const keeping *k, const char *word)
{
    int i;
    for (i = 0; i < k->text_count && k->texts[i] != word; ++i) {}
    return i < k->text_count;
}

/* Options may stand anywhere; what is left are the model and the images, and texts, which k->texts has as well. -1:
   the usage is wanted. */
static int parse(keeping *k, int argc, char **argv)
{
    int i, count = 0;
    for (i = 1; i < argc; ++i) {
        if (strcmp(argv[i], "--force") == 0)
            k->force = 1;
        else if (strcmp(argv[i], "--logits") == 0 && i + 1 < argc)
            k->path = argv[++i];
        else if (strcmp(argv[i], "--exif") == 0)
            k->exif = 1;
        else if (strcmp(argv[i], "--resize") == 0 && i + 1 < argc)
            k->resize = argv[++i];
        else if (strcmp(argv[i], "--text") == 0 && i + 1 < argc)
            ++i, k->texts[k->text_count++] = argv[count++] = argv[i];
        else if (strncmp(argv[i], "--", 2) == 0)
            return -1;
        else
            argv[count++] = argv[i];
    }
    return count < 2 ? -1 : count;
}

/* ONNX by its name's end. */
static kd_result load(kd_ctx *kd, const char *path, kd_model **m)
{
    const size_t length = strlen(path);
    return length > 5 && strcmp(path + length - 5, ".onnx") == 0 ? kd_model_load_onnx(kd, path, NULL, m)
                                                                 : kd_model_load(kd, path, m);
}

static int run(kd_ctx *kd, keeping *k, char **files, int count)
{
    kd_model *m = NULL;
    float *scores;
    int i, failed = 0, outputs;
    if (load(kd, files[0], &m) != KD_OK) {
        fprintf(stderr, "classify: %s\n", kd_error(kd));
        return 0;
    }
    outputs = kd_model_outputs(m);
    if (text_length(m) ? k->path || k->resize || k->exif : k->text_count > 0) {
        fprintf(stderr, "classify: %s\n",
                text_length(m) ? k->path ? "--logits keeps those of images, and the model reads texts"
                                         : "--resize and --exif are about images, and the model reads texts"
                               : "--text is for models that read texts, and this one sees images");
        kd_model_destroy(m);
        return 0;
    }
    if (!text_length(m) && !find_framing(m, files[0], k->resize, k->exif, &k->framing)) {
        kd_model_destroy(m);
        return 0;
    }
    scores = (float *)images_memory((size_t)outputs, sizeof *scores);
    if (!scores) fputs("classify: there is not enough memory\n", stderr);
    if (!scores || (k->path && !keep_open(k, files, count, outputs))) {
        free(scores);
        kd_model_destroy(m);
        return 0;
    }
    for (i = 1; i < count; ++i) {
        float *logits = k->path ? k->logits + (size_t)k->count * (size_t)outputs : NULL;
        const int done = is_text(k, files[i]) ? classify_text(kd, m, files[i], scores)
                         : text_length(m)     ? classify_texts(kd, m, files[i], scores)
                                              : classify(kd, m, &k->framing, files[i], scores, logits);
        failed |= !done;
        if (done && logits) k->images[k->count++] = files[i];
    }
    if (k->count > 0) failed |= !keep_write(k, kd, outputs);
    free(scores);
    kd_model_destroy(m);
    return !failed;
}

int main(int argc, char **argv)
{
    kd_ctx *kd;
    keeping k;
    int done, count;
    memset(&k, 0, sizeof k);
    k.texts = (const char **)images_memory((size_t)argc, sizeof *k.texts);
    count = k.texts ? parse(&k, argc, argv) : -1;
    if (count < 0) {
        fputs(
            "usage: classify MODEL.safetensors|MODEL.onnx [--logits KEPT.npy] [--force] [--resize HOW] [--exif]\n"
            "                IMAGE...\n"
            "       classify MODEL.safetensors [--text TEXT]... [TEXTS.csv|TEXTS.tsv|TEXTS.txt]...\n"
            "Prints the likeliest classes of each image (JPEG, PNG, BMP, PNM), as a model saved by kd.h sees it, "
            "or of "
            "each text: given itself, in the column text of a table, or a line of a .txt file.\n"
            "--logits keeps what it computes, (images, outputs), and the names of the images in KEPT.txt; --force "
            "replaces files.\n"
            "Images of another size are brought to the model's as those that it was trained with, or by --resize: "
            "crop, "
            "stretch, pad, pad=R,G,B, pad=mean, or a number, the pixels of the shorter edge before the middle is "
            "taken. "
            "--exif "
            "turns photos as EXIF says.\n",
            stderr);
        return EXIT_FAILURE;
    }
    if (kd_open(NULL, &kd) != KD_OK) {
        fputs("classify: there is not enough memory\n", stderr);
        return EXIT_FAILURE;
    }
    done = run(kd, &k, argv, count);
    free(k.names);
    free(k.logits);
    free((void *)k.images);
    free((void *)k.texts);
    kd_close(kd);
    return done ? EXIT_SUCCESS : EXIT_FAILURE;
}
