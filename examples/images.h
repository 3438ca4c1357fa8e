/* images.h - image sets for the examples: folders, contact sheets and IDX files, decoded by stb_image
   Not part of kd.h. Include it in one source file.

   images_load() understands three ways to keep labelled images:
     folders    train/<class>/<name>.jpg and test/<class>/<name>.jpg, or only <class>/<name>.jpg, which are then
                split. The test folder may also be called val or valid; the first that is there counts.
                Classes are the names of the folders in byte order, as in torchvision's ImageFolder; folders
                inside are read too.
     sheets     an image whose name ends in .<width>x<height>.png holds tiles of that size, left to right and top to
                bottom: train/<class>.28x28.png, or anywhere inside a class folder
     IDX        a folder with train-images-idx3-ubyte and its three companions, each of them also as .gz; a file
                classes.txt beside them may name the classes, one a line
   Decoded are JPEG, PNG, BMP and PNM. Everything is checked before memory is asked for, a file that cannot be
   decoded is skipped, counted and listed, and too many of them are an error. */
#ifndef IMAGES_H
#define IMAGES_H

#include <ctype.h>
#include <dirent.h>
#include <math.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* Formats with open memory bugs in stb_image are left out, its reading of files is not used, and its assertions,
   which data can reach, are errors in our eyes and not a reason to end the program. */
#define STBI_ONLY_JPEG
#define STBI_ONLY_PNG
#define STBI_ONLY_BMP
#define STBI_ONLY_PNM
#define STBI_NO_STDIO
#define STBI_NO_HDR
#define STBI_NO_GIF
#define STBI_NO_LINEAR
#define STBI_MAX_DIMENSIONS (1 << 16)
#define STBI_ASSERT(x) ((void)0)
/* A JPEG may leave out the tables that its decoder then reads: those are zeros, not what was in memory before. */
#define STBI_MALLOC(size) calloc(1, size)
#define STBI_REALLOC(block, size) realloc(block, size)
#define STBI_FREE(block) free(block)
/* Its functions stay in this file: the program may have an stb_image of its own, with other formats. */
#define STB_IMAGE_STATIC
#if defined(__GNUC__)
#define STBIDEF static __attribute__((unused))
#endif
#if defined(__GNUC__) && !defined(__clang__) /* of functions that it leaves out; gcc asks at the very end */
#pragma GCC diagnostic ignored "-Wunused-function"
#endif
#define STB_IMAGE_IMPLEMENTATION
#if defined(__has_include)
#if __has_include(<stb/stb_image.h>)
#include <stb/stb_image.h>
#else
#include "stb_image.h"
#endif
#else
#include <stb/stb_image.h>
#endif

#if defined(__GNUC__)
#define IMAGES_PUBLIC __attribute__((unused)) /* a program need not use all of it */
#else
#define IMAGES_PUBLIC
#endif

enum {
    IMAGES_MAX_PIXELS = 89478485, /* of one file; above it Pillow warns of a decompression bomb */
    IMAGES_MAX_FILE = 1 << 28,    /* bytes of one file */
    IMAGES_MAX_CLASSES = 4096,
    IMAGES_MAX_DEPTH = 16, /* folders inside a class */
    IMAGES_LISTED = 20     /* skipped files kept for the report */
};

typedef struct images_options {
    int size;           /* side in pixels; 0: as the images are, if all are alike */
    int channels;       /* 1, 3, or 0: 1 if every image is grey, else 3 */
    double test_share;  /* of each class, where there is no test folder; 0.2 */
    double max_skipped; /* share of files that may be unreadable; 0.01 */
    int limit;          /* images a class and split; 0: all */
    uint64_t seed;      /* of the split */
} images_options;

/* Where an image came from. Sorted by it, images have the order in which they were read. */
typedef struct images_origin {
    int32_t file, place; /* number of its file among images.paths; which in there, -1 for a single picture */
} images_origin;

typedef struct images_set {
    uint8_t *pixels; /* (count, channels, height, width) */
    int32_t *labels;
    images_origin *origin;
    int count;
} images_set;

typedef struct images {
    images_set train, test;
    int channels, height, width, class_count;
    char **class_names;
    char **paths; /* of the files, below the folder that was loaded */
    int path_count;
    /* what a careful person would want to know */
    int files, skipped, unsupported, rotated, sixteen_bit, four_channel_jpeg, resized;
    char listed[IMAGES_LISTED][512]; /* skipped files, and why */
    char error[1024];
} images;

static images_options images_defaults(void)
{
    images_options o = {0, 0, 0.2, 0.01, 0, 1};
    return o;
}

/* ---- bytes ----------------------------------------------------------------------------------------------- */

static int images_fail(images *s, const char *format, ...)
#if defined(__GNUC__)
    __attribute__((format(printf, 2, 3)))
#endif
    ;

static int images_fail(images *s, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(s->error, sizeof s->error, format, args);
    va_end(args);
    return 0;
}

/* Bytes of the UTF-8 sequence that a text begins with, 0 if it begins with none. */
static int images_utf8(const char *text)
{
    static const uint32_t least[] = {0, 0x80, 0x800, 0x10000};
    const unsigned char *c = (const unsigned char *)text;
    const int more = c[0] < 0x80 ? 0 : c[0] < 0xc0 ? -1 : c[0] < 0xe0 ? 1 : c[0] < 0xf0 ? 2 : c[0] < 0xf8 ? 3 : -1;
    uint32_t code = c[0] & 0x7fu >> (more > 0 ? more + 1 : 0);
    int i;
    for (i = 1; i <= more; ++i) {
        if ((c[i] & 0xc0) != 0x80) return 0;
        code = code << 6 | (c[i] & 0x3fu);
    }
    if (more < 0 || code < least[more] || code > 0x10ffff || (code >= 0xd800 && code < 0xe000)) return 0;
    return more + 1;
}

/* As %g has it, with a point whatever separates decimals in the locale. */
typedef struct images_number {
    char chars[32];
} images_number;

static images_number images_number_of(double value)
{
    images_number n;
    char *to = n.chars;
    const char *from = n.chars;
    snprintf(n.chars, sizeof n.chars, "%g", value);
    for (; *from; ++from) {
        if (strchr("0123456789+-einfa", *from))
            *to++ = *from;
        else if (to == n.chars || to[-1] != '.') /* one for a separator of several bytes */
            *to++ = '.';
    }
    *to = '\0';
    return n;
}

static void *images_memory(size_t count, size_t item)
{
    return count && item > SIZE_MAX / count ? NULL : calloc(count ? count : 1, item);
}

