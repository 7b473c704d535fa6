// SPDX-License-Identifier: Apache-2.0
#include "elapse/ops/selective_scan.h"

#include <algorithm>
#include <vector>

#include "elapse/backends/ref/kernels.h"
#include "elapse/backends/ref/math.h"
#include "elapse/ops/mamba_step.h"

namespace elapse::ref {
namespace {

// All taps of one call.
template <class T>
struct Taps {
  explicit Taps(const ScanTaps& taps)
      : dt_pre(tap(taps, ScanPoint::dt_pre)),
        dt(tap(taps, ScanPoint::dt)),
        decay(tap(taps, ScanPoint::decay)),
        B_bar(tap(taps, ScanPoint::B_bar)),
        write(tap(taps, ScanPoint::write)),
        h(tap(taps, ScanPoint::h)),
        readout_h(tap(taps, ScanPoint::readout_h)),
        y(tap(taps, ScanPoint::y)),
        ssm_out(tap(taps, ScanPoint::ssm_out)),
        gate(tap(taps, ScanPoint::gate)) {}

  TapAt<T> dt_pre, dt, decay, B_bar, write, h, readout_h, y, ssm_out, gate;
};

// The scan at one token of one channel: every inner value, named as in selective_scan.h.
template <class T>
struct Step {
  T dt_pre, dt, ssm_out, gate;
  std::vector<T> decay, B_bar, write, h, readout_h;

  explicit Step(int64_t d_state)
      : decay(size_t(d_state)),
        B_bar(size_t(d_state)),
        write(size_t(d_state)),
        h(size_t(d_state)),
        readout_h(size_t(d_state)) {}

  void run(const ScanInputs& in, const Taps<T>& taps, int64_t t, int64_t e, const T* h_before) {
    const int64_t d_inner = in.A.dim(0), d_state = in.A.dim(1), te = t * d_inner + e;
    const T x = Matrix<T>(in.x)(t, e);
    dt_pre = taps.dt_pre(Matrix<T>(in.dt_raw)(t, e) + in.dt_bias.data<T>()[e], te);
    dt = taps.dt(softplus(dt_pre), te);
    double sum = 0;
    for (int64_t n = 0; n < d_state; ++n) {
      const auto i = static_cast<size_t>(n);
      const int64_t ten = te * d_state + n;
      const T B = Matrix<T>(in.B)(t, n);
      decay[i] = taps.decay(std::exp(dt * in.A.data<T>()[e * d_state + n]), ten);
      B_bar[i] = taps.B_bar(dt * B, ten);
      const T plain_write = B_bar[i] == dt * B ? (dt * x) * B : B_bar[i] * x;
      write[i] = taps.write(plain_write, ten);
      h[i] = taps.h(decay[i] * h_before[n] + write[i], ten);
      readout_h[i] = taps.readout_h(h[i], ten);
      sum += double(Matrix<T>(in.C)(t, n)) * readout_h[i];
    }
    const T y = taps.y(static_cast<T>(sum), te);
    ssm_out = taps.ssm_out(y + in.D.data<T>()[e] * x, te);
    gate = taps.gate(silu(Matrix<T>(in.z)(t, e)), te);
  }
};

template <class T>
void scan_channel(const ScanForward& a, const Taps<T>& taps, int64_t s, int64_t e) {
  const int64_t d_inner = a.in.A.dim(0), d_state = a.in.A.dim(1);
  const int64_t* cu = a.in.seqs.cu_seqlens.data<int64_t>();
  const int64_t from = a.in.seqs.start_slots.data<int64_t>()[s];
  const int64_t to = a.in.seqs.end_slots.data<int64_t>()[s];
  Step<T> step(d_state);
  std::vector<T> h(static_cast<size_t>(d_state), T(0));
  if (from >= 0) {
    std::copy_n(a.pool.data<T>() + (from * d_inner + e) * d_state, d_state, h.begin());
  }
  for (int64_t t = cu[s]; t < cu[s + 1]; ++t) {
    const int64_t into = t - cu[s];
    if (a.checkpoints && into % ScanForward::kCheckpointEvery == 0) {
      const int64_t row = checkpoint_begin(cu[s], s) + into / ScanForward::kCheckpointEvery;
      std::copy(h.begin(), h.end(), a.checkpoints.data<T>() + (row * d_inner + e) * d_state);
    }
    step.run(a.in, taps, t, e, h.data());
    h = step.h;
    Matrix<T>(a.out)(t, e) = step.ssm_out * step.gate;
  }
  if (to >= 0) std::copy(h.begin(), h.end(), a.pool.data<T>() + (to * d_inner + e) * d_state);
}

template <class T>
void selective_scan_forward(Device&, const ScanForward& a) {
  const Taps<T> taps(a.taps);
  for (int64_t s = 0; s < a.in.seqs.count(); ++s) {
    for (int64_t e = 0; e < a.in.A.dim(0); ++e) scan_channel(a, taps, s, e);
  }
}

// One channel of one sequence, backwards: dh is the gradient of the state after the token at hand.
template <class T>
class ChannelBackward {
 public:
  ChannelBackward(const ScanBackward& a, const Taps<T>& taps, int64_t s, int64_t e)
      : a_(a), taps_(taps), e_(e), d_state_(a.in.A.dim(1)), dh_(size_t(d_state_), T(0)) {
    const int64_t* cu = a.in.seqs.cu_seqlens.data<int64_t>();
    begin_ = cu[s];
    end_ = cu[s + 1];
    take_end_gradient(a.in.seqs.end_slots.data<int64_t>()[s]);
    if (begin_ < end_) recompute(checkpoint_begin(begin_, s));
    for (int64_t t = end_ - 1; t >= begin_; --t) token(t);
    give_start_gradient(a.in.seqs.start_slots.data<int64_t>()[s]);
  }

