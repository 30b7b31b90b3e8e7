/* Every row of the operations between the products: the scalar ones against values known or their definition, the
 * others against the scalar ones, the quantisers bit for bit. */
#include "check.h"
#include "half.h"

#include <math.h>
#include <string.h>

enum { MOST = 1100, BUFFERS = 4 };

/* Operands and results of one case, each in a guarded buffer; `expected` are the scalar row's. */
typedef struct job {
  check_buffer buffers[BUFFERS];
  uint8_t expected[BUFFERS][MOST * 4];
  int count, in_place, kind;
  check_place place;
} job;

static float *floats(const check_buffer *buffer) { return (float *)(void *)buffer->data; }

static void add_buffer(job *j, int i, size_t bytes, size_t alignment) {
  j->buffers[i] = check_buffer_new(bytes, alignment, j->place);
}

/* Numbers of moderate size, or of one size that varies widely; some that are not finite. */
static void fill(check_rng *rng, float *x, int count, int kind) {
  const float size = kind == 1 ? ldexpf(1, check_below(rng, 200) - 120) : kind == 2 ? 40.0f : 2.0f;
  for (int i = 0; i < count; i++) x[i] = size * check_gaussian(rng);
  static const float odd[] = {INFINITY, -INFINITY, NAN};
  if (kind == 3 && count) x[check_below(rng, count)] = odd[check_below(rng, 3)];
  if (kind == 4) {
    for (int i = 0; i < count; i++) x[i] = 0;
  }
}

/* --- the quantisers --- */

static void call_quantiser(void (*kernel)(void), check_operation operation, const float *x, size_t columns,
                           uint8_t *codes, uint8_t *scales, uint8_t *sums) {
  if (operation == CHECK_quantise_32) {
    ((ek_quantise_32_fn *)kernel)(x, columns, (int8_t *)codes, (float *)(void *)scales, (int32_t *)(void *)sums);
  } else {
    ((ek_quantise_256_fn *)kernel)(x, columns, (int8_t *)codes, (float *)(void *)scales, (int16_t *)(void *)sums);
  }
}

/* Ties, or what rounding makes of them, and maxima at the limit below which a group is 0. */
static void add_extremes(check_rng *rng, float *x, int count, int group) {
  static const float maxima[] = {1e-30f, 0.99999e-30f, 1.00001e-30f, 1e-45f, 3.4e38f, 127.0f, 254.0f, 1e-38f};
  for (int g = 0; g < count; g += group) {
    const float most = check_below(rng, 2) ? maxima[check_below(rng, 8)] : check_uniform(rng, 0.1f, 10.0f);
    for (int i = g; i < g + group; i++) x[i] = most * (float)(check_below(rng, 509) - 254) / 254.0f;
    x[g + check_below(rng, group)] = check_below(rng, 2) ? most : -most;
  }
}

/* By the definition: what the codes mean is near, the largest is 127, and the sums are sums. */
static void check_quantised(const float *x, int group, const int8_t *codes, float scale, int sum) {
  float most = 0;
  int finite = 1, code_sum = 0;
  for (int i = 0; i < group; i++) {
    finite &= isfinite(x[i]) != 0;
    most = fmaxf(most, fabsf(x[i]));
    code_sum += codes[i];
    if (!isfinite(scale) || scale == 0) CHECK(codes[i] == 0);
  }
  CHECK(sum == code_sum);
  CHECK(finite ? scale == (most < 1e-30f ? 0 : most / 127.0f) : isnan(scale));
  for (int i = 0; i < group && finite && scale > 0; i++) {
    CHECK(fabs(codes[i] - (double)x[i] / scale) <= 0.5001);
    if (fabsf(x[i]) == most) CHECK(codes[i] == (x[i] > 0 ? 127 : -127));
  }
}

