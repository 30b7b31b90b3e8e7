/* Weights out of packed stripes: the way back of repack.c, slow and obvious. */
#include "half.h"
#include "stripe.h"

typedef struct tile {
  const uint8_t *header, *codes, *after;
} tile;

/* Tile j of a stripe, from the columns 32 j on. */
static tile tile_at(const ek_packing *packing, const uint8_t *stripe, size_t j) {
  const size_t each = (size_t)(packing->tile_bytes + packing->after_bytes), header = (size_t)packing->header_bytes;
  const size_t per_header = header ? EK_SUPERBLOCK / 32 : 1, block = j / per_header;
  const uint8_t *at = stripe + block * (header + per_header * each);
  const uint8_t *codes = at + header + j % per_header * each;
  return (tile){at, codes, codes + packing->tile_bytes};
}

static float half_at(const uint8_t *halves, size_t row) { return ek_float_of_half(ek_load_u16(halves + 2 * row)); }

/* weight = scale[k / 16] * code - minimum, of 32 columns of a row */
static void scales_of(enum ek_type type, const tile *t, size_t row, float scale[2], float *minimum) {
  *minimum = 0;
  switch (type) {
  case EK_TYPE_q4_1:
  case EK_TYPE_q5_1:
    scale[0] = scale[1] = half_at(t->after, row);
    *minimum = -half_at(t->after + 16, row);
    break;
  case EK_TYPE_q4_k:
  case EK_TYPE_q5_k:
    scale[0] = scale[1] = half_at(t->header, row) * (float)t->after[row];
    *minimum = half_at(t->header + 16, row) * (float)t->after[8 + row];
    break;
  case EK_TYPE_q6_k:
    for (size_t i = 0; i < 2; i++) scale[i] = half_at(t->header, row) * (float)(int8_t)t->after[8 * i + row];
    break;
  default:
    scale[0] = scale[1] = half_at(t->after, row);
    break;
  }
}

static void decode_floats(enum ek_type type, size_t columns, const uint8_t *stripe, size_t first_row, size_t rows,
                          float *out) {
  const ek_format *format = &ek_formats[type];
  for (size_t r = 0; r < rows; r++) {
    for (size_t k = 0; k < columns; k++)
      out[r * columns + k] = format->widen(stripe + (k * EK_STRIPE + first_row + r) * (size_t)format->block_bytes);
  }
}

void ek_stripe_decode(enum ek_type type, int interleave, size_t columns, const uint8_t *stripe, size_t first_row,
                      size_t rows, float *out) {
  const ek_packing *packing = &ek_packings[type];
  const ek_format *format = &ek_formats[type];
  if (packing->bits == 0) {
    decode_floats(type, columns, stripe, first_row, rows, out);
    return;
  }
  for (size_t j = 0; j < columns / 32; j++) {
    const tile t = tile_at(packing, stripe, j);
    int8_t lanes[256];
    ek_tile_lanes(packing->bits, t.codes, lanes);
    for (size_t r = 0; r < rows; r++) {
      float scale[2], minimum;
      scales_of(type, &t, first_row + r, scale, &minimum);
      float *to = out + r * columns + 32 * j;
      for (size_t k = 0; k < 32; k++) {
        const int code = lanes[ek_lane(interleave, first_row + r, k)] + packing->zero;
        to[k] = scale[k / 16] * (float)(format->levels ? format->levels[code & 15] : code);
        if (format->has_minima) to[k] -= minimum;
      }
    }
  }
}
