/* The kernels: one function for each operation, type and instruction set level, listed in kernels.inc.
 *
 * A kernel is a pure function of its arguments: it allocates nothing, locks nothing, starts no thread and keeps no
 * state. It reads and writes exactly the bytes that its arguments describe, at any alignment of the C type. Arguments
 * are checked by the callers (matmul.h, attention.h); a kernel trusts them.
 *
 * All levels give the same bits but the scalar one, which computes in float64: it is the oracle of the others. A number
 * that rounding moves would otherwise move a code of 8 bits of the next layer's, and in the end a token. So each
 * operation has one order of float operations, said below: "fma" is one rounding, all else is rounded one by one, in
 * float32 and to nearest, ties to even. Integers are exact, and so is a power of two by which a level multiplies
 * throughout, as long as nothing is subnormal. Where an input is not finite, whether NaN or an infinity comes out is
 * not said. */
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

/* out[r] = sum_k weight[r][k] * x[k] for the rows r < rows of ceil(rows / 8) stripes; x is one token.
 *
 * Order: a row has one sum, from 0, to which each column, group of 32 or of 256 adds in turn. dot and sum are those of
 * codes, integers; halves are d, m, dmin (stripe.h), s is the scale of x.
 *   float types:            sum = fma(weight, x, sum)
 *   group 32:               sum = fma(d * dot, s, sum), then where there is an m: sum = fma(m, s * sum_x, sum)
 *   group 256, with minima: sum = fma(fma(-dmin, minima, d * dot), s, sum), dot and minima with their integer factors
 *   group 256, q6_k:        sum = fma(d * dot, s, sum) */
typedef void ek_gemv_fn(const uint8_t *stripes, size_t rows, size_t columns, const ek_activations *x, float *out);

/* out[t * out_stride + r] = sum_k weight[r][k] * x[t][k] for t < tokens, r < rows; of each token what gemv gives. */
typedef void ek_gemm_fn(const uint8_t *stripes, size_t rows, size_t columns, const ek_activations *x, size_t tokens,
                        float *out, size_t out_stride);

/* scores[q * count * 16 + 16 * b + p] = sum_d query[q][d] * key[b][p][d] over `count` K blocks, at most EK_CACHE_TILE.
 * Queries are tokens of `dims` columns: `values` for f16 blocks, group 32 for the quantised ones. dims is a multiple of
 * 32, at most EK_MOST_HEAD_DIMS.
 *
 * Order: one sum, from 0; of f16 sum = fma(key, query, sum) for each dimension, of the others, for each 32 dimensions,
 * sum = fma(dot, d * s, sum) with the scales of the key and of the query. */
typedef void ek_scores_fn(const uint8_t *const *blocks, size_t count, size_t dims, const ek_activations *queries,
                          size_t query_count, float *scores);

/* One step of the online softmax (Milakov and Gimelshein, 2018, arXiv:1805.02867) over `count` more scores, in place:
 * *maximum grows to m, and scores become weights of which factor * weight = 2^(score - m); *sum is rescaled and grows
 * by those terms. Scores are in base 2: exp's are multiplied by log2(e) in the queries' scale, which costs nothing.
 * Returns 2^(old maximum - m), by which what was accumulated so far is to be multiplied. A score of
 * -infinity is masked out; *maximum starts as -infinity and *sum as 0. count is a multiple of 16, at most 16 *
 * EK_CACHE_TILE. Weights are int16, of which the largest is about 32503, in the first half of the scores' memory.
 *
 * Order: weight = round(2^(score - c)), c = largest score here - 14.98828125; where |largest| is 8192 or more, that is
 * subtracted from all scores first. factor = 2^(c - m), sum = fma(factor, sum of weights, sum * 2^(old maximum - m)).
 * 2^x is ek_exp2's (vector/exp.h). */
typedef float ek_online_softmax_fn(float *scores, size_t count, float *maximum, float *sum, float *factor);

