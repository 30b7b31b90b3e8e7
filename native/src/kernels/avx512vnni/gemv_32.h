/* gemv of the types with a scale for each 32 columns. */
#ifndef EK_AVX512VNNI_GEMV_32_H
#define EK_AVX512VNNI_GEMV_32_H

#include "gemv.h"

/* What a dot product starts with to come out as that of true codes, from offsets, -8 times the sum of activations. */
INLINE __m512i start_32(block_32 type, __m512i offset) {
  if (type.excess == 16) return _mm512_slli_epi32(offset, 4);
  if (type.excess == 2) return _mm512_slli_epi32(offset, 1);
  return type.excess ? offset : _mm512_setzero_si512();
}

/* Tiles a and b times their activations. */
INLINE __m512 product_32(block_32 type, const uint8_t *a, const uint8_t *b, __m512i codes, __m128i scales,
                         __m128i offsets) {
  __m512i lanes[8];
  type.unpack(a, b, lanes);
  const __m512i offset = spread_two(offsets);
  const __m512i front = dot_of_front(lanes, start_32(type, offset), codes);
  const __m512i dot = _mm512_add_epi32(front, dot_of_back(lanes, _mm512_setzero_si512(), codes));
  __m512 product = _mm512_cvtepi32_ps(dot);
  const __m512 scale = load_pair_halves(a + type.tile_bytes, b + type.tile_bytes);
  if (type.has_minima) {
    product = _mm512_fmadd_ps(product, scale, _mm512_mul_ps(minimum_32(type, a, b), _mm512_cvtepi32_ps(offset)));
  } else {
    product = _mm512_mul_ps(product, scale);
  }
  return _mm512_mul_ps(product, _mm512_castsi512_ps(spread_two(scales)));
}

INLINE void gemv_32(block_32 type, const uint8_t *stripes, size_t rows, size_t columns, const ek_activations *x,
                    float *out) {
  const size_t step = step_32(type);
  for (size_t row = 0; row < rows; row += EK_STRIPE) {
    __m512 sums = _mm512_setzero_ps();
    size_t k = 0;
    for (; k + 64 <= columns; k += 64) {
      prefetch_next(stripes, 2 * (int)step);
      sums = _mm512_add_ps(sums, product_32(type, stripes, stripes + step, _mm512_loadu_si512(x->codes + k),
                                            _mm_loadl_epi64((const __m128i *)(x->scales + k / 32)),
                                            _mm_loadl_epi64((const __m128i *)(x->offsets + k / 32))));
      stripes += 2 * step;
    }
    if (k < columns) { /* a last tile, which is both; the upper half goes nowhere */
      const __m256i codes = _mm256_loadu_si256((const __m256i *)(x->codes + k));
      const __m512 product =
          product_32(type, stripes, stripes, _mm512_zextsi256_si512(codes),
                     _mm_castps_si128(_mm_load_ss(x->scales + k / 32)), _mm_cvtsi32_si128(x->offsets[k / 32]));
      sums = _mm512_mask_add_ps(sums, 0x00ff, sums, product);
      stripes += step;
    }
    store_rows(out + row, rows - row, sums);
  }
}

#endif
