#include "lane_rows.h"
#include "pair_step.h"

#include <stdlib.h>
#include <string.h>

typedef double ek_vd __attribute__((vector_size(8 * EK_WIDTH)));

enum { VECTORS = EK_ROWS / EK_WIDTH };

/* EK_WIDTH rows on their way down. */
typedef struct descent {
  const ek_rounded *matrix;
  const ek_rows *rows;
  const float *hessian; /* panels */
  int lane;
  ek_vf *errors;               /* (K,): decoded - weights */
  size_t first;                /* column of the superblock at hand */
  ek_vf slopes[EK_SUPERBLOCK]; /* H e there */
  ek_vi moved;                 /* lanes that took a step since it was last cleared */
} descent;

typedef struct affine {
  ek_vf scale, minimum;
} affine;

static int any(ek_vi mask) {
  int found = 0;
  for (int l = 0; l < EK_WIDTH; l++) found |= mask[l];
  return found != 0;
}

/* H_jk for the columns k of a panel from `at` on, which is its first; the rows j from `row` on. */
static const float *panel_at(const descent *s, size_t at, size_t row) {
  return s->hessian + at * s->matrix->columns + row * EK_PANEL;
}

static float hessian_at(const descent *s, size_t j, size_t k) {
  return panel_at(s, k / EK_PANEL * EK_PANEL, j)[k % EK_PANEL];
}

/* sums (count,) += H x in the columns from `at` on, x (number,) in those from `from` on. */
static void add_products(const descent *s, size_t at, size_t count, const ek_vf *x, size_t from, size_t number,
                         ek_vf *sums) {
  for (size_t k = 0; k < count; k += EK_PANEL) add_product(panel_at(s, at + k, from), x, number, sums + k);
}

static ek_vf dot(const ek_vf *a, const ek_vf *b, size_t count) {
  ek_vf sum = vf(0);
  for (size_t k = 0; k < count; k++) sum += a[k] * b[k];
  return sum;
}

static ek_vf *slope_of(descent *s, size_t k) { return s->slopes + (k - s->first); }

static affine affine_of(const descent *s, size_t block, size_t group) {
  return (affine){vload(&s->rows->d[block][s->lane]) * vload(&s->rows->scale[group][s->lane]),
                  vload(&s->rows->dmin[block][s->lane]) * vload(&s->rows->minimum[group][s->lane])};
}

/* The errors of a group, as its block decodes. */
static void refresh(const descent *s, size_t block, size_t group) {
  const size_t size = (size_t)s->matrix->layout.format->group;
  const affine a = affine_of(s, block, group);
  for (size_t k = group * size; k < (group + 1) * size; k++) {
    const ek_vf decoded = a.scale * vload(&s->rows->levels[k][s->lane]) - a.minimum;
    s->errors[k] = decoded - vload(&s->rows->weights[k][s->lane]);
  }
}

/* Steps of two parameters a and b, which change the errors of `count` columns from `at` on by along and across. */
static void take_pair(descent *s, size_t at, size_t count, const ek_vf *along, const ek_vf *across, ek_parameter a,
                      ek_parameter b) {
  ek_vf h_along[EK_SUPERBLOCK], h_across[EK_SUPERBLOCK], *slopes = slope_of(s, at);
  memset(h_along, 0, count * sizeof *h_along);
  memset(h_across, 0, count * sizeof *h_across);
  add_products(s, at, count, along, at, count, h_along);
  if (s->matrix->layout.format->has_minima) add_products(s, at, count, across, at, count, h_across);
  const ek_quadratic q = {dot(along, slopes, count), dot(across, slopes, count), dot(along, h_along, count),
                          dot(across, h_along, count), dot(across, h_across, count)};
  const ek_pair step = pair_step(&q, &a, &b);
  s->moved |= (step.a != 0.0f) | (step.b != 0.0f);
  take_step(&a, step.a);
  take_step(&b, step.b);
  for (size_t k = 0; k < count; k++) slopes[k] += h_along[k] * step.a + h_across[k] * step.b;
}

