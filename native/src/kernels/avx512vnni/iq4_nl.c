#include "block_32.h"

BLOCK_32_KERNELS(iq4_nl, unpack_levels, 16, 0, 128)
