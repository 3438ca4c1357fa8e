/* soft.h - arithmetic that compilers call and Debian's libgcc for the Xtensa does not have: products and quotients
   of integers, and IEEE 754 in float and double, rounded to the nearest, halves to even. Small, not fast.
   SOFT(name) is what a function is called. */
#ifndef SOFT_H
#define SOFT_H

#include <stdint.h>
#include <string.h>

/* ---- integers: sums and shifts alone ------------------------------------------------------------------------ */

static uint64_t soft_product(uint64_t a, uint64_t b)
{
    uint64_t sum = 0;
    for (; b; b >>= 1, a <<= 1) sum += b & 1 ? a : 0;
    return sum;
}

static uint64_t soft_divide(uint64_t a, uint64_t b, uint64_t *rest)
{
    uint64_t quotient = 0, left = 0;
    int i;
    for (i = 63; i >= 0; --i) {
        left = left << 1 | (a >> i & 1);
        quotient <<= 1;
        if (left >= b) left -= b, quotient |= 1;
    }
    *rest = left;
    return quotient;
}

static int64_t soft_signed(int64_t a, int64_t b, int rest)
{
    uint64_t left;
    const uint64_t size =
        soft_divide(a < 0 ? 0 - (uint64_t)a : (uint64_t)a, b < 0 ? 0 - (uint64_t)b : (uint64_t)b, &left);
    const uint64_t value = rest ? left : size;
    return (int64_t)((a < 0) != (!rest && b < 0) ? 0 - value : value);
}

static uint64_t soft_unsigned(uint64_t a, uint64_t b, int rest)
{
    uint64_t left;
    const uint64_t size = soft_divide(a, b, &left);
    return rest ? left : size;
}

/* ---- floating point ----------------------------------------------------------------------------------------- */

/* (-1)^minus m 2^(e - 62), m with its highest bit at 62, or 0. */

enum { SOFT_INFINITE = 20000 }; /* e of an infinity, m then 1 << 62; any other m: not a number */
#define SOFT_ONE ((uint64_t)1 << 62)

typedef struct soft {
    int minus, e;
    uint64_t m;
} soft;

static soft soft_normal(soft x)
{
    for (; x.m && x.m < SOFT_ONE; x.m <<= 1) --x.e;
    for (; x.m >= 2 * SOFT_ONE; ++x.e) x.m = x.m >> 1 | (x.m & 1);
    return x;
}

/* Of a format with `digits` bits behind the point and exponents around `bias`. */
static soft soft_open(uint64_t bits, int digits, int bias)
{
    soft x;
    const int all = 2 * bias + 1, e = (int)(bits >> digits) & all;
    const uint64_t m = bits & (((uint64_t)1 << digits) - 1);
    x.minus = (int)(bits >> (digits == 23 ? 31 : 63));
    x.e = e == all ? SOFT_INFINITE : (e ? e : 1) - bias;
    x.m = (m | (uint64_t)(e > 0) << digits) << (62 - digits);
    return e == all ? x : soft_normal(x);
}

static uint64_t soft_close(soft x, int digits, int bias)
{
    const uint64_t sign = (uint64_t)x.minus << (digits == 23 ? 31 : 63), all = (uint64_t)(2 * bias + 1);
    uint64_t m = x.m, rest;
    int e = x.e + bias, down = 62 - digits;
    if (!m) return sign;
    if (x.e >= SOFT_INFINITE) return sign | all << digits | (uint64_t)(m != SOFT_ONE) << (digits - 1);
    if (e < 1) down += 1 - e, e = 1; /* below the normal numbers */
    if (down > 63) return sign;
    rest = m & (((uint64_t)1 << down) - 1);
    m >>= down;
    if (rest > (uint64_t)1 << (down - 1) || (rest == (uint64_t)1 << (down - 1) && (m & 1))) ++m;
    if (m >> (digits + 1)) m >>= 1, ++e;
    if (e >= 2 * bias + 1) return sign | all << digits;
    return sign | ((m >> digits ? (uint64_t)e : 0) << digits) | (m & (((uint64_t)1 << digits) - 1));
}

