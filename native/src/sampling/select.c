/* The greatest of many logits, by the digits of their bits: the digit at which enough are above is found with a
 * histogram, then only those with that digit matter for the next one. */
#include "sampling/sampler.h"

#include <math.h>
#include <string.h>

enum { DIGITS = 3, MOST_BINS = 2048 };

static const struct digit {
  int shift, bins;
} digits[DIGITS] = {{21, 2048}, {10, 2048}, {0, 1024}};

static uint32_t key_of(const ek_candidate *c) { return (uint32_t)ek_order_of(c->logit) ^ 0x80000000u; }

/* What is kept: all above `key`, and the first `equals` with that key. */
typedef struct cut {
  uint32_t key;
  size_t equals;
} cut;

/* The greatest bin such that it and those above add up to `wanted`, or the last that has anything; *above: those above
 * it alone. */
static int crossing(const double *sums, int bins, double wanted, double *above) {
  int last = bins - 1;
  double before_last = *above;
  for (int b = bins - 1; b >= 0; b--) {
    if (sums[b] == 0) continue;
    last = b;
    before_last = *above;
    if (*above + sums[b] >= wanted) return b;
    *above += sums[b];
  }
  *above = before_last;
  return last;
}

/* Measures candidates by their weights, or each by 1; `wanted` is above 0 and at most the sum. */
static cut find_cut(const ek_candidate *candidates, size_t count, int by_weight, double wanted) {
  uint32_t key = 0;
  double above = 0, one = 1;
  size_t equals = 0;
  for (int d = 0; d < DIGITS; d++) {
    const int shift = digits[d].shift, bins = digits[d].bins;
    const uint32_t upper = (uint32_t)(~(uint64_t)0 << shift) & ~((uint32_t)(bins - 1) << shift);
    double sums[MOST_BINS] = {0};
    for (size_t i = 0; i < count; i++) {
      const uint32_t k = key_of(&candidates[i]);
      if (((k ^ key) & upper) == 0) sums[k >> shift & (uint32_t)(bins - 1)] += by_weight ? candidates[i].weight : 1;
    }
    key |= (uint32_t)crossing(sums, bins, wanted, &above) << shift;
  }
  for (size_t i = 0; i < count; i++) {
    if (key_of(&candidates[i]) != key) continue;
    if (by_weight) one = candidates[i].weight;
    equals++;
  }
  const double needed = one > 0 ? ceil((wanted - above) / one) : 1;
  if (needed < (double)equals) equals = needed < 1 ? 1 : (size_t)needed;
  return (cut){key, equals};
}

static size_t keep(ek_candidate *candidates, size_t count, cut c) {
  size_t kept = 0;
  for (size_t i = 0; i < count; i++) {
    const uint32_t k = key_of(&candidates[i]);
    if (k < c.key || (k == c.key && c.equals == 0)) continue;
    c.equals -= k == c.key;
    candidates[kept++] = candidates[i];
  }
  return kept;
}

size_t ek_keep_greatest(ek_candidate *candidates, size_t count, size_t most) {
  if (most >= count || most == 0) return most < count ? most : count;
  return keep(candidates, count, find_cut(candidates, count, 0, (double)most));
}

size_t ek_keep_mass(ek_candidate *candidates, size_t count, double mass) {
  return count == 0 ? 0 : keep(candidates, count, find_cut(candidates, count, 1, mass));
}