/* The whole file, or NULL and a reason. */
static uint8_t *images_read(const char *path, size_t *size, const char **why)
{
    FILE *file;
    uint8_t *bytes = NULL;
    long length = -1;
    struct stat info;
    *why = "cannot be opened";
    if (stat(path, &info) != 0) return NULL;
    *why = "is no regular file"; /* opening a pipe would wait for somebody to write to it */
    if (!S_ISREG(info.st_mode)) return NULL;
    *why = "cannot be opened";
    file = fopen(path, "rb");
    if (!file) return NULL;
    if (fseek(file, 0, SEEK_END) == 0) length = ftell(file);
    if (length < 0 || fseek(file, 0, SEEK_SET) != 0) {
        *why = "cannot be read";
    } else if (length == 0) {
        *why = "is empty";
    } else if (length > IMAGES_MAX_FILE) {
        *why = "is larger than 256 MB";
    } else {
        bytes = (uint8_t *)images_memory((size_t)length, 1);
        *why = bytes ? "cannot be read" : "does not fit in memory";
        if (bytes && fread(bytes, 1, (size_t)length, file) != (size_t)length) {
            free(bytes);
            bytes = NULL;
        }
        *size = (size_t)length;
    }
    fclose(file);
    return bytes;
}

static uint32_t images_be32(const uint8_t *b)
{
    return (uint32_t)b[0] << 24 | (uint32_t)b[1] << 16 | (uint32_t)b[2] << 8 | b[3];
}

static uint32_t images_le32(const uint8_t *b)
{
    return (uint32_t)b[3] << 24 | (uint32_t)b[2] << 16 | (uint32_t)b[1] << 8 | b[0];
}

/* The CRC-32 of PNG and gzip, four bits at a time. */
static uint32_t images_crc(const uint8_t *bytes, size_t size)
{
    static const uint32_t table[16] = {0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac, 0x76dc4190, 0x6b6b51f4,
                                       0x4db26158, 0x5005713c, 0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c,
                                       0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c};
    uint32_t crc = 0xffffffffu;
    size_t i;
    for (i = 0; i < size; ++i) {
        crc = table[(crc ^ bytes[i]) & 15u] ^ crc >> 4;
        crc = table[(crc ^ (uint32_t)bytes[i] >> 4) & 15u] ^ crc >> 4;
    }
    return ~crc;
}

