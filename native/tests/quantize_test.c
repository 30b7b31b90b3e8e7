/* Rounding with a quadratic form: blocks taken apart and put together, error compensation against one row at a time,
 * descent against the error that it is to lower; the same bytes at every level, on every machine and however the rows
 * are cut. The dense oracles are in tests/rounding_oracle.py. */
#include "check.h"
#include "encode/encode.h"
#include "quantize/quantize.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { SWEEPS = 3 };

typedef struct problem {
  ek_rounded matrix;
  size_t rows, row_bytes;
  check_buffer values, blocks, factor, hessian, panels, order;
} problem;

static float *floats(const check_buffer *buffer) { return (float *)(void *)buffer->data; }

static void permutation(check_rng *rng, size_t count, int32_t *order) {
  for (size_t i = 0; i < count; i++) {
    const size_t other = (size_t)check_below(rng, (int)i + 1);
    order[i] = order[other];
    order[other] = (int32_t)i;
  }
}

/* A positive semidefinite matrix (K, K) of rank `rank`. */
static void fill_hessian(check_rng *rng, size_t columns, size_t rank, float *hessian) {
  float *x = malloc(columns * sizeof *x);
  memset(hessian, 0, columns * columns * sizeof *hessian);
  for (size_t i = 0; i < rank; i++) {
    const float common = check_uniform(rng, -1, 1);
    for (size_t k = 0; k < columns; k++) x[k] = common + check_uniform(rng, -1, 1) * (k % 7 == 3 ? 5.0f : 1.0f);
    for (size_t j = 0; j < columns; j++) {
      for (size_t k = 0; k < columns; k++) hessian[j * columns + k] += x[j] * x[k];
    }
  }
  free(x);
}

static void fill_factor(check_rng *rng, size_t columns, float *factor) {
  for (size_t j = 0; j < columns; j++) {
    for (size_t k = 0; k < columns; k++) {
      const float value = check_uniform(rng, -0.3f, 0.3f);
      factor[j * columns + k] = k < j ? NAN : k == j ? check_uniform(rng, 0.5f, 2) : value; /* NaN: not to be read */
    }
  }
}

static problem new_problem(check_rng *rng, const ek_format *format, check_place place) {
  problem p = {.rows = 1 + (size_t)check_below(rng, 90)};
  ek_layout_of(format, &p.matrix.layout);
  const size_t columns = (size_t)(format->block * (1 + check_below(rng, format->block == 32 ? 5 : 2)));
  p.matrix.columns = columns;
  p.row_bytes = columns / (size_t)format->block * (size_t)format->block_bytes;
  p.values = check_buffer_new(p.rows * columns * sizeof(float), sizeof(float), place);
  p.blocks = check_buffer_new(p.rows * p.row_bytes, 1, place);
  p.factor = check_buffer_new(columns * columns * sizeof(float), sizeof(float), place);
  p.hessian = check_buffer_new(columns * columns * sizeof(float), sizeof(float), place);
  p.panels = check_buffer_new(columns * columns * sizeof(float), 64, CHECK_END);
  p.order = check_buffer_new(columns * sizeof(int32_t), sizeof(int32_t), place);
  for (size_t i = 0; i < p.rows * columns; i++) floats(&p.values)[i] = check_uniform(rng, -0.1f, 0.1f);
  const ek_source source = {floats(&p.values), NULL, columns, 0};
  ek_encoder_find(format->name, -1)(&source, 0, p.rows * columns / (size_t)format->block, p.blocks.data);
  fill_factor(rng, columns, floats(&p.factor));
  fill_hessian(rng, columns, (size_t)(1 + check_below(rng, 40)), floats(&p.hessian));
  permutation(rng, columns, (int32_t *)(void *)p.order.data);
  p.matrix.values = floats(&p.values);
  p.matrix.blocks = p.blocks.data;
  check_buffer_seal(&p.values);
  check_buffer_seal(&p.blocks);
  check_buffer_seal(&p.factor);
  check_buffer_seal(&p.hessian);
  check_buffer_seal(&p.order);
  return p;
}

static void free_problem(problem *p) {
  check_buffer *buffers[] = {&p->values, &p->blocks, &p->factor, &p->hessian, &p->panels, &p->order};
  for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++) check_buffer_free(buffers[i]);
}

/* --- parts --- */

