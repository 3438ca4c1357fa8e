/* see stdio.h */
#ifndef KD_TESTS_MSVC_STRING_H
#define KD_TESTS_MSVC_STRING_H
#include <stddef.h>
#ifdef __cplusplus
extern "C" {
#endif
void *__cdecl memcpy(void *to, const void *from, size_t size);
void *__cdecl memmove(void *to, const void *from, size_t size);
void *__cdecl memset(void *to, int value, size_t size);
int __cdecl memcmp(const void *a, const void *b, size_t size);
size_t __cdecl strlen(const char *text);
int __cdecl strcmp(const char *a, const char *b);
int __cdecl strncmp(const char *a, const char *b, size_t size);
size_t __cdecl strspn(const char *text, const char *set);
size_t __cdecl strcspn(const char *text, const char *set);
#ifdef __cplusplus
}
/* As there, C++ tells apart what is const. */
extern "C++" {
const void *__cdecl memchr(const void *block, int value, size_t size);
const char *__cdecl strchr(const char *text, int value);
const char *__cdecl strrchr(const char *text, int value);
const char *__cdecl strstr(const char *text, const char *part);
inline char *__cdecl strchr(char *text, int value) { return const_cast<char *>(strchr((const char *)text, value)); }
inline char *__cdecl strrchr(char *text, int value)
{
    return const_cast<char *>(strrchr((const char *)text, value));
}
inline char *__cdecl strstr(char *text, const char *part)
{
    return const_cast<char *>(strstr((const char *)text, part));
}
}
#else
void *__cdecl memchr(const void *block, int value, size_t size);
char *__cdecl strchr(const char *text, int value);
char *__cdecl strrchr(const char *text, int value);
char *__cdecl strstr(const char *text, const char *part);
#endif
#endif
