#include "gemm_32.h"

KERNELS_32(q4_0)
