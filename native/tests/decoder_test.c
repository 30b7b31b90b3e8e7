/* The forward pass on small random models of all architectures: quantised activations against unrounded ones, prefill
 * in any cut, decode, several sequences, any number of threads, steps that are stopped, failures, numbers that are
 * none, and that no logits are computed but those asked for. */
#include "check.h"
#include "decoder/decoder.h"
#include "model/parts.h"
#include "threads/pool.h"
#include "tiny_model.h"

#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TOKENS = 36, VOCAB = 40, SEQUENCES = 3, POSITIONS = 48, MICRO_BATCH = 40, MOST_THREADS = 3 };
enum { CASES_OF_MODEL = 5 }; /* as so many a model counts */

typedef struct world {
  ek_model *model;
  ek_kernels kernels;
  uint8_t *bytes;
  int32_t ids[TOKENS];
} world;

/* A decoder with its cache. */
typedef struct session {
  ek_cache *cache;
  ek_decoder *decoder;
} session;

static void must(ek_status status, const char *what) {
  if (status != EK_OK) check_fail("%s: %s: %s", what, ek_status_text(status), ek_last_error());
}

static void world_open(world *w, const tiny_file *file, ek_level level, unsigned threads, uint64_t seed) {
  size_t size;
  w->kernels = ek_kernels_of(level);
  ek_gguf *gguf;
  w->bytes = tiny_bytes(file, &size);
  const ek_model_params params = {.struct_size = sizeof params, .threads = threads};
  must(ek_gguf_read(w->bytes, size, "tiny", &gguf), "read");
  must(ek_model_load(gguf, &params, &w->model), "load");
  w->model->kernels = &w->kernels;
  check_rng rng = check_seed("tokens", (int)seed);
  for (int i = 0; i < TOKENS; i++) w->ids[i] = check_below(&rng, VOCAB);
}

static void world_close(world *w) {
  ek_model_free(w->model);
  free(w->bytes);
}

static session session_open(const world *w, enum ek_type key_type, enum ek_type value_type) {
  session s;
  const ek_cache_params params = {key_type, value_type, POSITIONS, SEQUENCES, MICRO_BATCH};
  must(ek_cache_create(w->model, &params, &s.cache), "cache");
  must(ek_decoder_create(w->model, s.cache, MICRO_BATCH, SEQUENCES, key_type == EK_TYPE_f32, &s.decoder), "decoder");
  return s;
}

static void session_close(session *s) {
  ek_decoder_free(s->decoder);
  ek_cache_free(s->cache);
}

static void prefill(const session *s, uint32_t sequence, const int32_t *ids, size_t count, float *logits,
                    size_t outputs) {
  const uint64_t before = ek_cache_length(s->cache, sequence);
  must(ek_decoder_prefill(s->decoder, sequence, ids, count, logits, outputs), "prefill");
  CHECK(ek_cache_length(s->cache, sequence) == before + count);
}

/* The root mean square of the difference of rows of logits, beside that of the logits. */
static double difference(const float *a, const float *b, size_t rows) {
  double squares = 0, size = 0;
  for (size_t i = 0; i < rows * VOCAB; i++) {
    squares += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
    size += (double)b[i] * b[i];
  }
  return squares == 0 ? 0 : sqrt(squares / size);
}

static void demand_close(const char *what, const float *a, const float *b, size_t rows, double tolerance) {
  const double found = difference(a, b, rows);
  if (!(found <= tolerance)) check_fail("%s: they differ by %.3g, allowed is %.3g", what, found, tolerance);
}

/* --- what must be the same --- */

/* Cut at random, single tokens by a step where asked for. */
static void test_cuts(const world *w, const session *s, check_rng *rng, const float *expected, double tolerance) {
  static float logits[TOKENS * VOCAB];
  for (size_t at = 0; at < TOKENS;) {
    const size_t left = TOKENS - at, some = 1 + (size_t)check_below(rng, check_below(rng, 2) ? 3 : 30);
    const size_t count = some < left ? some : left;
    const uint32_t sequence = 1;
    if (count == 1) {
      must(ek_decoder_step(s->decoder, &sequence, w->ids + at, 1, logits + at * VOCAB, NULL), "step");
    } else {
      prefill(s, sequence, w->ids + at, count, logits + at * VOCAB, count);
    }
    at += count;
  }
  demand_close("cuts", logits, expected, TOKENS, tolerance);
}

