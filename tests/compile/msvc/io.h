/* see stdio.h */
#ifndef KD_TESTS_MSVC_IO_H
#define KD_TESTS_MSVC_IO_H
#include <stddef.h>
#ifdef __cplusplus
extern "C" {
#endif
int __cdecl _commit(int file);
int __cdecl _wremove(const wchar_t *name);
#ifdef __cplusplus
}
#endif
#endif
