/* Attention over cache blocks one value at a time, in float64: the oracle of the others, and the last resort. */
#include "../cache_block.h"

#include "../../half.h"

#include <math.h>
#include <string.h>

enum { GROUP = 32, INTERLEAVE = 4 };

/* Query q times a key: of the codes where it is quantised. */
static double dot(const float *key, size_t dims, const ek_activations *queries, size_t q, int quantised) {
  double sum = 0;
  for (size_t k = 0; k < dims; k++) {
    const size_t at = q * dims + k;
    const double x = quantised ? (double)queries->scales[at / GROUP] * queries->codes[at] : (double)queries->values[at];
    sum += x * key[k];
  }
  return sum;
}

static void score(enum ek_type type, const uint8_t *const *blocks, size_t count, size_t dims,
                  const ek_activations *queries, size_t query_count, float *scores) {
  float key[EK_MOST_HEAD_DIMS];
  for (size_t i = 0; i < count * EK_CACHE_BLOCK; i++) {
    ek_cache_load(type, EK_CACHE_KEYS, INTERLEAVE, dims, blocks[i / EK_CACHE_BLOCK], i % EK_CACHE_BLOCK, key);
    for (size_t q = 0; q < query_count; q++)
      scores[q * count * EK_CACHE_BLOCK + i] = (float)dot(key, dims, queries, q, type != EK_TYPE_f16);
  }
}

static void add_values(enum ek_type type, const uint8_t *const *blocks, size_t count, size_t dims, const float *weights,
                       const float *factors, size_t query_count, float *out) {
  float value[EK_MOST_HEAD_DIMS];
  for (size_t q = 0; q < query_count; q++) {
    double sums[EK_MOST_HEAD_DIMS] = {0};
    for (size_t i = 0; i < count * EK_CACHE_BLOCK; i++) {
      ek_cache_load(type, EK_CACHE_VALUES, INTERLEAVE, dims, blocks[i / EK_CACHE_BLOCK], i % EK_CACHE_BLOCK, value);
      const uint8_t *of_query = (const uint8_t *)(weights + q * count * EK_CACHE_BLOCK);
      const int16_t weight = (int16_t)ek_load_u16(of_query + 2 * i);
      for (size_t k = 0; k < dims; k++) sums[k] += (double)weight * value[k];
    }
    for (size_t k = 0; k < dims; k++) out[q * dims + k] += (float)(factors[q] * sums[k]);
  }
}

#define KERNELS(type)                                                                                                  \
  void ek_scores_##type##_scalar(const uint8_t *const *blocks, size_t count, size_t dims,                              \
                                 const ek_activations *queries, size_t query_count, float *scores) {                   \
    score(EK_TYPE_##type, blocks, count, dims, queries, query_count, scores);                                          \
  }                                                                                                                    \
  void ek_values_##type##_scalar(const uint8_t *const *blocks, size_t count, size_t dims, const float *weights,        \
                                 const float *factors, size_t query_count, float *out) {                               \
    add_values(EK_TYPE_##type, blocks, count, dims, weights, factors, query_count, out);                               \
  }

KERNELS(f16)
KERNELS(q8_0)
KERNELS(q4_0)

enum { LARGEST_WEIGHT = 32503 };

float ek_online_softmax_f32_scalar(float *scores, size_t count, float *maximum, float *sum, float *factor) {
  float most = -INFINITY;
  for (size_t i = 0; i < count; i++) {
    if (scores[i] > most || isnan(scores[i])) most = scores[i];
  }
  *factor = 0;
  if (most == -INFINITY) { /* all masked out */
    memset(scores, 0, count * sizeof(int16_t));
    return 1;
  }
  const float after = most > *maximum || isnan(most) ? most : *maximum;
  const double keep = after == *maximum ? 1 : exp2((double)*maximum - after);
  double terms = 0;
  for (size_t i = 0; i < count; i++) {
    const double weight = rint(LARGEST_WEIGHT * exp2((double)scores[i] - most));
    terms += weight;
    ek_store_u16((uint8_t *)scores + 2 * i, (uint16_t)(isfinite(weight) ? weight : 0));
  }
  *factor = (float)(exp2((double)most - after) / LARGEST_WEIGHT);
  *maximum = after;
  *sum = (float)(*sum * keep + *factor * terms);
  return (float)keep;
}
