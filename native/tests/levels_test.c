/* Every level but the scalar one gives the same bits: each operation and type at every level of this machine, on the
 * same input, and gemm the same as gemv token by token. What comes out is hashed, and the hashes are constants of this
 * file, so that two architectures that both pass agree with one another. */
#include "check.h"
#include "half.h"
#include "kernels/cache_block.h"
#include "kernels/stripe.h"
#include "operators/attention.h"
#include "product.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Results of one operation and type at one level: `expected` are those of the first level, to which others compare. */
typedef struct record {
  char name[64];
  uint64_t hash; /* of the first level's, in order */
  uint32_t *expected;
  size_t count, room;
  int first; /* whether this level is the first */
} record;

/* A NaN is a NaN: its bits are the machine's. */
static uint32_t bits_of(float x) { return isnan(x) ? 0x7fc00000u : ek_bits_of_float(x); }

static void add_bits(record *r, const uint32_t *bits, size_t count, const char *level) {
  if (r->first) {
    if (r->count + count > r->room) {
      r->room = 2 * (r->count + count);
      r->expected = realloc(r->expected, r->room * sizeof *r->expected);
    }
    memcpy(r->expected + r->count, bits, count * sizeof *bits);
    for (size_t i = 0; i < count; i++) r->hash = (r->hash ^ bits[i]) * 0x100000001b3u;
  } else {
    size_t other = 0, where = 0;
    for (size_t i = count; i-- > 0;) {
      if (r->expected[r->count + i] != bits[i]) other++, where = i;
    }
    if (other)
      check_fail("%s, %s: %zu of %zu differ, the first is number %zu: %08x, should be %08x (%.9g, %.9g)", r->name,
                 level, other, count, where, bits[where], r->expected[r->count + where],
                 (double)ek_float_of_bits(bits[where]), (double)ek_float_of_bits(r->expected[r->count + where]));
  }
  r->count += count;
}

static void add_floats(record *r, const float *x, size_t count, const char *level) {
  uint32_t *bits = malloc(count * sizeof *bits);
  for (size_t i = 0; i < count; i++) bits[i] = bits_of(x[i]);
  add_bits(r, bits, count, level);
  free(bits);
}

static void add_bytes(record *r, const void *bytes, size_t count, const char *level) {
  uint32_t *bits = malloc(count * sizeof *bits);
  for (size_t i = 0; i < count; i++) bits[i] = ((const uint8_t *)bytes)[i];
  add_bits(r, bits, count, level);
  free(bits);
}

static float *random_floats(check_rng *rng, size_t count) {
  float *x = malloc(count * sizeof *x);
  for (size_t i = 0; i < count; i++) x[i] = check_gaussian(rng);
  return x;
}

/* --- products --- */

/* Rows: of whole stripes and of one that is not, more than are taken at once. */
enum { ROWS = 43 };

/* Columns of more than one panel or chunk, tokens of which some are left over from every way of taking several. */
static void run_product(const ek_kernels *kernels, check_operation operation, enum ek_type type, int number,
                        record *record) {
  static const size_t groups[] = {1, 9, 19, 33}, tokens_of[] = {3, 23, 6, 9};
  const char *level = ek_level_name(kernels->level);
  check_rng rng = check_seed(ek_formats[type].name, number);
  const size_t group = ek_activation_group(type), count = groups[number], tokens = tokens_of[number];
  const size_t columns = group == 256 ? 256 * (1 + count % 4) : group ? 32 * count : 33 * count;
  const size_t stripe_bytes = ek_stripe_bytes(type, columns), stripes = (ROWS + EK_STRIPE - 1) / EK_STRIPE;
  uint8_t *blocks = product_random_blocks(&rng, type, ROWS * columns / (size_t)ek_formats[type].block);
  uint8_t *packed = malloc(stripes * stripe_bytes);
  ek_repack(type, kernels->interleave, blocks, ROWS, columns, 0, stripes, packed);
  float *values = random_floats(&rng, tokens * columns), *out = malloc(tokens * ROWS * sizeof(float));
  int8_t *codes = malloc(tokens * columns);
  float *scales = malloc(tokens * columns * sizeof(float));
  int32_t *offsets = malloc(tokens * columns * sizeof(int32_t));
  int16_t *sums = malloc(tokens * columns * sizeof(int16_t));
  if (group == 32) ek_quantise_32_f32_scalar(values, tokens * columns, codes, scales, offsets);
  if (group == 256) ek_quantise_256_f32_scalar(values, tokens * columns, codes, scales, sums);
  if (operation == CHECK_gemm) {
    const ek_activations x = {values, codes, scales, offsets, sums};
    kernels->gemm[type](packed, ROWS, columns, &x, tokens, out, ROWS);
    add_floats(record, out, tokens * ROWS, level);
  } else {
    for (size_t t = 0; t < tokens; t++) {
      const size_t at = t * columns, g = group ? at / group : 0;
      const ek_activations x = {values + at, codes + at, scales + g, offsets + at / 32, sums + at / 16};
      kernels->gemv[type](packed, ROWS, columns, &x, out + t * ROWS);
    }
    add_floats(record, out, tokens * ROWS, level);
  }
  void *all[] = {blocks, packed, values, out, codes, scales, offsets, sums};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
}