/* Any bits but those of a NaN in d and dmin, which the decoder reads first and last; `halves` are where they are. */
static void test_parts(check_rng *rng, const ek_format *format) {
  uint8_t block[256], again[256];
  ek_layout layout;
  ek_stored stored;
  ek_layout_of(format, &layout);
  check_bytes(rng, block, sizeof block);
  const int at_end = format == &ek_formats[EK_TYPE_q6_k];
  block[at_end ? 209 : 1] &= 0xbf; /* an exponent below the largest */
  if (format->has_minima) block[3] &= 0xbf;
  ek_take_apart(&layout, block, &stored);
  ek_put_together(&layout, &stored, again);
  CHECK(memcmp(block, again, (size_t)format->block_bytes) == 0);
  /* and the parts are what the block decodes to */
  float decoded[EK_SUPERBLOCK];
  ek_dequantise(format, block, 1, decoded);
  for (int k = 0; k < format->block; k++) {
    const int g = k / format->group;
    const int8_t level = format->levels ? format->levels[stored.codes[k]] : stored.codes[k];
    CHECK(decoded[k] == stored.d * stored.scale[g] * level - stored.dmin * stored.minimum[g]);
  }
}

/* --- error compensation --- */

static float nearest(const ek_layout *layout, float a) {
  if (!layout->format->levels) return rintf(fminf(fmaxf(a, (float)layout->low), (float)layout->high));
  float best = layout->format->levels[0];
  for (int i = 1; i < 16; i++) {
    if (fabsf(layout->format->levels[i] - a) < fabsf(best - a)) best = layout->format->levels[i];
  }
  return best;
}

/* What row r decodes to, from the definition: one column after the other, sums in their order. */
static void compensated_row(const problem *p, size_t r, const int32_t *order, float *decoded) {
  const ek_layout *layout = &p->matrix.layout;
  const ek_format *format = layout->format;
  const size_t columns = p->matrix.columns, block = (size_t)format->block;
  const float *factor = floats(&p->factor);
  float *errors = malloc(columns * sizeof *errors);
  for (size_t step = 0; step < columns; step++) {
    const size_t k = (size_t)order[step], g = k % block / (size_t)format->group;
    ek_stored stored;
    ek_take_apart(layout, p->blocks.data + r * p->row_bytes + k / block * (size_t)format->block_bytes, &stored);
    float spread = 0;
    for (size_t j = 0; j < step; j++) spread += factor[j * columns + step] / factor[j * columns + j] * errors[j];
    const float scale = stored.d * stored.scale[g], minimum = stored.dmin * stored.minimum[g];
    const float wanted = floats(&p->values)[r * columns + k] - spread;
    decoded[k] = scale * nearest(layout, scale != 0 ? (wanted + minimum) * (1 / scale) : 0) - minimum;
    errors[step] = wanted - decoded[k];
  }
  free(errors);
}

static void check_compensated(const problem *p, const uint8_t *result) {
  const size_t columns = p->matrix.columns;
  float *expected = malloc(2 * columns * sizeof *expected), *actual = expected + columns;
  for (size_t r = 0; r < p->rows; r++) {
    compensated_row(p, r, (const int32_t *)(const void *)p->order.data, expected);
    ek_dequantise(p->matrix.layout.format, result + r * p->row_bytes, columns / (size_t)p->matrix.layout.format->block,
                  actual);
    for (size_t k = 0; k < columns; k++) CHECK(expected[k] == actual[k]);
  }
  free(expected);
}

/* --- descent --- */

/* e^T H e of row r, and the sum of its terms' sizes, which may cancel. */
static double error_of(const problem *p, size_t r, const uint8_t *blocks, double *terms) {
  const size_t columns = p->matrix.columns;
  float *decoded = malloc(columns * sizeof *decoded);
  ek_dequantise(p->matrix.layout.format, blocks + r * p->row_bytes, columns / (size_t)p->matrix.layout.format->block,
                decoded);
  double total = 0;
  *terms = 0;
  for (size_t j = 0; j < columns; j++) {
    const double own = (double)decoded[j] - (double)floats(&p->values)[r * columns + j];
    double slope = 0;
    for (size_t k = 0; k < columns; k++) {
      const double e = (double)decoded[k] - (double)floats(&p->values)[r * columns + k];
      slope += (double)floats(&p->hessian)[j * columns + k] * e;
      *terms += fabs((double)floats(&p->hessian)[j * columns + k] * e * own);
    }
    total += slope * own;
  }
  free(decoded);
  return total;
}

