/* Weights times values: 16 dimensions at once are two vectors of floats for each query. */
#include "../queries.h"
#include "vectors.h"

/* One half of a group of 32 dimensions: 16 of them at each position. */
enum { HALF_GROUP = 16 };

/* Of the positions of a block, times what their values are scaled with. */
typedef struct position_weights {
  float of[MOST_QUERIES][EK_CACHE_BLOCK];
} position_weights;

/* sums[q] += weight * v for the position p. */
INLINE void add_position(int n, const position_weights *w, int p, const __m256 v[2], __m256 sums[][2]) {
  for (int q = 0; q < n; q++) {
    const __m256 weight = _mm256_set1_ps(w->of[q][p]);
    for (int i = 0; i < 2; i++) sums[q][i] = _mm256_fmadd_ps(v[i], weight, sums[q][i]);
  }
}

/* Rows of 32 halves. */
INLINE void add_f16(int n, const position_weights *w, const uint8_t *half_group, __m256 sums[][2]) {
  for (int p = 0; p < EK_CACHE_BLOCK; p++, half_group += 64) {
    const __m256 v[2] = {load_halves(half_group), load_halves(half_group + 16)};
    add_position(n, w, p, v, sums);
  }
}

/* A word is one dimension at four positions from `first`, or at eight of four bits: at the word's positions for low
 * nibbles and 8 later for high ones. */
INLINE void add_words(int n, int bits, int first, const position_weights *w, const uint8_t *at, __m256 sums[][2]) {
  const __m256i words[2] = {load(at), load(at + 32)};
  for (int field = 0; field < 32 / bits; field++) {
    const int p = bits == 8 ? first + field : first + field / 2 + 8 * (field % 2);
    __m256 v[2];
    for (int i = 0; i < 2; i++) {
      const __m256i top = _mm256_slli_epi32(words[i], 32 - bits - bits * field);
      v[i] = _mm256_cvtepi32_ps(_mm256_srai_epi32(top, 32 - bits));
    }
    add_position(n, w, p, v, sums);
  }
}

INLINE void add_lanes(int n, int bits, const position_weights *w, const uint8_t *half_group, __m256 sums[][2]) {
  for (int first = 0; first < 2 * bits; first += 4) add_words(n, bits, first, w, half_group + 32 * first, sums);
}

/* weights: (n, stride); scales: of the positions, where the type has them. */
INLINE void scale_weights(int n, enum ek_type type, const uint8_t *scales, const float *weights, size_t stride,
                          const float *factors, position_weights *w) {
  for (size_t q = 0; q < (size_t)n; q++) {
    for (size_t i = 0; i < EK_CACHE_BLOCK; i += 8) {
      __m256 scaled = _mm256_mul_ps(_mm256_loadu_ps(weights + q * stride + i), _mm256_set1_ps(factors[q]));
      if (type != EK_TYPE_f16) scaled = _mm256_mul_ps(scaled, load_halves(scales + 2 * i));
      _mm256_storeu_ps(w->of[q] + i, scaled);
    }
  }
}

/* One group of a block; out is (n, dims). */
INLINE void add_group(int n, enum ek_type type, position_weights *w, const uint8_t *group, size_t dims, float *out) {
  for (size_t half = 0; half < 2; half++, out += HALF_GROUP) {
    /* The weights, to be read one by one into whole vectors: otherwise compilers, which see all indices, shuffle them
     * out of the registers that they were scaled in, before this loop, and spill the results. */
    __asm__("" : "+m"(*w));
    __m256 sums[MOST_QUERIES][2];
    for (int q = 0; q < n; q++) {
      for (int i = 0; i < 2; i++) sums[q][i] = _mm256_loadu_ps(out + (size_t)q * dims + 8 * i);
    }
    if (type == EK_TYPE_f16) {
      add_f16(n, w, group + 32 * half, sums);
    } else {
      add_lanes(n, type == EK_TYPE_q8_0 ? 8 : 4, w, group + 64 * half, sums);
    }
    for (int q = 0; q < n; q++) {
      for (int i = 0; i < 2; i++) _mm256_storeu_ps(out + (size_t)q * dims + 8 * i, sums[q][i]);
    }
  }
}

/* Blocks one after another, in the order of memory. */
INLINE void add_values(int n, size_t first, enum ek_type type, const uint8_t *const *blocks, size_t count, size_t dims,
                       const float *weights, const float *factors, float *out) {
  const size_t stride = count * EK_CACHE_BLOCK;
  out += first * dims;
  for (size_t b = 0; b < count; b++) {
    const float *of_block = weights + first * stride + b * EK_CACHE_BLOCK;
    position_weights w;
    for (size_t g = 0; g < dims / 32; g++) {
      const uint8_t *group = blocks[b] + g * group_bytes(type);
      const uint8_t *scales = group + code_bytes(type);
      if (g == 0 || type != EK_TYPE_f16) scale_weights(n, type, scales, of_block, stride, factors + first, &w);
      add_group(n, type, &w, group, dims, out + 32 * g);
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
