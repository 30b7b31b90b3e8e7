// Matrices of blocks: their arguments checked, their results owned by Python, their rows shared among threads.
#ifndef EK_BLOCKS_H
#define EK_BLOCKS_H

#include "bindings.h"
#include "format.h"

#include <algorithm>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

template <class T> using Matrix = nb::ndarray<nb::numpy, T, nb::ndim<2>>;

inline const ek_format &format_named(const std::string &name) {
  const ek_format *format = ek_format_find(name.c_str());
  if (!format) throw nb::value_error(("no block format is called '" + name + "'").c_str());
  return *format;
}

inline void check_columns(const ek_format &format, size_t columns) {
  if (columns == 0 || columns % static_cast<size_t>(format.block)) {
    throw nb::value_error((std::string(format.name) + " stores rows in blocks of " + std::to_string(format.block) +
                           " weights: it cannot store rows of " + std::to_string(columns))
                              .c_str());
  }
}

template <class T> Matrix<T> owned(T *data, size_t rows, size_t columns) {
  nb::capsule owner(data, [](void *p) noexcept { delete[] static_cast<T *>(p); });
  return Matrix<T>(data, {rows, columns}, owner);
}

// Calls work(first, count) over [0, total), cut in pieces of about equal size; each piece is written by one thread
// alone.
template <class Work> void split(size_t total, int threads, const Work &work) {
  const size_t grain = 64; // whole batches, so that no piece ends in a half-filled one
  const size_t pieces =
      std::max<size_t>(1, std::min<size_t>(static_cast<size_t>(threads), (total + grain - 1) / grain));
  const size_t step = ((total + pieces - 1) / pieces + grain - 1) / grain * grain;
  std::vector<std::thread> helpers;
  helpers.reserve(pieces);
  for (size_t first = step; first < total; first += step) {
    const size_t count = std::min(step, total - first);
    try {
      helpers.emplace_back([&work, first, count] { work(first, count); });
    } catch (const std::system_error &) { // no more threads to be had
      work(first, count);
    }
  }
  work(0, std::min(step, total));
  for (std::thread &helper : helpers) helper.join();
}

inline void check_threads(int threads) {
  if (threads < 1) throw nb::value_error("threads must be at least 1");
}

// The blocks' count, after checking that each row holds exactly `columns` weights.
inline size_t check_blocks(const ek_format &format, const Array &blocks, size_t columns) {
  check_columns(format, columns);
  const size_t row_bytes = columns / static_cast<size_t>(format.block) * static_cast<size_t>(format.block_bytes);
  if (blocks.ndim() != 2 || blocks.shape(1) != row_bytes) {
    throw nb::value_error(("blocks of shape " + shape_of(blocks) + " do not fit: " + format.name + " rows of " +
                           std::to_string(columns) + " weights are (N, " + std::to_string(row_bytes) + ") bytes")
                              .c_str());
  }
  return blocks.shape(0) * (columns / static_cast<size_t>(format.block));
}

#endif
