// SPDX-License-Identifier: Apache-2.0
#include "elapse/ops/rows.h"

#include <cmath>

#include "elapse/backends/ref/kernels.h"
#include "elapse/backends/ref/math.h"
#include "elapse/core/convert.h"

namespace elapse::ref {
namespace {

template <class T>
void gather_rows(Device&, const GatherRows& a) {
  const int64_t* index = a.index.data<int64_t>();
  const Matrix<T> out(a.out);
  for (int64_t i = 0; i < a.out.dim(0); ++i) {
    const Tensor from = a.table.rows(index[i], index[i] + 1);
    convert_elements(from.dtype(), from.raw(), dtype_of<T>(), out.row(i), a.out.dim(1));
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

template <class T>
void likeliest(Device&, const Likeliest& a) {
  const Matrix<T> logits(a.logits);
  for (int64_t i = 0; i < a.logits.dim(0); ++i) {
    int64_t best = -1;
    for (int64_t j = 0; j < a.logits.dim(1); ++j) {
      const T v = logits(i, j);
      if (std::isnan(v) || (std::isinf(v) && v > 0)) {
        best = -1;
        break;
      }
      if (!std::isinf(v) && (best < 0 || v > logits(i, best))) best = j;
    }
    a.index.data<int64_t>()[i] = best;
  }
}

}  // namespace

template <class T>
void add_rows(KernelTable& table) {
  table.set<GatherRows>(gather_rows<T>);
  table.set<ScatterAddRows>(scatter_add_rows<T>);
  table.set<Likeliest>(likeliest<T>);
}
template void add_rows<float>(KernelTable&);
template void add_rows<double>(KernelTable&);

}  // namespace elapse::ref
