/* models.h - distill's teacher and student: from model lines, files, weights and logits. A part of distill.c. */

/* ---- the models ------------------------------------------------------------------------------------------ */

static int ends_with(const char *text, const char *end)
{
    const size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

/* Puts the size of the images in front of a line, or of what a name stands for, that does not begin with one. */
static int complete_spec(const session *s, const char *line, char *spec)
{
    const images *im = &s->images;
    const int has_size = (line[0] >= '0' && line[0] <= '9') || strncmp(line, "tokens ", 7) == 0;
    char named[MAX_SPEC];
    int length;
    if (preset_line(im, line, named)) line = named;
    length = has_size        ? snprintf(spec, MAX_SPEC, "%s", line)
             : im->are_texts ? snprintf(spec, MAX_SPEC, "tokens %d: %s", im->channels, line)
                             : snprintf(spec, MAX_SPEC, "%dx%dx%d: %s", im->channels, im->height, im->width, line);
    return length < MAX_SPEC ? 1 : complain("a model line may have up to %d letters", (int)MAX_SPEC);
}

/* A single word that is no layer was meant to be a name, of a model or of a file. */
static int complain_of_name(const char *who, const char *name)
{
    char known[256];
    size_t at = 0;
    int i;
    for (i = 0; i < KD__COUNT(preset_table); ++i)
        at += (size_t)snprintf(known + at, sizeof known - at, "%s%s", i ? ", " : "", preset_table[i].name);
    return complain("the %s: there is no model \"%s\", nor a file of that name; there are %s, or a model line", who,
                    name, known);
}

static kd_model *create_any(session *s, const char *who, const char *spec, uint64_t seed)
{
    kd_model *m;
    const kd_result result = kd_model_create(s->kd, spec, seed, &m);
    const char *word = strchr(spec, ':');
    word = word ? word + 1 + strspn(word + 1, " ") : spec;
    if (result == KD_ERR_SPEC && *word && !strpbrk(word, " ,:(=") && strstr(kd_error(s->kd), "there is no layer"))
        (void)complain_of_name(who, word);
    else if (result == KD_ERR_SPEC) /* its columns count from the size, which may not be what was typed */
        (void)complain("the %s is read as \"%s\": %s", who, spec, kd_error(s->kd));
    else if (result != KD_OK)
        (void)kd_complain(s, who);
    return result == KD_OK ? m : NULL;
}

static int check_input(const session *s, const char *who, const kd_model *m)
{
    const images *im = &s->images;
    int c, h, w;
    kd_model_input(m, &c, &h, &w);
    if (im->are_texts != (strncmp(kd_model_spec(m), "tokens ", 7) == 0))
        return complain("the %s is for %s", who,
                        im->are_texts ? "pixels, and these are texts" : "texts, as tokens");
    if (c * h * w == im->channels * im->height * im->width) return 1;
    if (im->are_texts)
        return complain("the %s reads %d bytes of a text, but %d are kept here; --length %d may help", who, c,
                        im->channels, c);
    return complain("the %s takes %dx%dx%d, but the images are %dx%dx%d; --size or --channels may help", who, c, h,
                    w, im->channels, im->height, im->width);
}

static kd_model *create_model(session *s, const char *who, const char *spec, uint64_t seed)
{
    const images *im = &s->images;
    kd_model *m = create_any(s, who, spec, seed);
    if (!m) return NULL;
    if (!check_input(s, who, m))
        ;
    else if (kd_model_outputs(m) != im->class_count)
        (void)complain("the %s has %d outputs, but the images have %d classes: let its last layer be dense %d", who,
                       kd_model_outputs(m), im->class_count, im->class_count);
    else if (kd_model_set_classes(m, (const char *const *)im->class_names, im->class_count) != KD_OK ||
             know_framing(s, m) != KD_OK)
        (void)kd_complain(s, who);
    else
        return m;
    kd_model_destroy(m);
    return NULL;
}

/* The same line with another number of outputs, where its last layer is a dense one. */
static int respec(const char *spec, int from, int to, char *out)
{
    const char *last = strchr(spec, ':'), *c;
    char old[32];
    size_t length;
    int depth = 0;
    for (c = last; c && *c; ++c) {
        depth += (*c == '(') - (*c == ')');
        if (*c == ',' && depth == 0) last = c;
    }
    length = (size_t)snprintf(old, sizeof old, "dense %d", from);
    c = last ? strstr(last, old) : NULL;
    if (!c || (c[length] && c[length] != ' ')) return 0;
    return snprintf(out, MAX_SPEC, "%.*sdense %d%s", (int)(c - spec), spec, to, c + length) < MAX_SPEC;
}

/* Tensors of the wide model, of the last layer the rows of the columns. */
static int copy_columns(session *s, const kd_model *wide, kd_model *narrow)
{
    const int classes = s->images.class_count, outputs = kd_model_outputs(wide), count = kd_model_tensors(wide);
    kd_tensor_info from, to, last;
    int i, c, good = kd_model_tensor_info(wide, count - 1, &last) == KD_OK;
    const size_t layer = good ? (size_t)(strrchr(last.name, '.') - last.name) + 1 : 0; /* letters of its name */
    for (i = 0; i < count && good; ++i) {
        float *values, *taken;
        good = kd_model_tensor_info(wide, i, &from) == KD_OK && kd_model_tensor_info(narrow, i, &to) == KD_OK;
        values = good ? (float *)images_memory((size_t)from.count, sizeof *values) : NULL;
        taken = good ? (float *)images_memory((size_t)to.count, sizeof *taken) : NULL;
        good = values && taken && kd_model_get_tensor(wide, from.name, values, from.count) == KD_OK;
        if (good && strncmp(from.name, last.name, layer) == 0) {
            const size_t length = (size_t)(from.count / outputs);
            for (c = 0; c < classes; ++c)
                memcpy(taken + (size_t)c * length, values + (size_t)s->columns[c] * length, length * sizeof *taken);
        } else if (good) {
            memcpy(taken, values, (size_t)to.count * sizeof *taken);
        }
        good = good && kd_model_set_tensor(narrow, to.name, taken, to.count) == KD_OK;
        free(values);
        free(taken);
    }
    return good || complain("there is not enough memory for the teacher's columns");
}

/* The outputs of s->teacher become the classes of the images, as --teacher-columns says. */
static int take_columns(session *s)
{
    const int outputs = kd_model_outputs(s->teacher), classes = s->images.class_count;
    float mean[KD_MAX_CHANNELS], std[KD_MAX_CHANNELS];
    char line[MAX_SPEC];
    kd_model *narrow;
    if (!*s->o.teacher_columns && outputs == classes) return 1;
    if (!columns_find(s, outputs)) return 0;
    if (!respec(kd_model_spec(s->teacher), outputs, classes, line))
        return complain("--teacher-columns needs a teacher whose last layer is dense %d", outputs);
    narrow = create_any(s, "teacher", line, 1);
    if (!narrow) return 0;
    if (!copy_columns(s, s->teacher, narrow) ||
        (kd_model_preprocessing(s->teacher, mean, std) && kd_model_set_preprocessing(narrow, mean, std) != KD_OK) ||
        kd_model_set_framing(narrow, kd_model_framing(s->teacher)) != KD_OK) {
        kd_model_destroy(narrow);
        return 0;
    }
    kd_model_destroy(s->teacher);
    s->teacher = narrow;
    return 1;
}

/* Class names, where the file has them, must be those of the images: another order would teach nonsense. Its
   columns are told where they are all there. */
static int check_classes(const session *s)
{
    const images *im = &s->images;
    const int outputs = kd_model_outputs(s->teacher);
    char columns[1024];
    size_t at = 0;
    int i, j, wrong = -1;
    columns[0] = 0;
    for (i = 0; i < im->class_count; ++i) {
        const char *name = i < outputs ? kd_model_class(s->teacher, i) : NULL;
        if (wrong < 0 && name && strcmp(name, im->class_names[i]) != 0) wrong = i;
        for (j = 0;
             j < outputs && (!(name = kd_model_class(s->teacher, j)) || strcmp(name, im->class_names[i]) != 0);
             ++j) {}
        if (at < sizeof columns - 16 && j < outputs)
            at += (size_t)snprintf(columns + at, sizeof columns - at, "%s%d", i ? "," : "", j);
        else
            at = sizeof columns;
    }
    if (wrong < 0 || *s->o.teacher_columns) return 1;
    return complain("the teacher's class %d is \"%s\", but that of the images is \"%s\"%s%s", wrong,
                    kd_model_class(s->teacher, wrong), im->class_names[wrong],
                    at < sizeof columns ? "; give --teacher-columns " : "", at < sizeof columns ? columns : "");
}

/* Says why a file could not be loaded, and what to do where it is of a kind that people have. */
static int complain_of_weights(const session *s, const char *who, const char *path)
{
    const file_kind found = kind_of_file(path);
    if (found == FILE_ONNX)
        return complain(
            "%s: %s; or give its logits as --teacher: run it over the images in the order of --write-order "
            "and save its outputs as .npy",
            who, kd_error(s->kd));
    if (found != FILE_SAFETENSORS && found != FILE_UNKNOWN && found != FILE_NPZ)
        return complain_of_kind(who, path, 1);
    if (strstr(kd_error(s->kd), "no model line"))
        return complain("%s: %s holds weights but no model line; give both: --teacher \"SPEC\" --teacher-weights "
                        "%s (kept logits "
                        "are read from .npy files)",
                        who, path, path);
    return kd_complain(s, who);
}

/* A file that knows its layers: safetensors of kd.h, or ONNX. */
static kd_result load_known(session *s, const char *path, kd_model **out)
{
    return kind_of_file(path) == FILE_ONNX ? kd_model_load_onnx(s->kd, path, NULL, out)
                                           : kd_model_load(s->kd, path, out);
}

/* Of a file that knows its layers, classes and preprocessing, none may be ignored. */
static int check_weights(session *s)
{
    const char *path = s->o.teacher_weights;
    kd_model *whole;
    if (kind_of_file(path) == FILE_NPZ) return 1; /* in which there is nothing but weights */
    if (load_known(s, path, &whole) == KD_OK) {
        kd_model_destroy(whole);
        return complain("%s has a model line of its own, and knows its classes and images; give it as --teacher",
                        path);
    }
    return strstr(kd_error(s->kd), "no model line") ? 1 : complain_of_weights(s, "the teacher's weights", path);
}

/* Whether --teacher is a file, or was meant to be one: a model line has none of these ends. */
static int teacher_is_file(const session *s)
{
    static const char *const ends[] = {".npy",  ".npz", ".safetensors", ".pt", ".pth",
                                       ".onnx", ".h5",  ".keras",       ".bin"};
    char room[MAX_PATH];
    const char *file = file_of(s->o.teacher, room, sizeof room);
    int i;
    for (i = 0; i < KD__COUNT(ends) && !ends_with(file, ends[i]); ++i) {}
    return *s->o.teacher && (i < KD__COUNT(ends) || kind_of_file(s->o.teacher) != FILE_NONE);
}

/* The files behind the first: all are of models that can be run. */
static int load_more_teachers(session *s)
{
    const texts *given = &s->o.teachers_given;
    int i;
    if (given->count < 2) return 1;
    if (s->o.teachers > 1)
        return complain("--teachers trains several of one model line; --teacher is given %d times", given->count);
    for (i = 0; i < given->count; ++i) {
        const char *path = given->values[i];
        if (kind_of_file(path) == FILE_NONE || is_array_file(path))
            return complain("several teachers are files of trained models, .safetensors or .onnx, but --teacher is "
                            "\"%s\"",
                            path);
        if (i == 0) continue;
        if (load_known(s, path, &s->more[s->more_count]) != KD_OK) return complain_of_weights(s, "a teacher", path);
        ++s->more_count;
    }
    return 1;
}

/* All that can be known of the teacher's files before an image is read. */
static int inspect_teacher(session *s)
{
    const options *o = &s->o;
    int is_file, is_rows;
    if (!*o->teacher && kind_of_file(o->teacher_weights) == FILE_ONNX) { /* which needs no model line */
        s->o.teacher = o->teacher_weights;
        s->o.teacher_weights = "";
    }
    is_file = teacher_is_file(s);
    is_rows = is_file && is_array_file(o->teacher);
    if (*o->teacher_weights && (!*o->teacher || is_file))
        return complain("--teacher-weights goes with a model line as --teacher");
    if (*o->teacher_test && !is_rows && !(is_file && ends_with(o->teacher, ".npy")))
        return complain("--teacher-test goes with a .npy --teacher");
    if (*o->teacher_names && !is_rows && !(is_file && ends_with(o->teacher, ".npy")))
        return complain("--teacher-names goes with a .npy --teacher");
    if (*o->teacher_check && (is_rows || (!is_file && !*o->teacher_weights)))
        return complain("--teacher-check goes with a teacher that has weights: a .safetensors or .onnx file, or a "
                        "model line and "
                        "--teacher-weights");
    if (*o->teacher_columns && !is_file && !*o->teacher_weights)
        return complain(
            "--teacher-columns goes with a teacher from elsewhere; one that is trained here has the classes "
            "of the images");
    if (!columns_load(s)) return 0;
    if (is_rows || (is_file && ends_with(o->teacher, ".npy"))) {
        if (s->augment.shift || s->augment.flip || s->augment.rotate > 0 || s->augment.brightness > 0 ||
            s->augment.contrast > 0 || s->augment.saturation > 0 || s->augment.cutout || s->augment.mixup > 0)
            return complain(
                "--augment needs a teacher that can be run: logits in a file belong to the images as they are");
        if (!rows_load(s, "the teacher's logits", o->teacher, o->teacher_names, &s->rows_train)) return 0;
        if (*o->teacher_test && !rows_load(s, "the teacher's test logits", o->teacher_test, "", &s->rows_test))
            return 0;
    } else if (is_file && load_known(s, o->teacher, &s->teacher) != KD_OK) {
        return complain_of_weights(s, "the teacher", o->teacher);
    }
    if (!load_more_teachers(s)) return 0;
    if (*o->teacher_weights && !check_weights(s)) return 0;
    return !*o->teacher_check || rows_load(s, "--teacher-check", o->teacher_check, "", &s->rows_check);
}

static int part_take_logits(session *s, part *p, const float *all)
{
    const size_t classes = (size_t)s->images.class_count;
    int i;
    p->teacher_logits = (float *)images_memory((size_t)p->data.count * classes + 1, sizeof(float));
    if (!p->teacher_logits) return complain("there is not enough memory for the teacher's logits");
    for (i = 0; i < p->data.count; ++i)
        memcpy(p->teacher_logits + (size_t)i * classes, all + (size_t)p->origin[i] * classes,
               classes * sizeof(float));
    return 1;
}

static int take_teacher_logits(session *s)
{
    const images *im = &s->images;
    const int count = learned_from(im);
    int32_t *labels = (int32_t *)images_memory((size_t)count + 1, sizeof *labels);
    float *all;
    int done, i;
    if (!labels) return complain("there is not enough memory for the teacher's logits");
    for (i = 0; i < count; ++i) labels[i] = label_of(im, i);
    if (s->rows_test.rows && !s->rows_test.names && is_one_folder(im)) {
        free(labels);
        return complain("--teacher-test: the test images are taken out of the folder, and so are their rows of "
                        "--teacher; leave it out");
    }
    all = rows_take(s, &s->rows_train, 0);
    done = all && check_teacher(s, all, labels, count, &s->rows_train) && part_take_logits(s, &s->fit, all) &&
           part_take_logits(s, &s->held, all);
    free(labels);
    free(all);
    if (!done || (!s->rows_test.rows && !is_one_folder(im))) return done;
    s->teacher_test = rows_take(s, s->rows_test.rows ? &s->rows_test : &s->rows_train, 1);
    return s->teacher_test != NULL;
}

/* What a teacher that was not trained here makes of training images: a few thousand, evenly taken. */
static int check_by_labels(session *s)
{
    enum { MOST = 4000 };
    const int classes = s->images.class_count, step = 1 + s->fit.data.count / MOST,
              count = s->fit.data.count / step;
    const size_t image = (size_t)s->fit.data.channels * (size_t)s->fit.data.height * (size_t)s->fit.data.width;
    uint8_t *pixels = (uint8_t *)images_memory((size_t)count + 1, image);
    int32_t *labels = (int32_t *)images_memory((size_t)count + 1, sizeof *labels);
    float *logits = (float *)images_memory((size_t)count * (size_t)classes + 1, sizeof *logits);
    kd_evaluate_desc d = kd_evaluate_defaults();
    kd_data data = s->fit.data;
    kd_metrics metrics;
    int i, good = 0;
    for (i = 0; i < count && pixels && labels; ++i) {
        memcpy(pixels + (size_t)i * image, s->fit.pixels + (size_t)i * (size_t)step * image, image);
        labels[i] = s->fit.labels[i * step];
    }
    data.pixels = pixels;
    data.labels = labels;
    data.count = count;
    d.logits = logits;
    if (!pixels || !labels || !logits)
        (void)complain("there is not enough memory to check the teacher");
    else if (kd_evaluate_with(s->teacher, &data, &d, &metrics) != KD_OK)
        (void)kd_complain(s, "checking the teacher");
    else
        good = check_teacher(s, logits, labels, count, NULL);
    free(pixels);
    free(labels);
    free(logits);
    return good;
}

/* Whether one of several teachers fits the images; asked with it as s->teacher. */
static int check_teacher_fits(session *s)
{
    const int outputs = kd_model_outputs(s->teacher), classes = s->images.class_count;
    if (!check_input(s, "teacher", s->teacher) || !check_classes(s)) return 0;
    return outputs == classes ||
           complain("one of the teachers has %d outputs, but there are %d classes; of several, all must have these",
                    outputs, classes);
}

/* Asks about each of the teachers that come behind the first, as if it were the only one. */
static int check_each(session *s, int (*check)(session *s))
{
    kd_model *first = s->teacher;
    int i, good = 1;
    for (i = 0; good && i < s->more_count; ++i) {
        s->teacher = s->more[i];
        good = check(s);
    }
    s->teacher = first;
    return good;
}

/* All see the same images, so these must be normalised alike for all. */
static int check_preprocessing(session *s)
{
    float mean[KD_MAX_CHANNELS], std[KD_MAX_CHANNELS];
    const int known = kd_model_preprocessing(s->teacher, mean, std);
    int c;
    for (c = 0; c < s->fit.data.channels && known; ++c) {
        const int from = c < known ? c : 0;
        if (fabs((double)(mean[from] - s->fit.data.mean[c])) > 1e-4 ||
            fabs((double)(std[from] - s->fit.data.std[c])) > 1e-4)
            return complain("the teachers' images were normalised in different ways: channel %d by mean %g and "
                            "deviation %g, and for another one by %g and %g",
                            c, (double)s->fit.data.mean[c], (double)s->fit.data.std[c], (double)mean[from],
                            (double)std[from]);
    }
    return 1;
}

/* Several teachers, as they are when everything is read. */
static int open_more_teachers(session *s)
{
    int i;
    if (!check_each(s, check_teacher_fits) || !check_each(s, check_preprocessing)) return 0;
    s->averaged[0] = s->teacher;
    for (i = 0; i < s->more_count; ++i) {
        s->averaged[i + 1] = s->more[i];
        s->r.teacher.parameters += kd_model_parameters(s->more[i]);
        s->r.teacher.macs += kd_model_macs(s->more[i]);
    }
    return 1;
}

/* A teacher from elsewhere, before anything is trained. */
static int check_known_teacher(session *s)
{
    if (!s->teacher || s->r.teacher_trained) return 1;
    return check_by_labels(s) && check_each(s, check_by_labels) && (!s->rows_check.path || check_reference(s));
}

/* What a share of the channels is taken from: by their scales where there is batch normalisation, else by weights;
   of every layer the same share, so that the layers of all seeds are alike. */
static int prune_student(session *s, const kd_model *m, kd_model **out)
{
    kd_prune_desc d = kd_prune_defaults(strstr(kd_model_spec(m), "batchnorm") ? KD_PRUNE_SCALE : KD_PRUNE_L2);
    d.by_layer = 1;
    d.amount = (float)s->o.prune;
    return kd_model_prune(m, &d, out) == KD_OK ? 1 : kd_complain(s, "--prune");
}

/* With --prune the student is what is left of it. */
static int prune_spec(session *s)
{
    kd_model *large, *small = NULL;
    int good;
    if (!(s->o.prune > 0)) return 1;
    if (s->r.candidate_count)
        return complain("--prune takes channels out of --student, and --fit chooses a student: give one of them");
    memcpy(s->larger_spec, s->student_spec, sizeof s->larger_spec);
    large = create_model(s, "student", s->larger_spec, 1);
    good = large && prune_student(s, large, &small);
    if (good) snprintf(s->student_spec, sizeof s->student_spec, "%s", kd_model_spec(small));
    kd_model_destroy(large);
    kd_model_destroy(small);
    return good;
}

/* Everything that can be wrong with the models is found here, before anything is trained. */
static int open_models(session *s)
{
    char line[MAX_SPEC];
    const char *teacher = s->o.teacher, *student = s->o.student;
    kd_model *m;
    if (s->r.candidate_count) {
        student = s->r.candidates[0].spec; /* until one is chosen */
    } else if (!*student) {
        student_line(&s->images, line);
        student = line;
    }
    if (!complete_spec(s, student, s->student_spec) || !prune_spec(s)) return 0;
    m = create_model(s, "student", s->student_spec, 1);
    if (!m) return 0;
    s->r.student.parameters = kd_model_parameters(m);
    s->r.student.macs = kd_model_macs(m);
    s->r.student.spec = s->student_spec;
    s->prompts = kd_model_prompt(m);
    kd_model_destroy(m);
    if (s->prompts && s->prompts != s->images.class_count)
        return complain(
            "the student takes a prompt of %d numbers, but is given what the teacher says of %d classes",
            s->prompts, s->images.class_count);
    if (s->rows_train.path) return take_teacher_logits(s);
    if (s->teacher) {
        if (!check_input(s, "teacher", s->teacher) || !check_classes(s) || !take_columns(s)) return 0;
        snprintf(s->teacher_spec, sizeof s->teacher_spec, "%s", kd_model_spec(s->teacher));
    } else {
        if (!*teacher) {
            teacher_line(&s->images, line);
            teacher = line;
        }
        if (!complete_spec(s, teacher, s->teacher_spec)) return 0;
        s->r.teacher_trained = !*s->o.teacher_weights;
        s->teacher = s->r.teacher_trained ? create_model(s, "teacher", s->teacher_spec, (uint64_t)s->o.first_seed)
                                          : create_any(s, "teacher", s->teacher_spec, (uint64_t)s->o.first_seed);
        if (!s->teacher) return 0;
        if (*s->o.teacher_weights) {
            if (!check_input(s, "teacher", s->teacher)) return 0;
            s->telling = 1;
            if (kd_model_load_weights(s->teacher, s->o.teacher_weights) != KD_OK)
                return complain_of_weights(s, "the teacher's weights", s->o.teacher_weights);
            s->telling = 0;
            if (!take_columns(s)) return 0;
            snprintf(s->teacher_spec, sizeof s->teacher_spec, "%s", kd_model_spec(s->teacher));
        }
    }
    if (!s->r.teacher_trained && !take_preprocessing(s, s->teacher)) return 0;
    s->r.teacher.parameters = s->o.teachers * kd_model_parameters(s->teacher); /* of all of them together */
    s->r.teacher.macs = s->o.teachers * kd_model_macs(s->teacher);
    s->r.teacher.spec = s->teacher_spec;
    return open_more_teachers(s);
}

static int list_layers(const char *who, const kd_model *m)
{
    const size_t length = kd_model_describe(m, NULL, 0);
    char *text = (char *)malloc(length + 1);
    if (!text) return complain("there is not enough memory for the layers of the %s", who);
    (void)kd_model_describe(m, text, length + 1);
    printf("\nThe %s: %s\n%s", who, kd_model_spec(m), text);
    free(text);
    return 1;
}

/* For --show-model. */
static int show_model(session *s)
{
    char spec[MAX_SPEC];
    kd_model *m = complete_spec(s, s->o.show_model, spec) ? create_model(s, "model", spec, 1) : NULL;
    const int done = m && list_layers(s->o.show_model, m);
    kd_model_destroy(m);
    return done;
}

/* For --list-layers. */
static int list_models(session *s)
{
    kd_model *student = create_model(s, "student", s->student_spec, 1);
    int done = student != NULL;
    if (!s->teacher) printf("\nThe teacher: logits in %s, without layers\n", s->o.teacher);
    if (done && s->teacher) done = list_layers("teacher", s->teacher);
    if (done) done = list_layers("student", student);
    kd_model_destroy(student);
    return done;
}
