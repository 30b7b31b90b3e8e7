/* EK_ROWS rows of a matrix side by side: what belongs to column k of row r is at [k][r]. */
#ifndef EK_QUANTIZE_ROWS_H
#define EK_QUANTIZE_ROWS_H

#include "parts.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { EK_ROWS = 64 };

/* A matrix, and the blocks that it is rounded to. */
typedef struct ek_rounded {
  ek_layout layout;
  size_t columns;        /* K, a multiple of the format's block */
  const float *values;   /* (N, K) */
  const uint8_t *blocks; /* (N, K / block * block_bytes) */
} ek_rounded;

typedef struct ek_rows {
  float (*weights)[EK_ROWS];             /* (K, EK_ROWS) */
  float (*levels)[EK_ROWS];              /* (K, EK_ROWS), of the codes */
  float (*scale)[EK_ROWS];               /* (K / group, EK_ROWS), as stored */
  float (*minimum)[EK_ROWS];             /* (K / group, EK_ROWS) */
  float (*d)[EK_ROWS], (*dmin)[EK_ROWS]; /* (K / block, EK_ROWS) */
  int8_t level_of[256], code_of[256];    /* by the low byte of a code, and of a level */
} ek_rows;

/* Memory for rows of this matrix; 0 where there is none. */
int ek_rows_allocate(const ek_rounded *matrix, ek_rows *rows);
void ek_rows_free(ek_rows *rows);

/* Rows first .. first + count - 1 (count 1 .. EK_ROWS); the rest repeat the first. */
void ek_rows_load(const ek_rounded *matrix, size_t first, size_t count, ek_rows *rows);

/* Row r of those to the blocks of one row. */
void ek_rows_store(const ek_rounded *matrix, const ek_rows *rows, size_t r, uint8_t *out);

#ifdef __cplusplus
}
#endif

#endif
