// SPDX-License-Identifier: Apache-2.0
// Recurrent cells: each token waits for the one before, so sequences go side by side, up to four of
// them on one thread. A step of such a group reads the recurrent weights, 4 gates d_inner^2 bytes,
// and multiplies 2 gates d_inner^2 times a sequence: with four sequences it is bound by the reading
// from the second-level cache or, beyond its size, from memory; backward, by the reading of the
// transposed weights. The longest sequences come first: those that still have tokens are always the
// first rows of a group. What a token computes does not depend on who else is there.
#include <algorithm>
#include <numeric>
#include <vector>

#include "elapse/backends/cpu/blocks.h"
#include "elapse/backends/cpu/dots.h"
#include "elapse/backends/cpu/kernels.h"
#include "elapse/backends/cpu/taps.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "elapse/backends/cpu/recurrent.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "elapse/backends/cpu/lanes-inl.h"
#include "elapse/backends/cpu/simd_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace elapse::cpu::HWY_NAMESPACE {
namespace {

using D = hn::ScalableTag<float>;
using V = hn::Vec<D>;

// to[e] = function(V of each of the arrays at e), for n elements
template <class Function, class... Arrays>
HWY_INLINE void Each(int64_t n, float* to, Function&& function, const Arrays*... arrays) {
  ForLanes(D(), n, [&](int64_t e, auto lanes) HWY_ATTR {
    lanes.store(function(lanes.load(arrays + e)...), to + e);
  });
}

HWY_INLINE V SlopeOfSigmoid(V s) { return hn::Mul(s, hn::Sub(hn::Set(D(), 1.0f), s)); }
HWY_INLINE V SlopeOfTanh(V y) { return hn::NegMulAdd(y, y, hn::Set(D(), 1.0f)); }

// Token t's row of a value past its tap, and its gradient's back.
void Pass(const Tap& tap, int64_t t, int64_t n, float* values) {
  if (!tap.is_active_forward()) return;
  for (int64_t e = 0; e < n; ++e) values[e] = through_tap(tap, t * n + e, values[e]);
}
void PassBack(const Tap& tap, int64_t t, int64_t n, float* gradients) {
  if (!tap.is_active_backward()) return;
  for (int64_t e = 0; e < n; ++e) gradients[e] = back_through_tap(tap, t * n + e, gradients[e]);
}

// The steps of one token t, of n channels: rows of n numbers follow each other in every array.
struct Token {
  const RecurrentTaps& taps;
  int64_t t, n;

  void Sigmoids(const float* a, const float* m, float* to) const {
    Each(
        n, to, [](V x, V y) HWY_ATTR { return Sigmoid(D(), hn::Add(x, y)); }, a, m);
  }
  void Tanhs(const float* a, const float* m, float* to) const {
    Each(
        n, to, [](V x, V y) HWY_ATTR { return Tanh(D(), hn::Add(x, y)); }, a, m);
  }
  // Gate k of `inner`, past its tap, in `gates`.
  void TapGate(int64_t k, const float* inner, float* gates) const {
    std::copy_n(inner + k * n, n, gates + k * n);
    Pass(taps.gates[static_cast<size_t>(k)], t, n, gates + k * n);
  }

  void Rnn(const float* a, const float* m, float* inner, float* h) const {
    Tanhs(a, m, inner);
    std::copy_n(inner, n, h);
    Pass(taps.h, t, n, h);
  }

  void Lstm(const float* a, const float* m, float* inner, float* gates, float* state) const {
    float *h = state, *c = state + n;
    for (int64_t k = 0; k < 4; ++k) {
      if (k == 2) Tanhs(a + k * n, m + k * n, inner + k * n);
      else Sigmoids(a + k * n, m + k * n, inner + k * n);
      TapGate(k, inner, gates);
    }
    const float *i = gates, *f = gates + n, *g = gates + 2 * n, *o = gates + 3 * n;
    Each(
        n, inner + 4 * n,
        [](V fv, V cv, V iv, V gv) HWY_ATTR { return hn::MulAdd(fv, cv, hn::Mul(iv, gv)); }, f, c,
        i, g);
    std::copy_n(inner + 4 * n, n, c);
    Pass(taps.c, t, n, c);
    Each(
        n, h, [](V ov, V cv) HWY_ATTR { return hn::Mul(ov, Tanh(D(), cv)); }, o, c);
    Pass(taps.h, t, n, h);
  }

