/* What bounds the kernels of a level: a peak_<level>.c says how its vectors are multiplied and includes this.
 *
 * dot(sum, a, b) is the level's widest product of bytes, DOT_MACS its multiply-adds. The accumulators are so many that
 * no product waits for another, and stay in registers. */
#include "bench.h"
#include "kernels/vector/vector.h"

#define NAMED(name, level) name##_##level
#define EXPANDED(name, level) NAMED(name, level)
#define FUNCTION(name) EXPANDED(name, LEVEL)

#if defined(__x86_64__)
#define OPAQUE(x) __asm__ volatile("" : "+v"(x)) /* keeps the compiler from computing ahead; no instruction */
#else
#define OPAQUE(x) __asm__ volatile("" : "+w"(x))
#endif

enum { ACCUMULATORS = 12, REPEATS = 8 };

static void dot_rounds(size_t rounds) {
  dot_in a, b;
  dot_sum sums[ACCUMULATORS];
  memset(&a, 1, sizeof a);
  memset(&b, 1, sizeof b);
  memset(sums, 0, sizeof sums);
  for (size_t i = 0; i < rounds; i++) {
#pragma GCC unroll 8
    for (int r = 0; r < REPEATS; r++) {
#pragma GCC unroll 12
      for (int j = 0; j < ACCUMULATORS; j++) {
        OPAQUE(a);
        sums[j] = dot(sums[j], a, b);
      }
    }
  }
  for (int j = 0; j < ACCUMULATORS; j++) OPAQUE(sums[j]);
}

static void multiply_rounds(size_t rounds) {
  vf a = vf_set(0.999f), b = vf_set(0.001f), sums[ACCUMULATORS];
  for (int j = 0; j < ACCUMULATORS; j++) sums[j] = b;
  for (size_t i = 0; i < rounds; i++) {
#pragma GCC unroll 8
    for (int r = 0; r < REPEATS; r++) {
#pragma GCC unroll 12
      for (int j = 0; j < ACCUMULATORS; j++) {
        OPAQUE(a);
        sums[j] = vf_fma(a, b, sums[j]);
      }
    }
  }
  for (int j = 0; j < ACCUMULATORS; j++) OPAQUE(sums[j]);
}

static uint64_t read_all(const uint8_t *bytes, size_t count) {
  typedef uint64_t words __attribute__((vector_size(sizeof(vf)), aligned(1), may_alias));
  words sums[4] = {{0}, {0}, {0}, {0}};
  size_t i = 0;
  for (; i + sizeof sums <= count; i += sizeof sums) {
    for (size_t j = 0; j < 4; j++) sums[j] ^= *(const words *)(const void *)(bytes + i + j * sizeof(vf));
  }
  const words sum = sums[0] ^ sums[1] ^ sums[2] ^ sums[3];
  uint64_t rest = 0;
  for (size_t j = 0; j < sizeof(vf) / 8; j++) rest ^= sum[j];
  for (; i < count; i++) rest ^= bytes[i];
  return rest;
}

const bench_level FUNCTION(bench_level) = {
    .dot_name = DOT_NAME,
    .float_name = FLOAT_NAME,
    .dot_operations = 2.0 * DOT_MACS * ACCUMULATORS * REPEATS,
    .float_operations = 2.0 * EK_LANES * ACCUMULATORS * REPEATS,
    .dot = dot_rounds,
    .multiply = multiply_rounds,
    .read = read_all,
};
