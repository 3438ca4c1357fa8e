/* What a user's one source file is, with the header once more behind it; compiled as C and as C++. */
#define KD_IMPLEMENTATION
#include "../../kd.h"
#include "../../kd.h"
