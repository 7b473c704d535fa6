// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <string>
#include <utility>
#include <vector>

#include "elapse/model/config.h"
#include "elapse/optim/adamw.h"
#include "elapse/optim/schedule.h"

namespace elapse {

// A stretch of training on sequences of one length.
struct Phase {
  int64_t length = 0;
  int64_t steps = 0;
};

struct TrainConfig {
  int64_t steps = 0;
  int64_t batch_tokens = 4096;    // of a step: a multiple of its length; a longer length has one
                                  // sequence a step
  int64_t accumulate = 1;         // passes that a step's sequences are spread over
  std::vector<Phase> curriculum;  // first these, in this order,
  int64_t length = 256;           // then sequences of this many tokens to the end
  int64_t truncate = 0;           // tokens that gradients go back through, 0: all. Longer sequences
                                  // are run in stretches of as many, the state carried on:
                                  // truncated backpropagation through time
  Schedule schedule;
  AdamWConfig adamw;
  std::string start = "random weights";  // what tells the first weights from others, where the
                                         // seed of the data does not

  int64_t sequences(int64_t len) const {  // of a step whose sequences have this length
    return len > batch_tokens ? 1 : batch_tokens / len;
  }
  int64_t length_at(int64_t step) const;  // of step 0, 1, ...; past the end `length`
  std::vector<int64_t> lengths() const;   // those that some step has

  // Throws Error naming the field that makes no run.
  void check() const;
};

// Names and values; what is chosen stands before what follows from it.
using Settings = std::vector<std::pair<std::string, std::string>>;

// Everything a run's numbers depend on: what a resumed run must have in common with the one it
// continues. The number of steps is among them only where the schedule depends on it, so that a run
// with a constant learning rate can be continued further.
Settings settings(const TrainConfig& train, const ModelConfig& model, const std::string& data);

}  // namespace elapse
