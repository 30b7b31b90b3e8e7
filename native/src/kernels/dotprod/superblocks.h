/* gemv of types whose 256 columns share a float scale d: weight = d scale (lane + zero) - dmin minimum.
 *
 * The activations' scale is of 256 columns too, so that scale times dot product and minimum times sum of codes are
 * added up in integers: below 2^30 at lanes 8 times too large, 63 for scale and 127 for every code. */
#ifndef EK_DOTPROD_SUPERBLOCKS_H
#define EK_DOTPROD_SUPERBLOCKS_H

#include "lanes.h"

typedef struct super_type {
  enum ek_type type;
  enum lanes lanes;
  int zero;
  int minima; /* whether there are; else int8 scales of 16 columns each */
} super_type;

INLINE size_t super_tile_bytes(super_type type) { return tile_bytes(type.lanes) + 16; }
INLINE size_t super_header_bytes(super_type type) { return type.minima ? 32 : 16; }
INLINE size_t super_bytes(super_type type) { return super_header_bytes(type) + 8 * super_tile_bytes(type); }

/* 8 unsigned bytes, by table lookups: any vector pipe does those, lengthening is for one. */
INLINE int32x8 widen_scales(uint8x16_t bytes) {
  static const uint8_t places[32] = {0, 255, 255, 255, 1, 255, 255, 255, 2, 255, 255, 255, 3, 255, 255, 255,
                                     4, 255, 255, 255, 5, 255, 255, 255, 6, 255, 255, 255, 7, 255, 255, 255};
  return (int32x8){{vreinterpretq_s32_u8(vqtbl1q_u8(bytes, vld1q_u8(places))),
                    vreinterpretq_s32_u8(vqtbl1q_u8(bytes, vld1q_u8(places + 16)))}};
}

/* scales[h] of columns 16 h .. 16 h + 15. */
INLINE void widen_signed_scales(uint8x16_t bytes, int32x8 scales[2]) {
  const int8x16_t s = vreinterpretq_s8_u8(bytes);
  const int16x8_t wide[2] = {vmovl_s8(vget_low_s8(s)), vmovl_high_s8(s)};
  for (int h = 0; h < 2; h++) {
    scales[h] = (int32x8){{vmovl_s16(vget_low_s16(wide[h])), vmovl_high_s16(wide[h])}};
  }
}

static const int32_t zero_starts[8] = {0};

INLINE int32x8 add_scaled(int32x8 sums, int32x8 dots, int32x8 scale) {
  for (int part = 0; part < 2; part++) sums.part[part] = vmlaq_s32(sums.part[part], dots.part[part], scale.part[part]);
  return sums;
}

/* Tile j of types with minima; dot products begin at `start`. */
INLINE void add_tile(const unpacker *u, const uint8_t *tile, const int8x16_t x[2], int32x8 start, int16x8_t tile_sums,
                     int j, int32x8 *products, int32x8 *minima) {
  const uint8x16_t after = vld1q_u8(tile + tile_bytes(u->lanes));
  const int32x8 dots = add_tile_dots(u, tile, 0, bundle_count(u->lanes), x, start);
  const int16x8_t m = vreinterpretq_s16_u16(vmovl_high_u8(after));
  *products = add_scaled(*products, dots, widen_scales(after));
  minima->part[0] = LANE_OF_8(j, vmlal_laneq_s16, minima->part[0], vget_low_s16(m), tile_sums);
  minima->part[1] = LANE_OF_8(j, vmlal_high_laneq_s16, minima->part[1], m, tile_sums);
}

/* One tile of q6_k, with a scale for each 16 columns. */
INLINE void add_tile_halves(const unpacker *u, const uint8_t *tile, const int8x16_t x[2], const int32_t *start,
                            int32x8 *products) {
  const int half = bundle_count(u->lanes) / 2;
  int32x8 scales[2];
  widen_signed_scales(vld1q_u8(tile + tile_bytes(u->lanes)), scales);
  UNROLL for (int h = 0; h < 2; h++) {
    start = opaque(start);
    *products = add_scaled(*products, add_tile_dots(u, tile, h * half, half, x, load_starts(start)), scales[h]);
  }
}

