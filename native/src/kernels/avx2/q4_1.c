#include "groups.h"

/* weight = d lane + m */
GROUP_KERNELS(q4_1, .lanes = NIBBLES, .zeros = 0, .minima = 1)
