// SPDX-License-Identifier: Apache-2.0
#include "elapse/model/config.h"

#include <algorithm>
#include <numeric>

#include "elapse/core/error.h"
#include "elapse/io/messages.h"
#include "elapse/model/config_fields.h"
#include "elapse/model/config_layouts.h"

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

void visit_recurrent(const ModelConfig& c, const std::string& prefix,
                     const ModelConfig::VisitParameter& visit) {
  const int64_t gates = gate_count(cell_of(c.mixer)) * c.d_inner;
  visit(prefix + "weight_ih_l0", {gates, c.d_model});
  visit(prefix + "weight_hh_l0", {gates, c.d_inner});
  visit(prefix + "bias_ih_l0", {gates});
  visit(prefix + "bias_hh_l0", {gates});
  visit(prefix + "out_proj.weight", {c.d_model, c.d_inner});
}

void visit_mixer(const ModelConfig& c, const std::string& prefix,
                 const ModelConfig::VisitParameter& visit) {
  if (is_recurrent(c.mixer)) return visit_recurrent(c, prefix, visit);
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

const std::vector<std::string>& mixer_names() {
  static const std::vector<std::string> names = {"mamba", "mamba2", "rnn", "lstm", "gru"};
  return names;
}

std::string_view name_of(MixerKind mixer) { return mixer_names()[static_cast<size_t>(mixer)]; }

std::string_view title_of(MixerKind mixer) {
  constexpr std::string_view kTitles[] = {"Mamba", "Mamba-2", "RNN", "LSTM", "GRU"};
  return kTitles[static_cast<size_t>(mixer)];
}

MixerKind mixer_named(std::string_view name) {
  const auto found = std::find(mixer_names().begin(), mixer_names().end(), name);
  ELAPSE_CHECK(found != mixer_names().end(), "mixer {}: expected one of {}", quote(name),
               fmt::join(mixer_names(), ", "));
  return static_cast<MixerKind>(found - mixer_names().begin());
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

ModelConfig ModelConfig::recurrent(MixerKind cell, int64_t d_model, int64_t n_layers,
                                   int64_t vocab_size) {
  ModelConfig config;
  config.layout = Layout::original;
  config.d_model = d_model;
  config.n_layers = n_layers;
  config.vocab_size = vocab_size;
  make_recurrent(config, cell);
  return config;
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

ModelConfig ModelConfig::in_layout(Layout other) const {
  if (other == Layout::original) check_original_can_state(*this);
  else check_transformers_can_state(*this);
  ModelConfig config = *this;
  config.layout = other;
  return config;
}

void ModelConfig::expect_mamba(std::string_view method) const {
  ELAPSE_CHECK(!is_recurrent(mixer), "{} reads what Mamba mixers alone have: this model's are {}",
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
  if (is_recurrent(mixer)) {
    return n_layers * state_rows(cell_of(mixer)) * d_inner * size_of(DType::f32);
  }
  const int64_t floats = n_layers * (d_inner * d_state + d_conv_inner() * (d_conv - 1));
  return floats * size_of(DType::f32);
}

}  // namespace elapse
