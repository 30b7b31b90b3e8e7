/* Weights out of packed stripes: the way back of repack.c. */
#include "../half.h"
#include "stripe.h"

/* Each of these is called with constants, so that its loops are compiled once for each packing. */
#define INLINE static inline __attribute__((always_inline))

static int8_t signed_of(int value, int bits) { return (int8_t)((value ^ 1 << (bits - 1)) - (1 << (bits - 1))); }

/* Lanes j .. j + count - 1 of segment s of a tile, see stripe.h. */
INLINE void read_lanes(int bits, const uint8_t *tile, size_t s, size_t j, size_t count, int8_t *lanes) {
  for (size_t i = 0; i < count; i++) {
    const uint8_t *at = tile + j + i;
    if (bits == 8) {
      lanes[i] = (int8_t)at[32 * s];
    } else if (bits == 4) {
      lanes[i] = (int8_t)(at[32 * (s % 4)] >> (s < 4 ? 0 : 4) & 15);
    } else if (bits == 5 && s < 5) {
      lanes[i] = signed_of(at[32 * s] >> 3, 5);
    } else if (bits == 5 && s < 7) {
      const size_t first = 64 * (s - 5);
      lanes[i] = signed_of((at[first] & 7) << 2 | (at[first + 32] & 7) >> 1, 5);
    } else if (bits == 5) {
      lanes[i] = signed_of((at[32] & 1) << 4 | (at[96] & 1) << 3 | (at[128] & 7), 5);
    } else {
      const uint8_t *planes = at + 96 * (s / 4);
      const int last = (planes[0] & 3) << 4 | (planes[32] & 3) << 2 | (planes[64] & 3);
      lanes[i] = signed_of(s % 4 < 3 ? planes[32 * (s % 4)] >> 2 : last, 6);
    }
  }
}

/* A row's 32 lanes: runs of `interleave`, each in one segment. */
INLINE void read_row(int bits, int interleave, const uint8_t *tile, size_t row, int8_t *lanes) {
  for (size_t k = 0; k < 32; k += (size_t)interleave) {
    const size_t first = ek_lane(interleave, row, k);
    read_lanes(bits, tile, first / 32, first % 32, (size_t)interleave, lanes + k);
  }
}

static float half_at(const uint8_t *halves, size_t row) { return ek_float_of_half(ek_load_u16(halves + 2 * row)); }

/* weight = scale[k / 16] * code - minimum, of 32 columns of a row */
INLINE void scales_of(enum ek_type type, const uint8_t *header, const uint8_t *after, size_t row, float scale[2],
                      float *minimum) {
  *minimum = 0;
  switch (type) {
  case EK_TYPE_q4_1:
  case EK_TYPE_q5_1:
    scale[0] = scale[1] = half_at(after, row);
    *minimum = -half_at(after + 16, row);
    break;
  case EK_TYPE_q4_k:
  case EK_TYPE_q5_k:
    scale[0] = scale[1] = half_at(header, row) * (float)after[row];
    *minimum = half_at(header + 16, row) * (float)after[8 + row];
    break;
  case EK_TYPE_q6_k:
    for (size_t i = 0; i < 2; i++) scale[i] = half_at(header, row) * (float)(int8_t)after[8 * i + row];
    break;
  default:
    scale[0] = scale[1] = half_at(after, row);
    break;
  }
}

INLINE void decode_row(enum ek_type type, int bits, int zero, int interleave, size_t columns, const uint8_t *stripe,
                       size_t row, float *out) {
  const ek_packing *packing = &ek_packings[type];
  const int8_t *levels = ek_formats[type].levels;
  const int minima = ek_formats[type].has_minima;
  const uint8_t *header = stripe;
  for (size_t k = 0; k < columns; k += 32, out += 32) {
    if (packing->header_bytes && k % EK_SUPERBLOCK == 0) {
      header = stripe;
      stripe += packing->header_bytes;
    }
    int8_t lanes[32];
    float scale[2], minimum;
    read_row(bits, interleave, stripe, row, lanes);
    scales_of(type, header, stripe + packing->tile_bytes, row, scale, &minimum);
    for (int i = 0; i < 32; i++) {
      const int code = type == EK_TYPE_iq4_nl ? levels[lanes[i] & 15] : lanes[i] + zero;
      out[i] = scale[i / 16] * (float)code;
    }
    for (int i = 0; minima && i < 32; i++) out[i] -= minimum;
    stripe += packing->tile_bytes + packing->after_bytes;
  }
}

static void decode_floats(enum ek_type type, size_t columns, const uint8_t *stripe, size_t row, float *out) {
  const ek_format *format = &ek_formats[type];
  const size_t bytes = (size_t)format->block_bytes;
  for (size_t k = 0; k < columns; k++) out[k] = format->widen(stripe + (k * EK_STRIPE + row) * bytes);
}

void ek_stripe_decode(enum ek_type type, int interleave, size_t columns, const uint8_t *stripe, size_t first_row,
                      size_t rows, float *out) {
  for (size_t row = first_row; row < first_row + rows; row++, out += columns) {
    switch (type) {
#define CASE(type, bits, zero)                                                                                         \
  case EK_TYPE_##type:                                                                                                 \
    if (interleave == 4) {                                                                                             \
      decode_row(EK_TYPE_##type, bits, zero, 4, columns, stripe, row, out);                                            \
    } else {                                                                                                           \
      decode_row(EK_TYPE_##type, bits, zero, 16, columns, stripe, row, out);                                           \
    }                                                                                                                  \
    break;
      CASE(q8_0, 8, 0)
      CASE(q4_0, 4, -8)
      CASE(q4_1, 4, 0)
      CASE(q5_0, 5, 0)
      CASE(q5_1, 5, 16)
      CASE(iq4_nl, 4, 0)
      CASE(q4_k, 4, 0)
      CASE(q5_k, 5, 16)
      CASE(q6_k, 6, 0)
#undef CASE
    default:
      decode_floats(type, columns, stripe, row, out);
      break;
    }
  }
}
