// SPDX-License-Identifier: Apache-2.0
// Diagonal state spaces, a block of channels at a time, blocks over threads. Two ways to the same
// numbers, chosen by ssm_plan:
//   the recurrence (diagonal_ssm-inl.h): with n complex states, 8 n vector operations a token
//     forward and 22 n backward, one after another in each chain;
//   a convolution (long_conv-inl.h) with the answer to a single 1, which is the recurrence over
//     one sequence, once for all sequences; its gradient goes back the same way.
// With 32 complex states and 8 sequences of 1024 tokens, ns a token and channel on one thread of a
// Zen 5, forward and backward: 4.1 and 8.6 convolved (of which the filter is 1 and 3.3), 8.0 and 18
// by the recurrence. Sums over tokens and sequences are made in their order.
#include <complex>

#include "elapse/backends/cpu/blocks.h"
#include "elapse/backends/cpu/diagonal_ssm_plan.h"
#include "elapse/backends/cpu/kernels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "elapse/backends/cpu/diagonal_ssm.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "elapse/backends/cpu/diagonal_ssm_block-inl.h"

HWY_BEFORE_NAMESPACE();
namespace elapse::cpu::HWY_NAMESPACE {
namespace {

int64_t SsmLanes() { return LaneCount(); }

class ForwardBlock {
 public:
  ForwardBlock(const DiagonalSsmForward& args, const SsmPlan& plan, int64_t e, float* memory)
      : args_(args), plan_(plan), block_{args.in, e}, scratch_(memory) {
    const int64_t n_states = args.in.n_states(), longest = args.in.seqs.max_len;
    coefficients_ = scratch_.Take(n_states * kStateParts);
    h_ = scratch_.Take(2 * n_states);
    x_ = scratch_.Take(longest);
    y_ = scratch_.Take(longest);
    block_.Coefficients(coefficients_);
  }

  // Somebody who only looks at h sees it beside the convolution.
  void Run() {
    bool edited = false;
    for (int64_t s = 0; s < args_.in.seqs.count(); ++s) {
      const bool convolved = plan_.convolved[static_cast<size_t>(s)];
      LoadStart(s);
      if (convolved && !args_.h.is_active_forward()) continue;
      const bool changed = RunSequence(s);
      edited = edited || (convolved && changed);
    }
    if (!edited && plan_.filter_len > 0) Convolve();
  }

 private:
  void LoadStart(int64_t s) {
    const int64_t start = args_.in.seqs.starts[static_cast<size_t>(s)], slot = block_.slot();
    std::fill_n(h_, 2 * args_.in.n_states() * LaneCount(), 0.0f);
    if (start >= 0) block_.LoadStates(args_.pool.data<float>() + start * slot, h_);
    StoreStates(args_.starts ? args_.starts.data<float>() + s * slot : nullptr);
  }

  // From the start in h_.
  bool RunSequence(int64_t s) {
    const int64_t len = block_.length(s);
    block_.LoadRows(args_.in.x, s, x_);
    block_.Skip(x_, len, y_);
    bool changed = false;
    if (args_.h.is_active_forward()) changed = RunTapped(s);
    else block_.Run(coefficients_, len, x_, y_, h_);
    block_.StoreRows(y_, s, args_.y);
    const int64_t end = args_.in.seqs.ends[static_cast<size_t>(s)];
    StoreStates(end >= 0 ? args_.pool.data<float>() + end * block_.slot() : nullptr);
    return changed;
  }

  void StoreStates(float* to) const {
    if (to != nullptr) block_.ForEachState(h_, [&](int64_t at, float value) { to[at] = value; });
  }

  bool RunTapped(int64_t s) {
    bool changed = false;
    const int64_t begin = block_.begin(s), len = block_.length(s), lanes = LaneCount();
    for (int64_t n = 0; n < args_.in.n_states(); ++n) {
      const StateTap tap = {block_, args_.h, n};
      const float* coefficients = coefficients_ + n * kStateParts * lanes;
      const auto pass = [&](int64_t t, int, Complex& h)
                            HWY_ATTR { changed = tap.Pass(begin + t, h) || changed; };
      float* h = h_ + 2 * n * lanes;
      if (args_.in.is_complex()) RunStates<true, 1>(coefficients, len, x_, y_, h, pass);
      else RunStates<false, 1>(coefficients, len, x_, y_, h, pass);
    }
    return changed;
  }

