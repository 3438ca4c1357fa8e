/* bounds.h - how much memory and time an input of so many bytes may take. Included before what is to be watched. */
#ifndef KD_FUZZ_BOUNDS_H
#define KD_FUZZ_BOUNDS_H

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* A block knows its size, before its first byte. */
typedef union bounds_block {
    size_t size;
    long double alignment;
} bounds_block;

static size_t bounds_now, bounds_most;
static clock_t bounds_started;

static void *bounds_realloc(void *old, size_t size)
{
    bounds_block *block = old ? (bounds_block *)old - 1 : NULL;
    const size_t before = block ? block->size : 0;
    if (size > (size_t)-1 / 4) return NULL;
    block = (bounds_block *)realloc(block, sizeof *block + size);
    if (!block) return NULL;
    block->size = size;
    bounds_now += size - before;
    if (bounds_now > bounds_most) bounds_most = bounds_now;
    return block + 1;
}

static void *bounds_calloc(size_t count, size_t size)
{
    void *bytes = bounds_realloc(NULL, count * size);
    return bytes ? memset(bytes, 0, count * size) : NULL;
}

static void bounds_free(void *bytes)
{
    bounds_block *block = bytes ? (bounds_block *)bytes - 1 : NULL;
    if (!block) return;
    bounds_now -= block->size;
    free(block);
}

static void bounds_begin(void)
{
    bounds_now = bounds_most = 0;
    bounds_started = clock();
}

/* Bytes of memory: so many, and so many for each byte of the input. Time: of the processor, with sanitizers. */
static void bounds_end(size_t size, size_t fixed, size_t each, double seconds, double seconds_each)
{
    const double took = (double)(clock() - bounds_started) / CLOCKS_PER_SEC;
    if (bounds_now == 0 && bounds_most <= fixed + each * size && took <= seconds + seconds_each * (double)size)
        return;
    fprintf(stderr, "an input of %zu bytes takes %zu bytes of memory, leaves %zu, and takes %.3f s\n", size,
            bounds_most, bounds_now, took);
    abort();
}

#define calloc(count, size) bounds_calloc(count, size)
#define realloc(block, size) bounds_realloc(block, size)
#define free(block) bounds_free(block)

#endif /* KD_FUZZ_BOUNDS_H */
