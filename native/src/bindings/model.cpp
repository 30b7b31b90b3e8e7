#include "bindings/model.h"

#include "status.h"
#include "threads/cores.h"

#include <optional>
#include <string>

namespace {

// What the progress function of C calls, from the thread that opens the model.
struct Progress {
  nb::object callback;                    // or None
  std::optional<nb::python_error> raised; // by the callback, or by a signal's handler
};

int report(void *user, uint64_t done, uint64_t total) {
  Progress *progress = static_cast<Progress *>(user);
  nb::gil_scoped_acquire held;
  try {
    if (PyErr_CheckSignals() != 0) throw nb::python_error();
    if (!progress->callback.is_none()) progress->callback(done, total);
    return 0;
  } catch (nb::python_error &error) {
    progress->raised.emplace(error);
    return 1;
  }
}

std::string file_name(const nb::object &path) {
  PyObject *bytes = nullptr; // as os.fsencode gives it; refuses other objects and zero bytes
  if (!PyUnicode_FSConverter(path.ptr(), &bytes)) throw nb::python_error();
  nb::object held = nb::steal(bytes);
  return PyBytes_AS_STRING(bytes);
}

} // namespace

Model::Model(nb::object path, uint32_t threads, nb::object progress) {
  const std::string name = file_name(path);
  Progress reported{progress, std::nullopt};
  ek_model_params params{};
  params.struct_size = sizeof params;
  params.threads = threads;
  params.progress = report;
  params.user = &reported;
  ek_model *model = nullptr;
  ek_status status;
  {
    nb::gil_scoped_release released;
    status = ek_model_open(name.c_str(), &params, &model);
  }
  if (status == EK_OK) model_ = std::shared_ptr<ek_model>(model, ek_model_free);
  if (reported.raised) throw nb::python_error(*reported.raised);
  raise_for(status, ek_last_error());
}

const std::shared_ptr<ek_model> &Model::open() const {
  if (!model_) throw nb::value_error("the model is closed: open it again");
  return model_;
}

ek_model_info Model::info() const {
  ek_model_info info{};
  info.struct_size = sizeof info;
  raise_for(ek_model_describe(open().get(), &info), ek_last_error());
  return info;
}

nb::tuple Model::heads(uint32_t layer) const {
  uint32_t heads = 0, kv_heads = 0;
  raise_for(ek_model_heads(open().get(), layer, &heads, &kv_heads), ek_last_error());
  return nb::make_tuple(heads, kv_heads);
}

template <class T, T ek_model_info::*member> static T told(const Model &model) { return model.info().*member; }

void bind_model(nb::module_ &m) {
  m.def("big_cores", [] { return ek_big_cores(nullptr).count; }, "Threads of a model where no number is asked for.");
  nb::class_<Model>(m, "Model", "A GGUF, its weights packed for this machine.")
      .def(nb::init<nb::object, uint32_t, nb::object>(), nb::arg("path"), nb::arg("threads") = 0,
           nb::arg("progress").none() = nb::none(),
           "threads 0: one for each big core. progress(done, total) is called with bytes; what it raises ends loading.")
      .def_prop_ro("architecture", &told<const char *, &ek_model_info::architecture>)
      .def_prop_ro("isa", &told<const char *, &ek_model_info::isa>)
      .def_prop_ro("layers", &told<uint32_t, &ek_model_info::layers>)
      .def_prop_ro("hidden", &told<uint32_t, &ek_model_info::hidden>)
      .def_prop_ro("head_dim", &told<uint32_t, &ek_model_info::head_dim>)
      .def_prop_ro("vocab", &told<uint32_t, &ek_model_info::vocab>)
      .def_prop_ro("context", &told<uint32_t, &ek_model_info::context>)
      .def_prop_ro("window", &told<uint32_t, &ek_model_info::window>)
      .def_prop_ro("threads", &told<uint32_t, &ek_model_info::threads>)
      .def_prop_ro("weight_bytes", &told<uint64_t, &ek_model_info::weight_bytes>)
      .def_prop_ro("mapped_bytes", &told<uint64_t, &ek_model_info::mapped_bytes>)
      .def_prop_ro("decode_bytes", &told<uint64_t, &ek_model_info::decode_bytes>)
      .def("heads", &Model::heads, nb::arg("layer"), "Query and KV heads of a layer.")
      .def("close", &Model::close, "Contexts keep the model's memory until they are closed too.");
}
