/* Rotary position embedding: how far each pair of dimensions turns with each position. */
#ifndef EK_ROPE_H
#define EK_ROPE_H

#include "error.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* How frequencies differ from base^(-2 i / dims), for contexts beyond those trained on. 0 throughout: not at all. */
typedef struct ek_rope_scaling {
  /* All frequencies are divided by it (position interpolation); 0 and 1: by nothing. */
  double linear;
  /* Llama 3's rule: a pair that turns more than high_frequency times within original_context positions stays, one that
   * turns less than low_frequency times is divided by `factor`, in between the two are mixed. factor 0: not at all. */
  double factor, low_frequency, high_frequency, original_context;
  /* Each frequency is divided by its own, as GGUF's tensor rope_freqs says; NULL: by nothing. dims / 2 of them. */
  const float *factors;
} ek_rope_scaling;

/* Radians per position of the dims / 2 pairs that are rotated (of a head whose further dimensions are left alone).
 * scaling may be NULL. EK_BAD_ARGUMENT: dims odd or 0, or a number that is not finite and positive where it has to be.
 */
ek_status ek_rope_frequencies(size_t dims, double base, const ek_rope_scaling *scaling, double *frequencies);

/* cosine[i] and sine[i] of position * frequencies[i], for the kernels rope_halves and rope_adjacent. */
void ek_rope_row(const double *frequencies, size_t pairs, uint64_t position, float *cosine, float *sine);

#ifdef __cplusplus
}
#endif

#endif
