#include "block_32.h"

BLOCK_32_KERNELS(q4_1, unpack_4, 0, 1, 128)
