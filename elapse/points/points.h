// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "elapse/autograd/tape.h"
#include "elapse/ops/tap.h"

namespace elapse {

// A change to the value passing a named point, as data.
struct Edit {
  std::string point;  // "layers.3.mixer.dt"
  EditOp op = EditOp::none;
  Tensor source;  // the shape of the value in each call, or one element
};

// What to watch and what to change inside a model while it runs: in training, prefill or decoding.
// The names are those a model lists (LanguageModel::point_names). Watching changes no bit of what
// the model computes; an edit is applied first, and watching then sees the edited value.
class Points {
 public:
  void watch(std::string_view name);
  void edit(Edit change);

  // Values of the last forward pass, one for each watched name: contiguous, in the point's
  // shape, with the packed tokens as the first axis.
  const Tensor& value(std::string_view name) const;  // Error where it was not watched or not passed

  bool watches(std::string_view name) const;
  const Edit* edit_at(std::string_view name) const;  // null if there is none
  std::vector<std::string> watched() const;
  const std::map<std::string, Edit, std::less<>>& edits() const { return edits_; }
  bool empty() const { return watched_.empty() && edits_.empty(); }
  // Throws Error naming the first name that is not one of `known`.
  void check_names(const std::vector<std::string>& known) const;
  // Which names are watched and how which are edited: equal for sets that run the same kernels, so
  // a captured device graph can be kept by it.
  std::string key() const;

  void keep(std::string_view name, Tensor value);  // called by the model as values pass

 private:
  std::map<std::string, Tensor, std::less<>> watched_;
  std::map<std::string, Edit, std::less<>> edits_;
};

// The points below a prefix such as "layers.3.mixer.", as the code of that part sees them.
class PointScope {
 public:
  PointScope() = default;  // nobody looks
  PointScope(Points* points, std::string prefix);

  PointScope within(std::string_view part) const;  // "mixer." below "layers.3."
  bool watches(std::string_view name) const;
  bool edits(std::string_view name) const;
  bool touches(std::string_view name) const { return watches(name) || edits(name); }

  // The value of a point that stands between operations: edited if asked, kept if watched.
  Var pass(Tape& tape, std::string_view name, const Var& value) const;
  // Keeps a value computed elsewhere (a view of it: values are not changed later).
  void keep(std::string_view name, const Tensor& value) const;
  // The tap of a point inside a fused operation, whose value has this shape.
  Tap tap(Tape& tape, std::string_view name, DType dtype, Shape shape) const;

 private:
  std::string full(std::string_view name) const { return prefix_ + std::string(name); }

  Points* points_ = nullptr;
  std::string prefix_;
};

}  // namespace elapse
