/* The kernels of every instruction set, for test programs that are compiled with KD__KERNELS_APART. */
#define KD_IMPLEMENTATION
#define KD_STATIC
#define KD__KERNEL_LINKAGE
#include "../kd.h"
