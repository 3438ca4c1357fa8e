/* draw.c - draws a labelled image set: 24 classes that differ in shape, filling or arrangement, 40x40 in colour

       cc -O2 -o draw examples/data/draw.c               (needs stb: apt-get install libstb-dev)
       ./draw FOLDER TRAIN_PER_CLASS TEST_PER_CLASS SEED

   Writes FOLDER/train/<class>/0000.png ... and FOLDER/test/<class>/0000.png ...: each figure in random colours, at
   a random place, size, angle and aspect, on a textured ground, with other blobs behind and in front of it, blurred
   and with noise. All of it is whole numbers, so that a seed gives the same pixels everywhere; images of a smaller
   set are the first of a larger one. */
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define STB_IMAGE_WRITE_STATIC
#define STB_IMAGE_WRITE_IMPLEMENTATION
#include <stb/stb_image_write.h>

enum { SIDE = 40, FINE = 2, WIDE = SIDE * FINE, UNIT = 1024, MOST_LAYERS = 16 };

/* ---- chance ---------------------------------------------------------------------------------------------- */

static uint64_t mix(uint64_t x)
{
    x = (x ^ x >> 31) * UINT64_C(0x7fb5d329728ea185);
    x = (x ^ x >> 27) * UINT64_C(0x81dadef4bc2dd44d);
    return x ^ x >> 33;
}

/* Number i of a key is mix(key + i * odd): a counter is all the state. */
typedef struct chance {
    uint64_t key, counter;
} chance;

static int between(chance *c, int least, int most)
{
    const uint64_t x = mix(c->key + ++c->counter * UINT64_C(0x9e3779b97f4a7c15));
    return least + (int)((x >> 32) * (uint64_t)(most - least + 1) >> 32);
}

/* ---- figures: what is inside of them, in a square from -UNIT to UNIT ---------------------------------------- */

typedef enum shape {
    DISC,
    SQUARE,
    RING,
    FRAME,
    CRESCENT,
    SPIRAL,
    HALF,
    PAIR,
    TRIO,
    QUAD,
    NESTED,
    TRIANGLE,
    STAR5,
    STAR6,
    PLUS,
    CROSS,
    ARROW,
    HEART
} shape;

/* Corners in percent of UNIT, y downwards; from TRIANGLE on. */
typedef struct polygon {
    int corners;
    signed char at[24];
} polygon;

static const polygon polygons[] = {
    {3, {0, -95, 95, 75, -95, 75}},
    {10, {0, -99, 24, -32, 94, -31, 38, 12, 58, 80, 0, 40, -58, 80, -38, 12, -94, -31, -24, -32}},
    {12, {0, -99, 30, -52, 86, -50, 60, 0, 86, 50, 30, 52, 0, 99, -30, 52, -86, 50, -60, 0, -86, -50, -30, -52}},
    {12,
     {-28, -95, 28, -95, 28, -28, 95, -28, 95, 28, 28, 28, 28, 95, -28, 95, -28, 28, -95, 28, -95, -28, -28, -28}},
    {12, {0, -36, 50, -88, 88, -50, 36, 0, 88, 50, 50, 88, 0, 36, -50, 88, -88, 50, -36, 0, -88, -50, -50, -88}},
    {7, {95, 0, 25, -75, 25, -28, -95, -28, -95, 28, 25, 28, 25, 75}},
    {12,
     {0, 95, -75, 20, -92, -22, -80, -62, -48, -80, -18, -72, 0, -42, 18, -72, 48, -80, 80, -62, 92, -22, 75, 20}}};

static int in_polygon(const polygon *p, int x, int y)
{
    int inside = 0, i, k;
    for (i = 0, k = p->corners - 1; i < p->corners; k = i++) {
        const int xi = p->at[2 * i] * UNIT / 100, yi = p->at[2 * i + 1] * UNIT / 100;
        const int xk = p->at[2 * k] * UNIT / 100, yk = p->at[2 * k + 1] * UNIT / 100;
        if ((yi > y) != (yk > y) && (x - xi < (xk - xi) * (y - yi) / (yk - yi))) inside = !inside;
    }
    return inside;
}

static int in_disc(int x, int y, int cx, int cy, int radius)
{
    return (x - cx) * (x - cx) + (y - cy) * (y - cy) < radius * radius;
}

static int in_box(int x, int y, int half) { return abs(x) < half && abs(y) < half; }

