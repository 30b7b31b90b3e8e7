/* Encoding rows of weights to blocks: the scales (and minima) that minimise sum_k importance[k] * (x[k] -
 * decoded[k])^2. */
#ifndef EK_ENCODE_H
#define EK_ENCODE_H

#include "../format.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What to encode. Rows are contiguous. `importance` is NULL (all 1), one row of `columns` for all rows
 * (importance_per_row 0), or as many as `values` (importance_per_row 1). */
typedef struct ek_source {
  const float *values;
  const float *importance;
  size_t columns; /* a multiple of the format's block */
  int importance_per_row;
} ek_source;

/* Encodes blocks first .. first + count - 1 of the source (block i is weights i * block ...) to out, which points at
 * block `first`. Each block's result depends on that block alone, so the work may be cut anywhere.
 * Finite values give finite blocks: scales beyond fp16 are saturated. Importance that is negative, or NaN, counts as 0;
 * a block whose importance is 0 throughout is rounded as if it were 1. */
typedef void ek_encode_fn(const ek_source *source, size_t first, size_t count, uint8_t *out);

/* How many instruction set levels this build has that this machine can run: base, and on x86-64 AVX2 and AVX-512. All
 * give the same bytes. */
int ek_isa_levels(void);

/* The encoder for that level, or for the highest where level is -1; NULL where the format has none. */
ek_encode_fn *ek_encoder_find(const char *format_name, int level);

#ifdef __cplusplus
}
#endif

#endif
