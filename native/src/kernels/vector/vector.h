/* A vector register of the level that includes this: vf of EK_LANES float32 and vi of as many int32. Arithmetic is the
 * compiler's own (+ - * / on vectors), never fused; what it has no operator for is here. Only for the kernels' own
 * files. */
#ifndef EK_VECTOR_H
#define EK_VECTOR_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__) || defined(__AVX2__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

/* Sums are of halves, then of halves of that: the same at all levels, as far as they have them. */
#if defined(__AVX2__)
static inline float sum_of_8(__m256 x) {
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
#endif

#if defined(__AVX512F__)

enum { EK_LANES = 16 };
typedef __m512 vf;
typedef int32_t vi __attribute__((vector_size(64)));
static inline vf vf_set(float x) { return _mm512_set1_ps(x); }
static inline vf vf_load(const float *at) { return _mm512_loadu_ps(at); }
static inline void vf_store(float *at, vf x) { _mm512_storeu_ps(at, x); }
static inline vf vf_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); } /* a b + c */
/* Of a NaN in b the result is that NaN; vf_larger's is NaN where either is one. */
static inline vf vf_max(vf a, vf b) { return _mm512_max_ps(a, b); }
static inline vf vf_larger(vf a, vf b) {
  return _mm512_mask_mov_ps(_mm512_max_ps(b, a), _mm512_cmp_ps_mask(b, b, _CMP_UNORD_Q), b);
}
static inline vf vf_min(vf a, vf b) { return _mm512_min_ps(a, b); }
static inline float vf_sum(vf x) {
  return sum_of_8(_mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1)));
}
/* NaN where one is. */
static inline float vf_most(vf x) { return _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q) ? NAN : _mm512_reduce_max_ps(x); }
static inline vi vf_round(vf x) { return (vi)_mm512_cvtps_epi32(x); } /* to nearest, ties to even */
static inline vi vi_max(vi a, vi b) { return (vi)_mm512_max_epi32((__m512i)a, (__m512i)b); }
static inline int32_t vi_most(vi x) { return _mm512_reduce_max_epi32((__m512i)x); }
static inline int32_t vi_sum(vi x) { /* as _mm512_reduce_add_epi32, whose overflow is undefined in GCC */
  const __m256i eight = _mm256_add_epi32(_mm512_castsi512_si256((__m512i)x), _mm512_extracti64x4_epi64((__m512i)x, 1));
  const __m128i four = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
  const __m128i two = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 0xb1)));
}
static inline void vi_store_32(int8_t *at, const vi x[2]) { /* 32 numbers of -128 .. 127 */
  _mm_storeu_si128((__m128i *)(void *)at, _mm512_cvtepi32_epi8((__m512i)x[0]));
  _mm_storeu_si128((__m128i *)(void *)(at + 16), _mm512_cvtepi32_epi8((__m512i)x[1]));
}
static inline void vi_store_16(uint8_t *at, const vi x[1]) { /* 16 numbers as int16 */
  _mm256_storeu_si256((__m256i *)(void *)at, _mm512_cvtepi32_epi16((__m512i)x[0]));
}
/* Even and odd elements of the 2 EK_LANES values a, b, and back. */
static inline void vf_split(vf a, vf b, vf *even, vf *odd) {
  const __m512i at = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  *even = _mm512_permutex2var_ps(a, at, b);
  *odd = _mm512_permutex2var_ps(a, _mm512_add_epi32(at, _mm512_set1_epi32(1)), b);
}
static inline void vf_join(vf even, vf odd, vf *a, vf *b) {
  const __m512i at = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
  *a = _mm512_permutex2var_ps(even, at, odd);
  *b = _mm512_permutex2var_ps(even, _mm512_add_epi32(at, _mm512_set1_epi32(8)), odd);
}

#elif defined(__AVX2__)

enum { EK_LANES = 8 };
typedef __m256 vf;
typedef int32_t vi __attribute__((vector_size(32)));
static inline vf vf_set(float x) { return _mm256_set1_ps(x); }
static inline vf vf_load(const float *at) { return _mm256_loadu_ps(at); }
static inline void vf_store(float *at, vf x) { _mm256_storeu_ps(at, x); }
static inline vf vf_fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
static inline vf vf_max(vf a, vf b) { return _mm256_max_ps(a, b); }
static inline vf vf_larger(vf a, vf b) {
  return _mm256_blendv_ps(_mm256_max_ps(b, a), b, _mm256_cmp_ps(b, b, _CMP_UNORD_Q));
}
static inline vf vf_min(vf a, vf b) { return _mm256_min_ps(a, b); }
static inline float vf_sum(vf x) { return sum_of_8(x); }
static inline float vf_most(vf x) {
  if (_mm256_movemask_ps(_mm256_cmp_ps(x, x, _CMP_UNORD_Q))) return NAN;
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}
static inline vi vf_round(vf x) { return (vi)_mm256_cvtps_epi32(x); }
static inline vi vi_max(vi a, vi b) { return (vi)_mm256_max_epi32((__m256i)a, (__m256i)b); }
static inline int32_t vi_most(vi x) {
  const __m128i four = _mm_max_epi32(_mm256_castsi256_si128((__m256i)x), _mm256_extracti128_si256((__m256i)x, 1));
  const __m128i two = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0x4e));
  return _mm_cvtsi128_si32(_mm_max_epi32(two, _mm_shuffle_epi32(two, 0xb1)));
}
static inline int32_t vi_sum(vi x) {
  const __m128i four = _mm_add_epi32(_mm256_castsi256_si128((__m256i)x), _mm256_extracti128_si256((__m256i)x, 1));
  const __m128i two = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 0xb1)));
}
static inline void vi_store_32(int8_t *at, const vi x[4]) {
  const __m256i low = _mm256_packs_epi32((__m256i)x[0], (__m256i)x[1]);
  const __m256i high = _mm256_packs_epi32((__m256i)x[2], (__m256i)x[3]);
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7); /* packs works by halves of a register */
  _mm256_storeu_si256((__m256i *)(void *)at, _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high), order));
}
static inline void vi_store_16(uint8_t *at, const vi x[2]) {
  const __m256i words = _mm256_packs_epi32((__m256i)x[0], (__m256i)x[1]);
  _mm256_storeu_si256((__m256i *)(void *)at, _mm256_permute4x64_epi64(words, 0xd8));
}
static inline void vf_split(vf a, vf b, vf *even, vf *odd) {
  const __m256 x = _mm256_permute2f128_ps(a, b, 0x20), y = _mm256_permute2f128_ps(a, b, 0x31);
  *even = _mm256_shuffle_ps(x, y, 0x88);
  *odd = _mm256_shuffle_ps(x, y, 0xdd);
}
static inline void vf_join(vf even, vf odd, vf *a, vf *b) {
  const __m256 x = _mm256_unpacklo_ps(even, odd), y = _mm256_unpackhi_ps(even, odd);
  *a = _mm256_permute2f128_ps(x, y, 0x20);
  *b = _mm256_permute2f128_ps(x, y, 0x31);
}

