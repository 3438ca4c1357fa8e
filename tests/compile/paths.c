/* Files with names beyond ASCII, longer than 260 letters, and with spaces: a model is saved and loaded, and images
   are read. For Windows, whose calls know no UTF-8. usage: paths FOLDER FIXTURE.png */
#define KD_IMPLEMENTATION
#include "../../kd.h"
#include "../../examples/images.h"

#if defined(_WIN32)
__declspec(dllimport) int __stdcall CreateDirectoryW(const wchar_t *path, void *security);
static int make_folder(const char *path)
{
    wchar_t *wide = kd__stdio_wide(path);
    const int made = wide && CreateDirectoryW(wide, NULL);
    free(wide);
    return made;
}
#else
static int make_folder(const char *path) { return mkdir(path, 0777) == 0; }
#endif

static int copy_to(kd_ctx *kd, const char *folder, const char *class_name, const char *name, const uint8_t *bytes,
                   size_t size)
{
    char path[4096];
    void *file;
    size_t written;
    snprintf(path, sizeof path, "%s/%s", folder, class_name);
    (void)make_folder(path);
    snprintf(path, sizeof path, "%s/%s/%s", folder, class_name, name);
    file = kd__stdio_open(NULL, path, 'w');
    if (!file) return 0;
    (void)kd;
    written = kd__stdio_write(NULL, file, bytes, size);
    return kd__stdio_close(NULL, file) == 0 && written == size;
}

static int fail(const char *what, const char *why)
{
    fprintf(stderr, "paths: %s: %s\n", what, why);
    return 1;
}

int main(int argc, char **argv)
{
    static images set;
    static char folder[4096], path[8192];
    kd_ctx *kd = NULL;
    kd_model *m = NULL, *again = NULL;
    const char *why = "";
    size_t size = 0;
    int i;
    uint8_t *bytes = argc == 3 ? images_read(argv[2], &size, &why) : NULL;
    if (!bytes) return fail("the fixture", why);
    snprintf(folder, sizeof folder, "%s/gr\303\274ne B\303\244ume \346\227\245\346\234\254", argv[1]);
    if (!make_folder(folder)) return fail(folder, "cannot be made");
    for (i = 0; i < 8; ++i) {
        snprintf(path, sizeof path, "%s/a folder of fifty letters or so, as somebody has it \303\251", folder);
        memcpy(folder, path, sizeof folder);
        if (!make_folder(folder)) return fail(folder, "cannot be made");
    }
    if (kd_open(NULL, &kd) != KD_OK) return fail("kd_open", "failed");
    for (i = 0; i < 4; ++i) {
        static const char *const classes[] = {"\320\272\320\276\321\202", "\347\212\254"};
        static const char *const names[] = {"\360\237\220\210.png", "two words.png"};
        if (!copy_to(kd, folder, classes[i / 2], names[i % 2], bytes, size))
            return fail(folder, "cannot be written to");
    }
    if (!images_load(&set, folder, NULL)) return fail("images_load", set.error);
    if (set.class_count != 2 || strcmp(set.class_names[0], "\320\272\320\276\321\202") != 0 ||
        set.train.count + set.test.count != 4)
        return fail("images_load", "has other classes");
    snprintf(path, sizeof path, "%s/sch\303\274ler.safetensors", folder);
    if (kd_model_create(kd, "2: dense 2", 1, &m) != KD_OK || kd_model_save(m, path) != KD_OK ||
        kd_model_save(m, path) != KD_OK || kd_model_load(kd, path, &again) != KD_OK)
        return fail("a model", kd_error(kd));
    kd__stdio_remove(NULL, path);
    if (kd_model_load(kd, path, &again) == KD_OK) return fail("a model", "was not removed");
    images_free(&set);
    free(bytes);
    kd_model_destroy(m);
    kd_close(kd);
    return 0;
}
