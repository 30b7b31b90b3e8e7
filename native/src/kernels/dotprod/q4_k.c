#include "superblocks.h"

SUPER_GEMV(q4_k, .lanes = NIBBLES, .minima = 1)
