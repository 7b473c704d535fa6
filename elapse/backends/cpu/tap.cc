// SPDX-License-Identifier: Apache-2.0
// Taps of values that stand between operations: a row is copied, and then only what its parts hold
// is touched. 8 bytes an element, at memory speed; the compiler's own vectors are enough.
#include <algorithm>

#include "elapse/backends/cpu/blocks.h"
#include "elapse/backends/cpu/kernels.h"

namespace elapse::cpu {
namespace {

// Calls body(value, part, count) with each run of neighbours in row r that `part` holds: where it
// starts in the row's elements, and where in the part's.
template <class Body>
void for_each_run(const TapPart& part, int64_t r, int64_t width, Body&& body) {
  const int64_t row = part.part_row(r);
  if (row < 0) return;
  if (part.is_whole()) return body(int64_t{0}, row * width, width);
  const int64_t runs = part.state_count == part.states ? 1 : part.channel_count;
  const int64_t count = part.channel_count * part.state_count / std::max<int64_t>(1, runs);
  for (int64_t i = 0; i < runs; ++i) {
    body((part.first_channel + i) * part.states + part.first_state, (row * runs + i) * count,
         count);
  }
}

double dot(const float* a, const float* b, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += double(a[i]) * b[i];
  return sum;
}

// v - (v.u / u.u) u; so too its gradient, as the projection is its own transpose.
void project_out(float* v, const float* u, int64_t n) {
  const double squares = dot(u, u, n);
  if (squares == 0) return;
  const double share = dot(v, u, n) / squares;
  for (int64_t i = 0; i < n; ++i) v[i] -= static_cast<float>(share * u[i]);
}

void edit_row(const TapEdit& edit, int64_t r, float* values, int64_t width) {
  for_each_run(edit.part, r, width, [&](int64_t value, int64_t place, int64_t count) {
    float* v = values + value;
    const bool one = edit.source.numel() == 1 && edit.op != EditOp::project_out;
    const float* source = edit.source.data<float>() + (one ? 0 : place);
    const int64_t step = one ? 0 : 1;
    switch (edit.op) {
      case EditOp::none:
        break;
      case EditOp::set:
        for (int64_t i = 0; i < count; ++i) v[i] = source[i * step];
        break;
      case EditOp::add:
        for (int64_t i = 0; i < count; ++i) v[i] += source[i * step];
        break;
      case EditOp::scale:
        for (int64_t i = 0; i < count; ++i) v[i] *= source[i * step];
        break;
      case EditOp::project_out:
        project_out(v, source, count);
        break;
    }
  });
}

void edit_row_back(const TapEdit& edit, int64_t r, float* gradients, int64_t width) {
  if (edit.op == EditOp::add) return;
  if (edit.op != EditOp::set) return edit_row(edit, r, gradients, width);
  for_each_run(edit.part, r, width, [&](int64_t value, int64_t, int64_t count) {
    std::fill_n(gradients + value, count, 0.0f);
  });
}

void keep_row(const Tensor& kept, const TapPart& part, int64_t r, const float* values,
              int64_t width) {
  if (!kept) return;
  for_each_run(part, r, width, [&](int64_t value, int64_t place, int64_t count) {
    std::copy_n(values + value, count, kept.data<float>() + place);
  });
}

// Calls body(row, width) for all rows of x.
template <class Body>
void for_each_row(const Device& device, const Tensor& x, Body&& body) {
  const int64_t rows = x.dim(0), width = x.numel() / std::max<int64_t>(1, rows);
  for_each_block(device, rows, rows_per_block(width), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) body(r, width);
  });
}

}  // namespace

void tap_forward(Device& device, const TapForward& args) {
  for_each_row(device, args.x, [&](int64_t r, int64_t width) {
    const float* values = row(args.x, r);
    if (args.out) {
      float* out = row(args.out, r);
      std::copy_n(values, width, out);
      for (const TapEdit& edit : args.tap.edits) edit_row(edit, r, out, width);
      values = out;
    }
    keep_row(args.tap.watch, args.tap.watched, r, values, width);
  });
}

void tap_backward(Device& device, const TapBackward& args) {
  for_each_row(device, args.dout, [&](int64_t r, int64_t width) {
    float* dx = row(args.dx, r);
    std::copy_n(row(args.dout, r), width, dx);
    keep_row(args.tap.gradient, args.tap.graded, r, dx, width);
    for (auto edit = args.tap.edits.rbegin(); edit != args.tap.edits.rend(); ++edit) {
      edit_row_back(*edit, r, dx, width);
    }
  });
}

}  // namespace elapse::cpu
