/* The public functions on small models: arguments, struct sizes, micro-batches, cancelling, callbacks, threads. What
 * they compute is decoder_test.c's. */
#include "api/context.h"
#include "check.h"
#include "edgekit.h"
#include "tiny_model.h"

#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { VOCAB = 40, TOKENS = 60, LONG = 4000 };

static int32_t ids[LONG];

static void must(ek_status status) {
  if (status != EK_OK) check_fail("%s: %s", ek_status_text(status), ek_last_error());
}

/* That status, and a sentence with `word`. */
static void refused(ek_status status, ek_status wanted, const char *word) {
  if (status != wanted) check_fail("%s instead of %s", ek_status_text(status), ek_status_text(wanted));
  if (!strstr(ek_last_error(), word)) check_fail("no \"%s\" in: %s", word, ek_last_error());
}

static ek_model *open_model(const char *architecture, unsigned threads) {
  char path[] = "/tmp/edgekit-api-XXXXXX";
  const int file = mkstemp(path);
  if (file < 0) check_fail("no file in /tmp can be made");
  (void)close(file);
  tiny_file *tiny = tiny_new((tiny_options){.architecture = architecture, .vocab = VOCAB});
  tiny_save(tiny, path);
  tiny_free(tiny);
  ek_model *model = NULL;
  const ek_model_params params = {.struct_size = sizeof params, .threads = threads};
  must(ek_model_open(path, &params, &model));
  (void)unlink(path);
  if (!model) exit(check_end());
  return model;
}

static ek_context *open_context(ek_model *model, uint32_t positions, uint32_t sequences, uint32_t micro_batch) {
  ek_context *context = NULL;
  const ek_context_params params = {
      .struct_size = sizeof params, .positions = positions, .sequences = sequences, .micro_batch = micro_batch};
  must(ek_context_create(model, &params, &context));
  if (!context) exit(check_end());
  return context;
}

static uint64_t length_of(const ek_context *context, uint32_t sequence) {
  uint64_t length = UINT64_MAX;
  must(ek_sequence_length(context, sequence, &length));
  return length;
}

static int is_near(const float *expected, const float *actual, size_t count) {
  double greatest = 0, off = 0;
  for (size_t i = 0; i < count; i++) {
    greatest = fmax(greatest, fabs((double)expected[i]));
    off = fmax(off, fabs((double)expected[i] - (double)actual[i]));
    if (!isfinite(actual[i])) return 0;
  }
  return off <= 2e-3 * greatest; /* other sums are rounded otherwise on their way into the cache */
}

/* --- creation --- */

static void test_context_parameters(ek_model *model) {
  ek_context *context = NULL;
  const ek_context_params bad[] = {{.struct_size = 0},
                                   {.struct_size = sizeof(size_t) - 1},
                                   {.struct_size = sizeof *bad, .positions = UINT32_MAX},
                                   {.struct_size = sizeof *bad, .positions = (1 << 24) + 1},
                                   {.struct_size = sizeof *bad, .sequences = UINT32_MAX},
                                   {.struct_size = sizeof *bad, .micro_batch = UINT32_MAX},
                                   {.struct_size = sizeof *bad, .key_type = 3},
                                   {.struct_size = sizeof *bad, .value_type = UINT32_MAX},
                                   {.struct_size = sizeof *bad, .float_activations = 1, .key_type = EK_CACHE_Q8_0}};
  static const char *const words[] = {"struct_size", "struct_size", "positions",  "positions",        "sequences",
                                      "micro_batch", "key_type",    "value_type", "float_activations"};
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    check_case("context parameters %zu", i);
    refused(ek_context_create(model, &bad[i], &context), EK_BAD_ARGUMENT, words[i]);
    CHECK(context == NULL);
  }
  check_case("context parameters");
  refused(ek_context_create(NULL, NULL, &context), EK_BAD_ARGUMENT, "NULL");
  refused(ek_context_create(model, NULL, NULL), EK_BAD_ARGUMENT, "NULL");
  const ek_context_params huge = {.struct_size = sizeof huge, .positions = 1 << 24, .micro_batch = 8};
  const ek_status status = ek_context_create(model, &huge, &context);
  CHECK(status == EK_NO_MEMORY || status == EK_OK);
  if (status == EK_OK) must(ek_prefill(context, 0, ids, 20, NULL, 0));
  ek_context_free(context);
  ek_context_free(NULL);
  check_tested(sizeof bad / sizeof *bad + 3, "context parameters");
}

