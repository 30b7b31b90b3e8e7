/* The process above the worker: it sees how the worker ends, and ends it when the desk is gone. */
#ifndef BENCH_SUPERVISOR_H
#define BENCH_SUPERVISOR_H

#include "arguments.h"
#include "state.h"

typedef struct supervised {
  const run_options *options;
  const char *run; /* its folder's path, and the folder, the lock and the log opened */
  int folder, lock, log;
  run_state *state;
} supervised;

/* Becomes the supervisor: a session of its own, a worker, RUN/pid. Writes one byte to `started` once that is there, and
 * closes it. Does not return. */
_Noreturn void supervise(const supervised *s, int started);

#endif
