// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "elapse/autograd/tape.h"

namespace elapse {

// A trained tensor under its published name (reference: state-spaces/mamba's state dict).
struct Parameter {
  std::string name;  // "backbone.layers.0.mixer.A_log"
  Var var;
  bool decay = true;                                        // whether weight decay applies
  double max_lr = std::numeric_limits<double>::infinity();  // whatever the others train at
};

// Published S4 trains its poles and step sizes at no more than this (state-spaces/s4, example.py;
// safari's H3): larger steps throw them far from where they remember.
inline constexpr double kDynamicsLr = 1e-3;

// What a model does with a parameter.
enum class ParameterUse : uint8_t {
  matrix,       // a linear map or a table of rows: decays, and may be of 16 bits
  convolution,  // decays
  dynamics,     // poles and step sizes of a state space: as `other`, at kDynamicsLr at most
  other,        // does not decay
};

// Parameters in the order they were made, which is the order of files and reductions.
class Parameters {
 public:
  // Where the values come from, if not from `start` below.
  struct Source {
    std::function<Tensor(const std::string& name, const Shape& shape, ParameterUse use)> value;
    bool needs_grad = true;
  };

  Parameters() = default;
  explicit Parameters(Source source) : source_(std::move(source)) {}

  Var add(std::string name, Tensor value, bool decay);
  // The source's value, or what `start` makes for a new model.
  Var add(std::string name, Shape shape, ParameterUse use, const std::function<Tensor()>& start);

  void forget_source() { source_ = {}; }  // no more parameters will come from it

  const std::vector<Parameter>& all() const { return all_; }
  const Parameter* find(std::string_view name) const;  // null if there is none
  int64_t count() const;                               // elements of all
  // Gradients of zeros, in one tensor where all parameters are of one dtype.
  void zero_grad(Device& device) const;

 private:
  Source source_;
  std::vector<Parameter> all_;
  mutable Tensor grads_;  // all of them, one after another
};

}  // namespace elapse
