#include "model/parts.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* So that no product of two exceeds 2^48; of layers, llama.cpp's own bound; of heads, attention.h's. */
enum {
  MOST_LAYERS = 512,
  MOST_HIDDEN = 1 << 17,
  MOST_FFN = 1 << 20,
  MOST_HEADS = 1 << 12,
  MOST_GROUP = 1 << 8,
  MOST_VOCAB = 1 << 22,
  MOST_CONTEXT = 1 << 30,
};
enum { SLIDING_PERIOD = 6 }; /* every sixth layer is a full one, where no key says otherwise */

#define TRY(call)                                                                                                      \
  do {                                                                                                                 \
    const ek_status tried = (call);                                                                                    \
    if (tried != EK_OK) return tried;                                                                                  \
  } while (0)

typedef struct reader {
  const ek_gguf *file;
  const ek_family *family;
  ek_shape *shape;
  ek_layer *layers;
} reader;

static ek_status get_uint(const reader *r, const char *key, uint32_t most, uint32_t fallback, uint32_t *value) {
  return ek_key_uint(r->file, r->family, key, most, fallback, value);
}

/* The layer's number of an array with one for each, or the one that is for all. */
static ek_status get_of_layer(const reader *r, const char *key, size_t layer, uint32_t most, uint32_t fallback,
                              uint32_t *value) {
  char name[96];
  uint64_t number = fallback;
  size_t count = 0;
  (void)snprintf(name, sizeof name, "%s.%s", r->family->name, key);
  const int scalar = ek_gguf_uint(r->file, name, &number);
  if (scalar == 0 && fallback == 0) return ek_bad_model(r->file, "%s is missing", name);
  if (scalar < 0 && (ek_gguf_uints(r->file, name, layer, &number, &count) < 0 || count != r->shape->layers)) {
    return ek_bad_model(r->file, "%s is not a whole number, nor one for each of %u layers", name,
                        (unsigned)r->shape->layers);
  }
  if (number == 0) return ek_unsupported(r->file, "%s is 0 in layer %zu", name, layer);
  if (number > most) return ek_bad_model(r->file, "%s is larger than %u", name, (unsigned)most);
  *value = (uint32_t)number;
  return EK_OK;
}

static ek_status read_heads(const reader *r) {
  for (size_t i = 0; i < r->shape->layers; i++) {
    ek_layer *layer = &r->layers[i];
    TRY(get_of_layer(r, "attention.head_count", i, MOST_HEADS, 0, &layer->heads));
    TRY(get_of_layer(r, "attention.head_count_kv", i, MOST_HEADS, layer->heads, &layer->kv_heads));
    TRY(get_of_layer(r, "feed_forward_length", i, MOST_FFN, 0, &layer->ffn));
    if (layer->heads % layer->kv_heads != 0) {
      return ek_bad_model(r->file, "layer %zu has %u query heads, which is no multiple of its %u KV heads", i,
                          (unsigned)layer->heads, (unsigned)layer->kv_heads);
    }
    if (layer->heads / layer->kv_heads > MOST_GROUP) {
      return ek_unsupported(r->file, "layer %zu has %u query heads for each KV head, more than %d", i,
                            (unsigned)(layer->heads / layer->kv_heads), MOST_GROUP);
    }
  }
  return EK_OK;
}