/* --- attention's kernels --- */

enum { QUERIES = 7, MOST_POSITIONS = EK_CACHE_BLOCK * EK_CACHE_TILE };

typedef struct tile {
  const uint8_t *blocks[EK_CACHE_TILE];
  size_t count, dims;
} tile;

/* Values of a size that differs from row to row, up to `spread` powers of two. */
static tile make_tile(check_rng *rng, enum ek_type type, ek_cache_side side, int interleave, int number) {
  tile t = {.count = (size_t)(1 + number * 5 % EK_CACHE_TILE), .dims = 32 * (size_t)(1 + number % 5)};
  const int spread = 1 + number % 5 * 3, shift = number == 4 ? 10 : number == 3 ? -25 : 0;
  for (size_t b = 0; b < t.count; b++) {
    uint8_t *block = calloc(ek_cache_block_bytes(type, t.dims), 1);
    float row[EK_MOST_HEAD_DIMS];
    for (size_t p = 0; p < EK_CACHE_BLOCK; p++) {
      const float size = ldexpf(1, shift - check_below(rng, spread));
      for (size_t k = 0; k < t.dims; k++) row[k] = size * check_gaussian(rng);
      ek_cache_store(type, side, interleave, t.dims, row, p, block);
    }
    t.blocks[b] = block;
  }
  return t;
}

static void free_tile(tile *t) {
  for (size_t b = 0; b < t->count; b++) free((void *)(uintptr_t)t->blocks[b]);
}

static void run_scores(const ek_kernels *kernels, enum ek_type type, int number, record *record) {
  check_rng rng = check_seed("scores", number);
  tile t = make_tile(&rng, type, EK_CACHE_KEYS, kernels->interleave, number);
  const size_t count = QUERIES * t.dims;
  float *values = random_floats(&rng, count), scales[QUERIES * EK_MOST_HEAD_DIMS / 32];
  int8_t codes[QUERIES * EK_MOST_HEAD_DIMS];
  int32_t offsets[QUERIES * EK_MOST_HEAD_DIMS / 32];
  ek_quantise_32_f32_scalar(values, count, codes, scales, offsets);
  const ek_activations x = {values, codes, scales, offsets, NULL};
  static float scores[QUERIES * MOST_POSITIONS];
  kernels->scores[type](t.blocks, t.count, t.dims, &x, QUERIES, scores);
  add_floats(record, scores, QUERIES * t.count * EK_CACHE_BLOCK, ek_level_name(kernels->level));
  free(values);
  free_tile(&t);
}

/* Moderate, far apart, very large, partly masked out, wholly so, not all finite. */
static void random_scores(check_rng *rng, float *scores, size_t count, int number) {
  const float size = number % 6 == 1 ? 60.0f : number % 6 == 2 ? 30000.0f : 3.0f;
  for (size_t i = 0; i < count; i++) {
    scores[i] = size * check_gaussian(rng);
    if (number % 6 == 3 && check_below(rng, 3)) scores[i] = -INFINITY;
    if (number % 6 == 4) scores[i] = -INFINITY;
  }
  if (number % 6 == 5) scores[check_below(rng, (int)count)] = check_below(rng, 2) ? NAN : INFINITY;
}

