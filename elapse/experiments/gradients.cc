// SPDX-License-Identifier: Apache-2.0
#include "elapse/experiments/gradients.h"

#include <cmath>

#include "elapse/data/induction.h"
#include "elapse/experiments/spread.h"
#include "elapse/experiments/task_model.h"
#include "elapse/interpret/runs.h"
#include "elapse/model/checkpoint.h"

namespace elapse {
namespace {

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

// What every layer remembers, by the sequences' slots.
std::vector<Var> parts_of(const State& state) {
  std::vector<Var> parts;
  for (const LayerState& layer : state.layers()) {
    for (const StatePart& part : layer.parts) parts.push_back(part.pool);
  }
  return parts;
}

// Of the gradients that `tape` has brought to the parts so far: of all parts together, the median
// over sequences.
double gradient_norm(Tape& tape, const std::vector<Var>& parts, int64_t sequences) {
  std::vector<double> squares(static_cast<size_t>(sequences));
  for (const Var& part : parts) {
    const std::vector<double> values = host_values(tape.device(), tape.accumulated_grad(part));
    const size_t of_a_slot = values.size() / squares.size();
    for (size_t i = 0; i < values.size(); ++i) squares[i / of_a_slot] += values[i] * values[i];
  }
  for (double& square : squares) square = std::sqrt(square);
  return spread_of(squares).median;
}

// Token t of every sequence, from its slot to its slot.
Batch tokens_at(Device& device, const TokenBatch& all, int64_t t) {
  std::vector<int64_t> tokens, slots;
  int64_t begin = 0;
  for (const int64_t length : all.lengths) {
    tokens.push_back(all.tokens[static_cast<size_t>(begin + t)]);
    slots.push_back(std::ssize(slots));
    begin += length;
  }
  const std::vector<int64_t> ones(tokens.size(), 1);
  return {
      device.upload(tokens, {std::ssize(tokens)}), make_sequences(device, ones, slots, slots), {}};
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

bool has_state_gradients(MixerKind mixer) {
  return ModelConfig::of(mixer, 64, 1, 2).state_bytes_per_token() == 0;
}

double GradientReach::share(int64_t k) const {
  return norms.at(static_cast<size_t>(k - 1)) / norms.front();
}

std::optional<int64_t> GradientReach::reach(double least) const {
  int64_t k = std::ssize(norms) + 1;
  while (k > 1 && share(k - 1) <= least) --k;
  if (k > std::ssize(norms)) return std::nullopt;
  return k;
}

// A state's gradient travels backwards in place: before the steps of a token are replayed it is
// that of the state after the token, then that of the state before it.
std::vector<double> gradient_norms(const LanguageModel& model, const TokenSource& task,
                                   int64_t length, int64_t sequences) {
  Device& device = model.device();
  const TokenBatch batch = held_out(task, length, sequences);
  State state = model.make_state(sequences, true);
  const std::vector<Var> parts = parts_of(state);
  Tape tape(device);
  std::vector<double> norms;
  Var logits;
  for (int64_t t = 0; t < length; ++t) {
    tape.record(parts, [&] { norms.push_back(gradient_norm(tape, parts, sequences)); });
    logits = model.forward(tape, tokens_at(device, batch, t), &state);
  }
  const Var loss = cross_entropy(tape, logits, device.upload(batch.targets, {sequences}));
  tape.backward(loss, static_cast<double>(sequences));  // of each sequence's own loss
  return norms;
}

GradientsResult run_gradients(Device& device, const GradientsSettings& settings,
                              const std::string& folder, const OnExperimentProgress& progress) {
  for (const MixerKind mixer : settings.mixers) {
    ELAPSE_CHECK(has_state_gradients(mixer),
                 "gradients: expected mixers whose state has a constant size, found {}",
                 name_of(mixer));
  }
  GradientsResult result;
  result.training =
      compare(device, settings.activations, trainings(settings), settings.seeds, folder, progress);
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
      measure(LanguageModel(device, config, settings.activations, seed), mixer, Stage::untrained,
              seed, NAN);
      for (const Stage stage : {Stage::direct, Stage::short_first}) {
        const ComparedRuns& runs =
            result.training.models[2 * m + (stage == Stage::short_first ? 1 : 0)];
        const RunResult& run = runs.runs[static_cast<size_t>(i)];
        if (run.diverged) continue;
        const auto model =
            load_model(device, run_folder(folder, run_name(run_title(mixer, stage), seed)),
                       settings.activations, WeightMemory::trained);
        measure(*model, mixer, stage, seed, accuracy_percent(run));
      }
    }
    progress({"gradients", static_cast<int64_t>(m) + 1, std::ssize(settings.mixers), ""});
  }
  return result;
}

}  // namespace elapse
