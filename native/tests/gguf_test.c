/* The reader of GGUF files: what a good file gives; every malformed variant of it, each refused with its own sentence;
 * every truncation, every changed byte and random changes end in a status, with nothing read beside the file. */
#include "gguf/gguf.h"

#include "check.h"
#include "gguf_variants.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* In memory that ends or begins at a page that cannot be touched. */
static ek_status read_guarded(const uint8_t *bytes, size_t size, check_place place, check_buffer *buffer,
                              ek_gguf **file) {
  *buffer = check_buffer_new(size, 1, place);
  if (size) memcpy(buffer->data, bytes, size);
  check_buffer_seal(buffer);
  *file = NULL;
  return ek_gguf_read(buffer->data, size, "test.gguf", file);
}

/* --- a good file --- */

static int is_text(ek_text text, const char *expected) {
  return text.length == strlen(expected) && memcmp(text.bytes, expected, text.length) == 0;
}

static void check_uint(const ek_gguf *file, const char *key, int found, uint64_t expected) {
  uint64_t value = 77;
  const int result = ek_gguf_uint(file, key, &value);
  if (result != found || value != (found == 1 ? expected : 77)) check_fail("%s: %d, %" PRIu64, key, result, value);
}

static void check_values(const ek_gguf *file) {
  ek_text text;
  double number = 77;
  int yes = 77;
  CHECK(ek_gguf_text(file, "general.architecture", &text) == 1 && is_text(text, "llama"));
  CHECK(ek_gguf_text(file, "x.u8", &text) == -1 && ek_gguf_text(file, "x.texts", &text) == -1);
  CHECK(ek_gguf_text(file, "x.u", &text) == 0 && ek_gguf_text(file, "", &text) == 0);
  check_uint(file, "general.alignment", 1, 64);
  check_uint(file, "x.u8", 1, 200);
  check_uint(file, "x.i16", -1, 0);
  check_uint(file, "x.i32", -1, 0);
  check_uint(file, "x.i64", 1, 1ull << 40);
  check_uint(file, "x.u64", 1, 1ull << 63);
  check_uint(file, "x.f32", -1, 0);
  check_uint(file, "x.bool", -1, 0);
  check_uint(file, "x.u16s", -1, 0);
  check_uint(file, "x.none", 0, 0);
  CHECK(ek_gguf_float(file, "x.u8", &number) == -1 && ek_gguf_float(file, "x.none", &number) == 0 && number == 77);
  CHECK(ek_gguf_float(file, "x.f32", &number) == 1 && number == 1.5);
  CHECK(ek_gguf_float(file, "x.f64", &number) == 1 && number == 2.5);
  CHECK(ek_gguf_bool(file, "x.u8", &yes) == -1 && ek_gguf_bool(file, "x.bools", &yes) == -1 && yes == 77);
  CHECK(ek_gguf_bool(file, "x.bool", &yes) == 1 && yes == 1);
}

static void check_arrays(const ek_gguf *file) {
  static const uint64_t numbers[] = {1, 2, 60000}, flags[] = {1, 0};
  uint64_t value = 77;
  size_t count = 0;
  for (size_t i = 0; i < 3; i++) {
    CHECK(ek_gguf_uints(file, "x.u16s", i, &value, &count) == 1 && value == numbers[i] && count == 3);
  }
  for (size_t i = 0; i < 2; i++) {
    CHECK(ek_gguf_uints(file, "x.bools", i, &value, &count) == 1 && value == flags[i] && count == 2);
  }
  CHECK(ek_gguf_uints(file, "x.u16s", 3, &value, &count) == -1 &&
        ek_gguf_uints(file, "x.texts", 0, &value, &count) == -1);
  CHECK(ek_gguf_uints(file, "x.u8", 0, &value, &count) == 1 && value == 200 && count == 1);
  CHECK(ek_gguf_uints(file, "x.i16", 0, &value, &count) == -1 && ek_gguf_uints(file, "x.none", 0, &value, &count) == 0);
}

static void check_tensor(const ek_gguf *file, const char *name, uint32_t dimensions, const uint64_t sizes[4],
                         enum ek_type type, size_t bytes, int first_byte) {
  const ek_gguf_tensor *tensor = ek_gguf_find(file, name);
  CHECK(tensor != NULL);
  if (!tensor) return;
  CHECK(is_text(tensor->name, name) && tensor->dimensions == dimensions && tensor->type == type);
  CHECK(memcmp(tensor->sizes, sizes, sizeof tensor->sizes) == 0);
  CHECK(tensor->bytes == bytes && tensor->data[0] == first_byte);
}

