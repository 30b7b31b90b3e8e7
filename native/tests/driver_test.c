/* The parallel driver of the products: the same numbers as one call of the kernel, whatever the threads; packing in
 * parallel the same as at once; wrong arguments refused. */
#include "check.h"
#include "half.h"
#include "kernels/stripe.h"
#include "memory.h"
#include "operators/matmul.h"
#include "product.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_THREADS = 4, PRODUCTS = 3 };

static ek_pool *pools[MOST_THREADS + 1]; /* by threads; NULL for 0 */

/* Several matrices of one activation group and their vectors. */
typedef struct job {
  ek_kernels kernels;
  size_t columns, tokens, group, count;
  ek_matrix matrices[PRODUCTS];
  uint8_t *packed[PRODUCTS];
  size_t packed_bytes[PRODUCTS];
  float *values, *outs[PRODUCTS];
  void *memory;
  ek_activations x;
} job;

static void *allocate(size_t bytes) {
  void *memory = ek_memory_new(bytes);
  if (!memory) abort();
  memset(memory, 0xff, bytes);
  return memory;
}

/* Packs in parallel, and compares with packing at once. */
static void add_matrix(check_rng *rng, job *j, enum ek_type type, size_t rows) {
  const size_t i = j->count++, blocks_per_row = j->columns / (size_t)ek_formats[type].block;
  size_t block_bytes;
  CHECK(ek_matrix_size(type, rows, j->columns, &block_bytes, &j->packed_bytes[i]) == EK_OK);
  CHECK(block_bytes == rows * blocks_per_row * (size_t)ek_formats[type].block_bytes);
  uint8_t *blocks = product_random_blocks(rng, type, rows * blocks_per_row);
  j->packed[i] = allocate(j->packed_bytes[i]);
  uint8_t *at_once = allocate(j->packed_bytes[i]);
  ek_pool *pool = pools[check_below(rng, MOST_THREADS + 1)];
  CHECK(ek_matrix_pack(&j->kernels, pool, type, rows, j->columns, blocks, block_bytes, j->packed[i], &j->matrices[i]) ==
        EK_OK);
  ek_repack(type, j->kernels.interleave, blocks, rows, j->columns, 0, (rows + 7) / 8, at_once);
  CHECK(memcmp(at_once, j->packed[i], j->packed_bytes[i]) == 0);
  free(at_once);
  free(blocks);
}

static void add_vectors(check_rng *rng, job *j) {
  const size_t count = j->tokens * j->columns;
  size_t bytes;
  j->values = allocate(count * sizeof *j->values);
  for (size_t k = 0; k < count; k++) j->values[k] = check_gaussian(rng);
  CHECK(ek_activations_size(j->group, j->tokens, j->columns, &bytes) == EK_OK);
  j->memory = allocate(bytes + 64);
  ek_pool *pool = pools[check_below(rng, MOST_THREADS + 1)];
  CHECK(ek_activations_fill(&j->kernels, pool, j->group, j->values, j->tokens, j->columns, j->memory, &j->x) == EK_OK);
  for (int i = 0; i < 64; i++) CHECK(((uint8_t *)j->memory)[bytes + (size_t)i] == 0xff);
}

static void free_job(job *j) {
  for (size_t i = 0; i < j->count; i++) {
    free(j->packed[i]);
    free(j->outs[i]);
  }
  free(j->values);
  free(j->memory);
}

/* One call of the kernel for the whole matrix. */
static void at_once(const job *j, size_t i, float *out) {
  const ek_matrix *m = &j->matrices[i];
  if (j->tokens == 1) {
    j->kernels.gemv[m->type](m->stripes, m->rows, m->columns, &j->x, out);
  } else {
    j->kernels.gemm[m->type](m->stripes, m->rows, m->columns, &j->x, j->tokens, out, m->rows);
  }
}

static void compare(const job *j, size_t i, const float *out) {
  const size_t count = j->tokens * j->matrices[i].rows;
  float *expected = allocate(count * sizeof *expected);
  at_once(j, i, expected);
  for (size_t k = 0; k < count; k++) {
    if (expected[k] != out[k]) check_fail("matrix %zu, output %zu: %.9g, should be %.9g", i, k, out[k], expected[k]);
  }
  free(expected);
}

