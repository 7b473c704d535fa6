// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "elapse/core/dtype.h"
#include "elapse/core/shape.h"
#include "elapse/io/json.h"
#include "elapse/io/json_writer.h"
#include "elapse/mixers/diagonal_init.h"
#include "elapse/mixers/rope_scaling.h"

namespace elapse {

// A field that is the number of a token or a list of them, each below `vocab`; none where it is not
// there.
std::vector<int64_t> token_numbers(const Json& json, std::string_view key, int64_t vocab);

// The two published forms of a checkpoint: state-spaces/mamba's and transformers'.
enum class Layout { original, transformers };
std::string_view name_of(Layout layout);  // "original"

// What each adds to a configuration is in mixer_form.h.
enum class MixerKind : uint8_t {
  mamba,
  mamba2,
  rnn,
  lstm,
  gru,
  attention,
  s4d,
  h3,
  linear_attention,
  retnet,
  gla,
  wavenet,
  hyena,
};
inline constexpr size_t kMixerKinds = 13;
std::string_view name_of(MixerKind mixer);  // "mamba2"
// The mixer of that name. Throws Error listing them all.
MixerKind mixer_named(std::string_view name);
const std::vector<std::string>& mixer_names();  // in the order of MixerKind
std::string_view title_of(MixerKind mixer);     // "Mamba-2"
inline bool is_mamba(MixerKind mixer) {
  return mixer == MixerKind::mamba || mixer == MixerKind::mamba2;
}
inline bool is_recurrent(MixerKind mixer) {
  return mixer == MixerKind::rnn || mixer == MixerKind::lstm || mixer == MixerKind::gru;
}
inline bool is_diagonal(MixerKind mixer) {  // state spaces without selection
  return mixer == MixerKind::s4d || mixer == MixerKind::h3;
}
inline bool is_linear_attention(MixerKind mixer) {
  return mixer == MixerKind::linear_attention || mixer == MixerKind::retnet ||
         mixer == MixerKind::gla;
}

enum class NormKind : uint8_t { rms, layer };              // of the residual stream: norm.h
enum class MlpKind : uint8_t { swiglu, gelu, gelu_tanh };  // mlp.h
enum class Positions : uint8_t;                            // mixers/attention.h
std::string_view name_of(MlpKind mlp);                     // "gelu_tanh"

// The tokens a published model's tokenizer begins, ends and fills texts with; none where it is not
// stated, which transformers takes for 0, and as a rule in the original layout.
struct SpecialTokens {
  std::vector<int64_t> bos, eos, pad;

  // Of config.json or generation_config.json, for a model of `vocab` classes.
  static SpecialTokens parse(const Json& json, int64_t vocab);
  void write(JsonWriter& json) const;  // fields of the object that is open
  bool operator==(const SpecialTokens&) const = default;
};

// A language model's shape, as config.json of either layout states it. For mixers that have no
// published layout, the original one has a form of our own.
struct ModelConfig {
  Layout layout = Layout::transformers;
  MixerKind mixer = MixerKind::mamba;
  int64_t d_model = 0;
  int64_t n_layers = 0;
  int64_t vocab_size = 0;          // classes that mean something
  int64_t pad_vocab_multiple = 1;  // rows of the embedding are padded to a multiple of this
  int64_t d_inner = 0;
  int64_t d_state = 0;
  int64_t d_conv = 0;
  int64_t dt_rank = 0;  // Mamba-1's
  bool bias = false;    // of in_proj and out_proj
  bool conv_bias = false;
  bool tied_head = true;
  double norm_eps = 1e-5;
  double mixer_norm_eps = 0;  // Falcon-Mamba's weightless norms on dt, B and C; 0: there are none
  // Mamba-1's: which of dt, B and C depend on the token, and whether there is z (mixers/mamba.h).
  bool selective_dt = false;
  bool selective_B = false;
  bool selective_C = false;
  bool gate = false;
  // Mamba-2's:
  int64_t head_dim = 0;  // divides d_inner; of linear attention a head's values, d_state its keys
  int64_t n_groups = 1;
  int64_t chunk = 0;  // published; kernels cut sequences as suits them, which changes last bits
  bool D_by_channel = false;
  double dt_min = 0;  // limits of dt
  double dt_max = std::numeric_limits<double>::infinity();
  DiagonalInit diagonal_init = DiagonalInit::legs;  // S4D's, H3's
  // Attention's, with d_inner channels of queries in heads of head_dim (mixers/attention.h):
  int64_t n_kv_heads = 0;
  Positions positions = {};
  double rope_theta = 0;
  RopeScaling rope_scaling;
  int64_t window = 0;
  int64_t dilation = 0;
  bool qkv_bias = false, out_bias = false;
  int64_t dilation_cycle = 0;  // WaveNet's: dilations double from 1 on over so many layers
  // Hyena's (mixers/hyena.h):
  int64_t l_max = 0, filter_order = 0, emb_dim = 0;
  double sine_freq = 0;
  // Around the mixers:
  NormKind norm = NormKind::rms;
  int64_t d_intermediate = 0;  // of the MLP after each mixer; 0: there is none
  MlpKind mlp = MlpKind::swiglu;
  bool mlp_bias = false;
  int64_t max_positions = 0;  // whose embeddings are learned and added to the tokens'; 0: none
  SpecialTokens special_tokens;

