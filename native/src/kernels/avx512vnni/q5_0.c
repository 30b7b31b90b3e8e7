#include "block_32.h"

BLOCK_32_KERNELS(q5_0, {.unpack = unpack_5, .excess = 2, .has_minima = 0, .tile_bytes = 160})
