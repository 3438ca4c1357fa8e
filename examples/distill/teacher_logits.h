/* teacher_logits.h - distill's teachers from elsewhere: what a file holds, which image each row of kept logits is
   about, and whether they can be a teacher's of these images at all. A part of distill.c. */

/* ---- what a file holds ----------------------------------------------------------------------------------- */

typedef enum file_kind {
    FILE_NONE, /* there is no such file */
    FILE_UNKNOWN,
    FILE_NPY,
    FILE_SAFETENSORS,
    FILE_TORCH,
    FILE_NPZ,
    FILE_ONNX,
    FILE_HDF5
} file_kind;

static file_kind kind_of_zip(const unsigned char *first, size_t size)
{
    char name[65];
    size_t length = (size_t)first[26] | (size_t)first[27] << 8;
    if (length > size - 30) length = size - 30;
    if (length > sizeof name - 1) length = sizeof name - 1;
    memcpy(name, first + 30, length);
    name[length] = 0;
    return strstr(name, ".npy") ? FILE_NPZ : FILE_TORCH;
}

/* The file of a path that may name an array in it, as in "logits.npz:train". */
static const char *file_of(const char *path, char *file, size_t room)
{
    const char *array = kd__npz_wanted(path);
    if (!array) return path;
    snprintf(file, room, "%.*s", (int)(array - path) - 1, path);
    return file;
}

/* By its contents: names say little. */
static file_kind kind_of_file(const char *path)
{
    unsigned char first[96] = {0};
    char file[MAX_PATH];
    struct stat info;
    FILE *f;
    size_t size;
    path = file_of(path, file, sizeof file);
    if (stat(path, &info) != 0 || !S_ISREG(info.st_mode)) return FILE_NONE;
    f = fopen(path, "rb");
    size = f ? fread(first, 1, sizeof first, f) : 0;
    if (f) fclose(f);
    if (size >= 8 && memcmp(first, "\x93NUMPY", 6) == 0) return FILE_NPY;
    if (size >= 30 && memcmp(first, "PK\3\4", 4) == 0) return kind_of_zip(first, size);
    if (size >= 8 && memcmp(first, "\x89HDF", 4) == 0) return FILE_HDF5;
    if (size >= 9 && first[8] == '{' && first[7] == 0) return FILE_SAFETENSORS;
    if (size >= 2 && first[0] == 0x80 && first[1] >= 2 && first[1] <= 5) return FILE_TORCH; /* a pickle */
    if (size >= 4 && first[0] == 8 && first[1] > 0 && first[1] < 32 && (first[2] == 0x12 || first[2] == 0x3a))
        return FILE_ONNX;
    return FILE_UNKNOWN;
}

/* What people have, and how to make of it what can be read: `before` and `after` the name of the file. */
typedef struct advice {
    file_kind kind;
    const char *what;
    const char *before[2], *after[2]; /* of logits, of weights */
} advice;

static const advice advices[] = {
    {FILE_NPY,
     "one array",
     {"", "weights are read from .safetensors and .npz files; as kept logits, give "},
     {"", " as --teacher itself"}},
    {FILE_SAFETENSORS,
     "safetensors",
     {"write its logits with python3 -c \"import numpy; from safetensors.numpy import load_file; "
      "numpy.save('logits.npy', load_file('",
      ""},
     {"')['logits'])\"", ""}},
    {FILE_TORCH,
     "of torch.save",
     {"write it with python3 -c \"import numpy, torch; numpy.save('logits.npy', torch.load('",
      "write it with safetensors.torch.save_file: python3 -c \"import torch; from safetensors.torch import "
      "save_file; save_file(torch.load('"},
     {"', map_location='cpu').float().numpy())\"",
      "', map_location='cpu'), 'teacher.safetensors')\"; of a checkpoint its ['model'] or ['state_dict'], of a "
      "whole module its .state_dict(); kept logits are read from .npy files, as numpy.save writes them"}},
    {FILE_ONNX,
     "an ONNX model",
     {"run it over the images in the order of --write-order (onnxruntime.InferenceSession('", "give "},
     {"')) and numpy.save('logits.npy', its outputs)", " as --teacher itself, without a model line"}},
    {FILE_HDF5,
     "HDF5, of Keras perhaps",
     {"numpy.save('logits.npy', what the model in ",
      "give its logits as --teacher instead: numpy.save('logits.npy', what the model in "},
     {" says of the images in the order of --write-order)", " says of the images in the order of --write-order)"}}};

