/* What a run found. */
#ifndef BENCH_RESULT_H
#define BENCH_RESULT_H

#include "memory_pass.h"
#include "reasons.h"
#include "sampler.h"
#include "workload.h"

typedef struct result {
  const run_options *options;
  const char *folder; /* of the run: where the disk's free space is asked */
  cpu_set_t affinity; /* read back; empty: not told */
  double epoch;       /* of now_s(), when the run began */
  double suspended_s; /* NAN: not told */
  model_facts models[MOST_MODELS];
  memory_facts memory[MOST_MODELS];
  repetition *samples; /* (sample_count) */
  int sample_count;
  const sampler *timeline;
  reasons reasons;
} result;

/* Writes result.json by another name, to the disk, then renames it. 0, or the exit status after a report. */
int result_save(result *r, int folder);

#endif
