/* Threads that share tasks.
 *
 * A run costs about a microsecond while the threads are awake: between runs they spin for a tenth of a millisecond,
 * then sleep. Tasks are cut into one contiguous share for each worker; who has finished his own takes from the others'.
 * After a fork a pool is of no use in the child. */
#ifndef EK_POOL_H
#define EK_POOL_H

#include "error.h"
#include "threads/cores.h"

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ek_pool ek_pool;

enum { EK_MOST_THREADS = 1024 };

/* A pool of `threads` workers, the thread that calls ek_pool_run among them, so that threads - 1 are started (they
 * block all signals). 0: one for each big core that the calling thread may run on, see cores.h. Where there are little
 * cores too, and no more workers than big ones, those that are started are pinned to these. The caller owns *pool; NULL
 * after a failure: EK_BAD_ARGUMENT (more than EK_MOST_THREADS), EK_NO_MEMORY, EK_NO_THREAD. */
ek_status ek_pool_create(unsigned threads, ek_pool **pool);

/* With these as the big cores. */
ek_status ek_pool_create_on(const ek_cores *cores, unsigned threads, ek_pool **pool);

/* Waits for a run that is under way in another thread; no further one may begin. NULL is allowed. */
void ek_pool_destroy(ek_pool *pool);

/* Workers; 1 for NULL. */
unsigned ek_pool_threads(const ek_pool *pool);

/* For the one that calls ek_pool_run, around many runs since it costs three system calls: keeps the calling thread to
 * the cores that the pool's threads are pinned to, until ek_cores_unpin(before). A run lasts as long as its slowest
 * worker, and the caller is one. Does nothing where the threads are not pinned; pool may be NULL. */
void ek_pool_pin_caller(const ek_pool *pool, ek_cores *before);

/* One of the tasks of a run. No two tasks have the same `worker` (0 .. threads - 1) at the same time. */
typedef void ek_task_fn(void *context, size_t index, unsigned worker);

/* Calls task(context, i, worker) once for each i < tasks and returns when all have returned; what they wrote is visible
 * to the caller. pool NULL: in the caller alone. Runs from several threads take turns. A task must not run its own
 * pool: EK_NESTED_RUN, and nothing is done. */
ek_status ek_pool_run(ek_pool *pool, ek_task_fn *task, void *context, size_t tasks);

#ifdef __cplusplus
}
#endif

#endif