/* Of a file that cannot be read as what it was given for. */
static int complain_of_kind(const char *who, const char *path, int weights)
{
    const file_kind found = kind_of_file(path);
    int i;
    if (found == FILE_NONE) return complain("%s: there is no file %s", who, path);
    for (i = 0; i < KD__COUNT(advices); ++i) {
        const advice *a = &advices[i];
        if (a->kind == found)
            return complain("%s: %s is no %s file but %s; %s%s%s", who, path, weights ? "safetensors" : ".npy",
                            a->what, a->before[weights], path, a->after[weights]);
    }
    return complain("%s: %s is no %s file, nor anything else that is known", who, path,
                    weights ? "safetensors" : ".npy");
}

/* ---- kept logits, before any image is read --------------------------------------------------------------- */

/* The lines of a text file, NULL after a complaint. */
static char **read_lines(const char *who, const char *path, int *count)
{
    const char *why = "does not fit in memory";
    size_t size = 0, i, lines = 1;
    char *bytes = (char *)images_read(path, &size, &why), **all = NULL, *text;
    for (i = 0; bytes && i < size; ++i) lines += bytes[i] == '\n';
    text = bytes ? (char *)images_memory(size + 1, 1) : NULL;
    if (text) all = (char **)images_memory(lines, sizeof *all);
    if (all) memcpy(text, bytes, size);
    free(bytes);
    *count = 0;
    if (!all) {
        free(text);
        (void)complain("%s: %s %s", who, path, why);
        return NULL;
    }
    all[0] = text; /* the block that all lines lie in */
    for (i = 0; i < size;) {
        size_t end = i, last;
        while (end < size && text[end] != '\n') ++end;
        for (last = end; last > i && (text[last - 1] == '\r' || text[last - 1] == ' '); --last) {}
        text[last] = 0;
        text[end] = 0;
        all[(*count)++] = text + i;
        i = end + 1;
    }
    while (*count > 0 && !*all[*count - 1]) --*count;
    return all;
}

static void lines_free(char **lines)
{
    if (lines) free(lines[0]);
    free(lines);
}

static void rows_free(session *s, kept_rows *k)
{
    kd_array_free(s->kd, &k->array);
    lines_free(k->names);
    memset(k, 0, sizeof *k);
}

/* Probabilities are no logits: at a temperature their softmax is nearly even, and nothing is taught. Their
   logarithms are, up to a number that all columns of a row share. */
static int rows_check_scale(const session *s, const kept_rows *k)
{
    int probabilities = 1, logarithms = 1, i, j;
    double all = 1; /* what every row sums to: 1, or 100 where they are percent */
    for (i = 0; i < k->rows && (probabilities || logarithms); ++i) {
        const float *row = k->array.values + (size_t)i * (size_t)k->width;
        double sum = 0, powers = 0;
        for (j = 0; j < k->width; ++j) {
            sum += (double)row[j];
            powers += exp(fmin((double)row[j], 1));
            probabilities = probabilities && row[j] >= -1e-6f * (float)all;
            logarithms = logarithms && row[j] <= 1e-3f;
        }
        if (i == 0 && fabs(sum - 100) < 2) all = 100;
        probabilities = probabilities && fabs(sum - all) < 0.02 * all;
        logarithms = logarithms && fabs(powers - 1) < 0.02;
    }
    if (k->rows > 0 && probabilities && !s->o.teacher_unchecked)
        return complain(
            "%s holds probabilities (every row sums to %g), not logits: save what comes before the softmax, "
            "or numpy.log(numpy.maximum(p%s, 1e-7)); --teacher-unchecked takes them as they are",
            k->path, all, all > 1 ? " / 100" : "");
    if (k->rows > 0 && logarithms && !probabilities)
        say("  note: %s holds logarithms of probabilities, which do as logits\n", k->path);
    return 1;
}

/* "logits.npy" and the lines of "logits.txt", if that is there, or of a file of any name. */
static int rows_read_names(kept_rows *k, const char *names)
{
    char beside[MAX_PATH];
    struct stat info;
    char room[MAX_PATH];
    const char *file = file_of(k->path, room, sizeof room), *dot = strrchr(file, '.');
    int count;
    snprintf(beside, sizeof beside, "%.*s.txt", dot ? (int)(dot - file) : (int)strlen(file), file);
    if (!*names && (strlen(file) > MAX_PATH - 8 || stat(beside, &info) != 0)) return 1;
    if (!*names) names = beside;
    k->names = read_lines("the names of the rows", names, &count);
    if (!k->names) return 0;
    if (count == k->rows) return say("  the rows of %s are about the images that %s names\n", k->path, names) > 0;
    return complain("%s names %d images, but %s has %d rows; it must have a line for each row", names, count,
                    k->path, k->rows);
}

/* A file of arrays, .npy or .npz. */
static int is_array_file(const char *path)
{
    const file_kind found = kind_of_file(path);
    return found == FILE_NPY || found == FILE_NPZ;
}

