#include "gguf_variants.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A file is a list of fields. Numbers are of 1, 2, 4 or 8 bytes; 0: a text. */
typedef struct field {
  const char *label;
  int width;
  uint64_t number;
  const char *text;
} field;

#define TEXT_FIELD(label, text)                                                                                        \
  {label ".length", 8, sizeof(text) - 1, NULL}, { label, 0, sizeof(text) - 1, text }
#define KEY(label, kind)                                                                                               \
  TEXT_FIELD(label, label), { label ".type", 4, kind, NULL }
#define ARRAY(label, element, count)                                                                                   \
  KEY(label, 9), {label ".element", 4, element, NULL}, { label ".count", 8, count, NULL }

static const field good[] = {
    {"magic", 0, 4, "GGUF"},
    {"version", 4, 3, NULL},
    {"tensors", 8, 3, NULL},
    {"pairs", 8, 13, NULL},
    KEY("general.architecture", 8),
    TEXT_FIELD("architecture", "llama"),
    KEY("general.alignment", 4),
    {"alignment", 4, 64, NULL},
    KEY("x.bool", 7),
    {"bool", 1, 1, NULL},
    KEY("x.f32", 6),
    {"f32", 4, 0x3fc00000, NULL},
    KEY("x.f64", 12),
    {"f64", 8, 0x4004000000000000, NULL},
    KEY("x.u8", 0),
    {"u8", 1, 200, NULL},
    KEY("x.i16", 3),
    {"i16", 2, 0xfff9, NULL},
    KEY("x.i64", 11),
    {"i64", 8, 1ull << 40, NULL},
    KEY("x.i32", 5),
    {"i32", 4, 0xffffffff, NULL},
    KEY("x.u64", 10),
    {"u64", 8, 1ull << 63, NULL},
    ARRAY("x.texts", 8, 3),
    TEXT_FIELD("text 0", "ab"),
    TEXT_FIELD("text 1", ""),
    TEXT_FIELD("text 2", "c"),
    ARRAY("x.u16s", 2, 3),
    {"u16 0", 2, 1, NULL},
    {"u16 1", 2, 2, NULL},
    {"u16 2", 2, 60000, NULL},
    ARRAY("x.bools", 7, 2),
    {"bool 0", 1, 1, NULL},
    {"bool 1", 1, 0, NULL},
    TEXT_FIELD("a", "tensor.a"),
    {"a.dimensions", 4, 2, NULL},
    {"a.0", 8, 32, NULL},
    {"a.1", 8, 2, NULL},
    {"a.type", 4, 8, NULL},
    {"a.offset", 8, 0, NULL},
    TEXT_FIELD("b", "tensor.b"),
    {"b.dimensions", 4, 1, NULL},
    {"b.0", 8, 5, NULL},
    {"b.type", 4, 0, NULL},
    {"b.offset", 8, 128, NULL},
    TEXT_FIELD("c", "tensor.c"),
    {"c.dimensions", 4, 4, NULL},
    {"c.0", 8, 256, NULL},
    {"c.1", 8, 1, NULL},
    {"c.2", 8, 1, NULL},
    {"c.3", 8, 2, NULL},
    {"c.type", 4, 12, NULL},
    {"c.offset", 8, 192, NULL},
};
enum { FIELDS = sizeof good / sizeof *good };

static size_t find_field(const char *label) {
  size_t i = 0;
  while (i < FIELDS && strcmp(good[i].label, label) != 0) i++;
  if (i == FIELDS) {
    fprintf(stderr, "no field %s\n", label);
    exit(1);
  }
  return i;
}

size_t gguf_variant_write(const gguf_change *changes, size_t count, uint8_t out[GGUF_MOST_BYTES]) {
  field fields[FIELDS];
  size_t size = 0, alignment = 64;
  memcpy(fields, good, sizeof good);
  for (size_t i = 0; i < count && changes[i].label; i++) {
    field *changed = &fields[find_field(changes[i].label)];
    changed->number = changes[i].number;
    if (changes[i].text) changed->text = changes[i].text;
  }
  for (size_t i = 0; i < FIELDS; i++) {
    const field *f = &fields[i];
    if (f->width == 0) memcpy(out + size, f->text, (size_t)f->number);
    for (int b = 0; b < f->width; b++) out[size + (size_t)b] = (uint8_t)(f->number >> 8 * b);
    size += f->width ? (size_t)f->width : (size_t)f->number;
  }
  for (; size % alignment; size++) out[size] = 0;
  for (size_t i = 0; i < GGUF_DATA_BYTES; i++) out[size++] = (uint8_t)i;
  return size;
}

