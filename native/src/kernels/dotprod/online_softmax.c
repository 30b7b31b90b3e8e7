/* One step of the online softmax, to weights that are integers of 15 bits: `values` multiplies integers, and so is
 * spared the conversion. The largest weight is 32512, 127 / 128 of 2^15, which two signed bytes can hold; errors are at
 * most 5e-4 of a weight and half a unit.
 *
 * 2^(score - most) is 2^n 2^f, n an integer, |f| <= 1/2, of a score less the maximum in units of 2^-11: one addition of
 * a number of 2^12 both subtracts and rounds to that, and leaves it in the low bits. */
#include "../vector/exp.h"
#include "queries.h"

#include <math.h>

enum { FRACTION = 11 /* bits */, LARGEST = 32512, LOWEST = -16 /* below which weights are 0 */ };

/* Numbers from this to its 4/3 are 2^-11 apart. */
static const float magic = 0x1.8p12f;

/* LARGEST / 2 times 2^t. The polynomial is minimax, of error 1.01e-4. */
INLINE int16x8_t exp2_integer(int16x8_t t) {
  const int16x8_t f = vshlq_n_s16(t, 16 - FRACTION), n = vrshrq_n_s16(t, FRACTION); /* f in units of 2^-16 */
  int16x8_t p = vqrdmlahq_s16(vdupq_n_s16(984), vdupq_n_s16(112), f);
  p = vqrdmlahq_s16(vdupq_n_s16(5635), p, f);
  return vrshlq_s16(vqrdmlahq_s16(vdupq_n_s16(LARGEST / 2), p, f), n);
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

/* 16 scores to weights in place, which take half the room. */
INLINE int32x4_t weigh_16(const float *scores, float32x4_t shift, uint8_t *weights, int32x4_t sum) {
  int16x8_t w[2];
  UNROLL for (int i = 0; i < 2; i++) {
    int16x8_t t[2];
    UNROLL for (int j = 0; j < 2; j++) {
      const float32x4_t shifted = vaddq_f32(vld1q_f32(scores + 8 * i + 4 * j), shift);
      t[j] = vreinterpretq_s16_f32(vmaxq_f32(shifted, vdupq_n_f32(magic + LOWEST)));
    }
    w[i] = exp2_integer(vuzp1q_s16(t[0], t[1]));
  }
  UNROLL for (int i = 0; i < 2; i++) {
    vst1q_u8(weights + 16 * i, vreinterpretq_u8_s16(w[i]));
    sum = vpadalq_s16(sum, w[i]);
  }
  return sum;
}

/* Returns the sum of the weights. */
INLINE float weigh(float *scores, size_t count, float shift) {
  uint8_t *weights = (uint8_t *)scores;
  const float32x4_t shifts = vdupq_n_f32(shift);
  int32x4_t sum = vdupq_n_s32(0);
  size_t k = 0;
#pragma GCC unroll 1
  for (; k + 32 <= count; k += 32) {
    EK_COST_BEGIN(online_softmax, EK_TYPE_f32, 32);
    sum = weigh_16(scores + k, shifts, weights + 2 * k, sum);
    sum = weigh_16(scores + k + 16, shifts, weights + 2 * k + 32, sum);
  }
  EK_COST_END(online_softmax, EK_TYPE_f32, 32);
  if (k < count) sum = weigh_16(scores + k, shifts, weights + 2 * k, sum);
  return (float)vaddvq_s32(sum);
}

INLINE float exp2_of(float x) { return vgetq_lane_f32(ek_exp2_nonpositive(vdupq_n_f32(x)), 0); }

/* What is subtracted from the scores when `magic` is added. Where they are so large that this would round the sum to
 * more than 2^-11, all of them first. */
INLINE float subtracted_from(float *scores, size_t count, float most) {
  float less = 0;
  if (!(fabsf(most) < 8192)) {
    for (size_t i = 0; i < count; i++) scores[i] -= most;
    less = most;
  }
  return less;
}

float ek_online_softmax_f32_dotprod(float *scores, size_t count, float *maximum, float *sum, float *factor) {
  const float most = largest_of(scores, count), before = *maximum;
  *factor = 0;
  if (most == -INFINITY) { /* all masked out */
    memset(scores, 0, count * sizeof(int16_t));
    return 1;
  }
  const float after = most > before || isnan(most) ? most : before,
              keep = before == after ? 1 : exp2_of(before - after);
  const float less = subtracted_from(scores, count, most);
  const float shift = magic + 1 - (most - less), centre = magic + 1 - shift + less; /* nearly `most` */
  *maximum = after;
  /* not finite where a score is not: the integers do not tell */
  *factor = exp2_of(centre - after) / LARGEST + 0 * most;
  *sum = *sum * keep + *factor * weigh(scores, count, shift);
  return keep;
}
