// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <string>
#include <vector>

#include "elapse/mixers/state.h"
#include "elapse/ops/device.h"

namespace elapse {

// One element of a part of a layer's memory.
struct StateEntry {
  int64_t channel;
  int64_t column;  // of "h" the state; of "conv" the place in the window, 0 is the oldest; of
                   // "cell" 0: h, 1: c
  double first, second;
};

// How one part of a layer's memory differs between two states of one sequence each.
struct StateDifference {
  int64_t layer;
  std::string part;                 // "h", "conv"; "cell"
  double norm;                      // of the first
  double second_norm;               // of the second
  double difference;                // norm of the second minus the first
  std::vector<StateEntry> largest;  // where they differ most, the largest difference first
};
// With at most `entries` of each part. Throws Error where the two are not of one model's shapes, or
// of more than one sequence.
std::vector<StateDifference> difference(Device& device, const State& a, const State& b,
                                        int64_t entries = 1);

// a + share (b - a), element by element, at a's position.
State interpolate(Device& device, const State& a, const State& b, double share);

// Puts a part ("h", "conv", "cell"; empty: all of them) of these layers from one state into
// another. With `channels`, only [begin, end) of the axis that has d_inner.
struct Transplant {
  std::vector<int64_t> layers;
  std::string part = {};
  int64_t channel_begin = 0, channel_end = -1;  // -1: all
};
void transplant(Device& device, const State& from, State& into, const Transplant& what);

}  // namespace elapse
