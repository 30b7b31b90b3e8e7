/* A decoder's buffers: their sizes, and what is checked before there are any. */
#include "memory.h"
#include "decoder/parts.h"
#include "operators/float_mode.h"

#include <stdlib.h>

enum { LINE = 64 };

/* The widest rows of all layers. */
typedef struct widths {
  size_t queries, keys, joined, ffn, columns;
} widths;

static size_t larger(size_t a, size_t b) { return a > b ? a : b; }

static widths widths_of(const ek_model *m) {
  widths w = {.columns = m->shape.hidden};
  for (size_t i = 0; i < m->shape.layers; i++) {
    const ek_layer *l = &m->layers[i];
    w.queries = larger(w.queries, (size_t)l->heads * m->shape.padded_dim);
    w.keys = larger(w.keys, (size_t)l->kv_heads * m->shape.padded_dim);
    w.joined = larger(w.joined, (size_t)l->heads * m->shape.head_dim);
    w.ffn = larger(w.ffn, l->ffn);
  }
  w.columns = larger(w.columns, larger(w.joined, w.ffn));
  return w;
}

static ek_attention attention_of(const ek_decoder *d, const ek_layer *l) {
  const ek_cache_params *cache = ek_cache_described(d->cache);
  return (ek_attention){.key_type = cache->key_type,
                        .value_type = cache->value_type,
                        .kv_heads = l->kv_heads,
                        .group = l->heads / l->kv_heads,
                        .dims = d->model->shape.padded_dim};
}

/* What attention needs at most: few tokens cut the blocks into spans, of which each has sums of its own. */
static ek_status attention_scratch(const ek_decoder *d, size_t *bytes) {
  enum { FEW = 32 };
  const unsigned threads = ek_pool_threads(d->model->pool);
  *bytes = 0;
  for (size_t i = 0; i < d->model->shape.layers; i++) {
    const ek_attention attention = attention_of(d, &d->model->layers[i]);
    for (size_t t = 1; t <= FEW + 1; t++) {
      const size_t tokens = t > FEW ? d->most_tokens : t;
      size_t wanted;
      const ek_status status = ek_attention_scratch(&attention, tokens, d->most_blocks, threads, &wanted);
      if (status != EK_OK) return ek_fail(status, "attention of layer %zu: its heads are beyond what is supported", i);
      *bytes = larger(*bytes, wanted);
    }
  }
  return EK_OK;
}

static size_t float_scratch(const ek_decoder *d, const widths *w) {
  const unsigned threads = ek_pool_threads(d->model->pool);
  return larger(ek_float_matmul_scratch(w->columns, threads),
                ek_float_attention_scratch(d->most_blocks, d->model->shape.padded_dim, threads));
}

/* Takes `count` times `each` bytes; *total is where they end, 0 for good after an overflow. With no memory yet it only
 * counts. */
static void *take(ek_decoder *d, size_t *total, size_t count, size_t each) {
  size_t bytes, end;
  if (*total == 0 || __builtin_mul_overflow(count, each, &bytes) ||
      __builtin_add_overflow(*total, bytes / LINE * LINE + LINE, &end)) {
    *total = 0;
    return NULL;
  }
  uint8_t *at = d->memory ? d->memory + *total - LINE : NULL;
  *total = end;
  return at;
}

/* All buffers; returns the bytes that they take, 0: more than can be. */
static size_t lay_out(ek_decoder *d, const widths *w, size_t attention_bytes) {
  const ek_shape *shape = &d->model->shape;
  const size_t tokens = d->most_tokens, row = tokens * sizeof(float), pairs = shape->head_dim / 2;
  const size_t columns = (w->columns + EK_SUPERBLOCK - 1) / EK_SUPERBLOCK * EK_SUPERBLOCK;
  size_t total = LINE;
  d->spans = take(d, &total, d->most_spans, sizeof(ek_span));
  d->pieces = take(d, &total, tokens, sizeof(ek_piece));
  d->positions = take(d, &total, tokens, sizeof(int32_t));
  d->hidden = take(d, &total, shape->hidden, row);
  d->normed = take(d, &total, shape->hidden, row);
  d->delta = take(d, &total, shape->hidden, row);
  d->queries = take(d, &total, w->queries, row);
  d->keys = take(d, &total, w->keys, row);
  d->values = take(d, &total, w->keys, row);
  d->attended = take(d, &total, w->queries, row);
  d->joined = shape->head_dim == shape->padded_dim ? d->attended : take(d, &total, w->joined, row);
  d->gate = take(d, &total, w->ffn, row);
  d->up = take(d, &total, w->ffn, row);
  for (int i = 0; i < 2; i++) {
    d->cosine[i] = take(d, &total, pairs, row);
    d->sine[i] = take(d, &total, pairs, row);
  }
  if (d->floats) {
    d->float_scratch = take(d, &total, float_scratch(d, w), 1);
  } else { /* codes, a scale for each 32 or 256, and a sum of four bytes for each 32 or of two for each 16 */
    d->codes[0] = take(d, &total, columns + columns / 4, tokens);
    d->codes[1] = take(d, &total, columns + columns / 4, tokens);
    d->attention_scratch = take(d, &total, attention_bytes, 1);
  }
  return total;
}

