// SPDX-License-Identifier: Apache-2.0
#include "apps/elapse/bench/scan.h"

#include "apps/elapse/bench/benchmark.h"
#include "apps/elapse/bench/inputs.h"
#include "elapse/ops/selective_scan.h"

namespace elapse::bench {
namespace {

constexpr int64_t kTokens = 2048, kChannels = 1536, kStates = 16;
constexpr double kElements = static_cast<double>(kTokens * kChannels);
constexpr Measure kPerElement{Measure::Kind::time, "ns/(token,channel)", kElements * 1e-9};

// `floats` are those read or written for each channel of each token.
Work scan_work(double floats, double per_state) {
  return {.bytes = kElements * floats * sizeof(float),
          .multiplications = kElements * kStates * per_state};
}

// Of one sequence, with step sizes of 0.001 to 0.1 as published models start from.
ScanInputs inputs(Device& device) {
  return {.x = uniform(device, {kTokens, kChannels}),
          .dt_raw = uniform(device, {kTokens, kChannels}),
          .dt_bias = uniform(device, {kChannels}, -6.9, -2.3),
          .A = uniform(device, {kChannels, kStates}, -16, -1),
          .B = uniform(device, {kTokens, kStates}),
          .C = uniform(device, {kTokens, kStates}),
          .D = uniform(device, {kChannels}),
          .z = uniform(device, {kTokens, kChannels}),
          .seqs = make_sequences(device, {kTokens})};
}

std::vector<Row> time_forward(Context& context, const Benchmark& self) {
  Device& device = context.any_device();
  const ScanForward args{.in = inputs(device),
                         .pool = {},
                         .checkpoints = {},
                         .out = zeros(device, {kTokens, kChannels}),
                         .taps = {}};
  return time_operation(context, self, kPerElement, scan_work(4, kScanForwardPerState),
                        [&](Device& d) { selective_scan_forward(d, args); });
}

Tensor checkpoints_of(Device& device, const ScanInputs& in) {
  const Tensor checkpoints = zeros(device, {checkpoint_count(in.seqs), kChannels, kStates});
  selective_scan_forward(device, {.in = in,
                                  .pool = {},
                                  .checkpoints = checkpoints,
                                  .out = zeros(device, {kTokens, kChannels}),
                                  .taps = {}});
  return checkpoints;
}

std::vector<Row> time_backward(Context& context, const Benchmark& self) {
  Device& device = context.any_device();
  const ScanInputs in = inputs(device);
  const ScanBackward args{.dout = uniform(device, {kTokens, kChannels}),
                          .in = in,
                          .checkpoints = checkpoints_of(device, in),
                          .taps = {},
                          .dx = zeros(device, {kTokens, kChannels}),
                          .ddt_raw = zeros(device, {kTokens, kChannels}),
                          .dB = zeros(device, {kTokens, kStates}),
                          .dC = zeros(device, {kTokens, kStates}),
                          .dz = zeros(device, {kTokens, kChannels}),
                          .ddt_bias = zeros(device, {kChannels}),
                          .dA = zeros(device, {kChannels, kStates}),
                          .dD = zeros(device, {kChannels}),
                          .dpool = {}};
  return time_operation(context, self, kPerElement, scan_work(7, kScanBackwardPerState),
                        [&](Device& d) { selective_scan_backward(d, args); });
}

constexpr Benchmark kBenchmarks[] = {
    {"scan.forward.f32", "selective scan, 2048 tokens x 1536 channels x 16 states",
     "8 multiplications a state", time_forward},
    {"scan.backward.f32", "its gradients from checkpoints, 2048 x 1536 x 16",
     "15 multiplications a state", time_backward},
};

}  // namespace

std::span<const Benchmark> scan_benchmarks() { return kBenchmarks; }

}  // namespace elapse::bench
