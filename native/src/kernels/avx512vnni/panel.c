#include "panel.h"

static size_t least(size_t a, size_t b) { return a < b ? a : b; }

/* Nearly always all of a row, whose size the compiler knows. */
INLINE void copy(void *row, const void *from, size_t bytes, size_t row_bytes) {
  if (bytes == row_bytes) {
    memcpy(row, from, row_bytes);
  } else {
    memcpy(row, from, bytes);
  }
}

INLINE void copy_offsets(int32_t row[PANEL_GROUPS], const int32_t *from, size_t count, int factor) {
  if (count == PANEL_GROUPS) {
    for (size_t g = 0; g < PANEL_GROUPS; g++) row[g] = factor * from[g];
  } else {
    for (size_t g = 0; g < count; g++) row[g] = factor * from[g];
  }
}

/* `columns` from k on of `tokens` from `first` on, of x with `stride` columns. */
static void fill(ek_panel *panel, size_t group, int offset_factor, const ek_activations *x, size_t stride, size_t first,
                 size_t tokens, size_t k, size_t columns) {
  for (size_t t = 0; t < tokens; t++) {
    const size_t at = (first + t) * stride + k;
    if (group == 0) {
      copy(panel->values[t], x->values + at, columns * sizeof(float), sizeof panel->values[t]);
      continue;
    }
    copy(panel->codes[t], x->codes + at, columns, sizeof panel->codes[t]);
    if (group == 32) {
      copy(panel->scales[t], x->scales + at / 32, columns / 32 * sizeof(float), sizeof panel->scales[t]);
      copy_offsets(panel->offsets[t], x->offsets + at / 32, columns / 32, offset_factor);
    } else {
      panel->scales[t][0] = x->scales[at / EK_SUPERBLOCK];
      copy(panel->sums[t], x->sums + at / 16, columns / 16 * sizeof(int16_t), sizeof panel->sums[t]);
    }
  }
}

static void prefetch_pair(const uint8_t *a, const uint8_t *b, size_t ahead, size_t bytes) {
  for (size_t i = 0; i < bytes; i += 64) {
    prefetch(a, ahead + i);
    prefetch(b, ahead + i);
  }
}

static void multiply_pair(ek_pair_kernels kernels, const uint8_t *a, const uint8_t *b, __mmask16 rows, size_t columns,
                          const ek_panel *x, size_t tokens, int add, float *out, size_t out_stride) {
  size_t t = 0;
  for (; t + MOST_TOKENS <= tokens; t += MOST_TOKENS)
    kernels.most(a, b, rows, columns, x, t, add, out + t * out_stride, out_stride);
  for (; t + SOME_TOKENS <= tokens; t += SOME_TOKENS)
    kernels.some(a, b, rows, columns, x, t, add, out + t * out_stride, out_stride);
  for (; t < tokens; t++) kernels.one(a, b, rows, columns, x, t, add, out + t * out_stride, out_stride);
}

void ek_gemm_of_pairs_avx512vnni(enum ek_type type, ek_pair_kernels kernels, const uint8_t *stripes, size_t rows,
                                 size_t columns, const ek_activations *x, size_t tokens, float *out,
                                 size_t out_stride) {
  const size_t group = ek_activation_group(type), most = group ? PANEL_COLUMNS : PANEL_FLOATS;
  const size_t stripe_bytes = ek_stripe_bytes(type, columns);
  ek_panel panel;
  for (size_t t = 0; t < tokens; t += PANEL_TOKENS) {
    const size_t panel_tokens = least(PANEL_TOKENS, tokens - t);
    for (size_t k = 0; k < columns; k += most) {
      const size_t panel_columns = least(most, columns - k), bytes = ek_stripe_bytes(type, panel_columns);
      const uint8_t *a = stripes + ek_stripe_bytes(type, k);
      fill(&panel, group, kernels.offset_factor, x, columns, t, panel_tokens, k, panel_columns);
      for (size_t row = 0; row < rows; row += 2 * EK_STRIPE, a += 2 * stripe_bytes) {
        const uint8_t *b = row + EK_STRIPE < rows ? a + stripe_bytes : a;
        const __mmask16 mask = (__mmask16)((1u << least(rows - row, 2 * EK_STRIPE)) - 1);
        /* few tokens wait for memory; for many it only costs */
        if (panel_tokens <= MOST_TOKENS) prefetch_pair(a, b, 2 * stripe_bytes, bytes);
        multiply_pair(kernels, a, b, mask, panel_columns, &panel, panel_tokens, k > 0, out + t * out_stride + row,
                      out_stride);
      }
    }
  }
}
