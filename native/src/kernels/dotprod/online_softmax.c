/* One step of the online softmax. Weights are half and made in half precision, within 2^-8 of their value and mostly
 * far less: they go on to be factors of products of that precision.
 *
 * A weight is 16256 2^(score - most), most that of these scores. 16256 is 127 / 128 of 2^14, so that even times a
 * number below 2 it can be taken apart into two signed bytes; the smallest normal half, 2^-14, is 2^-28 of it. */
#include "../vector/exp.h"
#include "queries.h"

#include <math.h>

static const float largest = 16256.0f, lowered = 0x1.72c7bap-7f; /* log2(2^14 / largest) */

/* 2^(x + 14), x <= 0; exactly 0 below -28.5. By 2^(n + f), n an integer: adding 1.5 2^10 rounds to one, and a bias
 * in the same number makes its low bits the exponent of 2^(n + 14). The polynomial is minimax, of error 1.01e-4. */
INLINE float16x8_t exp2_half(float16x8_t x) {
  enum { BIAS = 14 + 15 };
  const float16x8_t magic = vdupq_n_f16((float16_t)(1536 + BIAS));
  const float16x8_t y = vmaxq_f16(x, vdupq_n_f16(-(float16_t)BIAS));
  const float16x8_t t = vaddq_f16(y, magic), f = vsubq_f16(y, vsubq_f16(t, magic));
  const float16x8_t power = vreinterpretq_f16_s16(vshlq_n_s16(vreinterpretq_s16_f16(t), 10));
  float16x8_t p = vfmaq_f16(vdupq_n_f16((float16_t)2.42210975e-1f), f, vdupq_n_f16((float16_t)5.50090578e-2f));
  p = vfmaq_f16(vdupq_n_f16((float16_t)6.93282898e-1f), f, p);
  return vfmaq_f16(power, vmulq_f16(power, f), p);
}

INLINE void most_of_16(const float *scores, float32x4_t most[4]) {
  UNROLL for (int i = 0; i < 4; i++) most[i] = vmaxq_f32(most[i], vld1q_f32(scores + 4 * i));
}

INLINE float largest_of(const float *scores, size_t count) {
  float32x4_t most[4];
  for (int i = 0; i < 4; i++) most[i] = vdupq_n_f32(-INFINITY);
  size_t k = 0;
#pragma GCC unroll 1
  for (; k + 64 <= count; k += 64) {
    EK_COST_BEGIN(online_softmax, EK_TYPE_f32, 64);
    UNROLL for (size_t i = 0; i < 64; i += 16) most_of_16(scores + k + i, most);
  }
  EK_COST_END(online_softmax, EK_TYPE_f32, 64);
#pragma GCC unroll 1
  for (; k < count; k += 16) {
    EK_COST_BEGIN(online_softmax, EK_TYPE_f32, 0);
    most_of_16(scores + k, most);
  }
  EK_COST_END(online_softmax, EK_TYPE_f32, 0);
  return vmaxvq_f32(vmaxq_f32(vmaxq_f32(most[0], most[1]), vmaxq_f32(most[2], most[3])));
}

/* 16 scores to weights in place, which take half the room. Returns their sums by pairs, below 2^15. */
INLINE float16x8_t weigh_16(const float *scores, float32x4_t centre, uint8_t *weights) {
  float16x8_t w[2];
  UNROLL for (int i = 0; i < 2; i++) {
    const float16x4_t low = vcvt_f16_f32(vsubq_f32(vld1q_f32(scores + 8 * i), centre));
    w[i] = exp2_half(vcvt_high_f16_f32(low, vsubq_f32(vld1q_f32(scores + 8 * i + 4), centre)));
  }
  UNROLL for (int i = 0; i < 2; i++) vst1q_u8(weights + 16 * i, vreinterpretq_u8_f16(w[i]));
  return vaddq_f16(w[0], w[1]);
}

INLINE void add_halves(float16x8_t x, float32x4_t sums[2]) {
  sums[0] = vaddq_f32(sums[0], vcvt_f32_f16(vget_low_f16(x)));
  sums[1] = vaddq_f32(sums[1], vcvt_high_f32_f16(x));
}

/* Returns the sum of the weights. */
INLINE float weigh(float *scores, size_t count, float most) {
  uint8_t *weights = (uint8_t *)scores;
  const float32x4_t centre = vdupq_n_f32(most + lowered);
  float32x4_t sums[2] = {vdupq_n_f32(0), vdupq_n_f32(0)};
  size_t k = 0;
#pragma GCC unroll 1
  for (; k + 32 <= count; k += 32) {
    EK_COST_BEGIN(online_softmax, EK_TYPE_f32, 32);
    const float16x8_t first = weigh_16(scores + k, centre, weights + 2 * k);
    add_halves(vaddq_f16(first, weigh_16(scores + k + 16, centre, weights + 2 * k + 32)),
               sums); /* half's limit is 65504 */
  }
  EK_COST_END(online_softmax, EK_TYPE_f32, 32);
  if (k < count) add_halves(weigh_16(scores + k, centre, weights + 2 * k), sums);
  return vaddvq_f32(vaddq_f32(sums[0], sums[1]));
}

INLINE float exp2_of(float x) { return vgetq_lane_f32(ek_exp2_nonpositive(vdupq_n_f32(x)), 0); }

float ek_online_softmax_f32_dotprod(float *scores, size_t count, float *maximum, float *sum, float *factor) {
  const float most = largest_of(scores, count), before = *maximum;
  *factor = 0;
  if (most == -INFINITY) { /* all masked out */
    memset(scores, 0, count * sizeof(float16_t));
    return 1;
  }
  const float after = most > before || isnan(most) ? most : before,
              keep = before == after ? 1 : exp2_of(before - after);
  *maximum = after;
  *factor = (most == after ? 1 : exp2_of(most - after)) / largest;
  *sum = *sum * keep + *factor * weigh(scores, count, most);
  return keep;
}
