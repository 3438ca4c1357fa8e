/* csource_check: the C source of every model against the logits of kd_predict, in int8 to the bit. Prints what is
   wrong. */
#include "cases.h"

#include <math.h>
#include <stdio.h>

/* The largest difference, relative to the largest logit of the sample. */
static double compare(const float *got, const float *wanted, int count)
{
    double largest = 0, difference = 0;
    int i;
    for (i = 0; i < count; ++i) {
        const double d = fabs((double)got[i] - (double)wanted[i]);
        if (!(d <= difference)) difference = d;
        if (fabs((double)wanted[i]) > largest) largest = fabs((double)wanted[i]);
    }
    return difference / largest;
}

static int likeliest(const float *logits, int count)
{
    int i, best = 0;
    for (i = 1; i < count; ++i) {
        if (logits[i] > logits[best]) best = i;
    }
    return best;
}

static void judge(const char *name, int sample, int exact, double difference, int right_class)
{
    if (!(difference <= (exact ? 0 : 1e-5)) || !right_class)
        printf("%s, sample %d: off by %.3g of the largest%s\n", name, sample, difference,
               right_class ? "" : ", and another class");
}

#define CHECK(name, NAME, exact)                                                                                   \
    static void check_##name(void)                                                                                 \
    {                                                                                                              \
        const int count = NAME##_CHANNELS * NAME##_HEIGHT * NAME##_WIDTH;                                          \
        float logits[NAME##_CLASSES];                                                                              \
        int i;                                                                                                     \
        for (i = 0; i < 2 * SAMPLES; ++i) {                                                                        \
            const float *wanted = name##_logits_wanted + i * NAME##_CLASSES;                                       \
            if (i < SAMPLES)                                                                                       \
                name##_logits(name##_pixels + i * count, logits);                                                  \
            else                                                                                                   \
                name##_logits_of_floats(name##_x + (i - SAMPLES) * count, logits);                                 \
            judge(#name, i, exact, compare(logits, wanted, NAME##_CLASSES),                                        \
                  i >= SAMPLES ||                                                                                  \
                      name##_classify(name##_pixels + i * count) == likeliest(wanted, NAME##_CLASSES));            \
        }                                                                                                          \
    }
CASES(CHECK)

int main(void)
{
#define CALL(name, NAME, exact) check_##name();
    CASES(CALL)
    return 0;
}
