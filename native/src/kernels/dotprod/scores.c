/* Queries times keys. A vector of a quantised block is 4 positions x 4 dimensions, so that a dot product by element
 * scores 4 positions at once and nothing is left to reduce. */
#include "queries.h"

/* 8 positions: half a block. */
enum { POSITIONS = 8 };

/* Products of one group's lanes at 8 positions: `lanes` are those of the first 4 dimensions. */
INLINE void dot_lanes(int n, enum ek_type type, const uint8_t *lanes, const query_group *query, int32x4_t dots[][2]) {
  const int vectors = (int)code_bytes(type) / 64;
  int8x16_t q[MOST_QUERIES][2];
  UNROLL for (int h = 0; h < n; h++) {
    UNROLL for (int i = 0; i < 2; i++) {
      q[h][i] = vld1q_s8(query->codes[h] + 16 * i);
      dots[h][i] = vdupq_n_s32(0);
    }
  }
  UNROLL for (int j = 0; j < vectors; j++) {
    UNROLL for (int i = 0; i < 2; i++) {
      const uint8x16_t bytes = vld1q_u8(lanes + 64 * j + 16 * i);
      if (type == EK_TYPE_q4_0) {
        const int8x16_t low = low_nibbles(bytes), high = high_nibbles(bytes);
        UNROLL for (int h = 0; h < n; h++) {
          dots[h][i] = LANE_OF_4(j, vdotq_laneq_s32, dots[h][i], low, q[h][0]);
          dots[h][i] = LANE_OF_4(j, vdotq_laneq_s32, dots[h][i], high, q[h][1]);
        }
      } else {
        UNROLL for (int h = 0; h < n; h++) {
          dots[h][i] = LANE_OF_4(j % 4, vdotq_laneq_s32, dots[h][i], vreinterpretq_s8_u8(bytes), q[h][j / 4]);
        }
      }
    }
  }
}

/* Scores of 8 positions, half a block: `lanes` are those of the first dimensions, `scales` ones with them. */
INLINE void score_half(int n, enum ek_type type, const uint8_t *lanes, const uint8_t *scales, const query_group *query,
                       const query_group *end, float32x4_t sums[][2]) {
#pragma GCC unroll 1
  do { /* dims > 0 */
    EK_COST_BEGIN(scores, type, COUNTED(n, POSITIONS * MOST_QUERIES));
    int32x4_t dots[MOST_QUERIES][2];
    dot_lanes(n, type, lanes, query, dots);
    const float16x8_t halves = load_half(scales);
    const float32x4_t d[2] = {vcvt_f32_f16(vget_low_f16(halves)), vcvt_high_f32_f16(halves)};
    const float32x4_t s = vld1q_f32(query->scales);
    UNROLL for (int h = 0; h < n; h++) {
      UNROLL for (int i = 0; i < 2; i++) sums[h][i] =
          vfmaq_f32(sums[h][i], float_of(type, dots[h][i]), LANE_OF_4(h, vmulq_laneq_f32, d[i], s));
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
    float32x4_t sums[MOST_QUERIES][2];
    UNROLL for (int h = 0; h < n; h++) sums[h][0] = sums[h][1] = vdupq_n_f32(0);
    score_half(n, type, block, scales, queries, end, sums);
    UNROLL for (int h = 0; h < n; h++) {
      vst1q_f32(scores + (size_t)h * stride, sums[h][0]);
      vst1q_f32(scores + (size_t)h * stride + 4, sums[h][1]);
    }
    block += 32;
    scales += 16;
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
    EK_COST_BEGIN(scores, type, COUNTED(n, POSITIONS * MOST_QUERIES * 4));
    score_block(n, type, blocks[b], queries, queries + dims / GROUP, stride,
                scores + first * stride + b * EK_CACHE_BLOCK);
  }
  EK_COST_END(scores, type, COUNTED(n, POSITIONS * MOST_QUERIES * 4));
}

#define KERNEL(type)                                                                                                   \
  void ek_scores_##type##_dotprod(const uint8_t *const *blocks, size_t count, size_t dims,                             \
                                  const ek_activations *queries, size_t query_count, float *scores) {                  \
    FOR_QUERIES(score, query_count, EK_TYPE_##type, blocks, count, dims, queries, scores);                             \
  }

KERNEL(q8_0)
KERNEL(q4_0)
