// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <string>
#include <vector>

#include "elapse/experiments/comparison.h"
#include "elapse/model/mixing_operations.h"

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
  DType activations = DType::f32;  // what models compute in
  Seeds seeds;

  static ScalingSettings quick();  // a quarter of an hour on two cores
  static ScalingSettings full();   // 20 tokens a parameter, as published
};

// Multiplications and additions of one token in training: of the forward pass, and twice as many
// for backward. Forward has 2 for each weight of a linear map that tokens pass through, the head's
// among them, and what mixes tokens beside them (MixerForm::mixing_operations).
double training_operations(const ModelConfig& config, const StepShape& step);

// The model of this mixer that comes nearest to `parameters`, apart from the embedding, with layers
// of this width, heads as task_model.h says and, with Hyena, a filter as long as `length`.
ModelConfig scaled_model(MixerKind mixer, int64_t d_model, int64_t parameters, int64_t length);

// Steps of `model` that make so many operations. Throws Error where they are fewer than twice the
// warm-up.
int64_t scaled_steps(const ScalingSettings& settings, const ModelConfig& model, double operations);

struct ScalingResult {
  Comparison comparison;           // of each size the mixers, in the settings' orders
  std::vector<double> operations;  // (sizes) of a training
};
ScalingResult run_scaling(Device& device, const ScalingSettings& settings,
                          const std::string& folder, const OnExperimentProgress& progress);

std::vector<Table> scaling_tables(const ScalingSettings& settings, const ScalingResult& result);
std::string scaling_verdict(const ScalingSettings& settings, const ScalingResult& result);
// A sentence: what these curves are of, beside the published ones.
std::string unlike_published(const ScalingSettings& settings, const ScalingResult& result);
Report scaling_report(const ScalingSettings& settings, const ScalingResult& result);

}  // namespace elapse
