// SPDX-License-Identifier: Apache-2.0
#include "elapse/ops/gated_rms_norm.h"

#include <vector>

#include "elapse/backends/ref/kernels.h"
#include "elapse/backends/ref/math.h"

namespace elapse::ref {
namespace {

// One group of one row: columns [begin, begin + width).
template <class T>
struct GroupRow {
  std::vector<T> gate, gated;
  double rms;  // before any edit

  GroupRow(const GatedRmsNormInputs& in, int64_t t, int64_t begin, int64_t width)
      : gate(size_t(width)), gated(size_t(width)) {
    const TapAt<T> gate_tap(in.gate_tap), gated_tap(in.gated_tap);
    double squares = 0;
    for (int64_t i = 0; i < width; ++i) {
      const int64_t j = begin + i, tj = t * in.x.dim(1) + j;
      const auto u = static_cast<size_t>(i);
      gate[u] = gate_tap(silu(Matrix<T>(in.z)(t, j)), tj);
      gated[u] = gated_tap(Matrix<T>(in.x)(t, j) * gate[u], tj);
      squares += double(gated[u]) * gated[u];
    }
    rms = std::sqrt(squares / static_cast<double>(width) + in.eps);
  }
};

template <class T>
void forward(Device&, const GatedRmsNormForward& a) {
  const GatedRmsNormInputs& in = a.in;
  const int64_t width = in.x.dim(1) / in.n_groups;
  const TapAt<T> scale_tap(in.scale_tap);
  for (int64_t i = 0; i < in.x.dim(0) * in.n_groups; ++i) {
    const int64_t t = i / in.n_groups, begin = i % in.n_groups * width;
    const GroupRow<T> row(in, t, begin, width);
    const T scale = a.scale.data<T>()[i] = scale_tap(static_cast<T>(row.rms), i);
    for (int64_t j = 0; j < width; ++j) {
      Matrix<T>(a.y)(t, begin + j) =
          in.weight.data<T>()[begin + j] * row.gated[static_cast<size_t>(j)] / scale;
    }
  }
}

// As RMSNorm's gradient, with dsum the gradient of `gated`.
template <class T>
void backward_group(const GatedRmsNormBackward& a, int64_t t, int64_t group) {
  const GatedRmsNormInputs& in = a.in;
  const int64_t d_inner = in.x.dim(1), width = d_inner / in.n_groups, begin = group * width;
  const TapAt<T> gate_tap(in.gate_tap), gated_tap(in.gated_tap), scale_tap(in.scale_tap);
  const GroupRow<T> row(in, t, begin, width);
  const double scale = a.scale.data<T>()[t * in.n_groups + group];
  const T* weight = in.weight.data<T>() + begin;
  const T* dy = Matrix<T>(a.dy).row(t) + begin;
  double projection = 0;
  for (int64_t i = 0; i < width; ++i) {
    projection += double(dy[i]) * weight[i] * row.gated[static_cast<size_t>(i)];
  }
  const double drms =
      scale_tap.back(static_cast<T>(-projection / (scale * scale)), t * in.n_groups + group);
  for (int64_t i = 0; i < width; ++i) {
    const int64_t j = begin + i, tj = t * d_inner + j;
    const double gated = row.gated[static_cast<size_t>(i)];
    const double through_scale = drms * gated / (static_cast<double>(width) * row.rms);
    const T dgated = gated_tap.back(static_cast<T>(dy[i] * weight[i] / scale + through_scale), tj);
    const T z = Matrix<T>(in.z)(t, j);
    a.dweight.data<T>()[j] += static_cast<T>(dy[i] * gated / scale);
    Matrix<T>(a.dx)(t, j) = dgated * row.gate[static_cast<size_t>(i)];
    Matrix<T>(a.dz)(t, j) = gate_tap.back(dgated * Matrix<T>(in.x)(t, j), tj) * silu_slope(z);
  }
}

template <class T>
void backward(Device&, const GatedRmsNormBackward& a) {
  for (int64_t t = 0; t < a.dy.dim(0); ++t) {
    for (int64_t group = 0; group < a.in.n_groups; ++group) backward_group<T>(a, t, group);
  }
}

}  // namespace

template <class T>
void add_gated_rms_norm(KernelTable& table) {
  table.set<GatedRmsNormForward>(forward<T>);
  table.set<GatedRmsNormBackward>(backward<T>);
}
template void add_gated_rms_norm<float>(KernelTable&);
template void add_gated_rms_norm<double>(KernelTable&);

}  // namespace elapse::ref
