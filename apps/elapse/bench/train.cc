// SPDX-License-Identifier: Apache-2.0
#include "apps/elapse/bench/benchmark.h"
#include "apps/elapse/bench/models.h"
#include "apps/elapse/bench/scan.h"
#include "apps/elapse/bench/ssd.h"
#include "elapse/core/random.h"
#include "elapse/data/induction.h"
#include "elapse/data/text_data.h"
#include "elapse/text/byte_tokenizer.h"
#include "elapse/train/trainer.h"

namespace elapse::bench {
namespace {

constexpr int64_t kLength = 256, kBatchTokens = 8 * kLength;

// One training run of each device, all steps on sequences of one length.
class Run {
 public:
  Run(Device& device, const ModelConfig& config, const TokenSource& source)
      : model_(device, config, DType::f32, /*seed=*/0), trainer_(model_, source, settings()) {}

  void step() { trainer_.step(); }

 private:
  static TrainConfig settings() {
    TrainConfig config;
    config.steps = 1'000'000;  // more than are timed
    config.batch_tokens = kBatchTokens;
    config.length = kLength;
    return config;
  }

  LanguageModel model_;
  Trainer trainer_;
};

// Every linear map runs thrice: forward, for its input's gradient, for its weight's.
Work step_work(const ModelConfig& config, int64_t predicted_tokens) {
  const TokenWork token = token_work(config);
  const double per_state = is_linear_attention(config.mixer)
                               ? kSsdForwardPerState + kSsdBackwardPerState
                               : kScanForwardPerState + kScanBackwardPerState;
  const double scan = token.states * per_state;
  const double tokens = static_cast<double>(kBatchTokens);
  const double predicted = static_cast<double>(predicted_tokens);
  return {.multiplications = tokens * (3 * token.layers + scan) + predicted * 3 * token.head};
}

std::vector<Row> time_steps(Context& context, const Benchmark& self, const ModelConfig& config,
                            const TokenSource& source, int64_t predicted_tokens) {
  std::vector<std::unique_ptr<Run>> runs;
  std::vector<std::function<void()>> calls;
  for (size_t i = 0; i < context.size(); ++i) {
    runs.push_back(std::make_unique<Run>(context.device(i), config, source));
    calls.push_back([&run = *runs.back()] { run.step(); });
  }
  const Measure milliseconds{Measure::Kind::time, "ms/step", 1e-3};
  return make_rows(context, self, milliseconds, step_work(config, predicted_tokens),
                   least_seconds(calls));
}

std::vector<Row> time_induction(Context& context, const Benchmark& self) {
  const InductionTask task(/*seed=*/0, InductionTask::Loss::last_token);
  return time_steps(context, self, induction_model(), task, kBatchTokens / kLength);
}

TextData random_text() {
  std::string bytes(1 << 16, ' ');
  Random random(0);
  for (char& byte : bytes) byte = static_cast<char>(random.below(ByteTokenizer::kVocabSize));
  return TextData(std::move(bytes), "random text", /*seed=*/0);
}

std::vector<Row> time_mamba_256x4(Context& context, const Benchmark& self) {
  return time_steps(context, self, mamba_256x4(), random_text(), kBatchTokens);
}

// "train.lstm-256x4"
std::vector<Row> time_baseline_256x4(Context& context, const Benchmark& self) {
  const size_t begin = self.name.find('.') + 1;
  const MixerKind mixer = mixer_named(self.name.substr(begin, self.name.find('-') - begin));
  return time_steps(context, self, baseline_256x4(mixer), random_text(), kBatchTokens);
}

constexpr std::string_view kFloor =
    "multiplications of linear maps, and of states if there are any, forward and backward";

constexpr Benchmark kBenchmarks[] = {
    {"train.induction", "step of d_model 64 x 2 layers, vocabulary 16, 8 sequences of 256", kFloor,
     time_induction},
    {"train.mamba-256x4", "step of d_model 256 x 4 layers, vocabulary 256, 8 sequences of 256",
     kFloor, time_mamba_256x4},
    {"train.rnn-256x4", "the same with recurrent cells, tanh", kFloor, time_baseline_256x4},
    {"train.lstm-256x4", "the same, LSTM", kFloor, time_baseline_256x4},
    {"train.gru-256x4", "the same, GRU", kFloor, time_baseline_256x4},
    {"train.attention-256x4", "the same, Transformer++", kFloor, time_baseline_256x4},
    {"train.s4d-256x4", "the same with S4D, 32 complex states a channel", kFloor,
     time_baseline_256x4},
    {"train.linear_attention-256x4", "the same with linear attention, 4 heads of 64", kFloor,
     time_baseline_256x4},
    {"train.retnet-256x4", "the same, RetNet, values of 128", kFloor, time_baseline_256x4},
    {"train.gla-256x4", "the same, GLA, keys of 32 and values of 64", kFloor, time_baseline_256x4},
    {"train.wavenet-256x4", "the same with convolutions of dilation 1, 2, 4, 8", kFloor,
     time_baseline_256x4},
    {"train.hyena-256x4", "the same, Hyena", kFloor, time_baseline_256x4},
};

}  // namespace

std::span<const Benchmark> train_benchmarks() { return kBenchmarks; }

}  // namespace elapse::bench
