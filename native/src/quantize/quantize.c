#include "quantize.h"

#include "../encode/encode.h"

#include <math.h>

int ek_factor_panels(const float *factor, size_t columns, float *panels) {
  for (size_t k = 0; k < columns; k++) {
    if (!(factor[k * columns + k] > 0 && factor[k * columns + k] < INFINITY)) return 0;
  }
  for (size_t at = 0; at < columns; at += EK_PANEL) {
    float *panel = panels + at * columns;
    for (size_t j = 0; j < columns; j++, panel += EK_PANEL) {
      const float *row = factor + j * columns;
      for (size_t c = 0; c < EK_PANEL; c++) panel[c] = at + c > j ? row[at + c] / row[j] : 0;
    }
  }
  return 1;
}

double ek_hessian_panels(const float *hessian, size_t columns, float *panels) {
  float largest = 0;
  for (size_t k = 0; k < columns; k++) largest = fmaxf(largest, hessian[k * columns + k]);
  int exponent = 0;
  if (largest > 0 && largest < INFINITY) frexpf(largest, &exponent);
  float total = 0; /* stays finite where all are: the terms are scaled */
  for (size_t at = 0; at < columns; at += EK_PANEL) {
    float *panel = panels + at * columns;
    for (size_t j = 0; j < columns; j++, panel += EK_PANEL) {
      for (size_t c = 0; c < EK_PANEL; c++) {
        const size_t k = at + c, low = j < k ? j : k, high = j < k ? k : j;
        panel[c] = ldexpf(hessian[low * columns + high], -exponent);
        total += panel[c] * 0;
      }
    }
  }
  return total == 0 ? ldexp(1, exponent) : 0;
}

#if EK_X86
#define DECLARE(type, name) type name##_base, name##_avx2, name##_avx512;
#define ROWS(name) name##_base, name##_avx2, name##_avx512
#else
#define DECLARE(type, name) type name##_base;
#define ROWS(name) name##_base
#endif

DECLARE(ek_compensate_fn, ek_compensate)
DECLARE(ek_descend_fn, ek_descend)

static int level_or_highest(int level) { return level < 0 || level >= ek_isa_levels() ? ek_isa_levels() - 1 : level; }

ek_compensate_fn *ek_compensate_find(int level) {
  static ek_compensate_fn *const functions[] = {ROWS(ek_compensate)};
  return functions[level_or_highest(level)];
}

ek_descend_fn *ek_descend_find(int level) {
  static ek_descend_fn *const functions[] = {ROWS(ek_descend)};
  return functions[level_or_highest(level)];
}
