#include "groups.h"

GROUP_GEMV(q4_0, .lanes = NIBBLES, .zero = -8)
