/* disk.h - files in memory that fail when told to, and a context that has them and whose memory is counted */
#ifndef KD_TESTS_DISK_H
#define KD_TESTS_DISK_H

#include "support.h"

/* ---- files in memory ------------------------------------------------------------------------------------- */

enum { DISK_FILES = 8 };

typedef struct disk_file {
    char name[64];
    unsigned char *bytes;
    size_t size, at;
    int exists, synced;
} disk_file;

/* The fail_at-th call that may fail does, 0: none; or a write or read stops halfway. Or the power is gone from then
   on: nothing reaches the disk any more. */
static struct {
    disk_file files[DISK_FILES];
    int calls, fail_at, halfway, power_cut, open;
} disk;

static int disk_dead(void) { return disk.power_cut && disk.fail_at > 0 && disk.calls >= disk.fail_at; }

static int disk_fails(void) { return ++disk.calls == disk.fail_at || disk_dead(); }

static disk_file *disk_find(const char *name)
{
    int i;
    for (i = 0; i < DISK_FILES; ++i) {
        if (disk.files[i].exists && strcmp(disk.files[i].name, name) == 0) return &disk.files[i];
    }
    return NULL;
}

KD__PRIVATE int disk_count(void)
{
    int i, count = 0;
    for (i = 0; i < DISK_FILES; ++i) count += disk.files[i].exists;
    return count;
}

static void disk_delete(disk_file *f)
{
    if (!f) return;
    free(f->bytes);
    memset(f, 0, sizeof *f);
}

static void *disk_open(void *user, const char *name, char mode)
{
    disk_file *f = disk_find(name);
    assert_ptr_equal(user, &disk);
    if (disk_fails() || (!f && mode == 'r')) return NULL;
    if (!f) {
        for (f = disk.files; f->exists; ++f) assert_true(f < disk.files + DISK_FILES - 1);
    }
    if (mode == 'w') {
        disk_delete(f);
        strcpy(f->name, name);
        f->exists = 1;
    }
    f->at = 0;
    ++disk.open;
    return f;
}

static size_t disk_part(size_t size) { return !disk_fails() ? size : disk.halfway ? size / 2 : 0; }

static size_t disk_read(void *user, void *file, void *bytes, size_t size)
{
    disk_file *f = (disk_file *)file;
    (void)user;
    size = disk_part(KD__MIN(size, f->size - f->at));
    if (size) memcpy(bytes, f->bytes + f->at, size);
    f->at += size;
    return size;
}

static size_t disk_write(void *user, void *file, const void *bytes, size_t size)
{
    disk_file *f = (disk_file *)file;
    (void)user;
    size = disk_part(size);
    f->bytes = (unsigned char *)realloc(f->bytes, f->size + size + 1);
    memcpy(f->bytes + f->size, bytes, size);
    f->size += size;
    f->synced = 0;
    return size;
}

static int64_t disk_size(void *user, void *file)
{
    (void)user;
    return disk_fails() ? -1 : (int64_t)((disk_file *)file)->size;
}

static int disk_sync(void *user, void *file)
{
    (void)user;
    if (disk_fails()) return -1;
    ((disk_file *)file)->synced = 1;
    return 0;
}

static int disk_close(void *user, void *file)
{
    (void)user, (void)file;
    --disk.open;
    return disk_fails() ? -1 : 0;
}

static int disk_replace(void *user, const char *from, const char *to)
{
    (void)user;
    if (disk_fails()) return -1;
    assert_true(disk_find(from)->synced); /* or a crash could leave the new name without the bytes */
    assert_int_equal(disk.open, 0);
    disk_delete(disk_find(to));
    strcpy(disk_find(from)->name, to);
    return 0;
}

static void disk_remove(void *user, const char *name)
{
    (void)user;
    if (!disk_dead()) disk_delete(disk_find(name));
}

KD__PRIVATE disk_file *disk_put(const char *name, const void *bytes, size_t size)
{
    disk_file *f;
    disk_delete(disk_find(name));
    f = (disk_file *)disk_open(&disk, name, 'w');
    disk_write(NULL, f, bytes, size);
    disk_close(NULL, f);
    return f;
}

