/* The machine: its name, caches and limits, and random contents for its memory. */
#include "bench.h"

#include "half.h"
#include "memory.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --- what the system says --- */

/* The rest of the first line of a file that starts so; whether there is one. */
static int line_after(const char *path, const char *start, char *out, size_t size) {
  char line[256];
  int found = 0;
  FILE *file = fopen(path, "r");
  while (file && !found && fgets(line, sizeof line, file)) {
    if (strncmp(line, start, strlen(start)) != 0) continue;
    const char *rest = line + strlen(start);
    rest += strspn(rest, " \t:");
    snprintf(out, size, "%.*s", (int)strcspn(rest, "\n"), rest);
    found = 1;
  }
  if (file) fclose(file);
  return found;
}

/* qemu-user passes on the host's name of the process, and in older versions its /proc/cpuinfo. */
int bench_emulated(void) {
  char text[64];
  if (line_after("/proc/self/status", "Name", text, sizeof text) && strncmp(text, "qemu-", 5) == 0) return 1;
#if defined(__aarch64__)
  return line_after("/proc/cpuinfo", "vendor_id", text, sizeof text);
#else
  return 0;
#endif
}

static void name_processor(char *out, size_t size) {
  if (line_after("/proc/cpuinfo", "model name", out, size)) return;
  if (line_after("/sys/firmware/devicetree/base/model", "", out, size)) return;
  if (line_after("/proc/cpuinfo", "Hardware", out, size)) return;
  snprintf(out, size, "unknown processor");
}

/* Bytes of the largest cache that the first core uses; 0 where the system does not say. */
static size_t last_cache(void) {
  size_t largest = 0;
  for (int i = 0; i < 8; i++) {
    char path[64], text[32];
    snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/size", i);
    if (!line_after(path, "", text, sizeof text)) continue;
    char *end;
    const size_t number = strtoul(text, &end, 10), size = *end == 'M' ? number << 20 : number << 10;
    if (size > largest) largest = size;
  }
  return largest;
}

/* --- the pool --- */

static void no_task(void *context, size_t index, unsigned worker) { (void)context, (void)index, (void)worker; }

typedef struct meeting {
  atomic_uint here;
  unsigned all;
} meeting;

static void meet(void *context, size_t index, unsigned worker) {
  meeting *m = context;
  (void)index, (void)worker;
  atomic_fetch_add(&m->here, 1);
  while (atomic_load(&m->here) < m->all) continue;
}

static void run_empty(void *context) {
  const bench_machine *machine = context;
  for (int i = 0; i < 100; i++) ek_pool_run(machine->pool, no_task, NULL, ek_pool_threads(machine->pool));
}

static void run_meeting(void *context) {
  const bench_machine *machine = context;
  for (int i = 0; i < 100; i++) {
    meeting m = {0, ek_pool_threads(machine->pool)};
    ek_pool_run(machine->pool, meet, &m, m.all);
  }
}

void bench_look(bench_machine *machine) {
  bench_time empty, meeting_time;
  const size_t cache = last_cache(), least = (size_t)64 << 20, most = (size_t)256 << 20;
  machine->kernels = *ek_kernels_here();
  machine->large = 4 * cache < least ? least : 4 * cache > most ? most : 4 * cache;
  if (machine->emulated) machine->large = (size_t)1 << 20;
  name_processor(machine->processor, sizeof machine->processor);
  bench_interleaved(run_empty, run_meeting, machine, 0.05, &empty, &meeting_time);
  machine->run_us = empty.best * 1e4;
  machine->meeting_us = meeting_time.best * 1e4;
}

/* --- its limits --- */

static const bench_level *limits_of(ek_level level) {
  switch (level) {
#if defined(__x86_64__)
  case EK_LEVEL_avx2:
    return &bench_level_avx2;
  case EK_LEVEL_avx512vnni:
    return &bench_level_avx512vnni;
#elif defined(__aarch64__)
  case EK_LEVEL_neon:
    return &bench_level_neon;
  case EK_LEVEL_dotprod:
    return &bench_level_dotprod;
  case EK_LEVEL_i8mm:
    return &bench_level_i8mm;
#endif
  default:
    return NULL;
  }
}

