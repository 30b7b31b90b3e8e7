/* The dot products of gemm with smmla, which multiplies 2 rows x 8 columns with 2 tokens x 8 columns: the functions of
 * dotprod/sdot.h, where accumulator 2 j + i of a part has its rows r = 2 i and r + 1 and the tokens t = 2 j and t + 1,
 * as (r, t), (r, t + 1), (r + 1, t), (r + 1, t + 1). */
#ifndef EK_I8MM_SMMLA_H
#define EK_I8MM_SMMLA_H

#include "../dotprod/lanes.h"

enum { MOST_TOKENS = 8, PART_ROWS = 4, TOKEN_VECTORS = 4 /* that hold a value of each token */ };

/* Token t of the panel; beyond `count` the last one again. */
INLINE size_t token_at(size_t t, size_t count) { return t < count ? t : count - 1; }

/* The codes of 32 columns, in vectors of 8 columns x 2 tokens, number pair of segments * tokens / 2 + token / 2.
 * `codes` is (count, columns) at those columns. */
INLINE void fill_codes(const int8_t *codes, size_t columns, size_t count, int tokens, int8_t *out) {
  for (int t = 0; t < tokens; t += 2) {
    for (int half = 0; half < 2; half++) {
      const int64x2_t x = vreinterpretq_s64_s8(vld1q_s8(codes + token_at((size_t)t, count) * columns + 16 * half)),
                      y = vreinterpretq_s64_s8(vld1q_s8(codes + token_at((size_t)t + 1, count) * columns + 16 * half));
      int8_t *at = out + 8 * t + 16 * tokens * half;
      vst1q_s8(at, vreinterpretq_s8_s64(vzip1q_s64(x, y)));
      vst1q_s8(at + 8 * tokens, vreinterpretq_s8_s64(vzip2q_s64(x, y)));
    }
  }
}

INLINE int8x16_t rows_01(int8x16_t first, int8x16_t second) {
  return vreinterpretq_s8_s32(vzip1q_s32(vreinterpretq_s32_s8(first), vreinterpretq_s32_s8(second)));
}
INLINE int8x16_t rows_23(int8x16_t first, int8x16_t second) {
  return vreinterpretq_s8_s32(vzip2q_s32(vreinterpretq_s32_s8(first), vreinterpretq_s32_s8(second)));
}

/* dots[tokens] += some bundles of a tile's part times the panel's 32 columns. Two bundles hold neighbouring segments.
 */
INLINE void add_panel_dots(const unpacker *u, const uint8_t *tile, int part, int first_bundle, int bundles,
                           const int8_t *codes, int tokens, int32x4_t dots[MOST_TOKENS]) {
  UNROLL for (int b = first_bundle; b < first_bundle + bundles; b += 2) {
    int8x16_t even[8], odd[8];
    unpack(u, tile, b, part, even);
    unpack(u, tile, b + 1, part, odd);
    UNROLL for (int j = 0; j < bundle_size(u->lanes); j++) {
      const int8_t *at = codes + 4 * tokens * bundle_segment(u->lanes, b, j);
      const int8x16_t w[2] = {rows_01(even[j], odd[j]), rows_23(even[j], odd[j])};
      UNROLL for (int a = 0; a < tokens; a += 2) {
        const int8x16_t x = vld1q_s8(at + 8 * a);
        UNROLL for (int i = 0; i < 2; i++) dots[a + i] = vmmlaq_s32(dots[a + i], w[i], x);
      }
      finish(dots, tokens);
    }
  }
}

/* A value of each row as it goes with even and odd accumulators. */
typedef struct row_values {
  float32x4_t of[2];
} row_values;

INLINE row_values of_rows(float32x4_t rows) { return (row_values){{vzip1q_f32(rows, rows), vzip2q_f32(rows, rows)}}; }

/* A value of token t to where a panel keeps one of each, and where it starts accumulators. */
INLINE void put_value(float value, int t, float values[4 * TOKEN_VECTORS]) {
  float *at = values + 4 * (t / 2) + t % 2;
  at[0] = at[2] = value;
}
INLINE void put_start(int32_t value, int t, int32_t starts[4 * MOST_TOKENS]) {
  int32_t *at = starts + 8 * (t / 2) + t % 2;
  at[0] = at[2] = at[4] = at[6] = value;
}

/* Of accumulator a: sum + b times the values of its tokens. */
INLINE float32x4_t add_times_tokens(float32x4_t sum, float32x4_t b, const float32x4_t values[TOKEN_VECTORS], int a) {
  return vfmaq_f32(sum, b, values[a / 2]);
}

/* The 4 rows of token t; and accumulator a from those of all tokens. */
INLINE float32x4_t token_rows(const float32x4_t sums[MOST_TOKENS], int t) {
  const float32x4_t first = sums[t & ~1], second = sums[t | 1];
  return t % 2 ? vuzp2q_f32(first, second) : vuzp1q_f32(first, second);
}
INLINE float32x4_t accumulator_of(const float rows[MOST_TOKENS][PART_ROWS], int a) {
  const float32x4_t first = vld1q_f32(rows[a & ~1]), second = vld1q_f32(rows[a | 1]);
  return a % 2 ? vzip2q_f32(first, second) : vzip1q_f32(first, second);
}

#endif
