/* The attention cache against a list of tokens for each sequence: random appends, truncations and forks, after each of
 * which every slot of every view is compared, and references and bytes are counted anew; memory that runs out at every
 * allocation; the size of a real model's cache. */
#include "cache/blocks.h"
#include "check.h"
#include "half.h"
#include "kernels/cache_block.h"
#include "operators/attention.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
  LAYERS = 3,
  SEQUENCES = 4,
  MOST_POSITIONS = 400,
  MOST_HEADS = 3,
  MOST_DIMS = 64,
  STEPS = 100,
  BLOCK = EK_CACHE_BLOCK
};

/* --- memory that is counted, and runs out --- */

typedef struct heap {
  uint64_t live, peak;
  long left; /* allocations until there is no memory; -1: never */
} heap;

static void *allocate(void *user, size_t bytes) {
  heap *h = user;
  if (h->left == 0) return NULL;
  if (h->left > 0) h->left--;
  void *memory = NULL;
  if (posix_memalign(&memory, 64, bytes ? bytes : 1) != 0) exit(2);
  memset(memory, 0xff, bytes); /* as floats NaN */
  h->live += bytes;
  if (h->live > h->peak) h->peak = h->live;
  return memory;
}

static void release(void *user, void *memory, size_t bytes) {
  heap *h = user;
  h->live -= bytes;
  free(memory);
}

/* --- a cache and what should be in it --- */

typedef struct tokens {
  int length, count, fresh;   /* count: reserved; fresh: not truncated since the last token */
  int stored[MOST_POSITIONS]; /* which token each position has: its rows follow from that */
} tokens;

typedef struct world {
  ek_model model;
  ek_layer layers[LAYERS];
  ek_kernels kernels;
  ek_cache_params params;
  ek_cache *cache;
  heap heap;
  ek_cache_allocator allocator;
  uint64_t fixed_bytes, block_bytes;
  int heads, dims, next_token;
  tokens sequences[SEQUENCES];
} world;

static int window_of(const world *w, int layer) { return w->layers[layer].sliding ? (int)w->model.shape.window : 0; }

static size_t lines(size_t bytes) { return (bytes + 63) / 64 * 64; }

static size_t side_bytes(enum ek_type type, size_t dims) {
  const size_t floats = BLOCK * dims;
  return lines(type == EK_TYPE_f32    ? 4 * floats
               : type == EK_TYPE_f16  ? 2 * floats
               : type == EK_TYPE_q8_0 ? floats + floats / 16
                                      : floats / 2 + floats / 16);
}

static void make_model(world *w, check_rng *rng, int number) {
  static const enum ek_type types[] = {EK_TYPE_f16, EK_TYPE_q8_0, EK_TYPE_q4_0};
  static const uint32_t windows[] = {1, 2, 15, 16, 17, 40, 100, 300, 1000};
  w->dims = check_below(rng, 2) ? 32 : 64;
  w->kernels = ek_kernels_of(EK_LEVEL_scalar);
  w->kernels.interleave = number % 2 ? 16 : 4;
  w->model = (ek_model){.layers = w->layers, .kernels = &w->kernels};
  w->model.shape = (ek_shape){.layers = LAYERS, .padded_dim = (uint32_t)w->dims, .window = windows[number % 9]};
  for (int i = 0; i < LAYERS; i++) {
    w->layers[i] = (ek_layer){.kv_heads = (uint32_t)(1 + check_below(rng, MOST_HEADS)), .sliding = check_below(rng, 2)};
    w->heads += (int)w->layers[i].kv_heads;
  }
  const int floats = number % 10 == 9;
  w->params = (ek_cache_params){.key_type = floats ? EK_TYPE_f32 : types[number % 3],
                                .value_type = floats ? EK_TYPE_f32 : types[number / 3 % 3],
                                .positions = (uint32_t)(1 + check_below(rng, MOST_POSITIONS)),
                                .sequences = (uint32_t)(1 + check_below(rng, SEQUENCES)),
                                .step = (uint32_t)check_below(rng, check_below(rng, 2) ? 20 : MOST_POSITIONS)};
}

