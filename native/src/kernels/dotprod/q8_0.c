#include "sdot.h"

#include "group_gemm.h"

GROUP_KERNELS(q8_0, .lanes = BYTES)
