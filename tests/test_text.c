/* Formatting: what the C library's printf writes, for every directive that it shares with it. */
#include "support.h"

#include <inttypes.h>

static char theirs[2048], ours[2048];
static int checked;

#define SAME(format, ...)                                                                                          \
    do {                                                                                                           \
        const int length = snprintf(theirs, sizeof theirs, format, __VA_ARGS__);                                   \
        memset(ours, 'x', sizeof ours);                                                                            \
        assert_int_equal(kd__print(ours, sizeof ours, format, __VA_ARGS__), length);                               \
        assert_string_equal(ours, theirs);                                                                         \
        ++checked;                                                                                                 \
    } while (0)

/* Random flags, width and precision, put together as a format. */
static const char *format_of(uint64_t random, const char *flags, const char *kind)
{
    static char format[32];
    size_t at = 0, i;
    format[at++] = '%';
    for (i = 0; flags[i]; ++i) {
        if (random >> i & 1) format[at++] = flags[i];
    }
    random >>= 8;
    if (random & 1) at += (size_t)sprintf(format + at, "%d", (int)(random >> 1 & 31));
    random >>= 8;
    if (random & 1) at += (size_t)sprintf(format + at, ".%d", (int)(random >> 1 & 31));
    strcpy(format + at, kind);
    return format;
}

#if defined(__GNUC__)
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
#pragma GCC diagnostic ignored "-Wformat-security"
#endif

static void whole_numbers(void **state)
{
    static const char *const kinds[] = {"lld", "lli", "llu", "llx", "llX", "llo"};
    int i, j;
    (void)state;
    for (i = 0; i < 20000; ++i) {
        uint64_t random = kd__rng_bits(7, (uint64_t)i), value = kd__rng_bits(8, (uint64_t)i) >> (i % 64);
        j = i % KD__COUNT(kinds);
        if (i % 50 == 0) value = 0;
        if (i % 51 == 0) value = (uint64_t)1 << 63;
        SAME(format_of(random, j < 2 ? "-0+ " : j > 2 ? "-0#" : "-0", kinds[j]), (long long)value);
    }
    SAME("%d %i %u %x %ld %lu %zu %td %jd %hd", -5, INT_MIN, UINT_MAX, 48879u, LONG_MIN, ULONG_MAX, (size_t)-1,
         (ptrdiff_t)-3, (intmax_t)INT64_MIN, 12);
    SAME("%08x|%-8d|%+d|% d|%.5d|%8.3d|%.0d|", 255u, 42, 7, 7, 42, 7, 0);
    SAME("%*d|%-*d|%*d|%.*d|%.*d", 6, 42, 6, 42, -6, 42, 4, 7, -1, 7);
}

static void text_and_letters(void **state)
{
    (void)state;
    SAME("%s|%10s|%-10s|%.2s|%10.2s|%.0s|%.*s|%*s|", "four", "four", "four", "four", "four", "four", 3, "four", 7,
         "four");
    SAME("%c|%3c|%-3c|%%|%s", 'a', 'b', 'c', "");
    SAME("100%% of %s", "them");
}

static void doubles(void **state)
{
    static const char *const kinds[] = {"e", "f", "g", "E", "F", "G"};
    static const double some[] = {0.0,     -0.0,    1.0,    0.5,       2.5,    9.5,     99.5,     0.1,      1e22,
                                  1e23,    1.5e300, 5e-324, 1e-5,      0.0001, 1e100,   999999,   999999.5, 1e16,
                                  0.00012, 123456,  1e6,    9.9999995, 2e-308, 1.7e308, INFINITY, NAN,      12.75,
                                  -4.125,  1e9,     1e18,   0.25,      1e-9,   0.03125};
    int i, j;
    (void)state;
    for (i = 0; i < 30000; ++i) {
        const uint64_t random = kd__rng_bits(9, (uint64_t)i);
        uint64_t bits = kd__rng_bits(10, (uint64_t)i);
        double value;
        if (i % 3 == 0) bits = (bits >> 6) + ((uint64_t)990 << 52); /* near 1 */
        if (i % 3 == 1) bits &= ~(uint64_t)0 << (bits & 51);        /* ends that are halves */
        memcpy(&value, &bits, sizeof value);
        if (i % 10 == 0) value = some[random % (sizeof some / sizeof *some)];
        if (value != value) value = some[25]; /* the sign of a NaN is anybody's */
        j = i % KD__COUNT(kinds);
        /* glibc leaves out the zeros that # asks g for, where rounding has added a digit */
        SAME(format_of(random, j % 3 == 2 ? "-0+ " : "-0+ #", kinds[j]), value);
    }
    SAME("%#g %#.3g %#G %#.0f %#.0e", 1.5, 100.0, 1e-7, 3.0, 4.0);
}

/* Text that does not fit is cut and ended; its length is that of all of it, also where there is no room at all. */
static void cut(void **state)
{
    char room[8];
    (void)state;
    memset(room, 'x', sizeof room);
    assert_int_equal(kd__print(room, 5, "%d,%s", 123, "four"), 8);
    assert_memory_equal(room, "123,\0xxx", 8);
    assert_int_equal(kd__print(room, 1, "%d", 123), 3);
    assert_memory_equal(room, "\00023", 1);
    assert_int_equal(kd__print(NULL, 0, "%e", 1.0), 12);
}

/* What follows a lone percent sign at the end, and kinds that there are not, is no reason to read on. */
static void broken(void **state)
{
    char room[16];
    const char *const formats[] = {"%", "%5", "%.", "%ll", "%#0", "%-5.3l"};
    int i;
    (void)state;
    for (i = 0; i < KD__COUNT(formats); ++i) {
        assert_int_equal(kd__print(room, sizeof room, formats[i], 0), 1);
        assert_string_equal(room, "%");
    }
}

/* Nine digits bring every float back; every digit that is written is right, with as many as there are. */
static void floats_come_back(void **state)
{
    int i;
    (void)state;
    for (i = 0; i < 100000; ++i) {
        const float value = kd__bits_float((uint32_t)kd__rng_bits(11, (uint64_t)i));
        const char *end;
        kd__text text;
        if (!kd__is_finite((double)value)) continue;
        text = kd__number((double)value, 9);
        assert_true(strtof(text.chars, NULL) == value);
        if (fabsf(value) > 1e-30f && fabsf(value) < 1e30f)
            assert_true((float)kd__parse_number(text.chars, &end) == value);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(whole_numbers), cmocka_unit_test(text_and_letters),
                                       cmocka_unit_test(doubles),       cmocka_unit_test(cut),
                                       cmocka_unit_test(broken),        cmocka_unit_test(floats_come_back)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
