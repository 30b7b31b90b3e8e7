#include "report.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static char *kept;
static size_t kept_size;

void report_into(char *sentence, size_t size) {
  kept = sentence;
  kept_size = size;
}

int report(int exit_status, const char *format, ...) {
  char sentence[1024];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(sentence, sizeof sentence, format, arguments);
  va_end(arguments);
  if (kept) snprintf(kept, kept_size, "%s", sentence);
  fprintf(stderr, "edgekit-bench: %s\n", sentence);
  return exit_status;
}

int report_write_error(const char *path) {
  switch (errno) {
  case ENOSPC:
  case EDQUOT:
    return report(BENCH_CANNOT_WRITE, "%s cannot be written, the disk is full: free some space on the device", path);
  case EACCES:
  case EPERM:
  case EROFS:
  case ENOENT:
  case ENOTDIR:
    return report(BENCH_CANNOT_WRITE, "%s cannot be written (%s): choose another folder", path, strerror(errno));
  default:
    return report(BENCH_SYSTEM, "%s cannot be written (%s)", path, strerror(errno));
  }
}
