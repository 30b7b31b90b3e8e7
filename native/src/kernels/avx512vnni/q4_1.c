#include "block_32.h"

BLOCK_32_KERNELS(q4_1, {.unpack = unpack_4, .excess = 0, .has_minima = 1, .tile_bytes = 128})
