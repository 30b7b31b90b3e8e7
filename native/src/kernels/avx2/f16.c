#include "floats.h"

FLOAT_KERNELS(f16, F16)
