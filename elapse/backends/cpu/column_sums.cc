// SPDX-License-Identifier: Apache-2.0
#include "elapse/backends/cpu/column_sums.h"

#include "elapse/backends/cpu/blocks.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "elapse/backends/cpu/column_sums.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "elapse/backends/cpu/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace elapse::cpu::HWY_NAMESPACE {
namespace {

void AddColumns(const Tensor& matrix, int64_t begin, int64_t end, float* out) {
  AddColumnSums(hn::ScalableTag<float>(), matrix.data<float>() + begin, matrix.dim(0),
                matrix.stride(0), end - begin, out + begin);
}

}  // namespace
}  // namespace elapse::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace elapse::cpu {
namespace {
HWY_EXPORT(AddColumns);
}

void add_column_sums(Device& device, const Tensor& matrix, float* out) {
  constexpr int64_t kLeastColumns = 32;  // two cache lines
  const int64_t columns = std::max(kLeastColumns, rows_per_block(matrix.dim(0)));
  for_each_block(device, matrix.dim(1), columns, [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(AddColumns)(matrix, begin, end, out);
  });
}

}  // namespace elapse::cpu
#endif  // HWY_ONCE
