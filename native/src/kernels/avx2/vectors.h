/* What the AVX2 matrix products share: loads, stores and the edge of a matrix. */
#ifndef EK_AVX2_VECTORS_H
#define EK_AVX2_VECTORS_H

#include "../stripe.h"

#include <immintrin.h>
#include <string.h>

/* The templates of these headers are specialised by constant arguments, so they have to be inlined. */
#define INLINE static inline __attribute__((always_inline))

INLINE __m256i load(const uint8_t *at) { return _mm256_loadu_si256((const __m256i *)at); }

INLINE __m256 load_halves(const uint8_t *at) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)at)); }

/* The same four bytes in each of the eight words. */
INLINE __m256i broadcast_word(const void *at) {
  int32_t word;
  memcpy(&word, at, sizeof word);
  return _mm256_set1_epi32(word);
}

/* The same 16 bytes in both halves. */
INLINE __m256i broadcast_16(const uint8_t *at) {
  return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)at));
}

/* How far ahead of their use gemv asks for weights: hardware prefetchers stop at the end of a page, which left q4_0 and
 * q4_k at 90 % of the speed of a plain read loop on a Zen 5, now 110 %. The best of 4, 8, 12 and 16 KiB. */
enum { AHEAD = 8192 };

/* For the bytes that are to be used next; an address that is not mapped is no fault. */
INLINE void prefetch(const uint8_t *at, size_t bytes) {
  for (size_t i = 0; i < bytes; i += 64) _mm_prefetch((const char *)at + AHEAD + i, _MM_HINT_T0);
}

/* All bits of the words below `count`. */
INLINE __m256i first_words(size_t count) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

/* out[0 .. rows), of at most 8. */
INLINE void store_rows(float *out, size_t rows, __m256 sums) {
  if (rows >= EK_STRIPE) {
    _mm256_storeu_ps(out, sums);
  } else {
    _mm256_maskstore_ps(out, first_words(rows), sums);
  }
}

/* What sums go on from: out[0 .. rows), or 0 where this is the first part of the columns. */
INLINE __m256 load_rows(const float *out, size_t rows, int first) {
  if (first) return _mm256_setzero_ps();
  return rows >= EK_STRIPE ? _mm256_loadu_ps(out) : _mm256_maskload_ps(out, first_words(rows));
}

#endif
