#include "error.h"

#include <stdarg.h>
#include <stdio.h>

static _Thread_local char last_error[1024];

const char *ek_last_error(void) { return last_error; }

const char *ek_status_text(ek_status status) {
  switch (status) {
  case EK_OK:
    return "ok";
  case EK_BAD_ARGUMENT:
    return "an argument is out of range";
  case EK_NO_MEMORY:
    return "out of memory";
  case EK_NO_THREAD:
    return "the system refused to start a thread";
  case EK_NO_KERNEL:
    return "no kernel for this type at this instruction set level";
  case EK_NESTED_RUN:
    return "a task or callback called back into what it serves";
  case EK_CANNOT_READ:
    return "the file cannot be read";
  case EK_BAD_FILE:
    return "the file is damaged";
  case EK_UNSUPPORTED:
    return "the model is not supported";
  case EK_CACHE_FULL:
    return "the attention cache is full";
  case EK_CANCELLED:
    return "cancelled";
  }
  return "unknown status";
}

ek_status ek_fail(ek_status status, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  (void)vsnprintf(last_error, sizeof last_error, format, arguments);
  va_end(arguments);
  return status;
}

ek_status ek_fail_plain(ek_status status, const char *what) {
  return ek_fail(status, "%s: %s", what, ek_status_text(status));
}

const char *ek_printable(const char *text, size_t length, char out[EK_PRINTABLE]) {
  size_t i = 0;
  for (; i < length && i < EK_PRINTABLE - 1; i++) out[i] = text[i] >= ' ' && text[i] <= '~' ? text[i] : '?';
  out[i] = 0;
  return out;
}
