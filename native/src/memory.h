/* Memory for weights and tables. */
#ifndef EK_MEMORY_H
#define EK_MEMORY_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Uninitialised, aligned to 64 bytes; from 2 MiB on to that, and the system is asked to use huge pages, without which a
 * product on a large matrix waits for page walks. NULL where there is none. Freed with free(). */
void *ek_memory_new(size_t bytes);

#ifdef __cplusplus
}
#endif

#endif
