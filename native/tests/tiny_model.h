/* Small GGUF files of random weights, made in memory: whole models of each architecture, to load, to spoil and to save.
 */
#ifndef EK_TINY_MODEL_H
#define EK_TINY_MODEL_H

#include "check.h"

/* Members that are 0 get defaults: 3 layers of 4 query and 2 KV heads, head_dim 64, hidden and ffn 256, vocab 40,
 * context 96, window 16 (gemma3), weights f32. */
typedef struct tiny_options {
  const char *architecture; /* "llama" */
  enum ek_type type;        /* of all matrices */
  int untied;               /* output.weight, of that type too */
  int biases;               /* on all seven; qwen2 has them on Q, K and V in any case */
  uint32_t layers, heads, kv_heads, head_dim, hidden, ffn, vocab, context, window;
  uint32_t vary; /* not 0: heads, kv_heads and ffn are halved in odd layers, and the keys are arrays */
  uint64_t seed;
} tiny_options;

typedef struct tiny_pair {
  char key[64];
  uint32_t kind, element; /* GGUF's numbers of the type, and of an array's elements */
  uint64_t count;
  uint8_t *value; /* as in the file; an array's elements, a text without its length */
  size_t bytes;
} tiny_pair;

typedef struct tiny_tensor {
  char name[64];
  uint32_t dimensions;
  uint64_t sizes[4];
  uint32_t ggml_type;
  uint8_t *data;
  size_t bytes;
} tiny_tensor;

enum { TINY_PAIRS = 64, TINY_TENSORS = 256 };

typedef struct tiny_file {
  tiny_pair pairs[TINY_PAIRS];
  tiny_tensor tensors[TINY_TENSORS];
  size_t pair_count, tensor_count;
} tiny_file;

/* The options with the defaults filled in. */
tiny_options tiny_defaults(tiny_options options);
/* A whole model. */
tiny_file *tiny_new(tiny_options options);
void tiny_free(tiny_file *file);

/* Add a key or replace its value. */
void tiny_set_uint(tiny_file *file, const char *key, uint32_t value);
void tiny_set_uints(tiny_file *file, const char *key, const uint32_t *values, size_t count);
void tiny_set_flags(tiny_file *file, const char *key, const uint8_t *values, size_t count);
void tiny_set_float(tiny_file *file, const char *key, float value);
void tiny_set_text(tiny_file *file, const char *key, const char *value);
void tiny_unset(tiny_file *file, const char *key);

/* A vector (rows 0) or matrix of random weights: around 1 where it is a vector. */
tiny_tensor *tiny_add(tiny_file *file, const char *name, enum ek_type type, size_t columns, size_t rows, uint64_t seed);
tiny_tensor *tiny_find(tiny_file *file, const char *name); /* NULL: not there */
void tiny_remove(tiny_file *file, const char *name);

/* The file, to be freed. */
uint8_t *tiny_bytes(const tiny_file *file, size_t *size);
/* Writes it; exits where that fails. */
void tiny_save(const tiny_file *file, const char *path);

#endif
