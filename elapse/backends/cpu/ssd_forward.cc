// SPDX-License-Identifier: Apache-2.0
// The state-space dual, forward. What all heads share is made first (ssd-inl.h): dt, the exponents
// of decays a[i], and CB = C B^T of each chunk and group. A task is then a block of heads (some 256
// channels) of one sequence, whose states h stay in the cache while it walks the chunks:
//   1. y = C h^T, for all channels of the block; row i times exp(a[i]).
//   2. For each head: y += (CB o exp(a[i] - a[j]), j <= i) (dt x).
//   3. h = exp(a[last]) h + (exp(a[last] - a[j]) dt x)^T B, for all channels.
//   4. out = y + D x.
// 1 and 3 are products of 64 x 256 x 128 where the model is mamba2-130m. 2 has half a product of
// 64 x 64 x 64, too small to be laid out for another's kernels.
//
// Bound: 2 d_state + chunk / 2 multiplications a (token, channel), 288 there, at what the products
// reach; 1 is left out where a sequence starts from zeros. One exponential a pair of tokens and
// head.
//
// A sequence of one token, as in decoding, is a pass over its states, bound by reading and writing
// them: 8 bytes a state for 3 multiply-adds. Four channels go together, so that their sums over
// states end in one vector.
#include <utility>

#include "elapse/backends/cpu/kernels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "elapse/backends/cpu/ssd_forward.cc"
#include <hwy/cache_control.h>
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "elapse/backends/cpu/ssd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace elapse::cpu::HWY_NAMESPACE {
namespace {

// out = y + D x for one head at one token, once y has passed its tap.
HWY_INLINE void WriteOutput(const SsdForward& args, const SkipOfHead& skip, int64_t token,
                            int64_t head, float* y) {
  const D d;
  const int64_t head_dim = args.in.head_dim(), first = head * head_dim;
  const Tap& y_tap = tap(args.taps, SsdPoint::y);
  for (int64_t i = 0; y_tap.is_active_forward() && i < head_dim; ++i) {
    y[i] = through_tap(y_tap, token * args.in.d_inner() + first + i, y[i]);
  }
  const float* x = row(args.in.x, token) + first;
  float* out = row(args.out, token) + first;
  ForLanes(d, head_dim, [&](int64_t i, auto lanes) HWY_ATTR {
    lanes.store(hn::MulAdd(skip.at(i, lanes), lanes.load(x + i), lanes.load(y + i)), out + i);
  });
}

// Rows i to i + 4 of y, kVectors vectors of their columns: see LowerProduct.
template <int kVectors, class Lanes>
HWY_INLINE void LowerProductTile(Lanes lanes, const float* lower, int64_t stride, const float* u,
                                 int64_t columns, int64_t i, float* y) {
  const auto step = static_cast<int64_t>(hn::Lanes(D()));
  V sums[4][kVectors];
  HWY_UNROLL(4) for (int r = 0; r < 4; ++r) {
    HWY_UNROLL(4) for (int v = 0; v < kVectors; ++v) sums[r][v] = hn::Zero(D());
  }
  for (int64_t j = 0; j < i + 4; ++j) {
    V u_j[kVectors];
    HWY_UNROLL(4)
    for (int v = 0; v < kVectors; ++v) u_j[v] = lanes.load(u + j * columns + v * step);
    HWY_UNROLL(4) for (int r = 0; r < 4; ++r) {
      const V factor = hn::Set(D(), lower[(i + r) * stride + j]);
      HWY_UNROLL(4) for (int v = 0; v < kVectors; ++v) {
        sums[r][v] = hn::MulAdd(factor, u_j[v], sums[r][v]);
      }
    }
  }
  HWY_UNROLL(4) for (int r = 0; r < 4; ++r) {
    HWY_UNROLL(4) for (int v = 0; v < kVectors; ++v) {
      lanes.store(sums[r][v], y + (i + r) * columns + v * step);
    }
  }
}

// y = lower u, where `lower` is (rows, rows) with zeros right of its diagonal and `rows` a multiple
// of four; u and y are (rows, columns).
void LowerProduct(const float* lower, int64_t rows, int64_t stride, const float* u, int64_t columns,
                  float* y) {
  constexpr int kVectors = hn::MaxLanes(D()) >= 16 ? 4 : 2;  // 32 registers, or 16
  const int64_t step = kVectors * static_cast<int64_t>(hn::Lanes(D()));
  for (int64_t i = 0; i < rows; i += 4) {
    int64_t p = 0;
    for (; p + step <= columns; p += step) {
      LowerProductTile<kVectors>(WholeLanes<D>{D()}, lower, stride, u + p, columns, i, y + p);
    }
    ForLanes(D(), columns - p, [&](int64_t at, auto lanes) HWY_ATTR {
      LowerProductTile<1>(lanes, lower, stride, u + p + at, columns, i, y + p + at);
    });
  }
}

// One block of heads of one sequence.
class ForwardTask {
 public:
  static int64_t scratch_floats(const SsdInputs& in, const SsdPlan& plan, int64_t square) {
    return square * (square + 2 + 2 * in.head_dim()) +
           plan.most_columns * (2 * square + in.d_state());
  }