#elif defined(__ARM_NEON)

enum { EK_LANES = 4 };
typedef float32x4_t vf;
typedef int32x4_t vi;
static inline vf vf_set(float x) { return vdupq_n_f32(x); }
static inline vf vf_load(const float *at) { return vld1q_f32(at); }
static inline void vf_store(float *at, vf x) { vst1q_f32(at, x); }
static inline vf vf_fma(vf a, vf b, vf c) { return vfmaq_f32(c, a, b); }
static inline vf vf_max(vf a, vf b) { return vmaxq_f32(a, b); }
static inline vf vf_larger(vf a, vf b) { return vmaxq_f32(a, b); }
static inline vf vf_min(vf a, vf b) { return vminq_f32(a, b); }
static inline float vf_sum(vf x) { return vaddv_f32(vadd_f32(vget_low_f32(x), vget_high_f32(x))); }
static inline float vf_most(vf x) { return vmaxvq_f32(x); }
static inline vi vf_round(vf x) { return vcvtnq_s32_f32(x); }
static inline vi vi_max(vi a, vi b) { return vmaxq_s32(a, b); }
static inline int32_t vi_most(vi x) { return vmaxvq_s32(x); }
static inline int32_t vi_sum(vi x) { return vaddvq_s32(x); }
static inline void vi_store_32(int8_t *at, const vi x[8]) {
  for (int i = 0; i < 8; i += 4) {
    const int16x8_t low = vcombine_s16(vmovn_s32(x[i]), vmovn_s32(x[i + 1]));
    const int16x8_t high = vcombine_s16(vmovn_s32(x[i + 2]), vmovn_s32(x[i + 3]));
    vst1q_s8(at + 4 * i, vcombine_s8(vmovn_s16(low), vmovn_s16(high)));
  }
}
static inline void vi_store_16(uint8_t *at, const vi x[4]) {
  for (int i = 0; i < 4; i += 2) {
    const int16x8_t words = vuzp1q_s16(vreinterpretq_s16_s32(x[i]), vreinterpretq_s16_s32(x[i + 1]));
    vst1q_u8(at + 8 * i, vreinterpretq_u8_s16(words));
  }
}
static inline void vf_split(vf a, vf b, vf *even, vf *odd) {
  *even = vuzp1q_f32(a, b);
  *odd = vuzp2q_f32(a, b);
}
static inline void vf_join(vf even, vf odd, vf *a, vf *b) {
  *a = vzip1q_f32(even, odd);
  *b = vzip2q_f32(even, odd);
}

#else
#error "vector.h is for AVX2, AVX-512 and NEON"
#endif

/* Sums of EK_SUMS floats, element i of all in number i % EK_SUMS, in as many registers as they take; and their sum, of
 * halves as vf_sum's, so that it is the same at all levels. */
enum { EK_SUMS = 32, EK_SUM_VECTORS = EK_SUMS / EK_LANES };
static inline float vf_sum_all(vf sums[EK_SUM_VECTORS]) {
  for (int half = EK_SUM_VECTORS / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; i++) sums[i] = sums[i] + sums[i + half];
  }
  return vf_sum(sums[0]);
}

/* count < EK_LANES values, the rest `fill`. */
static inline vf vf_load_some(const float *at, size_t count, float fill) {
  float all[EK_LANES];
  for (size_t i = 0; i < EK_LANES; i++) all[i] = i < count ? at[i] : fill;
  return vf_load(all);
}

static inline void vf_store_some(float *at, vf x, size_t count) {
  float all[EK_LANES];
  vf_store(all, x);
  for (size_t i = 0; i < count; i++) at[i] = all[i];
}

static inline vi vi_of_bits(vf x) { return (vi)x; }

/* Wraps, as vi_sum does: on x86 a NaN was rounded to the smallest integer, of which two are too much. */
typedef uint32_t vi_unsigned __attribute__((vector_size(4 * EK_LANES)));
static inline vi vi_add(vi a, vi b) { return (vi)((vi_unsigned)a + (vi_unsigned)b); }

#endif
