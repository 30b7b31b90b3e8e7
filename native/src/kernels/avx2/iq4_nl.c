#include "groups.h"

/* weight = d level[lane] */
GROUP_KERNELS(iq4_nl, .lanes = LEVELS, .zeros = 0, .minima = 0)