static void run_online_softmax(const ek_kernels *kernels, enum ek_type type, int number, record *record) {
  const char *level = ek_level_name(kernels->level);
  check_rng rng = check_seed("online_softmax", number);
  float maximum = -INFINITY, sum = 0;
  for (int step = 0; step < 6; step++) {
    float scores[MOST_POSITIONS], factor;
    const size_t count = (size_t)(EK_CACHE_BLOCK * (1 + check_below(&rng, EK_CACHE_TILE)));
    random_scores(&rng, scores, count, step == 5 ? 5 : number + step == 5 ? 0 : (number + step) % 5);
    const float keep = kernels->online_softmax[type](scores, count, &maximum, &sum, &factor);
    const float all[] = {keep, sum, factor, step == 5 ? 0 : maximum};
    add_floats(record, all, 4, level);
    if (step < 5) add_bytes(record, scores, 2 * count, level);
  }
}

static void run_values(const ek_kernels *kernels, enum ek_type type, int number, record *record) {
  check_rng rng = check_seed("values", number);
  tile t = make_tile(&rng, type, EK_CACHE_VALUES, kernels->interleave, number);
  const size_t count = t.count * EK_CACHE_BLOCK;
  static float weights[QUERIES * MOST_POSITIONS];
  float *out = random_floats(&rng, QUERIES * t.dims), factors[QUERIES];
  for (size_t q = 0; q < QUERIES; q++) {
    float maximum = -INFINITY, sum = 0;
    random_scores(&rng, weights + q * count, count, (int)q % 5);
    kernels->online_softmax[EK_TYPE_f32](weights + q * count, count, &maximum, &sum, &factors[q]);
  }
  kernels->values[type](t.blocks, t.count, t.dims, weights, factors, QUERIES, out);
  add_floats(record, out, QUERIES * t.dims, ek_level_name(kernels->level));
  free(out);
  free_tile(&t);
}

/* --- the others --- */

static void run_elementwise(const ek_kernels *kernels, check_operation operation, int number, record *record) {
  static const size_t counts[] = {1, 31, 32, 640, 1021, 3, 77, 100};
  const char *level = ek_level_name(kernels->level);
  check_rng rng = check_seed(check_operation_names[operation], number);
  const int quantises = operation == CHECK_quantise_32 || operation == CHECK_quantise_256;
  const size_t count = quantises                     ? 256 * (counts[number % 8] % 5 + 1)
                       : operation == CHECK_hadamard ? (size_t)32 << number % 5
                                                     : counts[number % 8];
  float *x = random_floats(&rng, 2 * count), *y = random_floats(&rng, count), *z = random_floats(&rng, count);
  const float size = number % 3 == 2 ? 20.0f : 1.0f;
  for (size_t i = 0; i < 2 * count; i++) x[i] *= size;
  int8_t *codes = malloc(count);
  int32_t *sums = calloc(count, sizeof *sums);
  const enum ek_type type = EK_TYPE_f32;
  size_t changed = count;
  switch (operation) {
  case CHECK_quantise_32:
    kernels->quantise_32[type](x, count, codes, y, sums);
    break;
  case CHECK_quantise_256:
    kernels->quantise_256[type](x, count, codes, y, (int16_t *)(void *)sums);
    break;
  case CHECK_rms_norm:
    kernels->rms_norm[type](x, y, count, 1e-6f, x);
    break;
  case CHECK_rope_halves:
  case CHECK_rope_adjacent:
    (operation == CHECK_rope_halves ? kernels->rope_halves[type] : kernels->rope_adjacent[type])(x, count, y, z);
    changed = 2 * count;
    break;
  case CHECK_hadamard:
    kernels->hadamard[type](x, count);
    break;
  case CHECK_swiglu:
    kernels->swiglu[type](x, y, count, x);
    break;
  case CHECK_geglu:
    kernels->geglu[type](x, y, count, x);
    break;
  default:
    kernels->softmax[type](x, count);
  }
  if (quantises) {
    add_bytes(record, codes, count, level);
    add_floats(record, y, operation == CHECK_quantise_32 ? count / 32 : count / 256, level);
    add_bytes(record, sums, count / 8, level);
  } else {
    add_floats(record, x, changed, level);
  }
  void *all[] = {x, y, z, codes, sums};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
}

