/* Scale d and minimum m of a group of 32 weights d * q - m, q in 0 .. top: many ends of the range tried, the best
 * refitted. */
#ifndef EK_AFFINE_SEARCH_H
#define EK_AFFINE_SEARCH_H

#include "batch.h"

/* The codes' range is tried from lowest + a * width to highest - b * width, where width is highest - lowest, for all
 * pairs of a, b among first, first + step, ... (`ends` of them). The more codes, the closer the optima. Found by trial
 * against a dense search: ten ends come within 1 % of the least error for 16 codes, and twelve within 2 % for 32. */
typedef struct ek_ends {
  float first, step;
  int ends; /* an even number */
  float top;
} ek_ends;

enum { EK_PAIRS = 4 };

typedef struct ek_affine {
  ek_vf d, m;
} ek_affine;

/* What a group is, whatever its codes. */
typedef struct ek_group {
  ek_vf lowest, width; /* of the weights that matter */
  ek_vf total, mean;   /* sum of w, and the weighted mean */
} ek_group;

EK_INLINE ek_group group_of(const ek_batch *batch, int lane) {
  ek_vf low = vf(0x1p31f), high = vf(-0x1p31f), total = vf(0), sum = vf(0);
  for (int k = 0; k < 32; k++) {
    const ek_vf x = vload(&batch->x[k][lane]), w = vload(&batch->w[k][lane]);
    const ek_vi counts = w > 0x1p-30f;
    low = vselect(counts, vmin(x, low), low);
    high = vselect(counts, vmax(x, high), high);
    total += w;
    sum += w * x;
  }
  const ek_vi empty = low > high;
  return (ek_group){vselect(empty, vf(0), low), vselect(empty, vf(0), high - low), total, sum / total};
}

/* Tries EK_PAIRS code grids q = inverse * (x - mean) + offset. With weighted sums about the mean, the best d is cov /
 * var and lowers the error from that of a constant by cov^2 / var; m follows. Where m must not be negative and would
 * be, it is 0. */
EK_INLINE void try_ends(const ek_batch *batch, int lane, const ek_group *g, float top, int positive,
                        const ek_vf *inverse, const ek_vf *offset, ek_vf *most, ek_affine *best) {
  ek_vf sxq[EK_PAIRS], sq[EK_PAIRS], sqq[EK_PAIRS];
  for (int c = 0; c < EK_PAIRS; c++) sxq[c] = sq[c] = sqq[c] = vf(0);
  for (int k = 0; k < 32; k++) {
    const ek_vf x = vload(&batch->x[k][lane]) - g->mean, w = vload(&batch->w[k][lane]), wx = w * x;
    for (int c = 0; c < EK_PAIRS; c++) {
      const ek_vf q = vcode(x * inverse[c] + offset[c], 0, top), wq = w * q;
      sxq[c] += wx * q;
      sq[c] += wq;
      sqq[c] += wq * q;
    }
  }
  for (int c = 0; c < EK_PAIRS; c++) {
    const ek_vf centre = sq[c] / g->total, var = sqq[c] - centre * sq[c];
    const ek_vf safe = vselect(var > sqq[c] * 0x1p-18f, var, vf(0));
    ek_vf d = vratio(sxq[c], safe), gain = d * sxq[c], m = d * centre - g->mean;
    if (positive) {
      const ek_vf sum = sxq[c] + g->mean * sq[c], d0 = vratio(sum, sqq[c]);
      const ek_vf gain0 = d0 * sum - g->total * g->mean * g->mean;
      const ek_vi below = m < 0.0f;
      d = vselect(below, d0, d);
      gain = vselect(below, gain0, gain);
      m = vselect(below, vf(0), m);
    }
    const ek_vi better = gain > *most;
    *most = vselect(better, gain, *most);
    best->d = vselect(better, d, best->d);
    best->m = vselect(better, m, best->m);
  }
}

/* The best real d and m that the ends lead to. `positive`: m >= 0. */
EK_INLINE ek_affine coarse_affine(const ek_batch *batch, int lane, const ek_group *group, const ek_ends *tried,
                                  int positive) {
  ek_group g = *group;
  if (positive) { /* codes start at or below zero */
    const ek_vf low = vmin(g.lowest, vf(0));
    g.width = g.width + (g.lowest - low);
    g.lowest = low;
  }
  ek_affine best = {vf(0), -g.mean};
  ek_vf most = vf(0);
  if (positive) {
    best.m = vmax(best.m, vf(0));
    most = vselect(g.mean > 0.0f, -g.total * g.mean * g.mean, vf(0));
  }
  ek_vf inverse[EK_PAIRS], offset[EK_PAIRS];
  for (int i = 0; i < tried->ends * tried->ends; i += EK_PAIRS) {
    for (int c = 0; c < EK_PAIRS; c++) {
      const float a = tried->first + tried->step * (float)((i + c) / tried->ends);
      const float b = tried->first + tried->step * (float)((i + c) % tried->ends);
      inverse[c] = vratio(vf(tried->top / (1 - a - b)), g.width);
      offset[c] = (g.mean - (g.lowest + a * g.width)) * inverse[c];
    }
    try_ends(batch, lane, &g, tried->top, positive, inverse, offset, &most, &best);
  }
  return best;
}

/* Weighted sums of what is left, e = x - (d q - m), with the codes that d and m round to. */
typedef struct ek_left {
  ek_vf error;        /* sum w e^2 */
  ek_vf e, eq, q, qq; /* sums of w e, w e q, w q, w q^2 */
} ek_left;

EK_INLINE ek_left affine_left(const ek_batch *batch, int lane, float top, ek_affine a) {
  const ek_vf inverse = vratio(vf(1), a.d);
  ek_left s = {vf(0), vf(0), vf(0), vf(0), vf(0)};
  for (int k = 0; k < 32; k++) {
    const ek_vf x = vload(&batch->x[k][lane]) + a.m, w = vload(&batch->w[k][lane]);
    const ek_vf q = vcode(x * inverse, 0, top), e = x - a.d * q, we = w * e, wq = w * q;
    s.error += we * e;
    s.e += we;
    s.eq += we * q;
    s.q += wq;
    s.qq += wq * q;
  }
  return s;
}

/* The best d and m for those codes. */
EK_INLINE ek_affine affine_fit(const ek_group *g, const ek_left *s, ek_affine a, int positive) {
  const ek_vf centre = s->q / g->total, var = s->qq - centre * s->q;
  const ek_vf safe = vselect(var > s->qq * 0x1p-18f, var, vf(0));
  const ek_vf step = vratio(s->eq - centre * s->e, safe);
  ek_affine fit = {a.d + step, a.m - (s->e / g->total - step * centre)};
  if (positive) {
    const ek_vi below = fit.m < 0.0f;
    /* with m at 0 the residual is e - a.m, since e was taken with m */
    const ek_vf alone = a.d + vratio(s->eq - a.m * s->q, s->qq);
    fit.d = vselect(below, alone, fit.d);
    fit.m = vselect(below, vf(0), fit.m);
  }
  return fit;
}

#endif
