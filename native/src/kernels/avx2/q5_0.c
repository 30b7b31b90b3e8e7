#include "groups.h"

/* weight = d lane, which unpacks as lane + 16 */
GROUP_KERNELS(q5_0, .lanes = FIVE_BITS, .zeros = 2, .minima = 0)
