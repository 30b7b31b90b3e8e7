/* Writing codes where the formats want them; the layouts are described beside the decoders in format.c. */
#ifndef EK_PACK_H
#define EK_PACK_H

#include "../half.h"
#include "lanes.h"

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

/* One code of each lane, less `zero`, `stride` bytes apart. */
static inline void put_codes(ek_vf codes, int zero, uint8_t *out, int stride) {
  int32_t q[EK_WIDTH];
  const ek_vi integers = __builtin_convertvector(codes, ek_vi) - zero;
  memcpy(q, &integers, sizeof q);
  for (int l = 0; l < EK_WIDTH; l++) out[l * stride] = (uint8_t)q[l];
}

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

#endif
