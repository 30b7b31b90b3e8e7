/* start, wait and stop: a run that goes on when the link to the desk is lost, and does not outlive the desk for long.
 */
#ifndef BENCH_LIFECYCLE_H
#define BENCH_LIFECYCLE_H

#include "arguments.h"

/* Each returns an exit status, after a report where it is not 0. */
int run_start(const char *run, const char *lock, const run_options *options);
int run_wait(const char *run, double seconds);
int run_stop(const char *run);

#endif
