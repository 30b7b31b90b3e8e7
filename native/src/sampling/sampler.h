/* Choosing tokens: what ek_sampler_* of edgekit.h is made of. */
#ifndef EK_SAMPLER_H
#define EK_SAMPLER_H

#include "error.h"

#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ek_candidate {
  int32_t token;
  float logit;   /* after the repetition penalty */
  double weight; /* its probability times the sum of all weights */
} ek_candidate;

uint32_t ek_sampler_vocab(const ek_sampler *sampler);

/* What ek_sampler_choose draws from: the tokens that are left, in the order of their numbers. They stay valid until the
 * sampler's next call. The same failures. */
ek_status ek_sampler_distribution(ek_sampler *sampler, const float *logits, const ek_candidate **candidates,
                                  size_t *count);

/* ---- selection without sorting, in time proportional to count */

/* An integer that is ordered as floats are; -0 is 0. Its magnitude (~ of it where it is negative) is beyond infinity's
 * for NaN. */
static inline int32_t ek_order_of(float value) {
  int32_t bits;
  value += 0.0f; /* -0 becomes 0 */
  memcpy(&bits, &value, sizeof bits);
  return bits ^ (bits >> 31 & 0x7fffffff);
}

/* The float of an order. */
static inline float ek_ordered(int32_t order) {
  float value;
  order ^= order >> 31 & 0x7fffffff;
  memcpy(&value, &order, sizeof value);
  return value;
}

/* Keeps the `most` greatest logits, in their order; of equal ones the first. Returns how many that is. */
size_t ek_keep_greatest(ek_candidate *candidates, size_t count, size_t most);

/* Keeps the smallest set of greatest logits whose weights, which have to be ordered as the logits are, add up to at
 * least `mass`; at least one. */
size_t ek_keep_mass(ek_candidate *candidates, size_t count, double mass);

/* ---- weights: e^((logit - best) / temperature); best: the greatest logit */

/* x <= 0 become e to their power, to 4e-16 relative and the same on every machine; 0 below -708.7. */
void ek_exps(double *x, size_t count);

/* Sets the candidates' weights; returns their sum. */
double ek_weigh(ek_candidate *candidates, size_t count, float best, float temperature);

/* The sum of the weights alone. */
double ek_weight_of(const float *logits, size_t count, float best, float temperature);

#ifdef __cplusplus
}
#endif

#endif
