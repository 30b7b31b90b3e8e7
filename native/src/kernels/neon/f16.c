#include "floats.h"

KERNELS_FLOATS(f16)
