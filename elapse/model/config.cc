// SPDX-License-Identifier: Apache-2.0
#include "elapse/model/config.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <span>

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

constexpr int64_t kMamba2State = 128, kMamba2HeadDim = 64, kMamba2Chunk = 256;
constexpr std::string_view kMamba1Layer = "Mamba1", kMamba2Layer = "Mamba2";

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

MixerKind mixer_of(const Json& ssm_cfg) {
  const std::string layer = ssm_cfg.text("layer", kMamba1Layer);
  ELAPSE_CHECK(layer == kMamba1Layer || layer == kMamba2Layer,
               "{}: expected \"Mamba1\" or \"Mamba2\" (the mixers known), found {}",
               ssm_cfg.at("layer").where(), quote(layer));
  return layer == kMamba1Layer ? MixerKind::mamba : MixerKind::mamba2;
}

// The limits of dt, [least, most]; the published ones are [0.0, Infinity].
void read_dt_limits(const Json& json, std::string_view key, ModelConfig& config) {
  if (!json.has(key)) return;
  const std::vector<Json> limits = json.at(key).items();
  ELAPSE_CHECK(limits.size() == 2, "{}: expected two numbers, found {}", json.at(key).where(),
               limits.size());
  config.dt_min = limits[0].number();
  config.dt_max = limits[1].number();
  ELAPSE_CHECK(config.dt_min >= 0 && config.dt_min < config.dt_max,
               "{}: expected two numbers from 0 up, the second larger, found {} and {}",
               json.at(key).where(), config.dt_min, config.dt_max);
}

void write_dt_limits(JsonWriter& json, std::string_view key, const ModelConfig& c) {
  json.key(key).begin_array().value(c.dt_min);
  if (std::isinf(c.dt_max)) json.infinity();
  else json.value(c.dt_max);
  json.end_array();
}

// `heads`, `groups`: the fields that say how wide a head is and how many groups there are.
void check_heads(const Json& json, const ModelConfig& c, std::string_view heads,
                 std::string_view groups) {
  ELAPSE_CHECK(c.d_inner % c.head_dim == 0, "{}: {} {} does not divide the inner width {}",
               json.where(), heads, c.head_dim, c.d_inner);
  ELAPSE_CHECK(c.d_conv_inner() <= kMaxSize,
               "{}: expected at most {} channels of x, B and C, found {}", json.where(), kMaxSize,
               c.d_conv_inner());
  ELAPSE_CHECK(c.n_heads() % c.n_groups == 0, "{}: {} {} does not divide the {} heads",
               json.where(), groups, c.n_groups, c.n_heads());
}

