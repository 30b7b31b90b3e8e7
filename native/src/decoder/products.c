/* Products of a layer: with quantised activations in one run for each activation group, or with unrounded ones. */
#include "decoder/parts.h"
#include "operators/float_mode.h"

unsigned ek_linear_groups(const ek_decoder *d, const ek_linear *const *linears, size_t count) {
  unsigned groups = 0;
  for (size_t i = 0; i < count && !d->floats; i++) {
    const size_t group = ek_activation_group(linears[i]->matrix.type);
    groups |= group == 32 ? EK_GROUP_32 : group == 256 ? EK_GROUP_256 : 0;
  }
  return groups;
}

void ek_decoder_quantise(const ek_decoder *d, unsigned groups, const float *row, size_t columns, size_t token) {
  const ek_kernels *kernels = d->model->kernels;
  if (groups & EK_GROUP_32) ek_activations_fill_token(kernels, 32, row, d->tokens, columns, token, d->codes[0]);
  if (groups & EK_GROUP_256) ek_activations_fill_token(kernels, 256, row, d->tokens, columns, token, d->codes[1]);
}

static ek_status multiply_floats(ek_decoder *d, const ek_linear *const *linears, float *const *outs,
                                 const size_t *strides, size_t count, const float *x) {
  ek_status status = EK_OK;
  for (size_t i = 0; i < count && status == EK_OK; i++)
    status = ek_float_matmul(d->model->pool, &linears[i]->matrix, x, d->tokens, outs[i], strides[i], d->float_scratch);
  return status;
}

ek_status ek_decoder_multiply(ek_decoder *d, const ek_linear *const *linears, float *const *outs, const size_t *strides,
                              size_t count, const float *x) {
  if (d->floats) return multiply_floats(d, linears, outs, strides, count, x);
  static const size_t groups[] = {0, 32, 256};
  const size_t columns = linears[0]->matrix.columns;
  for (int g = 0; g < 3; g++) {
    ek_product products[EK_MOST_PRODUCTS];
    size_t found = 0;
    for (size_t i = 0; i < count; i++) {
      if (ek_activation_group(linears[i]->matrix.type) == groups[g])
        products[found++] = (ek_product){&linears[i]->matrix, outs[i], strides[i]};
    }
    if (found == 0) continue;
    ek_activations activations;
    ek_status status = ek_activations_place(groups[g], x, d->tokens, columns, d->codes[groups[g] == 256], &activations);
    if (status != EK_OK) return status;
    status = ek_matmul(d->model->kernels, d->model->pool, products, found, &activations, d->tokens);
    if (status != EK_OK) return status;
  }
  return EK_OK;
}
