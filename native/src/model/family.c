#include "model/parts.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

const char ek_rope_factors[] = "rope_freqs.weight";

/* deci is llama with head counts of each layer's own. */
static const ek_family families[] = {
    {.name = "llama", .rope_adjacent = 1, .rope_factors = 1, .qkv_bias = EK_MAYBE, .other_bias = EK_MAYBE},
    {.name = "deci", .rope_adjacent = 1, .rope_factors = 1, .qkv_bias = EK_MAYBE, .other_bias = EK_MAYBE},
    {.name = "qwen2", .qkv_bias = EK_ALWAYS},
    {.name = "qwen3", .head_norms = 1},
    {.name = "gemma3", .geglu = 1, .sliding = 1, .after_norms = 1, .head_norms = 1, .logit_softcap = 1},
};

static ek_status fail(ek_status status, const ek_gguf *file, const char *advice, const char *format,
                      va_list arguments) {
  char what[400];
  (void)vsnprintf(what, sizeof what, format, arguments);
  return ek_fail(status, "%s: %s: %s", ek_gguf_path(file), what, advice);
}

ek_status ek_unsupported(const ek_gguf *file, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  const ek_status status = fail(EK_UNSUPPORTED, file, "edgekit cannot run this model", format, arguments);
  va_end(arguments);
  return status;
}

ek_status ek_bad_model(const ek_gguf *file, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  const ek_status status = fail(EK_BAD_FILE, file, "download or export it again", format, arguments);
  va_end(arguments);
  return status;
}

ek_status ek_family_read(const ek_gguf *file, const ek_family **family) {
  char shown[EK_PRINTABLE];
  ek_text name;
  if (ek_gguf_text(file, "general.architecture", &name) != 1) {
    return ek_bad_model(file, "general.architecture is missing or no text");
  }
  for (size_t i = 0; i < sizeof families / sizeof *families; i++) {
    if (strlen(families[i].name) == name.length && memcmp(families[i].name, name.bytes, name.length) == 0) {
      *family = &families[i];
      return EK_OK;
    }
  }
  return ek_unsupported(file, "its architecture is '%s', not llama, deci, qwen2, qwen3 or gemma3",
                        ek_printable(name.bytes, name.length, shown));
}

ek_status ek_key_uint(const ek_gguf *file, const ek_family *family, const char *key, uint32_t most, uint32_t fallback,
                      uint32_t *value) {
  char name[96];
  uint64_t read = fallback;
  (void)snprintf(name, sizeof name, "%s.%s", family->name, key);
  const int found = ek_gguf_uint(file, name, &read);
  if (found == 0 && fallback == 0) return ek_bad_model(file, "%s is missing", name);
  if (found < 0 || read < 1 || read > most) {
    return ek_bad_model(file, "%s is not a whole number from 1 to %u", name, (unsigned)most);
  }
  *value = (uint32_t)read;
  return EK_OK;
}

ek_status ek_key_float(const ek_gguf *file, const ek_family *family, const char *key, double fallback, double *value) {
  char name[96];
  double read = fallback;
  (void)snprintf(name, sizeof name, "%s.%s", family->name, key);
  const int found = ek_gguf_float(file, name, &read);
  if (found == 0 && fallback < 0) return ek_bad_model(file, "%s is missing", name);
  if (found < 0 || !isfinite(read) || read < 0 || read > 1e12) {
    return ek_bad_model(file, "%s is not a number from 0 to 1e12", name);
  }
  *value = read;
  return EK_OK;
}
