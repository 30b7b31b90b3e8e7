/* gemm, 16 rows at a time: pairs of stripes, which are the lanes of a vector, times a panel of activations.
 *
 * A panel is some columns of some tokens, copied to where they lie close together. It stays in the first-level cache
 * while all rows pass by. Left where they are, tokens that are a multiple of 4096 bytes apart evict one another: of
 * q4_0 with 4096 columns that cost a quarter. */
#ifndef EK_AVX512VNNI_PANEL_H
#define EK_AVX512VNNI_PANEL_H

#include "lanes.h"

enum {
  PANEL_TOKENS = 64,
  PANEL_COLUMNS = 256,
  PANEL_GROUPS = PANEL_COLUMNS / 32,
  PANEL_FLOATS = 64, /* columns, of the types that multiply floats */
};

/* As in ek_activations, but for offsets, which are multiplied as the type wants them. */
typedef struct ek_panel {
  union {
    int8_t codes[PANEL_TOKENS][PANEL_COLUMNS];
    float values[PANEL_TOKENS][PANEL_FLOATS];
  };
  union {
    int32_t offsets[PANEL_TOKENS][PANEL_GROUPS];
    int16_t sums[PANEL_TOKENS][2 * PANEL_GROUPS];
  };
  float scales[PANEL_TOKENS][PANEL_GROUPS]; /* of group 256: the first of each token */
} ek_panel;

/* Tokens that one pass over the weights multiplies with: as many as have their sums in registers. */
enum { MOST_TOKENS = 16, SOME_TOKENS = 4 };

/* `columns` of the stripes at a and b times a fixed number of tokens, from token `first` of the panel; to
 * out[t * out_stride + r], or added to it where `add`, for the rows r of the mask. Where there is no second stripe b is
 * a, and the mask has the rows of a alone. */
typedef void ek_pair_fn(const uint8_t *a, const uint8_t *b, __mmask16 rows, size_t columns, const ek_panel *x,
                        size_t first, int add, float *out, size_t out_stride);

/* A type's functions for MOST_TOKENS, SOME_TOKENS and one, and what its offsets are multiplied by. */
typedef struct ek_pair_kernels {
  ek_pair_fn *most, *some, *one;
  int offset_factor;
} ek_pair_kernels;

void ek_gemm_of_pairs_avx512vnni(enum ek_type type, ek_pair_kernels kernels, const uint8_t *stripes, size_t rows,
                                 size_t columns, const ek_activations *x, size_t tokens, float *out, size_t out_stride);

/* What sums go on from. */
INLINE void load_tokens(int tokens, __m512 sums[], __mmask16 rows, int add, const float *out, size_t out_stride) {
  const __mmask16 some = add ? rows : 0;
  UNROLL for (int t = 0; t < tokens; t++) sums[t] = _mm512_maskz_loadu_ps(some, out + (size_t)t * out_stride);
}

INLINE void store_tokens(int tokens, const __m512 sums[], __mmask16 rows, float *out, size_t out_stride) {
  UNROLL for (int t = 0; t < tokens; t++) _mm512_mask_storeu_ps(out + (size_t)t * out_stride, rows, sums[t]);
}

/* ek_gemm_<name>_avx512vnni from `pair`, an inline function: an ek_pair_fn with what the type is and the number of
 * tokens before its arguments. */
#define GEMM_OF_PAIRS(name, pair, type, offset_factor)                                                                 \
  static void most(const uint8_t *a, const uint8_t *b, __mmask16 rows, size_t columns, const ek_panel *x,              \
                   size_t first, int add, float *out, size_t out_stride) {                                             \
    pair(type, MOST_TOKENS, a, b, rows, columns, x, first, add, out, out_stride);                                      \
  }                                                                                                                    \
  static void some(const uint8_t *a, const uint8_t *b, __mmask16 rows, size_t columns, const ek_panel *x,              \
                   size_t first, int add, float *out, size_t out_stride) {                                             \
    pair(type, SOME_TOKENS, a, b, rows, columns, x, first, add, out, out_stride);                                      \
  }                                                                                                                    \
  static void one(const uint8_t *a, const uint8_t *b, __mmask16 rows, size_t columns, const ek_panel *x, size_t first, \
                  int add, float *out, size_t out_stride) {                                                            \
    pair(type, 1, a, b, rows, columns, x, first, add, out, out_stride);                                                \
  }                                                                                                                    \
  void ek_gemm_##name##_avx512vnni(const uint8_t *stripes, size_t rows, size_t columns, const ek_activations *x,       \
                                   size_t tokens, float *out, size_t out_stride) {                                     \
    ek_gemm_of_pairs_avx512vnni(EK_TYPE_##name, (ek_pair_kernels){most, some, one, offset_factor}, stripes, rows,      \
                                columns, x, tokens, out, out_stride);                                                  \
  }

#endif
