#include "bench.h"

#include <stdlib.h>
#include <time.h>

enum { MOST_SAMPLES = 400, LEAST_SAMPLES = 3 };

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

double bench_once(bench_fn *a, void *context) {
  const double start = now();
  a(context);
  return now() - start;
}

static int by_size(const void *a, const void *b) {
  const double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static bench_time time_of(double *samples, int count) {
  qsort(samples, (size_t)count, sizeof *samples, by_size);
  return (bench_time){samples[0], samples[count / 2], count};
}

void bench_interleaved(bench_fn *a, bench_fn *b, void *context, double seconds, bench_time *time_a,
                       bench_time *time_b) {
  double samples_a[MOST_SAMPLES], samples_b[MOST_SAMPLES];
  int count = 0;
  a(context);
  if (b) b(context);
  const double end = now() + seconds;
  while (count < LEAST_SAMPLES || (count < MOST_SAMPLES && now() < end)) {
    samples_a[count] = bench_once(a, context);
    samples_b[count] = b ? bench_once(b, context) : 0;
    count++;
  }
  *time_a = time_of(samples_a, count);
  if (b) *time_b = time_of(samples_b, count);
}
