/* The float types: columns times 8 values of each stripe, times float activations. */
#ifndef EK_AVX512VNNI_FLOAT_H
#define EK_AVX512VNNI_FLOAT_H

#include "gemv.h"
#include "panel.h"

/* float, half or bfloat */
typedef enum float_kind { FLOATS, HALVES, BFLOATS } float_kind;

/* Bytes of 8 values. */
INLINE size_t column_bytes(float_kind kind) { return kind == FLOATS ? 32 : 16; }

/* 8 values of a and 8 of b. */
INLINE __m512 load_columns(float_kind kind, const uint8_t *a, const uint8_t *b) {
  if (kind == FLOATS) return _mm512_castsi512_ps(load_pair(a, b));
  if (kind == HALVES) return load_pair_halves(a, b);
  const __m256i low = _mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)a));
  const __m256i both = _mm256_inserti128_si256(low, _mm_loadu_si128((const __m128i *)b), 1);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(both), 16));
}

/* 16 columns of a stripe, of which `count` are there, two in a vector. */
INLINE void add_16_columns(float_kind kind, int count, const uint8_t *at, __m512 x, __m512 sums[4]) {
  const size_t step = column_bytes(kind);
  const __m512i upper = _mm512_inserti64x4(_mm512_setzero_si512(), _mm256_set1_epi32(1), 1);
  UNROLL for (int i = 0; i < count; i += 2, at += 2 * step) {
    const __m512 two = _mm512_permutexvar_ps(_mm512_add_epi32(upper, _mm512_set1_epi32(i)), x);
    sums[i / 2 % 4] = _mm512_fmadd_ps(load_columns(kind, at, at + step), two, sums[i / 2 % 4]);
  }
}

INLINE void gemv_floats(float_kind kind, const uint8_t *stripes, size_t rows, size_t columns, const float *x,
                        float *out) {
  const size_t step = column_bytes(kind);
  for (size_t row = 0; row < rows; row += EK_STRIPE) {
    __m512 sums[4]; /* so that additions, with their latency, are no chain to wait for */
    UNROLL for (int i = 0; i < 4; i++) sums[i] = _mm512_setzero_ps();
    size_t k = 0;
    for (; k + 16 <= columns; k += 16, stripes += 16 * step) {
      prefetch_next(stripes, 16 * (int)step);
      add_16_columns(kind, 16, stripes, _mm512_loadu_ps(x + k), sums);
    }
    for (; k < columns; k++, stripes += step) {
      const __m512 product = _mm512_mul_ps(load_columns(kind, stripes, stripes), _mm512_set1_ps(x[k]));
      sums[0] = _mm512_mask_add_ps(sums[0], 0x00ff, sums[0], product);
    }
    store_rows(out + row, rows - row, _mm512_add_ps(_mm512_add_ps(sums[0], sums[1]), _mm512_add_ps(sums[2], sums[3])));
  }
}

INLINE void pair_floats(float_kind kind, int tokens, const uint8_t *a, const uint8_t *b, __mmask16 rows, size_t columns,
                        const ek_panel *x, size_t first, int add, float *out, size_t out_stride) {
  const size_t step = column_bytes(kind);
  const float *values = x->values[first];
  __m512 sums[MOST_TOKENS];
  UNROLL for (int t = 0; t < tokens; t++) sums[t] = _mm512_setzero_ps();
  for (size_t k = 0; k < columns; k++) {
    const __m512 weights = load_columns(kind, a + k * step, b + k * step);
    UNROLL for (int t = 0; t < tokens; t++) {
      sums[t] = _mm512_fmadd_ps(weights, _mm512_set1_ps(values[(size_t)t * PANEL_FLOATS + k]), sums[t]);
    }
  }
  store_tokens(tokens, sums, rows, add, out, out_stride);
}

/* The kernels of a type: ek_gemv_<name>_avx512vnni and ek_gemm_<name>_avx512vnni. */
#define FLOAT_KERNELS(name, kind)                                                                                      \
  GEMM_OF_PAIRS(name, pair_floats, kind)                                                                               \
  void ek_gemv_##name##_avx512vnni(const uint8_t *stripes, size_t rows, size_t columns, const ek_activations *x,       \
                                   float *out) {                                                                       \
    gemv_floats(kind, stripes, rows, columns, x->values, out);                                                         \
  }

#endif
