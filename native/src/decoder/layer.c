/* A layer, run by run of the pool: norms and quantisation token by token between the products. */
#include "decoder/parts.h"
#include "operators/float_mode.h"

#include <string.h>

/* --- token by token --- */

static void add_bias(const ek_linear *linear, float *row) {
  for (size_t i = 0; linear->bias && i < linear->matrix.rows; i++) row[i] += linear->bias[i];
}

static void normalise(const ek_decoder *d, const float *weight, const float *x, float *out) {
  const ek_model *m = d->model;
  m->kernels->rms_norm[EK_TYPE_f32](x, weight, m->shape.hidden, m->shape.norm_epsilon, out);
}

/* The norm before the products of `linears`, and its quantisation. */
static void prepare_token(const ek_decoder *d, const float *norm, const ek_linear *const *linears, size_t count,
                          size_t token) {
  const size_t hidden = d->model->shape.hidden;
  float *normed = d->normed + token * hidden;
  normalise(d, norm, d->hidden + token * hidden, normed);
  ek_decoder_quantise(d, ek_linear_groups(d, linears, count), normed, hidden, token);
}

/* What a product made of it goes back into the residual. */
static void add_token(const ek_decoder *d, const ek_linear *linear, const float *after_norm, size_t token) {
  const size_t hidden = d->model->shape.hidden;
  float *delta = d->delta + token * hidden, *to = d->hidden + token * hidden;
  add_bias(linear, delta);
  if (after_norm) normalise(d, after_norm, delta, delta);
  for (size_t i = 0; i < hidden; i++) to[i] += delta[i];
}

static void before_attention_task(void *context, size_t index, unsigned worker) {
  (void)worker;
  const ek_stage *s = context;
  const ek_layer *l = s->layer;
  const ek_piece *piece = &s->d->pieces[index];
  for (size_t t = piece->first; t < piece->first + piece->count; t++)
    prepare_token(s->d, l->attention_norm, (const ek_linear *[]){&l->q, &l->k, &l->v}, 3, t);
}

/* Heads without their padding, quantised for the output projection. */
static void after_attention_task(void *context, size_t index, unsigned worker) {
  (void)worker;
  const ek_stage *s = context;
  const ek_decoder *d = s->d;
  const ek_layer *l = s->layer;
  const size_t dims = d->model->shape.head_dim, padded = d->model->shape.padded_dim, columns = l->heads * dims;
  const unsigned groups = ek_linear_groups(d, (const ek_linear *[]){&l->o}, 1);
  const int rotated = ek_is_rotated(ek_cache_described(d->cache)->value_type);
  const ek_piece *piece = &d->pieces[index];
  for (size_t t = piece->first; t < piece->first + piece->count; t++) {
    float *from = d->attended + t * l->heads * padded;
    if (rotated) ek_rotate_heads(d, from, l->heads);
    float *to = d->joined + t * columns;
    for (size_t h = 0; h < l->heads && to != from; h++) memcpy(to + h * dims, from + h * padded, dims * sizeof(float));
    ek_decoder_quantise(d, groups, to, columns, t);
  }
}

static void before_ffn_task(void *context, size_t index, unsigned worker) {
  (void)worker;
  const ek_stage *s = context;
  const ek_layer *l = s->layer;
  const ek_piece *piece = &s->d->pieces[index];
  for (size_t t = piece->first; t < piece->first + piece->count; t++) {
    add_token(s->d, &l->o, l->after_attention_norm, t);
    prepare_token(s->d, l->ffn_norm, (const ek_linear *[]){&l->gate, &l->up}, 2, t);
  }
}

static void gate_task(void *context, size_t index, unsigned worker) {
  (void)worker;
  const ek_stage *s = context;
  const ek_decoder *d = s->d;
  const ek_layer *l = s->layer;
  const ek_kernels *kernels = d->model->kernels;
  const unsigned groups = ek_linear_groups(d, (const ek_linear *[]){&l->down}, 1);
  const ek_piece *piece = &d->pieces[index];
  for (size_t t = piece->first; t < piece->first + piece->count; t++) {
    float *gate = d->gate + t * l->ffn, *up = d->up + t * l->ffn;
    add_bias(&l->gate, gate);
    add_bias(&l->up, up);
    if (d->model->shape.geglu) {
      kernels->geglu[EK_TYPE_f32](gate, up, l->ffn, gate);
    } else {
      kernels->swiglu[EK_TYPE_f32](gate, up, l->ffn, gate);
    }
    ek_decoder_quantise(d, groups, gate, l->ffn, t);
  }
}

static void after_ffn_task(void *context, size_t index, unsigned worker) {
  (void)worker;
  const ek_stage *s = context;
  const ek_piece *piece = &s->d->pieces[index];
  for (size_t t = piece->first; t < piece->first + piece->count; t++)
    add_token(s->d, &s->layer->down, s->layer->after_ffn_norm, t);
}

/* --- the halves --- */

