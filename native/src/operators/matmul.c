#include "operators/matmul.h"

#include "kernels/stripe.h"

#include <string.h>

/* A task is some rows of one token, or more rows of up to 64 tokens, whose codes stay in a core's own cache: gemm
 * reorders its vectors for each task. There are enough tasks for all threads to end together. Each result is computed
 * whole and in one order, so it is the same however the tasks are cut. */
enum { LEAST_ROWS = 32, GEMV_ROWS = 128, GEMM_ROWS = 1024, TASKS_PER_THREAD = 12 };
enum { CHUNK_BYTES = 256 << 10, CHUNK_TOKENS = 16, MOST_CHUNK = 64 };
enum { PACK_ROWS = 32, PACK_STRIPES = PACK_ROWS / EK_STRIPE };

static size_t ceil_div(size_t a, size_t b) { return a / b + (a % b != 0); }

static int is_type(enum ek_type type) { return (unsigned)type < EK_TYPES; }

/* 0 on success, as the builtins. */
static int times(size_t a, size_t b, size_t *product) { return __builtin_mul_overflow(a, b, product); }

ek_status ek_matrix_size(enum ek_type type, size_t rows, size_t columns, size_t *block_bytes, size_t *packed_bytes) {
  if (!is_type(type) || rows == 0 || columns == 0) return EK_BAD_ARGUMENT;
  const ek_format *format = &ek_formats[type];
  if (columns % (size_t)format->block != 0 || columns > SIZE_MAX / 64) return EK_BAD_ARGUMENT;
  size_t blocks, packed;
  if (times(rows, columns / (size_t)format->block * (size_t)format->block_bytes, &blocks)) return EK_BAD_ARGUMENT;
  if (times(ceil_div(rows, EK_STRIPE), ek_stripe_bytes(type, columns), &packed)) return EK_BAD_ARGUMENT;
  if (block_bytes) *block_bytes = blocks;
  if (packed_bytes) *packed_bytes = packed;
  return EK_OK;
}

/* --- packing --- */

typedef struct packing {
  ek_matrix matrix;
  const uint8_t *blocks;
  uint8_t *packed;
} packing;

static void pack_task(void *context, size_t index, unsigned worker) {
  (void)worker;
  const packing *job = context;
  const ek_matrix *m = &job->matrix;
  const size_t stripes = ceil_div(m->rows, EK_STRIPE), first = index * PACK_STRIPES;
  const size_t count = stripes - first < PACK_STRIPES ? stripes - first : PACK_STRIPES;
  uint8_t *out = job->packed + first * ek_stripe_bytes(m->type, m->columns);
  ek_repack(m->type, m->interleave, job->blocks, m->rows, m->columns, first, count, out);
}

ek_status ek_matrix_pack(const ek_kernels *kernels, ek_pool *pool, enum ek_type type, size_t rows, size_t columns,
                         const uint8_t *blocks, size_t block_bytes, uint8_t *packed, ek_matrix *matrix) {
  size_t wanted;
  const ek_status status = ek_matrix_size(type, rows, columns, &wanted, NULL);
  if (status != EK_OK) return status;
  if (!kernels || !blocks || !packed || block_bytes != wanted) return EK_BAD_ARGUMENT;
  packing job = {{type, rows, columns, kernels->interleave, packed}, blocks, packed};
  *matrix = job.matrix;
  return ek_pool_run(pool, pack_task, &job, ceil_div(rows, PACK_ROWS));
}

/* --- vectors --- */

/* Scales, then offsets or sums, then codes. */
ek_status ek_activations_size(size_t group, size_t tokens, size_t columns, size_t *bytes) {
  if (tokens == 0 || columns == 0 || (group != 0 && group != 32 && group != 256)) return EK_BAD_ARGUMENT;
  size_t values;
  if (times(tokens, columns, &values) || values > SIZE_MAX / sizeof(float)) return EK_BAD_ARGUMENT;
  *bytes = 0;
  if (group == 0) return EK_OK;
  if (columns % group != 0) return EK_BAD_ARGUMENT;
  *bytes = values + values / group * sizeof(float) + (group == 32 ? values / 32 * 4 : values / 16 * 2);
  return EK_OK;
}

