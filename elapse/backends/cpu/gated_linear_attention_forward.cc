// SPDX-License-Identifier: Apache-2.0
// Gated linear attention, forward. A task is one head of one sequence, whose states h stay in the
// cache while it walks blocks of 16 tokens:
//   1. y = (q, times the decays since the block's start) h^T.
//   2. y += P v, where P[i][j] = sum_n q_i k_j (the decays after j up to i), j <= i.
//   3. h = (the block's decays) h + v^T (k, times the decays to the block's end).
// Decays are only ever multiplied, each product from one token on: nothing is divided, so none of
// them overflows, however near 0 they are. Three products are of matrices; P's are made directly,
// one multiplication for the decay and one for the sum.
//
// Bound: 2 d_k + 16 multiplications a (token, channel) at what the products reach, and 17 d_k
// multiplications a (token, head) for P.
//
// A sequence of one token, as in decoding, is a pass over its states, bound by reading and writing
// them: 8 bytes a state for 3 multiplications.
#include "elapse/backends/cpu/kernels.h"
#include "elapse/ops/pointwise.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "elapse/backends/cpu/gated_linear_attention_forward.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "elapse/backends/cpu/gated_linear_attention-inl.h"

HWY_BEFORE_NAMESPACE();
namespace elapse::cpu::HWY_NAMESPACE {
namespace {

// kChannels channels of one token: their states one step on, and their sums with q.
template <int kChannels>
HWY_INLINE void StepChannels(const float* from, float* to, const float* decay, const float* k,
                             const float* q, int64_t n, const float* v, float* y) {
  const D d;
  V sums[kChannels], write[kChannels];
  HWY_UNROLL(4) for (int c = 0; c < kChannels; ++c) {
    sums[c] = hn::Zero(d);
    write[c] = hn::Set(d, v[c]);
  }
  ForLanes(d, n, [&](int64_t i, auto lanes) HWY_ATTR {
    const V decay_i = lanes.load(decay + i), k_i = lanes.load(k + i), q_i = lanes.load(q + i);
    HWY_UNROLL(4) for (int c = 0; c < kChannels; ++c) {
      const V h = hn::MulAdd(decay_i, lanes.load(from + c * n + i), hn::Mul(write[c], k_i));
      lanes.store(h, to + c * n + i);
      sums[c] = hn::MulAdd(q_i, h, sums[c]);
    }
  });
  SumsOf(d, sums, y);
}

// One head of one sequence.
class ForwardTask {
 public:
  static int64_t scratch_floats(const GlaInputs& in) {
    return GlaBlock::floats(in) + kBlock * in.d_v() + in.d_v() * in.d_k();
  }

  ForwardTask(const GlaForward& args, int64_t head, int64_t sequence, float* scratch)
      : args_(args), in_(args.in), head_(in_, head), sequence_(sequence), scratch_(scratch) {}

  void run() const {
    const auto index = static_cast<size_t>(sequence_);
    const int64_t from = in_.seqs.starts[index], to = in_.seqs.ends[index];
    const float* start = from == Sequences::kNoSlot ? nullptr : head_.states_of(args_.pool, from);
    float* end = to == Sequences::kNoSlot ? nullptr : head_.states_of(args_.pool, to);
    const int64_t token = in_.seqs.cu_seqlens.data<int64_t>()[sequence_];
    const int64_t len = in_.seqs.lengths[index];
    if (len == 0 && end != nullptr) load_start(start, end);
    if (len == 1) one_token(token, start, end);
    if (len > 1) blocks(token, len, start, end);
  }

 private:
  void load_start(const float* start, float* h) const {
    if (start == nullptr) std::fill_n(h, head_.states(), 0.0f);
    else if (start != h) std::copy_n(start, head_.states(), h);
  }

  void keep_checkpoint(int64_t begin, int64_t chunk, const float* h) const {
    if (!args_.checkpoints) return;
    const int64_t r = gla_checkpoint_begin(in_, begin, sequence_) + chunk;
    std::copy_n(h, head_.states(), head_.states_of(args_.checkpoints, r));
  }

  void one_token(int64_t token, const float* start, float* end) const {
    const int64_t n = head_.d_k;
    float *h = scratch_, *decay = h + head_.states();
    if (start == nullptr) std::fill_n(h, head_.states(), 0.0f);
    const float* from = start == nullptr ? h : start;
    float* to = end == nullptr ? h : end;
    keep_checkpoint(token, 0, from);
    const float* log_decay = row(in_.log_decay, token) + head_.key;
    ForLanes(D(), n, [&](int64_t i, auto lanes) HWY_ATTR {
      lanes.store(Exp(D(), lanes.load(log_decay + i)), decay + i);
    });
    const float *k = row(in_.k, token) + head_.key, *q = row(in_.q, token) + head_.key;
    const float* v = row(in_.v, token) + head_.channel;
    float* y = row(args_.out, token) + head_.channel;
    int64_t e = 0;
    for (; e + 4 <= head_.d_v; e += 4) {
      StepChannels<4>(from + e * n, to + e * n, decay, k, q, n, v + e, y + e);
    }
    for (; e < head_.d_v; ++e) {
      StepChannels<1>(from + e * n, to + e * n, decay, k, q, n, v + e, y + e);
    }
  }

