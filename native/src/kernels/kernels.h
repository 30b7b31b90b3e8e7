/* The kernels: one function for each operation, type and instruction set level, listed in kernels.inc.
 *
 * A kernel is a pure function of its arguments: it allocates nothing, locks nothing, starts no thread and keeps no
 * state. It reads and writes exactly the bytes that its arguments describe, at any alignment of the C type. Arguments
 * are checked by the callers (matmul.h, attention.h); a kernel trusts them. */
#ifndef EK_KERNELS_H
#define EK_KERNELS_H

#include "../format.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Instruction sets, each implying the ones before it of the same architecture.
 * avx2: with FMA and F16C. avx512vnni: F, BW, DQ, VL, VNNI. neon: ARMv8.0. dotprod: ASIMDDP and ASIMDHP (fp16
 * arithmetic). i8mm: also I8MM. */
typedef enum ek_level {
  EK_LEVEL_scalar,
  EK_LEVEL_avx2,
  EK_LEVEL_avx512vnni,
  EK_LEVEL_neon,
  EK_LEVEL_dotprod,
  EK_LEVEL_i8mm,
  EK_LEVELS
} ek_level;

/* Rows of a packed matrix, one after another in a stripe (stripe.h). */
enum { EK_STRIPE = 8 };

/* Positions in a block of the attention cache (cache_block.h); blocks that a kernel takes at once, and dimensions of a
 * head, at most. */
enum { EK_CACHE_BLOCK = 16, EK_CACHE_TILE = 16, EK_MOST_HEAD_DIMS = 512 };

/* Vectors to multiply with, `tokens` rows of `columns`. Which members are set follows from the weights' type, see
 * ek_activation_group: 0 only `values`, 32 and 256 the others. */
typedef struct ek_activations {
  const float *values;    /* (tokens, columns) */
  const int8_t *codes;    /* (tokens, columns), -127 .. 127; x = scale * code */
  const float *scales;    /* (tokens, columns / group) */
  const int32_t *offsets; /* group 32: (tokens, columns / 32), -8 times the sum of the group's codes */
  const int16_t *sums;    /* group 256: (tokens, columns / 16), the sum of each 16 codes */
} ek_activations;

/* out[r] = sum_k weight[r][k] * x[k] for the rows r < rows of ceil(rows / 8) stripes; x is one token. */
typedef void ek_gemv_fn(const uint8_t *stripes, size_t rows, size_t columns, const ek_activations *x, float *out);

/* out[t * out_stride + r] = sum_k weight[r][k] * x[t][k] for t < tokens, r < rows. */
typedef void ek_gemm_fn(const uint8_t *stripes, size_t rows, size_t columns, const ek_activations *x, size_t tokens,
                        float *out, size_t out_stride);

/* scores[q * count * 16 + 16 * b + p] = sum_d query[q][d] * key[b][p][d] over `count` K blocks, at most EK_CACHE_TILE.
 * Queries are tokens of `dims` columns: `values` for f16 blocks, group 32 for the quantised ones. dims is a multiple of
 * 32, at most EK_MOST_HEAD_DIMS. */
typedef void ek_scores_fn(const uint8_t *const *blocks, size_t count, size_t dims, const ek_activations *queries,
                          size_t query_count, float *scores);

/* One step of the online softmax (Milakov and Gimelshein, 2018, arXiv:1805.02867) over `count` more scores, in place:
 * *maximum grows to m, and scores become weights of which factor * weight = 2^(score - m); *sum is rescaled and grows
 * by those terms. Scores are in base 2: exp's are multiplied by log2(e) in the queries' scale, which costs nothing.
 * Returns 2^(old maximum - m), by which what was accumulated so far is to be multiplied. A score of
 * -infinity is masked out; *maximum starts as -infinity and *sum as 0. count is a multiple of 16, at most 16 *
 * EK_CACHE_TILE. Weights are for `values` of the same level: float, but int16, in the first half of the scores' memory,
 * at levels that imply dotprod. */
typedef float ek_online_softmax_fn(float *scores, size_t count, float *maximum, float *sum, float *factor);

