// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <string>

#include "elapse/io/json.h"

namespace elapse {

// The two published forms of a checkpoint: state-spaces/mamba's and transformers'.
enum class Layout { original, transformers };

// A Mamba language model's shape, as config.json of either layout states it.
struct ModelConfig {
  Layout layout = Layout::transformers;
  int64_t d_model = 0;
  int64_t n_layers = 0;
  int64_t vocab_size = 0;          // classes that mean something
  int64_t pad_vocab_multiple = 1;  // rows of the embedding are padded to a multiple of this
  int64_t d_inner = 0;
  int64_t d_state = 16;
  int64_t d_conv = 4;
  int64_t dt_rank = 0;
  bool bias = false;  // of in_proj and out_proj
  bool conv_bias = true;
  bool tied_head = true;
  double norm_eps = 1e-5;

  // Mamba-1 with the published defaults: expand 2, dt_rank ceil(d_model / 16).
  static ModelConfig mamba(int64_t d_model, int64_t n_layers, int64_t vocab_size);
  // Throws Error naming the file and the field that is missing, mistyped or contradicts another.
  static ModelConfig parse(const Json& json);
  std::string json() const;  // config.json in `layout`

  int64_t vocab() const {  // rows of the embedding
    return (vocab_size + pad_vocab_multiple - 1) / pad_vocab_multiple * pad_vocab_multiple;
  }
  bool operator==(const ModelConfig&) const = default;
};

}  // namespace elapse
