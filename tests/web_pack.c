/* examples/web/pack.c for tests/web.sh, and models to try it with. Usage: as pack, or web_pack OUT, which writes
   models with first weights into a folder. */
#define main pack_main
#include "../examples/web/pack.c"
#undef main

enum { MOST = 10 };

static const struct made {
    const char *name, *spec;
    int count;
    const char *classes[MOST];
} all[] = {
    {"teacher",
     "1x28x28: conv 16 3 pad=1, batchnorm, relu, maxpool 2, residual(conv 16 3 pad=1, batchnorm, relu, conv 16 3 "
     "pad=1, batchnorm), relu, conv 32 3 pad=1, batchnorm, gelu, avgpool 2, depthwise 3 pad=1, hardswish, gap, "
     "dense 10",
     10,
     {"Ankle-boot", "Bag", "Coat", "Dress", "Pullover", "Sandal", "Shirt", "Sneaker", "T-shirt", "Trouser"}},
    {"order",
     "1x28x28: dense 10",
     10,
     {"Bag", "Ankle-boot", "Coat", "Dress", "Pullover", "Sandal", "Shirt", "Sneaker", "T-shirt", "Trouser"}},
    {"names",
     "784: dense 16, relu, dense 4",
     4,
     {"\"Bag\" & 'co'", "</script><b>", "\xc3\x84pfel \xe2\x80\x94 \xe6\x9e\x9c", "@packed@"}},
    {"colour", "3x16x16: conv 8 3 pad=1, relu, gap, dense 3", 3, {"red", "green", "blue"}},
    {"digits", "1x28x28: dense 16, relu, dense 10", 10, {"0", "1", "2", "3", "4", "5", "6", "7", "8", "9"}},
    {"nine", "1x28x28: dense 9", 0, {0}},
    {"single", "1x28x28: dense 1", 0, {0}},
    {"seven", "7x28x28: dense 10", 0, {0}},
};

int main(int argc, char **argv)
{
    kd_ctx *kd = NULL;
    size_t i;
    int good;
    if (argc != 2) return pack_main(argc, argv);
    good = kd_open(NULL, &kd) == KD_OK;
    for (i = 0; i < sizeof all / sizeof *all && good; ++i) {
        char path[1000];
        kd_model *m = NULL;
        snprintf(path, sizeof path, "%s/%s.safetensors", argv[1], all[i].name);
        good = kd_model_create(kd, all[i].spec, 1, &m) == KD_OK &&
               (all[i].count == 0 || kd_model_set_classes(m, all[i].classes, all[i].count) == KD_OK) &&
               kd_model_save(m, path) == KD_OK;
        kd_model_destroy(m);
    }
    if (!good) fprintf(stderr, "%s\n", kd ? kd_error(kd) : "no context");
    kd_close(kd);
    return !good;
}
