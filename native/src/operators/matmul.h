/* Products of packed matrices with vectors, over the threads of a pool. */
#ifndef EK_MATMUL_H
#define EK_MATMUL_H

#include "error.h"
#include "kernels/kernels.h"
#include "threads/pool.h"

#ifdef __cplusplus
extern "C" {
#endif

/* (rows, columns) weights in stripes of 8 rows, see kernels/stripe.h; the stripes belong to whoever allocated them. */
typedef struct ek_matrix {
  enum ek_type type;
  size_t rows, columns;
  int interleave; /* of the kernels that it was packed for */
  const uint8_t *stripes;
} ek_matrix;

/* Bytes of a matrix as GGUF's blocks and packed; either pointer may be NULL. EK_BAD_ARGUMENT: no such type, no rows or
 * columns, columns that are no multiple of the type's block, or sizes beyond size_t. */
ek_status ek_matrix_size(enum ek_type type, size_t rows, size_t columns, size_t *block_bytes, size_t *packed_bytes);

/* Packs the blocks of a matrix for those kernels into `packed`, which is as large as ek_matrix_size says, and describes
 * it in *matrix. EK_BAD_ARGUMENT also where block_bytes is not exactly what the matrix takes. */
ek_status ek_matrix_pack(const ek_kernels *kernels, ek_pool *pool, enum ek_type type, size_t rows, size_t columns,
                         const uint8_t *blocks, size_t block_bytes, uint8_t *packed, ek_matrix *matrix);

/* Bytes of what ek_activations_fill writes. EK_BAD_ARGUMENT: group is not 0, 32 or 256, no tokens or columns, columns
 * that are no multiple of the group, or a size beyond size_t. */
ek_status ek_activations_size(size_t group, size_t tokens, size_t columns, size_t *bytes);

/* Quantises values (tokens, columns) for weights of that activation group (ek_activation_group) into `memory`, aligned
 * to 4 bytes. *activations points into both. */
ek_status ek_activations_fill(const ek_kernels *kernels, ek_pool *pool, size_t group, const float *values,
                              size_t tokens, size_t columns, void *memory, ek_activations *activations);

/* The two halves of ek_activations_fill, for those who have a task for each token anyway: where everything goes, with
 * arguments that are checked as there; and one token, of `row` (columns). */
ek_status ek_activations_place(size_t group, const float *values, size_t tokens, size_t columns, void *memory,
                               ek_activations *activations);
void ek_activations_fill_token(const ek_kernels *kernels, size_t group, const float *row, size_t tokens, size_t columns,
                               size_t token, void *memory);

/* out[t * out_stride + r], one of several that share their vectors. */
typedef struct ek_product {
  const ek_matrix *matrix;
  float *out;        /* apart from all other buffers */
  size_t out_stride; /* >= matrix->rows; not used with one token */
} ek_product;

enum { EK_MOST_PRODUCTS = 8 };

/* All products of the same vectors in one run of the pool: Q, K and V, or gate and up. Their matrices have the same
 * columns and activation group; tokens >= 1. The result does not depend on the number of threads. EK_BAD_ARGUMENT where
 * these things are not so or a matrix was packed for other kernels, EK_NO_KERNEL, or what ek_pool_run returns. */
ek_status ek_matmul(const ek_kernels *kernels, ek_pool *pool, const ek_product *products, size_t count,
                    const ek_activations *x, size_t tokens);

#ifdef __cplusplus
}
#endif

#endif
