/* data.h - distill's images or texts: loaded, split into those to learn from and those held out, normalised. A
   part of distill.c. */

/* ---- the images ------------------------------------------------------------------------------------------ */

/* Texts have bytes, and nothing that is done to pixels can be done to them. */
static int check_text_options(const session *s)
{
    static const char no[] = "--%s is about pixels, which texts do not have";
    const options *o = &s->o;
    if (o->size) return complain(no, "size");
    if (o->channels) return complain(no, "channels");
    if (*o->resize || o->exif) return complain(no, *o->resize ? "resize" : "exif");
    if (o->mean.count || o->std.count) return complain(no, o->mean.count ? "mean" : "std");
    if (strcmp(o->augment, "none") != 0 && strcmp(o->augment, "auto") != 0) return complain(no, "augment");
    if (strcmp(o->teacher_augment, "none") != 0 && strcmp(o->teacher_augment, "auto") != 0)
        return complain(no, "teacher-augment");
    if (o->adversarial > 0) return complain(no, "adversarial");
    if (o->patient) return complain("--patient mixes pixels, and texts cannot be mixed like that");
    if (*o->fit || *o->fit_ram || *o->fit_macs)
        return complain("--fit looks among convolutional networks of images; give a student of texts by --student");
    return 1;
}

/* A teacher that is a file knows how much of a text it reads. */
static int text_length(const session *s)
{
    int c = 0, h, w;
    if (s->o.length) return s->o.length;
    if (s->teacher && strncmp(kd_model_spec(s->teacher), "tokens ", 7) == 0) kd_model_input(s->teacher, &c, &h, &w);
    return c;
}

static int load_texts(session *s)
{
    texts_options io = texts_defaults();
    if (!check_text_options(s)) return 0;
    io.length = text_length(s);
    io.test_share = s->o.test_share;
    io.folds = s->o.folds;
    io.fold = s->o.fold;
    io.max_skipped = s->o.max_skipped;
    io.limit = s->o.limit;
    io.train_limit = s->o.train_limit;
    io.seed = (uint64_t)s->o.first_seed;
    s->o.augment = s->o.teacher_augment = "none";
    return (texts_load(&s->images, s->o.folder, &io) &&
            (!*s->o.unlabelled || texts_load_unlabelled(&s->images, s->o.unlabelled, &io))) ||
           complain("%s%s", s->images.error,
                    strstr(s->images.error, "more than the share") ? "; --max-skipped allows more" : "");
}

/* Whether a model is given that says itself how large its images are, or a file that may. */
static int model_says_size(const char *model)
{
    return *model && (isdigit((unsigned char)*model) || access(model, F_OK) == 0);
}

/* What a teacher says of its images, as the framing to take. What is given has to be the same. */
static int take_framing(const char *path, const kd_model *teacher, int given, images_framing *framing)
{
    const char *known = kd_model_framing(teacher);
    float mean[KD_MAX_CHANNELS], std[KD_MAX_CHANNELS];
    char words[2][64];
    images_framing found;
    if (!*known) return 1;
    if (!images_framing_parse(known, &found))
        return complain("%s says that its images were brought to their size by \"%s\", which is not known here",
                        path, known);
    if (found.by_mean && !kd_model_preprocessing(teacher, mean, std))
        return complain("%s says that its images were padded with their mean, which it does not know", path);
    if (found.by_mean) images_framing_mean(&found, mean, kd_model_preprocessing(teacher, NULL, NULL));
    images_framing_words(&found, words[0], sizeof words[0]);
    images_framing_words(framing, words[1], sizeof words[1]);
    if (given && strcmp(words[0], words[1]) != 0)
        return complain(
            "%s says that its images were brought to their size by \"%s\", and here it is \"%s\"; without "
            "--resize and --exif it is as the teacher says",
            path, known, *words[1] ? words[1] : "crop");
    *framing = found;
    return !*words[0] || say("  note: images are brought to their size as %s says: %s\n", path, known);
}

