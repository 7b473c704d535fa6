// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <string>
#include <string_view>
#include <vector>

#include "elapse/core/random.h"
#include "elapse/data/token_source.h"

namespace elapse {

// What prompts of indirect-object identification are made of. In a template [A], [B], [PLACE] and
// [OBJECT] stand for words; words and marks are parted by spaces. It names both people, then [B]
// again, and ends where [A] is due.
struct IoiLists {
  std::vector<std::string> templates, names, places, objects;

  static IoiLists own();
  // {"templates": [...], "names": [...], "places": [...], "objects": [...]}. Throws Error naming
  // the field for what makes no prompts.
  static IoiLists parse(std::string_view json, const std::string& name);
};

// A prompt and what is in its slots, so that it can be made again with other names.
struct IoiPrompt {
  size_t form = 0;             // which template
  bool first_swapped = false;  // ABBA: the names of the first clause stand the other way round
  int64_t indirect = 0;        // the answer, [A]: the token of its name
  int64_t subject = 0;         // [B] the first time
  int64_t subject_again = 0;   // [B] the second time: the same but in counterfactuals
  int64_t place = 0, object = 0;
  std::vector<int64_t> tokens = {};
};

// Indirect-object identification (Wang et al., 2022): after "then , [B] and [A] went to the [PLACE]
// together . [B] gave the [OBJECT] to" comes [A], the name that stood once. Tokens are words of a
// vocabulary of its own. All prompts have one length: shorter ones begin with fillers. One in five
// pairs of names never occurs in training, and held-out prompts have no others.
class IoiTask final : public TokenSource {
 public:
  static constexpr int64_t kHeldOutPrompts = 512;

  explicit IoiTask(uint64_t seed, const IoiLists& lists = IoiLists::own());

  IoiPrompt held_out(int64_t index) const;
  // Three names that are neither the prompt's nor each other's in the places of the two: the same
  // sentence, with nothing to identify (the published p_ABC).
  IoiPrompt counterfactual(const IoiPrompt& prompt, Random& random) const;
  // All prompts of the same names that differ in one thing: the template, the order of the names in
  // the first clause, the place or the object.
  std::vector<IoiPrompt> neighbours(const IoiPrompt& prompt) const;
  // A sentence put between the two clauses, in which this name stands once more; longer.
  std::vector<int64_t> with_name_again(const IoiPrompt& prompt, int64_t name) const;

  int64_t length() const { return length_; }
  const std::string& word(int64_t token) const { return words_[static_cast<size_t>(token)]; }
  const IoiLists& lists() const { return lists_; }

  int64_t vocab_size() const override { return static_cast<int64_t>(words_.size()); }
  std::string description() const override;
  void check_length(int64_t length) const override;
  TokenBatch training_batch(int64_t step, int64_t first, int64_t count,
                            int64_t length) const override;
  int64_t held_out_batches(int64_t length) const override;
  TokenBatch held_out_batch(int64_t index, int64_t length) const override;

 private:
  int64_t token(const std::string& word);
  bool is_held_out(int64_t a, int64_t b) const;
  IoiPrompt draw(Random& random, bool held_out) const;
  void fill(IoiPrompt& prompt) const;

  uint64_t seed_;
  IoiLists lists_;
  std::vector<std::string> words_;
  std::vector<std::vector<int64_t>> forms_;        // tokens, slots below 0
  std::vector<int64_t> names_, places_, objects_;  // tokens
  int64_t length_ = 0;
};

}  // namespace elapse
