#include "gguf/file.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LONGEST_NAME = 1024, DEFAULT_ALIGNMENT = 32 };

#define TRY(call)                                                                                                      \
  do {                                                                                                                 \
    const ek_status tried = (call);                                                                                    \
    if (tried != EK_OK) return tried;                                                                                  \
  } while (0)

/* How far the header has been read. */
typedef struct cursor {
  ek_gguf *file;
  size_t at;
} cursor;

ek_status ek_gguf_bad(const ek_gguf *file, const char *format, ...) {
  char what[400];
  va_list arguments;
  va_start(arguments, format);
  (void)vsnprintf(what, sizeof what, format, arguments);
  va_end(arguments);
  return ek_fail(EK_BAD_FILE, "%s is not a usable GGUF file: %s: download or export it again", file->path, what);
}

static const char *printable(ek_text text, char out[EK_PRINTABLE]) {
  return ek_printable(text.bytes, text.length, out);
}

/* --- numbers and texts --- */

static ek_status need(const cursor *c, uint64_t bytes) {
  if (bytes <= c->file->size - c->at) return EK_OK;
  return ek_gguf_bad(c->file, "it ends within its header, or a size there (at byte %zu) is wrong", c->at);
}

static ek_status take(cursor *c, size_t bytes, uint64_t *value) {
  TRY(need(c, bytes));
  *value = ek_gguf_number(c->file->bytes + c->at, bytes);
  c->at += bytes;
  return EK_OK;
}

static ek_status take_text(cursor *c, ek_text *text) {
  uint64_t length;
  TRY(take(c, 8, &length));
  TRY(need(c, length));
  *text = (ek_text){(const char *)c->file->bytes + c->at, (size_t)length};
  c->at += (size_t)length;
  return EK_OK;
}

/* A key or a tensor's name: ASCII, as the specification has them, and fit for messages. */
static ek_status take_name(cursor *c, ek_text *name) {
  TRY(take_text(c, name));
  if (name->length == 0) return ek_gguf_bad(c->file, "a name before byte %zu is empty", c->at);
  if (name->length > LONGEST_NAME)
    return ek_gguf_bad(c->file, "a name before byte %zu is %zu long", c->at, name->length);
  for (size_t i = 0; i < name->length; i++) {
    if (name->bytes[i] < ' ' || name->bytes[i] > '~') {
      char shown[EK_PRINTABLE];
      return ek_gguf_bad(c->file, "the name '%s' is not printable", printable(*name, shown));
    }
  }
  return EK_OK;
}

/* Room for one more element, of `bytes` each, in an array of `count`. */
static ek_status grow(const ek_gguf *file, void *array, size_t count, size_t *room, size_t bytes, void **grown) {
  *grown = array;
  if (count < *room) return EK_OK;
  const size_t wanted = *room ? *room * 2 : 64;
  if (wanted > SIZE_MAX / 2 / bytes || !(*grown = realloc(array, wanted * bytes))) {
    *grown = array;
    return ek_fail_plain(EK_NO_MEMORY, file->path);
  }
  *room = wanted;
  return EK_OK;
}

/* --- keys and values --- */

/* Past the `count` values at the cursor, all of them checked. */
static ek_status skip_values(cursor *c, const ek_gguf_pair *pair, uint64_t count) {
  char shown[EK_PRINTABLE];
  const size_t bytes = ek_gguf_kind_bytes(pair->kind);
  if (pair->kind == EK_GGUF_string) {
    for (uint64_t i = 0; i < count; i++) {
      ek_text text;
      TRY(take_text(c, &text));
    }
    return EK_OK;
  }
  if (count > c->file->size / bytes) {
    return ek_gguf_bad(c->file, "the array '%s' is longer than the file", printable(pair->key, shown));
  }
  TRY(need(c, count * bytes));
  const uint8_t *at = c->file->bytes + c->at;
  for (uint64_t i = 0; pair->kind == EK_GGUF_bool && i < count; i++) {
    if (at[i] > 1)
      return ek_gguf_bad(c->file, "a value of '%s' is neither true nor false", printable(pair->key, shown));
  }
  c->at += (size_t)(count * bytes);
  return EK_OK;
}

static ek_status take_pair(cursor *c, ek_gguf_pair *pair) {
  char shown[EK_PRINTABLE];
  uint64_t kind, count = 1;
  TRY(take_name(c, &pair->key));
  TRY(take(c, 4, &kind));
  pair->is_array = kind == EK_GGUF_array;
  if (pair->is_array) {
    TRY(take(c, 4, &kind));
    TRY(take(c, 8, &count));
  }
  if (kind != EK_GGUF_string && ek_gguf_kind_bytes((uint32_t)kind) == 0) {
    return ek_gguf_bad(c->file, "'%s' has values of the unknown type %u", printable(pair->key, shown), (unsigned)kind);
  }
  pair->kind = (enum ek_gguf_kind)kind;
  pair->at = c->file->bytes + c->at;
  TRY(skip_values(c, pair, count));
  pair->count = (size_t)count; /* each is a byte of the file at least */
  return EK_OK;
}

