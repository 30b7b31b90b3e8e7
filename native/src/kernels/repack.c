#include "stripe.h"

#include "../half.h"

#include <string.h>

const ek_packing ek_packings[EK_TYPES] = {
    [EK_TYPE_q8_0] = {8, 0, 256, 16, 0},  [EK_TYPE_q4_0] = {4, -8, 128, 16, 0},  [EK_TYPE_q4_1] = {4, 0, 128, 32, 0},
    [EK_TYPE_q5_0] = {5, 0, 160, 16, 0},  [EK_TYPE_q5_1] = {5, 16, 160, 32, 0},  [EK_TYPE_iq4_nl] = {4, 0, 128, 16, 0},
    [EK_TYPE_q4_k] = {4, 0, 128, 16, 32}, [EK_TYPE_q5_k] = {5, 16, 160, 16, 32}, [EK_TYPE_q6_k] = {6, 0, 192, 16, 16},
};

size_t ek_stripe_bytes(enum ek_type type, size_t columns) {
  const ek_packing *packing = &ek_packings[type];
  if (packing->bits == 0) return columns * EK_STRIPE * (size_t)ek_formats[type].block_bytes;
  return columns / 32 * (size_t)(packing->tile_bytes + packing->after_bytes) +
         columns / EK_SUPERBLOCK * (size_t)packing->header_bytes;
}

/* Each of these is called with constants, so that its loops are compiled once for each packing. */
#define INLINE static inline __attribute__((always_inline))

/* From lanes in the low bits of their bytes; segments are of 32 lanes, see stripe.h. */
INLINE void pack_tile(int bits, const uint8_t *lanes, uint8_t *tile) {
  if (bits == 8) {
    memcpy(tile, lanes, 256);
  } else if (bits == 4) {
    for (int l = 0; l < 128; l++) tile[l] = (uint8_t)((lanes[l] & 15) | lanes[128 + l] << 4);
  } else if (bits == 5) {
    for (int j = 0; j < 32; j++) {
      const int f = lanes[160 + j] & 31, g = lanes[192 + j] & 31, h = lanes[224 + j] & 31;
      const int low[5] = {f >> 2, (f & 3) << 1 | h >> 4, g >> 2, (g & 3) << 1 | (h >> 3 & 1), h & 7};
      for (int p = 0; p < 5; p++) tile[32 * p + j] = (uint8_t)(lanes[32 * p + j] << 3 | low[p]);
    }
  } else {
    for (int i = 0; i < 2; i++) {
      for (int p = 0; p < 3; p++) {
        for (int j = 0; j < 32; j++) {
          const uint8_t *s = lanes + 128 * i + j;
          tile[96 * i + 32 * p + j] = (uint8_t)(s[32 * p] << 2 | (s[96] >> (4 - 2 * p) & 3));
        }
      }
    }
  }
}

static int8_t signed_of(int value, int bits) { return (int8_t)((value ^ 1 << (bits - 1)) - (1 << (bits - 1))); }

void ek_tile_lanes(int bits, const uint8_t *tile, int8_t lanes[256]) {
  for (int l = 0; l < 256; l++) {
    const int s = l / 32, j = l % 32;
    if (bits == 8) {
      lanes[l] = (int8_t)tile[l];
    } else if (bits == 4) {
      lanes[l] = (int8_t)(tile[l % 128] >> (l < 128 ? 0 : 4) & 15);
    } else if (bits == 5) {
      const int a = tile[j], b = tile[32 + j], c = tile[64 + j], d = tile[96 + j], e = tile[128 + j];
      const int rest[3] = {(a & 7) << 2 | (b & 7) >> 1, (c & 7) << 2 | (d & 7) >> 1,
                           (b & 1) << 4 | (d & 1) << 3 | (e & 7)};
      lanes[l] = signed_of(s < 5 ? tile[l] >> 3 : rest[s - 5], 5);
    } else {
      const uint8_t *planes = tile + 96 * (s / 4) + j;
      const int last = (planes[0] & 3) << 4 | (planes[32] & 3) << 2 | (planes[64] & 3);
      lanes[l] = signed_of(s % 4 < 3 ? planes[32 * (s % 4)] >> 2 : last, 6);
    }
  }
}

/* A row of a quantised matrix is pointed at by its current block; a missing one by NULL. */
typedef struct rows_at {
  const uint8_t *block[EK_STRIPE];
} rows_at;

INLINE void put_halves(const rows_at *at, int offset, uint8_t *out) {
  for (int r = 0; r < EK_STRIPE; r++) {
    ek_store_u16(out + 2 * r, at->block[r] ? ek_load_u16(at->block[r] + offset) : 0);
  }
}