/* With no pool against the kernel, with threads against that. */
static void run(job *j) {
  ek_product products[PRODUCTS];
  float *first[PRODUCTS];
  for (int threads = 0; threads <= MOST_THREADS; threads++) {
    for (size_t i = 0; i < j->count; i++) {
      const size_t count = j->tokens * j->matrices[i].rows;
      j->outs[i] = allocate(count * sizeof(float));
      products[i] = (ek_product){&j->matrices[i], j->outs[i], j->matrices[i].rows};
    }
    CHECK(ek_matmul(&j->kernels, pools[threads], products, j->count, &j->x, j->tokens) == EK_OK);
    for (size_t i = 0; i < j->count; i++) {
      const size_t bytes = j->tokens * j->matrices[i].rows * sizeof(float);
      if (threads == 0) {
        compare(j, i, j->outs[i]);
        first[i] = j->outs[i];
      } else {
        if (memcmp(first[i], j->outs[i], bytes) != 0) check_fail("%d threads: other numbers", threads);
        free(j->outs[i]);
      }
    }
  }
  for (size_t i = 0; i < j->count; i++) j->outs[i] = first[i];
}

static enum ek_type another_type(check_rng *rng, const job *j) {
  for (;;) {
    const enum ek_type type = (enum ek_type)check_below(rng, EK_TYPES);
    if (ek_activation_group(type) == j->group && j->kernels.gemv[type] && j->kernels.gemm[type]) return type;
  }
}

/* Every type comes first in some of the cases; some have so many tokens or rows that the driver
 * cuts them otherwise. */
static int test_level(ek_level level, int cases) {
  int done = 0;
  for (int number = 0; number < cases; number++) {
    check_rng rng = check_seed("driver", number);
    job j = {.kernels = ek_kernels_of(level)};
    const enum ek_type type = (enum ek_type)(number % EK_TYPES);
    if (!j.kernels.gemv[type] || !j.kernels.gemm[type]) continue;
    j.group = ek_activation_group(type);
    j.columns = (j.group ? j.group : 32) * (size_t)(1 + check_below(&rng, j.group == 256 ? 4 : 12));
    j.tokens = number % 3 == 0 ? 1 : (size_t)(2 + check_below(&rng, 40));
    if (number % 16 == 5) {
      j.columns = 2048;
      j.tokens = (j.group ? 128 : 32) + (size_t)check_below(&rng, 20);
    }
    const int many_rows = number % 16 == 9, products = number % 16 == 5 ? 1 : 1 + check_below(&rng, PRODUCTS);
    if (many_rows) {
      j.columns = j.group ? j.group : 32;
      j.tokens = 1 + j.tokens % 4;
    }
    check_case("driver %s, case %d: %d products, first %s, %zu columns, %zu tokens", ek_level_name(level), number,
               products, ek_formats[type].name, j.columns, j.tokens);
    for (int i = 0; i < products; i++) {
      add_matrix(&rng, &j, i ? another_type(&rng, &j) : type,
                 (size_t)(1 + check_below(&rng, i ? 100 : 40) + 8000 * (many_rows && i == 0)));
    }
    add_vectors(&rng, &j);
    run(&j);
    free_job(&j);
    done++;
  }
  check_tested(done, "driver %s", ek_level_name(level));
  return done;
}

static void test_sizes(void) {
  size_t blocks, packed;
  check_case("sizes");
  CHECK(ek_matrix_size(EK_TYPE_q4_k, 9, 512, &blocks, &packed) == EK_OK);
  CHECK(blocks == 9 * 2 * 144 && packed == 2 * ek_stripe_bytes(EK_TYPE_q4_k, 512));
  CHECK(ek_matrix_size(EK_TYPE_q4_0, 0, 32, &blocks, &packed) == EK_BAD_ARGUMENT);
  CHECK(ek_matrix_size(EK_TYPE_q4_0, 1, 0, &blocks, &packed) == EK_BAD_ARGUMENT);
  CHECK(ek_matrix_size(EK_TYPE_q4_0, 1, 33, &blocks, &packed) == EK_BAD_ARGUMENT);
  CHECK(ek_matrix_size(EK_TYPE_q4_k, 1, 128, &blocks, &packed) == EK_BAD_ARGUMENT);
  CHECK(ek_matrix_size(EK_TYPES, 1, 256, &blocks, &packed) == EK_BAD_ARGUMENT);
  CHECK(ek_matrix_size((enum ek_type) - 1, 1, 256, &blocks, &packed) == EK_BAD_ARGUMENT);
  CHECK(ek_matrix_size(EK_TYPE_f32, SIZE_MAX / 4, 32, &blocks, &packed) == EK_BAD_ARGUMENT);
  CHECK(ek_matrix_size(EK_TYPE_f32, 1, SIZE_MAX - 31, &blocks, &packed) == EK_BAD_ARGUMENT);
  CHECK(ek_matrix_size(EK_TYPE_q8_0, SIZE_MAX / 34 - 7, 32, &blocks, &packed) == EK_OK);
  CHECK(ek_matrix_size(EK_TYPE_q8_0, SIZE_MAX / 34 + 1, 32, &blocks, &packed) == EK_BAD_ARGUMENT);
  CHECK(ek_activations_size(32, SIZE_MAX / 32, 64, &blocks) == EK_BAD_ARGUMENT);
  CHECK(ek_activations_size(256, 2, 320, &blocks) == EK_BAD_ARGUMENT);
  CHECK(ek_activations_size(64, 2, 256, &blocks) == EK_BAD_ARGUMENT);
  CHECK(ek_activations_size(32, 0, 256, &blocks) == EK_BAD_ARGUMENT);
  check_tested(14, "sizes");
}