  void Convolve() {
    block_.Filter(coefficients_, plan_.filter_len, x_, h_, y_);
    float* rest = scratch_.Take(0);
    WithLanes(block_.e, args_.in.d_inner(), [&](auto lanes) HWY_ATTR {
      for (const ConvolutionGroup& group : plan_.groups) {
        ConvolveBlock(group, args_.in.seqs, lanes, block_.e, y_, args_.in.x, args_.y, rest);
      }
    });
  }

  const DiagonalSsmForward& args_;
  const SsmPlan& plan_;
  const Block block_;
  Scratch scratch_;
  float *coefficients_, *h_, *x_, *y_;
};

class BackwardBlock {
 public:
  BackwardBlock(const DiagonalSsmBackward& args, const SsmPlan& plan, int64_t e, float* memory)
      : args_(args), plan_(plan), block_{args.in, e}, scratch_(memory) {
    const int64_t n_states = args.in.n_states(), longest = args.in.seqs.max_len;
    coefficients_ = scratch_.Take(n_states * kStateParts);
    gradients_ = scratch_.Take(n_states * kStateParts);
    h_ = scratch_.Take(2 * n_states);
    dh_ = scratch_.Take(2 * n_states);
    dD_ = scratch_.Take(1);
    x_ = scratch_.Take(longest);
    dy_ = scratch_.Take(longest);
    dx_ = scratch_.Take(longest);
    kept_ = scratch_.Take(2 * (longest + 1));
    block_.Coefficients(coefficients_);
  }

  // The gradient of h alone, which somebody looks at, is made beside the convolution.
  void Run() {
    const bool convolves = plan_.filter_len > 0 && !args_.h.is_edited();
    if (convolves && args_.h.gradient) RunSequences(true);
    ClearGradients();
    RunSequences(false, convolves);
    if (convolves) Convolve();
    AddGradients();
  }

 private:
  void ClearGradients() {
    std::fill_n(gradients_, args_.in.n_states() * kStateParts * LaneCount(), 0.0f);
    std::fill_n(dD_, LaneCount(), 0.0f);
  }

  // Those that are convolved, or those that are not: all, where nothing is.
  void RunSequences(bool convolved, bool any_convolved = true) {
    if (convolved) ClearGradients();
    for (int64_t s = 0; s < args_.in.seqs.count(); ++s) {
      const bool is = any_convolved && plan_.convolved[static_cast<size_t>(s)];
      if (is == convolved) RunSequence(s);
    }
  }

  void RunSequence(int64_t s) {
    const int64_t slot = block_.slot(), len = block_.length(s);
    const auto at = static_cast<size_t>(s);
    const int64_t start = args_.in.seqs.starts[at], end = args_.in.seqs.ends[at];
    const int64_t state_floats = 2 * args_.in.n_states() * LaneCount();
    std::fill_n(h_, state_floats, 0.0f);
    std::fill_n(dh_, state_floats, 0.0f);
    if (args_.starts) block_.LoadStates(args_.starts.data<float>() + s * slot, h_);
    if (args_.dpool && end >= 0) {
      float* dend = args_.dpool.data<float>() + end * slot;
      block_.LoadStates(dend, dh_);
      block_.ForEachState(dh_, [&](int64_t i, float) { dend[i] = 0.0f; });
    }
    block_.LoadRows(args_.in.x, s, x_);
    block_.LoadRows(args_.dy, s, dy_);
    block_.Skip(dy_, len, dx_);
    AddSkipGradient(len);
    if (args_.h.is_active_backward()) BackTapped(s);
    else Back(len);
    block_.StoreRows(dx_, s, args_.dx);
    if (!args_.dpool || start < 0) return;
    float* dstart = args_.dpool.data<float>() + start * slot;
    block_.ForEachState(dh_, [&](int64_t i, float value) { dstart[i] += value; });
  }

