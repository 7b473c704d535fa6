// SPDX-License-Identifier: Apache-2.0
#include "elapse/interpret/hidden_attention.h"

#include <cmath>

#include "elapse/interpret/weights.h"

namespace elapse {

HiddenAttention::HiddenAttention(const LanguageModel& model, int64_t layer,
                                 const std::vector<int64_t>& tokens)
    : by_head_(model.config().mixer == MixerKind::mamba2),
      tokens_(std::ssize(tokens)),
      d_inner_(model.config().d_inner),
      d_state_(model.config().d_state) {
  const ModelConfig& config = model.config();
  ELAPSE_CHECK(layer >= 0 && layer < config.n_layers, "layer {}: the model has {}", layer,
               config.n_layers);
  const auto point = [&](const char* name) {
    return fmt::format("layers.{}.mixer.{}", layer, name);
  };
  Points points;
  for (const char* name : {"dt", "A", "B", "C", "x"}) points.watch(point(name));
  Tape tape(model.device(), false);
  model.forward(tape, pack(model, {tokens}), nullptr, &points);
  const auto values = [&](const char* name) {
    return host_values(model.device(), points.value(point(name)));
  };
  dt_ = values("dt");
  A_ = values("A");
  B_ = values("B");
  C_ = values("C");
  x_ = values("x");
  D_ = weight_values(model, fmt::format("backbone.layers.{}.mixer.D", layer));
  dt_width_ = std::ssize(dt_) / tokens_;
  B_width_ = std::ssize(B_) / tokens_;
  if (!by_head_) return;
  head_dim_ = config.head_dim;
  channels_per_group_ = d_inner_ / config.n_groups;
}

std::vector<double> HiddenAttention::row(int64_t query) const {
  ELAPSE_CHECK(query >= 0 && query < tokens_, "query {}: there are {} tokens", query, tokens_);
  std::vector<double> alpha(static_cast<size_t>((query + 1) * d_inner_));
  std::vector<double> product(static_cast<size_t>(d_state_));
  for (int64_t e = 0; e < d_inner_; ++e) {
    std::fill(product.begin(), product.end(), 1.0);
    const double* C = C_.data() + query * B_width_ + group_column(e);
    for (int64_t j = query; j >= 0; --j) {
      const double* B = B_.data() + j * B_width_ + group_column(e);
      const double dt = dt_[static_cast<size_t>(j * dt_width_ + (by_head_ ? head_of(e) : e))];
      double sum = 0;
      for (int64_t n = 0; n < d_state_; ++n) {
        double& p = product[static_cast<size_t>(n)];
        sum += C[n] * p * B[n];
        p *= std::exp(dt * A(e, n));
      }
      alpha[static_cast<size_t>(j * d_inner_ + e)] = dt * sum;
    }
  }
  return alpha;
}

std::vector<double> HiddenAttention::contributions(int64_t query) const {
  std::vector<double> out = row(query);
  for (size_t i = 0; i < out.size(); ++i) out[i] *= x_[i];
  return out;
}

std::vector<double> HiddenAttention::skip(int64_t query) const {
  std::vector<double> out;
  for (int64_t e = 0; e < d_inner_; ++e) {
    const bool of_head = by_head_ && std::ssize(D_) != d_inner_;
    out.push_back(D_[static_cast<size_t>(of_head ? head_of(e) : e)] *
                  x_[static_cast<size_t>(query * d_inner_ + e)]);
  }
  return out;
}

std::vector<double> HiddenAttention::map(Reduction reduction) const {
  std::vector<double> out(static_cast<size_t>(tokens_ * tokens_), 0.0);
  for (int64_t i = 0; i < tokens_; ++i) {
    const std::vector<double> alpha = row(i);
    for (size_t k = 0; k < alpha.size(); ++k) {
      const double value = reduction == Reduction::mean ? alpha[k] : std::abs(alpha[k]);
      out[static_cast<size_t>(i * tokens_) + k / static_cast<size_t>(d_inner_)] +=
          value / static_cast<double>(d_inner_);
    }
  }
  return out;
}

}  // namespace elapse
