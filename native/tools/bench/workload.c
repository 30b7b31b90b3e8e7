#include "workload.h"
#include "report.h"
#include "system.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int workload_turn(int models, int number) {
  const int round = number / models, place = number % models;
  return round % 2 ? models - 1 - place : place;
}

static int is_end(const run_options *o, int32_t token) {
  for (uint32_t i = 0; i < o->end_count; i++) {
    if (o->end_tokens[i] == token) return 1;
  }
  return 0;
}

void workload_prompt(const run_options *o, uint32_t vocab, int32_t *out) {
  uint32_t count = 0;
  if (o->bos >= 0) out[count++] = o->bos;
  for (uint32_t position = 1; count < o->prompt_tokens; position++) {
    const int32_t token = (int32_t)((uint64_t)(position * 2654435761u) * vocab >> 32);
    if (!is_end(o, token)) out[count++] = token;
  }
}

/* --- one repetition --- */

typedef struct run {
  ek_model *model;
  ek_context *context;
  ek_sampler *sampler;
  ek_model_info info;
  int32_t *prompt, *output; /* (prompt_tokens), (gen_tokens) */
  float *logits;            /* (vocab) */
} run;

static int blame(ek_status status) {
  const int is_system = status == EK_NO_MEMORY || status == EK_NO_THREAD || status == EK_NO_KERNEL;
  return report(is_system ? BENCH_SYSTEM : BENCH_BAD_MODEL, "%s", ek_last_error());
}

static ek_status open_all(const run_options *o, const char *path, uint32_t threads, run *r) {
  ek_model_params model = EK_INIT(ek_model_params);
  ek_context_params context = EK_INIT(ek_context_params);
  model.threads = threads;
  context.positions = o->prompt_tokens + o->gen_tokens;
  context.key_type = o->keys;
  context.value_type = o->values;
  r->info = EK_INIT(ek_model_info);
  ek_status status = ek_model_open(path, &model, &r->model);
  if (status == EK_OK) status = ek_context_create(r->model, &context, &r->context);
  if (status == EK_OK) status = ek_model_describe(r->model, &r->info);
  return status;
}

static int prepare(const run_options *o, const char *path, run *r) {
  if (r->info.context < o->prompt_tokens + o->gen_tokens)
    return report(BENCH_USAGE, "%s has a context of %lu tokens: --prompt-tokens and --gen-tokens ask for %lu", path,
                  (unsigned long)r->info.context, (unsigned long)o->prompt_tokens + o->gen_tokens);
  if (o->bos >= 0 && (uint32_t)o->bos >= r->info.vocab)
    return report(BENCH_USAGE, "%s has %lu tokens: --bos %ld is none of them", path, (unsigned long)r->info.vocab,
                  (long)o->bos);
  if (o->end_count >= r->info.vocab)
    return report(BENCH_USAGE, "%s has %lu tokens: --end-tokens leave none for the prompt", path,
                  (unsigned long)r->info.vocab);
  /* written to now, so that no page of them is first touched while the clock runs */
  r->logits = malloc(r->info.vocab * sizeof *r->logits);
  r->prompt = malloc(o->prompt_tokens * sizeof *r->prompt);
  r->output = malloc(o->gen_tokens * sizeof *r->output);
  if (!r->logits || !r->prompt || !r->output) return report(BENCH_SYSTEM, "the device is out of memory");
  memset(r->logits, 0xff, r->info.vocab * sizeof *r->logits);
  memset(r->output, 0xff, o->gen_tokens * sizeof *r->output);
  workload_prompt(o, r->info.vocab, r->prompt);
  const ek_status status = ek_sampler_create(NULL, r->info.vocab, &r->sampler);
  return status == EK_OK ? 0 : blame(status);
}

/* Prefill and decode, by the clock. */
static int generate(const run_options *o, run *r, repetition *out) {
  static const uint32_t first = 0;
  const double start = now_s();
  ek_status status = ek_prefill(r->context, 0, r->prompt, o->prompt_tokens, r->logits, 1);
  const double prefilled = now_s();
  if (status == EK_OK) status = ek_sampler_choose(r->sampler, r->logits, &r->output[0]);
  const double chosen = now_s();
  double last = chosen;
  for (uint32_t i = 1; status == EK_OK && i < o->gen_tokens; i++) {
    status = ek_decode(r->context, &first, &r->output[i - 1], 1, r->logits);
    if (status == EK_OK) status = ek_sampler_choose(r->sampler, r->logits, &r->output[i]);
    const double now = now_s();
    out->inter_token_s[i - 1] = now - last;
    last = now;
  }
  if (status != EK_OK) return blame(status);
  out->ttft_s = chosen - start;
  out->prefill_tps = o->prompt_tokens / (prefilled - start);
  out->decode_tps = (o->gen_tokens - 1) / (last - chosen);
  return 0;
}

static void hash_output(const run_options *o, const run *r, repetition *out) {
  uint8_t *bytes = (uint8_t *)r->output; /* little-endian in place, each id before it is overwritten */
  for (uint32_t i = 0; i < o->gen_tokens; i++) {
    const uint32_t id = (uint32_t)r->output[i];
    for (uint32_t k = 0; k < 4; k++) bytes[4 * i + k] = (uint8_t)(id >> 8 * k);
  }
  sha256(bytes, 4 * (size_t)o->gen_tokens, out->output_sha256);
}

static void describe(const char *path, const run *r, model_facts *facts) {
  struct stat file;
  facts->file_bytes = stat(path, &file) == 0 ? (uint64_t)file.st_size : 0;
  facts->weight_bytes = r->info.weight_bytes;
  facts->decode_bytes = r->info.decode_bytes;
  facts->threads = r->info.threads;
  snprintf(facts->architecture, sizeof facts->architecture, "%s", r->info.architecture);
  snprintf(facts->isa, sizeof facts->isa, "%s", r->info.isa);
}

int workload_run(const run_options *o, int model, uint32_t threads, repetition *out, model_facts *facts,
                 workload_seen_fn *seen, void *user) {
  const char *path = o->models[model];
  run r = {.model = NULL};
  out->model = model;
  out->load_cold_s = NAN;
  out->at_s = now_s();
  const ek_status status = open_all(o, path, threads, &r);
  out->load_s = now_s() - out->at_s;
  int failed = status == EK_OK ? prepare(o, path, &r) : blame(status);
  if (!failed) failed = generate(o, &r, out);
  if (!failed) {
    describe(path, &r, facts);
    if (seen) seen(user);
    hash_output(o, &r, out);
  }
  ek_sampler_free(r.sampler);
  ek_context_free(r.context);
  ek_model_free(r.model);
  free(r.logits);
  free(r.prompt);
  free(r.output);
  return failed;
}
