#include "block_32.h"

BLOCK_32_KERNELS(q8_0, {.unpack = unpack_8, .excess = 16, .has_minima = 0, .tile_bytes = 256})
