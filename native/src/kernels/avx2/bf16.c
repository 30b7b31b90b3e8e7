#include "floats.h"

FLOAT_KERNELS(bf16, BF16)
