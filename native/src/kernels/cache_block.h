/* A block of the attention cache: 16 positions of one KV head, keys or values.
 *
 * A block is dims / 32 groups of 32 dimensions x 16 positions. Keys are ordered so that a kernel scores all 16
 * positions at once, values so that it adds whole rows: f16 keys:   half [32 dims][16 positions] f16 values: half [16
 * positions][32 dims] q8_0: int8 codes of 512 lanes; half d[16], one of each position q4_0: 512 nibbles in 256 bytes,
 * code = nibble - 8; half d[16] Lanes of keys: (k / c) * 16 c + position * c + k % c, with the interleave c of the
 * level (4, or 16 for neon), k the dimension in the group; byte l of 256 has lane l in its low nibble, lane l + 256 in
 * its high one. Lanes of values: position * 32 + k; byte position * 16 + k of 256 has dimension k in its low nibble, k
 * + 16 in its high one. */
#ifndef EK_CACHE_BLOCK_H
#define EK_CACHE_BLOCK_H

#include "kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Whether the cache can be of that type: f16, q8_0, q4_0. */
int ek_cache_type(enum ek_type type);

/* Bytes of one block; dims is a multiple of 32. */
size_t ek_cache_block_bytes(enum ek_type type, size_t dims);

/* Stores one position (0 .. 15) of a block, rounding as GGUF's types do. A row with a value that is not finite is
 * stored so that it reads as NaN. */
void ek_cache_store_key(enum ek_type type, int interleave, size_t dims, const float *row, size_t position,
                        uint8_t *block);
void ek_cache_store_value(enum ek_type type, size_t dims, const float *row, size_t position, uint8_t *block);

#ifdef __cplusplus
}
#endif

#endif
