#include "cache_block.h"

#include "../half.h"

#include <math.h>

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

static void put_code(enum ek_type type, uint8_t *codes, size_t lane, int code) {
  if (type == EK_TYPE_q8_0) {
    codes[lane] = (uint8_t)code;
  } else {
    uint8_t *byte = &codes[lane % (LANES / 2)];
    const int shift = lane < LANES / 2 ? 0 : 4;
    *byte = (uint8_t)((*byte & ~(15 << shift)) | (code & 15) << shift);
  }
}

static int code_at(enum ek_type type, const uint8_t *codes, size_t lane) {
  if (type == EK_TYPE_q8_0) return (int8_t)codes[lane];
  const int nibble = codes[lane % (LANES / 2)] >> (lane < LANES / 2 ? 0 : 4) & 15;
  return (nibble ^ 8) - 8;
}

/* The scale of 32 values, before it is rounded to half: the code of the largest magnitude is 127, or -8 for q4_0. */
static float scale_of(enum ek_type type, const float *x) {
  float most = 0, size = 0;
  for (size_t k = 0; k < GROUP; k++) {
    if (!isfinite(x[k])) return NAN;
    if (fabsf(x[k]) > size) {
      size = fabsf(x[k]);
      most = x[k];
    }
  }
  return type == EK_TYPE_q8_0 ? size / 127.0f : most / -8.0f;
}

static int code_of(enum ek_type type, float x, float inverse) {
  if (inverse == 0) return 0; /* x may be no number that an int can hold */
  if (type == EK_TYPE_q8_0) return (int)roundf(x * inverse);
  const int code = (int)(x * inverse + 8.5f);
  return (code < 15 ? code : 15) - 8;
}

static void store_quantised(enum ek_type type, ek_cache_side side, int interleave, const float *x, size_t p,
                            uint8_t *group) {
  const float d = scale_of(type, x);
  uint16_t half = ek_half_of_float(d);
  if ((half & 0x7fffu) >= 0x7c00u) half = 0x7e00u;
  /* the inverse of a subnormal scale may overflow; codes so small are 0 once the scale is rounded */
  const float inverse = (half & 0x7fffu) == 0 || half == 0x7e00u ? 0 : 1.0f / d;
  for (size_t k = 0; k < GROUP; k++)
    put_code(type, group, ek_cache_lane(side, interleave, p, k), code_of(type, x[k], inverse));
  ek_store_u16(group + code_bytes(type) + 2 * p, half);
}

void ek_cache_store(enum ek_type type, ek_cache_side side, int interleave, size_t dims, const float *row,
                    size_t position, uint8_t *block) {
  for (size_t first = 0; first < dims; first += GROUP, block += group_bytes(type)) {
    if (type != EK_TYPE_f16) {
      store_quantised(type, side, interleave, row + first, position, block);
    } else {
      for (size_t k = 0; k < GROUP; k++)
        ek_store_u16(block + 2 * half_index(side, position, k), ek_half_of_float(row[first + k]));
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
