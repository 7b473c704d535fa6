// SPDX-License-Identifier: Apache-2.0
#include <cstring>

#include "elapse/backends/cpu/blocks.h"
#include "elapse/backends/cpu/kernels.h"
#include "elapse/core/convert.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "elapse/backends/cpu/rows.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "elapse/backends/cpu/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace elapse::cpu::HWY_NAMESPACE {
namespace {

// Columns [begin, end) of every row, in the order of the index.
void ScatterAddColumns(const ScatterAddRows& args, int64_t begin, int64_t end) {
  const hn::ScalableTag<float> d;
  const int64_t* index = args.index.data<int64_t>();
  for (int64_t i = 0; i < args.index.numel(); ++i) {
    float* to = row(args.dtable, index[i]) + begin;
    const float* from = row(args.dout, i) + begin;
    ForLanes(d, end - begin, [&](int64_t c, auto lanes) HWY_ATTR {
      lanes.store(hn::Add(lanes.load(to + c), lanes.load(from + c)), to + c);
    });
  }
}

}  // namespace
}  // namespace elapse::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace elapse::cpu {
namespace {
HWY_EXPORT(ScatterAddColumns);
}

void gather_rows(Device& device, const GatherRows& args) {
  const int64_t width = args.table.dim(1);
  const int64_t* index = args.index.data<int64_t>();
  for_each_block(
      device, args.index.numel(), rows_per_block(width), [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          const Tensor from = args.table.rows(index[i], index[i] + 1);
          convert_elements(from.dtype(), from.raw(), DType::f32, row(args.out, i), width);
        }
      });
}

// Threads share the columns, so that the additions to one element keep the order of the index.
void scatter_add_rows(Device& device, const ScatterAddRows& args) {
  constexpr int64_t kLeastColumns = 32;  // two cache lines
  const int64_t width = args.dtable.dim(1);
  const int64_t columns = std::max(kLeastColumns, rows_per_block(args.index.numel()));
  for_each_block(device, width, columns, [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(ScatterAddColumns)(args, begin, end);
  });
}

}  // namespace elapse::cpu
#endif  // HWY_ONCE
