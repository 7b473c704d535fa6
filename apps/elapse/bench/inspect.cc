// SPDX-License-Identifier: Apache-2.0
// What looking inside costs.
#include <chrono>
#include <cmath>

#include "apps/elapse/bench/benchmark.h"
#include "elapse/core/random.h"
#include "elapse/interpret/patching.h"

namespace elapse::bench {
namespace {

constexpr int64_t kPrompt = 18;    // tokens of a patched prompt
constexpr int64_t kPrefill = 512;  // tokens of a watched one
constexpr int64_t kPairs = 4;      // patched together
constexpr int64_t kEvery = 8;      // of the layers, one in so many is patched in full
constexpr std::string_view kPoint = "resid_pre";

ModelConfig mamba_370m() { return ModelConfig::mamba(1024, 48, 50280); }
ModelConfig mamba_130m() { return ModelConfig::mamba(768, 24, 50280); }

std::vector<int64_t> random_tokens(int64_t length, uint64_t seed) {
  Random random(seed);
  std::vector<int64_t> tokens;
  for (int64_t t = 0; t < length; ++t) tokens.push_back(random.below(mamba_370m().vocab_size));
  return tokens;
}

std::vector<PromptPair> random_pairs() {
  std::vector<PromptPair> pairs;
  for (uint64_t i = 0; i < kPairs; ++i) {
    pairs.push_back({random_tokens(kPrompt, 2 * i), random_tokens(kPrompt, 2 * i + 1), {1, 2}});
  }
  return pairs;
}

std::string point_of(int64_t layer) { return fmt::format("layers.{}.{}", layer, kPoint); }

// A pass over the whole prompt for each patch of one in kEvery layers, packed as the restarted
// ones are. A pass takes as long whatever is patched.
void patch_in_full(const LanguageModel& model, const PromptPair& pair) {
  Tape tape(model.device(), false);
  Points source;
  for (int64_t l = 0; l < model.config().n_layers; l += kEvery) source.watch(point_of(l));
  model.forward(tape, pack(model, {pair.clean}), nullptr, &source);
  Points patches;
  TokenLists runs;
  for (int64_t l = 0; l < model.config().n_layers; l += kEvery) {
    for (int64_t t = 0; t < kPrompt; ++t) {
      patches.edit({point_of(l),
                    EditOp::set,
                    source.value(point_of(l)).rows(t, t + 1),
                    {.sequences = {std::ssize(runs)}, .positions = {t}}});
      runs.push_back(pair.corrupt);
    }
  }
  last_logits(model, model.forward(tape, pack(model, runs), nullptr, &patches).value());
}

double seconds_of(const std::function<void()>& call) {
  const auto begin = std::chrono::steady_clock::now();
  call();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

// On the most threads and once, as it takes a minute; what the first pass makes is made before.
// Half of the passes in full come before the restarted ones and half after, so that both meet the
// same machine.
std::vector<Row> time_patching(Context& context, const Benchmark& self) {
  Device& device = context.device(context.size() - 1);
  const LanguageModel model(device, mamba_370m(), DType::f32, /*seed=*/0);
  const std::vector<PromptPair> pairs = random_pairs();
  patch_in_full(model, pairs.front());
  double restarted = 0, in_full = 0;
  for (size_t i = 0; i < pairs.size(); ++i) {
    if (i == pairs.size() / 2) {
      restarted = seconds_of([&] { patch_layers_and_tokens(model, pairs); });
    }
    in_full += seconds_of([&] { patch_in_full(model, pairs[i]); });
  }
  const Measure a_pair{Measure::Kind::time, "s/pair", kPairs};
  const std::string name(self.name);
  return {make_row(name, a_pair, restarted, NAN, device.threads()),
          make_row(name + ".in-full", a_pair, in_full * kEvery, restarted, device.threads())};
}

std::vector<Row> time_watching(Context& context, const Benchmark& self) {
  Device& device = context.device(context.size() - 1);
  const LanguageModel model(device, mamba_130m(), DType::f32, /*seed=*/0);
  const Batch batch = pack(model, {random_tokens(kPrefill, 3)});
  const auto prefill = [&](Points* points) {
    Tape tape(device, false);
    model.forward(tape, batch, nullptr, points);
  };
  Points points;
  points.watch(point_of(mamba_130m().n_layers / 2));
  const std::vector<double> seconds =
      least_seconds({[&] { prefill(nullptr); }, [&] { prefill(&points); }});
  const Measure tokens{Measure::Kind::rate, "tokens/s", kPrefill};
  const std::string name(self.name);
  return {make_row(name + ".unwatched", tokens, seconds[0], NAN, device.threads()),
          make_row(name, tokens, seconds[1], seconds[0], device.threads())};
}

constexpr Benchmark kBenchmarks[] = {
    {"inspect.patch.mamba-370m",
     "the residual stream patched in each of 48 layers x 18 tokens of one pair, restarted; in "
     "full: "
     "a pass a patch, one layer in 8 measured",
     "in full: what restarting takes", time_patching},
    {"inspect.cache.resid", "prefill of 512 tokens, mamba-130m, with one layer's resid_pre kept",
     "the same unwatched", time_watching},
};

}  // namespace

std::span<const Benchmark> inspect_benchmarks() { return kBenchmarks; }

}  // namespace elapse::bench
