/* The forward pass: tokens in, logits out. */
#ifndef EK_DECODER_H
#define EK_DECODER_H

#include "cache/cache.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ek_decoder ek_decoder;

/* Scratch for micro_batch tokens at once (no more than the cache's step) and a decode of `sequences`. Keeps pointers to
 * both. float_activations: all products with unrounded activations (the cache has to be f32), slowly. */
ek_status ek_decoder_create(const ek_model *model, ek_cache *cache, size_t micro_batch, size_t sequences,
                            int float_activations, ek_decoder **decoder);
void ek_decoder_free(ek_decoder *decoder);

/* One micro-batch at the end of a sequence; commits it to the cache. The caller has checked that 1 <= count <=
 * micro_batch and that all tokens are in the vocabulary. logits of the last `outputs` tokens, (outputs, vocab); outputs
 * 0: none. Failures leave the sequence as it was.
 */
ek_status ek_decoder_prefill(ek_decoder *decoder, uint32_t sequence, const int32_t *tokens, size_t count, float *logits,
                             size_t outputs);

/* Asked before each layer and before the logits; what is not EK_OK ends the step, which returns it. */
typedef struct ek_stop {
  ek_status (*check)(void *user); /* EK_CANCELLED with its sentence, or EK_OK */
  void *user;
} ek_stop;

/* One token for each of `count` different sequences (1 <= count <= sequences, as the tokens checked by the caller);
 * logits (count, vocab), NULL: none. All sequences get theirs, or none does. stop may be NULL. */
ek_status ek_decoder_step(ek_decoder *decoder, const uint32_t *sequences, const int32_t *tokens, size_t count,
                          float *logits, const ek_stop *stop);

#ifdef __cplusplus
}
#endif

#endif
