// SPDX-License-Identifier: Apache-2.0
#include "elapse/ops/attention.h"

#include "apps/elapse/bench/benchmark.h"
#include "apps/elapse/bench/inputs.h"

namespace elapse::bench {
namespace {

// A layer as wide as mamba-130m's.
constexpr int64_t kTokens = 2048, kHeads = 12, kHeadDim = 64, kWidth = kHeads * kHeadDim;
constexpr int64_t kPast = 4096, kPage = 64;  // as states hold it
constexpr double kElements = static_cast<double>(kTokens * kWidth);
constexpr Measure kPerElement{Measure::Kind::time, "ns/(token,channel)", kElements * 1e-9};
constexpr Measure kPerToken{Measure::Kind::time, "us/token", 1e-6};

// `floats` are those read or written for each channel of each token.
Work work_of(double floats, double per_pair) {
  const auto pairs = static_cast<double>(attention_pairs({}, 0, kTokens) * kWidth);
  return {.bytes = kElements * floats * sizeof(float), .multiplications = pairs * per_pair};
}

AttentionForward forward_args(Device& device, int64_t tokens) {
  const Shape shape = {tokens, kWidth};
  AttentionForward args;
  args.in = {.q = uniform(device, shape),
             .k = uniform(device, shape),
             .v = uniform(device, shape),
             .n_heads = kHeads,
             .n_kv_heads = kHeads,
             .seqs = make_sequences(device, {tokens})};
  args.z = zeros(device, shape);
  args.lse = zeros(device, {tokens, kHeads});
  return args;
}

std::vector<Row> time_forward(Context& context, const Benchmark& self) {
  const AttentionForward args = forward_args(context.any_device(), kTokens);
  return time_operation(context, self, kPerElement, work_of(4, 2),
                        [&](Device& d) { attention_forward(d, args); });
}

std::vector<Row> time_backward(Context& context, const Benchmark& self) {
  Device& device = context.any_device();
  const AttentionForward forward = forward_args(device, kTokens);
  attention_forward(device, forward);
  const Shape shape = {kTokens, kWidth};
  const AttentionBackward args = {.dz = uniform(device, shape),
                                  .in = forward.in,
                                  .z = forward.z,
                                  .lse = forward.lse,
                                  .dq = zeros(device, shape),
                                  .dk = zeros(device, shape),
                                  .dv = zeros(device, shape),
                                  .dpast = {}};
  return time_operation(context, self, kPerElement, work_of(8, 5),
                        [&](Device& d) { attention_backward(d, args); });
}

std::vector<Row> time_step(Context& context, const Benchmark& self) {
  Device& device = context.any_device();
  AttentionForward args = forward_args(device, 1);
  const Tensor k = uniform(device, {kPast, kWidth}), v = uniform(device, {kPast, kWidth});
  args.in.past.emplace_back();
  for (int64_t i = 0; i < kPast; i += kPage) {
    args.in.past.back().push_back({k.rows(i, i + kPage), v.rows(i, i + kPage)});
  }
  const auto read = static_cast<double>(2 * kPast * kWidth);
  return time_operation(context, self, kPerToken,
                        {.bytes = read * sizeof(float), .multiplications = read},
                        [&](Device& d) { attention_forward(d, args); });
}

constexpr Benchmark kBenchmarks[] = {
    {"attention.forward.f32", "causal attention, 2048 tokens x 12 heads x 64 channels",
     "2 multiplications a channel of a pair", time_forward},
    {"attention.backward.f32", "its gradients, 2048 x 12 x 64",
     "5 multiplications a channel of a pair", time_backward},
    {"attention.step.f32", "one token after 4096, 12 heads x 64 channels, keys in pages of 64",
     "reading keys and values", time_step},
};

}  // namespace

std::span<const Benchmark> attention_benchmarks() { return kBenchmarks; }

}  // namespace elapse::bench