/* d and dmin of a superblock. */
static void take_block(descent *s, size_t block, size_t groups) {
  const size_t size = (size_t)s->matrix->layout.format->group;
  ek_vf along[EK_SUPERBLOCK], across[EK_SUPERBLOCK];
  for (size_t i = 0; i < groups * size; i++) {
    const size_t g = block * groups + i / size;
    along[i] = vload(&s->rows->scale[g][s->lane]) * vload(&s->rows->levels[s->first + i][s->lane]);
    across[i] = -vload(&s->rows->minimum[g][s->lane]);
  }
  take_pair(s, s->first, groups * size, along, across, (ek_parameter){&s->rows->d[block][s->lane], .is_half = 1},
            (ek_parameter){&s->rows->dmin[block][s->lane], .is_half = 1});
  for (size_t g = 0; g < groups; g++) refresh(s, block, block * groups + g);
}

/* The scale and minimum of a group. */
static void take_group(descent *s, size_t block, size_t group) {
  const ek_layout *layout = &s->matrix->layout;
  const size_t size = (size_t)layout->format->group, at = group * size;
  ek_vf along[32], across[32];
  for (size_t i = 0; i < size; i++) {
    along[i] = vload(&s->rows->d[block][s->lane]) * vload(&s->rows->levels[at + i][s->lane]);
    across[i] = -vload(&s->rows->dmin[block][s->lane]);
  }
  take_pair(
      s, at, size, along, across,
      (ek_parameter){&s->rows->scale[group][s->lane], 0, (float)layout->scale_low, (float)layout->scale_high},
      (ek_parameter){&s->rows->minimum[group][s->lane], 0, (float)layout->minimum_low, (float)layout->minimum_high});
}

/* The codes of a group, one after the other: for each the level nearest to where the error has its minimum. */
static void take_codes(descent *s, size_t block, size_t group) {
  const ek_layout *layout = &s->matrix->layout;
  const size_t size = (size_t)layout->format->group, end = (group + 1) * size;
  const ek_vf scale = affine_of(s, block, group).scale;
  for (size_t k = group * size; k < end; k++) {
    const float h = hessian_at(s, k, k);
    if (!(h > 0)) continue;
    const ek_vf slope = *slope_of(s, k), now = vload(&s->rows->levels[k][s->lane]);
    const ek_vf level = nearest_level(layout, now - vratio(slope, scale * h));
    const ek_vf step = scale * (level - now), change = step * (slope + 0.5f * (step * h));
    const ek_vi better = change < 0.0f;
    vstore(&s->rows->levels[k][s->lane], vselect(better, level, now));
    const ek_vf taken = vselect(better, step, vf(0));
    for (size_t j = k + 1; j < end; j++) *slope_of(s, j) += hessian_at(s, k, j) * taken;
    s->moved |= better;
  }
}

/* H e in a superblock. `all` are `vectors` descents of the same matrix: a panel is read from memory once for all. */
static void measure_slopes(descent *all, int vectors, size_t block) {
  const size_t columns = all->matrix->columns, size = (size_t)all->matrix->layout.format->block;
  for (descent *s = all; s < all + vectors; s++) {
    s->first = block * size;
    memset(s->slopes, 0, size * sizeof *s->slopes);
  }
  for (size_t k = 0; k < size; k += EK_PANEL) {
    for (descent *s = all; s < all + vectors; s++) {
      add_product(panel_at(s, s->first + k, 0), s->errors, columns, s->slopes + k);
    }
  }
}

/* All that a superblock stores, given H e there. */
static void take_superblock(descent *s, size_t block) {
  const ek_layout *layout = &s->matrix->layout;
  const size_t size = (size_t)layout->format->group, groups = (size_t)layout->format->block / size;
  const size_t end = (block + 1) * groups * size;
  take_block(s, block, groups);
  for (size_t g = block * groups; g < (block + 1) * groups; g++) {
    const size_t at = g * size, next = at + size;
    ek_vf before[32], moved[32];
    memcpy(before, s->errors + at, size * sizeof *before);
    if (layout->scale_low != layout->scale_high) take_group(s, block, g);
    take_codes(s, block, g);
    refresh(s, block, g);
    for (size_t i = 0; i < size; i++) moved[i] = s->errors[at + i] - before[i];
    add_products(s, next, end - next, moved, at, size, slope_of(s, next));
  }
}

