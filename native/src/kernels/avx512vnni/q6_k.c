#include "block_256.h"

BLOCK_256_KERNELS(q6_k, {.unpack = unpack_6, .is_q6_k = 1, .tile_bytes = 192, .header_bytes = 16})
