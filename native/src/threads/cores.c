#if defined(__linux__) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE
#endif
#include "threads/cores.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#if defined(__linux__)
#include <sched.h>

static int has(const ek_cores *cores, size_t core) {
  return cores->mask[core / EK_CORES_BITS] >> core % EK_CORES_BITS & 1;
}

/* 0 where the file is missing or holds no positive number. */
static long capacity_of(const char *folder, size_t core) {
  char path[512];
  const int length = snprintf(path, sizeof path, "%s/cpu%zu/cpu_capacity", folder, core);
  if (length < 0 || (size_t)length >= sizeof path) return 0;
  FILE *file = fopen(path, "re");
  if (!file) return 0;
  long capacity = 0;
  if (fscanf(file, "%9ld", &capacity) != 1 || capacity < 0) capacity = 0;
  fclose(file);
  return capacity;
}

/* Cores without a known capacity stay. */
static void drop_little(const char *folder, ek_cores *cores) {
  long largest = 0;
  for (size_t core = 0; core < EK_MOST_CORES; core++) {
    const long capacity = has(cores, core) ? capacity_of(folder, core) : 0;
    if (capacity > largest) largest = capacity;
  }
  for (size_t core = 0; largest && core < EK_MOST_CORES; core++) {
    const long capacity = has(cores, core) ? capacity_of(folder, core) : 0;
    if (capacity && capacity < largest - capacity) {
      cores->mask[core / EK_CORES_BITS] &= ~(1ul << core % EK_CORES_BITS);
      cores->some_left = 1;
    }
  }
}

ek_cores ek_big_cores(const char *folder) {
  ek_cores cores = {.count = 0};
  if (sched_getaffinity(0, sizeof cores.mask, (cpu_set_t *)(void *)cores.mask) != 0) {
    const long online = sysconf(_SC_NPROCESSORS_ONLN);
    cores.count = online > 0 ? (size_t)online : 1;
    return cores;
  }
  drop_little(folder ? folder : "/sys/devices/system/cpu", &cores);
  for (size_t core = 0; core < EK_MOST_CORES; core++) cores.count += (size_t)has(&cores, core);
  return cores;
}

/* Where the system refuses, as it does once the process may use none of these cores, the thread stays where it is. */
void ek_cores_pin(const ek_cores *cores, ek_cores *before) {
  enum { WORDS = EK_MOST_CORES / EK_CORES_BITS };
  ek_cores both = {.count = 0};
  before->some_left = 0;
  if (!cores->some_left) return;
  if (sched_getaffinity(0, sizeof before->mask, (cpu_set_t *)(void *)before->mask) != 0) return;
  for (size_t i = 0; i < WORDS; i++) both.mask[i] = before->mask[i] & cores->mask[i];
  if (memcmp(both.mask, before->mask, sizeof both.mask) == 0) return;
  before->some_left = sched_setaffinity(0, sizeof both.mask, (const cpu_set_t *)(const void *)both.mask) == 0;
}

void ek_cores_unpin(const ek_cores *before) {
  if (before->some_left) (void)sched_setaffinity(0, sizeof before->mask, (const cpu_set_t *)(const void *)before->mask);
}

#else

ek_cores ek_big_cores(const char *folder) {
  (void)folder;
  const long online = sysconf(_SC_NPROCESSORS_ONLN);
  ek_cores cores = {.count = online > 0 ? (size_t)online : 1};
  return cores;
}

void ek_cores_pin(const ek_cores *cores, ek_cores *before) {
  (void)cores;
  before->some_left = 0;
}

void ek_cores_unpin(const ek_cores *before) { (void)before; }

#endif
