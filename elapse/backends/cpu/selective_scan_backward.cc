// SPDX-License-Identifier: Apache-2.0
// The selective scan, backward. Cut into tasks and chunks as forward; a task walks each sequence's
// chunks from the last to the first, dh staying with it:
//   1. dt, gate, dssm_out, dy and the slopes of softplus, for every vector of channels and token.
//   2. For every block of 8 states (4 where d_state is small) and every vector: h and decay of the
//      chunk once more from its checkpoint, kept; then back, with dh and dA in registers.
//   3. dB and dC of the block, which vectors add up lane by lane, summed over the lanes.
//   4. dx, ddt_raw, dz; dD and ddt_bias.
// What tasks share (dB and dC between groups of channels; dA, dD, ddt_bias and starts between
// sequences) they leave as partial sums, which are added in a fixed order at the end.
//
// Bound: 16 operations on a vector of one state at one token need a multiply-add unit, 8 to come
// forward (selective_scan_forward.cc) and 8 to go back: with two such units and 16 lanes 8 cycles a
// (token, channel) at 16 states, 2.0 ns at 4 GHz. Going back loads 8 vectors and stores 2 for its 8
// operations, and comes to about twice its share; steps 1, 3 and 4 add about 1. Memory: 28 bytes a
// (token, channel), and 4 d_state / 16 for checkpoints.
#include "elapse/backends/cpu/column_sums.h"
#include "elapse/backends/cpu/kernels.h"

// States are kept in arrays of vectors, which vectors of unknown size do not allow.
#define HWY_DISABLED_TARGETS (HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "elapse/backends/cpu/selective_scan_backward.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "elapse/backends/cpu/selective_scan-inl.h"
#include "elapse/backends/cpu/selective_scan_gradient-inl.h"

HWY_BEFORE_NAMESPACE();
namespace elapse::cpu::HWY_NAMESPACE {
namespace {

constexpr float kLn2 = 0.693147181f;
constexpr int kGroupVectors = 16;

// Values of one vector of channels over a chunk of tokens.
struct ChunkValues {
  using Lanes = float[kChunk * kLanes];
  HWY_ALIGN Lanes x;
  HWY_ALIGN Lanes dt;
  HWY_ALIGN Lanes dt_slope;  // d dt / d dt_pre
  HWY_ALIGN Lanes z_sigmoid;
  HWY_ALIGN Lanes y;
  HWY_ALIGN Lanes dssm_out;
  HWY_ALIGN Lanes dy;
  HWY_ALIGN Lanes dx;   // what reaches x through the states
  HWY_ALIGN Lanes ddt;  // what reaches dt
};

// What tasks leave to be summed in a fixed order.
struct Partials {
  Partials(Device& device, const Partition& p, const ScanBackward& args)
      : dB(device.empty(DType::f32, {p.groups, args.in.seqs.tokens, p.padded})),
        dC(device.empty(DType::f32, {p.groups, args.in.seqs.tokens, p.padded})),
        dA(device.empty(DType::f32, {p.ranges, p.d_inner, p.d_state})),
        dD(device.empty(DType::f32, {p.ranges, p.d_inner})),
        ddt_bias(device.empty(DType::f32, {p.ranges, p.d_inner})) {
    if (args.dpool) dstart = device.empty(DType::f32, {p.sequences, p.d_inner, p.d_state});
  }

  Tensor dB, dC;        // (groups, tokens, padded)
  Tensor dA;            // (ranges, d_inner, d_state)
  Tensor dD, ddt_bias;  // (ranges, d_inner)
  Tensor dstart;        // (n_seqs, d_inner, d_state): the gradient of each start; or empty
};

// The sequences of one task.
template <bool kTaps, int kStates>
class BackwardTask : GroupScan<kGroupVectors> {
 public:
  static int64_t scratch_floats(int64_t padded) {
    return shared_floats(padded) + 3 * state_floats(padded) + 3 * (kBlockFloats + kStagger) +
           kBlockFloats + kStates * kLanes;
  }

  BackwardTask(const ScanBackward& args, const Group& group, const Partials& partials,
               float* scratch)
      : GroupScan<kGroupVectors>(args.in, group, scratch),
        args_(args),
        partials_(partials),
        h_start_(scratch + shared_floats(group.padded)),
        dh_(h_start_ + state_floats(group.padded)),
        dA_(dh_ + state_floats(group.padded)),
        dB_(dA_ + state_floats(group.padded)),
        dC_(dB_ + kBlockFloats + kStagger),
        h_(dC_ + kBlockFloats + kStagger),
        decay_(h_ + kBlockFloats + kStates * kLanes + kStagger) {
    std::fill_n(dA_, group_.floats(), 0.0f);
    std::fill_n(dB_, h_ - dB_, 0.0f);
  }

