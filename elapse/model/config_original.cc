// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "elapse/core/error.h"
#include "elapse/io/messages.h"
#include "elapse/model/config_fields.h"
#include "elapse/model/config_layouts.h"
#include "elapse/model/mixer_form.h"

namespace elapse {
namespace {

constexpr double kOriginalNormEps = 1e-5;  // the published form has no field for it
constexpr int64_t kMlpMultiple = 128;      // d_intermediate is rounded up to one of this

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

MlpKind mlp_named(const Json& json) {
  const std::string name = json.text("mlp", name_of(MlpKind::swiglu));
  for (const MlpKind kind : {MlpKind::swiglu, MlpKind::gelu, MlpKind::gelu_tanh}) {
    if (name == name_of(kind)) return kind;
  }
  fail("{}: expected \"swiglu\", \"gelu\" or \"gelu_tanh\", found {}", json.at("mlp").where(),
       quote(name));
}

// The published form has d_intermediate alone, which its code rounds up.
void read_mlp(const Json& json, ModelConfig& config) {
  const int64_t d_intermediate = json.integer("d_intermediate", 0);
  if (d_intermediate == 0) {
    for (const char* key : {"mlp", "mlp_bias", "mlp_multiple_of"}) {
      ELAPSE_CHECK(!json.has(key), "{}: expected a d_intermediate beside it, found {}",
                   json.at(key).where(), json.has("d_intermediate") ? "0" : "none");
    }
    return;
  }
  const int64_t multiple = size_field(json, "mlp_multiple_of", kMlpMultiple);
  config.d_intermediate = (size_field(json, "d_intermediate") + multiple - 1) / multiple * multiple;
  ELAPSE_CHECK(config.d_intermediate <= kMaxSize,
               "{}: expected at most {}, found {} rounded up to {}",
               json.at("d_intermediate").where(), kMaxSize, json.integer("d_intermediate"),
               config.d_intermediate);
  config.mlp = mlp_named(json);
  config.mlp_bias = json.boolean("mlp_bias", false);
}

void write_mlp(JsonWriter& json, const ModelConfig& c) {
  if (c.d_intermediate == 0) return;
  json.field("d_intermediate", c.d_intermediate);
  if (c.d_intermediate % kMlpMultiple != 0) json.field("mlp_multiple_of", int64_t{1});
  if (c.mlp != MlpKind::swiglu) json.field("mlp", name_of(c.mlp));
  if (c.mlp_bias) json.field("mlp_bias", true);
}

}  // namespace

ModelConfig parse_original(const Json& json) {
  ModelConfig config;
  config.layout = Layout::original;
  config.d_model = size_field(json, "d_model");
  config.n_layers = size_field(json, "n_layer");
  config.vocab_size = size_field(json, "vocab_size");
  config.pad_vocab_multiple = size_field(json, "pad_vocab_size_multiple", 8);
  config.tied_head = json.boolean("tie_embeddings", true);
  if (!json.boolean("rms_norm", true)) config.norm = NormKind::layer;
  if (json.has("max_positions")) config.max_positions = size_field(json, "max_positions");
  read_mlp(json, config);
  check_no_attention(json);
  expect_flags(json, {"residual_in_fp32", "fused_add_norm"});
  read_mixer(json, config);
  if (!is_mamba(config.mixer)) config.norm_eps = epsilon_field(json, "norm_eps", config.norm_eps);
  return config;
}

std::string original_json(const ModelConfig& c) {
  JsonWriter json;
  json.begin_object().field("d_model", c.d_model).field("n_layer", c.n_layers);
  json.field("vocab_size", c.vocab_size).key("ssm_cfg");
  write_ssm_cfg(json, c);
  write_mlp(json, c);
  if (c.max_positions > 0) json.field("max_positions", c.max_positions);
  if (c.norm_eps != kOriginalNormEps) json.field("norm_eps", c.norm_eps);
  json.field("rms_norm", c.norm == NormKind::rms);
  json.field("residual_in_fp32", true).field("fused_add_norm", true);
  json.field("pad_vocab_size_multiple", c.pad_vocab_multiple);
  return json.field("tie_embeddings", c.tied_head).end_object().text();
}

void check_original_can_state(const ModelConfig& c) {
  ELAPSE_CHECK(c.mixer_norm_eps == 0,
               "the original layout has no weightless norms on dt, B and C: Falcon-Mamba stays in "
               "the transformers layout");
  ELAPSE_CHECK(!is_mamba(c.mixer) || c.norm_eps == kOriginalNormEps,
               "the original layout has no field for the norms' epsilon: expected {}, found {}",
               kOriginalNormEps, c.norm_eps);
  ELAPSE_CHECK(!is_mamba(c.mixer) || c.d_inner % c.d_model == 0,
               "the original layout states d_inner as a multiple of d_model {}: found {}",
               c.d_model, c.d_inner);
}

}  // namespace elapse
