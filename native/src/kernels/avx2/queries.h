/* What attention's kernels share: queries are taken several at a time, so that what is unpacked of a block serves all
 * query heads of a group. */
#ifndef EK_AVX2_QUERIES_H
#define EK_AVX2_QUERIES_H

#include "../cache_block.h"
#include "vectors.h"

enum { MOST_QUERIES = 4 };

/* Calls kernel(n, first, ...) for the queries first .. first + n - 1, with n a constant. */
#define FOR_QUERIES(kernel, query_count, ...)                                                                          \
  do {                                                                                                                 \
    size_t first = 0;                                                                                                  \
    for (; first + MOST_QUERIES <= (query_count); first += MOST_QUERIES) kernel(MOST_QUERIES, first, __VA_ARGS__);     \
    switch ((query_count) - first) {                                                                                   \
    case 3:                                                                                                            \
      kernel(3, first, __VA_ARGS__);                                                                                   \
      break;                                                                                                           \
    case 2:                                                                                                            \
      kernel(2, first, __VA_ARGS__);                                                                                   \
      break;                                                                                                           \
    case 1:                                                                                                            \
      kernel(1, first, __VA_ARGS__);                                                                                   \
      break;                                                                                                           \
    }                                                                                                                  \
  } while (0)

#endif