static void check_lower(const problem *p, const uint8_t *result, const double *errors) {
  double sum = 0, sum_before = 0;
  for (size_t r = 0; r < p->rows; r++) {
    double terms_before, terms;
    const double before = error_of(p, r, p->blocks.data, &terms_before), after = error_of(p, r, result, &terms);
    CHECK(after <= before + 1e-6 * terms_before);
    CHECK(fabs(errors[r] - after) <= 1e-6 * terms);
    sum += after;
    sum_before += before;
  }
  CHECK(sum < 0.9 * sum_before);
}

/* --- both --- */

/* The two functions on rows first .. first + count - 1, to buffers that end with them. */
static void run_rows(problem *p, int level, size_t first, size_t count, check_buffer *compensated,
                     check_buffer *descended, check_buffer *errors) {
  const int32_t *order = (const int32_t *)(const void *)p->order.data;
  *compensated = check_buffer_new(count * p->row_bytes, 1, CHECK_END);
  *descended = check_buffer_new(count * p->row_bytes, 1, CHECK_END);
  *errors = check_buffer_new(count * sizeof(double), sizeof(double), CHECK_END);
  CHECK(ek_factor_panels(floats(&p->factor), p->matrix.columns, floats(&p->panels)));
  CHECK(ek_compensate_find(level)(&p->matrix, floats(&p->panels), order, first, count, compensated->data));
  const double unit = ek_hessian_panels(floats(&p->hessian), p->matrix.columns, floats(&p->panels));
  CHECK(ek_descend_find(level)(&p->matrix, floats(&p->panels), unit, SWEEPS, first, count, descended->data,
                               (double *)(void *)errors->data));
  CHECK(check_buffer_tight(compensated) && check_buffer_tight(descended) && check_buffer_tight(errors));
}

static uint64_t fingerprint(uint64_t hash, const check_buffer *buffer) {
  for (size_t i = 0; i < buffer->bytes; i++) hash = (hash ^ buffer->data[i]) * UINT64_C(0x100000001b3); /* FNV-1a */
  return hash;
}

static uint64_t test_case(const ek_format *format, int number, uint64_t hash) {
  check_rng rng = check_seed(format->name, number);
  problem p = new_problem(&rng, format, (check_place)(number % CHECK_PLACES));
  check_case("quantize %s, case %d: %zu rows x %zu columns", format->name, number, p.rows, p.matrix.columns);
  for (int i = 0; i < 20; i++) test_parts(&rng, format);
  check_buffer whole[3], part[3];
  run_rows(&p, -1, 0, p.rows, &whole[0], &whole[1], &whole[2]);
  check_compensated(&p, whole[0].data);
  check_lower(&p, whole[1].data, (const double *)(const void *)whole[2].data);
  for (int level = 0; level < ek_isa_levels(); level++) {
    const size_t first = (size_t)check_below(&rng, (int)p.rows);
    run_rows(&p, level, first, p.rows - first, &part[0], &part[1], &part[2]);
    for (int i = 0; i < 3; i++) {
      CHECK(memcmp(whole[i].data + first * (whole[i].bytes / p.rows), part[i].data, part[i].bytes) == 0);
      check_buffer_free(&part[i]);
    }
  }
  for (int i = 0; i < 3; i++) {
    hash = fingerprint(hash, &whole[i]);
    check_buffer_free(&whole[i]);
  }
  free_problem(&p);
  return hash;
}

int main(int argc, char **argv) {
  const check_options options = check_start(argc, argv, 4);
  uint64_t hash = UINT64_C(0xcbf29ce484222325), first_cases = 0;
  for (int number = 0; number < options.cases; number++) {
    for (int type = 0; type < EK_TYPES; type++) {
      if (ek_formats[type].unpack) hash = test_case(&ek_formats[type], number, hash);
    }
    if (number == 0) first_cases = hash;
  }
  check_tested(options.cases, "quantize: every block format");
  check_case("quantize: the bytes of all machines");
  if (first_cases != UINT64_C(0xf3eee439a2722133)) check_fail("fingerprint %#llx", (unsigned long long)first_cases);
  return check_end();
}