/* out[q * dims + d] += factors[q] * sum_{b,p} weight[q * count * 16 + 16 * b + p] * value[b][p][d] over `count` V
 * blocks, at most EK_CACHE_TILE. Weights, count * 16 floats apart for the queries, are of the range of online_softmax:
 * the largest of a query is about the same in all tiles. dims as for scores. */
typedef void ek_values_fn(const uint8_t *const *blocks, size_t count, size_t dims, const float *weights,
                          const float *factors, size_t query_count, float *out);

/* x in place: exp(x - max) / sum. */
typedef void ek_softmax_fn(float *x, size_t count);

/* One token for weights of activation group 32 or 256. For each group of x: scale = max |x| / 127, code = x * (127 /
 * max |x|) in float32, rounded to nearest, ties to even; offsets or sums as in ek_activations. A group whose maximum is
 * below 1e-30 has scale 0; one with a value that is not finite has scale NaN and codes 0. All levels give the same
 * bytes. */
typedef void ek_quantise_32_fn(const float *x, size_t columns, int8_t *codes, float *scales, int32_t *offsets);
typedef void ek_quantise_256_fn(const float *x, size_t columns, int8_t *codes, float *scales, int16_t *sums);

/* out[i] = weight[i] * x[i] / sqrt(mean(x^2) + epsilon); out may be x. */
typedef void ek_rms_norm_fn(const float *x, const float *weight, size_t count, float epsilon, float *out);

/* Rotates `pairs` pairs of one head in place: pair i is (x[i], x[i + pairs]) for halves (GPT-NeoX), (x[2 i], x[2 i +
 * 1]) for adjacent ones (the original); (a, b) becomes (a cos - b sin, a sin + b cos). */
typedef void ek_rope_halves_fn(float *x, size_t pairs, const float *cosine, const float *sine);
typedef void ek_rope_adjacent_fn(float *x, size_t pairs, const float *cosine, const float *sine);

/* out[i] = f(gate[i]) * up[i]: f is SiLU, or GELU in its tanh form; out may be gate or up. */
typedef void ek_swiglu_fn(const float *gate, const float *up, size_t count, float *out);
typedef void ek_geglu_fn(const float *gate, const float *up, size_t count, float *out);

/* All operations, for those who go through the list; first those that read codes packed with an interleave. */
#define EK_OPERATIONS(op)                                                                                              \
  op(gemv) op(gemm) op(scores) op(values) op(online_softmax) op(softmax) op(quantise_32) op(quantise_256) op(rms_norm) \
      op(rope_halves) op(rope_adjacent) op(swiglu) op(geglu)

#define EK_KERNEL(op, type, level) ek_##op##_fn ek_##op##_##type##_##level;
#include "kernels.inc"
#undef EK_KERNEL

/* For each operation and type the best kernel of a level; NULL where no kernel is listed for them. */
typedef struct ek_kernels {
  ek_level level;
  int interleave; /* of packed stripes and cache blocks at this level, see stripe.h */
#define MEMBER(op) ek_##op##_fn *op[EK_TYPES];
  EK_OPERATIONS(MEMBER)
#undef MEMBER
} ek_kernels;

/* "avx2", and back; EK_LEVELS where there is none of that name. */
const char *ek_level_name(ek_level level);
ek_level ek_level_named(const char *name);

/* Whether this build has the level and this machine can run it. */
int ek_level_supported(ek_level level);

/* Consecutive columns of one row that a level's kernels want side by side: 4, or 16 for neon. */
int ek_level_interleave(ek_level level);

/* The kernels of a supported level: for each operation and type the first row of kernels.inc that it implies. */
ek_kernels ek_kernels_of(ek_level level);

/* The kernels of this machine's best level, or of the one that the environment variable EDGEKIT_ISA names; filled once,
 * safe from any thread. NULL where EDGEKIT_ISA names no level that this machine can run. */
const ek_kernels *ek_kernels_here(void);

/* 0, 32 or 256: how vectors are quantised for weights of that type, see ek_activations. */
size_t ek_activation_group(enum ek_type type);

#ifdef __cplusplus
}
#endif

#endif
