#include "status.h"

static PyObject *cancelled; // a class of the module, which is never unloaded

void bind_status(nb::module_ &m) {
  cancelled = nb::exception<nb::builtin_exception>(m, "Cancelled", PyExc_RuntimeError).ptr();
}

static PyObject *class_of(ek_status status) {
  switch (status) {
  case EK_NO_MEMORY:
    return PyExc_MemoryError;
  case EK_NO_THREAD:
  case EK_NESTED_RUN:
    return PyExc_RuntimeError;
  case EK_CANCELLED:
    return cancelled;
  default:
    return PyExc_ValueError;
  }
}

void raise_for(ek_status status, const char *sentence) {
  if (status == EK_OK) return;
  PyErr_SetString(class_of(status), sentence && *sentence ? sentence : ek_status_text(status));
  throw nb::python_error();
}
