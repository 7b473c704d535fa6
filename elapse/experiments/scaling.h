// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <string>
#include <vector>

#include "elapse/experiments/comparison.h"

namespace elapse {

// Scaling laws (Kaplan et al., 2020; Hoffmann et al., 2022; Gu and Dao, 2023, section 4.2.1 and
// Figure 4): families of models at several sizes on the same text, those of a size with as many
// parameters and trained with as many floating-point operations.
struct ScalingSettings {
  // Mamba's; the others have as many layers of this width as come nearest in parameters.
  struct Size {
    int64_t d_model = 0;
    int64_t n_layers = 0;
  };

  std::vector<MixerKind> mixers;
  std::vector<Size> sizes;          // ascending
  double tokens_per_parameter = 0;  // that Mamba trains on; it fixes a size's operations
  // But for the number of steps. Held-out losses are those of sequences of the same length, beyond
  // which attention with rotary positions fails and the others do not.
  TrainConfig train;
  std::string text, text_name;
  Seeds seeds;

  static ScalingSettings quick();  // a quarter of an hour on two cores
  static ScalingSettings full();   // 20 tokens a parameter, as published
};

// Operations of one token, forward and backward: twice the forward pass's for backward; 2 for each
// weight of a matrix but the embedding's; for a layer that remembers a state, 6 for each number of
// it (kept, written, read); for attention, those of the scores and of the values over the half of
// the sequence that a token sees in the mean; for Hyena, those of two Fourier transforms of twice
// the sequence, 5/2 n log2(n) for n real numbers, while its filter's weights, which are multiplied
// once for all sequences of a step, do not count.
double training_operations(const ModelConfig& config, int64_t length);

// The model of this mixer that comes nearest to `parameters`, apart from the embedding, with layers
// of this width.
ModelConfig scaled_model(MixerKind mixer, int64_t d_model, int64_t parameters);

struct ScalingResult {
  Comparison comparison;           // of each size the mixers, in the settings' orders
  std::vector<double> operations;  // (sizes) of a training
};
ScalingResult run_scaling(Device& device, const ScalingSettings& settings,
                          const std::string& folder, const OnExperimentProgress& progress);

std::vector<Table> scaling_tables(const ScalingSettings& settings, const ScalingResult& result);
std::string scaling_verdict(const ScalingSettings& settings, const ScalingResult& result);
Report scaling_report(const ScalingSettings& settings, const ScalingResult& result);

}  // namespace elapse
