#include "block_256.h"

INLINE __m512i tile(const uint8_t *a, const uint8_t *b, const int8_t *codes, int tokens, size_t columns,
                    __m512i sums[]) {
  __m512i lanes[8];
  unpack_5(a, b, lanes); /* lane + 16 is the true code */
  return add_affine_tile(lanes, a + 160, b + 160, codes, tokens, columns, sums);
}

BLOCK_256_KERNELS(q5_k, tile, 160 + 16, 32, 1, 0)
