#include "block_32.h"

BLOCK_32_KERNELS(q4_0, {.unpack = unpack_4, .excess = 1, .has_minima = 0, .tile_bytes = 128})
