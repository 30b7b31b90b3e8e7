/* The operations between the products, one value at a time, in float64: the oracle of the others, and the last resort.
 */
#include "../kernels.h"

#include "../../half.h"

#include <math.h>

/* The bits of the largest |x|: as integers, floats without a sign are ordered, and what is not finite comes last. */
static uint32_t largest(const float *x, size_t count) {
  uint32_t most = 0;
  for (size_t i = 0; i < count; i++) {
    const uint32_t bits = ek_bits_of_float(x[i]) & 0x7fffffffu;
    if (bits > most) most = bits;
  }
  return most;
}

/* One group; in float32, since all levels are to give these bytes. */
static float quantise(const float *x, size_t count, int8_t *codes) {
  const uint32_t bits = largest(x, count);
  const float most = ek_float_of_bits(bits);
  const int finite = bits < 0x7f800000u, quantised = finite && most >= 1e-30f;
  const float inverse = quantised ? 127.0f / most : 0;
  for (size_t i = 0; i < count; i++) codes[i] = quantised ? (int8_t)lrintf(x[i] * inverse) : 0;
  return !finite ? NAN : quantised ? most / 127.0f : 0;
}

static int sum_of(const int8_t *codes, size_t count) {
  int sum = 0;
  for (size_t i = 0; i < count; i++) sum += codes[i];
  return sum;
}

void ek_quantise_32_f32_scalar(const float *x, size_t columns, int8_t *codes, float *scales, int32_t *offsets) {
  for (size_t k = 0; k < columns; k += 32) {
    scales[k / 32] = quantise(x + k, 32, codes + k);
    offsets[k / 32] = -8 * sum_of(codes + k, 32);
  }
}

void ek_quantise_256_f32_scalar(const float *x, size_t columns, int8_t *codes, float *scales, int16_t *sums) {
  for (size_t k = 0; k < columns; k += 256) {
    scales[k / 256] = quantise(x + k, 256, codes + k);
    for (size_t i = k; i < k + 256; i += 16) sums[i / 16] = (int16_t)sum_of(codes + i, 16);
  }
}

void ek_rms_norm_f32_scalar(const float *x, const float *weight, size_t count, float epsilon, float *out) {
  double squares = 0;
  for (size_t i = 0; i < count; i++) squares += (double)x[i] * x[i];
  const double root = sqrt(squares / (double)count + epsilon);
  for (size_t i = 0; i < count; i++) out[i] = (float)(weight[i] * (x[i] / root));
}

static void rotate(float *a, float *b, double cosine, double sine) {
  const double x = *a, y = *b;
  *a = (float)(x * cosine - y * sine);
  *b = (float)(x * sine + y * cosine);
}

void ek_rope_halves_f32_scalar(float *x, size_t pairs, const float *cosine, const float *sine) {
  for (size_t i = 0; i < pairs; i++) rotate(x + i, x + i + pairs, cosine[i], sine[i]);
}

void ek_rope_adjacent_f32_scalar(float *x, size_t pairs, const float *cosine, const float *sine) {
  for (size_t i = 0; i < pairs; i++) rotate(x + 2 * i, x + 2 * i + 1, cosine[i], sine[i]);
}

/* By its definition: H[i][j] is -1 where i and j have an odd number of bits in common, else 1. */
void ek_hadamard_f32_scalar(float *x, size_t count) {
  float out[EK_MOST_HEAD_DIMS];
  for (size_t i = 0; i < count; i++) {
    double sum = 0;
    for (size_t j = 0; j < count; j++) sum += __builtin_parityl((unsigned long)(i & j)) ? -(double)x[j] : x[j];
    out[i] = (float)(sum / sqrt((double)count));
  }
  for (size_t i = 0; i < count; i++) x[i] = out[i];
}

void ek_swiglu_f32_scalar(const float *gate, const float *up, size_t count, float *out) {
  for (size_t i = 0; i < count; i++) {
    const double g = gate[i];
    out[i] = (float)(g / (1 + exp(-g)) * up[i]);
  }
}

/* g (1 + tanh u) / 2 = g / (1 + exp(-2 u)), u = sqrt(2 / pi) (g + 0.044715 g^3). */
void ek_geglu_f32_scalar(const float *gate, const float *up, size_t count, float *out) {
  for (size_t i = 0; i < count; i++) {
    const double g = gate[i], u = 0.79788456080286535588 * (g + 0.044715 * g * g * g);
    out[i] = (float)(g / (1 + exp(-2 * u)) * up[i]);
  }
}

void ek_softmax_f32_scalar(float *x, size_t count) {
  double most = -INFINITY, sum = 0;
  for (size_t i = 0; i < count; i++) most = x[i] > most ? x[i] : most;
  for (size_t i = 0; i < count; i++) sum += exp(x[i] - most);
  for (size_t i = 0; i < count; i++) x[i] = (float)(exp(x[i] - most) / sum);
}
