/* web: what page.html calls, as WebAssembly. A student and its teacher, loaded from the bytes of their files, are
   asked for the same image; the bits are those of kd.h's portable kernels. Built by run.sh. */
#define KD_NO_TRAIN
#define KD_NO_STDIO
#define KD_NO_THREADS
#define KD_STATIC
#define KD_IMPLEMENTATION
#include "../../kd.h"
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
static uint8_t *image; /* (c, h, w), the same for both */

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
EXPORT(web_predict) const float *web_predict(int i);
EXPORT(web_soften) const float *web_soften(int i, float temperature);

void *web_memory(size_t size) { return malloc(size); }
void web_forget(void *bytes) { free(bytes); }

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
