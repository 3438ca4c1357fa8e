/* images.h - image sets for the examples: folders, contact sheets and IDX files, decoded by stb_image
   Not part of kd.h. Include it in one source file.

   images_load() understands three ways to keep labelled images:
     folders    train/<class>/<name>.jpg, test/<class>/<name>.jpg and, to choose with, val/<class>/<name>.jpg; or
                only <class>/<name>.jpg, which are then split. The three go by many names, see images_split_words.
                Classes are the names of the folders in byte order, as in torchvision's ImageFolder; folders
                inside are read too.
     sheets     an image whose name ends in .<width>x<height>.png holds tiles of that size, left to right and top to
                bottom: train/<class>.28x28.png, or anywhere inside a class folder
     IDX        a folder with train-images-idx3-ubyte and its three companions, each of them also as .gz and with
                another name before or a point for a dash, as EMNIST and QMNIST have them; a file classes.txt beside
                them may name the classes, one a line
   Decoded are JPEG, PNG, BMP and PNM, which their contents tell, not their names. Everything is checked before
   memory is asked for, a file that cannot be decoded is skipped, counted and listed, and too many of them are an
   error. What was taken for what, and whatever else a careful person would want to know, is in images.said.
   Names of files are UTF-8, on Windows too. */
#ifndef IMAGES_H
#define IMAGES_H

#include <ctype.h>
#include <math.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#if defined(_WIN32)
#include <io.h>
#include <wchar.h>
#else
#include <dirent.h>
#include <sys/stat.h>
#endif

/* Formats with open memory bugs in stb_image are left out, its reading of files is not used, and its assertions,
   which data can reach, are errors in our eyes and not a reason to end the program. PNM is read below: it is three
   numbers and the pixels, of which stb_image ignores one and mistakes those of 16 bits. */
#define STBI_ONLY_JPEG
#define STBI_ONLY_PNG
#define STBI_ONLY_BMP
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
#include "resize.h"

#if defined(__has_include)
#if __has_include(<stb/stb_image.h>)
#include <stb/stb_image.h>
#else
#include "stb_image.h"
#endif
#else
#include <stb/stb_image.h>
#endif

enum {
    IMAGES_MAX_PIXELS = 89478485, /* of one file; above it Pillow warns of a decompression bomb */
    IMAGES_MAX_FILE = 1 << 28,    /* bytes of one file */
    IMAGES_MAX_CLASSES = 4096,
    IMAGES_MAX_DEPTH = 16,  /* folders inside a class */
    IMAGES_MAX_SCANS = 100, /* of a JPEG; each goes over all of it, and nobody writes more than some dozen */
    IMAGES_LISTED = 20,     /* skipped files kept for the report */
    IMAGES_REASONS = 24,    /* why files were skipped */
    IMAGES_SAID = 24
};

typedef struct images_options {
    int size;          /* side in pixels; 0: as the images are, if all are alike */
    int usual_size;    /* with size 0, the side of images that are not all alike, half of it where most are smaller,
                            and of squares longer than 3/2 of it; 0: no two may differ */
    int channels;      /* 1, 3, or 0: 1 if every image is grey, else 3 */
    double test_share; /* of each class, where there is no test folder; 0.2 */
    double max_skipped;  /* share of files that may be unreadable; 0.01 */
    int limit;           /* images a class and split; 0: all */
    uint64_t seed;       /* of the split */
    int join_validation; /* 1: images of a folder to choose with are learned from like the others; 0: kept apart */
    int train_limit;     /* as limit, of the images to learn from alone: all others stay; 0: all */
    int folds, fold;     /* 0: off; else the test images are part `fold`, from 0, of that many as equal as can be */
    const char *apart;   /* a folder that is no part of the set though it may lie in it, as that of results may; it
                            is not looked into; NULL: none (on Windows it is not known again) */
    images_framing framing; /* of images of another size */
    int unlabelled_files;   /* of images_load_unlabelled, evenly taken; 0: all */
    int width;              /* of images that are no squares, whose height is `size`; 0: as size */
} images_options;

/* Where an image came from. Sorted by it, images have the order in which they were read. */
typedef struct images_origin {
    int32_t file, place; /* number of its file among images.paths; which in there, -1 for a single picture */
} images_origin;

typedef struct images_set {
    uint8_t *pixels; /* (count, channels, height, width); of texts the bytes, filled up with zeros */
    int32_t *labels; /* -1 where nobody knows */
    images_origin *origin;
    int count;
} images_set;

typedef struct images_reason {
    const char *why; /* goes on after the name of a file */
    int count;
} images_reason;

/* Images with the same pixels, after they were brought to the size and the channels of the set. */
typedef struct images_copies {
    int train, validation, test, unlabelled; /* images that are in the same split before */
    int validation_in_train, test_in_train, test_in_validation, test_in_unlabelled; /* images of the first */
    int two_labels; /* different pictures that stand under several labels, wherever */
} images_copies;

typedef struct images {
    images_set train, validation, test, unlabelled; /* validation: empty where no folder is for that */
    int channels, height, width, class_count;
    int sized;     /* 1: height and width are asked for, and not those of the files */
    int are_texts; /* 1: texts.h has loaded them, of up to `channels` bytes each */
    char **class_names;
    char **paths; /* of the files, below the folder that was loaded */
    int path_count;
    /* what a careful person would want to know */
    int files;                        /* images that were tried, without those of other formats */
    int skipped, unsupported, others; /* of these; of other formats; no images at all */
    int hidden, loose;                /* names that begin with a dot; images beside the folders of the classes */
    int rotated, sixteen_bit, four_channel_jpeg, transparent, resized;
    images_framing framing; /* of the options */
    int bits;               /* of the 16 that count in files with so many: 8 to 16; 0: not known yet */
    images_reason reasons[IMAGES_REASONS]; /* of all that was not read; the last may stand for several */
    images_copies copies;
    char said[IMAGES_SAID][512]; /* sentences: what was taken for what, what was changed, what looks wrong */
    int said_count;
    const char *apart;               /* of the options, while images are loaded */
    char listed[IMAGES_LISTED][512]; /* skipped files, and why */
    char error[1024];
} images;

static images_options images_defaults(void)
{
    images_options o = {0, 0, 0, 0.2, 0.01, 0, 1, 0, 0, 0, 0, NULL, {IMAGES_CROP, 0, {0, 0, 0}, 0, 0}, 0, 0};
    return o;
}

/* ---- sentences ------------------------------------------------------------------------------------------- */

static int images_of_texts; /* what is said, here and by who uses this file, is about texts */

/* All sentences are written about images. This makes one about texts of such a format, if that is what there is. */
IMAGES_PUBLIC static const char *images_reword(const char *format, char *to, size_t size)
{
    static const char *const words[][2] = {
        {"image", "text"}, {"Image", "Text"}, {"picture", "text"}, {"IMAGES", "DATA"}};
    size_t at = 0, i;
    const char *c = format;
    if (!images_of_texts || strlen(format) >= size) return format; /* what becomes of it is no longer */
    while (*c) {
        for (i = 0; i < sizeof words / sizeof *words; ++i) {
            const size_t length = strlen(words[i][0]);
            const char *end = c + length;
            if (strncmp(c, words[i][0], length) != 0) continue;
            end += *end == 's';
            if (!isalpha((unsigned char)*end) && *end != '-' &&
                (c == format || (!isalpha((unsigned char)c[-1]) && !strchr(":<", c[-1]))))
                break;
        }
        if (i == sizeof words / sizeof *words) {
            to[at++] = *c++;
            continue;
        }
        if (at >= 3 && memcmp(to + at - 3, "an ", 3) == 0 && (at == 3 || !isalpha((unsigned char)to[at - 4])))
            to[at - 2] = ' ', --at;
        memcpy(to + at, words[i][1], 4);
        at += 4;
        c += strlen(words[i][0]);
    }
    to[at] = 0;
    return to;
}

static int images_fail(images *s, const char *format, ...)
#if defined(__GNUC__)
    __attribute__((format(printf, 2, 3)))
#endif
    ;

