// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <memory>

#include "elapse/model/language_model.h"
#include "elapse/ops/device_graph.h"

namespace elapse {

// A pass over one token of one sequence, recorded and run again for the tokens after it: the same
// kernels on the same memory, without the making of values and checking of shapes around them; as a
// graph on devices that have those.
// Gives the bits that LanguageModel::forward gives.
class RecordedStep {
 public:
  // Whether passes over one token launch the same kernels at every position.
  static bool serves(const LanguageModel& model);

  // Reads `token` with slot 0 of `state` and records. The model, `seqs` (one token that starts and
  // ends in slot 0) and the tensors of `state` must outlive it. Where it throws, nothing was read.
  RecordedStep(const LanguageModel& model, State& state, const Sequences& seqs, int64_t token);

  // The same for the next token; `state` is the constructor's, wherever it has moved to.
  void step(State& state, int64_t token);

  const Tensor& logits() const { return logits_; }  // (1, vocab), of the token read last

 private:
  const LanguageModel* model_;
  Tensor token_;
  Tensor logits_;
  Recording recording_;
  std::unique_ptr<DeviceGraph> graph_;  // in its place
};

}  // namespace elapse
