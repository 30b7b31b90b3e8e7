#include "sdot.h"

#include "group_gemm.h"

GROUP_KERNELS(q4_0, .lanes = NIBBLES, .zero = -8)