static void check_definition(const job *j, check_operation operation, int group) {
  const float *x = floats(&j->buffers[0]), *scales = floats(&j->buffers[2]);
  const int8_t *codes = (const int8_t *)j->buffers[1].data;
  for (int g = 0; g < j->count / group; g++) {
    int sum = 0;
    if (operation == CHECK_quantise_32) {
      sum = ((const int32_t *)(const void *)j->buffers[3].data)[g] / -8;
    } else {
      for (int i = 0; i < 16; i++) sum += ((const int16_t *)(const void *)j->buffers[3].data)[16 * g + i];
    }
    check_quantised(x + g * group, group, codes + g * group, scales[g], sum);
  }
}

static void test_quantiser(const check_row *row, check_rng *rng, job *j) {
  const int group = row->operation == CHECK_quantise_32 ? 32 : 256, groups = 1 + check_below(rng, MOST / group);
  j->count = groups * group;
  const size_t count = (size_t)j->count;
  const size_t sums = group == 32 ? count / 32 * 4 : count / 16 * 2;
  add_buffer(j, 0, count * 4, 4);
  add_buffer(j, 1, count, 1);
  add_buffer(j, 2, count / (size_t)group * 4, 4);
  add_buffer(j, 3, sums, group == 32 ? 4 : 2);
  fill(rng, floats(&j->buffers[0]), j->count, j->kind);
  if (j->kind == 5) add_extremes(rng, floats(&j->buffers[0]), j->count, group);
  check_buffer_seal(&j->buffers[0]);
  const float *x = floats(&j->buffers[0]);
  call_quantiser(row->kernel, row->operation, x, count, j->buffers[1].data, j->buffers[2].data, j->buffers[3].data);
  const check_row *scalar = check_find(row->operation, row->type, EK_LEVEL_scalar);
  call_quantiser(scalar->kernel, row->operation, x, count, j->expected[1], j->expected[2], j->expected[3]);
  check_definition(j, row->operation, group);
  for (int i = 1; i < BUFFERS; i++) CHECK(memcmp(j->buffers[i].data, j->expected[i], j->buffers[i].bytes) == 0);
}

/* --- the others --- */

/* Buffers 0 and 1 are what goes in, 2 what comes out, which is 0 for the operations in place; 3 more that goes in. */
static void call(void (*kernel)(void), check_operation operation, size_t count, float *const at[BUFFERS]) {
  switch (operation) {
  case CHECK_rms_norm:
    ((ek_rms_norm_fn *)kernel)(at[0], at[1], count, 1e-6f, at[2]);
    break;
  case CHECK_rope_halves:
  case CHECK_rope_adjacent:
    ((ek_rope_halves_fn *)kernel)(at[0], count, at[1], at[3]);
    break;
  case CHECK_hadamard:
    ((ek_hadamard_fn *)kernel)(at[0], count);
    break;
  case CHECK_swiglu:
  case CHECK_geglu:
    ((ek_swiglu_fn *)kernel)(at[0], at[1], count, at[2]);
    break;
  default:
    ((ek_softmax_fn *)kernel)(at[0], count);
  }
}

/* What the difference is to be measured by, at element i. */
static double size_at(check_operation operation, const job *j, const float *x, int i, double expected) {
  const float *b = floats(&j->buffers[1]), *d = floats(&j->buffers[3]);
  const int halves = operation == CHECK_rope_halves, pair = halves ? i % j->count : i / 2;
  const int other = halves ? (i + j->count) % (2 * j->count) : i ^ 1;
  switch (operation) {
  case CHECK_rope_halves:
  case CHECK_rope_adjacent: /* of the two products */
    return fabs((double)x[i] * b[pair]) + fabs((double)x[other] * d[pair]);
  case CHECK_geglu: /* exp(2 u) magnifies the error of u, but what it makes of a large one is small beside g */
    return fabs(expected) + 0.01 * fabs((double)x[i] * b[i]);
  case CHECK_swiglu: /* exp of large numbers ends a little earlier than float32 does */
    return fabs(expected) + 1e-30 * fabs((double)x[i] * b[i]);
  case CHECK_softmax:
    return expected > 0 ? expected * (1 - 0.1 * log(expected)) : 0; /* as the score less the maximum is rounded */
  case CHECK_hadamard: {                                            /* a sum of all */
    double sum = 0;
    for (int k = 0; k < j->count; k++) sum += fabs(x[k]);
    return sum / sqrt(j->count);
  }
  default:
    return fabs(expected);
  }
}