typedef struct reading {
  uint64_t (*read)(const uint8_t *bytes, size_t count);
  const uint8_t *bytes;
  size_t count, task;
  atomic_uint_fast64_t sum; /* so that the loop is not optimised away */
} reading;

static uint64_t read_words(const uint8_t *bytes, size_t count) {
  uint64_t sum = 0, word;
  for (size_t i = 0; i + sizeof word <= count; i += sizeof word) {
    memcpy(&word, bytes + i, sizeof word);
    sum ^= word;
  }
  return sum;
}

static void read_task(void *context, size_t index, unsigned worker) {
  (void)worker;
  reading *r = context;
  const size_t at = index * r->task, count = r->count - at < r->task ? r->count - at : r->task;
  atomic_fetch_add_explicit(&r->sum, r->read(r->bytes + at, count), memory_order_relaxed);
}

void bench_read(const bench_machine *machine, const uint8_t *bytes, size_t count, size_t task) {
  const bench_level *limits = limits_of(machine->kernels.level);
  reading r = {limits ? limits->read : read_words, bytes, count, task, 0};
  ek_pool_run(machine->pool, read_task, &r, (count + task - 1) / task);
}

typedef struct multiplying {
  void (*loop)(size_t rounds);
  size_t rounds;
} multiplying;

static void multiply_task(void *context, size_t index, unsigned worker) {
  (void)index, (void)worker;
  const multiplying *m = context;
  m->loop(m->rounds);
}

double bench_peak(const bench_machine *machine, ek_level level, int floats, const char **name) {
  enum { TASKS = 32 };
  const bench_level *limits = limits_of(level);
  if (!limits) return 0;
  multiplying m = {floats ? limits->multiply : limits->dot, machine->emulated ? 1 : 10000};
  const size_t tasks = TASKS * (size_t)ek_pool_threads(machine->pool);
  ek_pool_run(machine->pool, multiply_task, &m, tasks);
  *name = floats ? limits->float_name : limits->dot_name;
  return (floats ? limits->float_operations : limits->dot_operations) * (double)(m.rounds * tasks);
}

/* --- contents --- */

void *bench_memory(size_t bytes) {
  void *memory = ek_memory_new(bytes);
  if (!memory) {
    fprintf(stderr, "out of memory: %zu MiB are needed at once\n", bytes >> 20);
    exit(1);
  }
  return memory;
}

/* SplitMix64 (Steele, Lea and Flood, 2014). */
static uint64_t next_bits(uint64_t *state) {
  uint64_t z = *state += 0x9e3779b97f4a7c15u;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}

void bench_random(void *out, size_t bytes) {
  uint64_t state = bytes;
  for (size_t i = 0; i < bytes; i += 8) {
    const uint64_t bits = next_bits(&state);
    memcpy((uint8_t *)out + i, &bits, bytes - i < 8 ? bytes - i : 8);
  }
}

void bench_random_floats(float *out, size_t count) {
  uint64_t state = count;
  for (size_t i = 0; i < count; i++) out[i] = (float)(next_bits(&state) >> 40) * 0x1p-22f - 2.0f;
}

void bench_random_blocks(enum ek_type type, size_t blocks, uint8_t *out) {
  const ek_format *format = &ek_formats[type];
  const size_t size = (size_t)format->block_bytes;
  bench_random(out, blocks * size);
  for (size_t b = 0; b < blocks; b++) {
    uint8_t *at = out + b * size;
    const float value = 0.01f * (float)(1 + at[0] % 4) * (at[size - 1] & 1 ? -1 : 1);
    if (type == EK_TYPE_f32) {
      memcpy(at, &value, sizeof value);
    } else if (type == EK_TYPE_bf16) {
      ek_store_u16(at, ek_bfloat_of_float(value));
    } else {
      ek_store_u16(at + (type == EK_TYPE_q6_k ? 208 : 0), ek_half_of_float(value));
      if (format->has_minima) ek_store_u16(at + 2, ek_half_of_float(value));
    }
  }
}
