/* The processor cores that threads should use. */
#ifndef EK_CORES_H
#define EK_CORES_H

#include <limits.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { EK_MOST_CORES = 8192, EK_CORES_BITS = CHAR_BIT * sizeof(unsigned long) };

typedef struct ek_cores {
  unsigned long mask[EK_MOST_CORES / EK_CORES_BITS]; /* one bit each, the lowest first */
  size_t count;
  int some_left; /* whether the process may also use cores that are not among them */
} ek_cores;

/* The big cores among those that the calling thread may run on: whose `cpu_capacity`, as Linux calls what a core does
 * at its highest clock, is at least half of the largest. Where it gives none, as on x86, all are big. `folder` is
 * /sys/devices/system/cpu unless NULL says so. Systems other than Linux: as many as there are, without a mask. */
ek_cores ek_big_cores(const char *folder);

/* Restricts the calling thread to those of them that it may run on. *before gets what ek_cores_unpin needs; it says
 * `some_left` 0 where nothing changed: there are no others, or it may run on others alone. */
void ek_cores_pin(const ek_cores *cores, ek_cores *before);
void ek_cores_unpin(const ek_cores *before);

#ifdef __cplusplus
}
#endif

#endif
