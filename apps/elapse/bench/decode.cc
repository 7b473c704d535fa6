// SPDX-License-Identifier: Apache-2.0
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <fstream>

#include "apps/elapse/bench/benchmark.h"
#include "apps/elapse/bench/models.h"
#include "apps/elapse/bench/scan.h"
#include "elapse/generate/generate.h"

namespace elapse::bench {
namespace {

constexpr int64_t kTokensPerCall = 64;
constexpr int64_t kEarly = 1'000, kLate = 1'000'000;  // positions

Work decoding_work(const ModelConfig& config) {
  const TokenWork token = token_work(config);
  const double weights = token.layers + token.head;
  return {.cached_bytes = weights * sizeof(float) * kTokensPerCall,
          .multiplications = (weights + token.states * kScanForwardPerState) * kTokensPerCall};
}

// A session that has been given a prompt.
struct Writer {
  LanguageModel model;
  Session session;

  Writer(Device& device, const ModelConfig& config)
      : model(device, config, DType::f32, /*seed=*/0), session(model) {
    session.step(0);
  }
  void write() {
    generate(session, Sampler(), kTokensPerCall, [](int64_t) { return true; });
  }
};

std::vector<Row> time_generation(Context& context, const Benchmark& self) {
  const ModelConfig config = mamba_256x4();
  std::vector<std::unique_ptr<Writer>> writers;
  std::vector<std::function<void()>> calls;
  for (size_t i = 0; i < context.size(); ++i) {
    writers.push_back(std::make_unique<Writer>(context.device(i), config));
    calls.push_back([&writer = *writers.back()] { writer.write(); });
  }
  const Measure tokens{Measure::Kind::rate, "tokens/s", kTokensPerCall};
  return make_rows(context, self, tokens, decoding_work(config), least_seconds(calls));
}

// In pieces of one size, which divides both positions: memory then shows what more tokens take, not
// what a piece of another size does.
void read_up_to(Session& session, int64_t position) {
  constexpr int64_t kPiece = 250;
  static_assert(kPiece <= Session::kPrefillChunk && kEarly % kPiece == 0 && kLate % kPiece == 0);
  std::vector<int64_t> piece(kPiece);
  const int64_t vocab = session.model().config().vocab_size;
  for (size_t i = 0; i < piece.size(); ++i) piece[i] = static_cast<int64_t>(i) % vocab;
  while (session.position() < position) session.prefill(piece);
}

void step_on(Session& session) {
  for (int64_t token = 0; token < kTokensPerCall; ++token) session.step(token);
}

// Of this process, in bytes.
double resident_memory() {
  std::ifstream statm("/proc/self/statm");
  int64_t total = 0, resident = 0;
  statm >> total >> resident;
  return static_cast<double>(resident * sysconf(_SC_PAGESIZE));
}

double memory_after_steps(Session& session, int64_t position) {
  read_up_to(session, position);
  step_on(session);
  return resident_memory();
}

// On the fewest threads: a difference of 2 % does not show where threads wait for each other.
std::vector<Row> time_positions(Context& context, const Benchmark&) {
  Device& device = context.device(0);
  const ModelConfig config = mamba_256x4();
  const LanguageModel model(device, config, DType::f32, /*seed=*/0);
  Session warm(model), early(model), late(model);

  memory_after_steps(warm, 10 * kEarly);  // what is allocated once, now has been
  const double early_memory = memory_after_steps(early, kEarly);
  const double late_memory = memory_after_steps(late, kLate);
  const std::vector<double> seconds =
      least_seconds({[&] { step_on(early); }, [&] { step_on(late); }});

  const int threads = device.threads();
  const double floor = context.floor_seconds(decoding_work(config), 0);
  const Measure token{Measure::Kind::time, "us/token", kTokensPerCall * 1e-6};
  const Measure mebibytes{Measure::Kind::time, "MiB", 1 << 20};
  return {make_row("position.1000", token, seconds[0], floor, threads),
          make_row("position.1000000", token, seconds[1], seconds[0], threads),
          make_row("position.1000.memory", mebibytes, early_memory, NAN, threads),
          make_row("position.1000000.memory", mebibytes, late_memory, early_memory, threads)};
}

constexpr Benchmark kBenchmarks[] = {
    {"position.1000000", "step of that model from positions 1,000 and 1,000,000 on, and memory",
     "at the million: what position 1,000 takes", time_positions},
    {"generate.mamba-256x4", "sampling, d_model 256 x 4 layers, vocabulary 256, batch 1",
     "weights from the caches, their multiplications", time_generation},
};

}  // namespace

std::span<const Benchmark> decode_benchmarks() { return kBenchmarks; }

}  // namespace elapse::bench
