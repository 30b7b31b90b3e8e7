// A loaded model.
#ifndef EK_BINDINGS_MODEL_H
#define EK_BINDINGS_MODEL_H

#include "bindings.h"
#include "edgekit.h"

#include <memory>

// Contexts share the C model, so that it lives as long as the last of them, whatever is closed first.
class Model {
public:
  Model(nb::object path, uint32_t threads, nb::object progress);

  const std::shared_ptr<ek_model> &open() const; // ValueError after close
  ek_model_info info() const;
  nb::tuple heads(uint32_t layer) const;
  void close() { model_.reset(); }

private:
  std::shared_ptr<ek_model> model_;
};

#endif