/* A .npy file, or an array of an .npz, of two dimensions with finite numbers, and whose its rows are. */
static int rows_load(session *s, const char *who, const char *path, const char *names, kept_rows *k)
{
    int64_t finite = 0;
    if (!is_array_file(path)) return complain_of_kind(who, path, 0);
    if (kd_npy_read(s->kd, path, &k->array) != KD_OK)
        return complain(
            "%s: %s%s", who, kd_error(s->kd),
            strstr(kd_error(s->kd), "one is chosen by its name")
                ? "; if they are weights, a model line goes with them: --teacher \"SPEC\" --teacher-weights"
                : "");
    k->path = path;
    if (k->array.rank != 2 || k->array.shape[0] > INT32_MAX || k->array.shape[1] > INT32_MAX)
        return complain("%s must have two dimensions, (images, classes), but it has %lld", path,
                        (long long)k->array.rank);
    k->rows = (int)k->array.shape[0];
    k->width = (int)k->array.shape[1];
    while (finite < k->array.count && isfinite(k->array.values[finite])) ++finite;
    if (finite < k->array.count)
        return complain("%s holds a NaN or an infinity in row %lld", path, (long long)(finite / k->width));
    return rows_check_scale(s, k) && rows_read_names(k, names);
}

/* ---- which columns --------------------------------------------------------------------------------------- */

/* "3,17,4": numbers, and nothing else. */
static int is_number_list(const char *text) { return strspn(text, "0123456789, ") == strlen(text); }

/* The file of --teacher-columns names the class of each column, one a line. */
static int columns_load(session *s)
{
    const char *text = s->o.teacher_columns;
    if (!*text || is_number_list(text)) return 1;
    if (kind_of_file(text) == FILE_NONE)
        return complain(
            "--teacher-columns takes numbers of columns joined by commas, or a file with the class of every "
            "column, one a line; there is no file %s",
            text);
    s->column_names = read_lines("--teacher-columns", text, &s->column_count);
    return s->column_names != NULL;
}

/* The column of each class, of a teacher with `width` of them. */
static int columns_find(session *s, int width)
{
    const int classes = s->images.class_count;
    const char *text = s->o.teacher_columns;
    const int given = *text != 0;
    int i, j;
    if (s->columns) return 1;
    if (!given && width != classes)
        return complain(
            "the teacher has %d columns, but there are %d classes; say which are theirs, in the order of the "
            "folders: --teacher-columns 3,17,... (from 0), or a file with the class of every column, one a "
            "line",
            width, classes);
    s->columns = (int *)images_memory((size_t)classes, sizeof *s->columns);
    if (!s->columns) return complain("there is not enough memory");
    if (s->column_names && s->column_count != width)
        return complain("%s names %d columns, but the teacher has %d", text, s->column_count, width);
    for (i = 0; i < classes; ++i) {
        char *end;
        if (!given) {
            s->columns[i] = i;
            continue;
        }
        if (s->column_names) {
            for (j = 0; j < width && strcmp(s->column_names[j], s->images.class_names[i]) != 0; ++j) {}
            if (j == width) return complain("%s does not name the class \"%s\"", text, s->images.class_names[i]);
        } else {
            j = (int)fmin(strtod(text, &end), INT32_MAX);
            if (end == text || j >= width)
                return complain(
                    "--teacher-columns must be %d numbers from 0 to %d, one for each class; that of \"%s\" is "
                    "not",
                    classes, width - 1, s->images.class_names[i]);
            text = *end ? end + 1 : end;
        }
        s->columns[i] = j;
        for (j = 0; j < i; ++j) {
            if (s->columns[j] == s->columns[i])
                return complain("--teacher-columns gives \"%s\" and \"%s\" the same column, %d",
                                s->images.class_names[j], s->images.class_names[i], s->columns[i]);
        }
    }
    if (*text && !s->column_names)
        return complain("--teacher-columns has more numbers than there are classes, %d", classes);
    return 1;
}

/* ---- which rows ------------------------------------------------------------------------------------------ */

static int by_origin(const images_origin *a, const images_origin *b)
{
    if (a->file != b->file) return a->file < b->file ? -1 : 1;
    return a->place < b->place ? -1 : a->place > b->place;
}

/* Images by number: those to learn from and to choose with, then the test images. */
static int learned_from(const images *im) { return im->train.count + im->validation.count; }

static int all_images(const images *im) { return learned_from(im) + im->test.count; }

static const images_set *set_of(const images *im, int number, int *index)
{
    const images_set *const sets[3] = {&im->train, &im->validation, &im->test};
    int i;
    *index = number;
    for (i = 0; i < 2 && *index >= sets[i]->count; ++i) *index -= sets[i]->count;
    return sets[i];
}

