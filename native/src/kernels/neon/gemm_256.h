/* Many tokens times the K types. */
#ifndef EK_NEON_GEMM_256_H
#define EK_NEON_GEMM_256_H

#include "gemv_256.h"
#include "panel.h"

/* Scale x dot of four rows with 32 columns of one token, added to `sum`. */
INLINE int32x4_t add_token_dots(enum ek_type type, int32x4_t sum, quad rows, const int32x4_t scales[2],
                                const panel_group *group, int t, pair x) {
  if (type == EK_TYPE_q6_k) {
    sum = vmlaq_s32(sum, vpaddlq_s16(half_dots(rows.low, x.low)), scales[0]);
    return vmlaq_s32(sum, vpaddlq_s16(half_dots(rows.high, x.high)), scales[1]);
  }
  if (!zero_of(type)) return vmlaq_s32(sum, vpaddlq_s16(narrow_dots(rows, x)), scales[0]);
  return vmlaq_s32(sum, vpadalq_s16(vld1q_s32(group->starts[t]), narrow_dots(rows, x)), scales[0]);
}

/* dots (tokens) of four rows: the sums over a superblock. */
INLINE void quad_dots_256(enum ek_type type, const uint8_t *tile, int parity, const panel_group *group,
                          int32x4_t dots[TOKENS]) {
#pragma GCC unroll 8
  for (int t = 0; t < TOKENS; t++) dots[t] = vdupq_n_s32(0);
#pragma GCC unroll 1
  for (int j = 0; j < 8; j++) {
    EK_COST_BEGIN(gemm, type, 4 * TOKENS);
    const quad rows = unpack(type, tile, parity, 2);
    const uint8x16_t after = vld1q_u8(tile + tile_bytes(type));
    int32x4_t scales[2];
    if (type == EK_TYPE_q6_k) {
      scales[0] = parity_lanes(vmovl_s8(vget_low_s8(vreinterpretq_s8_u8(after))), parity);
      scales[1] = parity_lanes(vmovl_high_s8(vreinterpretq_s8_u8(after)), parity);
    } else {
      scales[0] = scales[1] = parity_lanes(vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(after))), parity);
    }
#pragma GCC unroll 8
    for (int t = 0; t < TOKENS; t++) {
      pair x = load_pair(group->codes[t]);
      if (t > 0) KEEP_ORDER(dots[t - 1]);
      KEEP_ORDER(x.low);
      dots[t] = add_token_dots(type, dots[t], rows, scales, group, t, x);
    }
    tile += tile_bytes(type) + 16;
    group++;
  }
  EK_COST_END(gemm, type, 4 * TOKENS);
}

/* The minima of four rows of a sub-block. */
INLINE int16x4_t load_minima(enum ek_type type, const uint8_t *tile, int parity) {
  const uint8x16_t after = vld1q_u8(tile + tile_bytes(type));
  return vmovn_s32(parity_lanes(vreinterpretq_s16_u16(vmovl_high_u8(after)), parity));
}

/* Minimum x sum of four rows over a superblock. */
INLINE int32x4_t dot_minima(const int16x4_t minima[8], int16x8_t sums) {
  int32x4_t dot = vmull_laneq_s16(minima[0], sums, 0);
#define ADD(j) dot = vmlal_laneq_s16(dot, minima[j], sums, j)
  ADD(1), ADD(2), ADD(3), ADD(4), ADD(5), ADD(6), ADD(7);
#undef ADD
  return dot;
}

INLINE void add_value(float sums[4], float32x4_t value, float scale) {
  vst1q_f32(sums, vfmaq_n_f32(vld1q_f32(sums), value, scale));
}

/* Four rows x eight tokens: adds a superblock to sums (tokens, rows). */
INLINE void quad_sums_256(enum ek_type type, const uint8_t *header, int parity, const panel *x, float sums[TOKENS][4]) {
  const uint8_t *tile = header + header_bytes(type);
  const float32x4_t scales = parity_halves(header, parity);
  int32x4_t dots[TOKENS];
  int16x4_t minima[8];
  quad_dots_256(type, tile, parity, x->groups, dots);
  if (type == EK_TYPE_q6_k) {
#pragma GCC unroll 8
    for (int t = 0; t < TOKENS; t++) add_value(sums[t], vmulq_f32(scales, vcvtq_f32_s32(dots[t])), x->scales[t]);
    return;
  }
  const float32x4_t of_minima = parity_halves(header + 16, parity);
#pragma GCC unroll 8
  for (int j = 0; j < 8; j++) minima[j] = load_minima(type, tile + (size_t)j * (tile_bytes(type) + 16), parity);
#pragma GCC unroll 8
  for (int t = 0; t < TOKENS; t++) {
    const float32x4_t value = vmulq_f32(scales, vcvtq_f32_s32(dots[t]));
    const float32x4_t less = vcvtq_f32_s32(dot_minima(minima, vld1q_s16(x->sums[t])));
    add_value(sums[t], vfmsq_f32(value, of_minima, less), x->scales[t]);
  }
}

INLINE void gemm_256(enum ek_type type, ek_gemv_fn *gemv, const uint8_t *stripes, size_t rows, size_t columns,
                     const ek_activations *x, size_t tokens, float *out, size_t out_stride) {
  const size_t superblock = header_bytes(type) + 8 * (tile_bytes(type) + 16);
  panel panel;
  for (size_t t = 0, some; t < tokens; t += some) {
    some = tokens - t < TOKENS ? tokens - t : TOKENS;
    if (some <= TOKENS / 2) {
      gemv_tokens(gemv, stripes, rows, columns, 256, x, t, some, out, out_stride);
      continue;
    }
    for (size_t k = 0; k < columns; k += EK_SUPERBLOCK) {
      fill_panel_256(type, &panel, x, t, some, columns, k);
      const uint8_t *header = stripes + k / EK_SUPERBLOCK * superblock;
      for (size_t r = 0; r < rows; r += EK_STRIPE, header += columns / EK_SUPERBLOCK * superblock) {
        tile_sums sums;
        float *at = out + t * out_stride + r;
        take_sums(at, out_stride, k == 0, rows - r, some, sums);
#pragma GCC unroll 1
        for (int parity = 0; parity < 2; parity++) {
          EK_COST_BEGIN(gemm, type, 32 * TOKENS);
          quad_sums_256(type, header, parity, &panel, sums[parity]);
        }
        EK_COST_END(gemm, type, 32 * TOKENS);
        put_sums(sums, rows - r, some, at, out_stride);
      }
    }
  }
}

/* Both kernels of a type. */
#define KERNELS_256(type)                                                                                              \
  __attribute__((noinline)) void ek_gemv_##type##_neon(const uint8_t *stripes, size_t rows, size_t columns,            \
                                                       const ek_activations *x, float *out) {                          \
    gemv_256(EK_TYPE_##type, stripes, rows, columns, x, out);                                                          \
  }                                                                                                                    \
  void ek_gemm_##type##_neon(const uint8_t *stripes, size_t rows, size_t columns, const ek_activations *x,             \
                             size_t tokens, float *out, size_t out_stride) {                                           \
    gemm_256(EK_TYPE_##type, ek_gemv_##type##_neon, stripes, rows, columns, x, tokens, out, out_stride);               \
  }

#endif
