/* Weights times values, in integers: weight x scale of a position becomes a number of 16 bits, by which the codes of
 * that position are multiplied, so that neither values nor sums are converted one by one. Numbers of a tile have a
 * scale, a power of two, in common. */
#include "queries.h"

enum { WIDTH = 16 }; /* dimensions at once */

/* Of the queries, at the positions of one block. */
typedef int16_t block_weights[MOST_QUERIES][EK_CACHE_BLOCK];

/* The largest |scale| of a tile. Blocks are taken by pairs: where they are odd, groups has one of them once more. */
INLINE uint16_t largest_scale(int n, enum ek_type type, const uint8_t *const *groups, size_t count) {
  (void)n;                          /* but for the label */
  uint16x8_t most = vdupq_n_u16(0); /* as integers, halves without a sign are ordered */
#pragma GCC unroll 1
  for (size_t b = 0; b < count; b += 2) {
    EK_COST_BEGIN(values, type, COUNTED(n, 2 * BLOCK_COST));
    UNROLL for (int i = 0; i < 4; i++) {
      const uint16x8_t bits = vreinterpretq_u16_u8(vld1q_u8(groups[b + i / 2] + code_bytes(type) + 16 * (i % 2)));
      most = vmaxq_u16(most, vbicq_u16(bits, vdupq_n_u16(0x8000)));
    }
  }
  EK_COST_END(values, type, COUNTED(n, 2 * BLOCK_COST));
  return vmaxvq_u16(most);
}

/* 8 of 2^14 half(power scale). */
INLINE int16x8_t scales_of(const uint8_t *halves, float power) {
  int32x4_t d[2];
  UNROLL for (int i = 0; i < 2; i++) {
    const float32x4_t scaled = vmulq_n_f32(vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(halves + 8 * i))), power);
    d[i] = vcvtq_n_s32_f32(vcvt_f32_f16(vcvt_f16_f32(scaled)), 14);
  }
  return vuzp1q_s16(vreinterpretq_s16_s32(d[0]), vreinterpretq_s16_s32(d[1]));
}

/* See queries.h. */
INLINE void scale_weights(int n, const uint8_t *scales, float power, const uint8_t *weights, size_t stride,
                          block_weights to) {
  UNROLL for (int i = 0; i < 2; i++) {
    const int16x8_t d = scales_of(scales + 16 * i, power);
    UNROLL for (int h = 0; h < n; h++) {
      const int16x8_t w = vreinterpretq_s16_u8(vld1q_u8(weights + (size_t)h * stride + 16 * i));
      vst1q_s16(to[h] + 8 * i, vqrdmulhq_s16(w, d));
    }
  }
}

/* sums[query] += 16 codes of a position x its weight, lane p of `weights`. */
#define ADD_POSITION(p, codes)                                                                                         \
  do {                                                                                                                 \
    const int16x8_t first = vmovl_s8(vget_low_s8(codes)), second = vmovl_high_s8(codes);                               \
    UNROLL for (int h = 0; h < n; h++) {                                                                               \
      const int16x8_t w = weights[h][(p) / 8];                                                                         \
      sums[h][0] = vmlal_laneq_s16(sums[h][0], vget_low_s16(first), w, (p) % 8);                                       \
      sums[h][1] = vmlal_high_laneq_s16(sums[h][1], first, w, (p) % 8);                                                \
      sums[h][2] = vmlal_laneq_s16(sums[h][2], vget_low_s16(second), w, (p) % 8);                                      \
      sums[h][3] = vmlal_high_laneq_s16(sums[h][3], second, w, (p) % 8);                                               \
    }                                                                                                                  \
  } while (0)

/* Nibbles become the top of a byte, 16 times too large; those of position p + 8 are in the bytes of position p. */
#define ADD_POSITIONS(p)                                                                                               \
  do {                                                                                                                 \
    if (type == EK_TYPE_q8_0) {                                                                                        \
      ADD_POSITION(p, vld1q_s8(codes + 32 * (p)));                                                                     \
      ADD_POSITION(p + 8, vld1q_s8(codes + 32 * (p) + 256));                                                           \
    } else {                                                                                                           \
      const int8x16_t bytes = vld1q_s8(codes + 32 * (p));                                                              \
      ADD_POSITION(p, vshlq_n_s8(bytes, 4));                                                                           \
      ADD_POSITION(p + 8, vandq_s8(bytes, vdupq_n_s8(-16)));                                                           \
    }                                                                                                                  \
  } while (0)

