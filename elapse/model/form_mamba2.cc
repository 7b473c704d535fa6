// SPDX-License-Identifier: Apache-2.0
#include <array>
#include <cmath>
#include <numeric>

#include "elapse/model/config_fields.h"
#include "elapse/model/mixer_forms.h"

namespace elapse {
namespace {

// As many of mamba2.Mamba2's as elapse reads or that change nothing here.
constexpr std::array<std::string_view, 20> kFields = {
    "d_state",      "d_conv",     "conv_init",        "expand",
    "headdim",      "d_ssm",      "ngroups",          "rmsnorm",
    "A_init_range", "D_has_hdim", "norm_before_gate", "dt_min",
    "dt_max",       "dt_limit",   "dt_init_floor",    "bias",
    "conv_bias",    "chunk_size", "use_mem_eff_path", "sequence_parallel"};

void set_defaults(ModelConfig& c) {
  c.d_inner = 2 * c.d_model;
  c.d_state = kMamba2State;
  c.d_conv = 4;
  c.conv_bias = true;
  c.head_dim = std::gcd(c.d_inner, kMamba2HeadDim);
  c.n_groups = 1;
  c.chunk = kMamba2Chunk;
}

void read(const Json& ssm_cfg, ModelConfig& c) {
  read_block(ssm_cfg, c);
  expect_flag(ssm_cfg, "rmsnorm", true);
  expect_flag(ssm_cfg, "norm_before_gate", false);
  expect_same(ssm_cfg, "d_ssm", c.d_inner, "the inner width");
  c.d_state = size_field(ssm_cfg, "d_state", kMamba2State);
  c.head_dim = size_field(ssm_cfg, "headdim", kMamba2HeadDim);
  c.n_groups = size_field(ssm_cfg, "ngroups", 1);
  c.chunk = size_field(ssm_cfg, "chunk_size", kMamba2Chunk);
  c.D_by_channel = ssm_cfg.boolean("D_has_hdim", false);
  read_dt_limits(ssm_cfg, "dt_limit", c);
  check_heads(ssm_cfg, c, "headdim", "ngroups");
}

void write(JsonWriter& json, const ModelConfig& c) {
  json.field("headdim", c.head_dim).field("ngroups", c.n_groups).field("chunk_size", c.chunk);
  if (c.D_by_channel) json.field("D_has_hdim", true);
  if (c.dt_min > 0 || !std::isinf(c.dt_max)) write_dt_limits(json, "dt_limit", c);
  write_block(json, c);
}

void visit_parameters(const ModelConfig& c, int64_t, const std::string& prefix,
                      const ModelConfig::VisitParameter& visit) {
  const int64_t n_heads = c.n_heads(), in_rows = c.d_inner + c.d_conv_inner() + n_heads;
  visit(prefix + "A_log", {n_heads});
  visit(prefix + "D", {c.D_by_channel ? c.d_inner : n_heads});
  visit(prefix + "dt_bias", {n_heads});
  visit(prefix + "in_proj.weight", {in_rows, c.d_model});
  if (c.bias) visit(prefix + "in_proj.bias", {in_rows});
  visit(prefix + "conv1d.weight", {c.d_conv_inner(), 1, c.d_conv});
  if (c.conv_bias) visit(prefix + "conv1d.bias", {c.d_conv_inner()});
  visit(prefix + "norm.weight", {c.d_inner});
  visit(prefix + "out_proj.weight", {c.d_model, c.d_inner});
  if (c.bias) visit(prefix + "out_proj.bias", {c.d_model});
}

int64_t state_size(const ModelConfig& c, int64_t) {
  return c.d_inner * c.d_state + c.d_conv_inner() * (c.d_conv - 1);
}

// The dual and the convolution.
double mixing_operations(const ModelConfig& c, const StepShape& step) {
  return ssd_operations(step, c.d_inner, c.d_state, c.n_groups) +
         static_cast<double>(2 * c.d_conv * c.d_conv_inner());
}

}  // namespace

constinit const MixerForm kMamba2Form = {
    "mamba2", "Mamba-2", "Mamba2",         kFields,    set_defaults,
    read,     write,     visit_parameters, state_size, mixing_operations};

}  // namespace elapse
