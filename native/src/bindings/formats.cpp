// Block encoders and decoders. Shapes, dtypes and contiguity are checked here; the C below trusts them.
#include "blocks.h"
#include "encode/encode.h"

#include <nanobind/stl/string.h>

#include <algorithm>
#include <cstdint>
#include <string>

namespace {

const float *checked_importance(const Array &importance, const Array &rows) {
  const float *data = checked<float>(importance, "importance", "float32");
  const bool one = importance.ndim() == 1 && importance.shape(0) == rows.shape(1);
  const bool each =
      importance.ndim() == 2 && importance.shape(0) == rows.shape(0) && importance.shape(1) == rows.shape(1);
  if (!one && !each) {
    throw nb::value_error(("importance of shape " + shape_of(importance) + " does not fit rows of shape " +
                           shape_of(rows) + ": it must be (K,) or (N, K)")
                              .c_str());
  }
  return data;
}

Matrix<uint8_t> encode(const std::string &name, const Array &rows, nb::object importance, int threads, int isa_level) {
  const ek_format &format = format_named(name);
  ek_encode_fn *encoder = ek_encoder_find(format.name, isa_level);
  if (!encoder) throw nb::value_error((name + " has no encoder").c_str());
  check_threads(threads);
  if (rows.ndim() != 2) throw nb::value_error(("rows must be (N, K), not " + shape_of(rows)).c_str());
  ek_source source{checked<float>(rows, "rows", "float32"), nullptr, rows.shape(1), 0};
  check_columns(format, source.columns);
  Array held;
  if (!importance.is_none()) {
    if (!nb::try_cast(importance, held)) throw nb::value_error("importance must be None or a float32 array");
    source.importance = checked_importance(held, rows);
    source.importance_per_row = held.ndim() == 2;
  }
  const size_t blocks = rows.shape(0) * (source.columns / static_cast<size_t>(format.block));
  const size_t block_bytes = static_cast<size_t>(format.block_bytes);
  uint8_t *out = new uint8_t[std::max<size_t>(1, blocks * block_bytes)];
  Matrix<uint8_t> result = owned(out, rows.shape(0), source.columns / static_cast<size_t>(format.block) * block_bytes);
  {
    nb::gil_scoped_release released;
    if (blocks) {
      split(blocks, threads,
            [&](size_t first, size_t count) { encoder(&source, first, count, out + first * block_bytes); });
    }
  }
  return result;
}

Matrix<float> decode(const std::string &name, const Array &blocks, size_t columns, int threads) {
  const ek_format &format = format_named(name);
  check_threads(threads);
  const uint8_t *data = checked<uint8_t>(blocks, "blocks", "uint8");
  const size_t count = check_blocks(format, blocks, columns);
  float *out = new float[std::max<size_t>(1, blocks.shape(0) * columns)];
  Matrix<float> result = owned(out, blocks.shape(0), columns);
  {
    nb::gil_scoped_release released;
    if (count) {
      split(count, threads, [&](size_t first, size_t number) {
        ek_dequantise(&format, data + first * static_cast<size_t>(format.block_bytes), number,
                      out + first * static_cast<size_t>(format.block));
      });
    }
  }
  return result;
}

nb::tuple unpack(const std::string &name, const Array &blocks, size_t columns, int threads) {
  const ek_format &format = format_named(name);
  if (!format.unpack) throw nb::value_error((name + " is a float format: it has no codes").c_str());
  check_threads(threads);
  const uint8_t *data = checked<uint8_t>(blocks, "blocks", "uint8");
  const size_t count = check_blocks(format, blocks, columns), rows = blocks.shape(0);
  const size_t groups = columns / static_cast<size_t>(format.group),
               per_block = static_cast<size_t>(format.block / format.group);
  int8_t *codes = new int8_t[std::max<size_t>(1, rows * columns)];
  Matrix<int8_t> signed_codes = owned(codes, rows, columns);
  float *scales = new float[std::max<size_t>(1, rows * groups)];
  Matrix<float> scale_matrix = owned(scales, rows, groups);
  float *minima = format.has_minima ? new float[std::max<size_t>(1, rows * groups)] : nullptr;
  nb::object minima_matrix = minima ? nb::cast(owned(minima, rows, groups)) : nb::none();
  {
    nb::gil_scoped_release released;
    if (count) {
      split(count, threads, [&](size_t first, size_t number) {
        ek_unpack(&format, data + first * static_cast<size_t>(format.block_bytes), number,
                  codes + first * static_cast<size_t>(format.block), scales + first * per_block,
                  minima ? minima + first * per_block : nullptr);
      });
    }
  }
  nb::object code_matrix = nb::cast(signed_codes);
  if (!format.signed_codes) code_matrix = code_matrix.attr("view")("uint8");
  return nb::make_tuple(code_matrix, scale_matrix, minima_matrix);
}

nb::object levels(const std::string &name) {
  const ek_format &format = format_named(name);
  if (!format.levels) return nb::none();
  float *copy = new float[16];
  std::copy_n(format.levels, 16, copy);
  nb::capsule owner(copy, [](void *p) noexcept { delete[] static_cast<float *>(p); });
  return nb::cast(nb::ndarray<nb::numpy, float, nb::ndim<1>>(copy, {16}, owner));
}

nb::dict layout(const std::string &name) {
  const ek_format &format = format_named(name);
  nb::dict result;
  result["block"] = format.block;
  result["block_bytes"] = format.block_bytes;
  result["group"] = format.group;
  return result;
}

} // namespace

void bind_formats(nb::module_ &m) {
  m.def("encode", &encode, nb::arg("format"), nb::arg("rows"), nb::arg("importance").none(), nb::arg("threads") = 1,
        nb::arg("isa_level") = -1,
        "Rows (N, K) float32 to blocks (N, B) uint8; importance None, (K,) or (N, K) float32.");
  m.def("isa_levels", &ek_isa_levels, "How many instruction set levels encode can be asked for; -1 is the highest.");
  m.def("decode", &decode, nb::arg("format"), nb::arg("blocks"), nb::arg("columns"), nb::arg("threads") = 1,
        "Blocks (N, B) uint8 to rows (N, K) float32.");
  m.def("unpack", &unpack, nb::arg("format"), nb::arg("blocks"), nb::arg("columns"), nb::arg("threads") = 1,
        "Blocks (N, B) uint8 to codes (N, K) int8 or uint8, scales (N, K / group) float32 and minima or None.");
  m.def("levels", &levels, nb::arg("format"), "The 16 levels that codes index, or None.");
  m.def("layout", &layout, nb::arg("format"), "Block, block_bytes and group of a format.");
}
