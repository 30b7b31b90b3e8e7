#include "sdot.h"

#include "group_gemm.h"

GROUP_KERNELS(iq4_nl, .lanes = LEVELS)
