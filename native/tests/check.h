/* What the test programs share: random numbers, guarded buffers, comparison of floats, reports.
 *
 * A program takes an optional level ("avx2") to restrict itself to and an optional number of cases for each kernel. It
 * prints a line for each kernel and exits with 0, with 1 after a failure or where nothing was tested, or with
 * CHECK_SKIPPED where this machine cannot run the level. */
#ifndef EK_CHECK_H
#define EK_CHECK_H

#include "kernels/kernels.h"

#include <stddef.h>
#include <stdint.h>

enum { CHECK_SKIPPED = 77 };

/* --- random numbers: the same on every machine --- */

typedef struct check_rng {
  uint64_t state;
} check_rng;

/* A generator for each case: what distinguishes it as text ("gemv q4_0") and its number. */
check_rng check_seed(const char *text, int number);
uint64_t check_bits(check_rng *rng);

/* 0 .. count - 1 */
int check_below(check_rng *rng, int count);
float check_uniform(check_rng *rng, float low, float high);
/* Nearly normal, of variance 1. */
float check_gaussian(check_rng *rng);
void check_bytes(check_rng *rng, void *out, size_t bytes);

/* --- buffers that fault when one reads or writes beside them --- */

typedef enum check_place {
  CHECK_END,   /* the last byte is the last before a page that cannot be touched */
  CHECK_START, /* the first byte is the first after such a page */
  CHECK_ODD,   /* at an address that is a multiple of the C type's alignment and of no more, near the end */
  CHECK_PLACES
} check_place;

typedef struct check_buffer {
  uint8_t *data; /* bytes that are all 0xff at first: as floats NaN, as integers -1 */
  size_t bytes;
  uint8_t *pages; /* the pages that can be touched */
  size_t page_bytes;
} check_buffer;

check_buffer check_buffer_new(size_t bytes, size_t alignment, check_place place);
/* From now on a write faults. */
void check_buffer_seal(const check_buffer *buffer);
/* Whether all that can be written beside the buffer is as it was. */
int check_buffer_tight(const check_buffer *buffer);
void check_buffer_free(check_buffer *buffer);

/* --- floats --- */

/* Whether two sums of the same terms agree: to `tolerance` times the sum of the terms' absolute values, which only the
 * order of summation may use up. Where one is not finite, neither may the other be. */
int check_close(double expected, double actual, double terms, double tolerance);

/* --- the rows of kernels.inc --- */

typedef enum check_operation {
#define OPERATION(op) CHECK_##op,
  EK_OPERATIONS(OPERATION)
#undef OPERATION
      CHECK_OPERATIONS
} check_operation;

typedef struct check_row {
  check_operation operation;
  enum ek_type type;
  ek_level level;
  void (*kernel)(void); /* to be cast back to its type, ek_gemv_fn for CHECK_gemv */
} check_row;

/* In the order of kernels.inc, ended by a row without a kernel. */
extern const check_row check_rows[];
/* "gemv" */
extern const char *const check_operation_names[CHECK_OPERATIONS];

/* NULL where there is none. */
const check_row *check_find(check_operation operation, enum ek_type type, ek_level level);

/* --- reports --- */

typedef struct check_options {
  int only;  /* a level; EK_LEVELS: all */
  int cases; /* for each kernel */
} check_options;

/* Exits where the arguments are wrong or the level cannot run here; prints the levels that can. */
check_options check_start(int argc, char **argv, int cases);

/* Whether the rows of a level are to be tested: asked for and supported. */
int check_wanted(const check_options *options, ek_level level);

/* What is under test from now on: kernel, shape, seed. Each failure says it, a fault included. */
__attribute__((format(printf, 1, 2))) void check_case(const char *format, ...);
__attribute__((format(printf, 1, 2))) void check_fail(const char *format, ...);
#define CHECK(condition)                                                                                               \
  do {                                                                                                                 \
    if (!(condition)) check_fail("%s:%d: %s", __FILE__, __LINE__, #condition);                                         \
  } while (0)

/* Failures so far. */
int check_failures(void);

/* Prints the line of a kernel, or of another thing, that `cases` cases have been through. */
__attribute__((format(printf, 2, 3))) void check_tested(int cases, const char *format, ...);

/* The exit status. */
int check_end(void);

#endif
