/* image.h - the images that a model takes. A part of web.c, pack.c and export.c, which include kd.h
   before. */
#ifndef IMAGE_H
#define IMAGE_H

/* Whether a model takes images, and of which shape: grey or in colour. A multilayer perceptron's (c, 1, 1) is taken
   for a square. */
static int image_shape(const kd_model *m, int *c, int *h, int *w)
{
    int planes, side = 1;
    kd_model_input(m, c, h, w);
    if (*h == 1 && *w == 1 && *c > 3) {
        for (planes = 1; planes <= 3; planes += 2) {
            for (side = 1; planes * side * side < *c; ++side) {}
            if (planes * side * side != *c) continue;
            *c = planes, *h = *w = side;
            return 1;
        }
    }
    return *c == 1 || *c == 3;
}

#endif
