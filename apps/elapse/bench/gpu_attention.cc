// SPDX-License-Identifier: Apache-2.0
// Causal attention on a GPU, at the sizes of docs/cuda.md: 32K tokens, 16 heads of 64 channels.
#include <fmt/format.h>

#include "apps/elapse/bench/gpu.h"
#include "elapse/ops/attention.h"

namespace elapse::bench {
namespace {

constexpr int64_t kTokens = 32768, kHeads = 16, kHeadDim = 64, kWidth = kHeads * kHeadDim;
constexpr int64_t kLengths[] = {512, 2048, 8192};

AttentionForward forward_of(Device& device, DType dtype, int64_t length) {
  const Shape shape = {kTokens, kWidth};
  const std::vector<int64_t> lengths(static_cast<size_t>(kTokens / length), length);
  return {.in = {.q = drawn(device, dtype, shape),
                 .k = drawn(device, dtype, shape),
                 .v = drawn(device, dtype, shape),
                 .n_heads = kHeads,
                 .n_kv_heads = kHeads,
                 .seqs = make_sequences(device, lengths)},
          .z = device.empty(dtype, shape),
          .lse = device.empty(DType::f32, {kTokens, kHeads})};
}

double forward_seconds(Device& device, DType dtype, int64_t length) {
  const AttentionForward args = forward_of(device, dtype, length);
  return seconds_a_launch(device, [&] { attention_forward(device, args); });
}

double backward_seconds(Device& device, DType dtype, int64_t length) {
  const AttentionForward forward = forward_of(device, dtype, length);
  attention_forward(device, forward);
  const Shape shape = {kTokens, kWidth};
  const AttentionBackward args = {.dz = drawn(device, dtype, shape),
                                  .in = forward.in,
                                  .z = forward.z,
                                  .lse = forward.lse,
                                  .dq = device.empty(dtype, shape),
                                  .dk = device.empty(dtype, shape),
                                  .dv = device.empty(dtype, shape),
                                  .dpast = {}};
  return seconds_a_launch(device, [&] { attention_backward(device, args); });
}

// Its inputs and results come and go at least as fast.
GpuWork work_of(DType dtype, int64_t length, double multiplications_a_pair) {
  const auto pairs = static_cast<double>(attention_pairs({}, 0, length) * (kTokens / length));
  return {.multiplications = pairs * static_cast<double>(kWidth) * multiplications_a_pair,
          .dtype = dtype};
}

template <DType kDtype, bool kIsForward>
std::vector<Row> time_attention(Context& context, const Benchmark& self) {
  Device& device = context.any_device();
  std::vector<Row> rows;
  for (const int64_t length : kLengths) {
    const double seconds = kIsForward ? forward_seconds(device, kDtype, length)
                                      : backward_seconds(device, kDtype, length);
    rows.push_back(make_row(fmt::format("{}.{}", self.name, length), kMicroseconds, seconds,
                            context.floor_seconds(work_of(kDtype, length, kIsForward ? 2 : 5)), 1));
  }
  return rows;
}

constexpr Benchmark kBenchmarks[] = {
    {"gpu.attention.forward.bf16",
     "causal attention on a GPU, 32768 tokens x 16 heads x 64, in sequences of three lengths",
     "2 multiplications a channel of a pair", time_attention<DType::bf16, true>},
    {"gpu.attention.forward.f32", "the same, float32", "the same",
     time_attention<DType::f32, true>},
    {"gpu.attention.backward.bf16", "its gradients", "5 multiplications a channel of a pair",
     time_attention<DType::bf16, false>},
    {"gpu.attention.backward.f32", "the same, float32", "the same",
     time_attention<DType::f32, false>},
};

}  // namespace

std::span<const Benchmark> gpu_attention_benchmarks() { return kBenchmarks; }

}  // namespace elapse::bench
