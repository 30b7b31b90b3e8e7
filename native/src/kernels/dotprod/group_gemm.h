/* gemm of types with a scale for each 32 columns, see groups.h; after sdot.h or i8mm/smmla.h. */
#ifndef EK_DOTPROD_GROUP_GEMM_H
#define EK_DOTPROD_GROUP_GEMM_H

#include "groups.h"
#include "output.h"

enum { CHUNK_GROUPS = 16 };

/* 32 columns of a panel. */
typedef struct panel_group {
  int8_t codes[32 * MOST_TOKENS];
  int32_t starts[4 * MOST_TOKENS]; /* MAGIC and what the zero adds; where the type has a zero */
  float scales[4 * TOKEN_VECTORS];
  float code_sums[4 * TOKEN_VECTORS]; /* times scale and lane_factor; where the type has minima */
} panel_group;

/* `groups` groups of 32 columns from number `first` of `count` tokens from `token`. */
INLINE void fill_group_panel(group_type type, const ek_activations *x, size_t columns, size_t first, size_t groups,
                             size_t token, size_t count, int tokens, panel_group *panel) {
  const float factor = -0.125f * (float)lane_factor(type.lanes);
  for (size_t g = 0; g < groups; g++, panel++) {
    fill_codes(x->codes + token * columns + 32 * (first + g), columns, count, tokens, panel->codes);
    for (int t = 0; t < tokens; t++) {
      const size_t at = (token + token_at((size_t)t, count)) * (columns / 32) + first + g;
      put_value(x->scales[at], t, panel->scales);
      if (type.zero) put_start(MAGIC + zero_offsets(type) * x->offsets[at], t, panel->starts);
      if (type.minima) put_value(x->scales[at] * (float)x->offsets[at] * factor, t, panel->code_sums);
    }
  }
}

/* sums[tokens] += those of a part, from its first tile of the chunk. */
INLINE void group_chunk(group_type type, const uint8_t *tile, int part, size_t groups, const panel_group *panel,
                        int tokens, float32x4_t sums[MOST_TOKENS]) {
  const unpacker unpacking = unpacker_of(type.lanes);
  float shifts[8];
  const float *shift = shifts;
  const int32_t *magic = magic_starts;
#pragma GCC unroll 1
  for (size_t g = 0; g < groups; g++, tile += group_bytes(type), panel++) {
    EK_COST_BEGIN(gemm, type.type, tokens == MOST_TOKENS ? 32 : 0);
    const uint8_t *halves = tile + tile_bytes(type.lanes) + 8 * part;
    const row_values d = of_rows(load_4_halves(halves));
    /* d times what accumulators start at: d (MAGIC + dot) - d MAGIC is one rounding, as 13 bits hold the latter */
    UNROLL for (int i = 0; i < 2; i++) vst1q_f32(shifts + 4 * i, vmulq_n_f32(d.of[i], -MAGIC_FLOAT));
    int32x4_t dots[MOST_TOKENS];
    UNROLL for (int a = 0; a < tokens; a += 2) {
      if (!type.zero) magic = opaque(magic);
      const int32_t *start = type.zero ? panel->starts + 4 * a : magic;
      UNROLL for (int i = 0; i < 2; i++) dots[a + i] = vld1q_s32(start + 4 * i);
    }
    add_panel_dots(&unpacking, tile, part, 0, bundle_count(type.lanes), panel->codes, tokens, dots);
    float32x4_t scales[TOKEN_VECTORS], code_sums[TOKEN_VECTORS];
    UNROLL for (int i = 0; i < TOKEN_VECTORS; i++) scales[i] = vld1q_f32(panel->scales + 4 * i);
    UNROLL for (int a = 0; a < tokens; a += 2) {
      shift = opaque(shift);
      UNROLL for (int i = 0; i < 2; i++) {
        const float32x4_t dot = vreinterpretq_f32_s32(dots[a + i]);
        const float32x4_t product = vfmaq_f32(vld1q_f32(shift + 4 * i), dot, d.of[i]);
        sums[a + i] = add_times_tokens(sums[a + i], product, scales, a + i);
      }
    }
    if (type.minima) {
      const row_values m = of_rows(load_4_halves(halves + 16));
      UNROLL for (int i = 0; i < TOKEN_VECTORS; i++) code_sums[i] = vld1q_f32(panel->code_sums + 4 * i);
      UNROLL for (int a = 0; a < tokens; a++) sums[a] = add_times_tokens(sums[a], m.of[a % 2], code_sums, a);
    }
  }
  EK_COST_END(gemm, type.type, tokens == MOST_TOKENS ? 32 : 0);
}

INLINE void group_tokens(group_type type, const uint8_t *stripes, size_t rows, size_t columns, const ek_activations *x,
                         size_t token, size_t count, int tokens, float *out, size_t out_stride) {
  const size_t groups = columns / 32, stripe_bytes = groups * group_bytes(type);
  panel_group panel[CHUNK_GROUPS];
  float32x4_t sums[MOST_TOKENS];
  for (size_t first = 0; first < groups; first += CHUNK_GROUPS) {
    const size_t some = groups - first < CHUNK_GROUPS ? groups - first : CHUNK_GROUPS;
    fill_group_panel(type, x, columns, first, some, token, count, tokens, panel);
    for (size_t row = 0; row < rows; row += PART_ROWS) {
      const uint8_t *tile = stripes + row / EK_STRIPE * stripe_bytes + first * group_bytes(type);
      take_sums(out + row, out_stride, (float)lane_factor(type.lanes), tokens, rows - row, count, first == 0, sums);
      group_chunk(type, tile, (int)(row / PART_ROWS % 2), some, panel, tokens, sums);
      put_sums(sums, 1.0f / (float)lane_factor(type.lanes), tokens, rows - row, count, out + row, out_stride);
    }
  }
}

INLINE void group_gemm(group_type type, ek_gemv_fn *gemv, const uint8_t *stripes, size_t rows, size_t columns,
                       const ek_activations *x, size_t tokens, float *out, size_t out_stride) {
  for (size_t token = 0; token < tokens; token += MOST_TOKENS, out += MOST_TOKENS * out_stride) {
    const size_t count = tokens - token < MOST_TOKENS ? tokens - token : MOST_TOKENS;
    if (count > MOST_TOKENS / 2) {
      group_tokens(type, stripes, rows, columns, x, token, count, MOST_TOKENS, out, out_stride);
    } else if (count > 1) {
      group_tokens(type, stripes, rows, columns, x, token, count, MOST_TOKENS / 2, out, out_stride);
    } else {
      const ek_activations one = {NULL, x->codes + token * columns, x->scales + token * (columns / 32),
                                  x->offsets + token * (columns / 32), NULL};
      gemv(stripes, rows, columns, &one, out);
    }
  }
}

#define GROUP_GEMM(name, level, ...)                                                                                   \
  void ek_gemm_##name##_##level(const uint8_t *stripes, size_t rows, size_t columns, const ek_activations *x,          \
                                size_t tokens, float *out, size_t out_stride) {                                        \
    group_gemm((group_type){.type = EK_TYPE_##name, __VA_ARGS__}, ek_gemv_##name##_dotprod, stripes, rows, columns, x, \
               tokens, out, out_stride);                                                                               \
  }
#define GROUP_KERNELS(name, ...) GROUP_GEMV(name, __VA_ARGS__) GROUP_GEMM(name, dotprod, __VA_ARGS__)

#endif
