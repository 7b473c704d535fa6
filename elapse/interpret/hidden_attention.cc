// SPDX-License-Identifier: Apache-2.0
#include "elapse/interpret/hidden_attention.h"

#include <algorithm>
#include <cmath>

#include "elapse/core/parallel.h"
#include "elapse/interpret/weights.h"

namespace elapse {
namespace {

std::string point(int64_t layer, const char* name) {
  return fmt::format("layers.{}.mixer.{}", layer, name);
}

void check_layer(const LanguageModel& model, int64_t layer) {
  ELAPSE_CHECK(layer >= 0 && layer < model.config().n_layers, "layer {}: the model has {}", layer,
               model.config().n_layers);
  model.config().expect_mamba("hidden attention");
}

Points watched_pass(const LanguageModel& model, int64_t layer, const std::vector<int64_t>& tokens) {
  check_layer(model, layer);
  Points points;
  HiddenAttention::watch(points, layer);
  Tape tape(model.device(), false);
  model.forward(tape, pack(model, {tokens}), nullptr, &points);
  return points;
}

}  // namespace

void HiddenAttention::watch(Points& points, int64_t layer) {
  for (const char* name : {"dt", "A", "B", "C", "x"}) points.watch(point(layer, name));
}

HiddenAttention::HiddenAttention(const LanguageModel& model, int64_t layer,
                                 const std::vector<int64_t>& tokens)
    : HiddenAttention(model, layer, watched_pass(model, layer, tokens)) {}

HiddenAttention::HiddenAttention(const LanguageModel& model, int64_t layer, const Points& passed)
    : d_inner_(model.config().d_inner),
      d_state_(model.config().d_state),
      threads_(model.device().threads()) {
  check_layer(model, layer);
  const ModelConfig& config = model.config();
  const bool by_head = config.mixer == MixerKind::mamba2;
  units_ = by_head ? config.n_heads() : d_inner_;
  groups_ = by_head ? config.n_groups : 1;
  const auto values = [&](const char* name) {
    return host_values(model.device(), passed.value(point(layer, name)));
  };
  dt_ = values("dt");
  A_ = values("A");
  B_ = values("B");
  C_ = values("C");
  x_ = values("x");
  D_ = weight_values(model, fmt::format("backbone.layers.{}.mixer.D", layer));
  tokens_ = std::ssize(x_) / d_inner_;
}

// exp(dt A) of a unit: (tokens, d_state).
std::vector<double> HiddenAttention::decays(int64_t unit) const {
  std::vector<double> out;
  out.reserve(static_cast<size_t>(tokens_ * d_state_));
  const bool one_A = std::ssize(A_) == units_;
  for (int64_t t = 0; t < tokens_; ++t) {
    for (int64_t n = 0; n < d_state_; ++n) {
      const int64_t at = one_A ? unit : unit * d_state_ + n;
      out.push_back(std::exp(dt(t, unit) * A_[static_cast<size_t>(at)]));
    }
  }
  return out;
}

// Calls visit(j, read) for j = query .. 0, where read[n] = C_i[n] prod exp(dt A) dt_j B_j[n] is
// what the query reads of each state's writing at j.
template <class Visit>
void HiddenAttention::walk_back(int64_t unit, int64_t query, const std::vector<double>& decays,
                                Visit&& visit) const {
  const auto states = static_cast<size_t>(d_state_);
  std::vector<double> kept(states, 1.0), read(states);  // kept: the product
  const double* C = C_.data() + BC_at(query, unit);
  for (int64_t j = query; j >= 0; --j) {
    const double* B = B_.data() + BC_at(j, unit);
    const double* decay = decays.data() + j * d_state_;
    for (size_t n = 0; n < states; ++n) {
      read[n] = C[n] * kept[n] * B[n] * dt(j, unit);
      kept[n] *= decay[n];
    }
    visit(j, read);
  }
}

// Calls visit(i, j, alpha) for all j <= i.
template <class Visit>
void HiddenAttention::for_each_alpha(int64_t unit, Visit&& visit) const {
  const std::vector<double> of_unit = decays(unit);
  for (int64_t i = 0; i < tokens_; ++i) {
    walk_back(unit, i, of_unit, [&](int64_t j, const std::vector<double>& read) {
      double alpha = 0;
      for (const double r : read) alpha += r;
      visit(i, j, alpha);
    });
  }
}

// The sum over units of add(unit, i, j, alpha): (tokens, tokens). Units go in blocks whose number
// does not depend on that of the threads.
template <class Add>
std::vector<double> HiddenAttention::sum_over_units(Add&& add) const {
  constexpr int64_t kBlocks = 8;
  const auto cells = static_cast<size_t>(tokens_ * tokens_);
  std::vector<std::vector<double>> sums(kBlocks);
  parallel_for(kBlocks, threads_, [&](int64_t block) {
    std::vector<double>& sum = sums[static_cast<size_t>(block)];
    sum.assign(cells, 0.0);
    for (int64_t u = block * units_ / kBlocks; u < (block + 1) * units_ / kBlocks; ++u) {
      for_each_alpha(u, [&](int64_t i, int64_t j, double alpha) {
        sum[static_cast<size_t>(i * tokens_ + j)] += add(u, i, j, alpha);
      });
    }
  });
  for (size_t block = 1; block < sums.size(); ++block) {
    for (size_t k = 0; k < cells; ++k) sums[0][k] += sums[block][k];
  }
  return sums[0];
}

void HiddenAttention::check_query(int64_t query) const {
  ELAPSE_CHECK(query >= 0 && query < tokens_, "query {}: there are {} tokens", query, tokens_);
}

std::vector<double> HiddenAttention::row(int64_t query) const {
  check_query(query);
  std::vector<double> alpha(static_cast<size_t>((query + 1) * units_));
  for (int64_t u = 0; u < units_; ++u) {
    walk_back(u, query, decays(u), [&](int64_t j, const std::vector<double>& read) {
      for (const double r : read) alpha[static_cast<size_t>(j * units_ + u)] += r;
    });
  }
  return alpha;
}

std::vector<double> HiddenAttention::contributions(int64_t query) const {
  const std::vector<double> alpha = row(query);
  std::vector<double> out(x_.begin(), x_.begin() + (query + 1) * d_inner_);
  const auto per_unit = static_cast<size_t>(d_inner_ / units_);
  for (size_t i = 0; i < out.size(); ++i) out[i] *= alpha[i / per_unit];
  return out;
}

std::vector<double> HiddenAttention::contributions_by_state(int64_t query, int64_t channel) const {
  check_query(query);
  ELAPSE_CHECK(channel >= 0 && channel < d_inner_, "channel {}: the layer has {}", channel,
               d_inner_);
  std::vector<double> out(static_cast<size_t>((query + 1) * d_state_));
  const int64_t unit = unit_of(channel);
  walk_back(unit, query, decays(unit), [&](int64_t j, const std::vector<double>& read) {
    const double x = x_[static_cast<size_t>(j * d_inner_ + channel)];
    for (size_t n = 0; n < read.size(); ++n) {
      out[static_cast<size_t>(j * d_state_) + n] = read[n] * x;
    }
  });
  return out;
}

std::vector<double> HiddenAttention::skip(int64_t query) const {
  check_query(query);
  std::vector<double> out;
  const bool by_channel = std::ssize(D_) == d_inner_;
  for (int64_t e = 0; e < d_inner_; ++e) {
    out.push_back(D_[static_cast<size_t>(by_channel ? e : unit_of(e))] *
                  x_[static_cast<size_t>(query * d_inner_ + e)]);
  }
  return out;
}

std::vector<double> HiddenAttention::map(Reduction reduction) const {
  const double share = 1 / static_cast<double>(units_);
  const bool sizes = reduction == Reduction::mean_absolute;
  return sum_over_units([=](int64_t, int64_t, int64_t, double alpha) {
    return share * (sizes ? std::abs(alpha) : alpha);
  });
}

std::vector<double> HiddenAttention::map_of_unit(int64_t unit) const {
  ELAPSE_CHECK(unit >= 0 && unit < units_, "{} {}: the layer has {}",
               units_ == d_inner_ ? "channel" : "head", unit, units_);
  std::vector<double> out(static_cast<size_t>(tokens_ * tokens_), 0.0);
  for_each_alpha(unit, [&](int64_t i, int64_t j, double alpha) {
    out[static_cast<size_t>(i * tokens_ + j)] = alpha;
  });
  return out;
}

std::vector<double> HiddenAttention::map_along(const std::vector<double>& slopes) const {
  ELAPSE_CHECK(std::ssize(slopes) == tokens_ * d_inner_, "expected {} x {} slopes, found {}",
               tokens_, d_inner_, slopes.size());
  const int64_t per_unit = d_inner_ / units_;
  return sum_over_units([&](int64_t unit, int64_t i, int64_t j, double alpha) {
    const double* slope = slopes.data() + i * d_inner_ + unit * per_unit;
    const double* x = x_.data() + j * d_inner_ + unit * per_unit;
    double sum = 0;
    for (int64_t e = 0; e < per_unit; ++e) sum += slope[e] * x[e];
    return sum * alpha;
  });
}

}  // namespace elapse
