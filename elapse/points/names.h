// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace elapse {

// A point's own name, from that or from the name other tools use for the value (MambaLens and
// TransformerLens, "blocks.3.hook_ssm_input"; the table stands in docs/points.md). Names that are
// neither are returned as they are, for the model to refuse.
struct PointName {
  std::string name;
  std::optional<int64_t> position = {};  // of "blocks.3.hook_h.7": that of one token alone
};
PointName canonical_point(std::string_view name);

// Another name of a point: both of the model as a whole, or below a layer.
struct PointAlias {
  std::string alias, name;
  bool of_layer;
};
std::vector<PointAlias> point_aliases();

}  // namespace elapse
