#include "operators/float_mode.h"

#include <math.h>
#include <string.h>

typedef struct run {
  const ek_attention *attention;
  const ek_attention_cache *cache;
  const float *queries;
  const int32_t *positions;
  float *out;
  double *scratch; /* for each worker scores (blocks, 16) and sums (dims) */
} run;

static int sees(const ek_attention *a, int32_t token, int32_t position) {
  return position >= 0 && (!a->causal || position <= token) &&
         (a->window == 0 || (int64_t)position > (int64_t)token - a->window);
}

static double capped(const ek_attention *a, double score) {
  return a->softcap > 0 ? a->softcap * tanh(score / a->softcap) : score;
}

/* Row `slot` of the blocks of a head. */
static const float *row_at(const uint8_t *const *blocks, size_t slot, size_t dims) {
  return (const float *)(const void *)blocks[slot / EK_CACHE_BLOCK] + slot % EK_CACHE_BLOCK * dims;
}

/* Scores of all slots; -infinity for those that are not seen. Returns the largest, NaN where one is. */
static double score_all(const run *r, size_t kv_head, int32_t token, const float *query, double *scores) {
  const ek_attention *a = r->attention;
  const ek_attention_cache *cache = r->cache;
  const size_t stride = cache->blocks_stride ? cache->blocks_stride : cache->blocks;
  const int32_t *positions = cache->positions + kv_head * cache->positions_stride;
  double most = -INFINITY;
  for (size_t slot = 0; slot < cache->blocks * EK_CACHE_BLOCK; slot++) {
    scores[slot] = -INFINITY;
    if (!sees(a, token, positions[slot])) continue;
    const float *key = row_at(cache->keys + kv_head * stride, slot, a->dims);
    double dot = 0;
    for (size_t k = 0; k < a->dims; k++) dot += (double)query[k] * key[k];
    scores[slot] = capped(a, (double)a->scale * dot);
    if (scores[slot] > most || isnan(scores[slot])) most = scores[slot];
  }
  return most;
}

/* One query head of one token. */
static void head_task(void *context, size_t index, unsigned worker) {
  const run *r = context;
  const ek_attention *a = r->attention;
  const ek_attention_cache *cache = r->cache;
  const size_t slots = cache->blocks * EK_CACHE_BLOCK, heads = a->kv_heads * a->group;
  const size_t kv_head = index % heads / a->group, stride = cache->blocks_stride ? cache->blocks_stride : cache->blocks;
  double *scores = r->scratch + worker * (slots + a->dims), *sums = scores + slots, total = 0;
  const double most = score_all(r, kv_head, r->positions[index / heads], r->queries + index * a->dims, scores);
  memset(sums, 0, a->dims * sizeof *sums);
  for (size_t slot = 0; slot < slots; slot++) {
    if (scores[slot] == -INFINITY) continue;
    const double weight = exp(scores[slot] - most);
    const float *value = row_at(cache->values + kv_head * stride, slot, a->dims);
    total += weight;
    for (size_t k = 0; k < a->dims; k++) sums[k] += weight * value[k];
  }
  for (size_t k = 0; k < a->dims; k++) r->out[index * a->dims + k] = total == 0 ? 0 : (float)(sums[k] / total);
}

size_t ek_float_attention_scratch(size_t blocks, size_t dims, unsigned threads) {
  return threads * (blocks * EK_CACHE_BLOCK + dims) * sizeof(double);
}

ek_status ek_float_attention(ek_pool *pool, const ek_attention *attention, const ek_attention_cache *cache,
                             const float *queries, const int32_t *positions, size_t tokens, float *out, void *scratch) {
  run r = {attention, cache, queries, positions, out, scratch};
  return ek_pool_run(pool, head_task, &r, tokens * attention->kv_heads * attention->group);
}
