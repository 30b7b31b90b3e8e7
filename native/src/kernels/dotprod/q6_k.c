#include "superblocks.h"

SUPER_GEMV(q6_k, .lanes = SIX)
