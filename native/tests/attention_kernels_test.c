/* Every row of scores, values and online_softmax against the scalar row, or against float64 where weights are a level's
 * own. Keys and values are stored for the level under test; each block and operand lies in a guarded buffer. */
#include "check.h"
#include "half.h"
#include "kernels/cache_block.h"

#include <math.h>
#include <string.h>

enum { POSITIONS = EK_CACHE_BLOCK * EK_CACHE_TILE, MOST_QUERIES = 9 };

static const char *type_name(enum ek_type type) { return ek_formats[type].name; }

static float *floats(const check_buffer *buffer) { return (float *)(void *)buffer->data; }

typedef struct tile {
  enum ek_type type;
  ek_cache_side side;
  size_t count, dims;
  check_buffer buffers[EK_CACHE_TILE];
  const uint8_t *blocks[EK_CACHE_TILE];
  float rows[POSITIONS][EK_MOST_HEAD_DIMS]; /* what was stored, as it reads */
  int poisoned;                             /* a position of which the first 32 dimensions are NaN; -1: none */
} tile;

/* A row of ordinary, tiny (fp16 subnormal), large or extreme values, or zeros. */
static void fill_row(check_rng *rng, float *row, size_t dims, int plain) {
  static const float sizes[] = {1, 1, 1, 3e-5f, 3000};
  const int kind = plain ? 0 : check_below(rng, 7);
  for (size_t k = 0; k < dims; k++) {
    row[k] = kind == 6 ? 0 : kind == 5 ? (check_below(rng, 2) ? 2.0f : -2.0f) : sizes[kind] * check_gaussian(rng);
  }
}

static void make_tile(tile *t, check_rng *rng, ek_level level, enum ek_type type, ek_cache_side side, int number) {
  static const size_t some_dims[] = {64, 32, 96, 128, 256, 64, 160, 512};
  const int interleave = ek_level_interleave(level);
  *t = (tile){.type = type, .side = side, .poisoned = -1};
  t->count = (size_t)(1 + check_below(rng, EK_CACHE_TILE));
  t->dims = some_dims[number % 8];
  const size_t bytes = ek_cache_block_bytes(type, t->dims);
  if (number % 7 == 6) t->poisoned = check_below(rng, (int)t->count * EK_CACHE_BLOCK);
  for (size_t b = 0; b < t->count; b++) {
    t->buffers[b] = check_buffer_new(bytes, 2, (check_place)check_below(rng, CHECK_PLACES));
    memset(t->buffers[b].data, 0, bytes);
    for (size_t p = 0; p < EK_CACHE_BLOCK; p++) {
      float *row = t->rows[b * EK_CACHE_BLOCK + p];
      fill_row(rng, row, t->dims, number % 3 == 0);
      if (t->poisoned == (int)(b * EK_CACHE_BLOCK + p)) row[check_below(rng, 32)] = NAN;
      ek_cache_store(type, side, interleave, t->dims, row, p, t->buffers[b].data);
    }
    for (size_t p = 0; p < EK_CACHE_BLOCK; p++)
      ek_cache_load(type, side, interleave, t->dims, t->buffers[b].data, p, t->rows[b * EK_CACHE_BLOCK + p]);
    check_buffer_seal(&t->buffers[b]);
    t->blocks[b] = t->buffers[b].data;
  }
}

static void free_tile(tile *t) {
  for (size_t b = 0; b < t->count; b++) check_buffer_free(&t->buffers[b]);
}

static check_buffer sealed(const void *data, size_t bytes, size_t alignment, check_place place) {
  check_buffer buffer = check_buffer_new(bytes, alignment, place);
  memcpy(buffer.data, data, bytes);
  check_buffer_seal(&buffer);
  return buffer;
}

/* --- scores --- */

