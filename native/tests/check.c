#define _GNU_SOURCE
#include "check.h"

#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { FILL = 0xff, SHOWN_FAILURES = 20 };

static char current[512] = "before the first case";
static int failures, tested;

/* --- random numbers --- */

/* SplitMix64 (Steele, Lea and Flood, 2014). */
uint64_t check_bits(check_rng *rng) {
  uint64_t z = rng->state += 0x9e3779b97f4a7c15u;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}

check_rng check_seed(const char *text, int number) {
  uint64_t hash = 0xcbf29ce484222325u; /* FNV-1a */
  for (; *text; text++) hash = (hash ^ (uint8_t)*text) * 0x100000001b3u;
  check_rng rng = {hash + (uint64_t)number * 0xd1342543de82ef95u};
  check_bits(&rng);
  return rng;
}

int check_below(check_rng *rng, int count) { return (int)((check_bits(rng) >> 32) * (uint64_t)count >> 32); }

float check_uniform(check_rng *rng, float low, float high) {
  return low + (high - low) * ((float)(check_bits(rng) >> 40) * 0x1p-24f);
}

float check_gaussian(check_rng *rng) {
  float sum = 0;
  for (int i = 0; i < 12; i++) sum += check_uniform(rng, -0.5f, 0.5f);
  return sum;
}

void check_bytes(check_rng *rng, void *out, size_t bytes) {
  uint8_t *at = out;
  for (size_t i = 0; i < bytes; i += 8) {
    const uint64_t bits = check_bits(rng);
    memcpy(at + i, &bits, bytes - i < 8 ? bytes - i : 8);
  }
}

/* --- buffers --- */

static void give_up(const char *what) {
  perror(what);
  exit(1);
}

check_buffer check_buffer_new(size_t bytes, size_t alignment, check_place place) {
  const size_t page = (size_t)sysconf(_SC_PAGESIZE), spare = 2 * alignment;
  const size_t inside = (bytes + spare + page - 1) / page * page;
  uint8_t *map = mmap(NULL, inside + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (map == MAP_FAILED) give_up("mmap");
  check_buffer buffer = {map + page, bytes, map + page, inside};
  if (mprotect(buffer.pages, inside, PROT_READ | PROT_WRITE) != 0) give_up("mprotect");
  memset(buffer.pages, FILL, inside);
  if (place == CHECK_END) buffer.data += inside - bytes;
  if (place == CHECK_ODD) buffer.data += (inside - bytes) / spare * spare - alignment;
  return buffer;
}

void check_buffer_seal(const check_buffer *buffer) {
  if (mprotect(buffer->pages, buffer->page_bytes, PROT_READ) != 0) give_up("mprotect");
}

int check_buffer_tight(const check_buffer *buffer) {
  for (const uint8_t *at = buffer->pages; at < buffer->pages + buffer->page_bytes; at++) {
    if (at == buffer->data) at += buffer->bytes;
    if (at < buffer->pages + buffer->page_bytes && *at != FILL) return 0;
  }
  return 1;
}

void check_buffer_free(check_buffer *buffer) {
  const size_t page = (size_t)sysconf(_SC_PAGESIZE);
  if (munmap(buffer->pages - page, buffer->page_bytes + 2 * page) != 0) give_up("munmap");
  buffer->data = NULL;
}

/* --- floats --- */

int check_close(double expected, double actual, double terms, double tolerance) {
  if (!isfinite(expected) || !isfinite(actual)) return !isfinite(expected) && !isfinite(actual);
  return fabs(expected - actual) <= tolerance * terms + 1e-36; /* products of float32 may be subnormal */
}

/* --- rows --- */

const check_row check_rows[] = {
#define EK_KERNEL(op, type, level)                                                                                     \
  {CHECK_##op, EK_TYPE_##type, EK_LEVEL_##level, (void (*)(void))ek_##op##_##type##_##level},
#include "kernels/kernels.inc"
#undef EK_KERNEL
    {0, 0, 0, NULL}};

const char *const check_operation_names[CHECK_OPERATIONS] = {
#define NAME(op) #op,
    EK_OPERATIONS(NAME)
#undef NAME
};

const check_row *check_find(check_operation operation, enum ek_type type, ek_level level) {
  for (const check_row *row = check_rows; row->kernel; row++) {
    if (row->operation == operation && row->type == type && row->level == level) return row;
  }
  return NULL;
}

/* --- reports --- */

/* A fault in a kernel: says in which case. Only write is safe here. */
static void on_fault(int signal_number) {
  static const char fault[] = "FAILED: signal (fault, or an instruction that this machine lacks): ";
  if (write(STDERR_FILENO, fault, sizeof fault - 1) < 0 || write(STDERR_FILENO, current, strlen(current)) < 0 ||
      write(STDERR_FILENO, "\n", 1) < 0)
    _exit(2);
  _exit(128 + signal_number);
}

check_options check_start(int argc, char **argv, int cases) {
  check_options options = {EK_LEVELS, cases};
  for (int i = 1; i < argc; i++) {
    if (atoi(argv[i]) > 0) {
      options.cases = atoi(argv[i]);
    } else if ((options.only = ek_level_named(argv[i])) == EK_LEVELS) {
      fprintf(stderr, "usage: %s [level] [cases]\n", argv[0]);
      exit(2);
    }
  }
  setvbuf(stdout, NULL, _IOLBF, 0);
  printf("levels:");
  for (int level = 0; level < EK_LEVELS; level++) {
    if (ek_level_supported((ek_level)level)) printf(" %s", ek_level_name((ek_level)level));
  }
  printf("\n");
  if (options.only != EK_LEVELS && !ek_level_supported((ek_level)options.only)) {
    printf("skipped: this machine cannot run %s\n", ek_level_name((ek_level)options.only));
    exit(CHECK_SKIPPED);
  }
  const struct sigaction action = {.sa_handler = on_fault};
  const int signals[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT};
  for (size_t i = 0; i < sizeof signals / sizeof *signals; i++) sigaction(signals[i], &action, NULL);
  return options;
}

int check_wanted(const check_options *options, ek_level level) {
  return ek_level_supported(level) && (options->only == EK_LEVELS || options->only == (int)level);
}

void check_case(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(current, sizeof current, format, arguments);
  va_end(arguments);
}

void check_fail(const char *format, ...) {
  if (++failures > SHOWN_FAILURES) return;
  va_list arguments;
  fprintf(stderr, "FAILED: %s: ", current);
  va_start(arguments, format);
  vfprintf(stderr, format, arguments);
  va_end(arguments);
  fprintf(stderr, "\n");
}

int check_failures(void) { return failures; }

void check_tested(int cases, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vprintf(format, arguments);
  va_end(arguments);
  printf(": %d cases\n", cases);
  tested += cases > 0;
}

int check_end(void) {
  if (tested == 0) fprintf(stderr, "FAILED: nothing was tested\n");
  if (failures) fprintf(stderr, "%d failures\n", failures);
  return failures || !tested;
}
