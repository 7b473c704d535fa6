// SPDX-License-Identifier: Apache-2.0
// Models of published shapes with random weights, in files of the published layout: what loading,
// prefill and decoding of a real checkpoint take.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <optional>

#include "apps/elapse/bench/benchmark.h"
#include "apps/elapse/bench/machine.h"
#include "apps/elapse/bench/models.h"
#include "apps/elapse/bench/scan.h"
#include "apps/elapse/bench/ssd.h"
#include "apps/elapse/bench/temporary_model.h"
#include "elapse/core/parallel.h"
#include "elapse/generate/generate.h"
#include "elapse/model/checkpoint.h"

namespace elapse::bench {
namespace {

constexpr int64_t kPrompt = 512;  // tokens

ModelConfig mamba_130m() { return ModelConfig::mamba(768, 24, 50280); }
ModelConfig mamba2_130m() {
  ModelConfig config = ModelConfig::mamba2(768, 24, 50277);
  config.pad_vocab_multiple = 16;
  return config;
}
ModelConfig mamba_2_8b() { return ModelConfig::mamba(2560, 64, 50280); }

// The model of 130 million parameters that a benchmark's name says.
ModelConfig model_of_name(const Benchmark& self) {
  return self.name.find("mamba2") == self.name.npos ? mamba_130m() : mamba2_130m();
}

DType dtype_of_name(const Benchmark& self) {
  return self.name.ends_with("bf16") ? DType::bf16 : DType::f32;
}

// A model loaded from its file on each of the context's devices.
class LoadedModels {
 public:
  LoadedModels(Context& context, const Benchmark& self)
      : files_(model_of_name(self), dtype_of_name(self)) {
    for (size_t i = 0; i < context.size(); ++i) {
      models_.push_back(
          load_model(context.device(i), files_.folder(), DType::f32, WeightMemory::mapped));
      states_.push_back(models_.back()->make_state(1));
    }
  }
  const LanguageModel& operator[](size_t i) const { return *models_[i]; }
  size_t size() const { return models_.size(); }

  // What a token cannot do without: every weight where it is mapped, and every number of a state.
  std::vector<Tensor> tensors(size_t i) const {
    std::vector<Tensor> all;
    for (const Parameter& p : models_[i]->parameters().all()) all.push_back(p.var.value());
    for (const LayerState& layer : states_[i].layers()) {
      for (const StatePart& part : layer.parts) all.push_back(part.pool.value());
    }
    return all;
  }

