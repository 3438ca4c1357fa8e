#include "stdlib.h" /* see stdio.h */
