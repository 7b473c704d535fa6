// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <string>
#include <vector>

#include "elapse/model/language_model.h"

namespace elapse {

// What the environment variable ELAPSE_VERIFY asks for. The whole test suite passes in each mode:
// that the parallel form, single steps and saved states agree is checked wherever a model runs.
enum class VerifyMode {
  none,
  step,     // every sequence token by token instead of in parallel
  restore,  // as step, and the state goes through a file between tokens; where no gradient is asked
};
VerifyMode verify_mode();  // ELAPSE_VERIFY=ref is the Device's to see; other values throw

// Saves the state to a file and loads it back in its place; after passes that did not run every
// layer where a file can hold it.
void pass_through_file(const LanguageModel& model, State& state, bool every_layer);

// Runs a batch one token of each sequence at a time, with the results a pass in parallel has.
class ByTokens {
 public:
  ByTokens(const LanguageModel& model, VerifyMode mode) : model_(model), mode_(mode) {}
  Var run(Tape& tape, const LanguageModel::Input& input, const Batch& batch, State* state,
          const PointPass* points);

 private:
  State start_states(Tape& tape, const Batch& batch, const State* state) const;
  // `states`, a slot for each sequence, into the slots of `state` that these end in.
  void end_states(Tape& tape, const Batch& batch, const State& states, const State& state) const;
  Var token(Tape& tape, const LanguageModel::Input& input, int64_t t, State& states,
            const PointPass* points);

  const LanguageModel& model_;
  const VerifyMode mode_;
  const Batch* batch_ = nullptr;
  std::vector<int64_t> tokens_;  // of the batch, on the host
  std::vector<int64_t> begins_;  // of each sequence
  std::vector<int64_t> row_of_;  // packed token -> row in order of time
  int64_t rows_so_far_ = 0;
};

}  // namespace elapse
