/* The scale d of a block of weights d * level: many tried, the best refitted, and kept as fp16 will store it. */
#ifndef EK_SCALE_SEARCH_H
#define EK_SCALE_SEARCH_H

#include "batch.h"

/* The level nearest to a. Given as a constant, so that the compiler builds a search for each. */
typedef ek_vf ek_nearest(ek_vf a);

/* The scales tried first: d = extreme / reach, where extreme is the largest size in the block and reach runs from
 * `reach` in `tries` steps of `ratio`. A reach below the largest level leaves levels unused, one above clips the
 * extreme. Wide enough for importance that is very uneven; close enough that refitting finds the optimum's basin
 * (measured against all fp16 scales: within 1 % of the least error for even importance). */
typedef struct ek_grid {
  float reach, ratio;
  int tries;      /* a multiple of EK_TOGETHER */
  int both_signs; /* the levels are not symmetric: -d may be better than d */
} ek_grid;

enum { EK_TOGETHER = 4, EK_REFITS = 2 };

/* Tries EK_TOGETHER inverse scales. For the levels that one rounds to, the best scale is sxl / sll, which lowers the
 * error from sum w x^2 by sxl^2 / sll. */
EK_INLINE void try_scales(const ek_batch *batch, int lane, int group, ek_nearest *nearest, const ek_vf *inverse,
                          ek_vf *most, ek_vf *best) {
  ek_vf sxl[EK_TOGETHER], sll[EK_TOGETHER];
  for (int c = 0; c < EK_TOGETHER; c++) sxl[c] = sll[c] = vf(0);
  for (int k = 0; k < group; k++) {
    const ek_vf x = vload(&batch->x[k][lane]), w = vload(&batch->w[k][lane]), wx = w * x;
    for (int c = 0; c < EK_TOGETHER; c++) {
      const ek_vf level = nearest(x * inverse[c]);
      sxl[c] += wx * level;
      sll[c] += w * level * level;
    }
  }
  for (int c = 0; c < EK_TOGETHER; c++) {
    const ek_vf fit = vratio(sxl[c], sll[c]), gain = fit * sxl[c];
    const ek_vi better = gain > *most;
    *most = vselect(better, gain, *most);
    *best = vselect(better, fit, *best);
  }
}

/* The weighted error with scale d, and the best scale for the levels that d rounds to. */
EK_INLINE ek_vf scale_error(const ek_batch *batch, int lane, int group, ek_nearest *nearest, ek_vf d, ek_vf *fit) {
  const ek_vf inverse = vratio(vf(1), d);
  ek_vf error = vf(0), slope = vf(0), sll = vf(0);
  for (int k = 0; k < group; k++) {
    const ek_vf x = vload(&batch->x[k][lane]), w = vload(&batch->w[k][lane]);
    const ek_vf level = nearest(x * inverse), e = x - d * level, we = w * e;
    error += we * e;
    slope += we * level;
    sll += w * level * level;
  }
  *fit = d + vratio(slope, sll);
  return error;
}

/* The largest size, of those weights that have importance where some have none. */
EK_INLINE ek_vf extreme_of(const ek_batch *batch, int lane, int group) {
  ek_vf extreme = vf(0), any = vf(0);
  for (int k = 0; k < group; k++) {
    const ek_vf size = vabs(vload(&batch->x[k][lane]));
    any = vmax(size, any);
    extreme = vmax(vselect(vload(&batch->w[k][lane]) > 0x1p-30f, size, vf(0)), extreme);
  }
  return vselect(extreme > 0.0f, extreme, any);
}

/* The best real scale that the grid leads to. */
EK_INLINE ek_vf coarse_scale(const ek_batch *batch, int lane, int group, ek_nearest *nearest, const ek_grid *grid) {
  const ek_vf extreme = extreme_of(batch, lane, group);
  ek_vf most = vf(0), best = vf(0), inverse[EK_TOGETHER];
  for (int side = 0; side <= grid->both_signs; side++) {
    float reach = side ? -grid->reach : grid->reach;
    for (int t = 0; t < grid->tries; t += EK_TOGETHER) {
      for (int c = 0; c < EK_TOGETHER; c++, reach *= grid->ratio) inverse[c] = vratio(vf(reach), extreme);
      try_scales(batch, lane, group, nearest, inverse, &most, &best);
    }
  }
  return best;
}

/* The fp16 scale of each of EK_WIDTH blocks from `lane` on. */
EK_INLINE ek_vf half_scale(const ek_batch *batch, int lane, int group, ek_nearest *nearest, const ek_grid *grid) {
  ek_vf fit, unused, best = vhalf(coarse_scale(batch, lane, group, nearest, grid));
  ek_vf least = scale_error(batch, lane, group, nearest, best, &fit);
  for (int t = 0; t < EK_REFITS + 2; t++) {
    /* two refits; then the neighbours, which matter where fp16 is coarse: subnormals */
    const ek_vf d = t < EK_REFITS ? vhalf(fit) : vhalf_next(best, t == EK_REFITS ? 1 : -1);
    const ek_vf error = scale_error(batch, lane, group, nearest, d, t < EK_REFITS ? &fit : &unused);
    const ek_vi better = error < least;
    least = vselect(better, error, least);
    best = vselect(better, d, best);
  }
  return best;
}

#endif