static void make_world(world *w, check_rng *rng, int number) {
  memset(w, 0, sizeof *w);
  make_model(w, rng, number);
  w->allocator = (ek_cache_allocator){allocate, release, &w->heap};
  for (long left = 0; !w->cache; left++) { /* no memory at each allocation */
    w->heap.left = left;
    const ek_status status = ek_cache_create_in(&w->allocator, &w->model, &w->params, &w->cache);
    CHECK(status == (w->cache ? EK_OK : EK_NO_MEMORY));
    if (!w->cache) CHECK(w->heap.live == 0 && strstr(ek_last_error(), "positions"));
    if (left > 100) exit(1);
  }
  const ek_cache_params *p = ek_cache_described(w->cache);
  CHECK(p->step == (w->params.step ? w->params.step : 128) && p->value_type == w->params.value_type);
  w->params.step = p->step;
  w->heap.left = -1;
  w->heap.peak = w->fixed_bytes = w->heap.live;
  w->block_bytes =
      64 + side_bytes(w->params.key_type, (size_t)w->dims) + side_bytes(w->params.value_type, (size_t)w->dims);
}

/* Rows of a token: some with what is not finite, or too large for the type. */
static void make_row(const world *w, int token, int layer, int head, ek_cache_side side, float *row) {
  check_rng rng = check_seed("row", ((token * LAYERS + layer) * MOST_HEADS + head) * 2 + (int)side);
  const float size = check_uniform(&rng, 0.1f, 3);
  for (int k = 0; k < w->dims; k++) row[k] = size * check_uniform(&rng, -1, 1);
  if (check_below(&rng, 8) == 0) memset(row, 0, 32 * sizeof *row);
  if (check_below(&rng, 20) == 0) row[check_below(&rng, w->dims)] = check_below(&rng, 2) ? NAN : INFINITY;
  if (check_below(&rng, 20) == 0) row[check_below(&rng, w->dims)] = -1e30f;
}

/* What 32 values read as once they are stored: GGUF's rounding, by its formulas. */
static void round_group(enum ek_type type, float *x) {
  float most = 0;
  int finite = 1;
  for (int k = 0; k < 32; k++) {
    finite &= isfinite(x[k]) != 0;
    if (fabsf(x[k]) > fabsf(most)) most = x[k];
  }
  const float d = type == EK_TYPE_q8_0 ? fabsf(most) / 127 : most / -8, inverse = d != 0 ? 1 / d : 0;
  const float read = ek_float_of_half(ek_half_of_float(d));
  for (int k = 0; k < 32; k++) {
    if (type == EK_TYPE_f32) continue;
    if (type == EK_TYPE_f16) {
      x[k] = ek_float_of_half(ek_half_of_float(x[k]));
    } else if (!finite || isinf(read)) {
      x[k] = NAN;
    } else {
      x[k] = read * (type == EK_TYPE_q8_0 ? roundf(x[k] * inverse) : fminf(floorf(x[k] * inverse + 8.5f), 15) - 8);
    }
  }
}

static void read_slot(const world *w, ek_cache_side side, const uint8_t *block, int slot, float *row) {
  const enum ek_type type = side == EK_CACHE_KEYS ? w->params.key_type : w->params.value_type;
  const size_t dims = (size_t)w->dims;
  if (type == EK_TYPE_f32) {
    memcpy(row, block + (size_t)slot * dims * sizeof(float), dims * sizeof(float));
  } else {
    ek_cache_load(type, side, w->kernels.interleave, dims, block, (size_t)slot, row);
  }
}

static int same_rows(const float *a, const float *b, int count) {
  for (int k = 0; k < count; k++) {
    if (!(a[k] == b[k] || (isnan(a[k]) && isnan(b[k])))) return 0;
  }
  return 1;
}

/* --- views --- */

