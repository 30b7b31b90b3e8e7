/* A GGUF file (ggml's docs/gguf.md, versions 2 and 3), mapped; every count, length and offset in its header is checked
 * against the file's size, and against overflow, before it is used. */
#ifndef EK_GGUF_H
#define EK_GGUF_H

#include "error.h"
#include "format.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ek_gguf ek_gguf;

/* Text in the mapped file, not ended by a zero byte. */
typedef struct ek_text {
  const char *bytes;
  size_t length;
} ek_text;

typedef struct ek_gguf_tensor {
  ek_text name;
  uint32_t dimensions; /* 1 .. 4 */
  uint64_t sizes[4];   /* GGUF's order: sizes[0] is the row's length; those not there are 1 */
  int ggml_type;       /* the file's number */
  enum ek_type type;   /* EK_TYPES where it is none of ours */
  const uint8_t *data; /* in the file; aligned to what the file promises only */
  size_t bytes;        /* 0 where type is EK_TYPES */
} ek_gguf_tensor;

/* Maps a file and checks its whole header: magic, version, sizes, types, duplicate keys and tensors, alignment, that
 * every tensor lies in the file and none overlaps another. EK_CANNOT_READ, EK_BAD_FILE, EK_NO_MEMORY. */
ek_status ek_gguf_open(const char *path, ek_gguf **file);
/* The same of bytes in memory that outlive it; `path` is for messages. */
ek_status ek_gguf_read(const uint8_t *bytes, size_t size, const char *path, ek_gguf **file);
void ek_gguf_close(ek_gguf *file);

const char *ek_gguf_path(const ek_gguf *file);
size_t ek_gguf_size(const ek_gguf *file);
size_t ek_gguf_count(const ek_gguf *file); /* of tensors */
const ek_gguf_tensor *ek_gguf_at(const ek_gguf *file, size_t index);
const ek_gguf_tensor *ek_gguf_find(const ek_gguf *file, const char *name); /* NULL: not there */

/* Values by key; 1 where it is there with a type that fits (any integer that is in range, float32 or float64, bool), 0
 * where it is not there, -1 where its type or range is wrong. *value is written only for 1. */
int ek_gguf_text(const ek_gguf *file, const char *key, ek_text *value);
int ek_gguf_uint(const ek_gguf *file, const char *key, uint64_t *value);
int ek_gguf_float(const ek_gguf *file, const char *key, double *value);
int ek_gguf_bool(const ek_gguf *file, const char *key, int *value);
/* Of an array of integers or bools: *count elements, element `index`. A scalar is an array of one. */
int ek_gguf_uints(const ek_gguf *file, const char *key, size_t index, uint64_t *value, size_t *count);

/* Tells the system that a tensor's pages are not needed for now; reading them again reads the file again. */
void ek_gguf_release(const ek_gguf *file, const ek_gguf_tensor *tensor);

#ifdef __cplusplus
}
#endif

#endif
