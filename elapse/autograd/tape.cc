// SPDX-License-Identifier: Apache-2.0
#include "elapse/autograd/tape.h"

#include <algorithm>

#include "elapse/ops/pointwise.h"

namespace elapse {

Var::Var(Tensor value, bool needs_grad) : node_(std::make_shared<Node>()) {
  node_->value = std::move(value);
  node_->needs_grad = needs_grad;
}

Var Tape::result(Tensor value, std::initializer_list<const Var*> inputs) const {
  const bool needs_grad = recording_ && std::any_of(inputs.begin(), inputs.end(),
                                                    [](const Var* v) { return v->needs_grad(); });
  return Var(std::move(value), needs_grad);
}

Var Tape::columns(const Var& x, int64_t begin, int64_t end) const {
  Var part(x.value().columns(begin, end), x.needs_grad());
  part.node_->whole = x.node_;
  part.node_->begin = begin;
  part.node_->end = end;
  return part;
}

void Tape::record(const Var& output, std::function<void()> step) {
  record(std::vector<Var>{output}, std::move(step));
}

void Tape::record(std::vector<Var> outputs, std::function<void()> step) {
  if (!recording_) return;
  if (std::none_of(outputs.begin(), outputs.end(), [](const Var& v) { return v.needs_grad(); })) {
    return;
  }
  steps_.push_back({std::move(outputs), std::move(step)});
}

void Tape::backward(const Var& loss, double scale) {
  ELAPSE_CHECK(loss.value().numel() == 1, "backward: expected one element, found {}",
               loss.value().shape().str());
  loss.node_->grad = device_.empty(loss.dtype(), loss.value().shape());
  fill(device_, {loss.node_->grad, scale});
  backward();
}

void Tape::backward() {
  ELAPSE_CHECK(recording_, "backward: this tape does not record");
  while (!steps_.empty()) {
    const Step step = std::move(steps_.back());
    steps_.pop_back();
    const bool reached = std::any_of(step.outputs.begin(), step.outputs.end(),
                                     [](const Var& v) { return bool(v.grad()); });
    if (reached) step.run();
  }
}

Tensor Tape::accumulated_grad(const Var& x) const {
  if (!x.node_->grad) x.node_->grad = device_.zeros(x.dtype(), x.shape());
  return x.node_->grad;
}

AssignedGrad::AssignedGrad(Tape& tape, const Var& x) : tape_(tape), x_(x) {
  Var::Node& node = *x.node_;
  if (node.needs_grad && !node.grad && node.whole) {
    if (!node.whole->grad) {
      node.whole->grad = tape.device().empty(x.dtype(), node.whole->value.shape());
    }
    tensor_ = node.grad = node.whole->grad.columns(node.begin, node.end);
    return;
  }
  tensor_ = tape.device().empty(x.dtype(), x.shape());
  if (node.needs_grad && !node.grad) node.grad = tensor_;
}

void AssignedGrad::commit() {
  const Tensor& grad = x_.node_->grad;
  if (!x_.node_->needs_grad || grad.raw() == tensor_.raw()) return;
  binary(tape_.device(), {BinaryFunction::add, grad, tensor_, grad});
}

}  // namespace elapse
