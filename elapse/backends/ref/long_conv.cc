// SPDX-License-Identifier: Apache-2.0
#include "elapse/ops/long_conv.h"

#include <vector>

#include "elapse/backends/ref/kernels.h"
#include "elapse/backends/ref/math.h"

namespace elapse::ref {
namespace {

// Calls visit(t, j) for each token t and each lag j that stays within its sequence and the filter.
template <class Visit>
void for_each_lag(const Sequences& seqs, int64_t filter_len, Visit&& visit) {
  const int64_t* cu = seqs.cu_seqlens.data<int64_t>();
  for (int64_t s = 0; s < seqs.count(); ++s) {
    for (int64_t t = cu[s]; t < cu[s + 1]; ++t) {
      for (int64_t j = 0; j < filter_len && t - j >= cu[s]; ++j) visit(t, j);
    }
  }
}

template <class T>
void long_conv_forward(Device&, const LongConvForward& args) {
  const int64_t filter_len = args.K.dim(1);
  for (int64_t e = 0; e < args.K.dim(0); ++e) {
    const T* K = args.K.data<T>() + e * filter_len;
    std::vector<double> y(static_cast<size_t>(args.seqs.tokens));
    for_each_lag(args.seqs, filter_len, [&](int64_t t, int64_t j) {
      y[static_cast<size_t>(t)] += double(K[j]) * Matrix<T>(args.x)(t - j, e);
    });
    for (int64_t t = 0; t < args.seqs.tokens; ++t) {
      Matrix<T>(args.y)(t, e) = static_cast<T>(y[static_cast<size_t>(t)]);
    }
  }
}

template <class T>
void long_conv_backward(Device&, const LongConvBackward& args) {
  const int64_t filter_len = args.K.dim(1);
  for (int64_t e = 0; e < args.K.dim(0); ++e) {
    const T* K = args.K.data<T>() + e * filter_len;
    std::vector<double> dx(static_cast<size_t>(args.seqs.tokens));
    std::vector<double> dK(static_cast<size_t>(filter_len));
    for_each_lag(args.seqs, filter_len, [&](int64_t t, int64_t j) {
      const double dy = Matrix<T>(args.dy)(t, e);
      dx[static_cast<size_t>(t - j)] += dy * K[j];
      dK[static_cast<size_t>(j)] += dy * Matrix<T>(args.x)(t - j, e);
    });
    for (int64_t t = 0; t < args.seqs.tokens; ++t) {
      Matrix<T>(args.dx)(t, e) = static_cast<T>(dx[static_cast<size_t>(t)]);
    }
    for (int64_t j = 0; j < filter_len; ++j) {
      args.dK.data<T>()[e * filter_len + j] += static_cast<T>(dK[static_cast<size_t>(j)]);
    }
  }
}

}  // namespace

template <class T>
void add_long_conv(KernelTable& table) {
  table.set<LongConvForward>(long_conv_forward<T>);
  table.set<LongConvBackward>(long_conv_backward<T>);
}
template void add_long_conv<float>(KernelTable&);
template void add_long_conv<double>(KernelTable&);

}  // namespace elapse::ref
