// SPDX-License-Identifier: Apache-2.0
#include "elapse/ops/layer_norm.h"

#include "elapse/backends/ref/kernels.h"
#include "elapse/backends/ref/math.h"

namespace elapse::ref {
namespace {

// sqrt(mean((v - mean)^2) + eps) of a row
template <class T>
double deviation(const T* v, double mean, int64_t d_model, double eps) {
  double squares = 0;
  for (int64_t j = 0; j < d_model; ++j) squares += (v[j] - mean) * (v[j] - mean);
  return std::sqrt(squares / static_cast<double>(d_model) + eps);
}

template <class T>
void layer_norm_forward(Device&, const LayerNormForward& a) {
  const Matrix<T> x(a.x), y(a.y), sum(a.residual ? a.sum : a.x);
  const T *weight = a.weight.data<T>(), *bias = a.bias.data<T>();
  const TapAt<T> tap(a.scale_tap);
  const int64_t d_model = a.x.dim(1);
  for (int64_t t = 0; t < a.x.dim(0); ++t) {
    double total = 0;
    for (int64_t j = 0; j < d_model; ++j) {
      if (a.residual) sum(t, j) = Matrix<T>(a.residual)(t, j) + x(t, j);
      total += sum(t, j);
    }
    const T mean = static_cast<T>(total / static_cast<double>(d_model));
    const T scale = tap(static_cast<T>(deviation(sum.row(t), mean, d_model, a.eps)), t);
    a.mean.data<T>()[t] = mean;
    a.scale.data<T>()[t] = scale;
    for (int64_t j = 0; j < d_model; ++j) {
      y(t, j) = weight[j] * (sum(t, j) - mean) / scale + bias[j];
    }
  }
}

// With c = sum - mean, g = weight dy, s the scale y used and r the unedited one (s = r where there
// is no edit):
//   dsum_j = (g_j - mean(g)) / s + dr c_j / (d_model r),  dr = slope ds,  ds = -sum_j(g_j c_j) /
//   s^2
template <class T>
void layer_norm_backward(Device&, const LayerNormBackward& a) {
  const Matrix<T> dy(a.dy), sum(a.sum), dsum_total(a.dsum_total);
  const T* weight = a.weight.data<T>();
  const TapAt<T> tap(a.scale_tap);
  const int64_t d_model = a.dy.dim(1);
  const auto width = static_cast<double>(d_model);
  for (int64_t t = 0; t < a.dy.dim(0); ++t) {
    const double mean = a.mean.data<T>()[t], scale = a.scale.data<T>()[t];
    double total = 0, projection = 0;
    for (int64_t j = 0; j < d_model; ++j) {
      const double g = double(weight[j]) * dy(t, j);
      total += g;
      projection += g * (sum(t, j) - mean);
    }
    const double unedited = deviation(sum.row(t), mean, d_model, a.eps);
    const double dscale = tap.back(static_cast<T>(-projection / (scale * scale)), t);
    for (int64_t j = 0; j < d_model; ++j) {
      const double later = a.dsum ? Matrix<T>(a.dsum)(t, j) : T(0);
      const double centered = sum(t, j) - mean, g = double(weight[j]) * dy(t, j);
      a.dweight.data<T>()[j] += static_cast<T>(dy(t, j) * centered / scale);
      a.dbias.data<T>()[j] += dy(t, j);
      dsum_total(t, j) = static_cast<T>(later + (g - total / width) / scale +
                                        dscale * centered / (width * unedited));
    }
  }
}

}  // namespace

template <class T>
void add_layer_norm(KernelTable& table) {
  table.set<LayerNormForward>(layer_norm_forward<T>);
  table.set<LayerNormBackward>(layer_norm_backward<T>);
}
template void add_layer_norm<float>(KernelTable&);
template void add_layer_norm<double>(KernelTable&);

}  // namespace elapse::ref
