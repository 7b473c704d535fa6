// SPDX-License-Identifier: Apache-2.0
#include "elapse/ops/ssd.h"

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
  using Edited = SsdForwardByTokens::Edited;
  explicit Taps(const SsdTaps& taps, Edited* edited = nullptr)
      : dt_pre(tap(taps, SsdPoint::dt_pre), nullptr),
        dt(tap(taps, SsdPoint::dt), nullptr),
        decay(tap(taps, SsdPoint::decay), states(edited)),
        B_bar(tap(taps, SsdPoint::B_bar), states(edited)),
        write(tap(taps, SsdPoint::write), states(edited)),
        h(tap(taps, SsdPoint::h), states(edited)),
        readout_h(tap(taps, SsdPoint::readout_h), edited == nullptr ? nullptr : &edited->reads),
        y(tap(taps, SsdPoint::y), nullptr) {}

  static bool* states(Edited* edited) { return edited == nullptr ? nullptr : &edited->states; }

  NotingTap<T> dt_pre, dt, decay, B_bar, write, h, readout_h, y;
};

// Sizes, and where head k's values are.
template <class T>
struct Head {
  Head(const SsdInputs& in, int64_t head)
      : k(head),
        n_heads(in.n_heads()),
        head_dim(in.head_dim()),
        d_state(in.d_state()),
        channel(k * head_dim),
        group_column(in.group_of(k) * d_state),
        D_step(in.D.numel() == in.d_inner() && n_heads != in.d_inner() ? 1 : 0),
        D_begin(D_step == 1 ? channel : k) {}

  int64_t states() const { return head_dim * d_state; }
  T* states_of(const Tensor& pool, int64_t row) const {
    return pool.data<T>() + (row * n_heads + k) * states();
  }
  T& D(const Tensor& t, int64_t p) const { return t.data<T>()[D_begin + p * D_step]; }

  int64_t k, n_heads, head_dim, d_state;
  int64_t channel;       // the head's first
  int64_t group_column;  // of B and C
  int64_t D_step, D_begin;
};

// The recurrence at one token of one head: every inner value, named as in ssd.h.
template <class T>
struct Step {
  T dt_pre, dt, decay;
  std::vector<T> B_bar;                // (d_state)
  std::vector<T> write, h, readout_h;  // (head_dim, d_state)
  std::vector<T> y;                    // (head_dim)

  explicit Step(const Head<T>& head)
      : B_bar(size_t(head.d_state)),
        write(size_t(head.states())),
        h(size_t(head.states())),
        readout_h(size_t(head.states())),
        y(size_t(head.head_dim)) {}

  void run(const SsdInputs& in, const Taps<T>& taps, const Head<T>& head, int64_t t,
           const T* h_before) {
    run(in, taps, head, t, h_before, 0, head.head_dim);
  }
  // The same in some of the head's channels alone.
  void run(const SsdInputs& in, const Taps<T>& taps, const Head<T>& head, int64_t t,
           const T* h_before, int64_t channel_begin, int64_t channel_end) {
    const int64_t tk = t * head.n_heads + head.k;
    dt_pre = taps.dt_pre(Matrix<T>(in.dt_raw)(t, head.k) + in.dt_bias.data<T>()[head.k], tk);
    const T within =
        std::clamp(softplus(dt_pre), static_cast<T>(in.dt_min), static_cast<T>(in.dt_max));
    dt = taps.dt(within, tk);
    decay = taps.decay(std::exp(dt * in.A.data<T>()[head.k]), tk);
    const T* B = Matrix<T>(in.B).row(t) + head.group_column;
    for (int64_t n = 0; n < head.d_state; ++n) {
      B_bar[static_cast<size_t>(n)] = taps.B_bar(dt * B[n], tk * head.d_state + n);
    }
    for (int64_t p = channel_begin; p < channel_end; ++p) channel(in, taps, head, t, p, h_before);
  }