/* token: what the slot should have; -1: zeros. */
static int slot_right(const world *w, int token, int layer, int head, const uint8_t *keys, const uint8_t *values,
                      int slot) {
  for (int side = 0; side < 2; side++) {
    const enum ek_type type = side == EK_CACHE_KEYS ? w->params.key_type : w->params.value_type;
    float expected[MOST_DIMS] = {0}, actual[MOST_DIMS];
    if (token >= 0) make_row(w, token, layer, head, (ek_cache_side)side, expected);
    for (int k = 0; k < w->dims; k += 32) round_group(type, expected + k);
    read_slot(w, (ek_cache_side)side, side == EK_CACHE_KEYS ? keys : values, slot, actual);
    if (!same_rows(expected, actual, w->dims)) return 0;
  }
  return 1;
}

/* Which positions a head has: each at most once, before `end`, and with the right rows. Empty slots of an open layer
 * are zero. */
static void look_at_head(const world *w, int sequence, int layer, int head, int end, int open, char *present) {
  const tokens *t = &w->sequences[sequence];
  ek_attention_cache view;
  ek_cache_view(w->cache, (uint32_t)sequence, (uint32_t)layer, &view);
  memset(present, 0, MOST_POSITIONS);
  for (size_t b = 0; b < view.blocks; b++) {
    const size_t at = (size_t)head * view.blocks_stride + b;
    const int32_t *positions = view.positions + (size_t)head * view.positions_stride + b * BLOCK;
    for (int slot = 0; slot < BLOCK; slot++) {
      const int p = positions[slot];
      if (p >= end || p < -1 || (p >= 0 && present[p])) {
        check_fail("layer %d, head %d: slot of position %d", layer, head, p);
      } else if (p >= 0 || open) {
        if (p >= 0) present[p] = 1;
        if (!slot_right(w, p < 0 ? -1 : t->stored[p], layer, head, view.keys[at], view.values[at], slot))
          check_fail("sequence %d, layer %d, head %d: rows at position %d", sequence, layer, head, p);
      }
    }
  }
}

/* Whether positions that the token at `length` sees are all there. */
static int has_window(const world *w, int layer, const char *present, int length) {
  const int window = window_of(w, layer);
  for (int p = window > 0 && length >= window ? length - window + 1 : 0; p < length; p++) {
    if (!present[p]) return 0;
  }
  return 1;
}

static int blocks_of(int positions) { return (positions + BLOCK - 1) / BLOCK; }

/* A layer with the positions before `end`; open: with room for all reserved ones. */
static void check_layer(const world *w, int sequence, int layer, int end, int open) {
  const tokens *t = &w->sequences[sequence];
  ek_attention_cache view;
  ek_cache_view(w->cache, (uint32_t)sequence, (uint32_t)layer, &view);
  const int window = window_of(w, layer), all = blocks_of(open ? t->length + t->count : end);
  const int ring = blocks_of(window) + 1 + (open ? blocks_of((int)w->params.step) : 0);
  CHECK(window > 0 || (int)view.blocks == all);
  CHECK((int)view.blocks <= all && (window == 0 || (int)view.blocks <= ring));
  for (int head = 0; head < (int)w->layers[layer].kv_heads; head++) {
    char present[MOST_POSITIONS];
    look_at_head(w, sequence, layer, head, end, open, present);
    CHECK(has_window(w, layer, present, t->length < end && open ? t->length : end));
    for (int p = t->length; p < end && open; p++) CHECK(present[p]);
    CHECK(t->length == end || has_window(w, layer, present, end - 1)); /* the last one can be taken back */
  }
}

static void check_sequence(const world *w, int sequence) {
  CHECK(ek_cache_length(w->cache, (uint32_t)sequence) == (uint64_t)w->sequences[sequence].length);
  for (int layer = 0; layer < LAYERS; layer++) check_layer(w, sequence, layer, w->sequences[sequence].length, 0);
}

/* --- references and bytes --- */

static int compare_pointers(const void *a, const void *b) {
  const uintptr_t x = (uintptr_t)*(uint8_t *const *)a, y = (uintptr_t)*(uint8_t *const *)b;
  return x < y ? -1 : x > y;
}

