// SPDX-License-Identifier: Apache-2.0
// The state-space dual, backward. As forward's, a task is a block of heads of one sequence; it
// walks the chunks from the last to the first with dh, the gradient of the states after the chunk,
// and the states h before it from their checkpoint. With u = dt x, a the exponents of decays from
// the chunk's start, L[i][j] = exp(a[i] - a[j]) for j <= i, and e the chunk's last row:
//   1. For all channels: r = C h^T and s = B dh^T, what is read from h, and what dh asks of u.
//   2. For each head: G = dy u^T;  du = (CB o L)^T dy + exp(a[e] - a[j]) s;  dCB += L o G.
//   3. For all channels: dC = dCB B + (exp(a[i]) dy) h;  dB = dCB^T C + (exp(a[e] - a[j]) u) dh;
//      dh = exp(a[e]) dh + (exp(a[i]) dy)^T C.
//   4. The exponent dt A of row k is part of every decay from before it to it or later. Its
//      gradient is the sum, over i >= k > j, of T = CB o L o G, and of exp(a[i]) dy r over i >= k,
//      of exp(a[e] - a[j]) u s over j < k, and of exp(a[e]) dh h.
// The first sum is that of row sums less column sums of T from k on: almost all of it cancels, so
// it is made in double; no term of the others is added and taken away again.
//
// Bound: five products of d_state and four of chunk multiplications a (token, channel), some three
// times forward's.
#include <utility>

#include "elapse/backends/cpu/column_sums.h"
#include "elapse/backends/cpu/kernels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "elapse/backends/cpu/ssd_backward.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "elapse/backends/cpu/ssd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace elapse::cpu::HWY_NAMESPACE {
namespace {

float Dot(const float* a, const float* b, int64_t n) {
  return SumLanes(WholeLanes<D>{D()}, n, [&](int64_t i, auto lanes, V sum) HWY_ATTR {
    return hn::MulAdd(lanes.load(a + i), lanes.load(b + i), sum);
  });
}

// What every task leaves for sums over tasks, which are made in a fixed order.
struct Partials {
  Partials(Device& device, const SsdInputs& in, const SsdPlan& plan, bool with_starts)
      : dB(device.empty(DType::f32, {std::ssize(plan.heads) * plan.rows, in.d_state()})),
        dC(device.empty(DType::f32, {std::ssize(plan.heads) * plan.rows, in.d_state()})),
        ddt_bias(device.zeros(DType::f32, {in.seqs.count(), in.n_heads()})),
        dA(device.zeros(DType::f32, {in.seqs.count(), in.n_heads()})),
        dD(device.zeros(DType::f32, {in.seqs.count(), in.d_inner()})) {
    const int64_t starts = with_starts ? in.seqs.count() : 0;
    dstart = device.empty(DType::f32, {starts, in.d_inner(), in.d_state()});
  }

  Tensor dB, dC;        // (blocks rows, d_state): of each block of heads, in the plan's rows
  Tensor ddt_bias, dA;  // (n_seqs, n_heads)
  Tensor dD;            // (n_seqs, d_inner)
  Tensor dstart;        // (n_seqs, d_inner, d_state): the gradients of the starts
};

// Memory of one task for one chunk.
struct Scratch {
  Scratch(const SsdPlan& plan, int64_t d_state, int64_t square)
      : square_floats(square * square),
        wide_floats(square * plan.most_columns),
        state_floats(plan.most_columns * d_state),
        edge_floats(square) {}

  int64_t floats() const {
    return 3 * square_floats + 7 * wide_floats + state_floats + 2 * edge_floats;
  }
  void place(float* memory) {
    const auto take = [&](int64_t count) { return std::exchange(memory, memory + count); };
    for (float** square : {&decayed, &G, &dCB}) *square = take(square_floats);
    for (float** wide : {&u, &u_left, &dy, &dy_decayed, &r, &s, &du}) *wide = take(wide_floats);
    for (float** edge : {&since_start, &until_end}) *edge = take(edge_floats);
    dh = take(state_floats);
  }

