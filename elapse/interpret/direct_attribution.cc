// SPDX-License-Identifier: Apache-2.0
#include "elapse/interpret/direct_attribution.h"

#include <cmath>
#include <numeric>

#include "elapse/interpret/hidden_attention.h"
#include "elapse/interpret/weights.h"

namespace elapse {
namespace {

// The last row of a (tokens, width) value.
std::vector<double> last_row(const LanguageModel& model, const Points& points,
                             const std::string& point) {
  const Tensor& value = points.value(point);
  return host_values(model.device(), value.rows(value.dim(0) - 1, value.dim(0)));
}

double dot(const std::vector<double>& a, const std::vector<double>& b) {
  return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
}

std::string last_stream(const LanguageModel& model) {
  return fmt::format("layers.{}.resid_post", model.config().n_layers - 1);
}

// df / d(last residual stream), its scale held: (d_model).
std::vector<double> direction(const LanguageModel& model, const Points& points,
                              const Answer& answer) {
  const std::vector<double> stream = last_row(model, points, last_stream(model));
  const double scale =
      std::sqrt(dot(stream, stream) / static_cast<double>(stream.size()) + model.config().norm_eps);
  const auto head_row = [&](int64_t token) {
    return weight_values(model.device(), model.head().value().rows(token, token + 1));
  };
  const std::vector<double> right = head_row(answer.right), wrong = head_row(answer.wrong);
  std::vector<double> v = weight_values(model, "backbone.norm_f.weight");
  for (size_t i = 0; i < v.size(); ++i) v[i] *= (right[i] - wrong[i]) / scale;
  return v;
}

void check(const LanguageModel& model, const Answer& answer) {
  for (const int64_t token : {answer.right, answer.wrong}) {
    ELAPSE_CHECK(token >= 0 && token < model.config().vocab_size,
                 "answer {} is no class of the model, which has {}", token,
                 model.config().vocab_size);
  }
}

}  // namespace

DirectAttribution direct_attribution(const LanguageModel& model, const std::vector<int64_t>& tokens,
                                     const Answer& answer) {
  check(model, answer);
  const auto out = [](int64_t layer) { return fmt::format("layers.{}.mixer.out", layer); };
  Points points;
  points.watch("embed");
  points.watch(last_stream(model));
  for (int64_t i = 0; i < model.config().n_layers; ++i) points.watch(out(i));
  Tape tape(model.device(), false);
  const Var logits = model.forward(tape, pack(model, {tokens}), nullptr, &points);
  const std::vector<double> v = direction(model, points, answer);
  DirectAttribution found;
  found.total = logit_differences(last_logits(model, logits.value()), {answer}).front();
  found.embed = dot(v, last_row(model, points, "embed"));
  for (int64_t i = 0; i < model.config().n_layers; ++i) {
    found.by_layer.push_back(dot(v, last_row(model, points, out(i))));
  }
  return found;
}

double LayerAttribution::share() const {
  const double through_state = std::accumulate(by_source.begin(), by_source.end(), 0.0);
  return std::accumulate(by_skip.begin(), by_skip.end(), through_state) + bias;
}

std::vector<double> LayerAttribution::by_token() const {
  std::vector<double> sums(static_cast<size_t>(tokens), 0.0);
  for (size_t i = 0; i < by_source.size(); ++i) {
    sums[i / static_cast<size_t>(channels)] += by_source[i];
  }
  return sums;
}

LayerAttribution layer_attribution(const LanguageModel& model, int64_t layer,
                                   const std::vector<int64_t>& tokens, const Answer& answer) {
  check(model, answer);
  const HiddenAttention attention(model, layer, tokens);
  const ModelConfig& config = model.config();
  const auto point = [&](const char* name) {
    return fmt::format("layers.{}.mixer.{}", layer, name);
  };
  const bool normed = config.mixer == MixerKind::mamba2;
  Points points;
  points.watch(last_stream(model));
  points.watch(point("gate"));
  if (normed) points.watch(point("scale"));
  Tape tape(model.device(), false);
  model.forward(tape, pack(model, {tokens}), nullptr, &points);

  const std::vector<double> v = direction(model, points, answer);
  const std::string prefix = fmt::format("backbone.layers.{}.mixer.", layer);
  const std::vector<double> out_proj = weight_values(model, prefix + "out_proj.weight");
  const std::vector<double> gate = last_row(model, points, point("gate"));
  // df / d ssm_out, by channel.
  std::vector<double> slope(static_cast<size_t>(config.d_inner), 0.0);
  for (size_t i = 0; i < out_proj.size(); ++i) {
    slope[i % slope.size()] += v[i / slope.size()] * out_proj[i];
  }
  for (size_t e = 0; e < slope.size(); ++e) slope[e] *= gate[e];
  if (normed) {
    const std::vector<double> weight = weight_values(model, prefix + "norm.weight");
    const std::vector<double> scale = last_row(model, points, point("scale"));
    const size_t width = slope.size() / scale.size();
    for (size_t e = 0; e < slope.size(); ++e) slope[e] *= weight[e] / scale[e / width];
  }
  LayerAttribution found = {.tokens = std::ssize(tokens),
                            .channels = config.d_inner,
                            .by_source = attention.contributions(std::ssize(tokens) - 1),
                            .by_skip = attention.skip(std::ssize(tokens) - 1)};
  for (size_t i = 0; i < found.by_source.size(); ++i) found.by_source[i] *= slope[i % slope.size()];
  for (size_t e = 0; e < found.by_skip.size(); ++e) found.by_skip[e] *= slope[e];
  if (config.bias) found.bias = dot(v, weight_values(model, prefix + "out_proj.bias"));
  return found;
}

}  // namespace elapse
