#include "smmla.h"

#include "../dotprod/group_gemm.h"

GROUP_GEMM(q4_0, i8mm, .lanes = NIBBLES, .zero = -8)
