// SPDX-License-Identifier: Apache-2.0
#include <array>

#include "elapse/core/error.h"
#include "elapse/io/messages.h"
#include "elapse/model/config_fields.h"
#include "elapse/model/config_layouts.h"
#include "elapse/model/mixer_form.h"

namespace elapse {
namespace {

constexpr double kFalconMixerEps = 1e-6;  // transformers' default

struct Architecture {
  std::string_view type;
  std::string_view name;
};
constexpr std::array<Architecture, 3> kArchitectures = {{{"mamba", "MambaForCausalLM"},
                                                         {"falcon_mamba", "FalconMambaForCausalLM"},
                                                         {"mamba2", "Mamba2ForCausalLM"}}};

const Architecture* find_architecture(std::string_view type) {
  for (const Architecture& a : kArchitectures) {
    if (a.type == type) return &a;
  }
  return nullptr;
}

void check_architecture(const Json& json) {
  const std::string type = json.text("model_type");
  const Architecture* known = find_architecture(type);
  ELAPSE_CHECK(
      known != nullptr,
      "{}: expected \"mamba\", \"mamba2\", \"falcon_mamba\", \"llama\" or \"mistral\" (the "
      "architectures known), found {}",
      json.at("model_type").where(), quote(type));
  if (!json.has("architectures")) return;
  for (const Json& item : json.at("architectures").items()) {
    ELAPSE_CHECK(item.text() == known->name, "{}: expected {} for model_type {}, found {}",
                 item.where(), quote(known->name), quote(type), quote(item.text()));
  }
}

// What files of transformers before 4.40 say a second time, in the original layout's words.
void check_original_fields(const Json& json, const ModelConfig& config) {
  expect_same(json, "d_model", config.d_model, "hidden_size");
  expect_same(json, "n_layer", config.n_layers, "num_hidden_layers");
  expect_same(json, "d_inner", config.d_inner, "intermediate_size");
  expect_flag(json, "rms_norm", true);
  if (!json.has("ssm_cfg") || !json.at("ssm_cfg").has("layer")) return;
  const Json ssm = json.at("ssm_cfg");
  ELAPSE_CHECK(mixer_of(ssm) == config.mixer, "{}: {} contradicts model_type {}",
               ssm.at("layer").where(), quote(ssm.text("layer")), quote(config.architecture()));
}

// transformers' own defaults, which are those of no published model.
void read_mamba2(const Json& json, ModelConfig& config) {
  // transformers knows no other width.
  ELAPSE_CHECK(config.d_inner == size_field(json, "expand", 2) * config.d_model,
               "{}: {} contradicts {} times hidden_size {}", json.at("intermediate_size").where(),
               config.d_inner, stated(json, "expand", size_field(json, "expand", 2)),
               config.d_model);
  expect_flag(json, "norm_before_gate", false);
  config.head_dim = size_field(json, "head_dim", kMamba2HeadDim);
  config.n_groups = size_field(json, "n_groups", 8);
  config.chunk = size_field(json, "chunk_size", kMamba2Chunk);
  read_dt_limits(json, "time_step_limit", config);
  check_heads(json, config, "head_dim", "n_groups");
  const int64_t n_heads = size_field(json, "num_heads", 128);
  ELAPSE_CHECK(n_heads == config.n_heads(), "{}: {} times {} contradicts the inner width {}",
               json.where(), stated(json, "num_heads", n_heads),
               stated(json, "head_dim", config.head_dim), config.d_inner);
}

void write_mamba2(JsonWriter& json, const ModelConfig& c) {
  json.field("num_heads", c.n_heads()).field("head_dim", c.head_dim);
  json.field("n_groups", c.n_groups).field("chunk_size", c.chunk);
  json.field("norm_before_gate", false);
  write_dt_limits(json, "time_step_limit", c);
}

}  // namespace

ModelConfig parse_transformers(const Json& json) {
  check_architecture(json);
  expect_text(json, "hidden_act", "silu");
  const bool falcon = json.text("model_type") == "falcon_mamba";
  const bool mamba2 = json.text("model_type") == "mamba2";
  ModelConfig config;
  if (mamba2) config.mixer = MixerKind::mamba2;
  config.layout = Layout::transformers;
  config.d_model = size_field(json, "hidden_size");
  config.n_layers = size_field(json, "num_hidden_layers");
  read_vocabulary(json, config);
  config.d_inner =
      size_field(json, "intermediate_size", size_field(json, "expand", 2) * config.d_model);
  config.d_state = size_field(json, "state_size", mamba2 ? kMamba2State : 16);
  config.d_conv = size_field(json, "conv_kernel", 4);
  if (!mamba2) {
    config.dt_rank = dt_rank_field(json, "time_step_rank", dt_rank_for(config.d_model));
    config.selective_dt = config.selective_B = config.selective_C = config.gate = true;
  }
  config.bias = json.boolean("use_bias", false);
  config.conv_bias = json.boolean("use_conv_bias", true);
  config.tied_head = json.boolean("tie_word_embeddings", !mamba2);
  config.norm_eps = epsilon_field(json, "layer_norm_epsilon", 1e-5);
  if (falcon) config.mixer_norm_eps = epsilon_field(json, "mixer_rms_eps", kFalconMixerEps);
  // Falcon-Mamba-7B says expand 16 beside an intermediate_size of twice hidden_size, which counts.
  ELAPSE_CHECK(falcon || !json.has("expand") ||
                   size_field(json, "expand") * config.d_model == config.d_inner,
               "{}: {} contradicts expand {} times hidden_size {}",
               json.at("intermediate_size").where(), config.d_inner, json.integer("expand"),
               config.d_model);
  check_original_fields(json, config);
  expect_flags(json, {"residual_in_fp32", "rescale_prenorm_residual", "use_cache"});
  if (mamba2) read_mamba2(json, config);
  config.special_tokens = SpecialTokens::parse(json, config.vocab());
  return config;
}

std::string transformers_json(const ModelConfig& c, DType weights) {
  const Architecture& architecture = *find_architecture(c.architecture());
  JsonWriter json;
  json.begin_object().field("model_type", architecture.type).key("architectures").begin_array();
  json.value(architecture.name).end_array();
  write_vocabulary(json, c);
  json.field("hidden_size", c.d_model);
  json.field("num_hidden_layers", c.n_layers).field("state_size", c.d_state);
  if (c.d_inner % c.d_model == 0) json.field("expand", c.d_inner / c.d_model);
  json.field("intermediate_size", c.d_inner).field("conv_kernel", c.d_conv);
  if (c.mixer == MixerKind::mamba2) write_mamba2(json, c);
  else json.field("time_step_rank", c.dt_rank);
  json.field("use_bias", c.bias);
  json.field("use_conv_bias", c.conv_bias).field("hidden_act", "silu");
  json.field("layer_norm_epsilon", c.norm_eps);
  if (c.mixer_norm_eps > 0) json.field("mixer_rms_eps", c.mixer_norm_eps);
  json.field("rms_norm", true);
  json.field("residual_in_fp32", true).field("tie_word_embeddings", c.tied_head);
  c.special_tokens.write(json);
  return json.field("torch_dtype", torch_name(weights)).end_object().text();
}

void check_transformers_can_state(const ModelConfig& c) {
  ELAPSE_CHECK(
      is_mamba(c.mixer),
      "the transformers layout has no {} mixers: such a model stays in the original layout",
      name_of(c.mixer));
  ELAPSE_CHECK(c.d_intermediate == 0 && c.norm == NormKind::rms && c.max_positions == 0,
               "the transformers layout has {} mixers without an MLP, with RMSNorm and no learned "
               "positions: such a model stays in the original layout",
               name_of(c.mixer));
  ELAPSE_CHECK(!c.D_by_channel,
               "the transformers layout has one number of D for each head: a model with D_has_hdim "
               "stays in the original layout");
  ELAPSE_CHECK(c.has_published_selection(),
               "the transformers layout has no Mamba whose dt, B or C is not selective, or without "
               "a gate: such a model stays in the original layout");
}

}  // namespace elapse
