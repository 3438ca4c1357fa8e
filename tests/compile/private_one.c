/* Two files, each with an implementation of its own: nothing may collide. */
#define KD_STATIC
#define KD_IMPLEMENTATION
#include "../../kd.h"

int other_opens(void);

int main(void)
{
    kd_ctx *kd;
    if (kd_open(NULL, &kd) != KD_OK) return 1;
    kd_close(kd);
    return other_opens() ? 0 : 1;
}
