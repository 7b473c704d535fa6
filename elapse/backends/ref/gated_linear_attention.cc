// SPDX-License-Identifier: Apache-2.0
#include "elapse/ops/gated_linear_attention.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "elapse/backends/ref/kernels.h"
#include "elapse/backends/ref/math.h"
#include "elapse/backends/ref/noting_tap.h"
#include "elapse/core/parallel.h"

namespace elapse::ref {
namespace {

// All taps of one call.
template <class T>
struct Taps {
  using Edited = GlaForwardByTokens::Edited;
  explicit Taps(const GlaTaps& taps, Edited* edited = nullptr)
      : decay(taps.decay, states(edited)),
        write(taps.write, states(edited)),
        h(taps.h, states(edited)),
        readout_h(taps.readout_h, edited == nullptr ? nullptr : &edited->reads) {}

  static bool* states(Edited* edited) { return edited == nullptr ? nullptr : &edited->states; }

  NotingTap<T> decay, write, h, readout_h;
};

// Sizes, and where head i's values are.
template <class T>
struct Head {
  Head(const GlaInputs& in, int64_t i)
      : d_k(in.d_k()), d_v(in.d_v()), d_inner(in.d_inner()), key(i * d_k), channel(i * d_v) {}

  int64_t states() const { return d_v * d_k; }
  T* states_of(const Tensor& pool, int64_t row) const {
    return pool.data<T>() + (row * d_inner + channel) * d_k;
  }

  int64_t d_k, d_v, d_inner;
  int64_t key, channel;  // the head's first
};

// The recurrence at one token of one head: every inner value, named as in the operation.
template <class T>
struct Step {
  std::vector<T> decay;                // (d_k)
  std::vector<T> write, h, readout_h;  // (d_v, d_k)
  std::vector<T> y;                    // (d_v)

  explicit Step(const Head<T>& head)
      : decay(size_t(head.d_k)),
        write(size_t(head.states())),
        h(size_t(head.states())),
        readout_h(size_t(head.states())),
        y(size_t(head.d_v)) {}

  void run(const GlaInputs& in, const Taps<T>& taps, const Head<T>& head, int64_t t,
           const T* h_before) {
    const T* log_decay = Matrix<T>(in.log_decay).row(t) + head.key;
    for (int64_t n = 0; n < head.d_k; ++n) {
      decay[size_t(n)] = taps.decay(std::exp(log_decay[n]), t * in.q.dim(1) + head.key + n);
    }
    for (int64_t e = 0; e < head.d_v; ++e) channel(in, taps, head, t, e, h_before);
  }

 private:
  void channel(const GlaInputs& in, const Taps<T>& taps, const Head<T>& head, int64_t t, int64_t e,
               const T* h_before) {
    const T* q = Matrix<T>(in.q).row(t) + head.key;
    const T* k = Matrix<T>(in.k).row(t) + head.key;
    const T v = Matrix<T>(in.v)(t, head.channel + e);
    double sum = 0;
    for (int64_t n = 0; n < head.d_k; ++n) {
      const auto i = size_t(e * head.d_k + n);
      const int64_t at = (t * head.d_inner + head.channel + e) * head.d_k + n;
      write[i] = taps.write(v * k[n], at);
      h[i] = taps.h(decay[size_t(n)] * h_before[i] + write[i], at);
      readout_h[i] = taps.readout_h(h[i], at);
      sum += double(q[n]) * readout_h[i];
    }
    y[size_t(e)] = static_cast<T>(sum);
  }
};

template <class T>
void scan_head(const GlaForward& a, const Taps<T>& taps, int64_t s, const Head<T>& head) {
  const int64_t* cu = a.in.seqs.cu_seqlens.data<int64_t>();
  const int64_t from = a.in.seqs.start_slots.data<int64_t>()[s];
  const int64_t to = a.in.seqs.end_slots.data<int64_t>()[s];
  Step<T> step(head);
  std::vector<T> h(size_t(head.states()), T(0));
  if (from >= 0) std::copy_n(head.states_of(a.pool, from), head.states(), h.begin());
  for (int64_t t = cu[s]; t < cu[s + 1]; ++t) {
    const int64_t into = t - cu[s];
    if (a.checkpoints && into % a.in.chunk == 0) {
      const int64_t row = gla_checkpoint_begin(a.in, cu[s], s) + into / a.in.chunk;
      std::copy(h.begin(), h.end(), head.states_of(a.checkpoints, row));
    }
    step.run(a.in, taps, head, t, h.data());
    h.swap(step.h);
    std::copy(step.y.begin(), step.y.end(), Matrix<T>(a.out).row(t) + head.channel);
  }
  if (to >= 0) std::copy(h.begin(), h.end(), head.states_of(a.pool, to));
}

template <class T>
void forward(Device& device, const GlaForward& a, GlaForwardByTokens::Edited* edited) {
  constexpr int64_t kWorthSharing = int64_t{1} << 20;
  const bool shared = a.in.seqs.tokens * a.in.d_inner() * a.in.d_k() >= kWorthSharing;
  const Taps<T> taps(a.taps, edited);
  const int64_t n_heads = a.in.n_heads;
  parallel_for(a.in.seqs.count() * n_heads, shared ? device.threads() : 1,
               [&](int64_t i) { scan_head(a, taps, i / n_heads, Head<T>(a.in, i % n_heads)); });
}

// One head of one sequence, backwards: dh is the gradient of the states after the token at hand.
template <class T>
class HeadBackward {
 public:
  HeadBackward(const GlaBackward& a, const Taps<T>& taps, int64_t s, const Head<T>& head)
      : a_(a), taps_(taps), head_(head), dh_(size_t(head.states()), T(0)) {
    const int64_t* cu = a.in.seqs.cu_seqlens.data<int64_t>();
    begin_ = cu[s];
    end_ = cu[s + 1];
    take_end_gradient(a.in.seqs.end_slots.data<int64_t>()[s]);
    if (begin_ < end_) recompute(gla_checkpoint_begin(a.in, begin_, s));
    for (int64_t t = end_ - 1; t >= begin_; --t) token(t);
    give_start_gradient(a.in.seqs.start_slots.data<int64_t>()[s]);
  }

