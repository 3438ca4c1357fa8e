/* see stdio.h */
#ifndef KD_TESTS_MSVC_MATH_H
#define KD_TESTS_MSVC_MATH_H
#define INFINITY ((float)(1e+300 * 1e+300))
#define NAN (-(float)(INFINITY * 0.0f))
#define HUGE_VAL ((double)INFINITY)
#ifdef __cplusplus
extern "C" {
#endif
double __cdecl exp(double x);
double __cdecl log(double x);
double __cdecl ceil(double x);
double __cdecl floor(double x);
double __cdecl fabs(double x);
double __cdecl sqrt(double x);
double __cdecl fmod(double x, double y);
float __cdecl sqrtf(float x);
float __cdecl fabsf(float x);
float __cdecl floorf(float x);
float __cdecl ceilf(float x);
#ifdef __cplusplus
}
#endif
#endif
