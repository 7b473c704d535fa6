// SPDX-License-Identifier: Apache-2.0
#include "elapse/experiments/gradients.h"

#include <cmath>

#include "elapse/data/induction.h"
#include "elapse/experiments/spread.h"
#include "elapse/experiments/task_model.h"
#include "elapse/interpret/runs.h"
#include "elapse/model/checkpoint.h"
#include "elapse/train/predict.h"

namespace elapse {
namespace {

// What the model's layers remember from token to token.
std::vector<std::string> state_points(const LanguageModel& model) {
  std::vector<std::string> names;
  for (const PointInfo& point : model.points()) {
    if (point.name.ends_with(".mixer.h") || point.name.ends_with(".mixer.c")) {
      names.push_back(point.name);
    }
  }
  return names;
}

// The first `count` of held-out sequences that all have this length.
TokenBatch held_out(const TokenSource& task, int64_t length, int64_t count) {
  TokenBatch batch;
  for (int64_t i = 0; std::ssize(batch.lengths) < count; ++i) {
    ELAPSE_CHECK(i < task.held_out_batches(length), "expected {} held-out sequences, found {}",
                 count, batch.lengths.size());
    const TokenBatch more = task.held_out_batch(i, length);
    const auto wanted =
        std::min<int64_t>(count - std::ssize(batch.lengths), std::ssize(more.lengths));
    const int64_t before = std::ssize(batch.tokens);
    batch.tokens.insert(batch.tokens.end(), more.tokens.begin(),
                        more.tokens.begin() + wanted * length);
    batch.lengths.insert(batch.lengths.end(), static_cast<size_t>(wanted), length);
    for (int64_t s = 0; s < wanted; ++s) {
      batch.logit_rows.push_back(before + (s + 1) * length - 1);
      batch.targets.push_back(more.targets[static_cast<size_t>(s)]);
    }
  }
  return batch;
}

std::string run_title(MixerKind mixer, Stage stage) {
  return fmt::format("{}-{}", name_of(mixer), stage == Stage::direct ? "direct" : "short-first");
}

std::vector<ComparedModel> trainings(const GradientsSettings& s) {
  std::vector<ComparedModel> models;
  for (const MixerKind mixer : s.mixers) {
    for (const Stage stage : {Stage::direct, Stage::short_first}) {
      models.push_back(
          {.name = run_title(mixer, stage),
           .row = std::string(title_of(mixer)),
           .column = std::string(name_of(stage)),
           .model = task_model(mixer, s.d_model, s.n_layers, InductionTask::kVocabSize, s.length),
           .train = stage == Stage::direct ? s.direct : s.short_first,
           .source =
               [](uint64_t seed) {
                 return std::make_shared<InductionTask>(seed, InductionTask::Loss::last_token);
               },
           .tests = held_out_tests(s.length)});
    }
  }
  return models;
}

TrainConfig training(int64_t steps) {
  TrainConfig config;
  config.batch_tokens = 8192;
  config.length = 256;
  config.steps = steps;
  config.schedule = {
      .kind = Schedule::Kind::cosine, .peak_lr = 2e-3, .min_lr = 2e-4, .warmup_steps = 50};
  config.adamw = {.beta2 = 0.999, .weight_decay = 0};
  return config;
}

GradientsSettings settings_of(int64_t steps) {
  GradientsSettings s;
  s.mixers = {MixerKind::rnn, MixerKind::lstm, MixerKind::s4d, MixerKind::mamba};
  s.direct = s.short_first = training(steps);
  s.short_first.curriculum = {{16, steps * 2 / 5}, {64, steps / 5}};
  return s;
}

}  // namespace

GradientsSettings GradientsSettings::quick() { return settings_of(500); }
GradientsSettings GradientsSettings::full() { return settings_of(5000); }

std::string_view name_of(Stage stage) {
  constexpr std::string_view kNames[] = {"untrained", "trained at this length",
                                         "short sequences first"};
  return kNames[static_cast<size_t>(stage)];
}

double GradientReach::share(int64_t k) const {
  return norms.at(static_cast<size_t>(k)) / norms.front();
}

int64_t GradientReach::reach(double least) const {
  int64_t k = std::ssize(norms);
  while (k > 0 && share(k - 1) <= least) --k;
  return k;
}

std::vector<double> gradient_norms(const LanguageModel& model, const TokenSource& task,
                                   int64_t length, int64_t sequences) {
  Device& device = model.device();
  Points points;
  const std::vector<std::string> names = state_points(model);
  ELAPSE_CHECK(!names.empty(), "{} mixers remember nothing that is a point",
               name_of(model.config().mixer));
  for (const std::string& name : names) points.watch_gradient(name);
  Tape tape(device);
  const Var loss = predict(tape, model, held_out(task, length, sequences), &points).loss;
  tape.backward(loss, static_cast<double>(sequences));  // of each sequence's own loss
  std::vector<double> squares(static_cast<size_t>(sequences * length));
  for (const std::string& name : names) {
    const std::vector<double> values = host_values(device, points.gradient(name));
    const size_t row = values.size() / squares.size();
    for (size_t i = 0; i < values.size(); ++i) squares[i / row] += values[i] * values[i];
  }
  std::vector<double> norms;
  for (int64_t k = 0; k < length; ++k) {
    std::vector<double> over_sequences;
    for (int64_t s = 0; s < sequences; ++s) {
      over_sequences.push_back(std::sqrt(squares[static_cast<size_t>((s + 1) * length - 1 - k)]));
    }
    norms.push_back(spread_of(over_sequences).median);
  }
  return norms;
}

GradientsResult run_gradients(Device& device, const GradientsSettings& settings,
                              const std::string& folder, const OnExperimentProgress& progress) {
  GradientsResult result;
  result.training = compare(device, trainings(settings), settings.seeds, folder, progress);
  const auto measure = [&](const LanguageModel& model, MixerKind mixer, Stage stage, uint64_t seed,
                           double accuracy) {
    const InductionTask task(seed, InductionTask::Loss::last_token);
    result.models.push_back({mixer, stage, seed, accuracy,
                             gradient_norms(model, task, settings.length, settings.sequences)});
  };
  for (size_t m = 0; m < settings.mixers.size(); ++m) {
    const MixerKind mixer = settings.mixers[m];
    for (int64_t i = 0; i < settings.seeds.count; ++i) {
      const uint64_t seed = settings.seeds.first + static_cast<uint64_t>(i);
      const ModelConfig config = task_model(mixer, settings.d_model, settings.n_layers,
                                            InductionTask::kVocabSize, settings.length);
      measure(LanguageModel(device, config, DType::f32, seed), mixer, Stage::untrained, seed, NAN);
      for (const Stage stage : {Stage::direct, Stage::short_first}) {
        const ComparedRuns& runs =
            result.training.models[2 * m + (stage == Stage::short_first ? 1 : 0)];
        const RunResult& run = runs.runs[static_cast<size_t>(i)];
        if (run.diverged) continue;
        const auto model =
            load_model(device, run_folder(folder, run_name(run_title(mixer, stage), seed)),
                       DType::f32, WeightMemory::trained);
        measure(*model, mixer, stage, seed, accuracy_percent(run));
      }
    }
    progress({"gradients", static_cast<int64_t>(m) + 1, std::ssize(settings.mixers), ""});
  }
  return result;
}

}  // namespace elapse
