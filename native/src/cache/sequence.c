#include "cache/parts.h"

#include <inttypes.h>

/* --- lengths --- */

static ek_status no_sequence(const ek_cache *cache, uint32_t sequence) {
  return ek_fail(EK_BAD_ARGUMENT, "there is no sequence %" PRIu32 ": the context was created for %" PRIu32, sequence,
                 cache->params.sequences);
}

uint64_t ek_cache_length(const ek_cache *cache, uint32_t sequence) {
  return sequence < cache->params.sequences ? cache->sequences[sequence].length : 0;
}

ek_status ek_cache_fits(const ek_cache *cache, uint32_t sequence, size_t count) {
  if (sequence >= cache->params.sequences) return no_sequence(cache, sequence);
  const uint64_t length = cache->sequences[sequence].length, most = cache->params.positions;
  if (count <= most - length) return EK_OK;
  return ek_fail(EK_CACHE_FULL,
                 "sequence %" PRIu32 " has %" PRIu64 " tokens of at most %" PRIu64 ": %" PRIu64
                 " more fit, not %zu; truncate it or create the context with more positions",
                 sequence, length, most, most - length, count);
}

void ek_cache_cut(ek_cache *cache, ek_cache_sequence *s, uint64_t length) {
  for (size_t i = 0; i < cache->layer_count; i++) ek_cache_table_cut(cache, &cache->layers[i], &s->tables[i], length);
  s->length = length;
  s->reserved = 0;
}

/* --- tokens --- */

/* One token takes at most a block from each head, which is kept for it in any case (settle): its layers let go of none
 * before it is committed, so that it can be abandoned until then. */
static int lets_go_late(size_t reserved) { return reserved == 1; }

/* How many blocks more than now are taken at some time while the layers are opened and closed one after another. */
static size_t blocks_promised(const ek_cache *cache, const ek_cache_sequence *s, uint64_t end) {
  int64_t taken = 0, most = 0;
  for (size_t i = 0; i < cache->layer_count; i++) {
    const ek_cache_layer *l = &cache->layers[i];
    const ek_cache_table *t = &s->tables[i];
    const size_t first = ek_cache_table_first(t, s->length), blocks = ek_cache_blocks_for(end) - first;
    taken += (int64_t)ek_cache_table_wanted(l, t, s->length, end);
    if (taken > most) most = taken;
    if (!lets_go_late((size_t)(end - s->length)))
      taken -= (int64_t)ek_cache_table_back(l, t, ek_cache_table_gone(l, first, blocks, end));
  }
  return (size_t)most;
}

static ek_status not_settled(uint32_t sequence) {
  return ek_fail(EK_BAD_ARGUMENT, "sequence %" PRIu32 " has reserved tokens: commit or abandon them first", sequence);
}

ek_status ek_cache_reserve(ek_cache *cache, uint32_t sequence_index, size_t count) {
  const ek_status status = ek_cache_fits(cache, sequence_index, count);
  if (status != EK_OK) return status;
  ek_cache_sequence *s = &cache->sequences[sequence_index];
  if (s->reserved > 0) return not_settled(sequence_index);
  if (count > cache->params.step)
    return ek_fail(EK_BAD_ARGUMENT, "%zu tokens at once: at most %" PRIu32 " can be reserved", count,
                   cache->params.step);
  if (count == 0) return EK_OK;
  const size_t promised = blocks_promised(cache, s, s->length + count);
  if (!ek_cache_blocks_prepare(&cache->blocks, cache->promised + promised))
    return ek_fail(EK_NO_MEMORY,
                   "attention cache: out of memory at %" PRIu64 " tokens of sequence %" PRIu32
                   "; truncate sequences, or use a smaller cache type (q8_0, q4_0)",
                   s->length, sequence_index);
  cache->promised += s->promised = promised;
  s->reserved = count;
  return EK_OK;
}

void ek_cache_open_layer(ek_cache *cache, uint32_t sequence_index, uint32_t layer_index) {
  ek_cache_sequence *s = &cache->sequences[sequence_index];
  ek_cache_table_extend(cache, &cache->layers[layer_index], &s->tables[layer_index], s->length,
                        s->length + s->reserved);
}

void ek_cache_close_layer(ek_cache *cache, uint32_t sequence_index, uint32_t layer_index) {
  ek_cache_sequence *s = &cache->sequences[sequence_index];
  if (!lets_go_late(s->reserved))
    ek_cache_table_let_go(cache, &cache->layers[layer_index], &s->tables[layer_index], s->length + s->reserved);
}

