/* Attention over a cache against softmax attention in float64, dense, over what the cache reads as: all pairs of types,
 * windows, rings, groups of query heads, many tokens; and the same bytes from any number of threads. */
#include "check.h"
#include "kernels/cache_block.h"
#include "operators/attention.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const enum ek_type types[] = {EK_TYPE_f16, EK_TYPE_q8_0, EK_TYPE_q4_0};

typedef struct world {
  ek_attention attention;
  ek_attention_cache cache;
  size_t tokens, slots; /* slots: of one head */
  check_buffer queries, positions, slot_positions, out, scratch;
  check_buffer *blocks; /* keys of all heads, then values */
  const uint8_t **pointers;
  float *keys, *values; /* (kv_heads, slots, dims), as they read */
} world;

static float *floats(const check_buffer *buffer) { return (float *)(void *)buffer->data; }
static int32_t *integers(const check_buffer *buffer) { return (int32_t *)(void *)buffer->data; }

static void *memory(size_t bytes) {
  void *at = calloc(bytes + 1, 1);
  if (!at) exit(2);
  return at;
}

/* --- what is attended to --- */

/* The slots of a ring that `stored` positions went through, or of a cache that holds some at random. */
static void place_positions(check_rng *rng, int32_t *slots, size_t count, int stored) {
  const int is_ring = check_below(rng, 2), keep = 1 + check_below(rng, 10);
  for (size_t i = 0; i < count; i++) slots[i] = -1;
  for (int p = 0; p < stored; p++) {
    if (is_ring || (size_t)p < count) slots[(size_t)p % count] = is_ring || check_below(rng, keep) ? p : -1;
  }
  if (is_ring) return;
  for (size_t i = count; i > 1; i--) {
    const size_t j = (size_t)check_below(rng, (int)i);
    const int32_t other = slots[j];
    slots[j] = slots[i - 1];
    slots[i - 1] = other;
  }
}

/* Keys or values of all heads: rows that differ in size, in blocks of their own, zero where nothing is stored. */
static void store_side(world *w, check_rng *rng, ek_cache_side side, int interleave, const int32_t *positions,
                       float *rows) {
  const ek_attention *a = &w->attention;
  const enum ek_type type = side == EK_CACHE_KEYS ? a->key_type : a->value_type;
  const size_t bytes = ek_cache_block_bytes(type, a->dims), blocks = w->cache.blocks, all = a->kv_heads * blocks;
  for (size_t i = 0; i < all; i++) {
    const size_t at = i + (side == EK_CACHE_KEYS ? 0 : all);
    check_buffer block = check_buffer_new(bytes, 2, CHECK_END);
    memset(block.data, 0, bytes);
    for (size_t p = 0; p < EK_CACHE_BLOCK; p++) {
      const size_t slot = i * EK_CACHE_BLOCK + p;
      float *row = rows + slot * a->dims;
      const float size = check_uniform(rng, 0.2f, 1.5f);
      for (size_t k = 0; k < a->dims; k++) row[k] = size * check_gaussian(rng);
      const size_t shared = w->cache.positions_stride ? slot : slot % w->slots;
      if (positions[shared] >= 0) ek_cache_store(type, side, interleave, a->dims, row, p, block.data);
      ek_cache_load(type, side, interleave, a->dims, block.data, p, row);
    }
    check_buffer_seal(&block);
    w->blocks[at] = block;
    w->pointers[at] = block.data;
  }
}

