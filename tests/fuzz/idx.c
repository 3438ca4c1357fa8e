/* IDX files, as examples/images.h loads them. An input is a byte of options, the length of the file of images in
   two bytes, that file, and the file of labels. Training and test images come from the same files. */
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
#undef fopen
#undef stat
#undef opendir
#undef readdir
#undef closedir

/* The options are bits: images in three colours, and as large as they say, or packed 1032 to 1. */
enum { FIXED = 1 << 20, EACH = 16 << 10 };
static const double SECONDS = 2, SECONDS_EACH = 0.005;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { PACKED = 1, SMALLER = 2, COLOUR = 4, FEW = 8, NAMED = 16 }; /* bits of the options */

typedef struct part {
    const uint8_t *bytes;
    size_t size;
} part;

static part pixels, labels;
static int options;

static const part *find(const char *path)
{
    const size_t length = strlen(path);
    if ((length > 3 && strcmp(path + length - 3, ".gz") == 0) != ((options & PACKED) != 0)) {
        if (!(options & NAMED) || !strstr(path, "classes.txt")) return NULL;
    }
    return strstr(path, "images") ? &pixels : &labels;
}

static int memory_stat(const char *path, struct stat *info)
{
    memset(info, 0, sizeof *info);
    info->st_mode = strchr(path, '/') ? S_IFREG : S_IFDIR;
    return strchr(path, '/') && !find(path) ? -1 : 0;
}

static int next_name;

static DIR *memory_open_folder(const char *path)
{
    (void)path;
    next_name = 0;
    return (DIR *)&next_name; /* nobody looks inside */
}

static struct dirent *memory_next(DIR *folder)
{
    static const char *const names[] = {"train-images-idx3-ubyte", "train-labels-idx1-ubyte",
                                        "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"};
    static struct dirent entry;
    (void)folder;
    if (next_name == 4) return NULL;
    snprintf(entry.d_name, sizeof entry.d_name, "%s%s", names[next_name++], options & PACKED ? ".gz" : "");
    return &entry;
}

static FILE *memory_open(const char *path, const char *mode)
{
    const part *p = find(path);
    (void)mode;
    return p && p->size ? fmemopen((void *)(uintptr_t)p->bytes, p->size, "rb") : NULL;
}

static void check(int truth, const char *what)
{
    if (truth) return;
    fprintf(stderr, "idx.c: does not hold: %s\n", what);
    abort();
}

static void check_set(const images *s, const images_set *set)
{
    const size_t numbers = (size_t)set->count * (size_t)s->channels * (size_t)s->height * (size_t)s->width;
    size_t i, bright = 0;
    for (i = 0; i < numbers; ++i) bright += set->pixels[i] > 127; /* every pixel has a value */
    check(bright <= numbers, "pixels can be counted");
    for (i = 0; i < (size_t)set->count; ++i)
        check(set->labels[i] >= 0 && set->labels[i] < s->class_count, "labels are classes");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    images_options o = images_defaults();
    images s;
    if (size < 3) return 0;
    options = data[0];
    pixels.size = (size_t)data[1] | (size_t)data[2] << 8;
    if (pixels.size > size - 3) pixels.size = size - 3;
    pixels.bytes = data + 3;
    labels.bytes = pixels.bytes + pixels.size;
    labels.size = size - 3 - pixels.size;
    if (options & SMALLER) o.size = 3;
    if (options & COLOUR) o.channels = 3;
    if (options & FEW) o.limit = 1;
    bounds_begin();
    if (images_load(&s, "memory", &o)) {
        check_set(&s, &s.train);
        check_set(&s, &s.test);
    } else {
        check(s.error[0] != 0, "a reason is given");
    }
    images_free(&s);
    bounds_end(size, FIXED, EACH, SECONDS, SECONDS_EACH);
    return 0;
}
