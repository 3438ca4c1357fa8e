/* resize.h - pictures of any size as images of one: what images.h and examples/web share
   Not part of kd.h. Include it in one source file. */
#ifndef RESIZE_H
#define RESIZE_H

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__GNUC__)
#define IMAGES_PUBLIC __attribute__((unused)) /* a program need not use all of it */
#else
#define IMAGES_PUBLIC
#endif

typedef enum images_way { IMAGES_CROP, IMAGES_STRETCH, IMAGES_PAD } images_way;

/* How a picture is brought to a size, in words as in "crop=256 exif": images_framing_parse. All zeros are usual. */
typedef struct images_framing {
    images_way way;    /* CROP: the shorter edge to `edge`, then the middle; STRETCH: whole, whatever the ratio of
                          its sides; PAD: whole, with a colour above and below, or left and right */
    int edge;          /* pixels; 0: the shorter edge of the size */
    uint8_t colour[3]; /* of PAD; in grey images its grey */
    int by_mean; /* 1: the colour is the mean of a model or a set, and is not known yet: images_framing_mean */
    int upright; /* 1: photos are turned as EXIF says; 0: taken as they lie, as torchvision does */
} images_framing;

typedef struct images_picture {
    uint8_t *pixels; /* (h, w, channels), channels 1 or 3 */
    int w, h, channels;
    int sixteen_bit, four_channel_jpeg, adobe_jpeg, transparent, scans;
    int rotated; /* EXIF's orientation, 2 to 8; 0: upright, or nothing is said */
} images_picture;

