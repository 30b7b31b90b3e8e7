/* One block per vector lane: arithmetic on EK_WIDTH blocks at once, in the compiler's own vector types.
 *
 * This file and the encoders that include it are compiled once for each instruction set (EK_ISA names it). A lane's
 * result never depends on its neighbours, on the width or on fused operations, so all instruction sets give the same
 * bytes. */
#ifndef EK_LANES_H
#define EK_LANES_H

#include <stdint.h>
#include <string.h>

/* name_avx2 and the like. */
#define EK_JOIN2(a, b) a##_##b
#define EK_JOIN(a, b) EK_JOIN2(a, b)
#define EK_ISA_NAME(name) EK_JOIN(name, EK_ISA)

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define EK_WIDTH 16
#elif defined(__AVX2__)
#define EK_WIDTH 8
#else
#define EK_WIDTH 4
#endif

/* What takes a constant function or table, which only pays once it is known. */
#define EK_INLINE static inline __attribute__((always_inline))

typedef float ek_vf __attribute__((vector_size(4 * EK_WIDTH), may_alias));
typedef int32_t ek_vi __attribute__((vector_size(4 * EK_WIDTH), may_alias));

static inline ek_vf vf(float value) { return value - (ek_vf){0}; }

static inline ek_vf vload(const float *at) { return *(const ek_vf *)at; }

static inline void vstore(float *at, ek_vf value) { *(ek_vf *)at = value; }

/* Where the mask is all ones the first, elsewhere (all zeros) the second. */
static inline ek_vf vselect(ek_vi mask, ek_vf yes, ek_vf no) {
  return (ek_vf)((mask & (ek_vi)yes) | (~mask & (ek_vi)no));
}

/* The second operand where either is a NaN. */
static inline ek_vf vmax(ek_vf a, ek_vf b) {
#if EK_WIDTH == 16
  return (ek_vf)_mm512_max_ps((__m512)a, (__m512)b);
#elif EK_WIDTH == 8
  return (ek_vf)_mm256_max_ps((__m256)a, (__m256)b);
#elif defined(__SSE2__)
  return (ek_vf)_mm_max_ps((__m128)a, (__m128)b);
#else
  return vselect(a > b, a, b);
#endif
}

static inline ek_vf vmin(ek_vf a, ek_vf b) {
#if EK_WIDTH == 16
  return (ek_vf)_mm512_min_ps((__m512)a, (__m512)b);
#elif EK_WIDTH == 8
  return (ek_vf)_mm256_min_ps((__m256)a, (__m256)b);
#elif defined(__SSE2__)
  return (ek_vf)_mm_min_ps((__m128)a, (__m128)b);
#else
  return vselect(a < b, a, b);
#endif
}

static inline ek_vf vabs(ek_vf a) { return (ek_vf)((ek_vi)a & 0x7fffffff); }

/* To nearest, ties to even; for |a| < 2^22: the sum's last bit is worth 1. */
static inline ek_vf vround(ek_vf a) { return (a + 0x1.8p23f) - 0x1.8p23f; }

/* The nearest integer in [low, high]; low for a NaN. */
static inline ek_vf vcode(ek_vf a, float low, float high) { return vround(vmin(vmax(a, vf(low)), vf(high))); }

/* a / b, and 0 where b is 0. */
static inline ek_vf vratio(ek_vf a, ek_vf b) { return vselect(b == 0.0f, vf(0), a / b); }

/* The nearest float16, as a float: ties to even, saturated at 65504, 0 for a NaN. */
static inline ek_vf vhalf(ek_vf a) {
  const ek_vi sign = (ek_vi)a & INT32_MIN;
  const ek_vf size = vmin(vselect(a == a, vabs(a), vf(0)), vf(65504));
  const ek_vi bits = (ek_vi)size;
  const ek_vf normal = (ek_vf)((bits + 0xfff + (bits >> 13 & 1)) & ~0x1fff);
  const ek_vf subnormal = (size + 0.5f) - 0.5f; /* 0.5's last bit is worth 2^-24 */
  return (ek_vf)(sign | (ek_vi)vselect(size < 0x1p-14f, subnormal, normal));
}

/* The next float16 away from zero (steps 1) or towards it (-1), of a float16 value; through 0 to 2^-24. */
static inline ek_vf vhalf_next(ek_vf a, int steps) {
  const ek_vf size = vabs(a);
  const ek_vf normal = vmin((ek_vf)((ek_vi)size + steps * 0x2000), vf(65504));
  const ek_vf subnormal = vabs(size + (float)steps * 0x1p-24f);
  return (ek_vf)(((ek_vi)a & INT32_MIN) | (ek_vi)vselect(size < 0x1p-14f, subnormal, normal));
}

#endif