static int label_of(const images *im, int number)
{
    int index;
    const images_set *set = set_of(im, number, &index);
    return set->labels[index];
}

static int name_of(const images *im, int number, char *text, size_t size)
{
    int index;
    const images_set *set = set_of(im, number, &index);
    return images_name(im, set, index, text, size);
}

/* Whether the test images were taken out of one folder with the training images. */
static int is_one_folder(const images *im)
{
    return im->train.count > 0 && im->test.count > 0 &&
           by_origin(&im->test.origin[0], &im->train.origin[im->train.count - 1]) < 0;
}

typedef struct placed {
    images_origin origin;
    int number;
} placed;

static int by_place(const void *a, const void *b)
{
    return by_origin(&((const placed *)a)->origin, &((const placed *)b)->origin);
}

/* The images that the rows of --teacher (test: of --teacher-test) are about, in order. NULL after a complaint. */
static placed *rows_wanted(const images *im, int test, int *count)
{
    const int together = is_one_folder(im), first = together || !test ? 0 : learned_from(im),
              end = together || test ? all_images(im) : learned_from(im);
    placed *all = (placed *)images_memory((size_t)(end - first) + 1, sizeof *all);
    int i, index;
    *count = end - first;
    if (!all) (void)complain("there is not enough memory for the order of %d images", end - first);
    for (i = 0; all && i < end - first; ++i) {
        const images_set *set = set_of(im, first + i, &index);
        all[i].origin = set->origin[index];
        all[i].number = first + i;
    }
    if (all && *count) qsort(all, (size_t)*count, sizeof *all, by_place);
    return all;
}

/* The name of every image, for looking up: `of`: its number. */
typedef struct image_name {
    char *text;
    const char *key; /* in text: all of it, or what is behind the first folder */
    int of;
} image_name;

static int by_key(const void *a, const void *b)
{
    return strcmp(((const image_name *)a)->key, ((const image_name *)b)->key);
}

static void image_names_free(image_name *all, int count)
{
    int i;
    for (i = 0; i < count && all; ++i) free(all[i].text);
    free(all);
}

static image_name *image_names(const images *im)
{
    const int count = all_images(im);
    image_name *all = (image_name *)images_memory((size_t)count + 1, sizeof *all);
    int i, good = all != NULL;
    for (i = 0; i < count && good; ++i) {
        const int length = name_of(im, i, NULL, 0);
        all[i].of = i;
        all[i].text = (char *)images_memory((size_t)length + 1, 1);
        good = all[i].text != NULL;
        if (good) (void)name_of(im, i, all[i].text, (size_t)length + 1);
        all[i].key = all[i].text;
    }
    if (good) return all;
    (void)complain("there is not enough memory for the names of %d images", count);
    image_names_free(all, count);
    return NULL;
}

static int find_key(const image_name *all, int count, const char *key)
{
    const image_name *found;
    image_name wanted;
    wanted.text = NULL, wanted.key = key, wanted.of = 0;
    found = (const image_name *)bsearch(&wanted, all, (size_t)count, sizeof wanted, by_key);
    return found ? found->of : -1;
}

/* The image that a line means, or -1: a path below the folder, or one that ends in it. */
static int find_image(const image_name *all, int count, char *line)
{
    char *c;
    for (c = line; *c; ++c) {
        if (*c == '\\') *c = '/';
    }
    for (c = line; c; c = strchr(c, '/')) {
        int of;
        while (*c == '/') ++c;
        of = find_key(all, count, c);
        if (of >= 0) return of;
    }
    return -1;
}

/* Names that say nothing of train or test, "cat/1.png", are looked up among the images of one set. */
static int shorten_keys(const images *im, image_name *all, int test)
{
    const int count = all_images(im);
    int i, kept = 0;
    for (i = 0; i < count; ++i) {
        const char *slash = strchr(all[i].text, '/');
        image_name swap = all[i];
        if (!slash || test != (swap.of >= learned_from(im))) continue;
        swap.key = slash + 1;
        all[i] = all[kept];
        all[kept++] = swap;
    }
    qsort(all, (size_t)kept, sizeof *all, by_key);
    return kept;
}

