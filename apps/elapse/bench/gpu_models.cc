// SPDX-License-Identifier: Apache-2.0
// Models of published shapes with random weights on a GPU, in bf16: decoding, a prompt, training.
// docs/cuda.md has what was measured.
#include <fmt/format.h>

#include <cmath>

#include "apps/elapse/bench/gpu.h"
#include "apps/elapse/bench/models.h"
#include "elapse/core/convert.h"
#include "elapse/core/random.h"
#include "elapse/generate/generate.h"
#include "elapse/model/recorded_step.h"
#include "elapse/ops/rows.h"
#include "elapse/train/trainer.h"

namespace elapse::bench {
namespace {

constexpr int64_t kVocab = 50280;
constexpr Measure kGigabytes{Measure::Kind::time, "GB", 1e9};

struct Size {
  std::string_view name;
  int64_t d_model, n_layers;
  ModelConfig config() const { return ModelConfig::mamba(d_model, n_layers, kVocab); }
};
constexpr Size kSizes[] = {{"130m", 768, 24}, {"370m", 1024, 48}, {"2.8b", 2560, 64}};

// "gpu.decode.130m"
ModelConfig config_of_name(const Benchmark& self) {
  for (const Size& size : kSizes) {
    if (self.name.ends_with(size.name)) return size.config();
  }
  fail("no model of a published size is named \"{}\"", self.name);
}

// Weights of a model that is only to be run, and quickly made: drawn numbers over and over in the
// linear maps; norms and decays as models start from, and all step sizes about `step`.
Parameters::Source quick_weights(Device& device, double step = 0.01) {
  constexpr size_t kDrawn = 4'194'301;  // a prime, so that rows do not repeat at powers of two
  std::vector<float> drawn(kDrawn);
  Random random(1);
  for (float& v : drawn) v = static_cast<float>(random.uniform(-1, 1));
  const auto step_bias = static_cast<float>(std::log(std::expm1(step)));
  const auto value = [&device, drawn, step_bias](const std::string& name, const Shape& shape,
                                                 ParameterUse use) {
    const auto bound = static_cast<float>(1 / std::sqrt(static_cast<double>(shape[-1])));
    std::vector<float> values(static_cast<size_t>(shape.numel()), 1.0f);
    for (size_t i = 0; i < values.size(); ++i) {
      if (use != ParameterUse::other) values[i] = bound * drawn[i % kDrawn];
      else if (name.ends_with("A_log")) values[i] = std::log(static_cast<float>(i % 16 + 1));
      else if (name.ends_with("dt_proj.bias")) values[i] = step_bias;
    }
    if (use != ParameterUse::matrix) return device.upload(values, shape);
    std::vector<uint16_t> narrow(values.size());
    convert_elements(DType::f32, values.data(), DType::bf16, narrow.data(), shape.numel());
    return device.upload_bytes(narrow.data(), DType::bf16, shape);
  };
  return {value, /*needs_grad=*/false};
}

double bytes_of(const LanguageModel& model) {
  double bytes = 0;
  for (const Parameter& p : model.parameters().all()) {
    bytes += static_cast<double>(p.var.value().bytes());
  }
  return bytes;
}

// A pass of `tokens` in `sequences`, of whose last tokens the head makes logits.
GpuWork work_of(const LanguageModel& model, const State& state, int64_t tokens, int64_t sequences) {
  const ModelConfig& config = model.config();
  const TokenWork token = token_work(config);
  const auto n = static_cast<double>(tokens), logits = static_cast<double>(sequences);
  return {.bytes = bytes_of(model) + 2 * logits * static_cast<double>(state.bytes_per_slot()),
          .multiplications = n * token.layers + logits * token.head,
          .special_functions = n * static_cast<double>(config.n_layers * config.d_inner) *
                               scan_special_functions(config.d_state, true)};
}

std::vector<Row> time_decoding(Context& context, const Benchmark& self) {
  constexpr int64_t kTokens = 100;
  Device& device = context.any_device();
  const LanguageModel model(device, config_of_name(self), DType::bf16, quick_weights(device));
  Session session(model);
  session.step(0);
  const double floor = kTokens * context.floor_seconds(work_of(model, model.make_state(1), 1, 1));
  const Measure tokens{Measure::Kind::rate, "tokens/s", kTokens};
  std::vector<Row> rows;
  for (const bool greedy : {true, false}) {
    const Sampler sampler(greedy ? SamplerOptions{.temperature = 0}
                                 : SamplerOptions{.temperature = 0.8, .top_k = 50, .top_p = 0.95});
    const double seconds = least_seconds(
        {[&] { generate(session, sampler, kTokens, [](int64_t) { return true; }); }})[0];
    rows.push_back(make_row(fmt::format("{}{}", self.name, greedy ? "" : ".sampled"), tokens,
                            seconds, floor, 1));
  }
  return rows;
}

// Several sequences side by side, greedily: a recorded step of a token each, whose next tokens are
// chosen on the device.
std::vector<Row> time_batches(Context& context, const Benchmark& self) {
  constexpr int kSteps = 20;
  Device& device = context.any_device();
  const LanguageModel model(device, config_of_name(self), DType::bf16, quick_weights(device));
  std::vector<Row> rows;
  for (const int64_t sequences : {4, 64, 256}) {
    std::vector<int64_t> tokens;
    for (int64_t s = 0; s < sequences; ++s) tokens.push_back(s);
    State state = model.make_state(sequences);
    RecordedStep step(model, tokens);  // a slot each
    const Tensor likeliest_of = device.empty(DType::i64, {sequences});
    const double seconds = least_seconds({[&] {
      for (int i = 0; i < kSteps; ++i) {
        step.step(state, tokens);
        likeliest(device, {step.logits().columns(0, kVocab), likeliest_of});
        device.download_bytes(likeliest_of, tokens.data());
      }
    }})[0];
    const double floor =
        kSteps * context.floor_seconds(work_of(model, state, sequences, sequences));
    rows.push_back(
        make_row(fmt::format("{}.{}", self.name, sequences),
                 {Measure::Kind::rate, "tokens/s", static_cast<double>(sequences * kSteps)},
                 seconds, floor, 1));
  }
  return rows;
}

std::vector<Row> time_prompt(Context& context, const Benchmark& self) {
  constexpr int64_t kTokens = 8192;
  Device& device = context.any_device();
  std::vector<int64_t> prompt(kTokens);
  for (size_t i = 0; i < prompt.size(); ++i) prompt[i] = static_cast<int64_t>(i * 97 % kVocab);
  const Batch batch = {device.upload(prompt, {kTokens}),
                       make_sequences(device, {kTokens}, {0}, {0}),
                       device.upload(std::vector<int64_t>{kTokens - 1}, {1})};
  std::vector<Row> rows;
  for (const bool fast : {false, true}) {  // as in gpu.scan
    const LanguageModel model(device, config_of_name(self), DType::bf16,
                              quick_weights(device, fast ? 0.5 : 0.01));
    State state = model.make_state(1);
    const double seconds = least_seconds({[&] {
      Tape tape(device, false);
      model.forward(tape, batch, &state);
      device.synchronize();
    }})[0];
    rows.push_back(make_row(fmt::format("{}.{}", self.name, fast ? "fast" : "slow"),
                            {Measure::Kind::time, "ms", 1e-3}, seconds,
                            context.floor_seconds(work_of(model, state, kTokens, 1)), 1));
  }
  return rows;
}

// Every token as likely as any other.
class DrawnTokens final : public TokenSource {
 public:
  int64_t vocab_size() const override { return kVocab; }
  std::string description() const override { return "drawn tokens"; }
  void check_length(int64_t) const override {}
  TokenBatch training_batch(int64_t step, int64_t first, int64_t count,
                            int64_t length) const override {
    TokenBatch batch;
    batch.lengths.assign(static_cast<size_t>(count), length);
    for (int64_t s = first; s < first + count; ++s) {
      Random random(static_cast<uint64_t>(step * 1'000'000 + s));
      int64_t token = random.below(kVocab);
      for (int64_t t = 0; t < length; ++t) {
        batch.tokens.push_back(token);
        batch.targets.push_back(token = random.below(kVocab));
      }
    }
    return batch;
  }
  int64_t held_out_batches(int64_t) const override { return 0; }
  TokenBatch held_out_batch(int64_t, int64_t) const override { return {}; }
};

GpuWork training_work(const LanguageModel& model, double tokens) {
  const ModelConfig& config = model.config();
  const TokenWork token = token_work(config);
  const double scans =
      scan_special_functions(config.d_state, true) + scan_special_functions(config.d_state, false);
  // Every linear map runs thrice: forward, for its input's gradient, for its weight's. The
  // optimizer reads a weight, its gradient and two moments, and writes three of them.
  return {
      .bytes = 7 * bytes_of(model),
      .multiplications = 3 * tokens * (token.layers + token.head),
      .special_functions = tokens * static_cast<double>(config.n_layers * config.d_inner) * scans};
}

template <int64_t kSequences>
std::vector<Row> time_training(Context& context, const Benchmark& self) {
  Device& device = context.any_device();
  device.pool().trim();
  const LanguageModel model(device, config_of_name(self), DType::bf16, /*seed=*/0);
  TrainConfig config;
  config.steps = 1'000'000;  // more than are timed
  config.length = 2048;
  config.batch_tokens = kSequences * config.length;
  const DrawnTokens tokens;
  Trainer trainer(model, tokens, config);
  const double seconds = least_seconds({[&] { trainer.step(); }})[0];
  const auto count = static_cast<double>(config.batch_tokens);
  std::vector<Row> rows = {make_row(std::string(self.name),
                                    {Measure::Kind::rate, "tokens/s", count}, seconds,
                                    context.floor_seconds(training_work(model, count)), 1)};
  rows.push_back(make_row(fmt::format("{}.memory", self.name), kGigabytes,
                          static_cast<double>(device.pool().bytes_held()), NAN, 1));
  return rows;
}

constexpr std::string_view kWork =
    "bytes of weights and states, products or the scan's special functions, the longest";

constexpr Benchmark kBenchmarks[] = {
    {"gpu.decode.130m",
     "decoding with mamba-130m on a GPU, bf16, batch 1: greedy, and with top_k and top_p", kWork,
     time_decoding},
    {"gpu.decode.2.8b", "the same with mamba-2.8b", "the same", time_decoding},
    {"gpu.batches.130m",
     "greedy decoding of 4, 64 and 256 sequences side by side, mamba-130m, bf16", kWork,
     time_batches},
    {"gpu.batches.2.8b", "the same with mamba-2.8b", "the same", time_batches},
    {"gpu.prefill.130m", "reading 8192 tokens with mamba-130m in one pass, bf16, slow and fast",
     "the same", time_prompt},
    {"gpu.prefill.2.8b", "the same with mamba-2.8b", "the same", time_prompt},
    {"gpu.train.130m", "training step of mamba-130m, 16 sequences of 2048 tokens, bf16; memory",
     "the same, forward and backward, and the optimizer's bytes", time_training<16>},
    {"gpu.train.370m", "the same with mamba-370m, 8 sequences",
     "the same, forward and backward, and the optimizer's bytes", time_training<8>},
};

}  // namespace

std::span<const Benchmark> gpu_model_benchmarks() { return kBenchmarks; }

}  // namespace elapse::bench
