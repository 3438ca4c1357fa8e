/* see stdio.h */
#ifndef KD_TESTS_MSVC_STDLIB_H
#define KD_TESTS_MSVC_STDLIB_H
#include <stddef.h>
#ifdef __cplusplus
extern "C" {
#endif
void *__cdecl malloc(size_t size);
void *__cdecl calloc(size_t count, size_t size);
void __cdecl free(void *block);
void *__cdecl _aligned_malloc(size_t size, size_t alignment);
void __cdecl _aligned_free(void *block);
void __cdecl qsort(void *base, size_t count, size_t size, int(__cdecl *compare)(const void *, const void *));
void *__cdecl bsearch(const void *key, const void *base, size_t count, size_t size,
                      int(__cdecl *compare)(const void *, const void *));
long __cdecl strtol(const char *text, char **end, int base);
#ifdef __cplusplus
}
#endif
#endif
