#if defined(__linux__) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE
#endif
#include "threads/pool.h"

#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>

#if defined(__linux__) && !defined(EK_POOL_CONDITION)
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#define EK_POOL_FUTEX 1
#else
#define EK_POOL_FUTEX 0
#endif

enum { LINE = 128, SPIN_NS = 100000 }; /* two cache lines: x86 fetches neighbours too, some ARM lines are that long */

/* The gate holds, from the top: the number of the run (which may wrap), whether the run is closed, and how many workers
 * are inside. A worker enters only while the run is open and the caller closes it when no task is left, so that nobody
 * waits for a worker who comes late. While the gate is closed and nobody is inside, the caller alone uses the pool. */
enum { INSIDE = 0x7ff, CLOSED = 0x800, RUN = 0x1000 };

typedef struct share {
  _Alignas(LINE) atomic_size_t next; /* grows past `end` by at most one for each worker */
  size_t end;
} share;

typedef struct worker {
  ek_pool *pool;
  pthread_t thread;
  unsigned index;
} worker;

struct ek_pool {
  _Alignas(LINE) atomic_uint gate;
  _Alignas(LINE) atomic_uint sleepers; /* threads that wait for the gate to change and want to be woken */
  _Alignas(LINE) ek_task_fn *task;
  void *context;
  int stopping;
  long spin_ns;
  unsigned threads;
  _Atomic(uintptr_t) runner; /* the thread whose run it is, 0 for none */
  pthread_mutex_t turn;      /* held during a run */
#if !EK_POOL_FUTEX
  pthread_mutex_t mutex;
  pthread_cond_t changed;
#endif
  ek_cores cores;
  worker *workers;
  share *shares;
};

/* --- waiting for the gate --- */

static inline void relax(void) {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("isb"); /* no builtin for it; yield takes no time on most cores */
#endif
}

static int64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Both may also return for no reason. */
#if EK_POOL_FUTEX
static void sleep_while(ek_pool *pool, unsigned gate) {
  syscall(SYS_futex, &pool->gate, FUTEX_WAIT_PRIVATE, gate, NULL, NULL, 0);
}

static void wake(ek_pool *pool) { syscall(SYS_futex, &pool->gate, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0); }
#else
static void sleep_while(ek_pool *pool, unsigned gate) {
  pthread_mutex_lock(&pool->mutex);
  if (atomic_load(&pool->gate) == gate) pthread_cond_wait(&pool->changed, &pool->mutex);
  pthread_mutex_unlock(&pool->mutex);
}

static void wake(ek_pool *pool) {
  pthread_mutex_lock(&pool->mutex);
  pthread_cond_broadcast(&pool->changed);
  pthread_mutex_unlock(&pool->mutex);
}
#endif

/* The gate once `gate & mask` is no longer `value`. */
static unsigned wait_while(ek_pool *pool, unsigned mask, unsigned value) {
  unsigned gate;
  int64_t until = 0;
  for (unsigned i = 0; ((gate = atomic_load(&pool->gate)) & mask) == value; i++) {
    if (pool->spin_ns) relax();
    if (i % 64 != 0) continue;
    if (until == 0) until = now_ns() + pool->spin_ns;
    if (now_ns() < until) continue;
    /* whoever changes the gate looks at `sleepers` afterwards: he sees this, or the line after it sees his change */
    atomic_fetch_add(&pool->sleepers, 1);
    while (((gate = atomic_load(&pool->gate)) & mask) == value) sleep_while(pool, gate);
    atomic_fetch_sub(&pool->sleepers, 1);
    break;
  }
  return gate;
}

/* --- tasks --- */

/* Who finishes his own share takes single tasks from the front of the next ones. */
static void work(ek_pool *pool, unsigned self) {
  for (unsigned i = 0; i < pool->threads; i++) {
    share *from = &pool->shares[(self + i) % pool->threads];
    while (atomic_load_explicit(&from->next, memory_order_relaxed) < from->end) {
      const size_t index = atomic_fetch_add_explicit(&from->next, 1, memory_order_relaxed);
      if (index < from->end) pool->task(pool->context, index, self);
    }
  }
}

static void *worker_main(void *argument) {
  const worker *self = argument;
  ek_pool *pool = self->pool;
  ek_cores before;
  ek_cores_pin(&pool->cores, &before); /* for good */
  unsigned seen = CLOSED;              /* as the gate of a new pool: a run that is none of its business */
  for (;;) {
    unsigned gate = wait_while(pool, ~(unsigned)(INSIDE | CLOSED), seen & ~(unsigned)(INSIDE | CLOSED));
    seen = gate;
    while (!(gate & CLOSED) && !atomic_compare_exchange_weak(&pool->gate, &gate, gate + 1)) continue;
    if (gate & CLOSED) continue;
    const int stop = pool->stopping;
    if (!stop) work(pool, self->index);
    const unsigned after = atomic_fetch_sub(&pool->gate, 1) - 1;
    if ((after & (CLOSED | INSIDE)) == CLOSED && atomic_load(&pool->sleepers)) wake(pool);
    if (stop) return NULL;
  }
}

/* Those who spin see it too. */
static void open_gate(ek_pool *pool) {
  const unsigned run = (atomic_load(&pool->gate) & ~(unsigned)(INSIDE | CLOSED)) + RUN;
  atomic_store(&pool->gate, run);
  if (atomic_load(&pool->sleepers)) wake(pool);
}

