// SPDX-License-Identifier: Apache-2.0
#include "elapse/points/pass.h"

#include <algorithm>
#include <numeric>
#include <optional>

#include "elapse/autograd/functions.h"

namespace elapse {

using Axis = PointInfo::Axis;

// Rows, channels and states of a value. The rows of the tensor that holds them may be more than one
// step's.
struct PointPass::Part {
  bool all_rows = true;              // every row of the value, in order
  std::vector<int64_t> row_of = {};  // else, by the value's row: the part's, or -1
  int64_t rows = 0;                  // of the part
  IndexRange channels, states;

  bool is_empty() const {
    return !all_rows && std::all_of(row_of.begin(), row_of.end(), [](int64_t r) { return r < 0; });
  }
};

struct PointPass::Kept {
  Part part;
  std::shared_ptr<Tensor> into;  // made when the first value comes, for all steps; Points has it
};

struct PointPass::Change {
  Part part;
  EditOp op;
  Tensor source;
};

struct PointPass::Point {
  std::string name;
  Axis axis = Axis::token;
  std::optional<Kept> value = {}, gradient = {};
  std::vector<Change> edits = {};
};

namespace {

Shape with_rows(const Shape& shape, int64_t rows) {
  Shape out = shape;
  out.set(0, rows);
  return out;
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

int64_t size_at(const Shape& shape, int axis) { return shape.rank() > axis ? shape[axis] : 1; }

IndexRange within(const std::string& name, const char* what, const IndexRange& range,
                  int64_t size) {
  if (range.is_all()) return {0, size};
  const int64_t end = range.end == IndexRange::kToEnd ? size : range.end;
  ELAPSE_CHECK(range.begin >= 0 && range.begin < end && end <= size,
               "point \"{}\": {} {} to {} are selected, but it has {}", name, what, range.begin,
               end - 1, size);
  return {range.begin, end};
}

// A view of columns would be no use to those who download or save what they watched.
Tensor contiguous(Device& device, const Tensor& t) {
  if (t.is_contiguous()) return t;
  const Tensor whole = device.empty(t.dtype(), t.shape());
  copy(device, {t, whole});
  return whole;
}

void check_distinct(const std::string& name, const char* what, std::vector<int64_t> numbers) {
  std::sort(numbers.begin(), numbers.end());
  const auto twice = std::adjacent_find(numbers.begin(), numbers.end());
  ELAPSE_CHECK(twice == numbers.end(), "point \"{}\": {} {} is selected twice", name, what, *twice);
}

}  // namespace

// Turns selections into rows of one pass.
struct PointPass::Resolver {
  explicit Resolver(const PassRows& pass) : rows(pass) {
    begins.push_back(0);
    for (const int64_t length : rows.lengths) begins.push_back(begins.back() + length);
  }

  int64_t sequences() const { return static_cast<int64_t>(rows.lengths.size()); }

