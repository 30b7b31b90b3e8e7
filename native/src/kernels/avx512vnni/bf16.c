#include "float.h"

FLOAT_KERNELS(bf16, BFLOATS)
