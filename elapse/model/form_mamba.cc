// SPDX-License-Identifier: Apache-2.0
#include <array>

#include "elapse/mixers/mamba.h"
#include "elapse/model/config_fields.h"
#include "elapse/model/mixer_forms.h"

namespace elapse {
namespace {

// What mamba_simple.Mamba can be constructed with; it refuses any other word. The last four are
// elapse's own.
constexpr std::array<std::string_view, 16> kFields = {
    "d_state",      "d_conv",      "expand",      "dt_rank",       "dt_min", "dt_max",
    "dt_init",      "dt_scale",    "conv_bias",   "dt_init_floor", "bias",   "use_fast_path",
    "selective_dt", "selective_B", "selective_C", "gate"};

void set_defaults(ModelConfig& c) {
  c.d_inner = 2 * c.d_model;
  c.d_state = 16;
  c.d_conv = 4;
  c.dt_rank = dt_rank_for(c.d_model);
  c.conv_bias = true;
  c.selective_dt = c.selective_B = c.selective_C = c.gate = true;
}

int64_t selective_rows(const ModelConfig& c) {
  const MambaConfig mixer = {.d_state = c.d_state,
                             .dt_rank = c.dt_rank,
                             .selective_dt = c.selective_dt,
                             .selective_B = c.selective_B,
                             .selective_C = c.selective_C};
  return mixer.selective_rows();
}

void read(const Json& ssm_cfg, ModelConfig& c) {
  read_block(ssm_cfg, c);
  c.d_state = size_field(ssm_cfg, "d_state", c.d_state);
  c.dt_rank = dt_rank_field(ssm_cfg, "dt_rank", c.dt_rank);
  c.selective_dt = ssm_cfg.boolean("selective_dt", true);
  c.selective_B = ssm_cfg.boolean("selective_B", true);
  c.selective_C = ssm_cfg.boolean("selective_C", true);
  c.gate = ssm_cfg.boolean("gate", true);
}

void write(JsonWriter& json, const ModelConfig& c) {
  json.field("dt_rank", c.dt_rank);
  write_block(json, c);
  if (c.has_published_selection()) return;
  json.field("selective_dt", c.selective_dt).field("selective_B", c.selective_B);
  json.field("selective_C", c.selective_C).field("gate", c.gate);
}

void visit_parameters(const ModelConfig& c, int64_t, const std::string& prefix,
                      const ModelConfig::VisitParameter& visit) {
  visit(prefix + "A_log", {c.d_inner, c.d_state});
  visit(prefix + "D", {c.d_inner});
  const int64_t in_rows = c.gate ? 2 * c.d_inner : c.d_inner;
  visit(prefix + "in_proj.weight", {in_rows, c.d_model});
  if (c.bias) visit(prefix + "in_proj.bias", {in_rows});
  visit(prefix + "conv1d.weight", {c.d_inner, 1, c.d_conv});
  if (c.conv_bias) visit(prefix + "conv1d.bias", {c.d_inner});
  if (selective_rows(c) > 0) visit(prefix + "x_proj.weight", {selective_rows(c), c.d_inner});
  if (c.selective_dt) visit(prefix + "dt_proj.weight", {c.d_inner, c.dt_rank});
  visit(prefix + "dt_proj.bias", {c.d_inner});
  if (!c.selective_B) visit(prefix + "B", {c.d_state});
  if (!c.selective_C) visit(prefix + "C", {c.d_state});
  visit(prefix + "out_proj.weight", {c.d_model, c.d_inner});
  if (c.bias) visit(prefix + "out_proj.bias", {c.d_model});
}

int64_t state_size(const ModelConfig& c, int64_t) {
  return c.d_inner * c.d_state + c.d_conv_inner() * (c.d_conv - 1);
}

// Of every state dt A and its exponential, write, h (2) and y (2), by the scan's loop; and the
// convolution.
double mixing_operations(const ModelConfig& c, const StepShape&) {
  return static_cast<double>(7 * c.d_inner * c.d_state + 2 * c.d_conv * c.d_inner);
}

}  // namespace

constinit const MixerForm kMambaForm = {
    "mamba", "Mamba", "Mamba1",         kFields,    set_defaults,
    read,    write,   visit_parameters, state_size, mixing_operations};

}  // namespace elapse