static void check_good(const ek_gguf *file, size_t size) {
  check_values(file);
  check_arrays(file);
  CHECK(ek_gguf_size(file) == size && ek_gguf_count(file) == 3);
  check_tensor(file, "tensor.a", 2, (uint64_t[4]){32, 2, 1, 1}, EK_TYPE_q8_0, 68, 0);
  check_tensor(file, "tensor.b", 1, (uint64_t[4]){5, 1, 1, 1}, EK_TYPE_f32, 20, 128);
  check_tensor(file, "tensor.c", 4, (uint64_t[4]){256, 1, 1, 2}, EK_TYPE_q4_k, 288, 192);
  CHECK(is_text(ek_gguf_at(file, 0)->name, "tensor.a") && is_text(ek_gguf_at(file, 2)->name, "tensor.c"));
  CHECK(!ek_gguf_find(file, "tensor") && !ek_gguf_find(file, "tensor.d") && !ek_gguf_find(file, ""));
}

static void test_good(void) {
  static uint8_t bytes[GGUF_MOST_BYTES];
  const size_t size = gguf_variant_write(NULL, 0, bytes);
  for (int place = 0; place < CHECK_PLACES; place++) {
    check_buffer buffer;
    ek_gguf *file;
    check_case("a good file, place %d", place);
    if (read_guarded(bytes, size, (check_place)place, &buffer, &file) != EK_OK) {
      check_fail("%s", ek_last_error());
    } else {
      check_good(file, size);
      CHECK(strcmp(ek_gguf_path(file), "test.gguf") == 0);
      ek_gguf_release(file, ek_gguf_find(file, "tensor.c")); /* of no effect in memory */
      check_good(file, size);
    }
    ek_gguf_close(file);
    check_buffer_free(&buffer);
  }
  check_tested(CHECK_PLACES, "a good file");
}

/* --- malformed ones --- */

static void check_variant(const gguf_variant *v, int number, const char *what) {
  static uint8_t bytes[GGUF_MOST_BYTES];
  check_buffer buffer;
  ek_gguf *file;
  check_case("%s %d: %s = %" PRIu64, what, number, v->changes[0].label, v->changes[0].number);
  const size_t size = gguf_variant_write(v->changes, GGUF_CHANGES, bytes);
  const ek_status status = read_guarded(bytes, size, CHECK_END, &buffer, &file);
  if (*v->sentence == 0) {
    if (status != EK_OK) check_fail("refused: %s", ek_last_error());
  } else {
    const char *sentence = ek_last_error();
    CHECK(status == EK_BAD_FILE && file == NULL);
    if (!strstr(sentence, v->sentence)) check_fail("\"%s\" does not say \"%s\"", sentence, v->sentence);
    CHECK(strncmp(sentence, "test.gguf is not a usable GGUF file: ", 37) == 0);
  }
  ek_gguf_close(file);
  check_buffer_free(&buffer);
}

static void test_variants(void) {
  int tested = 0;
  for (; gguf_unusual[tested].sentence; tested++) check_variant(&gguf_unusual[tested], tested, "unusual");
  check_tested(tested, "unusual files");
  for (tested = 0; gguf_malformed[tested].sentence; tested++)
    check_variant(&gguf_malformed[tested], tested, "malformed");
  CHECK(tested >= 100);
  check_tested(tested, "malformed files");
}

/* A name of 1024 bytes is as long as one may be. */
static void test_long_names(void) {
  static uint8_t bytes[GGUF_MOST_BYTES];
  static char name[1026];
  memset(name, 'n', sizeof name - 1);
  for (size_t length = 1024; length < 1026; length++) {
    const gguf_change changes[] = {{"a.length", length, NULL}, {"a", length, name}};
    const size_t size = gguf_variant_write(changes, 2, bytes);
    ek_gguf *file = NULL;
    check_case("a name of %zu bytes", length);
    CHECK(ek_gguf_read(bytes, size, "test.gguf", &file) == (length == 1024 ? EK_OK : EK_BAD_FILE));
    ek_gguf_close(file);
  }
  check_tested(2, "long names");
}

/* --- every truncation, every byte --- */

/* Reads everything that a file offers. */
static void read_all(const ek_gguf *file) {
  static const char *const keys[] = {"general.architecture",
                                     "general.alignment",
                                     "x.bool",
                                     "x.f32",
                                     "x.f64",
                                     "x.u8",
                                     "x.i16",
                                     "x.i64",
                                     "x.u64",
                                     "x.texts",
                                     "x.u16s"};
  unsigned sum = 0;
  for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
    ek_text text;
    uint64_t number;
    double real;
    int yes;
    size_t elements = 0;
    if (ek_gguf_text(file, keys[i], &text) == 1 && text.length) sum += (uint8_t)text.bytes[text.length - 1];
    if (ek_gguf_uint(file, keys[i], &number) == 1) sum += (unsigned)number;
    if (ek_gguf_float(file, keys[i], &real) == 1) sum += real > 0;
    if (ek_gguf_bool(file, keys[i], &yes) == 1) sum += (unsigned)yes;
    (void)ek_gguf_uints(file, keys[i], 0, &number, &elements);
    if (elements && ek_gguf_uints(file, keys[i], elements - 1, &number, &elements) == 1) sum += (unsigned)number;
  }
  for (size_t i = 0; i < ek_gguf_count(file); i++) {
    const ek_gguf_tensor *tensor = ek_gguf_at(file, i);
    if (tensor->bytes) sum += tensor->data[0] + (unsigned)tensor->data[tensor->bytes - 1];
  }
  static volatile unsigned sink;
  sink = sum;
  (void)sink;
}