static soft soft_nan(void)
{
    soft x;
    x.minus = 0, x.e = SOFT_INFINITE, x.m = SOFT_ONE | SOFT_ONE >> 1;
    return x;
}

static int soft_finite(soft x) { return x.e < SOFT_INFINITE; }
static int soft_is_nan(soft x) { return !soft_finite(x) && x.m != SOFT_ONE; }

static soft soft_add(soft a, soft b)
{
    int far;
    if (soft_is_nan(a) || soft_is_nan(b)) return soft_nan();
    if (!soft_finite(a)) return !soft_finite(b) && a.minus != b.minus ? soft_nan() : a;
    if (!soft_finite(b) || !a.m) {
        if (!a.m && !b.m) b.minus &= a.minus;
        return b;
    }
    if (!b.m) return a;
    if (a.e < b.e || (a.e == b.e && a.m < b.m)) {
        const soft c = a;
        a = b, b = c;
    }
    far = a.e - b.e;
    a.m >>= 1, b.m = b.m >> 1 | (b.m & 1), a.e += 1; /* room for a carry; two of 53 digits leave enough below */
    b.m = far > 61 ? 1 : far ? b.m >> far | ((b.m & (((uint64_t)1 << far) - 1)) != 0) : b.m;
    a.m = a.minus == b.minus ? a.m + b.m : a.m - b.m;
    if (!a.m) a.minus = 0;
    return soft_normal(a);
}

static soft soft_multiply(soft a, soft b)
{
    soft c;
    uint64_t low, cross, high;
    c.minus = a.minus != b.minus, c.e = a.e + b.e, c.m = 0;
    if (soft_is_nan(a) || soft_is_nan(b)) return soft_nan();
    if (!soft_finite(a) || !soft_finite(b)) {
        if (!a.m || !b.m) return soft_nan();
        c.e = SOFT_INFINITE, c.m = SOFT_ONE;
        return c;
    }
    if (!a.m || !b.m) return c;
    low = soft_product(a.m & 0xffffffffu, b.m & 0xffffffffu);
    cross = soft_product(a.m >> 32, b.m & 0xffffffffu);
    high = soft_product(a.m >> 32, b.m >> 32) + (cross >> 32);
    cross = (cross & 0xffffffffu) + (low >> 32);
    low &= 0xffffffffu;
    {
        const uint64_t other = soft_product(a.m & 0xffffffffu, b.m >> 32);
        high += other >> 32;
        cross += other & 0xffffffffu;
        high += cross >> 32;
        low |= cross << 32;
    }
    c.m = high << 2 | low >> 62 | ((low & (SOFT_ONE - 1)) != 0); /* the product less 62 bits */
    return soft_normal(c);
}

static soft soft_quotient(soft a, soft b)
{
    soft c;
    uint64_t left = a.m;
    int i;
    c.minus = a.minus != b.minus, c.e = a.e - b.e, c.m = 0;
    if (soft_is_nan(a) || soft_is_nan(b) || (!soft_finite(a) && !soft_finite(b)) || (!a.m && !b.m))
        return soft_nan();
    if (!soft_finite(b) || !a.m) return c;
    if (!soft_finite(a) || !b.m) {
        c.e = SOFT_INFINITE, c.m = SOFT_ONE;
        return c;
    }
    for (i = 0; i < 63; ++i) {
        c.m <<= 1;
        if (left >= b.m) left -= b.m, c.m |= 1;
        left <<= 1;
    }
    c.m |= left != 0;
    return soft_normal(c);
}

static soft soft_whole(int minus, uint64_t size)
{
    soft x;
    x.minus = minus, x.e = 62, x.m = size;
    return soft_normal(x);
}

/* Towards 0; what does not fit into 32 bits is the caller's fault. */
static uint32_t soft_truncate(soft x)
{
    const uint32_t size = !x.m || x.e < 0 ? 0 : x.e > 31 ? UINT32_MAX : (uint32_t)(x.m >> (62 - x.e));
    return x.minus ? 0 - size : size;
}

