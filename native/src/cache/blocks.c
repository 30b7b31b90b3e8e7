#include "cache/blocks.h"

#include <string.h>

void *ek_cache_memory_new(ek_cache_blocks *blocks, size_t bytes) {
  void *memory = blocks->allocator.allocate(blocks->allocator.user, bytes);
  if (!memory) return NULL;
  blocks->allocated += bytes;
  if (blocks->allocated > blocks->peak) blocks->peak = blocks->allocated;
  return memory;
}

void ek_cache_memory_free(ek_cache_blocks *blocks, void *memory, size_t bytes) {
  if (!memory) return;
  blocks->allocator.release(blocks->allocator.user, memory, bytes);
  blocks->allocated -= bytes;
}

size_t ek_cache_block_size(const ek_cache_blocks *blocks) {
  return EK_CACHE_BLOCK_HEAD + blocks->key_bytes + blocks->value_bytes;
}

ek_cache_block *ek_cache_block_of(uint8_t *keys) { return (ek_cache_block *)(void *)(keys - EK_CACHE_BLOCK_HEAD); }

uint8_t *ek_cache_block_keys(ek_cache_block *block) { return (uint8_t *)block + EK_CACHE_BLOCK_HEAD; }

static void push(ek_cache_blocks *blocks, ek_cache_block *block) {
  block->next = blocks->free;
  blocks->free = block;
  blocks->free_count++;
}

static ek_cache_block *pop(ek_cache_blocks *blocks) {
  ek_cache_block *block = blocks->free;
  blocks->free = block->next;
  blocks->free_count--;
  return block;
}

int ek_cache_blocks_prepare(ek_cache_blocks *blocks, size_t count) {
  const size_t before = blocks->free_count;
  while (blocks->free_count < count) {
    ek_cache_block *block = ek_cache_memory_new(blocks, ek_cache_block_size(blocks));
    if (!block) { /* the newest are in front */
      ek_cache_blocks_trim(blocks, before);
      return 0;
    }
    push(blocks, block);
  }
  return 1;
}

/* Kernels read slots that hold nothing, and what they find is multiplied by 0: it must not be NaN. */
ek_cache_block *ek_cache_block_take(ek_cache_blocks *blocks) {
  ek_cache_block *block = pop(blocks);
  memset(block, 0, ek_cache_block_size(blocks));
  block->references = 1;
  return block;
}

void ek_cache_block_share(ek_cache_blocks *blocks, ek_cache_block *block) {
  if (++block->references == 2) blocks->shared += ek_cache_block_size(blocks);
}

void ek_cache_block_drop(ek_cache_blocks *blocks, ek_cache_block *block) {
  block->references--;
  if (block->references == 1) blocks->shared -= ek_cache_block_size(blocks);
  if (block->references == 0) push(blocks, block);
}

void ek_cache_blocks_trim(ek_cache_blocks *blocks, size_t keep) {
  while (blocks->free_count > keep) ek_cache_memory_free(blocks, pop(blocks), ek_cache_block_size(blocks));
}
