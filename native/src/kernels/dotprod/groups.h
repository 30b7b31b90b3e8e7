/* gemv of types with a scale for each 32 columns: weight = d (lane + zero), or d (lane + zero) + m. */
#ifndef EK_DOTPROD_GROUPS_H
#define EK_DOTPROD_GROUPS_H

#include "lanes.h"

typedef struct group_type {
  enum ek_type type;
  enum lanes lanes;
  int zero;
  int minima; /* whether there is an m */
} group_type;

INLINE size_t group_bytes(group_type type) { return tile_bytes(type.lanes) + (type.minima ? 32 : 16); }

/* What the zero adds to a dot product, over the group's offset, which is -8 times the sum of the codes. */
INLINE int32_t zero_offsets(group_type type) { return -lane_factor(type.lanes) * type.zero / 8; }

/* Every lane starts at MAGIC; loaded, see `opaque`. */
static const int32_t magic_starts[8] = {MAGIC, MAGIC, MAGIC, MAGIC, MAGIC, MAGIC, MAGIC, MAGIC};

/* `stripes` (1 or 2) stripes from `stripe`: sums[stripes]. Two at once share what x needs. */
INLINE void group_rows(group_type type, const uint8_t *stripe, size_t columns, const ek_activations *x, int stripes,
                       float32x8 sums[2]) {
  const size_t bytes = group_bytes(type), groups = columns / 32, apart = groups * bytes;
  const int8_t *codes = x->codes;
  const float *scales = x->scales;
  const int32_t *offsets = x->offsets, *start = magic_starts;
  const enum lanes lanes = type.lanes;
  const unpacker unpacking = unpacker_of(lanes);
  for (int i = 0; i < 2; i++) sums[i].part[0] = sums[i].part[1] = vdupq_n_f32(0);
  for (size_t k = 0; k < groups; k++, codes += 32, stripe += bytes) {
    EK_COST_BEGIN(gemv, type.type, stripes == 2 ? 16 : 0);
    const int8x16_t code[2] = {vld1q_s8(codes), vld1q_s8(codes + 16)};
    const float scale = scales[k];
    const float32x4_t zero =
        vreinterpretq_f32_s32(vdupq_n_s32(zero_offsets(type) ? MAGIC - zero_offsets(type) * offsets[k] : MAGIC));
    const float codes_sum = type.minima ? scale * -0.125f * (float)(offsets[k] * lane_factor(lanes)) : 0;
    UNROLL for (int i = 0; i < stripes; i++) {
      const uint8_t *tile = stripe + (size_t)i * apart;
      start = opaque(start);
      int32x8 dots = add_tile_dots(&unpacking, tile, 0, bundle_count(lanes), code, load_starts(start));
      finish(dots.part, 2);
      const float32x8 d = load_halves(tile + tile_bytes(lanes));
      UNROLL for (int part = 0; part < 2; part++) {
        const float32x4_t dot = vsubq_f32(vreinterpretq_f32_s32(dots.part[part]), zero);
        float32x4_t *sum = &sums[i].part[part];
        *sum = vfmaq_n_f32(*sum, vmulq_f32(dot, d.part[part]), scale);
      }
      if (type.minima) {
        const float32x8 m = load_halves(tile + tile_bytes(lanes) + 16);
        UNROLL for (int part = 0; part < 2; part++) {
          sums[i].part[part] = vfmaq_n_f32(sums[i].part[part], m.part[part], codes_sum);
        }
      }
    }
  }
  EK_COST_END(gemv, type.type, stripes == 2 ? 16 : 0);
  for (int i = 0; i < 2 * stripes; i++) {
    sums[i / 2].part[i % 2] = vmulq_n_f32(sums[i / 2].part[i % 2], 1.0f / (float)lane_factor(lanes));
  }
}

INLINE void group_gemv(group_type type, const uint8_t *stripes, size_t rows, size_t columns, const ek_activations *x,
                       float *out) {
  const size_t stripe_bytes = columns / 32 * group_bytes(type);
  float32x8 sums[2];
  for (size_t row = 0; row < rows; row += 2 * EK_STRIPE, stripes += 2 * stripe_bytes) {
    const size_t left = rows - row;
    if (left > EK_STRIPE) {
      group_rows(type, stripes, columns, x, 2, sums);
      store_rows(out + row + EK_STRIPE, left - EK_STRIPE, sums[1]);
    } else {
      group_rows(type, stripes, columns, x, 1, sums);
    }
    store_rows(out + row, left, sums[0]);
  }
}

#define GROUP_GEMV(name, ...)                                                                                          \
  void ek_gemv_##name##_dotprod(const uint8_t *stripes, size_t rows, size_t columns, const ek_activations *x,          \
                                float *out) {                                                                          \
    group_gemv((group_type){.type = EK_TYPE_##name, __VA_ARGS__}, stripes, rows, columns, x, out);                     \
  }

#endif
