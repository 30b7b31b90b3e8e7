/* Shared by the matrix kernels of ARMv8.0: codes of four rows out of a packed tile, and their dot products.
 *
 * Interleave is 16: a tile's lanes are columns 0 .. 15 of its eight rows, then columns 16 .. 31 (stripe.h). */
#ifndef EK_NEON_ROWS_H
#define EK_NEON_ROWS_H

#include <arm_neon.h>

#include "../cost.h"
#include "../stripe.h"

#define INLINE static inline __attribute__((always_inline))

/* A value that is made before those of later KEEP_ORDERs and after those of earlier ones. Compilers would start on all
 * tokens at once, and spill. */
#define KEEP_ORDER(vector) __asm__ volatile("" : "+w"(vector))

/* What ek_packings says, as constants where the type is one: what a type does not need is folded away. */
INLINE int bits_of(enum ek_type type) {
  switch (type) {
  case EK_TYPE_q8_0:
    return 8;
  case EK_TYPE_q5_0:
  case EK_TYPE_q5_1:
  case EK_TYPE_q5_k:
    return 5;
  case EK_TYPE_q6_k:
    return 6;
  default:
    return 4;
  }
}

/* Whether 16 products with an activation of at most 127 fit 16 bits: 16 x 15 x 127 and 16 x 16 x 127 do. */
INLINE int is_narrow(enum ek_type type) { return bits_of(type) <= 5 && type != EK_TYPE_iq4_nl; }

/* Codes of 8 rows x 32 columns. */
INLINE size_t tile_bytes(enum ek_type type) { return (size_t)bits_of(type) * 32; }

/* What is added to a lane. */
INLINE int zero_of(enum ek_type type) {
  return type == EK_TYPE_q4_0 ? -8 : type == EK_TYPE_q5_1 || type == EK_TYPE_q5_k ? 16 : 0;
}

/* Whether each group of 32 has halves to add to its weights. */
INLINE int has_minima(enum ek_type type) { return type == EK_TYPE_q4_1 || type == EK_TYPE_q5_1; }

/* Four rows x 32 columns: columns 0 .. 15 of each, and 16 .. 31. */
typedef struct quad {
  int8x16_t low[4], high[4];
} quad;

/* Sixteen activations, and sixteen more. */
typedef struct pair {
  int8x16_t low, high;
} pair;

INLINE pair load_pair(const int8_t *codes) { return (pair){vld1q_s8(codes), vld1q_s8(codes + 16)}; }

INLINE quad unpack_4(const uint8_t *tile, int first, int step) {
  quad q;
  for (int i = 0; i < 4; i++) {
    const uint8x16_t bytes = vld1q_u8(tile + 16 * (first + step * i));
    q.low[i] = vreinterpretq_s8_u8(vandq_u8(bytes, vdupq_n_u8(15)));
    q.high[i] = vreinterpretq_s8_u8(vshrq_n_u8(bytes, 4));
  }
  return q;
}

/* A Cortex-A72 takes three operations for a tbl of 16 bytes, and for the two of 8 bytes and the move that would replace
 * it. */
INLINE quad unpack_iq4_nl(const uint8_t *tile, int first, int step) {
  const int8x16_t levels = vld1q_s8(ek_iq4_nl_levels);
  quad q = unpack_4(tile, first, step);
  for (int i = 0; i < 4; i++) {
    q.low[i] = vqtbl1q_s8(levels, vreinterpretq_u8_s8(q.low[i]));
    q.high[i] = vqtbl1q_s8(levels, vreinterpretq_u8_s8(q.high[i]));
  }
  return q;
}

INLINE quad unpack_8(const uint8_t *tile, int first, int step) {
  quad q;
  for (int i = 0; i < 4; i++) {
    const size_t row = (size_t)(first + step * i);
    q.low[i] = vreinterpretq_s8_u8(vld1q_u8(tile + 16 * row));
    q.high[i] = vreinterpretq_s8_u8(vld1q_u8(tile + 128 + 16 * row));
  }
  return q;
}

INLINE int8x16_t top(uint8x16_t lanes, int bits) {
  return bits == 5 ? vshrq_n_s8(vreinterpretq_s8_u8(lanes), 3) : vshrq_n_s8(vreinterpretq_s8_u8(lanes), 2);
}

