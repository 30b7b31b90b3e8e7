/* How a run stands: one page of the file RUN/state, shared by the worker, its supervisor and `wait`. Its disk space is
 * taken at the start, so that it can be written where the disk has become full. */
#ifndef BENCH_STATE_H
#define BENCH_STATE_H

#include <stdatomic.h>
#include <stdint.h>

enum { STATE_BYTES = 4096, STATE_SENTENCE = 1024 };

typedef struct run_state {
  char magic[16];
  atomic_uint progress;          /* in ten-thousandths */
  atomic_uint has_ended;         /* set last: what follows is then final */
  int32_t exit_status;           /* -1: ended by the signal */
  int32_t signal;                /* 0: none */
  char sentence[STATE_SENTENCE]; /* what went wrong; empty: nothing */
} run_state;

/* Makes the file in a folder and maps it. NULL: errno says why. */
run_state *state_create(int folder);

/* Maps it for reading. NULL: there is none that is complete. */
const run_state *state_open(int folder);

/* Whether a folder has such a file: then it is a run's. */
int state_is_there(int folder);

#endif