/* Outputs of the last few, of none, and what lies beside them. */
static void test_outputs(const world *w, const session *s, check_rng *rng, const float *expected, double tolerance) {
  float logits[9 * VOCAB];
  for (size_t outputs = 0; outputs <= 8; outputs += 1 + (size_t)check_below(rng, 4)) {
    must(ek_cache_truncate(s->cache, 2, 0), "truncate");
    for (int i = 0; i < 9 * VOCAB; i++) logits[i] = 1234;
    const size_t count = 30;
    prefill(s, 2, w->ids, count, outputs ? logits : NULL, outputs);
    demand_close("outputs", logits, expected + (count - outputs) * VOCAB, outputs, tolerance);
    for (size_t i = outputs * VOCAB; i < 9 * VOCAB; i++) CHECK(logits[i] == 1234);
    prefill(s, 2, w->ids + count, 1, logits, 1);
    demand_close("after outputs", logits, expected + count * VOCAB, 1, tolerance);
  }
}

/* Sequences at different positions, together. */
static void test_sequences(const world *w, const session *s, const float *expected, double tolerance) {
  static const size_t lengths[SEQUENCES] = {23, 1, 16};
  float logits[SEQUENCES * VOCAB];
  uint32_t order[SEQUENCES] = {2, 0, 1};
  for (uint32_t i = 0; i < SEQUENCES; i++) {
    must(ek_cache_truncate(s->cache, i, 0), "truncate");
    prefill(s, i, w->ids, lengths[i], NULL, 0);
  }
  for (size_t step = 0; step < 10; step++) {
    int32_t ids[SEQUENCES];
    for (size_t i = 0; i < SEQUENCES; i++) ids[i] = w->ids[lengths[order[i]] + step];
    const size_t count = step % 4 == 3 ? SEQUENCES - 1 : SEQUENCES; /* the last one by itself */
    must(ek_decoder_step(s->decoder, order, ids, count, logits, NULL), "step");
    if (count < SEQUENCES)
      must(ek_decoder_step(s->decoder, order + count, ids + count, 1, logits + count * VOCAB, NULL), "");
    for (size_t i = 0; i < SEQUENCES; i++)
      demand_close("sequence", logits + i * VOCAB, expected + (lengths[order[i]] + step) * VOCAB, 1, tolerance);
  }
  int32_t ids[2] = {w->ids[33], w->ids[11]};
  must(ek_decoder_step(s->decoder, (uint32_t[]){0, 1}, ids, 2, NULL, NULL), "no logits");
  ids[0] = w->ids[34];
  must(ek_decoder_step(s->decoder, (uint32_t[]){0}, ids, 1, logits, NULL), "after none");
  demand_close("after none", logits, expected + 34 * VOCAB, 1, tolerance);
}

/* A sequence that is full, alone and beside others: nothing changes. */
static void test_full(const world *w, const session *s, const float *expected, double tolerance) {
  float logits[VOCAB];
  for (uint32_t i = 0; i < SEQUENCES; i++) must(ek_cache_truncate(s->cache, i, 0), "truncate");
  prefill(s, 0, w->ids, 20, NULL, 0);
  prefill(s, 1, w->ids, TOKENS, NULL, 0);
  CHECK(ek_decoder_prefill(s->decoder, 1, w->ids, POSITIONS - TOKENS + 1, NULL, 0) == EK_CACHE_FULL);
  prefill(s, 1, w->ids, POSITIONS - TOKENS, NULL, 0);
  const int32_t ids[] = {w->ids[20], 0};
  CHECK(ek_decoder_step(s->decoder, (uint32_t[]){0, 1}, ids, 2, logits, NULL) == EK_CACHE_FULL);
  CHECK(ek_cache_length(s->cache, 0) == 20 && ek_cache_length(s->cache, 1) == POSITIONS);
  must(ek_decoder_step(s->decoder, (uint32_t[]){0}, ids, 1, logits, NULL), "after full");
  demand_close("after full", logits, expected + 20 * VOCAB, 1, tolerance);
}

typedef struct nested {
  const session *s;
  const world *w;
  ek_status status;
} nested;

