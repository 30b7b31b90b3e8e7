/* libFuzzer: models from any bytes: shape, plan, packing. What is loaded must be whole. */
#include "model/parts.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static void demand(int condition) {
  if (!condition) abort();
}

static void check_linear(const ek_linear *linear, size_t rows, size_t columns) {
  demand(linear->matrix.rows == rows && linear->matrix.columns == columns && linear->matrix.stripes != NULL);
}

static void check_layer(const ek_model *model, uint32_t index) {
  const ek_layer *layer = &model->layers[index];
  const size_t hidden = model->shape.hidden, dim = model->shape.head_dim;
  uint32_t heads, kv_heads;
  demand(ek_model_heads(model, index, &heads, &kv_heads) == EK_OK && kv_heads >= 1 && heads % kv_heads == 0);
  demand(layer->attention_norm && layer->ffn_norm && (!layer->sliding || model->shape.window));
  check_linear(&layer->q, heads * dim, hidden);
  check_linear(&layer->k, kv_heads * dim, hidden);
  check_linear(&layer->v, kv_heads * dim, hidden);
  check_linear(&layer->o, hidden, heads * dim);
  check_linear(&layer->gate, layer->ffn, hidden);
  check_linear(&layer->up, layer->ffn, hidden);
  check_linear(&layer->down, hidden, layer->ffn);
}

static void check_model(const ek_model *model, size_t size) {
  ek_model_info info = {.struct_size = sizeof info};
  demand(ek_model_describe(model, &info) == EK_OK);
  demand(info.layers >= 1 && info.head_dim % 2 == 0 && info.head_dim <= model->shape.padded_dim);
  demand(info.mapped_bytes <= size && info.decode_bytes <= info.weight_bytes + info.mapped_bytes);
  for (uint32_t i = 0; i < info.layers; i++) check_layer(model, i);
  for (uint32_t i = 0; i < info.head_dim / 2; i++) {
    demand(isfinite(model->frequencies[i]) && isfinite(model->sliding_frequencies[i]));
  }
  float *row = malloc(info.hidden * sizeof *row);
  demand(row != NULL);
  for (uint32_t token = 0; token < info.vocab; token += info.vocab / 8 + 1) ek_model_embed(model, (int32_t)token, row);
  ek_model_embed(model, (int32_t)(info.vocab - 1), row);
  free(row);
}

/* Stops now and then, by what the file's size is. */
static int on_progress(void *user, uint64_t done, uint64_t total) {
  const size_t size = *(const size_t *)user;
  demand(done <= total);
  return size % 16 == 3 && done > total / 2;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
  ek_gguf *file = NULL;
  ek_model *model = NULL;
  const ek_model_params params = {
      .struct_size = sizeof params, .threads = 1, .progress = on_progress, .user = (void *)&size};
  if (ek_gguf_read(bytes, size, "fuzz.gguf", &file) != EK_OK) return 0;
  const ek_status status = ek_model_load(file, &params, &model);
  if (status == EK_OK) {
    check_model(model, size);
  } else {
    demand(status == EK_BAD_FILE || status == EK_UNSUPPORTED || status == EK_CANCELLED || status == EK_NO_MEMORY);
    demand(model == NULL && strstr(ek_last_error(), "fuzz.gguf") != NULL);
  }
  ek_model_free(model);
  return 0;
}
