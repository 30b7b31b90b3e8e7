/* Types whose 256 columns share halves that multiply small integer scales. Activations have one scale for them all, so
 * sums are of integers, exact, up to the end of a superblock: at most 8 * 32 * 31 * 63 * 127 and 16 * 16 * 63 * 127 *
 * 127 in magnitude. */
#ifndef EK_AVX512VNNI_BLOCK_256_H
#define EK_AVX512VNNI_BLOCK_256_H

#include "pairs.h"

/* A type's tile, 32 columns: adds scale * code * x to `sums` of each token, from the codes at `codes`, and makes of its
 * scales what multiplies the sums of codes: a pair of int16 for each row, for columns 0 .. 15 and 16 .. 31. */
typedef __m512i tile_fn(const uint8_t *a, const uint8_t *b, const int8_t *codes, int tokens, size_t columns,
                        __m512i sums[]);

/* Codes times their activations, one pass of `count` vectors of weights; chains of dependent products of several tokens
 * run side by side. */
INLINE void add_scaled_dots(const __m512i lanes[], int count, __m512i scale, const int8_t *codes, int tokens,
                            size_t columns, __m512i sums[]) {
  enum { CHAINS = 4 };
  UNROLL for (int t = 0; t < tokens; t += CHAINS) {
    const int chains = tokens < CHAINS ? tokens : CHAINS;
    __m512i dot[CHAINS];
    UNROLL for (int c = 0; c < chains; c++) dot[c] = _mm512_setzero_si512();
    UNROLL for (int i = 0; i < count; i++) {
      UNROLL for (int c = 0; c < chains; c++) {
        dot[c] = _mm512_dpbusd_epi32(dot[c], lanes[i], broadcast_codes(codes + (size_t)c * columns + 4 * i));
      }
    }
    UNROLL for (int c = 0; c < chains; c++) {
      sums[t + c] = _mm512_add_epi32(sums[t + c], _mm512_mullo_epi32(dot[c], scale));
    }
    codes += CHAINS * columns;
  }
}

/* Sums of 256 codes times the pairs of int16 in `factors`, of which there is one for 32 columns. */
INLINE __m512i dot_of_sums(const __m512i factors[8], const int16_t *sums) {
  __m512i dot[2] = {_mm512_setzero_si512(), _mm512_setzero_si512()};
  UNROLL for (int j = 0; j < 8; j++) {
    int32_t two;
    memcpy(&two, sums + 2 * j, sizeof two);
    dot[j % 2] = _mm512_dpwssd_epi32(dot[j % 2], factors[j], _mm512_set1_epi32(two));
  }
  return _mm512_add_epi32(dot[0], dot[1]);
}

/* Stripes are of `header_bytes` and 8 tiles of `step` bytes for each 256 columns. With minima, dot_of_sums is of them
 * and scaled by a second half; without, it is of the scales and lanes are true codes + `excess`. */
#define BLOCK_256_KERNELS(type, tile, step, header_bytes, has_minima, excess)                                          \
  INLINE void pair(int tokens, const uint8_t *a, const uint8_t *b, __mmask16 rows, size_t columns,                     \
                   const ek_activations *x, size_t first, float *out, size_t out_stride) {                             \
    multiply_256(tile, step, header_bytes, has_minima, excess, tokens, a, b, rows, columns, x, first, out,             \
                 out_stride);                                                                                          \
  }                                                                                                                    \
  PAIR_KERNELS(type, pair)

INLINE void multiply_256(tile_fn *tile, int step, int header_bytes, int has_minima, int excess, int tokens,
                         const uint8_t *a, const uint8_t *b, __mmask16 rows, size_t columns, const ek_activations *x,
                         size_t first, float *out, size_t out_stride) {
  const size_t blocks = columns / EK_SUPERBLOCK;
  const int8_t *codes = x->codes + first * columns;
  const float *scales = x->scales + first * blocks;
  const int16_t *code_sums = x->sums + first * (columns / 16);
  __m512 results[MOST_TOKENS];
  for (int t = 0; t < tokens; t++) results[t] = _mm512_setzero_ps();
  for (size_t block = 0; block < blocks; block++) {
    const __m512 scale = load_pair_halves(a, b);
    const __m512 minimum = has_minima ? load_pair_halves(a + 16, b + 16) : _mm512_setzero_ps();
    __m512i sums[MOST_TOKENS], factors[8];
    UNROLL for (int t = 0; t < tokens; t++) sums[t] = _mm512_setzero_si512();
    a += header_bytes;
    b += header_bytes;
    for (int j = 0; j < 8; j++) {
      factors[j] = tile(a, b, codes, tokens, columns, sums);
      a += step;
      b += step;
      codes += 32;
    }
    UNROLL for (int t = 0; t < tokens; t++) {
      const __m512i of_sums = dot_of_sums(factors, code_sums + (size_t)t * (columns / 16) + 16 * block);
      __m512 product;
      if (has_minima) {
        product = _mm512_mul_ps(_mm512_cvtepi32_ps(sums[t]), scale);
        product = _mm512_fnmadd_ps(_mm512_cvtepi32_ps(of_sums), minimum, product);
      } else {
        const __m512i true_sum = _mm512_sub_epi32(sums[t], _mm512_mullo_epi32(of_sums, _mm512_set1_epi32(excess)));
        product = _mm512_mul_ps(_mm512_cvtepi32_ps(true_sum), scale);
      }
      results[t] = _mm512_fmadd_ps(product, _mm512_set1_ps(scales[(size_t)t * blocks + block]), results[t]);
    }
  }
  for (int t = 0; t < tokens; t++) _mm512_mask_storeu_ps(out + (size_t)t * out_stride, rows, results[t]);
}

/* Of the types with minima: uint8 scale[8] and minimum[8] after a tile. */
INLINE __m512i add_affine_tile(const __m512i lanes[8], const uint8_t *after_a, const uint8_t *after_b,
                               const int8_t *codes, int tokens, size_t columns, __m512i sums[]) {
  const __m512i scale = _mm512_cvtepu8_epi32(load_pair_bytes(after_a, after_b));
  const __m512i minimum = _mm512_cvtepu8_epi32(load_pair_bytes(after_a + 8, after_b + 8));
  add_scaled_dots(lanes, 8, scale, codes, tokens, columns, sums);
  return _mm512_or_si512(minimum, _mm512_slli_epi32(minimum, 16));
}

#endif
