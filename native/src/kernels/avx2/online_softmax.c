#include "../kernels.h"
#include "../vector/exp.h"

#include <math.h>

/* The largest score that is no NaN; one that is makes the sum NaN. */
static inline float most_of(const float *scores, size_t count, float maximum) {
  vf most = vf_set(maximum);
  for (size_t i = 0; i < count; i += EK_LANES) most = vf_max(vf_load(scores + i), most);
  return vf_most(most);
}

float ek_online_softmax_f32_avx2(float *scores, size_t count, float *maximum, float *sum, float *factor) {
  const float most = most_of(scores, count, *maximum);
  /* all masked out so far: -infinity less 0 gives weights of 0 */
  const vf less = vf_set(most == -INFINITY ? 0 : most);
  vf sums = vf_set(0);
  for (size_t i = 0; i < count; i += EK_LANES) {
    const vf e = ek_exp2_nonpositive(vf_load(scores + i) - less);
    vf_store(scores + i, e);
    sums = sums + e;
  }
  const float keep = most == -INFINITY ? 1 : _mm256_cvtss_f32(ek_exp2_nonpositive(vf_set(*maximum) - less));
  *maximum = most;
  *sum = *sum * keep + vf_sum(sums);
  *factor = 1;
  return keep;
}
