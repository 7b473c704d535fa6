// SPDX-License-Identifier: Apache-2.0
#include "elapse/data/token_source.h"

#include <algorithm>

namespace elapse {

int64_t TokenBatch::counted_targets() const {
  const auto masked = std::count(targets.begin(), targets.end(), kMaskedTarget);
  return static_cast<int64_t>(targets.size()) - masked;
}

}  // namespace elapse
