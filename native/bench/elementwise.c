/* The operations between the products, on vectors as long as a token's, in the first two caches, on all threads. */
#include "bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { COUNT = 4096, HEAD = 128, REPEATS = 16 };

/* A worker's own operands. */
typedef struct vectors {
  float a[COUNT], b[COUNT], c[COUNT], scales[COUNT / 32];
  int32_t offsets[COUNT / 32];
  int16_t sums[COUNT / 16];
  int8_t codes[COUNT];
} vectors;

typedef struct job {
  const bench_machine *machine;
  const bench_row *row;
  vectors *vectors; /* for each worker */
  size_t tasks;
} job;

static void call(const bench_row *row, vectors *v) {
  void (*kernel)(void) = row->kernel;
  switch (row->operation) {
  case BENCH_quantise_32:
    ((ek_quantise_32_fn *)kernel)(v->a, COUNT, v->codes, v->scales, v->offsets);
    break;
  case BENCH_quantise_256:
    ((ek_quantise_256_fn *)kernel)(v->a, COUNT, v->codes, v->scales, v->sums);
    break;
  case BENCH_rms_norm:
    ((ek_rms_norm_fn *)kernel)(v->a, v->b, COUNT, 1e-6f, v->c);
    break;
  case BENCH_rope_halves:
  case BENCH_rope_adjacent: /* by less than they would grow in the course of it */
    for (int i = 0; i < COUNT; i += HEAD) ((ek_rope_halves_fn *)kernel)(v->a + i, HEAD / 2, v->scales, v->scales + 64);
    break;
  case BENCH_hadamard:
    for (int i = 0; i < COUNT; i += HEAD) ((ek_hadamard_fn *)kernel)(v->a + i, HEAD);
    break;
  case BENCH_swiglu:
  case BENCH_geglu:
    ((ek_swiglu_fn *)kernel)(v->a, v->b, COUNT, v->c);
    break;
  default:
    ((ek_softmax_fn *)kernel)(v->c, COUNT);
  }
}

/* Bytes that a call reads and writes. */
static double bytes_of(bench_operation operation) {
  const double one = COUNT * sizeof(float);
  switch (operation) {
  case BENCH_quantise_32:
    return one + COUNT + COUNT / 32 * 8;
  case BENCH_quantise_256:
    return one + COUNT + COUNT / 256 * 4 + COUNT / 16 * 2;
  case BENCH_rope_halves:
  case BENCH_rope_adjacent:
  case BENCH_hadamard:
  case BENCH_softmax:
    return 2 * one;
  default:
    return 3 * one;
  }
}

static void task(void *context, size_t index, unsigned worker) {
  (void)index;
  const job *j = context;
  for (int i = 0; i < REPEATS; i++) call(j->row, &j->vectors[worker]);
}

static void run(void *context) {
  job *j = context;
  ek_pool_run(j->machine->pool, task, j, j->tasks);
}

void bench_elementwise(const bench_machine *machine, const bench_row *row, bench_result *result) {
  const unsigned threads = ek_pool_threads(machine->pool);
  const int of_heads =
      row->operation == BENCH_rope_halves || row->operation == BENCH_rope_adjacent || row->operation == BENCH_hadamard;
  job j = {.machine = machine, .row = row, .tasks = machine->emulated ? threads : 8 * (size_t)threads};
  j.vectors = bench_memory(threads * sizeof *j.vectors);
  for (unsigned w = 0; w < threads; w++) {
    vectors *v = &j.vectors[w];
    bench_random_floats(v->a, COUNT);
    bench_random_floats(v->b, COUNT);
    bench_random_floats(v->c, COUNT);
    for (int i = 0; i < 64; i++) { /* cosines and sines */
      v->scales[i] = 0.6f;
      v->scales[64 + i] = 0.8f;
    }
  }
  bench_interleaved(run, NULL, &j, machine->seconds / 2, &result->time, NULL);
  result->bytes = bytes_of(row->operation) * REPEATS * (double)j.tasks;
  snprintf(result->shape, sizeof result->shape, of_heads ? "%d in heads of %d" : "%d", COUNT, HEAD);
  free(j.vectors);
}
