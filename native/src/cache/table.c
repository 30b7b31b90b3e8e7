#include "cache/parts.h"

#include <string.h>

size_t ek_cache_blocks_for(uint64_t positions) { return (size_t)((positions + BLOCK - 1) / BLOCK); }

/* Whether tokens from `length` on are written to a block that the table has. */
static int ends_within(const ek_cache_table *t, uint64_t length) { return t->blocks > 0 && length % BLOCK != 0; }

size_t ek_cache_table_first(const ek_cache_table *t, uint64_t length) {
  return t->blocks > 0 ? t->first : (size_t)(length / BLOCK);
}

size_t ek_cache_table_wanted(const ek_cache_layer *l, const ek_cache_table *t, uint64_t length, uint64_t end) {
  size_t wanted = l->kv_heads * (ek_cache_blocks_for(end) - ek_cache_table_first(t, length) - t->blocks);
  for (size_t h = 0; ends_within(t, length) && h < l->kv_heads; h++)
    wanted += ek_cache_block_of(t->keys[h * l->capacity + t->blocks - 1])->references > 1;
  return wanted;
}

static void put_block(ek_cache *cache, ek_cache_table *t, size_t at, ek_cache_block *block) {
  t->keys[at] = ek_cache_block_keys(block);
  t->values[at] = t->keys[at] + cache->blocks.key_bytes;
}

void ek_cache_store_row(ek_cache *cache, ek_cache_side side, const float *row, size_t slot, uint8_t *block) {
  const enum ek_type type = side == EK_CACHE_KEYS ? cache->params.key_type : cache->params.value_type;
  if (type == EK_TYPE_f32) {
    memcpy(block + slot * cache->dims * sizeof(float), row, cache->dims * sizeof(float));
  } else {
    ek_cache_store(type, side, cache->interleave, cache->dims, row, slot, block);
  }
}

/* Makes the block at `at` the table's own, with zeros from `slot` on: it may have been longer, or be another
 * sequence's, who is. */
static void own_block(ek_cache *cache, ek_cache_table *t, size_t at, uint32_t slot) {
  static const float zeros[EK_MOST_HEAD_DIMS];
  ek_cache_block *block = ek_cache_block_of(t->keys[at]);
  if (block->references > 1) {
    ek_cache_block *copy = ek_cache_block_take(&cache->blocks);
    copy->filled = block->filled;
    memcpy(ek_cache_block_keys(copy), t->keys[at], cache->blocks.key_bytes + cache->blocks.value_bytes);
    ek_cache_block_drop(&cache->blocks, block);
    put_block(cache, t, at, copy);
    block = copy;
  }
  for (; block->filled > slot; block->filled--) {
    ek_cache_store_row(cache, EK_CACHE_KEYS, zeros, block->filled - 1, t->keys[at]);
    ek_cache_store_row(cache, EK_CACHE_VALUES, zeros, block->filled - 1, t->values[at]);
  }
}

void ek_cache_table_extend(ek_cache *cache, const ek_cache_layer *l, ek_cache_table *t, uint64_t length, uint64_t end) {
  t->first = ek_cache_table_first(t, length);
  const size_t blocks = ek_cache_blocks_for(end) - t->first;
  for (size_t h = 0; h < l->kv_heads; h++) {
    const size_t base = h * l->capacity;
    if (ends_within(t, length)) own_block(cache, t, base + t->blocks - 1, length % BLOCK);
    for (size_t b = t->blocks; b < blocks; b++) {
      put_block(cache, t, base + b, ek_cache_block_take(&cache->blocks));
      memset(t->positions + (base + b) * BLOCK, -1, BLOCK * sizeof(int32_t));
    }
  }
  t->blocks = blocks;
}

void ek_cache_table_cut(ek_cache *cache, const ek_cache_layer *l, ek_cache_table *t, uint64_t length) {
  const size_t end = ek_cache_blocks_for(length), blocks = end <= t->first ? 0 : end - t->first;
  for (size_t h = 0; h < l->kv_heads; h++) {
    const size_t base = h * l->capacity;
    for (size_t b = blocks; b < t->blocks; b++)
      ek_cache_block_drop(&cache->blocks, ek_cache_block_of(t->keys[base + b]));
    for (size_t slot = length % BLOCK; slot > 0 && slot < BLOCK && blocks > 0 && blocks <= t->blocks; slot++)
      t->positions[(base + blocks - 1) * BLOCK + slot] = -1;
  }
  if (blocks < t->blocks) t->blocks = blocks;
}

/* Those of which the next token sees nothing, nor the one before it, so that one token can always be taken back. */
size_t ek_cache_table_gone(const ek_cache_layer *l, size_t first, size_t blocks, uint64_t length) {
  const size_t kept_from = l->window > 0 && length > l->window ? (size_t)((length - l->window) / BLOCK) : 0;
  return kept_from <= first || blocks == 0 ? 0 : kept_from - first;
}

void ek_cache_table_let_go(ek_cache *cache, const ek_cache_layer *l, ek_cache_table *t, uint64_t length) {
  const size_t gone = ek_cache_table_gone(l, t->first, t->blocks, length), left = t->blocks - gone;
  if (gone == 0) return;
  for (size_t h = 0; h < l->kv_heads; h++) {
    const size_t to = h * l->capacity, from = to + gone;
    for (size_t b = to; b < from; b++) ek_cache_block_drop(&cache->blocks, ek_cache_block_of(t->keys[b]));
    memmove(t->keys + to, t->keys + from, left * sizeof *t->keys);
    memmove(t->values + to, t->values + from, left * sizeof *t->values);
    memmove(t->positions + to * BLOCK, t->positions + from * BLOCK, left * BLOCK * sizeof *t->positions);
  }
  t->first += gone;
  t->blocks = left;
}

size_t ek_cache_table_back(const ek_cache_layer *l, const ek_cache_table *t, size_t gone) {
  size_t back = l->kv_heads * gone;
  for (size_t h = 0; h < l->kv_heads; h++) {
    for (size_t b = 0; b < gone && b < t->blocks; b++)
      back -= ek_cache_block_of(t->keys[h * l->capacity + b])->references > 1;
  }
  return back;
}

void ek_cache_table_share(ek_cache *cache, const ek_cache_layer *l, const ek_cache_table *from, ek_cache_table *to) {
  to->first = from->first;
  to->blocks = from->blocks;
  for (size_t h = 0; h < l->kv_heads; h++) {
    const size_t at = h * l->capacity;
    memcpy(to->keys + at, from->keys + at, from->blocks * sizeof *to->keys);
    memcpy(to->values + at, from->values + at, from->blocks * sizeof *to->values);
    memcpy(to->positions + at * BLOCK, from->positions + at * BLOCK, from->blocks * BLOCK * sizeof *to->positions);
    for (size_t b = 0; b < from->blocks; b++)
      ek_cache_block_share(&cache->blocks, ek_cache_block_of(from->keys[at + b]));
  }
}
