// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "elapse/autograd/tape.h"
#include "elapse/points/part.h"

namespace elapse {

// Points as one forward pass meets them: selections turned into rows, kept values into tensors that
// kernels write to.
class PointPass {
 public:
  // `points` must outlive it; what it keeps is forgotten. Throws Error for a name that is not known
  // and a selection that the point or the batch does not have.
  PointPass(Device& device, Points& points, const std::vector<PointInfo>& known,
            const PassRows& rows);
  ~PointPass();

  // A pass over one token each of some of the sequences, whose values go where the whole pass's
  // would. `tokens`: the packed tokens, in the order of `sequences`. Values of sequences are those
  // of the first such pass.
  PointPass step(const std::vector<int64_t>& sequences, const std::vector<int64_t>& tokens,
                 bool first) const;

  bool watches(std::string_view name) const;
  bool edits(std::string_view name) const;
  bool wants_gradient(std::string_view name) const;
  bool wants_gradients() const { return points_.watches_gradients(); }

  // See PointScope.
  Var pass(Tape& tape, const std::string& name, const Var& value) const;
  void keep(Device& device, const std::string& name, const Tensor& value) const;
  Tap tap(Device& device, const std::string& name, DType dtype, Shape shape) const;

 private:
  struct Kept;
  struct Point;

  PointPass(Device& device, Points& points);
  const Point* find(std::string_view name) const;
  static Tensor kept(Device& device, const std::string& name, const Kept& kept, DType dtype,
                     const Shape& shape);
  bool is_viewed(const Point& point, DType dtype) const;
  Var pass_one(Tape& tape, const Point& point, Var value) const;
  Tap tap(Device& device, const Point& point, DType dtype, const Shape& shape, bool watched) const;

  Device& device_;
  Points& points_;
  bool stepped_ = false;
  std::vector<int64_t> logit_row_of_;  // by packed token; empty: itself
  std::map<std::string, std::shared_ptr<Point>, std::less<>> touched_;
};

// The points below a prefix such as "layers.3.mixer.", as the code of that part sees them.
class PointScope {
 public:
  PointScope() = default;  // nobody looks
  explicit PointScope(const PointPass* pass, std::string prefix = {})
      : pass_(pass), prefix_(std::move(prefix)) {}

  bool looks() const { return pass_ != nullptr; }
  PointScope within(std::string_view part) const;  // "mixer." below "layers.3."
  bool edits(std::string_view name) const { return pass_ && pass_->edits(full(name)); }
  bool wants_gradient(std::string_view name) const {
    return pass_ && pass_->wants_gradient(full(name));
  }
  bool touches(std::string_view name) const {
    return pass_ && (pass_->watches(full(name)) || edits(name) || wants_gradient(name));
  }

  // The value of a point that stands between operations: edited if asked, kept if watched. Its
  // rows are those of its first axis, or it is one row where that axis counts nothing.
  Var pass(Tape& tape, std::string_view name, const Var& value) const;
  // Keeps a value computed elsewhere (a view of it: values are not changed later).
  void keep(Tape& tape, std::string_view name, const Tensor& value) const;
  // The tap of a point inside a fused operation, whose value has this shape.
  Tap tap(Tape& tape, std::string_view name, DType dtype, Shape shape) const;

 private:
  std::string full(std::string_view name) const { return prefix_ + std::string(name); }

  const PointPass* pass_ = nullptr;
  std::string prefix_;
};

}  // namespace elapse
