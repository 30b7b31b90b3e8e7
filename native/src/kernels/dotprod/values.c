/* Weights times values, in integers: a vector of a quantised block is 4 dimensions x 4 positions, and a dot product by
 * element sums four positions of each. Weight x scale of a position becomes a number of 15 bits in two bytes, high and
 * low, so that neither values nor sums are ever converted. Numbers of a tile have a scale, a power of two, in common.
 */
#include "queries.h"

#include <string.h>

/* Of the queries, at the positions of one block: high bytes, then low ones. */
typedef int8_t weight_bytes[MOST_QUERIES][2][EK_CACHE_BLOCK];

/* 2^shift (queries.h) as two factors that half can hold. */
typedef struct scaling {
  float16_t factors[2];
  float inverse;
} scaling;

INLINE scaling scaling_of(int n, enum ek_type type, const uint8_t *const *groups, size_t pairs) {
  (void)n;                          /* but for the label */
  uint16x8_t most = vdupq_n_u16(0); /* as integers, halves without a sign are ordered */
#pragma GCC unroll 1
  for (size_t p = 0; p < pairs; p++) {
    EK_COST_BEGIN(values, type, COUNTED(n, 2 * BLOCK_COST));
    UNROLL for (int i = 0; i < 4; i++) {
      const uint16x8_t bits = vreinterpretq_u16_u8(vld1q_u8(groups[2 * p + i / 2] + code_bytes(type) + 16 * (i % 2)));
      most = vmaxq_u16(most, vbicq_u16(bits, vdupq_n_u16(0x8000)));
    }
  }
  EK_COST_END(values, type, COUNTED(n, 2 * BLOCK_COST));
  const tile_scaling of = tile_scaling_of(vmaxvq_u16(most));
  const int first = of.shift < 15 ? of.shift : 15;
  return (scaling){{(float16_t)power_of_two(first), (float16_t)power_of_two(of.shift - first)}, of.inverse};
}

/* See queries.h. */
INLINE void scale_weights(int n, const uint8_t *scales, const scaling *s, const uint8_t *weights, size_t stride,
                          weight_bytes to) {
  int16x8_t d[2]; /* in units of 2^-14 */
  UNROLL for (int i = 0; i < 2; i++) {
    const float16x8_t scaled = vmulq_n_f16(load_half(scales + 16 * i), s->factors[0]);
    d[i] = vcvtq_n_s16_f16(vmulq_n_f16(scaled, s->factors[1]), 14);
  }
  UNROLL for (int h = 0; h < n; h++) {
    int16x8_t w[2];
    UNROLL for (int i = 0; i < 2; i++) w[i] =
        vqrdmulhq_s16(vreinterpretq_s16_u8(vld1q_u8(weights + (size_t)h * stride + 16 * i)), d[i]);
    vst1q_s8(to[h][0], vrshrn_high_n_s16(vrshrn_n_s16(w[0], 8), w[1], 8));
    vst1q_s8(to[h][1], vuzp1q_s8(vreinterpretq_s8_s16(w[0]), vreinterpretq_s8_s16(w[1])));
  }
}

/* 4 dimensions of one query. */
typedef struct sum {
  int32x4_t high, low;
} sum;

/* Adds 16 positions of 8 dimensions. */
INLINE void add_block(int n, enum ek_type type, const uint8_t *lanes, const weight_bytes weights, sum sums[][2]) {
  int8x16_t w[MOST_QUERIES][2];
  UNROLL for (int h = 0; h < n; h++) { UNROLL for (int i = 0; i < 2; i++) w[h][i] = vld1q_s8(weights[h][i]); }
  const int vectors = (int)code_bytes(type) / 128;
  UNROLL for (int j = 0; j < vectors; j++) {
    UNROLL for (int i = 0; i < 2; i++) {
      const uint8x16_t bytes = vld1q_u8(lanes + 128 * j + 16 * i);
      const int8x16_t v = type == EK_TYPE_q4_0 ? low_nibbles(bytes) : vreinterpretq_s8_u8(bytes);
      UNROLL for (int h = 0; h < n; h++) {
        sums[h][i].high = LANE_OF_4(j, vdotq_laneq_s32, sums[h][i].high, v, w[h][0]);
        sums[h][i].low = LANE_OF_4(j, vdotq_laneq_s32, sums[h][i].low, v, w[h][1]);
      }
      if (type == EK_TYPE_q4_0) {
        const int8x16_t later = high_nibbles(bytes);
        UNROLL for (int h = 0; h < n; h++) {
          sums[h][i].high = LANE_OF_4(j + 2, vdotq_laneq_s32, sums[h][i].high, later, w[h][0]);
          sums[h][i].low = LANE_OF_4(j + 2, vdotq_laneq_s32, sums[h][i].low, later, w[h][1]);
        }
      }
    }
  }
}

