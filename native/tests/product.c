#include "product.h"

#include "half.h"
#include "kernels/stripe.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_COLUMNS = 17 * EK_SUPERBLOCK };

static size_t row_bytes(const product *p) {
  const ek_format *format = &ek_formats[p->type];
  return (size_t)(p->columns / format->block * format->block_bytes);
}

/* --- weights --- */

static uint16_t random_half(check_rng *rng, int kind) {
  static const uint16_t extremes[] = {0x0000, 0x8000, 0x0001, 0x8001, 0x03ff, 0x0400, 0x7bff, 0xfbff};
  if (kind == 0) return ek_half_of_float(0.02f * check_gaussian(rng));
  if (kind == 1) return extremes[check_below(rng, 8)];
  if (kind == 2) return 0;
  return (uint16_t)(check_below(rng, 0x400) | check_below(rng, 2) << 15); /* subnormal */
}

/* Where the halves of a block are; -1: there is none. */
static void half_offsets(enum ek_type type, int offsets[2]) {
  const int has_minima = ek_formats[type].has_minima;
  offsets[0] = type == EK_TYPE_q6_k ? 208 : 0;
  offsets[1] = has_minima ? 2 : -1;
}

/* Codes, and the scales of sub-blocks: random, or the same byte throughout: the lowest and the highest code. */
static void fill_quantised_block(check_rng *rng, enum ek_type type, uint8_t *block) {
  const size_t bytes = (size_t)ek_formats[type].block_bytes;
  static const int same[] = {0x00, 0xff, 0x80, 0x7f, 0x88};
  const int kind = check_below(rng, 10);
  check_bytes(rng, block, bytes);
  if (kind < 5) memset(block, same[kind], bytes);
  if (type == EK_TYPE_q6_k && check_below(rng, 2)) memset(block + 192, check_below(rng, 2) ? 0x80 : 0x7f, 16);
  int offsets[2];
  half_offsets(type, offsets);
  const int half_kind = check_below(rng, 12);
  for (int i = 0; i < 2; i++) {
    if (offsets[i] >= 0) ek_store_u16(block + offsets[i], random_half(rng, half_kind < 4 ? half_kind : 0));
  }
}

static void fill_float(check_rng *rng, enum ek_type type, uint8_t *at) {
  if (type == EK_TYPE_f16) {
    ek_store_u16(at, random_half(rng, check_below(rng, 16) == 0 ? 1 + check_below(rng, 3) : 0));
    return;
  }
  float value = check_gaussian(rng) * ldexpf(1, check_below(rng, 8) == 0 ? check_below(rng, 60) - 30 : 0);
  if (type == EK_TYPE_bf16) {
    ek_store_u16(at, ek_bfloat_of_float(value));
  } else {
    memcpy(at, &value, sizeof value);
  }
}

/* One weight of row `row`, or its scale, becomes infinity or NaN. */
static void spoil(check_rng *rng, product *p, int row) {
  const ek_format *format = &ek_formats[p->type];
  uint8_t *block = p->blocks + (size_t)row * row_bytes(p) +
                   (size_t)(check_below(rng, p->columns / format->block) * format->block_bytes);
  int offsets[2];
  half_offsets(p->type, offsets);
  const float value = check_below(rng, 2) ? INFINITY : NAN;
  if (p->type == EK_TYPE_f32) {
    memcpy(block, &value, sizeof value);
  } else if (p->type == EK_TYPE_bf16) {
    ek_store_u16(block, ek_bfloat_of_float(value));
  } else {
    ek_store_u16(block + offsets[0], ek_half_of_float(value));
  }
}

static void fill_weights(check_rng *rng, product *p) {
  const ek_format *format = &ek_formats[p->type];
  const size_t bytes = (size_t)p->rows * row_bytes(p);
  p->blocks = malloc(bytes);
  for (size_t at = 0; at < bytes; at += (size_t)format->block_bytes) {
    if (format->unpack) {
      fill_quantised_block(rng, p->type, p->blocks + at);
    } else {
      fill_float(rng, p->type, p->blocks + at);
    }
  }
  if (check_below(rng, 8) == 0) spoil(rng, p, check_below(rng, p->rows));
}

/* --- activations --- */

static void fill_codes(check_rng *rng, int count, int8_t *codes) {
  const int kind = check_below(rng, 8);
  for (int k = 0; k < count; k++) {
    const int random = check_below(rng, 255) - 127;
    codes[k] = (int8_t)(kind == 0 ? 127 : kind == 1 ? -127 : kind == 2 ? (k % 2 ? 127 : -127) : kind == 3 ? 0 : random);
  }
}