static uint64_t images_hash(uint64_t x)
{
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* ---- resizing, as Pillow does it ------------------------------------------------------------------------- */

/* Pillow's BILINEAR for 8-bit images, bit for bit: a triangle as wide as the reduction, weights as fractions of
   2^22, first along lines, then along columns, rounded to 8 bits after each. */
typedef struct images_weights {
    int *first, *count, *weight; /* weight: taps each */
    int taps;
} images_weights;

static void images_weights_free(images_weights *w)
{
    free(w->first);
    free(w->count);
    free(w->weight);
}

/* To be freed whatever is returned. */
static int images_weights_make(images_weights *w, int in, int out)
{
    const double scale = (double)in / out, wide = scale < 1 ? 1 : scale;
    double *k;
    int x, i;
    w->taps = (int)ceil(wide) * 2 + 1;
    w->first = (int *)images_memory((size_t)out, sizeof(int));
    w->count = (int *)images_memory((size_t)out, sizeof(int));
    w->weight = (int *)images_memory((size_t)out * (size_t)w->taps, sizeof(int));
    k = (double *)images_memory((size_t)w->taps, sizeof(double));
    if (!w->first || !w->count || !w->weight || !k) {
        free(k);
        return 0;
    }
    for (x = 0; x < out; ++x) {
        const double center = (x + 0.5) * scale;
        int first = (int)(center - wide + 0.5), end = (int)(center + wide + 0.5);
        double sum = 0;
        if (first < 0) first = 0;
        if (end > in) end = in;
        for (i = 0; i < end - first; ++i) {
            const double distance = fabs((i + first - center + 0.5) * (1.0 / wide));
            k[i] = distance < 1 ? 1 - distance : 0;
            sum += k[i];
        }
        for (i = 0; i < end - first; ++i) {
            if (sum != 0) k[i] /= sum;
            w->weight[(size_t)x * (size_t)w->taps + (size_t)i] = (int)(0.5 + k[i] * (1 << 22));
        }
        w->first[x] = first;
        w->count[x] = end - first;
    }
    free(k);
    return 1;
}

/* One number from `count` numbers `step` apart. */
static uint8_t images_weigh(const uint8_t *from, size_t step, const int *weight, int count)
{
    int sum = 1 << 21, i;
    for (i = 0; i < count; ++i) sum += from[(size_t)i * step] * weight[i];
    sum >>= 22;
    return (uint8_t)(sum < 0 ? 0 : sum > 255 ? 255 : sum);
}

/* (height, width, channels) to (to_h, to_w, channels); a new buffer, or NULL without memory. */
static uint8_t *images_resize(const uint8_t *from, int w, int h, int channels, int to_w, int to_h)
{
    const size_t c = (size_t)channels;
    uint8_t *middle = (uint8_t *)images_memory((size_t)to_w * (size_t)h, c);
    uint8_t *to = (uint8_t *)images_memory((size_t)to_w * (size_t)to_h, c);
    images_weights across = {0}, down = {0};
    int x, y, i, ok = middle && to;
    ok = ok && images_weights_make(&across, w, to_w);
    ok = ok && images_weights_make(&down, h, to_h);
    for (y = 0; ok && y < h; ++y) {
        for (x = 0; x < to_w; ++x) {
            for (i = 0; i < channels; ++i) {
                const uint8_t *line = from + (size_t)y * (size_t)w * c + (size_t)i;
                middle[((size_t)y * (size_t)to_w + (size_t)x) * c + (size_t)i] =
                    w == to_w ? line[(size_t)x * c]
                              : images_weigh(line + (size_t)across.first[x] * c, c,
                                             across.weight + (size_t)x * (size_t)across.taps, across.count[x]);
            }
        }
    }
    for (y = 0; ok && y < to_h; ++y) {
        for (x = 0; x < to_w; ++x) {
            for (i = 0; i < channels; ++i) {
                const size_t line = (size_t)to_w * c, at = (size_t)x * c + (size_t)i;
                to[(size_t)y * line + at] =
                    h == to_h ? middle[(size_t)y * line + at]
                              : images_weigh(middle + (size_t)down.first[y] * line + at, line,
                                             down.weight + (size_t)y * (size_t)down.taps, down.count[y]);
            }
        }
    }
    images_weights_free(&across);
    images_weights_free(&down);
    free(middle);
    if (ok) return to;
    free(to);
    return NULL;
}

/* ---- one file -------------------------------------------------------------------------------------------- */

typedef struct images_picture {
    uint8_t *pixels; /* (h, w, channels), channels 1 or 3 */
    int w, h, channels;
    int sixteen_bit, four_channel_jpeg, rotated;
} images_picture;

/* Components and orientation of a JPEG, from one of its segments. */
static void images_jpeg_facts(images_picture *p, int marker, const uint8_t *body, size_t length)
{
    if (marker >= 0xc0 && marker <= 0xcf && marker != 0xc4 && marker != 0xc8 && marker != 0xcc && length >= 6)
        p->four_channel_jpeg = body[5] == 4;
    if (marker == 0xe1 && length >= 20 && memcmp(body, "Exif\0\0", 6) == 0) {
        const int little = body[6] == 'I';
        const size_t end = length - 6; /* bytes of the TIFF part */
        const uint8_t *tiff = body + 6;
        const size_t entry =
            little ? (size_t)tiff[4] | (size_t)tiff[5] << 8 : (size_t)tiff[7] | (size_t)tiff[6] << 8;
        size_t count, i;
        if (entry + 2 > end) return;
        count = little ? (size_t)tiff[entry] | (size_t)tiff[entry + 1] << 8
                       : (size_t)tiff[entry + 1] | (size_t)tiff[entry] << 8;
        for (i = 0; i < count && entry + 2 + 12 * (i + 1) <= end; ++i) {
            const uint8_t *e = tiff + entry + 2 + 12 * i;
            const int tag = little ? e[0] | e[1] << 8 : e[1] | e[0] << 8;
            if (tag == 0x0112) p->rotated = (little ? e[8] : e[9]) > 1;
        }
    }
}

/* Huffman tables with no more codes than the decoder has room for. */
static int images_jpeg_tables_fit(const uint8_t *body, size_t length)
{
    while (length > 0) {
        size_t codes = 0, i;
        if (length < 17) return 0;
        for (i = 1; i <= 16; ++i) codes += body[i];
        if (codes > 256 || codes > length - 17) return 0;
        body += 17 + codes;
        length -= 17 + codes;
    }
    return 1;
}

/* From marker to marker to the end marker; the one of a thumbnail, inside a segment, is not it. */
static int images_jpeg_is_whole(const uint8_t *bytes, size_t size, images_picture *p)
{
    size_t at = 2, length;
    int scans = 0;
    for (;;) {
        int marker;
        while (at < size && bytes[at] != 0xff) ++at;
        while (at < size && bytes[at] == 0xff) ++at;
        if (at == size) return 0;
        marker = bytes[at++];
        if (marker == 0xd9) return scans > 0;
        if (marker <= 0x01 || (marker >= 0xd0 && marker <= 0xd8)) continue; /* no segment follows */
        if (size - at < 2) return 0;
        length = (size_t)bytes[at] << 8 | bytes[at + 1];
        if (length < 2 || length > size - at) return 0;
        if (marker == 0xc4 && !images_jpeg_tables_fit(bytes + at + 2, length - 2)) return 0;
        images_jpeg_facts(p, marker, bytes + at + 2, length - 2);
        scans += marker == 0xda;
        at += length;
    }
}

/* All chunks to the last, those that pixels depend on unharmed. */
static int images_png_is_whole(const uint8_t *bytes, size_t size)
{
    size_t at = 8;
    while (at <= size && size - at >= 12) {
        const size_t length = images_be32(bytes + at);
        const uint8_t *type = bytes + at + 4;
        if (length > size - at - 12) return 0;
        if (!(type[0] & 32) && images_crc(type, length + 4) != images_be32(type + 4 + length)) return 0;
        if (memcmp(type, "IEND", 4) == 0) return 1;
        at += length + 12;
    }
    return 0;
}

static int images_bmp_is_whole(const uint8_t *bytes, size_t size, int w, int h)
{
    const int old = size > 30 && images_le32(bytes + 14) == 12;
    const uint8_t *depth = bytes + (old ? 24 : 28);
    uint64_t line;
    if (size < 30) return 0;
    line = ((uint64_t)w * ((uint64_t)depth[0] | (uint64_t)depth[1] << 8) + 31) / 32 * 4;
    return images_le32(bytes + 10) + line * (uint64_t)h <= size;
}

/* 8-bit PNM with all its pixels. Larger numbers are kept from the decoder, which mistakes 16-bit files. */
static int images_pnm_is_whole(const uint8_t *bytes, size_t size)
{
    uint64_t pixels = bytes[1] == '6' ? 3 : 1;
    size_t at = 2;
    int i;
    for (i = 0; i < 3; ++i) { /* width, height, largest value */
        uint64_t value = 0;
        for (; at < size && (isspace(bytes[at]) || bytes[at] == '#'); ++at) {
            if (bytes[at] == '#') {
                while (at + 1 < size && bytes[at] != '\n' && bytes[at] != '\r') ++at;
            }
        }
        for (; at < size && isdigit(bytes[at]) && value < 100000; ++at) value = value * 10 + (bytes[at] - '0');
        if (value < 1 || value > (i < 2 ? 65535 : 255)) return 0;
        if (i < 2) pixels *= value;
    }
    return at < size && isspace(bytes[at]) && size - at - 1 >= pixels;
}

/* Size and channels of a file, from its header; 0 and a reason if it should not be decoded. A decoder fills in for
   missing or wrong data silently: what can be known beforehand is looked at here. */
static int images_header(const uint8_t *bytes, size_t size, images_picture *p, const char **why)
{
    const int is_jpeg = size > 2 && bytes[0] == 0xff && bytes[1] == 0xd8;
    const int is_png = size > 8 && memcmp(bytes, "\x89PNG", 4) == 0;
    const int is_bmp = size > 2 && bytes[0] == 'B' && bytes[1] == 'M';
    const int is_pnm = size > 2 && bytes[0] == 'P' && (bytes[1] == '5' || bytes[1] == '6');
    memset(p, 0, sizeof *p);
    *why = "is no JPEG, PNG, BMP or PNM image that can be read";
    if (size > IMAGES_MAX_FILE || (!is_jpeg && !is_png && !is_bmp && !is_pnm)) return 0;
    *why = "ends too early or is damaged";
    if (is_jpeg && !images_jpeg_is_whole(bytes, size, p)) return 0;
    if (is_png && !images_png_is_whole(bytes, size)) return 0;
    *why = "is a PNM that ends too early or has more than 8 bits";
    if (is_pnm && !images_pnm_is_whole(bytes, size)) return 0;
    *why = "is no JPEG, PNG, BMP or PNM image that can be read";
    if (!stbi_info_from_memory(bytes, (int)size, &p->w, &p->h, &p->channels)) return 0;
    if (p->h < 0 && p->h >= -IMAGES_MAX_PIXELS) p->h = -p->h; /* a BMP from top to bottom */
    *why = "has no pixels, or more than 89 million";
    if (p->w < 1 || p->h < 1 || p->w > IMAGES_MAX_PIXELS / p->h) return 0;
    *why = "ends too early or is damaged";
    return !is_bmp || images_bmp_is_whole(bytes, size, p->w, p->h);
}

/* Decodes to 1 or 3 channels; transparency is dropped without blending, as Pillow's convert("RGB") does. 0 and a
   reason if it cannot be done. `want` 0: as many channels as the file has colour. */
static int images_decode(const uint8_t *bytes, size_t size, int want, images_picture *p, const char **why)
{
    int channels, i;
    if (!images_header(bytes, size, p, why)) return 0;
    channels = p->channels;
    p->sixteen_bit = stbi_is_16_bit_from_memory(bytes, (int)size);
    if (!want) want = channels < 3 ? 1 : 3;
    p->channels = want;
    /* grey from colour is done below, with Pillow's weights: stb's differ by one in half of all colours */
    p->pixels = stbi_load_from_memory(bytes, (int)size, &p->w, &p->h, &channels, channels < 3 && want == 1 ? 1 : 3);
    if (!p->pixels) {
        *why = "is damaged";
        return 0;
    }
    if (want == 1 && channels >= 3) {
        for (i = 0; i < p->w * p->h; ++i) {
            const uint8_t *rgb = p->pixels + 3 * (size_t)i;
            p->pixels[i] = (uint8_t)((19595u * rgb[0] + 38470u * rgb[1] + 7471u * rgb[2] + 0x8000u) >> 16);
        }
    }
    return 1;
}

/* Why an image of this size cannot be brought to that of the set; NULL if it can. A line is not resized to a
   square: whole, it would take far more memory than the middle that is kept. */
static const char *images_misfit(int w, int h, const images *s)
{
    if (w == s->width && h == s->height) return NULL;
    if (s->width != s->height) return "has a size of its own; say which to bring all to (--size 32)";
    return (double)s->width * s->width * (w > h ? w : h) / (w > h ? h : w) > IMAGES_MAX_PIXELS
               ? "is too long and narrow to be resized"
               : NULL;
}

/* Short side to `size`, then the middle, as torchvision's Resize and CenterCrop. Frees p->pixels; the result is
   (size, size, channels), or NULL without memory. */
static uint8_t *images_fit(images_picture *p, int size)
{
    const int wide = p->w > p->h;
    const int to_w = wide ? (int)((double)size * p->w / p->h) : size,
              to_h = wide ? size : (int)((double)size * p->h / p->w);
    const int left = (int)rint((to_w - size) / 2.0), top = (int)rint((to_h - size) / 2.0);
    uint8_t *resized =
        p->w == to_w && p->h == to_h ? p->pixels : images_resize(p->pixels, p->w, p->h, p->channels, to_w, to_h);
    uint8_t *cut = resized ? (uint8_t *)images_memory((size_t)size * (size_t)size, (size_t)p->channels) : NULL;
    int y;
    for (y = 0; cut && y < size; ++y)
        memcpy(cut + (size_t)y * (size_t)size * (size_t)p->channels,
               resized + ((size_t)(y + top) * (size_t)to_w + (size_t)left) * (size_t)p->channels,
               (size_t)size * (size_t)p->channels);
    if (resized != p->pixels) free(resized);
    free(p->pixels);
    p->pixels = NULL;
    return cut;
}

/* ---- lists of files -------------------------------------------------------------------------------------- */

typedef struct images_file {
    char *path;
    int label, tile_w, tile_h; /* tiles: 0 for a single picture */
} images_file;

typedef struct images_list {
    images_file *files;
    int count, capacity;
} images_list;

static char *images_join(const char *folder, const char *name)
{
    const size_t a = strlen(folder), b = strlen(name);
    char *path = (char *)images_memory(a + b + 2, 1);
    if (!path) return NULL;
    memcpy(path, folder, a);
    if (a && folder[a - 1] != '/') path[a] = '/';
    memcpy(path + strlen(path), name, b + 1);
    return path;
}

static int images_is_folder(const char *path)
{
    struct stat info;
    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

static int images_by_text(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

static void images_names_free(char **names, int count)
{
    while (names && count > 0) free(names[--count]);
    free(names);
}

/* What is in a folder, in byte order, without names that begin with a dot. */
static int images_names(images *s, const char *folder, char ***names, int *count)
{
    DIR *dir = opendir(folder);
    int capacity = 0, ok = 1;
    const struct dirent *entry;
    *names = NULL;
    *count = 0;
    if (!dir) return images_fail(s, "cannot read the folder %s", folder);
    while (ok && (entry = readdir(dir)) != NULL) {
        if (entry->d_name[0] == '.') continue;
        if (*count == capacity) {
            char **bigger = (char **)realloc(*names, (size_t)(capacity = capacity * 2 + 64) * sizeof **names);
            if (!bigger) ok = 0;
            if (bigger) *names = bigger;
        }
        if (ok) ok = ((*names)[*count] = images_join("", entry->d_name)) != NULL;
        *count += ok;
    }
    closedir(dir);
    if (*count) qsort(*names, (size_t)*count, sizeof **names, images_by_text);
    return ok || images_fail(s, "out of memory");
}

/* 1: an image stb_image reads, 2: an image it does not, 0: anything else. */
static int images_kind(const char *name)
{
    static const char *const read[] = {".jpg", ".jpeg", ".png", ".ppm", ".pgm", ".bmp"};
    static const char *const known[] = {".tif", ".tiff", ".webp", ".gif", ".psd", ".tga", ".avif", ".heic"};
    const char *dot = strrchr(name, '.');
    char lower[8];
    size_t i;
    if (!dot || strlen(dot) >= sizeof lower) return 0;
    for (i = 0; i <= strlen(dot); ++i) lower[i] = (char)tolower((unsigned char)dot[i]);
    for (i = 0; i < sizeof read / sizeof *read; ++i) {
        if (strcmp(lower, read[i]) == 0) return 1;
    }
    for (i = 0; i < sizeof known / sizeof *known; ++i) {
        if (strcmp(lower, known[i]) == 0) return 2;
    }
    return 0;
}

/* "shirt.28x28.png": the length of "shirt", and the size of the tiles; 0 if the name is not of that form. */
static size_t images_sheet(const char *name, int *w, int *h)
{
    const char *end = strrchr(name, '.'), *dot;
    char *after;
    long a, b;
    if (!end) return 0;
    for (dot = end - 1; dot > name && *dot != '.'; --dot) {}
    if (dot <= name) return 0;
    a = strtol(dot + 1, &after, 10);
    if (*after != 'x' || a < 1 || a > 65536) return 0;
    b = strtol(after + 1, &after, 10);
    if (after != end || b < 1 || b > 65536) return 0;
    *w = (int)a;
    *h = (int)b;
    return (size_t)(dot - name);
}

static int images_add(images_list *list, const char *path, const char *name, int label)
{
    images_file *f;
    if (list->count == list->capacity) {
        images_file *bigger =
            (images_file *)realloc(list->files, (size_t)(list->capacity = list->capacity * 2 + 256) * sizeof *f);
        if (!bigger) return 0;
        list->files = bigger;
    }
    f = &list->files[list->count];
    memset(f, 0, sizeof *f);
    f->path = images_join("", path);
    f->label = label;
    if (!f->path) return 0;
    (void)images_sheet(name, &f->tile_w, &f->tile_h);
    ++list->count;
    return 1;
}

/* All images below a class folder. A link that leads back to a folder above is not followed. */
static int images_collect(images *s, images_list *list, const char *folder, int label, const struct stat *above,
                          int depth)
{
    struct stat seen[IMAGES_MAX_DEPTH + 1];
    int count, i, j, ok;
    char **names;
    if (depth >= IMAGES_MAX_DEPTH)
        return images_fail(s, "folders below %s are nested more than %d deep", folder, (int)IMAGES_MAX_DEPTH);
    for (j = 0; j < depth; ++j) seen[j] = above[j];
    if (stat(folder, &seen[depth]) != 0) return images_fail(s, "cannot read the folder %s", folder);
    for (j = 0; j < depth; ++j) {
        if (seen[j].st_dev == seen[depth].st_dev && seen[j].st_ino == seen[depth].st_ino && seen[j].st_ino != 0)
            return 1;
    }
    ok = images_names(s, folder, &names, &count);
    for (i = 0; i < count && ok; ++i) {
        char *path = images_join(folder, names[i]);
        if (!path)
            ok = images_fail(s, "out of memory");
        else if (images_is_folder(path))
            ok = images_collect(s, list, path, label, seen, depth + 1);
        else if (images_kind(names[i]) == 1)
            ok = images_add(list, path, names[i], label) || images_fail(s, "out of memory");
        else
            s->unsupported += images_kind(names[i]) == 2;
        free(path);
    }
    images_names_free(names, count);
    return ok;
}

/* A name whose bytes are no text, with those as \xE9: neither a saved model nor a page can hold it. */
static int images_refuse_name(images *s, const char *name, size_t length)
{
    char shown[512];
    size_t at = 0, i;
    for (i = 0; i < length && at + 5 < sizeof shown; ++i) {
        const unsigned char byte = (unsigned char)name[i];
        at += (size_t)snprintf(shown + at, sizeof shown - at, byte < 128 ? "%c" : "\\x%02X", byte);
    }
    shown[at] = 0;
    return images_fail(s, "the class name \"%s\" is not in UTF-8; give it another", shown);
}

/* Adds a class name unless it is there; its index, or -1 and s->error if it is none, there are too many or memory
   ends. */
static int images_class(images *s, const char *name, size_t length)
{
    char **bigger, *copy;
    size_t at;
    int i, step;
    for (at = 0; at < length; at += (size_t)step) {
        step = images_utf8(name + at);
        if (step) continue;
        images_refuse_name(s, name, length);
        return -1;
    }
    for (i = 0; i < s->class_count; ++i) {
        if (strlen(s->class_names[i]) == length && memcmp(s->class_names[i], name, length) == 0) return i;
    }
    if (s->class_count == IMAGES_MAX_CLASSES) {
        images_fail(s, "there are more than %d classes", (int)IMAGES_MAX_CLASSES);
        return -1;
    }
    bigger = (char **)realloc(s->class_names, (size_t)(s->class_count + 1) * sizeof *bigger);
    if (bigger) s->class_names = bigger;
    copy = bigger ? (char *)images_memory(length + 1, 1) : NULL;
    if (!copy) {
        images_fail(s, "out of memory");
        return -1;
    }
    memcpy(copy, name, length);
    s->class_names[s->class_count] = copy;
    return s->class_count++;
}

/* The classes of one split folder: its folders, and its sheets. */
static int images_list_classes(images *s, const char *folder)
{
    int count, i, w, h, ok;
    char **names;
    ok = images_names(s, folder, &names, &count);
    for (i = 0; i < count && ok; ++i) {
        char *path = images_join(folder, names[i]);
        const size_t sheet = images_kind(names[i]) == 1 ? images_sheet(names[i], &w, &h) : 0;
        if (!path)
            ok = images_fail(s, "out of memory");
        else if (images_is_folder(path))
            ok = images_class(s, names[i], strlen(names[i])) >= 0;
        else if (sheet)
            ok = images_class(s, names[i], sheet) >= 0;
        free(path);
    }
    images_names_free(names, count);
    return ok;
}

static int images_list_split(images *s, const char *folder, images_list *list)
{
    int count, i, w, h, ok;
    char **names;
    ok = images_names(s, folder, &names, &count);
    for (i = 0; i < count && ok; ++i) {
        char *path = images_join(folder, names[i]);
        const size_t sheet = images_kind(names[i]) == 1 ? images_sheet(names[i], &w, &h) : 0;
        if (!path)
            ok = images_fail(s, "out of memory");
        else if (images_is_folder(path))
            ok = images_collect(s, list, path, images_class(s, names[i], strlen(names[i])), NULL, 0);
        else if (sheet)
            ok = images_add(list, path, names[i], images_class(s, names[i], sheet)) ||
                 images_fail(s, "out of memory");
        free(path);
    }
    images_names_free(names, count);
    return ok;
}

/* Adds to images.paths; the number of the path, or -1 without memory. */
static int images_add_path(images *s, const char *path)
{
    char **bigger = (char **)realloc(s->paths, (size_t)(s->path_count + 1) * sizeof *bigger);
    if (bigger) s->paths = bigger;
    if (!bigger || (bigger[s->path_count] = images_join("", path)) == NULL) return -1;
    return s->path_count++;
}

/* What is behind the folder that everything is read from, of the paths of a list. */
static int images_keep_paths(images *s, const char *folder, const images_list *list)
{
    size_t above = strlen(folder);
    int i, ok = 1;
    if (above && folder[above - 1] != '/') ++above;
    for (i = 0; i < list->count && ok; ++i) ok = images_add_path(s, list->files[i].path + above) >= 0;
    return ok || images_fail(s, "out of memory");
}

static void images_list_free(images_list *list)
{
    int i;
    for (i = 0; i < list->count; ++i) free(list->files[i].path);
    free(list->files);
}

/* ---- from files to pixels -------------------------------------------------------------------------------- */

typedef struct images_sink {
    images_set *set;
    int capacity;
    images_origin origin; /* of the next image */
} images_sink;

/* Appends one image, (h, w, c) turned to (c, h, w). */
static int images_append(images *s, images_sink *sink, const uint8_t *from, size_t line, int label)
{
    const size_t plane = (size_t)s->height * (size_t)s->width, floats = plane * (size_t)s->channels;
    images_set *set = sink->set;
    uint8_t *to;
    int y, x, c;
    if (set->count == sink->capacity) {
        const int capacity = sink->capacity ? sink->capacity * 2 : 1024;
        uint8_t *pixels = (size_t)capacity > SIZE_MAX / floats
                              ? NULL
                              : (uint8_t *)realloc(set->pixels, (size_t)capacity * floats);
        int32_t *labels;
        images_origin *origin;
        if (!pixels) return 0;
        set->pixels = pixels;
        labels = (int32_t *)realloc(set->labels, (size_t)capacity * sizeof *labels);
        if (!labels) return 0;
        set->labels = labels;
        origin = (images_origin *)realloc(set->origin, (size_t)capacity * sizeof *origin);
        if (!origin) return 0;
        set->origin = origin;
        sink->capacity = capacity;
    }
    to = set->pixels + (size_t)set->count * floats;
    for (c = 0; c < s->channels; ++c) {
        for (y = 0; y < s->height; ++y) {
            for (x = 0; x < s->width; ++x, ++to)
                *to = from[(size_t)y * line + (size_t)x * (size_t)s->channels + (size_t)c];
        }
    }
    set->origin[set->count] = sink->origin;
    set->labels[set->count++] = label;
    return 1;
}

static void images_skip(images *s, const images_file *f, const char *why)
{
    if (s->skipped < IMAGES_LISTED) snprintf(s->listed[s->skipped], sizeof s->listed[0], "%.440s %s", f->path, why);
    ++s->skipped;
}

/* Size and channels of the whole set, from the headers of all files. */
static int images_survey(images *s, const images_list *list, const images_options *o)
{
    int i, w = 0, h = 0, all_grey = 1, alike = 1;
    for (i = 0; i < list->count; ++i) {
        const images_file *f = &list->files[i];
        const char *why;
        size_t size;
        uint8_t *bytes;
        images_picture p;
        int found;
        if (o->size && o->channels) break;
        bytes = images_read(f->path, &size, &why);
        found = bytes && images_header(bytes, size, &p, &why);
        free(bytes);
        if (!found) continue;
        if (f->tile_w) p.w = f->tile_w, p.h = f->tile_h;
        all_grey &= p.channels < 3;
        if (!w) w = p.w, h = p.h;
        alike &= w == p.w && h == p.h;
    }
    s->channels = o->channels ? o->channels : all_grey ? 1 : 3;
    s->height = o->size ? o->size : h;
    s->width = o->size ? o->size : w;
    if (!o->size && !alike)
        return images_fail(s, "the images have different sizes; say which to bring them to (--size 32)");
    if (!o->size && !w) return 1; /* nothing readable: reported by the caller */
    if (s->height > 4096 || s->width > 4096)
        return images_fail(s, "images of %dx%d are too large to train on; use --size", s->width, s->height);
    return 1;
}

static int images_load_file(images *s, images_sink *sink, const images_file *f, int room)
{
    images_picture p;
    const char *why;
    size_t size;
    uint8_t *bytes = images_read(f->path, &size, &why);
    int decoded = bytes && images_decode(bytes, size, s->channels, &p, &why), ok = decoded, x, y;
    free(bytes);
    ++s->files;
    if (ok && f->tile_w && (p.w % f->tile_w || p.h % f->tile_h)) {
        why = "is no whole number of tiles wide and high";
        ok = 0;
    } else if (ok) {
        why = images_misfit(f->tile_w ? f->tile_w : p.w, f->tile_w ? f->tile_h : p.h, s);
        ok = !why;
    }
    if (!ok) {
        if (decoded) free(p.pixels);
        images_skip(s, f, why);
        return 1;
    }
    s->sixteen_bit += p.sixteen_bit;
    s->four_channel_jpeg += p.four_channel_jpeg;
    s->rotated += p.rotated;
    sink->origin.place = -1;
    if (f->tile_w) {
        const size_t line = (size_t)p.w * (size_t)p.channels;
        for (y = 0; y + f->tile_h <= p.h && ok; y += f->tile_h) {
            for (x = 0; x + f->tile_w <= p.w && ok && room > 0; x += f->tile_w, --room) {
                const int columns = p.w / f->tile_w;
                const uint8_t *corner = p.pixels + (size_t)y * line + (size_t)x * (size_t)p.channels;
                sink->origin.place = y / f->tile_h * columns + x / f->tile_w;
                if (f->tile_w == s->width && f->tile_h == s->height) {
                    ok = images_append(s, sink, corner, line, f->label);
                } else {
                    images_picture tile = p;
                    int row;
                    uint8_t *fitted;
                    const size_t tile_line = (size_t)f->tile_w * (size_t)p.channels;
                    tile.w = f->tile_w, tile.h = f->tile_h;
                    tile.pixels = (uint8_t *)images_memory((size_t)f->tile_h, tile_line);
                    for (row = 0; tile.pixels && row < f->tile_h; ++row)
                        memcpy(tile.pixels + (size_t)row * tile_line, corner + (size_t)row * line, tile_line);
                    fitted = tile.pixels ? images_fit(&tile, s->width) : NULL;
                    ok = fitted && images_append(s, sink, fitted, (size_t)s->width * (size_t)p.channels, f->label);
                    ++s->resized;
                    free(fitted);
                }
            }
        }
        free(p.pixels);
    } else if (p.w == s->width && p.h == s->height) {
        ok = images_append(s, sink, p.pixels, (size_t)p.w * (size_t)p.channels, f->label);
        free(p.pixels);
    } else {
        uint8_t *fitted = images_fit(&p, s->width);
        ok = fitted && images_append(s, sink, fitted, (size_t)s->width * (size_t)s->channels, f->label);
        ++s->resized;
        free(fitted);
    }
    return ok || images_fail(s, "out of memory after %d images", sink->set->count);
}

/* Reads a split, whose first file has number `first` among images.paths. */
static int images_load_list(images *s, const images_list *list, int first, const images_options *o, images_set *set)
{
    int *taken = (int *)images_memory((size_t)s->class_count, sizeof(int)), i, ok = taken != NULL;
    images_sink sink;
    sink.set = set;
    sink.capacity = 0;
    for (i = 0; i < list->count && ok; ++i) {
        const int label = list->files[i].label, before = set->count;
        const int room = o->limit ? o->limit - taken[label] : INT32_MAX;
        sink.origin.file = first + i;
        if (room > 0) ok = images_load_file(s, &sink, &list->files[i], room);
        if (ok) taken[label] += set->count - before;
    }
    if (!taken) images_fail(s, "out of memory");
    free(taken);
    return ok;
}

static int images_check_split(images *s, const char *folder, const images_set *set)
{
    int *count = (int *)images_memory((size_t)s->class_count, sizeof(int)), i, ok = count != NULL;
    for (i = 0; ok && i < set->count; ++i) ++count[set->labels[i]];
    for (i = 0; ok && i < s->class_count; ++i) {
        if (count[i] == 0)
            ok = images_fail(s, "class \"%s\" has no readable image in %s", s->class_names[i], folder);
    }
    if (!count) images_fail(s, "out of memory");
    free(count);
    return ok;
}

static void images_set_free(images_set *set)
{
    free(set->pixels);
    free(set->labels);
    free(set->origin);
}

/* A share of each class becomes the test set, chosen by the seed. */
static int images_split(images *s, const images_options *o)
{
    const size_t floats = (size_t)s->height * (size_t)s->width * (size_t)s->channels;
    images_set all = s->train, train = {0}, test = {0};
    int *rank = (int *)images_memory((size_t)all.count, sizeof(int)), i, j, c, tests = 0, ok;
    uint8_t *is_test = (uint8_t *)images_memory((size_t)all.count, 1);
    if (!rank || !is_test) {
        free(rank);
        free(is_test);
        return images_fail(s, "out of memory");
    }
    for (c = 0; c < s->class_count; ++c) {
        int count = 0, wanted;
        for (i = 0; i < all.count; ++i) {
            if (all.labels[i] == c) rank[count++] = i;
        }
        for (i = count - 1; i > 0; --i) { /* shuffle */
            const int k = (int)(images_hash(images_hash(o->seed ^ (uint64_t)c << 32) ^ (uint64_t)i) %
                                (uint64_t)(i + 1)),
                      swap = rank[i];
            rank[i] = rank[k];
            rank[k] = swap;
        }
        wanted = (int)(o->test_share * count + 0.5);
        if (wanted < 1) wanted = 1;
        if (wanted >= count) wanted = count - 1;
        for (i = 0; i < wanted; ++i) is_test[rank[i]] = 1;
        tests += wanted > 0 ? wanted : 0;
    }
    test.pixels = (uint8_t *)images_memory((size_t)tests, floats);
    test.labels = (int32_t *)images_memory((size_t)tests, sizeof(int32_t));
    train.pixels = (uint8_t *)images_memory((size_t)(all.count - tests), floats);
    train.labels = (int32_t *)images_memory((size_t)(all.count - tests), sizeof(int32_t));
    test.origin = (images_origin *)images_memory((size_t)tests, sizeof(images_origin));
    train.origin = (images_origin *)images_memory((size_t)(all.count - tests), sizeof(images_origin));
    ok = test.pixels && test.labels && test.origin && train.pixels && train.labels && train.origin;
    for (i = 0; ok && i < all.count; ++i) {
        images_set *to = is_test[i] ? &test : &train;
        j = to->count++;
        memcpy(to->pixels + (size_t)j * floats, all.pixels + (size_t)i * floats, floats);
        to->labels[j] = all.labels[i];
        to->origin[j] = all.origin[i];
    }
    free(rank);
    free(is_test);
    images_set_free(&all);
    s->train = train;
    s->test = test;
    return (test.count == tests && train.count == all.count - tests) || images_fail(s, "out of memory");
}

/* ---- IDX ------------------------------------------------------------------------------------------------- */

/* The file, unpacked if it is gzip (RFC 1952). */
static uint8_t *images_read_idx(images *s, const char *folder, const char *name, size_t *size)
{
    char packed_name[128];
    char *path = images_join(folder, name), *packed;
    const char *why = "out of memory";
    uint8_t *bytes, *unpacked = NULL;
    size_t at = 10, length;
    uint32_t crc;
    struct stat info;
    snprintf(packed_name, sizeof packed_name, "%s.gz", name);
    packed = images_join(folder, packed_name);
    if (!path || !packed || stat(path, &info) == 0) {
        bytes = path ? images_read(path, size, &why) : NULL;
        if (!bytes) images_fail(s, "%s/%s %s", folder, name, why);
        free(path);
        free(packed);
        return bytes;
    }
    bytes = images_read(packed, size, &why);
    if (bytes && *size > 18 && bytes[0] == 0x1f && bytes[1] == 0x8b && bytes[2] == 8) {
        const int flags = bytes[3];
        const size_t end = *size - 8;
        const uint8_t *tail = bytes + end + 4;
        length = images_le32(tail);
        crc = images_le32(bytes + end);
        if (flags & 4) at += 2 + ((size_t)bytes[10] | (size_t)bytes[11] << 8);
        if (flags & 8) {
            while (at < end && bytes[at]) ++at;
            ++at;
        }
        if (flags & 16) {
            while (at < end && bytes[at]) ++at;
            ++at;
        }
        if (flags & 2) at += 2;
        why = "is damaged";
        if (at < end && length > 0 && length < ((size_t)1 << 30) &&
            length / 1040 <= *size) { /* deflate: 1032 to 1 */
            unpacked = (uint8_t *)images_memory(length, 1);
            /* the decoder looks a little ahead: it may see the trailer, which it does not need */
            if (unpacked &&
                (stbi_zlib_decode_noheader_buffer((char *)unpacked, (int)length, (const char *)bytes + at,
                                                  (int)(*size - at)) != (int)length ||
                 images_crc(unpacked, length) != crc)) {
                free(unpacked);
                unpacked = NULL;
            }
            *size = length;
        }
    } else if (bytes) {
        why = "is no gzip file";
    }
    if (!unpacked) images_fail(s, "%s %s", packed, why);
    free(bytes);
    free(path);
    free(packed);
    return unpacked;
}

static int images_load_idx_split(images *s, const char *folder, const char *prefix, const images_options *o,
                                 images_set *set)
{
    char name[64];
    size_t pixel_size = 0, label_size = 0;
    uint8_t *pixels, *labels = NULL;
    uint32_t count = 0, h = 0, w = 0, i;
    int ok, taken[256] = {0};
    const char *why;
    images_sink sink;
    sink.set = set;
    sink.capacity = 0;
    snprintf(name, sizeof name, "%s-images-idx3-ubyte", prefix);
    sink.origin.file = images_add_path(s, name);
    if (sink.origin.file < 0) return images_fail(s, "out of memory");
    pixels = images_read_idx(s, folder, name, &pixel_size);
    snprintf(name, sizeof name, "%s-labels-idx1-ubyte", prefix);
    if (pixels) labels = images_read_idx(s, folder, name, &label_size);
    ok = pixels && labels;
    if (ok) {
        if (pixel_size >= 16 && label_size >= 8)
            count = images_be32(pixels + 4), h = images_be32(pixels + 8), w = images_be32(pixels + 12);
        if (count == 0 || h == 0 || w == 0 || h > 4096 || w > 4096 || images_be32(pixels) != 0x803 ||
            images_be32(labels) != 0x801 || images_be32(labels + 4) != count || label_size - 8 != count ||
            (pixel_size - 16) / ((size_t)h * w) != count || (pixel_size - 16) % ((size_t)h * w) != 0)
            ok = images_fail(s, "%s/%s-*-idx*-ubyte do not hold as many images and labels as they say", folder,
                             prefix);
    }
    if (ok && s->train.count && !o->size && ((int)h != s->height || (int)w != s->width))
        ok = images_fail(s, "%s: the %s images have another size than the others; use --size", folder, prefix);
    if (ok) {
        s->channels = o->channels ? o->channels : 1;
        s->height = o->size ? o->size : (int)h;
        s->width = o->size ? o->size : (int)w;
        why = images_misfit((int)w, (int)h, s);
        ok = !why || images_fail(s, "%s: an image of %ux%u %s", folder, w, h, why);
    }
    for (i = 0; i < count && ok; ++i) {
        const int label = labels[8 + i];
        images_picture p;
        uint8_t *fitted;
        size_t j;
        if (label >= s->class_count) s->class_count = label + 1;
        if (o->limit && taken[label]++ >= o->limit) continue;
        memset(&p, 0, sizeof p);
        p.w = (int)w, p.h = (int)h, p.channels = s->channels;
        p.pixels = (uint8_t *)images_memory((size_t)w * h, (size_t)s->channels);
        for (j = 0; p.pixels && j < (size_t)w * h * (size_t)s->channels; ++j)
            p.pixels[j] = pixels[16 + (size_t)i * w * h + j / (size_t)s->channels];
        sink.origin.place = (int32_t)i;
        fitted = !p.pixels ? NULL : p.w == s->width && p.h == s->height ? p.pixels : images_fit(&p, s->width);
        ok = (fitted && images_append(s, &sink, fitted, (size_t)s->width * (size_t)s->channels, label)) ||
             images_fail(s, "out of memory after %d images", set->count);
        free(fitted);
    }
    free(pixels);
    free(labels);
    return ok;
}

/* Names from classes.txt, or the numbers. */
static int images_idx_classes(images *s, const char *folder)
{
    const int count = s->class_count;
    char *path = images_join(folder, "classes.txt"), name[256];
    FILE *file = path ? fopen(path, "r") : NULL;
    int i, at, ok = path != NULL || images_fail(s, "out of memory");
    s->class_count = 0;
    for (i = 0; i < count && ok; ++i) {
        if (!file) snprintf(name, sizeof name, "%d", i);
        if (file && !fgets(name, sizeof name, file)) {
            ok = images_fail(s, "there is a label %d in %s, but classes.txt names only %d classes", count - 1,
                             folder, i);
            break;
        }
        name[strcspn(name, "\r\n")] = 0;
        at = images_class(s, name, strlen(name));
        ok = at == i || (at >= 0 && images_fail(s, "%s/classes.txt names a class twice: %s", folder, name));
    }
    if (file) fclose(file);
    free(path);
    return ok;
}

/* A number that no image has, below one that some have, is most often a damaged file. */
static int images_check_labels(images *s, const char *folder)
{
    int found[256] = {0}, i;
    for (i = 0; i < s->train.count; ++i) found[s->train.labels[i]] = 1;
    for (i = 0; i < s->class_count; ++i) {
        if (!found[i])
            return images_fail(s, "no train image of %s has label %d, but some have label %d", folder, i,
                               s->class_count - 1);
    }
    return 1;
}

static int images_load_idx(images *s, const char *folder, const images_options *o)
{
    int trained;
    if (!images_load_idx_split(s, folder, "train", o, &s->train)) return 0;
    trained = s->class_count;
    if (trained == 1)
        return images_fail(s, "%s has only images of class 0; there is nothing to tell apart", folder);
    if (!images_load_idx_split(s, folder, "t10k", o, &s->test)) return 0;
    if (s->class_count > trained)
        return images_fail(s, "class %d is among the t10k images of %s, but not among the train images",
                           s->class_count - 1, folder);
    return images_idx_classes(s, folder) && images_check_labels(s, folder);
}

/* ---- the whole set --------------------------------------------------------------------------------------- */

/* The name of an image: the path of its file below the folder, and its place in there: "train/cat/1.png",
   "train/Bag.28x28.png#12", "train-images-idx3-ubyte#12". Returns the length it needs, like snprintf. */
IMAGES_PUBLIC static int images_name(const images *s, const images_set *set, int index, char *text, size_t size)
{
    const images_origin o = set->origin[index];
    return o.place < 0 ? snprintf(text, size, "%s", s->paths[o.file])
                       : snprintf(text, size, "%s#%d", s->paths[o.file], (int)o.place);
}

IMAGES_PUBLIC static void images_free(images *s)
{
    images_names_free(s->class_names, s->class_count);
    images_names_free(s->paths, s->path_count);
    images_set_free(&s->train);
    images_set_free(&s->test);
    memset(s, 0, sizeof *s);
}

static int images_exists(const char *folder, const char *name)
{
    char path[4096]; /* no longer one exists */
    struct stat info;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    if (stat(path, &info) == 0) return 1;
    snprintf(path, sizeof path, "%s/%s.gz", folder, name);
    return stat(path, &info) == 0;
}

static int images_load_folders(images *s, const char *folder, const images_options *o)
{
    static const char *const test_names[] = {"test", "val", "valid"};
    char *train = images_join(folder, "train"), *test = images_join(folder, test_names[0]);
    const int has_train = train && images_is_folder(train);
    const char *first = has_train ? train : folder;
    int has_test = test && images_is_folder(test), i;
    images_list list = {0}, test_list = {0};
    int ok, classes = 0, files;
    for (i = 1; i < 3 && has_train && test && !has_test; ++i) {
        free(test);
        test = images_join(folder, test_names[i]);
        has_test = test && images_is_folder(test);
    }
    ok = train && test;
    if (!ok) images_fail(s, "out of memory");
    if (ok && has_test && !has_train) ok = images_fail(s, "%s has a test folder, but no train folder", folder);
    ok = ok && images_list_classes(s, first);
    if (ok && s->class_count == 0)
        ok = images_fail(s, "%s has no classes: expected %s/<class>/<image>.jpg, %s/<class>.28x28.png or IDX files",
                         folder, first, first);
    if (ok) {
        qsort(s->class_names, (size_t)s->class_count, sizeof *s->class_names, images_by_text);
        classes = s->class_count;
    }
    if (ok && classes == 1)
        ok = images_fail(s, "%s has only one class, \"%s\"; there is nothing to tell apart", first,
                         s->class_names[0]);
    ok = ok && images_list_split(s, first, &list);
    if (ok && has_test) {
        ok = images_list_classes(s, test);
        if (ok && s->class_count != classes)
            ok = images_fail(s, "class \"%s\" is in %s, but not in %s", s->class_names[classes], test, first);
        ok = ok && images_list_split(s, test, &test_list);
    }
    files = list.count + test_list.count;
    ok = ok && images_keep_paths(s, folder, &list) && images_keep_paths(s, folder, &test_list);
    ok = ok && images_survey(s, &list, o) && images_load_list(s, &list, 0, o, &s->train) &&
         images_load_list(s, &test_list, list.count, o, &s->test);
    if (ok && s->skipped > o->max_skipped * files)
        ok = images_fail(s, "%d of %d image files cannot be read (more than the share of %s allowed), first: %s",
                         s->skipped, files, images_number_of(o->max_skipped).chars, s->listed[0]);
    ok = ok && images_check_split(s, first, &s->train);
    if (ok && has_test) ok = images_check_split(s, test, &s->test);
    if (ok && !has_test) ok = images_split(s, o) && images_check_split(s, "the test split", &s->test);
    images_list_free(&list);
    images_list_free(&test_list);
    free(train);
    free(test);
    return ok;
}

/* 1, or 0 and s->error. images_free(s) in either case. */
IMAGES_PUBLIC static int images_load(images *s, const char *folder, const images_options *options)
{
    const images_options defaults = images_defaults(), *o = options ? options : &defaults;
    memset(s, 0, sizeof *s);
    if (!images_is_folder(folder)) return images_fail(s, "there is no folder %s", folder);
    if (o->size < 0 || o->size > 4096) return images_fail(s, "the size must be 1 to 4096 pixels, got %d", o->size);
    if (o->channels != 0 && o->channels != 1 && o->channels != 3)
        return images_fail(s, "there can be 1 or 3 channels, got %d", o->channels);
    if (!(o->test_share > 0 && o->test_share < 1))
        return images_fail(s, "the share of test images must be between 0 and 1, got %s",
                           images_number_of(o->test_share).chars);
    if (images_exists(folder, "train-images-idx3-ubyte")) return images_load_idx(s, folder, o);
    return images_load_folders(s, folder, o);
}

#endif /* IMAGES_H */
