// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <string>
#include <vector>

#include "elapse/mixers/state.h"
#include "elapse/ops/device.h"

namespace elapse {

// How one part of a layer's memory differs between two states of one sequence each.
struct StateDifference {
  int64_t layer;
  std::string part;   // "h", "conv"
  double norm;        // of the first
  double difference;  // norm of the second minus the first
  double largest;     // of its elements' sizes
};
// Throws Error where the two are not of one model's shapes.
std::vector<StateDifference> difference(Device& device, const State& a, const State& b);

// a + share (b - a), element by element, at a's position.
State interpolate(Device& device, const State& a, const State& b, double share);

// Puts a part ("h", "conv"; empty: all of them) of these layers from one state into another. With
// `channels`, only [begin, end) of the axis that has d_inner.
struct Transplant {
  std::vector<int64_t> layers;
  std::string part = {};
  int64_t channel_begin = 0, channel_end = -1;  // -1: all
};
void transplant(Device& device, const State& from, State& into, const Transplant& what);

}  // namespace elapse
