/* What the levels' kernels of attention share. Queries are taken four at a time, so that what is loaded and unpacked of
 * a block serves the query heads of a group. */
#ifndef EK_QUERIES_H
#define EK_QUERIES_H

#include "cache_block.h"
#include "cost.h"

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
