#include "block_256.h"

INLINE __m512i tile(const uint8_t *a, const uint8_t *b, const int8_t *codes, int tokens, size_t columns,
                    __m512i sums[]) {
  __m512i lanes[8];
  unpack_4(a, b, lanes);
  return add_affine_tile(lanes, a + 128, b + 128, codes, tokens, columns, sums);
}

BLOCK_256_KERNELS(q4_k, tile, 128 + 16, 32, 1, 0)
