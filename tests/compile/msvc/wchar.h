#include "io.h" /* see stdio.h */