/* A program that was compiled before a member was added, and one that was compiled after. */
static void test_struct_sizes(ek_model *model) {
  struct {
    ek_context_params known;
    uint64_t later;
  } newer = {{.struct_size = sizeof newer, .positions = 32}, 0};
  check_case("struct sizes");
  ek_context *context = NULL;
  must(ek_context_create(model, &newer.known, &context));
  must(ek_prefill(context, 0, ids, 32, NULL, 0));
  refused(ek_prefill(context, 0, ids, 1, NULL, 0), EK_CACHE_FULL, "32");
  ek_context_free(context);
  context = NULL;
  newer.later = 1;
  refused(ek_context_create(model, &newer.known, &context), EK_BAD_ARGUMENT, "ek_context_params");

  ek_context_params older;
  memset(&older, 0xff, sizeof older); /* what the shorter struct does not have is not read */
  older.struct_size = offsetof(ek_context_params, sequences);
  older.positions = 16;
  must(ek_context_create(model, &older, &context));
  refused(ek_prefill(context, 0, ids, 17, NULL, 0), EK_CACHE_FULL, "16");
  refused(ek_prefill(context, 1, ids, 1, NULL, 0), EK_BAD_ARGUMENT, "sequence 1");

  struct {
    ek_cache_stats known;
    uint64_t later;
  } stats = {{.struct_size = sizeof stats}, 77};
  must(ek_cache_describe(context, &stats.known));
  CHECK(stats.known.struct_size == sizeof stats && stats.known.peak_bytes > 0 && stats.later == 0);
  stats.known = (ek_cache_stats){.struct_size = offsetof(ek_cache_stats, peak_bytes), .peak_bytes = 77};
  must(ek_cache_describe(context, &stats.known));
  CHECK(stats.known.allocated_bytes > 0 && stats.known.peak_bytes == 77);
  refused(ek_cache_describe(context, NULL), EK_BAD_ARGUMENT, "ek_cache_stats");
  ek_context_free(context);
  check_tested(6, "struct sizes");
}

/* --- tokens --- */

