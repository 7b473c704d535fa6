// SPDX-License-Identifier: Apache-2.0
#include "apps/elapse/bench/benchmark.h"
#include "apps/elapse/bench/inputs.h"
#include "elapse/ops/diagonal_ssm.h"
#include "elapse/ops/long_conv.h"

namespace elapse::bench {
namespace {

// 8 sequences, as training has them.
constexpr int64_t kSequences = 8, kLength = 1024, kTokens = kSequences * kLength;
constexpr int64_t kChannels = 256, kStates = 32;
constexpr double kElements = static_cast<double>(kTokens * kChannels);
constexpr Measure kPerElement{Measure::Kind::time, "ns/(token,channel)", kElements * 1e-9};

// Instructions of a transform of 2048 complex numbers, by radix 4 but for one level: 28 for four
// numbers and two levels, 16 of them sums; it carries two sequences.
constexpr double kTransform = (5 * 28 / 4.0 + 4 / 2.0) * 2048 / (2 * 1024);
// Of a complex state and token.
constexpr double kForwardPerState = 8, kBackwardPerState = 6 + 16;

// `floats` are those read or written for each channel of each token, once.
Work work(double floats, double instructions) {
  return {.bytes = kElements * floats * sizeof(float), .multiplications = kElements * instructions};
}

Tensor rows(Device& device) { return uniform(device, {kTokens, kChannels}); }

Sequences sequences(Device& device) {
  return make_sequences(device, std::vector<int64_t>(kSequences, kLength));
}

// S4D-Lin, with step sizes of 0.001 to 0.1.
DiagonalSsmInputs inputs(Device& device, const Sequences& seqs) {
  return {.x = rows(device),
          .dt = uniform(device, {kChannels}, 0.001, 0.1),
          .A_real = uniform(device, {kChannels, kStates}, -0.5, -0.49),
          .A_imag = uniform(device, {kChannels, kStates}, 0, 100),
          .C = uniform(device, {kChannels, kStates, 2}),
          .D = uniform(device, {kChannels}),
          .seqs = seqs};
}

std::vector<Row> time_forward(Context& context, const Benchmark& self, const Sequences& seqs,
                              double instructions) {
  Device& device = context.any_device();
  const DiagonalSsmForward args{.in = inputs(device, seqs),
                                .pool = zeros(device, {kSequences, kChannels, 2 * kStates}),
                                .starts = {},
                                .y = zeros(device, {kTokens, kChannels})};
  return time_operation(context, self, kPerElement, work(2, instructions),
                        [&](Device& d) { diagonal_ssm_forward(d, args); });
}

std::vector<Row> time_backward(Context& context, const Benchmark& self, const Sequences& seqs,
                               double instructions) {
  Device& device = context.any_device();
  const DiagonalSsmBackward args{.dy = rows(device),
                                 .in = inputs(device, seqs),
                                 .starts = {},
                                 .dx = zeros(device, {kTokens, kChannels}),
                                 .ddt = zeros(device, {kChannels}),
                                 .dA_real = zeros(device, {kChannels, kStates}),
                                 .dA_imag = zeros(device, {kChannels, kStates}),
                                 .dC = zeros(device, {kChannels, kStates, 2}),
                                 .dD = zeros(device, {kChannels}),
                                 .dpool = {}};
  return time_operation(context, self, kPerElement, work(3, instructions),
                        [&](Device& d) { diagonal_ssm_backward(d, args); });
}

// The recurrence that makes the filter is one sequence's; it is transformed alone.
std::vector<Row> time_ssm_forward(Context& context, const Benchmark& self) {
  return time_forward(
      context, self, sequences(context.any_device()),
      kStates * kForwardPerState / kSequences + (2 + 2.0 / kSequences) * kTransform);
}
std::vector<Row> time_ssm_backward(Context& context, const Benchmark& self) {
  return time_backward(context, self, sequences(context.any_device()),
                       kStates * (kForwardPerState + kBackwardPerState) / kSequences +
                           (3 + 4.0 / kSequences) * kTransform);
}

Sequences with_slots(Device& device) {
  std::vector<int64_t> slots(kSequences);
  for (int64_t s = 0; s < kSequences; ++s) slots[static_cast<size_t>(s)] = s;
  return make_sequences(device, std::vector<int64_t>(kSequences, kLength), slots, slots);
}

std::vector<Row> time_recurrence_forward(Context& context, const Benchmark& self) {
  return time_forward(context, self, with_slots(context.any_device()), kStates * kForwardPerState);
}
std::vector<Row> time_recurrence_backward(Context& context, const Benchmark& self) {
  return time_backward(context, self, with_slots(context.any_device()),
                       kStates * kBackwardPerState);
}

std::vector<Row> time_conv_forward(Context& context, const Benchmark& self) {
  Device& device = context.any_device();
  const LongConvForward args{rows(device), uniform(device, {kChannels, kLength}), sequences(device),
                             zeros(device, {kTokens, kChannels})};
  return time_operation(context, self, kPerElement, work(2, (2 + 2.0 / kSequences) * kTransform),
                        [&](Device& d) { long_conv_forward(d, args); });
}
std::vector<Row> time_conv_backward(Context& context, const Benchmark& self) {
  Device& device = context.any_device();
  const LongConvBackward args{rows(device),
                              rows(device),
                              uniform(device, {kChannels, kLength}),
                              sequences(device),
                              zeros(device, {kTokens, kChannels}),
                              zeros(device, {kChannels, kLength})};
  return time_operation(context, self, kPerElement, work(3, (3 + 4.0 / kSequences) * kTransform),
                        [&](Device& d) { long_conv_backward(d, args); });
}

constexpr Benchmark kBenchmarks[] = {
    {"diagonal_ssm.forward.f32", "S4D by transforms, 8 x 1024 tokens x 256 channels x 32 states",
     "instructions of transforms and of the filter", time_ssm_forward},
    {"diagonal_ssm.backward.f32", "its gradients, 8 x 1024 x 256 x 32",
     "instructions of transforms and of the filter", time_ssm_backward},
    {"diagonal_ssm.recurrence.forward.f32", "the same by its recurrence, from slots to slots",
     "8 multiplications a complex state", time_recurrence_forward},
    {"diagonal_ssm.recurrence.backward.f32", "its gradients by the recurrence",
     "22 multiplications a complex state", time_recurrence_backward},
    {"long_conv.forward.f32", "convolution of 8 x 1024 tokens x 256 channels, 1024 long",
     "instructions of transforms", time_conv_forward},
    {"long_conv.backward.f32", "its gradients, 8 x 1024 x 256 x 1024", "instructions of transforms",
     time_conv_backward},
};

}  // namespace

std::span<const Benchmark> state_space_benchmarks() { return kBenchmarks; }

}  // namespace elapse::bench
