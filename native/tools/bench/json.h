/* Writes JSON to a stream. Whatever is written is valid JSON: texts are escaped, what is not UTF-8 in them becomes
 * U+FFFD, and a number that is not finite becomes null. Errors of the stream are the caller's to look for. */
#ifndef BENCH_JSON_H
#define BENCH_JSON_H

#include <stdint.h>
#include <stdio.h>

enum { JSON_DEPTH = 16 };

typedef struct json {
  FILE *out;
  int depth;
  int filled[JSON_DEPTH]; /* whether the object or array of that depth has something in it */
} json;

json json_to(FILE *out);

/* In each of these `key` is the member's name in an object, and NULL in an array and at the top. */
void json_object(json *j, const char *key);
void json_end_object(json *j);
void json_array(json *j, const char *key);
void json_end_array(json *j);
void json_text(json *j, const char *key, const char *text); /* NULL: null */
void json_number(json *j, const char *key, double number);
void json_integer(json *j, const char *key, int64_t number);
void json_count(json *j, const char *key, int64_t count); /* below 0: null */
void json_bool(json *j, const char *key, int value);
void json_null(json *j, const char *key);

#endif
