// SPDX-License-Identifier: Apache-2.0
#include "elapse/interpret/attention_weights.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "elapse/interpret/runs.h"
#include "elapse/mixers/attention.h"
#include "elapse/ops/attention.h"

namespace elapse {
namespace {

// The weights of one query of a head, in place of its scores.
void softmax(const AttentionPattern& pattern, int64_t query, double* scores) {
  double largest = -std::numeric_limits<double>::infinity(), sum = 0;
  for (int64_t j = 0; j <= query; ++j) {
    if (pattern.sees(query - j)) largest = std::max(largest, scores[j]);
  }
  for (int64_t j = 0; j <= query; ++j) {
    scores[j] = pattern.sees(query - j) ? std::exp(scores[j] - largest) : 0;
    sum += scores[j];
  }
  for (int64_t j = 0; j <= query; ++j) scores[j] /= sum;
}

}  // namespace

std::vector<double> attention_weights(const LanguageModel& model, int64_t layer,
                                      const std::vector<int64_t>& tokens) {
  const ModelConfig& c = model.config();
  ELAPSE_CHECK(c.mixer == MixerKind::attention,
               "weights of attention: the model's layers are {}, not attention", title_of(c.mixer));
  ELAPSE_CHECK(layer >= 0 && layer < c.n_layers, "layer {}: the model has {}", layer, c.n_layers);
  const bool rotated = c.positions != Positions::none;
  Points points;
  const auto values = [&](const char* own) {
    return fmt::format("layers.{}.mixer.{}{}", layer, rotated ? "rot_" : "", own);
  };
  for (const char* name : {"q", "k"}) points.watch(values(name));
  Tape tape(model.device(), false);
  model.forward(tape, pack(model, {tokens}), nullptr, &points);
  const std::vector<double> q = host_values(model.device(), points.value(values("q")));
  const std::vector<double> k = host_values(model.device(), points.value(values("k")));

  const auto length = std::ssize(tokens);
  const int64_t n_heads = c.n_heads(), n_kv_heads = c.n_kv_heads, head_dim = c.head_dim;
  const double scale = 1 / std::sqrt(static_cast<double>(head_dim));
  const AttentionPattern pattern = {c.window, c.dilation};
  std::vector<double> weights(static_cast<size_t>(n_heads * length * length), 0);
  for (int64_t h = 0; h < n_heads; ++h) {
    const int64_t kv_head = h / (n_heads / n_kv_heads);
    for (int64_t i = 0; i < length; ++i) {
      double* row = weights.data() + (h * length + i) * length;
      for (int64_t j = 0; j <= i; ++j) {
        const double* from = q.data() + (i * n_heads + h) * head_dim;
        const double* to = k.data() + (j * n_kv_heads + kv_head) * head_dim;
        for (int64_t e = 0; e < head_dim; ++e) row[j] += scale * from[e] * to[e];
      }
      softmax(pattern, i, row);
    }
  }
  return weights;
}

}  // namespace elapse
