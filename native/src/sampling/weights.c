/* e to powers, in steps that compilers turn into vectors, and that are rounded alike on every machine. */
#include "sampling/sampler.h"

#include <math.h>
#include <string.h>

enum { CHUNK = 64 };

/* x = n ln 2 + r with |r| <= ln 2 / 2; n times the upper part of ln 2 is exact. Adding SHIFT rounds to a whole number,
 * which then is in the lowest bits. At -709 n is -1023, and the bits of 2^n are those of 0. */
void ek_exps(double *x, size_t count) {
  static const double SHIFT = 0x1.8p52;
  for (size_t i = 0; i < count; i++) {
    const double power = x[i] > -709 ? x[i] : -709;
    const double shifted = power * 1.4426950408889634 + SHIFT, n = shifted - SHIFT;
    const double r = power - n * 0x1.62e42fee00000p-1 - n * 0x1.a39ef35793c76p-33;
    double sum = 1.0 / 479001600, two_to_n;
    sum = sum * r + 1.0 / 39916800;
    sum = sum * r + 1.0 / 3628800;
    sum = sum * r + 1.0 / 362880;
    sum = sum * r + 1.0 / 40320;
    sum = sum * r + 1.0 / 5040;
    sum = sum * r + 1.0 / 720;
    sum = sum * r + 1.0 / 120;
    sum = sum * r + 1.0 / 24;
    sum = sum * r + 1.0 / 6;
    sum = sum * r + 1.0 / 2;
    sum = sum * r + 1;
    sum = sum * r + 1;
    uint64_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    bits = (bits << 52) + ((uint64_t)1023 << 52);
    memcpy(&two_to_n, &bits, sizeof two_to_n);
    x[i] = sum * two_to_n;
  }
}

double ek_weigh(ek_candidate *candidates, size_t count, float best, float temperature) {
  double sum = 0;
  for (size_t done = 0; done < count; done += CHUNK) {
    double x[CHUNK];
    const size_t n = count - done < CHUNK ? count - done : CHUNK;
    for (size_t i = 0; i < n; i++) x[i] = ((double)candidates[done + i].logit - (double)best) / (double)temperature;
    ek_exps(x, n);
    for (size_t i = 0; i < n; i++) sum += candidates[done + i].weight = x[i];
  }
  return sum;
}

double ek_weight_of(const float *logits, size_t count, float best, float temperature) {
  double sums[4] = {0};
  for (size_t done = 0; done < count; done += CHUNK) {
    double x[CHUNK] = {0};
    const size_t n = count - done < CHUNK ? count - done : CHUNK;
    for (size_t i = 0; i < n; i++) x[i] = ((double)logits[done + i] - (double)best) / (double)temperature;
    ek_exps(x, n);
    for (size_t i = 0; i < CHUNK; i += 4) {
      for (size_t j = 0; j < 4; j++) sums[j] += x[i + j];
    }
  }
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}
