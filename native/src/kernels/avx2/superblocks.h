/* K types: integer scales of 16 or 32 columns under a half for 256, which x's scale is for too, so that all but the
 * last step of a superblock is exact in int32.
 * q4_k, q5_k: weight = d scale lane - dmin minimum. q6_k: weight = d scale[k / 16] (lane - 32). */
#ifndef EK_AVX2_SUPERBLOCKS_H
#define EK_AVX2_SUPERBLOCKS_H

#include "dot.h"

/* Bytes of a header's scales, tiles of a superblock, and tokens at once in gemm, each with a sum and a run of it. */
enum { HEADER_SCALE = 16, TILES = EK_SUPERBLOCK / 32, SUPERBLOCK_TOKENS = 4 };

INLINE size_t header_bytes(enum lanes lanes) { return lanes == SIX_BITS ? HEADER_SCALE : 2 * HEADER_SCALE; }

/* The scales of a tile, each row's as pairs of int16 in its word. */
typedef struct tile_scales {
  __m256i multiplier[2]; /* of columns 0 .. 15 and of 16 .. 31, twice each */
  __m256i less;          /* for the sums of each 16 codes; the product is taken away */
} tile_scales;

/* Bytes a + row and b + row for each row, as the upper bytes of the two int16 of its word. */
INLINE __m256i upper_bytes(__m256i bytes, int a, int b) {
  const __m256i rows = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  const __m256i from = _mm256_or_si256(_mm256_slli_epi32(_mm256_add_epi32(rows, _mm256_set1_epi32(a)), 8),
                                       _mm256_slli_epi32(_mm256_add_epi32(rows, _mm256_set1_epi32(b)), 24));
  return _mm256_shuffle_epi8(bytes, _mm256_or_si256(from, _mm256_set1_epi32(0x00800080)));
}

INLINE tile_scales load_scales(enum lanes lanes, const uint8_t *at) {
  const __m256i bytes = broadcast_16(at);
  tile_scales scales;
  if (lanes == SIX_BITS) {
    scales.multiplier[0] = _mm256_srai_epi16(upper_bytes(bytes, 0, 0), 8);
    scales.multiplier[1] = _mm256_srai_epi16(upper_bytes(bytes, 8, 8), 8);
    scales.less = _mm256_srai_epi16(upper_bytes(bytes, 0, 8), 3); /* times 32, the bias */
  } else {
    scales.multiplier[0] = scales.multiplier[1] = _mm256_srli_epi16(upper_bytes(bytes, 0, 0), 8);
    scales.less = _mm256_srli_epi16(upper_bytes(bytes, 8, 8), 8);
  }
  return scales;
}

/* sum += x's scale * (d * dot - dmin * less), but d for dmin with q6_k. */
INLINE __m256 add_superblock(enum lanes lanes, const uint8_t *header, __m256i dot, __m256i less, float scale,
                             __m256 sum) {
  if (lanes == SIX_BITS) dot = _mm256_sub_epi32(dot, less);
  __m256 value = _mm256_mul_ps(_mm256_cvtepi32_ps(dot), load_halves(header));
  if (lanes != SIX_BITS) {
    value = _mm256_fnmadd_ps(_mm256_cvtepi32_ps(less), load_halves(header + HEADER_SCALE), value);
  }
  return _mm256_fmadd_ps(value, _mm256_set1_ps(scale), sum);
}

INLINE __m256i add_less(__m256i multiplier, const int16_t *sums, __m256i less) {
  return _mm256_add_epi32(less, _mm256_madd_epi16(multiplier, broadcast_word(sums)));
}

INLINE void superblock_gemv(enum lanes lanes, const uint8_t *stripe, size_t rows, size_t columns,
                            const ek_activations *x, float *out) {
  for (size_t row = 0; row < rows; row += EK_STRIPE) {
    __m256 sum = _mm256_setzero_ps();
    for (size_t b = 0; b < columns / EK_SUPERBLOCK; b++) {
      const uint8_t *header = stripe;
      const int8_t *codes = x->codes + EK_SUPERBLOCK * b;
      const int16_t *sums = x->sums + 2 * TILES * b;
      __m256i dot = _mm256_setzero_si256(), less = dot;
      stripe += header_bytes(lanes);
#pragma GCC unroll 1
      for (int i = 0; i < TILES; i++, stripe += tile_bytes(lanes) + 16) {
        prefetch(stripe, tile_bytes(lanes) + 16);
        const segments w = unpack(lanes, stripe);
        const tile_scales scales = load_scales(lanes, stripe + tile_bytes(lanes));
        add_dots(lanes, &w, scales.multiplier, 1, codes + 32 * i, 0, &dot);
        less = add_less(scales.less, sums + 2 * i, less);
      }
      sum = add_superblock(lanes, header, dot, less, x->scales[b], sum);
    }
    store_rows(out + row, rows - row, sum);
  }
}

