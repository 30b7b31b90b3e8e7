/* Memory of one repetition, in a process of its own in which nothing else counts. */
#ifndef BENCH_MEMORY_PASS_H
#define BENCH_MEMORY_PASS_H

#include "arguments.h"
#include "reasons.h"

/* The hidden command by which this program runs itself for it. */
#define MEMORY_PASS "memory-pass"

typedef struct memory_facts {
  int64_t peak_bytes, pss_bytes, baseline_bytes; /* -1: not known */
  char reason[224];                              /* empty where peak and baseline are known */
} memory_facts;

/* Runs the child and waits for it. Whatever becomes of it is in *out. */
void memory_measure(const run_options *options, int model, memory_facts *out);

/* The child: prints the figures. Its exit status. */
int memory_child(const run_options *options, int model);

#endif
