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
