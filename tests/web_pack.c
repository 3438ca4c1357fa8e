/* examples/web/pack.c for tests/web.sh, and models to try it with. Usage: as pack, or web_pack OUT, which writes
   models with first weights into a folder, or web_pack fit MODEL WIDTHxHEIGHT. */
#define main pack_main
#include "../examples/web/pack.c"
#undef main

enum { MOST = 10 };

static const struct made {
    const char *name, *spec;
    int count;
    const char *classes[MOST];
    const char *framing;
} all[] = {
    {"teacher",
     "1x28x28: conv 16 3 pad=1, batchnorm, relu, maxpool 2, residual(conv 16 3 pad=1, batchnorm, relu, conv 16 3 "
     "pad=1, batchnorm), relu, conv 32 3 pad=1, batchnorm, gelu, avgpool 2, depthwise 3 pad=1, hardswish, gap, "
     "dense 10",
     10,
     {"Ankle-boot", "Bag", "Coat", "Dress", "Pullover", "Sandal", "Shirt", "Sneaker", "T-shirt", "Trouser"},
     NULL},
    {"order",
     "1x28x28: dense 10",
     10,
     {"Bag", "Ankle-boot", "Coat", "Dress", "Pullover", "Sandal", "Shirt", "Sneaker", "T-shirt", "Trouser"},
     NULL},
    {"names",
     "784: dense 16, relu, dense 4",
     4,
     {"\"Bag\" & 'co'", "</script><b>", "\xc3\x84pfel \xe2\x80\x94 \xe6\x9e\x9c", "@packed@"},
     NULL},
    {"colour", "3x16x16: conv 8 3 pad=1, relu, gap, dense 3", 3, {"red", "green", "blue"}, NULL},
    {"digits", "1x28x28: dense 16, relu, dense 10", 10, {"0", "1", "2", "3", "4", "5", "6", "7", "8", "9"}, NULL},
    {"nine", "1x28x28: dense 9", 0, {0}, NULL},
    {"single", "1x28x28: dense 1", 0, {0}, NULL},
    {"seven", "7x28x28: dense 10", 0, {0}, NULL},
    {"crop", "3x16x12: gap, dense 2", 0, {0}, "crop=24"},
    {"stretch", "1x16x16: dense 2", 0, {0}, "stretch"},
    {"pad", "3x16x16: gap, dense 2", 0, {0}, "pad=10,200,60"},
    {"mean", "3x16x16: gap, dense 2", 0, {0}, "pad=mean"},
    {"tall", "1x20x9: conv 1 1, flatten, dense 2", 0, {0}, NULL},
};

/* What a model sees of a picture, WIDTHxHEIGHT of bytes that web.js makes too, in digits. */
static int fitted(const char *path, const char *size)
{
    const char *times = strchr(size, 'x');
    images_framing f;
    images_picture p;
    kd_ctx *kd = NULL;
    kd_model *m = NULL;
    uint8_t *seen = NULL;
    float mean[KD_MAX_CHANNELS], std[KD_MAX_CHANNELS];
    int c, h, w, i, good = times && kd_open(NULL, &kd) == KD_OK && kd_model_load(kd, path, &m) == KD_OK;
    memset(&p, 0, sizeof p);
    if (good) {
        kd_model_input(m, &c, &h, &w);
        good = images_framing_parse(kd_model_framing(m), &f);
        if (!*kd_model_framing(m) && h != w) f.way = IMAGES_STRETCH;
        if (kd_model_preprocessing(m, mean, std)) images_framing_mean(&f, mean, c);
        p.w = atoi(size), p.h = atoi(times + 1), p.channels = c;
        p.pixels = (uint8_t *)malloc((size_t)(p.w * p.h * c));
        for (i = 0; i < p.w * p.h * c; ++i) { /* grey: all three are alike */
            const int at = i / c, channel = c == 1 ? 0 : i % c;
            p.pixels[i] = (uint8_t)(at * 7 + at / p.w * 13 + channel * 50);
        }
        seen = images_fit(&p, w, h, &f);
        for (i = 0; seen && i < c * h * w; ++i) printf("%02x", seen[i % (h * w) * c + i / (h * w)]);
        printf("\n");
    }
    free(seen);
    kd_model_destroy(m);
    kd_close(kd);
    return !good;
}

int main(int argc, char **argv)
{
    static const float mean[] = {0.2f, 0.5f, 0.8f}, std[] = {1, 1, 1};
    kd_ctx *kd = NULL;
    size_t i;
    int good;
    if (argc == 4 && strcmp(argv[1], "fit") == 0) return fitted(argv[2], argv[3]);
    if (argc != 2) return pack_main(argc, argv);
    good = kd_open(NULL, &kd) == KD_OK;
    for (i = 0; i < sizeof all / sizeof *all && good; ++i) {
        char path[1000];
        kd_model *m = NULL;
        snprintf(path, sizeof path, "%s/%s.safetensors", argv[1], all[i].name);
        good = kd_model_create(kd, all[i].spec, 1, &m) == KD_OK &&
               (all[i].count == 0 || kd_model_set_classes(m, all[i].classes, all[i].count) == KD_OK) &&
               kd_model_set_framing(m, all[i].framing) == KD_OK &&
               (strcmp(all[i].name, "mean") != 0 || kd_model_set_preprocessing(m, mean, std) == KD_OK) &&
               kd_model_save(m, path) == KD_OK;
        kd_model_destroy(m);
    }
    if (!good) fprintf(stderr, "%s\n", kd ? kd_error(kd) : "no context");
    kd_close(kd);
    return !good;
}
