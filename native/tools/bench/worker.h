/* The run itself, in the process that computes. */
#ifndef BENCH_WORKER_H
#define BENCH_WORKER_H

#include "arguments.h"
#include "state.h"

/* All repetitions, the memory, the result in `folder`, whose path is `run`. The exit status; without 0 no result.json
 * is left. */
int worker_run(const run_options *options, const char *run, int folder, run_state *state);

#endif