static int has_products(const ek_kernels *kernels, const ek_linear *linear) {
  const enum ek_type type = linear->matrix.type;
  return kernels->gemv[type] && kernels->gemm[type];
}

/* So that nothing is missing halfway. */
static int has_kernels(const ek_decoder *d) {
  const ek_kernels *k = d->model->kernels;
  const ek_cache_params *cache = ek_cache_described(d->cache);
  int all = k->rms_norm[EK_TYPE_f32] && k->rope_halves[EK_TYPE_f32] && k->rope_adjacent[EK_TYPE_f32] &&
            k->swiglu[EK_TYPE_f32] && k->geglu[EK_TYPE_f32];
  if (d->floats) return all;
  all = all && k->quantise_32[EK_TYPE_f32] && k->quantise_256[EK_TYPE_f32] && k->online_softmax[EK_TYPE_f32] &&
        k->hadamard[EK_TYPE_f32] && k->scores[cache->key_type] && k->values[cache->value_type] &&
        has_products(k, &d->model->head);
  for (size_t i = 0; i < d->model->shape.layers; i++) {
    const ek_layer *l = &d->model->layers[i];
    const ek_linear *linears[] = {&l->q, &l->k, &l->v, &l->o, &l->gate, &l->up, &l->down};
    for (int j = 0; j < 7; j++) all = all && has_products(k, linears[j]);
  }
  return all;
}

static ek_status prepare(ek_decoder *d) {
  const ek_cache_params *cache = ek_cache_described(d->cache);
  if ((cache->key_type == EK_TYPE_f32) != d->floats)
    return ek_fail(EK_BAD_ARGUMENT, "unrounded activations go with a cache of type f32, and it with them alone");
  if (!has_kernels(d)) return ek_fail(EK_NO_KERNEL, "a kernel is missing in this build for a type of the model");
  const widths w = widths_of(d->model);
  size_t attention_bytes = 0;
  d->most_blocks = cache->positions / EK_CACHE_BLOCK + 2;
  const ek_status status = d->floats ? EK_OK : attention_scratch(d, &attention_bytes);
  if (status != EK_OK) return status;
  const size_t bytes = lay_out(d, &w, attention_bytes);
  d->memory = bytes ? ek_memory_new(bytes) : NULL;
  if (!d->memory)
    return ek_fail(EK_NO_MEMORY, "there is no memory to compute %zu tokens at once: choose a smaller micro-batch",
                   d->most_tokens);
  (void)lay_out(d, &w, attention_bytes);
  return EK_OK;
}

ek_status ek_decoder_create(const ek_model *model, ek_cache *cache, size_t micro_batch, size_t sequences,
                            int float_activations, ek_decoder **decoder) {
  if (micro_batch == 0 || sequences == 0 || micro_batch > SIZE_MAX >> 8 || micro_batch > 1u << 24)
    return ek_fail(EK_BAD_ARGUMENT, "a micro-batch of %zu tokens: it has to be from 1 to 2^24", micro_batch);
  ek_decoder *made = calloc(1, sizeof *made);
  if (!made) return ek_fail_plain(EK_NO_MEMORY, "decoder");
  made->model = model;
  made->cache = cache;
  made->floats = float_activations != 0;
  made->most_tokens = larger(micro_batch, sequences);
  made->most_spans = sequences;
  const ek_status status = prepare(made);
  if (status != EK_OK) {
    ek_decoder_free(made);
    return status;
  }
  *decoder = made;
  return EK_OK;
}

void ek_decoder_free(ek_decoder *decoder) {
  if (!decoder) return;
  free(decoder->memory);
  free(decoder);
}
