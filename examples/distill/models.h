/* models.h - distill's teacher and student: from model lines, files, weights and logits. A part of distill.c. */

/* ---- the models ------------------------------------------------------------------------------------------ */

static int ends_with(const char *text, const char *end)
{
    const size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

/* Puts the size of the images in front of a line that does not begin with one. */
static int complete_spec(const session *s, const char *line, char *spec)
{
    const images *im = &s->images;
    const int has_size = line[0] >= '0' && line[0] <= '9';
    const int length = has_size
                           ? snprintf(spec, MAX_SPEC, "%s", line)
                           : snprintf(spec, MAX_SPEC, "%dx%dx%d: %s", im->channels, im->height, im->width, line);
    return length < MAX_SPEC ? 1 : complain("a model line may have up to %d letters", (int)MAX_SPEC);
}

static kd_model *create_model(session *s, const char *who, const char *spec, uint64_t seed)
{
    const images *im = &s->images;
    kd_model *m;
    int c, h, w;
    const kd_result result = kd_model_create(s->kd, spec, seed, &m);
    if (result == KD_ERR_SPEC) /* its columns count from the size, which may not be what was typed */
        (void)complain("the %s is read as \"%s\": %s", who, spec, kd_error(s->kd));
    else if (result != KD_OK)
        (void)kd_complain(s, who);
    if (result != KD_OK) return NULL;
    kd_model_input(m, &c, &h, &w);
    if (c * h * w != im->channels * im->height * im->width)
        (void)complain("the %s takes %dx%dx%d, but the images are %dx%dx%d; --size or --channels may help", who, c,
                       h, w, im->channels, im->height, im->width);
    else if (kd_model_outputs(m) != im->class_count)
        (void)complain("the %s has %d outputs, but the images have %d classes: let its last layer be dense %d", who,
                       kd_model_outputs(m), im->class_count, im->class_count);
    else if (kd_model_set_classes(m, (const char *const *)im->class_names, im->class_count) != KD_OK)
        (void)kd_complain(s, who);
    else
        return m;
    kd_model_destroy(m);
    return NULL;
}

/* Class names, where the file has them, must be those of the images: another order would teach nonsense. */
static int check_classes(const session *s)
{
    int i;
    for (i = 0; i < s->images.class_count; ++i) {
        const char *name = kd_model_class(s->teacher, i);
        if (name && strcmp(name, s->images.class_names[i]) != 0)
            return complain("the teacher's class %d is \"%s\", but that of the images is \"%s\"", i, name,
                            s->images.class_names[i]);
    }
    return 1;
}

/* Whether it is the archive that torch.save writes. */
static int is_torch_archive(const char *path)
{
    char first[4] = {0};
    FILE *f = fopen(path, "rb");
    const int found = f && fread(first, 1, sizeof first, f) == sizeof first && memcmp(first, "PK\3\4", 4) == 0;
    if (f) fclose(f);
    return found;
}

/* Says why a file could not be loaded, and what to do where it is of a kind that people have. */
static int complain_of_weights(const session *s, const char *who, const char *path)
{
    if (is_torch_archive(path))
        return complain("%s: %s is no safetensors file but one of torch.save; write it with "
                        "safetensors.torch.save_file",
                        who, path);
    if (strstr(kd_error(s->kd), "no model line"))
        return complain(
            "%s: %s holds weights but no model line; give both: --teacher \"SPEC\" --teacher-weights %s", who, path,
            path);
    return kd_complain(s, who);
}

static int load_teacher(session *s, const char *path)
{
    int c, h, w;
    if (kd_model_load(s->kd, path, &s->teacher) != KD_OK) return complain_of_weights(s, "the teacher", path);
    kd_model_input(s->teacher, &c, &h, &w);
    if (c * h * w != s->images.channels * s->images.height * s->images.width)
        return complain("the teacher takes %dx%dx%d, but the images are %dx%dx%d; --size or --channels may help", c,
                        h, w, s->images.channels, s->images.height, s->images.width);
    if (kd_model_outputs(s->teacher) != s->images.class_count)
        return complain("the teacher knows %d classes, but the images have %d", kd_model_outputs(s->teacher),
                        s->images.class_count);
    return check_classes(s);
}

/* Of a file that knows its layers, classes and preprocessing, none may be ignored. */
static int load_weights(session *s)
{
    const char *path = s->o.teacher_weights;
    kd_model *whole;
    if (kd_model_load(s->kd, path, &whole) == KD_OK) {
        kd_model_destroy(whole);
        return complain("%s has a model line of its own, and knows its classes and images; give it as --teacher",
                        path);
    }
    return kd_model_load_weights(s->teacher, path) == KD_OK ? 1
                                                            : complain_of_weights(s, "the teacher's weights", path);
}

/* Logits from a .npy file, a row for each of `count` images. */
static float *load_logits(session *s, const char *path, int count, const char *what)
{
    kd_array array;
    float *rows = NULL;
    int64_t finite = 0;
    if (kd_npy_read(s->kd, path, &array) != KD_OK) {
        (void)kd_complain(s, "the teacher's logits");
        return NULL;
    }
    while (finite < array.count && isfinite(array.values[finite])) ++finite;
    if (array.rank != 2 || array.shape[0] != count || array.shape[1] != s->images.class_count)
        (void)complain(
            "%s must have shape (%d, %d), a row for each %s image, but it is %lld-dimensional with %lld rows of "
            "%lld",
            path, count, s->images.class_count, what, (long long)array.rank,
            (long long)(array.rank > 0 ? array.shape[0] : 0), (long long)(array.rank > 1 ? array.shape[1] : 0));
    else if (finite < array.count)
        (void)complain("%s holds a NaN or an infinity in row %lld", path,
                       (long long)(finite / s->images.class_count));
    else
        rows = (float *)images_memory((size_t)array.count, sizeof *rows);
    if (rows) memcpy(rows, array.values, (size_t)array.count * sizeof *rows);
    kd_array_free(s->kd, &array);
    return rows;
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

static int load_teacher_logits(session *s)
{
    float *all;
    int done;
    if (s->augment.shift || s->augment.flip || s->augment.rotate > 0 || s->augment.brightness > 0 ||
        s->augment.contrast > 0 || s->augment.saturation > 0 || s->augment.cutout || s->augment.mixup > 0)
        return complain(
            "--augment needs a teacher that can be run: logits in a file belong to the images as they are");
    all = load_logits(s, s->o.teacher, s->images.train.count + s->images.validation.count, "training");
    if (!all) return 0;
    done = part_take_logits(s, &s->fit, all) && part_take_logits(s, &s->held, all);
    free(all);
    if (done && *s->o.teacher_test) {
        s->teacher_test = load_logits(s, s->o.teacher_test, s->images.test.count, "test");
        done = s->teacher_test != NULL;
    }
    return done;
}

/* Everything that can be wrong with the models is found here, before anything is trained. */
static int open_models(session *s)
{
    char line[MAX_SPEC];
    const char *teacher = s->o.teacher, *student = s->o.student;
    kd_model *m;
    if (!*student) {
        student_line(&s->images, line);
        student = line;
    }
    if (!complete_spec(s, student, s->student_spec)) return 0;
    m = create_model(s, "student", s->student_spec, 1);
    if (!m) return 0;
    s->r.student.parameters = kd_model_parameters(m);
    s->r.student.macs = kd_model_macs(m);
    s->r.student.spec = s->student_spec;
    kd_model_destroy(m);
    if (*s->o.teacher_test && !ends_with(teacher, ".npy"))
        return complain("--teacher-test goes with a .npy --teacher");
    if (*s->o.teacher_weights && (!*teacher || ends_with(teacher, ".npy") || ends_with(teacher, ".safetensors")))
        return complain("--teacher-weights goes with a model line as --teacher");
    if (ends_with(teacher, ".npy")) return load_teacher_logits(s);
    if (ends_with(teacher, ".safetensors")) {
        if (!load_teacher(s, teacher)) return 0;
        snprintf(s->teacher_spec, sizeof s->teacher_spec, "%s", kd_model_spec(s->teacher));
    } else if (is_torch_archive(teacher)) {
        return complain_of_weights(s, "the teacher", teacher);
    } else {
        if (!*teacher) {
            teacher_line(&s->images, line);
            teacher = line;
        }
        if (!complete_spec(s, teacher, s->teacher_spec)) return 0;
        s->teacher = create_model(s, "teacher", s->teacher_spec, (uint64_t)s->o.first_seed);
        if (!s->teacher) return 0;
        s->r.teacher_trained = !*s->o.teacher_weights;
        if (*s->o.teacher_weights && !load_weights(s)) return 0;
    }
    if (!s->r.teacher_trained && !take_preprocessing(s, s->teacher)) return 0;
    s->r.teacher.parameters = kd_model_parameters(s->teacher);
    s->r.teacher.macs = kd_model_macs(s->teacher);
    s->r.teacher.spec = s->teacher_spec;
    return 1;
}