/* Half circles, each half a step wider than the one before and about the other of two centres. */
static int in_spiral(int x, int y)
{
    const int step = 250, width = 190, centre = y < 0 ? 0 : step / 2;
    int radius;
    for (radius = y < 0 ? step / 2 : step; radius + width / 2 <= UNIT; radius += step) {
        if (in_disc(x, y, centre, 0, radius + width / 2) && !in_disc(x, y, centre, 0, radius - width / 2)) return 1;
    }
    return 0;
}

static int in_shape(int s, int x, int y)
{
    switch (s) {
    case DISC: return in_disc(x, y, 0, 0, 920);
    case SQUARE: return in_box(x, y, 830);
    case RING: return in_disc(x, y, 0, 0, 950) && !in_disc(x, y, 0, 0, 560);
    case FRAME: return in_box(x, y, 860) && !in_box(x, y, 500);
    case CRESCENT: return in_disc(x, y, 0, 0, 980) && !in_disc(x, y, 430, 0, 800);
    case SPIRAL: return in_spiral(x, y);
    case HALF: return in_disc(x, y, 0, 480, 1000) && y < 480;
    case PAIR: return in_disc(x, y, -540, 0, 440) || in_disc(x, y, 540, 0, 440);
    case TRIO: return in_disc(x, y, 0, -500, 400) || in_disc(x, y, -500, 400, 400) || in_disc(x, y, 500, 400, 400);
    case QUAD: return in_box(abs(x) - 520, abs(y) - 520, 350);
    case NESTED: return in_disc(x, y, 0, 0, 380) || (in_box(x, y, 930) && !in_box(x, y, 660));
    default: return in_polygon(&polygons[s - TRIANGLE], x, y);
    }
}

/* ---- classes ---------------------------------------------------------------------------------------------- */

typedef enum filling { PLAIN, STRIPES, CHECKS, DOTS } filling;

typedef struct kind {
    const char *name;
    int shape;
    filling filling;
} kind;

/* in the order of their names */
static const kind classes[] = {
    {"arrow", ARROW, PLAIN},
    {"crescent", CRESCENT, PLAIN},
    {"cross", CROSS, PLAIN},
    {"disc", DISC, PLAIN},
    {"disc-checked", DISC, CHECKS},
    {"disc-dotted", DISC, DOTS},
    {"disc-in-frame", NESTED, PLAIN},
    {"disc-striped", DISC, STRIPES},
    {"discs-three", TRIO, PLAIN},
    {"discs-two", PAIR, PLAIN},
    {"frame", FRAME, PLAIN},
    {"half-disc", HALF, PLAIN},
    {"heart", HEART, PLAIN},
    {"plus", PLUS, PLAIN},
    {"ring", RING, PLAIN},
    {"spiral", SPIRAL, PLAIN},
    {"square", SQUARE, PLAIN},
    {"square-checked", SQUARE, CHECKS},
    {"square-dotted", SQUARE, DOTS},
    {"square-striped", SQUARE, STRIPES},
    {"squares-four", QUAD, PLAIN},
    {"star-five", STAR5, PLAIN},
    {"star-six", STAR6, PLAIN},
    {"triangle", TRIANGLE, PLAIN},
};
enum { CLASSES = (int)(sizeof classes / sizeof *classes) };

static int filled(filling f, int x, int y)
{
    const int cell = 460;
    const int column = (x + 10 * cell) / cell, row = (y + 10 * cell) / cell;
    if (f == STRIPES) return row % 2;
    if (f == CHECKS) return (column + row) % 2;
    return f == DOTS && in_disc((x + 10 * cell) % cell, (y + 10 * cell) % cell, cell / 2, cell / 2, 165);
}

/* ---- pictures ---------------------------------------------------------------------------------------------- */

/* A figure on the picture: coordinates inside of it are m (x - cx, y - cy) / UNIT. */
typedef struct layer {
    int shape, cx, cy, m[4];
    filling filling;
    uint8_t colour[2][3];
} layer;

static void choose_colour(chance *c, uint8_t *colour)
{
    int i;
    for (i = 0; i < 3; ++i) colour[i] = (uint8_t)between(c, 20, 235);
}

