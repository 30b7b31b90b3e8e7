#include "gemm_256.h"

KERNELS_256(q5_k)