static void test_other(const check_row *row, check_rng *rng, job *j) {
  const check_operation op = row->operation;
  const int is_rope = op == CHECK_rope_halves || op == CHECK_rope_adjacent;
  const int in_place = is_rope || op == CHECK_softmax || op == CHECK_hadamard;
  const int most = is_rope ? MOST / 2 : MOST, values_kind = op == CHECK_rms_norm && j->kind == 1 ? 2 : j->kind;
  j->count = j->place == CHECK_START ? check_below(rng, 40) : check_below(rng, most + 1);
  if (op == CHECK_rms_norm || op == CHECK_softmax) j->count += j->count == 0;
  if (op == CHECK_hadamard) j->count = 32 << check_below(rng, 5);
  const size_t values = (size_t)j->count * (is_rope ? 2 : 1);
  static const float zeros[MOST];
  float before[MOST];
  for (int i = 0; i < BUFFERS; i++) add_buffer(j, i, 4 * (i == 0 ? values : (size_t)j->count), 4);
  fill(rng, floats(&j->buffers[0]), (int)values, values_kind);
  fill(rng, floats(&j->buffers[1]), j->count, is_rope ? 0 : check_below(rng, 4) == 0 ? j->kind : 0);
  fill(rng, floats(&j->buffers[3]), j->count, 0);
  memcpy(before, values ? floats(&j->buffers[0]) : zeros, values * 4);
  const int alias = !in_place && j->in_place, out = in_place || alias ? 0 : 2;
  check_buffer_seal(&j->buffers[1]);
  check_buffer_seal(&j->buffers[3]);
  if (out == 2) check_buffer_seal(&j->buffers[0]);
  memcpy(j->expected[0], before, values * 4);
  float *at[BUFFERS], *scalar_at[BUFFERS];
  for (int i = 0; i < BUFFERS; i++) at[i] = scalar_at[i] = floats(&j->buffers[i]);
  scalar_at[0] = (float *)(void *)j->expected[0];
  scalar_at[2] = out == 2 ? (float *)(void *)j->expected[2] : scalar_at[0];
  at[2] = at[out];
  call(check_find(op, row->type, EK_LEVEL_scalar)->kernel, op, (size_t)j->count, scalar_at);
  call(row->kernel, op, (size_t)j->count, at);
  for (size_t i = 0; i < values; i++) {
    const double expected = scalar_at[out][i], actual = at[out][i];
    if (isnan(expected) != isnan(actual) || (isinf(expected) && expected != actual)) {
      check_fail("%zu: %.9g, should be %.9g", i, actual, expected);
    } else if (isfinite(expected) &&
               !(fabs(actual - expected) <= 7e-7 * size_at(op, j, before, (int)i, expected) + 1e-35)) {
      check_fail("%zu: %.9g, should be %.9g (of %.9g)", i, actual, expected, before[i]);
    }
  }
}

/* --- known values --- */

static void near(const char *what, double actual, double expected) {
  if (!(fabs(actual - expected) <= 3e-7 * fabs(expected)))
    check_fail("%s: %.9g, should be %.9g", what, actual, expected);
}

