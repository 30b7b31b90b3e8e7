#include "groups.h"

/* weight = d lane */
GROUP_KERNELS(q8_0, .lanes = BYTES, .zeros = 0, .minima = 0)
