/* One token times the K types: sub-blocks with integer scales, floats only once per superblock of 256 columns. */
#ifndef EK_NEON_GEMV_256_H
#define EK_NEON_GEMV_256_H

#include "rows.h"

/* Integers of the eight rows of a stripe. */
typedef struct stripe_int {
  int32x4_t rows[2];
} stripe_int;

/* Of a superblock: scale x dot, minimum x sum and, for q5_k's zero, scale x sum. The greatest is below 2^28. */
typedef struct superblock_sums {
  stripe_int dots, minima, scales;
} superblock_sums;

INLINE size_t header_bytes(enum ek_type type) { return type == EK_TYPE_q6_k ? 16 : 32; }

INLINE void add_product(stripe_int *sum, int16x8_t a, int16x8_t b) {
  sum->rows[0] = vmlal_s16(sum->rows[0], vget_low_s16(a), vget_low_s16(b));
  sum->rows[1] = vmlal_high_s16(sum->rows[1], a, b);
}

/* Adds scale x dot, given the dots of the even rows and of the odd ones in two lanes each: taking lanes from either in
 * turn puts the rows in order, without an instruction more. */
INLINE void add_scaled(stripe_int *sum, int16x8_t even, int16x8_t odd, int16x8_t scales) {
  add_product(sum, vtrn1q_s16(even, odd), scales);
  add_product(sum, vtrn2q_s16(even, odd), scales);
}

INLINE int16x8_t half_dots(const int8x16_t rows[4], int8x16_t x) {
  int16x8_t products[4];
  for (int i = 0; i < 4; i++) products[i] = multiply(rows[i], x);
  return add_lanes(products);
}

/* Sub-block of 32 columns; `sum` is that of the codes of x. */
INLINE void add_subblock(enum ek_type type, const uint8_t *tile, pair x, int16_t sum, superblock_sums *sums) {
  const quad even = unpack(type, tile, 0, 2), odd = unpack(type, tile, 1, 2);
  const uint8x16_t after = vld1q_u8(tile + tile_bytes(type));
  if (type == EK_TYPE_q6_k) {
    const int8x16_t scales = vreinterpretq_s8_u8(after);
    add_scaled(&sums->dots, half_dots(even.low, x.low), half_dots(odd.low, x.low), vmovl_s8(vget_low_s8(scales)));
    add_scaled(&sums->dots, half_dots(even.high, x.high), half_dots(odd.high, x.high), vmovl_high_s8(scales));
    return;
  }
  const int16x8_t scales = vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(after)));
  const int16x8_t minima = vreinterpretq_s16_u16(vmovl_high_u8(after));
  add_scaled(&sums->dots, narrow_dots(even, x), narrow_dots(odd, x), scales);
  add_product(&sums->minima, minima, vdupq_n_s16(sum));
  if (type == EK_TYPE_q5_k) add_product(&sums->scales, scales, vdupq_n_s16(sum));
}

/* What a superblock adds to its rows: scale is that of x. */
INLINE void add_superblock(enum ek_type type, const uint8_t *header, const superblock_sums *sums, float scale,
                           stripe_sum *total) {
  for (int i = 0; i < 2; i++) {
    int32x4_t dots = sums->dots.rows[i];
    if (type == EK_TYPE_q5_k) dots = vaddq_s32(dots, vshlq_n_s32(sums->scales.rows[i], 4));
    float32x4_t value = vmulq_f32(load_halves(header + 8 * i), vcvtq_f32_s32(dots));
    if (type != EK_TYPE_q6_k) {
      value = vfmsq_f32(value, load_halves(header + 16 + 8 * i), vcvtq_f32_s32(sums->minima.rows[i]));
    }
    total->rows[i] = vfmaq_n_f32(total->rows[i], value, scale);
  }
}

INLINE stripe_sum gemv_stripe_256(enum ek_type type, const uint8_t *stripe, size_t columns, const int8_t *codes,
                                  const float *scales, const int16_t *sums) {
  stripe_sum total = {{vdupq_n_f32(0), vdupq_n_f32(0)}};
#pragma GCC unroll 1
  for (size_t k = 0; k < columns; k += EK_SUPERBLOCK) {
    EK_COST_BEGIN(gemv, type, 64);
    const uint8_t *header = stripe;
    int16_t sums_32[8];
    superblock_sums of = {0};
    if (type != EK_TYPE_q6_k) vst1q_s16(sums_32, vpaddq_s16(vld1q_s16(sums), vld1q_s16(sums + 8)));
    stripe += header_bytes(type);
#pragma GCC unroll 1
    for (int j = 0; j < 8; j++) {
      EK_COST_BEGIN(gemv, type, 8);
      add_subblock(type, stripe, load_pair(codes), type == EK_TYPE_q6_k ? 0 : sums_32[j], &of);
      stripe += tile_bytes(type) + 16;
      codes += 32;
    }
    EK_COST_END(gemv, type, 8);
    add_superblock(type, header, &of, *scales++, &total);
    sums += 16;
  }
  EK_COST_END(gemv, type, 64);
  return total;
}

INLINE void gemv_256(enum ek_type type, const uint8_t *stripes, size_t rows, size_t columns, const ek_activations *x,
                     float *out) {
  const size_t bytes = columns / EK_SUPERBLOCK * (header_bytes(type) + 8 * (tile_bytes(type) + 16));
  for (size_t r = 0; r < rows; r += EK_STRIPE, stripes += bytes) {
    store_stripe(out + r, rows - r, gemv_stripe_256(type, stripes, columns, x->codes, x->scales, x->sums));
  }
}

#endif
