/* The pool of threads: each task once, stealing, sleeping, runs from several threads and from within; the choice of
 * cores. Plain variables stand where the pool promises order, for ThreadSanitizer to watch. */
#if defined(__linux__)
#define _GNU_SOURCE
#endif
#include "check.h"
#include "threads/cores.h"
#include "threads/pool.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MOST_TASKS = 3000, MOST_WORKERS = 8 };

static void sleep_us(long us) {
  const struct timespec t = {0, us * 1000};
  nanosleep(&t, NULL);
}

static ek_pool *pool_of(unsigned threads) {
  ek_pool *pool;
  const ek_status status = ek_pool_create(threads, &pool);
  if (status != EK_OK) check_fail("%u threads: %s", threads, ek_status_text(status));
  CHECK(ek_pool_threads(pool) == threads);
  return pool;
}

/* --- every task once --- */

typedef struct counting {
  int seen[MOST_TASKS], busy[MOST_WORKERS];
  long sum[MOST_WORKERS];
  unsigned workers;
} counting;

static void count_task(void *context, size_t index, unsigned worker) {
  counting *c = context;
  if (worker >= c->workers || c->busy[worker]) abort();
  c->busy[worker] = 1;
  c->seen[index]++;
  c->sum[worker] += (long)index;
  if (index % 64 == 63) sched_yield(); /* so that threads overlap on few cores */
  c->busy[worker] = 0;
}

static void run_once(ek_pool *pool, counting *c, int tasks) {
  memset(c, 0, sizeof *c);
  c->workers = ek_pool_threads(pool);
  CHECK(ek_pool_run(pool, count_task, c, (size_t)tasks) == EK_OK);
  long sum = 0;
  int wrong = 0;
  for (int i = 0; i < MOST_TASKS; i++) wrong += c->seen[i] != (i < tasks);
  for (unsigned w = 0; w < MOST_WORKERS; w++) sum += c->sum[w];
  CHECK(wrong == 0);
  CHECK(sum == (long)tasks * (tasks - 1) / 2);
}

static void test_counts(int cases) {
  counting *c = malloc(sizeof *c);
  run_once(NULL, c, 100);
  for (unsigned threads = 1; threads <= MOST_WORKERS; threads++) {
    check_rng rng = check_seed("pool", (int)threads);
    ek_pool *pool = pool_of(threads);
    for (int i = 0; i < cases; i++) {
      const int tasks = i < 12 ? i : check_below(&rng, check_below(&rng, 4) ? 40 : MOST_TASKS);
      check_case("pool of %u threads, run %d of %d tasks", threads, i, tasks);
      run_once(pool, c, tasks);
      if (i % 16 == 15) sleep_us(300); /* the threads fall asleep */
    }
    ek_pool_destroy(pool);
  }
  free(c);
  check_tested(cases, "counts");
}

/* --- stealing --- */

typedef struct waiting {
  atomic_int done, others;
} waiting;

/* The first task ends when all others have, those of its own worker's share too. */
static void wait_task(void *context, size_t index, unsigned worker) {
  waiting *w = context;
  (void)worker;
  if (index == 0) {
    while (atomic_load(&w->done) < w->others) sched_yield();
  } else {
    atomic_fetch_add(&w->done, 1);
  }
}

static void test_stealing(int cases) {
  for (unsigned threads = 2; threads <= MOST_WORKERS; threads++) {
    ek_pool *pool = pool_of(threads);
    for (int i = 0; i < cases; i++) {
      check_case("stealing, %u threads, run %d", threads, i);
      waiting w = {0, 64};
      CHECK(ek_pool_run(pool, wait_task, &w, 65) == EK_OK);
      CHECK(w.done == 64);
    }
    ek_pool_destroy(pool);
  }
  check_tested(cases, "stealing");
}

/* --- all workers at once, though they slept --- */

static void meet_task(void *context, size_t index, unsigned worker) {
  waiting *w = context;
  (void)index, (void)worker;
  atomic_fetch_add(&w->done, 1);
  while (atomic_load(&w->done) < w->others) sched_yield();
}

static void test_waking(int cases) {
  for (unsigned threads = 2; threads <= MOST_WORKERS; threads += 3) {
    ek_pool *pool = pool_of(threads);
    for (int i = 0; i < cases; i++) {
      check_case("waking, %u threads, run %d", threads, i);
      sleep_us(400);
      waiting w = {0, (int)threads};
      CHECK(ek_pool_run(pool, meet_task, &w, threads) == EK_OK);
    }
    ek_pool_destroy(pool);
  }
  check_tested(cases, "waking");
}

/* --- runs from several threads, and from within --- */

typedef struct runner {
  ek_pool *pool;
  int runs, *in_use; /* by worker */
  long sum;
} runner;

