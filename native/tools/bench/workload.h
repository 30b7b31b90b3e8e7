/* One repetition: load, prefill, decode greedily and past end tokens, as devices/measure.py does. */
#ifndef BENCH_WORKLOAD_H
#define BENCH_WORKLOAD_H

#include "arguments.h"
#include "cores.h"
#include "sha256.h"

#include <stdint.h>

/* The prompt: BOS where there is one, then token ids spread over the vocabulary without end tokens, the same on every
 * run and device. Multiplicative hashing (Knuth) of the position. */
void workload_prompt(const run_options *options, uint32_t vocab, int32_t *out);

/* Which model the repetition of that number is of: A B, B A, A B, ... */
int workload_turn(int models, int number);

typedef struct repetition {
  int model;
  double at_s;        /* its start, on the clock of now_s() */
  double load_cold_s; /* of the first of a model: what its first opening took; NAN: not known, or not the first */
  double load_s;      /* the model opened and its context made, the file in the system's cache */
  double ttft_s, prefill_tps, decode_tps;
  double *inter_token_s; /* (gen_tokens - 1) */
  char output_sha256[SHA256_TEXT];
} repetition;

/* What the library says of a model. */
typedef struct model_facts {
  uint64_t weight_bytes, decode_bytes, file_bytes;
  char architecture[64], isa[32];
  uint32_t threads;
} model_facts;

/* Called with the model still open and all of its threads there, at a time that is not measured. */
typedef void workload_seen_fn(void *user);

/* Runs it once; `seen` may be NULL. out->inter_token_s is the caller's. 0, or the exit status after a report. */
int workload_run(const run_options *options, int model, uint32_t threads, repetition *out, model_facts *facts,
                 workload_seen_fn *seen, void *user);

#endif
