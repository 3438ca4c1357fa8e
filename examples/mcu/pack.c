/* pack: a saved student as C source, a few test images, and what the student says of them.
   Usage: pack STUDENT.safetensors SHEETS OUT        SHEETS: a folder of contact sheets, CLASS.WxH.png
   Writes OUT/net.c, OUT/net.onnx, OUT/pictures.h and OUT/wanted, the bits of the logits as pictures.c prints
   them. */
#define KD_IMPLEMENTATION
#include "../../kd.h"
#include "../images.h"

enum { EACH = 2 }; /* images of a class, the first */

typedef struct packing {
    kd_ctx *kd;
    kd_model *m;
    const char *sheets, *out;
    FILE *pictures, *wanted;
    int c, h, w, count;
} packing;

static FILE *create(const packing *p, const char *name)
{
    char path[1000];
    snprintf(path, sizeof path, "%s/%s", p->out, name);
    return fopen(path, "w");
}

/* One image, (h, w, c). */
static int pack_image(packing *p, const uint8_t *pixels)
{
    const int classes = kd_model_outputs(p->m), size = p->c * p->h * p->w;
    float *logits = (float *)calloc((size_t)classes, sizeof *logits);
    int i, good = logits && kd_predict_u8_hwc(p->m, pixels, 1, logits) == KD_OK;
    fprintf(p->pictures, "{");
    for (i = 0; i < size && good; ++i) fprintf(p->pictures, "%d,%s", pixels[i], i % 28 == 27 ? "\n" : "");
    fprintf(p->pictures, "},\n");
    for (i = 0; i < classes && good; ++i) fprintf(p->wanted, "%08x ", (unsigned)kd__float_bits(logits[i]));
    fprintf(p->wanted, "\n");
    free(logits);
    ++p->count;
    return good;
}

/* The first tiles of the sheet of a class. */
static int pack_class(packing *p, const char *name)
{
    char path[1000];
    const char *why = "";
    images_picture sheet;
    size_t size, line;
    uint8_t *bytes, *tile = (uint8_t *)calloc((size_t)(p->c * p->h * p->w), 1);
    int i, y, good;
    memset(&sheet, 0, sizeof sheet);
    snprintf(path, sizeof path, "%s/%s.%dx%d.png", p->sheets, name, p->w, p->h);
    bytes = images_read(path, &size, &why);
    good = bytes && tile && images_decode(bytes, size, p->c, &sheet, &why) && sheet.w >= EACH * p->w &&
           sheet.h >= p->h;
    line = (size_t)(p->w * p->c);
    for (i = 0; i < EACH && good; ++i) {
        for (y = 0; y < p->h; ++y)
            memcpy(tile + (size_t)y * line, sheet.pixels + (size_t)y * (size_t)(sheet.w * p->c) + (size_t)i * line,
                   line);
        good = pack_image(p, tile);
    }
    if (!good) fprintf(stderr, "pack: %s %s\n", path, why);
    free(sheet.pixels);
    free(bytes);
    free(tile);
    return good;
}

static int pack(packing *p)
{
    char path[1000];
    int i, good = 1;
    kd_model_input(p->m, &p->c, &p->h, &p->w);
    snprintf(path, sizeof path, "%s/net.c", p->out);
    if (kd_model_save_c(p->m, path, NULL) != KD_OK) return 0;
    snprintf(path, sizeof path, "%s/net.onnx", p->out);
    if (kd_model_save_onnx(p->m, path, NULL) != KD_OK) return 0;
    p->pictures = create(p, "pictures.h");
    p->wanted = create(p, "wanted");
    if (!p->pictures || !p->wanted) return 0;
    fprintf(p->pictures, "static const unsigned char pictures[][%d] BOARD_CONST = {\n", p->c * p->h * p->w);
    for (i = 0; i < kd_model_outputs(p->m) && good; ++i) {
        const char *name = kd_model_class(p->m, i);
        good = name && pack_class(p, name);
    }
    fprintf(p->pictures, "};\nenum { PICTURES = %d, PICTURES_EACH = %d };\n", p->count, EACH);
    return (fclose(p->pictures) == 0) & (fclose(p->wanted) == 0) & good;
}

int main(int argc, char **argv)
{
    packing p;
    int good;
    memset(&p, 0, sizeof p);
    if (argc != 4) {
        fputs("usage: pack STUDENT.safetensors SHEETS OUT\n", stderr);
        return 1;
    }
    p.sheets = argv[2], p.out = argv[3];
    good = kd_open(NULL, &p.kd) == KD_OK && kd_model_load(p.kd, argv[1], &p.m) == KD_OK && pack(&p);
    if (!good && p.kd) fprintf(stderr, "pack: %s\n", kd_error(p.kd));
    kd_model_destroy(p.m);
    kd_close(p.kd);
    return !good;
}
