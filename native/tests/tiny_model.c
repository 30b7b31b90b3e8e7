#include "tiny_model.h"

#include "encode/encode.h"
#include "half.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { U32 = 4, F32 = 6, BOOL = 7, TEXT = 8, ARRAY = 9, ALIGNMENT = 32 };

static void need(int condition, const char *what) {
  if (condition) return;
  fprintf(stderr, "tiny_model: %s\n", what);
  exit(1);
}

static void *new_bytes(size_t bytes) {
  void *made = calloc(1, bytes ? bytes : 1);
  need(made != NULL, "no memory");
  return made;
}

/* --- keys --- */

static void set(tiny_file *file, const char *key, uint32_t kind, uint32_t element, uint64_t count, const void *value,
                size_t bytes) {
  tiny_unset(file, key);
  need(file->pair_count < TINY_PAIRS, "too many keys");
  tiny_pair *pair = &file->pairs[file->pair_count++];
  *pair = (tiny_pair){.kind = kind, .element = element, .count = count, .bytes = bytes};
  (void)snprintf(pair->key, sizeof pair->key, "%s", key);
  pair->value = new_bytes(bytes);
  memcpy(pair->value, value, bytes);
}

void tiny_set_uint(tiny_file *file, const char *key, uint32_t value) { set(file, key, U32, 0, 1, &value, 4); }

void tiny_set_uints(tiny_file *file, const char *key, const uint32_t *values, size_t count) {
  set(file, key, ARRAY, U32, count, values, 4 * count);
}

void tiny_set_flags(tiny_file *file, const char *key, const uint8_t *values, size_t count) {
  set(file, key, ARRAY, BOOL, count, values, count);
}

void tiny_set_float(tiny_file *file, const char *key, float value) { set(file, key, F32, 0, 1, &value, 4); }

void tiny_set_text(tiny_file *file, const char *key, const char *value) {
  set(file, key, TEXT, 0, 1, value, strlen(value));
}

void tiny_unset(tiny_file *file, const char *key) {
  for (size_t i = 0; i < file->pair_count; i++) {
    if (strcmp(file->pairs[i].key, key) == 0) {
      free(file->pairs[i].value);
      file->pair_count--;
      memmove(&file->pairs[i], &file->pairs[i + 1], (file->pair_count - i) * sizeof file->pairs[0]);
      return;
    }
  }
}

/* --- tensors --- */

static uint32_t ggml_type_of(enum ek_type type) {
  static const uint32_t numbers[EK_TYPES] = {0, 1, 30, 8, 2, 3, 6, 7, 20, 12, 13, 14};
  return numbers[type];
}

static void encode(enum ek_type type, const float *values, size_t columns, size_t count, uint8_t *out) {
  const ek_format *format = &ek_formats[type];
  if (type == EK_TYPE_f32) {
    memcpy(out, values, count * sizeof(float));
  } else if (type == EK_TYPE_f16) {
    for (size_t i = 0; i < count; i++) ek_store_u16(out + 2 * i, ek_half_of_float(values[i]));
  } else if (type == EK_TYPE_bf16) {
    for (size_t i = 0; i < count; i++) ek_store_u16(out + 2 * i, ek_bfloat_of_float(values[i]));
  } else {
    ek_encode_fn *const encoder = ek_encoder_find(format->name, -1);
    need(encoder != NULL, "no encoder");
    const ek_source source = {.values = values, .columns = columns};
    encoder(&source, 0, count / (size_t)format->block, out);
  }
}

tiny_tensor *tiny_add(tiny_file *file, const char *name, enum ek_type type, size_t columns, size_t rows,
                      uint64_t seed) {
  const ek_format *format = &ek_formats[type];
  const size_t count = columns * (rows ? rows : 1), block = (size_t)format->block;
  need(file->tensor_count < TINY_TENSORS && columns % block == 0, name);
  tiny_tensor *tensor = &file->tensors[file->tensor_count++];
  *tensor = (tiny_tensor){.dimensions = rows ? 2 : 1, .sizes = {columns, rows ? rows : 1, 1, 1}};
  (void)snprintf(tensor->name, sizeof tensor->name, "%s", name);
  tensor->ggml_type = ggml_type_of(type);
  tensor->bytes = count / block * (size_t)format->block_bytes;
  tensor->data = new_bytes(tensor->bytes);
  check_rng rng = check_seed(name, (int)(seed & 0x7fffffff));
  const float spread = rows ? 1.5f / sqrtf((float)columns) : 0.3f;
  float *values = new_bytes(count * sizeof *values);
  for (size_t i = 0; i < count; i++) values[i] = check_uniform(&rng, -1.7f, 1.7f) * spread + (rows ? 0 : 1);
  encode(type, values, columns, count, tensor->data);
  free(values);
  return tensor;
}

