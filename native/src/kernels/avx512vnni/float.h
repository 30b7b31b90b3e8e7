/* The float types: columns times 8 values of each stripe, times float activations. */
#ifndef EK_AVX512VNNI_FLOAT_H
#define EK_AVX512VNNI_FLOAT_H

#include "gemv.h"
#include "panel.h"

/* float, half or bfloat */
typedef enum float_kind { FLOATS, HALVES, BFLOATS } float_kind;

/* Bytes of 8 values. */
INLINE size_t column_bytes(float_kind kind) { return kind == FLOATS ? 32 : 16; }

INLINE __m512 float_of_halves(float_kind kind, __m256i halves) {
  if (kind == HALVES) return _mm512_cvtph_ps(halves);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}

/* A column of a, and in the upper half one of b. */
INLINE __m512 load_columns(float_kind kind, const uint8_t *a, const uint8_t *b) {
  if (kind == FLOATS) return _mm512_castsi512_ps(load_pair(a, b));
  const __m256i low = _mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)a));
  return float_of_halves(kind, _mm256_inserti128_si256(low, _mm_loadu_si128((const __m128i *)b), 1));
}

/* Two columns, one after the other. */
INLINE __m512 load_two_columns(float_kind kind, const uint8_t *at) {
  if (kind == FLOATS) return _mm512_loadu_ps(at);
  return float_of_halves(kind, _mm256_loadu_si256((const __m256i *)at));
}

/* 16 columns of a stripe in pairs; the halves of sums are of the even columns and of the odd ones. */
INLINE void add_16_columns(float_kind kind, const uint8_t *at, __m512 x, __m512 sums[4]) {
  const __m512i upper = _mm512_inserti64x4(_mm512_setzero_si512(), _mm256_set1_epi32(1), 1);
  UNROLL for (int i = 0; i < 8; i++) {
    const __m512 two = _mm512_permutexvar_ps(_mm512_add_epi32(upper, _mm512_set1_epi32(2 * i)), x);
    const __m512 weights = load_two_columns(kind, at + 2 * (size_t)i * column_bytes(kind));
    sums[i % 4] = _mm512_fmadd_ps(weights, two, sums[i % 4]);
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
      add_16_columns(kind, stripes, _mm512_loadu_ps(x + k), sums);
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
  GEMM_OF_PAIRS(name, pair_floats, kind, 1)                                                                            \
  void ek_gemv_##name##_avx512vnni(const uint8_t *stripes, size_t rows, size_t columns, const ek_activations *x,       \
                                   float *out) {                                                                       \
    gemv_floats(kind, stripes, rows, columns, x->values, out);                                                         \
  }

#endif
