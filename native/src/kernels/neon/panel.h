/* Products with many tokens: eight tokens x 256 columns are laid out on the stack in the order in which the loops read
 * them, so that one pointer serves all of them; then every stripe passes by. */
#ifndef EK_NEON_PANEL_H
#define EK_NEON_PANEL_H

#include <string.h>

#include "rows.h"

enum { TOKENS = 8, PANEL_COLUMNS = 256 };

/* Of 32 columns. */
typedef struct panel_group {
  int8_t codes[TOKENS][32];
  int32_t starts[TOKENS][4]; /* zero x the sum of the codes, in each lane */
  float scales[TOKENS];      /* group 32 alone */
  float sums[TOKENS];        /* group 32 alone: of x, which minima multiply */
} panel_group;

typedef struct panel {
  panel_group groups[PANEL_COLUMNS / 32];
  float scales[TOKENS];    /* group 256 alone */
  int16_t sums[TOKENS][8]; /* group 256 alone: of the codes of each 32 columns */
} panel;

/* 32 codes of token t; start is zero x their sum. */
INLINE void fill_codes(enum ek_type type, panel_group *to, size_t t, const int8_t *codes, int32_t start) {
  memcpy(to->codes[t], codes, 32);
  if (zero_of(type)) vst1q_s32(to->starts[t], vdupq_n_s32(start));
}

/* Columns first .. first + 32 * groups - 1 of `tokens` tokens from `token` on; of those that there are not, 0. */
INLINE void fill_panel_32(enum ek_type type, panel *to, const ek_activations *x, size_t token, size_t tokens,
                          size_t columns, size_t first, size_t groups) {
  if (tokens < TOKENS) memset(to, 0, sizeof *to);
  for (size_t t = 0; t < tokens; t++) {
    const size_t at = (token + t) * (columns / 32) + first / 32;
    for (size_t g = 0; g < groups; g++) {
      const float scale = x->scales[at + g];
      const int32_t offset = x->offsets[at + g]; /* -8 x the sum of the codes */
      fill_codes(type, &to->groups[g], t, x->codes + 32 * (at + g), zero_of(type) < 0 ? offset : -2 * offset);
      to->groups[g].scales[t] = scale;
      if (has_minima(type)) to->groups[g].sums[t] = scale * ((float)offset * -0.125f);
    }
  }
}

/* The same of a superblock. */
INLINE void fill_panel_256(enum ek_type type, panel *to, const ek_activations *x, size_t token, size_t tokens,
                           size_t columns, size_t first) {
  if (tokens < TOKENS) memset(to, 0, sizeof *to);
  for (size_t t = 0; t < tokens; t++) {
    const size_t at = (token + t) * (columns / EK_SUPERBLOCK) + first / EK_SUPERBLOCK;
    const int16x8_t of_32 = vpaddq_s16(vld1q_s16(x->sums + 16 * at), vld1q_s16(x->sums + 16 * at + 8));
    vst1q_s16(to->sums[t], of_32);
    to->scales[t] = x->scales[at];
    for (size_t g = 0; g < 8; g++) {
      fill_codes(type, &to->groups[g], t, x->codes + EK_SUPERBLOCK * at + 32 * g, zero_of(type) * to->sums[t][g]);
    }
  }
}

/* Results of a stripe: of its even rows and of its odd ones, four of each. */
typedef float tile_sums[2][TOKENS][4];

/* What sums of a panel go on from: out[t * stride + r] for r < rows and t < tokens, at most 8 of each, or 0 where it is
 * the first. */
static void take_sums(const float *out, size_t stride, int first, size_t rows, size_t tokens, tile_sums sums) {
  memset(sums, 0, sizeof(tile_sums));
  for (size_t t = 0; !first && t < tokens; t++, out += stride) {
    float some[EK_STRIPE] = {0};
    if (rows < EK_STRIPE) memcpy(some, out, rows * sizeof *some);
    const float32x4x2_t of = vld2q_f32(rows < EK_STRIPE ? some : out);
    vst1q_f32(sums[0][t], of.val[0]);
    vst1q_f32(sums[1][t], of.val[1]);
  }
}

/* And back. */
static void put_sums(tile_sums sums, size_t rows, size_t tokens, float *out, size_t stride) {
  for (size_t t = 0; t < tokens; t++, out += stride) {
    const float32x4_t even = vld1q_f32(sums[0][t]), odd = vld1q_f32(sums[1][t]);
    store_stripe(out, rows, (stripe_sum){{vzip1q_f32(even, odd), vzip2q_f32(even, odd)}});
  }
}

/* Tokens too few for a panel. */
INLINE void gemv_tokens(ek_gemv_fn *gemv, const uint8_t *stripes, size_t rows, size_t columns, size_t group,
                        const ek_activations *x, size_t token, size_t tokens, float *out, size_t stride) {
  for (size_t t = token; t < token + tokens; t++) {
    ek_activations one = {.codes = x->codes + t * columns, .scales = x->scales + t * (columns / group)};
    if (group == 32) one.offsets = x->offsets + t * (columns / 32);
    if (group == 256) one.sums = x->sums + t * (columns / 16);
    gemv(stripes, rows, columns, &one, out + t * stride);
  }
}

/* The halves of the even rows, or of the odd ones, of a stripe. */
INLINE float32x4_t parity_halves(const uint8_t *halves, int parity) {
  const uint32x4_t pairs = vreinterpretq_u32_u8(vld1q_u8(halves));
  const uint16x4_t picked = vshrn_n_u32(vshlq_u32(pairs, vdupq_n_s32(parity ? 0 : 16)), 16);
  return vcvt_f32_f16(vreinterpret_f16_u16(picked));
}

/* The even lanes, or the odd ones. */
INLINE int32x4_t parity_lanes(int16x8_t lanes, int parity) {
  return vshrq_n_s32(vshlq_s32(vreinterpretq_s32_s16(lanes), vdupq_n_s32(parity ? 0 : 16)), 16);
}

#endif
