// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "elapse/generate/sampler.h"
#include "elapse/model/recorded_step.h"

namespace elapse {

// One sequence being read and written: the model's State after the tokens so far and the logits
// they lead to. Time and memory a token do not depend on how many came before, but where the state
// grows (State::bytes_per_token).
//
// The same sequence of calls gives the same bits, with or without a save, load or fork between
// them. Other cuttings of the same tokens into calls agree within rounding. Moves; copied by fork()
// alone. The model and the points must outlive it.
class Session {
 public:
  // Tokens of one forward pass at most, so that a long prompt takes no more memory than a short.
  static constexpr int64_t kPrefillChunk = 512;

  // `points`, which may be null, are watched and edited in every forward pass. What is watched is
  // the last pass's; an edit's source has one element, or a row for each token of the pass.
  explicit Session(const LanguageModel& model, Points* points = nullptr);

  // Reads the tokens. Throws Error, before any is read, for one that is no class of the model.
  void prefill(std::span<const int64_t> tokens);
  void step(int64_t token) { prefill({&token, 1}); }

  // For the token after the last: (vocab_size), without the classes that only pad. Throws Error
  // where there are none: before the first token, also after a state that was saved without.
  std::span<const double> logits() const;
  bool has_logits() const { return row_ || !logits_.empty(); }
  // What the sampler makes of them; chosen on the device, where that has memory of its own.
  int64_t sample(const Sampler& sampler) const;

  int64_t position() const { return state_.position(); }  // tokens read
  int64_t state_bytes() const { return state_.bytes(0); }
  const LanguageModel& model() const { return *model_; }
  bool same_bits(const Session& other) const;  // host devices

  Session fork() const;

  // The file (elapse/model/state_file.h) holds the logits beside the state, so that a loaded
  // session goes on as if it had never stopped. Loading throws Error for another model's file.
  void save(const std::string& path) const;
  static Session load(const std::string& path, const LanguageModel& model,
                      Points* points = nullptr);

 private:
  Session(const LanguageModel& model, Points* points, State state, std::vector<double> logits);

  void check_tokens(std::span<const int64_t> tokens) const;
  void forward(const Batch& batch);
  void read_one(int64_t token);
  void keep_logits(const Tensor& row);
  const std::vector<double>& host_logits() const;
  int64_t sample_on_device(const Sampler& sampler) const;

  const LanguageModel* model_;
  Points* points_;
  State state_;                         // one slot
  mutable std::vector<double> logits_;  // (vocab_size), empty before the first token
  mutable Tensor row_;                  // (1, vocab_size), in their place until they are asked for
  Sequences one_token_;                 // what make_sequences gives for a step
  int64_t steps_ = 0;                   // passes over one token that could have been recorded
  std::optional<RecordedStep> recorded_;
};

}  // namespace elapse
