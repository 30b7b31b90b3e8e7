/* Weights in float formats: a stripe has the eight rows of a column side by side. */
#ifndef EK_NEON_FLOATS_H
#define EK_NEON_FLOATS_H

#include "rows.h"

enum { TOKENS = 8 };

INLINE size_t float_bytes(enum ek_type type) { return type == EK_TYPE_f32 ? 4 : 2; }

/* The eight weights of a column. */
INLINE stripe_sum load_column(enum ek_type type, const uint8_t *at) {
  if (type == EK_TYPE_f32) {
    return (stripe_sum){{vreinterpretq_f32_u8(vld1q_u8(at)), vreinterpretq_f32_u8(vld1q_u8(at + 16))}};
  }
  const uint8x16_t halves = vld1q_u8(at);
  if (type == EK_TYPE_f16) {
    const float16x8_t wide = vreinterpretq_f16_u8(halves);
    return (stripe_sum){{vcvt_f32_f16(vget_low_f16(wide)), vcvt_high_f32_f16(wide)}};
  }
  const uint16x8_t wide = vreinterpretq_u16_u8(halves);
  return (stripe_sum){
      {vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(wide), 16)), vreinterpretq_f32_u32(vshll_high_n_u16(wide, 16))}};
}

INLINE void add_column(stripe_sum *sum, stripe_sum weights, float x) {
  sum->rows[0] = vfmaq_n_f32(sum->rows[0], weights.rows[0], x);
  sum->rows[1] = vfmaq_n_f32(sum->rows[1], weights.rows[1], x);
}

/* Stripes of a gemv at once, 4 or 1: the sum of one waits for each multiply-add. */
enum { STRIPES = 4 };

INLINE void gemv_stripes(enum ek_type type, int stripes, const uint8_t *stripe, size_t columns, const float *x,
                         stripe_sum sums[STRIPES]) {
  const size_t bytes = EK_STRIPE * float_bytes(type), apart = columns * bytes;
  for (int s = 0; s < stripes; s++) sums[s] = (stripe_sum){{vdupq_n_f32(0), vdupq_n_f32(0)}};
  size_t left = columns;
#pragma GCC unroll 1
  for (; left >= 4; left -= 4) {
    EK_COST_BEGIN(gemv, type, stripes == STRIPES ? STRIPES : 0);
    const float32x4_t of_x = vld1q_f32(x);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++, stripe += bytes) {
#pragma GCC unroll 4
      for (int s = 0; s < stripes; s++) add_column(&sums[s], load_column(type, stripe + (size_t)s * apart), of_x[i]);
    }
    x += 4;
  }
  EK_COST_END(gemv, type, stripes == STRIPES ? STRIPES : 0);
  for (; left > 0; left--, stripe += bytes, x++) {
    EK_COST_BEGIN(gemv, type, 0);
#pragma GCC unroll 4
    for (int s = 0; s < stripes; s++) add_column(&sums[s], load_column(type, stripe + (size_t)s * apart), *x);
  }
  EK_COST_END(gemv, type, 0);
}

INLINE void gemv_floats(enum ek_type type, const uint8_t *stripes, size_t rows, size_t columns, const float *x,
                        float *out) {
  const size_t bytes = columns * EK_STRIPE * float_bytes(type);
  stripe_sum sums[STRIPES];
  size_t r = 0;
  for (; r + (STRIPES - 1) * EK_STRIPE < rows; r += STRIPES * EK_STRIPE, stripes += STRIPES * bytes) {
    gemv_stripes(type, STRIPES, stripes, columns, x, sums);
    for (size_t s = 0; s < STRIPES; s++) store_stripe(out + r + EK_STRIPE * s, rows - r - EK_STRIPE * s, sums[s]);
  }
  for (; r < rows; r += EK_STRIPE, stripes += bytes) {
    gemv_stripes(type, 1, stripes, columns, x, sums);
    store_stripe(out + r, rows - r, sums[0]);
  }
}

/* Eight rows x eight tokens; x is theirs. */
INLINE void gemm_tile(enum ek_type type, const uint8_t *stripe, size_t columns, const float *const x[TOKENS],
                      stripe_sum sums[TOKENS]) {
  const size_t bytes = EK_STRIPE * float_bytes(type);
  size_t k = 0;
#pragma GCC unroll 8
  for (int t = 0; t < TOKENS; t++) sums[t] = (stripe_sum){{vdupq_n_f32(0), vdupq_n_f32(0)}};
#pragma GCC unroll 1
  for (; k + 4 <= columns; k += 4) {
    EK_COST_BEGIN(gemm, type, TOKENS);
    float32x4_t of_x[TOKENS];
#pragma GCC unroll 8
    for (int t = 0; t < TOKENS; t++) of_x[t] = vld1q_f32(x[t] + k);
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
      const stripe_sum weights = load_column(type, stripe + (size_t)i * bytes);
#pragma GCC unroll 8
      for (int t = 0; t < TOKENS; t++) add_column(&sums[t], weights, of_x[t][i]);
    }
    stripe += 4 * bytes;
  }
  EK_COST_END(gemm, type, TOKENS);
#pragma GCC unroll 1
  for (; k < columns; k++, stripe += bytes) {
    EK_COST_BEGIN(gemm, type, 0);
    const stripe_sum weights = load_column(type, stripe);
#pragma GCC unroll 8
    for (int t = 0; t < TOKENS; t++) add_column(&sums[t], weights, x[t][k]);
  }
  EK_COST_END(gemm, type, 0);
}

INLINE void gemm_floats(enum ek_type type, ek_gemv_fn *gemv, const uint8_t *stripes, size_t rows, size_t columns,
                        const float *x, size_t tokens, float *out, size_t out_stride) {
  const size_t bytes = columns * EK_STRIPE * float_bytes(type);
  size_t t = 0;
  for (; tokens - t > TOKENS / 2; t += tokens - t < TOKENS ? tokens - t : TOKENS) {
    const size_t some = tokens - t < TOKENS ? tokens - t : TOKENS;
    const float *of[TOKENS]; /* a tile that is not full has its last token several times */
    for (size_t i = 0; i < TOKENS; i++) of[i] = x + (t + (i < some ? i : some - 1)) * columns;
    for (size_t r = 0; r < rows; r += EK_STRIPE) {
      stripe_sum sums[TOKENS];
      gemm_tile(type, stripes + r / EK_STRIPE * bytes, columns, of, sums);
      for (size_t i = 0; i < some; i++) store_stripe(out + (t + i) * out_stride + r, rows - r, sums[i]);
    }
  }
  for (; t < tokens; t++) {
    const ek_activations one = {.values = x + t * columns};
    gemv(stripes, rows, columns, &one, out + t * out_stride);
  }
}

/* Both kernels of a type. */
#define KERNELS_FLOATS(type)                                                                                           \
  __attribute__((noinline)) void ek_gemv_##type##_neon(const uint8_t *stripes, size_t rows, size_t columns,            \
                                                       const ek_activations *x, float *out) {                          \
    gemv_floats(EK_TYPE_##type, stripes, rows, columns, x->values, out);                                               \
  }                                                                                                                    \
  void ek_gemm_##type##_neon(const uint8_t *stripes, size_t rows, size_t columns, const ek_activations *x,             \
                             size_t tokens, float *out, size_t out_stride) {                                           \
    gemm_floats(EK_TYPE_##type, ek_gemv_##type##_neon, stripes, rows, columns, x->values, tokens, out, out_stride);    \
  }

#endif
