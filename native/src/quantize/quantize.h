/* Rounding that knows how columns depend on one another: a row's error e = decoded - weights costs e^T H e. */
#ifndef EK_QUANTIZE_H
#define EK_QUANTIZE_H

#include "rows.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A (K, K) matrix as the functions below read it: columns P * EK_PANEL .. of row j are EK_PANEL floats at
 * (P * K + j) * EK_PANEL. */
enum { EK_PANEL = 8 };

/* `panels` (K * K, aligned to 64 bytes) of an upper triangular factor (K, K), each row divided by its diagonal. What is
 * below the diagonal is not read. 0 where a diagonal is not positive. */
int ek_factor_panels(const float *factor, size_t columns, float *panels);

/* `panels` of the symmetric matrix whose upper triangle is that of hessian (K, K), divided by the power of two
 * returned, which brings the largest diagonal near 1. 0 where the matrix has an infinity or a NaN. */
double ek_hessian_panels(const float *hessian, size_t columns, float *panels);

/* Error-compensated rounding (GPTQ: Frantar et al., arXiv 2210.17323) with the scales of the blocks given. Columns are
 * rounded in the `order` (K,), a permutation; each one's error is spread over those not yet rounded by `factor`, the
 * panels of the upper Cholesky factor of H^-1 in that order. Writes the blocks of rows first .. first + count - 1 to
 * out, which points at row `first`. 0 where there is no memory. A row's result depends on that row alone. */
typedef int ek_compensate_fn(const ek_rounded *matrix, const float *factor, const int32_t *order, size_t first,
                             size_t count, uint8_t *out);

/* Coordinate descent on all that the blocks store, from the blocks given: d and dmin of each superblock, scale and
 * minimum of each group, each code, in the order of columns; `sweeps` times or until nothing changes. Every step is the
 * best of its parameters' grid near the minimum, and is taken only where e^T H e falls. `hessian` are panels, `unit`
 * what they were divided by. Writes the blocks, and to errors (count,) e^T H e. Else as above. */
typedef int ek_descend_fn(const ek_rounded *matrix, const float *hessian, double unit, int sweeps, size_t first,
                          size_t count, uint8_t *out, double *errors);

/* The functions for a level of ek_isa_levels, or for the highest where level is -1. All give the same bytes. */
ek_compensate_fn *ek_compensate_find(int level);
ek_descend_fn *ek_descend_find(int level);

#ifdef __cplusplus
}
#endif

#endif
