// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>

#include "elapse/core/error.h"
#include "elapse/mixers/hyena.h"
#include "elapse/model/config_fields.h"
#include "elapse/model/mixer_forms.h"

namespace elapse {
namespace {

constexpr std::array<std::string_view, 4> kFields = {"l_max", "filter_order", "emb_dim", "w"};
constexpr int64_t kTaps = HyenaConfig::kShortTaps;

void set_defaults(ModelConfig& c) {
  c.d_inner = c.d_model;
  c.d_conv = kTaps;
  c.l_max = 1024;
  c.filter_order = 64;
  // As safari's models of the Pile have them; the defaults of its class, 3 and 1, make one band,
  // whose frequency is 1e-4: as good as constant.
  c.emb_dim = 33;
  c.sine_freq = 14;
}

void read(const Json& ssm_cfg, ModelConfig& c) {
  c.l_max = size_field(ssm_cfg, "l_max", c.l_max);
  c.filter_order = size_field(ssm_cfg, "filter_order", c.filter_order);
  c.emb_dim = size_field(ssm_cfg, "emb_dim", c.emb_dim);
  ELAPSE_CHECK(c.emb_dim >= 3 && c.emb_dim % 2 == 1,
               "{}: expected an odd number from 3 on, found {}", ssm_cfg.at("emb_dim").where(),
               c.emb_dim);
  const int64_t most = HyenaConfig::most_lags(c.d_model, c.emb_dim);
  ELAPSE_CHECK(c.l_max >= 2 && c.l_max <= most,
               "{}: expected 2 to {} for d_model {} and emb_dim {}, found {}",
               ssm_cfg.has("l_max") ? ssm_cfg.at("l_max").where() : ssm_cfg.where(), most,
               c.d_model, c.emb_dim, c.l_max);
  c.sine_freq = ssm_cfg.number("w", c.sine_freq);
  ELAPSE_CHECK(c.sine_freq > 0 && c.sine_freq <= HyenaConfig::kMostFreq,
               "{}: expected a number above 0, to {}, found {}", ssm_cfg.at("w").where(),
               HyenaConfig::kMostFreq, c.sine_freq);
}

void write(JsonWriter& json, const ModelConfig& c) {
  json.field("l_max", c.l_max)
      .field("filter_order", c.filter_order)
      .field("emb_dim", c.emb_dim)
      .field("w", c.sine_freq);
}

void visit_layer(const std::string& name, Shape weight, const ModelConfig::VisitParameter& visit) {
  visit(name + ".weight", weight);
  visit(name + ".bias", {weight[0]});
}

void visit_parameters(const ModelConfig& c, int64_t, const std::string& prefix,
                      const ModelConfig::VisitParameter& visit) {
  visit_layer(prefix + "in_proj", {3 * c.d_model, c.d_model}, visit);
  visit_layer(prefix + "short_filter", {3 * c.d_model, 1, kTaps}, visit);
  const std::string mlp = prefix + "filter_fn.implicit_filter.";
  visit(prefix + "filter_fn.bias", {c.d_model});
  visit_layer(mlp + "0", {c.filter_order, c.emb_dim}, visit);
  visit(mlp + "1.freq", {1, c.filter_order});
  visit_layer(mlp + "2", {c.filter_order, c.filter_order}, visit);
  visit_layer(mlp + "4", {c.filter_order, c.filter_order}, visit);
  visit(mlp + "6.weight", {c.d_model, c.filter_order});
  visit_layer(prefix + "out_proj", {c.d_model, c.d_model}, visit);
}

int64_t state_size(const ModelConfig& c, int64_t) {
  return (kTaps - 1) * 3 * c.d_model + (c.l_max - 1) * c.d_model;
}

// The short filter tap by tap, the long one by Fourier transforms. Its taps, as many as sequences
// meet, are made once a step by the MLP of the lags.
double mixing_operations(const ModelConfig& c, const StepShape& step) {
  const int64_t taps = std::min(step.length, c.l_max);
  const int64_t mlp = c.filter_order * (c.emb_dim + 2 * c.filter_order + c.d_model);
  const double lags = static_cast<double>(taps) / static_cast<double>(step.length * step.sequences);
  return static_cast<double>(2 * kTaps * 3 * c.d_model) +
         static_cast<double>(c.d_model) * convolution_operations(step, taps) +
         static_cast<double>(2 * mlp) * lags;
}

}  // namespace

constinit const MixerForm kHyenaForm = {
    "hyena", "Hyena", "hyena",          kFields,    set_defaults,
    read,    write,   visit_parameters, state_size, mixing_operations};

}  // namespace elapse
