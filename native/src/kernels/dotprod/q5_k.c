#include "superblocks.h"

SUPER_GEMV(q5_k, .lanes = FIVE, .zero = 16, .minima = 1)