tiny_tensor *tiny_find(tiny_file *file, const char *name) {
  for (size_t i = 0; i < file->tensor_count; i++) {
    if (strcmp(file->tensors[i].name, name) == 0) return &file->tensors[i];
  }
  return NULL;
}

void tiny_remove(tiny_file *file, const char *name) {
  tiny_tensor *tensor = tiny_find(file, name);
  need(tensor != NULL, name);
  free(tensor->data);
  const size_t index = (size_t)(tensor - file->tensors);
  file->tensor_count--;
  memmove(tensor, tensor + 1, (file->tensor_count - index) * sizeof *tensor);
}

/* --- models --- */

static void or_else(uint32_t *value, uint32_t fallback) {
  if (*value == 0) *value = fallback;
}

tiny_options tiny_defaults(tiny_options options) {
  if (!options.architecture) options.architecture = "llama";
  or_else(&options.layers, 3);
  or_else(&options.heads, 4);
  or_else(&options.kv_heads, 2);
  or_else(&options.head_dim, 64);
  or_else(&options.hidden, 256);
  or_else(&options.ffn, 256);
  or_else(&options.vocab, 40);
  or_else(&options.context, 96);
  or_else(&options.window, 16);
  return options;
}

static uint32_t in_layer(const tiny_options *o, uint32_t value, uint32_t layer) {
  return o->vary && layer % 2 ? value / 2 : value;
}

static void set_counts(tiny_file *file, const tiny_options *o, const char *key, uint32_t value) {
  char name[64];
  uint32_t values[64];
  (void)snprintf(name, sizeof name, "%s.%s", o->architecture, key);
  need(o->layers <= 64, "too many layers");
  for (uint32_t i = 0; i < o->layers; i++) values[i] = in_layer(o, value, i);
  if (o->vary) {
    tiny_set_uints(file, name, values, o->layers);
  } else {
    tiny_set_uint(file, name, value);
  }
}

static void set_uint(tiny_file *file, const tiny_options *o, const char *key, uint32_t value) {
  char name[64];
  (void)snprintf(name, sizeof name, "%s.%s", o->architecture, key);
  tiny_set_uint(file, name, value);
}

static void add_keys(tiny_file *file, const tiny_options *o, int is_gemma) {
  char name[64];
  tiny_set_text(file, "general.architecture", o->architecture);
  set_uint(file, o, "block_count", o->layers);
  set_uint(file, o, "embedding_length", o->hidden);
  set_uint(file, o, "context_length", o->context);
  set_uint(file, o, "attention.key_length", o->head_dim);
  set_uint(file, o, "attention.value_length", o->head_dim);
  set_counts(file, o, "attention.head_count", o->heads);
  set_counts(file, o, "attention.head_count_kv", o->kv_heads);
  set_counts(file, o, "feed_forward_length", o->ffn);
  if (is_gemma) set_uint(file, o, "attention.sliding_window", o->window);
  (void)snprintf(name, sizeof name, "%s.attention.layer_norm_rms_epsilon", o->architecture);
  tiny_set_float(file, name, 1e-5f);
  (void)snprintf(name, sizeof name, "%s.rope.freq_base", o->architecture);
  tiny_set_float(file, name, is_gemma ? 1e6f : 1e4f);
}

static void add_norm(tiny_file *file, const tiny_options *o, uint32_t layer, const char *module, size_t count) {
  char name[64];
  (void)snprintf(name, sizeof name, "blk.%u.%s.weight", (unsigned)layer, module);
  tiny_add(file, name, EK_TYPE_f32, count, 0, o->seed);
}

static void add_linear(tiny_file *file, const tiny_options *o, uint32_t layer, const char *module, size_t columns,
                       size_t rows, int bias) {
  char name[64];
  (void)snprintf(name, sizeof name, "blk.%u.%s.weight", (unsigned)layer, module);
  tiny_add(file, name, o->type, columns, rows, o->seed);
  (void)snprintf(name, sizeof name, "blk.%u.%s.bias", (unsigned)layer, module);
  if (bias) tiny_add(file, name, EK_TYPE_f32, rows, 0, o->seed);
}