/* out[q * dims + d] += factors[q] * sum_{b,p} weight[q * count * 16 + 16 * b + p] * value[b][p][d] over `count` V
 * blocks, at most EK_CACHE_TILE. Weights, int16 that lie count * 16 floats apart for the queries, are of the range of
 * online_softmax: the largest of a query is about the same in all tiles. dims as for scores.
 *
 * Order: of f16 one sum, from 0, sum = fma(value, weight, sum) for each position, then out = fma(sum, factor, out). Of
 * the others, for each 32 dimensions, weight * scale becomes an integer of 16 bits (queries.h) in units of u, a power
 * of two that follows from the largest |scale| of all positions; out = fma(dot, factor * u, out), the dot product of
 * integers. */
typedef void ek_values_fn(const uint8_t *const *blocks, size_t count, size_t dims, const float *weights,
                          const float *factors, size_t query_count, float *out);

/* x in place: exp(x - max) / sum.
 *
 * Order: e = exp(x - max), ek_exp_nonpositive's (vector/exp.h); 32 sums, from 0, of which number i % 32 takes element
 * i; then their halves are added, 0 .. 15 to 16 .. 31, and so on to the last two; e * (1 / sum). */
typedef void ek_softmax_fn(float *x, size_t count);

/* One token for weights of activation group 32 or 256. For each group of x: scale = max |x| / 127, code = x * (127 /
 * max |x|) in float32, rounded to nearest, ties to even; offsets or sums as in ek_activations. A group whose maximum is
 * below 1e-30 has scale 0; one with a value that is not finite has scale NaN and codes 0. The scalar level gives these
 * bytes too. */
typedef void ek_quantise_32_fn(const float *x, size_t columns, int8_t *codes, float *scales, int32_t *offsets);
typedef void ek_quantise_256_fn(const float *x, size_t columns, int8_t *codes, float *scales, int16_t *sums);

/* out[i] = weight[i] * x[i] / sqrt(mean(x^2) + epsilon); out may be x.
 *
 * Order: 32 sums as in softmax, sum = fma(x, x, sum); scale = 1 / sqrt(sum / count + epsilon); (x * scale) * weight. */
typedef void ek_rms_norm_fn(const float *x, const float *weight, size_t count, float epsilon, float *out);

/* Rotates `pairs` pairs of one head in place: pair i is (x[i], x[i + pairs]) for halves (GPT-NeoX), (x[2 i], x[2 i +
 * 1]) for adjacent ones (the original); (a, b) becomes (a cos - b sin, a sin + b cos).
 *
 * Order: fma(-b, sin, a * cos), fma(b, cos, a * sin). */
typedef void ek_rope_halves_fn(float *x, size_t pairs, const float *cosine, const float *sine);
typedef void ek_rope_adjacent_fn(float *x, size_t pairs, const float *cosine, const float *sine);

/* x in place: H x / sqrt(count), H the Walsh-Hadamard matrix in its natural order: a rotation that is its own inverse.
 * count is a power of two, from 32 to EK_MOST_HEAD_DIMS.
 *
 * Order: log2(count) times sums and differences of neighbours, x[2 i] + x[2 i + 1] to i, their difference to i +
 * count / 2 (Pease, 1968); then x * (1 / sqrt(count)). */
typedef void ek_hadamard_fn(float *x, size_t count);

/* out[i] = f(gate[i]) * up[i]: f is SiLU, or GELU in its tanh form; out may be gate or up.
 *
 * Order: gate / (exp(-gate) + 1) * up; for GELU exp(gate * fma(gate * gate, a, b)), a and b of vector/elementwise.h.
 * exp is ek_exp's (vector/exp.h). */
typedef void ek_swiglu_fn(const float *gate, const float *up, size_t count, float *out);
typedef void ek_geglu_fn(const float *gate, const float *up, size_t count, float *out);

/* All operations, for those who go through the list; first those that read codes packed with an interleave. */
#define EK_OPERATIONS(op)                                                                                              \
  op(gemv) op(gemm) op(scores) op(values) op(online_softmax) op(softmax) op(quantise_32) op(quantise_256) op(rms_norm) \
      op(rope_halves) op(rope_adjacent) op(hadamard) op(swiglu) op(geglu)

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