static float random_scale(check_rng *rng) {
  const int kind = check_below(rng, 64);
  if (kind == 0) return NAN;
  if (kind < 4) return 0;
  if (kind == 4) return 1e-32f;
  if (kind == 5) return 1e20f;
  return check_uniform(rng, 1e-4f, 0.1f);
}

static void fill_quantised_activations(check_rng *rng, product *p, check_place place) {
  const int group = (int)ek_activation_group(p->type), count = p->tokens * p->columns;
  const size_t sum_bytes = group == 32 ? 4 : 2;
  const int per_sum = group == 32 ? 32 : 16;
  p->codes = check_buffer_new((size_t)count, 1, place);
  p->scales = check_buffer_new((size_t)(count / group) * sizeof(float), sizeof(float), place);
  p->sums = check_buffer_new((size_t)(count / per_sum) * sum_bytes, sum_bytes, place);
  int8_t *codes = (int8_t *)p->codes.data;
  for (int k = 0; k < count; k += group) {
    fill_codes(rng, group, codes + k);
    ((float *)p->scales.data)[k / group] = random_scale(rng);
  }
  for (int i = 0; i < count / per_sum; i++) {
    int sum = 0;
    for (int k = 0; k < per_sum; k++) sum += codes[per_sum * i + k];
    if (group == 32) {
      ((int32_t *)p->sums.data)[i] = -8 * sum;
    } else {
      ((int16_t *)p->sums.data)[i] = (int16_t)sum;
    }
  }
  check_buffer_seal(&p->codes);
  check_buffer_seal(&p->scales);
  check_buffer_seal(&p->sums);
}

static void fill_values(check_rng *rng, product *p, check_place place) {
  const int count = p->tokens * p->columns;
  p->values = check_buffer_new((size_t)count * sizeof(float), sizeof(float), place);
  float *values = (float *)p->values.data;
  for (int k = 0; k < count; k++) values[k] = check_gaussian(rng);
  if (check_below(rng, 8) == 0) values[check_below(rng, count)] = check_below(rng, 2) ? INFINITY : NAN;
  check_buffer_seal(&p->values);
}

ek_activations product_activations(const product *p) {
  const size_t group = ek_activation_group(p->type);
  return (ek_activations){.values = (const float *)p->values.data,
                          .codes = (const int8_t *)p->codes.data,
                          .scales = (const float *)p->scales.data,
                          .offsets = group == 32 ? (const int32_t *)p->sums.data : NULL,
                          .sums = group == 256 ? (const int16_t *)p->sums.data : NULL};
}

/* --- the expected product --- */

static double activation(const product *p, int t, int k) {
  const int group = (int)ek_activation_group(p->type), at = t * p->columns + k;
  if (!group) return (double)((const float *)p->values.data)[at];
  return (double)((const float *)p->scales.data)[at / group] * ((const int8_t *)p->codes.data)[at];
}

/* weights and their sizes (|scale code| + |minimum|), of one row */
static void decode_row(const product *p, int row, float *weights, float *sizes) {
  const ek_format *format = &ek_formats[p->type];
  const size_t count = (size_t)(p->columns / format->block);
  const uint8_t *blocks = p->blocks + (size_t)row * row_bytes(p);
  ek_dequantise(format, blocks, count, weights);
  for (int k = 0; k < p->columns; k++) sizes[k] = fabsf(weights[k]);
  for (size_t b = 0; format->has_minima && b < count; b++) {
    ek_parts parts;
    format->unpack(blocks + b * (size_t)format->block_bytes, &parts);
    for (int k = 0; k < format->block; k++) {
      const int g = k / format->group;
      sizes[b * (size_t)format->block + (size_t)k] = fabsf(parts.scales[g] * parts.codes[k]) + fabsf(parts.minima[g]);
    }
  }
}

static void dense_product(product *p) {
  static float weights[MOST_COLUMNS], sizes[MOST_COLUMNS];
  for (int r = 0; r < p->rows; r++) {
    decode_row(p, r, weights, sizes);
    for (int t = 0; t < p->tokens; t++) {
      double sum = 0, terms = 0;
      for (int k = 0; k < p->columns; k++) {
        const double x = activation(p, t, k);
        sum += weights[k] * x;
        terms += sizes[k] * fabs(x);
      }
      p->expected[t * p->rows + r] = sum;
      p->terms[t * p->rows + r] = terms;
    }
  }
}

