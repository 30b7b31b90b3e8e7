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

/* Several stripes at once, two in a vector, because the sum of one would wait for each multiply-add. */
enum { FLOAT_STRIPES = 4 };

/* One column of `stripes` stripes; of one alone the upper half of the sum goes nowhere. */
INLINE void add_column(float_kind kind, int stripes, const uint8_t *at, size_t stripe_bytes, float x,
                       __m512 sums[FLOAT_STRIPES / 2]) {
  const size_t upper = stripes == 1 ? 0 : stripe_bytes;
  UNROLL for (int s = 0; s < stripes; s += 2) {
    const uint8_t *a = at + (size_t)s * stripe_bytes;
    sums[s / 2] = _mm512_fmadd_ps(load_columns(kind, a, a + upper), _mm512_set1_ps(x), sums[s / 2]);
  }
}

/* `stripes` stripes, 4 or 1. */
INLINE void dot_columns(float_kind kind, int stripes, const uint8_t *stripe, size_t columns, const float *x,
                        __m512 sums[FLOAT_STRIPES / 2]) {
  enum { FLOAT_AHEAD = AHEAD / FLOAT_STRIPES };
  const size_t step = column_bytes(kind), stripe_bytes = columns * step, line = 64 / step;
  UNROLL for (int s = 0; s < stripes; s += 2) sums[s / 2] = _mm512_setzero_ps();
  size_t k = 0;
  for (; k + line <= columns; k += line, stripe += 64) {
    /* where a stripe ends, the same one of those that are next */
    const int is_last = (columns - k) * step <= FLOAT_AHEAD;
    const size_t ahead = FLOAT_AHEAD + (is_last ? (size_t)(stripes - 1) * stripe_bytes : 0);
    UNROLL for (int s = 0; s < stripes; s++) prefetch(stripe, (size_t)s * stripe_bytes + ahead);
    UNROLL for (size_t i = 0; i < line; i++) add_column(kind, stripes, stripe + i * step, stripe_bytes, x[k + i], sums);
  }
  for (; k < columns; k++, stripe += step) add_column(kind, stripes, stripe, stripe_bytes, x[k], sums);
}

INLINE void gemv_floats(float_kind kind, const uint8_t *stripes, size_t rows, size_t columns, const float *x,
                        float *out) {
  const size_t bytes = columns * column_bytes(kind);
  __m512 sums[FLOAT_STRIPES / 2];
  size_t row = 0;
  for (; row + (FLOAT_STRIPES - 1) * EK_STRIPE < rows; row += FLOAT_STRIPES * EK_STRIPE) {
    dot_columns(kind, FLOAT_STRIPES, stripes, columns, x, sums);
    UNROLL for (size_t s = 0; s < FLOAT_STRIPES; s++) {
      const __m256 sum = s % 2 ? upper_half(sums[s / 2]) : _mm512_castps512_ps256(sums[s / 2]);
      store_rows(out + row + EK_STRIPE * s, rows - row - EK_STRIPE * s, sum);
    }
    stripes += FLOAT_STRIPES * bytes;
  }
  for (; row < rows; row += EK_STRIPE, stripes += bytes) {
    dot_columns(kind, 1, stripes, columns, x, sums);
    store_rows(out + row, rows - row, _mm512_castps512_ps256(sums[0]));
  }
}

INLINE void pair_floats(float_kind kind, int tokens, const uint8_t *a, const uint8_t *b, __mmask16 rows, size_t columns,
                        const ek_panel *x, size_t first, int add, float *out, size_t out_stride) {
  const size_t step = column_bytes(kind);
  const float *values = x->values[first];
  __m512 sums[MOST_TOKENS];
  load_tokens(tokens, sums, rows, add, out, out_stride);
  for (size_t k = 0; k < columns; k++) {
    const __m512 weights = load_columns(kind, a + k * step, b + k * step);
    UNROLL for (int t = 0; t < tokens; t++) {
      sums[t] = _mm512_fmadd_ps(weights, _mm512_set1_ps(values[(size_t)t * PANEL_FLOATS + k]), sums[t]);
    }
  }
  store_tokens(tokens, sums, rows, out, out_stride);
}

/* The kernels of a type: ek_gemv_<name>_avx512vnni and ek_gemm_<name>_avx512vnni. */
#define FLOAT_KERNELS(name, kind)                                                                                      \
  GEMM_OF_PAIRS(name, pair_floats, kind, 1)                                                                            \
  void ek_gemv_##name##_avx512vnni(const uint8_t *stripes, size_t rows, size_t columns, const ek_activations *x,       \
                                   float *out) {                                                                       \
    gemv_floats(kind, stripes, rows, columns, x->values, out);                                                         \
  }

#endif
