// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <functional>
#include <memory>
#include <vector>

#include "elapse/ops/device.h"

namespace elapse {

// A value in a computation, and its gradient once backward has reached it. Copying a Var shares
// both. Values are never changed after they were computed, except those of state pools.
class Var {
 public:
  Var() = default;
  // A leaf. Gradients flow to it if `needs_grad`.
  explicit Var(Tensor value, bool needs_grad = false);

  explicit operator bool() const { return node_ != nullptr; }
  const Tensor& value() const {
    if (!node_->value && node_->make) node_->value = node_->make();
    return node_->value;
  }
  const Tensor& grad() const { return node_->grad; }  // empty before backward
  void set_grad(Tensor grad) { node_->grad = std::move(grad); }
  // Gives the value's memory back where no view of it is left: nobody reads it again, backward
  // included. Its dtype and shape stay.
  void forget_value() const { node_->value = node_->value.without_memory(); }
  // The same of a value that backward reads: it is made again, with the same bits, for that.
  void make_value_again(std::function<Tensor()> make) const {
    forget_value();
    node_->make = std::move(make);
  }
  bool needs_grad() const { return node_ != nullptr && node_->needs_grad; }
  DType dtype() const { return node_->value.dtype(); }
  const Shape& shape() const { return node_->value.shape(); }
  int64_t dim(int i) const { return node_->value.dim(i); }

 private:
  friend class Tape;
  friend class AssignedGrad;
  struct Node {
    Tensor value;
    Tensor grad;
    std::function<Tensor()> make;  // where the value's memory was given back and is wanted again
    bool needs_grad = false;
    std::shared_ptr<Node> whole;  // this is columns [begin, end) of another value,
    int64_t begin = 0, end = 0;   // and its gradient lives in that one's
  };
  std::shared_ptr<Node> node_;
};

// Records what is computed and replays it backwards. Gradients of values in between are assigned
// by their first reader and added to by further ones; those of parameters and everything else a
// backward "accumulates" start from zeros and keep what they hold between calls.
class Tape {
 public:
  // Without `recording`, functions compute values alone.
  explicit Tape(Device& device, bool recording = true) : device_(device), recording_(recording) {}

  Device& device() const { return device_; }
  bool recording() const { return recording_; }

  // A new value computed from others; it needs a gradient if one of them does.
  Var result(Tensor value, std::initializer_list<const Var*> inputs) const;
  // Columns [begin, end) of x, without a copy: for split (functions.h), which sees to it that every
  // column's gradient is filled.
  Var columns(const Var& x, int64_t begin, int64_t end) const;

  // `step` runs in backward() if `output` needs a gradient and one has reached it.
  void record(const Var& output, std::function<void()> step);
  // As above, for a step with several outputs: runs if a gradient has reached any of them; the
  // step must allow for the others having none.
  void record(std::vector<Var> outputs, std::function<void()> step);

  // Gradients of everything `loss` (one element) depends on; forgets what was recorded. The
  // gradient starts from `scale`, so that several backward calls can add up to a mean.
  void backward(const Var& loss, double scale = 1);
  // As above from several outputs whose gradients were set by the caller.
  void backward();

  // The gradient of x for a kernel that accumulates: what it holds so far, zeros at first.
  Tensor accumulated_grad(const Var& x) const;

 private:
  struct Step {
    std::vector<Var> outputs;
    std::function<void()> run;
  };
  Device& device_;
  bool recording_;
  std::vector<Step> steps_;
};

// The gradient of x for a kernel that assigns. Written in place if it is x's first, else beside it
// and added by commit(). For an x that needs no gradient it is scratch memory.
class AssignedGrad {
 public:
  AssignedGrad(Tape& tape, const Var& x);
  const Tensor& tensor() const { return tensor_; }
  void commit();

 private:
  Tape& tape_;
  Var x_;
  Tensor tensor_;
};

}  // namespace elapse
