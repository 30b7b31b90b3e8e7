/* Which cores a run may use. */
#ifndef BENCH_CORES_H
#define BENCH_CORES_H

#include <sched.h>
#include <stdint.h>
#include <sys/types.h>

/* In all of these `folder` is /sys/devices/system/cpu. */

/* "0,2-3". Whether it is such a list. */
int cores_parse(const char *text, cpu_set_t *cores);

/* What the file `name` of the folder lists: "present" or "online". Without it, as many as the C library counts, which
 * may be those alone that this process may run on. */
cpu_set_t cores_listed(const char *folder, const char *name);

/* cpu_capacity of a core; -1: the system does not tell. */
int64_t core_capacity(const char *folder, int core);

/* Those of `cores` whose capacity is at least half of the largest, as the library has it; where no capacity is known,
 * all. */
cpu_set_t cores_big(const char *folder, const cpu_set_t *cores);

/* Restricts the calling thread, and those that it starts from now on, to what --cores asks for: "big", "all" or a list.
 * 0, or the exit status after a report. */
int cores_use(const char *asked);

/* Adds to *cores what each thread of this process but `except` may run on. Whether the system told. */
int cores_read_back(pid_t except, cpu_set_t *cores);

#endif
