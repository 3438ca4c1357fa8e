/* export.c - a saved student as a file for other programs, in the format that the name of the file asks for.

       cc -O2 -o export examples/export.c -lm
       ./export out/student.safetensors student.onnx
       ./export out/student.safetensors student-half.safetensors --f16

   FORMATS has a line for each: a new one is a function here and a line there. */
#define KD_IMPLEMENTATION
#include "../kd.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

typedef struct options {
    const char *from, *to;
    kd_dtype dtype;    /* --f16, --bf16 */
    kd_onnx_desc onnx; /* --u8, --u8-hwc, --softmax */
    int force;
} options;

typedef kd_result (*export_fn)(const kd_model *m, const options *o);

static kd_result export_safetensors(const kd_model *m, const options *o)
{
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
    X(".safetensors", "weights under PyTorch's names, and all that kd.h needs", "--f16 --bf16",                    \
      export_safetensors, NULL)                                                                                    \
    X(".onnx", "ONNX, for ONNX Runtime and others", "--u8 --u8-hwc --softmax", export_onnx, "kd.h")                \
    X(".c", "C99 that needs nothing else, for microcontrollers and the like", "", export_c, "a network that kd.h ")

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
          "  --u8           the input is pixels of 0 to 255 in planes, (N, channels,\n"
          "                 height, width), and the file scales and normalises them\n"
          "  --u8-hwc       the same, (N, height, width, channels); of a text both mean\n"
          "                 its bytes instead of ids\n"
          "  --softmax      the output is probabilities\n"
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

/* What one word of the command line sets; 0 if there is no such option. */
static int set_option(options *o, const char *word)
{
    if (strcmp(word, "--f16") == 0)
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
        if (argv[i][0] == '-') continue;
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
        if (argv[i][0] != '-') continue;
        if (!set_option(o, argv[i])) {
            fprintf(stderr, "export: there is no option \"%s\"; `export --help` says what there is\n", argv[i]);
            return NULL;
        }
        if (!takes(f, argv[i]) && strcmp(argv[i], "--force") != 0) {
            fprintf(stderr, "export: %s is no option of %s, which takes %s\n", argv[i], f->ending,
                    *f->takes ? f->takes : "none");
            return NULL;
        }
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
    if (result == KD_OK) result = f->export_as(m, o);
    kd_model_destroy(m);
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
