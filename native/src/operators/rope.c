#include "operators/rope.h"

#include <math.h>

static int is_positive(double x) { return isfinite(x) && x > 0; }

static int is_valid(const ek_rope_scaling *scaling, size_t pairs) {
  if (scaling->linear != 0 && !is_positive(scaling->linear)) return 0;
  if (scaling->factor != 0) {
    if (!is_positive(scaling->factor) || !is_positive(scaling->original_context)) return 0;
    if (!is_positive(scaling->low_frequency) || !isfinite(scaling->high_frequency)) return 0;
    if (scaling->high_frequency <= scaling->low_frequency) return 0;
  }
  for (size_t i = 0; scaling->factors && i < pairs; i++) {
    if (!is_positive(scaling->factors[i])) return 0;
  }
  return 1;
}

static double llama3(const ek_rope_scaling *scaling, double frequency) {
  const double turns = scaling->original_context * frequency / 6.283185307179586;
  const double low = scaling->low_frequency, high = scaling->high_frequency;
  const double kept = turns >= high ? 1 : turns <= low ? 0 : (turns - low) / (high - low);
  return kept * frequency + (1 - kept) * frequency / scaling->factor;
}

ek_status ek_rope_frequencies(size_t dims, double base, const ek_rope_scaling *scaling, double *frequencies) {
  const ek_rope_scaling none = {0, 0, 0, 0, 0, NULL};
  if (!scaling) scaling = &none;
  if (dims == 0 || dims % 2 != 0 || !is_positive(base) || !is_valid(scaling, dims / 2)) return EK_BAD_ARGUMENT;
  for (size_t i = 0; i < dims / 2; i++) {
    double frequency = pow(base, -2.0 * (double)i / (double)dims);
    if (scaling->factor != 0) frequency = llama3(scaling, frequency);
    if (scaling->linear != 0) frequency /= scaling->linear;
    if (scaling->factors) frequency /= scaling->factors[i];
    frequencies[i] = frequency;
  }
  return EK_OK;
}

void ek_rope_row(const double *frequencies, size_t pairs, uint64_t position, float *cosine, float *sine) {
  for (size_t i = 0; i < pairs; i++) {
    const double angle = (double)position * frequencies[i];
    cosine[i] = (float)cos(angle);
    sine[i] = (float)sin(angle);
  }
}
