/* gemm of types whose 256 columns share a float scale, see superblocks.h; after sdot.h or i8mm/smmla.h. */
#ifndef EK_DOTPROD_SUPER_GEMM_H
#define EK_DOTPROD_SUPER_GEMM_H

#include "output.h"
#include "superblocks.h"

enum { CHUNK_SUPERBLOCKS = 2 };

/* 256 columns of a panel. */
typedef struct panel_superblock {
  int8_t codes[8][32 * MOST_TOKENS];
  float code_sums[8][4 * TOKEN_VECTORS]; /* where the type has minima */
  int32_t starts[8][4 * MOST_TOKENS];    /* what the zero adds; where the type has a zero */
  float scales[4 * TOKEN_VECTORS];
} panel_superblock;

/* `count` tokens from `token`, superblock k of columns / 256. */
INLINE void fill_superblock(super_type type, const ek_activations *x, size_t columns, size_t k, size_t token,
                            size_t count, int tokens, panel_superblock *panel) {
  for (size_t j = 0; j < 8; j++) {
    fill_codes(x->codes + token * columns + EK_SUPERBLOCK * k + 32 * j, columns, count, tokens, panel->codes[j]);
  }
  for (int t = 0; t < tokens; t++) {
    const size_t at = (token + token_at((size_t)t, count)) * (columns / EK_SUPERBLOCK) + k;
    put_value(x->scales[at], t, panel->scales);
    if (!type.minima) continue;
    for (int j = 0; j < 8; j++) {
      const int16_t *halves = x->sums + 16 * at + 2 * j;
      const int sum = halves[0] + halves[1];
      put_value((float)sum, t, panel->code_sums[j]);
      if (type.zero) put_start(type.zero * lane_factor(type.lanes) * sum, t, panel->starts[j]);
    }
  }
}

/* Table lookups that take the values of a part's 4 rows from the 16 bytes after a tile, to the lowest byte of 32 bits;
 * signed ones to the highest. */
typedef struct super_places {
  uint8x16_t scales[2]; /* of each half */
  uint8x16_t minima;
} super_places;

INLINE super_places places_of(super_type type, int part) {
  const uint32_t first = 4 * (uint32_t)part;
  const uint32x4_t rows = {first, first + 1, first + 2, first + 3};
  const uint32x4_t low = vorrq_u32(rows, vdupq_n_u32(0xffffff00));
  const uint32x4_t high = vorrq_u32(vshlq_n_u32(rows, 24), vdupq_n_u32(0x00ffffff));
  return (super_places){
      {vreinterpretq_u8_u32(type.minima ? low : high), vreinterpretq_u8_u32(vaddq_u32(high, vdupq_n_u32(8u << 24)))},
      vreinterpretq_u8_u32(vaddq_u32(low, vdupq_n_u32(8)))};
}

/* The scales of half h of a tile, for all tiles where types have minima. */
INLINE row_values scales_at(super_type type, const super_places *places, uint8x16_t after, int h) {
  const int32x4_t bytes = vreinterpretq_s32_u8(vqtbl1q_u8(after, places->scales[h]));
  return of_rows(vreinterpretq_f32_s32(type.minima ? bytes : vshrq_n_s32(bytes, 24)));
}

/* products[tokens] += scale times dot product, of one tile's part. */
INLINE void add_super_tile(super_type type, const unpacker *u, const super_places *places, const uint8_t *tile,
                           int part, const int8_t *codes, const int32_t *starts, const int32_t **zeros, int tokens,
                           int32x4_t products[MOST_TOKENS]) {
  const int halves = type.minima ? 1 : 2, bundles = bundle_count(type.lanes) / halves;
  const uint8x16_t after = vld1q_u8(tile + tile_bytes(type.lanes));
  UNROLL for (int h = 0; h < halves; h++) {
    int32x4_t dots[MOST_TOKENS];
    UNROLL for (int a = 0; a < tokens; a += 2) {
      if (!type.zero) *zeros = opaque(*zeros);
      const int32_t *start = type.zero ? starts + 4 * a : *zeros;
      UNROLL for (int i = 0; i < 2; i++) dots[a + i] = vld1q_s32(start + 4 * i);
    }
    add_panel_dots(u, tile, part, h * bundles, bundles, codes, tokens, dots);
    const row_values scale = scales_at(type, places, after, h);
    UNROLL for (int a = 0; a < tokens; a++) {
      products[a] = vmlaq_s32(products[a], dots[a], vreinterpretq_s32_f32(scale.of[a % 2]));
    }
    finish(products, tokens);
  }
}

/* minima[tokens] = minimum times sum of codes, of the eight tiles' part. These are integers below 2^24, but floats are
 * multiplied in both vector pipes. */
INLINE void sum_minima(super_type type, const super_places *places, const uint8_t *tile, const panel_superblock *panel,
                       int tokens, float32x4_t minima[MOST_TOKENS]) {
  UNROLL for (int a = 0; a < tokens; a++) minima[a] = vdupq_n_f32(0);
  UNROLL for (int j = 0; j < 8; j++, tile += super_tile_bytes(type)) {
    const uint8x16_t m = vqtbl1q_u8(vld1q_u8(tile + tile_bytes(type.lanes)), places->minima);
    const row_values rows = of_rows(vcvtq_f32_u32(vreinterpretq_u32_u8(m)));
    float32x4_t code_sums[TOKEN_VECTORS];
    UNROLL for (int i = 0; i < TOKEN_VECTORS; i++) code_sums[i] = vld1q_f32(panel->code_sums[j] + 4 * i);
    UNROLL for (int a = 0; a < tokens; a++) minima[a] = add_times_tokens(minima[a], rows.of[a % 2], code_sums, a);
  }
}