  void run(int64_t s) {
    const int64_t* cu = in_.seqs.cu_seqlens.template data<int64_t>();
    take_end(in_.seqs.end_slots.template data<int64_t>()[s]);
    for (int64_t k = divide_up(cu[s + 1] - cu[s], kChunk) - 1; k >= 0; --k) {
      const int64_t token = cu[s] + k * kChunk;
      const float* checkpoint = SlotOf(args_.checkpoints, checkpoint_begin(cu[s], s) + k);
      group_.load_checkpoint(checkpoint, h_start_);
      next_checkpoint_ = k > 0 ? checkpoint - in_.A.numel() : nullptr;
      chunk(token, std::min(kChunk, cu[s + 1] - token));
    }
    if (partials_.dstart) group_.store(dh_, SlotOf(partials_.dstart, s));
  }

  // After the last sequence.
  void finish(int64_t range) {
    group_.store(dA_, SlotOf(partials_.dA, range));
    for_each_vector([&](auto lanes, int64_t v) HWY_ATTR {
      lanes.store(hn::Load(D(), dD_ + v * kLanes), row(partials_.dD, range) + group_.channel(v));
      lanes.store(hn::Load(D(), ddt_bias_ + v * kLanes),
                  row(partials_.ddt_bias, range) + group_.channel(v));
    });
  }

 private:
  static constexpr int64_t kBlockFloats = kChunk * kStates * kLanes;
  // Where blocks stand at the same place of a page, loads of one wait for stores to another.
  static constexpr int64_t kStagger = 144;

  void take_end(int64_t slot) {
    if (!args_.dpool || slot == Sequences::kNoSlot) {
      std::fill_n(dh_, group_.floats(), 0.0f);
      return;
    }
    group_.load(SlotOf(args_.dpool, slot), dh_);
    std::fill_n(SlotOf(args_.dpool, slot) + group_.first * group_.d_state,
                group_.count * group_.d_state, 0.0f);
  }

  void chunk(int64_t token, int64_t len) {
    load_chunk(token, len);
    for_each_vector([&](auto lanes, int64_t v) HWY_ATTR {
      where_tapped(token, len, v, [&](auto tapped) HWY_ATTR {
        prepare<decltype(tapped)::value>(lanes, token, len, v);
      });
    });
    for (int64_t n = 0; n < group_.padded; n += kStates) {
      for (int64_t v = 0; v < group_.vectors(); ++v) {
        const auto meets = [&] {
          return AnyMeets<true>(args_.taps, true, this->box(token, len, v, n, kStates));
        };
        WhereTapped<kTaps>(meets, [&](auto tapped) HWY_ATTR {
          recompute<decltype(tapped)::value>(token, len, v, n);
          scan_back<decltype(tapped)::value>(token, len, v, n);
        });
      }
      sum_channels(token, len, n, dB_, partials_.dB);
      sum_channels(token, len, n, dC_, partials_.dC);
    }
    for_each_vector([&](auto lanes, int64_t v) HWY_ATTR {
      where_tapped(token, len, v, [&](auto tapped) HWY_ATTR {
        outputs<decltype(tapped)::value>(lanes, token, len, v);
      });
    });
  }

  template <class Body>
  HWY_INLINE void where_tapped(int64_t token, int64_t len, int64_t v, Body&& body) const {
    WhereTapped<kTaps>([&] { return AnyMeets<true>(args_.taps, false, this->box(token, len, v)); },
                       body);
  }

