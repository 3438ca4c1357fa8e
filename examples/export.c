/* export.c - a saved student as a file for other programs, in the format that the name of the file asks for.

       cc -O2 -o export examples/export.c -lm
       ./export out/student.safetensors student.onnx
       ./export out/student.safetensors student-half.safetensors --f16
       ./export out/student.safetensors student.onnx --int8 --images photos

   FORMATS has a line for each: a new one is a function here and a line there. Only --int8 needs stb, for its images
   (apt-get install libstb-dev): without it the program is compiled without that. */
#define KD_IMPLEMENTATION
#include "../kd.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#if defined(__has_include)
#if __has_include(<stb/stb_image.h>) || __has_include("stb_image.h")
#define EXPORT_IMAGES
#include "images.h"
#include "texts.h"
#endif
#endif
#include "web/image.h"

typedef struct options {
    const char *from, *to;
    kd_dtype dtype;     /* --f16, --bf16 */
    kd_onnx_desc onnx;  /* --u8, --u8-hwc, --softmax */
    const char *images; /* --images; NULL: none */
    int names;          /* --names, a kd_names; -1: the model's own, KD_NAMES_COUNT: a word that is none */
    int int8, weight_limit, force;
} options;

typedef kd_result (*export_fn)(const kd_model *m, const options *o);

static kd_result export_safetensors(const kd_model *m, const options *o)
{
    if (o->names >= 0) return kd_model_save_names(m, o->to, (kd_names)o->names, o->dtype);
    return kd_model_save_as(m, o->to, o->dtype);
}

static kd_result export_onnx(const kd_model *m, const options *o) { return kd_model_save_onnx(m, o->to, &o->onnx); }

/* Names in the file begin with its own, as far as C lets them. */
static kd_result export_c(const kd_model *m, const options *o)
{
    const char *name = strrchr(o->to, '/');
    kd_c_desc desc = kd_c_defaults();
    char prefix[41];
    size_t i;
    name = name ? name + 1 : o->to;
    for (i = 0; i < sizeof prefix - 1 && name[i] && name[i] != '.'; ++i) {
        const char c = name[i];
        const int digit = c >= '0' && c <= '9', letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
        prefix[i] = (char)(letter || (digit && i > 0) ? c : '_');
    }
    prefix[i] = 0;
    desc.prefix = prefix;
    return kd_model_save_c(m, o->to, &desc);
}

/* ending of the name, what it is, options that it takes, function, what a file of its making has near its
   beginning: such a one may be replaced, others need --force (and a saved model always: it may be the only one) */
#define FORMATS(X)                                                                                                 \
    X(".safetensors", "weights under PyTorch's names, and all that kd.h needs", "--f16 --bf16 --int8 --names",     \
      export_safetensors, NULL)                                                                                    \
    X(".onnx", "ONNX, for ONNX Runtime and others", "--u8 --u8-hwc --softmax --int8", export_onnx, "kd.h")         \
    X(".c", "C99 that needs nothing else, for microcontrollers and the like", "--int8", export_c,                  \
      "a network that kd.h ")

typedef struct format {
    const char *ending, *what, *takes;
    export_fn export_as;
    const char *mark;
} format;

static const format formats[] = {
#define ITEM(ending, what, takes, function, mark) {ending, what, takes, function, mark},
    FORMATS(ITEM)
#undef ITEM
};
enum { FORMAT_COUNT = (int)(sizeof formats / sizeof *formats) };

static const format *format_of(const char *path)
{
    const size_t length = strlen(path);
    int i;
    for (i = 0; i < FORMAT_COUNT; ++i) {
        const size_t ending = strlen(formats[i].ending);
        if (length > ending && strcmp(path + length - ending, formats[i].ending) == 0) return &formats[i];
    }
    return NULL;
}