/* 8 dimensions of a tile's positions: out[query][0 .. 7]. */
INLINE void add_tile(int n, enum ek_type type, const uint8_t *const *groups, size_t pairs, size_t at,
                     const weight_bytes *weights, float32x4_t factors, size_t dims, float *out) {
  sum sums[MOST_QUERIES][2];
  UNROLL for (int h = 0; h < n; h++) {
    UNROLL for (int i = 0; i < 2; i++) sums[h][i].high = sums[h][i].low = vdupq_n_s32(0);
  }
#pragma GCC unroll 1
  do { /* pairs > 0 */
    EK_COST_BEGIN(values, type, COUNTED(n, 2 * BLOCK_COST / 4));
    add_block(n, type, groups[0] + at, weights[0], sums);
    add_block(n, type, groups[1] + at, weights[1], sums);
    groups += 2;
    weights += 2;
  } while (--pairs);
  EK_COST_END(values, type, COUNTED(n, 2 * BLOCK_COST / 4));
  int32x4_t places = vdupq_n_s32(256);
  __asm__("" : "+w"(places)); /* else compilers make two instructions, a shift and an addition, of one */
  UNROLL for (int h = 0; h < n; h++) {
    UNROLL for (int i = 0; i < 2; i++) {
      float *to = out + (size_t)h * dims + 4 * i;
      const float32x4_t whole = float_of(type, vmlaq_s32(sums[h][i].low, sums[h][i].high, places));
      vst1q_f32(to, LANE_OF_4(h, vfmaq_laneq_f32, vld1q_f32(to), whole, factors));
    }
  }
}

/* 32 dimensions of a tile: out[query][0 .. 31]. Blocks are taken by pairs: where they are odd, groups and bytes have
 * one more, of no weight. */
INLINE void add_group(int n, enum ek_type type, const uint8_t *const *groups, size_t count, const uint8_t *weights,
                      size_t stride, weight_bytes *bytes, float32x4_t factors, size_t dims, float *out) {
  const size_t pairs = (count + 1) / 2;
  const scaling s = scaling_of(n, type, groups, pairs);
#pragma GCC unroll 1
  for (size_t b = 0; b < count; b++) {
    EK_COST_BEGIN(values, type, COUNTED(n, BLOCK_COST));
    scale_weights(n, groups[b] + code_bytes(type), &s, weights + 32 * b, stride, bytes[b]);
  }
  EK_COST_END(values, type, COUNTED(n, BLOCK_COST));
  const float32x4_t scales = vmulq_n_f32(factors, s.inverse);
#pragma GCC unroll 1
  for (size_t i = 0; i < GROUP; i += 8) {
    EK_COST_BEGIN(values, type, COUNTED(n, EK_CACHE_TILE * BLOCK_COST / 4));
    add_tile(n, type, groups, pairs, 4 * i, (const weight_bytes *)bytes, scales, dims, out + i);
  }
  EK_COST_END(values, type, COUNTED(n, EK_CACHE_TILE * BLOCK_COST / 4));
}

INLINE void add_values(int n, size_t first, enum ek_type type, const uint8_t *const *blocks, size_t count, size_t dims,
                       const float *weights, const float *factors, float *out) {
  const uint8_t *groups[EK_CACHE_TILE];
  weight_bytes bytes[EK_CACHE_TILE];
  const size_t stride = count * EK_CACHE_BLOCK * sizeof(float);
  const uint8_t *from = (const uint8_t *)weights + first * stride;
  float all[MOST_QUERIES] = {0};
  for (int h = 0; h < n; h++) all[h] = factors[first + (size_t)h];
  if (count % 2) memset(bytes[count], 0, sizeof bytes[count]);
  for (size_t k = 0; k < dims; k += GROUP) {
    for (size_t b = 0; b < EK_CACHE_TILE; b++) groups[b] = blocks[b < count ? b : 0] + k / GROUP * group_bytes(type);
    add_group(n, type, groups, count, from, stride, bytes, vld1q_f32(all), dims, out + first * dims + k);
  }
}

#define KERNEL(type)                                                                                                   \
  void ek_values_##type##_dotprod(const uint8_t *const *blocks, size_t count, size_t dims, const float *weights,       \
                                  const float *factors, size_t query_count, float *out) {                              \
    FOR_QUERIES(add_values, query_count, EK_TYPE_##type, blocks, count, dims, weights, factors, out);                  \
  }

KERNEL(q8_0)
KERNEL(q4_0)