/* A colour that stands out from others by so much. */
static void choose_contrast(chance *c, uint8_t *colour, const uint8_t *a, const uint8_t *b, int least)
{
    int tries;
    for (tries = 0; tries < 100; ++tries) {
        int from_a = 0, from_b = 0, i;
        choose_colour(c, colour);
        for (i = 0; i < 3; ++i) from_a += abs(colour[i] - a[i]), from_b += abs(colour[i] - b[i]);
        if (from_a >= least && from_b >= least) return;
    }
}

/* Places a figure whose half width is `size`, in pixels of the fine picture times 16, and turns it by up to `turn`:
   tan(angle / 2) in 64ths. */
static void place(chance *c, layer *l, int cx, int cy, int size, int turn)
{
    const int t = between(c, -turn, turn), norm = 64 * 64 + t * t, stretch = between(c, 80, 125);
    const int cosine = UNIT * (64 * 64 - t * t) / norm, sine = UNIT * 128 * t / norm;
    const int across = size * stretch / 100, down = size * 100 / stretch;
    l->cx = cx, l->cy = cy;
    l->m[0] = UNIT * cosine / across, l->m[1] = UNIT * sine / across;
    l->m[2] = -UNIT * sine / down, l->m[3] = UNIT * cosine / down;
}

static int blob(chance *c, layer *l, int cx, int cy, int least, int most)
{
    memset(l, 0, sizeof *l);
    l->shape = between(c, DISC, SQUARE);
    place(c, l, cx, cy, between(c, least, most), 64);
    choose_colour(c, l->colour[0]);
    return 1;
}

/* The figure and what lies behind and before it, the hindmost first. */
static int compose(chance *c, int class_index, uint8_t ground[2][3], layer *layers)
{
    const int middle = WIDE * 16 / 2, size = between(c, 300, 460), room = (middle - size) * 3 / 4;
    const int cx = middle + between(c, -room, room), cy = middle + between(c, -room, room);
    int count = 0, i, side = size * between(c, 90, 115) / 100;
    layer *l;
    for (i = between(c, 2, 5); i > 0; --i)
        count += blob(c, &layers[count], between(c, 0, 2 * middle), between(c, 0, 2 * middle), 60, 240);
    l = &layers[count++];
    memset(l, 0, sizeof *l);
    l->shape = classes[class_index].shape, l->filling = classes[class_index].filling;
    place(c, l, cx, cy, size, 14);
    choose_contrast(c, l->colour[0], ground[0], ground[1], 190);
    choose_contrast(c, l->colour[1], ground[0], l->colour[0], 190);
    if (between(c, 0, 1)) { /* something before a part of it */
        const int x = between(c, 0, 1) ? side : -side, y = between(c, -side, side), turned = between(c, 0, 1);
        count += blob(c, &layers[count], cx + (turned ? y : x), cy + (turned ? x : y), 120, 260);
    }
    for (i = between(c, 0, 2); i > 0; --i)
        count += blob(c, &layers[count], between(c, 0, 2 * middle), between(c, 0, 2 * middle), 30, 70);
    return count;
}

/* A mixture of the two colours of the ground, 0 to 256: smoothed noise on a grid, and waves of brightness. */
static int ground_at(uint64_t key, int cell, int x, int y)
{
    const int cx = x / cell, cy = y / cell, fx = x % cell, fy = y % cell;
    int corner[4], i;
    for (i = 0; i < 4; ++i) corner[i] = (int)(mix(key + (uint64_t)((cy + i / 2) * 4096 + cx + i % 2)) & 255);
    return ((corner[0] * (cell - fx) + corner[1] * fx) * (cell - fy) +
            (corner[2] * (cell - fx) + corner[3] * fx) * fy) /
           (cell * cell);
}

