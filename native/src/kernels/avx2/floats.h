/* Float types: a column of a stripe is eight values, widened to a vector. */
#ifndef EK_AVX2_FLOATS_H
#define EK_AVX2_FLOATS_H

#include "vectors.h"

/* In gemm: columns of a stripe widened at once, and tokens at once, which with two stripes take 8 of the 16 registers;
 * 6 tokens are 8 % faster, but the callers' runs of tokens are multiples of 16. Sums of gemv. */
enum { FLOAT_CHUNK = 64, FLOAT_TOKENS = 4, FLOAT_SUMS = 8 };

enum floats { F32, F16, BF16 };

INLINE size_t column_bytes(enum floats floats) { return EK_STRIPE * (floats == F32 ? 4 : 2); }

INLINE __m256 load_column(enum floats floats, const uint8_t *at) {
  if (floats == F16) return load_halves(at);
  if (floats == F32) return _mm256_castsi256_ps(load(at));
  const __m256i words = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)at));
  return _mm256_castsi256_ps(_mm256_slli_epi32(words, 16));
}

/* Several sums, because one would wait for each multiply-add; `ahead` where the weights come from memory. */
INLINE __m256 dot_columns(enum floats floats, int ahead, const uint8_t *stripe, size_t columns, const float *x) {
  const size_t bytes = column_bytes(floats);
  __m256 sums[FLOAT_SUMS];
  for (int i = 0; i < FLOAT_SUMS; i++) sums[i] = _mm256_setzero_ps();
  size_t k = 0;
  for (; k + FLOAT_SUMS <= columns; k += FLOAT_SUMS) {
    if (ahead) prefetch(stripe + k * bytes, FLOAT_SUMS * bytes);
    for (int i = 0; i < FLOAT_SUMS; i++) {
      const __m256 w = load_column(floats, stripe + (k + (size_t)i) * bytes);
      sums[i] = _mm256_fmadd_ps(w, _mm256_set1_ps(x[k + (size_t)i]), sums[i]);
    }
  }
  for (; k < columns; k++) {
    sums[0] = _mm256_fmadd_ps(load_column(floats, stripe + k * bytes), _mm256_set1_ps(x[k]), sums[0]);
  }
  for (int half = FLOAT_SUMS / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; i++) sums[i] = _mm256_add_ps(sums[i], sums[i + half]);
  }
  return sums[0];
}

INLINE void float_gemv(enum floats floats, const uint8_t *stripe, size_t rows, size_t columns, const ek_activations *x,
                       float *out) {
  for (size_t row = 0; row < rows; row += EK_STRIPE, stripe += columns * column_bytes(floats)) {
    store_rows(out + row, rows - row, dot_columns(floats, 1, stripe, columns, x->values));
  }
}

/* A chunk of one or two stripes, w (stripes, FLOAT_CHUNK), with x (FLOAT_TOKENS, stride); out is (FLOAT_TOKENS,
 * out_stride). */
INLINE void float_tokens(int stripes, const __m256 *w, size_t columns, const float *x, size_t stride, int first,
                         float *out, size_t out_stride, size_t rows) {
  __m256 sums[FLOAT_TOKENS][2];
  for (int t = 0; t < FLOAT_TOKENS; t++) sums[t][0] = sums[t][1] = _mm256_setzero_ps();
  for (size_t k = 0; k < columns; k++) {
    for (int t = 0; t < FLOAT_TOKENS; t++) {
      const __m256 value = _mm256_set1_ps(x[(size_t)t * stride + k]);
      for (int s = 0; s < stripes; s++) sums[t][s] = _mm256_fmadd_ps(w[s * FLOAT_CHUNK + k], value, sums[t][s]);
    }
  }
  for (int t = 0; t < FLOAT_TOKENS; t++) {
    for (size_t s = 0; s < (size_t)stripes; s++) {
      put_rows(out + (size_t)t * out_stride + EK_STRIPE * s, rows - EK_STRIPE * s, first, sums[t][s]);
    }
  }
}

/* One or two stripes: 16 rows share what is loaded of x. */
INLINE void float_stripes(enum floats floats, int stripes, const uint8_t *stripe, size_t rows, size_t columns,
                          const float *x, size_t tokens, float *out, size_t out_stride) {
  const size_t bytes = column_bytes(floats);
  for (size_t first = 0; first < columns; first += FLOAT_CHUNK) {
    const size_t count = columns - first < FLOAT_CHUNK ? columns - first : FLOAT_CHUNK;
    const float *values = x + first;
    __m256 w[2][FLOAT_CHUNK];
    for (size_t s = 0; s < (size_t)stripes; s++) {
      for (size_t k = 0; k < count; k++) w[s][k] = load_column(floats, stripe + (s * columns + first + k) * bytes);
    }
    size_t t = 0;
    for (; t + FLOAT_TOKENS <= tokens; t += FLOAT_TOKENS) {
      float_tokens(stripes, w[0], count, values + t * columns, columns, first == 0, out + t * out_stride, out_stride,
                   rows);
    }
    for (; t < tokens; t++) {
      for (size_t s = 0; s < (size_t)stripes; s++) {
        const __m256 sums = dot_columns(F32, 0, (const uint8_t *)w[s], count, values + t * columns);
        put_rows(out + t * out_stride + EK_STRIPE * s, rows - EK_STRIPE * s, first == 0, sums);
      }
    }
  }
}

INLINE void float_gemm(enum floats floats, const uint8_t *stripe, size_t rows, size_t columns, const ek_activations *x,
                       size_t tokens, float *out, size_t out_stride) {
  const size_t bytes = columns * column_bytes(floats);
  size_t row = 0;
  for (; row + EK_STRIPE < rows; row += 2 * EK_STRIPE, stripe += 2 * bytes) {
    float_stripes(floats, 2, stripe, rows - row, columns, x->values, tokens, out + row, out_stride);
  }
  if (row < rows) float_stripes(floats, 1, stripe, rows - row, columns, x->values, tokens, out + row, out_stride);
}

#define FLOAT_KERNELS(name, floats)                                                                                    \
  void ek_gemv_##name##_avx2(const uint8_t *stripes, size_t rows, size_t columns, const ek_activations *x,             \
                             float *out) {                                                                             \
    float_gemv(floats, stripes, rows, columns, x, out);                                                                \
  }                                                                                                                    \
  void ek_gemm_##name##_avx2(const uint8_t *stripes, size_t rows, size_t columns, const ek_activations *x,             \
                             size_t tokens, float *out, size_t out_stride) {                                           \
    float_gemm(floats, stripes, rows, columns, x, tokens, out, out_stride);                                            \
  }

#endif
