/* Where the sums of gemm come from and go; after sdot.h or i8mm/smmla.h. */
#ifndef EK_DOTPROD_OUTPUT_H
#define EK_DOTPROD_OUTPUT_H

#include "lanes.h"

/* What sums go on from: factor * out (count, out_stride) of the first `rows` rows of a part, or 0 where it is the first
 * of the columns. */
INLINE void take_sums(const float *out, size_t out_stride, float factor, int tokens, size_t rows, size_t count,
                      int first, float32x4_t sums[MOST_TOKENS]) {
  float values[MOST_TOKENS][PART_ROWS] = {0};
  for (size_t t = 0; !first && t < count; t++, out += out_stride) {
    for (size_t r = 0; r < PART_ROWS && r < rows; r++) values[t][r] = factor * out[r];
  }
  UNROLL for (int a = 0; a < tokens; a++) sums[a] = accumulator_of((const float (*)[PART_ROWS])values, a);
}

/* And back, divided by the factor. */
INLINE void put_sums(const float32x4_t sums[MOST_TOKENS], float inverse, int tokens, size_t rows, size_t count,
                     float *out, size_t out_stride) {
  float values[MOST_TOKENS][PART_ROWS];
  UNROLL for (int t = 0; t < tokens; t++) vst1q_f32(values[t], vmulq_n_f32(token_rows(sums, t), inverse));
  for (size_t t = 0; t < count; t++, out += out_stride) {
    if (rows >= PART_ROWS) {
      vst1q_f32(out, vld1q_f32(values[t]));
    } else {
      for (size_t r = 0; r < rows; r++) out[r] = values[t][r];
    }
  }
}

#endif
