#include "groups.h"

/* weight = d (lane + 16) + m, which unpacks as lane + 16 */
GROUP_KERNELS(q5_1, .lanes = FIVE_BITS, .zeros = 0, .minima = 1)
