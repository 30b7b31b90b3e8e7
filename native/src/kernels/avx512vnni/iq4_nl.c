#include "block_32.h"

BLOCK_32_KERNELS(iq4_nl, {.unpack = unpack_levels, .excess = 16, .has_minima = 0, .tile_bytes = 128})
