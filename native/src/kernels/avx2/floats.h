/* Float types: a column of a stripe is eight values, widened to a vector. */
#ifndef EK_AVX2_FLOATS_H
#define EK_AVX2_FLOATS_H

#include "vectors.h"

/* In gemm: columns of a stripe widened at once, and tokens at once, which with two stripes take 8 of the 16 registers;
 * 6 tokens are 8 % faster, but the callers' runs of tokens are multiples of 16. In gemv: stripes at once. */
enum { FLOAT_CHUNK = 64, FLOAT_TOKENS = 4, FLOAT_STRIPES = 4 };

/* How far ahead in each stripe gemv asks for weights: together as far as for other types. */
enum { FLOAT_AHEAD = AHEAD / FLOAT_STRIPES };

enum floats { F32, F16, BF16 };

INLINE size_t column_bytes(enum floats floats) { return EK_STRIPE * (floats == F32 ? 4 : 2); }

INLINE __m256 load_column(enum floats floats, const uint8_t *at) {
  if (floats == F16) return load_halves(at);
  if (floats == F32) return _mm256_castsi256_ps(load(at));
  const __m256i words = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)at));
  return _mm256_castsi256_ps(_mm256_slli_epi32(words, 16));
}

/* One column of several stripes. */
INLINE void add_column(enum floats floats, int stripes, const uint8_t *at, size_t stripe_bytes, float x,
                       __m256 sums[FLOAT_STRIPES]) {
  for (int s = 0; s < stripes; s++) {
    sums[s] = _mm256_fmadd_ps(load_column(floats, at + (size_t)s * stripe_bytes), _mm256_set1_ps(x), sums[s]);
  }
}

/* Several stripes at once, because the sum of one would wait for each multiply-add. */
INLINE void dot_columns(enum floats floats, int stripes, const uint8_t *stripe, size_t columns, const float *x,
                        __m256 sums[FLOAT_STRIPES]) {
  const size_t bytes = column_bytes(floats), stripe_bytes = columns * bytes, line = 64 / bytes;
  for (int s = 0; s < stripes; s++) sums[s] = _mm256_setzero_ps();
  size_t k = 0;
  for (; k + line <= columns; k += line, stripe += 64) {
    /* where a stripe ends, the same one of those that are next */
    const int is_last = (columns - k) * bytes <= FLOAT_AHEAD;
    const size_t ahead = FLOAT_AHEAD + (is_last ? (size_t)(stripes - 1) * stripe_bytes : 0);
    for (int s = 0; s < stripes; s++) {
      _mm_prefetch((const char *)stripe + (size_t)s * stripe_bytes + ahead, _MM_HINT_T0);
    }
    for (size_t i = 0; i < line; i++) add_column(floats, stripes, stripe + i * bytes, stripe_bytes, x[k + i], sums);
  }
  for (; k < columns; k++, stripe += bytes) add_column(floats, stripes, stripe, stripe_bytes, x[k], sums);
}

INLINE void float_gemv(enum floats floats, const uint8_t *stripe, size_t rows, size_t columns, const ek_activations *x,
                       float *out) {
  const size_t bytes = columns * column_bytes(floats);
  __m256 sums[FLOAT_STRIPES];
  size_t row = 0;
  for (; row + (FLOAT_STRIPES - 1) * EK_STRIPE < rows; row += FLOAT_STRIPES * EK_STRIPE) {
    dot_columns(floats, FLOAT_STRIPES, stripe, columns, x->values, sums);
    for (size_t s = 0; s < FLOAT_STRIPES; s++)
      store_rows(out + row + EK_STRIPE * s, rows - row - EK_STRIPE * s, sums[s]);
    stripe += FLOAT_STRIPES * bytes;
  }
  for (; row < rows; row += EK_STRIPE, stripe += bytes) {
    dot_columns(floats, 1, stripe, columns, x->values, sums);
    store_rows(out + row, rows - row, sums[0]);
  }
}

/* A chunk of one or two stripes, w (stripes, FLOAT_CHUNK), with x (tokens, stride); out is (tokens, out_stride). */
INLINE void float_tokens(int stripes, int tokens, const __m256 *w, size_t columns, const float *x, size_t stride,
                         int first, float *out, size_t out_stride, size_t rows) {
  __m256 sums[FLOAT_TOKENS][2];
  for (int t = 0; t < tokens; t++) {
    for (size_t s = 0; s < (size_t)stripes; s++) {
      sums[t][s] = load_rows(out + (size_t)t * out_stride + EK_STRIPE * s, rows - EK_STRIPE * s, first);
    }
  }
  for (size_t k = 0; k < columns; k++) {
    for (int t = 0; t < tokens; t++) {
      const __m256 value = _mm256_set1_ps(x[(size_t)t * stride + k]);
      for (int s = 0; s < stripes; s++) sums[t][s] = _mm256_fmadd_ps(w[s * FLOAT_CHUNK + k], value, sums[t][s]);
    }
  }
  for (int t = 0; t < tokens; t++) {
    for (size_t s = 0; s < (size_t)stripes; s++) {
      store_rows(out + (size_t)t * out_stride + EK_STRIPE * s, rows - EK_STRIPE * s, sums[t][s]);
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
#define TOKENS(n)                                                                                                      \
  float_tokens(stripes, n, w[0], count, values + t * columns, columns, first == 0, out + t * out_stride, out_stride,   \
               rows)
    for (; t + FLOAT_TOKENS <= tokens; t += FLOAT_TOKENS) TOKENS(FLOAT_TOKENS);
    if (tokens - t == 3) TOKENS(3);
    if (tokens - t == 2) TOKENS(2);
    if (tokens - t == 1) TOKENS(1);
#undef TOKENS
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
