// SPDX-License-Identifier: Apache-2.0
#include "elapse/experiments/scaling.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "elapse/data/text_data.h"
#include "elapse/experiments/task_model.h"
#include "elapse/model/mixer_form.h"

namespace elapse {
namespace {

constexpr int64_t kClasses = 256;  // bytes

// The family's: attention is Transformer++.
ModelConfig family_model(MixerKind mixer, int64_t d_model, int64_t n_layers, int64_t length) {
  ModelConfig model = with_heads(mixer, d_model, n_layers, kClasses);
  if (mixer == MixerKind::attention) {
    model.d_intermediate =
        ModelConfig::transformer_plus_plus(d_model, n_layers, kClasses).d_intermediate;
  }
  if (mixer == MixerKind::hyena) model.l_max = length;
  return model;
}

// Of the layers alone.
int64_t parameters_of(const ModelConfig& config) {
  return config.parameter_count() - config.vocab() * config.d_model;
}

// Whether tokens are multiplied by it: linear maps have names as PyTorch gives them, in cells
// "weight_ih_l0". Hyena's filter_fn takes lags.
bool is_linear_map(const std::string& name, const Shape& shape) {
  const std::string last = name.substr(name.rfind('.') + 1);
  return shape.rank() == 2 && (last == "weight" || last.starts_with("weight_")) &&
         !name.ends_with("embedding.weight") && !name.ends_with("positions.weight") &&
         name.find(".filter_fn.") == name.npos;
}

StepShape step_of(const TrainConfig& train) {
  return {train.length, train.sequences(train.length)};
}

std::string column(double operations) { return fmt::format("{:.1e} operations", operations); }

// What Mamba of this size trains with.
double operations_of(const ScalingSettings& s, const ScalingSettings::Size& size) {
  const ModelConfig mamba =
      ModelConfig::of(MixerKind::mamba, size.d_model, size.n_layers, kClasses);
  return training_operations(mamba, step_of(s.train)) * s.tokens_per_parameter *
         static_cast<double>(mamba.parameter_count());
}

std::vector<ComparedModel> models(const ScalingSettings& s) {
  std::map<uint64_t, std::shared_ptr<const TokenSource>> texts;
  for (const uint64_t seed : s.seeds.all()) {
    texts.emplace(seed, std::make_shared<TextData>(s.text, s.text_name, seed));
  }
  std::vector<ComparedModel> list;
  for (const ScalingSettings::Size& size : s.sizes) {
    const int64_t parameters =
        parameters_of(ModelConfig::of(MixerKind::mamba, size.d_model, size.n_layers, kClasses));
    const double operations = operations_of(s, size);
    for (const MixerKind mixer : s.mixers) {
      const ModelConfig model = scaled_model(mixer, size.d_model, parameters, s.train.length);
      TrainConfig train = s.train;
      train.steps = scaled_steps(s, model, operations);
      list.push_back({.name = fmt::format("{}-{}", name_of(mixer), size.d_model),
                      .row = std::string(title_of(mixer)),
                      .column = column(operations),
                      .model = model,
                      .train = train,
                      .source = [texts](uint64_t seed) { return texts.at(seed); },
                      .tests = held_out_tests(s.train.length)});
    }
  }
  return list;
}

}  // namespace

ScalingSettings ScalingSettings::quick() {
  ScalingSettings s;
  s.mixers = {MixerKind::mamba, MixerKind::attention, MixerKind::lstm, MixerKind::s4d,
              MixerKind::h3};
  s.sizes = {{32, 4}, {48, 4}, {64, 4}, {96, 4}};
  s.tokens_per_parameter = 10;
  s.train.batch_tokens = 2048;
  s.train.length = 256;
  s.train.schedule = {
      .kind = Schedule::Kind::cosine, .peak_lr = 3e-3, .min_lr = 3e-4, .warmup_steps = 50};
  s.train.adamw = {.beta2 = 0.95, .weight_decay = 0.1};
  return s;
}

ScalingSettings ScalingSettings::full() {
  ScalingSettings s = quick();
  s.sizes = {{64, 4}, {128, 6}, {192, 8}, {256, 12}, {384, 16}};
  s.tokens_per_parameter = 20;
  s.train.batch_tokens = 16384;
  s.train.length = 1024;
  return s;
}

double training_operations(const ModelConfig& config, const StepShape& step) {
  double forward = config.tied_head ? static_cast<double>(2 * config.vocab() * config.d_model) : 0;
  config.for_each_parameter([&](const std::string& name, const Shape& shape) {
    if (is_linear_map(name, shape)) forward += static_cast<double>(2 * shape.numel());
  });
  forward +=
      static_cast<double>(config.n_layers) * form_of(config.mixer).mixing_operations(config, step);
  return 3 * forward;
}

ModelConfig scaled_model(MixerKind mixer, int64_t d_model, int64_t parameters, int64_t length) {
  const auto with_layers = [&](int64_t n_layers) {
    return family_model(mixer, d_model, n_layers, length);
  };
  ModelConfig nearest = with_layers(1);
  for (int64_t n_layers = 2;; ++n_layers) {
    const ModelConfig next = with_layers(n_layers);
    if (std::abs(parameters_of(next) - parameters) >
        std::abs(parameters_of(nearest) - parameters)) {
      return nearest;
    }
    nearest = next;
  }
}

int64_t scaled_steps(const ScalingSettings& settings, const ModelConfig& model, double operations) {
  const TrainConfig& train = settings.train;
  const double a_step =
      training_operations(model, step_of(train)) * static_cast<double>(train.batch_tokens);
  const int64_t steps = std::llround(operations / a_step), warmup = train.schedule.warmup_steps;
  ELAPSE_CHECK(steps >= 2 * warmup,
               "scaling: {:.1e} operations are {} steps of {} tokens for {}, {} layers of d_model "
               "{}: expected twice the warm-up of {} or more; take fewer tokens a step, more "
               "tokens a parameter or a shorter warm-up",
               operations, steps, train.batch_tokens, title_of(model.mixer), model.n_layers,
               model.d_model, warmup);
  return steps;
}

ScalingResult run_scaling(Device& device, const ScalingSettings& settings,
                          const std::string& folder, const OnExperimentProgress& progress) {
  ScalingResult result;
  for (const ScalingSettings::Size& size : settings.sizes) {
    result.operations.push_back(operations_of(settings, size));
  }
  result.comparison =
      compare(device, settings.activations, models(settings), settings.seeds, folder, progress);
  return result;
}

}  // namespace elapse
