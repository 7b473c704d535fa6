// SPDX-License-Identifier: Apache-2.0
// The selective scan of sequences of one token, as in decoding. Laying A and the states out with
// channels in lanes, as the scan of many tokens has them, would cost more than the token: here
// lanes are states, as they are stored, and only the new states are laid out anew, for y. Each
// element goes through the same operations in the same order, so the results have the same bits.
// Included once per target.
#if defined(ELAPSE_BACKENDS_CPU_SELECTIVE_SCAN_STEP_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef ELAPSE_BACKENDS_CPU_SELECTIVE_SCAN_STEP_INL_H_
#undef ELAPSE_BACKENDS_CPU_SELECTIVE_SCAN_STEP_INL_H_
#else
#define ELAPSE_BACKENDS_CPU_SELECTIVE_SCAN_STEP_INL_H_
#endif

#include "elapse/backends/cpu/selective_scan-inl.h"

HWY_BEFORE_NAMESPACE();
namespace elapse::cpu::HWY_NAMESPACE {

// Whether every sequence is of one token and its states are whole vectors.
inline bool AreSteps(const ScanInputs& in) {
  return in.seqs.max_len == 1 && in.seqs.tokens == in.seqs.count() && in.A.dim(1) % kLanes == 0;
}

// The steps of one group of channels. kStates: the block of states that the scan sums y over.
template <int kStates>
class StepTask {
 public:
  static int64_t scratch_floats(int64_t d_state) { return 2 * kLanes * d_state; }

  StepTask(const ScanForward& args, const Group& group, float* scratch)
      : args_(args),
        in_(args.in),
        group_(group),
        rows_(scratch),
        columns_(scratch + kLanes * group.d_state) {}

  // Sequence s, which is token s.
  void run(int64_t s) {
    const int64_t start = in_.seqs.start_slots.template data<int64_t>()[s];
    const int64_t end = in_.seqs.end_slots.template data<int64_t>()[s];
    const float* from = start == Sequences::kNoSlot ? nullptr : SlotOf(args_.pool, start);
    float* to = end == Sequences::kNoSlot ? nullptr : SlotOf(args_.pool, end);
    const int64_t whole = group_.count / kLanes, rest = group_.count % kLanes;
    for (int64_t v = 0; v < whole; ++v) step(WholeLanes<D>{D()}, s, v, from, to);
    if (rest != 0) step(FirstLanes<D>{D(), static_cast<size_t>(rest)}, s, whole, from, to);
  }

 private:
  template <class Lanes>
  void step(Lanes lanes, int64_t token, int64_t v, const float* from, float* to) {
    const D d;
    const int64_t channel = group_.channel(v);
    const V bias = lanes.load(in_.dt_bias.template data<float>() + channel);
    const V x = lanes.load(row(in_.x, token) + channel);
    const V dt = Softplus(d, hn::Add(lanes.load(row(in_.dt_raw, token) + channel), bias));
    hn::Store(dt, d, dt_);
    hn::Store(hn::Mul(dt, x), d, dtx_);
    for (int64_t c = 0; c < group_.lanes(v); ++c) advance(token, channel + c, c, from, to);
    TransposeBlocks(rows_, group_.d_state, kLanes, group_.d_state, columns_, kLanes);
    const V skip = lanes.load(in_.D.template data<float>() + channel);
    const V ssm_out = hn::MulAdd(skip, x, read_out(row(in_.C, token)));
    const V gate = Silu(d, lanes.load(row(in_.z, token) + channel));
    lanes.store(hn::Mul(ssm_out, gate), row(args_.out, token) + channel);
  }

  // The states of one channel, the group's c-th of this vector.
  void advance(int64_t token, int64_t channel, int64_t c, const float* from, float* to) {
    const D d;
    const V dt = hn::Set(d, dt_[c]), dtx = hn::Set(d, dtx_[c]);
    const int64_t first = channel * group_.d_state;
    const float* A = in_.A.template data<float>() + first;
    const float* B = row(in_.B, token);
    float* h = rows_ + c * group_.d_state;
    for (int64_t n = 0; n < group_.d_state; n += kLanes) {
      const V before = from != nullptr ? hn::LoadU(d, from + first + n) : hn::Zero(d);
      const V decay = Exp2OfProduct(d, dt, hn::Mul(hn::LoadU(d, A + n), hn::Set(d, kLog2e)));
      const V after = hn::MulAdd(decay, before, hn::Mul(dtx, hn::LoadU(d, B + n)));
      hn::Store(after, d, h + n);
      if (to != nullptr) hn::StoreU(after, d, to + first + n);
    }
  }

  V read_out(const float* C) const {
    const D d;
    V y = hn::Zero(d);
    for (int64_t first = 0; first < group_.d_state; first += kStates) {
      const int64_t end = std::min<int64_t>(group_.d_state, first + kStates);
      V sums[2] = {y, hn::Zero(d)};
      for (int64_t n = first; n < end; ++n) {
        V& sum = sums[(n - first) % 2];
        sum = hn::MulAdd(hn::Load(d, columns_ + n * kLanes), hn::Set(d, C[n]), sum);
      }
      y = hn::Add(sums[0], sums[1]);
    }
    return y;
  }

  const ScanForward& args_;
  const ScanInputs& in_;
  const Group group_;
  float* const rows_;     // the new states of a vector of channels: (kLanes, d_state)
  float* const columns_;  // (d_state, kLanes)
  HWY_ALIGN float dt_[kLanes];
  HWY_ALIGN float dtx_[kLanes];
};

}  // namespace elapse::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
