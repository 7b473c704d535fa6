// SPDX-License-Identifier: Apache-2.0
// The selective scan, forward. Lanes are channels; a task is a few vectors of channels (a group) of
// one or several sequences, and walks each sequence in chunks of 16 tokens:
//   1. B and C of the chunk are copied to where every vector reads them; the state is copied
//      into the checkpoint.
//   2. dt = softplus(dt_raw + dt_bias) and dt x, for every vector and token.
//   3. For every vector and block of 16 states (4 where d_state is small): the states in registers,
//      token after token; decay = exp2(dt A log2(e)), h = decay h + (dt x) B, y += C h.
//   4. out = (y + D x) silu(z).
//
// Bound: of the operations on a vector of one state at one token, 7 need a multiply-add unit (dt A,
// 3 of exp2's, write, h, y) and about as many the units beside it. With two of each and 16 lanes
// that is 3.5 cycles a (token, channel) at 16 states, 0.9 ns at 4 GHz (4.2 cycles were measured);
// steps 2 and 4 add about 1.5 cycles. Memory: 16 bytes a (token, channel), and 4 d_state / 16 more
// for checkpoints, which is less, but rows lie apart: they are prefetched, and groups are wide.
#include "elapse/backends/cpu/kernels.h"

// States are kept in arrays of vectors, which vectors of unknown size do not allow.
#define HWY_DISABLED_TARGETS (HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "elapse/backends/cpu/selective_scan_forward.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "elapse/backends/cpu/selective_scan-inl.h"
#include "elapse/backends/cpu/selective_scan_step-inl.h"
#include "elapse/backends/cpu/simd_math-inl.h"

HWY_BEFORE_NAMESPACE();
namespace elapse::cpu::HWY_NAMESPACE {
namespace {

constexpr int kGroupVectors = 16;

// Values of one vector of channels over a chunk of tokens.
struct ChunkValues {
  HWY_ALIGN float x[kChunk * kLanes];
  HWY_ALIGN float dt[kChunk * kLanes];
  HWY_ALIGN float dtx[kChunk * kLanes];
  HWY_ALIGN float y[kChunk * kLanes];
};

// The sequences of one task.
template <bool kTaps, int kStates>
class ForwardTask : GroupScan<kGroupVectors> {
 public:
  static int64_t scratch_floats(int64_t padded) {
    return shared_floats(padded) + state_floats(padded);
  }

  ForwardTask(const ScanForward& args, const Group& group, float* scratch)
      : GroupScan<kGroupVectors>(args.in, group, scratch),
        args_(args),
        h_(scratch + shared_floats(group.padded)) {}

  void run(int64_t s) {
    const int64_t* cu = in_.seqs.cu_seqlens.template data<int64_t>();
    start(in_.seqs.start_slots.template data<int64_t>()[s]);
    int64_t checkpoint = checkpoint_begin(cu[s], s);
    for (int64_t t = cu[s]; t < cu[s + 1]; t += kChunk, ++checkpoint) {
      if (args_.checkpoints) group_.store_checkpoint(h_, SlotOf(args_.checkpoints, checkpoint));
      const bool more = args_.checkpoints && t + kChunk < cu[s + 1];
      next_checkpoint_ = more ? SlotOf(args_.checkpoints, checkpoint + 1) : nullptr;
      chunk(t, std::min(kChunk, cu[s + 1] - t));
    }
    end(in_.seqs.end_slots.template data<int64_t>()[s]);
  }

 private:
  void start(int64_t slot) {
    if (slot == Sequences::kNoSlot) std::fill_n(h_, group_.floats(), 0.0f);
    else group_.load(SlotOf(args_.pool, slot), h_);
  }
  void end(int64_t slot) {
    if (slot != Sequences::kNoSlot) group_.store(h_, SlotOf(args_.pool, slot));
  }