/* Queries, keys and values of one size, rotated whole. */
static ek_status read_head_dim(const reader *r) {
  static const char *const same[] = {"attention.value_length", "attention.key_length_swa", "attention.value_length_swa",
                                     "rope.dimension_count", "rope.dimension_count_swa"};
  ek_shape *shape = r->shape;
  const uint32_t split = shape->hidden / r->layers->heads, limit = 1 << 20;
  uint32_t dim;
  TRY(get_uint(r, "attention.key_length", limit, split ? split : 1, &dim));
  for (size_t i = 0; i < sizeof same / sizeof *same; i++) {
    uint32_t other;
    TRY(get_uint(r, same[i], limit, i == 0 ? (split ? split : 1) : dim, &other));
    if (other != dim) {
      return ek_unsupported(r->file, "%s.%s is %u where a head's key has %u", r->family->name, same[i], (unsigned)other,
                            (unsigned)dim);
    }
  }
  if (dim % 2 != 0 || dim > EK_MOST_HEAD_DIMS) {
    return ek_unsupported(r->file, "its heads have %u dimensions, not an even number up to %d", (unsigned)dim,
                          EK_MOST_HEAD_DIMS);
  }
  shape->head_dim = dim;
  shape->padded_dim = (dim + 31) / 32 * 32;
  return EK_OK;
}

/* Options of llama.cpp's other graphs: with one of them, ours would compute something else. */
static ek_status refuse_options(const reader *r) {
  static const char *const counts[] = {"expert_count", "attention.sinks", "nextn_predict_layers"};
  static const char *const scales[] = {"logit_scale",     "residual_scale",      "embedding_scale",
                                       "attention.scale", "attention.clamp_kqv", "attention.max_alibi_bias"};
  char key[96];
  for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
    uint64_t count = 0;
    (void)snprintf(key, sizeof key, "%s.%s", r->family->name, counts[i]);
    if (ek_gguf_uint(r->file, key, &count) != 0 && count != 0) {
      return ek_unsupported(r->file, "%s is %llu", key, (unsigned long long)count);
    }
  }
  for (size_t i = 0; i < sizeof scales / sizeof *scales; i++) {
    double scale = 0;
    (void)snprintf(key, sizeof key, "%s.%s", r->family->name, scales[i]);
    if (ek_gguf_float(r->file, key, &scale) != 0 && scale != 0) return ek_unsupported(r->file, "%s is set", key);
  }
  int yes;
  (void)snprintf(key, sizeof key, "%s.use_parallel_residual", r->family->name);
  if (ek_gguf_bool(r->file, key, &yes) == 1 && yes) return ek_unsupported(r->file, "%s is set", key);
  (void)snprintf(key, sizeof key, "%s.attention.causal", r->family->name);
  if (ek_gguf_bool(r->file, key, &yes) == 1 && !yes) return ek_unsupported(r->file, "%s is false", key);
  return EK_OK;
}

/* Which layers slide: a period, of which the last is full, or a flag for each. */
static ek_status read_pattern(const reader *r) {
  char key[96];
  uint64_t period = SLIDING_PERIOD, flag = 0;
  size_t count = 0;
  (void)snprintf(key, sizeof key, "%s.attention.sliding_window_pattern", r->family->name);
  const int scalar = ek_gguf_uint(r->file, key, &period);
  if (scalar > 0 && period == 0) return ek_bad_model(r->file, "%s is 0", key);
  for (size_t i = 0; i < r->shape->layers; i++) {
    if (scalar < 0) {
      if (ek_gguf_uints(r->file, key, i, &flag, &count) < 0 || count != r->shape->layers || flag > 1) {
        return ek_bad_model(r->file, "%s is not a period, nor a flag for each of %u layers", key,
                            (unsigned)r->shape->layers);
      }
      r->layers[i].sliding = (int)flag;
    } else {
      r->layers[i].sliding = (i + 1) % period != 0;
    }
  }
  return EK_OK;
}

/* A window that the family's graph does not have caps the context: up to its length both compute the same. */
static ek_status read_window(const reader *r) {
  char key[64];
  uint64_t window = 0;
  ek_shape *shape = r->shape;
  (void)snprintf(key, sizeof key, "%s.attention.sliding_window", r->family->name);
  if (ek_gguf_uint(r->file, key, &window) < 0 || window > MOST_CONTEXT) {
    return ek_bad_model(r->file, "%s is not a whole number from 0 to %d", key, MOST_CONTEXT);
  }
  if (window == 0) return EK_OK;
  if (!r->family->sliding) {
    if (window < shape->context) shape->context = (uint32_t)window;
    return EK_OK;
  }
  TRY(read_pattern(r));
  for (size_t i = 0; i < shape->layers; i++) {
    if (r->layers[i].sliding) shape->window = (uint32_t)window;
  }
  return EK_OK;
}