/* Scales after tile j of a block. */
INLINE void put_scales(enum ek_type type, const rows_at *at, int j, uint8_t *out) {
  switch (type) {
  case EK_TYPE_q4_1:
  case EK_TYPE_q5_1:
    put_halves(at, 2, out + 16);
    put_halves(at, 0, out);
    break;
  case EK_TYPE_q4_k:
  case EK_TYPE_q5_k:
    for (int r = 0; r < EK_STRIPE; r++) {
      out[r] = out[8 + r] = 0;
      if (at->block[r]) ek_k_scale(at->block[r] + 4, j, &out[r], &out[8 + r]);
    }
    break;
  case EK_TYPE_q6_k:
    for (int i = 0; i < 16; i++) out[i] = at->block[i % 8] ? at->block[i % 8][192 + 2 * j + i / 8] : 0;
    break;
  default:
    put_halves(at, 0, out);
    break;
  }
}

INLINE void put_header(enum ek_type type, const rows_at *at, uint8_t *out) {
  if (type == EK_TYPE_q6_k) {
    put_halves(at, 208, out);
  } else {
    put_halves(at, 0, out);
    put_halves(at, 2, out + 16);
  }
}

/* The 32 columns from `k` of all rows, as lanes. */
INLINE void gather_lanes(int interleave, const ek_parts *parts, int k, int less, uint8_t *lanes) {
  for (int c = 0; c < 32; c += interleave) {
    for (int r = 0; r < EK_STRIPE; r++, lanes += interleave) {
      memcpy(lanes, parts[r].codes + k + c, (size_t)interleave);
    }
  }
  lanes -= 256;
  for (int l = 0; l < 256; l++) lanes[l] = (uint8_t)(lanes[l] - less);
}

INLINE void repack_quantised(enum ek_type type, int interleave, rows_at at, size_t columns, uint8_t *out) {
  const ek_format *format = &ek_formats[type];
  const ek_packing packing = ek_packings[type];
  /* what formats unpack to, against what lanes hold */
  const int less = type == EK_TYPE_q4_0 ? -8 : packing.zero;
  const int block = packing.header_bytes ? EK_SUPERBLOCK : 32;
  ek_parts parts[EK_STRIPE];
  uint8_t lanes[256];
  memset(parts, less, sizeof parts); /* missing rows: lanes of 0 */
  for (size_t k = 0; k < columns; k += (size_t)block) {
    for (int r = 0; r < EK_STRIPE; r++) {
      if (at.block[r]) format->unpack(at.block[r], &parts[r]);
    }
    if (packing.header_bytes) put_header(type, &at, out);
    out += packing.header_bytes;
    for (int j = 0; j < block / 32; j++) {
      gather_lanes(interleave, parts, 32 * j, less, lanes);
      pack_tile(packing.bits, lanes, out);
      put_scales(type, &at, j, out + packing.tile_bytes);
      out += packing.tile_bytes + packing.after_bytes;
    }
    for (int r = 0; r < EK_STRIPE; r++) {
      if (at.block[r]) at.block[r] += format->block_bytes;
    }
  }
}

INLINE void repack_floats(size_t bytes, rows_at at, size_t columns, uint8_t *out) {
  static const uint8_t none[4];
  for (size_t k = 0; k < columns; k++) {
    for (size_t r = 0; r < EK_STRIPE; r++, out += bytes) {
      memcpy(out, at.block[r] ? at.block[r] + k * bytes : none, bytes);
    }
  }
}

static void repack_stripe(enum ek_type type, int interleave, rows_at at, size_t columns, uint8_t *out) {
  switch (type) {
  case EK_TYPE_f32:
    repack_floats(4, at, columns, out);
    break;
  case EK_TYPE_f16:
  case EK_TYPE_bf16:
    repack_floats(2, at, columns, out);
    break;
#define CASE(type)                                                                                                     \
  case EK_TYPE_##type:                                                                                                 \
    if (interleave == 4) {                                                                                             \
      repack_quantised(EK_TYPE_##type, 4, at, columns, out);                                                           \
    } else {                                                                                                           \
      repack_quantised(EK_TYPE_##type, 16, at, columns, out);                                                          \
    }                                                                                                                  \
    break;
    CASE(q8_0)
    CASE(q4_0)
    CASE(q4_1)
    CASE(q5_0)
    CASE(q5_1)
    CASE(iq4_nl)
    CASE(q4_k)
    CASE(q5_k)
    CASE(q6_k)
#undef CASE
  default:
    break;
  }
}

void ek_repack(enum ek_type type, int interleave, const uint8_t *blocks, size_t rows, size_t columns, size_t first,
               size_t count, uint8_t *out) {
  const ek_format *format = &ek_formats[type];
  const size_t row_bytes = columns / (size_t)format->block * (size_t)format->block_bytes;
  for (size_t s = first; s < first + count; s++, out += ek_stripe_bytes(type, columns)) {
    rows_at at;
    for (size_t r = 0; r < EK_STRIPE; r++) {
      at.block[r] = EK_STRIPE * s + r < rows ? blocks + (EK_STRIPE * s + r) * row_bytes : NULL;
    }
    repack_stripe(type, interleave, at, columns, out);
  }
}
