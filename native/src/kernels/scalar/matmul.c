/* Matrix products one weight at a time, in float64: the oracle of the others, and the last resort. */
#include "../stripe.h"

#include "../../half.h"

static double half_at(const uint8_t *at) { return ek_float_of_half(ek_load_u16(at)); }

/* What the scales after tile j of a block, and the header before it, make of row r: weight = scale[i] * code - minimum,
 * with i = 0 for the columns 0 .. 15 of the tile and 1 for 16 .. 31. */
typedef struct affine {
  double scale[2], minimum;
} affine;

static affine affine_of(enum ek_type type, const uint8_t *header, const uint8_t *after, size_t r) {
  affine a = {{0, 0}, 0};
  switch (type) {
  case EK_TYPE_q4_k:
  case EK_TYPE_q5_k:
    a.scale[0] = a.scale[1] = half_at(header + 2 * r) * after[r];
    a.minimum = half_at(header + 16 + 2 * r) * after[8 + r];
    break;
  case EK_TYPE_q6_k:
    for (int i = 0; i < 2; i++) a.scale[i] = half_at(header + 2 * r) * (int8_t)after[8 * i + (int)r];
    break;
  case EK_TYPE_q4_1:
  case EK_TYPE_q5_1:
    a.minimum = -half_at(after + 16 + 2 * r); /* fall through */
  default:
    a.scale[0] = a.scale[1] = half_at(after + 2 * r);
  }
  return a;
}

/* One tile of one token: adds to sums[row]. */
static void add_tile(enum ek_type type, const uint8_t *header, const uint8_t *tile, const int8_t *codes, double scale,
                     double sums[EK_STRIPE]) {
  const ek_packing *packing = &ek_packings[type];
  const int8_t *levels = ek_formats[type].levels;
  int8_t lanes[256];
  ek_tile_lanes(packing->bits, tile, lanes);
  for (size_t r = 0; r < EK_STRIPE; r++) {
    int dot[2] = {0, 0}, sum = 0;
    for (size_t k = 0; k < 32; k++) {
      const int lane = lanes[ek_lane(4, r, k)], code = levels ? levels[lane] : lane + packing->zero;
      dot[k / 16] += code * codes[k];
      sum += codes[k];
    }
    const affine a = affine_of(type, header, tile + packing->tile_bytes, r);
    sums[r] += scale * (a.scale[0] * dot[0] + a.scale[1] * dot[1] - a.minimum * sum);
  }
}

static void quantised_stripe(enum ek_type type, const uint8_t *stripe, size_t columns, const int8_t *codes,
                             const float *scales, double sums[EK_STRIPE]) {
  const ek_packing *packing = &ek_packings[type];
  const size_t group = ek_activation_group(type);
  const uint8_t *header = stripe;
  for (size_t k = 0; k < columns; k += 32) {
    if (packing->header_bytes && k % EK_SUPERBLOCK == 0) {
      header = stripe;
      stripe += packing->header_bytes;
    }
    add_tile(type, header, stripe, codes + k, scales[k / group], sums);
    stripe += packing->tile_bytes + packing->after_bytes;
  }
}

static void float_stripe(enum ek_type type, const uint8_t *stripe, size_t columns, const float *x,
                         double sums[EK_STRIPE]) {
  const ek_format *format = &ek_formats[type];
  for (size_t k = 0; k < columns; k++) {
    for (size_t r = 0; r < EK_STRIPE; r++, stripe += format->block_bytes)
      sums[r] += (double)format->widen(stripe) * x[k];
  }
}

static void matmul(enum ek_type type, const uint8_t *stripes, size_t rows, size_t columns, const ek_activations *x,
                   size_t tokens, float *out, size_t out_stride) {
  const size_t bytes = ek_stripe_bytes(type, columns), group = ek_activation_group(type);
  for (size_t t = 0; t < tokens; t++) {
    for (size_t first = 0; first < rows; first += EK_STRIPE) {
      const uint8_t *stripe = stripes + first / EK_STRIPE * bytes;
      double sums[EK_STRIPE] = {0};
      if (group) {
        quantised_stripe(type, stripe, columns, x->codes + t * columns, x->scales + t * (columns / group), sums);
      } else {
        float_stripe(type, stripe, columns, x->values + t * columns, sums);
      }
      for (size_t r = 0; r < EK_STRIPE && first + r < rows; r++) out[t * out_stride + first + r] = (float)sums[r];
    }
  }
}

#define KERNELS(type)                                                                                                  \
  void ek_gemv_##type##_scalar(const uint8_t *stripes, size_t rows, size_t columns, const ek_activations *x,           \
                               float *out) {                                                                           \
    matmul(EK_TYPE_##type, stripes, rows, columns, x, 1, out, rows);                                                   \
  }                                                                                                                    \
  void ek_gemm_##type##_scalar(const uint8_t *stripes, size_t rows, size_t columns, const ek_activations *x,           \
                               size_t tokens, float *out, size_t out_stride) {                                         \
    matmul(EK_TYPE_##type, stripes, rows, columns, x, tokens, out, out_stride);                                        \
  }

KERNELS(f32)
KERNELS(f16)
KERNELS(bf16)
KERNELS(q8_0)
KERNELS(q4_0)
KERNELS(q4_1)
KERNELS(q5_0)
KERNELS(q5_1)
KERNELS(iq4_nl)
KERNELS(q4_k)
KERNELS(q5_k)
KERNELS(q6_k)