  int64_t square_floats, wide_floats, state_floats, edge_floats;
  float *decayed, *G, *dCB;        // (square, square): CB o L; G and then T; their sum over heads
  float *u, *u_left;               // (square, width): dt x; the same times exp(a[e] - a[j])
  float *dy, *dy_decayed;          // (square, width): the latter times exp(a[i])
  float *r, *s, *du;               // (square, width)
  float *since_start, *until_end;  // (square)
  float* dh;                       // (width, d_state)
};

class BackwardTask {
 public:
  BackwardTask(const SsdBackward& args, const SsdPlan& plan, const SsdShared& shared,
               Partials& partials, int64_t block, const Scratch& scratch)
      : args_(args),
        in_(args.in),
        shared_(shared),
        partials_(partials),
        heads_(plan.heads[static_cast<size_t>(block)]),
        scratch_(scratch),
        head_dim_(in_.head_dim()),
        n_(in_.d_state()),
        first_(heads_.begin * head_dim_),
        width_((heads_.end - heads_.begin) * head_dim_),
        square_(shared.square()),
        first_row_(block * plan.rows),
        ddecay_(static_cast<size_t>(square_)) {}

  void run(const SsdSequence& s) {
    sequence_ = s.index;
    const auto index = static_cast<size_t>(s.index);
    take_end_gradient(in_.seqs.ends[index]);
    const int64_t checkpoint =
        ssd_checkpoint_begin(in_, in_.seqs.cu_seqlens.data<int64_t>()[s.index], s.index);
    for (int64_t i = s.chunks - 1; i >= 0; --i) {
      const bool zero = i == 0 && in_.seqs.starts[index] == Sequences::kNoSlot;
      h_ = zero ? nullptr : states(args_.checkpoints, checkpoint + i);
      chunk(shared_.chunk(s.first_chunk + i));
    }
    if (args_.dpool) std::copy_n(scratch_.dh, width_ * n_, states(partials_.dstart, s.index));
  }

 private:
  float* states(const Tensor& pool, int64_t slot) const {
    return pool.data<float>() + (slot * in_.d_inner() + first_) * n_;
  }

  void take_end_gradient(int64_t slot) {
    dh_zero_ = !args_.dpool || slot == Sequences::kNoSlot;
    if (dh_zero_) {
      std::fill_n(scratch_.dh, width_ * n_, 0.0f);
    } else {
      std::copy_n(states(args_.dpool, slot), width_ * n_, scratch_.dh);
      std::fill_n(states(args_.dpool, slot), width_ * n_, 0.0f);
    }
  }

  void chunk(const SsdChunk& c) {
    load_inputs(c);
    const float *B = shared_.B(heads_.group, c.row), *C = shared_.C(heads_.group, c.row);
    if (h_ != nullptr) by_states(c, C, h_, scratch_.r);
    if (!dh_zero_) by_states(c, B, scratch_.dh, scratch_.s);
    std::fill_n(scratch_.dCB, c.rows * square_, 0.0f);
    for (int64_t k = heads_.begin; k < heads_.end; ++k) head(c, k);
    matrix_gradients(c, B, C);
    if (!dh_zero_) decay_dh(c);
    multiply({.m = width_,
              .n = n_,
              .k = c.rows,
              .a = {1, width_},
              .b = {n_, 1},
              .c_row = n_,
              .accumulates = true},
             scratch_.dy_decayed, C, scratch_.dh);
    dh_zero_ = false;
  }

