// SPDX-License-Identifier: Apache-2.0
#include "elapse/points/merged_edits.h"

#include <algorithm>

#include "elapse/ops/pointwise.h"

namespace elapse {
namespace {

// A row of this shape with this one element everywhere.
Tensor row_of_element(Device& device, const Tensor& element, const Shape& row) {
  Shape one;
  for (int i = 0; i < row.rank(); ++i) one.push_back(1);
  const Tensor out = device.zeros(element.dtype(), row);
  binary(device, {BinaryFunction::add, out, element.reshape(one), out});
  return out;
}

class MergedEdits {
 public:
  MergedEdits(Device& device, const std::string& name, const std::vector<PointChange>& changes,
              DType dtype, const Shape& shape)
      : device_(device), name_(name), dtype_(dtype), shape_(shape) {
    for (const PointChange& change : changes) {
      if (!change.part.is_empty()) add(change);
    }
  }

  std::vector<TapEdit> edits() const {
    std::vector<TapEdit> list;
    for (const Merged& m : merged_) {
      list.push_back(
          {m.op, contiguous(device_, joined(m)), tap_part(device_, name_, m.part, shape_)});
    }
    return list;
  }

 private:
  struct Merged {
    EditOp op;
    PointPart part;
    std::vector<Tensor> sources;  // rows of them, or one element
    int64_t rows;                 // of the sources; 0: one element
  };

  void add(const PointChange& change) {
    const Shape held = held_shape(name_, change.part, shape_, change.part.rows);
    const Shape one_row = held_shape(name_, change.part, shape_, 1);
    const Tensor& source = change.source;
    check_source(source, held, one_row);
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

  void check_source(const Tensor& source, const Shape& held, const Shape& one_row) const {
    const bool fits = source.dtype() == dtype_ &&
                      (source.numel() == 1 || source.shape() == held || source.shape() == one_row);
    ELAPSE_CHECK(fits, "edit of \"{}\": expected a source {} {}, {} or of one element, found {} {}",
                 name_, name_of(dtype_), held.str(), one_row.str(), name_of(source.dtype()),
                 source.shape().str());
  }

  // Every row of the value that is in the part becomes the source's only row.
  void use_one_row(PointPart& part) const {
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

  Tensor joined(const Merged& m) const {
    if (m.sources.size() == 1) return m.sources.front();
    const Tensor all = device_.empty(dtype_, held_shape(name_, m.part, shape_, m.rows));
    int64_t row = 0;
    for (const Tensor& piece : m.sources) {
      copy(device_, {piece, all.rows(row, row + piece.dim(0))});
      row += piece.dim(0);
    }
    return all;
  }

  Device& device_;
  const std::string& name_;
  DType dtype_;
  const Shape& shape_;
  std::vector<Merged> merged_;
};

}  // namespace

std::vector<TapEdit> merged_edits(Device& device, const std::string& name,
                                  const std::vector<PointChange>& changes, DType dtype,
                                  const Shape& shape) {
  return MergedEdits(device, name, changes, dtype, shape).edits();
}

}  // namespace elapse