/* Row r of two is at byte 16 r of a plane. */
INLINE int8x16_t unpack_5_row(const uint8_t *tile, int segment, int r) {
  const uint8_t *at = tile + 16 * r;
#define PLANE(p) vld1q_u8(at + 32 * (p))
  switch (segment) {
  case 5: /* A2 A1 A0 B2 B1, above three bits to shift out */
    return top(vsliq_n_u8(vshlq_n_u8(PLANE(1), 2), PLANE(0), 5), 5);
  case 6:
    return top(vsliq_n_u8(vshlq_n_u8(PLANE(3), 2), PLANE(2), 5), 5);
  case 7: /* B0 D0 E2 E1 E0 */
    return top(vsliq_n_u8(vsliq_n_u8(vshlq_n_u8(PLANE(4), 3), PLANE(3), 6), PLANE(1), 7), 5);
  default:
    return top(PLANE(segment), 5);
  }
}

/* Columns 0 .. 15 are the planes at `tile`, 16 .. 31 those 96 bytes on. */
INLINE int8x16_t unpack_6_row(const uint8_t *tile, int segment, int r) {
  const uint8_t *at = tile + 96 * (segment / 4) + 16 * r;
  if (segment % 4 < 3) return top(PLANE(segment % 4), 6);
  return top(vsliq_n_u8(vsliq_n_u8(vshlq_n_u8(PLANE(2), 2), PLANE(1), 4), PLANE(0), 6), 6);
#undef PLANE
}

INLINE quad unpack_planes(int bits, const uint8_t *tile, int first, int step) {
  quad q;
  for (int i = 0; i < 4; i++) {
    const int row = first + step * i;
    q.low[i] = bits == 5 ? unpack_5_row(tile, row / 2, row % 2) : unpack_6_row(tile, row / 2, row % 2);
    q.high[i] = bits == 5 ? unpack_5_row(tile, 4 + row / 2, row % 2) : unpack_6_row(tile, 4 + row / 2, row % 2);
  }
  return q;
}

/* The rows first, first + step, .. of a tile. All arguments but `tile` are constants. */
INLINE quad unpack(enum ek_type type, const uint8_t *tile, int first, int step) {
  if (type == EK_TYPE_iq4_nl) return unpack_iq4_nl(tile, first, step);
  if (bits_of(type) == 4) return unpack_4(tile, first, step);
  if (bits_of(type) == 8) return unpack_8(tile, first, step);
  return unpack_planes(bits_of(type), tile, first, step);
}

INLINE int16x8_t multiply(int8x16_t a, int8x16_t b) {
  return vmlal_high_s8(vmull_s8(vget_low_s8(a), vget_low_s8(b)), a, b);
}

INLINE int16x8_t multiply_add(int16x8_t sum, int8x16_t a, int8x16_t b) {
  return vmlal_high_s8(vmlal_s8(sum, vget_low_s8(a), vget_low_s8(b)), a, b);
}

/* Four rows of eight lanes to two lanes each: row i is lanes 2 i and 2 i + 1. */
INLINE int16x8_t add_lanes(const int16x8_t rows[4]) {
  return vpaddq_s16(vpaddq_s16(rows[0], rows[1]), vpaddq_s16(rows[2], rows[3]));
}

/* Dot products of four rows with 32 columns of x where is_narrow: row i is the sum of lanes 2 i and 2 i + 1. */
INLINE int16x8_t narrow_dots(quad q, pair x) {
  int16x8_t rows[4];
  for (int i = 0; i < 4; i++) rows[i] = multiply_add(multiply(q.low[i], x.low), q.high[i], x.high);
  return add_lanes(rows);
}

/* The same for any codes of 8 bits, of which only two products fit 16 bits. */
INLINE int32x4_t wide_dots(quad q, pair x) {
  int32x4_t rows[4];
  for (int i = 0; i < 4; i++)
    rows[i] = vpadalq_s16(vpaddlq_s16(multiply(q.low[i], x.low)), multiply(q.high[i], x.high));
  return vpaddq_s32(vpaddq_s32(rows[0], rows[1]), vpaddq_s32(rows[2], rows[3]));
}

/* Results of the eight rows of a stripe. */
typedef struct stripe_sum {
  float32x4_t rows[2];
} stripe_sum;

INLINE float32x4_t load_halves(const uint8_t *halves) { return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(halves))); }

/* Only the first `rows` of them exist. */
INLINE void store_stripe(float *out, size_t rows, stripe_sum sum) {
  if (rows >= EK_STRIPE) {
    vst1q_f32(out, sum.rows[0]);
    vst1q_f32(out + 4, sum.rows[1]);
    return;
  }
  float all[EK_STRIPE];
  vst1q_f32(all, sum.rows[0]);
  vst1q_f32(all + 4, sum.rows[1]);
  for (size_t r = 0; r < rows; r++) out[r] = all[r];
}

#endif
