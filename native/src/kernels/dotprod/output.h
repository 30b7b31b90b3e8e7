/* What gemm does with finished sums; after sdot.h or i8mm/smmla.h. */
#ifndef EK_DOTPROD_OUTPUT_H
#define EK_DOTPROD_OUTPUT_H

#include "lanes.h"

/* out (count, out_stride) = or += factor * sums of the first `rows` rows of a part. */
INLINE void put_sums(const float32x4_t sums[MOST_TOKENS], float factor, int tokens, size_t rows, size_t count, int add,
                     float *out, size_t out_stride) {
  float values[MOST_TOKENS][PART_ROWS];
  UNROLL for (int t = 0; t < tokens; t++) vst1q_f32(values[t], vmulq_n_f32(token_rows(sums, t), factor));
  for (size_t t = 0; t < count; t++, out += out_stride) {
    if (rows >= PART_ROWS) {
      const float32x4_t v = vld1q_f32(values[t]);
      vst1q_f32(out, add ? vaddq_f32(v, vld1q_f32(out)) : v);
    } else {
      for (size_t r = 0; r < rows; r++) out[r] = add ? out[r] + values[t][r] : values[t][r];
    }
  }
}

#endif
