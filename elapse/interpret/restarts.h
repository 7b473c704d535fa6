// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <vector>

#include "elapse/interpret/edit_plan.h"

namespace elapse {

// Prompts read once, token by token, and kept: the memory before each token and the residual stream
// that enters each layer. A change at some layer and token leaves what lies before either as it
// was, so of a changed run only the layers from that one on and the tokens from that one on are
// run, from the memory before them, many changed runs a pass.
class Restarts {
 public:
  // The model must outlive it.
  Restarts(const LanguageModel& model, TokenLists prompts);

  struct Run {
    int64_t prompt, token;  // from this token on
  };
  // Logits after the last tokens of runs from `layer` on: sequence i of the pass, as edits name it,
  // is runs[i]; positions count from the prompt's first token.
  LastLogits run(int64_t layer, const std::vector<Run>& runs, Points& points);

  const LastLogits& plain() const { return plain_; }  // of the prompts as they are
  const TokenLists& prompts() const { return prompts_; }
  int64_t length(int64_t prompt) const { return std::ssize(prompts_[static_cast<size_t>(prompt)]); }
  // Where the prompt's first token stands among those of all prompts.
  int64_t first_row(int64_t prompt) const { return first_rows_[static_cast<size_t>(prompt)]; }
  // What a prompt of so many tokens keeps.
  static int64_t bytes(const LanguageModel& model, int64_t tokens);

 private:
  int64_t slot(int64_t prompt, int64_t token) const;
  void read_tokens(int64_t place);

  const LanguageModel& model_;
  TokenLists prompts_;
  std::vector<int64_t> first_rows_;
  State state_;                  // slots: before each token of each prompt, and after the last
  std::vector<Tensor> streams_;  // by layer: (tokens of all prompts, d_model)
  LastLogits plain_;
};

struct VariantOptions {
  int64_t batch_tokens = 2048;          // of one pass, where a run has not more
  int64_t state_bytes = 1'000'000'000;  // kept at a time, at least one prompt's
  std::function<void(int64_t done, int64_t total)> progress = [](int64_t, int64_t) {};
};

// A sweep of edits: by variant, the logits after the last tokens of the prompts edited by it. All
// variants are of the same prompts. Restarted: each run costs what it changes. Throws Error for a
// variant that edits what is the same for all prompts (`A`), as runs of one pass share it.
std::vector<LastLogits> run_variants(const LanguageModel& model, const std::vector<EditPlan>& plans,
                                     const VariantOptions& options = {});

}  // namespace elapse
