// SPDX-License-Identifier: Apache-2.0
#include "elapse/model/config_fields.h"

#include <cassert>
#include <cmath>
#include <limits>

#include "elapse/core/error.h"
#include "elapse/io/messages.h"

namespace elapse {
namespace {

// Of float32's normal numbers, in which models compute.
constexpr double kLeastFloat = std::numeric_limits<float>::min();
constexpr double kLargestFloat = std::numeric_limits<float>::max();

bool is_limit(double dt) { return dt >= 0 && (dt <= kLargestFloat || std::isinf(dt)); }

}  // namespace

int64_t size_field(const Json& json, std::string_view key) {
  const int64_t value = json.positive_integer(key);
  ELAPSE_CHECK(value <= kMaxSize, "{}: expected at most {}, found {}", json.at(key).where(),
               kMaxSize, value);
  return value;
}

int64_t size_field(const Json& json, std::string_view key, int64_t fallback) {
  return json.has(key) ? size_field(json, key) : fallback;
}

double epsilon_field(const Json& json, std::string_view key, double fallback) {
  const double value = json.number(key, fallback);
  ELAPSE_CHECK(value >= kLeastFloat && value < 1,
               "{}: expected a number from {:.3g} to 1, found {}", json.at(key).where(),
               kLeastFloat, value);
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

void expect_same(const Json& json, std::string_view key, int64_t value, std::string_view first) {
  const int64_t found = json.integer(key, value);
  ELAPSE_CHECK(found == value, "{}: {} contradicts {} {}", json.at(key).where(), found, first,
               value);
}

void expect_flags(const Json& json, std::initializer_list<std::string_view> keys) {
  for (const std::string_view key : keys) json.boolean(key, true);
}

std::string stated(const Json& json, std::string_view key, int64_t value) {
  return fmt::format("{} {}{}", key, value, json.has(key) ? "" : " (the default)");
}

int64_t dt_rank_field(const Json& json, std::string_view key, int64_t automatic) {
  if (!json.has(key) || !json.at(key).is_text()) return size_field(json, key, automatic);
  ELAPSE_CHECK(json.text(key) == "auto", "{}: expected a positive integer or \"auto\", found {}",
               json.at(key).where(), quote(json.text(key)));
  return automatic;
}

int64_t dt_rank_for(int64_t d_model) { return (d_model + 15) / 16; }

Cell cell_of(MixerKind recurrent) {
  assert(is_recurrent(recurrent));
  if (recurrent == MixerKind::lstm) return Cell::lstm;
  return recurrent == MixerKind::gru ? Cell::gru : Cell::rnn;
}

void read_block(const Json& ssm_cfg, ModelConfig& c) {
  c.d_inner = size_field(ssm_cfg, "expand", 2) * c.d_model;
  c.d_conv = size_field(ssm_cfg, "d_conv", c.d_conv);
  c.bias = ssm_cfg.boolean("bias", c.bias);
  c.conv_bias = ssm_cfg.boolean("conv_bias", c.conv_bias);
}

void write_block(JsonWriter& json, const ModelConfig& c) {
  json.field("d_state", c.d_state).field("d_conv", c.d_conv);
  json.field("expand", c.d_inner / c.d_model);
  json.field("bias", c.bias).field("conv_bias", c.conv_bias);
}

void read_vocabulary(const Json& json, ModelConfig& config) {
  const int64_t rows = config.vocab_size = size_field(json, "vocab_size");
  if (!json.has("unpadded_vocab_size")) return;
  config.vocab_size = size_field(json, "unpadded_vocab_size");
  config.pad_vocab_multiple = size_field(json, "pad_vocab_size_multiple");
  ELAPSE_CHECK(
      config.vocab() == rows, "{}: {} padded to a multiple of {} contradicts vocab_size {}",
      json.at("unpadded_vocab_size").where(), config.vocab_size, config.pad_vocab_multiple, rows);
}

void write_vocabulary(JsonWriter& json, const ModelConfig& c) {
  json.field("vocab_size", c.vocab());
  if (c.pad_vocab_multiple == 1) return;
  json.field("unpadded_vocab_size", c.vocab_size);
  json.field("pad_vocab_size_multiple", c.pad_vocab_multiple);
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

void read_attention_heads(const Json& json, std::string_view heads, std::string_view kv_heads,
                          ModelConfig& config) {
  const int64_t n_heads = size_field(json, heads);
  if (json.has("head_dim")) {
    config.head_dim = size_field(json, "head_dim");
  } else {
    ELAPSE_CHECK(config.d_model % n_heads == 0, "{}: {} does not divide the width {}",
                 json.at(heads).where(), n_heads, config.d_model);
    config.head_dim = config.d_model / n_heads;
  }
  config.d_inner = n_heads * config.head_dim;
  ELAPSE_CHECK(config.d_inner <= kMaxSize,
               "{}: expected at most {} channels in all heads, found {}", json.where(), kMaxSize,
               config.d_inner);
  config.n_kv_heads = size_field(json, kv_heads, n_heads);
  ELAPSE_CHECK(n_heads % config.n_kv_heads == 0, "{}: {} does not divide {} {}",
               json.at(kv_heads).where(), config.n_kv_heads, heads, n_heads);
}

double rope_theta_field(const Json& json, std::string_view key, double fallback) {
  const double value = json.number(key, fallback);
  ELAPSE_CHECK(value > 1 && value <= kLargestFloat, "{}: expected a number above 1, found {}",
               json.at(key).where(), value);
  return value;
}

RopeScaling read_rope_scaling(const Json& json) {
  const char* key =
      json.has("rope_type") ? "rope_type" : "type";  // files before 2024 have the latter
  const std::string type = json.text(key, "default");
  RopeScaling scaling;
  if (type == "default") return scaling;
  ELAPSE_CHECK(type == "llama3", "{}: expected \"default\" or \"llama3\", found {}",
               json.at(key).where(), quote(type));
  const auto positive = [&](std::string_view field) {
    const double value = json.number(field);
    ELAPSE_CHECK(value > 0 && value <= kLargestFloat, "{}: expected a positive number, found {}",
                 json.at(field).where(), value);
    return value;
  };
  scaling.factor = positive("factor");
  scaling.low_turns = positive("low_freq_factor");
  scaling.high_turns = positive("high_freq_factor");
  scaling.original_positions = size_field(json, "original_max_position_embeddings");
  ELAPSE_CHECK(scaling.factor != 1, "{}: expected another factor than 1, found {}",
               json.at("factor").where(), scaling.factor);
  ELAPSE_CHECK(scaling.high_turns > scaling.low_turns, "{}: {} is not above low_freq_factor {}",
               json.at("high_freq_factor").where(), scaling.high_turns, scaling.low_turns);
  return scaling;
}

void write_rope_scaling(JsonWriter& json, const RopeScaling& scaling) {
  if (scaling.factor == 1) return;
  json.key("rope_scaling").begin_object().field("rope_type", "llama3");
  json.field("factor", scaling.factor).field("low_freq_factor", scaling.low_turns);
  json.field("high_freq_factor", scaling.high_turns);
  json.field("original_max_position_embeddings", scaling.original_positions).end_object();
}

void read_dt_limits(const Json& json, std::string_view key, ModelConfig& config) {
  if (!json.has(key)) return;
  const std::vector<Json> limits = json.at(key).items();
  ELAPSE_CHECK(limits.size() == 2, "{}: expected two numbers, found {}", json.at(key).where(),
               limits.size());
  config.dt_min = limits[0].number();
  config.dt_max = limits[1].number();
  const bool are_limits = is_limit(config.dt_min) && is_limit(config.dt_max);
  ELAPSE_CHECK(
      are_limits && static_cast<float>(config.dt_min) < static_cast<float>(config.dt_max),
      "{}: expected two numbers from 0 up, the second larger, in float32 or Infinity, found {} and "
      "{}",
      json.at(key).where(), config.dt_min, config.dt_max);
}

void write_dt_limits(JsonWriter& json, std::string_view key, const ModelConfig& c) {
  json.key(key).begin_array().value(c.dt_min);
  if (std::isinf(c.dt_max)) json.infinity();
  else json.value(c.dt_max);
  json.end_array();
}

void check_heads(const Json& json, const ModelConfig& c, std::string_view heads,
                 std::string_view groups) {
  ELAPSE_CHECK(c.d_inner % c.head_dim == 0, "{}: {} does not divide the inner width {}",
               json.where(), stated(json, heads, c.head_dim), c.d_inner);
  ELAPSE_CHECK(c.d_conv_inner() <= kMaxSize,
               "{}: expected at most {} channels of x, B and C, found {}", json.where(), kMaxSize,
               c.d_conv_inner());
  ELAPSE_CHECK(c.n_heads() % c.n_groups == 0, "{}: {} does not divide the {} heads", json.where(),
               stated(json, groups, c.n_groups), c.n_heads());
}

}  // namespace elapse
