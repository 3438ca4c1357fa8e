/* plan.h - what distill does where nothing is said: models, epochs and augmentation that suit the images.
   A part of distill.c. */

/* ---- models ---------------------------------------------------------------------------------------------- */

typedef struct spec_line {
    char *text; /* MAX_SPEC */
    size_t length;
} spec_line;

static void line_add(spec_line *l, const char *format, ...)
#if defined(__GNUC__)
    __attribute__((format(printf, 2, 3)))
#endif
    ;

static void line_add(spec_line *l, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    l->length += (size_t)vsnprintf(l->text + l->length, MAX_SPEC - l->length, format, args);
    va_end(args);
}

static int shorter_side(const images *im) { return im->height < im->width ? im->height : im->width; }

/* Convolutions of stride 2 until the shorter side is less than 48: larger images cost little more than small ones.
   Returns the side that is left. */
static int line_add_stem(spec_line *l, int side, int channels)
{
    int first = 1;
    for (; side >= 48; side = (side + 1) / 2, first = 0)
        line_add(l,
                 first ? "conv %d 5 stride=2 pad=2, batchnorm, relu, "
                       : "conv %d 3 stride=2 pad=1, batchnorm, relu, ",
                 channels);
    return side;
}

/* Images of a few pixels get a multilayer perceptron. */
static int too_small_to_pool(const images *im) { return shorter_side(im) < 6; }

/* Bytes as vectors, of which convolutions make a token for every four, and a Transformer over those: without them
   it would first have to learn which letters make a word. */
static void line_add_text(spec_line *l, int width, int channels, int tokens, int drops)
{
    line_add(l, "embeddings: embed 256 %d, %sstem1: conv %d 5x1 stride=2x1 pad=2x0, batchnorm, relu, ", width,
             drops ? "dropout 0.1, " : "", channels);
    line_add(l, "stem2: conv %d 5x1 pad=2x0, batchnorm, relu, maxpool 2x1, %spos_embed: position, ", tokens,
             drops ? "dropout 0.2, " : "");
    line_add(l, "blocks: encoder 1 4 mlp=%d%s, norm: layernorm, meanpool, %shead: ", drops ? 2 : 1,
             drops ? " droppath=0.1" : "", drops ? "dropout 0.3, " : "");
}

/* Three convolutions, a third of a million to three million multiply-adds; wider where there are many classes. */
static void student_line(const images *im, char *text)
{
    spec_line l;
    int channels = im->class_count > 20 ? 16 : 8, steps = 0, side;
    l.text = text, l.length = 0;
    if (im->are_texts) {
        snprintf(text, MAX_SPEC, "text-tiny");
        return;
    }
    if (too_small_to_pool(im)) line_add(&l, "dense %d, batchnorm, relu, ", 4 * channels);
    side = line_add_stem(&l, shorter_side(im), channels);
    for (; side >= 6; side /= 2, channels *= 2)
        line_add(&l, "conv %d 3 pad=1, batchnorm, relu, stage%d: maxpool 2, ", channels, ++steps);
    line_add(&l, "dense %d", im->class_count);
}

/* A small residual network: twenty times the student's multiply-adds and more. */
static void teacher_line(const images *im, char *text)
{
    spec_line l;
    int channels = 32, steps = 1, side;
    l.text = text, l.length = 0;
    if (im->are_texts) {
        snprintf(text, MAX_SPEC, "text-small");
        return;
    }
    if (too_small_to_pool(im)) {
        line_add(&l, "dense 256, batchnorm, relu, dropout 0.3, dense 256, batchnorm, relu, dropout 0.3, dense %d",
                 im->class_count);
        return;
    }
    side = line_add_stem(&l, shorter_side(im), channels);
    line_add(&l, "conv %d 3 pad=1, batchnorm, relu, stage1: maxpool 2, ", channels);
    for (side /= 2; side >= 4 && channels < 128; side /= 2) {
        channels *= 2;
        line_add(&l,
                 "conv %d 3 pad=1, batchnorm, relu, maxpool 2, "
                 "residual(conv %d 3 pad=1, batchnorm, relu, conv %d 3 pad=1, batchnorm), stage%d: relu, ",
                 channels, channels, channels, ++steps);
    }
    line_add(&l, "gap, dense %d", im->class_count);
}

/* ---- epochs ---------------------------------------------------------------------------------------------- */

/* Steps are what training needs, and small sets more epochs for as many of them: the images seen grow with the
   square root of those that there are. */
static int epochs_for(int count, double at_one, double effort)
{
    const double epochs = effort * at_one / sqrt((double)count);
    const int whole = (int)(epochs + 0.5);
    return whole < 1 ? 1 : whole > 400 ? 400 : whole;
}

static void plan_epochs(session *s)
{
    enum { STUDENT = 8000, TEACHER = 4000 };
    const int count = s->fit.data.count;
    plan *p = &s->plan;
    p->epochs = s->o.epochs ? s->o.epochs : epochs_for(count, STUDENT, s->o.effort);
    p->teacher_epochs = s->o.teacher_epochs ? s->o.teacher_epochs : epochs_for(count, TEACHER, s->o.effort);
    p->trial_epochs = (int)(s->o.trial_share * p->epochs + 0.5);
    if (p->trial_epochs < 1) p->trial_epochs = 1;
}

/* ---- augmentation ---------------------------------------------------------------------------------------- */

/* Letters and digits, which are others in a mirror. */
static int classes_are_letters(const images *im)
{
    int i;
    for (i = 0; i < im->class_count; ++i) {
        const char *name = im->class_names[i];
        if (strlen(name) > 1 && strspn(name, "0123456789") != strlen(name)) return 0;
    }
    return 1;
}

static void words_add(char *words, const char *word, int value)
{
    const size_t length = strlen(words);
    snprintf(words + length, MAX_WORDS - length, value ? "%s%s=%d" : "%s%s", length ? "," : "", word, value);
}

static int is_automatic(const char *words) { return strcmp(words, "auto") == 0; }

/* Words for the students' augmentation and the teacher's. flip: what the held-out images have said of it. */
static int plan_augmentation(session *s, int flip)
{
    const int side = shorter_side(&s->images), colour = s->images.channels == 3;
    plan *p = &s->plan;
    snprintf(p->augment, MAX_WORDS, "%s", s->o.augment);
    snprintf(p->teacher_augment, MAX_WORDS, "%s", s->o.teacher_augment);
    if (is_automatic(s->o.augment)) {
        p->augment[0] = 0;
        if (!teacher_is_array(s)) {
            if (flip) words_add(p->augment, "flip", 0);
            if (side >= 8) words_add(p->augment, "shift", (side + 6) / 12);
        }
    }
    if (is_automatic(s->o.teacher_augment)) {
        snprintf(p->teacher_augment, MAX_WORDS, "%s", p->augment);
        if (is_automatic(s->o.augment) && !teacher_is_array(s)) {
            if (colour && side >= 8) words_add(p->teacher_augment, "cutout", side / 4);
            snprintf(p->teacher_augment + strlen(p->teacher_augment), MAX_WORDS - strlen(p->teacher_augment),
                     "%smixup=0.4", p->teacher_augment[0] ? "," : "");
        }
    }
    return parse_augment("augment", p->augment, &s->augment) &&
           parse_augment("teacher-augment", p->teacher_augment, &s->teacher_augment);
}
