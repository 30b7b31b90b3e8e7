/* What the device is. */
#ifndef BENCH_PROBE_H
#define BENCH_PROBE_H

#include "json.h"

enum { PROTOCOL = 1 };

/* The object of `probe`; disk_free_bytes of the file system of `folder`, or of the nearest one above it that is there.
 */
void probe_write(json *j, const char *key, const char *folder);

#endif
