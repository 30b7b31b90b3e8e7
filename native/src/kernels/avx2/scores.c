/* Queries times keys: the 16 positions of a block are two vectors of floats. */
#include "../queries.h"
#include "dot.h"

INLINE void f16_scores(int n, size_t first, const uint8_t *const *blocks, size_t count, size_t dims,
                       const ek_activations *queries, float *scores) {
  const float *query = queries->values + first * dims;
  for (size_t b = 0; b < count; b++) {
    const uint8_t *keys = blocks[b];
    __m256 sums[MOST_QUERIES][2];
    for (int q = 0; q < n; q++) sums[q][0] = sums[q][1] = _mm256_setzero_ps();
    for (size_t d = 0; d < dims; d++, keys += 32) {
      const __m256 low = load_halves(keys), high = load_halves(keys + 16);
      for (int q = 0; q < n; q++) {
        const __m256 x = _mm256_set1_ps(query[(size_t)q * dims + d]);
        sums[q][0] = _mm256_fmadd_ps(low, x, sums[q][0]);
        sums[q][1] = _mm256_fmadd_ps(high, x, sums[q][1]);
      }
    }
    for (int q = 0; q < n; q++) {
      float *out = scores + ((first + (size_t)q) * count + b) * EK_CACHE_BLOCK;
      _mm256_storeu_ps(out, sums[q][0]);
      _mm256_storeu_ps(out + 8, sums[q][1]);
    }
  }
}

/* Eight positions are the rows of a tile, of which the segments are 64 bytes apart; nibbles become unsigned, 8 more,
 * which the queries' offsets take back. */
INLINE segments unpack_keys(enum lanes lanes, const uint8_t *keys) {
  segments w;
  for (int i = 0; i < 8; i++) {
    if (lanes == BYTES) {
      w.s[i] = load(keys + 64 * i);
    } else {
      const __m256i nibbles = flipped(keys + 64 * (i % 4), 0x88);
      w.s[i] = i < 4 ? masked(nibbles, 15) : right(nibbles, 4, 15);
    }
  }
  return w;
}

INLINE void quantised_scores(int n, size_t first, enum lanes lanes, const uint8_t *const *blocks, size_t count,
                             size_t dims, const ek_activations *queries, float *scores) {
  const __m256i ones[2] = {_mm256_set1_epi16(1), _mm256_set1_epi16(1)};
  const size_t groups = dims / 32, codes_bytes = lanes == BYTES ? 512 : 256, group_bytes = codes_bytes + 32;
  for (size_t b = 0; b < count; b++) {
    for (size_t half = 0; half < 2; half++) {
      __m256 sums[MOST_QUERIES];
      for (int q = 0; q < n; q++) sums[q] = _mm256_setzero_ps();
#pragma GCC unroll 1
      for (size_t g = 0; g < groups; g++) {
        const uint8_t *keys = blocks[b] + g * group_bytes + 32 * half;
        const segments w = unpack_keys(lanes, keys);
        const __m256 d = load_halves(blocks[b] + g * group_bytes + codes_bytes + 16 * half);
        const size_t at = first * groups + g;
        __m256i dots[MOST_QUERIES];
        for (int q = 0; q < n; q++) {
          const size_t i = at + (size_t)q * groups;
          dots[q] = lanes == BYTES ? _mm256_setzero_si256() : _mm256_set1_epi32(queries->offsets[i]);
        }
        add_dots(lanes, &w, ones, n, queries->codes + 32 * at, dims, dots);
        for (int q = 0; q < n; q++) {
          const __m256 scales = _mm256_mul_ps(d, _mm256_set1_ps(queries->scales[at + (size_t)q * groups]));
          sums[q] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots[q]), scales, sums[q]);
        }
      }
      for (int q = 0; q < n; q++) {
        _mm256_storeu_ps(scores + ((first + (size_t)q) * count + b) * EK_CACHE_BLOCK + 8 * half, sums[q]);
      }
    }
  }
}

void ek_scores_f16_avx2(const uint8_t *const *blocks, size_t count, size_t dims, const ek_activations *queries,
                        size_t query_count, float *scores) {
  FOR_QUERIES(f16_scores, query_count, blocks, count, dims, queries, scores);
}

void ek_scores_q8_0_avx2(const uint8_t *const *blocks, size_t count, size_t dims, const ek_activations *queries,
                         size_t query_count, float *scores) {
  FOR_QUERIES(quantised_scores, query_count, BYTES, blocks, count, dims, queries, scores);
}

void ek_scores_q4_0_avx2(const uint8_t *const *blocks, size_t count, size_t dims, const ek_activations *queries,
                         size_t query_count, float *scores) {
  FOR_QUERIES(quantised_scores, query_count, NIBBLES, blocks, count, dims, queries, scores);
}
