// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <vector>

#include "elapse/interpret/hidden_attention.h"
#include "elapse/interpret/metrics.h"

namespace elapse {

// One layer's share of a logit difference, by the source token whose input a channel brings. All
// sum to the layer's share.
struct LayerAttribution {
  int64_t tokens = 0, channels = 0;
  std::vector<double> by_source;  // (tokens, d_inner): through the state, by running products
  std::vector<double> by_skip;    // (d_inner): D x of the last token
  double bias = 0;                // of out_proj

  double share() const;                    // the sum
  std::vector<double> by_token() const;    // (tokens): by_source over channels
  std::vector<double> by_channel() const;  // (d_inner): by_source over tokens, and by_skip
};

// Direct logit attribution of f = logit(right) - logit(wrong) after the last token, of models whose
// final norm is an RMSNorm: f is linear in
// the last residual stream once its norm's scale is held, so that what each component wrote there
// has a share,  (head[right] - head[wrong]) . (weight_f o_c) / scale,  and the shares sum to f.
// A layer's share is linear in what its scan gives once its gate (and in Mamba-2 the scale of its
// gated norm) is held too, and the scan in what each token wrote.
class DirectAttribution {
 public:
  // Runs the model once. Of `detailed` layers it keeps what takes them apart: tokens x (d_inner + B
  // + C + dt + gate) numbers each.
  DirectAttribution(const LanguageModel& model, const std::vector<int64_t>& tokens,
                    const Answer& answer, const std::vector<int64_t>& detailed = {});

  double total() const { return total_; }  // f
  double embed() const { return embed_; }
  // By residual block, a layer's mixer and then its MLP where it has one: (n_blocks).
  const std::vector<double>& by_block() const { return by_block_; }

  // Of a detailed layer; else Error.
  LayerAttribution layer(int64_t layer) const;
  // One channel's part of by_source, apart by the state that carried it: (tokens, d_state).
  std::vector<double> channel_by_state(int64_t layer, int64_t channel) const;
  // The layer's share of f at every token i, by source token j: (tokens, tokens). Row i and the D x
  // of that token sum to the layer's direct attribution after it.
  std::vector<double> map(int64_t layer) const;

 private:
  std::vector<double> slopes(int64_t layer, int64_t first) const;
  std::vector<double> scales(const Tensor& streams) const;

  const LanguageModel& model_;
  int64_t tokens_;
  Points points_;
  std::vector<double> base_;    // (d_model): df / d(last residual stream), times its scale
  std::vector<double> scales_;  // (tokens): of the final norm
  double total_ = 0, embed_ = 0;
  std::vector<double> by_block_;
};

}  // namespace elapse
