// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "apps/elapse/bench/context.h"

namespace elapse::bench {

// How the seconds of one call are expressed: as time for each of the `per_call` things a call does
// (unit "ns/element": elements * 1e-9), or as their rate ("GFLOP/s": flops * 1e-9).
struct Measure {
  enum class Kind : uint8_t { time, rate };
  Kind kind;
  std::string_view unit;
  double per_call;

  double of(double seconds) const {
    return kind == Kind::time ? seconds / per_call : per_call / seconds;
  }
};

// One measurement. `floor` is the best this machine allows, in `unit`; NaN where none is known.
struct Row {
  std::string name;
  Measure::Kind kind;
  double value;
  std::string_view unit;
  double floor;
  int threads;
};

// A benchmark and the rows it measures: one per number of threads, or as its summary says.
struct Benchmark {
  std::string_view name;     // "scan.forward.f32": dots lead from the general to the special
  std::string_view summary;  // what one call does
  std::string_view floor;    // what its floor counts
  std::vector<Row> (*run)(Context& context, const Benchmark& self);
};

// Every benchmark, in the order of printing: those with a common prefix stand together. A new group
// is a file that defines its span and a line in benchmark.cc.
std::vector<const Benchmark*> all_benchmarks();

std::span<const Benchmark> machine_benchmarks();
std::span<const Benchmark> scan_benchmarks();
std::span<const Benchmark> ssd_benchmarks();
std::span<const Benchmark> attention_benchmarks();
std::span<const Benchmark> state_space_benchmarks();
std::span<const Benchmark> linear_attention_benchmarks();
std::span<const Benchmark> streaming_benchmarks();
std::span<const Benchmark> linear_benchmarks();
std::span<const Benchmark> train_benchmarks();
std::span<const Benchmark> decode_benchmarks();
std::span<const Benchmark> published_benchmarks();
std::span<const Benchmark> tokenize_benchmarks();
std::span<const Benchmark> inspect_benchmarks();
std::span<const Benchmark> gpu_machine_benchmarks();
std::span<const Benchmark> gpu_scan_benchmarks();
std::span<const Benchmark> gpu_attention_benchmarks();
std::span<const Benchmark> gpu_model_benchmarks();

// Whether it measures a GPU, not the host.
bool is_of_gpu(const Benchmark& benchmark);

// Those whose name begins with one of `names`; all where there are none. Throws Error for a name
// that begins none, with the names nearest to it.
std::vector<const Benchmark*> select_benchmarks(const std::vector<std::string>& names);

Row make_row(std::string name, const Measure& measure, double seconds, double floor_seconds,
             int threads);

// A row per number of threads, for calls that do `work` and took these seconds.
std::vector<Row> make_rows(Context& context, const Benchmark& self, const Measure& measure,
                           const Work& work, const std::vector<double>& seconds);

// Times `call` and makes the rows.
std::vector<Row> time_operation(Context& context, const Benchmark& self, const Measure& measure,
                                const Work& work, const std::function<void(Device&)>& call);

}  // namespace elapse::bench