  // For edits, rows are numbered whether or not this pass comes by them.
  Part part(const std::string& name, Axis axis, const Selection& where, bool edit) const {
    check(name, axis, where);
    Part part{.channels = where.channels, .states = where.states};
    const bool of_logits = axis == Axis::logit_row && !rows.logit_rows.empty();
    const int64_t all = axis == Axis::none       ? 1
                        : axis == Axis::sequence ? sequences()
                        : of_logits              ? static_cast<int64_t>(rows.logit_rows.size())
                                                 : begins.back();
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

  void check(const std::string& name, Axis axis, const Selection& where) const {
    check_distinct(name, "sequence", where.sequences);
    check_distinct(name, "position", where.positions);
    ELAPSE_CHECK(axis != Axis::none || (where.sequences.empty() && where.positions.empty()),
                 "point \"{}\": it is the same for all tokens, none can be selected", name);
    ELAPSE_CHECK(
        axis != Axis::sequence || where.positions.empty(),
        "point \"{}\": it is a value of sequences, not of tokens: no position of it can be "
        "selected",
        name);
    for (const int64_t s : where.sequences) {
      ELAPSE_CHECK(s >= 0 && s < sequences(),
                   "point \"{}\": sequence {} is selected, but the batch has {}", name, s,
                   sequences());
    }
    for (const int64_t p : where.positions) {
      ELAPSE_CHECK(p >= 0, "point \"{}\": position {} is selected: positions count from 0", name,
                   p);
    }
  }

  // By packed token the row of its logits, -1: not asked for; empty where all are.
  std::vector<int64_t> logit_row_of() const {
    if (rows.logit_rows.empty()) return {};
    std::vector<int64_t> row_of(static_cast<size_t>(begins.back()), -1);
    for (size_t r = 0; r < rows.logit_rows.size(); ++r) {
      row_of[static_cast<size_t>(rows.logit_rows[r])] = static_cast<int64_t>(r);
    }
    return row_of;
  }

  // Calls visit(packed token) in the selection's order, -1 for one that this pass does not have.
  template <class Visit>
  void for_each_token(const Selection& where, Visit&& visit) const {
    std::vector<int64_t> chosen = where.sequences;
    if (chosen.empty()) {
      chosen.resize(rows.lengths.size());
      std::iota(chosen.begin(), chosen.end(), 0);
    }
    for (const int64_t s : chosen) {
      const auto i = static_cast<size_t>(s);
      if (where.positions.empty()) {
        for (int64_t t = begins[i]; t < begins[i + 1]; ++t) visit(t);
      }
      for (const int64_t position : where.positions) {
        const int64_t into = position - rows.starts[i];
        visit(into >= 0 && into < rows.lengths[i] ? begins[i] + into : -1);
      }
    }
  }

  const PassRows& rows;
  std::vector<int64_t> begins;  // of each sequence, and the end
};

PointPass::PointPass(Device& device, Points& points) : device_(device), points_(points) {}
PointPass::~PointPass() = default;

PointPass::PointPass(Device& device, Points& points, const std::vector<PointInfo>& known,
                     const PassRows& rows)
    : device_(device), points_(points) {
  points.check_names(known);
  const Resolver resolver(rows);
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
    point.edits.push_back(
        {resolver.part(edit.point, point.axis, edit.where, true), edit.op, edit.source});
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
  for (const auto& [name, whole] : touched_) {
    auto point = std::make_shared<Point>(*whole);
    const auto pick = [&](Part& part) {
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
    for (Change& change : point->edits) pick(change.part);
    pass.touched_[name] = std::move(point);
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
                     [](const Change& change) { return !change.part.is_empty(); });
}

bool PointPass::wants_gradient(std::string_view name) const {
  const Point* point = find(name);
  return point != nullptr && point->gradient && !point->gradient->part.is_empty();
}

namespace {

// The part of a value of this shape, as kernels take it.
template <class Part>
TapPart tap_part(Device& device, const std::string& name, const Part& part, const Shape& shape) {
  const int64_t channels = size_at(shape, 1), states = size_at(shape, 2);
  const IndexRange c = within(name, "channels", part.channels, channels);
  const IndexRange n = within(name, "states", part.states, states);
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

// The shape of the tensor that holds a part.
Shape held_shape(const TapPart& part, const Shape& shape, int64_t rows) {
  Shape held = with_rows(shape, rows);
  if (part.is_whole()) return held;
  if (shape.rank() > 1) held.set(1, part.channel_count);
  if (shape.rank() > 2) held.set(2, part.state_count);
  return held;
}

// One row of `like`'s shape with this one element everywhere.
Tensor row_of_element(Device& device, const Tensor& element, Shape row) {
  Shape one;
  for (int i = 0; i < row.rank(); ++i) one.push_back(1);
  const Tensor out = device.zeros(element.dtype(), row);
  binary(device, {BinaryFunction::add, out, element.reshape(one), out});
  return out;
}

}  // namespace

// Where a part of a value of this shape is kept.
Tensor PointPass::kept(Device& device, const Kept& kept, const TapPart& part, DType dtype,
                       const Shape& shape) {
  const Shape held = held_shape(part, shape, kept.part.rows);
  if (!*kept.into) *kept.into = device.zeros(dtype, held);
  return kept.into->reshape(held);
}

// A point's edits as a kernel takes them. Edits of the same kind and of other rows, of which a
// sweep over variants has hundreds, become one, so that a kernel looks at each element once.
class PointPass::MergedEdits {
 public:
  MergedEdits(Device& device, const Point& point, DType dtype, const Shape& shape)
      : device_(device), point_(point), dtype_(dtype), shape_(shape) {
    for (const Change& change : point.edits) {
      if (!change.part.is_empty()) add(change);
    }
  }

  std::vector<TapEdit> edits() const {
    std::vector<TapEdit> list;
    for (const Merged& m : merged_) {
      const TapPart part = tap_part(device_, point_.name, m.part, shape_);
      list.push_back(
          {m.op, contiguous(device_, joined(m, held_shape(part, shape_, m.rows))), part});
    }
    return list;
  }

 private:
  struct Merged {
    EditOp op;
    Part part;
    std::vector<Tensor> sources;  // rows of them, or one element
    int64_t rows;                 // of the sources; 0: one element
  };

  void add(const Change& change) {
    const TapPart part = tap_part(device_, point_.name, change.part, shape_);
    const Shape held = held_shape(part, shape_, change.part.rows), one_row = with_rows(held, 1);
    const Tensor source = checked_source(change.source, held, one_row);
    const bool element = source.numel() == 1 && source.shape() != one_row;
    Merged mine = {change.op, change.part, {source}, element ? 0 : source.dim(0)};
    if (source.shape() == one_row && held[0] != 1) use_one_row(mine.part);
    if (merged_.empty() || !joins(merged_.back(), mine)) {
      merged_.push_back(std::move(mine));
      return;
    }
    Merged& last = merged_.back();
    for (Merged* m : {&last, &mine}) spread_element(*m, one_row);
    for (size_t i = 0; i < mine.part.row_of.size(); ++i) {
      if (mine.part.row_of[i] >= 0) last.part.row_of[i] = last.rows + mine.part.row_of[i];
    }
    last.sources.push_back(mine.sources.front());
    last.rows += mine.rows;
    last.part.rows = last.rows;
  }

  Tensor checked_source(Tensor source, const Shape& held, const Shape& one_row) const {
    if (point_.axis == Axis::none && source.shape().rank() == shape_.rank() - 1) {
      source = source.reshape(one_row_of(source.shape()));
    }
    const bool fits = source.dtype() == dtype_ &&
                      (source.numel() == 1 || source.shape() == held || source.shape() == one_row);
    ELAPSE_CHECK(fits, "edit of \"{}\": expected a source {} {}, {} or of one element, found {} {}",
                 point_.name, name_of(dtype_), held.str(), one_row.str(), name_of(source.dtype()),
                 source.shape().str());
    return source;
  }

  // Every row of the value that is in the part becomes the source's only row.
  void use_one_row(Part& part) const {
    if (part.all_rows) part.row_of.assign(static_cast<size_t>(shape_[0]), 0);
    part.all_rows = false;
    part.rows = 1;
    for (int64_t& row : part.row_of) row = std::min<int64_t>(row, 0);
  }

  void spread_element(Merged& m, const Shape& one_row) const {
    if (m.rows > 0) return;
    m.sources.front() = row_of_element(device_, m.sources.front(), one_row);
    m.rows = 1;
    use_one_row(m.part);
  }

  static bool joins(const Merged& last, const Merged& next) {
    if (last.op != next.op || last.part.channels != next.part.channels ||
        last.part.states != next.part.states || last.part.all_rows || next.part.all_rows) {
      return false;
    }
    for (size_t i = 0; i < last.part.row_of.size(); ++i) {
      if (last.part.row_of[i] >= 0 && next.part.row_of[i] >= 0) return false;
    }
    return true;
  }

  Tensor joined(const Merged& m, const Shape& held) const {
    if (m.sources.size() == 1) return m.sources.front();
    const Tensor all = device_.empty(dtype_, held);
    int64_t row = 0;
    for (const Tensor& piece : m.sources) {
      copy(device_, {piece, all.rows(row, row + piece.dim(0))});
      row += piece.dim(0);
    }
    return all;
  }

  Device& device_;
  const Point& point_;
  DType dtype_;
  const Shape& shape_;
  std::vector<Merged> merged_;
};

Tap PointPass::tap(Device& device, const Point& point, DType dtype, const Shape& shape,
                   bool watched) const {
  Tap tap;
  const auto keep = [&](const std::optional<Kept>& kept, Tensor& into, TapPart& part) {
    if (!kept || kept->part.is_empty()) return;
    part = tap_part(device, point.name, kept->part, shape);
    into = PointPass::kept(device, *kept, part, dtype, shape);
  };
  if (watched) keep(point.value, tap.watch, tap.watched);
  keep(point.gradient, tap.gradient, tap.graded);
  tap.edits = MergedEdits(device, point, dtype, shape).edits();
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
  const bool viewed = is_viewed(device, *point, value.value().shape());
  const Var passed = through(
      tape, value, this->tap(device, *point, value.dtype(), value.value().shape(), !viewed));
  if (viewed) *point->value->into = contiguous(device, passed.value());
  return passed;
}

// A value that is the same for all tokens, as one row. What its steps send back adds up.
Var PointPass::pass_one(Tape& tape, const Point& point, const Var& value) const {
  Device& device = tape.device();
  const Shape shape = value.value().shape(), row = one_row_of(shape);
  Tap tap = this->tap(device, point, value.dtype(), row, true);
  if (tap.gradient && stepped_) {
    const Tensor total = tap.gradient;
    tap.gradient = device.empty(value.dtype(), total.shape());
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

// A whole value needs no copy, as it is not changed later.
bool PointPass::is_viewed(Device& device, const Point& point, const Shape& shape) const {
  return point.value && !stepped_ &&
         tap_part(device, point.name, point.value->part, shape).is_whole();
}

void PointPass::keep(Device& device, const std::string& name, const Tensor& value) const {
  const Point* point = find(name);
  if (point == nullptr || !point->value || point->value->part.is_empty()) return;
  const Kept& kept = *point->value;
  if (is_viewed(device, *point, value.shape())) {
    *kept.into = contiguous(device, value);
    return;
  }
  const TapPart part = tap_part(device, name, kept.part, value.shape());
  const Tensor into = PointPass::kept(device, kept, part, value.dtype(), value.shape());
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