  ForwardTask(const SsdForward& args, const SsdShared& shared, const SsdHeads& heads,
              int64_t most_columns, float* scratch)
      : args_(args),
        shared_(shared),
        heads_(heads),
        head_dim_(args.in.head_dim()),
        n_(args.in.d_state()),
        first_(heads.begin * head_dim_),
        width_((heads.end - heads.begin) * head_dim_) {
    const int64_t square = shared.square();
    const auto take = [&](int64_t count) { return std::exchange(scratch, scratch + count); };
    decayed_ = take(square * square);
    since_start_ = take(square);
    until_end_ = take(square);
    dtx_ = take(square * head_dim_);
    within_ = take(square * head_dim_);
    dtx_left_ = take(square * most_columns);
    read_ = take(square * most_columns);
    h_ = take(most_columns * n_);
  }

  void run(const SsdSequence& s) {
    const auto index = static_cast<size_t>(s.index);
    const int64_t from = args_.in.seqs.starts[index], to = args_.in.seqs.ends[index];
    zero_ = from == Sequences::kNoSlot;
    if (zero_) std::fill_n(h_, width_ * n_, 0.0f);
    else std::copy_n(states(args_.pool, from), width_ * n_, h_);
    const int64_t checkpoint =
        ssd_checkpoint_begin(args_.in, args_.in.seqs.cu_seqlens.data<int64_t>()[s.index], s.index);
    for (int64_t i = 0; i < s.chunks; ++i) {
      if (args_.checkpoints) {
        std::copy_n(h_, width_ * n_, states(args_.checkpoints, checkpoint + i));
      }
      const bool more = i + 1 < s.chunks || to != Sequences::kNoSlot;
      chunk(shared_.chunk(s.first_chunk + i), more);
    }
    if (to != Sequences::kNoSlot) std::copy_n(h_, width_ * n_, states(args_.pool, to));
  }

 private:
  float* states(const Tensor& pool, int64_t slot) const {
    return pool.data<float>() + (slot * args_.in.d_inner() + first_) * n_;
  }

  void chunk(const SsdChunk& c, bool more) {
    if (!zero_) read_states(c);
    for (int64_t k = heads_.begin; k < heads_.end; ++k) head(c, k, more);
    if (more) write_states(c);
    zero_ = false;
  }

  // Step 1, without the decay.
  void read_states(const SsdChunk& c) {
    multiply({.m = c.rows,
              .n = width_,
              .k = n_,
              .a = {n_, 1},
              .b = {1, n_},
              .c_row = width_,
              .accumulates = false},
             shared_.C(heads_.group, c.row), h_, read_);
  }