/* row[i] of each of `count` images from number `first` on, by the names of the rows. */
static int rows_by_name(const images *im, const kept_rows *k, int test, int first, int count, int *row)
{
    const int total = all_images(im);
    const char *what = test ? "test" : "training", *lost = NULL; /* a name of no image */
    image_name *all = image_names(im);
    int i, known = total, found = 0, good = all != NULL;
    if (!all) return 0;
    qsort(all, (size_t)total, sizeof *all, by_key);
    for (i = 0; i < count; ++i) row[i] = -1;
    if (k->rows > 0 && find_image(all, total, k->names[0]) < 0 && !is_one_folder(im))
        known = shorten_keys(im, all, test);
    for (i = 0; i < k->rows && good; ++i) {
        const int of = find_image(all, known, k->names[i]) - first;
        if (of + first < 0) lost = k->names[i];
        if (of < 0 || of >= count) continue;
        if (row[of] >= 0) good = complain("%s: rows %d and %d are both about %s", k->path, row[of], i, k->names[i]);
        row[of] = i;
        ++found;
    }
    image_names_free(all, total);
    for (i = 0; i < count && row[i] >= 0; ++i) {}
    if (good && i < count) {
        char name[512];
        (void)name_of(im, first + i, name, sizeof name);
        return complain("%s has no row for %d of the %d %s images, such as %s%s%.100s%s", k->path, count - found,
                        count, what, name, lost ? "; the names of the rows, such as \"" : "", lost ? lost : "",
                        lost ? "\", must be paths below the folder, or end in those" : "");
    }
    if (good && found < k->rows)
        say("  note: %d rows of %s are about no %s image\n", k->rows - found, k->path, what);
    return good;
}

/* The same where rows have the order of the images' files: those of one folder together, before it was split. */
static int rows_by_order(const images *im, const kept_rows *k, int test, int first, int count, int *row)
{
    int wanted, i;
    placed *all = rows_wanted(im, test, &wanted);
    if (!all) return 0;
    for (i = 0; i < wanted; ++i) {
        const int of = all[i].number - first;
        if (of >= 0 && of < count) row[of] = i;
    }
    free(all);
    if (k->rows == wanted) return 1;
    return complain(
        "%s must have shape (%d, %d), a row for each %s, but it has (%d, %d); --write-order writes which row "
        "is whose, and rows that are named (--teacher-names) may be more, in any order",
        k->path, wanted, im->class_count,
        is_one_folder(im) ? "image of the folder, which is split with them"
        : test            ? "test image"
                          : "training image",
        k->rows, k->width);
}

/* Logits of the images of a set, (images, classes), from rows and columns that may be in another order. */
static float *rows_take(session *s, const kept_rows *k, int test)
{
    const images *im = &s->images;
    const int first = test ? learned_from(im) : 0, count = test ? im->test.count : learned_from(im),
              classes = im->class_count;
    int *row = (int *)images_memory((size_t)count + 1, sizeof *row), i, c;
    float *all = (float *)images_memory((size_t)count * (size_t)classes + 1, sizeof *all);
    int good = row && all ? 1 : complain("there is not enough memory for the teacher's logits");
    if (good) good = (k->names ? rows_by_name : rows_by_order)(im, k, test, first, count, row);
    if (good) good = columns_find(s, k->width);
    for (i = 0; i < count && good; ++i) {
        for (c = 0; c < classes; ++c)
            all[(size_t)i * (size_t)classes + (size_t)c] =
                k->array.values[(size_t)row[i] * (size_t)k->width + (size_t)s->columns[c]];
    }
    free(row);
    if (good) return all;
    free(all);
    return NULL;
}

/* ---- order.txt ------------------------------------------------------------------------------------------- */

/* Text that is there already may stay; other text is replaced where a run of distill wrote it. */
static int write_text(const session *s, const char *name, const char *text)
{
    char path[MAX_PATH + 8];
    const char *why;
    size_t size = 0;
    uint8_t *old;
    FILE *f;
    int same;
    output_path(s, name, path);
    old = images_read(path, &size, &why);
    same = old && size == strlen(text) && memcmp(old, text, size) == 0;
    free(old);
    if (same) return 1;
    if (!check_not_read(s, path)) return 0;
    if (old && !s->own_output)
        return complain(
            "%s is there with other contents and not from a run of distill; give another --out, or --force", path);
    f = output_open(s, name, path);
    return f && output_close(s, name, f, fputs(text, f) >= 0);
}

/* A line for each row of --teacher (and of --teacher-test, where test images have a folder of their own). */
static int write_order(const session *s, int test)
{
    const images *im = &s->images;
    int count, i, good;
    placed *all = rows_wanted(im, test, &count);
    size_t size = 1, at = 0;
    char *text;
    for (i = 0; all && i < count; ++i) size += (size_t)name_of(im, all[i].number, NULL, 0) + 1;
    text = all ? (char *)images_memory(size, 1) : NULL;
    if (all && !text) (void)complain("there is not enough memory for the names of %d images", count);
    for (i = 0; text && i < count; ++i) {
        at += (size_t)name_of(im, all[i].number, text + at, size - at);
        text[at++] = '\n';
    }
    good = text && write_text(s, test ? "order-test.txt" : "order.txt", text);
    free(text);
    free(all);
    return good;
}

