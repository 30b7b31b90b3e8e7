/* Why figures are missing: a sentence for each, by its name in the result. */
#ifndef BENCH_REASONS_H
#define BENCH_REASONS_H

#include "json.h"

enum { MOST_REASONS = 16 };

typedef struct reasons {
  int count;
  struct reason {
    const char *figure; /* a string constant */
    char text[224];
  } rows[MOST_REASONS];
} reasons;

/* The first reason of a figure stays. */
__attribute__((format(printf, 3, 4))) void reasons_add(reasons *r, const char *figure, const char *format, ...);

void reasons_write(const reasons *r, json *j, const char *key);

#endif
