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
  for (size_t t = piece->first; t < piece->first + piece->count; t++) {
    const float *cosine = d->cosine[!!l->sliding] + t * pairs, *sine = d->sine[!!l->sliding] + t * pairs;
    float *keys = d->keys + t * l->kv_heads * padded, *values = d->values + t * l->kv_heads * padded;
    place(d, &l->q, l->query_norm, cosine, sine, l->heads, d->queries + t * l->heads * padded);
    place(d, &l->k, l->key_norm, cosine, sine, l->kv_heads, keys);
    place(d, &l->v, NULL, NULL, NULL, l->kv_heads, values);
    for (size_t h = 0; h < l->kv_heads; h++)
      ek_cache_store_head(d->cache, span->sequence, s->index, (uint32_t)h, t - span->first, keys + h * padded,
                          values + h * padded);
  }
}