static int is_nested(const ek_pool *pool, pthread_t self) {
  if (atomic_load_explicit(&pool->runner, memory_order_relaxed) == (uintptr_t)self) return 1;
  for (unsigned i = 1; i < pool->threads; i++) {
    if (pthread_equal(pool->workers[i].thread, self)) return 1;
  }
  return 0;
}

static void run_shared(ek_pool *pool, ek_task_fn *task, void *context, size_t tasks) {
  pool->task = task;
  pool->context = context;
  const size_t each = tasks / pool->threads, more = tasks % pool->threads;
  for (size_t i = 0, begin = 0; i < pool->threads; i++) {
    atomic_store_explicit(&pool->shares[i].next, begin, memory_order_relaxed);
    pool->shares[i].end = begin += each + (i < more);
  }
  open_gate(pool);
  work(pool, 0);
  unsigned inside = atomic_fetch_or(&pool->gate, CLOSED) & INSIDE;
  while (inside) inside = wait_while(pool, INSIDE, inside) & INSIDE;
}

ek_status ek_pool_run(ek_pool *pool, ek_task_fn *task, void *context, size_t tasks) {
  const pthread_t self = pthread_self();
  if (pool) {
    if (is_nested(pool, self)) return EK_NESTED_RUN;
    pthread_mutex_lock(&pool->turn);
    atomic_store_explicit(&pool->runner, (uintptr_t)self, memory_order_relaxed);
  }
  if (!pool || pool->threads == 1 || tasks < 2) {
    for (size_t i = 0; i < tasks; i++) task(context, i, 0);
  } else {
    run_shared(pool, task, context, tasks);
  }
  if (pool) {
    atomic_store_explicit(&pool->runner, 0, memory_order_relaxed);
    pthread_mutex_unlock(&pool->turn);
  }
  return EK_OK;
}

/* --- life --- */

static void free_pool(ek_pool *pool) {
#if !EK_POOL_FUTEX
  pthread_cond_destroy(&pool->changed);
  pthread_mutex_destroy(&pool->mutex);
#endif
  pthread_mutex_destroy(&pool->turn);
  free(pool->shares);
  free(pool->workers);
  free(pool);
}

/* Without threads yet. */
static ek_pool *new_pool(unsigned threads) {
  void *pool_at = NULL, *shares_at = NULL;
  const int failed = posix_memalign(&pool_at, LINE, sizeof(ek_pool)) != 0 ||
                     posix_memalign(&shares_at, LINE, threads * sizeof(share)) != 0;
  ek_pool *pool = pool_at;
  share *shares = shares_at;
  worker *workers = calloc(threads, sizeof *workers);
  if (failed || !workers) {
    free(pool);
    free(workers);
    free(shares);
    return NULL;
  }
  *pool = (ek_pool){.threads = 1, .workers = workers, .shares = shares};
  for (unsigned i = 0; i < threads; i++) atomic_init(&shares[i].next, 0);
  atomic_init(&pool->gate, CLOSED);
  atomic_init(&pool->sleepers, 0);
  atomic_init(&pool->runner, 0);
  pthread_mutex_init(&pool->turn, NULL); /* with no attributes these cannot fail where they are no system objects */
#if !EK_POOL_FUTEX
  pthread_mutex_init(&pool->mutex, NULL);
  pthread_cond_init(&pool->changed, NULL);
#endif
  return pool;
}

/* pool->threads is the number of those that run. */
static int start_threads(ek_pool *pool, unsigned threads) {
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  int failed = 0;
  while (!failed && pool->threads < threads) {
    worker *next = &pool->workers[pool->threads];
    next->pool = pool;
    next->index = pool->threads;
    failed = pthread_create(&next->thread, NULL, worker_main, next);
    if (!failed) pool->threads++;
  }
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  return failed;
}

ek_status ek_pool_create(unsigned threads, ek_pool **out) {
  const ek_cores cores = ek_big_cores(NULL);
  return ek_pool_create_on(&cores, threads, out);
}

ek_status ek_pool_create_on(const ek_cores *cores, unsigned threads, ek_pool **out) {
  *out = NULL;
  if (threads > EK_MOST_THREADS) return EK_BAD_ARGUMENT;
  const unsigned count = threads ? threads : cores->count < EK_MOST_THREADS ? (unsigned)cores->count : EK_MOST_THREADS;
  ek_pool *pool = new_pool(count);
  if (!pool) return EK_NO_MEMORY;
  pool->cores = *cores;
  if (count > cores->count) pool->cores.some_left = 0; /* wherever the system puts them */
  pool->spin_ns = count <= cores->count ? SPIN_NS : 0;
  if (start_threads(pool, count) != 0) {
    ek_pool_destroy(pool);
    return EK_NO_THREAD;
  }
  *out = pool;
  return EK_OK;
}

void ek_pool_destroy(ek_pool *pool) {
  if (!pool) return;
  pthread_mutex_lock(&pool->turn);
  pool->stopping = 1;
  open_gate(pool); /* stays open: each thread comes in once */
  pthread_mutex_unlock(&pool->turn);
  for (unsigned i = 1; i < pool->threads; i++) pthread_join(pool->workers[i].thread, NULL);
  free_pool(pool);
}

unsigned ek_pool_threads(const ek_pool *pool) { return pool ? pool->threads : 1; }

void ek_pool_pin_caller(const ek_pool *pool, ek_cores *before) {
  static const ek_cores any = {.some_left = 0};
  ek_cores_pin(pool ? &pool->cores : &any, before);
}