/* e^T H e of each lane. */
static void measure(descent *all, int vectors, double unit, double totals[EK_ROWS]) {
  const size_t block = (size_t)all->matrix->layout.format->block;
  ek_vd total[VECTORS] = {{0}};
  for (size_t b = 0; b < all->matrix->columns / block; b++) {
    measure_slopes(all, vectors, b);
    for (int v = 0; v < vectors; v++) {
      const descent *s = &all[v];
      for (size_t k = 0; k < block; k++) {
        total[v] +=
            __builtin_convertvector(s->slopes[k], ek_vd) * __builtin_convertvector(s->errors[s->first + k], ek_vd);
      }
    }
  }
  for (int r = 0; r < vectors * EK_WIDTH; r++) totals[r] = total[r / EK_WIDTH][r % EK_WIDTH] * unit;
}

/* Whether any lane took a step. */
static int sweep(descent *all, int vectors) {
  const size_t blocks = all->matrix->columns / (size_t)all->matrix->layout.format->block;
  for (int v = 0; v < vectors; v++) all[v].moved = (ek_vi){0};
  for (size_t b = 0; b < blocks; b++) {
    measure_slopes(all, vectors, b);
    for (int v = 0; v < vectors; v++) take_superblock(&all[v], b);
  }
  int moved = 0;
  for (int v = 0; v < vectors; v++) moved |= any(all[v].moved);
  return moved;
}

static void descend(descent *all, int vectors, int sweeps, double unit, double before[EK_ROWS], double after[EK_ROWS]) {
  const ek_format *format = all->matrix->layout.format;
  const size_t groups = all->matrix->columns / (size_t)format->group,
               in_block = (size_t)(format->block / format->group);
  for (int v = 0; v < vectors; v++) {
    for (size_t g = 0; g < groups; g++) refresh(&all[v], g / in_block, g);
  }
  measure(all, vectors, unit, before);
  while (sweeps-- > 0 && sweep(all, vectors)) continue;
  measure(all, vectors, unit, after);
}

ek_descend_fn EK_ISA_NAME(ek_descend);

int EK_ISA_NAME(ek_descend)(const ek_rounded *matrix, const float *hessian, double unit, int sweeps, size_t first,
                            size_t count, uint8_t *out, double *errors) {
  const ek_format *format = matrix->layout.format;
  const size_t row_bytes = matrix->columns / (size_t)format->block * (size_t)format->block_bytes;
  ek_rows rows;
  if (!ek_rows_allocate(matrix, &rows)) return 0;
  ek_vf *memory = aligned_alloc(sizeof *memory, VECTORS * matrix->columns * sizeof *memory);
  const int enough = memory != NULL;
  descent all[VECTORS];
  for (int v = 0; enough && v < VECTORS; v++) {
    all[v] = (descent){.matrix = matrix, .rows = &rows, .hessian = hessian, .lane = v * EK_WIDTH};
    all[v].errors = memory + (size_t)v * matrix->columns;
  }
  double before[EK_ROWS], after[EK_ROWS];
  for (size_t i = 0; enough && i < count; i += EK_ROWS) {
    const size_t here = count - i < EK_ROWS ? count - i : EK_ROWS;
    ek_rows_load(matrix, first + i, here, &rows);
    descend(all, ((int)here + EK_WIDTH - 1) / EK_WIDTH, sweeps, unit, before, after);
    for (size_t r = 0; r < here; r++) {
      /* Not so only where float32 cannot tell the steps from nothing. */
      const int lower = after[r] <= before[r];
      uint8_t *row = out + (i + r) * row_bytes;
      if (lower)
        ek_rows_store(matrix, &rows, r, row);
      else
        memcpy(row, matrix->blocks + (first + i + r) * row_bytes, row_bytes);
      errors[i + r] = lower ? after[r] : before[r];
    }
  }
  free(memory);
  ek_rows_free(&rows);
  return enough;
}
