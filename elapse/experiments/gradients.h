// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <optional>
#include <string>
#include <vector>

#include "elapse/experiments/comparison.h"

namespace elapse {

// How far back gradients reach: the norm of d loss_t / d state_{t-k} against k = 1, 2, ... (Bengio,
// Simard and Frasconi, 1994; Pascanu, Mikolov and Bengio, 2013), of models before training and
// after training on the induction-heads task at one length, directly or on short sequences first.
// loss_t is that of what is said after token t, state_{t-k} what the last k tokens start from.
struct GradientsSettings {
  std::vector<MixerKind> mixers;
  int64_t d_model = 64;
  int64_t n_layers = 2;
  int64_t length = 256;
  TrainConfig direct;              // on sequences of `length` alone
  TrainConfig short_first;         // as many steps, of which the first on shorter ones
  int64_t sequences = 32;          // that gradients are measured on
  DType activations = DType::f32;  // what models compute in
  Seeds seeds;

  static GradientsSettings quick();
  static GradientsSettings full();  // ten times the steps
};

enum class Stage : uint8_t { untrained, direct, short_first };
inline constexpr Stage kStages[] = {Stage::untrained, Stage::direct, Stage::short_first};
std::string_view name_of(Stage stage);  // "short sequences first"

// Whether the mixer's state has a constant size: attention's, which grows, has no gradients here.
bool has_state_gradients(MixerKind mixer);

// Of one model. The state is all that its layers remember: every part of it (State), such as h, the
// window of a convolution and the LSTM's c, in the units that the layers keep it in.
struct GradientReach {
  MixerKind mixer = MixerKind::mamba;
  Stage stage = Stage::untrained;
  uint64_t seed = 1;
  double accuracy = 0;        // of held-out answers; NaN untrained
  std::vector<double> norms;  // (length): of k = 1, 2, ..., the median over sequences

  // The norm at k, 1 to the length, against that at 1.
  double share(int64_t k) const;
  // The first k from which on no share is above `least`; none if the last one is.
  std::optional<int64_t> reach(double least) const;
};

struct GradientsResult {
  std::vector<GradientReach> models;
  Comparison training;
};

// Trainings are kept below `folder` (runs.h). Throws Error before any of them for a mixer without
// state gradients.
GradientsResult run_gradients(Device& device, const GradientsSettings& settings,
                              const std::string& folder, const OnExperimentProgress& progress);

// (length): of k = 1, 2, ... the median over held-out sequences of `task`, of which the last token
// alone is to be predicted. The model runs token by token. For mixers that has_state_gradients.
std::vector<double> gradient_norms(const LanguageModel& model, const TokenSource& task,
                                   int64_t length, int64_t sequences);

Table gradients_table(const GradientsSettings& settings, const GradientsResult& result);
Report gradients_report(const GradientsSettings& settings, const GradientsResult& result);
std::string gradients_json(const GradientsSettings& settings, const GradientsResult& result);

}  // namespace elapse
