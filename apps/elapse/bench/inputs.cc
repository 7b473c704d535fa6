// SPDX-License-Identifier: Apache-2.0
#include "apps/elapse/bench/inputs.h"

#include <algorithm>

#include "elapse/core/random.h"

namespace elapse::bench {

Tensor uniform(Device& device, Shape shape, double lo, double hi) {
  constexpr size_t kDrawn = 65521;  // a prime, so that rows do not repeat at powers of two
  std::vector<float> values(static_cast<size_t>(shape.numel()));
  const size_t drawn = std::min(kDrawn, values.size());
  Random random(1);
  for (size_t i = 0; i < drawn; ++i) values[i] = static_cast<float>(random.uniform(lo, hi));
  for (size_t i = drawn; i < values.size(); ++i) values[i] = values[i - drawn];
  return device.upload(values, shape);
}

}  // namespace elapse::bench
