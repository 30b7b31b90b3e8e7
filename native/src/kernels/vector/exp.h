/* exp of a vector of floats, within 2.5e-7 of its value.
 *
 * exp(x) = 2^n exp(f) with n = round(x / ln 2), |f| <= ln 2 / 2; exp(f) is 1 + f + f^2 p(f), p minimax (by Remez, for
 * the relative error, which is 1.05e-7). Adding 1.5 2^23 rounds to an integer in the low bits; a bias in the same
 * number makes them the exponent of 2^n when shifted into place, and 0 itself at the lower end, so that what is clamped
 * there becomes exactly 0. NaN stays NaN: vf_max and vf_min keep that of their second argument, a product any. */
#ifndef EK_EXP_H
#define EK_EXP_H

#include "vector.h"

/* 2^-bias exp(x) for x of which n + bias is 0 .. 254. */
static inline vf ek_exp_biased(vf x, float bias) {
  const vf magic = vf_set(12582912.0f + bias);
  const vf t = vf_fma(x, vf_set(1.44269504f), magic), n = t - magic;
  const vf f = vf_fma(n, vf_set(2.12194440e-4f), vf_fma(n, vf_set(-0.693359375f), x)); /* the first product is exact */
  vf p = vf_fma(f, vf_set(0x1.10625p-7f), vf_set(0x1.572a64p-5f));
  p = vf_fma(f, p, vf_set(0x1.5557bp-3f));
  p = vf_fma(f, p, vf_set(0x1.fffdfcp-2f));
  p = vf_fma(f * f, p, f) + vf_set(1.0f);
  typedef uint32_t bits __attribute__((vector_size(sizeof(vf))));
  return p * (vf)((bits)t << 23);
}

/* x <= 0 or NaN; exactly 0 below -87.68. The one for softmax, where x is a score less the maximum. */
static inline vf ek_exp_nonpositive(vf x) { return ek_exp_biased(vf_max(vf_set(-88.0f), x), 127.0f); }

/* 2^x for x <= 127 or NaN, within 2e-7 of its value; exactly 0 below -126.5. The one for attention, whose scores are in
 * base 2: no product rounds the fraction. Error of the polynomial: 9.1e-8. */
static inline vf ek_exp2(vf x) {
  const vf magic = vf_set(12582912.0f + 127.0f), y = vf_max(vf_set(-127.0f), x), t = y + magic, f = y - (t - magic);
  const vf square = f * f, low = vf_fma(f, vf_set(0x1.ebf9bcp-3f), vf_set(0x1.62e42ap-1f));
  const vf high = vf_fma(square, vf_set(0x1.5bb9dp-10f), vf_fma(f, vf_set(0x1.3cea88p-7f), vf_set(0x1.c6b754p-5f)));
  typedef uint32_t bits __attribute__((vector_size(sizeof(vf))));
  const vf power = (vf)((bits)t << 23);
  return vf_fma(power * f, vf_fma(square, high, low), power);
}

/* Any x; exactly 0 below -86.99, infinity above 88.73. */
static inline vf ek_exp(vf x) {
  const vf within = vf_min(vf_set(89.0f), vf_max(vf_set(-87.2f), x));
  return ek_exp_biased(within, 126.0f) * vf_set(2.0f);
}

#endif