  void Gru(const float* a, const float* m, float* inner, float* gates, float* h) const {
    for (int64_t k = 0; k < 2; ++k) {
      Sigmoids(a + k * n, m + k * n, inner + k * n);
      TapGate(k, inner, gates);
    }
    const float *r = gates, *z = gates + n, *candidate = gates + 2 * n;
    Each(
        n, inner + 2 * n,
        [](V av, V rv, V mv) HWY_ATTR { return Tanh(D(), hn::MulAdd(rv, mv, av)); }, a + 2 * n, r,
        m + 2 * n);
    TapGate(2, inner, gates);
    std::copy_n(m + 2 * n, n, inner + 3 * n);
    Each(
        n, h,
        [](V zv, V nv, V hv) HWY_ATTR { return hn::MulAdd(zv, hv, hn::NegMulAdd(zv, nv, nv)); }, z,
        candidate, h);
    Pass(taps.h, t, n, h);
  }

  // da = gradient of gate k's value, past its tap, times its slope.
  template <class Slope>
  void BackThroughGate(int64_t k, const float* inner, float* da, Slope&& slope) const {
    PassBack(taps.gates[static_cast<size_t>(k)], t, n, da + k * n);
    Each(
        n, da + k * n, [&](V d, V y) HWY_ATTR { return hn::Mul(d, slope(y)); }, da + k * n,
        inner + k * n);
  }

  // Backward: `dh` of the edited h arrives, and is overwritten with that of the unedited one;
  // dstate (h, c) becomes what this token hands on without what goes through the weights.
  void RnnBack(const float* inner, float* dh, float* da, float* dstate) const {
    PassBack(taps.h, t, n, dh);
    Each(
        n, da, [](V d, V y) HWY_ATTR { return hn::Mul(d, SlopeOfTanh(y)); }, dh, inner);
    std::fill_n(dstate, n, 0.0f);
  }

  void LstmBack(const float* inner, const float* before, float* gates, float* dh, float* da,
                float* dstate) const {
    float* dc = dstate + n;
    for (int64_t k = 0; k < 4; ++k) TapGate(k, inner, gates);
    const float *i = gates, *f = gates + n, *g = gates + 2 * n, *o = gates + 3 * n;
    float* squashed = gates + 4 * n;
    std::copy_n(inner + 4 * n, n, squashed);
    Pass(taps.c, t, n, squashed);
    Each(
        n, squashed, [](V c) HWY_ATTR { return Tanh(D(), c); }, squashed);
    PassBack(taps.h, t, n, dh);
    Each(
        n, dc,
        [](V d, V dhv, V ov, V y)
            HWY_ATTR { return hn::MulAdd(hn::Mul(dhv, ov), SlopeOfTanh(y), d); },
        dc, dh, o, squashed);
    PassBack(taps.c, t, n, dc);
    const auto product = [](V x, V y) HWY_ATTR { return hn::Mul(x, y); };
    const auto sigmoid = [](V y) HWY_ATTR { return SlopeOfSigmoid(y); };
    Each(n, da, product, dc, g);
    BackThroughGate(0, inner, da, sigmoid);
    Each(n, da + n, product, dc, before + n);
    BackThroughGate(1, inner, da, sigmoid);
    Each(n, da + 2 * n, product, dc, i);
    BackThroughGate(2, inner, da, [](V y) HWY_ATTR { return SlopeOfTanh(y); });
    Each(n, da + 3 * n, product, dh, squashed);
    BackThroughGate(3, inner, da, sigmoid);
    Each(n, dc, product, dc, f);
    std::fill_n(dstate, n, 0.0f);
  }

