/* The attention cache of several sequences: blocks of 16 positions for each layer and KV head, given out as tokens come
 * and taken back when no sequence holds them.
 *
 * Full layers keep all positions. Sliding layers keep the last `window` before the next token and let go of blocks that
 * have passed out of it. A fork shares blocks; who writes to a shared one gets his own copy first. Each slot has the
 * original position of what it holds, apart from where it lies, so that positions can be dropped for each head alone.
 */
#ifndef EK_CACHE_H
#define EK_CACHE_H

#include "model/model.h"
#include "operators/attention.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ek_cache ek_cache;

typedef struct ek_cache_params {
  enum ek_type key_type, value_type; /* f16, q8_0, q4_0; f32 both for comparisons, blocks float [16][padded_dim] */
  uint32_t positions, sequences;
  uint32_t step; /* most tokens that are added at once; 0: 128 */
} ek_cache_params;

/* Keeps pointers into the model. Tables are allocated here, blocks when they are needed. */
ek_status ek_cache_create(const ek_model *model, const ek_cache_params *params, ek_cache **cache);
void ek_cache_free(ek_cache *cache);

/* What it was created with, the default filled in. */
const ek_cache_params *ek_cache_described(const ek_cache *cache);

/* Tokens so far: the position of the next one. */
uint64_t ek_cache_length(const ek_cache *cache, uint32_t sequence);

/* Whether `count` more tokens fit in a sequence: EK_OK or EK_CACHE_FULL (with its sentence). */
ek_status ek_cache_fits(const ek_cache *cache, uint32_t sequence, size_t count);

/* Tokens are added layer by layer, so that only one sliding layer at a time holds more than its window: reserve; then
 * for each layer open, store, view, close; then commit.
 *
 * Reserve makes sure of the memory for `count` <= step tokens at the sequence's end in all layers, so that what follows
 * cannot fail, or does nothing at all: EK_CACHE_FULL, EK_NO_MEMORY. Several sequences may be reserved at once. */
ek_status ek_cache_reserve(ek_cache *cache, uint32_t sequence, size_t count);

/* The reserved tokens' room in a layer: takes blocks, and copies shared ones that will be written to. */
void ek_cache_open_layer(ek_cache *cache, uint32_t sequence, uint32_t layer);

/* Stores the key and value (kv_heads, padded_dim each) of the token `index` (0 .. count - 1) of the reserved ones, in
 * an open layer. Tokens of a KV head whose positions lie in the same 16 are stored by one thread. */
void ek_cache_store_head(ek_cache *cache, uint32_t sequence, uint32_t layer, uint32_t kv_head, size_t index,
                         const float *key, const float *value);

/* The blocks of an open layer for ek_attention_run, with the reserved positions among them (slots not written to yet
 * have position -1 until ek_cache_store_head). Valid until the layer is closed. */
void ek_cache_view(ek_cache *cache, uint32_t sequence, uint32_t layer, ek_attention_cache *view);

/* All reserved tokens are stored in the layer; a sliding one lets go of what no later token can see, but where it is a
 * single token that is reserved: then it does so when that is committed. */
void ek_cache_close_layer(ek_cache *cache, uint32_t sequence, uint32_t layer);

/* When all layers are closed: the reserved tokens, all stored, become part of the sequence. */
void ek_cache_commit(ek_cache *cache, uint32_t sequence);
/* The reserved tokens are dropped, from open layers too, and the sequence is as it was before they were reserved, but
 * for blocks that it shared, which may be its own now. A single one can be abandoned at any time, several before the
 * first layer is closed. */
void ek_cache_abandon(ek_cache *cache, uint32_t sequence);

/* As ek_sequence_truncate and ek_sequence_fork of edgekit.h; of sequences without reserved tokens. Neither needs
 * memory. */
ek_status ek_cache_truncate(ek_cache *cache, uint32_t sequence, uint64_t length);
ek_status ek_cache_fork(ek_cache *cache, uint32_t from, uint32_t to);

/* Exact: blocks, tables, positions, and the blocks that nobody holds. Of these are kept, after a commit, truncation or
 * fork, those promised to reserved tokens and one for each KV head of each layer, the latter not where a sequence was
 * emptied; all others are given back. */
void ek_cache_bytes(const ek_cache *cache, uint64_t *allocated, uint64_t *peak, uint64_t *shared);

#ifdef __cplusplus
}
#endif

#endif
