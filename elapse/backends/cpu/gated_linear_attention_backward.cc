// SPDX-License-Identifier: Apache-2.0
// Gated linear attention, backward. As forward's, a task is one head of one sequence. It walks the
// chunks from the last to the first: the states before each block of 16 tokens are made again from
// the chunk's checkpoint, and dh, the gradient of the states after a block, goes from its last to
// its first. With since and left the decays from the block's start and to its end:
//   1. dP = dy v^T;  dv = P^T dy + (left k) dh^T.
//   2. dq_i = sum_j dP[i][j] k_j (the decays after j up to i) + since_i (dy h)_i;
//      dk_j = sum_i dP[i][j] q_i (the decays after j up to i) + left_j (v dh)_j.
//      The sums go from token to token, as Horner's rule does: one multiplication for a decay.
//   3. dh = (the block's decays) dh + dy^T (since q).
//   4. dlog_decay of the block's first token is the sum over channels of h and the new dh; of the
//      next, that less q dq - k dk of the token between: a later token's read no longer counts, nor
//      does what an earlier one wrote (section 4.3 of the paper has it from the other end).
//
// Bound: 5 d_k + 32 multiplications a (token, channel) at what the products reach, one of d_k for
// the states again, and 50 d_k multiplications a (token, head) for P, dq and dk.
#include "elapse/backends/cpu/kernels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "elapse/backends/cpu/gated_linear_attention_backward.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "elapse/backends/cpu/gated_linear_attention-inl.h"

HWY_BEFORE_NAMESPACE();
namespace elapse::cpu::HWY_NAMESPACE {
namespace {

// One head of one sequence.
class BackwardTask {
 public:
  static int64_t scratch_floats(const GlaInputs& in) {
    const int64_t d_k = in.d_k(), d_v = in.d_v();
    return GlaBlock::floats(in) + (blocks_of(in.chunk) + 1) * d_v * d_k +
           kBlock * (2 * d_v + 2 * d_k + kBlock) + d_k;
  }

  BackwardTask(const GlaBackward& args, int64_t head, int64_t sequence, float* scratch)
      : args_(args),
        in_(args.in),
        head_(in_, head),
        sequence_(sequence),
        block_(in_, head_, scratch) {
    scratch += GlaBlock::floats(in_);
    const auto take = [&](int64_t count) { return std::exchange(scratch, scratch + count); };
    h_ = take(blocks_of(in_.chunk) * head_.states());
    dh_ = take(head_.states());
    for (float** wide : {&dy_, &dv_}) *wide = take(kBlock * head_.d_v);
    for (float** keys : {&dq_, &dk_}) *keys = take(kBlock * head_.d_k);
    dP_ = take(kBlock * kBlock);
    dlog_ = take(head_.d_k);
  }

  // Leaves the gradient of the start in `dstart` (d_v, d_k), if that is not null.
  void run(float* dstart) {
    const auto index = static_cast<size_t>(sequence_);
    const int64_t token = in_.seqs.cu_seqlens.data<int64_t>()[sequence_];
    const int64_t len = in_.seqs.lengths[index];
    take_end_gradient(in_.seqs.ends[index]);
    for (int64_t chunk = divide_up(len, in_.chunk) - 1; chunk >= 0; --chunk) {
      const int64_t first = chunk * in_.chunk, count = std::min(in_.chunk, len - first);
      const int64_t checkpoint = gla_checkpoint_begin(in_, token, sequence_) + chunk;
      states_again(token + first, count, head_.states_of(args_.checkpoints, checkpoint));
      for (int64_t b = blocks_of(count) - 1; b >= 0; --b) {
        const int64_t t = b * kBlock;
        const bool zero = first + t == 0 && in_.seqs.starts[index] == Sequences::kNoSlot;
        block(token + first + t, std::min(kBlock, count - t),
              zero ? nullptr : h_ + b * head_.states());
      }
    }
    if (dstart != nullptr) std::copy_n(dh_, head_.states(), dstart);
  }

 private:
  static int64_t blocks_of(int64_t tokens) { return divide_up(tokens, kBlock); }

  void take_end_gradient(int64_t slot) {
    dh_zero_ = !args_.dpool || slot == Sequences::kNoSlot;
    if (dh_zero_) return void(std::fill_n(dh_, head_.states(), 0.0f));
    float* end = head_.states_of(args_.dpool, slot);
    std::copy_n(end, head_.states(), dh_);
    std::fill_n(end, head_.states(), 0.0f);
  }

