#include "block_32.h"

BLOCK_32_KERNELS(q4_0, unpack_4, 1, 0, 128)