static void add_task(void *context, size_t index, unsigned worker) {
  runner *r = context;
  if (r->in_use[worker]++) abort();
  if (index % 8 == 7) sched_yield();
  r->in_use[worker]--;
  if (worker == 0) r->sum++;
}

static void *run_many(void *argument) {
  runner *r = argument;
  for (int i = 0; i < r->runs; i++) {
    if (ek_pool_run(r->pool, add_task, r, 20) != EK_OK) abort();
  }
  return NULL;
}

static void test_several_callers(int cases) {
  for (unsigned threads = 1; threads <= 3; threads++) {
    check_case("runs from several threads, on %u", threads);
    ek_pool *pool = pool_of(threads);
    int in_use[MOST_WORKERS] = {0};
    runner runners[4];
    pthread_t callers[4];
    for (int i = 0; i < 4; i++) {
      runners[i] = (runner){pool, cases, in_use, 0};
      if (pthread_create(&callers[i], NULL, run_many, &runners[i]) != 0) abort();
    }
    for (int i = 0; i < 4; i++) pthread_join(callers[i], NULL);
    if (threads == 1) CHECK(runners[3].sum == 20L * cases);
    ek_pool_destroy(pool);
  }
  check_tested(cases, "several callers");
}

typedef struct nesting {
  ek_pool *pool, *other;
  atomic_int refused, allowed;
} nesting;

static void no_task(void *context, size_t index, unsigned worker) { (void)context, (void)index, (void)worker; }

static void nest_task(void *context, size_t index, unsigned worker) {
  nesting *n = context;
  (void)index, (void)worker;
  atomic_fetch_add(&n->refused, ek_pool_run(n->pool, no_task, NULL, 10) == EK_NESTED_RUN);
  atomic_fetch_add(&n->allowed, ek_pool_run(n->other, no_task, NULL, 10) == EK_OK);
}

static void test_nesting(void) {
  ek_pool *other = pool_of(2);
  for (unsigned threads = 1; threads <= 4; threads++) {
    check_case("nested runs, %u threads", threads);
    nesting n = {pool_of(threads), other, 0, 0};
    CHECK(ek_pool_run(n.pool, nest_task, &n, 50) == EK_OK);
    CHECK(n.refused == 50);
    CHECK(n.allowed == 50);
    ek_pool_destroy(n.pool);
  }
  ek_pool_destroy(other);
  check_tested(4, "nesting");
}

/* --- creation --- */

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

/* In a child that has no room for so many stacks: 0 as it should be, 2 where the limit has no effect (emulation). */
static int create_without_room(void) {
  const struct rlimit limit = {(rlim_t)256 << 20, (rlim_t)256 << 20};
  struct rlimit found;
  if (setrlimit(RLIMIT_AS, &limit) != 0 || getrlimit(RLIMIT_AS, &found) != 0) return 2;
  if (found.rlim_cur != limit.rlim_cur) return 2;
  ek_pool *pool = (ek_pool *)&limit;
  const ek_status status = ek_pool_create(EK_MOST_THREADS, &pool);
  return (status == EK_NO_THREAD || status == EK_NO_MEMORY) && !pool ? 0 : 1;
}

static void test_creation(void) {
  check_case("creation");
  ek_pool *pool = (ek_pool *)&pool;
  CHECK(ek_pool_create(EK_MOST_THREADS + 1, &pool) == EK_BAD_ARGUMENT);
  CHECK(!pool);
  CHECK(ek_pool_threads(NULL) == 1);
  ek_pool_destroy(NULL);
  CHECK(ek_pool_create(0, &pool) == EK_OK);
  CHECK(ek_pool_threads(pool) == ek_big_cores(NULL).count);
  ek_pool_destroy(pool);
  int status = 2 << 8;
  if (!SANITIZED) { /* which need much room themselves */
    const pid_t child = fork();
    if (child == 0) _exit(create_without_room());
    CHECK(child > 0 && waitpid(child, &status, 0) == child);
  }
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) != 1);
  check_tested(WEXITSTATUS(status) == 0 ? 3 : 2, "creation");
}

/* --- cores --- */

static void write_capacity(const char *folder, unsigned core, const char *text) {
  char path[128];
  snprintf(path, sizeof path, "%s/cpu%u", folder, core);
  mkdir(path, 0700);
  snprintf(path, sizeof path, "%s/cpu%u/cpu_capacity", folder, core);
  FILE *file = fopen(path, "w");
  if (!file || fputs(text, file) < 0 || fclose(file) != 0) abort();
}

static void remove_capacity(const char *folder, unsigned core) {
  char path[128];
  snprintf(path, sizeof path, "%s/cpu%u/cpu_capacity", folder, core);
  remove(path);
  snprintf(path, sizeof path, "%s/cpu%u", folder, core);
  remove(path);
}