static ek_status run_pieces(ek_stage *s, ek_task_fn *task) {
  return ek_pool_run(s->d->model->pool, task, s, s->d->piece_count);
}

static ek_status attend(ek_stage *s, const ek_span *span) {
  ek_decoder *d = s->d;
  const ek_model *m = d->model;
  const ek_cache_params *types = ek_cache_described(d->cache);
  const ek_attention attention = {.key_type = types->key_type,
                                  .value_type = types->value_type,
                                  .kv_heads = s->layer->kv_heads,
                                  .group = s->layer->heads / s->layer->kv_heads,
                                  .dims = m->shape.padded_dim,
                                  .scale = m->shape.attention_scale,
                                  .window = s->layer->sliding ? (int32_t)m->shape.window : 0,
                                  .causal = 1};
  const size_t at = span->first * s->layer->heads * m->shape.padded_dim;
  const int32_t *positions = d->positions + span->first;
  ek_attention_cache view;
  ek_cache_view(d->cache, span->sequence, s->index, &view);
  if (d->floats)
    return ek_float_attention(m->pool, &attention, &view, d->queries + at, positions, span->count, d->attended + at,
                              d->float_scratch);
  return ek_attention_run(m->kernels, m->pool, &attention, &view, d->queries + at, positions, span->count,
                          d->attended + at, d->attention_scratch);
}

/* Queries, keys and values; keys and values are in the cache then. */
static ek_status project(ek_stage *s) {
  ek_decoder *d = s->d;
  const ek_layer *l = s->layer;
  const size_t padded = d->model->shape.padded_dim;
  ek_status status = run_pieces(s, before_attention_task);
  if (status != EK_OK) return status;
  status =
      ek_decoder_multiply(d, (const ek_linear *[]){&l->q, &l->k, &l->v}, (float *[]){d->queries, d->keys, d->values},
                          (size_t[]){l->heads * padded, l->kv_heads * padded, l->kv_heads * padded}, 3, d->normed);
  if (status != EK_OK) return status;
  for (size_t i = 0; i < d->span_count; i++) ek_cache_open_layer(d->cache, d->spans[i].sequence, s->index);
  return run_pieces(s, ek_place_heads_task);
}

/* From now on the last `kept` tokens are all that there are; they are of one span, or all. */
static void keep_last(ek_stage *s, size_t kept) {
  ek_decoder *d = s->d;
  const size_t hidden = d->model->shape.hidden, queries = s->layer->heads * d->model->shape.padded_dim;
  const size_t gone = d->tokens - kept;
  if (gone == 0) return;
  memmove(d->hidden, d->hidden + gone * hidden, kept * hidden * sizeof(float));
  memmove(d->queries, d->queries + gone * queries, kept * queries * sizeof(float));
  memmove(d->positions, d->positions + gone, kept * sizeof(int32_t));
  d->spans[0].count = d->tokens = kept;
  ek_decoder_cut(d);
}

static ek_status attention_half(ek_stage *s, size_t kept) {
  ek_decoder *d = s->d;
  const ek_layer *l = s->layer;
  ek_status status = project(s);
  if (status != EK_OK) return status;
  if (kept > 0) {
    keep_last(s, kept);
    for (size_t i = 0; i < d->span_count && status == EK_OK; i++) status = attend(s, &d->spans[i]);
  }
  for (size_t i = 0; i < d->span_count; i++) ek_cache_close_layer(d->cache, d->spans[i].sequence, s->index);
  if (status != EK_OK || kept == 0) return status;
  status = run_pieces(s, after_attention_task);
  if (status != EK_OK) return status;
  return ek_decoder_multiply(d, (const ek_linear *[]){&l->o}, (float *[]){d->delta}, (size_t[]){d->model->shape.hidden},
                             1, d->joined);
}

static ek_status ffn_half(ek_stage *s) {
  ek_decoder *d = s->d;
  const ek_layer *l = s->layer;
  ek_status status = run_pieces(s, before_ffn_task);
  if (status != EK_OK) return status;
  status = ek_decoder_multiply(d, (const ek_linear *[]){&l->gate, &l->up}, (float *[]){d->gate, d->up},
                               (size_t[]){l->ffn, l->ffn}, 2, d->normed);
  if (status != EK_OK) return status;
  status = run_pieces(s, gate_task);
  if (status != EK_OK) return status;
  status = ek_decoder_multiply(d, (const ek_linear *[]){&l->down}, (float *[]){d->delta},
                               (size_t[]){d->model->shape.hidden}, 1, d->gate);
  if (status != EK_OK) return status;
  return run_pieces(s, after_ffn_task);
}

ek_status ek_decoder_layer(ek_decoder *d, uint32_t layer, size_t kept) {
  ek_stage stage = {d, &d->model->layers[layer], layer};
  const ek_status status = attention_half(&stage, kept);
  return status != EK_OK || kept == 0 ? status : ffn_half(&stage);
}
