#include "cache/parts.h"

#include "memory.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { LINE = 64, DEFAULT_STEP = 128 };

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
  const size_t all = ek_cache_blocks_for(params->positions),
               ring = ek_cache_blocks_for(window) + ek_cache_blocks_for(params->step) + 1;
  return window > 0 && ring < all ? ring : all;
}

static size_t pointers_bytes(const ek_cache_layer *l) { return lines(l->kv_heads * l->capacity * sizeof(uint8_t *)); }

/* Of one sequence's tables. 0: more than can be. */
static size_t tables_bytes(const ek_cache *cache) {
  size_t bytes = lines(cache->layer_count * sizeof(ek_cache_table));
  for (size_t i = 0; i < cache->layer_count; i++) {
    const ek_cache_layer *l = &cache->layers[i]; /* neither of the two has more than 32 bits */
    const uint64_t entries = (uint64_t)l->kv_heads * l->capacity;
    if (entries > SIZE_MAX / 256 || bytes > SIZE_MAX / 4) return 0;
    bytes += (size_t)entries * BLOCK * sizeof(int32_t) + 2 * pointers_bytes(l);
  }
  return bytes;
}

static int make_tables(ek_cache *cache, ek_cache_sequence *s, size_t bytes) {
  uint8_t *memory = ek_cache_memory_new(&cache->blocks, bytes);
  if (!memory) return 0;
  s->tables = (ek_cache_table *)(void *)memory;
  memory += lines(cache->layer_count * sizeof(ek_cache_table));
  for (size_t i = 0; i < cache->layer_count; i++) {
    const ek_cache_layer *l = &cache->layers[i];
    ek_cache_table *t = &s->tables[i];
    *t = (ek_cache_table){.positions = (int32_t *)(void *)memory};
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
  cache->layers = ek_cache_memory_new(&cache->blocks, cache->layer_count * sizeof(ek_cache_layer));
  if (!cache->layers) return 0;
  for (size_t i = 0; i < cache->layer_count; i++) {
    const ek_layer *l = &model->layers[i];
    const uint64_t window = l->sliding ? model->shape.window : 0;
    cache->layers[i] = (ek_cache_layer){l->kv_heads, capacity_of(window, &cache->params), window};
    cache->heads += l->kv_heads;
  }
  return 1;
}

static int make_sequences(ek_cache *cache) {
  const size_t count = cache->params.sequences, bytes = tables_bytes(cache);
  if (bytes == 0 || count > SIZE_MAX / sizeof(ek_cache_sequence)) return 0;
  cache->sequences = ek_cache_memory_new(&cache->blocks, count * sizeof(ek_cache_sequence));
  if (!cache->sequences) return 0;
  memset(cache->sequences, 0, count * sizeof(ek_cache_sequence));
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

/* --- the whole --- */

void ek_cache_bytes(const ek_cache *cache, uint64_t *allocated, uint64_t *peak, uint64_t *shared) {
  *allocated = cache->blocks.allocated;
  *peak = cache->blocks.peak;
  *shared = cache->blocks.shared;
}

void ek_cache_free(ek_cache *cache) {
  if (!cache) return;
  const size_t bytes = cache->sequences ? tables_bytes(cache) : 0;
  for (size_t i = 0; cache->sequences && i < cache->params.sequences && cache->sequences[i].tables; i++) {
    ek_cache_cut(cache, &cache->sequences[i], 0);
    ek_cache_memory_free(&cache->blocks, cache->sequences[i].tables, bytes);
  }
  ek_cache_blocks_trim(&cache->blocks, 0);
  ek_cache_memory_free(&cache->blocks, cache->sequences, cache->params.sequences * sizeof(ek_cache_sequence));
  ek_cache_memory_free(&cache->blocks, cache->layers, cache->layer_count * sizeof(ek_cache_layer));
  const ek_cache_allocator allocator = cache->blocks.allocator;
  allocator.release(allocator.user, cache, sizeof *cache);
}
