// SPDX-License-Identifier: Apache-2.0
#include "apps/elapse/bench/gpu_machine.h"

#include "apps/elapse/bench/gpu.h"
#include "apps/elapse/bench/gpu_machine_kernels.h"
#include "elapse/ops/linear.h"
#include "elapse/ops/pointwise.h"

namespace elapse::bench {
namespace {

double copying_rate(Device& device) {
  constexpr int64_t kFloats = int64_t{1} << 28;  // far larger than the caches
  const Tensor from = device.zeros(DType::f32, {kFloats}), to = device.empty(DType::f32, {kFloats});
  const double seconds = seconds_a_launch(device, [&] { copy(device, {from, to}); });
  return static_cast<double>(from.bytes() + to.bytes()) / seconds;
}

double product_rate(Device& device, DType dtype, int64_t size) {
  const Tensor x = drawn(device, dtype, {size, size}), y = device.empty(dtype, {size, size});
  const double seconds = seconds_a_launch(device, [&] { linear_forward(device, {x, x, {}, y}); });
  const auto n = static_cast<double>(size);
  return n * n * n / seconds;
}

double special_function_rate(Device& device) {
  const double seconds = seconds_a_launch(device, [] {
    const char* wrong = run_special_functions();
    ELAPSE_CHECK(wrong == nullptr, "gpu.machine.special: {}", wrong);
  });
  return special_functions_of_a_run() / seconds;
}

template <GpuLimit kLimit>
std::vector<Row> rate(Context& context, const Benchmark& self) {
  constexpr bool kIsProduct = kLimit == GpuLimit::products_bf16 || kLimit == GpuLimit::products_f32;
  const Measure measure = kLimit == GpuLimit::copy ? Measure{Measure::Kind::rate, "GB/s", 1e-9}
                          : kIsProduct             ? Measure{Measure::Kind::rate, "TFLOP/s", 2e-12}
                                                   : Measure{Measure::Kind::rate, "T/s", 1e-12};
  return {make_row(std::string(self.name), measure, 1 / context.gpu_rate(kLimit), NAN, 1)};
}

constexpr std::string_view kNoFloor = "none: it is one";

constexpr Benchmark kBenchmarks[] = {
    {"gpu.machine.copy", "copy of 1 GiB within a GPU's memory, bytes read and written", kNoFloor,
     rate<GpuLimit::copy>},
    {"gpu.machine.product.bf16", "product of matrices of 8192 x 8192, bf16", kNoFloor,
     rate<GpuLimit::products_bf16>},
    {"gpu.machine.product.f32", "product of matrices of 4096 x 4096, float32", kNoFloor,
     rate<GpuLimit::products_f32>},
    {"gpu.machine.special", "powers of two, by a GPU's units of special functions", kNoFloor,
     rate<GpuLimit::special_functions>},
};

}  // namespace

double measured_rate(Device& device, GpuLimit limit) {
  switch (limit) {
    case GpuLimit::copy:
      return copying_rate(device);
    case GpuLimit::products_bf16:
      return product_rate(device, DType::bf16, 8192);
    case GpuLimit::products_f32:
      return product_rate(device, DType::f32, 4096);
    case GpuLimit::special_functions:
      return special_function_rate(device);
  }
  return 0;
}

std::span<const Benchmark> gpu_machine_benchmarks() { return kBenchmarks; }

}  // namespace elapse::bench