static void check_bytes_of(const world *w, int most_free) {
  static uint8_t *all[SEQUENCES * LAYERS * MOST_HEADS * (MOST_POSITIONS / BLOCK + 1)];
  size_t count = 0, distinct = 0, shared = 0;
  for (uint32_t i = 0; i < w->params.sequences * LAYERS; i++) {
    ek_attention_cache view;
    ek_cache_view(w->cache, i / LAYERS, i % LAYERS, &view);
    for (size_t b = 0; b < view.blocks * w->layers[i % LAYERS].kv_heads; b++)
      all[count++] = (uint8_t *)(uintptr_t)view.keys[b / view.blocks * view.blocks_stride + b % view.blocks];
  }
  qsort(all, count, sizeof *all, compare_pointers);
  for (size_t i = 0, times; i < count; i += times) {
    for (times = 1; i + times < count && all[i + times] == all[i]; times++) {
    }
    CHECK(ek_cache_block_of(all[i])->references == times);
    distinct++;
    shared += times > 1;
  }
  uint64_t allocated_bytes, peak_bytes, shared_bytes;
  ek_cache_bytes(w->cache, &allocated_bytes, &peak_bytes, &shared_bytes);
  const uint64_t held = w->fixed_bytes + distinct * w->block_bytes;
  CHECK(allocated_bytes == w->heap.live && peak_bytes == w->heap.peak);
  CHECK(shared_bytes == shared * w->block_bytes);
  CHECK(allocated_bytes >= held && (allocated_bytes - held) % w->block_bytes == 0);
  CHECK(allocated_bytes <= held + (uint64_t)most_free * w->block_bytes);
}

/* --- operations --- */

/* Once for each allocation that it makes without getting it, and once with all of them; changes nothing yet. */
static void reserve(world *w, int sequence, int count, int starve) {
  const uint64_t before = w->heap.live;
  ek_status status = EK_NO_MEMORY;
  for (long left = 0; starve && status == EK_NO_MEMORY; left++) {
    w->heap.left = left;
    status = ek_cache_reserve(w->cache, (uint32_t)sequence, (size_t)count);
    if (status != EK_NO_MEMORY) break;
    CHECK(w->heap.live == before && strstr(ek_last_error(), "memory"));
    check_bytes_of(w, 1 << 20);
  }
  w->heap.left = -1;
  if (!starve) status = ek_cache_reserve(w->cache, (uint32_t)sequence, (size_t)count);
  CHECK(status == EK_OK);
  check_sequence(w, sequence);
  w->sequences[sequence].count = count;
  if (count == 0) return;
  CHECK(ek_cache_reserve(w->cache, (uint32_t)sequence, 0) == EK_BAD_ARGUMENT);
  CHECK(ek_cache_truncate(w->cache, (uint32_t)sequence, 0) == EK_BAD_ARGUMENT);
  for (uint32_t other = 0; other < w->params.sequences; other++) {
    CHECK(ek_cache_fork(w->cache, (uint32_t)sequence, other) == EK_BAD_ARGUMENT);
    CHECK(ek_cache_fork(w->cache, other, (uint32_t)sequence) == EK_BAD_ARGUMENT);
  }
}

/* The first `count` reserved tokens, in some order. */
static void store(world *w, int sequence, int layer, int count) {
  const tokens *t = &w->sequences[sequence];
  for (int head = 0; head < (int)w->layers[layer].kv_heads; head++) {
    for (int i = 0; i < count; i++) {
      const int index = head == 1 ? count - 1 - i : i, token = t->stored[t->length + index];
      float key[MOST_DIMS], value[MOST_DIMS];
      make_row(w, token, layer, head, EK_CACHE_KEYS, key);
      make_row(w, token, layer, head, EK_CACHE_VALUES, value);
      ek_cache_store_head(w->cache, (uint32_t)sequence, (uint32_t)layer, (uint32_t)head, (size_t)index, key, value);
    }
  }
}