static void test_arguments(ek_model *model) {
  check_case("arguments");
  static float logits[2 * VOCAB];
  const uint32_t twice[] = {1, 0, 1}, wrong[] = {0, 7};
  const int32_t bad[] = {3, VOCAB, -1};
  uint64_t length = 7;
  ek_context *c = open_context(model, 32, 3, 0);
  must(ek_prefill(c, 2, ids, 32, NULL, 0));
  refused(ek_prefill(NULL, 0, ids, 1, NULL, 0), EK_BAD_ARGUMENT, "NULL");
  refused(ek_prefill(c, 3, ids, 1, NULL, 0), EK_BAD_ARGUMENT, "sequence 3");
  refused(ek_prefill(c, 0, NULL, 1, NULL, 0), EK_BAD_ARGUMENT, "no tokens");
  refused(ek_prefill(c, 0, ids, 0, NULL, 0), EK_BAD_ARGUMENT, "no tokens");
  refused(ek_prefill(c, 0, bad, 2, NULL, 0), EK_BAD_ARGUMENT, "token 40");
  refused(ek_prefill(c, 0, bad + 2, 1, NULL, 0), EK_BAD_ARGUMENT, "token -1");
  refused(ek_prefill(c, 0, ids, 1, logits, 2), EK_BAD_ARGUMENT, "logits");
  refused(ek_prefill(c, 0, ids, 1, logits, 0), EK_BAD_ARGUMENT, "logits");
  refused(ek_prefill(c, 0, ids, 1, NULL, 1), EK_BAD_ARGUMENT, "logits");
  refused(ek_prefill(c, 0, ids, SIZE_MAX, NULL, 0), EK_CACHE_FULL, "32");
  refused(ek_decode(NULL, twice, ids, 1, NULL), EK_BAD_ARGUMENT, "NULL");
  refused(ek_decode(c, NULL, ids, 1, NULL), EK_BAD_ARGUMENT, "no sequences");
  refused(ek_decode(c, twice, NULL, 1, NULL), EK_BAD_ARGUMENT, "no tokens");
  refused(ek_decode(c, twice, ids, 0, NULL), EK_BAD_ARGUMENT, "no sequences");
  refused(ek_decode(c, twice, ids, 3, NULL), EK_BAD_ARGUMENT, "twice");
  refused(ek_decode(c, wrong, ids, 2, NULL), EK_BAD_ARGUMENT, "sequence 7");
  refused(ek_decode(c, twice, bad, 2, NULL), EK_BAD_ARGUMENT, "token 40");
  refused(ek_decode(c, twice, ids, SIZE_MAX, NULL), EK_BAD_ARGUMENT, "3");
  refused(ek_decode(c, (uint32_t[]){0, 2}, ids, 2, NULL), EK_CACHE_FULL, "sequence 2");
  refused(ek_sequence_length(NULL, 0, &length), EK_BAD_ARGUMENT, "NULL");
  refused(ek_sequence_length(c, 3, &length), EK_BAD_ARGUMENT, "sequence 3");
  refused(ek_sequence_length(c, 0, NULL), EK_BAD_ARGUMENT, "NULL");
  refused(ek_sequence_truncate(NULL, 0, 0), EK_BAD_ARGUMENT, "NULL");
  refused(ek_sequence_truncate(c, UINT32_MAX, 0), EK_BAD_ARGUMENT, "sequence");
  refused(ek_sequence_truncate(c, 0, 1), EK_BAD_ARGUMENT, "truncated");
  refused(ek_sequence_fork(NULL, 0, 1), EK_BAD_ARGUMENT, "NULL");
  refused(ek_sequence_fork(c, 0, 3), EK_BAD_ARGUMENT, "sequence 3");
  refused(ek_sequence_fork(c, 3, 0), EK_BAD_ARGUMENT, "sequence 3");
  refused(ek_cache_describe(NULL, NULL), EK_BAD_ARGUMENT, "NULL");
  ek_cancel(NULL);
  CHECK(length == 7 && length_of(c, 0) == 0 && length_of(c, 1) == 0 && length_of(c, 2) == 32);
  must(ek_decode(c, twice, ids, 2, logits)); /* what was refused left no mark */
  CHECK(length_of(c, 0) == 1 && length_of(c, 1) == 1);
  ek_context_free(c);
  check_tested(29, "arguments");
}

/* Logits of the last tokens, whatever the micro-batches; and nothing beside them is written. */
static void test_micro_batches(ek_model *model) {
  static float all[TOKENS * VOCAB];
  const uint32_t sizes[] = {1, 7, 16, 59, 60, 0};
  const size_t outputs[] = {1, 2, 8, 59, 60};
  ek_context *whole = open_context(model, TOKENS, 1, TOKENS);
  must(ek_prefill(whole, 0, ids, TOKENS, all, TOKENS));
  ek_context_free(whole);
  for (size_t i = 0; i < 6; i++) {
    ek_context *c = open_context(model, TOKENS, 1, sizes[i]);
    for (size_t o = 0; o < 5; o++) {
      check_case("micro-batches of %u, %zu outputs", (unsigned)sizes[i], outputs[o]);
      check_buffer buffer = check_buffer_new(outputs[o] * VOCAB * sizeof(float), sizeof(float), (check_place)(o % 2));
      must(ek_prefill(c, 0, ids, TOKENS, (float *)(void *)buffer.data, outputs[o]));
      CHECK(is_near(all + (TOKENS - outputs[o]) * VOCAB, (float *)(void *)buffer.data, outputs[o] * VOCAB));
      CHECK(check_buffer_tight(&buffer) && length_of(c, 0) == TOKENS);
      check_buffer_free(&buffer);
      must(ek_sequence_truncate(c, 0, 0));
    }
    ek_context_free(c);
  }
  check_tested(30, "micro-batches");
}

