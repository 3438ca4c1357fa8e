/* pack: what a web page needs in one file: the program, the models, and images to try.
   Usage: pack STUDENT TEACHER SAMPLES WASM OUT      TEACHER and SAMPLES may be "": none
   SAMPLES is a folder that distill takes. Writes OUT/packed, which page.html unpacks, and OUT/wanted: of each image
   its class and the bits of the logits of student and teacher, by the portable kernels. */
#define KD_NO_TRAIN
#define KD_IMPLEMENTATION
#include "../../kd.h"
#include "../images.h"
#include "image.h"

enum {
    TEACHER_BITS =
        6, /* binary digits of a teacher's weights, an error of at most 1 in 64: half of 16 in the file */
    SAMPLES_EACH = 4,         /* images of a class, at most */
    SAMPLES_BYTES = 64 * 1024 /* all of them, at most */
};

typedef struct bytes {
    uint8_t *at;
    size_t size;
} bytes;

typedef enum part { WASM, STUDENT, TEACHER, SAMPLES, PARTS } part;

typedef struct packing {
    kd_ctx *kd;
    kd_model *models[2]; /* student and teacher, which may be missing */
    images set;
    bytes parts[PARTS];
    char *out;
    FILE *wanted;
    int c, h, w, classes, taken;
    char why[256]; /* what went wrong, where kd_error does not say it */
} packing;

static int complain(packing *p, const char *path, const char *why)
{
    snprintf(p->why, sizeof p->why, "%.150s %s", path, why);
    return 0;
}

/* ---- models ---------------------------------------------------------------------------------------------- */

static int save_model(packing *p, const kd_model *m, kd_dtype dtype, bytes *to)
{
    if (kd_model_save_memory(m, dtype, NULL, 0, &to->size) != KD_OK) return 0;
    to->at = (uint8_t *)malloc(to->size);
    if (!to->at) return complain(p, "a model", "does not fit in memory");
    return kd_model_save_memory(m, dtype, to->at, to->size, NULL) == KD_OK;
}

/* To TEACHER_BITS binary digits, the nearest. */
static float round_weight(float x)
{
    const int dropped = 24 - TEACHER_BITS;
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    bits = (bits + ((uint32_t)1 << (dropped - 1))) >> dropped << dropped;
    memcpy(&x, &bits, sizeof bits);
    return x;
}

static int round_weights(packing *p, kd_model *m)
{
    kd_tensor_info info;
    int i;
    int64_t j;
    for (i = 0; i < kd_model_tensors(m); ++i) {
        float *values;
        int good;
        if (kd_model_tensor_info(m, i, &info) != KD_OK) return 0;
        if (!info.trained) continue;
        values = (float *)malloc((size_t)info.count * sizeof *values);
        if (!values) return complain(p, "a model", "does not fit in memory");
        good = kd_model_get_tensor(m, info.name, values, info.count) == KD_OK;
        for (j = 0; j < info.count && good; ++j) values[j] = round_weight(values[j]);
        good = good && kd_model_set_tensor(m, info.name, values, info.count) == KD_OK;
        free(values);
        if (!good) return 0;
    }
    return 1;
}

/* Bytes with even numbers, then those with odd ones: of 16-bit floats gzip finds the exponents alike. */
static int part_bytes(packing *p, bytes *b)
{
    uint8_t *to = (uint8_t *)malloc(b->size);
    const size_t half = (b->size + 1) / 2;
    size_t i;
    if (!to) return complain(p, "a model", "does not fit in memory");
    for (i = 0; i < b->size; ++i) to[i % 2 * half + i / 2] = b->at[i];
    free(b->at);
    b->at = to;
    return 1;
}