/* The reserved tokens of all sequences, in one layer. */
static void pass_layer(world *w, int layer) {
  for (int i = 0; i < (int)w->params.sequences; i++) {
    if (w->sequences[i].count > 0) ek_cache_open_layer(w->cache, (uint32_t)i, (uint32_t)layer);
  }
  for (int i = 0; i < (int)w->params.sequences; i++) {
    const tokens *t = &w->sequences[i];
    if (t->count == 0) continue;
    check_layer(w, i, layer, t->length, 1);
    store(w, i, layer, t->count);
    check_layer(w, i, layer, t->length + t->count, 1);
  }
  check_bytes_of(w, 1 << 20);
  for (int i = 0; i < (int)w->params.sequences; i++) {
    const tokens *t = &w->sequences[i];
    if (t->count == 0) continue;
    ek_cache_close_layer(w->cache, (uint32_t)i, (uint32_t)layer);
    check_layer(w, i, layer, t->length + t->count, t->count == 1); /* a single one lets go when it is committed */
  }
}

/* Which positions all heads of a sequence have. */
typedef char presence[LAYERS][MOST_HEADS][MOST_POSITIONS];

static void look_at(const world *w, int sequence, presence *all) {
  memset(*all, 0, sizeof *all);
  for (int layer = 0; layer < LAYERS; layer++) {
    for (int head = 0; head < (int)w->layers[layer].kv_heads; head++)
      look_at_head(w, sequence, layer, head, w->sequences[sequence].length, 0, (*all)[layer][head]);
  }
}

/* counts[i] tokens more for sequence i. Once they are reserved, no memory is needed. */
static void add(world *w, check_rng *rng, const int *counts) {
  for (int i = 0; i < (int)w->params.sequences; i++) {
    tokens *t = &w->sequences[i];
    if (counts[i] > 0) reserve(w, i, counts[i], check_below(rng, 4) == 0);
    for (int k = 0; k < counts[i]; k++) t->stored[t->length + k] = w->next_token++;
  }
  w->heap.left = 0;
  static presence before[SEQUENCES], after;
  for (int i = 0; i < (int)w->params.sequences; i++) look_at(w, i, &before[i]);
  const int abandon = check_below(rng, 4) == 0;
  int single = 1;
  for (int i = 0; i < (int)w->params.sequences; i++) single &= counts[i] <= 1;
  const int layers = !abandon ? LAYERS : single ? check_below(rng, LAYERS + 1) : 0;
  for (int layer = 0; layer < layers; layer++) pass_layer(w, layer);
  for (int i = 0; i < (int)w->params.sequences; i++) {
    tokens *t = &w->sequences[i];
    if (t->count == 0) continue;
    if (abandon && layers < LAYERS && check_below(rng, 2)) {
      ek_cache_open_layer(w->cache, (uint32_t)i, (uint32_t)layers);
      store(w, i, layers, check_below(rng, t->count + 1));
    }
    if (abandon) {
      ek_cache_abandon(w->cache, (uint32_t)i);
      check_sequence(w, i);
      look_at(w, i, &after);
      CHECK(memcmp(before[i], after, sizeof after) == 0);
    } else {
      ek_cache_commit(w->cache, (uint32_t)i);
      t->length += t->count;
      t->fresh = 1;
    }
    t->count = 0;
    check_bytes_of(w, 1 << 20);
  }
  w->heap.left = -1;
  check_bytes_of(w, w->heads);
}

