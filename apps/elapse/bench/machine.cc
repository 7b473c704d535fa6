// SPDX-License-Identifier: Apache-2.0
#include "apps/elapse/bench/machine.h"

#include <algorithm>
#include <atomic>
#include <cmath>

#include "apps/elapse/bench/benchmark.h"
#include "apps/elapse/bench/machine_kernels.h"
#include "elapse/core/parallel.h"

namespace elapse::bench {
namespace {

constexpr int64_t kPartFloats = int64_t{8} << 20;  // 32 MiB
constexpr int64_t kParts = 16;                     // together far larger than the caches
constexpr int64_t kCachedFloats = int64_t{2} << 20;
constexpr int64_t kTasks = 16;  // threads take them one at a time
constexpr int64_t kFmaRounds = 20'000;

Tensor filled_memory(Shape shape) {
  Pool pool(host_memory());
  const Tensor memory = Tensor::empty(pool, DType::f32, shape);
  std::fill_n(memory.data<float>(), memory.numel(), 1.0f);
  return memory;
}

// Keeps the compiler from leaving out what nobody reads.
void use(float value) {
  static std::atomic<float> sink;
  sink.store(value, std::memory_order_relaxed);
}

void read(const Tensor& memory, int threads) {
  const int64_t share = memory.numel() / kTasks;
  const float* data = memory.data<float>();
  parallel_for(kTasks, threads, [&](int64_t i) { use(sum_of(data + i * share, share)); });
}

// Every task reads all of it.
void read_cached(const Tensor& memory, int threads) {
  parallel_for(kTasks, threads,
               [&](int64_t) { use(sum_of(memory.data<float>(), memory.numel())); });
}

void copy(const Tensor& memory, int threads) {
  const int64_t half = memory.numel() / 2, share = half / kTasks;
  float* data = memory.data<float>();
  parallel_for(kTasks, threads,
               [&](int64_t i) { stream(data + i * share, data + half + i * share, share); });
}

void multiply(int threads) {
  parallel_for(kTasks, threads, [](int64_t) { use(multiply_adds(kFmaRounds)); });
}

std::vector<Row> rates_of(Context& context, const Benchmark& self, Limit limit,
                          const Measure& one_a_second) {
  std::vector<Row> rows;
  for (size_t i = 0; i < context.size(); ++i) {
    const double seconds = 1 / context.rate(limit, i);
    rows.push_back(
        make_row(std::string(self.name), one_a_second, seconds, NAN, context.device(i).threads()));
  }
  return rows;
}

template <Limit kLimit>
std::vector<Row> gigabytes(Context& context, const Benchmark& self) {
  return rates_of(context, self, kLimit, {Measure::Kind::rate, "GB/s", 1e-9});
}

std::vector<Row> gigaflops(Context& context, const Benchmark& self) {
  constexpr double kFlops = 2;  // in a multiply-add
  return rates_of(context, self, Limit::multiply_f32,
                  {Measure::Kind::rate, "GFLOP/s", kFlops * 1e-9});
}

constexpr std::string_view kNoFloor = "none: it is one";

constexpr Benchmark kBenchmarks[] = {
    {"machine.read", "sum of floats, 32 of 512 MiB at a time", kNoFloor, gigabytes<Limit::read>},
    {"machine.read.cached", "sum of 8 MiB of floats, again and again", kNoFloor,
     gigabytes<Limit::read_cached>},
    {"machine.copy", "copy past the caches, bytes read and written", kNoFloor,
     gigabytes<Limit::copy>},
    {"machine.fma.f32", "fused multiply-adds of registers", kNoFloor, gigaflops},
};

}  // namespace

std::span<const Benchmark> machine_benchmarks() { return kBenchmarks; }

void read_bytes(std::span<const std::byte> bytes) {
  constexpr size_t kMultiple = 256;  // of floats: see machine_kernels.h
  const size_t floats = bytes.size() / sizeof(float) / kMultiple * kMultiple;
  use(sum_of(reinterpret_cast<const float*>(bytes.data()), static_cast<int64_t>(floats)));
}

LimitProbe::LimitProbe(Limit limit) : limit_(limit) {
  if (limit == Limit::read || limit == Limit::copy) memory_ = filled_memory({kParts, kPartFloats});
  if (limit == Limit::read_cached) memory_ = filled_memory({1, kCachedFloats});
}

double LimitProbe::amount() const {
  switch (limit_) {
    case Limit::read:
    case Limit::copy:
      return static_cast<double>(kPartFloats * size_of(DType::f32));
    case Limit::read_cached:
      return static_cast<double>(kTasks * kCachedFloats * size_of(DType::f32));
    case Limit::multiply_f32:
      return static_cast<double>(kTasks * kFmaRounds * multiply_adds_per_round());
  }
  return 0;
}

void LimitProbe::run(int threads) {
  if (limit_ == Limit::multiply_f32) return multiply(threads);
  const int64_t part = runs_++ % memory_.dim(0);
  const Tensor memory = memory_.rows(part, part + 1);
  if (limit_ == Limit::read) return read(memory, threads);
  if (limit_ == Limit::copy) return copy(memory, threads);
  return read_cached(memory, threads);
}

}  // namespace elapse::bench
