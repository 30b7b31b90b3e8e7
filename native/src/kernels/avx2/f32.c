#include "floats.h"

FLOAT_KERNELS(f32, F32)
