// SPDX-License-Identifier: Apache-2.0
// Rows of x beside those before them: a copy of width d_model floats a token, bound by memory, and
// at most a tenth of what the product that reads them takes. Backward, a row's gradient is the sum
// over those copies. A sequence's queue is written after all rows were read.
#include <vector>

#include "elapse/backends/cpu/kernels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "elapse/backends/cpu/delayed.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "elapse/backends/cpu/blocks.h"
#include "elapse/backends/cpu/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace elapse::cpu::HWY_NAMESPACE {
namespace {

// to += from
void AddTo(const float* from, int64_t n, float* to) {
  const hn::ScalableTag<float> d;
  ForLanes(d, n, [&](int64_t i, auto lanes) HWY_ATTR {
    lanes.store(hn::Add(lanes.load(to + i), lanes.load(from + i)), to + i);
  });
}

}  // namespace
}  // namespace elapse::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace elapse::cpu {
namespace {

HWY_EXPORT(AddTo);

void add_to(const float* from, int64_t n, float* to) { HWY_DYNAMIC_DISPATCH(AddTo)(from, n, to); }

// One sequence; its own time t counts from this call's first token, and is below 0 in the queue.
struct Sequence {
  Sequence(const Delays& of, const Sequences& seqs, int64_t s)
      : delays(of),
        begin(seqs.cu_seqlens.data<int64_t>()[s]),
        len(seqs.lengths[static_cast<size_t>(s)]),
        from(seqs.starts[static_cast<size_t>(s)]),
        to(seqs.ends[static_cast<size_t>(s)]),
        position(seqs.position(s)) {}

  // The row of time t in the queue of a slot.
  float* queue(const Tensor& pool, int64_t slot, int64_t t) const {
    const int64_t r = slot * delays.queue_rows() + delays.queue_row(position + t);
    return pool.data<float>() + r * pool.dim(2);
  }

  const Delays& delays;
  int64_t begin, len, from, to, position;
};

// Calls body(sequence, t) for every token, on the device's threads.
template <class Body>
void for_each_token(const Device& device, const Delays& delays, const Sequences& seqs,
                    int64_t width, Body&& body) {
  std::vector<Sequence> sequences;
  for (int64_t s = 0; s < seqs.count(); ++s) sequences.emplace_back(delays, seqs, s);
  for_each_block(device, seqs.tokens, rows_per_block(width), [&](int64_t begin, int64_t end) {
    const int64_t* cu = seqs.cu_seqlens.data<int64_t>();
    int64_t s = std::upper_bound(cu, cu + seqs.count() + 1, begin) - cu - 1;
    for (int64_t token = begin; token < end; ++token) {
      while (token >= cu[s + 1]) ++s;
      body(sequences[static_cast<size_t>(s)], token - cu[s]);
    }
  });
}

// x at time t, or what the queue has there; null for zeros.
const float* row_at(const DelayedForward& args, const Sequence& seq, int64_t t) {
  if (t >= 0) return row(args.x, seq.begin + t);
  return seq.from == Sequences::kNoSlot ? nullptr : seq.queue(args.pool, seq.from, t);
}

void copy_row(const float* from, int64_t n, float* to) {
  if (from == nullptr) std::fill_n(to, n, 0.0f);
  else if (from != to) std::copy_n(from, n, to);
}

// dx at time t gets `sum`'s first value and the gradients of all its copies.
void add_gradients(const DelayedBackward& args, const Sequence& seq, int64_t t, float* sum) {
  const int64_t d_model = args.dx.dim(1);
  for (int64_t k = 0; k < args.delays.width; ++k) {
    const int64_t reader = t + args.delays.of_block(k);
    if (reader < 0 || reader >= seq.len) continue;
    add_to(row(args.dout, seq.begin + reader) + k * d_model, d_model, sum);
  }
}

// The queue's gradient, from a sequence's end to its start, in place where they are one slot.
void pass_queue_gradient(const DelayedBackward& args, const Sequence& seq) {
  const int64_t d_model = args.dx.dim(1), rows = args.delays.queue_rows();
  for (int64_t t = -rows; t < 0; ++t) {
    float* start = seq.from == Sequences::kNoSlot ? nullptr : seq.queue(args.dpool, seq.from, t);
    float* end = seq.to == Sequences::kNoSlot ? nullptr : seq.queue(args.dpool, seq.to, t);
    const bool stayed = t >= seq.len - rows;  // in the queue to the end
    if (start != nullptr && start != end) {
      if (stayed && end != nullptr) add_to(end, d_model, start);
      add_gradients(args, seq, t, start);
    }
    if (end != nullptr && (start != end || !stayed)) std::fill_n(end, d_model, 0.0f);
    if (start != nullptr && start == end) add_gradients(args, seq, t, start);
  }
}

}  // namespace

void delayed_forward(Device& device, const DelayedForward& args) {
  const int64_t d_model = args.x.dim(1), rows = args.delays.queue_rows();
  for_each_token(
      device, args.delays, args.seqs, args.out.dim(1), [&](const Sequence& seq, int64_t t) {
        float* out = row(args.out, seq.begin + t);
        for (int64_t k = 0; k < args.delays.width; ++k) {
          copy_row(row_at(args, seq, t - args.delays.of_block(k)), d_model, out + k * d_model);
        }
      });
  for (int64_t s = 0; s < args.seqs.count(); ++s) {
    const Sequence seq(args.delays, args.seqs, s);
    if (seq.to == Sequences::kNoSlot) continue;
    const int64_t first =
        seq.from == seq.to ? std::max<int64_t>(0, seq.len - rows) : seq.len - rows;
    for (int64_t t = first; t < seq.len; ++t) {
      copy_row(row_at(args, seq, t), d_model, seq.queue(args.pool, seq.to, t));
    }
  }
}

void delayed_backward(Device& device, const DelayedBackward& args) {
  const int64_t d_model = args.dx.dim(1), rows = args.delays.queue_rows();
  for_each_token(
      device, args.delays, args.seqs, args.dout.dim(1), [&](const Sequence& seq, int64_t t) {
        float* dx = row(args.dx, seq.begin + t);
        const bool in_end = args.dpool && seq.to != Sequences::kNoSlot && t >= seq.len - rows;
        copy_row(in_end ? seq.queue(args.dpool, seq.to, t) : nullptr, d_model, dx);
        add_gradients(args, seq, t, dx);
      });
  if (!args.dpool) return;
  for (int64_t s = 0; s < args.seqs.count(); ++s) {
    pass_queue_gradient(args, Sequence(args.delays, args.seqs, s));
  }
}

}  // namespace elapse::cpu
#endif  // HWY_ONCE
