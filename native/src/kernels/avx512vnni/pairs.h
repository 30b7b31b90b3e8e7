/* gemm over pairs of stripes, 16 rows, which are the lanes of a vector. */
#ifndef EK_AVX512VNNI_PAIRS_H
#define EK_AVX512VNNI_PAIRS_H

#include "lanes.h"

/* Tokens that one pass over a pair of stripes multiplies with: what 32 registers hold. */
enum { MOST_TOKENS = 16, SOME_TOKENS = 4 };

/* out[t * out_stride + r] for a fixed number of tokens t, from token `first` of x, and the rows r of a mask. Where
 * there is no second stripe b is a, and the mask has its rows only. */
typedef void ek_pair_fn(const uint8_t *a, const uint8_t *b, __mmask16 rows, size_t columns, const ek_activations *x,
                        size_t first, float *out, size_t out_stride);

/* All of a matrix with a type's functions for MOST_TOKENS, SOME_TOKENS and one. */
void ek_pairs_avx512vnni(enum ek_type type, ek_pair_fn *most, ek_pair_fn *some, ek_pair_fn *one, const uint8_t *stripes,
                         size_t rows, size_t columns, const ek_activations *x, size_t tokens, float *out,
                         size_t out_stride);

/* ek_gemm_<name>_avx512vnni from `pair`, an inline function: an ek_pair_fn with what the type is and the number of
 * tokens before its arguments. */
#define GEMM_OF_PAIRS(name, pair, type)                                                                                \
  static ek_pair_fn most, some, one;                                                                                   \
  static void most(const uint8_t *a, const uint8_t *b, __mmask16 rows, size_t columns, const ek_activations *x,        \
                   size_t first, float *out, size_t out_stride) {                                                      \
    pair(type, MOST_TOKENS, a, b, rows, columns, x, first, out, out_stride);                                           \
  }                                                                                                                    \
  static void some(const uint8_t *a, const uint8_t *b, __mmask16 rows, size_t columns, const ek_activations *x,        \
                   size_t first, float *out, size_t out_stride) {                                                      \
    pair(type, SOME_TOKENS, a, b, rows, columns, x, first, out, out_stride);                                           \
  }                                                                                                                    \
  static void one(const uint8_t *a, const uint8_t *b, __mmask16 rows, size_t columns, const ek_activations *x,         \
                  size_t first, float *out, size_t out_stride) {                                                       \
    pair(type, 1, a, b, rows, columns, x, first, out, out_stride);                                                     \
  }                                                                                                                    \
  void ek_gemm_##name##_avx512vnni(const uint8_t *stripes, size_t rows, size_t columns, const ek_activations *x,       \
                                   size_t tokens, float *out, size_t out_stride) {                                     \
    ek_pairs_avx512vnni(EK_TYPE_##name, most, some, one, stripes, rows, columns, x, tokens, out, out_stride);          \
  }

#endif
