#include "api/context.h"

#include "api/params.h"

#include <stdlib.h>

/* What can be asked for. Sizes that follow stay below 2^48, and allocations that are too large fail as such. */
enum {
  MOST_POSITIONS = 1 << 24,
  MOST_SEQUENCES = 1024,
  MOST_MICRO_BATCH = 1 << 14,
  DEFAULT_POSITIONS = 4096,
  DEFAULT_MICRO_BATCH = 512
};

/* --- creation --- */

static ek_status check_range(const char *name, uint32_t value, uint32_t most) {
  if (value <= most) return EK_OK;
  return ek_fail(EK_BAD_ARGUMENT, "%s %lu is out of range: give at most %lu", name, (unsigned long)value,
                 (unsigned long)most);
}

static uint32_t or_default(uint32_t value, uint32_t otherwise) { return value > 0 ? value : otherwise; }

static uint32_t least(uint32_t a, uint32_t b) { return a < b ? a : b; }

/* Fills in defaults. */
static ek_status check_params(const ek_model *model, ek_context_params *p) {
  ek_status status = check_range("positions", p->positions, MOST_POSITIONS);
  if (status == EK_OK) status = check_range("sequences", p->sequences, MOST_SEQUENCES);
  if (status == EK_OK) status = check_range("micro_batch", p->micro_batch, MOST_MICRO_BATCH);
  if (status == EK_OK) status = check_range("key_type", p->key_type, EK_CACHE_Q4_0);
  if (status == EK_OK) status = check_range("value_type", p->value_type, EK_CACHE_Q4_0);
  if (status != EK_OK) return status;
  if (p->float_activations && (p->key_type || p->value_type))
    return ek_fail(EK_BAD_ARGUMENT, "float_activations have a float32 cache: leave key_type and value_type 0");
  p->positions = or_default(p->positions, least(model->shape.context, DEFAULT_POSITIONS));
  p->sequences = or_default(p->sequences, 1);
  p->micro_batch = least(or_default(p->micro_batch, DEFAULT_MICRO_BATCH), p->positions);
  return EK_OK;
}

static enum ek_type type_of(uint32_t id) {
  static const enum ek_type types[] = {EK_TYPE_f16, EK_TYPE_q8_0, EK_TYPE_q4_0};
  return types[id];
}

static ek_status fill(ek_context *made, const ek_context_params *p) {
  const int floats = p->float_activations != 0;
  const ek_cache_params cache = {.key_type = floats ? EK_TYPE_f32 : type_of(p->key_type),
                                 .value_type = floats ? EK_TYPE_f32 : type_of(p->value_type),
                                 .positions = p->positions,
                                 .sequences = p->sequences,
                                 .step = p->micro_batch};
  made->seen = calloc(p->sequences, sizeof *made->seen);
  if (!made->seen) return ek_fail_plain(EK_NO_MEMORY, "context");
  const ek_status status = ek_cache_create(made->model, &cache, &made->cache);
  if (status != EK_OK) return status;
  return ek_decoder_create(made->model, made->cache, p->micro_batch, p->sequences, floats, &made->decoder);
}

static void destroy(ek_context *context) {
  ek_decoder_free(context->decoder);
  ek_cache_free(context->cache);
  free(context->seen);
  free(context);
}

ek_status ek_context_create(ek_model *model, const ek_context_params *params, ek_context **context) {
  if (!model || !context) return ek_fail(EK_BAD_ARGUMENT, "the model or the pointer for the context is NULL");
  ek_context_params own;
  ek_status status = ek_params_read(params, &own, sizeof own, "ek_context_params");
  if (status == EK_OK) status = check_params(model, &own);
  if (status != EK_OK) return status;
  ek_context *made = calloc(1, sizeof *made);
  if (!made) return ek_fail_plain(EK_NO_MEMORY, "context");
  atomic_init(&made->user, 0);
  made->model = model;
  made->sequences = own.sequences;
  made->micro_batch = own.micro_batch;
  status = fill(made, &own);
  if (status != EK_OK) {
    destroy(made);
    return status;
  }
  *context = made;
  return EK_OK;
}

void ek_context_free(ek_context *context) {
  if (context && ek_context_enter(context, "ek_context_free") == EK_OK) destroy(context);
}

/* --- sequences --- */

static ek_status check_sequence(const ek_context *context, uint32_t sequence) {
  if (sequence < context->sequences) return EK_OK;
  return ek_fail(EK_BAD_ARGUMENT, "there is no sequence %lu: the context was created for %lu", (unsigned long)sequence,
                 (unsigned long)context->sequences);
}

ek_status ek_sequence_length(const ek_context *context, uint32_t sequence, uint64_t *length) {
  if (!length) return ek_fail(EK_BAD_ARGUMENT, "the pointer for the length is NULL");
  ek_status status = ek_context_enter(context, "ek_sequence_length");
  if (status != EK_OK) return status;
  status = check_sequence(context, sequence);
  if (status == EK_OK) *length = ek_cache_length(context->cache, sequence);
  ek_context_leave(context);
  return status;
}

ek_status ek_sequence_truncate(ek_context *context, uint32_t sequence, uint64_t length) {
  ek_status status = ek_context_enter(context, "ek_sequence_truncate");
  if (status != EK_OK) return status;
  status = check_sequence(context, sequence);
  if (status == EK_OK) status = ek_cache_truncate(context->cache, sequence, length);
  ek_context_leave(context);
  return status;
}