static void nested_task(void *context, size_t index, unsigned worker) {
  (void)worker;
  nested *n = context;
  if (index == 0) n->status = ek_decoder_prefill(n->s->decoder, 0, n->w->ids + 20, 10, NULL, 0);
}

/* From within a run of the model's own pool: refused, and nothing changes. */
static void test_nested(const world *w, const session *s, const float *expected, double tolerance) {
  float logits[VOCAB];
  nested n = {s, w, EK_OK};
  must(ek_cache_truncate(s->cache, 0, 0), "truncate");
  prefill(s, 0, w->ids, 20, NULL, 0);
  must(ek_pool_run(w->model->pool, nested_task, &n, 2), "run");
  CHECK(n.status == EK_NESTED_RUN && ek_cache_length(s->cache, 0) == 20);
  prefill(s, 0, w->ids + 20, 1, logits, 1);
  demand_close("after a nested run", logits, expected + 20 * VOCAB, 1, tolerance);
}

/* --- stopped steps --- */

typedef struct stopping {
  int checks, at; /* at: the check that stops; -1: none */
} stopping;

static ek_status stop_at(void *user) {
  stopping *s = user;
  return s->checks++ == s->at ? EK_CANCELLED : EK_OK;
}

static session session_like(const world *w, const session *s) {
  const ek_cache_params *params = ek_cache_described(s->cache);
  return session_open(w, params->key_type, params->value_type);
}

/* Down to what the windows allow. */
static void compare_truncations(const session *a, const session *b, uint32_t sequence) {
  ek_status status = EK_OK;
  for (uint64_t length = ek_cache_length(a->cache, sequence); status == EK_OK && length-- > 1;) {
    status = ek_cache_truncate(a->cache, sequence, length);
    CHECK(ek_cache_truncate(b->cache, sequence, length) == status);
  }
}

/* Two sequences, one beyond the window and one across the end of a block, stopped at every check of every step: as if
 * it had not been tried, to the bit. */
static void test_stopped(const world *w, const session *like) {
  /* the last one that is stopped would have let a window of 16 go of the first block */
  enum { FIRST = 23, SECOND = 10, STEPS = 8 };
  static const uint32_t both[] = {0, 2};
  float logits[2][2 * VOCAB];
  session stopped = session_like(w, like), other = session_like(w, like);
  const int layers = (int)w->model->shape.layers;
  for (int i = 0; i < 2; i++) {
    prefill(i ? &other : &stopped, 0, w->ids, FIRST, NULL, 0);
    prefill(i ? &other : &stopped, 2, w->ids, SECOND, NULL, 0);
  }
  for (size_t step = 0; step <= STEPS; step++) {
    const int32_t ids[] = {w->ids[FIRST + step], w->ids[SECOND + step]};
    stopping s = {0, -1};
    const ek_stop stop = {stop_at, &s};
    for (int at = 0; at <= layers; at++) {
      s = (stopping){0, at};
      CHECK(ek_decoder_step(stopped.decoder, both, ids, 2, logits[0], &stop) == EK_CANCELLED && s.checks == at + 1);
      CHECK(ek_cache_length(stopped.cache, 0) == FIRST + step && ek_cache_length(stopped.cache, 2) == SECOND + step);
    }
    if (step == STEPS) break;
    s = (stopping){0, -1};
    must(ek_decoder_step(stopped.decoder, both, ids, 2, logits[0], &stop), "after stops");
    must(ek_decoder_step(other.decoder, both, ids, 2, logits[1], NULL), "without stops");
    CHECK(s.checks == layers + 1 && memcmp(logits[0], logits[1], sizeof logits[0]) == 0);
  }
  for (int i = 0; i < 2; i++) compare_truncations(&stopped, &other, both[i]);
  session_close(&stopped);
  session_close(&other);
}

/* --- a model --- */

static const enum ek_type cache_types[] = {EK_TYPE_f16, EK_TYPE_q8_0, EK_TYPE_q4_0};

/* Rounding of activations to 8 bits, of the cache, of weights to what a level's kernels take. */
static double error_allowed(enum ek_type type, enum ek_type cache_type) {
  const double of_cache = cache_type == EK_TYPE_q4_0 ? 0.25 : cache_type == EK_TYPE_q8_0 ? 0.03 : 0.003;
  return of_cache + (ek_activation_group(type) == 0 ? 0.002 : 0.06);
}

