#include "groups.h"

GROUP_GEMV(q5_1, .lanes = FIVE, .zero = 16, .minima = 1)
