#include "sdot.h"

#include "group_gemm.h"

GROUP_KERNELS(q5_1, .lanes = FIVE, .zero = 16, .minima = 1)
