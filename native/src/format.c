#include "format.h"

#include "half.h"

#include <string.h>

/* ggml-common.h, kvalues_iq4nl. */
const int8_t ek_iq4_nl_levels[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

static float half_at(const uint8_t *at) { return ek_float_of_half(ek_load_u16(at)); }

static float widen_f32(const uint8_t *at) {
  return ek_float_of_bits((uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24);
}

static float widen_bf16(const uint8_t *at) { return ek_float_of_bfloat(ek_load_u16(at)); }

/* 32 four-bit codes in 16 bytes: the low nibbles are weights 0 .. 15, the high ones 16 .. 31. */
static void nibbles(const uint8_t *bytes, int8_t *codes) {
  for (int j = 0; j < 16; j++) {
    codes[j] = (int8_t)(bytes[j] & 15);
    codes[j + 16] = (int8_t)(bytes[j] >> 4);
  }
}

/* The fifth bits of 32 codes: bit j of a little-endian word is weight j's. Eight at a time: a byte, copied to eight and
 * masked to bit j in byte j, carries into bit 7 where it is not 0. */
static void fifth_bits(const uint8_t *bytes, int8_t *codes) {
  for (int i = 0; i < 4; i++) {
    uint64_t eight, bits = bytes[i] * UINT64_C(0x0101010101010101) & UINT64_C(0x8040201008040201);
    bits = (bits + UINT64_C(0x7f7f7f7f7f7f7f7f)) >> 3 & UINT64_C(0x1010101010101010);
    memcpy(&eight, codes + 8 * i, 8);
    eight |= bits;
    memcpy(codes + 8 * i, &eight, 8);
  }
}

static void centre(int8_t *codes, int count, int zero) {
  for (int j = 0; j < count; j++) codes[j] = (int8_t)(codes[j] - zero);
}

/* half d; nibbles[16] */
static void unpack_q4_0(const uint8_t *block, ek_parts *parts) {
  parts->scales[0] = half_at(block);
  nibbles(block + 2, parts->codes);
  centre(parts->codes, 32, 8);
}

/* half d; half m; nibbles[16]. Value d * q + m. */
static void unpack_q4_1(const uint8_t *block, ek_parts *parts) {
  parts->scales[0] = half_at(block);
  parts->minima[0] = -half_at(block + 2);
  nibbles(block + 4, parts->codes);
}

/* half d; fifth_bits[4]; nibbles[16] */
static void unpack_q5_0(const uint8_t *block, ek_parts *parts) {
  parts->scales[0] = half_at(block);
  nibbles(block + 6, parts->codes);
  fifth_bits(block + 2, parts->codes);
  centre(parts->codes, 32, 16);
}

/* half d; half m; fifth_bits[4]; nibbles[16]. Value d * q + m. */
static void unpack_q5_1(const uint8_t *block, ek_parts *parts) {
  parts->scales[0] = half_at(block);
  parts->minima[0] = -half_at(block + 2);
  nibbles(block + 8, parts->codes);
  fifth_bits(block + 4, parts->codes);
}

/* half d; int8 q[32] */
static void unpack_q8_0(const uint8_t *block, ek_parts *parts) {
  parts->scales[0] = half_at(block);
  memcpy(parts->codes, block + 2, 32);
}

/* half d; nibbles[16], indices into the levels */
static void unpack_iq4_nl(const uint8_t *block, ek_parts *parts) {
  parts->scales[0] = half_at(block);
  nibbles(block + 2, parts->codes);
}

/* Bytes 0-3 hold scales 0-3 and bytes 4-7 minima 0-3 in their low six bits; bytes 8-11 hold the low nibbles of scales
 * and minima 4-7, whose upper two bits are the upper two bits of bytes 0-3 and 4-7. */
void ek_k_scale(const uint8_t *packed, int j, uint8_t *scale, uint8_t *minimum) {
  if (j < 4) {
    *scale = packed[j] & 63;
    *minimum = packed[j + 4] & 63;
  } else {
    *scale = (uint8_t)((packed[j + 4] & 15) | packed[j - 4] >> 6 << 4);
    *minimum = (uint8_t)(packed[j + 4] >> 4 | packed[j] >> 6 << 4);
  }
}

/* half d; half dmin; 12 bytes of scales and minima */
static void k_scales(const uint8_t *block, ek_parts *parts) {
  const float d = half_at(block), dmin = half_at(block + 2);
  for (int j = 0; j < 8; j++) {
    uint8_t scale, minimum;
    ek_k_scale(block + 4, j, &scale, &minimum);
    parts->scales[j] = d * (float)scale;
    parts->minima[j] = dmin * (float)minimum;
  }
}

/* Four runs of 32 bytes: the low nibbles are one sub-block of 32 weights, the high ones the next. */
static void k_nibbles(const uint8_t *bytes, int8_t *codes) {
  for (int run = 0; run < 4; run++) {
    for (int j = 0; j < 32; j++) {
      codes[64 * run + j] = (int8_t)(bytes[32 * run + j] & 15);
      codes[64 * run + 32 + j] = (int8_t)(bytes[32 * run + j] >> 4);
    }
  }
}

/* d, dmin, scales (16 bytes); nibbles[128] */
static void unpack_q4_k(const uint8_t *block, ek_parts *parts) {
  k_scales(block, parts);
  k_nibbles(block + 16, parts->codes);
}

/* d, dmin, scales (16 bytes); fifth bits[32], bit s of byte j for weight j of sub-block s; nibbles[128] */
static void unpack_q5_k(const uint8_t *block, ek_parts *parts) {
  k_scales(block, parts);
  k_nibbles(block + 48, parts->codes);
  for (int s = 0; s < 8; s++) {
    int8_t *codes = parts->codes + 32 * s;
    for (int j = 0; j < 32; j++) codes[j] = (int8_t)(codes[j] | (block[16 + j] >> s & 1) << 4);
  }
}

/* low nibbles[128]; upper two bits[64]; int8 scales[16]; half d. In each half of 128 weights, weight 32 a + j has its
 * nibble in byte 32 (a % 2) + j (upper nibble for a >= 2) and its two bits at 2 a of byte j. */
static void unpack_q6_k(const uint8_t *block, ek_parts *parts) {
  const float d = half_at(block + 208);
  for (int j = 0; j < 16; j++) parts->scales[j] = d * (float)(int8_t)block[192 + j];
  for (int half = 0; half < 2; half++) {
    for (int a = 0; a < 4; a++) {
      const uint8_t *low = block + 64 * half + 32 * (a % 2), *high = block + 128 + 32 * half;
      int8_t *codes = parts->codes + 128 * half + 32 * a;
      for (int j = 0; j < 32; j++)
        codes[j] = (int8_t)(((low[j] >> 4 * (a / 2) & 15) | (high[j] >> 2 * a & 3) << 4) - 32);
    }
  }
}

const ek_format ek_formats[EK_TYPES + 1] = {
    {"f32", 1, 4, 0, 0, 0, NULL, NULL, widen_f32},
    {"f16", 1, 2, 0, 0, 0, NULL, NULL, half_at},
    {"bf16", 1, 2, 0, 0, 0, NULL, NULL, widen_bf16},
    {"q8_0", 32, 34, 32, 0, 1, NULL, unpack_q8_0, NULL},
    {"q4_0", 32, 18, 32, 0, 1, NULL, unpack_q4_0, NULL},
    {"q4_1", 32, 20, 32, 1, 0, NULL, unpack_q4_1, NULL},
    {"q5_0", 32, 22, 32, 0, 1, NULL, unpack_q5_0, NULL},
    {"q5_1", 32, 24, 32, 1, 0, NULL, unpack_q5_1, NULL},
    {"iq4_nl", 32, 18, 32, 0, 0, ek_iq4_nl_levels, unpack_iq4_nl, NULL},
    {"q4_k", 256, 144, 32, 1, 0, NULL, unpack_q4_k, NULL},
    {"q5_k", 256, 176, 32, 1, 0, NULL, unpack_q5_k, NULL},
    {"q6_k", 256, 210, 16, 0, 1, NULL, unpack_q6_k, NULL},
    {NULL, 0, 0, 0, 0, 0, NULL, NULL, NULL},
};

const ek_format *ek_format_find(const char *name) {
  for (const ek_format *format = ek_formats; format->name; format++) {
    if (strcmp(format->name, name) == 0) return format;
  }
  return NULL;
}

static void decode_block(const ek_format *format, const ek_parts *parts, float *values) {
  const int group = format->group;
  for (int g = 0; g < format->block / group; g++) {
    const int8_t *codes = parts->codes + g * group;
    const float scale = parts->scales[g], minimum = parts->minima[g];
    float *out = values + g * group;
    if (format->levels) {
      for (int k = 0; k < group; k++) out[k] = scale * (float)format->levels[codes[k] & 15];
    } else if (format->has_minima) {
      for (int k = 0; k < group; k++) out[k] = scale * (float)codes[k] - minimum;
    } else {
      for (int k = 0; k < group; k++) out[k] = scale * (float)codes[k];
    }
  }
}

void ek_dequantise(const ek_format *format, const uint8_t *blocks, size_t count, float *values) {
  if (format->widen) {
    for (size_t i = 0; i < count; i++) values[i] = format->widen(blocks + i * (size_t)format->block_bytes);
    return;
  }
  ek_parts parts;
  for (size_t i = 0; i < count; i++) {
    format->unpack(blocks + i * (size_t)format->block_bytes, &parts);
    decode_block(format, &parts, values + i * (size_t)format->block);
  }
}

void ek_unpack(const ek_format *format, const uint8_t *blocks, size_t count, int8_t *codes, float *scales,
               float *minima) {
  const size_t block = (size_t)format->block, groups = block / (size_t)format->group;
  ek_parts parts;
  for (size_t i = 0; i < count; i++) {
    format->unpack(blocks + i * (size_t)format->block_bytes, &parts);
    memcpy(codes + i * block, parts.codes, block);
    memcpy(scales + i * groups, parts.scales, groups * sizeof(float));
    if (format->has_minima) memcpy(minima + i * groups, parts.minima, groups * sizeof(float));
  }
}
