/* Memory of the attention cache: blocks with counted references, those that nobody holds, and all bytes. */
#ifndef EK_CACHE_MEMORY_H
#define EK_CACHE_MEMORY_H

#include "cache/cache.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Where the cache gets all of its memory: aligned to 64 bytes, NULL where there is none. */
typedef struct ek_cache_allocator {
  void *(*allocate)(void *user, size_t bytes);
  void (*release)(void *user, void *memory, size_t bytes);
  void *user;
} ek_cache_allocator;

/* ek_cache_create with memory from elsewhere: tests let it run out. */
ek_status ek_cache_create_in(const ek_cache_allocator *allocator, const ek_model *model, const ek_cache_params *params,
                             ek_cache **cache);

/* The head of a block; its keys follow after EK_CACHE_BLOCK_HEAD bytes, its values after them. */
typedef struct ek_cache_block {
  struct ek_cache_block *next; /* free one */
  uint32_t references;         /* tables that it is in */
  uint32_t filled;             /* slots from here on are zero */
} ek_cache_block;

enum { EK_CACHE_BLOCK_HEAD = 64 };

typedef struct ek_cache_blocks {
  ek_cache_allocator allocator;
  size_t key_bytes, value_bytes; /* of a block's keys and values, each rounded up to 64 */
  ek_cache_block *free;
  size_t free_count;
  uint64_t allocated, peak, shared;
} ek_cache_blocks;

/* NULL where there is none. */
void *ek_cache_memory_new(ek_cache_blocks *blocks, size_t bytes);
void ek_cache_memory_free(ek_cache_blocks *blocks, void *memory, size_t bytes);

size_t ek_cache_block_size(const ek_cache_blocks *blocks); /* with its head */
ek_cache_block *ek_cache_block_of(uint8_t *keys);
uint8_t *ek_cache_block_keys(ek_cache_block *block);

/* Makes the next `count` calls of ek_cache_block_take succeed; 0: it cannot, and nothing has changed. */
int ek_cache_blocks_prepare(ek_cache_blocks *blocks, size_t count);
/* A block of zeros with one reference. */
ek_cache_block *ek_cache_block_take(ek_cache_blocks *blocks);
void ek_cache_block_share(ek_cache_blocks *blocks, ek_cache_block *block); /* one reference more */
void ek_cache_block_drop(ek_cache_blocks *blocks, ek_cache_block *block);  /* one less; free when none is left */

/* Gives free blocks back to the allocator until at most `keep` are left. */
void ek_cache_blocks_trim(ek_cache_blocks *blocks, size_t keep);

#ifdef __cplusplus
}
#endif

#endif
