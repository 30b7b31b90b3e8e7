/* Weights times values. Of a quantised block 16 codes, four positions of four dimensions, are multiplied at once:
 * weight x scale of a position becomes an integer of 16 bits, and those of a tile have a scale, a power of two, in
 * common. */
#include "../queries.h"
#include "vectors.h"

/* Dimensions at once. */
enum { WIDTH = 8, WIDTH_F16 = 16 };

/* 16 weights of a query. */
INLINE __m256i weights_at(const float *weights, size_t stride, size_t query, size_t block) {
  const uint8_t *of_query = (const uint8_t *)(weights + query * stride);
  return load(of_query + 2 * EK_CACHE_BLOCK * block);
}

/* --- quantised blocks --- */

/* The largest |scale| of a tile. */
INLINE uint16_t largest_scale(enum ek_type type, const uint8_t *const *blocks, size_t count, size_t at) {
  __m256i most = _mm256_setzero_si256(); /* as integers, halves without a sign are ordered */
  for (size_t b = 0; b < count; b++) {
    const __m256i bits = load(blocks[b] + at + code_bytes(type));
    most = _mm256_max_epi16(most, _mm256_and_si256(bits, _mm256_set1_epi16(0x7fff)));
  }
  uint16_t all[EK_CACHE_BLOCK], largest = 0;
  _mm256_storeu_si256((__m256i *)(void *)all, most);
  for (int p = 0; p < EK_CACHE_BLOCK; p++) largest = all[p] > largest ? all[p] : largest;
  return largest;
}

/* 8 of 2^14 half(power scale). */
INLINE __m256i scales_of(const uint8_t *halves, float power) {
  const __m256 scaled = _mm256_mul_ps(load_halves(halves), _mm256_set1_ps(power));
  const __m256 rounded = _mm256_cvtph_ps(_mm256_cvtps_ph(scaled, _MM_FROUND_TO_NEAREST_INT));
  return _mm256_cvttps_epi32(_mm256_mul_ps(rounded, _mm256_set1_ps(0x1p14f)));
}

/* Of the queries, at the positions of one block. */
typedef int16_t block_weights[MOST_QUERIES][EK_CACHE_BLOCK];

/* See queries.h. */
INLINE void scale_weights(int n, const uint8_t *scales, float power, const float *weights, size_t stride, size_t b,
                          block_weights to) {
  const __m256i both = _mm256_packs_epi32(scales_of(scales, power), scales_of(scales + 16, power));
  const __m256i d = _mm256_permute4x64_epi64(both, 0xd8);
  for (int h = 0; h < n; h++) {
    const __m256i x = _mm256_mulhrs_epi16(weights_at(weights, stride, (size_t)h, b), d);
    _mm256_storeu_si256((__m256i *)(void *)to[h], x);
  }
}

/* Sums of eight dimensions: of even positions and of odd ones side by side, the first four dimensions and the others.
 */
typedef struct sums_of_8 {
  __m256i first, second;
} sums_of_8;

/* Adds 16-bit codes of four positions. */
INLINE void add_four(int n, __m256i first, __m256i second, const block_weights weights, int p, sums_of_8 sums[]) {
  for (int h = 0; h < n; h++) {
    int64_t four;
    memcpy(&four, weights[h] + p, sizeof four);
    const __m256i w = _mm256_set1_epi64x(four);
    sums[h].first = _mm256_add_epi32(sums[h].first, _mm256_madd_epi16(first, w));
    sums[h].second = _mm256_add_epi32(sums[h].second, _mm256_madd_epi16(second, w));
  }
}

/* The low nibbles of 16 bytes, or the high ones, 16 times too large. */
INLINE __m256i low_nibbles(__m256i bytes) { return _mm256_srai_epi16(_mm256_slli_epi16(bytes, 12), 8); }
INLINE __m256i high_nibbles(__m256i bytes) {
  return _mm256_srai_epi16(_mm256_slli_epi16(_mm256_srli_epi16(bytes, 4), 12), 8);
}

/* Adds a block's 16 positions of eight dimensions, `lanes` those of the first four positions. */
INLINE void add_block(int n, enum ek_type type, const uint8_t *lanes, const block_weights weights, sums_of_8 sums[]) {
  for (int p = 0; p < (type == EK_TYPE_q8_0 ? 16 : 8); p += 4, lanes += 128) {
    const __m128i a = _mm_loadu_si128((const __m128i *)(const void *)lanes);
    const __m128i b = _mm_loadu_si128((const __m128i *)(const void *)(lanes + 16));
    if (type == EK_TYPE_q8_0) {
      add_four(n, _mm256_cvtepi8_epi16(a), _mm256_cvtepi8_epi16(b), weights, p, sums);
    } else {
      const __m256i first = _mm256_cvtepu8_epi16(a), second = _mm256_cvtepu8_epi16(b);
      add_four(n, low_nibbles(first), low_nibbles(second), weights, p, sums);
      add_four(n, high_nibbles(first), high_nibbles(second), weights, p + 8, sums);
    }
  }
}