static int write_orders(const session *s)
{
    return write_order(s, 0) && (is_one_folder(&s->images) || write_order(s, 1));
}

/* ---- whether they are a teacher's of these images -------------------------------------------------------- */

/* Runs of digits count as numbers: 2 before 10. */
static int natural_order(const char *a, const char *b)
{
    while (*a && *b) {
        if (isdigit((unsigned char)*a) && isdigit((unsigned char)*b)) {
            size_t x, y;
            int order;
            for (; *a == '0' && isdigit((unsigned char)a[1]); ++a) {}
            for (; *b == '0' && isdigit((unsigned char)b[1]); ++b) {}
            x = strspn(a, "0123456789"), y = strspn(b, "0123456789");
            order = x != y ? (x < y ? -1 : 1) : memcmp(a, b, x);
            if (order) return order;
            a += x, b += y;
        } else {
            const int p = tolower((unsigned char)*a), q = tolower((unsigned char)*b);
            if (p != q) return p - q;
            ++a, ++b;
        }
    }
    return (*a != 0) - (*b != 0);
}

typedef struct numbered {
    const char *name;
    int index;
} numbered;

static int by_nature(const void *a, const void *b)
{
    const numbered *x = (const numbered *)a, *y = (const numbered *)b;
    const int order = natural_order(x->name, y->name);
    return order ? order : strcmp(x->name, y->name);
}

/* column[y] of each class, if columns have the natural order of the names. 0 without memory. */
static int natural_columns(const images *im, int *column)
{
    numbered *all = (numbered *)images_memory((size_t)im->class_count, sizeof *all);
    int i;
    for (i = 0; all && i < im->class_count; ++i) all[i].name = im->class_names[i], all[i].index = i;
    if (all) qsort(all, (size_t)im->class_count, sizeof *all, by_nature);
    for (i = 0; all && i < im->class_count; ++i) column[all[i].index] = i;
    free(all);
    return all != NULL;
}

/* How often column c is the largest where y is the label: count[c * classes + y]. */
typedef struct confusion_table {
    int64_t *count;
    int classes;
    int64_t total;
} confusion_table;

static int64_t confused(const confusion_table *f, int column, int label)
{
    return f->count[(size_t)column * (size_t)f->classes + (size_t)label];
}

/* Assigns columns to labels so that as many images as possible are right: the Hungarian algorithm, with potentials.
   column[y] of each label. Without memory nothing moves. */
static void assign_columns(const confusion_table *f, int *column)
{
    const int n = f->classes;
    double *u = (double *)images_memory((size_t)n + 1, sizeof *u),
           *v = (double *)images_memory((size_t)n + 1, sizeof *v),
           *least = (double *)images_memory((size_t)n + 1, sizeof *least);
    int *match = (int *)images_memory((size_t)n + 1, sizeof *match),
        *way = (int *)images_memory((size_t)n + 1, sizeof *way),
        *used = (int *)images_memory((size_t)n + 1, sizeof *used), i, j;
    for (i = 0; i < n; ++i) column[i] = i;
    for (i = 1; i <= n && u && v && least && match && way && used; ++i) {
        int at = 0;
        match[0] = i;
        for (j = 0; j <= n; ++j) least[j] = INFINITY, used[j] = 0;
        do {
            const int row = match[at];
            double delta = INFINITY;
            int next = 0;
            used[at] = 1;
            for (j = 1; j <= n; ++j) {
                const double cost = -(double)confused(f, j - 1, row - 1) - u[row] - v[j];
                if (used[j]) continue;
                if (cost < least[j]) least[j] = cost, way[j] = at;
                if (least[j] < delta) delta = least[j], next = j;
            }
            for (j = 0; j <= n; ++j) {
                if (used[j])
                    u[match[j]] += delta, v[j] -= delta;
                else
                    least[j] -= delta;
            }
            at = next;
        } while (match[at]);
        while (at) match[at] = match[way[at]], at = way[at];
    }
    for (j = 1; match && j <= n; ++j) {
        if (match[j]) column[match[j] - 1] = j - 1;
    }
    free(u), free(v), free(least), free(match), free(way), free(used);
}

/* Leaves of an assignment the cycles in which every column says the label it is given far more often than its
   own: a weak teacher confuses classes, but not one for another all the way round. 1 if something moves. */
static int keep_clear_cycles(const confusion_table *f, int *column)
{
    int *seen = (int *)images_memory((size_t)f->classes, sizeof *seen), y, moves = 0;
    for (y = 0; y < f->classes && seen; ++y) {
        int at, clear = 1, next;
        if (seen[y] || column[y] == y) continue;
        for (at = y; !seen[at]; at = column[at]) {
            seen[at] = 1;
            clear = clear && confused(f, column[at], at) > 3 * confused(f, at, at) + 3;
        }
        for (at = y; !clear && column[at] != at; at = next) next = column[at], column[at] = at;
        moves |= clear;
    }
    free(seen);
    return moves;
}

