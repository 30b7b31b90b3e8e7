/* The block formats: their layouts (facts of GGUF, see ggml's ggml-common.h), decoding and unpacking.
 *
 * A tensor's row is a whole number of blocks; rows follow one another without padding, so N rows of K weights are
 * N * K / block blocks. All functions are pure: no global state, no allocation, safe from any number of threads. */
#ifndef EK_FORMAT_H
#define EK_FORMAT_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { EK_SUPERBLOCK = 256, EK_MAX_GROUPS = 16 };

/* Indices into ek_formats. */
enum ek_type {
  EK_TYPE_f32,
  EK_TYPE_f16,
  EK_TYPE_bf16,
  EK_TYPE_q8_0,
  EK_TYPE_q4_0,
  EK_TYPE_q4_1,
  EK_TYPE_q5_0,
  EK_TYPE_q5_1,
  EK_TYPE_iq4_nl,
  EK_TYPE_q4_k,
  EK_TYPE_q5_k,
  EK_TYPE_q6_k,
  EK_TYPES
};

/* A block taken apart: weight k is scales[k / group] * level - minima[k / group], where level is levels[codes[k]], or
 * codes[k] itself where the format has no table. Codes are signed where `signed_codes`, else 0 .. 255 in the same byte.
 */
typedef struct ek_parts {
  int8_t codes[EK_SUPERBLOCK];
  float scales[EK_MAX_GROUPS];
  float minima[EK_MAX_GROUPS];
} ek_parts;

typedef struct ek_format {
  const char *name; /* "q4_0" */
  int block;        /* weights per block */
  int block_bytes;
  int group; /* weights per scale; 0 for the float formats */
  int has_minima;
  int signed_codes;
  const int8_t *levels;                                  /* 16 of them, or NULL */
  void (*unpack)(const uint8_t *block, ek_parts *parts); /* NULL for the float formats */
  float (*widen)(const uint8_t *block);                  /* the float formats: one weight */
} ek_format;

/* All of them, in the order of ek_type, ended by a format without a name. */
extern const ek_format ek_formats[EK_TYPES + 1];

/* The 16 levels of IQ4_NL. */
extern const int8_t ek_iq4_nl_levels[16];

/* The 6-bit scale and minimum of sub-block j (0 .. 7) in the 12 bytes of Q4_K and Q5_K. */
void ek_k_scale(const uint8_t *packed, int j, uint8_t *scale, uint8_t *minimum);

/* NULL where there is none of that name. */
const ek_format *ek_format_find(const char *name);

/* values (count * block) from blocks (count * block_bytes); bit for bit what ggml's own dequantisation gives. */
void ek_dequantise(const ek_format *format, const uint8_t *blocks, size_t count, float *values);

/* codes (count * block), scales and minima (count * block / group); minima is not touched where the format has none.
 * Not for the float formats. */
void ek_unpack(const ek_format *format, const uint8_t *blocks, size_t count, int8_t *codes, float *scales,
               float *minima);

#ifdef __cplusplus
}
#endif

#endif
