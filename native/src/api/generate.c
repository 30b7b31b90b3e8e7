#include "api/context.h"
#include "sampling/sampler.h"

#include <stdlib.h>

typedef struct generation {
  ek_context *context;
  uint32_t sequence;
  ek_sampler *sampler;
  size_t most;
  const int32_t *ends;
  size_t end_count;
  ek_token_fn *on_token;
  void *user;
  float *logits; /* (vocab) */
  size_t generated;
} generation;

static int is_end(const generation *g, int32_t token) {
  for (size_t i = 0; i < g->end_count; i++) {
    if (g->ends[i] == token) return 1;
  }
  return 0;
}

/* Chooses a token and hands it over. */
static ek_status next_token(generation *g, int32_t *token) {
  ek_status status = ek_context_check_cancel(g->context);
  if (status == EK_OK) status = ek_sampler_choose(g->sampler, g->logits, token);
  if (status != EK_OK) return status;
  g->generated++;
  if (g->on_token && g->on_token(g->user, *token) != 0)
    return ek_fail(EK_CANCELLED, "on_token asked to stop after %zu tokens", g->generated);
  return EK_OK;
}

static ek_status generate(generation *g, const int32_t *prompt, size_t prompt_count) {
  const size_t outputs = g->most > 0;
  int32_t token;
  ek_status status =
      ek_context_prefill(g->context, g->sequence, prompt, prompt_count, outputs ? g->logits : NULL, outputs);
  for (size_t i = 0; status == EK_OK && i < prompt_count; i++) status = ek_sampler_accept(g->sampler, prompt[i]);
  while (status == EK_OK && g->generated < g->most) {
    status = next_token(g, &token);
    if (status != EK_OK || g->generated == g->most || is_end(g, token)) break;
    status = ek_context_decode(g->context, &g->sequence, &token, 1, g->logits);
  }
  return status;
}

static ek_status check(const generation *g) {
  const uint32_t vocab = g->context->model->shape.vocab;
  if (!g->sampler || (!g->ends && g->end_count > 0))
    return ek_fail(EK_BAD_ARGUMENT, "the sampler or the ends for ek_generate are NULL");
  if (ek_sampler_vocab(g->sampler) == vocab) return EK_OK;
  return ek_fail(EK_BAD_ARGUMENT, "the sampler was created for %lu tokens, the model has %lu",
                 (unsigned long)ek_sampler_vocab(g->sampler), (unsigned long)vocab);
}

ek_status ek_generate(ek_context *context, uint32_t sequence, const int32_t *prompt, size_t prompt_count,
                      ek_sampler *sampler, size_t most, const int32_t *ends, size_t end_count, ek_token_fn *on_token,
                      void *user, size_t *generated) {
  generation g = {context, sequence, sampler, most, ends, end_count, on_token, user, NULL, 0};
  ek_status status = ek_context_enter(context, "ek_generate");
  if (status == EK_OK) {
    status = check(&g);
    if (status == EK_OK) {
      g.logits = malloc(context->model->shape.vocab * sizeof *g.logits);
      status = g.logits ? generate(&g, prompt, prompt_count) : ek_fail_plain(EK_NO_MEMORY, "logits");
      free(g.logits);
    }
    ek_context_leave(context);
  }
  if (generated) *generated = g.generated;
  return status;
}
