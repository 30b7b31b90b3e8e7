// What the C API returns, as Python exceptions.
#ifndef EK_STATUS_H
#define EK_STATUS_H

#include "bindings.h"
#include "edgekit.h"

// Adds the exception class Cancelled.
void bind_status(nb::module_ &m);

// Raises for anything but EK_OK: MemoryError, RuntimeError (no thread, a nested call), Cancelled, else ValueError.
void raise_for(ek_status status, const char *sentence);

// C work without the GIL, in this thread.
template <class Work> void run_released(const Work &work) {
  ek_status status;
  {
    nb::gil_scoped_release released;
    status = work();
  }
  if (status != EK_OK) raise_for(status, ek_last_error());
}

#endif