 private:
  void channel(const SsdInputs& in, const Taps<T>& taps, const Head<T>& head, int64_t t, int64_t p,
               const T* h_before) {
    const int64_t te = t * in.d_inner() + head.channel + p;
    const T x = Matrix<T>(in.x)(t, head.channel + p);
    const T* B = Matrix<T>(in.B).row(t) + head.group_column;
    const T* C = Matrix<T>(in.C).row(t) + head.group_column;
    double sum = 0;
    for (int64_t n = 0; n < head.d_state; ++n) {
      const auto i = static_cast<size_t>(p * head.d_state + n);
      const int64_t ten = te * head.d_state + n;
      const T bar = B_bar[static_cast<size_t>(n)];
      write[i] = taps.write(bar == dt * B[n] ? (dt * x) * B[n] : bar * x, ten);
      h[i] = taps.h(decay * h_before[i] + write[i], ten);
      readout_h[i] = taps.readout_h(h[i], ten);
      sum += double(C[n]) * readout_h[i];
    }
    y[static_cast<size_t>(p)] = taps.y(static_cast<T>(sum), te);
  }
};

template <class T>
void scan_head(const SsdForward& a, const Taps<T>& taps, int64_t s, const Head<T>& head) {
  const int64_t* cu = a.in.seqs.cu_seqlens.data<int64_t>();
  const int64_t from = a.in.seqs.start_slots.data<int64_t>()[s];
  const int64_t to = a.in.seqs.end_slots.data<int64_t>()[s];
  Step<T> step(head);
  std::vector<T> h(static_cast<size_t>(head.states()), T(0));
  if (from >= 0) std::copy_n(head.states_of(a.pool, from), head.states(), h.begin());
  for (int64_t t = cu[s]; t < cu[s + 1]; ++t) {
    const int64_t into = t - cu[s];
    if (a.checkpoints && into % a.in.chunk == 0) {
      const int64_t row = ssd_checkpoint_begin(a.in, cu[s], s) + into / a.in.chunk;
      std::copy(h.begin(), h.end(), head.states_of(a.checkpoints, row));
    }
    step.run(a.in, taps, head, t, h.data());
    h.swap(step.h);
    for (int64_t p = 0; p < head.head_dim; ++p) {
      Matrix<T>(a.out)(t, head.channel + p) =
          step.y[static_cast<size_t>(p)] +
          head.D(a.in.D, p) * Matrix<T>(a.in.x)(t, head.channel + p);
    }
  }
  if (to >= 0) std::copy(h.begin(), h.end(), head.states_of(a.pool, to));
}

// Several where there is enough to do for it to pay.
int threads_for(const Device& device, const SsdInputs& in) {
  constexpr int64_t kWorthSharing = int64_t{1} << 20;
  return in.seqs.tokens * in.d_inner() * in.d_state() < kWorthSharing ? 1 : device.threads();
}

template <class T>
void forward(Device& device, const SsdForward& a, SsdForwardByTokens::Edited* edited) {
  const Taps<T> taps(a.taps, edited);
  const int64_t n_heads = a.in.n_heads();
  parallel_for(a.in.seqs.count() * n_heads, threads_for(device, a.in),
               [&](int64_t i) { scan_head(a, taps, i / n_heads, Head<T>(a.in, i % n_heads)); });
}

// The tokens of one chunk up to the last that somebody watches or edits, and the channels of one
// head.
struct TouchedPart {
  int64_t end = 0, channel_begin = 0, channel_end = 0;

  // Of tokens [begin, end) and a head.
  template <class T>
  static TouchedPart of(const SsdForward& a, int64_t begin, int64_t end, const Head<T>& head) {
    TouchedPart all = {begin, head.head_dim, 0};
    for (size_t i = 0; i < a.taps.size(); ++i) {
      const auto point = static_cast<SsdPoint>(i);
      if (!is_of_recurrence(point)) continue;
      if (a.taps[i].watch) all.add(a.taps[i].watched, point, begin, end, head);
      for (const TapEdit& edit : a.taps[i].edits) all.add(edit.part, point, begin, end, head);
    }
    return all;
  }

