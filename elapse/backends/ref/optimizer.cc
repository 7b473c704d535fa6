// SPDX-License-Identifier: Apache-2.0
#include "elapse/ops/optimizer.h"

#include <algorithm>

#include "elapse/backends/ref/kernels.h"
#include "elapse/backends/ref/math.h"

namespace elapse::ref {
namespace {

template <class T>
void sum_of_squares(Device&, const SumOfSquares& a) {
  double sum = 0;
  for (const Tensor& t : a.tensors) {
    for (int64_t i = 0; i < t.numel(); ++i) sum += double(t.data<T>()[i]) * t.data<T>()[i];
  }
  a.out.data<double>()[0] = sum;
}

double clip_factor(const AdamW& a) {
  if (!a.norm_squared) return 1;
  return std::min(1.0, a.max_norm / (std::sqrt(a.norm_squared.data<double>()[0]) + 1e-6));
}

template <class T>
void update(const AdamW& a, const AdamWTensor& t, double clip) {
  const double decay = t.decay ? 1 - a.lr * a.weight_decay : 1;
  const double correction1 = 1 - std::pow(a.beta1, static_cast<double>(a.step));
  const double correction2 = 1 - std::pow(a.beta2, static_cast<double>(a.step));
  for (int64_t i = 0; i < t.param.numel(); ++i) {
    T& param = t.param.data<T>()[i];
    T& m = t.m.data<T>()[i];
    T& v = t.v.data<T>()[i];
    const double g = clip * t.grad.data<T>()[i];
    m = static_cast<T>(a.beta1 * m + (1 - a.beta1) * g);
    v = static_cast<T>(a.beta2 * v + (1 - a.beta2) * g * g);
    const double denominator = std::sqrt(v / correction2) + a.eps;
    param = static_cast<T>(decay * param - a.lr / correction1 * m / denominator);
  }
}

template <class T>
void adamw(Device&, const AdamW& a) {
  for (const AdamWTensor& t : a.tensors) update<T>(a, t, clip_factor(a));
}

}  // namespace

template <class T>
void add_optimizer(KernelTable& table) {
  table.set<SumOfSquares>(sum_of_squares<T>);
  table.set<AdamW>(adamw<T>);
}
template void add_optimizer<float>(KernelTable&);
template void add_optimizer<double>(KernelTable&);

}  // namespace elapse::ref