static void test_sequences(ek_model *model) {
  check_case("sequences");
  static float one[VOCAB], two[2 * VOCAB];
  ek_cache_stats stats = EK_INIT(ek_cache_stats);
  ek_context *c = open_context(model, TOKENS, 3, 0);
  must(ek_prefill(c, 0, ids, 20, NULL, 0));
  must(ek_sequence_fork(c, 0, 2));
  must(ek_cache_describe(c, &stats));
  CHECK(length_of(c, 2) == 20 && stats.shared_bytes > 0 && stats.allocated_bytes <= stats.peak_bytes);
  must(ek_prefill(c, 1, ids, 20, NULL, 0));
  must(ek_decode(c, (uint32_t[]){2, 1}, (int32_t[]){5, 5}, 2, two));
  must(ek_prefill(c, 0, (int32_t[]){5}, 1, one, 1));
  CHECK(is_near(one, two, VOCAB) && is_near(one, two + VOCAB, VOCAB));
  CHECK(length_of(c, 0) == 21 && length_of(c, 1) == 21 && length_of(c, 2) == 21);
  must(ek_sequence_fork(c, 1, 1));
  must(ek_sequence_truncate(c, 1, 20));
  must(ek_decode(c, (uint32_t[]){1}, (int32_t[]){5}, 1, two));
  CHECK(is_near(one, two, VOCAB));
  for (uint32_t s = 0; s < 3; s++) must(ek_sequence_truncate(c, s, 0));
  must(ek_cache_describe(c, &stats));
  CHECK(stats.shared_bytes == 0);
  ek_context_free(c);
  check_tested(8, "sequences");
}

/* --- generation --- */

typedef struct listener {
  ek_context *context;
  size_t heard, stop_at, cancel_at; /* 0: never */
  int32_t tokens[TOKENS];
  int nests;
} listener;

static void nest(ek_context *c) {
  uint64_t length;
  size_t generated = 7;
  ek_cache_stats stats = EK_INIT(ek_cache_stats);
  refused(ek_prefill(c, 0, ids, 1, NULL, 0), EK_NESTED_RUN, "ek_prefill");
  refused(ek_decode(c, (uint32_t[]){0}, ids, 1, NULL), EK_NESTED_RUN, "ek_decode");
  refused(ek_sequence_length(c, 0, &length), EK_NESTED_RUN, "ek_sequence_length");
  refused(ek_sequence_truncate(c, 0, 0), EK_NESTED_RUN, "ek_sequence_truncate");
  refused(ek_sequence_fork(c, 0, 0), EK_NESTED_RUN, "ek_sequence_fork");
  refused(ek_cache_describe(c, &stats), EK_NESTED_RUN, "ek_cache_describe");
  refused(ek_generate(c, 0, ids, 1, NULL, 1, NULL, 0, NULL, NULL, &generated), EK_NESTED_RUN, "ek_generate");
  CHECK(generated == 0);
  ek_context_free(c);
}

static int listen(void *user, int32_t token) {
  listener *l = user;
  l->tokens[l->heard++] = token;
  if (l->nests) nest(l->context);
  if (l->heard == l->cancel_at) ek_cancel(l->context);
  return l->heard == l->stop_at;
}

static ek_sampler *open_sampler(uint32_t vocab) {
  ek_sampler *sampler = NULL;
  must(ek_sampler_create(NULL, vocab, &sampler));
  return sampler;
}

/* The same tokens as prefilling and decoding by hand. */
static void by_hand(ek_context *c, const int32_t *prompt, size_t count, int32_t *tokens, size_t most) {
  static float logits[VOCAB];
  ek_sampler *sampler = open_sampler(VOCAB);
  must(ek_sequence_truncate(c, 0, 0));
  must(ek_prefill(c, 0, prompt, count, logits, 1));
  for (size_t i = 0; i < most; i++) {
    must(ek_sampler_choose(sampler, logits, &tokens[i]));
    must(ek_decode(c, (uint32_t[]){0}, &tokens[i], 1, logits));
  }
  ek_sampler_free(sampler);
}

