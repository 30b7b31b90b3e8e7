/* What attention's kernels of this level share. */
#ifndef EK_NEON_QUERIES_H
#define EK_NEON_QUERIES_H

#include "../queries.h"
#include "rows.h"

/* Loops over vectors that are to stay in registers. */
#ifdef __clang__
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

#endif