 private:
  void take_end_gradient(int64_t slot) {
    if (!a_.dpool || slot < 0) return;
    std::copy_n(head_.states_of(a_.dpool, slot), head_.states(), dh_.begin());
    std::fill_n(head_.states_of(a_.dpool, slot), head_.states(), T(0));
  }
  void give_start_gradient(int64_t slot) {
    if (!a_.dpool || slot < 0) return;
    T* into = head_.states_of(a_.dpool, slot);
    for (const T dh : dh_) *into++ += dh;
  }

  // Every token's inner values again, from the first checkpoint, the sequence's start.
  void recompute(int64_t checkpoint) {
    start_ = head_.states_of(a_.checkpoints, checkpoint);
    for (int64_t t = begin_; t < end_; ++t) {
      steps_.emplace_back(head_);
      steps_.back().run(a_.in, taps_, head_, t, h_before(t));
    }
  }
  const T* h_before(int64_t t) const {
    return t == begin_ ? start_ : steps_[size_t(t - 1 - begin_)].h.data();
  }

  void token(int64_t t) {
    const GlaInputs& in = a_.in;
    const Step<T>& step = steps_[size_t(t - begin_)];
    const std::vector<double> zeros(size_t(head_.d_k), 0.0);
    dq_ = dk_ = ddecay_ = zeros;
    for (int64_t e = 0; e < head_.d_v; ++e) channel(t, step, e);
    for (int64_t n = 0; n < head_.d_k; ++n) {
      const int64_t column = head_.key + n;
      const T log_decay = Matrix<T>(in.log_decay)(t, column);
      const T ddecay =
          taps_.decay.back(static_cast<T>(ddecay_[size_t(n)]), t * in.q.dim(1) + column);
      Matrix<T>(a_.dq)(t, column) = static_cast<T>(dq_[size_t(n)]);
      Matrix<T>(a_.dk)(t, column) = static_cast<T>(dk_[size_t(n)]);
      Matrix<T>(a_.dlog_decay)(t, column) = ddecay * std::exp(log_decay);
    }
  }

  void channel(int64_t t, const Step<T>& step, int64_t e) {
    const T* q = Matrix<T>(a_.in.q).row(t) + head_.key;
    const T* k = Matrix<T>(a_.in.k).row(t) + head_.key;
    const T v = Matrix<T>(a_.in.v)(t, head_.channel + e);
    const T dy = Matrix<T>(a_.dout)(t, head_.channel + e);
    double dv = 0;
    for (int64_t n = 0; n < head_.d_k; ++n) {
      const auto i = size_t(e * head_.d_k + n);
      const int64_t at = (t * head_.d_inner + head_.channel + e) * head_.d_k + n;
      dq_[size_t(n)] += double(dy) * step.readout_h[i];
      const T dh = taps_.h.back(dh_[i] + taps_.readout_h.back(dy * q[n], at), at);
      const T dwrite = taps_.write.back(dh, at);
      dv += double(dwrite) * k[n];
      dk_[size_t(n)] += double(dwrite) * v;
      ddecay_[size_t(n)] += double(dh) * h_before(t)[i];
      dh_[i] = dh * step.decay[size_t(n)];
    }
    Matrix<T>(a_.dv)(t, head_.channel + e) = static_cast<T>(dv);
  }

  const GlaBackward& a_;
  const Taps<T>& taps_;
  const Head<T> head_;
  int64_t begin_ = 0, end_ = 0;
  std::vector<T> dh_;
  std::vector<double> dq_, dk_, ddecay_;  // of the token at hand, summed over channels
  const T* start_ = nullptr;
  std::vector<Step<T>> steps_;
};

template <class T>
void backward(const GlaBackward& a) {
  const Taps<T> taps(a.taps);
  for (int64_t s = 0; s < a.in.seqs.count(); ++s) {
    for (int64_t i = 0; i < a.in.n_heads; ++i) HeadBackward<T>(a, taps, s, Head<T>(a.in, i));
  }
}

}  // namespace

template <class T>
void add_gated_linear_attention(KernelTable& table) {
  table.set<GlaForward>([](Device& d, const GlaForward& a) { forward<T>(d, a, nullptr); });
  table.set<GlaBackward>([](Device&, const GlaBackward& a) { backward<T>(a); });
  table.set<GlaForwardByTokens>(
      [](Device& d, const GlaForwardByTokens& a) { forward<T>(d, a.call, a.edited); });
  table.set<GlaBackwardByTokens>(
      [](Device&, const GlaBackwardByTokens& a) { backward<T>(a.call); });
}
template void add_gated_linear_attention<float>(KernelTable&);
template void add_gated_linear_attention<double>(KernelTable&);

}  // namespace elapse::ref
