// SPDX-License-Identifier: Apache-2.0
#include "elapse/ops/linear.h"

#include "elapse/backends/ref/kernels.h"
#include "elapse/backends/ref/math.h"
#include "elapse/backends/ref/widened.h"

namespace elapse::ref {
namespace {

template <class T>
void linear_forward(Device& device, const LinearForward& a) {
  const Tensor wide = widened<T>(device, a.weight);
  const Matrix<T> x(a.x), weight(wide), y(a.y);
  for (int64_t r = 0; r < a.y.dim(0); ++r) {
    for (int64_t o = 0; o < a.y.dim(1); ++o) {
      double sum = a.bias ? static_cast<double>(a.bias.data<T>()[o]) : 0;
      for (int64_t i = 0; i < a.x.dim(1); ++i) sum += double(x(r, i)) * weight(o, i);
      y(r, o) = static_cast<T>(sum);
    }
  }
}

template <class T>
void linear_backward_input(Device& device, const LinearBackwardInput& a) {
  const Tensor wide = widened<T>(device, a.weight);
  const Matrix<T> dy(a.dy), weight(wide), dx(a.dx);
  for (int64_t r = 0; r < a.dx.dim(0); ++r) {
    for (int64_t i = 0; i < a.dx.dim(1); ++i) {
      double sum = 0;
      for (int64_t o = 0; o < a.dy.dim(1); ++o) sum += double(dy(r, o)) * weight(o, i);
      dx(r, i) = static_cast<T>(a.adds ? dx(r, i) + sum : sum);
    }
  }
}

template <class T>
void linear_backward_weight(Device&, const LinearBackwardWeight& a) {
  const Matrix<T> dy(a.dy), x(a.x), dweight(a.dweight);
  for (int64_t o = 0; o < a.dy.dim(1); ++o) {
    for (int64_t i = 0; i < a.x.dim(1); ++i) {
      double sum = 0;
      for (int64_t r = 0; r < a.dy.dim(0); ++r) sum += double(dy(r, o)) * x(r, i);
      dweight(o, i) += static_cast<T>(sum);
    }
    if (!a.dbias) continue;
    double sum = 0;
    for (int64_t r = 0; r < a.dy.dim(0); ++r) sum += dy(r, o);
    a.dbias.data<T>()[o] += static_cast<T>(sum);
  }
}

}  // namespace

template <class T>
void add_linear(KernelTable& table) {
  table.set<LinearForward>(linear_forward<T>);
  table.set<LinearBackwardInput>(linear_backward_input<T>);
  table.set<LinearBackwardWeight>(linear_backward_weight<T>);
}
template void add_linear<float>(KernelTable&);
template void add_linear<double>(KernelTable&);

}  // namespace elapse::ref