static ek_status read_scales(const reader *r) {
  ek_shape *shape = r->shape;
  double epsilon, softcap = 0;
  TRY(ek_key_float(r->file, r->family, "attention.layer_norm_rms_epsilon", -1, &epsilon));
  /* llama.cpp, too, reads a cap of logits in this family alone, and a cap of attention's scores in none of these: its
   * own saver writes both keys into files of all, with values that mean nothing there. */
  if (r->family->logit_softcap) TRY(ek_key_float(r->file, r->family, "final_logit_softcapping", 0, &softcap));
  shape->norm_epsilon = (float)epsilon;
  if (shape->norm_epsilon <= 0) {
    return ek_bad_model(r->file, "%s.attention.layer_norm_rms_epsilon is 0", r->family->name);
  }
  shape->logit_softcap = (float)softcap;
  /* Gemma 3 of 62 layers, the one of 27B, has 168 dimensions in its scale and 128 in its heads. */
  const uint32_t divisor =
      r->family->sliding && shape->layers == 62 ? shape->hidden / r->layers->heads : shape->head_dim;
  if (divisor == 0) return ek_bad_model(r->file, "it has more query heads than hidden dimensions");
  shape->attention_scale = (float)(1 / sqrt((double)divisor));
  shape->embedding_scale = r->family->sliding ? sqrtf((float)shape->hidden) : 1;
  return EK_OK;
}

static ek_status read_vocab(const reader *r) {
  const ek_gguf_tensor *embedding = ek_gguf_find(r->file, "token_embd.weight");
  if (!embedding) return ek_bad_model(r->file, "the tensor 'token_embd.weight' is missing");
  if (embedding->dimensions != 2 || embedding->sizes[1] > MOST_VOCAB) {
    return ek_bad_model(r->file, "the tensor 'token_embd.weight' is no matrix of up to %d rows", MOST_VOCAB);
  }
  r->shape->vocab = (uint32_t)embedding->sizes[1];
  return EK_OK;
}

static ek_status read_layers(const reader *r) {
  TRY(refuse_options(r));
  TRY(read_heads(r));
  TRY(read_head_dim(r));
  TRY(read_window(r));
  return read_scales(r);
}

ek_status ek_shape_read(const ek_gguf *file, ek_shape *shape, ek_layer **layers) {
  ek_shape read = {.layers = 0};
  reader r = {.file = file, .shape = &read};
  uint64_t parts = 0;
  if (ek_gguf_uint(file, "split.count", &parts) != 0 && parts > 1) {
    return ek_fail(EK_UNSUPPORTED, "%s is one part of a split GGUF: join the parts with llama-gguf-split --merge",
                   ek_gguf_path(file));
  }
  TRY(ek_family_read(file, &r.family));
  (void)snprintf(read.architecture, sizeof read.architecture, "%s", r.family->name);
  read.geglu = r.family->geglu;
  read.rope_adjacent = r.family->rope_adjacent;
  TRY(get_uint(&r, "block_count", MOST_LAYERS, 0, &read.layers));
  TRY(get_uint(&r, "embedding_length", MOST_HIDDEN, 0, &read.hidden));
  TRY(get_uint(&r, "context_length", MOST_CONTEXT, 0, &read.context));
  TRY(read_vocab(&r));
  if (!(r.layers = calloc(read.layers, sizeof *r.layers))) return ek_fail_plain(EK_NO_MEMORY, ek_gguf_path(file));
  const ek_status status = read_layers(&r);
  if (status != EK_OK) {
    free(r.layers);
    return status;
  }
  *shape = read;
  *layers = r.layers;
  return EK_OK;
}
