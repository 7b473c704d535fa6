// SPDX-License-Identifier: Apache-2.0
#include "elapse/ops/delayed.h"

#include <algorithm>
#include <vector>

#include "elapse/backends/ref/kernels.h"
#include "elapse/backends/ref/math.h"

namespace elapse::ref {
namespace {

// One sequence; its own time t counts from this call's first token, and is below 0 in the queue.
template <class Args>
struct Sequence {
  Sequence(const Args& args, int64_t s)
      : delays(args.delays),
        begin(args.seqs.cu_seqlens.template data<int64_t>()[s]),
        len(args.seqs.cu_seqlens.template data<int64_t>()[s + 1] - begin),
        from(args.seqs.start_slots.template data<int64_t>()[s]),
        to(args.seqs.end_slots.template data<int64_t>()[s]),
        position(args.seqs.position(s)) {}

  // The row of time t in the queue of a slot.
  template <class T>
  T* queue(const Tensor& pool, int64_t slot, int64_t t) const {
    const int64_t r = slot * delays.queue_rows() + delays.queue_row(position + t);
    return pool.data<T>() + r * pool.dim(2);
  }

  const Delays& delays;
  int64_t begin, len, from, to, position;
};

template <class T>
void forward(Device&, const DelayedForward& a) {
  const int64_t d_model = a.x.dim(1);
  const std::vector<T> zeros(static_cast<size_t>(d_model), T(0));
  for (int64_t s = 0; s < a.seqs.count(); ++s) {
    const Sequence seq(a, s);
    const auto row_at = [&](int64_t t) -> const T* {
      if (t >= 0) return Matrix<T>(a.x).row(seq.begin + t);
      return seq.from >= 0 ? seq.template queue<T>(a.pool, seq.from, t) : zeros.data();
    };
    for (int64_t t = 0; t < seq.len; ++t) {
      for (int64_t k = 0; k < a.delays.width; ++k) {
        const T* row = row_at(t - a.delays.of_block(k));
        std::copy_n(row, d_model, Matrix<T>(a.out).row(seq.begin + t) + k * d_model);
      }
    }
    if (seq.to < 0) continue;
    for (int64_t t = seq.len - a.delays.queue_rows(); t < seq.len; ++t) {
      T* end = seq.template queue<T>(a.pool, seq.to, t);
      if (row_at(t) != end) std::copy_n(row_at(t), d_model, end);
    }
  }
}

template <class T>
void backward(Device&, const DelayedBackward& a) {
  const int64_t d_model = a.dx.dim(1), rows = a.delays.queue_rows();
  std::vector<T> dend(static_cast<size_t>(rows * d_model));
  for (int64_t s = 0; s < a.seqs.count(); ++s) {
    const Sequence seq(a, s);
    std::fill(dend.begin(), dend.end(), T(0));
    if (a.dpool && seq.to >= 0) {
      T* end = a.dpool.data<T>() + seq.to * rows * d_model;
      std::copy_n(end, rows * d_model, dend.begin());
      std::fill_n(end, rows * d_model, T(0));
    }
    // Of channel e at time t: from every token that has it beside itself, and from the end's queue.
    const auto gradient = [&](int64_t t, int64_t e) {
      const int64_t r = a.delays.queue_row(seq.position + t);
      double sum = t >= seq.len - rows ? double(dend[static_cast<size_t>(r * d_model + e)]) : 0;
      for (int64_t k = 0; k < a.delays.width; ++k) {
        const int64_t reader = t + a.delays.of_block(k);
        if (reader < 0 || reader >= seq.len) continue;
        sum += double(Matrix<T>(a.dout)(seq.begin + reader, k * d_model + e));
      }
      return static_cast<T>(sum);
    };
    for (int64_t t = -rows; t < seq.len; ++t) {
      if (t < 0 && (!a.dpool || seq.from < 0)) continue;
      for (int64_t e = 0; e < d_model; ++e) {
        if (t >= 0) Matrix<T>(a.dx)(seq.begin + t, e) = gradient(t, e);
        else seq.template queue<T>(a.dpool, seq.from, t)[e] += gradient(t, e);
      }
    }
  }
}

}  // namespace

template <class T>
void add_delayed(KernelTable& table) {
  table.set<DelayedForward>(forward<T>);
  table.set<DelayedBackward>(backward<T>);
}
template void add_delayed<float>(KernelTable&);
template void add_delayed<double>(KernelTable&);

}  // namespace elapse::ref
