/* Between the projections and attention: the heads of queries, keys and values, token by token. */
#include "decoder/parts.h"

#include <string.h>

/* Heads of `dims` side by side come to lie `padded` apart, with zeros between; from the last to the first, since they
 * move up. */
static void spread(float *row, size_t heads, size_t dims, size_t padded) {
  for (size_t h = heads; dims < padded && h-- > 0;) {
    memmove(row + h * padded, row + h * dims, dims * sizeof(float));
    memset(row + h * padded + dims, 0, (padded - dims) * sizeof(float));
  }
}

/* Of quantised keys and values, and of the queries that meet them: rotated, an outlier of one dimension is spread over
 * all, so that the others' codes are finer (Ashkboos et al., arXiv 2404.00456). Products of two rotated vectors stay,
 * and what comes of rotated values is rotated back. */
void ek_rotate_heads(const ek_decoder *d, float *row, size_t heads) {
  const size_t padded = d->model->shape.padded_dim, count = padded & (0 - padded); /* the largest power of two in it */
  for (size_t i = 0; i < heads * padded; i += count) d->model->kernels->hadamard[EK_TYPE_f32](row + i, count);
}

int ek_is_rotated(enum ek_type type) { return type != EK_TYPE_f16 && type != EK_TYPE_f32; }

/* A row of heads as the projection made it; norm NULL: none, cosine NULL: they are not rotated. */
static void place(const ek_decoder *d, const ek_linear *linear, const float *norm, const float *cosine,
                  const float *sine, size_t heads, float *row) {
  const ek_shape *shape = &d->model->shape;
  const ek_kernels *kernels = d->model->kernels;
  const size_t dims = shape->head_dim, padded = shape->padded_dim;
  for (size_t i = 0; linear->bias && i < heads * dims; i++) row[i] += linear->bias[i];
  spread(row, heads, dims, padded);
  for (size_t h = 0; h < heads; h++) {
    float *head = row + h * padded;
    if (norm) kernels->rms_norm[EK_TYPE_f32](head, norm, dims, shape->norm_epsilon, head);
    if (!cosine) continue;
    if (shape->rope_adjacent) {
      kernels->rope_adjacent[EK_TYPE_f32](head, dims / 2, cosine, sine);
    } else {
      kernels->rope_halves[EK_TYPE_f32](head, dims / 2, cosine, sine);
    }
  }
}

void ek_place_heads_task(void *context, size_t index, unsigned worker) {
  (void)worker;
  const ek_stage *s = context;
  ek_decoder *d = s->d;
  const ek_layer *l = s->layer;
  const size_t padded = d->model->shape.padded_dim, pairs = d->model->shape.head_dim / 2;
  const ek_piece *piece = &d->pieces[index];
  const ek_span *span = &d->spans[piece->span];
  const ek_cache_params *types = ek_cache_described(d->cache);
  for (size_t t = piece->first; t < piece->first + piece->count; t++) {
    const float *cosine = d->cosine[!!l->sliding] + t * pairs, *sine = d->sine[!!l->sliding] + t * pairs;
    float *keys = d->keys + t * l->kv_heads * padded, *values = d->values + t * l->kv_heads * padded;
    float *queries = d->queries + t * l->heads * padded;
    place(d, &l->q, l->query_norm, cosine, sine, l->heads, queries);
    place(d, &l->k, l->key_norm, cosine, sine, l->kv_heads, keys);
    place(d, &l->v, NULL, NULL, NULL, l->kv_heads, values);
    if (ek_is_rotated(types->key_type)) {
      ek_rotate_heads(d, queries, l->heads);
      ek_rotate_heads(d, keys, l->kv_heads);
    }
    if (ek_is_rotated(types->value_type)) ek_rotate_heads(d, values, l->kv_heads);
    for (size_t h = 0; h < l->kv_heads; h++)
      ek_cache_store_head(d->cache, span->sequence, s->index, (uint32_t)h, t - span->first, keys + h * padded,
                          values + h * padded);
  }
}
