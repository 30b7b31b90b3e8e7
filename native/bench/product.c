/* gemv on a matrix larger than the last cache, beside a loop that reads it; gemm of 512 tokens, beside a loop of the
 * level's dot product alone. */
#include "bench.h"

#include "kernels/stripe.h"
#include "operators/matmul.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { GEMV_COLUMNS = 4096, GEMM_COLUMNS = 2048, GEMM_ROWS = 2048, GEMM_TOKENS = 512, SAME_ROWS = 64 };

typedef struct job {
  const bench_machine *machine;
  ek_kernels kernels;
  ek_matrix matrix;
  ek_activations x;
  size_t tokens, matrix_bytes;
  float *out;
  double peak_operations;
  const char *peak_name;
} job;

static void multiply(void *context) {
  const job *j = context;
  const ek_product product = {&j->matrix, j->out, j->matrix.rows};
  const ek_status status = ek_matmul(&j->kernels, j->machine->pool, &product, 1, &j->x, j->tokens);
  if (status != EK_OK) {
    fprintf(stderr, "ek_matmul: %s\n", ek_status_text(status));
    exit(1);
  }
}

static void read_matrix(void *context) {
  const job *j = context;
  const size_t task = 32 / EK_STRIPE * ek_stripe_bytes(j->matrix.type, j->matrix.columns);
  bench_read(j->machine, j->matrix.stripes, j->matrix_bytes, task);
}

static void run_peak(void *context) {
  job *j = context;
  j->peak_operations =
      bench_peak(j->machine, j->kernels.level, ek_activation_group(j->matrix.type) == 0, &j->peak_name);
}

/* `most` rows that repeat 64 random ones: what they hold does not matter, that they are in memory does. */
static uint8_t *make_matrix(job *j, enum ek_type type, size_t most, size_t columns) {
  size_t block_bytes, packed_bytes, same_bytes;
  if (ek_matrix_size(type, SAME_ROWS, columns, &block_bytes, &same_bytes) != EK_OK ||
      ek_matrix_size(type, most, columns, NULL, &packed_bytes) != EK_OK)
    abort();
  uint8_t *blocks = bench_memory(block_bytes), *packed = bench_memory(packed_bytes);
  bench_random_blocks(type, SAME_ROWS * columns / (size_t)ek_formats[type].block, blocks);
  if (ek_matrix_pack(&j->kernels, j->machine->pool, type, SAME_ROWS, columns, blocks, block_bytes, packed, &j->matrix))
    abort();
  for (size_t at = same_bytes; at < packed_bytes; at += same_bytes) {
    memcpy(packed + at, packed, packed_bytes - at < same_bytes ? packed_bytes - at : same_bytes);
  }
  free(blocks);
  return packed;
}

static void *make_vectors(job *j, size_t group, size_t columns, float **values) {
  size_t bytes;
  *values = bench_memory(j->tokens * columns * sizeof(float));
  bench_random_floats(*values, j->tokens * columns);
  if (ek_activations_size(group, j->tokens, columns, &bytes) != EK_OK) abort();
  void *memory = bench_memory(bytes);
  if (ek_activations_fill(&j->machine->kernels, NULL, group, *values, j->tokens, columns, memory, &j->x)) abort();
  return memory;
}

/* All rows, or of a slow kernel as many as it does in a sixteenth of the time, by those that all start with. */
static void choose_rows(job *j, size_t most) {
  double once = bench_once(multiply, j);
  for (int i = 0; i < 4; i++) {
    const double again = bench_once(multiply, j);
    if (again < once) once = again;
  }
  const size_t fit = (size_t)(j->machine->seconds / 16 / once) * SAME_ROWS;
  const int is_long = once * (double)most / SAME_ROWS > j->machine->seconds;
  j->matrix.rows = !is_long ? most : fit < SAME_ROWS ? SAME_ROWS : fit;
  j->matrix_bytes = j->matrix.rows / EK_STRIPE * ek_stripe_bytes(j->matrix.type, j->matrix.columns);
}

void bench_product(const bench_machine *machine, const bench_row *row, bench_result *result) {
  const int is_gemm = row->operation == BENCH_gemm;
  const size_t columns = is_gemm ? GEMM_COLUMNS : GEMV_COLUMNS, group = ek_activation_group(row->type);
  const size_t row_bytes = ek_stripe_bytes(row->type, columns) / EK_STRIPE;
  const size_t most = is_gemm ? GEMM_ROWS : (machine->large / row_bytes / SAME_ROWS + 1) * SAME_ROWS;
  job j = {.machine = machine, .kernels = ek_kernels_of(row->level)};
  j.tokens = is_gemm ? machine->emulated ? 16 : GEMM_TOKENS : 1;
  if (is_gemm) j.kernels.gemm[row->type] = (ek_gemm_fn *)row->kernel;
  if (!is_gemm) j.kernels.gemv[row->type] = (ek_gemv_fn *)row->kernel;
  float *values;
  void *memory = make_vectors(&j, group, columns, &values);
  uint8_t *packed = make_matrix(&j, row->type, most, columns);
  j.out = bench_memory(j.tokens * most * sizeof(float));
  choose_rows(&j, most);
  result->operations = 2.0 * (double)j.tokens * (double)j.matrix.rows * (double)columns;
  if (is_gemm) {
    bench_interleaved(multiply, run_peak, &j, machine->seconds, &result->time, &result->limit_time);
    result->limit = j.peak_name;
    result->limit_amount = j.peak_operations;
    snprintf(result->shape, sizeof result->shape, "%zu x %zu x %zu tokens", j.matrix.rows, columns, j.tokens);
  } else {
    bench_interleaved(multiply, read_matrix, &j, machine->seconds, &result->time, &result->limit_time);
    result->bytes = result->limit_amount = (double)j.matrix_bytes;
    result->limit = "read";
    result->limited_by_bytes = 1;
    snprintf(result->shape, sizeof result->shape, "%zu x %zu, %.1f MiB", j.matrix.rows, columns,
             result->bytes / (1 << 20));
  }
  free(j.out);
  free(packed);
  free(memory);
  free(values);
}
