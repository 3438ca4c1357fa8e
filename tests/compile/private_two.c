#define KD_STATIC
#define KD_IMPLEMENTATION
#include "../../kd.h"

int other_opens(void);

int other_opens(void)
{
    kd_ctx *kd;
    if (kd_open(NULL, &kd) != KD_OK) return 0;
    kd_close(kd);
    return 1;
}
