// SPDX-License-Identifier: Apache-2.0
#include "elapse/model/config.h"

#include "elapse/core/error.h"
#include "elapse/io/json_writer.h"

namespace elapse {
namespace {

// No published model comes near; sizes beyond are mistakes, and would overflow products of them.
constexpr int64_t kMaxSize = int64_t{1} << 24;

int64_t size(const Json& json, std::string_view key) {
  const int64_t value = json.positive_integer(key);
  ELAPSE_CHECK(value <= kMaxSize, "{}: expected at most {}, found {}", json.at(key).where(),
               kMaxSize, value);
  return value;
}

int64_t size(const Json& json, std::string_view key, int64_t fallback) {
  return json.has(key) ? size(json, key) : fallback;
}

void expect_flag(const Json& json, std::string_view key, bool expected) {
  ELAPSE_CHECK(json.boolean(key, expected) == expected, "{}: only {} is supported",
               json.at(key).where(), expected);
}

// dt_rank as a number or the word "auto".
int64_t dt_rank(const Json& json, std::string_view key, int64_t automatic) {
  if (!json.has(key) || !json.at(key).is_text()) return size(json, key, automatic);
  ELAPSE_CHECK(json.text(key) == "auto",
               "{}: expected a positive integer or \"auto\", found \"{}\"", json.at(key).where(),
               json.text(key));
  return automatic;
}

int64_t dt_rank_for(int64_t d_model) { return (d_model + 15) / 16; }

ModelConfig parse_transformers(const Json& json) {
  const std::string type = json.text("model_type");
  ELAPSE_CHECK(type == "mamba", "{}: expected \"mamba\" (the architecture known), found \"{}\"",
               json.at("model_type").where(), type);
  const std::string activation = json.text("hidden_act", "silu");
  ELAPSE_CHECK(activation == "silu", "{}: expected \"silu\", found \"{}\"",
               json.at("hidden_act").where(), activation);
  ModelConfig config;
  config.layout = Layout::transformers;
  config.d_model = size(json, "hidden_size");
  config.n_layers = size(json, "num_hidden_layers");
  config.vocab_size = size(json, "vocab_size");
  config.d_inner = size(json, "intermediate_size", size(json, "expand", 2) * config.d_model);
  config.d_state = size(json, "state_size", 16);
  config.d_conv = size(json, "conv_kernel", 4);
  config.dt_rank = dt_rank(json, "time_step_rank", dt_rank_for(config.d_model));
  config.bias = json.boolean("use_bias", false);
  config.conv_bias = json.boolean("use_conv_bias", true);
  config.tied_head = json.boolean("tie_word_embeddings", true);
  config.norm_eps = json.number("layer_norm_epsilon", 1e-5);
  ELAPSE_CHECK(config.norm_eps > 0 && config.norm_eps < 1,
               "{}: expected a number from 0 to 1, found {}", json.at("layer_norm_epsilon").where(),
               config.norm_eps);
  ELAPSE_CHECK(!json.has("expand") || json.integer("expand") * config.d_model == config.d_inner,
               "{}: {} contradicts expand {} times hidden_size {}",
               json.at("intermediate_size").where(), config.d_inner, json.integer("expand"),
               config.d_model);
  return config;
}

ModelConfig parse_original(const Json& json) {
  expect_flag(json, "rms_norm", true);
  ModelConfig config;
  config.layout = Layout::original;
  config.d_model = size(json, "d_model");
  config.n_layers = size(json, "n_layer");
  config.vocab_size = size(json, "vocab_size");
  config.pad_vocab_multiple = size(json, "pad_vocab_size_multiple", 8);
  config.tied_head = json.boolean("tie_embeddings", true);
  config.d_inner = 2 * config.d_model;
  config.dt_rank = dt_rank_for(config.d_model);
  ELAPSE_CHECK(json.integer("d_intermediate", 0) == 0, "{}: only 0 (no MLP) is supported",
               json.at("d_intermediate").where());
  if (!json.has("ssm_cfg")) return config;
  const Json ssm = json.at("ssm_cfg");
  const std::string layer = ssm.text("layer", "Mamba1");
  ELAPSE_CHECK(layer == "Mamba1", "{}: expected \"Mamba1\" (the mixer known), found \"{}\"",
               ssm.at("layer").where(), layer);
  config.d_inner = size(ssm, "expand", 2) * config.d_model;
  config.d_state = size(ssm, "d_state", 16);
  config.d_conv = size(ssm, "d_conv", 4);
  config.dt_rank = dt_rank(ssm, "dt_rank", config.dt_rank);
  config.bias = ssm.boolean("bias", false);
  config.conv_bias = ssm.boolean("conv_bias", true);
  return config;
}

std::string transformers_json(const ModelConfig& c) {
  JsonWriter json;
  json.begin_object().field("model_type", "mamba").key("architectures").begin_array();
  json.value("MambaForCausalLM").end_array();
  // transformers does not pad: the padded rows count as classes.
  json.field("vocab_size", c.vocab()).field("hidden_size", c.d_model);
  json.field("num_hidden_layers", c.n_layers).field("state_size", c.d_state);
  if (c.d_inner % c.d_model == 0) json.field("expand", c.d_inner / c.d_model);
  json.field("intermediate_size", c.d_inner).field("conv_kernel", c.d_conv);
  json.field("time_step_rank", c.dt_rank).field("use_bias", c.bias);
  json.field("use_conv_bias", c.conv_bias).field("hidden_act", "silu");
  json.field("layer_norm_epsilon", c.norm_eps).field("rms_norm", true);
  json.field("residual_in_fp32", true).field("tie_word_embeddings", c.tied_head);
  json.field("bos_token_id", 0).field("eos_token_id", 0).field("pad_token_id", 0);
  return json.field("torch_dtype", "float32").end_object().text();
}

std::string original_json(const ModelConfig& c) {
  JsonWriter json;
  json.begin_object().field("d_model", c.d_model).field("n_layer", c.n_layers);
  json.field("vocab_size", c.vocab_size).key("ssm_cfg").begin_object();
  json.field("d_state", c.d_state).field("d_conv", c.d_conv);
  json.field("expand", c.d_inner / c.d_model).field("dt_rank", c.dt_rank);
  json.field("bias", c.bias).field("conv_bias", c.conv_bias).end_object();
  json.field("rms_norm", true).field("residual_in_fp32", true).field("fused_add_norm", true);
  json.field("pad_vocab_size_multiple", c.pad_vocab_multiple);
  return json.field("tie_embeddings", c.tied_head).end_object().text();
}

}  // namespace

ModelConfig ModelConfig::mamba(int64_t d_model, int64_t n_layers, int64_t vocab_size) {
  ModelConfig config;
  config.d_model = d_model;
  config.n_layers = n_layers;
  config.vocab_size = vocab_size;
  config.d_inner = 2 * d_model;
  config.dt_rank = dt_rank_for(d_model);
  return config;
}

ModelConfig ModelConfig::parse(const Json& json) {
  return json.has("model_type") ? parse_transformers(json) : parse_original(json);
}

std::string ModelConfig::json() const {
  return layout == Layout::transformers ? transformers_json(*this) : original_json(*this);
}

}  // namespace elapse
