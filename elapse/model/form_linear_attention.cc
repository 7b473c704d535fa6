// SPDX-License-Identifier: Apache-2.0
#include <array>
#include <numeric>

#include "elapse/core/error.h"
#include "elapse/mixers/linear_attention.h"
#include "elapse/model/config_fields.h"
#include "elapse/model/mixer_forms.h"
#include "elapse/ops/gated_linear_attention.h"

namespace elapse {
namespace {

constexpr std::array<std::string_view, 3> kFields = {"num_heads", "head_k_dim", "head_v_dim"};
constexpr int64_t kHeadDim = 64;  // of keys: or as many as divide both 64 and d_model
constexpr int64_t kGlaHeads = 4;  // published, with keys half as wide as d_model; or as many as
                                  // divide both
constexpr int64_t kGlaLowRank = LinearAttentionConfig::kLowRank;

// ModelConfig's words: a head's keys are its d_state, its values its head_dim.
void set_heads(ModelConfig& c, int64_t n_heads, int64_t d_k, int64_t d_v) {
  c.d_inner = n_heads * d_v;
  c.head_dim = d_v;
  c.d_state = d_k;
}

void set_plain_defaults(ModelConfig& c) {
  const int64_t d_k = std::gcd(c.d_model, kHeadDim);
  set_heads(c, c.d_model / d_k, d_k, d_k);
}

void set_retnet_defaults(ModelConfig& c) {
  const int64_t d_k = std::gcd(c.d_model, kHeadDim);
  set_heads(c, c.d_model / d_k, d_k, 2 * d_k);
}

void set_gla_defaults(ModelConfig& c) {
  const int64_t n_heads = std::max<int64_t>(1, std::gcd(c.d_model, 2 * kGlaHeads) / 2);
  set_heads(c, n_heads, std::max<int64_t>(1, c.d_model / 2 / n_heads), c.d_model / n_heads);
}

void read(const Json& ssm_cfg, ModelConfig& c) {
  const int64_t n_heads = size_field(ssm_cfg, "num_heads", c.n_heads());
  const int64_t d_k = size_field(ssm_cfg, "head_k_dim", c.d_state);
  const int64_t d_v = size_field(ssm_cfg, "head_v_dim", c.head_dim);
  ELAPSE_CHECK(n_heads * d_k <= kMaxSize && n_heads * d_v <= kMaxSize,
               "{}: expected at most {} channels of keys and of values, found {} and {}",
               ssm_cfg.where(), kMaxSize, n_heads * d_k, n_heads * d_v);
  set_heads(c, n_heads, d_k, d_v);
}

void write(JsonWriter& json, const ModelConfig& c) {
  json.field("num_heads", c.n_heads()).field("head_k_dim", c.d_state);
  json.field("head_v_dim", c.head_dim);
}

void visit_parameters(const ModelConfig& c, int64_t, const std::string& prefix,
                      const ModelConfig::VisitParameter& visit) {
  const int64_t keys = c.n_heads() * c.d_state;
  visit(prefix + "q_proj.weight", {keys, c.d_model});
  visit(prefix + "k_proj.weight", {keys, c.d_model});
  visit(prefix + "v_proj.weight", {c.d_inner, c.d_model});
  if (c.mixer != MixerKind::linear_attention) {
    visit(prefix + "g_proj.weight", {c.d_inner, c.d_model});
  }
  if (c.mixer == MixerKind::gla) {
    visit(prefix + "gk_proj.0.weight", {kGlaLowRank, c.d_model});
    visit(prefix + "gk_proj.1.weight", {keys, kGlaLowRank});
    visit(prefix + "gk_proj.1.bias", {keys});
    visit(prefix + "g_norm.weight", {c.head_dim});
  }
  visit(prefix + "o_proj.weight", {c.d_model, c.d_inner});
}

int64_t state_size(const ModelConfig& c, int64_t) {
  const bool normalised = c.mixer == MixerKind::linear_attention;
  return (c.d_inner + (normalised ? c.n_heads() : 0)) * c.d_state;
}

// Linear attention and RetNet run as Mamba-2's dual with a group for each head; the normaliser is
// one more channel of each head.
double mixing_operations(const ModelConfig& c, const StepShape& step) {
  const int64_t n_heads = c.n_heads();
  if (c.mixer == MixerKind::gla) {
    const int64_t head = gla_multiplications(c.d_state, c.head_dim, step.length);
    return 2 * static_cast<double>(n_heads * head) / static_cast<double>(step.length);
  }
  const double readout = ssd_operations(step, c.d_inner, c.d_state, n_heads);
  if (c.mixer == MixerKind::retnet) return readout;
  return readout + ssd_operations(step, n_heads, c.d_state, n_heads);
}

constexpr MixerForm form(std::string_view name, std::string_view title,
                         void (*set_defaults)(ModelConfig&)) {
  return {name,         title,
          name,         kFields,
          set_defaults, read,
          write,        visit_parameters,
          state_size,   mixing_operations};
}

}  // namespace

constinit const MixerForm kLinearAttentionForm =
    form("linear_attention", "Linear attention", set_plain_defaults);
constinit const MixerForm kRetNetForm = form("retnet", "RetNet", set_retnet_defaults);
constinit const MixerForm kGlaForm = form("gla", "GLA", set_gla_defaults);

}  // namespace elapse
