// SPDX-License-Identifier: Apache-2.0
#include "elapse/interpret/direct_attribution.h"

#include <cmath>
#include <numeric>

#include "elapse/interpret/graph.h"
#include "elapse/interpret/weights.h"

namespace elapse {
namespace {

double sum(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0);
}

double dot(const std::vector<double>& a, const std::vector<double>& b) {
  return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
}

std::string point(int64_t layer, const char* name) {
  return fmt::format("layers.{}.mixer.{}", layer, name);
}

std::string weight(int64_t layer, const char* name) {
  return fmt::format("backbone.layers.{}.mixer.{}", layer, name);
}

void check(const LanguageModel& model, const Answer& answer) {
  for (const int64_t token : {answer.right, answer.wrong}) {
    ELAPSE_CHECK(token >= 0 && token < model.config().vocab_size,
                 "answer {} is no class of the model, which has {}", token,
                 model.config().vocab_size);
  }
}

// (head[right] - head[wrong]) weight_f: (d_model).
std::vector<double> base_direction(const LanguageModel& model, const Answer& answer) {
  const auto head_row = [&](int64_t token) {
    return weight_values(model.device(), model.head().value().rows(token, token + 1));
  };
  const std::vector<double> right = head_row(answer.right), wrong = head_row(answer.wrong);
  std::vector<double> base = weight_values(model, "backbone.norm_f.weight");
  for (size_t i = 0; i < base.size(); ++i) base[i] *= right[i] - wrong[i];
  return base;
}

bool has_gate(const ModelConfig& config) {
  return config.mixer == MixerKind::mamba2 || config.gate;
}

}  // namespace

double LayerAttribution::share() const { return sum(by_source) + sum(by_skip) + bias; }

std::vector<double> LayerAttribution::by_token() const {
  std::vector<double> sums(static_cast<size_t>(tokens), 0.0);
  for (size_t i = 0; i < by_source.size(); ++i) {
    sums[i / static_cast<size_t>(channels)] += by_source[i];
  }
  return sums;
}

std::vector<double> LayerAttribution::by_channel() const {
  std::vector<double> sums = by_skip;
  for (size_t i = 0; i < by_source.size(); ++i) sums[i % sums.size()] += by_source[i];
  return sums;
}

DirectAttribution::DirectAttribution(const LanguageModel& model, const std::vector<int64_t>& tokens,
                                     const Answer& answer, const std::vector<int64_t>& detailed)
    : model_(model), tokens_(std::ssize(tokens)) {
  check(model, answer);
  if (!detailed.empty()) model.config().expect_mamba("attribution within a layer");
  ELAPSE_CHECK(model.config().norm == NormKind::rms,
               "direct logit attribution reads a final RMSNorm: this model's norms are LayerNorm");
  const ResidualGraph graph(model.config());
  const Selection last = {.positions = {tokens_ - 1}};
  const std::string stream = graph.input_point(graph.unembed());
  points_.watch(stream);
  for (int64_t node = 0; node < graph.unembed(); ++node) {
    points_.watch(graph.output_point(node), last);
  }
  for (const int64_t i : detailed) {
    HiddenAttention::watch(points_, i);
    if (has_gate(model.config())) points_.watch(point(i, "gate"));
    if (model.config().mixer == MixerKind::mamba2) points_.watch(point(i, "scale"));
  }
  Tape tape(model.device(), false);
  const Var logits = model.forward(tape, pack(model, {tokens}), nullptr, &points_);
  total_ = logit_differences(last_logits(model, logits.value()), {answer}).front();
  base_ = base_direction(model, answer);
  scales_ = scales(points_.value(stream));
  const auto share = [&](const std::string& name) {
    return dot(base_, host_values(model.device(), points_.value(name))) / scales_.back();
  };
  embed_ = share(graph.output_point(0));
  for (int64_t node = 1; node < graph.unembed(); ++node) {
    by_block_.push_back(share(graph.output_point(node)));
  }
}

// What the final norm divides each token's stream by; `streams` (tokens, d_model).
std::vector<double> DirectAttribution::scales(const Tensor& streams) const {
  const std::vector<double> values = host_values(model_.device(), streams);
  const auto width = static_cast<size_t>(model_.config().d_model);
  std::vector<double> squares(static_cast<size_t>(tokens_), 0.0);
  for (size_t i = 0; i < values.size(); ++i) squares[i / width] += values[i] * values[i];
  for (double& s : squares) {
    s = std::sqrt(s / static_cast<double>(width) + model_.config().norm_eps);
  }
  return squares;
}

// df_i / d ssm_out_i for the tokens i from `first` on: (tokens - first, d_inner).
std::vector<double> DirectAttribution::slopes(int64_t layer, int64_t first) const {
  const auto width = static_cast<size_t>(model_.config().d_inner);
  std::vector<double> by_channel(width, 0.0);
  const std::vector<double> out_proj = weight_values(model_, weight(layer, "out_proj.weight"));
  for (size_t i = 0; i < out_proj.size(); ++i)
    by_channel[i % width] += base_[i / width] * out_proj[i];
  const auto rows_of = [&](const char* name) {
    return host_values(model_.device(), points_.value(point(layer, name)).rows(first, tokens_));
  };
  std::vector<double> slopes =
      has_gate(model_.config())
          ? rows_of("gate")
          : std::vector<double>(static_cast<size_t>(tokens_ - first) * width, 1);
  for (size_t i = 0; i < slopes.size(); ++i) {
    slopes[i] *= by_channel[i % width] / scales_[static_cast<size_t>(first) + i / width];
  }
  if (model_.config().mixer != MixerKind::mamba2) return slopes;
  const std::vector<double> scale = rows_of("scale");  // (rows, n_groups)
  const std::vector<double> norm = weight_values(model_, weight(layer, "norm.weight"));
  const size_t per_group = width / static_cast<size_t>(model_.config().n_groups);
  for (size_t i = 0; i < slopes.size(); ++i) slopes[i] *= norm[i % width] / scale[i / per_group];
  return slopes;
}

LayerAttribution DirectAttribution::layer(int64_t layer) const {
  const HiddenAttention attention(model_, layer, points_);
  const std::vector<double> slope = slopes(layer, tokens_ - 1);
  LayerAttribution found = {.tokens = tokens_,
                            .channels = model_.config().d_inner,
                            .by_source = attention.contributions(tokens_ - 1),
                            .by_skip = attention.skip(tokens_ - 1)};
  for (size_t i = 0; i < found.by_source.size(); ++i) found.by_source[i] *= slope[i % slope.size()];
  for (size_t e = 0; e < found.by_skip.size(); ++e) found.by_skip[e] *= slope[e];
  if (model_.config().bias) {
    found.bias = dot(base_, weight_values(model_, weight(layer, "out_proj.bias"))) / scales_.back();
  }
  return found;
}

std::vector<double> DirectAttribution::channel_by_state(int64_t layer, int64_t channel) const {
  const HiddenAttention attention(model_, layer, points_);
  std::vector<double> parts = attention.contributions_by_state(tokens_ - 1, channel);
  const double slope = slopes(layer, tokens_ - 1)[static_cast<size_t>(channel)];
  for (double& p : parts) p *= slope;
  return parts;
}

std::vector<double> DirectAttribution::map(int64_t layer) const {
  return HiddenAttention(model_, layer, points_).map_along(slopes(layer, 0));
}

}  // namespace elapse
