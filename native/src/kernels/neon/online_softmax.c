/* One step of the online softmax. A weight is 2^(score - most), most that of these scores: the largest is 1, as
 * `values` takes it. */
#include "../vector/exp.h"
#include "queries.h"

#include <math.h>

enum { PASS = 32 }; /* scores at once, where there are as many */

INLINE vf most_of(const float *scores, int count) {
  vf most[4];
  UNROLL for (int i = 0; i < 4; i++) most[i] = vf_load(scores + 4 * i);
  UNROLL for (int i = 4; i < count / EK_LANES; i++) most[i % 4] = vf_max(most[i % 4], vf_load(scores + 4 * i));
  return vf_max(vf_max(most[0], most[1]), vf_max(most[2], most[3]));
}

INLINE vf weigh(float *scores, int count, vf most, vf sum) {
  UNROLL for (int i = 0; i < count; i += EK_LANES) {
    const vf weights = ek_exp2_nonpositive(vf_load(scores + i) - most);
    vf_store(scores + i, weights);
    sum = sum + weights;
  }
  return sum;
}

INLINE float largest_of(const float *scores, size_t count) {
  vf most = vf_set(-INFINITY);
  size_t k = 0;
#pragma GCC unroll 1
  for (; k + 2 * PASS <= count; k += 2 * PASS) {
    EK_COST_BEGIN(online_softmax, EK_TYPE_f32, 2 * PASS);
    most = vf_max(most, most_of(scores + k, 2 * PASS));
  }
  EK_COST_END(online_softmax, EK_TYPE_f32, 2 * PASS);
#pragma GCC unroll 1
  for (; k < count; k += EK_CACHE_BLOCK) {
    EK_COST_BEGIN(online_softmax, EK_TYPE_f32, 0);
    most = vf_max(most, most_of(scores + k, EK_CACHE_BLOCK));
  }
  EK_COST_END(online_softmax, EK_TYPE_f32, 0);
  return vf_most(most);
}

/* Weights in place; returns their sum. */
INLINE float weigh_all(float *scores, size_t count, float most) {
  const vf centre = vf_set(most);
  vf sum = vf_set(0);
  size_t k = 0;
#pragma GCC unroll 1
  for (; k + PASS <= count; k += PASS) {
    EK_COST_BEGIN(online_softmax, EK_TYPE_f32, PASS);
    sum = weigh(scores + k, PASS, centre, sum);
  }
  EK_COST_END(online_softmax, EK_TYPE_f32, PASS);
  if (k < count) sum = weigh(scores + k, EK_CACHE_BLOCK, centre, sum);
  return vf_sum(sum);
}

static float exp2_of(float x) { return vf_most(ek_exp2_nonpositive(vf_set(x))); }

float ek_online_softmax_f32_neon(float *scores, size_t count, float *maximum, float *sum, float *factor) {
  const float most = largest_of(scores, count), before = *maximum;
  *factor = 0;
  if (most == -INFINITY) { /* all masked out */
    memset(scores, 0, count * sizeof *scores);
    return 1;
  }
  const float after = most > before || isnan(most) ? most : before;
  const float keep = before == after ? 1 : exp2_of(before - after);
  *maximum = after;
  *factor = most == after ? 1 : exp2_of(most - after);
  *sum = *sum * keep + *factor * weigh_all(scores, count, most);
  return keep;
}
