/* The kernels' benchmark: every row of kernels.inc that this machine supports, each beside what bounds it. */
#ifndef EK_BENCH_H
#define EK_BENCH_H

#include "kernels/kernels.h"
#include "threads/pool.h"

#include <stddef.h>
#include <stdint.h>

typedef enum bench_operation {
#define OPERATION(op) BENCH_##op,
  EK_OPERATIONS(OPERATION)
#undef OPERATION
      BENCH_OPERATIONS
} bench_operation;

typedef struct bench_row {
  bench_operation operation;
  enum ek_type type;
  ek_level level;
  void (*kernel)(void); /* to be cast back to its type */
} bench_row;

/* --- time (time.c) --- */

typedef struct bench_time {
  double best, median; /* seconds */
  int samples;
} bench_time;

typedef void bench_fn(void *context);

/* Runs a b a b ... for about `seconds`, after one of each that is not counted; b NULL: a alone. At least three. */
void bench_interleaved(bench_fn *a, bench_fn *b, void *context, double seconds, bench_time *time_a, bench_time *time_b);

/* How long one call takes, roughly. */
double bench_once(bench_fn *a, void *context);

/* --- the machine (machine.c) --- */

typedef struct bench_machine {
  ek_pool *pool;
  ek_kernels kernels; /* of the best level */
  int emulated;
  double seconds;     /* for each row */
  size_t large;       /* bytes that no cache holds */
  double run_us;      /* an empty run of the pool; */
  double meeting_us;  /* one in which all workers wait for each other */
  char processor[64]; /* its name, as the system has it */
} bench_machine;

/* Whether this is a program for another machine under qemu-user, as far as one can tell. */
int bench_emulated(void);
/* All but pool, emulated and seconds, which are set. */
void bench_look(bench_machine *machine);

/* Reads so many bytes on all threads, with the widest loads, in tasks of `task` bytes. */
void bench_read(const bench_machine *machine, const uint8_t *bytes, size_t count, size_t task);

/* The register-only loop of a level's dot product of bytes, or of its float32 multiply-add, on all threads, for a
 * few milliseconds. 0 where the level has none, else operations (two for each multiply-add); the name for people. */
double bench_peak(const bench_machine *machine, ek_level level, int floats, const char **name);

/* The same for one level, in peak.h. */
typedef struct bench_level {
  const char *dot_name, *float_name;
  double dot_operations, float_operations; /* of a round */
  void (*dot)(size_t rounds);
  void (*multiply)(size_t rounds);
  uint64_t (*read)(const uint8_t *bytes, size_t count);
} bench_level;

#if defined(__x86_64__)
extern const bench_level bench_level_avx2, bench_level_avx512vnni;
#elif defined(__aarch64__)
extern const bench_level bench_level_neon, bench_level_dotprod, bench_level_i8mm;
#endif

/* --- the rows --- */

/* What came out: the operation's bytes and arithmetic in `time`, and what it is compared with. */
typedef struct bench_result {
  char shape[80];
  double bytes, operations; /* of one pass; 0: not a figure for this operation */
  bench_time time;
  const char *limit;    /* "read", "vpdpbusd"; NULL: not compared */
  double limit_amount;  /* bytes, or operations */
  int limited_by_bytes; /* which of the two */
  bench_time limit_time;
} bench_result;

void bench_product(const bench_machine *machine, const bench_row *row, bench_result *result);
void bench_attention(const bench_machine *machine, const bench_row *row, bench_result *result);
void bench_elementwise(const bench_machine *machine, const bench_row *row, bench_result *result);

/* --- what is shared --- */

/* Ends the program where there is none. */
void *bench_memory(size_t bytes);
/* The same bytes on every machine. */
void bench_random(void *out, size_t bytes);
/* -2 .. 2 */
void bench_random_floats(float *out, size_t count);
/* Blocks of random codes with scales near 0.01. */
void bench_random_blocks(enum ek_type type, size_t blocks, uint8_t *out);

#endif