static void paint(chance *c, int class_index, uint8_t fine[WIDE][WIDE][3])
{
    uint8_t ground[2][3];
    layer layers[MOST_LAYERS];
    const uint64_t key = c->key ^ UINT64_C(0x5851f42d4c957f2d);
    const int cell = between(c, 5, 24);
    int count, x, y, i;
    choose_colour(c, ground[0]);
    for (i = 0; i < 3; ++i) { /* not far from the first, so that a figure can stand out from both */
        const int value = ground[0][i] + between(c, -70, 70);
        ground[1][i] = (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value);
    }
    count = compose(c, class_index, ground, layers);
    for (y = 0; y < WIDE; ++y) {
        for (x = 0; x < WIDE; ++x) {
            const int share = ground_at(key, cell, x, y);
            for (i = 0; i < 3; ++i)
                fine[y][x][i] = (uint8_t)((ground[0][i] * (256 - share) + ground[1][i] * share) / 256);
            for (i = count - 1; i >= 0; --i) {
                const layer *l = &layers[i];
                const int dx = 16 * x + 8 - l->cx, dy = 16 * y + 8 - l->cy;
                const int u = l->m[0] * dx + l->m[1] * dy, v = l->m[2] * dx + l->m[3] * dy;
                if (abs(u) > UNIT * UNIT || abs(v) > UNIT * UNIT) continue;
                if (!in_shape(l->shape, u / UNIT, v / UNIT)) continue;
                memcpy(fine[y][x], l->colour[filled(l->filling, u / UNIT, v / UNIT)], 3);
                break;
            }
        }
    }
}

/* Shrunk, blurred by so many 16ths from each neighbour, and with noise. */
static void draw(chance *c, int class_index, uint8_t *out)
{
    static uint8_t fine[WIDE][WIDE][3];
    const int blur = between(c, 0, 3), noise = between(c, 4, 26);
    int x, y, i, dx, dy;
    paint(c, class_index, fine);
    for (y = 0; y < WIDE; y += FINE) {
        for (x = 0; x < WIDE; x += FINE) {
            for (i = 0; i < 3; ++i) {
                int sum = 0, weights = 0, value;
                for (dy = -FINE; dy < 2 * FINE; ++dy) {
                    for (dx = -FINE; dx < 2 * FINE; ++dx) {
                        const int out_x = dx < 0 || dx >= FINE, out_y = dy < 0 || dy >= FINE;
                        const int weight = (out_x ? blur : 16) * (out_y ? blur : 16);
                        if (x + dx < 0 || x + dx >= WIDE || y + dy < 0 || y + dy >= WIDE) continue;
                        sum += weight * fine[y + dy][x + dx][i];
                        weights += weight;
                    }
                }
                value = sum / weights + (between(c, -noise, noise) + between(c, -noise, noise)) / 2;
                *out++ = (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value);
            }
        }
    }
}

/* ---- files ------------------------------------------------------------------------------------------------ */

static int make_folder(const char *path)
{
    if (mkdir(path, 0777) == 0 || errno == EEXIST) return 1;
    fprintf(stderr, "draw: the folder %s cannot be made: %s\n", path, strerror(errno));
    return 0;
}

static int draw_class(const char *folder, const char *split, int class_index, int count, uint64_t key)
{
    static uint8_t pixels[SIDE * SIDE * 3];
    char path[4096];
    int i;
    snprintf(path, sizeof path, "%s/%s/%s", folder, split, classes[class_index].name);
    if (!make_folder(path)) return 0;
    for (i = 0; i < count; ++i) {
        chance c = {0, 0};
        c.key = mix(key ^ mix((uint64_t)class_index << 32 | (uint64_t)i));
        draw(&c, class_index, pixels);
        snprintf(path, sizeof path, "%s/%s/%s/%04d.png", folder, split, classes[class_index].name, i);
        if (stbi_write_png(path, SIDE, SIDE, 3, pixels, SIDE * 3)) continue;
        fprintf(stderr, "draw: %s cannot be written\n", path);
        return 0;
    }
    return 1;
}

int main(int argc, char **argv)
{
    static const char *const splits[] = {"train", "test"};
    char path[4096];
    int split, i;
    if (argc != 5 || atoi(argv[2]) < 1 || atoi(argv[3]) < 1 || strlen(argv[1]) > 3000) {
        fputs("usage: draw FOLDER TRAIN_PER_CLASS TEST_PER_CLASS SEED\n", stderr);
        return EXIT_FAILURE;
    }
    if (!make_folder(argv[1])) return EXIT_FAILURE;
    for (split = 0; split < 2; ++split) {
        const uint64_t key = mix((uint64_t)strtoull(argv[4], NULL, 10) * 2 + (uint64_t)split);
        snprintf(path, sizeof path, "%s/%s", argv[1], splits[split]);
        if (!make_folder(path)) return EXIT_FAILURE;
        for (i = 0; i < CLASSES; ++i) {
            if (!draw_class(argv[1], splits[split], i, atoi(argv[2 + split]), key)) return EXIT_FAILURE;
        }
    }
    return EXIT_SUCCESS;
}