static int64_t right_with(const confusion_table *f, const int *column)
{
    int64_t right = 0;
    int y;
    for (y = 0; y < f->classes; ++y) right += confused(f, column ? column[y] : y, y);
    return right;
}

/* An order of columns that fits much better than the one there is, if there is one; *why: how it came to be. */
static int find_columns(const images *im, const confusion_table *f, int *column, const char **why)
{
    enum { MOST_CLASSES = 600 }; /* a billion steps */
    int y, moved = 0;
    *why = "natural order, 2 before 10";
    if (natural_columns(im, column) && keep_clear_cycles(f, column) && right_with(f, column) > right_with(f, NULL))
        return 1;
    if (f->classes > MOST_CLASSES) return 0;
    assign_columns(f, column);
    if (!keep_clear_cycles(f, column)) return 0;
    for (y = 0; y < f->classes; ++y) moved += column[y] != y;
    *why = moved == 2 ? "two of them swapped" : "another order than the folders'";
    return 1;
}

/* The classes as the columns seem to have them, and what to say so. nameless: it may be the rows as well. */
static int complain_of_columns(const session *s, const confusion_table *f, const int *column, const char *why,
                               int nameless)
{
    enum { SHOWN = 24, LISTED = 256 };
    const images *im = &s->images;
    char order[2048], numbers[2048];
    size_t at = 0, to = 0;
    int c, y;
    order[0] = numbers[0] = 0;
    for (c = 0; c < f->classes && c < SHOWN && at < sizeof order - 80; ++c) {
        for (y = 0; column[y] != c; ++y) {}
        at += (size_t)snprintf(order + at, sizeof order - at, "%s%.60s", c ? ", " : "", im->class_names[y]);
    }
    if (c < f->classes) snprintf(order + at, sizeof order - at, ", ...");
    for (y = 0; y < f->classes && f->classes <= LISTED; ++y)
        to += (size_t)snprintf(numbers + to, sizeof numbers - to, "%s%d", y ? "," : "",
                               s->columns ? s->columns[column[y]] : column[y]);
    return complain(
        "the teacher gets %.2f %% of the training images right, but with other columns %.2f %%: its columns "
        "look like the classes in the order %s (%s); --teacher-columns %s takes them so, --teacher-unchecked "
        "as they are%s",
        100.0 * (double)right_with(f, NULL) / (double)f->total,
        100.0 * (double)right_with(f, column) / (double)f->total, order, why, *numbers ? numbers : "FILE",
        nameless ? "; if it is the rows that are in another order than --write-order writes, name them "
                   "(--teacher-names)"
                 : "");
}

/* Whether rows in the natural order of the images' names would make sense of kept logits, and more than as they
   are: of those the share `now` is right. */
static int rows_look_natural(const session *s, const kept_rows *k, double now)
{
    const images *im = &s->images;
    const int count = learned_from(im), classes = im->class_count;
    image_name *all = k && !k->names && !is_one_folder(im) && s->columns ? image_names(im) : NULL;
    numbered *sorted = all ? (numbered *)images_memory((size_t)count + 1, sizeof *sorted) : NULL;
    int *column = (int *)images_memory((size_t)classes, sizeof *column), i, c;
    int64_t right[2] = {0, 0}, best_right;
    for (i = 0; i < count && sorted; ++i) sorted[i].name = all[i].text, sorted[i].index = i;
    if (sorted && count) qsort(sorted, (size_t)count, sizeof *sorted, by_nature);
    for (i = 0; i < count && sorted && column && natural_columns(im, column); ++i) {
        const float *row = k->array.values + (size_t)i * (size_t)k->width;
        const int label = label_of(im, sorted[i].index);
        int best = 0;
        for (c = 1; c < classes; ++c) {
            if (row[s->columns[c]] > row[s->columns[best]]) best = c;
        }
        right[0] += best == label;
        right[1] += best == column[label];
    }
    free(sorted);
    free(column);
    if (all) image_names_free(all, all_images(im));
    best_right = right[0] > right[1] ? right[0] : right[1];
    return 2 * best_right > count && (double)best_right > now * count;
}

/* How good the teacher's logits are by the labels of training images: always said, and refused where it is no
   better than chance, or better with its columns in another order. `k`: where they were kept, or NULL. */
