/* Weights times values. A register of a quantised block is 16 dimensions x 4 positions: weight x scale of a position
 * becomes an integer of 16 bits in two bytes, high and low, and a dot product sums four positions of each dimension.
 * Those of a tile have a scale, a power of two, in common. */
#include "../queries.h"
#include "lanes.h"

INLINE __m512 halves_at(const uint8_t *at) {
  return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)at));
}

INLINE __m512i bytes_of_4(const int8_t *bytes) {
  int32_t four;
  memcpy(&four, bytes, sizeof four);
  return _mm512_set1_epi32(four);
}

/* The largest |scale| of a tile. */
INLINE uint16_t largest_scale(enum ek_type type, const uint8_t *const *blocks, size_t count, size_t at) {
  __m256i most = _mm256_setzero_si256(); /* as integers, halves without a sign are ordered */
  for (size_t b = 0; b < count; b++) {
    const __m256i bits = _mm256_loadu_si256((const __m256i *)(const void *)(blocks[b] + at + code_bytes(type)));
    most = _mm256_max_epi16(most, _mm256_and_si256(bits, _mm256_set1_epi16(0x7fff)));
  }
  const __m512i wide = _mm512_cvtepi16_epi32(most);
  return (uint16_t)_mm512_reduce_max_epi32(wide);
}

/* Of the queries: high bytes of a block's positions, low ones; and what unsigned codes are to lose for them. */
typedef struct integers {
  int8_t bytes[EK_CACHE_TILE][MOST_QUERIES][2][EK_CACHE_BLOCK];
  int32_t corrections[MOST_QUERIES];
} integers;

/* 16 weights of a query. */
INLINE __m256i weights_at(const float *weights, size_t stride, size_t query, size_t block) {
  const uint8_t *of_query = (const uint8_t *)(weights + query * stride);
  return _mm256_loadu_si256((const __m256i *)(const void *)(of_query + 2 * EK_CACHE_BLOCK * block));
}

/* 16 of 2^14 half(power scale). */
INLINE __m256i scales_of(const uint8_t *halves, float power) {
  const __m512 scaled = _mm512_mul_ps(halves_at(halves), _mm512_set1_ps(power));
  const __m512 rounded = _mm512_cvtph_ps(_mm512_cvtps_ph(scaled, _MM_FROUND_TO_NEAREST_INT));
  return _mm512_cvtepi32_epi16(_mm512_cvttps_epi32(_mm512_mul_ps(rounded, _mm512_set1_ps(0x1p14f))));
}

/* See queries.h. */
INLINE void scale_weights(int n, enum ek_type type, const uint8_t *const *blocks, size_t count, size_t at, float power,
                          const float *weights, integers *to) {
  __m256i sums[MOST_QUERIES];
  for (int h = 0; h < n; h++) sums[h] = _mm256_setzero_si256();
  for (size_t b = 0; b < count; b++) {
    const __m256i scales = scales_of(blocks[b] + at + code_bytes(type), power);
    for (int h = 0; h < n; h++) {
      const __m256i x = _mm256_mulhrs_epi16(weights_at(weights, count * EK_CACHE_BLOCK, (size_t)h, b), scales);
      sums[h] = _mm256_add_epi32(sums[h], _mm256_madd_epi16(x, _mm256_set1_epi16(1)));
      const __m256i high = _mm256_srai_epi16(_mm256_add_epi16(x, _mm256_set1_epi16(128)), 8);
      _mm_storeu_si128((__m128i *)(void *)to->bytes[b][h][0], _mm256_cvtepi16_epi8(high));
      _mm_storeu_si128((__m128i *)(void *)to->bytes[b][h][1], _mm256_cvtepi16_epi8(x));
    }
  }
  for (int h = 0; h < n; h++) {
    const int32_t sum = _mm512_reduce_add_epi32(_mm512_zextsi256_si512(sums[h]));
    to->corrections[h] = -(type == EK_TYPE_q8_0 ? 128 : 8) * sum;
  }
}

/* Adds four positions x 32 dimensions: codes are unsigned, 128 or 8 too large. */
INLINE void add_four(int n, const __m512i codes[2], const integers *w, size_t b, int four, __m512i sums[][2][2]) {
  for (int h = 0; h < n; h++) {
    for (int plane = 0; plane < 2; plane++) {
      const __m512i factors = bytes_of_4(w->bytes[b][h][plane] + 4 * four);
      for (int i = 0; i < 2; i++) sums[h][plane][i] = _mm512_dpbusd_epi32(sums[h][plane][i], codes[i], factors);
    }
  }
}