/* Every test gets a context whose memory is counted and whose files are these. */
static test_memory memory;
static kd_ctx *kd;

static int open_context(void **state)
{
    kd_ctx_desc desc = test_memory_desc(&memory);
    const kd_io io = {disk_open,  disk_read,    disk_write,  disk_size, disk_sync,
                      disk_close, disk_replace, disk_remove, &disk};
    (void)state;
    memset(&disk, 0, sizeof disk);
    desc.io = io;
    return kd_open(&desc, &kd);
}

static int close_context(void **state)
{
    int i;
    (void)state;
    for (i = 0; i < DISK_FILES; ++i) disk_delete(&disk.files[i]);
    assert_int_equal(disk.open, 0);
    test_memory_close(kd, &memory);
    return 0;
}

/* ---- saving to a bad disk -------------------------------------------------------------------------------- */

typedef kd_result (*file_fn)(void *subject);

/* Whichever call fails: it is said, the old file is as it was, and nothing else is left. */
KD__PRIVATE void check_failing_disk(file_fn save, void *subject, const char *where)
{
    static const char old[] = "the old file";
    int halfway, failed;
    for (halfway = 0; halfway < 2; ++halfway) {
        for (failed = 1;; ++failed) {
            const int blocks = memory.blocks;
            kd_result result;
            disk_put("target", old, sizeof old);
            disk.calls = 0;
            disk.fail_at = failed;
            disk.halfway = halfway;
            kd->error[0] = 0;
            result = save(subject);
            disk.fail_at = 0;
            assert_int_equal(disk.open, 0);
            assert_int_equal(disk_count(), 1);
            assert_int_equal(memory.blocks, blocks);
            if (disk.calls < failed) { /* none failed */
                assert_int_equal(result, KD_OK);
                assert_true(disk_find("target")->size > sizeof old);
                break;
            }
            if (result != KD_ERR_IO) fail_msg("%s, call %d: %s", where, failed, kd_result_name(result));
            if (strncmp(kd_error(kd), where, strlen(where)) || !strstr(kd_error(kd), "target"))
                fail_msg("%s, call %d: \"%s\"", where, failed, kd_error(kd));
            assert_int_equal(disk_find("target")->size, sizeof old);
            assert_memory_equal(disk_find("target")->bytes, old, sizeof old);
        }
        assert_true(failed >= 6); /* open, two writes or more, sync, close, replace */
    }
}

/* Whenever the power goes: under the name is all of the old file or all of the new one. */
KD__PRIVATE void check_power_cut(file_fn save, void *subject)
{
    static const char old[] = "the old file";
    disk_file *whole;
    unsigned char *wanted;
    size_t size;
    int call, calls;
    assert_int_equal(save(subject), KD_OK);
    whole = disk_find("target");
    size = whole->size;
    wanted = (unsigned char *)malloc(size);
    memcpy(wanted, whole->bytes, size);
    disk.calls = 0;
    assert_int_equal(save(subject), KD_OK);
    calls = disk.calls;
    for (call = 1; call <= calls + 1; ++call) {
        const disk_file *f;
        disk_put("target", old, sizeof old);
        disk.calls = 0, disk.fail_at = call, disk.power_cut = disk.halfway = 1;
        save(subject);
        disk.fail_at = disk.power_cut = disk.halfway = 0;
        f = disk_find("target");
        assert_non_null(f);
        assert_int_equal(f->size, call <= calls ? sizeof old : size);
        assert_memory_equal(f->bytes, call <= calls ? old : (const char *)wanted, f->size);
        disk_delete(disk_find("target.kd-tmp"));
    }
    free(wanted);
}

/* The first lines of a log. */
KD__PRIVATE char kept_lines[4][256];
KD__PRIVATE int kept_count;

KD__PRIVATE void log_keep(void *user, const char *line)
{
    (void)user;
    if (kept_count < 4) snprintf(kept_lines[kept_count], sizeof kept_lines[0], "%s", line);
    ++kept_count;
}

#endif
