/* One step of the online softmax: a level's online_softmax.c defines LEVEL and includes this. */
#include "../cost.h"
#include "../kernels.h"
#include "exp.h"

#include <math.h>

#define NAMED(level) ek_online_softmax_f32_##level
#define EXPANDED(level) NAMED(level)

/* Loops over vectors that are to stay in registers. */
#ifdef __clang__
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

/* Scores at once, where there are as many. */
enum { PASS = 32, BLOCK_VECTORS = EK_CACHE_BLOCK / EK_LANES };

/* log2 of the largest weight, 32503. Scores that are larger than LARGE are reduced before, because a difference to them
 * is too coarse. */
#define WEIGHT_BITS 0x1.dfap3f
#define LARGE 8192.0f

static inline void most_of(const float *scores, size_t count, vf most[4]) {
  UNROLL for (size_t i = 0; i < count; i += EK_LANES) {
    most[i / EK_LANES % 4] = vf_larger(most[i / EK_LANES % 4], vf_load(scores + i));
  }
}

/* NaN where one is. */
static inline float largest_of(const float *scores, size_t count) {
  vf most[4];
  UNROLL for (int i = 0; i < 4; i++) most[i] = vf_set(-INFINITY);
  size_t k = 0;
#pragma GCC unroll 1
  for (; k + 2 * PASS <= count; k += 2 * PASS) {
    EK_COST_BEGIN(online_softmax, EK_TYPE_f32, 2 * PASS);
    most_of(scores + k, 2 * PASS, most);
  }
  EK_COST_END(online_softmax, EK_TYPE_f32, 2 * PASS);
#pragma GCC unroll 1
  for (; k < count; k += EK_CACHE_BLOCK) {
    EK_COST_BEGIN(online_softmax, EK_TYPE_f32, 0);
    most_of(scores + k, EK_CACHE_BLOCK, most);
  }
  EK_COST_END(online_softmax, EK_TYPE_f32, 0);
  return vf_most(vf_larger(vf_larger(most[0], most[1]), vf_larger(most[2], most[3])));
}

/* 16 scores to weights, which take half the room. */
static inline vi weigh_16(const float *scores, vf centre, uint8_t *weights, vi sum) {
  vi rounded[BLOCK_VECTORS];
  UNROLL for (int i = 0; i < BLOCK_VECTORS; i++) {
    rounded[i] = vf_round(ek_exp2(vf_load(scores + i * EK_LANES) - centre));
    sum = vi_add(sum, rounded[i]);
  }
  vi_store_16(weights, rounded);
  return sum;
}

/* In place; returns the sum of the weights. */
static inline float weigh(float *scores, size_t count, float centre) {
  uint8_t *weights = (uint8_t *)scores;
  const vf centres = vf_set(centre);
  vi sum = (vi)vf_set(0);
  size_t k = 0;
#pragma GCC unroll 1
  for (; k + PASS <= count; k += PASS) {
    EK_COST_BEGIN(online_softmax, EK_TYPE_f32, PASS);
    sum = weigh_16(scores + k, centres, weights + 2 * k, sum);
    sum = weigh_16(scores + k + 16, centres, weights + 2 * k + 32, sum);
  }
  EK_COST_END(online_softmax, EK_TYPE_f32, PASS);
  if (k < count) sum = weigh_16(scores + k, centres, weights + 2 * k, sum);
  return (float)vi_sum(sum);
}

static inline float exp2_of(float x) {
  float all[EK_LANES];
  vf_store(all, ek_exp2(vf_set(x)));
  return all[0];
}

float EXPANDED(LEVEL)(float *scores, size_t count, float *maximum, float *sum, float *factor) {
  const float most = largest_of(scores, count), before = *maximum;
  *factor = 0;
  if (most == -INFINITY) { /* all masked out */
    memset(scores, 0, count * sizeof(int16_t));
    return 1;
  }
  const float after = most > before || isnan(most) ? most : before,
              keep = before == after ? 1 : exp2_of(before - after);
  *maximum = after;
  if (!isfinite(most)) { /* integers do not tell, so that the factor does */
    memset(scores, 0, count * sizeof(int16_t));
    *factor = *sum = NAN;
    return keep;
  }
  const float less = fabsf(most) < LARGE ? 0 : most, centre = most - less - WEIGHT_BITS;
  for (size_t i = 0; less != 0 && i < count; i++) scores[i] -= less;
  *factor = exp2_of(centre - (after - less));
  *sum = fmaf(*factor, weigh(scores, count, centre), *sum * keep);
  return keep;
}
