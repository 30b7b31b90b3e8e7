/* What attention's kernels of this level share. */
#ifndef EK_DOTPROD_QUERIES_H
#define EK_DOTPROD_QUERIES_H

#include "../queries.h"
#include "lanes.h"

#include "../../half.h"

/* Lanes in vectors of 16: vector j of a block's 32. Signed nibbles are unpacked to the top of a byte, 16 times too
 * large, which saves what their sign would take. */
enum { NIBBLE_SHIFT = 4 };
INLINE int8x16_t low_nibbles(uint8x16_t bytes) { return vreinterpretq_s8_u8(vshlq_n_u8(bytes, 4)); }
INLINE int8x16_t high_nibbles(uint8x16_t bytes) { return vreinterpretq_s8_u8(vandq_u8(bytes, vdupq_n_u8(0xf0))); }

INLINE float16x8_t load_half(const uint8_t *at) { return vreinterpretq_f16_u8(vld1q_u8(at)); }

/* Integers as floats, divided by what their lanes are too large by. */
INLINE float32x4_t float_of(enum ek_type type, int32x4_t x) {
  return type == EK_TYPE_q4_0 ? vcvtq_n_f32_s32(x, NIBBLE_SHIFT) : vcvtq_f32_s32(x);
}

#endif
