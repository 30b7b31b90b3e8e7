#include "gemm_32.h"

KERNELS_32(iq4_nl)