/* sums[tokens] += those of a part, from its first superblock of the chunk. */
INLINE void super_chunk(super_type type, const uint8_t *block, int part, size_t count, const panel_superblock *panel,
                        int tokens, float32x4_t sums[MOST_TOKENS]) {
  const unpacker unpacking = unpacker_of(type.lanes);
  const super_places places = places_of(type, part);
  const int32_t *zeros = zero_starts;
#pragma GCC unroll 1
  for (size_t k = 0; k < count; k++, block += super_bytes(type), panel++) {
    EK_COST_BEGIN(gemm, type.type, tokens == MOST_TOKENS ? 256 : 0);
    const uint8_t *tile = block + super_header_bytes(type);
    int32x4_t products[MOST_TOKENS];
    float32x4_t minima[MOST_TOKENS];
    UNROLL for (int a = 0; a < tokens; a++) products[a] = vdupq_n_s32(0);
#pragma GCC unroll 1
    for (size_t j = 0; j < 8; j++, tile += super_tile_bytes(type)) {
      EK_COST_BEGIN(gemm, type.type, tokens == MOST_TOKENS ? 32 : 0);
      add_super_tile(type, &unpacking, &places, tile, part, panel->codes[j], panel->starts[j], &zeros, tokens,
                     products);
    }
    EK_COST_END(gemm, type.type, tokens == MOST_TOKENS ? 32 : 0);
    if (type.minima) sum_minima(type, &places, block + super_header_bytes(type), panel, tokens, minima);
    const float factor = 1.0f / (float)lane_factor(type.lanes);
    const row_values d = of_rows(vmulq_n_f32(load_4_halves(block + 8 * part), factor)),
                     dmin = of_rows(load_4_halves(block + (type.minima ? 16 : 0) + 8 * part));
    float32x4_t scales[TOKEN_VECTORS];
    UNROLL for (int i = 0; i < TOKEN_VECTORS; i++) scales[i] = vld1q_f32(panel->scales + 4 * i);
    UNROLL for (int a = 0; a < tokens; a++) {
      float32x4_t value = vmulq_f32(vcvtq_f32_s32(products[a]), d.of[a % 2]);
      if (type.minima) value = vfmsq_f32(value, minima[a], dmin.of[a % 2]);
      sums[a] = add_times_tokens(sums[a], value, scales, a);
    }
  }
  EK_COST_END(gemm, type.type, tokens == MOST_TOKENS ? 256 : 0);
}

INLINE void super_tokens(super_type type, const uint8_t *stripes, size_t rows, size_t columns, const ek_activations *x,
                         size_t token, size_t count, int tokens, float *out, size_t out_stride) {
  const size_t blocks = columns / EK_SUPERBLOCK, stripe_bytes = blocks * super_bytes(type);
  panel_superblock panel[CHUNK_SUPERBLOCKS];
  float32x4_t sums[MOST_TOKENS];
  for (size_t first = 0; first < blocks; first += CHUNK_SUPERBLOCKS) {
    const size_t some = blocks - first < CHUNK_SUPERBLOCKS ? blocks - first : CHUNK_SUPERBLOCKS;
    for (size_t k = 0; k < some; k++) {
      fill_superblock(type, x, columns, first + k, token, count, tokens, &panel[k]);
    }
    for (size_t row = 0; row < rows; row += PART_ROWS) {
      const uint8_t *block = stripes + row / EK_STRIPE * stripe_bytes + first * super_bytes(type);
      take_sums(out + row, out_stride, 1, tokens, rows - row, count, first == 0, sums);
      super_chunk(type, block, (int)(row / PART_ROWS % 2), some, panel, tokens, sums);
      put_sums(sums, 1, tokens, rows - row, count, out + row, out_stride);
    }
  }
}

INLINE void super_gemm(super_type type, ek_gemv_fn *gemv, const uint8_t *stripes, size_t rows, size_t columns,
                       const ek_activations *x, size_t tokens, float *out, size_t out_stride) {
  for (size_t token = 0; token < tokens; token += MOST_TOKENS, out += MOST_TOKENS * out_stride) {
    const size_t count = tokens - token < MOST_TOKENS ? tokens - token : MOST_TOKENS;
    if (count > MOST_TOKENS / 2) {
      super_tokens(type, stripes, rows, columns, x, token, count, MOST_TOKENS, out, out_stride);
    } else if (count > 1) {
      super_tokens(type, stripes, rows, columns, x, token, count, MOST_TOKENS / 2, out, out_stride);
    } else {
      const ek_activations one = {NULL, x->codes + token * columns, x->scales + token * (columns / EK_SUPERBLOCK), NULL,
                                  x->sums + token * (columns / 16)};
      gemv(stripes, rows, columns, &one, out);
    }
  }
}

#define SUPER_GEMM(name, level, ...)                                                                                   \
  void ek_gemm_##name##_##level(const uint8_t *stripes, size_t rows, size_t columns, const ek_activations *x,          \
                                size_t tokens, float *out, size_t out_stride) {                                        \
    super_gemm((super_type){.type = EK_TYPE_##name, __VA_ARGS__}, ek_gemv_##name##_dotprod, stripes, rows, columns, x, \
               tokens, out, out_stride);                                                                               \
  }
#define SUPER_KERNELS(name, ...) SUPER_GEMV(name, __VA_ARGS__) SUPER_GEMM(name, dotprod, __VA_ARGS__)

#endif