static int open_model(packing *p, const char *path, kd_model **out)
{
    int c, h, w, i;
    const kd_model *first;
    if (kd_model_load(p->kd, path, out) != KD_OK) return 0;
    first = p->models[0];
    if (!image_shape(*out, &c, &h, &w)) return complain(p, path, "takes no images in grey or colour");
    if (kd_model_outputs(*out) < 2) return complain(p, path, "has a single output, no classes");
    if (*out == first) {
        p->c = c, p->h = h, p->w = w, p->classes = kd_model_outputs(*out);
        return 1;
    }
    if (c != p->c || h != p->h || w != p->w) return complain(p, path, "takes other images than the student");
    if (kd_model_outputs(*out) != p->classes) return complain(p, path, "has other classes than the student");
    for (i = 0; i < p->classes; ++i) {
        const char *a = kd_model_class(first, i), *b = kd_model_class(*out, i);
        if (a && b && strcmp(a, b) != 0)
            return complain(p, path, "has other classes than the student, or another order");
    }
    return 1;
}

static int pack_models(packing *p, const char *student, const char *teacher)
{
    kd_model *m;
    if (!open_model(p, student, &p->models[0]) || !save_model(p, p->models[0], KD_DTYPE_F32, &p->parts[STUDENT]))
        return 0;
    if (!*teacher) return 1;
    if (!open_model(p, teacher, &p->models[1])) return 0;
    m = p->models[1];
    if (kd_model_is_int8(m))
        return save_model(p, m, KD_DTYPE_F32, &p->parts[TEACHER]) && part_bytes(p, &p->parts[TEACHER]);
    return round_weights(p, m) && save_model(p, m, KD_DTYPE_BF16, &p->parts[TEACHER]) &&
           part_bytes(p, &p->parts[TEACHER]);
}

/* ---- images ---------------------------------------------------------------------------------------------- */

/* The class of the model with a name of the set, -1 without one. */
static int class_of(const packing *p, int label)
{
    int i;
    for (i = 0; label >= 0 && i < p->classes; ++i) {
        const char *name = kd_model_class(p->models[0], i);
        if (name && strcmp(name, p->set.class_names[label]) == 0) return i;
    }
    return -1;
}

static int want(packing *p, int class_index, const uint8_t *pixels)
{
    float *logits = (float *)malloc((size_t)p->classes * sizeof *logits);
    int good = logits != NULL, i, j;
    fprintf(p->wanted, "%d", class_index);
    for (i = 0; i < 2 && p->models[i] && good; ++i) {
        good = kd_predict_u8(p->models[i], pixels, 1, logits) == KD_OK;
        for (j = 0; j < p->classes && good; ++j) {
            uint32_t bits;
            memcpy(&bits, &logits[j], sizeof bits);
            fprintf(p->wanted, " %08lx", (unsigned long)bits);
        }
    }
    fprintf(p->wanted, "\n");
    free(logits);
    return good;
}

/* The first test images of every class, as two bytes of the class's number and (c, h, w). */
static int pack_samples(packing *p, const char *folder)
{
    const size_t size = (size_t)p->c * (size_t)p->h * (size_t)p->w, most = SAMPLES_BYTES / (size + 2);
    const int each = (int)KD__MIN((size_t)SAMPLES_EACH, KD__MAX((size_t)1, most / (size_t)p->classes));
    images_options options = images_defaults();
    bytes *to = &p->parts[SAMPLES];
    float mean[KD_MAX_CHANNELS], std[KD_MAX_CHANNELS];
    int i, *taken, good = 1;
    if (!*folder || most == 0 || p->h != p->w) return 1;
    options.size = p->w, options.channels = p->c, options.limit = 5 * SAMPLES_EACH; /* a fifth is for testing */
    if (!images_framing_parse(kd_model_framing(p->models[0]), &options.framing))
        return complain(p, "the student",
                        "says that images are brought to its size in a way that is not known here");
    if (options.framing.by_mean && !kd_model_preprocessing(p->models[0], mean, std))
        return complain(p, "the student", "pads with the mean of its images, which it does not know");
    if (options.framing.by_mean)
        images_framing_mean(&options.framing, mean, kd_model_preprocessing(p->models[0], NULL, NULL));
    if (!images_load(&p->set, folder, &options)) {
        snprintf(p->why, sizeof p->why, "%.200s", p->set.error);
        return 0;
    }
    to->at = (uint8_t *)malloc(most * (size + 2));
    taken = (int *)calloc((size_t)p->classes, sizeof *taken);
    if (!to->at || !taken) good = complain(p, folder, "does not fit in memory");
    for (i = 0; i < p->set.test.count && good && (size_t)p->taken < most; ++i) {
        const int index = class_of(p, p->set.test.labels[i]);
        const uint8_t *pixels = p->set.test.pixels + (size_t)i * size;
        uint8_t *at = to->at + to->size;
        if (index < 0 || taken[index] == each) continue;
        at[0] = (uint8_t)(index & 255), at[1] = (uint8_t)(index >> 8);
        memcpy(at + 2, pixels, size);
        to->size += size + 2;
        ++taken[index], ++p->taken;
        good = want(p, index, pixels);
    }
    free(taken);
    return good;
}

