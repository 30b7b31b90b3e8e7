#include "block_32.h"

BLOCK_32_KERNELS(q8_0, unpack_8, 16, 0, 256)