static void append(world *w, check_rng *rng, int sequence) {
  const int step = (int)w->params.step, room = (int)w->params.positions - w->sequences[sequence].length;
  const uint32_t at = (uint32_t)sequence;
  int counts[SEQUENCES] = {0};
  counts[sequence] = check_below(rng, 3) ? check_below(rng, 20) : check_below(rng, MOST_POSITIONS);
  CHECK(ek_cache_fits(w->cache, at, (size_t)room) == EK_OK);
  CHECK(ek_cache_fits(w->cache, at, (size_t)room + 1) == EK_CACHE_FULL);
  CHECK(ek_cache_fits(w->cache, at, SIZE_MAX) == EK_CACHE_FULL);
  if (counts[sequence] > room) {
    char fits[32];
    snprintf(fits, sizeof fits, " %d more fit", room);
    CHECK(ek_cache_reserve(w->cache, at, (size_t)counts[sequence]) == EK_CACHE_FULL);
    CHECK(strstr(ek_last_error(), fits));
  } else if (counts[sequence] > step) {
    CHECK(ek_cache_reserve(w->cache, at, (size_t)counts[sequence]) == EK_BAD_ARGUMENT);
  } else if (counts[sequence] == 0) {
    CHECK(ek_cache_reserve(w->cache, at, 0) == EK_OK);
    ek_cache_commit(w->cache, at);
  } else {
    add(w, rng, counts);
  }
}

/* Tokens for each sequence that has room: one, as a batch is decoded, or several. */
static void add_to_all(world *w, check_rng *rng) {
  int counts[SEQUENCES] = {0}, most = check_below(rng, 2) ? 1 : 1 + check_below(rng, (int)w->params.step);
  for (int i = 0; i < (int)w->params.sequences; i++) {
    const int room = (int)w->params.positions - w->sequences[i].length;
    if (room > 0) counts[i] = 1 + check_below(rng, room < most ? room : most);
  }
  add(w, rng, counts);
}

static void truncate_to(world *w, int sequence, int length) {
  tokens *t = &w->sequences[sequence];
  int possible = length <= t->length;
  for (int layer = 0; layer < LAYERS && possible && length > 0; layer++) {
    char present[MOST_POSITIONS];
    look_at_head(w, sequence, layer, 0, t->length, 0, present);
    possible = has_window(w, layer, present, length);
  }
  const ek_status status = ek_cache_truncate(w->cache, (uint32_t)sequence, (uint64_t)length);
  CHECK(status == (possible ? EK_OK : EK_BAD_ARGUMENT));
  CHECK(status == EK_OK || !t->fresh || length < t->length - 1 || length > t->length); /* it can be taken back */
  if (possible && length < t->length) t->fresh = 0;
  if (possible) t->length = length;
  check_bytes_of(w, !possible ? 1 << 20 : length > 0 ? w->heads : 0);
  if (possible || length > t->length) return;
  const char *at = strstr(ek_last_error(), "truncate it to "); /* the least that works: less does not, it does */
  const int least = at ? atoi(at + strlen("truncate it to ")) : 0;
  CHECK(least > length && least <= t->length);
  CHECK(ek_cache_truncate(w->cache, (uint32_t)sequence, (uint64_t)least - 1) == EK_BAD_ARGUMENT);
  CHECK(ek_cache_truncate(w->cache, (uint32_t)sequence, (uint64_t)least) == EK_OK);
  if (least < t->length) t->fresh = 0;
  t->length = least;
}

static void fork_sequence(world *w, int from, int to) {
  w->heap.left = 0; /* needs no memory */
  CHECK(ek_cache_fork(w->cache, (uint32_t)from, (uint32_t)to) == EK_OK);
  w->heap.left = -1;
  w->sequences[to] = w->sequences[from];
  check_bytes_of(w, 1 << 20);
  check_sequence(w, from);
}

static void refuse(world *w) {
  const uint32_t none = w->params.sequences;
  CHECK(ek_cache_fits(w->cache, none, 1) == EK_BAD_ARGUMENT);
  CHECK(ek_cache_reserve(w->cache, none, 1) == EK_BAD_ARGUMENT && strstr(ek_last_error(), "no sequence"));
  CHECK(ek_cache_truncate(w->cache, none, 0) == EK_BAD_ARGUMENT);
  CHECK(ek_cache_fork(w->cache, 0, none) == EK_BAD_ARGUMENT);
  CHECK(ek_cache_fork(w->cache, none, 0) == EK_BAD_ARGUMENT);
  CHECK(ek_cache_reserve(w->cache, 0, (size_t)w->params.step + 1) != EK_OK);
}

