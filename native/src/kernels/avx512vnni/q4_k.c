#include "block_256.h"

BLOCK_256_KERNELS(q4_k, {.unpack = unpack_4, .is_q6_k = 0, .tile_bytes = 128, .header_bytes = 32})
