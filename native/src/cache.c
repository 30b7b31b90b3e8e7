/* Each sequence has a table for each layer: for each KV head the blocks that hold its positions, in their order, and
 * the position of every slot. Position p of a layer that has let go of nothing lies in block p / 16, slot p % 16; a
 * table's blocks start at position 16 * first. So what a table says follows from the positions alone, whatever forks
 * and truncations they went through. */
#include "cache_memory.h"

#include "kernels/cache_block.h"
#include "memory.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { BLOCK = EK_CACHE_BLOCK, LINE = 64, DEFAULT_STEP = 128 };

typedef struct layer {
  size_t kv_heads, capacity; /* blocks of a head in a table */
  uint64_t window;           /* 0: all positions are kept */
} layer;

typedef struct table {
  uint8_t **keys, **values; /* (kv_heads, capacity), of which `blocks` are set */
  int32_t *positions;       /* (kv_heads, capacity, 16) */
  size_t first, blocks;
} table;

typedef struct sequence {
  uint64_t length;
  size_t reserved;
  size_t promised; /* blocks that the reserved tokens need at most, beyond those that layers let go of */
  table *tables;   /* (layers); the memory of what they point to follows */
} sequence;

struct ek_cache {
  ek_cache_params params;
  int interleave;
  size_t dims, layer_count, heads; /* heads: KV heads of all layers */
  layer *layers;
  sequence *sequences;
  size_t promised; /* of all sequences */
  ek_cache_blocks blocks;
};

static size_t blocks_for(uint64_t positions) { return (size_t)((positions + BLOCK - 1) / BLOCK); }

static size_t lines(size_t bytes) { return (bytes + LINE - 1) / LINE * LINE; }

/* --- creation --- */

static void *allocate(void *user, size_t bytes) {
  (void)user;
  return ek_memory_new(bytes);
}

static void release(void *user, void *memory, size_t bytes) {
  (void)user, (void)bytes;
  free(memory);
}

/* A window may begin and end within a block, and so may a step. */
static size_t capacity_of(uint64_t window, const ek_cache_params *params) {
  const size_t all = blocks_for(params->positions), ring = blocks_for(window) + blocks_for(params->step) + 1;
  return window > 0 && ring < all ? ring : all;
}

static size_t pointers_bytes(const layer *l) { return lines(l->kv_heads * l->capacity * sizeof(uint8_t *)); }

/* Of one sequence's tables. 0: more than can be. */
static size_t tables_bytes(const ek_cache *cache) {
  size_t bytes = lines(cache->layer_count * sizeof(table));
  for (size_t i = 0; i < cache->layer_count; i++) {
    const layer *l = &cache->layers[i]; /* neither of the two has more than 32 bits */
    const uint64_t entries = (uint64_t)l->kv_heads * l->capacity;
    if (entries > SIZE_MAX / 256 || bytes > SIZE_MAX / 4) return 0;
    bytes += (size_t)entries * BLOCK * sizeof(int32_t) + 2 * pointers_bytes(l);
  }
  return bytes;
}

static int make_tables(ek_cache *cache, sequence *s, size_t bytes) {
  uint8_t *memory = ek_cache_memory_new(&cache->blocks, bytes);
  if (!memory) return 0;
  s->tables = (table *)(void *)memory;
  memory += lines(cache->layer_count * sizeof(table));
  for (size_t i = 0; i < cache->layer_count; i++) {
    const layer *l = &cache->layers[i];
    table *t = &s->tables[i];
    *t = (table){.positions = (int32_t *)(void *)memory};
    memory += l->kv_heads * l->capacity * BLOCK * sizeof(int32_t);
    t->keys = (uint8_t **)(void *)memory;
    t->values = (uint8_t **)(void *)(memory + pointers_bytes(l));
    memory += 2 * pointers_bytes(l);
  }
  return 1;
}

static size_t block_bytes(enum ek_type type, size_t dims) {
  return lines(type == EK_TYPE_f32 ? BLOCK * dims * sizeof(float) : ek_cache_block_bytes(type, dims));
}

static int is_valid(const ek_model *model, const ek_cache_params *params) {
  const int floats = params->key_type == EK_TYPE_f32 && params->value_type == EK_TYPE_f32;
  return (floats || (ek_cache_type(params->key_type) && ek_cache_type(params->value_type))) && params->positions > 0 &&
         params->positions <= INT32_MAX && params->sequences > 0 && model->shape.layers > 0 &&
         model->shape.padded_dim > 0 && model->shape.padded_dim % 32 == 0 &&
         model->shape.padded_dim <= EK_MOST_HEAD_DIMS;
}

