#include "groups.h"

GROUP_GEMV(iq4_nl, .lanes = LEVELS)