  void GruBack(const float* inner, const float* before, float* gates, float* dh, float* da,
               float* dm, float* dstate) const {
    for (int64_t k = 0; k < 3; ++k) TapGate(k, inner, gates);
    const float *r = gates, *z = gates + n, *candidate = gates + 2 * n;
    const auto product = [](V x, V y) HWY_ATTR { return hn::Mul(x, y); };
    const auto sigmoid = [](V y) HWY_ATTR { return SlopeOfSigmoid(y); };
    PassBack(taps.h, t, n, dh);
    Each(
        n, da + 2 * n, [](V d, V zv) HWY_ATTR { return hn::NegMulAdd(d, zv, d); }, dh, z);
    BackThroughGate(2, inner, da, [](V y) HWY_ATTR { return SlopeOfTanh(y); });
    Each(n, dm + 2 * n, product, da + 2 * n, r);
    Each(n, da, product, da + 2 * n, inner + 3 * n);
    BackThroughGate(0, inner, da, sigmoid);
    Each(
        n, da + n, [](V d, V hv, V nv) HWY_ATTR { return hn::Mul(d, hn::Sub(hv, nv)); }, dh, before,
        candidate);
    BackThroughGate(1, inner, da, sigmoid);
    std::copy_n(da, 2 * n, dm);
    Each(n, dstate, product, dh, z);
  }
};

void ForwardToken(const RecurrentForward& args, int64_t t, const float* m, float* inner,
                  float* gates, float* state) {
  const Token token = {args.taps, t, args.weight.dim(1)};
  const float* a = row(args.a, t);
  if (args.cell == Cell::rnn) token.Rnn(a, m, inner, state);
  else if (args.cell == Cell::lstm) token.Lstm(a, m, inner, gates, state);
  else token.Gru(a, m, inner, gates, state);
}

void BackwardToken(const RecurrentBackward& args, int64_t t, float* gates, float* dh,
                   float* dstate) {
  const int64_t n = args.weight.dim(1);
  const Token token = {args.taps, t, n};
  const float *inner = row(args.inner, t), *before = row(args.before, t);
  float *da = row(args.da, t), *dm = row(args.dm, t);
  Each(
      n, dh, [](V x, V y) HWY_ATTR { return hn::Add(x, y); }, row(args.dh, t), dstate);
  if (args.cell == Cell::gru) return token.GruBack(inner, before, gates, dh, da, dm, dstate);
  if (args.cell == Cell::rnn) token.RnnBack(inner, dh, da, dstate);
  else token.LstmBack(inner, before, gates, dh, da, dstate);
  std::copy_n(da, gate_count(args.cell) * n, dm);
}

}  // namespace
}  // namespace elapse::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace elapse::cpu {
namespace {
HWY_EXPORT(ForwardToken);
HWY_EXPORT(BackwardToken);

constexpr int64_t kTogether = 4;  // sequences

// Up to kTogether sequences, the longest first.
class Group {
 public:
  Group(const Sequences& seqs, std::vector<int64_t> sequences)
      : seqs_(seqs), sequences_(std::move(sequences)) {}

  int64_t sequence(int64_t i) const { return sequences_[static_cast<size_t>(i)]; }
  int64_t size() const { return std::ssize(sequences_); }
  int64_t length(int64_t i) const { return seqs_.lengths[at(i)]; }
  int64_t begin(int64_t i) const { return seqs_.cu_seqlens.data<int64_t>()[at(i)]; }
  int64_t start_slot(int64_t i) const { return seqs_.starts[at(i)]; }
  int64_t end_slot(int64_t i) const { return seqs_.ends[at(i)]; }
  int64_t longest() const { return length(0); }
  // How many have a token `step`.
  int64_t with_token(int64_t step) const {
    int64_t count = 0;
    while (count < size() && length(count) > step) ++count;
    return count;
  }

 private:
  size_t at(int64_t i) const { return static_cast<size_t>(sequence(i)); }

  const Sequences& seqs_;
  std::vector<int64_t> sequences_;
};

std::vector<Group> groups_of(const Sequences& seqs) {
  std::vector<int64_t> order(seqs.lengths.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    return seqs.lengths[static_cast<size_t>(a)] > seqs.lengths[static_cast<size_t>(b)];
  });
  std::vector<Group> groups;
  for (int64_t begin = 0; begin < std::ssize(order); begin += kTogether) {
    const int64_t end = std::min<int64_t>(std::ssize(order), begin + kTogether);
    groups.push_back({seqs, {order.begin() + begin, order.begin() + end}});
  }
  return groups;
}

// out[i] = bias + weight h[i], for the first `count` rows of h, which are `h_row` apart.
void multiply_rows(const Tensor& weight, const float* bias, float* h, int64_t h_row, int64_t count,
                   float* out, int64_t out_row) {
  const Tensor few = Tensor::wrap(h, DType::f32, {count, h_row}).columns(0, weight.dim(1));
  dots_of_few_rows_here(
      {.few = few, .many = weight, .bias = bias, .out = out, .out_few = out_row, .out_many = 1});
}