static void compare_scores(const tile *t, const ek_activations *x, size_t queries, const float *scores) {
  const int quantised = t->type != EK_TYPE_f16;
  for (size_t q = 0; q < queries; q++) {
    for (size_t i = 0; i < t->count * EK_CACHE_BLOCK; i++) {
      double expected = 0, terms = 0;
      for (size_t k = 0; k < t->dims; k++) {
        const size_t at = q * t->dims + k;
        const double term = (quantised ? (double)x->scales[at / 32] * x->codes[at] : x->values[at]) * t->rows[i][k];
        expected += term;
        terms += fabs(term);
      }
      const double actual = scores[q * t->count * EK_CACHE_BLOCK + i];
      if (!check_close(expected, actual, terms, 2e-6))
        check_fail("query %zu, position %zu: %.9g, should be %.9g of %.9g", q, i, actual, expected, terms);
    }
  }
}

static void test_scores(const check_row *row, check_rng *rng, int number) {
  static tile t;
  make_tile(&t, rng, row->level, row->type, EK_CACHE_KEYS, number);
  const size_t queries = (size_t)(1 + check_below(rng, MOST_QUERIES)), columns = queries * t.dims;
  const check_place place = (check_place)(number % CHECK_PLACES);
  static float values[MOST_QUERIES * EK_MOST_HEAD_DIMS], scales[MOST_QUERIES * EK_MOST_HEAD_DIMS / 32];
  static int8_t codes[MOST_QUERIES * EK_MOST_HEAD_DIMS];
  static int32_t offsets[MOST_QUERIES * EK_MOST_HEAD_DIMS / 32];
  for (size_t q = 0; q < queries; q++) fill_row(rng, values + q * t.dims, t.dims, number % 3 == 0);
  ek_quantise_32_f32_scalar(values, columns, codes, scales, offsets);
  check_buffer in[] = {sealed(values, columns * 4, 4, place), sealed(codes, columns, 1, place),
                       sealed(scales, columns / 8, 4, place), sealed(offsets, columns / 8, 4, place)};
  ek_activations x = {.values = values};
  if (t.type != EK_TYPE_f16) x = (ek_activations){.codes = codes, .scales = scales, .offsets = offsets};
  ek_activations guarded = {.values = x.values ? floats(&in[0]) : NULL};
  if (x.codes) {
    guarded.codes = (const int8_t *)in[1].data;
    guarded.scales = floats(&in[2]);
    guarded.offsets = (const int32_t *)(const void *)in[3].data;
  }
  check_buffer out = check_buffer_new(queries * t.count * EK_CACHE_BLOCK * 4, 4, place);
  check_case("scores %s %s, case %d: %zu blocks, %zu dims, %zu queries", type_name(row->type),
             ek_level_name(row->level), number, t.count, t.dims, queries);
  ((ek_scores_fn *)row->kernel)(t.blocks, t.count, t.dims, &guarded, queries, floats(&out));
  compare_scores(&t, &x, queries, floats(&out));
  CHECK(check_buffer_tight(&out));
  for (int i = 0; i < 4; i++) check_buffer_free(&in[i]);
  check_buffer_free(&out);
  free_tile(&t);
}

/* --- online softmax --- */

static double weight_at(const float *weights, size_t i) {
  return (int16_t)ek_load_u16((const uint8_t *)weights + 2 * i);
}

/* Scores as they come: moderate, far apart, partly masked out, wholly so. */
static void fill_scores(check_rng *rng, float *scores, size_t count) {
  const int kind = check_below(rng, 5);
  const float size = kind == 1 ? 60.0f : kind == 2 ? 0.0f : 3.0f, centre = check_uniform(rng, -20, 20);
  for (size_t i = 0; i < count; i++) {
    scores[i] = centre + size * check_gaussian(rng);
    if ((kind == 3 && check_below(rng, 2)) || (kind == 4 && check_below(rng, 10))) scores[i] = -INFINITY;
  }
}

typedef struct running {
  float maximum, sum;
  double rounded; /* what weights may have lost */
  double seen;    /* the sum of 2^(score - maximum) of all scores, in float64 */
} running;

