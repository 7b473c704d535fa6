// SPDX-License-Identifier: Apache-2.0
// All tensors of a call are cut into pieces of at most kBlockElements that threads take in any
// order; AdamW reads four and writes three floats an element, once.
#include <cmath>
#include <numeric>
#include <vector>

#include "elapse/backends/cpu/blocks.h"
#include "elapse/backends/cpu/kernels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "elapse/backends/cpu/optimizer.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "elapse/backends/cpu/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace elapse::cpu::HWY_NAMESPACE {
namespace {

double SumOfSquaresOf(const float* x, int64_t n) {
  const hn::ScalableTag<double> dd;
  const hn::Rebind<float, decltype(dd)> d;
  auto sum = hn::Zero(dd);
  ForLanes(d, n, [&](int64_t i, auto lanes) HWY_ATTR {
    const auto v = hn::PromoteTo(dd, lanes.load(x + i));
    sum = hn::MulAdd(v, v, sum);
  });
  return hn::GetLane(hn::SumOfLanes(dd, sum));
}

// What one call of AdamW multiplies by, rounded to float once.
struct AdamWFactors {
  float clip;   // of the gradient
  float decay;  // of the parameter
  float beta1, one_minus_beta1;
  float beta2, one_minus_beta2;
  float inverse_root_correction2;  // 1 / sqrt(1 - beta2^step)
  float eps;
  float step_size;  // lr / (1 - beta1^step)
};

double ClipFactor(const AdamW& args) {
  if (!args.norm_squared) return 1;
  const double norm = std::sqrt(args.norm_squared.data<double>()[0]);
  return std::min(1.0, args.max_norm / (norm + 1e-6));
}

AdamWFactors FactorsOf(const AdamW& args, bool decay) {
  const auto step = static_cast<double>(args.step);
  return {
      .clip = static_cast<float>(ClipFactor(args)),
      .decay = static_cast<float>(decay ? 1 - args.lr * args.weight_decay : 1),
      .beta1 = static_cast<float>(args.beta1),
      .one_minus_beta1 = static_cast<float>(1 - args.beta1),
      .beta2 = static_cast<float>(args.beta2),
      .one_minus_beta2 = static_cast<float>(1 - args.beta2),
      .inverse_root_correction2 = static_cast<float>(1 / std::sqrt(1 - std::pow(args.beta2, step))),
      .eps = static_cast<float>(args.eps),
      .step_size = static_cast<float>(args.lr / (1 - std::pow(args.beta1, step))),
  };
}

// Elements [begin, end) of one tensor.
void Update(const AdamW& args, const AdamWTensor& t, int64_t begin, int64_t end) {
  const AdamWFactors f = FactorsOf(args, t.decay);
  const hn::ScalableTag<float> d;
  float* param = t.param.data<float>() + begin;
  const float* grad = t.grad.data<float>() + begin;
  float* m = t.m.data<float>() + begin;
  float* v = t.v.data<float>() + begin;
  ForLanes(d, end - begin, [&](int64_t i, auto lanes) HWY_ATTR {
    const auto g = hn::Mul(lanes.load(grad + i), hn::Set(d, f.clip));
    const auto new_m = hn::MulAdd(lanes.load(m + i), hn::Set(d, f.beta1),
                                  hn::Mul(g, hn::Set(d, f.one_minus_beta1)));
    const auto new_v = hn::MulAdd(lanes.load(v + i), hn::Set(d, f.beta2),
                                  hn::Mul(hn::Mul(g, g), hn::Set(d, f.one_minus_beta2)));
    lanes.store(new_m, m + i);
    lanes.store(new_v, v + i);
    const auto denominator =
        hn::MulAdd(hn::Sqrt(new_v), hn::Set(d, f.inverse_root_correction2), hn::Set(d, f.eps));
    const auto step = hn::Div(hn::Mul(new_m, hn::Set(d, f.step_size)), denominator);
    lanes.store(hn::MulSub(lanes.load(param + i), hn::Set(d, f.decay), step), param + i);
  });
}

}  // namespace
}  // namespace elapse::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace elapse::cpu {
namespace {

HWY_EXPORT(SumOfSquaresOf);
HWY_EXPORT(Update);

// Elements [begin, end) of a call's tensor number `tensor`.
struct Piece {
  size_t tensor;
  int64_t begin;
  int64_t end;
};

// `numel(i)` is the size of tensor i of `count`.
template <class Numel>
std::vector<Piece> cut(size_t count, Numel&& numel) {
  std::vector<Piece> pieces;
  for (size_t i = 0; i < count; ++i) {
    const int64_t n = numel(i);
    for (int64_t begin = 0; begin < n; begin += kBlockElements) {
      pieces.push_back({i, begin, std::min(n, begin + kBlockElements)});
    }
  }
  return pieces;
}

// One thread for what is small in all, however many tensors it lies in.
int threads_for(const Device& device, const std::vector<Piece>& pieces) {
  int64_t elements = 0;
  for (const Piece& piece : pieces) elements += piece.end - piece.begin;
  return elements <= kBlockElements ? 1 : device.threads();
}

}  // namespace

void sum_of_squares(Device& device, const SumOfSquares& args) {
  const std::vector<Piece> pieces =
      cut(args.tensors.size(), [&](size_t i) { return args.tensors[i].numel(); });
  std::vector<double> sums(pieces.size());
  parallel_for(static_cast<int64_t>(pieces.size()), threads_for(device, pieces), [&](int64_t p) {
    const Piece& piece = pieces[static_cast<size_t>(p)];
    const float* x = args.tensors[piece.tensor].data<float>() + piece.begin;
    sums[static_cast<size_t>(p)] = HWY_DYNAMIC_DISPATCH(SumOfSquaresOf)(x, piece.end - piece.begin);
  });
  args.out.data<double>()[0] = std::accumulate(sums.begin(), sums.end(), 0.0);
}

void adamw(Device& device, const AdamW& args) {
  const std::vector<Piece> pieces =
      cut(args.tensors.size(), [&](size_t i) { return args.tensors[i].param.numel(); });
  parallel_for(static_cast<int64_t>(pieces.size()), threads_for(device, pieces), [&](int64_t p) {
    const Piece& piece = pieces[static_cast<size_t>(p)];
    HWY_DYNAMIC_DISPATCH(Update)(args, args.tensors[piece.tensor], piece.begin, piece.end);
  });
}

}  // namespace elapse::cpu
#endif  // HWY_ONCE