static void test_known(ek_level level) {
#define ROW(op) ((ek_##op##_fn *)check_find(CHECK_##op, EK_TYPE_f32, level)->kernel)
  check_case("known values, %s", ek_level_name(level));
  const float gate[] = {1, -2, 0, 30, -100, 0.5f}, up[] = {2, 1, 5, 1, 1, -1};
  float out[6], x[] = {3, 4}, weight[] = {1, 2}, turned[] = {1, 0, 0, 2}, cosine[] = {0, 0.6f}, sine[] = {1, 0.8f};
  ROW(swiglu)(gate, up, 6, out);
  const double silu[] = {1.4621171572600098, -0.23840584404423515,   0,
                         29.999999999997193, -3.720075976020836e-42, -0.3112296656009273};
  for (int i = 0; i < 6; i++) {
    if (i != 4) near("swiglu", out[i], silu[i]);
  }
  CHECK(fabsf(out[4]) < 1e-36f);
  ROW(geglu)(gate, up, 6, out);
  const double gelu[] = {1.6823839820337366, -0.04540230591222, 0, 30, 0, -0.345714009} /* 2 x 0.84119199 */;
  for (int i = 0; i < 6; i++) {
    if (i == 1 || i == 5)
      CHECK(fabs(out[i] - gelu[i]) < 1e-6);
    else
      near("geglu", out[i], gelu[i]);
  }
  ROW(rms_norm)(x, weight, 2, 0, out);
  near("rms_norm", out[0], 3 / sqrt(12.5));
  near("rms_norm", out[1], 8 / sqrt(12.5));
  ROW(rope_halves)(turned, 2, cosine, sine); /* (1, 0) by a right angle, (0, 2) by atan(4 / 3) */
  const double halves[] = {0, -1.6, 1, 1.2}, adjacent[] = {0, 1, -1.6, 1.2};
  for (int i = 0; i < 4; i++) near("rope_halves", turned[i], halves[i]);
  float side[] = {1, 0, 0, 2};
  ROW(rope_adjacent)(side, 2, cosine, sine);
  for (int i = 0; i < 4; i++) near("rope_adjacent", side[i], adjacent[i]);
  float impulse[32] = {[3] = 2}; /* a column of the matrix */
  ROW(hadamard)(impulse, 32);
  for (int i = 0; i < 32; i++) near("hadamard", impulse[i], (__builtin_parity((unsigned)i & 3) ? -2 : 2) / sqrt(32));
  float scores[] = {0, 0.6931471805599453f, 1.0986122886681098f, -INFINITY};
  ROW(softmax)(scores, 4);
  for (int i = 0; i < 3; i++) near("softmax", scores[i], (i + 1) / 6.0);
  CHECK(scores[3] == 0);
#undef ROW
}

int main(int argc, char **argv) {
  const check_options options = check_start(argc, argv, 120);
  for (const check_row *row = check_rows; row->kernel; row++) {
    const int is_quantiser = row->operation == CHECK_quantise_32 || row->operation == CHECK_quantise_256;
    const int is_other = row->operation == CHECK_softmax || row->operation >= CHECK_rms_norm;
    if (!(is_quantiser || is_other) || !check_wanted(&options, row->level)) continue;
    const char *name = check_operation_names[row->operation];
    for (int number = 0; number < options.cases; number++) {
      static job j;
      check_rng rng = check_seed(name, number);
      j = (job){.place = (check_place)(number % CHECK_PLACES), .in_place = check_below(&rng, 2)};
      j.kind = check_below(&rng, 6);
      check_case("%s %s, case %d", name, ek_level_name(row->level), number);
      (is_quantiser ? test_quantiser : test_other)(row, &rng, &j);
      for (int i = 0; i < BUFFERS; i++) {
        CHECK(check_buffer_tight(&j.buffers[i]));
        check_buffer_free(&j.buffers[i]);
      }
    }
    check_tested(options.cases, "%s %s", name, ek_level_name(row->level));
  }
  for (int level = 0; level < EK_LEVELS; level++) {
    const int has_rows = check_find(CHECK_swiglu, EK_TYPE_f32, (ek_level)level) != NULL;
    if (has_rows && check_wanted(&options, (ek_level)level)) test_known((ek_level)level);
  }
  return check_end();
}
