/* examples/images.h: formats against known pixels, resizing against Pillow, folders, sheets and IDX files built in
   a temporary folder, and everything that can be wrong with them. */
#define _GNU_SOURCE /* nftw, mkdtemp */
#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

/* ---- the loader's memory and folders, watched and disturbed ----------------------------------------------- */

static long memory_blocks, memory_until_failure = -1;
static size_t memory_largest;

static int memory_fails(size_t size)
{
    if (size > memory_largest) memory_largest = size;
    return memory_until_failure >= 0 && memory_until_failure-- == 0;
}

static void *watched_calloc(size_t count, size_t size)
{
    void *block = memory_fails(count * size) ? NULL : calloc(count, size);
    memory_blocks += block != NULL;
    return block;
}

static void *watched_realloc(void *old, size_t size)
{
    void *block = memory_fails(size) ? NULL : realloc(old, size);
    memory_blocks += block && !old;
    return block;
}

static void watched_free(void *block)
{
    memory_blocks -= block != NULL;
    free(block);
}

/* A folder whose entries come in another order for every seed. */
static unsigned folder_seed;
static struct dirent folder_entries[512];
static int folder_count;

static DIR *shuffled_open(const char *path)
{
    DIR *dir = opendir(path);
    const struct dirent *entry;
    unsigned state = folder_seed;
    folder_count = 0;
    while (dir && (entry = readdir(dir)) != NULL) {
        const int at = folder_count++;
        int other;
        assert_true(at < 512);
        state = state * 1664525u + 1013904223u;
        other = (int)(state >> 8) % folder_count;
        folder_entries[at] = folder_entries[other];
        folder_entries[other] = *entry;
    }
    return dir;
}

static const struct dirent *shuffled_read(DIR *dir)
{
    (void)dir;
    return folder_count ? &folder_entries[--folder_count] : NULL;
}

#define calloc(count, size) watched_calloc(count, size)
#define realloc(block, size) watched_realloc(block, size)
#define free(block) watched_free(block)
#define opendir(path) shuffled_open(path)
#define readdir(dir) shuffled_read(dir)
#include "../examples/images.h"
#include "images/golden.h"

enum { W = 16, H = 12 }; /* of the format files */

/* ---- files ------------------------------------------------------------------------------------------------ */

static char root[64]; /* a temporary folder for each test */
static int first_descriptor;

static const char *beside_this_file(const char *name)
{
    static char path[1024];
    const char *slash = strrchr(__FILE__, '/');
    snprintf(path, sizeof path, "%.*s/%s", slash ? (int)(slash - __FILE__) : 1, slash ? __FILE__ : ".", name);
    return path;
}

static const char *under_root(const char *name)
{
    static char paths[4][1200];
    static int turn;
    char *path = paths[turn = (turn + 1) % 4];
    snprintf(path, sizeof paths[0], "%s/%s", root, name);
    return path;
}

static int next_descriptor(void)
{
    const int descriptor = dup(0);
    close(descriptor);
    return descriptor;
}

static int make_root(void **state)
{
    (void)state;
    strcpy(root, P_tmpdir "/kd-images-XXXXXX");
    first_descriptor = next_descriptor();
    memory_until_failure = -1;
    folder_seed = 0;
    return mkdtemp(root) ? 0 : -1;
}

static int remove_entry(const char *path, const struct stat *info, int flag, struct FTW *ftw)
{
    (void)info;
    (void)flag;
    (void)ftw;
    return remove(path);
}

/* Whatever a test did, no memory and no file stays behind. */
static int remove_root(void **state)
{
    int ok = 1;
    (void)state;
    if (nftw(root, remove_entry, 16, FTW_DEPTH | FTW_PHYS) != 0) return -1;
    if (next_descriptor() != first_descriptor) {
        print_error("a file was not closed\n");
        ok = 0;
    }
    if (memory_blocks != 0) {
        print_error("%ld blocks of memory were not freed\n", memory_blocks);
        ok = 0;
        memory_blocks = 0;
    }
    return ok ? 0 : -1;
}

/* The folder and those above it. */
static void put_folder(const char *name)
{
    char path[1200];
    char *slash;
    snprintf(path, sizeof path, "%s/", under_root(name));
    for (slash = path + strlen(root) + 1; (slash = strchr(slash, '/')) != NULL; ++slash) {
        *slash = 0;
        (void)mkdir(path, 0777);
        *slash = '/';
    }
}