static void print_help(FILE *out)
{
    int i;
    fputs("usage: export MODEL.safetensors FILE [options]\n"
          "Writes a model saved by kd.h in the format that FILE ends in:\n\n",
          out);
    for (i = 0; i < FORMAT_COUNT; ++i)
        fprintf(out, "  %-12s  %s\n%s%s%s", formats[i].ending, formats[i].what,
                *formats[i].takes ? "                " : "", formats[i].takes, *formats[i].takes ? "\n" : "");
    fputs("\n  --f16, --bf16  round trained numbers to halves\n"
          "  --names WORD   weights alone, under the names of another library's\n"
          "                 Transformer: timm, torchvision, encoder (torch.nn's), vit,\n"
          "                 deit, bert or distilbert (Hugging Face's)\n"
          "  --u8           the input is pixels of 0 to 255 in planes, (N, channels,\n"
          "                 height, width), and the file scales and normalises them\n"
          "  --u8-hwc       the same, (N, height, width, channels); of a text both mean\n"
          "                 its bytes instead of ids\n"
          "  --softmax      the output is probabilities\n"
          "  --int8         a model in float becomes one in int8, whose ranges follow\n"
          "                 from --images\n"
          "  --images DATA  a folder with some of the images that it was trained on, in\n"
          "                 folders by class or not, or with IDX files; of a model of\n"
          "                 texts their table, as distill takes them\n"
          "  --weight-limit N  with --int8, weights are -N to N (127): 64 for ONNX\n"
          "                 Runtime on x86 without VNNI, which saturates\n"
          "  --force        replace a file that is not of export's making, or a saved model\n"
          "\nA file is replaced once the new one is complete.\n",
          out);
}

/* Whether the format takes an option of that name. */
static int takes(const format *f, const char *name)
{
    const size_t length = strlen(name);
    const char *at = strstr(f->takes, name);
    return at && (at[length] == ' ' || at[length] == 0);
}

/* 1 to 127, or 0 */
static int limit_of(const char *word)
{
    char *end;
    const long n = strtol(word, &end, 10);
    return *word && !*end && n > 0 && n <= 127 ? (int)n : 0;
}

static int names_of(const char *word)
{
    int i = 0;
    while (i < KD_NAMES_COUNT && strcmp(kd_names_name((kd_names)i), word) != 0) ++i;
    return i;
}

/* Whether a word is followed by a value. */
static int has_value(const char *word)
{
    return strcmp(word, "--images") == 0 || strcmp(word, "--weight-limit") == 0 || strcmp(word, "--names") == 0;
}

/* What one word of the command line, and its value, if it has one, set; 0 if there is no such option. */
static int set_option(options *o, const char *word, const char *value)
{
    if (strcmp(word, "--int8") == 0)
        o->int8 = 1;
    else if (strcmp(word, "--images") == 0)
        o->images = value;
    else if (strcmp(word, "--weight-limit") == 0)
        o->weight_limit = limit_of(value);
    else if (strcmp(word, "--names") == 0)
        o->names = names_of(value);
    else if (strcmp(word, "--f16") == 0)
        o->dtype = KD_DTYPE_F16;
    else if (strcmp(word, "--bf16") == 0)
        o->dtype = KD_DTYPE_BF16;
    else if (strcmp(word, "--u8") == 0)
        o->onnx.input = KD_ONNX_U8;
    else if (strcmp(word, "--u8-hwc") == 0)
        o->onnx.input = KD_ONNX_U8_HWC;
    else if (strcmp(word, "--softmax") == 0)
        o->onnx.softmax = 1;
    else if (strcmp(word, "--force") == 0)
        o->force = 1;
    else
        return 0;
    return 1;
}

/* Options may stand anywhere. NULL and a sentence on stderr if the line cannot be followed. */
static const format *parse(options *o, int argc, char **argv)
{
    const format *f;
    int i;
    for (i = 1; i < argc; ++i) {
        if (argv[i][0] == '-') {
            if (has_value(argv[i]) && ++i == argc) {
                fprintf(stderr, "export: %s needs a value\n", argv[i - 1]);
                return NULL;
            }
            continue;
        }
        if (o->to) {
            fprintf(stderr, "export: \"%s\" follows the two files; `export --help` says what there is\n", argv[i]);
            return NULL;
        }
        *(o->from ? &o->to : &o->from) = argv[i];
    }
    if (!o->to) {
        print_help(stderr);
        return NULL;
    }
    f = format_of(o->to);
    if (!f) {
        fprintf(stderr, "export: \"%s\" ends in no format that there is:", o->to);
        for (i = 0; i < FORMAT_COUNT; ++i) fprintf(stderr, " %s", formats[i].ending);
        fputs("\n", stderr);
        return NULL;
    }
    for (i = 1; i < argc; ++i) {
        const char *word = argv[i], *value = has_value(word) ? argv[++i] : "";
        if (word[0] != '-') continue;
        if (!set_option(o, word, value)) {
            fprintf(stderr, "export: there is no option \"%s\"; `export --help` says what there is\n", word);
            return NULL;
        }
        if (!takes(f, word) && strcmp(word, "--force") != 0 && (!has_value(word) || strcmp(word, "--names") == 0)) {
            fprintf(stderr, "export: %s is no option of %s, which takes %s\n", word, f->ending, f->takes);
            return NULL;
        }
        if (o->names == KD_NAMES_COUNT) {
            fprintf(stderr, "export: --names is one of");
            for (o->names = 0; o->names < KD_NAMES_COUNT; ++o->names)
                fprintf(stderr, "%s %s", o->names ? "," : "", kd_names_name((kd_names)o->names));
            fprintf(stderr, "; got \"%s\"\n", value);
            return NULL;
        }
        if (!o->weight_limit) {
            fprintf(stderr, "export: --weight-limit must be 1 to 127, got \"%s\"\n", value);
            return NULL;
        }
    }
    if (!o->int8 && (o->images || o->weight_limit != 127)) {
        fprintf(stderr, "export: %s goes with --int8\n", o->images ? "--images" : "--weight-limit");
        return NULL;
    }
    return f;
}

