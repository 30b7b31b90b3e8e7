/* Queries times keys: a vector of a quantised block is 16 dimensions of one position, so that products of 8 bits add up
 * in 16 while they fit: two of bytes, all of nibbles. Four positions at once are reduced to a vector of dot products.
 */
#include "queries.h"

enum { POSITIONS = 4 };

/* Dimensions 0 .. 15 and 16 .. 31 of 4 positions. */
INLINE quad load_quad(enum ek_type type, const uint8_t *lanes) {
  quad k;
  UNROLL for (int p = 0; p < POSITIONS; p++) {
    const int8x16_t bytes = vld1q_s8((const int8_t *)lanes + 16 * p);
    if (type == EK_TYPE_q8_0) {
      k.low[p] = bytes;
      k.high[p] = vld1q_s8((const int8_t *)lanes + 256 + 16 * p);
    } else {
      k.low[p] = vshrq_n_s8(vshlq_n_s8(bytes, 4), 4);
      k.high[p] = vshrq_n_s8(bytes, 4);
    }
  }
  return k;
}

INLINE int32x4_t dots_of(enum ek_type type, const quad *k, int8x16_t low, int8x16_t high) {
  int32x4_t sums[POSITIONS];
  int16x8_t narrow[POSITIONS];
  UNROLL for (int p = 0; p < POSITIONS; p++) {
    narrow[p] = vmlal_high_s8(vmull_s8(vget_low_s8(k->low[p]), vget_low_s8(low)), k->low[p], low);
    if (type == EK_TYPE_q8_0) {
      const int16x8_t other = vmlal_high_s8(vmull_s8(vget_low_s8(k->high[p]), vget_low_s8(high)), k->high[p], high);
      sums[p] = vpadalq_s16(vpaddlq_s16(narrow[p]), other);
    } else { /* 32 products of at most 8 x 127 */
      narrow[p] = vmlal_high_s8(vmlal_s8(narrow[p], vget_low_s8(k->high[p]), vget_low_s8(high)), k->high[p], high);
    }
  }
  if (type == EK_TYPE_q8_0) return vpaddq_s32(vpaddq_s32(sums[0], sums[1]), vpaddq_s32(sums[2], sums[3]));
  return vpaddlq_s16(vpaddq_s16(vpaddq_s16(narrow[0], narrow[1]), vpaddq_s16(narrow[2], narrow[3])));
}

/* Scores of 4 positions: `lanes` are those of the first dimensions, `scales` ones with them. */
INLINE void score_quad(int n, enum ek_type type, const uint8_t *lanes, const uint8_t *scales, const query_group *query,
                       const query_group *end, float32x4_t sums[]) {
#pragma GCC unroll 1
  do { /* dims > 0 */
    EK_COST_BEGIN(scores, type, COUNTED(n, POSITIONS * MOST_QUERIES));
    const quad k = load_quad(type, lanes);
    const float32x4_t d = vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(scales)));
    UNROLL for (int h = 0; h < n; h++) {
      int32x4_t dots = dots_of(type, &k, vld1q_s8(query->codes[h]), vld1q_s8(query->codes[h] + 16));
      KEEP_ORDER(dots);
      sums[h] = vfmaq_f32(sums[h], vcvtq_f32_s32(dots), vmulq_n_f32(d, query->scales[h]));
    }
    lanes += group_bytes(type);
    scales += group_bytes(type);
  } while (++query != end);
  EK_COST_END(scores, type, COUNTED(n, POSITIONS * MOST_QUERIES));
}

/* Scores of one block, `stride` apart for the queries. */
INLINE void score_block(int n, enum ek_type type, const uint8_t *block, const query_group *queries,
                        const query_group *end, size_t stride, float *scores) {
  const float *after = scores + EK_CACHE_BLOCK;
  const uint8_t *scales = block + code_bytes(type);
#pragma GCC unroll 1
  do {
    EK_COST_BEGIN(scores, type, COUNTED(n, POSITIONS * MOST_QUERIES * 2));
    float32x4_t sums[MOST_QUERIES];
    UNROLL for (int h = 0; h < n; h++) sums[h] = vdupq_n_f32(0);
    score_quad(n, type, block, scales, queries, end, sums);
    UNROLL for (int h = 0; h < n; h++) vst1q_f32(scores + (size_t)h * stride, sums[h]);
    block += 16 * POSITIONS;
    scales += 2 * POSITIONS;
    scores += POSITIONS;
  } while (scores != after);
  EK_COST_END(scores, type, COUNTED(n, POSITIONS * MOST_QUERIES * 2));
}

INLINE void score(int n, size_t first, enum ek_type type, const uint8_t *const *blocks, size_t count, size_t dims,
                  const ek_activations *x, float *scores) {
  query_group queries[EK_MOST_HEAD_DIMS / GROUP];
  const size_t stride = count * EK_CACHE_BLOCK;
  gather_queries(n, first, dims, x, queries);
#pragma GCC unroll 1
  for (size_t b = 0; b < count; b++) {
    EK_COST_BEGIN(scores, type, COUNTED(n, 2 * BLOCK_COST)); /* of 64 dimensions */
    score_block(n, type, blocks[b], queries, queries + dims / GROUP, stride,
                scores + first * stride + b * EK_CACHE_BLOCK);
  }
  EK_COST_END(scores, type, COUNTED(n, 2 * BLOCK_COST));
}

#define KERNEL(type)                                                                                                   \
  void ek_scores_##type##_neon(const uint8_t *const *blocks, size_t count, size_t dims, const ek_activations *queries, \
                               size_t query_count, float *scores) {                                                    \
    FOR_QUERIES(score, query_count, EK_TYPE_##type, blocks, count, dims, queries, scores);                             \
  }

KERNEL(q8_0)
KERNEL(q4_0)
