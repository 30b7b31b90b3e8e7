/* What gemv of all types shares. It reads its weights once, in the order of memory, a stripe at a time: the halves of a
 * vector are two tiles side by side, j and j + 1, whose products are added one after the other. */
#ifndef EK_AVX512VNNI_GEMV_H
#define EK_AVX512VNNI_GEMV_H

#include "lanes.h"

/* How far ahead of its use memory is asked for. On a Zen 5 at 4 KiB 5 % less is reached, at 1 KiB 15 % less. */
enum { AHEAD = 6144 };

/* For the `bytes` that are to be used next. */
INLINE void prefetch_next(const uint8_t *at, int bytes) {
  UNROLL for (int i = 0; i < bytes; i += 64) prefetch(at, (size_t)AHEAD + (size_t)i);
}

/* Element 0 of `two` in the lower half, element 1 in the upper one. */
INLINE __m512i spread_two(__m128i two) {
  const __m512i index = _mm512_inserti64x4(_mm512_setzero_si512(), _mm256_set1_epi32(1), 1);
  return _mm512_permutexvar_epi32(index, _mm512_castsi128_si512(two));
}

/* Four vectors of lanes of two tiles, four columns each, times 16 codes for both, which are quarters of a vector. */
INLINE __m512i dot_of_quarters(const __m512i lanes[4], __m512i start, __m512i codes) {
  start = _mm512_dpbusd_epi32(start, lanes[0], _mm512_shuffle_epi32(codes, 0x00));
  start = _mm512_dpbusd_epi32(start, lanes[1], _mm512_shuffle_epi32(codes, 0x55));
  start = _mm512_dpbusd_epi32(start, lanes[2], _mm512_shuffle_epi32(codes, 0xaa));
  return _mm512_dpbusd_epi32(start, lanes[3], _mm512_shuffle_epi32(codes, 0xff));
}

/* Columns 0 .. 15 of two tiles times their codes, 32 for each; and columns 16 .. 31. */
INLINE __m512i dot_of_front(const __m512i lanes[8], __m512i start, __m512i codes) {
  return dot_of_quarters(lanes, start, _mm512_shuffle_i64x2(codes, codes, 0xa0));
}

INLINE __m512i dot_of_back(const __m512i lanes[8], __m512i start, __m512i codes) {
  return dot_of_quarters(lanes + 4, start, _mm512_shuffle_i64x2(codes, codes, 0xf5));
}

INLINE __m256 upper_half(__m512 x) { return _mm512_extractf32x8_ps(x, 1); }

/* Of integers, whose order does not matter. */
INLINE __m256i sum_of_halves(__m512i x) {
  return _mm256_add_epi32(_mm512_castsi512_si256(x), _mm512_extracti32x8_epi32(x, 1));
}

/* For as many rows as there are. */
INLINE void store_rows(float *out, size_t rows, __m256 sums) {
  _mm256_mask_storeu_ps(out, (__mmask8)(rows < EK_STRIPE ? (1u << rows) - 1 : 255), sums);
}

#endif