  // x into u, and dy; zeros in rows without a token.
  void load_inputs(const SsdChunk& c) {
    const Tap& y_tap = tap(args_.taps, SsdPoint::y);
    for (int64_t i = 0; i < c.len; ++i) {
      float* dy = scratch_.dy + i * width_;
      std::copy_n(row(in_.x, c.token + i) + first_, width_, scratch_.u + i * width_);
      std::copy_n(row(args_.dout, c.token + i) + first_, width_, dy);
      for (int64_t e = 0; y_tap.is_active_backward() && e < width_; ++e) {
        dy[e] = back_through_tap(y_tap, (c.token + i) * in_.d_inner() + first_ + e, dy[e]);
      }
    }
    for (float* wide : {scratch_.u, scratch_.dy}) {
      std::fill_n(wide + c.len * width_, (c.rows - c.len) * width_, 0.0f);
    }
  }

  // Step 1: result (rows, width) = matrix (rows, d_state) states^T.
  void by_states(const SsdChunk& c, const float* matrix, const float* of, float* result) const {
    multiply({.m = c.rows,
              .n = width_,
              .k = n_,
              .a = {n_, 1},
              .b = {1, n_},
              .c_row = width_,
              .accumulates = false},
             matrix, of, result);
  }

  // Steps 2 and 4.
  void head(const SsdChunk& c, int64_t k) {
    const int64_t column = (k - heads_.begin) * head_dim_;
    const Exponents a = shared_.exponents(k, c.row);
    const float* dt = shared_.dt(k, c.row);
    DecaysToEdges(a, c.rows, scratch_.since_start, scratch_.until_end);
    scale_rows(c, column, dt);
    multiply({.m = c.rows,
              .n = c.rows,
              .k = head_dim_,
              .a = {width_, 1},
              .b = {1, width_},
              .c_row = square_,
              .accumulates = false},
             scratch_.dy + column, scratch_.u + column, scratch_.G);
    decay_squares(c, a);
    multiply({.m = c.rows,
              .n = head_dim_,
              .k = c.rows,
              .a = {1, square_},
              .b = {width_, 1},
              .c_row = width_,
              .accumulates = false},
             scratch_.decayed, scratch_.dy + column, scratch_.du + column);
    if (!dh_zero_) add_asked_by_dh(c, column);
    exponent_gradients(c, column);
    row_gradients(c, k, column, dt);
  }

  void decay_dh(const SsdChunk& c) const {
    for (int64_t k = heads_.begin; k < heads_.end; ++k) {
      ScaleBy(DecayOf(shared_.exponents(k, c.row + c.rows - 1)), head_dim_ * n_,
              scratch_.dh + (k - heads_.begin) * head_dim_ * n_);
    }
  }

  // u = dt x, and the rows with decays.
  void scale_rows(const SsdChunk& c, int64_t column, const float* dt) const {
    const D d;
    for (int64_t i = 0; i < c.rows; ++i) {
      const V dt_i = hn::Set(d, dt[i]), left = hn::Set(d, scratch_.until_end[i]);
      const V since = hn::Set(d, scratch_.since_start[i]);
      const int64_t at = i * width_ + column;
      ForLanes(d, head_dim_, [&](int64_t p, auto lanes) HWY_ATTR {
        const V u = hn::Mul(dt_i, lanes.load(scratch_.u + at + p));
        lanes.store(u, scratch_.u + at + p);
        lanes.store(hn::Mul(left, u), scratch_.u_left + at + p);
        lanes.store(hn::Mul(since, lanes.load(scratch_.dy + at + p)), scratch_.dy_decayed + at + p);
      });
    }
  }

