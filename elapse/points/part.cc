// SPDX-License-Identifier: Apache-2.0
#include "elapse/points/part.h"

#include <algorithm>
#include <numeric>

#include "elapse/ops/pointwise.h"

namespace elapse {

using Axis = PointInfo::Axis;

namespace {

int64_t size_at(const Shape& shape, int axis) { return shape.rank() > axis ? shape[axis] : 1; }

// `range` of an axis of the value.
IndexRange within(const std::string& name, const char* what, const IndexRange& range,
                  const Shape& shape, int axis) {
  const int64_t size = size_at(shape, axis);
  if (range.is_all()) return {0, size};
  ELAPSE_CHECK(shape.rank() > axis, "point \"{}\": {} are selected, but its value has none", name,
               what);
  const int64_t end = range.end == IndexRange::kToEnd ? size : range.end;
  ELAPSE_CHECK(range.begin >= 0 && range.begin < end && end <= size,
               "point \"{}\": {} {} to {} are selected, but it has {}", name, what, range.begin,
               end - 1, size);
  return {range.begin, end};
}

void check_distinct(const std::string& name, const char* what, std::vector<int64_t> numbers) {
  std::sort(numbers.begin(), numbers.end());
  const auto twice = std::adjacent_find(numbers.begin(), numbers.end());
  ELAPSE_CHECK(twice == numbers.end(), "point \"{}\": {} {} is selected twice", name, what, *twice);
}

}  // namespace

PartResolver::PartResolver(const PassRows& pass) : rows_(pass) {
  begins_.push_back(0);
  for (const int64_t length : rows_.lengths) begins_.push_back(begins_.back() + length);
}

// Calls visit(packed token) in the selection's order, -1 for one that this pass does not have.
template <class Visit>
void PartResolver::for_each_token(const Selection& where, Visit&& visit) const {
  std::vector<int64_t> chosen = where.sequences;
  if (chosen.empty()) {
    chosen.resize(rows_.lengths.size());
    std::iota(chosen.begin(), chosen.end(), 0);
  }
  for (const int64_t s : chosen) {
    const auto i = static_cast<size_t>(s);
    if (where.positions.empty()) {
      for (int64_t t = begins_[i]; t < begins_[i + 1]; ++t) visit(t);
    }
    for (const int64_t position : where.positions) {
      const int64_t into = position - rows_.starts[i];
      visit(into >= 0 && into < rows_.lengths[i] ? begins_[i] + into : -1);
    }
  }
}

PointPart PartResolver::part(const std::string& name, Axis axis, const Selection& where,
                             bool edit) const {
  check(name, axis, where);
  PointPart part{.channels = where.channels, .states = where.states};
  const bool of_logits = axis == Axis::logit_row && !rows_.logit_rows.empty();
  const int64_t all = axis == Axis::none       ? 1
                      : axis == Axis::sequence ? sequences()
                      : of_logits              ? static_cast<int64_t>(rows_.logit_rows.size())
                                               : begins_.back();
  part.rows = all;
  if (where.sequences.empty() && where.positions.empty()) return part;
  part.all_rows = false;
  part.row_of.assign(static_cast<size_t>(all), -1);
  part.rows = 0;
  if (axis == Axis::sequence) {
    for (const int64_t s : where.sequences) part.row_of[static_cast<size_t>(s)] = part.rows++;
    return part;
  }
  const std::vector<int64_t> logit_row = of_logits ? logit_row_of() : std::vector<int64_t>();
  for_each_token(where, [&](int64_t token) {
    const int64_t row = token >= 0 && of_logits ? logit_row[static_cast<size_t>(token)] : token;
    if (row >= 0) part.row_of[static_cast<size_t>(row)] = part.rows;
    if (row >= 0 || edit) ++part.rows;
  });
  return part;
}

void PartResolver::check(const std::string& name, Axis axis, const Selection& where) const {
  check_distinct(name, "sequence", where.sequences);
  check_distinct(name, "position", where.positions);
  ELAPSE_CHECK(axis != Axis::none || (where.sequences.empty() && where.positions.empty()),
               "point \"{}\": it is the same for all tokens, none can be selected", name);
  ELAPSE_CHECK(axis != Axis::sequence || where.positions.empty(),
               "point \"{}\": it is a value of sequences, not of tokens: no position of it can be "
               "selected",
               name);
  for (const int64_t s : where.sequences) {
    ELAPSE_CHECK(s >= 0 && s < sequences(),
                 "point \"{}\": sequence {} is selected, but the batch has {}", name, s,
                 sequences());
  }
  for (const int64_t p : where.positions) {
    ELAPSE_CHECK(p >= 0, "point \"{}\": position {} is selected: positions count from 0", name, p);
  }
}

std::vector<int64_t> PartResolver::logit_row_of() const {
  if (rows_.logit_rows.empty()) return {};
  std::vector<int64_t> row_of(static_cast<size_t>(begins_.back()), -1);
  for (size_t r = 0; r < rows_.logit_rows.size(); ++r) {
    row_of[static_cast<size_t>(rows_.logit_rows[r])] = static_cast<int64_t>(r);
  }
  return row_of;
}

TapPart tap_part(Device& device, const std::string& name, const PointPart& part,
                 const Shape& shape) {
  const int64_t channels = size_at(shape, 1), states = size_at(shape, 2);
  const IndexRange c = within(name, "channels", part.channels, shape, 1);
  const IndexRange n = within(name, "states", part.states, shape, 2);
  const bool whole = part.all_rows && c.end - c.begin == channels && n.end - n.begin == states;
  if (whole) return {};
  return {.row_of = part.all_rows ? Tensor() : device.upload(part.row_of, {shape[0]}),
          .rows = part.all_rows ? shape[0] : part.rows,
          .channels = channels,
          .states = states,
          .first_channel = c.begin,
          .channel_count = c.end - c.begin,
          .first_state = n.begin,
          .state_count = n.end - n.begin};
}

Shape held_shape(const std::string& name, const PointPart& part, const Shape& shape, int64_t rows) {
  const IndexRange c = within(name, "channels", part.channels, shape, 1);
  const IndexRange n = within(name, "states", part.states, shape, 2);
  Shape held = shape;
  held.set(0, rows);
  if (shape.rank() > 1) held.set(1, c.end - c.begin);
  if (shape.rank() > 2) held.set(2, n.end - n.begin);
  return held;
}

Shape one_row_of(const Shape& shape) {
  Shape row = {1};
  for (int i = 0; i < shape.rank(); ++i) row.push_back(shape[i]);
  return row;
}

Shape without_rows(const Shape& shape) {
  Shape out;
  for (int i = 1; i < shape.rank(); ++i) out.push_back(shape[i]);
  return out;
}

Tensor contiguous(Device& device, const Tensor& t) {
  if (t.is_contiguous()) return t;
  const Tensor whole = device.empty(t.dtype(), t.shape());
  copy(device, {t, whole});
  return whole;
}

}  // namespace elapse
