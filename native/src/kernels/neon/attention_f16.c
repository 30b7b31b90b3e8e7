/* Attention over f16 blocks in float32: halves are widened once for four queries. */
#include "queries.h"

#include <string.h>

INLINE void widen_8(const uint8_t *at, float32x4_t out[2]) {
  const float16x8_t halves = vreinterpretq_f16_u8(vld1q_u8(at));
  out[0] = vcvt_f32_f16(vget_low_f16(halves));
  out[1] = vcvt_high_f32_f16(halves);
}

/* sums[query][i] += x[i] times lane `lane` of factors[query]: 16 positions or dimensions. */
#define ADD_LANE(n, x, factors, lane)                                                                                  \
  UNROLL for (int h = 0; h < (n); h++) {                                                                               \
    UNROLL for (int i = 0; i < 4; i++) sums[h][i] = vfmaq_laneq_f32(sums[h][i], x[i], (factors)[h], lane);             \
  }

/* Four rows of 16 halves, 16 or 32 halves apart, times four factors of each query. */
#define ADD_ROWS(n, rows, stride, factors)                                                                             \
  do {                                                                                                                 \
    ADD_ROW(n, rows, factors, 0);                                                                                      \
    ADD_ROW(n, (rows) + (stride), factors, 1);                                                                         \
    ADD_ROW(n, (rows) + 2 * (stride), factors, 2);                                                                     \
    ADD_ROW(n, (rows) + 3 * (stride), factors, 3);                                                                     \
  } while (0)
#define ADD_ROW(n, row, factors, lane)                                                                                 \
  do {                                                                                                                 \
    float32x4_t x[4];                                                                                                  \
    widen_8(row, x);                                                                                                   \
    widen_8((row) + 16, x + 2);                                                                                        \
    ADD_LANE(n, x, factors, lane)                                                                                      \
  } while (0)

/* Factors of the queries, four at a time side by side. */
typedef float factors_4[MOST_QUERIES][4];

INLINE void gather(int n, const float *from, size_t stride, size_t count, factors_4 *to) {
  for (size_t k = 0; k < count; k += 4) {
    for (size_t h = 0; h < (size_t)n; h++) memcpy(to[k / 4][h], from + h * stride + k, sizeof to[0][0]);
  }
}

/* Weights, which are integers of 16 bits, likewise; `stride` in bytes. */
INLINE void gather_weights(int n, const uint8_t *from, size_t stride, size_t blocks, factors_4 *to) {
#pragma GCC unroll 1
  for (size_t b = 0; b < blocks; b++, from += 2 * EK_CACHE_BLOCK, to += 4) {
    EK_COST_BEGIN(values, EK_TYPE_f16, COUNTED(n, 4 * BLOCK_COST)); /* of 128 dimensions */
    UNROLL for (int h = 0; h < n; h++) {
      UNROLL for (int i = 0; i < 2; i++) {
        const int16x8_t w = vreinterpretq_s16_u8(vld1q_u8(from + (size_t)h * stride + 16 * i));
        vst1q_f32(to[2 * i][h], vcvtq_f32_s32(vmovl_s16(vget_low_s16(w))));
        vst1q_f32(to[2 * i + 1][h], vcvtq_f32_s32(vmovl_high_s16(w)));
      }
    }
  }
  EK_COST_END(values, EK_TYPE_f16, COUNTED(n, 4 * BLOCK_COST));
}

INLINE void load_factors(int n, const factors_4 from, float32x4_t to[]) {
  UNROLL for (int h = 0; h < n; h++) to[h] = vld1q_f32(from[h]);
}