static void test_refusals(void) {
  check_case("refusals");
  check_rng rng = check_seed("refusals", 0);
  job j = {.kernels = ek_kernels_of(EK_LEVEL_scalar), .columns = 256, .tokens = 3, .group = 32};
  add_matrix(&rng, &j, EK_TYPE_q4_0, 16);
  add_matrix(&rng, &j, EK_TYPE_q6_k, 16);
  add_vectors(&rng, &j);
  float out[3 * 16];
  const ek_matrix good = j.matrices[0], neon = {good.type, 16, 256, 16, good.stripes};
  const ek_matrix narrow = {good.type, 16, 224, 4, good.stripes}, empty = {good.type, 16, 256, 4, NULL};
  const ek_product product = {&good, out, 16};
  const ek_activations nothing = {NULL, NULL, NULL, NULL, NULL};
  ek_matrix packed;
  const struct {
    ek_product products[2];
    size_t count;
    const ek_activations *x;
    size_t tokens;
    ek_status status;
  } cases[] = {
      {{product}, 1, &j.x, 3, EK_OK},
      {{product}, 0, &j.x, 3, EK_BAD_ARGUMENT},
      {{product}, EK_MOST_PRODUCTS + 1, &j.x, 3, EK_BAD_ARGUMENT},
      {{product}, 1, &j.x, 0, EK_BAD_ARGUMENT},
      {{product}, 1, &nothing, 3, EK_BAD_ARGUMENT},
      {{product}, 1, NULL, 3, EK_BAD_ARGUMENT},
      {{{NULL, out, 16}}, 1, &j.x, 3, EK_BAD_ARGUMENT},
      {{product, {&j.matrices[1], out, 16}}, 2, &j.x, 3, EK_BAD_ARGUMENT},
      {{product, {&narrow, out, 16}}, 2, &j.x, 3, EK_BAD_ARGUMENT},
      {{{&neon, out, 16}}, 1, &j.x, 3, EK_BAD_ARGUMENT},
      {{{&empty, out, 16}}, 1, &j.x, 3, EK_BAD_ARGUMENT},
      {{{&good, out, 15}}, 1, &j.x, 3, EK_BAD_ARGUMENT},
      {{{&good, NULL, 16}}, 1, &j.x, 3, EK_BAD_ARGUMENT},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    check_case("refusal %zu", i);
    const ek_status status =
        ek_matmul(&j.kernels, NULL, cases[i].products, cases[i].count, cases[i].x, cases[i].tokens);
    CHECK(status == cases[i].status);
  }
  j.kernels.gemm[EK_TYPE_q4_0] = NULL;
  CHECK(ek_matmul(&j.kernels, NULL, &product, 1, &j.x, 3) == EK_NO_KERNEL);
  CHECK(ek_matrix_pack(&j.kernels, NULL, EK_TYPE_q4_0, 16, 256, j.packed[0], 16 * 8 * 18 - 1, j.packed[1], &packed) ==
        EK_BAD_ARGUMENT);
  check_tested(15, "refusals");
  free_job(&j);
}

int main(int argc, char **argv) {
  const check_options options = check_start(argc, argv, 96);
  for (unsigned threads = 1; threads <= MOST_THREADS; threads++) {
    if (ek_pool_create(threads, &pools[threads]) != EK_OK) check_fail("no pool");
  }
  int done = 0;
  for (int level = 0; level < EK_LEVELS; level++) {
    if (check_wanted(&options, (ek_level)level)) done += test_level((ek_level)level, options.cases);
  }
  CHECK(done > 0);
  test_sizes();
  test_refusals();
  for (unsigned threads = 1; threads <= MOST_THREADS; threads++) ek_pool_destroy(pools[threads]);
  return check_end();
}
