#include "model/parts.h"

#include "api/params.h"
#include "memory.h"

#include <stdlib.h>
#include <string.h>

#define TRY(call)                                                                                                      \
  do {                                                                                                                 \
    const ek_status tried = (call);                                                                                    \
    if (tried != EK_OK) return tried;                                                                                  \
  } while (0)

static ek_status read_frequencies(ek_model *model) {
  const size_t pairs = model->shape.head_dim / 2;
  model->frequencies = calloc(2 * pairs, sizeof *model->frequencies);
  if (!model->frequencies) return ek_fail_plain(EK_NO_MEMORY, ek_gguf_path(model->file));
  double *sliding = model->frequencies + pairs;
  TRY(ek_rope_read(model->file, &model->shape, model->frequencies, sliding));
  const int differ = model->shape.window && memcmp(model->frequencies, sliding, pairs * sizeof *sliding) != 0;
  model->sliding_frequencies = differ ? sliding : model->frequencies;
  return EK_OK;
}

static ek_status start(ek_model *model, uint32_t threads) {
  model->kernels = ek_kernels_here();
  if (!model->kernels) {
    return ek_fail(EK_NO_KERNEL, "EDGEKIT_ISA in the environment names no instruction set that this machine can run: "
                                 "unset it, or set it to scalar");
  }
  if (threads > EK_MOST_THREADS) {
    return ek_fail(EK_BAD_ARGUMENT, "%u threads are more than %d: give 0 for one on each big core", (unsigned)threads,
                   EK_MOST_THREADS);
  }
  const ek_status status = ek_pool_create(threads, &model->pool);
  return status == EK_OK ? EK_OK : ek_fail_plain(status, "the model's threads");
}

static ek_status pack(ek_model *model, const ek_plan *plan, const ek_model_params *params) {
  TRY(start(model, params->threads));
  model->memory = ek_memory_new(plan->memory_bytes);
  if (!model->memory) {
    return ek_fail(EK_NO_MEMORY, "%s: there is no memory for its %zu MiB of weights", ek_gguf_path(model->file),
                   plan->memory_bytes >> 20);
  }
  TRY(ek_plan_pack(plan, model, params));
  model->weight_bytes = plan->memory_bytes;
  model->decode_bytes = plan->part_bytes;
  if (model->embedding) {
    model->mapped_bytes = model->embedding->bytes;
    model->decode_bytes += model->embedding->bytes / model->shape.vocab;
  } else {
    ek_gguf_close(model->file);
    model->file = NULL;
  }
  return EK_OK;
}

static ek_status load(ek_model *model, const ek_model_params *params) {
  const ek_family *family;
  ek_plan plan;
  TRY(ek_family_read(model->file, &family));
  TRY(ek_shape_read(model->file, &model->shape, &model->layers));
  TRY(read_frequencies(model));
  ek_status status = ek_plan_make(model, family, &plan);
  if (status == EK_OK) status = pack(model, &plan, params);
  free(plan.parts);
  return status;
}

ek_status ek_model_load(ek_gguf *file, const ek_model_params *params, ek_model **model) {
  ek_model *made = calloc(1, sizeof *made);
  if (!made) {
    const ek_status status = ek_fail_plain(EK_NO_MEMORY, ek_gguf_path(file));
    ek_gguf_close(file);
    return status;
  }
  made->file = file;
  const ek_status status = load(made, params);
  if (status == EK_OK) {
    *model = made;
  } else {
    ek_model_free(made);
  }
  return status;
}

ek_status ek_model_open(const char *path, const ek_model_params *params, ek_model **model) {
  ek_model_params own;
  ek_gguf *file;
  if (!path || !model) return ek_fail(EK_BAD_ARGUMENT, "the %s is NULL", path ? "pointer for the model" : "path");
  TRY(ek_params_read(params, &own, sizeof own, "ek_model_params"));
  TRY(ek_gguf_open(path, &file));
  return ek_model_load(file, &own, model);
}

void ek_model_free(ek_model *model) {
  if (!model) return;
  ek_pool_destroy(model->pool);
  ek_gguf_close(model->file);
  free(model->memory);
  free(model->frequencies);
  free(model->layers);
  free(model);
}

ek_status ek_model_describe(const ek_model *model, ek_model_info *info) {
  if (!model) return ek_fail(EK_BAD_ARGUMENT, "the model is NULL");
  const ek_shape *shape = &model->shape;
  const ek_model_info own = {
      .layers = shape->layers,
      .hidden = shape->hidden,
      .head_dim = shape->head_dim,
      .vocab = shape->vocab,
      .context = shape->context,
      .window = shape->window,
      .weight_bytes = model->weight_bytes,
      .mapped_bytes = model->mapped_bytes,
      .decode_bytes = model->decode_bytes,
      .threads = ek_pool_threads(model->pool),
      .architecture = shape->architecture,
      .isa = ek_level_name(model->kernels->level),
  };
  return ek_params_write(info, &own, sizeof own, "ek_model_info");
}

ek_status ek_model_heads(const ek_model *model, uint32_t layer, uint32_t *heads, uint32_t *kv_heads) {
  if (!model || !heads || !kv_heads) return ek_fail(EK_BAD_ARGUMENT, "an argument of ek_model_heads is NULL");
  if (layer >= model->shape.layers) {
    return ek_fail(EK_BAD_ARGUMENT, "there is no layer %u: the model has %u", (unsigned)layer,
                   (unsigned)model->shape.layers);
  }
  *heads = model->layers[layer].heads;
  *kv_heads = model->layers[layer].kv_heads;
  return EK_OK;
}