  // Steps 2 and 4; what step 3 needs of the head.
  void head(const SsdChunk& c, int64_t k, bool more) {
    const int64_t square = shared_.square();
    const Exponents a = shared_.exponents(k, c.row);
    DecaysToEdges(a, c.rows, since_start_, until_end_);
    scale_inputs(c, k, more);
    DecayedSquare(shared_.CB(heads_.group, c.row), a, c.rows, square, decayed_);
    LowerProduct(decayed_, c.rows, square, dtx_, head_dim_, within_);
    outputs(c, k);
    if (more && !zero_) {
      ScaleBy(since_start_[c.rows - 1], head_dim_ * n_, h_ + (k * head_dim_ - first_) * n_);
    }
  }

  // dt x, and what is left of it at the chunk's end; zeros in rows without a token.
  void scale_inputs(const SsdChunk& c, int64_t k, bool more) {
    const D d;
    const int64_t column = k * head_dim_ - first_;
    const float* dt = shared_.dt(k, c.row);
    for (int64_t i = 0; i < c.len; ++i) {
      const V dt_i = hn::Set(d, dt[i]), left = hn::Set(d, until_end_[i]);
      const float* x = row(args_.in.x, c.token + i) + k * head_dim_;
      float *dtx = dtx_ + i * head_dim_, *dtx_left = dtx_left_ + i * width_ + column;
      ForLanes(d, head_dim_, [&](int64_t p, auto lanes) HWY_ATTR {
        hwy::Prefetch(x + p + head_dim_);  // of the next head: its rows are short and far apart
        const V v = hn::Mul(dt_i, lanes.load(x + p));
        lanes.store(v, dtx + p);
        if (more) lanes.store(hn::Mul(left, v), dtx_left + p);
      });
    }
    std::fill_n(dtx_ + c.len * head_dim_, (c.rows - c.len) * head_dim_, 0.0f);
    for (int64_t i = c.len; i < c.rows; ++i) {
      std::fill_n(dtx_left_ + i * width_ + column, head_dim_, 0.0f);
    }
  }

  void outputs(const SsdChunk& c, int64_t k) {
    const D d;
    const SkipOfHead skip(args_.in, k);
    for (int64_t i = 0; i < c.len; ++i) {
      float* y = within_ + i * head_dim_;
      const float* read = read_ + i * width_ + k * head_dim_ - first_;
      const V decay = hn::Set(d, since_start_[i]);
      if (!zero_) {
        ForLanes(d, head_dim_, [&](int64_t p, auto lanes) HWY_ATTR {
          lanes.store(hn::MulAdd(decay, lanes.load(read + p), lanes.load(y + p)), y + p);
        });
      }
      WriteOutput(args_, skip, c.token + i, k, y);
    }
  }

  // Step 3.
  void write_states(const SsdChunk& c) {
    multiply({.m = width_,
              .n = n_,
              .k = c.rows,
              .a = {1, width_},
              .b = {n_, 1},
              .c_row = n_,
              .accumulates = true},
             dtx_left_, shared_.B(heads_.group, c.row), h_);
  }

  const SsdForward& args_;
  const SsdShared& shared_;
  const SsdHeads heads_;
  const int64_t head_dim_, n_;
  const int64_t first_, width_;      // channels
  float* decayed_;                   // (square, square): CB with decays
  float *since_start_, *until_end_;  // (square)
  float* dtx_;                       // (square, head_dim): of one head
  float* within_;                    // (square, head_dim): what it reads of its own chunk; then y
  float* dtx_left_;                  // (square, width)
  float* read_;                      // (square, width): C h^T
  float* h_;                         // (width, d_state)
  bool zero_ = true;                 // h is
};

// kChannels channels of one token: their states one step on, and their sums with C.
template <int kChannels>
HWY_INLINE void StepChannels(const float* from, float* to, const float* B, const float* C,
                             int64_t n, float decay, const float* dtx, float* y) {
  const D d;
  const V decay_of_all = hn::Set(d, decay);
  V sums[kChannels], write[kChannels];
  HWY_UNROLL(4) for (int c = 0; c < kChannels; ++c) {
    sums[c] = hn::Zero(d);
    write[c] = hn::Set(d, dtx[c]);
  }
  ForLanes(d, n, [&](int64_t i, auto lanes) HWY_ATTR {
    const V b = lanes.load(B + i), c_i = lanes.load(C + i);
    HWY_UNROLL(4) for (int c = 0; c < kChannels; ++c) {
      const V h = hn::MulAdd(decay_of_all, lanes.load(from + c * n + i), hn::Mul(write[c], b));
      lanes.store(h, to + c * n + i);
      sums[c] = hn::MulAdd(c_i, h, sums[c]);
    }
  });
  SumsOf(d, sums, y);
}

// A sequence of one token, head by head.
class StepTask {
 public:
  static int64_t scratch_floats(const SsdInputs& in) { return 4 * in.d_state() + in.head_dim(); }

