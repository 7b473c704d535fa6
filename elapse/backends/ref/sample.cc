// SPDX-License-Identifier: Apache-2.0
#include "elapse/ops/sample.h"

#include "elapse/backends/ref/kernels.h"
#include "elapse/ops/rows.h"

namespace elapse::ref {
namespace {

template <class T>
void sample(Device& device, const Sample& a) {
  const int64_t rows = a.logits.dim(0), classes = a.logits.dim(1);
  int64_t* index = a.index.data<int64_t>();
  likeliest(device, {a.logits, a.index});
  for (int64_t r = 0; r < rows; ++r) {
    if (index[r] < 0) continue;
    const T* row = a.logits.data<T>() + (rows > 1 ? r * a.logits.stride(0) : 0);
    const std::vector<double> logits(row, row + classes);
    index[r] = draw(candidates(logits, index[r], a.how), a.uniform.data<double>()[r]);
  }
}

}  // namespace

template <class T>
void add_sample(KernelTable& table) {
  table.set<Sample>(sample<T>);
}
template void add_sample<float>(KernelTable&);
template void add_sample<double>(KernelTable&);

}  // namespace elapse::ref
