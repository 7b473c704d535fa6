// SPDX-License-Identifier: Apache-2.0
#include "elapse/model/make_mixer.h"

#include "elapse/core/error.h"
#include "elapse/mixers/attention.h"
#include "elapse/mixers/dilated_conv.h"
#include "elapse/mixers/h3.h"
#include "elapse/mixers/hyena.h"
#include "elapse/mixers/linear_attention.h"
#include "elapse/mixers/mamba.h"
#include "elapse/mixers/mamba2.h"
#include "elapse/mixers/recurrent.h"
#include "elapse/mixers/s4d.h"
#include "elapse/model/config_fields.h"

namespace elapse {
namespace {

MambaConfig mamba_config(const ModelConfig& c) {
  return {.d_model = c.d_model,
          .d_inner = c.d_inner,
          .d_state = c.d_state,
          .d_conv = c.d_conv,
          .dt_rank = c.dt_rank,
          .bias = c.bias,
          .conv_bias = c.conv_bias,
          .norm_eps = c.mixer_norm_eps,
          .selective_dt = c.selective_dt,
          .selective_B = c.selective_B,
          .selective_C = c.selective_C,
          .gate = c.gate};
}

Mamba2Config mamba2_config(const ModelConfig& c) {
  return {.d_model = c.d_model,
          .d_inner = c.d_inner,
          .d_state = c.d_state,
          .d_conv = c.d_conv,
          .head_dim = c.head_dim,
          .n_groups = c.n_groups,
          .bias = c.bias,
          .conv_bias = c.conv_bias,
          .D_by_channel = c.D_by_channel,
          .dt_min = c.dt_min,
          .dt_max = c.dt_max,
          .norm_eps = c.norm_eps};
}

RecurrentConfig recurrent_config(const ModelConfig& c) {
  return {cell_of(c.mixer), c.d_model, c.d_inner};
}

AttentionConfig attention_config(const ModelConfig& c) {
  return {.d_model = c.d_model,
          .n_heads = c.n_heads(),
          .n_kv_heads = c.n_kv_heads,
          .head_dim = c.head_dim,
          .positions = c.positions,
          .rope_theta = c.rope_theta,
          .rope_scaling = c.rope_scaling,
          .window = c.window,
          .dilation = c.dilation,
          .qkv_bias = c.qkv_bias,
          .out_bias = c.out_bias};
}
S4dConfig s4d_config(const ModelConfig& c) { return {c.d_model, c.d_state, c.diagonal_init}; }
H3Config h3_config(const ModelConfig& c) { return {c.d_model, c.d_state, c.diagonal_init}; }
LinearAttentionConfig linear_attention_config(const ModelConfig& c) {
  using Kind = LinearAttentionKind;
  const Kind kind = c.mixer == MixerKind::gla      ? Kind::gla
                    : c.mixer == MixerKind::retnet ? Kind::retnet
                                                   : Kind::plain;
  return {kind, c.d_model, c.n_heads(), c.d_state, c.head_dim, c.norm_eps};
}

DilatedConvConfig dilated_conv_config(const ModelConfig& c, int64_t layer) {
  return {c.d_model, c.d_inner, c.d_conv, c.dilation_of(layer)};
}

HyenaConfig hyena_config(const ModelConfig& c) {
  return {c.d_model, c.l_max, c.filter_order, c.emb_dim, c.sine_freq};
}

}  // namespace

std::unique_ptr<Mixer> make_mixer(Device& device, const ModelConfig& config, DType dtype,
                                  int64_t layer, const std::string& prefix, Random& random,
                                  Parameters& parameters) {
  const int64_t n = config.n_layers;
  switch (config.mixer) {
    case MixerKind::mamba:
      return std::make_unique<Mamba>(device, mamba_config(config), n, dtype, prefix, random,
                                     parameters);
    case MixerKind::mamba2:
      return std::make_unique<Mamba2>(device, mamba2_config(config), n, dtype, prefix, random,
                                      parameters);
    case MixerKind::rnn:
    case MixerKind::lstm:
    case MixerKind::gru:
      return std::make_unique<Recurrent>(device, recurrent_config(config), n, dtype, prefix, random,
                                         parameters);
    case MixerKind::attention:
      return std::make_unique<Attention>(device, attention_config(config), n, dtype, prefix, random,
                                         parameters);
    case MixerKind::s4d:
      return std::make_unique<S4d>(device, s4d_config(config), dtype, prefix, random, parameters);
    case MixerKind::h3:
      return std::make_unique<H3>(device, h3_config(config), n, dtype, prefix, random, parameters);
    case MixerKind::linear_attention:
    case MixerKind::retnet:
    case MixerKind::gla:
      return std::make_unique<LinearAttention>(device, linear_attention_config(config), n, dtype,
                                               prefix, random, parameters);
    case MixerKind::wavenet:
      return std::make_unique<DilatedConv>(device, dilated_conv_config(config, layer), n, dtype,
                                           prefix, random, parameters);
    case MixerKind::hyena:
      return std::make_unique<Hyena>(device, hyena_config(config), n, dtype, prefix, random,
                                     parameters);
  }
  fail("no mixer of number {}", static_cast<int>(config.mixer));
}

}  // namespace elapse
