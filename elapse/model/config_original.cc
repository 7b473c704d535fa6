// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "elapse/core/error.h"
#include "elapse/io/messages.h"
#include "elapse/model/config_fields.h"
#include "elapse/model/config_layouts.h"
#include "elapse/model/mixer_form.h"

namespace elapse {
namespace {

constexpr double kOriginalNormEps = 1e-5;  // the original layout has no field for it

void check_no_attention(const Json& json) {
  if (!json.has("attn_layer_idx")) return;
  const Json layers = json.at("attn_layer_idx");
  ELAPSE_CHECK(layers.items().empty(), "{}: only an empty list (no attention layers) is supported",
               layers.where());
}

void check_fields(const Json& ssm_cfg, const MixerForm& form) {
  for (const std::string& key : ssm_cfg.keys()) {
    const bool known = key == "layer" ||
                       std::find(form.fields.begin(), form.fields.end(), key) != form.fields.end();
    ELAPSE_CHECK(known, "{}: {} is no field of {} mixers", ssm_cfg.where(), quote(key), form.layer);
  }
}

void read_mixer(const Json& json, ModelConfig& config) {
  const bool stated = json.has("ssm_cfg");
  if (stated) config.mixer = mixer_of(json.at("ssm_cfg"));
  const MixerForm& form = form_of(config.mixer);
  form.set_defaults(config);
  if (!stated) return;
  check_fields(json.at("ssm_cfg"), form);
  form.read(json.at("ssm_cfg"), config);
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
  ELAPSE_CHECK(json.integer("d_intermediate", 0) == 0, "{}: only 0 (no MLP) is supported",
               json.at("d_intermediate").where());
  check_no_attention(json);
  expect_flags(json, {"residual_in_fp32", "fused_add_norm"});
  read_mixer(json, config);
  return config;
}

std::string original_json(const ModelConfig& c) {
  JsonWriter json;
  json.begin_object().field("d_model", c.d_model).field("n_layer", c.n_layers);
  json.field("vocab_size", c.vocab_size).key("ssm_cfg");
  write_ssm_cfg(json, c);
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
  ELAPSE_CHECK(!is_mamba(c.mixer) || c.d_inner % c.d_model == 0,
               "the original layout states d_inner as a multiple of d_model {}: found {}",
               c.d_model, c.d_inner);
}

}  // namespace elapse