  // Everything per (token, channel) that the states need.
  template <bool kTapped, class Lanes>
  void prepare(Lanes lanes, int64_t token, int64_t len, int64_t v) {
    const D d;
    const TapLanes<kTapped> taps(args_.taps, group_, v);
    const int64_t channel = group_.channel(v);
    ChunkValues& values = values_[v];
    const V bias = lanes.load(in_.dt_bias.template data<float>() + channel);
    for (int64_t t = 0; t < len; ++t) {
      const int64_t at = t * kLanes;
      const V dt_raw = lanes.load(row(in_.dt_raw, token + t) + channel);
      const V dt_pre = taps.through(ScanPoint::dt_pre, token + t, hn::Add(dt_raw, bias));
      const SoftplusValues<V> softplus = SoftplusAndDerivative(d, dt_pre);
      const V dt = taps.through(ScanPoint::dt, token + t, softplus.value);
      const V z = lanes.load(row(in_.z, token + t) + channel);
      const V z_sigmoid = Sigmoid(d, z);
      const V gate = taps.through(ScanPoint::gate, token + t, hn::Mul(z, z_sigmoid));
      const V dout = lanes.load(row(args_.dout, token + t) + channel);
      const V dssm_out = taps.back(ScanPoint::ssm_out, token + t, hn::Mul(dout, gate));
      const V dy = taps.back(ScanPoint::y, token + t, dssm_out);
      hn::Store(lanes.load(row(in_.x, token + t) + channel), d, values.x + at);
      hn::Store(dt, d, values.dt + at);
      hn::Store(softplus.derivative, d, values.dt_slope + at);
      hn::Store(z_sigmoid, d, values.z_sigmoid + at);
      hn::Store(dssm_out, d, values.dssm_out + at);
      hn::Store(dy, d, values.dy + at);
      for (float* sum : {values.dx, values.ddt}) hn::Store(hn::Zero(d), d, sum + at);
    }
  }

  // The kStates states from first_state on of vector v again, from the checkpoint; adds to y.
  template <bool kTapped>
  HWY_NOINLINE void recompute(int64_t token, int64_t len, int64_t v, int64_t first_state) {
    const D d;
    const TapLanes<kTapped> taps(args_.taps, group_, v);
    ChunkValues& values = values_[v];
    const int64_t states = v * group_.vector_floats() + first_state * kLanes;
    V h[kStates];
    HWY_UNROLL(16)
    for (int n = 0; n < kStates; ++n) {
      h[n] = hn::Load(d, h_start_ + states + n * kLanes);
      hn::Store(h[n], d, h_ + n * kLanes);
    }
    for (int64_t t = 0; t < len; ++t) {
      if (first_state == 0) prefetch(token - kChunk + t, v, inputs_);
      const TokenValues in = token_values(values, t);
      const float* A = A_ + states;
      const float* B = B_ + t * group_.padded + first_state;
      const float* C = C_ + t * group_.padded + first_state;
      float* decays = decay_ + t * kStates * kLanes;
      float* h_after = h_ + (t + 1) * kStates * kLanes;
      V y[2] = {hn::Zero(d), hn::Zero(d)};
      if (first_state != 0) y[0] = hn::Load(d, values.y + t * kLanes);
      HWY_UNROLL(16)
      for (int n = 0; n < kStates; ++n) {
        const V decay = Advance(StateAt<kTapped>{taps, token + t, first_state + n}, in,
                                hn::Load(d, A + n * kLanes), B[n], C[n], h[n], y[n % 2]);
        hn::Store(decay, d, decays + n * kLanes);
        hn::Store(h[n], d, h_after + n * kLanes);
      }
      hn::Store(hn::Add(y[0], y[1]), d, values.y + t * kLanes);
    }
  }

  // The same states backwards; the block's dh and dA stay in registers.
  template <bool kTapped>
  HWY_NOINLINE void scan_back(int64_t token, int64_t len, int64_t v, int64_t first_state) {
    const D d;
    const TapLanes<kTapped> taps(args_.taps, group_, v);
    ChunkValues& values = values_[v];
    const int64_t states = v * group_.vector_floats() + first_state * kLanes;
    V h[kStates], dh[kStates], dA[kStates];
    HWY_UNROLL(16)
    for (int n = 0; n < kStates; ++n) {
      h[n] = hn::Load(d, h_ + (len * kStates + n) * kLanes);
      dh[n] = hn::Load(d, dh_ + states + n * kLanes);
      dA[n] = hn::Load(d, dA_ + states + n * kLanes);
    }
    for (int64_t t = len - 1; t >= 0; --t) {
      prefetch_checkpoint(first_state / kStates, v, t);
      const TokenValues in = token_values(values, t);
      const V dy = hn::Load(d, values.dy + t * kLanes);
      const StatePlace at = place(t, v, first_state);
      TokenSums sums{hn::Zero(d), hn::Zero(d), hn::Zero(d), hn::Zero(d)};
      HWY_UNROLL(16)
      for (int n = 0; n < kStates; ++n) {
        StateBack(StateAt<kTapped>{taps, token + t, first_state + n}, at.state(n), in, dy, h[n],
                  dh[n], dA[n], sums);
      }
      add_sums<kTapped>(in, sums, t, values);
    }
    HWY_UNROLL(16)
    for (int n = 0; n < kStates; ++n) {
      hn::Store(dh[n], d, dh_ + states + n * kLanes);
      hn::Store(dA[n], d, dA_ + states + n * kLanes);
    }
  }