 private:
  T* dpool(int64_t slot) const {
    return a_.dpool.data<T>() + (slot * a_.in.A.dim(0) + e_) * d_state_;
  }
  void take_end_gradient(int64_t slot) {
    if (!a_.dpool || slot < 0) return;
    std::copy_n(dpool(slot), d_state_, dh_.begin());
    std::fill_n(dpool(slot), d_state_, T(0));
  }
  void give_start_gradient(int64_t slot) {
    if (!a_.dpool || slot < 0) return;
    for (int64_t n = 0; n < d_state_; ++n) dpool(slot)[n] += dh_[static_cast<size_t>(n)];
  }

  // Every token's inner values again, from the first checkpoint, the sequence's start.
  void recompute(int64_t checkpoint) {
    const T* start = a_.checkpoints.data<T>() + (checkpoint * a_.in.A.dim(0) + e_) * d_state_;
    start_.assign(start, start + d_state_);
    for (int64_t t = begin_; t < end_; ++t) {
      steps_.emplace_back(d_state_);
      steps_.back().run(a_.in, taps_, t, e_, h_before(t));
    }
  }
  const T* h_before(int64_t t) const {
    return t == begin_ ? start_.data() : steps_[static_cast<size_t>(t - 1 - begin_)].h.data();
  }

  void token(int64_t t) {
    const ScanInputs& in = a_.in;
    const Step<T>& step = steps_[static_cast<size_t>(t - begin_)];
    const int64_t te = t * in.A.dim(0) + e_;
    const T x = Matrix<T>(in.x)(t, e_), z = Matrix<T>(in.z)(t, e_), D = in.D.data<T>()[e_];
    const T dout = Matrix<T>(a_.dout)(t, e_);
    const T dssm_out = taps_.ssm_out.back(dout * step.gate, te);
    Matrix<T>(a_.dz)(t, e_) = taps_.gate.back(dout * step.ssm_out, te) * silu_slope(z);
    a_.dD.data<T>()[e_] += dssm_out * x;
    double dx = double(dssm_out) * D, ddt = 0;
    states(t, step, x, taps_.y.back(dssm_out, te), dx, ddt);
    Matrix<T>(a_.dx)(t, e_) = static_cast<T>(dx);
    const T ddt_pre =
        taps_.dt_pre.back(taps_.dt.back(static_cast<T>(ddt), te) * softplus_slope(step.dt_pre), te);
    Matrix<T>(a_.ddt_raw)(t, e_) = ddt_pre;
    a_.ddt_bias.data<T>()[e_] += ddt_pre;
  }

