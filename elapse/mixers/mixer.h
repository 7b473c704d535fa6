// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <string>
#include <vector>

#include "elapse/autograd/parameters.h"
#include "elapse/mixers/state.h"
#include "elapse/ops/sequences.h"
#include "elapse/points/pass.h"

namespace elapse {

// A layer that mixes information over the tokens of each sequence.
class Mixer {
 public:
  virtual ~Mixer() = default;

  // u (tokens, d_model) -> (tokens, d_model), over packed sequences. `state` may be null: every
  // sequence starts from zeros and its end is dropped. One token each is `seqs` of length 1.
  virtual Var forward(Tape& tape, const Var& u, const Sequences& seqs, const LayerState* state,
                      const PointScope& points) const = 0;

  // Zeros for `slots` sequences; gradients flow through them if `needs_grad`.
  virtual LayerState make_state(Device& device, int64_t slots, bool needs_grad) const = 0;

  virtual std::vector<PointInfo> points() const = 0;

  // Whether the operations of a pass over one token, or an argument of them that is no tensor,
  // depend on how many tokens came before: then it cannot be recorded and run again.
  virtual bool depends_on_position() const { return false; }
};

}  // namespace elapse
