#include "model/parts.h"

#include "kernels/stripe.h"

/* Bytes of blocks between two calls of the progress function, about; so many pages of the file are held at most. */
enum { CHUNK_BYTES = 4 << 20, CHUNK_ROWS = 32 };

typedef struct packer {
  ek_model *model;
  const ek_model_params *params;
  uint64_t done, total;
} packer;

static ek_status fail_plain(const packer *p, ek_status status) {
  return ek_fail_plain(status, ek_gguf_path(p->model->file));
}

/* `bytes` of a tensor from `data` on are packed. */
static ek_status step(packer *p, const uint8_t *data, size_t bytes) {
  const ek_gguf_tensor read = {.data = data, .bytes = bytes};
  ek_gguf_release(p->model->file, &read);
  p->done += bytes;
  if (p->params->progress && p->params->progress(p->params->user, p->done, p->total) != 0) {
    return ek_fail(EK_CANCELLED, "%s: loading was cancelled", ek_gguf_path(p->model->file));
  }
  return EK_OK;
}

/* A chunk of rows at a time. */
static ek_status pack_matrix(packer *p, const ek_part *part) {
  const ek_model *model = p->model;
  const ek_gguf_tensor *tensor = part->tensor;
  const size_t rows = (size_t)tensor->sizes[1], columns = (size_t)tensor->sizes[0];
  const size_t row_bytes = tensor->bytes / rows, stripe_bytes = ek_stripe_bytes(tensor->type, columns);
  const size_t fit = CHUNK_BYTES / row_bytes / CHUNK_ROWS * CHUNK_ROWS, chunk = fit ? fit : CHUNK_ROWS;
  uint8_t *packed = model->memory + part->place;
  for (size_t row = 0; row < rows; row += chunk) {
    const size_t count = rows - row < chunk ? rows - row : chunk;
    const uint8_t *blocks = tensor->data + row * row_bytes;
    ek_matrix piece;
    ek_cores before;
    ek_pool_pin_caller(model->pool, &before);
    ek_status status = ek_matrix_pack(model->kernels, model->pool, tensor->type, count, columns, blocks,
                                      count * row_bytes, packed + row / EK_STRIPE * stripe_bytes, &piece);
    ek_cores_unpin(&before);
    if (status != EK_OK) return fail_plain(p, status);
    status = step(p, blocks, count * row_bytes);
    if (status != EK_OK) return status;
  }
  part->linear->matrix = (ek_matrix){tensor->type, rows, columns, model->kernels->interleave, packed};
  return EK_OK;
}

static ek_status widen_vector(packer *p, const ek_part *part) {
  const ek_gguf_tensor *tensor = part->tensor;
  float *values = (float *)(void *)(p->model->memory + part->place);
  ek_dequantise(&ek_formats[tensor->type], tensor->data, (size_t)tensor->sizes[0], values);
  *part->vector = values;
  return step(p, tensor->data, tensor->bytes);
}

ek_status ek_plan_pack(const ek_plan *plan, ek_model *model, const ek_model_params *params) {
  packer p = {model, params, 0, plan->tensor_bytes};
  if (params->progress && params->progress(params->user, 0, p.total) != 0) {
    return ek_fail(EK_CANCELLED, "%s: loading was cancelled", ek_gguf_path(model->file));
  }
  for (size_t i = 0; i < plan->count; i++) {
    const ek_part *part = &plan->parts[i];
    const ek_status status = part->linear ? pack_matrix(&p, part) : widen_vector(&p, part);
    if (status != EK_OK) return status;
  }
  return EK_OK;
}
