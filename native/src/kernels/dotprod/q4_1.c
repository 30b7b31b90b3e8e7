#include "sdot.h"

#include "group_gemm.h"

GROUP_KERNELS(q4_1, .lanes = NIBBLES, .minima = 1)
