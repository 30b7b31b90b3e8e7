#include "smmla.h"

#include "../dotprod/group_gemm.h"

GROUP_GEMM(q8_0, i8mm, .lanes = BYTES)
