// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "elapse/interpret/prompts.h"

namespace elapse {

// Activation patching: which value, put into one run from another, carries the answer.
struct PatchingOptions {
  // Below a layer: "resid_pre", "mixer.out", "mixer.h". Anything a token has in every layer.
  std::string point = "resid_pre";
  // Denoising runs the corrupted prompt with values of the clean one (what suffices); noising the
  // other way (what is necessary).
  bool noising = false;
  int64_t batch_tokens = 2048;          // of one pass at most
  int64_t state_bytes = 1'000'000'000;  // of states kept at a time, at least one pair's
  std::function<void(int64_t done, int64_t total)> progress = [](int64_t, int64_t) {};
};

// By layer and token, the mean over the pairs. Prompts of several lengths are aligned at their
// ends: column `columns - 1` is the last token.
struct PatchingMap {
  int64_t layers = 0, columns = 0;
  std::vector<double> logit_difference;  // (layers, columns): of the patched runs
  // The same, normalised by the runs without a patch of the pairs that have the column: 0 as
  // corrupted, 1 as clean.
  std::vector<double> score;
  double clean = 0, corrupted = 0;  // logit differences without a patch
  int64_t layer_tokens = 0;         // evaluations of a layer at a token that it took
  int64_t naive_layer_tokens = 0;   // that a pass over the whole prompt a patch would take
};

// A patch at (layer, token) leaves what lies before either as it was. So the run patched is read
// once, token by token, its memory after each kept; and of every patch only the layers from its own
// on and the tokens from its own on are run, from the memory before them, many patches a pass.
PatchingMap patch_layers_and_tokens(const LanguageModel& model,
                                    const std::vector<PromptPair>& pairs,
                                    const PatchingOptions& options = {});

}  // namespace elapse
