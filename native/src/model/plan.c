#include "model/parts.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

enum { PARTS_OF_LAYER = 20, OTHER_PARTS = 4, ALIGNMENT = 64 };

#define TRY(call)                                                                                                      \
  do {                                                                                                                 \
    const ek_status tried = (call);                                                                                    \
    if (tried != EK_OK) return tried;                                                                                  \
  } while (0)

typedef struct planner {
  const ek_gguf *file;
  const ek_family *family;
  ek_plan *plan;
} planner;

static ek_status place(const planner *p, ek_part part) {
  ek_plan *plan = p->plan;
  const size_t room = (part.bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
  if (part.bytes > SIZE_MAX - ALIGNMENT || room > SIZE_MAX / 2 - plan->memory_bytes) {
    return ek_fail_plain(EK_NO_MEMORY, ek_gguf_path(p->file));
  }
  part.place = plan->memory_bytes;
  plan->memory_bytes += room;
  plan->part_bytes += part.bytes;
  plan->tensor_bytes += part.tensor->bytes;
  plan->parts[plan->count++] = part;
  return EK_OK;
}

/* *tensor is NULL where it may be missing and is. */
static ek_status find(const planner *p, ek_presence presence, const char *name, uint32_t dimensions, uint64_t columns,
                      uint64_t rows, const ek_gguf_tensor **tensor) {
  *tensor = presence == EK_NEVER ? NULL : ek_gguf_find(p->file, name);
  if (!*tensor) {
    return presence == EK_ALWAYS ? ek_bad_model(p->file, "the tensor '%s' is missing", name) : EK_OK;
  }
  const uint64_t *sizes = (*tensor)->sizes;
  if ((*tensor)->dimensions != dimensions || sizes[0] != columns || sizes[1] != rows) {
    return ek_bad_model(p->file, "the tensor '%s' has %u dimensions, the first two %llu x %llu, not %u, %llu x %llu",
                        name, (unsigned)(*tensor)->dimensions, (unsigned long long)sizes[0],
                        (unsigned long long)sizes[1], (unsigned)dimensions, (unsigned long long)columns,
                        (unsigned long long)rows);
  }
  if ((*tensor)->type == EK_TYPES) {
    return ek_unsupported(p->file, "the tensor '%s' is of ggml's type %d, for which there are no kernels", name,
                          (*tensor)->ggml_type);
  }
  return EK_OK;
}

static ek_status vector(const planner *p, ek_presence presence, const char *name, size_t count, const float **out) {
  const ek_gguf_tensor *tensor;
  TRY(find(p, presence, name, 1, count, 1, &tensor));
  if (!tensor) return EK_OK;
  if (ek_formats[tensor->type].block != 1) {
    return ek_unsupported(p->file, "the tensor '%s' is a vector of type %s, not f32, f16 or bf16", name,
                          ek_formats[tensor->type].name);
  }
  return place(p, (ek_part){.tensor = tensor, .vector = out, .bytes = count * sizeof(float)});
}

static ek_status matrix(const planner *p, const char *name, size_t columns, size_t rows, ek_linear *out) {
  const ek_gguf_tensor *tensor;
  size_t bytes;
  TRY(find(p, EK_ALWAYS, name, 2, columns, rows, &tensor));
  if (ek_matrix_size(tensor->type, rows, columns, NULL, &bytes) != EK_OK) {
    return ek_bad_model(p->file, "the tensor '%s' is larger than this machine's memory can be", name);
  }
  return place(p, (ek_part){.tensor = tensor, .linear = out, .bytes = bytes});
}

static ek_status linear(const planner *p, size_t layer, const char *module, size_t columns, size_t rows,
                        ek_presence bias, ek_linear *out) {
  char name[64];
  (void)snprintf(name, sizeof name, "blk.%zu.%s.weight", layer, module);
  TRY(matrix(p, name, columns, rows, out));
  (void)snprintf(name, sizeof name, "blk.%zu.%s.bias", layer, module);
  return vector(p, bias, name, rows, &out->bias);
}

static ek_status norm(const planner *p, size_t layer, const char *module, int there, size_t count, const float **out) {
  char name[64];
  (void)snprintf(name, sizeof name, "blk.%zu.%s.weight", layer, module);
  return vector(p, there ? EK_ALWAYS : EK_NEVER, name, count, out);
}

static ek_status plan_layer(const planner *p, const ek_shape *shape, size_t index, ek_layer *layer) {
  const ek_family *family = p->family;
  const size_t hidden = shape->hidden, dim = shape->head_dim, ffn = layer->ffn;
  const size_t queries = layer->heads * dim, keys = layer->kv_heads * dim;
  TRY(norm(p, index, "attn_norm", 1, hidden, &layer->attention_norm));
  TRY(norm(p, index, "ffn_norm", 1, hidden, &layer->ffn_norm));
  TRY(norm(p, index, "post_attention_norm", family->after_norms, hidden, &layer->after_attention_norm));
  TRY(norm(p, index, "post_ffw_norm", family->after_norms, hidden, &layer->after_ffn_norm));
  TRY(norm(p, index, "attn_q_norm", family->head_norms, dim, &layer->query_norm));
  TRY(norm(p, index, "attn_k_norm", family->head_norms, dim, &layer->key_norm));
  TRY(linear(p, index, "attn_q", hidden, queries, family->qkv_bias, &layer->q));
  TRY(linear(p, index, "attn_k", hidden, keys, family->qkv_bias, &layer->k));
  TRY(linear(p, index, "attn_v", hidden, keys, family->qkv_bias, &layer->v));
  TRY(linear(p, index, "attn_output", queries, hidden, family->other_bias, &layer->o));
  TRY(linear(p, index, "ffn_gate", hidden, ffn, family->other_bias, &layer->gate));
  TRY(linear(p, index, "ffn_up", hidden, ffn, family->other_bias, &layer->up));
  return linear(p, index, "ffn_down", ffn, hidden, family->other_bias, &layer->down);
}

/* Where there is no output.weight, the embedding is the head. */
static ek_status plan_head(const planner *p, ek_model *model) {
  const ek_shape *shape = &model->shape;
  TRY(vector(p, EK_ALWAYS, "output_norm.weight", shape->hidden, &model->output_norm));
  if (!ek_gguf_find(p->file, "output.weight")) {
    return matrix(p, "token_embd.weight", shape->hidden, shape->vocab, &model->head);
  }
  TRY(matrix(p, "output.weight", shape->hidden, shape->vocab, &model->head));
  return find(p, EK_ALWAYS, "token_embd.weight", 2, shape->hidden, shape->vocab, &model->embedding);
}

static int compare_parts(const void *a, const void *b) {
  const ek_part *x = a, *y = b;
  return (x->tensor->data > y->tensor->data) - (x->tensor->data < y->tensor->data);
}

/* A tensor that is not planned would change what a model computes, or be a part of another kind of model. */
static ek_status check_no_other(const planner *p, const ek_model *model) {
  const size_t count = ek_gguf_count(p->file);
  for (size_t i = 0; i < count; i++) {
    const ek_gguf_tensor *tensor = ek_gguf_at(p->file, i);
    const ek_part key = {.tensor = tensor};
    const ek_part *part = bsearch(&key, p->plan->parts, p->plan->count, sizeof key, compare_parts);
    if ((part && part->tensor == tensor) || tensor == model->embedding) continue;
    if (p->family->rope_factors && tensor == ek_gguf_find(p->file, ek_rope_factors)) continue;
    char shown[EK_PRINTABLE];
    return ek_unsupported(p->file, "it has the tensor '%s', which no model of architecture %s has",
                          ek_printable(tensor->name.bytes, tensor->name.length, shown), p->family->name);
  }
  return EK_OK;
}

ek_status ek_plan_make(ek_model *model, const ek_family *family, ek_plan *plan) {
  const planner p = {model->file, family, plan};
  *plan = (ek_plan){.count = 0};
  plan->parts = calloc((size_t)model->shape.layers * PARTS_OF_LAYER + OTHER_PARTS, sizeof *plan->parts);
  if (!plan->parts) return ek_fail_plain(EK_NO_MEMORY, ek_gguf_path(p.file));
  for (size_t i = 0; i < model->shape.layers; i++) TRY(plan_layer(&p, &model->shape, i, &model->layers[i]));
  TRY(plan_head(&p, model));
  qsort(plan->parts, plan->count, sizeof *plan->parts, compare_parts);
  return check_no_other(&p, model);
}