  static HWY_INLINE TokenValues token_values(const ChunkValues& values, int64_t t) {
    const D d;
    const V x = hn::Load(d, values.x + t * kLanes), dt = hn::Load(d, values.dt + t * kLanes);
    return {x, dt, hn::Mul(dt, x)};
  }

  HWY_INLINE StatePlace place(int64_t t, int64_t v, int64_t first_state) const {
    const int64_t kept = t * kStates * kLanes, at = t * group_.padded + first_state;
    return {A_ + v * group_.vector_floats() + first_state * kLanes,
            h_ + kept,
            decay_ + kept,
            B_ + at,
            C_ + at,
            dB_ + kept,
            dC_ + kept};
  }

  template <bool kTapped>
  static HWY_INLINE void add_sums(const TokenValues& in, const TokenSums& sums, int64_t t,
                                  ChunkValues& values) {
    const D d;
    V dx = hn::MulAdd(in.dt, sums.write_B, hn::Load(d, values.dx + t * kLanes));
    V ddt = hn::MulAdd(in.x, sums.write_B, hn::Load(d, values.ddt + t * kLanes));
    ddt = hn::MulAdd(sums.exponent_A, hn::Set(d, kLn2), ddt);
    if constexpr (kTapped) {
      dx = hn::Add(dx, sums.dx);
      ddt = hn::Add(ddt, sums.ddt);
    }
    hn::Store(dx, d, values.dx + t * kLanes);
    hn::Store(ddt, d, values.ddt + t * kLanes);
  }

  // Everything per (token, channel) that waited for the states.
  template <bool kTapped, class Lanes>
  void outputs(Lanes lanes, int64_t token, int64_t len, int64_t v) {
    const D d;
    const TapLanes<kTapped> taps(args_.taps, group_, v);
    const int64_t channel = group_.channel(v);
    const ChunkValues& values = values_[v];
    const V skip = lanes.load(in_.D.template data<float>() + channel);
    V dD = hn::Load(d, dD_ + v * kLanes), ddt_bias = hn::Load(d, ddt_bias_ + v * kLanes);
    for (int64_t t = 0; t < len; ++t) {
      const int64_t at = t * kLanes;
      const V x = hn::Load(d, values.x + at), dssm_out = hn::Load(d, values.dssm_out + at);
      const V y = taps.through(ScanPoint::y, token + t, hn::Load(d, values.y + at));
      const V ssm_out = taps.through(ScanPoint::ssm_out, token + t, hn::MulAdd(skip, x, y));
      const V dout = lanes.load(row(args_.dout, token + t) + channel);
      const V dgate = taps.back(ScanPoint::gate, token + t, hn::Mul(dout, ssm_out));
      const V z = lanes.load(row(in_.z, token + t) + channel);
      const V z_slope = SiluDerivative(d, z, hn::Load(d, values.z_sigmoid + at));
      const V ddt = taps.back(ScanPoint::dt, token + t, hn::Load(d, values.ddt + at));
      const V dt_slope = hn::Load(d, values.dt_slope + at);
      const V ddt_pre = taps.back(ScanPoint::dt_pre, token + t, hn::Mul(ddt, dt_slope));
      const V dx = hn::MulAdd(dssm_out, skip, hn::Load(d, values.dx + at));
      lanes.store(hn::Mul(dgate, z_slope), row(args_.dz, token + t) + channel);
      lanes.store(ddt_pre, row(args_.ddt_raw, token + t) + channel);
      lanes.store(dx, row(args_.dx, token + t) + channel);
      dD = hn::MulAdd(dssm_out, x, dD);
      ddt_bias = hn::Add(ddt_bias, ddt_pre);
    }
    hn::Store(dD, d, dD_ + v * kLanes);
    hn::Store(ddt_bias, d, ddt_bias_ + v * kLanes);
  }

  // The group's share of a block of dB or dC: sums over channels, which are left 0 for the next.
  void sum_channels(int64_t token, int64_t len, int64_t first_state, float* channels,
                    const Tensor& partial) const {
    const D d;
    const int64_t group = group_.first / (kGroupVectors * kLanes);
    float* to = SlotOf(partial, group) + token * group_.padded + first_state;
    for (int64_t t = 0; t < len; ++t, to += group_.padded) {
      for (int n = 0; n < kStates; n += 4, channels += 4 * kLanes) {
        const V four[4] = {hn::Load(d, channels), hn::Load(d, channels + kLanes),
                           hn::Load(d, channels + 2 * kLanes), hn::Load(d, channels + 3 * kLanes)};
        SumsOf(d, four, to + n);
        for (int k = 0; k < 4; ++k) hn::Store(hn::Zero(d), d, channels + k * kLanes);
      }
    }
  }

