// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <cmath>
#include <span>

#include "elapse/core/error.h"
#include "elapse/io/messages.h"
#include "elapse/model/config_fields.h"
#include "elapse/model/config_layouts.h"

namespace elapse {
namespace {

constexpr double kOriginalNormEps = 1e-5;  // the original layout has no field for it

// What mamba_simple.Mamba can be constructed with; it refuses any other word, as does elapse.
constexpr std::array<std::string_view, 13> kMamba1Fields = {
    "layer",   "d_state",  "d_conv",    "expand",        "dt_rank", "dt_min",       "dt_max",
    "dt_init", "dt_scale", "conv_bias", "dt_init_floor", "bias",    "use_fast_path"};

// Of the recurrent mixers, which are our own.
constexpr std::array<std::string_view, 2> kRecurrentFields = {"layer", "hidden_size"};

// As many of mamba2.Mamba2's.
constexpr std::array<std::string_view, 21> kMamba2Fields = {"layer",
                                                            "d_state",
                                                            "d_conv",
                                                            "conv_init",
                                                            "expand",
                                                            "headdim",
                                                            "d_ssm",
                                                            "ngroups",
                                                            "rmsnorm",
                                                            "A_init_range",
                                                            "D_has_hdim",
                                                            "norm_before_gate",
                                                            "dt_min",
                                                            "dt_max",
                                                            "dt_limit",
                                                            "dt_init_floor",
                                                            "bias",
                                                            "conv_bias",
                                                            "chunk_size",
                                                            "use_mem_eff_path",
                                                            "sequence_parallel"};

void check_no_attention(const Json& json) {
  if (!json.has("attn_layer_idx")) return;
  const Json layers = json.at("attn_layer_idx");
  ELAPSE_CHECK(layers.items().empty(), "{}: only an empty list (no attention layers) is supported",
               layers.where());
}

void check_fields(const Json& ssm, std::span<const std::string_view> fields,
                  std::string_view layer) {
  for (const std::string& key : ssm.keys()) {
    const bool known = std::find(fields.begin(), fields.end(), key) != fields.end();
    ELAPSE_CHECK(known, "{}: {} is no field of a {} mixer", ssm.where(), quote(key), layer);
  }
}

void read_mamba1_cfg(const Json& ssm, ModelConfig& config) {
  check_fields(ssm, kMamba1Fields, kMamba1Layer);
  config.d_state = size_field(ssm, "d_state", 16);
  config.dt_rank = dt_rank_field(ssm, "dt_rank", config.dt_rank);
}

void read_mamba2_cfg(const Json& ssm, ModelConfig& config) {
  check_fields(ssm, kMamba2Fields, kMamba2Layer);
  expect_flag(ssm, "rmsnorm", true);
  expect_flag(ssm, "norm_before_gate", false);
  expect_same(ssm, "d_ssm", config.d_inner, "the inner width");
  config.dt_rank = 0;
  config.d_state = size_field(ssm, "d_state", kMamba2State);
  config.head_dim = size_field(ssm, "headdim", kMamba2HeadDim);
  config.n_groups = size_field(ssm, "ngroups", 1);
  config.chunk = size_field(ssm, "chunk_size", kMamba2Chunk);
  config.D_by_channel = ssm.boolean("D_has_hdim", false);
  read_dt_limits(ssm, "dt_limit", config);
  check_heads(ssm, config, "headdim", "ngroups");
}

void read_recurrent_cfg(const Json& ssm, ModelConfig& config) {
  check_fields(ssm, kRecurrentFields, name_of(config.mixer));
  make_recurrent(config, config.mixer);
  config.d_inner = size_field(ssm, "hidden_size", config.d_model);
}

void read_ssm_cfg(const Json& ssm, ModelConfig& config) {
  config.mixer = mixer_of(ssm);
  if (is_recurrent(config.mixer)) return read_recurrent_cfg(ssm, config);
  config.d_inner = size_field(ssm, "expand", 2) * config.d_model;
  config.d_conv = size_field(ssm, "d_conv", 4);
  if (config.mixer == MixerKind::mamba2) read_mamba2_cfg(ssm, config);
  else read_mamba1_cfg(ssm, config);
  config.bias = ssm.boolean("bias", false);
  config.conv_bias = ssm.boolean("conv_bias", true);
}

void write_mamba2_cfg(JsonWriter& json, const ModelConfig& c) {
  json.field("layer", kMamba2Layer).field("headdim", c.head_dim).field("ngroups", c.n_groups);
  json.field("chunk_size", c.chunk);
  if (c.D_by_channel) json.field("D_has_hdim", true);
  if (c.dt_min > 0 || !std::isinf(c.dt_max)) write_dt_limits(json, "dt_limit", c);
}

void write_ssm_cfg(JsonWriter& json, const ModelConfig& c) {
  if (is_recurrent(c.mixer)) {
    json.field("layer", name_of(c.mixer)).field("hidden_size", c.d_inner);
    return;
  }
  if (c.mixer == MixerKind::mamba2) write_mamba2_cfg(json, c);
  else json.field("dt_rank", c.dt_rank);
  json.field("d_state", c.d_state).field("d_conv", c.d_conv);
  json.field("expand", c.d_inner / c.d_model);
  json.field("bias", c.bias).field("conv_bias", c.conv_bias);
}

}  // namespace

ModelConfig parse_original(const Json& json) {
  expect_flag(json, "rms_norm", true);
  ModelConfig config;
  config.layout = Layout::original;
  config.d_model = size_field(json, "d_model");
  config.n_layers = size_field(json, "n_layer");
  config.vocab_size = size_field(json, "vocab_size");
  config.pad_vocab_multiple = size_field(json, "pad_vocab_size_multiple", 8);
  config.tied_head = json.boolean("tie_embeddings", true);
  config.d_inner = 2 * config.d_model;
  config.dt_rank = dt_rank_for(config.d_model);
  ELAPSE_CHECK(json.integer("d_intermediate", 0) == 0, "{}: only 0 (no MLP) is supported",
               json.at("d_intermediate").where());
  check_no_attention(json);
  expect_flags(json, {"residual_in_fp32", "fused_add_norm"});
  if (json.has("ssm_cfg")) read_ssm_cfg(json.at("ssm_cfg"), config);
  return config;
}

std::string original_json(const ModelConfig& c) {
  JsonWriter json;
  json.begin_object().field("d_model", c.d_model).field("n_layer", c.n_layers);
  json.field("vocab_size", c.vocab_size).key("ssm_cfg").begin_object();
  write_ssm_cfg(json, c);
  json.end_object();
  json.field("rms_norm", true).field("residual_in_fp32", true).field("fused_add_norm", true);
  json.field("pad_vocab_size_multiple", c.pad_vocab_multiple);
  return json.field("tie_embeddings", c.tied_head).end_object().text();
}

void check_original_can_state(const ModelConfig& c) {
  ELAPSE_CHECK(c.mixer_norm_eps == 0,
               "the original layout has no weightless norms on dt, B and C: Falcon-Mamba stays in "
               "the transformers layout");
  ELAPSE_CHECK(c.norm_eps == kOriginalNormEps,
               "the original layout has no field for the norms' epsilon: expected {}, found {}",
               kOriginalNormEps, c.norm_eps);
  ELAPSE_CHECK(is_recurrent(c.mixer) || c.d_inner % c.d_model == 0,
               "the original layout states d_inner as a multiple of d_model {}: found {}",
               c.d_model, c.d_inner);
}

}  // namespace elapse
