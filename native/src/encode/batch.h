/* Sixteen blocks (or sub-blocks) side by side: weight k of block l is x[k][l]. */
#ifndef EK_BATCH_H
#define EK_BATCH_H

#include "encode.h"
#include "lanes.h"

enum { EK_BATCH = 16 };

typedef struct ek_batch {
  _Alignas(64) float x[32][EK_BATCH];
  _Alignas(64) float w[32][EK_BATCH];
} ek_batch;

/* One code of each lane, less `zero`, `stride` bytes apart. */
static inline void put_codes(ek_vf codes, int zero, uint8_t *out, int stride) {
  int32_t q[EK_WIDTH];
  const ek_vi integers = __builtin_convertvector(codes, ek_vi) - zero;
  memcpy(q, &integers, sizeof q);
  for (int l = 0; l < EK_WIDTH; l++) out[l * stride] = (uint8_t)q[l];
}

/* Squares and products of what passes here stay finite in float32, and every scale that fp16 can hold is reached. */
static inline float tame(float value) {
  const float limit = 0x1p30f;
  value = value == value ? value : 0;
  return value > limit ? limit : value < -limit ? -limit : value;
}

/* The importance of `count` weights that share a block, scaled so that the largest is 1, in [2^-40, 1]: the floor
 * decides between codes that the importance leaves free, and makes a block without any importance one of equal
 * importance. */
static inline void load_importance(const ek_source *source, size_t start, int count, float *w) {
  const float floor = 0x1p-40f, most = 0x1p100f;
  if (!source->importance) {
    for (int k = 0; k < count; k++) w[k] = 1;
    return;
  }
  const float *from = source->importance + (source->importance_per_row ? start : start % source->columns);
  float largest = 0;
  for (int k = 0; k < count; k++) {
    const float value = from[k] > 0 ? (from[k] < most ? from[k] : most) : 0;
    w[k] = value;
    largest = value > largest ? value : largest;
  }
  if (largest < 0x1p-100f) {
    for (int k = 0; k < count; k++) w[k] = 1;
    return;
  }
  const float scale = 1 / largest;
  for (int k = 0; k < count; k++) {
    const float value = w[k] * scale;
    w[k] = value > floor ? value : floor;
  }
}

/* Groups of `group` weights from weight `start` on, `count` (1 .. 16) of them; the rest of the batch repeats the first.
 * Importance is relative within `together` weights, which is a whole number of groups. */
static inline void load_batch(const ek_source *source, size_t start, int count, int group, int together,
                              ek_batch *batch) {
  float w[EK_SUPERBLOCK];
  for (int l = 0; l < EK_BATCH; l++) {
    const int at = (l < count ? l : 0) * group;
    if (at % together == 0) load_importance(source, start + (size_t)at, together, w);
    for (int k = 0; k < group; k++) {
      batch->x[k][l] = tame(source->values[start + (size_t)at + (size_t)k]);
      batch->w[k][l] = w[at % together + k];
    }
  }
}

#endif
