/* Types with a scale for each 32 columns: weight = d (lane + zero), or d lane + m. */
#ifndef EK_AVX2_GROUPS_H
#define EK_AVX2_GROUPS_H

#include "dot.h"

/* Tokens at once in gemm: two sums of each and what they are made of fill the 16 registers; 3, 5 and 6 are slower. */
enum { GROUP_TOKENS = 4 };

/* zeros: what is to be added to unsigned lanes, by the sum of the codes: -8 for 1 (q4_0), -16 for 2 (q5_0). */
typedef struct group_type {
  enum lanes lanes;
  int zeros;
  int minima;
} group_type;

INLINE size_t group_bytes(group_type type) { return tile_bytes(type.lanes) + (type.minima ? 32 : 16); }

/* The dots of a group of `tokens` tokens start at what the zero contributes. */
INLINE __m256i group_start(group_type type, const int32_t *offset) {
  if (type.zeros == 0) return _mm256_setzero_si256();
  return _mm256_slli_epi32(_mm256_set1_epi32(*offset), type.zeros - 1);
}

/* sum += x's scale * (d * dot), then m * (x's scale * sum of codes), the latter from its offset, -8 times that. */
INLINE __m256 add_group(group_type type, __m256i dot, __m256 d, __m256 m, float scale, const int32_t *offset,
                        __m256 sum) {
  sum = _mm256_fmadd_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(dot), d), _mm256_set1_ps(scale), sum);
  return type.minima ? _mm256_fmadd_ps(m, _mm256_set1_ps(scale * (float)*offset), sum) : sum;
}

INLINE __m256 load_minima(group_type type, const uint8_t *at) {
  return type.minima ? _mm256_mul_ps(load_halves(at), _mm256_set1_ps(-0.125f)) : _mm256_setzero_ps();
}

INLINE void group_gemv(group_type type, const uint8_t *stripe, size_t rows, size_t columns, const ek_activations *x,
                       float *out) {
  const __m256i ones[2] = {_mm256_set1_epi16(1), _mm256_set1_epi16(1)};
  for (size_t row = 0; row < rows; row += EK_STRIPE) {
    __m256 sum = _mm256_setzero_ps();
    for (size_t g = 0; g < columns / 32; g++, stripe += group_bytes(type)) {
      const uint8_t *scales = stripe + tile_bytes(type.lanes);
      prefetch(stripe, group_bytes(type));
      const segments w = unpack(type.lanes, stripe);
      __m256i dot = group_start(type, x->offsets + g);
      add_dots(type.lanes, &w, ones, 1, x->codes + 32 * g, 0, &dot);
      sum =
          add_group(type, dot, load_halves(scales), load_minima(type, scales + 16), x->scales[g], x->offsets + g, sum);
    }
    store_rows(out + row, rows - row, sum);
  }
}

/* Up to 256 columns of a stripe, unpacked once for all tokens. */
typedef struct group_chunk {
  size_t groups;
  segments w[8];
  __m256 d[8], m[8];
} group_chunk;

INLINE const uint8_t *unpack_groups(group_type type, const uint8_t *stripe, group_chunk *chunk) {
#pragma GCC unroll 1
  for (size_t g = 0; g < chunk->groups; g++, stripe += group_bytes(type)) {
    const uint8_t *scales = stripe + tile_bytes(type.lanes);
    chunk->w[g] = unpack(type.lanes, stripe);
    chunk->d[g] = load_halves(scales);
    chunk->m[g] = load_minima(type, scales + 16);
  }
  return stripe;
}

/* The chunk, which starts at the group `first`, with `tokens` tokens from `token`; out is (tokens, out_stride). */
INLINE void group_tokens(group_type type, const group_chunk *chunk, size_t first, size_t columns,
                         const ek_activations *x, size_t token, int tokens, float *out, size_t out_stride,
                         size_t rows) {
  const __m256i ones[2] = {_mm256_set1_epi16(1), _mm256_set1_epi16(1)};
  const size_t groups = columns / 32, at = token * groups + first;
  const int8_t *codes = x->codes + 32 * at;
  const int32_t *offsets = x->offsets + at;
  const float *scales = x->scales + at;
  __m256 sums[GROUP_TOKENS];
  for (int t = 0; t < tokens; t++) sums[t] = load_rows(out + (size_t)t * out_stride, rows, first == 0);
  for (size_t g = 0; g < chunk->groups; g++) {
    __m256i dots[GROUP_TOKENS];
    for (int t = 0; t < tokens; t++) dots[t] = group_start(type, offsets + (size_t)t * groups + g);
    add_dots(type.lanes, &chunk->w[g], ones, tokens, codes + 32 * g, columns, dots);
    for (int t = 0; t < tokens; t++) {
      const size_t i = (size_t)t * groups + g;
      sums[t] = add_group(type, dots[t], chunk->d[g], chunk->m[g], scales[i], offsets + i, sums[t]);
    }
  }
  for (int t = 0; t < tokens; t++) store_rows(out + (size_t)t * out_stride, rows, sums[t]);
}

INLINE void group_gemm(group_type type, const uint8_t *stripe, size_t rows, size_t columns, const ek_activations *x,
                       size_t tokens, float *out, size_t out_stride) {
  for (size_t row = 0; row < rows; row += EK_STRIPE) {
    for (size_t first = 0; first < columns / 32; first += 8) {
      group_chunk chunk;
      chunk.groups = columns / 32 - first < 8 ? columns / 32 - first : 8;
      stripe = unpack_groups(type, stripe, &chunk);
      size_t t = 0;
      for (; t + GROUP_TOKENS <= tokens; t += GROUP_TOKENS) {
        group_tokens(type, &chunk, first, columns, x, t, GROUP_TOKENS, out + t * out_stride + row, out_stride,
                     rows - row);
      }
      for (; t < tokens; t++) {
        group_tokens(type, &chunk, first, columns, x, t, 1, out + t * out_stride + row, out_stride, rows - row);
      }
    }
  }
}

#define GROUP_KERNELS(name, ...)                                                                                       \
  static const group_type type = {__VA_ARGS__};                                                                        \
  void ek_gemv_##name##_avx2(const uint8_t *stripes, size_t rows, size_t columns, const ek_activations *x,             \
                             float *out) {                                                                             \
    group_gemv(type, stripes, rows, columns, x, out);                                                                  \
  }                                                                                                                    \
  void ek_gemm_##name##_avx2(const uint8_t *stripes, size_t rows, size_t columns, const ek_activations *x,             \
                             size_t tokens, float *out, size_t out_stride) {                                           \
    group_gemm(type, stripes, rows, columns, x, tokens, out, out_stride);                                              \
  }

#endif
