/* The float types: columns times 8 values of each stripe, times float activations. */
#ifndef EK_AVX512VNNI_FLOAT_H
#define EK_AVX512VNNI_FLOAT_H

#include "pairs.h"

/* One column of 16 rows from `width` bytes a value: float, half or bfloat. */
enum float_kind { FLOATS, HALVES, BFLOATS };

INLINE __m512 load_column(enum float_kind kind, const uint8_t *a, const uint8_t *b) {
  if (kind == FLOATS) return _mm512_castsi512_ps(load_pair(a, b));
  if (kind == HALVES) return load_pair_halves(a, b);
  const __m256i low = _mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)a));
  const __m256i both = _mm256_inserti128_si256(low, _mm_loadu_si128((const __m128i *)b), 1);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(both), 16));
}

/* `count` columns, one after another in `chains` sums of a token that are added up in the end. */
INLINE void add_columns(enum float_kind kind, int count, const uint8_t *a, const uint8_t *b, const float *values,
                        int tokens, size_t columns, int chains, __m512 sums[]) {
  UNROLL for (int i = 0; i < count; i++) {
    const int step = kind == FLOATS ? 32 : 16;
    const __m512 weights = load_column(kind, a + i * step, b + i * step);
    const float *at = values + i;
    UNROLL for (int t = 0; t < tokens; t++) {
      __m512 *sum = &sums[t * chains + i % chains];
      *sum = _mm512_fmadd_ps(weights, _mm512_set1_ps(*at), *sum);
      at += columns;
    }
  }
}

INLINE void multiply_floats(enum float_kind kind, int tokens, const uint8_t *a, const uint8_t *b, __mmask16 rows,
                            size_t columns, const ek_activations *x, size_t first, float *out, size_t out_stride) {
  /* so that additions, of a latency of 4 cycles, are no chain that one token would wait for */
  const int chains = tokens >= 8 ? 1 : 4, count = tokens >= 8 ? 1 : 4;
  const size_t step = kind == FLOATS ? 32 : 16;
  const float *values = x->values + first * columns;
  __m512 sums[MOST_TOKENS];
  size_t k = 0;
  UNROLL for (int i = 0; i < tokens * chains; i++) sums[i] = _mm512_setzero_ps();
  for (; k + (size_t)count <= columns; k += (size_t)count)
    add_columns(kind, count, a + k * step, b + k * step, values + k, tokens, columns, chains, sums);
  for (; k < columns; k++) add_columns(kind, 1, a + k * step, b + k * step, values + k, tokens, columns, chains, sums);
  UNROLL for (int t = 0; t < tokens; t++) {
    __m512 sum = sums[t * chains];
    if (chains == 4) {
      sum = _mm512_add_ps(_mm512_add_ps(sum, sums[4 * t + 1]), _mm512_add_ps(sums[4 * t + 2], sums[4 * t + 3]));
    }
    _mm512_mask_storeu_ps(out + (size_t)t * out_stride, rows, sum);
  }
}

#define FLOAT_KERNELS(type, kind)                                                                                      \
  INLINE void pair(int tokens, const uint8_t *a, const uint8_t *b, __mmask16 rows, size_t columns,                     \
                   const ek_activations *x, size_t first, float *out, size_t out_stride) {                             \
    multiply_floats(kind, tokens, a, b, rows, columns, x, first, out, out_stride);                                     \
  }                                                                                                                    \
  PAIR_KERNELS(type, pair)

#endif