  // decayed = CB o L, dCB += L o G, and G becomes T; all zero above the diagonal.
  void decay_squares(const SsdChunk& c, Exponents a) const {
    const D d;
    const float* CB = shared_.CB(heads_.group, c.row);
    for (int64_t i = 0; i < c.rows; ++i) {
      const V high = hn::Set(d, a.high[i]), low = hn::Set(d, a.low[i]);
      float *decayed = scratch_.decayed + i * square_, *G = scratch_.G + i * square_;
      float* dCB = scratch_.dCB + i * square_;
      ForLanes(d, i + 1, [&](int64_t j, auto lanes) HWY_ATTR {
        const V decay = Decay(d, high, low, lanes.load(a.high + j), lanes.load(a.low + j));
        const V cb = lanes.load(CB + i * square_ + j), dcb = hn::Mul(decay, lanes.load(G + j));
        lanes.store(hn::Mul(cb, decay), decayed + j);
        lanes.store(hn::Add(lanes.load(dCB + j), dcb), dCB + j);
        lanes.store(hn::Mul(cb, dcb), G + j);
      });
      std::fill_n(decayed + i + 1, c.rows - i - 1, 0.0f);
    }
  }

  // du += exp(a[e] - a[j]) s
  void add_asked_by_dh(const SsdChunk& c, int64_t column) const {
    const D d;
    for (int64_t j = 0; j < c.rows; ++j) {
      const V left = hn::Set(d, scratch_.until_end[j]);
      float* du = scratch_.du + j * width_ + column;
      const float* s = scratch_.s + j * width_ + column;
      ForLanes(d, head_dim_, [&](int64_t p, auto lanes) HWY_ATTR {
        lanes.store(hn::MulAdd(left, lanes.load(s + p), lanes.load(du + p)), du + p);
      });
    }
  }

  // ddecay_[k] = the gradient of dt A at row k.
  void exponent_gradients(const SsdChunk& c, int64_t column) {
    std::fill(ddecay_.begin(), ddecay_.end(), 0.0);
    for (int64_t i = 0; i < c.rows; ++i) {
      const float* T = scratch_.G + i * square_;
      double sum = 0;
      for (int64_t j = 0; j < i; ++j) {
        sum += double(T[j]);
        ddecay_[static_cast<size_t>(j)] -= double(T[j]);
      }
      if (h_ != nullptr) sum += double(dot_of_row(i, column, scratch_.dy_decayed, scratch_.r));
      ddecay_[static_cast<size_t>(i)] += sum;
    }
    for (int64_t i = c.rows - 2; i >= 0; --i) {
      ddecay_[static_cast<size_t>(i)] += ddecay_[static_cast<size_t>(i + 1)];
    }
    if (dh_zero_) return;
    double before = 0;
    if (h_ != nullptr) {
      before = double(scratch_.since_start[c.rows - 1]) *
               Dot(scratch_.dh + column * n_, h_ + column * n_, head_dim_ * n_);
    }
    for (int64_t j = 0; j < c.rows; ++j) {
      ddecay_[static_cast<size_t>(j)] += before;
      before += double(dot_of_row(j, column, scratch_.u_left, scratch_.s));
    }
  }

  float dot_of_row(int64_t i, int64_t column, const float* a, const float* b) const {
    return Dot(a + i * width_ + column, b + i * width_ + column, head_dim_);
  }

  // dx, ddt_raw and the sums of ddt_bias, dA and dD.
  void row_gradients(const SsdChunk& c, int64_t k, int64_t column, const float* dt) const {
    const D d;
    const float A = in_.A.data<float>()[k];
    const SkipOfHead skip(in_, k);
    float* dD = row(partials_.dD, sequence_) + k * head_dim_;
    for (int64_t i = 0; i < c.len; ++i) {
      const int64_t channel = k * head_dim_, token = c.token + i;
      const float *x = row(in_.x, token) + channel, *dout = row(args_.dout, token) + channel;
      const float* du = scratch_.du + i * width_ + column;
      float* dx = row(args_.dx, token) + channel;
      const V dt_i = hn::Set(d, dt[i]);
      const float ddt_of_u = Dot(x, du, head_dim_);
      ForLanes(d, head_dim_, [&](int64_t p, auto lanes) HWY_ATTR {
        const V dout_p = lanes.load(dout + p);
        lanes.store(hn::MulAdd(dout_p, lanes.load(x + p), lanes.load(dD + p)), dD + p);
        lanes.store(hn::MulAdd(dt_i, lanes.load(du + p), hn::Mul(skip.at(p, lanes), dout_p)),
                    dx + p);
      });
      const double ddecay = ddecay_[static_cast<size_t>(i)];
      row(partials_.dA, sequence_)[k] += static_cast<float>(ddecay * dt[i]);
      const float ddt_pre = back_to_dt_pre(token, k, static_cast<float>(ddt_of_u + ddecay * A));
      row(args_.ddt_raw, token)[k] = ddt_pre;
      row(partials_.ddt_bias, sequence_)[k] += ddt_pre;
    }
  }