  void chunk(int64_t token, int64_t len) {
    load_chunk(token, len);
    // Stage by stage: long chains of operations drain once a stage, not once a vector.
    for_each_vector([&](auto lanes, int64_t v) HWY_ATTR {
      where_tapped(token, len, v, [&](auto tapped) HWY_ATTR {
        step_sizes<decltype(tapped)::value>(lanes, token, len, v);
      });
    });
    for (int64_t v = 0; v < group_.vectors(); ++v) {
      for (int64_t n = 0; n < group_.padded; n += kStates) {
        const auto meets = [&] {
          return AnyMeets<false>(args_.taps, true, this->box(token, len, v, n, kStates));
        };
        WhereTapped<kTaps>(meets, [&](auto tapped) HWY_ATTR {
          scan_states<decltype(tapped)::value>(token, len, v, n);
        });
      }
    }
    for_each_vector([&](auto lanes, int64_t v) HWY_ATTR {
      where_tapped(token, len, v, [&](auto tapped) HWY_ATTR {
        outputs<decltype(tapped)::value>(lanes, token, len, v);
      });
    });
  }

  template <class Body>
  HWY_INLINE void where_tapped(int64_t token, int64_t len, int64_t v, Body&& body) const {
    WhereTapped<kTaps>([&] { return AnyMeets<false>(args_.taps, false, this->box(token, len, v)); },
                       body);
  }

  // Step 3 for the kStates states from first_state on of vector v.
  template <bool kTapped>
  HWY_NOINLINE void scan_states(int64_t token, int64_t len, int64_t v, int64_t first_state) {
    const D d;
    const TapLanes<kTapped> taps(args_.taps, group_, v);
    ChunkValues& values = values_[v];
    const int64_t states = v * group_.vector_floats() + first_state * kLanes;
    V h[kStates];
    HWY_UNROLL(16)
    for (int n = 0; n < kStates; ++n) h[n] = hn::Load(d, h_ + states + n * kLanes);
    for (int64_t t = 0; t < len; ++t) {
      if (first_state == 0) prefetch(token + kChunk + t, v, rows_);
      prefetch_checkpoint(first_state / kStates, v, t);
      const TokenValues in{hn::Load(d, values.x + t * kLanes), hn::Load(d, values.dt + t * kLanes),
                           hn::Load(d, values.dtx + t * kLanes)};
      const float* A = A_ + states;
      const float* B = B_ + t * group_.padded + first_state;
      const float* C = C_ + t * group_.padded + first_state;
      V y[2] = {hn::Zero(d), hn::Zero(d)};  // two chains of additions
      if (first_state != 0) y[0] = hn::Load(d, values.y + t * kLanes);
      HWY_UNROLL(16)
      for (int n = 0; n < kStates; ++n) {
        Advance(StateAt<kTapped>{taps, token + t, first_state + n}, in, hn::Load(d, A + n * kLanes),
                B[n], C[n], h[n], y[n % 2]);
      }
      hn::Store(hn::Add(y[0], y[1]), d, values.y + t * kLanes);
    }
    HWY_UNROLL(16)
    for (int n = 0; n < kStates; ++n) hn::Store(h[n], d, h_ + states + n * kLanes);
  }

  // Step 2.
  template <bool kTapped, class Lanes>
  void step_sizes(Lanes lanes, int64_t token, int64_t len, int64_t v) {
    const D d;
    const TapLanes<kTapped> taps(args_.taps, group_, v);
    const int64_t channel = group_.channel(v);
    ChunkValues& values = values_[v];
    const V bias = lanes.load(in_.dt_bias.template data<float>() + channel);
    for (int64_t t = 0; t < len; ++t) {
      const V x = lanes.load(row(in_.x, token + t) + channel);
      const V dt_raw = lanes.load(row(in_.dt_raw, token + t) + channel);
      const V dt_pre = taps.through(ScanPoint::dt_pre, token + t, hn::Add(dt_raw, bias));
      const V dt = taps.through(ScanPoint::dt, token + t, Softplus(d, dt_pre));
      hn::Store(x, d, values.x + t * kLanes);
      hn::Store(dt, d, values.dt + t * kLanes);
      hn::Store(hn::Mul(dt, x), d, values.dtx + t * kLanes);
    }
  }

