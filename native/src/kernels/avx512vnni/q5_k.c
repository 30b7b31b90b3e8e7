#include "block_256.h"

/* lane + 16 is the true code */
BLOCK_256_KERNELS(q5_k, {.unpack = unpack_5, .is_q6_k = 0, .tile_bytes = 160, .header_bytes = 32})