static void run_kernel(const ek_kernels *kernels, check_operation operation, enum ek_type type, int number,
                       record *record) {
  switch (operation) {
  case CHECK_gemv:
  case CHECK_gemm:
    run_product(kernels, operation, type, number, record);
    break;
  case CHECK_scores:
    run_scores(kernels, type, number, record);
    break;
  case CHECK_values:
    run_values(kernels, type, number, record);
    break;
  case CHECK_online_softmax:
    run_online_softmax(kernels, type, number, record);
    break;
  default:
    run_elementwise(kernels, operation, number, record);
  }
}

/* Attention as a whole: many blocks for one token, which are cut into spans, and a softcap. */
static void run_attention(const ek_kernels *kernels, enum ek_type type, int number, record *record) {
  enum { BLOCKS = 75, DIMS = 64, GROUP = 4 };
  check_rng rng = check_seed("attention", number);
  static int32_t positions[BLOCKS * EK_CACHE_BLOCK];
  const uint8_t *sides[2][BLOCKS];
  tile tiles[2][BLOCKS];
  for (int i = 0; i < BLOCKS * EK_CACHE_BLOCK; i++) positions[i] = i;
  for (int side = 0; side < 2; side++) {
    for (int b = 0; b < BLOCKS; b++) {
      tiles[side][b] =
          make_tile(&rng, type, side ? EK_CACHE_VALUES : EK_CACHE_KEYS, kernels->interleave, 16 /* one block */);
      sides[side][b] = tiles[side][b].blocks[0];
    }
  }
  const ek_attention attention = {.key_type = type,
                                  .value_type = type,
                                  .kv_heads = 1,
                                  .group = GROUP,
                                  .dims = DIMS,
                                  .scale = 0.5f,
                                  .softcap = number % 2 ? 20.0f : 0,
                                  .causal = 1};
  const ek_attention_cache cache = {BLOCKS, sides[0], sides[1], positions, 0, 0};
  const int32_t token = BLOCKS * EK_CACHE_BLOCK - 5;
  float *queries = random_floats(&rng, GROUP * DIMS), out[GROUP * DIMS];
  size_t bytes;
  CHECK(ek_attention_scratch(&attention, 1, BLOCKS, 1, &bytes) == EK_OK);
  void *scratch = aligned_alloc(64, (bytes + 63) / 64 * 64);
  CHECK(ek_attention_run(kernels, NULL, &attention, &cache, queries, &token, 1, out, scratch) == EK_OK);
  add_floats(record, out, GROUP * DIMS, ek_level_name(kernels->level));
  free(scratch);
  free(queries);
  for (int i = 0; i < 2 * BLOCKS; i++) free_tile(&tiles[i / BLOCKS][i % BLOCKS]);
}

/* --- all of it --- */

enum { PRODUCTS = 4, TILES = 5, OTHERS = 8, ATTENTIONS = 2 };

typedef void run_fn(const ek_kernels *kernels, const check_row *row, record *record);

static void run_row(const ek_kernels *kernels, const check_row *row, record *record) {
  const int is_product = row->operation == CHECK_gemv || row->operation == CHECK_gemm;
  const int is_tile = row->operation == CHECK_scores || row->operation == CHECK_values;
  const int numbers = is_product ? PRODUCTS : is_tile ? TILES : OTHERS;
  for (int number = 0; number < numbers; number++) {
    check_case("%s at %s, case %d", record->name, ek_level_name(kernels->level), number);
    run_kernel(kernels, row->operation, row->type, number, record);
  }
}

