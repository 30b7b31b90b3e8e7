/* What cache.c, cache_sequence.c and cache_table.c share. */
#ifndef EK_CACHE_PARTS_H
#define EK_CACHE_PARTS_H

#include "cache/blocks.h"
#include "kernels/cache_block.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { BLOCK = EK_CACHE_BLOCK };

typedef struct ek_cache_layer {
  size_t kv_heads, capacity; /* blocks of a head in a table */
  uint64_t window;           /* 0: all positions are kept */
} ek_cache_layer;

/* One layer of a sequence: for each KV head the blocks that hold its positions, in their order, and the position of
 * every slot. Position p lies in block p / 16 - first, slot p % 16. So what a table says follows from the positions
 * alone, whatever forks and truncations they went through. */
typedef struct ek_cache_table {
  uint8_t **keys, **values; /* (kv_heads, capacity), of which `blocks` are set */
  int32_t *positions;       /* (kv_heads, capacity, 16) */
  size_t first, blocks;     /* first: blocks let go of before; any if blocks is 0 */
} ek_cache_table;

typedef struct ek_cache_sequence {
  uint64_t length;
  size_t reserved;
  size_t promised;        /* blocks that the reserved tokens need at most, beyond those that layers let go of */
  ek_cache_table *tables; /* (layers); the memory of what they point to follows */
} ek_cache_sequence;

struct ek_cache {
  ek_cache_params params;
  int interleave;
  size_t dims, layer_count, heads; /* heads: KV heads of all layers */
  ek_cache_layer *layers;
  ek_cache_sequence *sequences;
  size_t promised; /* of all sequences */
  ek_cache_blocks blocks;
};

/* --- cache_table.c; length: tokens before the reserved ones, end: with them --- */

size_t ek_cache_blocks_for(uint64_t positions);

/* Index of a table's first block once it has tokens from `length` on. */
size_t ek_cache_table_first(const ek_cache_table *t, uint64_t length);
/* Blocks that extend will take. */
size_t ek_cache_table_wanted(const ek_cache_layer *l, const ek_cache_table *t, uint64_t length, uint64_t end);
/* Adds blocks, and copies the last one if it is shared and will be written to. */
void ek_cache_table_extend(ek_cache *cache, const ek_cache_layer *l, ek_cache_table *t, uint64_t length, uint64_t end);
/* Forgets positions from `length` on. */
void ek_cache_table_cut(ek_cache *cache, const ek_cache_layer *l, ek_cache_table *t, uint64_t length);
/* How many of its first blocks a table of `blocks` lets go of at a length. */
size_t ek_cache_table_gone(const ek_cache_layer *l, size_t first, size_t blocks, uint64_t length);
/* Of these, how many are free then; some it may not have yet. */
size_t ek_cache_table_back(const ek_cache_layer *l, const ek_cache_table *t, size_t gone);
void ek_cache_table_let_go(ek_cache *cache, const ek_cache_layer *l, ek_cache_table *t, uint64_t length);
/* `to`, which is empty, becomes a copy with the same blocks. */
void ek_cache_table_share(ek_cache *cache, const ek_cache_layer *l, const ek_cache_table *from, ek_cache_table *to);

/* Writes one slot of a block's keys or values. */
void ek_cache_store_row(ek_cache *cache, ek_cache_side side, const float *row, size_t slot, uint8_t *block);

/* --- cache_sequence.c --- */

/* Forgets positions from `length` on in all layers, and what is reserved. */
void ek_cache_cut(ek_cache *cache, ek_cache_sequence *s, uint64_t length);

#ifdef __cplusplus
}
#endif

#endif
