#include "block_256.h"

/* int8 scale[2][8] after a tile, for columns 0 .. 15 and 16 .. 31. */
INLINE __m512i tile(const uint8_t *a, const uint8_t *b, const int8_t *codes, int tokens, size_t columns,
                    __m512i sums[]) {
  __m512i lanes[8];
  unpack_6(a, b, lanes);
  const __m512i low = _mm512_cvtepi8_epi32(load_pair_bytes(a + 192, b + 192));
  const __m512i high = _mm512_cvtepi8_epi32(load_pair_bytes(a + 200, b + 200));
  add_scaled_dots(lanes, 4, low, codes, tokens, columns, sums);
  add_scaled_dots(lanes + 4, 4, high, codes + 16, tokens, columns, sums);
  return _mm512_mask_blend_epi16(0xaaaaaaaa, low, _mm512_slli_epi32(high, 16));
}

BLOCK_256_KERNELS(q6_k, tile, 192 + 16, 16, 0, 32)
