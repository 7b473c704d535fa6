// SPDX-License-Identifier: Apache-2.0
#include "elapse/model/config.h"

#include "elapse/core/error.h"
#include "elapse/io/messages.h"
#include "elapse/mixers/attention.h"
#include "elapse/model/config_fields.h"
#include "elapse/model/config_layouts.h"
#include "elapse/model/mixer_form.h"
#include "elapse/model/mlp.h"
#include "elapse/model/norm.h"

namespace elapse {
namespace {

int64_t token_number(const Json& json, int64_t vocab) {
  const int64_t token = json.integer();
  ELAPSE_CHECK(token >= 0 && token < vocab,
               "{}: expected a token of the vocabulary, 0 to {}, found {}", json.where(), vocab - 1,
               token);
  return token;
}

void write_tokens(JsonWriter& json, std::string_view key, const std::vector<int64_t>& tokens) {
  if (tokens.size() == 1) {
    json.field(key, tokens.front());
  } else if (!tokens.empty()) {
    json.field(key, tokens);
  }
}

// Counts of what a file describes fit their integers, and take no time.
void check_totals(const Json& json, const ModelConfig& config) {
  constexpr int64_t kMaxLayers = 1 << 16;
  constexpr double kMaxNumbers = 0x1p56;
  ELAPSE_CHECK(config.n_layers <= kMaxLayers, "{}: expected at most {} layers, found {}",
               json.where(), kMaxLayers, config.n_layers);
  double weights = 0, state = 0;
  config.for_each_parameter([&](const std::string&, const Shape& shape) {
    weights += static_cast<double>(shape.numel());
  });
  for (int64_t i = 0; i < config.n_layers; ++i) {
    state += static_cast<double>(form_of(config.mixer).state_size(config, i));
  }
  ELAPSE_CHECK(weights <= kMaxNumbers && state <= kMaxNumbers,
               "{}: expected at most 2^56 weights and numbers of state, found {:.3g} and {:.3g}",
               json.where(), weights, state);
}

}  // namespace

std::string_view name_of(Layout layout) {
  return layout == Layout::original ? "original" : "transformers";
}

std::string_view name_of(MlpKind mlp) {
  constexpr std::string_view kNames[] = {"swiglu", "gelu", "gelu_tanh"};
  return kNames[static_cast<size_t>(mlp)];
}

std::vector<int64_t> token_numbers(const Json& json, std::string_view key, int64_t vocab) {
  if (!json.has(key)) return {};
  const Json value = json.at(key);
  if (!value.is_array()) return {token_number(value, vocab)};
  std::vector<int64_t> tokens;
  for (const Json& item : value.items()) tokens.push_back(token_number(item, vocab));
  return tokens;
}

SpecialTokens SpecialTokens::parse(const Json& json, int64_t vocab) {
  return {token_numbers(json, "bos_token_id", vocab), token_numbers(json, "eos_token_id", vocab),
          token_numbers(json, "pad_token_id", vocab)};
}

void SpecialTokens::write(JsonWriter& json) const {
  write_tokens(json, "bos_token_id", bos);
  write_tokens(json, "eos_token_id", eos);
  write_tokens(json, "pad_token_id", pad);
}

ModelConfig ModelConfig::of(MixerKind mixer, int64_t d_model, int64_t n_layers,
                            int64_t vocab_size) {
  ModelConfig config;
  if (!is_mamba(mixer)) config.layout = Layout::original;
  config.mixer = mixer;
  config.d_model = d_model;
  config.n_layers = n_layers;
  config.vocab_size = vocab_size;
  form_of(mixer).set_defaults(config);
  return config;
}

ModelConfig ModelConfig::mamba(int64_t d_model, int64_t n_layers, int64_t vocab_size) {
  return of(MixerKind::mamba, d_model, n_layers, vocab_size);
}

ModelConfig ModelConfig::mamba2(int64_t d_model, int64_t n_layers, int64_t vocab_size) {
  return of(MixerKind::mamba2, d_model, n_layers, vocab_size);
}

ModelConfig ModelConfig::transformer_plus_plus(int64_t d_model, int64_t n_layers,
                                               int64_t vocab_size) {
  constexpr int64_t kMultiple = 64;
  ModelConfig config = of(MixerKind::attention, d_model, n_layers, vocab_size);
  config.d_intermediate = (8 * d_model + 3 * kMultiple - 1) / (3 * kMultiple) * kMultiple;
  return config;
}

ModelConfig ModelConfig::gpt2(int64_t d_model, int64_t n_layers, int64_t vocab_size,
                              int64_t max_positions) {
  ModelConfig config = of(MixerKind::attention, d_model, n_layers, vocab_size);
  config.positions = Positions::none;
  config.rope_theta = 0;
  config.max_positions = max_positions;
  config.norm = NormKind::layer;
  config.d_intermediate = 4 * d_model;
  config.mlp = MlpKind::gelu_tanh;
  config.mlp_bias = config.qkv_bias = config.out_bias = true;
  return config;
}

ModelConfig ModelConfig::parse(const Json& json) {
  const bool transformers = json.has("model_type");
  ELAPSE_CHECK(transformers || json.has("d_model"),
               "{}: expected a field \"model_type\" (\"mamba\", \"mamba2\", \"falcon_mamba\", "
               "\"llama\" or \"mistral\", in the transformers layout) or \"d_model\" (in the "
               "original one), found neither",
               json.where());
  const ModelConfig config = !transformers           ? parse_original(json)
                             : is_llama_layout(json) ? parse_llama(json)
                                                     : parse_transformers(json);
  ELAPSE_CHECK(config.d_inner <= kMaxSize, "{}: expected an inner width of at most {}, found {}",
               json.where(), kMaxSize, config.d_inner);
  check_totals(json, config);
  return config;
}

void ModelConfig::choose_selection(bool dt, bool B, bool C, bool with_gate) {
  ELAPSE_CHECK(mixer == MixerKind::mamba,
               "selection and gate are a choice of mamba mixers, not of {}", name_of(mixer));
  selective_dt = dt;
  selective_B = B;
  selective_C = C;
  gate = with_gate;
  if (!has_published_selection()) layout = Layout::original;
}

ModelConfig ModelConfig::in_layout(Layout other) const {
  if (other == Layout::original) check_original_can_state(*this);
  else if (mixer == MixerKind::attention) check_llama_can_state(*this);
  else check_transformers_can_state(*this);
  ModelConfig config = *this;
  config.layout = other;
  return config;
}

void ModelConfig::expect_mamba(std::string_view method) const {
  ELAPSE_CHECK(is_mamba(mixer), "{} reads what Mamba mixers alone have: this model's are {}",
               method, name_of(mixer));
}

std::string_view ModelConfig::architecture() const {
  if (mixer == MixerKind::attention && layout == Layout::transformers) {
    return window > 0 ? "mistral" : "llama";
  }
  return mixer_norm_eps > 0 ? "falcon_mamba" : name_of(mixer);
}

std::string ModelConfig::json(DType weights) const {
  if (layout == Layout::original) return original_json(*this);
  return mixer == MixerKind::attention ? llama_json(*this, weights)
                                       : transformers_json(*this, weights);
}

void ModelConfig::for_each_parameter(const VisitParameter& visit) const {
  visit("backbone.embedding.weight", {vocab(), d_model});
  if (max_positions > 0) visit("backbone.positions.weight", {max_positions, d_model});
  for (int64_t i = 0; i < n_layers; ++i) {
    const std::string layer = fmt::format("backbone.layers.{}.", i);
    Norm::for_each_parameter(*this, layer + "norm", visit);
    form_of(mixer).visit(*this, i, layer + "mixer.", visit);
    if (d_intermediate == 0) continue;
    Norm::for_each_parameter(*this, layer + "norm2", visit);
    Mlp::for_each_parameter(*this, layer + "mlp.", visit);
  }
  Norm::for_each_parameter(*this, "backbone.norm_f", visit);
  if (!tied_head) visit("lm_head.weight", {vocab(), d_model});
}

int64_t ModelConfig::parameter_count() const {
  int64_t count = 0;
  for_each_parameter([&](const std::string&, const Shape& shape) { count += shape.numel(); });
  return count;
}

int64_t ModelConfig::state_bytes() const {
  int64_t numbers = 0;
  for (int64_t i = 0; i < n_layers; ++i) numbers += form_of(mixer).state_size(*this, i);
  return numbers * size_of(DType::f32);
}

int64_t ModelConfig::state_bytes_per_token() const {
  return n_layers * 2 * n_kv_heads * (n_kv_heads > 0 ? head_dim : 0) * size_of(DType::f32);
}

}  // namespace elapse
