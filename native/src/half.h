/* Conversions between float32 and the two 16-bit floats, by integer arithmetic: the same bits on every machine. */
#ifndef EK_HALF_H
#define EK_HALF_H

#include <stdint.h>
#include <string.h>

static inline uint32_t ek_bits_of_float(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

static inline float ek_float_of_bits(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

static inline uint16_t ek_load_u16(const uint8_t *at) { return (uint16_t)(at[0] | at[1] << 8); }

static inline void ek_store_u16(uint8_t *at, uint16_t value) {
  at[0] = (uint8_t)value;
  at[1] = (uint8_t)(value >> 8);
}

/* Exact. */
static inline float ek_float_of_half(uint16_t half) {
  const uint32_t sign = (uint32_t)(half & 0x8000u) << 16, rest = half & 0x7fffu;
  if (rest < 0x0400u) { /* zero and subnormals: a multiple of 2^-24 */
    return ek_float_of_bits(sign | ek_bits_of_float((float)rest * 0x1p-24f));
  }
  const uint32_t bias = rest >= 0x7c00u ? 224u << 23 : 112u << 23;
  return ek_float_of_bits(sign | ((rest << 13) + bias));
}

/* Round to nearest even; what exceeds 65504 by half a step becomes infinity; any NaN becomes 0x7e00 with its sign. */
static inline uint16_t ek_half_of_float(float value) {
  const uint32_t bits = ek_bits_of_float(value), rest = bits & 0x7fffffffu;
  const uint16_t sign = (uint16_t)(bits >> 16 & 0x8000u);
  if (rest > 0x7f800000u) return sign | 0x7e00u;
  if (rest >= 0x477ff000u) return sign | 0x7c00u;
  if (rest < 0x38800000u) { /* below 2^-14: adding 0.5 leaves the multiple of 2^-24 in the low bits, rounded */
    return sign | (uint16_t)(ek_bits_of_float(ek_float_of_bits(rest) + 0.5f) - 0x3f000000u);
  }
  return sign | (uint16_t)((rest + 0x0fffu + (rest >> 13 & 1u) - (112u << 23)) >> 13);
}

/* Exact. */
static inline float ek_float_of_bfloat(uint16_t bfloat) { return ek_float_of_bits((uint32_t)bfloat << 16); }

/* Round to nearest even; a NaN keeps its upper bits and becomes quiet. */
static inline uint16_t ek_bfloat_of_float(float value) {
  const uint32_t bits = ek_bits_of_float(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return (uint16_t)(bits >> 16 | 0x40u);
  return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

#endif
