/* Products and attention with unrounded activations and sums in float64: slow, for comparisons with other programs. */
#ifndef EK_FLOAT_MODE_H
#define EK_FLOAT_MODE_H

#include "operators/attention.h"
#include "operators/matmul.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Scratch bytes of ek_float_matmul for matrices of at most so many columns. */
size_t ek_float_matmul_scratch(size_t columns, unsigned threads);

/* out[t * stride + r] = sum_k weight[r][k] * x[t][k] of x (tokens, columns). */
ek_status ek_float_matmul(ek_pool *pool, const ek_matrix *matrix, const float *x, size_t tokens, float *out,
                          size_t stride, void *scratch);

/* Scratch bytes of ek_float_attention for at most so many blocks. */
size_t ek_float_attention_scratch(size_t blocks, size_t dims, unsigned threads);

/* As ek_attention_run (attention.h), over blocks of float [16][dims]. */
ek_status ek_float_attention(ek_pool *pool, const ek_attention *attention, const ek_attention_cache *cache,
                             const float *queries, const int32_t *positions, size_t tokens, float *out, void *scratch);

#ifdef __cplusplus
}
#endif

#endif
