// SPDX-License-Identifier: Apache-2.0
#include <array>

#include "elapse/model/config_fields.h"
#include "elapse/model/mixer_forms.h"

namespace elapse {
namespace {

// What mamba_simple.Mamba can be constructed with; it refuses any other word, as does elapse.
constexpr std::array<std::string_view, 12> kFields = {
    "d_state", "d_conv",   "expand",    "dt_rank",       "dt_min", "dt_max",
    "dt_init", "dt_scale", "conv_bias", "dt_init_floor", "bias",   "use_fast_path"};

void set_defaults(ModelConfig& c) {
  c.d_inner = 2 * c.d_model;
  c.d_state = 16;
  c.d_conv = 4;
  c.dt_rank = dt_rank_for(c.d_model);
  c.conv_bias = true;
}

void read(const Json& ssm_cfg, ModelConfig& c) {
  read_block(ssm_cfg, c);
  c.d_state = size_field(ssm_cfg, "d_state", c.d_state);
  c.dt_rank = dt_rank_field(ssm_cfg, "dt_rank", c.dt_rank);
}

void write(JsonWriter& json, const ModelConfig& c) {
  json.field("dt_rank", c.dt_rank);
  write_block(json, c);
}

void visit_parameters(const ModelConfig& c, int64_t, const std::string& prefix,
                      const ModelConfig::VisitParameter& visit) {
  visit(prefix + "A_log", {c.d_inner, c.d_state});
  visit(prefix + "D", {c.d_inner});
  visit(prefix + "in_proj.weight", {2 * c.d_inner, c.d_model});
  if (c.bias) visit(prefix + "in_proj.bias", {2 * c.d_inner});
  visit(prefix + "conv1d.weight", {c.d_inner, 1, c.d_conv});
  if (c.conv_bias) visit(prefix + "conv1d.bias", {c.d_inner});
  visit(prefix + "x_proj.weight", {c.dt_rank + 2 * c.d_state, c.d_inner});
  visit(prefix + "dt_proj.weight", {c.d_inner, c.dt_rank});
  visit(prefix + "dt_proj.bias", {c.d_inner});
  visit(prefix + "out_proj.weight", {c.d_model, c.d_inner});
  if (c.bias) visit(prefix + "out_proj.bias", {c.d_model});
}

int64_t state_size(const ModelConfig& c, int64_t) {
  return c.d_inner * c.d_state + c.d_conv_inner() * (c.d_conv - 1);
}

}  // namespace

constinit const MixerForm kMambaForm = {"mamba", "Mamba", "Mamba1",         kFields,   set_defaults,
                                        read,    write,   visit_parameters, state_size};

}  // namespace elapse
