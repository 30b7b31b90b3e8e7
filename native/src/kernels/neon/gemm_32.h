/* Many tokens times the types whose weights and activations have a scale for every 32 columns. */
#ifndef EK_NEON_GEMM_32_H
#define EK_NEON_GEMM_32_H

#include "gemv_32.h"
#include "panel.h"

/* Dot products of four rows with one token, its zero included. */
INLINE int32x4_t token_dots(enum ek_type type, quad rows, const panel_group *group, int t, pair x) {
  if (!is_narrow(type)) return wide_dots(rows, x);
  if (zero_of(type)) return vpadalq_s16(vld1q_s32(group->starts[t]), narrow_dots(rows, x));
  return vpaddlq_s16(narrow_dots(rows, x));
}

/* Four rows x eight tokens: adds the groups of a panel to sums (tokens, rows). */
INLINE void quad_sums_32(enum ek_type type, const uint8_t *tile, int parity, const panel_group *group, size_t groups,
                         float sums[TOKENS][4]) {
  float32x4_t of[TOKENS];
#pragma GCC unroll 8
  for (int t = 0; t < TOKENS; t++) of[t] = vld1q_f32(sums[t]);
#pragma GCC unroll 1
  for (; groups > 0; groups--) {
    EK_COST_BEGIN(gemm, type, 4 * TOKENS);
    const quad rows = unpack(type, tile, parity, 2);
    const float32x4_t scales = parity_halves(tile + tile_bytes(type), parity);
    const float32x4_t minima = has_minima(type) ? parity_halves(tile + tile_bytes(type) + 16, parity) : scales;
    const float32x4_t of_x[2] = {vld1q_f32(group->scales), vld1q_f32(group->scales + 4)};
#pragma GCC unroll 8
    for (int t = 0; t < TOKENS; t++) {
      pair x = load_pair(group->codes[t]);
      if (t > 0) KEEP_ORDER(of[t - 1]);
      KEEP_ORDER(x.low);
      const float32x4_t dots = vcvtq_f32_s32(token_dots(type, rows, group, t, x));
      of[t] = vfmaq_n_f32(of[t], vmulq_f32(dots, scales), of_x[t / 4][t % 4]);
      if (has_minima(type)) of[t] = vfmaq_n_f32(of[t], minima, group->sums[t]);
    }
    tile += group_bytes(type);
    group++;
  }
  EK_COST_END(gemm, type, 4 * TOKENS);
#pragma GCC unroll 8
  for (int t = 0; t < TOKENS; t++) vst1q_f32(sums[t], of[t]);
}

INLINE void gemm_32(enum ek_type type, ek_gemv_fn *gemv, const uint8_t *stripes, size_t rows, size_t columns,
                    const ek_activations *x, size_t tokens, float *out, size_t out_stride) {
  const size_t bytes = columns / 32 * group_bytes(type);
  panel panel;
  for (size_t t = 0, some; t < tokens; t += some) {
    some = tokens - t < TOKENS ? tokens - t : TOKENS;
    if (some <= TOKENS / 2) {
      gemv_tokens(gemv, stripes, rows, columns, 32, x, t, some, out, out_stride);
      continue;
    }
    for (size_t k = 0; k < columns; k += PANEL_COLUMNS) {
      const size_t count = columns - k < PANEL_COLUMNS ? columns - k : PANEL_COLUMNS;
      fill_panel_32(type, &panel, x, t, some, columns, k, count / 32);
      const uint8_t *tile = stripes + k / 32 * group_bytes(type);
      for (size_t r = 0; r < rows; r += EK_STRIPE, tile += bytes) {
        tile_sums sums;
        float *at = out + t * out_stride + r;
        take_sums(at, out_stride, k == 0, rows - r, some, sums);
#pragma GCC unroll 1
        for (int parity = 0; parity < 2; parity++) {
          quad_sums_32(type, tile, parity, panel.groups, count / 32, sums[parity]);
        }
        put_sums(sums, rows - r, some, at, out_stride);
      }
    }
  }
}

/* Both kernels of a type. */
#define KERNELS_32(type)                                                                                               \
  __attribute__((noinline)) void ek_gemv_##type##_neon(const uint8_t *stripes, size_t rows, size_t columns,            \
                                                       const ek_activations *x, float *out) {                          \
    gemv_32(EK_TYPE_##type, stripes, rows, columns, x, out);                                                           \
  }                                                                                                                    \
  void ek_gemm_##type##_neon(const uint8_t *stripes, size_t rows, size_t columns, const ek_activations *x,             \
                             size_t tokens, float *out, size_t out_stride) {                                           \
    gemm_32(EK_TYPE_##type, ek_gemv_##type##_neon, stripes, rows, columns, x, tokens, out, out_stride);                \
  }

#endif
