#include "sdot.h"

#include "super_gemm.h"

SUPER_KERNELS(q6_k, .lanes = SIX)
