#include "bindings/model.h"
#include "interruptible.h"
#include "status.h"

#include <nanobind/stl/string.h>

#include <memory>
#include <string>
#include <vector>

namespace {

// One call at a time works on a context; the flag is read and written with the GIL held.
class Busy {
public:
  explicit Busy(bool &flag) : flag_(flag) { flag_ = true; }
  ~Busy() { flag_ = false; }
  Busy(const Busy &) = delete;

private:
  bool &flag_;
};

uint32_t cache_type(const std::string &name) {
  if (name == "f16") return EK_CACHE_F16;
  if (name == "q8_0") return EK_CACHE_Q8_0;
  if (name == "q4_0") return EK_CACHE_Q4_0;
  throw nb::value_error(("no cache type is called '" + name + "': there are f16, q8_0 and q4_0").c_str());
}

// Vector of `name`, 1-dimensional.
template <class T> const T *vector(const Array &array, const char *name, const char *dtype) {
  if (array.ndim() != 1) throw nb::value_error((std::string(name) + " must be (T,), not " + shape_of(array)).c_str());
  return checked<T>(array, name, dtype);
}

class Context {
public:
  Context(const Model &model, uint32_t positions, uint32_t sequences, const std::string &key_type,
          const std::string &value_type, uint32_t micro_batch, bool float_activations)
      : model_(model.open()), vocab_(model.info().vocab) {
    ek_context_params params{};
    params.struct_size = sizeof params;
    params.positions = positions;
    params.sequences = sequences;
    params.key_type = cache_type(key_type);
    params.value_type = cache_type(value_type);
    params.micro_batch = micro_batch;
    params.float_activations = float_activations;
    ek_context *context = nullptr;
    run_released([&] { return ek_context_create(model_.get(), &params, &context); });
    context_.reset(context);
  }

  void prefill(uint32_t sequence, const Array &tokens, nb::object logits) {
    ek_context *context = idle();
    const int32_t *ids = vector<int32_t>(tokens, "tokens", "int32");
    const size_t count = tokens.shape(0);
    size_t outputs = 0;
    float *out = rows(logits, 0, &outputs);
    if (out && (outputs == 0 || outputs > count)) {
      throw nb::value_error(("logits have " + std::to_string(outputs) + " rows for " + std::to_string(count) +
                             " tokens: ask for those of the last 1 to all of them")
                                .c_str());
    }
    Busy busy(busy_);
    run_interruptible(context, [&] { return ek_prefill(context, sequence, ids, count, out, outputs); });
  }

  void decode(const Array &sequences, const Array &tokens, nb::object logits) {
    ek_context *context = idle();
    const uint32_t *places = vector<uint32_t>(sequences, "sequences", "uint32");
    const int32_t *ids = vector<int32_t>(tokens, "tokens", "int32");
    const size_t count = tokens.shape(0);
    if (sequences.shape(0) != count) {
      throw nb::value_error(("sequences of shape " + shape_of(sequences) + " do not fit tokens of shape " +
                             shape_of(tokens) + ": give one token for each")
                                .c_str());
    }
    float *out = rows(logits, count, nullptr);
    Busy busy(busy_);
    run_released([&] { return ek_decode(context, places, ids, count, out); });
  }

  uint64_t length(uint32_t sequence) const {
    uint64_t length = 0;
    raise_for(ek_sequence_length(idle(), sequence, &length), ek_last_error());
    return length;
  }

  void truncate(uint32_t sequence, uint64_t length) {
    raise_for(ek_sequence_truncate(idle(), sequence, length), ek_last_error());
  }

  void fork(uint32_t from, uint32_t to) { raise_for(ek_sequence_fork(idle(), from, to), ek_last_error()); }

  nb::tuple cache_bytes() const {
    ek_cache_stats stats{};
    stats.struct_size = sizeof stats;
    raise_for(ek_cache_describe(idle(), &stats), ek_last_error());
    return nb::make_tuple(stats.allocated_bytes, stats.peak_bytes, stats.shared_bytes);
  }

  void cancel() const { ek_cancel(open()); }

  void close() {
    if (!context_) return;
    idle();
    context_.reset();
    model_.reset();
  }

private:
  ek_context *open() const {
    if (!context_) throw nb::value_error("the context is closed: create another");
    return context_.get();
  }

  ek_context *idle() const {
    ek_context *context = open();
    if (busy_) throw std::runtime_error("the context works in another thread: one thread at a time can use it");
    return context;
  }

  // The memory of a writable float32 array (count, vocab), NULL for None; count 0: any number of rows.
  float *rows(const nb::object &logits, size_t count, size_t *found) const {
    if (logits.is_none()) return nullptr;
    nb::ndarray<nb::device::cpu> array;
    if (!nb::try_cast(logits, array)) throw nb::value_error("logits must be None or a writable float32 array");
    const Array seen(array);
    if (array.ndim() != 2 || array.shape(1) != vocab_ || (count && array.shape(0) != count)) {
      const std::string wanted = count ? std::to_string(count) : "N";
      throw nb::value_error(("logits of shape " + shape_of(seen) + " do not fit: they are (" + wanted + ", " +
                             std::to_string(vocab_) + ")")
                                .c_str());
    }
    if (found) *found = array.shape(0);
    return const_cast<float *>(checked<float>(seen, "logits", "float32"));
  }

  struct Free {
    void operator()(ek_context *context) const { ek_context_free(context); }
  };
  std::shared_ptr<ek_model> model_; // freed after the context
  std::unique_ptr<ek_context, Free> context_;
  size_t vocab_;
  bool busy_ = false;
};

} // namespace

void bind_context(nb::module_ &m) {
  nb::class_<Context>(m, "Context", "Sequences of tokens and their attention cache; for one thread at a time.")
      .def(nb::init<const Model &, uint32_t, uint32_t, const std::string &, const std::string &, uint32_t, bool>(),
           nb::arg("model"), nb::arg("positions") = 0, nb::arg("sequences") = 1, nb::arg("key_type") = "f16",
           nb::arg("value_type") = "f16", nb::arg("micro_batch") = 0, nb::arg("float_activations") = false,
           "Zeros: the C library's defaults. float_activations: slow products without rounding, for comparisons.")
      .def("prefill", &Context::prefill, nb::arg("sequence"), nb::arg("tokens"), nb::arg("logits").none() = nb::none(),
           "Append tokens (T,) int32; the logits of the last N of them are written to a float32 array (N, vocab).")
      .def("decode", &Context::decode, nb::arg("sequences"), nb::arg("tokens"), nb::arg("logits").none() = nb::none(),
           "Append a token (S,) int32 to each of the sequences (S,) uint32; logits (S, vocab) float32 or None.")
      .def("length", &Context::length, nb::arg("sequence"), "Tokens of a sequence.")
      .def("truncate", &Context::truncate, nb::arg("sequence"), nb::arg("length"), "Forget tokens from there on.")
      .def("fork", &Context::fork, nb::arg("source"), nb::arg("target"), "The target becomes a copy of the source.")
      .def("cache_bytes", &Context::cache_bytes, "Bytes of the cache: allocated now, at most so far, shared.")
      .def("cancel", &Context::cancel, "From another thread: the call that works on the context raises Cancelled.")
      .def("close", &Context::close, "Free the cache; a second call does nothing.");
}