 private:
  TemporaryModel files_;
  std::vector<std::unique_ptr<LanguageModel>> models_;
  std::vector<State> states_;
};

// Each of them read once, and nothing done with it.
void read_tensors(const std::vector<Tensor>& tensors, int threads) {
  constexpr int64_t kPart = int64_t{1} << 19;  // bytes
  std::vector<std::span<const std::byte>> parts;
  for (const Tensor& t : tensors) {
    const auto* data = static_cast<const std::byte*>(t.raw());
    for (int64_t at = 0; at < t.bytes(); at += kPart) {
      parts.emplace_back(data + at, static_cast<size_t>(std::min(kPart, t.bytes() - at)));
    }
  }
  parallel_for(static_cast<int64_t>(parts.size()), threads,
               [&](int64_t i) { read_bytes(parts[static_cast<size_t>(i)]); });
}

std::function<void()> bare_pass(const LoadedModels& models, size_t i) {
  return [tensors = models.tensors(i), threads = models[i].device().threads()] {
    read_tensors(tensors, threads);
  };
}

std::vector<double> pass_seconds(const LoadedModels& models) {
  std::vector<std::function<void()>> calls;
  for (size_t i = 0; i < models.size(); ++i) {
    calls.push_back(bare_pass(models, i));
  }
  return least_seconds(calls);
}

std::vector<Row> time_pass(Context& context, const Benchmark& self) {
  const LoadedModels models(context, self);
  double bytes = 0;
  for (const Tensor& t : models.tensors(0)) bytes += static_cast<double>(t.bytes());
  const Measure passes{Measure::Kind::rate, "passes/s", 1};
  return make_rows(context, self, passes, {.bytes = bytes}, pass_seconds(models));
}

std::vector<Row> rows_of(Context& context, const Benchmark& self, const Measure& measure,
                         const std::vector<double>& seconds, const std::vector<double>& floors) {
  std::vector<Row> rows;
  for (size_t i = 0; i < seconds.size(); ++i) {
    rows.push_back(make_row(std::string(self.name), measure, seconds[i], floors[i],
                            context.device(i).threads()));
  }
  return rows;
}

std::vector<Row> time_decoding(Context& context, const Benchmark& self) {
  const LoadedModels models(context, self);
  std::vector<Session> sessions;
  for (size_t i = 0; i < models.size(); ++i) {
    sessions.emplace_back(models[i]);
    sessions.back().step(0);
  }
  // In turn with the passes that are the floor: both meet the same machine.
  std::vector<std::function<void()>> calls;
  for (size_t i = 0; i < models.size(); ++i) {
    calls.push_back([&session = sessions[i]] {
      generate(session, Sampler({.temperature = 0}), 1, [](int64_t) { return true; });
    });
    calls.push_back(bare_pass(models, i));
  }
  const std::vector<double> measured = least_seconds(calls);
  std::vector<double> seconds, floors;
  for (size_t i = 0; i < measured.size(); i += 2) {
    seconds.push_back(measured[i]);
    floors.push_back(measured[i + 1]);
  }
  const Measure tokens{Measure::Kind::rate, "tokens/s", 1};
  return rows_of(context, self, tokens, seconds, floors);
}

// A processor that multiplies bf16 does it at twice the rate of f32.
double prefill_multiplications(const LanguageModel& model, DType dtype) {
  const TokenWork token = token_work(model.config());
  const double layers = token.layers / (dtype == DType::bf16 ? 2 : 1);
  const bool mamba2 = model.config().mixer == MixerKind::mamba2;
  const double per_state = mamba2 ? kSsdForwardPerState : kScanForwardPerState;
  return (layers + token.states * per_state) * kPrompt + token.head;
}

std::vector<Row> time_prefill(Context& context, const Benchmark& self) {
  const LoadedModels models(context, self);
  std::vector<int64_t> prompt(kPrompt);
  for (size_t i = 0; i < prompt.size(); ++i) prompt[i] = static_cast<int64_t>(i * 97 % 50280);
  std::vector<std::function<void()>> calls;
  for (size_t i = 0; i < models.size(); ++i) {
    calls.push_back([&prompt, &model = models[i]] { Session(model).prefill(prompt); });
  }
  const Work work = {.multiplications = prefill_multiplications(models[0], dtype_of_name(self))};
  const Measure tokens{Measure::Kind::rate, "tokens/s", kPrompt};
  return make_rows(context, self, tokens, work, least_seconds(calls));
}

// From files in the page cache to the logits of the first token.
double seconds_to_first_token(Device& device, const std::string& folder) {
  using Clock = std::chrono::steady_clock;
  const auto start = Clock::now();
  const auto model = load_model(device, folder, DType::f32, WeightMemory::mapped);
  Session(*model).step(0);
  return std::chrono::duration<double>(Clock::now() - start).count();
}

std::vector<Row> time_loading(Context& context, const Benchmark& self) {
  const TemporaryModel files(mamba_2_8b(), DType::bf16);
  const double bytes = 2.0 * static_cast<double>(mamba_2_8b().parameter_count());
  std::vector<double> seconds;
  for (size_t i = 0; i < context.size(); ++i) {
    seconds_to_first_token(context.device(i), files.folder());  // leaves them in the page cache
    seconds.push_back(seconds_to_first_token(context.device(i), files.folder()));
  }
  return make_rows(context, self, {Measure::Kind::time, "s", 1}, {.bytes = bytes}, seconds);
}

constexpr Benchmark kBenchmarks[] = {
    {"generate.mamba-130m.f32", "decoding a token with mamba-130m, float32 weights, batch 1",
     "a bare pass a token", time_decoding},
    {"generate.mamba-130m.bf16", "the same, bfloat16 weights", "a bare pass a token",
     time_decoding},
    {"generate.mamba2-130m.f32", "the same with mamba2-130m, float32 weights",
     "a bare pass a token", time_decoding},
    {"generate.mamba2-130m.bf16", "the same, bfloat16 weights", "a bare pass a token",
     time_decoding},
    {"weights.mamba-130m.f32",
     "a bare pass over the mapped weights of mamba-130m, float32, and its state", "their bytes",
     time_pass},
    {"weights.mamba-130m.bf16", "the same, bfloat16", "their bytes", time_pass},
    {"weights.mamba2-130m.f32", "the same of mamba2-130m, float32", "their bytes", time_pass},
    {"weights.mamba2-130m.bf16", "the same, bfloat16", "their bytes", time_pass},
    {"prefill.mamba-130m.f32", "reading 512 tokens, the head on the last only, float32 weights",
     "multiplications", time_prefill},
    {"prefill.mamba-130m.bf16", "the same, bfloat16 weights",
     "multiplications, those of weights at twice the f32 rate", time_prefill},
    {"prefill.mamba2-130m.f32", "the same with mamba2-130m, float32 weights", "multiplications",
     time_prefill},
    {"prefill.mamba2-130m.bf16", "the same, bfloat16 weights",
     "multiplications, those of weights at twice the f32 rate", time_prefill},
    {"load.mamba-2.8b.bf16",
     "a file of 5.5 GB, made for it, in the page cache to the first token's logits", "its bytes",
     time_loading},
};

}  // namespace

std::span<const Benchmark> published_benchmarks() { return kBenchmarks; }

}  // namespace elapse::bench