/* Whether two names are one file. Where files have no numbers (Windows), the names tell. */
static int same_file(const char *a, const char *b)
{
    struct stat x, y;
    if (strcmp(a, b) == 0) return 1;
    return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_ino != 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

/* Whether a file is not there, or begins as those do that export writes in this format. */
static int may_replace(const char *path, const format *f)
{
    char first[256];
    const size_t length = f->mark ? strlen(f->mark) : 0;
    size_t size, i = 0;
    FILE *file = fopen(path, "rb");
    if (!file) return 1; /* if it cannot be written either, that is said when it is tried */
    size = fread(first, 1, sizeof first, file);
    fclose(file);
    while (f->mark && i + length <= size && memcmp(first + i, f->mark, length) != 0) ++i;
    return f->mark && i + length <= size;
}

/* ---- int8 ------------------------------------------------------------------------------------------------- */

#if defined(EXPORT_IMAGES)

enum { LOOKED_AT = 1024 }; /* images, about */

static int load_texts(const kd_model *m, const char *path, images *s)
{
    texts_options o = texts_defaults();
    int h, w;
    kd_model_input(m, &o.length, &h, &w);
    o.limit = LOOKED_AT / kd_model_outputs(m) + 1;
    return texts_load(s, path, &o);
}

/* As distill would have them, with classes; else whatever images there are. */
static int load_images(const kd_model *m, const char *folder, images *s, images_set **found)
{
    images_options o = images_defaults();
    float mean[KD_MAX_CHANNELS], std[KD_MAX_CHANNELS];
    int c, h, w;
    memset(s, 0, sizeof *s);
    if (!image_shape(m, &c, &h, &w)) return images_fail(s, "the model takes %dx%dx%d, which is no image", c, h, w);
    if (!images_framing_parse(kd_model_framing(m), &o.framing))
        return images_fail(
            s, "the model says that its images were brought to their size by \"%s\", which is not known",
            kd_model_framing(m));
    if (!*kd_model_framing(m) && h != w) o.framing.way = IMAGES_STRETCH;
    if (o.framing.by_mean && !kd_model_preprocessing(m, mean, std))
        return images_fail(
            s, "pad=mean is the colour of the mean of the model's images, which the model does not know");
    if (o.framing.by_mean) images_framing_mean(&o.framing, mean, kd_model_preprocessing(m, NULL, NULL));
    o.channels = c;
    o.size = h, o.width = w;
    o.limit = LOOKED_AT / kd_model_outputs(m) + 1;
    *found = &s->train;
    if (images_load(s, folder, &o) && s->height == h && s->width == w) return 1;
    images_free(s);
    s->channels = c, s->height = h, s->width = w, s->sized = 1;
    s->framing = o.framing;
    o.unlabelled_files = LOOKED_AT;
    *found = &s->unlabelled;
    return images_load_unlabelled(s, folder, &o);
}

/* The images as the model was trained on them. 0 after a complaint; to be freed either way. */
static int load_data(const kd_model *m, const char *path, images *s, kd_data *data)
{
    const int texts = strncmp(kd_model_spec(m), "tokens ", 7) == 0;
    images_set *found = &s->train;
    if (!(texts ? load_texts(m, path, s) : load_images(m, path, s, &found))) {
        fprintf(stderr, "export: %s\n", s->error);
        return 0;
    }
    if (texts)
        *data = kd_data_text(found->pixels, NULL, found->count, s->channels, kd_model_outputs(m));
    else
        *data =
            kd_data_u8(found->pixels, NULL, found->count, s->channels, s->height, s->width, kd_model_outputs(m));
    (void)kd_model_preprocessing(m, data->mean, data->std);
    printf("%d %s of %s say what the numbers in the network are like\n",
           found->count < LOOKED_AT ? found->count : LOOKED_AT, texts ? "texts" : "images", path);
    return 1;
}

static kd_result quantize(const options *o, const kd_quantize_desc *desc, kd_model *m, kd_model **out)
{
    images s;
    kd_data data;
    kd_result result = KD_STOPPED; /* and it has been said why */
    memset(&s, 0, sizeof s);
    if (load_data(m, o->images, &s, &data)) result = kd_model_quantize(m, &data, desc, out);
    images_free(&s);
    return result;
}

#else

static kd_result quantize(const options *o, const kd_quantize_desc *desc, kd_model *m, kd_model **out)
{
    (void)desc, (void)m, (void)out;
    fprintf(stderr, "export: %s cannot be read: export was compiled without stb_image.h\n", o->images);
    return KD_STOPPED;
}

#endif

/* What --int8 has to be given with, for what the model reads. */
static void ask_for_data(const kd_model *m)
{
    static const char needs[] = "export: --int8 needs to see what the numbers in the network are like: ";
    int c, h, w;
    kd_model_input(m, &c, &h, &w);
    if (strncmp(kd_model_spec(m), "tokens ", 7) == 0)
        fprintf(stderr, "%sgive some of the texts that it was trained on, --images FOLDER or --images TEXTS.csv\n",
                needs);
    else if (image_shape(m, &c, &h, &w))
        fprintf(stderr, "%sgive a folder with some of the images that it was trained on, --images FOLDER\n", needs);
    else
        fprintf(stderr,
                "%sthe model reads vectors of %d, which no file that export reads has; train it for int8 (distill "
                "--int8), or call kd_model_quantize with such vectors\n",
                needs, c * h * w);
}

/* The model in int8 in place of the one in float. A model that was trained with rounding needs no images. */
static kd_result make_int8(const options *o, kd_model **m)
{
    kd_quantize_desc desc = kd_quantize_defaults();
    kd_model *made = NULL;
    kd_result result;
    desc.weight_limit = o->weight_limit;
    if (kd_model_is_int8(*m)) {
        fprintf(stderr, "export: %s is in int8 already; leave out --int8\n", o->from);
        return KD_STOPPED;
    }
    result = o->images ? quantize(o, &desc, *m, &made) : kd_model_quantize(*m, NULL, &desc, &made);
    if (result == KD_ERR_ARGUMENT && !o->images) {
        ask_for_data(*m);
        return KD_STOPPED;
    }
    if (result != KD_OK) return result;
    kd_model_destroy(*m);
    *m = made;
    return KD_OK;
}

static int run(kd_ctx *kd, const options *o, const format *f)
{
    kd_model *m = NULL;
    struct stat info;
    kd_result result;
    if (same_file(o->from, o->to)) {
        fprintf(stderr, "export: %s is read, and cannot be replaced by what is made of it\n", o->from);
        return 0;
    }
    if (!o->force && !may_replace(o->to, f)) {
        fprintf(stderr, "export: %s is there%s; give another name, or --force to replace it\n", o->to,
                f->mark ? ", and not of export's making" : "");
        return 0;
    }
    result = kd_model_load(kd, o->from, &m);
    if (result == KD_OK && o->int8) result = make_int8(o, &m);
    if (result == KD_OK) result = f->export_as(m, o);
    kd_model_destroy(m);
    if (result == KD_STOPPED) return 0;
    if (result != KD_OK) {
        fprintf(stderr, "export: %s\n", kd_error(kd));
        return 0;
    }
    if (stat(o->to, &info) == 0) printf("%s  %lld bytes\n", o->to, (long long)info.st_size);
    return 1;
}

int main(int argc, char **argv)
{
    kd_ctx *kd;
    options o;
    const format *f;
    int i, done;
    memset(&o, 0, sizeof o);
    o.onnx = kd_onnx_defaults();
    o.weight_limit = 127;
    o.names = -1;
    for (i = 1; i < argc; ++i) {
        if (strcmp(argv[i], "--help") != 0 && strcmp(argv[i], "-h") != 0) continue;
        print_help(stdout);
        return EXIT_SUCCESS;
    }
    f = parse(&o, argc, argv);
    if (!f) return EXIT_FAILURE;
    if (kd_open(NULL, &kd) != KD_OK) {
        fputs("export: there is not enough memory\n", stderr);
        return EXIT_FAILURE;
    }
    done = run(kd, &o, f);
    kd_close(kd);
    return done ? EXIT_SUCCESS : EXIT_FAILURE;
}