static void test_generate(ek_model *model) {
  ek_context *c = open_context(model, TOKENS, 1, 16);
  ek_sampler *sampler = open_sampler(VOCAB), *other = open_sampler(VOCAB + 1);
  int32_t expected[30];
  by_hand(c, ids, 20, expected, 30);
  size_t first = 0; /* where the token that is generated last appears first */
  while (expected[first] != expected[29]) first++;
  const struct {
    size_t most, stop_at, cancel_at, end_count;
    ek_status status;
    size_t generated;
  } cases[] = {{30, 0, 0, 0, EK_OK, 30},       {0, 0, 0, 0, EK_OK, 0},         {1, 0, 0, 0, EK_OK, 1},
               {30, 4, 0, 0, EK_CANCELLED, 4}, {30, 0, 5, 0, EK_CANCELLED, 5}, {30, 0, 0, 1, EK_OK, first + 1},
               {5, 5, 0, 0, EK_CANCELLED, 5},  {5, 0, 5, 0, EK_OK, 5},         {SIZE_MAX, 0, 0, 0, EK_CACHE_FULL, 41}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    check_case("generate %zu", i);
    listener l = {.context = c, .stop_at = cases[i].stop_at, .cancel_at = cases[i].cancel_at, .nests = 1};
    size_t generated = 99;
    must(ek_sequence_truncate(c, 0, 0));
    const ek_status status =
        ek_generate(c, 0, ids, 20, sampler, cases[i].most, &expected[29], cases[i].end_count, listen, &l, &generated);
    CHECK(status == cases[i].status && generated == cases[i].generated && l.heard == generated);
    CHECK(memcmp(l.tokens, expected, (generated < 30 ? generated : 30) * sizeof *expected) == 0);
    CHECK(length_of(c, 0) == 20 + (generated > 0 ? generated - 1 : 0));
  }
  check_case("generate");
  refused(ek_generate(c, 0, ids, 1, other, 1, NULL, 0, NULL, NULL, NULL), EK_BAD_ARGUMENT, "41");
  refused(ek_generate(c, 0, ids, 1, NULL, 1, NULL, 0, NULL, NULL, NULL), EK_BAD_ARGUMENT, "NULL");
  refused(ek_generate(c, 0, ids, 1, sampler, 1, NULL, 1, NULL, NULL, NULL), EK_BAD_ARGUMENT, "NULL");
  refused(ek_generate(c, 0, ids, 0, sampler, 1, NULL, 0, NULL, NULL, NULL), EK_BAD_ARGUMENT, "no tokens");
  refused(ek_generate(c, 5, ids, 1, sampler, 1, NULL, 0, NULL, NULL, NULL), EK_BAD_ARGUMENT, "sequence 5");
  refused(ek_generate(NULL, 0, ids, 1, sampler, 1, NULL, 0, NULL, NULL, NULL), EK_BAD_ARGUMENT, "NULL");
  must(ek_sequence_truncate(c, 0, 0));
  must(ek_generate(c, 0, ids, 20, sampler, 2, NULL, 0, NULL, NULL, NULL));
  ek_sampler_free(sampler);
  ek_sampler_free(other);
  ek_context_free(c);
  check_tested(sizeof cases / sizeof *cases + 7, "generate");
}

/* The prompt's tokens count for the repetition penalty. */
static void test_prompt_penalty(ek_model *model) {
  check_case("prompt's penalty");
  int32_t first[2];
  ek_context *c = open_context(model, TOKENS, 1, 0);
  by_hand(c, ids, 20, first, 1);
  ek_sampler *sampler = NULL;
  const ek_sampler_params params = {.struct_size = sizeof params, .repetition_penalty = 1e30f};
  must(ek_sampler_create(&params, VOCAB, &sampler));
  must(ek_sampler_accept(sampler, first[0]));
  listener l = {.context = c};
  must(ek_sequence_truncate(c, 0, 0));
  must(ek_generate(c, 0, ids, 20, sampler, 20, NULL, 0, listen, &l, NULL));
  int seen[VOCAB] = {0}; /* the prompt's and the first: all others are preferred, once each */
  for (int i = 0; i < 20; i++) seen[ids[i]] = 1;
  seen[first[0]] = 1;
  for (size_t i = 0; i < 12; i++) CHECK(seen[l.tokens[i]]++ == 0);
  ek_sampler_free(sampler);
  ek_context_free(c);
  check_tested(1, "prompt's penalty");
}

/* --- cancelling and threads --- */

typedef struct other_thread {
  ek_context *context;
  int cancels; /* else it uses the context too */
  ek_status used;
} other_thread;

