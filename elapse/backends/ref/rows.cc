// SPDX-License-Identifier: Apache-2.0
#include "elapse/ops/rows.h"

#include <algorithm>

#include "elapse/backends/ref/kernels.h"
#include "elapse/backends/ref/math.h"

namespace elapse::ref {
namespace {

template <class T>
void gather_rows(Device&, const GatherRows& a) {
  const int64_t* index = a.index.data<int64_t>();
  const Matrix<T> table(a.table), out(a.out);
  for (int64_t i = 0; i < a.out.dim(0); ++i) {
    std::copy_n(table.row(index[i]), a.out.dim(1), out.row(i));
  }
}

template <class T>
void scatter_add_rows(Device&, const ScatterAddRows& a) {
  const int64_t* index = a.index.data<int64_t>();
  const Matrix<T> dout(a.dout), dtable(a.dtable);
  for (int64_t i = 0; i < a.dout.dim(0); ++i) {
    for (int64_t j = 0; j < a.dout.dim(1); ++j) dtable(index[i], j) += dout(i, j);
  }
}

}  // namespace

template <class T>
void add_rows(KernelTable& table) {
  table.set<GatherRows>(gather_rows<T>);
  table.set<ScatterAddRows>(scatter_add_rows<T>);
}
template void add_rows<float>(KernelTable&);
template void add_rows<double>(KernelTable&);

}  // namespace elapse::ref