/* As --resize and --exif say, or the teachers that are files. */
static int find_framing(session *s, images_framing *framing)
{
    const texts *given = &s->o.teachers_given;
    float mean[KD_MAX_CHANNELS], std[KD_MAX_CHANNELS];
    int i, known = *s->o.resize || s->o.exif;
    if (!images_framing_parse(s->o.resize, framing) || framing->upright)
        return complain(
            "--resize takes crop, stretch, pad, pad=R,G,B, pad=mean or the pixels of the shorter edge, got \"%s\"",
            s->o.resize);
    framing->upright = s->o.exif;
    if (s->teacher && kd_model_preprocessing(s->teacher, mean, std)) /* pad=mean is the mean that it knows */
        images_framing_mean(framing, mean, kd_model_preprocessing(s->teacher, NULL, NULL));
    for (i = 0; i <= s->more_count && s->teacher; ++i) {
        const kd_model *teacher = i ? s->more[i - 1] : s->teacher;
        if (!take_framing(i < given->count ? given->values[i] : s->o.teacher, teacher, known, framing)) return 0;
        known |= *kd_model_framing(teacher) != 0;
    }
    return 1;
}

/* pad=mean is the colour of the mean of some of the images, stretched. */
static int find_colour(session *s, images_options *io)
{
    enum { LOOKED_AT = 20 }; /* of each class */
    float mean[3] = {0, 0, 0};
    images_options some = *io;
    images set;
    int c, channels;
    int64_t i, area;
    some.framing.way = IMAGES_STRETCH, some.framing.by_mean = 0;
    some.limit = some.limit && some.limit < LOOKED_AT ? some.limit : LOOKED_AT;
    if (!images_load(&set, s->o.folder, &some)) {
        complain("%s", set.error);
        images_free(&set);
        return 0;
    }
    channels = set.channels, area = (int64_t)set.height * set.width;
    for (c = 0; c < channels; ++c) {
        double sum = 0;
        for (i = 0; i < set.train.count * area; ++i)
            sum += set.train.pixels[(i / area * channels + c) * area + i % area];
        mean[c] = (float)(sum / 255 / (double)(set.train.count * area));
    }
    images_framing_mean(&io->framing, mean, channels);
    images_free(&set);
    return 1;
}

static int load_pictures(session *s)
{
    images_options io = images_defaults();
    if (!find_framing(s, &io.framing)) return 0;
    if (s->o.length) return complain("--length is for texts, and %s has images", s->o.folder);
    io.size = s->o.size;
    io.usual_size = model_says_size(s->o.teacher) || model_says_size(s->o.student) ? 0 : 64;
    io.channels = s->o.channels;
    io.test_share = s->o.test_share;
    io.folds = s->o.folds;
    io.fold = s->o.fold;
    io.max_skipped = s->o.max_skipped;
    io.limit = s->o.limit;
    io.train_limit = s->o.train_limit;
    io.seed = (uint64_t)s->o.first_seed;
    io.apart = s->o.whole_out ? s->o.whole_out : s->o.out;
    if (io.framing.by_mean && !find_colour(s, &io)) return 0;
    if (!images_load(&s->images, s->o.folder, &io))
        return complain("%s%s", s->images.error,
                        strstr(s->images.error, "more than the share") ? "; --max-skipped allows more" : "");
    io.limit = 0;
    if (*s->o.unlabelled && !images_load_unlabelled(&s->images, s->o.unlabelled, &io))
        return complain("%s", s->images.error);
    return 1;
}

static int load_images(session *s)
{
    int i;
    if (!(texts_are(s->o.folder) ? load_texts(s) : load_pictures(s))) return 0;
    if (!(s->o.teacher_lr > 0)) s->o.teacher_lr = s->images.are_texts ? 0.002 : 0.004;
    for (i = 0; i < s->images.skipped && i < IMAGES_LISTED; ++i) say("  skipped: %s\n", s->images.listed[i]);
    if (s->images.skipped > IMAGES_LISTED) say("  ... and %d more\n", s->images.skipped - IMAGES_LISTED);
    for (i = 0; i < s->images.said_count; ++i) say("  note: %s\n", s->images.said[i]);
    if (s->images.class_count < 2)
        return complain("%s has one class, %s; a classifier needs at least two", s->o.folder,
                        s->images.class_names[0]);
    return 1;
}

typedef struct drawn {
    uint64_t lot;
    int label, index;
} drawn;

static int by_label_and_lot(const void *a, const void *b)
{
    const drawn *x = (const drawn *)a, *y = (const drawn *)b;
    if (x->label != y->label) return x->label < y->label ? -1 : 1;
    return x->lot < y->lot ? -1 : x->lot > y->lot;
}

/* Bytes of an image. */
static size_t part_image(const session *s)
{
    return (size_t)s->images.channels * (size_t)s->images.height * (size_t)s->images.width;
}

static kd_data data_of(const images *im, const uint8_t *pixels, const int32_t *labels, int count)
{
    if (im->are_texts) return kd_data_text(pixels, labels, count, im->channels, im->class_count);
    return kd_data_u8(pixels, labels, count, im->channels, im->height, im->width, im->class_count);
}