static void test_random(int cases) {
  static world w;
  for (int number = 0; number < cases; number++) {
    check_rng rng = check_seed("cache", number);
    check_case("cache %d", number);
    make_world(&w, &rng, number);
    for (int i = 0; i < STEPS && check_failures() == 0; i++) {
      const int sequence = check_below(&rng, (int)w.params.sequences), length = w.sequences[sequence].length;
      const int other = check_below(&rng, (int)w.params.sequences), what = check_below(&rng, 20);
      check_case("cache %d, window %u, step %d: operation %d of sequence %d", number, w.model.shape.window, i, what,
                 sequence);
      if (what < 8) append(&w, &rng, sequence);
      if (what >= 8 && what < 14) add_to_all(&w, &rng);
      if (what == 14) truncate_to(&w, sequence, check_below(&rng, length + 3));
      if (what == 15) truncate_to(&w, sequence, length - check_below(&rng, length < 20 ? length + 1 : 20));
      if (what == 16 && check_below(&rng, 3) == 0) truncate_to(&w, sequence, 0);
      if (what >= 17 && what < 19) fork_sequence(&w, sequence, other);
      if (what == 19) refuse(&w);
      check_sequence(&w, sequence);
    }
    for (int i = 0; i < (int)w.params.sequences; i++) check_sequence(&w, i);
    ek_cache_free(w.cache);
    CHECK(w.heap.live == 0);
  }
  check_tested(cases, "random operations");
}

/* --- attention over a view --- */

/* The same bytes as over the view's blocks in arrays without gaps. */
static void test_attention(void) {
  static world w;
  enum { GROUP = 2, TOKENS = 3 };
  check_rng rng = check_seed("view", 0);
  check_case("attention over a view");
  do make_world(&w, &rng, 3); /* q8_0 keys, window 16 */
  while ((w.layers[0].kv_heads != MOST_HEADS || w.params.positions < 100) && (ek_cache_free(w.cache), 1));
  for (int i = 0; w.sequences[0].length < 100; i++) {
    reserve(&w, 0, 1, 0);
    w.sequences[0].stored[i] = 40 * i;
    for (int layer = 0; layer < LAYERS; layer++) pass_layer(&w, layer);
    ek_cache_commit(w.cache, 0);
    w.sequences[0].length++;
    w.sequences[0].count = 0;
  }
  ek_attention_cache view, dense;
  ek_cache_view(w.cache, 0, 0, &view);
  const uint8_t *keys[MOST_HEADS * 30], *values[MOST_HEADS * 30];
  for (size_t i = 0; i < MOST_HEADS * view.blocks; i++) {
    keys[i] = view.keys[i / view.blocks * view.blocks_stride + i % view.blocks];
    values[i] = view.values[i / view.blocks * view.blocks_stride + i % view.blocks];
  }
  dense = (ek_attention_cache){view.blocks, keys, values, view.positions, view.positions_stride, 0};
  const ek_attention a = {w.params.key_type, w.params.value_type, MOST_HEADS, GROUP, (size_t)w.dims, 0.2f, 0, 0, 1};
  float queries[TOKENS * MOST_HEADS * GROUP * MOST_DIMS], out[2][TOKENS * MOST_HEADS * GROUP * MOST_DIMS] = {{0}};
  for (size_t i = 0; i < sizeof queries / sizeof *queries; i++) queries[i] = check_gaussian(&rng);
  const int32_t positions[TOKENS] = {97, 98, 99};
  size_t bytes;
  CHECK(ek_attention_scratch(&a, TOKENS, view.blocks, 1, &bytes) == EK_OK);
  void *scratch = allocate(&w.heap, bytes);
  CHECK(ek_attention_run(&w.kernels, NULL, &a, &view, queries, positions, TOKENS, out[0], scratch) == EK_OK);
  CHECK(ek_attention_run(&w.kernels, NULL, &a, &dense, queries, positions, TOKENS, out[1], scratch) == EK_OK);
  CHECK(memcmp(out[0], out[1], sizeof out[0]) == 0 && out[0][0] != 0);
  release(&w.heap, scratch, bytes);
  ek_cache_free(w.cache);
  check_tested(1, "attention over a view");
}

