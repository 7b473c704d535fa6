// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <algorithm>
#include <string>
#include <vector>

#include "elapse/points/points.h"

namespace elapse {

// The rows that the points of one forward pass have.
struct PassRows {
  std::vector<int64_t> lengths;     // of the sequences
  std::vector<int64_t> starts;      // the position of each sequence's first token
  std::vector<int64_t> logit_rows;  // packed tokens whose logits are asked for; empty: all
};

// Rows, channels and states of a value. The rows of the tensor that holds them may be more than one
// step's.
struct PointPart {
  bool all_rows = true;              // every row of the value, in order
  std::vector<int64_t> row_of = {};  // else, by the value's row: the part's, or -1
  int64_t rows = 0;                  // of the part
  IndexRange channels, states;

  bool is_all() const { return all_rows && channels.is_all() && states.is_all(); }
  bool is_empty() const {
    return !all_rows && std::all_of(row_of.begin(), row_of.end(), [](int64_t r) { return r < 0; });
  }
};

// Turns selections into rows of one pass.
class PartResolver {
 public:
  explicit PartResolver(const PassRows& pass);

  // Throws Error for a selection that the point or the batch does not have. For edits, rows are
  // numbered whether or not this pass comes by them.
  PointPart part(const std::string& name, PointInfo::Axis axis, const Selection& where,
                 bool edit) const;
  // By packed token the row of its logits, -1: not asked for; empty where all are.
  std::vector<int64_t> logit_row_of() const;

 private:
  int64_t sequences() const { return static_cast<int64_t>(rows_.lengths.size()); }
  void check(const std::string& name, PointInfo::Axis axis, const Selection& where) const;
  template <class Visit>
  void for_each_token(const Selection& where, Visit&& visit) const;

  const PassRows& rows_;
  std::vector<int64_t> begins_;  // of each sequence, and the end
};

// The part of a value of this shape, as kernels take it. Throws Error, naming the point, for
// channels and states that it does not have.
TapPart tap_part(Device& device, const std::string& name, const PointPart& part,
                 const Shape& shape);
// The shape of the tensor that holds so many rows of it; throws likewise.
Shape held_shape(const std::string& name, const PointPart& part, const Shape& shape, int64_t rows);

Shape one_row_of(const Shape& shape);    // (a, b) -> (1, a, b)
Shape without_rows(const Shape& shape);  // (1, a, b) -> (a, b)

// The value itself, or a copy of a view of columns, which kernels and those who save or download
// what they watched have no use for.
Tensor contiguous(Device& device, const Tensor& t);

}  // namespace elapse