// ---- transformers' layout

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
  ELAPSE_CHECK(known != nullptr,
               "{}: expected \"mamba\", \"mamba2\" or \"falcon_mamba\" (the architectures known), "
               "found {}",
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

// transformers' own defaults, which are those of no published model.
void read_mamba2(const Json& json, ModelConfig& config) {
  // transformers knows no other width.
  ELAPSE_CHECK(config.d_inner == size(json, "expand", 2) * config.d_model,
               "{}: {} contradicts expand {} times hidden_size {}",
               json.at("intermediate_size").where(), config.d_inner, size(json, "expand", 2),
               config.d_model);
  expect_flag(json, "norm_before_gate", false);
  config.head_dim = size(json, "head_dim", kMamba2HeadDim);
  config.n_groups = size(json, "n_groups", 8);
  config.chunk = size(json, "chunk_size", kMamba2Chunk);
  read_dt_limits(json, "time_step_limit", config);
  check_heads(json, config, "head_dim", "n_groups");
  const int64_t n_heads = size(json, "num_heads", 128);
  ELAPSE_CHECK(n_heads == config.n_heads(),
               "{}: num_heads {} times head_dim {} contradicts the inner width {}", json.where(),
               n_heads, config.head_dim, config.d_inner);
}

ModelConfig parse_transformers(const Json& json) {
  check_architecture(json);
  expect_text(json, "hidden_act", "silu");
  const bool falcon = json.text("model_type") == "falcon_mamba";
  const bool mamba2 = json.text("model_type") == "mamba2";
  ModelConfig config;
  if (mamba2) config.mixer = MixerKind::mamba2;
  config.layout = Layout::transformers;
  config.d_model = size(json, "hidden_size");
  config.n_layers = size(json, "num_hidden_layers");
  read_vocabulary(json, config);
  config.d_inner = size(json, "intermediate_size", size(json, "expand", 2) * config.d_model);
  config.d_state = size(json, "state_size", mamba2 ? kMamba2State : 16);
  config.d_conv = size(json, "conv_kernel", 4);
  if (!mamba2) config.dt_rank = dt_rank(json, "time_step_rank", dt_rank_for(config.d_model));
  config.bias = json.boolean("use_bias", false);
  config.conv_bias = json.boolean("use_conv_bias", true);
  config.tied_head = json.boolean("tie_word_embeddings", !mamba2);
  config.norm_eps = epsilon(json, "layer_norm_epsilon", 1e-5);
  if (falcon) config.mixer_norm_eps = epsilon(json, "mixer_rms_eps", kFalconMixerEps);
  // Falcon-Mamba-7B says expand 16 beside an intermediate_size of twice hidden_size, which counts.
  ELAPSE_CHECK(
      falcon || !json.has("expand") || size(json, "expand") * config.d_model == config.d_inner,
      "{}: {} contradicts expand {} times hidden_size {}", json.at("intermediate_size").where(),
      config.d_inner, json.integer("expand"), config.d_model);
  check_original_fields(json, config);
  if (mamba2) read_mamba2(json, config);
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

void write_mamba2(JsonWriter& json, const ModelConfig& c) {
  json.field("num_heads", c.n_heads()).field("head_dim", c.head_dim);
  json.field("n_groups", c.n_groups).field("chunk_size", c.chunk);
  json.field("norm_before_gate", false);
  write_dt_limits(json, "time_step_limit", c);
}

std::string transformers_json(const ModelConfig& c, DType weights) {
  const Architecture& architecture = *find_architecture(c.architecture());
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

// ---- the original layout

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
  config.d_state = size(ssm, "d_state", 16);
  config.dt_rank = dt_rank(ssm, "dt_rank", config.dt_rank);
}

void read_mamba2_cfg(const Json& ssm, ModelConfig& config) {
  check_fields(ssm, kMamba2Fields, kMamba2Layer);
  expect_flag(ssm, "rmsnorm", true);
  expect_flag(ssm, "norm_before_gate", false);
  expect_same(ssm, "d_ssm", config.d_inner, "the inner width");
  config.dt_rank = 0;
  config.d_state = size(ssm, "d_state", kMamba2State);
  config.head_dim = size(ssm, "headdim", kMamba2HeadDim);
  config.n_groups = size(ssm, "ngroups", 1);
  config.chunk = size(ssm, "chunk_size", kMamba2Chunk);
  config.D_by_channel = ssm.boolean("D_has_hdim", false);
  read_dt_limits(ssm, "dt_limit", config);
  check_heads(ssm, config, "headdim", "ngroups");
}

void read_ssm_cfg(const Json& ssm, ModelConfig& config) {
  config.mixer = mixer_of(ssm);
  config.d_inner = size(ssm, "expand", 2) * config.d_model;
  config.d_conv = size(ssm, "d_conv", 4);
  if (config.mixer == MixerKind::mamba2) read_mamba2_cfg(ssm, config);
  else read_mamba1_cfg(ssm, config);
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

void write_mamba2_cfg(JsonWriter& json, const ModelConfig& c) {
  json.field("layer", kMamba2Layer).field("headdim", c.head_dim).field("ngroups", c.n_groups);
  json.field("chunk_size", c.chunk);
  if (c.D_by_channel) json.field("D_has_hdim", true);
  if (c.dt_min > 0 || !std::isinf(c.dt_max)) write_dt_limits(json, "dt_limit", c);
}

std::string original_json(const ModelConfig& c) {
  JsonWriter json;
  json.begin_object().field("d_model", c.d_model).field("n_layer", c.n_layers);
  json.field("vocab_size", c.vocab_size).key("ssm_cfg").begin_object();
  if (c.mixer == MixerKind::mamba2) write_mamba2_cfg(json, c);
  else json.field("dt_rank", c.dt_rank);
  json.field("d_state", c.d_state).field("d_conv", c.d_conv);
  json.field("expand", c.d_inner / c.d_model);
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

void check_transformers_can_state(const ModelConfig& c) {
  ELAPSE_CHECK(!c.D_by_channel,
               "the transformers layout has one number of D for each head: a model with D_has_hdim "
               "stays in the original layout");
}

void write_tokens(JsonWriter& json, std::string_view key, const std::vector<int64_t>& tokens) {
  if (tokens.size() == 1) {
    json.field(key, tokens.front());
  } else if (!tokens.empty()) {
    json.field(key, tokens);
  }
}

void visit_mamba2(const ModelConfig& c, const std::string& prefix,
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

void visit_mixer(const ModelConfig& c, const std::string& prefix,
                 const ModelConfig::VisitParameter& visit) {
  if (c.mixer == MixerKind::mamba2) return visit_mamba2(c, prefix, visit);
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

std::string_view name_of(MixerKind mixer) { return mixer == MixerKind::mamba ? "mamba" : "mamba2"; }

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

ModelConfig ModelConfig::mamba2(int64_t d_model, int64_t n_layers, int64_t vocab_size) {
  ModelConfig config;
  config.mixer = MixerKind::mamba2;
  config.d_model = d_model;
  config.n_layers = n_layers;
  config.vocab_size = vocab_size;
  config.d_inner = 2 * d_model;
  config.d_state = kMamba2State;
  config.head_dim = std::gcd(config.d_inner, kMamba2HeadDim);
  config.chunk = kMamba2Chunk;
  return config;
}

ModelConfig ModelConfig::parse(const Json& json) {
  const bool transformers = json.has("model_type");
  ELAPSE_CHECK(transformers || json.has("d_model"),
               "{}: expected a field \"model_type\" (\"mamba\", \"mamba2\" or "
               "\"falcon_mamba\", in the transformers layout) or \"d_model\" (in the original "
               "one), found neither",
               json.where());
  ModelConfig config = transformers ? parse_transformers(json) : parse_original(json);
  if (transformers) config.special_tokens = SpecialTokens::parse(json);
  ELAPSE_CHECK(config.d_inner <= kMaxSize, "{}: expected an inner width of at most {}, found {}",
               json.where(), kMaxSize, config.d_inner);
  return config;
}

ModelConfig ModelConfig::in_layout(Layout other) const {
  if (other == Layout::original) check_original_can_state(*this);
  else check_transformers_can_state(*this);
  ModelConfig config = *this;
  config.layout = other;
  return config;
}

std::string_view ModelConfig::architecture() const {
  return mixer_norm_eps > 0 ? "falcon_mamba" : name_of(mixer);
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
  const int64_t floats = n_layers * (d_inner * d_state + d_conv_inner() * (d_conv - 1));
  return floats * size_of(DType::f32);
}

}  // namespace elapse