static void check_step(const check_row *row, running *now, const float *scores, size_t count, check_place place) {
  const double tolerance = 1e-6 /* of a weight */, least = 0x1.03p-16 /* half a unit */;
  check_buffer buffer = check_buffer_new(count * 4, 4, place);
  memcpy(buffer.data, scores, count * 4);
  const float before = now->maximum;
  float factor = NAN, most = before;
  const float keep = ((ek_online_softmax_fn *)row->kernel)(floats(&buffer), count, &now->maximum, &now->sum, &factor);
  for (size_t i = 0; i < count; i++) most = scores[i] > most ? scores[i] : most;
  CHECK(now->maximum == most && isfinite(factor));
  if (most == before) {
    CHECK(keep == 1);
  } else {
    const double expected = exp2((double)before - most); /* float32 rounds the difference */
    CHECK(fabs(keep - expected) <= 1e-6 * expected * (1 + 0.1 * fabs((double)before - most)) + 1e-37 ||
          (before == -INFINITY && keep == 0));
  }
  now->seen *= most == -INFINITY ? 1 : exp2((double)before - most);
  now->rounded = now->rounded * (most == -INFINITY ? 1 : exp2((double)before - most)) + least * (double)count;
  for (size_t i = 0; i < count; i++) {
    const double expected = scores[i] == -INFINITY ? 0 : exp2((double)scores[i] - most);
    const double actual = (double)factor * weight_at(floats(&buffer), i);
    now->seen += expected;
    if (scores[i] == -INFINITY ? actual != 0 : fabs(actual - expected) > tolerance * expected + least)
      check_fail("%zu: %.9g, should be %.9g", i, actual, expected);
  }
  CHECK(fabs(now->sum - now->seen) <= tolerance * now->seen + now->rounded);
  CHECK(check_buffer_tight(&buffer));
  check_buffer_free(&buffer);
}

static void test_online_softmax(const check_row *row, check_rng *rng, int number) {
  running now = {-INFINITY, 0, 0, 0};
  for (int step = 0; step < 5; step++) {
    float scores[POSITIONS];
    const size_t count = (size_t)(EK_CACHE_BLOCK * (1 + check_below(rng, EK_CACHE_TILE)));
    fill_scores(rng, scores, count);
    check_case("online_softmax %s, case %d, step %d: %zu scores", ek_level_name(row->level), number, step, count);
    check_step(row, &now, scores, count, (check_place)(number % CHECK_PLACES));
  }
  float scores[EK_CACHE_BLOCK] = {1, NAN, 2}, factor;
  ((ek_online_softmax_fn *)row->kernel)(scores, EK_CACHE_BLOCK, &now.maximum, &now.sum, &factor);
  CHECK(isnan(now.sum));
}

/* --- values --- */

static void compare_values(const tile *t, const float *weights, float factor, const float *before, const float *out) {
  const size_t count = t->count * EK_CACHE_BLOCK;
  for (size_t k = 0; k < t->dims; k++) {
    double sum = before[k], terms = fabs(before[k]), most = 0, heaviest = 0;
    for (size_t i = 0; i < count; i++) {
      const double weight = factor * weight_at(weights, i), term = weight * t->rows[i][k];
      sum += term;
      terms += fabs(term);
      heaviest = fmax(heaviest, weight);
      for (size_t other = k / 32 * 32; other < k / 32 * 32 + 32; other++) most = fmax(most, fabs(t->rows[i][other]));
    }
    /* where values are quantised, so may be weight x scale: to 1 / 2^14 of the largest in the tile */
    if (t->type != EK_TYPE_f16) terms += heaviest * most * (double)count * 0x1p-14 / 2e-6;
    if (!check_close(sum, out[k], terms, 2e-6))
      check_fail("dimension %zu: %.9g, should be %.9g of %.9g", k, out[k], sum, terms);
  }
}

