#include "block_32.h"

BLOCK_32_KERNELS(q5_0, unpack_5, 2, 0, 160)
