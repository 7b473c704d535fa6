// SPDX-License-Identifier: Apache-2.0
#pragma once
#include <string>
#include <vector>

#include "elapse/points/part.h"

namespace elapse {

// An edit of a point as one pass meets it.
struct PointChange {
  PointPart part;
  EditOp op;
  Tensor source;
};

// The edits of a point, whose value has this dtype and shape, as kernels take them. Edits of the
// same kind and of other rows, of which a sweep over variants has hundreds, become one, so that a
// kernel looks at each element once. Throws Error, naming the point, for a source that does not
// fit.
std::vector<TapEdit> merged_edits(Device& device, const std::string& name,
                                  const std::vector<PointChange>& changes, DType dtype,
                                  const Shape& shape);

}  // namespace elapse