/* Whether the calling thread may run on these cores and no others. */
static int is_on(const ek_cores *cores) {
  const ek_cores mine = ek_big_cores("/nonexistent");
  return memcmp(mine.mask, cores->mask, sizeof mine.mask) == 0;
}

typedef struct placing {
  const ek_cores *wanted[2]; /* of the caller, of the others */
  atomic_int arrived, wrong;
} placing;

/* One for each worker, who waits for the others. */
static void place_task(void *context, size_t index, unsigned worker) {
  placing *p = context;
  (void)index;
  if (!is_on(p->wanted[worker > 0])) atomic_fetch_add(&p->wrong, 1);
  atomic_fetch_add(&p->arrived, 1);
  while (atomic_load(&p->arrived) < 2) sched_yield();
}

static void demand_places(ek_pool *pool, const ek_cores *caller, const ek_cores *others) {
  placing p = {.wanted = {caller, others}};
  CHECK(ek_pool_run(pool, place_task, &p, 2) == EK_OK);
  CHECK(p.wrong == 0);
}

/* `big`, of which there are said to be two, for a pool of as many threads and for one of more. */
static void place_pools(const ek_cores *all, const ek_cores *big) {
  ek_pool *pool;
  ek_cores before;
  CHECK(ek_pool_create_on(big, 0, &pool) == EK_OK && ek_pool_threads(pool) == 2);
  demand_places(pool, all, big);
  ek_pool_pin_caller(pool, &before);
  CHECK(is_on(big));
  demand_places(pool, big, big);
  ek_cores_unpin(&before);
  CHECK(is_on(all));
  ek_pool_destroy(pool);

  CHECK(ek_pool_create_on(big, 3, &pool) == EK_OK);
  ek_pool_pin_caller(pool, &before);
  CHECK(is_on(all));
  ek_cores_unpin(&before);
  ek_pool_destroy(pool);
  ek_pool_pin_caller(NULL, &before);
  ek_cores_unpin(&before);
  CHECK(is_on(all));
}

static void *place(void *argument) {
  const ek_cores *cores = argument, all = ek_big_cores("/nonexistent");
  ek_cores before, little = all, again;
  ek_cores_pin(cores, &before);
  CHECK(is_on(cores) && before.some_left == cores->some_left);
  ek_cores_unpin(&before);
  CHECK(is_on(&all));
  if (!cores->some_left) return NULL;
  ek_cores big = *cores;
  big.count = 2;
  place_pools(&all, &big);
  for (size_t i = 0; i < sizeof little.mask / sizeof *little.mask; i++) little.mask[i] &= ~cores->mask[i];
  little.some_left = 1;
  ek_cores_pin(&little, &before);
  ek_cores_pin(cores, &again); /* a caller who keeps to little cores is left there */
  CHECK(is_on(&little) && !again.some_left);
  ek_cores_unpin(&again);
  CHECK(is_on(&little));
  return NULL;
}

/* The first two cores that this thread may run on get these capacities. */
static void test_cores(void) {
  char folder[] = "/tmp/edgekit_cores_XXXXXX";
  const ek_cores all = ek_big_cores("/nonexistent");
  unsigned two[2] = {0, 0};
  int found = 0;
  for (unsigned core = 0; core < EK_MOST_CORES && found < 2; core++) {
    if (all.mask[core / EK_CORES_BITS] >> core % EK_CORES_BITS & 1) two[found++] = core;
  }
  CHECK(all.count >= 1 && !all.some_left);
  if (found < 2 || !mkdtemp(folder)) {
    printf("skipped: choice of cores, which needs two\n");
    return;
  }
  static const struct {
    const char *first, *second;
    size_t dropped;
  } cases[] = {{"1024\n", "1024\n", 0}, {"1024\n", "250\n", 1}, {"446\n", "1024\n", 1}, {"512\n", "1024\n", 0},
               {"511\n", "1024\n", 1},  {"", "1024\n", 0},      {"x\n", "-5\n", 0},     {"99999999999999\n", "1\n", 1}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    check_case("cores, case %zu", i);
    write_capacity(folder, two[0], cases[i].first);
    write_capacity(folder, two[1], cases[i].second);
    ek_cores cores = ek_big_cores(folder);
    CHECK(cores.count == all.count - cases[i].dropped);
    CHECK(cores.some_left == (cases[i].dropped > 0));
    pthread_t thread;
    if (pthread_create(&thread, NULL, place, &cores) != 0) abort();
    pthread_join(thread, NULL);
  }
  for (int i = 0; i < 2; i++) remove_capacity(folder, two[i]);
  remove(folder);
  check_tested(sizeof cases / sizeof *cases, "cores");
}

int main(int argc, char **argv) {
  const int cases = check_start(argc, argv, 200).cases;
  test_counts(cases);
  test_stealing(cases / 4);
  test_waking(cases / 8);
  test_several_callers(cases);
  test_nesting();
  test_creation();
  test_cores();
  return check_end();
}
