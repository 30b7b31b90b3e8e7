/* Packed weights: 8 rows side by side in a stripe, so that a kernel computes 8 outputs from one pass over it.
 *
 * Codes. The codes of 8 rows x 32 columns, a tile, are lanes of a byte each, in the order
 *     lane(row, k) = k / c * 8 c + row * c + k % c
 * where c, the interleave, is 4 (a dot product of four columns for all rows at once) or 16 (rows whole, for ARMv8.0).
 * A lane holds a signed number of the type's `bits`; only those of 4 bits are unsigned. With `zero` added it is the
 * code that the scale multiplies (iq4_nl: the index of a level). Tiles are packed as follows, by 32-lane segments s of
 * which there are 8:
 *     8 bits, 256 bytes: byte l is lane l.
 *     4 bits, 128 bytes: byte l has lane l in its low nibble and lane l + 128 in its high one.
 *     5 bits, 160 bytes: planes A .. E of 32 bytes. Segments 0 .. 4 are the top five bits of A .. E. The low three bits
 *       hold the others: segment 5 is A2 A1 A0 B2 B1, segment 6 C2 C1 C0 D2 D1, segment 7 B0 D0 E2 E1 E0.
 *     6 bits, 192 bytes: planes A, B, C for segments 0 .. 3, then three more for 4 .. 7. Segments 0 .. 2 are the top
 * six bits of A, B, C; segment 3 is A1 A0 B1 B0 C1 C0. The last two unpack with a shift for the planes and
 * shift-and-insert instructions for the rest.
 *
 * Scales. A stripe is columns / 32 times
 *     q4_0, q5_0, q8_0, iq4_nl: tile; half d[8]
 *     q4_1, q5_1:               tile; half d[8]; half m[8]                    weight = d q + m
 * or columns / 256 times
 *     q4_k, q5_k: half d[8]; half dmin[8]; 8 times (tile; uint8 scale[8]; uint8 minimum[8])
 *                                                                             weight = d scale q - dmin minimum
 *     q6_k:       half d[8]; 8 times (tile; int8 scale[2][8], of columns 0 .. 15 and 16 .. 31)
 * and float types are columns times 8 values, one of each row. Rows missing from the last stripe are 0 throughout.
 * All types keep their size but q4_k and q5_k, whose 6-bit scales become bytes: 2.8 % and 2.3 % more. */
#ifndef EK_STRIPE_H
#define EK_STRIPE_H

#include "kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ek_packing {
  int bits;         /* of a lane; 0 for the float types */
  int zero;         /* true code = lane + zero */
  int tile_bytes;   /* codes of 8 rows x 32 columns */
  int after_bytes;  /* scales after each tile */
  int header_bytes; /* before each 256 columns, where not 0 */
} ek_packing;

extern const ek_packing ek_packings[EK_TYPES];

static inline size_t ek_lane(int interleave, size_t row, size_t k) {
  const size_t c = (size_t)interleave;
  return k / c * (EK_STRIPE * c) + row * c + k % c;
}

/* Bytes of one stripe. columns is a multiple of the type's block. */
size_t ek_stripe_bytes(enum ek_type type, size_t columns);

/* Stripes first .. first + count - 1 of a matrix from its GGUF blocks; `out` points at stripe `first`. Stripes depend
 * on no other, so the work may be cut anywhere. */
void ek_repack(enum ek_type type, int interleave, const uint8_t *blocks, size_t rows, size_t columns, size_t first,
               size_t count, uint8_t *out);

/* The 256 lanes of a tile: the slow, obvious inverse of the packing. */
void ek_tile_lanes(int bits, const uint8_t *tile, int8_t lanes[256]);

/* out (rows, columns): the weights of `rows` rows of one stripe, from its row first_row on; bit for bit what
 * ek_dequantise gives of their blocks. */
void ek_stripe_decode(enum ek_type type, int interleave, size_t columns, const uint8_t *stripe, size_t first_row,
                      size_t rows, float *out);

#ifdef __cplusplus
}
#endif

#endif
