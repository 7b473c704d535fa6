// SPDX-License-Identifier: Apache-2.0
#include "elapse/points/pass.h"

#include <algorithm>
#include <optional>

#include "elapse/autograd/functions.h"
#include "elapse/points/merged_edits.h"

namespace elapse {

using Axis = PointInfo::Axis;

struct PointPass::Kept {
  PointPart part;
  std::shared_ptr<Tensor> into;  // made when the first value comes, for all steps; Points has it
};

struct PointPass::Point {
  std::string name;
  Axis axis = Axis::token;
  std::optional<Kept> value = {}, gradient = {};
  std::vector<PointChange> edits = {};
};

PointPass::PointPass(Device& device, Points& points) : device_(device), points_(points) {}
PointPass::~PointPass() = default;

PointPass::PointPass(Device& device, Points& points, const std::vector<PointInfo>& known,
                     const PassRows& rows)
    : device_(device), points_(points) {
  points.check_names(known);
  const PartResolver resolver(rows);
  logit_row_of_ = resolver.logit_row_of();
  const auto at = [&](const std::string& name) -> Point& {
    std::shared_ptr<Point>& point = touched_[name];
    if (point) return *point;
    const auto info = std::find_if(known.begin(), known.end(),
                                   [&](const PointInfo& p) { return p.name == name; });
    point = std::make_shared<Point>(Point{.name = name, .axis = info->axis});
    return *point;
  };
  const auto resolve = [&](Points::Watches& watches, std::optional<Kept> Point::*kept) {
    for (auto& [name, watch] : watches) {
      watch.kept = {};
      Point& point = at(name);
      point.*kept = Kept{resolver.part(name, point.axis, watch.where, false), nullptr};
      (point.*kept)->into = std::shared_ptr<Tensor>(&watch.kept, [](Tensor*) {});
    }
  };
  resolve(points.values_, &Point::value);
  resolve(points.gradients_, &Point::gradient);
  for (const Edit& edit : points.edits_) {
    Point& point = at(edit.point);
    const bool is_row = point.axis == Axis::none && edit.source.numel() != 1;
    point.edits.push_back(
        {resolver.part(edit.point, point.axis, edit.where, true), edit.op,
         is_row ? edit.source.reshape(one_row_of(edit.source.shape())) : edit.source});
  }
}

PointPass PointPass::step(const std::vector<int64_t>& sequences, const std::vector<int64_t>& tokens,
                          bool first) const {
  PointPass pass(device_, points_);
  pass.stepped_ = true;
  std::vector<int64_t> logit_rows = tokens;
  for (int64_t& row : logit_rows) {
    if (!logit_row_of_.empty()) row = logit_row_of_[static_cast<size_t>(row)];
  }
  for (const auto& touched : touched_) {
    const auto& whole = touched.second;
    auto point = std::make_shared<Point>(*whole);
    const auto pick = [&](PointPart& part) {
      if (whole->axis == Axis::none) return;
      const std::vector<int64_t>& rows = whole->axis == Axis::sequence    ? sequences
                                         : whole->axis == Axis::logit_row ? logit_rows
                                                                          : tokens;
      std::vector<int64_t> row_of;
      for (const int64_t row : rows) {
        const bool absent = row < 0 || (whole->axis == Axis::sequence && !first);
        const auto at = static_cast<size_t>(row);
        row_of.push_back(absent ? -1 : part.all_rows ? row : part.row_of[at]);
      }
      part.row_of = std::move(row_of);
      part.all_rows = false;
    };
    if (point->value) pick(point->value->part);
    if (point->gradient) pick(point->gradient->part);
    for (PointChange& change : point->edits) pick(change.part);
    pass.touched_[touched.first] = std::move(point);
  }
  return pass;
}

const PointPass::Point* PointPass::find(std::string_view name) const {
  const auto found = touched_.find(name);
  return found == touched_.end() ? nullptr : found->second.get();
}

bool PointPass::watches(std::string_view name) const {
  const Point* point = find(name);
  return point != nullptr && point->value && !point->value->part.is_empty();
}

bool PointPass::edits(std::string_view name) const {
  const Point* point = find(name);
  return point != nullptr &&
         std::any_of(point->edits.begin(), point->edits.end(),
                     [](const PointChange& change) { return !change.part.is_empty(); });
}

bool PointPass::wants_gradient(std::string_view name) const {
  const Point* point = find(name);
  return point != nullptr && point->gradient && !point->gradient->part.is_empty();
}

// Where a part of a value of this shape is kept.
Tensor PointPass::kept(Device& device, const std::string& name, const Kept& kept, DType dtype,
                       const Shape& shape) {
  const Shape held = held_shape(name, kept.part, shape, kept.part.rows);
  if (!*kept.into) *kept.into = device.zeros(dtype, held);
  return kept.into->reshape(held);
}

Tap PointPass::tap(Device& device, const Point& point, DType dtype, const Shape& shape,
                   bool watched) const {
  const DType wide = wide_dtype(dtype);
  Tap tap;
  const auto keep = [&](const std::optional<Kept>& kept, Tensor& into, TapPart& part) {
    if (!kept || kept->part.is_empty()) return;
    part = tap_part(device, point.name, kept->part, shape);
    into = PointPass::kept(device, point.name, *kept, wide, shape);
  };
  if (watched) keep(point.value, tap.watch, tap.watched);
  keep(point.gradient, tap.gradient, tap.graded);
  tap.edits = merged_edits(device, point.name, point.edits, wide, shape);
  return tap;
}

Tap PointPass::tap(Device& device, const std::string& name, DType dtype, Shape shape) const {
  const Point* point = find(name);
  return point == nullptr ? Tap() : tap(device, *point, dtype, shape, true);
}

Var PointPass::pass(Tape& tape, const std::string& name, const Var& value) const {
  const Point* point = find(name);
  if (point == nullptr) return value;
  if (point->axis == Axis::none) return pass_one(tape, *point, value);
  Device& device = tape.device();
  const bool viewed = is_viewed(*point, value.dtype());
  const Var passed = through(
      tape, value, this->tap(device, *point, value.dtype(), value.value().shape(), !viewed));
  if (viewed) *point->value->into = contiguous(device, passed.value());
  return passed;
}

// A value that is the same for all tokens, as one row. What its steps send back adds up.
Var PointPass::pass_one(Tape& tape, const Point& point, Var value) const {
  Device& device = tape.device();
  const Shape shape = value.value().shape(), row = one_row_of(shape);
  Tap tap = this->tap(device, point, value.dtype(), row, true);
  if (tap.gradient && stepped_) {
    if (!value.needs_grad()) value = Var(value.value(), true);  // asked for all the same
    const Tensor total = tap.gradient;
    tap.gradient = device.empty(total.dtype(), total.shape());
    tape.record(value, [&device, total, part = tap.gradient] {
      binary(device, {BinaryFunction::add, total, part, total});
    });
  }
  const Var passed = reshape(tape, through(tape, reshape(tape, value, row), tap), shape);
  for (const std::optional<Kept>* kept : {&point.value, &point.gradient}) {
    if (!*kept) continue;
    Tensor& into = *(*kept)->into;
    if (into && into.shape().rank() == row.rank()) into = into.reshape(without_rows(into.shape()));
  }
  return passed;
}

// A whole value needs no copy, as it is not changed later, unless it is to be widened.
bool PointPass::is_viewed(const Point& point, DType dtype) const {
  return point.value && !stepped_ && point.value->part.is_all() && dtype == wide_dtype(dtype);
}

void PointPass::keep(Device& device, const std::string& name, const Tensor& value) const {
  const Point* point = find(name);
  if (point == nullptr || !point->value || point->value->part.is_empty()) return;
  const Kept& kept = *point->value;
  if (is_viewed(*point, value.dtype())) {
    *kept.into = contiguous(device, value);
    return;
  }
  const TapPart part = tap_part(device, name, kept.part, value.shape());
  const Tensor into = PointPass::kept(device, name, kept, wide_dtype(value.dtype()), value.shape());
  tap_forward(device, {value, {.watch = into, .watched = part}, {}});
}

PointScope PointScope::within(std::string_view part) const {
  return pass_ == nullptr ? PointScope() : PointScope(pass_, full(part));
}

Var PointScope::pass(Tape& tape, std::string_view name, const Var& value) const {
  return pass_ == nullptr ? value : pass_->pass(tape, full(name), value);
}

void PointScope::keep(Tape& tape, std::string_view name, const Tensor& value) const {
  if (pass_ != nullptr) pass_->keep(tape.device(), full(name), value);
}

Tap PointScope::tap(Tape& tape, std::string_view name, DType dtype, Shape shape) const {
  return pass_ == nullptr ? Tap() : pass_->tap(tape.device(), full(name), dtype, shape);
}

}  // namespace elapse
