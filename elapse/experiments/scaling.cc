// SPDX-License-Identifier: Apache-2.0
#include "elapse/experiments/scaling.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "elapse/data/text_data.h"
#include "elapse/experiments/spread.h"
#include "elapse/model/mixer_form.h"

namespace elapse {
namespace {

constexpr int64_t kClasses = 256;  // bytes

// The family's: attention is Transformer++.
ModelConfig family_model(MixerKind mixer, int64_t d_model, int64_t n_layers) {
  if (mixer == MixerKind::attention) {
    return ModelConfig::transformer_plus_plus(d_model, n_layers, kClasses);
  }
  return ModelConfig::of(mixer, d_model, n_layers, kClasses);
}

// Of the layers alone.
int64_t parameters_of(const ModelConfig& config) {
  return config.parameter_count() - config.vocab() * config.d_model;
}

double mixing_operations(const ModelConfig& c, int64_t length) {
  if (c.mixer == MixerKind::attention) {
    const auto width = static_cast<double>(c.d_inner);
    return static_cast<double>(c.n_layers) * 2 * 2 * width * static_cast<double>(length) / 2;
  }
  if (c.mixer == MixerKind::hyena) {
    const double transform = 2.5 * 2 * std::log2(2 * static_cast<double>(length));  // for a token
    return 2 * transform * static_cast<double>(c.n_layers * c.d_model);
  }
  double numbers = 0;
  for (int64_t layer = 0; layer < c.n_layers; ++layer) {
    numbers += static_cast<double>(form_of(c.mixer).state_size(c, layer));
  }
  return 6 * numbers;
}

std::string column(double operations) { return fmt::format("{:.1e} operations", operations); }

// What Mamba of this size trains with.
double operations_of(const ScalingSettings& s, const ScalingSettings::Size& size) {
  const ModelConfig mamba =
      ModelConfig::of(MixerKind::mamba, size.d_model, size.n_layers, kClasses);
  return training_operations(mamba, s.train.length) * s.tokens_per_parameter *
         static_cast<double>(mamba.parameter_count());
}

// `operations`, in whole steps.
TrainConfig training(const ScalingSettings& s, const ModelConfig& model, double operations) {
  TrainConfig train = s.train;
  const double a_step =
      training_operations(model, train.length) * static_cast<double>(train.batch_tokens);
  train.steps =
      std::max<int64_t>(2 * train.schedule.warmup_steps, std::llround(operations / a_step));
  return train;
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
      const ModelConfig model = scaled_model(mixer, size.d_model, parameters);
      list.push_back({.name = fmt::format("{}-{}", name_of(mixer), size.d_model),
                      .row = std::string(title_of(mixer)),
                      .column = column(operations),
                      .model = model,
                      .train = training(s, model, operations),
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

double training_operations(const ModelConfig& config, int64_t length) {
  double weights = config.tied_head ? static_cast<double>(config.vocab() * config.d_model) : 0;
  config.for_each_parameter([&](const std::string& name, const Shape& shape) {
    const bool of_filter = name.find(".filter_fn.") != name.npos;
    if (shape.rank() >= 2 && !of_filter && !name.ends_with("embedding.weight")) {
      weights += static_cast<double>(shape.numel());
    }
  });
  return 3 * (2 * weights + mixing_operations(config, length));
}

ModelConfig scaled_model(MixerKind mixer, int64_t d_model, int64_t parameters) {
  const auto with_layers = [&](int64_t n_layers) { return family_model(mixer, d_model, n_layers); };
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

ScalingResult run_scaling(Device& device, const ScalingSettings& settings,
                          const std::string& folder, const OnExperimentProgress& progress) {
  ScalingResult result;
  for (const ScalingSettings::Size& size : settings.sizes) {
    result.operations.push_back(operations_of(settings, size));
  }
  result.comparison = compare(device, models(settings), settings.seeds, folder, progress);
  return result;
}

}  // namespace elapse