void forward_group(const RecurrentForward& args, const Group& group) {
  const int64_t n = args.weight.dim(1), gates = args.weight.dim(0);
  const int64_t remembered = state_rows(args.cell) * n, inner_size = inner_rows(args.cell) * n;
  std::vector<float> states(static_cast<size_t>(group.size() * remembered), 0.0f);
  std::vector<float> m(static_cast<size_t>(group.size() * gates));
  std::vector<float> inner(static_cast<size_t>(inner_size)), passed(inner.size());
  const auto state = [&](int64_t i) { return states.data() + i * remembered; };
  for (int64_t i = 0; i < group.size(); ++i) {
    if (group.start_slot(i) < 0) continue;
    std::copy_n(args.pool.data<float>() + group.start_slot(i) * remembered, remembered, state(i));
  }
  for (int64_t step = 0; step < group.longest(); ++step) {
    const int64_t active = group.with_token(step);
    multiply_rows(args.weight, args.bias.data<float>(), states.data(), remembered, active, m.data(),
                  gates);
    for (int64_t i = 0; i < active; ++i) {
      const int64_t t = group.begin(i) + step;
      if (args.before) std::copy_n(state(i), remembered, row(args.before, t));
      float* kept = args.inner ? row(args.inner, t) : inner.data();
      HWY_DYNAMIC_DISPATCH(ForwardToken)
      (args, t, m.data() + i * gates, kept, passed.data(), state(i));
      std::copy_n(state(i), n, row(args.h, t));
    }
  }
  for (int64_t i = 0; i < group.size(); ++i) {
    if (group.end_slot(i) < 0) continue;
    std::copy_n(state(i), remembered, args.pool.data<float>() + group.end_slot(i) * remembered);
  }
}

// `transposed`: the weight's columns as rows, (d_inner, gate_count * d_inner).
void backward_group(const RecurrentBackward& args, const Tensor& transposed, const Group& group,
                    const Tensor& dstarts) {
  const int64_t n = args.weight.dim(1), gates = args.weight.dim(0);
  const int64_t remembered = state_rows(args.cell) * n;
  std::vector<float> dstates(static_cast<size_t>(group.size() * remembered), 0.0f);
  std::vector<float> dm(static_cast<size_t>(group.size() * gates));
  std::vector<float> through(static_cast<size_t>(group.size() * n));
  std::vector<float> dh(static_cast<size_t>(n));
  std::vector<float> passed(static_cast<size_t>(inner_rows(args.cell) * n));
  const auto dstate = [&](int64_t i) { return dstates.data() + i * remembered; };
  for (int64_t i = 0; i < group.size(); ++i) {
    if (!args.dpool || group.end_slot(i) < 0) continue;
    float* dend = args.dpool.data<float>() + group.end_slot(i) * remembered;
    std::copy_n(dend, remembered, dstate(i));
    std::fill_n(dend, remembered, 0.0f);
  }
  for (int64_t step = group.longest() - 1; step >= 0; --step) {
    const int64_t active = group.with_token(step);
    for (int64_t i = 0; i < active; ++i) {
      const int64_t t = group.begin(i) + step;
      HWY_DYNAMIC_DISPATCH(BackwardToken)(args, t, passed.data(), dh.data(), dstate(i));
      std::copy_n(row(args.dm, t), gates, dm.data() + i * gates);
    }
    multiply_rows(transposed, nullptr, dm.data(), gates, active, through.data(), n);
    for (int64_t i = 0; i < active; ++i) {
      for (int64_t e = 0; e < n; ++e) dstate(i)[e] += through[static_cast<size_t>(i * n + e)];
    }
  }
  for (int64_t i = 0; i < group.size(); ++i) {
    std::copy_n(dstate(i), remembered, row(dstarts, group.sequence(i)));
  }
}

}  // namespace

void recurrent_forward(Device& device, const RecurrentForward& args) {
  const std::vector<Group> groups = groups_of(args.seqs);
  parallel_for(std::ssize(groups), device.threads(),
               [&](int64_t g) { forward_group(args, groups[static_cast<size_t>(g)]); });
}

void recurrent_backward(Device& device, const RecurrentBackward& args) {
  const std::vector<Group> groups = groups_of(args.seqs);
  const Tensor weight = transposed(device, widened(device, args.weight));
  const int64_t remembered = state_rows(args.cell) * args.weight.dim(1);
  const Tensor dstarts = device.empty(DType::f32, {args.seqs.count(), remembered});
  parallel_for(std::ssize(groups), device.threads(), [&](int64_t g) {
    backward_group(args, weight, groups[static_cast<size_t>(g)], dstarts);
  });
  // Several sequences may start from one slot: added in their order.
  for (int64_t s = 0; args.dpool && s < args.seqs.count(); ++s) {
    const int64_t from = args.seqs.starts[static_cast<size_t>(s)];
    if (from < 0) continue;
    float* to = args.dpool.data<float>() + from * remembered;
    for (int64_t i = 0; i < remembered; ++i) to[i] += row(dstarts, s)[i];
  }
}

}  // namespace elapse::cpu
#endif  // HWY_ONCE
