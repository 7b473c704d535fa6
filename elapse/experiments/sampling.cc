// SPDX-License-Identifier: Apache-2.0
#include "elapse/experiments/sampling.h"

#include <algorithm>
#include <chrono>
#include <filesystem>

#include "elapse/core/random.h"
#include "elapse/experiments/power_law.h"
#include "elapse/experiments/spread.h"
#include "elapse/experiments/task_model.h"
#include "elapse/generate/session.h"
#include "elapse/io/file.h"
#include "elapse/io/json.h"
#include "elapse/io/json_writer.h"
#include "elapse/train/predict.h"

namespace elapse {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kTimed = 33;  // tokens sampled at each position, and passes at most

double seconds_of(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// The median of several, after one that is not counted: fewer of long ones.
double median_seconds(const std::function<void()>& work) {
  constexpr double kEnough = 0.3;
  const double first = seconds_of(work);
  const auto times = std::clamp<int64_t>(static_cast<int64_t>(kEnough / first), 1, kTimed);
  std::vector<double> seconds;
  for (int64_t i = 0; i < times; ++i) seconds.push_back(seconds_of(work));
  return spread_of(seconds).median;
}

std::vector<int64_t> some_tokens(Random random, int64_t count, int64_t vocab_size) {
  std::vector<int64_t> tokens(static_cast<size_t>(count));
  for (int64_t& token : tokens) token = random.below(vocab_size);
  return tokens;
}

class Measuring {
 public:
  Measuring(Device& device, const SamplingSettings& settings, MixerKind mixer, uint64_t seed)
      : settings_(settings),
        model_(device, with_heads(mixer, settings.d_model, settings.n_layers, settings.vocab_size),
               settings.activations, seed),
        sampled_(device, model_.config(), settings.activations,
                 Parameters::Source{[this](const std::string& name, const Shape&,
                                           ParameterUse use) { return frozen(name, use); },
                                    /*needs_grad=*/false}),
        tokens_(some_tokens(Random(seed),
                            std::max(settings.positions.back(), settings.lengths.back()) + 1,
                            settings.vocab_size)) {}

  TokenCosts run(const OnExperimentProgress& progress) {
    TokenCosts costs;
    const int64_t stages = std::ssize(settings_.positions) + std::ssize(settings_.lengths);
    int64_t done = 0;
    Session session(sampled_);
    for (const int64_t position : settings_.positions) {
      costs.sampling.push_back(sample(session, position));
      progress({"measure", ++done, stages, fmt::format("a token after {}", position)});
    }
    for (const int64_t length : settings_.lengths) {
      costs.passes.push_back({length, reading(length), training(length)});
      progress({"measure", ++done, stages, fmt::format("sequences of {}", length)});
      model_.device().pool().trim();
    }
    return costs;
  }

 private:
  std::span<const int64_t> tokens(int64_t begin, int64_t end) const {
    return std::span(tokens_).subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin));
  }

  Tensor frozen(const std::string& name, ParameterUse use) const {
    const Tensor value = model_.parameters().find(name)->var.value();
    if (use != ParameterUse::matrix || settings_.activations == value.dtype()) return value;
    const Tensor rounded = model_.device().empty(settings_.activations, value.shape());
    copy(model_.device(), {value, rounded});
    return rounded;
  }

  // Of tokens each of which has `position` before it: the session is forked for each.
  TokenCosts::AtPosition sample(Session& session, int64_t position) const {
    session.prefill(tokens(session.position(), position));
    std::vector<double> seconds;
    for (int64_t i = 0; i < kTimed; ++i) {
      Session fork = session.fork();
      seconds.push_back(seconds_of([&] { fork.step(tokens_.back()); }));
    }
    return {position, spread_of(seconds).median, session.state_bytes()};
  }

  double reading(int64_t length) const {
    return median_seconds([&] { Session(sampled_).prefill(tokens(0, length)); });
  }

  double training(int64_t length) const {
    TokenBatch batch;
    batch.tokens.assign(tokens_.begin(), tokens_.begin() + length);
    batch.targets.assign(tokens_.begin() + 1, tokens_.begin() + length + 1);
    batch.lengths = {length};
    return median_seconds([&] {
      model_.parameters().zero_grad(model_.device());
      Tape tape(model_.device());
      tape.backward(predict_loss(tape, model_, batch));
    });
  }