  void AddSkipGradient(int64_t len) {
    V sum = hn::Load(D(), dD_);
    for (int64_t at = 0; at < len * LaneCount(); at += LaneCount()) {
      sum = hn::MulAdd(hn::Load(D(), dy_ + at), hn::Load(D(), x_ + at), sum);
    }
    hn::Store(sum, D(), dD_);
  }

  void Back(int64_t len) {
    BackStates(
        len, [](int64_t, int64_t, Complex&) HWY_ATTR {},
        [](int64_t, int64_t, Complex&) HWY_ATTR {});
  }

  void BackTapped(int64_t s) {
    const Tap edits = {.edits = args_.h.edits};
    const int64_t begin = block_.begin(s);
    BackStates(
        block_.length(s),
        [&](int64_t n, int64_t t, Complex& h) HWY_ATTR {
          StateTap{block_, edits, n}.Pass(begin + t, h);
        },
        [&](int64_t n, int64_t t, Complex& dh) HWY_ATTR {
          StateTap{block_, args_.h, n}.PassBack(begin + t, dh);
        });
  }

  template <class Pass, class PassBack>
  HWY_INLINE void BackStates(int64_t len, Pass&& pass, PassBack&& pass_back) {
    for (int64_t n = 0; n < args_.in.n_states(); ++n) {
      if (args_.in.is_complex()) BackState<true>(n, len, pass, pass_back);
      else BackState<false>(n, len, pass, pass_back);
    }
  }

  template <bool kComplex, class Pass, class PassBack>
  HWY_INLINE void BackState(int64_t n, int64_t len, Pass&& pass, PassBack&& pass_back) {
    const int64_t lanes = LaneCount(), at = n * kStateParts * lanes;
    std::copy_n(h_ + 2 * n * lanes, 2 * lanes, kept_);
    KeepState<kComplex>(coefficients_ + at, len, x_, kept_,
                        [&](int64_t t, Complex& h) HWY_ATTR { pass(n, t, h); });
    BackThroughState<kComplex>(coefficients_ + at, len, x_, dy_, kept_, dx_, dh_ + 2 * n * lanes,
                               gradients_ + at,
                               [&](int64_t t, Complex& dh) HWY_ATTR { pass_back(n, t, dh); });
  }

  // The filter's gradient goes back through the recurrence that made it.
  void Convolve() {
    const int64_t len = plan_.filter_len, lanes = LaneCount();
    float *filter = dx_, *dfilter = dy_, *impulse = x_;
    block_.Filter(coefficients_, len, impulse, h_, filter);
    std::fill_n(dfilter, len * lanes, 0.0f);
    float* rest = scratch_.Take(0);
    WithLanes(block_.e, args_.in.d_inner(), [&](auto channels) HWY_ATTR {
      for (const ConvolutionGroup& group : plan_.groups) {
        ConvolveBlockBackward(group, args_.in.seqs, channels, block_.e, filter, args_.in.x,
                              args_.dy, args_.dx, dfilter, rest);
      }
    });
    hn::Store(hn::Add(hn::Load(D(), dD_), hn::Load(D(), dfilter)), D(), dD_);
    std::fill_n(h_, 2 * args_.in.n_states() * lanes, 0.0f);
    std::fill_n(dh_, 2 * args_.in.n_states() * lanes, 0.0f);
    std::fill_n(dx_, len * lanes, 0.0f);
    Back(len);
  }

  // From those of A_bar and B_bar, in double: differences of nearly equal numbers are divided.
  void AddGradients() {
    const DiagonalSsmInputs& in = args_.in;
    for (int64_t i = 0; i < block_.channels(); ++i) {
      const int64_t e = block_.e + i;
      double ddt = 0;
      for (int64_t n = 0; n < in.n_states(); ++n) ddt += AddStateGradients(i, e, n);
      args_.ddt.data<float>()[e] += static_cast<float>(ddt);
      args_.dD.data<float>()[e] += dD_[i];
    }
  }