static int part_open(session *s, part *p, int capacity)
{
    p->pixels = (uint8_t *)images_memory((size_t)capacity + 1, part_image(s));
    p->labels = (int32_t *)images_memory((size_t)capacity + 1, sizeof *p->labels);
    p->origin = (int32_t *)images_memory((size_t)capacity + 1, sizeof *p->origin);
    if (!p->pixels || !p->labels || !p->origin)
        return complain("there is not enough memory for %d images", capacity);
    p->data = data_of(&s->images, p->pixels, p->labels, 0);
    return 1;
}

/* Image `index` of a set whose first is number `first`. */
static void part_add(const session *s, part *p, const images_set *set, int first, int index)
{
    const size_t image = part_image(s);
    memcpy(p->pixels + (size_t)p->data.count * image, set->pixels + (size_t)index * image, image);
    p->labels[p->data.count] = set->labels[index];
    p->origin[p->data.count++] = first + index;
}

/* Whether the teacher is a file of logits, which belong to the images as they are. */
static int teacher_is_array(const session *s)
{
    const char *name = s->o.teacher;
    const size_t length = strlen(name);
    return s->rows_train.path || kd__npz_wanted(name) ||
           (length > 4 && (strcmp(name + length - 4, ".npy") == 0 || strcmp(name + length - 4, ".npz") == 0));
}

/* What a student with a teacher learns from where there are images without labels: these behind the others. */
static int join_unlabelled(session *s)
{
    images_set *more = &s->images.unlabelled;
    const part *fit = &s->fit;
    int i;
    if (more->count == 0) return 1;
    if (teacher_is_array(s))
        return complain("--unlabelled needs a teacher that can be run: logits in a file belong to the images of %s",
                        s->o.folder);
    if (!part_open(s, &s->all, fit->data.count + more->count)) return 0;
    memcpy(s->all.pixels, fit->pixels, part_image(s) * (size_t)fit->data.count);
    memcpy(s->all.pixels + part_image(s) * (size_t)fit->data.count, more->pixels,
           part_image(s) * (size_t)more->count);
    memcpy(s->all.labels, fit->labels, sizeof(int32_t) * (size_t)fit->data.count);
    s->all.data.count = fit->data.count + more->count;
    for (i = fit->data.count; i < s->all.data.count; ++i) s->all.labels[i] = KD_UNLABELLED;
    s->r.unlabelled_count = more->count;
    free(more->pixels);
    more->pixels = NULL;
    return 1;
}

/* Held out are the images of a folder for that; else of each class the same share of the others, drawn by the seed.
   The copies replace the loader's memory. */
static int split_images(session *s)
{
    images_set *apart = &s->images.validation;
    const int count = s->images.train.count;
    const double share = apart->count ? 0 : s->o.validation;
    drawn *all = (drawn *)images_memory((size_t)count + 1, sizeof *all);
    int held = 0, i, first = 0, ok, without = 0;
    if (!all) return complain("there is not enough memory for %d images", count);
    for (i = 0; i < count; ++i) {
        all[i].label = s->images.train.labels[i];
        all[i].lot = images_hash((uint64_t)i ^ images_hash((uint64_t)s->o.first_seed));
        all[i].index = i;
    }
    qsort(all, (size_t)count, sizeof *all, by_label_and_lot);
    for (i = 0; i < count; ++i) { /* mark those held out: the first of each class */
        int last = i;
        if (i > 0 && all[i].label == all[i - 1].label) continue;
        for (first = i; last < count && all[last].label == all[first].label; ++last) {}
        without += (int)(share * (last - first) + 0.5) < 1;
        for (last = first + (int)(share * (last - first) + 0.5); first < last; ++first, ++held)
            all[first].lot = UINT64_MAX;
    }
    if (without && share > 0)
        say("  note: %d of %d classes have too few images to hold out %g %% of them: none of theirs is\n", without,
            s->images.class_count, 100 * share);
    ok = part_open(s, &s->fit, count - held) && part_open(s, &s->held, held + apart->count);
    if (ok) {
        for (i = 0; i < count; ++i)
            part_add(s, all[i].lot == UINT64_MAX ? &s->held : &s->fit, &s->images.train, 0, all[i].index);
        for (i = 0; i < apart->count; ++i) part_add(s, &s->held, apart, count, i);
    }
    free(all);
    if (!ok) return 0;
    s->test = data_of(&s->images, s->images.test.pixels, s->images.test.labels, s->images.test.count);
    free(s->images.train.pixels);
    free(apart->pixels);
    s->images.train.pixels = apart->pixels = NULL;
    return join_unlabelled(s);
}