static void *images_memory(size_t count, size_t item)
{
    return count && item > SIZE_MAX / count ? NULL : calloc(count ? count : 1, item);
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

/* ---- from one size to another ---------------------------------------------------------------------------- */

/* The shorter edge that pictures are brought to before the middle of width x height is cut out of them. */
static int images_edge(const images_framing *f, int width, int height)
{
    return f->edge ? f->edge : width < height ? width : height;
}

/* Whether a picture of width x height stays as it is. */
IMAGES_PUBLIC static int images_fits(int w, int h, int width, int height, const images_framing *f)
{
    return w == width && h == height && (f->way != IMAGES_CROP || images_edge(f, width, height) == (w < h ? w : h));
}

/* What lies at (left, top) of a picture, width x height; outside of it there is one colour. */
static uint8_t *images_place_part(const uint8_t *from, int w, int h, int channels, int left, int top, int width,
                                  int height, const uint8_t *colour)
{
    const size_t c = (size_t)channels;
    uint8_t *to = (uint8_t *)images_memory((size_t)width * (size_t)height, c);
    int x, y, i;
    for (y = 0; to && y < height; ++y) {
        for (x = 0; x < width; ++x) {
            const int from_x = x + left, from_y = y + top;
            const int inside = from_x >= 0 && from_x < w && from_y >= 0 && from_y < h;
            const uint8_t *pixel = inside ? from + ((size_t)from_y * (size_t)w + (size_t)from_x) * c : colour;
            for (i = 0; i < channels; ++i) to[((size_t)y * (size_t)width + (size_t)x) * c + (size_t)i] = pixel[i];
        }
    }
    return to;
}

/* Where the middle begins. What is shorter is set into the middle: by CenterCrop rounded down, by ImageOps.pad to
   the nearest. */
static int images_middle(int from, int to, const images_framing *f)
{
    if (from >= to) return (int)rint((from - to) / 2.0);
    return f->way == IMAGES_CROP ? -((to - from) / 2) : -(int)rint((to - from) / 2.0);
}

/* As torchvision's Resize and CenterCrop, its Resize of both sides, or Pillow's ImageOps.pad: the size that a
   picture of from_w x from_h gets, before the middle of it is cut out or it is set into the middle. */
static void images_size_of(int from_w, int from_h, int width, int height, const images_framing *f, int *w, int *h)
{
    *w = width, *h = height;
    if (f->way == IMAGES_CROP) {
        const int edge = images_edge(f, width, height), wide = from_w > from_h;
        *w = wide ? (int)((double)edge * from_w / from_h) : edge;
        *h = wide ? edge : (int)((double)edge * from_h / from_w);
    } else if (f->way == IMAGES_PAD) {
        const double ratio = (double)from_w / from_h, wanted = (double)width / height;
        if (ratio > wanted) *h = (int)rint((double)from_h / from_w * width);
        if (ratio < wanted) *w = (int)rint((double)from_w / from_h * height);
        *w = *w < 1 ? 1 : *w, *h = *h < 1 ? 1 : *h;
    }
}

/* Frees p->pixels; the result is (height, width, channels), or NULL without memory. */
static uint8_t *images_fit(images_picture *p, int width, int height, const images_framing *f)
{
    const uint8_t *c = f->colour;
    const uint8_t grey = (uint8_t)((19595u * c[0] + 38470u * c[1] + 7471u * c[2] + 0x8000u) >> 16);
    int w, h;
    uint8_t *resized, *fitted;
    images_size_of(p->w, p->h, width, height, f, &w, &h);
    resized = p->w == w && p->h == h ? p->pixels : images_resize(p->pixels, p->w, p->h, p->channels, w, h);
    if (resized != p->pixels) free(p->pixels);
    p->pixels = NULL;
    if (!resized || (w == width && h == height)) return resized;
    fitted = images_place_part(resized, w, h, p->channels, images_middle(w, width, f), images_middle(h, height, f),
                               width, height, p->channels == 1 ? &grey : c);
    free(resized);
    return fitted;
}

/* Whole numbers up to a bound, joined by commas; how many, 0 for anything else. */
static int images_framing_numbers(const char *text, size_t length, int most, int *numbers, int room)
{
    size_t i;
    int count = 0, digits = 0;
    for (i = 0; i < length; ++i) {
        if (text[i] == ',' && digits && count < room) {
            digits = 0;
        } else if (text[i] >= '0' && text[i] <= '9' && (digits || count < room)) {
            if (!digits++) numbers[count++] = 0;
            numbers[count - 1] = numbers[count - 1] * 10 + (text[i] - '0');
            if (numbers[count - 1] > most) return 0;
        } else {
            return 0;
        }
    }
    return digits ? count : 0;
}

/* "crop", "crop=256" or only "256", "stretch", "pad", "pad=128", "pad=124,116,104", "pad=mean", and "exif",
   joined by blanks; "" is "crop". 0 for anything else, and *f is as it was. */
IMAGES_PUBLIC static int images_framing_parse(const char *text, images_framing *f)
{
    static const char *const words[] = {"crop", "stretch", "pad"};
    images_framing found;
    int known = 0, n[3], i;
    memset(&found, 0, sizeof found);
    while (*text) {
        const size_t length = strcspn(text, " ");
        size_t word = strcspn(text, " =");
        const int has_value = text[word] == '=';
        for (i = 0; i < 3 && (strlen(words[i]) != word || memcmp(text, words[i], word) != 0); ++i) {}
        if (length == 4 && memcmp(text, "exif", 4) == 0 && !found.upright) {
            found.upright = 1;
        } else if (length > 0) {
            if (known++) return 0;
            if (i < 3) {
                found.way = (images_way)i;
                word += (size_t)has_value;
            } else {
                word = 0;
            }
            if (i == IMAGES_PAD && length == 8 && memcmp(text + word, "mean", 4) == 0) {
                found.by_mean = 1;
            } else if (i == 3 || has_value) {
                const int most = i == IMAGES_PAD ? 255 : 8192;
                const int count = images_framing_numbers(text + word, length - word, most, n, 3);
                if (i == IMAGES_STRETCH || count == 0 || (i == IMAGES_PAD ? count == 2 : count != 1 || n[0] == 0))
                    return 0;
                if (i == IMAGES_PAD) {
                    for (i = 0; i < 3; ++i) found.colour[i] = (uint8_t)n[count == 3 ? i : 0];
                } else {
                    found.edge = n[0];
                }
            }
        }
        text += length;
        text += *text == ' ';
    }
    *f = found;
    return 1;
}

/* The colour of a mean, from 0 to 1 by channel, where it is asked for by name. */
IMAGES_PUBLIC static void images_framing_mean(images_framing *f, const float *mean, int channels)
{
    int i;
    for (i = 0; f->by_mean && i < 3; ++i) {
        const double value = 255 * (double)mean[channels == 3 ? i : 0];
        f->colour[i] = (uint8_t)(value > 0 ? value < 255 ? floor(value + 0.5) : 255 : 0);
    }
    f->by_mean = 0;
}

#endif