static void put(const char *name, const void *bytes, size_t size)
{
    char folder[1200];
    FILE *file;
    snprintf(folder, sizeof folder, "%s", name);
    if (strrchr(folder, '/')) {
        *strrchr(folder, '/') = 0;
        put_folder(folder);
    }
    file = fopen(under_root(name), "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, size, file), size);
    assert_int_equal(fclose(file), 0);
}

static void put_text(const char *name, const char *text) { put(name, text, strlen(text)); }

/* A file of tests/images, in a block of exactly its size, so that a read beyond it is seen. */
static uint8_t *fixture(const char *name, size_t *size)
{
    char path[128];
    const char *why;
    uint8_t *bytes;
    snprintf(path, sizeof path, "images/%s", name);
    bytes = images_read(beside_this_file(path), size, &why);
    if (!bytes) fail_msg("%s %s", beside_this_file(path), why);
    return bytes;
}

static void put_fixture(const char *name, const char *from)
{
    size_t size;
    uint8_t *bytes = fixture(from, &size);
    put(name, bytes, size);
    free(bytes);
}

/* A grey picture of one value. */
static void put_pgm(const char *name, int w, int h, int value)
{
    char bytes[4096];
    const int head = snprintf(bytes, sizeof bytes, "P5 %d %d 255\n", w, h);
    assert_true((size_t)(head + w * h) <= sizeof bytes);
    memset(bytes + head, value, (size_t)(w * h));
    put(name, bytes, (size_t)(head + w * h));
}

/* `count` pictures of 2x2 named 000.pgm, 001.pgm ..., with values from `value` up. */
static void put_class(const char *folder, int count, int value)
{
    char name[512];
    int i;
    for (i = 0; i < count; ++i) {
        snprintf(name, sizeof name, "%s/%03d.pgm", folder, i);
        put_pgm(name, 2, 2, value + i);
    }
}

static void load(images *s, const images_options *o)
{
    if (!images_load(s, root, o)) fail_msg("%s", s->error);
}

/* Loading fails, says this, and leaves nothing behind. */
static void load_fails(const images_options *o, const char *text)
{
    const long before = memory_blocks;
    images s;
    if (images_load(&s, root, o)) fail_msg("was loaded, but should fail with \"%s\"", text);
    if (!strstr(s.error, text)) fail_msg("the message \"%s\" does not say \"%s\"", s.error, text);
    images_free(&s);
    assert_int_equal(memory_blocks, before);
}

static int is_said(const images *s, const char *text)
{
    int i = 0;
    while (i < s->said_count && !strstr(s->said[i], text)) ++i;
    return i < s->said_count;
}

static void says(const images *s, const char *text)
{
    int i;
    if (is_said(s, text)) return;
    for (i = 0; i < s->said_count; ++i) print_error("said: %s\n", s->said[i]);
    fail_msg("nothing says \"%s\"", text);
}

/* ---- formats ---------------------------------------------------------------------------------------------- */

typedef struct known_file {
    const char *name;
    enum { COLOUR, GREY, BITS } picture;
    int channels;  /* when nobody asks */
    int tolerance; /* JPEG only comes close */
    int sixteen_bit, four_channel_jpeg, rotated, transparent;
} known_file;

static const known_file known_files[] = {
    {"rgb8.png", COLOUR, 3, 0, 0, 0, 0, 0},
    {"rgb16.png", COLOUR, 3, 0, 1, 0, 0, 0},
    {"rgba.png", COLOUR, 3, 0, 0, 0, 0, 1},
    {"palette.png", COLOUR, 3, 0, 0, 0, 0, 0},
    {"palette_alpha.png", COLOUR, 3, 0, 0, 0, 0, 1},
    {"interlaced.png", COLOUR, 3, 0, 0, 0, 0, 0},
    {"grey8.png", GREY, 1, 0, 0, 0, 0, 0},
    {"grey16.png", GREY, 1, 0, 1, 0, 0, 0},
    {"grey_alpha.png", GREY, 1, 0, 0, 0, 0, 1},
    {"bits.png", BITS, 1, 0, 0, 0, 0, 0},
    {"rgb.bmp", COLOUR, 3, 0, 0, 0, 0, 0},
    {"top_down.bmp", COLOUR, 3, 0, 0, 0, 0, 0},
    {"rgba.bmp", COLOUR, 3, 0, 0, 0, 0, 0},
    {"palette.bmp", GREY, 3, 0, 0, 0, 0, 0},
    {"rgb.ppm", COLOUR, 3, 0, 0, 0, 0, 0},
    {"grey.pgm", GREY, 1, 0, 0, 0, 0, 0},
    {"rgb16.ppm", COLOUR, 3, 0, 1, 0, 0, 0},
    {"grey16.pgm", GREY, 1, 0, 1, 0, 0, 0},
    {"grey12.pgm", GREY, 1, 0, 1, 0, 0, 0},
    {"rgb.jpg", COLOUR, 3, 4, 0, 0, 0, 0},
    {"progressive.jpg", COLOUR, 3, 4, 0, 0, 0, 0},
    {"thumbnail.jpg", COLOUR, 3, 4, 0, 0, 0, 0},
    {"rotated_little.jpg", COLOUR, 3, 4, 0, 0, 1, 0},
    {"rotated_big.jpg", COLOUR, 3, 4, 0, 0, 1, 0},
    {"grey.jpg", GREY, 1, 4, 0, 0, 0, 0},
    {"cmyk.jpg", COLOUR, 3, 6, 0, 1, 0, 0},
    {"unmarked_cmyk.jpg", COLOUR, 3, 6, 0, 1, 0, 0},
};
#define FOR_EACH_KNOWN(f) for (f = known_files; f < known_files + sizeof known_files / sizeof *known_files; ++f)

static int known_pixel(const known_file *f, int channels, int x, int y, int c)
{
    const unsigned rgb[3] = {16u * (unsigned)x, 20u * (unsigned)y, 9u * (unsigned)(x + y)};
    if (f->picture == BITS) return (x + y) % 2 * 255;
    if (f->picture == GREY) return (int)rgb[2];
    if (channels == 3) return (int)rgb[c];
    return (int)((19595u * rgb[0] + 38470u * rgb[1] + 7471u * rgb[2] + 0x8000u) >> 16); /* Pillow's convert("L") */
}

static void check_picture(const known_file *f, const images_picture *p, int channels)
{
    int x, y, c;
    if (p->w != W || p->h != H || p->channels != channels)
        fail_msg("%s: %dx%d with %d channels, expected %d", f->name, p->w, p->h, p->channels, channels);
    for (y = 0; y < H; ++y) {
        for (x = 0; x < W; ++x) {
            for (c = 0; c < channels; ++c) {
                const int got = p->pixels[(y * W + x) * channels + c], wanted = known_pixel(f, channels, x, y, c);
                if (abs(got - wanted) > f->tolerance)
                    fail_msg("%s: channel %d of %d at (%d, %d) is %d, expected %d", f->name, c, channels, x, y, got,
                             wanted);
            }
        }
    }
}

/* Every format, in its own channels, in grey and in colour; and what is noted about it. */
static void test_formats(void **state)
{
    const known_file *f;
    (void)state;
    FOR_EACH_KNOWN(f)
    {
        static const int wants[] = {0, 1, 3};
        size_t size, i;
        uint8_t *bytes = fixture(f->name, &size);
        for (i = 0; i < 3; ++i) {
            images_picture p;
            const char *why;
            if (!images_decode(bytes, size, wants[i], &p, &why)) fail_msg("%s %s", f->name, why);
            check_picture(f, &p, wants[i] ? wants[i] : f->channels);
            assert_int_equal(p.sixteen_bit, f->sixteen_bit);
            assert_int_equal(p.four_channel_jpeg, f->four_channel_jpeg);
            assert_int_equal(p.rotated, f->rotated ? 6 : 0);
            assert_int_equal(p.transparent, f->transparent);
            free(p.pixels);
        }
        free(bytes);
    }
}

static void refuses(const char *name, const uint8_t *bytes, size_t size, const char *text)
{
    images_picture p;
    const char *why = "";
    if (images_decode(bytes, size, 0, &p, &why)) fail_msg("%s was decoded from %zu bytes", name, size);
    if (!strstr(why, text)) fail_msg("%s: \"%s\" does not say \"%s\"", name, why, text);
}

/* Formats that are left out on purpose are refused, whatever their names say. */
static void test_refused_formats(void **state)
{
    static const char *const names[] = {"refused.gif", "refused.psd",  "refused.tga",
                                        "refused.tif", "refused.webp", "refused_text.ppm"};
    size_t size, i;
    uint8_t *bytes;
    images s;
    (void)state;
    put_class("a", 3, 1);
    put_class("b", 3, 9);
    for (i = 0; i < sizeof names / sizeof *names; ++i) {
        char name[64];
        bytes = fixture(names[i], &size);
        refuses(names[i], bytes, size, "is no JPEG, PNG, BMP or PNM image");
        free(bytes);
        snprintf(name, sizeof name, "a/%s.png", names[i]);
        put_fixture(name, names[i]);
        if (!strstr(names[i], "ppm")) {
            snprintf(name, sizeof name, "b/%s", names[i]);
            put_fixture(name, names[i]);
        }
    }
    {
        images_options o = images_defaults();
        o.max_skipped = 1;
        load(&s, &o);
        assert_int_equal(s.skipped, 6);
        assert_int_equal(s.unsupported, 5);
        assert_int_equal(s.train.count + s.test.count, 6);
        says(&s, "1 file left out, which is a GIF image, which is not read");
        says(&s,
             "1 file left out, which has the name of a format that is not read"); /* a TGA begins with nothing */
        says(&s, "6 files left out, each of which is no JPEG, PNG, BMP or PNM image that can be read");
        images_free(&s);
    }
}

/* A file cut anywhere is refused: no decoder may make up the rest. */
static void test_truncated(void **state)
{
    const known_file *f;
    (void)state;
    FOR_EACH_KNOWN(f)
    {
        size_t size, cut;
        uint8_t *bytes = fixture(f->name, &size);
        for (cut = 0; cut < size; ++cut) {
            uint8_t *part = (uint8_t *)calloc(cut ? cut : 1, 1);
            memcpy(part, bytes, cut);
            refuses(f->name, part, cut, "");
            free(part);
        }
        free(bytes);
    }
}

static unsigned random_state = 1;
static unsigned random_below(unsigned bound)
{
    random_state = random_state * 1664525u + 1013904223u;
    return (unsigned)(((uint64_t)random_state * bound) >> 32);
}

static void set_be32(uint8_t *to, uint32_t value)
{
    int i;
    for (i = 0; i < 4; ++i) to[i] = (uint8_t)(value >> (24 - 8 * i));
}

/* Makes the checksums right again, so that the change is seen by the decoder and not by us. */
static void repair_png(uint8_t *bytes, size_t size)
{
    size_t at = 8;
    while (at + 12 <= size && images_be32(bytes + at) <= size - at - 12) {
        const size_t length = images_be32(bytes + at);
        set_be32(bytes + at + 8 + length, images_crc(bytes + at + 4, length + 4));
        at += length + 12;
    }
}

/* Changed bytes give another picture or a reason, never a crash. The changes are the same in every run: a few
   others make stb_image 2.27 shift a JPEG's bits by 32, which the sanitizer reports and which does no harm. */
static void test_damaged(void **state)
{
    const known_file *f;
    int i, decoded = 0, refused = 0;
    (void)state;
    FOR_EACH_KNOWN(f)
    {
        size_t size;
        uint8_t *bytes = fixture(f->name, &size), *copy = (uint8_t *)calloc(size, 1);
        for (i = 0; i < 400; ++i) {
            const unsigned changes = 1 + random_below(4);
            unsigned j;
            images_picture p;
            const char *why = NULL;
            memcpy(copy, bytes, size);
            for (j = 0; j < changes; ++j) copy[random_below((unsigned)size)] = (uint8_t)random_below(256);
            if (strstr(f->name, ".png")) repair_png(copy, size);
            if (images_decode(copy, size, i % 2 ? 3 : 1, &p, &why)) {
                ++decoded;
                free(p.pixels);
            } else {
                ++refused;
                assert_non_null(why);
            }
        }
        free(copy);
        free(bytes);
    }
    assert_true(decoded > 1000 && refused > 1000);
}

/* One flipped bit anywhere in a PNG is found by its checksums; the decoder looks at none. */
static void test_png_checksums(void **state)
{
    size_t size, i;
    uint8_t *bytes = fixture("rgb8.png", &size);
    (void)state;
    for (i = 0; i < 8 * size; ++i) {
        bytes[i / 8] ^= (uint8_t)(1u << i % 8);
        refuses("rgb8.png with a flipped bit", bytes, size, "");
        bytes[i / 8] ^= (uint8_t)(1u << i % 8);
    }
    free(bytes);
}

/* The first segment of a JPEG with this marker. */
static uint8_t *jpeg_segment(uint8_t *bytes, size_t size, int marker)
{
    size_t at = 2;
    while (at + 4 < size && bytes[at + 1] != marker) at += 2 + ((size_t)bytes[at + 2] << 8) + bytes[at + 3];
    assert_true(at + 4 < size);
    return bytes + at;
}

/* Huffman tables that are missing, or promise more codes than there can be. */
static void test_jpeg_tables(void **state)
{
    enum { CODES = 257, LENGTH = 17 + CODES };
    size_t size;
    uint8_t *bytes = fixture("rgb.jpg", &size), *table, *more;
    images_picture p;
    const char *why;
    (void)state;
    table = jpeg_segment(bytes, size, 0xc4);
    memset(table + 5, 255, 16);
    refuses("more codes than the segment has", bytes, size, "damaged");
    free(bytes);
    bytes = fixture("rgb.jpg", &size);
    more = (uint8_t *)calloc(size + 4 + LENGTH, 1);
    memcpy(more, "\xff\xd8\xff\xc4", 4);
    more[4] = (LENGTH + 2) >> 8, more[5] = (LENGTH + 2) & 255;
    more[6 + 15] = 200, more[6 + 16] = CODES - 200;
    memcpy(more + 6 + LENGTH, bytes + 2, size - 2);
    refuses("more codes than there can be", more, size + 4 + LENGTH, "damaged");
    free(more);
    free(bytes);
    bytes = fixture("rgb.jpg", &size);
    for (table = bytes; table < bytes + size - 1; ++table) {
        if (table[0] == 0xff && table[1] == 0xc4) table[1] = 0xfe; /* a comment now */
    }
    if (images_decode(bytes, size, 3, &p, &why)) free(p.pixels);
    free(bytes);
}

static size_t make_chunk(uint8_t *to, uint32_t says, const char *type, const uint8_t *body, uint32_t size)
{
    set_be32(to, says);
    memcpy(to + 4, type, 4);
    if (size) memcpy(to + 8, body, size);
    set_be32(to + 8 + size, images_crc(to + 4, size + 4));
    return size + 12;
}

static size_t make_png(uint8_t *to, uint32_t w, uint32_t h, uint32_t data_says)
{
    uint8_t head[13] = {0, 0, 0, 0, 0, 0, 0, 0, 8, 2, 0, 0, 0};
    size_t size = 8;
    memcpy(to, "\x89PNG\r\n\x1a\n", 8);
    set_be32(head, w);
    set_be32(head + 4, h);
    size += make_chunk(to + size, 13, "IHDR", head, 13);
    size += make_chunk(to + size, data_says, "IDAT", head, 4);
    return size + make_chunk(to + size, 0, "IEND", head, 0);
}

/* Headers as no encoder writes them. */
static void test_odd_headers(void **state)
{
    static const uint8_t bmp[26] = {'B', 'M', 26, 0, 0, 0, 0, 0, 0, 0, 26, 0, 0,
                                    0,   12,  0,  0, 0, 1, 0, 1, 0, 1, 0,  24};
    static const uint8_t old[34] = {'B', 'M', 34, 0, 0, 0, 0, 0,  0, 0, 26, 0, 0, 0, 12, 0, 0,
                                    0,   1,   0,  2, 0, 1, 0, 24, 0, 9, 9,  9, 0, 7, 7,  7};
    static const char pnm[] = "P5 1 1 #comment", returns[] = "P5 #a\r1 1 255\n.";
    static const uint8_t frames[] = {0xc8, 0xcc, 0xc0};
    static const uint8_t short_segment[] = {0xff, 0xd8, 0xff, 0xe0, 0, 1, 0xff, 0xd9};
    size_t size, i;
    uint8_t *bytes = fixture("rgb.jpg", &size), *more = (uint8_t *)calloc(size + 6, 1);
    images_picture p;
    const char *why;
    (void)state;
    refuses("BMP of 26 bytes", bmp, sizeof bmp, "damaged");
    refuses("JPEG with a segment of no length", short_segment, sizeof short_segment, "damaged");
    refuses("PNM that ends in a comment", (const uint8_t *)pnm, sizeof pnm - 1, "ends too early");
    refuses("more than 256 MB", bytes, (size_t)IMAGES_MAX_FILE + 1,
            "that can be read");                              /* nothing else is looked at */
    assert_true(images_decode(old, sizeof old, 1, &p, &why)); /* OS/2's header of 12 bytes */
    assert_int_equal(p.w, 1);
    assert_int_equal(p.h, 2);
    assert_int_equal(p.pixels[0], 7);
    free(p.pixels);
    refuses("such a BMP that ends too early", old, sizeof old - 1, "damaged");
    assert_true(images_decode((const uint8_t *)returns, sizeof returns - 1, 1, &p, &why));
    assert_int_equal(p.pixels[0], '.');
    free(p.pixels);
    memcpy(more + 6, bytes, size);
    for (i = 0; i < sizeof frames; ++i) { /* a segment too short to be a frame's, or not of one */
        static const uint8_t start[] = {0xff, 0xd8, 0xff, 0, 0, 4, 0, 0};
        memcpy(more, start, sizeof start);
        more[3] = frames[i];
        (void)images_header(more, size + 6, &p, &why);
        assert_false(p.four_channel_jpeg);
    }
    free(more);
    free(bytes);
}

/* Small files that promise huge pictures are refused before memory for them is asked for. */
static void test_bombs(void **state)
{
    uint8_t png[128];
    size_t size, head;
    uint8_t *bytes;
    images s;
    images_options o = images_defaults();
    (void)state;
    memory_largest = 0;
    refuses("PNG beyond what stb_image takes", png, make_png(png, 30000, 30000, 4), "");
    size = make_png(png, 18000, 18000, 4);
    refuses("PNG", png, size, "more than 89 million");
    put("a/0.png", png, size);
    refuses("PNG of no size", png, make_png(png, 0, 9, 4), "");
    refuses("PNG with a huge chunk", png, make_png(png, 64, 64, 0x7fffffff), "ends too early");
    refuses("PNG with a huger chunk", png, make_png(png, 64, 64, 0xfffffff4), "ends too early");
    refuses("PPM", (const uint8_t *)"P6 30000 30000 255\n1234", 23, "PNM that ends too early");
    refuses("PPM", (const uint8_t *)"P6 99999999999999999999 1 255\n1", 31, "PNM");
    refuses("PGM", (const uint8_t *)"P5 4294967297 1 255\n1", 21, "PNM");
    bytes = fixture("rgb.bmp", &size);
    bytes[20] = bytes[24] = 1; /* 65552x65548 */
    refuses("BMP", bytes, size, "more than 89 million");
    bytes[20] = bytes[24] = 0;
    memset(bytes + 22, 0, 3);
    bytes[25] = 0x80; /* INT_MIN lines */
    refuses("BMP", bytes, size, "no pixels, or more than 89 million");
    free(bytes);
    bytes = fixture("rgb.jpg", &size);
    head = (size_t)(jpeg_segment(bytes, size, 0xc0) - bytes);
    memset(bytes + head + 5, 0xff, 4);
    refuses("JPEG", bytes, size, "more than 89 million");
    free(bytes);
    bytes = fixture("rgb.jpg", &size);
    head = (size_t)(jpeg_segment(bytes, size, 0xc0) - bytes);
    bytes[head + 5] = bytes[head + 7] = 0x1f; /* 7948x7952 in two kilobytes */
    refuses("JPEG of too few bytes", bytes, size, "ends too early or is damaged");
    free(bytes);
    refuses("PNG of too few bytes", png, make_png(png, 4000, 4000, 4), "ends too early or is damaged");
    assert_true(memory_largest < 100000);

    /* and they do not decide how large the others are to be */
    put_class("a", 3, 1);
    put_class("b", 3, 9);
    o.max_skipped = 1;
    load(&s, &o);
    assert_int_equal(s.width, 2);
    assert_int_equal(s.skipped, 1);
    assert_non_null(strstr(s.listed[0], "a/0.png has no pixels, or more than 89 million"));
    assert_true(memory_largest < 100000);
    images_free(&s);
}

static void put_bits(uint8_t *to, size_t *at, const char *bits)
{
    for (; *bits; ++bits, ++*at) to[*at / 8] |= (uint8_t)((*bits - '0') << *at % 8);
}

static size_t make_grey_png(uint8_t *to, uint8_t side, const uint8_t *packed, uint32_t length)
{
    uint8_t head[13] = {0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0};
    size_t size = 8;
    head[3] = head[7] = side;
    memcpy(to, "\x89PNG\r\n\x1a\n", 8);
    size += make_chunk(to + size, 13, "IHDR", head, 13);
    size += make_chunk(to + size, length, "IDAT", packed, length);
    return size + make_chunk(to + size, 0, "IEND", head, 0);
}

/* A PNG of 8x8 pixels with a gigabyte of zeros in it, 258 of them in 13 bits; and one with nine bytes too many, as
   some writers leave them. */
static void test_png_with_more_than_it_says(void **state)
{
    enum { TIMES = 4200000, LENGTH = 2 + (3 + 8 + 13 * TIMES) / 8, LINES = 9, STORED = 7 + 9 * LINES + 4 };
    static const uint8_t stored[7] = {0x78, 0x01, 1, 9 * LINES, 0, 255 - 9 * LINES, 255};
    uint8_t *packed = (uint8_t *)calloc(LENGTH + 2, 1), *png = (uint8_t *)calloc(LENGTH + 128, 1);
    uint8_t body[STORED] = {0}, small[STORED + 128];
    size_t bit = 16;
    int i;
    images_picture p;
    const char *why;
    (void)state;
    packed[0] = 0x78, packed[1] = 0x01;
    put_bits(packed, &bit,
             "11000110000"); /* the last block, with fixed codes; a zero; and as before 258 times ... */
    for (i = 0; i < TIMES; ++i) put_bits(packed, &bit, "1100010100000");
    memory_largest = 0;
    refuses("a PNG of 8x8", png, make_grey_png(png, 8, packed, LENGTH),
            "a PNG with more in it than its header says");
    assert_true(memory_largest <= LENGTH);
    free(packed);
    free(png);
    memcpy(body, stored, sizeof stored);
    for (i = 0; i < 9 * LINES; ++i) body[sizeof stored + (size_t)i] = (uint8_t)(i % 9 ? i : 0);
    if (!images_decode(small, make_grey_png(small, 8, body, STORED), 0, &p, &why))
        fail_msg("a line too many: %s", why);
    assert_int_equal(p.pixels[63], 71);
    free(p.pixels);
    refuses("a line too few", small, make_grey_png(small, 10, body, STORED), "damaged");
}

/* Apple's PNG: a chunk before the header, and packed without a header of its own. */
static void test_png_of_apple(void **state)
{
    static const uint8_t stored[5] = {1, 5, 0, 250, 255}; /* a line's filter, and a pixel of four */
    uint8_t head[13] = {0, 0, 0, 1, 0, 0, 0, 1, 8, 6, 0, 0, 0}, body[10], bytes[256], apple[40];
    size_t size;
    int i;
    images_picture p;
    const char *why;
    (void)state;
    memcpy(body, stored, 5);
    memcpy(body + 5, "\0\11\7\5\377", 5);
    memset(apple, 255, sizeof apple);
    for (i = 0; i < 2; ++i) { /* and where the header is not where it should be, nothing is read beyond the end */
        size = 8;
        memcpy(bytes, "\x89PNG\r\n\x1a\n", 8);
        size += make_chunk(bytes + size, i ? 40 : 4, "CgBI", apple, i ? 40 : 4);
        size += make_chunk(bytes + size, 13, "IHDR", head, 13);
        size += make_chunk(bytes + size, 10, "IDAT", body, 10);
        size += make_chunk(bytes + size, 0, "IEND", body, 0);
        if (!images_decode(bytes, size, 0, &p, &why)) {
            assert_int_equal(i, 1);
            continue;
        }
        assert_int_equal(p.channels, 3);
        assert_int_equal(p.pixels[1], 7);
        free(p.pixels);
    }
    size = make_png(bytes, 1, 1, 4); /* interlaced: six of seven passes are empty */
    bytes[28] = 1;
    assert_int_equal(images_png_bytes(bytes), 4);
    set_be32(bytes + 20, 5);
    assert_int_equal(images_png_bytes(bytes), 5 * 4);
    set_be32(bytes + 16, 5);
    set_be32(bytes + 20, 1);
    assert_int_equal(images_png_bytes(bytes), 4 + 4 + 4 + 2 * 3 + 1);
    assert_int_equal(images_bits_of(255), 8);
    assert_int_equal(images_bits_of(256), 10);
    assert_int_equal(images_bits_of(1024), 12);
    assert_int_equal(images_bits_of(4096), 14);
    assert_int_equal(images_bits_of(16384), 16);
}

/* A scan costs the time of the whole picture, however few bytes it has. */
static void test_jpeg_scans(void **state)
{
    enum { SCANS = 1000 };
    size_t size, from, to, at;
    uint8_t *bytes = fixture("progressive.jpg", &size), *more;
    images_picture p;
    const char *why;
    int i;
    (void)state;
    from = (size_t)(jpeg_segment(bytes, size, 0xda) - bytes);
    for (to = from + 4; bytes[to] != 0xff || bytes[to + 1] == 0; ++to) {}
    more = (uint8_t *)calloc(size + (SCANS - 1) * (to - from), 1);
    memcpy(more, bytes, from);
    for (at = from, i = 0; i < SCANS; ++i, at += to - from) memcpy(more + at, bytes + from, to - from);
    memcpy(more + at, bytes + to, size - to);
    refuses("a JPEG of a thousand scans", more, at + size - to, "more than 100 scans");
    assert_true(images_decode(bytes, size, 0, &p, &why));
    assert_true(p.scans > 1);
    free(p.pixels);
    free(more);
    free(bytes);
}

/* Numbers of 16 bits of which only 12 are used: black to everybody who takes the upper 8. */
static void test_bits(void **state)
{
    static const char *const names[] = {"grey12.png", "rgb12.png"};
    images_options o = images_defaults();
    images s;
    int i, x, y, white;
    (void)state;
    for (i = 0; i < 2; ++i) { /* alone */
        size_t size;
        uint8_t *bytes = fixture(names[i], &size);
        known_file f = {"", GREY, 1, 0, 1, 0, 0, 0};
        images_picture p;
        const char *why;
        f.name = names[i];
        f.picture = i ? COLOUR : GREY;
        if (!images_decode(bytes, size, 0, &p, &why)) fail_msg("%s %s", names[i], why);
        check_picture(&f, &p, i ? 3 : 1);
        assert_true(p.sixteen_bit);
        free(p.pixels);
        free(bytes);
    }
    /* in a set that uses no more, also those that use less; size and channels given or not */
    put_fixture("train/a/0.png", "grey12.png");
    put_text("train/a/1.pgm", "P5 # of 16 bits\n 16 12 65535\n");
    put_fixture("train/b/0.png", "rgb12.png");
    put_fixture("test/a/0.png", "grey12.png");
    put_fixture("test/b/0.png", "grey16.png"); /* above what those to learn from have: white */
    {
        uint8_t bytes[18 + 2 * W * H] = "P5 16 12 65535 \n";
        for (i = 0; i < W * H; ++i) bytes[16 + 2 * i] = 0, bytes[16 + 2 * i + 1] = 160;
        memmove(bytes + 15, bytes + 16, 2 * W * H);
        put("train/a/1.pgm", bytes, 15 + 2 * W * H);
    }
    for (i = 0; i < 2; ++i) {
        o.size = i ? H : 0;
        o.channels = i ? 3 : 0;
        load(&s, &o);
        assert_int_equal(s.bits, 12);
        assert_int_equal(s.sixteen_bit, 5);
        says(&s, "5 images have 16 bits, but no number above 4095: they are taken for images of 12 bits");
        assert_int_equal(s.train.pixels[3 * s.width * s.height], 10); /* 160 of 4095 */
        for (y = 0; y < H && !i; ++y) {
            for (x = 0; x < W; ++x) {
                assert_int_equal(s.train.pixels[y * W + x], 9 * (x + y));
                white = 9 * 257 * (x + y) >> 4;
                assert_int_equal(s.test.pixels[3 * W * H + y * W + x], white > 255 ? 255 : white);
            }
        }
        images_free(&s);
    }
    put_fixture("train/b/0.png", "rgb16.png");
    o = images_defaults();
    load(&s, &o);
    assert_int_equal(s.bits, 16);
    assert_int_equal(s.train.pixels[1], 0); /* 9 * 16 / 256 */
    says(&s, "5 images have 16 bits, of which the upper 8 are used");
    images_free(&s);
}

/* The largest number of a PNM is white. */
static void test_pnm_largest(void **state)
{
    static const struct {
        const char *bytes;
        size_t size;
        int pixel; /* -1: refused */
    } files[] = {{"P5 1 1 15\n\7", 11, 119},     {"P5 1 1 15\n\17", 11, 255}, {"P5 1 1 15\n\20", 11, 255},
                 {"P5 1 1 1\n\1", 10, 255},      {"P5 1 1 256\n\1", 12, -1},  {"P5 1 1 256\n\1\0", 13, 255},
                 {"P5 1 1 1023\n\2\0", 14, 128}, {"P5 1 1 0\n\1", 10, -1},    {"P5 1 1 65536\n\1\0", 15, -1},
                 {"P5 1 1 9\n\1", 10, 28},       {"P5 1 1 9", 8, -1},         {"P5 1 1 511\n\3\377", 13, 255}};
    size_t i;
    (void)state;
    for (i = 0; i < sizeof files / sizeof *files; ++i) {
        images_picture p;
        const char *why;
        const int ok = images_decode((const uint8_t *)files[i].bytes, files[i].size, 1, &p, &why);
        if (ok != (files[i].pixel >= 0)) fail_msg("%s: %d", files[i].bytes, ok);
        if (ok && p.pixels[0] != files[i].pixel)
            fail_msg("%s: %d, expected %d", files[i].bytes, p.pixels[0], files[i].pixel);
        if (ok) free(p.pixels);
    }
}

/* ---- resizing --------------------------------------------------------------------------------------------- */

/* What make.py gave Pillow. */
static uint8_t *noise(int w, int h, int channels)
{
    const size_t size = (size_t)w * (size_t)h * (size_t)channels;
    uint32_t number = (uint32_t)w * 65536u + (uint32_t)h;
    uint8_t *pixels = (uint8_t *)calloc(size, 1);
    size_t i;
    for (i = 0; i < size; ++i) {
        number = number * 1664525u + 1013904223u;
        pixels[i] = (uint8_t)(number >> 24);
    }
    return pixels;
}

static void check_golden(const golden *g, uint8_t *result)
{
    const uint32_t crc = images_crc(result, (size_t)g->to_w * (size_t)g->to_h * (size_t)g->channels);
    if (crc != g->crc)
        fail_msg("%dx%d with %d channels to %dx%d: CRC 0x%08x, Pillow's is 0x%08x", g->w, g->h, g->channels,
                 g->to_w, g->to_h, crc, g->crc);
    free(result);
}

static void test_resize_is_pillows(void **state)
{
    size_t i;
    (void)state;
    for (i = 0; i < sizeof golden_resized / sizeof *golden_resized; ++i) {
        const golden *g = &golden_resized[i];
        uint8_t *pixels = noise(g->w, g->h, g->channels);
        check_golden(g, images_resize(pixels, g->w, g->h, g->channels, g->to_w, g->to_h));
        free(pixels);
    }
}

static void test_fit_is_torchvisions(void **state)
{
    const images_framing usual = images_defaults().framing;
    size_t i;
    (void)state;
    for (i = 0; i < sizeof golden_fitted / sizeof *golden_fitted; ++i) {
        const golden *g = &golden_fitted[i];
        images_picture p;
        memset(&p, 0, sizeof p);
        p.w = g->w, p.h = g->h, p.channels = g->channels;
        p.pixels = noise(g->w, g->h, g->channels);
        check_golden(g, images_fit(&p, g->to_w, g->to_w, &usual));
    }
}

/* Edges that are longer than what is cut out of them, stretching, ImageOps.pad and ImageOps.exif_transpose. */
static void test_framing_is_pillows(void **state)
{
    size_t i;
    (void)state;
    for (i = 0; i < sizeof golden_framed / sizeof *golden_framed; ++i) {
        const golden_framing *g = &golden_framed[i];
        const char *turned = strncmp(g->words, "exif=", 5) == 0 ? g->words + 5 : NULL;
        images_framing f;
        images_picture p;
        uint32_t crc;
        memset(&p, 0, sizeof p);
        p.w = g->w, p.h = g->h, p.channels = g->channels;
        p.rotated = turned ? *turned - '0' : 0;
        p.pixels = noise(g->w, g->h, g->channels);
        assert_true(images_framing_parse(turned ? turned + 1 : g->words, &f));
        assert_true(images_turn(&p));
        if (!images_fits(p.w, p.h, g->to_w, g->to_h, &f)) {
            assert_null(images_too_long(p.w, p.h, g->to_w, g->to_h, &f));
            p.pixels = images_fit(&p, g->to_w, g->to_h, &f);
        }
        crc = images_crc(p.pixels, (size_t)g->to_w * (size_t)g->to_h * (size_t)g->channels);
        if (crc != g->crc)
            fail_msg("%dx%d with %d channels to %dx%d, %s: CRC 0x%08x, Pillow's is 0x%08x", g->w, g->h, g->channels,
                     g->to_w, g->to_h, g->words, crc, g->crc);
        free(p.pixels);
    }
}

static void test_framing_words(void **state)
{
    static const char *const good[][2] = {{"", ""},
                                          {"crop", ""},
                                          {"256", "crop=256"},
                                          {"crop=8192", "crop=8192"},
                                          {"stretch", "stretch"},
                                          {"pad", "pad=0,0,0"},
                                          {"pad=7", "pad=7,7,7"},
                                          {"pad=1,22,255", "pad=1,22,255"},
                                          {"exif", "crop exif"},
                                          {"crop exif", "crop exif"},
                                          {"pad=255,255,255 exif", "pad=255,255,255 exif"},
                                          {"exif 12", "crop=12 exif"},
                                          {" stretch ", "stretch"}};
    static const char *const bad[] = {"crops",       "cro",
                                      "crop=",       "crop=0",
                                      "0",           "8193",
                                      "1x",          "crop=1,2",
                                      "1,2",         "pad=",
                                      "pad=256",     "pad=1,2",
                                      "pad=1,2,3,4", "pad=1,2,",
                                      "pad=,1",      "pad=1,,2",
                                      "pad=-1",      "stretch=2",
                                      "stretch pad", "crop 256",
                                      "exif exif",   "exif=1",
                                      "64KB",        "=",
                                      "fit",         "pad=99999999999",
                                      "stretch\tpad"};
    images_framing f;
    char words[64];
    size_t i;
    (void)state;
    for (i = 0; i < sizeof good / sizeof *good; ++i) {
        if (!images_framing_parse(good[i][0], &f)) fail_msg("\"%s\" is not known", good[i][0]);
        images_framing_words(&f, words, sizeof words);
        assert_string_equal(words, good[i][1]);
    }
    memset(&f, 7, sizeof f);
    for (i = 0; i < sizeof bad / sizeof *bad; ++i) {
        if (images_framing_parse(bad[i], &f)) fail_msg("\"%s\" is known", bad[i]);
        assert_int_equal(f.edge, 0x07070707);
    }
}

/* Lines would need more memory than is sensible; what is smaller than CenterCrop's size is set into its middle. */
static void test_framing_limits(void **state)
{
    images_framing f = images_defaults().framing;
    images_picture p;
    int i;
    (void)state;
    assert_string_equal(images_too_long(1, 20000, 4096, 4096, &f), "is too long and narrow to be resized");
    for (i = IMAGES_STRETCH; i <= IMAGES_PAD; ++i) {
        f.way = (images_way)i;
        assert_null(images_too_long(1, 20000, 4096, 4096, &f));
        assert_null(images_too_long(20000, 1, 4096, 4096, &f));
        assert_string_equal(images_too_long(1, 60000, 4096, 4096, &f), "is too long and narrow to be resized");
        assert_string_equal(images_too_long(60000, 1, 1, 4096, &f), "is too long and narrow to be resized");
        assert_null(images_too_long(60000, 1, 1, 1, &f));
    }
    memset(&p, 0, sizeof p);
    f.way = IMAGES_CROP, f.edge = 1;
    p.w = 2, p.h = 1, p.channels = 1;
    p.pixels = (uint8_t *)calloc(2, 1);
    p.pixels[0] = 5, p.pixels[1] = 6;
    p.pixels = images_fit(&p, 5, 4, &f);
    for (i = 0; i < 20; ++i) assert_int_equal(p.pixels[i], i == 6 ? 5 : i == 7 ? 6 : 0);
    free(p.pixels);
}

static void test_grey_is_pillows(void **state)
{
    enum { HEAD = 13 };
    uint8_t *pixels = noise(64, 64, 3), *bytes = (uint8_t *)calloc(HEAD + 64 * 64 * 3, 1);
    images_picture p;
    const char *why;
    (void)state;
    memcpy(bytes, "P6 64 64 255\n", HEAD);
    memcpy(bytes + HEAD, pixels, 64 * 64 * 3);
    assert_true(images_decode(bytes, HEAD + 64 * 64 * 3, 1, &p, &why));
    assert_int_equal(images_crc(p.pixels, 64 * 64), GREY_CRC);
    free(p.pixels);
    free(pixels);
    free(bytes);
}

/* The set in the repository, pixel by pixel what Pillow cuts out of its sheets. */
static void test_fashion(void **state)
{
    images s;
    (void)state;
    assert_true(images_load(&s, beside_this_file("../examples/data/fashion"), NULL));
    assert_int_equal(s.class_count, 10);
    assert_string_equal(s.class_names[0], "Ankle-boot");
    assert_string_equal(s.class_names[8], "T-shirt");
    assert_int_equal(s.channels, 1);
    assert_int_equal(s.width, 28);
    assert_int_equal(s.height, 28);
    assert_int_equal(s.train.count, FASHION_TRAIN_COUNT);
    assert_int_equal(s.test.count, FASHION_TEST_COUNT);
    assert_int_equal(s.train.labels[0], 0);
    assert_int_equal(s.train.labels[FASHION_TRAIN_COUNT - 1], 9);
    assert_int_equal(images_crc(s.train.pixels, FASHION_TRAIN_COUNT * 28 * 28), FASHION_TRAIN_CRC);
    assert_int_equal(images_crc(s.test.pixels, FASHION_TEST_COUNT * 28 * 28), FASHION_TEST_CRC);
    images_free(&s);
}

/* ---- folders ---------------------------------------------------------------------------------------------- */

static void assert_set(const images_set *set, size_t image, int count, const int *values, const int *labels)
{
    int i;
    assert_int_equal(set->count, count);
    for (i = 0; i < count; ++i) {
        assert_int_equal(set->labels[i], labels[i]);
        assert_int_equal(set->pixels[(size_t)i * image], values[i]);
    }
}

static void assert_name(const images *s, const images_set *set, int index, const char *wanted)
{
    char name[64];
    assert_int_equal(images_name(s, set, index, name, sizeof name), strlen(wanted));
    assert_string_equal(name, wanted);
}

static void test_train_and_test(void **state)
{
    static const int train[] = {10, 11, 20, 21, 22}, train_labels[] = {0, 0, 1, 1, 1};
    static const int test[] = {30, 40, 41}, test_labels[] = {0, 1, 1};
    static const int joined[] = {10, 11, 20, 21, 22, 50}, joined_labels[] = {0, 0, 1, 1, 1, 0};
    images_options o = images_defaults();
    images s;
    (void)state;
    put_class("train/cat", 2, 10);
    put_class("train/dog", 3, 20);
    put_class("test/cat", 1, 30);
    put_class("test/dog", 2, 40);
    assert_true(images_load(&s, under_root(""), NULL)); /* with a slash behind */
    assert_name(&s, &s.test, 0, "test/cat/000.pgm");
    images_free(&s);
    put_class("val/cat", 1, 50); /* to choose with; not every class need be there */
    load(&s, NULL);
    assert_int_equal(s.class_count, 2);
    assert_string_equal(s.class_names[0], "cat");
    assert_string_equal(s.class_names[1], "dog");
    assert_int_equal(s.files, 9);
    assert_int_equal(s.channels, 1);
    assert_set(&s.train, 4, 5, train, train_labels);
    assert_set(&s.test, 4, 3, test, test_labels);
    assert_name(&s, &s.train, 3, "train/dog/001.pgm");
    assert_name(&s, &s.test, 0, "test/cat/000.pgm");
    assert_int_equal(s.validation.count, 1);
    assert_int_equal(s.validation.pixels[0], 50);
    images_free(&s);
    o.join_validation = 1;
    load(&s, &o);
    assert_set(&s.train, 4, 6, joined, joined_labels);
    assert_set(&s.test, 4, 3, test, test_labels);
    assert_int_equal(s.validation.count, 0);
    images_free(&s);
}

/* Every name that speaks of a split, in any case, and names that only look like it. */
/* Every image is in the test part of one fold; the others of that fold are learned from. */
static void test_folds(void **state)
{
    enum { FOLDS = 7, MOST = 3000 };
    static char seen[MOST];
    images_options o = images_defaults();
    images s;
    int fold, i, images_in_all = 0, tested = 0;
    (void)state;
    o.folds = FOLDS;
    memset(seen, 0, sizeof seen);
    for (fold = 0; fold < FOLDS; ++fold) {
        o.fold = fold;
        assert_true(images_load(&s, beside_this_file("../examples/data/fashion/train"), &o));
        if (fold) assert_int_equal(s.train.count + s.test.count, images_in_all);
        images_in_all = s.train.count + s.test.count;
        assert_true(s.test.count >= images_in_all / FOLDS - 10 && s.test.count <= images_in_all / FOLDS + 10);
        tested += s.test.count;
        for (i = 0; i < s.test.count; ++i) {
            const int number = 300 * s.test.origin[i].file + s.test.origin[i].place;
            assert_true(number >= 0 && number < MOST);
            assert_int_equal(seen[number]++, 0);
        }
        images_free(&s);
    }
    assert_int_equal(tested, images_in_all);
    assert_false(images_load(&s, beside_this_file("../examples/data/fashion"), &o));
    assert_non_null(strstr(s.error, "is for testing; folds take their test images out of one folder"));
    images_free(&s);
}

static void test_names_of_splits(void **state)
{
    static const struct {
        const char *name;
        int split;
        const char *rest;
    } names[] = {{"train", IMAGES_TRAIN, ""},
                 {"Train", IMAGES_TRAIN, ""},
                 {"TRAINING", IMAGES_TRAIN, ""},
                 {"trainset", IMAGES_TRAIN, ""},
                 {"training_set", IMAGES_TRAIN, ""},
                 {"TrainImages", IMAGES_TRAIN, ""},
                 {"Train Data", IMAGES_TRAIN, ""},
                 {"seg_train", IMAGES_TRAIN, "seg "},
                 {"seg_test", IMAGES_TEST, "seg "},
                 {"mnist-train-png", IMAGES_TRAIN, "mnist png "},
                 {"train2017", IMAGES_TRAIN, "2017 "},
                 {"test", IMAGES_TEST, ""},
                 {"Testing", IMAGES_TEST, ""},
                 {"test.set", IMAGES_TEST, ""},
                 {"val", IMAGES_VALIDATION, ""},
                 {"Valid", IMAGES_VALIDATION, ""},
                 {"validation_set", IMAGES_VALIDATION, ""},
                 {"eval", IMAGES_VALIDATION, ""},
                 {"devset", IMAGES_VALIDATION, ""},
                 {"evaluation", IMAGES_VALIDATION, ""},
                 {"", -1, ""},
                 {"cat", -1, "cat "},
                 {"contest", -1, "contest "},
                 {"trainer", -1, "trainer "},
                 {"trains", -1, "trains "},
                 {"valley", -1, "valley "},
                 {"train_test", -1, ""},
                 {"gr\303\274n_train", IMAGES_TRAIN, "gr\303\274n "},
                 {"a_word_with_so_many_letters_that_it_fits_nowhere_in_the_room_that_is_there_train", -1, NULL},
                 {"aWordWithSoManyLettersThatItFitsNowhereInTheRoomThatIsThereForItAtAllTrain", -1, NULL},
                 {"awordwithsomanylettersthatitfitsnowhereintheroomthatisthereforitatalltrain", -1, NULL}};
    char rest[64];
    size_t i;
    (void)state;
    for (i = 0; i < sizeof names / sizeof *names; ++i) {
        const int split = images_split_of(names[i].name, rest, sizeof rest);
        if (split != names[i].split || (names[i].rest && strcmp(rest, names[i].rest) != 0))
            fail_msg("%s: %d \"%s\"", names[i].name, split, rest);
    }
}

static void put_split(const char *name, int value)
{
    char folder[256];
    snprintf(folder, sizeof folder, "%s/cat", name);
    put_class(folder, 2, value);
    snprintf(folder, sizeof folder, "%s/dog", name);
    put_class(folder, 2, value + 2);
}

/* A set under such names, "" for what is not there, is taken for what it is. */
static void test_splits_under_other_names(void **state)
{
    static const struct {
        const char *train, *validation, *test; /* as they are to be taken */
        const char *said;
    } sets[] = {
        {"Training", "", "Testing", "\"Testing\" is taken for the images to test with"},
        {"Train", "", "Test", "\"Train\" is taken for the images to learn from"},
        {"TRAIN", "VAL", "TEST", "\"VAL\" is taken for the images to choose with"},
        {"training_set", "", "test_set", "\"training_set\" is taken for"},
        {"trainset", "validset", "testset", "\"validset\" is taken for"},
        {"train", "", "Test", "\"Test\" is taken for the images to test with"},
        {"train", "validation", "test", "\"validation\" is taken for the images to choose with"},
        {"train", "dev", "test", "\"dev\" is taken for"},
        {"train", "eval", "testing", "\"eval\" is taken for"},
        {"train", "", "val", "\"val\" is taken for the images to test with"},
        {"train", "", "eval", "\"eval\" is taken for the images to test with"},
        {"fruits_train", "", "fruits_test", "\"fruits_train\" is taken for"},
        {"a-train-b", "a-val-b", "a-test-b", "\"a-val-b\" is taken for"},
        {"train2017", "", "val2017", "\"val2017\" is taken for the images to test with"},
        {"cars_train", "", "test", "\"cars_train\" is taken for"},
        {"Dataset/train", "Dataset/valid", "Dataset/test", "/Dataset holds nothing but a folder"},
        {"seg_train/seg_train", "", "seg_test/seg_test", "seg_train holds nothing but a folder"},
    };
    size_t i;
    (void)state;
    for (i = 0; i < sizeof sets / sizeof *sets; ++i) {
        images s;
        put_split(sets[i].train, 10);
        if (*sets[i].validation) put_split(sets[i].validation, 20);
        put_split(sets[i].test, 30);
        load(&s, NULL);
        if (s.class_count != 2 || s.train.count != 4 || s.test.count != 4 || s.train.pixels[0] != 10 ||
            s.test.pixels[0] != 30)
            fail_msg("%s and %s: %d classes, %d and %d images", sets[i].train, sets[i].test, s.class_count,
                     s.train.count, s.test.count);
        assert_int_equal(s.validation.count, *sets[i].validation ? 4 : 0);
        if (*sets[i].validation) assert_int_equal(s.validation.pixels[0], 20);
        if (strstr(sets[i].said, "nothing but"))
            says(&s, "holds nothing but a folder: that one is taken in its place");
        else
            says(&s, sets[i].said);
        images_free(&s);
        assert_int_equal(nftw(root, remove_entry, 16, FTW_DEPTH | FTW_PHYS), 0);
        assert_int_equal(mkdir(root, 0777), 0);
    }
}

/* What cannot be told apart by its names is not guessed at, and what is left out is named. */
static void test_splits_in_doubt(void **state)
{
    images s;
    (void)state;
    put_split("train", 10);
    put_split("Train", 10);
    put_split("test", 20);
    load_fails(NULL, "both seem to hold the images to learn from; keep one of them");
    assert_int_equal(rename(under_root("Train"), under_root("eval")), 0);
    put_split("dev", 30);
    load_fails(NULL, "both seem to hold the images to choose with; keep one of them");
    assert_int_equal(rename(under_root("dev"), under_root("extra")), 0);
    put_split("test_hard", 40);
    put_split("train_more", 50);
    load(&s, NULL);
    assert_int_equal(s.train.count, 4);
    assert_int_equal(s.test.pixels[0], 20);
    assert_int_equal(s.validation.pixels[0], 10);
    says(&s, "not used: \"extra\", \"test_hard\", \"train_more\"");
    images_free(&s);
    assert_int_equal(rename(under_root("train"), under_root("a_train")), 0);
    assert_int_equal(rename(under_root("test"), under_root("a_test")), 0);
    assert_int_equal(rename(under_root("train_more"), under_root("b_train")), 0);
    assert_int_equal(rename(under_root("test_hard"), under_root("b_test")), 0);
    load_fails(NULL, "seems to hold several sets, with \"a_train\" and with \"b_train\" to learn from");
}

static void test_many_folders_are_not_used(void **state)
{
    images s;
    char name[128];
    int i;
    (void)state;
    put_split("train", 10);
    for (i = 0; i < 9; ++i) {
        snprintf(name, sizeof name, "%d_of_a_long_name_that_fills_a_line_together_with_others", i);
        put_folder(name);
    }
    load(&s, NULL);
    says(&s, "\"0_of_a_long");
    says(&s, " and others");
    images_free(&s);
}

/* Images that nothing is said about are no class: not those in test, nor those in test/images. */
static void test_test_images_without_labels(void **state)
{
    images s;
    (void)state;
    put_split("train", 10);
    put_class("test", 3, 20);
    load(&s, NULL);
    assert_int_equal(s.class_count, 2);
    assert_int_equal(s.train.count + s.test.count, 4);
    says(&s, "\"test\" has no folders for the classes, so its images have no labels: it is not used");
    images_free(&s);
    put_class("val/images", 3, 20);
    put_text("val/annotations.txt", "x");
    load(&s, NULL);
    assert_int_equal(s.class_count, 2);
    assert_int_equal(s.train.count + s.test.count, 4);
    says(&s, "/val has no folder of a class, so its images have no labels: there are none to test with");
    images_free(&s);
    put_class("train2/0", 2, 5);
    assert_int_equal(rename(under_root("train"), under_root("was")), 0);
    assert_int_equal(rename(under_root("train2/0"), under_root("train")), 0);
    assert_int_equal(nftw(under_root("was"), remove_entry, 16, FTW_DEPTH | FTW_PHYS), 0);
    assert_int_equal(nftw(under_root("val"), remove_entry, 16, FTW_DEPTH | FTW_PHYS), 0);
    assert_int_equal(rmdir(under_root("train2")), 0);
    load_fails(NULL, "\"test\" and \"train\", hold images, but no folders for the classes");
}

/* Folders of the same folders are not classes, but splits or sources of them. */
static void test_classes_that_hold_the_same(void **state)
{
    images s;
    (void)state;
    put_split("fold1", 10);
    put_split("fold2", 20);
    put_split("fold3", 30);
    load_fails(NULL,
               "such as \"fold1\" and \"fold2\", all hold the same folders, such as \"cat\" and \"dog\", which are "
               "probably the classes");
    put_class("fold3/eel", 1, 5);
    load(&s, NULL);
    assert_int_equal(s.class_count, 3);
    images_free(&s);
    assert_int_equal(rename(under_root("fold3/eel"), under_root("fold3/cat/deeper")), 0);
    put_class("fold1", 1, 5); /* with images of their own they may be */
    load(&s, NULL);
    images_free(&s);
}

/* The other way round, <class>/<split>: what is inside are not the classes. */
static void test_classes_that_hold_splits(void **state)
{
    (void)state;
    put_class("cat/train", 3, 10);
    put_class("cat/test", 2, 20);
    put_class("dog/train", 3, 30);
    put_class("dog/test", 2, 40);
    load_fails(NULL,
               "such as \"cat\" and \"dog\", are probably the classes, but each holds \"test\" and \"train\": the "
               "images are expected the other way round, as test/cat/...");
}

/* Results may be written into the folder of the images, where they are no class. */
static void test_a_folder_apart(void **state)
{
    static const char *const names[] = {"out", "out//", "cat/../out"};
    images_options o = images_defaults();
    char apart[1300];
    images s;
    int i;
    (void)state;
    put_class("cat", 5, 10);
    put_class("dog", 5, 20);
    put_folder("out");
    load_fails(NULL, "class \"out\" has no readable image");
    for (i = 0; i < 3; ++i) {
        snprintf(apart, sizeof apart, "%s", under_root(names[i]));
        o.apart = apart;
        load(&s, &o);
        assert_int_equal(s.class_count, 2);
        images_free(&s);
    }
    put_class("dog/out", 3, 30); /* of the same name, but another one */
    load(&s, &o);
    assert_int_equal(s.train.count + s.test.count, 13);
    images_free(&s);
}

static void test_no_folder_to_test_with(void **state)
{
    images_options o = images_defaults();
    images s;
    (void)state;
    put_class("train/cat", 8, 10);
    put_class("train/dog", 8, 20);
    o.test_share = 0.25;
    load(&s, &o);
    says(&s, "no folder is for testing: 25 % of each class is kept for that, drawn by the seed");
    assert_int_equal(s.test.count, 4);
    images_free(&s);
    put_class("test/cat", 1, 30);
    put_class("test/dog", 1, 40);
    load(&s, &o);
    assert_int_equal(s.said_count, 0);
    images_free(&s);
}

/* One file is spoken of as one. */
static void test_one_and_several(void **state)
{
    images s;
    (void)state;
    put_class("train/cat", 4, 10);
    put_class("train/dog", 4, 20);
    put_class("test/cat", 1, 30);
    put_class("test/dog", 1, 40);
    put_pgm("train/cat/twin.pgm", 2, 2, 10);
    put_pgm("test/dog/seen.pgm", 2, 2, 20);
    put_pgm("train/loose.pgm", 2, 2, 20);
    put_text("train/cat/.hidden", "x");
    load(&s, NULL);
    says(&s, "1 of the training images is an exact copy of another among them");
    says(&s, "1 of the test images is among the training images as well");
    says(&s, "1 image beside the folders of the classes belongs to none");
    says(&s, "1 name that begins with a dot was not looked at");
    images_free(&s);
}

static void test_test_may_be_called_val_or_valid(void **state)
{
    static const int test[] = {30, 40}, test_labels[] = {0, 1};
    images s;
    (void)state;
    put_class("train/cat", 2, 10);
    put_class("train/dog", 3, 20);
    put_class("valid/cat", 1, 30);
    put_class("valid/dog", 1, 40);
    load(&s, NULL);
    assert_int_equal(s.train.count, 5);
    assert_set(&s.test, 4, 2, test, test_labels);
    images_free(&s);
    assert_int_equal(rename(under_root("valid"), under_root("val")), 0);
    load(&s, NULL);
    assert_set(&s.test, 4, 2, test, test_labels);
    images_free(&s);
}

/* Without a train folder, val and valid are classes like any other. */
static void test_a_class_may_be_called_val(void **state)
{
    images s;
    (void)state;
    put_class("val", 4, 10);
    put_class("void", 4, 20);
    load(&s, NULL);
    assert_int_equal(s.class_count, 2);
    assert_int_equal(s.train.count, 6);
    images_free(&s);
}

static void test_test_without_train(void **state)
{
    (void)state;
    put_class("test/cat", 2, 1);
    put_class("test/dog", 2, 1);
    load_fails(NULL, "has a test folder, but no train folder");
}

/* A share of each class, a function of the seed; every image is in exactly one of the two. */
static void test_split(void **state)
{
    images_options o = images_defaults();
    images s, again;
    int seen[256] = {0}, i, same = 0;
    char name[64];
    (void)state;
    put_class("cat", 20, 0);
    put_class("dog", 9, 100);
    o.test_share = 0.25;
    load(&s, &o);
    assert_int_equal(s.test.count, 5 + 2);
    assert_int_equal(s.train.count, 15 + 7);
    for (i = 0; i < s.test.count; ++i) {
        ++seen[s.test.pixels[4 * i]];
        assert_int_equal(s.test.labels[i], s.test.pixels[4 * i] >= 100);
    }
    for (i = 0; i < s.train.count; ++i) {
        ++seen[s.train.pixels[4 * i]];
        assert_int_equal(s.train.labels[i], s.train.pixels[4 * i] >= 100);
        snprintf(name, sizeof name, "%s/%03d.pgm", s.train.labels[i] ? "dog" : "cat",
                 s.train.pixels[4 * i] - 100 * s.train.labels[i]);
        assert_name(&s, &s.train, i, name);
    }
    for (i = 0; i < 256; ++i) assert_int_equal(seen[i], i < 20 || (i >= 100 && i < 109));
    load(&again, &o);
    assert_memory_equal(s.test.pixels, again.test.pixels, 4 * 7);
    images_free(&again);
    for (o.seed = 2; o.seed < 8; ++o.seed) {
        load(&again, &o);
        same += memcmp(s.test.pixels, again.test.pixels, 4 * 7) == 0;
        images_free(&again);
    }
    assert_true(same < 2);
    o.seed = 1;
    o.train_limit = 8; /* the test images stay those that they are */
    load(&again, &o);
    assert_int_equal(again.test.count, 5 + 2);
    assert_memory_equal(s.test.pixels, again.test.pixels, 4 * 7);
    assert_int_equal(again.train.count, 8 + 7);
    for (i = 0; i < 15; ++i) assert_int_equal(again.train.labels[i], i >= 8);
    images_free(&again);
    images_free(&s);
}

static void test_split_keeps_one_of_each(void **state)
{
    images_options o = images_defaults();
    images s;
    (void)state;
    put_class("cat", 2, 0);
    put_class("dog", 3, 100);
    o.test_share = 0.001;
    load(&s, &o);
    assert_int_equal(s.test.count, 2);
    images_free(&s);
    o.test_share = 0.999;
    load(&s, &o);
    assert_int_equal(s.train.count, 2);
    images_free(&s);
    put_class("eel", 1, 200);
    load_fails(
        &o, "class \"eel\" has no readable image in the test split; where no folder is for testing, a class needs "
            "two");
}

/* Byte order, as Python sorts names in UTF-8; not that of a locale, and not numbers by value. */
static void test_class_order(void **state)
{
    static const char *const names[] = {
        "B", "Z10", "Z9", "a", "b c", "gr\303\266\303\237e", "\xe6\x97\xa5", "\xf0\x9f\x90\x88"};
    static const int shuffled[] = {4, 7, 0, 6, 3, 1, 5, 2};
    images s;
    int i;
    (void)state;
    for (i = 0; i < 8; ++i) {
        char folder[64];
        snprintf(folder, sizeof folder, "train/%s", names[shuffled[i]]);
        put_class(folder, 1, shuffled[i]);
        snprintf(folder, sizeof folder, "test/%s", names[shuffled[i]]);
        put_class(folder, 1, shuffled[i]);
    }
    load(&s, NULL);
    assert_int_equal(s.class_count, 8);
    for (i = 0; i < 8; ++i) {
        assert_string_equal(s.class_names[i], names[i]);
        assert_int_equal(s.train.labels[i], i);
        assert_int_equal(s.train.pixels[4 * i], i);
    }
    images_free(&s);
}

/* Names are text: no page and no saved model could hold others. */
static void test_names_in_utf8(void **state)
{
    static const struct {
        const char *text;
        int bytes;
    } letters[] = {{"a", 1},
                   {"\177", 1},
                   {"\303\251", 2},
                   {"\342\202\254", 3},
                   {"\356\200\200", 3},
                   {"\360\237\220\210", 4},
                   {"\364\217\277\277", 4},
                   {"\200", 0}, /* goes on with nothing before it */
                   {"\303", 0}, /* ends in the middle */
                   {"\342\202", 0},
                   {"\303(", 0},    /* does not go on */
                   {"\300\257", 0}, /* longer than it need be */
                   {"\340\200\257", 0},
                   {"\360\200\200\200", 0},
                   {"\355\240\200", 0},     /* half of a pair */
                   {"\364\220\200\200", 0}, /* beyond U+10FFFF */
                   {"\370\200\200\200\200", 0}};
    char folder[256], shown[64];
    size_t i;
    (void)state;
    for (i = 0; i < sizeof letters / sizeof *letters; ++i)
        assert_int_equal(images_utf8(letters[i].text), letters[i].bytes);
    put_class("ok", 1, 0);
    put_class("caf\351", 1, 0);
    load_fails(NULL, "the class name \"caf\\xE9\" is not in UTF-8; give it another");
    assert_int_equal(rename(under_root("caf\351"), under_root("cafe")), 0);
    memset(folder, 0351, 200);
    folder[200] = 0;
    put_class(folder, 1, 0);
    for (i = 0; i + 4 < sizeof shown; i += 4) memcpy(shown + i, "\\xE9", 4);
    shown[i] = 0;
    load_fails(NULL, shown);
}

/* Whatever order the file system gives, the set is the same. */
static void test_order_of_files(void **state)
{
    images wanted, s;
    (void)state;
    put_class("train/cat", 30, 0);
    put_class("train/dog/young/small", 10, 50);
    put_class("train/dog/old", 10, 70);
    put_class("train/eel", 20, 90);
    load(&wanted, NULL);
    for (folder_seed = 1; folder_seed < 6; ++folder_seed) {
        load(&s, NULL);
        assert_int_equal(s.train.count, wanted.train.count);
        assert_memory_equal(s.train.pixels, wanted.train.pixels, 4u * (size_t)s.train.count);
        assert_memory_equal(s.train.labels, wanted.train.labels, sizeof(int32_t) * (size_t)s.train.count);
        assert_memory_equal(s.test.pixels, wanted.test.pixels, 4u * (size_t)s.test.count);
        assert_string_equal(s.class_names[2], "eel");
        images_free(&s);
    }
    images_free(&wanted);
}

/* Hidden files, files that are no images, names in capitals, names that lie. */
static void test_what_else_lies_around(void **state)
{
    images_options o = images_defaults();
    images s;
    (void)state;
    put_class("train/a", 2, 10);
    put_class("train/b", 2, 20);
    put_class("test/a", 1, 30);
    put_class("test/b", 1, 40);
    put_class("train/.hidden", 3, 50);
    put_text("train/a/.000.pgm", "not looked at");
    put_text("train/a/Thumbs.db", "x");
    put_text("train/a/README", "x");
    put_text("train/a/noextension.", "x");
    put_text("train/a/long.extension", "x");
    put_text("train/labels.csv", "x");
    put_text("README.md", "x");
    put_pgm("train/loose.pgm", 2, 2, 1); /* of no class */
    put_pgm("train/a/UPPER.PgM", 2, 2, 12);
    put_fixture("train/b/really_a_bmp.jpeg", "rgb.bmp");
    put_fixture("train/b/x.gif", "refused.gif");
    put_fixture("train/b/x.TIFF", "refused.tif");
    put_folder("train/b/folder.png");
    put_text("train/b/BMW.txt", "BMW is no bitmap");
    o.size = 2;
    load(&s, &o);
    assert_int_equal(s.others, 5);
    assert_int_equal(s.hidden, 1);
    assert_int_equal(s.loose, 1);
    says(&s, "5 files left out, each of which is no image");
    says(&s, "1 file left out, which is a TIFF image, which is not read");
    says(&s, "1 name that begins with a dot was not looked at");
    says(&s, "1 image beside the folders of the classes belongs to none");
    says(&s, "1 image was brought to this size");
    assert_int_equal(s.class_count, 2);
    assert_int_equal(s.files, 8);
    assert_int_equal(s.train.count, 6);
    assert_int_equal(s.skipped, 0);
    assert_int_equal(s.unsupported, 2);
    assert_int_equal(s.resized, 1);
    assert_int_equal(s.channels, 3);
    assert_int_equal(s.train.labels[2], 0);
    assert_int_equal(s.train.pixels[2 * 12], 12);
    images_free(&s);
}

/* Contents decide: other names of JPEG, no name at all, another's name. */
static void test_contents_decide(void **state)
{
    static const char *const names[] = {"a.jfif", "b.jpe", "c.JPG",  "d",    "e.dat",
                                        "f.txt",  "g.gif", "h.webp", "i.pnm"};
    static const char *const from[] = {"rgb.jpg",  "rgb.jpg",  "rgb.jpg",         "rgb8.png", "rgb.bmp",
                                       "grey.pgm", "rgb8.png", "progressive.jpg", "rgb.ppm"};
    images_options o = images_defaults();
    char name[64];
    images s;
    int i;
    (void)state;
    for (i = 0; i < 9; ++i) {
        snprintf(name, sizeof name, "train/a/%s", names[i]);
        put_fixture(name, from[i]);
    }
    put_fixture("train/b/0.png", "rgb8.png");
    put_fixture("test/a/0", "rgb8.png");
    put_fixture("test/b/0", "rgb8.png");
    load(&s, NULL);
    assert_int_equal(s.train.count, 10);
    assert_int_equal(s.files, 12);
    assert_int_equal(s.skipped + s.others + s.unsupported, 0);
    images_free(&s);
    put_text("train/a/j", "\xff\xd8\xff and no more"); /* a damaged image, whatever it is called */
    put_text("train/b/k", "P5 is what this text begins with");
    put_text("train/b/l.png", "RIFF\1\1\1\1WEBPVP8 ");
    put_text("train/b/m.jpg", "");
    put_text("train/b/n", "");
    load_fails(NULL, "3 of 15 image files cannot be read");
    o.max_skipped = 1;
    load(&s, &o);
    assert_int_equal(s.skipped, 3);
    assert_int_equal(s.others, 2);
    says(&s, "1 file left out, which ends too early or is damaged");
    says(&s, "1 file left out, which is empty");
    says(&s, "2 files left out, each of which is no image");
    images_free(&s);
}

/* More kinds of faults than there is room for are still counted. */
static void test_reasons(void **state)
{
    static char texts[IMAGES_REASONS + 2][32];
    images s;
    int i, sum = 0;
    (void)state;
    memset(&s, 0, sizeof s);
    for (i = 0; i < 2 * (IMAGES_REASONS + 2); ++i) {
        snprintf(texts[i / 2], sizeof texts[0], "is of kind %d", i / 2);
        images_count_reason(&s, texts[i / 2]);
    }
    for (i = 0; i < IMAGES_REASONS; ++i) sum += s.reasons[i].count;
    assert_int_equal(sum, 2 * (IMAGES_REASONS + 2));
    assert_int_equal(s.reasons[0].count, 2);
    assert_string_equal(s.reasons[IMAGES_REASONS - 1].why, "has another fault");
    assert_int_equal(s.reasons[IMAGES_REASONS - 1].count, 6);
    for (i = 0; i < IMAGES_SAID + 2; ++i) images_say(&s, "%d", i);
    assert_int_equal(s.said_count, IMAGES_SAID);
}

/* ---- copies, and what else looks wrong --------------------------------------------------------------------- */

static void test_copies(void **state)
{
    images_options o = images_defaults();
    images s;
    int first[3];
    (void)state;
    put_class("train/a", 5, 10);
    put_class("train/b", 5, 20);
    put_class("val/a", 2, 30);
    put_class("val/b", 2, 40);
    put_class("test/a", 2, 50);
    put_class("test/b", 2, 60);
    load(&s, NULL);
    assert_int_equal(s.said_count, 0);
    images_free(&s);
    put_pgm("train/a/x1.pgm", 2, 2, 10); /* twice more the same */
    put_pgm("train/a/x2.pgm", 2, 2, 10);
    put_pgm("train/b/y.pgm", 2, 2, 11); /* under another label */
    put_pgm("val/a/x.pgm", 2, 2, 12);   /* is among those to learn from */
    put_pgm("val/a/z.pgm", 2, 2, 30);   /* and twice among these */
    put_pgm("test/a/x.pgm", 2, 2, 13);
    put_pgm("test/b/y.pgm", 2, 2, 14); /* with another label */
    put_pgm("test/b/z.pgm", 2, 2, 40);
    put_pgm("test/b/zz.pgm", 2, 2, 40);
    load(&s, NULL);
    assert_int_equal(s.copies.train, 3);
    assert_int_equal(s.copies.validation, 1);
    assert_int_equal(s.copies.test, 1);
    assert_int_equal(s.copies.validation_in_train, 1);
    assert_int_equal(s.copies.test_in_train, 2);
    assert_int_equal(s.copies.test_in_validation, 2);
    assert_int_equal(s.copies.two_labels, 2);
    says(&s, "3 of the training images are exact copies of others among them");
    says(&s, "2 of the test images are among the training images as well: the test accuracy flatters");
    says(&s, "2 pictures stand under more than one label");
    /* for a page that shows them: the first of each class */
    assert_int_equal(images_first_of(s.train.labels, s.train.count, 1, 3, first), 3);
    assert_int_equal(first[0], 7);
    assert_int_equal(first[2], 9);
    assert_int_equal(images_first_of(s.train.labels, s.train.count, 2, 3, first), 0);
    images_free(&s);
    /* decoded pixels count, not files */
    put_fixture("copy/a/0.bmp", "rgb.bmp");
    put_fixture("copy/a/1.png", "rgb8.png");
    put_fixture("copy/a/2.png", "interlaced.png");
    put_fixture("copy/b/0.png", "grey8.png");
    put_fixture("copy/b/1.jpg", "rgb.jpg");
    assert_true(images_load(&s, under_root("copy"), &o));
    assert_int_equal(s.copies.train + s.copies.test_in_train, 2);
    images_free(&s);
}

/* One class that is nearly all of the set. */
static void test_dominance(void **state)
{
    images s;
    (void)state;
    put_class("train/a", 9, 10);
    put_class("train/b", 3, 30);
    put_class("test/a", 2, 50);
    put_class("test/b", 2, 60);
    load(&s, NULL);
    says(&s,
         "class \"a\" has 9 of the 12 training images: accuracy says little here, since naming it always is right "
         "for 75 %");
    images_free(&s);
    put_class("train/b", 4, 30);
    load(&s, NULL);
    assert_int_equal(s.said_count, 0);
    images_free(&s);
}

static void test_unlabelled(void **state)
{
    images_options o = images_defaults();
    images s;
    int i, count;
    (void)state;
    put_class("set/train/a", 3, 10);
    put_class("set/train/b", 3, 20);
    put_class("set/test/a", 2, 30);
    put_class("set/test/b", 2, 40);
    put_class("more", 2, 50);
    put_class("more/deep/er", 2, 60);
    put_text("more/deep/README", "x");
    put_fixture("more/x.gif", "refused.gif");
    o.limit = 2;
    assert_true(images_load(&s, under_root("set"), &o));
    assert_false(images_load_unlabelled(&s, under_root("missing"), &o));
    assert_non_null(strstr(s.error, "there is no folder"));
    if (!images_load_unlabelled(&s, under_root("more"), &o)) fail_msg("%s", s.error);
    assert_int_equal(s.unlabelled.count, 4); /* whatever the limit is for a class */
    for (i = 0; i < 4; ++i) assert_int_equal(s.unlabelled.labels[i], -1);
    assert_int_equal(s.unlabelled.pixels[0], 50);
    assert_int_equal(s.unlabelled.pixels[4 * 2], 60);
    assert_int_equal(s.train.count, 4);
    assert_int_equal(s.others, 1);
    assert_int_equal(s.unsupported, 1);
    says(&s, "/more left out, which is no image");
    says(&s, "/more left out, which is a GIF image, which is not read");
    assert_false(is_said(&s, "other size"));
    images_free(&s);
    for (i = 1; i < 8; ++i) { /* of 50, 51, a text, 60, 61 and a GIF */
        static const int taken[] = {4, 1, 2, 2, 4, 4, 4, 4};
        o.unlabelled_files = i;
        assert_true(images_load(&s, under_root("set"), &o));
        assert_true(images_load_unlabelled(&s, under_root("more"), &o));
        assert_int_equal(s.unlabelled.count, taken[i]);
        assert_int_equal(s.unlabelled.pixels[4 * (taken[i] - 1)], i == 1 ? 50 : i == 2 ? 60 : 61);
        images_free(&s);
    }
    o.unlabelled_files = 0;
    /* of other sizes and kinds, copies, and one that cannot be read */
    put_pgm("more/large.pgm", 5, 4, 70);
    put_fixture("more/rgb", "rgb8.png");
    put_pgm("more/y.pgm", 2, 2, 30); /* of the test set */
    put_pgm("more/z.pgm", 2, 2, 50);
    put_text("more/bad.png", "x");
    o.max_skipped = 0.1;
    assert_true(images_load(&s, under_root("set"), &o));
    assert_false(images_load_unlabelled(&s, under_root("more"), &o));
    assert_non_null(strstr(s.error, "1 of 9 image files cannot be read"));
    images_free(&s);
    o.max_skipped = 0.2;
    assert_true(images_load(&s, under_root("set"), &o));
    count = s.said_count;
    assert_true(images_load_unlabelled(&s, under_root("more"), &o));
    assert_int_equal(s.unlabelled.count, 8);
    assert_true(s.said_count > count);
    says(&s, "2 images of ");
    says(&s, "/more have another size and were brought to 2x2");
    says(&s, "1 of the images without labels is an exact copy");
    says(&s, "1 of the test images is among the images without labels as well");
    assert_int_equal(s.copies.test_in_unlabelled, 1);
    images_free(&s);
    put_folder("none");
    assert_true(images_load(&s, under_root("set"), &o));
    assert_false(images_load_unlabelled(&s, under_root("none"), &o));
    assert_non_null(strstr(s.error, "there is no image that can be read in"));
    images_free(&s);
}

static void test_links_and_pipes(void **state)
{
    images_options o = images_defaults();
    images s;
    (void)state;
    put_class("train/a", 2, 10);
    put_class("train/b", 2, 20);
    put_class("test/a", 1, 30);
    put_class("test/b", 1, 40);
    put_class("elsewhere/deep", 3, 50);
    put_pgm("one.pgm", 2, 2, 60);
    assert_int_equal(symlink("../../one.pgm", under_root("train/a/linked.pgm")), 0);
    assert_int_equal(symlink("../../elsewhere", under_root("train/a/folder")), 0);
    assert_int_equal(symlink("..", under_root("train/a/folder/deep/loop")), 0);
    assert_int_equal(symlink(".", under_root("train/a/self")), 0);
    assert_int_equal(symlink("nowhere.pgm", under_root("train/b/broken.pgm")), 0);
    assert_int_equal(symlink("myself.pgm", under_root("train/b/myself.pgm")), 0);
    assert_int_equal(mkfifo(under_root("train/b/pipe.pgm"), 0666), 0); /* opening it would wait for ever */
    o.max_skipped = 1;
    load(&s, &o);
    assert_int_equal(s.class_count, 2);
    assert_int_equal(s.train.count, 2 + 3 + 1 + 2);
    assert_int_equal(s.train.pixels[4 * 2], 50);
    assert_int_equal(s.train.pixels[4 * 5], 60);
    assert_int_equal(s.skipped, 3);
    assert_non_null(strstr(s.listed[0], "broken.pgm cannot be opened"));
    assert_non_null(strstr(s.listed[1], "myself.pgm cannot be opened"));
    assert_non_null(strstr(s.listed[2], "pipe.pgm is no regular file"));
    images_free(&s);
}

static void test_depth(void **state)
{
    images s;
    (void)state;
    put_class("a/1/2/3/4/5/6/7/8/9/10/11/12/13/14/15", 3, 1);
    put_class("b", 3, 1);
    load(&s, NULL);
    assert_int_equal(s.files, 6);
    images_free(&s);
    put_folder("a/1/2/3/4/5/6/7/8/9/10/11/12/13/14/15/16");
    load_fails(NULL, "nested more than 16 deep");
}

/* ---- what can be wrong with a folder ---------------------------------------------------------------------- */

static void test_no_folder(void **state)
{
    images s;
    (void)state;
    assert_false(images_load(&s, under_root("missing"), NULL));
    assert_non_null(strstr(s.error, "there is no folder"));
    images_free(&s);
    put_text("file", "x");
    assert_false(images_load(&s, under_root("file"), NULL));
    assert_non_null(strstr(s.error, "file is a file, and no folder: give the folder that holds the images"));
    images_free(&s);
    assert_false(images_load(&s, "", NULL));
    images_free(&s);
}

/* What the loader asks of its own parts only where something else has gone wrong before. */
static void test_parts_alone(void **state)
{
    static const char short_file[] = "/sys/devices/system/cpu/online"; /* a page long, and then it is not */
    images s;
    images_list list = {NULL, 0, 0};
    images_place above;
    char **names = NULL, *path = images_join("a/", "b"), name[16];
    const char *why = NULL;
    size_t size;
    int i, count;
    (void)state;
    memset(&s, 0, sizeof s);
    assert_string_equal(path, "a/b");
    free(path);
    assert_null(images_memory(SIZE_MAX / 2, 3));
    free(images_memory(0, 3));
    assert_false(images_names(&s, under_root("missing"), &names, &count, NULL));
    assert_non_null(strstr(s.error, "cannot read the folder"));
    assert_false(images_collect(&s, &list, under_root("missing"), 0, NULL, 0));
    assert_non_null(strstr(s.error, "cannot read the folder"));
    put_class("a", 1, 1);
    assert_true(images_look(under_root("a"), &above));
    above.device += 1; /* the same number on another file system is another folder */
    assert_true(images_collect(&s, &list, under_root("a"), 0, &above, 1));
    assert_int_equal(list.count, 1);
    free(list.files[0].path);
    free(list.files);
    for (i = 0; i <= IMAGES_MAX_CLASSES; ++i) {
        snprintf(name, sizeof name, "%d", i);
        assert_int_equal(images_class(&s, name, strlen(name)), i < IMAGES_MAX_CLASSES ? i : -1);
    }
    assert_non_null(strstr(s.error, "more than 4096 classes"));
    images_free(&s);
    if (access(short_file, R_OK) == 0) {
        assert_null(images_read(short_file, &size, &why));
        assert_string_equal(why, "cannot be read");
    } else {
        printf("skip  images: there is no file that is shorter than it says\n");
    }
}

static void test_no_images(void **state)
{
    (void)state;
    load_fails(NULL, "has no classes: expected");
    put_text("notes.txt", "x");
    load_fails(NULL, "has no classes: expected");
    put_folder("a");
    load_fails(NULL, "has only one class, \"a\"");
    put_folder("b");
    load_fails(NULL, "class \"a\" has no readable image");
    put_class("a", 3, 1);
    load_fails(NULL, "class \"b\" has no readable image");
    put_text("b/0.png", "");
    put_text("b/1.png", "x");
    load_fails(NULL, "2 of 5 image files cannot be read (more than the share of 0.01 allowed), first: ");
    put_folder("train");
    load_fails(NULL, "has no classes: expected");
}

static void test_classes_of_train_and_test_differ(void **state)
{
    (void)state;
    put_class("train/a", 2, 1);
    put_class("train/b", 2, 1);
    put_class("test/a", 2, 1);
    load_fails(NULL, "class \"b\" has no readable image in ");
    put_class("test/b", 2, 1);
    put_class("test/c", 2, 1);
    load_fails(NULL, "class \"c\" is in ");
}

static void test_options(void **state)
{
    images_options o = images_defaults();
    (void)state;
    put_class("a", 3, 1);
    put_class("b", 3, 1);
    o.size = -1;
    load_fails(&o, "the size must be 1 to 4096 pixels, got -1");
    o.size = 4097;
    load_fails(&o, "the size must be 1 to 4096 pixels, got 4097");
    o = images_defaults();
    o.channels = 2;
    load_fails(&o, "there can be 1 or 3 channels, got 2");
    o = images_defaults();
    o.test_share = 0;
    load_fails(&o, "the share of test images must be between 0 and 1");
    o.test_share = (double)NAN;
    load_fails(&o, "the share of test images must be between 0 and 1");
}

/* Exactly the allowed share passes; one more does not. All are counted, the first ones listed with a reason. */
static void test_threshold(void **state)
{
    images_options o = images_defaults();
    images s;
    char name[64];
    int i;
    (void)state;
    put_class("a", 60, 1);
    put_class("b", 39, 1);
    put_text("b/bad.png", "no image");
    load(&s, NULL);
    assert_int_equal(s.files, 100);
    assert_int_equal(s.skipped, 1);
    assert_int_equal(s.train.count + s.test.count, 99);
    assert_non_null(strstr(s.listed[0], "b/bad.png is no JPEG, PNG, BMP or PNM image that can be read"));
    images_free(&s);
    put_text("b/038.pgm", "P5 2 2 255\n123");
    load_fails(NULL, "2 of 100 image files cannot be read (more than the share of 0.01 allowed), first: ");
    for (i = 0; i < 25; ++i) {
        snprintf(name, sizeof name, "a/%03d.pgm", i);
        put_text(name, "");
    }
    o.max_skipped = 0.5;
    load(&s, &o);
    assert_int_equal(s.skipped, 27);
    assert_non_null(strstr(s.listed[0], "a/000.pgm is empty"));
    assert_non_null(strstr(s.listed[IMAGES_LISTED - 1], "a/019.pgm is empty"));
    images_free(&s);
    o.max_skipped = 0.26;
    load_fails(&o, "27 of 100");
}

static void test_huge_file(void **state)
{
    images_options o = images_defaults();
    images s;
    (void)state;
    put_class("a", 3, 1);
    put_class("b", 3, 1);
    put_text("b/huge.png", "x");
    assert_int_equal(truncate(under_root("b/huge.png"), (off_t)IMAGES_MAX_FILE + 1), 0);
    o.max_skipped = 1;
    memory_largest = 0;
    load(&s, &o);
    assert_non_null(strstr(s.listed[0], "huge.png is larger than 256 MB"));
    assert_true(memory_largest < 1 << 20);
    images_free(&s);
}

/* Long names are cut in messages, not written beyond them. */
static void test_long_names(void **state)
{
    images_options o = images_defaults();
    images s;
    char part[201], name[900];
    (void)state;
    memset(part, 'n', 200);
    part[200] = 0;
    snprintf(name, sizeof name, "a/%s/%s/%s/%s.png", part, part, part, part);
    put_text(name, "x");
    put_class("a", 3, 1);
    put_class("b", 3, 1);
    load_fails(NULL, "1 of 7 image files cannot be read");
    o.max_skipped = 1;
    load(&s, &o);
    assert_int_equal(s.skipped, 1);
    assert_true(strlen(s.listed[0]) < sizeof s.listed[0]);
    images_free(&s);
}

/* A path longer than any buffer that somebody thought to be enough, and than what a sentence can hold. */
static void test_long_paths(void **state)
{
    char part[201], name[200 * 14 + 200], message[4096];
    images s;
    int i, depth = 0;
    (void)state;
    memset(part, 'p', 200);
    part[200] = 0;
    for (i = 0; i < 14; ++i) depth += snprintf(name + depth, sizeof name - (size_t)depth, "%s/", part);
    {
        /* one folder at a time: the path as a whole is longer than the tests' buffers */
        int at = open(root, O_RDONLY | O_DIRECTORY), next;
        for (i = 0; i < 14; ++i) {
            assert_int_equal(mkdirat(at, part, 0777), 0);
            next = openat(at, part, O_RDONLY | O_DIRECTORY);
            close(at);
            at = next;
        }
        assert_int_equal(mkdirat(at, "a", 0777), 0);
        assert_int_equal(mkdirat(at, "b", 0777), 0);
        for (i = 0; i < 4; ++i) {
            char file[32];
            snprintf(file, sizeof file, "%c/%d.pgm", i < 2 ? 'a' : 'b', i);
            next = openat(at, file, O_WRONLY | O_CREAT, 0666);
            assert_int_equal(write(next, i ? "P5 1 1 255\n1" : "P5 1 1 255\n", i ? 12 : 11), i ? 12 : 11);
            close(next);
        }
        close(at);
    }
    snprintf(message, sizeof message, "%s/%s", root, name);
    assert_false(images_load(&s, message, NULL));
    assert_non_null(strstr(s.error, "1 of 4 image files cannot be read"));
    assert_non_null(
        strstr(s.error, "pppp/a/0.pgm is a PNM that ends too early")); /* the end of the path, not its beginning */
    images_free(&s);
    strcat(message, "missing");
    assert_false(images_load(&s, message, NULL));
    assert_non_null(strstr(s.error, "there is no folder ...ppp"));
    assert_non_null(strstr(s.error, "/missing"));
    images_free(&s);
    for (i = 0; i < 2; ++i) { /* never half a letter */
        const char *shown;
        images_path path;
        for (depth = 0; depth < 300; ++depth) memcpy(message + 2 * depth, "\303\274", 2);
        message[600] = i ? 'a' : 0; /* half a letter more */
        message[601] = 0;
        path = images_shown(message);
        shown = path.chars;
        assert_memory_equal(shown, "...\303\274", 5);
        assert_string_equal(images_shown("\274").chars, "\274"); /* short ones as they are */
    }
}

/* Spaces, and signs that mean something elsewhere. */
static void test_strange_names(void **state)
{
    images s;
    (void)state;
    put_class("a set/train/two words", 2, 1);
    put_class("a set/train/%s %n", 2, 3);
    put_class("a set/test/two words", 2, 5);
    put_class("a set/test/%s %n", 2, 7);
    put_text("a set/train/%s %n/%s.png", "x");
    assert_false(images_load(&s, under_root("a set"), NULL));
    assert_non_null(strstr(s.error, "/%s %n/%s.png is no JPEG"));
    images_free(&s);
    assert_int_equal(remove(under_root("a set/train/%s %n/%s.png")), 0);
    assert_true(images_load(&s, under_root("a set"), NULL));
    assert_string_equal(s.class_names[0], "%s %n");
    assert_string_equal(s.class_names[1], "two words");
    images_free(&s);
}

/* ---- sizes and channels ----------------------------------------------------------------------------------- */

/* Every format at once: pixels as (channels, height, width), and the counts for a careful person. */
static void test_mixed_folder(void **state)
{
    images_options o = images_defaults();
    const known_file *f;
    images s;
    char name[128];
    int i, c, x, y, channels, sixteen = 0, four = 0, rotated = 0;
    (void)state;
    FOR_EACH_KNOWN(f)
    {
        snprintf(name, sizeof name, "train/a/%02d%s", (int)(f - known_files), f->name);
        put_fixture(name, f->name);
        sixteen += f->sixteen_bit;
        four += f->four_channel_jpeg;
        rotated += f->rotated;
    }
    put_fixture("train/b/0.png", "rgb8.png");
    put_fixture("test/a/0.png", "rgb8.png");
    put_fixture("test/b/0.png", "rgb8.png");
    for (channels = 0; channels <= 3; channels += channels ? 2 : 1) {
        o.channels = channels;
        load(&s, &o);
        assert_int_equal(s.channels, channels ? channels : 3);
        assert_int_equal(s.width, W);
        assert_int_equal(s.height, H);
        assert_int_equal(s.sixteen_bit, sixteen);
        assert_int_equal(s.four_channel_jpeg, four);
        assert_int_equal(s.rotated, rotated);
        assert_int_equal(s.resized, 0);
        for (i = 0; i < s.train.count - 1; ++i) {
            for (c = 0; c < s.channels; ++c) {
                for (y = 0; y < H; ++y) {
                    for (x = 0; x < W; ++x) {
                        const int got = s.train.pixels[((i * s.channels + c) * H + y) * W + x];
                        const int wanted = known_pixel(&known_files[i], s.channels, x, y, c);
                        if (abs(got - wanted) > known_files[i].tolerance)
                            fail_msg("%s: channel %d at (%d, %d) is %d, expected %d", known_files[i].name, c, x, y,
                                     got, wanted);
                    }
                }
            }
        }
        images_free(&s);
    }
}

static void test_sizes(void **state)
{
    images_options o = images_defaults();
    images s;
    (void)state;
    put_class("train/a", 2, 10);
    put_pgm("train/b/0.pgm", 3, 2, 20);
    put_class("test/a", 1, 10);
    put_class("test/b", 1, 20);
    load_fails(NULL, "the images have different sizes; say which to bring them to");
    o.usual_size = 4; /* they are below 3 pixels */
    load(&s, &o);
    assert_int_equal(s.width, 2);
    assert_int_equal(s.height, 2);
    says(&s, "the images have different sizes, up to 3x2: all are brought to 2x2; --size says otherwise");
    images_free(&s);
    o.usual_size = 2;
    load(&s, &o);
    assert_int_equal(s.width, 2);
    images_free(&s);
    o.size = 5;
    load(&s, &o);
    assert_int_equal(s.width, 5);
    assert_int_equal(s.height, 5);
    assert_int_equal(s.resized, 5);
    assert_int_equal(s.train.pixels[2 * 25 + 24], 20);
    images_free(&s);
    put_pgm("train/b/0.pgm", 2, 2, 20);
    load(&s, NULL);
    assert_int_equal(s.width, 2);
    images_free(&s);
    put_pgm("test/b/0.pgm", 9, 2, 20); /* of a size of its own, in the test folder: fitted to the train images */
    load(&s, NULL);
    assert_int_equal(s.resized, 1);
    images_free(&s);
    o = images_defaults();
    put_class("large/train/a", 2, 10);
    put_class("large/train/b", 2, 20);
    put_class("large/test/a", 1, 10);
    put_class("large/test/b", 1, 20);
    for (o.usual_size = 1; o.usual_size < 3; ++o.usual_size) { /* 2x2 is larger than 3/2 of 1 */
        assert_true(images_load(&s, under_root("large"), &o));
        assert_int_equal(s.width, o.usual_size);
        assert_int_equal(s.resized, o.usual_size == 1 ? 6 : 0);
        if (o.usual_size == 1)
            says(&s, "images of 2x2 take long to train on: all are brought to 1x1; --size 2 keeps them");
        images_free(&s);
    }
    put_pgm("wide/train/a/0.pgm", 4, 2, 10);
    put_pgm("wide/train/b/0.pgm", 4, 2, 20);
    put_pgm("wide/test/a/0.pgm", 4, 2, 10);
    put_pgm("wide/test/b/0.pgm", 4, 2, 20);
    o.usual_size = 1; /* no square would keep them */
    assert_true(images_load(&s, under_root("wide"), &o));
    assert_int_equal(s.width, 4);
    assert_int_equal(s.height, 2);
    images_free(&s);
}

/* A set whose images are stretched, padded or cut out of larger ones, and photos that are turned. */
static void test_framed_folder(void **state)
{
    images_options o = images_defaults();
    images s;
    int i, x, y;
    (void)state;
    put_pgm("train/a/0.pgm", 8, 4, 10);
    put_pgm("train/b/0.pgm", 4, 8, 20);
    put_pgm("test/a/0.pgm", 8, 8, 30);
    put_pgm("test/b/0.pgm", 4, 4, 40);
    o.size = 4;
    o.framing.way = IMAGES_PAD;
    o.framing.colour[1] = 255;
    load(&s, &o);
    assert_int_equal(s.resized, 3);
    says(&s, "3 images were brought to this size, with the colour 0,255,0 beside them where they are no squares");
    for (i = 0; i < 16; ++i) {
        assert_int_equal(s.train.pixels[i], i / 4 % 3 ? 10 : 150); /* 150: the grey of that colour */
        assert_int_equal(s.train.pixels[16 + i], i % 4 % 3 ? 20 : 150);
        assert_int_equal(s.test.pixels[i], 30);
        assert_int_equal(s.test.pixels[16 + i], 40);
    }
    images_free(&s);
    o.framing.way = IMAGES_STRETCH;
    load(&s, &o);
    says(&s, "3 images were brought to this size, stretched where they are no squares");
    for (i = 0; i < 32; ++i) assert_int_equal(s.train.pixels[i], i < 16 ? 10 : 20);
    images_free(&s);
    o.framing.way = IMAGES_CROP, o.framing.edge = 6;
    load(&s, &o);
    assert_int_equal(s.resized, 4); /* that of the right size, too */
    says(&s, "4 images were brought to this size, cut out of their middle once their shorter edge was 6");
    images_free(&s);
    o.framing.edge = 3;
    load_fails(&o, "an edge of 3 is too short to cut 4x4 out of the images");
    o = images_defaults();
    o.framing.upright = 1;
    put_fixture("turned/train/a/0.jpg", "rotated_little.jpg");
    put_fixture("turned/train/b/0.jpg", "rotated_big.jpg");
    put_fixture("turned/test/a/0.jpg", "rotated_little.jpg");
    put_fixture("turned/test/b/0.jpg", "rotated_big.jpg");
    assert_true(images_load(&s, under_root("turned"), &o));
    assert_int_equal(s.width, H);
    assert_int_equal(s.height, W);
    assert_int_equal(s.rotated, 4);
    says(&s, "4 photos were turned as EXIF says");
    for (y = 0; y < W; ++y) {
        for (x = 0; x < H; ++x) { /* what was at the left is above */
            assert_in_range(s.train.pixels[y * H + x] + 4, 16 * y, 16 * y + 8);
            assert_in_range(s.train.pixels[(W + y) * H + x] + 4, 20 * (H - 1 - x), 20 * (H - 1 - x) + 8);
        }
    }
    images_free(&s);
    o.size = 8; /* once they are turned they are cut */
    o.framing.way = IMAGES_PAD;
    assert_true(images_load(&s, under_root("turned"), &o));
    for (y = 0; y < 8; ++y) assert_int_equal(s.train.pixels[8 * y], 0);
    assert_true(s.train.pixels[8 * 7 + 3] > 200);
    images_free(&s);
}

/* What is not square has no square to be brought to. */
static void test_sizes_not_square(void **state)
{
    static const int sides[][2] = {{2, 3}, {3, 2}};
    images_options o = images_defaults();
    images s;
    int i;
    (void)state;
    for (i = 0; i < 2; ++i) {
        const int w = sides[i][0], h = sides[i][1];
        o.max_skipped = 0.01;
        put_pgm("train/a/0.pgm", w, h, 10);
        put_pgm("train/b/0.pgm", w, h, 20);
        put_pgm("test/a/0.pgm", w, h, 30);
        put_pgm("test/b/0.pgm", w, h, 40);
        put_pgm("test/b/1.pgm", 9, 7, 50);
        put_pgm("test/b.4x4.pgm", 8, 4, 60); /* tiles */
        load_fails(&o, "has a size of its own; say which to bring all to (--size 32)");
        o.max_skipped = 1;
        load(&s, &o);
        assert_int_equal(s.skipped, 2);
        assert_int_equal(s.resized, 0);
        assert_int_equal(s.width, w);
        assert_int_equal(s.height, h);
        assert_int_equal(s.test.count, 2);
        images_free(&s);
    }
}

/* A line a thousand times as long as wide would grow a thousandfold on the way to a square. */
static void test_long_and_narrow(void **state)
{
    images_options o = images_defaults();
    images s;
    (void)state;
    put_class("a", 3, 1);
    put_class("b", 3, 1);
    put_pgm("b/line.pgm", 4000, 1, 7);
    o.size = 224;
    o.max_skipped = 1;
    memory_largest = 0;
    load(&s, &o);
    assert_int_equal(s.skipped, 1);
    assert_non_null(strstr(s.listed[0], "line.pgm is too long and narrow"));
    assert_true(memory_largest < 100000000);
    images_free(&s);
    o.size = 32;
    load(&s, &o);
    assert_int_equal(s.skipped, 0);
    images_free(&s);
}

static void test_limit(void **state)
{
    static const int train[] = {10, 11, 12, 30, 31}, train_labels[] = {0, 0, 0, 1, 1};
    images_options o = images_defaults();
    images s;
    (void)state;
    put_class("train/a", 5, 10);
    put_class("train/b", 2, 30);
    put_class("test/a", 4, 50);
    put_class("test/b", 5, 60);
    o.limit = 3;
    load(&s, &o);
    assert_set(&s.train, 4, 5, train, train_labels);
    assert_int_equal(s.test.count, 6);
    assert_int_equal(s.files, 11); /* the others are not even read */
    images_free(&s);
    o.limit = 0;
    o.train_limit = 3;
    load(&s, &o);
    assert_set(&s.train, 4, 5, train, train_labels);
    assert_int_equal(s.test.count, 9); /* all */
    images_free(&s);
    o.limit = 2; /* of both, the smaller */
    load(&s, &o);
    assert_int_equal(s.train.count, 4);
    assert_int_equal(s.test.count, 4);
    images_free(&s);
}

/* ---- sheets ----------------------------------------------------------------------------------------------- */

static void test_sheet_names(void **state)
{
    static const struct {
        const char *name;
        size_t length;
        int w, h;
    } names[] = {{"shirt.28x28.png", 5, 28, 28},
                 {"a.b.3x14.jpg", 3, 3, 14},
                 {"x.1x65536.bmp", 1, 1, 65536},
                 {"28x28.png", 0, 0, 0},
                 {".28x28.png", 0, 0, 0},
                 {"a.28x28", 0, 0, 0},
                 {"a.28x.png", 0, 0, 0},
                 {"a.x28.png", 0, 0, 0},
                 {"a.0x28.png", 0, 0, 0},
                 {"a.28x-1.png", 0, 0, 0},
                 {"a.28x28x3.png", 0, 0, 0},
                 {"a.28x65537.png", 0, 0, 0},
                 {"a.99999999999999999999x1.png", 0, 0, 0},
                 {"a.png", 0, 0, 0},
                 {"a", 0, 0, 0},
                 {"a..png", 0, 0, 0}};
    size_t i;
    (void)state;
    for (i = 0; i < sizeof names / sizeof *names; ++i) {
        int w = 0, h = 0;
        const size_t length = images_sheet(names[i].name, &w, &h);
        if (length != names[i].length || (length && (w != names[i].w || h != names[i].h)))
            fail_msg("%s: length %zu, %dx%d", names[i].name, length, w, h);
    }
}

/* A sheet of tiles of 2x1: pixel p of tile i, left to right and top to bottom, is first + 2 i + p. */
static void put_sheet(const char *name, int across, int down, int first)
{
    char bytes[256];
    const int head = snprintf(bytes, sizeof bytes, "P5 %d %d 255\n", across * 2, down);
    int i;
    for (i = 0; i < across * down * 2; ++i) bytes[head + i] = (char)(first + i);
    put(name, bytes, (size_t)(head + across * down * 2));
}

static void test_sheets(void **state)
{
    static const int train[] = {0, 2, 4, 6, 8, 10, 20, 40, 42}, train_labels[] = {0, 0, 0, 0, 0, 0, 1, 1, 1};
    static const int limited[] = {0, 2, 4, 6, 20, 40, 42}, limited_labels[] = {0, 0, 0, 0, 1, 1, 1};
    images_options o = images_defaults();
    images s;
    (void)state;
    put_sheet("train/cat.2x1.pgm", 3, 2, 0);
    put_pgm("train/dog/aa.pgm", 2, 1, 20);
    put_sheet("train/dog/more.2x1.pgm", 1, 2, 40);
    put_sheet("test/dog.2x1.pgm", 1, 1, 50);
    put_sheet("test/cat.2x1.pgm", 1, 1, 60);
    load(&s, NULL);
    assert_int_equal(s.class_count, 2);
    assert_string_equal(s.class_names[0], "cat");
    assert_int_equal(s.width, 2);
    assert_int_equal(s.height, 1);
    assert_set(&s.train, 2, 9, train, train_labels);
    assert_int_equal(s.train.pixels[2 * 4 + 1], 9);
    assert_int_equal(s.test.pixels[0], 60);
    assert_name(&s, &s.train, 4, "train/cat.2x1.pgm#4");
    assert_name(&s, &s.train, 6, "train/dog/aa.pgm");
    assert_name(&s, &s.train, 8, "train/dog/more.2x1.pgm#1");
    images_free(&s);
    o.limit = 4;
    load(&s, &o);
    assert_set(&s.train, 2, 7, limited, limited_labels);
    assert_name(&s, &s.train, 3, "train/cat.2x1.pgm#3");
    images_free(&s);
    o = images_defaults();
    o.size = 2; /* tiles are fitted one by one */
    o.channels = 3;
    load(&s, &o);
    assert_int_equal(s.train.count, 9);
    assert_int_equal(s.resized, 11);
    {
        images_picture tile = {0};
        uint8_t *wanted;
        int c, p;
        tile.w = 2, tile.h = 1, tile.channels = 1;
        tile.pixels = (uint8_t *)calloc(2, 1);
        tile.pixels[0] = 4, tile.pixels[1] = 5;
        wanted = images_fit(&tile, 2, 2, &o.framing);
        for (c = 0; c < 3; ++c) {
            for (p = 0; p < 4; ++p) assert_int_equal(s.train.pixels[2 * 12 + c * 4 + p], wanted[p]);
        }
        free(wanted);
    }
    images_free(&s);
}

static void test_broken_sheets(void **state)
{
    images_options o = images_defaults();
    images s;
    (void)state;
    put_sheet("a.2x1.pgm", 4, 4, 0);
    put_sheet("b.2x1.pgm", 4, 4, 0);
    put_pgm("b/odd.3x1.pgm", 4, 4, 0);
    put_pgm("b/odd.2x3.pgm", 4, 4, 0);
    put_pgm("b/larger.8x8.pgm", 4, 4, 0);
    o.max_skipped = 1;
    o.size = 2;
    load(&s, &o);
    assert_int_equal(s.skipped, 3);
    assert_non_null(strstr(s.listed[0], "larger.8x8.pgm is no whole number of tiles"));
    images_free(&s);
    put_pgm("b/odd.1x4.pgm", 4, 4, 0);
    put_pgm("b/line.4000x1.pgm", 4000, 1, 0);
    o.size = 224;
    load(&s, &o);
    assert_int_equal(s.skipped, 4);
    assert_non_null(strstr(s.listed[1], "line.4000x1.pgm is too long and narrow"));
    images_free(&s);
}

/* ---- IDX -------------------------------------------------------------------------------------------------- */

/* Pixel p of image i is (7 i + 11 p) mod 256, its class i mod classes: as in the files that make.py packs. */
static void put_idx(const char *prefix, int count, int h, int w, int classes)
{
    char name[64];
    uint8_t bytes[4096];
    int i, p;
    assert_true(16 + count * h * w <= (int)sizeof bytes);
    set_be32(bytes, 0x803);
    set_be32(bytes + 4, (uint32_t)count);
    set_be32(bytes + 8, (uint32_t)h);
    set_be32(bytes + 12, (uint32_t)w);
    for (i = 0; i < count; ++i)
        for (p = 0; p < h * w; ++p) bytes[16 + i * h * w + p] = (uint8_t)(7 * i + 11 * p);
    snprintf(name, sizeof name, "%s-images-idx3-ubyte", prefix);
    put(name, bytes, (size_t)(16 + count * h * w));
    set_be32(bytes, 0x801);
    for (i = 0; i < count; ++i) bytes[8 + i] = (uint8_t)(i % classes);
    snprintf(name, sizeof name, "%s-labels-idx1-ubyte", prefix);
    put(name, bytes, (size_t)(8 + count));
}

static const char *const idx_names[] = {"train-images-idx3-ubyte", "train-labels-idx1-ubyte",
                                        "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"};

static void put_idx_packed(void)
{
    char name[64];
    int i;
    for (i = 0; i < 4; ++i) {
        snprintf(name, sizeof name, "%s.gz", idx_names[i]);
        put_fixture(name, name);
    }
}

static void check_idx(const images *s)
{
    int i, p;
    assert_int_equal(s->class_count, 3);
    assert_int_equal(s->channels, 1);
    assert_int_equal(s->width, 5);
    assert_int_equal(s->height, 4);
    assert_int_equal(s->train.count, 12);
    assert_int_equal(s->test.count, 6);
    for (i = 0; i < 12; ++i) {
        assert_int_equal(s->train.labels[i], i % 3);
        for (p = 0; p < 20; ++p) assert_int_equal(s->train.pixels[20 * i + p], (7 * i + 11 * p) % 256);
    }
    assert_int_equal(s->test.labels[5], 2);
    assert_int_equal(s->test.pixels[20 * 5 + 1], 7 * 5 + 11);
}

static void test_idx(void **state)
{
    images_options o = images_defaults();
    images s;
    int i;
    (void)state;
    put_idx("train", 12, 4, 5, 3);
    put_idx("t10k", 6, 4, 5, 3);
    load(&s, NULL);
    check_idx(&s);
    assert_string_equal(s.class_names[2], "2");
    images_free(&s);
    put_text("classes.txt", "cat\r\ndog\n");
    load_fails(NULL, "there is a label 2 in ");
    put_text("classes.txt", "cat\r\ndog\neel");
    o.train_limit = 1;
    load(&s, &o);
    assert_int_equal(s.train.count, 3);
    assert_int_equal(s.test.count, 6);
    images_free(&s);
    o.train_limit = 0;
    o.limit = 2;
    o.channels = 3;
    o.size = 8;
    load(&s, &o);
    assert_string_equal(s.class_names[0], "cat");
    assert_string_equal(s.class_names[1], "dog");
    assert_string_equal(s.class_names[2], "eel");
    assert_int_equal(s.train.count, 6);
    assert_int_equal(s.test.count, 6);
    assert_int_equal(s.width, 8);
    assert_name(&s, &s.train, 5, "train-images-idx3-ubyte#5");
    assert_name(&s, &s.test, 0, "t10k-images-idx3-ubyte#0");
    for (i = 0; i < 6; ++i) {
        images_picture p = {0};
        uint8_t *wanted;
        int c, y;
        p.w = 5, p.h = 4, p.channels = 1;
        p.pixels = (uint8_t *)calloc(20, 1);
        for (y = 0; y < 20; ++y) p.pixels[y] = (uint8_t)(7 * i + 11 * y);
        wanted = images_fit(&p, 8, 8, &o.framing);
        for (c = 0; c < 3; ++c) assert_memory_equal(s.train.pixels + (3 * i + c) * 64, wanted, 64);
        free(wanted);
    }
    images_free(&s);
    o.size = 5; /* as wide as they are, not as high */
    load(&s, &o);
    assert_int_equal(s.height, 5);
    assert_true(is_said(&s, "12 images were brought to this size"));
    images_free(&s);
    o.size = 4, o.width = 5; /* as they are */
    load(&s, &o);
    assert_int_equal(s.height, 4);
    assert_int_equal(s.width, 5);
    assert_false(is_said(&s, "brought to this size"));
    images_free(&s);
    o.size = 6, o.width = 3; /* no squares */
    load(&s, &o);
    assert_int_equal(s.height, 6);
    assert_int_equal(s.width, 3);
    assert_int_equal(s.resized, 12);
    images_free(&s);
    put_text("classes.txt", "cat\ncat\neel\n");
    load_fails(NULL, "classes.txt names a class twice: cat");
}

/* Four bytes of a file that is there. */
static void patch_be32(const char *name, long at, uint32_t value)
{
    uint8_t bytes[4];
    FILE *file = fopen(under_root(name), "r+b");
    assert_non_null(file);
    set_be32(bytes, value);
    assert_int_equal(fseek(file, at, SEEK_SET), 0);
    assert_int_equal(fwrite(bytes, 1, 4, file), 4);
    assert_int_equal(fclose(file), 0);
}

/* The same files under the names that archives and programs give them, and where torchvision keeps them. */
static void test_idx_under_other_names(void **state)
{
    static const char *const names[][4] = {
        {"train-images.idx3-ubyte", "train-labels.idx1-ubyte", "t10k-images.idx3-ubyte", "t10k-labels.idx1-ubyte"},
        {"emnist-letters-train-images-idx3-ubyte", "emnist-letters-train-labels-idx1-ubyte",
         "emnist-letters-test-images-idx3-ubyte", "emnist-letters-test-labels-idx1-ubyte"},
        {"Train-Images-idx3-ubyte", "train_labels_idx1_ubyte", "T10K-images-idx3-ubyte", "test-labels-idx1-ubyte"},
        {"raw/train-images-idx3-ubyte", "raw/train-labels-idx1-ubyte", "raw/t10k-images-idx3-ubyte",
         "raw/t10k-labels-idx1-ubyte"},
        {"MNIST/raw/train-images-idx3-ubyte", "MNIST/raw/train-labels-idx1-ubyte",
         "MNIST/raw/t10k-images-idx3-ubyte", "MNIST/raw/t10k-labels-idx1-ubyte"}};
    images s;
    size_t i;
    int j;
    (void)state;
    for (i = 0; i < sizeof names / sizeof *names; ++i) {
        put_folder("MNIST/raw");
        put_folder("raw");
        put_idx("train", 12, 4, 5, 3);
        put_idx("t10k", 6, 4, 5, 3);
        for (j = 0; j < 4; ++j) assert_int_equal(rename(under_root(idx_names[j]), under_root(names[i][j])), 0);
        load(&s, NULL);
        check_idx(&s);
        if (i == 4) says(&s, "the images are those in ");
        images_free(&s);
        if (i == 1) { /* by its name */
            assert_true(images_load(&s, under_root("emnist-letters"), NULL));
            check_idx(&s);
            images_free(&s);
            assert_false(images_load(&s, under_root("emnist"), NULL));
            assert_non_null(strstr(s.error, "there is no folder"));
            images_free(&s);
            put_text("emnist-letters-mapping.txt", "0 65 97\n1 66\n2 50\n");
            load(&s, NULL);
            assert_string_equal(s.class_names[0], "A");
            assert_string_equal(s.class_names[2], "2");
            images_free(&s);
            put_text("emnist-letters-mapping.txt", "0 65 97\n1 65\n2 50\n"); /* twice the same: numbers, then */
            load(&s, NULL);
            assert_string_equal(s.class_names[0], "0");
            images_free(&s);
            put_text("emnist-letters-mapping.txt", "-1 65\n300 65\nx\n0 -65\n1 7\n");
            load(&s, NULL);
            assert_string_equal(s.class_names[1], "1");
            images_free(&s);
        }
        assert_int_equal(nftw(root, remove_entry, 16, FTW_DEPTH | FTW_PHYS), 0);
        assert_int_equal(mkdir(root, 0777), 0);
    }
}

static void test_idx_names(void **state)
{
    static const struct {
        const char *name;
        int split, labels, packed, set; /* split -1: of no IDX file */
    } names[] = {{"train-images-idx3-ubyte", IMAGES_TRAIN, 0, 0, 0},
                 {"t10k-labels.idx1-ubyte.gz", IMAGES_TEST, 1, 1, 0},
                 {"emnist-letters-test-labels-idx1-ubyte", IMAGES_TEST, 1, 0, 15},
                 {"qmnist-train-labels-idx2-int.gz", IMAGES_TRAIN, 1, 1, 7},
                 {"train", -1, 0, 0, 0},
                 {"trainer-images-idx3-ubyte", -1, 0, 0, 0},
                 {"train-pictures-idx3-ubyte", -1, 0, 0, 0},
                 {"train-images", -1, 0, 0, 0},
                 {"train-imagesx", -1, 0, 0, 0},
                 {"train-images-", -1, 0, 0, 0},
                 {"train-images-idx4-ubyte", -1, 0, 0, 0},
                 {"train-images-idx3", -1, 0, 0, 0},
                 {"train-images-idx3xubyte", -1, 0, 0, 0},
                 {"train-images-idx3-int", -1, 0, 0, 0},
                 {"train-images-idx3-ubytes", -1, 0, 0, 0},
                 {"train-images-idx3-ubyte.zip", -1, 0, 0, 0},
                 {"xtrain-images-idx3-ubyte", -1, 0, 0, 0}};
    size_t i;
    (void)state;
    for (i = 0; i < sizeof names / sizeof *names; ++i) {
        images_idx_name n;
        const int ok = images_idx_parse(names[i].name, &n);
        if (ok != (names[i].split >= 0) || (ok && (n.split != names[i].split || n.labels != names[i].labels ||
                                                   n.packed != names[i].packed || (int)n.set != names[i].set)))
            fail_msg("%s: %d", names[i].name, ok);
    }
}

static void rename_idx(const char *before)
{
    char name[128];
    int i;
    for (i = 0; i < 4; ++i) {
        snprintf(name, sizeof name, "%s%s", before, idx_names[i]);
        assert_int_equal(rename(under_root(idx_names[i]), under_root(name)), 0);
    }
}

static void test_several_idx_sets(void **state)
{
    images s;
    (void)state;
    put_idx("train", 12, 4, 5, 2);
    put_idx("t10k", 6, 4, 5, 2);
    rename_idx("emnist-digits-");
    put_text("emnist-digitz-train-images-idx3-ubyte", "x");
    load_fails(NULL, "holds several IDX sets, such as \"emnist-digits\" and \"emnist-digitz\"");
    assert_int_equal(remove(under_root("emnist-digitz-train-images-idx3-ubyte")), 0);
    put_idx("train", 12, 4, 5, 3);
    put_idx("t10k", 6, 4, 5, 3);
    rename_idx("emnist-letters-");
    load_fails(NULL, "holds several IDX sets, such as \"emnist-digits\" and \"emnist-letters\"; say which, as in ");
    put_text("emnist-letterx-train-images-idx3-ubyte", "x"); /* as long a name, of another set */
    put_text("emnist-letters-train-images-idx3-ubyte.gz", "not looked at");
    put_text("emnist-letters-train-images.idx3-ubyte", "not looked at");
    put_text("a_set_with_a_name_that_is_longer_than_any_that_somebody_will_ever_give_to_one_which_is_a_hundred_and_"
             "twenty-eight_letters_or_more-train-images-idx3-ubyte",
             "not looked at");
    assert_int_equal(symlink("nowhere", under_root("emnist-letters-train-labels-idx1-ubyte.gz")), 0);
    assert_true(images_load(&s, under_root("emnist-letters"), NULL));
    check_idx(&s);
    images_free(&s);
    assert_int_equal(rename(under_root("emnist-letters-test-labels-idx1-ubyte"), under_root("x")), -1);
    assert_int_equal(rename(under_root("emnist-letters-t10k-labels-idx1-ubyte"), under_root("kept")), 0);
    assert_false(images_load(&s, under_root("emnist-letters"), NULL));
    assert_non_null(
        strstr(s.error, "there is no file of the test labels, such as emnist-letters-t10k-labels-idx1-ubyte"));
    images_free(&s);
    assert_int_equal(symlink("nowhere", under_root("emnist-letters-t10k-labels-idx1-ubyte")), 0);
    assert_false(images_load(&s, under_root("emnist-letters"), NULL));
    assert_non_null(strstr(s.error, "t10k-labels-idx1-ubyte cannot be opened"));
    images_free(&s);
    assert_int_equal(rename(under_root("kept"), under_root("emnist-letters-t10k-labels-idx1-ubyte")), 0);
    assert_int_equal(remove(under_root("emnist-letterx-train-images-idx3-ubyte")), 0);
    assert_int_equal(remove(under_root("emnist-letters-train-images-idx3-ubyte.gz")), 0);
    assert_int_equal(remove(under_root("emnist-letters-train-images.idx3-ubyte")), 0);
    put_idx("train", 12, 4, 5, 3); /* the one without a name is meant */
    put_idx("t10k", 6, 4, 5, 3);
    load(&s, NULL);
    check_idx(&s);
    images_free(&s);
    put_folder("a/raw");
    put_folder("b/raw");
    rename_idx("a/raw/");
    load_fails(NULL, "several IDX sets");
    put_idx("train", 12, 4, 5, 3);
    put_idx("t10k", 6, 4, 5, 3);
    rename_idx("b/raw/");
    assert_int_equal(rename(under_root("emnist-digits-train-images-idx3-ubyte"), under_root("x")), 0);
    assert_int_equal(rename(under_root("emnist-letters-train-images-idx3-ubyte"), under_root("y")), 0);
    load_fails(NULL, "both hold IDX files; say which to take");
    put_folder("a/raw/train-images.idx3-ubyte"); /* a folder of that name is no file */
    assert_true(images_load(&s, under_root("a"), NULL));
    check_idx(&s);
    images_free(&s);
    assert_int_equal(rename(under_root("a/raw/train-images-idx3-ubyte"), under_root("z")), 0);
    assert_int_equal(rename(under_root("b"), under_root("a/b")), 0);
    assert_false(images_load(&s, under_root("a/raw"), NULL));
    images_free(&s);
}

/* The letters of EMNIST are 1 to 26; a label that is missing elsewhere is an error still. */
static void test_idx_labels_from_one(void **state)
{
    uint8_t labels[20] = {0, 0, 8, 1, 0, 0, 0, 12};
    images s;
    int i;
    (void)state;
    put_idx("train", 12, 4, 5, 3);
    put_idx("t10k", 6, 4, 5, 3);
    for (i = 0; i < 12; ++i) labels[8 + i] = (uint8_t)(1 + i % 3);
    put("train-labels-idx1-ubyte", labels, 20);
    load_fails(NULL, "has label 0, but some have label 3"); /* the test images have it */
    labels[7] = 6;
    put("t10k-labels-idx1-ubyte", labels, 14);
    load(&s, NULL);
    check_idx(&s);
    assert_string_equal(s.class_names[0], "1");
    assert_string_equal(s.class_names[2], "3");
    says(&s, "the labels are 1 to 3: none is 0, so the first class is that of label 1");
    images_free(&s);
    for (i = 0; i < 12; ++i) labels[8 + i] = (uint8_t)(1 + 2 * (i % 2));
    labels[7] = 12;
    put("train-labels-idx1-ubyte", labels, 20);
    load_fails(NULL, "has label 0, but some have label 3"); /* none has 2 */
    for (i = 0; i < 12; ++i) labels[8 + i] = 1;
    put("train-labels-idx1-ubyte", labels, 20);
    labels[7] = 6;
    put("t10k-labels-idx1-ubyte", labels, 14);
    load_fails(NULL, "has label 0, but some have label 1"); /* one class is none to tell apart */
    for (i = 0; i < 12; ++i) labels[8 + i] = (uint8_t)(1 + i % 3);
    put("t10k-labels-idx1-ubyte", labels, 14);
    labels[7] = 12;
    put("train-labels-idx1-ubyte", labels, 20);
    put_text("mapping.txt", "1 65 97\n2 66 98\n3 67 99\n");
    load(&s, NULL);
    assert_string_equal(s.class_names[0], "A");
    assert_string_equal(s.class_names[2], "C");
    images_free(&s);
    put_text("classes.txt", "x\ny\nz\n");
    load(&s, NULL);
    assert_string_equal(s.class_names[0], "x");
    images_free(&s);
}

/* QMNIST's labels are rows of eight numbers of 32 bits. */
static void test_idx_of_qmnist(void **state)
{
    uint8_t rows[12 + 12 * 32] = {0};
    images s;
    int i, k;
    (void)state;
    for (k = 0; k < 2; ++k) {
        const uint32_t count = k ? 6 : 12;
        put_idx(k ? "t10k" : "train", (int)count, 4, 5, 3);
        set_be32(rows, 0xc02);
        set_be32(rows + 4, count);
        set_be32(rows + 8, 8);
        for (i = 0; i < (int)count; ++i) set_be32(rows + 12 + 32 * i, (uint32_t)(i % 3));
        put(k ? "qmnist-test-labels-idx2-int" : "qmnist-train-labels-idx2-int", rows, 12 + count * 32);
    }
    assert_int_equal(rename(under_root(idx_names[0]), under_root("qmnist-train-images-idx3-ubyte")), 0);
    assert_int_equal(rename(under_root(idx_names[2]), under_root("qmnist-test-images-idx3-ubyte")), 0);
    assert_int_equal(remove(under_root(idx_names[1])), 0);
    assert_int_equal(remove(under_root(idx_names[3])), 0);
    load(&s, NULL);
    check_idx(&s);
    images_free(&s);
    patch_be32("qmnist-train-labels-idx2-int", 12 + 32, 256);
    load_fails(NULL, "do not hold as many images and labels as they say");
    patch_be32("qmnist-train-labels-idx2-int", 12 + 32, 1);
    patch_be32("qmnist-train-labels-idx2-int", 8, 0);
    load_fails(NULL, "do not hold as many images and labels as they say");
    patch_be32("qmnist-train-labels-idx2-int", 8, 65);
    load_fails(NULL, "do not hold as many images and labels as they say");
    patch_be32("qmnist-train-labels-idx2-int", 8, 7);
    load_fails(NULL, "do not hold as many images and labels as they say");
    patch_be32("qmnist-train-labels-idx2-int", 8, 8);
    assert_int_equal(truncate(under_root("qmnist-train-labels-idx2-int"), 12 + 12 * 32 + 1), 0);
    load_fails(NULL, "do not hold as many images and labels as they say");
    assert_int_equal(truncate(under_root("qmnist-train-labels-idx2-int"), 12 + 12 * 32 - 1), 0);
    load_fails(NULL, "do not hold as many images and labels as they say");
    assert_int_equal(remove(under_root("qmnist-train-labels-idx2-int")), 0);
    load_fails(NULL, "there is no file of the labels, such as qmnist-train-labels-idx1-ubyte");
}

/* gzip headers with a name, extra bytes, a comment and a checksum of their own. */
static void test_idx_packed(void **state)
{
    images s;
    int i;
    (void)state;
    put_idx_packed();
    load(&s, NULL);
    check_idx(&s);
    images_free(&s);
    for (i = 0; i < 4; ++i) { /* packed, whatever the names say */
        char name[64];
        snprintf(name, sizeof name, "%s.gz", idx_names[i]);
        assert_int_equal(rename(under_root(name), under_root(idx_names[i])), 0);
    }
    load(&s, NULL);
    check_idx(&s);
    images_free(&s);
    put_text(idx_names[1], "\37");
    load_fails(NULL, "do not hold as many images and labels as they say");
    put_text(idx_names[1], "\37\1");
    load_fails(NULL, "do not hold as many images and labels as they say");
    put_idx("train", 12, 4, 5, 3); /* the plain ones come first */
    put_text("train-images-idx3-ubyte.gz", "not looked at");
    load(&s, NULL);
    check_idx(&s);
    images_free(&s);
}

/* Cut anywhere, or with a bit of the data changed, a packed file is refused; but for the unused bits of its end. */
static void test_idx_packed_damaged(void **state)
{
    const char *const name = "train-images-idx3-ubyte.gz";
    size_t size, cut;
    int harmless = 0;
    uint8_t *bytes = fixture(name, &size);
    (void)state;
    put_idx_packed();
    for (cut = 0; cut < size; ++cut) {
        put(name, bytes, cut);
        load_fails(NULL, name);
    }
    for (cut = 8 * (10 + 5); cut < 8 * size; cut += 3) { /* behind the header and the name */
        images s;
        bytes[cut / 8] ^= (uint8_t)(1u << cut % 8);
        put(name, bytes, size);
        if (images_load(&s, root, NULL))
            check_idx(&s), ++harmless;
        else
            assert_non_null(strstr(s.error, "is damaged"));
        images_free(&s);
        bytes[cut / 8] ^= (uint8_t)(1u << cut % 8);
    }
    assert_true(harmless < 3);
    put_text(name, "this is no gzip file at all");
    load_fails(NULL, "is no gzip file");
    put_text(name, "\x1f\x9d is what compress writes");
    load_fails(NULL, "is no gzip file");
    put_text(name, "\x1f\x8b\7 is a method that nobody uses");
    load_fails(NULL, "is no gzip file");
    put_text(name, "\x1f\x8b\x8\x8 and a name without an end");
    load_fails(NULL, "is damaged");
    put_text(name, "\x1f\x8b\x8\x10 and a comment without an end");
    load_fails(NULL, "is damaged");
    free(bytes);
}

static void test_idx_wrong(void **state)
{
    static const struct {
        int name, at; /* in idx_names; the byte */
        uint32_t value;
    } wrong[] = {{0, 0, 0x801}, {0, 4, 0},  {0, 4, 13},    {0, 8, 0}, {0, 8, 4097}, {0, 12, 0},
                 {0, 12, 4097}, {0, 12, 6}, {1, 0, 0x803}, {1, 4, 0}, {1, 4, 11}};
    images_options o = images_defaults();
    char path[1200];
    int i;
    (void)state;
    put_idx("train", 12, 4, 5, 3);
    load_fails(NULL, "train-images-idx3-ubyte there is no file of the test images, such as t10k-images-idx3-ubyte");
    put_idx("t10k", 6, 4, 5, 3);
    for (i = 0; i < 4; ++i) {
        snprintf(path, sizeof path, "%s", under_root(idx_names[i]));
        assert_int_equal(truncate(path, 20 * 6 + 15), 0); /* a byte more, or less, than there should be */
        load_fails(NULL, "do not hold as many images and labels as they say");
        assert_int_equal(truncate(path, 7), 0);
        load_fails(NULL, "do not hold as many images and labels as they say");
        assert_int_equal(truncate(path, 0), 0);
        load_fails(NULL, "is empty");
        put_idx("train", 12, 4, 5, 3);
        put_idx("t10k", 6, 4, 5, 3);
    }
    for (i = 0; i < (int)(sizeof wrong / sizeof *wrong); ++i) {
        patch_be32(idx_names[wrong[i].name], wrong[i].at, wrong[i].value);
        load_fails(NULL, "do not hold as many images and labels as they say");
        put_idx("train", 12, 4, 5, 3);
    }
    assert_int_equal(truncate(under_root(idx_names[0]), 16 + 12 * 20 + 1), 0);
    load_fails(NULL, "do not hold as many images and labels as they say");
    put_text("train-labels-idx1-ubyte", "\1\2\3\4\5\6\7\10\11\12\13\14\15\16\17\20\21\22\23\24");
    load_fails(NULL, "do not hold as many images and labels as they say");
    put_idx("train", 12, 4, 5, 1);
    load_fails(NULL, "has only images of class 0");
    put_idx("train", 12, 4, 5, 3);
    {
        uint8_t labels[20] = {0, 0, 8, 1, 0, 0, 0, 12};
        memset(labels + 8, 2, 11); /* and one of class 0 at the end: none of class 1 */
        put("train-labels-idx1-ubyte", labels, sizeof labels);
        load_fails(NULL, "has label 1, but some have label 2");
    }
    put_idx("train", 12, 4, 5, 2);
    load_fails(NULL, "class 2 is among the test images");
    put_idx("train", 12, 4, 5, 3);
    put_idx("t10k", 6, 5, 5, 3); /* taller than the train images: reading those as such would go beyond them */
    load_fails(NULL, "the test images have another size than the others");
    put_idx("t10k", 6, 4, 6, 3); /* wider */
    load_fails(NULL, "the test images have another size than the others");
    put_idx("train", 1, 1, 4000, 2);
    o.size = 224;
    load_fails(&o, "an image of 4000x1 is too long and narrow");
}

/* ---- memory ----------------------------------------------------------------------------------------------- */

/* Every allocation fails once: the set is complete, or lacks only files that are listed, or loading fails. */
static void check_failing_memory(const images_options *o)
{
    int train, test, classes, done = 0;
    long k;
    images s;
    load(&s, o);
    train = s.train.count, test = s.test.count, classes = s.class_count;
    images_free(&s);
    for (k = 0; !done; ++k) {
        int ok;
        memory_until_failure = k;
        ok = images_load(&s, root, o);
        done = memory_until_failure >= 0;
        memory_until_failure = -1;
        if (ok && s.skipped == 0) {
            assert_int_equal(s.train.count, train);
            assert_int_equal(s.test.count, test);
            assert_int_equal(s.class_count, classes);
        }
        if (!ok) assert_true(s.error[0] != 0);
        if (ok && s.skipped) assert_true(s.listed[0][0] != 0);
        images_free(&s);
        assert_int_equal(memory_blocks, 0);
    }
    assert_true(k > 20);
}

static void test_memory_ends(void **state)
{
    images_options o = images_defaults();
    (void)state;
    o.size = 6;
    o.max_skipped = 1;
    put_fixture("a/0.png", "interlaced.png");
    put_fixture("a/1.jpg", "progressive.jpg");
    put_fixture("a/2.jpg", "unmarked_cmyk.jpg");
    put_fixture("a/deeper/2.bmp", "rgb.bmp");
    put_fixture("b/0.png", "palette.png");
    put_fixture("b/1.ppm", "rgb.ppm");
    put_sheet("b.2x1.pgm", 2, 2, 0);
    check_failing_memory(&o);
    put_class("train/a", 2, 1);
    put_class("train/b", 2, 1);
    put_class("test/a", 2, 1);
    put_class("test/b", 2, 1);
    check_failing_memory(&o);
    o.size = 0;
    put_idx_packed();
    put_text("classes.txt", "cat\ndog\neel\n");
    check_failing_memory(&o);
    o.size = 6;
    check_failing_memory(&o);
    assert_int_equal(remove(under_root("classes.txt")), 0);
    check_failing_memory(&o);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, make_root, remove_root)

int main(void)
{
    static const struct CMUnitTest tests[] = {
        TEST(test_formats),
        TEST(test_refused_formats),
        TEST(test_truncated),
        TEST(test_damaged),
        TEST(test_png_checksums),
        TEST(test_jpeg_tables),
        TEST(test_bombs),
        TEST(test_png_with_more_than_it_says),
        TEST(test_png_of_apple),
        TEST(test_jpeg_scans),
        TEST(test_bits),
        TEST(test_pnm_largest),
        TEST(test_resize_is_pillows),
        TEST(test_fit_is_torchvisions),
        TEST(test_framing_is_pillows),
        TEST(test_framing_words),
        TEST(test_framing_limits),
        TEST(test_grey_is_pillows),
        TEST(test_fashion),
        TEST(test_train_and_test),
        TEST(test_names_of_splits),
        TEST(test_splits_under_other_names),
        TEST(test_splits_in_doubt),
        TEST(test_many_folders_are_not_used),
        TEST(test_test_images_without_labels),
        TEST(test_classes_that_hold_the_same),
        TEST(test_classes_that_hold_splits),
        TEST(test_a_folder_apart),
        TEST(test_no_folder_to_test_with),
        TEST(test_one_and_several),
        TEST(test_test_may_be_called_val_or_valid),
        TEST(test_a_class_may_be_called_val),
        TEST(test_test_without_train),
        TEST(test_split),
        TEST(test_split_keeps_one_of_each),
        TEST(test_class_order),
        TEST(test_names_in_utf8),
        TEST(test_order_of_files),
        TEST(test_what_else_lies_around),
        TEST(test_contents_decide),
        TEST(test_reasons),
        TEST(test_copies),
        TEST(test_dominance),
        TEST(test_unlabelled),
        TEST(test_links_and_pipes),
        TEST(test_depth),
        TEST(test_no_folder),
        TEST(test_no_images),
        TEST(test_classes_of_train_and_test_differ),
        TEST(test_options),
        TEST(test_threshold),
        TEST(test_huge_file),
        TEST(test_odd_headers),
        TEST(test_parts_alone),
        TEST(test_long_names),
        TEST(test_long_paths),
        TEST(test_strange_names),
        TEST(test_mixed_folder),
        TEST(test_sizes),
        TEST(test_sizes_not_square),
        TEST(test_framed_folder),
        TEST(test_long_and_narrow),
        TEST(test_limit),
        TEST(test_sheet_names),
        TEST(test_sheets),
        TEST(test_broken_sheets),
        TEST(test_idx),
        TEST(test_idx_names),
        TEST(test_idx_under_other_names),
        TEST(test_several_idx_sets),
        TEST(test_idx_labels_from_one),
        TEST(test_idx_of_qmnist),
        TEST(test_idx_packed),
        TEST(test_idx_packed_damaged),
        TEST(test_idx_wrong),
        TEST(test_memory_ends),
    };
    return cmocka_run_group_tests_name("images", tests, NULL, NULL);
}
