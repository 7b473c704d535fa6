// SPDX-License-Identifier: Apache-2.0
// The selective scan on a GPU, at the sizes of docs/cuda.md.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "apps/elapse/bench/benchmark.h"
#include "apps/elapse/bench/gpu.h"
#include "elapse/core/random.h"
#include "elapse/ops/selective_scan.h"

namespace elapse::bench {
namespace {

constexpr int64_t kStates = 16;

struct Size {
  int64_t batch, len, channels;
  double elements() const { return static_cast<double>(batch * len * channels); }
};
constexpr Size kSizes[] = {{8, 2048, 1536}, {8, 2048, 5120}, {1, 2048, 1536}, {1, 65536, 1536}};

// Steps of 0.001 to 0.1, as models start from, in which states decay slowly; or of about 0.5.
Tensor step_biases(Device& device, int64_t channels, bool fast) {
  std::vector<float> biases;
  Random random(2);
  for (int64_t e = 0; e < channels; ++e) {
    const double dt = fast ? 0.5 : std::exp(random.uniform(std::log(0.001), std::log(0.1)));
    biases.push_back(static_cast<float>(std::log(std::expm1(dt))));
  }
  return device.upload(biases, {channels});
}

Tensor decay_rates(Device& device, int64_t channels) {
  std::vector<float> A;
  for (int64_t i = 0; i < channels * kStates; ++i)
    A.push_back(-static_cast<float>(i % kStates + 1));
  return device.upload(A, {channels, kStates});
}

ScanInputs inputs(Device& device, DType dtype, const Size& size, bool fast) {
  const int64_t tokens = size.batch * size.len;
  const std::vector<int64_t> lengths(static_cast<size_t>(size.batch), size.len);
  return {.x = drawn(device, dtype, {tokens, size.channels}),
          .dt_raw = drawn(device, dtype, {tokens, size.channels}, -0.5, 0.5),
          .dt_bias = step_biases(device, size.channels, fast),
          .A = decay_rates(device, size.channels),
          .B = drawn(device, dtype, {tokens, kStates}),
          .C = drawn(device, dtype, {tokens, kStates}),
          .D = drawn(device, DType::f32, {size.channels}),
          .z = drawn(device, dtype, {tokens, size.channels}, -2, 2),
          .seqs = make_sequences(device, lengths)};
}

ScanForward forward_of(Device& device, const ScanInputs& in) {
  return {.in = in,
          .pool = {},
          .checkpoints = {},
          .out = device.empty(in.x.dtype(), in.x.shape()),
          .taps = {}};
}

double forward_seconds(Device& device, const ScanInputs& in) {
  const ScanForward args = forward_of(device, in);
  return seconds_a_launch(device, [&] { selective_scan_forward(device, args); });
}

double backward_seconds(Device& device, const ScanInputs& in) {
  const DType dtype = in.x.dtype();
  const int64_t channels = in.A.dim(0);
  ScanForward forward = forward_of(device, in);
  forward.checkpoints = device.empty(DType::f32, {checkpoint_count(in.seqs), channels, kStates});
  selective_scan_forward(device, forward);
  const ScanBackward args{.dout = drawn(device, dtype, in.x.shape()),
                          .in = in,
                          .checkpoints = forward.checkpoints,
                          .taps = {},
                          .dx = device.empty(dtype, in.x.shape()),
                          .ddt_raw = device.empty(dtype, in.x.shape()),
                          .dB = device.empty(dtype, in.B.shape()),
                          .dC = device.empty(dtype, in.C.shape()),
                          .dz = device.empty(dtype, in.x.shape()),
                          .ddt_bias = device.zeros(DType::f32, {channels}),
                          .dA = device.zeros(DType::f32, {channels, kStates}),
                          .dD = device.zeros(DType::f32, {channels}),
                          .dpool = {}};
  return seconds_a_launch(device, [&] { selective_scan_backward(device, args); });
}

// What a channel of a token cannot do without: numbers read or written, and special functions.
GpuWork work_of(const Size& size, DType dtype, bool forward) {
  const double numbers = forward ? 4 : 7;
  return {.bytes = size.elements() * numbers * static_cast<double>(size_of(dtype)),
          .special_functions = size.elements() * scan_special_functions(kStates, forward)};
}

template <DType kDtype, bool kIsForward>
std::vector<Row> time_scan(Context& context, const Benchmark& self) {
  Device& device = context.any_device();
  std::vector<Row> rows;
  for (const Size& size : kSizes) {
    for (const bool fast : {false, true}) {
      const ScanInputs in = inputs(device, kDtype, size, fast);
      const double seconds =
          kIsForward ? forward_seconds(device, in) : backward_seconds(device, in);
      const double floor = context.floor_seconds(work_of(size, kDtype, kIsForward));
      std::string name = fmt::format("{}.{}x{}x{}.{}", self.name, size.batch, size.len,
                                     size.channels, fast ? "fast" : "slow");
      rows.push_back(make_row(std::move(name), kMicroseconds, seconds, floor, 1));
    }
  }
  return rows;
}

constexpr Benchmark kBenchmarks[] = {
    {"gpu.scan.forward.bf16", "selective scan on a GPU, 16 states, at four sizes, slow and fast",
     "bytes or special functions, the longer", time_scan<DType::bf16, true>},
    {"gpu.scan.forward.f32", "the same, float32", "the same", time_scan<DType::f32, true>},
    {"gpu.scan.backward.bf16", "its gradients from checkpoints", "the same",
     time_scan<DType::bf16, false>},
    {"gpu.scan.backward.f32", "the same, float32", "the same", time_scan<DType::f32, false>},
};

}  // namespace

std::span<const Benchmark> gpu_scan_benchmarks() { return kBenchmarks; }

}  // namespace elapse::bench
