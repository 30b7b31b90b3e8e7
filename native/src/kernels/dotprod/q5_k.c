#include "sdot.h"

#include "super_gemm.h"

SUPER_KERNELS(q5_k, .lanes = FIVE, .zero = 16, .minima = 1)