typedef struct places {
  float *scales;
  int32_t *offsets;
  int16_t *sums;
  int8_t *codes;
} places;

static places places_in(void *memory, size_t group, size_t count) {
  places at = {.scales = memory};
  uint8_t *rest = (uint8_t *)memory + count / group * sizeof(float);
  if (group == 32) {
    at.offsets = (int32_t *)(void *)rest;
    at.codes = (int8_t *)(rest + count / 32 * sizeof(int32_t));
  } else {
    at.sums = (int16_t *)(void *)rest;
    at.codes = (int8_t *)(rest + count / 16 * sizeof(int16_t));
  }
  return at;
}

ek_status ek_activations_place(size_t group, const float *values, size_t tokens, size_t columns, void *memory,
                               ek_activations *activations) {
  size_t bytes;
  const ek_status status = ek_activations_size(group, tokens, columns, &bytes);
  if (status != EK_OK) return status;
  if (!values || (group && !memory)) return EK_BAD_ARGUMENT;
  *activations = (ek_activations){.values = values};
  if (group == 0) return EK_OK;
  const places at = places_in(memory, group, tokens * columns);
  *activations = (ek_activations){values, at.codes, at.scales, at.offsets, at.sums};
  return EK_OK;
}

void ek_activations_fill_token(const ek_kernels *kernels, size_t group, const float *row, size_t tokens, size_t columns,
                               size_t token, void *memory) {
  if (group == 0) return;
  const places all = places_in(memory, group, tokens * columns);
  const size_t at = token * columns;
  int8_t *codes = all.codes + at;
  float *scales = all.scales + at / group;
  if (group == 32) {
    kernels->quantise_32[EK_TYPE_f32](row, columns, codes, scales, all.offsets + at / 32);
  } else {
    kernels->quantise_256[EK_TYPE_f32](row, columns, codes, scales, all.sums + at / 16);
  }
}

typedef struct filling {
  const ek_kernels *kernels;
  size_t group, tokens, columns;
  const float *values;
  void *memory;
} filling;

static void fill_task(void *context, size_t token, unsigned worker) {
  (void)worker;
  const filling *job = context;
  const float *row = job->values + token * job->columns;
  ek_activations_fill_token(job->kernels, job->group, row, job->tokens, job->columns, token, job->memory);
}

ek_status ek_activations_fill(const ek_kernels *kernels, ek_pool *pool, size_t group, const float *values,
                              size_t tokens, size_t columns, void *memory, ek_activations *activations) {
  if (!kernels) return EK_BAD_ARGUMENT;
  const ek_status status = ek_activations_place(group, values, tokens, columns, memory, activations);
  if (status != EK_OK || group == 0) return status;
  if (group == 32 ? !kernels->quantise_32[EK_TYPE_f32] : !kernels->quantise_256[EK_TYPE_f32]) return EK_NO_KERNEL;
  filling job = {kernels, group, tokens, columns, values, memory};
  return ek_pool_run(pool, fill_task, &job, tokens);
}

/* --- products --- */

typedef struct multiplication {
  const ek_kernels *kernels;
  const ek_product *products;
  const ek_activations *x;
  size_t tokens, chunk, columns, group;
  size_t task_rows, row_tasks; /* of all products */
} multiplication;

static ek_activations from_token(const multiplication *job, size_t token) {
  const ek_activations *x = job->x;
  const size_t at = token * job->columns;
  ek_activations part = {NULL, NULL, NULL, NULL, NULL};
  if (job->group == 0) {
    part.values = x->values + at;
    return part;
  }
  part.codes = x->codes + at;
  part.scales = x->scales + at / job->group;
  if (job->group == 32) part.offsets = x->offsets + at / 32;
  if (job->group == 256) part.sums = x->sums + at / 16;
  return part;
}