/* 32 dimensions of a tile: out[query][0 .. 31]. */
INLINE void add_group(int n, enum ek_type type, const uint8_t *const *blocks, size_t count, size_t at,
                      const float *weights, const float *factors, size_t dims, float *out) {
  const tile_scaling scaling = tile_scaling_of(largest_scale(type, blocks, count, at));
  const __m512i flip = _mm512_set1_epi8(type == EK_TYPE_q8_0 ? -128 : -120 /* 0x88 */), low = _mm512_set1_epi8(15);
  integers w;
  scale_weights(n, type, blocks, count, at, power_of_two(scaling.shift), weights, &w);
  __m512i sums[MOST_QUERIES][2][2];
  for (int h = 0; h < n; h++) {
    for (int i = 0; i < 4; i++) sums[h][i / 2][i % 2] = _mm512_setzero_si512();
  }
  for (size_t b = 0; b < count; b++) {
    const uint8_t *lanes = blocks[b] + at;
#pragma GCC unroll 4
    for (int four = 0; four < (int)code_bytes(type) / 128; four++) {
      __m512i codes[2], later[2];
      for (int i = 0; i < 2; i++) {
        const __m512i bytes = _mm512_xor_si512(_mm512_loadu_si512(lanes + 128 * four + 64 * i), flip);
        codes[i] = type == EK_TYPE_q8_0 ? bytes : _mm512_and_si512(bytes, low);
        later[i] = _mm512_and_si512(_mm512_srli_epi16(bytes, 4), low);
      }
      add_four(n, codes, &w, b, four, sums);
      if (type == EK_TYPE_q4_0) add_four(n, later, &w, b, four + 2, sums);
    }
  }
  for (int h = 0; h < n; h++) {
    const __m512i correction = _mm512_set1_epi32(w.corrections[h]);
    for (int i = 0; i < 2; i++) {
      const __m512i whole = _mm512_add_epi32(_mm512_slli_epi32(sums[h][0][i], 8), sums[h][1][i]);
      const __m512 sum = _mm512_cvtepi32_ps(_mm512_add_epi32(whole, correction));
      float *to = out + (size_t)h * dims + 16 * i;
      _mm512_storeu_ps(to, _mm512_fmadd_ps(sum, _mm512_set1_ps(factors[h] * scaling.inverse), _mm512_loadu_ps(to)));
    }
  }
}

/* Weights as floats, by query and position. */
typedef float float_weights[EK_CACHE_TILE * EK_CACHE_BLOCK][MOST_QUERIES];

INLINE void widen_weights(int n, size_t count, const float *weights, float_weights to) {
  for (int h = 0; h < n; h++) {
    for (size_t b = 0; b < count; b++) {
      float all[EK_CACHE_BLOCK];
      const __m256i w = weights_at(weights, count * EK_CACHE_BLOCK, (size_t)h, b);
      _mm512_storeu_ps(all, _mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(w)));
      for (size_t p = 0; p < EK_CACHE_BLOCK; p++) to[b * EK_CACHE_BLOCK + p][h] = all[p];
    }
  }
}

/* The same of f16, in float32. */
INLINE void add_group_f16(int n, const uint8_t *const *blocks, size_t count, size_t at, const float_weights weights,
                          const float *factors, size_t dims, float *out) {
  __m512 sums[MOST_QUERIES][2];
  for (int h = 0; h < n; h++) sums[h][0] = sums[h][1] = _mm512_setzero_ps();
  for (size_t b = 0; b < count; b++) {
#pragma GCC unroll 4
    for (size_t p = 0; p < EK_CACHE_BLOCK; p++) {
      const uint8_t *row = blocks[b] + at + 64 * p;
      const __m512 values[2] = {halves_at(row), halves_at(row + 32)};
      for (int h = 0; h < n; h++) {
        const __m512 weight = _mm512_set1_ps(weights[b * EK_CACHE_BLOCK + p][h]);
        for (int i = 0; i < 2; i++) sums[h][i] = _mm512_fmadd_ps(values[i], weight, sums[h][i]);
      }
    }
  }
  for (int h = 0; h < n; h++) {
    for (int i = 0; i < 2; i++) {
      float *to = out + (size_t)h * dims + 16 * i;
      _mm512_storeu_ps(to, _mm512_fmadd_ps(sums[h][i], _mm512_set1_ps(factors[h]), _mm512_loadu_ps(to)));
    }
  }
}

INLINE void add_values(int n, size_t first, enum ek_type type, const uint8_t *const *blocks, size_t count, size_t dims,
                       const float *weights, const float *factors, float *out) {
  weights += first * count * EK_CACHE_BLOCK;
  factors += first;
  out += first * dims;
  float_weights widened;
  if (type == EK_TYPE_f16) widen_weights(n, count, weights, widened);
  for (size_t k = 0; k < dims; k += GROUP) {
    const size_t at = k / GROUP * group_bytes(type);
    if (type == EK_TYPE_f16) {
      add_group_f16(n, blocks, count, at, (const float (*)[MOST_QUERIES])widened, factors, dims, out + k);
    } else {
      add_group(n, type, blocks, count, at, weights, factors, dims, out + k);
    }
  }
}

#define KERNEL(type)                                                                                                   \
  void ek_values_##type##_avx512vnni(const uint8_t *const *blocks, size_t count, size_t dims, const float *weights,    \
                                     const float *factors, size_t query_count, float *out) {                           \
    FOR_QUERIES(add_values, query_count, EK_TYPE_##type, blocks, count, dims, weights, factors, out);                  \
  }

KERNEL(f16)
KERNEL(q8_0)
KERNEL(q4_0)
