// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <string>
#include <vector>

#include "elapse/mixers/token_memory.h"

namespace elapse {

// One tensor of a layer's memory, for each slot: "h" (slots, d_inner, d_state).
struct StatePart {
  std::string name;
  Var pool;  // the first axis is the slot
};

// What one layer remembers of the tokens so far, for each slot.
struct LayerState {
  std::vector<StatePart> parts;         // of constant size
  std::shared_ptr<TokenMemory> memory;  // grows with the tokens: attention's; or none
  const Var& part(std::string_view name) const;
};

// A model's whole memory after some tokens, for one or more sequences (slots): of the same size
// whatever their number, but for layers of attention, whose memory grows. Float32, or float64 where
// the model computes in that. Moves, but is copied by fork() alone.
class State {
 public:
  State(Device& device, std::vector<LayerState> layers, int64_t slots);
  State(State&&) = default;
  State& operator=(State&&) = default;

  int64_t slots() const { return static_cast<int64_t>(positions_.size()); }
  int64_t position(int64_t slot = 0) const { return positions_[static_cast<size_t>(slot)]; }
  void set_position(int64_t slot, int64_t position) {
    positions_[static_cast<size_t>(slot)] = position;
  }
  const std::vector<LayerState>& layers() const { return layers_; }
  LayerState& layer(int64_t i) { return layers_[static_cast<size_t>(i)]; }
  int64_t bytes_per_slot() const;     // of what has a constant size
  int64_t bytes(int64_t slot) const;  // of all that the slot remembers
  int64_t bytes_per_token() const;    // by which a slot grows; 0: it does not

  State fork() const;  // every slot
  State fork(
      const std::vector<int64_t>& slots) const;  // these slots, in this order; repeats allowed
  void reset();                                  // zeros, position 0

  bool same_bits(const State& other) const;  // host devices; shapes, values and positions

 private:
  Device* device_;
  std::vector<LayerState> layers_;
  std::vector<int64_t> positions_;  // tokens taken so far, by slot
};

}  // namespace elapse
