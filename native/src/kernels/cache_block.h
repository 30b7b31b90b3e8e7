/* A block of the attention cache: 16 positions of one KV head, keys or values.
 *
 * A block is dims / 32 times 32 dimensions x 16 positions, which are
 *     f16:  half [32 dimensions][16 positions] for keys, half [16 positions][32 dimensions] for values
 *     q8_0: 512 lanes in as many bytes; half d[16], one of each position
 *     q4_0: 512 lanes in 256 bytes, byte l has lane l in its low nibble and lane l + 256 in its high one; half d[16]
 * Lanes are signed; weight = d * lane. Keys are ordered so that a kernel scores all 16 positions at once, values so
 * that it sums positions, by the interleave c of the level (4, or 16 for neon):
 *     key(p, k) = k / c * 16 c + p * c + k % c
 *     value(p, k) = p / 4 * 128 + k * 4 + p % 4 for c = 4, p * 32 + k for c = 16
 *
 * Blocks start as zeros: a kernel reads positions that hold nothing yet, and what is masked out is multiplied by 0. */
#ifndef EK_CACHE_BLOCK_H
#define EK_CACHE_BLOCK_H

#include "kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum ek_cache_side { EK_CACHE_KEYS, EK_CACHE_VALUES } ek_cache_side;

/* Whether the cache can be of that type: f16, q8_0, q4_0. */
int ek_cache_type(enum ek_type type);

/* Bytes of one block; dims is a multiple of 32. */
size_t ek_cache_block_bytes(enum ek_type type, size_t dims);

/* The lane of position p (0 .. 15) and dimension k (0 .. 31). */
static inline size_t ek_cache_lane(ek_cache_side side, int interleave, size_t p, size_t k) {
  const size_t c = (size_t)interleave;
  if (side == EK_CACHE_KEYS) return k / c * (EK_CACHE_BLOCK * c) + p * c + k % c;
  return c == 4 ? p / 4 * 128 + k * 4 + p % 4 : p * 32 + k;
}

/* Stores one position (0 .. 15) of a block, rounding as GGUF's types do. Where 32 dimensions of a quantised type have a
 * value that is not finite, or too large for the scale, they are stored so that they read as NaN. */
void ek_cache_store(enum ek_type type, ek_cache_side side, int interleave, size_t dims, const float *row,
                    size_t position, uint8_t *block);

/* What a position reads as. */
void ek_cache_load(enum ek_type type, ek_cache_side side, int interleave, size_t dims, const uint8_t *block,
                   size_t position, float *row);

#ifdef __cplusplus
}
#endif

#endif
