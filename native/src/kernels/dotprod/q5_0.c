#include "groups.h"

GROUP_GEMV(q5_0, .lanes = FIVE)
