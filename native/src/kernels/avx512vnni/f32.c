#include "float.h"

FLOAT_KERNELS(f32, FLOATS)