static int check_teacher(const session *s, const float *logits, const int32_t *labels, int count,
                         const kept_rows *k)
{
    const int classes = s->images.class_count;
    const char *why;
    confusion_table f;
    int *column = (int *)images_memory((size_t)classes, sizeof *column), i, y;
    double chance = 0, accuracy, spread;
    int good = 1;
    f.classes = classes;
    f.total = count;
    f.count = (int64_t *)images_memory((size_t)classes * (size_t)classes, sizeof *f.count);
    if (!f.count || !column) good = complain("there is not enough memory to check the teacher");
    for (i = 0; i < count && good; ++i)
        ++f.count[(size_t)report_argmax(logits + (size_t)i * (size_t)classes, classes) * (size_t)classes +
                  (size_t)labels[i]];
    if (good && count > 0) {
        for (y = 0; y < classes; ++y) { /* that a label and a choice agree which know nothing of each other */
            double of_label = 0, of_column = 0;
            for (i = 0; i < classes; ++i)
                of_label += (double)confused(&f, i, y), of_column += (double)confused(&f, y, i);
            chance += of_label / count * of_column / count;
        }
        accuracy = (double)right_with(&f, NULL) / count;
        spread = sqrt(chance * (1 - chance) / count);
        say("The teacher gets %.2f %% of %d training images right\n", 100 * accuracy, count);
        if (s->o.teacher_unchecked)
            good = 1;
        else if (find_columns(&s->images, &f, column, &why))
            good =
                strstr(why, "natural") || !rows_look_natural(s, k, accuracy)
                    ? complain_of_columns(s, &f, column, why, k && !k->names)
                    : complain(
                          "the teacher gets %.2f %% of %d training images right: its rows look like the images in "
                          "natural order, 2 before 10; name them (--teacher-names); --teacher-unchecked goes on "
                          "with it",
                          100 * accuracy, count);
        else if (accuracy - chance < 0.1 * (1 - chance) || accuracy - chance < 2 * spread)
            good = complain(
                "the teacher gets %.2f %% of %d training images right, which is hardly more than chance, "
                "%.2f %%: %s --teacher-unchecked goes on with it",
                100 * accuracy, count, 100 * chance,
                !k ? "were its images normalised like these (--mean, --std), and are its classes those of the "
                     "folders, in their order?"
                : rows_look_natural(s, k, accuracy)
                    ? "its rows look like the images in natural order, 2 before 10; name them "
                      "(--teacher-names), or"
                    : "are its rows in the order that --write-order writes, or named (--teacher-names)?");
    }
    free(f.count);
    free(column);
    return good;
}

/* ---- whether a model line is the network that it is meant to be ------------------------------------------ */

/* --teacher-check: logits that the network itself gave for the test images. */
static int compare_reference(const session *s, const float *got, const float *wanted)
{
    const int classes = s->images.class_count, count = s->images.test.count;
    double most = 0, scale = 0;
    int i, at = 0, agree = 0;
    char name[512];
    for (i = 0; i < count * classes; ++i) {
        const double difference = fabs((double)got[i] - (double)wanted[i]);
        scale = fmax(scale, fabs((double)wanted[i]));
        if (difference > most) most = difference, at = i;
    }
    for (i = 0; i < count; ++i)
        agree += report_argmax(got + (size_t)i * (size_t)classes, classes) ==
                 report_argmax(wanted + (size_t)i * (size_t)classes, classes);
    (void)name_of(&s->images, learned_from(&s->images) + at / classes, name, sizeof name);
    say("The teacher's logits are at most %.3g from those of %s (for %s, class %s), whose largest is %.3g;\n"
        "%d of %d choices are the same\n",
        most, s->rows_check.path, name, s->images.class_names[at % classes], scale, agree, count);
    if (most > 1e-4 * scale && most <= 0.05 * scale)
        say("note: from one decoder of JPEG to another pixels differ a little, which may be all of it\n");
    if (most <= 0.05 * scale || s->o.teacher_unchecked) return 1;
    return complain(
        "the teacher is not the network of %s: for %s, class \"%s\", its logit is %.4g, but there %.4g; "
        "--teacher-unchecked goes on with it",
        s->rows_check.path, name, s->images.class_names[at % classes], (double)got[at], (double)wanted[at]);
}

static int check_reference(session *s)
{
    kd_evaluate_desc d = kd_evaluate_defaults();
    kd_metrics metrics;
    float *wanted = rows_take(s, &s->rows_check, 1);
    int good = wanted != NULL;
    d.logits = good ? (float *)images_memory((size_t)s->images.test.count * (size_t)s->images.class_count + 1,
                                             sizeof(float))
                    : NULL;
    if (good && !d.logits)
        good = complain("there is not enough memory to check the teacher");
    else if (good && kd_evaluate_with(s->teacher, &s->test, &d, &metrics) != KD_OK)
        good = kd_complain(s, "checking the teacher");
    good = good && compare_reference(s, d.logits, wanted);
    free(wanted);
    free(d.logits);
    return good;
}
