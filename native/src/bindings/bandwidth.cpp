// How fast this machine reads its memory: what bounds the decoding of a model that no cache holds.
#include "bindings.h"
#include "kernels/kernels.h"
#include "memory.h"
#include "status.h"
#include "threads/pool.h"

#include <nanobind/stl/vector.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

namespace {

// With the widest loads that the kernels use: on AVX-512 machines, two cores were seen to read a sixth less with 16
// bytes at a time than with 64. `count` is a multiple of 256. The sum is returned so that the loop is not optimised
// away.
#define READ(name, width, target)                                                                                      \
  target uint64_t name(const uint8_t *bytes, size_t count) {                                                           \
    typedef uint64_t words __attribute__((vector_size(width), aligned(1), may_alias));                                 \
    const words *from = reinterpret_cast<const words *>(bytes), *end = from + count / width;                           \
    words a{}, b{}, c{}, d{};                                                                                          \
    for (; from < end; from += 4) {                                                                                    \
      a ^= from[0];                                                                                                    \
      b ^= from[1];                                                                                                    \
      c ^= from[2];                                                                                                    \
      d ^= from[3];                                                                                                    \
    }                                                                                                                  \
    a ^= b ^ c ^ d;                                                                                                    \
    return a[0] ^ a[1];                                                                                                \
  }
READ(read_16, 16, )
#if defined(__x86_64__)
READ(read_32, 32, __attribute__((target("avx2"))))
READ(read_64, 64, __attribute__((target("avx512f"))))
#endif

struct Pass {
  uint64_t (*read)(const uint8_t *bytes, size_t count);
  uint8_t *bytes;
  std::atomic<uint64_t> sum;
};

const size_t task_bytes = size_t{1} << 20;

void read_task(void *context, size_t index, unsigned) {
  Pass *pass = static_cast<Pass *>(context);
  pass->sum += pass->read(pass->bytes + index * task_bytes, task_bytes);
}

void fill_task(void *context, size_t index, unsigned) {
  std::memset(static_cast<Pass *>(context)->bytes + index * task_bytes, 1, task_bytes);
}

std::vector<double> read_passes(size_t mebibytes, size_t passes, unsigned threads) {
  using clock = std::chrono::steady_clock;
  Pass pass{read_16, nullptr, {0}};
#if defined(__x86_64__)
  if (ek_level_supported(EK_LEVEL_avx2)) pass.read = read_32;
  if (ek_level_supported(EK_LEVEL_avx512vnni)) pass.read = read_64;
#endif
  // As a model's weights are: in huge pages where there are some.
  void *taken = mebibytes <= SIZE_MAX / task_bytes ? ek_memory_new(mebibytes * task_bytes) : nullptr;
  std::unique_ptr<void, void (*)(void *)> memory(taken, std::free);
  if (!memory) raise_for(EK_NO_MEMORY, "no memory to read");
  pass.bytes = static_cast<uint8_t *>(memory.get());
  ek_pool *created = nullptr;
  run_released([&] { return ek_pool_create(threads, &created); });
  std::unique_ptr<ek_pool, void (*)(ek_pool *)> pool(created, ek_pool_destroy);
  std::vector<double> seconds(passes);
  run_released([&] {
    ek_status status = ek_pool_run(pool.get(), fill_task, &pass, mebibytes);
    for (double &time : seconds) {
      const clock::time_point start = clock::now();
      if (status == EK_OK) status = ek_pool_run(pool.get(), read_task, &pass, mebibytes);
      time = std::chrono::duration<double>(clock::now() - start).count();
    }
    return status;
  });
  return seconds;
}

} // namespace

void bind_bandwidth(nb::module_ &m) {
  m.def("read_passes", &read_passes, nb::arg("mebibytes"), nb::arg("passes"), nb::arg("threads") = 0,
        "Seconds that each pass over that much memory takes. threads 0: one for each big core.");
}
