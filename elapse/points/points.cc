// SPDX-License-Identifier: Apache-2.0
#include "elapse/points/points.h"

#include <algorithm>

#include "elapse/autograd/functions.h"

namespace elapse {
namespace {

// A view of columns would be no use to those who download or save what they watched.
Tensor contiguous(Device& device, const Tensor& t) {
  if (t.is_contiguous()) return t;
  const Tensor whole = device.empty(t.dtype(), t.shape());
  copy(device, {t, whole});
  return whole;
}

}  // namespace

void Points::watch(std::string_view name) { watched_.try_emplace(std::string(name)); }

void Points::edit(Edit change) {
  ELAPSE_CHECK(change.op != EditOp::none && change.source,
               "edit of \"{}\": an operation and its source are needed", change.point);
  const std::string name = change.point;
  const bool fresh = edits_.emplace(name, std::move(change)).second;
  ELAPSE_CHECK(fresh, "edit of \"{}\": the point is edited already", name);
}

const Tensor& Points::value(std::string_view name) const {
  const auto found = watched_.find(name);
  ELAPSE_CHECK(found != watched_.end(), "point \"{}\" is not watched", name);
  ELAPSE_CHECK(found->second, "point \"{}\" was not passed by any forward pass yet", name);
  return found->second;
}

bool Points::watches(std::string_view name) const { return watched_.contains(name); }

const Edit* Points::edit_at(std::string_view name) const {
  const auto found = edits_.find(name);
  return found == edits_.end() ? nullptr : &found->second;
}

std::vector<std::string> Points::watched() const {
  std::vector<std::string> names;
  for (const auto& [name, value] : watched_) names.push_back(name);
  return names;
}

void Points::check_names(const std::vector<std::string>& known) const {
  const auto check = [&](const std::string& name) {
    ELAPSE_CHECK(std::find(known.begin(), known.end(), name) != known.end(),
                 "the model has no point \"{}\" (it has {} points, from \"{}\" to \"{}\")", name,
                 known.size(), known.front(), known.back());
  };
  for (const auto& [name, value] : watched_) check(name);
  for (const auto& [name, change] : edits_) check(name);
}

std::string Points::key() const {
  std::string key;
  for (const auto& [name, value] : watched_) key += fmt::format("watch {};", name);
  for (const auto& [name, change] : edits_) {
    key += fmt::format("edit {} {} {};", name, static_cast<int>(change.op),
                       change.source.shape().str());
  }
  return key;
}

void Points::keep(std::string_view name, Tensor value) {
  watched_.find(name)->second = std::move(value);
}

PointScope::PointScope(Points* points, std::string prefix)
    : points_(points != nullptr && !points->empty() ? points : nullptr),
      prefix_(std::move(prefix)) {}

PointScope PointScope::within(std::string_view part) const {
  return points_ == nullptr ? PointScope() : PointScope(points_, full(part));
}

bool PointScope::watches(std::string_view name) const {
  return points_ != nullptr && points_->watches(full(name));
}

bool PointScope::edits(std::string_view name) const {
  return points_ != nullptr && points_->edit_at(full(name)) != nullptr;
}

Var PointScope::pass(Tape& tape, std::string_view name, const Var& value) const {
  if (points_ == nullptr) return value;
  const Edit* change = points_->edit_at(full(name));
  const Var passed = change ? elapse::edit(tape, value, change->op, change->source) : value;
  if (watches(name)) points_->keep(full(name), contiguous(tape.device(), passed.value()));
  return passed;
}

void PointScope::keep(std::string_view name, const Tensor& value) const {
  if (watches(name)) points_->keep(full(name), value);
}

Tap PointScope::tap(Tape& tape, std::string_view name, DType dtype, Shape shape) const {
  Tap tap;
  if (points_ == nullptr) return tap;
  if (watches(name)) {
    tap.watch = tape.device().empty(dtype, shape);
    keep(name, tap.watch);
  }
  if (const Edit* change = points_->edit_at(full(name))) {
    tap.op = change->op;
    tap.source = change->source;
  }
  return tap;
}

}  // namespace elapse