INLINE void score(int n, size_t first, const uint8_t *const *blocks, size_t count, size_t dims, const float *queries,
                  float *scores) {
  enum { ROW = 2 * EK_CACHE_BLOCK };
  factors_4 factors[EK_MOST_HEAD_DIMS / 4];
  gather(n, queries + first * dims, dims, dims, factors);
  scores += first * count * EK_CACHE_BLOCK;
#pragma GCC unroll 1
  for (size_t b = 0; b < count; b++) {
    EK_COST_BEGIN(scores, EK_TYPE_f16, COUNTED(n, 2 * BLOCK_COST)); /* of 64 dimensions */
    float32x4_t sums[MOST_QUERIES][4];
    UNROLL for (int h = 0; h < n; h++) { UNROLL for (int i = 0; i < 4; i++) sums[h][i] = vdupq_n_f32(0); }
    const uint8_t *rows = blocks[b];
    const factors_4 *q = (const factors_4 *)factors, *end = q + dims / 4;
#pragma GCC unroll 1
    do {
      EK_COST_BEGIN(scores, EK_TYPE_f16, COUNTED(n, BLOCK_COST / 4));
      UNROLL for (int i = 0; i < 2; i++) {
        float32x4_t f[MOST_QUERIES];
        load_factors(n, q[i], f);
        ADD_ROWS(n, rows + 4 * ROW * i, ROW, f);
      }
      rows += 8 * ROW;
      q += 2;
    } while (q != end);
    EK_COST_END(scores, EK_TYPE_f16, COUNTED(n, BLOCK_COST / 4));
    UNROLL for (int h = 0; h < n; h++) {
      float *out = scores + ((size_t)h * count + b) * EK_CACHE_BLOCK;
      UNROLL for (int i = 0; i < 4; i++) vst1q_f32(out + 4 * i, sums[h][i]);
    }
  }
  EK_COST_END(scores, EK_TYPE_f16, COUNTED(n, 2 * BLOCK_COST));
}

/* 16 dimensions of a tile: out[query][0 .. 15]. */
INLINE void add_tile(int n, const uint8_t *const *blocks, size_t count, size_t at, const factors_4 *weights,
                     const float *factors, size_t dims, float *out) {
  enum { ROW = 2 * GROUP };
  float32x4_t sums[MOST_QUERIES][4];
  UNROLL for (int h = 0; h < n; h++) { UNROLL for (int i = 0; i < 4; i++) sums[h][i] = vdupq_n_f32(0); }
  const uint8_t *const *end = blocks + count;
#pragma GCC unroll 1
  do { /* count > 0 */
    EK_COST_BEGIN(values, EK_TYPE_f16, COUNTED(n, BLOCK_COST / 2));
    UNROLL for (int i = 0; i < 4; i++) {
      float32x4_t w[MOST_QUERIES];
      load_factors(n, weights[i], w);
      ADD_ROWS(n, *blocks + at + 4 * ROW * i, ROW, w);
    }
    weights += 4;
  } while (++blocks != end);
  EK_COST_END(values, EK_TYPE_f16, COUNTED(n, BLOCK_COST / 2));
  UNROLL for (int h = 0; h < n; h++) {
    float *to = out + (size_t)h * dims;
    UNROLL for (int i = 0; i < 4; i++)
        vst1q_f32(to + 4 * i, vfmaq_n_f32(vld1q_f32(to + 4 * i), sums[h][i], factors[h]));
  }
}

INLINE void add_values(int n, size_t first, const uint8_t *const *blocks, size_t count, size_t dims,
                       const float *weights, const float *factors, float *out) {
  const size_t stride = count * EK_CACHE_BLOCK * sizeof(float);
  factors_4 gathered[EK_CACHE_TILE * EK_CACHE_BLOCK / 4];
  gather_weights(n, (const uint8_t *)weights + first * stride, stride, count, gathered);
#pragma GCC unroll 1
  for (size_t k = 0; k < dims; k += 16) {
    EK_COST_BEGIN(values, EK_TYPE_f16, COUNTED(n, EK_CACHE_TILE * BLOCK_COST / 2));
    const size_t at = k / GROUP * group_bytes(EK_TYPE_f16) + k % GROUP * 2;
    add_tile(n, blocks, count, at, (const factors_4 *)gathered, factors + first, dims, out + first * dims + k);
  }
  EK_COST_END(values, EK_TYPE_f16, COUNTED(n, EK_CACHE_TILE * BLOCK_COST / 2));
}

void ek_scores_f16_neon(const uint8_t *const *blocks, size_t count, size_t dims, const ek_activations *queries,
                        size_t query_count, float *scores) {
  FOR_QUERIES(score, query_count, blocks, count, dims, queries->values, scores);
}

void ek_values_f16_neon(const uint8_t *const *blocks, size_t count, size_t dims, const float *weights,
                        const float *factors, size_t query_count, float *out) {
  FOR_QUERIES(add_values, query_count, blocks, count, dims, weights, factors, out);
}
