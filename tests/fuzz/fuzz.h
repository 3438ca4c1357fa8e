/* fuzz.h - what the harnesses share: a file in memory, memory with an end, and a word about what broke */
#ifndef KD_FUZZ_H
#define KD_FUZZ_H

#include "../../kd.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define FUZZ_SHARED static __attribute__((unused)) /* a harness need not use all of it */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What must hold for every input. */
#define fuzz_check(truth)                                                                                          \
    do {                                                                                                           \
        if (!(truth)) {                                                                                            \
            fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #truth);                             \
            abort();                                                                                               \
        }                                                                                                          \
    } while (0)

/* ---- memory ---------------------------------------------------------------------------------------------- */

enum {
    FUZZ_MEMORY = 1 << 20, /* bytes a context may have */
    FUZZ_NUMBERS = 1 << 14 /* that go into and come out of what is run */
};

typedef struct fuzz_memory {
    size_t bytes, bytes_before, most;
    long blocks, blocks_before;
} fuzz_memory;

FUZZ_SHARED void *fuzz_alloc(void *user, size_t size)
{
    fuzz_memory *memory = (fuzz_memory *)user;
    void *block = size <= FUZZ_MEMORY - memory->bytes ? malloc(size) : NULL;
    if (block) memory->bytes += size, ++memory->blocks;
    if (memory->most < memory->bytes) memory->most = memory->bytes;
    return block;
}

FUZZ_SHARED void fuzz_free(void *user, void *block, size_t size)
{
    fuzz_memory *memory = (fuzz_memory *)user;
    memory->bytes -= size;
    --memory->blocks;
    free(block);
}

/* ---- files: "in" is the input, "out" what was saved last --------------------------------------------------- */

typedef struct fuzz_bytes {
    const uint8_t *bytes;
    size_t size, at;
} fuzz_bytes;

static fuzz_bytes fuzz_in, fuzz_out;
static uint8_t fuzz_saved[1 << 20];

FUZZ_SHARED void *fuzz_open(void *user, const char *path, char mode)
{
    fuzz_bytes *file = strcmp(path, "in") == 0 ? &fuzz_in : &fuzz_out;
    (void)user;
    fuzz_check((file == &fuzz_in) <= (mode == 'r'));
    file->at = 0;
    if (mode == 'w') file->bytes = fuzz_saved, file->size = 0;
    return file;
}

FUZZ_SHARED size_t fuzz_read(void *user, void *file, void *bytes, size_t size)
{
    fuzz_bytes *f = (fuzz_bytes *)file;
    const size_t left = f->size - f->at, now = size < left ? size : left;
    (void)user;
    if (now) memcpy(bytes, f->bytes + f->at, now);
    f->at += now;
    return now;
}

FUZZ_SHARED size_t fuzz_write(void *user, void *file, const void *bytes, size_t size)
{
    fuzz_bytes *f = (fuzz_bytes *)file;
    const size_t left = sizeof fuzz_saved - f->size, now = size < left ? size : left;
    (void)user;
    memcpy(fuzz_saved + f->size, bytes, now);
    f->size += now;
    return now;
}

FUZZ_SHARED int64_t fuzz_size(void *user, void *file)
{
    (void)user;
    return (int64_t)((fuzz_bytes *)file)->size;
}

FUZZ_SHARED int fuzz_done(void *user, void *file)
{
    (void)user, (void)file;
    return 0;
}

FUZZ_SHARED int fuzz_replace(void *user, const char *from, const char *to)
{
    (void)user, (void)from, (void)to;
    return 0;
}

FUZZ_SHARED void fuzz_remove(void *user, const char *path) { (void)user, (void)path; }

/* What was saved last, to be freed. */
FUZZ_SHARED uint8_t *fuzz_copy_saved(size_t *size)
{
    uint8_t *copy = (uint8_t *)malloc(fuzz_out.size + 1);
    fuzz_check(copy != NULL);
    memcpy(copy, fuzz_saved, fuzz_out.size);
    *size = fuzz_out.size;
    return copy;
}

FUZZ_SHARED int fuzz_saved_is(const uint8_t *bytes, size_t size)
{
    return fuzz_out.size == size && memcmp(fuzz_saved, bytes, size) == 0;
}

/* ---- contexts -------------------------------------------------------------------------------------------- */

/* clang 14's MemorySanitizer takes the lanes that masks of AVX-512 leave out for read. */
#if defined(__has_feature)
#if __has_feature(memory_sanitizer)
#define FUZZ_WITHOUT_MASKS 1
#endif
#endif
#ifndef FUZZ_WITHOUT_MASKS
#define FUZZ_WITHOUT_MASKS 0
#endif

FUZZ_SHARED kd_ctx *fuzz_context(fuzz_memory *memory, kd_isa isa, kd_parallel_fn parallel_for)
{
    const kd_io io = {fuzz_open, fuzz_read,    fuzz_write,  fuzz_size, fuzz_done,
                      fuzz_done, fuzz_replace, fuzz_remove, NULL};
    kd_ctx_desc desc = kd_ctx_defaults();
    kd_ctx *kd;
    desc.allocator.alloc = fuzz_alloc;
    desc.allocator.free = fuzz_free;
    desc.allocator.user = memory;
    desc.io = io;
    desc.isa = isa;
    if (isa == KD_ISA_AUTO && FUZZ_WITHOUT_MASKS)
        desc.isa = kd_isa_available(KD_ISA_AVX2) ? KD_ISA_AVX2 : KD_ISA_SCALAR;
    desc.parallel_for = parallel_for;
    desc.threads = parallel_for ? 3 : 1;
    fuzz_check(kd_open(&desc, &kd) == KD_OK);
    return kd;
}

