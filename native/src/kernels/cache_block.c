#include "cache_block.h"

#include "../half.h"

#include <math.h>
#include <string.h>

enum { GROUP = 32, LANES = GROUP * EK_CACHE_BLOCK };

int ek_cache_type(enum ek_type type) { return type == EK_TYPE_f16 || type == EK_TYPE_q8_0 || type == EK_TYPE_q4_0; }

static size_t code_bytes(enum ek_type type) { return type == EK_TYPE_q4_0 ? LANES / 2 : LANES; }

static size_t group_bytes(enum ek_type type) {
  return type == EK_TYPE_f16 ? 2 * LANES : code_bytes(type) + 2 * EK_CACHE_BLOCK;
}

size_t ek_cache_block_bytes(enum ek_type type, size_t dims) { return dims / GROUP * group_bytes(type); }

static size_t half_index(ek_cache_side side, size_t p, size_t k) {
  return side == EK_CACHE_KEYS ? k * EK_CACHE_BLOCK + p : p * GROUP + k;
}

static int code_at(enum ek_type type, const uint8_t *codes, size_t lane) {
  if (type == EK_TYPE_q8_0) return (int8_t)codes[lane];
  const int nibble = codes[lane % (LANES / 2)] >> (lane < LANES / 2 ? 0 : 4) & 15;
  return (nibble ^ 8) - 8;
}

/* --- storing: every new token of every layer; loops over 32 dimensions without branches, for the vectoriser --- */

/* The scale of 32 values, before it is rounded to half: the code of the first of the largest magnitudes is 127, or -8
 * for q4_0. NaN where one is not finite. */
static float scale_of(enum ek_type type, const float *x) {
  int32_t most = 0, index = GROUP; /* bits of magnitudes are in their order */
  for (int k = 0; k < GROUP; k++) {
    const int32_t bits = (int32_t)(ek_bits_of_float(x[k]) & 0x7fffffffu);
    most = bits > most ? bits : most;
  }
  if (most >= 0x7f800000) return NAN;
  const float size = ek_float_of_bits((uint32_t)most);
  if (type == EK_TYPE_q8_0) return size / 127.0f;
  for (int k = 0; k < GROUP; k++) {
    const int at = fabsf(x[k]) == size ? k : GROUP;
    index = at < index ? at : index;
  }
  return (x[index] < 0 ? -size : size) / -8.0f;
}

/* Rounded to nearest, halves away from zero for q8_0 and up for q4_0. */
static void codes_of(enum ek_type type, const float *x, float inverse, int8_t *codes) {
  if (inverse == 0) { /* x may be no numbers that an int can hold */
    memset(codes, 0, GROUP);
  } else if (type == EK_TYPE_q8_0) {
    for (size_t k = 0; k < GROUP; k++) {
      const float y = x[k] * inverse, rest = y - (float)(int)y; /* exact */
      codes[k] = (int8_t)((int)y + (rest >= 0.5f) - (rest <= -0.5f));
    }
  } else {
    for (size_t k = 0; k < GROUP; k++) {
      const int code = (int)(x[k] * inverse + 8.5f);
      codes[k] = (int8_t)((code < 15 ? code : 15) - 8);
    }
  }
}

/* Four codes, `step` lanes apart. */
static inline void put_4(enum ek_type type, const int8_t *codes, size_t step, size_t lane, uint8_t *group) {
  const int shift = lane < LANES / 2 ? 0 : 4;
  uint8_t *bytes = group + (type == EK_TYPE_q8_0 ? lane : lane % (LANES / 2));
  for (size_t i = 0; i < 4; i++, bytes += step)
    *bytes = (uint8_t)(type == EK_TYPE_q8_0 ? codes[i] : (*bytes & 0xf0 >> shift) | (codes[i] & 15) << shift);
}

/* Values interleaved by 4 lie 4 lanes apart; all others lie in runs of 4 at least. */
static inline void put_codes(enum ek_type type, ek_cache_side side, int interleave, size_t p, const int8_t *codes,
                             uint8_t *group) {
  const size_t step = side == EK_CACHE_VALUES && interleave == 4 ? 4 : 1;
  for (size_t k = 0; k < GROUP; k += 4) put_4(type, codes + k, step, ek_cache_lane(side, interleave, p, k), group);
}

static void store_quantised(enum ek_type type, ek_cache_side side, int interleave, const float *x, size_t p,
                            uint8_t *group) {
  const float d = scale_of(type, x);
  uint16_t half = ek_half_of_float(d);
  if ((half & 0x7fffu) >= 0x7c00u) half = 0x7e00u;
  /* the inverse of a subnormal scale may overflow; codes so small are 0 once the scale is rounded */
  int8_t codes[GROUP];
  codes_of(type, x, (half & 0x7fffu) == 0 || half == 0x7e00u ? 0 : 1.0f / d, codes);
  if (interleave == 4) { /* constants: no divisions */
    put_codes(type, side, 4, p, codes, group);
  } else {
    put_codes(type, side, 16, p, codes, group);
  }
  ek_store_u16(group + code_bytes(type) + 2 * p, half);
}

/* As ek_half_of_float. */
static void halves_of(const float *x, uint16_t *halves) {
  for (size_t k = 0; k < GROUP; k++) {
    const uint32_t bits = ek_bits_of_float(x[k]);
    const int32_t rest = (int32_t)(bits & 0x7fffffffu);
    const int32_t small = (int32_t)ek_bits_of_float(fabsf(x[k]) + 0.5f) - 0x3f000000;
    const uint32_t normal = ((uint32_t)rest + 0x0fffu + ((uint32_t)rest >> 13 & 1u) - (112u << 23)) >> 13;
    const int32_t is_small = -(rest < 0x38800000), is_large = -(rest >= 0x477ff000), is_nan = -(rest > 0x7f800000);
    const int32_t finite = (small & is_small) | ((int32_t)normal & ~is_small);
    halves[k] = (uint16_t)((finite & ~is_large) | (0x7c00 & is_large) | (0x0200 & is_nan) | (bits >> 16 & 0x8000u));
  }
}

void ek_cache_store(enum ek_type type, ek_cache_side side, int interleave, size_t dims, const float *row,
                    size_t position, uint8_t *block) {
  for (size_t first = 0; first < dims; first += GROUP, block += group_bytes(type)) {
    if (type != EK_TYPE_f16) {
      store_quantised(type, side, interleave, row + first, position, block);
    } else {
      uint16_t halves[GROUP];
      halves_of(row + first, halves);
      for (size_t k = 0; k < GROUP; k++) ek_store_u16(block + 2 * half_index(side, position, k), halves[k]);
    }
  }
}

void ek_cache_load(enum ek_type type, ek_cache_side side, int interleave, size_t dims, const uint8_t *block,
                   size_t position, float *row) {
  for (size_t first = 0; first < dims; first += GROUP, block += group_bytes(type)) {
    for (size_t k = 0; k < GROUP; k++) {
      if (type == EK_TYPE_f16) {
        row[first + k] = ek_float_of_half(ek_load_u16(block + 2 * half_index(side, position, k)));
      } else {
        const int code = code_at(type, block, ek_cache_lane(side, interleave, position, k));
        row[first + k] = ek_float_of_half(ek_load_u16(block + code_bytes(type) + 2 * position)) * (float)code;
      }
    }
  }
}
