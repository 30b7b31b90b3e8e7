#if defined(__linux__) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE
#endif
#include "memory.h"

#include <stdlib.h>
#if defined(__linux__)
#include <sys/mman.h>
#endif

void *ek_memory_new(size_t bytes) {
  const size_t huge = (size_t)2 << 20;
  void *memory = NULL;
  if (posix_memalign(&memory, bytes < huge ? 64 : huge, bytes ? bytes : 1) != 0) return NULL;
#if defined(MADV_HUGEPAGE)
  if (bytes >= huge) (void)madvise(memory, bytes / huge * huge, MADV_HUGEPAGE); /* advice: it works without */
#endif
  return memory;
}
