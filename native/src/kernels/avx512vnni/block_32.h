/* Types with a scale for each 32 columns: sum of d * code * x, or of (d * code + m) * x. */
#ifndef EK_AVX512VNNI_BLOCK_32_H
#define EK_AVX512VNNI_BLOCK_32_H

#include "gemv.h"
#include "panel.h"

/* What one type is, known when its kernels are compiled: a lane, as `unpack` gives it, is the true code + 8 * excess.
 */
typedef struct block_32 {
  void (*unpack)(const uint8_t *a, const uint8_t *b, __m512i lanes[8]);
  int excess, has_minima, tile_bytes;
} block_32;

/* From one tile to the next. */
INLINE size_t step_32(block_32 type) { return (size_t)type.tile_bytes + (type.has_minima ? 32 : 16); }

/* -1/8 of the halves m of two tiles: what multiplies offsets. */
INLINE __m512 minimum_32(block_32 type, const uint8_t *a, const uint8_t *b) {
  const __m512 m = load_pair_halves(a + type.tile_bytes + 16, b + type.tile_bytes + 16);
  return _mm512_mul_ps(m, _mm512_set1_ps(-0.125f));
}

/* What a dot product starts with to come out as that of true codes, from offsets, -8 times the sum of activations. */
INLINE __m512i start_32(block_32 type, __m512i offset) {
  if (type.excess == 16) return _mm512_slli_epi32(offset, 4);
  if (type.excess == 2) return _mm512_slli_epi32(offset, 1);
  return type.excess ? offset : _mm512_setzero_si512();
}

/* sum + a tile's scale * dot times the scale of x, then its minimum times the sum of x. */
INLINE __m256 add_tile(block_32 type, __m256 product, __m256 minimum, float scale, int32_t offset, __m256 sum) {
  sum = _mm256_fmadd_ps(product, _mm256_set1_ps(scale), sum);
  return type.has_minima ? _mm256_fmadd_ps(minimum, _mm256_set1_ps(scale * (float)offset), sum) : sum;
}

/* Tiles a and b, or a alone, times their activations. */
INLINE __m256 add_tiles(block_32 type, int tiles, const uint8_t *a, const uint8_t *b, __m512i codes,
                        const float *scales, const int32_t *offsets, __m256 sum) {
  __m512i lanes[8];
  type.unpack(a, b, lanes);
  const __m128i both = tiles == 2 ? _mm_loadl_epi64((const __m128i *)offsets) : _mm_cvtsi32_si128(offsets[0]);
  const __m512i front = dot_of_front(lanes, start_32(type, spread_two(both)), codes);
  const __m512i dot = _mm512_add_epi32(front, dot_of_back(lanes, _mm512_setzero_si512(), codes));
  const __m512 scale = load_pair_halves(a + type.tile_bytes, b + type.tile_bytes);
  const __m512 product = _mm512_mul_ps(_mm512_cvtepi32_ps(dot), scale);
  const __m512 minimum = type.has_minima ? minimum_32(type, a, b) : _mm512_setzero_ps();
  sum = add_tile(type, _mm512_castps512_ps256(product), _mm512_castps512_ps256(minimum), scales[0], offsets[0], sum);
  if (tiles == 1) return sum;
  return add_tile(type, upper_half(product), upper_half(minimum), scales[1], offsets[1], sum);
}

INLINE void gemv_32(block_32 type, const uint8_t *stripes, size_t rows, size_t columns, const ek_activations *x,
                    float *out) {
  const size_t step = step_32(type);
  for (size_t row = 0; row < rows; row += EK_STRIPE) {
    __m256 sum = _mm256_setzero_ps();
    size_t k = 0;
    for (; k + 64 <= columns; k += 64) {
      prefetch_next(stripes, 2 * (int)step);
      sum = add_tiles(type, 2, stripes, stripes + step, _mm512_loadu_si512(x->codes + k), x->scales + k / 32,
                      x->offsets + k / 32, sum);
      stripes += 2 * step;
    }
    if (k < columns) { /* a last tile, in both halves */
      const __m512i codes = _mm512_zextsi256_si512(_mm256_loadu_si256((const __m256i *)(x->codes + k)));
      sum = add_tiles(type, 1, stripes, stripes, codes, x->scales + k / 32, x->offsets + k / 32, sum);
      stripes += step;
    }
    store_rows(out + row, rows - row, sum);
  }
}

/* 32 columns of a pair of stripes and of the first of some tokens of a panel; the chains of dependent products of a few
 * tokens run side by side. */
INLINE void add_products_32(block_32 type, int tokens, const uint8_t *a, const uint8_t *b, const int8_t *codes,
                            const float *scales, const int32_t *offsets, __m512 sums[]) {
  enum { CHAINS = 4 };
  __m512i lanes[8];
  type.unpack(a, b, lanes);
  const __m512 scale = load_pair_halves(a + type.tile_bytes, b + type.tile_bytes);
  const __m512 minimum = type.has_minima ? minimum_32(type, a, b) : _mm512_setzero_ps();
  UNROLL for (int t = 0; t < tokens; t += CHAINS) {
    const int chains = tokens < CHAINS ? tokens : CHAINS;
    __m512i dot[CHAINS];
    UNROLL for (int c = 0; c < chains; c++) {
      dot[c] = type.excess ? _mm512_set1_epi32(offsets[(t + c) * PANEL_GROUPS]) : _mm512_setzero_si512();
    }
    UNROLL for (int i = 0; i < 8; i++) {
      UNROLL for (int c = 0; c < chains; c++) {
        dot[c] = _mm512_dpbusd_epi32(dot[c], lanes[i], broadcast_codes(codes + (t + c) * PANEL_COLUMNS + 4 * i));
      }
    }
    UNROLL for (int c = 0; c < chains; c++) {
      const float of_x = scales[(t + c) * PANEL_GROUPS];
      const __m512 product = _mm512_mul_ps(_mm512_cvtepi32_ps(dot[c]), scale);
      sums[t + c] = _mm512_fmadd_ps(product, _mm512_set1_ps(of_x), sums[t + c]);
      if (type.has_minima) {
        const __m512 sum_of_x = _mm512_set1_ps(of_x * (float)offsets[(t + c) * PANEL_GROUPS]);
        sums[t + c] = _mm512_fmadd_ps(minimum, sum_of_x, sums[t + c]);
      }
    }
  }
}

INLINE void pair_32(block_32 type, int tokens, const uint8_t *a, const uint8_t *b, __mmask16 rows, size_t columns,
                    const ek_panel *x, size_t first, int add, float *out, size_t out_stride) {
  const size_t step = step_32(type);
  __m512 sums[MOST_TOKENS];
  load_tokens(tokens, sums, rows, add, out, out_stride);
  for (size_t g = 0; g < columns / 32; g++) {
    add_products_32(type, tokens, a + g * step, b + g * step, &x->codes[first][32 * g], &x->scales[first][g],
                    &x->offsets[first][g], sums);
  }
  store_tokens(tokens, sums, rows, out, out_stride);
}

/* The kernels of a type: ek_gemv_<name>_avx512vnni and ek_gemm_<name>_avx512vnni. */
#define BLOCK_32_KERNELS(name, ...)                                                                                    \
  static const block_32 type = __VA_ARGS__;                                                                            \
  GEMM_OF_PAIRS(name, pair_32, type, type.excess ? type.excess : 1)                                                    \
  void ek_gemv_##name##_avx512vnni(const uint8_t *stripes, size_t rows, size_t columns, const ek_activations *x,       \
                                   float *out) {                                                                       \
    gemv_32(type, stripes, rows, columns, x, out);                                                                     \
  }

#endif
