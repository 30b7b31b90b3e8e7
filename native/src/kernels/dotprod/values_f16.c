/* Weights times values in half precision: sums of 8 products, which are added in float32. Where values are so large,
 * 8192 or so, that this overflows, they are summed once more in float32. (Scores are too sensitive: errors of half
 * precision in them made ones of 7e-3 in the output, so those of f16 keys are ARMv8.0's, in float32.) */
#include "queries.h"

#include <math.h>
#include <string.h>

/* Eight factors of each query, side by side. */
typedef float16_t factors_8[MOST_QUERIES][8];

enum { DIMS = 16, VALUE_ROW = 2 * GROUP };

/* sums[query] = eight rows of 16 halves times eight factors of each query. */
INLINE void multiply_rows(int n, const uint8_t *rows, const factors_8 factors, float16x8_t sums[][2]) {
  float16x8_t f[MOST_QUERIES];
  UNROLL for (int h = 0; h < n; h++) f[h] = vld1q_f16(factors[h]);
  UNROLL for (int lane = 0; lane < 8; lane++) {
    const float16x8_t x[2] = {load_half(rows + VALUE_ROW * lane), load_half(rows + VALUE_ROW * lane + 16)};
    UNROLL for (int h = 0; h < n; h++) {
      UNROLL for (int i = 0; i < 2; i++) {
        sums[h][i] =
            lane == 0 ? vmulq_laneq_f16(x[i], f[h], 0) : LANE_OF_8(lane, vfmaq_laneq_f16, sums[h][i], x[i], f[h]);
      }
    }
  }
}

/* Weights, integers of 15 bits, as halves below 1. */
enum { BITS = 15 };

INLINE void gather_weights(int n, const uint8_t *from, size_t stride, size_t count, factors_8 *to) {
#pragma GCC unroll 1
  for (size_t b = 0; b < count; b++, from += 2 * EK_CACHE_BLOCK, to += 2) {
    EK_COST_BEGIN(values, EK_TYPE_f16, COUNTED(n, 2 * BLOCK_COST)); /* of 64 dimensions */
    UNROLL for (int h = 0; h < n; h++) {
      UNROLL for (int i = 0; i < 2; i++) {
        const int16x8_t w = vreinterpretq_s16_u8(vld1q_u8(from + (size_t)h * stride + 16 * i));
        vst1q_f16(to[i][h], vcvtq_n_f16_s16(w, BITS));
      }
    }
  }
  EK_COST_END(values, EK_TYPE_f16, COUNTED(n, 2 * BLOCK_COST));
}

/* Whether sums overflowed, or values are not finite themselves. */
INLINE int overflowed(int n, float32x4_t sums[][4]) {
  float32x4_t none = vdupq_n_f32(0);
  UNROLL for (int h = 0; h < n; h++) {
    UNROLL for (int i = 0; i < 4; i++) none = vfmaq_f32(none, sums[h][i], vdupq_n_f32(0));
  }
  return isnan(vaddvq_f32(none));
}

/* The same in float32, for those that did. */
static __attribute__((noinline)) void add_slowly(int n, const uint8_t *const *blocks, size_t count, size_t at,
                                                 const factors_8 *weights, const float *factors, size_t dims,
                                                 float *out) {
  for (int h = 0; h < n; h++) {
    for (size_t k = 0; k < DIMS; k++) {
      float sum = 0;
      for (size_t p = 0; p < count * EK_CACHE_BLOCK; p++) {
        const uint8_t *value = blocks[p / EK_CACHE_BLOCK] + at + p % EK_CACHE_BLOCK * VALUE_ROW + 2 * k;
        sum += (float)weights[p / 8][h][p % 8] * ek_float_of_half(ek_load_u16(value));
      }
      out[(size_t)h * dims + k] += sum * factors[h];
    }
  }
}

/* 16 dimensions of a tile: out[query][0 .. 15]. */
INLINE void add_tile(int n, const uint8_t *const *blocks, size_t count, size_t at, const factors_8 *weights,
                     const float *factors, size_t dims, float *out) {
  float32x4_t sums[MOST_QUERIES][4];
  UNROLL for (int h = 0; h < n; h++) { UNROLL for (int i = 0; i < 4; i++) sums[h][i] = vdupq_n_f32(0); }
#pragma GCC unroll 1
  for (size_t b = 0; b < count; b++) {
    EK_COST_BEGIN(values, EK_TYPE_f16, COUNTED(n, BLOCK_COST / 2));
    UNROLL for (int i = 0; i < 2; i++) {
      float16x8_t more[MOST_QUERIES][2];
      __asm__ volatile("" : : : "memory"); /* else both halves are loaded first, and registers spilt */
      multiply_rows(n, blocks[b] + at + 8 * VALUE_ROW * i, weights[2 * b + (size_t)i], more);
      UNROLL for (int h = 0; h < n; h++) {
        UNROLL for (int j = 0; j < 2; j++) {
          sums[h][2 * j] = vaddq_f32(sums[h][2 * j], vcvt_f32_f16(vget_low_f16(more[h][j])));
          sums[h][2 * j + 1] = vaddq_f32(sums[h][2 * j + 1], vcvt_high_f32_f16(more[h][j]));
        }
      }
    }
  }
  EK_COST_END(values, EK_TYPE_f16, COUNTED(n, BLOCK_COST / 2));
  if (overflowed(n, sums)) {
    add_slowly(n, blocks, count, at, weights, factors, dims, out);
    return;
  }
  UNROLL for (int h = 0; h < n; h++) {
    UNROLL for (int i = 0; i < 4; i++) {
      float *to = out + (size_t)h * dims + 4 * i;
      vst1q_f32(to, vfmaq_n_f32(vld1q_f32(to), sums[h][i], factors[h]));
    }
  }
}

INLINE void add_values(int n, size_t first, const uint8_t *const *blocks, size_t count, size_t dims,
                       const float *weights, const float *factors, float *out) {
  const size_t stride = count * EK_CACHE_BLOCK * sizeof(float);
  factors_8 gathered[EK_CACHE_TILE * EK_CACHE_BLOCK / 8];
  float scales[MOST_QUERIES];
  gather_weights(n, (const uint8_t *)weights + first * stride, stride, count, gathered);
  for (int h = 0; h < n; h++) scales[h] = factors[first + (size_t)h] * (1 << BITS);
#pragma GCC unroll 1
  for (size_t k = 0; k < dims; k += DIMS) {
    EK_COST_BEGIN(values, EK_TYPE_f16, COUNTED(n, EK_CACHE_TILE * BLOCK_COST / 2));
    const size_t at = k / GROUP * group_bytes(EK_TYPE_f16) + k % GROUP * 2;
    add_tile(n, blocks, count, at, (const factors_8 *)gathered, scales, dims, out + first * dims + k);
  }
  EK_COST_END(values, EK_TYPE_f16, COUNTED(n, EK_CACHE_TILE * BLOCK_COST / 2));
}

void ek_values_f16_dotprod(const uint8_t *const *blocks, size_t count, size_t dims, const float *weights,
                           const float *factors, size_t query_count, float *out) {
  FOR_QUERIES(add_values, query_count, blocks, count, dims, weights, factors, out);
}
