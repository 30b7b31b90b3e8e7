#include "float.h"

FLOAT_KERNELS(f16, HALVES)
