/* Blocks taken apart into what they store, and put together again. */
#ifndef EK_QUANTIZE_PARTS_H
#define EK_QUANTIZE_PARTS_H

#include "../format.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A block as stored: weight k is d * scale[g] * level(codes[k]) - dmin * minimum[g] in group g = k / group. Where a
 * format has no scales or minima of groups they are 1, and where it has no minima at all dmin is 0. Codes are as
 * ek_parts has them. */
typedef struct ek_stored {
  float d, dmin; /* fp16 values */
  int8_t scale[EK_MAX_GROUPS], minimum[EK_MAX_GROUPS];
  int8_t codes[EK_SUPERBLOCK];
} ek_stored;

/* What a block format can store. */
typedef struct ek_layout {
  const ek_format *format;
  int low, high;             /* codes; all levels where the format has a table */
  int scale_low, scale_high; /* of groups; both 1 where they have none of their own */
  int minimum_low, minimum_high;
} ek_layout;

/* 0 for a float format, which has no codes. */
int ek_layout_of(const ek_format *format, ek_layout *layout);

void ek_take_apart(const ek_layout *layout, const uint8_t *block, ek_stored *stored);

/* The inverse: gives back the block byte for byte, where d and dmin are no NaN. */
void ek_put_together(const ek_layout *layout, const ek_stored *stored, uint8_t *block);

#ifdef __cplusplus
}
#endif

#endif
