/* The parts of attention over a cache larger than the last cache: four query heads to a KV head of 128 dimensions, as
 * many positions at a time as attention.c takes. */
#include "bench.h"

#include "kernels/cache_block.h"
#include "operators/matmul.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DIMS = 128, QUERIES = 4, TILE = EK_CACHE_TILE, TILE_POSITIONS = TILE * EK_CACHE_BLOCK };

typedef struct job {
  const bench_machine *machine;
  const bench_row *row;
  ek_activations queries;
  uint8_t *blocks;
  size_t block_bytes, tiles;
  const float *scores; /* (QUERIES, TILE_POSITIONS) */
  float weights[QUERIES * TILE_POSITIONS], factors[QUERIES];
} job;

static void tile_task(void *context, size_t tile, unsigned worker) {
  (void)worker;
  const job *j = context;
  const uint8_t *at[TILE];
  float out[QUERIES * (DIMS > TILE_POSITIONS ? DIMS : TILE_POSITIONS)] = {0};
  for (size_t b = 0; b < TILE; b++) at[b] = j->blocks + (tile * TILE + b) * j->block_bytes;
  if (j->row->operation == BENCH_scores) {
    ((ek_scores_fn *)j->row->kernel)(at, TILE, DIMS, &j->queries, QUERIES, out);
  } else {
    ((ek_values_fn *)j->row->kernel)(at, TILE, DIMS, j->weights, j->factors, QUERIES, out);
  }
}

static void run_tiles(void *context) {
  job *j = context;
  ek_pool_run(j->machine->pool, tile_task, j, j->tiles);
}

static void read_tiles(void *context) {
  const job *j = context;
  bench_read(j->machine, j->blocks, j->tiles * TILE * j->block_bytes, TILE * j->block_bytes);
}

/* Weights as the level's own online softmax gives them, which may be of another type than float. */
static void make_weights(job *j) {
  const ek_kernels kernels = ek_kernels_of(j->row->level);
  ek_online_softmax_fn *softmax = kernels.online_softmax[EK_TYPE_f32];
  memcpy(j->weights, j->scores, sizeof j->weights);
  for (int q = 0; q < QUERIES; q++) {
    float maximum = -INFINITY, sum = 0;
    j->factors[q] = 1;
    if (softmax) softmax(j->weights + q * TILE_POSITIONS, TILE_POSITIONS, &maximum, &sum, &j->factors[q]);
  }
}

/* One tile stored for each level as it wants it, and repeated. */
static void make_cache(job *j, size_t most) {
  const ek_cache_side side = j->row->operation == BENCH_scores ? EK_CACHE_KEYS : EK_CACHE_VALUES;
  const size_t tile_bytes = TILE * j->block_bytes;
  j->blocks = bench_memory(most * tile_bytes);
  memset(j->blocks, 0, tile_bytes);
  for (size_t p = 0; p < TILE_POSITIONS; p++) {
    float position[DIMS];
    bench_random_floats(position, DIMS);
    ek_cache_store(j->row->type, side, ek_level_interleave(j->row->level), DIMS, position, p % EK_CACHE_BLOCK,
                   j->blocks + p / EK_CACHE_BLOCK * j->block_bytes);
  }
  for (size_t t = 1; t < most; t++) memcpy(j->blocks + t * tile_bytes, j->blocks, tile_bytes);
}

static void bench_tiles(const bench_machine *machine, const bench_row *row, bench_result *result) {
  float values[QUERIES * DIMS], scores[QUERIES * TILE_POSITIONS];
  float memory[QUERIES * DIMS]; /* more than the codes, scales and offsets take */
  job j = {.machine = machine, .row = row, .scores = scores};
  j.block_bytes = ek_cache_block_bytes(row->type, DIMS);
  const size_t most = machine->large / (TILE * j.block_bytes) + 1;
  bench_random_floats(values, QUERIES * DIMS);
  bench_random_floats(scores, QUERIES * TILE_POSITIONS);
  if (ek_activations_fill(&machine->kernels, NULL, row->type == EK_TYPE_f16 ? 0 : 32, values, QUERIES, DIMS, memory,
                          &j.queries))
    abort();
  make_weights(&j);
  make_cache(&j, most);
  j.tiles = most < 8 ? most : 8;
  run_tiles(&j);
  const double once = bench_once(run_tiles, &j) / (double)j.tiles;
  j.tiles = once * (double)most < machine->seconds ? most : (size_t)(machine->seconds / 16 / once) + 1;
  bench_interleaved(run_tiles, read_tiles, &j, machine->seconds, &result->time, &result->limit_time);
  result->bytes = result->limit_amount = (double)(j.tiles * TILE * j.block_bytes);
  result->operations = 2.0 * DIMS * QUERIES * (double)(j.tiles * TILE_POSITIONS);
  result->limit = "read";
  result->limited_by_bytes = 1;
  snprintf(result->shape, sizeof result->shape, "%zu pos. x %d dims x %d heads", j.tiles * TILE_POSITIONS, DIMS,
           QUERIES);
  free(j.blocks);
}

/* --- the online softmax, in the first cache --- */

static void softmax_task(void *context, size_t index, unsigned worker) {
  (void)index, (void)worker;
  const job *j = context;
  float scores[QUERIES * TILE_POSITIONS], maximum = -INFINITY, sum = 0, factor;
  for (int i = 0; i < 64; i++) {
    memcpy(scores, j->scores, sizeof scores);
    for (int q = 0; q < QUERIES; q++) {
      float *at = scores + q * TILE_POSITIONS;
      ((ek_online_softmax_fn *)j->row->kernel)(at, TILE_POSITIONS, &maximum, &sum, &factor);
    }
  }
}

static void run_softmax(void *context) {
  job *j = context;
  ek_pool_run(j->machine->pool, softmax_task, j, j->tiles);
}

void bench_attention(const bench_machine *machine, const bench_row *row, bench_result *result) {
  if (row->operation != BENCH_online_softmax) {
    bench_tiles(machine, row, result);
    return;
  }
  float scores[QUERIES * TILE_POSITIONS];
  bench_random_floats(scores, QUERIES * TILE_POSITIONS);
  job j = {.machine = machine, .row = row, .scores = scores, .tiles = machine->emulated ? 1 : 64};
  bench_interleaved(run_softmax, NULL, &j, machine->seconds / 2, &result->time, NULL);
  result->bytes = (double)j.tiles * 64 * sizeof scores;
  snprintf(result->shape, sizeof result->shape, "%d scores", TILE_POSITIONS);
}
