/* What the parts of the model loader share. */
#ifndef EK_MODEL_PARTS_H
#define EK_MODEL_PARTS_H

#include "model/model.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Whether a tensor that a family has may or must be in a file. */
typedef enum ek_presence { EK_NEVER, EK_MAYBE, EK_ALWAYS } ek_presence;

/* A GGUF architecture: in what it differs from Llama's layout (pre-norm, grouped-query attention, gated feed-forward).
 */
typedef struct ek_family {
  const char *name;
  int geglu;         /* of ek_shape */
  int rope_adjacent; /* of ek_shape */
  int sliding;       /* sliding-window layers with RoPE of their own; embeddings are scaled by sqrt(hidden) */
  int after_norms;   /* norms after attention and feed-forward, too */
  int head_norms;    /* of each query and key */
  int rope_factors;  /* the tensor rope_freqs.weight may be there */
  int logit_softcap; /* logits may be capped */
  ek_presence qkv_bias, other_bias;
} ek_family;

/* EK_UNSUPPORTED or EK_BAD_FILE where the file is of none. */
ek_status ek_family_read(const ek_gguf *file, const ek_family **family);

/* What differs from 1: the tensor with Llama 3's factors; NULL where a model has none. */
extern const char ek_rope_factors[];

/* "FILE: WHAT: ADVICE" */
ek_status ek_unsupported(const ek_gguf *file, const char *format, ...) __attribute__((format(printf, 2, 3)));
ek_status ek_bad_model(const ek_gguf *file, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* A value of the architecture's own key ("block_count"), from 1 to `most`; `fallback` where it is not there, 0: then
 * EK_BAD_FILE. */
ek_status ek_key_uint(const ek_gguf *file, const ek_family *family, const char *key, uint32_t most, uint32_t fallback,
                      uint32_t *value);
/* A finite number >= 0; a negative fallback: EK_BAD_FILE where it is not there. */
ek_status ek_key_float(const ek_gguf *file, const ek_family *family, const char *key, double fallback, double *value);

/* Radians per position of the head_dim / 2 pairs, of full and of sliding layers. */
ek_status ek_rope_read(const ek_gguf *file, const ek_shape *shape, double *frequencies, double *sliding_frequencies);

/* ek_model_open of a file that is open already, and is the model's from now on: closed after a failure, too. */
ek_status ek_model_load(ek_gguf *file, const ek_model_params *params, ek_model **model);

/* --- the weights' plan and their packing --- */

/* A tensor of the file, and where it goes: a matrix or a vector. */
typedef struct ek_part {
  const ek_gguf_tensor *tensor;
  ek_linear *linear;    /* of its matrix; NULL: it is a vector */
  const float **vector; /* NULL: it is a matrix */
  size_t place, bytes;  /* in the model's memory */
} ek_part;

typedef struct ek_plan {
  ek_part *parts; /* in the file's order */
  size_t count;
  size_t memory_bytes;   /* of all parts, each aligned to 64 */
  uint64_t part_bytes;   /* without the gaps */
  uint64_t tensor_bytes; /* that have to be read */
} ek_plan;

/* What a model with this shape and these layers consists of: every tensor is there, is of the right size and of a type
 * that can be computed with, and there is no other. Sets model->embedding. The caller frees plan->parts, also after a
 * failure. */
ek_status ek_plan_make(ek_model *model, const ek_family *family, ek_plan *plan);

/* Packs all parts into the model's memory; the file's pages are let go. */
ek_status ek_plan_pack(const ek_plan *plan, ek_model *model, const ek_model_params *params);

#ifdef __cplusplus
}
#endif

#endif