static void add_layer(tiny_file *file, const tiny_options *o, uint32_t layer, int is_gemma) {
  const int qkv_bias = o->biases || strcmp(o->architecture, "qwen2") == 0;
  const size_t dim = o->head_dim, ffn = in_layer(o, o->ffn, layer);
  const size_t queries = in_layer(o, o->heads, layer) * dim, keys = in_layer(o, o->kv_heads, layer) * dim;
  add_norm(file, o, layer, "attn_norm", o->hidden);
  add_norm(file, o, layer, "ffn_norm", o->hidden);
  if (is_gemma) {
    add_norm(file, o, layer, "post_attention_norm", o->hidden);
    add_norm(file, o, layer, "post_ffw_norm", o->hidden);
  }
  if (is_gemma || strcmp(o->architecture, "qwen3") == 0) {
    add_norm(file, o, layer, "attn_q_norm", dim);
    add_norm(file, o, layer, "attn_k_norm", dim);
  }
  add_linear(file, o, layer, "attn_q", o->hidden, queries, qkv_bias);
  add_linear(file, o, layer, "attn_k", o->hidden, keys, qkv_bias);
  add_linear(file, o, layer, "attn_v", o->hidden, keys, qkv_bias);
  add_linear(file, o, layer, "attn_output", queries, o->hidden, o->biases);
  add_linear(file, o, layer, "ffn_gate", o->hidden, ffn, o->biases);
  add_linear(file, o, layer, "ffn_up", o->hidden, ffn, o->biases);
  add_linear(file, o, layer, "ffn_down", ffn, o->hidden, o->biases);
}

tiny_file *tiny_new(tiny_options options) {
  const tiny_options o = tiny_defaults(options);
  const int is_gemma = strcmp(o.architecture, "gemma3") == 0;
  tiny_file *file = new_bytes(sizeof *file);
  add_keys(file, &o, is_gemma);
  tiny_add(file, "token_embd.weight", o.type, o.hidden, o.vocab, o.seed);
  for (uint32_t layer = 0; layer < o.layers; layer++) add_layer(file, &o, layer, is_gemma);
  tiny_add(file, "output_norm.weight", EK_TYPE_f32, o.hidden, 0, o.seed);
  if (o.untied) tiny_add(file, "output.weight", o.type, o.hidden, o.vocab, o.seed);
  return file;
}

void tiny_free(tiny_file *file) {
  if (!file) return;
  for (size_t i = 0; i < file->pair_count; i++) free(file->pairs[i].value);
  for (size_t i = 0; i < file->tensor_count; i++) free(file->tensors[i].data);
  free(file);
}

/* --- the file --- */

typedef struct writer {
  uint8_t *bytes; /* NULL: only counts */
  size_t at;
} writer;

static void put(writer *w, const void *data, size_t bytes) {
  if (w->bytes) memcpy(w->bytes + w->at, data, bytes);
  w->at += bytes;
}

static void put_number(writer *w, uint64_t value, size_t bytes) {
  uint8_t little[8];
  for (size_t i = 0; i < 8; i++) little[i] = (uint8_t)(value >> 8 * i);
  put(w, little, bytes);
}

static void put_text(writer *w, const char *text, size_t length) {
  put_number(w, length, 8);
  put(w, text, length);
}

static void pad(writer *w) {
  static const uint8_t zeros[ALIGNMENT];
  put(w, zeros, (ALIGNMENT - w->at % ALIGNMENT) % ALIGNMENT);
}

static void write_file(writer *w, const tiny_file *file) {
  uint64_t offset = 0;
  put(w, "GGUF", 4);
  put_number(w, 3, 4);
  put_number(w, file->tensor_count, 8);
  put_number(w, file->pair_count, 8);
  for (size_t i = 0; i < file->pair_count; i++) {
    const tiny_pair *pair = &file->pairs[i];
    put_text(w, pair->key, strlen(pair->key));
    put_number(w, pair->kind, 4);
    if (pair->kind == ARRAY) put_number(w, pair->element, 4);
    if (pair->kind == ARRAY) put_number(w, pair->count, 8);
    if (pair->kind == TEXT) put_number(w, pair->bytes, 8);
    put(w, pair->value, pair->bytes);
  }
  for (size_t i = 0; i < file->tensor_count; i++) {
    const tiny_tensor *tensor = &file->tensors[i];
    put_text(w, tensor->name, strlen(tensor->name));
    put_number(w, tensor->dimensions, 4);
    for (uint32_t d = 0; d < tensor->dimensions; d++) put_number(w, tensor->sizes[d], 8);
    put_number(w, tensor->ggml_type, 4);
    put_number(w, offset, 8);
    offset += (tensor->bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
  }
  for (size_t i = 0; i < file->tensor_count; i++) {
    pad(w);
    put(w, file->tensors[i].data, file->tensors[i].bytes);
  }
}

uint8_t *tiny_bytes(const tiny_file *file, size_t *size) {
  writer w = {NULL, 0};
  write_file(&w, file);
  *size = w.at;
  w = (writer){new_bytes(w.at), 0};
  write_file(&w, file);
  return w.bytes;
}

void tiny_save(const tiny_file *file, const char *path) {
  size_t size;
  uint8_t *bytes = tiny_bytes(file, &size);
  FILE *out = fopen(path, "wb");
  need(out && fwrite(bytes, 1, size, out) == size && fclose(out) == 0, path);
  free(bytes);
}