static void *intervene(void *user) {
  other_thread *o = user;
  uint64_t length;
  while (atomic_load(&o->context->user) == 0) sched_yield();
  o->used = ek_sequence_length(o->context, 0, &length);
  ek_cancel(o->context);
  return NULL;
}

static void test_cancel(ek_model *model, int cases) {
  ek_context *c = open_context(model, LONG, 1, 8);
  for (int i = 0; i < cases; i++) {
    check_case("cancel %d", i);
    other_thread o = {.context = c};
    pthread_t thread;
    ek_cancel(c); /* nothing runs: nothing happens */
    must(ek_prefill(c, 0, ids, 16, NULL, 0));
    if (pthread_create(&thread, NULL, intervene, &o) != 0) exit(1);
    const ek_status status = ek_prefill(c, 0, ids, LONG - 17, NULL, 0);
    pthread_join(thread, NULL);
    const uint64_t length = length_of(c, 0);
    refused(status, EK_CANCELLED, "ek_cancel");
    CHECK(length % 8 == 0 && length < LONG - 1);
    CHECK(o.used == EK_BAD_ARGUMENT);        /* it was in use */
    must(ek_prefill(c, 0, ids, 1, NULL, 0)); /* not affected */
    must(ek_sequence_truncate(c, 0, 0));
  }
  ek_context_free(c);
  check_tested(cases, "cancel");
}

static ek_context *interrupted; /* by the signal */
static volatile sig_atomic_t tokens_then;

static void interrupt(int number) {
  (void)number;
  ek_cancel(interrupted);
  tokens_then = (sig_atomic_t)ek_cache_length(interrupted->cache, 0);
}

typedef struct signaller {
  pthread_t to;
  long after_us;
} signaller;

static void *send_signal(void *user) {
  const signaller *s = user;
  while (atomic_load(&interrupted->user) == 0) sched_yield();
  nanosleep(&(struct timespec){0, s->after_us * 1000}, NULL);
  (void)pthread_kill(s->to, SIGUSR1);
  return NULL;
}

/* A prefill ends with the micro-batch that is under way when a signal cancels it. */
static void test_cancel_within_a_micro_batch(ek_model *model, int cases) {
  enum { MICRO_BATCH = 8 };
  int cancelled = 0;
  interrupted = open_context(model, LONG, 1, MICRO_BATCH);
  signal(SIGUSR1, interrupt);
  for (int i = 0; cancelled < cases && i < 100 * cases; i++) { /* the signal may come too late */
    check_case("cancelled micro-batch %d", i);
    signaller s = {pthread_self(), 50 * (i % 20)};
    pthread_t thread;
    if (pthread_create(&thread, NULL, send_signal, &s) != 0) exit(1);
    const ek_status status = ek_prefill(interrupted, 0, ids, LONG, NULL, 0);
    const uint64_t length = length_of(interrupted, 0);
    pthread_join(thread, NULL);
    if (status == EK_OK) {
      CHECK(length == LONG);
    } else {
      refused(status, EK_CANCELLED, "ek_cancel");
      CHECK(length % MICRO_BATCH == 0 && length >= (uint64_t)tokens_then);
      CHECK(length <= (uint64_t)tokens_then + MICRO_BATCH);
      cancelled++;
    }
    must(ek_sequence_truncate(interrupted, 0, 0));
  }
  CHECK(cancelled == cases);
  signal(SIGUSR1, SIG_DFL);
  ek_context_free(interrupted);
  check_tested(cancelled, "cancelled micro-batches");
}

typedef struct insisting {
  ek_context *context;
  atomic_int enough;
} insisting;

static void *insist(void *user) {
  insisting *i = user;
  while (!atomic_load(&i->enough)) {
    ek_cancel(i->context);
    sched_yield();
  }
  return NULL;
}