static void make_world(world *w, check_rng *rng, int interleave, int number) {
  static const size_t some_dims[] = {64, 32, 128, 96, 64, 256};
  const int many = number % 5 == 4; /* blocks, of which there are spans */
  const int one = number % 7 == 3;  /* block, full, that some tokens may see all of and others not */
  *w = (world){.tokens = one || (!many && number % 3 == 0) ? (size_t)(1 + check_below(rng, 20)) : 1};
  ek_attention *a = &w->attention;
  *a = (ek_attention){.key_type = types[number % 3],
                      .value_type = types[number / 3 % 3],
                      .kv_heads = (size_t)(1 + check_below(rng, 2)),
                      .group = (size_t)(1 + number % 8),
                      .dims = many ? 64 : some_dims[check_below(rng, 6)],
                      .window = check_below(rng, 2) ? 0 : 1 + check_below(rng, one ? 40 : 100),
                      .causal = check_below(rng, 4) != 0,
                      .softcap = check_below(rng, 3) ? 0 : check_uniform(rng, 2, 30)};
  if (one && number % 2) { /* what they may see is a matter of the window alone */
    a->window = 14 + check_below(rng, 8);
    a->causal = 0;
  }
  a->scale = check_uniform(rng, 0.5f, 3) / sqrtf((float)a->dims);
  w->cache.blocks = (size_t)(one ? 1 : many ? 33 + check_below(rng, 60) : check_below(rng, 24));
  w->slots = w->cache.blocks * EK_CACHE_BLOCK;
  w->cache.positions_stride = check_below(rng, 2) ? 0 : w->slots;
  const size_t copies = w->cache.positions_stride ? a->kv_heads : 1;
  const int stored = one ? 16 : w->slots ? check_below(rng, (int)w->slots * 3 / 2 + 1) : 0;
  w->slot_positions = check_buffer_new(w->slots * copies * 4, 4, CHECK_END);
  for (size_t c = 0; c < copies && w->slots; c++)
    place_positions(rng, integers(&w->slot_positions) + c * w->slots, w->slots, stored);
  w->positions = check_buffer_new(w->tokens * 4, 4, CHECK_END);
  const int late = one ? check_below(rng, 16) : 0,
            first = stored + late > (int)w->tokens ? stored + late - (int)w->tokens : 0;
  for (size_t t = 0; t < w->tokens; t++) integers(&w->positions)[t] = first + (int)t;
  const size_t rows = w->tokens * a->kv_heads * a->group;
  w->queries = check_buffer_new(rows * a->dims * 4, 4, CHECK_END);
  for (size_t i = 0; i < rows * a->dims; i++) floats(&w->queries)[i] = check_gaussian(rng);
  w->out = check_buffer_new(rows * a->dims * 4, 4, CHECK_END);
  const size_t all = a->kv_heads * w->cache.blocks;
  w->blocks = memory(2 * all * sizeof *w->blocks);
  w->pointers = memory(2 * all * sizeof *w->pointers);
  w->keys = memory(all * EK_CACHE_BLOCK * a->dims * sizeof(float));
  w->values = memory(all * EK_CACHE_BLOCK * a->dims * sizeof(float));
  store_side(w, rng, EK_CACHE_KEYS, interleave, integers(&w->slot_positions), w->keys);
  store_side(w, rng, EK_CACHE_VALUES, interleave, integers(&w->slot_positions), w->values);
  w->cache.keys = w->pointers;
  w->cache.values = w->pointers + all;
  w->cache.positions = integers(&w->slot_positions);
  const check_buffer *sealed[] = {&w->queries, &w->positions, &w->slot_positions};
  for (int i = 0; i < 3; i++) check_buffer_seal(sealed[i]);
}

static void free_world(world *w) {
  for (size_t i = 0; i < 2 * w->attention.kv_heads * w->cache.blocks; i++) check_buffer_free(&w->blocks[i]);
  check_buffer *buffers[] = {&w->queries, &w->positions, &w->slot_positions, &w->out};
  for (int i = 0; i < 4; i++) check_buffer_free(buffers[i]);
  free(w->blocks);
  free(w->pointers);
  free(w->keys);
  free(w->values);
}

/* --- the oracle --- */

/* A query as the kernels see it, times the scale. */
static void read_query(const ek_attention *a, const float *query, double *out) {
  const float scale = a->softcap > 0 ? a->scale / a->softcap : a->scale * 1.44269504f;
  float values[EK_MOST_HEAD_DIMS], scales[EK_MOST_HEAD_DIMS / 32];
  int8_t codes[EK_MOST_HEAD_DIMS];
  int32_t offsets[EK_MOST_HEAD_DIMS / 32];
  for (size_t k = 0; k < a->dims; k++) values[k] = query[k] * scale;
  if (a->key_type != EK_TYPE_f16) ek_quantise_32_f32_scalar(values, a->dims, codes, scales, offsets);
  for (size_t k = 0; k < a->dims; k++) {
    const double value = a->key_type == EK_TYPE_f16 ? values[k] : (double)codes[k] * scales[k / 32];
    out[k] = a->softcap > 0 ? value : value * 0.69314718055994530942;
  }
}

static int sees(const ek_attention *a, int token, int position) {
  if (position < 0 || (a->causal && position > token)) return 0;
  return a->window == 0 || position > token - a->window;
}

/* One row; how many positions it attends to. */
static int attend(const world *w, size_t token, size_t head, const float *query, double *out) {
  const ek_attention *a = &w->attention;
  const size_t base = head * w->slots;
  const int32_t *positions = w->cache.positions + head * w->cache.positions_stride;
  double q[EK_MOST_HEAD_DIMS], most = -INFINITY, total = 0;
  double *scores = memory(w->slots * sizeof *scores);
  int seen = 0;
  read_query(a, query, q);
  for (size_t i = 0; i < w->slots; i++) {
    scores[i] = -INFINITY;
    if (!sees(a, integers(&w->positions)[token], positions[i])) continue;
    double dot = 0;
    for (size_t k = 0; k < a->dims; k++) dot += q[k] * w->keys[(base + i) * a->dims + k];
    scores[i] = a->softcap > 0 ? a->softcap * tanh(dot) : dot;
    most = fmax(most, scores[i]);
    seen++;
  }
  memset(out, 0, a->dims * sizeof *out);
  for (size_t i = 0; i < w->slots && seen; i++) {
    const double weight = exp(scores[i] - most);
    total += weight;
    for (size_t k = 0; k < a->dims; k++) out[k] += weight * w->values[(base + i) * a->dims + k];
  }
  for (size_t k = 0; k < a->dims && seen; k++) out[k] /= total;
  free(scores);
  return seen;
}