/* Where a code falls on the other side, it is the step of a code that differs. */
static double rounding_allowed(enum ek_type type, enum ek_type cache_type) {
  return error_allowed(type, cache_type) / 2;
}

static double worst_error;

static void test_all(const world *w, const session *s, int number, const float *expected, double tolerance) {
  check_rng rng = check_seed("cuts", number);
  test_cuts(w, s, &rng, expected, tolerance);
  test_outputs(w, s, &rng, expected, tolerance);
  test_sequences(w, s, expected, tolerance);
  test_full(w, s, expected, tolerance);
  test_nested(w, s, expected, tolerance);
  test_stopped(w, s);
}

/* Everything at this machine's best level; the others' kernels have tests of their own. */
static void test_level(const tiny_file *file, const tiny_options *options, ek_level level, int number,
                       const float *floats) {
  static float first[TOKENS * VOCAB], other[TOKENS * VOCAB];
  const enum ek_type keys = cache_types[number % 3], values = cache_types[(number + number / 3) % 3];
  const enum ek_type coarse = keys == EK_TYPE_q4_0 || values == EK_TYPE_q4_0   ? EK_TYPE_q4_0
                              : keys == EK_TYPE_q8_0 || values == EK_TYPE_q8_0 ? EK_TYPE_q8_0
                                                                               : EK_TYPE_f16;
  const double error = error_allowed(options->type, coarse);
  const unsigned most_threads = level == ek_kernels_here()->level ? MOST_THREADS : 1;
  for (unsigned threads = 1; threads <= most_threads; threads++) {
    world w;
    world_open(&w, file, level, threads, options->seed);
    session s = session_open(&w, keys, values);
    float *logits = threads == 1 ? first : other;
    prefill(&s, 0, w.ids, TOKENS, logits, TOKENS);
    demand_close("quantised activations", logits, floats, TOKENS, error);
    worst_error = fmax(worst_error, difference(logits, floats, TOKENS) / error);
    CHECK(memcmp(first, logits, sizeof first) == 0); /* to the bit */
    if (threads == 2) test_all(&w, &s, number, first, rounding_allowed(options->type, coarse));
    session_close(&s);
    world_close(&w);
  }
}

/* In the float mode only the order of some float operations differs. */
static void test_floats(const tiny_file *file, const tiny_options *options, int number, float *logits) {
  world w;
  world_open(&w, file, ek_kernels_here()->level, 2, options->seed);
  session s = session_open(&w, EK_TYPE_f32, EK_TYPE_f32);
  prefill(&s, 0, w.ids, TOKENS, logits, TOKENS);
  test_all(&w, &s, number, logits, 1e-5);
  session_close(&s);
  world_close(&w);
}

/* A token whose embedding is none of a number spoils its own sequence and no other. */
static void test_no_numbers(const tiny_options *options, int number, const float *expected, double tolerance) {
  static float logits[TOKENS * VOCAB];
  const float values[] = {NAN, INFINITY, -INFINITY};
  tiny_file *file = tiny_new(*options);
  float *row = (float *)(void *)tiny_find(file, "token_embd.weight")->data;
  world w;
  world_open(&w, file, ek_kernels_here()->level, 2, options->seed);
  const int32_t bad = w.ids[TOKENS - 1];
  world_close(&w);
  row[(size_t)bad * tiny_find(file, "token_embd.weight")->sizes[0] + 3] = values[number % 3];
  world_open(&w, file, ek_kernels_here()->level, 2, options->seed);
  session s = session_open(&w, cache_types[number % 3], cache_types[number % 2]);
  size_t good = 0;
  while (w.ids[good] != bad) good++;
  prefill(&s, 0, w.ids, good + 1, logits, good + 1);
  int finite = 0;
  for (size_t i = 0; i < VOCAB; i++) finite += isfinite(logits[good * VOCAB + i]) != 0;
  CHECK(finite == 0);
  prefill(&s, 1, w.ids, good, logits, good);
  if (options->untied) demand_close("before it", logits, expected, good, tolerance);
  session_close(&s);
  world_close(&w);
  tiny_free(file);
}

