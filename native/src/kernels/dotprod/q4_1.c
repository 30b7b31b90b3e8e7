#include "groups.h"

GROUP_GEMV(q4_1, .lanes = NIBBLES, .minima = 1)
