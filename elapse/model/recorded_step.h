// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "elapse/model/language_model.h"
#include "elapse/ops/device_graph.h"

namespace elapse {

// A pass over one token of each of some sequences, recorded and run again for the tokens after
// them: the same kernels on the same memory, without the making of values and checking of shapes
// around them; as a graph on devices that have those, from the second step on (the first has every
// kernel loaded). Gives the bits that LanguageModel::forward gives.
//
// Between steps the tokens may change, and the slots; how many sequences there are, the model and
// the tensors of the state may not. A place that no sequence needs is given kNoSlot and any of the
// model's tokens.
class RecordedStep {
 public:
  // Whether passes over one token launch the same kernels at every position.
  static bool serves(const LanguageModel& model);

  // `slots`: of a state, one for each sequence, which starts and ends there. The model and the
  // tensors of the state that steps are given, always the same, must outlive it.
  RecordedStep(const LanguageModel& model, std::vector<int64_t> slots);

  // For the steps after: as many slots as there were. Where the device has graphs two small arrays
  // are copied there; others record again.
  void move_to(std::vector<int64_t> slots);

  // Reads a token of each sequence. Throws Error, before anything is read, where they are not as
  // many, the model lacks one of them or the state a slot; and whatever the pass throws.
  void step(State& state, std::span<const int64_t> tokens);

  const Tensor& logits() const { return logits_; }  // (sequences, vocab), of the step before

 private:
  void record_graph(State& state, const std::function<void()>& pass);

  const LanguageModel* model_;
  Sequences seqs_;
  Tensor tokens_;  // (sequences) i64
  Tensor logits_;
  bool has_run_ = false;
  std::optional<Recording> recording_;
  std::unique_ptr<DeviceGraph> graph_;  // in its place
};

}  // namespace elapse
