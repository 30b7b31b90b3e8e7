#include "rows.h"

#include <stdlib.h>

int ek_rows_allocate(const ek_rounded *matrix, ek_rows *rows) {
  const ek_format *format = matrix->layout.format;
  const size_t columns = matrix->columns, groups = columns / (size_t)format->group;
  const size_t blocks = columns / (size_t)format->block;
  float (*at)[EK_ROWS] = aligned_alloc(64, (2 * columns + 2 * groups + 2 * blocks) * sizeof *at);
  if (!at) return 0;
  *rows = (ek_rows){.weights = at, .levels = at + columns};
  rows->scale = rows->levels + columns;
  rows->minimum = rows->scale + groups;
  rows->d = rows->minimum + groups;
  rows->dmin = rows->d + blocks;
  for (int code = -128; code < 128; code++) {
    const int8_t level = format->levels ? format->levels[code & 15] : (int8_t)code;
    rows->level_of[(uint8_t)code] = level;
    if (!format->levels || (code >= 0 && code < 16)) rows->code_of[(uint8_t)level] = (int8_t)code;
  }
  return 1;
}

void ek_rows_free(ek_rows *rows) { free(rows->weights); }

void ek_rows_load(const ek_rounded *matrix, size_t first, size_t count, ek_rows *rows) {
  const ek_format *format = matrix->layout.format;
  const size_t block = (size_t)format->block, blocks = matrix->columns / block;
  const size_t groups = block / (size_t)format->group;
  ek_stored stored;
  for (size_t r = 0; r < EK_ROWS; r++) {
    const size_t row = first + (r < count ? r : 0);
    const float *values = matrix->values + row * matrix->columns;
    for (size_t k = 0; k < matrix->columns; k++) rows->weights[k][r] = values[k];
    for (size_t b = 0; b < blocks; b++) {
      ek_take_apart(&matrix->layout, matrix->blocks + (row * blocks + b) * (size_t)format->block_bytes, &stored);
      rows->d[b][r] = stored.d;
      rows->dmin[b][r] = stored.dmin;
      for (size_t g = 0; g < groups; g++) {
        rows->scale[b * groups + g][r] = stored.scale[g];
        rows->minimum[b * groups + g][r] = stored.minimum[g];
      }
      for (size_t k = 0; k < block; k++) rows->levels[b * block + k][r] = rows->level_of[(uint8_t)stored.codes[k]];
    }
  }
}

void ek_rows_store(const ek_rounded *matrix, const ek_rows *rows, size_t r, uint8_t *out) {
  const ek_format *format = matrix->layout.format;
  const size_t block = (size_t)format->block, blocks = matrix->columns / block;
  const size_t groups = block / (size_t)format->group;
  ek_stored stored;
  for (size_t b = 0; b < blocks; b++) {
    stored.d = rows->d[b][r];
    stored.dmin = rows->dmin[b][r];
    for (size_t g = 0; g < groups; g++) {
      stored.scale[g] = (int8_t)rows->scale[b * groups + g][r];
      stored.minimum[g] = (int8_t)rows->minimum[b * groups + g][r];
    }
    for (size_t k = 0; k < block; k++) {
      stored.codes[k] = rows->code_of[(uint8_t)(int)rows->levels[b * block + k][r]];
    }
    ek_put_together(&matrix->layout, &stored, out + b * (size_t)format->block_bytes);
  }
}
