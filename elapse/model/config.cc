// SPDX-License-Identifier: Apache-2.0
#include "elapse/model/config.h"

#include "elapse/core/error.h"
#include "elapse/io/messages.h"
#include "elapse/model/config_fields.h"
#include "elapse/model/config_layouts.h"
#include "elapse/model/mixer_form.h"

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

}  // namespace

std::string_view name_of(Layout layout) {
  return layout == Layout::original ? "original" : "transformers";
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

ModelConfig ModelConfig::parse(const Json& json) {
  const bool transformers = json.has("model_type");
  ELAPSE_CHECK(transformers || json.has("d_model"),
               "{}: expected a field \"model_type\" (\"mamba\", \"mamba2\" or "
               "\"falcon_mamba\", in the transformers layout) or \"d_model\" (in the original "
               "one), found neither",
               json.where());
  const ModelConfig config = transformers ? parse_transformers(json) : parse_original(json);
  ELAPSE_CHECK(config.d_inner <= kMaxSize, "{}: expected an inner width of at most {}, found {}",
               json.where(), kMaxSize, config.d_inner);
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
    form_of(mixer).visit(*this, i, layer + "mixer.", visit);
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
  int64_t numbers = 0;
  for (int64_t i = 0; i < n_layers; ++i) numbers += form_of(mixer).state_size(*this, i);
  return numbers * size_of(DType::f32);
}

}  // namespace elapse
