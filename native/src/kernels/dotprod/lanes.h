/* Lanes of packed tiles (stripe.h, interleave 4) in vectors of 4 rows x 4 columns, and their dot products.
 *
 * Cores with dotprod have two vector pipes, which these kernels fill, and two load pipes, which idle. So what a load
 * can do in place of a vector instruction is loaded: see `opaque`. */
#ifndef EK_DOTPROD_LANES_H
#define EK_DOTPROD_LANES_H

#include "../cost.h"
#include "../stripe.h"

#include <arm_neon.h>

#define INLINE static inline __attribute__((always_inline))

/* Loops over vectors that are to stay in registers. */
#ifdef __clang__
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 32")
#endif

enum lanes { NIBBLES, LEVELS /* nibbles that index those of iq4_nl */, FIVE, SIX, BYTES };

/* Lanes of 5 and 6 bits are unpacked to the top of a byte, which saves shifts: they are 8 and 4 times too large. */
INLINE int lane_factor(enum lanes lanes) { return lanes == FIVE ? 8 : lanes == SIX ? 4 : 1; }

INLINE size_t tile_bytes(enum lanes lanes) {
  return lanes == BYTES ? 256 : lanes == FIVE ? 160 : lanes == SIX ? 192 : 128;
}

/* A tile is 8 segments of 4 columns. Those that are unpacked from the same bytes are a bundle: its segments, how many
 * bundles there are, and which segment number j is. */
INLINE int bundle_size(enum lanes lanes) { return lanes == BYTES ? 1 : lanes == FIVE ? 8 : lanes == SIX ? 4 : 2; }
INLINE int bundle_count(enum lanes lanes) { return 8 / bundle_size(lanes); }
INLINE int bundle_segment(enum lanes lanes, int bundle, int j) {
  return lanes == NIBBLES || lanes == LEVELS ? bundle + 4 * j : bundle_size(lanes) * bundle + j;
}

/* Plane s of five or six bits, of 4 rows. */
INLINE uint8x16_t plane(const uint8_t *tile, int s, int part) { return vld1q_u8(tile + 32 * s + 16 * part); }

INLINE void unpack_five(const uint8_t *tile, int part, uint8x16_t top, uint8x16_t w[8]) {
  const uint8x16_t a = plane(tile, 0, part), b = plane(tile, 1, part), c = plane(tile, 2, part),
                   d = plane(tile, 3, part), e = plane(tile, 4, part);
  w[0] = vandq_u8(a, top);
  w[1] = vandq_u8(b, top);
  w[2] = vandq_u8(c, top);
  w[3] = vandq_u8(d, top);
  w[4] = vandq_u8(e, top);
  w[5] = vandq_u8(vshlq_n_u8(vsliq_n_u8(b, a, 3), 2), top);
  w[6] = vandq_u8(vshlq_n_u8(vsliq_n_u8(d, c, 3), 2), top);
  w[7] = vshlq_n_u8(vsliq_n_u8(e, vsliq_n_u8(d, b, 1), 3), 3);
}

INLINE void unpack_six(const uint8_t *tile, int bundle, int part, uint8x16_t top, uint8x16_t w[4]) {
  const uint8x16_t a = plane(tile, 3 * bundle, part), b = plane(tile, 3 * bundle + 1, part),
                   c = plane(tile, 3 * bundle + 2, part);
  w[0] = vandq_u8(a, top);
  w[1] = vandq_u8(b, top);
  w[2] = vandq_u8(c, top);
  w[3] = vshlq_n_u8(vsliq_n_u8(c, vsliq_n_u8(b, a, 2), 2), 2);
}

/* What unpacking needs in registers. */
typedef struct unpacker {
  enum lanes lanes;
  uint8x16_t mask;
  int8x16_t levels;
} unpacker;

INLINE unpacker unpacker_of(enum lanes lanes) {
  unpacker u = {lanes, vdupq_n_u8(lanes == FIVE ? 0xf8 : lanes == SIX ? 0xfc : 15), vld1q_s8(ek_iq4_nl_levels)};
  __asm__("" : "+w"(u.mask)); /* else compilers short of registers make it again and again, in a vector pipe */
  return u;
}

/* The segments of a bundle: rows 4 part .. 4 part + 3, four columns of each. */
INLINE void unpack(const unpacker *u, const uint8_t *tile, int bundle, int part, int8x16_t w[8]) {
  uint8x16_t v[8];
  if (u->lanes == FIVE) {
    unpack_five(tile, part, u->mask, v);
  } else if (u->lanes == SIX) {
    unpack_six(tile, bundle, part, u->mask, v);
  } else {
    v[0] = plane(tile, bundle, part);
    if (u->lanes != BYTES) {
      v[1] = vshrq_n_u8(v[0], 4);
      v[0] = vandq_u8(v[0], u->mask);
    }
  }
  UNROLL for (int j = 0; j < bundle_size(u->lanes); j++) {
    w[j] = u->lanes == LEVELS ? vqtbl1q_s8(u->levels, v[j]) : vreinterpretq_s8_u8(v[j]);
  }
}

