#include "status.h"

#include <cstdint>

std::string shape_of(const Array &array) {
  std::string text = "(";
  for (size_t i = 0; i < array.ndim(); i++) text += (i ? ", " : "") + std::to_string(array.shape(i));
  return text + (array.ndim() == 1 ? ",)" : ")");
}

void check_contiguous(const Array &array, const char *name) {
  int64_t expected = 1;
  for (size_t i = array.ndim(); array.size() && i-- > 0;) {
    if (array.shape(i) != 1 && array.stride(i) != expected)
      throw nb::value_error((std::string(name) + " must be C-contiguous").c_str());
    expected *= static_cast<int64_t>(array.shape(i));
  }
}

NB_MODULE(_native, m) {
  m.doc() = "edgekit's C core: block encoders and decoders, and the runtime";
  bind_status(m);
  bind_formats(m);
  bind_quantize(m);
  bind_model(m);
  bind_context(m);
  bind_sampler(m);
  bind_bandwidth(m);
}