static void run_whole(const ek_kernels *kernels, const check_row *row, record *record) {
  for (int number = 0; number < ATTENTIONS; number++) {
    check_case("%s at %s, case %d", record->name, ek_level_name(kernels->level), number);
    run_attention(kernels, row->type, number, record);
  }
}

/* Those of gemm are gemv's. A change of the order of float operations (kernels.h) changes them: the failure says to
 * what. */
static const struct {
  const char *name;
  uint64_t hash;
} hashes[] = {
    {"gemv f32", 0xab835d1fc47e6981},          {"gemv f16", 0x1f212238c9cc0185},
    {"gemv bf16", 0x994076bde6eb1288},         {"gemv q8_0", 0x6ae9c4e430ad0cb6},
    {"gemv q4_0", 0x5864d225747eafb0},         {"gemv q4_1", 0xfc479ab79d2f3056},
    {"gemv q5_0", 0xcf513d1166162c66},         {"gemv q5_1", 0xc94284506cdbcef5},
    {"gemv iq4_nl", 0x03245753fab675bd},       {"gemv q4_k", 0x9e111d9c74415f45},
    {"gemv q5_k", 0x0854cba8d3577295},         {"gemv q6_k", 0x93814f8c7f589435},
    {"quantise_32 f32", 0xe95d53a655d5d3da},   {"quantise_256 f32", 0xe6f66f741c42ac86},
    {"rms_norm f32", 0xfb179688e0084315},      {"rope_halves f32", 0x53a9e54acb04611d},
    {"rope_adjacent f32", 0x52ee33a1b387beec}, {"swiglu f32", 0x630ba107dae2d73c},
    {"geglu f32", 0x60407e73cd60867e},         {"softmax f32", 0x2e6643891d31c32f},
    {"scores f16", 0x06e078c5b3b23e5f},        {"scores q8_0", 0x5b99d228db801042},
    {"scores q4_0", 0xde54b2a272b8d4fb},       {"values f16", 0xcd8fad3623c7bdc7},
    {"attention f16", 0x1f52f5ac04c7db20},     {"values q8_0", 0x3205d3835c81e651},
    {"attention q8_0", 0xf6832fd496927836},    {"values q4_0", 0x919dc6ddeeb9d5d0},
    {"attention q4_0", 0xb98e0835ad998b66},    {"online_softmax f32", 0x67ca6a24d4466a12},
    {"hadamard f32", 0x064f8bf119c5a9ce},
};

static uint64_t expected_hash(const char *name) {
  for (size_t i = 0; i < sizeof hashes / sizeof *hashes; i++) {
    if (strcmp(hashes[i].name, name) == 0) return hashes[i].hash;
  }
  return 0;
}

static void test(const check_options *options, const char *name, const check_row *row, run_fn *run) {
  record record = {.hash = 0xcbf29ce484222325u, .first = 1};
  int levels = 0;
  snprintf(record.name, sizeof record.name, "%s %s", name, ek_formats[row->type].name);
  for (int level = EK_LEVEL_scalar + 1; level < EK_LEVELS; level++) {
    if (!check_wanted(options, (ek_level)level)) continue;
    const ek_kernels kernels = ek_kernels_of((ek_level)level);
    record.count = 0;
    run(&kernels, row, &record);
    record.first = 0;
    levels++;
  }
  free(record.expected);
  if (levels == 0) return;
  const char *listed = row->operation == CHECK_gemm ? "gemv" : name;
  char entry[64];
  snprintf(entry, sizeof entry, "%s %s", listed, ek_formats[row->type].name);
  check_case("%s", record.name);
  if (record.hash != expected_hash(entry)) check_fail("{\"%s\", 0x%016llx},", entry, (unsigned long long)record.hash);
  check_tested(levels, "%s", record.name);
}

int main(int argc, char **argv) {
  const check_options options = check_start(argc, argv, 1);
  for (const check_row *row = check_rows; row->kernel; row++) {
    if (row->level != EK_LEVEL_scalar) continue;
    test(&options, check_operation_names[row->operation], row, run_row);
    if (row->operation == CHECK_values) test(&options, "attention", row, run_whole);
  }
  return check_end();
}
