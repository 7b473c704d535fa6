// SPDX-License-Identifier: Apache-2.0
#include "elapse/model/config.h"

#include <algorithm>
#include <array>

#include "elapse/core/error.h"
#include "elapse/io/messages.h"

namespace elapse {
namespace {

// No published model comes near; sizes beyond are mistakes, and would overflow products of them.
constexpr int64_t kMaxSize = int64_t{1} << 24;

constexpr double kOriginalNormEps = 1e-5;  // the original layout has no field for it
constexpr double kFalconMixerEps = 1e-6;   // transformers' default

// What mamba_simple.Mamba can be constructed with; it refuses any other word, as does elapse.
constexpr std::array<std::string_view, 13> kMamba1Fields = {
    "layer",   "d_state",  "d_conv",    "expand",        "dt_rank", "dt_min",       "dt_max",
    "dt_init", "dt_scale", "conv_bias", "dt_init_floor", "bias",    "use_fast_path"};

int64_t size(const Json& json, std::string_view key) {
  const int64_t value = json.positive_integer(key);
  ELAPSE_CHECK(value <= kMaxSize, "{}: expected at most {}, found {}", json.at(key).where(),
               kMaxSize, value);
  return value;
}

int64_t size(const Json& json, std::string_view key, int64_t fallback) {
  return json.has(key) ? size(json, key) : fallback;
}

double epsilon(const Json& json, std::string_view key, double fallback) {
  const double value = json.number(key, fallback);
  ELAPSE_CHECK(value > 0 && value < 1, "{}: expected a number from 0 to 1, found {}",
               json.at(key).where(), value);
  return value;
}

void expect_flag(const Json& json, std::string_view key, bool expected) {
  ELAPSE_CHECK(json.boolean(key, expected) == expected, "{}: only {} is supported",
               json.at(key).where(), expected);
}

void expect_text(const Json& json, std::string_view key, std::string_view expected) {
  const std::string found = json.text(key, expected);
  ELAPSE_CHECK(found == expected, "{}: expected {}, found {}", json.at(key).where(),
               quote(expected), quote(found));
}

// A field that says once more what `first` says already.
void expect_same(const Json& json, std::string_view key, int64_t value, std::string_view first) {
  const int64_t found = json.integer(key, value);
  ELAPSE_CHECK(found == value, "{}: {} contradicts {} {}", json.at(key).where(), found, first,
               value);
}

// dt_rank as a number or the word "auto".
int64_t dt_rank(const Json& json, std::string_view key, int64_t automatic) {
  if (!json.has(key) || !json.at(key).is_text()) return size(json, key, automatic);
  ELAPSE_CHECK(json.text(key) == "auto", "{}: expected a positive integer or \"auto\", found {}",
               json.at(key).where(), quote(json.text(key)));
  return automatic;
}

int64_t dt_rank_for(int64_t d_model) { return (d_model + 15) / 16; }

void check_mixer_is_mamba1(const Json& ssm_cfg) {
  const std::string layer = ssm_cfg.text("layer", "Mamba1");
  ELAPSE_CHECK(layer == "Mamba1", "{}: expected \"Mamba1\" (the mixer known), found {}",
               ssm_cfg.at("layer").where(), quote(layer));
}

// ---- transformers' layout

struct Architecture {
  std::string_view type;
  std::string_view name;
};
constexpr std::array<Architecture, 2> kArchitectures = {
    {{"mamba", "MambaForCausalLM"}, {"falcon_mamba", "FalconMambaForCausalLM"}}};

const Architecture& architecture_of(std::string_view type) {
  return type == kArchitectures[0].type ? kArchitectures[0] : kArchitectures[1];
}

void check_architecture(const Json& json) {
  const std::string type = json.text("model_type");
  const bool known = std::any_of(kArchitectures.begin(), kArchitectures.end(),
                                 [&](const Architecture& a) { return a.type == type; });
  ELAPSE_CHECK(known,
               "{}: expected \"mamba\" or \"falcon_mamba\" (the architectures known), found {}",
               json.at("model_type").where(), quote(type));
  if (!json.has("architectures")) return;
  for (const Json& item : json.at("architectures").items()) {
    const std::string_view expected = architecture_of(type).name;
    ELAPSE_CHECK(item.text() == expected, "{}: expected {} for model_type {}, found {}",
                 item.where(), quote(expected), quote(type), quote(item.text()));
  }
}

// What files of transformers before 4.40 say a second time, in the original layout's words.
void check_original_fields(const Json& json, const ModelConfig& config) {
  expect_same(json, "d_model", config.d_model, "hidden_size");
  expect_same(json, "n_layer", config.n_layers, "num_hidden_layers");
  expect_same(json, "d_inner", config.d_inner, "intermediate_size");
  expect_flag(json, "rms_norm", true);
  if (json.has("ssm_cfg")) check_mixer_is_mamba1(json.at("ssm_cfg"));
}

// vocab_size counts the padded rows. elapse notes beside it how many of them mean something, so
// that a model comes back from this layout as it went in.
void read_vocabulary(const Json& json, ModelConfig& config) {
  const int64_t rows = config.vocab_size = size(json, "vocab_size");
  if (!json.has("unpadded_vocab_size")) return;
  config.vocab_size = size(json, "unpadded_vocab_size");
  config.pad_vocab_multiple = size(json, "pad_vocab_size_multiple");
  ELAPSE_CHECK(
      config.vocab() == rows, "{}: {} padded to a multiple of {} contradicts vocab_size {}",
      json.at("unpadded_vocab_size").where(), config.vocab_size, config.pad_vocab_multiple, rows);
}

ModelConfig parse_transformers(const Json& json) {
  check_architecture(json);
  expect_text(json, "hidden_act", "silu");
  const bool falcon = json.text("model_type") == "falcon_mamba";
  ModelConfig config;
  config.layout = Layout::transformers;
  config.d_model = size(json, "hidden_size");
  config.n_layers = size(json, "num_hidden_layers");
  read_vocabulary(json, config);
  config.d_inner = size(json, "intermediate_size", size(json, "expand", 2) * config.d_model);
  config.d_state = size(json, "state_size", 16);
  config.d_conv = size(json, "conv_kernel", 4);
  config.dt_rank = dt_rank(json, "time_step_rank", dt_rank_for(config.d_model));
  config.bias = json.boolean("use_bias", false);
  config.conv_bias = json.boolean("use_conv_bias", true);
  config.tied_head = json.boolean("tie_word_embeddings", true);
  config.norm_eps = epsilon(json, "layer_norm_epsilon", 1e-5);
  if (falcon) config.mixer_norm_eps = epsilon(json, "mixer_rms_eps", kFalconMixerEps);
  // Falcon-Mamba-7B says expand 16 beside an intermediate_size of twice hidden_size, which counts.
  ELAPSE_CHECK(
      falcon || !json.has("expand") || size(json, "expand") * config.d_model == config.d_inner,
      "{}: {} contradicts expand {} times hidden_size {}", json.at("intermediate_size").where(),
      config.d_inner, json.integer("expand"), config.d_model);
  check_original_fields(json, config);
  return config;
}

std::string_view torch_name(DType dtype) {
  switch (dtype) {
    case DType::f64:
      return "float64";
    case DType::f16:
      return "float16";
    case DType::bf16:
      return "bfloat16";
    default:
      return "float32";
  }
}

std::string transformers_json(const ModelConfig& c, DType weights) {
  const Architecture& architecture = architecture_of(c.architecture());
  JsonWriter json;
  json.begin_object().field("model_type", architecture.type).key("architectures").begin_array();
  json.value(architecture.name).end_array();
  // transformers does not pad: the padded rows count as classes.
  json.field("vocab_size", c.vocab());
  if (c.pad_vocab_multiple > 1) {
    json.field("unpadded_vocab_size", c.vocab_size);
    json.field("pad_vocab_size_multiple", c.pad_vocab_multiple);
  }
  json.field("hidden_size", c.d_model);
  json.field("num_hidden_layers", c.n_layers).field("state_size", c.d_state);
  if (c.d_inner % c.d_model == 0) json.field("expand", c.d_inner / c.d_model);
  json.field("intermediate_size", c.d_inner).field("conv_kernel", c.d_conv);
  json.field("time_step_rank", c.dt_rank).field("use_bias", c.bias);
  json.field("use_conv_bias", c.conv_bias).field("hidden_act", "silu");
  json.field("layer_norm_epsilon", c.norm_eps);
  if (c.mixer_norm_eps > 0) json.field("mixer_rms_eps", c.mixer_norm_eps);
  json.field("rms_norm", true);
  json.field("residual_in_fp32", true).field("tie_word_embeddings", c.tied_head);
  c.special_tokens.write(json);
  return json.field("torch_dtype", torch_name(weights)).end_object().text();
}

// ---- the original layout

void check_no_attention(const Json& json) {
  if (!json.has("attn_layer_idx")) return;
  const Json layers = json.at("attn_layer_idx");
  ELAPSE_CHECK(layers.items().empty(), "{}: only an empty list (no attention layers) is supported",
               layers.where());
}

void read_ssm_cfg(const Json& ssm, ModelConfig& config) {
  check_mixer_is_mamba1(ssm);
  for (const std::string& key : ssm.keys()) {
    const bool known =
        std::find(kMamba1Fields.begin(), kMamba1Fields.end(), key) != kMamba1Fields.end();
    ELAPSE_CHECK(known, "{}: {} is no field of a Mamba1 mixer", ssm.where(), quote(key));
  }
  config.d_inner = size(ssm, "expand", 2) * config.d_model;
  config.d_state = size(ssm, "d_state", 16);
  config.d_conv = size(ssm, "d_conv", 4);
  config.dt_rank = dt_rank(ssm, "dt_rank", config.dt_rank);
  config.bias = ssm.boolean("bias", false);
  config.conv_bias = ssm.boolean("conv_bias", true);
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
  check_no_attention(json);
  if (json.has("ssm_cfg")) read_ssm_cfg(json.at("ssm_cfg"), config);
  return config;
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

void check_original_can_state(const ModelConfig& c) {
  ELAPSE_CHECK(c.mixer_norm_eps == 0,
               "the original layout has no weightless norms on dt, B and C: Falcon-Mamba stays in "
               "the transformers layout");
  ELAPSE_CHECK(c.norm_eps == kOriginalNormEps,
               "the original layout has no field for the norms' epsilon: expected {}, found {}",
               kOriginalNormEps, c.norm_eps);
  ELAPSE_CHECK(c.d_inner % c.d_model == 0,
               "the original layout states d_inner as a multiple of d_model {}: found {}",
               c.d_model, c.d_inner);
}

void write_tokens(JsonWriter& json, std::string_view key, const std::vector<int64_t>& tokens) {
  if (tokens.size() == 1) {
    json.field(key, tokens.front());
  } else if (!tokens.empty()) {
    json.field(key, tokens);
  }
}

void visit_mixer(const ModelConfig& c, const std::string& prefix,
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

}  // namespace

std::string_view name_of(Layout layout) {
  return layout == Layout::original ? "original" : "transformers";
}

std::vector<int64_t> token_numbers(const Json& json, std::string_view key) {
  if (!json.has(key)) return {};
  const Json value = json.at(key);
  if (!value.is_array()) return {value.integer()};
  std::vector<int64_t> tokens;
  for (const Json& item : value.items()) tokens.push_back(item.integer());
  return tokens;
}

SpecialTokens SpecialTokens::parse(const Json& json) {
  return {token_numbers(json, "bos_token_id"), token_numbers(json, "eos_token_id"),
          token_numbers(json, "pad_token_id")};
}

void SpecialTokens::write(JsonWriter& json) const {
  write_tokens(json, "bos_token_id", bos);
  write_tokens(json, "eos_token_id", eos);
  write_tokens(json, "pad_token_id", pad);
}

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
  const bool transformers = json.has("model_type");
  ELAPSE_CHECK(transformers || json.has("d_model"),
               "{}: expected a field \"model_type\" (\"mamba\" or \"falcon_mamba\", in the "
               "transformers layout) or \"d_model\" (in the original one), found neither",
               json.where());
  ModelConfig config = transformers ? parse_transformers(json) : parse_original(json);
  if (transformers) config.special_tokens = SpecialTokens::parse(json);
  ELAPSE_CHECK(config.d_inner <= kMaxSize, "{}: expected an inner width of at most {}, found {}",
               json.where(), kMaxSize, config.d_inner);
  return config;
}

ModelConfig ModelConfig::in_layout(Layout other) const {
  if (other == Layout::original) check_original_can_state(*this);
  ModelConfig config = *this;
  config.layout = other;
  return config;
}

std::string ModelConfig::json(DType weights) const {
  return layout == Layout::transformers ? transformers_json(*this, weights) : original_json(*this);
}

void ModelConfig::for_each_parameter(const VisitParameter& visit) const {
  visit("backbone.embedding.weight", {vocab(), d_model});
  for (int64_t i = 0; i < n_layers; ++i) {
    const std::string layer = fmt::format("backbone.layers.{}.", i);
    visit(layer + "norm.weight", {d_model});
    visit_mixer(*this, layer + "mixer.", visit);
  }
  visit("backbone.norm_f.weight", {d_model});
  if (!tied_head) visit("lm_head.weight", {vocab(), d_model});
}

int64_t ModelConfig::parameter_count() const {
  int64_t count = 0;
  for_each_parameter([&](const std::string&, const Shape& shape) { count += shape.numel(); });
  return count;
}

int64_t ModelConfig::state_bytes() const {
  const int64_t floats = n_layers * d_inner * (d_state + d_conv - 1);
  return floats * size_of(DType::f32);
}

}  // namespace elapse
