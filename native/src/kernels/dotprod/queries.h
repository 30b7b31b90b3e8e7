/* What attention's kernels share. Queries are taken four at a time, so that what is loaded and unpacked of a block
 * serves the query heads of a group. */
#ifndef EK_DOTPROD_QUERIES_H
#define EK_DOTPROD_QUERIES_H

#include "../cache_block.h"
#include "lanes.h"

#include "../../half.h"

enum { MOST_QUERIES = 4, GROUP = 32 };

/* Calls kernel(n, first, ...) for the queries first .. first + n - 1, with n a constant. */
#define FOR_QUERIES(kernel, query_count, ...)                                                                          \
  do {                                                                                                                 \
    size_t first = 0;                                                                                                  \
    for (; first + 4 <= (query_count); first += 4) kernel(4, first, __VA_ARGS__);                                      \
    if ((query_count) - first == 3) kernel(3, first, __VA_ARGS__);                                                     \
    if ((query_count) - first == 2) kernel(2, first, __VA_ARGS__);                                                     \
    if ((query_count) - first == 1) kernel(1, first, __VA_ARGS__);                                                     \
  } while (0)

/* Hot loops are counted for four queries, see cost.h. */
#define COUNTED(n, blocks) ((n) == MOST_QUERIES ? (blocks) : 0)

INLINE size_t code_bytes(enum ek_type type) { return type == EK_TYPE_q4_0 ? 256 : 512; }
INLINE size_t group_bytes(enum ek_type type) { return type == EK_TYPE_f16 ? 1024 : code_bytes(type) + 32; }

/* Lanes in vectors of 16: vector j of a block's 32. Signed nibbles are unpacked to the top of a byte, 16 times too
 * large, which saves what their sign would take. */
enum { NIBBLE_SHIFT = 4 };
INLINE int shift_of(enum ek_type type) { return type == EK_TYPE_q4_0 ? NIBBLE_SHIFT : 0; }
INLINE int8x16_t low_nibbles(uint8x16_t bytes) { return vreinterpretq_s8_u8(vshlq_n_u8(bytes, 4)); }
INLINE int8x16_t high_nibbles(uint8x16_t bytes) { return vreinterpretq_s8_u8(vandq_u8(bytes, vdupq_n_u8(0xf0))); }

INLINE float16x8_t load_half(const uint8_t *at) { return vreinterpretq_f16_u8(vld1q_u8(at)); }

/* Integers as floats, divided by what their lanes are too large by. */
INLINE float32x4_t float_of(enum ek_type type, int32x4_t x) {
  return type == EK_TYPE_q4_0 ? vcvtq_n_f32_s32(x, NIBBLE_SHIFT) : vcvtq_f32_s32(x);
}

#endif
