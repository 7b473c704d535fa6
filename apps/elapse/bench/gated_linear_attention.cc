// SPDX-License-Identifier: Apache-2.0
#include "elapse/ops/gated_linear_attention.h"

#include "apps/elapse/bench/benchmark.h"
#include "apps/elapse/bench/inputs.h"
#include "apps/elapse/bench/ssd.h"
#include "elapse/ops/delayed.h"
#include "elapse/ops/ssd.h"

namespace elapse::bench {
namespace {

// A layer of GLA at d_model 1024.
constexpr int64_t kTokens = 2048, kHeads = 4, kKeys = 128, kValues = 256;
constexpr int64_t kAllKeys = kHeads * kKeys, kChannels = kHeads * kValues;
constexpr double kElements = static_cast<double>(kTokens * kChannels);
constexpr Measure kPerElement{Measure::Kind::time, "ns/(token,channel)", kElements * 1e-9};

// `floats` are those read or written for each channel of each token.
Work work(double floats, double per_state) {
  return {.bytes = kElements * floats * sizeof(float),
          .multiplications = kElements * kKeys * per_state};
}

GlaForward forward_args(Device& device) {
  GlaForward args;
  args.in.q = uniform(device, {kTokens, kAllKeys});
  args.in.k = uniform(device, {kTokens, kAllKeys});
  args.in.v = uniform(device, {kTokens, kChannels});
  args.in.log_decay = uniform(device, {kTokens, kAllKeys}, -0.1, 0);
  args.in.n_heads = kHeads;
  args.in.seqs = make_sequences(device, {kTokens});
  args.out = zeros(device, {kTokens, kChannels});
  return args;
}

std::vector<Row> time_forward(Context& context, const Benchmark& self) {
  const GlaForward args = forward_args(context.any_device());
  Work forward = work(3.5, 0);
  forward.multiplications =
      static_cast<double>(kHeads * gla_multiplications(kKeys, kValues, kTokens));
  return time_operation(context, self, kPerElement, forward,
                        [&](Device& d) { gla_forward(d, args); });
}

std::vector<Row> time_backward(Context& context, const Benchmark& self) {
  Device& device = context.any_device();
  GlaForward forward = forward_args(device);
  forward.checkpoints = zeros(device, {gla_checkpoint_count(forward.in), kChannels, kKeys});
  gla_forward(device, forward);
  GlaBackward args;
  args.dout = uniform(device, {kTokens, kChannels});
  args.in = forward.in;
  args.checkpoints = forward.checkpoints;
  args.dq = zeros(device, {kTokens, kAllKeys});
  args.dk = zeros(device, {kTokens, kAllKeys});
  args.dv = zeros(device, {kTokens, kChannels});
  args.dlog_decay = zeros(device, {kTokens, kAllKeys});
  return time_operation(context, self, kPerElement, work(6, kSsdBackwardPerState),
                        [&](Device& d) { gla_backward(d, args); });
}

// The same sizes where a head's decay is one number: Mamba-2's dual with a group for each head, as
// RetNet and plain linear attention use it.
std::vector<Row> time_head_decays(Context& context, const Benchmark& self) {
  Device& device = context.any_device();
  SsdForward args;
  args.in.x = uniform(device, {kTokens, kChannels});
  args.in.dt_raw = zeros(device, {kTokens, kHeads});
  args.in.dt_bias = zeros(device, {kHeads});
  args.in.A = uniform(device, {kHeads}, -0.03, -0.004);
  args.in.B = uniform(device, {kTokens, kAllKeys});
  args.in.C = uniform(device, {kTokens, kAllKeys});
  args.in.D = zeros(device, {kHeads});
  args.in.n_groups = kHeads;
  args.in.dt_min = args.in.dt_max = 1;
  args.in.seqs = make_sequences(device, {kTokens});
  args.out = zeros(device, {kTokens, kChannels});
  return time_operation(context, self, kPerElement, work(3, kSsdForwardPerState),
                        [&](Device& d) { ssd_forward(d, args); });
}

// Rows of a layer of WaveNet with 512 tokens between them.
std::vector<Row> time_delayed(Context& context, const Benchmark& self) {
  Device& device = context.any_device();
  DelayedForward args;
  args.x = uniform(device, {kTokens, kChannels});
  args.delays = {2, 512};
  args.seqs = make_sequences(device, {kTokens});
  args.out = zeros(device, {kTokens, 2 * kChannels});
  return time_operation(context, self, kPerElement, {.bytes = kElements * 3 * sizeof(float)},
                        [&](Device& d) { delayed_forward(d, args); });
}

constexpr Benchmark kBenchmarks[] = {
    {"gla.forward.f32", "gated linear attention, 2048 tokens x 4 heads, keys 128, values 256",
     "multiplications of its blocks of 16 tokens", time_forward},
    {"gla.backward.f32", "its gradients from checkpoints, the same sizes",
     "5 multiplications a state", time_backward},
    {"gla.head_decays.f32", "forward with a decay for each head, as RetNet has it",
     "2 multiplications a state", time_head_decays},
    {"delayed.forward.f32", "rows beside those 512 tokens before, 2048 tokens x 1024 channels",
     "bytes read and written", time_delayed},
};

}  // namespace

std::span<const Benchmark> linear_attention_benchmarks() { return kBenchmarks; }

}  // namespace elapse::bench
