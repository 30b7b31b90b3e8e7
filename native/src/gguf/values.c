#include "gguf/file.h"

#include "half.h"

#include <string.h>

size_t ek_gguf_kind_bytes(uint32_t kind) {
  static const uint8_t bytes[EK_GGUF_KINDS] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
  return kind < EK_GGUF_KINDS ? bytes[kind] : 0;
}

uint64_t ek_gguf_number(const uint8_t *at, size_t bytes) {
  uint64_t value = 0;
  for (size_t i = 0; i < bytes; i++) value |= (uint64_t)at[i] << 8 * i;
  return value;
}

int ek_text_compare(ek_text a, ek_text b) {
  const size_t shorter = a.length < b.length ? a.length : b.length;
  const int order = shorter ? memcmp(a.bytes, b.bytes, shorter) : 0;
  return order ? order : (a.length > b.length) - (a.length < b.length);
}

const char *ek_gguf_path(const ek_gguf *file) { return file->path; }

size_t ek_gguf_size(const ek_gguf *file) { return file->size; }

size_t ek_gguf_count(const ek_gguf *file) { return file->tensor_count; }

const ek_gguf_tensor *ek_gguf_at(const ek_gguf *file, size_t index) { return &file->tensors[index].tensor; }

const ek_gguf_tensor *ek_gguf_find(const ek_gguf *file, const char *name) {
  const ek_text wanted = {name, strlen(name)};
  size_t low = 0, high = file->tensor_count;
  while (low < high) {
    const size_t middle = low + (high - low) / 2;
    const int order = ek_text_compare(wanted, file->by_name[middle]->name);
    if (order == 0) return file->by_name[middle];
    if (order < 0) high = middle;
    if (order > 0) low = middle + 1;
  }
  return NULL;
}

static const ek_gguf_pair *find_pair(const ek_gguf *file, const char *key) {
  const ek_text wanted = {key, strlen(key)};
  size_t low = 0, high = file->pair_count;
  while (low < high) {
    const size_t middle = low + (high - low) / 2;
    const int order = ek_text_compare(wanted, file->pairs[middle].key);
    if (order == 0) return &file->pairs[middle];
    if (order < 0) high = middle;
    if (order > 0) low = middle + 1;
  }
  return NULL;
}

static int is_signed(enum ek_gguf_kind kind) {
  return kind == EK_GGUF_i8 || kind == EK_GGUF_i16 || kind == EK_GGUF_i32 || kind == EK_GGUF_i64;
}

static int is_integer(enum ek_gguf_kind kind) {
  return is_signed(kind) || kind == EK_GGUF_u8 || kind == EK_GGUF_u16 || kind == EK_GGUF_u32 || kind == EK_GGUF_u64;
}

/* 1, or -1 where it is negative. */
static int unsigned_at(const ek_gguf_pair *pair, size_t index, uint64_t *value) {
  const size_t bytes = ek_gguf_kind_bytes(pair->kind);
  const uint64_t read = ek_gguf_number(pair->at + index * bytes, bytes);
  if (is_signed(pair->kind) && read >> (8 * bytes - 1)) return -1;
  *value = read;
  return 1;
}

int ek_gguf_text(const ek_gguf *file, const char *key, ek_text *value) {
  const ek_gguf_pair *pair = find_pair(file, key);
  if (!pair) return 0;
  if (pair->is_array || pair->kind != EK_GGUF_string) return -1;
  *value = (ek_text){(const char *)pair->at + 8, (size_t)ek_gguf_number(pair->at, 8)};
  return 1;
}

int ek_gguf_uint(const ek_gguf *file, const char *key, uint64_t *value) {
  const ek_gguf_pair *pair = find_pair(file, key);
  if (!pair) return 0;
  return pair->is_array || !is_integer(pair->kind) ? -1 : unsigned_at(pair, 0, value);
}

int ek_gguf_float(const ek_gguf *file, const char *key, double *value) {
  const ek_gguf_pair *pair = find_pair(file, key);
  if (!pair) return 0;
  if (pair->is_array) return -1;
  if (pair->kind == EK_GGUF_f32) {
    *value = (double)ek_float_of_bits((uint32_t)ek_gguf_number(pair->at, 4));
  } else if (pair->kind == EK_GGUF_f64) {
    const uint64_t bits = ek_gguf_number(pair->at, 8);
    memcpy(value, &bits, sizeof *value);
  } else {
    return -1;
  }
  return 1;
}

int ek_gguf_bool(const ek_gguf *file, const char *key, int *value) {
  const ek_gguf_pair *pair = find_pair(file, key);
  if (!pair) return 0;
  if (pair->is_array || pair->kind != EK_GGUF_bool) return -1;
  *value = *pair->at != 0;
  return 1;
}

int ek_gguf_uints(const ek_gguf *file, const char *key, size_t index, uint64_t *value, size_t *count) {
  const ek_gguf_pair *pair = find_pair(file, key);
  if (!pair) return 0;
  if (!is_integer(pair->kind) && pair->kind != EK_GGUF_bool) return -1;
  *count = pair->count;
  return index < pair->count ? unsigned_at(pair, index, value) : -1;
}
