/* One token times the types whose weights and activations have a scale for every 32 columns. */
#ifndef EK_NEON_GEMV_32_H
#define EK_NEON_GEMV_32_H

#include "rows.h"

INLINE size_t group_bytes(enum ek_type type) { return tile_bytes(type) + (has_minima(type) ? 32 : 16); }

/* `offset` is -8 times the sum of the codes of x: what the zero of q4_0 adds; that of q5_1 is 16. */
INLINE int32x4_t quad_dots(enum ek_type type, quad q, pair x, int32_t offset) {
  if (!is_narrow(type)) return wide_dots(q, x);
  if (type == EK_TYPE_q4_0) return vpadalq_s16(vdupq_n_s32(offset), narrow_dots(q, x));
  if (type == EK_TYPE_q5_1) return vpadalq_s16(vdupq_n_s32(-2 * offset), narrow_dots(q, x));
  return vpaddlq_s16(narrow_dots(q, x));
}

INLINE void add_group(enum ek_type type, const uint8_t *tile, pair x, float scale, int32_t offset, stripe_sum *sum) {
  const uint8_t *after = tile + tile_bytes(type);
  __asm__("" : "+w"(scale)); /* multiplied by element: a load to all lanes takes a slot of a vector pipe */
  for (int i = 0; i < 2; i++) {
    const float32x4_t dots = vcvtq_f32_s32(quad_dots(type, unpack(type, tile, 4 * i, 1), x, offset));
    sum->rows[i] = vfmaq_n_f32(sum->rows[i], vmulq_f32(dots, load_halves(after + 8 * i)), scale);
    if (has_minima(type)) {
      const float total = scale * ((float)offset * -0.125f);
      sum->rows[i] = vfmaq_n_f32(sum->rows[i], load_halves(after + 16 + 8 * i), total);
    }
  }
}

INLINE stripe_sum gemv_stripe_32(enum ek_type type, const uint8_t *stripe, size_t columns, const int8_t *codes,
                                 const float *scales, const int32_t *offsets) {
  stripe_sum sum = {{vdupq_n_f32(0), vdupq_n_f32(0)}};
#pragma GCC unroll 1
  for (size_t groups = columns / 32; groups > 0; groups--) {
    EK_COST_BEGIN(gemv, type, 8);
    add_group(type, stripe, load_pair(codes), *scales++, *offsets++, &sum);
    stripe += group_bytes(type);
    codes += 32;
  }
  EK_COST_END(gemv, type, 8);
  return sum;
}

INLINE void gemv_32(enum ek_type type, const uint8_t *stripes, size_t rows, size_t columns, const ek_activations *x,
                    float *out) {
  const size_t bytes = columns / 32 * group_bytes(type);
  for (size_t r = 0; r < rows; r += EK_STRIPE, stripes += bytes) {
    store_stripe(out + r, rows - r, gemv_stripe_32(type, stripes, columns, x->codes, x->scales, x->offsets));
  }
}

#endif
