#include "floats.h"

KERNELS_FLOATS(bf16)