  // The gradient of dt_raw from that of dt.
  float back_to_dt_pre(int64_t token, int64_t k, float ddt) const {
    const int64_t i = token * in_.n_heads() + k;
    const Tap& pre_tap = tap(args_.taps, SsdPoint::dt_pre);
    const Tap& dt_tap = tap(args_.taps, SsdPoint::dt);
    const float pre =
        through_tap(pre_tap, i, row(in_.dt_raw, token)[k] + in_.dt_bias.data<float>()[k]);
    const float value = hn::GetLane(Softplus(D(), hn::Set(D(), pre)));
    const bool limited =
        value < static_cast<float>(in_.dt_min) || value > static_cast<float>(in_.dt_max);
    const float slope = limited ? 0 : hn::GetLane(SoftplusDerivative(D(), hn::Set(D(), pre)));
    return back_through_tap(pre_tap, i, back_through_tap(dt_tap, i, ddt) * slope);
  }

  // dB and dC of step 3.
  void matrix_gradients(const SsdChunk& c, const float* B, const float* C) const {
    float* dB = row(partials_.dB, first_row_ + c.row);
    float* dC = row(partials_.dC, first_row_ + c.row);
    const Product of_square = {.m = c.rows,
                               .n = n_,
                               .k = c.rows,
                               .a = {square_, 1},
                               .b = {n_, 1},
                               .c_row = n_,
                               .accumulates = false};
    Product of_square_transposed = of_square;
    of_square_transposed.a = {1, square_};
    multiply(of_square, scratch_.dCB, B, dC);
    multiply(of_square_transposed, scratch_.dCB, C, dB);
    const Product of_states = {.m = c.rows,
                               .n = n_,
                               .k = width_,
                               .a = {width_, 1},
                               .b = {n_, 1},
                               .c_row = n_,
                               .accumulates = true};
    if (h_ != nullptr) multiply(of_states, scratch_.dy_decayed, h_, dC);
    if (!dh_zero_) multiply(of_states, scratch_.u_left, scratch_.dh, dB);
  }

