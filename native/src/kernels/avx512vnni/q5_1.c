#include "block_32.h"

BLOCK_32_KERNELS(q5_1, {.unpack = unpack_5, .excess = 0, .has_minima = 1, .tile_bytes = 160})
