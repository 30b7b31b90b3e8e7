/* Writing blocks: codes and scales where the formats want them. The layouts are described beside the decoders in
 * format.c.
 *
 * Scales are fp16 values. Codes are as the block stores them: Q4_0, Q5_0 and Q6_K count from their lowest. */
#ifndef EK_PACK_H
#define EK_PACK_H

#include "../half.h"

/* The nearest fp16 value; saturated, 0 for a NaN. */
static inline float ek_half_near(float value) {
  if (!(value == value)) return 0;
  if (value > 65504) return 65504;
  if (value < -65504) return -65504;
  return ek_float_of_half(ek_half_of_float(value));
}

/* The same for the scale of scales: where fp16 is too coarse, away from zero, so that the largest scale stays in reach.
 */
static inline float ek_half_reaching(float value) {
  const float near = ek_half_near(value), step = value < 0 ? -0x1p-24f : 0x1p-24f;
  const int short_of = value < 0 ? near > value * 0.95f : near < value * 0.95f;
  return short_of && near * near < 1 ? near + step : near;
}

static inline void pack_half(float value, uint8_t *out) { ek_store_u16(out, ek_half_of_float(value)); }

/* 32 four-bit codes to 16 bytes; higher bits are left out. */
static inline void pack_nibbles(const uint8_t *codes, uint8_t *out) {
  for (int j = 0; j < 16; j++) out[j] = (uint8_t)((codes[j] & 15) | (codes[j + 16] & 15) << 4);
}

/* The fifth bits of 32 codes to 4 bytes. */
static inline void pack_fifth_bits(const uint8_t *codes, uint8_t *out) {
  for (int i = 0; i < 4; i++) {
    unsigned bits = 0;
    for (int j = 0; j < 8; j++) bits |= (unsigned)(codes[8 * i + j] >> 4 & 1) << j;
    out[i] = (uint8_t)bits;
  }
}

/* Q4_0 and IQ4_NL. */
static inline void pack_q4_0(float d, const uint8_t *codes, uint8_t *out) {
  pack_half(d, out);
  pack_nibbles(codes, out + 2);
}

static inline void pack_q4_1(float d, float m, const uint8_t *codes, uint8_t *out) {
  pack_half(d, out);
  pack_half(m, out + 2);
  pack_nibbles(codes, out + 4);
}

static inline void pack_q5_0(float d, const uint8_t *codes, uint8_t *out) {
  pack_half(d, out);
  pack_fifth_bits(codes, out + 2);
  pack_nibbles(codes, out + 6);
}

static inline void pack_q5_1(float d, float m, const uint8_t *codes, uint8_t *out) {
  pack_half(d, out);
  pack_half(m, out + 2);
  pack_fifth_bits(codes, out + 4);
  pack_nibbles(codes, out + 8);
}

static inline void pack_q8_0(float d, const uint8_t *codes, uint8_t *out) {
  pack_half(d, out);
  memcpy(out + 2, codes, 32);
}

/* d, dmin and the 6-bit scales and minima of Q4_K and Q5_K: 16 bytes. */
static inline void pack_k_scales(float d, float dmin, const uint8_t scale[8], const uint8_t minimum[8], uint8_t *out) {
  pack_half(d, out);
  pack_half(dmin, out + 2);
  for (int j = 0; j < 4; j++) {
    out[4 + j] = (uint8_t)(scale[j] | scale[j + 4] >> 4 << 6);
    out[8 + j] = (uint8_t)(minimum[j] | minimum[j + 4] >> 4 << 6);
    out[12 + j] = (uint8_t)((scale[j + 4] & 15) | (minimum[j + 4] & 15) << 4);
  }
}

/* The low nibbles of Q4_K and Q5_K: 128 bytes. */
static inline void pack_k_nibbles(const uint8_t codes[256], uint8_t *out) {
  for (int pair = 0; pair < 4; pair++) {
    const uint8_t *low = codes + 64 * pair, *high = low + 32;
    for (int j = 0; j < 32; j++) out[32 * pair + j] = (uint8_t)((low[j] & 15) | (high[j] & 15) << 4);
  }
}

/* The fifth bits of Q5_K: 32 bytes. */
static inline void pack_k_fifth_bits(const uint8_t codes[256], uint8_t *out) {
  for (int j = 0; j < 32; j++) {
    unsigned bits = 0;
    for (int group = 0; group < 8; group++) bits |= (unsigned)(codes[32 * group + j] >> 4) << group;
    out[j] = (uint8_t)bits;
  }
}

static inline void pack_q6_k(float d, const int8_t scale[16], const uint8_t codes[256], uint8_t *out) {
  for (int half = 0; half < 2; half++) {
    const uint8_t *q = codes + 128 * half;
    for (int j = 0; j < 32; j++) {
      out[64 * half + j] = (uint8_t)((q[j] & 15) | (q[j + 64] & 15) << 4);
      out[64 * half + 32 + j] = (uint8_t)((q[j + 32] & 15) | (q[j + 96] & 15) << 4);
      out[128 + 32 * half + j] = (uint8_t)(q[j] >> 4 | q[j + 32] >> 4 << 2 | q[j + 64] >> 4 << 4 | q[j + 96] >> 4 << 6);
    }
  }
  memcpy(out + 192, scale, 16);
  pack_half(d, out + 208);
}

#endif
