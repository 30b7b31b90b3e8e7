/* gemv of the types with superblocks of 256 columns. */
#ifndef EK_AVX512VNNI_GEMV_256_H
#define EK_AVX512VNNI_GEMV_256_H

#include "gemv.h"

/* Adds a superblock's pairs of tiles, from its header on, to *dot and *of_sums, see product_256. */
INLINE void add_superblock(block_256 type, const uint8_t *at, const int8_t *codes, const int16_t *sums, __m512i *dot,
                           __m512i *of_sums) {
  const size_t step = (size_t)type.tile_bytes + 16;
  const __m512i zero = _mm512_setzero_si512();
  at += type.header_bytes;
  for (int j = 0; j < 8; j += 2) {
    __m512i lanes[8];
    prefetch_next(at, 2 * (int)step);
    type.unpack(at, at + step, lanes);
    const scales_256 scales = load_scales_256(type, at, at + step);
    const __m512i x = _mm512_loadu_si512(codes);
    if (type.is_q6_k) {
      const __m512i front = _mm512_mullo_epi32(dot_of_front(lanes, zero, x), scales.front);
      const __m512i back = _mm512_mullo_epi32(dot_of_back(lanes, zero, x), scales.back);
      *dot = _mm512_add_epi32(*dot, _mm512_add_epi32(front, back));
    } else {
      const __m512i both = _mm512_add_epi32(dot_of_front(lanes, zero, x), dot_of_back(lanes, zero, x));
      *dot = _mm512_add_epi32(*dot, _mm512_mullo_epi32(both, scales.front));
    }
    const __m128i two_pairs = _mm_loadl_epi64((const __m128i *)(sums + 2 * j));
    *of_sums = _mm512_dpwssd_epi32(*of_sums, scales.factors, spread_two(two_pairs));
    at += 2 * step;
    codes += 64;
  }
}

INLINE void gemv_256(block_256 type, const uint8_t *stripes, size_t rows, size_t columns, const ek_activations *x,
                     float *out) {
  const size_t bytes = (size_t)type.header_bytes + 8 * ((size_t)type.tile_bytes + 16);
  for (size_t row = 0; row < rows; row += EK_STRIPE) {
    __m512 results = _mm512_setzero_ps();
    for (size_t block = 0; block < columns / EK_SUPERBLOCK; block++) {
      __m512i dot = _mm512_setzero_si512(), of_sums = _mm512_setzero_si512();
      add_superblock(type, stripes, x->codes + block * EK_SUPERBLOCK, x->sums + 16 * block, &dot, &of_sums);
      const __m512 product = product_256(type, stripes, stripes, dot, of_sums);
      results = _mm512_fmadd_ps(product, _mm512_set1_ps(x->scales[block]), results);
      stripes += bytes;
    }
    store_rows(out + row, rows - row, results);
  }
}

#endif