static void test_values(const check_row *row, check_rng *rng, int number) {
  static tile t;
  make_tile(&t, rng, row->level, row->type, EK_CACHE_VALUES, number);
  const size_t queries = (size_t)(1 + check_below(rng, MOST_QUERIES)), count = t.count * EK_CACHE_BLOCK;
  const check_place place = (check_place)(number % CHECK_PLACES);
  static float scores[MOST_QUERIES * POSITIONS], before[MOST_QUERIES * EK_MOST_HEAD_DIMS];
  float factors[MOST_QUERIES];
  /* weights come from the softmax of the same level */
  const ek_kernels kernels = ek_kernels_of(row->level);
  for (size_t q = 0; q < queries; q++) {
    float maximum = -INFINITY, sum = 0;
    fill_scores(rng, scores + q * count, count);
    kernels.online_softmax[EK_TYPE_f32](scores + q * count, count, &maximum, &sum, &factors[q]);
    for (size_t k = 0; k < t.dims; k++) before[q * t.dims + k] = q % 2 ? check_gaussian(rng) : 0;
  }
  check_buffer in[] = {sealed(scores, queries * count * 4, 4, place), sealed(factors, queries * 4, 4, place)};
  check_buffer out = check_buffer_new(queries * t.dims * 4, 4, place);
  memcpy(out.data, before, queries * t.dims * 4);
  check_case("values %s %s, case %d: %zu blocks, %zu dims, %zu queries", type_name(row->type),
             ek_level_name(row->level), number, t.count, t.dims, queries);
  ((ek_values_fn *)row->kernel)(t.blocks, t.count, t.dims, floats(&in[0]), floats(&in[1]), queries, floats(&out));
  for (size_t q = 0; q < queries; q++)
    compare_values(&t, scores + q * count, factors[q], before + q * t.dims, floats(&out) + q * t.dims);
  CHECK(check_buffer_tight(&out));
  for (int i = 0; i < 2; i++) check_buffer_free(&in[i]);
  check_buffer_free(&out);
  free_tile(&t);
}

/* --- storing --- */

/* As GGUF's own reference rounds: d = max / 127 or max / -8, to the nearest level. */
static void test_store(void) {
  check_case("stored positions");
  float row[32], read[32];
  for (int k = 0; k < 32; k++) row[k] = (float)k - 16.0f;
  static const enum ek_type types[] = {EK_TYPE_f16, EK_TYPE_q8_0, EK_TYPE_q4_0};
  for (int i = 0; i < 3 * 4; i++) {
    const enum ek_type type = types[i % 3];
    const ek_cache_side side = i / 3 % 2 ? EK_CACHE_KEYS : EK_CACHE_VALUES;
    uint8_t block[1024] = {0};
    ek_cache_store(type, side, i / 6 ? 16 : 4, 32, row, 5, block);
    ek_cache_load(type, side, i / 6 ? 16 : 4, 32, block, 5, read);
    for (int k = 0; k < 32; k++) {
      const float nearest = fminf(floorf((row[k] + 1) / 2), 7) * 2; /* q4_0: d is 2, ties go up */
      const float expected = type == EK_TYPE_q4_0 ? nearest : row[k];
      if (!(fabsf(read[k] - expected) <= (type == EK_TYPE_q8_0 ? 0.07f : 0)))
        check_fail("%s: %g reads as %g", type_name(type), row[k], read[k]);
    }
    ek_cache_load(type, side, i / 6 ? 16 : 4, 32, block, 4, read);
    for (int k = 0; k < 32; k++) CHECK(read[k] == 0);
    row[7] = 1e9f;
    ek_cache_store(type, side, i / 6 ? 16 : 4, 32, row, 5, block);
    ek_cache_load(type, side, i / 6 ? 16 : 4, 32, block, 5, read);
    CHECK(!isfinite(read[7]));
    row[7] = -9;
  }
  check_tested(12, "stored positions");
}

int main(int argc, char **argv) {
  const check_options options = check_start(argc, argv, 100);
  if (options.only == EK_LEVELS || options.only == EK_LEVEL_scalar) test_store();
  for (const check_row *row = check_rows; row->kernel; row++) {
    void (*test)(const check_row *, check_rng *, int) = row->operation == CHECK_scores           ? test_scores
                                                        : row->operation == CHECK_values         ? test_values
                                                        : row->operation == CHECK_online_softmax ? test_online_softmax
                                                                                                 : NULL;
    if (!test || !check_wanted(&options, row->level)) continue;
    const char *name = check_operation_names[row->operation];
    for (int number = 0; number < options.cases; number++) {
      check_rng rng = check_seed(name, number);
      test(row, &rng, number);
    }
    check_tested(options.cases, "%s %s %s", name, type_name(row->type), ek_level_name(row->level));
  }
  return check_end();
}