/* Unusual, but right. */
const gguf_variant gguf_unusual[] = {
    {{{"version", 2, NULL}}, ""},
    {{{"bool", 0, NULL}}, ""},
    {{{"alignment", 32, NULL}}, ""},
    {{{"general.alignment", 17, "general.alignmenx"}, {"b.offset", 96, NULL}}, ""}, /* the default of 32 */
    {{{"a.type", 10, NULL}}, ""},                                                   /* a type that is not ours */
    {{{"a.type", 1000, NULL}, {"a.offset", 192, NULL}}, ""},                        /* its bytes are not known */
    {{{"a.offset", 192, NULL}, {"c.offset", 0, NULL}, {"b.offset", 320, NULL}}, "overlaps"},
    {{{"a.offset", 448, NULL}, {"c.offset", 0, NULL}, {"b.offset", 320, NULL}}, "beyond its end"},
    {{{"a.offset", 384, NULL}, {"c.offset", 0, NULL}, {"b.offset", 320, NULL}}, ""}, /* in another order */
    {{{"x.texts", 7, "x.texta"}}, ""},
    {{{NULL, 0, NULL}}, NULL},
};

static const char ends[] = "ends within its header", placed[] = "beyond its end", kinds[] = "unknown type";
static const char unprintable[] = "is not printable", power[] = "power of two", count[] = "more weights than";

