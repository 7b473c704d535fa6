// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "elapse/core/shape.h"
#include "elapse/points/selection.h"

namespace elapse {

// An edit of values inside a model as a file states it. What it takes from other runs is found when
// it is planned for prompts (elapse/interpret/edit_plan.h).
struct EditSpec {
  enum class Op : uint8_t { set, add, scale, zero, project_out, mean, resample, swap };
  // A number, from the end where negative, or a prompt's name for one.
  using Place = std::variant<int64_t, std::string>;

  std::string where;  // what opens an error's sentence: `edits.json: field "[2]"`
  std::string point;  // a pattern (matching_points in elapse/interpret/cache.h)
  Op op = Op::zero;
  std::vector<int64_t> prompts = {};  // by their number; empty: all
  std::vector<Place> positions = {};  // empty: all
  IndexRange channels = {}, states = {};
  // Of set, add, scale and project_out: a number, a row of the selected channels, or a row of rows
  // of states.
  std::vector<double> value = {};
  Shape value_shape = {};  // (1), (1, channels) or (1, channels, states)
  std::string cache = {};  // of swap: the file
  uint64_t seed = 0;       // of resample
};

// A JSON list of objects such as
//   {"point": "layers.*.mixer.out", "op": "mean", "positions": ["S2", -1]}
//   {"point": "layers.3.mixer.h", "op": "add", "value": 0.5, "channels": [0, 8], "states": [2, 3],
//    "prompts": [0]}
//   {"point": "layers.3.mixer.x", "op": "swap-from-cache", "cache": "other.safetensors"}
// Channels and states are half-open. Throws Error naming the field, for those it does not know too.
std::vector<EditSpec> parse_edits(std::string_view json, const std::string& name);

std::string_view name_of(EditSpec::Op op);  // "project-out"

}  // namespace elapse
