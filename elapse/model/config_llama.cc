// SPDX-License-Identifier: Apache-2.0
#include "elapse/core/error.h"
#include "elapse/io/messages.h"
#include "elapse/mixers/attention.h"
#include "elapse/model/config_fields.h"
#include "elapse/model/config_layouts.h"

namespace elapse {
namespace {

// transformers' defaults
constexpr double kNormEps = 1e-6, kRopeTheta = 10000;
constexpr int64_t kMistralKvHeads = 8;

std::string_view class_of(std::string_view type) {
  return type == "mistral" ? "MistralForCausalLM" : "LlamaForCausalLM";
}

void check_class(const Json& json, std::string_view type) {
  if (!json.has("architectures")) return;
  for (const Json& item : json.at("architectures").items()) {
    ELAPSE_CHECK(item.text() == class_of(type), "{}: expected {} for model_type {}, found {}",
                 item.where(), quote(class_of(type)), quote(type), quote(item.text()));
  }
}

// transformers before 5 states rope_theta and rope_scaling, later ones rope_parameters.
void read_rope(const Json& json, ModelConfig& config) {
  config.positions = Positions::rotary;
  ELAPSE_CHECK(config.head_dim % 2 == 0, "{}: expected an even head_dim, found {}", json.where(),
               config.head_dim);
  config.rope_theta = rope_theta_field(json, "rope_theta", kRopeTheta);
  if (json.has("rope_scaling")) config.rope_scaling = read_rope_scaling(json.at("rope_scaling"));
  if (!json.has("rope_parameters")) return;
  const Json parameters = json.at("rope_parameters");
  config.rope_scaling = read_rope_scaling(parameters);
  config.rope_theta = rope_theta_field(parameters, "rope_theta", config.rope_theta);
}

void read_heads(const Json& json, ModelConfig& config) {
  read_attention_heads(json, "num_attention_heads", "num_key_value_heads", config);
  if (json.text("model_type") != "mistral" || json.has("num_key_value_heads")) return;
  config.n_kv_heads = kMistralKvHeads;
  ELAPSE_CHECK(config.n_heads() % config.n_kv_heads == 0,
               "{}: num_key_value_heads {} (the default) does not divide num_attention_heads {}",
               json.where(), config.n_kv_heads, config.n_heads());
}

}  // namespace

bool is_llama_layout(const Json& json) {
  const std::string type = json.text("model_type");
  return type == "llama" || type == "mistral";
}

ModelConfig parse_llama(const Json& json) {
  const std::string type = json.text("model_type");
  const bool mistral = type == "mistral";
  check_class(json, type);
  expect_text(json, "hidden_act", "silu");
  ModelConfig config;
  config.layout = Layout::transformers;
  config.mixer = MixerKind::attention;
  config.d_model = size_field(json, "hidden_size");
  config.n_layers = size_field(json, "num_hidden_layers");
  read_vocabulary(json, config);
  config.d_intermediate = size_field(json, "intermediate_size");
  config.norm_eps = epsilon_field(json, "rms_norm_eps", kNormEps);
  config.tied_head = json.boolean("tie_word_embeddings", false);
  config.dilation = 1;
  read_heads(json, config);
  read_rope(json, config);
  if (mistral) {
    if (json.has("sliding_window")) config.window = size_field(json, "sliding_window");
  } else {
    config.qkv_bias = config.out_bias = json.boolean("attention_bias", false);
    config.mlp_bias = json.boolean("mlp_bias", false);
  }
  expect_flags(json, {"use_cache"});
  config.special_tokens = SpecialTokens::parse(json, config.vocab());
  return config;
}

std::string llama_json(const ModelConfig& c, DType weights) {
  const std::string_view type = c.architecture();
  JsonWriter json;
  json.begin_object().field("model_type", type).key("architectures").begin_array();
  json.value(class_of(type)).end_array();
  write_vocabulary(json, c);
  json.field("hidden_size", c.d_model).field("intermediate_size", c.d_intermediate);
  json.field("num_hidden_layers", c.n_layers).field("num_attention_heads", c.n_heads());
  json.field("num_key_value_heads", c.n_kv_heads).field("head_dim", c.head_dim);
  json.field("hidden_act", "silu").field("rms_norm_eps", c.norm_eps);
  json.field("rope_theta", c.rope_theta);
  write_rope_scaling(json, c.rope_scaling);
  if (c.window > 0) {
    json.field("sliding_window", c.window);
  } else {
    json.field("attention_bias", c.qkv_bias).field("mlp_bias", c.mlp_bias);
  }
  json.field("tie_word_embeddings", c.tied_head);
  c.special_tokens.write(json);
  return json.field("torch_dtype", torch_name(weights)).end_object().text();
}

void check_llama_can_state(const ModelConfig& c) {
  const bool llama = c.d_intermediate > 0 && c.mlp == MlpKind::swiglu && c.norm == NormKind::rms &&
                     c.positions == Positions::rotary && c.max_positions == 0 && c.dilation == 1;
  ELAPSE_CHECK(llama,
               "the transformers layout has attention as Llama has it, with RMSNorm, SwiGLU and "
               "rotary positions and without a dilation: this model stays in the original layout");
  const bool biases =
      c.window > 0 ? !c.qkv_bias && !c.out_bias && !c.mlp_bias : c.qkv_bias == c.out_bias;
  ELAPSE_CHECK(
      biases,
      "the transformers layout has biases in all four projections of attention or in none, "
      "and none with a window: this model stays in the original layout");
}

}  // namespace elapse
