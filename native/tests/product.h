/* Cases of a matrix product: shapes, weights and activations, random and extreme, and what is to come out. */
#ifndef EK_PRODUCT_H
#define EK_PRODUCT_H

#include "check.h"

/* All that goes in and comes out is in guarded buffers. */
typedef struct product {
  enum ek_type type;
  int rows, columns, tokens, out_stride;
  check_buffer stripes, values, codes, scales, sums, out;
  uint8_t *blocks;
  double *expected, *terms; /* (tokens, rows) */
} product;

/* Case `number` of a type, packed with that interleave; the expected product is a dense one in float64 of the weights
 * that ek_dequantise gives. */
product product_new(enum ek_type type, int is_gemm, int number, int interleave);
void product_free(product *p);

ek_activations product_activations(const product *p);

/* Blocks of random codes, with scales of about 0.02; floats of about 1. To be freed. */
uint8_t *product_random_blocks(check_rng *rng, enum ek_type type, size_t count);

#endif
