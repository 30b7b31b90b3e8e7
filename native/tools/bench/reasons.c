#include "reasons.h"

#include <stdarg.h>
#include <string.h>

void reasons_add(reasons *r, const char *figure, const char *format, ...) {
  for (int i = 0; i < r->count; i++) {
    if (strcmp(r->rows[i].figure, figure) == 0) return;
  }
  if (r->count == MOST_REASONS) return;
  struct reason *row = &r->rows[r->count++];
  va_list arguments;
  row->figure = figure;
  va_start(arguments, format);
  vsnprintf(row->text, sizeof row->text, format, arguments);
  va_end(arguments);
}

void reasons_write(const reasons *r, json *j, const char *key) {
  json_object(j, key);
  for (int i = 0; i < r->count; i++) json_text(j, r->rows[i].figure, r->rows[i].text);
  json_end_object(j);
}