/* The largest error, beside the largest value of the output. */
static double compare(const world *w) {
  const ek_attention *a = &w->attention;
  double error = 0, size = 0, expected[EK_MOST_HEAD_DIMS];
  for (size_t row = 0; row < w->tokens * a->kv_heads * a->group; row++) {
    const float *actual = floats(&w->out) + row * a->dims;
    const size_t head = row / a->group % a->kv_heads, token = row / a->group / a->kv_heads;
    const int seen = attend(w, token, head, floats(&w->queries) + row * a->dims, expected);
    for (size_t k = 0; k < a->dims; k++) {
      if (!(fabs(actual[k] - expected[k]) <= error)) error = fabs(actual[k] - expected[k]);
      size = fmax(size, fabs(expected[k]));
      if (!seen) CHECK(actual[k] == 0);
    }
  }
  return size > 0 ? error / size : error;
}

/* Weights are integers of 15 bits, and so are weights x scales: small ones of many positions round to 0. */
static const double tolerance = 1e-3;

static double run_case(const ek_kernels *kernels, ek_pool *pool, world *w) {
  const ek_attention *a = &w->attention;
  const size_t bytes = w->out.bytes;
  size_t scratch;
  CHECK(ek_attention_scratch(a, w->tokens, w->cache.blocks, ek_pool_threads(pool), &scratch) == EK_OK);
  CHECK(scratch % 64 == 0);
  float *first = memory(bytes);
  ek_pool *const pools[] = {NULL, pool};
  for (int i = 0; i < 2; i++) {
    w->scratch = check_buffer_new(scratch, 4, CHECK_END);
    memset(w->out.data, 0xff, bytes);
    CHECK(ek_attention_run(kernels, pools[i], a, &w->cache, floats(&w->queries), integers(&w->positions), w->tokens,
                           floats(&w->out), w->scratch.data) == EK_OK);
    CHECK(check_buffer_tight(&w->out) && check_buffer_tight(&w->scratch));
    if (i == 0) memcpy(first, w->out.data, bytes);
    check_buffer_free(&w->scratch);
  }
  if (memcmp(first, w->out.data, bytes) != 0) check_fail("threads change the result");
  free(first);
  return compare(w);
}

static void test_arguments(const ek_kernels *kernels) {
  check_case("arguments");
  ek_attention good = {
      .key_type = EK_TYPE_f16, .value_type = EK_TYPE_q8_0, .kv_heads = 1, .group = 2, .dims = 64, .scale = 1};
  ek_attention bad[8];
  for (int i = 0; i < 8; i++) bad[i] = good;
  bad[0].key_type = EK_TYPE_q4_1;
  bad[1].value_type = EK_TYPES;
  bad[2].kv_heads = 0;
  bad[3].group = 1000;
  bad[4].dims = 48;
  bad[5].dims = 544;
  bad[6].window = -1;
  size_t bytes;
  CHECK(ek_attention_scratch(&good, 1, 0, 1, &bytes) == EK_OK);
  for (int i = 0; i < 7; i++) CHECK(ek_attention_scratch(&bad[i], 1, 1, 1, &bytes) == EK_BAD_ARGUMENT);
  CHECK(ek_attention_scratch(&good, 0, 1, 1, &bytes) == EK_BAD_ARGUMENT);
  CHECK(ek_attention_scratch(&good, 1, (size_t)1 << 40, 1, &bytes) == EK_BAD_ARGUMENT);
  CHECK(ek_attention_scratch(&good, 1, 1, 0, &bytes) == EK_BAD_ARGUMENT);
  CHECK(ek_attention_run(kernels, NULL, &good, NULL, NULL, NULL, 1, NULL, NULL) == EK_BAD_ARGUMENT);
}

int main(int argc, char **argv) {
  const check_options options = check_start(argc, argv, 90);
  ek_pool *pool;
  if (ek_pool_create(3, &pool) != EK_OK) return 1;
  for (int level = 0; level < EK_LEVELS; level++) {
    if (!check_wanted(&options, (ek_level)level)) continue;
    const ek_kernels kernels = ek_kernels_of((ek_level)level);
    double worst = 0;
    test_arguments(&kernels);
    for (int number = 0; number < options.cases; number++) {
      static world w;
      check_rng rng = check_seed("attention", number);
      make_world(&w, &rng, kernels.interleave, number);
      const ek_attention *a = &w.attention;
      check_case(
          "attention %s, case %d: %s keys, %s values, %zu x %zu heads of %zu, %zu tokens, %zu blocks, window %d, "
          "softcap %g",
          ek_level_name((ek_level)level), number, ek_formats[a->key_type].name, ek_formats[a->value_type].name,
          a->kv_heads, a->group, a->dims, w.tokens, w.cache.blocks, a->window, a->softcap);
      const double error = run_case(&kernels, pool, &w);
      if (!(error <= tolerance)) check_fail("error %g of the largest value", error);
      worst = fmax(worst, error);
      free_world(&w);
    }
    check_tested(options.cases, "attention %s, error up to %.1e", ek_level_name((ek_level)level), worst);
  }
  ek_pool_destroy(pool);
  return check_end();
}
