/* What kd.h uses of the C library's headers with MSVC, declared as they declare it: enough for a compiler's front
   end on a machine without them. Nothing links with this. */
#ifndef KD_TESTS_MSVC_STDIO_H
#define KD_TESTS_MSVC_STDIO_H
#include <stddef.h>

typedef struct _iobuf {
    void *_Placeholder;
} FILE;
#define SEEK_SET 0
#define SEEK_END 2
#ifdef __cplusplus
extern "C" {
#endif
FILE *__cdecl fopen(const char *name, const char *mode);
FILE *__cdecl _wfopen(const wchar_t *name, const wchar_t *mode);
int __cdecl fclose(FILE *file);
size_t __cdecl fread(void *to, size_t size, size_t count, FILE *file);
size_t __cdecl fwrite(const void *from, size_t size, size_t count, FILE *file);
int __cdecl fflush(FILE *file);
int __cdecl fseek(FILE *file, long offset, int origin);
int __cdecl _fseeki64(FILE *file, long long offset, int origin);
long long __cdecl _ftelli64(FILE *file);
int __cdecl _fileno(FILE *file);
int __cdecl remove(const char *name);
int __cdecl rename(const char *from, const char *to);
#ifdef __cplusplus
}
#endif
#endif
