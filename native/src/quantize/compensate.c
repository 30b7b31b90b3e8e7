#include "lane_rows.h"

#include <stdlib.h>

/* What column k's codes become values with: value = scale * level - minimum. */
typedef struct affine {
  ek_vf scale, inverse, minimum;
} affine;

static void load_affines(const ek_rounded *matrix, const ek_rows *rows, int lane, affine *of_group) {
  const ek_format *format = matrix->layout.format;
  const size_t group = (size_t)format->group, groups_per_block = (size_t)format->block / group;
  for (size_t g = 0; g < matrix->columns / group; g++) {
    const size_t b = g / groups_per_block;
    const ek_vf scale = vload(&rows->d[b][lane]) * vload(&rows->scale[g][lane]);
    const ek_vf minimum = vload(&rows->dmin[b][lane]) * vload(&rows->minimum[g][lane]);
    of_group[g] = (affine){scale, vratio(vf(1), scale), minimum};
  }
}

/* Column order[p] is rounded at step p; errors (K,) are what the columns of the steps before were moved by. */
static void compensate(const ek_rounded *matrix, const ek_rows *rows, const float *factor, const int32_t *order,
                       int lane, const affine *of_group, ek_vf *errors) {
  const ek_layout *layout = &matrix->layout;
  for (size_t at = 0; at < matrix->columns; at += EK_PANEL) {
    const float *panel = factor + at * matrix->columns;
    ek_vf spread[EK_PANEL] = {{0}};
    add_product(panel, errors, at, spread);
    for (size_t c = 0; c < EK_PANEL; c++) {
      const size_t p = at + c, k = (size_t)order[p];
      const affine *a = &of_group[k / (size_t)layout->format->group];
      const ek_vf wanted = vload(&rows->weights[k][lane]) - spread[c];
      const ek_vf level = nearest_level(layout, (wanted + a->minimum) * a->inverse);
      vstore(&rows->levels[k][lane], level);
      errors[p] = wanted - (a->scale * level - a->minimum);
      for (size_t later = c + 1; later < EK_PANEL; later++) spread[later] += panel[p * EK_PANEL + later] * errors[p];
    }
  }
}

ek_compensate_fn EK_ISA_NAME(ek_compensate);

int EK_ISA_NAME(ek_compensate)(const ek_rounded *matrix, const float *factor, const int32_t *order, size_t first,
                               size_t count, uint8_t *out) {
  const ek_format *format = matrix->layout.format;
  const size_t row_bytes = matrix->columns / (size_t)format->block * (size_t)format->block_bytes;
  const size_t groups = matrix->columns / (size_t)format->group;
  ek_rows rows;
  if (!ek_rows_allocate(matrix, &rows)) return 0;
  ek_vf *errors = aligned_alloc(sizeof *errors, (matrix->columns + 3 * groups) * sizeof *errors);
  affine *of_group = (affine *)(errors + matrix->columns);
  for (size_t i = 0; errors && i < count; i += EK_ROWS) {
    const size_t here = count - i < EK_ROWS ? count - i : EK_ROWS;
    ek_rows_load(matrix, first + i, here, &rows);
    for (int lane = 0; lane < (int)here; lane += EK_WIDTH) {
      load_affines(matrix, &rows, lane, of_group);
      compensate(matrix, &rows, factor, order, lane, of_group, errors);
    }
    for (size_t r = 0; r < here; r++) ek_rows_store(matrix, &rows, r, out + (i + r) * row_bytes);
  }
  const int enough = errors != NULL;
  free(errors);
  ek_rows_free(&rows);
  return enough;
}