  StepTask(const SsdForward& args, const SsdShared& shared, const SsdSequence& s, float* scratch)
      : args_(args),
        in_(args.in),
        shared_(shared),
        s_(s),
        token_(token_of(args.in, s)),
        spare_(scratch),
        y_(scratch + 4 * in_.d_state()) {}

  void run(int64_t head) const {
    const int64_t begin = head * in_.head_dim(), end = begin + in_.head_dim();
    const int64_t n = in_.d_state(), group = in_.group_of(head);
    const auto index = static_cast<size_t>(s_.index);
    const int64_t from = in_.seqs.starts[index], to = in_.seqs.ends[index];
    const float dt = *shared_.dt(head, s_.row);
    const float decay = DecayOf(shared_.exponents(head, s_.row));
    const float* B = row(in_.B, token_) + group * n;
    const float* C = row(in_.C, token_) + group * n;
    const float* x = row(in_.x, token_);
    int64_t e = begin;
    const auto step = [&](auto channels) HWY_ATTR {
      constexpr int kChannels = channels();
      float dtx[kChannels];
      for (int c = 0; c < kChannels; ++c) dtx[c] = dt * x[e + c];
      if (from == Sequences::kNoSlot) std::fill_n(spare_, kChannels * n, 0.0f);
      const float* h = from == Sequences::kNoSlot ? spare_ : states(args_.pool, from, e);
      if (args_.checkpoints) {
        const int64_t r = ssd_checkpoint_begin(in_, token_, s_.index);
        std::copy_n(h, kChannels * n, states(args_.checkpoints, r, e));
      }
      float* next = to == Sequences::kNoSlot ? spare_ : states(args_.pool, to, e);
      StepChannels<kChannels>(h, next, B, C, n, decay, dtx, y_ + (e - begin));
      e += kChannels;
    };
    while (e + 4 <= end) step(std::integral_constant<int, 4>());
    while (e < end) step(std::integral_constant<int, 1>());
    WriteOutput(args_, SkipOfHead(in_, head), token_, head, y_);
  }