static void multiply_task(void *context, size_t index, unsigned worker) {
  (void)worker;
  const multiplication *job = context;
  const ek_product *product = job->products;
  const size_t token = index / job->row_tasks * job->chunk;
  size_t row_task = index % job->row_tasks;
  for (; row_task >= ceil_div(product->matrix->rows, job->task_rows); product++) {
    row_task -= ceil_div(product->matrix->rows, job->task_rows);
  }
  const ek_matrix *m = product->matrix;
  const size_t first = row_task * job->task_rows, left = m->rows - first;
  const size_t rows = left < job->task_rows ? left : job->task_rows;
  const uint8_t *stripes = m->stripes + first / EK_STRIPE * ek_stripe_bytes(m->type, m->columns);
  const ek_activations x = from_token(job, token);
  if (job->tokens == 1) {
    job->kernels->gemv[m->type](stripes, rows, m->columns, &x, product->out + first);
  } else {
    const size_t tokens = job->tokens - token < job->chunk ? job->tokens - token : job->chunk;
    float *out = product->out + token * product->out_stride + first;
    job->kernels->gemm[m->type](stripes, rows, m->columns, &x, tokens, out, product->out_stride);
  }
}

static ek_status check_product(const ek_kernels *kernels, const ek_product *product, const ek_matrix *first,
                               const ek_activations *x, size_t tokens) {
  const ek_matrix *m = product->matrix;
  if (!m || !m->stripes || !product->out) return EK_BAD_ARGUMENT;
  const ek_status status = ek_matrix_size(m->type, m->rows, m->columns, NULL, NULL);
  if (status != EK_OK) return status;
  const size_t group = ek_activation_group(m->type);
  if (m->columns != first->columns || group != ek_activation_group(first->type)) return EK_BAD_ARGUMENT;
  if (group && m->interleave != kernels->interleave) return EK_BAD_ARGUMENT;
  if (group == 0 ? !x->values : !x->codes || !x->scales || (group == 32 ? !x->offsets : !x->sums)) {
    return EK_BAD_ARGUMENT;
  }
  if (tokens > 1 && product->out_stride < m->rows) return EK_BAD_ARGUMENT;
  return (tokens == 1 ? kernels->gemv[m->type] != NULL : kernels->gemm[m->type] != NULL) ? EK_OK : EK_NO_KERNEL;
}

/* Tokens at a time: of a quantised vector a column is a byte, of another four. */
static size_t chunk_of(size_t group, size_t columns) {
  const size_t fit = CHUNK_BYTES / (group ? 1 : sizeof(float)) / columns / CHUNK_TOKENS * CHUNK_TOKENS;
  return fit > MOST_CHUNK ? MOST_CHUNK : fit ? fit : CHUNK_TOKENS;
}

static size_t count_row_tasks(const ek_product *products, size_t count, size_t task_rows) {
  size_t tasks = 0;
  for (size_t i = 0; i < count; i++) tasks += ceil_div(products[i].matrix->rows, task_rows);
  return tasks;
}

ek_status ek_matmul(const ek_kernels *kernels, ek_pool *pool, const ek_product *products, size_t count,
                    const ek_activations *x, size_t tokens) {
  if (!kernels || !products || !x || count == 0 || count > EK_MOST_PRODUCTS || tokens == 0) return EK_BAD_ARGUMENT;
  if (!products[0].matrix || !is_type(products[0].matrix->type)) return EK_BAD_ARGUMENT;
  const ek_matrix *first = products[0].matrix;
  for (size_t i = 0; i < count; i++) {
    const ek_status status = check_product(kernels, &products[i], first, x, tokens);
    if (status != EK_OK) return status;
  }
  multiplication job = {.kernels = kernels, .products = products, .x = x, .tokens = tokens, .columns = first->columns};
  job.group = ek_activation_group(first->type);
  job.chunk = tokens == 1 ? 1 : chunk_of(job.group, first->columns);
  const size_t chunks = ceil_div(tokens, job.chunk), enough = (size_t)TASKS_PER_THREAD * ek_pool_threads(pool);
  job.task_rows = tokens == 1 ? GEMV_ROWS : GEMM_ROWS;
  while (job.task_rows > LEAST_ROWS && count_row_tasks(products, count, job.task_rows) * chunks < enough) {
    job.task_rows /= 2;
  }
  job.row_tasks = count_row_tasks(products, count, job.task_rows);
  size_t tasks;
  if (times(job.row_tasks, chunks, &tasks)) return EK_BAD_ARGUMENT;
  return ek_pool_run(pool, multiply_task, &job, tasks);
}
