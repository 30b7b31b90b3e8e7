#include "sdot.h"

#include "group_gemm.h"

GROUP_KERNELS(q5_0, .lanes = FIVE)