  const SsdBackward& args_;
  const SsdInputs& in_;
  const SsdShared& shared_;
  Partials& partials_;
  const SsdHeads heads_;
  const Scratch scratch_;
  const int64_t head_dim_, n_;
  const int64_t first_, width_;  // channels
  const int64_t square_;
  const int64_t first_row_;  // of the block's partial dB and dC
  std::vector<double> ddecay_;
  int64_t sequence_ = 0;
  const float* h_ = nullptr;  // (width, d_state) before the chunk; null: zeros
  bool dh_zero_ = true;
};

// Rows of dB or dC: the sums over each group's blocks of heads, in their order.
void SumBlocks(const SsdInputs& in, const SsdPlan& plan, const SsdChunk& c, const Tensor& partials,
               const Tensor& result) {
  const D d;
  const int64_t n = in.d_state();
  for (int64_t i = 0; i < c.len; ++i) {
    float* sums = row(result, c.token + i);
    std::fill_n(sums, in.n_groups * n, 0.0f);
    for (size_t block = 0; block < plan.heads.size(); ++block) {
      const float* part = row(partials, static_cast<int64_t>(block) * plan.rows + c.row + i);
      float* sum = sums + plan.heads[block].group * n;
      ForLanes(d, n, [&](int64_t j, auto lanes) HWY_ATTR {
        lanes.store(hn::Add(lanes.load(sum + j), lanes.load(part + j)), sum + j);
      });
    }
  }
}

// The gradient of D: those of its channels, or their sums over each head.
void AddSkipGradient(Device& device, const SsdInputs& in, const Tensor& by_sequence, float* dD) {
  if (in.D.numel() != in.n_heads()) return add_column_sums(device, by_sequence, dD);
  const Tensor by_channel = device.zeros(DType::f32, {in.d_inner()});
  add_column_sums(device, by_sequence, by_channel.data<float>());
  for (int64_t e = 0; e < in.d_inner(); ++e) {
    dD[e / in.head_dim()] += by_channel.data<float>()[e];
  }
}

// In the sequences' order, once all have taken what stood in their end slots.
void AddStartGradients(const SsdBackward& args, const Tensor& dstart) {
  const int64_t floats = args.in.d_inner() * args.in.d_state();
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

// An empty sequence's start has its end's gradient.
void BackwardEmpty(const SsdBackward& args, int64_t s, const Tensor& dstart) {
  const int64_t floats = args.in.d_inner() * args.in.d_state();
  const int64_t slot = args.in.seqs.ends[static_cast<size_t>(s)];
  float* start = dstart.data<float>() + s * floats;
  if (slot == Sequences::kNoSlot) {
    std::fill_n(start, floats, 0.0f);
    return;
  }
  float* end = args.dpool.data<float>() + slot * floats;
  std::copy_n(end, floats, start);
  std::fill_n(end, floats, 0.0f);
}

void RunTasks(Device& device, const SsdBackward& args, const SsdPlan& plan, const SsdShared& shared,
              Partials& partials) {
  const int threads = ssd_threads(device, args.in);
  Scratch scratch(plan, args.in.d_state(), shared.square());
  const Tensor memory = device.empty(DType::f32, {threads, scratch.floats()});
  const int64_t blocks = std::ssize(plan.heads);
  parallel_for(std::ssize(plan.sequences) * blocks, threads, [&](int64_t i, int worker) HWY_ATTR {
    Scratch own = scratch;
    own.place(row(memory, worker));
    BackwardTask task(args, plan, shared, partials, i % blocks, own);
    task.run(plan.sequences[static_cast<size_t>(i / blocks)]);
  });
}

void SsdBackwardKernel(Device& device, const SsdBackward& args) {
  const SsdPlan plan(args.in, /*singles_apart=*/false);
  const SsdShared shared(device, args.in, plan, args.taps);
  Partials partials(device, args.in, plan, bool(args.dpool));
  RunTasks(device, args, plan, shared, partials);
  parallel_for(std::ssize(plan.chunks), ssd_threads(device, args.in), [&](int64_t i) HWY_ATTR {
    SumBlocks(args.in, plan, shared.chunk(i), partials.dB, args.dB);
    SumBlocks(args.in, plan, shared.chunk(i), partials.dC, args.dC);
  });
  add_column_sums(device, partials.ddt_bias, args.ddt_bias.data<float>());
  add_column_sums(device, partials.dA, args.dA.data<float>());
  AddSkipGradient(device, args.in, partials.dD, args.dD.data<float>());
  if (!args.dpool) return;
  for (const int64_t s : plan.empties) BackwardEmpty(args, s, partials.dstart);
  AddStartGradients(args, partials.dstart);
}

}  // namespace
}  // namespace elapse::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace elapse::cpu {

HWY_EXPORT(SsdBackwardKernel);

void ssd_backward(Device& device, const SsdBackward& args) {
  if (recurrence_is_active_backward(args.taps)) {
    return device.launch(DType::f32, SsdBackwardByTokens{args});
  }
  HWY_DYNAMIC_DISPATCH(SsdBackwardKernel)(device, args);
}

}  // namespace elapse::cpu
#endif  // HWY_ONCE
