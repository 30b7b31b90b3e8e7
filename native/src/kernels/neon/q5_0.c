#include "gemm_32.h"

KERNELS_32(q5_0)
