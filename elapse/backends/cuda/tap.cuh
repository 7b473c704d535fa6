// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <vector>

#include "elapse/backends/cuda/launch.cuh"
#include "elapse/ops/tap.h"

// Taps as kernels meet them, element by element: what tap.h says, with every pointer the device's.
namespace elapse::cuda {

struct PartView {
  const int64_t* row_of;
  int64_t first_channel, channel_count, first_state, state_count;

  // Where the element stands in the part; -1: not there.
  __device__ int64_t place(int64_t row, int64_t channel, int64_t state) const {
    if (row_of != nullptr) row = row_of[row];
    channel -= first_channel;
    state -= first_state;
    const bool inside =
        row >= 0 && channel >= 0 && channel < channel_count && state >= 0 && state < state_count;
    return inside ? (row * channel_count + channel) * state_count + state : -1;
  }
};

struct EditView {
  EditOp op;
  bool one;  // number for every place
  const float* source;
  PartView part;

  __device__ float source_at(int64_t place) const { return source[one ? 0 : place]; }
};

struct TapView {
  float* watch = nullptr;
  float* gradient = nullptr;
  const EditView* edits = nullptr;
  int n_edits = 0;
  PartView watched, graded;

  // The value after the edits, written to the watcher; `changed` is set where it is another.
  __device__ float through(float value, int64_t row, int64_t channel, int64_t state,
                           bool& changed) const {
    if (n_edits == 0 && watch == nullptr) return value;
    const float passed = pass(value, row, channel, state);
    if (n_edits > 0 && !(passed == value)) changed = true;
    return passed;
  }

  // The gradient of the unedited value from that of the edited one, which is written down.
  __device__ float back(float value, int64_t row, int64_t channel, int64_t state) const {
    return n_edits == 0 && gradient == nullptr ? value : pass_back(value, row, channel, state);
  }

 private:
  // Calls: kernels meet many taps, and are to be compiled in reasonable time.
  __device__ __noinline__ float pass(float value, int64_t row, int64_t channel,
                                     int64_t state) const {
    for (int i = 0; i < n_edits; ++i) {
      const int64_t at = edits[i].part.place(row, channel, state);
      if (at < 0) continue;
      const float source = edits[i].source_at(at);
      if (edits[i].op == EditOp::set) value = source;
      if (edits[i].op == EditOp::add) value += source;
      if (edits[i].op == EditOp::scale) value *= source;
    }
    put(watch, watched, value, row, channel, state);
    return value;
  }
  __device__ __noinline__ float pass_back(float value, int64_t row, int64_t channel,
                                          int64_t state) const {
    put(gradient, graded, value, row, channel, state);
    for (int i = n_edits - 1; i >= 0; --i) {
      const int64_t at = edits[i].part.place(row, channel, state);
      if (at < 0) continue;
      if (edits[i].op == EditOp::set) value = 0;
      if (edits[i].op == EditOp::scale) value *= edits[i].source_at(at);
    }
    return value;
  }

  __device__ static void put(float* into, const PartView& part, float value, int64_t row,
                             int64_t channel, int64_t state) {
    if (into == nullptr) return;
    const int64_t at = part.place(row, channel, state);
    if (at >= 0) into[at] = value;
  }
};

// Makes views of taps and keeps what these point at until the launch that takes them.
class TapViews {
 public:
  explicit TapViews(Device& device) : device_(device) {}

  // Of a value (rows, channels, states).
  TapView view(const Tap& tap, int64_t channels, int64_t states = 1) {
    TapView v;
    if (tap.watch) v.watch = tap.watch.data<float>();
    if (tap.gradient) v.gradient = tap.gradient.data<float>();
    v.watched = part(tap.watched, channels, states);
    v.graded = part(tap.graded, channels, states);
    std::vector<EditView> edits;
    for (const TapEdit& edit : tap.edits) {
      const bool one = edit.source.numel() == 1 && edit.op != EditOp::project_out;
      edits.push_back({edit.op, one, edit.source.data<float>(), part(edit.part, channels, states)});
    }
    if (edits.empty()) return v;
    kept_.push_back(device_.upload_bytes(edits.data(), DType::u8,
                                         {static_cast<int64_t>(edits.size() * sizeof(EditView))}));
    v.edits = static_cast<const EditView*>(kept_.back().raw());
    v.n_edits = static_cast<int>(edits.size());
    return v;
  }

 private:
  static PartView part(const TapPart& p, int64_t channels, int64_t states) {
    if (p.is_whole()) return {nullptr, 0, channels, 0, states};
    return {p.row_of ? p.row_of.data<int64_t>() : nullptr, p.first_channel, p.channel_count,
            p.first_state, p.state_count};
  }

  Device& device_;
  std::vector<Tensor> kept_;
};

}  // namespace elapse::cuda
