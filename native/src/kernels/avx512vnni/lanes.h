/* Weights of 16 rows, two stripes, as unsigned bytes: what vpdpbusd multiplies with activation codes.
 *
 * A vector of weights holds four columns: 8 rows of stripe a, then 8 of stripe b, four bytes each, so that the four
 * codes of a token are one broadcast operand. Lanes that are signed get half their range added (an exclusive or of the
 * top bit); that and the type's own zero return by way of the activations' sums. */
#ifndef EK_AVX512VNNI_LANES_H
#define EK_AVX512VNNI_LANES_H

#include "../stripe.h"

#include <immintrin.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
/* For loops over arrays that are to live in registers. */
#define UNROLL _Pragma("GCC unroll 16")

/* What lies `ahead` may be beyond the end of the weights: a prefetch of it is no fault, a pointer to it would be. */
INLINE void prefetch(const uint8_t *at, size_t ahead) {
  _mm_prefetch((const char *)((uintptr_t)at + ahead), _MM_HINT_T0);
}

/* 32 bytes of each stripe. */
INLINE __m512i load_pair(const uint8_t *a, const uint8_t *b) {
  const __m512i low = _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)a));
  return _mm512_inserti64x4(low, _mm256_loadu_si256((const __m256i *)b), 1);
}

/* 8 bytes of each. */
INLINE __m128i load_pair_bytes(const uint8_t *a, const uint8_t *b) {
  return _mm_unpacklo_epi64(_mm_loadl_epi64((const __m128i *)a), _mm_loadl_epi64((const __m128i *)b));
}

/* 8 halves of each. */
INLINE __m512 load_pair_halves(const uint8_t *a, const uint8_t *b) {
  const __m256i low = _mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)a));
  return _mm512_cvtph_ps(_mm256_inserti128_si256(low, _mm_loadu_si128((const __m128i *)b), 1));
}

/* mask ? a : b, for each bit */
INLINE __m512i select_bits(__m512i mask, __m512i a, __m512i b) { return _mm512_ternarylogic_epi32(mask, a, b, 0xca); }

/* a & b ^ c */
INLINE __m512i and_xor(__m512i a, __m512i b, __m512i c) { return _mm512_ternarylogic_epi32(a, b, c, 0x6a); }

INLINE void unpack_4(const uint8_t *a, const uint8_t *b, __m512i lanes[8]) {
  const __m512i low = _mm512_set1_epi8(15);
  UNROLL for (int i = 0; i < 4; i++) {
    const __m512i x = load_pair(a + 32 * i, b + 32 * i);
    lanes[i] = _mm512_and_si512(x, low);
    lanes[i + 4] = _mm512_and_si512(_mm512_srli_epi16(x, 4), low);
  }
}

/* lane + 16. Shifts of 16-bit elements bring in bits of the neighbour, which the masks drop. */
INLINE void unpack_5(const uint8_t *a, const uint8_t *b, __m512i lanes[8]) {
  const __m512i all = _mm512_set1_epi8(31), top = _mm512_set1_epi8(16);
  __m512i p[5];
  UNROLL for (int i = 0; i < 5; i++) {
    p[i] = load_pair(a + 32 * i, b + 32 * i);
    lanes[i] = and_xor(_mm512_srli_epi16(p[i], 3), all, top);
  }
  const __m512i upper_3 = _mm512_set1_epi8(28), upper_2 = _mm512_set1_epi8(24);
  const __m512i ab = select_bits(upper_3, _mm512_slli_epi16(p[0], 2), _mm512_srli_epi16(p[1], 1));
  const __m512i cd = select_bits(upper_3, _mm512_slli_epi16(p[2], 2), _mm512_srli_epi16(p[3], 1));
  const __m512i bd = select_bits(top, _mm512_slli_epi16(p[1], 4), _mm512_slli_epi16(p[3], 3));
  lanes[5] = and_xor(ab, all, top);
  lanes[6] = and_xor(cd, all, top);
  lanes[7] = and_xor(select_bits(upper_2, bd, p[4]), all, top);
}

/* lane + 32 */
INLINE void unpack_6(const uint8_t *a, const uint8_t *b, __m512i lanes[8]) {
  const __m512i all = _mm512_set1_epi8(63), top = _mm512_set1_epi8(32);
  const __m512i upper_2 = _mm512_set1_epi8(48), upper_4 = _mm512_set1_epi8(60);
  UNROLL for (int i = 0; i < 8; i += 4) {
    __m512i p[3];
    UNROLL for (int j = 0; j < 3; j++) {
      p[j] = load_pair(a + 24 * i + 32 * j, b + 24 * i + 32 * j);
      lanes[i + j] = and_xor(_mm512_srli_epi16(p[j], 2), all, top);
    }
    const __m512i ab = select_bits(upper_2, _mm512_slli_epi16(p[0], 4), _mm512_slli_epi16(p[1], 2));
    lanes[i + 3] = and_xor(select_bits(upper_4, ab, p[2]), all, top);
  }
}

/* lane + 128 */
INLINE void unpack_8(const uint8_t *a, const uint8_t *b, __m512i lanes[8]) {
  UNROLL for (int i = 0; i < 8; i++) {
    lanes[i] = _mm512_xor_si512(load_pair(a + 32 * i, b + 32 * i), _mm512_set1_epi8(-128));
  }
}

/* level + 128 */
INLINE void unpack_levels(const uint8_t *a, const uint8_t *b, __m512i lanes[8]) {
  const __m128i signed_levels = _mm_loadu_si128((const __m128i *)ek_iq4_nl_levels);
  const __m512i levels = _mm512_broadcast_i32x4(_mm_xor_si128(signed_levels, _mm_set1_epi8(-128)));
  unpack_4(a, b, lanes);
  UNROLL for (int i = 0; i < 8; i++) lanes[i] = _mm512_shuffle_epi8(levels, lanes[i]);
}

/* Four codes of a token for all rows; four bytes at any alignment. */
INLINE __m512i broadcast_codes(const int8_t *codes) {
  int32_t four;
  memcpy(&four, codes, sizeof four);
  return _mm512_set1_epi32(four);
}

#endif
