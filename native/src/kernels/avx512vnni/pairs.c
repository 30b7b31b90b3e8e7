#include "pairs.h"

/* Activations of a block of tokens stay in a part of the second-level cache while all weights pass by. */
enum { CACHED_BYTES = 1 << 18 };

static size_t least(size_t a, size_t b) { return a < b ? a : b; }

void ek_pairs_avx512vnni(enum ek_type type, ek_pair_fn *most, ek_pair_fn *some, ek_pair_fn *one, const uint8_t *stripes,
                         size_t rows, size_t columns, const ek_activations *x, size_t tokens, float *out,
                         size_t out_stride) {
  const size_t bytes = ek_stripe_bytes(type, columns), token_bytes = columns * (ek_activation_group(type) ? 1 : 4);
  const size_t block = (CACHED_BYTES / token_bytes / MOST_TOKENS + 1) * MOST_TOKENS;
  for (size_t start = 0; start < tokens; start += block) {
    const size_t end = least(start + block, tokens);
    for (size_t row = 0; row < rows; row += 2 * EK_STRIPE) {
      const uint8_t *a = stripes + row / EK_STRIPE * bytes, *b = row + EK_STRIPE < rows ? a + bytes : a;
      const __mmask16 mask = (__mmask16)((1u << least(rows - row, 2 * EK_STRIPE)) - 1);
      size_t t = start;
      for (; t + MOST_TOKENS <= end; t += MOST_TOKENS)
        most(a, b, mask, columns, x, t, out + t * out_stride + row, out_stride);
      for (; t + SOME_TOKENS <= end; t += SOME_TOKENS)
        some(a, b, mask, columns, x, t, out + t * out_stride + row, out_stride);
      for (; t < end; t++) one(a, b, mask, columns, x, t, out + t * out_stride + row, out_stride);
    }
  }
}
