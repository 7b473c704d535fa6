// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

#include "elapse/core/error.h"
#include "elapse/io/messages.h"
#include "elapse/mixers/attention.h"
#include "elapse/model/config_fields.h"
#include "elapse/model/mixer_forms.h"

namespace elapse {
namespace {

constexpr int64_t kHeadDim = 64;
constexpr double kRopeTheta = 10000;
// The first five as in state-spaces/mamba's attn_cfg.
constexpr std::array<std::string_view, 10> kFields = {
    "num_heads", "num_heads_kv", "head_dim",     "qkv_proj_bias", "out_proj_bias",
    "positions", "rope_theta",   "rope_scaling", "window",        "dilation"};
constexpr std::array<std::string_view, 3> kPositions = {"none", "rotary", "xpos"};

void set_defaults(ModelConfig& c) {
  c.d_inner = c.d_model;
  c.head_dim = std::gcd(c.d_model, kHeadDim);
  c.n_kv_heads = c.n_heads();
  c.positions = c.head_dim % 2 == 0 ? Positions::rotary : Positions::none;
  c.rope_theta = c.positions == Positions::none ? 0 : kRopeTheta;
  c.dilation = 1;
}

Positions positions_named(const Json& ssm_cfg, Positions fallback) {
  const std::string name = ssm_cfg.text("positions", kPositions[static_cast<size_t>(fallback)]);
  for (size_t i = 0; i < kPositions.size(); ++i) {
    if (name == kPositions[i]) return static_cast<Positions>(i);
  }
  fail("{}: expected \"none\", \"rotary\" or \"xpos\", found {}", ssm_cfg.at("positions").where(),
       quote(name));
}

void read_positions(const Json& ssm_cfg, ModelConfig& c) {
  c.positions = positions_named(ssm_cfg, c.head_dim % 2 == 0 ? Positions::rotary : Positions::none);
  if (c.positions == Positions::none) {
    for (const char* key : {"rope_theta", "rope_scaling"}) {
      ELAPSE_CHECK(!ssm_cfg.has(key), "{}: there are no positions to rotate",
                   ssm_cfg.at(key).where());
    }
    c.rope_theta = 0;
    return;
  }
  ELAPSE_CHECK(c.head_dim % 2 == 0, "{}: expected an even head_dim, found {}",
               ssm_cfg.at("positions").where(), c.head_dim);
  c.rope_theta = rope_theta_field(ssm_cfg, "rope_theta", kRopeTheta);
  if (ssm_cfg.has("rope_scaling")) c.rope_scaling = read_rope_scaling(ssm_cfg.at("rope_scaling"));
}

void read(const Json& ssm_cfg, ModelConfig& c) {
  if (ssm_cfg.has("num_heads")) {
    read_attention_heads(ssm_cfg, "num_heads", "num_heads_kv", c);
  } else {
    for (const char* key : {"head_dim", "num_heads_kv"}) {
      ELAPSE_CHECK(!ssm_cfg.has(key), "{}: expected num_heads beside it, found none",
                   ssm_cfg.at(key).where());
    }
  }
  read_positions(ssm_cfg, c);
  c.qkv_bias = ssm_cfg.boolean("qkv_proj_bias", false);
  c.out_bias = ssm_cfg.boolean("out_proj_bias", false);
  if (ssm_cfg.has("window")) c.window = size_field(ssm_cfg, "window");
  c.dilation = size_field(ssm_cfg, "dilation", 1);
}

void write(JsonWriter& json, const ModelConfig& c) {
  json.field("num_heads", c.n_heads()).field("num_heads_kv", c.n_kv_heads);
  json.field("head_dim", c.head_dim);
  json.field("positions", kPositions[static_cast<size_t>(c.positions)]);
  if (c.positions != Positions::none) json.field("rope_theta", c.rope_theta);
  write_rope_scaling(json, c.rope_scaling);
  if (c.window > 0) json.field("window", c.window);
  if (c.dilation > 1) json.field("dilation", c.dilation);
  json.field("qkv_proj_bias", c.qkv_bias).field("out_proj_bias", c.out_bias);
}

void visit_parameters(const ModelConfig& c, int64_t, const std::string& prefix,
                      const ModelConfig::VisitParameter& visit) {
  const auto projection = [&](const char* name, int64_t out, int64_t in, bool bias) {
    visit(fmt::format("{}{}.weight", prefix, name), {out, in});
    if (bias) visit(fmt::format("{}{}.bias", prefix, name), {out});
  };
  const int64_t kv_width = c.n_kv_heads * c.head_dim;
  projection("q_proj", c.d_inner, c.d_model, c.qkv_bias);
  projection("k_proj", kv_width, c.d_model, c.qkv_bias);
  projection("v_proj", kv_width, c.d_model, c.qkv_bias);
  projection("o_proj", c.d_model, c.d_inner, c.out_bias);
}

int64_t state_size(const ModelConfig&, int64_t) { return 0; }

// A score and its value's share, of every channel and token seen: of these the mean over the
// sequence.
double mixing_operations(const ModelConfig& c, const StepShape& step) {
  int64_t pairs = 0;
  for (int64_t t = 0; t < step.length; ++t) {
    const int64_t within = c.window == 0 ? t + 1 : std::min(t + 1, c.window);
    pairs += (within + c.dilation - 1) / c.dilation;
  }
  return 4 * static_cast<double>(c.d_inner * pairs) / static_cast<double>(step.length);
}

}  // namespace

constinit const MixerForm kAttentionForm = {
    "attention", "Attention", "attention",      kFields,    set_defaults,
    read,        write,       visit_parameters, state_size, mixing_operations};

}  // namespace elapse
