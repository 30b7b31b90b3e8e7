/* libFuzzer: the reader of GGUF files on any bytes. What it accepts must hold together. */
#include "gguf/gguf.h"

#include <stdlib.h>
#include <string.h>

static void demand(int condition) {
  if (!condition) abort();
}

static void read_keys(const ek_gguf *file) {
  static const char *const keys[] = {"general.architecture",
                                     "general.alignment",
                                     "llama.block_count",
                                     "llama.rope.freq_base",
                                     "x.bool",
                                     "x.texts",
                                     "x.u16s",
                                     "x.bools",
                                     "x.i64"};
  for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
    ek_text text;
    uint64_t number;
    double real;
    int yes;
    size_t count = 0;
    if (ek_gguf_text(file, keys[i], &text) == 1) {
      char *copy = malloc(text.length + 1); /* reads all of it */
      demand(copy != NULL);
      memcpy(copy, text.bytes, text.length);
      free(copy);
    }
    (void)ek_gguf_uint(file, keys[i], &number);
    (void)ek_gguf_float(file, keys[i], &real);
    (void)ek_gguf_bool(file, keys[i], &yes);
    if (ek_gguf_uints(file, keys[i], 0, &number, &count) == 1) {
      demand(count >= 1);
      (void)ek_gguf_uints(file, keys[i], count - 1, &number, &count);
      demand(ek_gguf_uints(file, keys[i], count, &number, &count) == -1);
    }
  }
}

static void check_tensor(const ek_gguf *file, const uint8_t *bytes, size_t size, size_t index) {
  const ek_gguf_tensor *tensor = ek_gguf_at(file, index);
  demand(tensor->dimensions >= 1 && tensor->dimensions <= 4);
  demand(tensor->data >= bytes && tensor->bytes <= size && tensor->data <= bytes + (size - tensor->bytes));
  char name[1025];
  demand(tensor->name.length >= 1 && tensor->name.length < sizeof name);
  memcpy(name, tensor->name.bytes, tensor->name.length);
  name[tensor->name.length] = 0;
  demand(ek_gguf_find(file, name) == tensor);
  if (tensor->type == EK_TYPES) return;
  const ek_format *format = &ek_formats[tensor->type];
  uint64_t weights = 1;
  for (int i = 0; i < 4; i++) weights *= tensor->sizes[i];
  demand(tensor->bytes == weights / (uint64_t)format->block * (uint64_t)format->block_bytes);
  float block[EK_SUPERBLOCK];
  ek_dequantise(format, tensor->data + tensor->bytes - format->block_bytes, 1, block);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
  ek_gguf *file = NULL;
  const ek_status status = ek_gguf_read(bytes, size, "fuzz.gguf", &file);
  if (status != EK_OK) {
    demand(status == EK_BAD_FILE && file == NULL && strstr(ek_last_error(), "fuzz.gguf") != NULL);
    return 0;
  }
  read_keys(file);
  for (size_t i = 0; i < ek_gguf_count(file); i++) check_tensor(file, bytes, size, i);
  ek_gguf_close(file);
  return 0;
}