/* Cancelled again and again, decoding goes on as if it had not been. What is cancelled where is decoder_test.c's. */
static void test_cancelled_decode(ek_model *model, int cases) {
  static float logits[VOCAB], expected[VOCAB];
  check_case("cancelled decode");
  ek_context *c = open_context(model, TOKENS, 1, 0), *calm = open_context(model, TOKENS, 1, 0);
  insisting other = {.context = c};
  pthread_t thread;
  must(ek_prefill(c, 0, ids, 30, NULL, 0));
  must(ek_prefill(calm, 0, ids, 30, NULL, 0));
  if (pthread_create(&thread, NULL, insist, &other) != 0) exit(1);
  int cancelled = 0;
  uint64_t length = 30;
  for (long i = 0; cancelled < cases && i < 1000000L * cases; i++) {
    const ek_status status = ek_decode(c, (uint32_t[]){0}, &ids[length], 1, logits);
    if (status == EK_OK) must(ek_decode(calm, (uint32_t[]){0}, &ids[length], 1, expected));
    if (status != EK_OK) refused(status, EK_CANCELLED, "ek_cancel");
    length += status == EK_OK;
    cancelled += status == EK_CANCELLED;
    CHECK(length_of(c, 0) == length && (status != EK_OK || memcmp(logits, expected, sizeof logits) == 0));
    if (length == TOKENS - 1) {
      must(ek_sequence_truncate(c, 0, length = TOKENS - 2));
      must(ek_sequence_truncate(calm, 0, length));
    }
  }
  atomic_store(&other.enough, 1);
  pthread_join(thread, NULL);
  CHECK(cancelled == cases);
  must(ek_decode(c, (uint32_t[]){0}, &ids[length], 1, logits)); /* not affected by those that came late */
  must(ek_decode(calm, (uint32_t[]){0}, &ids[length], 1, expected));
  CHECK(memcmp(logits, expected, sizeof logits) == 0);
  ek_context_free(c);
  ek_context_free(calm);
  check_tested(cancelled, "cancelled decodes");
}

/* Any number of contexts on one model, each in its thread. */
static void *generate_alone(void *user) {
  listener *l = user;
  ek_context *c = open_context(l->context->model, TOKENS, 1, 8);
  ek_sampler *sampler = open_sampler(VOCAB);
  must(ek_generate(c, 0, ids, 20, sampler, 30, NULL, 0, listen, l, NULL));
  ek_sampler_free(sampler);
  ek_context_free(c);
  return NULL;
}

static void test_contexts_at_once(ek_model *model) {
  check_case("contexts at once");
  ek_context *c = open_context(model, TOKENS, 1, 8);
  int32_t expected[30];
  by_hand(c, ids, 20, expected, 30);
  listener listeners[3] = {{.context = c}, {.context = c}, {.context = c}};
  pthread_t threads[3];
  for (int i = 0; i < 3; i++) {
    if (pthread_create(&threads[i], NULL, generate_alone, &listeners[i]) != 0) exit(1);
  }
  for (int i = 0; i < 3; i++) pthread_join(threads[i], NULL);
  for (int i = 0; i < 3; i++) CHECK(memcmp(listeners[i].tokens, expected, sizeof expected) == 0);
  ek_context_free(c);
  check_tested(3, "contexts at once");
}

static void test_plain(ek_model *model) {
  check_case("plain");
  ek_model_info info = EK_INIT(ek_model_info);
  must(ek_model_describe(model, &info));
  CHECK(info.vocab == VOCAB && ek_version() == (EK_VERSION_MAJOR << 16 | EK_VERSION_MINOR));
  for (int i = 0; i <= EK_CANCELLED + 1; i++) CHECK(strlen(ek_status_text((ek_status)i)) > 1);
  check_tested(1, "plain");
}

int main(int argc, char **argv) {
  const int cases = check_start(argc, argv, 20).cases;
  check_rng rng = check_seed("api", 0);
  for (int i = 0; i < LONG; i++) ids[i] = check_below(&rng, VOCAB);
  CHECK(strcmp(ek_last_error(), "") == 0);
  static const char *const architectures[] = {"llama", "gemma3"};
  for (int i = 0; i < 2; i++) {
    ek_model *model = open_model(architectures[i], 2);
    test_plain(model);
    test_context_parameters(model);
    test_struct_sizes(model);
    test_arguments(model);
    test_micro_batches(model);
    test_sequences(model);
    test_generate(model);
    test_prompt_penalty(model);
    test_cancel(model, cases / 4);
    test_cancel_within_a_micro_batch(model, cases / 4);
    test_cancelled_decode(model, cases);
    test_contexts_at_once(model);
    ek_model_free(model);
  }
  return check_end();
}