  const ScanBackward& args_;
  const Partials& partials_;
  const Tensor* const inputs_[4] = {&in_.x, &in_.dt_raw, &in_.z, &args_.dout};
  float* const h_start_;  // as Group keeps states; so too dh and dA
  float* const dh_;
  float* const dA_;
  float* const dB_;     // (kChunk, kStates, kLanes): sums over vectors, 0 between blocks
  float* const dC_;     // (kChunk, kStates, kLanes)
  float* const h_;      // (kChunk + 1, kStates, kLanes): before the chunk, then after each token
  float* const decay_;  // (kChunk, kStates, kLanes)
  HWY_ALIGN float dD_[kGroupVectors * kLanes] = {};
  HWY_ALIGN float ddt_bias_[kGroupVectors * kLanes] = {};
  ChunkValues values_[kGroupVectors];
};

// out (tokens, d_state) = the sum of `partial` over the groups.
void SumGroups(const Device& device, const Tensor& partial, const Tensor& out) {
  const int64_t d_state = out.dim(1), padded = partial.dim(2);
  for_each_block(device, out.dim(0), rows_per_block(d_state),
                 [&](int64_t begin, int64_t end) HWY_ATTR {
                   for (int64_t t = begin; t < end; ++t) {
                     std::fill_n(row(out, t), d_state, 0.0f);
                     AddColumnSums(D(), partial.data<float>() + t * padded, partial.dim(0),
                                   partial.stride(0), d_state, row(out, t));
                   }
                 });
}

// Sequences in order, for several may have started from one slot.
void GiveStarts(const ScanBackward& args, const Tensor& dstart) {
  const int64_t* slots = args.in.seqs.start_slots.data<int64_t>();
  for (int64_t s = 0; s < args.in.seqs.count(); ++s) {
    if (slots[s] == Sequences::kNoSlot) continue;
    const int64_t numel = args.in.A.numel();
    AddColumnSums(D(), SlotOf(dstart, s), 1, numel, numel, SlotOf(args.dpool, slots[s]));
  }
}

template <bool kTaps, int kStates>
void Backward(Device& device, const ScanBackward& args) {
  using Task = BackwardTask<kTaps, kStates>;
  const Partition partition(args.in, kGroupVectors, kStates);
  const Partials partials(device, partition, args);
  const int threads = ThreadsFor(device, args.in);
  const int64_t floats = Task::scratch_floats(partition.padded);
  const Tensor scratch = device.empty(DType::f32, {threads, floats});
  parallel_for(partition.tasks(), threads, [&](int64_t index, int worker) HWY_ATTR {
    const Group group = partition.group(partition.group_of(index));
    Task task(args, group, partials, scratch.data<float>() + worker * floats);
    const int64_t range = partition.range_of(index);
    for (int64_t s = partition.range_begin(range); s < partition.range_end(range); ++s) task.run(s);
    task.finish(range);
  });
  SumGroups(device, partials.dB, args.dB);
  SumGroups(device, partials.dC, args.dC);
  add_column_sums(device, partials.dA.reshape({partition.ranges, args.dA.numel()}),
                  args.dA.data<float>());
  add_column_sums(device, partials.dD, args.dD.data<float>());
  add_column_sums(device, partials.ddt_bias, args.ddt_bias.data<float>());
  if (args.dpool) GiveStarts(args, partials.dstart);
}

template <bool kTaps>
void BackwardByStates(Device& device, const ScanBackward& args) {
  if (args.in.A.dim(1) > 4) Backward<kTaps, 8>(device, args);
  else Backward<kTaps, 4>(device, args);
}

void ScanBackwardKernel(Device& device, const ScanBackward& args) {
  if (any_active_backward(args.taps)) BackwardByStates<true>(device, args);
  else BackwardByStates<false>(device, args);
}

}  // namespace
}  // namespace elapse::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace elapse::cpu {

HWY_EXPORT(ScanBackwardKernel);

void selective_scan_backward(Device& device, const ScanBackward& args) {
  HWY_DYNAMIC_DISPATCH(ScanBackwardKernel)(device, args);
}

}  // namespace elapse::cpu
#endif
