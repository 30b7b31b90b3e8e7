/* What gguf.c and gguf_values.c share: a file whose header has been checked. */
#ifndef EK_GGUF_FILE_H
#define EK_GGUF_FILE_H

#include "gguf/gguf.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The file's numbers. */
enum ek_gguf_kind {
  EK_GGUF_u8,
  EK_GGUF_i8,
  EK_GGUF_u16,
  EK_GGUF_i16,
  EK_GGUF_u32,
  EK_GGUF_i32,
  EK_GGUF_f32,
  EK_GGUF_bool,
  EK_GGUF_string,
  EK_GGUF_array,
  EK_GGUF_u64,
  EK_GGUF_i64,
  EK_GGUF_f64,
  EK_GGUF_KINDS
};

/* A key and its value, or the `count` elements of its array: one after the other from `at`, in the file. */
typedef struct ek_gguf_pair {
  ek_text key;
  enum ek_gguf_kind kind; /* of an element; never array */
  int is_array;
  size_t count; /* 1 where it is no array */
  const uint8_t *at;
} ek_gguf_pair;

/* A tensor and where it begins, counted from the beginning of the data. */
typedef struct ek_gguf_entry {
  ek_gguf_tensor tensor;
  uint64_t offset;
} ek_gguf_entry;

struct ek_gguf {
  char *path;
  const uint8_t *bytes;
  size_t size;
  int mapped;
  ek_gguf_pair *pairs; /* sorted by key */
  size_t pair_count, pair_room;
  ek_gguf_entry *tensors; /* in the file's order */
  size_t tensor_count, tensor_room;
  const ek_gguf_tensor **by_name; /* sorted */
};

/* Fills in a file whose bytes and path are there. Memory allocated before a failure is the file's, too. */
ek_status ek_gguf_read_header(ek_gguf *file);

/* EK_BAD_FILE with a sentence about the file that says what is wrong with it. */
ek_status ek_gguf_bad(const ek_gguf *file, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Of the kinds of a fixed size; 0 for strings, arrays and what is none. */
size_t ek_gguf_kind_bytes(uint32_t kind);

/* Little-endian, of 1 to 8 bytes. */
uint64_t ek_gguf_number(const uint8_t *at, size_t bytes);

/* As memcmp; a text that another begins with comes before it. */
int ek_text_compare(ek_text a, ek_text b);

#ifdef __cplusplus
}
#endif

#endif