static void test_model(const check_options *check, tiny_options options, int number) {
  static float floats[TOKENS * VOCAB];
  static const char *const architectures[] = {"llama", "gemma3", "qwen2", "qwen3"};
  static const enum ek_type types[] = {EK_TYPE_q4_k, EK_TYPE_q8_0, EK_TYPE_q6_k, EK_TYPE_f16,
                                       EK_TYPE_q5_0, EK_TYPE_f32,  EK_TYPE_q4_0, EK_TYPE_iq4_nl,
                                       EK_TYPE_q5_k, EK_TYPE_bf16, EK_TYPE_q4_1, EK_TYPE_q5_1};
  options.architecture = architectures[number % 4];
  options.type = types[number % 12];
  options.seed = (uint64_t)number;
  options.untied = number / 4 % 2;
  options.vary = number % 3 == 1;
  options.head_dim = number % 5 == 2 && options.architecture[0] != 'q' ? 80 : 64;
  options.vocab = VOCAB;
  options.layers = 2;
  tiny_file *file = tiny_new(options);
  check_case("%s %s, model %d", options.architecture, ek_formats[options.type].name, number);
  test_floats(file, &options, number, floats);
  for (int level = 0; level < EK_LEVELS; level++) {
    if (!check_wanted(check, (ek_level)level)) continue;
    if (ek_level_interleave((ek_level)level) != ek_kernels_here()->interleave) continue;
    if ((ek_level)level != ek_kernels_here()->level && number % 3 != 0) continue;
    check_case("%s %s %s, model %d", options.architecture, ek_formats[options.type].name,
               ek_level_name((ek_level)level), number);
    test_level(file, &options, (ek_level)level, number, floats);
  }
  if (options.type == EK_TYPE_f32) test_no_numbers(&options, number, floats, error_allowed(options.type, EK_TYPE_q4_0));
  tiny_free(file);
}

/* --- needless products --- */

static ek_gemv_fn *plain_gemv;
static ek_gemm_fn *plain_gemm;
static atomic_size_t products; /* tokens x rows */

static void counting_gemv(const uint8_t *stripes, size_t rows, size_t columns, const ek_activations *x, float *out) {
  atomic_fetch_add(&products, rows);
  plain_gemv(stripes, rows, columns, x, out);
}

static void counting_gemm(const uint8_t *stripes, size_t rows, size_t columns, const ek_activations *x, size_t tokens,
                          float *out, size_t out_stride) {
  atomic_fetch_add(&products, rows * tokens);
  plain_gemm(stripes, rows, columns, x, tokens, out, out_stride);
}

/* Of TOKENS tokens only those whose logits are asked for go through this matrix, the one of its type; and they come out
 * as if all had been. */
static void test_needless(const char *architecture, const char *name) {
  static float all[TOKENS * VOCAB], some[TOKENS * VOCAB];
  check_case("%s, needless products with %s", architecture, name);
  tiny_file *file = tiny_new((tiny_options){.architecture = architecture, .untied = 1, .layers = 2, .vocab = VOCAB});
  const tiny_tensor *plain = tiny_find(file, name);
  const size_t columns = plain->sizes[0], rows = plain->sizes[1];
  tiny_remove(file, name);
  tiny_add(file, name, EK_TYPE_q8_0, columns, rows, 5);
  world w;
  world_open(&w, file, ek_kernels_here()->level, 2, 1);
  plain_gemv = w.kernels.gemv[EK_TYPE_q8_0];
  plain_gemm = w.kernels.gemm[EK_TYPE_q8_0];
  w.kernels.gemv[EK_TYPE_q8_0] = counting_gemv;
  w.kernels.gemm[EK_TYPE_q8_0] = counting_gemm;
  session s = session_open(&w, EK_TYPE_f16, EK_TYPE_f16);
  prefill(&s, 0, w.ids, TOKENS, all, TOKENS);
  CHECK(atomic_exchange(&products, 0) == TOKENS * rows);
  for (size_t outputs = 0; outputs <= 5; outputs++) {
    must(ek_cache_truncate(s.cache, 0, 0), "truncate");
    prefill(&s, 0, w.ids, TOKENS, outputs ? some : NULL, outputs);
    CHECK(atomic_exchange(&products, 0) == outputs * rows);
    demand_close("needed", some, all + (TOKENS - outputs) * VOCAB, outputs, 1e-3);
  }
  session_close(&s);
  world_close(&w);
  tiny_free(file);
}

