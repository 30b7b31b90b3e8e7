#include "bindings.h"
#include "status.h"

#include <memory>

namespace {

class Sampler {
public:
  Sampler(uint32_t vocab, float temperature, uint32_t top_k, float top_p, float min_p, float repetition_penalty,
          uint64_t seed)
      : vocab_(vocab) {
    ek_sampler_params params{};
    params.struct_size = sizeof params;
    params.repetition_penalty = repetition_penalty;
    params.top_k = top_k;
    params.top_p = top_p;
    params.min_p = min_p;
    params.temperature = temperature;
    params.seed = seed;
    ek_sampler *sampler = nullptr;
    raise_for(ek_sampler_create(&params, vocab, &sampler), ek_last_error());
    sampler_.reset(sampler);
  }

  // With the GIL held: it is short, and keeps two threads apart.
  int32_t choose(const Array &logits) {
    if (logits.ndim() != 1 || logits.shape(0) != vocab_) {
      throw nb::value_error(
          ("logits of shape " + shape_of(logits) + " do not fit: they are (" + std::to_string(vocab_) + ",)").c_str());
    }
    int32_t token = 0;
    raise_for(ek_sampler_choose(sampler_.get(), checked<float>(logits, "logits", "float32"), &token), ek_last_error());
    return token;
  }

  void accept(int32_t token) { raise_for(ek_sampler_accept(sampler_.get(), token), ek_last_error()); }

private:
  struct Free {
    void operator()(ek_sampler *sampler) const { ek_sampler_free(sampler); }
  };
  std::unique_ptr<ek_sampler, Free> sampler_;
  size_t vocab_;
};

} // namespace

void bind_sampler(nb::module_ &m) {
  nb::class_<Sampler>(m, "Sampler", "Chooses tokens; its generator and the last tokens are its own.")
      .def(nb::init<uint32_t, float, uint32_t, float, float, float, uint64_t>(), nb::arg("vocab"), nb::kw_only(),
           nb::arg("temperature") = 0, nb::arg("top_k") = 0, nb::arg("top_p") = 1, nb::arg("min_p") = 0,
           nb::arg("repetition_penalty") = 1, nb::arg("seed") = 0, "ek_sampler_params of edgekit.h.")
      .def("choose", &Sampler::choose, nb::arg("logits"), "A token drawn from float32 logits (vocab,), remembered.")
      .def("accept", &Sampler::accept, nb::arg("token"), "Remember a token that was not chosen here.");
}