 private:
  static int64_t token_of(const SsdInputs& in, const SsdSequence& s) {
    return in.seqs.cu_seqlens.data<int64_t>()[s.index];
  }
  float* states(const Tensor& pool, int64_t slot, int64_t channel) const {
    return pool.data<float>() + (slot * in_.d_inner() + channel) * in_.d_state();
  }
  const SsdForward& args_;
  const SsdInputs& in_;
  const SsdShared& shared_;
  const SsdSequence& s_;
  const int64_t token_;
  float* const spare_;  // (4, d_state): states that start from zeros, or that nobody keeps
  float* const y_;      // (head_dim)
};

void ForwardSingles(Device& device, const SsdForward& args, const SsdPlan& plan,
                    const SsdShared& shared) {
  const int64_t n_heads = args.in.n_heads();
  const auto singles = static_cast<int64_t>(plan.singles.size());
  const int threads = ssd_threads(device, args.in);
  const Tensor scratch = device.empty(DType::f32, {threads, StepTask::scratch_floats(args.in)});
  parallel_for(singles * n_heads, threads, [&](int64_t i, int worker) HWY_ATTR {
    const StepTask task(args, shared, plan.singles[static_cast<size_t>(i / n_heads)],
                        row(scratch, worker));
    task.run(i % n_heads);
  });
}

void ForwardChunks(Device& device, const SsdForward& args, const SsdPlan& plan,
                   const SsdShared& shared) {
  const int threads = ssd_threads(device, args.in);
  const int64_t floats = ForwardTask::scratch_floats(args.in, plan, shared.square());
  const auto blocks = static_cast<int64_t>(plan.heads.size());
  const int64_t tasks = static_cast<int64_t>(plan.sequences.size()) * blocks;
  const Tensor scratch = device.empty(DType::f32, {tasks == 0 ? 0 : threads, floats});
  parallel_for(tasks, threads, [&](int64_t i, int worker) HWY_ATTR {
    ForwardTask task(args, shared, plan.heads[static_cast<size_t>(i % blocks)], plan.most_columns,
                     row(scratch, worker));
    task.run(plan.sequences[static_cast<size_t>(i / blocks)]);
  });
}

// An empty sequence hands its state on.
void ForwardEmpty(const SsdForward& args, int64_t s) {
  const auto index = static_cast<size_t>(s);
  const int64_t from = args.in.seqs.starts[index], to = args.in.seqs.ends[index];
  if (to == Sequences::kNoSlot || from == to) return;
  const int64_t floats = args.in.d_inner() * args.in.d_state();
  float* into = args.pool.data<float>() + to * floats;
  if (from == Sequences::kNoSlot) std::fill_n(into, floats, 0.0f);
  else std::copy_n(args.pool.data<float>() + from * floats, floats, into);
}

void SsdForwardKernel(Device& device, const SsdForward& args) {
  const SsdPlan plan(args.in, /*singles_apart=*/true);
  const SsdShared shared(device, args.in, plan, args.taps);
  for (const int64_t s : plan.empties) ForwardEmpty(args, s);
  ForwardSingles(device, args, plan, shared);
  ForwardChunks(device, args, plan, shared);
}

}  // namespace
}  // namespace elapse::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace elapse::cpu {
namespace {
HWY_EXPORT(SsdForwardKernel);

// What is watched of the recurrence that the chunks' kernel went through, and whether an edit
// changes it.
SsdForwardByTokens::Edited watch_recurrence(Device& device, SsdForward call) {
  // These the kernel has watched.
  tap(call.taps, SsdPoint::dt_pre).watch = tap(call.taps, SsdPoint::dt).watch = {};
  tap(call.taps, SsdPoint::y) = {};
  SsdForwardByTokens::Edited edited;
  device.launch(DType::f32, SsdWatchByTokens{call, &edited});
  return edited;
}

// A kernel's checkpoints are wanted whether backward will run or not.
SsdForward with_checkpoints(Device& device, SsdForward args) {
  const SsdInputs& in = args.in;
  if (!args.checkpoints) {
    args.checkpoints =
        device.empty(DType::f32, {ssd_checkpoint_count(in), in.d_inner(), in.d_state()});
  }
  return args;
}

Tensor copy_of(Device& device, const Tensor& pool) {
  if (!pool) return pool;
  const Tensor own = device.empty(DType::f32, pool.shape());
  elapse::copy(device, {pool, own});
  return own;
}

}  // namespace

// States are those of whole chunks unless an edit changes them, and so is what is read of them: to
// watch changes no bit, nor does an edit that leaves a value as it is.
void ssd_forward(Device& device, const SsdForward& args) {
  if (!recurrence_is_active_forward(args.taps)) {
    return HWY_DYNAMIC_DISPATCH(SsdForwardKernel)(device, args);
  }
  SsdForward by_tokens = args;
  if (recurrence_is_edited(args.taps)) by_tokens.pool = copy_of(device, args.pool);
  const SsdForward chunks = with_checkpoints(device, args);
  HWY_DYNAMIC_DISPATCH(SsdForwardKernel)(device, chunks);
  SsdForwardByTokens::Edited edited = watch_recurrence(device, chunks);
  if (!edited.states && !edited.reads) return;
  if (!edited.states) by_tokens.checkpoints = {};  // reads alone leave the states as they are
  device.launch(DType::f32, SsdForwardByTokens{by_tokens, &edited});
  if (edited.states && args.pool) elapse::copy(device, {by_tokens.pool, args.pool});
}

}  // namespace elapse::cpu
#endif  // HWY_ONCE
