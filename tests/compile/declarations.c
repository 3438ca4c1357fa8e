/* The public part alone, twice: it must need nothing, and define nothing. */
#include "../../kd.h"
#include "../../kd.h"

#ifdef KD__IMPLEMENTED
#error "the implementation came along"
#endif
