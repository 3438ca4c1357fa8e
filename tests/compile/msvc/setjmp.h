/* see stdio.h */
#ifndef KD_TESTS_MSVC_SETJMP_H
#define KD_TESTS_MSVC_SETJMP_H
typedef struct {
    unsigned long long part[32];
} jmp_buf[1];
#endif
