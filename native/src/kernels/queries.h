/* What the levels' kernels of attention share. Queries are taken four at a time, so that what is loaded and unpacked of
 * a block serves the query heads of a group. */
#ifndef EK_QUERIES_H
#define EK_QUERIES_H

#include "../half.h"
#include "cache_block.h"
#include "cost.h"

#include <math.h>
#include <string.h>

enum { MOST_QUERIES = 4, GROUP = 32 };

/* Calls kernel(n, first, ...) for the queries first .. first + n - 1, with n a constant. */
#define FOR_QUERIES(kernel, query_count, ...)                                                                          \
  do {                                                                                                                 \
    size_t first = 0;                                                                                                  \
    for (; first + 4 <= (query_count); first += 4) kernel(4, first, __VA_ARGS__);                                      \
    if ((query_count) - first == 3) kernel(3, first, __VA_ARGS__);                                                     \
    if ((query_count) - first == 2) kernel(2, first, __VA_ARGS__);                                                     \
    if ((query_count) - first == 1) kernel(1, first, __VA_ARGS__);                                                     \
  } while (0)

/* Hot loops are counted for four queries, see cost.h: the blocks of one cache block x 32 dimensions. */
enum { BLOCK_COST = EK_CACHE_BLOCK * MOST_QUERIES };
#define COUNTED(n, blocks) ((n) == MOST_QUERIES ? (blocks) : 0)

/* Of 32 dimensions of a block: the codes, and all. */
static inline size_t code_bytes(enum ek_type type) { return type == EK_TYPE_q4_0 ? 256 : 512; }
static inline size_t group_bytes(enum ek_type type) { return type == EK_TYPE_f16 ? 1024 : code_bytes(type) + 32; }

/* How weight times scale becomes an integer of 16 bits: w * trunc(2^14 half(2^shift scale)) / 2^15, rounded to nearest,
 * ties up, which is weight * scale / inverse. */
typedef struct tile_scaling {
  int shift;
  float inverse; /* 2^(1 - shift) */
} tile_scaling;

static inline float power_of_two(int exponent) { return ek_float_of_bits((uint32_t)(exponent + 127) << 23); }

/* `most`: the largest |scale| of a tile, as half. It comes to be in [1, 2). NaN where a scale is not finite. */
static inline tile_scaling tile_scaling_of(uint16_t most) {
  if (most >= 0x7c00) return (tile_scaling){0, NAN};
  if (most == 0) return (tile_scaling){0, 0};
  const int shift = 127 - (int)(ek_bits_of_float(ek_float_of_half(most)) >> 23);
  return (tile_scaling){shift, power_of_two(1 - shift)};
}

/* 32 dimensions of the queries, side by side. */
typedef struct query_group {
  int8_t codes[MOST_QUERIES][GROUP];
  float scales[MOST_QUERIES];
} query_group;

static inline void gather_queries(int n, size_t first, size_t dims, const ek_activations *x, query_group *to) {
  for (size_t k = 0; k < dims; k += GROUP, to++) {
    for (size_t h = 0; h < (size_t)n; h++) {
      const size_t at = (first + h) * dims + k;
      memcpy(to->codes[h], x->codes + at, GROUP);
      to->scales[h] = x->scales[at / GROUP];
    }
  }
}

#endif