static int compare_pairs(const void *a, const void *b) {
  return ek_text_compare(((const ek_gguf_pair *)a)->key, ((const ek_gguf_pair *)b)->key);
}

static ek_status take_pairs(cursor *c, uint64_t count) {
  ek_gguf *file = c->file;
  for (uint64_t i = 0; i < count; i++) {
    void *grown;
    TRY(grow(file, file->pairs, file->pair_count, &file->pair_room, sizeof *file->pairs, &grown));
    file->pairs = grown;
    TRY(take_pair(c, &file->pairs[file->pair_count]));
    file->pair_count++;
  }
  if (file->pair_count) qsort(file->pairs, file->pair_count, sizeof *file->pairs, compare_pairs);
  for (size_t i = 1; i < file->pair_count; i++) {
    if (compare_pairs(&file->pairs[i - 1], &file->pairs[i]) == 0) {
      char shown[EK_PRINTABLE];
      return ek_gguf_bad(file, "the key '%s' is there twice", printable(file->pairs[i].key, shown));
    }
  }
  return EK_OK;
}

/* --- tensors --- */

/* ggml's number of a type; none: EK_TYPES. */
static enum ek_type type_of(uint64_t number) {
  static const uint8_t numbers[EK_TYPES] = {
      [EK_TYPE_f32] = 0,   [EK_TYPE_f16] = 1,   [EK_TYPE_bf16] = 30, [EK_TYPE_q8_0] = 8,
      [EK_TYPE_q4_0] = 2,  [EK_TYPE_q4_1] = 3,  [EK_TYPE_q5_0] = 6,  [EK_TYPE_q5_1] = 7,
      [EK_TYPE_q4_k] = 12, [EK_TYPE_q5_k] = 13, [EK_TYPE_q6_k] = 14, [EK_TYPE_iq4_nl] = 20,
  };
  for (int type = 0; type < EK_TYPES; type++) {
    if (numbers[type] == number) return (enum ek_type)type;
  }
  return EK_TYPES;
}

/* Bytes of a tensor's data. */
static ek_status measure(const ek_gguf *file, ek_gguf_tensor *tensor, const char *name) {
  uint64_t weights = 1, bytes;
  for (int i = 0; i < 4; i++) {
    if (tensor->sizes[i] == 0) return ek_gguf_bad(file, "the tensor '%s' has a size of 0", name);
    if (__builtin_mul_overflow(weights, tensor->sizes[i], &weights) || weights > INT64_MAX) {
      return ek_gguf_bad(file, "the tensor '%s' has more weights than can be counted", name);
    }
  }
  tensor->bytes = 0;
  if (tensor->type == EK_TYPES) return EK_OK;
  const ek_format *format = &ek_formats[tensor->type];
  const uint64_t block = (uint64_t)format->block;
  if (tensor->sizes[0] % block != 0) {
    return ek_gguf_bad(file, "rows of the tensor '%s' are %llu long, which is no multiple of the %d of %s", name,
                       (unsigned long long)tensor->sizes[0], format->block, format->name);
  }
  if (__builtin_mul_overflow(weights / block, (uint64_t)format->block_bytes, &bytes) || bytes > file->size) {
    return ek_gguf_bad(file, "the tensor '%s' is larger than the file: it is cut short or damaged", name);
  }
  tensor->bytes = (size_t)bytes;
  return EK_OK;
}

static ek_status take_tensor(cursor *c, ek_gguf_entry *entry) {
  ek_gguf_tensor *tensor = &entry->tensor;
  char shown[EK_PRINTABLE];
  uint64_t dimensions, number;
  TRY(take_name(c, &tensor->name));
  const char *name = printable(tensor->name, shown);
  TRY(take(c, 4, &dimensions));
  if (dimensions < 1 || dimensions > 4) {
    return ek_gguf_bad(c->file, "the tensor '%s' has %u dimensions, not 1 to 4", name, (unsigned)dimensions);
  }
  tensor->dimensions = (uint32_t)dimensions;
  for (uint32_t i = 0; i < 4; i++) {
    tensor->sizes[i] = 1;
    if (i < tensor->dimensions) TRY(take(c, 8, &tensor->sizes[i]));
  }
  TRY(take(c, 4, &number));
  if (number > INT32_MAX)
    return ek_gguf_bad(c->file, "the tensor '%s' has the unknown type %u", name, (unsigned)number);
  tensor->ggml_type = (int)number;
  tensor->type = type_of(number);
  TRY(measure(c->file, tensor, name));
  return take(c, 8, &entry->offset);
}