/* --- sizes --- */

/* Gemma 3 270M at 8192 tokens: at most a quarter of f16 blocks of all positions in all layers, while it is filled too.
 */
static void test_gemma(void) {
  enum { GEMMA_LAYERS = 18, DIMS = 256, LENGTH = 8192, STEP = 512 };
  ek_layer layers[GEMMA_LAYERS];
  for (int i = 0; i < GEMMA_LAYERS; i++) layers[i] = (ek_layer){.kv_heads = 1, .sliding = i % 6 != 5};
  const ek_kernels kernels = ek_kernels_of(EK_LEVEL_scalar);
  const ek_model model = {
      .shape = {.layers = GEMMA_LAYERS, .padded_dim = DIMS, .window = 512}, .layers = layers, .kernels = &kernels};
  const ek_cache_params params = {EK_TYPE_f16, EK_TYPE_f16, LENGTH, 1, STEP};
  const uint64_t all = UINT64_C(2) * 2 * GEMMA_LAYERS * DIMS * LENGTH;
  uint64_t allocated, peak, shared;
  ek_cache *cache = NULL;
  check_case("Gemma 3 270M at 8192 tokens");
  CHECK(ek_cache_create(&model, &params, &cache) == EK_OK);
  for (int i = 0; cache && i < LENGTH / STEP; i++) {
    CHECK(ek_cache_reserve(cache, 0, STEP) == EK_OK);
    for (uint32_t layer = 0; layer < GEMMA_LAYERS; layer++) {
      ek_cache_open_layer(cache, 0, layer);
      ek_cache_close_layer(cache, 0, layer);
    }
    ek_cache_commit(cache, 0);
  }
  ek_cache_bytes(cache, &allocated, &peak, &shared);
  printf("Gemma 3 270M at 8192 tokens: %.1f %% of all layers' f16 positions, at most %.1f %%\n",
         100.0 * (double)allocated / (double)all, 100.0 * (double)peak / (double)all);
  CHECK(peak <= all / 4 && allocated <= peak && allocated > all / 6 && shared == 0);
  ek_cache_free(cache);
  check_tested(1, "Gemma 3 270M at 8192 tokens");
}

static void test_refusals(void) {
  check_case("refusals");
  ek_layer layer = {.kv_heads = 1};
  const ek_kernels kernels = ek_kernels_of(EK_LEVEL_scalar);
  const ek_model model = {.shape = {.layers = 1, .padded_dim = 32}, .layers = &layer, .kernels = &kernels};
  const ek_cache_params wrong[] = {{EK_TYPE_f32, EK_TYPE_f16, 1, 1, 0},  {EK_TYPE_q8_0, EK_TYPE_f32, 1, 1, 0},
                                   {EK_TYPE_q4_k, EK_TYPE_f16, 1, 1, 0}, {EK_TYPE_f16, EK_TYPE_f16, 0, 1, 0},
                                   {EK_TYPE_f16, EK_TYPE_f16, 1, 0, 0},  {EK_TYPE_f16, EK_TYPE_f16, UINT32_MAX, 1, 0}};
  ek_cache *cache = NULL;
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
    CHECK(ek_cache_create(&model, &wrong[i], &cache) == EK_BAD_ARGUMENT);
  layer.kv_heads = UINT32_MAX; /* tables of more bytes than there are */
  const ek_cache_params large = {EK_TYPE_f16, EK_TYPE_f16, INT32_MAX, 1, 0};
  CHECK(ek_cache_create(&model, &large, &cache) == EK_NO_MEMORY && !cache);
  check_tested(1, "refusals");
}

int main(int argc, char **argv) {
  const check_options options = check_start(argc, argv, 60);
  test_random(options.cases);
  test_attention();
  test_gemma();
  test_refusals();
  return check_end();
}