void ek_cache_store_head(ek_cache *cache, uint32_t sequence, uint32_t layer_index, uint32_t kv_head, size_t index,
                         const float *key, const float *value) {
  const uint64_t position = cache->sequences[sequence].length + index;
  const ek_cache_table *t = &cache->sequences[sequence].tables[layer_index];
  const size_t at = kv_head * cache->layers[layer_index].capacity + (size_t)(position / BLOCK) - t->first;
  const uint32_t slot = position % BLOCK;
  ek_cache_block *block = ek_cache_block_of(t->keys[at]);
  ek_cache_store_row(cache, EK_CACHE_KEYS, key, slot, t->keys[at]);
  ek_cache_store_row(cache, EK_CACHE_VALUES, value, slot, t->values[at]);
  if (block->filled <= slot) block->filled = slot + 1;
  t->positions[at * BLOCK + slot] = (int32_t)position;
}

void ek_cache_view(ek_cache *cache, uint32_t sequence, uint32_t layer_index, ek_attention_cache *view) {
  const ek_cache_table *t = &cache->sequences[sequence].tables[layer_index];
  const size_t capacity = cache->layers[layer_index].capacity;
  *view = (ek_attention_cache){.blocks = t->blocks,
                               .keys = (const uint8_t *const *)t->keys,
                               .values = (const uint8_t *const *)t->values,
                               .positions = t->positions,
                               .positions_stride = capacity * BLOCK,
                               .blocks_stride = capacity};
}

/* Blocks for one token in every layer are kept, so that decoding need not ask for memory; none for an empty sequence.
 */
static void settle(ek_cache *cache, ek_cache_sequence *s, uint64_t length) {
  cache->promised -= s->promised;
  s->promised = s->reserved = 0;
  s->length = length;
  ek_cache_blocks_trim(&cache->blocks, cache->promised + (length > 0 ? cache->heads : 0));
}

void ek_cache_commit(ek_cache *cache, uint32_t sequence_index) {
  ek_cache_sequence *s = &cache->sequences[sequence_index];
  const uint64_t length = s->length + s->reserved;
  for (size_t i = 0; lets_go_late(s->reserved) && i < cache->layer_count; i++)
    ek_cache_table_let_go(cache, &cache->layers[i], &s->tables[i], length);
  settle(cache, s, length);
}

void ek_cache_abandon(ek_cache *cache, uint32_t sequence_index) {
  ek_cache_sequence *s = &cache->sequences[sequence_index];
  ek_cache_cut(cache, s, s->length);
  settle(cache, s, s->length);
}

/* --- sequences --- */

/* The shortest length above 0 that still has all that its next token sees. */
static uint64_t shortest(const ek_cache *cache, const ek_cache_sequence *s) {
  uint64_t length = 1;
  for (size_t i = 0; i < cache->layer_count; i++) {
    const ek_cache_table *t = &s->tables[i];
    const uint64_t gone = t->blocks > 0 ? (uint64_t)t->first * BLOCK : 0, window = cache->layers[i].window;
    if (gone > 0 && window > 1 && gone + window - 1 > length) length = gone + window - 1;
  }
  return length;
}

ek_status ek_cache_truncate(ek_cache *cache, uint32_t sequence_index, uint64_t length) {
  if (sequence_index >= cache->params.sequences) return no_sequence(cache, sequence_index);
  ek_cache_sequence *s = &cache->sequences[sequence_index];
  if (s->reserved > 0) return not_settled(sequence_index);
  if (length > s->length)
    return ek_fail(EK_BAD_ARGUMENT, "sequence %" PRIu32 " has %" PRIu64 " tokens: it cannot be truncated to %" PRIu64,
                   sequence_index, s->length, length);
  const uint64_t least = shortest(cache, s);
  if (length > 0 && length < least)
    return ek_fail(EK_BAD_ARGUMENT,
                   "sequence %" PRIu32 " cannot be truncated to %" PRIu64
                   " tokens: its sliding-window layers have let go of what they need; truncate it to %" PRIu64
                   " or more, or to 0",
                   sequence_index, length, least);
  ek_cache_cut(cache, s, length);
  ek_cache_blocks_trim(&cache->blocks, cache->promised + (length > 0 ? cache->heads : 0));
  return EK_OK;
}

ek_status ek_cache_fork(ek_cache *cache, uint32_t from, uint32_t to) {
  if (from >= cache->params.sequences) return no_sequence(cache, from);
  if (to >= cache->params.sequences) return no_sequence(cache, to);
  const ek_cache_sequence *source = &cache->sequences[from];
  ek_cache_sequence *s = &cache->sequences[to];
  if (source->reserved > 0) return not_settled(from);
  if (s->reserved > 0) return not_settled(to);
  if (from == to) return EK_OK;
  ek_cache_cut(cache, s, 0);
  for (size_t i = 0; i < cache->layer_count; i++)
    ek_cache_table_share(cache, &cache->layers[i], &source->tables[i], &s->tables[i]);
  s->length = source->length;
  ek_cache_blocks_trim(&cache->blocks, cache->promised + (s->length > 0 ? cache->heads : 0));
  return EK_OK;
}