  // Step 4.
  template <bool kTapped, class Lanes>
  void outputs(Lanes lanes, int64_t token, int64_t len, int64_t v) {
    const D d;
    const TapLanes<kTapped> taps(args_.taps, group_, v);
    const int64_t channel = group_.channel(v);
    const ChunkValues& values = values_[v];
    const V skip = lanes.load(in_.D.template data<float>() + channel);
    for (int64_t t = 0; t < len; ++t) {
      const V x = hn::Load(d, values.x + t * kLanes);
      const V y = taps.through(ScanPoint::y, token + t, hn::Load(d, values.y + t * kLanes));
      const V ssm_out = taps.through(ScanPoint::ssm_out, token + t, hn::MulAdd(skip, x, y));
      const V z = lanes.load(row(in_.z, token + t) + channel);
      const V gate = taps.through(ScanPoint::gate, token + t, Silu(d, z));
      lanes.store(hn::Mul(ssm_out, gate), row(args_.out, token + t) + channel);
    }
  }

  const ScanForward& args_;
  const Tensor* const rows_[4] = {&in_.x, &in_.dt_raw, &in_.z, &args_.out};
  float* const h_;  // as Group keeps states
  ChunkValues values_[kGroupVectors];
};

// Smaller groups where threads would be idle: results do not depend on them.
Partition PartitionFor(const ScanInputs& in, int threads, int64_t block_states) {
  constexpr int64_t kLeastVectors = 4;
  int64_t vectors = kGroupVectors;
  while (vectors > kLeastVectors && Partition(in, vectors, block_states).tasks() < 2 * threads) {
    vectors /= 2;
  }
  return {in, vectors, block_states};
}

// Runs a Task for every group of channels and range of sequences.
template <class Task>
void RunTasks(Device& device, const ScanForward& args, const Partition& partition, int threads,
              int64_t scratch_floats) {
  const Tensor scratch = device.empty(DType::f32, {threads, scratch_floats});
  parallel_for(partition.tasks(), threads, [&](int64_t index, int worker) HWY_ATTR {
    const Group group = partition.group(partition.group_of(index));
    Task task(args, group, scratch.data<float>() + worker * scratch_floats);
    const int64_t range = partition.range_of(index);
    for (int64_t s = partition.range_begin(range); s < partition.range_end(range); ++s) task.run(s);
  });
}

template <bool kTaps, int kStates>
void Forward(Device& device, const ScanForward& args) {
  const int threads = ThreadsFor(device, args.in);
  const Partition partition = PartitionFor(args.in, threads, kStates);
  if (!kTaps && !args.checkpoints && AreSteps(args.in)) {
    using Task = StepTask<kStates>;
    return RunTasks<Task>(device, args, partition, threads,
                          Task::scratch_floats(partition.d_state));
  }
  using Task = ForwardTask<kTaps, kStates>;
  RunTasks<Task>(device, args, partition, threads, Task::scratch_floats(partition.padded));
}

template <bool kTaps>
void ForwardByStates(Device& device, const ScanForward& args) {
  if (args.in.A.dim(1) > 8) Forward<kTaps, 16>(device, args);
  else Forward<kTaps, 4>(device, args);
}

void ScanForwardKernel(Device& device, const ScanForward& args) {
  if (any_active_forward(args.taps)) ForwardByStates<true>(device, args);
  else ForwardByStates<false>(device, args);
}

}  // namespace
}  // namespace elapse::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace elapse::cpu {

HWY_EXPORT(ScanForwardKernel);

void selective_scan_forward(Device& device, const ScanForward& args) {
  HWY_DYNAMIC_DISPATCH(ScanForwardKernel)(device, args);
}

}  // namespace elapse::cpu
#endif
