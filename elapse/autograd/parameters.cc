// SPDX-License-Identifier: Apache-2.0
#include "elapse/autograd/parameters.h"

#include "elapse/ops/pointwise.h"

namespace elapse {

Var Parameters::add(std::string name, Tensor value, bool decay) {
  Var var(std::move(value), true);
  all_.push_back({std::move(name), var, decay});
  return var;
}

Var Parameters::add(std::string name, Shape shape, ParameterUse use,
                    const std::function<Tensor()>& start) {
  const bool decay = use != ParameterUse::other;
  if (!source_.value) return add(std::move(name), start(), decay);
  Var var(source_.value(name, shape, use), source_.needs_grad);
  all_.push_back({std::move(name), var, decay});
  return var;
}

const Parameter* Parameters::find(std::string_view name) const {
  for (const Parameter& p : all_) {
    if (p.name == name) return &p;
  }
  return nullptr;
}

int64_t Parameters::count() const {
  int64_t n = 0;
  for (const Parameter& p : all_) n += p.var.value().numel();
  return n;
}

void Parameters::zero_grad(Device& device) const {
  for (const Parameter& p : all_) {
    Var var = p.var;
    if (!var.grad()) var.set_grad(device.empty(var.dtype(), var.value().shape()));
    fill(device, {var.grad(), 0});
  }
}

}  // namespace elapse