FUZZ_SHARED void fuzz_close(kd_ctx *kd, const fuzz_memory *memory)
{
    kd_close(kd);
    fuzz_check(memory->blocks == 0 && memory->bytes == 0);
}

/* Between these two calls, of a context that stays open, nothing may be left behind. */
FUZZ_SHARED void fuzz_begin(fuzz_memory *memory)
{
    memory->bytes_before = memory->bytes;
    memory->blocks_before = memory->blocks;
}

FUZZ_SHARED void fuzz_end(const fuzz_memory *memory)
{
    fuzz_check(memory->blocks == memory->blocks_before && memory->bytes == memory->bytes_before);
}

/* Whether this input is the one in so many that is looked at more closely: always the same ones. */
FUZZ_SHARED int fuzz_one_of(uint32_t many, const uint8_t *data, size_t size)
{
    uint32_t hash = 2166136261u; /* FNV-1a */
    size_t i;
    for (i = 0; i < size; ++i) hash = (hash ^ data[i]) * 16777619u;
    return (hash ^ hash >> 15) % many == 0;
}

FUZZ_SHARED void fuzz_input(const uint8_t *data, size_t size)
{
    fuzz_in.bytes = data;
    fuzz_in.size = size;
}

/* ---- what an input may cost ------------------------------------------------------------------------------- */

enum { FUZZ_LONG = 1 << 16, FUZZ_STRETCHES = 32 /* one input of so many is made longer */ };

typedef struct fuzz_cost {
    fuzz_memory *memory;
    size_t bytes;
    clock_t start;
} fuzz_cost;

FUZZ_SHARED fuzz_cost fuzz_cost_begin(fuzz_memory *memory)
{
    fuzz_cost cost;
    cost.memory = memory;
    cost.bytes = memory->most = memory->bytes;
    cost.start = clock();
    return cost;
}

/* Half a second, for a busy machine, and 5 us a byte with sanitizers; 64 KB and so many bytes a byte. */
FUZZ_SHARED void fuzz_cost_end(fuzz_cost cost, size_t size, size_t each)
{
    fuzz_check((double)(clock() - cost.start) / CLOCKS_PER_SEC < 0.5 + 5e-6 * (double)size);
    fuzz_check(cost.memory->most - cost.bytes <= (1 << 16) + each * size);
}

/* The input with one of its bytes repeated, so that whoever looks back takes a quadratic time.
   `prefix` bytes stay in front; of them the last `wide` are the length, low byte first, of the header that follows.
   NULL where there is no byte to repeat. */
FUZZ_SHARED uint8_t *fuzz_stretched(const uint8_t *data, size_t size, size_t prefix, size_t wide, size_t *length)
{
    uint64_t header = 0;
    uint8_t *copy;
    size_t at, i, more = FUZZ_LONG;
    for (i = 0; i < wide && prefix <= size; ++i) header |= (uint64_t)data[prefix - wide + i] << 8 * i;
    if (size <= prefix || (wide && (header == 0 || header > size - prefix))) return NULL;
    if (wide == 2) more = header < 60000 ? 65535 - header : 0;
    at = prefix + (data[size / 2] + 256u * data[size - 1]) % (wide ? (size_t)header : size - prefix);
    copy = (uint8_t *)malloc(size + more + 1);
    fuzz_check(copy != NULL);
    memcpy(copy, data, at);
    memset(copy + at, data[at], more);
    memcpy(copy + at + more, data + at, size - at);
    copy[size + more] = 0;
    for (i = 0; i < wide; ++i) copy[prefix - wide + i] = (uint8_t)((header + more) >> 8 * i);
    *length = size + more;
    return copy;
}

/* A refused file is refused in words, for a reason that a file can give. */
FUZZ_SHARED void fuzz_refused(const kd_ctx *kd, kd_result result, const void *out)
{
    fuzz_check(result == KD_ERR_FORMAT || result == KD_ERR_SPEC || result == KD_ERR_SHAPE ||
               result == KD_ERR_NOT_FINITE || result == KD_ERR_MEMORY || result == KD_ERR_ARGUMENT);
    fuzz_check(out == NULL && *kd_error(kd));
}

/* Small enough to be run thousands of times a second; *numbers is the length of its input. */
FUZZ_SHARED int fuzz_is_small(const kd_model *m, size_t *numbers)
{
    kd_workspace *w = NULL;
    size_t bytes;
    int channels, height, width;
    if (kd_workspace_create(m, 1, &w) != KD_OK) return 0;
    bytes = kd_workspace_bytes(w);
    kd_workspace_destroy(w);
    kd_model_input(m, &channels, &height, &width);
    *numbers = (size_t)channels * (size_t)height * (size_t)width;
    return bytes < 1 << 17 && *numbers <= FUZZ_NUMBERS && kd_model_outputs(m) <= FUZZ_NUMBERS &&
           kd_model_macs(m) < 300000 && kd_model_parameters(m) < 20000;
}

/* Pixels that are neither all alike nor random. */
FUZZ_SHARED void fuzz_pixels(float *x, size_t count)
{
    size_t i;
    for (i = 0; i < count; ++i) x[i] = (float)(i * 37 % 101) / 101;
}

#endif /* KD_FUZZ_H */
