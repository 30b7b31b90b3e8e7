/* The choice of kernels: names of levels, the environment's override, and that every level has a kernel for all that
 * the scalar one does. */
#include "check.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static void test_names(void) {
  check_case("names of levels");
  for (int level = 0; level < EK_LEVELS; level++) CHECK((int)ek_level_named(ek_level_name((ek_level)level)) == level);
  const char *none[] = {"", "avx", "avx2 ", "AVX2", "sse2", "neon,dotprod"};
  for (size_t i = 0; i < sizeof none / sizeof *none; i++) CHECK(ek_level_named(none[i]) == EK_LEVELS);
  CHECK(ek_level_supported(EK_LEVEL_scalar));
  CHECK(!ek_level_supported(EK_LEVELS));
  /* no machine is of both architectures */
  CHECK(!(ek_level_supported(EK_LEVEL_avx2) && ek_level_supported(EK_LEVEL_neon)));
  check_tested(EK_LEVELS, "names of levels");
}

/* GCC's run-time library as the oracle; clang's is zig's where zig builds, and says no to everything. */
static void test_x86(void) {
#if defined(__x86_64__) && !defined(__clang__)
  __builtin_cpu_init();
  const int avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const int avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                     __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  check_case("what an x86 processor has");
  CHECK(ek_level_supported(EK_LEVEL_avx2) == avx2);
  CHECK(ek_level_supported(EK_LEVEL_avx512vnni) == (avx2 && avx512 && !!__builtin_cpu_supports("avx512vnni")));
  check_tested(2, "levels of an x86 processor");
#endif
}

/* Each level's table, taken as a list. */
typedef void any_fn(void);
static any_fn *kernel_of(const ek_kernels *kernels, check_operation operation, enum ek_type type) {
  switch (operation) {
#define CASE(op)                                                                                                       \
  case CHECK_##op:                                                                                                     \
    return (any_fn *)kernels->op[type];
    EK_OPERATIONS(CASE)
#undef CASE
  default:
    return NULL;
  }
}

static int is_product(const check_row *row) { return row->operation == CHECK_gemv || row->operation == CHECK_gemm; }

/* The table has the best of the rows whose stripes it can read, one for each thing that the scalar level does, and none
 * falls back to the scalar one. Integer products have a row for each level, but for i8mm's. */
static void test_table(ek_level level) {
  const ek_kernels kernels = ek_kernels_of(level);
  int count = 0;
  check_case("kernels of %s", ek_level_name(level));
  CHECK(kernels.level == level && kernels.interleave == ek_level_interleave(level));
  for (const check_row *row = check_rows; row->kernel; row++) {
    if (row->level != EK_LEVEL_scalar) continue;
    const char *operation = check_operation_names[row->operation], *type = ek_formats[row->type].name;
    any_fn *kernel = kernel_of(&kernels, row->operation, row->type);
    const check_row *own = check_find(row->operation, row->type, level);
    if (!kernel) check_fail("none for %s %s", operation, type);
    if (level != EK_LEVEL_scalar && kernel == row->kernel) check_fail("%s %s is the scalar one", operation, type);
    if (is_product(row) && ek_activation_group(row->type) && !own && level != EK_LEVEL_i8mm)
      check_fail("%s %s has no row of its own", operation, type);
    if (own && kernel != own->kernel) check_fail("%s %s is not the level's own", operation, type);
    count++;
  }
  check_tested(count, "kernels of %s", ek_level_name(level));
}

/* For one operation and type, better levels come first and none twice. */
static void test_order(void) {
  int count = 0;
  check_case("order of kernels.inc");
  for (const check_row *row = check_rows; row->kernel; row++, count++) {
    for (const check_row *later = row + 1; later->kernel; later++) {
      if (later->operation == row->operation && later->type == row->type && later->level >= row->level)
        check_fail("%s %s: %s before %s", check_operation_names[row->operation], ek_formats[row->type].name,
                   ek_level_name(row->level), ek_level_name(later->level));
    }
    const int has_scalar = check_find(row->operation, row->type, EK_LEVEL_scalar) != NULL;
    if (!has_scalar)
      check_fail("%s %s has no scalar row", check_operation_names[row->operation], ek_formats[row->type].name);
  }
  check_tested(count, "order of kernels.inc");
}

/* The level that a fresh process chooses with EDGEKIT_ISA set so (NULL: not set): EK_LEVELS for none. */
static int chosen(const char *isa) {
  const pid_t child = fork();
  if (child == 0) {
    if (isa) {
      setenv("EDGEKIT_ISA", isa, 1);
    } else {
      unsetenv("EDGEKIT_ISA");
    }
    const ek_kernels *kernels = ek_kernels_here();
    _exit(kernels ? (int)kernels->level : EK_LEVELS);
  }
  int status = -1;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void test_override(void) {
  int best = EK_LEVEL_scalar;
  for (int level = 0; level < EK_LEVELS; level++) {
    const int supported = ek_level_supported((ek_level)level);
    if (supported) best = level;
    check_case("EDGEKIT_ISA=%s", ek_level_name((ek_level)level));
    CHECK(chosen(ek_level_name((ek_level)level)) == (supported ? level : EK_LEVELS));
  }
  check_case("EDGEKIT_ISA of no level");
  CHECK(chosen(NULL) == best);
  CHECK(chosen("") == best);
  CHECK(chosen("sse2") == EK_LEVELS);
  CHECK(chosen("NEON") == EK_LEVELS);
  check_tested(EK_LEVELS + 4, "EDGEKIT_ISA");
}

static void *ask(void *unused) {
  (void)unused;
  return (void *)ek_kernels_here();
}

/* Threads that ask at once get the same table. */
static void test_threads(void) {
  enum { THREADS = 8 };
  pthread_t threads[THREADS];
  check_case("threads that ask at once");
  for (int i = 0; i < THREADS; i++) CHECK(pthread_create(&threads[i], NULL, ask, NULL) == 0);
  for (int i = 0; i < THREADS; i++) {
    void *got;
    pthread_join(threads[i], &got);
    CHECK(got != NULL && got == ek_kernels_here());
  }
  check_tested(THREADS, "threads that ask at once");
}

int main(int argc, char **argv) {
  const check_options options = check_start(argc, argv, 1);
  unsetenv("EDGEKIT_ISA");
  test_names();
  test_x86();
  test_override(); /* before this process has chosen */
  test_threads();
  test_order();
  for (int level = 0; level < EK_LEVELS; level++) {
    if (check_wanted(&options, (ek_level)level)) test_table((ek_level)level);
  }
  return check_end();
}