static int images_fail(images *s, const char *format, ...)
{
    char words[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(s->error, sizeof s->error, images_reword(format, words, sizeof words), args);
    va_end(args);
    return 0;
}

/* A sentence for whoever runs the program. */
static void images_say(images *s, const char *format, ...)
#if defined(__GNUC__)
    __attribute__((format(printf, 2, 3)))
#endif
    ;

static void images_say(images *s, const char *format, ...)
{
    char words[1024];
    va_list args;
    if (s->said_count == IMAGES_SAID) return;
    va_start(args, format);
    vsnprintf(s->said[s->said_count++], sizeof s->said[0], images_reword(format, words, sizeof words), args);
    va_end(args);
}

/* ---- bytes ----------------------------------------------------------------------------------------------- */

static void images_count_reason(images *s, const char *why)
{
    int i = 0;
    while (i < IMAGES_REASONS - 1 && s->reasons[i].why && strcmp(s->reasons[i].why, why) != 0) ++i;
    if (!s->reasons[i].why) s->reasons[i].why = i < IMAGES_REASONS - 1 ? why : "has another fault";
    ++s->reasons[i].count;
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

/* A path in a sentence: the end of one that is too long for it. */
typedef struct images_path {
    char chars[360];
} images_path;

static images_path images_shown(const char *path)
{
    images_path shown;
    const size_t length = strlen(path);
    const char *from = length < sizeof shown.chars ? path : path + length - (sizeof shown.chars - 4);
    while (from > path && ((unsigned char)*from & 0xc0) == 0x80) ++from; /* not from the middle of a letter */
    snprintf(shown.chars, sizeof shown.chars, "%s%s", from == path ? "" : "...", from);
    return shown;
}

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

/* What a path leads to. Two that lead to the same have the same numbers, if those are not 0. */
typedef struct images_place {
    int folder, file;
    uint64_t device, number;
} images_place;

#if defined(_WIN32)
/* Windows takes UTF-8 in none of its calls, and more than 260 letters only of a whole path behind a mark. Declared
   here, because <windows.h> defines a thousand words. */
#ifdef __cplusplus
extern "C" {
#endif
__declspec(dllimport) int __stdcall MultiByteToWideChar(unsigned page, unsigned long flags, const char *from,
                                                        int bytes, wchar_t *to, int room);
__declspec(dllimport) int __stdcall WideCharToMultiByte(unsigned page, unsigned long flags, const wchar_t *from,
                                                        int letters, char *to, int room, const char *other,
                                                        int *used);
__declspec(dllimport) unsigned long __stdcall GetFileAttributesW(const wchar_t *path);
__declspec(dllimport) unsigned long __stdcall GetFullPathNameW(const wchar_t *path, unsigned long room, wchar_t *to,
                                                               wchar_t **name);
#ifdef __cplusplus
}
#endif

/* As Windows wants it, to be freed; NULL without memory or for what is no UTF-8. */
static wchar_t *images_wide(const char *path)
{
    enum { UTF8 = 65001, STRICT = 8, MARK = 4, SHORT = 240, LONGEST = 32768 };
    const int letters = MultiByteToWideChar(UTF8, STRICT, path, -1, NULL, 0);
    wchar_t *wide = letters > 0 ? (wchar_t *)images_memory((size_t)letters, sizeof *wide) : NULL, *whole;
    if (!wide || !MultiByteToWideChar(UTF8, STRICT, path, -1, wide, letters) || letters < SHORT) return wide;
    whole = (wchar_t *)images_memory(LONGEST + MARK, sizeof *whole);
    if (whole && GetFullPathNameW(wide, LONGEST, whole + MARK, NULL) < LONGEST && whole[MARK] != L'\\') {
        memcpy(whole, L"\\\\?\\", MARK * sizeof *whole);
        free(wide);
        return whole;
    }
    free(whole);
    return wide;
}

static int images_look(const char *path, images_place *place)
{
    wchar_t *wide = images_wide(path);
    const unsigned long facts = wide ? GetFileAttributesW(wide) : 0xfffffffful;
    memset(place, 0, sizeof *place);
    free(wide);
    if (facts == 0xfffffffful) return 0;
    place->folder = (facts & 0x10) != 0;
    place->file = !(facts & 0x50); /* neither a folder nor a device */
    return 1;
}

static FILE *images_open(const char *path)
{
    wchar_t *wide = images_wide(path);
    FILE *file = wide ? _wfopen(wide, L"rb") : NULL;
    free(wide);
    return file;
}
#else
static int images_look(const char *path, images_place *place)
{
    struct stat info;
    memset(place, 0, sizeof *place);
    if (stat(path, &info) != 0) return 0;
    place->folder = S_ISDIR(info.st_mode);
    place->file = S_ISREG(info.st_mode);
    place->device = (uint64_t)info.st_dev;
    place->number = (uint64_t)info.st_ino;
    return 1;
}

static FILE *images_open(const char *path) { return fopen(path, "rb"); }
#endif

static int images_is_folder(const char *path)
{
    images_place place;
    return images_look(path, &place) && place.folder;
}

/* A file, or its first `most` bytes if it has more; NULL and a reason if there are none. */
static uint8_t *images_read_part(const char *path, size_t most, size_t *size, const char **why)
{
    FILE *file;
    uint8_t *bytes = NULL;
    long length = -1;
    images_place place;
    *why = "cannot be opened";
    if (!images_look(path, &place)) return NULL;
    *why = "is no regular file"; /* opening a pipe would wait for somebody to write to it */
    if (!place.file) return NULL;
    *why = "cannot be opened";
    file = images_open(path);
    if (!file) return NULL;
    if (fseek(file, 0, SEEK_END) == 0) length = ftell(file);
    if (length < 0 || fseek(file, 0, SEEK_SET) != 0) {
        *why = "cannot be read";
    } else if (length == 0) {
        *why = "is empty";
    } else if (length > IMAGES_MAX_FILE) {
        *why = "is larger than 256 MB";
    } else {
        if ((size_t)length > most) length = (long)most;
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

/* The whole file, or NULL and a reason. */
static uint8_t *images_read(const char *path, size_t *size, const char **why)
{
    return images_read_part(path, IMAGES_MAX_FILE, size, why);
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

/* ---- one file -------------------------------------------------------------------------------------------- */

/* What the first bytes of a file say that it is. */
typedef struct images_format {
    const char *magic;
    int at, length, sure; /* sure: no text begins like this */
    const char *unread;   /* NULL: it is read */
} images_format;

static const images_format *images_format_of(const uint8_t *bytes, size_t size)
{
    static const images_format formats[] = {
        {"\xff\xd8\xff", 0, 3, 1, NULL},
        {"\x89PNG", 0, 4, 1, NULL},
        {"BM", 0, 2, 0, NULL},
        {"P5", 0, 2, 0, NULL},
        {"P6", 0, 2, 0, NULL},
        {"GIF8", 0, 4, 1, "is a GIF image, which is not read"},
        {"WEBP", 8, 4, 1, "is a WebP image, which is not read"},
        {"II*\0", 0, 4, 1, "is a TIFF image, which is not read"},
        {"MM\0*", 0, 4, 1, "is a TIFF image, which is not read"},
        {"8BPS", 0, 4, 1, "is a Photoshop file, which is not read"},
        {"ftypavi", 4, 7, 1, "is an AVIF image, which is not read"},
        {"ftyphei", 4, 7, 1, "is a HEIC image, which is not read"},
        {"ftypmif", 4, 7, 1, "is a HEIC image, which is not read"},
        {"jP  ", 4, 4, 1, "is a JPEG 2000 image, which is not read"},
        {"JXL ", 4, 4, 1, "is a JPEG XL image, which is not read"},
        {"\xff\x0a", 0, 2, 0, "is a JPEG XL image, which is not read"},
    };
    size_t i;
    for (i = 0; i < sizeof formats / sizeof *formats; ++i) {
        const images_format *f = &formats[i];
        if (size >= (size_t)(f->at + f->length) && memcmp(bytes + f->at, f->magic, (size_t)f->length) == 0)
            return f;
    }
    return NULL;
}

/* Components and orientation of a JPEG, from one of its segments. */
static void images_jpeg_facts(images_picture *p, int marker, const uint8_t *body, size_t length)
{
    if (marker >= 0xc0 && marker <= 0xcf && marker != 0xc4 && marker != 0xc8 && marker != 0xcc && length >= 6)
        p->four_channel_jpeg = body[5] == 4;
    if (marker == 0xee && length >= 12 && memcmp(body, "Adobe", 5) == 0) p->adobe_jpeg = 1;
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
            const int orientation = little ? e[8] : e[9];
            if (tag == 0x0112) p->rotated = orientation > 1 && orientation < 9 ? orientation : 0;
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
    for (;;) {
        int marker;
        while (at < size && bytes[at] != 0xff) ++at;
        while (at < size && bytes[at] == 0xff) ++at;
        if (at == size) return 0;
        marker = bytes[at++];
        if (marker == 0xd9) return p->scans > 0;
        if (marker <= 0x01 || (marker >= 0xd0 && marker <= 0xd8)) continue; /* no segment follows */
        if (size - at < 2) return 0;
        length = (size_t)bytes[at] << 8 | bytes[at + 1];
        if (length < 2 || length > size - at) return 0;
        if (marker == 0xc4 && !images_jpeg_tables_fit(bytes + at + 2, length - 2)) return 0;
        images_jpeg_facts(p, marker, bytes + at + 2, length - 2);
        p->scans += marker == 0xda;
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

/* A PNM's header, 0 if it or its pixels end too early. */
typedef struct images_pnm {
    int w, h, channels, most; /* most: the number that stands for white */
    size_t at;                /* of the first pixel */
} images_pnm;

static int images_pnm_header(const uint8_t *bytes, size_t size, images_pnm *p)
{
    uint64_t numbers[3];
    int i;
    p->at = 2;
    for (i = 0; i < 3; ++i) { /* width, height, largest value */
        uint64_t value = 0;
        for (; p->at < size && (isspace(bytes[p->at]) || bytes[p->at] == '#'); ++p->at) {
            if (bytes[p->at] == '#') {
                while (p->at + 1 < size && bytes[p->at] != '\n' && bytes[p->at] != '\r') ++p->at;
            }
        }
        for (; p->at < size && isdigit(bytes[p->at]) && value < 100000; ++p->at)
            value = value * 10 + (uint64_t)(bytes[p->at] - '0');
        if (value < 1 || value > 65535) return 0;
        numbers[i] = value;
    }
    p->w = (int)numbers[0], p->h = (int)numbers[1], p->most = (int)numbers[2];
    p->channels = bytes[1] == '6' ? 3 : 1;
    if (p->at == size || !isspace(bytes[p->at])) return 0;
    ++p->at;
    return numbers[0] * numbers[1] * (uint64_t)p->channels * (p->most > 255 ? 2 : 1) <= size - p->at;
}

/* Bytes that the pixels of a PNG are before they are packed, with a byte for the filter of each line; those of an
   interlaced one in its seven passes. 0 for a header that no PNG has. To be asked of one that is whole. */
static uint64_t images_png_bytes(const uint8_t *bytes)
{
    static const uint8_t colours[7] = {1, 0, 3, 1, 2, 0, 4}; /* by type */
    static const uint8_t passes[7][4] = {{0, 8, 0, 8}, {4, 8, 0, 8}, {0, 4, 4, 8}, {2, 4, 0, 4},
                                         {0, 2, 2, 4}, {1, 2, 0, 2}, {0, 1, 1, 2}}; /* x, step, y, step */
    uint64_t w, h, bits, sum = 0;
    int i;
    const uint8_t *head = bytes + 16;
    if (memcmp(bytes + 12, "CgBI", 4) == 0) head += 16; /* Apple's */
    if (head[9] > 6) return 0;
    w = images_be32(head), h = images_be32(head + 4);
    bits = (uint64_t)head[8] * colours[head[9]];
    if (!head[12]) return h * (1 + (w * bits + 7) / 8);
    for (i = 0; i < 7; ++i) {
        const uint64_t across = (w + passes[i][1] - 1 - passes[i][0]) / passes[i][1],
                       down = (h + passes[i][3] - 1 - passes[i][2]) / passes[i][3];
        if (across && down) sum += down * (1 + (across * bits + 7) / 8);
    }
    return sum;
}

/* Packed bytes of a PNG whose chunks have been checked; into `to`, if it is not NULL. */
static size_t images_png_packed(const uint8_t *bytes, uint8_t *to)
{
    size_t at = 8, sum = 0;
    for (;;) {
        const size_t length = images_be32(bytes + at);
        if (memcmp(bytes + at + 4, "IEND", 4) == 0) return sum;
        if (memcmp(bytes + at + 4, "IDAT", 4) == 0) {
            if (to) memcpy(to + sum, bytes + at + 8, length);
            sum += length;
        }
        at += length + 12;
    }
}

/* The decoder unpacks for as long as there is something to unpack, a gigabyte from a megabyte. So this is tried
   before, into as much as the header says and a little, which some writers leave behind. */
static int images_png_unpacks(const uint8_t *bytes, const char **why)
{
    enum { LEFT_BEHIND = 4096 };
    const size_t packed = images_png_packed(bytes, NULL), wanted = (size_t)images_png_bytes(bytes);
    uint8_t *from = (uint8_t *)images_memory(packed, 1), *to = (uint8_t *)images_memory(wanted + LEFT_BEHIND, 1);
    int got = -1;
    *why = "does not fit in memory";
    if (from && to) {
        images_png_packed(bytes, from);
        got =
            memcmp(bytes + 12, "CgBI", 4) == 0
                ? stbi_zlib_decode_noheader_buffer((char *)to, (int)(wanted + LEFT_BEHIND), (const char *)from,
                                                   (int)packed)
                : stbi_zlib_decode_buffer((char *)to, (int)(wanted + LEFT_BEHIND), (const char *)from, (int)packed);
        *why = "is damaged, or a PNG with more in it than its header says";
    }
    free(from);
    free(to);
    return got >= 0 && (size_t)got >= wanted;
}

/* Pixels that so many bytes can stand for: a block of 8x8 takes a bit of a JPEG at least, where all channels have
   all pixels or some half of them, and deflate packs 1032 to 1. So a file's own size bounds what it costs. */
static int images_is_plausible(const uint8_t *bytes, size_t size, const images_picture *p)
{
    if (bytes[0] == 0xff) return (uint64_t)p->w * (uint64_t)p->h <= 1024 * (uint64_t)size;
    if (bytes[0] == 0x89) {
        const uint64_t pixels = images_png_bytes(bytes);
        return pixels <= 1040 * (uint64_t)images_png_packed(bytes, NULL) && pixels < (uint64_t)1 << 30;
    }
    return 1;
}

/* Size and channels of a file, from its header; 0 and a reason if it should not be decoded. A decoder fills in for
   missing or wrong data silently: what can be known beforehand is looked at here. */
static int images_header(const uint8_t *bytes, size_t size, images_picture *p, const char **why)
{
    const int is_jpeg = size > 2 && bytes[0] == 0xff && bytes[1] == 0xd8;
    const int is_png = size > 8 && memcmp(bytes, "\x89PNG", 4) == 0;
    const int is_bmp = size > 2 && bytes[0] == 'B' && bytes[1] == 'M';
    const int is_pnm = size > 2 && bytes[0] == 'P' && (bytes[1] == '5' || bytes[1] == '6');
    images_pnm pnm;
    memset(p, 0, sizeof *p);
    *why = "is no JPEG, PNG, BMP or PNM image that can be read";
    if (size > IMAGES_MAX_FILE || (!is_jpeg && !is_png && !is_bmp && !is_pnm)) return 0;
    *why = "ends too early or is damaged";
    if (is_jpeg && !images_jpeg_is_whole(bytes, size, p)) return 0;
    if (is_png && !images_png_is_whole(bytes, size)) return 0;
    *why = "is a JPEG of more than 100 scans, which nobody writes";
    if (p->scans > IMAGES_MAX_SCANS) return 0;
    if (is_pnm) {
        *why = "is a PNM that ends too early or is damaged";
        if (!images_pnm_header(bytes, size, &pnm)) return 0;
        p->w = pnm.w, p->h = pnm.h, p->channels = pnm.channels, p->sixteen_bit = pnm.most > 255;
    } else {
        *why = "is no JPEG, PNG, BMP or PNM image that can be read";
        if (!stbi_info_from_memory(bytes, (int)size, &p->w, &p->h, &p->channels)) return 0;
        p->sixteen_bit = is_png && stbi_is_16_bit_from_memory(bytes, (int)size);
    }
    if (p->h < 0 && p->h >= -IMAGES_MAX_PIXELS) p->h = -p->h; /* a BMP from top to bottom */
    *why = "has no pixels, or more than 89 million";
    if (p->w < 1 || p->h < 1 || p->w > IMAGES_MAX_PIXELS / p->h) return 0;
    *why = "ends too early or is damaged";
    return images_is_plausible(bytes, size, p) && (!is_bmp || images_bmp_is_whole(bytes, size, p->w, p->h));
}

/* The bits that count of numbers up to this in files with 16: cameras and scanners have 10, 12 or 14. */
static int images_bits_of(unsigned most)
{
    return most < 256 ? 8 : most < 1024 ? 10 : most < 4096 ? 12 : most < 16384 ? 14 : 16;
}

/* Numbers of 16 bits, as many a pixel as the file has channels; NULL without memory or of a damaged file. */
static uint16_t *images_decode_deep(const uint8_t *bytes, size_t size, images_picture *p)
{
    images_pnm pnm;
    uint16_t *numbers;
    size_t i, count;
    if (bytes[0] != 'P') return stbi_load_16_from_memory(bytes, (int)size, &p->w, &p->h, &p->channels, 0);
    (void)images_pnm_header(bytes, size, &pnm);
    count = (size_t)p->w * (size_t)p->h * (size_t)p->channels;
    numbers = (uint16_t *)images_memory(count, sizeof *numbers);
    for (i = 0; numbers && i < count; ++i) {
        const uint8_t *b = bytes + pnm.at + 2 * i;
        const uint32_t value = (uint32_t)b[0] << 8 | b[1], most = (uint32_t)pnm.most;
        numbers[i] = (uint16_t)(value > most ? 65535 : (value * 65535u + most / 2) / most);
    }
    return numbers;
}

static unsigned images_largest(const uint16_t *numbers, const images_picture *p)
{
    const size_t count = (size_t)p->w * (size_t)p->h * (size_t)p->channels;
    unsigned most = 0;
    size_t i;
    for (i = 0; i < count; ++i) most = numbers[i] > most ? numbers[i] : most;
    return most;
}

/* As many channels as the file has, of 8 bits. bits: how many of 16 count; 0: as many as this file's largest number
   has. */
static uint8_t *images_decode_raw(const uint8_t *bytes, size_t size, int bits, images_picture *p)
{
    size_t i, count;
    uint8_t *pixels;
    if (p->sixteen_bit) {
        uint16_t *numbers = images_decode_deep(bytes, size, p);
        if (!numbers) return NULL;
        if (!bits) bits = images_bits_of(images_largest(numbers, p));
        count = (size_t)p->w * (size_t)p->h * (size_t)p->channels;
        pixels = (uint8_t *)images_memory(count, 1);
        for (i = 0; pixels && i < count; ++i) {
            const unsigned value = (unsigned)numbers[i] >> (bits - 8);
            pixels[i] = (uint8_t)(value > 255 ? 255 : value);
        }
        free(numbers);
        return pixels;
    }
    if (bytes[0] == 'P') {
        images_pnm pnm;
        (void)images_pnm_header(bytes, size, &pnm);
        count = (size_t)p->w * (size_t)p->h * (size_t)p->channels;
        pixels = (uint8_t *)images_memory(count, 1);
        for (i = 0; pixels && i < count; ++i) {
            const int value = bytes[pnm.at + i];
            pixels[i] = (uint8_t)(value > pnm.most ? 255 : (value * 255 + pnm.most / 2) / pnm.most);
        }
        return pixels;
    }
    if (p->four_channel_jpeg && !p->adobe_jpeg) {
        /* Without Adobe's mark the decoder takes four channels for other colours; Pillow, and all others by now,
           for ink as Adobe writes it. So the mark is put there. */
        static const uint8_t mark[] = {0xff, 0xd8, 0xff, 0xee, 0, 14, 'A', 'd', 'o',
                                       'b',  'e',  0,    100,  0, 0,  0,   0,   0};
        uint8_t *marked = (uint8_t *)images_memory(size + sizeof mark, 1);
        if (!marked) return NULL;
        memcpy(marked, mark, sizeof mark);
        memcpy(marked + sizeof mark, bytes + 2, size - 2);
        pixels = stbi_load_from_memory(marked, (int)(size + sizeof mark - 2), &p->w, &p->h, &p->channels, 0);
        free(marked);
        return pixels;
    }
    return stbi_load_from_memory(bytes, (int)size, &p->w, &p->h, &p->channels, 0);
}

/* (pixels, p->channels) of 1 to 4 to `want` channels of 1 or 3. Transparency is dropped without blending, as
   Pillow's convert("RGB") does; grey has Pillow's weights: stb's differ by one in half of all colours. */
static uint8_t *images_convert(uint8_t *pixels, int want, images_picture *p)
{
    const size_t count = (size_t)p->w * (size_t)p->h, from = (size_t)p->channels;
    uint8_t *to = want == 3 && from < 3 ? (uint8_t *)images_memory(count, 3) : pixels;
    size_t i;
    for (i = 0; to && i < count; ++i) {
        const uint8_t *c = pixels + i * from;
        if (from % 2 == 0) p->transparent |= c[from - 1] != 255;
        if (want == 3) {
            const uint8_t rgb[3] = {c[0], c[from < 3 ? 0 : 1], c[from < 3 ? 0 : 2]};
            memcpy(to + 3 * i, rgb, 3);
        } else {
            to[i] = from < 3 ? c[0] : (uint8_t)((19595u * c[0] + 38470u * c[1] + 7471u * c[2] + 0x8000u) >> 16);
        }
    }
    if (to != pixels) free(pixels);
    p->channels = want;
    return to;
}

/* Decodes to 1 or 3 channels; 0 and a reason if it cannot be done. `want` 0: as many as the file has colour. bits:
   how many of 16 count in the set that the file is of; 0: as many as it uses, for a file alone. */
static int images_decode_like(const uint8_t *bytes, size_t size, int want, int bits, images_picture *p,
                              const char **why)
{
    if (!images_header(bytes, size, p, why)) return 0;
    if (bytes[0] == 0x89 && !images_png_unpacks(bytes, why)) return 0;
    if (!want) want = p->channels < 3 ? 1 : 3;
    *why = "is damaged";
    p->pixels = images_decode_raw(bytes, size, bits, p);
    if (!p->pixels) return 0;
    *why = "does not fit in memory";
    p->pixels = images_convert(p->pixels, want, p);
    return p->pixels != NULL;
}

IMAGES_PUBLIC static int images_decode(const uint8_t *bytes, size_t size, int want, images_picture *p,
                                       const char **why)
{
    return images_decode_like(bytes, size, want, 0, p, why);
}

/* ---- from one size to another ---------------------------------------------------------------------------- */

/* Why an image of this size cannot be brought to another; NULL if it can. A line is not resized to a square: whole,
   it would take far more memory than the middle that is kept. */
static const char *images_too_long(int w, int h, int width, int height, const images_framing *f)
{
    const double edge = images_edge(f, width, height), longest = w > h ? w : h;
    const double pixels = f->way == IMAGES_CROP ? edge * edge * longest / (w > h ? h : w)
                                                : longest * (width > height ? width : height);
    return images_fits(w, h, width, height, f) || pixels <= IMAGES_MAX_PIXELS
               ? NULL
               : "is too long and narrow to be resized";
}

/* The same for the images of a set. */
static const char *images_misfit(int w, int h, const images *s)
{
    if (!s->sized && s->width != s->height && (w != s->width || h != s->height))
        return "has a size of its own; say which to bring all to (--size 32)";
    return images_too_long(w, h, s->width, s->height, &s->framing);
}

/* Turns a picture as EXIF says that it is to be seen; one that says nothing stays. 0 without memory. */
static int images_turn(images_picture *p)
{
    const int turned = p->rotated, aside = turned >= 5, w = aside ? p->h : p->w, h = aside ? p->w : p->h;
    const size_t c = (size_t)p->channels;
    uint8_t *to = turned ? (uint8_t *)images_memory((size_t)w * (size_t)h, c) : NULL;
    int x, y;
    if (!turned) return 1;
    for (y = 0; to && y < h; ++y) {
        for (x = 0; x < w; ++x) {
            int from_x = aside ? y : x, from_y = aside ? x : y;
            if (turned == 2 || turned == 3 || turned == 7 || turned == 8) from_x = p->w - 1 - from_x;
            if (turned == 3 || turned == 4 || turned == 6 || turned == 7) from_y = p->h - 1 - from_y;
            memcpy(to + ((size_t)y * (size_t)w + (size_t)x) * c,
                   p->pixels + ((size_t)from_y * (size_t)p->w + (size_t)from_x) * c, c);
        }
    }
    if (!to) return 0;
    free(p->pixels);
    p->pixels = to, p->w = w, p->h = h;
    return 1;
}

/* The words of a framing, at most 40; "" of the usual one. */
IMAGES_PUBLIC static void images_framing_words(const images_framing *f, char *text, size_t size)
{
    char how[32] = "";
    if (f->way == IMAGES_CROP && f->edge)
        snprintf(how, sizeof how, "crop=%d", f->edge);
    else if (f->by_mean)
        snprintf(how, sizeof how, "pad=mean");
    else if (f->way == IMAGES_PAD)
        snprintf(how, sizeof how, "pad=%d,%d,%d", f->colour[0], f->colour[1], f->colour[2]);
    else if (f->way == IMAGES_STRETCH)
        snprintf(how, sizeof how, "stretch");
    snprintf(text, size, "%s%s", *how ? how : f->upright ? "crop" : "", f->upright ? " exif" : "");
}

/* What becomes of images of another size, behind "were brought to this size, ". */
static images_path images_framing_said(const images_framing *f)
{
    static const char *const ways[] = {"their edges cut off where they are no squares",
                                       "stretched where they are no squares"};
    images_path said;
    if (f->way == IMAGES_PAD)
        snprintf(said.chars, sizeof said.chars, "with the colour %d,%d,%d beside them where they are no squares",
                 f->colour[0], f->colour[1], f->colour[2]);
    else if (f->way == IMAGES_CROP && f->edge)
        snprintf(said.chars, sizeof said.chars, "cut out of their middle once their shorter edge was %d", f->edge);
    else
        snprintf(said.chars, sizeof said.chars, "%s", ways[f->way]);
    return said;
}

/* ---- lists of files -------------------------------------------------------------------------------------- */

typedef struct images_file {
    char *path;
    int label, tile_w, tile_h; /* tiles: 0 for a single picture */
    int kind;                  /* what its name says, as images_kind */
    int number;                /* among images.paths */
} images_file;

typedef struct images_list {
    images_file *files;
    int count, capacity;
} images_list;

static int images_by_text(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

static void images_names_free(char **names, int count)
{
    while (names && count > 0) free(names[--count]);
    free(names);
}

/* Adds a copy of a name. */
static int images_add_name(char ***names, int *count, int *capacity, const char *name)
{
    if (*count == *capacity) {
        char **bigger = (char **)realloc(*names, (size_t)(*capacity = *capacity * 2 + 64) * sizeof **names);
        if (!bigger) return 0;
        *names = bigger;
    }
    (*names)[*count] = images_join("", name);
    if (!(*names)[*count]) return 0;
    ++*count;
    return 1;
}

/* Whether a name in a folder leads to that which is to be left alone. Names are compared first: that is
   cheap. */
static int images_is_apart(const images *s, const char *folder, const char *name)
{
    images_place here, apart;
    const size_t length = strlen(name);
    size_t end = s->apart ? strlen(s->apart) : 0;
    char *path;
    int same;
    while (end > 0 && s->apart[end - 1] == '/') --end;
    if (end < length || memcmp(s->apart + end - length, name, length) != 0 ||
        (end > length && s->apart[end - length - 1] != '/'))
        return 0;
    path = images_join(folder, name);
    same = path && images_look(path, &here) && images_look(s->apart, &apart) && here.folder &&
           here.number == apart.number && here.device == apart.device && here.number != 0;
    free(path);
    return same;
}

/* What is in a folder, in byte order, without names that begin with a dot; those are counted in *hidden, unless
   that is NULL. */
static int images_names(images *s, const char *folder, char ***names, int *count, int *hidden)
{
    int capacity = 0, ok = 1, dots = 0, i;
#if defined(_WIN32)
    struct _wfinddata64_t entry;
    char *pattern = images_join(folder, "*");
    wchar_t *wide = pattern ? images_wide(pattern) : NULL;
    const intptr_t search = wide ? _wfindfirst64(wide, &entry) : -1;
    int more = search != -1;
    *names = NULL;
    *count = 0;
    free(pattern);
    free(wide);
    if (!more) return images_fail(s, "cannot read the folder %s", images_shown(folder).chars);
    for (; ok && more; more = _wfindnext64(search, &entry) == 0) {
        char name[1024]; /* a name has 260 letters at most */
        if (entry.name[0] == L'.' ||
            !WideCharToMultiByte(65001, 0, entry.name, -1, name, sizeof name, NULL, NULL)) {
            dots += wcscmp(entry.name, L".") != 0 && wcscmp(entry.name, L"..") != 0;
            continue;
        }
        ok = images_add_name(names, count, &capacity, name);
    }
    _findclose(search);
#else
    DIR *dir = opendir(folder);
    const struct dirent *entry;
    *names = NULL;
    *count = 0;
    if (!dir) return images_fail(s, "cannot read the folder %s", images_shown(folder).chars);
    while (ok && (entry = readdir(dir)) != NULL) {
        if (entry->d_name[0] != '.')
            ok = images_add_name(names, count, &capacity, entry->d_name);
        else
            dots += strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
    }
    closedir(dir);
#endif
    if (hidden) *hidden += dots;
    for (i = 0; ok && i < *count; ++i) {
        if (!images_is_apart(s, folder, (*names)[i])) continue;
        free((*names)[i]);
        (*names)[i--] = (*names)[--*count];
    }
    if (*count) qsort(*names, (size_t)*count, sizeof **names, images_by_text);
    return ok || images_fail(s, "out of memory");
}

/* What a name says: 1: an image that is read, 2: one that is not, 0: nothing. */
static int images_kind(const char *name)
{
    static const char *const read[] = {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".ppm", ".pgm", ".pnm", ".bmp"};
    static const char *const known[] = {".tif", ".tiff", ".webp", ".gif", ".psd", ".tga", ".avif", ".heic", ".jp2"};
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
    f->kind = images_kind(name);
    if (!f->path) return 0;
    (void)images_sheet(name, &f->tile_w, &f->tile_h);
    ++list->count;
    return 1;
}

/* All files below a class folder: which are images, their contents tell. A link that leads back to a folder above
   is not followed. */
static int images_collect(images *s, images_list *list, const char *folder, int label, const images_place *above,
                          int depth)
{
    images_place seen[IMAGES_MAX_DEPTH + 1];
    int count, i, j, ok;
    char **names;
    if (depth >= IMAGES_MAX_DEPTH)
        return images_fail(s, "folders are nested more than %d deep at %s", (int)IMAGES_MAX_DEPTH,
                           images_shown(folder).chars);
    for (j = 0; j < depth; ++j) seen[j] = above[j];
    if (!images_look(folder, &seen[depth]))
        return images_fail(s, "cannot read the folder %s", images_shown(folder).chars);
    for (j = 0; j < depth; ++j) {
        if (seen[j].device == seen[depth].device && seen[j].number == seen[depth].number && seen[j].number != 0)
            return 1;
    }
    ok = images_names(s, folder, &names, &count, &s->hidden);
    for (i = 0; i < count && ok; ++i) {
        char *path = images_join(folder, names[i]);
        if (!path)
            ok = images_fail(s, "out of memory");
        else if (images_is_folder(path))
            ok = images_collect(s, list, path, label, seen, depth + 1);
        else
            ok = images_add(list, path, names[i], label) || images_fail(s, "out of memory");
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

static int images_find_class(const images *s, const char *name, size_t length)
{
    int i;
    for (i = 0; i < s->class_count; ++i) {
        if (strlen(s->class_names[i]) == length && memcmp(s->class_names[i], name, length) == 0) return i;
    }
    return -1;
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
    i = images_find_class(s, name, length);
    if (i >= 0) return i;
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
    ok = images_names(s, folder, &names, &count, NULL);
    for (i = 0; i < count && ok; ++i) {
        char *path = images_join(folder, names[i]);
        const size_t sheet = images_kind(names[i]) == 1 ? images_sheet(names[i], &w, &h) : 0;
        if (!path)
            ok = images_fail(s, "out of memory");
        else if (images_is_folder(path))
            ok = images_class(s, names[i], strlen(names[i])) >= 0;
        else if (sheet)
            ok = images_class(s, names[i], sheet) >= 0;
        else
            s->loose += images_kind(names[i]) != 0;
        free(path);
    }
    images_names_free(names, count);
    return ok;
}

static int images_list_split(images *s, const char *folder, images_list *list)
{
    int count, i, w, h, ok;
    char **names;
    ok = images_names(s, folder, &names, &count, NULL);
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
static int images_keep_paths(images *s, const char *folder, images_list *list)
{
    size_t above = strlen(folder);
    int i, ok = 1;
    if (folder[above - 1] != '/') ++above;
    for (i = 0; i < list->count && ok; ++i)
        ok = (list->files[i].number = images_add_path(s, list->files[i].path + above)) >= 0;
    return ok || images_fail(s, "out of memory");
}

static void images_list_free(images_list *list)
{
    int i;
    for (i = 0; i < list->count; ++i) free(list->files[i].path);
    free(list->files);
}

/* ---- which folder is for what ----------------------------------------------------------------------------- */

enum { IMAGES_TRAIN, IMAGES_VALIDATION, IMAGES_TEST, IMAGES_SPLITS };

static const char *const images_split_uses[IMAGES_SPLITS] = {"to learn from", "to choose with", "to test with"};

/* In small letters; in a folder's name they may stand in any, and with others, as in "Training_Set". */
static const struct images_split_word {
    const char *word;
    int split;
} images_split_words[] = {
    {"train", IMAGES_TRAIN},           {"training", IMAGES_TRAIN}, {"test", IMAGES_TEST},
    {"testing", IMAGES_TEST},          {"val", IMAGES_VALIDATION}, {"valid", IMAGES_VALIDATION},
    {"eval", IMAGES_VALIDATION},       {"dev", IMAGES_VALIDATION}, {"validation", IMAGES_VALIDATION},
    {"evaluation", IMAGES_VALIDATION},
};

/* Words that add nothing to those. */
static int images_is_filler(const char *word)
{
    static const char *const fillers[] = {"", "set", "data", "dataset", "images", "imgs", "split", "folder"};
    size_t i = 0;
    while (i < sizeof fillers / sizeof *fillers && strcmp(word, fillers[i]) != 0) ++i;
    return i < sizeof fillers / sizeof *fillers;
}

static int images_split_of_word(const char *word)
{
    size_t i;
    for (i = 0; i < sizeof images_split_words / sizeof *images_split_words; ++i) {
        const size_t length = strlen(images_split_words[i].word);
        if (strncmp(word, images_split_words[i].word, length) == 0 && images_is_filler(word + length))
            return images_split_words[i].split;
    }
    return -1;
}

/* The split that a folder's name speaks of, and the other words of the name; -1: of none, or of two. Words end at
   what is no letter, at digits, and where a capital follows a small letter. */
static int images_split_of(const char *name, char *rest, size_t room)
{
    char word[64];
    size_t length = 0, used = 0;
    int split = -1, before = 0, of;
    *rest = 0;
    for (;; ++name) {
        const unsigned char c = (unsigned char)*name;
        const int kind = isdigit(c) ? 1 : isalpha(c) || c > 127 ? 2 : 0;
        const int capital = length > 0 && isupper(c) && islower((unsigned char)name[-1]);
        if (length > 0 && (kind != before || capital)) {
            word[length] = 0;
            of = images_split_of_word(word);
            if (of >= 0 && split >= 0) return -1;
            if (of >= 0)
                split = of;
            else if (!images_is_filler(word))
                used += (size_t)snprintf(rest + used, room - used, "%s ", word);
            if (used >= room) return -1;
            length = 0;
        }
        before = kind;
        if (!c) return split;
        if (length == sizeof word - 1) return -1;
        if (kind) word[length++] = (char)tolower(c);
    }
}

/* Folders (and sheets) in a folder, and images. */
static int images_contents(images *s, const char *folder, int *folders, int *pictures)
{
    int count, i, w, h, ok;
    char **names;
    *folders = *pictures = 0;
    ok = images_names(s, folder, &names, &count, NULL);
    for (i = 0; i < count && ok; ++i) {
        char *path = images_join(folder, names[i]);
        ok = path || images_fail(s, "out of memory");
        if (path && (images_is_folder(path) || (images_kind(names[i]) == 1 && images_sheet(names[i], &w, &h))))
            ++*folders;
        else
            *pictures += images_kind(names[i]) != 0;
        free(path);
    }
    images_names_free(names, count);
    return ok;
}

/* A folder that holds nothing but one that holds several: the inner one is meant, unless its name means something.
   top: of the whole set, where that is the name of a split; else where it is a class. */
static int images_unwrap(images *s, char **folder, int top)
{
    int count, i, ok, folders = 0, pictures = 0, inner_folders = 0, inner_pictures;
    char **names, *only = NULL, rest[64];
    ok = images_names(s, *folder, &names, &count, NULL);
    for (i = 0; i < count && ok; ++i) {
        char *path = images_join(*folder, names[i]);
        ok = path || images_fail(s, "out of memory");
        pictures += images_kind(names[i]) != 0;
        if (path && images_is_folder(path) && ++folders == 1 &&
            (top ? images_split_of(names[i], rest, sizeof rest) < 0
                 : images_find_class(s, names[i], strlen(names[i])) < 0))
            only = path;
        else
            free(path);
    }
    images_names_free(names, count);
    if (ok && folders == 1 && !pictures && only) ok = images_contents(s, only, &inner_folders, &inner_pictures);
    if (ok && inner_folders > 1) {
        images_say(s, "%s holds nothing but a folder: that one is taken in its place", images_shown(*folder).chars);
        free(*folder);
        *folder = only;
        return 1;
    }
    free(only);
    return ok;
}

typedef struct images_candidate {
    char *name, rest[64];
    int split, folders, pictures, used;
} images_candidate;

/* The folders inside a folder. */
static int images_candidates(images *s, const char *folder, images_candidate **found, int *found_count)
{
    int count, i, ok;
    char **names;
    *found_count = 0;
    ok = images_names(s, folder, &names, &count, NULL);
    *found = (images_candidate *)images_memory((size_t)count + 1, sizeof **found);
    if (ok && !*found) ok = images_fail(s, "out of memory");
    for (i = 0; i < count && ok; ++i) {
        images_candidate *c = &(*found)[*found_count];
        char *path = images_join(folder, names[i]);
        ok = path || images_fail(s, "out of memory");
        if (path && images_is_folder(path)) {
            c->split = images_split_of(names[i], c->rest, sizeof c->rest);
            if (c->split >= 0) ok = images_contents(s, path, &c->folders, &c->pictures);
            /* a folder for training that is still empty is one all the same */
            if (c->split == IMAGES_TRAIN && !c->folders && !c->pictures) c->folders = 1;
            c->name = names[i];
            names[i] = NULL;
            ++*found_count;
        }
        free(path);
    }
    for (i = 0; i < count; ++i) free(names[i]);
    free(names);
    return ok;
}

/* The candidate for a split whose name has the same other words, else the only one that there is. -1: none; -2 and
   a sentence: several. */
static int images_pick(images *s, const images_candidate *c, int count, int split, const char *rest,
                       const char *folder)
{
    int i, same = -1, other = -1, others = 0;
    for (i = 0; i < count; ++i) {
        if (c[i].split != split || !c[i].folders) continue;
        if (strcmp(c[i].rest, rest) != 0) {
            other = i, ++others;
        } else if (same >= 0) {
            images_fail(s, "\"%.100s\" and \"%.100s\" in %s both seem to hold the images %s; keep one of them",
                        c[same].name, c[i].name, images_shown(folder).chars, images_split_uses[split]);
            return -2;
        } else {
            same = i;
        }
    }
    return same >= 0 ? same : others == 1 ? other : -1;
}

/* The folder of the training images, -1 if there is none, -2 and a sentence if that cannot be told. */
static int images_pick_train(images *s, const images_candidate *c, int count, const char *folder)
{
    int train = images_pick(s, c, count, IMAGES_TRAIN, "", folder), i, j, paired = -1, others = 0;
    if (train == -2 || (train >= 0 && !c[train].rest[0])) return train;
    for (i = 0; i < count; ++i) others += c[i].split > IMAGES_TRAIN && c[i].folders;
    if (train >= 0) return others ? train : -1; /* "train_cars" alone is a class */
    for (i = 0; i < count; ++i) {
        if (c[i].split != IMAGES_TRAIN || !c[i].folders) continue;
        for (j = 0; j < count; ++j) {
            if (c[j].split <= IMAGES_TRAIN || !c[j].folders || strcmp(c[i].rest, c[j].rest) != 0) continue;
            if (paired >= 0 && paired != i) {
                images_fail(s,
                            "%s seems to hold several sets, with \"%.100s\" and with \"%.100s\" to learn from; put "
                            "each into a folder of its own",
                            images_shown(folder).chars, c[paired].name, c[i].name);
                return -2;
            }
            paired = i;
        }
    }
    return paired;
}

/* Without a folder to learn from, the folders are the classes; unless their names say that this cannot be meant. */
static int images_check_no_splits(images *s, const images_candidate *c, int count, const char *folder)
{
    int i, flat = 0, train = 0;
    for (i = 0; i < count; ++i) {
        if (c[i].split == IMAGES_TEST && c[i].folders && !c[i].rest[0])
            return images_fail(s, "%s has a test folder, but no train folder", images_shown(folder).chars);
        flat += c[i].split >= 0 && !c[i].folders;
        train |= c[i].split == IMAGES_TRAIN;
    }
    if (train && count > 1 && flat == count)
        return images_fail(s,
                           "the folders of %s, \"%.100s\" and \"%.100s\", hold images, but no folders for the "
                           "classes, so nothing says what is in them",
                           images_shown(folder).chars, c[0].name, c[1].name);
    return 1;
}

static void images_say_unused(images *s, const images_candidate *c, int count)
{
    char list[320] = "";
    size_t used = 0;
    int i, more = 0;
    for (i = 0; i < count; ++i) {
        if (c[i].used) continue;
        if (c[i].split > IMAGES_TRAIN && !c[i].folders && c[i].pictures)
            images_say(s, "\"%.100s\" has no folders for the classes, so its images have no labels: it is not used",
                       c[i].name);
        else if (used < 200)
            used += (size_t)snprintf(list + used, sizeof list - used, "%s\"%.100s\"", used ? ", " : "", c[i].name);
        else
            more = 1;
    }
    if (used) images_say(s, "not used: %s%s", list, more ? " and others" : "");
}

/* The paths of those that were picked, and a word where their names are not the usual ones. */
static int images_take_splits(images *s, const char *folder, images_candidate *c, const int *picked, char **paths)
{
    static const char *const usual[IMAGES_SPLITS] = {"train", "val", "test"};
    int i;
    for (i = 0; i < IMAGES_SPLITS; ++i) {
        if (picked[i] < 0) continue;
        c[picked[i]].used = 1;
        paths[i] = images_join(folder, c[picked[i]].name);
        if (!paths[i]) return images_fail(s, "out of memory");
        if (strcmp(c[picked[i]].name, usual[i]) != 0)
            images_say(s, "\"%.100s\" is taken for the images %s", c[picked[i]].name, images_split_uses[i]);
    }
    return 1;
}

/* The folders of the splits, to be freed: NULL where there is none. That of the training images is the whole
   folder if none is for them. Without one to test with, the one to choose with is for that. */
static int images_find_splits(images *s, const char *folder, char **paths)
{
    images_candidate *c = NULL;
    int picked[IMAGES_SPLITS] = {-1, -1, -1}, count = 0, i, ok;
    char *whole = images_join("", folder);
    ok = (whole || images_fail(s, "out of memory")) && images_unwrap(s, &whole, 1) &&
         images_candidates(s, whole, &c, &count);
    if (ok) picked[IMAGES_TRAIN] = images_pick_train(s, c, count, whole);
    if (ok && picked[IMAGES_TRAIN] == -1) {
        ok = images_check_no_splits(s, c, count, whole);
        paths[IMAGES_TRAIN] = whole;
        whole = NULL;
    } else if (ok) {
        ok = picked[IMAGES_TRAIN] >= 0;
        for (i = IMAGES_VALIDATION; ok && i < IMAGES_SPLITS; ++i) {
            picked[i] = images_pick(s, c, count, i, c[picked[IMAGES_TRAIN]].rest, whole);
            ok = picked[i] != -2;
        }
        if (ok && picked[IMAGES_TEST] < 0) {
            picked[IMAGES_TEST] = picked[IMAGES_VALIDATION];
            picked[IMAGES_VALIDATION] = -1;
        }
        ok = ok && images_take_splits(s, whole, c, picked, paths);
        if (ok) images_say_unused(s, c, count);
    }
    for (i = 0; i < count; ++i) free(c[i].name);
    free(c);
    free(whole);
    return ok;
}

/* Whether all names are those of splits, and not all of the same. */
static int images_are_splits(char *const *names, int count)
{
    char rest[64];
    int i, first = -1, differ = 0;
    for (i = 0; i < count; ++i) {
        const int split = images_split_of(names[i], rest, sizeof rest);
        if (split < 0) return 0;
        if (i == 0) first = split;
        differ |= split != first;
    }
    return differ;
}

/* Classes that all hold the same folders are hardly classes: these are, and those are splits or sources; unless the
   names inside are those of splits. */
static int images_check_meaning(images *s, const char *folder)
{
    char **first = NULL, **names = NULL;
    int first_count = 0, count = 0, i, j, alike = s->class_count > 1, ok = 1;
    for (i = 0; i < s->class_count && alike && ok; ++i) {
        char *path = images_join(folder, s->class_names[i]);
        ok = path || images_fail(s, "out of memory");
        alike = ok && images_is_folder(path); /* no sheet */
        if (alike) ok = images_names(s, path, i ? &names : &first, i ? &count : &first_count, NULL);
        if (alike && ok && i == 0) {
            alike = first_count > 1;
            for (j = 0; j < first_count && alike && ok; ++j) {
                char *inside = images_join(path, first[j]);
                ok = inside || images_fail(s, "out of memory");
                alike = ok && images_is_folder(inside);
                free(inside);
            }
        } else if (alike && ok) {
            alike = count == first_count;
            for (j = 0; j < count && alike; ++j) alike = strcmp(names[j], first[j]) == 0;
        }
        if (i) images_names_free(names, count);
        names = NULL, count = 0;
        free(path);
    }
    if (ok && alike && images_are_splits(first, first_count))
        ok = images_fail(
            s,
            "the folders of %s, such as \"%.100s\" and \"%.100s\", are probably the classes, but each holds "
            "\"%.100s\" and \"%.100s\": the images are expected the other way round, as %.100s/%.100s/...",
            images_shown(folder).chars, s->class_names[0], s->class_names[1], first[0], first[1], first[0],
            s->class_names[0]);
    else if (ok && alike)
        ok = images_fail(s,
                         "the folders of %s, such as \"%.100s\" and \"%.100s\", all hold the same folders, such as "
                         "\"%.100s\" and \"%.100s\", which are probably the classes: name the former train, val "
                         "and test, or give one of them alone",
                         images_shown(folder).chars, s->class_names[0], s->class_names[1], first[0], first[1]);
    images_names_free(first, first_count);
    return ok;
}

/* A folder with nothing but one inside that is no class, such as test/images: nobody knows what is in those. */
static int images_drop_unlabelled(images *s, char **path, int split)
{
    int count, i, folders = 0, pictures = 0, known = 0, ok;
    char **names;
    ok = images_names(s, *path, &names, &count, NULL);
    for (i = 0; i < count && ok; ++i) {
        char *inside = images_join(*path, names[i]);
        ok = inside || images_fail(s, "out of memory");
        if (inside && images_is_folder(inside)) {
            ++folders;
            known += images_find_class(s, names[i], strlen(names[i])) >= 0;
        } else {
            pictures += images_kind(names[i]) != 0;
        }
        free(inside);
    }
    if (ok && folders == 1 && !known && !pictures) {
        images_say(s, "%s has no folder of a class, so its images have no labels: there are none %s",
                   images_shown(*path).chars, images_split_uses[split]);
        free(*path);
        *path = NULL;
    }
    images_names_free(names, count);
    return ok;
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
    if (s->skipped < IMAGES_LISTED)
        snprintf(s->listed[s->skipped], sizeof s->listed[0], "%s %s", images_shown(f->path).chars, why);
    images_count_reason(s, why);
    ++s->skipped;
}

/* Of a file that is not decoded: whether it is no image at all, or one of a format that is not read; counts it
   then. bytes: NULL if it cannot even be read. */
static int images_is_other(images *s, const images_file *f, const uint8_t *bytes, size_t size)
{
    const images_format *format = bytes ? images_format_of(bytes, size) : NULL;
    if (f->kind == 1 || (format && format->sure && !format->unread)) return 0;
    if (f->kind == 2 || (format && format->unread && format->sure)) {
        ++s->unsupported;
        images_count_reason(s, format && format->unread ? format->unread
                                                        : "has the name of a format that is not read");
    } else {
        ++s->others;
        images_count_reason(s, "is no image");
    }
    return 1;
}

/* A file of 16 bits a number: what its largest one is; 0 if it is no such file or cannot be read. */
static unsigned images_depth(const uint8_t *bytes, size_t size)
{
    images_picture p;
    const char *why;
    uint16_t *numbers;
    unsigned most;
    if (!images_header(bytes, size, &p, &why) || !p.sixteen_bit) return 0;
    if (bytes[0] == 0x89 && !images_png_unpacks(bytes, &why)) return 0;
    numbers = images_decode_deep(bytes, size, &p);
    if (!numbers) return 0;
    most = images_largest(numbers, &p);
    free(numbers);
    return most;
}

/* Whether a file's first bytes promise numbers of 16 bits: those of a PNG do in its header, of a PNM may. */
static int images_may_be_deep(const uint8_t *bytes, size_t size)
{
    return (size > 24 && bytes[0] == 0x89 && (bytes[24] == 16 || bytes[12] == 'C')) ||
           (size > 1 && bytes[0] == 'P');
}

/* What the headers of all files to learn from say. */
typedef struct images_sizes {
    int w, h, alike;  /* of the first; whether all others are of that size */
    int w_to, h_to;   /* the longest sides */
    int count, small; /* files that can be read; of those, with a shorter side below 3/4 of the usual one */
    int all_grey;
    unsigned largest; /* number in files of 16 bits */
} images_sizes;

static void images_note_size(images_sizes *z, const images_file *f, const images_picture *p, int usual, int upright)
{
    const int aside = upright && p->rotated >= 5; /* once it is turned */
    const int w = f->tile_w ? f->tile_w : aside ? p->h : p->w, h = f->tile_w ? f->tile_h : aside ? p->w : p->h;
    if (!z->count++) z->w = w, z->h = h;
    z->alike &= w == z->w && h == z->h;
    z->all_grey &= p->channels < 3;
    z->w_to = w > z->w_to ? w : z->w_to;
    z->h_to = h > z->h_to ? h : z->h_to;
    z->small += 4 * (w < h ? w : h) < 3 * usual;
}

/* Reads headers, and whole files where one of 16 bits a number may be. */
static images_sizes images_measure(const images_list *list, const images_options *o)
{
    const int known = o->size && o->channels;
    images_sizes z = {0, 0, 1, 0, 0, 0, 0, 1, 0};
    int i;
    for (i = 0; i < list->count; ++i) {
        const images_file *f = &list->files[i];
        const char *why;
        size_t size;
        uint8_t *bytes = known ? images_read_part(f->path, 32, &size, &why) : images_read(f->path, &size, &why);
        images_picture p;
        unsigned largest;
        if (known && bytes && images_may_be_deep(bytes, size)) {
            free(bytes);
            bytes = images_read(f->path, &size, &why);
        }
        largest = bytes && images_may_be_deep(bytes, size) ? images_depth(bytes, size) : 0;
        z.largest = largest > z.largest ? largest : z.largest;
        if (!known && bytes && images_header(bytes, size, &p, &why))
            images_note_size(&z, f, &p, o->usual_size, o->framing.upright);
        free(bytes);
    }
    return z;
}

/* What is cut out of a picture lies in it. */
static int images_check_edge(images *s)
{
    const int edge = s->framing.way == IMAGES_CROP ? s->framing.edge : 0;
    return !edge || edge >= (s->width > s->height ? s->width : s->height) ||
           images_fail(s, "an edge of %d is too short to cut %dx%d out of the images", edge, s->width, s->height);
}

/* The side that images are brought to where nobody says one: 0 where they stay as they are. */
static int images_side(images *s, const images_sizes *z, const images_options *o)
{
    const int most = 3 * o->usual_size / 2;
    int side;
    if (z->alike && (!o->usual_size || z->w <= most || z->w != z->h)) return 0;
    if (!o->usual_size) return -1;
    side = 2 * z->small > z->count ? o->usual_size / 2 : o->usual_size;
    if (z->alike)
        images_say(s, "images of %dx%d take long to train on: all are brought to %dx%d; --size %d keeps them", z->w,
                   z->h, side, side, z->w < z->h ? z->w : z->h);
    else
        images_say(s,
                   "the images have different sizes, up to %dx%d: all are brought to %dx%d; --size says otherwise",
                   z->w_to, z->h_to, side, side);
    return side;
}

/* Size, channels and depth of the whole set, from the headers of all files to learn from. */
static int images_survey(images *s, const images_list *list, const images_options *o)
{
    const images_sizes z = images_measure(list, o);
    const int side = o->size ? o->size : images_side(s, &z, o);
    s->bits = z.largest ? images_bits_of(z.largest) : 16;
    s->channels = o->channels ? o->channels : z.all_grey ? 1 : 3;
    s->height = side ? side : z.h;
    s->width = o->size && o->width ? o->width : side ? side : z.w;
    if (side < 0) return images_fail(s, "the images have different sizes; say which to bring them to (--size 32)");
    if (!o->size && !z.count) return 1; /* nothing readable: reported by the caller */
    if (!images_check_edge(s)) return 0;
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
    int decoded = bytes && images_decode_like(bytes, size, s->channels, s->bits, &p, &why), x, y;
    int ok = decoded && (!s->framing.upright || images_turn(&p));
    const int other = !decoded && images_is_other(s, f, bytes, size);
    free(bytes);
    if (other) return 1;
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
    s->transparent += p.transparent;
    s->sixteen_bit += p.sixteen_bit;
    s->four_channel_jpeg += p.four_channel_jpeg;
    s->rotated += p.rotated > 0;
    sink->origin.place = -1;
    if (f->tile_w) {
        const size_t line = (size_t)p.w * (size_t)p.channels;
        for (y = 0; y + f->tile_h <= p.h && ok; y += f->tile_h) {
            for (x = 0; x + f->tile_w <= p.w && ok && room > 0; x += f->tile_w, --room) {
                const int columns = p.w / f->tile_w;
                const uint8_t *corner = p.pixels + (size_t)y * line + (size_t)x * (size_t)p.channels;
                sink->origin.place = y / f->tile_h * columns + x / f->tile_w;
                if (images_fits(f->tile_w, f->tile_h, s->width, s->height, &s->framing)) {
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
                    fitted = tile.pixels ? images_fit(&tile, s->width, s->height, &s->framing) : NULL;
                    ok = fitted && images_append(s, sink, fitted, (size_t)s->width * (size_t)p.channels, f->label);
                    ++s->resized;
                    free(fitted);
                }
            }
        }
        free(p.pixels);
    } else if (images_fits(p.w, p.h, s->width, s->height, &s->framing)) {
        ok = images_append(s, sink, p.pixels, (size_t)p.w * (size_t)p.channels, f->label);
        free(p.pixels);
    } else {
        uint8_t *fitted = images_fit(&p, s->width, s->height, &s->framing);
        ok = fitted && images_append(s, sink, fitted, (size_t)s->width * (size_t)s->channels, f->label);
        ++s->resized;
        free(fitted);
    }
    return ok || images_fail(s, "out of memory after %d images", sink->set->count);
}

/* Images of each class to learn from, 0: all. Of a set that is yet to be split, images_split knows. */
static int images_train_limit(const images_options *o)
{
    return o->train_limit && (!o->limit || o->train_limit < o->limit) ? o->train_limit : o->limit;
}

/* Reads a split: of each class, as many as the limit allows, 0: all; of files without a class (-1), all. */
static int images_load_list(images *s, const images_list *list, int limit, images_set *set)
{
    int *taken = (int *)images_memory((size_t)s->class_count, sizeof(int)), i, ok = taken != NULL;
    images_sink sink;
    sink.set = set;
    sink.capacity = 0;
    for (i = 0; i < list->count && ok; ++i) {
        const int label = list->files[i].label, before = set->count;
        const int room = limit && label >= 0 ? limit - taken[label] : INT32_MAX;
        sink.origin.file = list->files[i].number;
        if (room > 0) ok = images_load_file(s, &sink, &list->files[i], room);
        if (ok && label >= 0) taken[label] += set->count - before;
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
            ok = images_fail(s, "class \"%.200s\" has no readable image in %s", s->class_names[i],
                             images_shown(folder).chars);
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
    int *rank = (int *)images_memory((size_t)all.count, sizeof(int)), i, j, c, tests = 0, trains = 0, few = -1, ok;
    enum { LEFT_OUT, TRAIN, TEST };
    uint8_t *goes = (uint8_t *)images_memory((size_t)all.count, 1);
    if (!rank || !goes) {
        free(rank);
        free(goes);
        return images_fail(s, "out of memory");
    }
    for (c = 0; c < s->class_count; ++c) {
        int count = 0, first = 0, wanted;
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
        if (o->folds) { /* classes begin with different parts: what is left over does not meet in one of them */
            const int part = (o->fold + c) % o->folds;
            first = (int)((int64_t)count * part / o->folds);
            wanted = (int)((int64_t)count * (part + 1) / o->folds) - first;
            few = count < o->folds ? c : few;
        }
        if (wanted < 1) wanted = 1;
        if (wanted >= count) wanted = count - 1;
        if (wanted < 0) wanted = 0;
        for (i = 0; i < wanted; ++i) goes[rank[(first + i) % count]] = TEST;
        for (; i < count && (!o->train_limit || i < wanted + o->train_limit); ++i)
            goes[rank[(first + i) % count]] = TRAIN;
        tests += wanted;
        trains += i - wanted;
    }
    test.pixels = (uint8_t *)images_memory((size_t)tests, floats);
    test.labels = (int32_t *)images_memory((size_t)tests, sizeof(int32_t));
    train.pixels = (uint8_t *)images_memory((size_t)trains, floats);
    train.labels = (int32_t *)images_memory((size_t)trains, sizeof(int32_t));
    test.origin = (images_origin *)images_memory((size_t)tests, sizeof(images_origin));
    train.origin = (images_origin *)images_memory((size_t)trains, sizeof(images_origin));
    ok = test.pixels && test.labels && test.origin && train.pixels && train.labels && train.origin;
    for (i = 0; ok && i < all.count; ++i) {
        images_set *to = goes[i] == TEST ? &test : &train;
        if (goes[i] == LEFT_OUT) continue;
        j = to->count++;
        memcpy(to->pixels + (size_t)j * floats, all.pixels + (size_t)i * floats, floats);
        to->labels[j] = all.labels[i];
        to->origin[j] = all.origin[i];
    }
    free(rank);
    free(goes);
    images_set_free(&all);
    s->train = train;
    s->test = test;
    if (few >= 0)
        return images_fail(s, "class \"%.200s\" has fewer images than the %d folds, each of which tests some",
                           s->class_names[few], o->folds);
    return (test.count == tests && train.count == trains) || images_fail(s, "out of memory");
}

/* ---- copies ---------------------------------------------------------------------------------------------- */

enum { IMAGES_SETS = 4 };

typedef struct images_print {
    uint64_t hash;
    int set, index; /* set: as in images_copies, the training images first */
} images_print;

static int images_by_print(const void *a, const void *b)
{
    const images_print *x = (const images_print *)a, *y = (const images_print *)b;
    if (x->hash != y->hash) return x->hash < y->hash ? -1 : 1;
    if (x->set != y->set) return x->set - y->set;
    return x->index - y->index;
}

static uint64_t images_hash_pixels(const uint8_t *pixels, size_t size)
{
    uint64_t hash = size, word;
    size_t at;
    for (at = 0; at < size; at += sizeof word) {
        word = 0;
        memcpy(&word, pixels + at, size - at < sizeof word ? size - at : sizeof word);
        hash = images_hash(hash ^ word);
    }
    return hash;
}

/* Counts what one picture that is there `count` times adds to the copies. */
static void images_count_copies(images *s, const images_print *print, int count, const images_set *const *sets)
{
    images_copies *c = &s->copies;
    int in[IMAGES_SETS] = {0}, i, label = -1, several = 0;
    for (i = 0; i < count; ++i) {
        const int now = sets[print[i].set]->labels[print[i].index];
        ++in[print[i].set];
        several |= label >= 0 && now >= 0 && now != label;
        if (now >= 0) label = now;
    }
    c->train += in[0] > 1 ? in[0] - 1 : 0;
    c->validation += in[1] > 1 ? in[1] - 1 : 0;
    c->test += in[2] > 1 ? in[2] - 1 : 0;
    c->unlabelled += in[3] > 1 ? in[3] - 1 : 0;
    if (in[0]) c->validation_in_train += in[1], c->test_in_train += in[2];
    if (in[1]) c->test_in_validation += in[2];
    if (in[3]) c->test_in_unlabelled += in[2];
    c->two_labels += several;
}

/* Images whose pixels are the same, within the splits and between them. */
static int images_find_copies(images *s)
{
    const images_set *const sets[IMAGES_SETS] = {&s->train, &s->validation, &s->test, &s->unlabelled};
    const size_t image = (size_t)s->channels * (size_t)s->height * (size_t)s->width;
    images_print *prints;
    size_t count = 0, i, j, n = 0;
    int set, index;
    memset(&s->copies, 0, sizeof s->copies);
    for (set = 0; set < IMAGES_SETS; ++set) count += (size_t)sets[set]->count;
    prints = (images_print *)images_memory(count, sizeof *prints);
    if (!prints) return images_fail(s, "out of memory");
    for (set = 0; set < IMAGES_SETS; ++set) {
        for (index = 0; index < sets[set]->count; ++index, ++n) {
            prints[n].hash = images_hash_pixels(sets[set]->pixels + (size_t)index * image, image);
            prints[n].set = set;
            prints[n].index = index;
        }
    }
    qsort(prints, count, sizeof *prints, images_by_print);
    for (i = 0; i < count; i = j) {
        const uint8_t *first = sets[prints[i].set]->pixels + (size_t)prints[i].index * image;
        for (j = i + 1; j < count && prints[j].hash == prints[i].hash &&
                        memcmp(first, sets[prints[j].set]->pixels + (size_t)prints[j].index * image, image) == 0;
             ++j) {}
        if (j > i + 1) images_count_copies(s, prints + i, (int)(j - i), sets);
    }
    free(prints);
    return 1;
}

/* ---- IDX ------------------------------------------------------------------------------------------------- */

/* The file, unpacked if it is gzip (RFC 1952). */
static uint8_t *images_read_idx(images *s, const char *path, size_t *size)
{
    const int is_named = strcmp(path + strlen(path) - 3, ".gz") == 0;
    const char *why = "out of memory";
    uint8_t *bytes = images_read(path, size, &why), *unpacked = NULL;
    size_t at = 10, length;
    uint32_t crc;
    if (bytes && !is_named && (*size < 2 || bytes[0] != 0x1f || bytes[1] != 0x8b)) return bytes;
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
    if (!unpacked) images_fail(s, "%s %s", images_shown(path).chars, why);
    free(bytes);
    return unpacked;
}

/* What an IDX file's name says: "emnist-letters-train-images-idx3-ubyte.gz" is of the set "emnist-letters-". */
typedef struct images_idx_name {
    int split;  /* IMAGES_TRAIN or IMAGES_TEST */
    int labels; /* 0: images */
    int packed;
    size_t set; /* letters of the set's name */
} images_idx_name;

/* Where a text without its capitals begins with a word in small letters: how long that is, else 0. */
static size_t images_begins(const char *text, const char *word)
{
    size_t i;
    for (i = 0; word[i]; ++i) {
        if (tolower((unsigned char)text[i]) != word[i]) return 0;
    }
    return i;
}

static int images_idx_parse(const char *name, images_idx_name *n)
{
    static const char *const splits[] = {"train", "t10k", "test"};
    static const char *const kinds[] = {"images", "labels", "labels"};
    static const char *const forms[] = {"idx3-ubyte", "idx1-ubyte", "idx2-int"};
    static const char marks[] = "-._";
    size_t at, i, j, end;
    for (at = 0; name[at]; ++at) {
        if (at && !strchr(marks, name[at - 1])) continue;
        for (i = 0; i < 3; ++i) {
            const size_t word = images_begins(name + at, splits[i]);
            if (!word || !name[at + word] || !strchr(marks, name[at + word])) continue;
            for (j = 0; j < 3; ++j) {
                end = at + word + 1;
                if (!images_begins(name + end, kinds[j])) continue;
                end += 6;
                if (!name[end] || !strchr(marks, name[end])) continue;
                /* "idx3", a mark of any kind, "ubyte" */
                ++end;
                if (strncmp(name + end, forms[j], 4) != 0 || !name[end + 4] || !strchr(marks, name[end + 4]) ||
                    strncmp(name + end + 5, forms[j] + 5, strlen(forms[j] + 5)) != 0)
                    continue;
                end += strlen(forms[j]);
                n->packed = strcmp(name + end, ".gz") == 0;
                if (name[end] && !n->packed) continue;
                n->split = i ? IMAGES_TEST : IMAGES_TRAIN;
                n->labels = j > 0;
                n->set = at;
                return 1;
            }
        }
    }
    return 0;
}

/* The IDX files in a folder: paths, to be freed, of the training and test images and of their labels. */
typedef struct images_idx {
    char *images[IMAGES_SPLITS], *labels[IMAGES_SPLITS];
    char set[128]; /* what their names begin with */
} images_idx;

static void images_idx_free(images_idx *x)
{
    int i;
    for (i = 0; i < IMAGES_SPLITS; ++i) {
        free(x->images[i]);
        free(x->labels[i]);
    }
    memset(x, 0, sizeof *x);
}

/* Of the sets in a folder the one of that name; if none is wanted, the one without a name, or the only one. 1:
   found, 0: none, -1 and a sentence: several. */
static int images_idx_choose(images *s, const char *folder, char **names, int count, const char *wanted,
                             images_idx *x)
{
    const size_t wanted_length = strlen(wanted);
    const char *found = NULL;
    size_t length = 0;
    int i, pass;
    for (pass = 0; pass < 2 && !found; ++pass) {
        for (i = 0; i < count; ++i) {
            images_idx_name n;
            if (!images_idx_parse(names[i], &n) || n.labels || n.split != IMAGES_TRAIN || n.set >= sizeof x->set)
                continue;
            if (pass == 0 ? n.set != (wanted_length ? wanted_length + 1 : 0) ||
                                strncmp(names[i], wanted, wanted_length) != 0
                          : wanted_length > 0)
                continue;
            if (found && (length != n.set || strncmp(found, names[i], length) != 0)) {
                images_fail(s, "%s holds several IDX sets, such as \"%.*s\" and \"%.*s\"; say which, as in %s/%.*s",
                            images_shown(folder).chars, (int)length - 1, found, (int)n.set - 1, names[i],
                            images_shown(folder).chars, (int)length - 1, found);
                return -1;
            }
            found = names[i], length = n.set;
        }
    }
    if (found) snprintf(x->set, sizeof x->set, "%.*s", (int)length, found);
    return found != NULL;
}

/* 1: there are IDX files in the folder, whose paths are now in *x; 0: none; -1 and s->error. wanted: the set, ""
   for the only one. */
static int images_idx_find(images *s, const char *folder, const char *wanted, images_idx *x)
{
    char **names;
    int count, i, found = -1, packed;
    memset(x, 0, sizeof *x);
    if (!images_is_folder(folder)) return 0;
    if (images_names(s, folder, &names, &count, NULL))
        found = images_idx_choose(s, folder, names, count, wanted, x);
    for (packed = 0; packed < 2; ++packed) { /* plain ones come first */
        for (i = 0; i < count && found == 1; ++i) {
            images_idx_name n;
            images_place place;
            char **to, *path;
            if (!images_idx_parse(names[i], &n) || n.packed != packed || n.set != strlen(x->set) ||
                strncmp(names[i], x->set, n.set) != 0)
                continue;
            to = n.labels ? &x->labels[n.split] : &x->images[n.split];
            path = *to ? NULL : images_join(folder, names[i]);
            if (!*to && !path) {
                images_fail(s, "out of memory");
                found = -1;
            } else if (path && images_look(path, &place) && place.folder) { /* as some archives unpack to */
                free(path);
            } else if (path) {
                *to = path;
            }
        }
    }
    images_names_free(names, count);
    if (found == 1 && !x->images[IMAGES_TRAIN]) found = 0;
    if (found != 1) images_idx_free(x);
    return found;
}

/* The labels of a file, one of 256, as many as `count`; NULL if it does not hold them. QMNIST has rows of several
   numbers of 32 bits, of which the first is the label. */
static uint8_t *images_idx_labels(const uint8_t *bytes, size_t size, uint32_t count)
{
    uint8_t *labels;
    uint32_t i, columns = 0;
    const int rows = size >= 12 && images_be32(bytes) == 0xc02;
    if (size < 8 || images_be32(bytes + 4) != count || (!rows && images_be32(bytes) != 0x801)) return NULL;
    if (rows) columns = images_be32(bytes + 8);
    if (rows ? columns < 1 || columns > 64 || (size - 12) / 4 / columns != count || (size - 12) % (4 * columns) != 0
             : size - 8 != count)
        return NULL;
    labels = (uint8_t *)images_memory(count, 1);
    for (i = 0; labels && i < count; ++i) {
        const uint32_t label = rows ? images_be32(bytes + 12 + (size_t)i * columns * 4) : bytes[8 + i];
        labels[i] = (uint8_t)label;
        if (label > 255) {
            free(labels);
            return NULL;
        }
    }
    return labels;
}

static int images_load_idx_split(images *s, const images_idx *x, int split, const images_options *o,
                                 images_set *set)
{
    size_t pixel_size = 0, label_size = 0;
    const char *image_path = x->images[split], *label_path = x->labels[split];
    const char *const name = split == IMAGES_TEST ? "test" : "train";
    uint8_t *pixels, *label_bytes = NULL, *labels = NULL;
    uint32_t count = 0, h = 0, w = 0, i;
    const int limit = split == IMAGES_TRAIN ? images_train_limit(o) : o->limit;
    int ok, taken[256] = {0};
    const char *why;
    images_sink sink;
    sink.set = set;
    sink.capacity = 0;
    if (!image_path || !label_path)
        return images_fail(s, "beside %s there is no file of the %s, such as %s%s-%s-ubyte",
                           images_shown(x->images[IMAGES_TRAIN]).chars,
                           split == IMAGES_TRAIN ? "labels"
                           : image_path          ? "test labels"
                                                 : "test images",
                           x->set, split == IMAGES_TRAIN ? "train" : "t10k",
                           image_path ? "labels-idx1" : "images-idx3");
    sink.origin.file = images_add_path(s, strrchr(image_path, '/') + 1);
    if (sink.origin.file < 0) return images_fail(s, "out of memory");
    pixels = images_read_idx(s, image_path, &pixel_size);
    if (pixels) label_bytes = images_read_idx(s, label_path, &label_size);
    ok = pixels && label_bytes;
    if (ok) {
        if (pixel_size >= 16)
            count = images_be32(pixels + 4), h = images_be32(pixels + 8), w = images_be32(pixels + 12);
        if (count != 0 && h != 0 && w != 0 && h <= 4096 && w <= 4096 && images_be32(pixels) == 0x803 &&
            (pixel_size - 16) / ((size_t)h * w) == count && (pixel_size - 16) % ((size_t)h * w) == 0)
            labels = images_idx_labels(label_bytes, label_size, count);
        if (!labels)
            ok = images_fail(s, "%s and its labels do not hold as many images and labels as they say",
                             images_shown(image_path).chars);
    }
    if (ok && s->train.count && !o->size && ((int)h != s->height || (int)w != s->width))
        ok = images_fail(s, "%s: the %s images have another size than the others; use --size",
                         images_shown(image_path).chars, name);
    if (ok) {
        s->channels = o->channels ? o->channels : 1;
        s->height = o->size ? o->size : (int)h;
        s->width = !o->size ? (int)w : o->width ? o->width : o->size;
        why = images_misfit((int)w, (int)h, s);
        ok = images_check_edge(s);
        if (ok) ok = !why || images_fail(s, "%s: an image of %ux%u %s", images_shown(image_path).chars, w, h, why);
    }
    for (i = 0; i < count && ok; ++i) {
        const int label = labels[i];
        images_picture p;
        uint8_t *fitted;
        size_t j;
        if (label >= s->class_count) s->class_count = label + 1;
        if (limit && taken[label]++ >= limit) continue;
        memset(&p, 0, sizeof p);
        p.w = (int)w, p.h = (int)h, p.channels = s->channels;
        p.pixels = (uint8_t *)images_memory((size_t)w * h, (size_t)s->channels);
        for (j = 0; p.pixels && j < (size_t)w * h * (size_t)s->channels; ++j)
            p.pixels[j] = pixels[16 + (size_t)i * w * h + j / (size_t)s->channels];
        sink.origin.place = (int32_t)i;
        s->resized += !images_fits(p.w, p.h, s->width, s->height, &s->framing);
        fitted = !p.pixels ? NULL
                 : images_fits(p.w, p.h, s->width, s->height, &s->framing)
                     ? p.pixels
                     : images_fit(&p, s->width, s->height, &s->framing);
        ok = (fitted && images_append(s, &sink, fitted, (size_t)s->width * (size_t)s->channels, label)) ||
             images_fail(s, "out of memory after %d images", set->count);
        free(fitted);
    }
    free(pixels);
    free(label_bytes);
    free(labels);
    return ok;
}

/* EMNIST's letters are numbered from 1: without a label 0 in either set, but with all from 1 on, they move down. */
static int images_shift_labels(images *s)
{
    int found[256] = {0}, i;
    for (i = 0; i < s->train.count; ++i) found[s->train.labels[i]] = 1;
    for (i = 0; i < s->test.count; ++i) found[s->test.labels[i]] |= 2;
    for (i = 1; i < s->class_count && found[i] & 1; ++i) {}
    if (found[0] || i < s->class_count || s->class_count < 3) return 0;
    for (i = 0; i < s->train.count; ++i) --s->train.labels[i];
    for (i = 0; i < s->test.count; ++i) --s->test.labels[i];
    --s->class_count;
    images_say(s, "the labels are 1 to %d: none is 0, so the first class is that of label 1", s->class_count);
    return 1;
}

/* The signs that EMNIST's mapping.txt gives for the labels, a line "label code" each; 0 where it gives none. */
static void images_idx_mapping(const char *folder, const images_idx *x, char *signs)
{
    char name[160], line[256];
    char *path;
    FILE *file;
    snprintf(name, sizeof name, "%smapping.txt", x->set);
    path = images_join(folder, name);
    file = path ? images_open(path) : NULL;
    while (file && fgets(line, sizeof line, file)) {
        char *after;
        const long label = strtol(line, &after, 10), code = strtol(after, NULL, 10);
        if (label >= 0 && label < 256 && code < 128 && isalnum((int)(code > 0 ? code : 0)))
            signs[label] = (char)code;
    }
    if (file) fclose(file);
    free(path);
}

/* Names from classes.txt, or from mapping.txt, or the numbers. */
static int images_idx_classes(images *s, const char *folder, const images_idx *x, int shift)
{
    const int count = s->class_count;
    char *path = images_join(folder, "classes.txt"), name[256], signs[257] = {0};
    FILE *file = path ? images_open(path) : NULL;
    int i, at, ok = path != NULL || images_fail(s, "out of memory");
    if (!file) images_idx_mapping(folder, x, signs);
    for (i = 0; i < count; ++i) { /* of all, and of each another one, or of none */
        if (!signs[i + shift] || strchr(signs + i + shift + 1, signs[i + shift])) memset(signs, 0, sizeof signs);
    }
    s->class_count = 0;
    for (i = 0; i < count && ok; ++i) {
        if (!file && signs[i + shift]) snprintf(name, sizeof name, "%c", signs[i + shift]);
        if (!file && !signs[i + shift]) snprintf(name, sizeof name, "%d", i + shift);
        if (file && !fgets(name, sizeof name, file)) {
            ok = images_fail(s, "there is a label %d in %s, but classes.txt names only %d classes",
                             count - 1 + shift, images_shown(folder).chars, i);
            break;
        }
        name[strcspn(name, "\r\n")] = 0;
        at = images_class(s, name, strlen(name));
        ok = at == i || (at >= 0 && images_fail(s, "%s/classes.txt names a class twice: %s",
                                                images_shown(folder).chars, name));
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
            return images_fail(s, "no train image of %s has label %d, but some have label %d",
                               images_shown(folder).chars, i, s->class_count - 1);
    }
    return 1;
}

static int images_load_idx(images *s, const char *folder, const images_idx *x, const images_options *o)
{
    int trained, shift;
    if (o->folds)
        return images_fail(s, "%s has a file of images to test with; folds take theirs out of one folder",
                           images_shown(folder).chars);
    if (!images_load_idx_split(s, x, IMAGES_TRAIN, o, &s->train)) return 0;
    trained = s->class_count;
    if (trained == 1)
        return images_fail(s, "%s has only images of class 0; there is nothing to tell apart",
                           images_shown(folder).chars);
    if (!images_load_idx_split(s, x, IMAGES_TEST, o, &s->test)) return 0;
    if (s->class_count > trained)
        return images_fail(s, "class %d is among the test images of %s, but not among the train images",
                           s->class_count - 1, images_shown(folder).chars);
    shift = images_shift_labels(s);
    return images_check_labels(s, folder) && images_idx_classes(s, folder, x, shift);
}

/* Where torchvision keeps IDX files: in raw, or in <set>/raw. 1: found, with the folder, to be freed; else as
   images_idx_find. */
static int images_idx_search(images *s, const char *folder, images_idx *x, char **where)
{
    char **names, *found_path = NULL;
    int count, i, sets = 0, found = images_idx_find(s, folder, "", x);
    *where = images_join(found ? "" : folder, found ? folder : "raw");
    if (*where && !found) found = images_idx_find(s, *where, "", x);
    if (!*where) {
        images_fail(s, "out of memory");
        images_idx_free(x);
        return -1;
    }
    if (found) return found;
    free(*where);
    *where = NULL;
    if (!images_names(s, folder, &names, &count, NULL)) found = -1;
    for (i = 0; i < count && found >= 0; ++i) {
        char *inside = images_join(folder, names[i]), *raw = inside ? images_join(inside, "raw") : NULL;
        images_idx one;
        int here;
        free(inside);
        if (!raw) images_fail(s, "out of memory");
        here = raw ? images_idx_find(s, raw, "", &one) : -1;
        if (here != 1) {
            free(raw);
            found = here < 0 ? here : found;
        } else if (sets++) {
            images_fail(s, "%s and %s both hold IDX files; say which to take", images_shown(found_path).chars,
                        images_shown(raw).chars);
            images_idx_free(&one);
            free(raw);
            found = -1;
        } else {
            found = 1, found_path = raw, *x = one;
        }
    }
    images_names_free(names, count);
    *where = found_path;
    if (found != 1 && sets) images_idx_free(x);
    if (found == 1) images_say(s, "the images are those in %s", images_shown(found_path).chars);
    return found;
}

/* ---- what is to be said ---------------------------------------------------------------------------------- */

/* What is said of one, and of several. */
static void images_say_count(images *s, int count, const char *one, const char *several)
{
    char words[256];
    if (count > 0) images_say(s, "%d %s", count, images_reword(count == 1 ? one : several, words, sizeof words));
}

static void images_say_copies(images *s)
{
    const images_copies *c = &s->copies;
    images_say_count(s, c->train, "of the training images is an exact copy of another among them",
                     "of the training images are exact copies of others among them");
    images_say_count(s, c->validation, "of the images to choose with is an exact copy of another among them",
                     "of the images to choose with are exact copies of others among them");
    images_say_count(s, c->test, "of the test images is an exact copy of another among them",
                     "of the test images are exact copies of others among them");
    images_say_count(s, c->validation_in_train, "of the images to choose with is among the training images as well",
                     "of the images to choose with are among the training images as well");
    images_say_count(s, c->test_in_train,
                     "of the test images is among the training images as well: the test accuracy flatters",
                     "of the test images are among the training images as well: the test accuracy flatters");
    images_say_count(s, c->test_in_validation, "of the test images is among the images to choose with as well",
                     "of the test images are among the images to choose with as well");
    images_say_count(s, c->two_labels, "picture stands under more than one label",
                     "pictures stand under more than one label, each the very same");
}

/* One class that is most of the set: saying nothing else would look good. */
static void images_say_dominance(images *s)
{
    int *count = (int *)images_memory((size_t)s->class_count, sizeof(int)), i, most = 0;
    for (i = 0; count && i < s->train.count; ++i) ++count[s->train.labels[i]];
    for (i = 1; count && i < s->class_count; ++i) {
        if (count[i] > count[most]) most = i;
    }
    if (count && count[most] * 4 >= s->train.count * 3 && s->class_count > 1)
        images_say(s,
                   "class \"%.100s\" has %d of the %d training images: accuracy says little here, since naming it "
                   "always is right for %.0f %%",
                   s->class_names[most], count[most], s->train.count, 100.0 * count[most] / s->train.count);
    free(count);
}

static void images_say_all(images *s)
{
    int i;
    for (i = 0; i < IMAGES_REASONS && s->reasons[i].why; ++i)
        images_say(s, "%d file%s left out, %swhich %s", s->reasons[i].count, s->reasons[i].count == 1 ? "" : "s",
                   s->reasons[i].count == 1 ? "" : "each of ", s->reasons[i].why);
    images_say_count(s, s->hidden, "name that begins with a dot was not looked at",
                     "names that begin with a dot were not looked at");
    images_say_count(s, s->loose, "image beside the folders of the classes belongs to none and was not looked at",
                     "images beside the folders of the classes belong to none and were not looked at");
    images_say_count(s, s->rotated,
                     s->framing.upright ? "photo was turned as EXIF says"
                                        : "photo says in EXIF that it is to be turned; it is taken as it lies",
                     s->framing.upright ? "photos were turned as EXIF says"
                                        : "photos say in EXIF that they are to be turned; they are taken as they "
                                          "lie");
    images_say_count(s, s->transparent, "image is transparent in places; its colours are taken as if it were not",
                     "images are transparent in places; their colours are taken as if they were not");
    images_say_count(s, s->four_channel_jpeg,
                     "photo is in four inks (CMYK); it is brought to red, green and blue without a profile",
                     "photos are in four inks (CMYK); they are brought to red, green and blue without a profile");
    if (s->sixteen_bit && s->bits < 16)
        images_say(s,
                   s->sixteen_bit == 1
                       ? "%d image has 16 bits, but no number above %d: it is taken for an image of %d bits"
                       : "%d images have 16 bits, but no number above %d: they are taken for images of %d bits",
                   s->sixteen_bit, (1 << s->bits) - 1, s->bits);
    else
        images_say_count(s, s->sixteen_bit, "image has 16 bits, of which the upper 8 are used",
                         "images have 16 bits, of which the upper 8 are used");
    if (s->resized == 1 && s->framing.way == IMAGES_CROP && !s->framing.edge)
        images_say(s, "1 image was brought to this size, and its edges cut off where it is no square");
    else if (s->resized)
        images_say(s, "%d image%s brought to this size, %s%s", s->resized, s->resized == 1 ? " was" : "s were",
                   s->framing.way == IMAGES_CROP && !s->framing.edge ? "and " : "",
                   images_framing_said(&s->framing).chars);
    images_say_dominance(s);
    images_say_copies(s);
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
    images_set_free(&s->validation);
    images_set_free(&s->test);
    images_set_free(&s->unlabelled);
    memset(s, 0, sizeof *s);
}

/* Numbers of the first `most` images with a label, as many as there are; returns how many. What a report shows, so
   that everybody sees what was loaded. */
IMAGES_PUBLIC static int images_first_of(const int32_t *labels, int count, int32_t label, int most, int *first)
{
    int i, found = 0;
    for (i = 0; i < count && found < most; ++i) {
        if (labels[i] == label) first[found++] = i;
    }
    return found;
}

/* Not more than a share of so many image files was skipped, since `before` were. */
static int images_check_skipped(images *s, int files, int before, const images_options *o)
{
    const int skipped = s->skipped - before;
    return skipped <= o->max_skipped * files ||
           images_fail(s, "%d of %d image files cannot be read (more than the share of %s allowed), first: %s",
                       skipped, files, images_number_of(o->max_skipped).chars,
                       s->listed[before < IMAGES_LISTED ? before : IMAGES_LISTED - 1]);
}

/* The classes of the folder to learn from, and the files of all. */
static int images_list_all(images *s, char **paths, images_list *lists, const images_options *o)
{
    const char *train;
    int classes, i, ok;
    if (s->class_count == 0 && paths[IMAGES_TRAIN] && !images_unwrap(s, &paths[IMAGES_TRAIN], 0)) return 0;
    train = paths[IMAGES_TRAIN];
    if (!images_list_classes(s, train)) return 0;
    if (s->class_count == 0)
        return images_fail(s,
                           "%s has no classes: expected %s/<class>/<image>.jpg, <class>.28x28.png or IDX files%s",
                           images_shown(train).chars, images_shown(train).chars,
                           s->loose ? ", and there are only images that nothing is said about" : "");
    qsort(s->class_names, (size_t)s->class_count, sizeof *s->class_names, images_by_text);
    classes = s->class_count;
    if (classes == 1)
        return images_fail(s, "%s has only one class, \"%.200s\"; there is nothing to tell apart",
                           images_shown(train).chars, s->class_names[0]);
    ok = images_check_meaning(s, train) && images_list_split(s, train, &lists[IMAGES_TRAIN]);
    for (i = IMAGES_VALIDATION; i < IMAGES_SPLITS && ok; ++i) {
        if (!paths[i]) continue;
        ok = images_unwrap(s, &paths[i], 0) && images_drop_unlabelled(s, &paths[i], i);
        if (!ok || !paths[i]) continue;
        ok = images_list_classes(s, paths[i]);
        if (ok && s->class_count != classes)
            return images_fail(s, "class \"%.200s\" is in %s, but not in %s", s->class_names[classes],
                               images_shown(paths[i]).chars, images_shown(train).chars);
        ok = ok && images_list_split(s, paths[i],
                                     &lists[i == IMAGES_VALIDATION && o->join_validation ? IMAGES_TRAIN : i]);
    }
    return ok;
}

static int images_load_folders(images *s, const char *folder, const images_options *o)
{
    char *paths[IMAGES_SPLITS] = {NULL, NULL, NULL};
    images_list lists[IMAGES_SPLITS];
    int ok, i, files = 0;
    memset(lists, 0, sizeof lists);
    ok = images_find_splits(s, folder, paths) && images_list_all(s, paths, lists, o);
    for (i = 0; i < IMAGES_SPLITS && ok; ++i) ok = images_keep_paths(s, folder, &lists[i]);
    ok = ok && images_survey(s, &lists[IMAGES_TRAIN], o) &&
         images_load_list(s, &lists[IMAGES_TRAIN], paths[IMAGES_TEST] ? images_train_limit(o) : o->limit,
                          &s->train) &&
         images_load_list(s, &lists[IMAGES_VALIDATION], o->limit, &s->validation) &&
         images_load_list(s, &lists[IMAGES_TEST], o->limit, &s->test);
    for (i = 0; i < IMAGES_SPLITS; ++i) files += lists[i].count;
    ok = ok && images_check_skipped(s, files - s->others - s->unsupported, 0, o) &&
         images_check_split(s, paths[IMAGES_TRAIN], &s->train);
    if (ok && paths[IMAGES_TEST]) ok = images_check_split(s, paths[IMAGES_TEST], &s->test);
    if (ok && paths[IMAGES_TEST] && o->folds)
        ok = images_fail(s, "%s is for testing; folds take their test images out of one folder",
                         images_shown(paths[IMAGES_TEST]).chars);
    if (ok && !paths[IMAGES_TEST] && o->folds)
        images_say(s, "no folder is for testing: part %d of %d of each class is kept for that", o->fold + 1,
                   o->folds);
    if (ok && !paths[IMAGES_TEST] && !o->folds)
        images_say(s, "no folder is for testing: %.3g %% of each class is kept for that, drawn by the seed",
                   100 * o->test_share);
    if (ok && !paths[IMAGES_TEST])
        ok = images_split(s, o) &&
             images_check_split(s, "the test split; where no folder is for testing, a class needs two", &s->test);
    for (i = 0; i < IMAGES_SPLITS; ++i) {
        images_list_free(&lists[i]);
        free(paths[i]);
    }
    return ok;
}

/* A folder, or a name of one of the IDX sets in a folder. */
static int images_load_any(images *s, const char *folder, const images_options *o)
{
    images_idx x;
    images_place place;
    char *where = NULL, *parent = NULL;
    int found = -1, ok = 0;
    if (images_is_folder(folder)) {
        found = images_idx_search(s, folder, &x, &where);
    } else {
        const char *slash = strrchr(folder, '/');
        parent = images_join("", slash ? folder : ".");
        if (parent && slash) parent[slash - folder] = 0;
        if (!parent) {
            images_fail(s, "out of memory");
        } else {
            const char *name = slash ? slash + 1 : folder;
            found = *name ? images_idx_find(s, *parent ? parent : "/", name, &x) : 0;
            if (!found && images_look(folder, &place) && place.file)
                images_fail(s, "%s is a file, and no folder: give the folder that holds the images",
                            images_shown(folder).chars);
            else if (!found)
                images_fail(s, "there is no folder %s", images_shown(folder).chars);
            if (found == 1) where = parent, parent = NULL;
            if (!found) found = -1;
        }
    }
    if (found == 1) {
        ok = images_load_idx(s, where, &x, o);
        images_idx_free(&x);
    } else if (!found) {
        ok = images_load_folders(s, folder, o);
    }
    free(where);
    free(parent);
    return ok;
}

/* 1, or 0 and s->error. images_free(s) in either case. */
IMAGES_PUBLIC static int images_load(images *s, const char *folder, const images_options *options)
{
    const images_options defaults = images_defaults(), *o = options ? options : &defaults;
    memset(s, 0, sizeof *s);
    s->apart = o->apart;
    s->framing = o->framing;
    s->sized = o->size > 0;
    if (o->size < 0 || o->size > 4096) return images_fail(s, "the size must be 1 to 4096 pixels, got %d", o->size);
    if (o->channels != 0 && o->channels != 1 && o->channels != 3)
        return images_fail(s, "there can be 1 or 3 channels, got %d", o->channels);
    if (!(o->test_share > 0 && o->test_share < 1))
        return images_fail(s, "the share of test images must be between 0 and 1, got %s",
                           images_number_of(o->test_share).chars);
    if (!images_load_any(s, folder, o) || !images_find_copies(s)) return 0;
    images_say_all(s);
    return 1;
}

/* Keeps `most` of the files, evenly taken; 0: all. */
static void images_thin(images_list *list, int most)
{
    int i, kept;
    if (most <= 0 || list->count <= most) return;
    for (kept = 0, i = 0; i < list->count; ++i) {
        if ((int64_t)kept * list->count / most == i && kept < most)
            list->files[kept++] = list->files[i];
        else
            free(list->files[i].path);
    }
    list->count = kept;
}

/* All images in a folder and in those inside it, whatever their names, as further images of a set that has been
   loaded, in its size and channels and without labels: s->unlabelled. The counts of files grow by these, the copies
   are counted anew, and what is to be said is added. 1, or 0 and s->error. */
IMAGES_PUBLIC static int images_load_unlabelled(images *s, const char *folder, const images_options *options)
{
    const images_options defaults = images_defaults(), *o = options ? options : &defaults;
    const images before = *s;
    images_list list = {NULL, 0, 0};
    int ok, i, files;
    if (!images_is_folder(folder)) return images_fail(s, "there is no folder %s", images_shown(folder).chars);
    ok = images_collect(s, &list, folder, -1, NULL, 0);
    if (ok) images_thin(&list, o->unlabelled_files);
    if (ok && !s->bits) {
        const images_sizes z = images_measure(&list, o);
        s->bits = z.largest ? images_bits_of(z.largest) : 16;
    }
    ok = ok && images_keep_paths(s, folder, &list) && images_load_list(s, &list, 0, &s->unlabelled);
    files = list.count - (s->others - before.others) - (s->unsupported - before.unsupported);
    images_list_free(&list);
    if (ok && s->unlabelled.count == 0)
        return images_fail(s, "there is no image that can be read in %s", images_shown(folder).chars);
    if (!ok || !images_check_skipped(s, files, before.skipped, o) || !images_find_copies(s)) return 0;
    for (i = 0; i < IMAGES_REASONS && s->reasons[i].why; ++i) {
        const int count = s->reasons[i].count - before.reasons[i].count;
        if (count)
            images_say(s, "%d file%s of %s left out, %swhich %s", count, count == 1 ? "" : "s",
                       images_shown(folder).chars, count == 1 ? "" : "each of ", s->reasons[i].why);
    }
    if (s->resized > before.resized)
        images_say(s, "%d images of %s have another size and were brought to %dx%d, %s",
                   s->resized - before.resized, images_shown(folder).chars, s->width, s->height,
                   images_framing_said(&s->framing).chars);
    images_say_count(s, s->copies.unlabelled, "of the images without labels is an exact copy of another among them",
                     "of the images without labels are exact copies of others among them");
    images_say_count(s, s->copies.test_in_unlabelled,
                     "of the test images is among the images without labels as well",
                     "of the test images are among the images without labels as well");
    return 1;
}

#endif /* IMAGES_H */
