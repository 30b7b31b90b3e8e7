/* Types whose 256 columns share halves that multiply small integer scales. Activations have one scale for them all, so
 * sums are of integers, exact, up to the end of a superblock: at most 256 * 31 * 63 * 127 or 256 * 63 * 128 * 127 in
 * magnitude. */
#ifndef EK_AVX512VNNI_BLOCK_256_H
#define EK_AVX512VNNI_BLOCK_256_H

#include "gemv.h"
#include "panel.h"

/* What one type is, known when its kernels are compiled. q4_k and q5_k have minima and unsigned codes; q6_k has scales
 * of 16 columns, int8, and lanes of the true code + 32. */
typedef struct block_256 {
  void (*unpack)(const uint8_t *a, const uint8_t *b, __m512i lanes[8]);
  int is_q6_k, tile_bytes, header_bytes;
} block_256;

/* The integer scales after tiles a and b; `factors` has for each row a pair of int16 that multiply the sums of the
 * activations of columns 0 .. 15 and 16 .. 31: minima, or of q6_k the scales. */
typedef struct scales_256 {
  __m512i front, back, factors;
} scales_256;

INLINE scales_256 load_scales_256(block_256 type, const uint8_t *a, const uint8_t *b) {
  const __m128i first = load_pair_bytes(a + type.tile_bytes, b + type.tile_bytes);
  const __m128i second = load_pair_bytes(a + type.tile_bytes + 8, b + type.tile_bytes + 8);
  scales_256 scales;
  if (type.is_q6_k) {
    scales.front = _mm512_cvtepi8_epi32(first);
    scales.back = _mm512_cvtepi8_epi32(second);
    scales.factors = _mm512_mask_blend_epi16(0xaaaaaaaa, scales.front, _mm512_slli_epi32(scales.back, 16));
  } else {
    const __m512i minima = _mm512_cvtepu8_epi32(second);
    scales.front = scales.back = _mm512_cvtepu8_epi32(first);
    scales.factors = _mm512_or_si512(minima, _mm512_slli_epi32(minima, 16));
  }
  return scales;
}

/* A superblock's result but for the activations' scale, from the sums of scale * code * x and of factors * sums; its
 * header is at a and b. */
INLINE __m512 product_256(block_256 type, const uint8_t *a, const uint8_t *b, __m512i dot, __m512i of_sums) {
  const __m512 scale = load_pair_halves(a, b);
  if (type.is_q6_k) {
    return _mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_sub_epi32(dot, _mm512_slli_epi32(of_sums, 5))), scale);
  }
  const __m512 minimum = load_pair_halves(a + 16, b + 16);
  return _mm512_fnmadd_ps(_mm512_cvtepi32_ps(of_sums), minimum, _mm512_mul_ps(_mm512_cvtepi32_ps(dot), scale));
}

/* Adds a superblock's pairs of tiles, from its header on, to *dot and *of_sums, see product_256. */
INLINE void add_superblock(block_256 type, const uint8_t *at, const int8_t *codes, const int16_t *sums, __m512i *dot,
                           __m512i *of_sums) {
  const size_t step = (size_t)type.tile_bytes + 16;
  const __m512i zero = _mm512_setzero_si512();
  at += type.header_bytes;
  for (int j = 0; j < 8; j += 2) {
    __m512i lanes[8];
    prefetch_next(at, 2 * (int)step);
    type.unpack(at, at + step, lanes);
    const scales_256 scales = load_scales_256(type, at, at + step);
    const __m512i x = _mm512_loadu_si512(codes);
    if (type.is_q6_k) {
      const __m512i front = _mm512_mullo_epi32(dot_of_front(lanes, zero, x), scales.front);
      const __m512i back = _mm512_mullo_epi32(dot_of_back(lanes, zero, x), scales.back);
      *dot = _mm512_add_epi32(*dot, _mm512_add_epi32(front, back));
    } else {
      const __m512i both = _mm512_add_epi32(dot_of_front(lanes, zero, x), dot_of_back(lanes, zero, x));
      *dot = _mm512_add_epi32(*dot, _mm512_mullo_epi32(both, scales.front));
    }
    const __m128i two_pairs = _mm_loadl_epi64((const __m128i *)(sums + 2 * j));
    *of_sums = _mm512_dpwssd_epi32(*of_sums, scales.factors, spread_two(two_pairs));
    at += 2 * step;
    codes += 64;
  }
}