const gguf_variant gguf_malformed[] = {
    {{{"magic", 4, "GGUX"}}, "begin with 'GGUF'"},
    {{{"magic", 4, "gguf"}}, "begin with 'GGUF'"},
    {{{"magic", 4, "FUGG"}}, "begin with 'GGUF'"},
    {{{"version", 0, NULL}}, "version 0"},
    {{{"version", 1, NULL}}, "version 1"},
    {{{"version", 4, NULL}}, "version 4"},
    {{{"version", 0x03000000, NULL}}, "big-endian"},
    {{{"version", 0x02000000, NULL}}, "big-endian"},
    {{{"version", 0xffffffff, NULL}}, "version 4294967295"},
    {{{"tensors", 4, NULL}}, "is empty"}, /* the padding */
    {{{"tensors", 1ull << 32, NULL}}, "is empty"},
    {{{"tensors", UINT64_MAX, NULL}}, "is empty"},
    {{{"pairs", 12, NULL}}, "dimensions, not 1 to 4"}, /* x.bools as a tensor */
    {{{"pairs", 14, NULL}}, ends},                     /* tensor.a as a key: a huge array of... */
    {{{"pairs", 1ull << 63, NULL}}, ends},
    {{{"pairs", UINT64_MAX, NULL}}, ends},
    {{{"pairs", 0, NULL}, {"tensors", 20, NULL}}, "dimensions, not 1 to 4"},
    {{{"general.architecture.length", 0, NULL}}, "is empty"},
    {{{"general.architecture.length", 19, NULL}}, kinds},
    {{{"general.architecture.length", 1025, NULL}}, ends},
    {{{"general.architecture.length", 1ull << 32, NULL}}, ends},
    {{{"general.architecture.length", 1ull << 63, NULL}}, ends},
    {{{"general.architecture.length", UINT64_MAX, NULL}}, ends},
    {{{"general.architecture.length", UINT64_MAX - 31, NULL}}, ends},
    {{{"general.architecture.length", 21, NULL}}, unprintable},
    {{{"general.architecture", 20, "general\narchitecture"}}, unprintable},
    {{{"general.architecture", 20, "general\0architecture"}}, unprintable},
    {{{"general.architecture", 20,
       "general\x7f"
       "architecture"}},
     unprintable},
    {{{"general.architecture", 20, "\xff\xfegeneralarchitectu"}}, unprintable},
    {{{"general.architecture", 20, "g\xc3\xa4neralarchitecture"}}, unprintable},
    {{{"general.architecture", 20, "\x1b[31marchitecture123"}}, unprintable},
    {{{"general.architecture.type", 13, NULL}}, kinds},
    {{{"general.architecture.type", 14, NULL}}, kinds},
    {{{"general.architecture.type", 256, NULL}}, kinds},
    {{{"general.architecture.type", 0xffffffff, NULL}}, kinds},
    {{{"general.architecture.type", 0x80000008, NULL}}, kinds},
    {{{"general.architecture.type", 9, NULL}}, "longer than the file"}, /* an array of int32 */
    {{{"architecture.length", 1ull << 62, NULL}}, ends},
    {{{"architecture.length", UINT64_MAX, NULL}}, ends},
    {{{"architecture.length", UINT64_MAX - 63, NULL}}, ends},
    {{{"architecture.length", 1000000, NULL}}, ends},
    {{{"general.alignment.type", 6, NULL}}, power},
    {{{"general.alignment.type", 8, NULL}}, ends},
    {{{"general.alignment.type", 7, NULL}}, "neither true nor false"},
    {{{"general.alignment.type", 5, NULL}, {"alignment", 0x80000000, NULL}}, power},
    {{{"alignment", 0, NULL}}, power},
    {{{"alignment", 3, NULL}}, power},
    {{{"alignment", 48, NULL}}, power},
    {{{"alignment", 0xffffffff, NULL}}, power},
    {{{"alignment", 0x80000000, NULL}}, placed},
    {{{"alignment", 256, NULL}}, "is not aligned to 256"},
    {{{"alignment", 0x80000000, NULL}, {"b.offset", 0x80000000, NULL}, {"c.offset", 0, NULL}}, placed},
    {{{"bool", 2, NULL}}, "'x.bool' is neither true nor false"},
    {{{"bool", 255, NULL}}, "'x.bool' is neither true nor false"},
    {{{"bool 0", 3, NULL}}, "'x.bools' is neither true nor false"},
    {{{"bool 1", 128, NULL}}, "'x.bools' is neither true nor false"},
    {{{"x.f32", 5, "x.f64"}}, "'x.f64' is there twice"},
    {{{"x.f32", 5, "x.i64"}}, "'x.i64' is there twice"},
    {{{"x.u16s", 6, "x.bool"}}, "'x.bool' is there twice"},
    {{{"x.texts.type", 8, NULL}}, ends},
    {{{"x.texts.element", 9, NULL}}, kinds}, /* arrays of arrays */
    {{{"x.texts.element", 13, NULL}}, kinds},
    {{{"x.texts.element", 0xffffffff, NULL}}, kinds},
    {{{"x.texts.element", 12, NULL}, {"x.texts.count", 1ull << 61, NULL}}, "longer than the file"},
    {{{"x.texts.element", 12, NULL}, {"x.texts.count", (1ull << 61) + 1, NULL}}, "longer than the file"},
    {{{"x.texts.element", 0, NULL}, {"x.texts.count", UINT64_MAX, NULL}}, "longer than the file"},
    {{{"x.texts.count", 4, NULL}}, ends},
    {{{"x.texts.count", 1ull << 32, NULL}}, ends},
    {{{"x.texts.count", UINT64_MAX, NULL}}, ends},
    {{{"text 0.length", 3, NULL}}, ends},
    {{{"text 1.length", 1ull << 63, NULL}}, ends},
    {{{"text 2.length", UINT64_MAX - 7, NULL}}, ends},
    {{{"x.u16s.count", 1ull << 63, NULL}}, "'x.u16s' is longer than the file"},
    {{{"x.u16s.count", UINT64_MAX, NULL}}, "'x.u16s' is longer than the file"},
    {{{"x.u16s.count", UINT64_MAX / 2 + 2, NULL}}, "'x.u16s' is longer than the file"},
    {{{"x.u16s.count", 5000, NULL}}, "'x.u16s' is longer than the file"},
    {{{"x.u16s.count", 500, NULL}}, ends},
    {{{"x.bools.count", 1ull << 40, NULL}}, "'x.bools' is longer than the file"},
    {{{"x.bools.count", 1000, NULL}}, ends},
    {{{"a.length", 0, NULL}}, "is empty"},
    {{{"a.length", 1ull << 63, NULL}}, ends},
    {{{"a.length", UINT64_MAX, NULL}}, ends},
    {{{"a.length", 7, NULL}}, "dimensions, not 1 to 4"},
    {{{"a.length", 9, NULL}}, unprintable},
    {{{"a", 8, "tensor\t."}}, unprintable},
    {{{"a", 8, "tens\xe2\x80\xaex"}}, unprintable},
    {{{"a", 8, "tensor.b"}}, "'tensor.b' is there twice"},
    {{{"c", 8, "tensor.a"}}, "'tensor.a' is there twice"},
    {{{"a.dimensions", 0, NULL}}, "'tensor.a' has 0 dimensions"},
    {{{"a.dimensions", 5, NULL}}, "'tensor.a' has 5 dimensions"},
    {{{"a.dimensions", 0xffffffff, NULL}}, "'tensor.a' has 4294967295 dimensions"},
    {{{"a.dimensions", 0x80000002, NULL}}, "'tensor.a' has 2147483650 dimensions"},
    {{{"c.dimensions", 3, NULL}}, placed}, /* the sizes shift */
    {{{"a.0", 0, NULL}}, "'tensor.a' has a size of 0"},
    {{{"a.1", 0, NULL}}, "'tensor.a' has a size of 0"},
    {{{"c.3", 0, NULL}}, "'tensor.c' has a size of 0"},
    {{{"a.0", 33, NULL}}, "'tensor.a' are 33 long, which is no multiple of the 32 of q8_0"},
    {{{"a.0", 1, NULL}}, "no multiple of the 32"},
    {{{"c.0", 128, NULL}, {"c.1", 2, NULL}}, "no multiple of the 256 of q4_k"},
    {{{"a.0", 1ull << 63, NULL}}, count},
    {{{"a.0", UINT64_MAX - 31, NULL}}, count},
    {{{"a.0", 1ull << 32, NULL}, {"a.1", 1ull << 32, NULL}}, count},
    {{{"a.0", 1ull << 32, NULL}, {"a.1", 1ull << 31, NULL}}, count},
    {{{"a.1", UINT64_MAX, NULL}}, count},
    {{{"c.1", 1ull << 28, NULL}, {"c.2", 1ull << 28, NULL}}, count},
    {{{"b.0", 1ull << 62, NULL}}, "'tensor.b' is larger than the file"}, /* 2^64 bytes */
    {{{"b.0", (1ull << 62) + 5, NULL}}, "'tensor.b' is larger than the file"},
    {{{"b.0", 1ull << 61, NULL}}, "'tensor.b' is larger than the file"},
    {{{"a.1", 1ull << 57, NULL}}, "'tensor.a' is larger than the file"},
    {{{"a.1", 100, NULL}}, "'tensor.a' is larger than the file"},
    {{{"b.0", 100, NULL}}, "'tensor.b' lies beyond its end"},
    {{{"a.type", 0x80000000, NULL}}, kinds},
    {{{"a.type", 0xffffffff, NULL}}, kinds},
    {{{"a.type", 14, NULL}}, "no multiple of the 256 of q6_k"},
    {{{"a.type", 0, NULL}}, "overlaps"},
    {{{"a.offset", 1, NULL}}, "'tensor.a' is not aligned to 64"},
    {{{"a.offset", 32, NULL}}, "'tensor.a' is not aligned to 64"},
    {{{"b.offset", 127, NULL}}, "'tensor.b' is not aligned to 64"},
    {{{"b.offset", 512, NULL}}, placed},
    {{{"b.offset", 1ull << 32, NULL}}, placed},
    {{{"b.offset", 1ull << 63, NULL}}, placed},
    {{{"b.offset", UINT64_MAX - 63, NULL}}, placed},
    {{{"c.offset", 256, NULL}}, placed},
    {{{"c.offset", UINT64_MAX - 255, NULL}}, placed},
    {{{"b.offset", 0, NULL}}, "overlaps"},
    {{{"b.offset", 64, NULL}}, "overlaps"},
    {{{"c.offset", 128, NULL}}, "overlaps"},
    {{{"c.offset", 64, NULL}}, "overlaps"},
    {{{"a.offset", 192, NULL}}, "overlaps"},
    {{{"a.offset", 384, NULL}}, "overlaps"},
    {{{"a.type", 1000, NULL}, {"a.offset", 1ull << 40, NULL}}, placed},
    {{{NULL, 0, NULL}}, NULL},
};
