/* The operations between the products in vectors of any length: a level's elementwise.c defines LEVEL and includes
 * this. The last values of a count that is no multiple of the vector are copied out, so nothing beyond is touched. */
#include "../kernels.h"
#include "exp.h"

#include <math.h>

#define NAMED(op, level) ek_##op##_f32_##level
#define EXPANDED(op, level) NAMED(op, level)
#define FUNCTION(op) EXPANDED(op, LEVEL)

/* out[i] = of(a[i], b[i]); inlined with `of` constant. out may be a or b. */
static inline __attribute__((always_inline)) void each(const float *a, const float *b, size_t count, vf of(vf, vf),
                                                       float *out) {
  size_t i = 0;
  for (; i + EK_LANES <= count; i += EK_LANES) vf_store(out + i, of(vf_load(a + i), vf_load(b + i)));
  if (i < count) {
    const vf x = vf_load_some(a + i, count - i, 0), y = vf_load_some(b + i, count - i, 0);
    vf_store_some(out + i, of(x, y), count - i);
  }
}

static inline vf silu_times(vf gate, vf up) { return gate / (ek_exp(-gate) + vf_set(1)) * up; }

/* As the oracle's: g / (1 + exp(-2 u)). */
static inline vf gelu_times(vf gate, vf up) {
  const vf cubic = vf_fma(gate * gate, vf_set(2 * -0.0356774081363f), vf_set(2 * -0.7978845608029f));
  return gate / (ek_exp(cubic * gate) + vf_set(1)) * up;
}

void FUNCTION(swiglu)(const float *gate, const float *up, size_t count, float *out) {
  each(gate, up, count, silu_times, out);
}

void FUNCTION(geglu)(const float *gate, const float *up, size_t count, float *out) {
  each(gate, up, count, gelu_times, out);
}

void FUNCTION(rms_norm)(const float *x, const float *weight, size_t count, float epsilon, float *out) {
  vf sums[EK_SUM_VECTORS];
  for (int j = 0; j < EK_SUM_VECTORS; j++) sums[j] = vf_set(0);
  size_t i = 0;
  for (; i + EK_SUMS <= count; i += EK_SUMS) {
    for (int j = 0; j < EK_SUM_VECTORS; j++) {
      const vf v = vf_load(x + i + j * EK_LANES);
      sums[j] = vf_fma(v, v, sums[j]);
    }
  }
  for (int j = 0; i < count; i += EK_LANES, j++) {
    const vf v = i + EK_LANES <= count ? vf_load(x + i) : vf_load_some(x + i, count - i, 0);
    sums[j] = vf_fma(v, v, sums[j]);
  }
  const vf scale = vf_set(1 / sqrtf(vf_sum_all(sums) / (float)count + epsilon));
  for (i = 0; i + EK_LANES <= count; i += EK_LANES) vf_store(out + i, vf_load(x + i) * scale * vf_load(weight + i));
  if (i < count) {
    const vf v = vf_load_some(x + i, count - i, 0) * scale * vf_load_some(weight + i, count - i, 0);
    vf_store_some(out + i, v, count - i);
  }
}

static inline void rotate(vf *a, vf *b, vf cosine, vf sine) {
  const vf x = *a, y = *b;
  *a = vf_fma(-y, sine, x * cosine);
  *b = vf_fma(y, cosine, x * sine);
}

void FUNCTION(rope_halves)(float *x, size_t pairs, const float *cosine, const float *sine) {
  float *y = x + pairs;
  size_t i = 0;
  for (; i + EK_LANES <= pairs; i += EK_LANES) {
    vf a = vf_load(x + i), b = vf_load(y + i);
    rotate(&a, &b, vf_load(cosine + i), vf_load(sine + i));
    vf_store(x + i, a);
    vf_store(y + i, b);
  }
  if (i < pairs) {
    const size_t rest = pairs - i;
    vf a = vf_load_some(x + i, rest, 0), b = vf_load_some(y + i, rest, 0);
    rotate(&a, &b, vf_load_some(cosine + i, rest, 0), vf_load_some(sine + i, rest, 0));
    vf_store_some(x + i, a, rest);
    vf_store_some(y + i, b, rest);
  }
}

void FUNCTION(rope_adjacent)(float *x, size_t pairs, const float *cosine, const float *sine) {
  for (size_t i = 0; i < pairs; i += EK_LANES) {
    const size_t rest = pairs - i < EK_LANES ? pairs - i : EK_LANES;
    const int whole = rest == EK_LANES;
    float copy[2 * EK_LANES] = {0}, *at = whole ? x + 2 * i : copy;
    if (!whole) memcpy(copy, x + 2 * i, 2 * rest * sizeof *x);
    vf a, b, low, high;
    vf_split(vf_load(at), vf_load(at + EK_LANES), &a, &b);
    rotate(&a, &b, whole ? vf_load(cosine + i) : vf_load_some(cosine + i, rest, 0),
           whole ? vf_load(sine + i) : vf_load_some(sine + i, rest, 0));
    vf_join(a, b, &low, &high);
    vf_store(at, low);
    vf_store(at + EK_LANES, high);
    if (!whole) memcpy(x + 2 * i, copy, 2 * rest * sizeof *x);
  }
}

