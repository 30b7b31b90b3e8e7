/* A task is one KV head, some tokens, and a span of the cache's blocks: its rows are these tokens' query heads, and
 * tiles of blocks are scored, weighed and summed for all rows at once, so that they are loaded once. Where tokens are
 * so few that one task would have them all, the blocks are cut into spans, whose sums are merged at the end. */
#include "operators/attention.h"

#include "half.h"
#include "kernels/cache_block.h"

#include <math.h>
#include <string.h>

enum { TILE_POSITIONS = EK_CACHE_TILE * EK_CACHE_BLOCK, TASK_ROWS = 16, SPAN_BLOCKS = 32, LINE = 64 };

static const float log2_e = 1.44269504f;

/* --- shapes --- */

typedef struct plan {
  size_t task_tokens, rows; /* of a task, at most */
  size_t token_parts, spans;
  size_t worker_bytes, partial_bytes;
} plan;

static size_t lines(size_t bytes) { return (bytes + LINE - 1) / LINE * LINE; }

/* Of a row: queries, codes, scales and offsets, scores, factor. */
static size_t worker_bytes_of(size_t rows, size_t dims) {
  return lines(4 * rows * dims) + lines(rows * dims) + 2 * lines(4 * rows * dims / 32) +
         lines(4 * rows * TILE_POSITIONS) + lines(4 * rows);
}

static plan plan_of(const ek_attention *a, size_t tokens, size_t blocks) {
  plan p = {.task_tokens = a->group < TASK_ROWS ? TASK_ROWS / a->group : 1, .spans = 1};
  if (p.task_tokens > tokens) p.task_tokens = tokens;
  p.rows = p.task_tokens * a->group;
  p.token_parts = (tokens + p.task_tokens - 1) / p.task_tokens;
  if (p.token_parts == 1 && blocks > SPAN_BLOCKS) p.spans = (blocks + SPAN_BLOCKS - 1) / SPAN_BLOCKS;
  p.worker_bytes = worker_bytes_of(p.rows, a->dims);
  p.partial_bytes = lines(4 * p.rows * (a->dims + 2));
  return p;
}

static int is_valid(const ek_attention *a, size_t tokens, size_t blocks) {
  return a && ek_cache_type(a->key_type) && ek_cache_type(a->value_type) && a->kv_heads > 0 &&
         a->kv_heads <= 1u << 12 && a->group > 0 && a->group <= 1u << 8 && a->dims > 0 && a->dims % 32 == 0 &&
         a->dims <= EK_MOST_HEAD_DIMS && a->window >= 0 && tokens > 0 && tokens <= 1u << 30 && blocks <= 1u << 27;
}

/* Sums of its own: for each worker, or for each span of each head where there are several. */
static size_t partials_of(const ek_attention *a, const plan *p, unsigned threads) {
  return p->spans > 1 ? a->kv_heads * p->spans : threads;
}

ek_status ek_attention_scratch(const ek_attention *attention, size_t tokens, size_t blocks, unsigned threads,
                               size_t *bytes) {
  if (!is_valid(attention, tokens, blocks) || threads == 0 || threads > EK_MOST_THREADS) return EK_BAD_ARGUMENT;
  const plan p = plan_of(attention, tokens, blocks);
  *bytes = threads * p.worker_bytes + partials_of(attention, &p, threads) * p.partial_bytes;
  return EK_OK;
}

/* --- one task --- */

typedef struct run {
  const ek_kernels *kernels;
  const ek_attention *attention;
  const ek_attention_cache *cache;
  const float *queries;
  const int32_t *positions;
  size_t tokens;
  float *out;
  uint8_t *workers, *partials;
  plan plan;
} run;

/* What a row has come to: 2^(score - maximum) are summed in `sums`, and times their values in `out`. */
typedef struct partial {
  float *maxima, *sums; /* (rows), maxima in base 2 */
  float *out;           /* (rows, dims) */
} partial;

typedef struct task {
  const run *run;
  size_t head, first_token, tokens, rows;
  ek_activations queries;
  float *scores, *factors;
  partial partial;
  int32_t first_position, last_position; /* of the tokens */
} task;

/* Blocks of which some position may be attended to by some token. */
typedef struct tile {
  size_t count;
  int whole; /* whether all positions may by all tokens */
  const uint8_t *keys[EK_CACHE_TILE], *values[EK_CACHE_TILE];
  const int32_t *positions[EK_CACHE_TILE];
} tile;

static partial partial_at(const run *r, size_t index) {
  float *at = (float *)(void *)(r->partials + index * r->plan.partial_bytes);
  return (partial){at, at + r->plan.rows, at + 2 * r->plan.rows};
}