/* What the zero of q5_k adds to tile j: 8 times 16 times its sum of codes. */
INLINE int32x4_t zero_start(const int32x4_t zeros[2], int j) { return LANE_OF_4(j % 4, vdupq_laneq_s32, zeros[j / 4]); }

/* One stripe. */
INLINE float32x8 super_rows(super_type type, const uint8_t *stripe, size_t columns, const ek_activations *x) {
  const int8_t *codes = x->codes;
  const int16_t *code_sums = x->sums;
  const float *scales = x->scales;
  const int32_t *start = zero_starts;
  const unpacker unpacking = unpacker_of(type.lanes);
  const int32x8 none = load_starts(zero_starts);
  float32x8 sums = {{vdupq_n_f32(0), vdupq_n_f32(0)}};
#pragma GCC unroll 1
  for (size_t k = 0; k < columns / EK_SUPERBLOCK; k++) {
    EK_COST_BEGIN(gemv, type.type, 64);
    const uint8_t *tile = stripe + super_header_bytes(type);
    int32x8 products = none, minima = none;
    int16x8_t tile_sums = vdupq_n_s16(0);
    if (type.minima) tile_sums = vpaddq_s16(vld1q_s16(code_sums), vld1q_s16(code_sums + 8));
    const int32x4_t zeros[2] = {vshll_n_s16(vget_low_s16(tile_sums), 7), vshll_high_n_s16(tile_sums, 7)};
    UNROLL for (int j = 0; j < 8; j++, codes += 32, tile += super_tile_bytes(type)) {
      const int8x16_t code[2] = {vld1q_s8(codes), vld1q_s8(codes + 16)};
      start = opaque(start);
      if (type.zero) {
        const int32x8 of_zero = {{zero_start(zeros, j), zero_start(zeros, j)}};
        add_tile(&unpacking, tile, code, of_zero, tile_sums, j, &products, &minima);
      } else if (type.minima) {
        add_tile(&unpacking, tile, code, load_starts(start), tile_sums, j, &products, &minima);
      } else {
        add_tile_halves(&unpacking, tile, code, start, &products);
      }
      finish(products.part, 2);
    }
    const float32x8 d = load_halves(stripe), dmin = type.minima ? load_halves(stripe + 16) : d;
    UNROLL for (int part = 0; part < 2; part++) {
      float32x4_t value = vmulq_f32(vcvtq_f32_s32(products.part[part]), d.part[part]);
      value = vmulq_n_f32(value, 1.0f / (float)lane_factor(type.lanes));
      if (type.minima) value = vfmsq_f32(value, vcvtq_f32_s32(minima.part[part]), dmin.part[part]);
      sums.part[part] = vfmaq_n_f32(sums.part[part], value, scales[k]);
    }
    stripe = tile;
    code_sums += 16;
  }
  EK_COST_END(gemv, type.type, 64);
  return sums;
}

INLINE void super_gemv(super_type type, const uint8_t *stripes, size_t rows, size_t columns, const ek_activations *x,
                       float *out) {
  for (size_t row = 0; row < rows; row += EK_STRIPE, stripes += columns / EK_SUPERBLOCK * super_bytes(type)) {
    store_rows(out + row, rows - row, super_rows(type, stripes, columns, x));
  }
}

#define SUPER_GEMV(name, ...)                                                                                          \
  void ek_gemv_##name##_dotprod(const uint8_t *stripes, size_t rows, size_t columns, const ek_activations *x,          \
                                float *out) {                                                                          \
    super_gemv((super_type){.type = EK_TYPE_##name, __VA_ARGS__}, stripes, rows, columns, x, out);                     \
  }

#endif