void FUNCTION(hadamard)(float *x, size_t count) {
  float other[EK_MOST_HEAD_DIMS], *from = x, *to = other;
  const size_t half = count / 2;
  for (size_t left = count; left > 1; left /= 2) {
    for (size_t i = 0; i < half; i += EK_LANES) {
      vf even, odd;
      vf_split(vf_load(from + 2 * i), vf_load(from + 2 * i + EK_LANES), &even, &odd);
      vf_store(to + i, even + odd);
      vf_store(to + half + i, even - odd);
    }
    float *const next = from;
    from = to;
    to = next;
  }
  const vf scale = vf_set(1 / sqrtf((float)count));
  for (size_t i = 0; i < count; i += EK_LANES) vf_store(x + i, vf_load(from + i) * scale);
}

void FUNCTION(softmax)(float *x, size_t count) {
  const size_t whole = count - count % EK_LANES, rest = count - whole;
  const vf last = vf_load_some(x + whole, rest, -INFINITY);
  vf most = last, sums[EK_SUM_VECTORS];
  for (int j = 0; j < EK_SUM_VECTORS; j++) sums[j] = vf_set(0);
  for (size_t i = 0; i < whole; i += EK_LANES) most = vf_max(vf_load(x + i), most);
  const vf less = vf_set(vf_most(most));
  for (size_t i = 0; i < whole; i += EK_LANES) {
    const vf e = ek_exp_nonpositive(vf_load(x + i) - less);
    vf_store(x + i, e);
    vf *sum = &sums[i / EK_LANES % EK_SUM_VECTORS];
    *sum = *sum + e;
  }
  const vf last_e = ek_exp_nonpositive(last - less);
  vf *sum = &sums[whole / EK_LANES % EK_SUM_VECTORS];
  *sum = *sum + last_e;
  const vf scale = vf_set(1 / vf_sum_all(sums));
  for (size_t i = 0; i < whole; i += EK_LANES) vf_store(x + i, vf_load(x + i) * scale);
  vf_store_some(x + whole, last_e * scale, rest);
}

enum { GROUP_VECTORS = 32 / EK_LANES };

static inline vi largest(const float *x, vi most) {
  const vi no_sign = (vi)vf_set(0) + 0x7fffffff;
  for (int j = 0; j < GROUP_VECTORS; j++) most = vi_max(most, vi_of_bits(vf_load(x + j * EK_LANES)) & no_sign);
  return most;
}

/* The scale of a group by the bits of its largest |x| (see the oracle), and what to multiply with; 0 where the codes
 * are. */
static inline float scale_of(int32_t bits, float *inverse) {
  float most;
  memcpy(&most, &bits, sizeof most);
  *inverse = 0;
  if (bits >= 0x7f800000) return NAN;
  if (most < 1e-30f) return 0;
  *inverse = 127.0f / most;
  return most / 127.0f;
}

/* 32 codes; in rounded[] too. */
static inline void round_32(const float *x, float inverse, int8_t *codes, vi rounded[GROUP_VECTORS]) {
  for (int j = 0; j < GROUP_VECTORS; j++) {
    rounded[j] = inverse != 0 ? vf_round(vf_load(x + j * EK_LANES) * vf_set(inverse)) : (vi)vf_set(0);
  }
  vi_store_32(codes, rounded);
}

static inline vi sum_of(const vi *rounded, int count) {
  vi sum = rounded[0];
  for (int j = 1; j < count; j++) sum = sum + rounded[j];
  return sum;
}

void FUNCTION(quantise_32)(const float *x, size_t columns, int8_t *codes, float *scales, int32_t *offsets) {
  for (size_t k = 0; k < columns; k += 32) {
    vi rounded[GROUP_VECTORS];
    float inverse;
    scales[k / 32] = scale_of(vi_most(largest(x + k, (vi)vf_set(0))), &inverse);
    round_32(x + k, inverse, codes + k, rounded);
    offsets[k / 32] = -8 * vi_sum(sum_of(rounded, GROUP_VECTORS));
  }
}

void FUNCTION(quantise_256)(const float *x, size_t columns, int8_t *codes, float *scales, int16_t *sums) {
  for (size_t k = 0; k < columns; k += 256) {
    vi most = (vi)vf_set(0), rounded[GROUP_VECTORS];
    float inverse;
    for (size_t i = k; i < k + 256; i += 32) most = largest(x + i, most);
    scales[k / 256] = scale_of(vi_most(most), &inverse);
    for (size_t i = k; i < k + 256; i += 32) {
      round_32(x + i, inverse, codes + i, rounded);
      for (int half = 0; half < 2; half++) {
        const vi *at = rounded + half * GROUP_VECTORS / 2;
        sums[i / 16 + (size_t)half] = (int16_t)vi_sum(sum_of(at, GROUP_VECTORS / 2));
      }
    }
  }
}
