// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>

#include "elapse/core/error.h"
#include "elapse/model/config_fields.h"
#include "elapse/model/mixer_forms.h"

namespace elapse {
namespace {

constexpr std::array<std::string_view, 3> kFields = {"hidden_size", "kernel_size",
                                                     "dilation_cycle"};
constexpr int64_t kCycle = 10;  // published: dilations 1 to 512, and again from 1
constexpr int64_t kLongestCycle = 16;
constexpr int64_t kWidest = 4;

void set_defaults(ModelConfig& c) {
  c.d_inner = c.d_model;
  c.d_conv = 2;
  c.dilation_cycle = std::min(c.n_layers, kCycle);
}

int64_t within(const Json& ssm_cfg, std::string_view key, int64_t fallback, int64_t least,
               int64_t most) {
  const int64_t value = size_field(ssm_cfg, key, fallback);
  ELAPSE_CHECK(value >= least && value <= most, "{}: expected {} to {}, found {}",
               ssm_cfg.at(key).where(), least, most, value);
  return value;
}

void read(const Json& ssm_cfg, ModelConfig& c) {
  c.d_inner = size_field(ssm_cfg, "hidden_size", c.d_inner);
  c.d_conv = within(ssm_cfg, "kernel_size", c.d_conv, 2, kWidest);
  c.dilation_cycle = within(ssm_cfg, "dilation_cycle", c.dilation_cycle, 1, kLongestCycle);
}

void write(JsonWriter& json, const ModelConfig& c) {
  json.field("hidden_size", c.d_inner).field("kernel_size", c.d_conv);
  json.field("dilation_cycle", c.dilation_cycle);
}

void visit_parameters(const ModelConfig& c, int64_t, const std::string& prefix,
                      const ModelConfig::VisitParameter& visit) {
  visit(prefix + "conv.weight", {2 * c.d_inner, c.d_conv * c.d_model});
  visit(prefix + "conv.bias", {2 * c.d_inner});
  visit(prefix + "out_proj.weight", {c.d_model, c.d_inner});
}

int64_t state_size(const ModelConfig& c, int64_t layer) {
  return (c.d_conv - 1) * c.dilation_of(layer) * c.d_model;
}

// The convolution is a linear map of the few rows that a token touches.
double mixing_operations(const ModelConfig&, const StepShape&) { return 0; }

}  // namespace

constinit const MixerForm kWaveNetForm = {
    "wavenet", "WaveNet", "wavenet",        kFields,    set_defaults,
    read,      write,     visit_parameters, state_size, mixing_operations};

}  // namespace elapse