static int make_layers(ek_cache *cache, const ek_model *model) {
  cache->layers = ek_cache_memory_new(&cache->blocks, cache->layer_count * sizeof(layer));
  if (!cache->layers) return 0;
  for (size_t i = 0; i < cache->layer_count; i++) {
    const ek_layer *l = &model->layers[i];
    const uint64_t window = l->sliding ? model->shape.window : 0;
    cache->layers[i] = (layer){l->kv_heads, capacity_of(window, &cache->params), window};
    cache->heads += l->kv_heads;
  }
  return 1;
}

static int make_sequences(ek_cache *cache) {
  const size_t count = cache->params.sequences, bytes = tables_bytes(cache);
  if (bytes == 0 || count > SIZE_MAX / sizeof(sequence)) return 0;
  cache->sequences = ek_cache_memory_new(&cache->blocks, count * sizeof(sequence));
  if (!cache->sequences) return 0;
  memset(cache->sequences, 0, count * sizeof(sequence));
  for (size_t i = 0; i < count; i++) {
    if (!make_tables(cache, &cache->sequences[i], bytes)) return 0;
  }
  return 1;
}

ek_status ek_cache_create_in(const ek_cache_allocator *allocator, const ek_model *model, const ek_cache_params *params,
                             ek_cache **cache) {
  if (!is_valid(model, params))
    return ek_fail(EK_BAD_ARGUMENT,
                   "attention cache: keys and values have to be f16, q8_0 or q4_0 (or both f32), heads to be of at "
                   "most %d dimensions, positions and sequences to be at least 1",
                   EK_MOST_HEAD_DIMS);
  ek_cache_blocks blocks = {.allocator = *allocator,
                            .key_bytes = block_bytes(params->key_type, model->shape.padded_dim),
                            .value_bytes = block_bytes(params->value_type, model->shape.padded_dim)};
  ek_cache *made = ek_cache_memory_new(&blocks, sizeof *made);
  if (made) {
    *made = (ek_cache){.params = *params,
                       .interleave = model->kernels->interleave,
                       .dims = model->shape.padded_dim,
                       .layer_count = model->shape.layers,
                       .blocks = blocks};
    if (made->params.step == 0) made->params.step = DEFAULT_STEP;
  }
  if (!made || !make_layers(made, model) || !make_sequences(made)) {
    ek_cache_free(made);
    return ek_fail(EK_NO_MEMORY,
                   "attention cache: out of memory for the tables of %" PRIu32 " sequences of %" PRIu32
                   " positions; ask for fewer",
                   params->sequences, params->positions);
  }
  *cache = made;
  return EK_OK;
}

ek_status ek_cache_create(const ek_model *model, const ek_cache_params *params, ek_cache **cache) {
  return ek_cache_create_in(&(ek_cache_allocator){allocate, release, NULL}, model, params, cache);
}

const ek_cache_params *ek_cache_described(const ek_cache *cache) { return &cache->params; }

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

/* --- the end of a sequence --- */

/* Whether tokens from `length` on are written to a block that the table has. */
static int ends_within(const table *t, uint64_t length) { return t->blocks > 0 && length % BLOCK != 0; }

static size_t first_of(const table *t, uint64_t length) { return t->blocks > 0 ? t->first : (size_t)(length / BLOCK); }

/* Blocks that have to be had before tokens length .. end - 1 can be written. */
static size_t blocks_wanted(const layer *l, const table *t, uint64_t length, uint64_t end) {
  size_t wanted = l->kv_heads * (blocks_for(end) - first_of(t, length) - t->blocks);
  for (size_t h = 0; ends_within(t, length) && h < l->kv_heads; h++)
    wanted += ek_cache_block_of(t->keys[h * l->capacity + t->blocks - 1])->references > 1;
  return wanted;
}

static void put_block(ek_cache *cache, table *t, size_t at, ek_cache_block *block) {
  t->keys[at] = ek_cache_block_keys(block);
  t->values[at] = t->keys[at] + cache->blocks.key_bytes;
}

static void store(ek_cache *cache, ek_cache_side side, const float *row, size_t slot, uint8_t *block) {
  const enum ek_type type = side == EK_CACHE_KEYS ? cache->params.key_type : cache->params.value_type;
  if (type == EK_TYPE_f32) {
    memcpy(block + slot * cache->dims * sizeof(float), row, cache->dims * sizeof(float));
  } else {
    ek_cache_store(type, side, cache->interleave, cache->dims, row, slot, block);
  }
}

/* Makes the block at `at` the table's own, with zeros from `slot` on: it may have been longer, or be another
 * sequence's, who is. */
