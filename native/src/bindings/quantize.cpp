// Rounding with a quadratic form: error compensation and coordinate descent. Arguments are checked here.
#include "quantize/quantize.h"
#include "blocks.h"

#include <nanobind/stl/string.h>

#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <string>
#include <vector>

namespace {

ek_rounded checked_matrix(const std::string &name, const Array &values, const Array &blocks) {
  ek_rounded matrix{};
  const ek_format &format = format_named(name);
  if (!ek_layout_of(&format, &matrix.layout))
    throw nb::value_error((name + " is a float format: it has no codes").c_str());
  if (values.ndim() != 2) throw nb::value_error(("values must be (N, K), not " + shape_of(values)).c_str());
  matrix.columns = values.shape(1);
  matrix.values = checked<float>(values, "values", "float32");
  matrix.blocks = checked<uint8_t>(blocks, "blocks", "uint8");
  check_blocks(format, blocks, matrix.columns);
  if (blocks.shape(0) != values.shape(0)) {
    throw nb::value_error(
        ("blocks of shape " + shape_of(blocks) + " are not of the rows of values, " + shape_of(values)).c_str());
  }
  return matrix;
}

const float *checked_square(const Array &array, const char *name, size_t columns) {
  const float *data = checked<float>(array, name, "float32");
  if (array.ndim() != 2 || array.shape(0) != columns || array.shape(1) != columns) {
    throw nb::value_error((std::string(name) + " must be (K, K) with the " + std::to_string(columns) +
                           " columns of values, not " + shape_of(array))
                              .c_str());
  }
  return data;
}

const int32_t *checked_order(const Array &order, size_t columns) {
  const int32_t *data = checked<int32_t>(order, "order", "int32");
  std::vector<bool> seen(columns);
  bool each_once = order.ndim() == 1 && order.shape(0) == columns;
  for (size_t i = 0; each_once && i < columns; i++) {
    each_once = data[i] >= 0 && static_cast<size_t>(data[i]) < columns && !seen[static_cast<size_t>(data[i])];
    if (each_once) seen[static_cast<size_t>(data[i])] = true;
  }
  if (!each_once) {
    throw nb::value_error(("order must name each of " + std::to_string(columns) + " columns once").c_str());
  }
  return data;
}

struct Freed {
  void operator()(float *data) const { std::free(data); }
};
using Panels = std::unique_ptr<float[], Freed>;

Panels new_panels(size_t columns) {
  Panels panels(static_cast<float *>(std::aligned_alloc(64, columns * columns * sizeof(float))));
  if (!panels) throw std::bad_alloc();
  return panels;
}

// work(first, count) over all rows; it returns 0 where it had no memory.
template <class Work> void over_rows(size_t rows, int threads, const Work &work) {
  std::atomic<bool> enough = true;
  if (rows) {
    split(rows, threads, [&](size_t first, size_t count) {
      if (!work(first, count)) enough = false;
    });
  }
  if (!enough) throw std::bad_alloc();
}

Matrix<uint8_t> compensate(const std::string &name, const Array &values, const Array &blocks, const Array &factor,
                           const Array &order, int threads, int isa_level) {
  const ek_rounded matrix = checked_matrix(name, values, blocks);
  const float *square = checked_square(factor, "factor", matrix.columns);
  const int32_t *columns_in_order = checked_order(order, matrix.columns);
  check_threads(threads);
  const size_t rows = values.shape(0), row_bytes = blocks.shape(1);
  uint8_t *out = new uint8_t[std::max<size_t>(1, rows * row_bytes)];
  Matrix<uint8_t> result = owned(out, rows, row_bytes);
  {
    nb::gil_scoped_release released;
    const Panels panels = new_panels(matrix.columns);
    if (!ek_factor_panels(square, matrix.columns, panels.get())) {
      throw nb::value_error("factor must be an upper triangular matrix with a positive diagonal");
    }
    ek_compensate_fn *function = ek_compensate_find(isa_level);
    over_rows(rows, threads, [&](size_t first, size_t count) {
      return function(&matrix, panels.get(), columns_in_order, first, count, out + first * row_bytes);
    });
  }
  return result;
}

nb::tuple descend(const std::string &name, const Array &values, const Array &blocks, const Array &hessian, int sweeps,
                  int threads, int isa_level) {
  const ek_rounded matrix = checked_matrix(name, values, blocks);
  const float *square = checked_square(hessian, "hessian", matrix.columns);
  if (sweeps < 0) throw nb::value_error("sweeps must not be negative");
  check_threads(threads);
  const size_t rows = values.shape(0), row_bytes = blocks.shape(1);
  uint8_t *out = new uint8_t[std::max<size_t>(1, rows * row_bytes)];
  Matrix<uint8_t> result = owned(out, rows, row_bytes);
  double *errors = new double[std::max<size_t>(1, rows)];
  nb::capsule owner(errors, [](void *p) noexcept { delete[] static_cast<double *>(p); });
  nb::ndarray<nb::numpy, double, nb::ndim<1>> errors_of_rows(errors, {rows}, owner);
  {
    nb::gil_scoped_release released;
    const Panels panels = new_panels(matrix.columns);
    const double unit = ek_hessian_panels(square, matrix.columns, panels.get());
    if (unit == 0) throw nb::value_error("hessian has an infinity or a NaN");
    ek_descend_fn *function = ek_descend_find(isa_level);
    over_rows(rows, threads, [&](size_t first, size_t count) {
      return function(&matrix, panels.get(), unit, sweeps, first, count, out + first * row_bytes, errors + first);
    });
  }
  return nb::make_tuple(result, errors_of_rows);
}

} // namespace

void bind_quantize(nb::module_ &m) {
  m.def("compensate", &compensate, nb::arg("format"), nb::arg("values"), nb::arg("blocks"), nb::arg("factor"),
        nb::arg("order"), nb::arg("threads") = 1, nb::arg("isa_level") = -1,
        "Blocks (N, B) uint8 with the scales of `blocks` and error-compensated codes (GPTQ).");
  m.def("descend", &descend, nb::arg("format"), nb::arg("values"), nb::arg("blocks"), nb::arg("hessian"),
        nb::arg("sweeps"), nb::arg("threads") = 1, nb::arg("isa_level") = -1,
        "Blocks (N, B) uint8 after coordinate descent, and e^T H e (N,) float64.");
}
