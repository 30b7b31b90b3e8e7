#include "smmla.h"

#include "../dotprod/super_gemm.h"

SUPER_GEMM(q4_k, i8mm, .lanes = NIBBLES, .minima = 1)
