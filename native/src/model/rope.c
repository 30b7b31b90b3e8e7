#include "model/parts.h"

#include "operators/rope.h"

#include <stdio.h>
#include <string.h>

/* 1: frequencies are divided by nothing. Without a type, a factor means linear interpolation, as in old files. */
static ek_status read_linear(const ek_gguf *file, const ek_family *family, double *linear) {
  char key[64], shown[EK_PRINTABLE];
  ek_text type = {"", 0};
  double factor, old;
  (void)snprintf(key, sizeof key, "%s.rope.scaling.type", family->name);
  if (ek_gguf_text(file, key, &type) < 0) return ek_bad_model(file, "%s is no text", key);
  const int none = type.length == 4 && memcmp(type.bytes, "none", 4) == 0;
  if (type.length != 0 && !none && !(type.length == 6 && memcmp(type.bytes, "linear", 6) == 0)) {
    return ek_unsupported(file, "%s is '%s', not none or linear", key, ek_printable(type.bytes, type.length, shown));
  }
  ek_status status = ek_key_float(file, family, "rope.scaling.factor", 0, &factor);
  if (status == EK_OK) status = ek_key_float(file, family, "rope.scale_linear", 0, &old);
  if (status != EK_OK) return status;
  if (factor == 0) factor = old;
  *linear = none || factor == 0 ? 1 : factor;
  return EK_OK;
}

/* Llama 3's: copied out, since tensors lie where they please. */
static ek_status read_factors(const ek_gguf *file, const ek_family *family, size_t pairs, float *factors) {
  for (size_t i = 0; i < pairs; i++) factors[i] = 1;
  const ek_gguf_tensor *tensor = family->rope_factors ? ek_gguf_find(file, ek_rope_factors) : NULL;
  if (!tensor) return EK_OK;
  if (tensor->type != EK_TYPE_f32 || tensor->bytes != pairs * sizeof(float)) {
    return ek_bad_model(file, "%s is not a list of %zu F32 factors", ek_rope_factors, pairs);
  }
  ek_dequantise(&ek_formats[EK_TYPE_f32], tensor->data, pairs, factors);
  return EK_OK;
}

ek_status ek_rope_read(const ek_gguf *file, const ek_shape *shape, double *frequencies, double *sliding_frequencies) {
  const ek_family *family;
  float factors[EK_MOST_HEAD_DIMS / 2];
  ek_rope_scaling scaling = {.factors = factors};
  double base, sliding_base = 10000, attention_factor = 1;
  ek_status status = ek_family_read(file, &family);
  if (status == EK_OK) status = read_linear(file, family, &scaling.linear);
  if (status == EK_OK) status = read_factors(file, family, shape->head_dim / 2, factors);
  if (status == EK_OK) status = ek_key_float(file, family, "rope.freq_base", 10000, &base);
  if (status == EK_OK) status = ek_key_float(file, family, "rope.scaling.attn_factor", 1, &attention_factor);
  if (status == EK_OK && family->sliding) {
    status = ek_key_float(file, family, "rope.freq_base_swa", 10000, &sliding_base);
  }
  if (status != EK_OK) return status;
  if (attention_factor != 1) {
    return ek_unsupported(file, "%s.rope.scaling.attn_factor is %g, not 1", family->name, attention_factor);
  }
  if (ek_rope_frequencies(shape->head_dim, base, &scaling, frequencies) != EK_OK ||
      ek_rope_frequencies(shape->head_dim, sliding_base, NULL, sliding_frequencies) != EK_OK) {
    return ek_bad_model(file, "its RoPE base, scaling or factors are not all positive");
  }
  return EK_OK;
}
