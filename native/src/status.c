#include "status.h"

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
    return "a task ran the pool that it runs on";
  }
  return "unknown status";
}
