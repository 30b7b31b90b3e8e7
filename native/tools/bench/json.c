#include "json.h"

#include <math.h>
#include <string.h>

json json_to(FILE *out) { return (json){.out = out}; }

/* The bytes of the character that begins here; 0: it is no UTF-8 (RFC 3629: overlong forms and surrogates are not). */
static int character_bytes(const unsigned char *at) {
  const int count = at[0] < 0x80                     ? 1
                    : at[0] >= 0xc2 && at[0] <= 0xdf ? 2
                    : at[0] >= 0xe0 && at[0] <= 0xef ? 3
                    : at[0] >= 0xf0 && at[0] <= 0xf4 ? 4
                                                     : 0;
  for (int i = 1; i < count; i++) {
    if ((at[i] & 0xc0) != 0x80) return 0; /* the 0 at the end is none either */
  }
  if ((at[0] == 0xe0 && at[1] < 0xa0) || (at[0] == 0xed && at[1] > 0x9f)) return 0;
  if ((at[0] == 0xf0 && at[1] < 0x90) || (at[0] == 0xf4 && at[1] > 0x8f)) return 0;
  return count;
}

static void put_text(FILE *out, const char *text) {
  putc('"', out);
  for (const unsigned char *at = (const unsigned char *)text; *at;) {
    const int bytes = character_bytes(at);
    if (bytes == 0) {
      fputs("\\ufffd", out);
    } else if (*at < 0x20 || *at == 0x7f) {
      fprintf(out, "\\u%04x", *at);
    } else {
      if (*at == '"' || *at == '\\') putc('\\', out);
      fwrite(at, 1, (size_t)bytes, out);
    }
    at += bytes ? bytes : 1;
  }
  putc('"', out);
}

static void begin(json *j, const char *key) {
  if (j->filled[j->depth]) putc(',', j->out);
  j->filled[j->depth] = 1;
  if (!key) return;
  put_text(j->out, key);
  putc(':', j->out);
}

static void open_level(json *j, const char *key, char bracket) {
  begin(j, key);
  putc(bracket, j->out);
  j->filled[++j->depth] = 0;
}

static void close_level(json *j, char bracket) {
  putc(bracket, j->out);
  j->depth--;
}

void json_object(json *j, const char *key) { open_level(j, key, '{'); }
void json_end_object(json *j) { close_level(j, '}'); }
void json_array(json *j, const char *key) { open_level(j, key, '['); }
void json_end_array(json *j) { close_level(j, ']'); }

void json_null(json *j, const char *key) {
  begin(j, key);
  fputs("null", j->out);
}

void json_text(json *j, const char *key, const char *text) {
  if (!text) {
    json_null(j, key);
    return;
  }
  begin(j, key);
  put_text(j->out, text);
}

void json_number(json *j, const char *key, double number) {
  if (!isfinite(number)) {
    json_null(j, key);
    return;
  }
  begin(j, key);
  fprintf(j->out, "%.10g", number); /* a microsecond in an hour */
}

void json_integer(json *j, const char *key, int64_t number) {
  begin(j, key);
  fprintf(j->out, "%lld", (long long)number);
}

void json_count(json *j, const char *key, int64_t count) {
  if (count < 0) {
    json_null(j, key);
  } else {
    json_integer(j, key, count);
  }
}

void json_bool(json *j, const char *key, int value) {
  begin(j, key);
  fputs(value ? "true" : "false", j->out);
}