static soft soft_f(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return soft_open(bits, 23, 127);
}

static soft soft_d(double x)
{
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    return soft_open(bits, 52, 1023);
}

static float soft_to_f(soft x)
{
    const uint32_t bits = (uint32_t)soft_close(x, 23, 127);
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static double soft_to_d(soft x)
{
    const uint64_t bits = soft_close(x, 52, 1023);
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static soft soft_less(soft x)
{
    x.minus = !x.minus;
    return x;
}

/* ---- under the names that compilers know --------------------------------------------------------------------- */

#define SOFT_FUNCTION(type, name, parameters, value)                                                               \
    type SOFT(name) parameters;                                                                                    \
    type SOFT(name) parameters { return value; }

SOFT_FUNCTION(uint64_t, muldi3, (uint64_t a, uint64_t b), soft_product(a, b))
SOFT_FUNCTION(uint64_t, umulsidi3, (uint32_t a, uint32_t b), soft_product(a, b))
SOFT_FUNCTION(uint64_t, udivdi3, (uint64_t a, uint64_t b), soft_unsigned(a, b, 0))
SOFT_FUNCTION(uint64_t, umoddi3, (uint64_t a, uint64_t b), soft_unsigned(a, b, 1))
SOFT_FUNCTION(int64_t, divdi3, (int64_t a, int64_t b), soft_signed(a, b, 0))
SOFT_FUNCTION(uint32_t, udivsi3, (uint32_t a, uint32_t b), (uint32_t)soft_unsigned(a, b, 0))
SOFT_FUNCTION(uint32_t, umodsi3, (uint32_t a, uint32_t b), (uint32_t)soft_unsigned(a, b, 1))
SOFT_FUNCTION(int32_t, divsi3, (int32_t a, int32_t b), (int32_t)soft_signed(a, b, 0))
SOFT_FUNCTION(float, addsf3, (float a, float b), soft_to_f(soft_add(soft_f(a), soft_f(b))))
SOFT_FUNCTION(float, subsf3, (float a, float b), soft_to_f(soft_add(soft_f(a), soft_less(soft_f(b)))))
SOFT_FUNCTION(float, mulsf3, (float a, float b), soft_to_f(soft_multiply(soft_f(a), soft_f(b))))
SOFT_FUNCTION(double, adddf3, (double a, double b), soft_to_d(soft_add(soft_d(a), soft_d(b))))
SOFT_FUNCTION(double, subdf3, (double a, double b), soft_to_d(soft_add(soft_d(a), soft_less(soft_d(b)))))
SOFT_FUNCTION(double, muldf3, (double a, double b), soft_to_d(soft_multiply(soft_d(a), soft_d(b))))
SOFT_FUNCTION(double, divdf3, (double a, double b), soft_to_d(soft_quotient(soft_d(a), soft_d(b))))
SOFT_FUNCTION(double, extendsfdf2, (float x), soft_to_d(soft_f(x)))
SOFT_FUNCTION(float, truncdfsf2, (double x), soft_to_f(soft_d(x)))
SOFT_FUNCTION(int32_t, fixdfsi, (double x), (int32_t)soft_truncate(soft_d(x)))
SOFT_FUNCTION(uint32_t, fixunsdfsi, (double x), soft_truncate(soft_d(x)))
SOFT_FUNCTION(uint32_t, fixunssfsi, (float x), soft_truncate(soft_f(x)))
SOFT_FUNCTION(double, floatsidf, (int32_t x), soft_to_d(soft_whole(x < 0, x < 0 ? 0 - (uint32_t)x : (uint32_t)x)))
SOFT_FUNCTION(float, floatsisf, (int32_t x), soft_to_f(soft_whole(x < 0, x < 0 ? 0 - (uint32_t)x : (uint32_t)x)))
SOFT_FUNCTION(float, floatunsisf, (uint32_t x), soft_to_f(soft_whole(0, x)))

#endif
