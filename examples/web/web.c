/* web: what page.html calls, as WebAssembly. A student and its teacher, loaded from the bytes of their files, are
   asked for the same image; the bits are those of kd.h's portable kernels. Built by run.sh. */
#define KD_NO_TRAIN
#define KD_NO_STDIO
#define KD_NO_THREADS
#define KD_STATIC
#define KD_IMPLEMENTATION
#include "../../kd.h"
#include "../resize.h"
#include "image.h"

#define EXPORT(name) __attribute__((export_name(#name))) extern

enum { NETWORKS = 2 }; /* 0 the student, 1 the teacher */

typedef struct network {
    kd_model *m;
    kd_workspace *workspace;
    float *logits, *probs;
    int c, h, w;
} network;

static kd_ctx *kd;
static network networks[NETWORKS];
static uint8_t *image;         /* (c, h, w), the same for both */
static images_framing framing; /* how a picture becomes that, as the student says */

EXPORT(web_memory) void *web_memory(size_t size);
EXPORT(web_forget) void web_forget(void *bytes);
EXPORT(web_load) int web_load(int i, const void *bytes, size_t size);
EXPORT(web_error) const char *web_error(void);
EXPORT(web_channels) int web_channels(int i);
EXPORT(web_height) int web_height(int i);
EXPORT(web_width) int web_width(int i);
EXPORT(web_classes) int web_classes(int i);
EXPORT(web_class) const char *web_class(int i, int index);
EXPORT(web_parameters) double web_parameters(int i);
EXPORT(web_macs) double web_macs(int i);
EXPORT(web_is_int8) int web_is_int8(int i);
EXPORT(web_image) uint8_t *web_image(void);
EXPORT(web_place) const int *web_place(int w, int h);
EXPORT(web_fit) int web_fit(uint8_t *pixels, int w, int h);
EXPORT(web_predict) const float *web_predict(int i);
EXPORT(web_soften) const float *web_soften(int i, float temperature);

void *web_memory(size_t size) { return malloc(size); }
void web_forget(void *bytes) { free(bytes); }

/* As classify does it: what is not known is stretched where the images are no squares, else cut. */
static void find_framing(const network *n)
{
    const char *words = kd_model_framing(n->m);
    float mean[KD_MAX_CHANNELS], std[KD_MAX_CHANNELS];
    memset(&framing, 0, sizeof framing);
    if ((!images_framing_parse(words, &framing) || !*words) && n->h != n->w) framing.way = IMAGES_STRETCH;
    if (kd_model_preprocessing(n->m, mean, std))
        images_framing_mean(&framing, mean, kd_model_preprocessing(n->m, NULL, NULL));
}

/* 1, or 0 and web_error(). */
int web_load(int i, const void *bytes, size_t size)
{
    network *n = &networks[i];
    size_t classes;
    if ((!kd && kd_open(NULL, &kd) != KD_OK) || kd_model_load_memory(kd, bytes, size, &n->m) != KD_OK ||
        !image_shape(n->m, &n->c, &n->h, &n->w) || kd_workspace_create(n->m, 1, &n->workspace) != KD_OK)
        return 0;
    classes = (size_t)kd_model_outputs(n->m);
    n->logits = (float *)malloc(classes * sizeof *n->logits);
    n->probs = (float *)malloc(classes * sizeof *n->probs);
    if (i == 0) find_framing(n);
    if (!image) image = (uint8_t *)malloc((size_t)n->c * (size_t)n->h * (size_t)n->w);
    return n->logits && n->probs && image;
}

const char *web_error(void) { return kd && *kd_error(kd) ? kd_error(kd) : "it does not fit in memory"; }

int web_channels(int i) { return networks[i].c; }
int web_height(int i) { return networks[i].h; }
int web_width(int i) { return networks[i].w; }
int web_classes(int i) { return kd_model_outputs(networks[i].m); }

/* "" without a name. */
const char *web_class(int i, int index)
{
    const char *name = kd_model_class(networks[i].m, index);
    return name ? name : "";
}

double web_parameters(int i) { return (double)kd_model_parameters(networks[i].m); }
double web_macs(int i) { return (double)kd_model_macs(networks[i].m); }
int web_is_int8(int i) { return kd_model_is_int8(networks[i].m); }

uint8_t *web_image(void) { return image; }

/* Where a picture comes to lie in the image, in its pixels: left, top, width, height; and the colour beside it. */
const int *web_place(int w, int h)
{
    static int place[7];
    const network *n = &networks[0];
    int i;
    images_size_of(w, h, n->w, n->h, &framing, &place[2], &place[3]);
    place[0] = -images_middle(place[2], n->w, &framing);
    place[1] = -images_middle(place[3], n->h, &framing);
    for (i = 0; i < 3; ++i) place[4 + i] = framing.colour[i];
    return place;
}

/* The image from a picture, (h, w, RGBA) as canvases have it, in memory of web_memory, which is used up. Grey is
   weighed as stb_image does. 0: it does not fit in memory. */
int web_fit(uint8_t *pixels, int w, int h)
{
    const network *n = &networks[0];
    const size_t count = (size_t)w * (size_t)h, area = (size_t)n->w * (size_t)n->h, c = (size_t)n->c;
    images_picture p;
    uint8_t *fitted;
    size_t i, j;
    memset(&p, 0, sizeof p);
    p.pixels = pixels, p.w = w, p.h = h, p.channels = n->c;
    for (i = 0; i < count; ++i) { /* in place: what is written has been read */
        const uint8_t *from = pixels + 4 * i;
        const int r = from[0], g = from[1], b = from[2];
        if (c == 1)
            pixels[i] = (uint8_t)((77 * r + 150 * g + 29 * b) >> 8);
        else
            pixels[3 * i] = (uint8_t)r, pixels[3 * i + 1] = (uint8_t)g, pixels[3 * i + 2] = (uint8_t)b;
    }
    fitted = images_fit(&p, n->w, n->h, &framing);
    if (!fitted) return 0;
    for (i = 0; i < area; ++i) {
        for (j = 0; j < c; ++j) image[j * area + i] = fitted[i * c + j];
    }
    free(fitted);
    return 1;
}

/* The logits of the image, NULL after an error. */
const float *web_predict(int i)
{
    network *n = &networks[i];
    return kd_workspace_predict_u8(n->workspace, image, 1, n->logits) == KD_OK ? n->logits : NULL;
}

/* softmax(logits / temperature) of the last prediction. */
const float *web_soften(int i, float temperature)
{
    network *n = &networks[i];
    return kd_softmax(kd, n->logits, 1, kd_model_outputs(n->m), temperature, n->probs) == KD_OK ? n->probs : NULL;
}
