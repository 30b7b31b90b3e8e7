/* A step of two parameters that go together, a scale and a minimum, on their grid. */
#ifndef EK_PAIR_STEP_H
#define EK_PAIR_STEP_H

#include "../encode/lanes.h"

/* The error's slope along both parameters, and half of its second derivatives: a step (a, b) changes e^T H e / 2 by
 * slope_a a + slope_b b + (aa a^2 + 2 ab a b + bb b^2) / 2. */
typedef struct ek_quadratic {
  ek_vf slope_a, slope_b, aa, ab, bb;
} ek_quadratic;

/* A parameter of EK_WIDTH rows, and what it can be: fp16, or the integers low .. high. */
typedef struct ek_parameter {
  float *at;
  int is_half;
  float low, high;
} ek_parameter;

typedef struct ek_pair {
  ek_vf a, b;
} ek_pair;

static inline ek_vf change_of(const ek_quadratic *q, ek_vf a, ek_vf b) {
  const ek_vf along_a = q->slope_a + 0.5f * (q->aa * a) + q->ab * b;
  return a * along_a + b * (q->slope_b + 0.5f * (q->bb * b));
}

static inline ek_vf nearest_value(const ek_parameter *p, ek_vf value) {
  return p->is_half ? vhalf(value) : vcode(value, p->low, p->high);
}

/* A step of about `step` that stays on the grid; none for a NaN. */
static inline ek_vf on_grid(const ek_parameter *p, ek_vf step) {
  const ek_vf now = vload(p->at);
  return nearest_value(p, now + vselect(step == step, step, vf(0))) - now;
}

static inline void take_step(const ek_parameter *p, ek_vf step) {
  const ek_vf now = vload(p->at);
  /* rounded once more: a difference of fp16 values is not exact */
  vstore(p->at, vselect(step != 0.0f, nearest_value(p, now + step), now));
}

/* The best of: both parameters, where the first goes to the grid and the second follows it; one of them alone; none. */
static inline ek_pair pair_step(const ek_quadratic *q, const ek_parameter *a, const ek_parameter *b) {
  const ek_vi flat_a = ~(q->aa > 0.0f), flat_b = ~(q->bb > 0.0f);
  const ek_vf per_a = vselect(flat_a, vf(0), 1.0f / q->aa), per_b = vselect(flat_b, vf(0), 1.0f / q->bb);
  const ek_vf det = q->aa * q->bb - q->ab * q->ab;
  const ek_vf safe = vselect(det > 1e-6f * (q->aa * q->bb), det, vf(0));
  ek_pair tried[3];
  tried[0].a = on_grid(a, vratio(q->slope_b * q->ab - q->slope_a * q->bb, safe));
  tried[0].b = on_grid(b, -(q->slope_b + q->ab * tried[0].a) * per_b);
  tried[1] = (ek_pair){on_grid(a, -q->slope_a * per_a), vf(0)};
  tried[2] = (ek_pair){vf(0), on_grid(b, -q->slope_b * per_b)};
  ek_pair best = {vf(0), vf(0)};
  ek_vf least = vf(0);
  for (int t = 0; t < 3; t++) {
    const ek_vf change = change_of(q, tried[t].a, tried[t].b);
    const ek_vi better = change < least;
    least = vselect(better, change, least);
    best.a = vselect(better, tried[t].a, best.a);
    best.b = vselect(better, tried[t].b, best.b);
  }
  return best;
}

#endif