/* An intrinsic whose last argument, the lane, must be a literal, with one that is constant only after inlining. */
#define LANE_OF_4(lane, f, ...)                                                                                        \
  ((lane) == 0   ? f(__VA_ARGS__, 0)                                                                                   \
   : (lane) == 1 ? f(__VA_ARGS__, 1)                                                                                   \
   : (lane) == 2 ? f(__VA_ARGS__, 2)                                                                                   \
                 : f(__VA_ARGS__, 3))
#define LANE_OF_8(lane, f, ...)                                                                                        \
  ((lane) == 0   ? f(__VA_ARGS__, 0)                                                                                   \
   : (lane) == 1 ? f(__VA_ARGS__, 1)                                                                                   \
   : (lane) == 2 ? f(__VA_ARGS__, 2)                                                                                   \
   : (lane) == 3 ? f(__VA_ARGS__, 3)                                                                                   \
   : (lane) == 4 ? f(__VA_ARGS__, 4)                                                                                   \
   : (lane) == 5 ? f(__VA_ARGS__, 5)                                                                                   \
   : (lane) == 6 ? f(__VA_ARGS__, 6)                                                                                   \
                 : f(__VA_ARGS__, 7))

/* 8 rows. */
typedef struct int32x8 {
  int32x4_t part[2];
} int32x8;
typedef struct float32x8 {
  float32x4_t part[2];
} float32x8;

/* dots + some bundles of a tile times x, the tile's 32 columns. */
INLINE int32x8 add_tile_dots(const unpacker *u, const uint8_t *tile, int first_bundle, int bundles,
                             const int8x16_t x[2], int32x8 dots) {
  UNROLL for (int b = first_bundle; b < first_bundle + bundles; b++) {
    UNROLL for (int part = 0; part < 2; part++) {
      int8x16_t w[8];
      unpack(u, tile, b, part, w);
      UNROLL for (int j = 0; j < bundle_size(u->lanes); j++) {
        const int s = bundle_segment(u->lanes, b, j);
        dots.part[part] = LANE_OF_4(s % 4, vdotq_laneq_s32, dots.part[part], w[j], x[s / 4]);
      }
    }
  }
  return dots;
}

/* The same pointer in a way that hides it from the compiler, which would replace a second load from an address by a
 * copy of the register: the copy takes a slot of a vector pipe, the load does not. No instruction of its own. */
INLINE const void *opaque(const void *at) {
  __asm__ volatile("" : "+r"(at) : : "memory");
  return at;
}

/* What comes before is to be done before what comes after: compilers that mix them run out of registers. No instruction
 * of its own. */
INLINE void finish(int32x4_t sums[], int count) {
#ifdef __clang__
  UNROLL for (int i = 0; i < count; i += 2) { __asm__ volatile("" : "+w"(sums[i]), "+w"(sums[i + 1]) : : "memory"); }
#else
  (void)sums;
  (void)count;
#endif
}

/* An integer n of less than 2^22 is exactly the float with the bits MAGIC + n, less MAGIC_FLOAT. Accumulators that
 * start at MAGIC need no conversion, which is twice as slow as an addition. */
enum { MAGIC = 0x4b400000 };
#define MAGIC_FLOAT 0x1.8p23f

INLINE int32x8 load_starts(const int32_t *start) { return (int32x8){{vld1q_s32(start), vld1q_s32(start + 4)}}; }

/* 8 halves at any address. */
INLINE float32x8 load_halves(const uint8_t *at) {
  const float16x8_t half = vreinterpretq_f16_u8(vld1q_u8(at));
  return (float32x8){{vcvt_f32_f16(vget_low_f16(half)), vcvt_high_f32_f16(half)}};
}

INLINE float32x4_t load_4_halves(const uint8_t *at) { return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(at))); }

/* The first `rows` of 8. */
INLINE void store_rows(float *out, size_t rows, float32x8 sums) {
  if (rows >= EK_STRIPE) {
    vst1q_f32(out, sums.part[0]);
    vst1q_f32(out + 4, sums.part[1]);
    return;
  }
  float all[EK_STRIPE];
  vst1q_f32(all, sums.part[0]);
  vst1q_f32(all + 4, sums.part[1]);
  for (size_t r = 0; r < rows; r++) out[r] = all[r];
}

#endif