  // The states before each block of the chunk.
  void states_again(int64_t token, int64_t count, const float* checkpoint) const {
    std::copy_n(checkpoint, head_.states(), h_);
    for (int64_t b = 0; b + 1 < blocks_of(count); ++b) {
      float *h = h_ + b * head_.states(), *next = h + head_.states();
      std::copy_n(h, head_.states(), next);
      block_.load_writes(token + b * kBlock, kBlock);
      block_.write_states(next);
    }
  }

  // h before the block; null: zeros.
  void block(int64_t token, int64_t count, const float* h) {
    block_.load_writes(token, count);
    block_.load_reads(token, count);
    GlaBlock::rows(args_.dout, head_.channel, head_.d_v, token, count, dy_);
    value_gradients();
    key_gradients(h);
    pass_dh();
    for (int64_t i = 0; i < count; ++i) {
      std::copy_n(dv_ + i * head_.d_v, head_.d_v, row(args_.dv, token + i) + head_.channel);
      std::copy_n(dq_ + i * head_.d_k, head_.d_k, row(args_.dq, token + i) + head_.key);
      std::copy_n(dk_ + i * head_.d_k, head_.d_k, row(args_.dk, token + i) + head_.key);
    }
    decay_gradients(token, count, h);
  }

  // Step 1.
  void value_gradients() const {
    const int64_t d_k = head_.d_k, d_v = head_.d_v;
    multiply({.m = kBlock,
              .n = kBlock,
              .k = d_v,
              .a = {d_v, 1},
              .b = {1, d_v},
              .c_row = kBlock,
              .accumulates = false},
             dy_, block_.v, dP_);
    multiply({.m = kBlock,
              .n = d_v,
              .k = kBlock,
              .a = {1, kBlock},
              .b = {d_v, 1},
              .c_row = d_v,
              .accumulates = false},
             block_.P, dy_, dv_);
    if (dh_zero_) return;
    multiply({.m = kBlock,
              .n = d_v,
              .k = d_k,
              .a = {d_k, 1},
              .b = {1, d_k},
              .c_row = d_v,
              .accumulates = true},
             block_.k_left, dh_, dv_);
  }

  // Step 2.
  void key_gradients(const float* h) const {
    by_states(dy_, h, dq_);
    by_states(block_.v, dh_zero_ ? nullptr : dh_, dk_);
    const D d;
    const int64_t n = head_.d_k;
    ForLanes(d, n, [&](int64_t c, auto lanes) HWY_ATTR {
      V since = hn::Set(d, 1.0f), left = since;
      for (int64_t i = 0; i < kBlock; ++i) {
        since = hn::Mul(since, lanes.load(block_.decay + i * n + c));
        V sum = hn::Zero(d);
        for (int64_t j = 0; j <= i; ++j) {
          sum = hn::Mul(sum, lanes.load(block_.decay + j * n + c));
          sum = hn::MulAdd(hn::Set(d, dP_[i * kBlock + j]), lanes.load(block_.k + j * n + c), sum);
        }
        float* dq = dq_ + i * n + c;
        lanes.store(hn::MulAdd(since, lanes.load(dq), sum), dq);
      }
      for (int64_t j = kBlock - 1; j >= 0; --j) {
        V sum = hn::Zero(d);
        for (int64_t i = kBlock - 1; i >= j; --i) {
          sum = hn::MulAdd(hn::Set(d, dP_[i * kBlock + j]), lanes.load(block_.q + i * n + c), sum);
          if (i > j) sum = hn::Mul(sum, lanes.load(block_.decay + i * n + c));
        }
        float* dk = dk_ + j * n + c;
        lanes.store(hn::MulAdd(left, lanes.load(dk), sum), dk);
        left = hn::Mul(left, lanes.load(block_.decay + j * n + c));
      }
    });
  }

  // result (kBlock, d_k) = values (kBlock, d_v) states, which are null for zeros.
  void by_states(const float* values, const float* states, float* result) const {
    const int64_t d_k = head_.d_k, d_v = head_.d_v;
    if (states == nullptr) return void(std::fill_n(result, kBlock * d_k, 0.0f));
    multiply({.m = kBlock,
              .n = d_k,
              .k = d_v,
              .a = {d_v, 1},
              .b = {d_k, 1},
              .c_row = d_k,
              .accumulates = false},
             values, states, result);
  }