/* --- one case --- */

/* rows, blocks, tokens; and the columns where a block is one weight. The last four are beyond the panels into which
 * kernels cut their work. */
static const int few_shapes[][4] = {{1, 1, 1, 1},    {8, 1, 1, 7},      {7, 2, 2, 33},   {9, 1, 3, 31},
                                    {16, 2, 4, 65},  {17, 3, 19, 2},    {40, 1, 8, 130}, {10, 17, 5, 577},
                                    {10, 1, 67, 33}, {18, 2, 133, 100}, {133, 1, 17, 9}};

static void choose_shape(check_rng *rng, int number, int is_gemm, product *p) {
  const int block = ek_formats[p->type].block;
  if (number < (int)(sizeof few_shapes / sizeof *few_shapes)) {
    p->rows = few_shapes[number][0];
    p->columns = block == 1 ? few_shapes[number][3] : block * few_shapes[number][1];
    p->tokens = few_shapes[number][2];
  } else {
    const int most = 1024 / block, small = most < 8 ? most : 8;
    p->rows = 1 + check_below(rng, 40);
    p->columns = block * (1 + check_below(rng, check_below(rng, 4) ? small : most));
    if (block == 1) p->columns *= 1 + check_below(rng, 1024 / p->columns < 32 ? 1024 / p->columns : 32);
    p->tokens = 1 + check_below(rng, 19);
  }
  if (!is_gemm) p->tokens = 1;
  p->out_stride = p->rows + (is_gemm ? check_below(rng, 3) * check_below(rng, 12) : 0);
}

product product_new(enum ek_type type, int is_gemm, int number, int interleave) {
  check_rng rng = check_seed(ek_formats[type].name, 2 * number + is_gemm);
  product p = {.type = type};
  choose_shape(&rng, number, is_gemm, &p);
  const check_place place = (check_place)(number % CHECK_PLACES);
  const size_t stripes = (size_t)(p.rows + EK_STRIPE - 1) / EK_STRIPE;
  fill_weights(&rng, &p);
  p.stripes = check_buffer_new(stripes * ek_stripe_bytes(type, (size_t)p.columns), 1, place);
  ek_repack(type, interleave, p.blocks, (size_t)p.rows, (size_t)p.columns, 0, stripes, p.stripes.data);
  check_buffer_seal(&p.stripes);
  if (ek_activation_group(type)) {
    fill_quantised_activations(&rng, &p, place);
  } else {
    fill_values(&rng, &p, place);
  }
  p.out = check_buffer_new((size_t)((p.tokens - 1) * p.out_stride + p.rows) * sizeof(float), sizeof(float), place);
  p.expected = malloc((size_t)(p.tokens * p.rows) * sizeof(double));
  p.terms = malloc((size_t)(p.tokens * p.rows) * sizeof(double));
  dense_product(&p);
  return p;
}

void product_free(product *p) {
  check_buffer *buffers[] = {&p->stripes, &p->values, &p->codes, &p->scales, &p->sums, &p->out};
  for (size_t i = 0; i < sizeof buffers / sizeof *buffers; i++) {
    if (buffers[i]->data) check_buffer_free(buffers[i]);
  }
  free(p->blocks);
  free(p->expected);
  free(p->terms);
}

uint8_t *product_random_blocks(check_rng *rng, enum ek_type type, size_t count) {
  const size_t size = (size_t)ek_formats[type].block_bytes;
  uint8_t *blocks = malloc(count * size);
  check_bytes(rng, blocks, count * size);
  for (size_t b = 0; b < count; b++) {
    uint8_t *at = blocks + b * size;
    const float value = check_gaussian(rng);
    if (type == EK_TYPE_f32)
      memcpy(at, &value, 4);
    else if (type == EK_TYPE_bf16)
      ek_store_u16(at, ek_bfloat_of_float(value));
    else if (type == EK_TYPE_f16)
      ek_store_u16(at, ek_half_of_float(value));
    else
      ek_store_u16(at + (type == EK_TYPE_q6_k ? 208 : 0), ek_half_of_float(0.02f * value));
    if (ek_formats[type].has_minima) ek_store_u16(at + 2, ek_half_of_float(0.02f * check_gaussian(rng)));
  }
  return blocks;
}
