/* SHA-256 (FIPS 180-4). */
#ifndef BENCH_SHA256_H
#define BENCH_SHA256_H

#include <stddef.h>

enum { SHA256_TEXT = 65 };

/* In lower-case hexadecimal, with a 0 behind it. */
void sha256(const void *bytes, size_t count, char out[SHA256_TEXT]);

#endif
