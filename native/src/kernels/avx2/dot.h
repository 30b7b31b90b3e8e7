/* Integer dot products of a tile's 8 rows with 32 codes.
 *
 * Segment s of a tile, 32 lanes, is the columns 4 s .. 4 s + 3 of all eight rows, a row in each word of a vector. So
 * four codes broadcast to all words, vpmaddubsw, then sums within words: eight rows at once and nothing to reduce.
 * vpmaddubsw multiplies unsigned by signed bytes and adds pairs, saturating. Lanes are made unsigned by adding `bias`,
 * which callers take back through the sums of the codes; lanes of 8 bits instead give their signs to the codes. */
#ifndef EK_AVX2_DOT_H
#define EK_AVX2_DOT_H

#include "vectors.h"

/* How a tile's lanes are held: in 4 bits, indices of iq4_nl's levels, in 5, 6 and 8 bits. */
enum lanes { NIBBLES, LEVELS, FIVE_BITS, SIX_BITS, BYTES };

INLINE size_t tile_bytes(enum lanes lanes) {
  return lanes == BYTES ? 256 : lanes == SIX_BITS ? 192 : lanes == FIVE_BITS ? 160 : 128;
}

/* Segments whose products one int16 holds: codes are at most 127, so that 8 * 2 * 15 * 127 = 30480 for four bits,
 * 4 * 2 * 31 * 127 = 31496 for five, 2 * 2 * 63 * 127 = 32004 for six, 2 * 128 * 127 = 32512 for eight. */
INLINE int run_of(enum lanes lanes) {
  return lanes == NIBBLES ? 8 : lanes == FIVE_BITS ? 4 : lanes == SIX_BITS ? 2 : 1;
}

typedef struct segments {
  __m256i s[8];
} segments;

INLINE __m256i masked(__m256i x, int mask) { return _mm256_and_si256(x, _mm256_set1_epi8((char)mask)); }
INLINE __m256i right(__m256i x, int bits, int mask) { return masked(_mm256_srli_epi16(x, bits), mask); }
INLINE __m256i left(__m256i x, int bits, int mask) { return masked(_mm256_slli_epi16(x, bits), mask); }
INLINE __m256i either(__m256i x, __m256i y) { return _mm256_or_si256(x, y); }
/* With the sign bits flipped, signed numbers of n bits become unsigned ones, 2^(n-1) more. */
INLINE __m256i flipped(const uint8_t *at, int signs) {
  return _mm256_xor_si256(load(at), _mm256_set1_epi8((char)signs));
}

INLINE segments unpack_nibbles(const uint8_t *tile) {
  segments w;
  for (int i = 0; i < 4; i++) {
    const __m256i bytes = load(tile + 32 * i);
    w.s[i] = masked(bytes, 15);
    w.s[i + 4] = right(bytes, 4, 15);
  }
  return w;
}

INLINE segments unpack_levels(const uint8_t *tile) {
  const __m256i levels = broadcast_16((const uint8_t *)ek_iq4_nl_levels);
  segments w = unpack_nibbles(tile);
  for (int i = 0; i < 8; i++) w.s[i] = _mm256_shuffle_epi8(levels, w.s[i]);
  return w;
}

/* Plus 16. The sign bits: the top ones of the planes, and those of segments 5 (A2), 6 (C2) and 7 (B0). */
INLINE segments unpack_five_bits(const uint8_t *tile) {
  const __m256i a = flipped(tile, 0x84), b = flipped(tile + 32, 0x81), c = flipped(tile + 64, 0x84);
  const __m256i d = flipped(tile + 96, 0x80), e = flipped(tile + 128, 0x80);
  segments w;
  w.s[0] = right(a, 3, 31);
  w.s[1] = right(b, 3, 31);
  w.s[2] = right(c, 3, 31);
  w.s[3] = right(d, 3, 31);
  w.s[4] = right(e, 3, 31);
  w.s[5] = either(left(a, 2, 28), right(b, 1, 3));
  w.s[6] = either(left(c, 2, 28), right(d, 1, 3));
  w.s[7] = either(either(left(b, 4, 16), left(d, 3, 8)), masked(e, 7));
  return w;
}

/* Plus 32. The sign bits: the top ones of the planes, and A1. */
INLINE segments unpack_six_bits(const uint8_t *tile) {
  segments w;
  for (int i = 0; i < 2; i++, tile += 96) {
    const __m256i a = flipped(tile, 0x82), b = flipped(tile + 32, 0x80), c = flipped(tile + 64, 0x80);
    w.s[4 * i] = right(a, 2, 63);
    w.s[4 * i + 1] = right(b, 2, 63);
    w.s[4 * i + 2] = right(c, 2, 63);
    w.s[4 * i + 3] = either(either(left(a, 4, 48), left(b, 2, 12)), masked(c, 3));
  }
  return w;
}

INLINE segments unpack(enum lanes lanes, const uint8_t *tile) {
  segments w;
  switch (lanes) {
  case NIBBLES:
    return unpack_nibbles(tile);
  case LEVELS:
    return unpack_levels(tile);
  case FIVE_BITS:
    return unpack_five_bits(tile);
  case SIX_BITS:
    return unpack_six_bits(tile);
  default:
    for (int i = 0; i < 8; i++) w.s[i] = load(tile + 32 * i);
    return w;
  }
}

/* x, once it is computed: without this GCC reorders the sums of several tokens into trees, which keep so many products
 * alive that most of them go through memory, and it has no function attribute against that. 165 instead of 147 GOP/s
 * for q8_0's gemm on a Zen 5, 255 instead of 164 for q4_0's. */
INLINE __m256i in_order(__m256i x) {
  __asm__("" : "+x"(x));
  return x;
}

/* sums[t] += sum_k multiplier[k / 16] * w[k] * codes[t * stride + k] for each row and t < tokens; the multipliers are
 * int16, equal in both halves of a row's word. */
INLINE void add_dots(enum lanes lanes, const segments *w, const __m256i multiplier[2], int tokens, const int8_t *codes,
                     size_t stride, __m256i *sums) {
  const int run = run_of(lanes);
  for (int first = 0; first < 8; first += run) {
    __m256i pairs[8];
    for (int s = first; s < first + run; s++) {
      const __m256i magnitude = lanes == BYTES || lanes == LEVELS ? _mm256_abs_epi8(w->s[s]) : w->s[s];
      for (int t = 0; t < tokens; t++) {
        __m256i code = broadcast_word(codes + (size_t)t * stride + 4 * s);
        if (lanes == BYTES || lanes == LEVELS) code = _mm256_sign_epi8(code, w->s[s]);
        const __m256i products = _mm256_maddubs_epi16(magnitude, code);
        pairs[t] = s == first ? products : in_order(_mm256_add_epi16(pairs[t], products));
      }
    }
    for (int t = 0; t < tokens; t++) {
      const __m256i products = _mm256_madd_epi16(pairs[t], multiplier[first / 4]);
      sums[t] = in_order(_mm256_add_epi32(sums[t], products));
    }
  }
}

#endif
