// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <string>
#include <vector>

#include "elapse/autograd/tape.h"

namespace elapse {

// A trained tensor under its published name (reference: state-spaces/mamba's state dict).
struct Parameter {
  std::string name;  // "backbone.layers.0.mixer.A_log"
  Var var;
  bool decay = true;  // whether weight decay applies
};

// Parameters in the order they were made, which is the order of files and reductions.
class Parameters {
 public:
  Var add(std::string name, Tensor value, bool decay);

  const std::vector<Parameter>& all() const { return all_; }
  const Parameter* find(std::string_view name) const;  // null if there is none
  int64_t count() const;                               // elements of all
  void zero_grad(Device& device) const;

 private:
  std::vector<Parameter> all_;
};

}  // namespace elapse
