#include "block_32.h"

BLOCK_32_KERNELS(q5_1, unpack_5, 0, 1, 160)
