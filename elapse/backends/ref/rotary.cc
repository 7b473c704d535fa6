// SPDX-License-Identifier: Apache-2.0
#include "elapse/ops/rotary.h"

#include <cmath>

#include "elapse/backends/ref/kernels.h"
#include "elapse/backends/ref/math.h"

namespace elapse::ref {
namespace {

template <class T>
void rotary(Device&, const Rotary& args) {
  const auto half = std::ssize(args.frequencies);
  const int64_t* cu = args.seqs.cu_seqlens.data<int64_t>();
  for (int64_t s = 0; s < args.seqs.count(); ++s) {
    for (int64_t t = cu[s]; t < cu[s + 1]; ++t) {
      const auto position = static_cast<double>(args.first_position(s) + t - cu[s]);
      for (int64_t i = 0; i < half; ++i) {
        const auto at = static_cast<size_t>(i);
        const double angle = position * args.frequencies[at];
        const double scale = args.growth.empty() ? 1 : std::exp(position * args.growth[at]);
        const T cosine = static_cast<T>(scale * std::cos(angle));
        const T sine = static_cast<T>(scale * std::sin(angle));
        for (int64_t column = i; column < args.x.dim(1); column += args.head_dim) {
          const T a = Matrix<T>(args.x)(t, column), b = Matrix<T>(args.x)(t, column + half);
          Matrix<T>(args.out)(t, column) = a * cosine - b * sine;
          Matrix<T>(args.out)(t, column + half) = a * sine + b * cosine;
        }
      }
    }
  }
}

}  // namespace

template <class T>
void add_rotary(KernelTable& table) {
  table.set<Rotary>(rotary<T>);
}
template void add_rotary<float>(KernelTable&);
template void add_rotary<double>(KernelTable&);

}  // namespace elapse::ref