/* 256 columns of a stripe, unpacked once for all tokens. */
typedef struct superblock {
  const uint8_t *header;
  segments w[TILES];
  tile_scales scales[TILES];
} superblock;

INLINE const uint8_t *unpack_superblock(enum lanes lanes, const uint8_t *stripe, superblock *block) {
  block->header = stripe;
  stripe += header_bytes(lanes);
#pragma GCC unroll 1
  for (int i = 0; i < TILES; i++, stripe += tile_bytes(lanes) + 16) {
    block->w[i] = unpack(lanes, stripe);
    block->scales[i] = load_scales(lanes, stripe + tile_bytes(lanes));
  }
  return stripe;
}

/* Superblock b of a stripe with `tokens` tokens from `token`; out is (tokens, out_stride). */
INLINE void superblock_tokens(enum lanes lanes, const superblock *block, size_t b, size_t columns,
                              const ek_activations *x, size_t token, int tokens, float *out, size_t out_stride,
                              size_t rows) {
  const int8_t *codes = x->codes + token * columns + EK_SUPERBLOCK * b;
  __m256i dots[SUPERBLOCK_TOKENS], less[SUPERBLOCK_TOKENS];
  for (int t = 0; t < tokens; t++) dots[t] = less[t] = _mm256_setzero_si256();
#pragma GCC unroll 1
  for (int i = 0; i < TILES; i++) {
    add_dots(lanes, &block->w[i], block->scales[i].multiplier, tokens, codes + 32 * i, columns, dots);
  }
  /* apart from the dots, because 16 registers do not hold both */
  for (int t = 0; t < tokens; t++) {
    const int16_t *sums = x->sums + (token + (size_t)t) * (columns / 16) + 2 * TILES * b;
    for (int i = 0; i < TILES; i++) less[t] = add_less(block->scales[i].less, sums + 2 * i, less[t]);
  }
  for (int t = 0; t < tokens; t++) {
    const float scale = x->scales[(token + (size_t)t) * (columns / EK_SUPERBLOCK) + b];
    float *to = out + (size_t)t * out_stride;
    store_rows(to, rows, add_superblock(lanes, block->header, dots[t], less[t], scale, load_rows(to, rows, b == 0)));
  }
}

INLINE void superblock_gemm(enum lanes lanes, const uint8_t *stripe, size_t rows, size_t columns,
                            const ek_activations *x, size_t tokens, float *out, size_t out_stride) {
  for (size_t row = 0; row < rows; row += EK_STRIPE) {
    for (size_t b = 0; b < columns / EK_SUPERBLOCK; b++) {
      superblock block;
      stripe = unpack_superblock(lanes, stripe, &block);
      size_t t = 0;
      for (; t + SUPERBLOCK_TOKENS <= tokens; t += SUPERBLOCK_TOKENS) {
        superblock_tokens(lanes, &block, b, columns, x, t, SUPERBLOCK_TOKENS, out + t * out_stride + row, out_stride,
                          rows - row);
      }
      for (; t < tokens; t++) {
        superblock_tokens(lanes, &block, b, columns, x, t, 1, out + t * out_stride + row, out_stride, rows - row);
      }
    }
  }
}

#define SUPERBLOCK_KERNELS(name, lanes)                                                                                \
  void ek_gemv_##name##_avx2(const uint8_t *stripes, size_t rows, size_t columns, const ek_activations *x,             \
                             float *out) {                                                                             \
    superblock_gemv(lanes, stripes, rows, columns, x, out);                                                            \
  }                                                                                                                    \
  void ek_gemm_##name##_avx2(const uint8_t *stripes, size_t rows, size_t columns, const ek_activations *x,             \
                             size_t tokens, float *out, size_t out_stride) {                                           \
    superblock_gemm(lanes, stripes, rows, columns, x, tokens, out, out_stride);                                        \
  }

#endif