INLINE void gemv_256(block_256 type, const uint8_t *stripes, size_t rows, size_t columns, const ek_activations *x,
                     float *out) {
  const size_t bytes = (size_t)type.header_bytes + 8 * ((size_t)type.tile_bytes + 16);
  for (size_t row = 0; row < rows; row += EK_STRIPE) {
    __m256 results = _mm256_setzero_ps();
    for (size_t block = 0; block < columns / EK_SUPERBLOCK; block++) {
      __m512i dot = _mm512_setzero_si512(), of_sums = _mm512_setzero_si512();
      add_superblock(type, stripes, x->codes + block * EK_SUPERBLOCK, x->sums + 16 * block, &dot, &of_sums);
      const __m512i dots = _mm512_castsi256_si512(sum_of_halves(dot));
      const __m512i all_of_sums = _mm512_castsi256_si512(sum_of_halves(of_sums));
      const __m512 product = product_256(type, stripes, stripes, dots, all_of_sums);
      results = _mm256_fmadd_ps(_mm512_castps512_ps256(product), _mm256_set1_ps(x->scales[block]), results);
      stripes += bytes;
    }
    store_rows(out + row, rows - row, results);
  }
}

/* Adds scale * lane * x over `count` vectors of lanes, four columns each; the chains of
 * dependent products of a few tokens run side by side. */
INLINE void add_dots_256(const __m512i lanes[], int count, __m512i scale, const int8_t *codes, int tokens,
                         __m512i sums[]) {
  enum { CHAINS = 4 };
  UNROLL for (int t = 0; t < tokens; t += CHAINS) {
    const int chains = tokens < CHAINS ? tokens : CHAINS;
    __m512i dot[CHAINS];
    UNROLL for (int c = 0; c < chains; c++) dot[c] = _mm512_setzero_si512();
    UNROLL for (int i = 0; i < count; i++) {
      UNROLL for (int c = 0; c < chains; c++) {
        dot[c] = _mm512_dpbusd_epi32(dot[c], lanes[i], broadcast_codes(codes + (t + c) * PANEL_COLUMNS + 4 * i));
      }
    }
    UNROLL for (int c = 0; c < chains; c++) {
      sums[t + c] = _mm512_add_epi32(sums[t + c], _mm512_mullo_epi32(dot[c], scale));
    }
  }
}

/* Factors of 8 tiles times the 16 sums of a token's codes. */
INLINE __m512i dot_of_sums(const __m512i factors[8], const int16_t *sums) {
  __m512i dot[2] = {_mm512_setzero_si512(), _mm512_setzero_si512()};
  UNROLL for (int j = 0; j < 8; j++) {
    int32_t two;
    memcpy(&two, sums + 2 * j, sizeof two);
    dot[j % 2] = _mm512_dpwssd_epi32(dot[j % 2], factors[j], _mm512_set1_epi32(two));
  }
  return _mm512_add_epi32(dot[0], dot[1]);
}

/* A superblock, the whole width of a panel. */
INLINE void pair_256(block_256 type, int tokens, const uint8_t *a, const uint8_t *b, __mmask16 rows, size_t columns,
                     const ek_panel *x, size_t first, int add, float *out, size_t out_stride) {
  const size_t step = (size_t)type.tile_bytes + 16;
  __m512i sums[MOST_TOKENS], lanes[8], factors[8];
  const int16_t *code_sums = x->sums[first];
  const float *x_scales = x->scales[first];
  UNROLL for (int t = 0; t < tokens; t++) sums[t] = _mm512_setzero_si512();
  for (size_t k = 0; k < columns; k += 32) {
    const size_t tile = (size_t)type.header_bytes + k / 32 * step;
    const scales_256 scales = load_scales_256(type, a + tile, b + tile);
    factors[k / 32] = scales.factors;
    type.unpack(a + tile, b + tile, lanes);
    if (type.is_q6_k) {
      add_dots_256(lanes, 4, scales.front, &x->codes[first][k], tokens, sums);
      add_dots_256(lanes + 4, 4, scales.back, &x->codes[first][k + 16], tokens, sums);
    } else {
      add_dots_256(lanes, 8, scales.front, &x->codes[first][k], tokens, sums);
    }
  }
  UNROLL for (int t = 0; t < tokens; t++, out += out_stride) {
    const __m512 product = product_256(type, a, b, sums[t], dot_of_sums(factors, code_sums + t * 2 * PANEL_GROUPS));
    __m512 result; /* one token at a time: there are no registers for those of all */
    load_tokens(1, &result, rows, add, out, out_stride);
    result = _mm512_fmadd_ps(product, _mm512_set1_ps(x_scales[t * PANEL_GROUPS]), result);
    store_tokens(1, &result, rows, out, out_stride);
  }
}

/* The kernels of a type: ek_gemv_<name>_avx512vnni and ek_gemm_<name>_avx512vnni. */
#define BLOCK_256_KERNELS(name, ...)                                                                                   \
  static const block_256 type = __VA_ARGS__;                                                                           \
  GEMM_OF_PAIRS(name, pair_256, type, 1)                                                                               \
  void ek_gemv_##name##_avx512vnni(const uint8_t *stripes, size_t rows, size_t columns, const ek_activations *x,       \
                                   float *out) {                                                                       \
    gemv_256(type, stripes, rows, columns, x, out);                                                                    \
  }

#endif