/* ---- files ----------------------------------------------------------------------------------------------- */

static FILE *create(packing *p, const char *name)
{
    char path[1000];
    FILE *f;
    snprintf(path, sizeof path, "%s/%s", p->out, name);
    f = fopen(path, "wb");
    if (!f) complain(p, path, "cannot be written");
    return f;
}

static int write_packed(packing *p)
{
    FILE *f = create(p, "packed");
    int i, good = f != NULL;
    for (i = 0; i < PARTS && good; ++i) {
        const size_t n = p->parts[i].size;
        uint8_t size[4];
        size[0] = (uint8_t)(n & 255), size[1] = (uint8_t)(n >> 8 & 255);
        size[2] = (uint8_t)(n >> 16 & 255), size[3] = (uint8_t)(n >> 24 & 255);
        good = fwrite(size, 1, 4, f) == 4;
    }
    for (i = 0; i < PARTS && good; ++i)
        good = p->parts[i].size == 0 || fwrite(p->parts[i].at, 1, p->parts[i].size, f) == p->parts[i].size;
    if (f && fclose(f) != 0) good = 0;
    return good || *p->why || complain(p, p->out, "cannot be written: is the disk full?");
}

static int pack(packing *p, char **args)
{
    const char *why = "";
    p->out = args[5];
    p->parts[WASM].at = images_read(args[4], &p->parts[WASM].size, &why);
    if (!p->parts[WASM].at) return complain(p, args[4], why);
    if (!pack_models(p, args[1], args[2])) return 0;
    p->wanted = create(p, "wanted");
    if (!p->wanted || !pack_samples(p, args[3])) return 0;
    if (fclose(p->wanted) != 0) return complain(p, p->out, "cannot be written: is the disk full?");
    p->wanted = NULL;
    return write_packed(p);
}

static void report(const packing *p, const char *folder)
{
    printf("student %lu bytes, ", (unsigned long)p->parts[STUDENT].size);
    if (p->models[1]) printf("teacher %lu bytes, ", (unsigned long)p->parts[TEACHER].size);
    if (p->models[1] && !kd_model_is_int8(p->models[1]))
        printf("its weights rounded to %d binary digits, ", TEACHER_BITS);
    printf("%d images to try\n", p->taken);
    if (p->set.class_count && !p->taken)
        printf("note: no class of %s has the name of one of the student's\n", folder);
}

int main(int argc, char **argv)
{
    packing p;
    kd_ctx_desc desc = kd_ctx_defaults();
    int i, good;
    memset(&p, 0, sizeof p);
    if (argc != 6) {
        fputs("usage: pack STUDENT TEACHER SAMPLES WASM OUT\n", stderr);
        return 1;
    }
    desc.isa = KD_ISA_SCALAR; /* what WebAssembly gives, bit for bit */
    good = kd_open(&desc, &p.kd) == KD_OK && pack(&p, argv);
    if (!good) fprintf(stderr, "pack: %s\n", *p.why || !p.kd ? p.why : kd_error(p.kd));
    if (good) report(&p, argv[3]);
    if (p.wanted) fclose(p.wanted);
    for (i = 0; i < PARTS; ++i) free(p.parts[i].at);
    images_free(&p.set);
    for (i = 0; i < 2; ++i) kd_model_destroy(p.models[i]);
    kd_close(p.kd);
    return !good;
}
