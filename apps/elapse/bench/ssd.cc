// SPDX-License-Identifier: Apache-2.0
#include "apps/elapse/bench/ssd.h"

#include "apps/elapse/bench/benchmark.h"
#include "apps/elapse/bench/inputs.h"
#include "elapse/ops/ssd.h"

namespace elapse::bench {
namespace {

// A layer of mamba2-130m.
constexpr int64_t kTokens = 2048, kHeads = 24, kChannels = 1536, kStates = 128;
constexpr double kElements = static_cast<double>(kTokens * kChannels);
constexpr Measure kPerElement{Measure::Kind::time, "ns/(token,channel)", kElements * 1e-9};

// `floats` are those read or written for each channel of each token.
Work ssd_work(double floats, double per_state) {
  return {.bytes = kElements * floats * sizeof(float),
          .multiplications = kElements * kStates * per_state};
}

// Of one sequence, with step sizes of 0.001 to 0.1 as published models start from.
SsdInputs inputs(Device& device) {
  SsdInputs in;
  in.x = uniform(device, {kTokens, kChannels});
  in.dt_raw = uniform(device, {kTokens, kHeads});
  in.dt_bias = uniform(device, {kHeads}, -6.9, -2.3);
  in.A = uniform(device, {kHeads}, -16, -1);
  in.B = uniform(device, {kTokens, kStates});
  in.C = uniform(device, {kTokens, kStates});
  in.D = uniform(device, {kHeads});
  in.seqs = make_sequences(device, {kTokens});
  return in;
}

SsdForward forward_args(Device& device) {
  SsdForward args;
  args.in = inputs(device);
  args.out = zeros(device, {kTokens, kChannels});
  return args;
}

std::vector<Row> time_forward(Context& context, const Benchmark& self) {
  const SsdForward args = forward_args(context.any_device());
  return time_operation(context, self, kPerElement, ssd_work(2, kSsdForwardPerState),
                        [&](Device& d) { ssd_forward(d, args); });
}

std::vector<Row> time_backward(Context& context, const Benchmark& self) {
  Device& device = context.any_device();
  SsdForward forward = forward_args(device);
  forward.checkpoints = zeros(device, {ssd_checkpoint_count(forward.in), kChannels, kStates});
  ssd_forward(device, forward);
  SsdBackward args;
  args.dout = uniform(device, {kTokens, kChannels});
  args.in = forward.in;
  args.checkpoints = forward.checkpoints;
  args.dx = zeros(device, {kTokens, kChannels});
  args.ddt_raw = zeros(device, {kTokens, kHeads});
  args.dB = zeros(device, {kTokens, kStates});
  args.dC = zeros(device, {kTokens, kStates});
  args.ddt_bias = zeros(device, {kHeads});
  args.dA = zeros(device, {kHeads});
  args.dD = zeros(device, {kHeads});
  return time_operation(context, self, kPerElement, ssd_work(4, kSsdBackwardPerState),
                        [&](Device& d) { ssd_backward(d, args); });
}

constexpr Benchmark kBenchmarks[] = {
    {"ssd.forward.f32", "state-space dual, 2048 tokens x 24 heads x 64 channels x 128 states",
     "2 multiplications a state", time_forward},
    {"ssd.backward.f32", "its gradients from checkpoints, 2048 x 24 x 64 x 128",
     "5 multiplications a state", time_backward},
};

}  // namespace

std::span<const Benchmark> ssd_benchmarks() { return kBenchmarks; }

}  // namespace elapse::bench
