/* see stdio.h */
#ifndef KD_TESTS_MSVC_PROCESS_H
#define KD_TESTS_MSVC_PROCESS_H
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif
uintptr_t __cdecl _beginthreadex(void *security, unsigned stack, unsigned(__stdcall *run)(void *), void *arg,
                                 unsigned flags, unsigned *id);
int __cdecl _getpid(void);
#ifdef __cplusplus
}
#endif
#endif