  const SamplingSettings& settings_;
  LanguageModel model_;
  LanguageModel sampled_;  // of the same weights, frozen as those of files are that are sampled
  std::vector<int64_t> tokens_;
};

// What decides a measurement.
std::string setting_text(const SamplingSettings& s, const std::string& device) {
  return fmt::format("d_model {}, {} layers, {} classes, positions {}, lengths {}, {}", s.d_model,
                     s.n_layers, s.vocab_size, fmt::join(s.positions, " "),
                     fmt::join(s.lengths, " "), device);
}

void write_costs(const std::string& path, const std::string& setting, const TokenCosts& costs) {
  JsonWriter json;
  json.begin_object().field("settings", setting).key("sampling").begin_array();
  for (const auto& at : costs.sampling) {
    json.begin_object().field("position", at.position).field("seconds", at.seconds);
    json.field("bytes", at.bytes).end_object();
  }
  json.end_array().key("passes").begin_array();
  for (const auto& of : costs.passes) {
    json.begin_object().field("length", of.length).field("reading", of.reading);
    json.field("training", of.training).end_object();
  }
  json.end_array().end_object();
  write_file_atomically(path, [&](FileWriter& file) { file.write(json.text()); });
}

TokenCosts read_costs(const std::string& path, const std::string& setting) {
  const Json json = Json::parse(read_text(path), path);
  ELAPSE_CHECK(json.text("settings") == setting,
               "{}: measured with \"{}\", now it is \"{}\": remove it or take another folder", path,
               json.text("settings"), setting);
  TokenCosts costs;
  for (const Json& at : json.at("sampling").items()) {
    costs.sampling.push_back({at.integer("position"), at.number("seconds"), at.integer("bytes")});
  }
  for (const Json& of : json.at("passes").items()) {
    costs.passes.push_back({of.integer("length"), of.number("reading"), of.number("training")});
  }
  return costs;
}

std::vector<int64_t> powers_of_two(int64_t first, int64_t last) {
  std::vector<int64_t> powers;
  for (int64_t k = first; k <= last; ++k) powers.push_back(int64_t{1} << k);
  return powers;
}

SamplingSettings settings_up_to(int64_t log2_length) {
  SamplingSettings s;
  s.positions = powers_of_two(6, log2_length);
  s.lengths = powers_of_two(6, log2_length);
  return s;
}

}  // namespace

SamplingSettings SamplingSettings::quick() { return settings_up_to(13); }
SamplingSettings SamplingSettings::full() { return settings_up_to(17); }

SamplingResult run_sampling(Device& device, const SamplingSettings& settings,
                            const std::string& folder, const OnExperimentProgress& progress) {
  SamplingResult result;
  result.device = device_text(device, settings.activations);
  const std::string setting = setting_text(settings, result.device);
  const fs::path kept = fs::path(folder) / "measured";
  fs::create_directories(kept);
  for (const MixerKind mixer : settings.mixers) {
    const ModelConfig config =
        with_heads(mixer, settings.d_model, settings.n_layers, settings.vocab_size);
    result.models.push_back(
        {mixer, config.parameter_count(), has_reach(mixer) ? reach_of(config) : 0, {}});
    for (const uint64_t seed : settings.seeds.all()) {
      const std::string path =
          (kept / (run_name(std::string(name_of(mixer)), seed) + ".json")).string();
      if (!file_exists(path)) {
        Measuring measuring(device, settings, mixer, seed);
        const std::string title = fmt::format("{}, seed {}: ", title_of(mixer), seed);
        write_costs(path, setting, measuring.run([&](ExperimentProgress now) {
          now.stage = title + now.stage;
          progress(now);
        }));
      }
      result.models.back().costs.push_back(read_costs(path, setting));
    }
  }
  return result;
}

double growth(const std::vector<double>& x, const std::vector<double>& y) {
  const auto half = static_cast<std::ptrdiff_t>(x.size() / 2);
  return fitted({x.begin() + half, x.end()}, {y.begin() + half, y.end()}).exponent;
}

}  // namespace elapse
