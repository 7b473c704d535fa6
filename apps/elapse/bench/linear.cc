// SPDX-License-Identifier: Apache-2.0
// The four linear maps of a Mamba layer, d_model 256, over 2048 tokens. Their tensors stay in the
// caches, so the floor is arithmetic alone.
#include "elapse/ops/linear.h"

#include "apps/elapse/bench/benchmark.h"
#include "apps/elapse/bench/inputs.h"

namespace elapse::bench {
namespace {

constexpr int64_t kTokens = 2048;

struct Map {
  int64_t in, out;

  double multiplications() const { return static_cast<double>(kTokens * in * out); }
};

std::vector<Row> time_map(Context& context, const Benchmark& self, Map map,
                          const std::function<void(Device&)>& call) {
  const Measure flops{Measure::Kind::rate, "GFLOP/s", map.multiplications() * 2e-9};
  return time_operation(context, self, flops, {.multiplications = map.multiplications()}, call);
}

template <int64_t kIn, int64_t kOut>
std::vector<Row> time_forward(Context& context, const Benchmark& self) {
  Device& device = context.any_device();
  const LinearForward args{.x = uniform(device, {kTokens, kIn}),
                           .weight = uniform(device, {kOut, kIn}),
                           .bias = {},
                           .y = zeros(device, {kTokens, kOut})};
  return time_map(context, self, {kIn, kOut}, [&](Device& d) { linear_forward(d, args); });
}

template <int64_t kIn, int64_t kOut>
std::vector<Row> time_backward_input(Context& context, const Benchmark& self) {
  Device& device = context.any_device();
  const LinearBackwardInput args{.dy = uniform(device, {kTokens, kOut}),
                                 .weight = uniform(device, {kOut, kIn}),
                                 .dx = zeros(device, {kTokens, kIn})};
  return time_map(context, self, {kIn, kOut}, [&](Device& d) { linear_backward_input(d, args); });
}

template <int64_t kIn, int64_t kOut>
std::vector<Row> time_backward_weight(Context& context, const Benchmark& self) {
  Device& device = context.any_device();
  const LinearBackwardWeight args{.dy = uniform(device, {kTokens, kOut}),
                                  .x = uniform(device, {kTokens, kIn}),
                                  .dweight = zeros(device, {kOut, kIn}),
                                  .dbias = {}};
  return time_map(context, self, {kIn, kOut}, [&](Device& d) { linear_backward_weight(d, args); });
}

constexpr std::string_view kFloor = "a multiplication per weight and token";

constexpr Benchmark kBenchmarks[] = {
    {"linear.in_proj.forward", "2048 tokens, 256 -> 1024", kFloor, time_forward<256, 1024>},
    {"linear.in_proj.backward_input", "2048 tokens, 256 -> 1024", kFloor,
     time_backward_input<256, 1024>},
    {"linear.in_proj.backward_weight", "2048 tokens, 256 -> 1024", kFloor,
     time_backward_weight<256, 1024>},
    {"linear.x_proj.forward", "2048 tokens, 512 -> 48", kFloor, time_forward<512, 48>},
    {"linear.x_proj.backward_input", "2048 tokens, 512 -> 48", kFloor,
     time_backward_input<512, 48>},
    {"linear.x_proj.backward_weight", "2048 tokens, 512 -> 48", kFloor,
     time_backward_weight<512, 48>},
    {"linear.dt_proj.forward", "2048 tokens, 16 -> 512", kFloor, time_forward<16, 512>},
    {"linear.dt_proj.backward_input", "2048 tokens, 16 -> 512", kFloor,
     time_backward_input<16, 512>},
    {"linear.dt_proj.backward_weight", "2048 tokens, 16 -> 512", kFloor,
     time_backward_weight<16, 512>},
    {"linear.out_proj.forward", "2048 tokens, 512 -> 256", kFloor, time_forward<512, 256>},
    {"linear.out_proj.backward_input", "2048 tokens, 512 -> 256", kFloor,
     time_backward_input<512, 256>},
    {"linear.out_proj.backward_weight", "2048 tokens, 512 -> 256", kFloor,
     time_backward_weight<512, 256>},
};

}  // namespace

std::span<const Benchmark> linear_benchmarks() { return kBenchmarks; }

}  // namespace elapse::bench
