// SPDX-License-Identifier: Apache-2.0
#pragma once
#include "elapse/experiments/comparison.h"

namespace elapse {

// Multi-query associative recall (Arora, Eyuboglu et al., 2023, "Zoology", figure 2): models of two
// layers learn to say the values of keys, at several lengths and widths.
struct MqarSettings {
  struct Size {
    int64_t length = 0;
    int64_t pairs = 0;
  };

  std::vector<MixerKind> mixers;
  std::vector<Size> sizes;
  std::vector<int64_t> d_models;
  int64_t n_layers = 2;
  int64_t vocab_size = 8192;
  TrainConfig train;               // its length and tokens a step are a size's own
  std::vector<double> peak_lrs;    // of which each model shows what it learned with the best,
                                   // chosen on other held-out sequences than are shown
  int64_t sequences = 0;           // of a step
  DType activations = DType::f32;  // what models compute in
  Seeds seeds;

  static MqarSettings quick();  // a few minutes a mixer on two cores
  static MqarSettings full();   // the published sizes and learning rates

  std::string unlike_published() const;  // a sentence
};

// The runs of every learning rate.
Comparison run_mqar(Device& device, const MqarSettings& settings, const std::string& folder,
                    const OnExperimentProgress& progress);

Table mqar_table(const MqarSettings& settings, const Comparison& comparison);
Report mqar_report(const MqarSettings& settings, const Comparison& comparison);

}  // namespace elapse
