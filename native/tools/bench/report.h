/* Failures: one sentence on stderr, and the exit status that goes with it. */
#ifndef BENCH_REPORT_H
#define BENCH_REPORT_H

#include <stddef.h>

/* Those of sysexits.h, which the harness tells apart. */
enum {
  BENCH_USAGE = 64,
  BENCH_BAD_MODEL = 65,
  BENCH_SYSTEM = 71,
  BENCH_CANNOT_WRITE = 73, /* as on a full disk */
  BENCH_BUSY = 75,
};

/* Prints "edgekit-bench: " and the sentence to stderr; returns exit_status. */
__attribute__((format(printf, 2, 3))) int report(int exit_status, const char *format, ...);

/* From now on report() also leaves the sentence here. */
void report_into(char *sentence, size_t size);

/* BENCH_CANNOT_WRITE where errno is about a disk that is full or may not be written, else BENCH_SYSTEM. */
int report_write_error(const char *path);

#endif
