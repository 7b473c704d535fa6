// SPDX-License-Identifier: Apache-2.0
#include "elapse/experiments/induction.h"

#include <algorithm>
#include <limits>

#include "elapse/data/induction.h"
#include "elapse/experiments/recall.h"
#include "elapse/experiments/task_model.h"
#include "elapse/model/checkpoint.h"

namespace elapse {
namespace {

std::vector<InductionSettings::Test> tests_up_to(int64_t log2_length) {
  std::vector<InductionSettings::Test> tests;
  for (int64_t k = 6; k <= log2_length; ++k) tests.push_back({int64_t{1} << k, k <= 16 ? 64 : 16});
  return tests;
}

Evaluation test_at(const LanguageModel& model, const TokenSource& task,
                   const InductionSettings::Test& test, const OnExperimentProgress& progress) {
  const std::string stage = fmt::format("test at {}", test.length);
  const int64_t tokens = test.length * test.sequences;
  const int64_t right = count_recalled(model, task, test.length, test.sequences, [&](double share) {
    progress({stage, static_cast<int64_t>(share * static_cast<double>(tokens)), tokens, ""});
  });
  progress({stage, tokens, tokens, fmt::format("{} of {} right", right, test.sequences)});
  return {.loss = std::numeric_limits<double>::quiet_NaN(),
          .accuracy = static_cast<double>(right) / static_cast<double>(test.sequences),
          .targets = test.sequences,
          .length = test.length};
}

RunTests tests_of(const InductionSettings& settings) {
  std::string what;
  for (const auto& [length, sequences] : settings.tests) {
    what += fmt::format("{}{} of {}", what.empty() ? "" : ", ", sequences, length);
  }
  return {what, std::ssize(settings.tests),
          [tests = settings.tests](const LanguageModel& model, const TokenSource& task,
                                   const OnExperimentProgress& progress) {
            std::vector<Evaluation> rows;
            for (const auto& test : tests) rows.push_back(test_at(model, task, test, progress));
            return rows;
          }};
}

std::shared_ptr<const InductionTask> task_of(uint64_t seed) {
  return std::make_shared<InductionTask>(seed, InductionTask::Loss::last_token);
}

Settings all_settings(const InductionSettings& s, const ModelConfig& model) {
  Settings all = run_settings(s.train, model, task_of(1)->description());
  all.emplace_back("tests", tests_of(s).what);
  return all;
}

constexpr int64_t kPublishedLength = 256;  // of the sequences trained on

// Tokens, of models whose work for a sequence grows with the square of its length.
constexpr int64_t kLongestTest = int64_t{1} << 14, kLongestTrained = 4096;

// Where the work of a sequence grows with the square of its length, lengths end where the published
// tests of attention do, and training on the longest is left out. A model of bounded reach trains
// on sequences that it sees the whole of.
InductionSettings suited(InductionSettings settings, const ModelConfig& model) {
  if (has_reach(model.mixer)) {
    // Hyena's as long as its filter is, what one layer sees.
    const int64_t reach = model.mixer == MixerKind::hyena ? model.l_max : reach_of(model);
    settings.train.length = std::min(settings.train.length, reach);
    for (Phase& phase : settings.train.curriculum) phase.length = std::min(phase.length, reach);
  }
  if (model.state_bytes_per_token() == 0) return settings;
  std::erase_if(settings.tests, [](const auto& test) { return test.length > kLongestTest; });
  for (const Phase& phase : settings.train.curriculum) {
    if (phase.length > kLongestTrained) settings.train.steps -= phase.steps;
  }
  std::erase_if(settings.train.curriculum,
                [](const Phase& phase) { return phase.length > kLongestTrained; });
  return settings;
}

std::vector<ComparedModel> models(const InductionSettings& all) {
  std::vector<ComparedModel> list;
  for (const ModelConfig& model : all.models) {
    const InductionSettings settings = suited(all, model);
    list.push_back({.name = std::string(name_of(model.mixer)),
                    .row = std::string(title_of(model.mixer)),
                    .column = "induction heads",
                    .model = model,
                    .train = settings.train,
                    .source = task_of,
                    .tests = tests_of(settings)});
  }
  return list;
}

// The channel that opens most at token `at`, against its mean over the sequence.
int64_t most_selective_channel(const std::vector<float>& dt, int64_t d_inner, int64_t at) {
  const int64_t len = std::ssize(dt) / d_inner;
  std::vector<double> share(static_cast<size_t>(d_inner));
  for (int64_t e = 0; e < d_inner; ++e) {
    double sum = 0;
    for (int64_t t = 0; t < len; ++t) sum += dt[static_cast<size_t>(t * d_inner + e)];
    share[static_cast<size_t>(e)] = dt[static_cast<size_t>(at * d_inner + e)] / sum;
  }
  return std::max_element(share.begin(), share.end()) - share.begin();
}

// One layer's dt over the tokens: (len, d_inner) read from the device.
InductionResult::StepSizes step_sizes_of(Device& device, const Tensor& dt, int64_t layer,
                                         int64_t answer_at) {
  const int64_t len = dt.dim(0), d_inner = dt.dim(1);
  std::vector<float> values(static_cast<size_t>(dt.numel()));
  device.download_bytes(dt, values.data());
  InductionResult::StepSizes sizes;
  sizes.layer = layer;
  sizes.channel = most_selective_channel(values, d_inner, answer_at);
  for (int64_t t = 0; t < len; ++t) {
    const auto row = values.begin() + t * d_inner;
    double sum = 0;
    for (int64_t e = 0; e < d_inner; ++e) sum += row[e];
    sizes.mean.push_back(sum / static_cast<double>(d_inner));
    sizes.selective.push_back(row[sizes.channel]);
  }
  return sizes;
}

// Watches dt while the model reads a held-out sequence whose prefix stands well inside.
void look_at_step_sizes(const LanguageModel& model, const InductionTask& task,
                        InductionResult& result) {
  constexpr int64_t kLength = 256;
  Device& device = model.device();
  const TokenBatch batch = task.held_out_batch(0, kLength);
  const auto prefix_of = [&](size_t s) {
    const auto begin = batch.tokens.begin() + static_cast<int64_t>(s) * kLength;
    return std::find(begin, begin + kLength, InductionTask::kPrefix) - begin;
  };
  size_t chosen = 0;
  while (chosen + 1 < batch.lengths.size() &&
         (prefix_of(chosen) < kLength / 4 || prefix_of(chosen) > kLength / 2)) {
    ++chosen;
  }
  result.prefix = prefix_of(chosen);
  const auto begin = batch.tokens.begin() + static_cast<int64_t>(chosen) * kLength;
  const std::vector<int64_t> tokens(begin, begin + kLength);
  Points points;
  for (int64_t l = 0; l < model.config().n_layers; ++l) {
    points.watch(fmt::format("layers.{}.mixer.dt", l));
  }
  Tape tape(device, false);
  model.forward(tape, {device.upload(tokens, {kLength}), make_sequences(device, {kLength}), {}},
                nullptr, &points);
  for (int64_t l = 0; l < model.config().n_layers; ++l) {
    const Tensor& dt = points.value(fmt::format("layers.{}.mixer.dt", l));
    result.step_sizes.push_back(step_sizes_of(device, dt, l, result.prefix + 1));
  }
}

// Of each token: S4D's and H3's dt are the same at all.
bool has_step_sizes(const LanguageModel& model) {
  const auto& points = model.points();
  return std::any_of(points.begin(), points.end(), [](const PointInfo& p) {
    return p.name == "layers.0.mixer.dt" && p.axis == PointInfo::Axis::token;
  });
}

std::string folder_of(const ModelConfig& model, const Seeds& seeds, const std::string& folder) {
  return run_folder(folder, run_name(std::string(name_of(model.mixer)), seeds.first));
}

}  // namespace

ModelConfig InductionSettings::model_of(MixerKind mixer) {
  return task_model(mixer, 64, 2, InductionTask::kVocabSize, kPublishedLength);
}

InductionSettings InductionSettings::quick() {
  InductionSettings s;
  s.models = {model_of(MixerKind::mamba)};
  // Short sequences teach what to look for within seconds, ever longer ones to keep the step size
  // shut at everything else; the last steps refresh the short ones at a falling learning rate.
  s.train.batch_tokens = 8192;
  s.train.curriculum = {{16, 150},    {64, 60},     {256, 100}, {1024, 100}, {4096, 100},
                        {16384, 400}, {32768, 200}, {4096, 50}, {1024, 50},  {64, 50}};
  s.train.length = 256;
  s.train.steps = 1350;
  s.train.schedule = {.kind = Schedule::Kind::warmup_stable_decay,
                      .peak_lr = 2e-3,
                      .min_lr = 2e-4,
                      .warmup_steps = 100,
                      .decay_steps = 400};
  s.train.adamw = {.beta2 = 0.999, .weight_decay = 0};
  s.tests = tests_up_to(20);
  return s;
}

InductionSettings InductionSettings::full() {
  InductionSettings s;
  s.models = {model_of(MixerKind::mamba)};
  s.train.batch_tokens = 2048;
  s.train.length = kPublishedLength;
  s.train.steps = 204800;
  s.train.schedule = {.peak_lr = 1e-3};
  s.train.adamw = {.beta2 = 0.999, .weight_decay = 0};
  s.tests = tests_up_to(20);
  return s;
}

int64_t longest_trained(const TrainConfig& train) {
  const std::vector<int64_t> lengths = train.lengths();
  return *std::max_element(lengths.begin(), lengths.end());
}

std::string InductionSettings::unlike_published() const {
  const InductionSettings published = full();
  for (const ModelConfig& model : models) {
    const std::string text =
        differences(all_settings(*this, model), all_settings(published, model_of(model.mixer)));
    if (!text.empty()) return fmt::format("Not the published run: {}.", text);
  }
  return "";
}

InductionResult run_induction(Device& device, const InductionSettings& settings,
                              const std::string& folder, const OnExperimentProgress& progress) {
  InductionResult result;
  result.comparison =
      compare(device, settings.activations, models(settings), settings.seeds, folder, progress);
  for (const ModelConfig& config : settings.models) {
    const ComparedRuns& runs =
        result.comparison.models[static_cast<size_t>(&config - settings.models.data())];
    if (runs.runs.front().diverged) continue;
    const auto model =
        load_model(device, folder_of(config, settings.seeds, folder), settings.activations);
    if (!has_step_sizes(*model)) continue;
    look_at_step_sizes(*model, *task_of(settings.seeds.first), result);
    result.looked_at = title_of(config.mixer);
    break;
  }
  return result;
}

std::string induction_model_folder(const InductionSettings& settings, const std::string& folder) {
  return folder_of(settings.models.front(), settings.seeds, folder);
}

}  // namespace elapse
