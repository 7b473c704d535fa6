// SPDX-License-Identifier: Apache-2.0
#include "elapse/autograd/parameters.h"

#include <algorithm>

#include "elapse/ops/pointwise.h"

namespace elapse {
namespace {

bool decays(ParameterUse use) {
  return use == ParameterUse::matrix || use == ParameterUse::convolution;
}

}  // namespace

Var Parameters::add(std::string name, Tensor value, bool decay) {
  Var var(std::move(value), true);
  all_.push_back({std::move(name), var, decay});
  return var;
}

Var Parameters::add(std::string name, Shape shape, ParameterUse use,
                    const std::function<Tensor()>& start) {
  Parameter p = {.name = std::move(name), .decay = decays(use)};
  if (use == ParameterUse::dynamics) p.max_lr = kDynamicsLr;
  p.var = source_.value ? Var(source_.value(p.name, shape, use), source_.needs_grad)
                        : Var(start(), true);
  all_.push_back(std::move(p));
  return all_.back().var;
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

namespace {

// Elements from one gradient's start to the next one's: whole lines of caches.
int64_t room_for(const Parameter& p) { return (p.var.value().numel() + 15) / 16 * 16; }

}  // namespace

void Parameters::zero_grad(Device& device) const {
  if (all_.empty()) return;
  const DType dtype = all_.front().var.dtype();
  const bool are_one =
      std::all_of(all_.begin(), all_.end(), [&](const auto& p) { return p.var.dtype() == dtype; });
  int64_t room = 0;
  for (const Parameter& p : all_) room += room_for(p);
  if (are_one && (!grads_ || grads_.numel() != room)) grads_ = device.empty(dtype, {room});
  int64_t begin = 0;
  for (const Parameter& p : all_) {
    const Tensor& value = p.var.value();
    Var var = p.var;
    if (are_one) {
      var.set_grad(grads_.rows(begin, begin + value.numel()).reshape(value.shape()));
      begin += room_for(p);
    } else {
      var.set_grad(device.zeros(p.var.dtype(), value.shape()));
    }
  }
  if (are_one) fill(device, {grads_, 0});
}

}  // namespace elapse