static void check_any(const uint8_t *bytes, size_t size, int must_fail) {
  check_buffer buffer;
  ek_gguf *file;
  const ek_status status = read_guarded(bytes, size, CHECK_END, &buffer, &file);
  if (status == EK_OK) {
    CHECK(!must_fail);
    read_all(file);
  } else {
    CHECK(status == EK_BAD_FILE && file == NULL && ek_last_error()[0] != 0);
  }
  ek_gguf_close(file);
  check_buffer_free(&buffer);
}

static void test_truncations(int cases) {
  static uint8_t bytes[GGUF_MOST_BYTES];
  const size_t size = gguf_variant_write(NULL, 0, bytes), step = cases < 100 ? 7 : 1; /* fewer under qemu */
  int tested = 0;
  for (size_t left = 0; left < size; left += step, tested++) {
    check_case("the first %zu of %zu bytes", left, size);
    check_any(bytes, left, 1);
  }
  check_tested(tested, "truncations");
}

static void test_changed_bytes(int cases) {
  static uint8_t bytes[GGUF_MOST_BYTES];
  static const uint8_t values[] = {0x00, 0x01, 0x7f, 0x80, 0xff};
  const size_t size = gguf_variant_write(NULL, 0, bytes), step = cases < 100 ? 11 : 1;
  int tested = 0;
  for (size_t at = 0; at < size - GGUF_DATA_BYTES; at += step) {
    const uint8_t kept = bytes[at];
    for (size_t v = 0; v < sizeof values; v++, tested++) {
      check_case("byte %zu is %d", at, values[v]);
      bytes[at] = values[v];
      check_any(bytes, size, 0);
    }
    bytes[at] = kept;
  }
  check_tested(tested, "changed bytes");
}

static void test_random_changes(int cases) {
  static uint8_t bytes[GGUF_MOST_BYTES];
  for (int number = 0; number < 10 * cases; number++) {
    check_rng rng = check_seed("random changes", number);
    const size_t size = gguf_variant_write(NULL, 0, bytes);
    check_case("random changes %d", number);
    for (int i = 1 + check_below(&rng, 4); i > 0; i--) {
      const uint64_t value = check_bits(&rng) >> check_below(&rng, 64);
      const int width = 1 << check_below(&rng, 4);
      memcpy(bytes + check_below(&rng, (int)size - 8), &value, (size_t)width);
    }
    check_any(bytes, size - (size_t)(check_below(&rng, 4) == 0 ? check_below(&rng, (int)size) : 0), 0);
  }
  check_tested(10 * cases, "random changes");
}

/* --- files --- */

static void test_files(void) {
  static uint8_t bytes[GGUF_MOST_BYTES];
  const size_t size = gguf_variant_write(NULL, 0, bytes);
  char folder[] = "/tmp/edgekit-gguf-XXXXXX", path[64], fifo[64];
  ek_gguf *file = NULL;
  check_case("files");
  CHECK(mkdtemp(folder) != NULL);
  (void)snprintf(path, sizeof path, "%s/x.gguf", folder);
  (void)snprintf(fifo, sizeof fifo, "%s/fifo", folder);
  CHECK(ek_gguf_open(path, &file) == EK_CANNOT_READ && strstr(ek_last_error(), "No such file"));
  CHECK(ek_gguf_open(folder, &file) == EK_CANNOT_READ && strstr(ek_last_error(), "not a file"));
  CHECK(mkfifo(fifo, 0600) == 0 && ek_gguf_open(fifo, &file) == EK_CANNOT_READ);
  FILE *out = fopen(path, "wb");
  CHECK(out && fclose(out) == 0);
  CHECK(ek_gguf_open(path, &file) == EK_BAD_FILE && strstr(ek_last_error(), "is empty"));
  out = fopen(path, "wb");
  CHECK(out && fwrite(bytes, 1, size, out) == size && fclose(out) == 0);
  CHECK(file == NULL && ek_gguf_open(path, &file) == EK_OK);
  if (file) {
    CHECK(strcmp(ek_gguf_path(file), path) == 0);
    for (size_t i = 0; i < ek_gguf_count(file); i++) ek_gguf_release(file, ek_gguf_at(file, i));
    check_good(file, size); /* read again */
  }
  ek_gguf_close(file);
  CHECK(truncate(path, (off_t)size - 1) == 0);
  CHECK(ek_gguf_open(path, &file) == EK_BAD_FILE && strstr(ek_last_error(), "beyond its end"));
  CHECK(remove(path) == 0 && remove(fifo) == 0 && remove(folder) == 0);
  check_tested(1, "files");
}

int main(int argc, char **argv) {
  const check_options options = check_start(argc, argv, 1000);
  test_good();
  test_variants();
  test_long_names();
  test_truncations(options.cases);
  test_changed_bytes(options.cases);
  test_random_changes(options.cases);
  test_files();
  return check_end();
}
