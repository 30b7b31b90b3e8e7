/* Queries times keys: a register is 16 positions x 4 dimensions, or 16 positions of one in f16. */
#include "../queries.h"
#include "lanes.h"

#include <string.h>

INLINE __m512 halves_at(const uint8_t *at) {
  return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)at));
}

INLINE __m512i bytes_of_4(const int8_t *codes) {
  int32_t four;
  memcpy(&four, codes, sizeof four);
  return _mm512_set1_epi32(four);
}

/* 16 positions x 32 dimensions. vpdpbusd wants one operand unsigned, so that codes are taken 128 or 8 too large, which
 * the queries' offsets, -8 times the sum of their codes, take back. */
INLINE void add_group(int n, enum ek_type type, const uint8_t *lanes, const ek_activations *x, size_t at, size_t dims,
                      __m512 sums[]) {
  const int vectors = (int)code_bytes(type) / 64;
  const __m512i flip = _mm512_set1_epi8(type == EK_TYPE_q8_0 ? -128 : -120 /* 0x88 */), low = _mm512_set1_epi8(15);
  __m512i dots[MOST_QUERIES];
  for (int h = 0; h < n; h++)
    dots[h] = _mm512_set1_epi32((type == EK_TYPE_q8_0 ? 16 : 1) * x->offsets[(at + (size_t)h * dims) / GROUP]);
#pragma GCC unroll 8
  for (int j = 0; j < vectors; j++) {
    const __m512i bytes = _mm512_xor_si512(_mm512_loadu_si512(lanes + 64 * j), flip);
    const __m512i first = type == EK_TYPE_q8_0 ? bytes : _mm512_and_si512(bytes, low);
    const __m512i second = _mm512_and_si512(_mm512_srli_epi16(bytes, 4), low);
    for (int h = 0; h < n; h++) {
      const int8_t *codes = x->codes + at + (size_t)h * dims + 4 * j;
      dots[h] = _mm512_dpbusd_epi32(dots[h], first, bytes_of_4(codes));
      if (type == EK_TYPE_q4_0) dots[h] = _mm512_dpbusd_epi32(dots[h], second, bytes_of_4(codes + 16));
    }
  }
  const __m512 d = halves_at(lanes + code_bytes(type));
  for (int h = 0; h < n; h++) {
    const __m512 scale = _mm512_mul_ps(d, _mm512_set1_ps(x->scales[(at + (size_t)h * dims) / GROUP]));
    sums[h] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots[h]), scale, sums[h]);
  }
}

/* f16 queries are taken eight at a time where there are so many: each sum is a chain, and eight keep both multipliers
 * busy. */
enum { MOST_SUMS = 2 * MOST_QUERIES };

INLINE void add_group_f16(int n, const uint8_t *rows, const float *queries, size_t dims, __m512 sums[]) {
#pragma GCC unroll 8
  for (int k = 0; k < GROUP; k++) {
    const __m512 keys = halves_at(rows + 32 * k);
    for (int h = 0; h < n; h++)
      sums[h] = _mm512_fmadd_ps(keys, _mm512_set1_ps(queries[(size_t)h * dims + (size_t)k]), sums[h]);
  }
}

INLINE void score(int n, size_t first, enum ek_type type, const uint8_t *const *blocks, size_t count, size_t dims,
                  const ek_activations *x, float *scores) {
  for (size_t b = 0; b < count; b++) {
    __m512 sums[MOST_SUMS];
    for (int h = 0; h < n; h++) sums[h] = _mm512_setzero_ps();
    const uint8_t *group = blocks[b];
    for (size_t k = 0; k < dims; k += GROUP, group += group_bytes(type)) {
      if (type == EK_TYPE_f16) {
        add_group_f16(n, group, x->values + first * dims + k, dims, sums);
      } else {
        add_group(n, type, group, x, first * dims + k, dims, sums);
      }
    }
    for (int h = 0; h < n; h++) _mm512_storeu_ps(scores + ((first + (size_t)h) * count + b) * EK_CACHE_BLOCK, sums[h]);
  }
}

#define KERNEL(type)                                                                                                   \
  void ek_scores_##type##_avx512vnni(const uint8_t *const *blocks, size_t count, size_t dims,                          \
                                     const ek_activations *queries, size_t query_count, float *scores) {               \
    FOR_QUERIES(score, query_count, EK_TYPE_##type, blocks, count, dims, queries, scores);                             \
  }

void ek_scores_f16_avx512vnni(const uint8_t *const *blocks, size_t count, size_t dims, const ek_activations *queries,
                              size_t query_count, float *scores) {
  const size_t whole = query_count / MOST_SUMS * MOST_SUMS;
  for (size_t first = 0; first < whole; first += MOST_SUMS)
    score(MOST_SUMS, first, EK_TYPE_f16, blocks, count, dims, queries, scores);
  const ek_activations rest = {.values = queries->values + whole * dims};
  float *out = scores + whole * count * EK_CACHE_BLOCK;
  FOR_QUERIES(score, query_count - whole, EK_TYPE_f16, blocks, count, dims, &rest, out);
}

KERNEL(q8_0)
KERNEL(q4_0)