 private:
  template <class T>
  void add(const TapPart& part, SsdPoint point, int64_t begin, int64_t end_of_chunk,
           const Head<T>& head) {
    const bool by_head = point == SsdPoint::decay || point == SsdPoint::B_bar;
    const int64_t first = by_head ? head.k : head.channel;
    const int64_t last = first + (by_head ? 1 : head.head_dim);
    const int64_t states = point == SsdPoint::decay ? 1 : head.d_state;
    if (!part.meets(begin, end_of_chunk, first, last, 0, states)) return;
    int64_t stop = end_of_chunk;
    while (!part.is_whole() && part.part_row(stop - 1) < 0) --stop;
    end = std::max(end, stop);
    if (by_head) return;
    const int64_t from = part.is_whole() ? first : std::max(first, part.first_channel);
    const int64_t to =
        part.is_whole() ? last : std::min(last, part.first_channel + part.channel_count);
    channel_begin = std::min(channel_begin, from - first);
    channel_end = std::max(channel_end, to - first);
  }
};

template <class T>
void watch(Device& device, const SsdForward& a, SsdForwardByTokens::Edited* edited) {
  struct Chunk {
    int64_t begin, end, checkpoint;
  };
  std::vector<Chunk> chunks;
  const int64_t* cu = a.in.seqs.cu_seqlens.data<int64_t>();
  for (int64_t s = 0; s < a.in.seqs.count(); ++s) {
    for (int64_t t = cu[s]; t < cu[s + 1]; t += a.in.chunk) {
      chunks.push_back({t, std::min(cu[s + 1], t + a.in.chunk),
                        ssd_checkpoint_begin(a.in, cu[s], s) + (t - cu[s]) / a.in.chunk});
    }
  }
  const Taps<T> taps(a.taps, edited);
  const int64_t n_heads = a.in.n_heads();
  parallel_for(std::ssize(chunks) * n_heads, threads_for(device, a.in), [&](int64_t i) {
    const Chunk& chunk = chunks[static_cast<size_t>(i / n_heads)];
    const Head<T> head(a.in, i % n_heads);
    const TouchedPart part = TouchedPart::of(a, chunk.begin, chunk.end, head);
    if (part.end == chunk.begin) return;
    Step<T> step(head);
    const T* start = head.states_of(a.checkpoints, chunk.checkpoint);
    std::vector<T> h(start, start + head.states());
    for (int64_t t = chunk.begin; t < part.end; ++t) {
      step.run(a.in, taps, head, t, h.data(), part.channel_begin, part.channel_end);
      h.swap(step.h);
    }
  });
}

// One head of one sequence, backwards: dh is the gradient of the states after the token at hand.
template <class T>
class HeadBackward {
 public:
  HeadBackward(const SsdBackward& a, const Taps<T>& taps, int64_t s, const Head<T>& head)
      : a_(a),
        taps_(taps),
        head_(head),
        dh_(size_t(head.states()), T(0)),
        dB_bar_(size_t(head.d_state)) {
    const int64_t* cu = a.in.seqs.cu_seqlens.data<int64_t>();
    begin_ = cu[s];
    end_ = cu[s + 1];
    take_end_gradient(a.in.seqs.end_slots.data<int64_t>()[s]);
    if (begin_ < end_) recompute(ssd_checkpoint_begin(a.in, begin_, s));
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
    return t == begin_ ? start_ : steps_[static_cast<size_t>(t - 1 - begin_)].h.data();
  }

  void token(int64_t t) {
    const SsdInputs& in = a_.in;
    const Step<T>& step = steps_[static_cast<size_t>(t - begin_)];
    const int64_t tk = t * head_.n_heads + head_.k;
    const T A = in.A.data<T>()[head_.k];
    double ddecay = 0, ddt = 0;
    std::fill(dB_bar_.begin(), dB_bar_.end(), 0.0);
    for (int64_t p = 0; p < head_.head_dim; ++p) channel(t, step, p, ddecay);
    for (int64_t n = 0; n < head_.d_state; ++n) {
      const auto dB_bar = static_cast<T>(dB_bar_[static_cast<size_t>(n)]);
      const T passed = taps_.B_bar.back(dB_bar, tk * head_.d_state + n);
      const int64_t column = head_.group_column + n;
      ddt += double(passed) * Matrix<T>(in.B)(t, column);
      Matrix<T>(a_.dB)(t, column) += passed * step.dt;
    }
    const double dexponent = taps_.decay.back(static_cast<T>(ddecay), tk) * std::exp(step.dt * A);
    a_.dA.data<T>()[head_.k] += static_cast<T>(dexponent * step.dt);
    ddt += dexponent * A;
    const T limited = softplus(step.dt_pre);
    const bool in_limits = limited >= in.dt_min && limited <= in.dt_max;
    const T dwithin = taps_.dt.back(static_cast<T>(ddt), tk);
    const T ddt_pre =
        taps_.dt_pre.back(in_limits ? dwithin * softplus_slope(step.dt_pre) : T(0), tk);
    Matrix<T>(a_.ddt_raw)(t, head_.k) = ddt_pre;
    a_.ddt_bias.data<T>()[head_.k] += ddt_pre;
  }

