/* Texts, as examples/texts.h loads them. An input is a byte of options, the length of the first file in two bytes,
   that file, and a second one: train.csv and test.csv of a folder, or train.csv and texts without labels. */
#include <dirent.h>
#include <stdio.h>
#include <sys/stat.h>
#include "bounds.h"

static FILE *memory_open(const char *path, const char *mode);
static int memory_stat(const char *path, struct stat *info);
static DIR *memory_open_folder(const char *path);
static struct dirent *memory_next(DIR *folder);

#define fopen memory_open
#define stat(path, info) memory_stat(path, info)
#define opendir memory_open_folder
#define readdir memory_next
#define closedir(folder) ((void)(folder))
#include "../../examples/images.h"
#include "../../examples/texts.h"
#undef fopen
#undef stat
#undef opendir
#undef readdir
#undef closedir

/* A row of four bytes becomes a text of up to 512, and a class with a name and a list of its own. */
enum { FIXED = 1 << 20, EACH = 16 << 10 };
static const double SECONDS = 2, SECONDS_EACH = 0.005;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum {
    TESTED = 1,
    UNLABELLED = 2,
    LINES = 4,
    SHORT = 8,
    FEW = 16,
    FORGIVING = 32,
    FOLDS = 64
}; /* of the options */

typedef struct part {
    const uint8_t *bytes;
    size_t size;
} part;

static part first, second;
static int options, next_name;

static int memory_stat(const char *path, struct stat *info)
{
    memset(info, 0, sizeof *info);
    info->st_mode = strchr(path, '/') ? S_IFREG : S_IFDIR;
    return 0;
}

static DIR *memory_open_folder(const char *path)
{
    (void)path;
    next_name = 0;
    return (DIR *)&next_name; /* nobody looks inside */
}

static struct dirent *memory_next(DIR *folder)
{
    static struct dirent entry;
    (void)folder;
    if (next_name == (options & TESTED ? 2 : 1)) return NULL;
    snprintf(entry.d_name, sizeof entry.d_name, next_name++ ? "test.csv" : "train.csv");
    return &entry;
}

static FILE *memory_open(const char *path, const char *mode)
{
    const part *p = strstr(path, "train") ? &first : &second;
    (void)mode;
    return p->size ? fmemopen((void *)(uintptr_t)p->bytes, p->size, "rb") : NULL;
}

static void check(int truth, const char *what)
{
    if (truth) return;
    fprintf(stderr, "table.c: does not hold: %s\n", what);
    abort();
}

static void check_set(const images *s, const images_set *set, int labelled)
{
    const int length = s->channels;
    char text[TEXTS_MOST + 1];
    int i, k;
    check(length >= TEXTS_LEAST && length <= TEXTS_MOST, "texts have a length");
    for (i = 0; i < set->count; ++i) {
        memcpy(text, set->pixels + (size_t)i * (size_t)length, (size_t)length);
        text[length] = 0;
        check(*text != 0, "a text has bytes");
        for (k = (int)strlen(text); k < length; ++k) check(text[k] == 0, "behind its end are zeros");
        check(texts_is_utf8(text), "a text is in UTF-8, cut or not");
        check(labelled ? set->labels[i] >= 0 && set->labels[i] < s->class_count : set->labels[i] == -1,
              "labels are classes, or none");
    }
}

static void try_table(void)
{
    texts_options o = texts_defaults();
    images s;
    if (options & SHORT) o.length = TEXTS_LEAST;
    if (options & FEW) o.limit = 1;
    if (options & FORGIVING) o.max_skipped = 1;
    if (options & FOLDS) o.folds = 3, o.fold = 1;
    if (texts_load(&s, "memory", &o)) {
        check(s.class_count >= 2, "there is something to tell apart");
        check_set(&s, &s.train, 1);
        check_set(&s, &s.test, 1);
        if (options & UNLABELLED) {
            if (texts_load_unlabelled(&s, options & LINES ? "memory/more.txt" : "memory/more.csv", &o))
                check_set(&s, &s.unlabelled, 0);
            else
                check(s.error[0] != 0, "a reason is given");
        }
    } else {
        check(s.error[0] != 0, "a reason is given");
    }
    images_free(&s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 3) return 0;
    options = data[0];
    first.size = (size_t)data[1] | (size_t)data[2] << 8;
    if (first.size > size - 3) first.size = size - 3;
    first.bytes = data + 3;
    second.bytes = first.bytes + first.size;
    second.size = size - 3 - first.size;
    bounds_begin();
    try_table();
    bounds_end(size, FIXED, EACH, SECONDS, SECONDS_EACH);
    return 0;
}
