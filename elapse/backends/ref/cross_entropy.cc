// SPDX-License-Identifier: Apache-2.0
#include "elapse/ops/cross_entropy.h"

#include <algorithm>

#include "elapse/backends/ref/kernels.h"
#include "elapse/backends/ref/math.h"

namespace elapse::ref {
namespace {

int64_t unmasked(const Tensor& targets) {
  const int64_t* target = targets.data<int64_t>();
  return targets.numel() - std::count(target, target + targets.numel(), kIgnoredTarget);
}

template <class T>
double logsumexp(const T* row, int64_t vocab) {
  const double largest = *std::max_element(row, row + vocab);
  double sum = 0;
  for (int64_t v = 0; v < vocab; ++v) sum += std::exp(row[v] - largest);
  return largest + std::log(sum);
}

template <class T>
void cross_entropy_forward(Device&, const CrossEntropyForward& a) {
  const Matrix<T> logits(a.logits);
  double total = 0;
  for (int64_t t = 0; t < a.logits.dim(0); ++t) {
    const int64_t target = a.targets.data<int64_t>()[t];
    const double lse = logsumexp(logits.row(t), a.logits.dim(1));
    a.logsumexp.data<T>()[t] = static_cast<T>(lse);
    if (target != kIgnoredTarget) total += lse - logits(t, target);
  }
  const int64_t count = unmasked(a.targets);
  a.loss.data<T>()[0] = static_cast<T>(count == 0 ? 0 : total / static_cast<double>(count));
}

template <class T>
void cross_entropy_backward(Device&, const CrossEntropyBackward& a) {
  const Matrix<T> logits(a.logits), dlogits(a.dlogits);
  const auto count = static_cast<double>(std::max<int64_t>(1, unmasked(a.targets)));
  const double dloss = a.dloss.data<T>()[0] / count;
  for (int64_t t = 0; t < a.logits.dim(0); ++t) {
    const int64_t target = a.targets.data<int64_t>()[t];
    const double lse = a.logsumexp.data<T>()[t];
    for (int64_t v = 0; v < a.logits.dim(1); ++v) {
      const double probability = std::exp(logits(t, v) - lse);
      const double slope = target == kIgnoredTarget ? 0 : probability - (v == target ? 1 : 0);
      dlogits(t, v) = static_cast<T>(dloss * slope);
    }
  }
}

}  // namespace

template <class T>
void add_cross_entropy(KernelTable& table) {
  table.set<CrossEntropyForward>(cross_entropy_forward<T>);
  table.set<CrossEntropyBackward>(cross_entropy_backward<T>);
}
template void add_cross_entropy<float>(KernelTable&);
template void add_cross_entropy<double>(KernelTable&);

}  // namespace elapse::ref
