/* A decoder-only language model, ready to run: what it is, and its weights packed for this machine. Immutable once
 * loaded. */
#ifndef EK_MODEL_H
#define EK_MODEL_H

#include "gguf/gguf.h"
#include "operators/matmul.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Hyperparameters, all checked: every size is positive and such that products of two fit in 48 bits. */
typedef struct ek_shape {
  char architecture[16]; /* "gemma3" */
  uint32_t layers, hidden, vocab, context;
  uint32_t head_dim;   /* of queries, keys and values */
  uint32_t padded_dim; /* head_dim rounded up to 32, as attention and its cache have it */
  uint32_t window;     /* 0: no sliding layers */
  float norm_epsilon;
  float attention_scale;
  float logit_softcap; /* 0: none */
  float embedding_scale;
  int geglu;         /* else SwiGLU */
  int rope_adjacent; /* pairs are neighbours (llama), else halves */
} ek_shape;

/* y = W x + b; no matrix (rows 0) where a model has none. */
typedef struct ek_linear {
  ek_matrix matrix;
  const float *bias; /* NULL: none */
} ek_linear;

typedef struct ek_layer {
  uint32_t heads, kv_heads, ffn;
  int sliding;
  const float *attention_norm, *ffn_norm;             /* (hidden) before the two halves */
  const float *after_attention_norm, *after_ffn_norm; /* (hidden) after them; NULL: none */
  const float *query_norm, *key_norm;                 /* (head_dim) on each head; NULL: none */
  ek_linear q, k, v, o, gate, up, down;
} ek_layer;

struct ek_model {
  ek_shape shape;
  ek_layer *layers;
  const float *output_norm;        /* (hidden) */
  ek_linear head;                  /* (vocab, hidden); packed from the embedding where they are tied */
  const ek_gguf_tensor *embedding; /* left in the file; NULL where the head is the embedding too */
  double *frequencies;             /* (head_dim / 2) radians per position, full layers */
  double *sliding_frequencies;     /* those of sliding layers; the same pointer where they do not differ */
  const ek_kernels *kernels;
  ek_pool *pool;
  ek_gguf *file;   /* open while `embedding` needs it, else NULL */
  uint8_t *memory; /* of all packed weights and vectors */
  uint64_t weight_bytes, mapped_bytes, decode_bytes;
};

/* The hyperparameters and per-layer heads, kv_heads, ffn and sliding of a file; layers is allocated for it, and freed
 * by the caller. EK_UNSUPPORTED: an architecture or option that would be computed wrongly. EK_BAD_FILE, EK_NO_MEMORY.
 */
ek_status ek_shape_read(const ek_gguf *file, ek_shape *shape, ek_layer **layers);

/* Row `token` of the embedding, scaled as the model wants it: out (hidden). token < vocab. */
void ek_model_embed(const ek_model *model, int32_t token, float *out);

#ifdef __cplusplus
}
#endif

#endif
