#include "sdot.h"

#include "super_gemm.h"

SUPER_KERNELS(q4_k, .lanes = NIBBLES, .minima = 1)
