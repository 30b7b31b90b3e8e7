#include "groups.h"

/* weight = d (lane - 8) */
GROUP_KERNELS(q4_0, .lanes = NIBBLES, .zeros = 1, .minima = 0)