  // Step 3.
  void pass_dh() {
    if (!dh_zero_) ScaleColumns(block_.total, head_.d_v, head_.d_k, dh_);
    multiply({.m = head_.d_v,
              .n = head_.d_k,
              .k = kBlock,
              .a = {1, head_.d_v},
              .b = {head_.d_k, 1},
              .c_row = head_.d_k,
              .accumulates = true},
             dy_, block_.q_since, dh_);
    dh_zero_ = false;
  }

  // Step 4.
  void decay_gradients(int64_t token, int64_t count, const float* h) const {
    const D d;
    const int64_t n = head_.d_k;
    std::fill_n(dlog_, n, 0.0f);
    for (int64_t e = 0; h != nullptr && e < head_.d_v; ++e) {
      ForLanes(d, n, [&](int64_t c, auto lanes) HWY_ATTR {
        const int64_t at = e * n + c;
        lanes.store(hn::MulAdd(lanes.load(h + at), lanes.load(dh_ + at), lanes.load(dlog_ + c)),
                    dlog_ + c);
      });
    }
    for (int64_t i = 0; i < count; ++i) {
      float* dlog_decay = row(args_.dlog_decay, token + i) + head_.key;
      ForLanes(d, n, [&](int64_t c, auto lanes) HWY_ATTR {
        const int64_t at = i * n + c;
        const V dlog = lanes.load(dlog_ + c);
        lanes.store(dlog, dlog_decay + c);
        const V read = hn::NegMulAdd(lanes.load(block_.q + at), lanes.load(dq_ + at), dlog);
        lanes.store(hn::MulAdd(lanes.load(block_.k + at), lanes.load(dk_ + at), read), dlog_ + c);
      });
    }
  }

  const GlaBackward& args_;
  const GlaInputs& in_;
  const GlaHead head_;
  const int64_t sequence_;
  const GlaBlock block_;
  float* h_;         // (blocks of a chunk, d_v, d_k): before each of them
  float* dh_;        // (d_v, d_k)
  float *dy_, *dv_;  // (kBlock, d_v)
  float *dq_, *dk_;  // (kBlock, d_k)
  float* dP_;        // (kBlock, kBlock)
  float* dlog_;      // (d_k)
  bool dh_zero_ = true;
};

// In the sequences' order, once all have taken what stood in their end slots.
void AddStartGradients(const GlaBackward& args, const Tensor& dstart) {
  const int64_t floats = args.in.d_inner() * args.in.d_k();
  for (int64_t s = 0; s < args.in.seqs.count(); ++s) {
    const int64_t slot = args.in.seqs.starts[static_cast<size_t>(s)];
    if (slot == Sequences::kNoSlot) continue;
    float* into = args.dpool.data<float>() + slot * floats;
    const float* from = dstart.data<float>() + s * floats;
    ForLanes(D(), floats, [&](int64_t i, auto lanes) HWY_ATTR {
      lanes.store(hn::Add(lanes.load(into + i), lanes.load(from + i)), into + i);
    });
  }
}

void GlaBackwardKernel(Device& device, const GlaBackward& args) {
  const GlaInputs& in = args.in;
  const int threads = GlaThreads(device, in);
  const int64_t n_heads = in.n_heads, n_seqs = in.seqs.count();
  const Tensor scratch = device.empty(DType::f32, {threads, BackwardTask::scratch_floats(in)});
  const Tensor dstart = device.empty(DType::f32, {args.dpool ? n_seqs : 0, in.d_inner(), in.d_k()});
  parallel_for(n_seqs * n_heads, threads, [&](int64_t i, int worker) HWY_ATTR {
    const int64_t s = i / n_heads, head = i % n_heads;
    float* start = args.dpool ? GlaHead(in, head).states_of(dstart, s) : nullptr;
    BackwardTask(args, head, s, row(scratch, worker)).run(start);
  });
  if (args.dpool) AddStartGradients(args, dstart);
}

}  // namespace
}  // namespace elapse::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace elapse::cpu {

HWY_EXPORT(GlaBackwardKernel);

void gla_backward(Device& device, const GlaBackward& args) {
  if (args.taps.active_backward()) {
    return device.launch(DType::f32, GlaBackwardByTokens{args});
  }
  HWY_DYNAMIC_DISPATCH(GlaBackwardKernel)(device, args);
}

}  // namespace elapse::cpu
#endif  // HWY_ONCE
