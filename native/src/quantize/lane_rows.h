/* One row per vector lane: what compensate.c and descend.c share. They are compiled once for each instruction set, as
 * the encoders are (encode/lanes.h), and give the same bytes: every sum runs over the columns in their order. */
#ifndef EK_LANE_ROWS_H
#define EK_LANE_ROWS_H

#include "../encode/iq4_nl_levels.h"
#include "quantize.h"

/* sums[c] += sum over j of panel[j][c] * x[j], in the order of j; `x` (count), `panel` (count, EK_PANEL). */
static inline void add_product(const float *panel, const ek_vf *x, size_t count, ek_vf *sums) {
  ek_vf sum[EK_PANEL];
  for (int c = 0; c < EK_PANEL; c++) sum[c] = sums[c];
  for (size_t j = 0; j < count; j++) {
    for (int c = 0; c < EK_PANEL; c++) sum[c] += panel[j * EK_PANEL + (size_t)c] * x[j];
  }
  for (int c = 0; c < EK_PANEL; c++) sums[c] = sum[c];
}

/* The level nearest to a that a code can have. */
static inline ek_vf nearest_level(const ek_layout *layout, ek_vf a) {
  return layout->format->levels ? iq4_nl_nearest(a) : vcode(a, (float)layout->low, (float)layout->high);
}

#endif
