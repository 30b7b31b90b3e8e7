/* A GGUF file, field by field, and what may be wrong with it. */
#ifndef EK_GGUF_VARIANTS_H
#define EK_GGUF_VARIANTS_H

#include <stddef.h>
#include <stdint.h>

/* A field gets a new number (text NULL), or a new text of `number` bytes. */
typedef struct gguf_change {
  const char *label;
  uint64_t number;
  const char *text;
} gguf_change;

typedef struct gguf_variant {
  gguf_change changes[3];
  const char *sentence; /* part of it; "": it is a right file */
} gguf_variant;

enum { GGUF_CHANGES = 3, GGUF_DATA_BYTES = 480, GGUF_MOST_BYTES = 1 << 14 };

/* Ended by one without a sentence. */
extern const gguf_variant gguf_unusual[], gguf_malformed[];

/* A good file with up to `count` changes, which end where there is no label; its size. The data is byte after byte
 * 0, 1, 2, ... Exits where there is no such field. */
size_t gguf_variant_write(const gguf_change *changes, size_t count, uint8_t out[GGUF_MOST_BYTES]);

#endif