static void own_block(ek_cache *cache, table *t, size_t at, uint32_t slot) {
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
    store(cache, EK_CACHE_KEYS, zeros, block->filled - 1, t->keys[at]);
    store(cache, EK_CACHE_VALUES, zeros, block->filled - 1, t->values[at]);
  }
}

static void extend(ek_cache *cache, const layer *l, table *t, uint64_t length, uint64_t end) {
  t->first = first_of(t, length);
  const size_t blocks = blocks_for(end) - t->first;
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

/* Forgets what a layer has from `length` on. */
static void cut_table(ek_cache *cache, const layer *l, table *t, uint64_t length) {
  const size_t end = blocks_for(length), blocks = end <= t->first ? 0 : end - t->first;
  for (size_t h = 0; h < l->kv_heads; h++) {
    const size_t base = h * l->capacity;
    for (size_t b = blocks; b < t->blocks; b++)
      ek_cache_block_drop(&cache->blocks, ek_cache_block_of(t->keys[base + b]));
    for (size_t slot = length % BLOCK; slot > 0 && slot < BLOCK && blocks > 0 && blocks <= t->blocks; slot++)
      t->positions[(base + blocks - 1) * BLOCK + slot] = -1;
  }
  if (blocks < t->blocks) t->blocks = blocks;
}

static void cut(ek_cache *cache, sequence *s, uint64_t length) {
  for (size_t i = 0; i < cache->layer_count; i++) cut_table(cache, &cache->layers[i], &s->tables[i], length);
  s->length = length;
  s->reserved = 0;
}

/* Sliding layers: how many of its first blocks a table of `blocks` lets go of at a length: those of which the next
 * token sees nothing, nor the one before it, so that one token can always be taken back. */
static size_t gone_at(const layer *l, size_t first, size_t blocks, uint64_t length) {
  const size_t kept_from = l->window > 0 && length > l->window ? (size_t)((length - l->window) / BLOCK) : 0;
  return kept_from <= first || blocks == 0 ? 0 : kept_from - first;
}

static void let_go(ek_cache *cache, const layer *l, table *t, uint64_t length) {
  const size_t gone = gone_at(l, t->first, t->blocks, length), left = t->blocks - gone;
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

/* --- tokens --- */

/* Blocks of a table that come back when it lets go of its first `gone`, some of which it may not have yet. */
static size_t blocks_back(const layer *l, const table *t, size_t gone) {
  size_t back = l->kv_heads * gone;
  for (size_t h = 0; h < l->kv_heads; h++) {
    for (size_t b = 0; b < gone && b < t->blocks; b++)
      back -= ek_cache_block_of(t->keys[h * l->capacity + b])->references > 1;
  }
  return back;
}

/* How many blocks more than now are taken at some time while the layers are opened and closed one after another. */
static size_t blocks_promised(const ek_cache *cache, const sequence *s, uint64_t end) {
  int64_t taken = 0, most = 0;
  for (size_t i = 0; i < cache->layer_count; i++) {
    const layer *l = &cache->layers[i];
    const table *t = &s->tables[i];
    const size_t first = first_of(t, s->length), blocks = blocks_for(end) - first;
    taken += (int64_t)blocks_wanted(l, t, s->length, end);
    if (taken > most) most = taken;
    taken -= (int64_t)blocks_back(l, t, gone_at(l, first, blocks, end));
  }
  return (size_t)most;
}

static ek_status not_settled(uint32_t sequence) {
  return ek_fail(EK_BAD_ARGUMENT, "sequence %" PRIu32 " has reserved tokens: commit or abandon them first", sequence);
}

ek_status ek_cache_reserve(ek_cache *cache, uint32_t sequence_index, size_t count) {
  const ek_status status = ek_cache_fits(cache, sequence_index, count);
  if (status != EK_OK) return status;
  sequence *s = &cache->sequences[sequence_index];
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
  sequence *s = &cache->sequences[sequence_index];
  extend(cache, &cache->layers[layer_index], &s->tables[layer_index], s->length, s->length + s->reserved);
}

void ek_cache_close_layer(ek_cache *cache, uint32_t sequence_index, uint32_t layer_index) {
  sequence *s = &cache->sequences[sequence_index];
  let_go(cache, &cache->layers[layer_index], &s->tables[layer_index], s->length + s->reserved);
}

void ek_cache_store_head(ek_cache *cache, uint32_t sequence, uint32_t layer_index, uint32_t kv_head, size_t index,
                         const float *key, const float *value) {
  const uint64_t position = cache->sequences[sequence].length + index;
  const table *t = &cache->sequences[sequence].tables[layer_index];
  const size_t at = kv_head * cache->layers[layer_index].capacity + (size_t)(position / BLOCK) - t->first;
  const uint32_t slot = position % BLOCK;
  ek_cache_block *block = ek_cache_block_of(t->keys[at]);
  store(cache, EK_CACHE_KEYS, key, slot, t->keys[at]);
  store(cache, EK_CACHE_VALUES, value, slot, t->values[at]);
  if (block->filled <= slot) block->filled = slot + 1;
  t->positions[at * BLOCK + slot] = (int32_t)position;
}

void ek_cache_view(ek_cache *cache, uint32_t sequence, uint32_t layer_index, ek_attention_cache *view) {
  const table *t = &cache->sequences[sequence].tables[layer_index];
  const size_t capacity = cache->layers[layer_index].capacity;
  *view = (ek_attention_cache){.blocks = t->blocks,
                               .keys = (const uint8_t *const *)t->keys,
                               .values = (const uint8_t *const *)t->values,
                               .positions = t->positions,
                               .positions_stride = capacity * BLOCK,
                               .blocks_stride = capacity};
}

/* Blocks for one token in every layer are kept, so that decoding need not ask for memory. */
static void settle(ek_cache *cache, sequence *s, uint64_t length) {
  cache->promised -= s->promised;
  s->promised = s->reserved = 0;
  s->length = length;
  ek_cache_blocks_trim(&cache->blocks, cache->promised + cache->heads);
}

void ek_cache_commit(ek_cache *cache, uint32_t sequence_index) {
  sequence *s = &cache->sequences[sequence_index];
  settle(cache, s, s->length + s->reserved);
}

void ek_cache_abandon(ek_cache *cache, uint32_t sequence_index) {
  sequence *s = &cache->sequences[sequence_index];
  cut(cache, s, s->length);
  settle(cache, s, s->length);
}

/* --- sequences --- */

/* The shortest length above 0 that still has all that its next token sees. */
static uint64_t shortest(const ek_cache *cache, const sequence *s) {
  uint64_t length = 1;
  for (size_t i = 0; i < cache->layer_count; i++) {
    const table *t = &s->tables[i];
    const uint64_t gone = t->blocks > 0 ? (uint64_t)t->first * BLOCK : 0, window = cache->layers[i].window;
    if (gone > 0 && window > 1 && gone + window - 1 > length) length = gone + window - 1;
  }
  return length;
}

ek_status ek_cache_truncate(ek_cache *cache, uint32_t sequence_index, uint64_t length) {
  if (sequence_index >= cache->params.sequences) return no_sequence(cache, sequence_index);
  sequence *s = &cache->sequences[sequence_index];
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
  cut(cache, s, length);
  ek_cache_blocks_trim(&cache->blocks, cache->promised + (length > 0 ? cache->heads : 0));
  return EK_OK;
}

static void share_table(ek_cache *cache, const layer *l, const table *from, table *to) {
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

ek_status ek_cache_fork(ek_cache *cache, uint32_t from, uint32_t to) {
  if (from >= cache->params.sequences) return no_sequence(cache, from);
  if (to >= cache->params.sequences) return no_sequence(cache, to);
  const sequence *source = &cache->sequences[from];
  sequence *s = &cache->sequences[to];
  if (source->reserved > 0) return not_settled(from);
  if (s->reserved > 0) return not_settled(to);
  if (from == to) return EK_OK;
  cut(cache, s, 0);
  for (size_t i = 0; i < cache->layer_count; i++)
    share_table(cache, &cache->layers[i], &source->tables[i], &s->tables[i]);
  s->length = source->length;
  ek_cache_blocks_trim(&cache->blocks, cache->promised + (s->length > 0 ? cache->heads : 0));
  return EK_OK;
}

void ek_cache_bytes(const ek_cache *cache, uint64_t *allocated, uint64_t *peak, uint64_t *shared) {
  *allocated = cache->blocks.allocated;
  *peak = cache->blocks.peak;
  *shared = cache->blocks.shared;
}

void ek_cache_free(ek_cache *cache) {
  if (!cache) return;
  const size_t bytes = cache->sequences ? tables_bytes(cache) : 0;
  for (size_t i = 0; cache->sequences && i < cache->params.sequences && cache->sequences[i].tables; i++) {
    cut(cache, &cache->sequences[i], 0);
    ek_cache_memory_free(&cache->blocks, cache->sequences[i].tables, bytes);
  }
  ek_cache_blocks_trim(&cache->blocks, 0);
  ek_cache_memory_free(&cache->blocks, cache->sequences, cache->params.sequences * sizeof(sequence));
  ek_cache_memory_free(&cache->blocks, cache->layers, cache->layer_count * sizeof(layer));
  const ek_cache_allocator allocator = cache->blocks.allocator;
  allocator.release(allocator.user, cache, sizeof *cache);
}