/* --- big cores --- */

static ek_cores big_core; /* the first that may be used */
static atomic_int elsewhere;

static void placed_gemv(const uint8_t *stripes, size_t rows, size_t columns, const ek_activations *x, float *out) {
  const ek_cores mine = ek_big_cores("/nonexistent");
  if (memcmp(mine.mask, big_core.mask, sizeof mine.mask) != 0) atomic_fetch_add(&elsewhere, 1);
  plain_gemv(stripes, rows, columns, x, out);
}

/* The products of a step run on a big core in every thread, and the caller is free to go afterwards. */
static void test_big_cores(void) {
  const ek_cores all = ek_big_cores("/nonexistent");
  size_t first = 0;
  while (first < EK_MOST_CORES && !(all.mask[first / EK_CORES_BITS] >> first % EK_CORES_BITS & 1)) first++;
  if (all.count < 2 || first == EK_MOST_CORES) {
    printf("skipped: big cores, which needs two, and to be told apart\n");
    return;
  }
  big_core = (ek_cores){.count = 2, .some_left = 1};
  big_core.mask[first / EK_CORES_BITS] = 1ul << first % EK_CORES_BITS;
  check_case("big cores");
  tiny_file *file = tiny_new((tiny_options){.type = EK_TYPE_q8_0, .vocab = VOCAB});
  world w;
  world_open(&w, file, ek_kernels_here()->level, 1, 1);
  ek_pool_destroy(w.model->pool);
  must(ek_pool_create_on(&big_core, 2, &w.model->pool), "pool");
  plain_gemv = w.kernels.gemv[EK_TYPE_q8_0];
  w.kernels.gemv[EK_TYPE_q8_0] = placed_gemv;
  session s = session_open(&w, EK_TYPE_f16, EK_TYPE_f16);
  must(ek_decoder_step(s.decoder, (uint32_t[]){0}, w.ids, 1, NULL, NULL), "step");
  const ek_cores after = ek_big_cores("/nonexistent");
  CHECK(atomic_load(&elsewhere) == 0 && memcmp(after.mask, all.mask, sizeof all.mask) == 0);
  session_close(&s);
  world_close(&w);
  tiny_free(file);
  check_tested(1, "big cores");
}

/* What has no place is refused, with a sentence. */
static void test_refusals(void) {
  tiny_file *file = tiny_new((tiny_options){.seed = 1});
  world w;
  world_open(&w, file, ek_kernels_here()->level, 1, 1);
  const ek_cache_params params = {EK_TYPE_f16, EK_TYPE_f16, POSITIONS, 1, MICRO_BATCH};
  ek_cache *cache;
  ek_decoder *decoder = NULL;
  must(ek_cache_create(w.model, &params, &cache), "cache");
  CHECK(ek_decoder_create(w.model, cache, 0, 1, 0, &decoder) == EK_BAD_ARGUMENT);
  CHECK(ek_decoder_create(w.model, cache, SIZE_MAX, 1, 0, &decoder) == EK_BAD_ARGUMENT);
  CHECK(ek_decoder_create(w.model, cache, 1, 0, 0, &decoder) == EK_BAD_ARGUMENT);
  CHECK(ek_decoder_create(w.model, cache, 1, 1, 1, &decoder) == EK_BAD_ARGUMENT);
  CHECK(decoder == NULL && ek_last_error()[0] != 0);
  ek_decoder_free(NULL);
  ek_cache_free(cache);
  world_close(&w);
  tiny_free(file);
  check_tested(4, "refusals");
}

int main(int argc, char **argv) {
  const check_options options = check_start(argc, argv, 12 * CASES_OF_MODEL);
  const int models = (options.cases + CASES_OF_MODEL - 1) / CASES_OF_MODEL;
  for (int number = 0; number < models; number++) test_model(&options, (tiny_options){0}, number);
  check_tested(models, "models; worst error %.2f of what is allowed", worst_error);
  for (int i = 0; i < 2; i++) {
    test_needless(i ? "gemma3" : "llama", "output.weight");
    test_needless(i ? "gemma3" : "llama", "blk.1.ffn_down.weight");
  }
  check_tested(4, "needless products");
  test_big_cores();
  test_refusals();
  return check_end();
}