  double AddStateGradients(int64_t i, int64_t e, int64_t n) {
    using Number = std::complex<double>;
    const DiagonalSsmInputs& in = args_.in;
    const int64_t at = e * in.n_states() + n;
    const auto gradient = [&](int part) -> Number {
      const float* from = gradients_ + (n * kStateParts + part) * LaneCount() + i;
      return {from[0], in.is_complex() ? from[LaneCount()] : 0.0f};
    };
    const double dt = in.dt.data<float>()[e];
    const Number A = {in.A_real.data<float>()[at],
                      in.is_complex() ? in.A_imag.data<float>()[at] : 0};
    const Number A_bar = std::exp(dt * A), B_bar = (A_bar - 1.0) / A;
    const Number dexponent = std::conj(A_bar) * gradient(kABar), dB_bar = gradient(kBBar);
    const Number dA = dt * dexponent + std::conj((dt * A_bar - B_bar) / A) * dB_bar;
    args_.dA_real.data<float>()[at] += static_cast<float>(dA.real());
    if (in.is_complex()) {
      const Number dC = 2.0 * gradient(kC);
      args_.dA_imag.data<float>()[at] += static_cast<float>(dA.imag());
      args_.dC.data<float>()[2 * at] += static_cast<float>(dC.real());
      args_.dC.data<float>()[2 * at + 1] += static_cast<float>(dC.imag());
    } else {
      args_.dC.data<float>()[at] += static_cast<float>(gradient(kC).real());
    }
    return (std::conj(A) * dexponent + std::conj(A_bar) * dB_bar).real();
  }

  const DiagonalSsmBackward& args_;
  const SsmPlan& plan_;
  const Block block_;
  Scratch scratch_;
  float *coefficients_, *gradients_, *h_, *dh_, *dD_, *x_, *dy_, *dx_, *kept_;
};

void SsmForwardBlock(const DiagonalSsmForward& args, const SsmPlan& plan, int64_t e,
                     float* scratch) {
  ForwardBlock(args, plan, e, scratch).Run();
}
void SsmBackwardBlock(const DiagonalSsmBackward& args, const SsmPlan& plan, int64_t e,
                      float* scratch) {
  BackwardBlock(args, plan, e, scratch).Run();
}

}  // namespace
}  // namespace elapse::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace elapse::cpu {
namespace {
HWY_EXPORT(SsmLanes);
HWY_EXPORT(SsmForwardBlock);
HWY_EXPORT(SsmBackwardBlock);

constexpr int64_t kVectorsOfState = 2 * 6 + 2 * 2;  // coefficients, states and their gradients

}  // namespace

void diagonal_ssm_forward(Device& device, const DiagonalSsmForward& args) {
  const SsmPlan plan = ssm_plan(args.in);
  const int64_t vectors = args.in.n_states() * kVectorsOfState + 2 * args.in.seqs.max_len +
                          4 * largest_transform(plan.groups);
  const int64_t lanes = HWY_DYNAMIC_DISPATCH(SsmLanes)();
  for_each_channel_block(device, args.in.d_inner(), lanes, vectors, [&](int64_t e, float* scratch) {
    HWY_DYNAMIC_DISPATCH(SsmForwardBlock)(args, plan, e, scratch);
  });
}

void diagonal_ssm_backward(Device& device, const DiagonalSsmBackward& args) {
  const SsmPlan plan = ssm_plan(args.in);
  const int64_t vectors = args.in.n_states() * kVectorsOfState + 1 +
                          5 * (args.in.seqs.max_len + 1) + 8 * largest_transform(plan.groups);
  const int64_t lanes = HWY_DYNAMIC_DISPATCH(SsmLanes)();
  for_each_channel_block(device, args.in.d_inner(), lanes, vectors, [&](int64_t e, float* scratch) {
    HWY_DYNAMIC_DISPATCH(SsmBackwardBlock)(args, plan, e, scratch);
  });
}

}  // namespace elapse::cpu
#endif  // HWY_ONCE
