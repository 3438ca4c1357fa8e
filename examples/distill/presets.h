/* presets.h - models by name, for --teacher and --student: each a model line that suits the images.
   A part of distill.c. */

/* ---- lines ----------------------------------------------------------------------------------------------- */

static void preset_mlp(spec_line *l, const images *im, int unused)
{
    (void)im, (void)unused;
    line_add(l, "dense 256, batchnorm, relu, dropout 0.3, dense 256, batchnorm, relu, dropout 0.3, ");
}

/* Convolutions that double their channels where pooling halves the side. */
static void preset_cnn(spec_line *l, const images *im, int channels)
{
    int side = line_add_stem(l, shorter_side(im), channels), level = 0;
    for (; side >= 6 && level < 3; side /= 2, channels *= 2)
        line_add(l, "conv %d 3 pad=1, batchnorm, relu, stage%d: maxpool 2, ", channels, ++level);
    line_add(l, "conv %d 3 pad=1, batchnorm, relu, gap, ", channels);
}

/* He et al. 2016, section 4.2: 6 n + 2 layers in three stages of 16, 32 and 64 channels. */
static void preset_resnet(spec_line *l, const images *im, int n)
{
    int level, block;
    line_add_stem(l, shorter_side(im), 16);
    line_add(l, "conv 16 3 pad=1 bias=0, batchnorm, relu, ");
    for (level = 0; level < 3; ++level) {
        for (block = 0; block < n; ++block) {
            line_add(l, "residual(conv %d 3 %spad=1 bias=0, batchnorm, relu, conv %d 3 pad=1 bias=0, batchnorm), ",
                     16 << level, level && !block ? "stride=2 " : "", 16 << level);
            if (block == n - 1) line_add(l, "stage%d: ", level + 1);
            line_add(l, "relu, ");
        }
    }
    line_add(l, "gap, ");
}

/* Howard et al. 2017: depthwise separable convolutions; for small images with fewer strides. */
static void preset_mobilenet(spec_line *l, const images *im, int channels)
{
    int i;
    line_add_stem(l, shorter_side(im), channels);
    line_add(l, "conv %d 3 pad=1 bias=0, batchnorm, relu, ", channels);
    for (i = 0; i < 6; ++i) {
        if (i % 2) channels *= 2;
        line_add(l, "depthwise 3 %spad=1 bias=0, batchnorm, relu, conv %d 1 bias=0, batchnorm, ",
                 i % 2 ? "stride=2 " : "", channels);
        if (i % 2) line_add(l, "stage%d: ", i / 2 + 1);
        line_add(l, "relu, ");
    }
    line_add(l, "gap, ");
}

/* The largest square patch that divides the images into about 7 x 7 patches or more; at most 16 x 16 pixels. */
static int patch_for(const images *im)
{
    int patch = shorter_side(im) / 7;
    if (patch > 16) patch = 16;
    while (patch > 1 && (im->height % patch || im->width % patch)) --patch;
    return patch < 1 ? 1 : patch;
}

/* Dosovitskiy et al. 2021, with the widths and heads of Touvron et al. 2021 from vit-tiny on; names as timm's. */
static void add_vit(spec_line *l, const images *im, int width, int depth, int heads)
{
    line_add(l,
             "patch_embed.proj: patch %d %d, cls_token: classtoken, pos_embed: position, "
             "blocks: encoder %d %d, norm: layernorm, token 0, head: ",
             patch_for(im), width, depth, heads);
}
static void preset_vit(spec_line *l, const images *im, int width)
{
    add_vit(l, im, width, width < 192 ? 6 : 12, width < 192 ? 4 : width / 64);
}

static void preset_text(spec_line *l, const images *im, int large)
{
    (void)im;
    line_add_text(l, large ? 64 : 16, large ? 128 : 32, large ? 192 : 48, large);
}

/* ---- names ----------------------------------------------------------------------------------------------- */

/* name, its line's writer and the number that this takes, what --help says */
#define PRESETS(X)                                                                                                 \
    X("mlp", preset_mlp, 0, "two hidden layers of 256")                                                            \
    X("cnn-small", preset_cnn, 8, "up to four convolutions, from 8 channels on")                                   \
    X("cnn", preset_cnn, 32, "the same from 32 channels on")                                                       \
    X("resnet8", preset_resnet, 1, "residual network of 8 layers, from 16 channels on")                            \
    X("resnet20", preset_resnet, 3, "the same of 20 layers")                                                       \
    X("mobilenet", preset_mobilenet, 32, "six depthwise separable convolutions, from 32 channels on")              \
    X("vit-micro", preset_vit, 64, "vision Transformers, for --lr 0.001: width 64, 6 blocks, 4 heads")             \
    X("vit-tiny", preset_vit, 192, "width 192, 12 blocks, 3 heads")                                                \
    X("vit-small", preset_vit, 384, "width 384, 12 blocks, 6 heads")                                               \
    X("text-tiny", preset_text, 0, "of texts: bytes, two convolutions, a Transformer block, width 48")             \
    X("text-small", preset_text, 1, "the same from 128 channels on, of width 192, with dropout")

typedef struct preset {
    const char *name;
    void (*write)(spec_line *l, const images *im, int number);
    int number;
    const char *help;
} preset;
static const preset preset_table[] = {
#define PRESET(name, write, number, help) {name, write, number, help},
    PRESETS(PRESET)
#undef PRESET
};

static void print_presets(void)
{
    int i;
    for (i = 0; i < KD__COUNT(preset_table); ++i)
        printf("    %-10s %s\n", preset_table[i].name, preset_table[i].help);
}

/* Writes the line of a preset into text (MAX_SPEC) and returns 1; 0: there is none of that name. */
static int preset_line(const images *im, const char *name, char *text)
{
    spec_line l;
    int i;
    for (i = 0; i < KD__COUNT(preset_table); ++i) {
        if (strcmp(preset_table[i].name, name) != 0) continue;
        l.text = text, l.length = 0;
        preset_table[i].write(&l, im, preset_table[i].number);
        line_add(&l, "dense %d", im->class_count);
        return 1;
    }
    return 0;
}
