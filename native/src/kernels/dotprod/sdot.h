/* The dot products of gemm with sdot. A panel is 8 tokens (or 4) x a chunk of columns, in the order that this reads it;
 * it is filled once for all rows. Against it goes a part of a tile, 4 rows. There is an accumulator for each token t,
 * 4 rows x 1 token. i8mm/smmla.h has the same functions with accumulators of 2 rows x 2 tokens. */
#ifndef EK_DOTPROD_SDOT_H
#define EK_DOTPROD_SDOT_H

#include "lanes.h"

enum { MOST_TOKENS = 8, PART_ROWS = 4, TOKEN_VECTORS = 2 /* that hold a value of each token */ };

/* Token t of the panel; beyond `count` the last one again. */
INLINE size_t token_at(size_t t, size_t count) { return t < count ? t : count - 1; }

/* The codes of 32 columns, in vectors of 4 columns x 4 tokens, number segment * tokens / 4 + token / 4. `codes` is
 * (count, columns) at those columns. */
INLINE void fill_codes(const int8_t *codes, size_t columns, size_t count, int tokens, int8_t *out) {
  for (int t = 0; t < tokens; t += 4) {
    for (int half = 0; half < 2; half++) {
      int32x4_t x[4];
      for (int i = 0; i < 4; i++) {
        x[i] = vreinterpretq_s32_s8(vld1q_s8(codes + token_at((size_t)(t + i), count) * columns + 16 * half));
      }
      const int64x2_t even[2] = {vreinterpretq_s64_s32(vtrn1q_s32(x[0], x[1])),
                                 vreinterpretq_s64_s32(vtrn1q_s32(x[2], x[3]))},
                      odd[2] = {vreinterpretq_s64_s32(vtrn2q_s32(x[0], x[1])),
                                vreinterpretq_s64_s32(vtrn2q_s32(x[2], x[3]))};
      int8_t *at = out + 4 * t + 16 * tokens * half;
      vst1q_s8(at, vreinterpretq_s8_s64(vtrn1q_s64(even[0], even[1])));
      vst1q_s8(at + 4 * tokens, vreinterpretq_s8_s64(vtrn1q_s64(odd[0], odd[1])));
      vst1q_s8(at + 8 * tokens, vreinterpretq_s8_s64(vtrn2q_s64(even[0], even[1])));
      vst1q_s8(at + 12 * tokens, vreinterpretq_s8_s64(vtrn2q_s64(odd[0], odd[1])));
    }
  }
}

/* dots[tokens] += some bundles of a tile's part times the panel's 32 columns. */
INLINE void add_panel_dots(const unpacker *u, const uint8_t *tile, int part, int first_bundle, int bundles,
                           const int8_t *codes, int tokens, int32x4_t dots[MOST_TOKENS]) {
  UNROLL for (int b = first_bundle; b < first_bundle + bundles; b++) {
    int8x16_t w[8];
    unpack(u, tile, b, part, w);
    UNROLL for (int j = 0; j < bundle_size(u->lanes); j++) {
      const int8_t *at = codes + 4 * tokens * bundle_segment(u->lanes, b, j);
      UNROLL for (int t = 0; t < tokens; t += 4) {
        const int8x16_t x = vld1q_s8(at + 4 * t);
        UNROLL for (int i = 0; i < 4; i++) { dots[t + i] = LANE_OF_4(i, vdotq_laneq_s32, dots[t + i], w[j], x); }
      }
      finish(dots, tokens);
    }
  }
}

/* A value of each row as it goes with even and odd accumulators. */
typedef struct row_values {
  float32x4_t of[2];
} row_values;

INLINE row_values of_rows(float32x4_t rows) { return (row_values){{rows, rows}}; }

/* A value of token t to where a panel keeps one of each, and where it starts an accumulator. */
INLINE void put_value(float value, int t, float values[4 * TOKEN_VECTORS]) { values[t] = value; }
INLINE void put_start(int32_t value, int t, int32_t starts[4 * MOST_TOKENS]) {
  vst1q_s32(starts + 4 * t, vdupq_n_s32(value));
}

/* Of accumulator a: sum + b times the values of its tokens. */
INLINE float32x4_t add_times_tokens(float32x4_t sum, float32x4_t b, const float32x4_t values[TOKEN_VECTORS], int a) {
  return LANE_OF_4(a % 4, vfmaq_laneq_f32, sum, b, values[a / 4]);
}

/* The 4 rows of token t; and accumulator a from those of all tokens. */
INLINE float32x4_t token_rows(const float32x4_t sums[MOST_TOKENS], int t) { return sums[t]; }
INLINE float32x4_t accumulator_of(const float rows[MOST_TOKENS][PART_ROWS], int a) { return vld1q_f32(rows[a]); }

#endif
