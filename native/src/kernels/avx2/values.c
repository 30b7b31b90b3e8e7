/* Weights times values: 16 dimensions at once are two vectors of floats for each query. */
#include "queries.h"

/* One half of a group of 32 dimensions: 16 of them at each position. */
enum { HALF_GROUP = 16 };

typedef struct weights {
  float of[MOST_QUERIES][EK_CACHE_TILE][EK_CACHE_BLOCK];
} weights;

/* sums[q] += weight * v for the position p of block b. */
INLINE void add_position(int n, const weights *w, size_t b, int p, const __m256 v[2], __m256 sums[][2]) {
  for (int q = 0; q < n; q++) {
    const __m256 weight = _mm256_set1_ps(w->of[q][b][p]);
    for (int i = 0; i < 2; i++) sums[q][i] = _mm256_fmadd_ps(v[i], weight, sums[q][i]);
  }
}

/* Rows of 32 halves. */
INLINE void add_f16_block(int n, const weights *w, size_t b, const uint8_t *half_group, __m256 sums[][2]) {
#pragma GCC unroll 1
  for (int p = 0; p < EK_CACHE_BLOCK; p++, half_group += 64) {
    const __m256 v[2] = {load_halves(half_group), load_halves(half_group + 16)};
    add_position(n, w, b, p, v, sums);
  }
}

/* A word is one dimension at four positions, or at eight of four bits: at the word's position for low nibbles and 8
 * later for high ones. */
INLINE void add_lanes_block(int n, int bits, const weights *w, size_t b, const uint8_t *half_group, __m256 sums[][2]) {
#pragma GCC unroll 1
  for (int first = 0; first < bits * 2; first += 4, half_group += 128) {
    const __m256i words[2] = {load(half_group), load(half_group + 32)};
    for (int field = 0; field < 32 / bits; field++) {
      const int p = bits == 8 ? first + field : first + field / 2 + 8 * (field % 2);
      __m256 v[2];
      for (int i = 0; i < 2; i++) {
        const __m256i top = _mm256_slli_epi32(words[i], 32 - bits - bits * field);
        v[i] = _mm256_cvtepi32_ps(_mm256_srai_epi32(top, 32 - bits));
      }
      add_position(n, w, b, p, v, sums);
    }
  }
}

INLINE size_t codes_bytes(enum ek_type type) { return type == EK_TYPE_f16 ? 1024 : type == EK_TYPE_q8_0 ? 512 : 256; }

INLINE size_t group_bytes(enum ek_type type) { return codes_bytes(type) + (type == EK_TYPE_f16 ? 0 : 32); }

/* The weights of a tile, times the scales of the positions in a group. */
INLINE void scale_weights(int n, enum ek_type type, const uint8_t *const *blocks, size_t count, size_t group,
                          const float *from, weights *to) {
  for (size_t q = 0; q < (size_t)n; q++) {
    for (size_t b = 0; b < count; b++) {
      const uint8_t *scales = blocks[b] + group * group_bytes(type) + codes_bytes(type);
      for (size_t i = 0; i < EK_CACHE_BLOCK; i += 8, from += 8) {
        __m256 w = _mm256_loadu_ps(from);
        if (type != EK_TYPE_f16) w = _mm256_mul_ps(w, load_halves(scales + 2 * i));
        _mm256_storeu_ps(to->of[q][b] + i, w);
      }
    }
  }
}

INLINE void add_values(int n, size_t first, enum ek_type type, const uint8_t *const *blocks, size_t count, size_t dims,
                       const float *from, const float *factors, float *out) {
  from += first * count * EK_CACHE_BLOCK;
  weights w;
  for (size_t d = 0; d < dims; d += HALF_GROUP) {
    const size_t group = d / 32, half = d % 32 / HALF_GROUP;
    if (d == 0 || (type != EK_TYPE_f16 && half == 0)) scale_weights(n, type, blocks, count, group, from, &w);
    __m256 sums[MOST_QUERIES][2];
    for (int q = 0; q < n; q++) sums[q][0] = sums[q][1] = _mm256_setzero_ps();
    for (size_t b = 0; b < count; b++) {
      const uint8_t *codes = blocks[b] + group * group_bytes(type);
      if (type == EK_TYPE_f16) {
        add_f16_block(n, &w, b, codes + 32 * half, sums);
      } else {
        add_lanes_block(n, type == EK_TYPE_q8_0 ? 8 : 4, &w, b, codes + 64 * half, sums);
      }
    }
    for (size_t q = 0; q < (size_t)n; q++) {
      const __m256 factor = _mm256_set1_ps(factors[first + q]);
      float *at = out + (first + q) * dims + d;
      for (int i = 0; i < 2; i++) {
        _mm256_storeu_ps(at + 8 * i, _mm256_fmadd_ps(factor, sums[q][i], _mm256_loadu_ps(at + 8 * i)));
      }
    }
  }
}

#define VALUES(type)                                                                                                   \
  void ek_values_##type##_avx2(const uint8_t *const *blocks, size_t count, size_t dims, const float *weights,          \
                               const float *factors, size_t query_count, float *out) {                                 \
    FOR_QUERIES(add_values, query_count, EK_TYPE_##type, blocks, count, dims, weights, factors, out);                  \
  }

VALUES(f16)
VALUES(q8_0)
VALUES(q4_0)
