/* A context, and who may use it when. */
#ifndef EK_CONTEXT_H
#define EK_CONTEXT_H

#include "decoder/decoder.h"

#include <stdatomic.h>

struct ek_context {
  /* 0 while no call works on the context, else the address of its thread's `here`, with bit 0 set once it is to be
   * cancelled: in one word, so that a cancel meets the call that it was meant for or none. */
  _Atomic(uintptr_t) user;
  ek_model *model;
  ek_cache *cache;
  ek_decoder *decoder;
  uint32_t sequences, micro_batch;
  uint8_t *seen; /* (sequences) zeros: to find one that is named twice */
};

/* Every public function does its work between these two. EK_BAD_ARGUMENT: context is NULL or used by another thread;
 * EK_NESTED_RUN: by this one. Leave only after EK_OK. */
ek_status ek_context_enter(const ek_context *context, const char *function);
void ek_context_leave(const ek_context *context);

/* EK_CANCELLED with its sentence, or EK_OK. */
ek_status ek_context_check_cancel(const ek_context *context);

/* The public functions of these names, without entering. */
ek_status ek_context_prefill(ek_context *context, uint32_t sequence, const int32_t *tokens, size_t count, float *logits,
                             size_t outputs);
ek_status ek_context_decode(ek_context *context, const uint32_t *sequences, const int32_t *tokens, size_t count,
                            float *logits);

#endif
