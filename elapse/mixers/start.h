// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <functional>
#include <vector>

#include "elapse/core/random.h"
#include "elapse/mixers/mixer.h"

// What mixers start from: published initial values, and states that somebody looks at.
namespace elapse {

// draw() for each element in order, rounded to float32, which every published checkpoint starts
// from.
template <class Draw>
Tensor drawn_tensor(Device& device, DType dtype, const Shape& shape, Draw&& draw) {
  std::vector<float> values(static_cast<size_t>(shape.numel()));
  for (float& v : values) v = static_cast<float>(draw());
  if (dtype == DType::f32) return device.upload(values, shape);
  return device.upload(std::vector<double>(values.begin(), values.end()), shape);
}

Var filled(Device& device, DType dtype, Shape shape, double value);  // not trained

// 1 / sqrt(inputs): PyTorch starts maps of so many inputs uniform within it.
double linear_bound(int64_t inputs);

// The published range of step sizes is 1e-3 to 0.1: log dt uniform over it, and a bias whose
// softplus is such a dt.
double log_dt_start(Random& random);
double dt_bias_start(Random& random);

// Adds a layer's parameters under `prefix`, drawn from `random` in the order of the calls.
struct NewParameters {
  Device& device;
  DType dtype;
  std::string prefix;
  Random& random;
  Parameters& parameters;

  template <class Draw>
  Var drawn(const std::string& name, const Shape& shape, ParameterUse use, Draw&& draw) const {
    return parameters.add(prefix + name, shape, use,
                          [&] { return drawn_tensor(device, dtype, shape, draw); });
  }
  Var constant(const std::string& name, const Shape& shape, ParameterUse use, double value) const;
  // Within -bound to bound.
  Var uniform(const std::string& name, const Shape& shape, ParameterUse use, double bound) const;
  Var normal(const std::string& name, const Shape& shape, ParameterUse use,
             double deviation = 1) const;
};

// run(seqs, pool), where `pool` is a part ("h") of the state, or empty without a state: zeros.
// Where the point `name` of what sequences start from is edited, or its gradient is asked for, the
// pool is one of its own with a slot a sequence, and the ends go back into the state's: S4D, H3 and
// Hyena then run by their recurrence or direct sums, whose rounding differs from the transforms'.
Var run_from_starts(Tape& tape, const Mixer& mixer, const LayerState* state, const char* part,
                    const char* name, const Sequences& seqs, const PointScope& points,
                    const std::function<Var(const Sequences& seqs, const Var& pool)>& run);

}  // namespace elapse
