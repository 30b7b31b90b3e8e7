// edgekit._native: the C core seen from Python.
#ifndef EK_BINDINGS_H
#define EK_BINDINGS_H

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <string>

namespace nb = nanobind;
using Array = nb::ndarray<nb::ro, nb::device::cpu>; // of any shape and dtype, so that the errors are ours

void bind_formats(nb::module_ &m);
void bind_quantize(nb::module_ &m);
void bind_model(nb::module_ &m);
void bind_context(nb::module_ &m);
void bind_sampler(nb::module_ &m);
void bind_bandwidth(nb::module_ &m);

std::string shape_of(const Array &array); // "(2, 3)"
void check_contiguous(const Array &array, const char *name);

// The data of a C-contiguous array of that dtype; ValueError.
template <class T> const T *checked(const Array &array, const char *name, const char *dtype) {
  if (array.dtype() != nb::dtype<T>()) throw nb::value_error((std::string(name) + " must be " + dtype).c_str());
  check_contiguous(array, name);
  return static_cast<const T *>(array.data());
}

#endif