/* Where the scores of f16 keys want floats, the others want them quantised. */
static void take_queries(task *t, uint8_t *memory) {
  const ek_attention *a = t->run->attention;
  const size_t heads = a->kv_heads * a->group, columns = t->rows * a->dims, most = t->run->plan.rows;
  const float scale = a->softcap > 0 ? a->scale / a->softcap : a->scale * log2_e;
  float *values = (float *)(void *)memory;
  for (size_t r = 0; r < t->rows; r++) {
    const size_t token = t->first_token + r / a->group, head = t->head * a->group + r % a->group;
    const float *from = t->run->queries + (token * heads + head) * a->dims;
    for (size_t k = 0; k < a->dims; k++) values[r * a->dims + k] = from[k] * scale;
  }
  memory += lines(4 * most * a->dims);
  int8_t *codes = (int8_t *)memory;
  memory += lines(most * a->dims);
  float *scales = (float *)(void *)memory;
  memory += lines(4 * most * a->dims / 32);
  int32_t *offsets = (int32_t *)(void *)memory;
  memory += lines(4 * most * a->dims / 32);
  t->scores = (float *)(void *)memory;
  t->factors = (float *)(void *)(memory + lines(4 * most * TILE_POSITIONS));
  t->queries = (ek_activations){.values = values};
  if (a->key_type != EK_TYPE_f16) {
    t->run->kernels->quantise_32[EK_TYPE_f32](values, columns, codes, scales, offsets);
    t->queries = (ek_activations){.codes = codes, .scales = scales, .offsets = offsets};
  }
}

static int sees(const ek_attention *a, int32_t token, int32_t position) {
  return position >= 0 && (!a->causal || position <= token) &&
         (a->window == 0 || (int64_t)position > (int64_t)token - a->window);
}

/* Whether some, and all, of 16 positions may be attended to by a token at first .. last. */
static void look_at(const task *t, const int32_t *positions, int *some, int *all) {
  const ek_attention *a = t->run->attention;
  const int64_t window = a->window > 0 ? a->window : INT64_C(1) << 32;
  const int64_t last_low = t->last_position - window, first_low = t->first_position - window;
  *some = 0;
  *all = 1;
  for (int i = 0; i < EK_CACHE_BLOCK; i++) {
    const int32_t p = positions[i];
    *some |= p >= 0 && (!a->causal || p <= t->last_position) && p > first_low;
    *all &= p >= 0 && (!a->causal || p <= t->first_position) && p > last_low;
  }
}

/* 2^x for x <= 0, within 3e-7 of its value (kernels/vector/exp.h): a library's own differs from one to another. */
static float exp2_nonpositive(float x) {
  const float magic = 12582912.0f + 127.0f, within = x < -126.0f ? -126.0f : x;
  const float shifted = within + magic, f = within - (shifted - magic);
  float p = 0x1.3cea88p-7f + f * 0x1.5bb9dp-10f;
  p = 0x1.ebf9bcp-3f + f * (0x1.c6b754p-5f + f * p);
  p = 1.0f + f * (0x1.62e42ap-1f + f * p);
  return p * ek_float_of_bits(ek_bits_of_float(shifted) << 23);
}

/* tanh(x), within 3e-7: scores in units of the softcap to what it makes of them, in base 2. */
static void cap_scores(float *scores, size_t count, float softcap) {
  const float unit = softcap * log2_e;
  for (size_t i = 0; i < count; i++) {
    const float e = exp2_nonpositive(fabsf(scores[i]) * (-2 * log2_e));
    scores[i] = unit * copysignf((1.0f - e) / (1.0f + e), scores[i]);
  }
}

static void mask(const task *t, const tile *tile) {
  const ek_attention *a = t->run->attention;
  const size_t count = tile->count * EK_CACHE_BLOCK;
  for (size_t r = 0; r < t->rows; r++) {
    const int32_t token = t->run->positions[t->first_token + r / a->group];
    for (size_t i = 0; i < count; i++) {
      if (!sees(a, token, tile->positions[i / EK_CACHE_BLOCK][i % EK_CACHE_BLOCK]))
        t->scores[r * count + i] = -INFINITY;
    }
  }
}

static void add_tile(task *t, const tile *tile) {
  const ek_attention *a = t->run->attention;
  const ek_kernels *kernels = t->run->kernels;
  const size_t count = tile->count * EK_CACHE_BLOCK;
  kernels->scores[a->key_type](tile->keys, tile->count, a->dims, &t->queries, t->rows, t->scores);
  if (a->softcap > 0) cap_scores(t->scores, t->rows * count, a->softcap);
  if (!tile->whole) mask(t, tile);
  for (size_t r = 0; r < t->rows; r++) {
    const float keep = kernels->online_softmax[EK_TYPE_f32](t->scores + r * count, count, &t->partial.maxima[r],
                                                            &t->partial.sums[r], &t->factors[r]);
    if (keep == 1) continue;
    float *out = t->partial.out + r * a->dims;
    for (size_t k = 0; k < a->dims; k++) out[k] *= keep;
  }
  kernels->values[a->value_type](tile->values, tile->count, a->dims, t->scores, t->factors, t->rows, t->partial.out);
}

