#include "decoder/parts.h"
#include "operators/rope.h"

#include <math.h>

enum { CAP_CHUNK = 4096 };

/* --- tokens in --- */

void ek_decoder_cut(ek_decoder *d) {
  d->piece_count = 0;
  for (size_t s = 0; s < d->span_count; s++) {
    const ek_span *span = &d->spans[s];
    const size_t slot = (size_t)d->positions[span->first] % EK_CACHE_BLOCK;
    for (size_t done = 0; done < span->count;) {
      const size_t fit = EK_CACHE_BLOCK - (slot + done) % EK_CACHE_BLOCK, left = span->count - done;
      const size_t count = fit < left ? fit : left;
      d->pieces[d->piece_count++] = (ek_piece){s, span->first + done, count};
      done += count;
    }
  }
}

static void begin(ek_decoder *d, const int32_t *ids) {
  d->tokens = 0;
  d->ids = ids;
  for (size_t s = 0; s < d->span_count; s++) {
    const ek_span *span = &d->spans[s];
    const uint64_t length = ek_cache_length(d->cache, span->sequence);
    for (size_t i = 0; i < span->count; i++) d->positions[d->tokens++] = (int32_t)(length + i);
  }
  ek_decoder_cut(d);
}

/* Embeddings, and the angles of their positions. */
static void embed_task(void *context, size_t index, unsigned worker) {
  (void)worker;
  const ek_decoder *d = context;
  const ek_model *m = d->model;
  const size_t pairs = m->shape.head_dim / 2;
  const ek_piece *piece = &d->pieces[index];
  for (size_t t = piece->first; t < piece->first + piece->count; t++) {
    const uint64_t position = (uint64_t)d->positions[t];
    ek_model_embed(m, d->ids[t], d->hidden + t * m->shape.hidden);
    ek_rope_row(m->frequencies, pairs, position, d->cosine[0] + t * pairs, d->sine[0] + t * pairs);
    if (m->shape.window == 0) continue;
    ek_rope_row(m->sliding_frequencies, pairs, position, d->cosine[1] + t * pairs, d->sine[1] + t * pairs);
  }
}

/* --- logits out --- */

static void output_task(void *context, size_t index, unsigned worker) {
  (void)worker;
  const ek_decoder *d = context;
  const ek_model *m = d->model;
  const size_t hidden = m->shape.hidden;
  const unsigned groups = ek_linear_groups(d, (const ek_linear *[]){&m->head}, 1);
  const ek_piece *piece = &d->pieces[index];
  for (size_t t = piece->first; t < piece->first + piece->count; t++) {
    float *normed = d->normed + t * hidden;
    m->kernels->rms_norm[EK_TYPE_f32](d->hidden + t * hidden, m->output_norm, hidden, m->shape.norm_epsilon, normed);
    ek_decoder_quantise(d, groups, normed, hidden, t);
  }
}

typedef struct capping {
  float cap, *logits;
  size_t count;
} capping;

static void cap_task(void *context, size_t index, unsigned worker) {
  (void)worker;
  const capping *job = context;
  const size_t first = index * CAP_CHUNK, end = first + CAP_CHUNK < job->count ? first + CAP_CHUNK : job->count;
  for (size_t i = first; i < end; i++) job->logits[i] = job->cap * tanhf(job->logits[i] / job->cap);
}

static ek_status output(ek_decoder *d, float *logits) {
  const ek_model *m = d->model;
  const size_t vocab = m->shape.vocab;
  ek_status status = ek_pool_run(m->pool, output_task, d, d->piece_count);
  if (status != EK_OK) return status;
  status =
      ek_decoder_multiply(d, (const ek_linear *[]){&m->head}, (float *[]){logits}, (size_t[]){vocab}, 1, d->normed);
  if (status != EK_OK) return status;
  for (size_t t = 0; m->head.bias && t < d->tokens; t++) {
    for (size_t i = 0; i < vocab; i++) logits[t * vocab + i] += m->head.bias[i];
  }
  if (m->shape.logit_softcap == 0) return EK_OK;
  capping job = {m->shape.logit_softcap, logits, d->tokens * vocab};
  return ek_pool_run(m->pool, cap_task, &job, (job.count + CAP_CHUNK - 1) / CAP_CHUNK);
}

/* --- the pass --- */

static ek_status check(const ek_stop *stop) { return stop ? stop->check(stop->user) : EK_OK; }

/* The spans' tokens through all layers. */
static ek_status forward(ek_decoder *d, const int32_t *ids, float *logits, size_t outputs, const ek_stop *stop) {
  begin(d, ids);
  ek_status status = ek_pool_run(d->model->pool, embed_task, d, d->piece_count);
  const uint32_t layers = d->model->shape.layers;
  for (uint32_t i = 0; i < layers && status == EK_OK; i++) {
    status = check(stop);
    if (status == EK_OK) status = ek_decoder_layer(d, i, i + 1 < layers ? d->tokens : outputs);
  }
  if (status == EK_OK && outputs > 0) status = check(stop);
  return status != EK_OK || outputs == 0 ? status : output(d, logits);
}

static ek_status forward_on_big_cores(ek_decoder *d, const int32_t *ids, float *logits, size_t outputs,
                                      const ek_stop *stop) {
  ek_cores before;
  ek_pool_pin_caller(d->model->pool, &before);
  const ek_status status = forward(d, ids, logits, outputs, stop);
  ek_cores_unpin(&before);
  return status;
}

static void abandon(ek_decoder *d, size_t count) {
  for (size_t s = 0; s < count; s++) ek_cache_abandon(d->cache, d->spans[s].sequence);
}

/* Adds `each` tokens to every span's sequence, or none. What can fail, a run within a run, does so in the first run,
 * when nothing is stored yet; only single tokens, which can be abandoned in any layer, have a `stop`. */
static ek_status compute(ek_decoder *d, size_t each, const int32_t *ids, float *logits, size_t outputs,
                         const ek_stop *stop) {
  for (size_t s = 0; s < d->span_count; s++) {
    const ek_status status = ek_cache_reserve(d->cache, d->spans[s].sequence, each);
    if (status == EK_OK) continue;
    abandon(d, s);
    return status;
  }
  const ek_status status = forward_on_big_cores(d, ids, logits, outputs, stop);
  if (status != EK_OK) {
    abandon(d, d->span_count);
    return status == EK_CANCELLED ? status : ek_fail_plain(status, "decoder");
  }
  for (size_t s = 0; s < d->span_count; s++) ek_cache_commit(d->cache, d->spans[s].sequence);
  return EK_OK;
}

ek_status ek_decoder_prefill(ek_decoder *decoder, uint32_t sequence, const int32_t *tokens, size_t count, float *logits,
                             size_t outputs) {
  decoder->spans[0] = (ek_span){sequence, 0, count};
  decoder->span_count = 1;
  return compute(decoder, count, tokens, logits, logits ? outputs : 0, NULL);
}

ek_status ek_decoder_step(ek_decoder *decoder, const uint32_t *sequences, const int32_t *tokens, size_t count,
                          float *logits, const ek_stop *stop) {
  for (size_t s = 0; s < count; s++) decoder->spans[s] = (ek_span){sequences[s], s, 1};
  decoder->span_count = count;
  return compute(decoder, 1, tokens, logits, logits ? count : 0, stop);
}
