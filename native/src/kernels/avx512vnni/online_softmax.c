/* One step of the online softmax. A weight is 2^(score - most), most that of these scores: the largest is 1, as
 * `values` takes it. */
#include "../kernels.h"
#include "../vector/exp.h"

#include <math.h>

static float exp2_of(float x) { return _mm512_cvtss_f32(ek_exp2_nonpositive(vf_set(x))); }

float ek_online_softmax_f32_avx512vnni(float *scores, size_t count, float *maximum, float *sum, float *factor) {
  vf largest = vf_set(-INFINITY);
  /* NaN is passed over here, and makes the sum of the weights NaN */
  for (size_t k = 0; k < count; k += EK_LANES) largest = vf_max(vf_load(scores + k), largest);
  const float most = vf_most(largest), before = *maximum, after = most > before ? most : before;
  /* all masked out: -infinity less 0 gives weights of 0 */
  const vf less = vf_set(most == -INFINITY ? 0 : most);
  vf total = vf_set(0);
  for (size_t k = 0; k < count; k += EK_LANES) {
    const vf weights = ek_exp2_nonpositive(vf_load(scores + k) - less);
    vf_store(scores + k, weights);
    total = total + weights;
  }
  const float keep = before == after ? 1 : exp2_of(before - after);
  *factor = most == after ? 1 : exp2_of(most - after);
  *maximum = after;
  *sum = *sum * keep + *factor * vf_sum(total);
  return keep;
}