  void blocks(int64_t token, int64_t len, const float* start, float* end) const {
    float *y = scratch_, *h = y + kBlock * head_.d_v;
    const GlaBlock block(in_, head_, h + head_.states());
    load_start(start, h);
    bool zero = start == nullptr;
    for (int64_t chunk = 0; chunk * in_.chunk < len; ++chunk) {
      keep_checkpoint(token, chunk, h);
      const int64_t chunk_end = std::min(len, (chunk + 1) * in_.chunk);
      for (int64_t t = chunk * in_.chunk; t < chunk_end; t += kBlock) {
        const int64_t count = std::min(kBlock, chunk_end - t);
        block.load_writes(token + t, count);
        block.load_reads(token + t, count);
        outputs(block, token + t, count, zero ? nullptr : h, y);
        if (t + count < len || end != nullptr) block.write_states(h);
        zero = false;
      }
    }
    if (end != nullptr) std::copy_n(h, head_.states(), end);
  }

  // Steps 1 and 2; h is null for zeros.
  void outputs(const GlaBlock& block, int64_t token, int64_t count, const float* h,
               float* y) const {
    const int64_t d_k = head_.d_k, d_v = head_.d_v;
    if (h != nullptr) {
      multiply({.m = kBlock,
                .n = d_v,
                .k = d_k,
                .a = {d_k, 1},
                .b = {1, d_k},
                .c_row = d_v,
                .accumulates = false},
               block.q_since, h, y);
    }
    multiply({.m = kBlock,
              .n = d_v,
              .k = kBlock,
              .a = {kBlock, 1},
              .b = {d_v, 1},
              .c_row = d_v,
              .accumulates = h != nullptr},
             block.P, block.v, y);
    for (int64_t i = 0; i < count; ++i) {
      std::copy_n(y + i * d_v, d_v, row(args_.out, token + i) + head_.channel);
    }
  }

  const GlaForward& args_;
  const GlaInputs& in_;
  const GlaHead head_;
  const int64_t sequence_;
  float* const scratch_;
};

void GlaForwardKernel(Device& device, const GlaForward& args) {
  const int threads = GlaThreads(device, args.in);
  const Tensor scratch = device.empty(DType::f32, {threads, ForwardTask::scratch_floats(args.in)});
  const int64_t n_heads = args.in.n_heads;
  parallel_for(args.in.seqs.count() * n_heads, threads, [&](int64_t i, int worker) HWY_ATTR {
    ForwardTask(args, i % n_heads, i / n_heads, row(scratch, worker)).run();
  });
}

}  // namespace
}  // namespace elapse::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace elapse::cpu {
namespace {
HWY_EXPORT(GlaForwardKernel);

Tensor copy_of(Device& device, const Tensor& pool) {
  if (!pool) return pool;
  const Tensor own = device.empty(DType::f32, pool.shape());
  elapse::copy(device, {pool, own});
  return own;
}

}  // namespace

// The recurrence runs beside, for those who watch it; its results take the kernel's place where an
// edit changes them, those of the states only where they change. So to watch changes no bit, nor
// does an edit that leaves a value as it is.
void gla_forward(Device& device, const GlaForward& args) {
  if (!args.taps.active_forward()) return HWY_DYNAMIC_DISPATCH(GlaForwardKernel)(device, args);
  GlaForward by_tokens = args;
  by_tokens.pool = copy_of(device, args.pool);
  by_tokens.out = device.empty(DType::f32, args.in.v.shape());
  if (args.checkpoints) {
    by_tokens.checkpoints = device.empty(DType::f32, args.checkpoints.shape());
  }
  HWY_DYNAMIC_DISPATCH(GlaForwardKernel)(device, args);
  GlaForwardByTokens::Edited edited;
  device.launch(DType::f32, GlaForwardByTokens{by_tokens, &edited});
  if (edited.states || edited.reads) elapse::copy(device, {by_tokens.out, args.out});
  if (!edited.states) return;
  if (args.pool) elapse::copy(device, {by_tokens.pool, args.pool});
  if (args.checkpoints) elapse::copy(device, {by_tokens.checkpoints, args.checkpoints});
}

}  // namespace elapse::cpu
#endif  // HWY_ONCE