/* --mean and --std, for each channel or one for all. */
static int given_preprocessing(session *s)
{
    const list *mean = &s->o.mean, *std = &s->o.std;
    const int channels = s->images.channels;
    int c;
    if ((mean->count > 0) != (std->count > 0)) return complain("--mean and --std go together");
    if ((mean->count > 1 && mean->count != channels) || (std->count > 1 && std->count != channels))
        return complain("--mean and --std take one number%s, got %d and %d",
                        channels > 1 ? ", or 3, one for each channel of the images" : " for grey images",
                        mean->count, std->count);
    for (c = 0; c < channels && mean->count > 0; ++c) {
        s->fit.data.mean[c] = (float)mean->values[mean->count > 1 ? c : 0];
        s->fit.data.std[c] = (float)std->values[std->count > 1 ? c : 0];
    }
    return 1;
}

/* Mean and deviation of each channel over the images to learn from. */
static void measure_preprocessing(session *s)
{
    const kd_data *d = &s->fit.data;
    const size_t plane = (size_t)d->height * (size_t)d->width;
    int c, i;
    size_t p;
    for (c = 0; c < d->channels && !s->images.are_texts; ++c) {
        double sum = 0, squares = 0, n = (double)d->count * (double)plane, mean, variance;
        for (i = 0; i < d->count; ++i) {
            const uint8_t *pixels = s->fit.pixels + ((size_t)i * (size_t)d->channels + (size_t)c) * plane;
            for (p = 0; p < plane; ++p) sum += pixels[p], squares += (double)pixels[p] * pixels[p];
        }
        mean = sum / n;
        variance = squares / n - mean * mean;
        s->fit.data.mean[c] = (float)(mean / 255);
        s->fit.data.std[c] = variance > 1 ? (float)(sqrt(variance) / 255) : 1;
    }
}

/* A teacher that was trained elsewhere knows what it was fed; if it does not, that has to be said. */
static int take_preprocessing(session *s, const kd_model *teacher)
{
    float mean[KD_MAX_CHANNELS], std[KD_MAX_CHANNELS];
    const int known = kd_model_preprocessing(teacher, mean, std);
    int c;
    if (known && s->o.mean.count > 0)
        return complain("%s says how its images were normalised; leave out --mean and --std", s->o.teacher);
    s->r.teacher_guessed = !known && s->o.mean.count == 0 && !s->images.are_texts;
    for (c = 0; c < s->fit.data.channels && known; ++c) {
        s->fit.data.mean[c] = mean[c < known ? c : 0];
        s->fit.data.std[c] = std[c < known ? c : 0];
    }
    return 1;
}

/* With --class-weights auto, the inverse of each class's share of the labels to learn from, so that they are 1 on
   average over the images. */
static int weights_of_classes(session *s)
{
    const int classes = s->images.class_count;
    const part *fit = &s->fit;
    int i, seen = 0;
    if (strcmp(s->o.class_weights, "none") == 0) return 1;
    if (strcmp(s->o.class_weights, "auto") != 0)
        return complain("--class-weights can be auto or none, got \"%s\"", s->o.class_weights);
    s->class_weights = (float *)calloc((size_t)classes, sizeof *s->class_weights);
    if (!s->class_weights) return complain("there is not enough memory for the weights of the classes");
    for (i = 0; i < fit->data.count; ++i) s->class_weights[fit->labels[i]] += 1;
    for (i = 0; i < classes; ++i) seen += s->class_weights[i] > 0;
    for (i = 0; i < classes; ++i) {
        if (s->class_weights[i] > 0)
            s->class_weights[i] = (float)fit->data.count / ((float)seen * s->class_weights[i]);
    }
    return 1;
}

static void share_preprocessing(session *s)
{
    memcpy(s->all.data.mean, s->fit.data.mean, sizeof s->all.data.mean);
    memcpy(s->all.data.std, s->fit.data.std, sizeof s->all.data.std);
    memcpy(s->held.data.mean, s->fit.data.mean, sizeof s->held.data.mean);
    memcpy(s->held.data.std, s->fit.data.std, sizeof s->held.data.std);
    memcpy(s->test.mean, s->fit.data.mean, sizeof s->test.mean);
    memcpy(s->test.std, s->fit.data.std, sizeof s->test.std);
}