static int compare_names(const void *a, const void *b) {
  return ek_text_compare((*(const ek_gguf_tensor *const *)a)->name, (*(const ek_gguf_tensor *const *)b)->name);
}

/* Those without bytes, of types that are not ours, come before others at the same place. */
static int compare_places(const void *a, const void *b) {
  const ek_gguf_tensor *x = *(const ek_gguf_tensor *const *)a, *y = *(const ek_gguf_tensor *const *)b;
  if (x->data != y->data) return x->data < y->data ? -1 : 1;
  return (x->bytes > y->bytes) - (x->bytes < y->bytes);
}

static ek_status check_tensors(ek_gguf *file) {
  const size_t count = file->tensor_count;
  char shown[EK_PRINTABLE];
  if (count == 0) return EK_OK;
  if (!(file->by_name = malloc(count * sizeof *file->by_name))) return ek_fail_plain(EK_NO_MEMORY, file->path);
  for (size_t i = 0; i < count; i++) file->by_name[i] = &file->tensors[i].tensor;
  qsort(file->by_name, count, sizeof *file->by_name, compare_places);
  for (size_t i = 1; i < count; i++) {
    const ek_gguf_tensor *before = file->by_name[i - 1], *tensor = file->by_name[i];
    if ((size_t)(tensor->data - before->data) < before->bytes) {
      return ek_gguf_bad(file, "the tensor '%s' overlaps another", printable(tensor->name, shown));
    }
  }
  qsort(file->by_name, count, sizeof *file->by_name, compare_names);
  for (size_t i = 1; i < count; i++) {
    if (compare_names(&file->by_name[i - 1], &file->by_name[i]) == 0) {
      return ek_gguf_bad(file, "the tensor '%s' is there twice", printable(file->by_name[i]->name, shown));
    }
  }
  return EK_OK;
}

static ek_status take_tensors(cursor *c, uint64_t count) {
  ek_gguf *file = c->file;
  for (uint64_t i = 0; i < count; i++) {
    void *grown;
    TRY(grow(file, file->tensors, file->tensor_count, &file->tensor_room, sizeof *file->tensors, &grown));
    file->tensors = grown;
    TRY(take_tensor(c, &file->tensors[file->tensor_count]));
    file->tensor_count++;
  }
  return EK_OK;
}

/* Finds where their data is; the cursor is at the header's end. */
static ek_status place_tensors(const cursor *c, uint64_t alignment) {
  ek_gguf *file = c->file;
  const uint64_t left = file->size - c->at, padding = -(uint64_t)c->at & (alignment - 1);
  for (size_t i = 0; i < file->tensor_count; i++) {
    ek_gguf_tensor *tensor = &file->tensors[i].tensor;
    const uint64_t offset = file->tensors[i].offset;
    char shown[EK_PRINTABLE];
    if (offset & (alignment - 1)) {
      return ek_gguf_bad(file, "the tensor '%s' is not aligned to %llu bytes", printable(tensor->name, shown),
                         (unsigned long long)alignment);
    }
    if (padding > left || offset > left - padding || tensor->bytes > left - padding - offset) {
      return ek_gguf_bad(file, "the tensor '%s' lies beyond its end: it is cut short or damaged",
                         printable(tensor->name, shown));
    }
    tensor->data = file->bytes + c->at + (size_t)(padding + offset);
  }
  return EK_OK;
}

/* --- all of it --- */

ek_status ek_gguf_read_header(ek_gguf *file) {
  cursor c = {file, 0};
  uint64_t version, tensors, pairs, alignment = DEFAULT_ALIGNMENT;
  if (file->size < 4 || memcmp(file->bytes, "GGUF", 4) != 0) return ek_gguf_bad(file, "it does not begin with 'GGUF'");
  c.at = 4;
  TRY(take(&c, 4, &version));
  if (version == 2u << 24 || version == 3u << 24) return ek_gguf_bad(file, "it was written for big-endian machines");
  if (version != 2 && version != 3) return ek_gguf_bad(file, "its version %u is neither 2 nor 3", (unsigned)version);
  TRY(take(&c, 8, &tensors));
  TRY(take(&c, 8, &pairs));
  TRY(take_pairs(&c, pairs));
  TRY(take_tensors(&c, tensors));
  const int found = ek_gguf_uint(file, "general.alignment", &alignment);
  if (found < 0 || alignment == 0 || (alignment & (alignment - 1))) {
    return ek_gguf_bad(file, "'general.alignment' is not a power of two");
  }
  TRY(place_tensors(&c, alignment));
  return check_tensors(file);
}
