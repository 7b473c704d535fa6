// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "elapse/interpret/cache.h"
#include "elapse/interpret/edits.h"
#include "elapse/interpret/prompts.h"

namespace elapse {

// Edits made ready for prompts: patterns are points, names of positions are places, and what
// sources take from other runs has been read:
//   mean      at each position, of the reference prompts that have as many tokens as the prompt
//             and its template (p_ABC: mean ablation)
//   resample  of one such reference prompt, drawn for each prompt by the edit's seed
//   swap      of the cached prompt of the same number, or of the only one
// Points without a value for each token take set, add, scale and zero alone. Throws Error, naming
// the edit, for one that cannot be carried out; for what only a pass can tell, the pass does.
class EditPlan {
 public:
  // The model must outlive it.
  EditPlan(const LanguageModel& model, std::vector<EditSpec> edits, std::vector<Prompt> prompts,
           const std::vector<Prompt>& reference = {});

  // For a batch whose sequence first_sequence + i is prompt prompts[i], each once.
  std::vector<Edit> edits(const std::vector<int64_t>& prompts, int64_t first_sequence = 0) const;

  const std::vector<Prompt>& prompts() const { return prompts_; }
  // What of a prompt the edits reach: from this layer (n_layers: what follows them) and this token
  // on; none where nothing of it is edited.
  struct Start {
    int64_t layer, token;
  };
  std::optional<Start> start(int64_t prompt) const;

 private:
  struct Item;  // an edit of one point

  std::vector<int64_t> places(const EditSpec& edit, int64_t prompt) const;
  bool is_edited(const EditSpec& edit, int64_t prompt) const;
  void plan(const EditSpec& edit, const std::vector<Prompt>& reference);
  Tensor rows_of(const Item& item, int64_t prompt, const std::vector<int64_t>& places) const;

  const LanguageModel& model_;
  std::vector<EditSpec> specs_;
  std::vector<Prompt> prompts_;
  std::vector<std::shared_ptr<const Item>> items_;
};

// Logits after the last tokens of the plan's prompts, edited; passes of at most `batch_tokens`
// where a prompt has not more.
LastLogits edited_logits(const LanguageModel& model, const EditPlan& plan,
                         int64_t batch_tokens = 4096);

TokenLists tokens_of(const std::vector<Prompt>& prompts);

}  // namespace elapse
