// SPDX-License-Identifier: Apache-2.0
#include "apps/elapse/bench/results.h"

#include <algorithm>
#include <cmath>

#include "elapse/io/json_writer.h"

namespace elapse::bench {
namespace {

// Measured on a two-core Zen 5 virtual machine with AVX-512, those of GPUs on one H200; legend()
// names them.
struct Published {
  std::string_view name;
  int threads;
  double value;
};
constexpr Published kPublished[] = {
    {"scan.forward.f32", 1, 55},
    {"train.induction", 2, 108},
    {"train.mamba-256x4", 2, 797},
    {"weights.mamba-130m.f32", 1, 76},
    {"weights.mamba-130m.f32", 2, 92},
    {"weights.mamba-130m.bf16", 1, 155},
    {"generate.mamba-130m.f32", 1, 61.5},
    {"generate.mamba-130m.bf16", 1, 82},
    {"prefill.mamba-130m.f32", 1, 228},
    {"prefill.mamba-130m.f32", 2, 423},
    {"prefill.mamba-130m.bf16", 1, 252},
    {"prefill.mamba-130m.bf16", 2, 473},
    {"generate.mamba2-130m.f32", 1, 55},
    {"generate.mamba2-130m.f32", 2, 93},
    {"generate.mamba2-130m.bf16", 1, 95},
    {"generate.mamba2-130m.bf16", 2, 140},
    {"prefill.mamba2-130m.f32", 1, 338},
    {"prefill.mamba2-130m.f32", 2, 650},
    {"prefill.mamba2-130m.bf16", 1, 720},
    {"prefill.mamba2-130m.bf16", 2, 1400},
    {"gpu.scan.forward.bf16.8x2048x1536.slow", 1, 453},
    {"gpu.scan.forward.bf16.8x2048x5120.slow", 1, 1449},
    {"gpu.scan.forward.bf16.1x2048x1536.slow", 1, 69.6},
    {"gpu.scan.forward.bf16.1x65536x1536.slow", 1, 2230},
    {"gpu.scan.backward.bf16.8x2048x1536.slow", 1, 1773},
    {"gpu.scan.backward.bf16.8x2048x5120.slow", 1, 5637},
    {"gpu.scan.backward.bf16.1x2048x1536.slow", 1, 294},
    {"gpu.scan.backward.bf16.1x65536x1536.slow", 1, 7592},
    {"gpu.scan.forward.bf16.8x2048x1536.fast", 1, 453},
    {"gpu.scan.forward.bf16.8x2048x5120.fast", 1, 1449},
    {"gpu.scan.forward.bf16.1x2048x1536.fast", 1, 69.6},
    {"gpu.scan.forward.bf16.1x65536x1536.fast", 1, 2230},
    {"gpu.scan.backward.bf16.8x2048x1536.fast", 1, 1773},
    {"gpu.scan.backward.bf16.8x2048x5120.fast", 1, 5637},
    {"gpu.scan.backward.bf16.1x2048x1536.fast", 1, 294},
    {"gpu.scan.backward.bf16.1x65536x1536.fast", 1, 7592},
    {"gpu.attention.forward.bf16.512", 1, 229},
    {"gpu.attention.forward.bf16.2048", 1, 528},
    {"gpu.attention.forward.bf16.8192", 1, 1874},
    {"gpu.attention.backward.bf16.512", 1, 824},
    {"gpu.attention.backward.bf16.2048", 1, 1756},
    {"gpu.attention.backward.bf16.8192", 1, 5446},
    {"gpu.decode.130m", 1, 1205},
    {"gpu.decode.2.8b", 1, 284},
    {"gpu.batches.130m.64", 1, 66'800},
    {"gpu.batches.130m.256", 1, 187'000},
    {"gpu.batches.2.8b.64", 1, 13'000},
    {"gpu.batches.2.8b.256", 1, 30'300},
    {"gpu.prefill.130m.slow", 1, 16.6},
    {"gpu.prefill.130m.fast", 1, 16.6},
    {"gpu.prefill.2.8b.slow", 1, 123.8},
    {"gpu.prefill.2.8b.fast", 1, 123.8},
    {"gpu.train.130m", 1, 175'700},
    {"gpu.train.130m.memory", 1, 36.2},
    {"gpu.train.370m", 1, 69'600},
    {"gpu.train.370m.memory", 1, 31.7},
};

double published(const Row& row) {
  const auto* found = std::find_if(std::begin(kPublished), std::end(kPublished), [&](auto& p) {
    return p.name == row.name && p.threads == row.threads;
  });
  return found == std::end(kPublished) ? NAN : found->value;
}

// How many times longer than `best` a row takes; 1: as long.
double times_slower(const Row& row, double best) {
  return row.kind == Measure::Kind::time ? row.value / best : best / row.value;
}

// How many times faster than the same row on one thread.
double gain_of_threads(const std::vector<Row>& rows, const Row& row) {
  if (row.threads == 1) return NAN;
  const auto single = std::find_if(rows.begin(), rows.end(), [&](const Row& other) {
    return other.name == row.name && other.threads == 1;
  });
  return single == rows.end() ? NAN : times_slower(*single, row.value);
}

}  // namespace

Table list_of(const std::vector<const Benchmark*>& benchmarks) {
  using enum Table::Align;
  Table table({{"name", left}, {"what one call does", left}, {"what its floor counts", left}});
  for (const Benchmark* b : benchmarks) {
    table.add_row({std::string(b->name), std::string(b->summary), std::string(b->floor)});
  }
  return table;
}

Table table_of(const std::vector<Row>& rows) {
  using enum Table::Align;
  Table table({{"name", left},
               {"threads"},
               {"floor"},
               {"ours"},
               {"unit", left},
               {"ratio", right, 2},
               {"gain", right, 2},
               {"others", right, 0},
               {"faster", right, 2}});
  for (const Row& row : rows) {
    table.add_row({row.name, int64_t{row.threads}, row.floor, row.value, std::string(row.unit),
                   times_slower(row, row.floor), gain_of_threads(rows, row), published(row),
                   1 / times_slower(row, published(row))});
  }
  return table;
}

std::string_view legend(bool of_gpu) {
  if (of_gpu) {
    return "floor: the best this GPU allows, by the gpu.machine rows and what `--list` says it "
           "counts.\n"
           "ratio: how many times longer than the floor. faster: how many times as fast as "
           "others.\n"
           "others, on an H200: state-spaces/mamba 2.3.2; attention, PyTorch's flash attention.\n";
  }
  return "floor: the best this machine allows, by the machine rows and what `--list` says it "
         "counts.\n"
         "ratio: how many times longer than the floor. gain: how many times faster than one "
         "thread.\n"
         "faster: how many times as fast as others.\n"
         "others, on two cores of a Zen 5: train, PyTorch 1.13.1; weights, a bare pass by "
         "hand-written\n"
         "matrix-vector kernels; the rest, llama.cpp (ggml 0.25.1).\n";
}

std::string json_of(const std::vector<Row>& rows, std::string_view device) {
  JsonWriter json;
  json.begin_array();
  for (const Row& row : rows) {
    json.begin_object()
        .field("name", row.name)
        .field("value", row.value)
        .field("unit", row.unit)
        .field("floor", row.floor)
        .field("others", published(row))
        .field("threads", row.threads)
        .field("device", device)
        .end_object();
  }
  return json.end_array().text();
}

}  // namespace elapse::bench