  void states(int64_t t, const Step<T>& step, T x, T dy, double& dx, double& ddt) {
    const T* before = h_before(t);
    for (int64_t n = 0; n < d_state_; ++n) {
      const auto i = static_cast<size_t>(n);
      const int64_t ten = (t * a_.in.A.dim(0) + e_) * d_state_ + n;
      const T A = a_.in.A.data<T>()[e_ * d_state_ + n];
      const T B = Matrix<T>(a_.in.B)(t, n), C = Matrix<T>(a_.in.C)(t, n);
      Matrix<T>(a_.dC)(t, n) += dy * step.readout_h[i];
      const T dh = taps_.h.back(dh_[i] + taps_.readout_h.back(dy * C, ten), ten);
      const T dwrite = taps_.write.back(dh, ten);
      const T dB_bar = taps_.B_bar.back(dwrite * x, ten);
      const T dexponent = taps_.decay.back(dh * before[n], ten) * std::exp(step.dt * A);
      dx += double(dwrite) * step.B_bar[i];
      ddt += double(dB_bar) * B + double(dexponent) * A;
      Matrix<T>(a_.dB)(t, n) += dB_bar * step.dt;
      a_.dA.data<T>()[e_ * d_state_ + n] += dexponent * step.dt;
      dh_[i] = dh * step.decay[i];
    }
  }

  const ScanBackward& a_;
  const Taps<T>& taps_;
  int64_t e_, d_state_, begin_ = 0, end_ = 0;
  std::vector<T> dh_;
  std::vector<T> start_;
  std::vector<Step<T>> steps_;
};

template <class T>
void selective_scan_backward(Device&, const ScanBackward& a) {
  const Taps<T> taps(a.taps);
  for (const Tensor* t : {&a.dB, &a.dC}) {
    for (int64_t r = 0; r < t->dim(0); ++r) std::fill_n(Matrix<T>(*t).row(r), t->dim(1), T(0));
  }
  for (int64_t s = 0; s < a.in.seqs.count(); ++s) {
    for (int64_t e = 0; e < a.in.A.dim(0); ++e) ChannelBackward<T>(a, taps, s, e);
  }
}

template <class T>
void recurrence(Device&, const Recurrence& a) {
  const int64_t row = a.h.dim(1) * a.h.dim(2);
  const int64_t* cu = a.seqs.cu_seqlens.data<int64_t>();
  for (int64_t s = 0; s < a.seqs.count(); ++s) {
    for (int64_t i = cu[s] * row; i < cu[s + 1] * row; ++i) {
      const T before = i < (cu[s] + 1) * row ? T(0) : a.h.data<T>()[i - row];
      a.h.data<T>()[i] = a.decay.data<T>()[i] * before + a.write.data<T>()[i];
    }
  }
}

template <class T>
void recurrence_backward(Device&, const RecurrenceBackward& a) {
  const int64_t row = a.h.dim(1) * a.h.dim(2);
  const int64_t* cu = a.seqs.cu_seqlens.data<int64_t>();
  for (int64_t s = 0; s < a.seqs.count(); ++s) {
    for (int64_t i = cu[s + 1] * row - 1; i >= cu[s] * row; --i) {
      const bool first = i < (cu[s] + 1) * row, last = i >= (cu[s + 1] - 1) * row;
      const T later = last ? T(0) : a.decay.data<T>()[i + row] * a.dwrite.data<T>()[i + row];
      a.dwrite.data<T>()[i] = a.dh.data<T>()[i] + later;
      a.ddecay.data<T>()[i] = first ? T(0) : a.dwrite.data<T>()[i] * a.h.data<T>()[i - row];
    }
  }
}

}  // namespace

template <class T>
void add_selective_scan(KernelTable& table) {
  table.set<MambaStep>(mamba_step_by_parts);
  table.set<ScanForward>(selective_scan_forward<T>);
  table.set<ScanBackward>(selective_scan_backward<T>);
  table.set<Recurrence>(recurrence<T>);
  table.set<RecurrenceBackward>(recurrence_backward<T>);
}
template void add_selective_scan<float>(KernelTable&);
template void add_selective_scan<double>(KernelTable&);

}  // namespace elapse::ref