ek_status ek_sequence_fork(ek_context *context, uint32_t from, uint32_t to) {
  ek_status status = ek_context_enter(context, "ek_sequence_fork");
  if (status != EK_OK) return status;
  status = check_sequence(context, from);
  if (status == EK_OK) status = check_sequence(context, to);
  if (status == EK_OK) status = ek_cache_fork(context->cache, from, to);
  ek_context_leave(context);
  return status;
}

ek_status ek_cache_describe(const ek_context *context, ek_cache_stats *stats) {
  ek_cache_stats own = {.struct_size = 0};
  ek_status status = ek_context_enter(context, "ek_cache_describe");
  if (status != EK_OK) return status;
  ek_cache_bytes(context->cache, &own.allocated_bytes, &own.peak_bytes, &own.shared_bytes);
  status = ek_params_write(stats, &own, sizeof own, "ek_cache_stats");
  ek_context_leave(context);
  return status;
}

/* --- tokens --- */

static ek_status check_tokens(const ek_context *context, const int32_t *tokens, size_t count) {
  const uint32_t vocab = context->model->shape.vocab;
  for (size_t i = 0; i < count; i++) {
    if (tokens[i] < 0 || (uint32_t)tokens[i] >= vocab)
      return ek_fail(EK_BAD_ARGUMENT, "token %ld (number %zu) is none of the model's: 0 to %lu are", (long)tokens[i], i,
                     (unsigned long)vocab - 1);
  }
  return EK_OK;
}

ek_status ek_context_prefill(ek_context *context, uint32_t sequence, const int32_t *tokens, size_t count, float *logits,
                             size_t outputs) {
  if (!tokens || count == 0) return ek_fail(EK_BAD_ARGUMENT, "there are no tokens to append: give one at least");
  if (outputs > count || (outputs > 0) != (logits != NULL))
    return ek_fail(EK_BAD_ARGUMENT,
                   "%zu rows of logits of %zu tokens, %s: ask for as many as there are tokens at most, "
                   "or for none with NULL",
                   outputs, count, logits ? "with memory for them" : "without memory for them");
  ek_status status = check_sequence(context, sequence);
  if (status == EK_OK) status = ek_cache_fits(context->cache, sequence, count);
  if (status == EK_OK) status = check_tokens(context, tokens, count);
  for (size_t done = 0, n; status == EK_OK && done < count; done += n) {
    n = count - done < context->micro_batch ? count - done : context->micro_batch;
    status = ek_context_check_cancel(context);
    if (status != EK_OK) return status;
    const size_t end = done + n, first = count - outputs; /* the first token that logits are wanted of */
    const size_t wanted = end <= first ? 0 : end - (first > done ? first : done);
    status = ek_decoder_prefill(context->decoder, sequence, tokens + done, n, logits, wanted);
    if (wanted > 0) logits += wanted * context->model->shape.vocab;
  }
  return status;
}

ek_status ek_prefill(ek_context *context, uint32_t sequence, const int32_t *tokens, size_t count, float *logits,
                     size_t outputs) {
  ek_status status = ek_context_enter(context, "ek_prefill");
  if (status != EK_OK) return status;
  status = ek_context_prefill(context, sequence, tokens, count, logits, outputs);
  ek_context_leave(context);
  return status;
}

/* Each one is there, has room for a token, and is named once. */
static ek_status check_each(ek_context *context, const uint32_t *sequences, size_t count) {
  ek_status status = EK_OK;
  size_t checked = 0;
  for (; status == EK_OK && checked < count; checked++) {
    const uint32_t s = sequences[checked];
    status = check_sequence(context, s);
    if (status != EK_OK) break;
    if (context->seen[s]) {
      status =
          ek_fail(EK_BAD_ARGUMENT, "sequence %lu is named twice: a decode appends one token to each", (unsigned long)s);
      break;
    }
    context->seen[s] = 1;
    status = ek_cache_fits(context->cache, s, 1);
  }
  for (size_t i = 0; i < checked; i++) context->seen[sequences[i]] = 0;
  return status;
}

static ek_status check_cancel(void *context) { return ek_context_check_cancel(context); }

ek_status ek_context_decode(ek_context *context, const uint32_t *sequences, const int32_t *tokens, size_t count,
                            float *logits) {
  if (!sequences || !tokens || count == 0)
    return ek_fail(EK_BAD_ARGUMENT, "there are no sequences or no tokens to append: give one of each at least");
  if (count > context->sequences)
    return ek_fail(EK_BAD_ARGUMENT, "%zu sequences at once: the context was created for %lu", count,
                   (unsigned long)context->sequences);
  ek_status status = check_tokens(context, tokens, count);
  if (status == EK_OK) status = check_each(context, sequences, count);
  const ek_stop stop = {check_cancel, context};
  return status == EK_OK ? ek_decoder_step(context->decoder, sequences, tokens, count, logits, &stop) : status;
}

ek_status ek_decode(ek_context *context, const uint32_t *sequences, const int32_t *tokens, size_t count,
                    float *logits) {
  ek_status status = ek_context_enter(context, "ek_decode");
  if (status != EK_OK) return status;
  status = ek_context_decode(context, sequences, tokens, count, logits);
  ek_context_leave(context);
  return status;
}
