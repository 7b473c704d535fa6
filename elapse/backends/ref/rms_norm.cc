// SPDX-License-Identifier: Apache-2.0
#include "elapse/ops/rms_norm.h"

#include "elapse/backends/ref/kernels.h"
#include "elapse/backends/ref/math.h"

namespace elapse::ref {
namespace {

template <class T>
void rms_norm_forward(Device&, const RmsNormForward& a) {
  const Matrix<T> x(a.x), y(a.y), sum(a.residual ? a.sum : a.x);
  const T* weight = a.weight.data<T>();
  const TapAt<T> tap(a.scale_tap);
  const int64_t d_model = a.x.dim(1);
  for (int64_t t = 0; t < a.x.dim(0); ++t) {
    double squares = 0;
    for (int64_t j = 0; j < d_model; ++j) {
      if (a.residual) sum(t, j) = Matrix<T>(a.residual)(t, j) + x(t, j);
      squares += double(sum(t, j)) * sum(t, j);
    }
    const T rms = static_cast<T>(std::sqrt(squares / static_cast<double>(d_model) + a.eps));
    const T scale = tap(rms, t);
    a.scale.data<T>()[t] = scale;
    for (int64_t j = 0; j < d_model; ++j) y(t, j) = weight[j] * sum(t, j) / scale;
  }
}

// With s the scale y used and r the unedited one (s = r where there is no edit):
//   dsum_j = weight_j dy_j / s + dr sum_j / (d_model r),  dr = slope ds,  ds = -sum_j(weight_j dy_j
//   sum_j) / s^2
template <class T>
void rms_norm_backward(Device&, const RmsNormBackward& a) {
  const Matrix<T> dy(a.dy), sum(a.sum), dsum_total(a.dsum_total);
  const T* weight = a.weight.data<T>();
  const TapAt<T> tap(a.scale_tap);
  const int64_t d_model = a.dy.dim(1);
  for (int64_t t = 0; t < a.dy.dim(0); ++t) {
    const double scale = a.scale.data<T>()[t];
    double squares = 0, projection = 0;
    for (int64_t j = 0; j < d_model; ++j) {
      squares += double(sum(t, j)) * sum(t, j);
      projection += double(dy(t, j)) * weight[j] * sum(t, j);
    }
    const double rms = std::sqrt(squares / static_cast<double>(d_model) + a.eps);
    const double drms = tap.back(static_cast<T>(-projection / (scale * scale)), t);
    for (int64_t j = 0; j < d_model; ++j) {
      const double later = a.dsum ? Matrix<T>(a.dsum)(t, j) : T(0);
      a.dweight.data<T>()[j] += static_cast<T>(dy(t, j) * sum(t, j) / scale);
      dsum_total(t, j) = static_cast<T>(later + dy(t, j) * weight[j] / scale +
                                        drms * sum(t, j) / (static_cast<double>(d_model) * rms));
    }
  }
}

}  // namespace

template <class T>
void add_rms_norm(KernelTable& table) {
  table.set<RmsNormForward>(rms_norm_forward<T>);
  table.set<RmsNormBackward>(rms_norm_backward<T>);
}
template void add_rms_norm<float>(KernelTable&);
template void add_rms_norm<double>(KernelTable&);

}  // namespace elapse::ref