/* Eight dimensions of a tile: out[query][0 .. 7]; `at` is where those of its first block are. */
INLINE void add_tile(int n, enum ek_type type, const uint8_t *const *blocks, size_t count, size_t at,
                     const block_weights *weights, const float *factors, size_t dims, float *out) {
  sums_of_8 sums[MOST_QUERIES];
  for (int h = 0; h < n; h++) sums[h].first = sums[h].second = _mm256_setzero_si256();
  for (size_t b = 0; b < count; b++) add_block(n, type, blocks[b] + at, weights[b], sums);
  for (int h = 0; h < n; h++) {
    const __m256i all = _mm256_permute4x64_epi64(_mm256_hadd_epi32(sums[h].first, sums[h].second), 0xd8);
    __m256 sum = _mm256_cvtepi32_ps(all);
    if (type == EK_TYPE_q4_0) sum = _mm256_mul_ps(sum, _mm256_set1_ps(0.0625f));
    float *to = out + (size_t)h * dims;
    _mm256_storeu_ps(to, _mm256_fmadd_ps(sum, _mm256_set1_ps(factors[h]), _mm256_loadu_ps(to)));
  }
}

/* 32 dimensions of a tile: out[query][0 .. 31]. */
INLINE void add_group(int n, enum ek_type type, const uint8_t *const *blocks, size_t count, size_t at,
                      const float *weights, const float *factors, size_t dims, float *out) {
  const tile_scaling scaling = tile_scaling_of(largest_scale(type, blocks, count, at));
  block_weights of_blocks[EK_CACHE_TILE];
  float scaled[MOST_QUERIES];
  for (size_t b = 0; b < count; b++) {
    scale_weights(n, blocks[b] + at + code_bytes(type), power_of_two(scaling.shift), weights, count * EK_CACHE_BLOCK, b,
                  of_blocks[b]);
  }
  for (int h = 0; h < n; h++) scaled[h] = factors[h] * scaling.inverse;
  for (size_t i = 0; i < GROUP; i += WIDTH) {
    add_tile(n, type, blocks, count, at + 4 * i, (const block_weights *)of_blocks, scaled, dims, out + i);
  }
}

/* --- f16 --- */

/* Weights as floats, by query and position. */
typedef float float_weights[EK_CACHE_TILE * EK_CACHE_BLOCK][MOST_QUERIES];

INLINE void widen_weights(int n, size_t count, const float *weights, float_weights to) {
  for (int h = 0; h < n; h++) {
    for (size_t b = 0; b < count; b++) {
      int16_t all[EK_CACHE_BLOCK];
      _mm256_storeu_si256((__m256i *)(void *)all, weights_at(weights, count * EK_CACHE_BLOCK, (size_t)h, b));
      for (size_t p = 0; p < EK_CACHE_BLOCK; p++) to[b * EK_CACHE_BLOCK + p][h] = all[p];
    }
  }
}

/* 16 dimensions of a tile: out[query][0 .. 15]. */
INLINE void add_tile_f16(int n, const uint8_t *const *blocks, size_t count, size_t at, const float_weights weights,
                         const float *factors, size_t dims, float *out) {
  __m256 sums[MOST_QUERIES][2];
  for (int h = 0; h < n; h++) sums[h][0] = sums[h][1] = _mm256_setzero_ps();
  for (size_t b = 0; b < count; b++) {
#pragma GCC unroll 4
    for (size_t p = 0; p < EK_CACHE_BLOCK; p++) {
      const uint8_t *row = blocks[b] + at + 64 * p;
      const __m256 values[2] = {load_halves(row), load_halves(row + 16)};
      for (int h = 0; h < n; h++) {
        const __m256 weight = _mm256_set1_ps(weights[b * EK_CACHE_BLOCK + p][h]);
        for (int i = 0; i < 2; i++) sums[h][i] = _mm256_fmadd_ps(values[i], weight, sums[h][i]);
      }
    }
  }
  for (int h = 0; h < n; h++) {
    for (int i = 0; i < 2; i++) {
      float *to = out + (size_t)h * dims + 8 * i;
      _mm256_storeu_ps(to, _mm256_fmadd_ps(sums[h][i], _mm256_set1_ps(factors[h]), _mm256_loadu_ps(to)));
    }
  }
}

INLINE void add_values(int n, size_t first, enum ek_type type, const uint8_t *const *blocks, size_t count, size_t dims,
                       const float *weights, const float *factors, float *out) {
  weights += first * count * EK_CACHE_BLOCK;
  factors += first;
  out += first * dims;
  if (type == EK_TYPE_f16) {
    float_weights widened;
    widen_weights(n, count, weights, widened);
    for (size_t k = 0; k < dims; k += WIDTH_F16) {
      const size_t at = k / GROUP * group_bytes(type) + k % GROUP * 2;
      add_tile_f16(n, blocks, count, at, (const float (*)[MOST_QUERIES])widened, factors, dims, out + k);
    }
  } else {
    for (size_t k = 0; k < dims; k += GROUP) {
      add_group(n, type, blocks, count, k / GROUP * group_bytes(type), weights, factors, dims, out + k);
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