static void attend(task *t, size_t first_block, size_t end_block) {
  const ek_attention_cache *cache = t->run->cache;
  const size_t dims = t->run->attention->dims, stride = cache->blocks_stride ? cache->blocks_stride : cache->blocks;
  const int32_t *positions = cache->positions + t->head * cache->positions_stride;
  for (size_t r = 0; r < t->rows; r++) {
    t->partial.maxima[r] = -INFINITY;
    t->partial.sums[r] = 0;
  }
  memset(t->partial.out, 0, t->rows * dims * sizeof(float));
  tile tile = {.whole = 1};
  for (size_t b = first_block; b < end_block; b++) {
    int some, all;
    look_at(t, positions + b * EK_CACHE_BLOCK, &some, &all);
    if (some) {
      tile.keys[tile.count] = cache->keys[t->head * stride + b];
      tile.values[tile.count] = cache->values[t->head * stride + b];
      tile.positions[tile.count++] = positions + b * EK_CACHE_BLOCK;
      tile.whole &= all;
    }
    if (tile.count == EK_CACHE_TILE || (tile.count > 0 && b + 1 == end_block)) {
      add_tile(t, &tile);
      tile.count = 0;
      tile.whole = 1;
    }
  }
}

/* The output of a row: what was summed, over the sum of weights. */
static void finish_row(const run *r, size_t head, size_t token, size_t row, const float *sums, float total) {
  const ek_attention *a = r->attention;
  float *out = r->out + ((token * a->kv_heads + head) * a->group + row % a->group) * a->dims;
  for (size_t k = 0; k < a->dims; k++) out[k] = total == 0 ? 0 : sums[k] / total;
}

static void run_task(void *context, size_t index, unsigned worker) {
  const run *r = context;
  const ek_attention *a = r->attention;
  const plan *p = &r->plan;
  const size_t span = index % p->spans, part = index / p->spans % p->token_parts;
  task t = {.run = r, .head = index / p->spans / p->token_parts, .first_token = part * p->task_tokens};
  t.tokens = r->tokens - t.first_token < p->task_tokens ? r->tokens - t.first_token : p->task_tokens;
  t.rows = t.tokens * a->group;
  t.partial = partial_at(r, p->spans > 1 ? t.head * p->spans + span : worker);
  t.first_position = t.last_position = r->positions[t.first_token];
  for (size_t i = 1; i < t.tokens; i++) {
    const int32_t position = r->positions[t.first_token + i];
    if (position < t.first_position) t.first_position = position;
    if (position > t.last_position) t.last_position = position;
  }
  take_queries(&t, r->workers + worker * p->worker_bytes);
  const size_t blocks = r->cache->blocks, first = p->spans > 1 ? span * SPAN_BLOCKS : 0;
  attend(&t, first, p->spans > 1 && first + SPAN_BLOCKS < blocks ? first + SPAN_BLOCKS : blocks);
  for (size_t row = 0; row < t.rows && p->spans == 1; row++)
    finish_row(r, t.head, t.first_token + row / a->group, row, t.partial.out + row * a->dims, t.partial.sums[row]);
}

/* --- all tasks --- */

/* The spans' sums of one row, in their order, into those of the first. */
static void merge_row(const run *r, size_t head, size_t row) {
  const size_t dims = r->attention->dims, spans = r->plan.spans;
  float most = -INFINITY, total = 0;
  for (size_t s = 0; s < spans; s++) {
    const float maximum = partial_at(r, head * spans + s).maxima[row];
    if (maximum > most || isnan(maximum)) most = maximum;
  }
  float *sums = partial_at(r, head * spans).out + row * dims;
  for (size_t s = 0; s < spans; s++) {
    const partial p = partial_at(r, head * spans + s);
    const float keep = p.maxima[row] == -INFINITY ? 0 : exp2_nonpositive(p.maxima[row] - most);
    total += keep * p.sums[row];
    for (size_t k = 0; k < dims; k++) sums[k] = (s ? sums[k] : 0) + keep * p.out[row * dims + k];
  }
  finish_row(r, head, row / r->attention->group, row, sums, total);
}

ek_status ek_attention_run(const ek_kernels *kernels, ek_pool *pool, const ek_attention *attention,
                           const ek_attention_cache *cache, const float *queries, const int32_t *positions,
                           size_t tokens, float *out, void *scratch) {
  if (!kernels || !cache || !queries || !positions || !out || !scratch || !is_valid(attention, tokens, cache->blocks))
    return EK_BAD_ARGUMENT;
  if (!kernels->scores[attention->key_type] || !kernels->values[attention->value_type] ||
      !kernels->online_softmax[EK_TYPE_f32] || !kernels->quantise_32[EK_TYPE_f32])
    return EK_NO_KERNEL;
  run r = {kernels, attention, cache,   queries, positions,
           tokens,  out,       scratch, NULL,    plan_of(attention, tokens, cache->blocks)};
  r.partials = r.workers + ek_pool_threads(pool) * r.plan.worker_bytes;
  const ek_status status = ek_pool_run(pool, run_task, &r, attention->kv_heads * r.plan.token_parts * r.plan.spans);
  if (status != EK_OK || r.plan.spans == 1) return status;
  for (size_t head = 0; head < attention->kv_heads; head++) {
    for (size_t row = 0; row < tokens * attention->group; row++) merge_row(&r, head, row);
  }
  return EK_OK;
}