  // A model of that mixer with the defaults of its form: Mamba's are the published ones, expand 2,
  // dt_rank ceil(d_model / 16); Mamba-2's too, d_state 128, one group, heads of 64 channels, or of
  // as many as divide both 64 and d_inner; recurrent cells are as wide inside as the residual
  // stream; attention has heads of 64 channels, or of as many as divide both 64 and d_model, and
  // rotary positions. No MLPs.
  static ModelConfig of(MixerKind mixer, int64_t d_model, int64_t n_layers, int64_t vocab_size);
  static ModelConfig mamba(int64_t d_model, int64_t n_layers, int64_t vocab_size);
  static ModelConfig mamba2(int64_t d_model, int64_t n_layers, int64_t vocab_size);
  // The Transformer that Mamba is measured against (Gu and Dao, 2023, section 4.2): attention with
  // rotary positions, SwiGLU, RMSNorm, no biases. d_intermediate is 8/3 d_model up to a multiple of
  // 64, so that a layer has as many parameters as two of Mamba: 12 d_model^2.
  static ModelConfig transformer_plus_plus(int64_t d_model, int64_t n_layers, int64_t vocab_size);
  // As GPT-2 (Radford et al., 2019): learned positions, LayerNorm, GELU of 4 d_model, biases.
  static ModelConfig gpt2(int64_t d_model, int64_t n_layers, int64_t vocab_size,
                          int64_t max_positions = 1024);
  // Throws Error naming the file and the field that is missing, mistyped, contradicts another, or
  // asks for what elapse does not have.
  static ModelConfig parse(const Json& json);
  // Of a Mamba-1: what is selective, and whether there is a gate. What is not the published choice
  // is in the original layout, which alone can state it.
  void choose_selection(bool dt, bool B, bool C, bool with_gate);
  bool has_published_selection() const {
    return mixer != MixerKind::mamba || (selective_dt && selective_B && selective_C && gate);
  }
  // The same model in another layout, whose configurations may be unable to state it: Error.
  ModelConfig in_layout(Layout other) const;
  std::string json(DType weights = DType::f32) const;  // config.json in `layout`

  // Throws Error saying that `method` reads what Mamba mixers alone have, unless they do.
  void expect_mamba(std::string_view method) const;

  std::string_view architecture() const;  // "falcon_mamba", or the mixer's name
  int64_t n_heads() const { return head_dim == 0 ? 0 : d_inner / head_dim; }
  int64_t d_conv_inner() const {  // channels that are convolved: Mamba-2's B and C are
    return mixer == MixerKind::mamba2 ? d_inner + 2 * n_groups * d_state : d_inner;
  }
  int64_t dilation_of(int64_t layer) const { return int64_t{1} << layer % dilation_cycle; }
  int64_t vocab() const {  // rows of the embedding
    return (vocab_size + pad_vocab_multiple - 1) / pad_vocab_multiple * pad_vocab_multiple;
  }
  // The residual blocks of all layers, in order: each layer's mixer, then its MLP.
  int64_t blocks_of_layer() const { return d_intermediate > 0 ? 2 : 1; }
  int64_t blocks() const { return n_layers * blocks_of_layer(); }
  // Calls visit with every parameter, in the order in which LanguageModel makes them.
  using VisitParameter = std::function<void(const std::string& name, const Shape& shape)>;
  void for_each_parameter(const VisitParameter& visit) const;
  int64_t parameter_count() const;
  int64_t state_bytes() const;            // of one sequence's state, in float32; without what grows
  int64_t state_bytes_per_token() const;  // by which attention's grows, up to its window
  bool operator==(const ModelConfig&) const = default;
};

}  // namespace elapse
