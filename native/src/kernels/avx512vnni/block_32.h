/* Types with a scale for each 32 columns: sum of d * code * x, or of (d * code + m) * x. */
#ifndef EK_AVX512VNNI_BLOCK_32_H
#define EK_AVX512VNNI_BLOCK_32_H

#include "pairs.h"

/* What one type is: a lane, as `unpack` gives it, is the true code + 8 * excess. */
#define BLOCK_32_KERNELS(type, unpack, excess, has_minima, tile_bytes)                                                 \
  INLINE void pair(int tokens, const uint8_t *a, const uint8_t *b, __mmask16 rows, size_t columns,                     \
                   const ek_activations *x, size_t first, float *out, size_t out_stride) {                             \
    __m512i lanes[8];                                                                                                  \
    __m512 sums[MOST_TOKENS];                                                                                          \
    UNROLL for (int t = 0; t < tokens; t++) sums[t] = _mm512_setzero_ps();                                             \
    token_group at = token_group_at(x, first, columns);                                                                \
    for (size_t k = 0; k < columns; k += 32) {                                                                         \
      unpack(a, b, lanes);                                                                                             \
      multiply_32(lanes, excess, has_minima, a + tile_bytes, b + tile_bytes, &at, tokens, columns, sums);              \
      a += tile_bytes + (has_minima ? 32 : 16);                                                                        \
      b += tile_bytes + (has_minima ? 32 : 16);                                                                        \
      at.codes += 32;                                                                                                  \
      at.scale++;                                                                                                      \
      at.offset++;                                                                                                     \
    }                                                                                                                  \
    UNROLL for (int t = 0; t < tokens; t++) _mm512_mask_storeu_ps(out + (size_t)t * out_stride, rows, sums[t]);        \
  }                                                                                                                    \
  PAIR_KERNELS(type, pair)

/* Where 32 columns of a token are. */
typedef struct token_group {
  const int8_t *codes;
  const float *scale;
  const int32_t *offset;
} token_group;

INLINE token_group token_group_at(const ek_activations *x, size_t token, size_t columns) {
  const size_t groups = token * (columns / 32);
  return (token_group){x->codes + token * columns, x->scales + groups, x->offsets + groups};
}

/* The chains of dependent products of `chains` tokens run side by side. */
INLINE void multiply_32(const __m512i lanes[8], int excess, int has_minima, const uint8_t *scales_a,
                        const uint8_t *scales_b, const token_group *start, int tokens, size_t columns, __m512 sums[]) {
  enum { CHAINS = 4 };
  const __m512 scale = load_pair_halves(scales_a, scales_b);
  __m512 minimum; /* -1/8 of it, for offsets are -8 times the sum of codes */
  if (has_minima) {
    minimum = _mm512_mul_ps(load_pair_halves(scales_a + 16, scales_b + 16), _mm512_set1_ps(-0.125f));
  }
  token_group at = *start;
  UNROLL for (int t = 0; t < tokens; t += CHAINS) {
    const int chains = tokens < CHAINS ? tokens : CHAINS;
    __m512i dot[CHAINS];
    UNROLL for (int c = 0; c < chains; c++) {
      dot[c] = excess ? _mm512_set1_epi32(at.offset[(size_t)c * (columns / 32)]) : _mm512_setzero_si512();
      if (excess == 2) dot[c] = _mm512_slli_epi32(dot[c], 1);
      if (excess == 16) dot[c] = _mm512_slli_epi32(dot[c], 4);
    }
    UNROLL for (int i = 0; i < 8; i++) {
      UNROLL for (int c = 0; c < chains; c++) {
        dot[c] = _mm512_dpbusd_epi32(dot[c], lanes[i], broadcast_codes(at.codes + (size_t)c * columns + 4 * i));
      }
    }
    UNROLL for (int c = 0; c < chains; c++) {
      const size_t group = (size_t)c * (columns / 32);
      __m512 product = _mm512_cvtepi32_ps(dot[c]);
      if (has_minima) {
        const __m512 offset = _mm512_cvtepi32_ps(_mm512_set1_epi32(at.offset[group]));
        product = _mm512_fmadd_ps(product, scale, _mm512_mul_ps(minimum, offset));
      } else {
        product = _mm512_mul_ps(product, scale);
      }
      sums[t + c] = _mm512_fmadd_ps(product, _mm512_set1_ps(at.scale[group]), sums[t + c]);
    }
    at.codes += CHAINS * columns;
    at.scale += CHAINS * (columns / 32);
    at.offset += CHAINS * (columns / 32);
  }
}

#endif
