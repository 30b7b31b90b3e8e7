#include "model/model.h"

#include "kernels/stripe.h"

/* The row of the packed head, or of the blocks in the file. */
static void read_row(const ek_model *model, size_t row, float *out) {
  const ek_gguf_tensor *blocks = model->embedding;
  if (blocks) {
    const ek_format *format = &ek_formats[blocks->type];
    const size_t count = model->shape.hidden / (size_t)format->block;
    ek_dequantise(format, blocks->data + row * count * (size_t)format->block_bytes, count, out);
  } else {
    const ek_matrix *m = &model->head.matrix;
    const uint8_t *stripe = m->stripes + row / EK_STRIPE * ek_stripe_bytes(m->type, m->columns);
    ek_stripe_decode(m->type, m->interleave, m->columns, stripe, row % EK_STRIPE, 1, out);
  }
}

void ek_model_embed(const ek_model *model, int32_t token, float *out) {
  const float scale = model->shape.embedding_scale;
  read_row(model, (size_t)token, out);
  for (size_t i = 0; scale != 1 && i < model->shape.hidden; i++) out[i] *= scale;
}
