/* Images, as examples/images.h decodes and resizes them. How many channels and which size are wanted follows from
   the number of bytes, how they are brought to it from the bytes, so that any image file is an input. */
#include <stdio.h>
#include "bounds.h"
#include "../../examples/images.h"

/* A JPEG of 8x8 pixels in a bit, of 16 bits to compute with, three times over; a PNG of 1032 bytes in one, unpacked
   twice, and eight pixels in each of those. Time goes with the pixels, and those with the bytes. */
enum { FIXED = 1 << 20, EACH = 128 << 10 };
static const double SECONDS = 2, SECONDS_EACH = 0.005;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(int truth, const char *what)
{
    if (truth) return;
    fprintf(stderr, "image.c: does not hold: %s\n", what);
    abort();
}

static void try_image(const uint8_t *data, size_t size)
{
    static const int channels[] = {0, 1, 3};
    const int want = channels[size % 3], side = 1 + (int)(size % 23);
    const char *why = NULL;
    images_picture p;
    images s;
    uint8_t *fitted;
    uint32_t hash;
    int i, bright = 0, reach = side;
    if (!images_header(data, size, &p, &why)) {
        check(why && *why, "a reason is given");
        return;
    }
    hash = images_crc(data, size);
    /* allowed, and too slow to be tried often */
    if ((int64_t)p.w * p.h > 1 << 12 && hash % 64 != 0) return;
    if (!images_decode(data, size, want, &p, &why)) {
        check(why && *why, "a reason is given");
        return;
    }
    check(p.w > 0 && p.h > 0 && (p.channels == 1 || p.channels == 3) && (!want || p.channels == want),
          "size and channels are those asked for");
    memset(&s, 0, sizeof s);
    s.width = s.height = side;
    s.framing.way = (images_way)(hash / 64 % 3), s.framing.edge = hash / 256 % 2 ? (int)(hash / 1024 % 64) : 0;
    s.framing.upright = (int)(hash / 512 % 2);
    if (s.framing.upright) check(images_turn(&p), "what can be turned is");
    if (s.framing.way == IMAGES_CROP && s.framing.edge > side) reach = s.framing.edge;
    if ((double)reach * reach * (p.w > p.h ? p.w : p.h) / (p.w > p.h ? p.h : p.w) > 1 << 16 ||
        images_misfit(p.w, p.h, &s)) {
        free(p.pixels);
        return;
    }
    if (images_fits(p.w, p.h, side, side, &s.framing))
        fitted = p.pixels;
    else
        fitted = images_fit(&p, side, side, &s.framing);
    check(fitted != NULL, "what can fit does");
    for (i = 0; i < side * side * p.channels; ++i) bright += fitted[i] > 127; /* every pixel has a value */
    check(bright >= 0, "pixels can be counted");
    free(fitted);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    bounds_begin();
    try_image(data, size);
    bounds_end(size, FIXED, EACH, SECONDS, SECONDS_EACH);
    return 0;
}
