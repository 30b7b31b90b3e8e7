#include "groups.h"

GROUP_GEMV(q8_0, .lanes = BYTES)