  void channel(int64_t t, const Step<T>& step, int64_t p, double& ddecay) {
    const SsdInputs& in = a_.in;
    const int64_t te = t * in.d_inner() + head_.channel + p;
    const T x = Matrix<T>(in.x)(t, head_.channel + p);
    const T dout = Matrix<T>(a_.dout)(t, head_.channel + p);
    const T* C = Matrix<T>(in.C).row(t) + head_.group_column;
    T* dC = Matrix<T>(a_.dC).row(t) + head_.group_column;
    const T dy = taps_.y.back(dout, te);
    double dx = double(dout) * head_.D(in.D, p);
    head_.D(a_.dD, p) += dout * x;
    for (int64_t n = 0; n < head_.d_state; ++n) {
      const auto i = static_cast<size_t>(p * head_.d_state + n);
      const int64_t ten = te * head_.d_state + n;
      const T bar = step.B_bar[static_cast<size_t>(n)];
      dC[n] += dy * step.readout_h[i];
      const T dh = taps_.h.back(dh_[i] + taps_.readout_h.back(dy * C[n], ten), ten);
      const T dwrite = taps_.write.back(dh, ten);
      dx += double(dwrite) * bar;
      dB_bar_[static_cast<size_t>(n)] += double(dwrite) * x;
      ddecay += double(dh) * h_before(t)[i];
      dh_[i] = dh * step.decay;
    }
    Matrix<T>(a_.dx)(t, head_.channel + p) = static_cast<T>(dx);
  }

  const SsdBackward& a_;
  const Taps<T>& taps_;
  const Head<T> head_;
  int64_t begin_ = 0, end_ = 0;
  std::vector<T> dh_;
  std::vector<double> dB_bar_;  // of the token at hand, summed over channels
  const T* start_ = nullptr;
  std::vector<Step<T>> steps_;
};

template <class T>
void backward(const SsdBackward& a) {
  const Taps<T> taps(a.taps);
  for (const Tensor* t : {&a.dB, &a.dC}) {
    for (int64_t r = 0; r < t->dim(0); ++r) std::fill_n(Matrix<T>(*t).row(r), t->dim(1), T(0));
  }
  for (int64_t s = 0; s < a.in.seqs.count(); ++s) {
    for (int64_t k = 0; k < a.in.n_heads(); ++k) HeadBackward<T>(a, taps, s, Head<T>(a.in, k));
  }
}

}  // namespace

template <class T>
void add_ssd(KernelTable& table) {
  table.set<SsdForward>([](Device& d, const SsdForward& a) { forward<T>(d, a, nullptr); });
  table.set<SsdBackward>([](Device&, const SsdBackward& a) { backward<T>(a); });
  table.set<SsdForwardByTokens>(
      [](Device& d, const SsdForwardByTokens& a) { forward<T>(d, a.call, a.edited); });
  table.set<SsdWatchByTokens>(
      [](Device& d, const SsdWatchByTokens& a) { watch<T>(d, a.call, a.edited); });
  table.set<SsdBackwardByTokens>(
      [](Device&, const SsdBackwardByTokens& a) { backward<T>(a.call); });
}
template void add_ssd<float>(KernelTable&);
template void add_ssd<double>(KernelTable&);

}  // namespace elapse::ref
