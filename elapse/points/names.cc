// SPDX-License-Identifier: Apache-2.0
#include "elapse/points/names.h"

#include <array>
#include <charconv>
#include <utility>

namespace elapse {
namespace {

using Alias = std::pair<std::string_view, std::string_view>;

constexpr std::array kOfModel = {
    Alias{"hook_embed", "embed"},         Alias{"embed.hook_out", "embed"},
    Alias{"hook_pos_embed", "pos_embed"}, Alias{"pos_embed.hook_out", "pos_embed"},
    Alias{"hook_norm", "norm_f"},         Alias{"ln_final.hook_normalized", "norm_f"},
    Alias{"hook_logits", "logits"},
};

// Below "blocks.{i}." and "layers.{i}.".
constexpr std::array kOfLayer = {
    Alias{"hook_resid_pre", "resid_pre"},
    Alias{"hook_layer_input", "layer_input"},
    Alias{"norm.hook_in", "layer_input"},
    Alias{"hook_scale", "scale"},
    Alias{"norm.hook_scale", "scale"},
    Alias{"ln1.hook_scale", "scale"},
    Alias{"hook_normalized_input", "norm"},
    Alias{"mixer.hook_in", "norm"},
    Alias{"hook_mixer_in", "norm"},
    Alias{"hook_in_proj", "mixer.in_x"},
    Alias{"hook_skip", "mixer.in_z"},
    Alias{"hook_gate", "mixer.gate"},
    Alias{"hook_conv", "mixer.conv"},
    Alias{"hook_ssm_input", "mixer.x"},
    Alias{"hook_delta_1", "mixer.dt_low"},
    Alias{"hook_delta_2", "mixer.dt_pre"},
    Alias{"hook_ssm_dt", "mixer.dt_pre"},
    Alias{"hook_delta", "mixer.dt"},
    Alias{"hook_A", "mixer.A"},
    Alias{"hook_A_bar", "mixer.decay"},
    Alias{"hook_ssm_decay", "mixer.decay"},
    Alias{"hook_B", "mixer.B"},
    Alias{"hook_ssm_B", "mixer.B"},
    Alias{"hook_C", "mixer.C"},
    Alias{"hook_ssm_C", "mixer.C"},
    Alias{"hook_B_bar", "mixer.B_bar"},
    Alias{"hook_ssm_write", "mixer.write"},
    Alias{"hook_h_start", "mixer.h_start"},
    Alias{"hook_h", "mixer.h"},
    Alias{"hook_ssm_state", "mixer.readout_h"},
    Alias{"hook_conv_state", "mixer.conv_state"},
    Alias{"hook_y", "mixer.y"},
    Alias{"hook_ssm_output", "mixer.ssm_out"},
    Alias{"hook_after_skip", "mixer.gated"},
    Alias{"hook_out_proj", "mixer.out"},
    Alias{"mixer.out_proj.hook_out", "mixer.out"},
    Alias{"mixer.hook_out", "mixer.out"},
    Alias{"hook_mixer_out", "mixer.out"},
    Alias{"hook_ssm_out", "mixer.out"},
    Alias{"attn.hook_q", "mixer.q"},
    Alias{"attn.hook_k", "mixer.k"},
    Alias{"attn.hook_v", "mixer.v"},
    Alias{"attn.hook_rot_q", "mixer.rot_q"},
    Alias{"attn.hook_rot_k", "mixer.rot_k"},
    Alias{"attn.hook_z", "mixer.z"},
    Alias{"hook_attn_out", "mixer.out"},
    Alias{"hook_resid_mid", "resid_mid"},
    Alias{"hook_mlp_in", "mlp_input"},
    Alias{"ln2.hook_scale", "mlp_scale"},
    Alias{"mlp.hook_pre", "mlp.pre"},
    Alias{"mlp.hook_pre_linear", "mlp.pre_linear"},
    Alias{"mlp.hook_post", "mlp.post"},
    Alias{"hook_mlp_out", "mlp.out"},
    Alias{"hook_resid_post", "resid_post"},
};

template <size_t kCount>
std::string_view translated(const std::array<Alias, kCount>& aliases, std::string_view name) {
  for (const auto& [alias, own] : aliases) {
    if (alias == name) return own;
  }
  return {};
}

std::optional<int64_t> number(std::string_view text) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 0) return {};
  return value;
}

// "mixer.conv_term.3" of "hook_conv.-3", the term of the token three before.
std::optional<std::string> term_of_convolution(std::string_view name) {
  constexpr std::string_view kTerm = "hook_conv.";
  if (!name.starts_with(kTerm)) return {};
  name.remove_prefix(kTerm.size());
  if (name.starts_with('-')) name.remove_prefix(1);
  else if (name != "0") return {};
  const std::optional<int64_t> before = number(name);
  if (!before) return {};
  return "mixer.conv_term." + std::to_string(*before);
}

}  // namespace

PointName canonical_point(std::string_view name) {
  if (const auto own = translated(kOfModel, name); !own.empty()) return {std::string(own)};
  const bool blocks = name.starts_with("blocks."), layers = name.starts_with("layers.");
  const size_t dot = name.find('.', 7);
  if ((!blocks && !layers) || dot == std::string_view::npos) return {std::string(name)};
  const std::string_view layer = name.substr(7, dot - 7);
  std::string_view rest = name.substr(dot + 1);
  std::optional<int64_t> position;
  constexpr std::string_view kStateAfter = "hook_h.";
  if (rest.starts_with(kStateAfter)) {
    position = number(rest.substr(kStateAfter.size()));
    if (position) rest = "hook_h";
  }
  std::string own(translated(kOfLayer, rest));
  if (own.empty()) own = term_of_convolution(rest).value_or(std::string(rest));
  return {"layers." + std::string(layer) + "." + own, position};
}

std::vector<PointAlias> point_aliases() {
  std::vector<PointAlias> list;
  for (const auto& [alias, own] : kOfModel) {
    list.push_back({std::string(alias), std::string(own), false});
  }
  for (const auto& [alias, own] : kOfLayer) {
    list.push_back({std::string(alias), std::string(own), true});
  }
  return list;
}

}  // namespace elapse
