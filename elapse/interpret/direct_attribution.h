// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <vector>

#include "elapse/interpret/metrics.h"

namespace elapse {

// Direct logit attribution of f = logit(right) - logit(wrong) after the last token: f is linear in
// the last residual stream once its norm's scale is held, so that what each component wrote there
// has a share,  (head[right] - head[wrong]) . (weight_f o_c) / scale,  and the shares sum to f.
struct DirectAttribution {
  double total = 0;              // f
  double embed = 0;              // the embedding's share
  std::vector<double> by_layer;  // (n_layers)
};
DirectAttribution direct_attribution(const LanguageModel& model, const std::vector<int64_t>& tokens,
                                     const Answer& answer);

// One layer's share, further: by the source token whose input a channel brings, with the layer's
// gate (and in Mamba-2 the scale of its gated norm) held too. All sum to the layer's share.
struct LayerAttribution {
  int64_t tokens = 0, channels = 0;
  std::vector<double> by_source;  // (tokens, d_inner): through the state, by running products
  std::vector<double> by_skip;    // (d_inner): D x of the last token
  double bias = 0;                // of out_proj

  double share() const;                  // the sum
  std::vector<double> by_token() const;  // (tokens): by_source over channels
};
LayerAttribution layer_attribution(const LanguageModel& model, int64_t layer,
                                   const std::vector<int64_t>& tokens, const Answer& answer);

}  // namespace elapse