INLINE void add_block(int n, enum ek_type type, const int8_t *codes, const block_weights from, int32x4_t sums[][4]) {
  int16x8_t weights[MOST_QUERIES][2];
  UNROLL for (int h = 0; h < n; h++) {
    weights[h][0] = vld1q_s16(from[h]);
    weights[h][1] = vld1q_s16(from[h] + 8);
  }
  ADD_POSITIONS(0);
  ADD_POSITIONS(1);
  ADD_POSITIONS(2);
  ADD_POSITIONS(3);
  ADD_POSITIONS(4);
  ADD_POSITIONS(5);
  ADD_POSITIONS(6);
  ADD_POSITIONS(7);
}

INLINE float32x4_t float_of(enum ek_type type, int32x4_t x) {
  return type == EK_TYPE_q4_0 ? vcvtq_n_f32_s32(x, 4) : vcvtq_f32_s32(x);
}

/* 16 dimensions of a tile's positions: out[query][0 .. 15]. */
INLINE void add_tile(int n, enum ek_type type, const uint8_t *const *groups, size_t count, size_t at,
                     const block_weights *weights, const float *factors, size_t dims, float *out) {
  int32x4_t sums[MOST_QUERIES][4];
  UNROLL for (int h = 0; h < n; h++) { UNROLL for (int i = 0; i < 4; i++) sums[h][i] = vdupq_n_s32(0); }
  const uint8_t *const *end = groups + count;
#pragma GCC unroll 1
  do { /* count > 0 */
    EK_COST_BEGIN(values, type, COUNTED(n, BLOCK_COST / 2));
    add_block(n, type, (const int8_t *)*groups + at, *weights++, sums);
  } while (++groups != end);
  EK_COST_END(values, type, COUNTED(n, BLOCK_COST / 2));
  UNROLL for (int h = 0; h < n; h++) {
    float *to = out + (size_t)h * dims;
    UNROLL for (int i = 0; i < 4; i++)
        vst1q_f32(to + 4 * i, vfmaq_n_f32(vld1q_f32(to + 4 * i), float_of(type, sums[h][i]), factors[h]));
  }
}

/* 32 dimensions of a tile: out[query][0 .. 31]. */
INLINE void add_group(int n, enum ek_type type, const uint8_t *const *groups, size_t count, const uint8_t *weights,
                      size_t stride, const float *factors, size_t dims, float *out) {
  block_weights of_blocks[EK_CACHE_TILE];
  const tile_scaling scaling = tile_scaling_of(largest_scale(n, type, groups, count));
  const float power = power_of_two(scaling.shift);
#pragma GCC unroll 1
  for (size_t b = 0; b < count; b++) {
    EK_COST_BEGIN(values, type, COUNTED(n, BLOCK_COST));
    scale_weights(n, groups[b] + code_bytes(type), power, weights + 2 * EK_CACHE_BLOCK * b, stride, of_blocks[b]);
  }
  EK_COST_END(values, type, COUNTED(n, BLOCK_COST));
  float scaled[MOST_QUERIES];
  for (int h = 0; h < n; h++) scaled[h] = factors[h] * scaling.inverse;
#pragma GCC unroll 1
  for (size_t i = 0; i < GROUP; i += WIDTH) {
    EK_COST_BEGIN(values, type, COUNTED(n, EK_CACHE_TILE * BLOCK_COST / 2));
    add_tile(n, type, groups, count, i, (const block_weights *)of_blocks, scaled, dims, out + i);
  }
  EK_COST_END(values, type, COUNTED(n, EK_CACHE_TILE * BLOCK_COST / 2));
}

INLINE void add_values(int n, size_t first, enum ek_type type, const uint8_t *const *blocks, size_t count, size_t dims,
                       const float *weights, const float *factors, float *out) {
  const uint8_t *groups[EK_CACHE_TILE];
  const size_t stride = count * EK_CACHE_BLOCK * sizeof(float);
  const uint8_t *from = (const uint8_t *)weights + first * stride;
  for (size_t k = 0; k < dims; k += GROUP) {
    for (size_t b = 0; b < EK_CACHE_TILE; b++) groups[b] = blocks[b < count ? b : 0] + k / GROUP * group_bytes(type);
    add_group(n, type, groups, count, from, stride, factors + first, dims, out + first * dims + k);
  }
}

#define KERNEL(type)                                                                                                   \
  void ek_values_##type##_neon(const uint8_t *const *blocks, size_t count, size_t dims, const float *weights,          \
                               const float *factors, size_t query_count, float *out) {                                 \
    FOR_QUERIES(add_values, query_count, EK_TYPE_##type, blocks, count, dims, weights, factors, out);                  \
  }

KERNEL(q8_0)
KERNEL(q4_0)
